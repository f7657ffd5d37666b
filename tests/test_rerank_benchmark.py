"""The rerank benchmark in miniature, so that it cannot rot: tiny model, few texts, no judgement of speed."""

import json
from pathlib import Path

import pytest

from scripts.benchmark.rerank import main


def test_benchmark_runs_and_all_sides_agree(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files or made texts: the loops find the distances that the rerank finds, and whole corpora are searched with proof."""
    file = tmp_path / "texts.tsv"
    letters = "花呗借怎么如何还款银行卡信用提额度办理"
    lines = [f"{i}\t{''.join(letters[(i * k + k * k) % 19] for k in range(1, 3 + i % 9))}{i % 10}" for i in range(70)]
    file.write_text("\n".join(lines), encoding="utf-8")
    report, plot = tmp_path / "report.json", tmp_path / "plot.png"
    sizes = "--queries 2 --sizes 12 --corpora 30 50 --no-gensim"
    main(
        f"--model {model_folder} --texts {file} --passages {file} --questions {file} {sizes} --stored 40 --ways "
        f"--json {report} --plot {plot}".split()
    )
    found = json.loads(report.read_text(encoding="utf-8"))
    assert {(row["texts"], row["measure"]) for row in found["pools"]} == {
        (texts, measure) for texts in ("short", "passages") for measure in ("wrd", "wmd")
    }
    assert all(row["solved"] >= 10 and row["ours ms"] > 0 for row in found["pools"])
    assert all(0.0 < row["relaxed / exact"] <= row["dual / exact"] + 0.3 <= 1.3 for row in found["pools"])
    assert [row["N"] for row in found["corpora"]] == [30, 30, 50, 50] * 2
    assert [row["N"] for row in found["stored"]] == [40, 40]
    assert all(0.0 <= row["off"] <= row["error"] + 1e-9 for row in found["ways"])
    assert len(found["ways"]) == len(found["pools"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    main(f"--model {model_folder} --queries 2 --sizes 12 --corpora --no-gensim".split())
    assert "made passages" in capsys.readouterr().out
