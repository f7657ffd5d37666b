"""service/jobs.py and imports.py: a file becomes documents and numbered errors, however often it is interrupted."""

import gc
import gzip
import itertools
import json
import lzma
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import CHARACTERS
from hooked_forward import HookedForward
from models.encoder import Encoder
from models.token_codec import token_codec
from service import imports, jobs
from service.batching import MOST_STUCK, EncodeQueue
from service.collections import Collection
from service.document_rules import Limits
from service.errors import NotFound, NotReady
from service.imports import import_documents
from service.indexing import Indexer
from service.jobs import MAX_ERRORS, Job, JobRunner
from service.library import Library

PATIENCE_S = 60.0
NO_TOKEN = "\u200b\u200b"  # not empty, and nothing of it is left when a tokenizer has cleaned it
LINES: dict[str, Callable[[int], str]] = {
    "good": lambda i: json.dumps({"id": f"g{i}", "text": f"花呗{i}", "metadata": {"n": i}}, ensure_ascii=False),
    "bare": lambda i: json.dumps(f"还款{i}"),
    "nameless": lambda i: json.dumps({"text": f"额度{i}", "n": i}),
    "repeated": lambda i: json.dumps({"id": "same", "text": f"信用卡{i}"}),
    "long": lambda i: json.dumps({"id": f"long{i}", "text": "花" * 60}),
    "blank": lambda i: "  ",
    "broken": lambda i: '{"id": "x", "text": ',
    "typed": lambda i: json.dumps({"id": f"t{i}", "text": 7}),
    "empty": lambda i: json.dumps({"id": f"e{i}", "text": " "}),
    "unknown": lambda i: "[1, 2]",
    "tokenless": lambda i: json.dumps({"id": f"n{i}", "text": NO_TOKEN}),
    "tokenless again": lambda i: json.dumps({"id": "same", "text": NO_TOKEN}),
}
GOOD = {"good", "bare", "nameless", "repeated", "long"}


class Site(NamedTuple):
    """What an import needs, and the folder that outlives it."""

    library: Library
    queue: EncodeQueue
    indexer: Indexer
    folder: Path

    @property
    def collection(self) -> Collection:
        return self.library.get("faq")

    def start(self, threads: int = 1) -> JobRunner:
        work = {"import": partial(import_documents, self.library, self.indexer, Limits())}
        return JobRunner(self.folder, work, threads)

    def submit(
        self, runner: JobRunner, body: bytes, format: str = "jsonl", compression: str | None = None, target: str = "faq"
    ) -> Job:
        id, spool = runner.new_spool()
        spool.write_bytes(body)
        options = {"format": format, "compression": compression, "name": "body"}
        return runner.submit(id, "import", target, options)

    def documents(self) -> dict[str, str]:
        with self.collection.view() as view:
            return {document.id: document.text for document in view.page("", 10_000)}

    def rows(self) -> list[int]:
        with self.collection.view() as view:
            return view.rows().tolist()


def open_site(encoder: Encoder, folder: Path, max_forward_s: float = 120.0) -> Site:
    library = Library(folder)
    codec = token_codec(encoder)
    library.create("faq", encoder.fingerprint, encoder.dim, codec.name)
    queue = EncodeQueue(encoder, 512, 100, 10_000, max_forward_s=max_forward_s)
    return Site(library, queue, Indexer(queue, codec), folder / "jobs")


@pytest.fixture(name="site")
def _site(encoder: Encoder, tmp_path: Path) -> Iterator[Site]:
    site = open_site(encoder, tmp_path)
    yield site
    site.queue.close()
    site.library.close()


@pytest.fixture(name="small_windows")
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "WINDOW_LINES", 5)


def wait(job: Job, until: Callable[[Job], bool] = lambda job: job.state != "running") -> Job:
    deadline = time.monotonic() + PATIENCE_S
    while not until(job):
        assert time.monotonic() < deadline, job.status()
        time.sleep(0.001)
    return job


def many(count: int) -> bytes:
    return "".join(json.dumps({"id": f"d{i}", "text": f"怎么还款{i % 7}"}) + "\n" for i in range(count)).encode()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(list(LINES)), max_size=25))
def test_an_import_gives_the_documents_and_the_numbered_errors(
    site: Site, small_windows: None, kinds: list[str]
) -> None:
    """Good lines are stored, the last of an id wins, every bad line is an error with its number, and nothing stops the job."""
    site.collection.delete(list(site.documents()))
    body = "".join(LINES[kind](i) + "\n" for i, kind in enumerate(kinds, start=1)).encode()
    runner = site.start()
    job = wait(site.submit(runner, body))
    runner.close()
    expected: dict[str, str] = {}
    for i, kind in enumerate(kinds, start=1):
        if kind in GOOD:
            line = json.loads(LINES[kind](i))
            document = {"text": line} if isinstance(line, str) else line
            expected[document.get("id", f"body:{i}")] = document["text"]
    bad = [i for i, kind in enumerate(kinds, start=1) if kind not in GOOD and kind != "blank"]
    status = job.status()
    assert status["state"] == "done", status
    assert site.documents() == expected
    assert status["done"] == sum(kind in GOOD for kind in kinds)
    assert status["failed"] == len(bad)
    assert status["total"] == status["done"] + status["failed"]
    assert status["truncated"] == kinds.count("long")
    assert sorted(error["line"] for error in status["errors"]) == bad
    assert all(error["error"] for error in status["errors"])
    assert not list(site.folder.glob("*.body"))
    with site.collection.view() as view:
        assert view.progress(job.id) is None


def test_the_reasons_are_those_of_the_lines(site: Site) -> None:
    """Each error says what is wrong with its own line."""
    kinds = ["good", "broken", "typed", "empty", "unknown", "tokenless"]
    runner = site.start()
    job = wait(site.submit(runner, "\n".join(LINES[kind](i) for i, kind in enumerate(kinds)).encode()))
    runner.close()
    reasons = {error["line"]: error["error"] for error in job.status()["errors"]}
    for line, reason in zip(
        range(2, 7), ["not JSON", "must be a string", "empty", "an object", "no token"], strict=True
    ):
        assert reason in reasons[line]


def test_errors_are_kept_up_to_a_limit_and_all_counted(site: Site, small_windows: None) -> None:
    """A file of bad lines ends as done, with the first errors and their true number."""
    runner = site.start()
    job = wait(site.submit(runner, b"{\n" * (MAX_ERRORS + 50) + many(1)))
    runner.close()
    status = job.status()
    assert (status["state"], status["done"], status["failed"]) == ("done", 1, MAX_ERRORS + 50)
    assert [error["line"] for error in status["errors"]] == list(range(1, MAX_ERRORS + 1))


@pytest.mark.parametrize(
    ("format", "body"),
    [
        ("jsonl", '{"id": "a", "text": "花呗"}\n"还款"\n'),
        ("csv", 'id,text,lang\na,花呗,zh\n,"还款",zh\n'),
        ("tsv", "id\ttext\na\t花呗\n\t还款\n"),
        ("txt", "花呗\n还款\n"),
    ],
)
@pytest.mark.parametrize("compression", [None, "gz", "xz", "zst"])
def test_every_format_can_be_compressed(site: Site, format: str, body: str, compression: str | None) -> None:
    """The same documents come out of each; lines without an id are named by their number."""
    packed = body.encode()
    if compression == "gz":
        packed = gzip.compress(packed)
    elif compression == "xz":
        packed = lzma.compress(packed)
    elif compression == "zst":
        packed = zstandard.compress(packed)
    runner = site.start()
    job = wait(site.submit(runner, packed, format, compression))
    runner.close()
    second = 3 if format in ("csv", "tsv") else 2
    assert job.status()["state"] == "done"
    assert site.documents() == {"body:1" if format == "txt" else "a": "花呗", f"body:{second}": "还款"}


def test_a_body_that_breaks_off_keeps_what_came_before(site: Site) -> None:
    """Of a truncated gzip the lines before the damage are stored, and the damage is an error."""
    packed = gzip.compress(many(3_000), compresslevel=1)
    runner = site.start()
    job = wait(site.submit(runner, packed[: len(packed) // 2], compression="gz"))
    runner.close()
    status = job.status()
    assert status["state"] == "failed"
    assert "not be read to its end" in status["error"]
    assert status["failed"] == 1
    assert "damaged" in status["errors"][0]["error"]
    assert len(site.documents()) == status["done"] > 100


@pytest.mark.parametrize(
    ("body", "format", "said"),
    [
        ('{"text": "花呗"}'.encode("utf-16"), "jsonl", "UTF-16"),
        ("id,texts\na,花呗\n".encode(), "csv", "no column is called text"),
        ("id\ttext\ttext\na\t花呗\t还款\n".encode(), "tsv", "text"),
    ],
)
def test_a_body_that_cannot_be_read_fails(site: Site, body: bytes, format: str, said: str) -> None:
    """A wrong encoding or a table without texts is no success; an empty body and one of bad lines are read to their ends."""
    runner = site.start()
    job = wait(site.submit(runner, body, format))
    empty = wait(site.submit(runner, b"\n", "jsonl"))
    bad = wait(site.submit(runner, b"not json\n[]\n", "jsonl"))
    runner.close()
    assert (job.status()["state"], job.status()["done"]) == ("failed", 0)
    assert said in str(job.status()["error"])
    assert empty.status()["state"] == bad.status()["state"] == "done"
    assert (bad.status()["done"], bad.status()["failed"]) == (0, 2)


def test_an_interrupted_job_goes_on_with_nothing_twice_and_nothing_lost(
    encoder: Encoder, tmp_path: Path, small_windows: None
) -> None:
    """Stopped again and again, a job ends with every line accounted for once: no row was ever written a second time."""
    count, stops = 700, 0
    id, seen = "", 0
    body = many(count) + b"broken\n" * 3
    while True:
        site = open_site(encoder, tmp_path)
        runner = site.start()
        job = runner.get(id) if id else site.submit(runner, body)
        id = job.id
        if stops < 4:
            wait(job, lambda job, seen=seen: job.state != "running" or job.progress.done > seen)
        else:
            wait(job)
        runner.close()
        site.queue.close()
        if stops % 2:
            site.collection.save_snapshot()
        documents, rows = site.documents(), site.rows()
        assert len(documents) == job.progress.done  # what is stored and what is counted never differ
        site.collection.store.close()  # no snapshot of the last changes: as if killed
        site.library._collections.clear()
        site.library.close()
        if job.state != "running":
            break
        assert list(tmp_path.glob("jobs/*.body"))
        assert seen < job.progress.done < count
        seen = job.progress.done
        stops += 1
    status = job.status()
    assert stops == 4
    assert (status["state"], status["done"], status["failed"], status["total"]) == ("done", count, 3, count + 3)
    assert [error["line"] for error in status["errors"]] == [count + 1, count + 2, count + 3]
    assert set(documents) == {f"d{i}" for i in range(count)}
    assert rows == list(range(1, count + 1))


def test_a_cancelled_job_keeps_what_it_wrote(site: Site, small_windows: None) -> None:
    """It ends as cancelled at its next batch; the documents that it counts are there, the spooled body is not."""
    runner = site.start()
    job = site.submit(runner, many(900))
    waiting = site.submit(runner, many(5))
    wait(job, lambda job: job.progress.done > 0)
    waiting.cancel()
    job.cancel()
    wait(job)
    wait(waiting)
    assert job.state == waiting.state == "cancelled"
    assert waiting.progress.done == 0
    assert 0 < job.progress.done < 900
    assert len(site.documents()) == job.progress.done
    assert job.status()["eta_s"] is None
    assert not list(site.folder.glob("*.body"))
    runner.close()
    runner = site.start()
    assert [runner.get(each.id).state for each in (job, waiting)] == ["cancelled", "cancelled"]
    assert runner.counts() == {"cancelled": 2}
    runner.close()


def test_a_job_that_waits_is_cancelled_at_once(site: Site, small_windows: None) -> None:
    """It has ended when `cancel` returns, though the thread is busy with another; its body is gone."""
    runner = site.start()
    job = site.submit(runner, many(900))
    waiting = site.submit(runner, many(5))
    wait(job, lambda job: job.progress.done > 0)
    assert runner.cancel(waiting.id).state == "cancelled"
    assert job.state == "running"
    assert not waiting.spool.exists()
    wait(job)
    assert len(site.documents()) == job.progress.done == 900
    runner.close()


def test_what_was_cancelled_before_its_turn_does_not_come_back(site: Site, small_windows: None) -> None:
    """A job that waits, is cancelled and never ran before the process ends is not taken up at the next start."""
    runner = site.start()
    first = site.submit(runner, many(900))
    second = site.submit(runner, many(5))
    wait(first, lambda job: job.progress.done > 0)
    second.cancel()
    runner.close()
    assert first.state == "running"
    runner = site.start()
    assert runner.get(second.id).state == "cancelled"
    wait(runner.get(first.id))
    assert runner.get(first.id).state == "done"
    runner.close()
    assert len(site.documents()) == 900


def test_a_cancelled_job_does_not_come_back_after_a_power_failure(site: Site, small_windows: None) -> None:
    """When `cancel` has returned, a process that is killed before the job noticed does not take it up again."""
    runner = site.start()
    job = site.submit(runner, many(900))
    wait(job, lambda job: job.progress.done > 0)
    runner.cancel(job.id)
    copied = site.folder.with_name("as the disk was")
    copied.mkdir()
    with sqlite3.connect(site.folder / "jobs.db") as now, sqlite3.connect(copied / "jobs.db") as then:
        now.backup(then)
    wait(job)
    runner.close()
    again = JobRunner(copied, {})
    assert again.get(job.id).state == "cancelled"
    again.close()
    with pytest.raises(NotFound):
        runner.cancel("none")


def test_a_job_is_cancelled_while_it_reads_blank_lines(site: Site) -> None:
    """A body that goes on for ever without a document does not keep its job from noticing."""
    runner = site.start()
    id, spool = runner.new_spool()
    os.mkfifo(spool)
    is_read, is_over = threading.Event(), threading.Event()

    def write() -> None:
        with suppress(BrokenPipeError), spool.open("wb", buffering=0) as pipe:
            for blocks in itertools.count():
                pipe.write(b"\n" * 4_096)
                if blocks == 256:  # more than a pipe holds
                    is_read.set()
                if is_over.is_set():
                    return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        job = runner.submit(id, "import", "faq", {"format": "txt", "compression": None, "name": "body"})
        assert is_read.wait(PATIENCE_S)
        runner.cancel(id)
        assert wait(job).state == "cancelled"
    finally:
        is_over.set()
        writer.join()
    runner.close()


def test_a_resumed_job_that_is_cancelled_at_once_keeps_its_count(site: Site, small_windows: None) -> None:
    """What a job did before the restart counts, even if it is cancelled before its first batch after it."""
    runner = site.start()
    job = site.submit(runner, many(900))
    wait(job, lambda job: job.progress.done > 0)
    runner.close()
    done = len(site.documents())
    assert 0 < done < 900
    held = threading.Event()
    work = {
        "import": lambda job: (held.wait(PATIENCE_S), import_documents(site.library, site.indexer, Limits(), job))[1]
    }
    runner = JobRunner(site.folder, work)
    resumed = runner.cancel(job.id)
    held.set()
    wait(resumed)
    assert (resumed.state, resumed.progress.done) == ("cancelled", done)
    runner.close()


@pytest.mark.parametrize("is_running", [False, True])
def test_a_job_of_a_deleted_collection_fails_with_a_sentence(site: Site, small_windows: None, is_running: bool) -> None:
    """Deleted before or while it runs, its collection is missed, and the job says so."""
    site.library.create("gone", site.queue.encoder.fingerprint, site.queue.encoder.dim, "codec")
    if not is_running:
        site.library.delete("gone")
    runner = site.start()
    job = site.submit(runner, many(900), target="gone")
    if is_running:
        wait(job, lambda job: job.progress.done > 0)
        site.library.delete("gone")
    wait(job)
    runner.close()
    assert job.state == "failed"
    assert job.error is not None
    assert "collection" in job.error
    assert site.library.names() == ["faq"]


def test_a_fault_fails_its_job_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Work that raises what nobody expected ends as failed without its details; the next job runs in the same thread."""

    def work(job: Job) -> None:
        if job.target == "bad":
            raise ZeroDivisionError("secret")

    runner = JobRunner(tmp_path, {"work": work}, threads=1)
    bad, good = (runner.submit(*runner.new_spool()[:1], "work", target, {}) for target in ("bad", "good"))
    wait(good)
    runner.close()
    assert (bad.state, good.state) == ("failed", "done")
    assert bad.error is not None
    assert "secret" not in bad.error
    assert "ZeroDivisionError" in caplog.text


def test_progress_adds_up_while_a_job_runs(site: Site, small_windows: None) -> None:
    """At every moment the numbers are sensible, never fall, and meet at the end."""
    runner = site.start()
    job = site.submit(runner, many(400) + b"broken\n" * 20)
    seen: list[dict[str, Any]] = []
    while job.state == "running":
        seen.append(job.status())
        time.sleep(0.002)
    seen.append(job.status())
    runner.close()
    for before, after in itertools.pairwise(seen):
        assert before["done"] <= after["done"] <= 400
        assert before["failed"] <= after["failed"] <= 20
    for status in seen:
        assert status["failed"] == len(status["errors"])
        assert status["total"] is None or status["total"] >= status["done"] + status["failed"]
        assert status["rate"] is None or status["rate"] >= 0
        assert status["eta_s"] is None or status["eta_s"] >= 0
    assert (seen[-1]["done"], seen[-1]["failed"], seen[-1]["total"]) == (400, 20, 420)
    assert seen[-1]["rate"] > 0


def test_jobs_that_ended_are_remembered_and_old_ones_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart ended jobs can be asked for, the oldest beyond the limit are gone, and bodies of no job are removed."""
    monkeypatch.setattr(jobs, "KEPT_JOBS", 3)
    runner = JobRunner(tmp_path, {"work": lambda job: job.progress.reject(7, "why")})
    ended = [wait(runner.submit(runner.new_spool()[0], "work", f"c{i}", {"i": i})) for i in range(6)]
    with pytest.raises(NotFound):
        runner.get(ended[0].id)
    with pytest.raises(NotFound):
        runner.get("never")
    runner.close()
    (tmp_path / "abandoned.body").write_bytes(b"half")
    runner = JobRunner(tmp_path, {"work": lambda job: None})
    assert not list(tmp_path.glob("*.body"))
    for job in ended[-3:]:
        again = runner.get(job.id)
        assert (again.state, again.target, again.options) == ("done", job.target, job.options)
        assert again.status()["errors"] == [{"line": 7, "error": "why"}]
    runner.close()


def test_jobs_run_in_the_order_they_came(tmp_path: Path) -> None:
    """With one thread, also those that the last process left."""
    order: list[str] = []
    is_started = threading.Event()

    def stay(job: Job) -> None:
        is_started.set()
        while True:
            job.check()
            time.sleep(0.001)

    runner = JobRunner(tmp_path, {"work": stay}, threads=1)
    for i in range(5):
        runner.submit(runner.new_spool()[0], "work", f"c{i}", {})
    assert is_started.wait(PATIENCE_S)
    runner.close()
    runner = JobRunner(tmp_path, {"work": lambda job: order.append(job.target)}, threads=1)
    last = runner.submit(runner.new_spool()[0], "work", "c5", {})
    wait(last)
    runner.close()
    assert order == [f"c{i}" for i in range(6)]


def test_texts_of_any_characters_come_through(site: Site) -> None:
    """What JSON can say is stored as it is."""
    texts = [*CHARACTERS[:5], "😀👩‍👩‍👧", "a\tb\r\nc", "é", "a\u2028b", "𠮷", "'; DROP TABLE documents; --"]
    runner = site.start()
    job = wait(
        site.submit(runner, "\n".join(json.dumps({"id": str(i), "text": t}) for i, t in enumerate(texts)).encode())
    )
    runner.close()
    assert job.status()["errors"] == []
    assert site.documents() == {str(i): text for i, text in enumerate(texts)}


def assert_taken_up(site: Site, id: str, documents: int) -> None:
    """The next start ends a job that waited for it, and nothing is missing; then the site is closed."""
    runner = site.start()
    assert wait(runner.get(id)).state == "done"
    assert len(site.documents()) == documents
    runner.close()
    site.queue.close()
    site.library.close()


@pytest.mark.parametrize("trouble", ["another model", "a damaged store"])
def test_a_job_waits_where_its_collection_cannot_be_used(encoder: Encoder, tmp_path: Path, trouble: str) -> None:
    """An accepted import is neither lost nor mixed in where the service starts with another model or a damaged collection."""
    site = open_site(encoder, tmp_path)
    runner = site.start()
    runner._stopping.set()
    job = site.submit(runner, many(20))
    runner.close()
    store = tmp_path / "collections" / "faq" / "documents.db"
    if trouble == "a damaged store":
        site.library.close()
        whole = store.read_bytes()
        store.write_bytes(b"x" * 4_096)
        site = site._replace(library=Library(tmp_path))
    else:
        site.indexer.fingerprint = "another"
    runner = site.start()
    waits = wait(runner.get(job.id), lambda job: job.error is not None)
    assert waits.state == "running"
    assert waits.error is not None
    assert ("reindex" if trouble == "another model" else "damaged") in waits.error
    assert waits.spool.exists()
    runner.close()
    if trouble == "a damaged store":
        site.library.close()
        store.write_bytes(whole)
        site = site._replace(library=Library(tmp_path))
    site.indexer.fingerprint = encoder.fingerprint
    assert_taken_up(site, job.id, 20)


def test_a_job_that_waits_can_be_cancelled(site: Site) -> None:
    """Nobody works on a job that waits for the next start, and it can be given up all the same."""
    site.indexer.fingerprint = "another"
    runner = site.start()
    job = wait(site.submit(runner, many(5)), lambda job: job.is_postponed)
    assert runner.cancel(job.id).state == "cancelled"
    assert not job.spool.exists()
    runner.close()


def test_an_import_waits_where_the_encoder_hangs_for_good(model_folder: Path, tmp_path: Path) -> None:
    """Only a new process can help, and that one takes the import up: its body is kept."""
    forward, door = HookedForward(model_folder), threading.Event()

    def before(_: NDArray[np.int64]) -> None:
        door.wait(PATIENCE_S)

    forward.before = before
    site = open_site(Encoder(model_folder, "cpu", forward=forward), tmp_path, max_forward_s=0.1)
    for text in site.queue.encoder.tokenize(["花呗"] * MOST_STUCK):
        with pytest.raises(NotReady):
            site.queue.submit([text], "interactive").result(PATIENCE_S)
    assert site.queue.is_beyond_repair
    runner = site.start()
    job = wait(site.submit(runner, many(100)), lambda job: job.state != "running" or job.is_postponed)
    assert (job.state, job.error) == ("running", "the encoder hangs: the service must be started again")
    assert job.spool.exists()
    runner.close()
    door.set()
    site.queue.close()
    site.library.close()
    site = open_site(Encoder(model_folder, "cpu"), tmp_path)
    assert_taken_up(site, job.id, 100)


def fill_up(database: sqlite3.Connection) -> None:
    """Let a database have no more pages than it has, which SQLite takes for a full disk."""
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count={pages}")


def make_room(database: sqlite3.Connection) -> None:
    """Let a database grow again."""
    database.execute("PRAGMA max_page_count=1000000")


def test_an_import_waits_where_the_disk_is_full(site: Site, small_windows: None) -> None:
    """What was written stays, the body is kept, and the next start goes on from there."""
    runner = site.start()
    fill_up(site.collection.store._writer)
    job = wait(site.submit(runner, many(900)), lambda job: job.state != "running" or job.is_postponed)
    assert job.state == "running"
    assert job.error is not None
    assert "the disk is full" in job.error
    assert job.spool.exists()
    runner.close()
    make_room(site.collection.store._writer)
    runner = site.start()
    assert wait(runner.get(job.id)).state == "done"
    assert len(site.documents()) == 900
    runner.close()


@pytest.mark.parametrize("way_out", ["cancel", "restart"])
def test_a_job_whose_end_cannot_be_recorded_says_so(tmp_path: Path, way_out: str) -> None:
    """Where there is no room for its end nothing is forgotten: it can be cancelled later, or the next start takes it up."""

    def work(job: Job) -> None:
        for line in range(MAX_ERRORS):
            job.progress.reject(line, "x" * 1_000)

    runner = JobRunner(tmp_path, {"work": lambda job: (is_full.wait(PATIENCE_S), work(job))[1]})
    is_full = threading.Event()
    id, spool = runner.new_spool()
    spool.write_bytes(b"body")
    job = runner.submit(id, "work", "c", {})
    fill_up(runner._database)
    is_full.set()
    wait(job, lambda job: job.is_postponed)
    status = job.status()
    assert (status["state"], "could not be recorded" in status["error"]) == ("running", True)
    assert spool.exists()
    make_room(runner._database)
    if way_out == "cancel":
        assert runner.cancel(id).state == "cancelled"
    runner.close()
    runner = JobRunner(tmp_path, {"work": work})
    assert wait(runner.get(id)).state == ("cancelled" if way_out == "cancel" else "done")
    assert not spool.exists()
    runner.close()


def test_the_body_of_a_job_that_cannot_be_recorded_is_removed(tmp_path: Path) -> None:
    """Where there is no room for the job, its body gives back the room that it has."""
    runner = JobRunner(tmp_path, {"work": lambda job: None})
    id, spool = runner.new_spool()
    spool.write_bytes(b"body")
    fill_up(runner._database)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        runner.submit(id, "work", "c", {"name": "x" * 100_000})
    assert not spool.exists()
    with pytest.raises(NotFound):
        runner.get(id)
    runner.close()


def test_jobs_that_have_ended_hold_no_collection(site: Site) -> None:
    """What a deleted collection had open is closed, however long its import is remembered."""
    runner = site.start()
    wait(site.submit(runner, many(5)))
    gone = weakref.ref(site.collection)
    site.library.delete("faq")
    gc.collect()
    assert gone() is None
    runner.close()
    site.library.create("faq", site.queue.encoder.fingerprint, site.queue.encoder.dim, "codec")
