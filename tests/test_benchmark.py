"""The benchmark in miniature, so that it cannot rot: real servers, a tiny model, a few hundred texts, no judgement of speed."""

from pathlib import Path

import numpy as np
import orjson
import pytest

from scripts.benchmark import device_encoder, memory
from scripts.benchmark.corpus import LONGEST, SHORTEST, as_jsonl, made_corpus, read_corpus
from scripts.benchmark.load import Load
from scripts.benchmark.service import main, read_options, slices


@pytest.mark.timeout(600)  # three processes that import torch
def test_benchmark_runs_and_both_sides_find_the_same(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run over two sizes measures every side, and the service finds what the hand-written script finds."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")
    file = tmp_path / "report.json"
    main(
        f"--model {model_folder} --texts 120 300 --clients 1 3 --seconds 0.1 --rounds 2 --script-texts 40 --json {file}".split()
    )
    report = orjson.loads(file.read_bytes())
    assert min(report["agreement"]["top10_overlap"].values()) > 0.99
    assert report["agreement"]["vectors_difference"] < 1e-5
    assert [part["texts"] for part in report["indexing"]["slices"]] == [60, 60, 90, 90]
    assert len(report["search"]) == 2 * 3 * 2  # sizes, forms, clients
    for entry in report["search"]:
        assert entry["service"]["count"] > 0
        assert entry["service"]["p50_ms"] <= entry["service"]["p99_ms"]
    assert all(
        report["indexing"][name] > 0 for name in ("service_import", "service_documents", "bare_encode", "script")
    )
    assert report["memory"]["peak_mb"] >= report["memory"]["anonymous_peak_mb"] > 0
    assert report["start"]["full_s"] > 0
    printed = capsys.readouterr().out
    assert "script, HTTP" in printed
    assert "bare SentenceTransformer.encode" in printed


@pytest.mark.timeout(600)
def test_the_memory_of_an_import_is_measured(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line is imported and found again after a new start; resident memory is never less than the anonymous."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")
    monkeypatch.setattr(memory, "SEARCH_S", 0.2)
    file = tmp_path / "report.json"
    memory.main(["--model", str(model_folder), "--documents", "2500", "--json", str(file)])
    report = orjson.loads(file.read_bytes())
    assert report["documents"] == report["points"][-1]["documents"] == 2_500
    for point in [*report["points"], report["restarted"], report["after_searches"]]:
        assert point["total_mb"] > point["anonymous_mb"] > 0
    assert "Started again" in capsys.readouterr().out


def test_the_encoder_is_measured_on_every_device(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every way encodes, and gives the vectors of the reference."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")
    monkeypatch.setattr(device_encoder, "SECONDS", 0.05)
    monkeypatch.setattr(device_encoder, "ASKED", 5)
    file = tmp_path / "report.json"
    device_encoder.main(["--model", str(model_folder), "--json", str(file)])
    rows = orjson.loads(file.read_bytes())["rows"]
    assert rows[0]["cosine"] > 0.9999
    for row in rows:
        assert row["cosine"] > 0.99
        assert row["16 tokens, texts/s"] > 0
    assert "as it is served" in capsys.readouterr().out


def test_made_corpus_is_distinct_short_and_repeatable() -> None:
    """The grammar makes as many distinct texts as are asked for, within its lengths, and none of the queries is among them."""
    corpus = made_corpus(5_000, queries=100)
    assert len(set(corpus.texts) | set(corpus.queries)) == 5_100
    assert len(set(corpus.ids)) == 5_000
    assert all(SHORTEST <= len(text) <= LONGEST for text in corpus.texts)
    assert corpus == made_corpus(5_000, queries=100)


def test_corpus_files_are_read_without_repeated_texts(tmp_path: Path) -> None:
    """A text counts once, the last texts become the queries, and a file that is too short is refused by name."""
    file = tmp_path / "texts.tsv"
    file.write_text("a\t花呗\nb\t花呗\nc\t借呗\nd\t退货\n", encoding="utf-8")
    corpus = read_corpus(file, 2, queries=1)
    assert (corpus.ids, corpus.texts, corpus.queries) == (["a", "c"], ["花呗", "借呗"], ["退货"])
    assert orjson.loads(as_jsonl(corpus.ids, corpus.texts).splitlines()[1]) == {"id": "c", "text": "借呗"}
    with pytest.raises(ValueError, match=r"texts\.tsv has 3 distinct texts"):
        read_corpus(file, 3, queries=1)


def test_loads_are_joined_and_summed_up() -> None:
    """Queries a second and percentiles are those of all rounds together."""
    load = Load.together([Load([1.0, 2.0, 3.0], 0.5, 0.1), Load([4.0], 0.5, 0.1)])
    assert load.per_second == 4.0
    assert load.summary()["p50_ms"] == 2.5
    assert load.summary()["p99_ms"] == pytest.approx(np.percentile([1, 2, 3, 4], 99), abs=0.01)


def test_slices_cover_every_text_once() -> None:
    """Slices of all sizes follow each other without gap or overlap, none is empty, and small ones are fewer."""
    assert slices([2, 10], 3) == [[(0, 1), (1, 2)], [(2, 4), (4, 7), (7, 10)]]


def test_quick_is_smaller_and_explicit_options_win() -> None:
    """--quick changes the defaults only."""
    assert read_options(["--quick"]).texts == [3_000]
    assert read_options(["--quick", "--texts", "7"]).texts == [7]
    assert read_options([]).texts == [1_000, 10_000, 100_000]
