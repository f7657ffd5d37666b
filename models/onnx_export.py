"""The encoder's forward as an ONNX Runtime session, for the CPU.

For one short text ONNX Runtime takes less than half of torch's time and at large batches the same (DECISIONS.md has the table).
The graph is exported once from the torch network, in float32, checked against it, and kept in a cache file under the folder's
fingerprint. Quantised weights were measured and left out: dynamic int8 scales depend on the whole batch, so a text's vector
would depend on its neighbours.
"""

import logging
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from models.encoder import EncoderNetwork, TorchForward, is_memory_short
from models.encoder_folder import EncoderFolder

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a unit vector's entry between the exported graph and torch that an export may show."""


FORM = 2
"""Counts up when networks are exported in another way, so that an older graph is made anew."""
LEAST_PART_TOKENS = 8
"""Padded tokens of a part of a batch, at least. Parts of 16 paid on two cores; shorter ones were not measured."""


MOST_CONCURRENT = 4
"""Batches that are computed at the same time, at most. Two on two cores were measured; each costs a Python thread."""


LONE_WORK = 1.5e9
"""Tokens times bytes of the graph from which on a lone text goes through all cores, operation by operation: 50 tokens of a
network of 30 MB, four of BERT-base. Below it, waiting for each other takes what the threads save."""
MOST_TOGETHER = 8
"""Threads that compute one operation together, at most. Two on two cores were measured."""
MOST_TWICE_BYTES = 1 << 29
"""Up to this size a graph is in memory twice, for lone texts and for batches."""


SLOW_FUSION = "SkipLayerNormFusion"
"""Adds and normalises in one operation that computes value by value: several times as slow as the two that it replaces."""


class OnnxForward:
    """One padded batch through an exported graph; see `models.encoder.Forward`.

    Threads share a batch by its texts, and each computes its part from the first layer to the last. ONNX Runtime's own threads
    share every operation and wait for each other after it, which for a few short texts takes longer than the operation: they
    are for a lone text that is long. Batches that are computed at the same time share the cores: each takes those that are
    free when it comes, and one at least.
    """

    def __init__(self, graph: Path, threads: int) -> None:
        self.concurrency = min(threads, MOST_CONCURRENT)
        bytes_of_graph = graph.stat().st_size
        self._alone = _session(graph, 1)
        is_twice = threads > 1 and bytes_of_graph <= MOST_TWICE_BYTES
        self._together = _session(graph, min(threads, MOST_TOGETHER)) if is_twice else None
        self._lone_tokens = LONE_WORK / bytes_of_graph
        self._threads = threads
        self._busy = 0
        self._changing = threading.Lock()
        self._others = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="encoder")  # starts them when needed

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Map ids and mask (b, t) to unit sentence vectors (b, dim) and token vectors (b, t, token_dim).

        Raises:
            MemoryError: memory does not suffice for the batch.
        """
        with self._changing:
            is_lone = len(ids) == 1 and ids.size >= self._lone_tokens and not self._busy
            together = self._together if is_lone else None
            least = 1 if together is None else self._threads
            count = max(least, min(self._threads - self._busy, len(ids), ids.size // LEAST_PART_TOKENS))
            self._busy += count
        try:
            return self._shared(ids, mask, count) if together is None else _run(together, ids, mask)
        except Exception as error:  # ONNX Runtime's errors have no class of their own
            if is_memory_short(error):
                raise MemoryError(f"memory does not suffice for a batch of {ids.shape}") from error
            raise
        finally:
            with self._changing:
                self._busy -= count

    def _shared(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute a batch in so many parts at the same time."""
        edges = [len(ids) * part // count for part in range(count + 1)]
        first, *others = [slice(*edge) for edge in pairwise(edges)]
        elsewhere = [self._others.submit(_run, self._alone, ids[part], mask[part]) for part in others]
        parts = [_run(self._alone, ids[first], mask[first]), *(each.result() for each in elsewhere)]
        if not others:
            return parts[0]
        sentences, tokens = zip(*parts, strict=True)
        return np.concatenate(sentences), np.concatenate(tokens)


def onnx_forward(folder: EncoderFolder, cache: Path, threads: int) -> OnnxForward:
    """Return a session for the folder's network, exporting it into ``cache`` on first use.

    Raises:
        RuntimeError: the network cannot be exported, or the exported graph disagrees with torch; the caller keeps torch.
    """
    graph = graph_file(folder, cache)
    if graph.is_file():
        try:
            return OnnxForward(graph, threads)
        except Exception as error:
            log.warning("%s cannot be read and is made anew: %s", graph.name, error)
            graph.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    network = EncoderNetwork(folder)
    beside = graph.with_name(f"{graph.name}.{os.getpid()}")
    try:
        _export(network, beside)
        forward = OnnxForward(beside, threads)
        _check(forward, TorchForward(network, "cpu"), folder)
    except Exception as error:
        beside.unlink(missing_ok=True)
        raise RuntimeError(f"{folder.path} cannot run in ONNX Runtime: {error}") from error
    with open(beside, "rb") as file:
        os.fsync(file.fileno())
    beside.replace(graph)
    for older in cache.glob(f"{folder.fingerprint}*.onnx"):
        if older != graph:
            older.unlink(missing_ok=True)
    return forward


def graph_file(folder: EncoderFolder, cache: Path) -> Path:
    """Return where the graph of a network is kept."""
    return cache / f"{folder.fingerprint}-{FORM}.onnx"


def _export(network: EncoderNetwork, file: Path) -> None:
    ids = torch.ones((2, 8), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    attention = network.network.config._attn_implementation
    # torch's fused attention is exported with a look for NaN at every pair of tokens, a quarter of the time of a long text.
    network.network.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter calls functions that torch itself has deprecated
        program = torch.onnx.export(
            network,
            (ids, mask),
            dynamo=True,
            input_names=["ids", "mask"],
            output_names=["sentences", "tokens"],
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
            verbose=False,
        )
    assert program is not None
    network.network.set_attn_implementation(attention)
    program.save(str(file))


def _check(forward: OnnxForward, reference: TorchForward, folder: EncoderFolder) -> None:
    """Compare the graph with torch on random batches of several shapes."""
    generator = np.random.default_rng(0)
    vocabulary = folder.load_tokenizer().get_vocab_size()
    most = min(64, folder.max_tokens)
    for shape in ((1, 3), (1, most), (5, 17), (2, most)):
        ids = generator.integers(0, vocabulary, shape)
        mask = np.ones_like(ids)
        mask[0, shape[1] // 2 + 1 :] = 0
        for mine, theirs in zip(forward(ids, mask), reference(ids, mask), strict=True):
            inside = mask[..., None] > 0 if mine.ndim == 3 else np.ones_like(mine, bool)
            difference = np.abs((mine - theirs) * inside).max(initial=0.0) / max(1.0, np.abs(theirs).max(initial=0.0))
            if not difference < TOLERANCE:
                raise RuntimeError(f"vectors differ from torch's by {difference:.1e}")


def _run(
    session: onnxruntime.InferenceSession, ids: NDArray[np.int64], mask: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    sentences, tokens = session.run(None, {"ids": ids, "mask": mask})
    return sentences, tokens


def _session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph whose operations are computed by the thread that asks and ``threads`` - 1 others, which never spin.

    Several may ask at the same time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised
    return onnxruntime.InferenceSession(
        str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=[SLOW_FUSION]
    )
