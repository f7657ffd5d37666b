"""The encoder's forward as an ONNX Runtime session, for the CPU.

For one short text ONNX Runtime takes less than half of torch's time and at large batches the same (DECISIONS.md has the table).
The graph is exported once from the torch network, in float32, checked against it, and kept in a cache file under the folder's
fingerprint. Quantised weights were measured and left out: dynamic int8 scales depend on the whole batch, so a text's vector
would depend on its neighbours.
"""

import logging
import os
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from models.encoder import EncoderNetwork, TorchForward, is_memory_short
from models.encoder_folder import EncoderFolder

TOLERANCE = 1e-4
"""Largest difference of a unit vector's entry between the exported graph and torch that an export may show."""


SMALL_BATCH_TOKENS = 256
"""Padded tokens up to which one thread computes a batch: handing a part of so little to another costs more than it saves
where that core has searches to do."""


class OnnxForward:
    """One padded batch through an exported graph; see `models.encoder.Forward`."""

    def __init__(self, graph: Path, threads: int) -> None:
        self._small = _session(graph, 1)
        self._large = self._small if threads == 1 else _session(graph, threads)

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Map ids and mask (b, t) to unit sentence vectors (b, dim) and token vectors (b, t, token_dim).

        Raises:
            MemoryError: memory does not suffice for the batch.
        """
        session = self._small if ids.size <= SMALL_BATCH_TOKENS else self._large
        try:
            sentences, tokens = session.run(None, {"ids": ids, "mask": mask})
        except Exception as error:  # ONNX Runtime's errors have no class of their own
            if is_memory_short(error):
                raise MemoryError(f"memory does not suffice for a batch of {ids.shape}") from error
            raise
        return sentences, tokens


def onnx_forward(folder: EncoderFolder, cache: Path, threads: int) -> OnnxForward:
    """Return a session for the folder's network, exporting it into ``cache`` on first use.

    Raises:
        RuntimeError: the network cannot be exported, or the exported graph disagrees with torch; the caller keeps torch.
    """
    graph = cache / f"{folder.fingerprint}.onnx"
    if graph.is_file():
        return OnnxForward(graph, threads)
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
    beside.replace(graph)
    return forward


def _export(network: EncoderNetwork, file: Path) -> None:
    ids = torch.ones((2, 8), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
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
    program.save(str(file))


def _check(forward: OnnxForward, reference: TorchForward, folder: EncoderFolder) -> None:
    """Compare the graph with torch on random batches of several shapes."""
    generator = np.random.default_rng(0)
    vocabulary = folder.load_tokenizer().get_vocab_size()
    for shape in ((1, 3), (5, 17), (2, min(64, folder.max_tokens))):
        ids = generator.integers(0, vocabulary, shape)
        mask = np.ones_like(ids)
        mask[0, shape[1] // 2 + 1 :] = 0
        for mine, theirs in zip(forward(ids, mask), reference(ids, mask), strict=True):
            inside = mask[..., None] > 0 if mine.ndim == 3 else np.ones_like(mine, bool)
            difference = np.abs((mine - theirs) * inside).max(initial=0.0) / max(1.0, np.abs(theirs).max(initial=0.0))
            if not difference < TOLERANCE:
                raise RuntimeError(f"vectors differ from torch's by {difference:.1e}")


def _session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads starve each other where cores are shared: one busy core made a 70-per-second model do 1.9.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
