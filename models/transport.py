"""The distance between two texts as the cheapest way to move the token vectors of one onto those of the other.

Two published measures, each a choice of masses and costs of one optimal transport problem

    distance = min  sum_ij plan_ij * cost_ij     over plan >= 0 with row sums p (query) and column sums q (text)

* ``wmd``, Word Mover's Distance (Kusner et al., ICML 2015): p_i = 1/m, q_j = 1/n, cost = Euclidean distance,
  in [0, inf).
* ``wrd``, Word Rotator's Distance (Yokoi et al., EMNLP 2020, arXiv:2004.15003; kexue.fm/archives/7388):
  p_i = |x_i| / sum_k |x_k|, q likewise, cost = 1 - cosine, in [0, 2].

Other masses can be given with either, as the shares of token weights: of ones (``uniform``), of lengths (``norm``), or of how
rare a token is among the texts (``idf``; TF-IDF masses, since a repeated token counts as often as it stands there).

Token vectors are (t, d) arrays, one row per token, not normalised: in ``wrd`` a longer vector is a heavier token. A
token shorter than ``SHORTEST`` has no direction and gets no mass in ``wrd``. A text without any mass has nothing to be
compared by: its distance to every text, even to itself, is the worst of the measure, ``WORST[measure]``.

Problems are solved exactly by the network simplex of POT, the only place of the project that knows this library. It
trusts its input: empty problems crash it, and masses that do not sum to the same value or a cost that is not a number
give a false perfect match, so nothing of the kind may reach it, and its result code is read.
"""

import math
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
import ot
from numpy.typing import NDArray

try:  # private, but four times as fast as its public wrapper on texts of 14 tokens
    from ot.lp.emd_wrap import emd_c
except ImportError:  # pragma: no cover - another version of POT
    emd_c = None

Measure = Literal["wrd", "wmd"]
Masses = Literal["norm", "uniform", "idf"]
Vectors = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Similar = TypeVar("Similar", float, Floats)

OWN_MASSES: dict[Measure, Masses] = {"wrd": "norm", "wmd": "uniform"}
WORST: dict[Measure, float] = {"wrd": 2.0, "wmd": math.inf}
SHORTEST = 1e-12
CLOSE_ENTRIES = 1 << 18  # entries of differences between tokens that are held at once
SMALL_EXPONENT = -20  # costs below 2 to this are scaled up for POT, whose tolerance is absolute
LONGEST = 1e15  # squares of longer vectors would not fit float32 with room to spare
OPTIMAL, TIRED = 1, 3  # result codes of POT's network simplex: solved, and not within so many pivots
MOST_PIVOTS = 10_000_000
FEW_PIVOTS = 10_000  # and a hundred for each token: 128 x 128 tokens need some thousands, 512 x 512 some ten thousands


class Points(NamedTuple):
    """The token vectors of one text, ready to be compared under one measure."""

    at: Floats  # (t, d): unit rows (or 0 where there is no direction) for wrd, the vectors themselves for wmd
    masses: Floats  # (t,), sums to 1, or all 0 where the text has nothing to be compared by
    squares: Floats  # (t,) squared lengths of the vectors

    @property
    def has_mass(self) -> bool:
        """Whether the text can be compared at all."""
        return bool(np.count_nonzero(self.masses))


def points(vectors: Vectors, measure: Measure, weights: Floats | None = None) -> Points:
    """Weigh token vectors (t, d) under a measure, by token weights (t,) in place of the measure's own where given.

    Raises ValueError for an unknown measure, for anything that is not (t, d), for vectors that are not finite or
    longer than LONGEST, and for weights that are negative, not finite or of another number.
    """
    if measure not in WORST:
        raise ValueError(f"measure must be 'wrd' or 'wmd', got {measure!r}")
    if vectors.ndim != 2:
        raise ValueError(f"token vectors must be (tokens, dim), got shape {vectors.shape}")
    at = vectors.astype(np.float64, order="C")  # a copy, changed below
    squares = squared_lengths(at)
    if weights is not None:
        check_weights(weights, len(at))
    if measure == "wmd":
        return Points(at, shares(np.ones(len(at)) if weights is None else weights), squares)
    lengths = np.sqrt(squares)
    if lengths.min(initial=1.0) < SHORTEST:
        lengths[lengths < SHORTEST] = 0.0
        at /= np.where(lengths > 0.0, lengths, np.inf)[:, None]
    else:
        at /= lengths[:, None]
    return Points(at, shares(lengths if weights is None else weights), squares)


def shares(weights: Floats) -> Floats:
    """Masses (t,) in proportion to weights (t,): they sum to 1, or are all 0 where the weights are."""
    total = float(weights.sum())
    return weights / total if total else weights


def check_weights(weights: Floats, count: int) -> None:
    """Raise ValueError, with the value, for token weights that make no masses of `count` tokens."""
    if weights.shape != (count,):
        raise ValueError(f"token weights must be ({count},), one for each token, got {weights.shape}")
    if not (weights.min(initial=0.0) >= 0.0 and weights.max(initial=0.0) <= LONGEST):  # false for NaN, too
        worst = weights[np.argmin((weights >= 0.0) & (weights <= LONGEST))]
        raise ValueError(f"token weights must be in [0, {LONGEST:g}], got {worst}")


def token_weights(vectors: Vectors, masses: Masses) -> Floats:
    """Weights (t,) of token vectors (t, d) that need nothing else: their lengths for "norm", 1 for "uniform".

    Raises ValueError for other masses.
    """
    if masses == "uniform":
        return np.ones(len(vectors))
    if masses != "norm":
        raise ValueError(
            f"masses must be 'norm' or 'uniform' where no document frequencies are at hand, got {masses!r}"
        )
    lengths = np.sqrt(squared_lengths(vectors.astype(np.float64, order="C")))
    lengths[lengths < SHORTEST] = 0.0
    return cast(Floats, lengths)


def rarity(frequencies: NDArray[np.integer[Any]], texts: int) -> Floats:
    """Weights for "idf": ln(1 + (N - df + 1/2) / (df + 1/2)) of tokens that df (V,) of N texts have; always positive."""
    return np.asarray(np.log1p((texts - frequencies + 0.5) / (frequencies + 0.5)), np.float64)


def squared_lengths(vectors: Vectors) -> NDArray[Any]:
    """Squared length (t,) of every row of (t, d), in the type of the vectors.

    Raises ValueError naming the value where one is not finite, or a row is longer than LONGEST.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = cast(NDArray[Any], np.vecdot(vectors, vectors))
    if not squares.max(initial=0.0) <= LONGEST**2:  # true for NaN, too
        row = int(np.argmin(squares <= LONGEST**2))
        sizes = np.abs(vectors[row])
        worst = vectors[row, np.argmax(np.where(np.isnan(sizes), np.inf, sizes))]
        raise ValueError(f"token vectors must be finite and of length at most {LONGEST:g}: row {row} holds {worst}")
    return squares


def masses(vectors: Vectors, measure: Measure, weights: Floats | None = None) -> Floats:
    """Masses (t,) of token vectors (t, d): they sum to 1, or are all 0 for a text that cannot be compared."""
    return points(vectors, measure, weights).masses


def costs(query: Vectors, text: Vectors, measure: Measure) -> Floats:
    """Cost (m, n) of moving each token of query (m, d) onto each token of text (n, d).

    wrd: 1 - cosine, in [0, 2]; 1 where a token has no direction. wmd: Euclidean distance.
    """
    return costs_between(points(query, measure), points(text, measure), measure)


def costs_between(query: Points, text: Points, measure: Measure) -> Floats:
    """`costs` of texts already weighed. Raises ValueError where the dimensions differ."""
    if query.at.shape[1] != text.at.shape[1]:
        raise ValueError(f"token vectors of {query.at.shape[1]} and {text.at.shape[1]} dimensions cannot be compared")
    dots = query.at @ text.at.T  # (m, n)
    if measure == "wrd":
        np.subtract(1.0, dots, out=dots)
        np.maximum(dots, 0.0, out=dots)
        return np.minimum(dots, 2.0, out=dots)
    sums = query.squares[:, None] + text.squares
    dots *= -2.0
    dots += sums
    rows, columns = (dots < 1e-6 * sums).nonzero()  # too close for this formula: equal tokens must cost exactly 0
    run = max(1, CLOSE_ENTRIES // max(1, query.at.shape[1]))
    for first in range(0, len(rows), run):  # of texts that repeat one token all pairs are close
        i, j = rows[first : first + run], columns[first : first + run]
        difference = query.at[i] - text.at[j]
        dots[i, j] = np.vecdot(difference, difference)
    return np.sqrt(dots, out=dots)  # what is left is positive


def distance(
    query: Vectors,
    text: Vectors,
    measure: Measure,
    query_weights: Floats | None = None,
    text_weights: Floats | None = None,
) -> float:
    """The exact optimal cost between token vectors (m, d) and (n, d), or WORST[measure] where one has no mass.

    Weights (m,) and (n,) give masses other than those of the measure.

    Two examples to check by hand, in two dimensions. Query: a = (2, 0), b = (0, 1). Text: c = (3, 0).

    * wrd: p = (2/3, 1/3), q = (1). Everything must go to c; a points the same way (cost 0), b is at a right angle
      (cost 1), so the distance is 2/3 * 0 + 1/3 * 1 = 1/3.
    * wmd: p = (1/2, 1/2), q = (1). |a - c| = 1, |b - c| = sqrt(1 + 9), so the distance is (1 + sqrt(10)) / 2 = 2.08...
    """
    return distance_between(points(query, measure, query_weights), points(text, measure, text_weights), measure)


def distance_between(query: Points, text: Points, measure: Measure) -> float:
    """`distance` of texts already weighed. It depends on nothing but the pair, to the last bit."""
    cost = costs_between(query, text, measure)
    if not (query.has_mass and text.has_mass):
        return WORST[measure]
    return min(max(solve(query.masses, text.masses, cost)[1], 0.0), WORST[measure])


def plan(
    query: Vectors,
    text: Vectors,
    measure: Measure,
    query_weights: Floats | None = None,
    text_weights: Floats | None = None,
) -> tuple[Floats, Floats]:
    """The cheapest plan (m, n) and the costs (m, n) it pays: `(plan * cost).sum()` is the distance.

    Rows of the plan sum to the masses of the query, columns to those of the text; it is all 0 where one has no mass.
    """
    here, there = points(query, measure, query_weights), points(text, measure, text_weights)
    cost = costs_between(here, there, measure)
    if not (here.has_mass and there.has_mass):
        return np.zeros_like(cost), cost
    return solve(here.masses, there.masses, cost)[0], cost


def similarity(distance: Similar, measure: Measure) -> Similar:
    """Turn distances d into what is fused and sorted by, higher is better.

    wrd: 1 - d, in [-1, 1]. wmd: 1 / (1 + d), in [0, 1].
    """
    return 1.0 - distance if measure == "wrd" else 1.0 / (1.0 + distance)


def solve(query_masses: Floats, text_masses: Floats, cost: Floats) -> tuple[Floats, float]:
    """Solve one transport problem exactly: the plan (m, n) and its cost.

    Masses (m,) and (n,) must be non-negative and each sum to 1 in float64, the cost (m, n) be finite, C-contiguous and
    float64. Raises ValueError where POT does not prove its answer optimal.
    """
    exponent = math.frexp(float(cost.max(initial=0.0)))[1]
    if exponent < SMALL_EXPONENT:
        found, value = solve(query_masses, text_masses, np.ldexp(cost, -exponent))
        return found, math.ldexp(value, exponent)
    if emd_c is None:  # pragma: no cover - another version of POT
        return solve_by_public_function(query_masses, text_masses, cost)
    found, value, _, _, code = emd_c(query_masses, text_masses, cost, FEW_PIVOTS + 100 * sum(cost.shape), 1)
    if code == TIRED:
        return solve_merged(query_masses, text_masses, cost)
    if code != OPTIMAL:
        raise _unsolved(cost, f"POT code {code}")
    return found, value


def solve_merged(query_masses: Floats, text_masses: Floats, cost: Floats) -> tuple[Floats, float]:
    """`solve` with tokens of equal costs taken as one, whose plan is shared among them by their masses.

    Texts that repeat themselves some hundred times make problems that are so degenerate that the simplex may turn in circles.
    """
    columns, of_text = np.unique(cost, axis=1, return_inverse=True)
    both, of_query = np.unique(columns, axis=0, return_inverse=True)
    p, q = np.bincount(of_query, query_masses), np.bincount(of_text, text_masses)
    found, _, _, _, code = emd_c(p / p.sum(), q / q.sum(), np.ascontiguousarray(both), MOST_PIVOTS, 1)
    if code != OPTIMAL:
        raise _unsolved(cost, f"POT code {code}")
    shares = (
        np.divide(masses, whole[which], out=np.zeros_like(masses), where=whole[which] > 0.0)
        for masses, whole, which in ((query_masses, p, of_query), (text_masses, q, of_text))
    )
    plan = found[np.ix_(of_query, of_text)] * np.outer(*shares)
    return plan, float((plan * cost).sum())


def solve_by_public_function(query_masses: Floats, text_masses: Floats, cost: Floats) -> tuple[Floats, float]:
    """`solve` for versions of POT that hide or change its inner function: same answer, slower."""
    found, log = ot.emd(
        query_masses, text_masses, cost, numItermax=MOST_PIVOTS, log=True, center_dual=False, check_marginals=False
    )
    if log["warning"] is not None:
        raise _unsolved(cost, log["warning"])
    return found, float(log["cost"])


def _unsolved(cost: Floats, why: str) -> ValueError:
    return ValueError(f"transport problem of {cost.shape[0]} x {cost.shape[1]} tokens not solved: {why}")
