// The service: one function for its answers, one for its events, and what happens when it is gone.
import { store } from "./state.js";

const AGAIN = [500, 1000, 2000, 3000]; // ms between questions while it is gone

/** What the service refused, or that it is gone (status 0); `hint` says what to do. */
export class ServiceError extends Error {
  constructor(message, hint = "", status = 0, retryAfter = 0) {
    super(message);
    Object.assign(this, { hint, status, retryAfter });
  }
}

const GONE = () => new ServiceError("The server is gone.", "It is asked again by itself; press the button again when it is back.");

/** The JSON of an answer. Throws ServiceError for a status from 400 on, and if nobody answers. */
export async function ask(method, path, body, signal) {
  const options = { method, signal };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  let response;
  let text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    lost();
    throw GONE();
  }
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { error: `The server answered with no JSON (status ${response.status}).`, hint: "Is another program at this address?" };
    if (response.ok) throw new ServiceError(answer.error, answer.hint, response.status);
  }
  if (!response.ok) {
    if (response.status === 401) store.set({ failed: { ...answer, status: 401 } });
    const wait = Number(response.headers.get("retry-after")) || 0;
    throw new ServiceError(answer.error ?? `Refused with status ${response.status}.`, answer.hint ?? "", response.status, wait);
  }
  return answer;
}

const returned = new Set();

/** Call `listener` whenever the server is back. */
export function whenBack(listener) {
  returned.add(listener);
}

let waiting = false;

/** Nobody answered: ask until somebody does. */
export async function lost() {
  if (waiting) return;
  waiting = true;
  store.set({ server: "lost" });
  for (let count = 0; ; count += 1) {
    await sleep(AGAIN[Math.min(count, AGAIN.length - 1)]);
    try {
      if ((await fetch("/ready", { cache: "no-store" })).ok) break;
    } catch {
      // still gone
    }
  }
  waiting = false;
  const isOver = ([, said]) => said.error === GONE().message;
  store.set(({ notices }) => ({ server: "back", notices: Object.fromEntries(Object.entries(notices).filter((one) => !isOver(one))) }));
  for (const listener of returned) listener();
  setTimeout(() => store.get().server === "back" && store.set({ server: "ok" }), 4000);
}

/** Look every few seconds whether the server is there, while the page is seen. */
export function watchServer(every = 5000) {
  setInterval(() => {
    if (!waiting && !document.hidden) fetch("/health", { cache: "no-store" }).catch(lost);
  }, every);
}

/** The events of a job until it is over: `on[name](data)`. `on.broken()` if the server knows the job no more. Returns what ends it. */
export function events(id, on) {
  const source = new EventSource(`/api/jobs/${id}/events`);
  for (const name of ["queued", "started", "pass", "done", "failed", "cancelled"]) {
    source.addEventListener(name, (event) => {
      if (["done", "failed", "cancelled"].includes(name)) source.close();
      on[name]?.(JSON.parse(event.data));
    });
  }
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) on.broken();
    else fetch("/health", { cache: "no-store" }).catch(lost); // it comes back by itself
  };
  return () => source.close();
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
