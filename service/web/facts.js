/**
 * The facts of a graph: complete a subject, read what is known of it, add a triple, take one away.
 */

import { get, path, post } from "./calls.js";
import { button, el, field, put } from "./elements.js";
import { importPanel, TO_GRAPH } from "./imports.js";
import { note } from "./notes.js";
import { say } from "./words.js";

const DEBOUNCE_MS = 160;
const MOST_SUBJECTS = 20;

/** Show the facts of a graph; returns {browse, leave}: how to show a subject, and what to call when the view is left. */
export function factPanel(root, graph) {
  let timer = 0;
  let shown = null;
  const subjects = el("div", { class: "chips" });
  const list = el("div", {});
  const figures = el("p", { class: "hint" });
  const prefix = el("input", { type: "search", lang: "zh-CN", autocomplete: "off", placeholder: say("facts.prefix"), oninput: () => (clearTimeout(timer), (timer = setTimeout(complete, DEBOUNCE_MS))) });
  const imports = importPanel(() => graph, () => (describe(), complete()), TO_GRAPH);
  put(root, el("div", { class: "row" }, el("h2", {}, say("facts.title")), el("span", { class: "grow" }), figures), field(say("facts.browse"), prefix), subjects, list, adding());

  async function describe() {
    try {
      const info = await get(path`/v1/graphs/${graph}`);
      figures.textContent = say("facts.count", { triples: info.triples.toLocaleString(), subjects: info.subjects.toLocaleString(), predicates: info.predicates.toLocaleString() });
    } catch {
      figures.textContent = "";
    }
  }

  async function complete() {
    try {
      const query = new URLSearchParams({ prefix: prefix.value.trim(), limit: MOST_SUBJECTS });
      const found = (await get(`${path`/v1/graphs/${graph}/subjects`}?${query}`)).subjects.map((each) => each.subject);
      put(subjects, found.map((subject) => el("button", { type: "button", class: "chip", lang: "zh-CN", "aria-pressed": String(subject === shown), onclick: () => show(subject) }, subject)), !found.length && el("p", { class: "hint" }, say("facts.nothing")));
    } catch (error) {
      put(subjects, el("p", { class: "warning" }, error.message || say("banner.away")));
    }
  }

  async function show(subject) {
    shown = subject;
    for (const chip of subjects.querySelectorAll("button")) chip.setAttribute("aria-pressed", String(chip.textContent === subject));
    try {
      const facts = factsOf(await get(path`/v1/graphs/${graph}/subjects/${subject}`));
      const meanings = [...new Set(facts.map((fact) => fact.meaning))];
      put(
        list,
        el(
          "table",
          { class: "fact-table" },
          el("caption", { lang: "zh-CN" }, subject),
          meanings.map((meaning) => el("tbody", {}, meaning && el("tr", { class: "meaning" }, el("th", { scope: "rowgroup", colspan: 3, lang: "zh-CN" }, meaning)), facts.filter((fact) => fact.meaning === meaning).map(row))),
        ),
      );
    } catch (error) {
      put(list, el("p", { class: "warning" }, error.message || say("banner.away")));
    }
  }

  function row(fact) {
    return el(
      "tr",
      {},
      el("th", { scope: "row", lang: "zh-CN" }, fact.predicate),
      el("td", { lang: "zh-CN" }, fact.object),
      el("td", { class: "end" }, button(say("documents.delete"), () => remove(fact), { class: "link", "aria-label": `${say("documents.delete")}: ${fact.predicate} ${fact.object}` })),
    );
  }

  async function change(route, triple) {
    await post(path`/v1/graphs/${graph}/triples` + route, { triples: [triple] });
    describe();
    complete();
  }

  async function remove(fact) {
    const triple = [fact.name, fact.predicate, fact.object];
    try {
      await change("/delete", triple);
      note(say("facts.deleted"), { action: [say("undo"), () => change("", triple).then(() => show(fact.subject), (error) => note(error.message, { kind: "bad" }))] });
      show(fact.subject);
    } catch (error) {
      note(error.message || say("banner.away"), { kind: "bad" });
    }
  }

  function adding() {
    const names = ["subject", "meaning", "predicate", "object"];
    const inputs = names.map((name) => el("input", { type: "text", lang: "zh-CN", autocomplete: "off", required: name !== "meaning" }));
    const fault = el("p", { class: "warning", role: "alert" });
    const add = async (event) => {
      event.preventDefault();
      const [subject, meaning, predicate, object] = inputs.map((input) => input.value.trim());
      try {
        await change("", [meaning ? `${subject}（${meaning}）` : subject, predicate, object]);
        fault.textContent = "";
        note(say("facts.added"));
        inputs[2].value = inputs[3].value = "";
        show(subject);
      } catch (error) {
        fault.textContent = error.message || say("banner.away");
      }
    };
    return el("details", { class: "adding" }, el("summary", {}, say("facts.add")), el("form", { class: "row", onsubmit: add }, names.map((name, i) => field(say(`facts.${name}`), inputs[i])), el("button", { class: "main" }, say("facts.add.button"))), fault, imports.root);
  }

  function browse(subject) {
    prefix.value = subject;
    complete();
    show(subject);
  }

  describe();
  complete();
  return { browse, leave: imports.leave };
}

/** One row for each object: {subject, meaning, name, predicate, object}, `name` as triples are written. */
function factsOf(answer) {
  const rows = [];
  for (const fact of answer.facts) {
    const name = fact.meaning ? `${fact.subject}（${fact.meaning}）` : fact.subject;
    for (const object of fact.objects) rows.push({ ...fact, object, name });
  }
  return rows;
}
