"""All graphs of a data folder, and the thread that merges their changes.

Whoever opens it owns the data folder (see `service.library`).
"""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from service.errors import NotFound
from service.facts_build import Spelling
from service.graphs import Graph
from service.library import check_name, find, named_folders, why_unusable
from service.store_errors import UNUSABLE

MERGE_INTERVAL_S = 1.0
FIRST_PAUSE_S, MOST_PAUSE_S = 2.0, 600.0
"""A graph whose merge failed is left alone for so long; each further failure doubles the pause."""

log = logging.getLogger(__name__)


class _Closing(Exception):
    """The library is being closed: a merge is not finished."""


class _Pause(NamedTuple):
    length_s: float
    ends_at: float


class GraphLibrary:
    """The graphs of a data folder. A graph whose files are damaged is named in `unreadable` and keeps nobody from the others."""

    def __init__(
        self,
        data_dir: Path,
        spelling: Spelling,
        is_merging: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open every graph; ``spelling`` is how names and questions become tokens.

        ``is_merging`` says whether changes are merged by themselves, ``clock`` (seconds) when a merge that failed is tried again.
        """
        self._folder = data_dir / "graphs"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spelling = spelling
        self._lock = threading.Lock()
        self._graphs: dict[str, Graph] = {}
        self.unreadable: dict[str, str] = {}
        for folder in named_folders(self._folder):
            try:
                self._graphs[folder.name] = Graph(folder, spelling)
            except UNUSABLE as error:
                log.error("graph %s cannot be opened: %s", folder.name, error)
                self.unreadable[folder.name] = why_unusable(error, "graph", folder.name)
        self._clock = clock
        self._pauses: WeakKeyDictionary[Graph, _Pause] = WeakKeyDictionary()
        self._closing = threading.Event()
        self._merging = threading.Thread(target=self._merge_when_due, name="graphs", daemon=True)
        if is_merging:
            self._merging.start()

    def names(self) -> list[str]:
        """Return the names of all graphs that can be used, in order."""
        return sorted(self._graphs)

    def get(self, name: str) -> Graph:
        """Return a graph.

        Raises:
            NotFound: there is none of this name.
            NotReady: its files are damaged.
        """
        return find(self._graphs, self.unreadable, name, "graph", "triples")

    def create(self, name: str) -> tuple[Graph, bool]:
        """Return the graph of this name and whether it was made now.

        Raises:
            NotReady: it exists and its files are damaged.
        """
        check_name(name)
        with self._lock:
            if name in self._graphs or name in self.unreadable:
                return self.get(name), False
            graph = self._graphs[name] = Graph.create(self._folder / name, self._spelling)
            return graph, True

    def delete(self, name: str) -> None:
        """Remove a graph with everything in it; questions that run may finish."""
        with self._lock:
            if self.unreadable.pop(name, None) is None:
                self.get(name).retire()
            trash = self._folder / f".deleted-{uuid.uuid4().hex}"
            (self._folder / name).rename(trash)
            graph = self._graphs.pop(name, None)
        if graph is not None:
            graph.close()
        shutil.rmtree(trash)

    def close(self) -> None:
        """Give up a merge that runs, and close every graph."""
        self._closing.set()
        if self._merging.is_alive():
            self._merging.join()
        with self._lock:
            for graph in self._graphs.values():
                graph.close()
            self._graphs.clear()

    def merge_due(self) -> None:
        """Merge the graphs whose changes have grown many, but those that could not be merged a short while ago."""
        for graph in list(self._graphs.values()):
            pause = self._pauses.get(graph)
            if graph.is_merge_due and (pause is None or self._clock() >= pause.ends_at):
                self._merge(graph, FIRST_PAUSE_S if pause is None else min(2 * pause.length_s, MOST_PAUSE_S))

    def _merge_when_due(self) -> None:
        while not self._closing.wait(MERGE_INTERVAL_S):
            self.merge_due()

    def _merge(self, graph: Graph, pause_s: float) -> None:
        """Merge the changes of a graph, or let it rest for ``pause_s`` where that fails."""
        try:
            graph.merge(check=self._check_open)
            self._pauses.pop(graph, None)
            log.info("graph %s: %d triples are in new files", graph.name, len(graph.view))
        except (NotFound, _Closing):
            return
        except Exception:
            self._pauses[graph] = _Pause(pause_s, self._clock() + pause_s)
            log.exception(
                "the changes of graph %s could not be merged; that is tried again in %g s", graph.name, pause_s
            )

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise _Closing
