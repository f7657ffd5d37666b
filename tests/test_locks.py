"""service/locks.py: readers together, a writer alone, and neither starves."""

import threading

import pytest

from service.locks import ReadersWriterLock

PATIENCE_S = 20.0


def test_readers_hold_the_lock_together() -> None:
    """All readers are inside at once: each waits there for the others."""
    lock, inside = ReadersWriterLock(), threading.Barrier(4)

    def read() -> None:
        with lock.shared():
            inside.wait(PATIENCE_S)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    with lock.shared():
        inside.wait(PATIENCE_S)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not inside.broken


def test_a_writer_is_alone() -> None:
    """Under readers and writers in turn no update is lost and no reader sees half of one."""
    lock = ReadersWriterLock()
    pair = [0, 0]
    unequal: list[tuple[int, ...]] = []

    def write() -> None:
        for _ in range(300):
            with lock.exclusive():
                value = pair[0] + 1
                pair[0] = value
                pair[1] = value

    def read() -> None:
        for _ in range(300):
            with lock.shared():
                seen = tuple(pair)
            if seen[0] != seen[1]:
                unequal.append(seen)

    threads = [threading.Thread(target=work) for work in (write, write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert pair == [600, 600]
    assert not unequal


def test_a_waiting_writer_goes_before_later_readers() -> None:
    """A reader that comes while a writer waits gets in after it; so a stream of readers cannot starve a writer."""
    lock = ReadersWriterLock()
    order: list[str] = []
    is_waiting, is_inside = threading.Event(), threading.Event()

    def write() -> None:
        is_waiting.set()
        with lock.exclusive():
            order.append("writer")

    def read() -> None:
        is_inside.wait(PATIENCE_S)
        with lock.shared():
            order.append("reader")

    writer, reader = threading.Thread(target=write), threading.Thread(target=read)
    with lock.shared():
        writer.start()
        is_waiting.wait(PATIENCE_S)
        while not lock._writers_waiting:  # it is on its way into the lock
            pass
        reader.start()
        is_inside.set()
        order.append("first reader")
    writer.join(PATIENCE_S)
    reader.join(PATIENCE_S)
    assert order == ["first reader", "writer", "reader"]


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_an_error_inside_gives_the_lock_back(kind: str) -> None:
    """Whoever raises inside has left."""
    lock = ReadersWriterLock()

    def fail() -> None:
        with getattr(lock, kind)():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with lock.exclusive():
        pass
    with lock.shared(), lock.shared():
        pass


@pytest.mark.parametrize("held", ["shared", "exclusive"])
def test_a_lock_that_is_given_up_keeps_nobody_waiting(held: str) -> None:
    """Who waits for somebody who never leaves gets in, and so does whoever comes later; all of them can leave."""
    lock = ReadersWriterLock()

    def enter(kind: str) -> None:
        with getattr(lock, kind)():
            pass

    threads = [threading.Thread(target=enter, args=(kind,), daemon=True) for kind in ("exclusive", "shared")]
    with getattr(lock, held)():
        threads[0].start()
        while not lock._writers_waiting:  # it is on its way into the lock
            pass
        threads[1].start()
        lock.give_up()
        for thread in threads:
            thread.join(PATIENCE_S)
        enter("shared")
        enter("exclusive")
    assert not any(thread.is_alive() for thread in threads)
