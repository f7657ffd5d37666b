"""Every knob of the service: unit, bounds, effect.

Each is read from the environment as ``MOVERANK_<NAME>`` or from a file ``.env`` in the working directory.
"""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
WEIGHTS = Path(__file__).resolve().parent.parent / "models" / "weights"
BUNDLED_MODEL = WEIGHTS / "simbert-mini-zh"
BUNDLED_LOOKUP = WEIGHTS / "lookup-mini-zh"


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, and a container's quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    if CPU_QUOTA.is_file():
        quota, period = CPU_QUOTA.read_text().split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)


def searches_on(cores: int) -> int:
    """Return how many searches run beside each other best on so many cores: half as many, and no more than four.

    A search is a few hundred short calls into NumPy, each of which hands over the interpreter's lock; more threads hand it around
    more than they compute, and the encoder wants a core, too.
    """
    return min(4, max(1, cores // 2))


def search_cores() -> int:
    """Return how many searches run beside each other best on the cores that this process may use."""
    return searches_on(usable_cores())


ENV_FILE = ".env"
MOST = 2**53 - 1
"""The greatest number of a setting: what every reader of JSON can read exactly."""


class Settings(BaseSettings):
    """The settings of one service process."""

    model_config = SettingsConfigDict(
        env_prefix="MOVERANK_", env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on. Loopback unless told otherwise.")
    port: int = Field(8000, ge=0, le=65_535, description="TCP port to listen on; 0 takes a free one.")
    data_dir: Path = Field(Path("data"), description="Folder of collections, jobs and derived files.")
    model: Path = Field(BUNDLED_MODEL, description="Encoder folder: Hugging Face layout, safetensors.")
    pooling: Literal["cls", "mean", "pooler"] | None = Field(
        None, description="Pooling of a model folder that does not name its own (no modules.json)."
    )
    lookup_model: Path = Field(
        BUNDLED_LOOKUP,
        description="Generator folder that answers questions to graphs; without it they can only be looked up.",
    )
    paraphrase_model: Path | None = Field(
        None, description="Folder that writes similar questions (with a language-model head); none: the encoder's."
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
        default_factory=search_cores,
        ge=1,
        le=256,
        description="Searches (candidates and rerank) that run at the same time.",
    )
    transport_device: Literal["auto", "cpu", "cuda"] = Field(
        "cpu",
        description="Where the rerank's bounds and `sinkhorn` are computed; `auto`: where the encoder runs, which is slower.",
    )
    transport_device_mb: int = Field(
        1_024,
        ge=1,
        description="Megabytes of contextual token vectors that stay on a GPU for the rerank (a static table always does).",
    )
    transport_threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        le=256,
        description="Cores that the searches running at one time may solve transport problems on; 1: each on its own thread.",
    )
    sample: bool = Field(
        True,
        description="Load the samples into the collection `sample` and the graph `sample` when the data folder is new.",
    )

    api_keys: SecretStr = Field(
        SecretStr(""), description="Comma-separated keys that may read and write. Empty: no key is asked for."
    )
    read_only_keys: SecretStr = Field(SecretStr(""), description="Comma-separated keys that may only read.")
    api_keys_file: Path | None = Field(
        None,
        description="File of keys, a line `NAME read&#124;write KEY-OR-HASH` each (`moverank key`); read again when it changes.",
    )
    open: bool = Field(False, description="Listen beyond loopback though there is no key.")
    metrics_open: bool = Field(False, description="Answer `/metrics` without a key.")
    rate_limit_per_s: float = Field(0.0, ge=0.0, description="Requests a second of one key; 0: as many as it likes.")
    rate_limit_burst: int = Field(20, ge=1, description="Requests of one key at once, where `RATE_LIMIT_PER_S` is set.")
    cors_origins: str = Field(
        "", description="Comma-separated origins whose pages may call, `*` for all. Empty: none but the service's own."
    )

    max_body_bytes: int = Field(
        32 << 20, ge=1024, description="Bytes of one request body (imports have their own limit)."
    )
    max_import_bytes: int = Field(
        64 << 30, ge=1024, description="Bytes of one import's body as sent, compressed or not."
    )
    max_text_chars: int = Field(
        100_000, ge=1, description="Characters of one document or query, or of an object of a graph."
    )
    max_name_chars: int = Field(
        256, ge=1, description="Characters of a subject with its meaning, and of a predicate, in a graph."
    )
    max_metadata_bytes: int = Field(65_536, ge=2, description="Bytes of one document's metadata as JSON.")
    max_documents: int = Field(10_000, ge=1, description="Documents, ids, pairs or triples in one request.")
    max_queries: int = Field(1_000, ge=1, description="Queries in one search request, questions in one to a graph.")
    max_beams: int = Field(32, ge=1, description="Beams of one question to a graph.")
    max_queued_questions: int = Field(
        1_000, ge=1, description="Questions that may wait for the lookup model before callers get 429."
    )
    max_top_k: int = Field(1_000, ge=1, description="Hits of one query.")
    max_hits: int = Field(100_000, ge=1, description="Hits of all queries of one search: queries times `top_k`.")
    max_candidates: int = Field(10_000, ge=1, description="Candidates of one query that are handed to the rerank.")
    max_token_lists_mb: int = Field(
        512,
        ge=0,
        description='Megabytes of token ids (2 bytes a token) kept in memory for `"scope": "corpus"`; beyond, the store is read.',
    )
    max_samples: int = Field(200, ge=1, description="Texts that one request for paraphrases may draw.")
    max_waiting_paraphrases: int = Field(8, ge=1, description="Requests for paraphrases that may wait or run.")
    max_filter_terms: int = Field(64, ge=1, le=500, description="Conditions and listed values in one filter.")
    max_batch_tokens: int = Field(
        2_048,
        ge=16,
        description="Padded tokens in the network at one time on the CPU, shared by its forwards (CUDA: 8 times as many).",
    )
    max_queued_texts: int = Field(
        4_096, ge=1, description="Texts that may wait for the encoder before callers get 429."
    )
    max_queued_tokens: int = Field(
        65_536, ge=16, description="Tokens that may wait for the encoder before callers get 429."
    )
    max_queue_wait_ms: int = Field(
        5_000,
        ge=1,
        description="Milliseconds that a text would wait for the encoder, as estimated, beyond which callers get 429.",
    )
    max_concurrent_queries: int = Field(
        1_024, ge=1, description="Queries that may be worked on or wait at once before callers get 429."
    )
    max_wait_ms: int = Field(
        1_000,
        ge=1,
        description="Milliseconds that a query would wait, as estimated from the last seconds, beyond which callers get 429.",
    )
    max_requests: int = Field(1_024, ge=1, description="Requests that may be open at once before callers get 429.")
    max_forward_s: float = Field(
        120.0,
        gt=0,
        description="Seconds after which a forward of the encoder counts as hung and its thread is replaced.",
    )
    default_timeout_ms: int = Field(
        30_000,
        ge=1,
        description="Milliseconds a search, rerank or comparison may take that names no `timeout_ms`, and a question to a graph. "
        "Embeddings take as long as they take.",
    )
    drain_timeout_s: int = Field(20, ge=0, description="Seconds that running requests get after SIGTERM.")
    snapshot_interval_s: float = Field(
        60.0, gt=0, description="Least seconds between two snapshots of a growing index."
    )
    slow_request_ms: int = Field(1_000, ge=1, description="Milliseconds beyond which a request is logged as slow.")
    otlp_endpoint: str = Field(
        "", description="URL that takes traces (OTLP over HTTP); needs the extra `otel`. Empty: no traces."
    )

    @field_validator("*")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        """Refuse numbers that JSON cannot carry to everybody."""
        if isinstance(value, int) and value > MOST:
            raise ValueError(f"should be at most {MOST}")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        """Refuse what is no address."""
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("should begin with http:// or https://")
        return value


def given_variables() -> dict[str, str]:
    """Return the variables of the environment and of the local .env."""
    return {**{name: value or "" for name, value in dotenv_values(ENV_FILE).items()}, **os.environ}


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence about each variable that looks like a setting and is none: a misspelt one would do nothing."""
    known = {f"MOVERANK_{name.upper()}" for name in Settings.model_fields} | {"MOVERANK_KEY"}
    sentences = []
    for name in sorted(environment):
        if name.upper().startswith("MOVERANK_") and name.upper() not in known:
            alike = get_close_matches(name.upper(), sorted(known), 1, 0.85)
            sentences.append(f"{name} is no setting" + (f"; is {alike[0]} meant?" if alike else ""))
    return sentences


def read_settings(options: Mapping[str, Any]) -> Settings:
    """Read the settings; `options` are those of a command line, None where one was left out.

    Raises:
        ValueError: values that are not allowed, each named as it was given: by its option or its variable.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except UnicodeDecodeError as error:
        raise ValueError(f"{ENV_FILE} cannot be read: it is not UTF-8") from error
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            name = str(fault["loc"][0])
            where = f"--{name.replace('_', '-')}" if name in given else f"MOVERANK_{name.upper()}"
            allowed = fault["msg"].removeprefix("Input ").removeprefix("Value error, ").partition(", unable to")[0]
            faults.append(f"{where} is {fault['input']!r}: it {allowed}")
        raise ValueError("; ".join(faults)) from error
