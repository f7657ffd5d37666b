"""scripts/benchmark/peers.py in miniature: the service and the plain server, really started, with a tiny model."""

import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

from scripts.benchmark.peer_report import as_text
from scripts.benchmark.peers import (
    LONGEST,
    REQUIREMENTS,
    SHORTEST,
    environment_of,
    main,
    older_form,
    workloads,
)


@pytest.mark.timeout(600)  # two processes that import torch
def test_sides_take_turns_and_agree(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides answer both workloads with the same vectors."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")
    file = tmp_path / "report.json"
    options = (
        f"--venvs {tmp_path} --model {model_folder} --peers plain --clients 1 3 --seconds 0.1 --rounds 2 --texts 0"
    )
    main([*options.split(), "--json", str(file)])
    report = orjson.loads(file.read_bytes())
    assert report["differences"]["plain"] < 1e-5
    assert [(entry["workload"], entry["clients"]) for entry in report["embeddings"]] == [
        *(("short", 1), ("mixed", 1), ("short", 3), ("mixed", 3)),
    ]
    for entry in report["embeddings"]:
        assert set(entry["sides"]) == {"moverank", "plain"}
        assert all(side["count"] > 0 and side["p50_ms"] <= side["p99_ms"] for side in entry["sides"].values())
    assert "| short questions | 3 |" in capsys.readouterr().out


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    """One whose requirements are installed is used as it is; the plain server needs none of its own."""
    python = tmp_path / "txtai" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / "txtai.txt").write_text("\n".join(REQUIREMENTS["txtai"]))
    assert environment_of("txtai", tmp_path) == python
    assert environment_of("plain", tmp_path) == Path(sys.executable)


def test_infinity_gets_a_folder_in_the_older_form(model_folder: Path, tmp_path: Path) -> None:
    """The pooling's size has the name that sentence-transformers 3 knows; the original stays as it is."""
    copied = older_form(model_folder, tmp_path / "copy")
    assert orjson.loads((copied / "2_Pooling" / "config.json").read_bytes())["word_embedding_dimension"] == 32
    (copied / "2_Pooling" / "config.json").write_text('{"embedding_dimension": 7, "pooling_mode": "mean"}')
    again = orjson.loads((older_form(copied, tmp_path / "again") / "2_Pooling" / "config.json").read_bytes())
    assert again == {"word_embedding_dimension": 7, "pooling_mode": "mean"}


def test_workloads_are_what_they_say() -> None:
    """Short questions, and lengths that are spread evenly on a logarithmic scale; the same in every run."""
    texts = workloads()
    assert texts == workloads()
    assert all(6 <= len(text) <= 30 for text in texts["short"])
    sizes = np.sort([len(text) for text in texts["mixed"]])
    assert (sizes[0], sizes[-1]) == (SHORTEST, LONGEST)
    assert np.median(sizes) == pytest.approx(np.sqrt(SHORTEST * LONGEST), rel=0.05)


def test_the_report_shows_ratios() -> None:
    """How many times faster the first side is than each of the others."""
    sides = {
        name: {"per_second": rate, "p50_ms": 2.0, "p99_ms": 5.0}
        for name, rate in (("moverank", 300.0), ("plain", 100.0))
    }
    report = {
        "machine": {"processor": "a", "cores": 2, "load_average": 0.5, "load_average_after": 1.0},
        "model": "mini",
        "differences": {"plain": 1e-7},
        "embeddings": [{"workload": "mixed", "clients": 8, "sides": sides}],
        "searches": [{"texts": 100, "clients": 8, "agreement": 1.0, "sides": sides}],
        "memory_mb": {"moverank": 500.0},
    }
    report["embeddings"].append({"workload": "short", "clients": 128, "sides": {"moverank": sides["moverank"]}})
    shown = as_text(report)
    assert "| short questions | 128 | 300 (2 / 5) | failed |  |" in shown
    assert "| 8 to 500 characters | 8 | 300 (2 / 5) | 100 (2 / 5) | 3.00 |" in shown
    assert "the first ten 1.000 are the same" in shown
