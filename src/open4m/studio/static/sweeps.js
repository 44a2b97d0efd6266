// What a probe runs through, as the service has it.
import { movedBox } from "./cells.js";

const MOST = 4; // the largest weight

/** `{json, choices, choice}`: null while something is missing; what can be chosen of the value, and what is. */
export function sweepOf(kind, { modality, doc, steps, what }) {
  const value = doc.values[modality.name]?.value;
  const none = { json: null, choices: [], choice: "" };
  if (kind === "weights") return { ...none, json: { weights: Array.from({ length: steps }, (_, i) => Math.round((100 * MOST * i) / (steps - 1)) / 100) } };
  if (kind === "texts") {
    const texts = what.split("\n").map((line) => line.trim()).filter(Boolean);
    return { ...none, json: texts.length > 1 ? { values: texts.map((text) => ({ text })) } : null };
  }
  if (kind === "places") {
    const objects = value?.objects ?? [];
    const choices = [...new Set(objects.map((one) => one.label))];
    const choice = choices.includes(what) ? what : choices[0];
    const box = objects.find((one) => one.label === choice)?.box;
    if (!box) return none;
    const room = 1 - (box[2] - box[0]);
    const to = Array.from({ length: steps }, (_, i) => movedBox(box, (room * i) / (steps - 1) - box[0], 0));
    return { json: { move: choice, to }, choices, choice };
  }
  const choices = modality.classes.map((one) => one.name);
  const choice = choices.includes(what) ? what : choices.at(-1);
  const others = [choice, ...choices.filter((name) => name !== choice)].slice(0, steps);
  return { json: { swap: choice, to: others }, choices, choice };
}
