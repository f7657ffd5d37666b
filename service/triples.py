"""Triples as people write them: a line `subject TAB predicate TAB object`, read by the million.

A subject may carry its meaning, what tells it from others of its name, in full-width brackets at its end: 刘晓华（歌手）.
Columns after the third are ignored, blank lines are skipped. Lines are found and cut by NumPy, a block of the file at a
time, and only the distinct names of a block become Python strings; whatever is wrong with a line becomes a `Reject` with
its number.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from numpy.typing import NDArray

from service.numbered_lines import DAMAGE, Compression, first_line, unpacked, wrong_utf8

BLOCK_BYTES = 1 << 24
MAX_LINE_BYTES = 1 << 20
MAX_BLOCK_LINES = 1 << 20
PORTION_BYTES = 1 << 20
"""What is read at once of a block with more lines than ``MAX_BLOCK_LINES``: reading takes many times the bytes of short lines."""
_HEAD_CHARS = 200
_TAB, _NEWLINE, _RETURN, _SPACE = 9, 10, 13, 32
_WIDE_SPACES = np.array([0xC2, 0xE1, 0xE2, 0xE3], np.uint8)  # how white space beyond ASCII begins in UTF-8

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


class Triple(NamedTuple):
    """A fact. The meaning is empty where the subject needs none."""

    subject: str
    meaning: str
    predicate: str
    object: str


class TripleLimits(NamedTuple):
    """How long the parts of a triple may be, in characters."""

    max_name_chars: int = 256  # of a subject with its meaning, and of a predicate
    max_text_chars: int = 100_000  # of an object


DEFAULT_LIMITS = TripleLimits()


class Reject(NamedTuple):
    """A line that is no triple."""

    line: int
    reason: str
    head: str  # how it begins


class TripleBlock(NamedTuple):
    """Triples of consecutive lines: distinct names, and for each triple their numbers."""

    subjects: list[tuple[str, str]]  # subject, meaning
    predicates: list[str]
    subject_of: NDArray[np.int32]  # (n,)
    predicate_of: NDArray[np.int32]  # (n,)
    objects: bytes  # each ended by a newline
    object_places: Places  # (n,), where each begins
    rejects: list[Reject]
    last_line: int


def split_subject(text: str) -> tuple[str, str]:
    """Split a subject as it is written into its name and its meaning, which is empty where there are no brackets at the end."""
    text = text.strip()
    if text.endswith("）"):
        depth = 0
        for i in range(len(text) - 1, 0, -1):
            depth += (text[i] == "）") - (text[i] == "（")
            if depth == 0:
                name = text[:i].strip()
                return (name, text[i + 1 : -1].strip()) if name else (text, "")
    return text, ""


def join_subject(subject: str, meaning: str) -> str:
    """Write a subject with its meaning."""
    return f"{subject}（{meaning}）" if meaning else subject


def make_triple(parts: Sequence[str], limits: TripleLimits) -> tuple[Triple | None, str | None]:
    """Return the triple of subject, predicate and object as they are written, or the reason why these are none."""
    subject, predicate, object = parts
    for what, text, most, limit in (
        ("the subject", subject, limits.max_name_chars, "max_name_chars"),
        ("the predicate", predicate, limits.max_name_chars, "max_name_chars"),
        ("the object", object, limits.max_text_chars, "max_text_chars"),
    ):
        if reason := wrong_part(what, text, most, limit):
            return None, reason
    return Triple(*split_subject(subject), predicate.strip(), object), None


def wrong_part(what: str, text: str, most: int, limit: str) -> str | None:
    """Return why a text cannot be a part of a triple, None if it can."""
    if not text.strip():
        return f"{what} is empty"
    if len(text) > most:
        return f"{what} has {len(text)} characters, at most {limit} = {most} are allowed"
    for character, name in (("\t", "a tab"), ("\n", "a line break"), ("\r", "a line break"), ("\0", "a NUL character")):
        if character in text:
            return f"{what} contains {name}"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return f"{what} contains half of a surrogate pair"
    return None


class TripleReader(Iterator[TripleBlock]):
    """Iterates over the blocks of a file; closed by `with`."""

    def __init__(
        self,
        path: Path,
        compression: Compression | None = None,
        limits: TripleLimits = DEFAULT_LIMITS,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the file; ``check`` is called now and then and may raise to stop the reading.

        Raises:
            OSError: it cannot be opened.
        """
        self._raw = open(path, "rb")  # noqa: SIM115 (closed by `with`)
        self._size = path.stat().st_size
        self._limits = limits
        self._texts = _portions(_line_blocks(_checked(unpacked(self._raw, compression), check)))
        self._line = 0
        self.broken: str | None = None
        """Why the file cannot be read to its end, once that is known."""

    def __enter__(self) -> "TripleReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.close()

    @property
    def fraction(self) -> float:
        """How much of the file is read, from 0 to 1."""
        return min(1.0, self._raw.tell() / self._size) if self._size else 1.0

    def __next__(self) -> TripleBlock:
        """Return the next block.

        Raises:
            StopIteration: the file is read.
        """
        text = next(self._texts)
        if isinstance(text, str):  # one line or the rest of the file cannot be had
            self.broken = text if isinstance(text, _Ending) else None
            self._line += 1
            return TripleBlock([], [], _NONE, _NONE, b"", _NOWHERE, [Reject(self._line, str(text), "")], self._line)
        block = read_block(text, self._line, self._limits)
        self._line = block.last_line
        return block


_NONE: NDArray[np.int32] = np.zeros(0, np.int32)
_NOWHERE: Places = np.zeros(0, np.int64)


def read_block(text: bytes, lines_before: int, limits: TripleLimits) -> TripleBlock:
    """Read whole lines (the last one ends with a newline too)."""
    content = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(content == _NEWLINE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    tabs = np.concatenate((np.flatnonzero(content == _TAB), [len(text)] * 3))
    first = np.searchsorted(tabs, starts)
    stops = ends - ((ends > starts) & (content[ends - 1] == _RETURN))
    one, two, three = tabs[first], tabs[first + 1], np.minimum(tabs[first + 2], stops)
    is_blank = starts == stops
    # What looks wrong is looked at line by line: it may turn out to be right.
    is_odd = (
        (two >= stops)
        | (one == starts)
        | (two == one + 1)
        | (three <= two + 1)
        | _too_long(starts, one, two, three, limits)
    )
    object_first = content[np.minimum(two + 1, len(content) - 1)]
    is_odd |= (object_first <= _SPACE) | np.isin(object_first, _WIDE_SPACES)
    if wrong_utf8(text) is not None:
        is_odd[[i for i in range(len(starts)) if wrong_utf8(text[starts[i] : stops[i]])]] = True
    if b"\0" in text:
        is_odd |= np.add.reduceat(content == 0, starts) > 0
    if b"\r" in text:
        is_odd |= np.add.reduceat(content == _RETURN, starts) > (stops < ends)
    reasons: dict[int, str] = {}
    for i in np.flatnonzero(is_odd & ~is_blank).tolist():
        if reason := _wrong_line(text[starts[i] : stops[i]], limits):
            reasons[i] = reason
    good = np.ones(len(starts), bool)
    good[list(reasons)] = False
    good &= ~is_blank
    lines = np.flatnonzero(good)
    subjects, subject_of = distinct_pieces(text, starts[good], one[good])
    predicates, predicate_of = distinct_pieces(text, one[good] + 1, two[good])
    names, labels = [split_subject(each) for each in subjects], [each.strip() for each in predicates]
    for i in [i for i, (name, _) in enumerate(names) if not name]:
        reasons |= dict.fromkeys(lines[subject_of == i].tolist(), "the subject is empty")
    for i in [i for i, label in enumerate(labels) if not label]:
        reasons |= dict.fromkeys(lines[predicate_of == i].tolist(), "the predicate is empty")
    kept = ~np.isin(lines, list(reasons))
    lines = lines[kept]
    ended = bytearray(text)
    np.frombuffer(ended, np.uint8)[three[lines]] = _NEWLINE
    objects, places = gather(ended, two[lines] + 1, three[lines] + 1)
    rejects = [
        Reject(lines_before + i + 1, reasons[i], text[starts[i] : stops[i]].decode("utf-8", "replace")[:_HEAD_CHARS])
        for i in sorted(reasons)
    ]
    return TripleBlock(
        names, labels, subject_of[kept], predicate_of[kept], objects, places, rejects, lines_before + len(starts)
    )


def distinct_pieces(text: bytes, starts: Places, ends: Places) -> tuple[list[str], NDArray[np.int32]]:
    """Return the distinct pieces of a text, and for each piece (n,) which one it is. Pieces are ascending and do not overlap."""
    if not len(starts):
        return [], _NONE
    encoded = _pieces(text, starts, ends).dictionary_encode()
    return [piece.as_py().decode() for piece in encoded.dictionary], encoded.indices.to_numpy()


def gather(text: bytes | bytearray | memoryview, starts: Places, ends: Places) -> tuple[bytes, Places]:
    """Put pieces of a text one after the other; return them and where (n,) each begins now. As for `distinct_pieces`."""
    if not len(starts):
        return b"", _NOWHERE
    offsets = np.concatenate(([0], np.cumsum(ends - starts)))
    pieces = _pieces(text, starts, ends)
    joined = pieces.buffers()[2]
    return memoryview(joined)[: int(offsets[-1])].tobytes(), offsets[:-1]


def _pieces(text: bytes | bytearray | memoryview, starts: Places, ends: Places) -> Any:
    """Cut pieces out of a text as an Arrow array of bytes."""
    n = len(starts)
    cuts = np.column_stack((starts, ends)).reshape(-1).astype(np.int32)
    buffers = [None, pyarrow.py_buffer(cuts), pyarrow.py_buffer(text)]
    all_pieces = pyarrow.Array.from_buffers(pyarrow.binary(), 2 * n - 1, buffers)
    return all_pieces.take(pyarrow.array(np.arange(0, 2 * n - 1, 2)))


def _too_long(starts: Places, one: Places, two: Places, three: Places, limits: TripleLimits) -> NDArray[np.bool_]:
    """Say which lines may have a part that is too long: it has as many bytes as its characters may be."""
    longest = np.maximum(one - starts, two - one - 1)
    is_long: NDArray[np.bool_] = (longest > limits.max_name_chars) | (three - two - 1 > limits.max_text_chars)
    return is_long


def _wrong_line(line: bytes, limits: TripleLimits) -> str | None:
    """Return why a line is no triple, None if it is one."""
    if reason := wrong_utf8(line):
        return reason
    cells = line.decode().split("\t")
    if len(cells) < 3:
        return f"the line has {len(cells)} of the three columns subject, predicate, object, which tabs set apart"
    return make_triple(cells[:3], limits)[1]


def _checked(blocks: Iterable[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    for block in blocks:
        check()
        yield block


def _portions(texts: Iterable[bytes | str]) -> Iterator[bytes | str]:
    """Cut a block of very many lines into smaller ones."""
    for text in texts:
        if isinstance(text, str) or text.count(b"\n") <= MAX_BLOCK_LINES:
            yield text
            continue
        start = 0
        while start < len(text):
            end = text.rfind(b"\n", start, start + PORTION_BYTES) + 1 or text.index(b"\n", start) + 1
            yield text[start:end]
            start = end


class _Ending(str):
    """Why nothing after a line can be read."""


def _line_blocks(blocks: Iterator[bytes]) -> Iterator[bytes | str]:
    """Yield whole lines in large blocks, each ended by a newline; a reason in the place of a line that cannot be had."""
    waiting: list[bytes] = []
    size, is_first, is_skipping = 0, True, False
    try:
        for block in blocks:
            if is_first:
                is_first = False
                if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    yield _Ending("the file is UTF-16: save it as UTF-8; nothing was read from it")
                    return
                block = block.removeprefix(codecs.BOM_UTF8)
            waiting.append(block)
            size += len(block)
            if size < BLOCK_BYTES:
                continue
            text, waiting, size = b"".join(waiting), [], 0
            if is_skipping:
                _, newline, text = text.partition(b"\n")
                is_skipping = not newline
            whole, newline, rest = text.rpartition(b"\n")
            if newline:
                yield whole + newline
            if len(rest) > MAX_LINE_BYTES:
                yield f"the line is longer than {MAX_LINE_BYTES} bytes"
                is_skipping = True
            elif not is_skipping:
                waiting, size = [rest], len(rest)
    except DAMAGE as error:
        if whole := b"".join(waiting).rpartition(b"\n")[0]:
            yield whole + b"\n"
        yield _Ending(f"the compressed data ends too early or is damaged from here on: {first_line(error)}")
        return
    text = b"".join(waiting)
    if is_skipping:
        text = text.partition(b"\n")[2]
    if text:
        yield text if text.endswith(b"\n") else text + b"\n"
