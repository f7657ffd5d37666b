"""Token vectors <-> the few bytes a document keeps of them.

Two forms, chosen by the encoder: where token vectors are rows of a static table, a document keeps its token ids (2 bytes a
token); contextual vectors keep one signed byte per dimension and a half-precision scale per token, a quarter of float32.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.candidates import PLAIN, Candidates, TokenTable, Weighing
from models.encoder import Encoded, Encoder
from models.transport import token_weights

MOST_SCALE = 65_472.0
"""The last number of half precision but one."""


class TokenCodec(Protocol):
    """How the token vectors of a document are written and read."""

    name: str

    @property
    def table(self) -> TokenTable | None:
        """What token ids are rows of; None where a document keeps vectors."""
        ...

    def pack(self, encoded: Encoded) -> list[bytes]:
        """Write the token vectors of each text as bytes."""
        ...

    def unpack(self, packed: Sequence[bytes], weighing: Weighing = PLAIN) -> Candidates:
        """Read the token vectors of several texts back into one block, with token weights where masses are asked for."""
        ...


class TokenIds:
    """Static vectors: a document keeps token ids, the vectors are rows of one table."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table: TokenTable = TokenTable(table)
        self._dtype = np.dtype("<u2" if len(table) <= 1 << 16 else "<u4")
        self.name = f"ids-{self._dtype.itemsize}"

    def pack(self, encoded: Encoded) -> list[bytes]:
        """Write token ids, 2 or 4 bytes each."""
        return [ids.astype(self._dtype).tobytes() for ids in encoded.token_ids]

    def ids(self, packed: Sequence[bytes]) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
        """Read the token ids (tokens,) of several texts, one after another, and where each begins (n + 1,)."""
        return np.frombuffer(b"".join(packed), dtype=self._dtype), _offsets(packed, self._dtype.itemsize)

    def unpack(self, packed: Sequence[bytes], weighing: Weighing = PLAIN) -> Candidates:
        """Look the ids up in the table."""
        return Candidates.from_table(self.table, *self.ids(packed), weighing.of_table(self.table))


class ScaledBytes:
    """Contextual vectors: int8 entries with one float16 scale a token."""

    name = "int8"
    table = None

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._dtype = np.dtype([("scale", "<f2"), ("entries", "i1", (dim,))])

    def pack(self, encoded: Encoded) -> list[bytes]:
        """Write (dim + 2) bytes a token."""
        return [self._pack(tokens) for tokens in encoded.tokens]

    def _pack(self, tokens: NDArray[np.float32]) -> bytes:
        if not len(tokens):  # also of a text that could not be encoded
            return b""
        # The scale is rounded up to half precision, so that no entry leaves [-127, 127].
        largest = np.abs(tokens).max(axis=1, initial=0.0)
        scale = np.nextafter((largest / 127).clip(max=MOST_SCALE).astype(np.float16), np.float16(np.inf)).astype(
            np.float32
        )
        packed = np.empty(len(tokens), dtype=self._dtype)
        packed["scale"] = scale
        packed["entries"] = np.rint(tokens / scale[:, None]).clip(-127, 127)  # what is beyond half precision is cut
        return packed.tobytes()

    def unpack(self, packed: Sequence[bytes], weighing: Weighing = PLAIN) -> Candidates:
        """Multiply entries and scales back to float32.

        Raises ValueError for "idf": which tokens these were is not kept.
        """
        entries, scales, offsets = self.parts(packed)
        vectors = entries * scales[:, None]
        weights = None if weighing.masses is None else token_weights(vectors, weighing.masses)
        return Candidates(vectors, offsets, weights=weights)

    def parts(self, packed: Sequence[bytes]) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int64]]:
        """Entries (tokens, dim) and scales (tokens,) of several texts, whose products are the vectors, and offsets (n + 1,)."""
        tokens = np.frombuffer(b"".join(packed), dtype=self._dtype)
        scales = tokens["scale"].astype(np.float32)
        return tokens["entries"].copy(), scales, _offsets(packed, self._dtype.itemsize)


def token_codec(encoder: Encoder) -> TokenCodec:
    """Return the form that suits an encoder's token vectors."""
    return ScaledBytes(encoder.token_dim) if encoder.static_table is None else TokenIds(encoder.static_table)


def _offsets(packed: Sequence[bytes], size: int) -> NDArray[np.int64]:
    lengths = np.fromiter((len(item) // size for item in packed), dtype=np.int64, count=len(packed))
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
