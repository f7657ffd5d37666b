"""Two processes that torchrun starts take the step that one process takes on the whole batch."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.encoder import Encoder
from scripts.training.processes import Processes
from tiny_training import write_corpus
from torchrun_child import gradients

ROOT = Path(__file__).resolve().parent.parent
CHILD = ROOT / "tests" / "torchrun_child.py"


def start(*command: str) -> None:
    """Run a Python program with the project and its tests importable; its output is shown where it fails."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module", name="folders")
def _folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What this process alone leaves, and what two leave."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    torch.save(gradients(corpus, one, Processes()), one / "gradients.pt")
    for name in ("prepared", "model.work"):
        shutil.copytree(one / "prepared", two / name)  # tokenizer and first vectors
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    start(*torchrun, str(CHILD), str(corpus), str(two))
    return one, two


def test_two_processes_have_the_gradients_of_one(folders: tuple[Path, Path]) -> None:
    """Loss and every gradient, of every kind of batch and loss, are those of the whole batch in one process."""
    one, two = (torch.load(folder / "gradients.pt", weights_only=True) for folder in folders)
    assert set(one) == set(two)
    kinds = {" ".join(name.split()[:4]) for name in one}
    assert {kind.split()[2] for kind in kinds} == {"similar", "seq2seq", "masked"}
    assert len(kinds) == 11
    for name, value in one.items():
        largest = float(value.abs().max())
        assert float((two[name] - value).abs().max()) <= 1e-4 * largest + 1e-8, name
    assert sum(float(value.abs().max()) > 1e-6 for value in one.values()) > 100


def test_two_processes_write_one_folder(folders: tuple[Path, Path]) -> None:
    """The run of two processes, timed by the clock, ends with a folder that loads and curves of both stages."""
    _, folder = folders
    encoder = Encoder(folder / "model", "cpu")
    assert encoder.encode(encoder.tokenize(["怎么还款"])).sentences.shape == (1, 16)
    with open(folder / "model" / "curves.csv", encoding="utf-8") as file:
        assert {row["stage"] for row in csv.DictReader(file)} == {"static", "similar", "supervised"}
    assert not (folder / "model.work" / "checkpoint.pt").exists()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 5, 6])
def test_every_item_belongs_to_one_process(count: int, size: int) -> None:
    """The shares of all processes are all items, and each one's order begins with its own."""
    processes = [Processes(rank, count) for rank in range(count)]
    assert sorted(item for one in processes for item in one.own(size).tolist()) == list(range(size))
    for one in processes:
        own, order = one.own(size), one.order(size)
        assert sorted(order.tolist()) == list(range(size))
        assert order[: len(own)].tolist() == own.tolist()
