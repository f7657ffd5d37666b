"""Benchmarks: `service` against a hand-written script, `encoder` its forms on the CPU, `index` kinds of FAISS index,
`rerank` the exact rerank against loops over the candidates, and whole corpora searched with proof.
"""
