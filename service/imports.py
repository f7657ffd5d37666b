"""Imports: a file of any length into a collection, in constant memory, resumable at any line.

Lines are read in windows; inside a window texts are encoded longest first, in batches of a token budget. While one window is
being encoded the next is read and tokenized. A window's documents and the position behind its last line are one transaction, so
that a crash neither loses nor repeats a line.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from service.collections import Collection
from service.corpus_files import DocumentReader, id_of_line, read_documents
from service.document_rules import Entry, Limits
from service.errors import Conflict, NotReady
from service.indexing import Batch, Indexed, Indexer
from service.jobs import Job, Postponed, Progress
from service.library import Library

WINDOW_LINES = 1_024
"""Lines whose documents are sorted by length, encoded and committed together."""
WINDOW_CHARS = 1 << 17
"""Characters after which a window is full, whatever its documents: some seconds of one core, so that progress can be seen."""


class _Window(NamedTuple):
    batch: Batch
    numbers: list[int]  # line of each document
    rejected: list[tuple[int, str]]  # lines that are no documents, and why
    position: int  # of the last line
    fraction: float  # of the file that is read by then
    broken: str | None  # why nothing after it can be read


def import_documents(library: Library, indexer: Indexer, limits: Limits, job: Job) -> None:
    """Run an import job: its spooled body into its collection."""
    try:
        collection = library.get(job.target)
        collection.check_model(indexer.fingerprint)  # it may be another one than when the job was accepted
    except (NotReady, Conflict) as error:
        raise Postponed(error.sentence) from error
    job.when_recorded = partial(collection.forget_progress, job.id)
    with collection.view() as view:
        recorded = view.progress(job.id)
    job.progress = Progress(**recorded) if recorded else Progress()
    job.begin()
    job.check()
    format, compression, name = job.options["format"], job.options["compression"], job.options["name"]
    with read_documents(job.spool, format, compression, job.progress.position, limits, job.check) as reader:
        try:
            import_lines(collection, indexer, reader, name, job)
            job.progress.check_end()
        except NotReady as error:
            if indexer.is_beyond_repair:
                raise Postponed("the encoder hangs: the service must be started again") from error
            raise


def import_lines(collection: Collection, indexer: Indexer, reader: DocumentReader, name: str, job: Job) -> None:
    """Write the documents of a reader to a collection; ``name`` names the lines that bring no id."""
    waiting: _Window | None = None
    try:
        for window in _windows(indexer, reader, name):
            previous, waiting = waiting, window
            if previous is not None:
                _finish(collection, indexer, previous, job)
            job.check()
        if waiting is not None:
            _finish(collection, indexer, waiting, job)
    finally:
        if waiting is not None:
            waiting.batch.submission.cancel()  # nobody waits for it where the job stops here


def _windows(indexer: Indexer, reader: DocumentReader, name: str) -> Iterator[_Window]:
    """Begin encoding window after window."""
    entries: list[Entry] = []
    numbers: list[int] = []
    rejected: list[tuple[int, str]] = []
    position = chars = 0
    for line in reader:
        position = line.number
        if line.document is None:
            rejected.append((position, line.error or "unreadable"))
        else:
            entry = line.document
            entry["id"] = entry["id"] or id_of_line(name, position)
            entries.append(entry)
            numbers.append(position)
            chars += len(entry["text"])
        if len(entries) + len(rejected) >= WINDOW_LINES or chars >= WINDOW_CHARS:
            yield _Window(
                indexer.begin(entries, is_limited=False), numbers, rejected, position, reader.fraction, reader.broken
            )
            entries, numbers, rejected, chars = [], [], [], 0
    if entries or rejected:
        yield _Window(indexer.begin(entries, is_limited=False), numbers, rejected, position, 1.0, reader.broken)


def _finish(collection: Collection, indexer: Indexer, window: _Window, job: Job) -> None:
    """Write a window; its progress becomes the job's when it is durable."""
    progress = copy.deepcopy(job.progress)

    def record(indexed: Indexed) -> dict[str, Any]:
        refused = [(window.numbers[each.position], each.reason) for each in indexed.refused]
        for number, reason in sorted([*window.rejected, *refused]):
            progress.reject(number, reason)
        progress.done += len(window.numbers) - len(refused)
        progress.truncated += len(indexed.truncated)
        progress.position = window.position
        progress.broken = window.broken
        return progress.record()

    indexer.finish(collection, window.batch, job.id, record)
    job.progress = progress
    job.fraction = window.fraction
