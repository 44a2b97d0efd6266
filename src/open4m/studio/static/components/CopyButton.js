// Copies a text; where browsers do not allow that, it is shown to be copied by hand.
import { html, useState } from "../common.js";

export function CopyButton({ label, text, title = undefined }) {
  const [state, setState] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setState("copied");
      setTimeout(() => setState(""), 1500);
    } catch {
      setState(state === "shown" ? "" : "shown");
    }
  };
  return html`<button class="small" title=${title} onClick=${copy} disabled=${!text} aria-live="polite">${state === "copied" ? "Copied ✓" : label}</button>
    ${state === "shown" && html`<textarea class="code by-hand" rows="3" readonly aria-label=${label} value=${text} onFocus=${(event) => event.target.select()}></textarea>`}`;
}
