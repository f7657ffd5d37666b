"""A readers-writer lock: any number of searches at once, or one change.

A waiting writer goes before readers that come after it, so that a stream of searches cannot starve an import.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadersWriterLock:
    """Shared by readers, exclusive for one writer. Not reentrant."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._writers_waiting = 0
        self._is_writing = False
        self._is_given_up = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_given_up or not (self._is_writing or self._writers_waiting))
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                if not self._readers:
                    self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._condition:
            self._writers_waiting += 1
            self._condition.wait_for(lambda: self._is_given_up or not (self._is_writing or self._readers))
            self._writers_waiting -= 1
            self._is_writing = True
        try:
            yield
        finally:
            with self._condition:
                self._is_writing = False
                self._condition.notify_all()

    def give_up(self) -> None:
        """Let everybody in from now on, because whoever holds the lock may never leave: others need another lock."""
        with self._condition:
            self._is_given_up = True
            self._condition.notify_all()
