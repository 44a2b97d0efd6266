// The one button that makes, and how to stop it.
import { commit, html, store, useStore } from "../common.js";
import { makeDocument } from "../actions.js";
import { set } from "../document.js";
import { cancel, isBusy } from "../jobs.js";
import { title } from "../traits.js";
import { Notice } from "./Notice.js";

export function MakeBar() {
  const job = useStore((state) => state.job);
  const doc = useStore((state) => state.doc);
  const isThere = useStore((state) => state.server !== "lost");
  const busy = isBusy(job);
  const names = doc.order.map(title);
  const label = doc.exact && !["generate", "extract"].includes(doc.exact.verb) ? `Make the ${doc.exact.verb}` : names.length > 3 ? `Make ${names.length} modalities` : `Make ${names.join(", ") || "…"}`;
  const another = () => {
    const now = store.get().doc;
    commit(set(now, { seed: now.seed + now.samples }));
    makeDocument();
  };
  return html`<div class="makebar">
    <div class="row">
      ${busy
        ? html`<button class="primary wide" onClick=${cancel}>Cancel <kbd>Esc</kbd></button>`
        : html`<button class="primary wide" onClick=${makeDocument} disabled=${!isThere}>${label} <kbd>Ctrl ⏎</kbd></button>
            <button onClick=${another} disabled=${!isThere || !names.length} title="With the next seed">Another</button>`}
    </div>
    <${Notice} place="make" />
  </div>`;
}

/** How far it is, in words that are read aloud, and as a bar. */
export function HowFar() {
  const job = useStore((state) => state.job);
  const hint = useStore((state) => state.hint);
  const isEmpty = useStore((state) => Object.keys(state.doc.values).length === 0);
  const busy = isBusy(job);
  return html`<div class="progress ${busy ? "on" : ""}"><span style=${{ width: `${100 * partOf(job)}%` }}></span></div>
    <p class="status" aria-live="polite" role="status">${busy ? says(job) : hint ? hintOf(isEmpty) : ""}</p>`;
}

const hintOf = (isEmpty) => `${isEmpty ? "Open a picture, or choose a modality and type" : "Drag a box, or paint on a picture"}; then press Make.`;

function partOf(job) {
  if (!job || !job.latest) return 0;
  const [pass, passes] = job.passes[job.latest];
  return (job.number - 1 + pass / Math.max(1, passes)) / Math.max(1, job.targets);
}

function says(job) {
  if (job.state === "sending") return "Sending …";
  if (job.state === "full") return `The service is busy: trying again in ${job.wait} s.`;
  if (job.state === "queued") return job.place > 1 ? `Waiting: ${job.place - 1} before you.` : "Waiting: you are next.";
  if (!job.latest) return job.together > 1 ? `Started, together with ${job.together - 1} more.` : "Started.";
  const [pass, passes] = job.passes[job.latest];
  return `${title(job.latest)}: pass ${pass} of ${passes}`;
}
