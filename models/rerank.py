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
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import transport
from models.bounds import Floors, LowerBounds
from models.candidates import RankedTexts
from models.deadline import Deadline
from models.device_bounds import DeviceFloors
from models.solvers import Cores, EntropicSolver, ExactSolver, Solver
from models.transport import Floats, Measure, Points, Vectors

FIRST_TOKENS = (
    1_024  # tokens of the first candidates that are bounded by reduction; each following run is twice as long
)
LONG_PROBLEM = 1_200  # costs of a problem from which the dual bound pays

Places = NDArray[np.int64]
TieBreak = NDArray[Any] | Callable[[Places], Sequence[Any]]
Bound = Callable[[Points, Any, Measure], LowerBounds]
NEXT = 3  # candidates that idle cores may be given
RELAXED, REDUCED, DUAL = range(3)  # how good the bound of a candidate is


class Solving(NamedTuple):
    """How distances are bounded and solved."""

    bound: Bound = Floors
    entropic: Callable[[Points, Any, Measure], DeviceFloors] | None = (
        None  # who makes problems to be solved nearly; None: exactly
    )
    cores: Cores | None = None  # what exact solves may run ahead on


EXACT = Solving()


class Certificate(NamedTuple):
    """What is proven about a result. `solved + pruned` is the number of candidates."""

    exact: bool  # the result equals solving every problem
    kth: float | None  # score of the last hit; None without hits
    next_bound: float | None  # the best score any unsolved candidate could have; None where all were solved
    solved: int
    pruned: int
    max_error: float | None = 0.0  # how much less the distance of a hit may be; None where one was not solved


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
    is_complete: bool  # no deadline came before everything was done
    errors: Floats  # (k,) how much less the distances may be: 0 where they are exact; nan where a deadline left them unsolved


def rerank(
    query: Vectors,
    candidates: RankedTexts,
    known: Floats,
    weight: float,
    top_k: int,
    measure: Measure,
    tie_break: TieBreak | None = None,
    deadline: Deadline | None = None,
    query_weights: Floats | None = None,
    at_least: float = -math.inf,
    solving: Solving = EXACT,
) -> Reranked:
    """Return the top_k candidates by known (n,) + weight * similarity(distance to query (m, d)).

    Equal scores are ordered by `tie_break`, smallest first, then by position: it is (n,), or gives that of some positions.
    Candidates without mass have the worst distance of the measure. `query_weights` (m,) are token weights in place of the
    measure's own, as `candidates.weights` are. After `deadline` nothing more is solved: what is
    unsolved counts with the least score it can have, and the certificate is not exact. Who cannot reach the score `at_least` need
    not be found. Solved nearly, a distance is the cost of a plan: at least the exact one, by no more than its error, and a score
    is the least that it can be.

    Raises ValueError for a negative weight, for values that are not finite, and for shapes that do not fit.
    """
    check(query, candidates, known, weight, top_k)
    asked = transport.points(query, measure, query_weights)
    known = known.astype(np.float64)
    ranking = _Ranking(asked, candidates, known, weight, top_k, measure, at_least, solving, deadline)
    with solving.cores.searching() if solving.cores is not None else nullcontext():
        is_done = ranking.run()
    solved = np.array(list(ranking.solved), np.int64)
    if is_done:
        scores, highest, positions = ranking.scores(solved), ranking.scores(solved, at_most=True), solved
    else:
        scores = ranking.known + weight * transport.similarity(transport.WORST[measure], measure)  # the least
        scores[solved] = ranking.scores(solved)
        positions = np.arange(candidates.texts)
    # After a deadline all that is unsolved may tie, and nobody is promised how.
    best = best_of(scores, positions, top_k, tie_break if is_done else None)
    order = positions[best]
    found = np.array([ranking.solved.get(position, (math.nan, math.nan)) for position in order.tolist()]).reshape(-1, 2)
    certificate = Certificate(
        exact=is_done and is_proven(scores, highest, best),
        kth=float(scores[best[-1]]) if len(best) else None,
        next_bound=ranking.next_bound if len(solved) < candidates.texts else None,
        solved=len(solved),
        pruned=candidates.texts - len(solved),
        max_error=largest_error(found[:, 1]),
    )
    return Reranked(order, scores[best], found[:, 0], certificate, ranking.opened, is_done, found[:, 1])


def is_proven(lowest: Floats, highest: Floats, best: Places) -> bool:
    """Whether scores between lowest (n,) and highest (n,) have the order of the lowest, whatever they are: `best` (k,) first."""
    if np.array_equal(lowest, highest):
        return True
    others = np.ones(len(lowest), np.bool_)
    others[best] = False
    after = np.append(highest[best[1:]], highest[others].max(initial=-math.inf))
    is_known = np.append(lowest[best[1:]] == highest[best[1:]], np.array_equal(lowest[others], highest[others]))
    is_known &= lowest[best] == highest[best]
    return bool(np.all((after < lowest[best]) | (is_known & (after <= lowest[best]))))


def largest_error(errors: Floats) -> float | None:
    """The largest of the errors (k,) of distances; None where one was not solved."""
    return None if np.isnan(errors).any() else float(errors.max(initial=0.0))


def best_of(scores: Floats, positions: Places, top_k: int, tie_break: TieBreak | None = None) -> Places:
    """Where in `scores` (k,) the top_k best stand, best first; ties as `rerank` breaks those of these positions (k,)."""
    kept = np.arange(len(scores))
    if len(scores) > top_k:
        kept = np.flatnonzero(scores >= np.partition(scores, len(scores) - top_k)[len(scores) - top_k])
    where = positions[kept]
    if tie_break is None:
        names: Any = where
    else:
        names = np.asarray(tie_break(where), object) if callable(tie_break) else tie_break[where]
    return kept[np.lexsort((where, names, -scores[kept]))][:top_k]


def check(query: Vectors, candidates: RankedTexts, known: Floats, weight: float, top_k: int) -> None:
    """Raise ValueError, naming the value, for arguments of `rerank` that would give a wrong answer or none."""
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    if known.shape != (candidates.texts,):
        raise ValueError(f"known scores must be ({candidates.texts},), one for each candidate, got {known.shape}")
    if not np.isfinite(known).all():
        raise ValueError(f"known scores must be finite, got {known[np.argmin(np.isfinite(known))]}")
    candidates.check(query)


class _Ranking:
    """One run of `rerank`: who is in front, by which bound, and who was solved."""

    def __init__(
        self,
        query: Points,
        candidates: RankedTexts,
        known: Floats,
        weight: float,
        top_k: int,
        measure: Measure,
        at_least: float,
        solving: Solving,
        deadline: Deadline | None,
    ) -> None:
        self.known = known  # (n,)
        self.solved: dict[int, tuple[float, float]] = {}  # distances of solved candidates and their errors, by position
        self._weight = weight
        self._top_k = top_k
        self._measure = measure
        self._deadline = deadline
        self._at_least = at_least
        self._floors = solving.bound(query, candidates, measure)
        self._solver: Solver = ExactSolver(query, candidates, measure, solving.cores)
        if solving.entropic is not None:
            self._solver = EntropicSolver(solving.entropic(query, candidates, measure), measure)
        self._best: list[float] = []  # heap of the top_k best scores: its first is the k-th
        self._kth = at_least  # what must be reached
        self._pending: list[tuple[float, int, int]] = []  # heap of (-best possible score, position, kind of bound)
        self._sizes = candidates.offsets[1:] - candidates.offsets[:-1]  # (n,) tokens
        self._is_long = (
            self._sizes * len(self._floors.query.masses) >= LONG_PROBLEM
        )  # (n,) dear enough for the dual bound
        self._is_long &= self._solver.is_exact
        self._counts = [0, 0, 0]
        bounds = self._floors.relaxed() if self._floors.has_table else self._floors.reduced(deadline=deadline)
        self._counts[RELAXED if self._floors.has_table else REDUCED] = len(known)
        self._upper = self._best_scores(np.arange(len(known)), bounds)  # (n,)
        self._run_tokens = FIRST_TOKENS
        self._order, self._next = np.empty(0, np.int64), 0
        self._rest = -math.inf  # the best possible score among those with the cheapest bound only
        self._sort_more()

    @property
    def opened(self) -> Opened:
        """How many candidates each stage looked at."""
        relaxed, reduced, dual = self._counts
        return Opened(relaxed, reduced, dual, len(self.solved))

    @property
    def next_bound(self) -> float:
        """The best score that anybody unsolved can have; -inf where there is nobody."""
        return max(-self._pending[0][0] if self._pending else -math.inf, self._rest)

    def run(self) -> bool:
        """Solve until the result is proven (True) or the deadline comes (False)."""
        while self._pending or self._next < len(self._order):
            if self._kth > self.next_bound:
                return True
            if self._deadline is not None and self._deadline.is_over:
                return False
            if not self._pending or -self._pending[0][0] <= self._rest:
                self._open_more()
                continue
            _, position, kind = self._pending[0]
            if kind == REDUCED and self._is_long[position]:
                self._improve()
            else:
                self._solve()
        return True

    def scores(self, positions: Places, at_most: bool = False) -> Floats:
        """Scores (k,) of solved candidates: the least that they can be, or the most."""
        solved = np.array([self.solved[position] for position in positions.tolist()]).reshape(-1, 2)
        distances = solved[:, 0] - solved[:, 1] if at_most else solved[:, 0]
        return np.asarray(self.known[positions] + self._weight * transport.similarity(distances, self._measure))

    def _best_scores(self, positions: Places, bounds: Floats) -> Floats:
        """The best scores that candidates with these distances at least can have."""
        return np.asarray(self.known[positions] + self._weight * transport.similarity(bounds, self._measure))

    def _sort_more(self) -> None:
        """Put so many more of the best into their order: the first thousand, then four times as many as have been in it."""
        count = len(self._upper)
        wanted = max(1_024, 4 * len(self._order))  # ties may have made it longer than was wanted
        kept = np.arange(count)
        if wanted < count // 4:
            least = np.partition(self._upper, count - wanted)[count - wanted]
            kept = np.flatnonzero(self._upper >= least)
        self._order = kept[np.argsort(-self._upper[kept], kind="stable")]
        self._rest = float(self._upper[self._order[self._next]]) if self._next < len(self._order) else -math.inf

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
            upper = np.minimum(upper, self._best_scores(chosen, self._floors.reduced(chosen, self._deadline)))
        self._pending += [
            (-high, position, REDUCED) for high, position in zip(upper.tolist(), chosen.tolist(), strict=True)
        ]
        heapq.heapify(self._pending)
        if self._next == len(self._order) < len(self._upper):
            self._sort_more()
        else:
            self._rest = float(self._upper[self._order[self._next]]) if self._next < len(self._order) else -math.inf

    def _improve(self) -> None:
        """Give the long texts among those in front the dual bound."""
        chosen: list[int] = []
        others = []
        while self._pending and len(chosen) < self._floors.dual_run and -self._pending[0][0] >= self._kth:
            entry = heapq.heappop(self._pending)
            if entry[2] == REDUCED and self._is_long[entry[1]]:
                chosen.append(entry[1])
                others.append(entry)
            else:
                others.append(entry)
                if len(others) > 4 * self._floors.dual_run:
                    break
        positions = np.array(chosen, np.int64)
        bounds = dict(zip(chosen, self._best_scores(positions, self._floors.dual(positions)).tolist(), strict=True))
        self._counts[DUAL] += len(chosen)
        for negative, position, kind in others:
            if position in bounds:
                negative, kind = max(negative, -bounds[position]), DUAL
            heapq.heappush(self._pending, (negative, position, kind))

    def _solve(self) -> None:
        """Solve those in front, as many as the solver likes at once."""
        chosen = [heapq.heappop(self._pending)[1]]
        while len(chosen) < self._solver.batch and self._pending:
            highest = -self._pending[0][0]
            if highest < self._kth or highest <= self._rest:
                break
            chosen.append(heapq.heappop(self._pending)[1])
        found = self._solver.solve(chosen, self._next_in_front() if self._solver.looks_ahead else ())
        for position, distance, error in zip(chosen, found.distances, found.errors, strict=True):
            score = float(self.known[position]) + self._weight * transport.similarity(distance, self._measure)
            self.solved[position] = distance, error
            if len(self._best) < self._top_k:
                heapq.heappush(self._best, score)
            else:
                heapq.heappushpop(self._best, score)
            if len(self._best) == self._top_k:
                self._kth = max(self._at_least, self._best[0])

    def _next_in_front(self) -> list[int]:
        """Who will be solved next, if nobody gets a better bound: the least of the heap are among its first entries."""
        first = sorted(self._pending[: (1 << NEXT) - 1])[:NEXT]
        return [
            position
            for negative, position, kind in first
            if -negative >= self._kth and not (kind == REDUCED and self._is_long[position])
        ]
