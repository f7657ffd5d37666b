"""Knowledge graphs: their triples, their subjects, and questions to them."""

import asyncio
import datetime
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.document_rules import wrong_text
from service.errors import Conflict, InvalidRequest, NotFound, NotReady
from service.file_formats import format_of_content_type
from service.found_facts import Answered, Beam
from service.graph_changes import Change
from service.graph_schemas import (
    Added,
    AskBody,
    AskResults,
    GraphBody,
    GraphInfo,
    GraphList,
    Removed,
    SubjectFacts,
    SubjectList,
    TriplesBody,
)
from service.graph_view import GraphView
from service.graphs import Graph
from service.knowledge import AskOptions
from service.library import check_name
from service.observability import note
from service.routes.calls import JsonRoute, Ready, capped, check_most, in_pool, json_response, timing_header, wait_for
from service.routes.jobs import file_of, removed_where_refused, spooled_body
from service.runtime import Runtime
from service.schemas import JobAccepted
from service.timings import Timings, deadline_in
from service.triples import Triple, join_subject, make_triple, split_subject

router = APIRouter(prefix="/v1/graphs", tags=["graphs"], route_class=JsonRoute)
imports = APIRouter(prefix="/v1/graphs", tags=["graphs"])
"""Without a limited body: an import has its own limit."""


@router.put(
    "/{name}",
    response_model=GraphInfo,
    responses={201: {"model": GraphInfo, "description": "It was created now."}},
)
async def put_graph(request: Request, runtime: Ready, name: str, body: GraphBody | None = None) -> Response:
    """Create a graph, or find it as it is."""
    check_name(name)
    graph, is_new = await in_pool(request, runtime.write_pool, runtime.graphs.create, name)
    return json_response(await in_pool(request, runtime.search_pool, _info, graph), 201 if is_new else 200)


@router.get("", response_model=GraphList)
async def list_graphs(request: Request, runtime: Ready) -> Response:
    """List all graphs."""
    found = []
    for name in runtime.graphs.names():
        with suppress(NotFound):  # deleted since
            found.append(await in_pool(request, runtime.search_pool, _info, runtime.graphs.get(name)))
    return json_response({"graphs": found})


@router.get("/{name}", response_model=GraphInfo)
async def get_graph(request: Request, runtime: Ready, name: str) -> Response:
    """Describe a graph."""
    return json_response(await in_pool(request, runtime.search_pool, _info, runtime.graphs.get(name)))


@router.delete("/{name}", status_code=204)
async def delete_graph(request: Request, runtime: Ready, name: str) -> Response:
    """Remove a graph with everything in it."""
    await in_pool(request, runtime.write_pool, runtime.graphs.delete, name)
    return Response(status_code=204)


@router.post("/{name}/triples", response_model=Added)
async def post_triples(request: Request, runtime: Ready, name: str, body: TriplesBody) -> Response:
    """Add triples: durable and part of every answer when it answers."""
    check_name(name)
    changes = _changes(body, runtime, is_removal=False)
    graph, _ = await in_pool(request, runtime.write_pool, runtime.graphs.create, name)
    added = await in_pool(request, runtime.write_pool, graph.change, changes)
    note(request.scope, triples=added)
    return json_response({"added": added, "existing": len(changes) - added})


@router.post("/{name}/triples/delete", response_model=Removed)
async def delete_triples(request: Request, runtime: Ready, name: str, body: TriplesBody) -> Response:
    """Remove triples; unknown ones are ignored."""
    graph = runtime.graphs.get(name)
    changes = _changes(body, runtime, is_removal=True)
    return json_response({"deleted": await in_pool(request, runtime.write_pool, graph.change, changes)})


@imports.post(
    "/{name}/imports",
    status_code=202,
    response_model=JobAccepted,
    openapi_extra=file_of("text/tab-separated-values", "text/plain"),
)
async def post_triples_import(request: Request, runtime: Ready, name: str) -> Response:
    """Take lines `subject TAB predicate TAB object` of any length; the job adds them all at once, when they are read."""
    check_name(name)
    given = request.headers.get("content-type", "")
    if format_of_content_type(given) not in ("tsv", "txt"):
        raise InvalidRequest(f"content type {given[:100]!r} is not one of text/tab-separated-values, text/plain")
    id, spool, compression = await spooled_body(request, runtime)
    with removed_where_refused(spool):
        # Not `in_pool`: looking whether the caller is there would read, and lose, what the caller sends.
        graph, _ = await asyncio.wrap_future(runtime.write_pool.submit(runtime.graphs.create, name))
    options = {"compression": compression, "graph": graph.id}
    job = await asyncio.to_thread(runtime.jobs.submit, id, "graph_import", name, options)
    return json_response({"job": job.id}, 202)


@router.post("/{name}/ask", response_model=AskResults)
async def post_question(request: Request, runtime: Ready, name: str, body: AskBody) -> Response:
    """Answer questions by facts of the graph, and by nothing else."""
    timings = Timings()
    settings = runtime.settings
    graph = runtime.graphs.get(name)
    questions = [body.question] if isinstance(body.question, str) else body.question
    if not questions:
        raise InvalidRequest("question is an empty list")
    check_most("question", len(questions), "max_queries", settings.max_queries)
    beams = capped(body, "beams", settings.max_beams)
    top_k = capped(body, "top_k", settings.max_top_k)
    for what, value, limit, most in (
        ("beams", beams, "max_beams", settings.max_beams),
        ("top_k", top_k, "max_top_k", settings.max_top_k),
    ):
        if value > most:
            raise InvalidRequest(f"{what} is {value}, at most {limit} = {most} is allowed")
    for i, question in enumerate(questions):
        if fault := wrong_text(question, runtime.limits):
            raise InvalidRequest(f"question[{i}]: {fault}" if len(questions) > 1 else f"question: {fault}")
    if runtime.asking is None:
        raise Conflict(
            f"this service has no lookup model: {settings.lookup_model} is no such folder. Name one as "
            "MOVERANK_LOOKUP_MODEL (python -m scripts.train_lookup makes it) and start the service again"
        )
    options = AskOptions(beams, top_k, body.min_probability, body.lookahead, body.explain)
    futures = runtime.asking.submit(graph.view, questions, options)
    timeout_ms = settings.default_timeout_ms
    if not await wait_for(request, futures, deadline_in(timeout_ms)):
        raise NotReady(
            f"the questions were not answered within default_timeout_ms = {timeout_ms}; send fewer, or try again later",
            retry_after_s=1,
        )
    answered = [each for future in futures for each in future.result()]
    timings.lap("lookup")
    note(request.scope, questions=len(questions), triples=len(graph.view))
    took = timings.total()
    results = [_result(question, each) for question, each in zip(questions, answered, strict=True)]
    return json_response({"results": results, "took_ms": took}, headers=timing_header(took))


@router.get("/{name}/subjects", response_model=SubjectList)
async def complete_subjects(
    request: Request,
    runtime: Ready,
    name: str,
    prefix: str = "",
    limit: Annotated[int, Query(ge=1, le=1_000)] = 20,
) -> Response:
    """Complete a prefix to the subjects that begin with it."""
    view = runtime.graphs.get(name).view
    found = await in_pool(request, runtime.search_pool, view.complete, prefix, limit)
    return json_response({"subjects": [each._asdict() for each in found]})


@router.get("/{name}/subjects/{subject:path}", response_model=SubjectFacts)
async def get_subject(
    request: Request,
    runtime: Ready,
    name: str,
    subject: str,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
) -> Response:
    """List the facts of a subject, of all its meanings or of the one in brackets."""
    view = runtime.graphs.get(name).view
    wanted, meaning = split_subject(subject)
    found, total = await in_pool(request, runtime.search_pool, _listed, view, wanted, meaning or None, limit)
    if not found and meaning:  # brackets may belong to a name whose facts have a meaning in brackets of its own
        found, total = await in_pool(request, runtime.search_pool, _listed, view, subject.strip(), None, limit)
        wanted = subject.strip() if found else wanted
    if not found:
        raise NotFound(f"there is no subject {join_subject(wanted, meaning)[:200]!r} in graph {name!r}")
    return json_response({"subject": wanted, "facts": _grouped(found), "total": total})


def _listed(view: GraphView, subject: str, meaning: str | None, limit: int) -> tuple[list[Triple], int]:
    return view.facts_of(subject, meaning, limit), view.count_of(subject, meaning)


def _info(graph: Graph) -> dict[str, Any]:
    view = graph.view
    created = datetime.datetime.fromtimestamp(int(view.facts.manifest["created_at"]), datetime.UTC)
    return {
        "name": graph.name,
        "triples": len(view),
        "subjects": view.subjects,
        "predicates": view.predicates,
        "bytes": graph.bytes(),
        "build_s": view.facts.manifest["build_s"],
        "pending": graph.pending,
        "created_at": created.isoformat().replace("+00:00", "Z"),
    }


def _changes(body: TriplesBody, runtime: Runtime, is_removal: bool) -> list[Change]:
    check_most("triples", len(body.triples), "max_documents", runtime.settings.max_documents)
    changes = []
    for i, parts in enumerate(body.triples):
        triple, reason = make_triple(parts, runtime.triple_limits)
        if triple is None:
            raise InvalidRequest(f"triples[{i}]: {reason}")
        changes.append(Change(is_removal, triple))
    return changes


def _result(question: str, answered: Answered) -> dict[str, Any]:
    answers = [answer._asdict() for answer in answered.answers]
    result = {"question": question, "truncated": answered.is_truncated, "answers": answers}
    if answered.beams is not None:
        result["beams"] = [_beam(id, beam) for id, beam in enumerate(answered.beams)]
    return result


def _beam(id: int, beam: Beam) -> dict[str, Any]:
    return {"id": id, **{"kept" if name == "is_kept" else name: told for name, told in beam._asdict().items()}}


def _grouped(triples: list[Triple]) -> list[dict[str, Any]]:
    """Put the objects of one subject, meaning and predicate together, in order."""
    objects: dict[tuple[str, str, str], list[str]] = {}
    for subject, meaning, predicate, object in triples:
        objects.setdefault((subject, meaning, predicate), []).append(object)
    return [
        {"subject": subject, "meaning": meaning, "predicate": predicate, "objects": listed}
        for (subject, meaning, predicate), listed in objects.items()
    ]
