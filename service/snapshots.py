"""One checksummed file of named arrays: what a derived index writes beside itself and reads back at startup.

The store is the truth, so a snapshot may be missing or broken at any time; what it must never do is mislead or crash its
reader. The file is magic, header length, a JSON header (format, meta, names, dtypes and shapes), the arrays one after the
other, and a SHA-256 of everything before it. It is written beside its place, flushed to the disk and renamed over the old
one. A reader compares the sizes before it allocates anything, and the digest before it hands out anything.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.mapped_memory import Array, Room

UNFINISHED_SNAPSHOTS = "*.new"
"""What the files are called while they are written; those of a process that was killed stay behind."""
_MAGIC = b"moverank\x01"
_LENGTH_BYTES = 4
_DIGEST_BYTES = 32
_HEADER_LIMIT_BYTES = 1 << 24


def write_snapshot(path: Path, kind: str, meta: Mapping[str, Any], arrays: Mapping[str, Sequence[Array]]) -> None:
    """Write arrays under their names, atomically: readers see the old file or the whole new one.

    What is written under a name is the concatenation of one or more arrays along the first axis; it is never made in memory.
    `kind` names the format; `meta` is anything JSON can say.
    """
    described = [
        [name, chunks[0].dtype.str, [sum(len(chunk) for chunk in chunks), *chunks[0].shape[1:]]]
        for name, chunks in arrays.items()
    ]
    header = json.dumps({"kind": kind, "meta": dict(meta), "arrays": described}).encode()
    digest = hashlib.sha256()
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(beside, "wb") as file:
            for piece in (_MAGIC, len(header).to_bytes(_LENGTH_BYTES, "little"), header):
                file.write(piece)
                digest.update(piece)
            for chunks in arrays.values():
                for chunk in chunks:
                    if chunk.size:
                        raw = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
                        file.write(raw.data)
                        digest.update(raw.data)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_snapshot(path: Path, kind: str, room: Room = np.empty) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read back (meta, arrays), these into memory from ``room``.

    Raises ValueError for a foreign, truncated or altered file, OSError as open() does.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        start = file.read(len(_MAGIC) + _LENGTH_BYTES)
        if len(start) != len(_MAGIC) + _LENGTH_BYTES or not start.startswith(_MAGIC):
            raise ValueError(f"{path} is not a snapshot")
        header_bytes = int.from_bytes(start[len(_MAGIC) :], "little")
        if header_bytes > min(_HEADER_LIMIT_BYTES, size):
            raise ValueError(f"{path} is damaged: its header claims {header_bytes} bytes")
        header_text = file.read(header_bytes)
        digest.update(start)
        digest.update(header_text)
        found, meta, described = _parse_header(header_text, path)
        wanted = len(start) + header_bytes + _DIGEST_BYTES
        wanted += sum(dtype.itemsize * int(np.prod(shape, dtype=object)) for _, dtype, shape in described)
        if wanted != size:
            raise ValueError(f"{path} is damaged: {size} bytes where its header promises {wanted}")
        arrays: dict[str, Array] = {}
        for name, dtype, shape in described:
            array = room(shape, dtype)
            if array.size:
                raw = array.reshape(-1).view(np.uint8)
                if file.readinto(raw.data) != raw.nbytes:
                    raise ValueError(f"{path} ended early")
                digest.update(raw.data)
            arrays[name] = array
        if file.read(_DIGEST_BYTES) != digest.digest():
            raise ValueError(f"{path} is damaged: its checksum does not match")
    if found != kind:
        raise ValueError(f"{path} is a snapshot of {found!r}, not of {kind!r}")
    return meta, arrays


def _parse_header(
    text: bytes, path: Path
) -> tuple[str, dict[str, Any], list[tuple[str, np.dtype[Any], tuple[int, ...]]]]:
    """Read kind, meta and the arrays' names, dtypes and shapes; plain numbers only, so no pickled object is ever made."""
    try:
        header = json.loads(text)
        described = [
            (str(name), np.dtype(dtype), tuple(int(n) for n in shape)) for name, dtype, shape in header["arrays"]
        ]
        kind, meta = str(header["kind"]), dict(header["meta"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its header cannot be read ({error})") from error
    for name, dtype, shape in described:
        if dtype.kind not in "biuf" or min(shape, default=0) < 0:
            raise ValueError(f"{path} is damaged: array {name!r} is {dtype} {shape}")
    return kind, meta, described
