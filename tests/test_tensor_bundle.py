"""TensorFlow's checkpoint files: one that TensorFlow wrote, those that the tests write, and damaged ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle_writer import table, varint, write_bundle
from scripts.conversion.sorted_table import read_table, read_varint
from scripts.conversion.tensor_bundle import TensorBundle

WRITTEN = Path(__file__).parent / "written_by_tensorflow" / "model.ckpt"


def test_what_tensorflow_wrote_is_read() -> None:
    """Every variable of a checkpoint that TensorFlow itself wrote has the numbers that were put in (see write.py there)."""
    bundle = TensorBundle(WRITTEN)
    np.testing.assert_array_equal(
        bundle.read("bert/embeddings/word_embeddings"), np.arange(12, dtype=np.float32).reshape(4, 3) / 8
    )
    for layer in range(20):
        assert bundle.read(f"bert/encoder/layer_{layer}/output/dense/bias").tolist() == [layer, layer]
    assert bundle.read("double").tolist() == [[-2.5, 0.5]]
    assert int(bundle.read("global_step")) == 7
    assert bundle.read("half").tolist() == [0.5, -2, 65504]
    assert bundle.read("short").tolist() == [1.0, -0.5, 3.140625]
    assert len(bundle.entries) == 27


@pytest.mark.parametrize(
    ("name", "reason"), [("sliced", "stored in slices"), ("words", "type 7"), ("absent", "no variable absent")]
)
def test_what_cannot_be_read_is_said(name: str, reason: str) -> None:
    """A partitioned variable, texts, and a name that is not there are refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        TensorBundle(WRITTEN).read(name)


@settings(max_examples=40)
@given(st.dictionaries(st.binary(max_size=6), st.binary(max_size=9), max_size=30), st.integers(1, 7), st.booleans())
def test_a_table_gives_back_what_was_put_in(entries: dict[bytes, bytes], per_block: int, is_snappy: bool) -> None:
    """Reading what the tests' writer wrote gives the same entries, with blocks of any size, packed or not."""
    assert read_table(table(entries, per_block, is_snappy)) == entries


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_any_size_are_read(number: int) -> None:
    """A number of up to 64 bits is read back, with the place behind it."""
    written = varint(number)
    assert read_varint(b"x" + written + b"y", 1) == (number, 1 + len(written))


SHAPES = st.lists(st.integers(0, 3), max_size=3)
KINDS = st.sampled_from(["float32", "float64", "int32", "int64", "float16"])


@settings(max_examples=30)
@given(st.lists(st.tuples(SHAPES, KINDS), max_size=8), st.integers(1, 3), st.booleans())
def test_tensors_of_any_shape_are_read(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[list[int], str]], shards: int, is_snappy: bool
) -> None:
    """Tensors of any shape and type, over several data files, come back as they were."""
    random = np.random.default_rng(0)
    tensors = {f"variable/{row}": random.normal(size=shape).astype(kind) for row, (shape, kind) in enumerate(kinds)}
    prefix = tmp_path_factory.mktemp("bundle") / "model.ckpt"
    write_bundle(prefix, tensors, shards, is_snappy)
    bundle = TensorBundle(prefix)
    assert set(bundle.entries) == set(tensors)
    for name, tensor in tensors.items():
        found = bundle.read(name)
        assert found.dtype == tensor.dtype
        np.testing.assert_array_equal(found, tensor)


@pytest.fixture(name="prefix")
def _prefix(tmp_path: Path) -> Path:
    """A small checkpoint to damage."""
    write_bundle(tmp_path / "model.ckpt", {f"layer_{row}": np.full(4, row, np.float32) for row in range(9)})
    return tmp_path / "model.ckpt"


def test_every_damaged_byte_of_the_index_is_noticed(prefix: Path) -> None:
    """Whatever byte of the index is changed, reading raises ValueError or gives the same variables (bytes that nobody reads)."""
    file = prefix.with_name("model.ckpt.index")
    whole = file.read_bytes()
    before, noticed = TensorBundle(prefix).entries, 0
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            found = TensorBundle(prefix).entries
        except ValueError:
            noticed += 1
        else:
            assert found == before, place
    assert noticed > 0.8 * len(whole)


def test_an_index_that_is_cut_off_is_noticed(prefix: Path) -> None:
    """No beginning of an index is read as a whole one."""
    file = prefix.with_name("model.ckpt.index")
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.ckpt\.index cannot be read"):
            TensorBundle(prefix)


def test_damaged_data_is_noticed(prefix: Path) -> None:
    """A changed byte, a file that ends early and a file that is gone each have their sentence."""
    file = prefix.with_name("model.ckpt.data-00000-of-00001")
    whole = file.read_bytes()
    file.write_bytes(whole[:5] + b"?" + whole[6:])
    with pytest.raises(ValueError, match="checksum of layer_0 is wrong"):
        TensorBundle(prefix).read("layer_0")
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="ends before layer_8 does"):
        TensorBundle(prefix).read("layer_8")
    file.unlink()
    with pytest.raises(ValueError, match=r"there is no .*data-00000-of-00001"):
        TensorBundle(prefix).read("layer_0")


def test_no_checkpoint_is_said(tmp_path: Path) -> None:
    """Where there is no index the message names it, and an old single file is recognised."""
    with pytest.raises(ValueError, match=r"there is no .*model\.ckpt\.index"):
        TensorBundle(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"before TensorFlow 0\.12"):
        TensorBundle(tmp_path / "model.ckpt")
