"""The matrix products of a BERT-type network and nothing else: what its encoding can reach at best, by ONNX Runtime or by torch.

Of every layer: queries, keys, values and output (d × d each), the products of attention (two for each head), the
feed-forward part (d × f, f × d); no embedding, softmax, normalisation, activation or copy between them.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

REPEATS, WARM_UP = 40, 5


def products_alone(layers: int, hidden: int, inner: int, heads: int, texts: int, tokens: int, threads: int) -> float:
    """Return the median of seconds that the products for `texts` texts of `tokens` tokens take together."""
    random = np.random.default_rng(0)
    rows, size = texts * tokens, hidden // heads
    dense = [shape for _ in range(layers) for shape in (*[(hidden, hidden)] * 4, (hidden, inner), (inner, hidden))]
    shapes = {"text": (rows, hidden), "query": (texts * heads, tokens, size), "key": (texts * heads, size, tokens)}
    nodes, weights, last = [], [], "text"
    for place, shape in enumerate(dense):
        weight = (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"weight{place}"))
        nodes.append(helper.make_node("MatMul", [last, f"weight{place}"], [f"dense{place}"]))
        last = f"dense{place}"
    mixed = "query"
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [mixed, "key"], [f"scores{layer}"]))  # (texts · heads, tokens, tokens)
        nodes.append(helper.make_node("MatMul", [f"scores{layer}", "query"], [f"mixed{layer}"]))
        mixed = f"mixed{layer}"
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (last, mixed)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # Small numbers, so that products of products stay finite.
    given = {name: (random.standard_normal(shape) * 1e-2).astype(np.float32) for name, shape in shapes.items()}
    return _median(lambda: session.run(None, given))


def torch_products_alone(
    layers: int, hidden: int, inner: int, heads: int, texts: int, tokens: int, device: str, dtype: torch.dtype
) -> float:
    """Return what `products_alone` does, of torch on a device in a precision; the end is waited for."""
    rows, size = texts * tokens, hidden // heads
    make = partial(torch.randn, device=device, dtype=dtype)
    text, query = make(rows, hidden) * 1e-2, make(texts * heads, tokens, size) * 1e-2
    key = query.transpose(1, 2).contiguous()
    square, widening, narrowing = (
        make(*shape) * 1e-2 for shape in ((hidden, hidden), (hidden, inner), (inner, hidden))
    )

    @torch.inference_mode()
    def multiply() -> None:
        for _ in range(layers):
            for _ in range(4):
                text @ square
            (text @ widening) @ narrowing
            (query @ key) @ query
        if text.is_cuda:
            torch.cuda.synchronize()

    return _median(multiply)


def _median(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEATS + WARM_UP):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[WARM_UP:])
