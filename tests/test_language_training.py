"""The language model's batches, mask and loss, whose turn a step is, and how small families are repeated."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.fallback import STAND_IN_TOKENS
from scripts.training.language import language_loss, seq2seq_batch, unilm_mask
from scripts.training.network import SimBert, bert_config
from scripts.training.pairs import Pairs, balanced
from scripts.training.recipe import schedule, turn_of
from scripts.training.vocabulary import build_tokenizer, normalizer, simplified

TEXTS = st.lists(st.integers(5, 49), min_size=1, max_size=9).map(lambda inner: np.array([2, *inner, 3], dtype=np.int64))


@pytest.fixture(scope="module")
def network() -> SimBert:
    """Make a tiny network whose layers do something."""
    torch.manual_seed(0)
    network = SimBert(bert_config(50, 24, 2, 2, 48, 64), 16, 1)
    for weight in network.bert.encoder.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return network.eval()


def hidden(network: SimBert, prompts: list[np.ndarray], targets: list[np.ndarray]) -> tuple[torch.Tensor, np.ndarray]:
    """Run the layers over prompts and targets under the UniLM mask."""
    batch = seq2seq_batch(prompts, targets)
    mask = unilm_mask(torch.from_numpy(batch.prompts), batch.ids.shape[1])
    found = network.bert(
        input_ids=torch.from_numpy(batch.ids), token_type_ids=torch.from_numpy(batch.segments), attention_mask=mask
    )
    return found.last_hidden_state, batch.prompts


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
@torch.no_grad()
def test_a_prompt_never_sees_its_target(network: SimBert, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The hidden states of a prompt are those of the text alone, whatever is written after it."""
    prompts, targets = [one for one, _ in pairs], [other[1:] for _, other in pairs]
    states, lengths = hidden(network, prompts, targets)
    for row, prompt in enumerate(prompts):
        alone = network.bert(input_ids=torch.from_numpy(prompt[None])).last_hidden_state[0]
        torch.testing.assert_close(states[row, : lengths[row]], alone, atol=1e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS, st.integers(0, 8))
@torch.no_grad()
def test_a_target_sees_nothing_that_comes_later(network: SimBert, one: np.ndarray, other: np.ndarray, cut: int) -> None:
    """Cutting a target changes none of the states before the cut."""
    target = other[1:]
    cut = min(cut, len(target) - 1) + 1
    whole, _ = hidden(network, [one], [target])
    part, _ = hidden(network, [one], [target[:cut]])
    end = len(one) + cut
    torch.testing.assert_close(whole[0, :end], part[0, :end], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_loss_is_the_mean_surprise_of_the_target(network: SimBert) -> None:
    """The loss equals −log p of each target token by a forward of its own, averaged."""
    prompts, targets = (
        [np.array([2, 7, 8, 3]), np.array([2, 9, 3])],
        [np.array([10, 11, 3]), np.array([12, 13, 14, 15, 3])],
    )
    surprises = []
    for prompt, target in zip(prompts, targets, strict=True):
        for place, token in enumerate(target):
            batch = seq2seq_batch([prompt], [np.append(target[:place], 0)])
            mask = unilm_mask(torch.from_numpy(batch.prompts), batch.ids.shape[1])
            at = torch.tensor([len(prompt) - 1 + place])
            ids, segments = torch.from_numpy(batch.ids), torch.from_numpy(batch.segments)
            logits = network.language(ids, segments, mask, torch.tensor([0]), at)
            surprises.append(float(-logits.log_softmax(-1)[0, token]))
    loss = float(language_loss(network, seq2seq_batch(prompts, targets)))
    assert loss == pytest.approx(float(np.mean(surprises)), abs=1e-4)


@given(st.lists(st.integers(1, 6), max_size=3), st.integers(1, 200))
def test_every_source_counts_its_own_turns(every: list[int], steps: int) -> None:
    """Turn numbers of each source are 0, 1, 2, … without a gap, and the last sources' shares are as asked at most."""
    turns = schedule([1, *every])
    seen: dict[int, int] = {}
    for step in range(steps):
        turn, number = turn_of(step, turns)
        assert number == seen.get(turn, 0)
        seen[turn] = number + 1
    for place, each in enumerate(every, start=1):
        assert seen.get(place, 0) <= steps // each


def test_small_families_are_repeated_and_large_ones_cut() -> None:
    """Of n pairs cap·√(n/cap) are drawn at power ½; a family over the cap gives cap; every pair of a small one is there."""
    sizes = [400, 25]
    family = np.repeat([0, 1], sizes)
    number = len(family)
    rows = np.arange(number)
    texts, groups = [str(row) for row in range(2 * number)], np.concatenate([rows, rows])
    pairs = Pairs(texts, rows, rows + number, np.ones(number, np.int8), family, ["a", "b"], groups)
    drawn = balanced(pairs, 0.5, 100, 1)
    assert [int((drawn.family == one).sum()) for one in (0, 1)] == [100, 50]
    assert set(drawn.left[drawn.family == 1]) == set(range(400, 425))
    assert len(balanced(pairs, 1.0, 1000, 1).label) == number


def test_traditional_and_full_width_spellings_have_the_same_tokens() -> None:
    """A text in traditional characters or full width reads as its simplified, plain form, with offsets of its own characters."""
    tokenizer = Tokenizer.from_str(
        build_tokenizer(["中国银行信用卡怎么还款 abc 123", "发展干净后面"], 100, 40).to_str()
    )
    plain, other = tokenizer.encode("中国银行信用卡怎么还款abc"), tokenizer.encode("中國銀行信用卡怎麼還款ＡＢＣ")
    assert plain.ids == other.ids
    assert plain.offsets == other.offsets
    assert "發" in simplified()
    assert normalizer().normalize_str("後").strip() == "后"


def test_the_stand_ins_are_tokens() -> None:
    """Each of the 64 stand-ins is one token of its own, and none is the unknown one."""
    tokenizer = build_tokenizer(["一二三"], 10, 10)
    ids = [tokenizer.encode(one, add_special_tokens=False).ids for one in STAND_IN_TOKENS]
    assert len({tuple(one) for one in ids}) == 64
    assert [tokenizer.token_to_id("[UNK]")] not in ids
