// How unsure the model was of each cell, over the picture, with what the colors mean.
import { html, useLayoutEffect, useRef } from "../common.js";
import { heat } from "../colors.js";

/** The largest number of some grids or lists. */
export const highest = (grids) => Math.max(1e-6, ...grids.flat(3).filter((one) => one !== null));

export function Heat({ numbers, high }) {
  const canvas = useRef();
  const [rows, columns] = [numbers.length, numbers[0].length];
  useLayoutEffect(() => {
    const context = canvas.current.getContext("2d");
    const image = context.createImageData(columns, rows);
    numbers.flat().forEach((number, cell) => {
      if (number !== null) image.data.set([...heat(number / high), 190], 4 * cell);
    });
    context.putImageData(image, 0, 0);
  });
  return html`<canvas class="veil" ref=${canvas} width=${columns} height=${rows} data-test="heat" aria-label="Uncertainty"></canvas><${Legend} high=${high} />`;
}

function Legend({ high }) {
  const colors = [0, 0.25, 0.5, 0.75, 1].map((at) => css(heat(at))).join(",");
  return html`<span class="legend">sure <i style=${{ background: `linear-gradient(90deg,${colors})` }}></i> ${high.toFixed(1)} nats</span>`;
}

const css = (color) => `rgb(${color.join(",")})`;

/** The words of a sequence, each on the color of how unsure the model was of it. */
export function HeatOfWords({ words, numbers, high }) {
  const style = (number) => (number === null ? {} : { background: css(heat(number / high)), color: number / high < 0.48 ? "#fff" : "#000" });
  return html`${words.map((word, i) => html`<span class="word" style=${style(numbers[i] ?? null)}>${word}</span> `)}<${Legend} high=${high} />`;
}
