"""The program that writes similar questions for a corpus file, on a tiny model that can write."""

import json
from pathlib import Path

import pytest

from scripts.expand_corpus import main
from service.paraphrases import letters_of

ENTRIES = [
    {"id": "a", "text": "花呗怎么还款", "metadata": {"domain": "bank"}},
    {"id": "b", "text": "密码忘记了"},
    {"id": "c", "text": "图书馆的借阅"},
]


@pytest.fixture(name="faq")
def _faq(tmp_path: Path) -> Path:
    file = tmp_path / "faq.jsonl"
    lines = [json.dumps(entry, ensure_ascii=False) for entry in ENTRIES]
    file.write_text("\n".join([*lines, "no json"]) + "\n", encoding="utf-8")
    return file


def written(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_entry_gets_similar_questions(
    faq: Path, generator_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line is a document with an id of its own, the entry's metadata, its origin and cosine; none repeats its entry."""
    out = faq.with_name("more.jsonl")
    main([str(faq), "--out", str(out), "--n", "3", "--samples", "30", "--model", str(generator_folder)])
    lines = written(out)
    assert {line["metadata"]["paraphrase_of"] for line in lines} == {"a", "b", "c"}  # type: ignore[index]
    assert len({line["id"] for line in lines}) == len(lines) <= 9
    for line in lines:
        entry = next(one for one in ENTRIES if one["id"] == line["metadata"]["paraphrase_of"])  # type: ignore[index]
        assert letters_of(str(line["text"])) != letters_of(str(entry["text"]))
        assert line["metadata"].items() >= dict(entry.get("metadata", {})).items()  # type: ignore[attr-defined,call-overload]
    said = capsys.readouterr()
    assert "3 entries" in said.out
    assert "faq.jsonl:4: not JSON" in said.err


def test_a_file_without_entries_is_a_failure(
    tmp_path: Path, generator_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no line can be used, the program says why and ends with 1."""
    file = tmp_path / "faq.csv"
    file.write_bytes(b"text\n" + "花呗怎么还款\n".encode("gbk") * 12)
    with pytest.raises(SystemExit) as ended:
        main([str(file), "--out", str(tmp_path / "out.jsonl"), "--model", str(generator_folder)])
    assert ended.value.code == 1
    assert "not UTF-8" in capsys.readouterr().err


def test_a_run_that_was_cut_goes_on(faq: Path, generator_folder: Path) -> None:
    """Cut anywhere, the file ends as it would have without the cut."""
    choices = ["--n", "2", "--samples", "20", "--model", str(generator_folder)]
    whole, broken = faq.with_name("whole.jsonl"), faq.with_name("broken.jsonl")
    main([str(faq), "--out", str(whole), *choices])
    content = whole.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 5):
        broken.write_bytes(content[:size])
        main([str(faq), "--out", str(broken), "--resume", *choices])
        assert broken.read_bytes() == content


def test_a_model_that_cannot_write_ends_with_a_sentence(faq: Path, bert_folder: Path) -> None:
    """Without a language-model head the program says so and stops."""
    with pytest.raises(SystemExit, match="language-model head"):
        main([str(faq), "--out", str(faq.with_name("out.jsonl")), "--model", str(bert_folder)])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["none.txt"], "none.txt is not a file"),
        (["faq.jsonl", "--n", "0"], "--n: '0' is not a whole number of at least 1"),
        (["faq.jsonl", "--out", "none/out.jsonl"], "there is no folder none"),
        (["faq.jsonl", "--model", "none"], "none is not a model folder"),
        (["faq.jsonl", "--out", "faq.jsonl"], "--out: faq.jsonl is a file that is read"),
        (["faq.jsonl", "--out", "."], "--out: . is a folder"),
    ],
)
def test_what_cannot_be_expanded_is_said(
    faq: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: list[str], said: str
) -> None:
    """A file, a number or a folder that cannot be used ends with a sentence about it, and nothing is written."""
    monkeypatch.chdir(faq.parent)
    with pytest.raises(SystemExit) as ended:
        main(["--out", "out.jsonl", *changed])
    assert ended.value.code not in (0, None)
    assert said in f"{ended.value.code} {capsys.readouterr().err}"
    assert not faq.with_name("out.jsonl").exists()


def test_nothing_to_expand_has_no_mean(faq: Path, generator_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file ends well, without a mean of nothing."""
    faq.write_text("")
    main([str(faq), "--out", str(faq.with_name("out.jsonl")), "--model", str(generator_folder)])
    assert capsys.readouterr().out.startswith("0 entries, 0 similar questions;")
