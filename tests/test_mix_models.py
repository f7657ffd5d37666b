"""A model between two: its weights, its ends, and what cannot be mixed."""

from pathlib import Path

import pytest
import torch

from scripts.mix_models import main
from scripts.train_simbert import run
from scripts.training.start import read_network
from tiny_training import choices, write_corpus


def test_a_mixed_model_lies_between_its_ends(tmp_path: Path) -> None:
    """Every weight is first + share · (second − first), but for half precision; at the ends it is one of the two."""
    corpus = write_corpus(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    run(choices(corpus, first))
    run(choices(corpus, second, "--start", str(first), "--stages", "similar", "--rates", "1e-2", "--steps", "6"))
    ends = [read_network(folder).state_dict() for folder in (first, second)]
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for share in ("0", "0.25", "1"):
        main([str(first), str(second), "--share", share, "--out", str(tmp_path / share)])
        found = read_network(tmp_path / share).state_dict()
        for name, value in found.items():
            wanted = ends[0][name] + float(share) * (ends[1][name] - ends[0][name])
            torch.testing.assert_close(value, wanted, rtol=2e-3, atol=2e-4, msg=name)
    assert (tmp_path / "1" / "moverank.json").read_text() == (second / "moverank.json").read_text()
    assert (tmp_path / "1" / "curves.csv").read_text() == (second / "curves.csv").read_text()


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    """Folders that are no models, other sizes, other vocabularies."""
    corpus = write_corpus(tmp_path)
    run(choices(corpus, tmp_path / "one", "--stages", "static", "--steps", "1"))
    run(choices(corpus, tmp_path / "other", "--stages", "static", "--steps", "1", "--layers", "1"))
    run(choices(corpus, tmp_path / "fewer", "--stages", "static", "--steps", "1", "--characters", "20"))
    for second, said in (
        (corpus, "no folder"),
        (tmp_path / "other", "different sizes"),
        (tmp_path / "fewer", "vocabularies"),
    ):
        with pytest.raises(SystemExit, match=said):
            main([str(tmp_path / "one"), str(second), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
