"""What the service counts and measures, for Prometheus.

Everything is registered at start with fixed buckets, so that a dashboard finds every series before the first request. Labels take
few values: a route is its template, a collection beyond the `MOST_COLLECTIONS` largest is counted under "(others)". What can be
asked at any time (queues, sizes, jobs, memory) is read when somebody scrapes, and costs nothing otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for

CONTENT_TYPE = CONTENT_TYPE_LATEST
MOST_COLLECTIONS = 50
OTHERS = "(others)"

LANES = ("interactive", "bulk")
STAGES = ("queue", "encode", "retrieve", "rerank", "lookup", "generate")
REJECTS = (
    *("queue_texts", "queue_tokens", "queue_wait", "search_queue", "requests", "overloaded", "rate_limited"),
    *("validation", "too_large", "unauthorized", "forbidden", "cross_site", "unavailable"),
)
ASK_STAGES = ("encode", "search", "rescore")
SURE = 0.5
"""From this probability of its best answer on a question counts as answered surely."""
OUTCOMES = ("sure", "unsure", "none")
JOB_STATES = ("running", "done", "failed", "cancelled")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TEXTS = tuple(2.0**i for i in range(13))
TOKENS = tuple(2.0**i for i in range(2, 18))


class Size(NamedTuple):
    """How large a collection is."""

    documents: int
    bytes: int


class GraphSize(NamedTuple):
    """How large a graph is, and how many of its changes wait to become part of its files."""

    triples: int
    pending: int


Sizes = TypeVar("Sizes", Size, GraphSize)


@dataclass(frozen=True)
class Readings:
    """What the service is like at this moment; the defaults hold while the model is being loaded."""

    is_ready: bool = False
    build: Mapping[str, str] = field(default_factory=dict)  # version, device, model, fingerprint
    queued_texts: Mapping[str, int] = field(default_factory=dict)  # by lane
    queued_tokens: Mapping[str, int] = field(default_factory=dict)  # by lane
    queries_inside: int = 0
    batch_budget_tokens: int = 0
    collections: Mapping[str, Size] = field(default_factory=dict)
    unreadable_collections: int = 0
    graphs: Mapping[str, GraphSize] = field(default_factory=dict)
    queued_questions: int = 0
    jobs: Mapping[str, int] = field(default_factory=dict)  # by state
    running_job_lines: Mapping[str, int] = field(default_factory=dict)  # done, failed, expected
    device_memory_bytes: Mapping[str, int] = field(
        default_factory=dict
    )  # allocated, reserved, free; of the CUDA device


class Metrics:
    """The metrics of one application."""

    def __init__(self, readings: Callable[[], Readings] = Readings) -> None:
        self.readings = readings
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Present(self))
        self._requests = Counter(
            "moverank_requests", "Requests that were answered.", ["route", "method", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "moverank_request_seconds", "Seconds from a request to the end of its answer.", ["route"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("moverank_requests_in_flight", "Requests that are being answered.", registry=registry)
        self._stages = Histogram(
            "moverank_stage_seconds", "Seconds that a request spent in a stage.", ["stage"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._rejects = Counter("moverank_rejects", "Requests that were refused.", ["reason"], registry=registry)
        self._batch_texts = Histogram(
            "moverank_batch_texts", "Texts in one batch of the encoder.", buckets=TEXTS, registry=registry
        )
        self._batch_tokens = Histogram(
            "moverank_batch_tokens", "Tokens in one batch of the encoder.", buckets=TOKENS, registry=registry
        )
        self._batch_seconds = Histogram(
            "moverank_batch_seconds", "Seconds that a batch of the encoder took.", buckets=SECONDS, registry=registry
        )
        self._encoded = Counter("moverank_encoded_texts", "Texts that were encoded.", ["lane"], registry=registry)
        self.dropped = Counter(
            "moverank_dropped_texts", "Texts that were not encoded because their caller had left.", registry=registry
        )
        self._splits = Counter(
            "moverank_batch_splits", "Batches that failed and were tried again in parts.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._restarts = Counter(
            "moverank_encoder_restarts", "Times a thread of the encoder was replaced.", ["reason"], registry=registry
        )
        self.solved = Counter("moverank_transport_solved", "Transport problems that were solved.", registry=registry)
        self.pruned = Counter(
            "moverank_transport_pruned", "Candidates whose transport problem a bound made needless.", registry=registry
        )
        self._questions = Counter(
            "moverank_questions",
            f"Questions to graphs that were answered: surely (probability of the best answer at least {SURE}), unsurely, not.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self._ask_questions = Histogram(
            "moverank_ask_batch_questions", "Questions that were searched together.", buckets=TEXTS[:6],
            registry=registry,
        )  # fmt: skip
        self._ask_seconds = Histogram(
            "moverank_ask_stage_seconds", "Seconds that a batch of questions spent in a stage.", ["stage"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._ask_steps = Counter(
            "moverank_ask_steps", "Choices of beam searches, of all questions of a batch at once.", registry=registry
        )
        self._ask_forwards = Counter(
            "moverank_ask_forwards", "Forwards of the network that answers questions.", registry=registry
        )
        for outcome in OUTCOMES:
            self._questions.labels(outcome)
        for stage in ASK_STAGES:
            self._ask_seconds.labels(stage)
        # The library looks labels up under a lock; what every request needs is looked up once.
        self._stage = {stage: self._stages.labels(stage) for stage in STAGES}
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        for reason in REJECTS:
            self._rejects.labels(reason)
        for lane in LANES:
            self._encoded.labels(lane)
        for reason in ("memory", "failure"):
            self._splits.labels(reason)
        for reason in ("died", "hung"):
            self._restarts.labels(reason)

    def expose(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)

    def route(self, template: str, method: str) -> None:
        """Register a route before its first request."""
        self._requests.labels(template, method, "200")
        self._request_seconds.labels(template)

    def request(self, route: str, method: str, status: int, seconds: float, stages: Mapping[str, float]) -> None:
        """Count a request that was answered; stages in milliseconds."""
        key = (route, method, status)
        if key not in self._counted:
            self._counted[key] = self._requests.labels(route, method, str(status)), self._request_seconds.labels(route)
        count, time_taken = self._counted[key]
        count.inc()
        time_taken.observe(seconds)
        for stage, ms in stages.items():
            if stage in self._stage:
                self._stage[stage].observe(ms / 1e3)

    def rejected(self, reason: str) -> None:
        """Count a request that was refused."""
        if reason in REJECTS:
            self._rejects.labels(reason).inc()

    def batch(self, lane: str, texts: int, tokens: int, seconds: float) -> None:
        """Count a batch that went through the encoder."""
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)
        self._batch_seconds.observe(seconds)
        self._encoded.labels(lane).inc(texts)

    def asked(
        self, probabilities: Sequence[float | None], stages: Mapping[str, float], steps: int, forwards: int
    ) -> None:
        """Count a batch of questions: of each the probability of its best answer, None without one; stages in seconds."""
        for probability in probabilities:
            outcome = "none" if probability is None else "sure" if probability >= SURE else "unsure"
            self._questions.labels(outcome).inc()
        self._ask_questions.observe(len(probabilities))
        for stage, seconds in stages.items():
            self._ask_seconds.labels(stage).observe(seconds)
        self._ask_steps.inc(steps)
        self._ask_forwards.inc(forwards)

    def split(self, reason: str) -> None:
        """Count a batch that is tried again in parts because of ``memory`` or ``failure``."""
        self._splits.labels(reason).inc()

    def restarted(self, reason: str) -> None:
        """Count a new encoder thread in the place of one that ``died`` or ``hung``."""
        self._restarts.labels(reason).inc()


class _Present(Collector):
    """Turns readings into samples at every scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        yield from _samples(Readings())

    def collect(self) -> Iterator[Metric]:
        yield from _samples(self._metrics.readings())


def _samples(now: Readings) -> Iterator[Metric]:
    build = {name: now.build.get(name, "") for name in ("version", "device", "model", "fingerprint")}
    info = GaugeMetricFamily("moverank_build_info", "What is running; always 1.", labels=list(build))
    info.add_metric(list(build.values()), 1)
    yield info
    yield GaugeMetricFamily("moverank_ready", "Whether requests are answered.", value=float(now.is_ready))
    for unit, queued in (("texts", now.queued_texts), ("tokens", now.queued_tokens)):
        what = f"{unit.capitalize()} that wait for the encoder."
        yield _by("moverank_queue_" + unit, what, "lane", {lane: queued.get(lane, 0) for lane in LANES})
    what = "Queries that are worked on or wait."
    yield GaugeMetricFamily("moverank_queries_inside", what, value=now.queries_inside)
    what = "Tokens that a batch of the encoder may have; lowered where memory ran out."
    yield GaugeMetricFamily("moverank_batch_budget_tokens", what, value=now.batch_budget_tokens)
    sizes = _largest(now.collections, Size(0, 0))
    documents = {name: size.documents for name, size in sizes.items()}
    yield _by("moverank_collection_documents", "Documents of a collection.", "collection", documents)
    kept = {name: size.bytes for name, size in sizes.items()}
    yield _by("moverank_collection_bytes", "Bytes of a collection on disk.", "collection", kept)
    what = "Collections whose files are damaged."
    yield GaugeMetricFamily("moverank_unreadable_collections", what, value=now.unreadable_collections)
    yield GaugeMetricFamily("moverank_queue_questions", "Questions to graphs that wait.", value=now.queued_questions)
    graphs = _largest(now.graphs, GraphSize(0, 0))
    triples = {name: size.triples for name, size in graphs.items()}
    yield _by("moverank_graph_triples", "Triples of a graph.", "graph", triples)
    pending = {name: size.pending for name, size in graphs.items()}
    yield _by("moverank_graph_pending", "Changes of a graph that are not part of its files yet.", "graph", pending)
    jobs = {state: now.jobs.get(state, 0) for state in JOB_STATES}
    yield _by("moverank_jobs", "Jobs that are remembered.", "state", jobs)
    lines = {name: now.running_job_lines.get(name, 0) for name in ("done", "failed", "expected")}
    yield _by("moverank_running_job_lines", "Lines of the jobs that run.", "kind", lines)
    memory = {kind: now.device_memory_bytes.get(kind, 0) for kind in ("allocated", "reserved", "free")}
    yield _by("moverank_device_memory_bytes", "Memory of the CUDA device; 0 without one.", "kind", memory)


def _by(name: str, what: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _largest(sizes: Mapping[str, Sizes], nothing: Sizes) -> dict[str, Sizes]:
    """Keep the largest ones, by their first figure, and sum up the rest."""
    by_size = sorted(sizes.items(), key=lambda entry: (-entry[1][0], entry[0]))
    others = nothing
    for _, size in by_size[MOST_COLLECTIONS:]:
        others = type(nothing)(*(a + b for a, b in zip(others, size, strict=True)))
    return {OTHERS: others, **dict(by_size[:MOST_COLLECTIONS])}
