"""Request and response bodies, with their limits and examples.

What is a setting (how many, how long) is checked where the settings are at hand; what is a matter of form is checked here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = str | int | float | bool | None
Metadata = dict[str, Scalar | list[Scalar]]
Measure = Literal["cosine", "wrd", "wmd"]


class Body(BaseModel):
    """A request body: exact types, no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ErrorBody(BaseModel):
    """Every error answer."""

    error: str = Field(description="A sentence that a person can act on.")
    error_type: str
    detail: str
    message: str


class CollectionBody(Body):
    """How a new collection is made."""

    index: str = Field(
        "auto",
        min_length=1,
        max_length=100,
        pattern="^[!-~]+$",
        description='"auto" or a FAISS factory string.',
        examples=["auto", "HNSW32"],
    )


class CollectionInfo(BaseModel):
    """A collection as it is."""

    name: str
    documents: int
    model: str = Field(description="Fingerprint of the model that made the vectors.")
    dim: int
    index: str = Field(description="What was asked for.")
    index_in_use: str = Field(description="What FAISS searches at present.")
    bytes: int = Field(description="Size on disk.")
    created_at: str


class CollectionList(BaseModel):
    """All collections."""

    collections: list[CollectionInfo]


class DocumentBody(Body):
    """A document to write. Texts are 1 to `max_text_chars` characters, ids 1 to 256."""

    id: str | int | None = Field(None, description="Left out, the server makes one.")
    text: str
    metadata: Metadata | None = None


class DocumentsBody(Body):
    """Documents to write."""

    documents: list[DocumentBody] = Field(
        min_length=1, examples=[[{"id": "faq-1", "text": "花呗怎么还款", "metadata": {"lang": "zh", "year": 2024}}]]
    )


class Upserted(BaseModel):
    """What became of an upsert: durable and searchable."""

    upserted: int
    ids: list[str]
    truncated: list[str] = Field(description="Ids of texts that are longer than the model reads.")


class IdsBody(Body):
    """Documents to delete."""

    ids: list[str | int] = Field(min_length=1, description="An integer names the document that was written with it.")


class Deleted(BaseModel):
    """How many documents there were to delete."""

    deleted: int


class DocumentInfo(BaseModel):
    """A stored document."""

    id: str
    text: str
    metadata: dict[str, Any]


class DocumentPage(BaseModel):
    """Documents in order of id."""

    documents: list[DocumentInfo]
    next: str | None = Field(description="The `after` of the next page; null on the last.")


class SearchBody(Body):
    """A search."""

    query: str | list[str] = Field(examples=["花呗怎么还款"])
    top_k: int = Field(10, ge=1)
    candidates: int = Field(100, ge=1, description="How many the index hands to the rerank.")
    retrieve: Literal["vector", "lexical", "hybrid"] | None = Field(
        None, description="Who proposes candidates; default from the model card."
    )
    rerank: Literal["wrd", "wmd", "none"] = "wrd"
    weight: float | None = Field(
        None, ge=0.0, le=1.0, description="0: cosine alone, 1: transport alone; default from the model card."
    )
    lexical_weight: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Share of BM25 in what is not transport; default 0 where `weight` is given, else from the model card.",
    )
    window_weight: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Share of the best window of a text in what words say, the rest is BM25; default from the model card.",
    )
    solver: Literal["exact", "sinkhorn"] = Field(
        "exact", description="sinkhorn: nearly, many problems at once, with the largest error in the certificate."
    )
    masses: Literal["norm", "uniform", "idf"] | None = Field(
        None, description="What transport moves: shares of vector lengths (wrd), equal shares (wmd), or of rarity."
    )
    scope: Literal["pool", "corpus"] = "pool"
    filter: dict[str, Any] | None = Field(None, examples=[{"domain": "bank"}])
    explain: bool = False
    timeout_ms: int | None = Field(None, ge=1, le=3_600_000)


class AlignmentInfo(BaseModel):
    """A transport plan in words."""

    query_tokens: list[tuple[str, int, int]]
    text_tokens: list[tuple[str, int, int]]
    plan: list[tuple[int, int, float, float]] = Field(description="Query token, text token, mass, cost.")
    matched: float = Field(description="Share of the mass that moved between tokens of cosine 0.5 or more.")
    unmatched: float


class HitInfo(BaseModel):
    """One result; a stage that did not run leaves its field null."""

    id: str
    text: str
    metadata: dict[str, Any]
    score: float
    cosine: float | None
    bm25: float | None
    wrd: float | None
    wmd: float | None
    alignment: AlignmentInfo | None


class CertificateInfo(BaseModel):
    """What is proven about a ranking, in terms of 1 - score: no document that was not solved is below `next_bound`."""

    scope: Literal["pool", "corpus"]
    exact: bool
    kth: float | None
    next_bound: float | None
    solved: int
    pruned: int
    max_error: float | None = Field(
        None,
        description="With sinkhorn only: how much less the exact distance of a hit may be; null where a hit was not solved.",
    )


class QueryResult(BaseModel):
    """The hits of one query."""

    query: str
    truncated: bool
    hits: list[HitInfo]
    certificate: CertificateInfo | None


class SearchResults(BaseModel):
    """The answer to a search."""

    results: list[QueryResult]
    partial: bool = Field(description="Whether the deadline came before everything was done.")
    took_ms: dict[str, float | None] = Field(description="Of each stage, null where it did not run, and in total.")


class SimilarityBody(Body):
    """Pairs of texts to compare."""

    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        min_length=1, examples=[[["花呗怎么还款", "花呗如何还钱"]]]
    )
    measures: list[Measure] = Field(["cosine", "wrd", "wmd"], min_length=1)
    explain: bool = False
    timeout_ms: int | None = Field(None, ge=1, le=3_600_000)


class PairResult(BaseModel):
    """One pair: cosine is a similarity, wrd and wmd are distances."""

    cosine: float | None
    wrd: float | None
    wmd: float | None
    truncated: bool
    alignment: AlignmentInfo | None


class SimilarityResults(BaseModel):
    """All pairs, in order."""

    results: list[PairResult]
    partial: bool = Field(description="Whether the deadline came before everything was compared.")
    took_ms: dict[str, float]


class LineError(BaseModel):
    """A line of an import that could not be used."""

    line: int
    error: str


JobState = Literal["running", "done", "failed", "cancelled"]


class JobInfo(BaseModel):
    """A job as it is now."""

    job: str
    kind: str
    target: str
    state: JobState
    done: int
    total: int | None = Field(description="Estimated from the bytes read until the end is known.")
    failed: int
    truncated: int
    errors: list[LineError] = Field(description="The first 100.")
    error: str | None
    rate: float | None = Field(description="Lines a second.")
    eta_s: float | None


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobInfo]


class JobAccepted(BaseModel):
    """The job that took an import."""

    job: str


class ModelInfo(BaseModel):
    """A loaded model."""

    name: str
    fingerprint: str
    dim: int
    max_tokens: int
    token_vectors: str
    token_codec: str
    retrieve: str
    weight: float
    lexical_weight: float
    by_length: list[tuple[float, float, float, float]] = Field(
        description="The weights for texts that are so many times as long as the query: ratio, weight, lexical_weight, "
        "window_weight (the share of the best window in what words say)."
    )


class LookupModelInfo(BaseModel):
    """The generator that answers questions to graphs."""

    name: str
    fingerprint: str


class Info(BaseModel):
    """What is running here."""

    name: str
    version: str
    device: str
    models: list[ModelInfo]
    limits: dict[str, int | float]
    collections: int
    graphs: int
    lookup_model: LookupModelInfo | None = Field(description="What answers questions to graphs.")
    jobs: dict[str, int]
    model_id: str = Field(description="From here on: the same in the words of TEI, whose clients read it.")
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    sha: str | None
    docker_label: str | None


class State(BaseModel):
    """The answer of a probe."""

    status: str
