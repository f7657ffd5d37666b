"""service/tracing.py: a span for each request with its stages inside, in the trace of whoever called."""

import sys
from itertools import pairwise

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from live_service import until
from service.app import create_app
from service.settings import Settings
from service.tracing import SpanTracer, Tracer, tracer_to


def test_a_search_is_a_span_with_its_stages_in_the_callers_trace(settings: Settings) -> None:
    """The request's span continues the caller's trace, has route and status, and its stages lie inside, one after the other."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    with TestClient(create_app(settings, SpanTracer(provider))) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        client.post("/v1/collections/faq/documents", json={"documents": [{"text": "花呗怎么还款"}]})
        exporter.clear()
        headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
        answer = client.post("/v1/collections/faq/search", json={"query": "还款"}, headers=headers)
        spans = exporter.get_finished_spans()
    (whole,) = [span for span in spans if span.name == "POST /v1/collections/{name}/search"]
    stages = [span for span in spans if span is not whole]
    assert f"{whole.context.trace_id:032x}" == trace_id
    assert whole.attributes["http.response.status_code"] == 200
    assert [span.name for span in stages] == ["queue", "encode", "retrieve", "rerank"]
    for span in stages:
        assert span.parent.span_id == whole.context.span_id
        took_ms = (span.end_time - span.start_time) / 1e6
        assert took_ms == pytest.approx(answer.json()["took_ms"][span.name], abs=0.01)
        assert whole.start_time <= span.start_time
        assert span.end_time <= whole.end_time
    assert all(first.end_time == second.start_time for first, second in pairwise(stages))
    assert not any("还款" in str(value) for span in spans for value in span.attributes.values())


def test_without_an_endpoint_nothing_is_recorded() -> None:
    """No endpoint, no provider, no thread that sends."""
    assert type(tracer_to("")) is Tracer


def test_an_endpoint_without_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is missing, an endpoint ends the start with the command that brings it."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ValueError, match=r"moverank\[otel\]"):
        tracer_to("http://127.0.0.1:4318/v1/traces")


def test_an_endpoint_that_is_not_there_disturbs_no_request(settings: Settings) -> None:
    """With a collector that refuses connections, requests are answered and the service ends."""
    with TestClient(create_app(settings, tracer_to("http://127.0.0.1:9/v1/traces"))) as client:
        assert client.get("/livez").status_code == 200
