"""WMD and WRD agree with their definitions: with examples solved by hand, linear programming, POT and gensim."""

import itertools
import json
import math
import re
import tracemalloc
from pathlib import Path

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.optimize import linprog

from models import transport
from models.transport import Measure

MEASURES: tuple[Measure, ...] = ("wrd", "wmd")
Matrix = NDArray[np.float32]

measures = st.sampled_from(MEASURES)


@st.composite
def token_vectors(draw: st.DrawFn, dim: int, least: int = 0, most: int = 9) -> Matrix:
    """Token vectors of one text: small integers (zero vectors, repeated tokens, ties) or a normal sample."""
    count = draw(st.integers(least, most))
    if draw(st.booleans()):
        return draw(arrays(np.float32, (count, dim), elements=st.integers(-2, 2).map(float)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1e-6, 1.0, 1e4]))
    return (scale * random.normal(size=(count, dim))).astype(np.float32)


@st.composite
def pairs(draw: st.DrawFn, least: int = 0, most: int = 9) -> tuple[Matrix, Matrix]:
    """Two texts of one dimension; the second sometimes repeats the first or some of its tokens."""
    dim = draw(st.integers(1, 6))
    query = draw(token_vectors(dim, least, most))
    kind = draw(st.sampled_from(["other", "other", "same", "overlap"]))
    if kind == "same":
        return query, query.copy()
    text = draw(token_vectors(dim, least, most))
    return (query, np.concatenate([query[: len(query) // 2], text])) if kind == "overlap" else (query, text)


def by_definition(query: Matrix, text: Matrix, measure: Measure) -> tuple[list[float], list[float], list[list[float]]]:
    """Masses and costs written down token by token."""
    x, y = [[[float(value) for value in row] for row in rows] for rows in (query, text)]
    length = [[math.hypot(*row) for row in rows] for rows in (x, y)]
    if measure == "wmd":
        p, q = [1 / len(x)] * len(x), [1 / len(y)] * len(y)
        return p, q, [[math.dist(a, b) for b in y] for a in x]
    p, q = [[value / sum(rows) for value in rows] for rows in length]
    return (
        p,
        q,
        [
            [
                1 - math.fsum(u * v for u, v in zip(a, b, strict=True)) / (i * j) if i * j else 1.0
                for b, j in zip(y, length[1], strict=True)
            ]
            for a, i in zip(x, length[0], strict=True)
        ],
    )


def by_linear_programming(query: Matrix, text: Matrix, measure: Measure) -> float:
    """The distance as the linear program it is defined by, solved by HiGHS."""
    p, q, cost = by_definition(query, text, measure)
    m, n = len(p), len(q)
    rows = np.kron(np.eye(m), np.ones(n))
    columns = np.kron(np.ones(m), np.eye(n))
    equations = np.concatenate([rows, columns])[:-1]  # one is redundant
    largest = max(max(row) for row in cost) or 1.0  # HiGHS has absolute tolerances
    found = linprog(np.ravel(cost) / largest, A_eq=equations, b_eq=(p + q)[:-1], method="highs")
    assert found.status == 0
    return float(found.fun) * largest


def has_mass(vectors: Matrix, measure: Measure) -> bool:
    """Whether a text can be compared."""
    return bool(vectors.any()) if measure == "wrd" else len(vectors) > 0


@pytest.mark.parametrize(
    ("query", "text", "wrd", "wmd"),
    [
        # The example in the docstring of `distance`.
        ([[2, 0], [0, 1]], [[3, 0]], 1 / 3, (1 + math.sqrt(10)) / 2),
        # One token each, at a right angle: 1 - 0, and the hypotenuse of a 3-4-5 triangle.
        ([[3, 0]], [[0, 4]], 1.0, 5.0),
        # Opposite directions are the worst WRD: 1 - (-1).
        ([[1, 0]], [[-1, 0]], 2.0, 2.0),
        # The same tokens in another order and twice as often: everything stays in place.
        ([[1, 0], [0, 1]], [[0, 1], [1, 0], [1, 0], [0, 1]], 0.0, 0.0),
        # Same directions, other lengths. WRD: masses (3/4, 1/4) against (1/4, 3/4), so half of the mass turns by a
        # right angle. WMD: each token moves by 2 along its own axis.
        ([[3, 0], [0, 1]], [[1, 0], [0, 3]], 0.5, 2.0),
        # Crossing is dearer than going straight: (0,0)->(1,0) and (5,0)->(6,0), not (0,0)->(6,0) and (5,0)->(1,0).
        # WRD: the zero vector has no mass, all other tokens point the same way.
        ([[0, 0], [5, 0]], [[1, 0], [6, 0]], 0.0, 1.0),
    ],
)
def test_by_hand(query: list[list[int]], text: list[list[int]], wrd: float, wmd: float) -> None:
    """Small examples have the distances that can be worked out on paper."""
    x, y = np.array(query, np.float32), np.array(text, np.float32)
    assert transport.distance(x, y, "wrd") == pytest.approx(wrd, abs=1e-12)
    assert transport.distance(x, y, "wmd") == pytest.approx(wmd, abs=1e-12)


@settings(max_examples=200)
@given(pairs(least=1), measures)
def test_masses_and_costs_are_the_definition(pair: tuple[Matrix, Matrix], measure: Measure) -> None:
    """Masses and costs equal the formulas written down token by token."""
    if not all(has_mass(vectors, measure) for vectors in pair):
        return
    p, q, cost = by_definition(*pair, measure)
    np.testing.assert_allclose(transport.masses(pair[0], measure), p, rtol=1e-12)
    np.testing.assert_allclose(transport.masses(pair[1], measure), q, rtol=1e-12)
    np.testing.assert_allclose(transport.costs(*pair, measure), cost, rtol=1e-9, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(pairs(least=1), measures)
def test_distance_is_the_linear_program(pair: tuple[Matrix, Matrix], measure: Measure) -> None:
    """The distance equals the optimum of the defining linear program."""
    if all(has_mass(vectors, measure) for vectors in pair):
        expected = by_linear_programming(*pair, measure)
        assert transport.distance(*pair, measure) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@settings(max_examples=200)
@given(pairs(least=1), measures)
def test_distance_is_pot(pair: tuple[Matrix, Matrix], measure: Measure) -> None:
    """The distance equals `ot.emd2` on the definition's masses and costs, and so does POT's public function."""
    if not all(has_mass(vectors, measure) for vectors in pair):
        return
    p, q, cost = (np.array(part) for part in by_definition(*pair, measure))
    found = transport.distance(*pair, measure)
    assert found == pytest.approx(float(ot.emd2(p, q, cost)), rel=1e-9, abs=1e-12)
    plan, value = transport.solve_by_public_function(p, q, cost)
    assert value == pytest.approx(found, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), p, atol=1e-12)


@pytest.mark.parametrize(("seed", "m", "n"), [(828, 6, 4), (3435, 9, 7), (6630, 19, 16), (14092, 17, 16)])
def test_texts_that_repeat_themselves_are_solved(seed: int, m: int, n: int) -> None:
    """POT's simplex turns in circles on these; their distance is that of the tokens taken together, and the plan is feasible."""
    random = np.random.default_rng(seed)
    np.testing.assert_array_equal([random.integers(3, 25), random.integers(2, 60)], [m, n])
    few = np.sqrt(((random.normal(size=(m, 1, 8)) - random.normal(size=(1, n, 8))) ** 2).sum(axis=2))
    cost = np.ascontiguousarray(np.tile(few, (1, 510))[:, :510])
    p, q = np.full(m, 1 / m), np.full(510, 1 / 510)
    assert transport.emd_c(p, q, cost, transport.FEW_PIVOTS + 100 * (m + 510), 1)[4] != transport.OPTIMAL
    plan, value = transport.solve(p, q, cost)
    together = np.bincount(np.arange(510) % n, q)
    assert value == pytest.approx(float(ot.emd2(p, together / together.sum(), few)), rel=1e-9)
    assert float((plan * cost).sum()) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), p, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), q, atol=1e-12)
    assert (plan >= 0).all()


@settings(max_examples=200)
@given(pairs(least=1), measures, st.integers(1, 4), st.booleans())
def test_tokens_taken_together_change_no_distance(
    pair: tuple[Matrix, Matrix], measure: Measure, times: int, is_zero: bool
) -> None:
    """A problem of repeated tokens, some without mass, has the same value and a feasible plan when equal ones are merged."""
    if not all(has_mass(vectors, measure) for vectors in pair):
        return
    query, text = (transport.points(np.tile(vectors, (times, 1)), measure) for vectors in pair)
    p, q, cost = query.masses, text.masses.copy(), transport.costs_between(query, text, measure)
    if is_zero and len(q) > 1:
        q[0] = 0.0
        if not q.any():
            return
        q /= q.sum()
    plan, value = transport.solve_merged(p, q, cost)
    assert value == pytest.approx(transport.solve(p, q, cost)[1], rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), p, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), q, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("m", "n", "dim"), [(1, 70, 8), (64, 64, 32), (80, 65, 16), (14, 512, 16)])
def test_long_texts(m: int, n: int, dim: int, measure: Measure) -> None:
    """Texts of 60 and more tokens, with repeated ones among them, have the distance `ot.emd2` finds."""
    random = np.random.default_rng(m * n)
    query, text = (random.normal(size=(size, dim)).astype(np.float32) for size in (m, n))
    text[: n // 3] = query[random.integers(0, m, n // 3)]
    p, q, cost = (np.array(part) for part in by_definition(query, text, measure))
    assert transport.distance(query, text, measure) == pytest.approx(float(ot.emd2(p, q, cost)), rel=1e-9)


@given(pairs(), measures)
def test_range_symmetry_and_identity(pair: tuple[Matrix, Matrix], measure: Measure) -> None:
    """Distances are symmetric, in the range of the measure, never NaN, and zero between a text and itself."""
    query, text = pair
    there, back = transport.distance(query, text, measure), transport.distance(text, query, measure)
    assert 0.0 <= there <= transport.WORST[measure]
    assert there == pytest.approx(back, rel=1e-9, abs=1e-12)
    if has_mass(query, measure):
        assert transport.distance(query, query, measure) <= 1e-14
        doubled = np.repeat(query, 2, axis=0)
        assert transport.distance(query, doubled[::-1], measure) <= 1e-14


@given(pairs(), measures)
def test_plan(pair: tuple[Matrix, Matrix], measure: Measure) -> None:
    """A plan is non-negative, has the masses as its margins, and pays the distance; without mass it moves nothing."""
    plan, cost = transport.plan(*pair, measure)
    assert plan.shape == cost.shape == (len(pair[0]), len(pair[1]))
    assert (plan >= 0.0).all()
    assert np.isfinite(cost).all()
    if all(has_mass(vectors, measure) for vectors in pair):
        np.testing.assert_allclose(plan.sum(axis=1), transport.masses(pair[0], measure), atol=1e-12)
        np.testing.assert_allclose(plan.sum(axis=0), transport.masses(pair[1], measure), atol=1e-12)
        assert (plan * cost).sum() == pytest.approx(transport.distance(*pair, measure), rel=1e-9, abs=1e-12)
    else:
        assert not plan.any()


@given(pairs(least=1), st.floats(0.01, 100.0))
def test_scale(pair: tuple[Matrix, Matrix], factor: float) -> None:
    """WRD does not change when all vectors of a text grow; WMD grows with both texts."""
    query, text = (vectors.astype(np.float64) for vectors in pair)
    if has_mass(pair[0], "wrd") and has_mass(pair[1], "wrd"):
        unchanged = transport.distance(query, text, "wrd")
        assert transport.distance(query * factor, text, "wrd") == pytest.approx(unchanged, rel=1e-9, abs=1e-12)
    grown = factor * transport.distance(query, text, "wmd")
    assert transport.distance(query * factor, text * factor, "wmd") == pytest.approx(grown, rel=1e-9, abs=1e-9)


def test_tiny_vectors_are_compared_as_exactly_as_others() -> None:
    """WMD is in proportion to the size of the vectors down to the smallest, whose costs the solver takes for nothing."""
    random = np.random.default_rng(0)
    query, text = random.normal(size=(12, 8)), random.normal(size=(15, 8))
    whole = transport.distance(query, text, "wmd")
    for size in (1e-5, 1e-9, 1e-13, 1e-15, 1e-25):
        assert transport.distance(size * query, size * text, "wmd") == pytest.approx(size * whole, rel=1e-9)
        plan, cost = transport.plan(size * query, size * text, "wmd")
        assert (plan * cost).sum() == pytest.approx(size * whole, rel=1e-9)


def test_texts_that_repeat_one_token_take_little_memory() -> None:
    """Pairs of equal tokens, whose costs are computed once more, are not all held at once."""
    text = np.ones((300, 256))
    tracemalloc.start()
    try:
        assert transport.distance(text, text, "wmd") == 0.0
        assert tracemalloc.get_traced_memory()[1] < 50e6  # all of them are 184 MB
    finally:
        tracemalloc.stop()


@given(st.lists(token_vectors(3, 1), min_size=3, max_size=3))
def test_wmd_is_a_metric(texts: list[Matrix]) -> None:
    """WMD keeps the triangle inequality."""
    for a, b, c in itertools.permutations(texts):
        direct = transport.distance(a, c, "wmd")
        around = transport.distance(a, b, "wmd") + transport.distance(b, c, "wmd")
        assert direct <= around * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("measure", MEASURES)
def test_without_mass(measure: Measure) -> None:
    """A text without tokens, or in WRD with zero vectors only, has the worst distance and similarity to everything."""
    some = np.ones((2, 3), np.float32)
    blanks = [np.zeros((0, 3), np.float32)] + ([np.zeros((2, 3), np.float32)] if measure == "wrd" else [])
    for blank in blanks:
        assert not transport.masses(blank, measure).any()
        for pair in ((blank, some), (some, blank), (blank, blank)):
            assert transport.distance(*pair, measure) == transport.WORST[measure]
    assert transport.similarity(transport.WORST[measure], measure) == {"wrd": -1.0, "wmd": 0.0}[measure]


@given(measures, arrays(np.float64, 20, elements=st.floats(0.0, 2.0)))
def test_similarity_falls(measure: Measure, distances: NDArray[np.float64]) -> None:
    """A greater distance never gives a higher similarity, and arrays and numbers get the same one."""
    similarities = transport.similarity(np.sort(distances), measure)
    assert (np.diff(similarities) <= 0.0).all()
    assert [transport.similarity(float(value), measure) for value in np.sort(distances)] == similarities.tolist()
    assert transport.similarity(0.0, measure) == 1.0


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e16, 1e200])
def test_values_out_of_range(value: float, measure: Measure) -> None:
    """Vectors that are not finite or too long are refused, and the message holds the value."""
    vectors = np.ones((3, 2))
    vectors[1, 1] = value
    for pair in ((vectors, np.ones((1, 2))), (np.ones((1, 2)), vectors)):
        with pytest.raises(ValueError, match=re.escape(f"row 1 holds {value}")):
            transport.distance(*pair, measure)


def test_shapes_and_measures_that_do_not_exist() -> None:
    """Other shapes, dimensions that differ and unknown measures are refused with the offending value."""
    some = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        transport.masses(some[0], "wrd")
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        transport.distance(some, np.ones((1, 2)), "wmd")
    with pytest.raises(ValueError, match="'cosine'"):
        transport.distance(some, some, "cosine")  # type: ignore[arg-type]


def test_a_problem_pot_does_not_solve_is_an_error() -> None:
    """Masses with different sums raise; POT alone would answer 0, a false perfect match."""
    with pytest.raises(ValueError, match="1 x 2 tokens not solved"):
        transport.solve(np.array([1.0]), np.array([0.5, 0.4]), np.ones((1, 2)))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from("花呗怎么还款的了"), min_size=1, max_size=9),
    st.lists(st.sampled_from("花呗如何借钱"), min_size=1),
)
def test_gensim(query: list[str], text: list[str]) -> None:
    """WMD equals gensim's `wmdistance` on the same vectors, also where words repeat."""
    models = pytest.importorskip("gensim.models")
    words = sorted(set("花呗怎么还款的了如何借钱"))
    vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    keyed = models.KeyedVectors(16)
    keyed.add_vectors(words, vectors)
    x, y = (vectors[[words.index(word) for word in sentence]] for sentence in (query, text))
    expected = keyed.wmdistance(query, text, norm=False)
    assert transport.distance(x, y, "wmd") == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(pairs(least=1), measures, st.integers(0, 2**32))
def test_given_masses(pair: tuple[Matrix, Matrix], measure: Measure, seed: int) -> None:
    """With token weights the distance is that of POT and of linear programming for their shares, and the plan moves them."""
    random = np.random.default_rng(seed)
    x, y = pair
    left, right = (random.choice([0.5, 1.0, 7.0], len(vectors)) * random.uniform(size=len(vectors)) for vectors in pair)
    cost = transport.costs(x, y, measure)
    p, q = left / left.sum(), right / right.sum()
    found = transport.distance(x, y, measure, left, right)
    scale = max(float(cost.max()), 1e-30)
    assert found == pytest.approx(ot.emd2(p, q, cost), rel=1e-9, abs=1e-9 * scale)
    m, n = len(p), len(q)
    equations = np.concatenate([np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))])[:-1]
    program = linprog(cost.ravel() / scale, A_eq=equations, b_eq=np.concatenate([p, q])[:-1], method="highs")
    assert found == pytest.approx(program.fun * scale, rel=1e-6, abs=1e-6 * scale)
    moved = transport.plan(x, y, measure, left, right)[0]
    np.testing.assert_allclose(moved.sum(1), p, atol=1e-9)
    np.testing.assert_allclose(moved.sum(0), q, atol=1e-9)


EXAMPLES = re.compile(r"^\| `(\[\[.*?\]\])` \| `(\[\[.*?\]\])` \| (\w+) \| ([\d.]+) \| ([\d.]+) \|", re.MULTILINE)


def test_the_examples_of_the_readme() -> None:
    """Every example that the README invites to check by hand is what is computed."""
    found = EXAMPLES.findall((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8"))
    assert len(found) >= 5
    for query, text, masses, wrd, wmd in found:
        x, y = (np.array(json.loads(rows), np.float32) for rows in (query, text))
        for measure, expected in (("wrd", wrd), ("wmd", wmd)):
            weights = [None, None] if masses == "own" else [transport.token_weights(rows, masses) for rows in (x, y)]
            assert transport.distance(x, y, measure, *weights) == pytest.approx(float(expected), abs=5e-4)
