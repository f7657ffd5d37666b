"""service/reindex.py: another model takes over a collection, and nothing is lost on the way."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import write_bert
from hooked_forward import HookedForward
from models.encoder import Encoder
from service.document_rules import Entry
from service.documents import Document
from service.errors import Conflict, NotFound
from service.jobs import Progress
from service.library import Library
from service.reindex import reindex
from service.runtime import Runtime
from service.settings import Settings

PATIENCE_S = 60.0
TEXTS = {f"d{i:03}": text for i, text in enumerate(["花呗怎么还款", "信用卡如何提额度", "选课成绩查询", "退货"] * 8)}


def has_no_room(ids: NDArray[np.int64]) -> None:
    """Fail as a network does that has no memory for longer texts."""
    if ids.shape[1] > 8:
        raise MemoryError


@pytest.fixture(name="other_settings")
def _other_settings(settings: Settings, model_folder: Path, tmp_path: Path) -> Settings:
    """The same data folder under another model: other weights, other dimension, contextual token vectors."""
    folder = tmp_path / "other"
    write_bert(folder, hidden_size=16, num_attention_heads=2)
    (folder / "moverank.json").write_text(json.dumps({"token_vectors": "hidden", "max_tokens": 48}))
    return settings.model_copy(update={"model": folder, "pooling": "mean"})


def fill(settings: Settings, index: str = "auto") -> None:
    runtime = Runtime(settings)
    collection, _ = runtime.create_collection("faq", index)
    entries = [Entry(id=id, text=text, metadata={"size": len(text)}) for id, text in TEXTS.items()]
    runtime.indexer.finish(collection, runtime.indexer.begin(entries, is_limited=False))
    runtime.create_collection("untouched")
    runtime.close()


def contents(library: Library) -> list[Document]:
    with library.get("faq").view() as view:
        return view.page("", 1_000)


def test_a_collection_moves_to_another_model(settings: Settings, other_settings: Settings) -> None:
    """Before, the service refuses its vectors and names the command; after it, they are the new model's, and all else is kept."""
    fill(settings, "HNSW16")
    runtime = Runtime(other_settings)
    with pytest.raises(Conflict, match="moverank reindex faq"):
        runtime.library.get("faq").check_model(runtime.encoder.fingerprint)
    before, created_at = contents(runtime.library), runtime.library.get("faq").manifest["created_at"]
    runtime.close()
    time.sleep(1.0)  # it is in seconds
    reindex(other_settings, "faq")
    runtime = Runtime(other_settings)
    collection = runtime.library.get("faq")
    collection.check_model(runtime.encoder.fingerprint)
    assert contents(runtime.library) == before
    assert collection.manifest["index"] == "HNSW16"
    assert collection.manifest["created_at"] == created_at
    assert collection.manifest["codec"] == runtime.codec.name == "int8"
    expected = runtime.encoder.encode(runtime.encoder.tokenize([document.text for document in before]))
    with collection.searching(), collection.view() as view:
        rows = view.rows().tolist()
        assert view.ids(rows) == [document.id for document in before]
        assert np.allclose(view.sentences(rows), expected.sentences, atol=1e-5)
        scores, found = collection.vectors.search(expected.sentences[:1], 1)
        assert scores[0, 0] == pytest.approx(1.0, abs=1e-5)
        assert view.documents(found[0].tolist())[int(found[0, 0])].text == before[0].text
        assert len(collection.lexical) == len(TEXTS)
    with pytest.raises(Conflict):
        runtime.library.get("untouched").check_model(runtime.encoder.fingerprint)
    names = sorted(path.name for path in (settings.data_dir / "collections").iterdir())
    assert names == ["faq", "untouched"]
    runtime.close()


def test_killed_in_the_middle_the_old_collection_is_whole(settings: Settings, other_settings: Settings) -> None:
    """What a dying reindex leaves is cleaned up, and it can be started again."""
    fill(settings)
    folder = settings.data_dir / "collections"
    shutil.copytree(folder / "faq", folder / ".reindex-half")
    (folder / ".reindex-half" / "documents.db").write_bytes(b"")
    library = Library(settings.data_dir)
    assert len(contents(library)) == len(TEXTS)
    assert not (folder / ".reindex-half").exists()
    library.close()
    reindex(other_settings, "faq")
    library = Library(settings.data_dir)
    assert [document.id for document in contents(library)] == list(TEXTS)
    library.get("faq").check_model(Encoder(other_settings.model, "cpu", "mean").fingerprint)
    library.close()


def test_an_encoder_that_fails_leaves_the_collection_as_it_was(settings: Settings, tmp_path: Path) -> None:
    """A model folder that is none is refused before anything is changed."""
    fill(settings)
    with pytest.raises(ValueError, match="none"):
        reindex(settings.model_copy(update={"model": tmp_path / "none"}), "faq")
    library = Library(settings.data_dir)
    assert len(contents(library)) == len(TEXTS)
    assert library.names() == ["faq", "untouched"]
    library.close()


def test_a_text_that_cannot_be_encoded_leaves_the_collection_as_it_was(
    settings: Settings, other_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out loses no document: nothing is replaced, and the same command succeeds later."""
    fill(settings)
    forward = HookedForward(other_settings.model, "mean")
    forward.before = has_no_room
    encoder = Encoder(other_settings.model, "cpu", "mean", forward)
    with monkeypatch.context() as short_of_memory:
        short_of_memory.setattr("service.reindex.load_encoder", lambda settings: encoder)
        with pytest.raises(RuntimeError, match="stays as it was"):
            reindex(other_settings, "faq")
    library = Library(settings.data_dir)
    assert [document.id for document in contents(library)] == list(TEXTS)
    library.get("faq").check_model(Encoder(settings.model, "cpu").fingerprint)
    library.close()
    reindex(other_settings, "faq")
    library = Library(settings.data_dir)
    assert [document.id for document in contents(library)] == list(TEXTS)
    library.close()


def test_an_interrupted_import_goes_on_where_it_was(settings: Settings, other_settings: Settings) -> None:
    """After a reindex the import neither overwrites what was written since nor revives what was deleted since."""
    lines = [json.dumps({"id": id, "text": text}) for id, text in TEXTS.items()]
    runtime = Runtime(settings)
    collection, _ = runtime.create_collection("faq")
    runtime.jobs._stopping.set()  # the process ends when three lines are written
    id, spool = runtime.jobs.new_spool()
    spool.write_text("\n".join(lines))
    runtime.jobs.submit(id, "import", "faq", {"format": "jsonl", "compression": None, "name": id})
    first = [Entry(id=f"d{i:03}", text=TEXTS[f"d{i:03}"], metadata={}) for i in range(3)]
    record = Progress(position=3, done=3).record()
    runtime.indexer.finish(collection, runtime.indexer.begin(first, is_limited=False), id, lambda _: record)
    newer = [Entry(id="d001", text="借呗", metadata={})]
    runtime.indexer.finish(collection, runtime.indexer.begin(newer, is_limited=False))
    collection.delete(["d002"])
    runtime.close()
    reindex(other_settings, "faq")
    runtime = Runtime(other_settings)
    job = runtime.jobs.get(id)
    give_up_at = time.monotonic() + PATIENCE_S
    while job.state == "running":
        assert time.monotonic() < give_up_at, job.status()
        time.sleep(0.01)
    assert (job.state, job.progress.done) == ("done", len(TEXTS))
    found = {document.id: document.text for document in contents(runtime.library)}
    assert found == {id: text for id, text in TEXTS.items() if id != "d002"} | {"d001": "借呗"}
    runtime.close()


def test_what_cannot_be_reindexed_is_said(settings: Settings, runtime: Runtime) -> None:
    """A folder in use and a collection that is not there are refused."""
    with pytest.raises(RuntimeError, match="in use"):
        reindex(settings, "faq")
    elsewhere = settings.model_copy(update={"data_dir": settings.data_dir / "elsewhere"})
    with pytest.raises(ValueError, match="no data folder"):
        reindex(elsewhere, "faq")
    assert not elsewhere.data_dir.exists()
    elsewhere.data_dir.mkdir()
    with pytest.raises(NotFound, match="no collection 'faq'"):
        reindex(elsewhere, "faq")
