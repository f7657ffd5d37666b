"""Lower bounds of the transport distances between one query and many texts, each dearer and tighter than the one before.

1. ``relaxed``: every token of the text goes to its nearest token of the query, as if the query's masses did not matter (the
   relaxed bound of Kusner et al., ICML 2015, from the text's side), after tokens of the query to which texts crowd were made
   dearer, alike for all texts (models/query_potentials.py). Where token vectors are rows of one table, the nearest token of the
   query is looked up once per row of the table, and a text costs one addition per token (LC-RWMD, Atasu et al. 2017,
   arXiv:1711.07227): millions of tokens in milliseconds.
2. ``reduced``: the reduction of the Hungarian method. Take the least cost out of every row, then of every column of what is
   left (and the other way round, whichever gives more): the sums taken out, weighed by the masses, are a feasible solution
   of the dual problem, hence at most the distance. The potentials that texts share give another; with a table they stand for the
   second order. A pool of short texts under WRD is reduced at once, in both orders: the first bound would take longer.
3. models/dual_bound.py: a few Sinkhorn iterations, for long texts.

The bounds are computed in float32 and lowered by more than its rounding errors can amount to (for d-term sums of unit
rounding e, d * e relative: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), so they hold exactly.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models import transport
from models.candidates import Candidates, ranges
from models.deadline import Deadline
from models.dual_bound import Dual, dual_values
from models.query_potentials import query_potentials
from models.transport import Floats, Measure, Points

BLOCK = 1 << 18  # costs held at a time: 1 MiB of float32, which stays in a core's cache
RUN = 1 << 16  # tokens of a table looked up at a time
SMALL_COSTS = 1 << 16  # up to so many, reducing all in both orders takes less time than the potentials that texts share
SAMPLE_TEXTS = 256  # that the potentials shared by all are learned from; where tokens share no table,
SAMPLE_TOKENS = 1_024  # so many tokens
SOLVER_ROUNDING = 1e-12  # more than float64 can take from a solved distance, relative to the largest cost
UNDERFLOW = 1e-36  # more than float32 can lose of a squared distance below its normal range

Costs = NDArray[np.float32]
Places = NDArray[np.int64]


class LowerBounds(Protocol):
    """What a rerank asks of lower bounds of the distances between one query and n candidates."""

    query: Points  # its tokens with mass
    dual_run: int  # candidates that get the dual bound at once

    @property
    def has_table(self) -> bool:
        """Whether `relaxed` costs next to nothing beside `reduced`."""
        ...

    def relaxed(self) -> Floats:
        """Bounds (n,), the cheapest."""
        ...

    def reduced(self, positions: Places | None = None, deadline: Deadline | None = None) -> Floats:
        """Bounds (k,) of some, or of all; better ones. Those that the deadline leaves out have 0."""
        ...

    def dual(self, positions: Places) -> Floats:
        """Bounds (k,) of some; the best ones."""
        ...


class Floors:
    """Bounds of the distances between one query and candidates; texts without mass have the worst distance exactly."""

    dual_run = 12  # candidates that get the dual bound at once

    def __init__(self, query: Points, candidates: Candidates, measure: Measure) -> None:
        """Raise ValueError where token vectors of the candidates are not finite or too long."""
        self._measure = measure
        self._worst = transport.WORST[measure]
        self._candidates = candidates
        squares = (
            candidates.squares if candidates.squares is not None else transport.squared_lengths(candidates.vectors)
        )
        weighed = query.masses > 0.0
        self.query = Points(query.at[weighed], query.masses[weighed], query.squares[weighed])
        lengths = token_lengths(candidates.vectors, squares) if measure == "wrd" else None
        self._sizes: NDArray[Any] = squares if lengths is None else lengths  # what costs need of each vector
        if candidates.weights is not None:
            self._weights: Floats = candidates.weights
        else:
            self._weights = np.ones(len(squares)) if lengths is None else lengths  # (D,), of each vector
        longest = math.sqrt(float(squares.max(initial=0.0)))
        self._largest = 2.0 if measure == "wrd" else math.sqrt(query.squares.max(initial=0.0)) + longest  # of the costs
        self._rounding = 4.0 * unit_rounding(candidates.vectors.shape[1])  # of masses and of reduced costs
        self._table: Costs | None = None  # (m, D)
        self._potentials: tuple[Costs, Costs] | None = None  # (m,), (D,) with a table
        tokens = int(candidates.offsets[-1])
        is_few = candidates.rows is not None and tokens * len(self.query.masses) <= SMALL_COSTS
        self._is_small = is_few and measure == "wrd"  # by WMD shared potentials spare more solves than they cost
        if candidates.rows is not None and len(self.query.masses):
            self._table = cost_floor(self.query, candidates.vectors, self._sizes, measure)

    @property
    def has_table(self) -> bool:
        """Whether tokens share vectors and are many, so that the relaxed bound costs next to nothing beside the others."""
        return self._table is not None and not self._is_small

    def relaxed(self) -> Floats:
        """Bounds (n,) by potentials of the query that all texts share; only with a table."""
        offsets, rows = self._candidates.offsets, self._candidates.rows
        assert self._table is not None
        assert rows is not None
        bounds = np.full(len(offsets) - 1, self._worst)
        present = np.flatnonzero(offsets[1:] > offsets[:-1])  # reduceat must not see an empty text
        if not len(present):
            return bounds
        scale = max(float(self._weights.max()), 1e-300)
        weights = (self._weights / scale).astype(np.float32)  # (D,), in [0, 1]
        potentials, served = self._shared_potentials(present)
        served = weights * served
        sums, totals = (np.empty(len(present), np.float32) for _ in range(2))
        for first, last in blocks(offsets[present], int(offsets[-1]), RUN):
            starts = offsets[present[first:last]]
            tokens = rows[starts[0] : offsets[present[last - 1] + 1]].astype(np.intp)
            np.add.reduceat(served.take(tokens, mode="clip"), starts - starts[0], out=sums[first:last])
            np.add.reduceat(weights.take(tokens, mode="clip"), starts - starts[0], out=totals[first:last])
        longest = int((offsets[1:] - offsets[:-1]).max())
        of_query = float(self.query.masses @ potentials)  # at most 0
        with np.errstate(invalid="ignore", divide="ignore"):
            of_texts = sums.astype(np.float64) / totals
            found = self.lowered_dual(of_texts + of_query, of_texts - of_query, unit_rounding(4 * longest))
        has_mass = totals > 1e-6  # of what is smaller, float32 cannot tell the share: its bound is 0
        bounds[present] = np.where(has_mass, found, 0.0)
        return bounds

    def _shared_potentials(self, present: Places) -> tuple[Costs, Costs]:
        """Potentials of the query (m,) and of every vector (D,), learned from some of the texts that have tokens."""
        if self._potentials is None:
            assert self._table is not None
            assert self._candidates.rows is not None
            some = present[:: -(-len(present) // SAMPLE_TEXTS)]
            rows = self._candidates.rows[ranges(self._candidates.offsets, some)].astype(np.intp)
            sizes = self._candidates.offsets[some + 1] - self._candidates.offsets[some]
            weights = self._weights[rows]
            totals = np.repeat(np.add.reduceat(weights, np.cumsum(sizes) - sizes), sizes)
            shares = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0.0)
            masses = np.bincount(rows, shares, len(self._weights))
            occur = np.flatnonzero(masses)
            f = np.zeros(len(self.query.masses), np.float32)
            if len(occur):
                f = query_potentials(
                    self.query.masses, self._table[:, occur], (masses[occur] / masses.sum()).astype(np.float32)
                )
            self._potentials = f, np.min(self._table - f[:, None], axis=0)
        return self._potentials

    def reduced(self, positions: Places | None = None, deadline: Deadline | None = None) -> Floats:
        """Bounds (k,) of the candidates at some positions (k,), or of all, by reduction; 0 for those after the deadline."""
        offsets = self._candidates.offsets
        places = np.arange(len(offsets) - 1) if positions is None else positions
        bounds = np.full(len(places), self._worst)
        sizes = offsets[places + 1] - offsets[places]
        present = np.flatnonzero(sizes)
        if not len(self.query.masses) or not len(present):
            return bounds
        ends = np.concatenate([[0], np.cumsum(sizes[present])])
        for first, last in blocks(ends[:-1], int(ends[-1]), BLOCK // len(self.query.masses)):
            if deadline is not None and deadline.is_over:
                bounds[present[first:]] = 0.0
                break
            some = places[present[first:last]]
            cost, weights = self.block(some)
            starts = ends[first:last] - ends[first]
            totals = np.add.reduceat(weights, starts)
            if self._is_small:
                found = self._lowered(reduction(self.query.masses, weights, totals, cost, starts))
                bounds[present[first:last]] = np.where(totals > 0.0, found, self._worst)
                continue
            served = self._served(some, cost)
            shared = by_potentials(self.query.masses, weights, totals, cost, starts, served)
            reduce = reduction if self._table is None else by_rows_first  # what is shared stands for the other order
            sums = reduce(self.query.masses, weights, totals, cost, starts)
            found = np.maximum(self._lowered(sums), self.lowered_dual(*shared))
            bounds[present[first:last]] = np.where(totals > 0.0, found, self._worst)
        return bounds

    def _served(self, positions: Places, cost: Costs) -> Costs:
        """Potentials (t,) of the tokens of some texts, whose costs (m, t) are given, from those of the query that texts share."""
        if self._candidates.rows is not None and self._table is not None:
            tokens = self._candidates.rows[ranges(self._candidates.offsets, positions)].astype(np.intp)
            return np.asarray(self._shared_potentials(positions)[1].take(tokens), np.float32)
        if self._potentials is None:
            some = slice(None, None, -(-len(self._weights) // SAMPLE_TOKENS))
            sample = cost_floor(self.query, self._candidates.vectors[some], self._sizes[some], self._measure)
            masses = self._weights[some] / max(float(self._weights[some].sum()), 1e-300)
            f = query_potentials(self.query.masses, sample, masses.astype(np.float32))
            self._potentials = f, np.empty(0, np.float32)
        return np.asarray(np.min(cost - self._potentials[0][:, None], axis=0))

    def block(self, positions: Places) -> tuple[Costs, Floats]:
        """Costs (m, t), rounded down, and token weights (t,) of the candidates at positions, one after another; both copies."""
        vectors, rows = self._candidates.vectors, self._candidates.rows
        tokens = ranges(self._candidates.offsets, positions)
        if rows is None or self._table is None:
            return cost_floor(self.query, vectors[tokens], self._sizes[tokens], self._measure), self._weights[tokens]
        which = rows[tokens].astype(np.intp)
        return self._table.take(which, axis=1), self._weights[which]

    def _lowered(self, sums: Floats) -> Floats:
        """Bounds without what rounding may have added."""
        return np.maximum(sums * (1.0 - self._rounding) - SOLVER_ROUNDING * self._largest, 0.0)

    def dual(self, positions: Places) -> Floats:
        """Bounds (k,) of some candidates with tokens, by Sinkhorn iterations; a query without mass has none."""
        cost, weights = self.block(positions)
        sizes = self._candidates.offsets[positions + 1] - self._candidates.offsets[positions]
        starts = np.cumsum(sizes) - sizes
        found = self.lowered_dual(*dual_values(self.query.masses, cost, weights, starts))
        return np.where(np.add.reduceat(weights, starts) > 0.0, found, self._worst)

    def lowered_dual(self, values: Floats, sizes: Floats, rounding: float = 0.0) -> Floats:
        """Values of dual solutions (b,) without what rounding may have added; `sizes` (b,) of what they are sums of."""
        return np.maximum(values - (self._rounding + rounding) * sizes - SOLVER_ROUNDING * self._largest, 0.0)


def blocks(starts: Places, end: int, tokens: int) -> Iterator[tuple[int, int]]:
    """Cut texts, from `starts` (n,) to `end`, into runs [first, last) of at most `tokens` tokens, or of one text."""
    first = 0
    while first < len(starts):
        last = len(starts)
        if end - starts[first] > tokens:
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + tokens, side="right")) - 1)
        yield first, last
        first = last


def token_lengths(vectors: NDArray[np.float32], squares: NDArray[np.float32]) -> Floats:
    """Lengths (t,) of rows (t, d) from their squares: 0 exactly where `transport.points` gives no mass."""
    lengths = np.sqrt(squares, dtype=np.float64)
    tiny = np.flatnonzero(lengths < 2.0 * transport.SHORTEST)  # float32 cannot tell
    if len(tiny):
        again = np.sqrt(transport.squared_lengths(vectors[tiny].astype(np.float64)))
        lengths[tiny] = np.where(again < transport.SHORTEST, 0.0, again)
    return lengths


def unit_rounding(dim: int) -> float:
    """Relative error of a float32 sum of `dim` products, in whatever order it is made."""
    return (dim + 8) * float(np.finfo(np.float32).eps) / 2.0


def cost_floor(query: Points, vectors: NDArray[np.float32], lengths: NDArray[Any], measure: Measure) -> Costs:
    """Costs (m, t) of the query against token vectors (t, d), lowered by all that float32 may be wrong; at least 0.

    `lengths` (t,) are the lengths of the vectors for wrd, their squares for wmd.
    """
    rounding = unit_rounding(vectors.shape[1])
    if measure == "wrd":
        # |error of the cosine| <= that of the dot product and half that of the squared length
        cost: Costs = (-query.at).astype(np.float32) @ vectors.T
        with np.errstate(divide="ignore"):
            cost *= np.where(lengths > 0.0, 1.0 / lengths, 0.0).astype(np.float32)
        cost += np.float32(1.0 - 2.0 * rounding)
        return np.maximum(cost, 0.0, out=cost)
    # |error of x2 + y2 - 2xy| <= 2 * rounding * (|x| + |y|)^2 <= 4 * rounding * (x2 + y2)
    cost = (-2.0 * query.at).astype(np.float32) @ vectors.T
    cost += lengths * np.float32(1.0 - 5.0 * rounding)
    cost += (query.squares * (1.0 - 5.0 * rounding) - UNDERFLOW).astype(np.float32)[:, None]
    np.maximum(cost, 0.0, out=cost)
    return np.sqrt(cost, out=cost)


def reduction(query_masses: Floats, weights: Floats, totals: Floats, cost: Costs, starts: Places) -> Floats:
    """Bounds (b,) of b texts: the greater of what the two orders of reduction take out of the costs (m, t), weighed.

    Text i begins at token starts[i] of t; its masses are its weights over totals[i] (its bound is nan where that is 0).
    The costs are overwritten.
    """
    rows_first = by_rows_first(query_masses, weights, totals, cost, starts)
    column_least = np.min(cost, axis=0)  # (t,)
    cost -= column_least
    row_rest = np.minimum.reduceat(cost, starts, axis=1)  # (m, b)
    with np.errstate(invalid="ignore"):
        columns_first = np.add.reduceat(column_least * weights, starts) / totals + query_masses @ row_rest
    return np.maximum(rows_first, columns_first)


def by_rows_first(query_masses: Floats, weights: Floats, totals: Floats, cost: Costs, starts: Places) -> Floats:
    """What the first of the two orders of `reduction` takes out, weighed (b,); the costs stay as they are."""
    sizes = np.diff(starts, append=cost.shape[1])
    row_least = np.minimum.reduceat(cost, starts, axis=1)  # (m, b)
    column_rest = np.min(cost - np.repeat(row_least, sizes, axis=1), axis=0)  # (t,)
    with np.errstate(invalid="ignore"):
        return np.asarray(query_masses @ row_least + np.add.reduceat(column_rest * weights, starts) / totals)


def by_potentials(
    query_masses: Floats, weights: Floats, totals: Floats, cost: Costs, starts: Places, served: Costs
) -> Dual:
    """Dual solutions (b,) from potentials `served` (t,) of tokens, with the best for the query; the costs stay as they are."""
    rest = np.minimum.reduceat(cost - served, starts, axis=1)  # (m, b)
    with np.errstate(invalid="ignore"):
        of_texts = np.add.reduceat(served * weights, starts) / totals
        return Dual(of_texts + query_masses @ rest, of_texts + query_masses @ np.abs(rest))
