// A map: parts are painted that are made anew; segments of classes are recolored.
import { commit, html, store, useEffect, useMemo, useRef, useState, useStore } from "../common.js";
import { anew, paint, setValue, useOf, windowOfDoc } from "../document.js";
import { brush, cellsOfPixels, moved, stroke } from "../cells.js";
import { drawnOf, idsOf, recolored, segmentAt } from "../segments.js";
import { canPaint, gridOf, hasSegments, title } from "../traits.js";
import { Canvas } from "./Canvas.js";
import { KeepRest } from "./KeepRest.js";

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export function MapEditor({ modality }) {
  const { name } = modality;
  const doc = useStore((state) => state.doc);
  const wanted = useStore((state) => state.tool);
  const [size, setSize] = useState(2);
  const [showGrid, setShowGrid] = useState(true);
  const [cursor, setCursor] = useState(0);
  const [klass, setClass] = useState(modality.classes[0]?.id ?? 0);
  const last = useRef(null);
  const drawn = doc.values[name];
  const grid = gridOf(modality);
  const painted = doc.painted[name] ?? [];
  const tools = [...(canPaint(modality) ? ["paint", "erase"] : []), ...(hasSegments(modality) ? ["recolor"] : [])];
  const tool = tools.includes(wanted) ? wanted : tools[0];
  const ids = useIds(tool === "recolor" ? drawn?.value : null);

  const cover = (cells, erases, group) => {
    const now = new Set(store.get().doc.painted[name] ?? []);
    for (const cell of cells) erases ? now.delete(cell) : now.add(cell);
    commit(paint(store.get().doc, name, [...now]), group);
  };
  const recolor = async (x, y) => {
    if (!ids) return;
    const at = Math.floor(y * ids.height) * ids.width + Math.floor(x * ids.width);
    const inside = segmentAt(ids, at);
    const next = await drawnOf(recolored(ids, (i) => inside[i], klass), modality.classes);
    const { doc: now, model } = store.get();
    const cells = (grid) => cellsOfPixels((i) => inside[i] && ids.gray[i] !== klass, ids.width, ids.height, windowOfDoc(now), grid);
    commit(anew(setValue(now, model, name, next), model, name, cells));
  };
  const on = {
    stroke: (cell, isFirst) => {
      if (!drawn || !["paint", "erase"].includes(tool)) return;
      if (isFirst) last.current = { cell, group: `stroke ${Date.now()}` };
      cover(stroke(last.current.cell, cell, size, grid), tool === "erase", last.current.group);
      last.current.cell = cell;
    },
    pick: (x, y) => {
      const { x: left, y: top, w, h } = windowOfDoc(doc);
      recolor(Math.min(0.9999, Math.max(0, left + x * w)), Math.min(0.9999, Math.max(0, top + y * h)));
    },
  };
  const keys = ({ key }) => {
    if (ARROWS[key]) return setCursor(moved(cursor, ...ARROWS[key], grid)) ?? true;
    if (key !== " " || !drawn) return false;
    if (tool === "recolor") on.pick(((cursor % grid[1]) + 0.5) / grid[1], (Math.floor(cursor / grid[1]) + 0.5) / grid[0]);
    else if (tool) cover(brush(cursor, size, grid), tool === "erase" || painted.includes(cursor));
    return true;
  };
  const view = useMemo(
    () => ({ grid, painted, cursor, showGrid, boxes: null, picks: tool === "recolor", window: windowOfDoc(doc) }),
    [doc, cursor, showGrid, tool],
  );
  const label = `${title(name)}, ${grid[0]} by ${grid[1]} cells. Cursor at row ${Math.floor(cursor / grid[1]) + 1}, column ${(cursor % grid[1]) + 1}. Arrow keys move it, space paints.`;
  return html`<div class="toolbar" role="toolbar" aria-label="Tools">
      ${tools.length > 0 && html`<span class="group">${tools.map((one) => html`<button class="small" aria-pressed=${tool === one} onClick=${() => store.set({ tool: one })}>${one}</button>`)}</span>`}
      ${["paint", "erase"].includes(tool) && html`<label class="inline">brush <input type="range" min="1" max=${Math.max(2, Math.min(6, grid[0] / 2))} value=${size} onInput=${(event) => setSize(Number(event.target.value))} /></label>`}
      ${tool === "recolor" && html`<select class="class" aria-label="as" title="The class that a segment gets" style=${{ borderLeftColor: `rgb(${(modality.classes.find((one) => one.id === klass)?.color ?? []).join(",")})` }} value=${klass} onChange=${(event) => setClass(Number(event.target.value))}>${modality.classes.map((one) => html`<option value=${one.id}>${one.name}</option>`)}</select>`}
      ${tool !== "recolor" && html`<label class="inline"><input type="checkbox" checked=${showGrid} onChange=${(event) => setShowGrid(event.target.checked)} /> cells</label>`}
      <div class="spring"></div>
      ${tool === "recolor" && html`<${KeepRest} />`}
      ${painted.length > 0 && html`<button class="small" onClick=${() => commit(paint(doc, name, []))}>Clear</button>`}
    </div>
    <${Canvas} url=${drawn?.picture} view=${view} on=${on} keys=${keys} label=${label} empty=${!drawn && `No ${title(name)} yet: open a file, or make it from the others.`} />
    <p class="status">${statusOf(useOf(doc, name), painted.length, grid, Boolean(drawn), tool)}</p>`;
}

function statusOf(use, count, [rows, columns], hasValue, tool) {
  const size = `${rows} × ${columns} cells`;
  if (use === "part") return `${count} of ${rows * columns} cells are made anew; the rest is kept.`;
  if (tool === "recolor") return "Click a segment to give it the class.";
  if (use === "made") return `Made from nothing of it, ${size}. ${hasValue && tool ? "Paint where it is to be made anew, and the rest is kept." : ""}`;
  if (use === "given") return `Given as a whole, ${size}.${tool ? " Paint what is to be made anew." : ""}`;
  return `Unused, ${size}.`;
}

/** The class ids of a value, once they are decoded. */
function useIds(value) {
  const [found, setFound] = useState({ value: null, ids: null });
  useEffect(() => {
    let isCurrent = true;
    if (value) idsOf(value).then((ids) => isCurrent && setFound({ value, ids }), () => {});
    return () => (isCurrent = false);
  }, [value]);
  return found.value === value ? found.ids : null;
}
