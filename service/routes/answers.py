"""Error answers in the form that the callers of a path expect.

The contract's body goes to everybody; on OpenAI's routes `error` is OpenAI's object, and what is wrong with a request has status
400, because its clients turn nothing else into a bad request.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response

from service.errors import ServiceError, error_body
from service.routes.calls import json_response

OPENAI_PATHS = frozenset(
    {
        *("/embeddings", "/v1/embeddings", "/models", "/v1/models"),
        *("/tei/embedding/embeddings", "/tei/embedding/v1/embeddings"),
    }
)
OPENAI_FOLDERS = ("/models/", "/v1/models/")
_KIND = re.compile(
    r"str|int|float|bool|none|list|dict|(constrained-|lax-or-strict|json-or-python|function-|list|dict|union).*[-\[].*"
)
"""What pydantic calls the kinds of a value."""
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 404: "not_found", 413: "too_large", 429: "rate_limit_exceeded"}


def error_answer(path: str, error: ServiceError) -> Response:
    """Answer with an error."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return error_response(path, error.sentence, error.error_type, error.status, headers, error.param, error.code)


def error_response(
    path: str,
    sentence: str,
    error_type: str,
    status: int,
    headers: dict[str, str] | None = None,
    param: str | None = None,
    code: str | None = None,
) -> Response:
    """Answer with a sentence, its type and its status as the dialect of the path has them."""
    body: dict[str, Any] = error_body(sentence, error_type)
    if _is_openai(path):
        status = 400 if status == 422 else status
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        body["error"] = {"message": sentence, "type": kind, "param": param, "code": code or _CODES.get(status)}
    return json_response(body, status, headers)


def wrong_value(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return where the first wrong value of a request's form is, and what it should be, from pydantic's errors.

    A value that may be of several kinds has an error for each. Where it has one of them, the error is inside of that.
    """
    place = _place(errors[0]["loc"])
    about = [(_place(error["loc"]), str(error["msg"])) for error in errors]
    about = [(where, said) for where, said in about if where[: len(place)] == place]
    deepest = max(len(where) for where, _ in about)
    if deepest > len(place):
        about = [(where, said) for where, said in about if len(where) == deepest][:1]
    kinds = list(dict.fromkeys(said for _, said in about))
    sentence = " or ".join([kinds[0], *(said.removeprefix("Input should be ") for said in kinds[1:])])
    return ".".join(about[0][0])[:200], sentence


def _place(loc: Sequence[int | str]) -> list[str]:
    """Return the names of a place in a request, without what pydantic says of the kinds that a value may have."""
    named = loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc
    return [str(part) for i, part in enumerate(named) if not (i and isinstance(part, str) and _KIND.fullmatch(part))]


def _is_openai(path: str) -> bool:
    return path in OPENAI_PATHS or path.startswith(OPENAI_FOLDERS)
