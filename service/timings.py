"""Where the time of a request goes, and when it is over."""

import time

from models.deadline import Deadline

__all__ = ["Deadline", "Timings", "deadline_in"]


def deadline_in(milliseconds: float) -> Deadline:
    """Return the deadline of work that begins now."""
    return Deadline(time.monotonic() + milliseconds / 1e3)


class Timings:
    """Milliseconds spent in each stage of a request."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now

    def lap_waiting(self) -> None:
        """Add the time since the last lap to ``queue``, which is for a thread this time."""
        if "queue" in self.stages:
            self.lap("queue")

    def lap_encoding(self, waited_s: float) -> None:
        """Add the time since the last lap to ``queue``, as far as it was waiting, and to ``encode``."""
        self.lap("encode")
        queue = min(waited_s * 1e3, self.stages["encode"])
        self.stages = {"queue": queue, "encode": self.stages["encode"] - queue}

    def total(self) -> dict[str, float]:
        """Return all stages and their total, rounded to microseconds."""
        total = (time.perf_counter() - self._start) * 1e3
        return {stage: round(ms, 3) for stage, ms in (*self.stages.items(), ("total", total))}
