/**
 * Calls to the service: JSON in and out, errors as sentences, the key where one is needed, server-sent events.
 */

const KEY = "moverank.key";

/** What went wrong with a call: `status` 0 means that the service could not be reached. */
export class CallError extends Error {
  constructor(status, sentence, kind) {
    super(sentence);
    this.status = status;
    this.kind = kind;
  }
}

/** What the page does about a missing key and a service that is away; set by start.js. */
export const hooks = { askForKey: async () => false, onReach: () => {}, onLoss: () => {} };

/** Keep a key for this tab. */
export function keepKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Whether this tab has a key. */
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { "X-API-Key": key, ...more } : more;
}

async function fetched(path, options) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: headers(options.headers), cache: "no-store", credentials: "omit", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      hooks.onLoss(0);
      throw new CallError(0, "", "unreachable");
    }
    if (answer.status === 401 && (await hooks.askForKey())) continue;
    if (answer.status === 503) hooks.onLoss(503);
    else hooks.onReach();
    if (!answer.ok) throw await errorOf(answer);
    return answer;
  }
}

async function errorOf(answer) {
  const text = await answer.text();
  try {
    const body = JSON.parse(text);
    return new CallError(answer.status, body.message ?? String(body.error), body.error_type ?? "");
  } catch {
    return new CallError(answer.status, text.slice(0, 300), "");
  }
}

/** Call a route with a method and a JSON body; resolves with the JSON answer, null where there is none. */
export async function call(method, path, body, signal) {
  const options = { method, signal };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  const text = await (await fetched(path, options)).text();
  return text ? JSON.parse(text) : null;
}

export const get = (path, signal) => call("GET", path, undefined, signal);
export const post = (path, body, signal) => call("POST", path, body, signal);

/** Return the plain text of a route. */
export const getText = async (path, signal) => (await fetched(path, { method: "GET", signal })).text();

/** Write values into a path: path`/v1/collections/${name}`. */
export const path = (parts, ...values) => parts.reduce((all, part, i) => all + encodeURIComponent(values[i - 1]) + part);

/** Send a file; `onSent` hears the share of it that has left. Resolves with the JSON answer. */
export function upload(route, file, type, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not say how much of a body has been sent
    request.open("POST", route);
    for (const [name, value] of Object.entries(headers({ "Content-Type": type }))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.onerror = () => reject(new CallError(0, "", "unreachable"));
    request.onload = async () => {
      if (request.status < 300) return resolve(JSON.parse(request.responseText));
      if (request.status === 401 && (await hooks.askForKey())) return upload(route, file, type, onSent).then(resolve, reject);
      reject(await errorOf(new Response(request.responseText, { status: request.status })));
    };
    request.send(file);
  });
}

/** Yield the data of server-sent events. `EventSource` would do, but cannot send a key. */
export async function* events(route, signal) {
  const answer = await fetched(route, { method: "GET", signal, headers: { Accept: "text/event-stream" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield JSON.parse(lines.map((line) => line.slice(5).trimStart()).join("\n"));
    }
  }
}
