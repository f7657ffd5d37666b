"""The two servers that are compared, as processes: start, wait, look at their memory and processor time, end. Linux only."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from scripts.benchmark.load import Json

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Resident memory of a process in bytes."""

    total: int
    anonymous: int  # without pages of mapped files, which the system may drop at any time


class Child:
    """A server process on a free port of this machine."""

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        log: Path,
        port: int,
        python: Path = Path(sys.executable),
        ready_path: str = "/readyz",
    ) -> None:
        """Start ``python arguments`` and wait until ``ready_path`` answers 200; its output goes to a file.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        self.json = Json(port)
        self.port = port
        self._ready_path = ready_path
        began_at = time.perf_counter()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [python, *arguments],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )
        while not self._is_ready():
            if self._process.poll() is not None or time.perf_counter() - began_at > START_TIMEOUT_S:
                self.stop()
                raise RuntimeError(
                    f"{' '.join(arguments[:3])} did not start:\n{log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.02)
        self.ready_after_s = time.perf_counter() - began_at

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def memory(self) -> Memory:
        """Return the resident memory now."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        found = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
        return Memory(*(int(found[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")))

    def cpu_s(self) -> float:
        """Return the processor time used so far, in seconds."""
        cells = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(cells[11]) + int(cells[12])) / _TICKS

    def settle(self, most_s: float = 60.0) -> float:
        """Wait until the process is idle (index building after an import) and return the processor seconds that took."""
        began_at, before = time.perf_counter(), self.cpu_s()
        used, last = 0.0, before
        quiet = 0
        while quiet < 3 and time.perf_counter() - began_at < most_s:
            time.sleep(0.5)
            now = self.cpu_s()
            quiet = quiet + 1 if now - last < 0.05 else 0
            used, last = now - before, now
        return used

    def stop(self) -> float:
        """End the process in an orderly way and return the seconds that took."""
        began_at = time.perf_counter()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return time.perf_counter() - began_at

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """What the process ended with: a negative number is the signal that killed it; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End the process as a power failure would."""
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return self.json.call("GET", self._ready_path)[0] == 200
        except OSError:
            return False


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_service(model: Path, data_dir: Path, log: Path, **settings: str) -> Child:
    """Start the service itself on a data folder, with every other setting as it is given here or set outside."""
    port = free_port()
    environment = {
        "MOVERANK_MODEL": str(model),
        "MOVERANK_DATA_DIR": str(data_dir),
        "MOVERANK_HOST": "127.0.0.1",
        "MOVERANK_PORT": str(port),
        "MOVERANK_SAMPLE": "false",
        "MOVERANK_API_KEYS": "",
        "MOVERANK_READ_ONLY_KEYS": "",
        **settings,
    }
    return Child(["-m", "service.cli", "serve"], environment, log, port)


def start_script(model: Path, weight: float, threads: int | None, log: Path) -> Child:
    """Start the hand-written script behind HTTP."""
    port = free_port()
    arguments = ["--model", str(model), "--weight", str(weight), "--port", str(port)]
    if threads is not None:
        arguments += ["--threads", str(threads)]
    return Child(["-m", "scripts.benchmark.handwritten", *arguments], {}, log, port)
