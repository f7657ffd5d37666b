"""Texts as terms: the characters of a text and the pairs of neighbours, as integers, without word segmentation.

A text is normalised (NFKC, lower case, traditional characters as simplified ones) and read as runs of letters, marks, digits
and symbols; white space, punctuation and control characters end a run. Its terms are the single characters and the pairs
within a run. On Chinese retrieval sets both together find more on most sets (DECISIONS.md has the figures). All characters of
a batch are handled as one array.
"""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CODE_POINT_BITS = 21
VERSION = 3
"""Of what the terms of a text are; an index of another version is made anew."""

_UNKNOWN, _SEPARATOR, _TERM = 0, 1, 2
_kinds = np.zeros(0x110000, np.uint8)  # by code point, filled as they are met; whoever writes one writes the same value
_MARKS = 32
"""Marks in a row that are normalised together."""
_ODD = 0xFFFFFFFF
_plain = np.zeros(0x110000, np.uint32)
"""What a character alone is folded to, by code point; 0: not met yet, `_ODD`: its neighbours matter, or it becomes several."""


def _folding() -> NDArray[np.uint32]:
    """Map every code point to itself, or a traditional character to its simplified form (OpenCC's t2s, Apache-2.0)."""
    traditional, simplified = Path(__file__).with_name("traditional.txt").read_text(encoding="utf-8").split()
    folded = np.arange(0x110000, dtype=np.uint32)
    folded[[ord(character) for character in traditional]] = [ord(character) for character in simplified]
    return folded[folded]  # a simplified form may be simplified itself


_folded = _folding()


def fold(text: str) -> str:
    """Return `text` as its terms are spelled: NFKC, lower case, traditional characters as simplified ones."""
    return spelled([text])[0].astype(np.uint32).tobytes().decode("utf-32-le", "surrogatepass")


def spelled(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.bool_]]:
    """Return all characters of `texts` as folded code points, whose text each is, and whether it is part of terms, all (n,).

    Unicode's normalisation of a text takes longer than everything else here, so a text of plain characters alone is folded
    by a table.
    """
    points, places = _points(texts)
    folded = _folded_alone(points)
    odd = np.bincount(places[folded == _ODD])  # characters of each text; all that are marks are among them
    if len(odd):
        normal = list(texts)
        for place in np.flatnonzero(odd).tolist():
            whole = unicodedata.normalize("NFKC", texts[place]) if odd[place] < _MARKS else _in_pieces(texts[place])
            normal[place] = whole.lower()
        points, places = _points(normal)
        folded = _folded_alone(points)
        folded = np.where(folded == _ODD, _folded[points], folded)
    return folded.astype(np.int64), places, _is_term(folded)


def _in_pieces(text: str) -> str:
    """Return `text` in NFKC, each run of `_MARKS` marks and more in pieces.

    The order of marks is looked for in time that is quadratic in their number, and a text may be nothing else. No language has so
    many: Unicode's own stream-safe format breaks such runs, too (UAX #15, section 13).
    """
    places = np.arange(len(text))
    points = _points([text])[0]
    marks = [point for point in np.unique(points).tolist() if _moves(chr(point))]
    is_mark = np.isin(points, marks)
    run = places - np.maximum.accumulate(np.where(is_mark, -1, places))  # marks since the last character that is none
    cuts = [0, *np.flatnonzero((run > 0) & (run % _MARKS == 0)).tolist(), len(text)]
    return "".join(unicodedata.normalize("NFKC", text[start:end]) for start, end in pairwise(cuts))


def _points(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """Return the code points of all texts and whose each is."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32), np.repeat(
        np.arange(len(texts)), lengths
    )


def _folded_alone(points: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return what each character (n,) is folded to, _ODD where it is not plain or becomes several."""
    found = _plain[points]
    if not found.all():
        for point in np.unique(points[found == 0]).tolist():
            normal = unicodedata.normalize("NFKC", chr(point)).lower()
            is_odd = len(normal) != 1 or any(map(_joins, chr(point) + normal))
            _plain[point] = _ODD if is_odd else _folded[ord(normal)]
        found = _plain[points]
    return found


def grams(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return codes and text positions (both (n,)) of all terms, with repetitions; a code is one or two code points."""
    points, places, is_term = spelled(texts)
    is_pair = is_term[1:] & is_term[:-1] & (places[1:] == places[:-1])
    pairs = points[:-1][is_pair] << CODE_POINT_BITS | points[1:][is_pair]
    return np.concatenate([points[is_term], pairs]), np.concatenate([places[is_term], places[:-1][is_pair]])


def _joins(character: str) -> bool:
    """Say whether a character may become one with what stands before it, or is lowered by what stands around it."""
    return unicodedata.category(character)[0] == "M" or "\u1100" <= character <= "\u11ff" or character in "Σσς"


def _moves(character: str) -> bool:
    """Say whether normalisation may move a character past its neighbours."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) > 0


def _is_term(points: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Say of code points (n,) whether they are part of a term."""
    for point in np.unique(points[_kinds[points] == _UNKNOWN]).tolist():
        category = unicodedata.category(chr(point))
        separates = category[0] in "ZP" or category in ("Cc", "Cf", "Cs")
        _kinds[point] = _SEPARATOR if separates else _TERM
    return np.asarray(_kinds[points] == _TERM)
