"""How much of a question stands close together somewhere in a text: the best window of its characters.

BM25 counts a passage's terms wherever they are. What answers a question is a sentence or two of it, so the part of the
question's weight that one window of `WIDTH` characters covers tells passages of one article apart (evidence of proximity;
Tao and Zhai, "An Exploration of Proximity Measures in Information Retrieval", SIGIR 2007).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.grams import CODE_POINT_BITS, spelled

WIDTH = 30
"""Characters of a window."""

BLOCK = 1 << 20
"""Characters that are looked at together: up to 120 bytes each, where all of them are terms of the question."""

_ONE = 1 << 40  # weights are integers, so that sums do not depend on what was added before


def blocks(texts: Sequence[str]) -> Iterator[slice]:
    """Cut texts (n,) into runs of at most `BLOCK` characters, or of one text."""
    first = characters = 0
    for place, text in enumerate(texts):
        if characters + len(text) > BLOCK and place > first:
            yield slice(first, place)
            first, characters = place, 0
        characters += len(text)
    if first < len(texts):
        yield slice(first, len(texts))


def best_windows(
    terms: NDArray[np.int64], weights: NDArray[np.float64], texts: Sequence[str], width: int = WIDTH
) -> NDArray[np.float32]:
    """Give for each text (n,) the largest share of the weights that terms within one window have, in [0, 1].

    `terms` (m,) ascending are codes of service/grams.py, `weights` (m,) positive; a term counts once a window, and a pair of
    characters where both are in it. 0 for texts without any term, and where there are no terms.
    """
    found = np.zeros(len(texts), np.float32)
    points, places, is_term = spelled(texts)
    total = weights.sum()
    if not len(points) or not total > 0:
        return found
    worth = np.rint(weights / total * _ONE).astype(np.int64)
    at, which = _occurrences(terms, points, places, is_term)
    order = np.lexsort((at, which))
    at, which = at[order], which[order]
    starts = np.searchsorted(places, np.arange(len(texts)))  # of the texts, in characters
    spans = np.where(terms >> CODE_POINT_BITS > 0, 2, 1)[which]
    first = np.maximum(at + spans - width, starts[places[at]])  # window starts that cover an occurrence: first … at,
    same = which[1:] == which[:-1]
    first[1:][same] = np.maximum(first[1:][same], at[:-1][same] + 1)  # and none before it has counted
    gained = np.zeros(len(points) + 1, np.int64)
    np.add.at(gained, first, worth[which])
    np.subtract.at(gained, at + 1, worth[which])
    covered = np.cumsum(gained)
    has_text = np.flatnonzero(np.bincount(places, minlength=len(texts)))
    found[has_text] = np.maximum.reduceat(covered[:-1], starts[has_text]) / worth.sum()
    return found


def _occurrences(
    terms: NDArray[np.int64], points: NDArray[np.int64], places: NDArray[np.intp], is_term: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find where (k,) characters or pairs of them are a term, and which (k,)."""
    is_asked = np.zeros(int(points.max(initial=0)) + 1, np.bool_)
    characters = np.concatenate([terms >> CODE_POINT_BITS, terms & ((1 << CODE_POINT_BITS) - 1)])
    is_asked[characters[characters < len(is_asked)]] = True
    near = np.flatnonzero(is_asked[points] & is_term)
    is_pair = (np.diff(near) == 1) & (places[near[1:]] == places[near[:-1]])
    pairs = points[near[:-1][is_pair]] << CODE_POINT_BITS | points[near[1:][is_pair]]
    codes, at = np.concatenate([points[near], pairs]), np.concatenate([near, near[:-1][is_pair]])
    which = np.minimum(np.searchsorted(terms, codes), len(terms) - 1)
    known = terms[which] == codes
    return at[known], which[known]
