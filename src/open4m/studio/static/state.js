// The state of the page: one immutable object. The document in it is what undo and redo walk through.
import { useLayoutEffect, useReducer, useRef } from "./html.js";

const STEPS = 200; // documents that undo keeps
const TOGETHER = 800; // ms within which changes of one group are one step

/** A holder of one state that tells listeners of every change. */
export function createStore(initial) {
  let state = initial;
  const listeners = new Set();
  return {
    get: () => state,
    set(change) {
      state = { ...state, ...(typeof change === "function" ? change(state) : change) };
      for (const listener of [...listeners]) listener();
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

export const store = createStore({
  model: null, // what /api/model says
  failed: null, // why there is no model yet: {error, hint, status}
  server: "ok", // "ok", "lost" or "back"
  doc: null,
  past: [],
  future: [],
  group: "",
  changed: 0,
  selected: "", // the modality in the editor
  tool: "paint",
  job: null,
  results: [], // the newest first
  current: "", // the id of the result that is shown
  focus: { sample: 0, target: "" },
  notices: {}, // by the place that they stand at: {error, hint}
  busy: "", // what is being fetched
  hint: true,
  kept: {}, // what was chosen in panels that are not shown
});

/** What `select` takes of the state; the component is drawn again when that changes. */
export function useStore(select) {
  const [, redraw] = useReducer((count) => count + 1, 0);
  const latest = useRef();
  latest.current = { select, value: select(store.get()) };
  useLayoutEffect(() => {
    const look = () => {
      if (!Object.is(latest.current.select(store.get()), latest.current.value)) redraw();
    };
    look();
    return store.subscribe(look);
  }, []);
  return latest.current.value;
}

/** As useState, of what outlives the component: panels come and go. */
export function useKept(name, initial) {
  const value = useStore(({ kept }) => kept[name] ?? initial);
  return [value, (next) => store.set(({ kept }) => ({ kept: { ...kept, [name]: next } }))];
}

/** Make `doc` the document. Changes of one non-empty `group` that follow each other quickly are undone together. */
export function commit(doc, group = "") {
  store.set((state) => {
    if (doc === state.doc) return {};
    const now = Date.now();
    const joins = group && group === state.group && now - state.changed < TOGETHER;
    const past = joins || !state.doc ? state.past : [...state.past, state.doc].slice(-STEPS);
    return { doc, past, future: [], group, changed: now };
  });
}

/** A document that undo does not go back beyond, as one that was just opened. */
export function begin(doc) {
  store.set({ doc, past: [], future: [], group: "" });
}

export function undo() {
  store.set(({ past, doc, future }) =>
    past.length ? { doc: past.at(-1), past: past.slice(0, -1), future: [doc, ...future], group: "" } : {},
  );
}

export function redo() {
  store.set(({ past, doc, future }) =>
    future.length ? { doc: future[0], past: [...past, doc], future: future.slice(1), group: "" } : {},
  );
}

/** Say at a place what went wrong there and what to do; without an error, take it back. */
export function notice(place, error) {
  store.set(({ notices }) => {
    const { [place]: _, ...others } = notices;
    return { notices: error ? { ...others, [place]: { error: error.message ?? error.error, hint: error.hint ?? "" } } : others };
  });
}
