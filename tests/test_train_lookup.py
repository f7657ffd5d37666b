"""The training program of the lookup on a tiny corpus: questions, changes, batches, resume, export, ranking."""

import csv
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from conftest import write_bert
from models.fallback import STAND_IN_TOKENS
from models.key_order import ORDERS, PARTS
from models.rescoring import FEATURES
from models.unilm import Generator
from scripts import fit_lookup
from scripts.evaluate import main as evaluate
from scripts.evaluation.lookup import Wanted, f1, facts_of, judge
from scripts.lookup_training.augmentation import Augmentation, Shares, replace_once
from scripts.lookup_training.batches import Batches, Writer
from scripts.lookup_training.calibration import Example, fit, share_right
from scripts.lookup_training.network import grown_network, grown_tokenizer
from scripts.lookup_training.questions import Asked, Key, read_keys, read_questions, split
from scripts.train_lookup import main, parser, run

SUBJECTS = ["花呗", "借呗", "银行卡", "信用卡", "图书馆", "宿舍", "快递", "密码", "校园卡", "选课"]
PREDICATES = ["额度", "办理", "还款", "查询"]


@pytest.fixture(scope="module", name="corpus")
def _corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of 40 facts, a question about each, and an encoder folder to start from."""
    folder = tmp_path_factory.mktemp("lookup")
    facts = [(s, p) for s in SUBJECTS for p in PREDICATES]
    lines = [{"question": f"{s}怎么{p}？", "triple": [s, p, f"{p}{s}"]} for s, p in facts]
    write = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "asked.jsonl").write_text("".join(write), encoding="utf-8")
    rows = "".join(f"{s}\t{p}\t{p}{s}\tours\n" for s, p in facts)
    (folder / "graph.tsv").write_text(rows + "网（银行）\t额度\t零\tkept\n", encoding="utf-8")
    write_bert(folder / "bert", max_position_embeddings=128)
    return folder


def choices(corpus: Path, out: Path, *more: str) -> Namespace:
    """Give the command line of a tiny run."""
    files = ("--questions", str(corpus / "asked.jsonl"), "--triples", str(corpus / "graph.tsv"))
    sizes = ("--tokens", "128", "--pool", "16", "--device", "cpu", "--held-out", "0.2", "--rate", "3e-3")
    return parser().parse_args([*files, "--model", str(corpus / "bert"), "--out", str(out), *sizes, *more])


@pytest.fixture(scope="module", name="trained", params=ORDERS, ids="-".join)
def _trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of 160 steps, in each order of the parts."""
    out = tmp_path_factory.mktemp("trained") / "lookup"
    run(choices(corpus, out, "--steps", "160", "--order", *request.param))
    return out


def test_training_learns_and_the_folder_can_write(trained: Path) -> None:
    """The loss falls; the folder is a generator with the stand-ins, curves, and questions that were held out."""
    with (trained / "curves.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert losses[-1] < 0.5 * losses[0]
    generator = Generator(trained, "cpu")
    assert set(STAND_IN_TOKENS) <= generator.vocabulary.keys()
    assert generator.max_tokens == 64
    assert generator.card["order"] in [list(order) for order in ORDERS]
    assert (trained / "curves.png").stat().st_size > 1_000
    held = list(read_questions([trained.with_name("lookup.work") / "held_out.jsonl"]))
    assert 0 < len(held) < 40
    assert {one.key.subject for one in held} <= set(SUBJECTS)


def test_an_unknown_character_can_be_asked_for(trained: Path) -> None:
    """A name of characters that the vocabulary lacks has tokens of its own."""
    generator = Generator(trained, "cpu")
    first, second = generator.spell(["蝽蝽", "蚴蚴"])
    assert first != second
    assert generator.vocabulary["[UNK]"] not in first + second


def test_a_killed_run_goes_on_where_it_was(corpus: Path, tmp_path: Path) -> None:
    """A run that is stopped after 7 of 12 steps and run again gives the weights of a run that was not."""
    whole = run(choices(corpus, tmp_path / "whole", "--steps", "12"))
    run(choices(corpus, tmp_path / "cut", "--steps", "12"), stop_at=7)
    again = run(choices(corpus, tmp_path / "cut", "--steps", "12"))

    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)


def test_the_trained_folder_is_ranked_and_evaluated(
    trained: Path, corpus: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Fitting writes weights into the card; the evaluation then finds most of the facts that were asked for."""
    graph = tmp_path / "graph"
    data = ["--triples", str(corpus / "graph.tsv"), "--questions", str(corpus / "asked.jsonl")]
    more = ["--graph", str(graph), "--encoder", str(corpus / "bert"), "--device", "cpu"]
    fit_lookup.main([str(trained), *data, *more, "--more", "2"])
    assert "without overlap" in capsys.readouterr().out
    assert json.loads((trained / "moverank.json").read_text())["rescoring"].keys() <= {*FEATURES, "bias"}

    evaluate(["lookup", *data, *more, "--model", str(trained), "--json", "--errors", str(tmp_path / "errors.jsonl")])

    report = json.loads(capsys.readouterr().out)
    assert report["order"].split(", ") == json.loads((trained / "moverank.json").read_text())["order"]
    assert report["questions"] == 40
    assert report["triples"] == 41
    assert report["em_subject"] >= 90
    assert report["em_object"] >= 80
    assert report["em_all"] <= report["em_object"] <= report["f1_object"]
    with (
        pytest.raises(ValueError, match="tokenizer of another model"),
        facts_of(corpus / "graph.tsv", corpus / "bert", graph),
    ):
        pass
    assert len((tmp_path / "errors.jsonl").read_text().splitlines()) == 40 - report["errors"]["none"]


def test_an_order_that_cannot_be_searched_is_not_trained(corpus: Path, tmp_path: Path) -> None:
    """The subject comes first; what the lookup would refuse later is refused before a step is made."""
    with pytest.raises(ValueError, match="order in moverank"):
        run(choices(corpus, tmp_path / "out", "--steps", "1", "--order", "meaning", "subject", "predicate"))
    assert not list(tmp_path.iterdir())


def test_a_command_line_that_cannot_be_trained_leaves_nothing_behind(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be read, one without questions, and a wrong order are each named in a sentence; no folder is made."""
    (tmp_path / "empty.jsonl").write_text("")
    asked, empty = corpus / "asked.jsonl", tmp_path / "empty.jsonl"
    for files, said in (
        (["--questions", str(tmp_path / "none.jsonl")], "none.jsonl cannot be read: No such file or directory"),
        (["--questions", str(empty)], "no question to train on"),
        (["--questions", str(asked), "--triples", str(tmp_path / "none.tsv")], "none.tsv cannot be read"),
        (["--questions", str(asked), "--order", "a", "b", "c"], "--order must be subject predicate meaning or"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*files, "--model", str(corpus / "bert"), "--out", str(tmp_path / "out")])
        assert said in f"{ended.value.code} {capsys.readouterr().err}"
        assert list(tmp_path.iterdir()) == [empty]


def test_random_weights_have_the_shape_and_nothing_else_of_the_folder(corpus: Path) -> None:
    """Drawn by torch's seed: the same again, no weight matrix of the folder among them; trained ones are the folder's."""

    def weights(is_random: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        found: dict[str, torch.Tensor] = grown_network(corpus / "bert", 100, is_random).state_dict()
        return found

    read = load_file(corpus / "bert" / "model.safetensors")
    drawn, again, kept = weights(True), weights(True), weights(False)
    assert {name: value.shape for name, value in drawn.items()} == {name: value.shape for name, value in kept.items()}
    matrices = [name for name in read if name.endswith("weight") and "LayerNorm" not in name]
    assert len(matrices) > 10
    for name in matrices:
        ours = f"bert.{name}"
        torch.testing.assert_close(drawn[ours], again[ours], rtol=0, atol=0)
        torch.testing.assert_close(kept[ours][: len(read[name])], read[name], rtol=0, atol=0)
        assert not torch.isclose(drawn[ours][: len(read[name])], read[name]).float().mean() > 0.1


def test_questions_are_read_from_triples_and_one_hop_queries(tmp_path: Path) -> None:
    """Both kinds of lines give keys; questions of more hops are left out; a broken line is named."""
    file = tmp_path / "asked.jsonl"
    lines = [
        {"question": "甲的乙？", "triple": ["甲（丙）", "乙", "丁"]},
        {"question": "戊的己？", "sparql": "select ?x where { <戊_（庚（辛））> <己> ?x. }"},
        {"question": "谁是？", "sparql": "select ?x where { ?x <己> <戊>. }"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    assert list(read_questions([file])) == [
        Asked("甲的乙？", Key("甲", "乙", "丙"), "asked"),
        Asked("戊的己？", Key("戊", "己", "庚（辛）"), "asked"),
    ]
    file.write_text('{"question": "甲"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"asked\.jsonl:1"):
        list(read_questions([file]))


def test_keys_of_left_out_sources_are_not_read(corpus: Path) -> None:
    """Triples whose source is left out give no names."""
    assert read_keys(corpus / "graph.tsv", ["ours"]) == [Key("网", "额度", "银行")]
    assert len(read_keys(corpus / "graph.tsv")) == 41


@given(st.floats(0, 1), st.integers(0, 5))
@settings(max_examples=20)
def test_held_out_subjects_are_not_trained_on(share: float, seed: int) -> None:
    """The sides of the split have no subject in common, and every question is on one of them."""
    asked = [
        Asked(f"{s}{p}", Key(s.upper() if p == "额度" else s, p, ""), "x")
        for s in ["ab", *SUBJECTS]
        for p in PREDICATES
    ]

    training, held = split(asked, share, seed)

    assert not {one.key.subject.lower() for one in training} & {one.key.subject.lower() for one in held}
    assert sorted(training + held) == sorted(asked)


@given(st.integers(0, 10_000))
@settings(max_examples=150)
def test_a_changed_question_still_has_its_subject(seed: int) -> None:
    """Whatever is changed, the subject of the key stands in the question, and the predicate is one of the graph's."""
    keys = [Key(s, p, "") for s in SUBJECTS for p in PREDICATES]
    shares = Shares(same_predicate=0.3, any_subject=0.3, any_key=0.3, stand_ins=0.5)
    random = np.random.default_rng(seed)
    asked = Asked("请问花呗怎么还款？", Key("花呗", "还款", "借"), "x")

    changed = Augmentation(keys, shares).change(asked, random)

    assert changed.key.subject in changed.question
    assert any(len(one.predicate) == len(changed.key.predicate) for one in keys)
    if not set(changed.question) & set(STAND_IN_TOKENS):
        assert changed.key.predicate in PREDICATES
        assert changed.key.predicate in changed.question


def test_rows_have_the_parts_in_the_order_that_is_asked_for(corpus: Path) -> None:
    """Each order has the same tokens for each part, one after the other, and says of which part they are."""
    asked = [Asked("花呗的额度", Key("花呗", "额度", "银行"), "x"), Asked("卡怎么还款", Key("卡", "还款", ""), "x")]
    tokenizer = grown_tokenizer(corpus / "bert")

    def spell(text: str) -> list[int]:
        return [*tokenizer.encode(text, add_special_tokens=False).ids, 3]

    for order in ORDERS:
        for one, row in zip(asked, Writer(tokenizer, order=order).rows(asked), strict=True):
            spelled = [spell(getattr(one.key, part)) for part in order]
            assert row.target == [token for part in spelled for token in part]
            assert row.parts == [
                PARTS.index(part) for part, ids in zip(order, spelled, strict=True) for _ in range(len(ids))
            ]


def test_a_name_is_replaced_only_where_it_is_clear() -> None:
    """A name that occurs twice, or not at all, is left alone; case does not matter."""
    assert replace_once("abc的额度", "ABC", "花呗") == "花呗的额度"
    assert replace_once("卡和卡", "卡", "花呗") is None
    assert replace_once("卡", "花呗", "借呗") is None
    assert replace_once("卡", "", "借呗") is None


def test_batches_depend_on_seed_and_number_alone(corpus: Path) -> None:
    """A pool can be made again without those before it; its rows are what the tokenizer says, padded and shifted."""
    asked = list(read_questions([corpus / "asked.jsonl"]))
    writer = Writer(grown_tokenizer(corpus / "bert"))

    def batches() -> Batches:
        return Batches(asked, writer, Augmentation([one.key for one in asked], Shares()), 128, 16, 3)

    one = batches()
    one.pool(0)
    for first, second in zip(one.pool(5), batches().pool(5), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        ids, segments, labels, parts = first
        for row in range(len(ids)):
            start, end = int((segments[row] == 0).argmin()), int((labels[row] != -100).nonzero()[0][-1])
            target = [*ids[row, start : end + 1].tolist(), int(labels[row, end])]
            assert target.count(3) == 3
            assert labels[row, start - 1 : end + 1].tolist() == target
            assert sorted(set(parts[row, start - 1 : end + 1].tolist())) == [0, 1, 2]


@given(st.text("abcd ", max_size=12), st.text("abcd ", max_size=12))
def test_f1_is_of_the_longest_common_subsequence(a: str, b: str) -> None:
    """F1 = 2·LCS / (|a| + |b|), with the textbook's table."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    assert f1(a, b) == pytest.approx(2 * table[-1, -1] / (len(a) + len(b)) if a or b else 1.0)


def test_a_judgement_by_hand() -> None:
    """Case and runs of spaces do not count; a wrong object costs its own score and that of the whole."""
    scores = judge(["RIO（酒）", "代言人", "周迅"], Wanted("谁？", "rio（酒）", "代言人", "周迅  2013"))
    assert scores["em_subject"] == scores["em_predicate"] == 1
    assert scores["em_object"] == scores["em_all"] == 0
    assert scores["f1_object"] == pytest.approx(2 * 2 / (2 + 7))


def test_fitting_finds_what_decides() -> None:
    """Where one feature alone tells right from wrong, it gets the weight, and "none of these" is told by its absence."""
    random = np.random.default_rng(0)
    found = []
    for number in range(200):
        values = random.normal(size=(4, len(FEATURES)))
        overlap = FEATURES.index("overlap")
        values[:, overlap] = 0.0
        if number % 4:
            values[number % 3, overlap] = 1.0
        found.append(Example(values, number % 3 if number % 4 else None))

    weights, loss = fit(found, FEATURES)

    assert int(np.argmax(np.abs(weights.values))) == overlap
    assert loss < 0.2
    assert share_right(found, weights) == 1.0
