/**
 * The frame of the page: which view is shown, language, theme, the key, and whether the service can be reached.
 */

import { readAddress } from "./address.js";
import { showAsk } from "./ask.js";
import { call, hasKey, hooks, keepKey } from "./calls.js";
import { showCorpus } from "./corpus.js";
import { button, el, field, openDialog, put } from "./elements.js";
import { showSearch } from "./search.js";
import { showState } from "./state.js";
import { showWhy } from "./why.js";
import { language, say, setLanguage } from "./words.js";

const VIEWS = { search: showSearch, why: showWhy, corpus: showCorpus, ask: showAsk, state: showState };
const THEMES = ["auto", "light", "dark"];
const RETRY_MS = 2000;

const main = document.getElementById("main");
let leave = () => {};
let shown = null;

/** Show the view that the address names. */
function show({ focus = false } = {}) {
  const address = readAddress();
  const view = Object.hasOwn(VIEWS, address.view) ? address.view : "search";
  leave();
  main.className = `view-${view}`;
  put(main);
  shown = view;
  document.title = `${say(`nav.${view}`)} · moverank`;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  leave = VIEWS[view](main, address.parameters) ?? (() => {});
  if (focus && !main.contains(document.activeElement)) main.focus();
}

/** Draw what stands around the views, in the present language. */
function frame() {
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
  put(
    document.getElementById("views"),
    Object.keys(VIEWS).map((view) => el("a", { href: `#/${view}`, "data-view": view }, say(`nav.${view}`))),
  );
  document.getElementById("views").setAttribute("aria-label", say("nav.label"));
  document.getElementById("skip").textContent = say("nav.skip");
  const other = language() === "zh" ? "en" : "zh";
  put(
    document.getElementById("tools"),
    button(say("tools.key"), () => askForKey(false), { class: "quiet", id: "key", hidden: !hasKey() }),
    button(other === "zh" ? "中文" : "English", () => (setLanguage(other), frame(), show()), {
      class: "quiet",
      id: "language",
      lang: other === "zh" ? "zh-CN" : "en",
    }),
    themeButton(),
  );
}

function themeButton() {
  const root = document.documentElement;
  const icons = { auto: "◐", light: "○", dark: "●" };
  const shownTheme = () => root.dataset.theme ?? "auto";
  const made = button("", () => choose(THEMES[(THEMES.indexOf(shownTheme()) + 1) % THEMES.length]), { class: "quiet round", id: "theme" });
  function choose(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    keep("theme", theme);
    document.dispatchEvent(new Event("themechange"));
    label();
  }
  function label() {
    made.textContent = icons[shownTheme()];
    made.title = say(`theme.${shownTheme()}`);
    made.setAttribute("aria-label", say(`theme.${shownTheme()}`));
  }
  label();
  return made;
}

function keep(name, value) {
  try {
    localStorage.setItem(`moverank.${name}`, value);
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
}

let asking = null;

/** Ask for a key; resolves with whether one was given. Many calls that are refused at once ask once. */
function askForKey(isNeeded = true) {
  asking ??= openDialog(say("key.title"), (close) => {
    const input = el("input", { type: "password", name: "key", autocomplete: "off", required: true, autofocus: true });
    return el(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          keepKey(input.value.trim());
          close(true);
        },
      },
      el("p", {}, say(isNeeded ? "key.needed" : "key.change")),
      field(say("key.key"), input, say("key.where")),
      el("div", { class: "row end" }, button(say("cancel"), () => close(false), { class: "quiet" }), el("button", { class: "main" }, say("key.use"))),
    );
  }).then((given) => {
    asking = null;
    if (given && !isNeeded) show();
    return given === true;
  });
  return asking;
}

hooks.askForKey = async () => {
  const given = await askForKey();
  if (given) document.getElementById("key").hidden = false;
  return given;
};

let waiting = null;

/** The service is away or not ready: say so and look again until it is back. */
hooks.onLoss = (status) => {
  put(document.getElementById("banner"), el("p", {}, say(status === 503 ? "banner.loading" : "banner.away")));
  waiting ??= setInterval(async () => {
    try {
      await call("GET", "/readyz");
      hooks.onReach();
      show();
    } catch {
      // Still away: the banner says so.
    }
  }, RETRY_MS);
};

hooks.onReach = () => {
  if (waiting === null) return;
  clearInterval(waiting);
  waiting = null;
  put(document.getElementById("banner"));
};

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address belongs to the views
  main.focus();
});

addEventListener("hashchange", () => {
  const { view } = readAddress();
  show({ focus: view !== shown });
});

addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, textarea, select, dialog");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = main.querySelector("input[type=search], textarea");
  if (field) {
    event.preventDefault();
    field.focus();
  }
});

frame();
show();
