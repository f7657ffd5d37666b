"""Who solves the transport problems of a rerank: POT exactly, one by one, or the entropic iteration, many at once.

Exact solves may run ahead: while one problem is solved, idle cores solve those that are next in the order of their bounds. What
runs ahead is used only when its turn comes, so the result and what it counts are those of one thread; at worst a core that was
idle worked in vain. `Cores` is shared by all searches of a process: each takes one for itself, and nobody waits for one.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import transport
from models.candidates import RankedTexts
from models.device_bounds import DeviceFloors
from models.entropic import between
from models.transport import Floats, Measure, Points

AHEAD_COSTS = 1_200  # costs of a problem from which handing it to another thread pays
ROUNDING = 1e-9  # more than float64 can be wrong of a cost, relative to what it is made of
ENTROPIC_BATCH = {"cpu": 32, "cuda": 512}


class Solved(NamedTuple):
    """Distances of some candidates."""

    distances: list[float]  # at least the exact ones; exactly those where the error is 0
    errors: list[float]  # how much less the exact distances may be


class Solver(Protocol):
    """Solves the problems of one query."""

    batch: int  # how many it likes to be given at once
    is_exact: bool
    looks_ahead: bool  # whether it cares who is next

    def solve(self, positions: Sequence[int], next_positions: Sequence[int]) -> Solved:
        """Solve candidates at positions (k,); those at the next ones will probably follow."""
        ...


class Cores:
    """Cores that searches may use beside their own."""

    def __init__(self, count: int) -> None:
        """Count all cores that searches may use together; with 1 nothing runs ahead."""
        self.count = count
        self._free = threading.Semaphore(count)
        self._threads = ThreadPoolExecutor(max(1, count - 1), thread_name_prefix="solve")

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Take the core that the caller's thread runs on, if there is a free one."""
        took = self._free.acquire(blocking=False)
        try:
            yield
        finally:
            if took:
                self._free.release()

    def start(self, work: Callable[[], float]) -> "Future[float] | None":
        """Begin something on a free core; None where there is none."""
        if self.count < 2 or not self._free.acquire(blocking=False):
            return None
        try:
            future = self._threads.submit(work)
        except RuntimeError:  # closed meanwhile
            self._free.release()
            return None
        future.add_done_callback(lambda _: self._free.release())
        return future

    def close(self) -> None:
        """Let what runs finish."""
        self._threads.shutdown()


class ExactSolver:
    """Solves by POT."""

    batch = 1
    is_exact = True

    def __init__(self, query: Points, texts: RankedTexts, measure: Measure, cores: Cores | None = None) -> None:
        self._query, self._texts, self._measure, self._cores = query, texts, measure, cores
        self.looks_ahead = cores is not None and cores.count > 1
        self._same: dict[bytes, float] = {}  # distances of texts by their tokens
        self._ahead: dict[int, Future[float]] = {}

    def solve(self, positions: Sequence[int], next_positions: Sequence[int]) -> Solved:
        """Solve candidates one by one, idle cores the next ones."""
        distances = [self._solve(position, next_positions) for position in positions]
        return Solved(distances, [0.0] * len(distances))

    def _solve(self, position: int, next_positions: Sequence[int]) -> float:
        key = self._key(position)
        distance = self._same.get(key) if key is not None else None
        if distance is not None:
            return distance
        running = self._ahead.pop(position, None)
        if self._cores is not None:
            self._start(next_positions, self._cores)
        if running is not None and not running.cancel():
            distance = running.result()
        else:
            text = self._texts.points(position, self._measure)
            distance = transport.distance_between(self._query, text, self._measure)
        if key is not None:
            self._same[key] = distance
        return distance

    def _key(self, position: int) -> bytes | None:
        """What texts with equal vectors share, where that is known."""
        rows, offsets = self._texts.rows, self._texts.offsets
        return None if rows is None else rows[offsets[position] : offsets[position + 1]].tobytes()

    def _start(self, positions: Sequence[int], cores: Cores) -> None:
        """Let idle cores solve what is long enough for it to pay."""
        for position in positions:
            size = int(self._texts.offsets[position + 1] - self._texts.offsets[position])
            if position in self._ahead or size * len(self._query.masses) < AHEAD_COSTS:
                continue
            if self._key(position) in self._same:
                continue
            text = self._texts.points(position, self._measure)
            started = cores.start(partial(transport.distance_between, self._query, text, self._measure))
            if started is None:
                return
            self._ahead[position] = started


class EntropicSolver:
    """Solves nearly, many at once, with the error of each."""

    is_exact = False
    looks_ahead = False

    def __init__(self, floors: DeviceFloors, measure: Measure) -> None:
        self.batch = ENTROPIC_BATCH[floors.device.type]
        self._floors, self._measure = floors, measure

    def solve(self, positions: Sequence[int], next_positions: Sequence[int]) -> Solved:
        """Solve candidates together."""
        return Solved(*(values.tolist() for values in self.bounds(np.array(positions, np.int64))))

    @torch.inference_mode()
    def bounds(self, positions: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Costs (k,) of plans, and how much less the exact distances may be."""
        worst = transport.WORST[self._measure]
        distances, errors = np.full(len(positions), worst), np.zeros(len(positions))
        for chosen, (highest, error) in self._floors.in_chunks(positions, self._between):
            distances[chosen], errors[chosen] = highest.cpu().numpy(), error.cpu().numpy()
        return distances, errors

    def _between(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The same of one chunk (b,), on the device."""
        worst = transport.WORST[self._measure]
        problems, largest = self._floors.problems(positions)
        found = between(problems)
        has_mass = problems.text_masses.sum(1) > 0.0
        slack = ROUNDING * (found.sizes + largest)
        highest = (found.upper + slack).clamp_max(worst)
        error = (highest - (found.lower - slack).clamp_min(0.0)).clamp_min(0.0)
        return torch.where(has_mass, highest, worst), torch.where(has_mass, error, 0.0)
