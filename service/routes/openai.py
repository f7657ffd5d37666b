"""OpenAI's routes: embeddings and models."""

import base64
from typing import Any

from fastapi import APIRouter, Request, Response

from service.dialect_schemas import Embeddings, EmbeddingsBody, OpenAIErrorBody, OpenAIModel, OpenAIModels
from service.errors import InvalidRequest, NotFound
from service.given_inputs import input_texts
from service.given_texts import GivenVectors
from service.routes.calls import JsonRoute, Ready, check_most, in_pool, json_response, timing_header
from service.routes.direct import direct_routes
from service.routes.encoding import check_faults, check_lengths, encode, read_texts
from service.runtime import Runtime
from service.timings import Timings

OPENAI_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody} for status in (400, 401, 403, 404, 413, 422, 429, 500, 503)
}
router = APIRouter(tags=["openai"], route_class=JsonRoute, responses=OPENAI_ERRORS)

INLINE_TEXTS = 32
"""Vectors of more texts are written as JSON in a thread."""


@router.post("/embeddings", include_in_schema=False)
@router.post("/tei/embedding/embeddings", include_in_schema=False)
@router.post("/tei/embedding/v1/embeddings", include_in_schema=False)
@router.post("/v1/embeddings", response_model=Embeddings)
async def post_embeddings(request: Request, runtime: Ready, body: EmbeddingsBody) -> Response:
    """Encode texts into vectors of unit length."""
    timings = Timings()
    texts = input_texts(body.input, "input")
    check_most("input", len(texts), "max_documents", runtime.settings.max_documents)
    check_dimensions(body.dimensions, runtime)
    given = await read_texts(request, runtime, texts, "input")
    check_faults(given, "input")
    if not body.truncate:
        advice = "send less of it, or set truncate to true to have its beginning read"
        check_lengths(given, "input", advice, runtime.encoder.max_tokens)
    vectors = GivenVectors(given, runtime.encoder.dim)
    await encode(request, runtime, vectors, timings)
    check_faults(given, "input")
    arguments = (vectors, runtime.encoder.folder.path.name, body)
    if len(texts) > INLINE_TEXTS:
        return await in_pool(request, runtime.search_pool, _answer, *arguments, timings)
    return _answer(*arguments, timings)


direct = direct_routes(router, post_embeddings, EmbeddingsBody)


@router.get("/models", include_in_schema=False)
@router.get("/v1/models", response_model=OpenAIModels)
async def get_models(runtime: Ready) -> Response:
    """List the model."""
    return json_response({"object": "list", "data": [_model(runtime)]})


@router.get("/models/{model:path}", include_in_schema=False)
@router.get("/v1/models/{model:path}", response_model=OpenAIModel)
async def get_model(runtime: Ready, model: str) -> Response:
    """Describe the model."""
    found = _model(runtime)
    if model != found["id"]:
        raise NotFound(f"there is no model {model!r}, only {found['id']!r}", param="model", code="model_not_found")
    return json_response(found)


def check_dimensions(dimensions: int | None, runtime: Runtime) -> None:
    """Refuse vectors of a length that the model was not trained for.

    Raises:
        InvalidRequest: names what is possible.
    """
    possible = runtime.encoder.dimensions
    if dimensions is not None and dimensions not in possible:
        named = " or ".join(map(str, possible))
        raise InvalidRequest(f"dimensions is {dimensions}, but vectors of this model have {named}", param="dimensions")


def _answer(vectors: GivenVectors, model: str, body: EmbeddingsBody, timings: Timings) -> Response:
    sentences = vectors.cut(body.dimensions)
    is_base64 = body.encoding_format == "base64"
    content: dict[str, Any] = {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": i, "embedding": base64.b64encode(row).decode() if is_base64 else row}
            for i, row in enumerate(sentences)
        ],
        "usage": {"prompt_tokens": vectors.given.tokens, "total_tokens": vectors.given.tokens},
    }
    if body.truncate:
        content["truncated"] = [i for i, is_truncated in enumerate(vectors.given.truncated) if is_truncated]
    return json_response(content, headers=timing_header(timings.total()))


def _model(runtime: Runtime) -> dict[str, Any]:
    folder = runtime.encoder.folder.path
    return {
        "id": folder.name,
        "object": "model",
        "created": int((folder / "config.json").stat().st_mtime),
        "owned_by": "moverank",
    }
