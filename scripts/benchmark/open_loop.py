"""Open-loop load over HTTP: requests come when they come, whether or not the last was answered, as from a crowd.

Arrivals are a Poisson process. A latency counts from the moment at which the request should have been sent, so that a server
that stands still is not flattered by clients that wait for it. One thread waits on all sockets; an arrival takes a connection
that is free or opens another.
"""

import heapq
import random
import selectors
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

STRAGGLER_S = 15.0
"""Seconds after the last arrival for which answers are waited for."""
FAILED = 0
"""Status of a request that was never answered."""


@dataclass
class Crowd:
    """What a crowd saw."""

    seconds: float  # in which requests arrived
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)  # of those answered with 200
    refusals_ms: list[float] = field(default_factory=list)  # of those answered with 429
    retry_after: int = 0  # refusals that said when to come back
    in_time: int = 0  # answered with 200 while requests still arrived: what the server can sustain

    def summary(self) -> dict[str, float]:
        """Return rates a second, shares and percentiles in milliseconds."""
        offered = sum(self.statuses.values())
        latencies = self.latencies_ms or [float("nan")]
        p50, p99, p999 = np.percentile(latencies, (50, 99, 99.9))
        return {
            "offered_per_s": offered / self.seconds,
            "good_per_s": self.in_time / self.seconds,
            "refused": self.statuses[429] / max(1, offered),
            "refused_with_retry_after": self.retry_after / max(1, self.statuses[429]),
            "failed": (offered - self.statuses[200] - self.statuses[429]) / max(1, offered),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "p999_ms": float(p999),
            "refusal_p99_ms": float(np.percentile(self.refusals_ms or [float("nan")], 99)),
        }


class _Line:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due_at = 0.0
        self.is_leaving = False
        self.received = b""

    def ask(self, request: bytes, due_at: float) -> None:
        self.received = b""
        self.due_at = due_at
        self.socket.sendall(request)

    def answer(self) -> tuple[int, bytes] | None:
        """Read what has come; return status and head when the answer is whole, FAILED when the server hung up."""
        try:
            part = self.socket.recv(1 << 18)
        except OSError:
            part = b""
        if not part:
            return FAILED, b""
        self.received += part
        head, has_end, content = self.received.partition(b"\r\n\r\n")
        if not has_end:
            return None
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        return (int(head[9:12]), head) if len(content) >= length else None


def run_crowd(
    port: int, requests: Sequence[bytes], per_second: float, seconds: float, seed: int = 0, leaving: float = 0.0
) -> Crowd:
    """Let requests arrive at a rate for some seconds; ``leaving`` of them hang up before they are answered."""
    chance = random.Random(seed)
    crowd = Crowd(seconds)
    free: list[_Line] = []
    leavers: list[tuple[float, int, _Line]] = []
    waiting: set[_Line] = set()
    began_at = time.perf_counter()
    due_at, sent = began_at + chance.expovariate(per_second), 0
    with selectors.DefaultSelector() as selector:
        while True:
            now = time.perf_counter()
            while due_at <= now and due_at < began_at + seconds:
                is_leaving = chance.random() < leaving
                try:
                    line = free.pop() if free else _connected(selector, port)
                    line.ask(requests[sent % len(requests)], due_at)
                    waiting.add(line)
                    if is_leaving:
                        heapq.heappush(leavers, (now + chance.random() * 0.02, sent, line))
                        line.is_leaving = True
                except OSError:
                    crowd.statuses[FAILED] += 1
                sent += 1
                due_at += chance.expovariate(per_second)
            while leavers and leavers[0][0] <= now:
                _hang_up(selector, waiting, heapq.heappop(leavers)[2])
            is_over = due_at >= began_at + seconds
            if is_over and (not waiting or now > began_at + seconds + STRAGGLER_S):
                break
            next_s = min(due_at if not is_over else now + 0.1, leavers[0][0] if leavers else now + 0.1) - now
            for key, _ in selector.select(max(0.0, next_s)):
                line = key.data
                found = line.answer()
                if found is not None and line not in waiting:  # the server closed a connection that nobody uses
                    free.remove(line)
                    _hang_up(selector, waiting, line)
                elif found is not None:
                    waiting.discard(line)
                    _count(crowd, line, *found)
                    crowd.in_time += found[0] == 200 and time.perf_counter() < began_at + seconds
                    if found[0] == FAILED or line.is_leaving or b"connection: close" in found[1]:
                        _hang_up(selector, waiting, line)
                    else:
                        free.append(line)
        crowd.statuses[FAILED] += len(waiting)
        for line in [*free, *waiting]:
            line.socket.close()
    return crowd


def _connected(selector: selectors.BaseSelector, port: int) -> _Line:
    line = _Line(port)
    selector.register(line.socket, selectors.EVENT_READ, line)
    return line


def _hang_up(selector: selectors.BaseSelector, waiting: set[_Line], line: _Line) -> None:
    waiting.discard(line)
    if line.socket.fileno() >= 0:
        selector.unregister(line.socket)
        line.socket.close()


def _count(crowd: Crowd, line: _Line, status: int, head: bytes) -> None:
    latency_ms = (time.perf_counter() - line.due_at) * 1e3
    crowd.statuses[status] += 1
    if status == 200:
        crowd.latencies_ms.append(latency_ms)
    elif status == 429:
        crowd.refusals_ms.append(latency_ms)
        crowd.retry_after += b"retry-after:" in head
