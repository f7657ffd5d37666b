"""service/mapped_memory.py: arrays like any other, in files that nobody sees."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.mapped_memory import LEAST_BYTES, give_back, mapped_in
from service.snapshots import read_snapshot, write_snapshot
from service.vector_blocks import Blocks


def mappings(folder: Path) -> list[str]:
    """Return the mappings of this process whose file was in a folder and has no name."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(folder) in line and line.endswith("(deleted)")]


def test_an_array_lies_in_a_file_without_a_name_as_long_as_it_is_used(tmp_path: Path) -> None:
    """It can be written and read, leaves nothing in the folder, and its mapping goes with the last view of it."""
    array = mapped_in(tmp_path)((LEAST_BYTES // 4, 2), np.float32)
    array[:] = 1.5
    part = array[7:9]
    del array
    assert (part.tolist(), part.flags.writeable) == ([[1.5, 1.5]] * 2, True)
    assert list(tmp_path.iterdir()) == []
    assert len(mappings(tmp_path)) == 1
    del part
    assert mappings(tmp_path) == []


def test_small_arrays_and_those_that_find_no_room_are_plain(tmp_path: Path) -> None:
    """Below a megabyte, and where the folder is gone, the array is an ordinary one."""
    for array in (
        mapped_in(tmp_path)((10, 3), np.int64),
        mapped_in(tmp_path / "gone")((LEAST_BYTES,), np.uint8),
        mapped_in(tmp_path, 0)((0, 256), np.float32),
    ):
        array[:] = 1
        assert array.sum() == array.size
    assert mappings(tmp_path) == []


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 3_000), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_mapped_vectors_are_the_same_vectors(tmp_path: Path, sizes: list[int], seed: int) -> None:
    """Blocks in mapped memory, and what a snapshot of them is read into, equal those in plain memory to the last bit."""
    random = np.random.default_rng(seed)
    plain, mapped = Blocks((), (), 0, 4), Blocks((), (), 0, 4, mapped_in(tmp_path, 0))
    for size in sizes:
        vectors = random.normal(size=(size, 4)).astype(np.float32)
        plain, mapped = plain.append(vectors), mapped.append(vectors)
    assert [piece.tolist() for piece in plain.pieces()] == [piece.tolist() for piece in mapped.pieces()]
    if plain.total:
        slots = random.integers(0, plain.total, 50)
        assert np.array_equal(plain.gather(slots), mapped.gather(slots))
        write_snapshot(tmp_path / "file", "blocks", {}, {"vectors": list(mapped.pieces())})
        read = read_snapshot(tmp_path / "file", "blocks", mapped_in(tmp_path, 0))[1]["vectors"]
        assert np.array_equal(read, np.concatenate(list(plain.pieces())))
        (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-1] + b"\x00\x00")
        with pytest.raises(ValueError, match="damaged"):
            read_snapshot(tmp_path / "file", "blocks", mapped_in(tmp_path, 0))


def test_what_is_given_back_is_no_more_than_what_is_free() -> None:
    """What is in use stays as it was when what lay between it is returned."""
    kept = [bytes([i % 256]) * 2_000 for i in range(20_000)][::50]
    give_back()
    assert all(piece == bytes([50 * i % 256]) * 2_000 for i, piece in enumerate(kept))
