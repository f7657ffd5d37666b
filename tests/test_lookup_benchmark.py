"""The benchmark of questions in miniature, so that it cannot rot: a made-up graph, the bundled models, no judgement of speed."""

import json

import pytest

from scripts.benchmark import lookup


@pytest.mark.timeout(300)
def test_both_searches_run_and_agree_and_a_service_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bare search finds what transformers finds, every way is measured, and so is a service of its own over HTTP."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")
    lookup.main(["--size", "2000", "--questions", "6", "--batches", "1", "3", "--http", "5", "--json"])

    report = json.loads(capsys.readouterr().out)
    assert (report["triples"], report["questions"]) == (2000, 6)
    assert [(run["what"], run["batch"]) for run in report["runs"]] == [
        (what, batch) for batch in (1, 3) for what in ("transformers generate", "search", "search, slack", "ask")
    ]
    assert all(run["questions_per_s"] > 0 for run in report["runs"])
    assert all(run["same_answers"] >= 0.8 for run in report["runs"] if run["what"] == "search")
    assert (report["http"]["triples"], report["http"]["questions"]) == (2000, 5)
    assert 0 < report["http"]["p50_ms"] <= report["http"]["p95_ms"] <= report["http"]["p99_ms"]
