"""scripts/benchmark/{open_loop,endurance,overload}.py: the crowd comes on time, and the measurement measures."""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from scripts.benchmark import endurance, layouts, overload
from scripts.benchmark.children import Child
from scripts.benchmark.load import request_bytes
from scripts.benchmark.open_loop import run_crowd


class Counting(http.server.BaseHTTPRequestHandler):
    """Answers after a while, every third time with a refusal."""

    protocol_version = "HTTP/1.1"
    pause_s = 0.0
    seen = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen += 1
        status = 429 if type(self).seen % 3 == 0 else 200
        time.sleep(self.pause_s)
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(name="port")
def _port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Counting.seen, Counting.pause_s = 0, 0.0
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_crowd_comes_at_its_rate_and_counts_every_answer(port: int) -> None:
    """As many requests arrive as the rate says, each is answered once, refusals are told from answers."""
    crowd = run_crowd(port, [request_bytes("/", {})], 100.0, 2.0)
    total = sum(crowd.statuses.values())
    assert total == Counting.seen
    assert 140 < total < 260  # a Poisson process of mean 200
    assert abs(crowd.statuses[429] - total // 3) <= 1
    assert crowd.retry_after == crowd.statuses[429] == len(crowd.refusals_ms)
    assert crowd.summary()["failed"] == 0


def test_a_crowd_does_not_wait_for_a_slow_server(port: int) -> None:
    """While answers take longer than the time between arrivals, requests go on arriving, and their latency says so."""
    Counting.pause_s = 0.4
    crowd = run_crowd(port, [request_bytes("/", {})], 50.0, 1.0)
    assert sum(crowd.statuses.values()) > 25
    assert crowd.summary()["good_per_s"] < crowd.statuses[200]  # what came after the last arrival is no throughput
    assert crowd.summary()["p50_ms"] >= 400


def test_who_hangs_up_is_not_counted_and_disturbs_nobody(port: int) -> None:
    """Callers who leave are neither answered nor failed; the others are all answered."""
    Counting.pause_s = 0.1
    crowd = run_crowd(port, [request_bytes("/", {})], 100.0, 1.0, leaving=0.5)
    assert 0 < sum(crowd.statuses.values()) < Counting.seen
    assert crowd.summary()["failed"] == 0


def test_the_overload_is_measured(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run overloads a real service with searches and embeddings, judges it, and draws the picture."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")
    monkeypatch.setattr(overload, "CROWDS", (2, 4))
    arguments = ["--model", str(model_folder), "--texts", "300", "--seconds", "0.5", "--shares", "0.5"]
    overload.main([*arguments, "--plot", str(tmp_path / "plot.png"), "--json", str(tmp_path / "report.json")])
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    for found in report["curves"].values():
        assert [point["share"] for point in found["curve"]] == [0.5, 2]
        assert [point["failed"] for point in found["curve"]] == [0, 0]
        assert all(point["refused_with_retry_after"] == 1 for point in found["curve"] if point["refused"])
        assert found["goodput_at_double"] > 0
    assert all(report["overhead"][f"{side}_per_s"] > 0 for side in ("bare", "many", "one", "bare_mixed", "one_mixed"))
    assert all(report["overhead"][f"{side}_cpu_ms"] >= 0 for side in ("bare", "many", "one", "client"))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(said in printed for said in ("goodput at twice the peak", "p99 at half of the peak", "bare"))


def test_the_endurance_is_measured(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run soaks a real service, poisons it, kills it, and finds everything acknowledged."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")
    arguments = [
        "--model",
        str(model_folder),
        "--texts",
        "300",
        "--seconds",
        "0.5",
        "--minutes",
        "0.05",
        "--kills",
        "1",
    ]
    arguments += ["--plot", str(tmp_path / "plot.png"), "--json", str(tmp_path / "report.json")]
    assert endurance.main([*arguments, "--keep", str(tmp_path / "kept")]) == 0
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    assert (report["survival"]["lost"], report["survival"]["kills"]) == (0, 1)
    assert report["survival"]["documents"] >= report["survival"]["acknowledged"] > 0
    assert report["soak"]["poison_refused"] == report["soak"]["poison_sent"] > 0
    assert report["soak"]["ready_at_end"] is True
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "kills under load" in capsys.readouterr().out
    assert (tmp_path / "kept" / "soak.log").is_file()


def test_a_service_that_ends_by_itself_leaves_its_log_and_its_code(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the service is gone during the soak, the benchmark fails, names the signal and shows the log."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")

    def soak_and_kill(service: Child, *given: Any) -> dict[str, Any]:
        threading.Timer(0.5, service.kill).start()
        return whole_soak(service, *given)

    whole_soak = endurance.soak
    monkeypatch.setattr(endurance, "soak", soak_and_kill)
    arguments = ["--model", str(model_folder), "--texts", "50", "--seconds", "0.2", "--minutes", "0.05"]
    assert endurance.main([*arguments, "--keep", str(tmp_path / "kept")]) == 1
    said = capsys.readouterr().err
    assert "ended with -9 during the soak" in said
    assert '"message":"request"' in said


def test_layouts_are_compared(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One and two processes answer the same requests, with speed, latencies, cores and memory for each."""
    monkeypatch.setenv("MOVERANK_RUNTIME", "torch")
    for name in ("MOVERANK_THREADS", "MOVERANK_SEARCH_THREADS"):
        monkeypatch.setenv(name, "1")
    arguments = ["--model", str(model_folder), "--texts", "100", "--seconds", "0.3", "--rounds", "1", "--clients", "3"]
    layouts.main([*arguments, "--json", str(tmp_path / "report.json")])
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    assert {(entry["replicas"], entry["kind"]) for entry in report["layouts"]} == {
        (replicas, kind) for replicas in (1, 2) for kind in ("search", "similarity", "embeddings")
    }
    assert all(entry["per_second"] > 0 and entry["memory_mb"] > 50 for entry in report["layouts"])
