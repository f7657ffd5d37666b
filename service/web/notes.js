/**
 * Short notes at the edge of the page, read out by screen readers; one may offer to undo what it tells.
 */

import { button, el } from "./elements.js";

const SHOWN_MS = 6000;

/** Show a note; `action` is [label, function]. */
export function note(text, { action = null, kind = "plain" } = {}) {
  const shown = el("div", { class: `note ${kind}` }, el("span", {}, text));
  const remove = () => shown.remove();
  if (action) shown.append(button(action[0], () => (remove(), action[1]())));
  const place = document.getElementById("notes");
  place.append(shown);
  while (place.children.length > 3) place.firstElementChild.remove();
  let timer = setTimeout(remove, SHOWN_MS);
  // It stays while one is about to use it.
  for (const name of ["pointerenter", "focusin"]) shown.addEventListener(name, () => clearTimeout(timer));
  for (const name of ["pointerleave", "focusout"]) shown.addEventListener(name, () => (timer = setTimeout(remove, SHOWN_MS)));
}

/** Copy text, or say that the browser does not let the page do so. */
export async function copyText(text, done, refused) {
  try {
    await navigator.clipboard.writeText(text);
    note(done);
  } catch {
    note(refused, { kind: "bad" });
  }
}
