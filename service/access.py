"""Keys: who may read and who may write.

With keys configured every route but the probes needs one, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``. A read-only
key may search and look; whatever changes something needs a key that may write. Only hashes are kept, and a comparison takes the
same time whichever key is wrong.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from service.errors import Forbidden, Unauthorized

OPEN_PATHS = frozenset({"/livez", "/readyz"})
_READING_POSTS = ("/search", "/similarity")


class Access:
    """Decides about requests by their key."""

    def __init__(self, keys: Sequence[str], read_only_keys: Sequence[str]) -> None:
        self._writers = [_digest(key) for key in keys]
        self._readers = [_digest(key) for key in read_only_keys]

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Let a request pass.

        Raises:
            Unauthorized: it needs a key and has no valid one.
            Forbidden: its key may only read.
        """
        if not (self._writers or self._readers) or path in OPEN_PATHS:
            return
        given = _digest(_key(headers))
        # Every comparison is made, so that the time says nothing about which key matched.
        may_write = any([hmac.compare_digest(given, key) for key in self._writers])
        may_read = any([hmac.compare_digest(given, key) for key in self._readers])
        if not (may_write or may_read):
            raise Unauthorized("this service needs a key: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        is_reading = method in ("GET", "HEAD", "OPTIONS") or (method == "POST" and path.endswith(_READING_POSTS))
        if not (may_write or is_reading):
            raise Forbidden("this key may only read")


def split_keys(keys: str) -> list[str]:
    """Split comma-separated keys, leaving out empty ones."""
    return [key.strip() for key in keys.split(",") if key.strip()]


def _key(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
