"""The program that builds graphs from files."""

import gzip
import json
from pathlib import Path

import pytest

from live_service import client_of
from scripts.build_graph import main
from service.library import claim_folder
from service.settings import Settings

FIRST = "花呗（支付）\t额度\t五百\n坏行\n花呗\t还款\t十号\n"
SECOND = "花呗\t还款\t十号\n花呗\t还款\t九号\n"


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> list[str]:
    """A plain file and a packed one."""
    (tmp_path / "a.tsv").write_text(FIRST)
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(SECOND.encode()))
    return [str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv.gz")]


def test_files_become_a_graph_that_the_service_serves(
    settings: Settings, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run twice it adds nothing the second time; rejects have their number; the service finds the facts."""
    arguments = ["--graph", "g", "--data-dir", str(settings.data_dir), "--lookup-model", str(settings.lookup_model)]
    for _ in range(2):
        assert main([*files, *arguments]) == 0
        assert "read 4, rejected 1" in capsys.readouterr().out
        (reject,) = (tmp_path / "a.tsv.rejects.jsonl").read_text().splitlines()
        assert (json.loads(reject)["line"], json.loads(reject)["head"], json.loads(reject)["file"]) == (
            2,
            "坏行",
            "a.tsv",
        )
    assert main([files[1], *arguments]) == 0
    assert not (tmp_path / "b.tsv.gz.rejects.jsonl").exists()
    with client_of(settings) as client:
        assert client.get("/v1/graphs/g").json()["triples"] == 3
        facts = client.get("/v1/graphs/g/subjects/花呗").json()["facts"]
        assert {(each["meaning"], *each["objects"]) for each in facts} == {("支付", "五百"), ("", "十号", "九号")}


def test_a_folder_in_use_is_left_alone(
    settings: Settings, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a running service the program says why it does nothing."""
    settings.data_dir.mkdir()
    with claim_folder(settings.data_dir):
        assert main([*files, "--graph", "g", "--data-dir", str(settings.data_dir)]) == 1
    assert "in use by another moverank process" in capsys.readouterr().err
    assert not (settings.data_dir / "graphs").exists()


def test_nothing_but_rejects_is_a_failure(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of which no line can be used ends with 1, a wrong command line with 2."""
    (tmp_path / "bad.tsv").write_text("x\ny\n")
    arguments = ["--graph", "g", "--data-dir", str(settings.data_dir), "--lookup-model", str(settings.lookup_model)]
    assert main([str(tmp_path / "bad.tsv"), *arguments]) == 1
    assert "read 0, rejected 2" in capsys.readouterr().out
    for wrong in (["--graph", "Bad"], ["--graph", "g", str(tmp_path / "none.tsv")]):
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path / "bad.tsv"), *wrong])
        assert ended.value.code == 2


def test_a_file_that_was_cut_is_a_failure_and_input_is_never_overwritten(
    settings: Settings, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came before the cut is in the graph, and the exit code is 1; rejects do not go into a file that is read."""
    arguments = ["--graph", "g", "--data-dir", str(settings.data_dir), "--lookup-model", str(settings.lookup_model)]
    lines = "".join(f"主语{i}\t谓语\t宾语{i * i}\n" for i in range(3_000))
    cut = tmp_path / "cut.tsv.gz"
    cut.write_bytes(gzip.compress(lines.encode())[:-5_000])
    assert main([str(cut), *arguments]) == 1
    out, err = capsys.readouterr()
    assert "rejected 1" in out
    assert "build_graph: cut.tsv.gz was not read to its end: the compressed data ends too early" in err
    for rejects, said in ((files[0], "is a file that is read"), (str(tmp_path), "is a folder")):
        with pytest.raises(SystemExit) as ended:
            main([*files, *arguments, "--rejects", rejects])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "a.tsv").read_text() == FIRST
