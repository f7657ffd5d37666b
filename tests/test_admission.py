"""service/admission.py: who may come in, and what those are told who may not."""

import heapq
import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission import ALWAYS_PER_THREAD, HALF_LIFE_S, Gate, Pace, Room
from service.errors import Overloaded


class Clock:
    """Time that passes when told so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(most=st.integers(1, 20), comers=st.lists(st.integers(1, 30), max_size=20))
def test_no_more_than_the_limit_are_inside_unless_one_came_alone(most: int, comers: list[int]) -> None:
    """Queries are let in while there is room; one request of any size when nobody is inside; everybody leaves at the end."""
    gate, entered = Gate(most), []
    for queries in comers:
        room = gate.enter(queries)
        before = gate.inside
        if before and before + queries > most:
            with pytest.raises(Overloaded, match=f"max_concurrent_queries = {most}") as caught:
                room.__enter__()
            assert 1 <= (caught.value.retry_after_s or 0) <= 60
            assert gate.inside == before
        else:
            room.__enter__()
            entered.append(room)
            assert gate.inside == before + queries
    for room in entered:
        room.__exit__(None, None, None)
    assert gate.inside == 0


def test_who_fails_inside_leaves_too() -> None:
    """An error inside makes room like an answer."""
    gate = Gate(1)
    with pytest.raises(KeyError), gate.enter(1):
        raise KeyError
    with gate.enter(1):
        assert gate.inside == 1


@given(
    each_s=st.floats(0.001, 10.0),
    pauses=st.lists(st.tuples(st.integers(1, 5), st.floats(0.0, 100.0)), min_size=1, max_size=20),
    units=st.integers(0, 1_000),
)
def test_the_pace_is_that_of_the_work_whatever_the_pauses(
    each_s: float, pauses: list[tuple[int, float]], units: int
) -> None:
    """Work that takes the same time each is expected to go on so, however long nothing was asked for in between."""
    clock = Clock()
    pace = Pace(clock)
    assert pace.seconds(units) == 0.0
    for done, pause_s in pauses:
        clock.now += pause_s
        pace.begin()
        for left in reversed(range(done)):
            clock.now += each_s
            pace.finish(1, left == 0)
    assert pace.seconds(units) == pytest.approx(units * each_s, rel=1e-6)


def test_the_pace_follows_and_sees_what_hangs() -> None:
    """A new speed is believed after a few half-lives; while work hangs the estimate grows; work given up counts as none."""
    clock = Clock()
    pace = Pace(clock)
    for each_s, count in ((0.1, 1_000), (1.0, round(10 * HALF_LIFE_S))):
        for _ in range(count):
            pace.begin()
            clock.now += each_s
            pace.finish(1, True)
    assert pace.seconds(1) == pytest.approx(1.0, rel=0.02)
    pace.begin()
    before = pace.seconds(1)
    clock.now += 20.0
    assert pace.seconds(1) > 3 * before
    pace.finish(0, True)
    assert pace.seconds(1) > 3 * before


@given(
    threads=st.integers(1, 4),
    service_s=st.floats(0.002, 2.0),
    overload=st.floats(1.1, 6.0),
    max_wait_s=st.floats(0.05, 3.0),
)
def test_under_overload_nobody_waits_longer_than_allowed_and_nobody_who_works_idles(
    threads: int, service_s: float, overload: float, max_wait_s: float
) -> None:
    """Queries come faster than they can be answered: those let in begin in time, the others are told how long the queue is,
    and as many are answered as could be answered at all."""
    clock = Clock()
    gate = Gate(10**6, threads, max_wait_s, clock)
    waiting: deque[tuple[float, AbstractContextManager[None]]] = deque()
    running: list[tuple[float, int, AbstractContextManager[None]]] = []
    waits: list[float] = []
    refusals: list[tuple[int, int]] = []
    answered = 0
    until_s = 200 * service_s + 3 * max_wait_s
    gap_s = service_s / threads / overload
    arrivals = math.floor(until_s / gap_s)
    for number in range(arrivals):
        arrived_at = number * gap_s
        while running and running[0][0] <= arrived_at:
            clock.now, _, room = heapq.heappop(running)
            room.__exit__(None, None, None)
            answered += 1
            _begin(waiting, running, threads, service_s, clock, waits, number)
        clock.now = arrived_at
        room = gate.enter(1)
        try:
            room.__enter__()
        except Overloaded as error:
            refusals.append((error.retry_after_s or 0, len(running)))
            continue
        waiting.append((arrived_at, room))
        _begin(waiting, running, threads, service_s, clock, waits, number)
    allowed_s = max(max_wait_s, (ALWAYS_PER_THREAD + 1) * service_s)
    assert max(waits) <= allowed_s + service_s + 1e-6
    assert answered >= threads * (math.floor(until_s / service_s) - 1) - threads
    assert all(retry_s >= min(math.floor(max_wait_s), 60) and busy == threads for retry_s, busy in refusals)
    assert len(refusals) + answered + len(waiting) + len(running) == arrivals


def _begin(
    waiting: deque[tuple[float, AbstractContextManager[None]]],
    running: list[tuple[float, int, AbstractContextManager[None]]],
    threads: int,
    service_s: float,
    clock: Clock,
    waits: list[float],
    number: int,
) -> None:
    """Let the first in the queue begin while a thread is free."""
    while waiting and len(running) < threads:
        arrived_at, room = waiting.popleft()
        waits.append(clock.now - arrived_at)
        heapq.heappush(running, (clock.now + service_s, id(room), room))


def test_a_few_slow_queries_are_no_overload() -> None:
    """However slow they are, some queries for each thread may wait; the next one is told how long."""
    clock = Clock()
    gate = Gate(10**6, 2, 0.5, clock)
    with gate.enter(1):
        clock.now += 10.0
    rooms = [gate.enter(1) for _ in range(2 * ALWAYS_PER_THREAD)]
    for room in rooms:
        room.__enter__()
    with pytest.raises(Overloaded, match=r"would wait 310\.0 s, longer than max_wait_ms = 500") as caught:
        gate.enter(1).__enter__()
    assert caught.value.retry_after_s == 60
    for room in rooms:
        room.__exit__(None, None, None)


@given(
    done=st.tuples(st.integers(1, 100_000), st.floats(0.01, 20.0)),
    ahead=st.integers(0, 100_000),
    max_wait_s=st.floats(0.1, 10.0),
    always=st.integers(0, 1_000),
)
def test_texts_wait_no_longer_than_allowed(done: tuple[int, float], ahead: int, max_wait_s: float, always: int) -> None:
    """A text is let in if what is ahead of it takes no longer than allowed at the pace seen, or is no more than always fits."""
    clock = Clock()
    room = Room(10, 10**6, max_wait_s, always, clock)
    tokens, seconds = done
    room.pace.begin()
    clock.now += seconds
    room.pace.finish(tokens, True)
    wait_s = ahead * seconds / tokens
    check: Callable[[], None] = lambda: room.check(1, 1, ahead)  # noqa: E731
    if ahead > always and wait_s > max_wait_s * (1 + 1e-9):
        with pytest.raises(Overloaded, match="longer than max_queue_wait_ms") as caught:
            check()
        assert caught.value.retry_after_s == min(max(1, math.ceil(wait_s)), 60)
        assert caught.value.reason == "queue_wait"
    elif ahead <= always or wait_s < max_wait_s * (1 - 1e-9):
        check()
