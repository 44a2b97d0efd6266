// Tokens as they appear: each target as far as it is, unknown cells veiled.
import { html, useStore } from "../common.js";
import { byName } from "../traits.js";
import { HowFar } from "./MakeBar.js";
import { Frame } from "./Frame.js";

export function Progress() {
  const job = useStore((state) => state.job);
  const model = useStore((state) => state.model);
  const names = Object.keys(job.frames);
  if (!names.length) return html`<div class="stage"><p class="empty tall waiting">Waiting for the first pass …</p></div><${HowFar} />`;
  const latest = job.frames[job.latest].at(-1);
  return html`<div class="stage focus"><${Frame} modality=${byName(model, job.latest)} sample=${latest.samples[0]} /></div>
    <${HowFar} />
    <div class="strip">${names.flatMap((name) => job.frames[name].at(-1).samples.map((sample) => html`<span class="tile" key=${`${name} ${sample.sample}`}><${Frame} modality=${byName(model, name)} sample=${sample} /></span>`))}</div>`;
}
