"""Whose turn it is to be encoded, where threads have more searches to do than they can.

Vectors that come long before a thread can search with them bring nobody an answer earlier, and a text that is encoded alone costs
more than one among others. So while a few requests per thread stand ready, those that come after them wait; then many go at once,
and are encoded together.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

READY_PER_THREAD = 8
"""Requests for each thread that are being encoded, ready or searched with when the next are let in."""
MOST_PER_THREAD = 24
"""Requests for each thread that are let in."""


class Turns:
    """Counts requests in and out. The event loop alone asks, so there is no lock."""

    def __init__(self, threads: int) -> None:
        """Keep ``threads`` threads busy."""
        self._ready = READY_PER_THREAD * threads
        self._most = MOST_PER_THREAD * threads
        self._inside = 0
        self._waiting: deque[Future[None]] = deque()

    @contextmanager
    def take(self) -> Iterator[Future[None]]:
        """Stay in line, or inside once the future is done; whoever gives up leaves either."""
        turn: Future[None] = Future()
        if self._inside < self._most and not self._waiting:
            self._let_in(turn)
        else:
            self._waiting.append(turn)
        try:
            yield turn
        finally:
            if not turn.cancel():  # it was inside
                self._inside -= 1
            if self._inside <= self._ready:
                while self._waiting and self._inside < self._most:
                    self._let_in(self._waiting.popleft())

    def _let_in(self, turn: Future[None]) -> None:
        if turn.set_running_or_notify_cancel():
            turn.set_result(None)
            self._inside += 1
