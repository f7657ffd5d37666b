"""Long work with progress, cancel and resume.

A job is a row in ``jobs.db`` and, while it has work, a spooled body beside it. What it has done so far is written by the work
itself, in the same transaction as its results; a job that the process did not finish is taken up again at the next start from
there. Jobs run in a few threads, in the order in which they came.
"""

import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from service.errors import InvalidRequest, NotFound, ServiceError
from service.store_errors import is_disk_full

State = Literal["running", "done", "failed", "cancelled"]

MAX_ERRORS = 100
"""Errors that a job keeps; the rest are counted."""
KEPT_JOBS = 1_000
"""Jobs that have ended and can still be asked for."""

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, target TEXT NOT NULL,
  options TEXT NOT NULL, state TEXT NOT NULL, error TEXT, progress TEXT NOT NULL
)
"""


@dataclass
class Progress:
    """How far a job is. ``position`` is the last line that is accounted for."""

    position: int = 0
    done: int = 0
    failed: int = 0
    truncated: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    broken: str | None = None  # why the body could not be read to its end

    def reject(self, line: int, error: str) -> None:
        """Count a line that cannot be used."""
        self.failed += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"line": line, "error": error})

    def check_end(self) -> None:
        """Raise InvalidRequest where the body could not be read to its end; what came before the damage is stored."""
        if self.broken is not None:
            raise InvalidRequest(f"the body could not be read to its end: {self.broken}")

    def record(self) -> dict[str, Any]:
        """Return the progress as JSON-ready values."""
        return asdict(self)


class Stopped(Exception):
    """The process ends: the job stays unfinished and is taken up at the next start."""


class Postponed(Exception):
    """What the job works on cannot be used at present, and why: it is taken up at the next start."""


class Cancelled(Exception):
    """Someone cancelled the job."""


class Job:
    """One job of this process's lifetime."""

    def __init__(
        self, id: str, kind: str, target: str, options: dict[str, Any], spool: Path, stopping: threading.Event
    ) -> None:
        self.id = id
        self.kind = kind
        self.target = target
        self.options = options
        self.spool = spool
        self.state: State = "running"
        self.error: str | None = None
        self.is_postponed = False
        self.progress = Progress()
        self.fraction = 0.0
        self.when_recorded: Callable[[], None] | None = None
        """What may be forgotten when the end of the job is durable, and not before."""
        self._started_at: float | None = None
        self._done_before = 0
        self._ended_at: float | None = None
        self._cancelled = threading.Event()
        self._stopping = stopping

    def begin(self) -> None:
        """Start the clock, when the job's progress so far is known."""
        self._started_at = time.monotonic()
        self._done_before = self.progress.done + self.progress.failed

    def end(self, state: State, error: str | None = None) -> None:
        """Stop the clock."""
        self.error = error
        self._ended_at = time.monotonic()
        self.state = state

    def postpone(self, reason: str) -> None:
        """Say why the job does not go on before the next start."""
        self.error, self.is_postponed = reason, True

    def check(self) -> None:
        """Raise `Cancelled` or `Stopped` where the job shall not go on."""
        if self._cancelled.is_set():
            raise Cancelled
        if self._stopping.is_set():
            raise Stopped

    @property
    def is_cancelled(self) -> bool:
        """Whether someone asked the job to stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the job to stop at its next batch."""
        self._cancelled.set()

    def status(self) -> dict[str, Any]:
        """Return what `GET /v1/jobs/{id}` answers; rate in lines a second, eta in seconds."""
        progress = self.progress
        seen = progress.done + progress.failed
        total = round(seen / self.fraction) if self.fraction > 0 else None
        rate = eta_s = None
        if self._started_at is not None:
            elapsed = (self._ended_at or time.monotonic()) - self._started_at
            rate = round((seen - self._done_before) / elapsed, 1) if elapsed > 0 else None
        if self.state == "running" and rate and total is not None:
            eta_s = round(max(0, total - seen) / rate, 1)
        return {
            "job": self.id,
            "kind": self.kind,
            "target": self.target,
            "state": self.state,
            "done": progress.done,
            "total": seen if self.state == "done" else total,
            "failed": progress.failed,
            "truncated": progress.truncated,
            "errors": progress.errors,
            "error": self.error,
            "rate": rate,
            "eta_s": eta_s,
        }


Work = Callable[[Job], None]


class JobRunner:
    """Keeps jobs, runs them, and takes up at the start what was not finished."""

    def __init__(self, folder: Path, work: Mapping[str, Work], threads: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._work = work
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        file = folder / "jobs.db"
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(_SCHEMA)
        except sqlite3.DatabaseError as trouble:
            raise RuntimeError(
                f"{file} cannot be used: {trouble}. Where it is damaged, move it away and start again: what is lost are the "
                "jobs, not what they have written"
            ) from trouble
        self._jobs: dict[str, Job] = {}
        self._waiting: dict[str, Future[None]] = {}  # jobs that came to this process, until they have ended
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="job")
        unfinished = []
        for id, kind, target, options, state, error, progress in self._database.execute(
            "SELECT id, kind, target, options, state, error, progress FROM jobs ORDER BY number"
        ):
            job = self._jobs[id] = self._make(id, kind, target, orjson.loads(options))
            job.progress = Progress(**orjson.loads(progress))
            job.state, job.error = state, error
            if state == "running":
                unfinished.append(job)
        for file in folder.glob("*.body"):
            if file.stem not in {job.id for job in unfinished}:
                file.unlink()  # received in part, or used up
        for job in unfinished:
            self._pool.submit(self._run, job)

    def new_spool(self) -> tuple[str, Path]:
        """Return the id of a job to come and the file that its body goes to."""
        id = uuid.uuid4().hex
        return id, self.folder / f"{id}.body"

    def submit(self, id: str, kind: str, target: str, options: dict[str, Any]) -> Job:
        """Make a job durable and queue it; its spool file must be durable already, and is removed where this fails."""
        job = self._make(id, kind, target, options)
        record = orjson.dumps(job.progress.record()).decode()
        values = (id, kind, target, orjson.dumps(options).decode(), job.state, record)
        try:
            with self._lock:
                self._forget_old()
                self._database.execute(
                    "INSERT INTO jobs (id, kind, target, options, state, progress) VALUES (?, ?, ?, ?, ?, ?)", values
                )
                self._jobs[id] = job
        except BaseException:
            job.spool.unlink(missing_ok=True)
            raise
        self._queue(job)
        return job

    def get(self, id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: there is none of this id, or it ended long ago.
        """
        job = self._jobs.get(id)
        if job is None:
            raise NotFound("there is no such job")
        return job

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        states = [job.state for job in self.all()]
        return {state: states.count(state) for state in sorted(set(states))}

    def all(self) -> list[Job]:
        """Return the jobs that are kept, in the order they came."""
        return list(self._jobs.values())

    def running(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [job for job in self.all() if job.state == "running"]

    def cancel(self, id: str) -> Job:
        """Ask a job to stop at its next batch; when this returns it will not be taken up again, whatever happens.

        Raises:
            NotFound: there is none of this id.
        """
        job = self.get(id)
        with self._lock:
            if job.state == "running":
                self._database.execute("UPDATE jobs SET state = 'cancelled' WHERE id = ? AND state = 'running'", (id,))
        job.cancel()
        waiting = self._waiting.get(id)
        if job.is_postponed or (waiting is not None and waiting.cancel()):  # nobody works on it who would notice
            self._end(job, "cancelled")
        return job

    def close(self) -> None:
        """Stop at the next batch and keep unfinished jobs for the next start, but for those that were cancelled."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for job in self.all():
            if job.state == "running" and job.is_cancelled:
                self._end(job, "cancelled")
        self._database.close()

    def _make(self, id: str, kind: str, target: str, options: dict[str, Any]) -> Job:
        return Job(id, kind, target, options, self.folder / f"{id}.body", self._stopping)

    def _queue(self, job: Job) -> None:
        """Let a job run that nobody has worked on before."""
        future = self._waiting[job.id] = self._pool.submit(self._run, job)
        future.add_done_callback(lambda _: self._waiting.pop(job.id, None))

    def _run(self, job: Job) -> None:
        if self._stopping.is_set():
            return
        try:
            self._work[job.kind](job)  # which asks `check` when it knows how far the job was before
        except Stopped:
            return
        except Postponed as reason:
            self._postpone(job, str(reason))
        except Cancelled:
            self._end(job, "cancelled")
        except ServiceError as error:
            if job.is_cancelled:
                self._end(job, "cancelled")
            else:
                self._end(job, "failed", error.sentence)
        except Exception as error:
            if is_disk_full(error):
                self._postpone(job, "the disk is full: make room and start the service again")
                return
            log.exception("job %s failed", job.id)
            self._end(job, "failed", "the job failed by a fault of the service; its log has the reason")
        else:
            job.fraction = 1.0
            self._end(job, "done")

    def _postpone(self, job: Job, reason: str) -> None:
        log.warning("job %s is taken up at the next start: %s", job.id, reason)
        job.postpone(reason)
        if job.is_cancelled:
            self._end(job, "cancelled")

    def _end(self, job: Job, state: State, error: str | None = None) -> None:
        values = (state, error, orjson.dumps(job.progress.record()).decode(), job.id)
        try:
            with self._lock:
                self._database.execute("UPDATE jobs SET state = ?, error = ?, progress = ? WHERE id = ?", values)
        except sqlite3.Error:  # the next start, or who cancels it then, ends it
            log.exception("the end of job %s could not be recorded", job.id)
            job.postpone("its end could not be recorded; it is taken up at the next start")
            return
        job.spool.unlink(missing_ok=True)
        job.end(state, error)
        if job.when_recorded is not None:
            with suppress(NotFound):  # what the job worked on was deleted
                job.when_recorded()
            job.when_recorded = None  # it holds what the job worked on, which may be deleted

    def _forget_old(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.state != "running"]
        for id in ended[: max(0, len(ended) - KEPT_JOBS)]:
            self._database.execute("DELETE FROM jobs WHERE id = ?", (id,))
            del self._jobs[id]
