/**
 * Prometheus's text format, read as far as the page needs it, and a sparkline.
 */

import { svg } from "./elements.js";

/** Read metrics: a list of {name, labels, value}. */
export function readMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, key, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[key] = value;
    samples.push({ name: found[1], labels, value: Number(found[3].replace("Inf", "Infinity")) });
  }
  return samples;
}

/** Add up all samples of a name whose labels satisfy a condition; null where there is none. */
export function total(samples, name, wanted = () => true) {
  const values = samples.filter((sample) => sample.name === name && wanted(sample.labels)).map((sample) => sample.value);
  return values.length ? values.reduce((sum, value) => sum + value, 0) : null;
}

/** The value below which a share of a histogram's observations lie, read off its buckets as Prometheus does; null without any. */
export function quantile(samples, name, share, since = new Map()) {
  const buckets = new Map();
  for (const sample of samples) {
    if (sample.name !== `${name}_bucket`) continue;
    const edge = Number(sample.labels.le.replace("+Inf", "Infinity"));
    buckets.set(edge, (buckets.get(edge) ?? 0) + sample.value);
  }
  const edges = [...buckets.keys()].sort((a, b) => a - b);
  const counts = edges.map((edge) => buckets.get(edge) - (since.get(edge) ?? 0));
  const all = counts.at(-1) ?? 0;
  if (!all) return null;
  const at = counts.findIndex((count) => count >= share * all);
  const [low, high] = [at > 0 ? edges[at - 1] : 0, edges[at]];
  if (high === Infinity) return low;
  const [before, here] = [at > 0 ? counts[at - 1] : 0, counts[at]];
  return here > before ? low + ((high - low) * (share * all - before)) / (here - before) : high;
}

/** Draw values as a line over time, the latest at the right end. */
export function sparkline(values, { width = 560, height = 72, most = 60 } = {}) {
  const top = Math.max(1e-9, ...values.filter((value) => value !== null));
  const step = width / (most - 1);
  const first = most - values.length;
  const points = values.map((value, i) => [((first + i) * step).toFixed(1), (height - 3 - ((value ?? 0) / top) * (height - 10)).toFixed(1)]);
  const line = points.map((point) => point.join(" ")).join("L");
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    points.length > 1 && svg("path", { class: "spark-area", d: `M${points[0][0]} ${height}L${line}L${points.at(-1)[0]} ${height}Z` }),
    points.length > 1 && svg("path", { class: "spark-line", d: `M${line}` }),
  );
}
