"""The mathematics of moverank: texts and arrays in, arrays out; no web, no store, no settings.

| module | what it computes |
|---|---|
| `encoder_folder` | a model folder on disk, read and checked: network, tokenizer, pooling, fingerprint |
| `encoder` | texts -> unit sentence vectors and token vectors, one forward for both |
| `onnx_export` | the same forward as an ONNX Runtime session, for the CPU |
| `token_codec` | token vectors <-> the few bytes a document keeps of them |
| `transport` | WMD and WRD: masses, costs, exact plans |
| `candidates`, `bounds`, `query_potentials`, `dual_bound` | many texts in one block; lower bounds, each tighter and dearer |
| `device_bounds`, `device_tokens` | the same bounds in torch, over token vectors that stay on a device |
| `entropic`, `solvers` | problems solved nearly, many at once, with the error; who solves, and on which cores |
| `rerank`, `block_rerank` | the exact best of many by a fused score, with a certificate; in memory, or read in blocks |
| `fusion` | how cosine, BM25 and transport become one score |
| `losses` | what the bundled network was trained with |
| `unilm`, `fallback` | a network read as a generator, its prompt encoded once; stand-ins for unknown characters |
| `beam`, `lookahead`, `mentions` | search that can only say what a prefix tree contains |
| `lookup`, `rescoring` | questions -> keys of a graph, ranked, with calibrated probabilities |
"""

import os

# Idle OpenMP threads that spin starve whoever shares their core. The runtimes (torch, FAISS and POT bring one each)
# read this when they are loaded, so it must stand before their imports.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# ONNX Runtime's Linux wheels write a device id under the home directory and send telemetry unless this is set before
# their import. Nothing that a user indexes or asks leaves the machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
