"""Token vectors <-> the few bytes a document keeps of them.

Two forms, chosen by the encoder: where token vectors are rows of a static table, a document keeps its token ids (2 bytes a
token); contextual vectors keep one signed byte per dimension and a half-precision scale per token, a quarter of float32.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.encoder import Encoded, Encoder
from models.rerank import Candidates


class TokenCodec(Protocol):
    """How the token vectors of a document are written and read."""

    name: str

    def pack(self, encoded: Encoded) -> list[bytes]:
        """Write the token vectors of each text as bytes."""
        ...

    def unpack(self, packed: Sequence[bytes]) -> Candidates:
        """Read the token vectors of several texts back into one block."""
        ...


class TokenIds:
    """Static vectors: a document keeps token ids, the vectors are rows of one table."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self._table = table
        self._dtype = np.dtype("<u2" if len(table) <= 1 << 16 else "<u4")
        self.name = f"ids-{self._dtype.itemsize}"

    def pack(self, encoded: Encoded) -> list[bytes]:
        """Write token ids, 2 or 4 bytes each."""
        return [ids.astype(self._dtype).tobytes() for ids in encoded.token_ids]

    def unpack(self, packed: Sequence[bytes]) -> Candidates:
        """Look the ids up in the table."""
        offsets = _offsets(packed, self._dtype.itemsize)
        return Candidates.from_table(self._table, np.frombuffer(b"".join(packed), dtype=self._dtype), offsets)


class ScaledBytes:
    """Contextual vectors: int8 entries with one float16 scale a token."""

    name = "int8"

    def __init__(self, dim: int) -> None:
        self._dtype = np.dtype([("scale", "<f2"), ("entries", "i1", (dim,))])

    def pack(self, encoded: Encoded) -> list[bytes]:
        """Write (dim + 2) bytes a token."""
        return [self._pack(tokens) for tokens in encoded.tokens]

    def _pack(self, tokens: NDArray[np.float32]) -> bytes:
        # The scale is rounded up to half precision, so that no entry leaves [-127, 127].
        largest = np.abs(tokens).max(axis=1, initial=0.0)
        scale = np.nextafter((largest / 127).astype(np.float16), np.float16(np.inf)).astype(np.float32)
        packed = np.empty(len(tokens), dtype=self._dtype)
        packed["scale"] = scale
        packed["entries"] = np.rint(tokens / scale[:, None])
        return packed.tobytes()

    def unpack(self, packed: Sequence[bytes]) -> Candidates:
        """Multiply entries and scales back to float32."""
        offsets = _offsets(packed, self._dtype.itemsize)
        tokens = np.frombuffer(b"".join(packed), dtype=self._dtype)
        return Candidates(tokens["entries"] * tokens["scale"].astype(np.float32)[:, None], offsets)


def token_codec(encoder: Encoder) -> TokenCodec:
    """Return the form that suits an encoder's token vectors."""
    return ScaledBytes(encoder.token_dim) if encoder.static_table is None else TokenIds(encoder.static_table)


def _offsets(packed: Sequence[bytes], size: int) -> NDArray[np.int64]:
    lengths = np.fromiter((len(item) // size for item in packed), dtype=np.int64, count=len(packed))
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
