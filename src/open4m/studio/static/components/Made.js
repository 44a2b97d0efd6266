// A result: one picture large, all others small, what can be done with it.
import { html, store, useState, useStore } from "../common.js";
import { useResult } from "../actions.js";
import { byName, title } from "../traits.js";
import { ResultPicture } from "./ResultPicture.js";
import { Frame } from "./Frame.js";
import { Passes } from "./Passes.js";
import { Recipe } from "./Recipe.js";
import { Notice } from "./Notice.js";

export function Made({ entry }) {
  const focus = useStore((state) => state.focus);
  const model = useStore((state) => state.model);
  const [shows, setShows] = useState("value"); // or "unsure"
  const [pass, setPass] = useState(null);
  const { results } = entry.result;
  const sample = Math.min(focus.sample, results.length - 1);
  const names = Object.keys(results[sample].targets);
  const target = names.includes(focus.target) ? focus.target : names.at(-1);
  const own = results[sample].targets[target];
  const modality = byName(model, target);
  const hasEntropy = own.entropy?.length > 0;
  const place = sample - (results[0].merged ? 1 : 0);
  const frames = (entry.frames[target] ?? []).filter((frame) => frame.samples.some((one) => one.sample === place));
  const look = (next) => {
    setPass(null);
    store.set({ focus: next });
  };
  return html`<div class="stage focus" data-test="focus">
      ${pass === null
        ? html`<${ResultPicture} entry=${entry} sample=${sample} target=${target} unsure=${shows === "unsure" && hasEntropy} isLarge />`
        : html`<${Frame} modality=${modality} sample=${frames[pass].samples.find((one) => one.sample === place)} />`}
    </div>
    <div class="toolbar">
      <span class="caption"><b>${title(target)}</b> ${results[sample].title}</span>
      <div class="spring"></div>
      ${hasEntropy && html`<button class="small" aria-pressed=${shows === "unsure"} onClick=${() => setShows(shows === "unsure" ? "value" : "unsure")} title="How unsure the model was of each token">Uncertainty</button>`}
      ${modality?.can_be_given && html`<button class="small" onClick=${() => useResult(entry, sample, target)} title="Edit it, and make others from it">Use as given</button>`}
    </div>
    ${frames.length > 1 && html`<${Passes} count=${frames.length} pass=${pass} setPass=${setPass} />`}
    <${Notice} place="result" />
    ${(results.length > 1 || names.length > 1) && html`<${Tiles} entry=${entry} sample=${sample} target=${target} look=${look} />`}
    <${Recipe} entry=${entry} own=${own} name=${modality?.is_text ? "" : `${target}-${results[sample].seed}.png`} />`;
}

/** All of it small: a row per target, a column per sample. */
function Tiles({ entry, sample, target, look }) {
  const { results } = entry.result;
  const names = Object.keys(results.at(-1).targets);
  const isOne = results.length === 1;
  const tile = (name, number) => results[number].targets[name] && html`<button class="tile" key=${`${name} ${number}`} aria-pressed=${name === target && number === sample}
      aria-label=${`${title(name)}, ${results[number].title}`} onClick=${() => look({ sample: number, target: name })}>
      <${ResultPicture} entry=${entry} sample=${number} target=${name} /><span class="under">${isOne ? title(name) : results[number].title}</span></button>`;
  if (isOne) return html`<div class="strip">${names.map((name) => tile(name, 0))}</div>`;
  return html`<div class="strips">${names.map((name) => html`<div class="strip" role="group" aria-label=${title(name)}>${results.map((_, number) => tile(name, number))}</div>`)}</div>`;
}
