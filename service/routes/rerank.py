"""Rerank of given texts: the form of Jina, Cohere and vLLM (``documents``), and that of TEI (``texts``)."""

import uuid
from collections.abc import Callable
from itertools import groupby
from typing import Any

from fastapi import APIRouter, Request, Response

from service.dialect_schemas import RerankBody, RerankResults, TextRank, TextsRerankBody
from service.errors import InvalidRequest
from service.given_inputs import document_texts
from service.given_texts import GivenTexts, GivenVectors
from service.observability import note
from service.routes.calls import JsonRoute, Ready, check_most, in_pool, json_response, timing_header
from service.routes.encoding import check_lengths, check_truncation, encode, read_texts
from service.runtime import Runtime
from service.scoring import Scored, ScoredText, SpanRules, score_texts
from service.timings import Timings, deadline_in

router = APIRouter(tags=["rerank"], route_class=JsonRoute)

SEARCH_UNIT = 100
"""Documents of one unit in Cohere's bills."""
DEFAULT_THRESHOLD = 0.1
"""Least score of a span where the caller names none; Cohere's."""
MAX_TRUNCATED_BYTES = 2_000
"""Of the header that names what was cut."""
EITHER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "title": "Either rerank body",
                    "anyOf": [{"$ref": "#/components/schemas/RerankBody"}, TextsRerankBody.model_json_schema()],
                }
            }
        },
    }
}


@router.post("/v2/rerank", include_in_schema=False)
@router.post("/v1/rerank", response_model=RerankResults)
async def post_rerank(request: Request, runtime: Ready, body: RerankBody) -> Response:
    """Order documents by how well they answer the query."""
    return await _rerank_documents(request, runtime, body)


@router.post("/tei/reranker", include_in_schema=False)
@router.post("/tei/reranker/rerank", include_in_schema=False)
@router.post("/rerank", response_model=RerankResults | list[TextRank], openapi_extra=EITHER_BODY)
async def post_any_rerank(request: Request, runtime: Ready, body: dict[str, Any]) -> Response:
    """Order `documents` as Jina, Cohere and vLLM do, or `texts` as TEI does."""
    if "texts" in body and "documents" not in body:
        return await _rerank_texts(request, runtime, TextsRerankBody.read(body))
    return await _rerank_documents(request, runtime, RerankBody.read(body))


async def _rerank_documents(request: Request, runtime: Runtime, body: RerankBody) -> Response:
    timings = Timings()
    texts = document_texts(body.documents, body.rank_fields)
    spans = None
    if body.relevant_spans is not None and body.relevant_spans.mode == "enabled":
        threshold = body.relevant_spans.threshold
        spans = SpanRules(DEFAULT_THRESHOLD if threshold is None else threshold, body.relevant_spans.max_spans)
    most = body.max_tokens_per_doc

    def check(given: GivenTexts) -> None:
        if body.truncation is False:
            check_lengths(given, _document, "shorten it, or let it be truncated", runtime.encoder.max_tokens)

    given, scored = await _scored(
        request, runtime, body.query, texts, timings, _document, check, body.top_n, spans, most
    )
    tokens = given.tokens
    content = {
        "id": str(uuid.uuid4()),
        "object": "list",
        "model": runtime.encoder.folder.path.name,
        "results": [_result(text, texts[text.position], body) for text in scored.texts],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": "2" if request.url.path.startswith("/v2") else "1"},
            "billed_units": {"search_units": -(-len(texts) // SEARCH_UNIT)},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
            "warnings": _warnings(given, scored, runtime, most),
        },
    }
    return json_response(content, headers=timing_header(timings.total()))


async def _rerank_texts(request: Request, runtime: Runtime, body: TextsRerankBody) -> Response:
    timings = Timings()

    def check(given: GivenTexts) -> None:
        check_truncation(given, _text, body.truncate, body.truncation_direction, runtime)

    given, scored = await _scored(request, runtime, body.query, body.texts, timings, _text, check)
    ranks = [
        {"index": text.position, "score": text.score if body.raw_scores else text.relevance}
        | ({"text": body.texts[text.position]} if body.return_text else {})
        for text in scored.texts
    ]
    return json_response(ranks, headers=timing_header(timings.total()) | truncated_header(given.truncated, "query"))


async def _scored(
    request: Request,
    runtime: Runtime,
    query: str,
    texts: list[str],
    timings: Timings,
    what: Callable[[int], str],
    check: Callable[[GivenTexts], None],
    top_n: int | None = None,
    spans: SpanRules | None = None,
    max_tokens: int | None = None,
) -> tuple[GivenTexts, Scored]:
    """Encode the query and the texts, which ``what`` names and ``check`` may refuse, and rank these.

    A text that cannot be used comes last.
    """
    settings = runtime.settings
    deadline = deadline_in(settings.default_timeout_ms)
    check_most("documents", len(texts), "max_documents", settings.max_documents)
    with runtime.gate.enter(1):
        given = await read_texts(request, runtime, [query, *texts], what, max_tokens)
        if 0 in given.faults:
            raise InvalidRequest(f"query: {given.faults[0]}")
        check(given)
        vectors = GivenVectors(given, runtime.encoder.dim, runtime.codec)
        await encode(request, runtime, vectors, timings, deadline)
        if 0 in given.faults:
            raise InvalidRequest(f"query: {given.faults[0]}")
        scored = await in_pool(
            request, runtime.search_pool, score_texts, vectors, runtime.codec, runtime.shares, top_n, spans, deadline
        )
    timings.lap("rerank")
    note(request.scope, queries=1, texts=len(texts))
    return given, scored


def truncated_header(truncated: list[bool], first: str | None = None) -> dict[str, str]:
    """Return the header that names the texts of which only the beginning was read; none where there are none.

    Texts are named by their places, three and more in a row as a range (3-9); the first is ``first``, where that is given, and
    the next then has place 0. Clients and proxies bound what a header may hold: what does not fit is counted (+27).
    """
    names = [str(i) for i in range(len(truncated))] if first is None else [first, *map(str, range(len(truncated) - 1))]
    parts: list[str] = []
    size = left = 0
    for is_cut, run in groupby(zip(truncated, names, strict=True), lambda each: each[0]):
        places = [name for _, name in run] if is_cut else []
        if places and places[0] == first:
            parts.append(places.pop(0))
        said = [f"{places[0]}-{places[-1]}"] if len(places) > 2 else places
        size += sum(len(part) + 1 for part in said)
        if size > MAX_TRUNCATED_BYTES:
            left += len(places)
        else:
            parts += said
    return {"X-Truncated": ",".join([*parts, *([f"+{left}"] if left else [])])} if parts else {}


def _result(text: ScoredText, read: str, body: RerankBody) -> dict[str, Any]:
    """Return one result; ``read`` is what was read of its document."""
    result: dict[str, Any] = {"index": text.position, "relevance_score": text.relevance}
    if body.return_documents:
        document = body.documents[text.position]
        given = document if isinstance(document, dict) else {}
        result["document"] = given if isinstance(given.get("text"), str) else {**given, "text": read}
    if text.spans:
        result["relevant_spans"] = [span._asdict() for span in text.spans]
    return result


def _document(i: int) -> str:
    """Return what a caller calls the i-th of query and documents."""
    return f"documents[{i - 1}]" if i else "query"


def _text(i: int) -> str:
    """Return what a caller of TEI's form calls the i-th of query and texts."""
    return f"texts[{i - 1}]" if i else "query"


def _warnings(given: GivenTexts, scored: Scored, runtime: Runtime, max_tokens: int | None) -> list[str]:
    """Say what was not read as it was given."""
    most = runtime.encoder.max_tokens
    limits = [most] + [min(most, max_tokens or most)] * (len(given.texts) - 1)
    found = [
        f"{_document(i)} has more than {limits[i]} tokens; the rest was not read"
        for i, is_truncated in enumerate(given.truncated)
        if is_truncated
    ]
    found += [f"{_document(i)} counts as unrelated: {fault}" for i, fault in sorted(given.faults.items())]
    if scored.is_partial:
        found.append(f"default_timeout_ms = {runtime.settings.default_timeout_ms} came before every text was compared")
    return found
