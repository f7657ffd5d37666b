"""Vectors by slot in append-only blocks, and the exact search over them: the definition that every index is held to.

A `Blocks` is a snapshot: appending returns a new one that shares the memory, so a reader keeps what it has while a writer
goes on. Blocks grow with the collection and are never moved, so growing copies nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from service.mapped_memory import Room

_FIRST_BLOCK, _LARGEST_BLOCK = 1 << 10, 1 << 18  # vectors; memory that is not yet written to is not yet used
_PIECE = 1 << 14  # vectors gathered at once
_SCORES_AT_ONCE = 1 << 24
_GATHERED_SHARE = 1 / 4  # up to this share of all, chosen vectors are gathered; beyond, all are compared
_ROUNDING = 1e-5  # between two ways of computing the same inner product of unit vectors
_TIES = 4096  # equal scores around the k-th among which the first slots are sure to be chosen

Vectors = NDArray[np.float32]
Slots = NDArray[np.int64]


class Blocks(NamedTuple):
    """`total` vectors of one dimension; block i begins at slot starts[i]. Its unused end belongs to later snapshots."""

    blocks: tuple[Vectors, ...]
    starts: tuple[int, ...]
    total: int
    dim: int
    room: Room = np.empty  # where the memory of further blocks comes from

    @classmethod
    def of(cls, vectors: Vectors, room: Room = np.empty) -> Self:
        """Take over vectors (n, dim) without copying."""
        return cls((vectors,), (0,), len(vectors), vectors.shape[1], room)

    def emptied(self) -> Self:
        """Return no vectors, of the same dimension and room."""
        return self._replace(blocks=(), starts=(), total=0)

    def append(self, vectors: Vectors) -> "Blocks":
        """Return the snapshot with vectors (m, dim) after the present ones. One writer at a time."""
        blocks, starts, count = list(self.blocks), list(self.starts), self.total
        while len(vectors):
            if not blocks or count == starts[-1] + len(blocks[-1]):
                size = min(max(_FIRST_BLOCK, count, len(vectors)), _LARGEST_BLOCK)
                blocks.append(self.room((size, self.dim), np.float32))
                starts.append(count)
            free = blocks[-1][count - starts[-1] :][: len(vectors)]
            free[:] = vectors[: len(free)]
            vectors, count = vectors[len(free) :], count + len(free)
        return Blocks(tuple(blocks), tuple(starts), count, self.dim, self.room)

    def pieces(self, start: int = 0) -> Iterator[Vectors]:
        """Yield the vectors from slot `start` on, block by block, without copying."""
        for block, first in zip(self.blocks, self.starts, strict=True):
            piece = block[max(start - first, 0) : max(self.total - first, 0)]
            if len(piece):
                yield piece

    def gather(self, slots: Slots) -> Vectors:
        """Copy the vectors of slots (n,), in any order: (n, dim)."""
        if len(self.blocks) == 1:
            return self.blocks[0][slots]
        result = np.empty((len(slots), self.dim), np.float32)
        which = np.searchsorted(self.starts, slots, side="right") - 1
        for i in np.flatnonzero(np.bincount(which, minlength=len(self.blocks))).tolist():
            inside = which == i
            result[inside] = self.blocks[i][slots[inside] - self.starts[i]]
        return result

    def nearest(
        self, queries: Vectors, k: int, dead: NDArray[np.bool_], allowed: Slots | None = None, start: int = 0
    ) -> list[Slots]:
        """Compare each query (q, dim) with all living vectors from slot `start` on (of `allowed`, ascending, living ones).

        dead: (total,). Returns for each query unsorted slots, among which are the k of greatest inner product, and those that
        rounding could exchange with them: scoring again decides. Of equal scores the first slots are there.
        """
        if allowed is not None:
            allowed = allowed[np.searchsorted(allowed, start) :]
            if len(allowed) > _GATHERED_SHARE * (self.total - start):
                dead = np.ones(self.total, np.bool_)
                dead[allowed] = False
                allowed = None
        pool = self.total - start if allowed is None else len(allowed)
        if pool == 0:
            return [np.empty(0, np.int64) for _ in queries]
        excluded = dead[start:] if allowed is None and dead[start:].any() else None
        found = []
        step = max(1, _SCORES_AT_ONCE // pool)
        for chunk in (queries[i : i + step] for i in range(0, len(queries), step)):
            scores = np.empty((len(chunk), pool), np.float32)
            at = 0
            for piece in self.pieces(start) if allowed is None else self._gathered(allowed):
                np.matmul(chunk, piece.T, out=scores[:, at : at + len(piece)])
                at += len(piece)
            if excluded is not None:
                np.copyto(scores, -np.inf, where=excluded)
            best = [_best(row, k) for row in scores]
            found += [slots + start if allowed is None else allowed[slots] for slots in best]
        return found

    def _gathered(self, slots: Slots) -> Iterator[Vectors]:
        """Yield copies of the vectors of many slots, a bounded number at a time."""
        for i in range(0, len(slots), _PIECE):
            yield self.gather(slots[i : i + _PIECE])


def _best(scores: NDArray[np.float32], k: int) -> Slots:
    """Return the positions of the k greatest finite scores (n,) and of those that rounding could exchange with them."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k] if len(scores) > k else -np.inf
    if kth == -np.inf:
        return np.flatnonzero(scores > -np.inf)
    kept = np.flatnonzero(scores >= kth - _ROUNDING)
    if len(kept) > k + _TIES:
        is_above = scores[kept] > kth + _ROUNDING
        kept = np.concatenate([kept[is_above], kept[~is_above][: k + _TIES]])
    return kept
