"""models/fusion.py: the fused score and reciprocal ranks, against their formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fusion import Shares, SharesByLength, first_stage, reciprocal_ranks

cosines = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6)
rankings = st.lists(
    st.lists(st.integers(0, 12), max_size=8, unique=True).map(lambda rows: np.array(rows, np.int64)),
    min_size=1,
    max_size=3,
)


@given(cosines=cosines, share=st.floats(0, 1))
def test_first_stage_is_the_weighted_mean(cosines: list[float], share: float) -> None:
    """(1 - l) * cosine + l * lexical, at every position."""
    cosine = np.array(cosines, np.float32)
    lexical = np.abs(cosine[::-1])
    fused = first_stage(cosine, lexical, share)
    for i in range(len(cosine)):
        assert fused[i] == pytest.approx((1 - share) * float(cosine[i]) + share * float(lexical[i]))
    assert fused.dtype == np.float64


@given(cosines=cosines, share=st.floats(0, 1))
def test_a_part_that_did_not_run_leaves_the_other_whole(cosines: list[float], share: float) -> None:
    """With one part the weight does not matter; with none there is no score."""
    only = np.array(cosines, np.float32)
    assert np.array_equal(first_stage(only, None, share), only)
    assert np.array_equal(first_stage(None, only, share), only)
    with pytest.raises(ValueError, match="neither"):
        first_stage(None, None, share)


@given(rankings=rankings, count=st.integers(1, 20), constant=st.integers(1, 100))
def test_reciprocal_ranks_are_summed(rankings: list[np.ndarray], count: int, constant: int) -> None:
    """A row's total is the sum of 1 / (constant + rank) over the rankings that have it; the best come first."""
    totals: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking.tolist(), start=1):
            totals[row] = totals.get(row, 0.0) + 1.0 / (constant + rank)
    merged = reciprocal_ranks(rankings, count, constant).tolist()
    assert len(merged) == len(set(merged)) == min(count, len(totals))
    found = [totals[row] for row in merged]
    assert found == pytest.approx(sorted(totals.values(), reverse=True)[:count])


def test_equal_ranks_are_settled_by_row() -> None:
    """Two rankings of disjoint rows interleave, the smaller row first; one ranking keeps its order."""
    one, other = np.array([7, 3], np.int64), np.array([2, 9], np.int64)
    assert reciprocal_ranks([one, other], 4).tolist() == [2, 7, 3, 9]
    assert reciprocal_ranks([one], 9).tolist() == [7, 3]
    assert reciprocal_ranks([one, one[:0]], 1).tolist() == [7]
    assert reciprocal_ranks([one[:0]], 3).tolist() == []


@given(st.floats(1e-3, 1e3))
def test_shares_follow_the_length(ratio: float) -> None:
    """Up to the first point and from the last on they are the points' own; between them they are linear in the logarithm."""
    shares = SharesByLength.of_card({"weight": 0.3, "lexical_weight": 0.4, "by_length": [[8, 0.1, 0.9, 0.6]]})
    found = shares.at(ratio)
    if ratio <= 1:
        assert found == Shares(0.3, 0.4)
    elif ratio >= 8:
        assert found == pytest.approx(Shares(0.1, 0.9, 0.6))
    else:
        share = np.log(ratio) / np.log(8)
        assert found == pytest.approx(Shares(0.3 - 0.2 * share, 0.4 + 0.5 * share, 0.6 * share))


def test_given_shares_hold_at_every_length() -> None:
    """What is given replaces the card's shares, the rest stays."""
    shares = SharesByLength.of_card({"weight": 0.3, "lexical_weight": 0.4, "by_length": [[8, 0.1, 0.9, 0.6]]})
    assert shares.fixed(0.5, None).at(8.0) == Shares(0.5, 0.9, 0.6)
    assert shares.fixed(None, 0.0, 0.2).at(1.0) == Shares(0.3, 0.0, 0.2)


def test_a_card_without_lengths_has_the_same_shares_everywhere() -> None:
    """One point, or none said at all, is a constant."""
    assert SharesByLength.of_card({"weight": 0.2, "lexical_weight": 0.8}).at(50.0) == Shares(0.2, 0.8)
    assert SharesByLength.of_card({}).at(3.0) == Shares(0.5, 0.0)


@pytest.mark.parametrize(
    "rows", [[[1, 0.1, 0.1]], [[4, 0.1, 0.1], [2, 0.1, 0.1]], [[4, 1.1, 0.1]], [[4, 0.1, 0.1, 1.1]], [[4, 0.1]]]
)
def test_a_card_that_cannot_be_meant_is_refused(rows: list[list[float]]) -> None:
    """Ratios rise from 1, shares lie in [0, 1]."""
    with pytest.raises(ValueError, match="card"):
        SharesByLength.of_card({"weight": 0.2, "lexical_weight": 0.8, "by_length": rows})
