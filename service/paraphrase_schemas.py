"""Request and response bodies of similar questions."""

from pydantic import BaseModel, Field

from service.schemas import Body


class ParaphrasesBody(Body):
    """A text, and how many similar ones are wanted."""

    text: str = Field(examples=["花呗怎么还款"])
    n: int = Field(10, ge=1, description="Similar texts to return at most.")
    samples: int = Field(50, ge=1, description="Texts to draw; those that repeat are dropped.")
    top_p: float = Field(0.95, gt=0, le=1, description="Share of the probability that tokens are drawn from.")
    seed: int | None = Field(None, ge=0, lt=1 << 63, description="The same seed draws the same texts.")


class SimilarText(BaseModel):
    """A similar text."""

    text: str
    cosine: float = Field(description="With the input.")


class ParaphrasesResult(BaseModel):
    """Similar texts, best first."""

    text: str
    truncated: bool = Field(description="The model reads only the beginning of the text.")
    paraphrases: list[SimilarText]
    distinct: int = Field(description="Different texts among the samples, without the input.")
    took_ms: dict[str, float]
