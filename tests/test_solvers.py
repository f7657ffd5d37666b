"""Exact solves that run ahead on idle cores change nothing but the time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models import solvers
from models.rerank import EXACT, rerank
from models.solvers import Cores
from models.transport import Measure
from test_device import candidates_of, made_table, made_texts


@pytest.mark.parametrize("measure", ["wrd", "wmd"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_more_cores_give_the_same_answer(monkeypatch: pytest.MonkeyPatch, measure: Measure, count: int) -> None:
    """Order, scores, distances and the whole certificate, what was solved included, are those of one thread, every time."""
    monkeypatch.setattr(solvers, "AHEAD_COSTS", 1)
    cores = Cores(count)
    for seed in range(12):
        table = made_table(seed, 200, 24)
        query, texts = made_texts(seed, table, 60, 40)
        known = np.random.default_rng(seed).choice([0.0, 0.1], len(texts))
        asked = (table.vectors[query], candidates_of(table, texts), known, 0.8, 6, measure)
        alone, together = rerank(*asked), rerank(*asked, solving=EXACT._replace(cores=cores))
        assert together.order.tolist() == alone.order.tolist()
        assert together.scores.tolist() == alone.scores.tolist()
        assert together.distances.tolist() == alone.distances.tolist()
        assert together.certificate == alone.certificate
        assert together.opened == alone.opened
    cores.close()


def test_many_searches_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches at the same time get the answers they get alone, and every core is free afterwards."""
    monkeypatch.setattr(solvers, "AHEAD_COSTS", 1)
    cores, problems = Cores(2), []
    for seed in range(24):
        table = made_table(seed, 200, 24)
        query, texts = made_texts(seed, table, 50, 30)
        problems.append((table.vectors[query], candidates_of(table, texts), np.zeros(len(texts)), 1.0, 6, "wmd"))
    alone = [rerank(*problem) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda problem: rerank(*problem, solving=EXACT._replace(cores=cores)), problems))
    for one, other in zip(alone, together, strict=True):
        assert other.order.tolist() == one.order.tolist()
        assert other.distances.tolist() == one.distances.tolist()
        assert other.certificate == one.certificate
    cores.close()
    assert all(cores._free.acquire(blocking=False) for _ in range(2))


def test_only_idle_cores_are_used() -> None:
    """Work is taken while a core is free, counting those that search; it is refused, not queued, where none is."""
    cores, go = Cores(3), threading.Event()
    with cores.searching(), cores.searching():
        first = cores.start(lambda: float(go.wait(60)))
        assert first is not None
        assert cores.start(lambda: 1.0) is None
        with cores.searching():  # a third search runs all the same
            assert cores.start(lambda: 1.0) is None
        go.set()
        assert first.result(60) == 1.0
    given = [cores.start(lambda: 2.0) for _ in range(2)]
    assert [each.result(60) for each in given if each is not None] == [2.0, 2.0]
    cores.close()
    assert cores.start(lambda: 1.0) is None
    assert Cores(1).start(lambda: 1.0) is None


def test_long_problems_only_run_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem shorter than what a thread costs to wake is solved where it is."""
    started: list[int] = []
    cores = Cores(2)
    monkeypatch.setattr(cores, "start", lambda work: started.append(1))
    for longest, is_ahead in ((5, False), (100, True)):
        table = made_table(1, 300, 16)
        query, texts = made_texts(1, table, 30, longest)
        query = np.resize(query, longest)
        rerank(
            table.vectors[query],
            candidates_of(table, texts),
            np.zeros(len(texts)),
            1.0,
            5,
            "wmd",
            solving=EXACT._replace(cores=cores),
        )
        assert bool(started) == is_ahead
    cores.close()
