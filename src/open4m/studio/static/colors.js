// Colors of labels, and of numbers.

const LABELS = ["#d6336c", "#0b7285", "#c76a00", "#364fc7", "#2b8a3e", "#862e9c", "#a61e4d", "#5c940d", "#1864ab", "#862e2e"];

/** A color that a label always has. */
export function colorOf(label) {
  let sum = 7;
  for (const letter of label) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return LABELS[sum % LABELS.length];
}

const HEAT = [[20, 16, 70], [120, 28, 109], [213, 72, 66], [252, 165, 10], [252, 255, 164]];

/** The color of a number from 0 (sure) to 1 (unsure), as red, green, blue. */
export function heat(value) {
  const at = Math.min(0.9999, Math.max(0, value)) * (HEAT.length - 1);
  const low = Math.floor(at);
  return HEAT[low].map((part, i) => Math.round(part + (HEAT[low + 1][i] - part) * (at - low)));
}
