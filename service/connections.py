"""How requests come in and answers leave, where uvicorn's HTTP/1.1 is not what callers need.

- An answer's head leaves together with its body: uvicorn writes them in two system calls, and the second finds the caller
  already awake and asleep again. For short answers these are a good part of what an answer costs.
- A head may be `MAX_HEAD_BYTES` long and take as long as an idle connection may last.
- An offer to go on in HTTP/2 without TLS (Java's client makes it, and ``curl --http2``) is passed over, as RFC 9110 allows:
  httptools would stop reading at it, before the body.
- Who is refused while still sending, and wants the connection closed, gets time to read the answer: what closes with unread
  bytes resets the connection, and takes the answer along.
"""

import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = b"HTTP/1.1 "
MAX_HEAD_BYTES = 1 << 16
"""Bytes of a request's line and headers, but for what comes in one piece with their end."""
LINGER_S = 2.0
"""Seconds for which a refused body is read and thrown away."""
_H2C = re.compile(rb"(?im)^upgrade(?=:[ \t]*h2c[ \t]*\r?$)")


class JoinedWrites:
    """A transport that keeps the head of an answer back for what is written next, at most until the loop's next turn."""

    def __init__(self, transport: Any, protocol: "JoiningProtocol") -> None:
        self._transport = transport
        self._protocol = protocol
        self._loop = protocol.loop
        self._kept: bytes | None = None
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, content: bytes) -> None:
        """Write, together with what was kept back; keep what looks like a head."""
        if self._kept is not None:
            head, self._kept = self._kept, None
            self._transport.writelines((head, content))
        elif content.startswith(HEAD):
            self._kept = content
            self._loop.call_soon(self._write_kept)
        else:
            self._transport.write(content)

    def is_closing(self) -> bool:
        """Say whether nothing more may be written."""
        return self._is_closing or bool(self._transport.is_closing())

    def close(self) -> None:
        """Write what was kept back, and close when all is sent; while a body is still coming, read it for a moment."""
        self._write_kept()
        lingers = self._protocol.is_receiving and not self.is_closing()
        self._is_closing = True
        if not lingers:
            self._transport.close()
            return
        self._transport.write_eof()
        self._transport.resume_reading()
        self._loop.call_later(LINGER_S, self._transport.close)

    def _write_kept(self) -> None:
        if self._kept is not None:
            head, self._kept = self._kept, None
            if not self.is_closing():
                self._transport.write(head)


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with bounded heads, over `JoinedWrites`."""

    is_receiving = False
    """Whether the body of a request has not come to its end."""
    _head_bytes = 0
    _is_in_head = True
    _head_timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin to read from a caller."""
        super().connection_made(JoinedWrites(transport, self))  # type: ignore[arg-type]
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the caller is gone."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; a head without end is refused."""
        if self.transport.is_closing():
            return  # of what is refused nothing more is looked at
        if not self._is_in_head and not self.is_receiving:
            self._is_in_head = True
        if self._is_in_head:
            data = without_h2c(data)
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.logger.warning("the head of a request has more than %d bytes", MAX_HEAD_BYTES)
            self.send_400_response(f"The head of the request has more than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        super().on_message_begin()
        self._is_in_head = True
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Hear that the head was read."""
        self._is_in_head, self._head_bytes, self.is_receiving = False, 0, True
        self._end_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Hear that the body was read."""
        self.is_receiving = False
        super().on_message_complete()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def without_h2c(data: bytes) -> bytes:
    """Return bytes that begin within a head with the offer of HTTP/2 renamed, so that nobody reads it."""
    head, end, body = data.partition(b"\r\n\r\n")
    return _H2C.sub(b"x-upgrade", head) + end + body if b"h2c" in head.lower() else data
