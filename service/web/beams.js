/**
 * The search of an answer as a tree: where the graph left a choice, what the model thought of each way, and what was dropped.
 *
 * A branch is as thick as the model finds the way to it likely, and carries the model's share at its fork. Dropped ways are grey.
 * Forks with one way that is nearly sure are not drawn as forks, and of dropped ways only the likeliest, unless all are asked for.
 */

import { palette } from "./colours.js";
import { drawSvg, textWidth } from "./picture.js";
import { svg } from "./elements.js";
import { say } from "./words.js";

const SIZE = 16;
const SMALL = 12;
const ROW = 32;
const GAP = 74;
const MARGIN = 12;
const THICKEST = 18;
const SEPARATOR = " › ";
const SURE = 0.95; // a fork with one such way and nothing else to show is none
const LEAST = 0.01; // dropped ways below it are only counted
const MOST = 3; // dropped ways of one fork

/** Draw the tree of a result of …/ask with `explain`; `isWhole` shows every way that was weighed. */
export function drawBeams({ answers, beams }, isWhole = false) {
  const below = beams.map(() => []);
  for (const beam of beams) if (beam.parent !== null) below[beam.parent].push(beam);
  const root = nodeOf(beams[0]);
  const colours = palette();
  const shapes = [];
  let rows = 0;
  let width = 0;
  lay(root, MARGIN);

  /** What is drawn of a beam and of what is behind it; ways that leave no choice are one node. */
  function nodeOf(beam) {
    const weighed = below[beam.id];
    const dropped = weighed.filter((each) => !each.kept && (isWhole || each.probability >= LEAST)).slice(0, isWhole ? Infinity : MOST);
    const shown = weighed.filter((each) => each.kept || dropped.includes(each));
    const text = beam.text || (beam.part === "meaning" ? say("ask.tree.none") : "");
    const node = { beam, text, from: text && beam.part, to: text && beam.part, last: beam, children: shown.map(nodeOf) };
    const [only] = node.children;
    if (node.children.length === 1 && !isWhole && only.beam.probability >= SURE) {
      const between = node.to && only.from && node.to !== only.from ? SEPARATOR : "";
      return { ...only, beam, text: text + between + only.text, from: node.from || only.from, to: only.to || node.to };
    }
    const hidden = beam.choices - shown.length;
    if (shown.length && hidden > 0) node.children.push({ rest: hidden, children: [] });
    return node;
  }

  /** Place a node and what is behind it; returns its height on the page. */
  function lay(node, x) {
    const { text, size, fill, told } = look(node);
    const end = x + textWidth(text, size) + (text ? 8 : 0);
    const heights = node.children.map((child) => lay(child, end + GAP));
    const y = heights.length ? (heights[0] + heights.at(-1)) / 2 : MARGIN + ROW * (rows++ + 0.5);
    node.children.forEach((child, i) => branch(end, y, end + GAP - 6, heights[i], child));
    shapes.push({ kind: "text", x, y: y + size / 3, text, size, fill, told });
    const answer = node.last?.answer;
    width = Math.max(width, end);
    if (answer !== undefined && answer !== null) {
      const figure = say("ask.tree.answer", { share: percent(answers[answer].probability) });
      shapes.push({ kind: "text", x: end + 6, y: y + 5, text: figure, size: 13, fill: colours.costs[0], told });
      width = Math.max(width, end + 6 + textWidth(figure, 13));
    }
    return y;
  }

  function look(node) {
    if (node.rest) return { text: say("ask.tree.more", { n: node.rest.toLocaleString() }), size: SMALL, fill: colours.soft };
    const told = say("ask.tree.told", { share: percent(node.beam.probability), log: node.last.log_probability.toFixed(2), n: node.last.choices.toLocaleString(), isKept: node.beam.kept });
    const text = node.text || (node.beam.parent === null ? "" : "▪");
    return node.beam.kept ? { text, size: SIZE, fill: colours.ink, told } : { text, size: 14, fill: colours.soft, told };
  }

  function branch(x, y, right, bottom, child) {
    const thick = child.rest ? 1 : Math.max(1.2, Math.exp(child.beam.log_probability) * THICKEST);
    const middle = (x + right) / 2;
    const [a, b] = [y - thick / 2, bottom - thick / 2];
    const d = `M${x} ${a}C${middle} ${a} ${middle} ${b} ${right} ${b}L${right} ${b + thick}C${middle} ${b + thick} ${middle} ${a + thick} ${x} ${a + thick}Z`;
    const isKept = child.beam?.kept;
    shapes.unshift({ kind: "path", d, fill: isKept ? colours.costs[0] : colours.soft, opacity: isKept ? 0.7 : 0.4 });
    if (!child.rest) shapes.push({ kind: "text", x: right - 2, y: bottom - thick / 2 - 3, text: percent(child.beam.probability), size: 11, fill: colours.soft, anchor: "end" });
  }

  const image = drawSvg({ width: Math.max(width + MARGIN, 200), height: 2 * MARGIN + rows * ROW, shapes }, (shape, element) => shape.told && element.append(svg("title", {}, shape.told)));
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", answers.map((answer) => `${[answer.subject, answer.predicate, answer.meaning].filter(Boolean).join(SEPARATOR)} ${percent(answer.probability)}`).join("; "));
  return image;
}

function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1%";
  return `${(share * 100).toFixed(share < 0.1 ? 1 : 0)}%`;
}
