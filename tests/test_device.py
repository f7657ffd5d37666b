"""Bounds on a device are true, and a rerank by them is the rerank by NumPy, whatever the texts are."""

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import bounds as bounds_module
from models import device_bounds, device_tokens, transport
from models.bounds import Floors
from models.candidates import PLAIN, Candidates, TokenTable, Weighing
from models.deadline import Deadline
from models.device_tokens import DeviceTable, DeviceVectors, stored_floors
from models.dual_bound import Dual
from models.encoder import Encoded
from models.rerank import Solving, rerank
from models.token_codec import ScaledBytes
from models.transport import Measure

MEASURES: tuple[Measure, ...] = ("wrd", "wmd")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
measures = st.sampled_from(MEASURES)
Ids = NDArray[np.int64]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every device that is there."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def made_table(seed: int, tokens: int, dim: int) -> TokenTable:
    """A table whose rows lean one way and differ in length; some are zero, some are equal, some too short to have a direction."""
    random = np.random.default_rng(seed)
    vectors = (random.normal(size=(tokens, dim)) + random.normal(size=dim)) * random.uniform(0.3, 2.0, size=(tokens, 1))
    vectors[0] = 0.0
    vectors[1] = vectors[-1]
    vectors[2] *= 1e-14
    return TokenTable(vectors.astype(np.float32))


def made_texts(seed: int, table: TokenTable, count: int, longest: int) -> tuple[Ids, list[Ids]]:
    """A query and texts that share some of its tokens; some are empty, of one token, copies of the query or of each other."""
    random = np.random.default_rng(seed)
    query = random.integers(0, len(table), int(random.integers(1, longest + 1)))
    texts = []
    for size in random.integers(0, longest + 1, count):
        shared = random.random(size) < random.beta(1, 3)
        texts.append(
            np.where(shared, query[random.integers(0, len(query), size)], random.integers(0, len(table), size))
        )
    texts += [query.copy(), query[:1], np.zeros(2, np.int64), np.empty(0, np.int64), *texts[:2]]
    return query, texts


def candidates_of(table: TokenTable, texts: Sequence[Ids], weights: NDArray[np.float64] | None = None) -> Candidates:
    """Texts by their token ids."""
    return Candidates.from_table(table, np.concatenate(texts), np.cumsum([0, *map(len, texts)]), weights)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 24), st.integers(0, 30), st.integers(1, 40), measures, st.booleans())
def test_bounds_hold_and_are_those_of_numpy(
    seed: int, dim: int, count: int, longest: int, measure: Measure, is_weighed: bool
) -> None:
    """No bound exceeds the distance, none is below that of NumPy by more than rounding, and texts without mass have the worst."""
    table = made_table(seed, 60, dim)
    query, texts = made_texts(seed, table, count, longest)
    weights = np.random.default_rng(seed).uniform(0.0, 3.0, 60).round(1) if is_weighed else None
    asked = transport.points(table.vectors[query], measure, None if weights is None else weights[query])
    candidates = candidates_of(table, texts, weights)
    floors = DeviceTable(table, "cpu").floors(asked, candidates, measure)
    exact = np.array(
        [transport.distance_between(asked, candidates.points(i, measure), measure) for i in range(len(texts))]
    )
    written = Candidates(
        np.concatenate([table.vectors[text] for text in texts]),
        candidates.offsets,
        weights=None if weights is None else np.concatenate([weights[text] for text in texts]),
    )
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(bounds_module, "by_potentials", lambda p, weights, totals, *_: Dual(0.0 * totals, 0.0 * totals))
    plain = Floors(asked, written, measure).reduced()
    monkeypatch.undo()
    found = floors.reduced()
    assert (found <= exact).all()
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=2e-3)
    some = np.flatnonzero(np.arange(len(texts)) % 2 == 0)
    np.testing.assert_allclose(floors.reduced(some), found[some], rtol=1e-5, atol=1e-6)
    assert (floors.dual(some) <= exact[some]).all()
    assert (found[~np.isfinite(exact)] == math.inf).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_reranks_as_numpy_does(measure: Measure, device: str) -> None:
    """Order, scores and distances are to the last bit those of the NumPy path: short texts, texts of 512 tokens, ties."""
    for seed, count, longest in ((1, 120, 20), (2, 30, 80), (3, 6, 512)):
        table = made_table(seed, 900, 48)
        on_device = DeviceTable(table, device)
        query, texts = made_texts(seed, table, count, longest)
        known = np.random.default_rng(seed).choice([0.0, 0.1, 0.25], len(texts))
        for top_k in (1, 10):
            candidates = candidates_of(table, texts)
            plain = rerank(table.vectors[query], candidates, known, 0.7, top_k, measure)
            found = rerank(
                table.vectors[query], candidates, known, 0.7, top_k, measure, solving=Solving(on_device.floors)
            )
            assert found.order.tolist() == plain.order.tolist()
            assert found.scores.tolist() == plain.scores.tolist()
            assert found.distances.tolist() == plain.distances.tolist()
            assert found.certificate.exact
            assert found.certificate.solved < len(texts)


def test_bounds_keep_to_the_deadline() -> None:
    """What the deadline leaves out has a bound of 0, which holds for everything."""
    table = made_table(3, 60, 8)
    query, texts = made_texts(3, table, 20, 12)
    candidates = candidates_of(table, texts)
    floors = DeviceTable(table, "cpu").floors(transport.points(table.vectors[query], "wmd"), candidates, "wmd")
    in_time, late = floors.reduced(), floors.reduced(deadline=Deadline(time.monotonic()))
    assert in_time.any()
    assert ((late == 0.0) | (late == in_time)).all()
    assert not late[np.isfinite(in_time)].any()


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few costs are held at a time, the bounds are the same, and every text with tokens is in one chunk."""
    table = made_table(7, 300, 32)
    query, texts = made_texts(7, table, 40, 60)
    asked = transport.points(table.vectors[query], "wmd")
    floors = DeviceTable(table, "cpu").floors(asked, candidates_of(table, texts), "wmd")
    whole = floors.reduced()
    monkeypatch.setattr(device_bounds, "CHUNK_COSTS", {"cpu": 500})
    monkeypatch.setattr(device_bounds, "UNCUT_COSTS", {"cpu": 1})
    parts = list(floors.chunks(np.arange(len(texts))))
    assert len(parts) > 10
    assert sorted(np.concatenate(parts).tolist()) == [i for i, text in enumerate(texts) if len(text)]
    np.testing.assert_allclose(floors.reduced(), whole, rtol=1e-6)


def test_where_memory_runs_out_chunks_become_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are the same; a device that never has room raises."""
    table = made_table(8, 300, 32)
    query, texts = made_texts(8, table, 60, 60)
    asked = transport.points(table.vectors[query], "wrd")
    made = DeviceTable(table, "cpu")
    floors = made.floors(asked, candidates_of(table, texts), "wrd")
    whole, room, work = floors.reduced(), [20], floors._reduced

    def reduced(positions: Ids) -> torch.Tensor:
        if len(positions) > room[0]:
            raise torch.OutOfMemoryError("no room")
        return work(positions)

    monkeypatch.setattr(floors, "_reduced", reduced)
    np.testing.assert_allclose(floors.reduced(), whole, rtol=1e-6)
    room[0] = 0
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        floors.reduced()


class Store:
    """Contextual token vectors by row, as bytes."""

    def __init__(self, seed: int, sizes: Sequence[int], dim: int) -> None:
        random = np.random.default_rng(seed)
        self.codec = ScaledBytes(dim)
        self.vectors = [random.normal(size=(size, dim)).astype(np.float32) + 1 for size in sizes]
        ids = [np.zeros(size, np.int32) for size in sizes]
        self.packed = self.codec.pack(Encoded(np.zeros((len(sizes), dim), np.float32), self.vectors, ids))
        self.read_rows: list[int] = []

    def read(self, rows: Ids) -> list[bytes]:
        self.read_rows += rows.tolist()
        return [self.packed[row] for row in rows.tolist()]


@pytest.mark.parametrize("masses", [None, "norm", "uniform"])
@pytest.mark.parametrize("measure", MEASURES)
def test_stored_vectors_are_reranked_as_numpy_does(measure: Measure, masses: str | None, device: str) -> None:
    """By vectors on the device, whatever room they have, the result is that of unpacking all of them on the host."""
    random = np.random.default_rng(5)
    store = Store(5, random.integers(1, 70, 60).tolist(), 24)
    weighing = PLAIN if masses is None else Weighing(masses)  # type: ignore[arg-type]
    for budget in (10_000, 100_000, 1 << 22):
        vectors = DeviceVectors(store.codec, device, budget)
        for _ in range(8):
            rows = random.permutation(60)[:25]
            query = store.vectors[int(rows[0])][:9] + np.float32(0.1)
            weights = weighing.weights(query, np.zeros(len(query), np.int64))
            known = random.choice([0.0, 0.1], 25)
            plain = rerank(
                query, store.codec.unpack(store.read(rows), weighing), known, 0.8, 5, measure, query_weights=weights
            )
            texts = vectors.texts("store", rows, store.read, weighing)
            found = rerank(query, texts, known, 0.8, 5, measure, query_weights=weights, solving=Solving(stored_floors))
            assert found.order.tolist() == plain.order.tolist()
            assert found.distances.tolist() == plain.distances.tolist()
            assert found.certificate.exact
            assert found.certificate.solved + found.certificate.pruned == 25


def test_what_was_asked_for_lately_stays() -> None:
    """A second rerank of the same rows reads only what it solves; beyond the budget the least recently used texts go."""
    store = Store(6, [16] * 40, 16)
    vectors = DeviceVectors(store.codec, "cpu", 20 * device_tokens.PAGE * 32)  # 20 pages
    vectors.texts(0, np.arange(10), store.read)
    assert store.read_rows == list(range(10))
    vectors.texts(0, np.arange(5, 15), store.read)
    assert store.read_rows == list(range(15))
    vectors.texts(1, np.arange(8), store.read)  # others: rows of another store; 0 to 2 go
    assert len(vectors) == 20
    store.read_rows.clear()
    vectors.texts(0, np.arange(3, 15), store.read)
    assert store.read_rows == []
    vectors.texts(0, np.arange(2), store.read)
    assert store.read_rows == [0, 1]
    texts = vectors.texts(0, np.arange(30), store.read)  # more than there is room for
    assert texts.sizes.tolist() == [16] * 30
    assert len(vectors) == 20
    tokens, where = texts.tokens(np.arange(30))
    unpacked = store.codec.unpack(store.packed[:30])
    for position in range(30):
        np.testing.assert_array_equal(tokens.vectors[where[position]].numpy(), unpacked.tokens(position))


def test_what_was_not_written_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory runs out while texts are copied, nothing of them stays, and the next search copies them again."""
    store = Store(9, [20] * 6, 16)
    vectors = DeviceVectors(store.codec, "cpu", 1 << 20)
    vectors.texts(0, np.arange(2), store.read)
    with monkeypatch.context() as patch:
        patch.setattr(vectors, "_write", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            vectors.texts(0, np.arange(6), store.read)
    assert len(vectors) == 2
    texts = vectors.texts(0, np.arange(6), store.read)
    tokens, where = texts.tokens(np.arange(6))
    for position in range(6):
        np.testing.assert_array_equal(
            tokens.vectors[where[position]].numpy(), store.codec.unpack(store.packed).tokens(position)
        )


def test_refused() -> None:
    """A budget without room for a page, candidates of no table, vectors that are not finite and other dimensions are named."""
    store = Store(8, [3], 16)
    with pytest.raises(ValueError, match="100 bytes hold no page of 16 token vectors"):
        DeviceVectors(store.codec, "cpu", 100)
    vectors = DeviceVectors(store.codec, "cpu", 1 << 20)
    texts = vectors.texts(0, np.arange(1), store.read)
    with pytest.raises(ValueError, match=r"query \(2, 5\) must be \(tokens, 16\)"):
        rerank(np.ones((2, 5), np.float32), texts, np.zeros(1), 1.0, 1, "wrd")
    table = TokenTable(np.ones((3, 4), np.float32))
    plain = Candidates(table.vectors, np.array([0, 3]))
    with pytest.raises(ValueError, match="rows of the table"):
        DeviceTable(table, "cpu").floors(transport.points(table.vectors, "wrd"), plain, "wrd")
    broken = np.frombuffer(store.packed[0], np.uint8).copy()
    broken[:2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
    with pytest.raises(ValueError, match="row 0 holds"):
        vectors.texts(1, np.arange(1), lambda rows: [broken.tobytes()])
