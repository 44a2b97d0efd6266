// What a pass has so far of one target of one sample.
import { html } from "../common.js";
import { gridOf } from "../traits.js";
import { Veil } from "./Veil.js";

export function Frame({ modality, sample }) {
  if (!sample) return null;
  if (!sample.picture) return html`<span class="words">${sample.text || "…"}<span class="caret"></span></span>`;
  return html`<img src=${sample.picture} alt=${`${modality.name} so far`} data-test="pass" />
    ${sample.known.includes("0") && html`<${Veil} grid=${gridOf(modality)} known=${(cell) => sample.known[cell] === "1"} />`}`;
}
