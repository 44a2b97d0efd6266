// Boxes on the photo: dragged, resized, renamed, added, deleted.
import { commit, html, store, useMemo, useState, useStore } from "../common.js";
import { setBoxes, windowOfDoc } from "../document.js";
import { movedBox, resizedBox } from "../cells.js";
import { firstLabel, gridOf, ofRole, title } from "../traits.js";
import { Canvas } from "./Canvas.js";
import { KeepRest } from "./KeepRest.js";

const STEP = 1 / 32;
const ARROWS = { ArrowUp: [0, -STEP], ArrowDown: [0, STEP], ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0] };
const NEW_PLACES = Array.from({ length: 12 }, (_, i) => movedBox([0.35, 0.35, 0.65, 0.65], i * STEP, i * STEP));

export function BoxesEditor({ modality }) {
  const { name } = modality;
  const doc = useStore((state) => state.doc);
  const model = useStore((state) => state.model);
  const [selected, setSelected] = useState(0);
  const photo = ofRole(model, "photo");
  const drawn = doc.values[name];
  const objects = drawn?.value.objects ?? [];
  const at = Math.min(selected, objects.length - 1);
  const painted = (photo && doc.use[photo.name] === "made" && doc.painted[photo.name]) || [];
  const view = useMemo(
    () => ({ grid: photo ? gridOf(photo) : [1, 1], painted, boxes: objects, selected: at, cursor: null, showGrid: false, window: windowOfDoc(doc) }),
    [doc, at],
  );

  const change = (next, group = "") => commit(setBoxes(store.get().doc, model, name, next), group);
  const put = (index, part, group) => change(objects.map((one, i) => (i === index ? { ...one, ...part } : one)), group);
  const add = () => {
    const isFree = (box) => !objects.some((one) => one.box.every((corner, i) => corner === box[i]));
    const box = NEW_PLACES.find(isFree) ?? NEW_PLACES[0]; // none hides another
    change([...objects, { box, label: objects[at]?.label ?? firstLabel(modality) }]);
    setSelected(objects.length);
  };
  const remove = (index) => {
    change(objects.filter((_, i) => i !== index));
    setSelected(Math.max(0, index - 1));
  };
  const rename = (label) => label && label !== objects[at].label && put(at, { label });
  const on = {
    boxSelected: setSelected,
    boxChanged: (index, box) => {
      setSelected(index);
      put(index, { box });
    },
  };
  const keys = ({ key, shiftKey }) => {
    if (key === "PageDown" || key === "PageUp") {
      const next = at + (key === "PageDown" ? 1 : -1);
      return setSelected((next + objects.length) % Math.max(1, objects.length)) ?? true;
    }
    if (at < 0) return false;
    if (key === "Delete" || key === "Backspace") return remove(at) ?? true;
    if (!ARROWS[key]) return false;
    const move = shiftKey ? resizedBox : movedBox;
    return put(at, { box: move(objects[at].box, ...ARROWS[key]) }, `keys ${at} ${shiftKey}`) ?? true;
  };
  const label = `Boxes on the picture. ${at >= 0 ? `${objects[at].label}, ${at + 1} of ${objects.length}.` : "None."} Arrow keys move it, with shift they resize it, page down is the next.`;
  return html`<div class="toolbar" role="toolbar" aria-label="Tools">
      <button class="small" onClick=${add}>Add box</button>
      ${at >= 0 && html`<label class="inline">label <input list=${`labels-${name}`} value=${objects[at].label} data-said=${objects[at].label} size="9" onChange=${(event) => rename(event.target.value.trim())} /></label>
        <datalist id=${`labels-${name}`}>${modality.classes.map((one) => html`<option value=${one.name}></option>`)}</datalist>
        <button class="small" onClick=${() => remove(at)}>Delete</button>`}
      <div class="spring"></div>
      <${KeepRest} />
    </div>
    <${Canvas} url=${photo ? doc.values[photo.name]?.picture : drawn?.picture} view=${view} on=${on} keys=${keys} label=${label} empty=${!drawn && `No ${title(name)} yet: add a box, make them, or open a file.`} />
    <p class="status">${painted.length ? `${painted.length} cells of the picture are made anew; the rest is kept.` : "Drag a box, or its round handle."}</p>`;
}
