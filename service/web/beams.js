/**
 * The beams of an answer as a tree: where the graph left a choice, and what the model thought of each side.
 *
 * Every answer is a path subject → predicate → meaning. Where two answers begin alike they share a stem, character by character;
 * where they part, the thicker branch has more of the probability that all of them have together.
 */

import { palette } from "./colours.js";
import { drawSvg, textWidth } from "./picture.js";

const SIZE = 16;
const ROW = 38;
const GAP = 56;
const MARGIN = 10;
const THICKEST = 18;
const SEPARATOR = "›";

/** Draw the tree of a result of …/ask. */
export function drawBeams({ answers }) {
  const root = treeOf(answers.map((answer) => ({ text: pathOf(answer), chance: answer.probability })));
  const colours = palette();
  const shapes = [];
  let rows = 0;
  let width = 0;
  const all = Math.max(root.chance, Number.MIN_VALUE);
  lay(root, MARGIN);

  /** Place a node and what is behind it; returns its height on the page. */
  function lay(node, x) {
    const end = x + textWidth(node.text, SIZE) + (node.text ? 8 : 0);
    const heights = node.children.map((child) => lay(child, end + GAP));
    const y = heights.length ? (heights[0] + heights.at(-1)) / 2 : MARGIN + ROW * (rows++ + 0.5);
    node.children.forEach((child, i) => branch(end, y, end + GAP - 4, heights[i], child.chance / all));
    shapes.push({ kind: "text", x, y: y + 5, text: node.text, size: SIZE, fill: colours.ink });
    if (!node.children.length) {
      const figure = node.chance < 0.001 ? "<0.1%" : `${(node.chance * 100).toFixed(node.chance < 0.1 ? 1 : 0)}%`;
      shapes.push({ kind: "text", x: end + 4, y: y + 5, text: figure, size: 12, fill: colours.soft });
      width = Math.max(width, end + 60);
    }
    return y;
  }

  function branch(x, y, right, bottom, share) {
    const thick = Math.max(1.2, share * THICKEST);
    const middle = (x + right) / 2;
    const [a, b] = [y - thick / 2, bottom - thick / 2];
    const d = `M${x} ${a}C${middle} ${a} ${middle} ${b} ${right} ${b}L${right} ${b + thick}C${middle} ${b + thick} ${middle} ${a + thick} ${x} ${a + thick}Z`;
    shapes.unshift({ kind: "path", d, fill: colours.costs[0], opacity: 0.3 + 0.5 * Math.min(1, share) });
  }

  const image = drawSvg({ width: Math.max(width, 200), height: 2 * MARGIN + rows * ROW, shapes });
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", answers.map((answer) => `${pathOf(answer)} ${(answer.probability * 100).toFixed(1)}%`).join("; "));
  return image;
}

const pathOf = ({ subject, predicate, meaning }) => [subject, predicate, meaning].filter(Boolean).join(` ${SEPARATOR} `);

/** Merge paths that begin alike: {text, chance, children}. */
function treeOf(paths) {
  const chance = paths.reduce((sum, path) => sum + path.chance, 0);
  if (paths.every((path) => path.text === paths[0].text)) return { text: paths[0].text, chance, children: [] };
  let shared = 0;
  const first = [...paths[0].text];
  while (paths.every((path) => [...path.text][shared] !== undefined && [...path.text][shared] === first[shared])) shared++;
  const groups = new Map();
  for (const path of paths) {
    const rest = [...path.text].slice(shared);
    const key = rest[0] ?? "";
    groups.set(key, [...(groups.get(key) ?? []), { text: rest.join(""), chance: path.chance }]);
  }
  return { text: first.slice(0, shared).join(""), chance, children: [...groups.values()].map(treeOf) };
}
