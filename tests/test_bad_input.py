"""Whatever a caller sends is answered: a 4xx with a sentence, never a 500, never a hang; and the service goes on."""

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from live_service import address_of, client_of, finished_job
from service.settings import Settings

JSON = {"Content-Type": "application/json"}
SEARCH, DOCUMENTS, DELETE, SIMILARITY, PUT, IMPORTS = (
    ("POST", "/v1/collections/faq/search"),
    ("POST", "/v1/collections/faq/documents"),
    ("POST", "/v1/collections/faq/documents/delete"),
    ("POST", "/v1/similarity"),
    ("PUT", "/v1/collections/other"),
    ("POST", "/v1/collections/faq/imports"),
)
JSON_ROUTES = [SEARCH, DOCUMENTS, DELETE, SIMILARITY, PUT]


@pytest.fixture(scope="module", name="settings_here")
def _settings_here(tmp_path_factory: pytest.TempPathFactory, model_folder: Any) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("bad") / "data",
        model=model_folder,
        device="cpu",
        runtime="torch",
        sample=False,
        threads=1,
        max_body_bytes=4 << 20,
        max_import_bytes=1 << 20,
    )


@pytest.fixture(scope="module", name="client")
def _client(settings_here: Settings) -> Iterator[TestClient]:
    """One service takes all of it; when everything was sent it must still be well."""
    with client_of(settings_here) as client:
        texts = {"documents": [{"id": "a", "text": "花呗怎么还款", "metadata": {"n": 1}}, {"id": "b", "text": "退货"}]}
        assert client.post("/v1/collections/faq/documents", json=texts).status_code == 200
        yield client
        assert client.get("/readyz").json() == {"status": "ready"}
        (result,) = client.post("/v1/collections/faq/search", json={"query": "花呗怎么还款"}).json()["results"]
        assert result["hits"][0]["id"] == "a"
        assert client.get("/v1/collections/faq/documents/a").json()["text"] == "花呗怎么还款"


@pytest.fixture(autouse=True)
def _is_quick(request: pytest.FixtureRequest) -> None:
    """A hang is a failure."""
    request.node.add_marker(pytest.mark.timeout(60))


def assert_refused(answer: httpx.Response, *words: str, statuses: tuple[int, ...] = (422,)) -> None:
    """A 4xx with the contract's body, whose sentence is short and holds the words."""
    assert answer.status_code in statuses, f"{answer.status_code} {answer.text[:500]}"
    body = answer.json()
    assert set(body) == {"error", "error_type", "detail", "message"}
    is_openai = isinstance(body["error"], dict)
    sentence = body["error"]["message"] if is_openai else body["error"]
    assert is_openai == answer.url.path.startswith(("/v1/embeddings", "/v1/models"))
    assert sentence == body["detail"] == body["message"]
    assert 5 < len(sentence) < 1_000
    for word in words:
        assert word in sentence


def send(client: TestClient, route: tuple[str, str], body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.request(*route, content=content, headers=JSON)


def text_bodies(text: str) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """Every place of the API where a text of the caller goes into the model."""
    return [
        (SEARCH, {"query": text}),
        (SEARCH, {"query": ["花呗", text]}),
        (DOCUMENTS, {"documents": [{"id": "bad", "text": text}]}),
        (DOCUMENTS, {"documents": [{"id": "good", "text": "花呗"}, {"id": "bad", "text": text}]}),
        (SIMILARITY, {"pairs": [["花呗", text]]}),
        (SIMILARITY, {"pairs": [["花呗", "退货"], [text, "花呗"]]}),
    ]


BAD_TEXTS = {
    "empty": "",
    "space": " ",
    "whitespace": " \t\r\n\u00a0\u2003\u3000",
    "a megabyte": "花" * 350_000,
    "a long word": "a" * 1_000_000,
    "null byte": "花\0呗",
    "only a null byte": "\0",
    "control characters": "\x01\x02\x1f\x7f\x9f",
    "zero width": "\u200b\u200c\u200d\ufeff\u2060",
    "replacement character": "\ufffd",
    "private use": "\ue000",
    "directions": "\u202a\u202e\u2066",
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_a_text_that_says_nothing_or_too_much_is_refused_everywhere(client: TestClient, kind: str) -> None:
    """Search, documents and similarity refuse it, alone and among good ones, and nothing of the request is stored."""
    for route, body in text_bodies(BAD_TEXTS[kind]):
        assert_refused(send(client, route, body))
    for id in ("good", "bad"):
        assert client.get(f"/v1/collections/faq/documents/{id}").status_code == 404


GOOD_TEXTS = {
    "emoji": "😀",
    "family": "👨‍👩‍👧‍👦 花呗",
    "flags": "🇨🇳🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "rare": "𠮷𡘙𪚥龘靐",
    "beyond": "\U00030000\U0010ffff",
    "combining": "e\u0301\u0301\u0301\u0301" * 500,
    "right to left": "مرحبا שלום",
    "one": "x",
    "noncharacter": "\ufffe花\uffff",
    "mixed": "花\u200b呗\u202e怎\x01么",
    "long": "花呗" * 50_000,
    "markup": "<script>alert('x')</script>' OR 1=1; -- \" { } %s %00 \\u0000",
    "full text syntax": '"花呗" AND NEAR(* OR ^ - : ( NOT',
}


@pytest.mark.parametrize("kind", GOOD_TEXTS)
def test_a_text_of_any_script_works_everywhere(client: TestClient, kind: str) -> None:
    """Emoji, rare characters, markup and queries in other languages are texts: stored as they are, found, compared."""
    text = GOOD_TEXTS[kind]
    for retrieve in ("vector", "lexical", "hybrid"):
        body = {"query": text, "retrieve": retrieve, "explain": True}
        assert send(client, SEARCH, body).status_code == 200
    assert send(client, SIMILARITY, {"pairs": [[text, text], [text, "花呗"]], "explain": True}).status_code == 200
    given = {"documents": [{"id": text[:256], "text": text, "metadata": {text[:50]: [text[:200]]}}]}
    answer = send(client, ("POST", "/v1/collections/scripts/documents"), given)
    assert answer.status_code == 200, answer.text
    page = client.get("/v1/collections/scripts/documents", params={"limit": 1_000}).json()["documents"]
    assert {"id": text[:256], "text": text, "metadata": {text[:50]: [text[:200]]}} in page
    found = send(client, ("POST", "/v1/collections/scripts/search"), {"query": text, "filter": {text[:50]: text[:200]}})
    assert [hit["text"] for hit in found.json()["results"][0]["hits"]] == [text]


BAD_BODIES = {
    "nothing": b"",
    "a space": b" ",
    "truncated": b'{"query": "\xe8\x8a\xb1',
    "cut in a character": b'{"query": "\xe8\x8a',
    "invalid utf-8": b'{"query": "\xff\xfe", "documents": []}',
    "overlong utf-8": b'{"query": "\xc0\xaf"}',
    "surrogate in utf-8": b'{"query": "\xed\xa0\x80"}',
    "lone surrogate": b'{"query": "\\ud800", "ids": ["\\ud800"], "index": "\\udc00"}',
    "swapped surrogates": b'{"query": "\\udc00\\ud800"}',
    "lone surrogate in a name": b'{"\\ud800": 1}',
    "utf-16": '{"query": "a"}'.encode("utf-16"),
    "NaN": b'{"query": "a", "weight": NaN}',
    "Infinity": b'{"query": "a", "weight": Infinity}',
    "-Infinity": b'{"query": "a", "weight": -Infinity}',
    "1e400": b'{"query": "a", "weight": 1e400}',
    "many digits": b'{"query": "a", "top_k": ' + b"9" * 100_000 + b"}",
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"query":' * 100_000 + b"1" + b"}" * 100_000,
    "open lists": b"[" * 1_000_000,
    "two values": b"{}{}",
    "a comment": b'{"query": "a"} // yes',
    "single quotes": b"{'query': 'a'}",
    "a trailing comma": b'{"query": "a",}',
    "a list": b"[]",
    "a string": b'"query"',
    "a number": b"1",
    "true": b"true",
    "a form": b"query=a&top_k=1",
    "xml": b"<query>a</query>",
    "null bytes": b"\0" * 1_000,
    "a byte order mark": b'\xef\xbb\xbf{"query": "a"}',
}


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_a_body_that_is_not_the_json_object_asked_for_is_refused_by_every_route(client: TestClient, kind: str) -> None:
    """Damaged, hostile or other JSON is a 422 with a sentence on every route that takes JSON."""
    for route in JSON_ROUTES:
        if kind == "nothing" and route == PUT:
            continue  # its body is optional
        assert_refused(send(client, route, BAD_BODIES[kind]))
    assert client.get("/v1/collections/other").status_code == 404


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "nonsense", ""])
def test_json_under_another_content_type_is_refused(client: TestClient, kind: str) -> None:
    """A body that does not say that it is JSON is not taken for it."""
    for route in (SEARCH, DOCUMENTS, DELETE, SIMILARITY):
        answer = client.request(*route, content=b'{"query": "a"}', headers={"Content-Type": kind})
        assert_refused(answer, statuses=(415, 422))


NO_TEXT: list[Any] = [None, 1, 1.5, True, {}, {"a": 1}, [["a"]], [1], [None]]
BAD_SEARCHES: list[dict[str, Any]] = [
    {},
    {"query": []},
    *({"query": wrong} for wrong in NO_TEXT),
    *({"query": "a", "top_k": wrong} for wrong in (0, -1, 10**9, 10**19, 10**30, 1.5, 1.0, "1", True, None, [1])),
    *({"query": "a", "candidates": wrong} for wrong in (0, -1, 10**9, 10**30, 2.5, "1", None)),
    *({"query": "a", "weight": wrong} for wrong in (-0.1, 1.1, 1e300, "0.5", True, [])),
    *({"query": "a", "timeout_ms": wrong} for wrong in (0, -5, 10**12, 1.5, "1")),
    *({"query": "a", "rerank": wrong} for wrong in ("", "WRD", "cosine", None, 1, ["wrd"])),
    *({"query": "a", "retrieve": wrong} for wrong in ("", "bm25", 1, ["vector"])),
    *({"query": "a", "scope": wrong} for wrong in ("", "all", None, 0)),
    {"query": "a", "scope": "corpus", "rerank": "none"},
    *({"query": "a", "explain": wrong} for wrong in ("true", 1, None)),
    {"query": "a", "unknown": 1},
    {"query": "a", "queries": ["b"]},
    {"query": "a", "top-k": 3},
    {"query": ["a"] * 1_001},
]


@pytest.mark.parametrize("body", BAD_SEARCHES, ids=lambda body: repr(body)[:60])
def test_a_search_with_a_wrong_option_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    """Wrong types, values out of range and unknown fields are named."""
    wrong = [name for name in body if name != "query"] or ["query"]
    assert_refused(send(client, SEARCH, body), wrong[-1].removesuffix("y"))


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


BAD_FILTERS: list[Any] = [
    "a",
    1,
    True,
    [],
    [{"a": 1}],
    {"a": None},
    {"a": [1]},
    {"a": {}},
    {"a": {"b": 1}},
    {"a": {"$gt": 1}},
    {"a": {"": 1}},
    {"a": {"gte": None}},
    {"a": {"gte": True}},
    {"a": {"gte": [1]}},
    {"a": {"eq": {"eq": 1}}},
    {"a": {"in": []}},
    {"a": {"in": 1}},
    {"a": {"in": "ab"}},
    {"a": {"in": [None]}},
    {"a": {"in": [[1]]}},
    {"a": {"in": [{"b": 1}]}},
    {"a": {"in": list(range(10_000))}},
    {"a": {"nin": ["x"] * 10_000}},
    {"a": {"exists": 1}},
    {"a": {"exists": "true"}},
    {"a": "x" * 257},
    {"a": {"eq": "x" * 100_000}},
    {str(i): i for i in range(10_000)},
    {"a": {"gte": 0, "or": [{"b": 1}]}},
    {"and": [{"a": 1}, {"b": 2}]},
    nested(3),
    nested(200),
    {"x' OR 1=1; --": {"' OR 1=1": 1}},
]


@pytest.mark.parametrize("expression", BAD_FILTERS, ids=lambda expression: repr(expression)[:60])
def test_a_wrong_filter_is_refused(client: TestClient, expression: Any) -> None:
    """Unknown operators, values that cannot be compared, too many terms and nesting are refused."""
    assert_refused(send(client, SEARCH, {"query": "花呗", "filter": expression}), "filter")


@pytest.mark.parametrize(
    "expression",
    [
        {"": 1},
        {"\0": "\0"},
        {"x' OR 1=1; --": "' OR 1=1"},
        {"a" * 10_000: 1},
        {"n": 2**70},
        {"n": -(2**63)},
        {"n": {"gte": 1e308}},
        {"n": {"lt": -1e308}},
        {"n": {"gt": 0.1, "lt": 0.1}},
        {"n": {"in": [True, 5, "1", 0.5]}},
        {"n": "1"},
        {"n": True},
        {"😀": {"ne": "😀"}, "n": 2},
    ],
    ids=lambda expression: repr(expression)[:60],
)
def test_an_odd_filter_that_means_something_is_answered(client: TestClient, expression: Any) -> None:
    """Huge numbers, odd names and things that look like SQL are compared like others, and nothing matches."""
    answer = send(client, SEARCH, {"query": "a", "filter": expression})
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["hits"] == []


def test_a_filter_beyond_the_depth_of_json_is_refused(client: TestClient) -> None:
    """100,000 levels in a filter or in metadata end neither the parser nor the service."""
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    assert_refused(send(client, SEARCH, b'{"query": "a", "filter": ' + deep + b"}"))
    assert_refused(send(client, DOCUMENTS, b'{"documents": [{"text": "a", "metadata": ' + deep + b"}]}"))
    lists = b"[" * 1_000 + b"]" * 1_000
    assert_refused(send(client, SEARCH, b'{"query": "a", "filter": {"a": ' + lists + b"}}"))


BAD_DOCUMENTS: list[Any] = [
    {},
    {"documents": None},
    {"documents": []},
    {"documents": {}},
    {"documents": "a"},
    {"documents": [None]},
    {"documents": ["a"]},
    {"documents": [[]]},
    {"documents": [{}]},
    {"documents": [{"id": "x"}]},
    *({"documents": [{"text": wrong}]} for wrong in (None, 1, True, [], ["a"], {})),
    *({"documents": [{"text": "a", "id": wrong}]} for wrong in ("", "x" * 257, "a\0b", 1.5, True, [], {})),
    {"documents": [{"text": "a", "vector": [1.0]}]},
    {"documents": [{"text": "a"}], "upsert": True},
    {"documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]},
    {"documents": [{"text": "a", "id": "7"}, {"text": "b", "id": 7}]},
    {"documents": [{"text": "a"}] * 10_001},
    *(
        {"documents": [{"text": "a", "metadata": wrong}]}
        for wrong in (
            [],
            "a",
            1,
            {"a": {}},
            {"a": {"b": 1}},
            {"a": [[1]]},
            {"a": [{}]},
            {"a": "\0"},
            {"\0": 1},
            {"a": ["\0"]},
        )
    ),
    {"documents": [{"text": "a", "metadata": {"a": "x" * 70_000}}]},
    {"documents": [{"text": "a", "metadata": {str(i): i for i in range(20_000)}}]},
]


@pytest.mark.parametrize("body", BAD_DOCUMENTS, ids=lambda body: repr(body)[:60])
def test_a_wrong_document_is_refused_and_nothing_is_written(client: TestClient, body: Any) -> None:
    """Forms, ids, metadata and counts are checked before anything is written, even the collection."""
    route = ("POST", "/v1/collections/untouched/documents")
    assert_refused(send(client, route, body))
    assert client.get("/v1/collections/untouched").status_code == 404


def test_an_unreadable_text_makes_no_collection(client: TestClient) -> None:
    """A request that is refused for a text that the model cannot read leaves no empty collection behind."""
    route = ("POST", "/v1/collections/untouched/documents")
    assert_refused(send(client, route, {"documents": [{"text": "\u200b"}]}))
    assert client.get("/v1/collections/untouched").status_code == 404


def test_numbers_beyond_64_bits_in_metadata_are_refused_or_kept_as_they_are(client: TestClient) -> None:
    """What JSON numbers can be large is either said to be too large or comes back as the number that was sent."""
    for number in (
        "18446744073709551615",
        "18446744073709551616",
        "1180591620717411303424",
        "-9223372036854775809",
        "1e308",
    ):
        body = b'{"documents": [{"id": "huge", "text": "a", "metadata": {"n": ' + number.encode() + b"}}]}"
        answer = send(client, ("POST", "/v1/collections/huge/documents"), body)
        if answer.status_code == 200:
            assert client.get("/v1/collections/huge/documents/huge").json()["metadata"]["n"] == float(number)
        else:
            assert_refused(answer, "64 bits")
    assert_refused(send(client, DOCUMENTS, b'{"documents": [{"text": "a", "metadata": {"n": 1e400}}]}'))
    assert_refused(send(client, DOCUMENTS, b'{"documents": [{"text": "a", "metadata": {"n": NaN}}]}'))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": None},
        {"ids": []},
        {"ids": "a"},
        {"ids": [1.5]},
        {"ids": [None]},
        {"ids": ["a"] * 10_001},
        {"ids": ["a"], "x": 1},
    ],
    ids=lambda body: repr(body)[:60],
)
def test_a_wrong_deletion_is_refused(client: TestClient, body: Any) -> None:
    """Deleting needs a list of ids of bounded length; what is no id of a document deletes nothing."""
    assert_refused(send(client, DELETE, body))
    assert send(client, DELETE, {"ids": ["\0", "", "x" * 10_000, "😀"]}).json() == {"deleted": 0}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"pairs": []},
        {"pairs": None},
        {"pairs": "ab"},
        {"pairs": [[]]},
        {"pairs": [["a"]]},
        {"pairs": [["a", "b", "c"]]},
        {"pairs": [["a", 1]]},
        {"pairs": ["ab"]},
        {"pairs": [["a", "b"]], "measures": []},
        {"pairs": [["a", "b"]], "measures": ["bm25"]},
        {"pairs": [["a", "b"]], "measures": "wrd"},
        {"pairs": [["a", "b"]], "measures": [None]},
        {"pairs": [["a", "b"]] * 10_001},
        {"pairs": [["a", "b"]], "explain": "no"},
        {"pairs": [["a", "b"]], "weight": 0.5},
    ],
    ids=lambda body: repr(body)[:60],
)
def test_wrong_pairs_are_refused(client: TestClient, body: Any) -> None:
    """Pairs are lists of two texts, measures are from the list."""
    assert_refused(send(client, SIMILARITY, body))


BAD_INDEXES: list[Any] = [
    "",
    " ",
    "nonsense",
    "auto,Flat",
    "IVF",
    "IVF0,Flat",
    "IVF-1,Flat",
    "PQ0",
    "PQ7",
    "PQ24x64",
    "HNSW999999999",
    "IVF99999999999999999999,Flat",
    "IVF1000000000,Flat",
    "PCA999,Flat",
    "PQ12x24",
    "RCQ2x30",
    "花呗",
    "Flat\0",
    "x" * 101,
    "Flat," * 20,
    "(" * 100,
    None,
    1,
    True,
    [],
    {"factory": "Flat"},
]


@pytest.mark.parametrize("index", BAD_INDEXES, ids=repr)
def test_an_index_that_cannot_be_is_refused(client: TestClient, index: Any) -> None:
    """FAISS's own complaints, sizes beyond reason and wrong types are a 422, and no collection is made."""
    assert_refused(send(client, PUT, {"index": index}), "index")
    assert client.get("/v1/collections/other").status_code == 404


@pytest.mark.parametrize(
    "name", ["A", "花", "_a", "-a", "a" * 65, "a.b", "a b", "%00", "a%0A", "%2e%2e", "..%2F..", "a%5Cb", "%F0%9F%98%80"]
)
def test_a_wrong_name_is_refused_by_every_route(client: TestClient, name: str) -> None:
    """Names are of 64 small letters, digits, _ and -; nothing else becomes a folder."""
    for method, path, body in (
        ("PUT", "", None),
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/documents", None),
        ("GET", "/documents/a", None),
        ("DELETE", "/documents/a", None),
        ("POST", "/documents", b'{"documents": [{"text": "a"}]}'),
        ("POST", "/documents/delete", b'{"ids": ["a"]}'),
        ("POST", "/search", b'{"query": "a"}'),
    ):
        answer = client.request(method, f"/v1/collections/{name}{path}", content=body, headers=JSON)
        assert_refused(answer, statuses=(404, 405, 422))
    answer = client.post(f"/v1/collections/{name}/imports", content=b"a", headers={"Content-Type": "text/plain"})
    assert_refused(answer, statuses=(404, 405, 422))


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "1e3", "ten", "", "NaN", "9" * 5_000, "\0", "１"])
def test_a_wrong_page_is_refused(client: TestClient, limit: str) -> None:
    """`limit` is a number from 1 to 1000; any `after` is an answer."""
    path = "/v1/collections/faq/documents"
    if limit != "１":  # a digit for Python, whether for the service is its own choice
        assert_refused(client.get(path, params={"limit": limit}), "limit")
    assert client.get(path, params={"limit": limit}).status_code < 500
    for after in ("\0", "x" * 5_000, "%", "😀", "' OR 1=1"):
        assert client.get(path, params={"after": after}).status_code == 200
    assert client.get(f"{path}?after=%ED%A0%80%FF").status_code == 200


@pytest.mark.parametrize("id", ["%00", "x" * 257, "%FF", "%ED%A0%80", "%2e%2e%2f", "' OR 1=1", "%F0%9F%98%80" * 300])
def test_an_id_that_no_document_has_is_not_found(client: TestClient, id: str) -> None:
    """Whatever stands in the path, a document that is not there is a 404."""
    for method in ("GET", "DELETE"):
        assert_refused(client.request(method, f"/v1/collections/faq/documents/{id}"), statuses=(404, 405))
    for path in (f"/v1/jobs/{id}", f"/v1/jobs/{id}/events"):
        assert_refused(client.get(path), statuses=(404,))


def test_bodies_over_the_limit_are_refused_with_and_without_a_length(settings_here: Settings, tmp_path: Any) -> None:
    """Over a socket: 413 with limit and value where the length is declared, and when a stream passes the limit."""
    settings = settings_here.model_copy(update={"data_dir": tmp_path / "data"})

    def stream(megabytes: int) -> Iterator[bytes]:
        for _ in range(megabytes):
            yield b" " * (1 << 20)

    with address_of(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        for route in JSON_ROUTES:
            declared = client.request(*route, content=b" " * ((4 << 20) + 1), headers=JSON)
            assert_refused(declared, "max_body_bytes = 4194304", "4194305", statuses=(413,))
            streamed = client.request(*route, content=stream(6), headers=JSON)
            assert_refused(streamed, "max_body_bytes = 4194304", statuses=(413,))
        plain = {"Content-Type": "text/plain"}
        declared = client.request(*IMPORTS, content=b"a" * ((1 << 20) + 1), headers=plain)
        assert_refused(declared, "max_import_bytes = 1048576", "1048577", statuses=(413,))
        streamed = client.request(*IMPORTS, content=stream(3), headers=plain)
        assert_refused(streamed, "max_import_bytes = 1048576", statuses=(413,))
        assert not list((settings.data_dir / "jobs").glob("*.body"))
        for length in ("-1", "x", "9" * 30, "1, 2"):
            answer = raw(url, f"POST /v1/similarity HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
            assert answer.startswith((b"HTTP/1.1 4", b"")), answer
        assert client.get("/readyz").status_code == 200


def raw(url: str, request: str) -> bytes:
    """Send bytes that no client library would, and return the beginning of the answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.encode())
        return connection.recv(1_000)


@pytest.mark.parametrize(
    "kind", ["", "application/json", "text/html", "text", "multipart/form-data; boundary=x", "\x01", "a/b" * 500]
)
def test_an_import_of_an_unknown_kind_is_refused(client: TestClient, kind: str) -> None:
    """The content types of imports are a short list, and the refusal has it."""
    assert_refused(
        client.request(*IMPORTS, content=b"a", headers={"Content-Type": kind}), "text/csv", statuses=(415, 422)
    )


BAD_IMPORTS = {
    "application/x-ndjson": [
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b"{}\n[]\n1\nnull\n",
        b'{"text": NaN}\n{"text": ""}\n{"text": "\\ud800"}\n{"id": 1e400, "text": "a"}',
        b'{"text": "a", "metadata": {"a": {"b": 1}}}\n{"text": "a\\u0000b"}\n{"text": "\xe2\x80\x8b"}',
        b'{"text": "' + b"x" * 200_000 + b'"}',
    ],
    "text/csv": [b"a,b\n1,2\n", b'text\n"open', b"text,text\na,b\n", b"id,text\na\n", b"\xff\xfet\x00", b"text\n\0\n"],
    "text/tab-separated-values": [b"a\tb\tc\n", b"\t\t\n", b"\xff\t\xff\n"],
    "text/plain": [b"\xff", b"\0", b"\xe2\x80\x8b\n", b"a" * 200_000, "a".encode("utf-16")],
}


@pytest.mark.parametrize("kind", BAD_IMPORTS)
@pytest.mark.parametrize("pack", ["as it is", "gzip cut off", "gzip damaged", "no gzip"])
def test_no_line_stops_an_import(client: TestClient, kind: str, pack: str) -> None:
    """Each bad line of a damaged body is counted and explained; a body that cannot be read to its end says so besides."""
    for body in BAD_IMPORTS[kind]:
        packed = gzip.compress(body)
        content = {
            "as it is": body,
            "gzip cut off": packed[: len(packed) // 2],
            "gzip damaged": packed[:12] + bytes([packed[12] ^ 0xFF]) + packed[13:],
            "no gzip": b"\x1f\x8b" + body,
        }[pack]
        answer = client.request(
            "POST", "/v1/collections/damaged/imports", content=content, headers={"Content-Type": kind}
        )
        assert answer.status_code == 202
        job = finished_job(client, answer.json()["job"])
        is_broken = any(
            word in error["error"] for error in job["errors"] for word in ("from here on", "UTF-16", "column")
        )
        assert (job["state"], job["error"] is None) == (("failed", False) if is_broken else ("done", True)), (
            body[:50],
            job,
        )
        assert is_broken or pack not in ("gzip cut off", "no gzip")
        assert job["failed"] == len(job["errors"])
        assert all(error["line"] >= 1 and error["error"] for error in job["errors"])
        if pack == "as it is" and body != b"\t\t\n":
            assert job["failed"], body[:50]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_every_method_on_every_path_is_answered(client: TestClient, method: str) -> None:
    """No combination of method, path and a small odd body makes a fault."""
    paths = client.get("/openapi.json").json()["paths"]
    for path in [
        *paths,
        "/",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/v1",
        "/v1/",
        "//",
        "/v1/collections/",
        "/../etc/passwd",
    ]:
        if method == "DELETE" and path == "/v1/collections/{name}":
            continue
        place = path.format(name="faq", id="none", model="none", subject="none")
        for body in (None, b"[]", b"\0"):
            answer = client.request(method, place, content=body, headers=JSON)
            assert answer.status_code < 500, (method, place, body, answer.text)
            if answer.status_code >= 400 and method != "HEAD":
                assert_refused(answer, statuses=tuple(range(400, 500)))


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "\xff"},
        {"Authorization": "Bearer " + "x" * 10_000},
        {"Accept": "nonsense"},
        {"Accept-Encoding": "\xff"},
        {"Content-Encoding": "gzip"},
        {"Content-Type": "application/json; charset=gbk"},
        {"Content-Type": "application/json" * 100},
        {"Cookie": "a" * 10_000},
        {"Expect": "100-continue"},
        {"Range": "bytes=0-"},
    ],
    ids=repr,
)
def test_odd_headers_are_no_fault(client: TestClient, headers: dict[str, str]) -> None:
    """Headers that mean nothing here change nothing or are refused."""
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.request(
        *SEARCH, content=b'{"query": "a"}', headers={**{k: v.encode() for k, v in JSON.items()}, **encoded}
    )
    assert answer.status_code < 500
