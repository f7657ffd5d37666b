"""Integers of more than 64 bits in JSON: orjson reads them as floats, and digits are lost without a word."""

import json
import re

_LONG = re.compile(rb"[0-9]{20}")


class _FoundError(Exception):
    """An integer is too long."""


def wrong_integer(content: bytes) -> str | None:
    """Return why the integers of valid JSON cannot be kept as they are, None if they can."""
    if not _LONG.search(content):  # nearly always; and what is found may stand inside of a string
        return None
    try:
        json.loads(content, parse_int=_check)
    except _FoundError as found:
        return f"the integer {found} has more than 64 bits"
    except RecursionError:  # nested as no document may be
        return None
    return None


def _check(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 64:
        raise _FoundError(digits[:40])
    return 0
