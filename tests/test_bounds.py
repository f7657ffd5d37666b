"""Every bound is at most the distance, whatever the vectors and masses, and what is built on them equals solving everything."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from models import block_rerank, rerank, transport
from models import bounds as bounds_module
from models.bounds import Floors
from models.candidates import Candidates, TokenTable, ranges
from models.deadline import Deadline
from models.dual_bound import dual_values
from models.query_potentials import query_potentials
from models.transport import Measure

pytestmark = pytest.mark.usefixtures("few_or_many")

MEASURES: tuple[Measure, ...] = ("wrd", "wmd")
Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
measures = st.sampled_from(MEASURES)


class Problem:
    """Texts of token ids over a small table, a query of the same tokens, weights by token or none, and known scores."""

    def __init__(self, table: Matrix, query: list[int], texts: list[list[int]], weights: Floats | None) -> None:
        self.table, self.query, self.texts, self.weights = TokenTable(table), np.array(query, np.int64), texts, weights
        self.vectors = self.table.vectors[self.query]
        self.query_weights = None if weights is None else weights[self.query]
        offsets = np.cumsum([0] + [len(text) for text in texts])
        ids = np.array([token for text in texts for token in text], np.uint16)
        self.looked_up = Candidates.from_table(self.table, ids, offsets, weights)
        whole = Candidates(self.table.vectors, offsets, ids, weights, self.table)
        written = None if weights is None else weights[ids]
        self.forms = [self.looked_up, whole, Candidates(self.table.vectors[ids], offsets, weights=written)]

    def distances(self, measure: Measure) -> Floats:
        """Exact distances of all texts, one by one."""
        rows = [np.array(text, np.int64) for text in self.texts]
        weighed = [None if self.weights is None else self.weights[text] for text in rows]
        return np.array(
            [
                transport.distance(self.vectors, self.table.vectors[text], measure, self.query_weights, each)
                for text, each in zip(rows, weighed, strict=True)
            ]
        )


@st.composite
def problems(draw: st.DrawFn, most: int = 8) -> Problem:
    """Tables with zero vectors, equal rows or rows of very different sizes; empty texts, one-token texts, copies of the query."""
    dim = draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["grid", "normal", "sizes"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    if kind == "grid":
        table = draw(arrays(np.float32, (9, dim), elements=st.integers(-2, 2).map(float)))
    else:
        table = random.normal(size=(9, dim)).astype(np.float32)
        if kind == "sizes":
            table *= (10.0 ** random.uniform(-15, 10, size=(9, 1))).astype(np.float32)
    tokens = st.integers(0, 8)
    query = draw(st.lists(tokens, max_size=most))
    texts = draw(st.lists(st.lists(tokens, max_size=most), max_size=10))
    texts += [list(query)] * draw(st.integers(0, 2)) + texts[: draw(st.integers(0, 2))]
    weights = None
    if draw(st.booleans()):
        weights = np.array(draw(st.lists(st.sampled_from([0.0, 1e-9, 0.5, 1.0, 3.0, 1e6]), min_size=9, max_size=9)))
    return Problem(table, query, texts, weights)


@settings(max_examples=200)
@given(problems(), measures)
def test_no_bound_exceeds_the_distance(problem: Problem, measure: Measure) -> None:
    """The relaxed, the reduced and the dual bound are at most the distance, in each form that candidates can have."""
    exact = problem.distances(measure)
    asked = transport.points(problem.vectors, measure, problem.query_weights)
    for candidates in problem.forms:
        floors = Floors(asked, candidates, measure)
        reduced = floors.reduced()
        assert (reduced >= 0.0).all()
        assert (reduced <= exact).all()
        backwards = np.arange(candidates.texts)[::-1]
        np.testing.assert_allclose(floors.reduced(backwards)[::-1], reduced, rtol=1e-5, atol=1e-6)
        if floors.has_table:
            assert (floors.relaxed() <= exact).all()
        chosen = np.flatnonzero((reduced < transport.WORST[measure]) & (np.diff(candidates.offsets) > 0))
        if len(chosen) and floors.query.has_mass:
            cost, weights = floors.block(chosen)
            sizes = np.diff(candidates.offsets)[chosen]
            dual = floors.lowered_dual(*dual_values(floors.query.masses, cost, weights, np.cumsum(sizes) - sizes))
            assert (dual <= exact[chosen]).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_each_bound_is_tighter_than_the_one_before(measure: Measure) -> None:
    """On vectors that lean one way, as those of words do, relaxed < reduced < dual, and the dual is within a few per cent."""
    random = np.random.default_rng(0)
    table = (random.normal(size=(400, 32)) + random.normal(size=32)) * random.uniform(0.3, 2.0, size=(400, 1))
    texts = [random.integers(0, 400, size).tolist() for size in random.integers(60, 513, 20)]
    problem = Problem(table.astype(np.float32), random.integers(0, 400, 30).tolist(), texts, None)
    exact = problem.distances(measure)
    floors = Floors(transport.points(problem.vectors, measure), problem.looked_up, measure)
    cost, weights = floors.block(np.arange(20))
    dual = floors.lowered_dual(*dual_values(floors.query.masses, cost, weights, problem.looked_up.offsets[:-1]))
    relaxed, reduced = floors.relaxed() / exact, floors.reduced() / exact
    assert 0.5 < np.median(relaxed) < np.median(reduced) < np.median(dual / exact) < 1.0
    assert np.median(dual / exact) > 0.97


@pytest.mark.parametrize("long_problem", [1, 10**9])
@settings(max_examples=80, deadline=None)
@given(problem=problems(), weight=st.sampled_from([0.0, 0.3, 1.0]), top_k=st.integers(1, 5), measure=measures)
def test_every_form_equals_solving_everything(
    long_problem: int, problem: Problem, weight: float, top_k: int, measure: Measure
) -> None:
    """With and without the dual bound, from a table, a part of it or written out, whole or in blocks, the result is the same."""
    known = np.linspace(0.0, 0.3, len(problem.texts)).round(1)
    distances = problem.distances(measure)
    scores = known + weight * transport.similarity(distances, measure)
    order = sorted(range(len(known)), key=lambda i: (-scores[i], i))[:top_k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rerank, "LONG_PROBLEM", long_problem)
        patch.setattr(Floors, "dual_run", 3)
        patch.setattr(rerank, "FIRST_TOKENS", 5)
        patch.setattr(block_rerank, "BLOCK_TEXTS", 3)
        rest = (known, weight, top_k, measure, None, None, problem.query_weights)
        results = [rerank.rerank(problem.vectors, form, *rest) for form in problem.forms]
        results.append(block_rerank.rerank_in_blocks(problem.vectors, lambda where: part(problem, where), *rest))
    for found in results:
        assert found.order.tolist() == order
        assert found.scores.tolist() == scores[order].tolist()
        assert found.distances.tolist() == distances[order].tolist()
        certificate = found.certificate
        assert certificate.exact
        assert certificate.solved + certificate.pruned == len(known)
        assert found.opened.solved == certificate.solved
        if certificate.next_bound is not None and certificate.kth is not None:
            assert certificate.next_bound <= certificate.kth


def part(problem: Problem, where: NDArray[np.int64]) -> Candidates:
    """Some of the texts."""
    whole = problem.looked_up
    assert whole.rows is not None
    offsets = np.concatenate([[0], np.cumsum(np.diff(whole.offsets)[where])])
    return whole._replace(rows=whole.rows[ranges(whole.offsets, where)], offsets=offsets)


def test_many_texts_open_few() -> None:
    """Among 3,000 texts and their copies only some hundred get the second bound, and the best are found."""
    random = np.random.default_rng(1)
    table = (random.normal(size=(900, 16)) * random.uniform(0.3, 2.0, size=(900, 1))).astype(np.float32)
    texts = [random.integers(0, 900, size).tolist() for size in random.integers(1, 13, 3_000)] * 2
    problem = Problem(table, texts[17], texts, None)
    found = rerank.rerank(problem.vectors, problem.forms[1], np.zeros(6_000), 1.0, 10, "wrd")
    distances = problem.distances("wrd")
    assert found.order.tolist() == sorted(range(6_000), key=lambda i: (distances[i], i))[:10]
    assert found.order[:2].tolist() == [17, 3_017]
    assert found.opened.relaxed == 6_000
    assert found.opened.solved <= found.opened.reduced < 2_000


def test_blocks_stop_where_nothing_better_can_follow() -> None:
    """With little weight on transport the texts of little known score are never read; after the deadline none is."""
    random = np.random.default_rng(2)
    table = random.normal(size=(50, 8)).astype(np.float32)
    texts = [random.integers(0, 50, 6).tolist() for _ in range(5_000)]
    problem = Problem(table, texts[0], texts, None)
    known = np.linspace(1.0, 0.0, 5_000)
    read: list[int] = []

    def reading(where: NDArray[np.int64]) -> Candidates:
        read.append(len(where))
        return part(problem, where)

    found = block_rerank.rerank_in_blocks(problem.vectors, reading, known, 0.05, 5, "wrd")
    assert found.certificate.exact
    assert sum(read) < 2_100
    scores = known + 0.05 * (1.0 - problem.distances("wrd"))
    assert found.order.tolist() == np.argsort(-scores, kind="stable")[:5].tolist()
    late = block_rerank.rerank_in_blocks(
        problem.vectors, reading, known, 0.05, 5, "wrd", np.arange(5_000), deadline=Deadline(time.monotonic() - 1.0)
    )
    assert not late.certificate.exact
    assert late.certificate.next_bound is not None
    assert late.certificate.next_bound >= scores.max()
    assert late.order.tolist() == [0, 1, 2, 3, 4]
    known[1_024:] -= 0.5  # after the first block nobody can be better, but the deadline comes while that is read
    soon = Deadline()

    def slow(where: NDArray[np.int64]) -> Candidates:
        soon.give_up()
        return part(problem, where)

    cut = block_rerank.rerank_in_blocks(problem.vectors, slow, known, 0.05, 5, "wrd", deadline=soon)
    assert not cut.certificate.exact
    assert not cut.is_complete


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([1.0, -0.5]), "-0.5"),
        (np.array([1.0, np.nan]), "nan"),
        (np.array([1.0, np.inf]), "inf"),
        (np.array([1.0]), r"\(2,\).*\(1,\)"),
    ],
)
def test_weights_that_make_no_masses(weights: Floats, message: str) -> None:
    """Token weights that are negative, not finite or of another number are refused, and the message holds the value."""
    two = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=message):
        transport.points(two, "wmd", weights)
    candidates = Candidates(two, np.array([0, 2]), weights=weights)
    with pytest.raises(ValueError, match=message):
        rerank.rerank(two, candidates, np.zeros(1), 1.0, 1, "wrd")


def test_masses_are_shares_of_weights() -> None:
    """Lengths, ones and rarity by hand: of two texts one has the first token, both have the second."""
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]], np.float32)
    assert transport.token_weights(vectors, "norm").tolist() == [5.0, 0.0, 1.0]
    assert transport.token_weights(vectors, "uniform").tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="'idf'"):
        transport.token_weights(vectors, "idf")
    rare = transport.rarity(np.array([1, 2]), 2)
    assert rare.tolist() == pytest.approx([np.log(1 + 1.5 / 1.5), np.log(1 + 0.5 / 2.5)])
    # Masses (1/4, 3/4) against one token: a quarter at a right angle costs 1, the rest nothing.
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[0.0, 2.0]], np.float32)
    assert transport.distance(x, y, "wrd", np.array([1.0, 3.0])) == pytest.approx(0.25)
    assert transport.distance(x, y, "wmd", np.array([0.0, 0.0])) == np.inf


@settings(max_examples=200, deadline=None)
@given(problem=problems(), measure=measures, seed=st.integers(0, 2**32), size=st.sampled_from([0.0, 1.0, 1e6]))
def test_bounds_hold_whatever_the_potentials_are(problem: Problem, measure: Measure, seed: int, size: float) -> None:
    """From potentials that are noise the bounds of every form are still at most the distances."""
    random = np.random.default_rng(seed)

    def noise(query_masses: Floats, costs: NDArray[np.float32], masses: NDArray[np.float32]) -> NDArray[np.float32]:
        return (-size * random.random(len(query_masses))).astype(np.float32)

    exact = problem.distances(measure)
    asked = transport.points(problem.vectors, measure, problem.query_weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds_module, "query_potentials", noise)
        for form in problem.forms[:2]:
            floors = Floors(asked, form, measure)
            if floors.has_table:
                assert (floors.relaxed() <= exact).all()
            assert (floors.reduced() <= exact).all()


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40), st.sampled_from([0.0, 1e-20, 1.0, 1e12]))
def test_potentials_are_finite_and_not_positive(seed: int, rows: int, columns: int, size: float) -> None:
    """Whatever the costs are, potentials are finite, at most 0, and 0 for the token that is cheapest to serve."""
    random = np.random.default_rng(seed)
    costs = (size * random.random((rows, columns))).astype(np.float32)
    masses = random.random(columns).astype(np.float32) ** 20 + np.float32(1e-30)
    f = query_potentials(np.full(rows, 1.0 / rows), costs, masses / masses.sum())
    assert np.isfinite(f).all()
    assert f.max() == 0.0


@pytest.mark.parametrize("measure", ["wrd", "wmd"])
def test_shared_potentials_tighten_the_bound_of_all(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a question and passages the bound by an addition per token is nearer to the distance than that of LC-RWMD."""
    random = np.random.default_rng(3)
    table = random.normal(size=(400, 32)) * random.uniform(0.3, 2.0, size=(400, 1)) + random.normal(size=32)
    texts = [random.integers(0, 400, size).tolist() for size in random.integers(60, 200, 40)]
    problem = Problem(table.astype(np.float32), random.integers(0, 400, 16).tolist(), texts, None)
    exact, asked = problem.distances(measure), transport.points(problem.vectors, measure)
    shared = Floors(asked, problem.looked_up, measure).relaxed() / exact
    monkeypatch.setattr(bounds_module, "query_potentials", lambda p, costs, masses: np.zeros(len(p), np.float32))
    nearest = Floors(asked, problem.looked_up, measure).relaxed() / exact
    assert np.median(shared) > np.median(nearest) + 0.02
    assert np.median(shared) > 0.9
