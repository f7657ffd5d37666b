"""Who may come in: a bound on the queries that are worked on or wait at the same time.

Beyond what the machine can answer, more waiting only makes every answer late. Who comes too much is told at once, before any
work is done, when to come back. The event loop alone asks, so there is no lock.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded

LONGEST_RETRY_S = 60


class Gate:
    """Counts queries in and out."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        self._seconds = 0.0  # that a query took lately, waiting included

    @property
    def inside(self) -> int:
        """Queries that are worked on or wait."""
        return self._inside

    @contextmanager
    def enter(self, queries: int) -> Iterator[None]:
        """Stay inside with so many queries. Whoever comes when nobody is inside may bring any number.

        Raises:
            Overloaded: too many are inside.
        """
        if self._inside and self._inside + queries > self._most:
            raise Overloaded(
                f"{self._inside} queries are being answered and {queries} more would pass "
                f"max_concurrent_queries = {self._most}; try again later",
                retry_after_s=min(max(1, math.ceil(self._seconds)), LONGEST_RETRY_S),
                reason="search_queue",
            )
        self._inside += queries
        began_at = time.perf_counter()
        try:
            yield
        finally:
            self._inside -= queries
            self._seconds += 0.2 * (time.perf_counter() - began_at - self._seconds)
