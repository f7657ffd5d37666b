/**
 * Search: results as one types, what the rerank did to them, and what is proven about them.
 */

import { keepAddress, linkTo } from "./address.js";
import { call, get, path, post } from "./calls.js";
import { el, field, put, svg, switchOf } from "./elements.js";
import { filterPanel } from "./filters.js";
import { drawHits } from "./hits.js";
import { copyText } from "./notes.js";
import { say } from "./words.js";

const DEBOUNCE_MS = 140;
const SAMPLE = "sample";
const MORE = 20;

/** Show the view; returns what to call when it is left. */
export function showSearch(root, given) {
  const state = {
    c: given.get("c"),
    q: given.get("q") ?? "",
    rerank: given.get("rerank") ?? "wrd",
    retrieve: given.get("retrieve"),
    weight: given.get("weight"),
    candidates: given.get("candidates") ?? "100",
    scope: given.get("scope") ?? "pool",
    k: given.get("k") ?? "10",
    filter: given.get("filter"),
  };
  let collections = [];
  let limits = {};
  let running = null;
  let timer = 0;
  let isComposing = false;
  const leaving = new AbortController();

  const input = el("input", {
    type: "search",
    class: "query",
    value: state.q,
    placeholder: say("search.placeholder"),
    "aria-label": say("search.query"),
    autocomplete: "off",
    spellcheck: "false",
    enterkeyhint: "search",
    oninput: () => !isComposing && soon(),
    // An input method is at work: half a syllable is no query.
    oncompositionstart: () => (isComposing = true),
    oncompositionend: () => ((isComposing = false), soon()),
    onkeydown: (event) => {
      if (event.key === "Enter" && !isComposing && !event.isComposing) run();
      if (event.key === "ArrowDown") root.querySelector(".hit-head")?.focus(), event.preventDefault();
    },
  });
  const chosen = el("select", { "aria-label": say("search.collection"), onchange: () => set({ c: chosen.value, filter: null }) });
  const options = el("div", { class: "options" });
  const filters = el("div", {});
  const results = el("section", { class: "results", "aria-label": say("search.results"), "aria-live": "off" });
  const told = el("p", { class: "visually-hidden", role: "status" });

  put(
    root,
    el("h1", {}, say("search.title")),
    el("div", { class: "ask-row" }, el("div", { class: "query-box" }, lens(), input), chosen),
    options,
    filters,
    told,
    results,
  );

  function set(changes) {
    Object.assign(state, changes);
    if ("rerank" in changes && state.rerank === "none") state.scope = "pool";
    if ("c" in changes) drawFilters();
    drawOptions();
    run();
  }

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(run, DEBOUNCE_MS);
  }

  function keep() {
    const shown = { ...state };
    for (const [name, usual] of [["rerank", "wrd"], ["candidates", "100"], ["scope", "pool"], ["k", "10"]]) if (shown[name] === usual) delete shown[name];
    keepAddress("search", shown);
  }

  function body(changes = {}) {
    const wanted = { query: state.q.trim(), top_k: Number(state.k), candidates: Number(state.candidates), rerank: state.rerank };
    if (state.retrieve) wanted.retrieve = state.retrieve;
    if (state.weight !== null && state.rerank !== "none") {
      wanted.weight = Number(state.weight);
      if ((state.retrieve || limits.retrieve) !== "vector") wanted.lexical_weight = limits.lexical_weight;
    }
    if (state.scope === "corpus") wanted.scope = "corpus";
    if (state.filter) wanted.filter = JSON.parse(state.filter);
    return { ...wanted, ...changes };
  }

  async function run() {
    clearTimeout(timer);
    running?.abort();
    running = null;
    state.q = input.value;
    keep();
    if (!state.c) return drawNoCollection();
    if (!state.q.trim()) return drawExamples();
    const mine = (running = new AbortController());
    const route = path`/v1/collections/${state.c}/search`;
    results.classList.add("is-stale");
    try {
      const answer = await post(route, body(), mine.signal);
      const result = answer.results[0];
      results.classList.remove("is-stale");
      const isMore = result.hits.length === Number(state.k) && result.hits.length < (limits.max_top_k ?? 1000);
      const showRanks = drawHits(results, { answer, result, state, copy, more: isMore && (() => set({ k: String(Math.min(Number(state.k) + MORE, limits.max_top_k ?? 1000)) })) });
      told.textContent = say("search.told", { n: result.hits.length });
      if (state.rerank === "none" || !result.hits.length) return;
      // Where each hit stood before transport had its say: the same search without it.
      const most = Math.min(Number(state.candidates), limits.max_top_k ?? 100);
      const first = await post(route, body({ rerank: "none", top_k: Math.max(most, 1), weight: undefined, lexical_weight: undefined, scope: undefined }), mine.signal);
      if (!first.partial) showRanks(new Map(first.results[0].hits.map((hit, i) => [hit.id, i + 1])));
    } catch (error) {
      if (error.name === "AbortError") return;
      results.classList.remove("is-stale");
      told.textContent = error.message;
      put(results, el("div", { class: "empty bad" }, el("h2", {}, say("search.failed")), el("p", {}, error.message || say("banner.away"))));
    }
  }

  function copy() {
    const route = location.origin + path`/v1/collections/${state.c}/search`;
    const sent = JSON.stringify(body()).replaceAll("'", "'\\''");
    copyText(`curl -s ${route} -H 'Content-Type: application/json' -d '${sent}'`, say("copied.curl"), say("copied.refused"));
  }

  function drawNoCollection() {
    put(
      results,
      el("div", { class: "empty" }, el("h2", {}, say("search.none.title")), el("p", {}, say("search.none.text")), el("a", { class: "main", href: linkTo("corpus") }, say("search.none.link"))),
    );
  }

  async function drawExamples() {
    let examples = state.c === SAMPLE ? say("search.samples") : [];
    if (!examples.length) {
      try {
        const page = await get(`${path`/v1/collections/${state.c}/documents`}?limit=5`, leaving.signal);
        examples = page.documents.map((document) => document.text.slice(0, 40));
      } catch {
        // Examples are a kindness; a search will say what is wrong.
      }
    }
    if (input.value.trim() || !root.contains(results)) return;
    put(
      results,
      el(
        "div",
        { class: "empty" },
        el("p", {}, say(examples.length ? "search.try" : "search.emptyCollection")),
        el("div", { class: "chips" }, examples.map((text) => el("button", { type: "button", class: "chip", lang: "zh-CN", onclick: () => ((input.value = text), run(), input.focus()) }, text))),
        !examples.length && el("a", { class: "main", href: linkTo("corpus", { c: state.c }) }, say("search.none.link")),
      ),
    );
  }

  function drawOptions() {
    const usual = limits.weight ?? 0.5;
    const weight = el("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.05,
      value: state.weight ?? usual,
      disabled: state.rerank === "none",
      oninput: () => {
        figure.textContent = Number(weight.value).toFixed(2);
        state.weight = weight.value;
        soon();
      },
      ondblclick: () => set({ weight: null }),
    });
    const figure = el("output", {}, Number(state.weight ?? usual).toFixed(2));
    const candidates = el("input", {
      type: "number",
      min: 1,
      max: limits.max_candidates ?? 10000,
      value: state.candidates,
      disabled: state.scope === "corpus",
      onchange: () => candidates.checkValidity() && candidates.value && set({ candidates: candidates.value }),
    });
    const isKept = options.contains(document.activeElement) && document.activeElement.closest("[data-option]")?.dataset.option;
    const labelled = (name, control, title) => el("div", { class: "field", "data-option": name, title }, el("span", { class: "label" }, say(`search.${name}`)), control);
    put(
      options,
      labelled("rerank", switchOf(say("search.rerank"), ["wrd", "wmd", "none"].map((x) => [x, say(`rerank.${x}`), say(`rerank.${x}.hint`)]), state.rerank, (rerank) => set({ rerank }))),
      field(say("search.weight"), el("span", { class: "slider", title: say("search.weight.hint") }, weight, figure)),
      labelled("retrieve", retrieveSelect()),
      field(say("search.candidates"), candidates),
      labelled("scope", switchOf(say("search.scope"), ["pool", "corpus"].map((x) => [x, say(`scope.${x}`), say(`scope.${x}.hint`)]), state.scope, (scope) => set({ scope, rerank: scope === "corpus" && state.rerank === "none" ? "wrd" : state.rerank }))),
    );
    if (isKept) options.querySelector(`[data-option=${isKept}] [tabindex="0"], [data-option=${isKept}] select`)?.focus();
  }

  function retrieveSelect() {
    const select = el(
      "select",
      { "aria-label": say("search.retrieve"), disabled: state.scope === "corpus", onchange: () => set({ retrieve: select.value || null }) },
      el("option", { value: "" }, say("retrieve.usual", { usual: say(`retrieve.${limits.retrieve ?? "vector"}`) })),
      ["vector", "lexical", "hybrid"].map((name) => el("option", { value: name }, say(`retrieve.${name}`))),
    );
    select.value = state.retrieve ?? "";
    return select;
  }

  function drawFilters() {
    if (state.c) filterPanel(filters, state.c, state.filter, (filter) => ((state.filter = filter), run()));
    else put(filters);
  }

  async function begin() {
    try {
      const [list, info] = await Promise.all([call("GET", "/v1/collections", undefined, leaving.signal), get("/info", leaving.signal)]);
      collections = list.collections;
      const { weight, lexical_weight, retrieve } = info.models[0] ?? {};
      limits = { ...info.limits, weight, lexical_weight, retrieve };
    } catch (error) {
      if (error.name !== "AbortError") put(results, el("div", { class: "empty bad" }, el("p", {}, error.message || say("banner.away"))));
      return;
    }
    const names = collections.map(({ name }) => name);
    state.c ??= names.includes(SAMPLE) ? SAMPLE : (names[0] ?? null);
    put(chosen, [...new Set([...names, state.c].filter(Boolean))].map((name) => el("option", { value: name }, label(name))));
    chosen.value = state.c ?? "";
    chosen.hidden = !state.c;
    drawOptions();
    drawFilters();
    run();
  }

  function label(name) {
    const found = collections.find((each) => each.name === name);
    return found ? `${name} · ${found.documents.toLocaleString()}` : name;
  }

  drawOptions();
  begin();
  if (matchMedia("(hover: hover)").matches) input.focus({ preventScroll: true });
  return () => (leaving.abort(), running?.abort(), clearTimeout(timer));
}

const lens = () => svg("svg", { class: "lens", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("circle", { cx: 10.5, cy: 10.5, r: 6 }), svg("path", { d: "m15 15 5 5" }));
