/**
 * Ask a knowledge graph: a question becomes the triple that answers it, with what else was thought of, and never one that is not there.
 */

import { keepAddress } from "./address.js";
import { drawBeams } from "./beams.js";
import { call, CallError, get, path, post } from "./calls.js";
import { button, el, field, put, svg } from "./elements.js";
import { factPanel } from "./facts.js";
import { askForName } from "./naming.js";
import { say } from "./words.js";

const DEBOUNCE_MS = 350;
const TOP_K = 6;
const SAMPLE = "sample";
const UNLIKELY = 0.001; // alternatives below it are folded away
const SURE = 0.1; // a best answer below it is shown with a caveat

/** Show the view; returns what to call when it is left. */
export function showAsk(root, given) {
  const state = { g: given.get("g"), q: given.get("q") ?? "", beams: given.get("beams") ?? "6" };
  let running = null;
  let timer = 0;
  let isComposing = false;
  let known = null;
  const leaving = new AbortController();
  const input = el("input", {
    type: "search",
    class: "query",
    value: state.q,
    lang: "zh-CN",
    placeholder: say("ask.placeholder"),
    "aria-label": say("ask.question"),
    autocomplete: "off",
    spellcheck: "false",
    oninput: () => !isComposing && soon(),
    oncompositionstart: () => (isComposing = true),
    oncompositionend: () => ((isComposing = false), soon()),
    onkeydown: (event) => event.key === "Enter" && !event.isComposing && run(),
  });
  const chosen = el("select", { "aria-label": say("ask.graph"), hidden: true, onchange: () => ((state.g = chosen.value), begin()) });
  const beams = el("select", { onchange: () => ((state.beams = beams.value), run()) }, ["1", "2", "4", "6", "8", "16"].map((n) => el("option", { value: n }, n)));
  beams.value = state.beams;
  const settings = el("div", { class: "options", hidden: true }, field(`${say("ask.beams")} · ${say("ask.beams.hint")}`, beams), button(say("ask.new"), create, { class: "link" }));
  const answers = el("section", { class: "answers", "aria-label": say("ask.answers"), "aria-live": "polite" });
  const facts = el("section", { class: "facts" });
  const mark = svg("svg", { class: "lens", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.5" }));

  put(root, el("h1", {}, say("ask.title")), el("div", { class: "ask-row" }, el("div", { class: "query-box" }, mark, input), chosen), settings, answers, facts);

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(run, DEBOUNCE_MS);
  }

  async function run() {
    clearTimeout(timer);
    running?.abort();
    state.q = input.value.trim();
    keepAddress("ask", state);
    if (!state.g) return;
    if (!state.q) return drawExamples();
    running = new AbortController();
    answers.classList.add("is-stale");
    try {
      const body = { question: state.q, beams: Number(state.beams), top_k: TOP_K, explain: true };
      const answer = await post(path`/v1/graphs/${state.g}/ask`, body, running.signal);
      draw(answer.results[0]);
    } catch (error) {
      if (error.name === "AbortError") return;
      put(answers, el("div", { class: "empty bad" }, el("p", {}, error.message || say("banner.away"))));
    }
    answers.classList.remove("is-stale");
  }

  function draw(result) {
    const [best, ...others] = result.answers;
    const unlikely = others.filter((each) => each.probability < UNLIKELY);
    if (!best) return put(answers, el("div", { class: "empty" }, el("h2", {}, say("ask.nothing.title")), el("p", {}, say("ask.nothing.text"))));
    put(
      answers,
      result.truncated && el("p", { class: "warning" }, say("search.truncated")),
      best.probability < SURE && el("p", { class: "warning" }, say("ask.unsure")),
      triple(best, true),
      others.length > 0 && el("h2", {}, say("ask.others")),
      alternatives(others.filter((each) => each.probability >= UNLIKELY)),
      unlikely.length > 0 && el("details", { class: "unlikely" }, el("summary", {}, say("ask.unlikely", { n: unlikely.length })), alternatives(unlikely)),
      el("h2", {}, say("ask.tree")),
      el("p", { class: "hint" }, say("ask.tree.hint")),
      searchTree(result),
    );
  }

  function alternatives(found) {
    return found.length > 0 && el("ul", { class: "alternatives" }, found.map((each) => el("li", {}, triple(each, false))));
  }

  /** The search as a tree; a tick shows every way that was weighed. */
  function searchTree(result) {
    const stage = el("div", { class: "scroll stage", tabindex: 0, role: "group", "aria-label": say("ask.tree") }, drawBeams(result));
    const all = el("input", { type: "checkbox", onchange: () => put(stage, drawBeams(result, all.checked)) });
    const ends = result.beams.filter((beam) => beam.kept && !beam.choices).length;
    const dropped = result.beams.filter((beam) => !beam.kept).length;
    return [stage, el("p", { class: "caption" }, say("ask.tree.choice", { m: ends, n: dropped })), dropped > 0 && el("label", {}, all, say("ask.tree.all"))];
  }

  function triple(answer, isBest) {
    const share = answer.probability * 100;
    const subject = el("button", { type: "button", class: "subject", lang: "zh-CN", title: say("ask.browse"), onclick: () => showFacts(answer.subject) }, answer.subject);
    return el(
      "div",
      { class: `triple${isBest ? " is-best" : ""}` },
      el("div", { class: "node" }, subject, answer.meaning && el("span", { class: "hint", lang: "zh-CN" }, answer.meaning)),
      el("div", { class: "edge" }, el("span", { lang: "zh-CN" }, answer.predicate)),
      el("div", { class: "node objects", lang: "zh-CN" }, answer.objects.map((object) => el("span", { class: "object" }, object))),
      el("div", { class: "chance", title: say("ask.probability.hint", { log: answer.log_probability.toFixed(2) }) }, el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "full", vars: { "--share": `${share.toFixed(1)}%` } })), el("span", { class: "bar-figure" }, say("ask.probability", { share: share >= 1 ? Math.round(share) : "<1" }))),
    );
  }

  function showFacts(subject) {
    known?.browse(subject);
    facts.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  function drawExamples() {
    const examples = state.g === SAMPLE ? say("ask.samples") : [];
    put(answers, el("div", { class: "empty" }, el("p", {}, say(examples.length ? "ask.try" : "ask.type")), el("div", { class: "chips" }, examples.map((text) => el("button", { type: "button", class: "chip", lang: "zh-CN", onclick: () => ((input.value = text), run(), input.focus()) }, text)))));
  }

  async function create() {
    const made = await askForName(say("ask.new"), (given) => call("PUT", path`/v1/graphs/${given}`));
    if (made === null) return;
    state.g = made;
    begin();
  }

  async function begin() {
    try {
      const graphs = await graphNames(leaving.signal);
      state.g ??= graphs.includes(SAMPLE) ? SAMPLE : (graphs[0] ?? null);
      if (!state.g) return put(answers, el("div", { class: "empty" }, el("h2", {}, say("ask.none.title")), el("p", {}, say("ask.none.text")), button(say("ask.new"), create, { class: "main" })));
      const names = [...new Set([...graphs, state.g])];
      put(chosen, names.map((name) => el("option", { value: name }, name)));
      chosen.value = state.g;
      chosen.hidden = names.length < 2;
      settings.hidden = false;
      known?.leave();
      known = factPanel(facts, state.g);
      run();
    } catch (error) {
      if (error.name === "AbortError") return;
      const isMissing = error instanceof CallError && (error.status === 404 || error.status === 405);
      put(answers, el("div", { class: "empty" }, el("h2", {}, say("ask.missing.title")), el("p", {}, isMissing ? say("ask.missing.text") : error.message || say("banner.away"))));
    }
  }

  begin();
  if (matchMedia("(hover: hover)").matches) input.focus({ preventScroll: true });
  return () => (leaving.abort(), running?.abort(), known?.leave(), clearTimeout(timer));
}

async function graphNames(signal) {
  return (await get("/v1/graphs", signal)).graphs.map((graph) => graph.name);
}
