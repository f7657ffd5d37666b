"""The generator against transformers' own network with the UniLM mask, and its cache against none."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForMaskedLM

from conftest import write_bert, write_generator
from models.unilm import Generator, Rows
from scripts.training.language import unilm_mask

TOKENS = st.lists(st.integers(5, 60), min_size=1, max_size=7)
FOLDERS = (("bert", 0), ("roformer", 0), ("roformer", 1))  # the last one rotates values too


def reference(network: Any, prompt: Sequence[int], target: Sequence[int]) -> Tensor:
    """Log-probabilities after the prompt and after each token of the target, by one whole forward: (1 + t, V)."""
    ids = torch.tensor([[*prompt, *target]])
    segments = torch.tensor([[0] * len(prompt) + [1] * len(target)])
    mask = unilm_mask(torch.tensor([len(prompt)]), ids.shape[1])
    with torch.no_grad():
        logits = network(input_ids=ids, token_type_ids=segments, attention_mask=mask).logits
    return torch.as_tensor(logits[0, len(prompt) - 1 :].log_softmax(-1))


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda one: f"{one[0]}{one[1]}", name="both")
def _both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Any]:
    """A folder as this project reads it and as transformers does."""
    folder = tmp_path_factory.mktemp("generator") / "folder"
    kind, seed = request.param
    write_generator(folder, kind, seed)
    attention = {"attn_implementation": "eager"} if kind == "roformer" else {}
    network = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, **attention)
    return Generator(folder, "cpu"), network.eval()


@given(prompts=st.lists(TOKENS, min_size=1, max_size=3), target=TOKENS, cuts=st.sets(st.integers(1, 6)))
@settings(max_examples=25)
def test_cached_writing_equals_a_whole_forward(
    both: tuple[Generator, Any], prompts: list[list[int]], target: list[int], cuts: set[int]
) -> None:
    """Written in chunks of any size, after prompts of any length in one batch, every token has transformers' probability."""
    generator, network = both
    prompts = [[2, *prompt, 3] for prompt in prompts]
    ends = [0, *sorted(cut for cut in cuts if cut < len(target)), len(target)]

    rows = generator.start(prompts)
    found = [generator.log_probabilities(rows)[:, None]]
    for low, high in pairwise(ends):
        rows, hidden = generator.extend_all(rows, [target[low:high]] * len(prompts))
        found.append(generator.log_probabilities(hidden))

    for prompt, scores in zip(prompts, torch.cat(found, dim=1), strict=True):
        torch.testing.assert_close(scores, reference(network, prompt, target), atol=2e-5, rtol=1e-4)


@given(targets=st.lists(TOKENS, min_size=2, max_size=4), prompts=st.lists(TOKENS, min_size=1, max_size=2))
@settings(max_examples=25)
def test_rows_of_different_length_share_a_prompt(
    both: tuple[Generator, Any], targets: list[list[int]], prompts: list[list[int]]
) -> None:
    """Rows that continue a prompt by chunks of different length, in any order, know nothing of each other."""
    generator, network = both
    prompts = [[2, *prompt, 3] for prompt in prompts]
    owners = [place % len(prompts) for place in range(len(targets))]

    rows = generator.start(prompts).select(owners)
    first, rest = [one[:1] for one in targets], [one[1:] for one in targets]
    rows = generator.extend(rows, first)
    longer = [place for place, one in enumerate(rest) if one]
    if longer:
        width = max(len(rest[place]) for place in longer)
        chunk = [rest[place] + [0] * (width - len(rest[place])) for place in longer]
        written = generator.extend(rows.select(longer), chunk, [len(rest[place]) for place in longer])
        found = {place: generator.log_probabilities(written)[number] for number, place in enumerate(longer)}
        for place in longer:
            whole = reference(network, prompts[owners[place]], targets[place])[-1]
            torch.testing.assert_close(found[place], whole, atol=2e-5, rtol=1e-4)
    short = [place for place, one in enumerate(rest) if not one]
    for place in short:
        alone = generator.log_probabilities(rows.select([place]))[0]
        torch.testing.assert_close(
            alone, reference(network, prompts[owners[place]], targets[place])[-1], atol=2e-5, rtol=1e-4
        )


def test_the_prompt_never_sees_the_target(both: tuple[Generator, Any]) -> None:
    """Hidden states of the prompt are the same with a target behind it and without, and so is the cache after writing."""
    generator, network = both
    prompt, target = [2, 7, 8, 9, 3], [11, 12, 3]

    def states(ids: list[int], length: int) -> Tensor:
        segments = torch.tensor([[0] * 5 + [1] * (len(ids) - 5)])
        whole = torch.tensor([ids])
        mask = unilm_mask(torch.tensor([5]), len(ids))
        with torch.no_grad():
            hidden = network.base_model(input_ids=whole, token_type_ids=segments, attention_mask=mask)[0]
        return torch.as_tensor(hidden[0, :length])

    torch.testing.assert_close(states([*prompt, *target], 5), states(prompt, 5), atol=1e-5, rtol=1e-4)
    rows = generator.start([prompt])
    before = rows.prompts.cache.clone()
    generator.extend(rows, [target])
    assert torch.equal(rows.prompts.cache, before)


@given(data=st.data())
@settings(max_examples=25)
def test_allowed_tokens_alone_have_their_share_of_the_whole(both: tuple[Generator, Any], data: st.DataObject) -> None:
    """Log-odds among allowed tokens equal the full distribution, cut to them and normalised, for few and for many of them."""
    generator, _ = both
    rows = generator.start([[2, 7, 8, 3], [2, 9, 3]])
    size = len(generator.vocabulary)
    allowed = [sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=most))) for most in (3, size)]
    tokens = np.array([token for one in allowed for token in one], dtype=np.int32)

    odds = generator.log_odds(rows.hidden, tokens, np.cumsum([0, *map(len, allowed)]))

    whole = generator.log_probabilities(rows)
    wanted = torch.cat([whole[row, one].log_softmax(0) for row, one in enumerate(allowed)])
    np.testing.assert_allclose(odds, wanted.numpy(), atol=2e-5, rtol=1e-4)


def test_a_folder_without_a_head_is_refused(bert_folder: Path) -> None:
    """An encoder cannot write, and the error names the folder."""
    with pytest.raises(ValueError, match=r"bert has no language-model head"):
        Generator(bert_folder, "cpu")


def test_rows_longer_than_the_positions_are_refused(generator_folder: Path) -> None:
    """A prompt or a target beyond the position table is an error, not a wrong answer."""
    generator = Generator(generator_folder, "cpu")
    with pytest.raises(ValueError, match="leaves no position"):
        generator.start([[2, *[7] * 70, 3]])
    rows: Rows = generator.start([[2, *[7] * 58, 3]])
    rows = generator.extend(rows, [[8, 8, 8, 8]])
    with pytest.raises(ValueError, match="64 positions"):
        generator.extend(rows, [[8]])


def test_texts_become_ids_and_ids_texts(generator_folder: Path) -> None:
    """Prompts carry their special tokens and are cut; what is spelled is whole and has none."""
    generator = Generator(generator_folder, "cpu")
    assert generator.tokenize(["花呗"])[0][0] == generator.first
    assert len(generator.tokenize(["花" * 200])[0]) == generator.max_tokens
    assert len(generator.spell(["花" * 200])[0]) == 200
    assert generator.text(generator.spell(["花呗"])[0]).replace(" ", "") == "花呗"


def test_a_broken_folder_is_a_value_error(tmp_path: Path, bert_folder: Path) -> None:
    """Missing folders are reported in words."""
    with pytest.raises(ValueError, match=r"config\.json"):
        Generator(tmp_path, "cpu")
    write_bert(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be loaded"):
        Generator(tmp_path / "bert", "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_writes_what_a_cpu_writes(generator_folder: Path) -> None:
    """Log-probabilities and log-odds on CUDA equal those on the CPU."""
    found = []
    for device in ("cpu", "cuda"):
        generator = Generator(generator_folder, device)
        rows = generator.extend(generator.start([[2, 7, 8, 3], [2, 9, 3]]).select([1, 0, 0]), [[5], [6], [7]])
        odds = generator.log_odds(rows.hidden, np.array([5, 6, 7, 8], dtype=np.int32), np.array([0, 1, 3, 4]))
        found.append((generator.log_probabilities(rows).cpu().numpy(), odds))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)
