// The passes of a result again, one by one.
import { html, useEffect, useState } from "../common.js";

const EVERY = 180; // ms

export function Passes({ count, pass, setPass }) {
  const [plays, setPlays] = useState(false);
  useEffect(() => {
    if (!plays) return undefined;
    const timer = setTimeout(() => {
      const next = pass === null ? 0 : pass + 1;
      if (next < count) return setPass(next);
      setPlays(false);
      return setPass(null);
    }, EVERY);
    return () => clearTimeout(timer);
  }, [plays, pass]);
  return html`<div class="row passes">
    <button class="small" onClick=${() => setPlays(!plays)}>${plays ? "Stop" : "Passes ▸"}</button>
    <input type="range" aria-label="Pass" min="0" max=${count} value=${pass ?? count} onInput=${(event) => {
      setPlays(false);
      setPass(Number(event.target.value) >= count ? null : Number(event.target.value));
    }} />
    <span class="faint number">${pass === null ? "done" : `${pass + 1} / ${count}`}</span>
  </div>`;
}
