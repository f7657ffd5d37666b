"""Request and response bodies of knowledge graphs, with their limits and examples."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.schemas import Body

TripleRow = Annotated[list[str], Field(min_length=3, max_length=3)]


class GraphBody(Body):
    """How a new graph is made: there is nothing to choose."""


class GraphInfo(BaseModel):
    """A graph as it is."""

    name: str
    triples: int
    subjects: int = Field(description="Names that facts are about, whatever their meanings.")
    predicates: int
    bytes: int = Field(description="Size on disk.")
    build_s: float = Field(description="Seconds that the present files took to build.")
    pending: int = Field(description="Changes that are not part of the files yet; they count all the same.")
    created_at: str


class GraphList(BaseModel):
    """All graphs."""

    graphs: list[GraphInfo]


class TriplesBody(Body):
    """Triples to add or to remove: subject (its meaning in full-width brackets at its end), predicate, object."""

    triples: list[TripleRow] = Field(
        min_length=1, examples=[[["刘晓华（广东工业大学教授）", "职业", "教授"], ["刘晓华（歌手）", "职业", "歌手"]]]
    )


class Added(BaseModel):
    """What became of triples to add: durable, and part of every answer from now on."""

    added: int
    existing: int = Field(description="Triples that were there before, or twice in the request.")


class Removed(BaseModel):
    """How many of the triples there were to remove."""

    deleted: int


class AskBody(Body):
    """One question or many."""

    question: str | list[str] = Field(examples=["澄湖银行的客服电话是多少？"])
    beams: int = Field(4, ge=1, description="Hypotheses that the search keeps; more is slower and misses less.")
    top_k: int = Field(3, ge=1, description="Keys (subject, meaning, predicate) of one question.")
    min_probability: float = Field(0.0, ge=0.0, le=1.0, description="Answers less likely than this are left out.")
    lookahead: bool = Field(True, description="Prefer names that share characters with the question.")
    explain: bool = Field(False, description="Give `beams` too: what the search weighed, and what it dropped.")


class AnswerInfo(BaseModel):
    """A fact of the graph, with all objects of its subject, meaning and predicate."""

    subject: str
    meaning: str
    predicate: str
    objects: list[str]
    probability: float = Field(description="How likely this is what was asked for.")
    log_probability: float = Field(description="Natural logarithm of the generator's own probability.")


class BeamInfo(BaseModel):
    """A node of the search tree: a choice that the graph left, with the tokens behind it that it forces."""

    id: int
    parent: int | None = Field(description="Of the node before it, which comes earlier in the list; null: the root.")
    part: Literal["subject", "predicate", "meaning"]
    text: str = Field(description='As the model reads it; "" where the choice was that the part ends here.')
    probability: float = Field(description="The model's share of this way among all that the graph leaves at `parent`.")
    log_probability: float = Field(
        description="Sum of the shares' natural logarithms from the root: hypotheses compete by it."
    )
    choices: int = Field(description="How many ways the graph leaves behind it; 0 at the end of a key.")
    kept: bool = Field(description="Whether the search came to a key on this way; false: it was dropped.")
    answer: int | None = Field(description="The place in `answers` of what ends here.")


class QuestionResult(BaseModel):
    """The answers to one question, best first."""

    question: str
    truncated: bool = Field(description="Whether the question is longer than the model reads.")
    answers: list[AnswerInfo]
    beams: list[BeamInfo] | None = Field(None, description="With `explain`: the search tree, likeliest ways first.")


class AskResults(BaseModel):
    """The answers, in the order of the questions."""

    results: list[QuestionResult]
    took_ms: dict[str, float]


class SubjectInfo(BaseModel):
    """A name that facts are about."""

    subject: str
    meanings: list[str] = Field(description='Those that its facts tell apart; "" where a fact needs none.')
    facts: int


class SubjectList(BaseModel):
    """Subjects in the order of their code points."""

    subjects: list[SubjectInfo]


class FactInfo(BaseModel):
    """All objects of one subject, meaning and predicate."""

    subject: str
    meaning: str
    predicate: str
    objects: list[str]


class SubjectFacts(BaseModel):
    """The facts of a subject."""

    subject: str
    facts: list[FactInfo]
    total: int = Field(description="How many facts there are, the ones beyond `limit` included.")
