"""Sentences with two spans exchanged, and how far apart a teacher finds them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts.train_simbert import run
from scripts.training.network import SimBert, bert_config
from scripts.training.packed import Sentences
from scripts.training.teacher import Lessons, apart, lesson_losses
from scripts.training.variants import exchanged
from tiny_training import choices, write_corpus


def is_exchange(order: list[int]) -> bool:
    """Say whether an order of 0 … n−1 is before + second span + between + first span + behind."""
    moved = [place for place, value in enumerate(order) if place != value]
    if not moved:
        return True
    start, stop = moved[0], moved[-1] + 1
    inner = [value - start for value in order[start:stop]]
    size = len(inner)
    return any(
        [*range(size - second, size), *range(first, size - second), *range(first)] == inner
        for first in range(1, size)
        for second in range(1, size - first + 1)
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 2**32))
def test_two_spans_change_places(lengths: list[int], seed: int) -> None:
    """Every order is a permutation that exchanges two spans of at most a third; [CLS], the last token, [SEP], padding stay."""
    width = max(lengths) + 2
    found = exchanged(np.array(lengths), width, np.random.default_rng(seed))
    assert found.shape == (len(lengths), width)
    for length, order in zip(lengths, found.tolist(), strict=True):
        assert sorted(order) == list(range(width))
        assert order[0] == 0
        assert order[length:] == list(range(length, width))
        assert is_exchange(order)
        if length >= 4:
            assert order != list(range(width))


def test_distances_are_what_is_learnt() -> None:
    """The mean square difference of distances: 0 for another basis, and by hand for one row."""
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(6, 8), dim=1) for _ in range(2))
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    assert float(apart((a, b), (a @ basis, b @ basis))) == pytest.approx(0, abs=1e-9)
    one, other, third = (torch.tensor([row]) for row in ([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]))
    assert float(apart((one, other), (one, third))) == pytest.approx((2**0.5 - 2) ** 2, abs=1e-5)
    same = torch.ones(2, 3, requires_grad=True)
    apart((same, same.detach()), (same.detach(), same.detach())).backward()
    assert torch.isfinite(same.grad if same.grad is not None else torch.tensor(torch.nan)).all()


def lessons(size: int) -> Lessons:
    tokens = torch.randint(5, 50, (400,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    return Lessons(tokens, Sentences(np.arange(0, 390, 10), np.full(39, 9)), size, 1, kind="apart")


def test_a_lesson_has_each_sentence_twice() -> None:
    """Half are sentences, half the same ones in another order; processes share both halves alike."""
    ids = lessons(8).batch(3)
    assert ids.shape == (8, 11)
    assert torch.equal(ids[:4].sort(dim=1).values, ids[4:].sort(dim=1).values)
    assert (ids[:4] != ids[4:]).any(dim=1).sum() >= 3  # two of the same tokens may have changed places
    halves = [lessons(8).batch(3, slice(rank, None, 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([halves[0][:2], halves[1][:2]]), ids[[0, 2, 1, 3]])
    assert torch.equal(torch.cat([halves[0][2:], halves[1][2:]]), ids[[4, 6, 5, 7]])


def test_a_network_like_its_teacher_has_nothing_to_learn() -> None:
    """All losses are 0 for the teacher itself, and for another network their sum is the loss."""
    torch.manual_seed(0)
    network, other = (SimBert(bert_config(50, 24, 1, 2, 48, 64), 16, 1).eval() for _ in range(2))
    same = lesson_losses(network, network, lessons(8), 0, 20.0, False)
    assert {name: float(value.detach()) for name, value in same.items()} == pytest.approx(
        dict.fromkeys(same, 0.0), abs=1e-4
    )
    found = {
        name: float(value.detach()) for name, value in lesson_losses(other, network, lessons(8), 0, 20.0, False).items()
    }
    assert found["loss"] == pytest.approx(20 * found["unlike"] + found["related"] + 400 * found["apart"], rel=1e-5)
    assert found["unlike"] > 0.1


def test_training_reads_variants_and_resumes(tmp_path: Path) -> None:
    """Stages with pairs take every n-th step for them; without a teacher that is an error."""
    corpus = write_corpus(tmp_path)
    run(choices(corpus, tmp_path / "teacher", "--hidden", "32", "--stages", "language", "similar", "--steps", "2"))
    more = ["--start", str(tmp_path / "teacher"), "--teacher", str(tmp_path / "teacher"), "--variants-every", "2"]
    more += [
        "--hidden",
        "32",
        "--stages",
        "similar",
        "supervised",
        "--steps",
        "1",
        "1",
        "1",
        "5",
        "4",
        "--sentences",
        "6",
    ]
    whole = run(choices(corpus, tmp_path / "whole", *more))
    run(choices(corpus, tmp_path / "cut", *more), stop_at=3)
    resumed = run(choices(corpus, tmp_path / "cut", *more))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(ValueError, match="--variants-every needs a --teacher"):
        run(choices(corpus, tmp_path / "other", "--variants-every", "2"))
