/**
 * Pictures as lists of shapes, drawn the same way three times: into the page as SVG, into a file as SVG, onto a canvas as PNG.
 *
 * A picture is {width, height, paper, shapes}; a shape is {kind: "path", d, fill, opacity}, {kind: "rect", x, y, width, height, fill,
 * opacity} or {kind: "text", x, y, text, size, fill, anchor}. Whatever else a shape carries is for whoever draws on.
 */

import { svg } from "./elements.js";
import { note } from "./notes.js";
import { say } from "./words.js";

const FONT = '"Inter", "Segoe UI", "Helvetica Neue", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Noto Sans CJK SC", "WenQuanYi Zen Hei", sans-serif';
const PNG_SCALE = 2;

let ruler = null;

/** How wide a text of a picture is, in pixels. */
export function textWidth(text, size) {
  ruler ??= document.createElement("canvas").getContext("2d");
  ruler.font = `${size}px ${FONT}`;
  return ruler.measureText(text).width;
}

/** Draw a picture as an SVG element; `made` sees each shape with its element. */
export function drawSvg(picture, made = () => {}) {
  const { width, height } = picture;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "font-family": FONT });
  for (const shape of picture.shapes) {
    const element = ELEMENTS[shape.kind](shape);
    root.append(element);
    made(shape, element);
  }
  return root;
}

const ELEMENTS = {
  path: ({ d, fill, opacity }) => svg("path", { d, fill, "fill-opacity": opacity }),
  rect: ({ x, y, width, height, fill, opacity }) => svg("rect", { x: short(x), y: short(y), width: short(width), height: short(height), fill, "fill-opacity": opacity }),
  text: ({ x, y, text, size, fill, anchor }) => svg("text", { x: short(x), y: short(y), "font-size": size, fill, "text-anchor": anchor }, text),
};

const short = (value) => Math.round(value * 100) / 100;

/** Return a picture as the text of an SVG file, on its own paper. */
export function svgText(picture) {
  const { width, height, paper } = picture;
  const sheet = { kind: "rect", x: 0, y: 0, width, height, fill: paper };
  const root = drawSvg({ ...picture, shapes: [sheet, ...picture.shapes] });
  return new XMLSerializer().serializeToString(root);
}

/** Return a picture as a PNG file at twice its size. */
export function pngOf({ width, height, paper, shapes }) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(width * PNG_SCALE);
  canvas.height = Math.ceil(height * PNG_SCALE);
  const pen = canvas.getContext("2d");
  pen.scale(PNG_SCALE, PNG_SCALE);
  for (const shape of [{ kind: "rect", x: 0, y: 0, width, height, fill: paper }, ...shapes]) {
    pen.globalAlpha = shape.opacity ?? 1;
    pen.fillStyle = shape.fill;
    if (shape.kind === "path") pen.fill(new Path2D(shape.d));
    else if (shape.kind === "rect") pen.fillRect(shape.x, shape.y, shape.width, shape.height);
    else {
      pen.font = `${shape.size}px ${FONT}`;
      pen.textAlign = { start: "left", middle: "center", end: "right" }[shape.anchor ?? "start"];
      pen.fillText(shape.text, shape.x, shape.y);
    }
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Copy a picture as the text of an SVG file; where the clipboard is closed to the page, save it. */
export async function copySvg(picture) {
  const text = svgText(picture);
  try {
    await navigator.clipboard.writeText(text);
    note(say("copied.svg"));
  } catch {
    save(new Blob([text], { type: "image/svg+xml" }), "moverank.svg");
  }
}

/** Copy a picture as PNG; where the clipboard is closed to the page, save it. */
export async function copyPng(picture) {
  const image = pngOf(picture);
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
    note(say("copied.png"));
  } catch {
    save(await image, "moverank.png");
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  note(say("copied.saved", { name }));
}
