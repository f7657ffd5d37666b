"""Who may come in: bounds on what is worked on or waits, and on how long whoever comes would wait.

Beyond what the machine can answer, more waiting only makes every answer late. Who comes too much is told at once, before any
work is done, when to come back. How long a backlog takes is not set but seen: by the pace of the last seconds in which there was
work (Little's law: what is inside, divided by what leaves a second, is the wait).
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Overloaded

LONGEST_RETRY_S = 60
HALF_LIFE_S = 5.0
"""Seconds of work after which what was seen counts half."""
ALWAYS_PER_THREAD = 16
"""Queries for each search thread that are let in however slow they are: a few slow ones are no overload."""


class Pace:
    """How much work is done a second while there is any. Calls are not concurrent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done = 0.0
        self._busy_s = 0.0
        self._since: float | None = None  # the time up to which busy time is counted; None where there is no work

    def begin(self) -> None:
        """Say that there is work, if that is new."""
        if self._since is None:
            self._since = self._clock()

    def finish(self, units: float, is_idle: bool) -> None:
        """Count work that is done (0 where it was given up); ``is_idle`` says that there is no more."""
        now = self._clock()
        passed_s = 0.0 if self._since is None else now - self._since
        fading = 0.5 ** (passed_s / HALF_LIFE_S)
        self._done = self._done * fading + units
        self._busy_s = self._busy_s * fading + passed_s
        self._since = None if is_idle else now

    def seconds(self, units: float) -> float:
        """Return how long so much work takes; 0 before any was seen.

        Time that has passed since the last was done counts, so that work that hangs makes the estimate grow.
        """
        running_s = 0.0 if self._since is None else self._clock() - self._since
        return units * (self._busy_s + running_s) / self._done if self._done else 0.0


class Gate:
    """Counts queries in and out. The event loop alone asks, so there is no lock."""

    def __init__(
        self,
        most: int,
        threads: int = 1,
        max_wait_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let in ``most`` queries at a time, and beyond `ALWAYS_PER_THREAD` for each of the threads that work on them
        only those that would begin within ``max_wait_s`` seconds."""
        self._most = most
        self._threads = threads
        self._max_wait_s = max_wait_s
        self._pace = Pace(clock)
        self._inside = 0

    @property
    def inside(self) -> int:
        """Queries that are worked on or wait."""
        return self._inside

    @property
    def wait_s(self) -> float:
        """Seconds until work on a query that comes now would begin, as estimated."""
        return self._pace.seconds(max(0, self._inside + 1 - self._threads))

    def refusal(self, queries: int) -> Overloaded | None:
        """Return why so many queries may not come in now; None where they may."""
        if self._inside and self._inside + queries > self._most:
            return self._full(
                f"{self._inside} queries are being answered and {queries} more would pass "
                f"max_concurrent_queries = {self._most}"
            )
        if self._inside >= ALWAYS_PER_THREAD * self._threads and self.wait_s > self._max_wait_s:
            return self._full(
                f"a query would wait {self.wait_s:.1f} s, longer than max_wait_ms = {self._max_wait_s * 1e3:g}"
            )
        return None

    @contextmanager
    def enter(self, queries: int) -> Iterator[None]:
        """Stay inside with so many queries. Whoever comes when nobody is inside may bring any number.

        Raises:
            Overloaded: too many are inside, or they take too long.
        """
        refusal = self.refusal(queries)
        if refusal is not None:
            raise refusal
        self._pace.begin()
        self._inside += queries
        answered = 0
        try:
            yield
            answered = queries
        finally:
            self._inside -= queries
            self._pace.finish(answered, not self._inside)

    def _full(self, why: str) -> Overloaded:
        return Overloaded(f"{why}; try again later", retry_after_s=retry_after_s(self.wait_s), reason="search_queue")


class Room:
    """Room for texts before the encoder: bounded in texts, in tokens, and in the time that these take.

    The queue asks, under its own lock.
    """

    def __init__(
        self,
        max_texts: int,
        max_tokens: int,
        max_wait_s: float = math.inf,
        always_tokens: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bound what waits; up to ``always_tokens`` of it are let in however long they take."""
        self._max = {"texts": max_texts, "tokens": max_tokens}
        self._max_wait_s = max_wait_s
        self._always_tokens = always_tokens
        self.pace = Pace(clock)
        self.queued = {"texts": 0, "tokens": 0}
        """What waits of those who are bounded."""

    def check(self, texts: int, tokens: int, ahead: float) -> None:
        """Let texts in that come after ``ahead`` tokens. Where nothing waits, any number may come.

        Raises:
            Overloaded: there is no room for them, or they would wait too long.
        """
        for unit, more in (("texts", texts), ("tokens", tokens)):
            if self.queued["texts"] and self.queued[unit] + more > self._max[unit]:
                raise Overloaded(
                    f"{self.queued[unit]} {unit} are waiting and {more} more would pass "
                    f"max_queued_{unit} = {self._max[unit]}; try again later",
                    retry_after_s=retry_after_s(self.pace.seconds(self.queued["tokens"])),
                    reason=f"queue_{unit}",
                )
        wait_s = self.pace.seconds(ahead)
        if ahead > self._always_tokens and wait_s > self._max_wait_s:
            raise Overloaded(
                f"a text would wait {wait_s:.1f} s, longer than max_queue_wait_ms = {self._max_wait_s * 1e3:g}; try again later",
                retry_after_s=retry_after_s(wait_s),
                reason="queue_wait",
            )


def retry_after_s(wait_s: float) -> int:
    """Return when to come back after a wait: whole seconds, at least one and at most `LONGEST_RETRY_S`."""
    return min(max(1, math.ceil(wait_s)), LONGEST_RETRY_S)
