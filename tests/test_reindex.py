"""service/reindex.py: another model takes over a collection, and nothing is lost on the way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import write_bert
from models.encoder import Encoder
from service.document_rules import Entry
from service.documents import Document
from service.errors import Conflict
from service.library import Library
from service.reindex import reindex
from service.runtime import Runtime
from service.settings import Settings

TEXTS = {f"d{i:03}": text for i, text in enumerate(["花呗怎么还款", "信用卡如何提额度", "选课成绩查询", "退货"] * 8)}


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
    before = contents(runtime.library)
    runtime.close()
    reindex(other_settings, "faq")
    runtime = Runtime(other_settings)
    collection = runtime.library.get("faq")
    collection.check_model(runtime.encoder.fingerprint)
    assert contents(runtime.library) == before
    assert collection.manifest["index"] == "HNSW16"
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


def test_what_cannot_be_reindexed_is_said(settings: Settings, runtime: Runtime) -> None:
    """A folder in use and a collection that is not there are refused."""
    with pytest.raises(RuntimeError, match="in use"):
        reindex(settings, "faq")
    elsewhere = settings.model_copy(update={"data_dir": settings.data_dir / "elsewhere"})
    with pytest.raises(ValueError, match="no collection 'faq'"):
        reindex(elsewhere, "faq")
