"""Sentence vectors by row: the nearest by inner product, which is the cosine since vectors have unit length.

The idea: compressed codes propose, exact vectors decide. All float32 vectors are at hand (vector_rows.py). A FAISS index,
"main", over the first slots proposes more candidates than asked for; the slots added since, the tail, are compared one by
one; and every candidate is scored again with its float32 vector. So scores are exact on every index type. Deletes and filters
are applied to what was proposed, on the CPU and the GPU alike (GPU indexes ignore selectors silently); where too few are
left, and in small collections always, all are compared. "auto" is exact up to `exact_limit` vectors, then 4-bit product codes
scanned in registers ("Quicker ADC", arXiv:1812.09162), then these in inverted lists (DECISIONS.md).

A search reads one view that the writer replaces as a whole: slots are only appended, a removal copies the mask, and a FAISS
index that a view holds is never changed. So no search waits, and each sees all or nothing of an update. `maintain`
trains, extends and compacts on the side. FAISS's only door.
"""

import logging
import threading
from pathlib import Path
from typing import Any, NamedTuple, Self

import faiss
import numpy as np

from service import index_kinds
from service.index_kinds import EXACT_LIMIT, LEAST_INDEXED, reason
from service.mapped_memory import Room
from service.snapshots import read_snapshot, write_snapshot
from service.vector_blocks import Blocks, Slots, Vectors
from service.vector_rows import NO_ROWS, Rows, VectorRows

log = logging.getLogger(__name__)
_FETCH, _FETCH_CODES = 2, 10  # candidates per wanted result: from an index of whole vectors, of short codes
_FETCH_LEAST = 256
_COMPARED_SHARE = 1 / 8  # where more of all vectors than this, or than may be found, would be fetched, all are compared
_PROBED_SHARE = 1 / 4  # of the inverted lists
_EF_SEARCH = 256
_TAIL_SHARE = 1 / 64  # of main: a longer tail is moved into it
_DEAD_LEAST, _DEAD_SHARE = 64, 1 / 4  # of the slots: more deleted ones than this are squeezed out
_SAMPLE_LEAST = 1 << 14  # vectors to train with, if there are so many
_WIDEST, _LINKS_BYTES = 16, 1 << 12  # an index may take so many bytes a dimension, and for the links of a graph
_GPU_FETCH_LIMIT = 2048  # FAISS's own


def set_threads(n: int) -> None:
    """Let FAISS use n threads in each call of the present thread; every thread that searches or maintains says so itself."""
    faiss.omp_set_num_threads(n)


class _Main(NamedTuple):
    """A FAISS index over the first `covered` slots."""

    index: Any
    factory: str
    covered: int
    trained_on: int  # vectors there were when it was built


class _View(NamedTuple):  # what one search sees
    vectors: VectorRows
    main: _Main | None


class VectorIndex:
    """The nearest vectors by row; any number of searching threads beside one writer."""

    def __init__(
        self, dim: int, kind: str = "auto", device: str = "cpu", exact_limit: int = EXACT_LIMIT, room: Room = np.empty
    ) -> None:
        """Make an empty index, whose vectors lie in memory from ``room``.

        kind: "auto" or a FAISS factory string ("Flat", "HNSW32", "IVF256,SQ8", …). ValueError, with FAISS's reason, if it is
        none, does not fit the dimension or could take memory without bound. One that needs training is exact until there
        are enough vectors. device "cuda": on the first GPU, if FAISS has one and the kind exists there.
        """
        if dim < 1:
            raise ValueError(f"dim must be positive: {dim}")
        self.dim, self.requested = dim, kind
        self._factory = None if kind == "auto" else index_kinds.without_numbering(kind)
        if self._factory is not None:
            _new_index(dim, self._factory)
        self._exact_limit = exact_limit
        self._retry_from, self._last_row = 0, -1
        self._view = _View(VectorRows.empty(dim, room), None)
        self._writing, self._maintaining, self._gpu_owner = threading.Lock(), threading.Lock(), threading.Lock()
        has_gpu = device == "cuda" and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
        self._gpu = faiss.StandardGpuResources() if has_gpu else None

    def __len__(self) -> int:
        return self._view.vectors.live

    @property
    def last_row(self) -> int:
        """The greatest row ever added; -1 before the first."""
        return self._last_row

    @property
    def kind(self) -> str:
        """The FAISS factory string in use now; "Flat" while all vectors are compared."""
        main = self._view.main
        return main.factory if main else "Flat"

    @property
    def bytes(self) -> int:
        """Memory of the vectors, rows and FAISS index, about."""
        view = self._view
        code = view.main.covered * _bytes_per_vector(view.main.index) if view.main else 0
        return len(view.vectors.rows) * (4 * self.dim + 9) + code

    def rows(self) -> Rows:
        """Return the living rows, ascending."""
        vectors = self._view.vectors
        return vectors.rows[~vectors.dead]

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Add vectors (n, dim) under rows (n,), ascending and beyond every row ever added; ValueError otherwise."""
        self.update(rows, vectors, NO_ROWS)

    def remove(self, rows: Rows) -> None:
        """Forget rows; unknown ones are ignored."""
        self.update(NO_ROWS, np.empty((0, self.dim), np.float32), rows)

    def update(self, rows: Rows, vectors: Vectors, removed: Rows) -> None:
        """Add vectors and remove rows in one step: no search sees one without the other."""
        rows, vectors = np.asarray(rows, np.int64), self._checked(vectors)
        if rows.shape != (len(vectors),):
            raise ValueError(f"{rows.shape} rows for {len(vectors)} vectors")
        with self._writing:
            if len(rows) and (rows[0] <= self._last_row or np.any(np.diff(rows) <= 0)):
                raise ValueError(f"rows must ascend beyond {self._last_row}: got {rows[:3]}…")
            changed = self._view.vectors.append(rows, vectors).without(np.asarray(removed, np.int64))
            self._view = self._view._replace(vectors=changed)
            self._last_row = int(rows[-1]) if len(rows) else self._last_row

    def search(self, queries: Vectors, k: int, allowed: Rows | None = None) -> tuple[Vectors, Rows]:
        """Find the k nearest of each query (q, dim), among `allowed` (ascending rows) if given.

        Returns scores (q, k), best first, and rows (q, k), ties by ascending row; -inf and -1 only where there are fewer
        than k living (allowed) vectors.
        """
        if k < 1:
            raise ValueError(f"k must be positive: {k}")
        queries, (vectors, main) = self._checked(queries), self._view
        scores, rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        slots = None if allowed is None else vectors.slots_of(np.asarray(allowed, np.int64))
        wanted = min(k, vectors.live if slots is None else len(slots))
        if not wanted:
            return scores, rows
        proposed = {} if main is None else self._propose(vectors, main, queries, wanted, slots)
        rest = [i for i in range(len(queries)) if i not in proposed]
        proposed.update(zip(rest, vectors.blocks.nearest(queries[rest], wanted, vectors.dead, slots), strict=True))
        for i, candidates in proposed.items():
            exact = np.vecdot(vectors.blocks.gather(candidates), queries[i])
            order = np.lexsort((candidates, -exact))[:wanted]
            scores[i, :wanted], rows[i, :wanted] = exact[order], vectors.rows[candidates[order]]
        return scores, rows

    def scores_for(self, query: Vectors, rows: Rows) -> Vectors:
        """Return the inner product (n,) of a query (dim,) with each of the given rows, in any order; all must be known."""
        return self._view.vectors.inner_products(query, rows)

    def maintain(self) -> bool:
        """Do the largest piece of work that is due, on the side: compact, build or extend. Returns whether one was."""
        with self._maintaining:
            vectors, main = self._view
            n = len(vectors.rows)
            if n - vectors.live >= max(_DEAD_LEAST, _DEAD_SHARE * n):
                self._compact(vectors)
            elif main is not None and index_kinds.is_fresh(main.factory, main.trained_on, vectors.live):
                if n - main.covered < max(LEAST_INDEXED, _TAIL_SHARE * main.covered):
                    return False
                self._swap(self._extend(vectors, main))
            elif (factory := self._wanted(vectors.live)) is not None:
                self._swap(self._build(vectors, factory))
            elif main is not None:
                self._swap(None)
            else:
                return False
            return True

    def save(self, path: Path) -> None:
        """Write a snapshot, atomically."""
        with self._writing:
            (vectors, main), last_row = self._view, self._last_row
        meta = {"dim": self.dim, "kind": self.requested, "last_row": last_row, "main": main and main[1:]}
        index = [] if main is None else [faiss.serialize_index(self._on_host(main.index))]
        write_snapshot(path, "vectors", meta, {**vectors.arrays(), "index": [np.empty(0, np.uint8), *index]})

    @classmethod
    def load(
        cls,
        path: Path,
        dim: int,
        kind: str = "auto",
        device: str = "cpu",
        exact_limit: int = EXACT_LIMIT,
        room: Room = np.empty,
    ) -> Self:
        """Read a snapshot; ValueError for anything but a whole one of this dimension and kind."""
        loaded = cls(dim, kind, device, exact_limit, room)
        meta, arrays = read_snapshot(path, "vectors", room)
        if (meta.get("dim"), meta.get("kind")) != (dim, kind):
            raise ValueError(f"{path} is not of {dim} dimensions as {kind!r}: {meta}")
        main = None
        try:
            rows, dead, vectors = (arrays[name] for name in ("rows", "dead", "vectors"))
            if meta["main"] is not None and (meta["main"][0] != "Flat" or loaded._gpu is not None):
                main = _Main(loaded._on_device(faiss.deserialize_index(arrays["index"])), *meta["main"])
            loaded._last_row = int(meta["last_row"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} does not hold a vector index: {error}") from error
        fits = vectors.shape == (len(rows), dim) and dead.shape == rows.shape
        if not fits or (main and main.index.ntotal != main.covered):
            raise ValueError(f"{path} does not hold a vector index: its parts do not fit together")
        loaded._view = _View(VectorRows.of(Blocks.of(vectors, room), rows, dead), main)
        return loaded

    def _checked(self, vectors: Vectors) -> Vectors:
        """Return finite float32 vectors (n, dim), C-contiguous."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or not np.isfinite(vectors).all():
            raise ValueError(f"expected finite vectors of {self.dim} dimensions, got shape {vectors.shape}")
        return vectors

    def _propose(
        self, vectors: VectorRows, main: _Main, queries: Vectors, wanted: int, allowed: Slots | None
    ) -> dict[int, Slots]:
        """Return candidate slots of those queries for which main has enough, with the best of the tail."""
        if allowed is None:
            eligible = ~vectors.dead
        else:
            eligible = np.zeros(len(vectors.rows), np.bool_)
            eligible[allowed] = True
        inside = int(np.count_nonzero(eligible[: main.covered]))
        rate = _FETCH_CODES if index_kinds.has_short_codes(main.factory) else _FETCH
        fetch = max(rate * wanted, _FETCH_LEAST) * main.covered // max(inside, 1)
        if fetch > min(_COMPARED_SHARE * main.covered, inside):
            return {}
        if self._gpu is None:
            ids = main.index.search(queries, fetch)[1]
        else:
            with self._gpu_owner:
                ids = main.index.search(queries, min(fetch, _GPU_FETCH_LIMIT))[1]
        tail = vectors.blocks.nearest(queries, wanted, vectors.dead, allowed, main.covered)
        proposed = {}
        for i, found in enumerate(ids):
            found = found[found >= 0]
            found = found[eligible[found]]
            if len(found) >= wanted * max(1, rate // 4):
                proposed[i] = np.concatenate([found, tail[i]])
        return proposed

    def _wanted(self, live: int) -> str | None:
        """Return the factory string that so many vectors deserve; None where comparing all is best or all that is possible."""
        least = self._exact_limit if self._factory is None else index_kinds.points_needed(self._factory)
        if live < max(self._retry_from, least) or (self._factory == "Flat" and self._gpu is None):
            return None
        return self._factory or index_kinds.chosen_kind(live, self.dim, self._gpu is not None)

    def _build(self, vectors: VectorRows, factory: str) -> _Main | None:
        """Train and fill a FAISS index with all slots; None where FAISS cannot, and the log says why."""
        index = _new_index(self.dim, factory)
        try:
            if not index.is_trained:
                size = min(vectors.live, max(_SAMPLE_LEAST, index_kinds.points_needed(factory)))
                sample = np.random.default_rng(0).choice(np.flatnonzero(~vectors.dead), size, replace=False)
                index.train(vectors.blocks.gather(np.sort(sample)))
            _tune(index, factory)
            for piece in vectors.blocks.pieces():
                index.add(piece)
        except RuntimeError as error:
            log.warning("no index %r of %d vectors, which stay exact: %s", factory, vectors.live, reason(error))
            self._retry_from = 2 * vectors.live
            return None
        return _Main(self._on_device(index), factory, len(vectors.rows), vectors.live)

    def _extend(self, vectors: VectorRows, main: _Main) -> _Main | None:
        """Move the tail into a copy of main."""
        try:
            index = self._on_host(main.index)
            index = faiss.clone_index(index) if index is main.index else index
            for piece in vectors.blocks.pieces(main.covered):
                index.add(piece)
        except RuntimeError:  # a few kinds cannot be copied
            return self._build(vectors, main.factory)
        return main._replace(index=self._on_device(index), covered=len(vectors.rows))

    def _swap(self, main: _Main | None) -> None:
        """Let searches use another main."""
        with self._writing:
            self._view = self._view._replace(main=main)

    def _compact(self, vectors: VectorRows) -> None:
        """Copy what lives to new slots, build main over these, then follow what was written meanwhile."""
        fresh = vectors.compacted()
        factory = self._wanted(fresh.live)
        main = None if factory is None else self._build(fresh, factory)
        with self._writing:
            self._view = _View(fresh.following(self._view.vectors, len(vectors.rows)), main)

    def _on_device(self, index: Any) -> Any:
        """Move an index to the GPU, if there is one and it knows the kind."""
        if self._gpu is None:
            return index
        try:
            with self._gpu_owner:
                return faiss.index_cpu_to_gpu(self._gpu, 0, index)
        except RuntimeError:
            return index

    def _on_host(self, index: Any) -> Any:
        """Return the index itself, or a copy of it if it is on the GPU."""
        if self._gpu is None or not type(index).__name__.startswith("Gpu"):
            return index
        with self._gpu_owner:
            return faiss.index_gpu_to_cpu(index)


def _new_index(dim: int, factory: str) -> Any:
    """Make an empty FAISS index; ValueError with the reason where FAISS cannot, or it could take memory without bound."""
    index_kinds.check_kind(factory, dim)
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        chain = [index.chain.at(i) for i in range(index.chain.size())] if hasattr(index, "chain") else []
    except RuntimeError as error:
        raise ValueError(f"index {factory!r}: {reason(error)}") from error
    for transform in map(faiss.downcast_VectorTransform, chain):
        if isinstance(transform, faiss.PCAMatrix) and transform.d_out > transform.d_in:
            raise ValueError(f"index {factory!r}: {transform.d_out} components of {transform.d_in} dimensions")
    widest = max([_bytes_per_vector(index), *(4 * transform.d_out for transform in chain)])
    if widest > _WIDEST * dim + _LINKS_BYTES:
        raise ValueError(f"index {factory!r}: {widest} bytes for a vector of {dim} dimensions")
    return index


def _tune(index: Any, factory: str) -> None:
    """Set how much of an approximate index is looked at."""
    space = faiss.ParameterSpace()
    if lists := index_kinds.lists_of(factory):
        space.set_index_parameter(index, "nprobe", max(1, int(lists * _PROBED_SHARE)))
    if index_kinds.is_graph(factory):
        space.set_index_parameter(index, "efSearch", _EF_SEARCH)


def _bytes_per_vector(index: Any) -> int:
    """Return the memory of one vector in a FAISS index: its code, its number, its links."""
    links = 4 * index.hnsw.nb_neighbors(0) if hasattr(index, "hnsw") else 0
    stored = index.storage if hasattr(index, "storage") else index
    try:
        return int(stored.sa_code_size()) + links + 8 * isinstance(index, faiss.IndexIVF)
    except RuntimeError:  # a few kinds do not say
        return 4 * int(index.d) + links
