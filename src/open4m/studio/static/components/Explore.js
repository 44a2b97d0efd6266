// Variations of the photo, and one result after another along a condition.
import { html, store, useKept, useStore } from "../common.js";
import { isBusy, make } from "../jobs.js";
import { outpainting, probing, variation } from "../request.js";
import { byName, editorOf, hasSegments, ofRole, title } from "../traits.js";
import { sweepOf } from "../sweeps.js";
import { NumberField } from "./NumberField.js";

export function Explore() {
  const model = useStore((state) => state.model);
  const photo = ofRole(model, "photo");
  return html`${photo && model.verbs.includes("vary") && html`<${Vary} photo=${photo} />`}
    ${model.verbs.includes("probe") && html`<${Probe} />`}
    ${photo?.can_be_masked && model.verbs.includes("outpaint") && html`<${Outpaint} photo=${photo} />`}`;
}

const useBusy = () => useStore((state) => isBusy(state.job)); // one job at a time

function Vary({ photo }) {
  const busy = useBusy();
  const model = useStore((state) => state.model);
  const hasPhoto = useStore((state) => Boolean(state.doc.values[photo.name]));
  const others = model.modalities.filter((one) => one.name !== photo.name && one.can_be_made);
  const [by, setBy] = useKept("vary by", [ofRole(model, "shape")?.name ?? others[0]?.name].filter(Boolean));
  const [samples, setSamples] = useKept("vary samples", 4);
  const turn = (name, is) => setBy(is ? [...by, name] : by.filter((one) => one !== name));
  return html`<h3>Variations</h3>
    <p class="faint">Pictures that share with this one its</p>
    <div class="checks">${others.map(({ name }) => html`<label class="inline"><input type="checkbox" checked=${by.includes(name)} onChange=${(event) => turn(name, event.target.checked)} /> ${title(name)}</label>`)}</div>
    <div class="row"><label class="inline">samples <${NumberField} required whole min="1" max=${model.limits.samples} value=${samples} put=${setSamples} /></label>
      <button disabled=${busy || !hasPhoto || !by.length} onClick=${() => make(variation(store.get().doc, model, by, samples), `variations by ${by.map(title).join(", ")}`)}>Vary</button></div>
    ${hasPhoto ? !by.length && html`<p class="status">Check what they share.</p>` : html`<p class="status">Open a picture or roll a scene first.</p>`}`;
}

function Probe() {
  const busy = useBusy();
  const model = useStore((state) => state.model);
  const doc = useStore((state) => state.doc);
  const names = model.modalities.filter((one) => one.can_be_given && doc.values[one.name]).map((one) => one.name);
  const [chosen, setChosen] = useKept("probe of", "");
  const [steps, setSteps] = useKept("probe steps", 5);
  const [kind, setKind] = useKept("probe along", "");
  const [what, setWhat] = useKept("probe what", "");
  const of = names.includes(chosen) ? chosen : names.find((name) => doc.use[name] === "given") ?? names[0];
  if (!of) return html`<h3>Probe</h3><p class="empty">One result after another along a condition. Give something first.</p>`;
  const modality = byName(model, of);
  const kinds = kindsOf(modality);
  const now = kinds.includes(kind) ? kind : kinds[0];
  const sweep = sweepOf(now, { modality, doc, steps, what });
  const targets = doc.order.filter((name) => name !== of);
  return html`<h3>Probe</h3>
    <p class="faint">One result after another along a condition, all else the same.</p>
    <div class="fields">
      <label>Of <select value=${of} onChange=${(event) => setChosen(event.target.value)}>${names.map((name) => html`<option value=${name}>${title(name)}</option>`)}</select></label>
      <label>Along <select value=${now} onChange=${(event) => setKind(event.target.value)}>${kinds.map((one) => html`<option>${one}</option>`)}</select></label>
      ${sweep.choices.length > 0 && html`<label>Of which <select value=${sweep.choice} onChange=${(event) => setWhat(event.target.value)}>${sweep.choices.map((one) => html`<option>${one}</option>`)}</select></label>`}
      ${now === "texts" ? html`<label class="tall">One a line <textarea rows="4" data-said="" value=${what} onInput=${(event) => setWhat(event.target.value)} placeholder=${"a red cone\na blue cone"}></textarea></label>`
        : html`<label>Steps <${NumberField} required whole min="2" max=${Math.max(2, Math.min(16, model.limits.samples))} value=${steps} put=${setSteps} /></label>`}
    </div>
    <div class="row"><button disabled=${busy || !sweep.json || !targets.length} onClick=${() => make(probing(doc, model, of, sweep.json), `probe of ${title(of)}`)}>Probe</button></div>
    ${!sweep.json && html`<p class="status">${now === "texts" ? "Write two texts or more, one a line." : "There is no box: add one."}</p>`}
    ${!targets.length && html`<p class="status">Nothing else is made: click the state of another modality until it says made.</p>`}`;
}

function kindsOf(modality) {
  const own = editorOf(modality) === "boxes" ? ["places"] : hasSegments(modality) ? ["classes"] : modality.is_text ? ["texts"] : [];
  return [...own, "weights"];
}

function Outpaint({ photo }) {
  const busy = useBusy();
  const model = useStore((state) => state.model);
  const hasPhoto = useStore((state) => Boolean(state.doc.values[photo.name]));
  const [part, setPart] = useKept("outpaint", 0.6);
  const box = [(1 - part) / 2, (1 - part) / 2, (1 + part) / 2, (1 + part) / 2];
  return html`<h3>Outpaint</h3>
    <p class="faint">The picture small, and what is around it made.</p>
    <div class="row"><label class="inline">size <input type="range" min="0.3" max="0.9" step="0.1" value=${part} onInput=${(event) => setPart(Number(event.target.value))} /> <output class="number">${Math.round(100 * part)}%</output></label>
      <button disabled=${busy || !hasPhoto} onClick=${() => make(outpainting(store.get().doc, model, box), "outpainting")}>Outpaint</button></div>`;
}
