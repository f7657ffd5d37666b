"""Imports and the jobs that they become."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from fastapi import APIRouter, Query, Request, Response
from sse_starlette import EventSourceResponse

from service.errors import InvalidRequest, NotFound
from service.file_formats import format_of_content_type
from service.jobs import Job
from service.library import check_name
from service.numbered_lines import Compression
from service.routes.calls import Ready, json_response, limited_stream
from service.runtime import Runtime
from service.schemas import JobAccepted, JobInfo, JobList, JobState

router = APIRouter(prefix="/v1", tags=["jobs"])

EVENT_INTERVAL_S = 0.5
FILES = (
    *("application/x-ndjson", "text/csv", "text/tab-separated-values", "text/plain"),
    "application/vnd.apache.parquet",
)
"""Content types of an import, each in one of its names."""
PACKED = "send it unpacked, or packed by gzip, xz or zstd"
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gz", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst"}
_UNKNOWN_MAGIC = {
    b"BZh91AY&SY": "bzip2",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x5d\x00\x00\x80\x00": "lzma",
}
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "zstd", "xz")
"""Content encodings of a body; what it really is, its first bytes say."""


def file_of(*kinds: str) -> dict[str, Any]:
    """Describe a body that is a file of one of these content types."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/collections/{name}/imports",
    status_code=202,
    response_model=JobAccepted,
    openapi_extra=file_of(*FILES),
)
async def post_import(request: Request, runtime: Ready, name: str) -> Response:
    """Take a body of any length and index it as a job. gzip, xz and zstd are recognised by their first bytes."""
    check_name(name)
    given = request.headers.get("content-type", "")
    format = format_of_content_type(given)
    if format is None:
        raise InvalidRequest(f"content type {given[:100]!r} is not one of {', '.join(FILES)}")
    with suppress(NotFound):  # what is wrong with one that exists is said before a long body is read
        runtime.library.get(name).check_model(runtime.encoder.fingerprint)
    id, spool, compression = await spooled_body(request, runtime)
    with removed_where_refused(spool):
        if format == "parquet" and compression is not None:
            raise InvalidRequest(f"parquet is compressed inside: unpack the .{compression} first")
        # Not `in_pool`: looking whether the caller is there would read, and lose, what the caller sends.
        collection, _ = await asyncio.wrap_future(runtime.write_pool.submit(runtime.create_collection, name))
        collection.check_model(runtime.encoder.fingerprint)
    options = {"format": format, "compression": compression, "name": id}
    job = await asyncio.to_thread(runtime.jobs.submit, id, "import", name, options)
    return json_response({"job": job.id}, 202)


async def spooled_body(request: Request, runtime: Runtime) -> tuple[str, Path, Compression | None]:
    """Take a body of any length; return the id of a job to come, the durable file with the body, and how that is packed.

    Raises:
        TooLarge: it is longer than the limit.
        InvalidRequest: it is packed in a way that is not read.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise InvalidRequest(f"content encoding {encoding[:40]!r} is not read: {PACKED}")
    id, spool = runtime.jobs.new_spool()
    with removed_where_refused(spool):
        with spool.open("wb") as file:
            async for chunk in limited_stream(request, "max_import_bytes", runtime.settings.max_import_bytes):
                file.write(chunk)
            await asyncio.to_thread(_make_durable, file)
        return id, spool, _compression_of(spool)


@contextmanager
def removed_where_refused(spool: Path) -> Iterator[None]:
    """Remove a body that becomes no job."""
    try:
        yield
    except BaseException:
        spool.unlink(missing_ok=True)
        raise


@router.get("/jobs", response_model=JobList)
async def get_jobs(
    runtime: Ready, state: JobState | None = None, target: str | None = None, limit: int = Query(100, ge=1, le=1_000)
) -> Response:
    """List jobs, the newest first: all, those in a state, those of a collection or graph."""
    found = [
        job
        for job in reversed(runtime.jobs.all())
        if (state is None or job.state == state) and (target is None or job.target == target)
    ]
    return json_response({"jobs": [job.status() for job in found[:limit]]})


@router.get("/jobs/{id}", response_model=JobInfo)
async def get_job(runtime: Ready, id: str) -> Response:
    """Say how far a job is."""
    return json_response(runtime.jobs.get(id).status())


@router.get(
    "/jobs/{id}/events",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def get_job_events(runtime: Ready, id: str) -> EventSourceResponse:
    """Send a job's state as server-sent events until it ends."""
    return EventSourceResponse(_events(runtime.jobs.get(id)))


@router.delete("/jobs/{id}", response_model=JobInfo)
async def delete_job(runtime: Ready, id: str) -> Response:
    """Cancel a job at its next batch; what it has written stays."""
    job = await asyncio.to_thread(runtime.jobs.cancel, id)
    for _ in range(100):
        if job.state != "running":
            break
        await asyncio.sleep(0.05)
    return json_response(job.status())


async def _events(job: Job) -> AsyncIterator[dict[str, str]]:
    while True:
        status = job.status()
        yield {"event": "progress" if status["state"] == "running" else "end", "data": orjson.dumps(status).decode()}
        if status["state"] != "running":
            return
        await asyncio.sleep(EVENT_INTERVAL_S)


def _compression_of(spool: Path) -> Compression | None:
    """Return how a file is compressed, by its first bytes; raises InvalidRequest where that is not read."""
    with spool.open("rb") as file:
        start = file.read(16)
    for magic, name in _UNKNOWN_MAGIC.items():
        if start.startswith(magic):
            raise InvalidRequest(f"the body is packed by {name}, which is not read: {PACKED}")
    if 0x50 <= start[0:1].ljust(1)[0] <= 0x5F and start[1:4] == b"\x2a\x4d\x18":
        return "zst"  # it begins with a frame to be skipped
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def _make_durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
