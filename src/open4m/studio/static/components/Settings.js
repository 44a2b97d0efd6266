// How things are made: samples, seed, and the options of each target.
import { commit, html, store, useState, useStore } from "../common.js";
import { set, setOption } from "../document.js";
import { byName, title } from "../traits.js";
import { NumberField } from "./NumberField.js";

const OPTIONS = [
  { name: "temperature", label: "Temperature", min: 0, max: 3, step: 0.05, title: "Below 1: likelier; above 1: more varied" },
  { name: "top_p", label: "Top-p", min: 0.05, max: 1, step: 0.05, title: "The likeliest tokens that are drawn from, by their sum" },
  { name: "steps", label: "Steps", min: 1, max: 256, step: 1, title: "Passes in which a map is made" },
];

const SEEDS = 2 ** 52; // the largest: numbers of browsers are exact a little beyond

export function Settings() {
  const doc = useStore((state) => state.doc);
  const model = useStore((state) => state.model);
  const [wanted, setTarget] = useState("");
  const target = doc.order.includes(wanted) ? wanted : "";
  const own = doc.options[target] ?? {};
  const usual = byName(model, target || doc.order.at(-1))?.options ?? {};
  const put = (change, group = "") => commit(set(store.get().doc, change), group);
  const option = (name, value) => commit(setOption(store.get().doc, target, name, value), `option ${target} ${name}`);
  return html`<h3>Results</h3>
    <div class="fields">
      <label>Samples <${NumberField} required whole min="1" max=${model.limits.samples} value=${doc.samples} put=${(samples) => put({ samples }, "samples")} /></label>
      <div class="field"><span aria-hidden="true">Seed</span> <span class="row"><${NumberField} required whole aria-label="Seed" min="0" max=${SEEDS} step="1" value=${doc.seed} put=${(seed) => put({ seed }, "seed")} />
        <button class="icon" aria-label="Another seed" title="Another seed" onClick=${() => put({ seed: Math.floor(Math.random() * 1e6) })}>⚄</button></span></div>
      <label>Frame <select value=${doc.fit} title="Which square the model sees of a photo" onChange=${(event) => put({ fit: event.target.value })}>${model.fits.map((one) => html`<option>${one}</option>`)}</select></label>
      <label class="inline"><input type="checkbox" checked=${doc.entropies} onChange=${(event) => put({ entropies: event.target.checked })} /> record uncertainty</label>
      ${model.verbs.includes("extract") && html`<label class="inline" title="One answer, as when labels are extracted from a picture"><input type="checkbox" checked=${doc.likeliest} onChange=${(event) => put({ likeliest: event.target.checked })} /> the likeliest, and no sample</label>`}
      ${model.upscales.length > 0 && html`<label class="inline"><input type="checkbox" checked=${doc.upscale} onChange=${(event) => put({ upscale: event.target.checked })} /> upscale: ${model.upscales.join(", ")}</label>`}
    </div>
    <h3>Tokens</h3>
    <div class="fields">
      <label>For <select value=${target} onChange=${(event) => setTarget(event.target.value)}><option value="">all that is made</option>${doc.order.map((name) => html`<option value=${name}>${title(name)}</option>`)}</select></label>
      ${OPTIONS.map(({ name, label, title: says, ...range }) => html`<label title=${says}>${label} <${NumberField} key=${target} ...${range} value=${own[name] ?? null} placeholder=${usual[name] >= range.min ? usual[name] : ""} put=${(number) => option(name, number)} /></label>`)}
      <label title="In which order the tokens of a map are made">Scheme <select value=${own.scheme ?? ""} onChange=${(event) => option("scheme", event.target.value || null)}>
        <option value="">as usual${usual.scheme ? `: ${usual.scheme.replaceAll("_", " ")}` : ""}</option>${model.schemes.map((one) => html`<option>${one}</option>`)}</select></label>
    </div>
    <p class="faint">Empty: what the model's own plans say.</p>`;
}
