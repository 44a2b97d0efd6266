// A value of another kind, as JSON: palettes with their colors, metadata, poses.
import { html, useEffect, useState, useStore } from "../common.js";
import { giveValue } from "../actions.js";
import { notice } from "../state.js";
import { title } from "../traits.js";
import { Numbers } from "./Numbers.js";

const isColor = (one) => typeof one === "string" && /^#[0-9a-f]{6}$/i.test(one);

/** What such a value looks like as JSON. */
function exampleOf({ kinds, most_colors: mostColors }) {
  if (mostColors) return '["#ff0080", "#00a2ff"]';
  return kinds.length ? `{"${kinds[0].name}": ${kinds[0].low}}` : "";
}

export function DataEditor({ modality }) {
  const { name } = modality;
  const drawn = useStore((state) => state.doc.values[name]);
  const data = drawn?.value.data ?? drawn?.value ?? null;
  const [text, setText] = useState("");
  const said = data === null || data.base64 ? "" : JSON.stringify(data, null, 1);
  useEffect(() => setText(said), [said]);
  const give = (value) => giveValue(name, { data: value });
  const example = exampleOf(modality);
  const apply = () => {
    let value;
    try {
      value = JSON.parse(text);
    } catch {
      return notice(`edit-${name}`, { error: "This is no JSON.", hint: example && `Write something like ${example}.` });
    }
    return give(value);
  };
  return html`${drawn?.picture && !modality.kinds.length && html`<img class="shown" src=${drawn.picture} alt=${`The value of ${title(name)}`} />`}
    ${modality.most_colors > 0 && html`<${Colors} colors=${Array.isArray(data) && data.every(isColor) ? data : []} most=${modality.most_colors} give=${give} />`}
    ${modality.kinds.length > 0 && html`<${Numbers} modality=${modality} drawn=${drawn} give=${give} />`}
    <label class="stack"><span class="label">As JSON</span>
      <textarea rows="5" class="code" value=${text} data-said=${said} onInput=${(event) => setText(event.target.value)} onChange=${() => text.trim() && text !== said && apply()} spellcheck="false" placeholder=${example}></textarea></label>
    <div class="row"><button onClick=${apply} disabled=${!text.trim()}>Give it</button></div>
    ${!drawn && html`<p class="status">No ${title(name)} yet: ${example ? "choose some, " : ""}write it, open a file, or make it from the others.</p>`}`;
}

function Colors({ colors, most, give }) {
  const put = (i, color) => give(colors.map((old, j) => (i === j ? color : old)));
  return html`<div class="palette" role="group" aria-label="Colors">${colors.map((one, i) => html`<input type="color" aria-label=${`Color ${i + 1}`} value=${one} onChange=${(event) => put(i, event.target.value)} />`)}
    <button class="small" disabled=${colors.length >= most} onClick=${() => give([...colors, "#808080"])}>Add a color</button>
    ${colors.length > 1 && html`<button class="small" onClick=${() => give(colors.slice(0, -1))}>Remove the last</button>`}</div>`;
}
