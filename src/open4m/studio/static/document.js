// The document: what is given, what is made, and how. Functions here make a new one of one and a change.
import { canPaint, gridOf, usesOf, byName, editorOf } from "./traits.js";
import { cellsOfBox, intoWindow, windowOf } from "./cells.js";

/** Nothing given, nothing made. */
export function empty() {
  return {
    values: {}, // by modality, as /api/value answers: {value, picture, summary, height, width}
    use: {}, // by modality: "given", "made" or "off"
    order: [], // what is made, in this order
    painted: {}, // by modality: the cells that are made anew while the rest is kept
    weights: {}, // guidance by single conditions
    avoid: [], // texts
    avoidWeight: null,
    options: {}, // by target, "" for all: {temperature, steps, scheme, top_p}
    likeliest: false, // what is likeliest is made, and not a sample
    samples: 1,
    seed: 0,
    entropies: true,
    fit: "crop",
    upscale: false,
    keep: true, // a box that moves marks where it was and where it is, and the rest of what is made stays
    exact: null, // the request of a recipe, until something is changed
  };
}

const edited = (doc, change) => ({ ...doc, ...change, exact: null });

const some = (object) => Object.keys(object).length > 0;

/** How `targets` are made, as requests say it. */
export function settingsOf(doc, targets) {
  const own = targets.filter((name) => doc.options[name] && some(doc.options[name])).map((name) => [name, doc.options[name]]);
  const avoid = doc.avoid.map((text) => text.trim()).filter(Boolean);
  return {
    options: { ...(doc.options[""] ?? {}), ...Object.fromEntries(own) },
    weights: doc.weights,
    avoid,
    ...(avoid.length && doc.avoidWeight !== null ? { avoid_weight: doc.avoidWeight } : {}),
    entropies: doc.entropies,
    fit: doc.fit,
    upscale: doc.upscale,
  };
}

const KINDS = ["generate", "extract"]; // what a document itself can ask for
const OF_ALL = ["seed", "samples", "entropies"]; // what the request of a recipe may say anew and be for the same plans

/** Another setting. A request of a recipe that the document cannot ask for itself goes on with it: warmer variations are variations. */
function adjusted(doc, change) {
  const next = { ...doc, ...change };
  if (!doc.exact || KINDS.includes(doc.exact.verb)) return { ...next, exact: null };
  const said = { ...settingsOf(next, doc.exact.targets ?? []), seed: next.seed, samples: next.samples };
  return { ...next, exact: { ...doc.exact, ...Object.fromEntries(Object.entries(said).filter(([name]) => name in doc.exact)) } };
}

/** Other settings. */
export function set(doc, change) {
  const names = Object.keys(change);
  if (names.every((name) => name === "keep")) return { ...doc, ...change }; // of edits that come
  if (names.includes("likeliest")) return edited(doc, change);
  const stays = doc.exact && names.every((name) => name === "seed" || (OF_ALL.includes(name) && name in doc.exact));
  return stays ? { ...doc, ...change, exact: { ...doc.exact, ...change } } : adjusted(doc, change);
}

/** What is made, in the order in which it is asked for: what the model does not read cannot be followed by others. */
export function orderOf(doc, model) {
  const isRead = (name) => byName(model, name)?.can_be_given ?? true;
  return [...doc.order.filter(isRead), ...doc.order.filter((name) => !isRead(name))];
}

/** The use of a modality: "given", "made", "part" (made where it is painted) or "off". */
export function useOf(doc, name) {
  const use = doc.use[name] ?? "off";
  return use === "made" && doc.painted[name]?.length && doc.values[name] ? "part" : use;
}

export function setUse(doc, name, use) {
  const order = use === "made" ? [...doc.order.filter((one) => one !== name), name] : doc.order.filter((one) => one !== name);
  const { [name]: _, ...weights } = doc.weights;
  return edited(doc, { use: { ...doc.use, [name]: use }, order, weights: use === "given" ? doc.weights : weights });
}

/** What a click makes of the use of a modality. */
export function nextUse(doc, modality) {
  const uses = usesOf(modality, Boolean(doc.values[modality.name]));
  const now = uses.indexOf(doc.use[modality.name] ?? "off");
  return setUse(doc, modality.name, uses[(now + 1) % uses.length]);
}

/** A value; what had no use is given from now on. */
export function setValue(doc, model, name, drawn, use = undefined) {
  const values = { ...doc.values, [name]: drawn };
  if (drawn === null) delete values[name];
  const changed = edited(doc, { values });
  const wanted = use ?? (doc.use[name] === "made" && doc.painted[name]?.length ? "made" : byName(model, name).can_be_given ? "given" : "off");
  if (drawn === null) return setUse(paint(changed, name, []), name, doc.use[name] === "made" ? "made" : "off");
  return doc.use[name] === wanted ? changed : setUse(changed, name, wanted);
}

/** Without the values that say where something is, but for one: those of a picture that is a part of a larger one now. */
export function withoutPlaces(doc, model, but) {
  const names = Object.keys(doc.values).filter((name) => name !== but && (byName(model, name).is_map || byName(model, name).has_positions));
  return names.reduce((next, name) => setValue(next, model, name, null), doc);
}

/** The cells of a map that are made anew. Where there are some, the modality is made. */
export function paint(doc, name, cells) {
  const sorted = [...new Set(cells)].sort((a, b) => a - b);
  const painted = { ...doc.painted, [name]: sorted };
  if (!sorted.length) delete painted[name];
  const changed = edited(doc, { painted });
  return sorted.length && doc.use[name] !== "made" ? setUse(changed, name, "made") : changed;
}

/** The part of pictures that the model sees, by the first value that has a size. */
export function windowOfDoc(doc) {
  const found = Object.values(doc.values).find((drawn) => drawn.height && drawn.width);
  return found ? windowOf(found.height, found.width, doc.fit) : windowOf(1, 1);
}

/** Other boxes. With `keep`, what is made is made anew only where boxes were or are that changed. */
export function setBoxes(doc, model, name, objects) {
  const before = doc.values[name]?.value.objects ?? [];
  const same = (a, b) => a.label === b.label && a.box.every((corner, i) => corner === b.box[i]);
  const changed = [
    ...before.filter((one) => !objects.some((other) => same(one, other))),
    ...objects.filter((one) => !before.some((other) => same(one, other))),
  ];
  const seen = windowOfDoc(doc);
  const next = setValue(doc, model, name, { ...doc.values[name], value: { objects } });
  return anew(next, model, name, (grid) => changed.flatMap((one) => cellsOfBox(intoWindow(one.box, seen), grid)));
}

/** With `keep`, what is made is made anew only in `cellsOf(grid)`, besides what was painted before; the rest of it stays. */
export function anew(doc, model, source, cellsOf) {
  if (!doc.keep) return doc;
  return doc.order.reduce((next, target) => {
    const modality = byName(model, target);
    if (target === source || !canPaint(modality) || !doc.values[target]) return next;
    return paint(next, target, [...(doc.painted[target] ?? []), ...cellsOf(gridOf(modality))]);
  }, doc);
}

/** An option of one target, or of all ("" ); null takes it back. */
export function setOption(doc, target, option, value) {
  const { [option]: _, ...others } = doc.options[target] ?? {};
  const own = value === null || value === "" ? others : { ...others, [option]: value };
  return adjusted(doc, { options: { ...doc.options, [target]: own } });
}

export function setWeight(doc, name, weight) {
  const { [name]: _, ...others } = doc.weights;
  return adjusted(doc, { weights: weight === null ? others : { ...others, [name]: weight } });
}

/** One given, all others made that can be, in the model's order. */
export function fromOne(doc, model, name) {
  const made = model.modalities.filter((one) => one.name !== name && one.can_be_made).map((one) => one.name);
  const use = Object.fromEntries([...made.map((one) => [one, "made"]), [name, "given"]]);
  return edited(doc, { use, order: made, painted: {}, weights: {} });
}

/** All given that have values, but the one that is made. */
export function toOne(doc, model, name) {
  const given = model.modalities.filter((one) => one.name !== name && one.can_be_given && doc.values[one.name]);
  const use = Object.fromEntries([...given.map((one) => [one.name, "given"]), [name, "made"]]);
  const weights = Object.fromEntries(Object.entries(doc.weights).filter(([one]) => use[one] === "given")); // others would be refused
  return edited(doc, { use, order: [name], painted: {}, weights });
}

/** A new scene: its texts and boxes are given, its photo is made. */
export function ofScene(doc, model, values) {
  const photo = model.roles.photo;
  const use = {};
  for (const name of Object.keys(values)) {
    const modality = byName(model, name);
    if (modality?.can_be_given && ["text", "boxes"].includes(editorOf(modality))) use[name] = "given";
  }
  if (photo) use[photo] = "made";
  return edited(doc, { values, use, order: photo ? [photo] : [], painted: {}, weights: {}, likeliest: false });
}
