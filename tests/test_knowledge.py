"""Questions to graphs through a real generator (tiny, with random weights): only facts of the graph, in turn, each alone."""

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from models.encoder import Encoder
from models.key_order import ORDERS, PARTS
from models.lookup import Answer, Effort, Explained, Lookup
from models.name_tokens import NameTokenizer
from models.token_tree import TokenTree
from service.batching import EncodeQueue
from service.errors import InvalidRequest, NotReady, Overloaded
from service.graph_changes import Change
from service.graphs import Graph
from service.knowledge import MAX_BATCH, AskOptions, AskQueue
from service.spelling import CharacterSpelling
from service.triples import Triple

TRIPLES = [
    Triple("花呗", "支付", "额度", "五百"),
    Triple("花呗", "支付", "额度", "一千"),
    Triple("花呗", "", "额度", "没有"),
    Triple("花a", "", "还款", "小写"),
    Triple("花A", "", "还款", "大写"),
    Triple("银行卡", "", "密码", "六位"),
    Triple("宿舍", "", "密码", "四位"),
]
ALL = AskOptions(beams=16, top_k=16, min_probability=0.0, lookahead=True)


@pytest.fixture(scope="module", name="folder", params=ORDERS, ids="-".join)
def _folder(generator_folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A generator that writes the parts of a key in one order or the other."""
    folder = tmp_path_factory.mktemp("ordered") / "generator"
    shutil.copytree(generator_folder, folder)
    (folder / "moverank.json").write_text(json.dumps({"order": request.param}))
    return folder


@pytest.fixture(scope="module", name="lookup")
def _lookup(folder: Path) -> Lookup:
    """A generator that knows nothing, held by the tree all the same."""
    return Lookup(folder, "cpu")


@pytest.fixture(name="graph")
def _graph(tmp_path: Path, folder: Path) -> Iterator[Graph]:
    """A graph with merged and with pending triples."""
    graph = Graph.create(tmp_path / "g", NameTokenizer(folder))
    graph.change([Change(False, each) for each in TRIPLES[:4]])
    graph.merge()
    graph.change([Change(False, each) for each in TRIPLES[4:]])
    yield graph
    graph.close()


@pytest.fixture(name="queue")
def _queue(lookup: Lookup) -> Iterator[AskQueue]:
    """A queue with room for 20 questions."""
    queue = AskQueue(lookup, 20)
    yield queue
    queue.close()


def test_every_answer_is_a_fact_and_wide_beams_find_all(graph: Graph, queue: AskQueue) -> None:
    """With more beams than keys every fact of the graph is an answer, each key with all its objects, and nothing else."""
    (future,) = queue.submit(graph.view, ["花呗额度", "密码是什么？"], ALL)
    for answered in future.result(60):
        found = {(each.subject, each.meaning, each.predicate): each.objects for each in answered.answers}
        assert found == {
            ("花呗", "支付", "额度"): ["五百", "一千"],
            ("花呗", "", "额度"): ["没有"],
            ("花a", "", "还款"): ["小写"],  # two surfaces of one key
            ("花A", "", "还款"): ["大写"],
            ("银行卡", "", "密码"): ["六位"],
            ("宿舍", "", "密码"): ["四位"],
        }
        assert len(answered.answers) == 6
        assert all(0.0 <= each.probability <= 1.0 and each.log_probability <= 0.0 for each in answered.answers)
        assert not answered.is_truncated


def test_what_is_removed_is_no_answer_any_more(graph: Graph, queue: AskQueue) -> None:
    """A change holds for the next question; a question that began before it keeps its view."""
    before = graph.view
    graph.change([Change(True, TRIPLES[0]), Change(True, TRIPLES[2]), Change(True, TRIPLES[5])])
    answers = queue.submit(graph.view, ["花呗"], ALL)[0].result(60)[0].answers
    assert {(each.subject, tuple(each.objects)) for each in answers} == {
        ("花呗", ("一千",)),
        ("花a", ("小写",)),
        ("花A", ("大写",)),
        ("宿舍", ("四位",)),
    }
    assert len(queue.submit(before, ["花呗"], ALL)[0].result(60)[0].answers) == 6


def test_answers_that_are_too_unlikely_are_left_out(graph: Graph, queue: AskQueue) -> None:
    """`min_probability` cuts the list, `top_k` bounds its keys, an empty graph answers nothing."""
    answers = queue.submit(graph.view, ["花呗"], ALL)[0].result(60)[0].answers
    least = sorted({each.probability for each in answers})[1]
    fewer = queue.submit(graph.view, ["花呗"], ALL._replace(min_probability=least))[0].result(60)[0].answers
    assert fewer == [each for each in answers if each.probability >= least]
    assert len(queue.submit(graph.view, ["花呗"], ALL._replace(top_k=1))[0].result(60)[0].answers) in (1, 2)
    graph.change([Change(True, each) for each in TRIPLES])
    assert queue.submit(graph.view, ["花呗"], ALL)[0].result(60)[0].answers == []


def test_the_search_tree_leads_to_the_answers(graph: Graph, queue: AskQueue) -> None:
    """With `explain` the answers stay the same; the ends of kept ways are their keys, spelled along the way; else no tree."""
    options = ALL._replace(beams=2)
    plain = queue.submit(graph.view, ["花呗额度", "密码是什么？"], options)[0].result(60)
    told = queue.submit(graph.view, ["花呗额度", "密码是什么？"], options._replace(explain=True))[0].result(60)
    assert [each.answers for each in told] == [each.answers for each in plain]
    for answered, without in zip(told, plain, strict=True):
        assert without.beams is None
        beams = answered.beams
        assert beams is not None
        ends = [beam for beam in beams if beam.is_kept and beam.choices == 0]
        keys = [(each.subject.lower(), each.meaning, each.predicate) for each in answered.answers]
        assert sorted(beam.answer for beam in ends if beam.answer is not None) == [
            i for i, key in enumerate(keys) if keys.index(key) == i
        ]
        for beam in ends:
            way = [beam]
            while way[0].parent is not None:
                way.insert(0, beams[way[0].parent])
            parts = ["".join(each.text for each in way if each.part == part) for part in PARTS]
            assert beam.answer is not None
            answer = answered.answers[beam.answer]
            assert parts == [answer.subject.lower(), answer.predicate, answer.meaning]
        assert any(not beam.is_kept for beam in beams)
    (empty,) = queue.submit(graph.view, ["花呗"], options._replace(explain=True, min_probability=1.0))[0].result(60)
    assert empty.answers == []
    assert empty.beams
    assert all(beam.answer is None for beam in empty.beams)
    graph.change([Change(True, each) for each in TRIPLES])
    assert queue.submit(graph.view, ["花"], options._replace(explain=True))[0].result(60)[0].beams == []


class Gated:
    """The real generator behind a gate; it writes down its batches, and refuses questions with a certain word."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.gate = threading.Event()
        self.batches: list[list[str]] = []

    def ask(
        self, tree: TokenTree, questions: Sequence[str], beams: int, top_k: int, lookahead: bool
    ) -> Sequence[Sequence[Answer]]:
        """Wait for the gate, then answer."""
        assert self.gate.wait(60)
        self.batches.append(list(questions))
        if any("坏" in question for question in questions):
            raise RuntimeError("the network fell over")
        return self.lookup.ask(tree, questions, beams, top_k, lookahead)

    def explain(
        self, tree: TokenTree, questions: Sequence[str], beams: int, top_k: int, lookahead: bool
    ) -> Sequence[Explained]:
        """Answer with the search tree, gate or not."""
        return self.lookup.explain(tree, questions, beams, top_k, lookahead)

    @property
    def effort(self) -> Effort:
        """What the generator's last batch took."""
        return self.lookup.effort

    def is_truncated(self, question: str) -> bool:
        """Ask the generator."""
        return self.lookup.is_truncated(question)


@pytest.fixture(name="gated")
def _gated(lookup: Lookup) -> Gated:
    """A closed gate."""
    return Gated(lookup)


def test_questions_that_wait_are_answered_together_and_small_requests_first(graph: Graph, gated: Gated) -> None:
    """A batch is what arrived meanwhile about one view with the same options; large requests wait for small ones."""
    queue = AskQueue(gated, 1_000)
    futures = queue.submit(graph.view, ["第一"], ALL)
    while queue.queued:  # until it is with the generator
        threading.Event().wait(0.01)
    large = [f"大{i}" for i in range(2 * MAX_BATCH + 1)]
    futures += queue.submit(graph.view, large, ALL)
    for i in range(4):
        futures += queue.submit(graph.view, [f"小{i}"], ALL)
    futures += queue.submit(graph.view, ["别"], ALL._replace(beams=2))
    gated.gate.set()
    answered = [each for future in futures for each in future.result(120)]
    queue.close()
    assert len(answered) == 1 + len(large) + 5
    assert gated.batches[:3] == [["第一"], ["小0", "小1", "小2", "小3"], ["别"]]
    assert [question for batch in gated.batches[3:] for question in batch] == large
    assert max(map(len, gated.batches)) == MAX_BATCH


def test_one_question_fails_alone(graph: Graph, gated: Gated) -> None:
    """A question that the network cannot take is named to its sender, and others in the batch are answered."""
    queue = AskQueue(gated, 1_000)
    queue.submit(graph.view, ["先"], ALL)
    good = queue.submit(graph.view, ["花呗"], ALL)
    bad = queue.submit(graph.view, ["好的", "坏的问题"], ALL)
    gated.gate.set()
    assert len(good[0].result(60)[0].answers) == 6
    with pytest.raises(InvalidRequest, match="cannot answer the question '坏的问题'"):
        bad[0].result(60)
    assert len(queue.submit(graph.view, ["花呗"], ALL)[0].result(60)) == 1
    queue.close()


def test_a_full_queue_refuses_and_what_nobody_waits_for_is_not_asked(graph: Graph, gated: Gated) -> None:
    """Beyond its room the queue says so; a cancelled question never reaches the generator, and room comes back."""
    queue = AskQueue(gated, 3)
    first = queue.submit(graph.view, ["一"] * 40, ALL)  # an empty queue takes any number
    with pytest.raises(Overloaded, match="max_queued_questions = 3"):
        queue.submit(graph.view, ["二"], ALL)
    for future in first:
        future.cancel()
    gated.gate.set()
    while queue.queued:
        threading.Event().wait(0.01)
    assert len(queue.submit(graph.view, ["三", "四", "五"], ALL)[0].result(60)) == 3
    queue.close()
    assert sum(map(len, gated.batches)) <= MAX_BATCH + 3
    with pytest.raises(NotReady, match="shutting down"):
        queue.submit(graph.view, ["六"], ALL)


def test_what_nobody_waits_for_takes_no_room(graph: Graph, gated: Gated) -> None:
    """Where the queue is full of questions whose callers have left, of small requests and large ones, others are let in."""
    queue = AskQueue(gated, MAX_BATCH + 3)
    first = queue.submit(graph.view, ["一"], ALL)
    while queue.queued:  # until it is with the generator
        threading.Event().wait(0.01)
    stays = queue.submit(graph.view, ["花呗"], ALL)
    left = queue.submit(graph.view, ["二"], ALL) + queue.submit(graph.view, ["三"] * (MAX_BATCH + 1), ALL)
    assert all(future.cancel() for future in left)
    later = queue.submit(graph.view, [f"四{i}" for i in range(MAX_BATCH)], ALL)
    assert queue.queued == MAX_BATCH + 1
    with pytest.raises(Overloaded):
        queue.submit(graph.view, ["五"] * 3, ALL)
    gated.gate.set()
    assert [len(future.result(60)) for future in (*first, *stays, *later)] == [1, 1, MAX_BATCH]
    queue.close()
    assert queue.queued == 0


def test_an_encoder_that_cannot_answer_now_is_no_fault_of_the_question(
    graph: Graph, folder: Path, encoder: Encoder
) -> None:
    """Its caller hears what the encoder said, not that the question is wrong."""
    encoding = EncodeQueue(encoder, 1_024, 100, 10_000)
    lookup = Lookup(folder, "cpu")
    lookup.use_vectors(
        lambda texts: encoding.submit(encoder.tokenize(texts), "interactive", is_limited=False).result().sentences
    )
    queue = AskQueue(lookup, 1_000)
    assert len(queue.submit(graph.view, ["花呗"], ALL)[0].result(60)) == 1
    encoding.close()
    with pytest.raises(NotReady, match="shutting down"):
        queue.submit(graph.view, ["花呗"], ALL)[0].result(60)
    queue.close()


def test_a_graph_of_other_tokens_is_not_asked(tmp_path: Path, queue: AskQueue, folder: Path) -> None:
    """Until it is rebuilt the answer is a sentence, not nonsense."""
    graph = Graph.create(tmp_path / "other", CharacterSpelling())
    graph.change([Change(False, TRIPLES[0])])
    graph.merge()
    graph.close()
    graph = Graph(tmp_path / "other", NameTokenizer(folder))
    with pytest.raises(NotReady, match="being rebuilt for another tokenizer"):
        queue.submit(graph.view, ["花呗"], ALL)
    graph.merge()
    assert len(queue.submit(graph.view, ["花呗"], ALL)[0].result(60)[0].answers) == 1
    graph.close()
