// All results of this page, the newest first.
import { html, store, useStore } from "../common.js";
import { ResultPicture } from "./ResultPicture.js";

export function History() {
  const results = useStore((state) => state.results);
  const current = useStore((state) => state.current);
  const show = (entry) => {
    const target = Object.keys(entry.result.results[0].targets).at(-1);
    store.set({ current: entry.id, focus: { sample: 0, target } });
    history.replaceState(null, "", `#r=${entry.result.recipe.key}`);
  };
  if (!results.length) return html`<p class="empty">What you make is listed here, with what makes it again.</p>`;
  return html`<ol class="history">${results.map((entry) => html`<li key=${entry.id}>
    <button aria-pressed=${entry.id === current} onClick=${() => show(entry)}>
      <span class="tile"><${ResultPicture} entry=${entry} sample=${0} target=${Object.keys(entry.result.results[0].targets).at(-1)} /></span>
      <span><b>${entry.title}</b><br /><span class="faint">${new Date(entry.at).toLocaleTimeString()} · ${entry.result.results[0].title}${entry.result.results.length > 1 ? ` and ${entry.result.results.length - 1} more` : ""}</span></span>
    </button></li>`)}</ol>`;
}
