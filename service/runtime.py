"""The service without its voice: encoder, queue, library, jobs, wired from settings and closed in the right order."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
import transformers
from threadpoolctl import threadpool_limits

from models.encoder import Encoder, Forward, choose_device
from models.encoder_folder import read_encoder_folder
from models.token_codec import token_codec
from service import vector_index
from service.batching import EncodeQueue
from service.collections import Collection
from service.corpus_files import read_documents
from service.document_rules import Limits
from service.imports import import_documents
from service.indexing import Indexer
from service.jobs import JobRunner
from service.library import Library
from service.search import SearchDefaults, Searcher
from service.settings import Settings

try:
    from models.onnx_export import onnx_forward
except ModuleNotFoundError:  # the extra `gpu` comes without ONNX Runtime
    onnx_forward = None  # type: ignore[assignment]

SAMPLE = Path(__file__).resolve().parent / "samples" / "faq.jsonl"
MAINTENANCE_INTERVAL_S = 1.0

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

    def __init__(self, settings: Settings) -> None:
        """Open the data folder and load the model; takes seconds.

        Raises:
            ValueError: the model folder or the device cannot be used.
            RuntimeError: another process uses the data folder.
        """
        self.settings = settings
        with ExitStack() as stack:  # closed in the reverse order, also when the next step fails
            # Matrix products here are small, or batched by FAISS and ONNX Runtime themselves: BLAS threads only stall.
            blas_limit = threadpool_limits(1, user_api="blas")
            stack.callback(blas_limit.restore_original_limits)
            vector_index.set_threads(settings.threads)
            settings.data_dir.mkdir(parents=True, exist_ok=True)
            self.library = Library(settings.data_dir, choose_device(settings.device))
            stack.callback(self.library.close)
            self.encoder = load_encoder(settings)
            self.codec = token_codec(self.encoder)
            self.defaults = SearchDefaults.of_card(self.encoder.card)
            self.queue = EncodeQueue(
                self.encoder,
                _batch_tokens(settings, self.encoder),
                settings.max_queued_texts,
                settings.max_queued_tokens,
            )
            stack.callback(self.queue.close)
            self.limits = Limits(settings.max_text_chars, settings.max_metadata_bytes)
            self.indexer = Indexer(self.queue, self.codec)
            self.searcher = Searcher(self.codec, self.encoder.tokenize, settings.max_corpus_scan)
            if settings.sample and not self.library.names() and not (settings.data_dir / "jobs").exists():
                self._load_sample()
            work = {"import": partial(import_documents, self.library, self.indexer, self.limits)}
            self.jobs = JobRunner(settings.data_dir / "jobs", work)
            stack.callback(self.jobs.close)
            self.search_pool = ThreadPoolExecutor(settings.search_threads, thread_name_prefix="search")
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
        if not self.queue.is_alive:
            return "the encoder's thread has ended"
        last = self.queue.last_success
        if last is not None and time.monotonic() - last < max_age_s:
            return None
        try:
            self.queue.submit(self.encoder.tokenize(["。"]), "interactive", is_limited=False).result(timeout_s)
        except TimeoutError:
            return f"a forward pass took longer than {timeout_s:g} s"
        except Exception as error:
            return f"a forward pass failed: {type(error).__name__}"
        return None

    def close(self) -> None:
        """Finish what runs, stop jobs at their next batch, and write snapshots."""
        self._closing.close()

    def _load_sample(self) -> None:
        collection, _ = self.create_collection("sample")
        with read_documents(SAMPLE, "jsonl") as reader:
            entries = [line.document for line in reader if line.document is not None]
        self.indexer.finish(collection, self.indexer.begin(entries, is_limited=False))
        log.info("the sample corpus of %d documents is in the collection %r", len(entries), collection.name)

    def _maintain(self) -> None:
        while not self._is_closing.wait(MAINTENANCE_INTERVAL_S):
            try:
                self.library.maintain(self.settings.snapshot_interval_s)
            except Exception:
                log.exception("maintenance of the indexes failed and is tried again")

    def _stop_maintenance(self) -> None:
        self._is_closing.set()
        self._maintenance.join()


def _batch_tokens(settings: Settings, encoder: Encoder) -> int:
    """Return the token budget of a forward: never less than one text of the longest kind."""
    budget = settings.max_batch_tokens * (8 if encoder.device == "cuda" else 1)
    return max(budget, encoder.max_tokens)
