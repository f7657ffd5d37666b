"""kill -9 at random moments of a graph's life: no acknowledged change is lost or comes back, and it opens again."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graph_child import NAME, triple_of
from live_service import ROOT, ServiceProcess, client_of, finished_job, killed_child, until
from service.graph_library import GraphLibrary
from service.settings import Settings
from service.spelling import CharacterSpelling
from service.triples import Triple

KILLS = 10


def after(triples: frozenset[Triple], change: dict[str, Any]) -> frozenset[Triple]:
    """Return what a graph holds after a change."""
    given = frozenset(triple_of(number) for number in change["numbers"])
    kinds = {"add": triples | given, "import": triples | given, "remove": triples - given, "merge": triples}
    return kinds.get(change["kind"], frozenset())


@pytest.mark.timeout(600)
def test_a_graph_that_is_killed_keeps_every_acknowledged_change(tmp_path: Path) -> None:
    """A process that adds, removes, merges, imports and makes anew is killed again and again.

    After each kill the graph opens, holds what was acknowledged, and of the change that was being made all or nothing; a graph
    that was being made anew may be gone. Its tree holds the same keys as its facts.
    """
    generator = random.Random(5)
    expected: frozenset[Triple] = frozenset()
    changes = 0
    for seed in range(1, KILLS + 1):
        said = killed_child("graph_child.py", tmp_path, seed, generator.uniform(0.02, 0.6))
        begun = [line for line in said if line["state"] == "begin"]
        done = len([line for line in said if line["state"] == "done"])
        for change in begun[:done]:
            expected = after(expected, change)
        changes += done
        library = GraphLibrary(tmp_path, CharacterSpelling(), is_merging=False)
        try:
            assert library.unreadable == {}
            found: frozenset[Triple] = frozenset()
            if NAME in library.names():
                view = library.get(NAME).view
                listed = [each for subject in view.complete("", 1_000) for each in view.facts_of(subject.subject)]
                found = frozenset(listed)
                assert len(listed) == len(found) == len(view)
                assert len(view.tree) == len({(each.subject, each.meaning, each.predicate) for each in listed})
            possible = [expected] + [after(expected, change) for change in begun[done:]]
            assert found in possible, f"kill {seed}: {begun[done:]}"
            expected = found
        finally:
            library.close()
    assert changes > KILLS


@pytest.mark.timeout(600)
def test_an_import_goes_on_after_a_kill_and_repeats_nothing(tmp_path: Path, model_folder: Path) -> None:
    """The service is killed while a graph is imported and changed; after the start everything acknowledged is there."""
    lines = "".join(f"主语{i}\t谓语{i % 7}\t宾语{i}\n" for i in range(20_000)).encode()
    service = ServiceProcess(tmp_path / "data", model_folder)
    with service:
        service.until_ready()
        client = service.client
        job = client.post(
            "/v1/graphs/g/imports", content=lines, headers={"Content-Type": "text/tab-separated-values"}
        ).json()["job"]
        added = 0
        while client.get(f"/v1/jobs/{job}").json()["done"] == 0:
            client.post("/v1/graphs/g/triples", json={"triples": [[f"新{added}", "谓语", "宾语"]]}).raise_for_status()
            added += 1
        removed = client.post("/v1/graphs/g/triples/delete", json={"triples": [["新0", "谓语", "宾语"]]}).json()[
            "deleted"
        ]
        service.kill()
        service.start().until_ready()
        until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] != "running")
        assert client.get(f"/v1/jobs/{job}").json()["state"] == "done"
        told = client.get("/v1/graphs/g").json()
        assert told["triples"] == 20_000 + added - removed
        assert client.get("/v1/graphs/g/subjects/主语19999").json()["total"] == 1
        assert service.terminate() == 0


DIES_BEFORE_ITS_JOB_IS_RECORDED = """
import os, pathlib, signal, sys, time
from service.jobs import JobRunner
from service.graph_changes import Change
from service.runtime import Runtime
from service.settings import Settings
from service.triples import Triple

folder = pathlib.Path(sys.argv[1])
runtime = Runtime(Settings(data_dir=folder, model=pathlib.Path(sys.argv[2]), lookup_model=folder / "none", device="cpu",
                           runtime="torch", sample=False, threads=1))
def die(self, job, state, error=None):
    removed = runtime.graphs.get("g").change([Change(True, Triple("b", "", "p", "o"))])
    print(state, job.progress.done, removed, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
JobRunner._end = die
runtime.graphs.create("g")
id, spool = runtime.jobs.new_spool()
spool.write_text("a\\tp\\to\\nb\\tp\\to\\n")
runtime.jobs.submit(id, "graph_import", "g", {"compression": None})
time.sleep(60)
"""


@pytest.mark.timeout(600)
def test_an_import_killed_between_its_last_line_and_its_end_brings_nothing_back(settings: Settings) -> None:
    """A triple removed after the import counted stays removed when the job is taken up again only to be ended."""
    child = subprocess.run(
        [sys.executable, "-c", DIES_BEFORE_ITS_JOB_IS_RECORDED, str(settings.data_dir), str(settings.model)],
        cwd=ROOT,
        capture_output=True,
        timeout=500,
        check=False,
    )
    assert (child.returncode, child.stdout) == (-signal.SIGKILL, b"done 2 1\n"), child.stderr.decode()
    with client_of(settings) as client:
        for path in (settings.data_dir / "jobs").glob("*.body"):
            assert finished_job(client, path.stem)["done"] == 2
        until(lambda: client.get("/info").json()["jobs"] == {"done": 1})
        assert client.get("/v1/graphs/g/subjects/a").json()["total"] == 1
        assert client.get("/v1/graphs/g/subjects/b").status_code == 404
