// How strongly each thing that is given counts, and what is not to be seen.
import { commit, html, store, useStore } from "../common.js";
import { set, setWeight } from "../document.js";
import { title } from "../traits.js";
import { NumberField } from "./NumberField.js";

const FIRST = 2; // of a weight that is switched on

export function Conditions() {
  const doc = useStore((state) => state.doc);
  const model = useStore((state) => state.model);
  const given = model.modalities.map((one) => one.name).filter((name) => doc.use[name] === "given" && doc.values[name]);
  return html`<h3>Weights</h3>
    <p class="faint">How strongly each condition pulls. Without a weight, all count together.</p>
    ${given.length === 0 && html`<p class="empty">Nothing is given. Click a state above until it says given.</p>`}
    <ul class="rows">${given.map((name) => html`<${Weight} key=${name} name=${name} weight=${doc.weights[name] ?? null} />`)}</ul>
    <h3>Avoid</h3>
    ${model.roles.text ? html`<${Avoid} doc=${doc} />` : html`<p class="empty">This model reads no texts.</p>`}`;
}

function Weight({ name, weight }) {
  const put = (value, group = "") => commit(setWeight(store.get().doc, name, value), group);
  return html`<li class="weight">
    <label class="inline"><input type="checkbox" checked=${weight !== null} aria-label=${`Weigh ${title(name)}`} onChange=${(event) => put(event.target.checked ? FIRST : null)} /> ${title(name)}</label>
    <input type="range" min="-2" max="8" step="0.5" disabled=${weight === null} value=${weight ?? 1} aria-label=${`Weight of ${title(name)}`} onInput=${(event) => put(Number(event.target.value), `weight ${name}`)} />
    <output class="number">${weight === null ? "–" : weight}</output>
  </li>`;
}

function Avoid({ doc }) {
  const put = (avoid, group = "") => commit(set(store.get().doc, { avoid }), group);
  return html`<p class="faint">What is not to be seen, in words.</p>
    <ul class="rows">${doc.avoid.map((text, i) => html`<li class="row" key=${i}>
      <input class="wide" value=${text} aria-label=${`Avoid ${i + 1}`} placeholder="a green floor" onInput=${(event) => put(doc.avoid.map((one, j) => (j === i ? event.target.value : one)), `avoid ${i}`)} />
      <button class="quiet" aria-label=${`Remove ${i + 1}`} onClick=${() => put(doc.avoid.filter((_, j) => j !== i))}>×</button></li>`)}</ul>
    <div class="row"><button class="small" onClick=${() => put([...doc.avoid, ""])}>Add</button>
    ${doc.avoid.length > 0 && html`<label class="inline">weight <${NumberField} min="0" max="10" step="0.5" placeholder="1" value=${doc.avoidWeight} put=${(number) => commit(set(store.get().doc, { avoidWeight: number }), "avoid weight")} /></label>`}</div>`;
}
