"""Documents -> vectors -> store and indexes: the one path by which documents enter a collection.

Encoding is asynchronous: `begin` puts texts into the encoder's bulk lane and returns, `finish` waits and writes. Whoever has many
documents begins the next batch before finishing the last, so that the encoder never waits for the store.
"""

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from models.token_codec import TokenCodec
from service.batching import EncodeQueue, Submission
from service.collections import Collection
from service.document_rules import Entry
from service.documents import Document, Vectors


class Indexed(NamedTuple):
    """What became of a batch."""

    ids: list[str]
    truncated: list[str]  # ids of texts that are longer than the encoder reads
    unreadable: list[str]  # ids of texts without a token; nothing of them is stored


class Batch(NamedTuple):
    """Documents whose vectors are on their way."""

    documents: list[Document]
    submission: Submission
    truncated: list[str]
    unreadable: dict[int, str]  # positions of the documents without a token, and their ids


class Indexer:
    """Encodes documents and writes them to collections."""

    def __init__(self, queue: EncodeQueue, codec: TokenCodec) -> None:
        self._queue = queue
        self._codec = codec

    def begin(self, entries: Sequence[Entry], is_limited: bool) -> Batch:
        """Tokenize documents and queue them for encoding; of entries with the same id the last that has a token counts.

        Raises:
            Overloaded: the queue is full (only with ``is_limited``).
        """
        documents = [Document(each["id"] or uuid.uuid4().hex, each["text"], each["metadata"]) for each in entries]
        tokenized = self._queue.encoder.tokenize([document.text for document in documents])
        readable = list({documents[i].id: i for i, text in enumerate(tokenized) if text.inner}.values())
        return Batch(
            [documents[i] for i in readable],
            self._queue.submit([tokenized[i] for i in readable], "bulk", is_limited),
            [documents[i].id for i in readable if tokenized[i].truncated],
            {i: documents[i].id for i, text in enumerate(tokenized) if not text.inner},
        )

    def finish(
        self, collection: Collection, batch: Batch, job: str = "", progress: dict[str, Any] | None = None
    ) -> Indexed:
        """Wait for the vectors and write the batch durably, with the progress of a job in the same transaction."""
        encoded = batch.submission.result()
        if batch.documents:
            collection.upsert(batch.documents, Vectors(encoded.sentences, self._codec.pack(encoded)), job, progress)
        elif progress is not None:
            collection.record_progress(job, progress)
        return Indexed([document.id for document in batch.documents], batch.truncated, list(batch.unreadable.values()))
