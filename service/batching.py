"""Many small concurrent calls -> few large forwards, by token budget.

One thread owns the encoder. There is no timer: a batch is what arrived while the previous one ran, so an idle service answers
at once and a busy one batches by itself. Interactive texts go before bulk texts; after `BULK_EVERY` interactive batches in a row
a waiting bulk batch gets its turn, so that neither starves. A text whose caller has left is dropped when its batch is formed.
A batch that fails is split and tried again, down to the one text that cannot be encoded, which fails alone.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal, NamedTuple

import numpy as np

from models.encoder import Encoded, Encoder, Tokenized, batches_by_length
from service.errors import NotReady, Overloaded

Lane = Literal["interactive", "bulk"]

BULK_EVERY = 4
"""Interactive batches that may run in a row while bulk texts wait."""

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What the network made of some texts."""

    encoded: Encoded  # of a text that failed: a sentence vector of NaN and no tokens
    failures: dict[int, Exception]  # by position


class _Piece:
    """Texts of one caller that go through the network together."""

    def __init__(self, texts: list[Tokenized], is_limited: bool) -> None:
        self.texts = texts
        self.is_limited = is_limited
        self.width = max(len(text.ids) for text in texts)
        self.future: Future[Outcome] = Future()
        self.began_at: float | None = None

    @property
    def tokens(self) -> int:
        return self.width * len(self.texts)


class EncodeQueue:
    """The queue in front of one encoder, and the thread that empties it."""

    def __init__(self, encoder: Encoder, max_batch_tokens: int, max_queued_texts: int, max_queued_tokens: int) -> None:
        self.encoder = encoder
        self._max_batch_tokens = max_batch_tokens
        self._max_queued_texts = max_queued_texts
        self._max_queued_tokens = max_queued_tokens
        self._lanes: dict[Lane, deque[_Piece]] = {"interactive": deque(), "bulk": deque()}
        self._queued_texts = 0
        self._queued_tokens = 0
        self._interactive_in_a_row = 0
        self._changed = threading.Condition()
        self._is_open = True
        self.last_success: float | None = None
        """Time (`time.monotonic`) of the last forward that succeeded."""
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the encoder's thread runs."""
        return self._thread.is_alive()

    def submit(self, texts: Sequence[Tokenized], lane: Lane, is_limited: bool = True) -> "Submission":
        """Queue texts for encoding.

        Jobs wait for their own results before they go on and pass ``is_limited=False``; their texts leave everybody else's room
        in the queue as it is. A queue that is empty takes any number of texts, so that no request is too large for it.

        Raises:
            Overloaded: the queue is full.
            NotReady: the queue is closed.
        """
        groups = batches_by_length([len(text.ids) for text in texts], self._max_batch_tokens)
        pieces = [_Piece([texts[i] for i in group], is_limited) for group in groups]
        tokens = sum(piece.tokens for piece in pieces)
        with self._changed:
            if not self._is_open:
                raise NotReady("the service is shutting down")
            if is_limited and self._queued_texts:
                self._admit(len(texts), tokens)
            self._lanes[lane].extend(pieces)
            if is_limited:
                self._queued_texts += len(texts)
                self._queued_tokens += tokens
            self._changed.notify()
        return Submission(pieces, groups, len(texts), self.encoder.dim)

    def close(self) -> None:
        """Refuse new texts, encode what is queued, and end the thread."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    def _admit(self, texts: int, tokens: int) -> None:
        self._check_room("texts", self._queued_texts, texts, self._max_queued_texts)
        self._check_room("tokens", self._queued_tokens, tokens, self._max_queued_tokens)

    def _check_room(self, what: str, queued: int, more: int, most: int) -> None:
        if queued + more > most:
            raise Overloaded(
                f"{queued} {what} are waiting and {more} more would pass max_queued_{what} = {most}; try again later",
                retry_after_s=1,
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_open or any(self._lanes.values()))
                if not any(self._lanes.values()):
                    return
                batch = self._next_batch()
            self._encode(batch)

    def _next_batch(self) -> list[_Piece]:
        """Take the pieces of the next forward from the lane whose turn it is."""
        is_bulk_turn = not self._lanes["interactive"] or (
            self._interactive_in_a_row >= BULK_EVERY and bool(self._lanes["bulk"])
        )
        lane: Lane = "bulk" if is_bulk_turn else "interactive"
        self._interactive_in_a_row = 0 if is_bulk_turn else self._interactive_in_a_row + 1
        queue, count, width = self._lanes[lane], 0, 0
        batch: list[_Piece] = []
        while queue:
            piece = queue[0]
            width = max(width, piece.width)
            if batch and (count + len(piece.texts)) * width > self._max_batch_tokens:
                break
            queue.popleft()
            if piece.is_limited:
                self._queued_texts -= len(piece.texts)
                self._queued_tokens -= piece.tokens
            if piece.future.set_running_or_notify_cancel():
                piece.began_at = time.perf_counter()
                batch.append(piece)
                count += len(piece.texts)
        return batch

    def _encode(self, batch: list[_Piece]) -> None:
        """Encode pieces in one forward; on failure split them, down to the text that fails alone."""
        if not batch:
            return
        try:
            encoded = self.encoder.encode([text for piece in batch for text in piece.texts])
            if not np.isfinite(encoded.sentences).all():
                raise ValueError("the model gives vectors that are not finite")
            self.last_success = time.monotonic()
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._encode(batch[:middle])
                self._encode(batch[middle:])
            elif len(batch[0].texts) > 1:
                self._encode_apart(batch[0])
            else:
                log.exception("a text of %d tokens cannot be encoded", batch[0].tokens)
                batch[0].future.set_result(Outcome(_nothing(self.encoder.dim), {0: error}))
            return
        start = 0
        for piece in batch:
            end = start + len(piece.texts)
            part = Encoded(encoded.sentences[start:end], encoded.tokens[start:end], encoded.token_ids[start:end])
            piece.future.set_result(Outcome(part, {}))
            start = end

    def _encode_apart(self, piece: _Piece) -> None:
        """Encode the halves of a piece that failed as a whole."""
        middle = len(piece.texts) // 2
        halves = [_Piece(texts, piece.is_limited) for texts in (piece.texts[:middle], piece.texts[middle:])]
        for half in halves:
            self._encode([half])
        first, second = (half.future.result() for half in halves)
        failures = first.failures | {middle + i: error for i, error in second.failures.items()}
        piece.future.set_result(Outcome(_join([first.encoded, second.encoded]), failures))


class Submission:
    """Texts on their way through the queue."""

    def __init__(self, pieces: list[_Piece], groups: list[list[int]], count: int, dim: int) -> None:
        self._pieces = pieces
        self._groups = groups
        self._count = count
        self._dim = dim
        self._queued_at = time.perf_counter()

    @property
    def waited_s(self) -> float:
        """Seconds until the last of the texts went into the network."""
        return max(
            (piece.began_at - self._queued_at for piece in self._pieces if piece.began_at is not None), default=0.0
        )

    @property
    def futures(self) -> list[Future[Outcome]]:
        """The futures that must be done before `outcome` returns at once."""
        return [piece.future for piece in self._pieces]

    def cancel(self) -> None:
        """Give up what has not begun."""
        for piece in self._pieces:
            piece.future.cancel()

    def result(self, timeout_s: float | None = None) -> Encoded:
        """Wait for the vectors, in the order of submission.

        Raises:
            TimeoutError: they did not come within ``timeout_s`` seconds.
            Exception: what the network raised about the first text that it cannot encode.
        """
        outcome = self.outcome(timeout_s)
        if outcome.failures:
            raise outcome.failures[min(outcome.failures)]
        return outcome.encoded

    def outcome(self, timeout_s: float | None = None) -> Outcome:
        """Wait for the vectors of the texts that can be encoded, and for what is wrong with the others.

        Raises:
            TimeoutError: they did not come within ``timeout_s`` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        sentences = np.empty((self._count, self._dim), dtype=np.float32)
        tokens = [np.empty((0, 0), np.float32)] * self._count
        token_ids = [np.empty(0, np.int32)] * self._count
        failures: dict[int, Exception] = {}
        for piece, group in zip(self._pieces, self._groups, strict=True):
            timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            encoded, failed = piece.future.result(timeout_s)
            failures |= {group[position]: error for position, error in failed.items()}
            for position, i in enumerate(group):
                sentences[i] = encoded.sentences[position]
                tokens[i] = encoded.tokens[position]
                token_ids[i] = encoded.token_ids[position]
        return Outcome(Encoded(sentences, tokens, token_ids), failures)


def _nothing(dim: int) -> Encoded:
    return Encoded(np.full((1, dim), np.nan, np.float32), [np.empty((0, 0), np.float32)], [np.empty(0, np.int32)])


def _join(parts: list[Encoded]) -> Encoded:
    return Encoded(
        np.concatenate([part.sentences for part in parts]),
        [tokens for part in parts for tokens in part.tokens],
        [ids for part in parts for ids in part.token_ids],
    )
