"""service/access.py: which key may do what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import OPEN_PATHS, Access, split_keys
from service.errors import Forbidden, Unauthorized

WRITE, READ = "writer-key", "reader-key"
READING = [
    ("GET", "/v1/collections"),
    ("GET", "/v1/collections/faq/documents/1"),
    ("HEAD", "/info"),
    ("POST", "/v1/collections/faq/search"),
    ("POST", "/v1/similarity"),
]
WRITING = [
    ("PUT", "/v1/collections/faq"),
    ("PUT", "/v1/collections/search"),
    ("DELETE", "/v1/collections/similarity"),
    ("DELETE", "/v1/collections/faq/documents/search"),
    ("DELETE", "/v1/collections/faq/documents/a/similarity"),
    ("POST", "/v1/collections/faq/documents"),
    ("POST", "/v1/collections/faq/documents/delete"),
    ("POST", "/v1/collections/faq/imports"),
    ("DELETE", "/v1/jobs/1"),
]
paths = st.sampled_from([*READING, *WRITING])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(name="access")
def _access() -> Access:
    return Access([WRITE, "another"], [READ])


@given(request=paths)
def test_without_keys_everything_is_open(request: tuple[str, str]) -> None:
    """No key is asked for where none is configured."""
    Access([], []).check(*request, {})


@given(request=paths, key=st.one_of(st.none(), st.text("abcwriter-key ", max_size=12)))
def test_a_wrong_key_is_refused_everywhere(request: tuple[str, str], key: str | None) -> None:
    """Without a valid key, by either header, only the probes answer."""
    access = Access([WRITE], [READ])
    for headers in ({}, bearer(key), {"x-api-key": key}) if key is not None and key.strip() != WRITE else ({},):
        with pytest.raises(Unauthorized):
            access.check(*request, headers)
        for path in OPEN_PATHS:
            access.check("GET", path, headers)


@pytest.mark.parametrize(("method", "path"), [*READING, *WRITING])
def test_a_key_that_may_write_may_do_everything(access: Access, method: str, path: str) -> None:
    """Both headers carry it, the scheme in any case."""
    for headers in (bearer(WRITE), {"authorization": "bearer another"}, {"x-api-key": WRITE}):
        access.check(method, path, headers)


@pytest.mark.parametrize(("method", "path"), READING)
def test_a_read_only_key_may_search_and_look(access: Access, method: str, path: str) -> None:
    """Searching is reading, though it is a POST."""
    access.check(method, path, bearer(READ))


@pytest.mark.parametrize(("method", "path"), WRITING)
def test_a_read_only_key_may_change_nothing(access: Access, method: str, path: str) -> None:
    """Not even things whose name ends like the path of a search."""
    with pytest.raises(Forbidden, match="only read"):
        access.check(method, path, bearer(READ))


def test_read_only_keys_alone_close_the_service() -> None:
    """Where only reading keys exist nobody may write, and nobody may read without one."""
    access = Access([], [READ])
    access.check("GET", "/v1/collections", bearer(READ))
    with pytest.raises(Forbidden):
        access.check("PUT", "/v1/collections/faq", bearer(READ))
    with pytest.raises(Unauthorized):
        access.check("GET", "/v1/collections", {})


def test_a_basic_authorization_does_not_hide_the_other_header(access: Access) -> None:
    """A proxy's own Authorization header leaves X-API-Key for the key."""
    access.check("GET", "/info", {"authorization": "Basic abc", "x-api-key": READ})


def test_keys_are_separated_by_commas() -> None:
    """Spaces and empty entries are left out, so an empty setting has no key."""
    assert split_keys(" a, b,,c ,") == ["a", "b", "c"]
    assert split_keys("") == split_keys(" , ") == []
