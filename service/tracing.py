"""Traces by OpenTelemetry: a span for each request, with its stages inside. The extra ``otel`` brings the library.

Without it, or without ``otlp_endpoint``, nothing is recorded and nothing leaves the machine.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from service.version import VERSION

SEND_TIMEOUT_S = 1.0
"""What a collector that does not answer may cost, at the end of the process too."""
_NO_SPAN = nullcontext()
MISSING = 'otlp_endpoint is set, but OpenTelemetry is not installed: pip install "moverank[otel]"'


class Tracer:
    """Records nothing."""

    def request(self, parent: bytes | None) -> AbstractContextManager[Any]:
        """Return the span of a request, to be inside; ``parent`` is its header ``traceparent``."""
        return _NO_SPAN

    def conclude(
        self,
        span: Any,
        name: str,
        status: int,
        stages: Mapping[str, float],
        total_ms: float | None,
        seconds: float,
    ) -> None:
        """Say what the request was and where its time went; stages in milliseconds, one after the other."""

    def close(self) -> None:
        """Send what is left."""


class SpanTracer(Tracer):
    """Records spans with a tracer provider."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry import propagate, trace

        self._provider = provider
        self._tracer = provider.get_tracer("moverank", VERSION)
        self._trace = trace
        self._extract = propagate.extract

    @contextmanager
    def request(self, parent: bytes | None) -> Iterator[Any]:
        """Yield the span of a request, a child of the caller's own span where it names one."""
        carrier = {} if parent is None else {"traceparent": parent.decode("latin-1")}
        kind = self._trace.SpanKind.SERVER
        with self._tracer.start_as_current_span("request", self._extract(carrier), kind) as span:
            yield span

    def conclude(
        self,
        span: Any,
        name: str,
        status: int,
        stages: Mapping[str, float],
        total_ms: float | None,
        seconds: float,
    ) -> None:
        """Name the span and lay its stages into it: they end when the route's own time ended."""
        method, _, route = name.partition(" ")
        span.update_name(name)
        span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        now = time.time_ns()
        at = now - int((total_ms if total_ms is not None else seconds * 1e3) * 1e6)
        inside = self._trace.set_span_in_context(span)
        for stage, ms in stages.items():
            child = self._tracer.start_span(stage, inside, start_time=at)
            at += int(ms * 1e6)
            child.end(at)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def tracer_to(endpoint: str) -> Tracer:
    """Return a tracer that sends spans to an OTLP endpoint over HTTP, or none if the endpoint is empty.

    Raises:
        ValueError: the extra ``otel`` is not installed.
    """
    if not endpoint:
        return Tracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ValueError(MISSING) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "moverank", "service.version": VERSION}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=SEND_TIMEOUT_S)))
    return SpanTracer(provider)
