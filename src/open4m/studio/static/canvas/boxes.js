// Boxes on the canvas: a frame that is dragged, with a handle at its lower right corner and its label.
import { colorOf } from "../colors.js";

const LEAST = 0.03; // of the canvas

/** The nodes of boxes (corners as fractions of the canvas); the selected one is drawn last. */
export function nodesOfBoxes(Konva, boxes, selected, side, on) {
  const order = boxes.map((_, index) => index).filter((index) => index !== selected);
  if (selected >= 0 && selected < boxes.length) order.push(selected);
  return order.map((index) => nodeOf(Konva, boxes[index], index, index === selected, side, on));
}

function nodeOf(Konva, { box: [x0, y0, x1, y1], label }, index, isSelected, side, on) {
  const stroke = colorOf(label);
  const group = new Konva.Group({ x: x0 * side, y: y0 * side, draggable: true, name: "box" });
  const size = { width: (x1 - x0) * side, height: (y1 - y0) * side };
  const halo = new Konva.Rect({ ...size, stroke: "rgba(255,255,255,.85)", strokeWidth: isSelected ? 6 : 4, cornerRadius: 2, listening: false });
  const frame = new Konva.Rect({ ...size, stroke, strokeWidth: isSelected ? 3 : 2, cornerRadius: 2, fill: isSelected ? `${stroke}22` : "rgba(0,0,0,0.001)" });
  const text = new Konva.Text({ text: label, fontSize: 12, fontFamily: "system-ui, sans-serif", fontStyle: "600", fill: "#fff", padding: 3, listening: false });
  const tag = new Konva.Rect({ width: text.width(), height: text.height(), fill: stroke, cornerRadius: 2, listening: false });
  group.add(halo, frame, tag, text);
  const corners = () => {
    const [x, y] = [group.x() / side, group.y() / side];
    return [x, y, x + frame.width() / side, y + frame.height() / side];
  };
  frame.on("click tap", () => on.select(index)); // and not at once: what is drawn again cannot be dragged
  frame.on("mouseenter", () => (group.getStage().container().style.cursor = "move"));
  frame.on("mouseleave", () => (group.getStage().container().style.cursor = "default"));
  group.dragBoundFunc(({ x, y }) => ({
    x: Math.min(Math.max(x, Math.min(0, x0 * side)), Math.max(side - frame.width(), x0 * side)),
    y: Math.min(Math.max(y, Math.min(0, y0 * side)), Math.max(side - frame.height(), y0 * side)),
  }));
  group.on("dragstart", () => on.drag(true));
  group.on("dragend", (event) => {
    if (event.target !== group) return;
    on.drag(false);
    on.change(index, corners());
  });
  if (isSelected) group.add(handleOf(Konva, stroke, size, side, group, [halo, frame], () => on.change(index, corners()), on.drag));
  return group;
}

function handleOf(Konva, fill, { width, height }, side, group, frames, done, drag) {
  const handle = new Konva.Circle({ x: width, y: height, radius: 7, fill, stroke: "#fff", strokeWidth: 2, draggable: true, name: "handle" });
  handle.dragBoundFunc(({ x, y }) => ({
    x: Math.min(Math.max(x, group.x() + LEAST * side), Math.max(side, group.x() + width)),
    y: Math.min(Math.max(y, group.y() + LEAST * side), Math.max(side, group.y() + height)),
  }));
  handle.on("mouseenter", () => (handle.getStage().container().style.cursor = "nwse-resize"));
  handle.on("mouseleave", () => (handle.getStage().container().style.cursor = "default"));
  handle.on("dragstart", (event) => {
    event.cancelBubble = true;
    drag(true);
  });
  handle.on("dragmove", (event) => {
    event.cancelBubble = true;
    for (const frame of frames) frame.size({ width: handle.x(), height: handle.y() });
  });
  handle.on("dragend", (event) => {
    event.cancelBubble = true;
    drag(false);
    done();
  });
  return handle;
}
