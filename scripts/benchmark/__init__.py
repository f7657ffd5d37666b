"""Benchmarks: `service` against a hand-written script, `encoder` its forms on the CPU, `index` kinds of FAISS index."""
