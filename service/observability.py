"""What everybody may know about a request afterwards: one JSON line, metrics, spans; never what it said.

`Observed` stands around the whole application. A route says what only it knows by `note` (how many texts, what was solved) and
where the time went by the header ``Server-Timing``; everything else is seen from here.
"""

import logging
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.errors import DiskFull, Overloaded, ServiceError
from service.log_lines import request_id
from service.metrics import Metrics
from service.store_errors import is_disk_full
from service.tracing import Tracer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = Callable[[ServiceError, Scope, Receive, Send], Awaitable[None]]

QUIET = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Routes that are asked every few seconds: logged only where the service made a mistake or was slow."""
UNROUTED = "(none)"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_STAGE = re.compile(r"([a-z_]+);dur=([0-9.]+)")
_NOTES = "moverank.notes"
_EVERYWHERE = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
# The reference of the API has inline scripts and styles; all its files come from here.
_DOCS_POLICY = (
    b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_DOCS = (*_EVERYWHERE, (b"content-security-policy", _DOCS_POLICY))
_ANSWERS = (*_EVERYWHERE, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))

log = logging.getLogger("moverank.requests")
faults = logging.getLogger(__name__)


def note(scope: Scope, **facts: int | float | str | bool) -> None:
    """Tell the log line of a request something; numbers of the same name add up. Never text that somebody sent."""
    notes: dict[str, Any] = scope.setdefault(_NOTES, {})
    for name, fact in facts.items():
        is_sum = name in notes and not isinstance(fact, str | bool)
        notes[name] = notes[name] + fact if is_sum else fact


class Observed:
    """The application with request ids, one log line, metrics and spans for each request, and safe headers on each answer."""

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        tracer: Tracer,
        answer: Answer,
        slow_request_ms: int,
        max_requests: int,
        refusal: Callable[[Scope], ServiceError | None] = lambda _: None,
    ) -> None:
        """Stand around an application; ``refusal`` says which requests need not even be read."""
        self._app = app
        self._metrics = metrics
        self._tracer = tracer
        self._answer = answer
        self._slow_request_ms = slow_request_ms
        self._max_requests = max_requests
        self._refusal = refusal
        self._in_flight = 0
        metrics.in_flight.set_function(lambda: self._in_flight)
        self._refused = 0  # at the door, since that was said last
        self._refused_said_at = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and say afterwards what became of it; a fault is answered with status 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"] if name in (b"x-request-id", b"traceparent")}
        id = _given_id(headers.get(b"x-request-id", b"")) or f"{random.getrandbits(128):032x}"
        seen = _Seen(scope, receive, send, id)
        token = request_id.set(id)
        self._in_flight += 1
        try:
            with self._tracer.request(headers.get(b"traceparent")) as span:
                await self._pass_on(scope, seen)
                self._conclude(scope, seen, span)
        finally:
            self._in_flight -= 1
            request_id.reset(token)

    async def _pass_on(self, scope: Scope, seen: "_Seen") -> None:
        try:
            refusal = self._refusal_of(scope)
            if refusal is not None:
                seen.is_refused = True
                await self._answer(refusal, scope, seen.receive, seen.send)
            else:
                await self._app(scope, seen.receive, seen.send)
        except Exception as error:
            if is_disk_full(error) and seen.status is None:
                faults.error("a request failed: the disk of the data folder is full")
                sentence = "the disk of the service's data folder is full: nothing was written; make room and try again"
                await self._answer(DiskFull(sentence), scope, seen.receive, seen.send)
                return
            faults.error("a request failed by a fault of the service", exc_info=error)
            if seen.status is None:
                sentence = "the service made a mistake; its log has the details under this answer's X-Request-ID"
                await self._answer(ServiceError(sentence), scope, seen.receive, seen.send)

    def _refusal_of(self, scope: Scope) -> ServiceError | None:
        """Return why a request is refused before it is read; None for those that come in."""
        if scope["path"] in QUIET:
            return None
        if self._in_flight > self._max_requests:
            sentence = f"{self._max_requests} requests (max_requests) are being answered; try again later"
            return Overloaded(sentence, retry_after_s=1, reason="requests")
        return self._refusal(scope)

    def _say_refused(self) -> None:
        """Log how many were refused, once a second: under overload a line for each would cost those who are answered."""
        self._refused += 1
        now = time.monotonic()
        if now - self._refused_said_at >= 1.0:
            log.info("refused at the door", extra={"refused": self._refused})
            self._refused, self._refused_said_at = 0, now

    def _conclude(self, scope: Scope, seen: "_Seen", span: Any) -> None:
        route = getattr(scope.get("route"), "path_format", UNROUTED)
        method = scope["method"] if scope["method"] in METHODS else "other"
        status = 499 if seen.status is None else seen.status
        seconds = time.perf_counter() - seen.began_at
        stages = {stage: float(ms) for stage, ms in _STAGE.findall(seen.timing)}
        total_ms = stages.pop("total", None)
        notes: dict[str, Any] = scope.get(_NOTES, {})
        self._metrics.request(route, method, status, seconds, stages)
        if notes:
            self._metrics.solved.inc(notes.get("solved", 0))
            self._metrics.pruned.inc(notes.get("pruned", 0))
        self._tracer.conclude(span, f"{method} {route}", status, stages, total_ms, seconds)
        if seen.is_refused:
            self._say_refused()
            return
        is_slow = seconds * 1e3 > self._slow_request_ms and "stream" not in notes
        if scope["path"] in QUIET and status != 500 and not is_slow:
            return
        level = logging.ERROR if status == 500 else logging.WARNING if is_slow else logging.INFO
        line = {
            "request": seen.id,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1e3, 3),
            **{f"{stage}_ms": ms for stage, ms in stages.items()},
            "received_bytes": seen.received_bytes,
            "sent_bytes": seen.sent_bytes,
            **notes,
        }
        log.log(level, "slow request" if is_slow else "request", extra=line)


class _Seen:
    """The two ways between server and application, and what went along them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        self.id = id
        self.status: int | None = None
        self.is_refused = False
        self.timing = ""
        self.received_bytes = 0
        self.sent_bytes = 0
        self.began_at = time.perf_counter()
        self._scope = scope
        self._receive = receive
        self._send = send

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self.received_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given: list[tuple[bytes, bytes]] = list(message.get("headers", []))
            named = {name.lower(): value for name, value in given}
            self.timing = named.get(b"server-timing", b"").decode("latin-1")
            ours = ((b"x-request-id", self.id.encode()), *_headers_of(self._scope["path"]))
            message = {**message, "headers": [*given, *(pair for pair in ours if pair[0] not in named)]}
        self.sent_bytes += len(message.get("body", b""))
        await self._send(message)


def _headers_of(path: str) -> tuple[tuple[bytes, bytes], ...]:
    return _DOCS if path.startswith("/docs") else _ANSWERS


def _given_id(header: bytes) -> str | None:
    """Return a caller's own request id if it can stand in a log and a header as it is."""
    id = header.decode("latin-1")
    return id if _ID.fullmatch(id) else None
