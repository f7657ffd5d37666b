"""`"scope": "corpus"` and token lists: whatever changed before, the best of a whole collection equal solving everything."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import CHARACTERS
from models import transport
from models.deadline import Deadline
from models.encoder import Encoder
from models.token_codec import TokenIds, token_codec
from service.alignment import encoded_texts
from service.collections import Collection
from service.documents import Document, Vectors, new_manifest
from service.errors import InvalidRequest
from service.filters import parse_filter
from service.search import Answer, Searcher, SearchOptions
from service.timings import Timings
from service.token_lists import ListsTooLarge, TokenListCache, TokenLists

WHOLE = SearchOptions(10, 100, "vector", "wrd", 1.0, 0.0, "corpus", (), False)
QUERY = "花呗怎么还款"


class Faq:
    """A collection of made texts, and what a search over it must find."""

    def __init__(self, encoder: Encoder, folder: Path, budget_bytes: int) -> None:
        self.encoder, self.codec = encoder, token_codec(encoder)
        manifest = new_manifest(encoder.fingerprint, encoder.dim, self.codec.name, "auto")
        self.collection = Collection.create(folder, manifest, "cpu")
        self.searcher = Searcher(self.codec, encoder.tokenize, budget_bytes)
        self.texts: dict[str, str] = {}
        self.stored: dict[str, tuple[np.ndarray, bytes]] = {}  # a text in another batch may be rounded otherwise

    def add(self, texts: dict[str, str]) -> None:
        encoded = self.encoder.encode(self.encoder.tokenize(list(texts.values())))
        documents = [Document(id, text, {"size": len(text)}) for id, text in texts.items()]
        packed = self.codec.pack(encoded)
        self.collection.upsert(documents, Vectors(encoded.sentences, packed))
        self.texts |= texts
        self.stored |= dict(zip(texts, zip(encoded.sentences, packed, strict=True), strict=True))

    def delete(self, ids: list[str]) -> None:
        self.collection.delete(ids)
        for id in ids:
            del self.texts[id]

    def search(self, wanted: SearchOptions, seconds: float = 1_000.0) -> Answer:
        tokenized = self.encoder.tokenize([QUERY])
        query = encoded_texts([QUERY], tokenized, self.encoder.encode(tokenized))
        return self.searcher.search(self.collection, query, wanted, Deadline(time.monotonic() + seconds), Timings())[0]

    def expected(self, wanted: SearchOptions) -> list[tuple[float, str]]:
        """Score and id of every document that a filter on its size lets through, by solving everything, best first."""
        texts = {id: text for id, text in self.texts.items() if not wanted.conditions or len(text) >= 6}
        query = self.encoder.encode(self.encoder.tokenize([QUERY]))
        stored = self.codec.unpack([self.stored[id][1] for id in texts])
        weights: list[Any] = [None] * (1 + len(texts))
        if wanted.masses in ("norm", "uniform"):
            vectors = [query.tokens[0], *(stored.tokens(i) for i in range(len(texts)))]
            weights = [transport.token_weights(each, wanted.masses) for each in vectors]
        elif wanted.masses == "idf":
            listed = [text.inner_ids for text in self.encoder.tokenize([QUERY, *texts.values()])]
            size = int(max(max(ids, default=0) for ids in listed)) + 1
            frequencies = np.zeros(size, np.int64)
            for text in self.encoder.tokenize(list(self.texts.values())):
                for token in set(text.inner_ids.tolist()):
                    frequencies[token] += 1
            rarity = np.log1p((len(self.texts) - frequencies + 0.5) / (frequencies + 0.5))
            weights = [rarity[ids] for ids in listed]
        measure: Any = wanted.rerank
        scores = []
        for i, id in enumerate(texts):
            distance = transport.distance(query.tokens[0], stored.tokens(i), measure, weights[0], weights[i + 1])
            cosine = float(self.stored[id][0] @ query.sentences[0])
            scores.append((1 - wanted.weight) * cosine + wanted.weight * float(transport.similarity(distance, measure)))
        return sorted(zip(scores, texts, strict=True), key=lambda each: (-each[0], each[1]))


def made(count: int, seed: int) -> dict[str, str]:
    """Texts of 1 to 12 characters; the query is one of the first, and some occur more than once."""
    random = np.random.default_rng(seed)
    letters = np.array(list(CHARACTERS[:36]))
    texts = {f"{seed}-{i}": "".join(random.choice(letters, random.integers(1, 13))) for i in range(count)}
    same = list(texts.values())[: count // 10]
    return texts | {f"{seed}-again-{i}": text for i, text in enumerate(same)} | {f"{seed}-q": QUERY}


def assert_best(faq: Faq, wanted: SearchOptions) -> Answer:
    """The answer is exact and is that of solving everything."""
    answer, expected = faq.search(wanted), faq.expected(wanted)
    assert [hit.score for hit in answer.hits] == pytest.approx(
        [score for score, _ in expected[: wanted.top_k]], abs=1e-6
    )
    by_id = {id: score for score, id in expected}
    for hit in answer.hits:
        assert hit.score == pytest.approx(by_id[hit.document.id], abs=1e-6)
    for before, after in zip(answer.hits, answer.hits[1:], strict=False):
        assert (-before.score, before.document.id) < (-after.score, after.document.id)
    certificate = answer.certificate
    assert certificate is not None
    assert certificate.exact
    assert certificate.solved + certificate.pruned == len(expected)
    return answer


@pytest.fixture(name="faq", params=["static", "static without memory", "hidden"])
def _faq(request: pytest.FixtureRequest, encoder: Encoder, bert_folder: Path, tmp_path: Path) -> Iterator[Faq]:
    chosen = Encoder(bert_folder, "cpu", pooling="mean") if request.param == "hidden" else encoder
    faq = Faq(chosen, tmp_path / "faq", 0 if request.param == "static without memory" else 1 << 20)
    yield faq
    faq.collection.close()


@pytest.mark.parametrize("rerank", ["wrd", "wmd"])
def test_a_collection_that_changes_is_searched_whole(faq: Faq, rerank: Any) -> None:
    """After writes, replacements and deletions, with and without a filter and at any weight, the true best are found."""
    wanted = replace(WHOLE, rerank=rerank)
    filtered = replace(wanted, conditions=tuple(parse_filter({"size": {"gte": 6}}, 9)))
    faq.add(made(150, 1))
    assert_best(faq, wanted)
    assert_best(faq, filtered)
    faq.add(made(40, 2) | {id: "还" + text for id, text in list(faq.texts.items())[:30]})
    faq.delete(list(faq.texts)[40:90])
    for each in (wanted, filtered):
        for weight in (0.0, 0.2, 1.0):
            assert_best(faq, replace(each, weight=weight))
    assert_best(faq, replace(wanted, top_k=500))


@pytest.mark.parametrize("masses", ["norm", "uniform"])
@pytest.mark.parametrize("rerank", ["wrd", "wmd"])
def test_masses_that_need_no_frequencies(faq: Faq, rerank: Any, masses: Any) -> None:
    """Either measure moves shares of lengths or equal shares, in a pool as in the whole collection."""
    faq.add(made(60, 3))
    assert_best(faq, replace(WHOLE, rerank=rerank, masses=masses))
    assert_best(faq, replace(WHOLE, rerank=rerank, masses=masses, scope="pool", candidates=1_000))


@pytest.mark.parametrize("rerank", ["wrd", "wmd"])
def test_rare_tokens_weigh_more(encoder: Encoder, tmp_path: Path, rerank: Any) -> None:
    """Masses by idf count the documents that the collection has at that moment, also after deletions."""
    faq = Faq(encoder, tmp_path / "faq", 1 << 20)
    faq.add(made(80, 4))
    wanted = replace(WHOLE, rerank=rerank, masses="idf", explain=True)
    before = assert_best(faq, wanted).hits[0]
    faq.delete([id for id, text in faq.texts.items() if "还" in text and text != QUERY])
    faq.add(made(20, 5))
    assert_best(faq, wanted)
    assert_best(faq, replace(wanted, scope="pool", candidates=1_000))
    alignment, again = before.alignment, faq.search(wanted).hits[0].alignment
    assert alignment is not None
    assert again is not None
    weight_of = [
        sum(mass for i, _, mass, _ in each.plan if each.query_tokens[i][0] == "还") for each in (alignment, again)
    ]
    assert weight_of[1] > weight_of[0]  # fewer documents have it now
    faq.collection.close()


def test_idf_that_cannot_be_counted_is_refused(encoder: Encoder, bert_folder: Path, tmp_path: Path) -> None:
    """Without room for the lists the limit is named; contextual token vectors have no token ids."""
    wanted = replace(WHOLE, masses="idf", scope="pool")
    for name, chosen, words in (
        ("small", encoder, "max_token_lists_mb = 0"),
        ("hidden", Encoder(bert_folder, "cpu", pooling="mean"), "static token vectors"),
    ):
        faq = Faq(chosen, tmp_path / name, 0)
        faq.add(made(5, 6))
        with pytest.raises(InvalidRequest, match=words):
            faq.search(wanted)
        faq.collection.close()


def test_after_the_deadline_the_answer_says_what_is_proven(faq: Faq) -> None:
    """With no time left hits come by what is known, nothing is claimed, and no document can beat the bound that is given."""
    faq.add(made(50, 7))
    late = faq.search(replace(WHOLE, weight=0.5), seconds=-1.0)
    best = faq.expected(replace(WHOLE, weight=0.5))
    assert late.is_partial
    assert late.certificate is not None
    assert not late.certificate.exact
    assert (late.certificate.solved, late.certificate.pruned) == (0, len(best))
    assert late.certificate.next_bound is not None
    assert late.certificate.next_bound >= best[0][0]
    assert len(late.hits) == 10
    assert all(hit.distance is None for hit in late.hits)


def lists_of(faq: Faq, cache: TokenListCache, seconds: float = 1_000.0) -> TokenLists | None:
    """Token lists of the present documents."""
    with faq.collection.searching(), faq.collection.view() as view:
        rows = faq.collection.vectors.rows()
        return cache.read(faq.collection, view, rows, Deadline(time.monotonic() + seconds))


def new_cache(faq: Faq, budget_bytes: int = 1 << 20) -> TokenListCache:
    assert isinstance(faq.codec, TokenIds)
    return TokenListCache(faq.codec, budget_bytes)


def assert_lists(faq: Faq, lists: TokenLists | None) -> None:
    """Lists hold the tokens of the documents by row."""
    assert lists is not None
    with faq.collection.view() as view:
        assert lists.rows.tolist() == view.rows().tolist()
        texts = [view.documents([row])[row].text for row in lists.rows.tolist()]
    for i, text in enumerate(faq.encoder.tokenize(texts)):
        assert lists.ids[lists.offsets[i] : lists.offsets[i + 1]].tolist() == text.inner_ids.tolist()


def test_lists_follow_the_collection(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are those of the store after every change, read in however many pieces, with their frequencies."""
    monkeypatch.setattr("service.token_lists.READ_ROWS", 7)
    monkeypatch.setattr("service.token_lists.COUNTED_ROWS", 5)
    faq = Faq(encoder, tmp_path / "faq", 0)
    cache = new_cache(faq)
    assert_lists(faq, lists_of(faq, cache))
    faq.add(made(30, 8))
    vocabulary = len(cache._codec.table)
    for change in (
        lambda: faq.add(made(9, 9)),
        lambda: faq.delete(list(faq.texts)[5:12]),
        lambda: faq.add(dict.fromkeys(list(faq.texts)[:4], "花呗")),
    ):
        change()
        lists = lists_of(faq, cache)
        assert_lists(faq, lists)
        assert lists is not None
        counted = cache.frequencies(faq.collection, lists)
        assert counted.tolist() == lists.counted(vocabulary).tolist()
        kept = lists_of(faq, cache)
        assert kept is not None
        assert kept.rows is lists.rows  # nothing is read again
    faq.collection.close()


def test_what_the_deadline_left_is_read_next_time(encoder: Encoder, tmp_path: Path) -> None:
    """A deadline in the past reads nothing and breaks nothing; an older view than the lists' gets its own."""
    faq = Faq(encoder, tmp_path / "faq", 0)
    faq.add(made(20, 10))
    cache = new_cache(faq)
    assert lists_of(faq, cache, seconds=-1.0) is None
    with faq.collection.view() as old:
        rows = faq.collection.vectors.rows()
        faq.add(made(5, 11))
        faq.delete(list(faq.texts)[:3])
        found: list[TokenLists | None] = []
        other = threading.Thread(target=lambda: found.append(lists_of(faq, cache)))
        other.start()
        other.join(60)
        ours = cache.read(faq.collection, old, rows, Deadline(time.monotonic() + 60))
        assert ours is not None
        assert ours.rows.tolist() == rows.tolist()
    assert_lists(faq, found[0])
    assert_lists(faq, lists_of(faq, cache))
    faq.collection.close()


def test_lists_keep_to_their_budget(encoder: Encoder, tmp_path: Path) -> None:
    """What is too large is refused before it is read whole; of two that do not fit together the older goes."""
    one, two = (Faq(encoder, tmp_path / name, 0) for name in ("one", "two"))
    one.add(made(200, 12))
    two.add(made(200, 13))
    size = new_cache(one)
    lists = lists_of(one, size)
    assert lists is not None
    assert size.size_bytes == lists.size_bytes
    with pytest.raises(ListsTooLarge):
        lists_of(one, new_cache(one, lists.size_bytes // 2))
    cache = new_cache(one, lists.size_bytes * 3 // 2)
    for faq in (one, two, one):
        assert_lists(faq, lists_of(faq, cache))
        assert cache.size_bytes <= lists.size_bytes * 3 // 2
    for faq in (one, two):
        faq.collection.close()
