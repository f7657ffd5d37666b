"""The web application: wiring, loading, errors, keys.

The model is loaded beside the event loop, so that /livez answers at once and /readyz says how far it is.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Access, split_keys
from service.errors import NotFound, ServiceError, error_body
from service.routes import collections, jobs, operations, search
from service.routes.calls import json_response
from service.runtime import Runtime
from service.schemas import ErrorBody
from service.settings import Settings
from service.version import VERSION

log = logging.getLogger(__name__)

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        401: "A key is needed.",
        403: "The key may only read.",
        404: "There is no such collection, document or job.",
        409: "The state of the collection forbids it.",
        413: "The body is larger than a limit.",
        422: "The request can never succeed as it is.",
        429: "The queue is full; come back after Retry-After seconds.",
        503: "The service is loading or draining.",
    }.items()
}


def create_app(settings: Settings) -> FastAPI:
    """Build the application for these settings; the model is loaded when it starts."""
    app = FastAPI(
        title="moverank",
        version=VERSION,
        description="Which texts of this corpus mean the same as this one, fast and finely.",
        lifespan=_lifespan,
        responses=ERRORS,
    )
    app.state.settings = settings
    app.state.runtime = None
    app.state.reason = "the model is being loaded"
    app.state.is_draining = False
    app.state.failure = None
    app.state.on_failure = lambda: None
    for noun in (collections, search, jobs, operations):
        app.include_router(noun.router)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    access = Access(
        split_keys(settings.api_keys.get_secret_value()), split_keys(settings.read_only_keys.get_secret_value())
    )
    app.add_middleware(AccessMiddleware, access=access)
    return app


class AccessMiddleware:
    """Asks every request for its key."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or answer with the refusal."""
        if scope["type"] == "http":
            try:
                self._access.check(scope["method"], scope["path"], Headers(scope=scope))
            except ServiceError as error:
                await _answer(error)(scope, receive, send)
                return
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


async def _load(app: FastAPI) -> None:
    try:
        app.state.runtime = await asyncio.to_thread(Runtime, app.state.settings)
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


def _answer(error: ServiceError) -> Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(error_body(error.sentence, error.error_type), error.status, headers)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return _answer(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    """Say the first thing that is wrong with a request's form, and where."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
    if first["type"] == "json_invalid":
        cause = first.get("ctx", {}).get("error", "")
        sentence = f"the body is not valid JSON: {cause}"
    else:
        sentence = f"{where or 'body'}: {first['msg']}"
    return json_response(error_body(sentence, "validation"), 422)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {404: NotFound.error_type, 405: "method_not_allowed"}
    sentence = {
        404: f"there is no route {request.method} {request.url.path}",
        405: f"{request.method} is not allowed here",
    }
    body = error_body(sentence.get(error.status_code, str(error.detail)), kinds.get(error.status_code, "validation"))
    return json_response(body, error.status_code, dict(error.headers or {}))


async def _fault(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return json_response(
        error_body("the service made a mistake; its log has the details", ServiceError.error_type), 500
    )
