// A text that is given.
import { commit, html, store, useStore } from "../common.js";
import { setValue } from "../document.js";
import { title } from "../traits.js";

export function TextEditor({ modality }) {
  const { name } = modality;
  const model = useStore((state) => state.model);
  const text = useStore((state) => state.doc.values[name]?.value.text ?? "");
  const type = (event) => {
    const said = event.target.value;
    const drawn = said ? { modality: name, value: { text: said }, picture: "", summary: said, height: 0, width: 0 } : null;
    commit(setValue(store.get().doc, model, name, drawn), `type ${name}`);
  };
  return html`<label class="stack"><span class="sr">${title(name)}</span>
      <textarea rows="8" placeholder="Say what is to be seen" value=${text} onInput=${type} spellcheck="false"></textarea></label>
    <p class="status">${text ? "Given. What is not to be seen is said under Avoid, at the right." : "Empty: it is not given. Type, or make it from the others."}</p>`;
}
