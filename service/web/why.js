/**
 * Why two texts match: any two texts, their measures, and the transport plan between them.
 */

import { keepAddress } from "./address.js";
import { post } from "./calls.js";
import { button, el, field, put, switchOf } from "./elements.js";
import { planPicture } from "./plan.js";
import { say } from "./words.js";

const DEBOUNCE_MS = 220;

/** Show the view; returns what to call when it is left. */
export function showWhy(root, given) {
  const examples = say("why.examples");
  const state = { a: given.get("a") ?? examples[0][0], b: given.get("b") ?? examples[0][1], measure: given.get("measure") === "wmd" ? "wmd" : "wrd" };
  let running = null;
  let timer = 0;
  const result = el("section", { class: "why-result", "aria-label": say("why.result") });
  const texts = ["a", "b"].map((name) => {
    const area = el("textarea", { rows: 2, value: state[name], lang: "zh-CN", spellcheck: "false", oninput: () => soon() });
    return [name, area];
  });
  put(
    root,
    el("h1", {}, say("why.title")),
    el("p", { class: "lead" }, say("why.lead")),
    el("div", { class: "pair" }, field(say("why.a"), texts[0][1]), button("⇄", swap, { class: "quiet round swap", "aria-label": say("why.swap"), title: say("why.swap") }), field(say("why.b"), texts[1][1])),
    el(
      "div",
      { class: "options" },
      el("div", { class: "field" }, el("span", { class: "label" }, say("why.measure")), switchOf(say("why.measure"), ["wrd", "wmd"].map((x) => [x, say(`rerank.${x}`), say(`rerank.${x}.hint`)]), state.measure, (measure) => ((state.measure = measure), run()))),
      el("div", { class: "field grow" }, el("span", { class: "label" }, say("why.try")), el("div", { class: "chips" }, examples.map(([a, b]) => button(`${a} ⇢ ${b}`, () => use(a, b), { class: "chip", lang: "zh-CN" })))),
    ),
    result,
  );

  function use(a, b) {
    texts[0][1].value = a;
    texts[1][1].value = b;
    run();
  }

  function swap() {
    use(texts[1][1].value, texts[0][1].value);
  }

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(run, DEBOUNCE_MS);
  }

  async function run() {
    clearTimeout(timer);
    running?.abort();
    running = new AbortController();
    for (const [name, area] of texts) state[name] = area.value.trim();
    keepAddress("why", state);
    if (!state.a || !state.b) return put(result, el("p", { class: "empty" }, say("why.empty")));
    result.classList.add("is-stale");
    try {
      const other = state.measure === "wrd" ? "wmd" : "wrd"; // asked for by itself: a plan belongs to one measure
      const ask = (measures, explain) => post("/v1/similarity", { pairs: [[state.a, state.b]], measures, explain }, running.signal);
      const [first, second] = await Promise.all([ask(["cosine", state.measure], true), ask([other], false)]);
      show({ ...first.results[0], [other]: second.results[0][other] });
    } catch (error) {
      if (error.name === "AbortError") return;
      put(result, el("div", { class: "empty bad" }, el("p", {}, error.message || say("banner.away"))));
    }
    result.classList.remove("is-stale");
  }

  function show(pair) {
    const figure = (name, value, hint) => el("div", { class: `measure${name === state.measure ? " is-shown" : ""}`, title: say(hint) }, el("dt", {}, say(name === "cosine" ? "hit.cosine" : `rerank.${name}`)), el("dd", {}, value === null ? "–" : value.toFixed(3)));
    put(
      result,
      el("dl", { class: "measures" }, figure("cosine", pair.cosine, "hit.cosine.hint"), figure("wrd", pair.wrd, "rerank.wrd.hint"), figure("wmd", pair.wmd, "rerank.wmd.hint")),
      pair.truncated && el("p", { class: "warning" }, say("search.truncated")),
      planPicture(pair, state.measure),
    );
  }

  run();
  return () => (running?.abort(), clearTimeout(timer));
}
