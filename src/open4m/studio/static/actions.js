// What buttons do that ask the service for something.
import { ServiceError, ask } from "./api.js";
import { begin, commit, notice, store } from "./state.js";
import { empty, fromOne, ofScene, setUse, setValue, withoutPlaces } from "./document.js";
import { draftOf } from "./draft.js";
import { documentOf, isOfOthers, requestOf } from "./request.js";
import { make } from "./jobs.js";
import { base64Of, fitting } from "./png.js";
import { byName, editorOf } from "./traits.js";

const LARGEST = 512; // pixels of the longer side of a file's value

/** Do something that is waited for, and say beside `place` what went wrong. */
async function busy(place, what, work) {
  store.set({ busy: what });
  notice(place, null);
  try {
    return await work();
  } catch (error) {
    notice(place, error);
    return undefined;
  } finally {
    store.set({ busy: "" });
  }
}

/** The model, then the document of a page that was reloaded, of the address, a scene, or nothing. */
export async function open() {
  let model;
  try {
    model = await ask("GET", "/api/model");
  } catch (error) {
    store.set({ failed: { error: error.message, hint: error.hint, status: error.status } });
    return;
  }
  store.set({ model, failed: null });
  const draft = draftOf(model);
  if (draft) {
    begin(draft.doc);
    store.set({ selected: draft.selected });
    return;
  }
  const key = new URLSearchParams(location.hash.slice(1)).get("r");
  const { photo } = model.roles;
  begin(photo && byName(model, photo).can_be_made ? setUse(empty(), photo, "made") : empty());
  store.set({ selected: model.roles.photo ?? model.modalities[0]?.name ?? "" });
  if (key && (await openRecipe(key))) return;
  if (model.knows_scenes) await rollScene(7, true);
}

/** The model again after the server was started again; what was made is still here. */
export async function reopen() {
  const { model } = store.get();
  if (!model) return open();
  const now = await ask("GET", "/api/model").catch(() => null);
  if (now) store.set({ model: now, failed: null });
  if (now && now.fingerprint !== model.fingerprint) {
    notice("top", { error: `Another model is served now: ${now.name}.`, hint: "What you gave is kept; reload the page to begin anew." });
  }
}

/** A new scene as the document. */
export function rollScene(seed = Math.floor(Math.random() * 1e6), isFirst = false) {
  return busy("scene", "scene", async () => {
    const scene = await ask("GET", `/api/scene?seed=${seed}`);
    const { model, doc } = store.get();
    const values = Object.fromEntries(Object.entries(scene.values).filter(([name]) => byName(model, name)));
    const next = ofScene(doc, model, values);
    if (isFirst) begin(next);
    else commit(next);
    if (!isFirst) notice("make", null); // it was about what is replaced
    const editable = model.modalities.find((one) => next.use[one.name] === "given" && editorOf(one) === "boxes");
    store.set({ selected: editable?.name ?? model.roles.photo });
  });
}

/** A file of the user as the value of a modality, by default the photo, which all others are then made from. */
export function openFile(file, name, form = "") {
  const { model } = store.get();
  const photo = model.roles.photo;
  const target = name || photo;
  return busy("file", "file", async () => {
    if (!file) return;
    if (!target) throw new ServiceError("This model has no photo.", "Drop the file on the card of a modality.");
    if (!file.size) throw new ServiceError(`${file.name} is empty.`, "Choose another file.");
    const most = model.limits.bytes / 1.4; // base64 is longer
    const sent = target === photo ? await fitting(file, { ...model.limits, bytes: most }, 2 * LARGEST) : file;
    if (sent.size > most) {
      throw new ServiceError(`${file.name} is too large: ${(file.size / 1e6).toFixed(1)} MB.`, `The service takes up to ${(most / 1e6).toFixed(0)} MB.`);
    }
    let drawn;
    try {
      drawn = await ask("POST", "/api/value", { modality: target, form, size: LARGEST, base64: await base64Of(sent) });
    } catch (error) {
      if (![400, 413].includes(error.status)) throw error;
      const kind = byName(model, target).is_map ? "a picture (PNG, JPEG, WebP) or a .npy array" : `a file as open4m writes it (.${byName(model, target).extension})`;
      throw new ServiceError(`${file.name}: ${error.message}`, error.hint || `Choose ${kind}.`, error.status);
    }
    const { doc } = store.get();
    const fresh = target === photo ? { ...empty(), seed: doc.seed, samples: doc.samples, options: doc.options, entropies: doc.entropies } : doc;
    let next = setValue(fresh, model, target, drawn, byName(model, target).can_be_given ? "given" : "off");
    if (target === photo) next = fromOne(next, model, target);
    commit(next);
    if (target === photo) notice("make", null); // it was about what is replaced
    store.set({ selected: target });
  });
}

/** The first of files that were dropped; it says so if there are more. */
export async function openFiles(files, name = "") {
  const [first] = files;
  await openFile(first, name);
  if (files.length > 1 && !store.get().notices.file) {
    notice("file", { error: `Only ${first.name} was opened, the first of ${files.length} files.`, hint: "Drop each on the card of its modality." });
  }
}

/** A value in the editor of a kind without one of its own: the service checks and draws it. */
export function giveValue(name, value) {
  return busy(`edit-${name}`, "value", async () => {
    const drawn = await ask("POST", "/api/value", { modality: name, value });
    commit(setValue(store.get().doc, store.get().model, name, drawn));
  });
}

/** Press the button: what the document says, with a value that is just being given. */
export function makeDocument() {
  if (store.get().busy === "value") {
    const stop = store.subscribe(() => {
      if (store.get().busy === "value") return;
      stop();
      makeDocument();
    });
    return;
  }
  const { doc, model } = store.get();
  if (!doc || !model) return;
  if (!doc.order.length && !doc.exact) {
    notice("make", { error: "Nothing is to be made.", hint: "Click the state of a modality above until it says made." });
    return;
  }
  make(requestOf(doc, model), nameOf(requestOf(doc, model)));
}

/** A request in a few words. */
export function nameOf({ verb, targets = [] }) {
  const what = targets.length > 3 ? `${targets.length} modalities` : targets.join(", ");
  return verb === "generate" || verb === "extract" ? what : `${verb} ${what}`;
}

const isWide = ({ height, width }) => height !== width;

/** A generated value as what is given: maps of one sample show one picture. Of a picture that is not square, the value gets
 * its aspect; where the model saw a square part of it, what is there already is cut to that. */
export function useResult(entry, sample, target) {
  const own = entry.result.results[sample].targets[target];
  const { frame } = entry.result;
  return busy("result", "value", async () => {
    const valueOf = (name, value, more = {}) => ask("POST", "/api/value", { modality: name, value, ...more });
    const { model } = store.get();
    const doc = entry.request.verb === "outpaint" ? withoutPlaces(store.get().doc, model, target) : store.get().doc;
    const others = Object.entries(doc.values).filter(([name]) => name !== target);
    const pictures = others.map(([, one]) => one).filter((one) => one.height);
    const isOfWide = frame && isWide(frame);
    const isCut = pictures.length > 0 && !pictures.some(isWide);
    const drawn = await valueOf(target, own.value, isOfWide && own.grid.length === 2 ? { frame, to: "picture" } : isOfWide && isCut ? { frame, to: "square" } : {});
    const values = {};
    if (isOfWide && drawn.height && !isWide(drawn) && pictures.some(isWide)) {
      const { height, width } = pictures.find(isWide);
      const cut = await Promise.all(others.map(([name, one]) => (one.height === 0 && byName(model, name).is_text ? one : valueOf(name, one.value, { frame: { height, width, fit: frame.fit }, to: "square" }))));
      others.forEach(([name], i) => (values[name] = cut[i]));
    }
    commit(setValue({ ...doc, values: { ...doc.values, ...values } }, model, target, drawn, "given"));
    store.set({ selected: target });
  });
}

/** Whether the server still has a result; says beside it if not. */
export async function isKept(id) {
  try {
    await ask("GET", `/api/jobs/${id}`);
    notice("result", null);
    return true;
  } catch (error) {
    const isGone = error.status === 404;
    notice("result", isGone ? new ServiceError("The server no longer has this result.", "Press Replay: it is made again, the same; then save it.") : error);
    return false;
  }
}

/** The document of a permalink; whether there is one. */
export async function openRecipe(key) {
  const found = await busy("make", "recipe", async () => {
    let recipe;
    try {
      recipe = await ask("GET", `/api/recipes/${encodeURIComponent(key)}`);
    } catch (error) {
      if (error.status !== 404) throw error;
      throw new ServiceError("The server no longer has the recipe of this link.", "Recipes live as long as the server; record.json of a download keeps one for good.", 404);
    }
    await openRequest(recipe.request);
    return true;
  });
  return found === true;
}

/** A result again, to the token. */
export function replay(request, title) {
  const others = isOfOthers(request, store.get().model);
  notice("result", others ? { error: "This was made by other weights than those that are served now.", hint: "Press Restore, then Make, for what these make of it." } : null);
  if (!others) make(request, title);
}

/** The document of a result, again. */
export const restore = (request) => busy("result", "recipe", () => openRequest(request));

/** The document of a request. */
export async function openRequest(request) {
  const { model } = store.get();
  const given = Object.entries(request.given ?? {}).filter(([name]) => byName(model, name));
  const drawn = await Promise.all(given.map(([name, one]) => ask("POST", "/api/value", { modality: name, value: one.mask ? one.value : one })));
  const values = Object.fromEntries(given.map(([name], i) => [name, drawn[i]]));
  const next = documentOf(request, model, values);
  commit(next);
  store.set({ selected: given.find(([, one]) => one.mask)?.[0] ?? given[0]?.[0] ?? next.order.at(-1) });
}
