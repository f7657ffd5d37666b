"""service/connections.py: answers leave in one piece, and what is not ready yet waits for nothing else."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from live_service import address_of, free_port, until
from service.connections import MAX_HEAD_BYTES, JoiningProtocol
from service.settings import Settings

LONG = "长" * 1_000_000


async def short(request: Request) -> Response:
    """Answer with what was sent."""
    return PlainTextResponse(await request.body())


async def long(_: Request) -> Response:
    """Answer with more than a socket takes at once."""
    return PlainTextResponse(LONG)


@pytest.fixture(name="connection")
def _connection() -> Iterator[tuple[socket.socket, threading.Event]]:
    """A connection to a small application, and the event for which its stream waits."""
    may_go_on = threading.Event()

    async def parts(_: Request) -> Response:
        async def stream() -> Any:
            while not may_go_on.is_set():
                await asyncio.sleep(0.01)
            yield b"one"
            yield b"HTTP/1.1 two"  # looks like a head, and is none

        return StreamingResponse(stream())

    routes = [Route("/short", short, methods=["POST"]), Route("/long", long), Route("/parts", parts)]
    config = uvicorn.Config(Starlette(routes=routes), port=free_port(), http=JoiningProtocol, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    with socket.create_connection(("127.0.0.1", config.port), timeout=60) as connected:
        yield connected, may_go_on
    may_go_on.set()
    server.should_exit = True
    thread.join()


def test_a_short_answer_comes_in_one_piece(connection: tuple[socket.socket, threading.Event]) -> None:
    """Head and body are there with the first read, request after request, also where several were sent at once."""
    asked = b"POST /short HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    for _ in range(20):
        connection[0].sendall(asked)
        head, _, body = connection[0].recv(1 << 16).partition(b"\r\n\r\n")
        assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"hello")
    connection[0].sendall(asked * 3)
    assert read_until(connection[0], b"hello", 3).count(b"HTTP/1.1 200 OK\r\n") == 3


def test_a_head_is_not_kept_from_those_who_wait_for_a_stream(
    connection: tuple[socket.socket, threading.Event],
) -> None:
    """The head of a stream arrives before there is anything in it; its parts arrive as they are."""
    connection[0].sendall(b"GET /parts HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection[0].recv(1 << 16).endswith(b"\r\n\r\n")
    connection[1].set()
    assert read_until(connection[0], b"0\r\n\r\n") == b"3\r\none\r\nc\r\nHTTP/1.1 two\r\n0\r\n\r\n"


def test_what_ends_with_its_head_or_its_connection_is_whole(connection: tuple[socket.socket, threading.Event]) -> None:
    """Answers without a body, long ones, interim ones, and the last of a connection lose nothing."""
    client = connection[0]
    client.sendall(b"HEAD /long HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.recv(1 << 16).endswith(b"\r\n\r\n")
    client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    assert read_until(client, LONG[-1].encode(), len(LONG)).partition(b"\r\n\r\n")[2].decode() == LONG
    client.sendall(b"POST /short HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    assert read_until(client, b"hello").startswith(b"HTTP/1.1 200 OK\r\n")
    client.sendall(b"POST /short HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbye")
    assert read_until(client, b"bye").startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.recv(1 << 16) == b""


def test_an_offer_of_http2_is_passed_over(connection: tuple[socket.socket, threading.Event]) -> None:
    """Java's client and `curl --http2` offer to go on in HTTP/2; their body is read all the same, and so is what follows."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n"
    for upgrade in (offer, offer.lower(), offer.replace(b"Upgrade: h2c", b"UPGRADE:\tH2C ")):
        connection[0].sendall(
            b"POST /short HTTP/1.1\r\nHost: a\r\n" + upgrade + b"Content-Length: 14\r\n\r\n\nupgrade: h2c\r"
        )
        assert read_until(connection[0], b"\nupgrade: h2c\r").startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_head_without_end_is_refused(connection: tuple[socket.socket, threading.Event]) -> None:
    """Whether it is one header or many; a long body is no head, nor is the next request's."""
    client = connection[0]
    long = b"x" * (4 * MAX_HEAD_BYTES)
    for _ in range(2):
        client.sendall(b"POST /short HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(long) + long)
        assert read_until(client, long).startswith(b"HTTP/1.1 200 OK\r\n")
    with suppress(OSError):  # it is not read to its end
        client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\nX-Long: ")
        for _ in range(64):
            client.sendall(long)
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_nobody_waits_for_ever_for_a_head(
    connection: tuple[socket.socket, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that says nothing, or half a head, is closed; one that waits for an answer is not."""
    made = JoiningProtocol.connection_made

    def made_impatient(self: JoiningProtocol, transport: Any) -> None:
        self.timeout_keep_alive = 0.2  # type: ignore[assignment]
        made(self, transport)

    monkeypatch.setattr(JoiningProtocol, "connection_made", made_impatient)
    address = connection[0].getpeername()
    connection[0].sendall(b"GET /parts HTTP/1.1\r\nHost: a\r\n\r\n")
    for said in (b"", b"GET /long HTTP/1.1\r\nHost"):
        with socket.create_connection(address, timeout=60) as other:
            other.sendall(said)
            assert other.recv(1 << 16) == b""
    connection[1].set()
    assert read_until(connection[0], b"0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_refusal_is_read_by_who_is_still_sending(settings: Settings) -> None:
    """A body beyond the limit, on a connection that closes after its answer: the answer arrives, and says why."""
    with address_of(settings.model_copy(update={"max_body_bytes": 1_000})) as url:
        address = "127.0.0.1", int(url.rpartition(":")[2])
        for path, status in (("/v1/embeddings", b"413"), ("/nope", b"404")):
            with socket.create_connection(address, timeout=60) as caller:
                head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
                caller.sendall(head.encode() + b"Content-Length: 8000000\r\n\r\n")
                for _ in range(8):
                    caller.sendall(b" " * 1_000_000)
                assert caller.recv(1 << 16).startswith(b"HTTP/1.1 " + status)


def test_a_body_that_ends_early_or_never_comes_is_no_fault(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who hangs up while sending counts as one who left (499), who stops sending is told so (408); neither is an error."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("service.routes.calls.MOST_PAUSE_S", 0.3)
    monkeypatch.setattr("service.routes.direct.MOST_PAUSE_S", 0.3)
    with address_of(settings) as url:
        address = "127.0.0.1", int(url.rpartition(":")[2])
        for path in ("/v1/embeddings", "/v1/rerank"):
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
            with socket.create_connection(address, timeout=60) as caller:
                caller.sendall(head.encode() + b'{"in')
            with socket.create_connection(address, timeout=60) as caller:
                caller.sendall(head.encode() + b'{"in')
                assert caller.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
            with socket.create_connection(address, timeout=60) as caller:
                caller.sendall(head.encode())
                assert caller.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
        statuses = ("status", 499), ("status", 408)
        until(lambda: [sum(vars(each).get(name) == is_ for each in caplog.records) for name, is_ in statuses] == [2, 4])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_caller_who_leaves_is_noticed(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """A request whose caller hangs up while it waits ends with 499 in the log, and nobody else notices."""
    caplog.set_level(logging.INFO, "moverank.requests")
    body = json.dumps({"input": ["花呗怎么还款" * 20] * 2_000, "model": "-"}).encode()
    with address_of(settings) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as caller:
            headers = f"Host: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            caller.sendall(b"POST /v1/embeddings HTTP/1.1\r\n" + headers.encode() + body)
        until(lambda: any(vars(record).get("status") == 499 for record in caplog.records))


def read_until(client: socket.socket, ending: bytes, count: int = 1) -> bytes:
    """Read until something came so many times, the last of it at the end."""
    received = b""
    while not (received.endswith(ending) and received.count(ending) >= count):
        part = client.recv(1 << 20)
        assert part, received[-200:]
        received += part
    return received
