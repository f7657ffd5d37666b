"""Every knob of the service: unit, bounds, effect.

Each is read from the environment as ``MOVERANK_<NAME>`` or from a file ``.env`` in the working directory.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
BUNDLED_MODEL = Path(__file__).resolve().parent.parent / "models" / "weights" / "simbert-mini-zh"


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, and a container's quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    if CPU_QUOTA.is_file():
        quota, period = CPU_QUOTA.read_text().split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)


class Settings(BaseSettings):
    """The settings of one service process."""

    model_config = SettingsConfigDict(env_prefix="MOVERANK_", env_file=".env", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on. Loopback unless told otherwise.")
    port: int = Field(8000, ge=0, le=65_535, description="TCP port to listen on; 0 takes a free one.")
    data_dir: Path = Field(Path("data"), description="Folder of collections, jobs and derived files.")
    model: Path = Field(BUNDLED_MODEL, description="Encoder folder: Hugging Face layout, safetensors.")
    pooling: Literal["cls", "mean", "pooler"] | None = Field(
        None, description="Pooling of a model folder that does not name its own (no modules.json)."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where inference runs; `cuda` refuses to start without one."
    )
    runtime: Literal["auto", "onnx", "torch"] = Field(
        "auto",
        description="How the encoder runs on the CPU: ONNX Runtime where the network can be exported, else torch.",
    )
    threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        le=256,
        description="Cores that one forward, one FAISS call and one BLAS call may use.",
    )
    search_threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        le=256,
        description="Searches (candidates and rerank) that run at the same time.",
    )
    sample: bool = Field(
        True, description="Load the sample corpus into the collection `sample` when the data folder is new."
    )

    api_keys: SecretStr = Field(
        SecretStr(""), description="Comma-separated keys that may read and write. Empty: no key is asked for."
    )
    read_only_keys: SecretStr = Field(SecretStr(""), description="Comma-separated keys that may only read.")

    max_body_bytes: int = Field(
        32 << 20, ge=1024, description="Bytes of one request body (imports have their own limit)."
    )
    max_import_bytes: int = Field(
        64 << 30, ge=1024, description="Bytes of one import's body as sent, compressed or not."
    )
    max_text_chars: int = Field(100_000, ge=1, description="Characters of one document or query.")
    max_metadata_bytes: int = Field(65_536, ge=2, description="Bytes of one document's metadata as JSON.")
    max_documents: int = Field(10_000, ge=1, description="Documents, ids or pairs in one request.")
    max_queries: int = Field(1_000, ge=1, description="Queries in one search request.")
    max_top_k: int = Field(1_000, ge=1, description="Hits of one query.")
    max_candidates: int = Field(10_000, ge=1, description="Candidates of one query that are handed to the rerank.")
    max_corpus_scan: int = Field(
        20_000, ge=1, description='Documents that a search with `"scope": "corpus"` may compare by transport.'
    )
    max_filter_terms: int = Field(64, ge=1, description="Conditions and listed values in one filter.")
    max_batch_tokens: int = Field(
        2_048, ge=16, description="Padded tokens in one forward on the CPU (a CUDA device takes 8 times as many)."
    )
    max_queued_texts: int = Field(
        4_096, ge=1, description="Texts that may wait for the encoder before callers get 429."
    )
    max_queued_tokens: int = Field(
        65_536, ge=16, description="Tokens that may wait for the encoder before callers get 429."
    )
    default_timeout_ms: int = Field(
        30_000, ge=1, description="Milliseconds a search may take when the request names no `timeout_ms`."
    )
    drain_timeout_s: int = Field(20, ge=0, description="Seconds that running requests get after SIGTERM.")
    snapshot_interval_s: float = Field(
        60.0, gt=0, description="Least seconds between two snapshots of a growing index."
    )
