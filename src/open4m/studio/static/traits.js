// What can be done with a modality, by what the model says of it; no name of a modality stands anywhere.

export const byName = (model, name) => model.modalities.find((modality) => modality.name === name);

/** The editor of a modality: "boxes", "map", "text" or "data". */
export function editorOf(modality) {
  if (modality.has_boxes) return "boxes";
  if (modality.is_map) return "map";
  return modality.is_text ? "text" : "data";
}

/** Whether parts of it can be painted to be made anew. */
export const canPaint = (modality) => modality.is_map && modality.can_be_masked && modality.grid.length === 2;

/** Whether it is a map of classes, whose segments can be recolored. */
export const hasSegments = (modality) => modality.is_map && modality.classes.length > 0;

/** The uses that it can have, in the order of clicks. Nothing is given without a value. */
export function usesOf(modality, hasValue) {
  const uses = [];
  if (modality.can_be_given && hasValue) uses.push("given");
  if (modality.can_be_made) uses.push("made");
  return [...uses, "off"];
}

/** The modality of a role, if the model has one. */
export const ofRole = (model, role) => (model.roles[role] ? byName(model, model.roles[role]) : undefined);

/** A grid of tokens as rows and columns; a vector is one row. */
export const gridOf = (modality) => (modality.grid.length === 2 ? modality.grid : [1, modality.grid[0] ?? 1]);

/** The label of a class that a new box gets. */
export const firstLabel = (modality) => modality.classes[0]?.name ?? "object";

/** A name for people. */
export const title = (name) => name.replaceAll("_", " ").replace(/@(?=\d)/, " at ").replace("@", " as ");
