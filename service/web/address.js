/**
 * The address bar as the state of the page: `#/search?c=sample&q=…`. A copied address shows the same thing elsewhere.
 *
 * It stands behind the `#`, so that queries do not travel to the server's log when a page is opened.
 */

/** Read the address: the view and its parameters. */
export function readAddress() {
  const [, view = "", query = ""] = /^#\/?([a-z]*)\??(.*)$/s.exec(location.hash) ?? [];
  return { view, parameters: new URLSearchParams(query) };
}

/** Return the link to a view; empty parameters are left out. */
export function linkTo(view, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  return `#/${view}${query.size ? `?${query}` : ""}`;
}

/** Write the state of the view that is shown into the address, without a new entry in the history. */
export function keepAddress(view, parameters) {
  if (readAddress().view === view || readAddress().view === "") history.replaceState(null, "", linkTo(view, parameters));
}
