/**
 * The corpus: collections, files to import, documents.
 */

import { keepAddress } from "./address.js";
import { call, get, path } from "./calls.js";
import { documentPanel } from "./documents.js";
import { button, el, openDialog, put } from "./elements.js";
import { importPanel } from "./imports.js";
import { askForName } from "./naming.js";
import { note } from "./notes.js";
import { say } from "./words.js";

/** Show the view; returns what to call when it is left. */
export function showCorpus(root, given) {
  let name = given.get("c");
  let reload = () => {};
  const cards = el("div", { class: "cards", role: "group", "aria-label": say("corpus.collections") });
  const documents = el("section", { class: "document-panel" });
  const imports = importPanel(() => name, () => (drawCollections(), reload()));
  put(root, el("h1", {}, say("corpus.title")), cards, imports.root, documents);

  async function drawCollections() {
    let collections;
    try {
      ({ collections } = await get("/v1/collections"));
    } catch (error) {
      return put(cards, el("p", { class: "warning" }, error.message || say("banner.away")));
    }
    const names = collections.map((each) => each.name);
    if (!names.includes(name)) choose(names.includes("sample") ? "sample" : (names[0] ?? null));
    put(
      cards,
      collections.map(card),
      el("button", { type: "button", class: "card new", onclick: create }, el("strong", {}, `+ ${say("corpus.new")}`)),
    );
    imports.root.hidden = name === null;
    if (name === null) put(documents, el("p", { class: "empty" }, say("corpus.nothing")));
  }

  function card(collection) {
    const isChosen = collection.name === name;
    return el(
      "div",
      { class: `card${isChosen ? " is-chosen" : ""}` },
      el(
        "button",
        { type: "button", "aria-pressed": String(isChosen), onclick: () => (choose(collection.name), drawCollections()) },
        el("strong", {}, collection.name),
        el("span", { class: "hint" }, say("corpus.count", { n: collection.documents.toLocaleString(), size: size(collection.bytes) })),
        el("span", { class: "hint" }, say("corpus.index", { index: collection.index_in_use ?? collection.index, dim: collection.dim })),
      ),
      isChosen && button(say("corpus.delete"), () => remove(collection), { class: "link" }),
    );
  }

  function choose(chosen) {
    name = chosen;
    keepAddress("corpus", { c: name });
    reload = name === null ? () => {} : documentPanel(documents, name, drawCollections);
  }

  async function create() {
    const made = await askForName(say("corpus.new"), (given) => call("PUT", path`/v1/collections/${given}`));
    if (made === null) return;
    choose(made);
    drawCollections();
  }

  async function remove(collection) {
    const isSure = await openDialog(say("corpus.delete.title", { name: collection.name }), (close) => [
      el("p", {}, say("corpus.delete.text", { n: collection.documents.toLocaleString() })),
      el("div", { class: "row end" }, button(say("cancel"), () => close(false), { class: "quiet", autofocus: true }), button(say("corpus.delete"), () => close(true), { class: "danger" })),
    ]);
    if (!isSure) return;
    try {
      await call("DELETE", path`/v1/collections/${collection.name}`);
      name = null;
    } catch (error) {
      note(error.message || say("banner.away"), { kind: "bad" });
    }
    drawCollections();
  }

  if (name) choose(name);
  drawCollections();
  return () => imports.leave();
}

/** Bytes for people. */
export function size(bytes) {
  const unit = Math.min(4, Math.floor(Math.log(Math.max(bytes, 1)) / Math.log(1000)));
  return `${(bytes / 1000 ** unit).toFixed(unit ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}
