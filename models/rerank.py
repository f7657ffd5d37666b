"""The exact best of many candidates by a fused score, having solved only the transport problems that could matter.

    score = known + weight * similarity(distance)        known: the part that is at hand, such as the cosine

A lower bound of every distance costs little: all costs in one matrix product, then the reduction of the Hungarian
method. Take the least cost out of every row, then of every column of what is left (and the other way round, whichever
gives more): the sums taken out, weighed by the masses, are a feasible solution of the dual problem, hence at most the
distance, and never less than the relaxed bound of Kusner et al. (ICML 2015). A lower bound of the distance is an upper
bound of the score, so problems are solved in the order of their best possible scores until the best of the rest cannot
enter the result. What is returned equals solving everything; the certificate says how much was spared.

The bounds are computed in float32 and lowered by more than its rounding errors can amount to (for d-term sums of unit
rounding e, d * e relative: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), so they hold exactly.
Solved distances are `transport.distance` of the pair, to the last bit, whatever the other candidates are.
"""

import heapq
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import transport
from models.transport import Floats, Measure, Points, Vectors

BLOCK = 1 << 18  # costs held at a time: 1 MiB of float32, which stays in a core's cache
SOLVER_ROUNDING = 1e-12  # more than float64 can take from a solved distance, relative to the largest cost
UNDERFLOW = 1e-36  # more than float32 can lose of a squared distance below its normal range


class Candidates(NamedTuple):
    """Token vectors of n candidate texts, one text after another.

    Text i is made of the tokens offsets[i] to offsets[i + 1]. Token t has the vector vectors[t] or, where `rows` is
    given, vectors[rows[t]]: a token that occurs often is then stored and multiplied once.
    """

    vectors: NDArray[np.float32]  # (tokens, d), or (distinct tokens, d) with rows
    offsets: NDArray[np.int64]  # (n + 1,), from 0 to the number of tokens, never falling
    rows: NDArray[np.integer[Any]] | None = None  # (tokens,)

    @classmethod
    def from_table(
        cls, table: Vectors, token_ids: NDArray[np.integer[Any]], offsets: NDArray[np.int64]
    ) -> "Candidates":
        """Candidates whose token vectors are rows of a table (V, d), such as static vectors by token id (tokens,)."""
        occurs = np.zeros(len(table), dtype=bool)
        occurs[token_ids] = True
        distinct = np.flatnonzero(occurs)
        row_of = np.empty(len(table), dtype=np.int32)  # read only where a token occurs
        row_of[distinct] = np.arange(len(distinct), dtype=np.int32)
        return cls(table[distinct].astype(np.float32, copy=False), offsets, row_of[token_ids])

    def tokens(self, position: int) -> NDArray[np.float32]:
        """Token vectors (t, d) of one candidate."""
        which = slice(int(self.offsets[position]), int(self.offsets[position + 1]))
        return self.vectors[which] if self.rows is None else self.vectors[self.rows[which]]


class Certificate(NamedTuple):
    """What is proven about a result. `solved + pruned` is the number of candidates."""

    exact: bool  # the result equals solving every problem
    kth: float | None  # score of the last hit; None without hits
    next_bound: float | None  # the best score any unsolved candidate could have; None where all were solved
    solved: int
    pruned: int


class Reranked(NamedTuple):
    """The best k = min(top_k, n) candidates, best first."""

    order: NDArray[np.int64]  # (k,) positions among the candidates
    scores: Floats  # (k,), never rising
    distances: Floats  # (k,); WORST[measure] without mass; nan where a deadline left it unsolved
    certificate: Certificate


def rerank(
    query: Vectors,
    candidates: Candidates,
    known: Floats,
    weight: float,
    top_k: int,
    measure: Measure,
    tie_break: NDArray[Any] | None = None,
    deadline: float | None = None,
) -> Reranked:
    """Return the top_k candidates by known (n,) + weight * similarity(distance to query (m, d)).

    Equal scores are ordered by `tie_break` (n,), smallest first, then by position. Candidates without mass have the
    worst distance of the measure. After `deadline` (a value of time.monotonic) nothing more is solved: what is unsolved
    counts with the least score it can have, and the certificate is not exact. Raises ValueError for a negative weight,
    for values that are not finite, and for shapes that do not fit.
    """
    count = len(candidates.offsets) - 1
    check(query, candidates, known, weight, top_k)
    asked = transport.points(query, measure)
    bounds = lower_bounds(asked, candidates, measure)
    upper = known + weight * transport.similarity(bounds, measure)  # (n,)
    rank = np.empty(count, dtype=np.int64)
    rank[np.arange(count) if tie_break is None else np.argsort(tie_break, kind="stable")] = np.arange(count)
    order = np.lexsort((rank, -upper))

    distances = np.full(count, np.nan)
    scores = known.astype(np.float64) + weight * transport.similarity(transport.WORST[measure], measure)  # the least
    best: list[tuple[float, int]] = []  # heap of (score, -rank): its first is the k-th best so far
    solved, exact = 0, True
    for position, highest, place in zip(order.tolist(), upper[order].tolist(), (-rank[order]).tolist(), strict=True):
        if len(best) >= top_k and (highest, place) < best[0]:
            break
        if deadline is not None and time.monotonic() >= deadline:
            exact = False
            break
        text = transport.points(candidates.tokens(position), measure)
        distances[position] = found = transport.distance_between(asked, text, measure)
        scores[position] = score = float(known[position]) + weight * transport.similarity(found, measure)
        solved += 1
        heapq.heappush(best, (score, place))
        if len(best) > top_k:
            heapq.heappop(best)

    looked_at = order if not exact else order[:solved]
    hits = looked_at[np.lexsort((rank[looked_at], -scores[looked_at]))][:top_k]
    certificate = Certificate(
        exact=exact,
        kth=float(scores[hits[-1]]) if len(hits) else None,
        next_bound=float(upper[order[solved]]) if solved < count else None,
        solved=solved,
        pruned=count - solved,
    )
    return Reranked(hits, scores[hits], distances[hits], certificate)


def check(query: Vectors, candidates: Candidates, known: Floats, weight: float, top_k: int) -> None:
    """Raise ValueError, naming the value, for arguments of `rerank` that would give a wrong answer or none."""
    offsets = candidates.offsets
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    if known.shape != (len(offsets) - 1,):
        raise ValueError(f"known scores must be ({len(offsets) - 1},), one for each candidate, got {known.shape}")
    if not np.isfinite(known).all():
        raise ValueError(f"known scores must be finite, got {known[np.argmin(np.isfinite(known))]}")
    held = len(candidates.vectors) if candidates.rows is None else len(candidates.rows)
    if offsets[0] != 0 or offsets[-1] != held or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"offsets must rise from 0 to the {held} tokens, got {offsets[0]} to {offsets[-1]}")
    if query.ndim != 2 or candidates.vectors.ndim != 2 or query.shape[1] != candidates.vectors.shape[1]:
        raise ValueError(f"query {query.shape} and candidates {candidates.vectors.shape} must be (tokens, equal dim)")
    if candidates.vectors.dtype != np.float32:  # what the rounding errors are reckoned for
        raise ValueError(f"token vectors of candidates must be float32, got {candidates.vectors.dtype}")


def lower_bounds(query: Points, candidates: Candidates, measure: Measure) -> Floats:
    """A lower bound (n,) of the distance of each candidate; exact, the worst of the measure, for those without mass."""
    vectors, offsets, rows = candidates
    bounds = np.full(len(offsets) - 1, transport.WORST[measure])
    squares = transport.squared_lengths(vectors)
    present = np.flatnonzero(offsets[1:] > offsets[:-1])  # reduceat must not see an empty text
    if not (query.has_mass and len(present)):
        return bounds
    if measure == "wrd":
        weighed = query.masses > 0.0
        query = Points(query.at[weighed], query.masses[weighed], query.squares[weighed])
        lengths = token_lengths(vectors, squares)
        weights = lengths if rows is None else lengths[rows]
    else:
        lengths = squares
        weights = np.ones(int(offsets[-1]))
    totals = np.add.reduceat(weights, offsets[present])  # (present,)
    sums = np.empty(len(present))
    table = None if rows is None else cost_floor(query, vectors, lengths, measure)  # (m, distinct)
    for first, last in blocks(offsets[present], int(offsets[-1]), BLOCK // len(query.at)):
        starts = offsets[present[first:last]]
        tokens = slice(int(starts[0]), int(offsets[present[last - 1] + 1]))
        if table is None or rows is None:
            cost = cost_floor(query, vectors[tokens], lengths[tokens], measure)
        else:
            cost = table.take(rows[tokens], axis=1)
        sums[first:last] = reduction(query.masses, weights[tokens], totals[first:last], cost, starts - starts[0])
    largest = 2.0 if measure == "wrd" else math.sqrt(query.squares.max()) + math.sqrt(squares.max())  # of the costs
    rounding = 4.0 * unit_rounding(vectors.shape[1])  # of masses and of the reduced costs
    sums = np.maximum(sums * (1.0 - rounding) - SOLVER_ROUNDING * largest, 0.0)
    bounds[present] = np.where(totals > 0.0, sums, transport.WORST[measure])
    return bounds


def blocks(starts: NDArray[np.int64], end: int, tokens: int) -> Iterator[tuple[int, int]]:
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


def cost_floor(
    query: Points, vectors: NDArray[np.float32], lengths: NDArray[Any], measure: Measure
) -> NDArray[np.float32]:
    """Costs (m, t) of the query against token vectors (t, d), lowered by all that float32 may be wrong; at least 0.

    `lengths` (t,) are the lengths of the vectors for wrd, their squares for wmd.
    """
    rounding = unit_rounding(vectors.shape[1])
    if measure == "wrd":
        # |error of the cosine| <= that of the dot product and half that of the squared length
        cost: NDArray[np.float32] = (-query.at).astype(np.float32) @ vectors.T
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


def reduction(
    query_masses: Floats, weights: Floats, totals: Floats, cost: NDArray[np.float32], starts: NDArray[np.int64]
) -> Floats:
    """Bounds (b,) of b texts: the greater of what the two orders of reduction take out of the costs (m, t), weighed.

    Text i begins at token starts[i] of t; its masses are its weights over totals[i] (its bound is nan where that is 0).
    The costs are overwritten.
    """
    sizes = np.diff(starts, append=cost.shape[1])
    row_least = np.minimum.reduceat(cost, starts, axis=1)  # (m, b)
    column_rest = np.min(cost - np.repeat(row_least, sizes, axis=1), axis=0)  # (t,)
    column_least = np.min(cost, axis=0)  # (t,)
    cost -= column_least
    row_rest = np.minimum.reduceat(cost, starts, axis=1)  # (m, b)
    with np.errstate(invalid="ignore"):
        rows_first = query_masses @ row_least + np.add.reduceat(column_rest * weights, starts) / totals
        columns_first = np.add.reduceat(column_least * weights, starts) / totals + query_masses @ row_rest
    return np.maximum(rows_first, columns_first)
