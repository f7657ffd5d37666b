"""What a file of documents is: told by its name, or by the content type of an HTTP body."""

from typing import Literal

from service.numbered_lines import Compression

Format = Literal["jsonl", "csv", "tsv", "txt", "parquet"]

_FORMATS: dict[str, Format] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "txt": "txt",
    "parquet": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "xz": "xz", "zst": "zst"}
_CONTENT_TYPES: dict[str, Format] = {
    "application/x-ndjson": "jsonl",
    "application/ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
    "text/plain": "txt",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
    "application/parquet": "parquet",
}


def guess_format(name: str) -> tuple[Format, Compression | None]:
    """Return the format and the compression that a file name ends in, as in ``faq.jsonl.gz``.

    Raises:
        ValueError: the ending is none of ours.
    """
    endings = name.lower().split(".")[1:]
    compression = _COMPRESSIONS.get(endings[-1]) if endings else None
    if compression is not None:
        endings.pop()
    format = _FORMATS.get(endings[-1]) if endings else None
    if format is None:
        known = f".{', .'.join(_FORMATS)}, and then perhaps .{', .'.join(_COMPRESSIONS)}"
        raise ValueError(f"{name!r}: the format is told by the ending, which must be {known}")
    return format, compression


def format_of_content_type(content_type: str) -> Format | None:
    """Return the format of an HTTP body by its Content-Type, None if it is none of ours."""
    return _CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())
