"""The rules of one document: what may be its id, text and metadata, wherever it comes from.

A document that breaks one is refused with a reason that a person can act on; nothing is repaired or cut.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import orjson

MAX_ID_CHARS = 256
_STEPS = re.compile(r"[/\\]")
_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


class Limits(NamedTuple):
    """What a document may be."""

    max_text_chars: int = 100_000
    max_metadata_bytes: int = 65_536  # as JSON
    max_line_bytes: int = 4 << 20  # a longer line or csv record is passed over without being held in memory


class Entry(TypedDict):
    """A document that was checked; one without an id has yet to be named."""

    id: str | None
    text: str
    metadata: dict[str, Any]


DEFAULT_LIMITS = Limits()


def check_document(given: object, limits: Limits) -> tuple[Entry | None, str | None]:
    """Check ``{"text", "id"?, "metadata"?}``; return the document and None, or None and the reason."""
    if not isinstance(given, dict):
        return None, f'a document is an object with "text", not {_kind(given)}'
    if unknown := [key for key in given if key not in ("id", "text", "metadata")]:
        return None, f"unknown field {shown(unknown[0])}: a document has id, text and metadata"
    id, text, metadata = given.get("id"), given.get("text"), given.get("metadata")
    metadata = {} if metadata is None else metadata
    reason = wrong_text(text, limits) or _wrong_id(id) or _wrong_metadata(metadata, limits)
    if reason is not None:
        return None, reason
    return Entry(id=None if id is None else str(id), text=str(text), metadata=metadata), None


def from_record(record: Any, limits: Limits) -> tuple[Entry | None, str | None]:
    """Check an object whose fields besides id, text and metadata are metadata too."""
    if isinstance(record, dict):
        others = {name: value for name, value in record.items() if name not in ("id", "text", "metadata")}
        metadata = record.get("metadata")
        if others and (metadata is None or isinstance(metadata, dict)):
            if both := [name for name in others if name in (metadata or {})]:
                return None, f"field {shown(both[0])} is there twice, beside the metadata and inside"
            record = {"id": record.get("id"), "text": record.get("text"), "metadata": others | (metadata or {})}
    return check_document(record, limits)


def from_cells(header: Sequence[str], fields: Sequence[str], limits: Limits) -> tuple[Entry | None, str | None]:
    """Check the fields of a table's line: id, text, and metadata that are strings."""
    if len(fields) != len(header):
        expected = ", ".join(map(shown, header[:20]))
        return None, f"the line has {len(fields)} fields, but {len(header)} are expected: {expected}"
    cells = {name: field for name, field in zip(header, fields, strict=True) if name and field}
    return check_document({"id": cells.pop("id", None), "text": cells.pop("text", ""), "metadata": cells}, limits)


def wrong_header(names: Sequence[str]) -> str | None:
    """Return why documents cannot be read under these columns, None if they can."""
    if twice := [name for name in names if name and names.count(name) > 1]:
        return f"the column {shown(twice[0])} is there twice; nothing was read from the file"
    if "text" not in names:
        there = ", ".join(map(shown, names[:20]))
        return f"no column is called text, there are: {there}; nothing was read from the file"
    return None


def wrong_text(text: object, limits: Limits) -> str | None:
    """Return why a text is none that can be stored or searched for, None if it can."""
    if text is None:
        return 'there is no "text"'
    if not isinstance(text, str):
        return f'"text" must be a string, not {_kind(text)}'
    if len(text) > limits.max_text_chars:
        return f"the text has {len(text)} characters, more than max_text_chars={limits.max_text_chars}"
    if not text.strip():
        return "the text is empty"
    return _wrong_characters("the text", text)


def _wrong_id(id: object) -> str | None:
    if id is None or (isinstance(id, int) and not isinstance(id, bool)):
        return _wrong_scalar("the id", id)
    if not isinstance(id, str):
        return f'"id" must be a string or an integer, not {_kind(id)}'
    if not 1 <= len(id) <= MAX_ID_CHARS:
        return f'"id" must have 1 to {MAX_ID_CHARS} characters, this one has {len(id)}'
    if {".", ".."} & set(_STEPS.split(id)):
        return '"id" may not be "." or ".." or a path with such a step: clients resolve these before they send a path'
    return _wrong_characters("the id", id)


def _wrong_metadata(metadata: object, limits: Limits) -> str | None:
    if not isinstance(metadata, dict):
        return f'"metadata" must be an object, not {_kind(metadata)}'
    for key, entry in metadata.items():
        if not isinstance(key, str):
            return f"a name in the metadata must be a string, not {_kind(key)}"
        for value in [key, *entry] if isinstance(entry, list) else (key, entry):
            if value is None or type(value) is bool or (type(value) is float and math.isfinite(value)):
                continue  # there may be millions
            if type(value) is int and -(1 << 63) <= value < 1 << 63:
                continue
            if isinstance(value, str):
                reason = _wrong_characters(f"metadata {shown(key)}", value)
            else:
                reason = _wrong_scalar(f"metadata {shown(key)}", value)
            if reason:
                return reason
    if metadata and (size := len(orjson.dumps(metadata))) > limits.max_metadata_bytes:
        return f"the metadata has {size} bytes as JSON, more than max_metadata_bytes={limits.max_metadata_bytes}"
    return None


def _wrong_scalar(what: str, value: object) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{what} is {value}, which JSON has not"
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return f"{what} has an integer of more than 64 bits"
    if value is None or isinstance(value, int | float):
        return None
    return f"{what} must be a string, a number, a boolean, null or a list of these, not {_kind(value)}"


def _wrong_characters(what: str, value: str) -> str | None:
    if "\0" in value:
        return f"{what} contains a null byte"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"{what} contains half of a surrogate pair, U+{ord(value[error.start]):04X}"
    return None


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def shown(name: str) -> str:
    """Quote a caller's word for a message: short and printable."""
    return ascii(name if len(name) <= 64 else f"{name[:61]}...") if not name.isprintable() else repr(name[:64])
