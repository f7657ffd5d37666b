"""Packed text: what stands in a window, what is hidden, what is guessed, where sentences are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from scripts.training.network import SimBert, bert_config
from scripts.training.packed import Packed, hide, masked_loss, pack, sentences
from scripts.training.processes import Processes
from scripts.training.vocabulary import build_tokenizer

ROWS = st.lists(st.integers(3, 49), min_size=8, max_size=300)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Make a tokenizer of a few characters."""
    return build_tokenizer(["怎么还款。图书馆几点开门？退货要多久"], 60, 10)


def test_paragraphs_stand_end_to_end(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every line and every text is its tokens and [SEP], files first, the texts as often as asked; nothing is cut."""
    file = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_text("图书馆几点开门？\n退货要多久\n", encoding="utf-8")
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.enable_truncation(3)
    row = pack(cutting, [file], ["怎么还款"], times=2).tolist()
    expected = []
    for line in ("图书馆几点开门？", "退货要多久", "怎么还款", "怎么还款"):
        expected += [*tokenizer.encode(line, add_special_tokens=False).ids, 3]
    assert row == expected


@settings(deadline=None, max_examples=60)
@given(ROWS, st.lists(st.integers(4, 40), min_size=1, max_size=3), st.integers(1, 200), st.integers(0, 9))
def test_a_window_is_a_piece_of_the_row(row: list[int], lengths: list[int], size: int, number: int) -> None:
    """Windows begin with [CLS], end with [SEP] and hold what stands in the row between; a batch depends on its number alone."""
    tokens = torch.tensor(row, dtype=torch.int32)
    source = Packed(tokens, lengths, size, seed=1)
    length = lengths[number % len(lengths)]
    if len(row) // length < 2:
        with pytest.raises(ValueError, match="less than two windows"):
            source.batch(number)
        return
    found = source.batch(number)
    assert torch.equal(found, Packed(tokens, lengths, size, seed=1).batch(number))
    assert found.shape == (min(max(1, size // length), len(row) // length - 1), length)
    pieces = {tuple(row[start + 1 : start + length - 1]) for start in range(len(row) - length + 1)}
    for window in found.tolist():
        assert (window[0], window[-1]) == (2, 3)
        assert tuple(window[1:-1]) in pieces


def test_an_epoch_reads_every_window_once() -> None:
    """The windows of an epoch do not overlap."""
    tokens = torch.arange(5, 5 + 1000, dtype=torch.int32)
    source = Packed(tokens, [10], 70, seed=2)
    batches = [source.batch(number) for number in range((1000 // 10 - 1) // 7)]
    inner = torch.cat(batches)[:, 1:-1].flatten().tolist()
    assert len(inner) == len(set(inner))


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(0, 99), st.sampled_from([0.1, 0.15, 0.4, 1.0]))
def test_hidden_tokens_are_the_original_ones_and_never_special(row: list[int], seed: int, share: float) -> None:
    """What is to be guessed is what stood there; specials stay; nothing else changes where there are places for all."""
    ids = torch.tensor([row, row[::-1]])
    hidden = hide(ids, 50, torch.Generator().manual_seed(seed), share)
    asked = hidden.targets != -100
    flat, shown = ids.flatten(), hidden.ids.flatten()
    assert torch.equal(flat[hidden.places[asked]], hidden.targets[asked])
    assert bool((hidden.targets[asked] >= 5).all())
    assert torch.equal(shown[flat < 5], flat[flat < 5])
    assert len(hidden.places) == max(1, min(flat.numel(), int(1.25 * share * flat.numel())))
    assert len(set(hidden.places.tolist())) == len(hidden.places)
    if not bool(asked.all()):  # then there were places for all
        changed = (shown != flat).nonzero()[:, 0]
        assert set(changed.tolist()) <= set(hidden.places[asked].tolist())


def test_about_the_asked_share_is_hidden_as_bert_hides() -> None:
    """Of many tokens the share is about as asked, 80 % of it [MASK], and spans are longer than single tokens would be."""
    ids = torch.randint(5, 50, (400, 100), generator=torch.Generator().manual_seed(0))
    hidden = hide(ids, 50, torch.Generator().manual_seed(1), 0.15)
    asked = hidden.places[hidden.targets != -100]
    assert 0.12 < len(asked) / ids.numel() < 0.18
    assert 0.77 < float((hidden.ids.flatten()[asked] == 4).float().mean()) < 0.83
    is_asked = torch.zeros(ids.numel(), dtype=torch.bool)
    is_asked[asked] = True
    assert float(is_asked[1:][is_asked[:-1]].float().mean()) > 0.35


def test_the_loss_is_the_mean_surprise_of_the_hidden_tokens() -> None:
    """The loss equals −log p of the hidden tokens, averaged; the mean of two processes' losses is that of one."""
    torch.manual_seed(0)
    network = SimBert(bert_config(50, 24, 2, 2, 48, 64), 16, 1).eval()
    for weight in network.bert.encoder.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    source = Packed(torch.randint(5, 50, (900,), dtype=torch.int32), [20], 200, seed=1)
    with torch.no_grad():
        loss = float(masked_loss(network, source, 3, 0.2))
        halves = [float(masked_loss(network, source, 3, 0.2, Processes(rank, 2))) for rank in (0, 1)]
        ids = source.batch(3)
        seed = int(np.random.default_rng((1, 9, 3)).integers(1 << 62))
        hidden = hide(ids, 50, torch.Generator().manual_seed(seed), 0.2)
        surprises = []
        for place, target in zip(hidden.places.tolist(), hidden.targets.tolist(), strict=True):
            if target >= 0:
                rows, places = torch.tensor([place // 20]), torch.tensor([place % 20])
                logits = network.language(hidden.ids, torch.zeros_like(ids), None, rows, places)
                surprises.append(float(-logits.log_softmax(-1)[0, target]))
    assert loss == pytest.approx(float(np.mean(surprises)), abs=1e-4)
    assert sum(halves) / 2 == pytest.approx(loss, abs=1e-4)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(3, 12), max_size=80), st.integers(1, 5), st.integers(0, 9))
def test_sentences_end_where_they_end(row: list[int], shortest: int, more: int) -> None:
    """The sentences are those of a loop: up to an end, which belongs to them, or up to [SEP], which does not."""
    expected, start = [], 0
    for place, token in enumerate(row):
        if token == 3 or token in (7, 9):
            length = place - start + (token != 3)
            if shortest <= length <= shortest + more:
                expected.append((start, length))
            start = place + 1
    found = sentences(np.array(row, dtype=np.uint16), [7, 9], shortest, shortest + more)
    assert list(zip(found.starts.tolist(), found.lengths.tolist(), strict=True)) == expected
