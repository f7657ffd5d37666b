/**
 * The transport plan of two texts as a picture: ribbons as wide as the mass that moved, coloured by what moving it cost.
 *
 * The same plan is there as a heat map and as a table, which is also how a screen reader meets it.
 */

import { costColour, onTheme } from "./colours.js";
import { button, el, put, switchOf } from "./elements.js";
import { copyPng, copySvg, drawSvg } from "./picture.js";
import { heatMap, ribbons } from "./plan_shapes.js";
import { say } from "./words.js";

const FREE = 0.1; // a cost below it is called almost none
const NAMED_MOVES = 3;
const MOST_ROWS = 200;
const DIM = 0.08;

let kind = "ribbons"; // the kind of picture that was looked at last

/** Make the picture of a result of /v1/similarity with its tools; `extras` stand beside these. */
export function planPicture(result, measure, extras = []) {
  const { alignment } = result;
  const distance = result[measure];
  if (!alignment || !alignment.plan.length) return el("p", { class: "hint" }, say("plan.nothing"));
  const dearest = Math.max(1, ...(measure === "wmd" ? alignment.plan.map((move) => move[3]) : []));
  const stage = el("div", { class: "stage", tabindex: 0, role: "group", "aria-label": say("plan.label") });
  const caption = el("p", { class: "caption", "aria-live": "polite" });
  const tools = el("div", { class: "plan-tools" });
  const root = el("div", { class: "plan" }, sentence(alignment, distance, measure), tools, stage, caption);
  let picture = null;

  put(
    tools,
    switchOf(say("plan.kind"), ["ribbons", "heat", "table"].map((name) => [name, say(`plan.${name}`)]), kind, (chosen) => ((kind = chosen), draw())),
    el("span", { class: "grow" }),
    extras,
    button(say("plan.copySvg"), () => copySvg(picture ?? shapesOf("ribbons")), { class: "link" }),
    button(say("plan.copyPng"), () => copyPng(picture ?? shapesOf("ribbons")), { class: "link" }),
  );

  function shapesOf(name) {
    const make = name === "heat" ? heatMap : ribbons;
    return make(alignment, { width: Math.max(240, stage.clientWidth - 2), dearest, title: `${measure.toUpperCase()} ${distance.toFixed(3)}`, words: { free: say("plan.cheap"), dear: say("plan.dear") } });
  }

  function draw() {
    caption.textContent = say(kind === "table" ? "plan.caption.table" : "plan.caption");
    if (kind === "table") {
      picture = null;
      return put(stage, table(alignment, distance));
    }
    picture = shapesOf(kind);
    const drawn = [];
    const image = drawSvg(picture, (shape, element) => {
      if (shape.move || shape.token) drawn.push([shape, element]);
    });
    image.setAttribute("role", "img");
    image.setAttribute("aria-label", root.querySelector(".sentence").textContent);
    put(stage, image);
    listen(image, drawn);
  }

  function listen(image, drawn) {
    const shapes = new Map(drawn.map(([shape, element]) => [element, shape]));
    const tokens = drawn.filter(([shape]) => shape.kind === "text").map(([shape]) => shape);
    let at = -1;
    const look = (shape) => {
      for (const [element, each] of shapes) element.style.opacity = !shape || belongs(each, shape) ? "" : each.move ? DIM : 0.35;
      caption.textContent = shape ? told(shape, alignment) : say("plan.caption");
    };
    image.addEventListener("pointerover", (event) => look(shapes.get(event.target)));
    image.addEventListener("pointerleave", () => look(null));
    stage.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") look(null);
      if (!step || !tokens.length || event.target !== stage) return;
      event.preventDefault();
      at = (at + step + tokens.length) % tokens.length;
      look(tokens[at]);
    };
    stage.onblur = () => look(null);
  }

  let width = 0;
  const watcher = new ResizeObserver(() => {
    if (!root.isConnected) return;
    if (stage.clientWidth && Math.abs(stage.clientWidth - width) > 1) {
      width = stage.clientWidth;
      if (kind !== "table" || !stage.childElementCount) draw();
    }
  });
  watcher.observe(stage);
  const forget = onTheme(() => (root.isConnected ? draw() : forget()));
  return root;
}

/** Whether a shape has to do with the one that is looked at. */
function belongs(shape, looked) {
  const [move, token] = [shape.move, shape.token];
  if (looked.move) return move ? move === looked.move : token.index === looked.move[token.side];
  if (move) return move[looked.token.side] === looked.token.index;
  return token.side === looked.token.side ? token.index === looked.token.index : looked.partners.has(token.index);
}

/** What is looked at, in words. */
function told(shape, { query_tokens, text_tokens, plan }) {
  const figures = ([i, j, mass, cost]) => say("plan.move", { from: query_tokens[i][0], to: text_tokens[j][0], mass: mass.toFixed(3), cost: Math.abs(cost).toFixed(3) });
  if (shape.move) return figures(shape.move);
  const { side, index } = shape.token;
  const moves = plan.filter((move) => move[side] === index).sort((a, b) => b[2] - a[2]);
  const other = side === 0 ? text_tokens : query_tokens;
  const mass = moves.reduce((sum, move) => sum + move[2], 0);
  const parts = moves.slice(0, 4).map((move) => `${other[move[1 - side]][0]} ${Math.round((move[2] / mass) * 100)}% (${Math.abs(move[3]).toFixed(2)})`);
  const name = (side === 0 ? query_tokens : text_tokens)[index][0];
  return moves.length ? say(side === 0 ? "plan.goes" : "plan.comes", { name, mass: mass.toFixed(3), parts: parts.join(" · ") }) : say("plan.idle", { name });
}

/** The plan in a sentence: how much stayed, and which words the distance comes from. */
function sentence({ query_tokens, text_tokens, plan }, distance, measure) {
  const free = plan.filter((move) => move[3] < FREE).reduce((sum, move) => sum + move[2], 0);
  const paid = new Map(); // words that occur twice are named once
  for (const [i, j, mass, cost] of plan) {
    const name = `${query_tokens[i][0]} → ${text_tokens[j][0]}`;
    paid.set(name, (paid.get(name) ?? 0) + mass * cost);
  }
  const dearest = [...paid].sort((a, b) => b[1] - a[1]).slice(0, NAMED_MOVES);
  const moves = dearest.map(([name, price]) => [name, Math.round((price / distance) * 100)]).filter(([, share]) => distance > 1e-6 && share >= 5);
  const values = { measure: measure.toUpperCase(), distance: distance.toFixed(3), moves: moves.map(([name, share]) => `${name} ${share}%`).join(say("comma")) };
  const second = moves.length ? say("plan.paid", values) : say("plan.equal");
  return el("p", { class: "sentence" }, say("plan.free", { share: Math.round(free * 100) }) + say("space") + second);
}

function table({ query_tokens, text_tokens, plan }, distance) {
  const rows = [...plan].sort((a, b) => b[2] * b[3] - a[2] * a[3] || b[2] - a[2]);
  const head = ["from", "to", "mass", "cost", "share"].map((name, i) => el("th", { scope: "col", class: i > 1 && "number" }, say(`plan.column.${name}`)));
  return el(
    "table",
    { class: "moves" },
    el("thead", {}, el("tr", {}, head)),
    el(
      "tbody",
      {},
      rows.slice(0, MOST_ROWS).map(([i, j, mass, cost]) =>
        el(
          "tr",
          {},
          el("td", { lang: "zh-CN" }, query_tokens[i][0]),
          el("td", { lang: "zh-CN" }, text_tokens[j][0]),
          el("td", { class: "number" }, mass.toFixed(3)),
          el("td", { class: "number" }, el("span", { class: "dot", vars: { "--dot": costColour(cost) } }), Math.abs(cost).toFixed(3)),
          el("td", { class: "number" }, distance > 1e-6 ? `${Math.round(((mass * cost) / distance) * 100)}%` : "–"),
        ),
      ),
    ),
  );
}

