"""Imports: a file of any length into a collection, in constant memory, resumable at any line.

Lines are read in windows; inside a window texts are encoded longest first, in batches of a token budget. While one window is
being encoded the next is read and tokenized. A window's documents and the position behind its last line are one transaction, so
that a crash neither loses nor repeats a line.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from service.collections import Collection, Library
from service.corpus_files import DocumentReader, id_of_line, read_documents
from service.document_rules import Entry, Limits
from service.indexing import Batch, Indexer
from service.jobs import Job, Progress

WINDOW_LINES = 1_024
"""Lines whose documents are sorted by length, encoded and committed together."""
WINDOW_CHARS = 1 << 20
"""Characters after which a window is full, whatever its documents."""


class _Window(NamedTuple):
    batch: Batch
    progress: Progress  # when this window and all before it are written
    fraction: float  # of the file that is read by then


def import_documents(library: Library, indexer: Indexer, limits: Limits, job: Job) -> None:
    """Run an import job: its spooled body into its collection."""
    collection = library.get(job.target)
    job.when_recorded = partial(collection.forget_progress, job.id)
    with collection.view() as view:
        recorded = view.progress(job.id)
    job.progress = Progress(**recorded) if recorded else Progress()
    job.begin()
    format, compression, name = job.options["format"], job.options["compression"], job.options["name"]
    with read_documents(job.spool, format, compression, job.progress.position, limits) as reader:
        import_lines(collection, indexer, reader, name, job)


def import_lines(collection: Collection, indexer: Indexer, reader: DocumentReader, name: str, job: Job) -> None:
    """Write the documents of a reader to a collection; ``name`` names the lines that bring no id."""
    waiting: _Window | None = None
    for window in _windows(indexer, reader, name, copy.deepcopy(job.progress)):
        if waiting is not None:
            _finish(collection, indexer, waiting, job)
        waiting = window
        job.check()
    if waiting is not None:
        _finish(collection, indexer, waiting, job)


def _windows(indexer: Indexer, reader: DocumentReader, name: str, progress: Progress) -> Iterator[_Window]:
    """Begin encoding window after window; ``progress`` runs ahead of what is written."""
    entries: list[Entry] = []
    numbers: list[int] = []  # line of each entry
    lines = chars = 0
    for line in reader:
        progress.position = line.number
        lines += 1
        if line.document is None:
            progress.reject(line.number, line.error or "unreadable")
        else:
            entry = line.document
            entry["id"] = entry["id"] or id_of_line(name, line.number)
            entries.append(entry)
            numbers.append(line.number)
            chars += len(entry["text"])
        if lines >= WINDOW_LINES or chars >= WINDOW_CHARS:
            yield _window(indexer, entries, numbers, progress, reader.fraction)
            entries, numbers, lines, chars = [], [], 0, 0
    yield _window(indexer, entries, numbers, progress, 1.0)


def _window(
    indexer: Indexer, entries: list[Entry], numbers: list[int], progress: Progress, fraction: float
) -> _Window:
    batch = indexer.begin(entries, is_limited=False)
    for position in batch.unreadable:
        progress.reject(numbers[position], "the text has no token that the model can read")
    progress.done += len(entries) - len(batch.unreadable)
    progress.truncated += len(batch.truncated)
    return _Window(batch, copy.deepcopy(progress), fraction)


def _finish(collection: Collection, indexer: Indexer, window: _Window, job: Job) -> None:
    indexer.finish(collection, window.batch, job.id, window.progress.record())
    job.progress = window.progress
    job.fraction = window.fraction
