"""The service as callers meet it: in this process behind a test client, or as a process of its own that can be killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.testclient import TestClient

from models.encoder import Tokenized
from service.app import create_app
from service.connections import JoiningProtocol
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 300.0  # seconds; starting costs 5 of one core, which may be shared by many


def killed_child(program: str, folder: Path, seed: int, life_s: float) -> list[dict[str, Any]]:
    """Let a program of this folder work for this long after its first line, kill it, and return the lines that it said whole."""
    lines: list[bytes] = []
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(program)), str(folder), str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        timer = threading.Timer(life_s, child.kill)
        for line in child.stdout:
            if not lines:
                timer.start()
            lines.append(line)
        timer.cancel()
        assert child.wait() == -signal.SIGKILL
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def small_settings(data_dir: Path, model: Path, **changes: Any) -> Settings:
    """Return settings of a service with a tiny model in torch on one core, without samples."""
    given: dict[str, Any] = {"device": "cpu", "runtime": "torch", "sample": False, "threads": 1}
    return Settings(data_dir=data_dir, model=model, **(given | changes))


@contextmanager
def client_of(settings: Settings) -> Iterator[TestClient]:
    """Open the application of these settings; faults become answers with status 500, as over a socket."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


@contextmanager
def address_of(settings: Settings) -> Iterator[str]:
    """Serve the application of these settings on a socket, from a thread of this process, and yield its URL."""
    config = uvicorn.Config(
        create_app(settings),
        host="127.0.0.1",
        port=free_port(),
        http=JoiningProtocol,
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{config.port}"
    try:
        with httpx.Client(base_url=url, verify=False) as client:
            until(lambda: server.started and client.get("/readyz").status_code == 200)
        yield url
    finally:
        server.should_exit = True
        thread.join()


def unlike(text: Tokenized, count: int) -> list[Tokenized]:
    """As many texts as long as the given one (six tokens at least), no two alike."""
    return [
        text._replace(ids=[text.ids[0], *(5 + i // 16**place % 16 for place in range(4)), *text.ids[5:]])
        for i in range(count)
    ]


def until(condition: Any, limit_s: float = START_LIMIT_S) -> None:
    """Wait until a condition holds."""
    give_up_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up_at, f"did not come true within {limit_s} s"
        time.sleep(0.05)


def finished_job(client: Any, id: str) -> dict[str, Any]:
    """Wait for the end of a job and return its last state."""
    until(lambda: client.get(f"/v1/jobs/{id}").json()["state"] != "running")
    answer = client.get(f"/v1/jobs/{id}").json()
    assert isinstance(answer, dict)
    return answer


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class ServiceProcess:
    """`moverank serve` in a process of its own, over a data folder that outlives it."""

    def __init__(self, data_dir: Path, model: Path, **settings: object) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        given = {
            "host": "127.0.0.1",
            "port": self.port,
            "data_dir": data_dir,
            "model": model,
            "lookup_model": data_dir / "no-lookup",
            "device": "cpu",
            "runtime": "torch",
            "threads": 1,
            "sample": False,
            **settings,
        }
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("MOVERANK_")}
        self.environment |= {f"MOVERANK_{name.upper()}": str(value) for name, value in given.items()}
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=60, verify=False)  # no TLS here, and its setup is slow

    def start(self) -> "ServiceProcess":
        """Start it and return at once."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        return self

    def until_ready(self) -> "ServiceProcess":
        """Wait until /readyz answers 200."""

        def is_ready() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log.read_text()}"
            try:
                return self.client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(is_ready)
        return self

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The process, which must have been started."""
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """End it as a power failure of the process would: SIGKILL."""
        self.process.kill()
        self.process.wait(30)

    def terminate(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(300)

    def __enter__(self) -> "ServiceProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.client.close()
