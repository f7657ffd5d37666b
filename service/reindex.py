"""A collection encoded anew with the present model, beside the old one, which it replaces at the end.

Killed in the middle, the old collection is untouched.
"""

import logging
import uuid
from pathlib import Path

from tqdm import tqdm

from models.token_codec import token_codec
from service.batching import EncodeQueue
from service.collections import Collection
from service.document_rules import Entry
from service.documents import new_manifest
from service.indexing import CANNOT_ENCODE, Indexer
from service.library import Library
from service.runtime import load_encoder
from service.settings import Settings

PAGE = 1_024

log = logging.getLogger(__name__)


def reindex(settings: Settings, name: str) -> None:
    """Encode every document of a collection again.

    Raises:
        RuntimeError: the data folder is in use, or a text cannot be encoded; the collection stays as it was.
        ValueError: there is no such collection or no usable model.
    """
    if not settings.data_dir.is_dir():
        raise ValueError(f"there is no data folder {settings.data_dir}")
    library = Library(settings.data_dir)
    try:
        old = library.get(name)
        encoder = load_encoder(settings)
        codec = token_codec(encoder)
        queue = EncodeQueue(encoder, settings.max_batch_tokens, settings.max_queued_texts, settings.max_queued_tokens)
        manifest = new_manifest(encoder.fingerprint, encoder.dim, codec.name, old.manifest["index"])
        manifest["created_at"] = old.manifest["created_at"]
        folder = library.data_dir / "collections" / f".reindex-{uuid.uuid4().hex}"
        new = Collection.create(folder, manifest, encoder.device)
        try:
            _copy(old, new, Indexer(queue, codec))
        finally:
            queue.close()
            new.close()
        library.replace(name, Path(folder))
    finally:
        library.close()


def _copy(old: Collection, new: Collection, indexer: Indexer) -> None:
    with old.view() as view, tqdm(total=view.count(), unit="documents", desc=old.name) as bar:
        after = ""
        while page := view.page(after, PAGE):
            entries = [Entry(id=document.id, text=document.text, metadata=document.metadata) for document in page]
            indexed = indexer.finish(new, indexer.begin(entries, is_limited=False))
            for refused in indexed.refused:
                if refused.reason == CANNOT_ENCODE:  # perhaps only at present, as where memory ran out
                    raise RuntimeError(
                        f"document {refused.id!r} cannot be encoded, the log has the reason; the collection stays as it was"
                    )
                log.warning("document %r is left out: %s", refused.id, refused.reason)
            new.maintain()
            bar.update(len(page))
            after = page[-1].id
        for job, record in view.all_progress():  # or an interrupted import would begin anew, over what is newer than it
            new.record_progress(job, record)
