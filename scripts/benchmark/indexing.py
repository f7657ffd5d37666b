"""Indexing on both sides, slice by slice, with the service's memory during it."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.benchmark.children import Child
from scripts.benchmark.corpus import Corpus, as_jsonl

COLLECTION = "bench"


class Sides(NamedTuple):
    """The two that are compared, and the texts."""

    service: Child
    script: Child
    corpus: Corpus


def take_turns(number: int, *calls: Callable[[], None]) -> None:
    """Make the calls, in the other order every second time."""
    for call in calls if number % 2 == 0 else reversed(calls):
        call()


class Indexing:
    """Indexing measured slice by slice; the service takes whole slices, the script encodes the beginning of each."""

    def __init__(self, sides: Sides, script_texts: int, data_dir: Path) -> None:
        self._sides = sides
        self._script_texts = script_texts
        self._store = data_dir / "collections" / COLLECTION / "documents.db"
        self._at_start = sides.service.memory().total
        self._memory: list[tuple[int, int, int]] = []  # documents, resident bytes, anonymous bytes
        self._settle_s = 0.0
        self._slices: list[dict[str, float]] = []
        self.vectors_difference = 0.0
        """Largest difference between an entry of a vector of the script and the service's."""

    def index(self, start: int, end: int) -> None:
        """Index a slice of the corpus on both sides, and measure."""
        measured: dict[str, float] = {"start": start, "texts": end - start}
        own = min(end, start + self._script_texts)
        ids, texts = self._sides.corpus.ids, self._sides.corpus.texts

        def import_slice() -> None:
            measured["import_s"] = self._import(as_jsonl(ids[start:end], texts[start:end]), start)
            self._settle_s += self._sides.service.settle()

        def script_slice() -> None:
            took = self._sides.script.json.expect("POST", "/add", {"ids": ids[start:own], "texts": texts[start:own]})
            measured.update(script_texts=own - start, encode_s=took["encode_s"], script_s=took["total_s"])

        take_turns(len(self._slices), import_slice, script_slice)
        rest = {"file": str(self._store), "ids": ids[own:end], "texts": texts[own:end]}
        copied = self._sides.script.json.expect("POST", "/copy", rest)
        self.vectors_difference = max(self.vectors_difference, copied["difference"])
        self._slices.append(measured)

    def rates(self) -> dict[str, Any]:
        """Return texts a second over all slices, and the median of the slices' ratios."""
        total = {name: sum(each[name] for each in self._slices) for name in self._slices[0]}
        imported = [each["texts"] / each["import_s"] for each in self._slices]
        encoded = [each["script_texts"] / each["encode_s"] for each in self._slices]
        added = [each["script_texts"] / each["script_s"] for each in self._slices]
        return {
            "service_import": total["texts"] / total["import_s"],
            "bare_encode": total["script_texts"] / total["encode_s"],
            "script": total["script_texts"] / total["script_s"],
            "settle_cpu_s": self._settle_s,
            "ratio_to_bare_encode": statistics.median(a / b for a, b in zip(imported, encoded, strict=True)),
            "ratio_to_script": statistics.median(a / b for a, b in zip(imported, added, strict=True)),
            "slices": self._slices,
        }

    def memory(self) -> dict[str, float]:
        """Return the service's memory during the imports; bytes a document from a line through the second half."""
        documents, total, anonymous = (np.array(column, np.float64) for column in zip(*self._memory, strict=True))
        late = documents >= documents.max() / 2
        slope = np.polyfit(documents[late], anonymous[late], 1)[0] if np.ptp(documents[late]) > 0 else np.nan
        return {
            "at_start_mb": self._at_start / 1e6,
            "peak_mb": float(total.max() / 1e6),
            "anonymous_peak_mb": float(anonymous.max() / 1e6),
            "bytes_a_document": float(slope),
        }

    def _import(self, body: bytes, before: int) -> float:
        """Send an import, wait for its end while looking at the memory, and return the seconds it took."""
        service = self._sides.service
        began_at = time.perf_counter()
        path = f"/v1/collections/{COLLECTION}/imports"
        job = service.json.expect("POST", path, body, "application/x-ndjson")["job"]
        while (status := service.json.expect("GET", f"/v1/jobs/{job}"))["state"] == "running":
            self._memory.append((before + status["done"], *service.memory()))
            time.sleep(0.05)
        took_s = time.perf_counter() - began_at
        if status["state"] != "done" or status["failed"]:
            raise RuntimeError(f"the import ended as {status}")
        self._memory.append((before + status["done"], *service.memory()))
        return took_s


def documents_rate(sides: Sides, count: int, batch: int = 100) -> float:
    """Return the texts a second that one client writes through `POST …/documents`."""
    ids, texts = sides.corpus.ids[:count], sides.corpus.texts[:count]
    documents = [{"id": id, "text": text} for id, text in zip(ids, texts, strict=True)]
    bodies = [{"documents": documents[start : start + batch]} for start in range(0, len(documents), batch)]
    began_at = time.perf_counter()
    for body in bodies:
        sides.service.json.expect("POST", "/v1/collections/batches/documents", body)
    return len(documents) / (time.perf_counter() - began_at)
