"""Many small concurrent calls -> few large forwards, by token budget.

One thread owns the encoder. There is no timer: a batch is what arrived while the previous one ran, so an idle service answers
at once and a busy one batches by itself. A batch is the text that waits longest and those of similar length among the next, so
that little is padded and nobody is passed over for ever. Interactive texts go before bulk texts; after `BULK_EVERY` interactive
batches in a row a waiting bulk batch gets its turn. A text whose caller has left is dropped when its batch is formed.

A batch that fails is split and tried again, down to the one text that cannot be encoded, which fails alone; where memory ran
out, later batches are smaller. A watchdog replaces the thread if it dies or if a forward does not come back.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from models.encoder import Encoded, Encoder, Tokenized, batches_by_length
from service.admission import Room
from service.errors import NotReady, Overloaded
from service.metrics import Metrics
from service.submissions import Lane, Outcome, Piece, Submission, hand_out, join, nothing

__all__ = ["EncodeQueue", "Lane", "Outcome", "Submission"]

BULK_EVERY = 4
"""Interactive batches that may run in a row while bulk texts wait."""
WINDOW_BATCHES = 8
"""Full batches' worth of waiting texts that are looked through for texts of similar length."""
MOST_UNLIKE = 2.0
"""Texts of one batch differ in length by this factor at most from the one that waited longest."""
MOST_STUCK = 3
"""Forwards that may hang at the same time; then no further thread is started until one of them comes back."""
ALWAYS_BATCHES = 4
"""Full batches' worth of waiting texts that are let in however long they take."""
DROP_INTERVAL_S = 0.05
"""Least seconds between two looks through a full queue for texts whose caller has left."""

log = logging.getLogger(__name__)


class EncodeQueue:
    """The queue in front of one encoder, the thread that empties it, and the watchdog of that thread."""

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
        self.encoder = encoder
        self.budget_tokens = max_batch_tokens
        """Padded tokens of a batch; halved where memory runs out, never below the longest text."""
        self._room = Room(max_queued_texts, max_queued_tokens, max_wait_s, ALWAYS_BATCHES * max_batch_tokens)
        self._metrics = metrics or Metrics()
        self._max_forward_s = max_forward_s
        self._lanes: dict[Lane, deque[Piece]] = {"interactive": deque(), "bulk": deque()}
        self._waiting_tokens: dict[Lane, int] = {"interactive": 0, "bulk": 0}
        self._dropped_at = 0.0
        self._interactive_in_a_row = 0
        self._changed = threading.Condition()
        self._is_open = True
        self.last_success: float | None = None
        """Time (`time.monotonic`) of the last forward that succeeded since the thread was started."""
        self.trouble: str | None = None
        """Why the thread was replaced, until a forward succeeds again."""
        self._running: list[Piece] = []
        self._forward_began_at: float | None = None
        self._stuck: list[threading.Thread] = []
        self._thread: threading.Thread
        with self._changed:
            self._start_thread()
        self._is_closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._watchdog.start()

    @property
    def is_alive(self) -> bool:
        """Whether the encoder's thread runs."""
        return self._thread.is_alive()

    @property
    def is_beyond_repair(self) -> bool:
        """Whether so many forwards hang that only a new process can help."""
        return len(self._stuck) >= MOST_STUCK

    @property
    def stalled_s(self) -> float:
        """Seconds since the forward that runs at present began; 0 where none runs."""
        began_at = self._forward_began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def depth(self) -> dict[Lane, tuple[int, int]]:
        """Return how many texts and tokens wait in each lane."""
        with self._changed:
            return {
                lane: (sum(len(piece.texts) for piece in waiting), sum(piece.tokens for piece in waiting))
                for lane, waiting in self._lanes.items()
            }

    def submit(self, texts: Sequence[Tokenized], lane: Lane, is_limited: bool = True) -> "Submission":
        """Queue texts for encoding.

        Jobs wait for their own results before they go on and pass ``is_limited=False``; their texts leave everybody else's room
        in the queue as it is. A queue that is empty takes any number of texts, so that no request is too large for it.

        Raises:
            Overloaded: the queue is full, or interactive texts would wait for more than ``max_wait_s``.
            NotReady: the queue is closed, or the encoder hangs.
        """
        groups = batches_by_length([len(text.ids) for text in texts], self.budget_tokens)
        pieces = [Piece([texts[i] for i in group], is_limited, lane) for group in groups]
        tokens = sum(piece.tokens for piece in pieces)
        with self._changed:
            if not self._is_open:
                raise NotReady("the service is shutting down")
            if self.is_beyond_repair:
                raise NotReady("the encoder hangs; the service must be started again")
            if is_limited:
                self._admit(lane, len(texts), tokens)
            self._room.pace.begin()
            self._lanes[lane].extend(pieces)
            for piece in pieces:
                self._remember(piece)
            self._changed.notify_all()
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
            self._thread.join(0.2)
        self._is_closed.set()
        self._watchdog.join()

    def _has_work(self) -> bool:
        with self._changed:
            has_pieces = bool(self._running) or any(self._lanes.values())
            return not self.is_beyond_repair and (self._thread.is_alive() or has_pieces)

    def _admit(self, lane: Lane, texts: int, tokens: int) -> None:
        """Let texts in, or raise Overloaded; texts whose caller has left make room."""
        try:
            self._room.check(texts, tokens, self._ahead(lane))
        except Overloaded:
            if time.monotonic() - self._dropped_at < DROP_INTERVAL_S:
                raise
            self._drop_left()
            self._room.check(texts, tokens, self._ahead(lane))

    def _ahead(self, lane: Lane) -> float:
        """Return how many tokens go before those that come now; whoever is in no hurry is let in however many there are."""
        if lane == "bulk":
            return 0.0
        waiting = self._waiting_tokens["interactive"]
        return waiting + min(waiting / BULK_EVERY, self._waiting_tokens["bulk"])

    def _drop_left(self) -> None:
        self._dropped_at = time.monotonic()
        for lane, waiting in self._lanes.items():
            for piece in waiting:
                if piece.future.cancelled():
                    self._forget(piece)
                    self._metrics.dropped.inc(len(piece.texts))
            self._lanes[lane] = deque(piece for piece in waiting if not piece.future.cancelled())

    def _remember(self, piece: Piece, sign: int = 1) -> None:
        self._waiting_tokens[piece.lane] += sign * piece.tokens
        if piece.is_limited:
            self._room.queued["texts"] += sign * len(piece.texts)
            self._room.queued["tokens"] += sign * piece.tokens

    def _forget(self, piece: Piece) -> None:
        self._remember(piece, -1)

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_open or any(self._lanes.values()) or self._thread is not me)
                if self._thread is not me or not any(self._lanes.values()):
                    return
                lane, batch = self._next_batch()
                self._running = batch
            began_at = time.perf_counter()
            self._encode(batch)
            with self._changed:
                if self._thread is not me:  # it was taken for lost, and another goes on
                    return
                self._running = []
                tokens = sum(piece.tokens for piece in batch)
                self._room.pace.finish(tokens, not any(self._lanes.values()))
            if batch:
                texts = sum(len(piece.texts) for piece in batch)
                self._metrics.batch(lane, texts, tokens, time.perf_counter() - began_at)

    def _next_batch(self) -> tuple[Lane, list[Piece]]:
        """Take the pieces of the next forward from the lane whose turn it is: the oldest, and what is like it."""
        is_bulk_turn = not self._lanes["interactive"] or (
            self._interactive_in_a_row >= BULK_EVERY and bool(self._lanes["bulk"])
        )
        lane: Lane = "bulk" if is_bulk_turn else "interactive"
        self._interactive_in_a_row = 0 if is_bulk_turn else self._interactive_in_a_row + 1
        waiting = self._lanes[lane]
        batch: list[Piece] = []
        passed_over: list[Piece] = []
        count = width = seen = 0
        while waiting and seen < WINDOW_BATCHES * self.budget_tokens:
            piece = waiting.popleft()
            if piece.future.done():  # its caller left, or a thread that was taken for lost answered it after all
                self._forget(piece)
                self._metrics.dropped.inc(len(piece.texts) if piece.future.cancelled() else 0)
                continue
            seen += piece.tokens
            wider = max(width, piece.width)
            is_like = not batch or 1 / MOST_UNLIKE <= piece.width / batch[0].width <= MOST_UNLIKE
            has_room = not batch or (count + len(piece.texts)) * wider <= self.budget_tokens
            if not (is_like and has_room) or (batch and piece.is_suspect):
                passed_over.append(piece)
                continue
            self._forget(piece)
            if piece.begin():
                piece.began_at = time.perf_counter()
                batch.append(piece)
                count, width = count + len(piece.texts), wider
                if piece.is_suspect or (count + 1) * width > self.budget_tokens:
                    break
        waiting.extendleft(reversed(passed_over))
        return lane, batch

    def _encode(self, batch: list[Piece]) -> None:
        """Encode pieces in one forward; on failure split them, down to the text that fails alone."""
        if not batch or not self._is_mine():
            return
        try:
            encoded = self._forward([text for piece in batch for text in piece.texts])
        except Exception as error:
            # A MemoryError that was caught holds on to what its frames hold.
            failure = MemoryError() if isinstance(error, MemoryError) else error
        else:
            hand_out(encoded, batch)
            return
        self._split(batch, failure)

    def _forward(self, texts: list[Tokenized]) -> Encoded:
        self._forward_began_at = time.monotonic()
        try:
            encoded = self.encoder.encode(texts)
        finally:
            if self._is_mine():
                self._forward_began_at = None
        if not np.isfinite(encoded.sentences).all():
            raise ValueError("the model gives vectors that are not finite")
        if self._is_mine():
            self.last_success, self.trouble = time.monotonic(), None
        return encoded

    def _split(self, batch: list[Piece], error: Exception) -> None:
        """Try a batch that failed again in halves; a text that fails alone gets the error."""
        is_memory = isinstance(error, MemoryError)
        if is_memory:
            tokens = sum(piece.tokens for piece in batch)
            self.budget_tokens = max(min(self.budget_tokens, tokens) // 2, self.encoder.max_tokens)
            log.warning("memory ran out with %d tokens: a batch has %d at most now", tokens, self.budget_tokens)
        if len(batch) > 1 or len(batch[0].texts) > 1:
            self._metrics.split("memory" if is_memory else "failure")
        if len(batch) > 1:
            middle = len(batch) // 2
            self._encode(batch[:middle])
            self._encode(batch[middle:])
        elif len(batch[0].texts) > 1:
            self._encode_apart(batch[0])
        else:
            log.error("a text of %d tokens cannot be encoded", batch[0].tokens, exc_info=error)
            batch[0].settle(Outcome(nothing(self.encoder.dim), {0: error}))

    def _encode_apart(self, piece: Piece) -> None:
        """Encode the halves of a piece that failed as a whole."""
        middle = len(piece.texts) // 2
        halves = [Piece(texts, piece.is_limited, piece.lane) for texts in (piece.texts[:middle], piece.texts[middle:])]
        for half in halves:
            self._encode([half])
        if self._is_mine():
            first, second = (half.future.result() for half in halves)
            failures = first.failures | {middle + i: error for i, error in second.failures.items()}
            piece.settle(Outcome(join([first.encoded, second.encoded]), failures))

    def _is_mine(self) -> bool:  # whether the thread that asks is the one that owns the encoder
        return self._thread is threading.current_thread()

    def _watch(self) -> None:
        interval_s = min(0.5, self._max_forward_s / 4)
        while not self._is_closed.wait(interval_s):
            with self._changed:
                if self._stuck and not all(thread.is_alive() for thread in self._stuck):
                    was_beyond_repair = self.is_beyond_repair
                    self._stuck = [thread for thread in self._stuck if thread.is_alive()]
                    if was_beyond_repair:
                        self._start_thread()
                if not self._thread.is_alive() and (self._is_open or self._running or any(self._lanes.values())):
                    self._replace("died", "the encoder's thread ended unexpectedly and was started again")
                elif self.stalled_s > self._max_forward_s and self._thread not in self._stuck:
                    self._stuck.append(self._thread)
                    self._replace("hung", f"a forward pass did not come back within {self._max_forward_s:g} s")

    def _replace(self, how: str, what: str) -> None:
        """Start another thread for one that is lost; what it had is tried again, each piece alone, or answered with an error.

        Texts of a batch that hangs would hang again, so only jobs, which have no caller that waits, try them once more.
        """
        log.critical("%s", what)
        self._metrics.restarted(how)
        self.trouble, self.last_success, self._forward_began_at = what, None, None
        lost, self._running = self._running, []
        self._room.pace.finish(0, not any(self._lanes.values()))
        for piece in reversed(lost):
            if not piece.is_suspect and (how == "died" or not piece.is_limited) and not piece.future.done():
                piece.is_suspect = True
                self._lanes[piece.lane].appendleft(piece)
                self._remember(piece)
            else:
                piece.settle(NotReady(f"{what}; try again", retry_after_s=2))
        if self.is_beyond_repair:
            self.trouble = f"{len(self._stuck)} forward passes hang; the service must be started again"
            for lane in self._lanes.values():
                while lane:
                    piece = lane.popleft()
                    self._forget(piece)
                    piece.settle(NotReady(self.trouble))
        else:
            self._start_thread()

    def _start_thread(self) -> None:  # it waits for the lock that its starter holds
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()
