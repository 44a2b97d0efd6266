// A small picture of a value, or its words; what is painted is veiled.
import { html } from "../common.js";
import { gridOf } from "../traits.js";
import { Veil } from "./Veil.js";

export function Thumb({ modality, drawn, painted = [] }) {
  if (!drawn) return html`<span class="thumb empty" aria-hidden="true">${modality.is_text ? "Aa" : "+"}</span>`;
  if (modality.is_text) return html`<span class="thumb words">${drawn.value.text}</span>`;
  const grid = gridOf(modality);
  const hidden = new Set(painted);
  return html`<span class="thumb">
    <img src=${drawn.picture} alt="" />
    ${hidden.size > 0 && html`<${Veil} grid=${grid} known=${(cell) => !hidden.has(cell)} color=${[250, 196, 110, 215]} />`}
  </span>`;
}
