"""Lines of triples: read by blocks as if line by line, and every bad line with its number and reason."""

import gzip
import lzma
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

import service.triples
from service.triples import (
    Reject,
    Triple,
    TripleBlock,
    TripleLimits,
    TripleReader,
    join_subject,
    make_triple,
    read_block,
    split_subject,
)

LIMITS = TripleLimits(max_name_chars=8, max_text_chars=12)
pieces = st.lists(
    st.sampled_from(
        [
            b"\t",
            b"\t",
            b"\t",
            "甲".encode(),
            "（乙）".encode(),
            b"a",
            b" ",
            b"\r",
            b"\0",
            b"\xff",
            b"abcdefgh",
            "　".encode(),
        ]
    ),
    max_size=9,
)


def triples_of(block: TripleBlock) -> list[Triple]:
    """Spell the triples of a block."""
    found = []
    for s, p, start in zip(block.subject_of, block.predicate_of, block.object_places.tolist(), strict=True):
        text = block.objects[start : block.objects.index(b"\n", start)].decode()
        found.append(Triple(*block.subjects[s], block.predicates[p], text))
    return found


@example([b"a\tb\tc", b"\xff", b"a\tb\tc\0"])
@example([b"a\tb\tc\rd\te\tf\r"])
@example([b"a\rb\tc\td"])
@example(["a\tb\t\u3000".encode(), "a\tb\t\xa0".encode(), "a\tb\t、c".encode()])
@given(st.lists(pieces.map(b"".join), min_size=1, max_size=12))
@settings(max_examples=300)
def test_a_block_is_read_as_its_lines_are(lines: list[bytes]) -> None:
    """Triples, rejected lines and their reasons are those of a loop over the lines."""
    block = read_block(b"".join(line + b"\n" for line in lines), 100, LIMITS)
    triples, rejects = [], []
    for number, line in enumerate(lines, 101):
        line = line.removesuffix(b"\r")
        if not line:
            continue
        try:
            cells = line.decode().split("\t")
        except UnicodeDecodeError:
            rejects.append((number, "not UTF-8"))
            continue
        if len(cells) < 3:
            rejects.append((number, "three columns"))
            continue
        triple, reason = make_triple(cells[:3], LIMITS)
        if triple is None:
            rejects.append((number, reason or ""))
        else:
            triples.append(triple)
    assert triples_of(block) == triples
    assert [reject.line for reject in block.rejects] == [number for number, _ in rejects]
    for reject, (_, reason) in zip(block.rejects, rejects, strict=True):
        assert reason in reject.reason
    assert block.last_line == 100 + len(lines)


@pytest.mark.parametrize(
    ("text", "subject", "meaning"),
    [
        ("刘晓华（广东工业大学教授）", "刘晓华", "广东工业大学教授"),
        ("刘晓华", "刘晓华", ""),
        ("刘晓华（）", "刘晓华", ""),
        ("（刘晓华）", "（刘晓华）", ""),
        ("甲（乙（丙））", "甲", "乙（丙）"),
        ("甲（乙）丙", "甲（乙）丙", ""),
        ("甲（乙）（丙）", "甲（乙）", "丙"),
        ("甲）", "甲）", ""),
        (" 甲 （ 乙 ） ", "甲", "乙"),
    ],
)
def test_a_subject_is_split_from_its_meaning(text: str, subject: str, meaning: str) -> None:
    """The meaning is what the last full-width brackets hold, where they end the subject; a subject is never empty."""
    assert split_subject(text) == (subject, meaning)
    assert split_subject(join_subject(subject, meaning)) == (subject, meaning)


LINES = "甲（乙）\t出生地\t广州\n坏行\n甲\t职业\t医生\t2020\n\n丙\t\t丁\n戊\t别名\t己"
TRIPLES = [Triple("甲", "乙", "出生地", "广州"), Triple("甲", "", "职业", "医生"), Triple("戊", "", "别名", "己")]


def read(path: Path, compression: str | None = None) -> tuple[list[Triple], list[Reject], int]:
    triples, rejects, last = [], [], 0
    with TripleReader(path, compression) as reader:  # type: ignore[arg-type]
        for block in reader:
            triples += triples_of(block)
            rejects += block.rejects
            last = block.last_line
        assert reader.fraction == 1.0
    return triples, rejects, last


@pytest.mark.parametrize("block_bytes", [1, 7, 40, 1 << 20])
@pytest.mark.parametrize("compression", [None, "gz", "xz", "zst"])
def test_a_file_is_read_alike_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None, block_bytes: int
) -> None:
    """Where a block ends makes no difference, compressed or not; numbers are those of an editor."""
    monkeypatch.setattr(service.triples, "BLOCK_BYTES", block_bytes)
    packed = {
        None: lambda raw: raw,
        "gz": gzip.compress,
        "xz": lzma.compress,
        "zst": zstandard.ZstdCompressor().compress,
    }[compression](LINES.encode())
    (tmp_path / "file").write_bytes(packed)
    triples, rejects, last = read(tmp_path / "file", compression)
    assert triples == TRIPLES
    assert [(reject.line, reject.head) for reject in rejects] == [(2, "坏行"), (5, "丙\t\t丁")]
    assert "the line has 1 of the three columns" in rejects[0].reason
    assert rejects[1].reason == "the predicate is empty"
    assert last == 6


def test_damage_is_reported_and_what_was_read_before_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut archive, UTF-16, and a line without end become rejects; a byte order mark is no part of a name."""
    whole = gzip.compress((LINES + "\n").encode() * 2_000)
    (tmp_path / "cut").write_bytes(whole[:-20])
    triples, rejects, _ = read(tmp_path / "cut", "gz")
    assert len(triples) > 3_000
    assert "damaged from here on" in rejects[-1].reason

    (tmp_path / "utf16").write_bytes(LINES.encode("utf-16"))
    triples, rejects, _ = read(tmp_path / "utf16")
    assert triples == []
    assert "UTF-16" in rejects[0].reason

    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    assert read(tmp_path / "mark")[0] == TRIPLES

    monkeypatch.setattr(service.triples, "BLOCK_BYTES", 64)
    monkeypatch.setattr(service.triples, "MAX_LINE_BYTES", 100)
    (tmp_path / "long").write_bytes("甲\t乙\t丙\n".encode() + b"x" * 200_000 + b"\n" + LINES.encode())
    triples, rejects, last = read(tmp_path / "long")
    assert triples == [Triple("甲", "", "乙", "丙"), *TRIPLES]
    assert (rejects[0].line, "longer than 100 bytes" in rejects[0].reason) == (2, True)
    assert last == 8


@pytest.mark.parametrize("line", [b"\n", b"a\tb\tc\n"])
def test_a_packed_bomb_of_short_lines_is_read_in_constant_memory(tmp_path: Path, line: bytes) -> None:
    """Tens of millions of short lines are read a few hundred thousand at a time."""
    count = (32 << 20) // len(line)
    (tmp_path / "bomb").write_bytes(zstandard.ZstdCompressor().compress(line * count))
    last = 0
    tracemalloc.start()
    try:
        with TripleReader(tmp_path / "bomb", "zst") as reader:
            for block in reader:
                last = block.last_line
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last == count
    assert peak < 200 << 20


def test_a_block_of_many_lines_is_cut_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is cut, triples, rejects and numbers are the same."""
    monkeypatch.setattr(service.triples, "MAX_BLOCK_LINES", 1)
    (tmp_path / "file").write_bytes(LINES.encode())
    expected = [2, 5]
    for size in range(1, len(LINES.encode()) + 1):
        monkeypatch.setattr(service.triples, "PORTION_BYTES", size)
        triples, rejects, last = read(tmp_path / "file")
        assert (triples, [reject.line for reject in rejects], last) == (TRIPLES, expected, 6)


def test_reading_can_be_stopped_inside_a_line_without_end(tmp_path: Path) -> None:
    """What is asked now and then is asked also where no block comes."""
    (tmp_path / "long").write_bytes(b"x" * (1 << 20))
    calls = iter(range(3))

    def check() -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt

    with TripleReader(tmp_path / "long", check=check) as reader, pytest.raises(KeyboardInterrupt):
        next(reader)


def test_an_empty_file_has_no_triples(tmp_path: Path) -> None:
    """Nothing is read from nothing."""
    (tmp_path / "empty").write_bytes(b"")
    assert read(tmp_path / "empty") == ([], [], 0)
