"""service/scoring.py: given texts get the score that the definition gives them, and spans are what the plan moved."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import CHARACTERS
from models.deadline import Deadline
from models.encoder import Encoder, Tokenized
from models.fusion import Shares, SharesByLength
from models.token_codec import token_codec
from models.transport import distance
from service.given_texts import GivenTexts, GivenVectors, given_texts, windows
from service.scoring import RelevantSpan, SpanRules, relevant_spans, score_texts
from service.submissions import Outcome

readable = st.text(CHARACTERS, min_size=1, max_size=40)
documents = st.lists(st.one_of(readable, st.just("")), min_size=1, max_size=8)
unhealthy = [HealthCheck.function_scoped_fixture]


def vectors_of(encoder: Encoder, texts: list[str], max_tokens: int | None = None) -> GivenVectors:
    """Encode texts as the service does, in windows of at most three texts."""
    faults = {i: "empty" for i, text in enumerate(texts) if not text}
    vectors = GivenVectors(given_texts(texts, faults, encoder.tokenize, max_tokens), encoder.dim, token_codec(encoder))
    for window in windows(vectors.given, 12, 100_000):
        encoded = encoder.encode([vectors.given.tokenized[i] for i in window])
        vectors.take(window, Outcome(encoded, {}))
    return vectors


def constant(weight: float, lexical_weight: float) -> SharesByLength:
    return SharesByLength(((1.0, Shares(weight, lexical_weight)),))


def scored(
    vectors: GivenVectors, encoder: Encoder, shares: SharesByLength, top_n: int | None = None
) -> list[tuple[int, float]]:
    found = score_texts(vectors, token_codec(encoder), shares, top_n)
    assert not found.is_partial
    return [(text.position, text.score) for text in found.texts]


@settings(max_examples=20, suppress_health_check=unhealthy)
@given(query=readable, texts=documents, weight=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_score_is_its_definition(encoder: Encoder, query: str, texts: list[str], weight: float) -> None:
    """Without BM25: (1 - w) * cosine + w * (1 - WRD) of the encoder's own vectors; every text is there, best first."""
    encoded = encoder.encode(encoder.tokenize([query, *texts]))
    found = scored(vectors_of(encoder, [query, *texts]), encoder, constant(weight, 0.0))
    assert sorted(position for position, _ in found) == list(range(len(texts)))
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    for position, score in found:
        if texts[position]:
            cosine = float(encoded.sentences[0] @ encoded.sentences[position + 1])
            wrd = distance(encoded.tokens[0], encoded.tokens[position + 1], "wrd")
            assert score == pytest.approx((1 - weight) * cosine + weight * (1 - wrd), abs=1e-5)
        else:
            assert score == -1.0


@settings(max_examples=20, suppress_health_check=unhealthy)
@given(query=readable, texts=documents, top_n=st.integers(1, 9), lexical_weight=st.sampled_from([0.0, 0.5]))
def test_top_n_is_the_beginning_of_the_whole_ranking(
    encoder: Encoder, query: str, texts: list[str], top_n: int, lexical_weight: float
) -> None:
    """Asking for fewer leaves out, and changes neither order nor score."""
    vectors = vectors_of(encoder, [query, *texts])
    shares = constant(0.4, lexical_weight)
    assert scored(vectors, encoder, shares, top_n) == scored(vectors, encoder, shares)[:top_n]


def test_equal_texts_keep_their_order_and_words_count(encoder: Encoder) -> None:
    """Ties go by position; with BM25 a text that shares words gains on one that shares none."""
    vectors = vectors_of(encoder, ["花呗还款", "花呗还款", "选课", "花呗还款"])
    assert [position for position, _ in scored(vectors, encoder, constant(0.2, 0.0))] == [0, 2, 1]
    by_words = dict(scored(vectors, encoder, constant(0.0, 1.0)))
    assert by_words[0] == by_words[2] > 0.2
    assert by_words[1] == 0.0


def test_what_stands_close_together_counts(encoder: Encoder) -> None:
    """With windows alone a text that has the query's words beside each other beats one that has them far apart."""
    together, apart = "如何还款的信用卡" + "选课" * 30, "如何还款" + "选课" * 30 + "信用卡"
    vectors = vectors_of(encoder, ["信用卡还款", apart, together])
    windows = SharesByLength(((1.0, Shares(0.0, 1.0, 1.0)),))
    found = dict(scored(vectors, encoder, windows))
    assert found[1] > found[0] > 0
    half = dict(scored(vectors, encoder, SharesByLength(((1.0, Shares(0.0, 1.0, 0.5)),))))
    words = dict(scored(vectors, encoder, constant(0.0, 1.0)))
    assert half == pytest.approx({place: (found[place] + words[place]) / 2 for place in (0, 1)})


def test_shares_hang_on_the_length_of_the_texts(encoder: Encoder) -> None:
    """Texts at least four times as long as the query are scored with the shares for long ones."""
    shares = SharesByLength(((1.0, Shares(0.9, 0.0)), (4.0, Shares(0.1, 0.5))))
    long = vectors_of(encoder, ["花呗", "如何办理信用卡的注销和还款" * 2, "选课成绩查询的图书馆在宿舍的哪" * 2])
    assert scored(long, encoder, shares) == scored(long, encoder, constant(0.1, 0.5))
    short = vectors_of(encoder, ["花呗怎么还款和如何退货", "花呗", "还款"])
    assert scored(short, encoder, shares) == scored(short, encoder, constant(0.9, 0.0))


def test_after_the_deadline_the_answer_is_partial(encoder: Encoder) -> None:
    """With no time left nothing is solved, and the answer says so."""
    vectors = vectors_of(encoder, ["花呗", "还款", "退货"])
    found = score_texts(vectors, token_codec(encoder), constant(0.5, 0.0), deadline=Deadline(0.0))
    assert found.is_partial
    assert len(found.texts) == 2


def test_no_more_tokens_are_read_than_asked(encoder: Encoder) -> None:
    """With a limit a text scores as its beginning does; the query is read whole."""
    query, text = "花呗怎么还款和如何退货", "花呗怎么还款如何办理注销"
    cut = scored(vectors_of(encoder, [query, text], 4), encoder, constant(0.5, 0.0))
    beginning = scored(vectors_of(encoder, [query, text[:4]]), encoder, constant(0.5, 0.0))
    assert cut[0][1] == pytest.approx(beginning[0][1])


@settings(max_examples=60)
@given(count=st.integers(0, 50), texts=st.integers(1, 40), tokens=st.integers(4, 200), seed=st.integers(0, 99))
def test_windows_cover_everything_once_and_leave_room(count: int, texts: int, tokens: int, seed: int) -> None:
    """In order, each text in one window; a window of more than one text is at most a quarter of the queue."""
    lengths = np.random.default_rng(seed).integers(1, 30, count).tolist()
    tokenized = [Tokenized([0] * length, [(0, 0)] * length, [0], False) for length in lengths]
    made = GivenTexts([""] * count, tokenized, {i: "wrong" for i in range(0, count, 7)})
    found = list(windows(made, texts, tokens))
    assert [i for window in found for i in window] == made.readable
    for window in found:
        assert len(window) == 1 or len(window) <= texts / 4
        assert len(window) == 1 or sum(lengths[i] for i in window) <= tokens / 4


def test_spans_are_what_the_plan_moved_from_like_tokens() -> None:
    """By hand: of four equally heavy tokens two equal the query's, one is at a right angle, one at 60 degrees to its source."""
    query = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    half = [0.5, np.sqrt(0.75)]
    tokens = np.array([[1, 0, 0], [half[0], 0, half[1]], [0, 0, 1], [0, 1, 0]], np.float32)
    places = [(0, 2), (3, 4), (4, 6), (6, 7)]
    text = "ab cdef"
    found = relevant_spans(query, tokens, text, places, SpanRules(0.1, None))
    assert found == [RelevantSpan(6, 7, pytest.approx(1.0)), RelevantSpan(0, 4, pytest.approx(0.75))]
    assert relevant_spans(query, tokens, text, places, SpanRules(0.1, 1)) == found[:1]
    assert relevant_spans(query, tokens, text, places, SpanRules(0.6, None)) == [
        RelevantSpan(0, 2, pytest.approx(1.0)),
        RelevantSpan(6, 7, pytest.approx(1.0)),
    ]


@settings(max_examples=20, suppress_health_check=unhealthy)
@given(query=readable, text=readable, threshold=st.floats(0.0, 1.0))
def test_spans_lie_in_the_text_apart_and_in_order(encoder: Encoder, query: str, text: str, threshold: float) -> None:
    """Offsets are half-open and within the text, no two overlap, scores fall and reach the threshold."""
    vectors = vectors_of(encoder, [query, text])
    (found,) = score_texts(vectors, token_codec(encoder), constant(0.5, 0.0), None, SpanRules(threshold, None)).texts
    spans = found.spans
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(threshold <= span.score <= 1.0 for span in spans)
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
    ordered = sorted(spans, key=lambda span: span.start)
    assert all(left.end <= right.start for left, right in pairwise(ordered))


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(2, 40))
def test_equal_texts_have_equal_cosines(seed: int, dim: int, count: int) -> None:
    """To the last bit, wherever they stand: else they would not tie."""
    vectors = GivenVectors(given_texts([], {}, lambda _: []), dim)
    query, text = np.random.default_rng(seed).normal(size=(2, 1, dim)).astype(np.float32)
    vectors.sentences = np.concatenate([query, np.repeat(text, count, axis=0)])
    assert len(set(vectors.cosines().tolist())) == 1


def test_cutting_makes_unit_vectors_and_keeps_zero() -> None:
    """The first dimensions, scaled to length 1; a vector of zeros stays."""
    vectors = GivenVectors(given_texts([], {}, lambda _: []), 4)
    vectors.sentences = np.array([[3, 4, 1, 2], [0, 0, 1, 0]], np.float32)
    cut: NDArray[np.float32] = vectors.cut(2)
    np.testing.assert_allclose(cut, [[0.6, 0.8], [0, 0]], atol=1e-7)
    assert np.array_equal(vectors.cut(None), vectors.sentences)
