/**
 * Colours of pictures, which are copied out of the page and therefore carry their own.
 *
 * Costs go from blue (nothing to pay) over grey to orange: the two hues that all kinds of colour blindness tell apart, and dear
 * is lighter than cheap, so that they differ in grey, too.
 */

const LIGHT = { paper: "#ffffff", ink: "#1c2126", soft: "#5b636b", line: "#e4e1d9", costs: ["#1f65a3", "#a7a9b5", "#e08a3c"] };
const DARK = { paper: "#1b1f25", ink: "#e9e7e2", soft: "#a6adb5", line: "#323842", costs: ["#5ea6e6", "#767a86", "#f0a05a"] };

/** The cost that is drawn in the last colour; dearer ones look the same. */
export const DEAREST = 1;

/** Whether the page is dark now. */
export function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** The colours of pictures in the present theme. */
export const palette = () => (isDark() ? DARK : LIGHT);

/** The colour of a cost. */
export function costColour(cost, { costs } = palette()) {
  const at = Math.min(1, Math.max(0, cost / DEAREST)) * (costs.length - 1);
  const left = Math.min(Math.floor(at), costs.length - 2);
  const [from, to] = [costs[left], costs[left + 1]].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return `#${from.map((value, i) => Math.round(value + (to[i] - value) * (at - left)).toString(16).padStart(2, "0")).join("")}`;
}

/** Call a function when the theme changes, until the returned function is called. */
export function onTheme(changed) {
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", changed);
  document.addEventListener("themechange", changed);
  return () => {
    media.removeEventListener("change", changed);
    document.removeEventListener("themechange", changed);
  };
}
