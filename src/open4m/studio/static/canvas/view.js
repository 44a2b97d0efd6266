// The canvas of the editors: a picture, the token grid, painted cells, boxes, a cursor. Drawn by Konva; knows no state.
import "../vendor/konva.min.js";
import { cellAt, intoWindow, outOfWindow } from "../cells.js";
import { nodesOfBoxes } from "./boxes.js";

const Konva = globalThis.Konva;

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The canvas in `container`. `on`: stroke(cell, isFirst), strokeEnd(), pick(x, y), boxChanged(index, corners), boxSelected(index). */
export class CanvasView {
  constructor(container, on) {
    this.on = on;
    this.props = { grid: [1, 1], painted: [], boxes: null, window: { x: 0, y: 0, w: 1, h: 1 } };
    this.stage = new Konva.Stage({ container, width: 10, height: 10 });
    this.under = new Konva.Layer({ listening: false });
    this.marks = new Konva.Layer({ listening: false });
    this.over = new Konva.Layer();
    this.stage.add(this.under, this.marks, this.over);
    this.picture = new Konva.Image({ listening: false });
    this.under.add(this.picture);
    this.stage.on("pointerdown", (event) => this.down(event));
    this.stage.on("pointermove", () => this.move());
    this.up = () => this.isDown && ((this.isDown = false), this.on.strokeEnd?.());
    window.addEventListener("pointerup", this.up);
  }

  destroy() {
    window.removeEventListener("pointerup", this.up);
    this.stage.destroy();
  }

  /** Draw again what differs. `side`: pixels of the canvas. */
  update(props) {
    const before = this.props;
    this.props = { ...before, ...props };
    if (props.side && props.side !== this.stage.width()) this.stage.size({ width: props.side, height: props.side });
    if (before.image !== this.props.image || before.side !== this.props.side || before.window !== this.props.window) this.drawPicture();
    this.drawMarks();
    this.drawBoxes();
  }

  drawPicture() {
    const { image, window: seen, side } = this.props;
    this.picture.visible(Boolean(image));
    if (image) {
      this.picture.image(image);
      this.picture.setAttrs({ x: (-seen.x / seen.w) * side, y: (-seen.y / seen.h) * side, width: side / seen.w, height: side / seen.h });
    }
    this.under.getContext()._context.imageSmoothingEnabled = !image || image.naturalWidth > 64;
    this.under.batchDraw();
  }

  drawMarks() {
    const { grid, painted, cursor, side, showGrid } = this.props;
    const [rows, columns] = grid;
    const [height, width] = [side / rows, side / columns];
    this.marks.destroyChildren();
    const fill = color("--veil");
    for (const cell of painted) {
      this.marks.add(new Konva.Rect({ x: (cell % columns) * width, y: Math.floor(cell / columns) * height, width, height, fill }));
    }
    if (showGrid) {
      const stroke = color("--grid");
      for (let row = 1; row < rows; row += 1) this.marks.add(new Konva.Line({ points: [0, row * height, side, row * height], stroke, strokeWidth: 1 }));
      for (let column = 1; column < columns; column += 1) this.marks.add(new Konva.Line({ points: [column * width, 0, column * width, side], stroke, strokeWidth: 1 }));
    }
    if (cursor !== null && cursor !== undefined) {
      const [x, y] = [(cursor % columns) * width, Math.floor(cursor / columns) * height];
      this.marks.add(new Konva.Rect({ x, y, width, height, stroke: "#fff", strokeWidth: 4 }));
      this.marks.add(new Konva.Rect({ x, y, width, height, stroke: color("--accent"), strokeWidth: 2 }));
    }
    this.marks.batchDraw();
  }

  drawBoxes() {
    const { boxes, selected, side, window: seen } = this.props;
    if (this.isDragging) return;
    this.over.destroyChildren();
    if (boxes) {
      const shown = boxes.map((one) => ({ ...one, box: intoWindow(one.box, seen) }));
      const nodes = nodesOfBoxes(Konva, shown, selected, side, {
        select: (index) => this.on.boxSelected(index),
        drag: (is) => (this.isDragging = is),
        change: (index, corners) => this.on.boxChanged(index, outOfWindow(corners, seen)),
      });
      for (const node of nodes) this.over.add(node);
    }
    this.over.batchDraw();
  }

  point() {
    const { x, y } = this.stage.getPointerPosition() ?? { x: 0, y: 0 };
    const inside = (value) => Math.min(1 - 1e-9, Math.max(0, value / this.props.side));
    return [inside(x), inside(y)];
  }

  down(event) {
    if (event.target !== this.stage) return;
    const [x, y] = this.point();
    if (this.props.boxes) this.on.boxSelected(-1);
    else if (this.props.picks) this.on.pick(x, y);
    else {
      this.isDown = true;
      this.on.stroke?.(cellAt(x, y, this.props.grid), true);
    }
  }

  move() {
    if (this.isDown) this.on.stroke?.(cellAt(...this.point(), this.props.grid), false);
  }
}
