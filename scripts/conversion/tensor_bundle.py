"""Tensors of a TensorFlow checkpoint (a "tensor bundle", the format since TensorFlow 0.12), read without TensorFlow.

PREFIX.index is a sorted table from the name of a variable to a BundleEntryProto (type, shape, shard, place, checksum), and under
the empty name a BundleHeaderProto; PREFIX.data-00000-of-00001 and so on hold the numbers as they are in memory. Sources:
tensor_bundle.proto, tensor_shape.proto and tensor_bundle.h in tensorflow/core.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from scripts.conversion.sorted_table import read_table, read_varint, unmasked

_TYPES = {1: "float32", 2: "float64", 3: "int32", 9: "int64", 19: "float16"}
_BFLOAT16 = 14
"""Numbers of TensorFlow's DataType; the optimiser's state and the weights of any BERT are among them."""


@dataclass(frozen=True)
class Entry:
    """A stored variable: `shard`, and bytes `offset` to `offset + size` of it; `checksum` of those, CRC-32C."""

    type: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int | None
    is_sliced: bool


class TensorBundle:
    """The variables of a checkpoint by name."""

    def __init__(self, prefix: Path) -> None:
        """Read the index of the checkpoint `prefix` (`.../bert_model.ckpt`, without .index or .data).

        Raises:
            ValueError: there is none, it is of another format, or it is damaged.
        """
        self.prefix = prefix
        file = prefix.with_name(prefix.name + ".index")
        if not file.is_file():
            hint = ", which looks like the format before TensorFlow 0.12" if prefix.is_file() else ""
            raise ValueError(f"there is no {file}: a checkpoint is PREFIX.index and PREFIX.data-*; {prefix}{hint}")
        try:
            table = read_table(file.read_bytes())
            header = dict(_fields(table.pop(b"", b"")))
            # Names that begin with a zero byte are of slices, whose whole has a name of its own.
            self.entries = {name.decode(): _entry(value) for name, value in table.items() if name[:1] != b"\0"}
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if header.get(2, 0) != 0:
            raise ValueError(f"{file} says that its numbers are big-endian, which is not supported")
        self._shards = _number(header.get(1, 1))

    def read(self, name: str) -> NDArray[np.generic]:
        """Read one variable, checked against its checksum; bfloat16 comes as float32.

        Raises:
            ValueError: no such variable, a kind that is not known here, or a data file that is missing, short or damaged.
        """
        if name not in self.entries:
            raise ValueError(f"{self.prefix} has no variable {name}")
        entry = self.entries[name]
        if entry.is_sliced:
            raise ValueError(
                f"{self.prefix}: {name} is stored in slices (a partitioned variable), which is not supported"
            )
        if entry.type not in _TYPES and entry.type != _BFLOAT16:
            raise ValueError(f"{self.prefix}: {name} has TensorFlow's type {entry.type}, which is not known here")
        file = self.prefix.with_name(f"{self.prefix.name}.data-{entry.shard:05d}-of-{self._shards:05d}")
        if not file.is_file():
            raise ValueError(f"there is no {file}, which the index of the checkpoint names")
        with open(file, "rb") as data:
            data.seek(entry.offset)
            content = data.read(entry.size)
        if len(content) != entry.size:
            raise ValueError(f"{file} ends before {name} does: the file is cut off")
        if entry.checksum is not None and google_crc32c.value(content) != entry.checksum:
            raise ValueError(f"{file}: the checksum of {name} is wrong, the file is damaged")
        kind = np.dtype("<u2" if entry.type == _BFLOAT16 else _TYPES[entry.type]).newbyteorder("<")
        if entry.size != kind.itemsize * int(np.prod(entry.shape)):
            raise ValueError(f"{self.prefix}: {name} has {entry.size} bytes, which do not fit its shape {entry.shape}")
        numbers: NDArray[np.generic] = np.frombuffer(content, kind).reshape(entry.shape)
        if entry.type == _BFLOAT16:
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers


def _entry(content: bytes) -> Entry:
    """Read a BundleEntryProto."""
    fields: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        fields[number] = value
    shape = tuple(
        _number(dict(_fields(_bytes(size))).get(1, 0))
        for number, size in _fields(_bytes(fields.get(2, b"")))
        if number == 2
    )
    checksum = fields.get(6)
    return Entry(
        type=_number(fields.get(1, 0)),
        shape=shape,
        shard=_number(fields.get(3, 0)),
        offset=_number(fields.get(4, 0)),
        size=_number(fields.get(5, 0)),
        checksum=None if checksum is None else unmasked(_number(checksum)),
        is_sliced=7 in fields,
    )


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("a field that should be a number is a text")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a field that should be a message is a number")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the numbers and values of a message's fields, as protocol buffers lay them out."""
    place = 0
    while place < len(content):
        key, place = read_varint(content, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = read_varint(content, place)
            yield number, value
            continue
        if wire == 2:
            size, place = read_varint(content, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field has the wire type {wire}, which protocol buffers do not use any more")
        piece = content[place : place + size]
        if len(piece) != size:
            raise ValueError("a field is cut off")
        place += size
        yield number, piece if wire == 2 else int.from_bytes(piece, "little")
