"""Sentence vectors by row: the nearest by inner product, which is the cosine since vectors have unit length.

The idea: compressed codes propose, exact vectors decide. All float32 vectors stay in memory (vector_blocks.py). A FAISS index,
"main", over the first slots proposes more candidates than asked for; the slots added since, the tail, are compared one by
one; and every candidate is scored again with its float32 vector. So scores are exact on every index type. Deletes and filters
are applied to what was proposed, on the CPU and the GPU alike (GPU indexes ignore selectors silently); where too few
candidates are left, and in small collections always, all vectors are compared. "auto" is exact up to `exact_limit` vectors, then
4-bit product codes scanned in registers (André et al., "Quicker ADC", arXiv:1812.09162), then these in inverted lists; the
measurements behind it are printed by scripts/benchmark/index.py.

A search reads one view that the writer replaces as a whole: slots are only appended, a removal copies the mask, and a FAISS
index that a view holds is never changed. So no search waits, and each sees all or nothing of an update. `maintain`
trains, extends and compacts on the side. This file is FAISS's only door.
"""

import re
import threading
from pathlib import Path
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from service.snapshots import read_snapshot, write_snapshot
from service.vector_blocks import Blocks, Slots, Vectors

EXACT_LIMIT = 20_000  # vectors: comparing all costs about 0.7 ms at 256 dimensions on one core
_LISTS_FROM = 1_000_000  # vectors from which "auto" puts the codes into inverted lists
_FETCH, _FETCH_CODES = 2, 16  # candidates per wanted result: from an index of whole vectors, of short codes
_FETCH_LEAST = 256
_COMPARED_SHARE = 1 / 4  # where more of all vectors than this would be fetched, all are compared
_PROBED_SHARE = 1 / 8  # of the inverted lists
_EF_SEARCH = 256
_TAIL_LEAST, _TAIL_SHARE = 256, 1 / 16  # of main: a longer tail is moved into it
_DEAD_LEAST, _DEAD_SHARE = 64, 1 / 4  # of the slots: more deleted ones than this are squeezed out
_TRAINED_RANGE = 1 / 2, 4  # times the size it was trained at: outside, an index is trained anew
_SAMPLE_LEAST, _POINTS_PER_CENTROID = 1 << 14, 39  # FAISS warns below 39
_GPU_FETCH_LIMIT = 2048  # FAISS's own
_CODES = re.compile(r"PQ|RQ|LSQ|RaBitQ|SQ4|LSH|Lattice|PCA|OPQ|Residual|ITQ")
_LARGEST_NUMBER, _MOST_BITS, _MOST_LINKS, _CODEBOOK_LIMIT = 1 << 16, 12, 256, 1 << 26  # in a factory string

Rows = NDArray[np.int64]
_NO_ROWS: Rows = np.empty(0, np.int64)


def set_threads(n: int) -> None:
    """Let FAISS use n threads in each call."""
    faiss.omp_set_num_threads(n)


class _Main(NamedTuple):
    """A FAISS index over the first `covered` slots."""

    index: Any
    factory: str
    covered: int
    trained_on: int  # slots there were when it was built


class _View(NamedTuple):
    """What one search sees: for each slot a vector, a row (ascending) and whether it is deleted."""

    blocks: Blocks
    rows: Rows  # (n,)
    dead: NDArray[np.bool_]  # (n,)
    live: int
    main: _Main | None

    def slots_of(self, rows: Rows) -> Slots:
        """Return the living slots of ascending rows; unknown rows have none."""
        if not len(self.rows):
            return _NO_ROWS
        slots = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.asarray(slots[(self.rows[slots] == rows) & ~self.dead[slots]], np.int64)


class VectorIndex:
    """The nearest vectors by row; any number of searching threads beside one writer."""

    def __init__(self, dim: int, kind: str = "auto", device: str = "cpu", exact_limit: int = EXACT_LIMIT) -> None:
        """Make an empty index.

        kind: "auto" or a FAISS factory string ("Flat", "HNSW32", "IVF256,SQ8", …). ValueError, with FAISS's reason, if it is
        none, does not fit the dimension or could take memory without bound. One that needs training is exact until there
        are enough vectors. device "cuda": on the first GPU, if FAISS has one and the kind exists there.
        """
        if dim < 1:
            raise ValueError(f"dim must be positive: {dim}")
        self.dim, self.requested = dim, kind
        self.problem: str | None = None  # FAISS's reason why the wanted index could not be built: search stays exact
        self._factory = None if kind == "auto" else re.sub(r"^(IDMap2?,)+", "", kind)
        if self._factory is not None:
            _new_index(dim, self._factory)
        self._exact_limit = exact_limit
        self._retry_from = 0
        self._last_row = -1
        self._row_buffer, self._dead_buffer = _NO_ROWS, np.empty(0, np.bool_)  # longer than a view's: room to append
        self._view = _View(Blocks((), (), 0, dim), self._row_buffer, self._dead_buffer, 0, None)
        self._writing, self._maintaining, self._gpu_owner = threading.Lock(), threading.Lock(), threading.Lock()
        has_gpu = device == "cuda" and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
        self._gpu = faiss.StandardGpuResources() if has_gpu else None

    def __len__(self) -> int:
        return self._view.live

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
        return len(view.rows) * (4 * self.dim + 9) + code

    def rows(self) -> Rows:
        """Return the living rows, ascending."""
        view = self._view
        return view.rows[~view.dead]

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Add vectors (n, dim) under rows (n,), ascending and beyond every row ever added; ValueError otherwise."""
        self.update(rows, vectors, _NO_ROWS)

    def remove(self, rows: Rows) -> None:
        """Forget rows; unknown ones are ignored."""
        self.update(_NO_ROWS, np.empty((0, self.dim), np.float32), rows)

    def update(self, rows: Rows, vectors: Vectors, removed: Rows) -> None:
        """Add vectors and remove rows in one step: no search sees one without the other."""
        rows, vectors = np.asarray(rows, np.int64), self._checked(vectors)
        if rows.shape != (len(vectors),):
            raise ValueError(f"{rows.shape} rows for {len(vectors)} vectors")
        with self._writing:
            if len(rows) and (rows[0] <= self._last_row or np.any(np.diff(rows) <= 0)):
                raise ValueError(f"rows must ascend beyond {self._last_row}: got {rows[:3]}…")
            self._view = self._without(self._with(self._view, rows, vectors), np.asarray(removed, np.int64))
            self._last_row = int(rows[-1]) if len(rows) else self._last_row

    def search(self, queries: Vectors, k: int, allowed: Rows | None = None) -> tuple[Vectors, Rows]:
        """Find the k nearest of each query (q, dim), among `allowed` (ascending rows) if given.

        Returns scores (q, k), best first, and rows (q, k), ties by ascending row; -inf and -1 only where there are fewer
        than k living (allowed) vectors.
        """
        if k < 1:
            raise ValueError(f"k must be positive: {k}")
        queries, view = self._checked(queries), self._view
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        slots = None if allowed is None else view.slots_of(np.asarray(allowed, np.int64))
        wanted = min(k, view.live if slots is None else len(slots))
        if not wanted:
            return scores, rows
        proposed = {} if view.main is None else self._propose(view, view.main, queries, wanted, slots)
        rest = [i for i in range(len(queries)) if i not in proposed]
        proposed.update(zip(rest, view.blocks.nearest(queries[rest], wanted, view.dead, slots), strict=True))
        for i, candidates in proposed.items():
            exact = np.vecdot(view.blocks.gather(candidates), queries[i])
            order = np.lexsort((candidates, -exact))[:wanted]
            scores[i, :wanted], rows[i, :wanted] = exact[order], view.rows[candidates[order]]
        return scores, rows

    def maintain(self) -> bool:
        """Do the largest piece of work that is due, on the side: compact, build or extend. Returns whether one was."""
        with self._maintaining:
            view, main = self._view, self._view.main
            n = len(view.rows)
            if n - view.live >= max(_DEAD_LEAST, _DEAD_SHARE * n):
                self._compact(view)
            elif (factory := self._wanted(main, n)) is None:
                if main is None:
                    return False
                self._swap(None)
            elif main is None or not _is_fresh(main, n):
                self._swap(self._build(view, factory))
            elif n - main.covered >= max(_TAIL_LEAST, _TAIL_SHARE * main.covered):
                self._swap(self._extend(view, main))
            else:
                return False
            return True

    def save(self, path: Path) -> None:
        """Write a snapshot, atomically."""
        view, last_row, main = self._view, self._last_row, self._view.main
        index = np.empty(0, np.uint8) if main is None else faiss.serialize_index(self._on_host(main.index))
        meta = {"dim": self.dim, "kind": self.requested, "last_row": last_row, "main": main and main[1:]}
        vectors = [np.empty((0, self.dim), np.float32), *view.blocks.pieces()]
        write_snapshot(path, "vectors", meta, {"rows": view.rows, "dead": view.dead, "index": index, "vectors": vectors})

    @classmethod
    def load(cls, path: Path, dim: int, kind: str = "auto", device: str = "cpu", exact_limit: int = EXACT_LIMIT) -> Self:
        """Read a snapshot; ValueError for anything but a whole one of this dimension and kind."""
        loaded = cls(dim, kind, device, exact_limit)
        meta, arrays = read_snapshot(path, "vectors")
        if (meta.get("dim"), meta.get("kind")) != (dim, kind):
            raise ValueError(f"{path} holds {meta.get('dim')} dimensions as {meta.get('kind')!r}, not {dim} as {kind!r}")
        main = None
        try:
            rows, dead, vectors = arrays["rows"], arrays["dead"], arrays["vectors"]
            if meta["main"] is not None:
                main = _Main(loaded._on_device(faiss.deserialize_index(arrays["index"])), *meta["main"])
            loaded._last_row = int(meta["last_row"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} does not hold a vector index: {error}") from error
        if vectors.shape != (len(rows), dim) or dead.shape != rows.shape or (main and main.index.ntotal != main.covered):
            raise ValueError(f"{path} does not hold a vector index: its parts do not fit together")
        loaded._row_buffer, loaded._dead_buffer = rows, dead
        loaded._view = _View(Blocks.of(vectors), rows, dead, int(np.count_nonzero(~dead)), main)
        return loaded

    def _checked(self, vectors: Vectors) -> Vectors:
        """Return finite float32 vectors (n, dim), C-contiguous."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or not np.isfinite(vectors).all():
            raise ValueError(f"expected finite vectors of {self.dim} dimensions, got shape {vectors.shape}")
        return vectors

    def _with(self, view: _View, rows: Rows, vectors: Vectors) -> _View:
        """Append slots."""
        n, end = len(view.rows), len(view.rows) + len(rows)
        if end > len(self._row_buffer):
            room = max(end - n, n, 64)
            self._row_buffer = np.concatenate([view.rows, np.empty(room, np.int64)])
            self._dead_buffer = np.concatenate([view.dead, np.zeros(room, np.bool_)])
        self._row_buffer[n:end] = rows
        blocks = view.blocks.append(vectors)
        return view._replace(
            blocks=blocks, rows=self._row_buffer[:end], dead=self._dead_buffer[:end], live=view.live + len(rows)
        )

    def _without(self, view: _View, rows: Rows) -> _View:
        """Mark rows as deleted, in a copy of the mask: earlier views keep theirs."""
        slots = view.slots_of(np.unique(rows))
        if not len(slots):
            return view
        self._dead_buffer = self._dead_buffer.copy()
        self._dead_buffer[slots] = True
        return view._replace(dead=self._dead_buffer[: len(view.rows)], live=view.live - len(slots))

    def _propose(self, view: _View, main: _Main, queries: Vectors, wanted: int, allowed: Slots | None) -> dict[int, Slots]:
        """Return candidate slots of those queries for which main has enough, with the best of the tail."""
        if allowed is None:
            eligible = ~view.dead
        else:
            eligible = np.zeros(len(view.rows), np.bool_)
            eligible[allowed] = True
        inside = int(np.count_nonzero(eligible[: main.covered]))
        rate = _FETCH_CODES if _CODES.search(main.factory) else _FETCH
        fetch = max(rate * wanted, _FETCH_LEAST) * main.covered // max(inside, 1)
        if fetch > _COMPARED_SHARE * main.covered:
            return {}
        if self._gpu is None:
            ids = main.index.search(queries, fetch)[1]
        else:
            with self._gpu_owner:
                ids = main.index.search(queries, min(fetch, _GPU_FETCH_LIMIT))[1]
        tail = view.blocks.nearest(queries, wanted, view.dead, allowed, main.covered)
        proposed = {}
        for i, found in enumerate(ids):
            found = found[found >= 0]
            found = found[eligible[found]]
            if len(found) >= wanted * max(1, rate // 4):
                proposed[i] = np.concatenate([found, tail[i]])
        return proposed

    def _wanted(self, main: _Main | None, n: int) -> str | None:
        """Return the factory string that n slots deserve; None where comparing all is best or nothing else is possible."""
        factory = self._factory
        least = self._exact_limit if factory is None else _points_needed(factory)
        if n < max(self._retry_from, least * (_TRAINED_RANGE[0] if main else 1)):
            return None
        if factory is not None:
            return None if factory == "Flat" and self._gpu is None else factory
        lists = f"IVF{1 << int(np.log2(4 * n**0.5))}," if n >= _LISTS_FROM else ""
        return lists + (f"PQ{(self.dim + 1) // 2 if self.dim % 2 == 0 else self.dim}x4fs" if self._gpu is None else "Flat")

    def _build(self, view: _View, factory: str) -> _Main | None:
        """Train and fill a FAISS index with all slots of a view; None, and the reason in `problem`, where FAISS cannot."""
        n, index = len(view.rows), _new_index(self.dim, factory)
        try:
            if not index.is_trained:
                size = min(view.live, max(_SAMPLE_LEAST, 2 * _points_needed(factory)))
                sample = np.random.default_rng(0).choice(np.flatnonzero(~view.dead), size, replace=False)
                index.train(view.blocks.gather(np.sort(sample)))
            _tune(index, factory)
            for piece in view.blocks.pieces():
                index.add(piece)
        except RuntimeError as error:
            self.problem, self._retry_from = _reason(error), 2 * n
            return None
        self.problem = None
        return _Main(self._on_device(index), factory, n, n)

    def _extend(self, view: _View, main: _Main) -> _Main | None:
        """Move the tail into a copy of main."""
        try:
            index = self._on_host(main.index)
            index = faiss.clone_index(index) if index is main.index else index
        except RuntimeError:  # a few kinds cannot be copied
            return self._build(view, main.factory)
        for piece in view.blocks.pieces(main.covered):
            index.add(piece)
        return main._replace(index=self._on_device(index), covered=len(view.rows))

    def _swap(self, main: _Main | None) -> None:
        """Let searches use another main."""
        with self._writing:
            self._view = self._view._replace(main=main)

    def _compact(self, view: _View) -> None:
        """Copy what lives to new slots, build main over these, then follow what was written meanwhile."""
        alive = np.flatnonzero(~view.dead)
        blocks = Blocks((), (), 0, self.dim)
        for part in np.array_split(alive, len(alive) // _SAMPLE_LEAST + 1):
            blocks = blocks.append(view.blocks.gather(part))
        fresh = _View(blocks, view.rows[alive], np.zeros(len(alive), np.bool_), len(alive), None)
        factory = self._wanted(view.main, len(alive))
        fresh = fresh._replace(main=factory and self._build(fresh, factory))
        with self._writing:
            now, n = self._view, len(view.rows)
            self._row_buffer, self._dead_buffer = fresh.rows, fresh.dead
            later = now.blocks.gather(np.arange(n, len(now.rows)))
            self._view = self._without(self._with(fresh, now.rows[n:], later), now.rows[now.dead])

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


def _is_fresh(main: _Main, n: int) -> bool:
    """Say whether main's training still fits n slots."""
    least, most = (bound * main.trained_on for bound in _TRAINED_RANGE)
    return least <= n < most or _points_needed(main.factory) == _TAIL_LEAST


def _points_needed(factory: str) -> int:
    """Return how many vectors a factory string's training needs; the least worth an index where it needs none."""
    lists = [int(n) for n in re.findall(r"IVF(\d+)", factory)]
    bits = [int(b) for b in re.findall(r"\d+x(\d+)", factory)] + [8] * bool(re.search(r"PQ\d+(?![\dx])", factory))
    centroids = max([*lists, *(1 << b for b in bits), 0])
    trained = re.search(r"PCA|OPQ|ITQ|SQ|RaBitQ", factory)
    return max(_TAIL_LEAST, _POINTS_PER_CENTROID * centroids, 1000 if trained else 0)


def _new_index(dim: int, factory: str) -> Any:
    """Make an untrained FAISS index; ValueError with the reason where the string is bad or its memory has no bound."""
    numbers = [int(n) for n in re.findall(r"\d+", factory[:200])]
    if len(factory) > 100 or max(numbers, default=0) > _LARGEST_NUMBER:
        raise ValueError(f"index {factory[:100]!r}: at most 100 characters and numbers up to {_LARGEST_NUMBER}")
    if any(int(n) > _MOST_LINKS for n in re.findall(r"(?:HNSW|NSG)(\d+)", factory)):
        raise ValueError(f"index {factory!r}: at most {_MOST_LINKS} links")
    for parts, bits in re.findall(r"(\d+)x(\d+)", factory):
        if int(bits) > _MOST_BITS or int(parts) * dim << int(bits) > _CODEBOOK_LIMIT:
            raise ValueError(f"index {factory!r}: codes of {parts}x{bits} bits are too large for {dim} dimensions")
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        for transform in getattr(index, "chain", None) and map(index.chain.at, range(index.chain.size())) or []:
            if isinstance(faiss.downcast_VectorTransform(transform), faiss.PCAMatrix) and transform.d_out > transform.d_in:
                raise ValueError(f"index {factory!r}: no {transform.d_out} principal components of {transform.d_in} dimensions")
    except RuntimeError as error:
        raise ValueError(f"index {factory!r}: {_reason(error)}") from error
    return index


def _tune(index: Any, factory: str) -> None:
    """Set how much of an approximate index is looked at."""
    space = faiss.ParameterSpace()
    for lists in re.findall(r"^(?:.*,)?IVF(\d+)", factory):
        space.set_index_parameter(index, "nprobe", max(1, int(int(lists) * _PROBED_SHARE)))
    if re.search(r"^(?:.*,)?HNSW", factory):
        space.set_index_parameter(index, "efSearch", _EF_SEARCH)


def _bytes_per_vector(index: Any) -> int:
    """Return the memory of one vector in a FAISS index: its code, its number, its links."""
    links = 4 * index.hnsw.nb_neighbors(0) if hasattr(index, "hnsw") else 0
    stored = index.storage if hasattr(index, "storage") else index
    try:
        return int(stored.sa_code_size()) + links + 8 * isinstance(index, faiss.IndexIVF)
    except RuntimeError:
        return 4 * int(index.d) + links


def _reason(error: RuntimeError) -> str:
    """Return what FAISS said, without the place in its source."""
    return str(error).rpartition("Error: ")[2].strip()
