/**
 * The documents of a collection: page through them, write, change and delete them, and find similar questions to add.
 */

import { linkTo } from "./address.js";
import { call, get, path, post } from "./calls.js";
import { button, el, field, openDialog, put } from "./elements.js";
import { note } from "./notes.js";
import { languageOf, say } from "./words.js";

const PAGE = 20;
const PARAPHRASES = 12;

/** Show the documents of a collection; `changed` is told when their number may have changed. */
export function documentPanel(root, collection, changed) {
  const starts = [""];
  const list = el("ul", { class: "documents" });
  const pager = el("div", { class: "pager row" });
  const from = el("input", { type: "search", placeholder: say("documents.from"), "aria-label": say("documents.from"), onchange: () => (starts.splice(0, starts.length, justBefore(from.value.trim())), load()) });
  put(
    root,
    el("div", { class: "row" }, el("h2", {}, say("documents.title")), el("span", { class: "grow" }), from, button(say("documents.add"), () => edit(null), { class: "main" })),
    list,
    pager,
  );

  async function load() {
    try {
      const query = new URLSearchParams({ limit: PAGE, after: starts.at(-1) });
      const page = await get(`${path`/v1/collections/${collection}/documents`}?${query}`);
      put(list, page.documents.map(item), !page.documents.length && el("li", { class: "empty" }, say("documents.nothing")));
      put(
        pager,
        starts.length > 1 && button(`← ${say("documents.back")}`, () => (starts.pop(), load()), { class: "quiet" }),
        el("span", { class: "grow" }),
        page.next && button(`${say("documents.next")} →`, () => (starts.push(page.next), load()), { class: "quiet" }),
      );
    } catch (error) {
      put(list, el("li", { class: "empty bad" }, error.message || say("banner.away")));
    }
  }

  function item(document) {
    const similar = el("div", { class: "similar", hidden: true });
    const named = (text, action, more = {}) => button(text, action, { class: "link", "aria-label": `${text}: ${document.text.slice(0, 40)}`, ...more });
    return el(
      "li",
      { class: "document" },
      el(
        "div",
        { class: "document-text" },
        el("p", { lang: languageOf(document.text) }, document.text),
        el("span", { class: "tags" }, el("span", { class: "tag id" }, document.id), Object.entries(document.metadata).map(([key, value]) => el("span", { class: "tag", title: key, lang: languageOf(shown(value)) }, shown(value)))),
      ),
      el(
        "div",
        { class: "row document-actions" },
        named(say("documents.similar"), () => paraphrase(document, similar)),
        el("a", { class: "link", href: linkTo("search", { c: collection, q: document.text }), "aria-label": `${say("documents.search")}: ${document.text.slice(0, 40)}` }, say("documents.search")),
        named(say("documents.edit"), () => edit(document)),
        named(say("documents.delete"), () => remove(document)),
      ),
      similar,
    );
  }

  async function write(documents) {
    const answer = await post(path`/v1/collections/${collection}/documents`, { documents });
    if (answer.truncated.length) note(say("documents.truncated", { n: answer.truncated.length }), { kind: "bad" });
    await load();
    changed();
    return answer;
  }

  async function remove(document) {
    try {
      await call("DELETE", path`/v1/collections/${collection}/documents/` + document.id.split("/").map(encodeURIComponent).join("/"));
      note(say("documents.deleted", { id: document.id }), { action: [say("undo"), () => write([document]).catch((error) => note(error.message, { kind: "bad" }))] });
      await load();
      changed();
    } catch (error) {
      note(error.message || say("banner.away"), { kind: "bad" });
    }
  }

  function edit(document) {
    return openDialog(say(document ? "documents.edit.title" : "documents.add.title"), (close) => {
      const id = el("input", { type: "text", value: document?.id ?? "", disabled: document !== null, maxlength: 256, placeholder: say("documents.id.placeholder") });
      const text = el("textarea", { rows: 4, value: document?.text ?? "", required: true, lang: "zh-CN", autofocus: true });
      const metadata = el("textarea", { rows: 4, class: "mono", spellcheck: "false", value: document ? JSON.stringify(document.metadata, null, 1) : "{}" });
      const fault = el("p", { class: "warning", role: "alert" });
      const save = async (event) => {
        event.preventDefault();
        let given;
        try {
          given = JSON.parse(metadata.value || "{}");
        } catch {
          fault.textContent = say("documents.metadata.wrong");
          return;
        }
        try {
          await write([{ ...(id.value.trim() ? { id: id.value.trim() } : {}), text: text.value, metadata: given }]);
          close(true);
        } catch (error) {
          fault.textContent = error.message || say("banner.away");
        }
      };
      return el(
        "form",
        { onsubmit: save },
        field(say("documents.id"), id, document ? null : say("documents.id.hint")),
        field(say("documents.text"), text),
        field(say("documents.metadata"), metadata, say("documents.metadata.hint")),
        fault,
        el("div", { class: "row end" }, button(say("cancel"), () => close(false), { class: "quiet" }), el("button", { class: "main" }, say("save"))),
      );
    });
  }

  async function paraphrase(document, place) {
    if (!place.hidden) return void (place.hidden = true);
    place.hidden = false;
    put(place, el("p", { class: "hint" }, say("similar.making")));
    try {
      const answer = await post("/v1/paraphrases", { text: document.text, n: PARAPHRASES });
      drawParaphrases(document, place, answer.paraphrases);
    } catch (error) {
      const isMissing = error.status === 404 || error.status === 405;
      put(place, el("p", { class: "warning" }, isMissing ? say("similar.missing") : error.message || say("banner.away")));
    }
  }

  function drawParaphrases(document, place, found) {
    const boxes = found.map(({ text, cosine }) => [text, el("input", { type: "checkbox", onchange: count }), cosine]);
    const add = button("", save, { class: "main" });
    function count() {
      const n = boxes.filter(([, box]) => box.checked).length;
      add.textContent = say("similar.add", { n });
      add.disabled = !n;
    }
    async function save() {
      const chosen = boxes.filter(([, box]) => box.checked).map(([text]) => ({ text, metadata: { ...document.metadata, paraphrase_of: document.id } }));
      add.disabled = true;
      try {
        const { upserted } = await write(chosen);
        note(say("similar.added", { n: upserted }));
      } catch (error) {
        add.disabled = false;
        note(error.message || say("banner.away"), { kind: "bad" });
      }
    }
    put(
      place,
      found.length ? el("p", { class: "hint" }, say("similar.title")) : el("p", { class: "hint" }, say("similar.nothing")),
      el("ul", {}, boxes.map(([text, box, cosine]) => el("li", {}, el("label", {}, box, el("span", { lang: languageOf(text) }, text), el("span", { class: "figure" }, cosine.toFixed(3)))))),
      found.length > 0 && add,
    );
    count();
  }

  load();
  return load;
}

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** The largest id before this one that matters: pages begin after an id, and a reader wants to begin with it. */
const justBefore = (id) => (id ? id.slice(0, -1) + String.fromCodePoint(Math.max(1, id.codePointAt(id.length - 1) - 1)) + "\uffff" : "");
