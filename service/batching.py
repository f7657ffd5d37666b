"""Many small concurrent calls -> few large forwards, by token budget.

A few threads share the encoder, each with batches of its own: as many as it can compute at one time, on the CPU one for each
core. There is no timer: a batch is what arrived while the previous ones ran, so an idle service answers at once and a busy one
batches by itself. Which texts go together is said in `service/lanes.py`, what happens to a batch that fails in
`service/encoder_thread.py`. A text whose caller has left is dropped when its batch is formed.

A watchdog replaces a thread that dies or whose forward does not come back.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from models.encoder import Encoder, Tokenized, batches_by_length
from service.admission import Room
from service.encoder_thread import EncoderThread
from service.errors import NotReady, Overloaded
from service.lanes import Lanes
from service.locks import ReadersWriterLock
from service.metrics import Metrics
from service.submissions import Lane, Outcome, Piece, Submission, places_of_equal

__all__ = ["EncodeQueue", "Lane", "Outcome", "Submission"]

MOST_STUCK = 3
"""Forwards that may hang at the same time; then no further thread is started until one of them comes back."""
ALWAYS_BATCHES = 4
"""Full batches' worth of waiting texts that are let in however long they take."""
FEW_TOKENS = 160
"""Where so few padded tokens wait, a thread takes no more than its share of them."""
CLOSE_INTERVAL_S = 0.01
"""Seconds between two looks whether everything is encoded when the queue is closed."""
DROP_INTERVAL_S = 0.05
"""Least seconds between two looks through a full queue for texts whose caller has left."""

log = logging.getLogger(__name__)


class EncodeQueue:
    """The queue in front of one encoder, the threads that empty it, and their watchdog."""

    def __init__(
        self,
        encoder: Encoder,
        max_batch_tokens: int,
        max_queued_texts: int,
        max_queued_tokens: int,
        metrics: Metrics | None = None,
        max_forward_s: float = 120.0,
        max_wait_s: float = math.inf,
    ) -> None:
        """Start as many threads as the encoder can compute forwards at one time.

        ``max_batch_tokens`` padded tokens are in the network at one time at most, each of the threads having its part of them;
        only a text that is longer than a part goes as it is.
        """
        self.encoder = encoder
        self._parts = encoder.concurrency
        self.budget_tokens = max_batch_tokens
        """Padded tokens that are in the network at one time; halved where memory runs out, never below the longest text."""
        self._room = Room(max_queued_texts, max_queued_tokens, max_wait_s, ALWAYS_BATCHES * max_batch_tokens)
        self._metrics = metrics or Metrics()
        self._max_forward_s = max_forward_s
        self._lanes = Lanes(self._room, self._metrics)
        self._dropped_at = 0.0
        self._changed = threading.Condition()
        self._is_open = True
        self.last_success: float | None = None
        """Time (`time.monotonic`) of the last forward that succeeded since a thread was last replaced."""
        self.trouble: str | None = None
        """Why a thread was replaced, until a forward succeeds again."""
        self._forwards = ReadersWriterLock()
        self._threads: list[EncoderThread] = []
        self._stuck: list[EncoderThread] = []
        with self._changed:
            self._start_threads()
        self._is_closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._watchdog.start()

    @property
    def is_alive(self) -> bool:
        """Whether every thread of the encoder runs."""
        return len(self._threads) == self._parts and all(thread.is_alive() for thread in self._threads)

    @property
    def is_beyond_repair(self) -> bool:
        """Whether so many forwards hang that only a new process can help."""
        return len(self._stuck) >= MOST_STUCK

    @property
    def stalled_s(self) -> float:
        """Seconds since the oldest of the forwards that run at present began; 0 where none runs."""
        return max((thread.stalled_s for thread in self._threads), default=0.0)

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward at most: its part of the budget. A text that is longer goes alone."""
        return max(1, self.budget_tokens // self._parts)

    def depth(self) -> dict[Lane, tuple[int, int]]:
        """Return how many texts and tokens wait in each lane."""
        with self._changed:
            return self._lanes.depth()

    def submit(self, texts: Sequence[Tokenized], lane: Lane, is_limited: bool = True) -> "Submission":
        """Queue texts for encoding.

        Jobs wait for their own results before they go on and pass ``is_limited=False``; their texts leave everybody else's room
        in the queue as it is. A queue that is empty takes any number of texts, so that no request is too large for it.

        Raises:
            Overloaded: the queue is full, or interactive texts would wait for more than ``max_wait_s``.
            NotReady: the queue is closed, or the encoder hangs.
        """
        places = places_of_equal(texts)
        batches = batches_by_length([len(texts[same[0]].ids) for same in places], self.batch_tokens)
        groups = [[places[i] for i in batch] for batch in batches]
        pieces = [Piece([texts[same[0]] for same in group], is_limited, lane) for group in groups]
        tokens = sum(piece.tokens for piece in pieces)
        with self._changed:
            if not self._is_open:
                raise NotReady("the service is shutting down")
            if self.is_beyond_repair:
                raise NotReady("the encoder hangs; the service must be started again")
            if is_limited:
                self._admit(lane, len(places), tokens)
            if pieces:
                self._room.pace.begin()
            for piece in pieces:
                self._lanes.add(piece)
            self._changed.notify(len(pieces))
        return Submission(pieces, groups, len(texts), self.encoder.dim)

    def check_room(self) -> None:
        """Raise Overloaded where not even one more interactive text may come in now."""
        with self._changed:
            self._admit("interactive", 1, 1)

    def close(self) -> None:
        """Refuse new texts, encode what is queued, and end the threads."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        while self._has_work():
            time.sleep(CLOSE_INTERVAL_S)
        self._is_closed.set()
        self._watchdog.join()

    def take(self, thread: EncoderThread) -> tuple[Lane, list[Piece]] | None:
        """Wait for the next batch; see `service.encoder_thread.Batches`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or bool(self._lanes) or thread.is_lost)
            if thread.is_lost or not self._lanes:
                return None
            budget, waiting = self.batch_tokens, self._lanes.tokens
            if waiting <= FEW_TOKENS:  # one thread shall not compute for long while the next has nothing to do
                budget = min(budget, -(-waiting // self._parts))
            lane, thread.running = self._lanes.next_batch(budget)
            return lane, thread.running

    def finish(self, thread: EncoderThread, batch: list[Piece]) -> bool:
        """Hear that a batch was answered, and say whether the thread goes on."""
        with self._changed:
            if thread.is_lost:
                return False
            thread.running = []
            self._room.pace.finish(sum(piece.tokens for piece in batch), self._is_idle())
            return True

    def forwards(self, is_alone: bool) -> AbstractContextManager[None]:
        """Let a forward run beside others, or alone."""
        return self._forwards.exclusive() if is_alone else self._forwards.shared()

    def succeeded(self) -> None:
        """Hear that a forward came back with vectors."""
        with self._changed:
            if not self.is_beyond_repair:
                self.last_success, self.trouble = time.monotonic(), None

    def memory_ran_out(self, tokens: int) -> None:
        """Hear that memory did not suffice for a batch of so many padded tokens: later ones are half as large at most."""
        with self._changed:
            half = min(self.batch_tokens, tokens) // 2
            self.budget_tokens = min(self.budget_tokens, max(self._parts * half, self.encoder.max_tokens))
            log.warning("memory ran out with %d tokens: a batch has %d at most now", tokens, self.batch_tokens)

    def _has_work(self) -> bool:
        with self._changed:
            is_running = any(thread.is_alive() for thread in self._threads)
            return not self.is_beyond_repair and (is_running or not self._is_idle())

    def _is_idle(self) -> bool:
        return not self._lanes and not any(thread.running for thread in self._threads)

    def _admit(self, lane: Lane, texts: int, tokens: int) -> None:
        """Let texts in, or raise Overloaded; texts whose caller has left make room."""
        try:
            self._room.check(texts, tokens, self._lanes.ahead(lane))
        except Overloaded:
            if time.monotonic() - self._dropped_at < DROP_INTERVAL_S:
                raise
            self._dropped_at = time.monotonic()
            self._lanes.drop_left()
            self._room.check(texts, tokens, self._lanes.ahead(lane))

    def _watch(self) -> None:
        interval_s = min(0.5, self._max_forward_s / 4)
        while not self._is_closed.wait(interval_s):
            with self._changed:
                self._stuck = [thread for thread in self._stuck if thread.is_alive()]
                for thread in list(self._threads):
                    if not thread.is_alive() and not thread.has_ended:
                        self._replace(thread, "died", "the encoder's thread ended unexpectedly and was started again")
                    elif thread.stalled_s > self._max_forward_s:
                        self._stuck.append(thread)
                        what = f"a forward pass did not come back within {self._max_forward_s:g} s"
                        self._replace(thread, "hung", what)
                self._start_threads()

    def _replace(self, lost: EncoderThread, how: str, what: str) -> None:
        """Give up a thread; what it had is tried again, each piece alone, or answered with an error.

        Texts of a batch that hangs would hang again, so only jobs, which have no caller that waits, try them once more.
        """
        log.critical("%s", what)
        self._metrics.restarted(how)
        lost.is_lost = True
        self._threads.remove(lost)
        if how == "hung":  # it keeps its hold on the lock, and who waits to be alone would wait for it
            self._forwards.give_up()
            self._forwards = ReadersWriterLock()
        self.trouble, self.last_success = what, None
        for piece in reversed(lost.running):
            if not piece.is_suspect and (how == "died" or not piece.is_limited) and not piece.future.done():
                piece.is_suspect = True
                self._lanes.add_first(piece)
            else:
                piece.settle(NotReady(f"{what}; try again", retry_after_s=2))
        if self.is_beyond_repair:
            self.trouble = f"{len(self._stuck)} forward passes hang; the service must be started again"
            for piece in self._lanes.take_all():
                piece.settle(NotReady(self.trouble))
        self._room.pace.finish(0, self._is_idle())

    def _start_threads(self) -> None:
        """Start what is missing, unless too many hang or there is nothing left to do; the caller holds the lock."""
        while len(self._threads) < self._parts and not self.is_beyond_repair and (self._is_open or self._lanes):
            thread = EncoderThread(self.encoder, self, self._metrics)
            try:
                thread.start()
            except RuntimeError:  # the system has none to give: the watchdog tries again
                log.exception("a thread of the encoder could not be started")
                return
            self._threads.append(thread)
