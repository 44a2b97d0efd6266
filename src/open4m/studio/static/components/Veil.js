// What hides the cells of a picture that are not known yet.
import { html, useLayoutEffect, useRef } from "../common.js";

export function Veil({ grid: [rows, columns], known, color = [120, 120, 140, 225] }) {
  const canvas = useRef();
  useLayoutEffect(() => {
    const context = canvas.current.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let cell = 0; cell < rows * columns; cell += 1) {
      const shade = (Math.floor(cell / columns) + (cell % columns)) % 2 ? 0 : 12;
      if (!known(cell)) image.data.set([color[0] + shade, color[1] + shade, color[2] + shade, color[3]], 4 * cell);
    }
    context.putImageData(image, 0, 0);
  });
  return html`<canvas class="veil" ref=${canvas} width=${columns} height=${rows} aria-hidden="true"></canvas>`;
}
