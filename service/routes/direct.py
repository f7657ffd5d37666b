"""The short way to the routes that are asked most often for least: past FastAPI to the same function.

Finding a route among dozens, solving its dependencies and reading its body cost FastAPI as much as the network needs for a
short text, and the interpreter's lock meanwhile, which searches want. A request that is surely well-formed (a known path, JSON
in one piece, a body that validates) needs none of it: its body is validated here by the same model and handed to the route's
own function. Everything else takes the ordinary way, so that what is wrong with a request is found and said in one place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

import orjson
from fastapi import APIRouter, Response
from fastapi.routing import APIRoute

from service.dialect_schemas import DialectBody
from service.errors import ServiceError
from service.routes.calls import MOST_PAUSE_S, BodyTimeout, LimitedRequest
from service.runtime import Runtime
from service.schemas import Body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = Callable[[ServiceError, Scope, Receive, Send], Awaitable[None]]
AnyBody = Body | DialectBody
Endpoint = Callable[..., Awaitable[Response]]
"""A route's function of ``request``, ``runtime``, ``body`` and the names in its path, which are strings."""


class DirectRoute(NamedTuple):
    """A POST route that can be asked directly."""

    route: APIRoute  # under whose name the request is logged and counted
    endpoint: Endpoint
    body: type[AnyBody]


def direct_routes(router: APIRouter, endpoint: Endpoint, body: type[AnyBody]) -> dict[str, DirectRoute]:
    """Return the routes of a function by their paths, which may have names in braces."""
    routes = [route for route in router.routes if isinstance(route, APIRoute) and route.endpoint is endpoint]
    return {route.path: DirectRoute(route, endpoint, body) for route in routes}


class DirectMiddleware:
    """Answers what is asked of the direct routes, and passes everything else on."""

    def __init__(self, app: App, routes: Mapping[str, DirectRoute], answer: Answer) -> None:
        """Stand before an application; ``answer`` answers with an error."""
        self._app = app
        self._routes = {path: route for path, route in routes.items() if "{" not in path}
        self._named = [route for path, route in routes.items() if "{" in path]
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on as if nobody had looked at it."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route, names = self._find(scope["path"]) if is_post else (None, {})
        runtime: Runtime | None = None if route is None else scope["app"].state.runtime
        if route is None or runtime is None or not _is_json(scope["headers"]):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(MOST_PAUSE_S):
                first = await receive()
        except TimeoutError:
            await self._answer(BodyTimeout(f"no body came for {MOST_PAUSE_S:g} seconds"), scope, receive, send)
            return
        body = _read(route.body, first, runtime.settings.max_body_bytes)
        if body is None:
            await self._app(scope, _beginning_with(first, receive), send)
            return
        scope["route"], scope["path_params"] = route.route, names
        try:
            response = await route.endpoint(request=LimitedRequest(scope, receive), runtime=runtime, body=body, **names)
        except ServiceError as error:
            await self._answer(error, scope, receive, send)
        else:
            await response(scope, receive, send)

    def _find(self, path: str) -> tuple[DirectRoute | None, dict[str, str]]:
        """Return the route of a path and the names in it."""
        if path in self._routes:
            return self._routes[path], {}
        for route in self._named:
            found = route.route.path_regex.match(path)
            if found:
                return route, found.groupdict()
        return None, {}


def _is_json(headers: list[tuple[bytes, bytes]]) -> bool:
    kinds = [value for name, value in headers if name == b"content-type"]
    return len(kinds) == 1 and kinds[0].partition(b";")[0] == b"application/json"


def _read(body: type[AnyBody], message: Mapping[str, Any], max_bytes: int) -> AnyBody | None:
    """Return the validated body of a request that came in one piece; None where anything is unusual."""
    content = message.get("body", b"")
    if message["type"] != "http.request" or message.get("more_body") or len(content) > max_bytes:
        return None
    try:
        return body.model_validate(orjson.loads(content))
    except ValueError:
        return None


def _beginning_with(first: MutableMapping[str, Any], receive: Receive) -> Receive:
    """Return a way to receive that begins with a message that was received already."""
    seen = [first]

    async def again() -> MutableMapping[str, Any]:
        return seen.pop() if seen else await receive()

    return again
