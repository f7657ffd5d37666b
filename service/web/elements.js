/**
 * Elements of the page, made by calls: el("a", {href: "#/why"}, "why").
 */

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "indeterminate"]);

/** Make an HTML element. `on…` are listeners, `vars` custom properties of its style; null and false leave a name out. */
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what an element contains; null and false are left out. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A row of buttons of which one is pressed: choices are [value, label, hint]; `choose` hears the new value. */
export function switchOf(label, choices, chosen, choose) {
  const buttons = choices.map(([value, text, hint]) =>
    el("button", { type: "button", role: "radio", title: hint, "data-value": value, onclick: () => pick(value, true) }, text),
  );
  const group = el("div", { class: "switch", role: "radiogroup", "aria-label": label, onkeydown: move }, buttons);
  function pick(value, tell) {
    for (const button of buttons) {
      const isChosen = button.dataset.value === value;
      button.setAttribute("aria-checked", String(isChosen));
      button.tabIndex = isChosen ? 0 : -1;
    }
    if (tell) choose(value);
  }
  function move(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    pick(next.dataset.value, true);
    next.focus();
  }
  pick(chosen, false);
  return group;
}

/** A button with words. */
export function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}

/** A labelled form field. */
export function field(label, control, hint) {
  return el("label", { class: "field" }, el("span", { class: "label" }, label), control, hint && el("span", { class: "hint" }, hint));
}

/** Open a modal dialog with this content; resolves with what `close(value)` was given, null when it was left. */
export function openDialog(title, content) {
  return new Promise((resolve) => {
    let answer = null;
    const heading = el("h2", { id: "dialog-title" }, title);
    const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, heading);
    dialog.append(...[content((value) => ((answer = value), dialog.close()))].flat());
    dialog.addEventListener("close", () => (dialog.remove(), resolve(answer)));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    document.body.append(dialog);
    dialog.showModal();
  });
}
