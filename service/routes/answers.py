"""Error answers in the form that the callers of a path expect.

The contract's body goes to everybody; on OpenAI's routes `error` is OpenAI's object, and what is wrong with a request has status
400, because its clients turn nothing else into a bad request.
"""

from typing import Any

from fastapi import Response

from service.errors import ServiceError, error_body
from service.routes.calls import json_response

OPENAI_PATHS = ("/embeddings", "/models")
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


def _is_openai(path: str) -> bool:
    return path.endswith(OPENAI_PATHS) or "/models/" in path
