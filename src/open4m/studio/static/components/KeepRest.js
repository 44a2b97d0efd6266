// Whether a change marks where it is, so that the rest of what is made stays.
import { commit, html, store, useStore } from "../common.js";
import { set } from "../document.js";

export function KeepRest() {
  const keep = useStore((state) => state.doc.keep);
  return html`<label class="inline" title="A change marks its cells in what is made; the rest of that stays">
    <input type="checkbox" checked=${keep} onChange=${(event) => commit(set(store.get().doc, { keep: event.target.checked }))} /> keep the rest</label>`;
}
