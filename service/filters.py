"""Metadata filters: ``{"lang": "zh", "year": {"gte": 2020}, "tag": {"in": ["a", "b"]}}`` as range scans of an ordered table.

All conditions must hold. A value that is a list in the metadata satisfies a condition if one of its items does (``ne`` and
``nin``: if none does not). Numbers, strings and booleans are different: 1 is not "1" and not true. Strings longer than 256
characters are kept but cannot be filtered by.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard

Value = str | int | float | bytes

MAX_FILTER_CHARS = 256
_LONG = b"\x02"
"""In place of a string that is too long to be compared: it exists."""
_OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists")
_SYMBOLS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_SCAN = "SELECT row FROM attributes WHERE key = ? AND "
_OTHERS = "SELECT row FROM token_vectors EXCEPT "


class Condition(NamedTuple):
    """A query for the rows that satisfy one condition, and the values it binds."""

    sql: str
    values: tuple[Value, ...]


def parse_filter(expression: dict[str, Any], max_terms: int) -> list[Condition]:
    """Turn a filter into conditions that must all hold.

    Raises:
        ValueError: an operator is unknown, a value is no scalar, or there are more than ``max_terms`` conditions and values.
    """
    conditions: list[Condition] = []
    for key, wanted in expression.items():
        if not isinstance(wanted, dict):
            conditions.append(_condition(key, "eq", wanted))
            continue
        if not wanted:
            raise ValueError(f"filter: {_shown(key)} has an empty condition")
        conditions += [_condition(key, operator, value) for operator, value in wanted.items()]
    terms = sum(max(1, len(condition.values) - 1) for condition in conditions)  # the first value is the key
    if terms > max_terms:
        raise ValueError(
            f"filter has {terms} conditions and values, at most max_filter_terms = {max_terms} are allowed"
        )
    return conditions


def attribute_values(metadata: dict[str, Any]) -> Iterator[tuple[str, Value]]:
    """Yield the (key, value) pairs of a document's metadata that filters can find."""
    for key, entry in metadata.items():
        for value in entry if isinstance(entry, list) else [entry]:
            if isinstance(value, bool):
                yield key, _boolean(value)
            elif _is_comparable(value):
                yield key, value
            elif isinstance(value, str):
                yield key, _LONG


def _condition(key: str, operator: str, value: Any) -> Condition:
    if operator not in _OPERATORS:
        raise ValueError(f"filter: {_shown(operator)} is not an operator; use one of {', '.join(_OPERATORS)}")
    if operator == "exists":
        if not isinstance(value, bool):
            raise ValueError(f"filter: exists of {_shown(key)} needs true or false")
        return Condition(f"{'' if value else _OTHERS}{_SCAN}1", (key,))
    if operator in ("in", "nin"):
        if not isinstance(value, list) or not value:
            raise ValueError(f"filter: {operator} of {_shown(key)} needs a list that is not empty")
        listed = tuple(_scalar(key, item) for item in value)
        return Condition(
            f"{_OTHERS if operator == 'nin' else ''}{_SCAN}value IN ({','.join('?' * len(listed))})", (key, *listed)
        )
    scalar = _scalar(key, value)
    if operator in ("eq", "ne"):
        return Condition(f"{_OTHERS if operator == 'ne' else ''}{_SCAN}value = ?", (key, scalar))
    if isinstance(scalar, bytes):
        raise ValueError(f"filter: {operator} of {_shown(key)} needs a number or a string")
    # SQLite orders numbers before texts before blobs; the second comparison keeps the scan inside the value's own type.
    if operator in ("gt", "gte"):
        inside = "value < x''" if isinstance(scalar, str) else "value < ''"
    else:
        inside = "value >= ''" if isinstance(scalar, str) else "value >= -9e999"
    return Condition(f"{_SCAN}value {_SYMBOLS[operator]} ? AND {inside}", (key, scalar))


def _scalar(key: str, value: Any) -> Value:
    if isinstance(value, bool):
        return _boolean(value)
    if _is_comparable(value):
        return value
    if isinstance(value, int):
        raise ValueError(f"filter: the value of {_shown(key)} has more than 64 bits, which no metadata has")
    raise ValueError(
        f"filter: the value of {_shown(key)} must be a number, a boolean or a string of at most {MAX_FILTER_CHARS} characters"
    )


def _boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _is_comparable(value: Any) -> TypeGuard[str | int | float]:
    if isinstance(value, str):
        return len(value) <= MAX_FILTER_CHARS
    return isinstance(value, float) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:61] + "...")
