"""A graph against a plain list of triples: changes, merges, restarts, imports, in any order."""

import errno
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_tokenizer
from live_service import until
from models.key_order import ORDERS, Order
from models.name_tokens import NameTokenizer
from models.prefix_tree_build import Ragged
from service.errors import NotFound, NotReady
from service.facts import Facts
from service.facts_build import Spelling
from service.graph_changes import Change
from service.graph_imports import load_triples
from service.graph_library import GraphLibrary
from service.graphs import Graph
from service.spelling import CharacterSpelling
from service.triples import DEFAULT_LIMITS, Triple, join_subject, read_block

# Few names, some of which have equal tokens under the tokenizer of the tests (case; characters it does not know).
subjects = st.sampled_from(["花", "花呗", "花a", "花A", "龘", "靐", "银行"])
meanings = st.sampled_from(["", "", "卡", "a", "A"])
predicates = st.sampled_from(["还款", "额度", "a", "A"])
objects = st.sampled_from(["一", "二", "三", "长一些的对象", "龘"])
triples = st.builds(Triple, subjects, meanings, predicates, objects)


def spelling_in(order: Order, folder: Path) -> NameTokenizer:
    """Spell in single characters, lower-cased, with [UNK]; keys in an order of their parts."""
    write_tokenizer(folder)
    (folder / "moverank.json").write_text(json.dumps({"order": order}))
    return NameTokenizer(folder)


@pytest.fixture(scope="module", name="spelling", params=ORDERS, ids="-".join)
def _spelling(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> NameTokenizer:
    """In each order of the parts."""
    return spelling_in(request.param, tmp_path_factory.mktemp("tokenizer"))


def key_of(spelling: Spelling, triple: Triple) -> tuple[int, ...]:
    """Spell the key of a triple."""
    parts = spelling.tokenize([getattr(triple, part) for part in spelling.order])
    return tuple(token for i in range(3) for token in (*parts.sequence(i).tolist(), spelling.separator))


def check(graph: Graph, expected: list[Triple], spelling: Spelling) -> None:
    """Ask a graph all that it can be asked and compare with the list of its triples, in which keys keep their order."""
    view = graph.view
    assert len(view) == len(expected)
    names = sorted({each.subject for each in expected})
    assert (view.subjects, view.predicates) == (len(names), len({each.predicate for each in expected}))
    for name in names:
        facts = view.facts_of(name)
        assert view.count_of(name) == len(facts)
        assert view.facts_of(name, limit=2) == facts[:2]
        assert sorted(facts) == sorted(each for each in expected if each.subject == name)
        for meaning in {each.meaning for each in facts}:
            assert view.facts_of(name, meaning) == [each for each in facts if each.meaning == meaning]
            assert view.count_of(name, meaning) == len(view.facts_of(name, meaning))
    assert view.facts_of("没有") == []
    for prefix in ("", "花", "花a", "银行卡", "龘", "\U0010ffff"):
        matching = [name for name in names if name.startswith(prefix)]
        assert [each.subject for each in view.complete(prefix, 100)] == matching
        assert [each.subject for each in view.complete(prefix, 2)] == matching[:2]
    by_key: dict[tuple[int, ...], list[Triple]] = {}
    for each in expected:
        by_key.setdefault(key_of(spelling, each), []).append(each)
    tree = view.tree
    start = tree.start(1)[0]
    found = tree.continuations(start, 1_000)
    assert found is not None
    keys = {tuple(found[0][a:b].tolist()) for a, b in zip(found[1][:-1], found[1][1:], strict=True)}
    assert keys == set(by_key)
    assert len(tree) == len(by_key)
    for key, group in by_key.items():
        assert view.triples(tree.values(tree.walk(start, key))) == group


def check_now_and_after_a_restart(graph: Graph, expected: list[Triple], spelling: Spelling) -> None:
    """Check a graph, close it, open its folder again, and check that."""
    check(graph, expected, spelling)
    graph.close()
    graph = Graph(graph.folder, spelling)
    check(graph, expected, spelling)
    graph.close()


class Model:
    """What a graph should say: a list of triples, of which those of the last generation come first in their old places."""

    def __init__(self) -> None:
        self.places: dict[Triple, None] = {}  # of the generation, whatever became of them
        self.alive: dict[Triple, None] = {}

    def change(self, changes: list[Change]) -> int:
        effective = 0
        for is_removal, triple in changes:
            if (triple in self.alive) == is_removal:
                effective += 1
                if is_removal:
                    del self.alive[triple]
                else:
                    self.alive[triple] = None
        return effective

    def triples(self) -> list[Triple]:
        return [each for each in self.places if each in self.alive] + [
            each for each in self.alive if each not in self.places
        ]

    def merge(self, more: list[Triple]) -> None:
        self.alive = dict.fromkeys([*self.triples(), *more])
        self.places = dict(self.alive)


actions = st.one_of(
    st.tuples(st.just("change"), st.lists(st.builds(Change, st.booleans(), triples), min_size=1, max_size=8)),
    st.tuples(st.just("merge"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("import"), st.lists(triples, max_size=8)),
)


@given(st.lists(actions, max_size=6))
@settings(max_examples=15)
def test_a_graph_says_what_was_said_to_it(
    tmp_path_factory: pytest.TempPathFactory, spelling: NameTokenizer, steps: list[tuple[str, Any]]
) -> None:
    """After any sequence of changes, merges, restarts and imports it holds the triples that a plain list holds, in order."""
    folder = tmp_path_factory.mktemp("graph")
    graph, model = Graph.create(folder / "g", spelling), Model()
    for kind, what in steps:
        if kind == "change":
            assert graph.change(what) == model.change(what)
        elif kind == "merge":
            graph.merge()
            model.merge([])
            assert graph.pending == 0
        elif kind == "reopen":
            graph.close()
            graph = Graph(folder / "g", spelling)
        else:
            (folder / "file").write_text("".join(line_of(each) for each in what))
            assert load_triples(graph, folder / "file", DEFAULT_LIMITS) == []
            model.merge(what)
        check(graph, model.triples(), spelling)
    graph.close()


def line_of(triple: Triple) -> str:
    return f"{join_subject(triple.subject, triple.meaning)}\t{triple.predicate}\t{triple.object}\n"


def test_a_removed_object_is_gone_from_the_disk_after_a_merge(
    tmp_path: Path, spelling: NameTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the files nor the log keep what was removed; what stays keeps its place."""
    graph = Graph.create(tmp_path / "g", spelling)
    monkeypatch.setattr("service.facts_build._WINDOW_BYTES", 10_000)
    texts = [f"对象{i}" + "长" * (50 * i) for i in range(120)]  # the last ones are longer than a window
    kept = [Triple("花", "", "还款", text) for text in texts]
    graph.change([Change(False, each) for each in kept])
    graph.merge()
    secret = kept.pop(7)
    graph.change([Change(True, secret)])
    graph.merge()
    assert graph.view.facts_of("花") == kept
    graph.close()
    assert not any(secret.object.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_what_began_before_a_merge_goes_on_with_what_it_had(tmp_path: Path, spelling: NameTokenizer) -> None:
    """A view stays whole though its files are deleted under it."""
    graph = Graph.create(tmp_path / "g", spelling)
    first = Triple("花", "", "还款", "一")
    graph.change([Change(False, first)])
    graph.merge()
    view = graph.view
    graph.change([Change(True, first)])
    graph.merge()
    assert graph.view.facts_of("花") == []
    assert view.facts_of("花") == [first]
    assert view.triples(view.tree.values(view.tree.walk(view.tree.start(1)[0], key_of(spelling, first)))) == [first]
    graph.close()


def test_changes_during_a_merge_are_not_lost(tmp_path: Path, spelling: NameTokenizer) -> None:
    """What is added and removed while files are written is there when they count, and after a restart."""
    graph = Graph.create(tmp_path / "g", spelling)
    before, removed, added = (Triple("花", "", "还款", text) for text in ("一", "二", "三"))
    graph.change([Change(False, before), Change(False, removed)])
    begun = []

    def meanwhile() -> None:
        if not begun:
            begun.append(graph.change([Change(False, added), Change(True, removed)]))

    graph.merge(check=meanwhile)
    assert begun == [2]
    assert graph.pending == 2
    check_now_and_after_a_restart(graph, [before, added], spelling)


def test_a_merge_that_is_stopped_leaves_nothing_behind(tmp_path: Path, spelling: NameTokenizer) -> None:
    """The graph is as it was, and so is its folder."""
    graph = Graph.create(tmp_path / "g", spelling)
    graph.change([Change(False, Triple("花", "", "还款", "一"))])
    files = sorted(path.name for path in (tmp_path / "g").iterdir())

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        graph.merge(check=stop)
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == files
    assert graph.pending == 1
    graph.close()


def test_new_files_that_cannot_be_opened_do_not_count(
    tmp_path: Path, spelling: NameTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge whose files cannot be opened leaves the graph as it was, now and after a restart; the next one has everything."""
    graph = Graph.create(tmp_path / "g", spelling)
    before, imported = Triple("花", "", "还款", "一"), Triple("花", "", "还款", "二")
    graph.change([Change(False, before)])
    builder = graph.builder()
    builder.add_block(read_block("花\t还款\t二\n".encode(), 0, DEFAULT_LIMITS))
    with monkeypatch.context() as patch:
        patch.setattr("service.graphs.Facts", Mock(side_effect=OSError(errno.EMFILE, "too many open files")))
        with pytest.raises(OSError, match="too many"):
            graph.merge(builder)
    check(graph, [before], spelling)
    graph.merge()
    check(graph, [before], spelling)
    (tmp_path / "file").write_text("花\t还款\t二\n")
    assert load_triples(graph, tmp_path / "file", DEFAULT_LIMITS) == []
    check_now_and_after_a_restart(graph, [before, imported], spelling)


def test_a_merge_of_a_deleted_graph_ends_soon(tmp_path: Path, spelling: NameTokenizer) -> None:
    """Whoever builds new files learns at the next look that the graph is gone."""
    graph = Graph.create(tmp_path / "g", spelling)
    builder = graph.builder()
    graph.retire()
    with pytest.raises(NotFound):
        builder.check()
    builder.discard()
    graph.close()


def test_what_is_removed_is_in_no_file_after_a_merge(tmp_path: Path, spelling: NameTokenizer) -> None:
    """The log of changes has it in none of its files, either."""
    graph = Graph.create(tmp_path / "g", spelling)
    secret = Triple("花", "", "还款", "秘密的对象")
    graph.change([Change(False, secret)])
    graph.merge()
    graph.change([Change(True, secret)])
    graph.merge()
    assert not [file for file in (tmp_path / "g").rglob("*") if file.is_file() and "秘密".encode() in file.read_bytes()]
    graph.close()


@pytest.fixture(name="library")
def _library(tmp_path: Path, spelling: NameTokenizer) -> Iterator[GraphLibrary]:
    """An empty library of graphs."""
    library = GraphLibrary(tmp_path, spelling)
    yield library
    library.close()


def test_many_changes_are_merged_by_themselves(
    library: GraphLibrary, monkeypatch: pytest.MonkeyPatch, spelling: NameTokenizer
) -> None:
    """The library's thread writes new files when a log has grown, and nobody has to wait for it."""
    monkeypatch.setattr("service.graphs.LEAST_CHANGES", 5)
    graph, is_new = library.create("g")
    assert is_new
    listed = [Triple("花", "", "还款", str(i)) for i in range(5)]
    for each in listed:
        assert graph.change([Change(False, each)]) == 1
    until(lambda: graph.pending == 0)
    assert graph.view.facts.rows == 5
    check(graph, listed, spelling)


def test_a_graph_of_another_tokenizer_is_rebuilt(tmp_path: Path, spelling: NameTokenizer) -> None:
    """Facts can be looked up at once; the keys are spelled anew in the background."""
    listed = [Triple("花", "卡", "还款", "一"), Triple("花", "", "还款", "二"), Triple("银行", "", "额度", "三")]
    first = GraphLibrary(tmp_path, CharacterSpelling())
    graph, _ = first.create("g")
    graph.change([Change(False, each) for each in listed[:2]])
    graph.merge()
    graph.change([Change(False, listed[2])])
    check(graph, listed, CharacterSpelling())
    first.close()
    second = GraphLibrary(tmp_path, spelling)
    graph = second.get("g")
    assert len(graph.view.facts_of("花")) == 2
    until(lambda: not graph.view.is_stale)
    check(graph, listed, spelling)
    second.close()


def test_a_graph_of_another_order_is_rebuilt(tmp_path: Path) -> None:
    """A model that writes the parts of a key in another order gets keys in that order, although its tokens are the same."""
    listed = [Triple("花", "卡", "还款", "一"), Triple("花", "", "还款", "二"), Triple("银行", "", "额度", "三")]
    spellings = [spelling_in(order, tmp_path) for order in ORDERS]
    first = GraphLibrary(tmp_path, spellings[0])
    graph, _ = first.create("g")
    graph.change([Change(False, each) for each in listed[:2]])
    graph.merge()
    graph.change([Change(False, listed[2])])
    first.close()
    second = GraphLibrary(tmp_path, spellings[1])
    graph = second.get("g")
    until(lambda: not graph.view.is_stale)
    check(graph, listed, spellings[1])
    second.close()


def test_a_deleted_graph_is_gone(library: GraphLibrary, tmp_path: Path) -> None:
    """Nobody writes to it any more, its name is free, and its folder is not there."""
    graph, _ = library.create("g")
    library.delete("g")
    with pytest.raises(NotFound, match="deleted meanwhile"):
        graph.change([Change(False, Triple("花", "", "还款", "一"))])
    with pytest.raises(NotFound, match="deleted meanwhile"):
        graph.merge()
    with pytest.raises(NotFound, match="there is no graph 'g'"):
        library.get("g")
    assert list((tmp_path / "graphs").iterdir()) == []
    assert library.create("g")[1]


@pytest.mark.parametrize("file", ["tree.bin", "facts.bin", "objects.txt", "manifest.json", "changes.db"])
def test_a_damaged_graph_keeps_nobody_from_the_others(tmp_path: Path, spelling: NameTokenizer, file: str) -> None:
    """It is named in a sentence, can be given up, and the others open."""
    library = GraphLibrary(tmp_path, spelling)
    for name in ("bad", "good"):
        graph, _ = library.create(name)
        graph.change([Change(False, Triple("花", "", "还款", "一"))])
        graph.merge()
    library.close()
    (path,) = (tmp_path / "graphs" / "bad").rglob(file)
    if file == "objects.txt":
        path.unlink()
    else:
        path.write_bytes(b"nothing of the sort" * 50)
    library = GraphLibrary(tmp_path, spelling)
    assert library.names() == ["good"]
    for ask in (library.get, library.create):
        with pytest.raises(NotReady, match="the files of graph 'bad' are damaged"):
            ask("bad")
    library.delete("bad")
    assert library.create("bad")[1]
    library.close()


@pytest.mark.parametrize("damage", ["page", "manifest", "objects"])
def test_a_graph_damaged_inside_keeps_nobody_from_the_others(tmp_path: Path, damage: str) -> None:
    """Files that open, and of which a page, an entry or the end cannot be read, are damaged like any other."""
    library = GraphLibrary(tmp_path, CharacterSpelling(), is_merging=False)
    for name in ("bad", "good"):
        graph, _ = library.create(name)
        graph.change([Change(False, Triple(f"花{i}", "", "还款", "长" * 50)) for i in range(200)])
        if damage == "objects":
            graph.merge()
    library.close()
    file = {"page": "changes.db", "manifest": "manifest.json", "objects": "objects.txt"}[damage]
    (path,) = (tmp_path / "graphs" / "bad").rglob(file)
    if damage == "page":
        content = bytearray(path.read_bytes())
        content[4096:8192] = b"\xff" * 4096
        path.write_bytes(content)
    elif damage == "objects":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_text(json.dumps({"triples": 0}))
    library = GraphLibrary(tmp_path, CharacterSpelling(), is_merging=False)
    assert library.names() == ["good"]
    assert list(library.unreadable) == ["bad"]
    library.close()


def test_files_of_others_in_the_folder_of_graphs_stay(tmp_path: Path) -> None:
    """What a file manager leaves keeps the library from nothing."""
    GraphLibrary(tmp_path, CharacterSpelling(), is_merging=False).close()
    (tmp_path / "graphs" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "graphs" / ".new-1").mkdir()
    library = GraphLibrary(tmp_path, CharacterSpelling(), is_merging=False)
    assert [path.name for path in (tmp_path / "graphs").iterdir()] == [".DS_Store"]
    library.close()


def test_a_merge_leaves_the_files_of_a_graph_of_the_same_name(
    tmp_path: Path, spelling: NameTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a graph is deleted and made anew while a merge tidies up, nothing of the new one is removed."""
    library = GraphLibrary(tmp_path, spelling, is_merging=False)
    graph, _ = library.create("g")
    graph.change([Change(False, Triple("花", "", "还款", "一"))])
    forget, is_tidying, may_go_on = graph._log.forget, threading.Event(), threading.Event()

    def slow(number: int) -> None:
        is_tidying.set()
        assert may_go_on.wait(60)
        forget(number)

    monkeypatch.setattr(graph._log, "forget", slow)
    merging = threading.Thread(target=graph.merge)
    merging.start()
    assert is_tidying.wait(60)
    deleting = threading.Thread(target=library.delete, args=("g",))
    deleting.start()
    until(lambda: "g" not in library.names())  # it waits for the merge; the name is free already
    anew, is_new = library.create("g")
    assert is_new
    kept = Triple("银行", "", "额度", "二")
    anew.change([Change(False, kept)])
    may_go_on.set()
    merging.join()
    deleting.join()
    library.close()
    library = GraphLibrary(tmp_path, spelling, is_merging=False)
    assert library.unreadable == {}
    check(library.get("g"), [kept], spelling)
    assert [path.name for path in (tmp_path / "graphs").iterdir()] == ["g"]
    library.close()


def test_a_graph_that_was_deleted_has_no_size(tmp_path: Path) -> None:
    """Whoever describes a graph that goes away meanwhile is told that it is not there."""
    library = GraphLibrary(tmp_path, CharacterSpelling(), is_merging=False)
    graph, _ = library.create("g")
    assert graph.bytes() > 0
    library.delete("g")
    with pytest.raises(NotFound, match="deleted meanwhile"):
        graph.bytes()
    library.close()


def test_a_merge_that_fails_is_tried_again_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pauses double up to the longest, and end when nothing is in the way any more; other graphs are merged meanwhile."""
    monkeypatch.setattr("service.graphs.LEAST_CHANGES", 1)
    now = 0.0
    library = GraphLibrary(tmp_path, CharacterSpelling(), is_merging=False, clock=lambda: now)
    graph, other = library.create("bad")[0], library.create("good")[0]
    graph.change([Change(False, Triple("花", "", "还款", "一"))])
    in_the_way = graph.folder / "000002"
    (in_the_way / "something").mkdir(parents=True)
    failed_at = []
    for second in range(2_500):
        now = float(second)
        caplog.clear()
        library.merge_due()
        failed_at += [second] * ("could not be merged" in caplog.text)
    assert failed_at == [0, 2, 6, 14, 30, 62, 126, 254, 510, 1022, 1622, 2222]
    other.change([Change(False, Triple("花", "", "还款", "二"))])
    library.merge_due()
    assert (graph.pending, other.pending) == (1, 0)
    shutil.rmtree(in_the_way)
    now = 3_000.0
    library.merge_due()
    assert graph.pending == 0
    library.close()


def test_rows_of_a_large_generation_are_found_by_any_path(tmp_path: Path, spelling: NameTokenizer) -> None:
    """With thousands of names each triple is found by its subject, by its key, and by itself."""
    generator = np.random.default_rng(3)
    names = ["".join(generator.choice(list("花呗借怎么如何还款银行卡"), 4)) for _ in range(900)]
    rows = generator.integers(0, 900, (6_000, 3)).tolist()
    listed = list(dict.fromkeys(Triple(names[s], "", names[p], f"{names[o]}\u3000") for s, p, o in rows))
    (tmp_path / "file").write_text("".join(line_of(each) for each in [*listed, *listed[:100]]))
    graph = Graph.create(tmp_path / "g", spelling)
    assert load_triples(graph, tmp_path / "file", DEFAULT_LIMITS) == []
    facts: Facts = graph.view.facts
    assert facts.rows == len(listed)
    finder = facts.finder()
    places = [finder.row(each) for each in listed]
    assert sorted(place for place in places if place is not None) == list(range(len(listed)))
    assert facts.triples(np.array(places, np.int64)) == listed
    assert finder.row(listed[0]._replace(object="没有")) is None
    graph.close()


class Counted(CharacterSpelling):
    """Characters, and how many names became tokens."""

    def __init__(self) -> None:
        self.names = 0

    def tokenize(self, texts: Sequence[str]) -> Ragged:
        """Count and spell."""
        self.names += len(texts)
        return super().tokenize(texts)


def test_an_addition_is_spelled_once(tmp_path: Path) -> None:
    """After a change only what it brought becomes tokens, whatever else waits to be merged."""
    spelling = Counted()
    graph = Graph.create(tmp_path / "g", spelling)
    graph.change([Change(False, Triple(f"主语{i}", "", "关系", "宾语")) for i in range(100)])
    before = spelling.names
    assert len(graph.view.tree) == 100
    assert spelling.names == before + 3 * 100
    graph.change([Change(False, Triple("又一", "", "关系", "宾语")), Change(True, Triple("主语5", "", "关系", "宾语"))])
    assert len(graph.view.tree) == 100
    assert spelling.names == before + 3 * 101
    check(
        graph,
        [Triple(f"主语{i}", "", "关系", "宾语") for i in range(100) if i != 5] + [Triple("又一", "", "关系", "宾语")],
        spelling,
    )
    graph.close()
