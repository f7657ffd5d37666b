/**
 * The state of the service: what runs, on what, how busy it is and how fast it answers.
 */

import { size } from "./corpus.js";
import { call, get, getText } from "./calls.js";
import { el, put } from "./elements.js";
import { quantile, readMetrics, sparkline, total } from "./metrics.js";
import { say } from "./words.js";

const EVERY_MS = 2000;
const KEPT = 60;
const QUIET = new Set(["/metrics", "/readyz", "/livez", "/info", "/", "/web/{name}"]); // asked by pages and probes

/** Show the view; returns what to call when it is left. */
export function showState(root) {
  const leaving = new AbortController();
  const ready = el("p", { class: "ready", role: "status" });
  const live = el("section", { class: "tiles" });
  const about = el("section", {});
  const rates = [];
  let last = null;
  put(root, el("h1", {}, say("state.title")), ready, live, about);

  async function describe() {
    try {
      const [info, { collections }, { graphs }] = await Promise.all(["/info", "/v1/collections", "/v1/graphs"].map((route) => get(route, leaving.signal)));
      put(about, modelTable(info), collectionTable(collections), graphs.length > 0 && graphTable(graphs), limitTable(info));
    } catch (error) {
      if (error.name !== "AbortError") put(about, el("p", { class: "empty bad" }, error.message || say("banner.away")));
    }
  }

  async function look() {
    if (document.hidden) return;
    try {
      await call("GET", "/readyz", undefined, leaving.signal);
      put(ready, el("span", { class: "lamp good" }), say("state.ready"));
    } catch (error) {
      if (error.name === "AbortError") return;
      put(ready, el("span", { class: "lamp bad" }), error.message || say("banner.away"));
    }
    try {
      drawLive(readMetrics(await getText("/metrics", leaving.signal)));
    } catch (error) {
      if (error.name === "AbortError") return;
      put(live, el("p", { class: "hint" }, error.status === 404 ? say("state.noMetrics") : error.message || say("banner.away")));
    }
  }

  function drawLive(samples) {
    const now = performance.now();
    const isWork = (labels) => !QUIET.has(labels.route);
    const counts = { requests: total(samples, "moverank_requests_total", isWork) ?? 0, texts: total(samples, "moverank_encoded_texts_total") ?? 0 };
    if (last) {
      const elapsed = (now - last.now) / 1000;
      rates.push(["requests", "texts"].map((name) => Math.max(0, counts[name] - last.counts[name]) / elapsed));
      if (rates.length > KEPT) rates.shift();
    }
    last = { now, counts };
    const rate = rates.at(-1) ?? [0, 0];
    const searches = samples.filter((sample) => sample.labels.route?.endsWith("/search"));
    const [median, slow] = [0.5, 0.99].map((share) => quantile(searches, "moverank_request_seconds", share));
    const memory = total(samples, "process_resident_memory_bytes");
    const queued = total(samples, "moverank_queue_texts");
    const [solved, pruned] = ["solved", "pruned"].map((name) => total(samples, `moverank_transport_${name}_total`));
    put(
      live,
      tile(say("state.requests"), `${rate[0].toFixed(1)}`, say("state.perSecond"), sparkline(rates.map((each) => each[0]), { most: KEPT })),
      tile(say("state.texts"), `${rate[1].toFixed(1)}`, say("state.perSecond"), sparkline(rates.map((each) => each[1]), { most: KEPT })),
      tile(say("state.latency"), milliseconds(median), say("state.p99", { ms: milliseconds(slow) })),
      tile(say("state.queue"), queued === null ? "–" : String(queued), say("state.waiting", { n: total(samples, "moverank_queries_inside") ?? 0 })),
      tile(say("state.spared"), solved + pruned ? `${Math.round((pruned / (solved + pruned)) * 100)}%` : "–", say("state.spared.hint")),
      tile(say("state.memory"), memory === null ? "–" : size(memory), say("state.served", { n: counts.requests.toLocaleString() })),
    );
  }

  describe();
  look();
  const timer = setInterval(look, EVERY_MS);
  return () => (leaving.abort(), clearInterval(timer));
}

const milliseconds = (seconds) => (seconds === null ? "–" : `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`);

function tile(label, figure, hint, picture = null) {
  return el("div", { class: `tile${picture ? " wide" : ""}` }, el("span", { class: "label" }, label), el("span", { class: "big" }, figure), el("span", { class: "hint" }, hint), picture);
}

function tableOf(title, columns, rows) {
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, title),
    el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": title }, el("table", {}, el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) => (i ? el("td", {}, String(cell)) : el("th", { scope: "row" }, String(cell))))))))),
  );
}

function modelTable(info) {
  const columns = ["name", "device", "dim", "max_tokens", "token_vectors", "retrieve", "weight", "fingerprint"];
  const lookup = info.lookup_model;
  const models = [...info.models, ...(lookup ? [{ ...lookup, name: say("state.lookup", lookup) }] : [])];
  return tableOf(
    say("state.models", { version: info.version }),
    columns.map((name) => say(`state.model.${name}`)),
    models.map((model) => columns.map((name) => (name === "device" ? info.device : (model[name] ?? "–")))),
  );
}

function collectionTable(collections) {
  return tableOf(
    say("corpus.collections"),
    [say("corpus.name"), say("state.documents"), say("state.index"), say("state.size")],
    collections.map((each) => [each.name, each.documents.toLocaleString(), each.index_in_use ?? each.index, size(each.bytes)]),
  );
}

function graphTable(graphs) {
  return tableOf(
    say("state.graphs"),
    [say("corpus.name"), say("state.triples"), say("state.subjects"), say("state.predicates"), say("state.pending"), say("state.size")],
    graphs.map((each) => [each.name, ...[each.triples, each.subjects, each.predicates, each.pending].map((n) => n.toLocaleString()), size(each.bytes)]),
  );
}

function limitTable(info) {
  const rows = Object.entries(info.limits).map(([name, value]) => [name, value.toLocaleString()]);
  return el("details", { class: "panel" }, el("summary", {}, say("state.limits")), tableOf(say("state.limits.hint"), [say("state.limit"), say("state.value")], rows));
}
