// The editor of the modality that is selected, by its traits.
import { html, useRef, useState, useStore } from "../common.js";
import { openFile } from "../actions.js";
import { byName, editorOf, title } from "../traits.js";
import { MapEditor } from "./MapEditor.js";
import { BoxesEditor } from "./BoxesEditor.js";
import { TextEditor } from "./TextEditor.js";
import { DataEditor } from "./DataEditor.js";
import { Notice } from "./Notice.js";

const EDITORS = { map: MapEditor, boxes: BoxesEditor, text: TextEditor, data: DataEditor };

export function Editor() {
  const model = useStore((state) => state.model);
  const selected = useStore((state) => state.selected);
  const modality = byName(model, selected);
  if (!modality) return html`<section class="panel"><p class="empty">Choose a modality above.</p></section>`;
  const kind = editorOf(modality);
  return html`<section class="panel editor" aria-label="Editor">
    <div class="head"><h2>${title(selected)}</h2><p class="faint">${modality.description}</p><div class="spring"></div><${FileButton} modality=${modality} /></div>
    <${EDITORS[kind]} key=${selected} modality=${modality} />
    <${Notice} place=${`edit-${selected}`} />
  </section>`;
}

/** A file as the value of a modality, in one of the forms that it may have. */
function FileButton({ modality }) {
  const input = useRef();
  const [form, setForm] = useState("");
  return html`<span class="group">
    ${modality.forms.length > 1 && html`<select aria-label="The form of the file" title="The form of the file" value=${form} onChange=${(event) => setForm(event.target.value)}>
      <option value="">own form</option>${modality.forms.slice(1).map((one) => html`<option value=${one}>${one}</option>`)}</select>`}
    <button class="small" onClick=${() => input.current.click()}>File …</button>
    <input ref=${input} type="file" hidden aria-label="File of ${title(modality.name)}" onChange=${(event) => {
      openFile(event.target.files[0], modality.name, form);
      event.target.value = "";
    }} />
  </span>`;
}
