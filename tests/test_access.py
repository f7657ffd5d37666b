"""service/access.py: which key may do what."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import OPEN_PATHS, Access, check_exposure, new_key, split_list
from service.errors import Forbidden, RateLimited, Unauthorized

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


@pytest.mark.parametrize("path", [path for method, path in READING if method == "POST"])
def test_a_slash_at_the_end_changes_nothing(access: Access, path: str) -> None:
    """Clients that put one there are sent on to the route without it, and may read."""
    access.check("POST", path.rstrip("/") + "/", bearer(READ))


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
    assert split_list(" a, b,,c ,") == ["a", "b", "c"]
    assert split_list("") == split_list(" , ") == []


def test_a_key_that_is_not_ascii_is_compared_byte_by_byte() -> None:
    """A key in any script opens the service, as UTF-8 in the header; its look-alikes do not."""
    access = Access(["密钥-é"], [])
    arrived = "密钥-é".encode().decode("latin-1")  # as the server hands a header over
    assert access.check("GET", "/info", bearer(arrived)) == "key-1"
    for wrong in ("密钥-é", "密钥-e", "", "é"):
        with pytest.raises(Unauthorized):
            access.check("GET", "/info", bearer(wrong.encode().decode("latin-1") + "x"))


def test_a_key_without_a_scheme_is_taken(access: Access) -> None:
    """Clients that put the bare key into Authorization are understood."""
    access.check("GET", "/info", {"authorization": WRITE})
    with pytest.raises(Unauthorized):
        access.check("GET", "/info", {"authorization": "Bearer"})


def write_keys(file: Path, *lines: str) -> None:
    """Write a file of keys as an editor does: another file in its place."""
    beside = file.with_suffix(".new")
    beside.write_text("\n".join(lines) + "\n")
    beside.replace(file)


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Keys that are added work at once, those taken out do not, roles change; a broken file changes nothing."""
    file = tmp_path / "keys"
    first, line = new_key("web", "write")
    write_keys(file, "# who may come", "", line, "old read plain-key")
    access = Access([], [], file)
    assert access.check("PUT", "/v1/collections/faq", bearer(first)) == "web"
    assert access.check("GET", "/info", bearer("plain-key")) == "old"
    second, line = new_key("other", "read")
    write_keys(file, line)
    assert access.check("GET", "/info", bearer(second)) == "other"
    for gone in (first, "plain-key"):
        with pytest.raises(Unauthorized):
            access.check("GET", "/info", bearer(gone))
    with pytest.raises(Forbidden):
        access.check("PUT", "/v1/collections/faq", bearer(second))
    write_keys(file, "no such form")
    assert access.check("GET", "/info", bearer(second)) == "other"
    file.unlink()
    assert access.check("GET", "/info", bearer(second)) == "other"
    write_keys(file, "# nobody")
    with pytest.raises(Unauthorized):
        access.check("GET", "/info", bearer(second))


def test_a_broken_file_of_keys_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However many requests come, the log says once of each version of the file, and of none, that it cannot be used."""
    file = tmp_path / "keys"
    write_keys(file, "web write key")
    access = Access([], [], file)

    def said() -> list[str]:
        caplog.clear()
        for _ in range(3):
            assert access.check("GET", "/info", bearer("key")) == "web"
        return [record.levelname for record in caplog.records]

    with caplog.at_level("INFO"):
        assert said() == []
        write_keys(file, "no such form")
        assert said() == ["ERROR"]
        write_keys(file, "nor this one")
        assert said() == ["ERROR"]
        file.unlink()
        assert said() == ["ERROR"]
        write_keys(file, "web read key")
        assert said() == ["INFO"]
        file.unlink()
        assert said() == ["ERROR"]


@pytest.mark.parametrize(
    "lines",
    [
        ["a read"],
        ["a admin key"],
        ["a read key more"],
        ["a/b read key"],
        ["a read sha256:12"],
        ["a read k", "a write l"],
    ],
)
def test_a_wrong_file_of_keys_is_refused_with_its_line_and_without_its_keys(tmp_path: Path, lines: list[str]) -> None:
    """The sentence names the line; a key that stands in it is not repeated."""
    file = tmp_path / "keys"
    write_keys(file, "good read secret-key", *lines)
    with pytest.raises(ValueError, match=f"line {1 + len(lines)} ") as caught:
        Access([], [], file)
    assert "secret-key" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read"):
        Access([], [], tmp_path / "none")


def test_a_new_key_is_kept_as_its_hash_only() -> None:
    """The line for the file holds a hash; two keys are never the same."""
    (key, line), (another, _) = (new_key("a", "read") for _ in range(2))
    assert key not in line
    assert key != another
    assert len(key) > 40
    with pytest.raises(ValueError, match="name of a key"):
        new_key("a b", "read")


@given(rate=st.integers(1, 20), burst=st.integers(1, 10), waits=st.lists(st.floats(0, 2), max_size=40))
def test_a_key_asks_as_often_as_it_may(rate: int, burst: int, waits: list[float]) -> None:
    """In any time t a key gets at most burst + rate · t turns, is told when to come back, and then gets one."""
    now = 0.0
    access = Access([WRITE], [], rate_per_s=float(rate), burst=burst, clock=lambda: now)
    turns = 0
    for wait in waits:
        now += wait
        try:
            access.check("GET", "/info", bearer(WRITE))
            turns += 1
        except RateLimited as refusal:
            now += refusal.retry_after_s or 0
            access.check("GET", "/info", bearer(WRITE))
            turns += 1
        assert turns <= burst + rate * now + 1e-3
        access.check("GET", "/livez", {})


def test_one_key_does_not_use_up_the_turns_of_another() -> None:
    """Each key has its own turns, whoever asks too often."""
    access = Access([WRITE], [READ], rate_per_s=0.001, burst=2, clock=lambda: 0.0)
    for _ in range(2):
        access.check("GET", "/info", bearer(WRITE))
    with pytest.raises(RateLimited):
        access.check("GET", "/info", bearer(WRITE))
    access.check("GET", "/info", bearer(READ))


def test_a_page_of_another_site_changes_nothing() -> None:
    """What a browser sends for another site's page is refused where it could change something, unless its origin is named."""
    evil = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    access = Access([], [])
    access.check("GET", "/v1/collections", evil)
    access.check("POST", "/v1/collections/faq/imports", {"sec-fetch-site": "same-origin"})
    for method, path in (("POST", "/v1/collections/faq/imports"), ("DELETE", "/v1/collections/faq")):
        with pytest.raises(Forbidden, match="cors_origins"):
            access.check(method, path, evil)
        Access([], [], origins=["https://evil.example"]).check(method, path, evil)


def test_where_the_browser_does_not_say_whose_page_it_is_its_origin_must_be_this_host() -> None:
    """Over plain http browsers send the origin alone; programs send none."""
    access = Access([], [])
    path = "/v1/collections/faq/imports"
    access.check("POST", path, {"host": "faq.lan:8000"})
    access.check("POST", path, {"host": "FAQ.lan:8000", "origin": "http://faq.lan:8000"})
    for origin in ("http://evil.example", "null", "http://faq.lan", "http://faq.lan:8000.evil.example", "http://["):
        headers = {"host": "faq.lan:8000", "origin": origin}
        with pytest.raises(Forbidden, match="cors_origins"):
            access.check("POST", path, headers)
        Access([], [], origins=[origin]).check("POST", path, headers)
        access.check("GET", "/v1/collections", headers)


def test_the_page_is_open_and_what_it_asks_is_not(access: Access) -> None:
    """Its files can be had without a key; posting to it, and anything that only looks like it, cannot."""
    for path in ("/", "/web/page.js"):
        access.check("GET", path, {})
        with pytest.raises(Unauthorized):
            access.check("POST", path, {})
    for path in ("/web", "/web/../v1/collections", "/v1/collections"):
        with pytest.raises(Unauthorized):
            access.check("GET", path, {})


def test_metrics_are_open_only_if_so_set() -> None:
    """/metrics needs a key like everything else, unless metrics_open says otherwise."""
    with pytest.raises(Unauthorized):
        Access([WRITE], []).check("GET", "/metrics", {})
    assert Access([WRITE], [], metrics_open=True).check("GET", "/metrics", {}) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_nobody_listens_to_the_world_without_a_key(host: str) -> None:
    """A host that can be reached from elsewhere needs keys, or a word that it is meant so."""
    with pytest.raises(ValueError, match="MOVERANK_OPEN=true"):
        check_exposure(host, has_keys=False, is_open=False)
    check_exposure(host, has_keys=True, is_open=False)
    check_exposure(host, has_keys=False, is_open=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    """What only this machine reaches may be open."""
    check_exposure(host, has_keys=False, is_open=False)
