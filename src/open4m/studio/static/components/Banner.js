// Whether the server is there.
import { html, useStore } from "../common.js";
import { Notice } from "./Notice.js";

export function Banner() {
  const server = useStore((state) => state.server);
  return html`<div aria-live="polite">
    ${server === "lost" && html`<div class="banner lost"><span class="dot"></span>Server gone, retrying … What you made is kept; start <code>open4m studio</code> again if you stopped it.</div>`}
    ${server === "back" && html`<div class="banner back"><span class="dot"></span>The server is back.</div>`}
    <${Notice} place="top" />
  </div>`;
}
