"""Streaming readers: a file or a body of any size becomes numbered documents, in constant memory.

Whatever is wrong with a line becomes an error with that line's number and a reason a person can act on, and reading
goes on. Only a broken container (a truncated gzip, a file in UTF-16, a table without a column `text`) ends a file
early, and that too is an error with a number.

| format | a document is | its number |
|---|---|---|
| jsonl | ``{"text", "id"?, "metadata"?}``, other fields are metadata too; or a bare string, which is the text | line |
| csv | a record (RFC 4180: quotes, quoted newlines) under a header with a column `text` | its first line |
| tsv | the same without quotes; if no field of the first line is `text`, there is no header: id TAB text | line |
| txt | a line | line |
| parquet | a row with a column `text` | row |

The column `id` names the document, other columns are metadata. UTF-8, with or without a byte order mark. Blank lines
are skipped (and counted). Empty cells are left out of the metadata, and so are columns without a name (the index of a
data frame).
"""

import csv
import io
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import orjson
import pyarrow
import pyarrow.parquet

from service.document_rules import DEFAULT_LIMITS, Entry, Limits, check_document, from_cells, from_record, wrong_header
from service.file_formats import Format
from service.long_integers import wrong_integer
from service.numbered_lines import Compression, Row, first_line, numbered_rows, unpacked, wrong_utf8
from service.parquet_values import plain_records, portions, text_columns

_MAX_RECORD_LINES = 1_000  # of a csv record: how much an unclosed quote makes us read twice
_PARQUET_ROWS = 256
_HEAD_BYTES = 200

csv.field_size_limit((1 << 31) - 1)  # the process-wide limit of 128 KiB; Limits.max_line_bytes bounds a record instead


class Line(NamedTuple):
    """One line or record of a file: a document, or the reason why it is none."""

    number: int  # from 1
    document: Entry | None
    error: str | None
    head: str = ""  # how a line that is no document begins
    ends: bool = False  # nothing after it can be read


Lines = Generator[Line, None, None]


class _UnreadableError(Exception):
    """A record cannot be read: a line of it cannot be decoded, or it does not end."""


def id_of_line(name: str, number: int) -> str:
    """Name a document that brought no id: the same line of the same file always gets the same one."""
    return f"{name[-200:]}:{number}"


def read_documents(
    source: str | Path | BinaryIO,
    format: Format,
    compression: Compression | None = None,
    skip: int = 0,
    limits: Limits = DEFAULT_LIMITS,
    check: Callable[[], None] = lambda: None,
) -> "DocumentReader":
    """Read a file, or a binary stream from where it stands, without the first ``skip`` lines.

    ``check`` is called now and then, also while lines are skipped or blank, and may raise to stop the reading.

    Raises:
        OSError: the file cannot be opened.
        ValueError: parquet inside another compression, or from a stream that cannot seek.
    """
    return DocumentReader(source, format, compression, skip, limits, check)


class DocumentReader(Iterator[Line]):
    """Iterates over the lines of one file; a file that it opened is closed at the end, by `close`, or by ``with``."""

    def __init__(
        self,
        source: str | Path | BinaryIO,
        format: Format,
        compression: Compression | None,
        skip: int,
        limits: Limits,
        check: Callable[[], None],
    ) -> None:
        """Open the file; see `read_documents`."""
        if format == "parquet" and compression is not None:
            raise ValueError(f"parquet is compressed inside: unpack the .{compression} first")
        self._is_owner = isinstance(source, str | Path)
        self._raw = open(source, "rb") if isinstance(source, str | Path) else source  # noqa: SIM115 (closed by `close`)
        self._fraction, self._size = 0.0, 0
        self._check = check
        if self._raw.seekable():
            start = self._raw.tell()
            self._size = self._raw.seek(0, io.SEEK_END)
            self._raw.seek(start)
        elif format == "parquet":
            raise ValueError("parquet is read from a file, not from a stream")
        if format == "parquet":
            self._lines = self._parquet_lines(skip, limits)
        else:
            rows = numbered_rows(self._measured(unpacked(self._raw, compression)), limits.max_line_bytes)
            self._lines = _LINES_OF[format](self._noted(rows), limits)
        self._skip = skip
        self.broken: str | None = None
        """Why the file cannot be read to its end, once that is known."""

    @property
    def fraction(self) -> float:
        """How much of the file was read, in [0, 1]; 0 until the end if its size is unknown."""
        return self._fraction

    def close(self) -> None:
        """Stop reading."""
        self._lines.close()
        if self._is_owner:
            self._raw.close()

    def __next__(self) -> Line:
        """Return the next line that is not blank."""
        for line in self._lines:
            if line.ends:
                self.broken = line.error
            if line.number > self._skip:
                return line
        self._fraction = 1.0
        self.close()
        raise StopIteration

    def __enter__(self) -> "DocumentReader":
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _measured(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self._check()
            if self._size:
                self._fraction = min(1.0, self._raw.tell() / self._size)
            yield block

    def _noted(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if row.ends:
                self.broken = row.error
            yield row

    def _parquet_lines(self, skip: int, limits: Limits) -> Lines:
        number = 0
        try:
            schema = pyarrow.parquet.read_schema(self._raw)
            self._raw.seek(0)
            with pyarrow.parquet.ParquetFile(
                self._raw, buffer_size=1 << 20, pre_buffer=False, read_dictionary=text_columns(schema)
            ) as file:
                if reason := wrong_header([field.name for field in file.schema_arrow]):
                    yield Line(1, None, reason, ends=True)
                    return
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    if number + size <= skip:
                        number += size
                        continue
                    for batch in file.iter_batches(batch_size=_PARQUET_ROWS, row_groups=[group]):
                        self._check()
                        for record, reason in _records(batch, limits):
                            number += 1
                            self._fraction = number / file.metadata.num_rows
                            checked = (None, reason) if reason else from_record(record, limits)
                            yield _line(number, checked, str(record).encode("utf-8", "replace"))
        except (pyarrow.ArrowException, OSError) as error:
            yield Line(
                number + 1, None, f"the parquet file cannot be read from this row on: {first_line(error)}", ends=True
            )


def _records(batch: Any, limits: Limits) -> Iterator[tuple[dict[str, Any], str | None]]:
    for portion, reason in portions(batch, limits.max_line_bytes):
        if reason:
            yield {}, reason
        else:
            yield from plain_records(portion)


def _jsonl_lines(rows: Iterator[Row], limits: Limits) -> Lines:
    for number, content, reason, _ in rows:
        if not reason and not content.strip():
            continue
        record = None
        try:
            record = None if reason else orjson.loads(content)
        except orjson.JSONDecodeError as error:
            reason = wrong_utf8(content) or f"not JSON: {error.msg} at character {error.colno}"
        else:
            reason = reason or wrong_integer(content)
        record = {"text": record} if isinstance(record, str) else record
        yield _line(number, (None, reason) if reason else from_record(record, limits), content)


def _txt_lines(rows: Iterator[Row], limits: Limits) -> Lines:
    for number, content, reason, _ in rows:
        if reason := reason or wrong_utf8(content):
            yield _line(number, (None, reason), content)
        elif (text := content.decode().removesuffix("\r")).strip():
            yield _line(number, check_document({"text": text}, limits), content)


def _tsv_lines(rows: Iterator[Row], limits: Limits) -> Lines:
    header: list[str] | None = None
    for number, content, reason, _ in rows:
        if reason := reason or wrong_utf8(content):
            yield _line(number, (None, reason), content)
            continue
        fields = content.decode().removesuffix("\r").split("\t")
        if not any(field.strip() for field in fields):
            continue
        if header is None:
            header = [field.strip() for field in fields]
            if "text" in header:
                if reason := wrong_header(header):
                    yield _line(number, (None, reason), content)._replace(ends=True)
                    return
                continue
            header = ["id", "text"]
        yield _line(number, from_cells(header, fields, limits), content)


class _RecordFeed(Iterator[str]):
    """Feeds lines to a csv reader, bounds a record, and takes back what a broken record swallowed."""

    def __init__(self, rows: Iterator[Row], max_bytes: int) -> None:
        self._rows = rows
        self._max_bytes = max_bytes
        self._again: deque[Row] = deque()
        self._bytes = 0
        self.record: list[Row] = []  # the lines of the record that is being read

    def begin_record(self) -> None:
        self.record.clear()
        self._bytes = 0

    def take_back(self) -> None:
        """Let all but the first line of the record be read again."""
        self._again.extendleft(reversed(self.record[1:]))

    def __next__(self) -> str:
        if len(self.record) >= _MAX_RECORD_LINES or self._bytes > self._max_bytes:
            limits = f"{_MAX_RECORD_LINES} lines or max_line_bytes={self._max_bytes}"
            raise _UnreadableError(f"a quoted field goes on for more than {limits}: is its closing quote missing?")
        row = self._again.popleft() if self._again else next(self._rows)
        self.record.append(row)
        self._bytes += len(row.content)
        if reason := row.error or wrong_utf8(row.content):
            raise _UnreadableError(reason)
        return row.content.decode() + "\n"


def _csv_lines(rows: Iterator[Row], limits: Limits) -> Lines:
    feed = _RecordFeed(rows, limits.max_line_bytes)
    reader = csv.reader(feed, strict=True)
    header: list[str] | None = None
    while True:
        feed.begin_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (_UnreadableError, csv.Error) as error:
            feed.take_back()
            reason = f"not CSV: {error}" if isinstance(error, csv.Error) else str(error)
            yield _line(feed.record[0].number, (None, reason), feed.record[0].content)
            continue
        number, content, *_ = feed.record[0]
        if not any(field.strip() for field in fields):
            continue
        if header is not None:
            yield _line(number, from_cells(header, fields, limits), content)
            continue
        header = [field.strip() for field in fields]
        if header_reason := wrong_header(header):
            yield _line(number, (None, header_reason), content)._replace(ends=True)
            return


_LINES_OF: dict[str, Callable[[Iterator[Row], Limits], Lines]] = {
    "jsonl": _jsonl_lines,
    "csv": _csv_lines,
    "tsv": _tsv_lines,
    "txt": _txt_lines,
}


def _line(number: int, checked: tuple[Entry | None, str | None], content: bytes) -> Line:
    document, reason = checked
    return Line(number, document, reason, content[:_HEAD_BYTES].decode("utf-8", "replace") if reason else "")
