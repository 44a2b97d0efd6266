// Numbers with names, such as metadata: each is chosen from the kinds that there are.
import { html, useState } from "../common.js";
import { title } from "../traits.js";

const short = (number) => Number(number.toPrecision(4));

/** `give(data)`: the service answers what its tokens say, which may be a little less than what was typed; numbers that are
 * not changed go back as their codes, and stay. */
export function Numbers({ modality, drawn, give }) {
  const readings = drawn?.readings ?? {};
  const codes = drawn?.value.data?.codes ?? {};
  const [wanted, setWanted] = useState("");
  const [number, setNumber] = useState("");
  const left = modality.kinds.filter((kind) => !(kind.name in readings));
  const kind = left.find((one) => one.name === wanted) ?? left[0];
  const put = (name, text) => text !== "" && give({ codes, [name]: Number(text) });
  const remove = (name) => give({ codes: Object.fromEntries(Object.entries(codes).filter(([one]) => one !== name)) });
  const add = () => {
    put(kind.name, number);
    setNumber("");
  };
  return html`<div class="fields numbers">
    ${Object.entries(readings).map(([name, reading]) => html`<div class="field" key=${name}><span>${title(name)}</span> <span class="row">
      <input type="number" step="any" aria-label=${title(name)} value=${short(reading)} data-said=${short(reading)} onChange=${(event) => Number(event.target.value) === short(reading) || put(name, event.target.value)} />
      <button class="quiet" aria-label=${`Remove ${title(name)}`} onClick=${() => remove(name)}>×</button></span></div>`)}
    ${kind && html`<div class="field"><select aria-label="Kind" value=${kind.name} onChange=${(event) => setWanted(event.target.value)}>${left.map((one) => html`<option value=${one.name}>${title(one.name)}</option>`)}</select>
      <span class="row"><input type="number" step="any" aria-label="Number" data-said="" value=${number} placeholder=${kind.high ? `${kind.low} to ${kind.high}` : ""} onInput=${(event) => event.target.validity.badInput || setNumber(event.target.value)} />
      <button class="small" disabled=${number === ""} onClick=${add}>Add it</button></span></div>`}
  </div>`;
}
