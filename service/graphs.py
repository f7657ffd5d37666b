"""A graph that lives: generations of files, a log of changes over the last one, and the merging of both into the next.

A change is logged durably, then visible: the view is replaced by one that has it. When the log has grown, `merge` writes facts
and changes as a new generation, beside the old one and without a lock, and one rename makes it count; questions go on with the
view that they have. An import is a merge with more rows. After a crash the highest whole generation counts, and the log is
replayed over it.
"""

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.mapped_arrays import fsync_folder
from service.errors import NotFound
from service.facts import Facts
from service.facts_build import FactsBuilder, Spelling
from service.graph_changes import Change, ChangeLog
from service.graph_view import GraphView

LEAST_CHANGES, MOST_CHANGES, SHARE = 1_000, 5_000, 20
"""A merge is due at one change for this many triples, within these limits."""
KEPT_JOBS = 16
"""Jobs whose counts a generation keeps; a job asks for its own only until its end is recorded."""


class Graph:
    """One graph of a data folder."""

    def __init__(self, folder: Path, spelling: Spelling) -> None:
        """Open a graph.

        Raises:
            ValueError: its files are damaged.
        """
        self.folder = folder
        self.name = folder.name
        self._spelling = spelling
        self._is_retired = False
        self._changing = threading.Lock()  # held for a change, and while a generation is exchanged
        self._building = threading.Lock()  # one merge at a time
        self._view: GraphView
        self._changes: int  # since the generation
        self._last_change: int
        self._log = ChangeLog(folder / "changes.db")
        for path in folder.glob(".new-*"):
            shutil.rmtree(path)
        numbers = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        if not numbers:
            raise ValueError(f"{folder} has no generation of facts")
        self._number = numbers[-1]
        self._take(*self._with_changes(Facts(folder / _folder_name(self._number))))
        for number in numbers[:-1]:
            shutil.rmtree(folder / _folder_name(number))

    @classmethod
    def create(cls, folder: Path, spelling: Spelling) -> "Graph":
        """Make an empty graph, whole or not at all, and open it."""
        beside = folder.with_name(f".new-{uuid.uuid4().hex}")
        beside.mkdir()
        FactsBuilder(beside / _folder_name(1)).finish(
            spelling, {"change": 0, "created_at": int(time.time()), "id": uuid.uuid4().hex, "jobs": {}}
        )
        fsync_folder(beside)
        beside.rename(folder)
        fsync_folder(folder.parent)
        return cls(folder, spelling)

    @property
    def id(self) -> str:
        """What tells it from another graph of the same name, before or after it; of graphs of older versions their birth."""
        manifest = self._view.facts.manifest
        return str(manifest.get("id", manifest["created_at"]))

    @property
    def view(self) -> GraphView:
        """What the graph says now."""
        return self._view

    def change(self, changes: Sequence[Change]) -> int:
        """Make changes; return how many of them changed something. They are durable and visible then, all at once.

        Raises:
            NotFound: the graph was deleted meanwhile.
        """
        with self._changing:
            self._check_not_retired()
            view, effective = self._view.after(changes)
            if effective:
                self._last_change = self._log.append(effective)
                self._changes += len(effective)
                self._view = view
        return len(effective)

    @property
    def pending(self) -> int:
        """How many changes are not part of the files yet."""
        return self._changes

    @property
    def is_merge_due(self) -> bool:
        """Whether the changes should become part of the files."""
        least = min(MOST_CHANGES, max(LEAST_CHANGES, self._view.facts.rows // SHARE))
        return self._changes >= least or self._view.is_stale

    def merge(
        self,
        builder: FactsBuilder | None = None,
        job: tuple[str, dict[str, Any]] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Write a new generation of the facts, the changes and what a builder brings, and let it count.

        ``job`` and its record are kept with the generation. ``check``, or that of the builder, is called now and then and before
        it counts, and may raise.

        Raises:
            NotFound: the graph was deleted meanwhile.
        """
        with self._building:
            builder = builder or self.builder(check)
            try:
                self._write_generation(builder, job)
            except FileNotFoundError:
                self._check_not_retired()  # its folder is gone because the graph was deleted
                raise
            finally:
                builder.discard()

    def _write_generation(self, builder: FactsBuilder, job: tuple[str, dict[str, Any]] | None) -> None:
        with self._changing:
            self._check_not_retired()
            view, last = self._view, self._last_change
        manifest = view.facts.manifest
        jobs = {**manifest["jobs"], **({} if job is None else {job[0]: job[1]})}
        jobs = dict(list(jobs.items())[-KEPT_JOBS:])
        builder.add_facts(view.facts, view.removed, view.added)
        born: dict[str, Any] = {name: manifest[name] for name in ("created_at", "id") if name in manifest}
        builder.finish(self._spelling, {"change": last, **born, "jobs": jobs})
        builder.check()
        with self._changing:
            self._check_not_retired()
            number = self._number + 1
            opened = self._with_changes(Facts(builder.folder))  # what may fail does so before the new files count
            builder.folder.rename(self.folder / _folder_name(number))
            opened[0].facts.folder = self.folder / _folder_name(number)
            self._number = number
            self._take(*opened)
            fsync_folder(self.folder)
            # Once the lock is released, the graph may be deleted and another one have its folders' names: but not this one.
            old = self.folder / f".new-{uuid.uuid4().hex}"
            (self.folder / _folder_name(number - 1)).rename(old)
        self._log.forget(last)
        shutil.rmtree(old, ignore_errors=True)

    def builder(self, check: Callable[[], None] | None = None) -> FactsBuilder:
        """Return a builder whose rows `merge` will take.

        Raises:
            NotFound: the graph was deleted meanwhile.
        """

        def check_both() -> None:
            self._check_not_retired()
            if check is not None:
                check()

        try:
            return FactsBuilder(self.folder / f".new-{uuid.uuid4().hex}", check_both)
        except FileNotFoundError:
            self._check_not_retired()  # its folder is gone because the graph was deleted
            raise

    def job_record(self, job: str) -> dict[str, Any] | None:
        """Return what is kept of a job whose rows are part of the graph."""
        record: dict[str, Any] | None = self._view.facts.manifest["jobs"].get(job)
        return record

    def bytes(self) -> int:
        """Return the size on disk.

        Raises:
            NotFound: the graph was deleted meanwhile.
        """
        with self._changing:  # so that no file goes away under the hands
            self._check_not_retired()
            logged = sum(file.stat().st_size for file in self.folder.glob("changes.db*"))
            return self._view.facts.disk_bytes() + logged

    def retire(self) -> None:
        """Let nobody change anything any more; who reads may finish."""
        with self._changing:
            self._is_retired = True

    def close(self) -> None:
        """Close the log; it stays as it is for the next start."""
        with self._building, self._changing:
            self._is_retired = True
            self._log.close()

    def _with_changes(self, facts: Facts) -> tuple[GraphView, int, int]:
        """Replay over a generation what came after it: the view, how many changes these were, and the number of the last."""
        changes, last = self._log.since(int(facts.manifest["change"]))
        return GraphView(facts, self._spelling).after(changes)[0], len(changes), last

    def _take(self, view: GraphView, changes: int, last: int) -> None:
        self._view, self._changes, self._last_change = view, changes, last

    def _check_not_retired(self) -> None:
        if self._is_retired:
            raise NotFound("the graph was deleted meanwhile")


def _folder_name(number: int) -> str:
    return f"{number:06d}"
