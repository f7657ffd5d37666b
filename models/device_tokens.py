"""Token vectors that stay on a device: a static table, or the vectors of the texts that were candidates lately.

A static table is copied there once, and candidates are ids. Contextual vectors are copied when a text is first a candidate, in
the form of the store (one signed byte per dimension and a scale), and stay until others need their room: pages of PAGE tokens in
one buffer as large as the budget; the least recently used texts give up theirs first. They serve the bounds. What is solved
exactly is read from the store, so the device holds nothing that could not be lost.

Any number of threads may ask. Pages are written and gathered under one lock and on one stream, so none is overwritten while it is
read.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import transport
from models.candidates import PLAIN, Candidates, TokenTable, Weighing, ranges
from models.device_bounds import DeviceFloors, Places, Tokens
from models.token_codec import ScaledBytes
from models.transport import Measure, Points, Vectors

PAGE = 16  # tokens
READ_TEXTS = 1_024  # texts brought to the device at a time

Read = Callable[[Places], Sequence[bytes]]


class DeviceTable:
    """A table of static token vectors on a device."""

    def __init__(self, table: TokenTable, device: str) -> None:
        """Copy the table (V, d) to the device; on the CPU it is shared."""
        self._device = torch.device(device)
        self._vectors = _tensor(table.vectors, self._device)
        self._squares = _tensor(table.squares, self._device)
        self._lengths = _tensor(table.lengths, self._device)

    def floors(self, query: Points, candidates: Candidates, measure: Measure) -> DeviceFloors:
        """Bound candidates whose tokens are rows of the table, masses as they say; ValueError for others."""
        if candidates.rows is None or candidates.table is None:
            raise ValueError("candidates must be given by rows of the table")
        vectors, squares, lengths = self._vectors, self._squares, self._lengths
        if candidates.ids is not None:
            ids = _tensor(candidates.ids.astype(np.int64), self._device)
            vectors, squares, lengths = vectors[ids], squares[ids], lengths[ids]
        weights = None
        if candidates.weights is not None:
            weights = _tensor(candidates.weights, self._device)
        tokens = Tokens(vectors, squares, lengths, weights)
        return DeviceFloors(query, _TextsOfTable(candidates, tokens, self._device), measure, self._device)


class _TextsOfTable:
    """Candidates as places in one set of tokens."""

    def __init__(self, candidates: Candidates, tokens: Tokens, device: torch.device) -> None:
        self.sizes: Places = candidates.offsets[1:] - candidates.offsets[:-1]
        self.shared: Tokens | None = tokens
        self._candidates, self._tokens, self._device = candidates, tokens, device

    def tokens(self, positions: Places) -> tuple[Tokens, Tensor]:
        """All tokens, and which of them each text is made of."""
        rows = self._candidates.rows
        assert rows is not None
        where = padded(
            rows[ranges(self._candidates.offsets, positions)], self.sizes[positions], len(self._tokens.squares)
        )
        return self._tokens, _tensor(where, self._device)


class _Kept(NamedTuple):
    """Where the tokens of a text lie."""

    pages: Places
    size: int  # tokens


class DeviceVectors:
    """Contextual token vectors of the texts that were candidates lately."""

    def __init__(self, codec: ScaledBytes, device: str, budget_bytes: int) -> None:
        """Take the room for `budget_bytes` of token vectors, their scales and lengths; ValueError if that is no page."""
        self.device = torch.device(device)
        self.codec = codec
        pages = budget_bytes // (PAGE * (codec.dim + 16))
        if pages < 1:
            raise ValueError(f"{budget_bytes} bytes hold no page of {PAGE} token vectors of {codec.dim} dimensions")
        tokens = PAGE * pages
        self._entries = torch.empty((tokens, codec.dim), dtype=torch.int8, device=self.device)
        self._scales = torch.empty(tokens, dtype=torch.float32, device=self.device)
        self._squares = torch.empty(tokens, dtype=torch.float32, device=self.device)
        self._lengths = torch.empty(tokens, dtype=torch.float64, device=self.device)
        self._free = list(range(pages - 1, -1, -1))
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many texts are there."""
        return len(self._kept)

    def texts(self, owner: Hashable, rows: Places, read: Read, weighing: Weighing = PLAIN) -> "StoredTexts":
        """Candidates by their rows (n,) in a store that `owner` stands for; `read` gives the bytes of some rows (k,).

        Texts that are not there are brought. What a row stands for must never change.
        """
        sizes = np.zeros(len(rows), np.int64)
        names = [(owner, row) for row in rows.tolist()]
        with self._lock:
            missing = []
            for place, name in enumerate(names):
                kept = self._kept.get(name)
                if kept is None:
                    missing.append(place)
                else:
                    sizes[place] = kept.size
                    self._kept.move_to_end(name)
        for start in range(0, len(missing), READ_TEXTS):
            places = np.array(missing[start : start + READ_TEXTS])
            brought = _Brought(self.codec, read(rows[places]), self.device)
            sizes[places] = brought.sizes
            with self._lock, torch.inference_mode():
                self._keep([names[place] for place in places.tolist()], brought)
        return StoredTexts(self, names, rows, sizes, read, weighing)

    def gather(self, names: Sequence[Hashable], rows: Places, read: Read) -> tuple["_Brought", Places, Places]:
        """Tokens of some texts (k,), where each begins (k,), and how many it has (k,); texts that lost their room are read."""
        with self._lock:
            lost = [place for place, name in enumerate(names) if name not in self._kept]
        late = _Brought(self.codec, read(rows[lost]), self.device) if lost else None
        with self._lock:
            gone = [place for place, name in enumerate(names) if name not in self._kept]
            if gone != lost:  # others took or gave room meanwhile
                lost, late = gone, _Brought(self.codec, read(rows[gone]), self.device) if gone else None
            kept = [self._kept[name] for name in names if name in self._kept]
            sizes = np.zeros(len(names), np.int64)
            inside = np.ones(len(names), np.bool_)
            inside[lost] = False
            sizes[inside] = [each.size for each in kept]
            slots = _tensor(_slots(kept), self.device)
            found = _Brought.of(
                self._entries[slots], self._scales[slots], self._squares[slots], self._lengths[slots], sizes[inside]
            )
        if late is not None:
            sizes[lost] = late.sizes
            found = found.followed_by(late)
        starts = np.zeros(len(names), np.int64)
        order = np.concatenate([np.flatnonzero(inside), np.array(lost, np.int64)])
        starts[order] = np.cumsum(sizes[order]) - sizes[order]
        return found, starts, sizes

    def _keep(self, names: Sequence[Hashable], brought: "_Brought") -> None:
        """Write texts into free pages, making room; those that still find none are left out."""
        ends = np.cumsum(brought.sizes)
        written, kept = [], []
        new = set(names)
        for name, size, end in zip(names, brought.sizes.tolist(), ends.tolist(), strict=True):
            needed = -(-size // PAGE)
            while len(self._free) < needed and self._kept and next(iter(self._kept)) not in new:
                self._free += self._kept.popitem(last=False)[1].pages.tolist()
            if name in self._kept or len(self._free) < needed:
                continue
            pages = np.array([self._free.pop() for _ in range(needed)], np.int64)
            self._kept[name] = _Kept(pages, size)
            kept.append(self._kept[name])
            written.append(np.arange(end - size, end))
        try:
            self._write(kept, written, brought)
        except BaseException:  # what was not written must not be found
            for name in [name for name in names if name in self._kept]:
                self._free += self._kept.pop(name).pages.tolist()
            raise

    def _write(self, kept: Sequence[_Kept], written: Sequence[Places], brought: "_Brought") -> None:
        """Write texts, given by their tokens among those brought, where they are to be kept."""
        if kept:
            slots = _tensor(_slots(kept), self.device)
            chosen = _tensor(np.concatenate(written), self.device)
            self._entries[slots] = brought.entries[chosen]
            self._scales[slots] = brought.scales[chosen]
            self._squares[slots] = brought.squares[chosen]
            self._lengths[slots] = brought.lengths[chosen]


class _Brought:
    """Token vectors on the device, in the form of the store."""

    def __init__(self, codec: ScaledBytes, packed: Sequence[bytes], device: torch.device) -> None:
        """Copy texts to the device; ValueError for vectors that are not finite or too long."""
        entries, scales, offsets = codec.parts(packed)
        vectors = entries * scales[:, None]
        self.sizes: Places = np.diff(offsets)
        self.entries, self.scales = _tensor(entries, device), _tensor(scales, device)
        self.squares = _tensor(transport.squared_lengths(vectors), device)
        self.lengths = _tensor(transport.token_weights(vectors, "norm"), device)

    @classmethod
    def of(cls, entries: Tensor, scales: Tensor, squares: Tensor, lengths: Tensor, sizes: Places) -> "_Brought":
        """Take over tensors."""
        made = cls.__new__(cls)
        made.entries, made.scales, made.squares, made.lengths, made.sizes = entries, scales, squares, lengths, sizes
        return made

    def followed_by(self, other: "_Brought") -> "_Brought":
        """These texts and the others behind them."""
        return _Brought.of(
            torch.cat([self.entries, other.entries]),
            torch.cat([self.scales, other.scales]),
            torch.cat([self.squares, other.squares]),
            torch.cat([self.lengths, other.lengths]),
            np.concatenate([self.sizes, other.sizes]),
        )


class StoredTexts:
    """Candidates of a store whose token vectors are on a device; `models.rerank` takes them in place of `Candidates`."""

    rows = None
    shared: Tokens | None = None

    def __init__(
        self,
        vectors: DeviceVectors,
        names: Sequence[Hashable],
        rows: Places,
        sizes: Places,
        read: Read,
        weighing: Weighing,
    ) -> None:
        self.sizes = sizes
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self._vectors, self._names, self._rows, self._read, self._weighing = vectors, names, rows, read, weighing

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return len(self.sizes)

    def check(self, query: Vectors) -> None:
        """Raise ValueError where a query (m, d) cannot be compared with the texts."""
        if query.ndim != 2 or query.shape[1] != self._vectors.codec.dim:
            raise ValueError(f"query {query.shape} must be (tokens, {self._vectors.codec.dim}) as the candidates are")

    def points(self, position: int, measure: Measure) -> Points:
        """One candidate, weighed, as the store has it."""
        packed = self._read(self._rows[position : position + 1])
        return self._vectors.codec.unpack(packed, self._weighing).points(0, measure)

    @property
    def device(self) -> torch.device:
        """Where their token vectors are."""
        return self._vectors.device

    def tokens(self, positions: Places) -> tuple[Tokens, Tensor]:
        """Tokens of the texts at positions (b,), and which of them (b, n) each is made of."""
        names = [self._names[position] for position in positions.tolist()]
        found, starts, sizes = self._vectors.gather(names, self._rows[positions], self._read)
        vectors = found.entries.float() * found.scales[:, None]
        weights = None
        if self._weighing.masses is not None:
            weights = found.lengths if self._weighing.masses == "norm" else torch.ones_like(found.lengths)
        ends = np.cumsum(sizes)
        places = np.repeat(starts - ends + sizes, sizes) + np.arange(int(sizes.sum()))
        where = padded(places, sizes, len(vectors))
        return Tokens(vectors, found.squares, found.lengths, weights), _tensor(where, self._vectors.device)


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device; on the CPU it is shared where it may be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _slots(kept: Sequence[_Kept]) -> Places:
    """Slots (tokens,) of texts, one after another."""
    if not kept:
        return np.empty(0, np.int64)
    sizes = np.array([each.size for each in kept], np.int64)
    paged = -(-sizes // PAGE)
    ends, first_pages = np.cumsum(sizes), np.cumsum(paged) - paged
    within = np.arange(int(ends[-1])) - np.repeat(ends - sizes, sizes)  # of each text
    pages = np.concatenate([each.pages for each in kept])
    return np.asarray(pages[np.repeat(first_pages, sizes) + within // PAGE] * PAGE + within % PAGE, np.int64)


def padded(values: NDArray[np.integer[Any]], sizes: Places, padding: int) -> Places:
    """Values of texts of sizes (b,), one after another, as rows (b, n) with `padding` behind the end of each."""
    is_inside = np.arange(int(sizes.max(initial=0))) < sizes[:, None]
    rows = np.full(is_inside.shape, padding, np.int64)
    rows[is_inside] = values
    return rows


def stored_floors(query: Points, texts: StoredTexts, measure: Measure) -> DeviceFloors:
    """Bound candidates of a store."""
    return DeviceFloors(query, texts, measure, texts.device)
