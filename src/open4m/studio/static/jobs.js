// One job at a time of this page: sent, watched pass by pass, cancelled; its result becomes an entry of the history.
import { ServiceError, ask, events, sleep } from "./api.js";
import { notice, store } from "./state.js";

const KEPT = 60; // results of this page
const WITH_FRAMES = 8; // results whose passes can be seen again

let stop = () => {};
let turn = 0; // of the latest job; answers to earlier ones are not listened to

const update = (mine, change) => {
  if (mine !== turn) return;
  store.set(({ job }) => ({ job: { ...job, ...(typeof change === "function" ? change(job) : change) } }));
};

/** Whether a job is under way. */
export const isBusy = (job) => Boolean(job) && ["sending", "full", "queued", "running"].includes(job.state);

/** Send a request and watch it. Where the service is full, it is sent again when the service says so. */
export async function make(request, title) {
  if (isBusy(store.get().job)) return;
  const mine = (turn += 1);
  const abort = new AbortController();
  stop = () => abort.abort();
  notice("make", null);
  store.set({ job: { state: "sending", title, request, place: 0, wait: 0, together: 1, passes: {}, frames: {}, latest: "", number: 0, targets: 0 }, hint: false });
  try {
    const job = await accepted(request, mine, abort.signal);
    if (mine === turn) watch(job, mine, request, title);
    else drop(job.id); // cancelled before it had an id
  } catch (error) {
    if (error.name === "AbortError" || mine !== turn) return;
    store.set({ job: null });
    notice("make", error);
  }
}

/** Nobody waits for a job any more. */
function drop(id) {
  ask("DELETE", `/api/jobs/${id}`).catch(() => {});
}

async function accepted(request, mine, signal) {
  for (;;) {
    try {
      return await ask("POST", "/api/jobs?frames=png", request); // not cut off: the service would have the job and nobody its id
    } catch (error) {
      if (error.status !== 503 || !error.retryAfter || signal.aborted) throw error;
      for (let left = error.retryAfter; left > 0; left -= 1) {
        update(mine, { state: "full", wait: left, why: error.message });
        await sleep(1000);
        if (signal.aborted) throw new DOMException("cancelled", "AbortError");
      }
    }
  }
}

function watch(job, mine, request, title) {
  update(mine, { id: job.id, state: job.state, place: job.place });
  const end = (error) => {
    if (mine !== turn) return;
    store.set({ job: null });
    notice("make", error);
  };
  const close = events(job.id, {
    queued: ({ place }) => update(mine, { state: "queued", place }),
    started: ({ together }) => update(mine, { state: "running", together }),
    pass: (data) => update(mine, (now) => passed(now, data)),
    done: () => arrived(job.id, mine, request, title).catch(end),
    failed: ({ error, hint, status }) => end(new ServiceError(error, hint, status)),
    cancelled: () => end(null),
    broken: () => end(new ServiceError("The server no longer knows this job: it was started again.", "Press the button again.", 404)),
  });
  stop = () => {
    close();
    turn += 1;
    drop(job.id);
  };
}

function passed(job, data) {
  const own = job.frames[data.target] ?? [];
  const frame = { pass: data.pass, passes: data.passes, samples: data.samples };
  return {
    state: "running",
    latest: data.target,
    number: data.number,
    targets: data.targets,
    passes: { ...job.passes, [data.target]: [data.pass, data.passes] },
    frames: { ...job.frames, [data.target]: [...own, frame] },
  };
}

async function arrived(id, mine, request, title) {
  const result = await ask("GET", `/api/jobs/${id}/result`);
  if (mine !== turn) return;
  const entry = { id, title, request, result, frames: store.get().job.frames, at: Date.now() };
  store.set(({ results, focus }) => ({
    job: null,
    current: id,
    results: [entry, ...results].slice(0, KEPT).map((one, i) => (i < WITH_FRAMES ? one : { ...one, frames: {} })),
    focus: { sample: 0, target: result.results[0].targets[focus.target] ? focus.target : Object.keys(result.results[0].targets).at(-1) },
  }));
  history.replaceState(null, "", `#r=${result.recipe.key}`);
}

/** Stop the job; nothing of it is kept. */
export function cancel() {
  if (!isBusy(store.get().job)) return;
  stop();
  turn += 1;
  store.set({ job: null });
}
