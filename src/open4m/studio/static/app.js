// The page: its panels, the keys of the whole page, and files that are dropped anywhere.
import { html, redo, store, undo, useEffect, useState, useStore } from "./common.js";
import { render } from "./html.js";
import { watchServer, whenBack } from "./api.js";
import { makeDocument, open, openFiles, openRecipe, reopen } from "./actions.js";
import { keepDraft } from "./draft.js";
import { keepFocus } from "./focus.js";
import { cancel, isBusy } from "./jobs.js";
import { Banner } from "./components/Banner.js";
import { Editor } from "./components/Editor.js";
import { Failed } from "./components/Failed.js";
import { Modalities } from "./components/Modalities.js";
import { Result } from "./components/Result.js";
import { Side } from "./components/Side.js";
import { TopBar } from "./components/TopBar.js";

/** Whether something was typed in a field that the document does not have yet. */
const isUnsaid = ({ value, dataset }) => dataset?.said !== undefined && value !== dataset.said;

function onKey(event) {
  const { job } = store.get();
  const command = event.ctrlKey || event.metaKey;
  if (document.querySelector("dialog[open]")) return undefined; // Escape closes it, and no more
  if (event.key === "Escape" && isBusy(job)) return cancel();
  if (!command) return undefined;
  if (event.key === "Enter") {
    if (isUnsaid(event.target)) event.target.dispatchEvent(new Event("change", { bubbles: true })); // as when it is left
    makeDocument();
  } else if (["z", "y"].includes(event.key.toLowerCase()) && isUnsaid(event.target)) return undefined; // the browser takes letters back
  else if (event.key.toLowerCase() === "z") (event.shiftKey ? redo : undo)();
  else if (event.key.toLowerCase() === "y") redo();
  else return undefined;
  return event.preventDefault();
}

const hasFiles = (event) => Boolean(event.dataTransfer?.types.includes("Files"));

function Studio() {
  const failed = useStore((state) => state.failed);
  const isReady = useStore((state) => Boolean(state.model && state.doc));
  const [isOver, setOver] = useState(false);
  useEffect(() => {
    const listeners = {
      keydown: onKey,
      dragover: (event) => hasFiles(event) && event.preventDefault(), // words are dragged into fields as everywhere
      dragenter: (event) => hasFiles(event) && setOver(true),
      dragleave: (event) => !event.relatedTarget && setOver(false),
      drop: (event) => {
        setOver(false);
        if (!hasFiles(event)) return;
        event.preventDefault();
        openFiles([...event.dataTransfer.files]);
      },
      hashchange: () => {
        const key = new URLSearchParams(location.hash.slice(1)).get("r");
        if (key) openRecipe(key);
      },
    };
    for (const [name, listener] of Object.entries(listeners)) window.addEventListener(name, listener);
    return () => Object.entries(listeners).forEach(([name, listener]) => window.removeEventListener(name, listener));
  }, []);
  if (failed) return html`<${Failed} failed=${failed} />`;
  if (!isReady) return html`<${Banner} /><p class="loading">open4m studio is loading …</p>`;
  return html`<${TopBar} />
    <${Banner} />
    <main class="layout ${isOver ? "dropping" : ""}">
      <${Modalities} />
      <${Editor} />
      <${Result} />
      <${Side} />
    </main>`;
}

const root = document.getElementById("studio");
root.replaceChildren();
render(html`<${Studio} />`, root);
keepDraft();
keepFocus();
whenBack(reopen);
watchServer();
open();
