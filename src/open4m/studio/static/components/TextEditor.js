// A text that is given.
import { commit, html, store, useEffect, useState, useStore } from "../common.js";
import { ask } from "../api.js";
import { setValue } from "../document.js";
import { title } from "../traits.js";

const PAUSE = 500; // ms after the last letter

/** The words of a text that say little to the model, once typing pauses. */
function useUnfamiliar(modality, text) {
  const [words, setWords] = useState([]);
  useEffect(() => {
    setWords([]);
    if (!text.trim()) return undefined;
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      const found = await ask("POST", "/api/value", { modality, value: { text } }, abort.signal).catch(() => null); // what is wrong with it is said when it is used
      if (found && !abort.signal.aborted) setWords(found.unfamiliar);
    }, PAUSE);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [modality, text]);
  return words;
}

export function TextEditor({ modality }) {
  const { name } = modality;
  const model = useStore((state) => state.model);
  const text = useStore((state) => state.doc.values[name]?.value.text ?? "");
  const unfamiliar = useUnfamiliar(name, text);
  const type = (event) => {
    const said = event.target.value;
    const drawn = said ? { modality: name, value: { text: said }, picture: "", summary: said, height: 0, width: 0 } : null;
    commit(setValue(store.get().doc, model, name, drawn), `type ${name}`);
  };
  return html`<label class="stack"><span class="sr">${title(name)}</span>
      <textarea rows="8" placeholder="Say what is to be seen" value=${text} onInput=${type} spellcheck="false"></textarea></label>
    <p class="status" role="status">${unfamiliar.length > 0 && html`The model hardly knows: <b>${unfamiliar.join(", ")}</b>. Its vocabulary spells them letter by letter.`}</p>
    <p class="status">${text ? "Given. What is not to be seen is said under Avoid, at the right." : "Empty: it is not given. Type, or make it from the others."}</p>`;
}
