// What a reload of the page would lose: the document, kept by the browser for this tab until the tab is closed.
import { store } from "./state.js";
import { empty } from "./document.js";

const PLACE = "open4m";
const SOON = 300; // ms after the last change

/** Keep every document from now on. Where the browser has no room or allows none, a reload begins anew. */
export function keepDraft() {
  let kept = {};
  let timer = 0;
  const write = () => {
    clearTimeout(timer);
    const { model, doc, selected } = store.get();
    const { hash } = location; // of the latest result, or of a link
    if (!model || !doc || (doc === kept.doc && hash === kept.hash)) return;
    kept = { doc, hash };
    try {
      sessionStorage.setItem(PLACE, JSON.stringify({ model: model.fingerprint, hash, doc, selected }));
    } catch {
      forget(); // an older one would be taken for it
    }
  };
  store.subscribe(() => {
    if (store.get().doc === kept.doc) return;
    clearTimeout(timer);
    timer = setTimeout(write, SOON);
  });
  window.addEventListener("pagehide", write);
}

function forget() {
  try {
    sessionStorage.removeItem(PLACE);
  } catch {
    // the browser keeps nothing
  }
}

/** What was kept for this model at this address: {doc, selected}; null if there is none. */
export function draftOf(model) {
  try {
    const draft = JSON.parse(sessionStorage.getItem(PLACE));
    if (draft?.model !== model.fingerprint || draft.hash !== location.hash) return null;
    return { doc: { ...empty(), ...draft.doc }, selected: draft.selected };
  } catch {
    return null;
  }
}
