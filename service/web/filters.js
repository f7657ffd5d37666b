/**
 * Filters from metadata: the fields that a collection's documents have become chips and ranges, and the filter is shown as JSON.
 */

import { get, path } from "./calls.js";
import { button, el, put } from "./elements.js";
import { say } from "./words.js";

const LOOKED_AT = 500; // documents whose fields are offered; values are counted where these are all
const MOST_VALUES = 40;
const MOST_STEPS = 6; // more different numbers than these are a range
const LONGEST_VALUE = 24;

/** Show the filters of a collection; `choose` hears the filter as JSON text, null for none. */
export function filterPanel(root, collection, filter, choose) {
  const chosen = filter ? readFilter(filter) : {};
  const summary = el("summary", {}, say("filter.title"), " ", el("span", { class: "count" }));
  const inside = el("div", { class: "filter-body" });
  const panel = el("details", { class: "filters", open: filter !== null, ontoggle: () => panel.open && fill() }, summary, inside);
  const text = el("input", { type: "text", class: "mono", spellcheck: "false", "aria-label": say("filter.json"), placeholder: '{"year": {"gte": 2020}}', onchange: () => typed() });
  const fault = el("p", { class: "warning", role: "alert" });
  let isFilled = false;

  function tell() {
    const count = Object.keys(chosen).length;
    summary.lastElementChild.textContent = count ? String(count) : "";
    text.value = count ? JSON.stringify(chosen) : "";
    fault.textContent = "";
    choose(count ? JSON.stringify(chosen) : null);
  }

  function typed() {
    try {
      const given = text.value.trim() ? JSON.parse(text.value) : {};
      if (typeof given !== "object" || given === null || Array.isArray(given)) throw new SyntaxError("no object");
      for (const key of Object.keys(chosen)) delete chosen[key];
      Object.assign(chosen, given);
      isFilled = false;
      tell();
      fill();
    } catch {
      fault.textContent = say("filter.wrong");
    }
  }

  async function fill() {
    if (isFilled) return;
    isFilled = true;
    try {
      const page = await get(`${path`/v1/collections/${collection}/documents`}?limit=${LOOKED_AT}`);
      const fields = fieldsOf(page.documents);
      put(inside, fields.map(([key, values]) => group(key, values, chosen, tell, page.next === null)), !fields.length && el("p", { class: "hint" }, say("filter.nothing")), el("label", { class: "field wide" }, el("span", { class: "label" }, say("filter.json")), text), fault, button(say("filter.clear"), clear, { class: "link" }));
    } catch (error) {
      isFilled = false;
      put(inside, el("p", { class: "warning" }, error.message));
    }
  }

  function clear() {
    for (const key of Object.keys(chosen)) delete chosen[key];
    isFilled = false;
    tell();
    fill();
  }

  summary.lastElementChild.textContent = Object.keys(chosen).length || "";
  text.value = filter ?? "";
  put(root, panel);
}

function readFilter(filter) {
  try {
    return JSON.parse(filter) ?? {};
  } catch {
    return {}; // an address that was edited by hand: the search says what is wrong with it
  }
}

/** The fields that are worth choosing by: few short values, or numbers. */
function fieldsOf(documents) {
  const counts = new Map();
  for (const { metadata } of documents) {
    for (const [key, entry] of Object.entries(metadata)) {
      for (const value of Array.isArray(entry) ? entry : [entry]) {
        if (value === null || typeof value === "object") continue;
        if (!counts.has(key)) counts.set(key, new Map());
        const of = counts.get(key);
        of.set(value, (of.get(value) ?? 0) + 1);
      }
    }
  }
  return [...counts].filter(([, of]) => {
    const values = [...of.keys()];
    if (values.every((value) => typeof value === "number")) return values.length > 1;
    return values.length <= MOST_VALUES && values.length > 1 && values.every((value) => String(value).length <= LONGEST_VALUE);
  }).map(([key, of]) => [key, [...of].sort((a, b) => b[1] - a[1])]);
}

function group(key, values, chosen, tell, isWhole) {
  const isRange = values.length > MOST_STEPS && values.every(([value]) => typeof value === "number");
  return el("fieldset", { class: "facet" }, el("legend", {}, key), isRange ? range(key, values, chosen, tell) : chipsOf(key, values, chosen, tell, isWhole));
}

function chipsOf(key, values, chosen, tell, isWhole) {
  const current = () => (chosen[key]?.in ?? (chosen[key] === undefined || typeof chosen[key] === "object" ? [] : [chosen[key]]));
  return el(
    "div",
    { class: "chips" },
    values.map(([value, count]) => {
      const chip = el("button", { type: "button", class: "chip", lang: "zh-CN", "aria-pressed": String(current().includes(value)), onclick: toggle }, String(value), isWhole && el("span", { class: "count" }, String(count)));
      function toggle() {
        const kept = current().includes(value) ? current().filter((each) => each !== value) : [...current(), value];
        if (!kept.length) delete chosen[key];
        else chosen[key] = kept.length === 1 ? kept[0] : { in: kept };
        chip.setAttribute("aria-pressed", String(kept.includes(value)));
        tell();
      }
      return chip;
    }),
  );
}

function range(key, values, chosen, tell) {
  const numbers = values.map(([value]) => value);
  const bounds = { gte: Math.min(...numbers), lte: Math.max(...numbers) };
  const bound = (operator) => {
    const input = el("input", { type: "number", step: "any", placeholder: String(bounds[operator]), value: chosen[key]?.[operator] ?? "", "aria-label": `${key} ${say(`filter.${operator}`)}`, onchange: change });
    function change() {
      const kept = typeof chosen[key] === "object" ? { ...chosen[key] } : {};
      if (input.value === "") delete kept[operator];
      else kept[operator] = Number(input.value);
      if (Object.keys(kept).length) chosen[key] = kept;
      else delete chosen[key];
      tell();
    }
    return input;
  };
  return el("div", { class: "row" }, bound("gte"), el("span", { "aria-hidden": "true" }, "–"), bound("lte"));
}
