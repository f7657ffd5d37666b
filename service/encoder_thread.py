"""A thread that takes batch after batch through the encoder.

A batch that fails is split and tried again, down to the one text that cannot be encoded, which fails alone; where memory ran
out, later batches are smaller, and a single text is tried once more while no other forward runs.
"""

import logging
import threading
import time
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from models.encoder import Encoded, Encoder, Tokenized
from service.metrics import Metrics
from service.submissions import Lane, Outcome, Piece, hand_out, join, nothing

log = logging.getLogger(__name__)


class Batches(Protocol):
    """Where a thread has its batches from."""

    def take(self, thread: "EncoderThread") -> tuple[Lane, list[Piece]] | None:
        """Wait for the next batch; None where the thread shall end."""
        ...

    def finish(self, thread: "EncoderThread", batch: list[Piece]) -> bool:
        """Hear that a batch was answered, and say whether the thread goes on."""
        ...

    def forwards(self, is_alone: bool) -> AbstractContextManager[None]:
        """Let a forward run beside others, or alone."""
        ...

    def succeeded(self) -> None:
        """Hear that a forward came back with vectors."""
        ...

    def memory_ran_out(self, tokens: int) -> None:
        """Hear that memory did not suffice for a batch of so many padded tokens."""
        ...


class EncoderThread(threading.Thread):
    """One of the threads that encode what waits."""

    def __init__(self, encoder: Encoder, batches: Batches, metrics: Metrics) -> None:
        super().__init__(name="encoder", daemon=True)
        self._encoder = encoder
        self._batches = batches
        self._metrics = metrics
        self.running: list[Piece] = []
        """The batch that it has at present."""
        self.forward_began_at: float | None = None
        self.is_lost = False
        """Whether it was given up: another thread has its place, and what it still brings is not waited for."""
        self.has_ended = False
        """Whether it ended because it was told to."""

    @property
    def stalled_s(self) -> float:
        """Seconds since the forward that runs at present began; 0 where none runs."""
        began_at = self.forward_began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def run(self) -> None:
        """Encode batches until there are none any more, or until this thread was given up."""
        while (taken := self._batches.take(self)) is not None:
            lane, batch = taken
            began_at = time.perf_counter()
            self._encode(batch)
            if not self._batches.finish(self, batch):
                break
            if batch:
                texts, tokens = sum(len(piece.texts) for piece in batch), sum(piece.tokens for piece in batch)
                self._metrics.batch(lane, texts, tokens, time.perf_counter() - began_at)
        self.has_ended = True

    def _encode(self, batch: list[Piece]) -> None:
        """Encode pieces in one forward; on failure split them, down to the text that fails alone."""
        if not batch or self.is_lost:
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

    def _forward(self, texts: list[Tokenized], is_alone: bool = False) -> Encoded:
        with self._batches.forwards(is_alone):
            self.forward_began_at = time.monotonic()  # not before: who waits to be alone does not hang
            try:
                encoded = self._encoder.encode(texts)
            finally:
                self.forward_began_at = None
        if not all(np.isfinite(vectors).all() for vectors in (encoded.sentences, *encoded.tokens)):
            raise ValueError("the model gives vectors that are not finite")
        if not self.is_lost:
            self._batches.succeeded()
        return encoded

    def _split(self, batch: list[Piece], error: Exception) -> None:
        """Try a batch that failed again in halves; a text that fails alone gets the error."""
        is_memory = isinstance(error, MemoryError)
        if is_memory:
            self._batches.memory_ran_out(sum(piece.tokens for piece in batch))
        if len(batch) > 1 or len(batch[0].texts) > 1:
            self._metrics.split("memory" if is_memory else "failure")
        if len(batch) > 1:
            middle = len(batch) // 2
            self._encode(batch[:middle])
            self._encode(batch[middle:])
        elif len(batch[0].texts) > 1:
            self._encode_apart(batch[0])
        else:
            self._encode_alone(batch[0], error)

    def _encode_alone(self, piece: Piece, error: Exception) -> None:
        """Answer a piece of one text, for which a forward failed: others may have had the memory that it needs."""
        if isinstance(error, MemoryError):
            try:
                hand_out(self._forward(piece.texts, is_alone=True), [piece])
            except Exception as another:
                error = MemoryError() if isinstance(another, MemoryError) else another
            else:
                return
        log.error("a text of %d tokens cannot be encoded", piece.tokens, exc_info=error)
        piece.settle(Outcome(nothing(self._encoder.dim), {0: error}))

    def _encode_apart(self, piece: Piece) -> None:
        """Encode the halves of a piece that failed as a whole."""
        middle = len(piece.texts) // 2
        halves = [Piece(texts, piece.is_limited, piece.lane) for texts in (piece.texts[:middle], piece.texts[middle:])]
        for half in halves:
            self._encode([half])
        if not self.is_lost:
            first, second = (half.future.result() for half in halves)
            failures = first.failures | {middle + i: error for i, error in second.failures.items()}
            piece.settle(Outcome(join([first.encoded, second.encoded]), failures))
