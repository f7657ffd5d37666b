/**
 * Something new with a name: a collection, a graph.
 */

import { button, el, field, openDialog } from "./elements.js";
import { say } from "./words.js";

/** Ask for a name until `make(name)` succeeds; resolves with the name, null when the dialog was left. */
export function askForName(title, make) {
  return openDialog(title, (close) => {
    const input = el("input", { type: "text", required: true, pattern: "[a-z0-9][a-z0-9_\\-]{0,63}", autofocus: true, autocapitalize: "off", spellcheck: "false" });
    const fault = el("p", { class: "warning", role: "alert" });
    const submit = async (event) => {
      event.preventDefault();
      try {
        await make(input.value);
        close(input.value);
      } catch (error) {
        fault.textContent = error.message || say("banner.away");
      }
    };
    return el("form", { onsubmit: submit }, field(say("corpus.name"), input, say("corpus.name.hint")), fault, el("div", { class: "row end" }, button(say("cancel"), () => close(null), { class: "quiet" }), el("button", { class: "main" }, say("corpus.create"))));
  });
}
