// What a pass has so far of one target of one sample.
import { html } from "../common.js";
import { gridOf } from "../traits.js";
import { Veil } from "./Veil.js";

export function Frame({ modality, sample }) {
  if (!sample) return null;
  if (!sample.picture) return html`<span class="words">${sample.text || "…"}<span class="caret"></span></span>`;
  const side = Math.round(Math.sqrt(sample.known.length)); // of what the model does not list, as larger pictures
  return html`<img src=${sample.picture} alt=${`${modality?.name ?? "A picture"} so far`} data-test="pass" />
    ${sample.known.includes("0") && html`<${Veil} grid=${modality ? gridOf(modality) : [side, side]} known=${(cell) => sample.known[cell] === "1"} />`}`;
}
