"""Side by side with the peers: embeddings a second of infinity, txtai, a plain server, and this service.

    python -m scripts.benchmark.peers [--venvs FOLDER] [--minutes 12] [--json FILE]

The same model folder in each, the peers in environments of their own (made on the first run: minutes, and 3 GB), on the same
machine, with the same closed-loop clients (load.py), in turns. Every request is one text and is answered with floats, in OpenAI's
form. Two workloads: short questions, and texts whose number of characters is spread evenly, on a logarithmic scale, over 8 to
500. Searches are compared with txtai's, too: vectors alone, exhaustive in both. When the minutes are over, what is not yet
measured is left out.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from scripts.benchmark.children import Child, free_port, start_service
from scripts.benchmark.corpus import as_jsonl, made_corpus, made_mixed
from scripts.benchmark.load import Load, request_bytes, run_clients
from scripts.benchmark.peer_report import as_text
from scripts.benchmark.service import machine, say
from service.settings import BUNDLED_MODEL

TORCH = "torch==2.13.0"
REQUIREMENTS = {
    "infinity": [TORCH, "infinity-emb[torch,server]==0.0.78"],
    "txtai": [TORCH, "txtai[api]==9.14.0", "sentence-transformers==6.2.0", "transformers==5.23.0", "faiss-cpu==1.15.1"],
    "plain": [],  # nothing that the extra `bench` has not
}
VENVS = Path.home() / ".cache" / "moverank-peers"
OURS = "moverank"
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
SHORTEST, LONGEST = 8, 500
"""Characters of a text of mixed length; 500 and the special tokens are below the 512 tokens that the model reads."""
DISTINCT = 400
"""Texts of a workload; clients ask them in turn, over and over."""
COLLECTION = "peers"
TOP_K = 10
MOST_SEARCHERS = 32
"""Clients that search at a time; txtai answers more of them one after the other."""


class Side(NamedTuple):
    """A server that is compared."""

    name: str
    child: Child
    path: str

    def body(self, text: str) -> dict[str, Any]:
        """Return OpenAI's request for the vector of a text; only our side must be told to cut what is too long."""
        return {"input": text, "model": "simbert"} | ({"truncate": True} if self.name == OURS else {})

    def request(self, text: str) -> bytes:
        """Return the same as the bytes of an HTTP request."""
        return request_bytes(self.path, self.body(text))

    def vectors(self, texts: list[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, (n, dim), asked for one by one."""
        answers = [self.child.json.expect("POST", self.path, self.body(text)) for text in texts]
        return np.array([answer["data"][0]["embedding"] for answer in answers], np.float32)


def environment_of(name: str, folder: Path) -> Path:
    """Return the interpreter of a peer's environment, made when its requirements are new.

    Raises:
        RuntimeError: they cannot be installed.
    """
    if not REQUIREMENTS[name]:
        return Path(sys.executable)
    python = folder / name / "bin" / "python"
    wanted, installed = "\n".join(REQUIREMENTS[name]), folder / f"{name}.txt"
    if not python.is_file() or not installed.is_file() or installed.read_text() != wanted:
        say(f"installing {name} into {folder / name}: minutes")
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[name]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} cannot be installed: {done.stderr[-2000:]}")
        installed.write_text(wanted)
    return python


def older_form(model: Path, folder: Path) -> Path:
    """Copy a model folder so that the sentence-transformers 3 of infinity reads it: one field has another name there."""
    shutil.copytree(model, folder)
    for file in folder.glob("*_Pooling/config.json"):
        config = orjson.loads(file.read_bytes())
        if "embedding_dimension" in config:
            config["word_embedding_dimension"] = config.pop("embedding_dimension")
        file.write_bytes(orjson.dumps(config))
    return folder


def start_peer(name: str, python: Path, model: Path, folder: Path) -> Side:
    """Start a peer with its own defaults, on the CPU."""
    port = free_port()
    serve = ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**OFFLINE, "MODEL": str(model)}
    if name == "infinity":
        copied = older_form(model, folder / "older-form")
        arguments = ["-c", "from infinity_emb.cli import cli; cli()", "v2", "--model-id", str(copied), *serve]
        arguments += ["--device", "cpu", "--engine", "torch", "--no-bettertransformer"]
    elif name == "txtai":
        config = folder / "txtai.yml"
        config.write_text(
            f"openai: true\nwritable: true\nembeddings:\n  path: {model}\n  method: sentence-transformers\n"
            "  backend: faiss\n  content: true\n  faiss:\n    components: IDMap,Flat\n"
        )
        environment["CONFIG"] = str(config)
        arguments = ["-m", "uvicorn", "txtai.api:app", *serve]
    else:
        arguments = ["-m", "uvicorn", "scripts.benchmark.plain_embeddings:app", *serve]
    child = Child(arguments, environment, folder / f"{name}.log", port, python, "/openapi.json")
    return Side(name, child, "/embeddings" if name == "infinity" else "/v1/embeddings")


def workloads() -> dict[str, list[str]]:
    """Make the texts of both workloads: the same in every run."""
    return {
        "short": made_corpus(DISTINCT, 1, seed=7).texts,
        "mixed": made_mixed(DISTINCT, SHORTEST, LONGEST),
    }


def measure(
    sides: Mapping[str, tuple[int, Sequence[bytes]]], clients: int, seconds: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Let sides (a port and requests) take turns under so many clients; one that fails once (an error, a connection closed) has
    no figures."""
    loads: dict[str, list[Load]] = {name: [] for name in sides}
    failed: set[str] = set()
    names = list(sides)
    for turn in range(rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            port, requests = sides[name]
            try:
                loads[name].append(run_clients(port, requests, clients, seconds))
            except (RuntimeError, OSError) as error:
                failed.add(name)
                say(f"{name} failed under {clients} clients: {error}")
    return {name: Load.together(found).summary() for name, found in loads.items() if name not in failed}


def measure_searches(
    ours: Side, txtai: Side, options: argparse.Namespace, is_over: Callable[[], bool]
) -> list[dict[str, Any]]:
    """Index the same texts in both and let them take turns searching; say how many of the first ten agree."""
    texts = options.texts
    corpus = made_corpus(texts, seed=11)
    job = ours.child.json.expect(
        "POST", f"/v1/collections/{COLLECTION}/imports", as_jsonl(corpus.ids, corpus.texts), "application/x-ndjson"
    )["job"]
    while ours.child.json.expect("GET", f"/v1/jobs/{job}")["state"] == "running":
        time.sleep(0.2)
    documents = [{"id": id, "text": text} for id, text in zip(corpus.ids, corpus.texts, strict=True)]
    txtai.child.json.expect("POST", "/add", documents)
    txtai.child.json.expect("GET", "/index")
    path = f"/v1/collections/{COLLECTION}/search"

    def body(query: str, rerank: str) -> dict[str, Any]:
        return {"query": query, "top_k": TOP_K, "retrieve": "vector", "rerank": rerank}

    same = []
    for query in corpus.queries[:50]:
        hits = ours.child.json.expect("POST", path, body(query, "none"))["results"][0]["hits"]
        theirs = txtai.child.json.expect("POST", "/batchsearch", {"queries": [query], "limit": TOP_K})[0]
        same.append(len({hit["id"] for hit in hits} & {hit["id"] for hit in theirs}) / TOP_K)
    asked = [request_bytes("/batchsearch", {"queries": [query], "limit": TOP_K}) for query in corpus.queries]
    forms = {
        f"{OURS}, vectors": (ours.child.port, [request_bytes(path, body(query, "none")) for query in corpus.queries]),
        f"{OURS}, vectors and wrd": (
            ours.child.port,
            [request_bytes(path, body(query, "wrd")) for query in corpus.queries],
        ),
        "txtai, vectors": (txtai.child.port, asked),
    }
    found = []
    for count in options.clients:
        if count <= MOST_SEARCHERS and not is_over():
            summaries = measure(forms, count, options.seconds, options.rounds)
            found.append({"texts": texts, "clients": count, "agreement": float(np.mean(same)), "sides": summaries})
            say(f"search, {count} clients: {_rates(summaries)}")
    return found


def run(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measure everything and return the report."""
    pythons = {name: environment_of(name, options.venvs) for name in options.peers}
    before = machine()
    ends_at: float = time.perf_counter() + options.minutes * 60

    def is_over() -> bool:
        return time.perf_counter() > ends_at

    with ExitStack() as stack:
        service = stack.enter_context(start_service(options.model, scratch / "data", scratch / "log"))
        sides = [Side(OURS, service, "/v1/embeddings")]
        for name, python in pythons.items():
            say(f"starting {name}")
            sides.append(start_peer(name, python, options.model, scratch))
            stack.enter_context(sides[-1].child)
        texts = workloads()
        most = service.json.expect("GET", "/info")["max_input_length"]
        probes = [text for text in texts["short"][:8] + texts["mixed"][:24] if len(text) + 2 <= most]
        expected = sides[0].vectors(probes)
        differences = {side.name: float(np.abs(side.vectors(probes) - expected).max()) for side in sides[1:]}
        say(f"largest difference of a vector's entry: {differences}")
        for side in sides:  # every length once, so that nobody compiles or allocates during a measurement
            run_clients(side.child.port, [side.request(text) for text in texts["mixed"]], 8, options.seconds)
        by_name = {side.name: side for side in sides}
        searches = []
        if options.texts and "txtai" in by_name:
            searches = measure_searches(by_name[OURS], by_name["txtai"], options, is_over)
        embeddings = []
        for clients, workload in ((count, name) for count in options.clients for name in texts):
            if is_over():
                say(f"the time is over: {workload}, {clients} clients, is left out")
                continue
            asked = {side.name: (side.child.port, [side.request(text) for text in texts[workload]]) for side in sides}
            found = measure(asked, clients, options.seconds, options.rounds)
            embeddings.append({"workload": workload, "clients": clients, "sides": found})
            say(f"{workload}, {clients} clients: {_rates(found)}")
        memory = {side.name: side.child.memory().total / 1e6 for side in sides}
    return {
        "machine": before | {"load_average_after": os.getloadavg()[0]},
        "model": options.model.name,
        "requirements": {name: REQUIREMENTS[name] for name in options.peers},
        "differences": differences,
        "embeddings": embeddings,
        "searches": searches,
        "memory_mb": memory,
    }


def _rates(found: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{name} {summary['per_second']:.0f}/s" for name, summary in found.items())


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts.benchmark.peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--venvs", type=Path, default=VENVS, help=f"folder of the peers' environments ({VENVS})")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="a sentence-transformers folder")
    parser.add_argument("--peers", nargs="*", choices=list(REQUIREMENTS), default=list(REQUIREMENTS))
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[1, 8, 32, 128], help="numbers of closed-loop clients"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=2, help="rounds in which the sides take turns (2)")
    parser.add_argument("--minutes", type=float, default=12.0, help="after which nothing more is begun (12)")
    parser.add_argument("--texts", type=int, default=5_000, help="texts that are searched; 0: no searches")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, and write the report where that is asked for."""
    options = read_options(arguments)
    options.venvs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="moverank-peers-") as scratch:
        report = run(options, Path(scratch))
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    print(as_text(report))


if __name__ == "__main__":
    main()
