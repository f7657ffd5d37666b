"""Search and pair similarity."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from service.alignment import Alignment, EncodedText, PairSimilarity, compare_until
from service.batching import Submission
from service.errors import InvalidRequest
from service.filters import parse_filter
from service.observability import note
from service.routes.calls import (
    JsonRoute,
    Ready,
    capped,
    in_pool_until,
    json_response,
    timing_header,
    until_encoded,
    wait_for,
)
from service.routes.direct import direct_routes
from service.routes.encoding import check_faults, read_texts
from service.runtime import Runtime
from service.schemas import SearchBody, SearchResults, SimilarityBody, SimilarityResults
from service.search import Answer, Hit, SearchOptions
from service.timings import Deadline, Timings, deadline_in

router = APIRouter(prefix="/v1", tags=["search"], route_class=JsonRoute)


@router.post("/collections/{name}/search", response_model=SearchResults)
async def post_search(request: Request, runtime: Ready, name: str, body: SearchBody) -> Response:
    """Find the texts of a collection that mean the same as the query."""
    timings = Timings()
    settings = runtime.settings
    deadline = deadline_in(body.timeout_ms or settings.default_timeout_ms)
    collection = runtime.library.get(name)
    collection.check_model(runtime.encoder.fingerprint)
    texts = [body.query] if isinstance(body.query, str) else body.query
    if not texts:
        raise InvalidRequest("query is an empty list")
    _check_most("queries", len(texts), "max_queries", settings.max_queries)
    options = _options(body, runtime)
    _check_most("queries times top_k", len(texts) * options.top_k, "max_hits", settings.max_hits)
    with runtime.gate.enter(len(texts)), runtime.turns.take() as turn:
        truncated, queries = await _encoded(request, runtime, texts, "query", turn, deadline, timings)
        found: list[Answer] | None = None
        if queries is not None:
            search = partial(runtime.searcher.search, collection, queries, options, deadline, timings)
            found = await in_pool_until(request, runtime.search_pool, deadline, search)
        if found is None:
            timings.lap_waiting()
        answers = [Answer(is_partial=True) for _ in texts] if found is None else found
    proofs = [answer.certificate for answer in answers if answer.certificate is not None]
    note(
        request.scope,
        queries=len(texts),
        documents=len(collection.vectors),
        solved=sum(proof.solved for proof in proofs),
        pruned=sum(proof.pruned for proof in proofs),
        partial=any(answer.is_partial for answer in answers),
    )
    content = {
        "results": [
            {
                "query": text,
                "truncated": is_truncated,
                "hits": [_hit(hit, options) for hit in answer.hits],
                "certificate": _certificate(answer, options),
            }
            for text, is_truncated, answer in zip(texts, truncated, answers, strict=True)
        ],
        "partial": any(answer.is_partial for answer in answers),
    }
    return _timed(content, timings, ("queue", "encode", "retrieve", "rerank"))


@router.post("/similarity", response_model=SimilarityResults)
async def post_similarity(request: Request, runtime: Ready, body: SimilarityBody) -> Response:
    """Compare pairs of texts."""
    timings = Timings()
    _check_most("pairs", len(body.pairs), "max_documents", runtime.settings.max_documents)
    texts = [text for pair in body.pairs for text in pair]
    deadline = deadline_in(body.timeout_ms or runtime.settings.default_timeout_ms)
    with runtime.gate.enter(1), runtime.turns.take() as turn:
        truncated, encoded = await _encoded(
            request, runtime, texts, lambda i: f"pairs[{i // 2}][{i % 2}]", turn, deadline, timings
        )
        found: tuple[list[PairSimilarity], bool] | None = None
        if encoded is not None:
            compare = partial(compare_until, encoded, body.measures, body.explain, deadline)
            found = await in_pool_until(request, runtime.search_pool, deadline, compare)
        if found is None:
            either = [first or second for first, second in zip(truncated[::2], truncated[1::2], strict=True)]
            found = [PairSimilarity(None, None, None, is_cut, None) for is_cut in either], True
        compared, is_partial = found
    timings.lap("rerank")
    note(request.scope, texts=len(texts), partial=is_partial)
    return _timed({"results": [_pair(pair) for pair in compared], "partial": is_partial}, timings)


direct = direct_routes(router, post_search, SearchBody) | direct_routes(router, post_similarity, SimilarityBody)
"""Routes that are asked past FastAPI."""


async def _encoded(
    request: Request,
    runtime: Runtime,
    texts: Sequence[str],
    what: str | Callable[[int], str],
    turn: Future[None],
    deadline: Deadline,
    timings: Timings,
) -> tuple[list[bool], list[EncodedText] | None]:
    """Tokenize texts and encode them when their turn comes; return which are truncated and, unless the deadline came first,
    their vectors."""
    given = await read_texts(request, runtime, texts, what)
    check_faults(given, what)
    in_line_since = time.perf_counter()
    is_late = not await wait_for(request, [turn], deadline)
    waited_s = time.perf_counter() - in_line_since
    if is_late:
        timings.lap_encoding(waited_s)
        return given.truncated, None
    submission: Submission = runtime.queue.submit(given.tokenized, "interactive")
    is_late = not await until_encoded(request, submission, deadline)
    timings.lap_encoding(waited_s + submission.waited_s)
    if is_late:
        submission.cancel()
        return given.truncated, None
    return given.truncated, given.encoded(submission.result())


def _options(body: SearchBody, runtime: Runtime) -> SearchOptions:
    settings, defaults = runtime.settings, runtime.defaults
    top_k = capped(body, "top_k", settings.max_top_k)
    candidates = capped(body, "candidates", settings.max_candidates)
    _check_most("top_k", top_k, "max_top_k", settings.max_top_k)
    _check_most("candidates", candidates, "max_candidates", settings.max_candidates)
    if body.scope == "corpus" and body.rerank == "none":
        raise InvalidRequest('scope "corpus" ranks by transport: set rerank to "wrd" or "wmd"')
    if body.masses is not None and body.rerank == "none":
        raise InvalidRequest('masses are what transport moves: set rerank to "wrd" or "wmd"')
    if body.solver != "exact" and body.rerank == "none":
        raise InvalidRequest('a solver is for transport problems: set rerank to "wrd" or "wmd"')
    retrieve = body.retrieve or defaults.retrieve
    if body.lexical_weight is not None and retrieve == "vector":
        raise InvalidRequest('lexical_weight is the share of BM25: set retrieve to "hybrid" or "lexical"')
    if body.window_weight is not None and (retrieve == "vector" or body.scope == "corpus"):
        raise InvalidRequest(
            'window_weight is the share of windows in what words say of candidates: set retrieve to "hybrid" or "lexical", '
            'and scope to "pool"'
        )
    # A weight that is given stands between cosine and transport alone, unless BM25's share is given, too.
    lexical_weight = 0.0 if body.weight is not None and body.lexical_weight is None else body.lexical_weight
    if body.window_weight and lexical_weight == 0.0 and not (retrieve == "lexical" and body.rerank == "none"):
        raise InvalidRequest(
            "window_weight is the share of windows in what words say, and these have no share: give lexical_weight, too"
        )
    try:
        conditions = tuple(parse_filter(body.filter, settings.max_filter_terms)) if body.filter else ()
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    return SearchOptions(
        top_k=top_k,
        candidates=candidates,
        retrieve=retrieve,
        rerank=body.rerank,
        weight=defaults.weight,
        lexical_weight=defaults.lexical_weight,
        scope=body.scope,
        conditions=conditions,
        explain=body.explain,
        shares=defaults.shares.fixed(body.weight, lexical_weight, body.window_weight),
        masses=body.masses,
        solver=body.solver,
    )


def _check_most(what: str, value: int, limit: str, most: int) -> None:
    if value > most:
        raise InvalidRequest(f"{what} is {value}, at most {limit} = {most} is allowed")


def _hit(hit: Hit, options: SearchOptions) -> dict[str, Any]:
    return {
        "id": hit.document.id,
        "text": hit.document.text,
        "metadata": hit.document.metadata,
        "score": hit.score,
        "cosine": hit.cosine,
        "bm25": hit.bm25,
        "wrd": hit.distance if options.rerank == "wrd" else None,
        "wmd": hit.distance if options.rerank == "wmd" else None,
        "alignment": _alignment(hit.alignment),
    }


def _certificate(answer: Answer, options: SearchOptions) -> dict[str, Any] | None:
    """Show a certificate as costs, 1 - score: at weight 1 these are WRD itself."""
    certificate = answer.certificate
    if certificate is None:
        return None
    return {
        "scope": options.scope,
        "exact": certificate.exact,
        "kth": None if certificate.kth is None else 1.0 - certificate.kth,
        "next_bound": None if certificate.next_bound is None else 1.0 - certificate.next_bound,
        "solved": certificate.solved,
        "pruned": certificate.pruned,
    } | ({} if options.solver == "exact" else {"max_error": certificate.max_error})


def _pair(pair: PairSimilarity) -> dict[str, Any]:
    return {
        "cosine": pair.cosine,
        "wrd": pair.wrd,
        "wmd": pair.wmd,
        "truncated": pair.is_truncated,
        "alignment": _alignment(pair.alignment),
    }


def _alignment(alignment: Alignment | None) -> dict[str, Any] | None:
    return None if alignment is None else alignment._asdict()


def _timed(content: dict[str, Any], timings: Timings, stages: Sequence[str] = ()) -> Response:
    """Answer with how long the stages took; one of `stages` that did not run is null."""
    took = timings.total()
    return json_response({**content, "took_ms": {**dict.fromkeys(stages), **took}}, headers=timing_header(took))
