"""service/batching.py with several threads: what one of them suffers, the others and the callers do not."""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hooked_forward import HookedForward
from models.encoder import Encoder, Tokenized
from service.admission import Room
from service.batching import EncodeQueue
from service.encoder_thread import EncoderThread
from service.errors import NotReady
from service.lanes import Lanes
from service.metrics import Metrics
from service.submissions import Piece

PATIENCE_S = 30.0


@pytest.fixture(name="forward", scope="module")
def _forward(model_folder: Path) -> HookedForward:
    return HookedForward(model_folder)


@pytest.fixture(name="hooked", scope="module")
def _hooked(model_folder: Path, forward: HookedForward) -> Encoder:
    return Encoder(model_folder, "cpu", forward=forward)


@pytest.fixture(name="queue")
def _queue(hooked: Encoder, forward: HookedForward) -> Iterator[EncodeQueue]:
    queue = EncodeQueue(hooked, 1_024, 1_000, 100_000, max_forward_s=1.0)
    yield queue
    forward.before = lambda _: None
    queue.close()


def text(encoder: Encoder, what: str = "花呗怎么还款") -> list[Tokenized]:
    return encoder.tokenize([what])


def test_a_thread_that_comes_back_does_not_hide_that_too_many_hang(queue: EncodeQueue, forward: HookedForward) -> None:
    """Where too many forwards hang, one that was only long and succeeds later makes nobody believe that all is well."""
    hangs, long, hanging = threading.Event(), threading.Event(), text(queue.encoder, "还")[0].ids

    def before(ids: NDArray[np.int64]) -> None:
        (hangs if ids[0, : len(hanging)].tolist() == hanging else long).wait(PATIENCE_S)

    forward.before = before
    healthy: Future[object] | None = None
    for turn in range(3):
        lost = queue.submit(text(queue.encoder, "还"), "interactive")
        if turn == 2:
            time.sleep(0.5)  # it shall be younger than the one that hangs
            later = queue.submit(text(queue.encoder), "interactive")
            healthy = later.futures[0]
        with pytest.raises(NotReady):
            lost.result(PATIENCE_S)
    assert queue.is_beyond_repair
    long.set()
    assert healthy is not None
    healthy.result(PATIENCE_S)
    with queue._changed:
        assert queue.trouble is not None
        assert queue.last_success is None
    assert not queue.is_alive
    hangs.set()
    give_up_at = time.monotonic() + PATIENCE_S
    while queue.is_beyond_repair or not queue.is_alive:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert len(queue.submit(text(queue.encoder), "interactive").result(PATIENCE_S).sentences) == 1


def test_a_text_is_not_refused_because_another_has_the_memory(queue: EncodeQueue, forward: HookedForward) -> None:
    """Texts that fit into memory one after the other but not together are encoded one after the other."""
    inside, lock = [0], threading.Lock()

    def before(ids: NDArray[np.int64]) -> None:
        with lock:
            inside[0] += ids.size
            is_over = inside[0] > 60
        try:
            time.sleep(0.01)
            if is_over:
                raise MemoryError("not for both")
        finally:
            with lock:
                inside[0] -= ids.size

    forward.before = before
    submitted = [queue.submit(text(queue.encoder, "花" * 38), "bulk") for _ in range(12)]
    assert [submission.outcome(PATIENCE_S).failures for submission in submitted] == [{}] * 12


@pytest.mark.parametrize("is_waiting", [False, True], ids=["after the hung one was given up", "when one hangs"])
def test_a_text_that_must_be_alone_does_not_wait_for_a_forward_that_hangs(
    queue: EncodeQueue, forward: HookedForward, is_waiting: bool
) -> None:
    """A text for which memory suffices only alone is answered, and so are others, though a forward never comes back."""
    hanging, heavy = text(queue.encoder, "还")[0].ids, text(queue.encoder, "花" * 38)[0].ids
    is_inside, never, has_failed = threading.Event(), threading.Event(), threading.Event()

    def before(ids: NDArray[np.int64]) -> None:
        first = ids[0].tolist()
        if first[: len(hanging)] == hanging:
            is_inside.set()
            never.wait(10 * PATIENCE_S)
        elif first[: len(heavy)] == heavy and not has_failed.is_set():
            has_failed.set()
            raise MemoryError("not beside another")

    forward.before = before
    try:
        lost = queue.submit(text(queue.encoder, "还"), "interactive")
        assert is_inside.wait(PATIENCE_S)
        if is_waiting:
            alone = queue.submit(text(queue.encoder, "花" * 38), "interactive")
            assert has_failed.wait(PATIENCE_S)
        with pytest.raises(NotReady):
            lost.result(PATIENCE_S)
        if not is_waiting:
            alone = queue.submit(text(queue.encoder, "花" * 38), "interactive")
        assert len(alone.result(PATIENCE_S).sentences) == 1
        for what in ("花", "花呗", "借"):
            assert len(queue.submit(text(queue.encoder, what), "interactive").result(PATIENCE_S).sentences) == 1
        assert not queue.is_beyond_repair
    finally:
        never.set()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_budget_never_grows(hooked: Encoder, parts: int) -> None:
    """However often memory runs out, the budget falls or stays, and no part is larger than before."""
    hooked.concurrency = parts
    queue = EncodeQueue(hooked, 200, 1_000, 100_000)
    hooked.concurrency = 2
    seen = [queue.budget_tokens]
    for tokens in (200, 64, 48, 16, 8):
        queue.memory_ran_out(tokens)
        seen.append(queue.budget_tokens)
    queue.close()
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == hooked.max_tokens < seen[0]
    assert queue.batch_tokens == hooked.max_tokens // parts


def test_nothing_that_waits_takes_no_time(queue: EncodeQueue) -> None:
    """A submission without texts is no work: the time after it does not count when the wait of others is estimated."""
    queue.submit(text(queue.encoder), "interactive").result(PATIENCE_S)
    before = queue._room.pace.seconds(1_000.0)
    assert len(queue.submit([], "bulk", is_limited=False).result(PATIENCE_S).sentences) == 0
    time.sleep(0.2)
    assert queue._room.pace.seconds(1_000.0) == before


def test_those_who_leave_while_it_is_looked_are_counted_once() -> None:
    """Callers who leave while the queue is searched for such are dropped now or the next time, and never lost from the count."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(20):
            room = Room(10**9, 10**9)
            lanes = Lanes(room, Metrics())
            pieces = [Piece([Tokenized([1] * 4, [(0, 1)] * 4, [0], False)], True, "interactive") for _ in range(1_000)]
            for piece in pieces:
                lanes.add(piece)
            leaving = threading.Thread(target=lambda those=pieces: [one.future.cancel() for one in reversed(those)])
            leaving.start()
            while leaving.is_alive():
                lanes.drop_left()
            lanes.drop_left()
            assert not lanes
            assert room.queued == {"texts": 0, "tokens": 0}
            assert lanes.tokens == 0
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_cannot_be_started_is_started_later(
    queue: EncodeQueue, forward: HookedForward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no thread to give, the watchdog tries again, and whoever waits is answered."""
    refused = []

    def start(thread: EncoderThread) -> None:
        if len(refused) < 2:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        threading.Thread.start(thread)

    monkeypatch.setattr(EncoderThread, "start", start)
    deaths = threading.Semaphore(2)
    forward.before = lambda _: sys.exit() if deaths.acquire(blocking=False) else None
    for _ in range(2):
        queue.submit(text(queue.encoder), "interactive")
    assert len(queue.submit(text(queue.encoder), "interactive").result(PATIENCE_S).sentences) == 1
    give_up_at = time.monotonic() + PATIENCE_S
    while not queue.is_alive:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert len(refused) == 2
