"""The page in a real browser against the running service: every view, errors, keys, keyboard, accessibility."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from live_service import address_of, finished_job
from page_visitor import Visitor, opened_browser, visiting
from service.routes.page import WEB
from service.settings import Settings

pytestmark = pytest.mark.timeout(240)

VIEWS = ("search", "why", "corpus", "ask", "state")
QUESTIONS = [
    "花呗怎么还款",
    "花呗如何还款？",
    "信用卡提额度",
    "怎么退货",
    "选课成绩查询",
    "宿舍的图书馆",
    "快递物流查询",
    "忘记密码了吗",
]
QUERY = "花呗怎么还"
MOST_BYTES = 300_000


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Browser]:
    """A browser without a window."""
    with opened_browser() as browser:
        yield browser


def _settings(folder: Path, model: Path, **more: object) -> Settings:
    return Settings(
        data_dir=folder / "data", model=model, device="cpu", runtime="torch", sample=False, threads=1, **more
    )


@pytest.fixture(scope="module", name="url")
def _url(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[str]:
    """A running service with a collection of 24 documents, every third of the year 2024."""
    documents = [
        {
            "id": f"d{i:02}",
            "text": QUESTIONS[i % 8] + "吗" * (i // 8),
            "metadata": {"year": 2022 + i % 3, "kind": "ab"[i % 2]},
        }
        for i in range(24)
    ]
    with address_of(_settings(tmp_path_factory.mktemp("page"), model_folder)) as url:
        with client_of_url(url) as client:
            assert client.post("/v1/collections/faq/documents", json={"documents": documents}).status_code == 200
        yield url


@pytest.fixture(scope="module", name="api")
def _api(url: str) -> Iterator[httpx.Client]:
    """The same service for the test itself."""
    with client_of_url(url) as client:
        yield client


@pytest.fixture(name="visit")
def _visit(browser: Browser, url: str) -> Iterator[Visitor]:
    """A visit of the page that complains of nothing."""
    with visiting(browser, url) as visitor:
        yield visitor


def client_of_url(url: str, **options: object) -> httpx.Client:
    return httpx.Client(base_url=url, verify=False, timeout=60, **options)  # no TLS here, and its setup is slow


def searched(api: httpx.Client, **body: object) -> dict[str, object]:
    """Ask the service what the page asks it."""
    answer = api.post("/v1/collections/faq/search", json={"query": QUERY, **body})
    assert answer.status_code == 200
    result = answer.json()["results"][0]
    assert isinstance(result, dict)
    return result


def test_files_are_sent_once_and_under_a_strict_policy(api: httpx.Client) -> None:
    """A file that the browser has is not sent again, nothing outside the folder is sent, and no inline script may run."""
    for path in ("/", *(f"/web/{each.name}" for each in WEB.iterdir() if each.is_file())):
        first = api.get(path)
        assert first.status_code == 200
        assert first.content == (WEB / (path.rpartition("/")[2] or "index.html")).read_bytes()
        policy = dict(part.strip().split(" ", 1) for part in first.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["img-src"] == policy["connect-src"] == "'self'"
        assert first.headers["x-content-type-options"] == "nosniff"
        again = api.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
        assert api.head(path).status_code == 200
    for outside in ("missing.js", "..%2fsettings.py", "%2e%2e", "..%2f..%2fREADME.md", "pictures"):
        answer = api.get(f"/web/{outside}")
        assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


def test_every_file_is_used_and_all_are_light(visit: Visitor) -> None:
    """Opening the page fetches every file of its folder, nothing else, and no more than 300 kB together."""
    visit.open("/search?c=faq")
    expect(visit.page.locator(".chip").first).to_be_visible()
    files = [answer for answer in visit.answers if "/v1/" not in answer.url and not answer.url.endswith("/info")]
    assert sum(len(answer.body()) for answer in files) <= MOST_BYTES
    named = {re.sub(r"[#?].*", "", answer.url).rpartition("/")[2] or "index.html" for answer in files}
    assert {each.name for each in WEB.iterdir() if each.is_file()} - named <= {"icon.svg"}  # fetched beside the page


def test_both_languages_have_all_words(visit: Visitor) -> None:
    """Every word that a script asks for exists in Chinese and in English."""
    visit.open("/why")
    zh, en = visit.page.evaluate(
        "import('/web/words.js').then(({languages}) => [Object.keys(languages.zh), Object.keys(languages.en)])"
    )
    assert zh == en
    source = "\n".join(path.read_text(encoding="utf-8") for path in WEB.glob("*.js"))
    asked = set(re.findall(r"""\b(?:say|labelled)\(\s*"([\w.]+)\"""", source))
    assert len(asked) > 100
    assert {name for name in asked if name not in zh and f"search.{name}" not in zh} == set()


def test_results_come_as_one_types_and_are_those_of_the_service(visit: Visitor, api: httpx.Client) -> None:
    """Typing shows the hits of the API with both scores, how they moved, and the certificate in words; the address repeats it."""
    visit.open("/search?c=faq&candidates=12")
    visit.page.get_by_role("searchbox").first.press_sequentially(QUERY, delay=20)
    hits = visit.page.locator("li.hit")
    expect(hits).to_have_count(10)
    expect(visit.page.locator(".move.up, .move.down, .move.same, .move.new")).to_have_count(10)
    result = searched(api, candidates=12)
    before = [hit["id"] for hit in searched(api, candidates=12, rerank="none", top_k=12)["hits"]]
    for i, hit in enumerate(result["hits"]):
        shown = hits.nth(i)
        expect(shown.locator(".hit-text")).to_have_text(hit["text"])
        expect(shown.locator(".cosine .bar-figure")).to_have_text(f"{hit['cosine']:.3f}")
        expect(shown.locator(".transport .bar-figure")).to_have_text(f"{hit['wrd']:.3f}")
        rank = before.index(hit["id"]) + 1
        expect(shown.locator(".move > [aria-hidden]")).to_have_text(
            "=" if rank == i + 1 else f"{'↑' if rank > i + 1 else '↓'} {rank}"
        )
    certificate = result["certificate"]
    if certificate["pruned"]:
        expect(visit.page.locator(".proof")).to_contain_text(f"12 个候选只解了 {certificate['solved']} 个")
    assert "q=" in visit.page.url
    visit.picture("search")
    visit.page.get_by_role("button", name="更多结果").click()
    expect(hits).to_have_count(24)
    texts = hits.locator(".hit-text").all_inner_texts()
    visit.page.reload()
    expect(hits).to_have_count(24)
    assert hits.locator(".hit-text").all_inner_texts() == texts


def test_switches_change_what_is_asked(visit: Visitor, api: httpx.Client) -> None:
    """Without a rerank there is no transport; the whole corpus can be ranked; a filter leaves what satisfies it."""
    visit.open(f"/search?c=faq&q={QUERY}")
    hits = visit.page.locator("li.hit")
    expect(hits).to_have_count(10)
    visit.page.get_by_role("radio", name="不重排").click()
    expect(visit.page.locator(".bar.transport")).to_have_count(0)
    expect(visit.page.locator(".proof")).to_contain_text("没有重排")
    visit.page.get_by_role("radio", name="全库").click()
    expect(visit.page.locator(".proof")).to_contain_text("全库")
    visit.page.get_by_text("按元数据过滤").click()
    visit.page.locator(".chip", has_text="2024").click()
    expect(hits).to_have_count(8)
    found = searched(api, scope="corpus", filter={"year": 2024})["hits"]
    assert hits.locator(".tag.id").all_inner_texts() == [hit["id"] for hit in found]
    with visit.page.expect_response(lambda answer: answer.url.endswith("/search")) as sent:
        visit.page.get_by_role("slider").fill("1")
    assert json.loads(sent.value.request.post_data or "")["weight"] == 1
    visit.page.get_by_role("button", name="复制 curl").click()
    assert '"filter":{"year":2024}' in visit.page.evaluate("navigator.clipboard.readText()")


def test_half_a_syllable_of_an_input_method_is_no_query(visit: Visitor) -> None:
    """While an input method composes nothing is searched; when it has finished, its text is."""
    visit.open("/search?c=faq")
    box = visit.page.get_by_role("searchbox").first
    box.dispatch_event("compositionstart")
    box.fill("hua")
    visit.page.wait_for_timeout(500)
    assert not [answer for answer in visit.answers if answer.url.endswith("/search")]
    box.fill("花呗")
    box.dispatch_event("compositionend")
    expect(visit.page.locator("li.hit")).to_have_count(10)
    assert "q=%E8%8A%B1%E5%91%97" in visit.page.url


def test_a_superseded_search_is_cancelled(visit: Visitor) -> None:
    """When a second query follows at once, the first request is cancelled and the second one's hits are shown."""
    visit.open("/search?c=faq")
    expect(visit.page.locator(".chip").first).to_be_visible()
    cancelled: list[str] = []
    visit.page.on("requestfailed", lambda request: cancelled.append(str(request.post_data)))
    visit.page.evaluate(
        """for (const text of ["怎么退货", "选课成绩查询"]) {
            const input = document.querySelector("input.query");
            input.value = text;
            input.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
        }"""
    )
    expect(visit.page.locator(".hit-text").first).to_have_text("选课成绩查询")
    assert [json.loads(body)["query"] for body in cancelled] == ["怎么退货"]


def test_a_hit_says_why(visit: Visitor, api: httpx.Client) -> None:
    """Every move of the transport plan is a ribbon, a square and a row; pointing at it tells mass and cost; it can be copied."""
    visit.open(f"/search?c=faq&q={QUERY}")
    head = visit.page.locator(".hit-head").nth(2)
    head.click()
    expect(head).to_have_attribute("aria-expanded", "true")
    text = head.locator(".hit-text").inner_text()
    body = {"pairs": [[QUERY, text]], "measures": ["wrd"], "explain": True}
    plan = api.post("/v1/similarity", json=body).json()["results"][0]["alignment"]
    ribbons = visit.page.locator(".stage path")
    expect(ribbons).to_have_count(len(plan["plan"]))
    heaviest = max(plan["plan"], key=lambda move: move[2])
    ribbons.first.dispatch_event("pointerover")  # the heaviest is drawn first
    expect(visit.page.locator(".caption")).to_contain_text(f"质量 {heaviest[2]:.3f}，代价 {abs(heaviest[3]):.3f}")
    visit.page.get_by_role("button", name="复制 SVG").click()
    expect(visit.page.locator(".note")).to_be_visible()
    picture = ElementTree.fromstring(visit.page.evaluate("navigator.clipboard.readText()"))
    names = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {token[0] for token in plan["query_tokens"] + plan["text_tokens"]} <= names
    visit.page.get_by_role("button", name="复制 PNG").click()
    visit.page.wait_for_function(
        "() => navigator.clipboard.read().then((items) => items[0].types.join() === 'image/png')", polling=200
    )
    visit.picture("why")
    visit.page.get_by_role("radio", name="热图").click()
    lines = len(plan["query_tokens"]) + len(plan["text_tokens"]) + 2
    expect(visit.page.locator(".stage rect")).to_have_count(len(plan["plan"]) + lines + 24)  # 24 steps of the legend
    visit.page.get_by_role("radio", name="表格").click()
    expect(visit.page.locator(".moves tbody tr")).to_have_count(len(plan["plan"]))


def test_ribbons_are_as_wide_as_their_mass(visit: Visitor, api: httpx.Client) -> None:
    """The widths of the ribbons are proportional to the masses that moved, and their colours to the costs."""
    visit.open("/why?a=花呗怎么还款&b=信用卡怎么还")
    expect(visit.page.locator(".stage path").first).to_be_visible()
    body = {"pairs": [["花呗怎么还款", "信用卡怎么还"]], "measures": ["wrd"], "explain": True}
    result = api.post("/v1/similarity", json=body).json()["results"][0]
    expect(visit.page.locator(".measure.is-shown dd")).to_have_text(f"{result['wrd']:.3f}")
    moves = sorted(result["alignment"]["plan"], key=lambda move: -move[2])
    drawn = [path.get_attribute("d") or "" for path in visit.page.locator(".stage path").all()]
    widths = []
    for d in drawn:
        start = re.match(r"M([\d.]+) ", d)
        end = re.search(r" ([\d.]+) [\d.]+Z$", d)
        assert start
        assert end
        widths.append(float(end[1]) - float(start[1]))
    scale = widths[0] / moves[0][2]
    for width, move in zip(widths, moves, strict=True):
        assert width == pytest.approx(max(move[2] * scale, 0.6), abs=0.05)


def test_a_file_is_imported_and_documents_are_edited_and_come_back(
    visit: Visitor, api: httpx.Client, tmp_path: Path
) -> None:
    """A new collection takes a file, says which line it could not use, and its documents can be changed, deleted and restored."""
    visit.open("/corpus")
    visit.page.get_by_role("button", name="新建语料库").click()
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_role("textbox").fill("mine")
    dialog.get_by_role("button", name="新建").click()
    expect(visit.page.locator(".card.is-chosen strong")).to_have_text("mine")
    lines = [
        json.dumps({"id": f"x{i:03}", "text": QUESTIONS[i % 8], "kind": "new"}, ensure_ascii=False) for i in range(60)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join([*lines[:7], '{"id": "broken"', *lines[7:]]), encoding="utf-8")
    visit.page.locator("input[type=file]").set_input_files(file)
    told = visit.page.locator(".job-told")
    expect(told).to_contain_text("完成，索引了 60 条")
    expect(told).to_contain_text("1 行不能用")
    visit.page.locator(".rejects summary").click()
    expect(visit.page.locator(".rejects li")).to_contain_text("第 8 行")
    expect(visit.page.locator(".card.is-chosen")).to_contain_text("60 条")
    documents = visit.page.locator("li.document")
    expect(documents).to_have_count(20)
    visit.picture("corpus")
    visit.page.get_by_role("button", name="下一页").click()
    expect(documents.first.locator(".tag.id")).to_have_text("x020")
    visit.page.get_by_role("searchbox", name="从编号开始").fill("x040")
    visit.page.keyboard.press("Enter")
    expect(documents.first.locator(".tag.id")).to_have_text("x040")
    documents.first.get_by_role("button", name="编辑").click()
    dialog.get_by_label("文本").fill("怎么提额度")
    dialog.get_by_role("button", name="保存").click()
    expect(documents.first).to_contain_text("怎么提额度")
    there = "/v1/collections/mine/documents/x040"
    assert api.get(there).json() == {"id": "x040", "text": "怎么提额度", "metadata": {"kind": "new"}}
    documents.first.get_by_role("button", name="删除").click()
    expect(documents.first.locator(".tag.id")).to_have_text("x041")
    assert api.get(there).status_code == 404
    visit.page.get_by_role("button", name="撤销").click()
    expect(documents.first.locator(".tag.id")).to_have_text("x040")
    assert api.get(there).json()["text"] == "怎么提额度"
    visit.page.get_by_role("button", name="删除语料库").click()
    dialog.get_by_role("button", name="删除语料库").click()
    expect(visit.page.locator(".card.is-chosen strong")).to_have_text("faq")
    assert api.get("/v1/collections/mine").status_code == 404


def test_an_import_is_followed_after_a_reload(visit: Visitor, api: httpx.Client, tmp_path: Path) -> None:
    """A job that runs is still shown when the page is loaded anew, and can be cancelled."""
    file = tmp_path / "long.txt"
    file.write_text("\n".join(f"{QUESTIONS[i % 8]}{i}" for i in range(200_000)), encoding="utf-8")
    api.put("/v1/collections/long")
    visit.open("/corpus?c=long")
    visit.page.locator("input[type=file]").set_input_files(file)
    expect(visit.page.locator(".job-told")).to_contain_text("已索引")
    visit.page.reload()
    expect(visit.page.locator(".job-told")).to_contain_text("已索引")
    job = visit.page.evaluate("JSON.parse(sessionStorage.getItem('moverank.jobs'))[0].job")
    visit.page.get_by_role("button", name="取消").click()
    expect(visit.page.locator(".job-told")).to_contain_text("已取消")
    assert finished_job(api, job)["state"] == "cancelled"
    api.delete("/v1/collections/long")


def test_an_error_is_a_sentence(browser: Browser, url: str) -> None:
    """A search that the service refuses shows the service's own sentence."""
    with visiting(browser, url, may_complain=("404", "422")) as visit:
        visit.open("/search?c=gone&q=花呗")
        expect(visit.page.locator(".empty.bad")).to_contain_text("gone")
        visit.open('/search?c=faq&q=花呗&filter={"year":{"about":3}}')
        visit.page.reload()
        expect(visit.page.locator(".empty.bad")).to_contain_text("about")


def test_a_service_that_is_away_is_missed(browser: Browser, tmp_path: Path, model_folder: Path) -> None:
    """Without a collection the page says where to begin; when the service is gone the page says so."""
    with ExitStack() as running:
        url = running.enter_context(address_of(_settings(tmp_path, model_folder)))
        with visiting(browser, url, may_complain=("ERR_", "503")) as visit:
            visit.open("/search")
            expect(visit.page.locator(".empty h2")).to_have_text("还没有语料库")
            running.close()
            visit.page.get_by_role("link", name="状态").click()
            expect(visit.page.locator("#banner")).to_contain_text("连不上服务")


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Browser, tmp_path: Path, model_folder: Path) -> None:
    """With keys on the page opens, asks for a key until it is right, keeps it for the tab, and tells what it may not do."""
    given = _settings(tmp_path, model_folder, api_keys="writer", read_only_keys="reader")
    with (
        address_of(given) as url,
        client_of_url(url, headers={"X-API-Key": "writer"}) as api,
        visiting(browser, url, may_complain=("401", "403")) as visit,
    ):
        body = {"documents": [{"id": "1", "text": "花呗怎么还款"}]}
        assert api.post("/v1/collections/faq/documents", json=body).status_code == 200
        visit.open("/search?q=花呗")
        dialog = visit.page.get_by_role("dialog")
        for key in ("wrong", "reader"):
            dialog.locator("input").fill(key)
            dialog.locator("button.main").click()
        expect(visit.page.locator("li.hit")).to_have_count(1)
        expect(dialog).to_have_count(0)
        visit.page.reload()
        expect(visit.page.locator("li.hit")).to_have_count(1)
        visit.page.get_by_role("link", name="语料").click()
        visit.page.locator("li.document").get_by_role("button", name="删除").click()
        expect(visit.page.locator(".note.bad")).to_contain_text("read")
        assert api.get("/v1/collections/faq/documents/1").status_code == 200


def test_a_question_is_answered_by_facts_that_can_be_browsed_and_changed(
    browser: Browser, tmp_path: Path, model_folder: Path, generator_folder: Path
) -> None:
    """Answers are the API's, with their tree; a subject's facts are listed; a triple can be added, removed and restored."""
    given = _settings(tmp_path, model_folder, lookup_model=generator_folder)
    triples = [
        ["花呗", "还款", "10日"],
        ["花呗", "额度", "500"],
        ["花呗（图书）", "借", "3"],
        ["信用卡", "额度", "1000"],
    ]
    question = "花呗怎么还款"
    with (
        address_of(given) as url,
        client_of_url(url) as api,
        visiting(browser, url) as visit,
    ):
        visit.open("/ask")
        expect(visit.page.locator(".empty h2")).to_have_text("还没有知识图谱")
        visit.page.get_by_role("button", name="新建图谱").and_(visit.page.locator(".main")).click()
        visit.page.get_by_label("名称").fill("facts")
        visit.page.get_by_role("button", name="新建", exact=True).click()
        expect(visit.page.locator(".facts")).to_contain_text("0 个三元组")
        assert api.post("/v1/graphs/facts/triples", json={"triples": triples}).status_code == 200
        visit.page.reload()
        visit.page.get_by_role("searchbox", name="问题").fill(question)
        body = {"question": question, "beams": 6, "top_k": 6}
        answers = api.post("/v1/graphs/facts/ask", json=body).json()["results"][0]["answers"]
        shown = visit.page.locator(".triple")
        expect(shown).to_have_count(len(answers))
        for i, answer in enumerate(answers):
            expect(shown.nth(i)).to_contain_text(answer["subject"])
            expect(shown.nth(i).locator(".edge")).to_have_text(answer["predicate"])
            expect(shown.nth(i).locator(".object")).to_have_text(answer["objects"])
        told = api.post("/v1/graphs/facts/ask", json=body | {"explain": True}).json()["results"][0]
        tree = visit.page.locator(".answers .stage svg")
        expect(tree.locator("text", has_text="是答案")).to_have_count(len(answers))
        dropped = [beam["text"] for beam in told["beams"] if not beam["kept"]]
        expect(visit.page.locator(".answers .caption")).to_contain_text(f"放弃了 {len(dropped)} 处")
        if dropped:
            visit.page.get_by_label("显示看过的每一条路").check()
        written = "".join(tree.locator("text").all_text_contents())
        assert [beam["text"] for beam in told["beams"] if beam["text"] not in written] == []
        assert "q=" in visit.page.url
        visit.picture("ask")
        shown.first.get_by_role("button").click()
        subject = answers[0]["subject"]
        expect(visit.page.locator(".fact-table caption")).to_have_text(subject)
        visit.page.get_by_role("searchbox", name="主语开头").fill("信")
        visit.page.locator(".facts .chip", has_text="信用卡").click()
        rows = visit.page.locator(".fact-table tr")
        expect(rows).to_have_count(1)
        visit.page.get_by_text("添加三元组").click()
        form = visit.page.locator(".adding form")
        for label, text in (("主语", "信用卡"), ("关系", "还款"), ("宾语", "20日")):
            form.get_by_label(label, exact=True).fill(text)
        form.get_by_role("button", name="添加").click()
        expect(rows).to_have_count(2)
        rows.filter(has_text="20日").get_by_role("button").click()
        expect(rows).to_have_count(1)
        visit.page.get_by_role("button", name="撤销").click()
        expect(rows).to_have_count(2)
        assert api.get("/v1/graphs/facts").json()["triples"] == 5
        file = tmp_path / "more.tsv"
        file.write_text("图书馆\t借\t5\n图书馆\t还\t30日\n", encoding="utf-8")
        visit.page.locator(".facts input[type=file]").set_input_files(file)
        expect(visit.page.locator(".job-told")).to_contain_text("完成")
        visit.page.get_by_role("searchbox", name="主语开头").fill("图")
        expect(visit.page.locator(".facts .chip")).to_have_text(["图书馆"])


def test_similar_questions_are_offered_and_added(
    browser: Browser, tmp_path: Path, model_folder: Path, generator_folder: Path
) -> None:
    """What the generator writes for a document is offered by cosine; what is ticked becomes documents that name their source."""
    given = _settings(tmp_path, model_folder, paraphrase_model=generator_folder)
    with (
        address_of(given) as url,
        client_of_url(url) as api,
        visiting(browser, url) as visit,
    ):
        body = {"documents": [{"id": "1", "text": "花呗怎么还款", "metadata": {"kind": "a"}}]}
        assert api.post("/v1/collections/faq/documents", json=body).status_code == 200
        visit.open("/corpus?c=faq")
        visit.page.get_by_role("button", name="相似问法").click()
        boxes = visit.page.locator(".similar input[type=checkbox]")
        expect(boxes.first).to_be_visible()
        chosen = visit.page.locator(".similar li").first.locator("span").first.inner_text()
        boxes.first.check()
        visit.page.get_by_role("button", name="加入 1 条").click()
        expect(visit.page.locator("li.document")).to_have_count(2)
        documents = api.get("/v1/collections/faq/documents").json()["documents"]
        added = next(document for document in documents if document["id"] != "1")
        assert added["text"] == chosen
        assert added["metadata"] == {"kind": "a", "paraphrase_of": "1"}


def test_state_shows_what_runs(visit: Visitor, api: httpx.Client) -> None:
    """The state view names the model, its fingerprint and the collections of the service."""
    visit.open("/state")
    expect(visit.page.locator(".ready")).to_contain_text("就绪")
    model = api.get("/info").json()["models"][0]
    expect(visit.page.locator("main")).to_contain_text(model["fingerprint"])
    expect(visit.page.get_by_role("rowheader", name="faq")).to_be_visible()
    expect(visit.page.locator(".spark-line")).to_have_count(2)
    visit.picture("state")


def test_every_metric_that_the_page_reads_is_exposed(api: httpx.Client) -> None:
    """The state view asks for no series that the service does not have."""
    exposed = api.get("/metrics").text
    read = {name for file in WEB.glob("*.js") for name in re.findall(r"\bmoverank_[a-z_]+", file.read_text("utf-8"))}
    assert len(read) > 5
    assert {name for name in read if f"\n{name}" not in exposed} == set()


def test_everything_can_be_done_with_the_keyboard(visit: Visitor) -> None:
    """A slash goes to the query, arrows go through the hits, Enter opens one; in a plan arrows go from token to token."""
    visit.open(f"/search?c=faq&q={QUERY}")
    expect(visit.page.locator("li.hit")).to_have_count(10)
    visit.page.locator("#main").focus()
    visit.page.keyboard.press("/")
    expect(visit.page.get_by_role("searchbox").first).to_be_focused()
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowDown")
    second = visit.page.locator(".hit-head").nth(1)
    expect(second).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(second).to_have_attribute("aria-expanded", "true")
    stage = visit.page.locator(".stage")
    expect(stage.locator("path").first).to_be_visible()
    stage.focus()
    visit.page.keyboard.press("ArrowRight")
    expect(visit.page.locator(".caption")).to_contain_text("花（质量")
    visit.page.get_by_role("radio", name="WRD").focus()
    visit.page.keyboard.press("ArrowRight")
    expect(visit.page.get_by_role("radio", name="WMD")).to_be_focused()
    expect(visit.page.locator(".bar.transport .bar-label").first).to_have_text("WMD")


def test_the_language_is_the_browsers_and_a_choice_is_remembered(browser: Browser, url: str) -> None:
    """An English browser gets English; who switches to Chinese gets Chinese the next time, too."""
    with visiting(browser, url, locale="en-GB") as visit:
        visit.open("/search?c=faq")
        expect(visit.page.get_by_role("link", name="Search")).to_have_attribute("aria-current", "page")
        assert visit.page.evaluate("document.documentElement.lang") == "en"
        visit.page.locator("#language").click()
        expect(visit.page.get_by_role("link", name="搜索")).to_be_visible()
        visit.page.reload()
        expect(visit.page.get_by_role("link", name="搜索")).to_be_visible()
        assert visit.page.evaluate("document.documentElement.lang") == "zh-CN"


@pytest.mark.parametrize(
    ("look", "options"),
    [
        ("light", {"color_scheme": "light"}),
        ("dark-narrow", {"color_scheme": "dark", "locale": "en-US", "viewport": {"width": 360, "height": 740}}),
    ],
)
def test_axe_finds_nothing(browser: Browser, url: str, look: str, options: dict[str, object]) -> None:
    """axe-core finds no fault in any view, light and wide or dark and narrow, and nothing is wider than the screen."""
    addresses = {
        "search": f"/search?c=faq&q={QUERY}&filter=%7B%22kind%22%3A%22a%22%7D",
        "why": "/why?a=花呗怎么还款&b=信用卡怎么还",
        "corpus": "/corpus?c=faq",
        "ask": "/ask",
        "state": "/state",
    }
    marks = {
        "search": ".why-here .stage path",
        "why": ".stage path",
        "corpus": "li.document",
        "ask": ".empty, .triple",
        "state": ".panel table, .tile",
    }
    with visiting(browser, url, may_complain=("404",), **options) as visit:
        for view in VIEWS:
            visit.open(addresses[view])
            if view == "search":
                visit.page.locator(".hit-head").first.click()
            expect(visit.page.locator(marks[view]).first).to_be_visible()
            found = Axe().run(visit.page)
            faults = [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in found.response["violations"]]
            assert faults == [], view
            assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
            visit.picture(f"{view}-{look}")


def test_a_long_value_is_cut_on_a_narrow_screen(browser: Browser, url: str, api: httpx.Client) -> None:
    """Metadata and ids of a document that are longer than a small telephone is wide do not make the page wider."""
    document = {"id": "x" * 100, "text": "花呗怎么还款", "metadata": {"about": "付款" * 50}}
    assert api.post("/v1/collections/long/documents", json={"documents": [document]}).status_code == 200
    try:
        with visiting(browser, url, viewport={"width": 320, "height": 640}) as visit:
            visit.open("/corpus?c=long")
            expect(visit.page.locator(".document-text .tag").last).to_be_visible()
            assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    finally:
        api.delete("/v1/collections/long")


def test_the_reference_asks_no_other_host(browser: Browser, url: str, api: httpx.Client) -> None:
    """The reference of the API at /docs is drawn and sends a request without any other host or a complaint of the browser."""
    page, asked, complaints = browser.new_page(), set[str](), list[str]()
    page.on("request", lambda request: asked.add(request.url.split("/", 3)[2]))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{url}/docs")
    expect(page.get_by_text("/v1/collections/{name}/search", exact=True)).to_be_visible()
    page.get_by_text("/livez", exact=True).click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table").get_by_text('"alive"').first).to_be_visible()
    page.close()
    assert complaints == []
    assert {each for each in asked if each} == {url.split("/", 3)[2]}
    assert "https:" not in api.get("/docs").headers["content-security-policy"]
    assert api.get("/redoc").status_code == 404
