/**
 * The hits of a search: scores side by side, how the rerank moved them, the certificate in words, and why, in place.
 */

import { linkTo } from "./address.js";
import { post } from "./calls.js";
import { button, el, put } from "./elements.js";
import { planPicture } from "./plan.js";
import { languageOf, say } from "./words.js";

const MOST_CHIPS = 6;
const LONGEST_CHIP = 24;

/** Draw an answer; returns a function that takes the ranks before the rerank, once they are known. */
export function drawHits(root, { answer, result, state, copy, more }) {
  const marks = [];
  const list = el(
    "ol",
    { class: "hits" },
    result.hits.map((hit, i) => {
      const move = el("span", { class: "move" });
      marks.push([hit.id, i + 1, move]);
      return hitOf(hit, i + 1, move, state);
    }),
  );
  list.addEventListener("keydown", walk);
  put(
    root,
    el("div", { class: "proof-row" }, proof(answer, result, state), el("div", { class: "took" }, took(answer.took_ms), button(say("search.curl"), copy, { class: "link" }))),
    result.truncated && el("p", { class: "warning" }, say("search.truncated")),
    result.hits.length ? list : el("div", { class: "empty" }, el("h2", {}, say("search.nothing.title")), el("p", {}, say(state.filter ? "search.nothing.filter" : "search.nothing.text"))),
    more && el("div", { class: "more" }, button(say("search.more"), more, { class: "quiet" })),
  );
  return (ranks) => marks.forEach(([id, after, mark]) => drawMove(mark, ranks.get(id), after, state));
}

function drawMove(mark, before, after, state) {
  const name = before === undefined ? "new" : before === after ? "same" : before > after ? "up" : "down";
  mark.className = `move ${name}`;
  const shown = { new: say("move.new"), same: "=", up: `↑ ${before}`, down: `↓ ${before}` }[name];
  const told = say(`move.${name}.told`, { before, after, most: state.candidates });
  put(mark, el("span", { "aria-hidden": "true" }, shown), el("span", { class: "visually-hidden" }, told));
  mark.title = told;
}

function hitOf(hit, rank, move, state) {
  const place = el("div", { class: "why-here", hidden: true });
  const head = el(
    "button",
    { type: "button", class: "hit-head", "aria-expanded": "false", onclick: toggle },
    el("span", { class: "rank" }, String(rank)),
    el("span", { class: "hit-text", lang: languageOf(hit.text) }, hit.text),
    el("span", { class: "why-mark", "aria-hidden": "true" }, say("hit.why")),
  );
  function toggle() {
    const isOpen = head.getAttribute("aria-expanded") !== "true";
    head.setAttribute("aria-expanded", String(isOpen));
    place.hidden = !isOpen;
    if (isOpen && !place.childElementCount) explain(place, state, hit);
  }
  const distance = hit.wrd ?? hit.wmd;
  return el(
    "li",
    { class: "hit" },
    move,
    head,
    el(
      "div",
      { class: "hit-foot" },
      bar("cosine", hit.cosine, hit.cosine),
      state.rerank !== "none" && bar("transport", distance, distance === null ? null : nearness(distance, state.rerank), say(`rerank.${state.rerank}`)),
      el("span", { class: "figure", title: say("hit.score.hint") }, `${say("hit.score")} ${fixed(hit.score)}`),
      hit.bm25 !== null && el("span", { class: "figure", title: say("hit.bm25.hint") }, `BM25 ${hit.bm25.toFixed(1)}`),
      chips(hit),
    ),
    place,
  );
}

/** How full the bar of a distance is: 1 where nothing had to be moved. */
const nearness = (distance, measure) => (measure === "wrd" ? Math.max(0, 1 - distance) : 1 / (1 + distance));

function bar(kind, value, share, name) {
  const label = kind === "cosine" ? say("hit.cosine") : name;
  if (value === null || value === undefined) return el("span", { class: `bar ${kind} is-none`, title: say("hit.notRun") }, el("span", { class: "bar-label" }, label), "–");
  return el(
    "span",
    { class: `bar ${kind}`, title: say(`hit.${kind}.hint`) },
    el("span", { class: "bar-label" }, label),
    el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "full", vars: { "--share": `${Math.round(Math.min(1, Math.max(0, share)) * 100)}%` } })),
    el("span", { class: "bar-figure" }, fixed(value)),
  );
}

const fixed = (value) => value.toFixed(3);

function chips(hit) {
  const short = Object.entries(hit.metadata).filter(([, value]) => value !== null && String(value).length <= LONGEST_CHIP && typeof value !== "object");
  const long = Object.entries(hit.metadata).filter(([, value]) => typeof value === "string" && value.length > LONGEST_CHIP);
  return [
    el("span", { class: "tags" }, el("span", { class: "tag id", title: say("hit.id") }, hit.id), short.slice(0, MOST_CHIPS).map(([key, value]) => el("span", { class: "tag", title: key, lang: languageOf(String(value)) }, String(value)))),
    long.length > 0 && el("p", { class: "more-text", lang: languageOf(long[0][1]), title: long[0][0] }, long[0][1]),
  ];
}

async function explain(place, state, hit) {
  put(place, el("p", { class: "hint" }, say("why.computing")));
  const measure = state.rerank === "wmd" ? "wmd" : "wrd";
  try {
    const { results } = await post("/v1/similarity", { pairs: [[state.q.trim(), hit.text]], measures: [measure], explain: true });
    const link = el("a", { class: "link", href: linkTo("why", { a: state.q.trim(), b: hit.text, measure }) }, say("hit.open"));
    put(place, planPicture(results[0], measure, [link]));
  } catch (error) {
    put(place, el("p", { class: "warning" }, error.message || say("banner.away")));
  }
}

/** What is proven about the ranking, in a sentence, with a bar of what was solved. */
function proof(answer, result, state) {
  const certificate = result.certificate;
  if (answer.partial) return el("p", { class: "proof bad" }, say("proof.partial"));
  if (!certificate) return el("p", { class: "proof none" }, say("proof.none"));
  const all = certificate.solved + certificate.pruned;
  const values = { solved: certificate.solved, all, pruned: certificate.pruned, k: state.k };
  const share = all ? certificate.solved / all : 1;
  return el(
    "p",
    { class: `proof ${certificate.exact ? "good" : "bad"}` },
    el("span", { class: "proof-bar", "aria-hidden": "true", vars: { "--share": `${Math.max(share * 100, 1)}%` } }),
    el("span", {}, el("strong", {}, say(certificate.exact ? "proof.exact" : "proof.open")), " ", say(certificate.pruned ? `proof.${certificate.scope}` : `proof.${certificate.scope}.all`, values)),
  );
}

function took(stages) {
  const parts = Object.entries(stages).filter(([name, ms]) => name !== "total" && ms !== null);
  const title = parts.map(([name, ms]) => `${say(`took.${name}`)} ${ms.toFixed(1)} ms`).join(" · ");
  return el("span", { title }, `${stages.total.toFixed(1)} ms`);
}

function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.classList.contains("hit-head")) return;
  const heads = [...event.currentTarget.querySelectorAll(".hit-head")];
  const next = heads[heads.indexOf(event.target) + step];
  event.preventDefault();
  if (next) next.focus();
  else if (step < 0) document.querySelector("input.query")?.focus();
}
