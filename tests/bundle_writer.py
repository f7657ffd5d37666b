"""A writer of TensorFlow's checkpoint files, for the tests of the reader: blocks, prefixes, checksums, shards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow
from numpy.typing import NDArray

_NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


def varint(number: int) -> bytes:
    """Write 7 bits a byte, lowest first."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def masked(content: bytes) -> int:
    """Give the masked CRC-32C of `content`."""
    checksum = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """Write a protocol buffer of numbers and messages."""
    found = b""
    for number, value in fields:
        if isinstance(value, int):
            found += varint(number << 3) + varint(value)
        else:
            found += varint(number << 3 | 2) + varint(len(value)) + value
    return found


def block(entries: Sequence[tuple[bytes, bytes]], restart_every: int = 3) -> bytes:
    """Write a block whose keys leave out what they share with the key before, but for every `restart_every`-th."""
    found, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % restart_every == 0:
            restarts.append(len(found))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        found += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return found + b"".join(place.to_bytes(4, "little") for place in [*restarts, len(restarts)])


def table(entries: Mapping[bytes, bytes], per_block: int = 5, is_snappy: bool = False) -> bytes:
    """Write a sorted table of blocks of `per_block` entries."""
    written, places = b"", []

    def add(content: bytes) -> bytes:
        nonlocal written
        if is_snappy:
            content = pyarrow.Codec("snappy").compress(content, asbytes=True)
        handle = varint(len(written)) + varint(len(content))
        kind = bytes([is_snappy])
        written += content + kind + masked(content + kind).to_bytes(4, "little")
        return handle

    ordered = sorted(entries.items())
    for start in range(0, len(ordered), per_block):
        part = ordered[start : start + per_block]
        places.append((part[-1][0], add(block(part))))
    handles = add(block([])) + add(block(places, restart_every=1))
    return written + handles.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def write_bundle(
    prefix: Path, tensors: Mapping[str, NDArray[Any]], shards: int = 1, is_snappy: bool = False, per_block: int = 5
) -> None:
    """Write `tensors` as PREFIX.index and PREFIX.data-…, spread over `shards` files."""
    parts = [b""] * shards
    entries = {b"": message((1, shards), (3, message((1, 1))))}
    for number, (name, tensor) in enumerate(tensors.items()):
        content, shard = np.ascontiguousarray(tensor).tobytes(), number % shards
        shape = message(*((2, message((1, size))) for size in tensor.shape))
        where: list[tuple[int, int | bytes]] = [(3, shard)] if shard else []
        where += [(4, len(parts[shard]))] if parts[shard] else []
        fields = message((1, _NUMBERS[str(tensor.dtype)]), (2, shape), *where, (5, len(content)))
        entries[name.encode()] = fields + bytes([6 << 3 | 5]) + masked(content).to_bytes(4, "little")
        parts[shard] += content
    for shard, content in enumerate(parts):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries, per_block, is_snappy))
