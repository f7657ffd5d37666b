"""Where `scripts.index_corpus` puts documents: a collection of a local data folder, or one of a running service."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import httpx
import orjson

from service.document_rules import Entry
from service.errors import ServiceError
from service.indexing import Batch
from service.runtime import Runtime
from service.settings import Settings

ANSWER_TIMEOUT_S = 300.0
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 30.0


class Answer(NamedTuple):
    """What became of a batch: two counts, and the reasons of refused documents by id."""

    indexed: int
    truncated: int
    refused: dict[str, str]


class Target(Protocol):
    """A collection somewhere; batches are written in the order in which they begin."""

    place: str

    def begin(self, entries: list[Entry]) -> Any:
        """Start to index documents with distinct ids."""

    def finish(self, begun: Any) -> Answer:
        """Wait until they are durable.

        Raises:
            Stopped: the run cannot go on.
        """

    def close(self) -> None:
        """Give back what the target holds."""


class Stopped(Exception):
    """The run cannot go on; the message says why."""


class LocalCollection:
    """A collection of a data folder that no service has open."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Open the folder, load the model, and make the collection if it is new.

        Raises:
            Stopped: one of these is not possible.
        """
        self.place = f"{settings.data_dir.resolve()} {name}"
        try:
            self._runtime = Runtime(settings)
        except (RuntimeError, ValueError, OSError) as error:
            raise Stopped(str(error)) from error
        try:
            self._collection, _ = self._runtime.create_collection(name)
            self._collection.check_model(self._runtime.encoder.fingerprint)
        except ServiceError as error:
            self.close()
            raise Stopped(error.sentence) from error

    def begin(self, entries: list[Entry]) -> Batch:
        """Queue documents for the encoder."""
        return self._runtime.indexer.begin(entries, is_limited=False)

    def finish(self, begun: Batch) -> Answer:
        """Write documents and vectors in one transaction."""
        indexed = self._runtime.indexer.finish(self._collection, begun)
        refused = {each.id: each.reason for each in indexed.refused}
        return Answer(len(indexed.ids), len(indexed.truncated), refused)

    def close(self) -> None:
        """Write the snapshots of the indexes and close the folder."""
        self._runtime.close()


class RemoteCollection:
    """A collection of a running service; one request is on its way while the next batch is read."""

    def __init__(self, url: str, key: str | None, name: str, patience_s: float) -> None:
        """Connect, and make the collection if it is new; a request is repeated for ``patience_s`` seconds at most.

        Raises:
            Stopped: the service does not answer, or refuses.
        """
        self.place = f"{url.rstrip('/')} {name}"
        self._path = f"/v1/collections/{name}"
        self._patience_s = patience_s
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._client = httpx.Client(
            base_url=url, headers=headers, timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=10.0)
        )
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="sender")
        self._is_closing = threading.Event()
        try:
            answer = self._send("PUT", self._path, b"")
            if not answer.is_success:
                raise Stopped(_sentence(answer))
        except Stopped:
            self.close()
            raise

    def begin(self, entries: list[Entry]) -> "Future[Answer]":
        """Send documents."""
        return self._sender.submit(self._index, entries)

    def finish(self, begun: "Future[Answer]") -> Answer:
        """Wait for the service's answer."""
        return begun.result()

    def close(self) -> None:
        """Give up what was not sent, and disconnect."""
        self._is_closing.set()
        self._sender.shutdown(cancel_futures=True)
        self._client.close()

    def _index(self, entries: list[Entry]) -> Answer:
        answer = self._send("POST", f"{self._path}/documents", orjson.dumps({"documents": entries}))
        if answer.is_success:
            written = answer.json()
            return Answer(written["upserted"], len(written["truncated"]), {})
        if answer.status_code not in (413, 422):
            raise Stopped(_sentence(answer))
        if len(entries) == 1:
            return Answer(0, 0, {str(entries[0]["id"]): _sentence(answer)})
        # The service refuses a request as a whole: halving finds the documents that it means.
        half = len(entries) // 2
        one, other = self._index(entries[:half]), self._index(entries[half:])
        return Answer(one.indexed + other.indexed, one.truncated + other.truncated, one.refused | other.refused)

    def _send(self, method: str, path: str, body: bytes) -> httpx.Response:
        """Repeat a request until the answer is not "later" (429, 5xx, no answer at all)."""
        give_up_at = time.monotonic() + self._patience_s
        backoff_s = FIRST_BACKOFF_S
        while True:
            wait_s = backoff_s
            try:
                answer = self._client.request(method, path, content=body)
                if answer.status_code != 429 and answer.status_code < 500:
                    return answer
                reason = _sentence(answer)
                asked_s = answer.headers.get("Retry-After", "")
                wait_s = float(asked_s) if asked_s.isdecimal() else backoff_s
            except httpx.TransportError as error:
                reason = f"{self._client.base_url} does not answer ({error or type(error).__name__})"
            if time.monotonic() + wait_s > give_up_at:
                raise Stopped(f"given up after {self._patience_s:g} s: {reason}")
            if self._is_closing.wait(wait_s):
                raise Stopped(f"interrupted while waiting: {reason}")
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {answer.status_code}"
