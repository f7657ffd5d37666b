"""Text Embeddings Inference (TEI): its routes at the root, and two mounts that look like a server of one model kind each.

Dify's plugin reads the first key of ``model_type`` in /info and takes a server for an embedder or a reranker, never both; hence
``/tei/embedding`` and ``/tei/reranker``. POST to a mount itself does what TEI does at ``/``.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from service.dialect_schemas import InputsBody, SentenceSimilarityBody
from service.errors import InvalidRequest, TooLarge
from service.given_inputs import input_texts
from service.given_texts import GivenTexts, GivenVectors
from service.routes.calls import JsonRoute, Ready, check_most, in_pool, json_response, timing_header
from service.routes.encoding import check_faults, check_truncation, encode, read_texts
from service.routes.openai import INLINE_TEXTS, check_dimensions
from service.routes.operations import not_ready
from service.routes.rerank import truncated_header
from service.runtime import Runtime
from service.tei_info import tei_info
from service.timings import Timings

router = APIRouter(tags=["tei"], route_class=JsonRoute)


@router.post("/tei/embedding", include_in_schema=False)
async def post_embedding(request: Request, runtime: Ready, body: dict[str, Any]) -> Response:
    """Do what TEI does at its root: embed, or compare where the inputs are one sentence and others."""
    if isinstance(body.get("inputs"), dict):
        return await post_similarity(request, runtime, SentenceSimilarityBody.read(body))
    return await post_embed(request, runtime, InputsBody.read(body))


@router.post("/tei/embedding/embed", include_in_schema=False)
@router.post("/embed", response_model=list[list[float]])
async def post_embed(request: Request, runtime: Ready, body: InputsBody) -> Response:
    """Encode texts into vectors of unit length."""
    timings = Timings()
    check_dimensions(body.dimensions, runtime)
    given = await _read(request, runtime, body)
    vectors = GivenVectors(given, runtime.encoder.dim)
    await encode(request, runtime, vectors, timings)
    check_faults(given, "inputs")
    headers = truncated_header(given.truncated)
    if len(given.texts) > INLINE_TEXTS:
        return await in_pool(
            request, runtime.search_pool, _answer, list(vectors.cut(body.dimensions)), headers, timings
        )
    return _answer(list(vectors.cut(body.dimensions)), headers, timings)


@router.post("/tei/embedding/embed_all", include_in_schema=False)
@router.post("/embed_all", response_model=list[list[list[float]]])
async def post_embed_all(request: Request, runtime: Ready, body: InputsBody) -> Response:
    """Encode texts into the token vectors that transport compares; special tokens have none."""
    timings = Timings()
    given = await _read(request, runtime, body)
    most = runtime.settings.max_queued_tokens
    if given.tokens > most:
        raise TooLarge(
            f"the inputs have {given.tokens} tokens, /embed_all answers at most max_queued_tokens = {most} a request"
        )
    vectors = GivenVectors(given, runtime.encoder.dim, runtime.codec)
    await encode(request, runtime, vectors, timings)
    check_faults(given, "inputs")
    headers = truncated_header(given.truncated)
    tokens = await in_pool(request, runtime.search_pool, vectors.tokens)
    return await in_pool(request, runtime.search_pool, _answer, tokens, headers, timings)


@router.post("/tei/embedding/similarity", include_in_schema=False)
@router.post("/similarity", response_model=list[float])
async def post_similarity(request: Request, runtime: Ready, body: SentenceSimilarityBody) -> Response:
    """Compare one sentence with others by cosine."""
    timings = Timings()
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    wishes = {} if body.parameters is None else body.parameters.model_dump()
    given = await _read(request, runtime, InputsBody.read({"inputs": texts, **wishes}), _sentence)
    vectors = GivenVectors(given, runtime.encoder.dim)
    await encode(request, runtime, vectors, timings)
    check_faults(given, _sentence)
    return _answer(vectors.cosines().tolist(), truncated_header(given.truncated, "source_sentence"), timings)


@router.api_route("/tei/embedding/health", methods=["GET", "HEAD"], include_in_schema=False)
@router.api_route("/tei/reranker/health", methods=["GET", "HEAD"], include_in_schema=False)
@router.head("/health", include_in_schema=False)
@router.get(
    "/health",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "A forward pass succeeds."}
    },
)
async def get_health(request: Request) -> Response:
    """Answer nothing with 200 while a real forward pass succeeds, else 503 with the reason."""
    return await not_ready(request) or Response(media_type="text/plain")


@router.get("/tei/embedding/info", include_in_schema=False)
async def get_embedding_info(runtime: Ready) -> Response:
    """Describe the encoder as TEI does."""
    return json_response(tei_info(runtime, "embedding"))


@router.get("/tei/reranker/info", include_in_schema=False)
async def get_reranker_info(runtime: Ready) -> Response:
    """Describe the rerank as TEI does."""
    return json_response(tei_info(runtime, "reranker"))


async def _read(
    request: Request, runtime: Runtime, body: InputsBody, what: str | Callable[[int], str] = "inputs"
) -> GivenTexts:
    """Check what is asked for, and tokenize; ``what`` names the texts, or each of them."""
    texts = input_texts(body.inputs, "inputs")
    check_most("inputs", len(texts), "max_documents", runtime.settings.max_documents)
    if body.prompt_name is not None:
        raise InvalidRequest(f"there is no prompt {body.prompt_name!r} here; put it before the text yourself")
    given = await read_texts(request, runtime, texts, what)
    check_faults(given, what)
    check_truncation(given, what, body.truncate, body.truncation_direction, runtime)
    return given


def _sentence(place: int) -> str:
    return f"inputs.sentences[{place - 1}]" if place else "inputs.source_sentence"


def _answer(content: list[Any], headers: dict[str, str], timings: Timings) -> Response:
    return json_response(content, headers=timing_header(timings.total()) | headers)
