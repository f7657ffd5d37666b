"""From the event loop to the threads below it, and what a route needs from the request for that.

Async ends here: a route awaits a future of the encoder's queue or of a thread pool. Whoever waits for a caller who has left stops
waiting, and what has not begun is not begun.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import Annotated, Any, Literal, TypeVar

import orjson
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from service.batching import Submission
from service.errors import NotReady, ServiceError, TooLarge
from service.runtime import Runtime
from service.schemas import Body
from service.timings import Deadline

T = TypeVar("T")
_End = Literal["done", "late", "left"]

MOST_PAUSE_S = 60.0
"""Seconds that may pass between two pieces of a body."""
WATCH_AFTER_S = 0.05
"""Seconds that a request waits before anybody looks whether its caller is still there."""


class CallerLeft(ServiceError):
    """Nobody waits for the answer any more."""

    status = 499
    error_type = "caller_left"


class BodyTimeout(ServiceError):
    """The rest of a body did not come."""

    status = 408
    error_type = "request_timeout"


class LimitedRequest(Request):
    """A request whose JSON is strict (no NaN, no lone surrogates, bounded depth) and whose body is limited."""

    async def read_limited(self, max_bytes: int) -> None:
        """Read the body, refusing more than ``max_bytes``."""
        if not hasattr(self, "_body"):
            self._body = b"".join([chunk async for chunk in limited_stream(self, "max_body_bytes", max_bytes)])

    async def json(self) -> Any:
        """Parse the body; `orjson.JSONDecodeError` is a `json.JSONDecodeError`."""
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """A route that reads its body through `LimitedRequest`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            request = LimitedRequest(request.scope, request.receive)
            await request.read_limited(request.app.state.settings.max_body_bytes)
            return await handler(request)

        return limited


async def limited_stream(request: Request, limit: str, max_bytes: int) -> Any:
    """Yield the chunks of a body.

    Raises:
        TooLarge: it declares or turns out to be longer than ``max_bytes``.
        BodyTimeout: nothing more of it came for a while.
        CallerLeft: nothing more of it will come.
    """
    declared = request.headers.get("content-length", "0")
    received = 0
    if declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(f"the body has {declared} bytes, at most {limit} = {max_bytes} are allowed")
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(MOST_PAUSE_S):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise BodyTimeout(f"nothing more of the body came for {MOST_PAUSE_S:g} seconds") from None
        except ClientDisconnect:
            raise CallerLeft("the caller has left") from None
        received += len(chunk)
        if received > max_bytes:
            raise TooLarge(f"the body has more than {limit} = {max_bytes} bytes")
        yield chunk


async def ready_runtime(request: Request) -> Runtime:
    """Return the loaded runtime (async, so that FastAPI needs no thread for it).

    Raises:
        NotReady: it is being loaded, or failed to.
    """
    runtime: Runtime | None = request.app.state.runtime
    if runtime is None:
        raise NotReady(request.app.state.reason, retry_after_s=2)
    return runtime


Ready = Annotated[Runtime, Depends(ready_runtime)]


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON; rows of arrays become lists of numbers."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def check_most(what: str, count: int, limit: str, most: int) -> None:
    """Refuse more than a limit allows.

    Raises:
        TooLarge: names the limit.
    """
    if count > most:
        raise TooLarge(f"{what} has {count} entries, at most {limit} = {most} are allowed", param=what)


def capped(body: Body, field: str, most: int) -> int:
    """Return a number of a body; a default, which nobody asked for, is no more than a limit allows."""
    value: int = getattr(body, field)
    return value if field in body.model_fields_set else min(value, most)


def timing_header(took_ms: Mapping[str, float]) -> dict[str, str]:
    """Return the header that says where the time went: for the caller, and for the log and the metrics."""
    return {"Server-Timing": ", ".join(f"{stage};dur={ms}" for stage, ms in took_ms.items())}


async def in_pool(request: Request, pool: Executor, function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a thread pool and wait for it while the caller waits."""
    future = pool.submit(copy_context().run, function, *arguments)
    await wait_for(request, [future], None)
    return future.result()


async def in_pool_until(
    request: Request, pool: Executor, deadline: Deadline, function: Callable[..., T], *arguments: Any
) -> T | None:
    """Run a function that keeps to a deadline in a thread pool; None where the deadline came before its turn.

    Where the caller leaves, what runs is told to end.
    """
    future = pool.submit(copy_context().run, function, *arguments)
    try:
        if not await wait_for(request, [future], deadline):
            if future.cancelled():
                return None
            await wait_for(request, [future], None)  # it has begun, and ends soon
        return future.result()
    finally:
        if not future.done():
            deadline.give_up()


async def until_encoded(request: Request, submission: Submission, deadline: Deadline | None = None) -> bool:
    """Wait for vectors while the caller waits; return whether they came before ``deadline``."""
    return await wait_for(request, submission.futures, deadline)


async def wait_for(request: Request, futures: Sequence[Future[Any]], deadline: Deadline | None) -> bool:
    """Wait until all futures are done, or give them up: at the deadline (False) or when the caller leaves (CallerLeft).

    Whether the caller is still there is looked at from `WATCH_AFTER_S` on: most are answered before that.
    """
    if all(future.done() for future in futures):
        return True
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[_End] = loop.create_future()
    missing = len(futures)
    watching: asyncio.Task[None] | None = None

    def end(how: _End) -> None:
        if not ended.done():
            ended.set_result(how)

    def count() -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            end("done")

    def watch() -> None:
        nonlocal watching
        watching = loop.create_task(_left(request))
        watching.add_done_callback(lambda task: None if task.cancelled() else end("left"))

    for future in futures:
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(count))
    timers = [loop.call_later(WATCH_AFTER_S, watch)]
    if deadline is not None:
        timers.append(loop.call_later(deadline.left_s, end, "late"))
    try:
        how = await ended
        if how == "left":
            raise CallerLeft("the caller has left")
        return how == "done"
    finally:
        for timer in timers:
            timer.cancel()
        if watching is not None:
            watching.cancel()
        for future in futures:
            future.cancel()  # of one that is done or has begun, this does nothing


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
