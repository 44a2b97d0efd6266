// The column at the right: conditions, how things are made, what can be explored, what was made.
import { html, useState } from "../common.js";
import { Conditions } from "./Conditions.js";
import { Settings } from "./Settings.js";
import { Explore } from "./Explore.js";
import { History } from "./History.js";

const TABS = [["Conditions", Conditions], ["How", Settings], ["Explore", Explore], ["History", History]];

export function Side() {
  const [open, setOpen] = useState(0);
  const Shown = TABS[open][1];
  const turn = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = (open + by + TABS.length) % TABS.length;
    setOpen(next);
    event.currentTarget.children[next].focus();
  };
  return html`<aside class="panel side" aria-label="Settings">
    <div class="tabs" role="tablist" aria-label="Settings" onKeyDown=${turn}>
      ${TABS.map(([name], i) => html`<button role="tab" id=${`tab-${i}`} aria-selected=${i === open} aria-controls="side" tabindex=${i === open ? 0 : -1} onClick=${() => setOpen(i)}>${name}</button>`)}
    </div>
    <div class="body" id="side" role="tabpanel" aria-labelledby=${`tab-${open}`}><${Shown} /></div>
  </aside>`;
}
