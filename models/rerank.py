"""The exact best of many candidates by a fused score, having solved only the transport problems that could matter.

    score = known + weight * similarity(distance)        known: the part that is at hand, such as the cosine

A lower bound of a distance is an upper bound of its score. Every candidate gets the cheapest bound (models/bounds.py);
whoever is then in front gets the next better one, and whoever is in front with the last is solved, until the best of the
rest cannot enter the result (optimal multi-step search, Seidl and Kriegel, SIGMOD 1998). What is returned equals solving
everything; the certificate says how much was spared. One query against ten candidates or a million texts is the same work:
only those in front cost more than an addition per token.

Solved distances are `transport.distance` of the pair, to the last bit, whatever the other candidates are.
"""

import heapq
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import transport
from models.bounds import Floors
from models.candidates import Candidates
from models.dual_bound import dual_values
from models.transport import Floats, Measure, Points, Vectors

FIRST_TOKENS = (
    4_096  # tokens of the first candidates that are bounded by reduction; each following run is twice as long
)
LONG_PROBLEM = 1_200  # costs of a problem from which the dual bound pays
DUAL_RUN = 12  # candidates that get the dual bound at once

Places = NDArray[np.int64]
TieBreak = NDArray[Any] | Callable[[Places], Sequence[Any]]
RELAXED, REDUCED, DUAL = range(3)  # how good the bound of a candidate is


class Certificate(NamedTuple):
    """What is proven about a result. `solved + pruned` is the number of candidates."""

    exact: bool  # the result equals solving every problem
    kth: float | None  # score of the last hit; None without hits
    next_bound: float | None  # the best score any unsolved candidate could have; None where all were solved
    solved: int
    pruned: int


class Opened(NamedTuple):
    """How many candidates were looked at by each bound, and solved."""

    relaxed: int = 0
    reduced: int = 0
    dual: int = 0
    solved: int = 0


class Reranked(NamedTuple):
    """The best k = min(top_k, n) candidates, best first."""

    order: Places  # (k,) positions among the candidates
    scores: Floats  # (k,), never rising
    distances: Floats  # (k,); WORST[measure] without mass; nan where a deadline left it unsolved
    certificate: Certificate
    opened: Opened


def rerank(
    query: Vectors,
    candidates: Candidates,
    known: Floats,
    weight: float,
    top_k: int,
    measure: Measure,
    tie_break: TieBreak | None = None,
    deadline: float | None = None,
    query_weights: Floats | None = None,
    at_least: float = -math.inf,
) -> Reranked:
    """Return the top_k candidates by known (n,) + weight * similarity(distance to query (m, d)).

    Equal scores are ordered by `tie_break`, smallest first, then by position: it is (n,), or gives that of some positions.
    Candidates without mass have the worst distance of the measure. `query_weights` (m,) are token weights in place of the
    measure's own, as `candidates.weights` are. After `deadline` (a value of time.monotonic) nothing more is solved: what is
    unsolved counts with the least score it can have, and the certificate is not exact. Who cannot reach the score `at_least` need
    not be found. Raises ValueError for a negative weight, for values that are not finite, and for shapes that do not fit.
    """
    check(query, candidates, known, weight, top_k)
    asked = transport.points(query, measure, query_weights)
    ranking = _Ranking(asked, candidates, known.astype(np.float64), weight, top_k, measure, at_least)
    exact = ranking.run(deadline)
    if exact:
        scores, positions = np.array(ranking.scores, np.float64), np.array(list(ranking.distances), np.int64)
    else:
        scores = ranking.known + weight * transport.similarity(transport.WORST[measure], measure)  # the least
        scores[list(ranking.distances)] = ranking.scores
        positions = np.arange(candidates.texts)
    best = best_of(scores, positions, top_k, tie_break)
    order = positions[best]
    certificate = Certificate(
        exact=exact,
        kth=float(scores[best[-1]]) if len(best) else None,
        next_bound=ranking.next_bound if len(ranking.distances) < candidates.texts else None,
        solved=len(ranking.distances),
        pruned=candidates.texts - len(ranking.distances),
    )
    distances = np.array([ranking.distances.get(position, math.nan) for position in order.tolist()])
    return Reranked(order, scores[best], distances, certificate, ranking.opened)


def best_of(scores: Floats, positions: Places, top_k: int, tie_break: TieBreak | None = None) -> Places:
    """Where in `scores` (k,) the top_k best stand, best first; ties as `rerank` breaks those of these positions (k,)."""
    kept = np.arange(len(scores))
    if len(scores) > top_k:
        kept = np.flatnonzero(scores >= np.partition(scores, len(scores) - top_k)[len(scores) - top_k])
    where = positions[kept]
    if tie_break is None:
        names: Any = where
    else:
        names = np.asarray(tie_break(where)) if callable(tie_break) else tie_break[where]
    return kept[np.lexsort((where, names, -scores[kept]))][:top_k]


def check(query: Vectors, candidates: Candidates, known: Floats, weight: float, top_k: int) -> None:
    """Raise ValueError, naming the value, for arguments of `rerank` that would give a wrong answer or none."""
    offsets, rows = candidates.offsets, candidates.rows
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    if known.shape != (len(offsets) - 1,):
        raise ValueError(f"known scores must be ({len(offsets) - 1},), one for each candidate, got {known.shape}")
    if not np.isfinite(known).all():
        raise ValueError(f"known scores must be finite, got {known[np.argmin(np.isfinite(known))]}")
    held = len(candidates.vectors) if rows is None else len(rows)
    if offsets[0] != 0 or offsets[-1] != held or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"offsets must rise from 0 to the {held} tokens, got {offsets[0]} to {offsets[-1]}")
    if rows is not None and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(candidates.vectors):
        raise ValueError(f"rows must be in [0, {len(candidates.vectors)}), got {rows.min()} to {rows.max()}")
    if query.ndim != 2 or candidates.vectors.ndim != 2 or query.shape[1] != candidates.vectors.shape[1]:
        raise ValueError(f"query {query.shape} and candidates {candidates.vectors.shape} must be (tokens, equal dim)")
    if candidates.vectors.dtype != np.float32:  # what the rounding errors are reckoned for
        raise ValueError(f"token vectors of candidates must be float32, got {candidates.vectors.dtype}")
    if candidates.weights is not None:
        transport.check_weights(candidates.weights, len(candidates.vectors))


class _Ranking:
    """One run of `rerank`: who is in front, by which bound, and who was solved."""

    def __init__(
        self,
        query: Points,
        candidates: Candidates,
        known: Floats,
        weight: float,
        top_k: int,
        measure: Measure,
        at_least: float,
    ) -> None:
        self.known = known  # (n,)
        self.distances: dict[int, float] = {}  # of solved candidates, by position
        self.scores: list[float] = []  # of the same
        self._query = query
        self._candidates = candidates
        self._weight = weight
        self._top_k = top_k
        self._measure = measure
        self._at_least = at_least
        self._floors = Floors(query, candidates, measure)
        self._best: list[float] = []  # heap of the top_k best scores: its first is the k-th
        self._pending: list[tuple[float, int, int]] = []  # heap of (-best possible score, position, kind of bound)
        self._same: dict[bytes, float] = {}  # distances of texts by their tokens
        self._sizes = candidates.offsets[1:] - candidates.offsets[:-1]  # (n,) tokens
        self._counts = [0, 0, 0]
        bounds = self._floors.relaxed() if self._floors.has_table else self._floors.reduced()
        self._counts[RELAXED if self._floors.has_table else REDUCED] = len(known)
        self._upper = self._best_scores(np.arange(len(known)), bounds)  # (n,)
        self._run_tokens = FIRST_TOKENS
        self._order, self._sorted, self._next = np.empty(0, np.int64), 0, 0
        self._sort_more()

    @property
    def opened(self) -> Opened:
        """How many candidates each stage looked at."""
        relaxed, reduced, dual = self._counts
        return Opened(relaxed, reduced, dual, len(self.distances))

    @property
    def next_bound(self) -> float:
        """The best score that anybody unsolved can have; -inf where there is nobody."""
        return max(-self._pending[0][0] if self._pending else -math.inf, self._rest)

    @property
    def _rest(self) -> float:
        """The best possible score among those with the cheapest bound only."""
        return float(self._upper[self._order[self._next]]) if self._next < len(self._order) else -math.inf

    @property
    def _kth(self) -> float:
        return max(self._at_least, self._best[0]) if len(self._best) == self._top_k else self._at_least

    def run(self, deadline: float | None) -> bool:
        """Solve until the result is proven (True) or the deadline comes (False)."""
        while self._pending or self._next < len(self._order):
            if self._kth > self.next_bound:
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            if not self._pending or -self._pending[0][0] <= self._rest:
                self._open_more()
                continue
            _, position, kind = self._pending[0]
            if kind == REDUCED and self._is_long(position):
                self._improve()
            else:
                heapq.heappop(self._pending)
                self._solve(position)
        return True

    def _is_long(self, position: int) -> bool:
        """Whether a problem is dear enough for the dual bound to pay."""
        return bool(len(self._floors.query.masses) * self._sizes[position] >= LONG_PROBLEM)

    def _best_scores(self, positions: Places, bounds: Floats) -> Floats:
        """The best scores that candidates with these distances at least can have."""
        return np.asarray(self.known[positions] + self._weight * transport.similarity(bounds, self._measure))

    def _sort_more(self) -> None:
        """Put so many more of the best into their order: the first thousand, then four times as many."""
        count, self._sorted = len(self._upper), max(1_024, 4 * self._sorted)
        if self._sorted < count // 4:
            least = np.partition(self._upper, count - self._sorted)[count - self._sorted]
            kept = np.flatnonzero(self._upper >= least)
        else:
            kept, self._sorted = np.arange(count), count
        self._order = kept[np.argsort(-self._upper[kept], kind="stable")]

    def _open_more(self) -> None:
        """Give the next of those with the cheapest bound a better one, if there is a better one."""
        sizes = self._sizes[self._order[self._next :]]
        run = max(1, int(np.searchsorted(np.cumsum(sizes), self._run_tokens, side="right")))
        chosen = self._order[self._next : self._next + run]
        self._next += len(chosen)
        self._run_tokens *= 2
        upper = self._upper[chosen]
        if self._floors.has_table:
            self._counts[REDUCED] += len(chosen)
            upper = np.minimum(upper, self._best_scores(chosen, self._floors.reduced(chosen)))
        for highest, position in zip(upper.tolist(), chosen.tolist(), strict=True):
            heapq.heappush(self._pending, (-highest, position, REDUCED))
        if self._next == len(self._order) < len(self._upper):
            self._sort_more()

    def _improve(self) -> None:
        """Give the long texts among those in front the dual bound."""
        chosen: list[int] = []
        others = []
        while self._pending and len(chosen) < DUAL_RUN and -self._pending[0][0] >= self._kth:
            entry = heapq.heappop(self._pending)
            if entry[2] == REDUCED and self._is_long(entry[1]):
                chosen.append(entry[1])
                others.append(entry)
            else:
                others.append(entry)
                if len(others) > 4 * DUAL_RUN:
                    break
        positions = np.array(chosen, np.int64)
        bounds = dict(zip(chosen, self._best_scores(positions, self._dual_bounds(positions)).tolist(), strict=True))
        self._counts[DUAL] += len(chosen)
        for negative, position, kind in others:
            if position in bounds:
                negative, kind = max(negative, -bounds[position]), DUAL
            heapq.heappush(self._pending, (negative, position, kind))

    def _dual_bounds(self, positions: Places) -> Floats:
        """Bounds (k,) by Sinkhorn iterations."""
        cost, weights = self._floors.block(positions)
        sizes = self._sizes[positions]
        values = dual_values(self._floors.query.masses, cost, weights, np.cumsum(sizes) - sizes)
        return self._floors.lowered_dual(*values)

    def _solve(self, position: int) -> None:
        """Solve one problem."""
        candidates = self._candidates
        key = b""
        if candidates.rows is not None:
            key = candidates.rows[candidates.offsets[position] : candidates.offsets[position + 1]].tobytes()
        distance = self._same.get(key)
        if distance is None:
            text = candidates.points(position, self._measure)
            distance = transport.distance_between(self._query, text, self._measure)
            if candidates.rows is not None:
                self._same[key] = distance
        score = float(self.known[position]) + self._weight * transport.similarity(distance, self._measure)
        self.distances[position] = distance
        self.scores.append(score)
        if len(self._best) < self._top_k:
            heapq.heappush(self._best, score)
        else:
            heapq.heappushpop(self._best, score)
