"""service/filters.py: every operator against a plain Python reading of its definition, over a real store."""

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.documents import Document, DocumentStore, Vectors, new_manifest
from service.filters import MAX_FILTER_CHARS, parse_filter

KEYS = ["lang", "a.b", 'quote"d', "o'clock", "键", "", "year) OR (1=1"]
ORDERED = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}

numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([-(1 << 63), (1 << 63) - 1, (1 << 53) - 1, 1 << 53, (1 << 53) + 1]),
    st.sampled_from([-2.5, -0.0, 0.5, 1.0, 2.0, float(1 << 53), 1e300, -1e300]),
)
strings = st.one_of(st.text("ab1", max_size=2), st.sampled_from(["1", "true", "中", "😀", "x" * MAX_FILTER_CHARS]))
scalars = st.one_of(numbers, strings, st.booleans())
stored = st.one_of(scalars, st.none(), st.just("y" * (MAX_FILTER_CHARS + 1)))
metadata = st.dictionaries(st.sampled_from(KEYS), st.one_of(stored, st.lists(stored, max_size=3)), max_size=4)
conditions = st.one_of(
    scalars,
    st.fixed_dictionaries({}, optional={"eq": scalars, "ne": scalars, "exists": st.booleans()}).filter(bool),
    st.fixed_dictionaries({}, optional=dict.fromkeys(ORDERED, st.one_of(numbers, strings))).filter(bool),
    st.fixed_dictionaries({}, optional=dict.fromkeys(["in", "nin"], st.lists(scalars, min_size=1, max_size=3))).filter(
        bool
    ),
)
filters = st.dictionaries(st.sampled_from(KEYS), conditions, min_size=1, max_size=3)


@pytest.fixture(name="store", scope="module")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentStore]:
    manifest = new_manifest("model", 1, "codec", "auto")
    store = DocumentStore.create(tmp_path_factory.mktemp("filters") / "documents.db", manifest)
    yield store
    store.close()


def kind(value: Any) -> str:
    """Numbers, strings and booleans are different kinds."""
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number"


def same(one: Any, other: Any) -> bool:
    return kind(one) == kind(other) and bool(one == other)


def holds(document: dict[str, Any], key: str, name: str, wanted: Any) -> bool:
    """Read one condition as the documentation of filters says it."""
    entry = document.get(key)
    listed = entry if isinstance(entry, list) else [entry]
    given = [value for value in listed if value is not None]
    if name == "exists":
        return bool(given) == wanted
    values = [value for value in given if not (isinstance(value, str) and len(value) > MAX_FILTER_CHARS)]
    if name in ORDERED:
        return any(kind(value) == kind(wanted) and ORDERED[name](value, wanted) for value in values)
    accepted = wanted if name in ("in", "nin") else [wanted]
    found = any(same(value, other) for value in values for other in accepted)
    return found if name in ("eq", "in") else not found


def satisfies(document: dict[str, Any], expression: dict[str, Any]) -> bool:
    return all(
        holds(document, key, name, value)
        for key, wanted in expression.items()
        for name, value in (wanted if isinstance(wanted, dict) else {"eq": wanted}).items()
    )


def replace_all(store: DocumentStore, documents: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Let the store hold these documents only; return their metadata by row."""
    with store.read() as view:
        old = [document.id for document in view.page("", 1_000)]
    named = [Document(f"d{i}", "text", each) for i, each in enumerate(documents)]
    with store.write() as transaction:
        transaction.delete(old)
        vectors = Vectors(np.ones((len(named), 1), np.float32), [b"t"] * len(named))
        added = transaction.upsert(named, vectors).added
        transaction.commit()
    return dict(zip(added.tolist(), documents, strict=True))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(metadata, max_size=8), expression=filters)
def test_a_filter_selects_what_its_definition_says(
    store: DocumentStore, documents: list[dict[str, Any]], expression: dict[str, Any]
) -> None:
    """Rows that match are, in increasing order, those whose metadata satisfies every condition."""
    by_row = replace_all(store, documents)
    with store.read() as view:
        found = view.matching(parse_filter(expression, 64)).tolist()
    assert found == [row for row, document in by_row.items() if satisfies(document, expression)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(metadata, max_size=8), key=st.sampled_from(KEYS), value=scalars)
def test_ne_and_nin_are_the_complements_of_eq_and_in(
    store: DocumentStore, documents: list[dict[str, Any]], key: str, value: Any
) -> None:
    """Every document matches either a condition or its opposite."""
    rows = set(replace_all(store, documents))
    with store.read() as view:
        for name, opposite, wanted in (("eq", "ne", value), ("in", "nin", [value]), ("exists", "exists", True)):
            against = not wanted if name == "exists" else wanted
            found, rest = (
                set(view.matching(parse_filter({key: condition}, 64)).tolist())
                for condition in ({name: wanted}, {opposite: against})
            )
            assert found | rest == rows
            assert not found & rest


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ({"a": {"like": "x"}}, "'like' is not an operator"),
        ({"a": {"eq": {"b": 1}}}, "must be a number, a boolean or a string"),
        ({"a": {}}, "empty condition"),
        ({"a": None}, "must be a number, a boolean or a string"),
        ({"a": [1, 2]}, "must be a number, a boolean or a string"),
        ({"a": {"in": []}}, "a list that is not empty"),
        ({"a": {"nin": "x"}}, "a list that is not empty"),
        ({"a": {"in": [1, [2]]}}, "must be a number, a boolean or a string"),
        ({"a": {"exists": 1}}, "needs true or false"),
        ({"a": {"gt": True}}, "needs a number or a string"),
        ({"a": 1 << 63}, "has more than 64 bits"),
        ({"a": "x" * (MAX_FILTER_CHARS + 1)}, f"at most {MAX_FILTER_CHARS} characters"),
        ({"k" * 1_000: {"like": 1}, "a": {}}, "is not an operator"),
    ],
)
def test_a_bad_filter_is_refused_with_a_reason(expression: dict[str, Any], reason: str) -> None:
    """What is wrong is said in a short sentence."""
    with pytest.raises(ValueError, match=reason) as caught:
        parse_filter(expression, 64)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "of_size",
    [
        lambda n: {"a": {"in": list(range(n))}},
        lambda n: {f"k{i}": i for i in range(n)},
        lambda n: {f"k{i}": {"exists": True} for i in range(n)},
        lambda n: {"a": {"nin": list(range(n - 1))}, "b": {"gt": 1}},
    ],
)
def test_conditions_and_values_are_counted_and_limited(of_size: Any) -> None:
    """As many as the limit are allowed; one more is refused, and both numbers are said."""
    assert parse_filter(of_size(64), 64)
    with pytest.raises(ValueError, match="has 65 conditions and values, at most max_filter_terms = 64 are allowed"):
        parse_filter(of_size(65), 64)


def test_the_largest_filter_that_is_allowed_can_be_answered(store: DocumentStore) -> None:
    """64 conditions of every form are one query that SQLite takes."""
    replace_all(store, [{"k": [0, 1], "x": "y"}])
    names = ["eq", "ne", "gte", "lt", "in", "nin", "exists"]
    expression = {
        f"k{i}": {name: [1] if name in ("in", "nin") else name == "exists" or 1} for i, name in enumerate(names * 9)
    }
    with store.read() as view:
        assert view.matching(parse_filter(expression, 64)).tolist() == []
