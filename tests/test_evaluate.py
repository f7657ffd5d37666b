"""The evaluation program agrees with definitions, with scipy, and on tiny files with what can be worked out by hand."""

import itertools
import json
import lzma
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from models.encoder import Encoder
from models.fusion import SharesByLength
from models.transport import distance
from scripts.evaluate import default_model, main, parser
from scripts.evaluation.floors import Bm25, TfIdf, grams
from scripts.evaluation.measures import judge, mean, spearman
from scripts.evaluation.searching import FileSearch, Setting
from scripts.evaluation.tasks import Task, among, group_task, question_task, read_task
from tests.conftest import write_bert

TEXTS = [
    "怎么还花呗",
    "花呗如何还款",
    "银行卡密码忘记了",
    "图书馆开门时间",
    "退货怎么办理",
    "快递在哪里查询",
    "我想换成绩单",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny model folder with random weights."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    write_bert(path)
    return path


def write_files(folder: Path) -> list[str]:
    """Write a search of seven texts and give its command line."""
    (folder / "corpus.tsv").write_text("".join(f"t{row}\t{text}\n" for row, text in enumerate(TEXTS)), encoding="utf-8")
    (folder / "queries.tsv").write_text("q0\t花呗怎么还款\nq1\t密码忘记\nq2\t无关\n", encoding="utf-8")
    with lzma.open(folder / "qrels.tsv.xz", "wt", encoding="utf-8") as file:
        file.write("q0\tt0\t1\nq0\tt1\t1\nq0\tt4\t0\nq1\tt2\t1\nq2\tt3\t0\n")
    names = {"corpus": "corpus.tsv", "queries": "queries.tsv", "qrels": "qrels.tsv.xz"}
    return [part for name, file in names.items() for part in (f"--{name}", str(folder / file))]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """Run the program and read its one JSON line."""
    main([*arguments, "--json"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return dict(json.loads(lines[0]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=20))
def test_spearman_agrees_with_scipy(rows: list[tuple[int, int]]) -> None:
    """Rank correlation equals scipy's, ties included; NaN where a side is constant."""
    scores, labels = zip(*rows, strict=True)
    if len(set(scores)) == 1 or len(set(labels)) == 1:
        assert math.isnan(spearman(scores, labels))
    else:
        assert spearman(scores, labels) == pytest.approx(float(spearmanr(scores, labels).statistic), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(
    st.permutations(list("abcdefghijklmno")),
    st.dictionaries(st.sampled_from("abcdefghijklmnoz"), st.integers(0, 3), min_size=1),
)
def test_judgement_follows_the_definitions(ranking: Sequence[str], relevance: dict[str, int]) -> None:
    """Recall, MRR and nDCG equal a loop over the ranked list."""
    relevant = [name for name, grade in relevance.items() if grade]
    if not relevant:
        with pytest.raises(ValueError, match="relevant"):
            judge(ranking, {})
        return
    found = judge(ranking, {name: float(grade) for name, grade in relevance.items()})
    assert found["recall@1"] == (ranking[0] in relevant) / len(relevant)
    assert found["recall@10"] == len(set(ranking[:10]) & set(relevant)) / len(relevant)
    assert found["success@1"] == float(ranking[0] in relevant)
    assert found["mrr@10"] == max(
        (1 / (ranking[:10].index(name) + 1) for name in relevant if name in ranking[:10]), default=0.0
    )
    gain = sum(relevance.get(name, 0) / math.log2(place + 2) for place, name in enumerate(ranking[:10]))
    best = sum(
        grade / math.log2(place + 2) for place, grade in enumerate(sorted(relevance.values(), reverse=True)[:10])
    )
    assert found["ndcg@10"] == pytest.approx(gain / best)


def test_means_are_percentages() -> None:
    """Judgements are averaged over queries and multiplied by 100."""
    assert mean([{"mrr@10": 1.0}, {"mrr@10": 0.5}]) == {"mrr@10": 75.0}
    assert mean([]) == {}


def test_tfidf_knows_shared_grams() -> None:
    """A text is fully similar to itself, not at all to one without common n-grams, and white space and case do not count."""
    floor = TfIdf(TEXTS, 2)
    assert floor.similarity(TEXTS[0], TEXTS[0]) == pytest.approx(1.0)
    assert floor.similarity(TEXTS[0], TEXTS[3]) == 0.0
    assert grams("Ａ b", 2) == ["ab"]
    assert grams("花", 2) == ["花"]
    assert grams("  ", 2) == []


def test_bm25_equals_its_formula() -> None:
    """The score is the sum over the query's n-grams of Lucene's idf times the saturated count."""
    texts, query = ["花花呗", "花呗还款", "还款"], "花呗"
    length = np.mean([len(text) for text in texts])
    for row, score in enumerate(Bm25(texts, 1).scores(query)):
        expected = 0.0
        for gram in query:
            frequency, count = sum(gram in text for text in texts), texts[row].count(gram)
            idf = math.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
            expected += idf * 2.2 * count / (count + 1.2 * (0.25 + 0.75 * len(texts[row]) / length))
        assert score == pytest.approx(expected)


def test_queries_without_a_relevant_text_are_not_asked(tmp_path: Path) -> None:
    """A query whose judgements are all 0, or that has none, is left out; --limit keeps evenly spread ones."""
    write_files(tmp_path)
    files = (tmp_path / "corpus.tsv", tmp_path / "queries.tsv", tmp_path / "qrels.tsv.xz")
    assert list(read_task(*files, limit=None).queries) == ["q0", "q1"]
    assert list(read_task(*files, limit=1).queries) == ["q0"]


def test_a_question_search_is_made_of_pairs(tmp_path: Path) -> None:
    """The left text of a positive pair asks for the right one among all right texts."""
    (tmp_path / "pairs.tsv").write_text("一\t甲\t1\n二\t乙\t0\n一\t丙\t1\n", encoding="utf-8")
    task = question_task(tmp_path / "pairs.tsv", None)
    assert list(task.corpus.values()) == ["甲", "乙", "丙"]
    assert task.queries == {"0": "一"}
    assert task.relevance == {"0": {"0": 1.0, "2": 1.0}}


def test_sts_reports_spearman_per_file_and_measure(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reported number is 100 times Spearman of the measure, and fused is the weighted sum of cosine and 1 − WRD."""
    file = tmp_path / "sts.tsv"
    rows = [(one, other, place % 3) for place, (one, other) in enumerate(itertools.pairwise(TEXTS))]
    file.write_text("".join(f"{a}\t{b}\t{label}\n" for a, b, label in rows), encoding="utf-8")
    found = answer(
        capsys,
        "sts",
        str(file),
        "--model",
        str(folder),
        "--device",
        "cpu",
        "--measure",
        "cosine",
        "fused",
        "--weight",
        "0.25",
    )
    encoder = Encoder(folder, device="cpu")
    encoded = encoder.encode(encoder.tokenize(TEXTS))
    labels = [label for _, _, label in rows]
    cosine = [float(encoded.sentences[row] @ encoded.sentences[row + 1]) for row in range(len(rows))]
    transport = [1 - distance(encoded.tokens[row], encoded.tokens[row + 1], "wrd") for row in range(len(rows))]
    fused = [0.75 * one + 0.25 * other for one, other in zip(cosine, transport, strict=True)]
    expected = {"cosine": 100 * spearman(cosine, labels), "fused": 100 * spearman(fused, labels)}
    assert found["spearman"] == {str(file): pytest.approx(expected, abs=20)}  # int8 token vectors may swap near ties
    assert isinstance(found["spearman"], dict)
    assert found["spearman"][str(file)]["cosine"] == pytest.approx(expected["cosine"], abs=0.01)


def test_retrieval_reports_every_setting(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One setting is at the top level, several are a list of runs; a floor needs no folder."""
    files = write_files(tmp_path)
    one = answer(capsys, "retrieval", *files, "--model", str(folder), "--retrieve", "lexical")
    assert one["queries"] == 2
    assert one["success@1"] == 100.0
    assert one["retrieve"] == "lexical"
    many = answer(
        capsys, "retrieval", *files, "--model", str(folder), "--retrieve", "vector", "hybrid", "--rerank", "none", "wrd"
    )
    assert isinstance(many["runs"], list)
    assert len(many["runs"]) == 4
    assert all(run["recall@10"] == 100.0 for run in many["runs"])
    assert answer(capsys, "retrieval", *files, "--model", "bm25-char1")["success@1"] == 100.0
    within = answer(capsys, "retrieval", *files, "--model", "bm25-char2", "--within")
    assert within["recall@10"] == 100.0


def test_weights_agree_with_searching(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The grid's number for a couple of weights is the one that a search with these weights gets."""
    files = write_files(tmp_path)
    found = answer(capsys, "weights", *files, "--model", str(folder), "--retrieve", "hybrid", "--window-weight", "0.3")
    grid = found["mrr@10"]
    assert isinstance(grid, dict)
    chosen = ("--retrieve", "hybrid", "--rerank", "wrd", "--weight", "0.4", "--lexical-weight", "0.2")
    run = answer(capsys, "retrieval", *files, "--model", str(folder), *chosen, "--window-weight", "0.3")
    assert grid["lexical_weight 0.2"]["weight 0.4"] == run["mrr@10"]
    windows = found["windows"]
    assert isinstance(windows, dict)
    as_the_card = answer(capsys, "retrieval", *files, "--model", str(folder), *chosen[:4], "--window-weight", "0.6")
    assert windows["window of 30"]["window_weight 0.6"] == as_the_card["mrr@10"]
    words = found["words"]
    assert isinstance(words, dict)
    other = answer(
        capsys,
        "retrieval",
        *files,
        "--model",
        str(folder),
        *chosen[:4],
        "--lexical-weight",
        "0.7",
        "--window-weight",
        "0.2",
    )
    assert words["lexical_weight 0.7"]["window_weight 0.2"] == other["mrr@10"]


def test_a_task_among_other_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every second query is asked, among texts of other files that are as long as the corpus' own."""
    own = {"a": "甲" * 40, "b": "乙" * 50}
    task = Task(own, {"1": "甲", "2": "乙"}, {"1": {"a": 1.0}, "2": {"b": 1.0}})
    more = tmp_path / "more.txt"
    lines = ["甲" * 60, *(f"{row}" + "丁" * 24 for row in range(10))]
    more.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = among(task, [more], 100)
    assert found.queries == task.queries
    added = list(found.corpus.values())[2:]
    assert added == [
        (lines[1] + lines[2])[:40],
        lines[3] + lines[4],
        (lines[5] + lines[6])[:40],
        lines[7] + lines[8],
        (lines[9] + lines[10])[:40],
    ]
    assert list(among(task, [more], 2).corpus.values())[2:] == [added[0], added[-1]]
    assert among(task, [], 100) == task
    assert among(task._replace(corpus={}), [more], 100).corpus == {}
    files = write_files(tmp_path)
    two, whole = (answer(capsys, "retrieval", *files, "--model", "bm25-char2", "--every", every) for every in "21")
    assert two["queries"] == -(-int(str(whole["queries"])) // 2)
    put = answer(capsys, "retrieval", *files, "--model", "bm25-char2", "--among", str(more), "--among-each", "5")
    assert int(str(put["texts"])) == int(str(whole["texts"])) + 5


def test_reranking_settles_the_first_ten(folder: Path) -> None:
    """Transport alone orders the candidates by WRD, whoever proposed them."""
    encoder = Encoder(folder, device="cpu")
    search = FileSearch(encoder, TEXTS, ["花呗怎么还款"])
    everything = SharesByLength.of_card({"weight": 1.0})
    ranking = search.rankings(Setting("vector", "wrd", everything, 7))[0]
    parts = search.parts(Setting("vector", "wrd", everything, 7))[0]
    assert ranking.tolist() == parts.rows[np.argsort(-parts.transport, kind="stable")].tolist()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_what_no_query_can_find_by_words_need_not_be_encoded(folder: Path, count: int) -> None:
    """Searching by words alone ranks the same with only BM25's candidates encoded, fewer texts than there are."""
    encoder, queries = Encoder(folder, device="cpu"), ["花呗怎么还款", TEXTS[-1]]
    part, whole = FileSearch(encoder, TEXTS, queries, count), FileSearch(encoder, TEXTS, queries)
    for rerank in ("none", "wrd"):
        setting = Setting("lexical", rerank, SharesByLength.of_card({"weight": 0.5}), count)  # type: ignore[arg-type]
        one, other = ([rows.tolist() for rows in search.rankings(setting)] for search in (part, whole))
        assert one == other
    encoded = sum(1 for packed in part.corpus.packed if packed)
    assert encoded < len(TEXTS) or count == 7
    assert all(packed for packed in whole.corpus.packed)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """A file with a wrong number of cells is refused with file and line."""
    (tmp_path / "sts.tsv").write_text("一\t二\t1\n一\t二\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"sts\.tsv:2"):
        main(["sts", str(tmp_path / "sts.tsv"), "--model", "tfidf-char1"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sts none.tsv", "none.tsv cannot be read: No such file or directory"),
        ("sts noise.xz", "noise.xz cannot be read"),
        ("sts pairs.tsv --model none", "none is not a model folder"),
        ("sts word.tsv", "word.tsv:2: expected a number in the third cell, got 'x'"),
        ("sts empty.tsv", "empty.tsv has no pairs"),
        ("sts pairs.tsv --weight 7", "--weight: '7' is not a number from 0 to 1"),
        ("questions word.tsv", "word.tsv:2: expected a number"),
        ("retrieval {} --candidates 0", "--candidates: '0' is not a whole number of at least 1"),
        ("retrieval {} --corpus empty.tsv", "the corpus has no texts"),
        ("retrieval {} --queries empty.tsv --json", "no query that has a relevant text"),
        ("retrieval {} --corpus pairs.tsv", "pairs.tsv:1: expected 2 cells between tabs, got 3"),
        ("retrieval {} --corpus twice.tsv", "twice.tsv:2: the id 'a' was there before"),
        ("retrieval {} --corpus other.tsv", "no text that is relevant to the query 'q0' is in other.tsv"),
        (
            "lookup --triples word.tsv --questions odd.jsonl",
            'odd.jsonl:1: expected "question" and "triple": [S, P, O] or',
        ),
        (
            "lookup --triples word.tsv --questions asked.jsonl --errors word.tsv",
            "--errors: word.tsv is a file that is read",
        ),
        ("lookup --triples none.tsv --questions asked.jsonl", "none.tsv: No such file or directory"),
        ("lookup --triples empty.tsv --questions asked.jsonl", "empty.tsv has no triples"),
        ("lookup --triples pairs.tsv --questions empty.tsv", "empty.tsv has no questions"),
        ("sts pairs.tsv --model bm25-char1", "the floor bm25-char1 is for questions, groups, retrieval, not for sts"),
        ("sts pairs.tsv --model tfidf-char1 --measure wrd", "tfidf-char1 has no choice of --measure"),
        ("retrieval {} --model tfidf-char2", "the floor tfidf-char2 is for sts, not for retrieval"),
        ("retrieval {} --model bm25-char2 --rerank wrd", "bm25-char2 has no choice of --rerank"),
        ("weights {} --model bm25-char2", "not for weights"),
    ],
)
def test_what_cannot_be_measured_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    """A file, a number or a floor that cannot be used ends with one sentence about it and nothing on the output."""
    files = write_files(tmp_path)
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "noise.xz").write_text("noise")
    (tmp_path / "pairs.tsv").write_text("一\t二\t1\n", encoding="utf-8")
    (tmp_path / "word.tsv").write_text("一\t二\t1\n一\t二\tx\n", encoding="utf-8")
    (tmp_path / "twice.tsv").write_text("a\t一\na\t二\n", encoding="utf-8")
    (tmp_path / "other.tsv").write_text("a\t一\n", encoding="utf-8")
    (tmp_path / "odd.jsonl").write_text('{"question": "谁", "subject": "一"}\n', encoding="utf-8")
    (tmp_path / "asked.jsonl").write_text('{"question": "谁", "triple": ["一", "二", "三"]}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([part for word in line.split() for part in (files if word == "{}" else [word])])
    written = capsys.readouterr()
    assert ended.value.code not in (0, None)
    assert said in f"{ended.value.code} {written.err}"
    assert written.out == ""


def test_a_correlation_that_is_not_defined_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where all labels are equal there is no rank correlation: the JSON says null, not NaN, which no JSON has."""
    file = tmp_path / "constant.tsv"
    file.write_text("花呗\t花呗\t1\n密码\t忘记\t1\n", encoding="utf-8")
    assert answer(capsys, "sts", str(file), "--model", "tfidf-char1")["spearman"] == {str(file): None}


def test_files_may_follow_the_options(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that take several values leave the FILE behind them alone, and both orders measure the same."""
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{a}\t{b}\t1\n" for a, b in itertools.pairwise(TEXTS)), encoding="utf-8")
    for part, *option in (["sts", "--measure", "cosine", "wrd"], ["questions", "--rerank", "none", "wmd"]):
        for values in (option[:2], option):
            before = answer(capsys, part, "--model", str(folder), *values, str(file))
            assert before == answer(capsys, part, str(file), *values, "--model", str(folder))
    assert answer(capsys, "sts", "--measure", "wrd", str(file), "--model", str(folder))["measure"] == ["wrd"]


def test_a_person_gets_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json the report is lines of names and numbers."""
    main(["retrieval", *write_files(tmp_path), "--model", "bm25-char2"])
    assert "mrr@10: 100.0" in capsys.readouterr().out


def test_groups_are_asked_by_unseen_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Similar questions ask for their standard question, those of a training pair do not; a line that is no group is named."""
    groups, seen = tmp_path / "groups.jsonl", tmp_path / "pairs.tsv"
    lines = [
        {"standard": TEXTS[0], "similar": [TEXTS[1], "花呗怎么还"]},
        {"standard": TEXTS[2], "similar": ["密码忘了"]},
    ]
    groups.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    seen.write_text(f"{TEXTS[1]}\t无关\t0\tfaq\n", encoding="utf-8")
    task = group_task(groups, seen, None)
    assert list(task.corpus.values()) == [TEXTS[0], TEXTS[2]]
    assert list(task.queries.values()) == ["花呗怎么还", "密码忘了"]
    assert task.relevance == {"0": {"1": 1.0}, "1": {"2": 1.0}}
    assert len(group_task(groups, seen, 1).queries) == 1
    found = answer(capsys, "groups", str(groups), "--seen", str(seen), "--model", "bm25-char1")
    assert (found["texts"], found["queries"], found["success@1"]) == (2, 2, 100.0)
    groups.write_text("{}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"groups\.jsonl:1"):
        group_task(groups, seen, None)


@pytest.mark.parametrize("part", ["sts", "questions", "groups", "retrieval", "weights", "lookup"])
def test_every_part_measures_the_bundled_model_that_is_meant(part: str) -> None:
    """Without --model the lookup measures the generator and everything else the encoder."""
    assert default_model(part).name == ("lookup-mini-zh" if part == "lookup" else "simbert-mini-zh")
    files = {
        "sts": ["a"],
        "questions": ["a"],
        "groups": ["a", "--seen", "b"],
        "lookup": ["--triples", "a", "--questions", "b"],
    }
    rest = files.get(part, ["--corpus", "a", "--queries", "b", "--qrels", "c"])
    assert parser().parse_args([part, *rest]).model is None
