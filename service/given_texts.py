"""Texts that a request brings along, from the check to their vectors: what is the same for every route that encodes.

A text that cannot be used is a fault of its own; whether it spoils the request or only misses from the answer is the route's
affair. Many texts go through the encoder's queue in windows, so that a large request neither fills it nor is too large for it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.encoder import Encoded, Tokenized
from models.token_codec import TokenCodec
from service.alignment import EncodedText, encoded_texts
from service.batching import Lane, Outcome
from service.document_rules import Limits, wrong_text
from service.indexing import CANNOT_ENCODE, NO_TOKEN

WINDOW_SHARE = 4
"""A window is at most one of so many parts of what the queue takes."""


class GivenTexts(NamedTuple):
    """Texts of one request, tokenized; those with a fault have no tokens."""

    texts: list[str]
    tokenized: list[Tokenized]
    faults: dict[int, str]  # by position; grows when the network refuses a text

    @property
    def readable(self) -> list[int]:
        """Positions of the texts that can be encoded."""
        return [i for i in range(len(self.texts)) if i not in self.faults]

    @property
    def truncated(self) -> list[bool]:
        """Which texts are longer than the encoder reads."""
        return [each.truncated for each in self.tokenized]

    @property
    def tokens(self) -> int:
        """Tokens that the encoder reads, special ones included."""
        return sum(len(self.tokenized[i].ids) for i in self.readable)

    def encoded(self, encoded: Encoded) -> list[EncodedText]:
        """Put all texts and their vectors together, where every text has some."""
        return encoded_texts(self.texts, self.tokenized, encoded)


def wrong_texts(texts: Sequence[str], limits: Limits) -> dict[int, str]:
    """Return what is wrong with which texts."""
    return {i: fault for i, text in enumerate(texts) if (fault := wrong_text(text, limits))}


def given_texts(
    texts: Sequence[str],
    faults: dict[int, str],
    tokenize: Callable[[Sequence[str]], list[Tokenized]],
    max_tokens: int | None = None,
) -> GivenTexts:
    """Tokenize texts; those with a known fault, and those without a token, are left out of what follows.

    With ``max_tokens`` no more tokens are read of all texts but the first, special ones not counted.
    """
    tokenized = tokenize(["" if i in faults else text for i, text in enumerate(texts)] if faults else texts)
    if max_tokens is not None:
        tokenized[1:] = [_cut(each, max_tokens) for each in tokenized[1:]]
    empty = {i: NO_TOKEN for i, each in enumerate(tokenized) if not each.inner}
    return GivenTexts(list(texts), tokenized, empty | faults)


def windows(given: GivenTexts, max_queued_texts: int, max_queued_tokens: int) -> Iterator[list[int]]:
    """Cut the readable texts, in order, into windows that leave most of the queue to others."""
    window: list[int] = []
    tokens = 0
    for i in given.readable:
        more = len(given.tokenized[i].ids)
        is_full = (len(window) + 1) * WINDOW_SHARE > max_queued_texts or (
            (tokens + more) * WINDOW_SHARE > max_queued_tokens
        )
        if window and is_full:
            yield window
            window, tokens = [], 0
        window.append(i)
        tokens += more
    if window:
        yield window


def lane_of(given: GivenTexts, max_batch_tokens: int) -> Lane:
    """Return ``interactive`` for what fits into one forward, ``bulk`` for more."""
    return "interactive" if given.tokens <= max_batch_tokens else "bulk"


class GivenVectors:
    """The vectors of given texts as their windows arrive: sentence vectors, and token vectors as a document keeps them."""

    def __init__(self, given: GivenTexts, dim: int, codec: TokenCodec | None = None) -> None:
        """Prepare for vectors of ``dim``; without a codec no token vectors are kept."""
        self.given = given
        self.sentences: NDArray[np.float32] = np.zeros((len(given.texts), dim), np.float32)  # 0 where there is a fault
        self.packed: list[bytes] = [b""] * len(given.texts)
        self._codec = codec

    def take(self, window: Sequence[int], outcome: Outcome) -> None:
        """Keep the vectors of a window; what the network refused becomes a fault."""
        encoded, failures = outcome
        self.given.faults.update({window[place]: CANNOT_ENCODE for place in failures})
        kept = [place for place in range(len(window)) if place not in failures]
        if len(kept) == window[-1] - window[0] + 1:  # nearly always; the copy of one text keeps the interpreter's lock
            self.sentences[window[0] : window[-1] + 1] = encoded.sentences
        else:
            self.sentences[[window[place] for place in kept]] = encoded.sentences[kept]
        if self._codec is not None:
            packed = self._codec.pack(encoded)
            for place in kept:
                self.packed[window[place]] = packed[place]

    def tokens(self) -> list[list[NDArray[np.float32]]]:
        """Return the token vectors of every text, as rows."""
        assert self._codec is not None
        return [list(self._codec.unpack([packed]).tokens(0)) for packed in self.packed]

    def cosines(self) -> NDArray[np.float32]:
        """Return the cosine (n - 1,) of the first text with each of the others, in [-1, 1]."""
        # One dot product each: a matrix product may round equal rows differently, and then equal texts would not tie.
        products: NDArray[np.float32] = np.vecdot(self.sentences[1:], self.sentences[0])
        return products.clip(-1.0, 1.0)

    def cut(self, dimensions: int | None) -> NDArray[np.float32]:
        """Return sentence vectors (n, dimensions) of unit length, made of their first dimensions; None: as they are."""
        sentences = self.sentences
        if dimensions is not None and dimensions < sentences.shape[1]:
            sentences = sentences[:, :dimensions]
            lengths = np.linalg.norm(sentences, axis=1, keepdims=True)
            sentences = np.divide(sentences, lengths, out=np.zeros_like(sentences), where=lengths > 0)
        return sentences.astype("<f4", copy=False)


def _cut(text: Tokenized, max_tokens: int) -> Tokenized:
    """Leave out the tokens after the first ``max_tokens`` that are no special ones."""
    if len(text.inner) <= max_tokens:
        return text
    left, left_out = set(text.inner[:max_tokens]), set(text.inner[max_tokens:])
    kept = [i for i in range(len(text.ids)) if i not in left_out]
    inner = [place for place, i in enumerate(kept) if i in left]
    return Tokenized([text.ids[i] for i in kept], [text.offsets[i] for i in kept], inner, True)
