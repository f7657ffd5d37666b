"""Knowledge graphs as callers meet them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from live_service import client_of, finished_job, small_settings
from service.settings import Settings

TRIPLES = [
    ["花呗（支付）", "额度", "五百"],
    ["花呗（支付）", "额度", "一千"],
    ["花呗", "还款", "十号"],
    ["银行卡", "密码", "六位"],
]
TSV = {"Content-Type": "text/tab-separated-values"}


@pytest.fixture(scope="module", name="client")
def _client(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, generator_folder: Path
) -> Iterator[TestClient]:
    """A service with a tiny lookup model and small limits."""
    settings = small_settings(
        tmp_path_factory.mktemp("graphs") / "data",
        model_folder,
        lookup_model=generator_folder,
        max_name_chars=20,
        max_documents=6,
        max_queries=5,
    )
    with client_of(settings) as client:
        yield client


@pytest.fixture(name="graph")
def _graph(client: TestClient) -> Iterator[str]:
    """The path of a graph with the triples."""
    path = "/v1/graphs/known"
    assert client.post(f"{path}/triples", json={"triples": TRIPLES}).json() == {"added": 4, "existing": 0}
    yield path
    client.delete(path)


def test_a_graph_is_made_described_listed_and_deleted(client: TestClient) -> None:
    """PUT is idempotent; a new graph is empty; a deleted one is gone."""
    made = client.put("/v1/graphs/new")
    assert (made.status_code, made.json()["triples"], made.json()["name"]) == (201, 0, "new")
    assert client.put("/v1/graphs/new", json={}).status_code == 200
    assert client.get("/v1/graphs/new").json().keys() == made.json().keys()
    assert "new" in [each["name"] for each in client.get("/v1/graphs").json()["graphs"]]
    assert client.get("/info").json()["graphs"] >= 1
    assert client.delete("/v1/graphs/new").status_code == 204
    assert client.get("/v1/graphs/new").status_code == client.delete("/v1/graphs/new").status_code == 404
    assert client.put("/v1/graphs/Bad%20name").status_code == 422


def test_triples_are_added_and_removed_at_run_time(client: TestClient, graph: str) -> None:
    """Counts tell what was new; the graph describes itself with all changes."""
    more = [TRIPLES[0], ["花呗", "还款", "九号"], ["花呗", "还款", "九号"]]
    assert client.post(f"{graph}/triples", json={"triples": more}).json() == {"added": 1, "existing": 2}
    told = client.get(graph).json()
    assert (told["triples"], told["subjects"], told["predicates"], told["pending"]) == (5, 2, 3, 5)
    gone = [TRIPLES[3], ["没有", "这个", "事实"]]
    assert client.post(f"{graph}/triples/delete", json={"triples": gone}).json() == {"deleted": 1}
    assert client.get(graph).json()["subjects"] == 1
    assert client.post("/v1/graphs/none/triples/delete", json={"triples": gone}).status_code == 404


def test_subjects_are_completed_and_their_facts_listed(client: TestClient, graph: str) -> None:
    """A prefix gives subjects with their meanings; a subject gives its facts, of all meanings or of one."""
    found = client.get(f"{graph}/subjects", params={"prefix": "花"}).json()["subjects"]
    assert found == [{"subject": "花呗", "meanings": ["支付", ""], "facts": 3}]
    assert [each["subject"] for each in client.get(f"{graph}/subjects").json()["subjects"]] == ["花呗", "银行卡"]
    assert len(client.get(f"{graph}/subjects", params={"limit": 1}).json()["subjects"]) == 1
    assert client.get(f"{graph}/subjects", params={"limit": 0}).status_code == 422
    facts = client.get(f"{graph}/subjects/花呗").json()
    paid = {"subject": "花呗", "meaning": "支付", "predicate": "额度", "objects": ["五百", "一千"]}
    plain = {"subject": "花呗", "meaning": "", "predicate": "还款", "objects": ["十号"]}
    assert facts == {"subject": "花呗", "facts": [paid, plain], "total": 3}
    assert client.get(f"{graph}/subjects/花呗（支付）").json() == {"subject": "花呗", "facts": [paid], "total": 2}
    assert client.get(f"{graph}/subjects/花呗", params={"limit": 1}).json()["total"] == 3
    missing = client.get(f"{graph}/subjects/花呗（基金）")
    assert (missing.status_code, missing.json()["error_type"]) == (404, "not_found")
    assert "'花呗（基金）'" in missing.json()["error"]


def test_questions_are_answered_by_facts(client: TestClient, graph: str) -> None:
    """One question or many; every answer is a fact of the graph, as sure as it says, and no unlikely one where that is asked."""
    body: dict[str, Any] = {"question": ["花呗额度", "银行卡密码？"], "beams": 8, "top_k": 8}
    answer = client.post(f"{graph}/ask", json=body)
    assert answer.status_code == 200, answer.text
    assert "lookup;dur=" in answer.headers["server-timing"]
    for question, result in zip(body["question"], answer.json()["results"], strict=True):
        assert (result["question"], result["truncated"]) == (question, False)
        assert {(a["subject"], a["meaning"], a["predicate"], *a["objects"]) for a in result["answers"]} == {
            ("花呗", "支付", "额度", "五百", "一千"),
            ("花呗", "", "还款", "十号"),
            ("银行卡", "", "密码", "六位"),
        }
        assert sum(a["probability"] for a in result["answers"]) <= 1.0 + 1e-6
    one = client.post(f"{graph}/ask", json={"question": "花呗", "top_k": 1, "lookahead": False}).json()
    assert len(one["results"][0]["answers"]) == 1
    sure = client.post(f"{graph}/ask", json={"question": "花呗", "min_probability": 1.0}).json()
    assert sure["results"][0]["answers"] == []
    long = client.post(f"{graph}/ask", json={"question": "花呗" * 40}).json()
    assert long["results"][0]["truncated"]


def test_the_beams_of_a_question_are_told(client: TestClient, graph: str) -> None:
    """With `explain` every result has the search tree: a root, parents first, and a leaf for each answer; else it has none."""
    plain = client.post(f"{graph}/ask", json={"question": "花呗额度", "beams": 2}).json()["results"][0]
    assert "beams" not in plain
    told = client.post(f"{graph}/ask", json={"question": ["花呗额度", "密码"], "beams": 2, "explain": True}).json()
    names = [[(a["subject"], a["meaning"], a["predicate"]) for a in each["answers"]] for each in told["results"]]
    assert names[0] == [(a["subject"], a["meaning"], a["predicate"]) for a in plain["answers"]]
    for result in told["results"]:
        beams = result["beams"]
        assert [beam["id"] for beam in beams] == list(range(len(beams)))
        assert beams[0]["parent"] is None
        assert all(beam["parent"] < beam["id"] for beam in beams[1:])
        assert {beam["part"] for beam in beams} <= {"subject", "predicate", "meaning"}
        assert all(0.0 <= beam["probability"] <= 1.0 and beam["log_probability"] <= 0.0 for beam in beams)
        answered = {beam["answer"] for beam in beams if beam["answer"] is not None}
        assert answered == set(range(len(result["answers"])))
        assert all(beam["kept"] for beam in beams if beam["answer"] is not None)
        assert not all(beam["kept"] for beam in beams)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"question": []}, 422, "question is an empty list"),
        ({"question": "  "}, 422, "the text is empty"),
        ({"question": ["花", ""]}, 422, "question[1]: the text is empty"),
        ({"question": ["花"] * 6}, 413, "max_queries = 5"),
        ({"question": "花", "beams": 33}, 422, "max_beams = 32"),
        ({"question": "花", "top_k": 1001}, 422, "max_top_k = 1000"),
        ({"question": "花", "min_probability": 2.0}, 422, "min_probability"),
        ({"question": "花", "beam": 1}, 422, "beam"),
    ],
)
def test_a_wrong_question_gets_a_sentence(
    client: TestClient, graph: str, body: dict[str, Any], status: int, sentence: str
) -> None:
    """Whatever is wrong is named, with the limit and its value."""
    answer = client.post(f"{graph}/ask", json=body)
    assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("triples", "status", "sentence"),
    [
        ([["花", "还款"]], 422, "triples"),
        ([["花", "还款", "十号"], ["", "还款", "十号"]], 422, "triples[1]: the subject is empty"),
        ([["花", "\t", "十号"]], 422, "the predicate is empty"),
        ([["花", "还\t款", "十号"]], 422, "the predicate contains a tab"),
        ([["花", "还款", "一\n二"]], 422, "the object contains a line break"),
        ([["花" * 21, "还款", "十号"]], 422, "max_name_chars = 20"),
        ([["花", "还款", "\0"]], 422, "a NUL character"),
        ([["花", "还款", "十号"]] * 7, 413, "max_documents = 6"),
        ([], 422, "triples"),
    ],
)
def test_wrong_triples_get_a_sentence_and_change_nothing(
    client: TestClient, graph: str, triples: list[list[str]], status: int, sentence: str
) -> None:
    """One bad triple refuses its request; neither graph nor name comes of it."""
    for path in (f"{graph}/triples", "/v1/graphs/unmade/triples"):
        answer = client.post(path, json={"triples": triples})
        assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text
    assert client.get(graph).json()["triples"] == 4
    assert client.get("/v1/graphs/unmade").status_code == 404


def test_a_file_is_imported_by_a_job(client: TestClient, graph: str) -> None:
    """Good lines are added, bad ones are reported by number, repetitions are one; what was there stays."""
    lines = "花呗（支付）\t额度\t五百\n坏行\n宿舍\t密码\t四位\t更多\n宿舍\t密码\t四位\n宿舍\t密码\t五位\n"
    job = client.post(f"{graph}/imports", content=lines.encode(), headers=TSV)
    assert job.status_code == 202
    state = finished_job(client, job.json()["job"])
    assert (state["state"], state["kind"], state["done"], state["failed"]) == ("done", "graph_import", 4, 1)
    assert (state["errors"][0]["line"], state["total"]) == (2, 5)
    told = client.get(graph).json()
    assert (told["triples"], told["pending"]) == (6, 0)
    assert client.get(f"{graph}/subjects/宿舍").json()["facts"][0]["objects"] == ["四位", "五位"]
    wrong = client.post(f"{graph}/imports", json={})
    assert (wrong.status_code, "text/tab-separated-values" in wrong.json()["error"]) == (422, True)
    assert client.post("/v1/graphs/Bad/imports", content=b"", headers=TSV).status_code == 422
    client.delete("/v1/graphs/made")
    made = client.post("/v1/graphs/made/imports", content=b"", headers=TSV).json()["job"]
    assert finished_job(client, made)["state"] == "done"
    assert client.delete("/v1/graphs/made").status_code == 204


def test_an_import_whose_graph_is_deleted_ends(client: TestClient) -> None:
    """Whatever it was doing, the job fails with a sentence or was done before; the graph stays deleted."""
    lines = "".join(f"主语{i}\t谓语\t宾语{i}\n" for i in range(20_000)).encode()
    for number in range(12):
        job = client.post("/v1/graphs/short/imports", content=lines, headers=TSV).json()["job"]
        time.sleep(number * 0.01)
        assert client.delete("/v1/graphs/short").status_code == 204
        state = finished_job(client, job)
        assert state["state"] in ("failed", "done")
        assert state["state"] == "done" or "graph" in state["error"]
        assert client.get("/v1/graphs/short").status_code == 404


def test_an_import_stays_out_of_a_graph_that_came_after_its_own(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose graph was deleted and made anew before its turn fails, and the new graph stays empty."""
    jobs = client.app.state.runtime.jobs  # type: ignore[attr-defined]
    begin, go = jobs._work["graph_import"], threading.Event()
    monkeypatch.setitem(jobs._work, "graph_import", lambda job: (go.wait(60), begin(job)))
    job = client.post("/v1/graphs/again/imports", content="主语\t谓语\t宾语\n".encode(), headers=TSV).json()["job"]
    assert client.delete("/v1/graphs/again").status_code == 204
    assert client.put("/v1/graphs/again").status_code == 201
    go.set()
    state = finished_job(client, job)
    assert (state["state"], state["error"]) == ("failed", "the graph was deleted meanwhile")
    assert client.get("/v1/graphs/again").json()["triples"] == 0
    client.delete("/v1/graphs/again")


def test_the_name_that_the_question_has_comes_first(client: TestClient) -> None:
    """Of names with equal tokens that which stands in the question comes first; `top_k` counts all."""
    path = "/v1/graphs/equal"
    same = [[name, "产地", f"{i}号"] for i, name in enumerate(["花A", "花Ａ", "花a"])]
    assert client.post(f"{path}/triples", json={"triples": same}).json()["added"] == 3
    for name, _, place in same:
        answers = client.post(f"{path}/ask", json={"question": f"{name}产地", "top_k": 2}).json()["results"][0][
            "answers"
        ]
        assert len(answers) == 2
        assert (answers[0]["subject"], answers[0]["objects"]) == (name, [place])
    client.delete(path)


def test_a_question_that_takes_too_long_is_given_up(settings: Settings, generator_folder: Path) -> None:
    """Beyond the deadline the answer is 503 with the setting's name."""
    settings = settings.model_copy(update={"lookup_model": generator_folder, "default_timeout_ms": 1})
    with client_of(settings) as client:
        client.post("/v1/graphs/g/triples", json={"triples": TRIPLES})
        answer = client.post("/v1/graphs/g/ask", json={"question": ["花呗怎么还款"] * 50, "beams": 8})
        assert (answer.status_code, "default_timeout_ms = 1" in answer.text) == (503, True), answer.text


def test_without_a_lookup_model_all_but_questions_works(settings: Settings) -> None:
    """Asking gets a sentence with the setting's name; facts and subjects are there, and /info says that there is no model."""
    with client_of(settings) as client:
        assert client.post("/v1/graphs/g/triples", json={"triples": TRIPLES}).json()["added"] == 4
        answer = client.post("/v1/graphs/g/ask", json={"question": "花呗额度"})
        assert (answer.status_code, "MOVERANK_LOOKUP_MODEL" in answer.json()["error"]) == (409, True)
        assert client.get("/v1/graphs/g/subjects/银行卡").json()["total"] == 1
        assert client.get("/info").json()["lookup_model"] is None


def test_the_sample_graph_is_there_at_the_first_start(settings: Settings, generator_folder: Path) -> None:
    """Some hundred facts, among them names that several subjects share, and nothing is loaded twice or brought back."""
    settings = settings.model_copy(update={"sample": True, "lookup_model": generator_folder})
    with client_of(settings) as client:
        told = client.get("/v1/graphs/sample").json()
        assert told["triples"] > 300
        meanings = client.get("/v1/graphs/sample/subjects", params={"prefix": "林静"}).json()["subjects"][0]["meanings"]
        assert len(meanings) == 4
        assert "" in meanings
        assert client.post("/v1/graphs/sample/ask", json={"question": "澄湖银行的行长是谁？"}).status_code == 200
        assert client.delete("/v1/graphs/sample").status_code == 204
    with client_of(settings) as client:
        assert client.get("/v1/graphs").json() == {"graphs": []}


def test_defaults_above_a_limit_are_capped(settings: Settings, generator_folder: Path) -> None:
    """A question without numbers gets what the limits allow; a number above its limit is refused."""
    changed = {"lookup_model": generator_folder, "max_beams": 2, "max_top_k": 1}
    with client_of(settings.model_copy(update=changed)) as client:
        client.post("/v1/graphs/g/triples", json={"triples": TRIPLES})
        answer = client.post("/v1/graphs/g/ask", json={"question": "花呗"})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["results"][0]["answers"]) <= 1
        for name, limit in (("beams", "max_beams = 2"), ("top_k", "max_top_k = 1")):
            refused = client.post("/v1/graphs/g/ask", json={"question": "花呗", name: 4})
            assert refused.status_code == 422
            assert limit in refused.json()["error"]


def test_a_read_only_key_may_ask_and_not_change(settings: Settings, generator_folder: Path) -> None:
    """Questions and lists need any key, changes one that may write."""
    settings = Settings(
        **settings.model_dump(exclude={"api_keys", "read_only_keys", "lookup_model"}),
        lookup_model=generator_folder,
        api_keys="writer",  # type: ignore[arg-type]
        read_only_keys="reader",  # type: ignore[arg-type]
    )
    reader, writer = ({"X-API-Key": key} for key in ("reader", "writer"))
    with client_of(settings) as client:
        body = {"triples": TRIPLES}
        assert client.post("/v1/graphs/g/triples", json=body, headers=reader).status_code == 403
        assert client.post("/v1/graphs/g/triples", json=body, headers=writer).status_code == 200
        assert client.post("/v1/graphs/g/ask", json={"question": "花呗"}, headers=reader).status_code == 200
        assert client.get("/v1/graphs/g/subjects", headers=reader).status_code == 200
        assert client.post("/v1/graphs/g/triples/delete", json=body, headers=reader).status_code == 403
        assert client.post("/v1/graphs/g/imports", content=b"", headers=reader | TSV).status_code == 403
        assert client.delete("/v1/graphs/g", headers=reader).status_code == 403
        assert client.get("/v1/graphs").status_code == 401
