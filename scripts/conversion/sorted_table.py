"""A sorted string table, LevelDB's file format, which TensorFlow uses for the index of a checkpoint: all (key, value) in order.

From the end: 48 bytes of footer (two handles, padding, a magic number), the index block that the second handle names, and the
blocks with the entries that it names. A block ends with a byte for its compression and a checksum (CRC-32C). In a block, a key
leaves out what it shares with the key before. Source: doc/table_format.md of LevelDB.
"""

from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c
import pyarrow

_MAGIC = 0xDB4775248B80FB57
_FOOTER, _TRAILER = 48, 5  # bytes
_PLAIN, _SNAPPY = 0, 1


class Handle(NamedTuple):
    """Where a block is: bytes `offset` to `offset + size`, without its trailer."""

    offset: int
    size: int


def read_varint(content: bytes, place: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte, lowest first, at `place`; returns it and the place behind it. ValueError at the end."""
    value, shift = 0, 0
    while True:
        if place >= len(content) or shift > 63:
            raise ValueError("a number is cut off or longer than 64 bits")
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def unmasked(checksum: int) -> int:
    """Undo LevelDB's mask of a CRC-32C that is stored beside what it is of."""
    rotated = (checksum - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def read_table(content: bytes) -> dict[bytes, bytes]:
    """Read a whole table; raises ValueError where `content` is none or is damaged."""
    if len(content) < _FOOTER or int.from_bytes(content[-8:], "little") != _MAGIC:
        raise ValueError("it does not end as a sorted table does: it is another kind of file, or cut off")
    footer = content[-_FOOTER:]
    _, place = _read_handle(footer, 0)  # of the block about blocks, which holds nothing
    index, _ = _read_handle(footer, place)
    found: dict[bytes, bytes] = {}
    for _, value in _entries(_block(content, index)):
        found.update(_entries(_block(content, _read_handle(value, 0)[0])))
    return found


def _read_handle(content: bytes, place: int) -> tuple[Handle, int]:
    offset, place = read_varint(content, place)
    size, place = read_varint(content, place)
    return Handle(offset, size), place


def _block(content: bytes, handle: Handle) -> bytes:
    """Take a block out of the file, check it and unpack it."""
    end = handle.offset + handle.size
    block, trailer = content[handle.offset : end], content[end : end + _TRAILER]
    if len(trailer) < _TRAILER:
        raise ValueError(f"a block at byte {handle.offset} lies beyond its end")
    if google_crc32c.value(block + trailer[:1]) != unmasked(int.from_bytes(trailer[1:], "little")):
        raise ValueError(f"the checksum of the block at byte {handle.offset} is wrong: the file is damaged")
    if trailer[0] == _PLAIN:
        return block
    if trailer[0] != _SNAPPY:
        raise ValueError(f"the block at byte {handle.offset} has the compression {trailer[0]}, which is not known here")
    size, _ = read_varint(block, 0)
    return bytes(pyarrow.Codec("snappy").decompress(block, decompressed_size=size, asbytes=True))


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block, whose end is a list of places where a key is whole."""
    restarts = int.from_bytes(block[-4:], "little")
    end, place, key = len(block) - 4 * (restarts + 1), 0, b""
    if end < 0:
        raise ValueError("a block is shorter than its list of restarts")
    while place < end:
        shared, place = read_varint(block, place)
        own, place = read_varint(block, place)
        size, place = read_varint(block, place)
        if shared > len(key) or place + own + size > end:
            raise ValueError("an entry of a block is longer than the block")
        key = key[:shared] + block[place : place + own]
        place += own
        yield key, block[place : place + size]
        place += size
