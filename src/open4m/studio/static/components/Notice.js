// What went wrong, beside what caused it, and what to do.
import { html, useStore, notice } from "../common.js";

export function Notice({ place }) {
  const found = useStore((state) => state.notices[place]);
  if (!found) return null;
  return html`<div class="notice" role="alert">
    <div><strong>${found.error}</strong>${found.hint && html` <span>${found.hint}</span>`}</div>
    <button class="quiet" aria-label="Dismiss" onClick=${() => notice(place, null)}>×</button>
  </div>`;
}
