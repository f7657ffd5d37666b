/**
 * Files that become documents: dropped, sent, indexed by a job whose progress the service tells as it goes.
 */

import { call, events, path, upload } from "./calls.js";
import { button, el, put } from "./elements.js";
import { say } from "./words.js";

const TYPES = { jsonl: "application/x-ndjson", ndjson: "application/x-ndjson", csv: "text/csv", tsv: "text/tab-separated-values", txt: "text/plain" };
const JOBS = "moverank.jobs";
const AGAIN_MS = 1500;

/** The extension of a file's name without that of its compression. */
const extensionOf = (name) => name.toLowerCase().replace(/\.(gz|xz|zst)$/, "").split(".").pop();

/** Where files can go: what kinds, by which route, and how the place is called. */
export const TO_COLLECTION = { kind: "collections", types: TYPES, title: "import.drop", hint: "import.formats", wrong: "import.unknown" };
export const TO_GRAPH = { kind: "graphs", types: { tsv: TYPES.tsv, txt: TYPES.tsv }, title: "facts.import", hint: "facts.formats", wrong: "facts.wrongFile" };

/** A place to drop files onto. `target` names the collection or graph, `changed` is told when a job has ended. */
export function importPanel(target, changed, { kind, types, title, hint, wrong } = TO_COLLECTION) {
  const jobs = el("ul", { class: "jobs" });
  const leaving = new AbortController();
  const input = el("input", { type: "file", multiple: true, class: "visually-hidden", accept: [...Object.keys(types), "gz", "xz", "zst"].map((name) => `.${name}`).join(), onchange: () => (take(input.files), (input.value = "")) });
  const zone = el(
    "label",
    { class: "drop", ondragover: over, ondragleave: () => zone.classList.remove("is-over"), ondrop: drop },
    input,
    el("strong", {}, say(title)),
    el("span", { class: "hint" }, say(hint)),
  );

  function over(event) {
    event.preventDefault();
    zone.classList.add("is-over");
  }

  function drop(event) {
    event.preventDefault();
    zone.classList.remove("is-over");
    take(event.dataTransfer.files);
  }

  function take(files) {
    for (const file of files) send(file, target());
  }

  async function send(file, collection) {
    const card = cardOf(file.name, collection);
    jobs.prepend(card.root);
    const type = types[extensionOf(file.name)];
    if (!type) return card.fail(say(wrong, { name: file.name }));
    try {
      const route = path`/v1/${kind}/${collection}/imports`;
      const { job } = await upload(route, file, type, (share) => card.sending(share));
      remember({ job, kind, name: file.name, collection });
      await follow(card, job);
    } catch (error) {
      if (error.name !== "AbortError") card.fail(error.message || say("banner.away"));
    }
  }

  /** Show a job until it has ended; a broken stream is taken up again, and a job that nobody knows is forgotten. */
  async function follow(card, job) {
    card.cancelBy(() => call("DELETE", path`/v1/jobs/${job}`));
    for (;;) {
      try {
        for await (const status of events(path`/v1/jobs/${job}/events`, leaving.signal)) {
          card.show(status);
          if (status.state !== "running") {
            forget(job);
            return changed();
          }
        }
      } catch (error) {
        if (error.name === "AbortError") return;
        if (error.status === 404) return forget(job), card.root.remove();
        if (error.status !== 0 && error.status !== 503) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      if (leaving.signal.aborted) return;
    }
  }

  for (const { job, name, collection } of remembered().filter((each) => each.kind === kind)) {
    const card = cardOf(name, collection);
    jobs.append(card.root);
    follow(card, job).catch((error) => card.fail(error.message));
  }
  return { root: el("div", { class: "imports" }, zone, jobs), leave: () => leaving.abort() };
}

const remembered = () => JSON.parse(sessionStorage.getItem(JOBS) ?? "[]");
const remember = (job) => sessionStorage.setItem(JOBS, JSON.stringify([...remembered(), job]));
const forget = (id) => sessionStorage.setItem(JOBS, JSON.stringify(remembered().filter(({ job }) => job !== id)));

/** A job on the page: a bar, what it does, how fast, how long still, and what it could not use. */
function cardOf(name, collection) {
  const bar = el("progress", { max: 1, value: 0, "aria-label": say("import.progress", { name }) });
  const told = el("p", { class: "job-told", role: "status" }, say("import.sending", { share: 0 }));
  const rejects = el("div", {});
  const end = el("span", {});
  const root = el("li", { class: "job" }, el("p", { class: "job-name" }, el("strong", {}, name), el("span", { class: "hint" }, ` → ${collection}`), el("span", { class: "grow" }), end), bar, told, rejects);
  return {
    root,
    sending: (share) => ((bar.value = share), (told.textContent = say("import.sending", { share: Math.round(share * 100) }))),
    cancelBy: (cancel) => put(end, button(say("import.cancel"), () => (put(end), cancel()), { class: "link" })),
    fail(sentence) {
      root.classList.add("is-failed");
      told.textContent = sentence;
      bar.remove();
      put(end, button("×", () => root.remove(), { class: "quiet round", "aria-label": say("close") }));
    },
    show(status) {
      const { state, done, failed, total, rate, eta_s: eta } = status;
      const share = total ? (done + failed) / total : 0;
      if (state === "running" && !total) bar.removeAttribute("value");
      else bar.value = state === "done" ? 1 : share;
      root.className = `job is-${state}`;
      const parts = [say(`import.${state}`, { done: done.toLocaleString(), total: total?.toLocaleString() ?? "?" })];
      if (rate) parts.push(say("import.rate", { rate: Math.round(rate).toLocaleString() }));
      if (state === "running" && eta !== null) parts.push(say("import.eta", { eta: lasting(eta) }));
      if (failed) parts.push(say("import.rejects", { failed: failed.toLocaleString() }));
      if (status.truncated) parts.push(say("import.truncated", { n: status.truncated.toLocaleString() }));
      if (status.error) parts.push(status.error);
      told.textContent = parts.join(" · ");
      if (state !== "running") put(end, button("×", () => root.remove(), { class: "quiet round", "aria-label": say("close") }));
      if (failed && state !== "running") put(rejects, rejectList(status));
    },
  };
}

function rejectList({ errors, failed }) {
  return el(
    "details",
    { class: "rejects" },
    el("summary", {}, say("import.shown", { shown: errors.length, failed })),
    el("ul", {}, errors.map(({ line, error }) => el("li", {}, el("span", { class: "line" }, say("import.line", { line })), error))),
  );
}

const lasting = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : seconds < 5400 ? `${Math.ceil(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);
