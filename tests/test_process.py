"""The service as a process: how it starts, refuses to start, ends, and what it never does."""

import json
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from live_service import ROOT, ServiceProcess, free_port, until
from service.cli import MOST_FILES
from service.library import Library
from service.settings import given_variables, read_settings, unknown_variables

pytestmark = pytest.mark.timeout(900)

TEXTS = ["花呗怎么还款", "信用卡提额度", "怎么退货", "选课成绩查询"]


@contextmanager
def ended(service: ServiceProcess) -> Iterator[tuple[int, str]]:
    """Start a service that cannot start; yield its exit code and what it said."""
    with service:
        code = service.process.wait(400)
        yield code, service.log.read_text()


def assert_one_sentence(said: str, *words: str) -> None:
    """The words stand in one line of `moverank: …` or of the log, and there is no traceback."""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if all(word in line for word in words)]
    assert lines, said


def is_alive(service: ServiceProcess) -> bool:
    try:
        return service.client.get("/livez").status_code == 200
    except httpx.TransportError:
        return False


def test_sigterm_finishes_what_runs_and_the_snapshot_is_loaded(tmp_path: Path, model_folder: Path) -> None:
    """The port opens before the model is there; a request that runs when SIGTERM comes is answered; then the process ends with 0.

    The next start finds the snapshots complete.
    """
    service = ServiceProcess(tmp_path / "data", model_folder)
    many = [{"id": str(i), "text": TEXTS[i % 4] * 6} for i in range(4_000)]
    with service:
        until(lambda: is_alive(service))
        assert service.client.get("/readyz").status_code in (200, 503)
        service.until_ready()
        for probe in ("/livez", "/readyz", "/health"):  # monitors often ask by HEAD
            asked = service.client.head(probe)
            assert (asked.status_code, asked.content) == (200, b"")
        answers: list[httpx.Response] = []
        path, body = "/v1/collections/a", {"documents": many}
        sending = threading.Thread(target=lambda: answers.append(service.client.post(f"{path}/documents", json=body)))
        sending.start()
        until(lambda: service.client.get(path).status_code == 200)
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
            assert view.count() == 4_000
        library.close()
        assert snapshots == {file.name: file.stat().st_mtime_ns for file in folder.glob("*.index")}, (
            "nothing to catch up"
        )
        service.start().until_ready()
        asked = {"query": many[7]["text"], "top_k": 3}
        hits = service.client.post("/v1/collections/a/search", json=asked).json()["results"][0]["hits"]
        assert [hit["text"] for hit in hits] == [many[7]["text"]] * 3


def test_an_event_stream_does_not_keep_the_process_alive(tmp_path: Path, model_folder: Path) -> None:
    """With a caller who watches a job, SIGTERM ends the process with 0; the job goes on at the next start."""
    service = ServiceProcess(tmp_path / "data", model_folder, drain_timeout_s=5)
    with service:
        service.until_ready()
        body, kind = (TEXTS[0] * 5 + "\n").encode() * 40_000, {"Content-Type": "text/plain"}
        id = service.client.post("/v1/collections/a/imports", content=body, headers=kind).json()["job"]

        def watch() -> None:
            try:
                httpx.get(f"{service.url}/v1/jobs/{id}/events", timeout=60)
            except httpx.TransportError:
                return

        watching = threading.Thread(target=watch)
        watching.start()
        job = f"/v1/jobs/{id}"
        until(lambda: service.client.get(job).json()["done"] > 0)
        assert service.terminate() == 0
        watching.join(30)
        assert not watching.is_alive()
        service.start().until_ready()
        state = service.client.get(job).json()
        assert state["state"] == "running"
        assert service.client.delete(job).json()["done"] > 0


WHAT_IS_COLLECTED = """
import gc, os, signal, sys, threading, time, urllib.request
from service.cli import main

def look(port):
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz")
            break
        except OSError:
            time.sleep(0.1)
    print(gc.isenabled(), gc.get_freeze_count(), len(gc.get_objects()), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=look, args=sys.argv[1:2], daemon=True).start()
sys.exit(main(["serve", "--port", *sys.argv[1:]]))
"""


def test_what_stays_is_no_work_for_the_garbage_collector(tmp_path: Path, model_folder: Path) -> None:
    """When the service is ready the collector works, and skips the libraries and the model: hardly anything is left to it."""
    arguments = [str(free_port()), "--data-dir", str(tmp_path / "data"), "--model", str(model_folder)]
    child = subprocess.run(
        [sys.executable, "-c", WHAT_IS_COLLECTED, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    is_enabled, spared, left = child.stdout.split()
    assert is_enabled == "True"
    assert int(spared) > 20 * int(left), child.stdout


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


HOW_MANY_FILES = """
import resource, sys
from service.cli import main

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
code = main(["serve", "--host", "127.0.0.1", "--port", sys.argv[1], "--data-dir", sys.argv[2]])
print(code, *resource.getrlimit(resource.RLIMIT_NOFILE), hard)
"""


def test_variables_that_are_no_settings_are_named() -> None:
    """A misspelt variable does nothing, so it is said; known ones, and those of other programs, are not."""
    fine = {"MOVERANK_PORT": "1", "moverank_host": "a", "MOVERANK_KEY": "k", "PATH": "/bin", "MOVERANKING": "1"}
    assert unknown_variables(fine) == []
    assert unknown_variables(fine | {"MOVERANK_API_KEY": "k", "MOVERANK_ZZZ": ""}) == [
        "MOVERANK_API_KEY is no setting; is MOVERANK_API_KEYS meant?",
        "MOVERANK_ZZZ is no setting",
    ]


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults that the README shows as empty may be written so."""
    for name in ("POOLING", "API_KEYS_FILE", "PARAPHRASE_MODEL", "API_KEYS", "PORT"):
        monkeypatch.setenv(f"MOVERANK_{name}", "")
    settings = read_settings({})
    assert (settings.pooling, settings.api_keys_file, settings.paraphrase_model, settings.port) == (
        None,
        None,
        None,
        8000,
    )


def test_misspelt_and_unreadable_lines_of_env_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local .env is looked through for misspelt names as the environment is; bytes that are no UTF-8 are a sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("MOVERANK_PROT=1\nOTHER=2\n")
    assert [said for said in unknown_variables(given_variables()) if "PROT" in said] == [
        "MOVERANK_PROT is no setting; is MOVERANK_PORT meant?"
    ]
    (tmp_path / ".env").write_bytes(b"MOVERANK_PORT=\xff\n")
    with pytest.raises(ValueError, match=r"\.env cannot be read: it is not UTF-8"):
        read_settings({})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_whenever_it_comes(
    tmp_path: Path, model_folder: Path, number: signal.Signals
) -> None:
    """From when the service handles signals it ends with 0, quietly: before uvicorn runs, while it loads, and later."""

    def handles_signals(service: ServiceProcess) -> bool:
        caught = Path(f"/proc/{service.process.pid}/status").read_text().partition("SigCgt:")[2].split()[0]
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    for i, pause_s in enumerate((0.0, 0.05, 0.2, 0.5, 1.5)):
        with ServiceProcess(tmp_path / f"data{i}", model_folder) as service:
            until(partial(handles_signals, service))
            time.sleep(pause_s)
            service.process.send_signal(number)
            assert service.process.wait(60) == 0, pause_s
            assert "Traceback" not in service.log.read_text()


def test_the_service_may_open_many_files(tmp_path: Path) -> None:
    """It raises the soft limit that it was started with to the hard one, or to as many as it could need."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # so that it ends before it loads anything
        child = run("-c", HOW_MANY_FILES, str(listener.getsockname()[1]), str(tmp_path / "data"))
    code, soft, hard, hard_before = map(int, child.stdout.split())
    assert code == 1
    assert hard == hard_before
    assert soft == (MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES))


REFUSALS = """
import contextlib, io, json, os, sys
from service.cli import main

for environment in json.loads(sys.argv[1]):
    changed = {f"MOVERANK_{name.upper()}": value for name, value in environment.items()}
    os.environ.update(changed)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            code = main(["serve", "--port", str(environment.pop("at", 0))])
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = repr(error)
    for name in changed:
        del os.environ[name]
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


def refusals(*environments: dict[str, str]) -> list[tuple[int, str]]:
    """Start the service under each of these settings, one after the other; return exit codes and what was said."""
    child = run("-c", REFUSALS, json.dumps(environments))
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(lines) == len(environments), child.stderr
    return [(code, said) for code, said in lines]


def test_what_cannot_start_says_why(tmp_path: Path, model_folder: Path) -> None:
    """A data folder in use, a setting out of bounds, keys that are none, each broken model folder: exit code 1, a sentence."""
    usual = {"device": "cpu", "runtime": "torch", "sample": "false", "threads": "1", "model": str(model_folder)}
    wrong = {
        "threads": "none",
        "device": "tpu",
        "max_top_k": "0",
        "max_wait_ms": str(10**21),
        "pooling": "sum",
    }
    exposed = {"host": "0.0.0.0", "api_keys": ", ,", "read_only_keys": ",", "model": "/none"}  # it ends in any case
    damages = [
        "missing",
        "no weights",
        "cut weights",
        "noise in weights",
        "bad json",
        "empty config",
        "no tokenizer",
        "bad card",
    ]
    for damage in damages:
        damage_model(shutil.copytree(model_folder, tmp_path / damage), damage)
    file = tmp_path / "file"
    file.write_text("a file")
    library = Library(tmp_path / "used")
    said = refusals(
        usual | {"data_dir": str(tmp_path / "used")},
        usual | {"data_dir": str(file)},
        usual | {"data_dir": "/proc/none"},
        usual | {"data_dir": str(tmp_path / "data"), "at": "99999"},
        usual | {"data_dir": str(tmp_path / "data"), "api_keys_file": "/none"},
        usual | {"data_dir": str(tmp_path / "data"), **exposed},
        *(usual | {"data_dir": str(tmp_path / "data"), name: value} for name, value in wrong.items()),
        *(usual | {"data_dir": str(tmp_path / "data"), "model": str(tmp_path / damage)} for damage in damages),
    )
    library.close()
    words = [
        (str(tmp_path / "used"), "in use"),
        ("the data folder", str(file)),
        ("the data folder /proc/none cannot be used",),
        ("--port is 99999", "65535"),
        ("api_keys_file",),
        ("0.0.0.0", "MOVERANK_API_KEYS"),
        *((f"MOVERANK_{name.upper()} is {value!r}: it should be",) for name, value in wrong.items()),
        *((str(tmp_path),) for _ in damages),
    ]
    faults = [
        (expected, code, text[-1_500:])
        for (code, text), expected in zip(said, words, strict=True)
        if code != 1
        or "moverank: " not in text
        or any(word in text for word in ("Traceback", "pydantic.dev", "[Errno"))
        or not all(word in text for word in expected)
    ]
    assert faults == []


def damage_model(folder: Path, damage: str) -> None:
    """Break a model folder."""
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
    elif damage == "bad card":
        (folder / "moverank.json").write_text("[]")
    else:
        (folder / "tokenizer.json").unlink()


def run(*arguments: str, timeout_s: float = 600) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


COMMANDS = """
import sys
from service.cli import main

nothing = ["reindex", "none", "--data-dir", sys.argv[1]]
for arguments in (["--help"], ["serve", "--help"], ["reindex", "--help"], ["dance"], nothing, ["key", "web", "read"]):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    print("code", code)
"""


def test_commands_have_help_and_exit_codes(tmp_path: Path) -> None:
    """Help lists the commands and ends with 0, a wrong one with 2, reindexing nothing with 1; `key` shows a key and its line."""
    shown = run("-c", COMMANDS, str(tmp_path))
    assert re.findall(r"^code (\d)", shown.stdout, re.MULTILINE) == ["0", "0", "0", "2", "1", "0"]
    assert re.search(r"^web read sha256:[0-9a-f]{64}$", shown.stdout, re.MULTILINE)
    assert re.search(r"^the key of web, shown this once: mr_\S{43}$", shown.stderr, re.MULTILINE)
    assert shown.stdout.startswith("usage: moverank")
    for command in ("serve", "reindex"):
        assert f"usage: moverank {command}" in shown.stdout
    assert_one_sentence(shown.stderr, "moverank: ", "'none'")


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
from threadpoolctl import threadpool_info
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
runtimes = {each["prefix"] for each in threadpool_info() if each["user_api"] == "openmp"}
print(sorted(answers), sorted(runtimes))
"""


def test_torch_faiss_onnxruntime_and_pot_live_in_one_process(tmp_path: Path, model_folder: Path) -> None:
    """Threads that encode, search and solve at the same time do not crash each other.

    Each wheel brings its own copy of OpenMP, but all are GNU's: the crashes that others met came from two different ones.
    """
    child = run("-c", THREE_OPENMPS, str(tmp_path), str(model_folder))
    assert (child.returncode, child.stdout.strip()) == (0, "[0, 1, 2, 3] ['libgomp']"), child.stderr
