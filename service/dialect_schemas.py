"""Bodies of the dialects: OpenAI's embeddings, the rerank of Jina, Cohere and vLLM, and Text Embeddings Inference (TEI).

Clients of these send fields that mean something elsewhere (`user`, `priority`, `prompt_name`), so unknown fields are let pass.
A field that may be one of several things is declared for the API description and read in `service.given_inputs`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from service.errors import InvalidRequest

TEXTS_OR_IDS = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ]
}
TextInputs = Annotated[Any, WithJsonSchema(TEXTS_OR_IDS)]
DOCUMENTS = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": True}]},
}


class DialectBody(BaseModel):
    """A request of another service's client: exact types, no NaN; fields that we do not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    @classmethod
    def read(cls, content: object) -> Self:
        """Read parsed JSON where its kind decided which body it is.

        Raises:
            InvalidRequest: says the first thing that is wrong, and where.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))[:200]
            raise InvalidRequest(f"{where or 'body'}: {first['msg']}") from error


class EmbeddingsBody(DialectBody):
    """OpenAI's request for embeddings."""

    input: TextInputs = Field(description="One text or several; no token ids.", examples=["花呗怎么还款"])
    model: str | None = Field(None, description="Any name; the answer says which model it is.")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(
        None, description="What `dim` of /info says, unless the model was trained to be cut."
    )
    user: str | None = None
    truncate: bool = Field(False, description="Ours: read the beginning of a text that is too long, and say so.")


class EmbeddingInfo(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Unit length; in base64 it is little-endian float32.")


class TokenUsage(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """OpenAI's answer; `truncated` is there only with `truncate`."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingInfo]
    usage: TokenUsage
    truncated: list[int] | None = Field(
        None, description="Positions of the texts of which only the beginning was read."
    )


class OpenAIModel(BaseModel):
    """A model as OpenAI describes one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[OpenAIModel]


class OpenAIError(BaseModel):
    """What `error` is on OpenAI routes."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorBody(BaseModel):
    """Every error answer of OpenAI routes."""

    error: OpenAIError
    error_type: str
    detail: str
    message: str


class SpansBody(DialectBody):
    """Cohere's wish for relevant spans."""

    mode: Literal["enabled", "disabled"]
    threshold: float | None = Field(None, ge=0.0, le=1.0, description="Least score of a span; default 0.1.")
    max_spans: int | None = Field(None, ge=1)


class RerankBody(DialectBody):
    """The rerank request of Jina, Cohere v1 and v2, and vLLM in one."""

    query: str = Field(examples=["花呗怎么还款"])
    documents: Annotated[Any, WithJsonSchema(DOCUMENTS)] = Field(
        description="Texts, or objects with `text` (or what `rank_fields` names).",
        examples=[["如何申请退货", "花呗如何还钱"]],
    )
    model: str | None = Field(None, description="Any name; the answer says which model it is.")
    top_n: int | None = Field(None, ge=1, description="Best so many only.")
    return_documents: bool | None = None
    rank_fields: list[str] | None = Field(
        None, min_length=1, description="Fields of the objects that are read, one a line."
    )
    max_tokens_per_doc: int | None = Field(None, ge=1, description="Read no more of each text.")
    relevant_spans: SpansBody | None = None
    truncation: bool | None = Field(None, description="false: refuse texts that are too long.")


class RerankedDocument(BaseModel):
    """A document as it was given; a plain text became an object."""

    model_config = ConfigDict(extra="allow")

    text: str


class RelevantSpanInfo(BaseModel):
    """A stretch [start, end) of a document in code points."""

    start: int
    end: int
    score: float


class RerankResult(BaseModel):
    """One document, by its place in the request."""

    index: int
    relevance_score: float = Field(ge=0.0, le=1.0)
    document: RerankedDocument | None = None
    relevant_spans: list[RelevantSpanInfo] | None = None


class RerankResults(BaseModel):
    """Jina's and Cohere's answer, best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RerankResult]
    usage: TokenUsage
    meta: dict[str, Any] = Field(description="Cohere's counts; `warnings` names what was cut or could not be read.")


class TextsRerankBody(DialectBody):
    """TEI's rerank request."""

    query: str
    texts: list[str] = Field(min_length=1)
    raw_scores: bool = Field(False, description="Scores in [-1, 1] as they are, not cut to [0, 1].")
    return_text: bool = False
    truncate: bool | None = Field(None, description="Default true.")
    truncation_direction: str | None = None


class TextRank(BaseModel):
    """One text of TEI's rerank, by its place in the request."""

    index: int
    score: float
    text: str | None = None


class InputsBody(DialectBody):
    """TEI's request for vectors. Vectors have unit length whatever `normalize` says."""

    inputs: TextInputs = Field(examples=["花呗怎么还款"])
    normalize: bool | None = None
    truncate: bool | None = Field(None, description="Default true; the header X-Truncated names what was cut.")
    truncation_direction: str | None = None
    prompt_name: str | None = Field(None, description="No prompt is known here.")
    dimensions: int | None = None


class SimilarityInputs(DialectBody):
    """One sentence and those it is compared with."""

    source_sentence: str
    sentences: list[str] = Field(min_length=1)


class SimilarityParameters(DialectBody):
    """What else TEI's similarity may be told."""

    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None


class SentenceSimilarityBody(DialectBody):
    """TEI's request for cosines."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None
