"""The pruned rerank equals solving everything, and says truly how it came about."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from models import bounds as bounds_module
from models import transport
from models.bounds import Floors
from models.candidates import Candidates, TokenTable
from models.deadline import Deadline
from models.rerank import Reranked, rerank
from models.transport import Measure

pytestmark = pytest.mark.usefixtures("few_or_many")

MEASURES: tuple[Measure, ...] = ("wrd", "wmd")
Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

measures = st.sampled_from(MEASURES)


@st.composite
def token_vectors(draw: st.DrawFn, dim: int) -> Matrix:
    """Token vectors of one text of 0 to 6: small integers (zero vectors, repeated tokens, ties) or a normal sample.

    Its tokens are of one size, or of sizes so different that float64 can barely add them.
    """
    count = draw(st.integers(0, 6))
    if draw(st.booleans()):
        return draw(arrays(np.float32, (count, dim), elements=st.integers(-2, 2).map(float)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = 10.0 ** random.uniform(-15, 10, size=(count, 1)) if draw(st.booleans()) else 1.0
    return (sizes * random.normal(size=(count, dim))).astype(np.float32)


def packed(texts: list[Matrix], dim: int) -> Candidates:
    """Texts one after another."""
    offsets = np.cumsum([0] + [len(text) for text in texts])
    return Candidates(np.concatenate([np.zeros((0, dim), np.float32), *texts]), offsets)


def everything(
    query: Matrix,
    texts: list[Matrix],
    known: Floats,
    weight: float,
    top_k: int,
    measure: Measure,
    ties: NDArray[np.int64],
) -> tuple[list[int], list[float], list[float]]:
    """Order, scores and distances by solving every problem and sorting."""
    distances = [transport.distance(query, text, measure) for text in texts]
    scores = [float(a) + weight * transport.similarity(b, measure) for a, b in zip(known, distances, strict=True)]
    order = sorted(range(len(texts)), key=lambda i: (-scores[i], ties[i], i))[:top_k]
    return order, [scores[i] for i in order], [distances[i] for i in order]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Matrix, list[Matrix], Floats]:
    """A query, texts (some of them copies of the query or of each other, some empty) and known scores with ties."""
    dim = draw(st.integers(1, 5))
    query = draw(token_vectors(dim))
    texts = draw(st.lists(token_vectors(dim), max_size=12))
    texts += [query.copy()] * draw(st.integers(0, 2)) + texts[: draw(st.integers(0, 3))]
    texts = draw(st.permutations(texts))
    known = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, -1.0, 0.123]), min_size=len(texts), max_size=len(texts)))
    return query, texts, np.array(known, np.float64)


def like_questions(seed: int, count: int, dim: int = 32) -> tuple[Matrix, list[Matrix]]:
    """A query of 12 tokens and `count` texts of 4 to 20 that share some of them; all tokens lean one way."""
    random = np.random.default_rng(seed)
    table = (random.normal(size=(500, dim)) + random.normal(size=dim)) * random.uniform(0.3, 2.0, size=(500, 1))
    query = random.integers(0, 500, 12)
    texts = []
    for size in random.integers(4, 21, count):
        shared = random.random(size) < random.beta(1, 3)
        texts.append(np.where(shared, query[random.integers(0, 12, size)], random.integers(0, 500, size)))
    return table[query].astype(np.float32), [table[text].astype(np.float32) for text in texts]


@settings(max_examples=400, deadline=None)
@given(problems(), st.sampled_from([0.0, 0.3, 1.0, 5.0]), st.integers(1, 6), measures, st.booleans())
def test_equals_solving_everything(
    problem: tuple[Matrix, list[Matrix], Floats], weight: float, top_k: int, measure: Measure, reverse: bool
) -> None:
    """Order, scores and distances are to the last bit those of solving every problem, ties included."""
    query, texts, known = problem
    ties = np.arange(len(texts))[::-1] // 2 if reverse else np.arange(len(texts))
    found = rerank(query, packed(texts, query.shape[1]), known, weight, top_k, measure, ties if reverse else None)
    order, scores, distances = everything(query, texts, known, weight, top_k, measure, ties)
    assert found.order.tolist() == order
    assert found.scores.tolist() == scores
    assert found.distances.tolist() == distances
    certificate = found.certificate
    assert certificate.exact
    assert certificate.solved + certificate.pruned == len(texts)
    assert certificate.kth == (scores[-1] if scores else None)
    assert (certificate.next_bound is None) == (certificate.pruned == 0)
    if certificate.next_bound is not None and certificate.kth is not None:
        assert certificate.next_bound <= certificate.kth


@settings(max_examples=300)
@given(problems(), measures)
def test_bounds_hold(problem: tuple[Matrix, list[Matrix], Floats], measure: Measure) -> None:
    """No lower bound exceeds the exact distance."""
    query, texts, _ = problem
    bounds = Floors(transport.points(query, measure), packed(texts, query.shape[1]), measure).reduced()
    for bound, text in zip(bounds.tolist(), texts, strict=True):
        assert 0.0 <= bound <= transport.distance(query, text, measure)
        if not all(transport.masses(vectors, measure).any() for vectors in (query, text)):
            assert bound == transport.WORST[measure]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
@pytest.mark.parametrize("dim", [3, 32, 768])
def test_bounds_hold_and_are_tight_on_text_like_vectors(dim: int, scale: float, measure: Measure) -> None:
    """On vectors like those of questions bounds hold at any scale, above the relaxed bound, near the distance."""
    query, texts = like_questions(dim, 60, dim)
    query, texts = query * np.float32(scale), [text * np.float32(scale) for text in texts]
    bounds = Floors(transport.points(query, measure), packed(texts, dim), measure).reduced()
    exact = np.array([transport.distance(query, text, measure) for text in texts])
    p = transport.masses(query, measure)
    costs = [transport.costs(query, text, measure) for text in texts]
    relaxed = np.array(
        [
            max(p @ cost.min(axis=1), transport.masses(text, measure) @ cost.min(axis=0))
            for cost, text in zip(costs, texts, strict=True)
        ]
    )
    assert (bounds <= exact).all()
    assert (bounds >= relaxed * (1 - 1e-3) - 1e-3 * relaxed.max()).all()
    assert np.median(bounds / exact) > (0.6 if dim == 3 else 0.85)


@pytest.mark.parametrize("measure", MEASURES)
def test_prunes(measure: Measure) -> None:
    """Of 300 text-like candidates fewer than a quarter are solved for the best ten, which equal solving all."""
    query, texts = like_questions(1, 300)
    known = np.linspace(0.3, 0.2, 300)
    found = rerank(query, packed(texts, 32), known, 0.7, 10, measure)
    assert found.order.tolist() == everything(query, texts, known, 0.7, 10, measure, np.arange(300))[0]
    assert 10 <= found.certificate.solved < 75


@pytest.mark.parametrize("measure", MEASURES)
def test_blocks_and_long_texts(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of up to 512 tokens, and bounds made block by block, change nothing."""
    random = np.random.default_rng(5)
    query = random.normal(size=(40, 16)).astype(np.float32)
    texts = [random.normal(size=(size, 16)).astype(np.float32) for size in [512, 1, 0, 90, 300, 7, 0, 64]]
    whole = rerank(query, packed(texts, 16), np.zeros(8), 1.0, 3, measure)
    assert whole.order.tolist() == everything(query, texts, np.zeros(8), 1.0, 3, measure, np.arange(8))[0]
    bounds = Floors(transport.points(query, measure), packed(texts, 16), measure).reduced()
    for block in (1, 40 * 100, 40 * 600):
        monkeypatch.setattr(bounds_module, "BLOCK", block)
        again = Floors(transport.points(query, measure), packed(texts, 16), measure).reduced()
        np.testing.assert_allclose(again, bounds, rtol=1e-4, atol=1e-4)
        assert equal(rerank(query, packed(texts, 16), np.zeros(8), 1.0, 3, measure), whole)


def equal(one: Reranked, other: Reranked) -> bool:
    """Whether two results hold the same hits, to the last bit."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one[:3], other[:3], strict=True))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_table_gives_the_same(measure: Measure) -> None:
    """Candidates given as token ids and a table, also one in half precision, rank as their vectors written out."""
    random = np.random.default_rng(2)
    table = random.normal(size=(50, 8)).astype(np.float16)
    table[0] = 0.0
    sizes = [5, 0, 9, 1, 12, 3]
    ids, offsets = random.integers(0, 50, sum(sizes)), np.cumsum([0, *sizes])
    query, known = table[[1, 2, 3]].astype(np.float32), random.normal(size=6)
    written = rerank(query, Candidates(table[ids].astype(np.float32), offsets), known, 0.5, 4, measure)
    looked_up = Candidates.from_table(TokenTable(table), ids, offsets)
    assert len(looked_up.vectors) == len(np.unique(ids))
    assert equal(rerank(query, looked_up, known, 0.5, 4, measure), written)


@settings(max_examples=100, deadline=None)
@given(problems(), measures)
def test_scores_depend_on_the_pair_alone(problem: tuple[Matrix, list[Matrix], Floats], measure: Measure) -> None:
    """A candidate has the same score, to the last bit, alone and among others, wherever it stands."""
    query, texts, known = problem
    together = rerank(query, packed(texts, query.shape[1]), known, 0.5, max(len(texts), 1), measure)
    for position, score in zip(together.order.tolist(), together.scores.tolist(), strict=True):
        alone = rerank(query, packed([texts[position]], query.shape[1]), known[[position]], 0.5, 1, measure)
        assert alone.scores.tolist() == [score]


@pytest.mark.parametrize("measure", MEASURES)
def test_deadline(measure: Measure) -> None:
    """After the deadline the answer is in order of what each score is at least, and the certificate is not exact."""
    query, texts = like_questions(3, 40)
    known = np.linspace(0.0, 0.4, 40)
    late = rerank(query, packed(texts, 32), known, 0.7, 5, measure, deadline=Deadline(time.monotonic()))
    assert not late.certificate.exact
    assert late.certificate.solved == 0
    assert late.order.tolist() == [39, 38, 37, 36, 35]
    assert np.isnan(late.distances).all()
    best = rerank(query, packed(texts, 32), known, 0.7, 5, measure, deadline=Deadline(time.monotonic() + 3600))
    assert best.certificate.exact
    assert (late.scores <= best.scores).all()
    assert late.certificate.next_bound is not None
    assert late.certificate.next_bound >= best.scores[0]


@pytest.mark.parametrize("measure", MEASURES)
def test_identical_text_is_found_first(measure: Measure) -> None:
    """The query itself, hidden among others, comes first with a distance of zero."""
    query, texts = like_questions(4, 50)
    texts[31] = query.copy()
    found = rerank(query, packed(texts, 32), np.zeros(50), 1.0, 3, measure)
    assert found.order[0] == 31
    assert found.distances[0] <= 1e-14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -0.5}, "-0.5"),
        ({"weight": math.nan}, "nan"),
        ({"top_k": 0}, "got 0"),
        ({"known": np.array([0.0, math.inf])}, "inf"),
        ({"known": np.zeros(3)}, r"\(2,\).*\(3,\)"),
        ({"query": np.ones((1, 4), np.float32)}, r"\(1, 4\)"),
        ({"candidates": Candidates(np.ones((2, 3), np.float32), np.array([0, 3, 2]))}, "3|2"),
        ({"candidates": Candidates(np.ones((2, 3), np.float32), np.array([0, 1, 1]))}, "0 to 1"),
        ({"candidates": Candidates(np.ones((2, 3), np.float32), np.array([0, 1, 2]), np.array([0, 2]))}, "0 to 2"),
        ({"candidates": Candidates(np.ones((2, 3), np.float32), np.array([0, 1, 2]), np.array([-1, 0]))}, "-1 to 0"),
        ({"candidates": Candidates(np.full((2, 3), np.nan, np.float32), np.array([0, 1, 2]))}, "row 0 holds nan"),
        ({"candidates": Candidates(np.full((2, 3), 1e30, np.float32), np.array([0, 1, 2]))}, "row 0 holds 1"),
        ({"candidates": Candidates(np.ones((2, 3)), np.array([0, 1, 2]))}, "float64"),  # type: ignore[arg-type]
    ],
)
def test_refused(change: dict[str, object], message: str) -> None:
    """Arguments that would give a wrong answer are refused, and the message holds the value."""
    good: dict[str, object] = {
        "query": np.ones((1, 3), np.float32),
        "candidates": Candidates(np.ones((2, 3), np.float32), np.array([0, 1, 2])),
        "known": np.zeros(2),
        "weight": 0.5,
        "top_k": 1,
        "measure": "wrd",
    }
    with pytest.raises(ValueError, match=message):
        rerank(**(good | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", MEASURES)
def test_ties_in_front_hide_nobody(measure: Measure) -> None:
    """Thousands of equal texts whose cheapest bound is best of all, and far too low, do not hide those after them."""

    def unit(degrees: float) -> list[float]:
        return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]

    table = TokenTable(np.array([unit(0), unit(90), unit(25), unit(115)], np.float32))
    texts = [[0]] * 5_000 + [[2, 3]] * 15_000
    places = np.random.default_rng(0).permutation(len(texts)).tolist()
    ids = np.concatenate([texts[i] for i in places])
    offsets = np.cumsum([0, *(len(texts[i]) for i in places)])
    candidates = Candidates.from_table(table, ids, offsets)
    query = np.array([unit(0), unit(90)], np.float32)
    found = rerank(query, candidates, np.zeros(len(texts)), 1.0, 10, measure)
    best = transport.distance(query, table.vectors[[2, 3]], measure)
    assert found.distances.tolist() == pytest.approx([best] * 10)
    assert found.certificate.exact


def test_bounds_keep_to_the_deadline() -> None:
    """What the deadline leaves out has a bound of 0, which holds for everything."""
    query, texts = like_questions(3, 40)
    floors = Floors(transport.points(query, "wmd"), packed([*texts, np.zeros((0, 32), np.float32)], 32), "wmd")
    in_time, late = floors.reduced(), floors.reduced(deadline=Deadline(time.monotonic()))
    assert (in_time[:-1] > 0.0).all()
    assert not late[:-1].any()
    assert late[-1] == in_time[-1] == math.inf


def test_long_texts_without_mass_are_worst() -> None:
    """The dual bound of a text of zero vectors is its distance, also under a query whose masses lie far apart."""
    random = np.random.default_rng(0)
    query = random.standard_normal((15, 4)).astype(np.float32)
    query *= (np.array([1e14] + [1e-11] * 14, np.float32) / np.linalg.norm(query, axis=1))[:, None]
    texts = [np.zeros((100, 4), np.float32), -query[:1]]
    floors = Floors(transport.points(query, "wrd"), packed(texts, 4), "wrd")
    assert floors.dual(np.array([0])).tolist() == [transport.WORST["wrd"]]
    found = rerank(query, packed(texts, 4), np.array([0.1, 0.0]), 1.0, 2, "wrd")
    assert found.order.tolist() == [0, 1]
