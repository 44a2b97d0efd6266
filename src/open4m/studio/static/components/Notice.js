// What went wrong, beside what caused it, and what to do.
import { html, useEffect, useRef, useStore, notice } from "../common.js";

export function Notice({ place }) {
  const found = useStore((state) => state.notices[place]);
  const own = useRef();
  useEffect(() => own.current?.scrollIntoView({ block: "nearest" }), [found]);
  if (!found) return null;
  return html`<div class="notice" role="alert" ref=${own}>
    <div><strong>${found.error}</strong>${found.hint && html` <span>${found.hint}</span>`}</div>
    <button class="quiet" aria-label="Dismiss" onClick=${() => notice(place, null)}>×</button>
  </div>`;
}
