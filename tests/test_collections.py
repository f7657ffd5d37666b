"""service/collections.py: store and indexes in step, whatever happens to the files, and a library that heals itself."""

import gc
import json
import re
import shutil
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from live_service import ROOT
from service.collections import Collection
from service.documents import Document, Vectors, new_manifest
from service.errors import Conflict, InvalidRequest, NotFound
from service.filters import parse_filter
from service.lexical import LexicalIndex
from service.library import Library

DIM = 8
KINDS = ["auto", "Flat", "HNSW16", "IVF4,Flat", "PQ4x4fs"]
SNAPSHOTS = ["vectors.index", "lexical.index"]
PATIENCE_S = 60.0
ALPHABET = "花呗借还款信用卡额度"


def vector(text: str) -> np.ndarray:
    """A unit vector that a text always gets; texts that begin alike lie close together."""
    generators = (np.random.default_rng(zlib.crc32(part.encode())) for part in (text[:1], text))
    near, own = (generator.standard_normal(DIM) for generator in generators)
    mixed = near + 0.5 * own
    return np.asarray(mixed / np.linalg.norm(mixed), np.float32)


def vectors_of(documents: list[Document]) -> Vectors:
    sentences = np.array([vector(document.text) for document in documents], np.float32).reshape(-1, DIM)
    return Vectors(sentences, [b""] * len(documents))


def make(folder: Path, kind: str = "auto") -> Collection:
    return Collection.create(folder, new_manifest("model", DIM, "codec", kind), "cpu")


def upsert(collection: Collection, texts: dict[str, str]) -> None:
    documents = [Document(id, text, {"first": text[0]}) for id, text in texts.items()]
    collection.upsert(documents, vectors_of(documents))


def open_files(folder: Path) -> list[str]:
    """What this process has open below a folder, also what is deleted."""
    places = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return [str(place) for place in places if place.is_relative_to(folder)]


def stop(collection: Collection) -> None:
    """End without a word, as a process that is killed: what is not in the store is gone."""
    collection.store.close()


def texts_of(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list(ALPHABET), size=generator.integers(2, 7))) for _ in range(count)]


def answers(collection: Collection, k: int = 5) -> list[object]:
    """What searches give: ids and scores by vector and by words, with and without a filter."""
    queries = ["花呗还款", "信用卡额度", "借"]
    found: list[object] = []
    with collection.searching(), collection.view() as view:
        for expression in ({}, {"first": "花"}, {"first": {"in": ["信", "借", "度"]}}):
            allowed = view.matching(parse_filter(expression, 9)) if expression else None
            by_vector = collection.vectors.search(np.stack([vector(query) for query in queries]), k, allowed)
            by_words = collection.lexical.search(queries, k, allowed)
            for scores, rows in (by_vector, by_words):
                for some, row in zip(scores, rows, strict=True):
                    ids = view.ids(row[row >= 0].tolist())
                    found.append(list(zip(ids, some[: len(ids)].round(5).tolist(), strict=True)))
    return found


def assert_in_step(collection: Collection, expected: dict[str, str]) -> None:
    """Both indexes hold exactly the store's rows, and search as brute force over the store does."""
    with collection.searching(), collection.view() as view:
        rows = view.rows()
        documents = view.documents(rows.tolist())
        assert {document.id: document.text for document in documents.values()} == expected
        assert np.array_equal(np.sort(collection.vectors.rows()), rows)
        assert np.array_equal(np.sort(collection.lexical.rows()), rows)
        texts = [documents[row].text for row in rows.tolist()]
        fresh = LexicalIndex()
        fresh.add(rows, texts)
        for query in ("花呗还款", "信用"):
            scores, found = (part[0] for part in collection.lexical.search([query], 4))
            fresh_scores, fresh_rows = (part[0] for part in fresh.search([query], 4))
            assert np.array_equal(found, fresh_rows)
            assert np.allclose(scores, fresh_scores, rtol=1e-5)
            scores, found = (part[0] for part in collection.vectors.search(vector(query)[None], 4))
            sentences = vectors_of(list(documents[row] for row in rows.tolist())).sentences
            every = sentences @ vector(query)
            kept = found[found >= 0]
            assert len(kept) == min(4, len(rows))
            assert np.allclose(np.sort(every)[::-1][:4], scores[: len(kept)], atol=1e-5)
            assert np.allclose(every[np.searchsorted(rows, kept)], scores[: len(kept)], atol=1e-5)


def damage(file: Path, how: str, older: bytes | None) -> None:
    """Do to a file what disks and people do."""
    content = file.read_bytes()
    if how == "delete":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(content[: len(content) * 2 // 3])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "flip":
        changed = bytearray(content)
        changed[len(content) // 2] ^= 16
        file.write_bytes(changed)
    elif how == "older":
        assert older is not None
        file.write_bytes(older)
    else:
        file.write_bytes(b"something else entirely " * 99)


class CollectionMachine(RuleBasedStateMachine):
    """Changes, restarts, kills and damaged files in any order."""

    folder: Path
    kind: str

    @initialize()
    def create(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.collection = make(self.folder, self.kind)
        self.expected: dict[str, str] = {}
        self.older: dict[str, bytes] = {}

    @rule(texts=st.dictionaries(st.sampled_from("abcdefghij"), st.text(ALPHABET, min_size=1, max_size=5), min_size=1))
    def upsert(self, texts: dict[str, str]) -> None:
        upsert(self.collection, texts)
        self.expected |= texts

    @rule(ids=st.lists(st.sampled_from("abcdefghij"), max_size=4))
    def delete(self, ids: list[str]) -> None:
        assert self.collection.delete(ids) == len(set(ids) & set(self.expected))
        for id in ids:
            self.expected.pop(id, None)

    @rule()
    def maintain(self) -> None:
        self.collection.maintain()

    @rule()
    def save(self) -> None:
        self.collection.save_snapshot()
        for name in SNAPSHOTS:
            if (self.folder / name).exists():
                self.older.setdefault(name, (self.folder / name).read_bytes())

    @rule()
    def restart(self) -> None:
        self.collection.close()
        self.collection = Collection(self.folder, "cpu")

    @rule(name=st.sampled_from(SNAPSHOTS), how=st.sampled_from(["leave", "delete", "truncate", "flip", "older"]))
    def kill(self, name: str, how: str) -> None:
        stop(self.collection)
        file = self.folder / name
        if file.exists() and how != "leave":
            damage(file, how, self.older.get(name, file.read_bytes()))
        self.collection = Collection(self.folder, "cpu")

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "collection"):
            assert_in_step(self.collection, self.expected)

    def teardown(self) -> None:
        if hasattr(self, "collection"):
            stop(self.collection)


@pytest.mark.parametrize("wanted", KINDS)
def test_any_sequence_of_events_equals_brute_force(tmp_path: Path, wanted: str) -> None:
    """Upserts, deletes, restarts, kills and damaged snapshots never bring store and indexes out of step."""

    class Machine(CollectionMachine):
        folder = tmp_path / "faq"
        kind = wanted

    run_state_machine_as_test(Machine, settings=settings(max_examples=8, stateful_step_count=12, deadline=None))


@pytest.mark.parametrize("kind", KINDS)
def test_a_grown_collection_searches_like_brute_force(tmp_path: Path, kind: str) -> None:
    """With FAISS's own index at work: full results of living, allowed documents with true scores, and few are missed."""
    collection = make(tmp_path / "faq", kind)
    corpus = {f"d{i:04}": text for i, text in enumerate(texts_of(1_500, seed=1))}
    names = list(corpus)
    for start in range(0, 1_400, 350):
        upsert(collection, {id: corpus[id] for id in names[start : start + 350]})
        collection.maintain()
    gone = names[100:350]
    collection.delete(gone)
    upsert(collection, {id: corpus[id] for id in names[1_400:]})  # stays in the tail
    if kind not in ("auto", "Flat"):
        assert collection.vectors.kind == kind
    expected = {id: text for id, text in corpus.items() if id not in set(gone)}
    for restarted in (False, True):
        if restarted:
            collection.close()
            collection = Collection(tmp_path / "faq", "cpu")
            if kind not in ("auto", "Flat"):
                assert collection.vectors.kind == kind
        with collection.searching(), collection.view() as view:
            rows = view.rows()
            documents = view.documents(rows.tolist())
            assert {document.id: document.text for document in documents.values()} == expected
            assert np.array_equal(np.sort(collection.lexical.rows()), rows)
            sentences = vectors_of([documents[row] for row in rows.tolist()]).sentences
            queries = np.stack([vector(text) for text in texts_of(30, seed=2)])
            for expression in ({}, {"first": "花"}, {"first": {"ne": "花"}}):
                allowed = view.matching(parse_filter(expression, 9)) if expression else rows
                inside = np.searchsorted(rows, allowed)
                every = queries @ sentences[inside].T  # (q, n)
                scores, found = collection.vectors.search(queries, 10, allowed if expression else None)
                places = np.searchsorted(allowed, found)
                assert np.array_equal(allowed[places], found)
                assert np.allclose(np.take_along_axis(every, places, 1), scores, atol=1e-5)
                best = -np.sort(-every, axis=1)[:, :10]
                assert np.mean(scores >= best[:, -1:] - 1e-5) > 0.9
                if kind in ("auto", "Flat"):
                    assert np.allclose(scores, best, atol=1e-5)
    collection.close()


@pytest.mark.parametrize("name", SNAPSHOTS)
@pytest.mark.parametrize("how", ["delete", "truncate", "empty", "flip", "foreign", "older"])
def test_a_damaged_snapshot_heals(tmp_path: Path, name: str, how: str) -> None:
    """Whatever became of a snapshot, the next start answers as before, and leaves a whole one when it ends."""
    folder = tmp_path / "faq"
    collection = make(folder)
    upsert(collection, dict(zip("abcdefgh", texts_of(8, seed=3), strict=True)))
    collection.save_snapshot()
    older = (folder / name).read_bytes()
    upsert(collection, dict(zip("fghijklm", texts_of(8, seed=4), strict=True)))
    collection.delete(["a", "k"])
    collection.save_snapshot()
    before = answers(collection)
    stop(collection)
    damage(folder / name, how, older)
    for _ in range(2):
        collection = Collection(folder, "cpu")
        assert answers(collection) == before
        collection.close()
    kept = [(folder / each).stat().st_mtime_ns for each in SNAPSHOTS]
    collection = Collection(folder, "cpu")
    collection.close()
    assert [(folder / each).stat().st_mtime_ns for each in SNAPSHOTS] == kept  # nothing was left to catch up with


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_snapshot_that_cannot_be_read_is_made_anew(tmp_path: Path, name: str) -> None:
    """A folder in its place, as whatever else the system refuses to read, costs a rebuild and nothing more."""
    collection = make(tmp_path / "faq")
    upsert(collection, dict(zip("abcdefgh", texts_of(8, seed=3), strict=True)))
    before = answers(collection)
    stop(collection)
    (tmp_path / "faq" / name).unlink(missing_ok=True)
    (tmp_path / "faq" / name).mkdir()
    collection = Collection(tmp_path / "faq", "cpu")
    assert answers(collection) == before
    collection.close()


def test_a_collection_that_could_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    """Where its folder cannot take its name, what was begun beside it is gone."""
    (tmp_path / "faq").mkdir()
    (tmp_path / "faq" / "something").touch()
    with pytest.raises(OSError, match="not empty"):
        make(tmp_path / "faq")
    assert [path.name for path in tmp_path.iterdir()] == ["faq"]


FEW_FILES = """
import json, os, resource, sys
from contextlib import suppress
from pathlib import Path
from service.library import Library

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
most = max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 16
resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
held = []
with suppress(OSError):
    while True:  # every number below the limit
        held.append(os.open(os.devnull, os.O_RDONLY))
for number in held[-4:]:  # for the lock of the folder and a part of what a store needs
    os.close(number)
library = Library(Path(sys.argv[1]))
print(json.dumps(library.unreadable))
"""


def test_a_store_out_of_reach_is_not_called_damaged(tmp_path: Path) -> None:
    """Too few open files: the sentence says that nothing is lost, and does not speak of giving the collection up."""
    library_with(tmp_path, good="花呗", bad="退货").close()
    child = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    unreadable = json.loads(child.stdout)
    assert unreadable
    for name, sentence in unreadable.items():
        assert f"collection {name!r} cannot be opened at present" in sentence
        assert "nothing in them is lost" in sentence
        assert "DELETE" not in sentence
    library = Library(tmp_path)
    assert (library.names(), library.unreadable) == (["bad", "good"], {})
    library.close()


def test_a_store_that_is_put_back_from_a_backup_is_the_truth(tmp_path: Path) -> None:
    """Snapshots that are newer than the store mislead nobody: what follows is searched as if they had never been."""
    folder = tmp_path / "faq"
    collection = make(folder)
    upsert(collection, {"a": "花呗", "b": "借"})
    collection.close()
    backup = (folder / "documents.db").read_bytes()
    collection = Collection(folder, "cpu")
    upsert(collection, {"b": "还款", "c": "信用卡", "d": "额度"})
    collection.close()
    (folder / "documents.db").write_bytes(backup)
    expected = {"a": "花呗", "b": "借"}
    for texts in ({"c": "额度信用"}, {"a": "借款"}, {"e": "花"}):
        collection = Collection(folder, "cpu")
        assert_in_step(collection, expected)
        upsert(collection, texts)
        expected |= texts
        assert_in_step(collection, expected)
        stop(collection)
    collection = Collection(folder, "cpu")
    assert_in_step(collection, expected)
    collection.close()


def test_a_search_sees_whole_batches(tmp_path: Path) -> None:
    """While batches replace and delete everything, each search finds documents of one batch only, and all of them exist."""
    collection = make(tmp_path / "faq")
    names = [f"d{i}" for i in range(12)]
    versions = texts_of(30, seed=5)
    is_done = threading.Event()
    seen: list[tuple[set[str], int]] = []
    faults: list[str] = []

    def look() -> None:
        while not is_done.is_set():
            with collection.searching(), collection.view() as view:
                rows = collection.vectors.search(vector("花呗")[None], 50)[1][0]
                worded = collection.lexical.search(["".join(ALPHABET)], 50)[1][0]
                rows, worded = rows[rows >= 0], worded[worded >= 0]
                known = view.rows()
            found = view_of(collection, rows)
            if sorted(rows) != sorted(worded) or sorted(rows) != known.tolist():
                faults.append("the indexes and the store hold different rows")
            seen.append((set(found), len(rows)))

    def view_of(collection: Collection, rows: np.ndarray) -> list[str]:
        with collection.searching(), collection.view() as view:
            return [document.text for document in view.documents(rows.tolist()).values()]

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version, text in enumerate(versions):
        upsert(collection, dict.fromkeys(names, text))
        if version % 3 == 2:
            collection.delete(names)
        collection.maintain()
    is_done.set()
    for reader in readers:
        reader.join(PATIENCE_S)
    collection.close()
    assert not faults
    assert all(len(texts) <= 1 and count in (0, len(names)) for texts, count in seen)
    assert len(seen) > 5


def test_snapshots_written_during_changes_are_whole(tmp_path: Path) -> None:
    """A snapshot that is saved while documents come and go is of one state, from which a start catches up."""
    folder = tmp_path / "faq"
    collection = make(folder)
    is_done = threading.Event()

    def save() -> None:
        while not is_done.is_set():
            collection.save_snapshot()

    saver = threading.Thread(target=save)
    saver.start()
    expected: dict[str, str] = {}
    for round in range(6):
        for i, text in enumerate(texts_of(8, seed=round)):
            upsert(collection, {f"d{i}": text, f"e{i}{round}": text})
            expected |= {f"d{i}": text, f"e{i}{round}": text}
        collection.delete([f"e{i}{round}" for i in range(4)])
        for i in range(4):
            del expected[f"e{i}{round}"]
        copy = tmp_path / f"copy{round}"
        copy.mkdir()
        for name in SNAPSHOTS:
            if (folder / name).exists():
                shutil.copy(folder / name, copy / name)
        with collection.searching():
            for file in folder.glob("documents.db*"):
                shutil.copy(file, copy / file.name)
        copied = Collection(copy, "cpu")
        assert_in_step(copied, expected)
        stop(copied)
    is_done.set()
    saver.join(PATIENCE_S)
    collection.close()


@pytest.mark.parametrize(
    "sentences",
    [np.full((1, DIM), np.nan, np.float32), np.ones((1, DIM + 1), np.float32), np.ones((2, DIM), np.float32)],
)
def test_vectors_that_cannot_be_searched_are_not_stored(tmp_path: Path, sentences: np.ndarray) -> None:
    """What an index would refuse never gets into the store, where it would stand in the way of the next start."""
    collection = make(tmp_path / "faq")
    upsert(collection, {"a": "花呗"})
    with pytest.raises(ValueError, match="vectors"):
        collection.upsert([Document("a", "借", {})], Vectors(sentences, [b""]))
    assert_in_step(collection, {"a": "花呗"})
    stop(collection)
    collection = Collection(tmp_path / "faq", "cpu")
    assert_in_step(collection, {"a": "花呗"})
    collection.close()


def test_a_snapshot_is_saved_when_much_has_changed(tmp_path: Path) -> None:
    """A few changes wait for the end; nothing is written where nothing changed."""
    folder = tmp_path / "faq"
    collection = make(folder)
    upsert(collection, {"a": "花呗"})
    collection.save_snapshot_if_due(0.0)
    assert not (folder / "vectors.index").exists()
    collection.close()
    written = (folder / "vectors.index").stat().st_mtime_ns
    collection = Collection(folder, "cpu")
    assert collection.bytes() > written.bit_length()
    collection.close()
    assert (folder / "vectors.index").stat().st_mtime_ns == written


def library_with(data_dir: Path, **collections: str) -> Library:
    library = Library(data_dir)
    for name, text in collections.items():
        collection, is_new = library.create(name, "model", DIM, "codec")
        assert is_new
        upsert(collection, {"a": text})
    return library


def test_a_data_folder_has_one_owner(tmp_path: Path) -> None:
    """A second library on the same folder is refused until the first is closed."""
    library = library_with(tmp_path, faq="花呗")
    with pytest.raises(RuntimeError, match="in use"):
        Library(tmp_path)
    library.close()
    library = Library(tmp_path)
    assert library.names() == ["faq"]
    library.close()


def test_collections_are_created_once_and_found_again(tmp_path: Path) -> None:
    """Creating is idempotent; names are checked; what does not exist is said so."""
    library = library_with(tmp_path, faq="花呗", bank="借")
    again, is_new = library.create("faq", "another model", DIM, "codec", "HNSW16")
    assert (again, is_new) == (library.get("faq"), False)
    again.check_model("model")
    with pytest.raises(Conflict, match="moverank reindex faq"):
        again.check_model("another model")
    assert library.names() == ["bank", "faq"]
    with pytest.raises(NotFound):
        library.get("nothing")
    for name in ("", "Großes", "a/b", "..", ".ready-faq", "-a", "a" * 65, "faq\n"):
        with pytest.raises(InvalidRequest):
            library.create(name, "model", DIM, "codec")
    for index in ("nonsense", "HNSW9999999", "PQ3x4fs", "IVF4,Flat,"):
        with pytest.raises(InvalidRequest, match="index '") as refused:
            library.create("new", "model", DIM, "codec", index)
        assert not re.search(r"/|\.cpp|std::", str(refused.value))  # of FAISS's source
    library.close()
    library = Library(tmp_path)
    assert library.names() == ["bank", "faq"]
    assert_in_step(library.get("faq"), {"a": "花呗"})
    library.close()


def test_what_was_half_created_or_half_deleted_is_cleaned_up(tmp_path: Path) -> None:
    """Folders that a dying process left are gone after the next start, and nothing else is."""
    library = library_with(tmp_path, faq="花呗", bank="借")
    library.close()
    folder = tmp_path / "collections"
    for name in (".new-1", ".reindex-2"):
        shutil.copytree(folder / "faq", folder / name)
    (folder / "bank").rename(folder / ".deleted-3")  # the process ended before the files were removed
    (folder / ".new-4").mkdir()
    (folder / ".DS_Store").write_bytes(b"\0")  # what a file manager leaves
    library = Library(tmp_path)
    assert library.names() == ["faq"]
    assert sorted(path.name for path in folder.iterdir()) == [".DS_Store", "faq"]
    assert_in_step(library.get("faq"), {"a": "花呗"})
    library.close()


@pytest.mark.parametrize("step", range(4))
def test_a_replacement_is_finished_after_a_crash(tmp_path: Path, step: int) -> None:
    """Before the decisive rename the old collection stays; after it the next start has the new one, wherever it broke off."""
    library = library_with(tmp_path, faq="花呗", bank="借")
    library.close()
    folder = tmp_path / "collections"
    new = make(folder / ".reindex-1")
    upsert(new, {"b": "信用卡"})
    new.close()
    if step >= 1:
        (folder / ".reindex-1").rename(folder / ".ready-faq")
    if step >= 2:
        (folder / "faq").rename(folder / ".deleted-1")
    if step >= 3:
        shutil.rmtree(folder / ".deleted-1")
    library = Library(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["bank", "faq"] == library.names()
    assert_in_step(library.get("faq"), {"b": "信用卡"} if step else {"a": "花呗"})
    assert_in_step(library.get("bank"), {"a": "借"})
    library.close()


def test_replacing_puts_the_new_collection_in_place(tmp_path: Path) -> None:
    """Afterwards the name means the new documents, now and after a restart."""
    library = library_with(tmp_path, faq="花呗")
    new = make(tmp_path / "collections" / ".reindex-1")
    upsert(new, {"b": "信用卡"})
    new.close()
    library.replace("faq", new.folder)
    assert_in_step(library.get("faq"), {"b": "信用卡"})
    library.close()
    library = Library(tmp_path)
    assert_in_step(library.get("faq"), {"b": "信用卡"})
    library.close()


def test_a_deleted_collection_leaves_nothing_and_can_be_made_again(tmp_path: Path) -> None:
    """Its searches may finish; who still holds it can neither write nor begin to read; a new one of its name is empty."""
    library = library_with(tmp_path, faq="花呗")
    old = library.get("faq")
    with old.searching(), old.view() as view:
        library.delete("faq")
        assert view.count() == 1
        assert len(view.documents(view.rows().tolist())) == 1
    assert not (tmp_path / "collections" / "faq").exists()
    with pytest.raises(NotFound):
        library.get("faq")
    with pytest.raises(NotFound):
        library.delete("faq")
    new, is_new = library.create("faq", "model", DIM, "codec")
    assert is_new
    for write in (lambda: upsert(old, {"z": "借"}), lambda: old.delete(["a"]), lambda: old.record_progress("j", {})):
        with pytest.raises(NotFound, match="deleted"):
            write()
    old.maintain()
    old.save_snapshot()
    assert sorted(path.name for path in new.folder.glob("*.index*")) == []
    faults: list[BaseException] = []

    def look() -> None:
        try:
            with old.searching(), old.view():
                pass
        except NotFound as error:
            faults.append(error)

    other = threading.Thread(target=look)  # has no connection yet, and may not get one to the new collection
    other.start()
    other.join(PATIENCE_S)
    assert len(faults) == 1
    assert_in_step(new, {})
    library.close()


def test_a_deleted_collection_gives_back_its_disk_space(tmp_path: Path) -> None:
    """Nothing of it stays open, whichever threads have read it, also where the service froze it when it was ready."""
    library = library_with(tmp_path, faq="花呗")
    gc.collect()
    gc.freeze()

    def read() -> None:
        with library.get("faq").view() as view:
            assert view.count() == 1

    try:
        with ThreadPoolExecutor(1) as other:  # its thread lives longer than the collection
            read()
            other.submit(read).result(PATIENCE_S)
            assert len(open_files(tmp_path / "collections")) > 2
            library.delete("faq")
            assert open_files(tmp_path / "collections") == []
    finally:
        gc.unfreeze()
    library.close()


def test_searching_while_collections_come_and_go(tmp_path: Path) -> None:
    """A search of a collection that is deleted meanwhile ends with its documents or with NotFound, never otherwise."""
    library = Library(tmp_path)
    is_done = threading.Event()
    faults: list[BaseException] = []
    found: list[int] = []

    def look() -> None:
        while not is_done.is_set():
            try:
                collection = library.get("faq")
                with collection.searching(), collection.view() as view:
                    rows = collection.vectors.search(vector("花")[None], 9)[1][0]
                    found.append(len(view.documents(rows[rows >= 0].tolist())))
                collection.bytes()
            except NotFound:
                pass
            except BaseException as error:
                faults.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(8):
        collection, _ = library.create("faq", "model", DIM, "codec")
        upsert(collection, dict(zip("abc", texts_of(3, seed=0), strict=True)))
        library.maintain(0.0)
        library.delete("faq")
    is_done.set()
    for reader in readers:
        reader.join(PATIENCE_S)
    library.close()
    assert not faults
    assert set(found) <= {0, 3}


@pytest.mark.parametrize("name", ["vectors", "lexical"])
def test_a_write_that_was_not_carried_through_is_healed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What is committed but did not get into an index, because memory ran out, is there after the next start."""
    collection = make(tmp_path / "faq")
    expected = {"a": "花呗", "b": "还款", "c": "信用"}
    upsert(collection, {"a": "花呗"})
    with monkeypatch.context() as patched:
        failing = {"vectors": "update", "lexical": "apply"}[name]
        patched.setattr(getattr(collection, name), failing, lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            upsert(collection, {"b": "还款"})
    upsert(collection, {"c": "信用"})
    collection.close()
    collection = Collection(tmp_path / "faq", "cpu")
    assert_in_step(collection, expected)
    stop(collection)


def test_a_snapshot_that_failed_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the last snapshot and is tried again; closing succeeds; what a killed process left goes away."""
    collection = make(tmp_path / "faq")
    upsert(collection, {"a": "花呗", "b": "还款"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("service.vector_index.write_snapshot", full)
        with pytest.raises(OSError, match="No space"):
            collection.save_snapshot()
    collection.save_snapshot()
    assert sorted(file.name for file in (tmp_path / "faq").glob("*.index")) == sorted(SNAPSHOTS)
    upsert(collection, {"c": "信用"})
    with monkeypatch.context() as patched:
        patched.setattr("service.vector_index.write_snapshot", full)
        collection.close()
    (tmp_path / "faq" / "vectors.index.4711.new").write_bytes(b"half")
    collection = Collection(tmp_path / "faq", "cpu")
    assert not list((tmp_path / "faq").glob("*.new"))
    assert_in_step(collection, {"a": "花呗", "b": "还款", "c": "信用"})
    stop(collection)
