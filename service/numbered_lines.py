"""A stream of bytes, packed or not, as numbered lines, in constant memory.

Lines are numbered as in an editor. A line that cannot be had (it is too long, the packed data is damaged from there on,
the file is in UTF-16) has the reason in its place.
"""

import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Literal, NamedTuple

import zstandard

Compression = Literal["gz", "xz", "zst"]
COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".xz": "xz", ".zst": "zst"}
"""By the end of a file's name."""

_BLOCK_BYTES = 1 << 16
_ZSTD_STEP_BYTES = 1 << 10  # 4 bytes of zstd can unpack to 128 KiB, so this many to 32 MiB
_ZSTD_WINDOW_BYTES = 1 << 27


DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What decompressors raise where the packed data ends too early or is damaged."""


class Row(NamedTuple):
    """A line before it is understood: its bytes without the newline, or why they cannot be had."""

    number: int
    content: bytes
    error: str | None
    ends: bool = False  # nothing after it can be read


def unpacked(raw: BinaryIO, compression: Compression | None) -> Iterator[bytes]:
    """Yield blocks; raise what the decompressor raises where the data ends too early or is damaged."""
    if compression in ("zst", "xz"):
        yield from _unpacked_zstd(raw) if compression == "zst" else _unpacked_xz(raw)
        return
    # read1 hands out what there is before it meets an error; read would lose it.
    read: Callable[[int], bytes] = raw.read
    if compression == "gz":
        read = gzip.GzipFile(fileobj=raw, mode="rb").read1
    while block := read(_BLOCK_BYTES):
        yield block


def _unpacked_zstd(raw: BinaryIO) -> Iterator[bytes]:
    # zstandard's own stream reader takes a truncated frame for a whole one.
    unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame = None
    while packed := raw.read(_ZSTD_STEP_BYTES):
        while packed:
            frame = frame or unpacker.decompressobj()
            block = frame.decompress(packed)
            for start in range(0, len(block), _BLOCK_BYTES):  # of a large block, every line would be an object at once
                yield block[start : start + _BLOCK_BYTES]
            packed = frame.unused_data
            if frame.eof:
                frame = None
    if frame is not None:
        raise EOFError("the last frame is not complete")


def _unpacked_xz(raw: BinaryIO) -> Iterator[bytes]:
    # lzma's own reader takes a damaged stream after a whole one for the end.
    stream, has_begun = None, False
    while packed := raw.read(_BLOCK_BYTES):
        while packed:
            if stream is None:
                packed = packed.lstrip(b"\0") if has_begun else packed  # between streams there may be zeros
                if not packed:
                    break
                stream, has_begun = lzma.LZMADecompressor(lzma.FORMAT_XZ), True
            yield stream.decompress(packed, _BLOCK_BYTES)
            while not (stream.eof or stream.needs_input):
                yield stream.decompress(b"", _BLOCK_BYTES)
            packed = b""
            if stream.eof:
                packed, stream = stream.unused_data, None
    if stream is not None or not has_begun:
        raise EOFError("the last stream is not complete")


def _pieces(blocks: Iterable[bytes], max_line_bytes: int) -> Iterator[bytes | None]:
    """Yield lines without their newline; None for one that is too long."""
    pending, is_long = b"", False
    for block in blocks:
        pieces = block.split(b"\n")
        pieces[0] = pending + pieces[0]
        pending = pieces.pop()
        for piece in pieces:
            yield None if is_long or len(piece) > max_line_bytes else piece
            is_long = False
        if len(pending) > max_line_bytes:
            pending, is_long = b"", True
    if pending or is_long:
        yield None if is_long else pending


def numbered_rows(blocks: Iterable[bytes], max_line_bytes: int) -> Iterator[Row]:
    """Yield the lines of a stream; damage and a wrong encoding end it with a reason."""
    number = 0
    try:
        for number, piece in enumerate(_pieces(blocks, max_line_bytes), 1):
            if piece is None:
                yield Row(number, b"", f"the line is longer than max_line_bytes={max_line_bytes}")
            elif number > 1:
                yield Row(number, piece, None)
            elif piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                yield Row(number, b"", "the file is UTF-16: save it as UTF-8; nothing was read from it", True)
                return
            else:
                yield Row(number, piece.removeprefix(codecs.BOM_UTF8), None)
    except DAMAGE as error:
        reason = f"the compressed data ends too early or is damaged from here on: {first_line(error)}"
        yield Row(number + 1, b"", reason, True)


def wrong_utf8(content: bytes) -> str | None:
    """Return why a line is not UTF-8, None if it is."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at position {error.start + 1}"
        return f"not UTF-8: {where}; a GBK file is converted by: iconv -f GB18030 -t UTF-8"
    return None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).partition("\n")[0]
