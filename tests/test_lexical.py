"""The lexical index agrees with BM25 written down with dictionaries, after anything that can happen to it."""

import math
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.training.vocabulary import simplified
from service import grams, lexical
from service.lexical import LexicalIndex
from service.question_words import asked_about, share_kept

K1, B = 1.2, 0.75
PLAIN = str.maketrans(simplified())
alphabet = st.sampled_from("花呗借还還款信用卡Aab1Ａ，。 \n①é😀\u0301\ud800𠮷")
texts = st.lists(alphabet, max_size=12).map("".join) | st.text(max_size=6)


def terms_of(text: str) -> Counter[str]:
    """The characters and pairs of a text, from the definition."""
    runs, run = [""], ""
    for character in unicodedata.normalize("NFKC", text).lower().translate(PLAIN):
        category = unicodedata.category(character)
        run = "" if category[0] in "ZP" or category in ("Cc", "Cf", "Cs") else run + character
        runs.append(run)
    return Counter([run[-1] for run in runs if run] + [run[-2:] for run in runs if len(run) > 1])


def rarity(counted: dict[int, Counter[str]]) -> dict[str, float]:
    """The idf of every term, from the definition; of an unseen one under the empty string."""
    frequency = Counter(term for terms in counted.values() for term in terms)
    frequency[""] = 0
    return {term: math.log(1 + (len(counted) - df + 0.5) / (df + 0.5)) for term, df in frequency.items()}


def looked_for(counted: dict[int, Counter[str]], query: str) -> dict[str, float]:
    """How often a term counts: as it occurs in the query, question words less where texts are long."""
    whole, content = terms_of(query), terms_of(asked_about(query))
    mean = max(1, sum(terms.total() for terms in counted.values())) / max(len(counted), 1)
    share = share_kept(mean / whole.total()) if counted and whole else 1.0
    counts = {term: times - (1 - share) * (times - content[term]) for term, times in whole.items()}
    return {term: times for term, times in counts.items() if times > 0}


def by_definition(counted: dict[int, Counter[str]], query: Mapping[str, float]) -> dict[int, float]:
    """The positive BM25 scores by row."""
    idf = rarity(counted)
    mean = sum(terms.total() for terms in counted.values()) / max(len(counted), 1)
    scores = {}
    for row, terms in counted.items():
        parts = [
            repeats * idf[term] * (K1 + 1) * terms[term] / (terms[term] + K1 * (1 - B + B * terms.total() / mean))
            for term, repeats in query.items()
            if term in terms
        ]
        if parts:
            scores[row] = sum(parts)
    return scores


def check(index: LexicalIndex, stored: dict[int, str], query: str, k: int, allowed: set[int] | None) -> None:
    """Compare search, scores_for and ceiling with the definition."""
    assert index.rows().tolist() == sorted(stored)
    assert len(index) == len(stored)
    counted = {row: terms_of(text) for row, text in stored.items()}
    terms = looked_for(counted, query)
    truth, idf = by_definition(counted, terms), rarity(counted)
    some = np.array([*reversed(sorted(stored)), 10**9], np.int64)
    scored = index.scores_for(query, some)
    assert np.allclose(scored, [truth.get(row, 0.0) for row in some.tolist()], rtol=1e-4, atol=1e-5)
    assert np.all((scored == 0) | (scored < index.ask(query).ceiling))
    most = sum(repeats * idf.get(term, idf[""]) * (K1 + 1) for term, repeats in terms.items())
    assert index.ask(query).ceiling == pytest.approx(most)
    chosen = None if allowed is None else np.array(sorted(allowed), np.int64)
    scores, rows = (result[0].tolist() for result in index.search([query], k, chosen))
    right = sorted((score for row, score in truth.items() if allowed is None or row in allowed), reverse=True)[:k]
    assert scores == pytest.approx(right + [-math.inf] * (k - len(right)), rel=1e-4, abs=1e-5)
    assert rows[len(right) :] == [-1] * (k - len(right))
    pairs = [(-score, row) for score, row in zip(scores, rows, strict=True)][: len(right)]
    assert pairs == sorted(set(pairs))
    assert all(row in truth and (allowed is None or row in allowed) for _, row in pairs)
    assert index.scores_for(query, np.array(rows)).tolist()[: len(right)] == scores[: len(right)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_sequence_of_writes_equals_the_definition(tmp_path: Path, data: st.DataObject) -> None:
    """Scores, order, filters and ceilings are those of the definition after adds, removes, upserts, merges and reloads."""
    index, stored, next_row = LexicalIndex(K1, B), dict[int, str](), 1
    for _ in range(data.draw(st.integers(1, 8))):
        action = data.draw(st.sampled_from(["add", "add", "add", "remove", "upsert", "maintain", "reload"]))
        if action == "maintain":
            while index.maintain():
                pass
        elif action == "reload":
            index.save(tmp_path / "index")
            index = LexicalIndex.load(tmp_path / "index")
        else:
            batch = [] if action == "remove" else data.draw(st.lists(texts, max_size=8))
            gone = set() if action == "add" else data.draw(st.sets(st.integers(0, next_row - 1), max_size=10))
            rows = next_row + np.arange(len(batch)) * data.draw(st.integers(1, 2))
            index.update(rows, batch, np.array(list(gone), np.int64))
            stored = {row: text for row, text in stored.items() if row not in gone}
            stored.update(zip(rows.tolist(), batch, strict=True))
            next_row = max([next_row, *(rows + 1).tolist()])
    query = data.draw(texts | st.sampled_from(sorted(stored.values()) or [""]))
    check(index, stored, query, data.draw(st.integers(1, 12)), data.draw(st.none() | st.sets(st.integers(0, next_row))))


def sentences(n: int, seed: int) -> list[str]:
    """Texts of frequent and rare characters; some are equal."""
    random = np.random.default_rng(seed)
    made = ["".join(chr(0x4E00 + int(c)) for c in random.zipf(1.3, random.integers(1, 25)) % 500) for _ in range(n)]
    return made[: n - n // 10] + made[: n // 10]


def test_many_segments_equal_the_definition(tmp_path: Path) -> None:
    """Thousands of texts in batches of every size, a third deleted: the same before and after merging and reloading."""
    index, made, stored = LexicalIndex(), sentences(3000, seed=1), dict[int, str]()
    sizes = [1500, 1, 2, 700, *[1] * 20, 300, 477]
    start = 0
    for size in sizes:
        rows = np.arange(start, start + size)
        index.apply(index.read(rows, made[start : start + size]), rows[::3] - 1)
        stored.update(zip(rows.tolist(), made[start : start + size], strict=True))
        for row in (rows[::3] - 1).tolist():
            stored.pop(row, None)
        start += size
    queries = ["", "的", made[0], made[-1], "".join(made[5:15]), "没有出现过𠮷"]
    everyone = set(range(0, 3000, 2))
    for allowed in (None, everyone, set(range(0, 3000, 50))):
        check(index, stored, made[7], 50, allowed)
    before = [index.search(queries, 30), index.search(queries, 2000, np.array(sorted(everyone)))]
    while index.maintain():
        pass
    index.save(tmp_path / "lexical.index")
    for same in (index, LexicalIndex.load(tmp_path / "lexical.index")):
        after = [same.search(queries, 30), same.search(queries, 2000, np.array(sorted(everyone)))]
        for (old_scores, old_rows), (new_scores, new_rows) in zip(before, after, strict=True):
            assert np.array_equal(old_rows, new_rows)
            assert np.array_equal(old_scores, new_scores)
        check(same, stored, made[7], 50, None)


def test_searches_see_whole_batches_beside_a_writer() -> None:
    """While a writer replaces batch after batch and merging runs, every search sees one whole batch."""
    size, rounds = 60, 60
    index, others = LexicalIndex(), sentences(2000, seed=2)
    index.add(np.arange(1, 2001), others)
    index.add(np.arange(3000, 3000 + size), ["龘靐"] * size)
    finished, failures = threading.Event(), list[str]()

    def read() -> None:
        while not finished.is_set():
            rows = index.search(["龘靐"], size + 5)[1][0]
            batches = {int(row) // 1000 for row in rows[:size]}
            if len(batches) != 1 or rows[size] != -1:
                failures.append(f"batches {batches}, then row {rows[size]}")

    def tend() -> None:
        while not finished.is_set():
            index.maintain()

    threads = [threading.Thread(target=target) for target in (read, read, tend)]
    for thread in threads:
        thread.start()
    for batch in range(4, 4 + rounds):
        present = np.arange(1000 * (batch - 1), 1000 * (batch - 1) + size)
        index.update(present + 1000, ["龘靐"] * size, present)
    finished.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(index) == 2000 + size


def test_forms_of_one_character_are_one_term() -> None:
    """Full-width and capital letters match plain ones; punctuation and white space match nothing; symbols match."""
    index = LexicalIndex()
    index.add(np.array([1, 2, 3]), ["ＡＢＣ 公司", "花呗，还款", "😀"])
    assert index.search(["abc", "，  。", "呗还", "😀"], 1)[1].tolist() == [[1], [-1], [2], [3]]
    assert index.ask("， 。").ceiling == 0


def test_a_very_long_text_is_indexed() -> None:
    """A text of millions of characters, and batches that are cut into several segments, are found."""
    index, long = LexicalIndex(), "长" * 4_500_000
    index.add(np.array([1, 2, 3]), ["长", long, "短"])
    assert sorted(index.search(["长长"], 3)[1][0].tolist()) == [-1, 1, 2]
    index.maintain()
    assert index.search(["短"], 2)[1].tolist() == [[3, -1]]


def test_bad_calls_are_refused() -> None:
    """Rows that do not ascend, or whose number is wrong, k below 1 and senseless parameters raise ValueError."""
    index = LexicalIndex()
    index.add(np.array([5]), ["花"])
    for rows, batch in [([5], ["呗"]), ([7, 6], ["花", "呗"]), ([8], ["花", "呗"])]:
        with pytest.raises(ValueError, match="rows"):
            index.add(np.array(rows), batch)
    with pytest.raises(ValueError, match="k must be positive"):
        index.search(["花"], 0)
    with pytest.raises(ValueError, match="k1"):
        LexicalIndex(b=0)
    assert index.rows().tolist() == [5]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Truncated, altered, foreign and empty files raise ValueError; the whole file loads."""
    index = LexicalIndex()
    index.add(np.arange(100), sentences(100, seed=3))
    index.save(tmp_path / "good")
    raw = (tmp_path / "good").read_bytes()
    random = np.random.default_rng(4)
    places = [*range(0, 60, 7), *random.integers(0, len(raw), 20).tolist(), len(raw) - 1]
    altered = [raw[:place] + bytes([raw[place] ^ 0x41]) + raw[place + 1 :] for place in places]
    truncated = [raw[:length] for length in (0, 1, 11, 12, 100, len(raw) // 2, len(raw) - 1)]
    for content in [*altered, *truncated, raw + b"\0", random.bytes(5000)]:
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match="bad"):
            LexicalIndex.load(tmp_path / "bad")
    assert len(LexicalIndex.load(tmp_path / "good")) == 100


def test_a_traditional_text_is_found_by_a_simplified_query() -> None:
    """Both spellings have the same terms, so they are as similar as equal texts."""
    index = LexicalIndex()
    index.add(np.arange(2, dtype=np.int64), ["信用卡還款", "圖書館幾點開門"])
    (score, _), (row, _) = (part[0] for part in index.search(["图书馆几点开门"], 2))
    assert row == 1
    assert score == index.search(["圖書館幾點開門"], 1)[0][0, 0]


def test_terms_and_tokens_read_traditional_characters_alike() -> None:
    """The lexical index folds the characters that the bundled tokenizer's normaliser folds."""
    traditional, plain = (Path(grams.__file__).with_name("traditional.txt")).read_text(encoding="utf-8").split()
    assert dict(zip(traditional, plain, strict=True)) == simplified()


def test_an_index_of_other_terms_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that another version of the terms wrote is not read: the index is made anew from the store."""
    index = LexicalIndex()
    index.add(np.arange(1, dtype=np.int64), ["花呗"])
    monkeypatch.setattr("service.lexical.VERSION", 1)
    index.save(tmp_path / "old")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="other terms"):
        LexicalIndex.load(tmp_path / "old")


@pytest.mark.parametrize("few", [2, 1_000])
@settings(max_examples=60, deadline=None)
@given(
    corpus=st.lists(st.text("花呗还款怎么ab ", max_size=8), min_size=1, max_size=12),
    query=st.text("花呗还款怎么ab ", max_size=8),
    k=st.integers(1, 5),
    data=st.data(),
)
def test_what_was_computed_serves_the_next_question(
    few: int, corpus: list[str], query: str, k: int, data: st.DataObject
) -> None:
    """Scores, ceiling and length after the best were asked for are, to the last bit, those of asking for them alone."""
    index = LexicalIndex()
    for row, text in enumerate(corpus):
        index.add(np.array([2 * row]), [text])
    index.remove(np.array(data.draw(st.lists(st.sampled_from(range(0, 2 * len(corpus), 2)), max_size=3)), np.int64))
    allowed = data.draw(st.none() | st.lists(st.sampled_from(range(2 * len(corpus))), unique=True).map(sorted))
    rows = np.array(data.draw(st.lists(st.sampled_from(range(2 * len(corpus) + 2)), unique=True)), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.lexical_query._FEW_ROWS", few)
        asked = index.ask(query)
        best = asked.best(k, None if allowed is None else np.array(allowed, np.int64))
        found = index.search([query], k, None if allowed is None else np.array(allowed, np.int64))
        assert found[1][0][: len(best[1])].tolist() == best[1].tolist()
        assert found[0][0][: len(best[0])].tolist() == best[0].tolist()
        for _ in range(2):
            assert asked.scores_for(rows).tolist() == index.scores_for(query, rows).tolist()
        assert asked.ceiling == index.ask(query).ceiling
        assert asked.length_ratio == index.length_ratio(query)


def test_a_delete_beside_a_merge_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While segments are merged on the side, a delete does not merge them, too."""
    index, merge = LexicalIndex(), lexical.merge

    def texts_from(start: int, count: int) -> list[str]:
        generator = np.random.default_rng(start)
        return ["".join(chr(0x4E00 + c) for c in generator.integers(0, 3_000, 10)) for _ in range(count)]

    def meanwhile(change: Callable[[], None]) -> None:
        def merging(segments: list[Any]) -> Any:
            monkeypatch.setattr(lexical, "merge", merge)
            change()
            return merge(segments)

        monkeypatch.setattr(lexical, "merge", merging)

    index.add(np.arange(1_000), texts_from(0, 1_000))
    index.remove(np.arange(300))
    meanwhile(lambda: index.add(np.arange(1_000, 1_400), texts_from(1, 400)))
    assert index.maintain()
    meanwhile(lambda: index.remove(np.array([1_000])))
    while index.maintain():
        pass
    assert index.rows().tolist() == [*range(300, 1_000), *range(1_001, 1_400)]
