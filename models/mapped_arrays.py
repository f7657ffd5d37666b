"""One file of named arrays that is mapped into memory instead of being read: opening costs the same whatever its size.

Magic, header length, a JSON header (kind, meta, names, dtypes, shapes, places), then the arrays, each beginning at a multiple
of 64 bytes. The file is written beside its place, flushed to the disk and renamed, so that a reader finds the old one or the
whole new one. The pages of a mapping are the operating system's to give and to take back: what is never touched costs no
memory.
"""

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_MAGIC = b"movemap\x01"
_LENGTH_BYTES = 4
_HEADER_LIMIT_BYTES = 1 << 20
_ALIGNMENT_BYTES = 64
_CHUNK_BYTES = 1 << 24


class MappedArrays(dict[str, Array]):
    """Arrays by name, and the mapping that they lie in."""

    def __init__(self, mapping: mmap.mmap) -> None:
        super().__init__()
        self._mapping = mapping

    def give_back(self) -> None:
        """Let the pages that were touched no longer count as memory of this process; the system's cache keeps them."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


def write_arrays(path: Path, kind: str, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write arrays under their names, atomically and durably; `meta` is anything JSON can say."""
    place, described = 0, []
    for name, array in arrays.items():
        described.append([name, array.dtype.str, list(array.shape), place])
        place += -(-array.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    header = json.dumps({"kind": kind, "meta": dict(meta), "arrays": described, "bytes": place}).encode()
    start = len(_MAGIC) + _LENGTH_BYTES + len(header)
    header += b" " * (-start % _ALIGNMENT_BYTES)
    beside = path.with_name(f"{path.name}.new")
    try:
        with open(beside, "wb") as file:
            file.write(_MAGIC + len(header).to_bytes(_LENGTH_BYTES, "little") + header)
            for array in arrays.values():
                raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                for first in range(0, len(raw), _CHUNK_BYTES):
                    file.write(raw[first : first + _CHUNK_BYTES].data)
                file.write(bytes(-len(raw) % _ALIGNMENT_BYTES))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    fsync_folder(path.parent)


def map_arrays(path: Path, kind: str) -> tuple[dict[str, Any], MappedArrays]:
    """Map a file and return (meta, read-only arrays); the mapping lives as long as one of the arrays does.

    Raises:
        ValueError: the file is of another kind, or is not whole.
        OSError: as `open` does.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(_MAGIC) + _LENGTH_BYTES)
        header_bytes = int.from_bytes(start[len(_MAGIC) :], "little")
        if not start.startswith(_MAGIC) or header_bytes > min(_HEADER_LIMIT_BYTES, size):
            raise ValueError(f"{path} is not a file of mapped arrays")
        found, meta, described, length = _parse_header(file.read(header_bytes), path)
        first = len(start) + header_bytes
        if first + length != size:
            raise ValueError(f"{path} is damaged: {size} bytes where its header promises {first + length}")
        if found != kind:
            raise ValueError(f"{path} holds {found!r}, not {kind!r}")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = MappedArrays(mapping)
    for name, dtype, shape, place in described:
        count = int(np.prod(shape, dtype=object))
        if place < 0 or place + count * dtype.itemsize > length:
            raise ValueError(f"{path} is damaged: array {name!r} lies outside the file")
        arrays[name] = np.frombuffer(mapping, dtype, count, first + place).reshape(shape)
    return meta, arrays


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse_header(
    text: bytes, path: Path
) -> tuple[str, dict[str, Any], list[tuple[str, np.dtype[Any], tuple[int, ...], int]], int]:
    try:
        header = json.loads(text)
        described = [
            (str(name), np.dtype(dtype), tuple(int(n) for n in shape), int(place))
            for name, dtype, shape, place in header["arrays"]
        ]
        kind, meta, length = str(header["kind"]), dict(header["meta"]), int(header["bytes"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its header cannot be read ({error})") from error
    for name, dtype, shape, _ in described:
        if dtype.kind not in "biuf" or min(shape, default=0) < 0:
            raise ValueError(f"{path} is damaged: array {name!r} is {dtype} {shape}")
    return kind, meta, described, length
