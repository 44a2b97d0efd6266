// One modality: a small picture of its value, and whether it is given, made or unused.
import { commit, html, store, useState, useStore } from "../common.js";
import { nextUse, orderOf, useOf } from "../document.js";
import { openFiles } from "../actions.js";
import { title } from "../traits.js";
import { Thumb } from "./Thumb.js";

const SAYS = { given: "given", made: "made", part: "in part", off: "unused" };

export function ModalityCard({ modality }) {
  const { name } = modality;
  const doc = useStore((state) => state.doc);
  const isSelected = useStore((state) => state.selected === name);
  const [isOver, setOver] = useState(false);
  const use = useOf(doc, name);
  const place = doc.order.length > 1 ? orderOf(doc, store.get().model).indexOf(name) + 1 : 0;
  const drop = (event) => {
    event.preventDefault();
    event.stopPropagation();
    setOver(false);
    openFiles([...event.dataTransfer.files], name);
  };
  const over = (event) => {
    event.preventDefault();
    setOver(true);
  };
  return html`<li class="card ${use} ${isSelected ? "selected" : ""} ${isOver ? "over" : ""}" data-modality=${name} onDragOver=${over} onDragLeave=${() => setOver(false)} onDrop=${drop}>
    <button class="look" aria-pressed=${isSelected} aria-label="Edit ${title(name)}" title=${modality.description} onClick=${() => store.set({ selected: name })}>
      <${Thumb} modality=${modality} drawn=${doc.values[name]} painted=${use === "part" ? doc.painted[name] : []} />
      <span class="name">${title(name)}</span>
    </button>
    <button class="use" aria-label="${title(name)}: ${use === "part" ? "made in part" : SAYS[use]}. Change" title=${use === "part" ? "Made where it is painted, the rest is kept" : ""} onClick=${() => commit(nextUse(doc, modality))}>
      ${place > 0 && html`<span class="place" title="The order in which they are made">${place}</span>`}${SAYS[use]}
    </button>
  </li>`;
}
