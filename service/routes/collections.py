"""Collections and their documents."""

import datetime
from collections import Counter
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.convertors import PathConvertor, register_url_convertor

from service.collections import Collection
from service.document_rules import Entry, check_document
from service.documents import Document
from service.errors import Conflict, InvalidRequest, NotFound, ServiceError
from service.indexing import CANNOT_ENCODE, NO_TOKEN
from service.library import check_name
from service.long_integers import wrong_integer
from service.routes.calls import JsonRoute, Ready, in_pool, json_response, until_encoded
from service.runtime import Runtime
from service.schemas import (
    CollectionBody,
    CollectionInfo,
    CollectionList,
    Deleted,
    DocumentBody,
    DocumentInfo,
    DocumentPage,
    DocumentsBody,
    IdsBody,
    Upserted,
)


class IdConvertor(PathConvertor):
    """The rest of a path, line breaks included: Starlette's own `path` leaves out one at the end."""

    regex = r"[\s\S]+"


register_url_convertor("id", IdConvertor())

PAGE_CHARS = 4_000_000
"""Characters of texts and metadata in one page of documents; a thousand of the longest could be 300 MB."""
router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=JsonRoute)


@router.put(
    "/{name}",
    response_model=CollectionInfo,
    responses={201: {"model": CollectionInfo, "description": "It was created now."}},
)
async def put_collection(request: Request, runtime: Ready, name: str, body: CollectionBody | None = None) -> Response:
    """Create a collection, or find it as it is."""
    check_name(name)
    wanted = body.index if body else "auto"
    collection, is_new = await in_pool(request, runtime.write_pool, runtime.create_collection, name, wanted)
    if body is not None and "index" in body.model_fields_set and collection.manifest["index"] != wanted:
        raise Conflict(f"collection {name!r} exists with the index {collection.manifest['index']!r}, not {wanted!r}")
    return json_response(await in_pool(request, runtime.search_pool, _info, collection), 201 if is_new else 200)


@router.get("", response_model=CollectionList)
async def list_collections(request: Request, runtime: Ready) -> Response:
    """List all collections."""
    found = []
    for name in runtime.library.names():
        with suppress(NotFound):  # deleted since
            found.append(await in_pool(request, runtime.search_pool, _info, runtime.library.get(name)))
    return json_response({"collections": found})


@router.get("/{name}", response_model=CollectionInfo)
async def get_collection(request: Request, runtime: Ready, name: str) -> Response:
    """Describe a collection."""
    return json_response(await in_pool(request, runtime.search_pool, _info, runtime.library.get(name)))


@router.delete("/{name}", status_code=204)
async def delete_collection(request: Request, runtime: Ready, name: str) -> Response:
    """Remove a collection with everything in it."""
    await in_pool(request, runtime.write_pool, runtime.library.delete, name)
    return Response(status_code=204)


@router.post("/{name}/documents", response_model=Upserted)
async def post_documents(request: Request, runtime: Ready, name: str, body: DocumentsBody) -> Response:
    """Write documents: durable and searchable when it answers."""
    check_name(name)
    _check_count("documents", len(body.documents), runtime)
    entries = await in_pool(request, runtime.write_pool, _entries, await request.body(), body, runtime)
    batch = await in_pool(request, runtime.write_pool, runtime.indexer.begin, entries, True)
    try:
        if batch.unreadable:
            raise InvalidRequest(f"documents[{min(batch.unreadable)}]: {NO_TOKEN}")
        collection, _ = await in_pool(request, runtime.write_pool, runtime.create_collection, name)
        collection.check_model(runtime.encoder.fingerprint)
    except ServiceError:
        batch.submission.cancel()
        raise
    await until_encoded(request, batch.submission)
    if failures := batch.submission.outcome().failures:
        raise InvalidRequest(f"documents[{batch.positions[min(failures)]}]: {CANNOT_ENCODE}")
    indexed = await in_pool(request, runtime.write_pool, runtime.indexer.finish, collection, batch)
    return json_response({"upserted": len(indexed.ids), "ids": indexed.ids, "truncated": indexed.truncated})


@router.get("/{name}/documents", response_model=DocumentPage)
async def page_documents(
    request: Request, runtime: Ready, name: str, limit: Annotated[int, Query(ge=1, le=1_000)] = 100, after: str = ""
) -> Response:
    """Page through documents in order of id; long documents make a page shorter than `limit`."""
    collection = runtime.library.get(name)
    found, rest = await in_pool(request, runtime.search_pool, _page, collection, after, limit)
    return json_response({"documents": [_document(document) for document in found], "next": rest})


@router.post("/{name}/documents/delete", response_model=Deleted)
async def delete_documents(request: Request, runtime: Ready, name: str, body: IdsBody) -> Response:
    """Remove documents by id; unknown ids are ignored."""
    collection = runtime.library.get(name)
    _check_count("ids", len(body.ids), runtime)
    ids = [str(id) for id in body.ids]
    return json_response({"deleted": await in_pool(request, runtime.write_pool, collection.delete, ids)})


@router.get("/{name}/documents/{id:id}", response_model=DocumentInfo)
async def get_document(request: Request, runtime: Ready, name: str, id: str) -> Response:
    """Return one document."""
    found = await in_pool(request, runtime.search_pool, _find, runtime.library.get(name), id)
    if found is None:
        raise NotFound(f"there is no document {id!r} in collection {name!r}")
    return json_response(_document(found))


@router.delete("/{name}/documents/{id:id}", response_model=Deleted)
async def delete_document(request: Request, runtime: Ready, name: str, id: str) -> Response:
    """Remove one document."""
    deleted = await in_pool(request, runtime.write_pool, runtime.library.get(name).delete, [id])
    if not deleted:
        raise NotFound(f"there is no document {id!r} in collection {name!r}")
    return json_response({"deleted": deleted})


def _info(collection: Collection) -> dict[str, Any]:
    with collection.view() as view:
        count = view.count()
    manifest = collection.manifest
    created = datetime.datetime.fromtimestamp(int(manifest["created_at"]), datetime.UTC)
    return {
        "name": collection.name,
        "documents": count,
        "model": manifest["fingerprint"],
        "dim": collection.dim,
        "index": manifest["index"],
        "index_in_use": collection.vectors.kind,
        "bytes": collection.bytes(),
        "created_at": created.isoformat().replace("+00:00", "Z"),
    }


def _page(collection: Collection, after: str, limit: int) -> tuple[list[Document], str | None]:
    """Return a page and after which id the next one begins, None where there is none."""
    with collection.view() as view:
        found = view.page(after, limit, PAGE_CHARS)
        return found, found[-1].id if found and view.page(found[-1].id, 1) else None


def _find(collection: Collection, id: str) -> Document | None:
    with collection.view() as view:
        return view.document(id)


def _document(document: Document) -> dict[str, Any]:
    return {"id": document.id, "text": document.text, "metadata": document.metadata}


def _entries(content: bytes, body: DocumentsBody, runtime: Runtime) -> list[Entry]:
    """Check the documents of a body; raises InvalidRequest for the first that is none, and for an id that occurs twice."""
    if wrong := wrong_integer(content):
        raise InvalidRequest(wrong)
    entries = [_entry(i, document, runtime) for i, document in enumerate(body.documents)]
    given = [entry["id"] for entry in entries if entry["id"] is not None]
    if len(set(given)) < len(given):
        twice, _ = Counter(given).most_common(1)[0]
        raise InvalidRequest(f"the id {twice!r} occurs more than once in one request")
    return entries


def _entry(position: int, document: DocumentBody, runtime: Runtime) -> Entry:
    entry, reason = check_document(document.model_dump(), runtime.limits)
    if entry is None:
        raise InvalidRequest(f"documents[{position}]: {reason}")
    return entry


def _check_count(what: str, count: int, runtime: Runtime) -> None:
    limit = runtime.settings.max_documents
    if count > limit:
        raise InvalidRequest(f"the request has {count} {what}, at most max_documents = {limit} are allowed")
