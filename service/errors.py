"""Everything a caller can meet, as a tree by what the caller can do about it.

::

    ServiceError
    ├── InvalidRequest      422  change the request
    │   └── TooLarge        413  send less
    ├── Unauthorized        401  send a key
    ├── Forbidden           403  use a key that may write
    ├── NotFound            404  name something that exists
    ├── Conflict            409  resolve what is in the way first
    ├── Overloaded          429  come back later
    │   └── RateLimited     429  ask less often
    └── NotReady            503  wait for /readyz

One handler (`service.app`) turns them into ``{"error", "error_type", "detail", "message"}``.
"""

from typing import Any


class ServiceError(Exception):
    """An error with a sentence that the caller can act on."""

    status = 500
    error_type = "internal"

    def __init__(
        self,
        sentence: str,
        *,
        retry_after_s: int | None = None,
        reason: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.retry_after_s = retry_after_s
        self.param = param
        self.code = code
        """Which field is wrong, and a word for why: for OpenAI's clients."""
        self.reason = reason or self.error_type
        """Under which the metrics count it."""


class InvalidRequest(ServiceError):
    """The request can never succeed as it is."""

    status = 422
    error_type = "validation"


class TooLarge(InvalidRequest):
    """The request is larger than a limit allows; the sentence names the limit and the value."""

    status = 413
    error_type = "too_large"


class Unauthorized(ServiceError):
    """Keys are configured and the request brought no valid one."""

    status = 401
    error_type = "unauthorized"


class Forbidden(ServiceError):
    """The key may not do this."""

    status = 403
    error_type = "forbidden"


class NotFound(ServiceError):
    """A collection, document or job of this name does not exist."""

    status = 404
    error_type = "not_found"


class Conflict(ServiceError):
    """The state of a resource forbids the request."""

    status = 409
    error_type = "conflict"


class Overloaded(ServiceError):
    """The queue is full."""

    status = 429
    error_type = "overloaded"


class RateLimited(Overloaded):
    """The key has used up what it may ask for at present."""

    error_type = "rate_limited"


class NotReady(ServiceError):
    """The service is loading, draining or broken."""

    status = 503
    error_type = "unavailable"


class DiskFull(ServiceError):
    """There is no room for what was to be written."""

    status = 507
    error_type = "disk_full"


def error_body(sentence: str, error_type: str) -> dict[str, Any]:
    """Return the body of every error answer; the last two fields are for clients of other dialects."""
    return {"error": sentence, "error_type": error_type, "detail": sentence, "message": sentence}
