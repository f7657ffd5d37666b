"""The losses agree with plain loops over their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.losses import (
    additive_margin,
    cosent,
    family_thresholds,
    flatnce,
    in_batch,
    relaxed_mover,
    same_meaning,
    softmax_in_batch,
)
from models.transport import distance

cosines = st.floats(-1, 1, width=32)


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw similarities (n, m), m ≥ n, and a mask made of groups, as a batch has it."""
    rows = draw(st.integers(1, 5))
    columns = rows + draw(st.integers(0, 3))
    similarity = torch.from_numpy(draw(arrays(np.float64, (rows, columns), elements=cosines)))
    groups = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=columns, max_size=columns)))
    return similarity, same_meaning(groups[:rows], groups)


def loop_softmax(similarity: torch.Tensor, masked: torch.Tensor, scale: float, margin: float = 0.0) -> float:
    """Follow the formula of softmax_in_batch one term at a time."""
    total = 0.0
    for i, row in enumerate(similarity.tolist()):
        right = math.exp(scale * (row[i] - margin))
        others = sum(math.exp(scale * value) for j, value in enumerate(row) if j != i and not masked[i, j])
        total -= math.log(right / (right + others))
    return total / len(similarity)


@settings(deadline=None, max_examples=40)
@given(batches())
def test_softmax_equals_its_loop(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The in-batch softmax is the mean negative log share of the right column among the unmasked ones."""
    assert float(softmax_in_batch(*batch, scale=20.0)) == pytest.approx(loop_softmax(*batch, scale=20.0), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(batches(), st.floats(0, 0.5))
def test_margin_equals_its_loop(batch: tuple[torch.Tensor, torch.Tensor], margin: float) -> None:
    """The additive margin lowers the right similarity and nothing else."""
    expected = loop_softmax(*batch, scale=20.0, margin=margin)
    assert float(additive_margin(*batch, scale=20.0, margin=margin)) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(batches())
def test_flatnce_gradient_equals_its_definition(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """FlatNCE is 1 for every row with a negative, and its gradient is that of the log of the summed contrasts."""
    similarity, masked = batch
    leaf = similarity.clone().requires_grad_()
    loss = flatnce(leaf, masked, scale=5.0)
    other = similarity.clone().requires_grad_()
    total, lonely = torch.zeros((), dtype=torch.float64), 0
    for i in range(len(other)):
        terms = [
            torch.exp(5.0 * (other[i, j] - other[i, i])) for j in range(other.shape[1]) if j != i and not masked[i, j]
        ]
        lonely += not terms
        if terms:
            total = total + torch.log(torch.stack(terms).sum())
    assert float(loss.detach()) == pytest.approx(1 - lonely / len(other))
    if lonely < len(other):
        loss.backward()  # type: ignore[no-untyped-call]
        (total / len(other)).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(leaf.grad, other.grad, atol=1e-9, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(cosines, st.integers(0, 3)), min_size=1, max_size=8),
)
def test_cosent_equals_its_loop(pairs: list[tuple[float, int]]) -> None:
    """CoSENT sums over all ordered couples of pairs whose labels differ."""
    scores, labels = [score for score, _ in pairs], [label for _, label in pairs]
    expected = math.log(
        1
        + sum(
            math.exp(20 * (scores[j] - scores[i]))
            for i in range(len(pairs))
            for j in range(len(pairs))
            if labels[i] > labels[j]
        )
    )
    found = cosent(torch.tensor(scores, dtype=torch.float64), torch.tensor(labels))
    assert float(found) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(cosines, st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=8))
def test_family_thresholds_equal_their_loop(pairs: list[tuple[float, int, int]]) -> None:
    """Every pair is judged against the threshold of its own family."""
    thresholds = [0.2, 0.5, 0.8]
    expected = 0.0
    for score, label, family in pairs:
        probability = 1 / (1 + math.exp(-10 * (score - thresholds[family])))
        expected -= math.log(probability if label else 1 - probability)
    similarity, label, family = (torch.tensor(column) for column in zip(*pairs, strict=True))
    found = family_thresholds(similarity.double(), label, family, torch.tensor(thresholds, dtype=torch.float64))
    assert float(found) == pytest.approx(expected / len(pairs), abs=1e-6)


def test_no_pair_costs_nothing() -> None:
    """A batch without labelled families adds 0, not NaN."""
    empty = torch.zeros(0)
    assert float(family_thresholds(empty, empty, empty.long(), torch.zeros(1))) == 0.0


token_vectors = st.integers(1, 5).flatmap(lambda t: arrays(np.float32, (t, 3), elements=st.floats(-1, 1, width=16)))


@settings(deadline=None, max_examples=40)
@given(st.lists(token_vectors, min_size=1, max_size=3), st.lists(token_vectors, min_size=1, max_size=3))
def test_relaxed_mover_equals_its_loop_and_bounds_wrd(queries: list[np.ndarray], texts: list[np.ndarray]) -> None:
    """The relaxed similarity follows its formula whatever the padding, and is never below 1 − WRD."""

    def padded(sides: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(side) for side in sides) + 1
        vectors, exists = torch.full((len(sides), width, 3), 7.0), torch.zeros(len(sides), width, dtype=torch.bool)
        for row, side in enumerate(sides):
            vectors[row, : len(side)], exists[row, : len(side)] = torch.from_numpy(side), True
        return vectors, exists

    sides = [[side + np.float32(2) for side in many] for many in (queries, texts)]  # every token has a direction
    (one, has_one), (other, has_other) = padded(sides[0]), padded(sides[1])
    found = relaxed_mover(one, other, has_one, has_other)
    for i, query in enumerate(sides[0]):
        for j, text in enumerate(sides[1]):
            lengths_q, lengths_t = np.linalg.norm(query, axis=1), np.linalg.norm(text, axis=1)
            costs = 1 - (query @ text.T) / np.outer(lengths_q, lengths_t)
            there = lengths_q / lengths_q.sum() @ costs.min(axis=1)
            back = lengths_t / lengths_t.sum() @ costs.min(axis=0)
            assert float(found[i, j]) == pytest.approx(1 - max(there, back), abs=1e-5)
            assert float(found[i, j]) >= 1 - distance(query, text, "wrd") - 1e-5


def test_relaxed_mover_of_a_text_without_mass_is_finite() -> None:
    """A text whose only token weighs nothing gets a finite similarity and a finite gradient."""
    query = torch.zeros(1, 1, 3, requires_grad=True)
    here = torch.ones(1, 1, dtype=torch.bool)
    similarity = relaxed_mover(query, torch.ones(1, 1, 3), here, here)
    similarity.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(similarity).all()
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


def test_a_text_of_the_same_group_is_no_negative() -> None:
    """Columns of the same meaning are masked, the right one never is."""
    masked = same_meaning(torch.tensor([1, 2, 1]), torch.tensor([1, 2, 1, 2]))
    assert masked.tolist() == [[False, False, True, False], [False, False, False, True], [True, False, False, False]]


def test_in_batch_takes_the_named_loss() -> None:
    """Each name gives its own loss; another word is refused."""
    similarity, masked = torch.eye(3) * 0.5, torch.zeros(3, 3, dtype=torch.bool)
    assert in_batch("softmax", similarity, masked) == softmax_in_batch(similarity, masked)
    assert in_batch("margin", similarity, masked) == additive_margin(similarity, masked)
    assert in_batch("flatnce", similarity, masked) == flatnce(similarity, masked)
    with pytest.raises(ValueError, match="hinge"):
        in_batch("hinge", similarity, masked)  # type: ignore[arg-type]
