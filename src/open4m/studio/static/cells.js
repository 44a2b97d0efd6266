// Geometry of the token grid: which cells a stroke or a box covers. Cells count row by row from 0.

/** The part of a picture that the model sees, as fractions of its width and height; by `fit` it is the central square, the square around it, or all. */
export function windowOf(height, width, fit = "crop") {
  if (!height || !width || height === width || fit === "stretch") return { x: 0, y: 0, w: 1, h: 1 };
  const side = fit === "letterbox" ? Math.max(height, width) : Math.min(height, width);
  return { x: (1 - side / width) / 2, y: (1 - side / height) / 2, w: side / width, h: side / height };
}

/** Corners in the window of corners in the whole picture, and back. */
export const intoWindow = ([x0, y0, x1, y1], { x, y, w, h }) => [(x0 - x) / w, (y0 - y) / h, (x1 - x) / w, (y1 - y) / h];
export const outOfWindow = ([x0, y0, x1, y1], { x, y, w, h }) => [x0 * w + x, y0 * h + y, x1 * w + x, y1 * h + y];

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** The cell at a point of the window, both from 0 to 1. */
export function cellAt(x, y, [rows, columns]) {
  const row = clamp(Math.floor(y * rows), 0, rows - 1);
  return row * columns + clamp(Math.floor(x * columns), 0, columns - 1);
}

/** The cells that a box of the window touches. */
export function cellsOfBox([x0, y0, x1, y1], [rows, columns]) {
  const slack = 1e-6; // corners on the line between two cells touch one of them
  const top = clamp(Math.floor(y0 * rows + slack), 0, rows);
  const left = clamp(Math.floor(x0 * columns + slack), 0, columns);
  const bottom = clamp(Math.ceil(y1 * rows - slack), 0, rows);
  const right = clamp(Math.ceil(x1 * columns - slack), 0, columns);
  const cells = [];
  for (let row = top; row < bottom; row += 1) for (let column = left; column < right; column += 1) cells.push(row * columns + column);
  return cells;
}

/** The cells of the window in which pixels of the whole picture lie, where `inside(pixel)`. */
export function cellsOfPixels(inside, width, height, seen, grid) {
  const found = new Set();
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (!inside(y * width + x)) continue;
      const [left, top] = [((x + 0.5) / width - seen.x) / seen.w, ((y + 0.5) / height - seen.y) / seen.h];
      if (left >= 0 && top >= 0 && left < 1 && top < 1) found.add(cellAt(left, top, grid));
    }
  }
  return [...found];
}

/** The cells of a square brush, `size` cells wide, around one. */
export function brush(cell, size, [rows, columns]) {
  const row = Math.floor(cell / columns);
  const column = cell % columns;
  const before = Math.floor((size - 1) / 2);
  const cells = [];
  for (let r = row - before; r < row - before + size; r += 1) {
    for (let c = column - before; c < column - before + size; c += 1) {
      if (r >= 0 && c >= 0 && r < rows && c < columns) cells.push(r * columns + c);
    }
  }
  return cells;
}

/** The cells of a stroke from one to another, so that quick strokes have no holes. */
export function stroke(from, to, size, grid) {
  const [, columns] = grid;
  const [r0, c0, r1, c1] = [Math.floor(from / columns), from % columns, Math.floor(to / columns), to % columns];
  const steps = Math.max(Math.abs(r1 - r0), Math.abs(c1 - c0), 1);
  const found = new Set();
  for (let step = 0; step <= steps; step += 1) {
    const row = Math.round(r0 + ((r1 - r0) * step) / steps);
    const column = Math.round(c0 + ((c1 - c0) * step) / steps);
    for (const cell of brush(row * columns + column, size, grid)) found.add(cell);
  }
  return [...found];
}

/** A cell moved by rows and columns, within the grid. */
export function moved(cell, rows, columns, grid) {
  const row = clamp(Math.floor(cell / grid[1]) + rows, 0, grid[0] - 1);
  return row * grid[1] + clamp((cell % grid[1]) + columns, 0, grid[1] - 1);
}

/** Box corners moved as far as the picture goes; its size stays. */
export function movedBox([x0, y0, x1, y1], dx, dy) {
  const x = clamp(dx, -x0, 1 - x1);
  const y = clamp(dy, -y0, 1 - y1);
  return [x0 + x, y0 + y, x1 + x, y1 + y];
}

/** Box corners whose lower right one is moved; at least `least` wide and high. */
export function resizedBox([x0, y0, x1, y1], dx, dy, least = 0.03) {
  return [x0, y0, clamp(x1 + dx, Math.min(1, x0 + least), 1), clamp(y1 + dy, Math.min(1, y0 + least), 1)];
}
