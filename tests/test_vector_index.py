"""The vector index agrees with comparing everything, on every kind of index, and survives bad files and strings."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.mapped_memory import mapped_in
from service.vector_index import VectorIndex

DIM = 16
KINDS = [
    "auto",
    "Flat",
    "IDMap,Flat",
    "HNSW8",
    "SQ8",
    "IVF8,Flat",
    "IVF8,PQ8x4fs",
    "PQ8x4fs",
    "PCA8,IVF4,SQ8",
    "HNSW8,SQ8",
]
Vectors = NDArray[np.float32]


def unit_vectors(n: int, seed: int, clusters: int = 30) -> Vectors:
    """Unit vectors in clusters, as sentences have topics; some are equal."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, DIM))
    vectors = centres[random.integers(0, clusters, n)] + 0.4 * random.normal(size=(n, DIM))
    vectors[n // 2 : n // 2 + n // 20] = vectors[: n // 20]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_comparing_all(stored: dict[int, Vectors], query: Vectors, k: int, allowed: set[int] | None) -> list[float]:
    """The k greatest inner products, from the definition."""
    scores = [float(vector @ query) for row, vector in stored.items() if allowed is None or row in allowed]
    return sorted(scores, reverse=True)[:k]


def check(
    index: VectorIndex, stored: dict[int, Vectors], queries: Vectors, k: int, allowed: set[int] | None, recall: float
) -> None:
    """Compare a search with the definition: full, living, allowed, sorted, exactly scored, and found often enough."""
    chosen = None if allowed is None else np.array(sorted(allowed), np.int64)
    scores, rows = index.search(queries, k, chosen)
    found = []
    for query, query_scores, query_rows in zip(queries, scores, rows, strict=True):
        truth = by_comparing_all(stored, query, k, allowed)
        n = len(truth)
        assert np.all(query_rows[n:] == -1)
        assert np.all(query_scores[n:] == -np.inf)
        pairs = list(zip((-query_scores[:n]).tolist(), query_rows[:n].tolist(), strict=True))
        assert pairs == sorted(set(pairs))
        for minus_score, row in pairs:
            assert row in stored
            assert allowed is None or row in allowed
            assert abs(-minus_score - float(stored[row] @ query)) < 1e-5
        found += [score >= truth[-1] - 1e-5 for score in query_scores[:n].tolist()]
    assert not found or np.mean(found) >= recall


def filled(kind: str, n: int = 1500, **options: Any) -> tuple[VectorIndex, dict[int, Vectors]]:
    """An index of n vectors under rows 3, 6, 9, …, and what is in it."""
    index, vectors = VectorIndex(DIM, kind, **options), unit_vectors(n, seed=1)
    rows = 3 * np.arange(1, n + 1)
    for start in range(0, n, 400):
        index.add(rows[start : start + 400], vectors[start : start + 400])
    return index, dict(zip(rows.tolist(), vectors, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_full_exact_results(kind: str, tmp_path: Path) -> None:
    """Full top k with exact scores before and after building, with a tail, deletes, filters, compaction and a reload."""
    index, stored = filled(kind, exact_limit=500)
    queries = unit_vectors(6, seed=2)
    check(index, stored, queries, 10, None, recall=1.0)
    while index.maintain():
        pass
    assert (index.kind == "Flat") == (kind in ("Flat", "IDMap,Flat"))

    def check_all() -> None:
        for allowed in (None, set(list(stored)[::2]), set(list(stored)[:40]), {3, 4, 5}, set[int]()):
            for k in (1, 10, 400):
                check(index, stored, queries, k, allowed, recall=0.9)

    check_all()
    tail = unit_vectors(50, seed=3)
    index.add(np.arange(5000, 5050), tail)
    stored.update(zip(range(5000, 5050), tail, strict=True))
    gone = np.array([row for row in stored if row % 6 == 0])
    index.remove(gone)
    index.remove(gone)
    for row in gone.tolist():
        del stored[row]
    check_all()
    path = tmp_path / "vectors.index"
    index.save(path)
    before = index.search(queries, 20)
    index = VectorIndex.load(path, DIM, kind, exact_limit=500)
    assert all(np.array_equal(a, b) for a, b in zip(before, index.search(queries, 20), strict=True))
    while index.maintain():
        pass
    assert index.rows().tolist() == sorted(stored)
    assert len(index) == len(stored)
    check_all()
    index.add(np.array([9000]), queries[:1])
    assert index.search(queries[:1], 1)[1].tolist() == [[9000]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_sequence_of_writes_equals_comparing_all(tmp_path: Path, data: st.DataObject) -> None:
    """An exact index equals the definition after any sequence of adds, removes, upserts, maintenance and reloads."""
    kind = data.draw(st.sampled_from(["auto", "Flat"]))
    room = data.draw(st.sampled_from([np.empty, mapped_in(tmp_path, 0)]))
    index, stored, next_row = VectorIndex(DIM, kind, room=room), dict[int, Vectors](), 1
    for step in range(data.draw(st.integers(1, 8))):
        action = data.draw(st.sampled_from(["add", "add", "remove", "upsert", "maintain", "reload"]))
        gone = set(data.draw(st.lists(st.integers(0, next_row), max_size=200)))
        rows = next_row + np.cumsum(data.draw(st.lists(st.integers(1, 3), max_size=150)), dtype=np.int64)
        vectors = unit_vectors(len(rows), seed=step)
        if action == "maintain":
            index.maintain()
        elif action == "reload":
            index.save(tmp_path / "index")
            index = VectorIndex.load(tmp_path / "index", DIM, kind, room=room)
        else:
            if action == "remove":
                rows, vectors = rows[:0], vectors[:0]
            removed = np.array([] if action == "add" else list(gone), np.int64)
            index.update(rows, vectors, removed)
            stored = {row: vector for row, vector in stored.items() if row not in set(removed.tolist())}
            stored.update(zip(rows.tolist(), vectors, strict=True))
            next_row = max([next_row, *rows.tolist()])
    assert index.rows().tolist() == sorted(stored)
    allowed = data.draw(st.none() | st.sets(st.integers(0, next_row)))
    check(index, stored, unit_vectors(3, seed=50), data.draw(st.integers(1, 30)), allowed, recall=1.0)


def test_equal_vectors_come_in_the_order_of_their_rows() -> None:
    """Of many equal vectors the first rows are returned, and none twice."""
    index = VectorIndex(DIM)
    same = np.repeat(unit_vectors(1, seed=4), 6000, axis=0)
    index.add(np.arange(1, 6001), same)
    index.remove(np.array([2]))
    scores, rows = index.search(same[:2], 5)
    assert rows.tolist() == [[1, 3, 4, 5, 6]] * 2
    assert np.unique(scores).size == 1


def test_auto_grows_and_shrinks() -> None:
    """Auto is exact while small, uses codes when large, and is exact again when little is left."""
    index, stored = filled("auto", exact_limit=1000)
    assert index.kind == "Flat"
    assert index.maintain()
    assert index.kind == "PQ8x4fs"
    assert not index.maintain()
    index.remove(np.array(list(stored)[200:]))
    while index.maintain():
        pass
    assert (index.kind, len(index)) == ("Flat", 200)


def test_what_needs_training_is_exact_until_there_is_enough() -> None:
    """An index with many lists compares all vectors while it has too few to train with."""
    index, stored = filled("IVF256,Flat")
    assert not index.maintain()
    assert index.kind == "Flat"
    check(index, stored, unit_vectors(3, seed=5), 10, None, recall=1.0)


@pytest.mark.parametrize("kind", ["IVF8,PQ8x4fs", "Flat"])
def test_searches_see_whole_batches_beside_a_writer(kind: str) -> None:
    """While a writer replaces batch after batch and maintenance runs, every search sees one whole batch."""
    size, rounds = 200, 25
    index = VectorIndex(DIM, kind)
    index.add(np.arange(1, 1501), unit_vectors(1500, seed=6))
    marked = np.zeros((size, DIM), np.float32)
    marked[:, 0] = 3.0
    index.add(np.arange(2000, 2000 + size), marked)
    finished, failures = threading.Event(), list[str]()

    def read() -> None:
        while not finished.is_set():
            _, rows = index.search(marked[:1], size + 5)
            batches = {int(row) // 1000 for row in rows[0, :size]}
            if len(batches) != 1 or int(rows[0, size]) // 1000 in batches:
                failures.append(f"batches {batches}, then row {rows[0, size]}")

    def tend() -> None:
        while not finished.is_set():
            index.maintain()

    threads = [threading.Thread(target=target) for target in (read, read, tend)]
    for thread in threads:
        thread.start()
    for batch in range(3, 3 + rounds):
        present = np.arange(1000 * (batch - 1), 1000 * (batch - 1) + size)
        index.update(present + 1000, marked, present)
    finished.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(index) == 1500 + size


@pytest.mark.parametrize(
    "kind",
    [
        *("", "nonsense", "IVF16", "PQ5", "LSH", "PCA64,Flat", "IVF1000000000,Flat", "IVF0,Flat", "HNSW9999", "PQ8x16"),
        *("Pad65536,Flat", "RQ65536x1", "NSG16", "IMI2x12,Flat", "花", "\x00", "Flat" * 1000),
    ],
)
def test_bad_factory_strings_are_refused(kind: str) -> None:
    """A string that FAISS cannot read, that does not fit, or that asks for too much is a ValueError that names it."""
    with pytest.raises(ValueError, match="index '"):
        VectorIndex(DIM, kind)


def test_bad_calls_are_refused() -> None:
    """Rows that do not ascend, wrong shapes, NaN and k below 1 raise ValueError and change nothing."""
    index, stored = filled("auto", n=40)
    one = unit_vectors(1, seed=7)
    for rows, vectors in [([5], one), ([200, 200], np.repeat(one, 2, 0)), ([200], one[:, :5]), ([200], one * np.nan)]:
        with pytest.raises(ValueError, match=r"expected|rows"):
            index.add(np.array(rows), vectors)
    with pytest.raises(ValueError, match="shape"):
        index.add(np.array([200]), one[0])
    with pytest.raises(ValueError, match="k must be positive"):
        index.search(one, 0)
    assert index.rows().tolist() == sorted(stored)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Truncated, altered, foreign and empty files, and those of another kind, raise ValueError; the whole file loads."""
    index, _ = filled("IVF8,Flat")
    index.maintain()
    good = tmp_path / "good"
    index.save(good)
    raw = good.read_bytes()
    bad = tmp_path / "bad"
    random = np.random.default_rng(8)
    places = [*range(0, 60, 7), *random.integers(0, len(raw), 20).tolist(), len(raw) - 1]
    altered = [raw[:place] + bytes([raw[place] ^ 0x41]) + raw[place + 1 :] for place in places]
    truncated = [raw[:length] for length in (0, 1, 11, 12, 100, len(raw) // 2, len(raw) - 1)]
    for content in [*altered, *truncated, raw + b"\0", b"SQLite format 3\0" * 50, random.bytes(5000)]:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="bad"):
            VectorIndex.load(bad, DIM, "IVF8,Flat")
    for dim, kind in ((DIM + 1, "IVF8,Flat"), (DIM, "auto")):
        with pytest.raises(ValueError, match="good"):
            VectorIndex.load(good, dim, kind)
    assert len(VectorIndex.load(good, DIM, "IVF8,Flat")) == len(index)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("good")] == ["good"]
