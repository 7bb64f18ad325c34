// Calls of the service: the token, errors in words, and the latest request of several.

const TOKEN = "torchrec-priors token";

/** A call that was not answered. The message is for people. */
class CallError extends Error {
  constructor(message, status = 0, retryAfter = 0, code = "") {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Reads JSON. Integers that a number of JavaScript cannot hold stay texts: ids may be that long. */
function read(text) {
  return JSON.parse(text, (_, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) ? (context?.source ?? value) : value);
}

async function call(path, { body = null, signal = null } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== null) headers["Content-Type"] = "application/json";
  let response, text;
  try {
    response = await fetch(path, {
      method: body === null ? "GET" : "POST", headers, body: body === null ? null : JSON.stringify(body), signal,
      cache: "no-store", credentials: "omit", redirect: "error",
    });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new CallError("The service does not answer. Is it running, and can this machine reach it?", 0, 2);
  }
  if (response.ok) return read(text);

  let message = `The service answered with status ${response.status}.`;
  let code = "";
  try {
    const { error } = read(text);
    message = sentence(error.message);
    code = error.code;
  } catch { /* a proxy's page: the status has to do */ }
  const retryAfter = [429, 503].includes(response.status) ? Number(response.headers.get("Retry-After")) || 1 : 0;
  throw new CallError(message, response.status, retryAfter, code);
}

function sentence(message) {
  const text = String(message);
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/**
 * Sends the latest of many requests. While one is on its way, newer ones wait, and only the newest
 * of them is sent next: so answers keep coming while a slider is dragged. A request that takes
 * longer than `PATIENCE` is aborted for a newer one, and so is every request that is `urgent`ly
 * replaced, as its answer would be about another user.
 */
class Latest {
  static PATIENCE = 250; // milliseconds

  constructor(show, fail) {
    this.show = show;
    this.fail = fail;
    this.waiting = null;
    this.flight = null;
    this.retry = 0;
  }

  ask(body, about, urgent) {
    clearTimeout(this.retry);
    this.waiting = { body, about };
    if (!this.flight) { this.send(); return; }
    const left = this.flight.since + Latest.PATIENCE - performance.now();
    if (urgent || left <= 0) this.flight.abort();
    else this.flight.timer ??= setTimeout(() => this.flight?.abort(), left);
  }

  stop() {
    clearTimeout(this.retry);
    this.waiting = null;
    this.flight?.abort();
  }

  async send() {
    const asked = this.waiting;
    const controller = new AbortController();
    const since = performance.now();
    const flight = { since, timer: null, abort: () => { flight.aborted = true; controller.abort(); }, aborted: false };
    this.waiting = null;
    this.flight = flight;
    try {
      const answer = await call("/v1/recommend", { body: asked.body, signal: controller.signal });
      if (!flight.aborted) this.show(answer, asked.about, performance.now() - since);
    } catch (error) {
      if (!flight.aborted && error.name !== "AbortError") {
        // After a newer request, the error of this one is of no interest.
        if (!this.waiting) this.fail(error);
        if (error.retryAfter && !this.waiting) {
          this.retry = setTimeout(() => this.ask(asked.body, asked.about, false), error.retryAfter * 1000);
        }
      }
    } finally {
      clearTimeout(flight.timer);
      this.flight = null;
      if (this.waiting) this.send();
    }
  }
}
