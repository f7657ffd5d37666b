"""Vectors with their rows: which slot belongs to which document, and which slots are deleted.

A `VectorRows` is a snapshot like the `Blocks` it holds: a writer makes a new one, readers keep theirs. Appending shares the
memory, deleting copies the mask.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from service.mapped_memory import Array, Room
from service.vector_blocks import Blocks, Slots, Vectors

_PIECE = 1 << 14  # vectors copied at once
_LEAST_ROOM = 64
_COMPARED_SHARE = 1 / 4  # where more of all vectors are asked for than this, none is copied

Rows = NDArray[np.int64]
NO_ROWS: Rows = np.empty(0, np.int64)


class VectorRows(NamedTuple):
    """For each slot a vector, a row (ascending) and whether it is deleted. The room behind belongs to later snapshots."""

    blocks: Blocks
    rows: Rows  # (n,)
    dead: NDArray[np.bool_]  # (n,)
    live: int
    row_room: Rows  # (n or more,)
    dead_room: NDArray[np.bool_]  # (n or more,), False from n on

    @classmethod
    def of(cls, blocks: Blocks, rows: Rows, dead: NDArray[np.bool_]) -> Self:
        """Take over arrays without copying."""
        return cls(blocks, rows, dead, int(np.count_nonzero(~dead)), rows, dead)

    @classmethod
    def empty(cls, dim: int, room: Room = np.empty) -> Self:
        """Return no slots; the memory of later ones comes from ``room``."""
        return cls.of(Blocks((), (), 0, dim, room), NO_ROWS, np.empty(0, np.bool_))

    def arrays(self) -> dict[str, list[Array]]:
        """Return all there is as arrays by name, each in pieces: what a snapshot is made of."""
        pieces = [np.empty((0, self.blocks.dim), np.float32), *self.blocks.pieces()]
        return {"rows": [self.rows], "dead": [self.dead], "vectors": pieces}

    def slots_of(self, rows: Rows) -> Slots:
        """Return the living slots of ascending rows; unknown rows have none."""
        if not len(self.rows):
            return NO_ROWS
        slots = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.asarray(slots[(self.rows[slots] == rows) & ~self.dead[slots]], np.int64)

    def inner_products(self, query: Vectors, rows: Rows) -> Vectors:
        """Return the inner product (n,) of a query (dim,) with each row (n,), in any order; ValueError for an unknown one."""
        slots = np.searchsorted(self.rows, rows)
        if len(rows) and (slots.max() >= len(self.rows) or (self.rows[slots] != rows).any()):
            raise ValueError("some of the rows are not in the index")
        if len(rows) > _COMPARED_SHARE * len(self.rows):
            scores = np.concatenate([np.vecdot(piece, query) for piece in self.blocks.pieces()])
            return np.asarray(scores[slots], np.float32)
        return np.asarray(np.vecdot(self.blocks.gather(slots), query), np.float32)

    def append(self, rows: Rows, vectors: Vectors) -> Self:
        """Return the snapshot with vectors (m, dim) under rows (m,) that are beyond the present ones. One writer at a time."""
        n, end = len(self.rows), len(self.rows) + len(rows)
        row_room, dead_room = self.row_room, self.dead_room
        if end > len(row_room):
            more = max(end - n, n, _LEAST_ROOM)
            row_room = np.concatenate([self.rows, np.empty(more, np.int64)])
            dead_room = np.concatenate([self.dead, np.zeros(more, np.bool_)])
        row_room[n:end] = rows
        blocks = self.blocks.append(vectors)
        return type(self)(blocks, row_room[:end], dead_room[:end], self.live + len(rows), row_room, dead_room)

    def without(self, rows: Rows) -> Self:
        """Return the snapshot with rows, in any order, deleted; unknown ones are ignored."""
        slots = self.slots_of(np.unique(rows))
        if not len(slots):
            return self
        dead_room = self.dead_room.copy()
        dead_room[slots] = True
        return self._replace(dead=dead_room[: len(self.rows)], live=self.live - len(slots), dead_room=dead_room)

    def compacted(self) -> Self:
        """Copy what lives to new slots."""
        alive = np.flatnonzero(~self.dead)
        blocks = self.blocks.emptied()
        for part in np.array_split(alive, len(alive) // _PIECE + 1):
            blocks = blocks.append(self.blocks.gather(part))
        return self.of(blocks, self.rows[alive], np.zeros(len(alive), np.bool_))

    def following(self, now: Self, since: int) -> Self:
        """Return this compacted snapshot with what `now` has beyond its first `since` slots, without what is deleted in it."""
        later = np.arange(since, len(now.rows))
        return self.append(now.rows[later], now.blocks.gather(later)).without(now.rows[now.dead])
