// A value of another kind, as JSON: palettes with their colors, metadata, poses.
import { html, useEffect, useState, useStore } from "../common.js";
import { giveValue } from "../actions.js";
import { notice } from "../state.js";
import { title } from "../traits.js";

const isColor = (one) => typeof one === "string" && /^#[0-9a-f]{6}$/i.test(one);

export function DataEditor({ modality }) {
  const { name } = modality;
  const drawn = useStore((state) => state.doc.values[name]);
  const data = drawn?.value.data ?? drawn?.value ?? null;
  const [text, setText] = useState("");
  const said = data === null || data.base64 ? "" : JSON.stringify(data, null, 1);
  useEffect(() => setText(said), [said]);
  const give = (value) => giveValue(name, { data: value });
  const apply = () => {
    try {
      give(JSON.parse(text));
    } catch {
      notice(`edit-${name}`, { error: "This is no JSON.", hint: 'Write a list such as ["#ff0080", "#00a2ff"], or an object such as {"humans": 2}.' });
    }
  };
  const colors = Array.isArray(data) && data.length > 0 && data.every(isColor) ? data : null;
  return html`${drawn?.picture && html`<img class="shown" src=${drawn.picture} alt=${`The value of ${title(name)}`} />`}
    ${colors && html`<div class="palette" role="group" aria-label="Colors">${colors.map((one, i) => html`<input type="color" aria-label=${`Color ${i + 1}`} value=${one} onChange=${(event) => give(colors.map((old, j) => (i === j ? event.target.value : old)))} />`)}
      <button class="small" onClick=${() => give([...colors, "#808080"])}>Add</button>
      ${colors.length > 1 && html`<button class="small" onClick=${() => give(colors.slice(0, -1))}>Remove the last</button>`}</div>`}
    <label class="stack"><span class="label">As JSON</span>
      <textarea rows="5" class="code" value=${text} data-said=${said} onInput=${(event) => setText(event.target.value)} spellcheck="false" placeholder='["#ff0080", "#00a2ff"]'></textarea></label>
    <div class="row"><button onClick=${apply} disabled=${!text.trim()}>Give it</button></div>
    ${!drawn && html`<p class="status">No ${title(name)} yet: write it, open a file, or make it from the others.</p>`}`;
}
