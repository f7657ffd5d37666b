"""scripts/index_corpus.py against a real data folder and a real service: everything arrives once, whatever happens on the way."""

import contextlib
import gzip
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from scripts.index_corpus import Position, Source, main, read_pieces
from service.app import create_app
from service.documents import Document
from service.library import Library
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """The programs of these tests use the tiny model and an empty data folder."""
    for name in ("data_dir", "model", "device", "runtime", "threads"):
        monkeypatch.setenv(f"MOVERANK_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def write_lines(file: Path, count: int, **extra: Any) -> Path:
    """Write documents d0, d1, ... whose texts say their number."""
    lines = [
        json.dumps({"id": f"d{i}", "text": f"花呗怎么还款 {i}", **extra}, ensure_ascii=False) for i in range(count)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def stored(data_dir: Path, name: str) -> list[Document]:
    """All documents of a collection, in order of id."""
    library = Library(data_dir)
    try:
        with library.get(name).view() as view:
            return view.page("", 1_000_000)
    finally:
        library.close()


def rejected(file: Path) -> list[dict[str, Any]]:
    """What is in the rejects file of a file."""
    return [json.loads(line) for line in file.with_name(f"{file.name}.rejects.jsonl").read_text("utf-8").splitlines()]


# A local data folder


def test_files_become_documents(tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Documents of several files arrive with ids, texts and metadata; bad lines go to the rejects file with their reasons."""
    first, second = tmp_path / "faq.jsonl", tmp_path / "more.csv.gz"
    first.write_text('{"id": "a", "text": "花呗"}\n{"text": \n\n"借呗"\n"\u200b"\n', encoding="utf-8")
    second.write_bytes(gzip.compress("text,topic\n退货,物流\n,物流\n".encode()))

    assert main([str(first), str(second), "--collection", "faq"]) == 0
    assert stored(settings.data_dir, "faq") == [
        Document("a", "花呗", {}),
        Document("faq.jsonl:4", "借呗", {}),
        Document("more.csv.gz:2", "退货", {"topic": "物流"}),
    ]
    assert [(line["file"], line["line"]) for line in rejected(first)] == [
        ("faq.jsonl", 2),
        ("faq.jsonl", 5),
        ("more.csv.gz", 3),
    ]
    assert [line["reason"].split(":")[0] for line in rejected(first)] == [
        "not JSON",
        "the text has no token that the model can read",
        "the text is empty",
    ]
    assert rejected(first)[0]["head"] == '{"text": '
    assert "indexed 3, rejected 3" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "data",
        "faq.jsonl",
        "faq.jsonl.rejects.jsonl",
        "more.csv.gz",
    ]


def test_indexing_again_doubles_nothing(tmp_path: Path, settings: Settings) -> None:
    """The same file once more gives the same documents, also of lines without an id."""
    file = tmp_path / "corpus.txt"
    file.write_text("".join(f"花呗 {i}\n" for i in range(50)), encoding="utf-8")

    assert main([str(file), "--collection", "law", "--batch-size", "7"]) == 0
    before = stored(settings.data_dir, "law")
    assert main([str(file), "--collection", "law", "--batch-size", "11"]) == 0
    assert len(before) == 50
    assert stored(settings.data_dir, "law") == before


def test_of_two_lines_with_one_id_the_last_counts(tmp_path: Path, settings: Settings) -> None:
    """Whether they are committed together or apart, the later line replaces the earlier one."""
    file = tmp_path / "corpus.tsv"
    file.write_text("a\t一\na\t二\nb\t三\nc\t四\na\t五\n", encoding="utf-8")
    for size in ("1", "2", "100"):
        assert main([str(file), "--collection", f"c{size}", "--batch-size", size]) == 0
        assert [document.text for document in stored(settings.data_dir, f"c{size}")] == ["五", "三", "四"]


def run_until_line(command: list[str], position: Path, line: int) -> None:
    """Start a program and kill it (SIGKILL) when its position has passed a line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.index_corpus", *command], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if json.loads(position.read_bytes())["line"] >= line:
                    break
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_killed_run_is_resumed(tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed in the middle and resumed, a run has indexed every line once and rejected every bad line once."""
    file = tmp_path / "corpus.txt"
    file.write_bytes(b"".join(b"\xff\n" if i % 50 == 7 else f"花呗怎么还款 {i}\n".encode() for i in range(4_000)))
    position = tmp_path / "corpus.txt.rejects.jsonl.position"
    command = [str(file), "--collection", "law", "--batch-size", "20", "--resume"]
    run_until_line(command, position, 500)

    assert 500 <= json.loads(position.read_bytes())["line"] < 4_000
    assert main(command) == 0
    assert "indexed 3920, rejected 80" in capsys.readouterr().out
    assert {document.text for document in stored(settings.data_dir, "law")} == {
        f"花呗怎么还款 {i}" for i in range(4_000) if i % 50 != 7
    }
    assert [line["line"] for line in rejected(file)] == list(range(8, 4_001, 50))
    assert not position.exists()


@contextlib.contextmanager
def database(data_dir: Path, name: str) -> Iterator[sqlite3.Connection]:
    """The store of a collection that nobody has open."""
    with contextlib.closing(sqlite3.connect(data_dir / "collections" / name / "documents.db")) as opened, opened:
        yield opened


def test_a_store_that_takes_nothing_more_stops_the_run(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """What SQLite says is shown with how far the run is, and it goes on when there is room again."""
    assert main([str(write_lines(tmp_path / "first.jsonl", 1)), "--collection", "law"]) == 0
    with database(settings.data_dir, "law") as store:
        no_room = "BEGIN SELECT RAISE(ABORT, 'there is no room'); END"
        store.execute(f"CREATE TRIGGER full BEFORE INSERT ON documents WHEN NEW.id = 'd25' {no_room}")
    command = [str(write_lines(tmp_path / "corpus.jsonl", 50)), "--collection", "law", "--batch-size", "10", "--resume"]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "index_corpus: there is no room" in told
    assert "done up to corpus.jsonl line 20; the same command with --resume goes on there" in told

    with database(settings.data_dir, "law") as store:
        store.execute("DROP TRIGGER full")
    assert main(command) == 0
    assert len(stored(settings.data_dir, "law")) == 50


def test_a_file_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If not one line was indexed, the exit code says so, and the rejects file says why."""
    file = tmp_path / "corpus.csv"
    file.write_text("question\na\n", encoding="utf-8")

    assert main([str(file), "--collection", "law"]) == 1
    assert "rejected 1 (see " in capsys.readouterr().out
    assert "no column is called text" in rejected(file)[0]["reason"]


def test_a_file_that_was_cut_is_a_failure_and_input_is_never_overwritten(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came before the cut is indexed, and the exit code is 1; rejects do not go into a file that is read."""
    cut = tmp_path / "cut.txt.gz"
    packed = gzip.compress("".join(f"第{i * i}个问题\n" for i in range(2_000)).encode())
    cut.write_bytes(packed[: len(packed) // 2])
    command = [str(cut), "--collection", "law", "--data-dir", str(settings.data_dir), "--model", str(settings.model)]
    assert main(command) == 1
    assert "cut.txt.gz was not read to its end: the compressed data ends too early" in capsys.readouterr().err
    assert len(stored(settings.data_dir, "law")) > 100
    for rejects, said in ((cut, "is a file that is read"), (tmp_path, "is a folder"), (cut / "x" / "y", "no folder")):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--rejects", str(rejects)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert cut.read_bytes() == packed[: len(packed) // 2]


def test_a_data_folder_in_use_is_left_alone(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """While another process has the folder open, the program says so and does nothing."""
    library = Library(settings.data_dir)
    try:
        assert main([str(write_lines(tmp_path / "a.jsonl", 1)), "--collection", "law"]) == 1
    finally:
        library.close()
    assert "in use by another moverank process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["missing.jsonl", "--collection", "a"], "missing.jsonl is not a file"),
        (["faq.doc", "--collection", "a"], "the format is told by the ending"),
        (["a.txt", "--collection", "A b"], "a name has 1 to 64 characters"),
        (["a.txt", "b/a.txt", "--collection", "a"], "two files are called a.txt"),
        (["a.txt", "--collection", "a", "--url", "127.0.0.1:8000"], "must begin with http"),
        (["a.txt", "--collection", "a", "--url", "http://x", "--model", "m"], "--url for a running service"),
        (["a.txt", "--collection", "a", "--batch-size", "0"], "--batch-size must be"),
        (["a.txt"], "--collection"),
    ],
)
def test_wrong_command_lines(
    command: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong command line ends with code 2 and a sentence, before anything is opened."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b/a.txt", "faq.doc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("花呗\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(command)

    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@hypothesis.settings(deadline=None)
@given(
    lines=st.lists(st.sampled_from(["花", "", "\0", '"', "x" * 300]), max_size=20),
    size=st.integers(1, 30),
    after=st.integers(0, 20),
)
def test_pieces_are_the_file(tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int, after: int) -> None:
    """However a file is cut and wherever reading starts, every line is in exactly one piece, in order."""
    file = tmp_path_factory.mktemp("pieces") / "a.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    start = Position([], "", line=after)
    pieces = list(read_pieces([Source(file, "txt", None)], start, size))

    numbers = [sorted([*piece.lines.values(), *(reject.line for reject in piece.rejects)]) for piece in pieces]
    assert [number for part in numbers for number in part] == [
        i for i, line in enumerate(lines, 1) if line and i > after
    ]
    assert all(len(part) <= size for part in numbers)
    assert [piece.last_line for piece in pieces] == [part[-1] for part in numbers]


# A running service


class Moody:
    """The real application behind a front that answers some of its requests with "later", as a busy cluster does."""

    def __init__(self, app: ASGIApp, moods: list[int]) -> None:
        self.app = app
        self.moods = moods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the next mood (a status; 0: pass the request on)."""
        mood = self.moods.pop(0) if scope["type"] == "http" and self.moods else 0
        if mood:
            headers = {"Retry-After": "0"} if mood == 429 else {}
            await JSONResponse({"error": "later"}, mood, headers)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


@contextlib.contextmanager
def serving(settings: Settings, moods: list[int] | None = None, port: int = 0) -> Iterator[str]:
    """Run the service on a port of this machine and yield its address when it is ready."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        app = create_app(settings)
        config = uvicorn.Config(Moody(app, moods or []), log_config=None, lifespan="on", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while app.state.runtime is None:
                assert thread.is_alive(), app.state.failure
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def texts_at(url: str, name: str) -> dict[str, str]:
    """All texts of a collection of a service, by id."""
    found: dict[str, str] = {}
    after = ""
    while True:
        page = httpx.get(f"{url}/v1/collections/{name}/documents", params={"limit": 1000, "after": after}).json()
        found |= {document["id"]: document["text"] for document in page["documents"]}
        if not page["next"]:
            return found
        after = page["next"]


def test_a_busy_service_gets_everything_once(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers 429, 503 and 500 are waited out; every document arrives."""
    file = write_lines(tmp_path / "corpus.jsonl", 300)
    with serving(settings, moods=[503, 0, 429, 500, 0, 0, 429, 429, 0]) as url:
        assert main([str(file), "--collection", "law", "--url", url, "--batch-size", "40"]) == 0
        assert texts_at(url, "law") == {f"d{i}": f"花呗怎么还款 {i}" for i in range(300)}
    assert "indexed 300, rejected 0" in capsys.readouterr().out
    assert not (tmp_path / "corpus.jsonl.rejects.jsonl").exists()


def test_what_the_service_refuses_is_rejected_alone(tmp_path: Path, settings: Settings) -> None:
    """A document that is over the service's own limits goes to the rejects file, its neighbours are indexed."""
    file = tmp_path / "corpus.txt"
    file.write_text("花呗\n" * 20 + "x" * 101 + "\n" + "借呗\n" * 20 + "\u200b\n", encoding="utf-8")
    with serving(settings.model_copy(update={"max_text_chars": 100})) as url:
        assert main([str(file), "--collection", "law", "--url", url]) == 0
        assert len(texts_at(url, "law")) == 40

    assert [line["line"] for line in rejected(file)] == [21, 42]
    assert "max_text_chars" in rejected(file)[0]["reason"]
    assert rejected(file)[0]["head"].startswith("xxx")


def test_a_service_that_goes_away_is_resumed(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the service stops answering the run stops too, and the same run, no other, goes on when told so."""
    file = write_lines(tmp_path / "corpus.jsonl", 200)
    with serving(settings, moods=[0, 0, 0] + [503] * 100) as url:
        command = [str(file), "--collection", "law", "--url", url, "--batch-size", "20", "--patience-s", "1"]
        assert main(command) == 1
    error = capsys.readouterr().err
    assert "given up after 1 s: later" in error
    assert "done up to corpus.jsonl line 40; the same command with --resume goes on there" in error

    with serving(settings, port=int(url.rsplit(":", 1)[1])) as url:
        assert len(texts_at(url, "law")) == 40
        assert main([str(file), "--collection", "other", "--url", url, "--resume"]) == 1
        assert "is of a run with other files" in capsys.readouterr().err
        assert main([*command, "--resume"]) == 0
        assert len(texts_at(url, "law")) == 200
    assert "indexed 200, rejected 0" in capsys.readouterr().out


def test_a_key_is_sent(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a key the service's own sentence is shown; with one, from the option or the environment, it works."""
    file = write_lines(tmp_path / "corpus.jsonl", 3)
    with serving(Settings(**{**settings.model_dump(), "api_keys": "secret"})) as url:
        command = [str(file), "--collection", "law", "--url", url]
        assert main(command) == 1
        assert "needs a key" in capsys.readouterr().err
        assert main([*command, "--key", "secret"]) == 0
        monkeypatch.setenv("MOVERANK_KEY", "secret")
        assert main(command) == 0


def test_no_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An address where nothing listens is given up with a sentence."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert (
            main([str(write_lines(tmp_path / "a.jsonl", 1)), "--collection", "a", "--url", url, "--patience-s", "0.1"])
            == 1
        )
    assert "does not answer" in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl.rejects.jsonl.position").exists()
