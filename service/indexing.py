"""Documents -> vectors -> store and indexes: the one path by which documents enter a collection.

Encoding is asynchronous: `begin` puts texts into the encoder's bulk lane and returns, `finish` waits and writes. Whoever has many
documents begins the next batch before finishing the last, so that the encoder never waits for the store.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from models.token_codec import TokenCodec
from service.batching import EncodeQueue, Submission
from service.collections import Collection
from service.document_rules import Entry
from service.documents import Document, Vectors


class Refused(NamedTuple):
    """A document of which nothing is stored."""

    position: int  # among what was given
    id: str
    reason: str


class Indexed(NamedTuple):
    """What became of a batch."""

    ids: list[str]
    truncated: list[str]  # ids of texts that are longer than the encoder reads
    refused: list[Refused]


NO_TOKEN = "the text has no token that the model can read"
CANNOT_ENCODE = "the model cannot encode the text; the log has the reason"


class Batch(NamedTuple):
    """Documents whose vectors are on their way."""

    documents: list[Document]
    positions: list[int]  # of the documents among what was given
    submission: Submission
    truncated: list[str]
    unreadable: dict[int, str]  # positions of the documents without a token, and their ids


class Indexer:
    """Encodes documents and writes them to collections."""

    def __init__(self, queue: EncodeQueue, codec: TokenCodec) -> None:
        self._queue = queue
        self._codec = codec
        self.fingerprint = queue.encoder.fingerprint

    @property
    def is_beyond_repair(self) -> bool:
        """Whether the encoder hangs and only a new process can help."""
        return self._queue.is_beyond_repair

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
            readable,
            self._queue.submit([tokenized[i] for i in readable], "bulk", is_limited),
            [documents[i].id for i in readable if tokenized[i].truncated],
            {i: documents[i].id for i, text in enumerate(tokenized) if not text.inner},
        )

    def finish(
        self,
        collection: Collection,
        batch: Batch,
        job: str = "",
        progress: Callable[[Indexed], dict[str, Any]] | None = None,
    ) -> Indexed:
        """Wait for the vectors and write the batch durably, with the progress of a job in the same transaction.

        A text that the network cannot encode is refused, the others are written. ``progress`` turns what became of the
        batch into the record of the job.
        """
        encoded, failures = batch.submission.outcome()
        kept = [i for i in range(len(batch.documents)) if i not in failures]
        refused = [Refused(position, id, NO_TOKEN) for position, id in batch.unreadable.items()]
        refused += [Refused(batch.positions[i], batch.documents[i].id, CANNOT_ENCODE) for i in failures]
        documents = [batch.documents[i] for i in kept]
        ids = [document.id for document in documents]
        written = set(ids)
        indexed = Indexed(ids, [id for id in batch.truncated if id in written], refused)
        record = None if progress is None else progress(indexed)
        if documents:
            packed = self._codec.pack(encoded)
            vectors = Vectors(encoded.sentences[kept], [packed[i] for i in kept])
            collection.upsert(documents, vectors, job, record)
        elif record is not None:
            collection.record_progress(job, record)
        return indexed
