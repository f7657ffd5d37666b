"""What is solved nearly is off by no more than it says."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import transport
from models.block_rerank import rerank_in_blocks
from models.candidates import Candidates
from models.device_tokens import DeviceTable
from models.entropic import Problems, between, feasible, iterate, rounded_costs
from models.rerank import Solving, is_proven, rerank
from models.solvers import EntropicSolver
from models.transport import Measure
from test_device import DEVICES, candidates_of, made_table, made_texts

MEASURES: tuple[Measure, ...] = ("wrd", "wmd")
measures = st.sampled_from(MEASURES)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 24), st.integers(1, 30), measures, st.booleans())
def test_the_error_is_no_less_than_the_error(
    seed: int, dim: int, longest: int, measure: Measure, is_weighed: bool
) -> None:
    """Of thousands of problems, among them texts without mass and equal texts, none is off by more than reported, or below."""
    table = made_table(seed, 60, dim)
    query, texts = made_texts(seed, table, 30, longest)
    weights = np.random.default_rng(seed).uniform(0.0, 3.0, 60).round(1) if is_weighed else None
    asked = transport.points(table.vectors[query], measure, None if weights is None else weights[query])
    candidates = candidates_of(table, texts, weights)
    solver = EntropicSolver(DeviceTable(table, "cpu").floors(asked, candidates, measure), measure)
    found, errors = solver.bounds(np.arange(len(texts)))
    exact = np.array(
        [transport.distance_between(asked, candidates.points(i, measure), measure) for i in range(len(texts))]
    )
    finite = np.isfinite(exact)
    assert np.array_equal(found[~finite], exact[~finite])
    assert (errors >= 0).all()
    assert (found[finite] >= exact[finite]).all()
    assert (found[finite] - exact[finite] <= errors[finite]).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("measure", MEASURES)
def test_the_error_is_small(measure: Measure, device: str) -> None:
    """Between texts like questions and like passages, nine in ten are within six percent, and half within two."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for seed, longest in ((1, 16), (2, 120)):
        table = made_table(seed, 900, 48)
        query, texts = made_texts(seed, table, 60, longest)
        asked = transport.points(table.vectors[query], measure)
        floors = DeviceTable(table, device).floors(asked, candidates_of(table, texts), measure)
        found, errors = EntropicSolver(floors, measure).bounds(np.arange(60))
        some = (found > 0.05) & np.isfinite(found)
        shares = errors[some] / found[some]
        assert np.quantile(shares, 0.5) < 0.02
        assert np.quantile(shares, 0.9) < 0.06


def problems_of(seed: int, count: int, rows: int, columns: int) -> Problems:
    """Problems with costs in [0, 1) and random masses."""
    random = np.random.default_rng(seed)
    masses = [random.uniform(0.1, 1.0, size) for size in ((rows,), (count, columns))]
    return Problems(
        torch.from_numpy(random.random((count, rows, columns))),
        torch.from_numpy(masses[0] / masses[0].sum()),
        torch.from_numpy(masses[1] / masses[1].sum(1, keepdims=True)),
    )


def test_the_iteration_is_that_of_pot() -> None:
    """With one strength of the entropy, iterated long, the plans are those of POT's Sinkhorn in the log domain."""
    problems = problems_of(3, 20, 7, 9)
    plans = iterate(problems, (0.2,) * 20, 50)[0]
    for cost, masses, plan in zip(problems.costs, problems.text_masses, plans, strict=True):
        scale = float(problems.query_masses @ cost @ masses)
        expected = ot.sinkhorn(
            problems.query_masses, masses, cost, 0.2 * scale, method="sinkhorn_log", numItermax=10_000, stopThr=1e-12
        )
        np.testing.assert_allclose(plan, expected, atol=2e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 8))
def test_whatever_the_iteration_gave_the_bounds_hold(seed: int, rows: int, columns: int) -> None:
    """From plans and potentials that are noise, rounding makes an upper and feasibility a lower bound."""
    problems = problems_of(seed, 5, rows, columns)
    random = np.random.default_rng(seed)
    noise = torch.from_numpy(
        random.random((5, rows, columns)) * random.choice([0.0, 1e-9, 1.0, 1e9], (5, rows, columns))
    )
    lower = feasible(problems, torch.from_numpy(random.normal(size=(5, rows)) * 10.0)).values
    upper = rounded_costs(problems, noise)
    p = problems.query_masses.numpy()
    for i in range(5):
        exact = transport.solve(p, problems.text_masses[i].numpy(), problems.costs[i].numpy())[1]
        assert lower[i] <= exact + 1e-12
        assert upper[i] >= exact - 1e-12
    found = between(problems)
    assert (found.lower <= found.upper + 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.3, 1.0]), st.integers(1, 12), measures, st.booleans())
def test_a_rerank_says_how_far_off_it_may_be(
    seed: int, weight: float, top_k: int, measure: Measure, in_blocks: bool
) -> None:
    """Distances are within the largest error of the exact ones, what is called proven is so, and twice gives the same twice."""
    table = made_table(seed, 60, 16)
    query, texts = made_texts(seed, table, 30, 12)
    candidates, known = candidates_of(table, texts), np.random.default_rng(seed).choice([0.0, 0.1], len(texts))
    solving = Solving(entropic=DeviceTable(table, "cpu").floors)
    asked = (table.vectors[query], candidates, known, weight, top_k, measure)
    found = rerank(*asked, solving=solving)
    if in_blocks:
        found = rerank_in_blocks(
            asked[0],
            lambda where: candidates_of(table, [texts[i] for i in where.tolist()]),
            *asked[2:],
            solving=solving,
        )
    assert found.order.tolist() == rerank(*asked, solving=solving).order.tolist() or in_blocks
    exact = np.array([transport.distance(table.vectors[query], candidates.tokens(i), measure) for i in found.order])
    certificate = found.certificate
    assert found.is_complete
    assert certificate.max_error is not None
    with np.errstate(invalid="ignore"):
        off = np.where(found.distances == exact, 0.0, found.distances - exact)
    assert (off >= 0).all()
    assert (off <= found.errors).all()
    assert certificate.max_error == found.errors.max()
    assert certificate.solved + certificate.pruned == len(texts)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    best = rerank(*asked)
    assert (best.scores >= found.scores - 1e-9).all()
    np.testing.assert_array_less(best.scores, found.scores + weight * certificate.max_error + 1e-9)
    if certificate.exact:
        assert found.order.tolist() == best.order.tolist()


def test_proven_means_that_no_error_could_change_the_order() -> None:
    """Scores whose ranges overlap prove nothing, in the result or beside it; exactly known equals may stand together."""
    low = np.array([0.9, 0.7, 0.5, 0.2])
    best = np.array([0, 1])
    assert is_proven(low, low, best)
    assert is_proven(low, low + np.array([0.0, 0.1, 0.1, 0.0]), best)
    assert not is_proven(low, low + np.array([0.0, 0.25, 0.0, 0.0]), best)
    assert not is_proven(low, low + np.array([0.0, 0.0, 0.0, 0.5]), best)
    equal = np.array([0.5, 0.5, 0.1])
    assert is_proven(equal, equal + np.array([0.0, 0.0, 0.1]), best)
    assert not is_proven(equal, equal + np.array([0.1, 0.0, 0.0]), best)


def test_refused() -> None:
    """Candidates that are in no table cannot be solved nearly with one."""
    table = made_table(0, 10, 4)
    plain = Candidates(table.vectors, np.array([0, 10]))
    with pytest.raises(ValueError, match="rows of the table"):
        rerank(
            table.vectors[3:],
            plain,
            np.zeros(1),
            1.0,
            1,
            "wrd",
            solving=Solving(entropic=DeviceTable(table, "cpu").floors),
        )
