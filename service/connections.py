"""How an answer leaves: its head together with its body.

uvicorn writes the head of an answer and then the body, in two system calls, and the second finds the caller already awake and
asleep again. For short answers these are a good part of what an answer costs.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = b"HTTP/1.1 "


class JoinedWrites:
    """A transport that keeps the head of an answer back for what is written next, at most until the loop's next turn."""

    def __init__(self, transport: Any, loop: Any) -> None:
        self._transport = transport
        self._loop = loop
        self._kept: bytes | None = None

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

    def close(self) -> None:
        """Write what was kept back, and close when all is sent."""
        self._write_kept()
        self._transport.close()

    def _write_kept(self) -> None:
        if self._kept is not None:
            head, self._kept = self._kept, None
            if not self._transport.is_closing():
                self._transport.write(head)


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 over `JoinedWrites`."""

    def connection_made(self, transport: Any) -> None:
        """Begin to read from a caller."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
