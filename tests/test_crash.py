"""kill -9 at random moments: no acknowledged write is lost, no acknowledged delete comes back, and the service starts again."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from crash_child import BATCH, COLLECTIONS, IMPORT, SLOTS, batch_of, open_all, text_of, vectors_of
from live_service import ROOT, ServiceProcess, client_of, finished_job, killed_child, until
from service.collections import Collection
from service.library import Library
from service.settings import Settings

KILLED_STORES, KILLED_SERVICES = 16, 3
LINES = 12_000
Slots = dict[
    tuple[str, int], int
]  # (collection, slot) -> number of the version that is there; none: deleted or never written


def apply(expected: Slots, imported: dict[str, int], change: dict[str, Any]) -> None:
    """Do to the expectation what a change does to the collections."""
    name, slot, number = change["name"], change["slot"], change["number"]
    if change["kind"] in ("upsert", "import"):
        expected[name, slot] = number
        if change["kind"] == "import":
            imported[name] = number
    elif change["kind"] == "delete":
        expected.pop((name, slot), None)
    elif change["kind"] == "anew":
        imported.pop(name, None)
        for key in [key for key in expected if key[0] == name]:
            del expected[key]


def slots_of(collection: Collection) -> Slots:
    """Read which version of each slot is there, and check that it is there as a whole, in the store and in both indexes."""
    found: Slots = {}
    with collection.view() as view:
        documents = view.page("", 10_000)
        rows = view.rows()
        assert np.array_equal(collection.vectors.rows(), rows)
        assert np.array_equal(collection.lexical.rows(), rows)
        for slot in range(SLOTS):
            there = [document for document in documents if document.id.startswith(f"{slot}-")]
            numbers = {document.metadata["number"] for document in there}
            assert len(there) in (0, BATCH), f"half a batch: {len(there)} of slot {slot}"
            assert len(numbers) <= 1, f"two batches in one: {numbers}"
            if there:
                number = found[collection.name, slot] = numbers.pop()
                nearest = collection.vectors.search(vectors_of(slot, number), 1)[1][:, 0].tolist()
                assert view.ids(nearest) == [f"{slot}-{i}" for i in range(BATCH)]
                named = collection.lexical.search([text_of(slot, number)], BATCH)[1][0]
                assert {id.split("-")[0] for id in view.ids(named.tolist())} == {str(slot)}
    return found


@pytest.mark.timeout(600)
def test_a_store_that_is_killed_keeps_every_acknowledged_change(tmp_path: Path) -> None:
    """A process that upserts, deletes, imports, saves snapshots and replaces collections is killed again and again.

    After each kill the collections open, every acknowledged change is there, the one that was being made is there as a
    whole or not at all, the indexes agree with the store, and the position of an import stands where its documents stand.
    """
    generator = random.Random(7)
    expected: Slots = {}
    imported: dict[str, int] = {}
    changes = 0
    for seed in range(1, KILLED_STORES + 1):
        said = killed_child("crash_child.py", tmp_path, seed, generator.uniform(0.02, 0.7))
        begun = [line for line in said if line["state"] == "begin"]
        done = len([line for line in said if line["state"] == "done"])
        for change in begun[:done]:
            apply(expected, imported, change)
        changes += done
        after, imported_after = dict(expected), dict(imported)
        for change in begun[done:]:
            apply(after, imported_after, change)
        library = Library(tmp_path)
        try:
            found: Slots = {}
            positions = {}
            for name, collection in open_all(library).items():
                found |= slots_of(collection)
                with collection.view() as view:
                    if record := view.progress(IMPORT):
                        positions[name] = record["position"]
            assert (found, positions) in ((expected, imported), (after, imported_after)), f"kill {seed}: {begun[done:]}"
            expected, imported = found, positions
        finally:
            library.close()
    assert changes > 2 * KILLED_STORES
    assert {name for name, _ in expected} <= set(COLLECTIONS)


class Writer(threading.Thread):
    """A client that upserts and deletes batches of its own ids until the service goes away; it knows what was acknowledged."""

    def __init__(self, url: str, number: int, start: int, acknowledged: dict[str, int | None]) -> None:
        super().__init__()
        self.url, self.number, self.counter = url, number, start
        self.acknowledged = acknowledged
        self.unsure: dict[str, int | None] = {}

    def run(self) -> None:
        generator = random.Random(self.counter)
        with httpx.Client(base_url=f"{self.url}/v1/collections/books", timeout=60, verify=False) as client:
            try:
                while True:
                    self.counter += 1
                    marker = self.counter * 10 + self.number
                    batch = f"{self.number}.{generator.randrange(6)}"
                    ids = [f"{batch}.{i}" for i in range(8)]
                    if generator.random() < 0.7:
                        self.unsure = dict.fromkeys(ids, marker)
                        documents = [{"id": id, "text": "怎么还款", "metadata": {"marker": marker}} for id in ids]
                        client.post("/documents", json={"documents": documents}).raise_for_status()
                    else:
                        self.unsure = dict.fromkeys(ids)
                        client.post("/documents/delete", json={"ids": ids}).raise_for_status()
                    self.acknowledged |= self.unsure
                    self.unsure = {}
            except httpx.TransportError:
                return


def markers_of(client: httpx.Client) -> dict[str, int]:
    """Read the marker of every document through the pages of the API."""
    found: dict[str, int] = {}
    after: str | None = ""
    while after is not None:
        page = client.get("/v1/collections/books/documents", params={"limit": 1_000, "after": after}).json()
        found |= {document["id"]: document["metadata"]["marker"] for document in page["documents"]}
        after = page["next"]
    return found


@pytest.mark.timeout(900)
def test_a_service_that_is_killed_loses_nothing_it_acknowledged(tmp_path: Path, model_folder: Path) -> None:
    """The whole service is killed while clients write and delete and an import runs, several times, and is started again.

    Each time it becomes ready, has every acknowledged document and no acknowledged deletion undone, and batches are whole. The
    import goes on by itself; at the end it is done, and every line of it is there exactly once but for those deleted meanwhile.
    """
    generator = random.Random(11)
    service = ServiceProcess(tmp_path / "data", model_folder, snapshot_interval_s=0.01)
    acknowledged: dict[str, int | None] = {}
    deleted: set[str] = set()
    job = ""
    with service:
        for kill in range(KILLED_SERVICES):
            service.until_ready()
            if not job:
                service.client.put("/v1/collections/books").raise_for_status()
                lines = "".join(f'{{"id": "line-{i}", "text": "花呗怎么还款"}}\n' for i in range(LINES))
                headers = {"Content-Type": "application/x-ndjson"}
                answer = service.client.post("/v1/collections/lines/imports", content=lines, headers=headers)
                job = answer.json()["job"]
            writers = [Writer(service.url, number, 1_000 * kill, acknowledged) for number in (1, 2)]
            for writer in writers:
                writer.start()
            time.sleep(generator.uniform(0.1, 1.2))
            first = f"line-{100 * kill}"
            if service.client.delete(f"/v1/collections/lines/documents/{first}").status_code == 200:
                deleted.add(first)
            service.kill()
            for writer in writers:
                writer.join(60)
                assert not writer.is_alive()
            service.start().until_ready()
            found = markers_of(service.client)
            for writer in writers:
                if writer.unsure and all(found.get(id) == marker for id, marker in writer.unsure.items()):
                    acknowledged |= writer.unsure
            assert found == {id: marker for id, marker in acknowledged.items() if marker is not None}
            batches: dict[int, int] = {}
            for marker in found.values():
                batches[marker] = batches.get(marker, 0) + 1
            assert set(batches.values()) <= {8}
            for marker in list(batches)[:3]:
                body = {"query": "怎么还款", "filter": {"marker": marker}, "top_k": 20}
                answer = service.client.post("/v1/collections/books/search", json=body)
                assert len(answer.json()["results"][0]["hits"]) == 8
        until(lambda: service.client.get(f"/v1/jobs/{job}").json()["state"] != "running")
        state = service.client.get(f"/v1/jobs/{job}").json()
        assert (state["state"], state["done"], state["failed"], state["total"]) == ("done", LINES, 0, LINES)
        count = service.client.get("/v1/collections/lines").json()["documents"]
        assert count == LINES - len(deleted)
        for id in deleted:
            assert service.client.get(f"/v1/collections/lines/documents/{id}").status_code == 404
        assert service.terminate() == 0


DIES_BEFORE_ITS_JOB_IS_RECORDED = """
import os, pathlib, signal, sys, time
from service.jobs import JobRunner
from service.runtime import Runtime
from service.settings import Settings

runtime = Runtime(Settings(data_dir=pathlib.Path(sys.argv[1]), model=pathlib.Path(sys.argv[2]), device="cpu", runtime="torch",
                           sample=False, threads=1))
def die(self, job, state, error=None):
    runtime.library.get("a").delete(["2"])
    print(state, job.progress.done, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
JobRunner._end = die
runtime.create_collection("a")
id, spool = runtime.jobs.new_spool()
spool.write_text("".join(f'{{"id": "{i}", "text": "还款"}}\\n' for i in range(5)))
runtime.jobs.submit(id, "import", "a", {"format": "jsonl", "compression": None, "name": id})
time.sleep(60)
"""


@pytest.mark.timeout(600)
def test_an_import_killed_between_its_last_line_and_its_end_repeats_nothing(settings: Settings) -> None:
    """A document deleted after the last line was written stays deleted when the job is taken up again only to be ended."""
    child = subprocess.run(
        [sys.executable, "-c", DIES_BEFORE_ITS_JOB_IS_RECORDED, str(settings.data_dir), str(settings.model)],
        cwd=ROOT,
        capture_output=True,
        timeout=500,
        check=False,
    )
    assert (child.returncode, child.stdout) == (-signal.SIGKILL, b"done 5\n"), child.stderr.decode()
    with client_of(settings) as client:
        (job,) = [path.stem for path in (settings.data_dir / "jobs").glob("*.body")] or [""]
        if job:
            finished_job(client, job)
        until(lambda: client.get("/info").json()["jobs"] == {"done": 1})
        assert client.get("/v1/collections/a/documents/2").status_code == 404
        assert client.get("/v1/collections/a").json()["documents"] == 4


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "gone", "left beside"])
@pytest.mark.parametrize("file", ["vectors.index", "lexical.index"])
def test_a_damaged_snapshot_is_rebuilt_from_the_store(tmp_path: Path, file: str, damage: str) -> None:
    """Whatever happens to a derived file, the collection opens and finds everything."""
    library = Library(tmp_path)
    try:
        collection = open_all(library)["graph"]
        for slot in range(SLOTS):
            collection.upsert(*batch_of(slot, slot))
        collection.maintain()
        before = slots_of(collection)
    finally:
        library.close()
    path = tmp_path / "collections" / "graph" / file
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) * 2 // 3])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "noise":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    elif damage == "gone":
        path.unlink()
    else:
        path.with_name(f"{file}.new").write_bytes(whole[:100])
    library = Library(tmp_path)
    try:
        assert slots_of(library.get("graph")) == before != {}
    finally:
        library.close()
