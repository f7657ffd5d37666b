"""The service without its voice: encoder, queue, library, jobs, wired from settings and closed in the right order."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.encoder import Encoder, Forward, choose_device
from models.encoder_folder import read_encoder_folder
from models.lookup import Lookup
from models.solvers import Cores
from models.token_codec import token_codec
from service import vector_index
from service.admission import Gate
from service.batching import EncodeQueue
from service.collections import Collection
from service.corpus_files import read_documents
from service.document_rules import Limits
from service.errors import NotFound, NotReady
from service.graph_imports import import_triples, load_triples
from service.graph_library import GraphLibrary
from service.imports import import_documents
from service.indexing import Indexer
from service.jobs import JobRunner
from service.knowledge import AskQueue
from service.library import Library
from service.mapped_memory import give_back
from service.metrics import GraphSize, Metrics, Readings, Size
from service.paraphrases import Paraphraser
from service.ranking import Machine
from service.scoring import shares_of
from service.search import SearchDefaults, Searcher
from service.settings import Settings
from service.spelling import has_lookup, spelling_of
from service.triples import TripleLimits
from service.turns import Turns
from service.version import VERSION

try:
    from models.onnx_export import onnx_forward
except ModuleNotFoundError:  # the extra `gpu` comes without ONNX Runtime
    onnx_forward = None  # type: ignore[assignment]

SAMPLE = Path(__file__).resolve().parent / "samples" / "faq.jsonl"
SAMPLE_GRAPH = SAMPLE.with_name("graph.tsv")
MAINTENANCE_INTERVAL_S = 1.0
STOP_WAIT_S = 10.0
"""Seconds that the stop waits for an index that is being built."""
GIVE_BACK_INTERVAL_S = 10.0
"""Seconds between two returns of memory that the C library holds without using it."""

log = logging.getLogger(__name__)


def load_encoder(settings: Settings) -> Encoder:
    """Load the encoder that the settings name, on its device and in its fastest form that agrees with torch.

    Raises:
        ValueError: the model folder cannot be used, or there is no device as demanded.
    """
    device = choose_device(settings.device)
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    forward: Forward | None = None
    if device == "cpu" and settings.runtime != "torch":
        folder = read_encoder_folder(settings.model, settings.pooling)
        try:
            if onnx_forward is None:
                raise RuntimeError("ONNX Runtime is not installed")
            forward = onnx_forward(folder, settings.data_dir / "onnx", settings.threads)
        except RuntimeError as error:
            if settings.runtime == "onnx":
                raise ValueError(str(error)) from error
            log.warning("the encoder runs in torch: %s", error)
    return Encoder(settings.model, device, settings.pooling, forward)


class Runtime:
    """Everything that answers requests, below HTTP."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        """Open the data folder and load the model; takes seconds.

        Raises:
            ValueError: the model folder or the device cannot be used.
            RuntimeError: the data folder cannot be used, or another process uses it.
        """
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.gate = Gate(settings.max_concurrent_queries, settings.search_threads, settings.max_wait_ms / 1e3)
        self.turns = Turns(settings.search_threads)
        with ExitStack() as stack:  # closed in the reverse order, also when the next step fails
            # Matrix products here are small, or batched by FAISS and ONNX Runtime themselves: BLAS threads only stall.
            blas_limit = threadpool_limits(1, user_api="blas")
            stack.callback(blas_limit.restore_original_limits)
            vector_index.set_threads(settings.threads)
            self.library = Library(settings.data_dir, choose_device(settings.device))
            stack.callback(self.library.close)
            self.encoder = load_encoder(settings)
            self.codec = token_codec(self.encoder)
            self.defaults = SearchDefaults.of_card(self.encoder.card)
            self.shares = shares_of(self.defaults)
            self.queue = EncodeQueue(
                self.encoder,
                _batch_tokens(settings, self.encoder),
                settings.max_queued_texts,
                settings.max_queued_tokens,
                self.metrics,
                settings.max_forward_s,
                settings.max_queue_wait_ms / 1e3,
            )
            stack.callback(self.queue.close)
            self.limits = Limits(settings.max_text_chars, settings.max_metadata_bytes)
            self.indexer = Indexer(self.queue, self.codec)
            cores = Cores(settings.transport_threads)
            stack.callback(cores.close)
            machine = Machine(cores=cores)
            device = self.encoder.device if settings.transport_device == "auto" else settings.transport_device
            if choose_device(device, "transport_device") != "cpu":
                machine = Machine(device, True, settings.transport_device_mb << 20, cores)
            self.searcher = Searcher(self.codec, self.encoder.tokenize, settings.max_token_lists_mb << 20, machine)
            if settings.sample and not self.library.names() and not (settings.data_dir / "jobs").exists():
                self._load_sample()
            self._open_graphs(stack)
            self._open_paraphraser(stack)
            work = {
                "import": partial(import_documents, self.library, self.indexer, self.limits),
                "graph_import": partial(import_triples, self.graphs, self.triple_limits),
            }
            self.jobs = JobRunner(settings.data_dir / "jobs", work)
            stack.callback(self.jobs.close)
            self.search_pool = ThreadPoolExecutor(
                settings.search_threads, "search", vector_index.set_threads, (settings.threads,)
            )
            self.write_pool = ThreadPoolExecutor(2, thread_name_prefix="write")
            stack.callback(self.search_pool.shutdown)
            stack.callback(self.write_pool.shutdown)
            self._is_closing = threading.Event()
            self._maintenance = threading.Thread(target=self._maintain, name="maintenance", daemon=True)
            self._maintenance.start()
            stack.callback(self._stop_maintenance)
            self._closing = stack.pop_all()

    def create_collection(self, name: str, index: str = "auto") -> tuple[Collection, bool]:
        """Return the collection of this name, made for the encoder if it is new, and whether it is new."""
        return self.library.create(name, self.encoder.fingerprint, self.encoder.dim, self.codec.name, index)

    def check_forward(self, max_age_s: float, timeout_s: float) -> str | None:
        """Return None if a forward pass succeeded lately or succeeds now, else the reason."""
        queue = self.queue
        if queue.is_beyond_repair:
            return queue.trouble
        if queue.stalled_s > timeout_s:
            return f"a forward pass has been running for {queue.stalled_s:.0f} s"
        last = queue.last_success
        if last is not None and time.monotonic() - last < max_age_s:
            return None
        before = queue.trouble
        try:
            probe = queue.submit(self.encoder.tokenize(["。"]), "interactive", is_limited=False)
        except NotReady as error:
            return error.sentence
        try:
            probe.result(timeout_s)
        except TimeoutError:
            probe.cancel()
            return before or f"a forward pass took longer than {timeout_s:g} s"
        except Exception as error:
            return before or f"a forward pass failed: {type(error).__name__}"
        return None

    def readings(self, is_ready: bool) -> Readings:
        """Return what the metrics show of this moment; ``is_ready`` says whether requests are taken at all."""
        depth = self.queue.depth()
        running = [job.status() for job in self.jobs.running()]
        return Readings(
            is_ready=is_ready and self.queue.trouble is None and self.queue.is_alive,
            build={
                "version": VERSION,
                "device": self.encoder.device,
                "model": self.encoder.folder.path.name,
                "fingerprint": self.encoder.fingerprint,
            },
            queued_texts={lane: texts for lane, (texts, _) in depth.items()},
            queued_tokens={lane: tokens for lane, (_, tokens) in depth.items()},
            queries_inside=self.gate.inside,
            batch_budget_tokens=self.queue.budget_tokens,
            collections={
                name: Size(len(collection.vectors), collection.bytes()) for name, collection in self.library.open_ones()
            },
            unreadable_collections=len(self.library.unreadable),
            graphs=self._graph_sizes(),
            queued_questions=0 if self.asking is None else self.asking.queued,
            jobs=self.jobs.counts(),
            running_job_lines={
                "done": sum(status["done"] for status in running),
                "failed": sum(status["failed"] for status in running),
                "expected": sum(status["total"] or 0 for status in running),
            },
            device_memory_bytes=_device_memory(self.encoder.device),
        )

    def close(self) -> None:
        """Finish what runs, stop jobs at their next batch, and write snapshots."""
        self._closing.close()

    def _open_graphs(self, stack: ExitStack) -> None:
        """Open the graphs, and what answers questions to them where its folder is there."""
        settings = self.settings
        has_no_graphs = not (settings.data_dir / "graphs").exists()
        self.triple_limits = TripleLimits(settings.max_name_chars, settings.max_text_chars)
        self.graphs = GraphLibrary(settings.data_dir, spelling_of(settings.lookup_model))
        stack.callback(self.graphs.close)
        if settings.sample and has_no_graphs:
            graph, _ = self.graphs.create("sample")
            load_triples(graph, SAMPLE_GRAPH, self.triple_limits)
            log.info("the sample graph of %d triples is the graph %r", len(graph.view), graph.name)
        self.asking: AskQueue | None = None
        self.lookup_model: dict[str, str] | None = None
        if has_lookup(settings.lookup_model):
            lookup = Lookup(settings.lookup_model, self.encoder.device, self._sentence_vectors)
            self.asking = AskQueue(lookup, settings.max_queued_questions, self.metrics)
            stack.callback(self.asking.close)
            self.lookup_model = {"name": settings.lookup_model.name, "fingerprint": lookup.fingerprint}
        else:
            log.warning("no question to a graph is answered: %s has no config.json", settings.lookup_model)

    def _graph_sizes(self) -> dict[str, GraphSize]:
        """Return the sizes of all graphs that can be used."""
        sizes = {}
        for name in self.graphs.names():
            with suppress(NotFound):  # deleted since
                graph = self.graphs.get(name)
                sizes[name] = GraphSize(len(graph.view), graph.pending)
        return sizes

    def _open_paraphraser(self, stack: ExitStack) -> None:
        """Load what writes similar questions, where the folder can."""
        settings = self.settings
        self.paraphraser: Paraphraser | None = None
        try:
            self.paraphraser = Paraphraser(
                settings.paraphrase_model or settings.model,
                self.encoder.device,
                self._sentence_vectors,
                settings.max_waiting_paraphrases,
            )
        except ValueError as error:
            if settings.paraphrase_model is not None:
                raise
            log.warning("no paraphrases are written: %s", error)
        else:
            stack.callback(self.paraphraser.close)

    def _sentence_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the encoder's unit vectors (n, dim) of texts, in turn with everybody else's."""
        return self.queue.submit(self.encoder.tokenize(texts), "interactive", is_limited=False).result().sentences

    def _load_sample(self) -> None:
        collection, _ = self.create_collection("sample")
        with read_documents(SAMPLE, "jsonl") as reader:
            entries = [line.document for line in reader if line.document is not None]
        self.indexer.finish(collection, self.indexer.begin(entries, is_limited=False))
        log.info("the sample corpus of %d documents is in the collection %r", len(entries), collection.name)

    def _maintain(self) -> None:
        vector_index.set_threads(self.settings.threads)
        given_back_at = time.monotonic()
        while not self._is_closing.wait(MAINTENANCE_INTERVAL_S):
            try:
                self.library.maintain(self.settings.snapshot_interval_s)
                if time.monotonic() - given_back_at > GIVE_BACK_INTERVAL_S:
                    give_back()
                    given_back_at = time.monotonic()
            except Exception:
                log.exception("maintenance of the indexes failed and is tried again")

    def _stop_maintenance(self) -> None:
        self._is_closing.set()
        self._maintenance.join(STOP_WAIT_S)
        if self._maintenance.is_alive():  # FAISS trains an index, which nobody can interrupt; it is never saved half
            log.warning("an index that is being built is given up; the next start builds it again")


def _batch_tokens(settings: Settings, encoder: Encoder) -> int:
    """Return the token budget of a forward: never less than one text of the longest kind."""
    budget = settings.max_batch_tokens * (8 if encoder.device == "cuda" else 1)
    return max(budget, encoder.max_tokens)


def _device_memory(device: str) -> dict[str, int]:
    """Return bytes of the CUDA device: allocated by torch, reserved by it, free for anybody; nothing on the CPU."""
    if device != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "free": torch.cuda.mem_get_info()[0],
    }
