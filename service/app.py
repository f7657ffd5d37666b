"""The web application: wiring, loading, errors, keys.

The model is loaded beside the event loop, so that /livez answers at once and /readyz says how far it is.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Access, split_list
from service.errors import InvalidRequest, NotFound, ServiceError
from service.metrics import Metrics, Readings
from service.observability import Observed, note
from service.routes import collections, graphs, jobs, openai, operations, page, paraphrases, rerank, search, tei
from service.routes.answers import error_answer, error_response, wrong_value
from service.routes.direct import DirectMiddleware
from service.runtime import Runtime
from service.schemas import ErrorBody
from service.settings import Settings
from service.tracing import Tracer, tracer_to
from service.version import VERSION

log = logging.getLogger(__name__)

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        401: "A key is needed.",
        403: "The key may only read.",
        404: "There is no such collection, document, graph or job.",
        408: "The rest of the body did not come.",
        409: "The state of the collection or of the service forbids it.",
        413: "The body is larger than a limit.",
        422: "The request can never succeed as it is.",
        429: "The queue is full; come back after Retry-After seconds.",
        503: "The service is loading or draining.",
        507: "The disk of the data folder is full; nothing was written.",
    }.items()
}

KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`, with keys configured."},
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key, as other clients send it.",
    },
}
"""How the schema says that a key is sent. A service without keys needs none."""

QUERIES = ("/search", "/rerank", "/v1/similarity")
"""How the paths of routes end that go through the gate for queries."""
EMBEDDINGS = ("/embeddings", "/embed")
"""How the paths of routes end that send a body's texts to the encoder and nothing else."""


def create_app(settings: Settings, tracer: Tracer | None = None) -> FastAPI:
    """Build the application for these settings; the model is loaded when it starts.

    Raises:
        ValueError: the file of keys cannot be used, or traces are wanted and OpenTelemetry is not installed.
    """
    app = FastAPIOffline(  # /docs asks no other host for its scripts
        title="moverank",
        version=VERSION,
        description="Which texts of this corpus mean the same as this one, fast and finely.",
        lifespan=_lifespan,
        responses=ERRORS,
        redoc_url=None,  # it asks another host for its logo
        telemetry={"tracing": False, "metrics": False, "logs": False},  # service.observability does that
    )
    app.state.settings = settings
    app.state.runtime = None
    app.state.reason = "the model is being loaded"
    app.state.said_reason = app.state.reason
    app.state.is_draining = False
    app.state.failure = None
    app.state.on_ready = lambda: None
    app.state.on_failure = lambda: None
    # The routes that are asked most come first: a request is compared with one after the other.
    nouns = (openai, search, rerank, tei, collections, paraphrases, graphs, jobs, operations, page)
    routers = [*(noun.router for noun in nouns), graphs.imports]
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    origins = split_list(settings.cors_origins)
    access = Access(
        split_list(settings.api_keys.get_secret_value()),
        split_list(settings.read_only_keys.get_secret_value()),
        settings.api_keys_file,
        settings.metrics_open,
        settings.rate_limit_per_s,
        settings.rate_limit_burst,
        origins,
    )
    app.state.metrics = Metrics(lambda: _readings(app))
    app.state.tracer = tracer or tracer_to(settings.otlp_endpoint)
    described = app.openapi()  # FastAPI keeps this object and sends it
    described["components"]["securitySchemes"] = KEYS
    described["security"] = [{}, *({name: []} for name in KEYS)]
    for path, operations_of_path in described["paths"].items():
        for method in operations_of_path:
            app.state.metrics.route(path, method.upper())
    app.add_middleware(DirectMiddleware, routes=openai.direct | search.direct, answer=_answer_over)
    app.add_middleware(AccessMiddleware, access=access)
    app.add_middleware(
        Observed,
        metrics=app.state.metrics,
        tracer=app.state.tracer,
        answer=_answer_over,
        slow_request_ms=settings.slow_request_ms,
        max_requests=settings.max_requests,
        refusal=partial(_refusal, app),
    )
    if origins:  # outside of all that answers: a page may read refusals, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After", "Server-Timing", "X-Truncated"],
        )
    return app


def _refusal(app: FastAPI, scope: Scope) -> ServiceError | None:
    """Return why a request need not even be read: it would wait too long; None for all others."""
    runtime: Runtime | None = app.state.runtime
    if runtime is None or scope["method"] != "POST":
        return None
    if scope["path"].endswith(QUERIES):
        return runtime.gate.refusal(1)
    # In more bytes than a batch has tokens there may be so many texts that they wait in the lane for bulk.
    if scope["path"].endswith(EMBEDDINGS) and _body_bytes(scope) <= runtime.settings.max_batch_tokens:
        try:
            runtime.queue.check_room()
        except ServiceError as error:
            return error
    return None


def _body_bytes(scope: Scope) -> float:
    """Return how long a request says that its body is; infinity where it says nothing."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(declared) if declared.isdigit() else math.inf


def _readings(app: FastAPI) -> Readings:
    runtime: Runtime | None = app.state.runtime
    return Readings(build={"version": VERSION}) if runtime is None else runtime.readings(not app.state.is_draining)


class AccessMiddleware:
    """Asks every request for its key."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or answer with the refusal."""
        if scope["type"] == "http":
            try:
                key = self._access.check(scope["method"], scope["path"], Headers(scope=scope))
            except ServiceError as error:
                await _answer_over(error, scope, receive, send)
                return
            if key is not None:
                note(scope, key=key)
        await self.app(scope, receive, send)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    loading = asyncio.create_task(_load(app))
    try:
        yield
    finally:
        app.state.is_draining = True
        app.state.reason = "the service is shutting down"
        await loading
        runtime: Runtime | None = app.state.runtime
        if runtime is not None:
            await asyncio.to_thread(runtime.close)
        await asyncio.to_thread(app.state.tracer.close)


async def _load(app: FastAPI) -> None:
    try:
        runtime = await asyncio.to_thread(Runtime, app.state.settings, app.state.metrics)
        app.state.on_ready()
        app.state.runtime = runtime
        log.info("ready: %s on %s", app.state.settings.model.name, app.state.runtime.encoder.device)
    except (ValueError, RuntimeError, OSError) as error:
        _give_up(app, str(error))
    except Exception as error:
        log.exception("cannot start")
        _give_up(app, f"cannot start: {type(error).__name__}: {error}; the log has the details")


def _give_up(app: FastAPI, reason: str) -> None:
    log.critical("%s", reason)
    app.state.reason = "the model or the data folder could not be loaded; the log has the reason"
    app.state.failure = reason
    app.state.on_failure()


async def _answer_over(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error from outside the routes."""
    scope["app"].state.metrics.rejected(error.reason)
    await error_answer(scope["path"], error)(scope, receive, send)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    request.app.state.metrics.rejected(error.reason)
    return error_answer(request.url.path, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    """Say the first thing that is wrong with a request's form, and where."""
    assert isinstance(error, RequestValidationError)
    request.app.state.metrics.rejected(InvalidRequest.error_type)
    errors = error.errors()
    first = errors[0]
    if first["loc"] == ("body",) and not _is_json(request.headers.get("content-type", "")):
        said = "the body is not read as JSON: send the header 'Content-Type: application/json'"
        return error_response(request.url.path, said, InvalidRequest.error_type, 422)
    param = None
    if first["type"] == "json_invalid":
        cause = first.get("ctx", {}).get("error", "")
        sentence = f"the body is not valid JSON: {cause}"
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            sentence = f"content encoding {encoding[:40]!r} is not read here: send the JSON as it is"
    else:
        where, said = wrong_value(errors)
        sentence = f"{where or 'body'}: {said}"
        param = where or None
    return error_response(request.url.path, sentence, InvalidRequest.error_type, 422, param=param)


def _methods_at(request: Request) -> list[str]:
    """Return the methods of all routes of a request's path."""
    fitting = (route for route in request.app.state.routes if route.path_regex.match(request.url.path))
    return sorted({method for route in fitting for method in route.methods})


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {404: NotFound.error_type, 405: "method_not_allowed"}
    sentence = {
        404: f"there is no route {request.method} {request.url.path}",
        405: f"{request.method} is not allowed here",
    }
    status, headers = error.status_code, dict(error.headers or {})
    if status == 405:  # Starlette names the methods of the first route of this path
        headers["Allow"] = ", ".join(_methods_at(request))
    said = sentence.get(status, str(error.detail))
    return error_response(request.url.path, said, kinds.get(status, InvalidRequest.error_type), status, headers)
