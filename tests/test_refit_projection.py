"""A projection set by least squares, and a model that finds alike what several find alike together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoder import Encoder
from scripts.refit_projection import main
from scripts.train_simbert import run
from scripts.training.projection import joined, least_squares
from tiny_training import QUESTIONS, choices, write_corpus


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 4), st.floats(1e-4, 1.0))
def test_the_least_squares_are_those_of_the_rows_with_the_ridge_below(
    seed: int, hidden: int, dim: int, ridge: float
) -> None:
    """The ridge is as further rows that want 0: NumPy's solver on those agrees."""
    random = np.random.default_rng(seed)
    means, wanted = random.standard_normal((9, hidden)), random.standard_normal((9, dim))
    below = np.sqrt(ridge * np.square(means).sum(axis=0).mean()) * np.eye(hidden)
    plain = np.linalg.lstsq(np.vstack([means, below]), np.vstack([wanted, np.zeros((hidden, dim))]), rcond=None)[0]
    found = least_squares(torch.from_numpy(means), torch.from_numpy(wanted), ridge)
    np.testing.assert_allclose(found.numpy(), plain.T, atol=1e-8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5), st.floats(0, 1), st.integers(1, 12))
@settings(deadline=None)
def test_joined_vectors_have_the_mean_of_the_products(seed: int, one: int, other: int, part: float, dim: int) -> None:
    """Exactly where the dimensions suffice, else as nearly as any vectors of so many dimensions."""
    random = np.random.default_rng(seed)
    a, b = (random.standard_normal((8, size)).astype(np.float32) for size in (one, other))
    found = joined([a, b], [1.0, part], dim)
    assert found.shape == (8, dim)
    products = a @ a.T + part * (b @ b.T)
    left = np.linalg.eigvalsh(products.astype(np.float64))[: max(0, 8 - dim)]  # what no dim dimensions can hold
    error = np.linalg.norm(products - found @ found.T)
    assert error == pytest.approx(np.linalg.norm(left), abs=1e-3)


def test_only_the_map_changes_and_the_likenesses_come_nearer_to_the_mean(tmp_path: Path) -> None:
    """Two tiny models: cosines of the written one are nearer to (first + second) / 2; all other files are the first's."""
    corpus = write_corpus(tmp_path)
    first, second, out = (tmp_path / name for name in ("first", "second", "out"))
    run(choices(corpus, first))
    run(choices(corpus, second, "--seed", "5", "--rates", "2e-2", "2e-2"))
    main([str(first), "--also", str(second), "1", "--pairs", str(corpus / "pairs.tsv"), "--out", str(out)])
    texts = [f"{text}{number}" for text in QUESTIONS for number in (1, 2, 7)]

    def cosines(folder: Path) -> np.ndarray:
        encoder = Encoder(folder, "cpu")
        vectors = encoder.encode(encoder.tokenize(texts)).sentences
        return vectors @ vectors.T

    wanted = (cosines(first) + cosines(second)) / 2
    before, after = (float(np.abs(cosines(folder) - wanted).mean()) for folder in (first, out))
    assert after < 0.5 * before
    files = sorted(file.relative_to(first) for file in first.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(out) for file in out.rglob("*") if file.is_file())
    changed = {file for file in files if (first / file).read_bytes() != (out / file).read_bytes()}
    assert changed == {Path("3_Dense/model.safetensors")}


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    """Shares that are none, folders that are no models, an output that is there."""
    corpus = write_corpus(tmp_path)
    run(choices(corpus, tmp_path / "one", "--stages", "static", "--steps", "1"))
    (tmp_path / "there").mkdir()
    model, pairs = str(tmp_path / "one"), ["--pairs", str(corpus / "pairs.tsv")]
    for arguments, said in (
        ([model, "--also", model, "2", *pairs, "--out", str(tmp_path / "out")], "from 0 to 1"),
        ([model, "--also", str(corpus / "text"), "1", *pairs, "--out", str(tmp_path / "out")], "text"),
        ([str(corpus), "--also", model, "1", *pairs, "--out", str(tmp_path / "out")], "no folder"),
        ([model, "--also", model, "1", *pairs, "--out", str(tmp_path / "there")], "there already"),
    ):
        with pytest.raises(SystemExit, match=said):
            main(arguments)
    assert not (tmp_path / "out").exists()
