"""How cosine, lexical and transport similarity become one score.

    score = (1 - w) * ((1 - l) * cosine + l * lexical) + w * transport

w (``weight``) is the share of transport: 0 is the first stage alone, 1 transport alone. l (``lexical_weight``) is the share of
BM25 in the first stage. What is best for questions among questions is not best for questions among passages, which are many
times as long: the default shares hang on that ratio (`SharesByLength`).

All three are similarities: cosine in [-1, 1]; lexical = (1 - c) * BM25 over the largest BM25 the query could reach + c * the
share of the query that the best window of the text covers, in [0, 1]; transport = 1 - WRD in [-1, 1], or 1 / (1 + WMD) in
(0, 1]. c (``window_weight``) is for passages, of which a sentence or two answer; texts as long as the query are one window.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class Shares(NamedTuple):
    """What a score is made of, all in [0, 1]."""

    weight: float
    lexical_weight: float
    window_weight: float = 0.0


@dataclass(frozen=True)
class SharesByLength:
    """Shares for texts that are `ratio` times as long as the query: linear in log(ratio) between points, constant outside."""

    points: tuple[tuple[float, Shares], ...]  # rising ratios, at least one

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Self:
        """Read `weight`, `lexical_weight` and, where texts may be longer, `by_length`.

        That is a list of [ratio, weight, lexical_weight] or [ratio, weight, lexical_weight, window_weight]; the two numbers of
        the card hold at ratio 1. Raises ValueError for shares outside [0, 1] or ratios that do not rise from 1.
        """
        rows = [(1.0, card.get("weight", 0.5), card.get("lexical_weight", 0.0)), *card.get("by_length", ())]
        if any(not 3 <= len(row) <= 4 for row in rows):
            raise ValueError(f"a row of the card's by_length has three or four numbers: {rows[1:]}")
        points = tuple((float(ratio), Shares(*map(float, shares))) for ratio, *shares in rows)
        if any(not 0.0 <= share <= 1.0 for _, shares in points for share in shares):
            raise ValueError(f"the card's weights must lie in [0, 1]: {rows}")
        if any(one >= other for (one, _), (other, _) in pairwise(points)):
            raise ValueError(f"the ratios of the card's by_length must rise from 1: {rows}")
        return cls(points)

    def fixed(self, weight: float | None, lexical_weight: float | None, window_weight: float | None = None) -> Self:
        """Take the given shares at every ratio; None leaves one as it is."""
        given = {"weight": weight, "lexical_weight": lexical_weight, "window_weight": window_weight}
        named = {name: share for name, share in given.items() if share is not None}
        return type(self)(tuple((ratio, shares._replace(**named)) for ratio, shares in self.points))

    def at(self, ratio: float) -> Shares:
        """Give the shares for a ratio > 0."""
        if ratio <= self.points[0][0]:
            return self.points[0][1]
        for (low, before), (high, after) in pairwise(self.points):
            if ratio < high:
                share = math.log(ratio / low) / math.log(high / low)
                return Shares(*(one + share * (other - one) for one, other in zip(before, after, strict=True)))
        return self.points[-1][1]


def first_stage(cosine: Floats | None, lexical: Floats | None, lexical_weight: float) -> NDArray[np.float64]:
    """Fuse what is known before transport, (n,); a part that did not run is left out and the other counts whole."""
    if cosine is None and lexical is None:
        raise ValueError("neither cosine nor lexical similarity is known")
    if lexical is None:
        return np.asarray(cosine, np.float64)
    if cosine is None:
        return np.asarray(lexical, np.float64)
    return (1.0 - lexical_weight) * np.asarray(cosine, np.float64) + lexical_weight * np.asarray(lexical, np.float64)


def with_windows(lexical: Floats, windows: Floats, window_weight: float) -> Floats:
    """Join the share of the query's terms that BM25 gives, (n,), and what the best windows cover, (n,), to one similarity."""
    return (1.0 - window_weight) * lexical + window_weight * windows


def reciprocal_ranks(rankings: list[NDArray[np.int64]], count: int, constant: int = 60) -> NDArray[np.int64]:
    """Merge rankings of rows into the best ``count`` rows: sum of 1 / (constant + rank), ranks from 1, ties by row.

    Reciprocal rank fusion, Cormack et al., SIGIR 2009.
    """
    rows = np.concatenate(rankings)
    shares = np.concatenate([1.0 / (constant + 1 + np.arange(len(ranking))) for ranking in rankings])
    distinct, where = np.unique(rows, return_inverse=True)
    totals = np.bincount(where, weights=shares, minlength=len(distinct))
    return distinct[np.lexsort((distinct, -totals))[:count]]
