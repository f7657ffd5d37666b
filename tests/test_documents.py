"""service/documents.py: the store against a dict, through changes, restarts and concurrent reading."""

import itertools
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.documents import Document, DocumentStore, Vectors, new_manifest
from service.filters import parse_filter

DIM = 3
ids = st.sampled_from(["a", "b", "c", "中", "d'1", "😀", "z" * 256])
documents = st.lists(
    st.builds(
        Document,
        ids,
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
        st.dictionaries(
            st.sampled_from(["k", "l"]), st.one_of(st.none(), st.booleans(), st.integers(0, 2)), max_size=2
        ),
    ),
    max_size=5,
    unique_by=lambda document: document.id,
)


def vectors_of(named: list[Document]) -> Vectors:
    """Vectors that only this text has: made from its bytes."""
    sums = [[float(len(d.text)), float(sum(map(ord, d.text))), float(len(d.id))] for d in named]
    return Vectors(np.array(sums, np.float32).reshape(-1, DIM), [d.text.encode() for d in named])


def new_store(folder: Path) -> DocumentStore:
    return DocumentStore.create(folder / "documents.db", new_manifest("model", DIM, "codec", "auto"))


def write(store: DocumentStore, named: list[Document]) -> np.ndarray:
    with store.write() as transaction:
        change = transaction.upsert(named, vectors_of(named))
        transaction.commit()
    return change.added


def named(count: int, start: int = 0, **metadata: Any) -> list[Document]:
    return [Document(f"d{i:05}", f"text {i}", metadata) for i in range(start, start + count)]


class StoreMachine(RuleBasedStateMachine):
    """Upserts, deletes, abandoned transactions and restarts in any order."""

    folder: Path

    @initialize()
    def create(self) -> None:
        for file in self.folder.glob("*"):
            file.unlink()
        self.store = new_store(self.folder)
        self.expected: dict[str, tuple[int, Document]] = {}
        self.last_row = 0

    @rule(given=documents)
    def upsert(self, given: list[Document]) -> None:
        """An upsert replaces what has the same id; its rows are new and follow on the last."""
        with self.store.write() as transaction:
            change = transaction.upsert(given, vectors_of(given))
            transaction.commit()
        old = sorted(self.expected[document.id][0] for document in given if document.id in self.expected)
        assert change.removed.tolist() == old
        assert change.added.tolist() == list(range(self.last_row + 1, self.last_row + 1 + len(given)))
        self.last_row += len(given)
        for row, document in zip(change.added.tolist(), given, strict=True):
            self.expected[document.id] = (row, document)

    @rule(given=st.lists(ids, max_size=4))
    def delete(self, given: list[str]) -> None:
        """Deleting removes what is there, however often it is named, and ignores the rest."""
        with self.store.write() as transaction:
            change = transaction.delete(given)
            transaction.commit()
        removed = {id: self.expected.pop(id)[0] for id in set(given) if id in self.expected}
        assert change.removed.tolist() == sorted(removed.values())
        assert not len(change.added)

    @rule(given=documents, is_error=st.booleans())
    def abandon(self, given: list[Document], is_error: bool) -> None:
        """A transaction that is never committed, by an error or not, leaves nothing."""
        try:
            with self.store.write() as transaction:
                transaction.delete(["a", "b"])
                transaction.upsert(given, vectors_of(given))
                transaction.record_progress("job", {"position": 1})
                if is_error:
                    raise KeyError
        except KeyError:
            pass

    @rule()
    def reopen(self) -> None:
        """A store that is closed and opened again is the same."""
        self.store.close()
        self.store = DocumentStore(self.folder / "documents.db")
        assert self.store.manifest["dim"] == str(DIM)

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def agrees(self) -> None:
        """Everything that can be read equals the dict."""
        by_row = dict(sorted(self.expected.values()))
        rows = list(by_row)
        with self.store.read() as view:
            assert view.count() == len(rows)
            assert view.rows().tolist() == rows
            assert view.documents([*rows, 10**6]) == by_row
            assert view.page("", 100) == [self.expected[id][1] for id in sorted(self.expected)]
            backwards = rows[::-1]
            wanted = vectors_of([by_row[row] for row in backwards])
            assert view.ids(backwards) == [by_row[row].id for row in backwards]
            assert view.tokens(backwards) == ([by_row[row].id for row in backwards], wanted.tokens)
            assert view.sentences(backwards).shape == (len(rows), DIM)
            assert np.array_equal(view.sentences(backwards), wanted.sentences)
            assert view.progress("job") is None
            for id in ("a", "nobody"):
                assert view.document(id) == (self.expected[id][1] if id in self.expected else None)
            for value in (True, 1):
                found = view.matching(parse_filter({"k": value}, 9)).tolist()
                assert found == [row for row in rows if by_row[row].metadata.get("k") is value]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


def test_any_sequence_of_changes_equals_a_dict(tmp_path: Path) -> None:
    """Upserts, deletes, abandoned transactions and restarts leave what a dict would hold; rows grow and are not reused."""

    class Machine(StoreMachine):
        folder = tmp_path

    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Machine, settings=settings(max_examples=30, stateful_step_count=15, deadline=None))


def test_rows_are_not_reused_after_everything_was_deleted(tmp_path: Path) -> None:
    """Also not over a restart, so that an index can tell what it missed."""
    store = new_store(tmp_path)
    assert write(store, named(3)).tolist() == [1, 2, 3]
    with store.write() as transaction:
        transaction.delete(["d00000", "d00001", "d00002"])
        transaction.commit()
    store.close()
    store = DocumentStore(tmp_path / "documents.db")
    assert write(store, named(1)).tolist() == [4]
    store.close()


def test_more_ids_than_one_statement_binds(tmp_path: Path) -> None:
    """Thousands of ids and rows in any order are read, replaced and deleted in one call."""
    store = new_store(tmp_path)
    corpus = named(1_701, lang="zh")
    first = write(store, corpus)
    rows = write(store, corpus[::-1])[::-1]
    assert rows.min() > first.max()
    order = np.random.default_rng(0).permutation(len(corpus))
    with store.read() as view:
        assert view.ids(rows[order].tolist()) == [corpus[i].id for i in order]
        assert np.array_equal(view.sentences(rows[order].tolist()), vectors_of([corpus[i] for i in order]).sentences)
        parts = list(view.contents(view.rows(), chunk=600))
        assert [len(part) for part, _, _ in parts] == [600, 600, 501]
        assert np.array_equal(np.concatenate([part for part, _, _ in parts]), np.sort(rows))
        assert [text for _, _, texts in parts for text in texts] == [d.text for d in corpus[::-1]]
    with store.write() as transaction:
        assert len(transaction.delete([d.id for d in corpus[:1_700]]).removed) == 1_700
        transaction.commit()
    with store.read() as view:
        assert view.page("", 10) == corpus[1_700:]
        assert view.matching(parse_filter({"lang": "zh"}, 9)).tolist() == [rows[1_700]]
    store.close()


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12), most=st.integers(1, 80), limit=st.integers(1, 13))
@settings(max_examples=60, deadline=None)
def test_a_page_is_bounded_in_characters(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int, limit: int
) -> None:
    """As the plain definition: as many as fit, but one at least; paging on gives every document once."""
    store = new_store(tmp_path_factory.mktemp("page"))
    corpus = [Document(f"{row:02}", "花" * size, {}) for row, size in enumerate(sizes)]
    write(store, corpus)
    left = corpus
    with store.read() as view:
        while left:
            sums = np.cumsum([len(one.text) + len("{}") for one in left])
            wanted = left[: min(limit, max(1, int((sums <= most).sum())))]
            assert view.page(f"{len(corpus) - len(left) - 1:02}" if left is not corpus else "", limit, most) == wanted
            left = left[len(wanted) :]
    store.close()


@pytest.mark.parametrize("limit", [1, 7, 50, 51])
def test_pages_cover_every_document_once(tmp_path: Path, limit: int) -> None:
    """Paging by the last id gives all documents in order of id, whatever the size of a page."""
    store = new_store(tmp_path)
    corpus = named(50)
    write(store, corpus[25:])
    write(store, corpus[:25])
    seen: list[Document] = []
    with store.read() as view:
        while page := view.page(seen[-1].id if seen else "", limit):
            seen += page
            assert len(page) <= limit
    store.close()
    assert seen == corpus


def test_a_view_is_one_state_while_others_commit(tmp_path: Path) -> None:
    """What a view reads first and last belongs to one commit, though a writer commits all the time."""
    store = new_store(tmp_path)
    batch = named(20)
    write(store, [document._replace(text="0") for document in batch])
    is_done = threading.Event()
    seen: list[set[str]] = []

    def look() -> None:
        while not is_done.is_set():
            with store.read() as view:
                texts = {document.text for document in view.page("", 10)}
                rows = view.rows().tolist()
                texts |= {document.text for document in view.documents(rows).values()}
                texts |= {packed.decode() for packed in view.tokens(rows)[1]}
            seen.append(texts)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(1, 40):
        write(store, [document._replace(text=str(version)) for document in batch])
    is_done.set()
    for reader in readers:
        reader.join()
    store.close()
    assert all(len(texts) == 1 for texts in seen)
    assert len(seen) > 1


def test_nested_views_of_a_thread_are_one_view(tmp_path: Path) -> None:
    """A commit between an outer and an inner view is seen by neither; the next view sees it."""
    store = new_store(tmp_path)
    with store.read() as outer:
        write(store, named(2))
        with store.read() as inner:
            assert inner.count() == outer.count() == 0
        assert outer.count() == 0
    with store.read() as view:
        assert view.count() == 2
    store.close()


def test_progress_is_written_with_its_documents(tmp_path: Path) -> None:
    """A job's record is there if and only if the documents of its transaction are."""
    store = new_store(tmp_path)
    for commits in (True, False):
        with store.write() as transaction:
            transaction.upsert(named(1, start=commits), vectors_of(named(1)))
            transaction.record_progress("job", {"position": 7 if commits else 8, "errors": [{"line": 1}]})
            if commits:
                transaction.commit()
        with store.read() as view:
            assert view.progress("job") == {"position": 7, "errors": [{"line": 1}]}
            assert view.count() == 1
    with store.write() as transaction:
        transaction.forget_progress("job")
        transaction.commit()
    with store.read() as view:
        assert view.progress("job") is None
    store.close()


def test_vectors_that_do_not_fit_the_documents_change_nothing(tmp_path: Path) -> None:
    """A wrong number of vectors is refused before anything is committed."""
    store = new_store(tmp_path)
    write(store, named(2))
    with pytest.raises(ValueError, match="shorter"), store.write() as transaction:
        transaction.upsert(named(2), vectors_of(named(1)))
    with store.read() as view:
        assert view.rows().tolist() == [1, 2]
    store.close()


@pytest.mark.parametrize("content", [None, b"", b"no database at all, " * 100])
def test_what_is_no_store_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or foreign file is a ValueError that names it."""
    file = tmp_path / "documents.db"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"documents\.db"):
        DocumentStore(file)


def test_commits_are_durable_before_they_return(tmp_path: Path) -> None:
    """The writer runs with a write-ahead log that is flushed at every commit."""
    store = new_store(tmp_path)
    modes = [store._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]
    write(store, named(3))
    with sqlite3.connect(f"file:{tmp_path}/documents.db?mode=ro", uri=True) as other:
        assert other.execute("SELECT COUNT(*) FROM documents").fetchone() == (3,)
    other.close()
    store.close()


def test_a_view_that_could_not_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    """After a first read that fails, the next view of the same thread sees what was written since."""
    store = new_store(tmp_path)
    write(store, named(1))
    with store.read() as view:
        assert view.count() == 1
    connection = store._reader()
    failed = has_opened = False
    for step in range(1, 200):
        counted = itertools.count(1)
        connection.set_progress_handler(lambda step=step, counted=counted: next(counted) == step, 1)
        try:
            with store.read():
                has_opened = True
        except sqlite3.OperationalError:
            failed = failed or not has_opened
        finally:
            connection.set_progress_handler(None, 0)
        if has_opened:
            break
        assert not connection.in_transaction
    assert failed
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    write(store, named(1, start=1))
    with store.read() as view:
        assert view.count() == 2
    store.close()
