// A small picture of a value, or its words; what is painted is veiled.
import { html } from "../common.js";
import { gridOf } from "../traits.js";
import { Veil } from "./Veil.js";
import { colorOf } from "../colors.js";

const percent = (part) => `${100 * part}%`;

function styleOf({ box: [x0, y0, x1, y1], label }) {
  return { left: percent(x0), top: percent(y0), width: percent(x1 - x0), height: percent(y1 - y0), borderColor: colorOf(label) };
}

export function Thumb({ modality, drawn, painted = [] }) {
  if (!drawn) return html`<span class="thumb empty" aria-hidden="true">${modality.is_text ? "Aa" : "+"}</span>`;
  if (drawn.value.objects) return html`<span class="thumb">${drawn.value.objects.map((one) => html`<i class="box" style=${styleOf(one)}></i>`)}</span>`;
  if (modality.is_text) return html`<span class="thumb words">${drawn.value.text}</span>`;
  const grid = gridOf(modality);
  const hidden = new Set(painted);
  return html`<span class="thumb">
    <img src=${drawn.picture} alt="" />
    ${hidden.size > 0 && html`<${Veil} grid=${grid} known=${(cell) => !hidden.has(cell)} color=${[250, 196, 110, 215]} />`}
  </span>`;
}
