"""Searches whose bounds come from a device, the CPU's torch or a GPU, and searches that are solved nearly."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.encoder import Encoder
from service.ranking import Machine
from service.search import Searcher
from test_corpus_search import WHOLE, Faq, assert_best, made


@pytest.fixture(name="device", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def _device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


@pytest.fixture(name="faq", params=["static", "hidden"])
def _faq(
    request: pytest.FixtureRequest, device: str, encoder: Encoder, bert_folder: Path, tmp_path: Path
) -> Iterator[Faq]:
    chosen = encoder if request.param == "static" else Encoder(bert_folder, "cpu", pooling="mean")
    faq = Faq(chosen, tmp_path / "faq", 1 << 20)
    faq.searcher = Searcher(faq.codec, chosen.tokenize, 1 << 20, Machine(device, bounds_on_device=True))
    faq.add(made(80, seed=4))
    yield faq
    faq.collection.close()


@pytest.mark.parametrize("measure", ["wrd", "wmd"])
@pytest.mark.parametrize("masses", [None, "uniform"])
@pytest.mark.parametrize("scope", ["pool", "corpus"])
def test_the_answer_is_that_of_solving_everything(faq: Faq, measure: str, masses: str | None, scope: str) -> None:
    """Hits, scores and certificate are right, also after texts were replaced and deleted."""
    wanted = replace(WHOLE, rerank=measure, masses=masses, scope=scope, candidates=200, top_k=7)  # type: ignore[arg-type]
    assert_best(faq, wanted)
    faq.add({"4-3": "花呗怎么还款呢", "4-q": "别的"})
    faq.delete(["4-5", "4-6"])
    assert_best(faq, wanted)


@pytest.mark.parametrize("measure", ["wrd", "wmd"])
@pytest.mark.parametrize("scope", ["pool", "corpus"])
@pytest.mark.parametrize("bounds_on_device", [False, True])
def test_solved_nearly_the_answer_says_how_nearly(
    faq: Faq, device: str, measure: str, scope: str, bounds_on_device: bool
) -> None:
    """Scores are the exact ones of the same texts, less at most the largest error, and nothing is called partial."""
    machine = Machine(device, bounds_on_device)
    faq.searcher = Searcher(faq.codec, faq.encoder.tokenize, 1 << 20, machine)
    wanted = replace(WHOLE, rerank=measure, scope=scope, candidates=200, top_k=7, solver="sinkhorn")  # type: ignore[arg-type]
    answer, expected = faq.search(wanted), faq.expected(wanted)
    by_id = {id: score for score, id in expected}
    assert not answer.is_partial
    assert answer.certificate is not None
    assert answer.certificate.max_error is not None
    assert 0.0 <= answer.certificate.max_error < 0.1
    for hit, (score, _) in zip(answer.hits, expected, strict=False):
        assert hit.score <= by_id[hit.document.id] + 1e-6
        assert hit.score >= by_id[hit.document.id] - answer.certificate.max_error - 1e-6
        assert hit.score >= score - answer.certificate.max_error - 1e-6
    late = faq.search(wanted, seconds=-1.0)
    assert late.is_partial
    assert late.certificate is not None
    assert not late.certificate.exact
    assert late.certificate.max_error is None
