"""Keys: who may read, who may write, and how often.

With keys configured every route but the probes and the page's own files needs one, as ``Authorization: Bearer KEY`` or
``X-API-Key: KEY``. A read-only key may search and look; whatever changes something needs a key that may write. Keys come from the
environment, or from a file that is read again when it changes: a line ``NAME read|write sha256:HEX`` (or the key itself instead
of its hash) for each. Only hashes are kept, and a comparison takes the same time whichever key is wrong.
"""

import hashlib
import hmac
import ipaddress
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from service.errors import Forbidden, RateLimited, Unauthorized

OPEN_PATHS = frozenset({"/livez", "/readyz"})
PAGE_FILES = "/web/"
"""The page and what it is made of: the same for everybody, and a browser that opens a page can send no key."""
READING_POSTS = (
    *("/search", "/similarity", "/paraphrases", "/ask"),
    *("/embeddings", "/rerank", "/embed", "/embed_all", "/predict", "/tokenize", "/decode"),
    *("/tei/embedding", "/tei/reranker"),
)
"""How the paths of POST routes end that change nothing."""
READING_METHODS = ("GET", "HEAD", "OPTIONS")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
HASH = "sha256:"

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """What is known of a key."""

    name: str
    may_write: bool
    digest: bytes


class Access:
    """Decides about requests by their key."""

    def __init__(
        self,
        keys: Sequence[str],
        read_only_keys: Sequence[str],
        file: Path | None = None,
        metrics_open: bool = False,
        rate_per_s: float = 0.0,
        burst: int = 1,
        origins: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take keys and limits; ``rate_per_s`` 0 means as often as one likes, ``origins`` are pages of other sites that may call.

        Raises:
            ValueError: the file of keys cannot be used.
        """
        self._fixed = [Key(f"key-{i}", True, _digest(key)) for i, key in enumerate(keys, 1)]
        self._fixed += [Key(f"reader-{i}", False, _digest(key)) for i, key in enumerate(read_only_keys, 1)]
        self._file = file
        self._version = None if file is None else _version(file)
        self._said: tuple[tuple[int, int, int] | None, str] | None = None
        """Which version of the file could not be used, and why, as the log says already."""
        self._keys = self._fixed + ([] if file is None else read_keys(file))
        self._open_paths = OPEN_PATHS | ({"/metrics"} if metrics_open else set())
        self._buckets: dict[str, _Bucket] = {}
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._origins = frozenset(origins)
        self._clock = clock

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Let a request pass, and return the name of its key; None where none was needed.

        Raises:
            Unauthorized: it needs a key and has no valid one.
            Forbidden: its key may only read, or a page of another site sent it.
            RateLimited: its key asks too often.
        """
        is_reading = method in READING_METHODS
        if not is_reading:
            self._check_origin(headers)
        self._reload()
        if self._file is None and not self._keys:
            return None
        is_page = path == "/" or (path.startswith(PAGE_FILES) and ".." not in path)
        if path in self._open_paths or (is_page and is_reading):
            return None
        given = _digest_of_header(_key(headers))
        # Every comparison is made, so that the time says nothing about which key matched.
        found = [key for key in self._keys if hmac.compare_digest(given, key.digest)]
        if not found:
            raise Unauthorized("this service needs a key: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        may_write = any(key.may_write for key in found)
        is_reading = is_reading or (method == "POST" and (path.rstrip("/") or "/").endswith((*READING_POSTS, "/")))
        if not (may_write or is_reading):
            raise Forbidden("this key may only read")
        name = found[0].name
        self._take_turn(name)
        return name

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse what a page of another site lets its visitor's browser send: the browser says so itself.

        Old browsers do not, nor any for a plain http address of another machine: then the page's origin must be this host.
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin", "")
        is_foreign = site in ("cross-site", "same-site")
        if site is None and origin:
            is_foreign = origin.partition("://")[2].lower() != headers.get("host", "").lower()
        if is_foreign and not self._origins & {origin, "*"}:
            raise Forbidden(
                "a page of another site may not change anything here; name it in cors_origins to let it",
                reason="cross_site",
            )

    def _take_turn(self, name: str) -> None:
        if self._rate_per_s > 0:
            bucket = self._buckets.setdefault(name, _Bucket(float(self._burst), self._clock()))
            wait_s = bucket.take(self._rate_per_s, self._burst, self._clock())
            if wait_s:
                raise RateLimited(
                    f"this key may ask rate_limit_per_s = {self._rate_per_s:g} times a second "
                    f"and rate_limit_burst = {self._burst} times at once; try again later",
                    retry_after_s=math.ceil(wait_s),
                )

    def _reload(self) -> None:
        """Read the file of keys again if it changed; while it cannot be used, the keys stay as they were."""
        if self._file is None:
            return
        version = None
        try:
            version = _version(self._file)
            if version != self._version:
                self._keys = self._fixed + read_keys(self._file)
                self._version = version  # not before: what cannot be read now may be readable soon, without a change
                log.info("the keys were read again: there are %d now", len(self._keys))
            self._said = None
        except ValueError as error:
            fault = (version, str(error))
            if fault != self._said:
                log.error("the keys stay as they were: %s", error)
            self._said = fault


class _Bucket:
    """Turns that a key has left."""

    def __init__(self, turns: float, at: float) -> None:
        self._turns = turns
        self._at = at

    def take(self, rate_per_s: float, burst: int, now: float) -> float:
        """Take a turn and return 0, or the seconds until there is one."""
        self._turns = min(float(burst), self._turns + (now - self._at) * rate_per_s)
        self._at = now
        if self._turns < 1.0 - 1e-6:  # whoever waited as told is not sent away for a rounding
            return (1.0 - self._turns) / rate_per_s
        self._turns -= 1.0
        return 0.0


def read_keys(file: Path) -> list[Key]:
    """Read a file of keys: a line ``NAME read|write KEY`` for each, KEY being the key or ``sha256:HEX``; ``#`` begins a comment.

    Raises:
        ValueError: it cannot be read, or a line is not of this form; the key itself is never repeated.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"api_keys_file: {file} cannot be read: {type(error).__name__}") from error
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or not NAME.fullmatch(words[0]) or words[1] not in ("read", "write"):
            raise ValueError(f"line {number} of the file of keys {file} is not of the form: NAME read|write KEY")
        if any(key.name == words[0] for key in keys):
            raise ValueError(f"line {number} of the file of keys {file} has a name that was there before")
        keys.append(Key(words[0], words[1] == "write", _digest_of_entry(words[2], f"line {number} of {file}")))
    return keys


def new_key(name: str, role: str) -> tuple[str, str]:
    """Make a key; return it and the line about it for the file of keys, which holds only its hash.

    Raises:
        ValueError: the name is not 1 to 64 letters, digits or ``._-``.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"the name of a key has 1 to 64 letters, digits or . _ -, not {name!r}")
    key = f"mr_{secrets.token_urlsafe(32)}"
    return key, f"{name} {role} {HASH}{_digest(key).hex()}"


def check_exposure(host: str, has_keys: bool, is_open: bool) -> None:
    """Refuse to listen beyond this machine without a key, unless that was asked for.

    Raises:
        ValueError: anybody in the network could read and write.
    """
    if not (has_keys or is_open or _is_loopback(host)):
        raise ValueError(
            f"host {host} can be reached from elsewhere and there are no keys: set MOVERANK_API_KEYS or "
            "MOVERANK_API_KEYS_FILE, or MOVERANK_OPEN=true where something else decides who gets here"
        )


def split_list(entries: str) -> list[str]:
    """Split comma-separated entries, leaving out empty ones."""
    return [entry.strip() for entry in entries.split(",") if entry.strip()]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _version(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError as error:
        raise ValueError(f"api_keys_file: {file} cannot be read: {type(error).__name__}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _key(headers: Mapping[str, str]) -> str:
    """Return the key of a request. Some clients send it as the whole header, without a scheme."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key", "" if token else scheme)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _digest_of_header(key: str) -> bytes:
    """Hash the bytes of a header, which arrives decoded as Latin-1 whatever its sender meant."""
    try:
        return hashlib.sha256(key.encode("latin-1")).digest()
    except UnicodeEncodeError:
        return _digest(key)


def _digest_of_entry(entry: str, where: str) -> bytes:
    if not entry.startswith(HASH):
        return _digest(entry)
    try:
        digest = bytes.fromhex(entry.removeprefix(HASH))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"{where} has a hash that is not {HASH} and 64 hexadecimal digits")
    return digest
