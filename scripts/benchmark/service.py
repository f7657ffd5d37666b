"""The service over HTTP against the script that a user would write by hand: `make bench`.

Both get the same model, texts and machine, and take turns round by round, because machines are noisy: read the ratios first.
Measured are indexing (an import job, batches of documents; the bare `SentenceTransformer.encode`; encode and FAISS), searches of
1, 8 and 32 closed-loop clients over several sizes of the corpus, whether both find the same, memory during imports, and the start
with a full data folder. `--quick` takes a minute, the default run six on two idle cores. handwritten.py is the script.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from scripts.benchmark.children import start_script, start_service
from scripts.benchmark.corpus import made_corpus, read_corpus
from scripts.benchmark.indexing import COLLECTION, Indexing, Sides, documents_rate
from scripts.benchmark.report import as_text
from scripts.benchmark.searching import SERVICE_PATH, agreement, forms_of, measure_searches, service_body
from service.settings import BUNDLED_MODEL

LIBRARIES = (
    *("torch", "onnxruntime", "sentence-transformers", "transformers", "faiss-cpu", "POT", "gensim"),
    *("numpy", "fastapi", "uvicorn"),
)


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything in a scratch folder and return the report."""
    sizes = sorted(set(options.texts))
    corpus = made_corpus(sizes[-1]) if options.corpus is None else read_corpus(options.corpus, sizes[-1])
    data_dir, log = folder / "data", folder / "log"
    before = machine()
    say(f"starting the service and the script; {corpus.name}, {sizes[-1]} texts")
    searches: list[dict[str, Any]] = []
    overlaps: dict[str, float] = {}
    with start_service(options.model, data_dir, log) as service:
        info = service.json.expect("GET", "/info")
        model = info["models"][0]
        with start_script(options.model, model["weight"], options.script_threads, log) as script:
            sides = Sides(service, script, corpus)
            indexing = Indexing(sides, options.script_texts, data_dir)
            for size, parts in zip(sizes, slices(sizes, options.rounds), strict=True):
                say(f"indexing up to {size} texts")
                for start, end in parts:
                    indexing.index(start, end)
                overlaps[str(size)] = agreement(sides)
                say(f"searching {size} texts")
                forms = forms_of(sides, options.gensim)
                found = measure_searches(sides, forms, options.clients, options.seconds, options.rounds)
                searches += [{"texts": size, **entry} for entry in found]
            say("writing documents in batches")
            documents_per_second = documents_rate(sides, min(sizes[-1], options.script_texts))
            script_memory = script.memory().total
            collection = service.json.expect("GET", f"/v1/collections/{COLLECTION}")
        stop_s = service.stop()
    say("starting the service again on the full data folder")
    with start_service(options.model, data_dir, log) as again:
        began_at = time.perf_counter()
        again.json.expect("POST", SERVICE_PATH, service_body(corpus.queries[0], "wrd", None))
        first_search_ms = (time.perf_counter() - began_at) * 1e3
        memory_again = again.memory().total
    return {
        "machine": before,
        "service": {"version": info["version"], "device": info["device"], "index": collection["index_in_use"]},
        "model": {name: model[name] for name in ("name", "fingerprint", "weight", "retrieve")},
        "corpus": {"name": corpus.name, "characters": float(np.mean([len(text) for text in corpus.texts]))},
        "versions": {name: version(name) for name in LIBRARIES if is_installed(name)},
        "indexing": {**indexing.rates(), "service_documents": documents_per_second},
        "search": searches,
        "agreement": {"top10_overlap": overlaps, "vectors_difference": indexing.vectors_difference},
        "memory": {
            **indexing.memory(),
            "after_restart_mb": memory_again / 1e6,
            "disk_bytes_a_document": collection["bytes"] / collection["documents"],
            "script_mb": script_memory / 1e6,
        },
        "start": {
            "empty_s": service.ready_after_s,
            "full_s": again.ready_after_s,
            "first_search_ms": first_search_ms,
            "stop_s": stop_s,
        },
    }


def slices(sizes: list[int], parts: int) -> list[list[tuple[int, int]]]:
    """Cut the way from each size to the next into at most so many parts of nearly equal length."""
    found = []
    for start, end in pairwise([0, *sizes]):
        edges: list[int] = np.unique(np.linspace(start, end, parts + 1).astype(int)).tolist()
        found.append(list(pairwise(edges)))
    return found


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores that may be used, load before the run."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def is_installed(name: str) -> bool:
    """Return whether a distribution is installed."""
    try:
        return bool(version(name))
    except ModuleNotFoundError:
        return False


def say(what: str) -> None:
    """Tell whoever waits what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts.benchmark.service", description="Compare the service with a hand-written script."
    )
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="encoder folder with static token vectors")
    parser.add_argument("--texts", type=int, nargs="+", help="sizes of the corpus (default 1000 10000 100000)")
    parser.add_argument(
        "--corpus", type=Path, help="file of id TAB text, .xz too (default: questions made by a grammar)"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="numbers of closed-loop clients")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default 1)")
    parser.add_argument("--rounds", type=int, help="rounds in which the sides take turns (default 3)")
    parser.add_argument(
        "--script-texts", type=int, help="texts of a slice that the script encodes itself (default 2000)"
    )
    parser.add_argument(
        "--script-threads", type=int, help="threads of torch and FAISS in the script (default: their own choice)"
    )
    parser.add_argument("--gensim", action="store_true", help="measure WMD, too, against gensim's wmdistance")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--quick", action="store_true", help="one small corpus, short rounds: a minute")
    options = parser.parse_args(arguments)
    usual = ([3_000], 0.4, 2, 1_000) if options.quick else ([1_000, 10_000, 100_000], 1.0, 3, 2_000)
    for name, value in zip(("texts", "seconds", "rounds", "script_texts"), usual, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, and write the report where that is asked for."""
    options = read_options(arguments)
    began_at = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="moverank-bench-") as folder:
        report = run(options, Path(folder))
    report["took_s"] = time.perf_counter() - began_at
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    print(as_text(report))


if __name__ == "__main__":
    main()
