"""The service as a process: how it starts, refuses to start, ends, and what it never does."""

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from live_service import ROOT, ServiceProcess, free_port, until
from service.collections import Library

pytestmark = pytest.mark.timeout(240)

TEXTS = ["花呗怎么还款", "信用卡提额度", "怎么退货", "选课成绩查询"]


@contextmanager
def ended(service: ServiceProcess) -> Iterator[tuple[int, str]]:
    """Start a service that cannot start; yield its exit code and what it said."""
    with service:
        code = service.process.wait(120)
        yield code, service.log.read_text()


def assert_one_sentence(said: str, *words: str) -> None:
    """The words stand in one line of `moverank: …` or of the log, and there is no traceback."""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if all(word in line for word in words)]
    assert lines, said


def test_sigterm_finishes_what_runs_and_the_snapshot_is_loaded(tmp_path: Path, model_folder: Path) -> None:
    """A request that runs when SIGTERM comes is answered; the process ends with 0; a start finds the snapshots complete."""
    service = ServiceProcess(tmp_path / "data", model_folder)
    many = [{"id": str(i), "text": TEXTS[i % 4] * 6} for i in range(2_000)]
    with service:
        service.until_ready()
        answers: list[httpx.Response] = []
        path = f"{service.url}/v1/collections/a/documents"
        sending = threading.Thread(
            target=lambda: answers.append(httpx.post(path, json={"documents": many}, timeout=100))
        )
        sending.start()
        time.sleep(0.15)
        code = service.terminate()
        sending.join()
        assert code == 0, service.log.read_text()
        assert "Traceback" not in service.log.read_text()
        assert [answer.status_code for answer in answers] == [200]
        folder = service.data_dir / "collections" / "a"
        assert (folder / "vectors.index").is_file()
        assert (folder / "lexical.index").is_file()
        assert not list(folder.glob("*-wal")), "the log is folded into the store"
        snapshots = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.index")}
        library = Library(service.data_dir)
        with library.get("a").view() as view:
            assert library.get("a").vectors.rows().tolist() == view.rows().tolist()
            assert view.count() == 2_000
        library.close()
        assert snapshots == {file.name: file.stat().st_mtime_ns for file in folder.glob("*.index")}, (
            "nothing to catch up"
        )
        service.start().until_ready()
        body = {"query": many[7]["text"], "top_k": 3}
        hits = httpx.post(f"{service.url}/v1/collections/a/search", json=body, timeout=30).json()["results"][0]["hits"]
        assert [hit["text"] for hit in hits] == [many[7]["text"]] * 3


def test_an_event_stream_does_not_keep_the_process_alive(tmp_path: Path, model_folder: Path) -> None:
    """With a caller who watches a job, SIGTERM ends the process with 0; the job goes on at the next start."""
    service = ServiceProcess(tmp_path / "data", model_folder, drain_timeout_s=5)
    with service:
        service.until_ready()
        body, kind = (TEXTS[0] * 5 + "\n").encode() * 40_000, {"Content-Type": "text/plain"}
        id = httpx.post(f"{service.url}/v1/collections/a/imports", content=body, headers=kind, timeout=60).json()["job"]

        def watch() -> None:
            try:
                httpx.get(f"{service.url}/v1/jobs/{id}/events", timeout=60)
            except httpx.TransportError:
                return

        watching = threading.Thread(target=watch)
        watching.start()
        job = f"{service.url}/v1/jobs/{id}"
        until(lambda: httpx.get(job, timeout=30).json()["done"] > 0)
        assert service.terminate() == 0
        watching.join(30)
        assert not watching.is_alive()
        service.start().until_ready()
        state = httpx.get(job, timeout=30).json()
        assert state["state"] == "running"
        assert httpx.delete(job, timeout=30).json()["done"] > 0


def test_cuda_without_a_gpu_refuses_to_start(tmp_path: Path, model_folder: Path) -> None:
    """MOVERANK_DEVICE=cuda on a machine without one ends with 1 and says so."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with ended(ServiceProcess(tmp_path / "data", model_folder, device="cuda")) as (code, said):
        assert code == 1
        assert_one_sentence(said, "moverank:", "cuda")


def test_a_port_in_use_is_named(tmp_path: Path, model_folder: Path) -> None:
    """The process ends with an error that names the port, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with ended(ServiceProcess(tmp_path / "data", model_folder, port=port)) as (code, said):
            assert code != 0
            assert_one_sentence(said, str(port), "in use")


def test_a_data_folder_in_use_is_named(tmp_path: Path, model_folder: Path) -> None:
    """Two processes never share a data folder: the second ends with 1 and says which."""
    library = Library(tmp_path / "data")
    with ended(ServiceProcess(tmp_path / "data", model_folder)) as (code, said):
        assert code == 1
        assert_one_sentence(said, "moverank:", str(tmp_path / "data"), "in use")
    library.close()


@pytest.mark.parametrize(
    "damage", ["missing", "no weights", "cut weights", "noise in weights", "bad json", "empty config", "no tokenizer"]
)
def test_a_broken_model_folder_is_named(tmp_path: Path, model_folder: Path, damage: str) -> None:
    """A model that cannot be loaded ends the process with 1 and a sentence about it."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    weights = folder / "model.safetensors"
    if damage == "missing":
        shutil.rmtree(folder)
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "noise in weights":
        weights.write_bytes(b"\xff" * 1_000)
    elif damage == "bad json":
        (folder / "config.json").write_text("{")
    elif damage == "empty config":
        (folder / "config.json").write_text("{}")
    else:
        (folder / "tokenizer.json").unlink()
    with ended(ServiceProcess(tmp_path / "data", folder)) as (code, said):
        assert code == 1, said
        assert_one_sentence(said, "moverank:")


@pytest.mark.parametrize("value", [("port", "70000"), ("port", "web"), ("device", "tpu"), ("max_top_k", "0")])
def test_a_wrong_setting_is_named(tmp_path: Path, model_folder: Path, value: tuple[str, str]) -> None:
    """A setting out of its bounds ends the process with 1 and its name."""
    with ended(ServiceProcess(tmp_path / "data", model_folder, **dict([value]))) as (code, said):
        assert code == 1
        assert value[0] in said
        assert "Traceback" not in said


def run(*arguments: str, timeout_s: float = 200) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def test_help_lists_the_commands(tmp_path: Path) -> None:
    """`moverank --help` and the help of each command end with 0; a wrong command ends with 2; reindex of nothing with 1."""
    shown = run("-m", "service.cli", "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: moverank")
    for command in re.findall(r"^    (\w+)", shown.stdout, re.MULTILINE):
        assert f"moverank {command}" in run("-m", "service.cli", command, "--help").stdout
    assert "serve" in shown.stdout
    assert run("-m", "service.cli", "dance").returncode == 2
    nothing = run("-m", "service.cli", "reindex", "none", "--data-dir", str(tmp_path))
    assert nothing.returncode == 1
    assert_one_sentence(nothing.stderr, "moverank:", "none")


WITHOUT_NETWORK = """
import sys, pathlib

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"a socket opens: {event} {arguments[1:]}")

sys.addaudithook(refuse)
from service.runtime import Runtime
from service.settings import Settings

for runtime in ("torch", "auto"):
    folder = pathlib.Path(sys.argv[1]) / runtime
    service = Runtime(Settings(data_dir=folder, model=pathlib.Path(sys.argv[2]), device="cpu", runtime=runtime, threads=1))
    assert service.check_forward(0.0, 60.0) is None
    assert service.library.names() == ["sample"]
    service.close()
print("quiet")
"""


def test_a_local_model_is_loaded_without_a_socket(tmp_path: Path, model_folder: Path) -> None:
    """Loading a local model, exporting it and encoding the sample corpus connects to nothing, and is not told to be offline."""
    child = run("-c", WITHOUT_NETWORK, str(tmp_path), str(model_folder))
    assert (child.returncode, child.stdout.strip()) == (0, "quiet"), child.stderr


THREE_OPENMPS = """
import pathlib, sys, threading
import torch, faiss, onnxruntime, ot
import numpy as np
from models.encoder import Encoder
from models.encoder_folder import read_encoder_folder
from models.onnx_export import onnx_forward
from service.vector_index import VectorIndex

folder = pathlib.Path(sys.argv[2])
exported = onnx_forward(read_encoder_folder(folder), pathlib.Path(sys.argv[1]), 2)
encoders = [Encoder(folder, "cpu"), Encoder(folder, "cpu", None, exported)]
torch.set_num_threads(2)
index = VectorIndex(encoders[0].dim, "IVF4,Flat")
texts = ["花呗怎么还款" * (1 + i % 8) for i in range(400)]
index.add(np.arange(1, 401), encoders[0].encode(encoders[0].tokenize(texts)).sentences)
index.maintain()
answers = []

def work(number):
    encoder = encoders[number % 2]
    for i in range(20):
        sentences = encoder.encode(encoder.tokenize(texts[i : i + 8])).sentences
        index.search(sentences, 10)
        cost = np.random.default_rng(i).random((20, 20))
        ot.emd2([], [], cost)
    answers.append(number)

threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(answers))
"""


def test_torch_faiss_onnxruntime_and_pot_live_in_one_process(tmp_path: Path, model_folder: Path) -> None:
    """Their copies of OpenMP do not crash each other when threads encode, search and solve at the same time."""
    child = run("-c", THREE_OPENMPS, str(tmp_path), str(model_folder))
    assert (child.returncode, child.stdout.strip()) == (0, "[0, 1, 2, 3]"), child.stderr


def test_livez_answers_while_the_model_is_loaded(tmp_path: Path, model_folder: Path) -> None:
    """The port opens before the model is there: /livez is 200 from the first answer on, /readyz 503 or 200."""
    service = ServiceProcess(tmp_path / "data", model_folder, port=free_port())
    with service:

        def answers() -> bool:
            try:
                return httpx.get(f"{service.url}/livez", timeout=10).status_code == 200
            except httpx.TransportError:
                return False

        until(answers)
        assert httpx.get(f"{service.url}/readyz", timeout=10).status_code in (200, 503)
        service.until_ready()
        assert service.terminate() == 0
