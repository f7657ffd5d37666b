"""Closed-loop load over HTTP: each of n clients keeps one connection open and asks again as soon as it is answered.

The clients share the machine with whom they measure, so they are as light as Python allows: one thread waits on all sockets
(`selectors`), requests are bytes made beforehand, answers are only counted, not parsed. `Load.client_s` says how much
processor time that took; about 40 microseconds a request.
"""

import http.client
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import orjson

ANSWER_TIMEOUT_S = 120.0
"""Seconds without any answer after which a measurement is given up."""


@dataclass(frozen=True)
class Load:
    """What a number of closed-loop clients saw."""

    latencies_ms: list[float]
    elapsed_s: float
    client_s: float = 0.0  # processor time of the clients themselves

    @classmethod
    def together(cls, loads: "Sequence[Load]") -> "Load":
        """Join rounds of the same measurement."""
        return cls(
            [latency for load in loads for latency in load.latencies_ms],
            sum(load.elapsed_s for load in loads),
            sum(load.client_s for load in loads),
        )

    @property
    def per_second(self) -> float:
        """Queries a second."""
        return len(self.latencies_ms) / self.elapsed_s

    def summary(self) -> dict[str, float]:
        """Return queries a second, p50 and p99 in milliseconds, and how many there were."""
        p50, p99 = np.percentile(self.latencies_ms, (50, 99))
        return {
            "per_second": round(self.per_second, 2),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "count": len(self.latencies_ms),
            "client_share": round(self.client_s / self.elapsed_s, 3),
        }


def request_bytes(path: str, body: dict[str, Any]) -> bytes:
    """Make a POST request that keeps its connection open."""
    content = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class _Client:
    """One connection that waits for one answer at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._asked_at = 0.0

    def ask(self, request: bytes) -> None:
        self._received = b""
        self._asked_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> float | None:
        """Read what has come; return the latency in milliseconds when the answer is whole.

        Raises:
            RuntimeError: the answer is no success, or the server hung up.
        """
        part = self.socket.recv(1 << 18)
        if not part:
            raise RuntimeError("the server closed the connection")
        self._received += part
        head, _, content = self._received.partition(b"\r\n\r\n")
        if not _:
            return None
        if b" 200 " not in head[:16]:
            raise RuntimeError(f"the server answered {self._received[:500]!r}")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return None if len(content) < length else (time.perf_counter() - self._asked_at) * 1e3


def run_clients(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let `clients` ask the requests in turn, over and over, for some seconds; what is asked by then is waited for."""
    waiting: Iterator[bytes] = cycle(requests)
    latencies_ms: list[float] = []
    with selectors.DefaultSelector() as selector:
        connected = [_Client(port) for _ in range(clients)]
        for client in connected:
            selector.register(client.socket, selectors.EVENT_READ, client)
        began_at, began_cpu = time.perf_counter(), time.process_time()
        for client in connected:
            client.ask(next(waiting))
        open_requests = clients
        while open_requests:
            ready = selector.select(ANSWER_TIMEOUT_S)
            if not ready:
                raise RuntimeError(f"no answer for {ANSWER_TIMEOUT_S:g} s")
            for key, _ in ready:
                latency_ms = key.data.receive()
                if latency_ms is None:
                    continue
                latencies_ms.append(latency_ms)
                if time.perf_counter() - began_at < seconds:
                    key.data.ask(next(waiting))
                else:
                    open_requests -= 1
        load = Load(latencies_ms, time.perf_counter() - began_at, time.process_time() - began_cpu)
        for client in connected:
            client.socket.close()
    return load


class Json:
    """A plain JSON client of a server on this machine, for everything that is not load."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
        """Send a body (bytes as they are, else as JSON) and return status and parsed answer; OSError where nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            content = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
            connection.request(method, path, content, {"Content-Type": content_type})
            answer = connection.getresponse()
            received = answer.read()
            return answer.status, orjson.loads(received) if received else None
        finally:
            connection.close()

    def expect(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """Return the answer of a call that must succeed; RuntimeError otherwise."""
        status, answer = self.call(method, path, body, content_type)
        if status >= 300:
            raise RuntimeError(f"{method} {path} answered {status}: {answer}")
        return answer
