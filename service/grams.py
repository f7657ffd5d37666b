"""Texts as terms: the characters of a text and the pairs of neighbours, as integers, without word segmentation.

A text is normalised (NFKC, lower case, traditional characters as simplified ones) and read as runs of letters, marks, digits
and symbols; white space, punctuation and control characters end a run. Its terms are the single characters and the pairs
within a run. On Chinese retrieval sets both together find more on most sets (DECISIONS.md has the figures). All characters of
a batch are handled as one array.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CODE_POINT_BITS = 21
VERSION = 2
"""Of what the terms of a text are; an index of another version is made anew."""

_UNKNOWN, _SEPARATOR, _TERM = 0, 1, 2
_kinds = np.zeros(0x110000, np.uint8)  # by code point, filled as they are met; whoever writes one writes the same value


def _folding() -> NDArray[np.uint32]:
    """Map every code point to itself, or a traditional character to its simplified form (OpenCC's t2s, Apache-2.0)."""
    traditional, simplified = Path(__file__).with_name("traditional.txt").read_text(encoding="utf-8").split()
    folded = np.arange(0x110000, dtype=np.uint32)
    folded[[ord(character) for character in traditional]] = [ord(character) for character in simplified]
    return folded


_folded = _folding()


def fold(text: str) -> str:
    """Return `text` as its terms are spelled: NFKC, lower case, traditional characters as simplified ones."""
    normal = unicodedata.normalize("NFKC", text).lower()
    return (
        _folded[np.frombuffer(normal.encode("utf-32-le", "surrogatepass"), np.uint32)]
        .tobytes()
        .decode("utf-32-le", "surrogatepass")
    )


def grams(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return codes and text positions (both (n,)) of all terms, with repetitions; a code is one or two code points."""
    normal = [unicodedata.normalize("NFKC", text).lower() for text in texts]
    points = _folded[np.frombuffer("".join(normal).encode("utf-32-le", "surrogatepass"), np.uint32)].astype(np.int64)
    places = np.repeat(np.arange(len(normal)), np.fromiter(map(len, normal), np.int64, len(normal)))
    is_term = _is_term(points)
    is_pair = is_term[1:] & is_term[:-1] & (places[1:] == places[:-1])
    pairs = points[:-1][is_pair] << CODE_POINT_BITS | points[1:][is_pair]
    return np.concatenate([points[is_term], pairs]), np.concatenate([places[is_term], places[:-1][is_pair]])


def _is_term(points: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say of code points (n,) whether they are part of a term."""
    for point in np.unique(points[_kinds[points] == _UNKNOWN]).tolist():
        category = unicodedata.category(chr(point))
        separates = category[0] in "ZP" or category in ("Cc", "Cf", "Cs")
        _kinds[point] = _SEPARATOR if separates else _TERM
    return np.asarray(_kinds[points] == _TERM)
