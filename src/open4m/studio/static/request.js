// Requests of documents, and documents of requests.
import { byName, canPaint } from "./traits.js";
import { empty, orderOf, settingsOf } from "./document.js";

/** What is given, as the service has it: whole values, and parts of what is made. */
export function givenOf(doc, model) {
  const given = {};
  for (const modality of model.modalities) {
    const { name } = modality;
    const found = doc.values[name];
    if (!found) continue;
    if (doc.use[name] === "given") given[name] = found.value;
    if (doc.use[name] === "made" && doc.painted[name]?.length && canPaint(modality)) {
      given[name] = { value: found.value, mask: { cells: doc.painted[name] } };
    }
  }
  return given;
}

const USUAL = { entropies: false, fit: "crop", upscale: false };
const says = ([name, value]) => (name in USUAL ? value !== USUAL[name] : typeof value !== "object" || Object.keys(value).length > 0);

/** How things are made: what every verb has, and only what differs from the service's defaults. */
const howOf = (doc, targets) => Object.fromEntries(Object.entries(settingsOf(doc, targets)).filter(says));

/** The request of a document. */
export function requestOf(doc, model) {
  if (doc.exact) return doc.exact;
  const targets = orderOf(doc, model);
  const verb = doc.likeliest && model.verbs.includes("extract") ? "extract" : "generate";
  const request = { verb, given: givenOf(doc, model), targets, ...howOf(doc, targets), seed: doc.seed };
  if (doc.samples > 1) request.samples = doc.samples;
  return request;
}

/** Variations of the photo that share the modalities `by`. */
export function variation(doc, model, by, samples) {
  const photo = model.roles.photo;
  const { weights: _, ...how } = howOf(doc, [photo]);
  return { verb: "vary", given: { [photo]: doc.values[photo].value }, by, targets: [photo], ...how, samples, seed: doc.seed };
}

/** One result for each step of a sweep of a condition. */
export function probing(doc, model, of, sweep) {
  const given = givenOf(doc, model);
  if (doc.values[of]) given[of] = doc.values[of].value;
  const targets = orderOf(doc, model).filter((name) => name !== of);
  return { verb: "probe", given, of, sweep, targets, ...howOf(doc, targets), seed: doc.seed };
}

/** The photo in a box of a larger frame, of which the rest is made. */
export function outpainting(doc, model, box) {
  const photo = model.roles.photo;
  const { weights: _, ...how } = howOf(doc, [photo]);
  return { verb: "outpaint", given: { [photo]: doc.values[photo].value }, box, targets: [photo], ...how, samples: doc.samples, seed: doc.seed };
}

/** Whether a request is to be made by other weights than those that are served. */
export const isOfOthers = ({ fingerprint }, model) => Boolean(fingerprint) && fingerprint.split(" ")[0] !== model.fingerprint;

/** The document of a request, with the pictures of its values (`drawn` by modality). It asks for exactly that until it is changed. */
export function documentOf(request, model, drawn) {
  const { fingerprint: _, ...ofAny } = request;
  const doc = { ...empty(), exact: isOfOthers(request, model) ? ofAny : request, likeliest: request.verb === "extract" };
  for (const [name, given] of Object.entries(request.given ?? {})) {
    if (!byName(model, name) || !drawn[name]) continue;
    doc.values[name] = drawn[name];
    doc.use[name] = given.mask ? "made" : "given";
    if (given.mask?.cells) doc.painted[name] = given.mask.cells;
  }
  doc.order = request.targets ?? (model.roles.photo ? [model.roles.photo] : []);
  for (const name of doc.order) doc.use[name] = "made";
  for (const [name, option] of Object.entries(request.options ?? {})) {
    if (option !== null && typeof option === "object" && !Array.isArray(option)) doc.options[name] = option;
    else doc.options[""] = { ...(doc.options[""] ?? {}), [name]: option };
  }
  for (const name of ["weights", "avoid", "samples", "seed", "entropies", "fit", "upscale"]) {
    if (request[name] !== undefined) doc[name] = request[name];
  }
  if (request.avoid?.length && request.avoid_weight !== undefined) doc.avoidWeight = request.avoid_weight;
  return doc;
}
