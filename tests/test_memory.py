"""Memory that runs out: the libraries' own errors, in a process that may have only so much."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SHORT_OF_MEMORY = """
import pathlib, resource, sys
import numpy as np, torch
from models.encoder import MAX_BATCH_TOKENS, Encoder, EncoderNetwork, TorchForward
from models.encoder_folder import read_encoder_folder
from models.onnx_export import onnx_forward
from service.batching import EncodeQueue

torch.set_num_threads(1)
folder, cache = map(pathlib.Path, sys.argv[1:])
exported = onnx_forward(read_encoder_folder(folder), cache, 1)
MAX_BATCH_TOKENS["cpu"] = 1 << 30  # the encoder itself shall not cut batches
encoder = Encoder(folder, "cpu")
one = encoder.tokenize(["花呗怎么还款" * 6])[0]
texts = [one._replace(ids=[2, *(5 + i // 16**place % 16 for place in range(3)), *one.ids[4:]]) for i in range(2_000)]
ids = np.full((2_000, 40), 5)
mask = np.ones_like(ids)
queue = EncodeQueue(encoder, 1 << 30, 1 << 30, 1 << 30)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 20), resource.RLIM_INFINITY))
vectors = queue.submit(texts, "bulk").result(200).sentences
print(len(vectors), np.abs(np.linalg.norm(vectors, axis=1) - 1.0).max() < 1e-5, queue.budget_tokens < 1 << 16)
queue.close()
for forward in (TorchForward(EncoderNetwork(read_encoder_folder(folder)), "cpu"), exported):
    try:
        forward(np.tile(ids, (4, 1)), np.tile(mask, (4, 1)))
    except MemoryError as error:
        print(len(forward(ids[:9], mask[:9])[0]), error)
"""


def test_a_batch_that_does_not_fit_into_memory_is_cut_until_it_does(tmp_path: Path, model_folder: Path) -> None:
    """A forward that cannot be allocated is split, everybody is answered; torch and ONNX Runtime both say it."""
    child = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(model_folder), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    expected = ["2000 True True", *["9 memory does not suffice for a batch of (8000, 40)"] * 2]
    assert (child.returncode, child.stdout.splitlines()) == (0, expected), child.stderr[-3_000:]
    assert "memory ran out" in child.stderr
