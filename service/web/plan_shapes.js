/**
 * A transport plan as shapes: where the ribbons and the squares of a heat map lie.
 *
 * Everything is laid out along one axis (the tokens of a text) and across it (from one text to the other); on narrow screens the
 * texts run downwards and the ribbons from left to right.
 */

import { costColour, palette } from "./colours.js";
import { textWidth } from "./picture.js";

const SIZES = [19, 17, 15, 13]; // of a token's characters: the largest at which both texts fit, the smallest where none does
const GAPS = { 19: 5, 17: 5, 15: 4, 13: 3 }; // between tokens, by their size
const MARGIN = 14;
const ACROSS = 170;
const BAR = 4;
const LEAST_MASS_WIDTH = 110; // of all mass together, where the texts are too long to fit
const MOST_WIDTH = 66; // of a token on the average, so that ribbons stay ribbons
const NARROW = 560;
const FOOT = 44;
const LONGEST_TOKEN = 10;
const OPACITY = 0.66;

const shortened = (text) => (text.length > LONGEST_TOKEN ? `${text.slice(0, LONGEST_TOKEN - 1)}…` : text);
const sum = (values) => values.reduce((total, value) => total + value, 0);

/** Lay out ribbons: a picture of at least this width. `dearest` is the cost that is drawn in the last colour. */
export function ribbons({ query_tokens, text_tokens, plan }, { width, dearest, title, words }) {
  const colours = palette();
  const rows = [query_tokens, text_tokens].map((tokens, side) => {
    const masses = tokens.map((_, index) => sum(plan.filter((move) => move[side] === index).map((move) => move[2])));
    return tokens.map(([text], index) => ({ text: shortened(text), mass: masses[index], side, index }));
  });
  const room = width - 2 * MARGIN;
  const glyphs = (size) => ({ least: (token) => textWidth(token.text, size) + 1, gap: GAPS[size] });
  const doesFit = (size) => rows.every((row) => lengthOf(row, LEAST_MASS_WIDTH, glyphs(size)) <= room);
  const isUpright = width < NARROW && !doesFit(SIZES[1]);
  const size = isUpright ? SIZES[0] : (SIZES.find(doesFit) ?? SIZES.at(-1));
  const spacing = isUpright ? { least: () => size + 3, gap: GAPS[size] } : glyphs(size);
  const scale = isUpright ? 320 : Math.min(fit(rows, room, spacing), MOST_WIDTH * Math.max(...rows.map((row) => row.length)));
  const along = Math.max(isUpright ? 0 : room, ...rows.map((row) => lengthOf(row, scale, spacing)));
  const widest = (row) => Math.max(...row.map(glyphs(size).least));
  const [near, far] = isUpright ? [MARGIN + widest(rows[0]) + 8, width - MARGIN - widest(rows[1]) - 8] : [MARGIN + size + 12, MARGIN + size + 12 + ACROSS];
  rows.forEach((row) => place(row, scale, spacing, along > room && !isUpright ? 0 : along));
  const point = isUpright ? (u, v) => `${at(v)} ${at(MARGIN + u)}` : (u, v) => `${at(MARGIN + u)} ${at(v)}`;
  const box = (u, v, du, dv) => (isUpright ? { x: v, y: MARGIN + u, width: dv, height: du } : { x: MARGIN + u, y: v, width: du, height: dv });

  const shapes = [];
  const used = rows.map((row) => row.map(() => 0));
  // Ribbons leave a token in the order of where they go, so that those of one token do not cross.
  const starts = new Map();
  for (const side of [0, 1]) {
    for (const move of [...plan].sort((a, b) => a[side] - b[side] || a[1 - side] - b[1 - side])) {
      const token = rows[side][move[side]];
      starts.set(move, [...(starts.get(move) ?? []), token.bar + used[side][token.index]]);
      used[side][token.index] += move[2] * scale;
    }
  }
  for (const move of [...plan].sort((a, b) => b[2] - a[2])) {
    const [a, b] = starts.get(move);
    const thick = Math.max(move[2] * scale, 0.6);
    const [top, bottom] = [near + BAR + 1, far - 1];
    const middle = (top + bottom) / 2;
    const d = `M${point(a, top)}C${point(a, middle)} ${point(b, middle)} ${point(b, bottom)}L${point(b + thick, bottom)}C${point(b + thick, middle)} ${point(a + thick, middle)} ${point(a + thick, top)}Z`;
    shapes.push({ kind: "path", d, fill: costColour(move[3] / dearest, colours), opacity: OPACITY, move });
  }
  for (const row of rows) {
    for (const token of row) {
      const partners = new Set(plan.filter((move) => move[token.side] === token.index).map((move) => move[1 - token.side]));
      const v = token.side === 0 ? near : far;
      const shared = { token: { side: token.side, index: token.index }, partners };
      shapes.push({ kind: "rect", ...box(token.bar, v, Math.max(token.mass * scale, 1), BAR), fill: colours.soft, ...shared });
      const centre = token.bar + (token.mass * scale) / 2;
      const [x, y] = isUpright
        ? [token.side === 0 ? near - 8 : far + BAR + 8, MARGIN + centre + size * 0.36]
        : [MARGIN + centre, token.side === 0 ? near - 9 : far + BAR + size + 4];
      const anchor = isUpright ? (token.side === 0 ? "end" : "start") : "middle";
      shapes.push({ kind: "text", x, y, text: token.text, size, fill: colours.ink, anchor, ...shared });
    }
  }
  const [full, high] = isUpright ? [width, along + 2 * MARGIN] : [along + 2 * MARGIN, far + BAR + size + 14];
  return { width: full, height: high + FOOT, paper: colours.paper, shapes: [...shapes, ...foot(full, high, dearest, title, words, colours)] };
}

const at = (value) => Math.round(value * 100) / 100;
const lengthOf = (row, scale, { least, gap }) => sum(row.map((token) => Math.max(least(token), token.mass * scale))) + gap * (row.length - 1);

/** The width of all mass at which the longer row just fits, by bisection. */
function fit(rows, room, spacing) {
  let [low, high] = [LEAST_MASS_WIDTH, room];
  if (rows.some((row) => lengthOf(row, low, spacing) > room)) return low;
  for (let i = 0; i < 30; i++) {
    const middle = (low + high) / 2;
    if (rows.every((row) => lengthOf(row, middle, spacing) <= room)) low = middle;
    else high = middle;
  }
  return low;
}

/** Give each token of a row the place of its bar, the row being centred; on 0, it begins at the left. */
function place(row, scale, spacing, along) {
  let u = Math.max(0, (along - lengthOf(row, scale, spacing)) / 2);
  for (const token of row) {
    const slot = Math.max(spacing.least(token), token.mass * scale);
    token.bar = u + (slot - token.mass * scale) / 2;
    u += slot + spacing.gap;
  }
}

/** Lay out a heat map: a square for every move, its area the mass, its colour the cost. */
export function heatMap({ query_tokens, text_tokens, plan }, { width, dearest, title, words }) {
  const colours = palette();
  const names = [query_tokens, text_tokens].map((tokens) => tokens.map(([text]) => shortened(text)));
  const left = MARGIN + Math.max(...names[0].map((text) => textWidth(text, 15))) + 10;
  const cell = Math.min(38, Math.max(20, (width - left - MARGIN) / names[1].length));
  const isTilted = names[1].some((text) => textWidth(text, 15) > cell);
  const top = MARGIN + (isTilted ? 34 : 20);
  const heaviest = Math.max(...plan.map((move) => move[2]));
  const shapes = [];
  const [right, bottom] = [left + cell * names[1].length, top + cell * names[0].length];
  for (let i = 0; i <= names[0].length; i++) shapes.push({ kind: "rect", x: left, y: top + i * cell, width: right - left, height: 1, fill: colours.line });
  for (let j = 0; j <= names[1].length; j++) shapes.push({ kind: "rect", x: left + j * cell, y: top, width: 1, height: bottom - top, fill: colours.line });
  for (const move of plan) {
    const side = Math.max(1.5, (cell - 3) * Math.sqrt(move[2] / heaviest));
    const [x, y] = [left + (move[1] + 0.5) * cell - side / 2 + 0.5, top + (move[0] + 0.5) * cell - side / 2 + 0.5];
    shapes.push({ kind: "rect", x, y, width: side, height: side, fill: costColour(move[3] / dearest, colours), move });
  }
  const partners = (side, index) => new Set(plan.filter((move) => move[side] === index).map((move) => move[1 - side]));
  names[0].forEach((text, i) => {
    shapes.push({ kind: "text", x: left - 8, y: top + (i + 0.5) * cell + 5, text, size: 15, fill: colours.ink, anchor: "end", token: { side: 0, index: i }, partners: partners(0, i) });
  });
  names[1].forEach((text, j) => {
    const lift = isTilted && j % 2 ? 18 : 6; // long tokens stand in two rows
    shapes.push({ kind: "text", x: left + (j + 0.5) * cell, y: top - lift, text, size: 15, fill: colours.ink, anchor: "middle", token: { side: 1, index: j }, partners: partners(1, j) });
  });
  const full = Math.max(right + MARGIN, 280);
  return { width: full, height: bottom + MARGIN + FOOT, paper: colours.paper, shapes: [...shapes, ...foot(full, bottom + MARGIN, dearest, title, words, colours)] };
}

/** The legend below a picture: what the colours mean, and the distance. */
function foot(width, top, dearest, title, words, colours) {
  const steps = 24;
  const length = Math.min(120, width / 4);
  const figures = [`${words.free} 0`, `${dearest.toFixed(1)} ${words.dear}`];
  const end = width - MARGIN - textWidth(figures[1], 12) - 8;
  const y = top + 20;
  const scale = Array.from({ length: steps }, (_, i) => ({
    kind: "rect",
    x: end - length + (i * length) / steps,
    y: y - 9,
    width: length / steps + 0.3,
    height: 9,
    fill: costColour(i / (steps - 1), colours),
    opacity: 0.85,
  }));
  return [
    { kind: "text", x: MARGIN, y, text: title, size: 13, fill: colours.soft },
    ...scale,
    { kind: "text", x: end - length - 8, y, text: figures[0], size: 12, fill: colours.soft, anchor: "end" },
    { kind: "text", x: end + 8, y, text: figures[1], size: 12, fill: colours.soft },
  ];
}
