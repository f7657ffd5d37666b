"""Corpus files: what is written in any format is read back the same, and nothing wrong in a file stops the reading."""

import csv
import datetime
import decimal
import gzip
import io
import json
import lzma
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from service.corpus_files import Line, id_of_line, read_documents
from service.document_rules import DEFAULT_LIMITS, Entry, Limits, check_document
from service.file_formats import Format, format_of_content_type, guess_format
from service.numbered_lines import Compression

PACK: dict[Compression | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": lambda content: zstandard.ZstdCompressor().compress(content),
}


def read(
    content: bytes,
    format: Format,
    compression: Compression | None = None,
    skip: int = 0,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Line]:
    """Read all lines of a file that is these bytes."""
    return list(read_documents(io.BytesIO(content), format, compression, skip, limits))


def texts(lines: list[Line]) -> list[str | None]:
    """The text of each line, None for an error."""
    return [line.document["text"] if line.document else None for line in lines]


def error(lines: list[Line], number: int) -> str:
    """The reason why this line is no document."""
    (line,) = [line for line in lines if line.number == number]

    assert line.document is None
    assert line.error

    return line.error


# Strategies: documents that a format can hold

_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_TEXT = st.text(_CHARACTERS, min_size=1, max_size=30).filter(str.strip)
_ONE_LINE = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r\t"), min_size=1, max_size=30
).filter(str.strip)
_SCALAR = st.one_of(
    st.text(_CHARACTERS, max_size=5),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
_METADATA = st.dictionaries(
    st.text(_CHARACTERS, max_size=5), st.one_of(_SCALAR, st.lists(_SCALAR, max_size=3)), max_size=3
)
_ID = st.one_of(st.none(), st.text(_CHARACTERS, min_size=1, max_size=10))


def entries(text: st.SearchStrategy[str], cell: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[list[Entry]]:
    """Lists of documents: of any metadata, or with the columns `topic` and `lang` of such cells."""
    metadata: st.SearchStrategy[dict[str, Any]] = _METADATA
    ids = _ID
    if cell is not None:
        metadata = st.fixed_dictionaries({}, optional={"topic": cell, "lang": cell})
        ids = st.none() | cell
    return st.lists(
        st.builds(lambda id, text, metadata: Entry(id=id, text=text, metadata=metadata), ids, text, metadata),
        max_size=8,
    )


def write_jsonl(documents: list[Entry]) -> bytes:
    """Write documents, a JSON object a line."""
    return b"".join(json.dumps(document, ensure_ascii=False).encode() + b"\n" for document in documents)


def write_table(documents: list[Entry], **dialect: Any) -> bytes:
    """Write documents with the columns id, text, topic, lang."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, **dialect)
    writer.writerow(["topic", "id", "text", "lang"])
    for document in documents:
        metadata = document["metadata"]
        writer.writerow([metadata.get("topic"), document["id"], document["text"], metadata.get("lang")])
    return file.getvalue().encode()


@pytest.mark.parametrize("compression", PACK)
@settings(deadline=None)
@given(documents=entries(_TEXT))
def test_jsonl_round_trip(compression: Compression | None, documents: list[Entry]) -> None:
    """Documents written as JSON lines, packed or not, are read back as they were."""
    lines = read(PACK[compression](write_jsonl(documents)), "jsonl", compression)

    assert lines == [Line(number, document, None) for number, document in enumerate(documents, 1)]


@pytest.mark.parametrize("compression", PACK)
@settings(deadline=None)
@given(documents=entries(_TEXT, _TEXT))
def test_csv_round_trip(compression: Compression | None, documents: list[Entry]) -> None:
    """Records with commas, quotes and newlines in any field are read back as they were."""
    lines = read(PACK[compression](write_table(documents)), "csv", compression)

    assert [line.document for line in lines] == documents


@pytest.mark.parametrize("compression", PACK)
@settings(deadline=None)
@given(documents=entries(_ONE_LINE, _ONE_LINE))
def test_tsv_round_trip(compression: Compression | None, documents: list[Entry]) -> None:
    """Tab-separated fields are read back as they were, quotes included."""
    content = write_table(documents, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    lines = read(PACK[compression](content), "tsv", compression)

    assert lines == [Line(number, document, None) for number, document in enumerate(documents, 2)]


@pytest.mark.parametrize("compression", PACK)
@settings(deadline=None)
@given(wanted=st.lists(_ONE_LINE, max_size=8), newline=st.sampled_from(["\n", "\r\n"]))
def test_txt_round_trip(compression: Compression | None, wanted: list[str], newline: str) -> None:
    """Every line of a text file is a text, whichever newline it was written with."""
    content = "".join(text + newline for text in wanted).encode()

    assert texts(read(PACK[compression](content), "txt", compression)) == wanted


@settings(deadline=None)
@given(documents=entries(_TEXT, _TEXT))
def test_parquet_round_trip(documents: list[Entry]) -> None:
    """Rows of a parquet file are read back as they were, whatever its row groups."""
    schema = pa.schema([(name, pa.string()) for name in ("id", "text", "topic", "lang")])
    rows = [{"id": document["id"], "text": document["text"], **document["metadata"]} for document in documents]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), file, row_group_size=3)
    lines = read(file.getvalue(), "parquet")

    assert lines == [Line(number, document, None) for number, document in enumerate(documents, 1)]


@pytest.mark.parametrize("format", ["jsonl", "csv", "tsv", "txt"])
@settings(deadline=None)
@given(
    content=st.lists(
        st.sampled_from(['{"text":"a"}', "b", "text,x", '"', 'c,"', '","', "\t", "\r\n", "\n", "text\ty", "\xff"])
    )
)
def test_skip_continues_where_reading_stopped(format: Format, content: list[str]) -> None:
    """Reading on after any line gives what reading everything gives after it, however broken the file is."""
    file = "".join(content).encode("latin-1")
    whole = read(file, format)

    assert [line.number for line in whole] == sorted({line.number for line in whole})
    for i, line in enumerate(whole):
        assert read(file, format, skip=line.number) == whole[i + 1 :]


def test_skip_in_parquet() -> None:
    """Reading on after any row of a parquet file gives the rows after it."""
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [str(i) for i in range(20)]}), file, row_group_size=6)
    whole = read(file.getvalue(), "parquet")

    assert all(read(file.getvalue(), "parquet", skip=i) == whole[i:] for i in range(21))


@settings(deadline=None)
@given(content=st.binary(max_size=200), format=st.sampled_from(["jsonl", "csv", "tsv", "txt", "parquet"]))
def test_any_bytes_are_read_to_their_end(content: bytes, format: Format) -> None:
    """Whatever the bytes are, every line is either a valid document or an error with a reason."""
    for line in read(content, format):
        assert (line.document is None) != (line.error is None)
        if line.document is not None:
            assert check_document(line.document, DEFAULT_LIMITS) == (line.document, None)


@pytest.mark.parametrize("compression", ["gz", "xz", "zst"])
@settings(deadline=None)
@given(content=st.binary(max_size=200), keep=st.integers(0, 200))
def test_any_packed_bytes_are_read_to_their_end(compression: Compression, content: bytes, keep: int) -> None:
    """Damaged packed data ends in an error or in nothing, never in an exception."""
    for damaged in (content, PACK[compression](content)[:keep] + content):
        for line in read(damaged, "txt", compression):
            assert (line.document is None) != (line.error is None)


# What is wrong in a line


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not JSON: unexpected end of data"),
        (b"{'text': 'a'}", "not JSON"),
        (b'{"text": "a", "n": NaN}', "not JSON"),
        (b'{"text": "a", "n": Infinity}', "not JSON"),
        (b'{"text": "a", "n": 1e999}', "infinity"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": "a\\u0000b"}', "the text contains a null byte"),
        (b'{"text": "a\0b"}', "control character"),
        (b'{"text": "\xc4\xe3\xba\xc3"}', "not UTF-8: byte 0xc4 at position 11"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id": "a"}', 'there is no "text"'),
        (b'{"text": 5}', '"text" must be a string, not a number'),
        (b'{"text": " \\t\\u3000"}', "the text is empty"),
        (b'""', "the text is empty"),
        (b"[]", "a document is an object"),
        (b"null", "a document is an object"),
        (b'{"text": "a", "id": ""}', '"id" must have 1 to 256 characters, this one has 0'),
        (b'{"text": "a", "id": "' + b"x" * 257 + b'"}', "this one has 257"),
        (b'{"text": "a", "id": true}', '"id" must be a string or an integer, not a boolean'),
        (b'{"text": "a", "id": 1.5}', '"id" must be'),
        (b'{"text": "a", "metadata": []}', '"metadata" must be an object, not a list'),
        (b'{"text": "a", "metadata": {"k": {}}}', "metadata 'k' must be a string"),
        (b'{"text": "a", "metadata": {"k": [[1]]}}', "not a list"),
        (b'{"text": "a", "metadata": {"k": 9223372036854775808}}', "64 bits"),
        (b'{"text": "a", "metadata": {"k": "a\\u0000"}}', "null byte"),
        (b'{"text": "a", "metadata": {"k": "' + b"x" * 65_536 + b'"}}', "more than max_metadata_bytes=65536"),
        (b'{"text": "a", "metadata": {"k": 1}, "k": 2}', "'k' is there twice"),
        (b'{"text": "' + b"x" * 100_001 + b'"}', "100001 characters, more than max_text_chars=100000"),
        (b'{"text": "' + b"x" * (5 << 20) + b'"}', "longer than max_line_bytes=4194304"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_json_line_fails_alone(line: bytes, reason: str) -> None:
    """A line that is no document is reported by its number with the reason, and its neighbours are read."""
    lines = read(b'{"text": "before"}\n' + line + b'\n{"text": "after"}', "jsonl")

    assert texts(lines) == ["before", None, "after"]
    assert reason in error(lines, 2)
    assert line.startswith(lines[1].head[:10].encode())


def test_json_lines() -> None:
    """A line is an object or a bare string; an id may be an integer; fields beside the known ones are metadata."""
    lines = read(
        b'\xef\xbb\xbf"hello"\r\n\n{"text": "a", "id": 7, "metadata": null}\n  \n'
        b'{"text": "b", "lang": "zh", "metadata": {"tags": ["x", 1, null, true]}}',
        "jsonl",
    )

    assert lines == [
        Line(1, {"id": None, "text": "hello", "metadata": {}}, None),
        Line(3, {"id": "7", "text": "a", "metadata": {}}, None),
        Line(5, {"id": None, "text": "b", "metadata": {"lang": "zh", "tags": ["x", 1, None, True]}}, None),
    ]


def test_a_document_may_come_from_anywhere() -> None:
    """The rules hold for objects that no JSON parser of ours has seen."""
    strange: list[object] = [
        {"text": "\ud83d"},
        {"text": "a", "id": 10**5000},
        {"text": "a", "metadata": {"\udc00": 1}},
        {"text": "a", "metadata": {1: 1}},
        {"text": "a", "metadata": {"x": float("nan")}},
        {"text": "a", "x": 1},
    ]

    assert all(check_document(wrong, DEFAULT_LIMITS)[1] for wrong in strange)
    assert check_document({"text": "𠮷野家👍", "id": 1}, DEFAULT_LIMITS)[0] == Entry(
        id="1", text="𠮷野家👍", metadata={}
    )


def test_csv_in_the_wild() -> None:
    """A data frame's index column and empty cells are left out; blank lines and a byte order mark do no harm."""
    content = b'\xef\xbb\xbf,text,id,lang\r\n0,"a, ""b""\r\nc",,\r\n\r\n1,d,x,zh\r\n2,e\r\n'
    lines = read(content, "csv")

    assert lines[:2] == [
        Line(2, {"id": None, "text": 'a, "b"\r\nc', "metadata": {}}, None),
        Line(5, {"id": "x", "text": "d", "metadata": {"lang": "zh"}}, None),
    ]
    assert "2 fields, but 4 are expected" in error(lines, 6)


@pytest.mark.parametrize("end", [b"", b"x,y\n" * 2_000, b"x" * (5 << 20)])
def test_an_unclosed_quote_costs_one_record(end: bytes) -> None:
    """The lines that an unclosed quote swallowed are read again, whether the file ends or goes on."""
    lines = read(b'text,k\na,1\nb,"2\nc,3\nd,4\n' + end, "csv")

    assert texts(lines)[:4] == ["a", None, "c", "d"]
    assert error(lines, 3)


def test_a_wrong_csv_line_fails_alone() -> None:
    """Bytes that are not UTF-8 and stray quotes are reported by line."""
    lines = read(b'text\na\n\xc4\xe3\n"b"c\nd\n' + b"x" * 200 + b"\ne\n", "csv", limits=Limits(max_line_bytes=100))

    assert texts(lines) == ["a", None, None, "d", None, "e"]
    assert "GB18030" in error(lines, 3)
    assert "not CSV" in error(lines, 4)
    assert "max_line_bytes=100" in error(lines, 6)


def test_a_table_needs_a_column_text() -> None:
    """A header without `text`, or with a name twice, is one error that says what there is."""
    assert "there are: 'Text', 'label'" in error(read(b"Text,label\na,1\n", "csv"), 1)
    assert "'x' is there twice" in error(read(b"text,x,x\na,1,2\n", "csv"), 1)
    assert "'x' is there twice" in error(read(b"text\tx\tx\na\t1\t2\n", "tsv"), 1)


def test_tsv_without_a_header() -> None:
    """Without a field called `text` in its first line, a tsv file is id TAB text from the first line on."""
    lines = read('q1\t"什么\nq2\t如何\r\n\nq3\nq4\ta\tb\n'.encode(), "tsv")

    assert [line.document and (line.document["id"], line.document["text"]) for line in lines] == [
        ("q1", '"什么'),
        ("q2", "如何"),
        None,
        None,
    ]
    assert "'id', 'text'" in error(lines, 5)


def test_wrong_txt_lines_fail_alone() -> None:
    """Null bytes and bytes that are not UTF-8 are reported; white lines are skipped but counted."""
    lines = read(b"a\n\n \t \nb\0\n\xff\nc", "txt")

    assert [line.number for line in lines] == [1, 4, 5, 6]
    assert texts(lines) == ["a", None, None, "c"]


def test_utf16_is_one_error() -> None:
    """A file in UTF-16 is refused once, not once a line."""
    lines = read("text\na\n".encode("utf-16"), "csv")

    assert len(lines) == 1
    assert "save it as UTF-8" in error(lines, 1)


# Packed files


@pytest.mark.parametrize("compression", ["gz", "xz", "zst"])
def test_a_truncated_file_keeps_what_came_before(compression: Compression) -> None:
    """Packed data that ends too early gives the whole lines before the end, then an error with the next number."""
    wanted = [f"{i} {i * i * 7919 % 10007}" for i in range(100_000)]
    packed = PACK[compression]("\n".join(wanted).encode())
    lines = read(packed[: len(packed) * 3 // 4], "txt", compression)

    assert len(lines) > 20_000
    assert texts(lines[:-1]) == wanted[: len(lines) - 1]
    assert "ends too early" in error(lines, len(lines))


@pytest.mark.parametrize("compression", ["gz", "xz", "zst"])
def test_packed_parts_are_one_file(compression: Compression) -> None:
    """Several packed files one after the other are read as one."""
    pack = PACK[compression]

    assert texts(read(pack(b"a\nb") + pack(b"") + pack(b"c\nd\n"), "txt", compression)) == ["a", "bc", "d"]


@pytest.mark.parametrize("compression", ["gz", "xz", "zst"])
def test_damage_behind_a_whole_part_is_told(compression: Compression) -> None:
    """What follows a whole part must be another one: a damaged, a cut or a foreign one ends the file with a reason."""
    pack = PACK[compression]
    first = pack(b"a\nb\n")
    second = bytearray(pack(b"".join(b"%d\n" % (i * i) for i in range(50_000))))
    cut = bytes(second[: len(second) // 2])
    second[len(second) // 2 : len(second) // 2 + 64] = b"\xff" * 64
    for behind in (bytes(second), cut, b"garbage" * 100):
        lines = read(first + behind, "txt", compression)
        assert texts(lines[:2]) == ["a", "b"]
        assert "damaged" in error(lines, lines[-1].number)


def test_zeros_between_streams_of_xz_are_padding() -> None:
    """As the format has it, and as `xz` writes it where it is asked to."""
    parts = [lzma.compress(b"a\n"), lzma.compress(b"b\n")]
    assert texts(read(parts[0] + bytes(4) + parts[1] + bytes(70_000), "txt", "xz")) == ["a", "b"]


@pytest.mark.parametrize("compression", ["gz", "xz", "zst"])
def test_a_file_that_is_not_packed(compression: Compression) -> None:
    """A file that only pretends to be packed is one error."""
    lines = read(b"plain text\n" * 100, "txt", compression)

    assert len(lines) == 1
    assert "damaged" in error(lines, 1)


# Parquet


def test_parquet_values() -> None:
    """Values that JSON has not become strings, missing ones are left out, a struct called metadata is the metadata."""
    day = datetime.date(2026, 1, 2)
    table = pa.table(
        {
            "text": ["a", "b", None],
            "id": [1, 2, 3],
            "day": [day, None, day],
            "price": [decimal.Decimal("1.50"), None, None],
            "score": [0.5, float("nan"), None],
            "tags": [["x", "y"], [], None],
            "metadata": [{"n": 1}, {"n": None}, None],
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    lines = read(file.getvalue(), "parquet")

    metadata = {"day": "2026-01-02", "price": "1.50", "score": 0.5, "tags": ["x", "y"], "n": 1}
    assert lines[0] == Line(1, {"id": "1", "text": "a", "metadata": metadata}, None)
    assert lines[1] == Line(2, {"id": "2", "text": "b", "metadata": {"tags": []}}, None)
    assert error(lines, 3) == 'there is no "text"'


def test_parquet_rows_that_would_fill_memory_are_refused() -> None:
    """A value that is kept once and stands in every row: rows beyond the limit fail alone, and are never made together."""
    large = "花" * 2_000_000
    for listed in (False, True):
        texts_of = pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 0, None, 0] * 100, pa.int32()), pa.array([large, "退货"])
        )
        table = {"id": [str(i) for i in range(500)], "text": texts_of}
        if listed:
            table = {"id": table["id"], "text": ["退货"] * 500, "tags": pa.ListArray.from_arrays(range(501), texts_of)}
        file = io.BytesIO()
        pq.write_table(pa.table(table), file, compression="zstd", store_schema=False)
        tracemalloc.start()
        lines = read(file.getvalue(), "parquet")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(file.getvalue()) < 100_000
        assert peak < 100 << 20
        assert len(lines) == 500
        good = 200 if listed else 100
        assert [line.document["text"] for line in lines if line.document is not None] == ["退货"] * good
        assert all("more than max_line_bytes" in (line.error or "") for line in lines[:500:5])


def test_wrong_parquet_rows_fail_alone() -> None:
    """A string that is not UTF-8 and a value that cannot be metadata are reported by row."""
    strings = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    file = io.BytesIO()
    pq.write_table(pa.table({"text": strings, "x": [[[1]], [[2]], None]}), file)
    lines = read(file.getvalue(), "parquet")

    assert texts(lines) == [None, None, "c"]
    assert "not a list" in error(lines, 1)


def test_times_beyond_all_calendars_fail_alone() -> None:
    """A date or a duration that Python cannot say is an error of its row."""
    for far in (pa.array([1, 2**31 - 1, None], pa.date32()), pa.array([None, 2**62, None], pa.duration("s"))):
        file = io.BytesIO()
        pq.write_table(pa.table({"text": ["a", "b", "c"], "far": far}), file)
        lines = read(file.getvalue(), "parquet")

        assert texts(lines) == ["a", None, "c"]
        assert "a value cannot be read" in error(lines, 2)


def test_parquet_that_cannot_be_read() -> None:
    """A file that is cut, has no column text, or is packed once more is refused with a reason."""
    file = io.BytesIO()
    pq.write_table(pa.table({"question": ["a"]}), file)

    assert "there are: 'question'" in error(read(file.getvalue(), "parquet"), 1)
    assert "cannot be read" in error(read(file.getvalue()[:-20], "parquet"), 1)
    with pytest.raises(ValueError, match=r"unpack the \.gz first"):
        read(b"", "parquet", "gz")


def test_damaged_parquet_keeps_the_rows_before(tmp_path: Path) -> None:
    """Rows of a group before the damaged one are read, then an error says where it stopped."""
    file = tmp_path / "damaged.parquet"
    pq.write_table(
        pa.table({"text": [f"text {i}" for i in range(1_000)]}), file, row_group_size=500, compression="zstd"
    )
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).dictionary_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 200] = b"\xff" * 200
    lines = read(bytes(content), "parquet")

    assert len(lines) == 501
    assert "from this row on" in error(lines, 501)


# The reader


@pytest.mark.parametrize("compression", PACK)
def test_fraction_grows_to_one(tmp_path: Path, compression: Compression | None) -> None:
    """The fraction never falls, is near the truth in the middle, and is 1 at the end."""
    file = tmp_path / "file"
    file.write_bytes(PACK[compression]("".join(f"{i} {i * i * 7919 % 10007}\n" for i in range(100_000)).encode()))
    with read_documents(file, "txt", compression) as reader:
        fractions = [reader.fraction for _ in reader]

    assert fractions == sorted(fractions)
    assert 0.3 < fractions[50_000] < 0.8
    assert reader.fraction == 1.0


def test_reader_closes_what_it_opened(tmp_path: Path) -> None:
    """A file is closed at its end and when the reader is left early; a stream is left to its owner."""
    file = tmp_path / "a.txt"
    file.write_bytes(b"a\nb\n")
    with read_documents(file, "txt") as reader:
        next(reader)
    assert list(reader) == []
    stream = io.BytesIO(b"skipped\na\n")
    stream.seek(8)

    assert texts(list(read_documents(stream, "txt"))) == ["a"]
    assert not stream.closed


def test_a_missing_file_is_an_error() -> None:
    """A file that is not there is the caller's error, not a line's."""
    with pytest.raises(FileNotFoundError):
        read_documents("/nonexistent/file.txt", "txt")


class _Repeated(io.RawIOBase, BinaryIO):
    """A stream of the same bytes over and over, which cannot seek."""

    def __init__(self, block: bytes, times: int) -> None:
        self._blocks = iter([block] * times)

    def read(self, size: int = -1) -> bytes:
        """Return the next block, whatever size was asked for."""
        return next(self._blocks, b"")


@pytest.mark.parametrize(
    ("format", "block", "lines"),
    [
        ("jsonl", b'{"text": "' + b"x" * 4_000 + b'"}\n', 12_500),
        ("csv", b"text\n" + b"y" * 4_000 + b"\n", 24_999),
        ("csv", b'text\n"' + b"w" * 4_000 + b"\n", 24_999),  # every second line opens a quote
        ("txt", b"z" * 4_000, 1),  # one line without an end
    ],
)
def test_memory_is_constant(format: Format, block: bytes, lines: int) -> None:
    """A stream of 50 MB is read in a few MB, also if it is a single line or full of quotes."""
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_documents(_Repeated(block, 12_500), format))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert count == lines
    assert peak < 16 << 20


def test_a_packed_bomb_of_short_lines_is_read_in_constant_memory() -> None:
    """A kilobyte of zstd that unpacks to millions of lines does not make them all at once."""
    packed = zstandard.ZstdCompressor(level=19).compress(b"ab\n" * (10 << 20))
    tracemalloc.start()
    try:
        with read_documents(io.BytesIO(packed), "txt", "zst") as reader:
            assert next(reader).number == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(packed) < 4_096
    assert peak < 80 << 20


class _LeftError(Exception):
    pass


@pytest.mark.parametrize("format", ["jsonl", "csv", "tsv", "txt", "parquet"])
def test_reading_can_be_stopped_where_no_line_comes(format: Format) -> None:
    """What is asked now and then is asked also while lines are blank, or known and skipped."""
    content, skip = b"\n" * (1 << 20), 0
    if format == "parquet":
        file, skip = io.BytesIO(), 2_000
        pq.write_table(pa.table({"text": ["a"] * (skip + 1)}), file)
        content = file.getvalue()
    calls = iter(range(3))

    def check() -> None:
        if next(calls) == 2:
            raise _LeftError

    with pytest.raises(_LeftError):
        list(read_documents(io.BytesIO(content), format, None, skip, check=check))


def test_a_packed_bomb_is_read_in_constant_memory() -> None:
    """A small file that unpacks to 200 MB of one line costs the memory of its blocks."""
    bomb = b"0" * (200 << 20)
    packed = zstandard.ZstdCompressor().compress(bomb), gzip.compress(bomb, 1)
    del bomb
    for compression, content in zip(("zst", "gz"), packed, strict=True):
        tracemalloc.start()
        try:
            (line,) = read(content, "txt", compression)  # type: ignore[arg-type]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert line.error
        assert peak < 80 << 20


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("faq.jsonl", ("jsonl", None)),
        ("a.b/faq.NDJSON.GZ", ("jsonl", "gz")),
        ("corpus.tsv.xz", ("tsv", "xz")),
        ("x.csv.zst", ("csv", "zst")),
        ("x.txt", ("txt", None)),
        ("part-0.snappy.parquet", ("parquet", None)),
    ],
)
def test_format_is_told_by_the_name(name: str, expected: tuple[str, str | None]) -> None:
    """The ending of a name, in any case, tells format and compression."""
    assert guess_format(name) == expected


@pytest.mark.parametrize("name", ["faq", "faq.json", "faq.gz", ".gz", "txt", "faq.jsonl.bz2", ""])
def test_unknown_names_are_refused(name: str) -> None:
    """Any other ending is refused with the list of known ones."""
    with pytest.raises(ValueError, match=r"\.jsonl"):
        guess_format(name)


def test_format_of_a_body() -> None:
    """The Content-Type tells the format, parameters and case aside; an unknown one is None."""
    assert format_of_content_type("application/x-ndjson") == "jsonl"
    assert format_of_content_type("Text/CSV; charset=utf-8") == "csv"
    assert format_of_content_type("text/tab-separated-values") == "tsv"
    assert format_of_content_type("text/plain") == "txt"
    assert format_of_content_type("application/json") is None
    assert format_of_content_type("") is None


@settings(deadline=None)
@given(name=st.text(_CHARACTERS, max_size=400), number=st.integers(1, 1 << 62))
def test_id_of_a_line_is_a_valid_id(name: str, number: int) -> None:
    """Whatever the file is called, the id made for a line is one, and another line has another."""
    id = id_of_line(name, number)

    assert check_document({"text": "a", "id": id}, DEFAULT_LIMITS)[1] is None
    assert id != id_of_line(name, number + 1)


@pytest.fixture(name="sample", scope="module")
def _sample() -> Iterator[list[Line]]:
    with read_documents(
        Path(__file__).resolve().parent.parent / "service" / "samples" / "faq.jsonl", "jsonl"
    ) as reader:
        yield list(reader)


def test_the_sample_corpus_is_sound(sample: list[Line]) -> None:
    """The sample corpus has hundreds of distinct questions in three domains, each with an answer."""
    documents = [line.document for line in sample if line.document is not None]

    assert len(documents) == len(sample) > 300
    assert (
        len({document["id"] for document in documents})
        == len({document["text"] for document in documents})
        == len(documents)
    )
    assert {document["metadata"]["domain"] for document in documents} == {"bank", "e-commerce", "campus"}
    assert all(document["metadata"]["answer"] and document["metadata"]["topic"] for document in documents)
