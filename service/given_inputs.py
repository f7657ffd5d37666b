"""What clients of other services call their inputs, read into plain texts, with a sentence where that cannot be."""

from collections.abc import Sequence
from typing import Any

from service.errors import InvalidRequest

TOKEN_IDS = (
    "{field} holds token ids of another model's tokenizer, which mean nothing here: send texts "
    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


def input_texts(given: object, field: str) -> list[str]:
    """Return one text or a list of texts as a list.

    Raises:
        InvalidRequest: it is empty, holds token ids, or something else.
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise InvalidRequest(f"{field} must be a text or a list of texts", param=field)
    if not given:
        raise InvalidRequest(f"{field} is an empty list", param=field)
    for i, each in enumerate(given):
        if _is_id(each) or (isinstance(each, list) and all(map(_is_id, each))):
            raise InvalidRequest(TOKEN_IDS.format(field=field), param=field, code="token_ids_not_supported")
        if not isinstance(each, str):
            raise InvalidRequest(f"{field}[{i}] must be a text", param=field)
    return given


def document_texts(documents: object, rank_fields: Sequence[str] | None) -> list[str]:
    """Return the text of each document: a string, an object's ``text``, or the fields named, one a line.

    Raises:
        InvalidRequest: there are none, or one is neither.
    """
    if not isinstance(documents, list) or not documents:
        raise InvalidRequest("documents must be a list of at least one text or object")
    return [_document_text(i, each, rank_fields) for i, each in enumerate(documents)]


def _document_text(i: int, document: object, rank_fields: Sequence[str] | None) -> str:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise InvalidRequest(f'documents[{i}] must be a text or an object with "text"')
    if rank_fields:
        return "\n".join(_field(document[name]) for name in rank_fields if document.get(name) is not None)
    if not isinstance(document.get("text"), str):
        raise InvalidRequest(f'documents[{i}] has no "text"; name the fields to read in rank_fields')
    return str(document["text"])


def _field(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
