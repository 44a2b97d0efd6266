// What is being made, or the result that is shown.
import { html, useStore } from "../common.js";
import { isBusy } from "../jobs.js";
import { HowFar, MakeBar } from "./MakeBar.js";
import { Progress } from "./Progress.js";
import { Made } from "./Made.js";

export function Result() {
  const busy = useStore((state) => isBusy(state.job));
  const entry = useStore((state) => state.results.find((one) => one.id === state.current));
  return html`<section class="panel result" aria-label="Result">
    <div class="head"><h2>Result</h2><p class="faint">${entry && !busy ? `${entry.title} · ${entry.result.seconds.toFixed(1)} s` : ""}</p></div>
    <${MakeBar} />
    ${busy ? html`<${Progress} />` : entry ? html`<${Made} key=${entry.id} entry=${entry} />` : html`<div class="stage"><p class="empty tall">Your result appears here, token by token.</p></div><${HowFar} />`}
  </section>`;
}
