"""Texts on their way through the encoder's queue: what a caller holds, and what the queue holds of it."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Literal, NamedTuple

import numpy as np

from models.encoder import Encoded, Tokenized

Lane = Literal["interactive", "bulk"]


class Outcome(NamedTuple):
    """What the network made of some texts."""

    encoded: Encoded  # of a text that failed: a sentence vector of NaN and no tokens
    failures: dict[int, Exception]  # by position


class Piece:
    """Texts of one caller that go through the network together."""

    def __init__(self, texts: list[Tokenized], is_limited: bool, lane: Lane) -> None:
        self.texts = texts
        self.is_limited = is_limited
        self.lane: Lane = lane
        self.width = max(len(text.ids) for text in texts)
        self.future: Future[Outcome] = Future()
        self.began_at: float | None = None
        self.is_suspect = False
        """Whether the thread was lost with it once: it runs alone the next time."""

    @property
    def tokens(self) -> int:
        """Padded tokens."""
        return self.width * len(self.texts)

    def begin(self) -> bool:
        """Mark that its forward begins, and say whether somebody waits for it; one that is tried again runs already."""
        if self.future.running():
            return True
        try:
            return not self.future.done() and self.future.set_running_or_notify_cancel()
        except RuntimeError:  # a thread that was taken for lost has answered it just now
            return False

    def settle(self, outcome: Outcome | Exception) -> None:
        """Answer the caller, unless that has been done."""
        with suppress(InvalidStateError):
            if isinstance(outcome, Exception):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


class Submission:
    """Texts on their way through the queue."""

    def __init__(self, pieces: list[Piece], groups: list[list[list[int]]], count: int, dim: int) -> None:
        """Expect the outcomes of pieces; ``groups`` has the places of every text of a piece among the ``count`` submitted."""
        self._pieces = pieces
        self._groups = groups
        self._count = count
        self._dim = dim
        self._queued_at = time.perf_counter()

    @property
    def waited_s(self) -> float:
        """Seconds until the first of the texts went into the network: from then on it is their own work that is waited for."""
        return min(
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
            failures |= {i: error for position, error in failed.items() for i in group[position]}
            for position, same in enumerate(group):
                for i in same:
                    sentences[i] = encoded.sentences[position]
                    tokens[i] = encoded.tokens[position]
                    token_ids[i] = encoded.token_ids[position]
        return Outcome(Encoded(sentences, tokens, token_ids), failures)


def places_of_equal(texts: Sequence[Tokenized]) -> list[list[int]]:
    """Return the places of every different text, by first appearance.

    A network may round the rows of a batch differently; equal texts that are encoded once have equal vectors, and tie.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for i, text in enumerate(texts):
        places.setdefault(tuple(text.ids), []).append(i)
    return list(places.values())


def nothing(dim: int) -> Encoded:
    """Return what stands in the place of a text that failed."""
    return Encoded(np.full((1, dim), np.nan, np.float32), [np.empty((0, 0), np.float32)], [np.empty(0, np.int32)])


def join(parts: list[Encoded]) -> Encoded:
    """Put the vectors of consecutive texts together."""
    return Encoded(
        np.concatenate([part.sentences for part in parts]),
        [tokens for part in parts for tokens in part.tokens],
        [ids for part in parts for ids in part.token_ids],
    )


def hand_out(encoded: Encoded, batch: list[Piece]) -> None:
    """Answer the callers of a batch with their parts of its vectors."""
    start = 0
    for piece in batch:
        end = start + len(piece.texts)
        part = Encoded(encoded.sentences[start:end], encoded.tokens[start:end], encoded.token_ids[start:end])
        piece.settle(Outcome(part, {}))
        start = end
