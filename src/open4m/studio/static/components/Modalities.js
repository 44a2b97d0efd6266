// All modalities at a glance: what is given, what is made.
import { commit, html, store, useStore } from "../common.js";
import { fromOne, toOne } from "../document.js";
import { ofRole } from "../traits.js";
import { ModalityCard } from "./ModalityCard.js";

export function Modalities() {
  const model = useStore((state) => state.model);
  const photo = ofRole(model, "photo");
  const hasPhoto = useStore((state) => Boolean(photo && state.doc.values[photo.name]));
  return html`<section class="modalities" aria-label="Modalities">
    <div class="head">
      <h2>Modalities</h2>
      <p class="faint">Click a state to turn it: <b class="given">given</b> → <b class="made">made</b> → unused. Click a picture to edit it.</p>
      <div class="spring"></div>
      ${photo && html`<button class="small" disabled=${!hasPhoto || !photo.can_be_given} onClick=${() => commit(fromOne(store.get().doc, model, photo.name))}>${photo.name} → all</button>
        <button class="small" disabled=${!photo.can_be_made} onClick=${() => commit(toOne(store.get().doc, model, photo.name))}>all → ${photo.name}</button>`}
    </div>
    <ul class="cards">${model.modalities.map((modality) => html`<${ModalityCard} key=${modality.name} modality=${modality} />`)}</ul>
  </section>`;
}
