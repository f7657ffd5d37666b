"""service/search.py: against a plain loop over all candidates, written from the definitions."""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import CHARACTERS
from models import transport
from models.deadline import Deadline
from models.encoder import Encoder
from models.fusion import Shares, SharesByLength
from models.token_codec import TokenCodec, token_codec
from service.alignment import EncodedText, Span, align, compare, encoded_texts, token_spans, word_starts
from service.collections import Collection
from service.documents import Document, Vectors, new_manifest
from service.filters import parse_filter
from service.lexical import LexicalIndex
from service.search import Answer, SearchDefaults, Searcher, SearchOptions
from service.timings import Timings

PATIENCE_S = 60.0
TEXTS = [
    "花呗怎么还款",
    "花呗如何还款",
    "信用卡如何提额度",
    "怎么注销",
    "银行卡密码忘记了",
    "还款",
    "花" * 60,
    "a b",
    "😀😀",
]
texts = st.one_of(st.sampled_from(TEXTS), st.text(CHARACTERS + " 😀", min_size=1, max_size=12))
readable = texts.filter(lambda text: bool(text.strip()))
corpora = st.dictionaries(st.text("ab1中", min_size=1, max_size=3), readable, max_size=12)
FILTERS: dict[str, dict[str, Any]] = {"none": {}, "some": {"size": {"gte": 4}}, "nothing": {"size": "x"}}
options = st.builds(
    SearchOptions,
    top_k=st.sampled_from([1, 3, 50]),
    candidates=st.sampled_from([1, 4, 100]),
    retrieve=st.sampled_from(["vector", "lexical", "hybrid"]),
    rerank=st.sampled_from(["wrd", "wmd", "none"]),
    weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    lexical_weight=st.sampled_from([0.0, 0.4, 1.0]),
    scope=st.sampled_from(["pool", "corpus"]),
    conditions=st.sampled_from(list(FILTERS)).map(lambda name: tuple(parse_filter(FILTERS[name], 9))),
    explain=st.booleans(),
    shares=st.sampled_from([None, SharesByLength(((1.0, Shares(0.6, 0.1)), (3.0, Shares(0.1, 0.9, 0.4))))]),
)
ALL = SearchOptions(10, 100, "hybrid", "wrd", 0.5, 0.4, "pool", (), True)


class Bench(NamedTuple):
    """A collection that one encoder filled, and the searcher over it."""

    encoder: Encoder
    codec: TokenCodec
    searcher: Searcher
    collection: Collection

    def add(self, corpus: dict[str, str]) -> None:
        encoded = self.encoder.encode(self.encoder.tokenize(list(corpus.values())))
        documents = [Document(id, text, {"size": len(text)}) for id, text in corpus.items()]
        if documents:
            self.collection.upsert(documents, Vectors(encoded.sentences, self.codec.pack(encoded)))

    def read(self, queries: list[str]) -> list[EncodedText]:
        tokenized = self.encoder.tokenize(queries)
        return encoded_texts(queries, tokenized, self.encoder.encode(tokenized))

    def search(self, queries: list[str], options: SearchOptions, seconds: float = 1_000.0) -> list[Answer]:
        deadline = Deadline(time.monotonic() + seconds)
        return self.searcher.search(self.collection, self.read(queries), options, deadline, Timings())


@pytest.fixture(name="encoders", scope="module")
def _encoders(encoder: Encoder, bert_folder: Path) -> dict[str, Encoder]:
    """Static token vectors kept as ids, and contextual ones kept as scaled bytes."""
    return {"static": encoder, "hidden": Encoder(bert_folder, "cpu", pooling="mean")}


@pytest.fixture(name="bench")
def _bench(encoder: Encoder, tmp_path: Path) -> Iterator[Bench]:
    bench = new_bench(encoder, tmp_path / "faq")
    yield bench
    bench.collection.close()


def new_bench(encoder: Encoder, folder: Path, max_token_lists_bytes: int = 1 << 20) -> Bench:
    codec = token_codec(encoder)
    manifest = new_manifest(encoder.fingerprint, encoder.dim, codec.name, "auto")
    collection = Collection.create(folder, manifest, "cpu")
    return Bench(encoder, codec, Searcher(codec, encoder.tokenize, max_token_lists_bytes), collection)


class Expected(NamedTuple):
    """What a definition says about one document of the pool."""

    score: float
    id: str
    text: str
    cosine: float | None
    bm25: float | None
    distance: float | None


def by_definition(bench: Bench, query: EncodedText, options: SearchOptions) -> list[Expected]:
    """Rank every candidate with a plain loop, solving every transport problem."""
    options = options.at(bench.collection.lexical.length_ratio(query.text))
    with bench.collection.view() as view:
        rows = view.rows()
        documents = view.documents(rows.tolist())
        words = LexicalIndex()
        words.add(rows, [documents[row].text for row in rows.tolist()])
        allowed = view.matching(options.conditions) if options.conditions else rows
        bm25 = dict(zip(rows.tolist(), words.scores_for(query.text, rows).tolist(), strict=True))
        cosine = {row: float(np.dot(view.sentences([row])[0], query.sentence)) for row in rows.tolist()}
        packed = {row: view.tokens([row])[1][0] for row in rows.tolist()}
    count = max(options.top_k, options.candidates)
    by_vector = sorted(allowed.tolist(), key=lambda row: (-np.float32(cosine[row]), row))[:count]
    by_words = sorted((row for row in allowed.tolist() if bm25[row] > 0), key=lambda row: (-bm25[row], row))[:count]
    if options.scope == "corpus":
        pool = allowed.tolist()
    elif options.retrieve == "vector":
        pool = by_vector
    elif options.retrieve == "lexical":
        pool = by_words
    else:
        shares: dict[int, float] = {}
        for ranking in (by_vector, by_words):
            for rank, row in enumerate(ranking, start=1):
                shares[row] = shares.get(row, 0.0) + 1 / (60 + rank)
        pool = sorted(shares, key=lambda row: (-shares[row], row))[:count]
    ranked = []
    for row in pool:
        is_worded = options.retrieve != "vector"
        has_cosine = not (options.retrieve == "lexical" and options.rerank == "none")
        ceiling = words.ask(query.text).ceiling
        lexical = bm25[row] / ceiling if ceiling > 0 else 0.0
        if options.scope == "pool":  # of whole collections no text is read
            window = float(words.ask(query.text).windows_of([documents[row].text])[0])
            lexical = (1 - options.window_weight) * lexical + options.window_weight * window
        if not is_worded:
            first = cosine[row]
        elif not has_cosine:
            first = lexical
        else:
            first = (1 - options.lexical_weight) * cosine[row] + options.lexical_weight * lexical
        distance = None
        score = first
        if options.rerank != "none":
            distance = transport.distance(query.tokens, bench.codec.unpack([packed[row]]).tokens(0), options.rerank)
            similarity = 1 - distance if options.rerank == "wrd" else 1 / (1 + distance)
            score = (1 - options.weight) * first + options.weight * similarity
        ranked.append(
            Expected(
                score,
                documents[row].id,
                documents[row].text,
                cosine[row] if has_cosine else None,
                bm25[row] if is_worded else None,
                distance,
            )
        )
    return sorted(ranked, key=lambda each: (-each.score, each.id))


def assert_equal(bench: Bench, query: EncodedText, answer: Answer, options: SearchOptions) -> None:
    """Compare an answer with the loop: order, scores, parts and certificate."""
    expected = by_definition(bench, query, options)
    by_id = {each.id: each for each in expected}
    best = [by_id[hit.document.id] for hit in answer.hits]
    assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)
    # Scores of different texts may agree to the last bits but one; equal texts tie, and ties break by id.
    assert [each.score for each in best] == pytest.approx([each.score for each in expected[: options.top_k]], abs=1e-6)
    for text in {each.text for each in best}:
        found = [each.id for each in best if each.text == text]
        assert found == sorted(each.id for each in expected if each.text == text)[: len(found)]
    for hit, each in zip(answer.hits, best, strict=True):
        assert hit.score == pytest.approx(each.score, abs=1e-5)
        assert hit.document.metadata == {"size": len(hit.document.text)}
        for found, wanted in ((hit.cosine, each.cosine), (hit.bm25, each.bm25), (hit.distance, each.distance)):
            assert found == (None if wanted is None else pytest.approx(wanted, abs=1e-4, rel=1e-5))
        assert (hit.alignment is not None) == (options.explain and options.rerank != "none")
    assert not answer.is_partial
    certificate = answer.certificate
    if options.rerank == "none" or not expected:
        assert certificate is None
        return
    assert certificate is not None
    assert certificate.exact
    assert certificate.solved + certificate.pruned == len(expected)
    assert certificate.solved >= len(best)
    assert certificate.kth == answer.hits[-1].score
    assert (certificate.next_bound is None) == (certificate.pruned == 0)
    if certificate.next_bound is not None:
        assert certificate.next_bound <= certificate.kth + 1e-9


@pytest.mark.parametrize("kind", ["static", "hidden"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_search_equals_the_plain_loop(encoders: dict[str, Encoder], kind: str, data: st.DataObject) -> None:
    """Whatever is asked of whatever documents, hits, scores, their parts and the certificate are what the definitions say."""
    folder = Path(tempfile.mkdtemp())
    bench = new_bench(encoders[kind], folder / "faq")
    try:
        corpus = data.draw(corpora, label="corpus")
        half = len(corpus) // 2
        bench.add(dict(list(corpus.items())[:half]))
        bench.add(corpus)  # the first half is replaced: its rows are gone
        for wanted in data.draw(st.lists(options, min_size=4, max_size=4), label="options"):
            queries = data.draw(st.lists(readable, min_size=1, max_size=3), label="queries")
            encoded = bench.read(queries)
            answers = bench.searcher.search(bench.collection, encoded, wanted, Deadline(), Timings())
            for query, answer in zip(encoded, answers, strict=True):
                assert_equal(bench, query, answer, wanted)
    finally:
        bench.collection.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize("retrieve", ["vector", "lexical", "hybrid"])
@pytest.mark.parametrize("rerank", ["wrd", "wmd", "none"])
@pytest.mark.parametrize("scope", ["pool", "corpus"])
def test_equal_texts_are_ordered_by_id(bench: Bench, retrieve: Any, rerank: Any, scope: Any) -> None:
    """Ties break by id, also at the border of the results and whatever order the documents came in."""
    names = [f"{i:03}" for i in np.random.default_rng(0).permutation(70)]
    for start in (0, 30, 31):
        bench.add(dict.fromkeys(names[start : start + 30], "花呗怎么还款"))
    bench.add(dict.fromkeys(names[60:], "花呗怎么还款"))
    bench.add({"other": "怎么还款"})
    wanted = replace(ALL, retrieve=retrieve, rerank=rerank, scope=scope, top_k=70, explain=False)
    hits = bench.search(["花呗怎么还款"], wanted)[0].hits
    assert [hit.document.id for hit in hits] == [f"{i:03}" for i in range(70)]
    assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize("retrieve", ["vector", "lexical", "hybrid"])
@pytest.mark.parametrize("rerank", ["wrd", "wmd", "none"])
@pytest.mark.parametrize("scope", ["pool", "corpus"])
def test_nothing_to_find_is_no_error(bench: Bench, retrieve: Any, rerank: Any, scope: Any) -> None:
    """An empty collection, a filter that nothing passes and words that nobody uses give no hits."""
    wanted = replace(ALL, retrieve=retrieve, rerank=rerank, scope=scope)
    assert [answer.hits for answer in bench.search(["花呗", "还款"], wanted)] == [[], []]
    bench.add({"a": "花呗", "b": "还款"})
    nothing = replace(wanted, conditions=tuple(parse_filter({"size": "x"}, 9)))
    assert [answer.hits for answer in bench.search(["花呗", "还款"], nothing)] == [[], []]
    strange = bench.search(["。"], wanted)[0].hits  # punctuation is no term
    assert len(strange) == (0 if retrieve == "lexical" and scope == "pool" else 2)
    bench.collection.delete(["a", "b"])
    assert bench.search(["花呗"], wanted)[0].hits == []


@pytest.mark.parametrize("measure", ["wrd", "wmd"])
@pytest.mark.parametrize("kind", ["static", "hidden"])
def test_an_alignment_is_a_plan_over_the_original_texts(
    encoders: dict[str, Encoder], kind: str, measure: Any, tmp_path: Path
) -> None:
    """Its marginals are the masses of both texts, its cost is the distance, and its spans are pieces of the originals."""
    bench = new_bench(encoders[kind], tmp_path / "faq")
    corpus = {str(i): text for i, text in enumerate([*TEXTS, "我 想要\t查询😀快递，物流", "ＡＢ花呗１"])}
    bench.add(corpus)
    query = bench.read(["怎么😀还 款，花"])[0]
    wanted = replace(ALL, retrieve="vector", rerank=measure, top_k=50)
    hits = bench.searcher.search(bench.collection, [query], wanted, Deadline(), Timings())[0].hits
    assert len(hits) == len(corpus)
    for hit in hits:
        alignment = hit.alignment
        assert alignment is not None
        for text, spans in ((query.text, alignment.query_tokens), (hit.document.text, alignment.text_tokens)):
            assert all(piece == text[start:end] != "" for piece, start, end in spans)
            assert [start for _, start, _ in spans] == sorted(start for _, start, _ in spans)
        stored = bench.encoder.encode(bench.encoder.tokenize([hit.document.text]))
        tokens = bench.codec.unpack(bench.codec.pack(stored)).tokens(0)
        matrix = np.zeros((len(alignment.query_tokens), len(alignment.text_tokens)))
        costs = np.zeros_like(matrix)
        for i, j, mass, cost in alignment.plan:
            assert mass > 0
            matrix[i, j], costs[i, j] = mass, cost
        for axis, text, vectors, spans in (
            (1, query.text, query.tokens, alignment.query_tokens),
            (0, hit.document.text, tokens, alignment.text_tokens),
        ):
            pieces = token_spans(text, bench.encoder.tokenize([text])[0])
            masses = dict.fromkeys((start, end) for _, start, end in spans)  # of words, by where they stand
            found = [
                sum(
                    mass
                    for mass, (_, a, b) in zip(transport.masses(vectors, measure), pieces, strict=True)
                    if start <= a < b <= end
                )
                for start, end in masses
            ]
            assert np.allclose(matrix.sum(axis), found, atol=1e-6)
        assert alignment.matched + alignment.unmatched == pytest.approx(1.0)
        assert (matrix * costs).sum() == pytest.approx(hit.distance, abs=1e-6)
    bench.collection.close()


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["花", "呗"], ["花", "呗"]),
        (["ali", "pay", "花", "呗"], ["alipay", "花", "呗"]),
        (["4", "g", "网", "络", "ok"], ["4g", "网", "络", "ok"]),
        (["ab", " ", "cd"], ["ab", "cd"]),
        (["a", ".", "b"], ["a", ".", "b"]),
        (["카", "드", "カ", "ー", "ด", "ก"], ["카드", "カ", "ー", "ด", "ก"]),
        ([], []),
    ],
)
def test_pieces_of_a_word_are_one_token(pieces: list[str], words: list[str]) -> None:
    """What touches within a word of letters and digits is joined; Chinese characters stay apart, and white space separates."""
    ends = np.cumsum([0, *map(len, pieces)]).tolist()
    spans: list[Span] = [
        (piece, start, start + len(piece)) for piece, start in zip(pieces, ends, strict=False) if piece.strip()
    ]
    starts = word_starts(spans).tolist()
    joined = ["".join(piece for piece, _, _ in spans[a:b]) for a, b in zip(starts, [*starts[1:], None], strict=False)]
    assert joined == words


def test_what_found_nothing_like_it_is_unmatched() -> None:
    """Of two tokens with equal mass one is met again and one stands at a right angle: half of the mass is matched."""
    query, text = np.eye(3, dtype=np.float32)[[0, 1]], np.eye(3, dtype=np.float32)[[0, 2]]
    spans: list[Span] = [("花", 0, 1), ("呗", 1, 2)]
    for measure in ("wrd", "wmd"):
        found = align(spans, query, spans, text, measure)
        assert (found.matched, found.unmatched) == (0.5, 0.5)
        assert [pair[:3] for pair in found.plan] == [(0, 0, 0.5), (1, 1, 0.5)]
    nothing = align(spans, query, spans, np.zeros((2, 3), np.float32), "wrd")
    assert (nothing.plan, nothing.matched, nothing.unmatched) == ([], 0.0, 0.0)


@pytest.mark.parametrize("rerank", ["wrd", "wmd", "none"])
def test_after_the_deadline_the_answer_is_partial(bench: Bench, rerank: Any) -> None:
    """A deadline that has passed gives the best that is known so far and says so; nothing is raised."""
    bench.add({str(i): text for i, text in enumerate(TEXTS)})
    wanted = replace(ALL, rerank=rerank, top_k=4)
    answer = bench.search(["花呗还款"], wanted, seconds=-1.0)[0]
    assert len(answer.hits) == 4
    assert answer.is_partial == (rerank != "none")
    if rerank != "none":
        assert answer.certificate is not None
        assert not answer.certificate.exact
        assert (answer.certificate.solved, answer.certificate.pruned) == (0, len(TEXTS))
        assert all(hit.distance is None for hit in answer.hits)
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)


def test_searches_during_upserts_see_one_version(bench: Bench) -> None:
    """While a batch replaces all documents again and again, the hits of an answer are of one version and complete."""
    names = [f"d{i}" for i in range(9)]
    bench.add(dict.fromkeys(names, TEXTS[0]))
    query = bench.read(["花呗怎么还款"])
    is_done = threading.Event()
    faults: list[BaseException] = []
    seen: list[tuple[int, int]] = []

    def look() -> None:
        wanted = [replace(ALL, retrieve=retrieve) for retrieve in ("vector", "hybrid")]
        try:
            while not is_done.is_set():
                for each in wanted:
                    answer = bench.searcher.search(bench.collection, query, each, Deadline(), Timings())[0]
                    seen.append((len(answer.hits), len({hit.document.text for hit in answer.hits})))
        except BaseException as error:
            faults.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(25):
        bench.add(dict.fromkeys(names, TEXTS[version % 5]))
    is_done.set()
    for reader in readers:
        reader.join(PATIENCE_S)
    assert not faults
    assert set(seen) == {(9, 1)}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(readable, readable), min_size=1, max_size=3))
def test_pairs_are_compared_by_definition(encoder: Encoder, pairs: list[tuple[str, str]]) -> None:
    """Cosine, wrd and wmd of a pair are those of its vectors; what was not asked for is left out."""
    tokenized = [encoder.tokenize(list(pair)) for pair in pairs]
    encoded = [encoded_texts(pair, each, encoder.encode(each)) for pair, each in zip(pairs, tokenized, strict=True)]
    given_pairs = [(first, second) for first, second in encoded]
    for measures in (["cosine"], ["wmd"], ["cosine", "wrd", "wmd"]):
        compared = [compare(*pair, measures, explain=True) for pair in given_pairs]
        for (first, second), found in zip(given_pairs, compared, strict=True):
            wanted = {
                "cosine": min(max(float(first.sentence @ second.sentence), -1.0), 1.0),
                "wrd": transport.distance(first.tokens, second.tokens, "wrd"),
                "wmd": transport.distance(first.tokens, second.tokens, "wmd"),
            }
            for measure, value in wanted.items():
                assert getattr(found, measure) == (value if measure in measures else None)
            assert (found.alignment is None) == (measures == ["cosine"])
            assert found.is_truncated == (len(first.text) > 46 or len(second.text) > 46)


def test_defaults_are_those_of_the_card(encoder: Encoder) -> None:
    """A card names them; without one vectors are searched and transport counts half."""
    found, none = SearchDefaults.of_card(encoder.card), SearchDefaults.of_card({})
    assert (found.retrieve, found.weight, found.lexical_weight) == ("hybrid", 0.6, 0.3)
    assert (none.retrieve, none.weight, none.lexical_weight) == ("vector", 0.5, 0.0)


def test_timings_add_up() -> None:
    """Stages are not negative, what waited is part of the encoding, and the total is no less than their sum."""
    timings = Timings()
    timings.lap_encoding(waited_s=1e9)
    timings.lap("rerank")
    timings.lap("rerank")
    took = timings.total()
    assert list(took) == ["queue", "encode", "rerank", "total"]
    assert min(took.values()) >= 0.0
    assert took["encode"] == 0.0  # all of it was waiting
    assert took["total"] >= took["queue"] + took["encode"] + took["rerank"] - 0.01
