"""Options of the training program, each against its definition: mixed rows, CoSENT by family, noise, rates by depth, mining."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.losses import cosent
from scripts.training.choices import has_layers, parser, recipe, refuse
from scripts.training.learning_rates import depth_factor, optimiser
from scripts.training.neighbours import Mining, Neighbours
from scripts.training.network import SimBert, bert_config
from scripts.training.pairs import Ids, Pairs
from scripts.training.recipe import Recipe
from scripts.training.similarity import by_family, contrast, draw_mix
from scripts.training.stages import seed_step


def tiny(dropout: float = 0.0, noise: float = 0.0) -> SimBert:
    """Make a network whose layers do something."""
    torch.manual_seed(0)
    network = SimBert(bert_config(40, 24, 3, 2, 48, 16, dropout), 16, 1, noise)
    for weight in network.bert.encoder.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return network


IDS = torch.tensor([[2, 7, 9, 30, 3], [2, 8, 3, 0, 0], [2, 21, 22, 3, 0]])


@settings(max_examples=40)
@given(st.integers(2, 5), st.integers(0, 3), st.sampled_from(["softmax", "margin"]), st.integers(0, 99))
def test_mixed_rows_have_two_right_columns(
    size: int, further: int, loss: Literal["softmax", "margin"], seed: int
) -> None:
    """The loss of mixed rows is a loop's: cross-entropy with the row's column for `share` and the partner's for the rest."""
    random = torch.Generator().manual_seed(seed)
    a, columns = torch.randn(size, 6, generator=random), torch.randn(size + further, 6, generator=random)
    groups = torch.randint(0, 3, (size + further,), generator=random)
    share, partner = draw_mix(0.5, size, seed, 0)
    mixed = share * a + (1 - share) * a[partner]
    expected, scale, margin = 0.0, 5.0, 0.1 if loss == "margin" else 0.0
    for row in range(size):
        other = int(partner[row])
        meanings = {int(groups[row]), int(groups[other])}
        for right, weight in ((row, share), (other, 1 - share)):
            counted = [
                column
                for column in range(size + further)
                if column in (row, other) or int(groups[column]) not in meanings
            ]
            logits = torch.stack([scale * (mixed[row] @ columns[one] - margin * (one == right)) for one in counted])
            expected -= weight * float(logits.log_softmax(0)[counted.index(right)]) / size
    found = contrast(
        Recipe("similar", True, 1.0, loss=loss, scale=scale),
        mixed,
        columns,
        groups[:size],
        groups,
        torch.from_numpy(partner),
        share,
    )
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_a_mix_depends_on_the_step_alone() -> None:
    """The same number gives the same share and permutation, another one others; shares lie in [0, 1]."""
    one, same, other = (draw_mix(0.3, 9, 1, number) for number in (4, 4, 5))
    assert one.share == same.share != other.share
    assert sorted(one.partner) == list(range(9))
    assert all(0 <= draw_mix(0.3, 2, 1, number).share <= 1 for number in range(50))


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=9))
def test_families_are_ordered_by_themselves(pairs: list[tuple[float, int, int]]) -> None:
    """CoSENT by family is the mean of each family's, whatever pairs of other families score."""
    similarity = torch.tensor([pair[0] for pair in pairs])
    label, family = (torch.tensor([pair[place] for pair in pairs]) for place in (1, 2))
    each = [float(cosent(similarity[family == one], label[family == one], 20.0)) for one in {pair[2] for pair in pairs}]
    assert float(by_family(similarity, label, family, 20.0)) == pytest.approx(float(np.mean(each)), rel=1e-5, abs=1e-6)


def test_noise_is_of_the_asked_size_and_in_training_only() -> None:
    """In training every token's vector moves by `noise` of its root mean square; elsewhere, and in the table, not at all."""
    plain, noisy = tiny().eval(), tiny(noise=0.3)
    words = noisy.bert.embeddings.word_embeddings
    ids = torch.randint(5, 40, (400, 5))
    moved = (words.train()(ids) - words.weight[ids]) / words.weight[ids].square().mean(-1, keepdim=True).sqrt()
    assert float(moved.detach().std()) == pytest.approx(0.3, rel=0.02)
    assert float(moved.detach().mean()) == pytest.approx(0.0, abs=0.01)
    noisy.train()
    assert not torch.equal(noisy(IDS).sentences, noisy(IDS).sentences)
    noisy.keep_table()
    assert noisy.training
    plain.keep_table()
    assert torch.equal(noisy.table, plain.table)
    noisy.eval()
    assert torch.equal(noisy(IDS).sentences, plain(IDS).sentences)


def test_padding_is_not_attended_to() -> None:
    """A text's vectors are the same alone and beside a longer one, with layers whose attention does something."""
    network = tiny().eval()
    with torch.no_grad():
        both, alone = network(IDS), network(IDS[1:2, :3])
    torch.testing.assert_close(both.sentences[1:2], alone.sentences, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(both.tokens[1:2, :3], alone.tokens, atol=1e-6, rtol=1e-5)


def test_dropout_reaches_the_layers_and_their_attention() -> None:
    """With dropout two passes in training differ, also where only attention drops; in evaluation they are the plain network's."""
    plain, dropping = tiny().eval(), tiny(dropout=0.2)
    dropping.train()
    assert not torch.equal(dropping(IDS).sentences, dropping(IDS).sentences)
    for module in dropping.modules():
        if isinstance(module, torch.nn.Dropout) and module is not dropping.bert.encoder.layer[0].attention.self.dropout:
            module.p = 0.0
    assert not torch.equal(dropping(IDS).sentences, dropping(IDS).sentences)
    dropping.eval()
    assert torch.equal(dropping(IDS).sentences, plain(IDS).sentences)


def test_a_step_draws_by_its_number() -> None:
    """Dropout of the same step is the same, of another step, stage, seed or process it is another."""
    network = tiny(dropout=0.2)
    network.train()

    def drawn(*place: int | str) -> torch.Tensor:
        seed_step(*place)  # type: ignore[arg-type]
        return network(IDS).sentences.detach()

    first = drawn(1, "similar", 5, 0)
    assert torch.equal(first, drawn(1, "similar", 5, 0))
    for other in ((2, "similar", 5, 0), (1, "static", 5, 0), (1, "similar", 6, 0), (1, "similar", 5, 1)):
        assert not torch.equal(first, drawn(*other))


def kept_bytes(network: SimBert) -> tuple[int, dict[str, torch.Tensor]]:
    """Count what the forward pass keeps for the backward pass, and give the gradients."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    network.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(IDS.repeat(8, 1)).sentences[:, 0].sum()
    loss.backward()
    return kept, {name: one.grad for name, one in network.named_parameters() if one.grad is not None}


def test_gradient_checkpointing_keeps_less_and_changes_nothing() -> None:
    """With checkpointing the same gradients come from less than half of the kept bytes, with dropout too."""
    found = []
    for is_less in (False, True):
        network = tiny(dropout=0.1)
        if is_less:
            network.keep_less()
        seed_step(1, "similar", 0, 0)
        found.append(kept_bytes(network))
    (all_kept, expected), (less_kept, gradients) = found
    assert less_kept < all_kept / 2
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_lower_layers_learn_slower() -> None:
    """Every parameter is in one group, whose rate is the product of its factors: words, depth."""
    network = tiny()
    one = Recipe("similar", True, 0.01, word_rate=0.3, layer_decay=0.5)
    rates = {id(each): group["lr"] for group in optimiser(network, one).param_groups for each in group["params"]}
    expected = {
        "bert.embeddings.word_embeddings.weight": 0.01 * 0.3 * 0.125,
        "bert.embeddings.position_embeddings.weight": 0.01 * 0.125,
        "bert.encoder.layer.0.output.dense.weight": 0.01 * 0.25,
        "bert.encoder.layer.2.output.dense.bias": 0.01,
        "transform.weight": 0.01,
        "dense.weight": 0.01 * 0.3,
    }
    for name, parameter in network.named_parameters():
        if name in expected:
            assert rates[id(parameter)] == pytest.approx(expected[name])
    assert len(rates) == len(list(network.parameters()))
    assert {depth_factor(name, 3, 1.0) for name, _ in network.named_parameters()} == {1.0}


def texts_around(number: int) -> tuple[Ids, Pairs, torch.Tensor]:
    """Make texts of two tokens each with random vectors; text i and i + number / 2 are of one group."""
    random = np.random.default_rng(3)
    words = random.integers(5, 60, (number, 2))
    flat = np.concatenate([[2, one, other, 3] for one, other in words]).astype(np.int32)
    ids = Ids(flat, np.arange(0, 4 * number + 1, 4))
    half = np.arange(number // 2)
    family = np.zeros(number // 2, dtype=np.int64)
    label = np.ones(number // 2, dtype=np.int8)
    pairs = Pairs([str(row) for row in range(number)], half, half + number // 2, label, family, ["a"], np.tile(half, 2))
    table = torch.from_numpy(random.normal(size=(60, 8)).astype(np.float32))
    table[:5] = 0
    return ids, pairs, table


@settings(max_examples=20)
@given(st.integers(0, 50), st.integers(0, 6), st.integers(1, 12))
def test_mined_texts_are_near_and_mean_something_else(number: int, first: int, span: int) -> None:
    """Every mined text is, by brute force, in the asked ranks of some text of the batch and in another group than it."""
    ids, pairs, table = texts_around(40)
    neighbours = Neighbours(table, ids, pairs, Mining(4, first, first + span, 30), 10, seed=2)
    texts = np.array([1, 5, 9, 13, 17])
    mined = neighbours.mine(texts, number)
    assert len(mined) <= 4
    assert mined.tolist() == neighbours.mine(texts, number).tolist()
    vectors = functional.normalize(table[torch.from_numpy(ids.batch(np.arange(40), 10))].sum(dim=1), dim=-1)
    pool = neighbours.pool
    order = {
        text: pool[(vectors[text] @ vectors[torch.from_numpy(pool)].T).argsort(descending=True).numpy()]
        for text in texts
    }
    for text in mined:
        assert any(
            text in order[asked][first : first + span] and pairs.group[text] != pairs.group[asked] for asked in texts
        )


def test_mining_needs_trained_vectors() -> None:
    """Before stage static has ended there is nothing to mine with, and the error says so."""
    ids, pairs, table = texts_around(10)
    with pytest.raises(ValueError, match="stage static"):
        Neighbours(torch.zeros_like(table), ids, pairs, Mining(2), 10, seed=1)


def test_numbers_per_stage_and_layers() -> None:
    """Lists are in the order of the stages and repeat their last; the supervised stage has layers if a stage before had."""
    given = ["--pairs", "p", "--text", "t", "--out", "o", "--rates", "3", "2", "--stages", "static"]
    chosen = parser("").parse_args([*given, "supervised"])
    assert [recipe(chosen, stage).rate for stage in chosen.stages] == [3, 2]
    assert not has_layers(chosen, "supervised")
    one = recipe(chosen, "supervised")
    assert (one.in_batch_weight, one.pair_weight, one.mover_weight, one.cosent_weight) == (0.3, 0, 0, 1)
    both = parser("").parse_args([*given, "similar", "supervised"])
    assert [has_layers(both, stage) for stage in both.stages] == [False, True, True]
    assert recipe(both, "similar").cosent_weight == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--stages", "taught"], "needs a --teacher"),
        (["--projection-alone"], "--language-every 0"),
        (["--projection-alone", "--language-every", "0", "--stages", "language"], "no stage language"),
        (["--start", "a", "--tokenizer", "b"], "leave --tokenizer out"),
        (["--stages", "language", "--windows", "64", "1024"], "--positions 512 at most"),
        (["--stages", "language", "--windows", "2"], "at least 3 tokens"),
        (["--variants-every", "2"], "needs a --teacher"),
        (["--by-length", "8", "0.1"], "three or four numbers"),
        (["--by-length", "8", "0.1", "0.9", "1.5"], r"must lie in \[0, 1\]"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(more: list[str], said: str) -> None:
    """What would fail in the middle of the training, or train nothing, is said before anything is read."""
    files = ["--pairs", "p", "--text", "t", "--out", "o"]
    refuse(parser("").parse_args(files))
    with pytest.raises(ValueError, match=said):
        refuse(parser("").parse_args([*files, *more]))


def test_the_optimiser_reads_the_checkpoints_of_before() -> None:
    """The state of an AdamW that stands alone is read as that of the only part; one of other parts is refused."""
    network = tiny()
    stepped = optimiser(network, Recipe("language", True, 1e-3))
    network(IDS).sentences.sum().backward()
    stepped.step()
    (alone,) = stepped.state_dict()
    fresh = optimiser(network, Recipe("language", True, 1e-3))
    fresh.load_state_dict(alone)
    torch.testing.assert_close(fresh.state_dict()[0]["state"], alone["state"])
    with pytest.raises(ValueError, match="--muon as it was"):
        optimiser(network, Recipe("language", True, 1e-3, muon=True)).load_state_dict(alone)
