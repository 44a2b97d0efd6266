// A generated value as a picture or words, with how unsure the model was on top.
import { html, useState } from "../common.js";
import { heat } from "../colors.js";
import { Heat, highest } from "./Heat.js";

export function ResultPicture({ entry, sample, target, unsure = false, isLarge = false }) {
  const own = entry.result.results[sample].targets[target];
  const [isLost, setLost] = useState(false);
  const text = own.value?.text;
  if (text !== undefined) {
    const high = highest([own.entropy]);
    const words = unsure ? own.words.map((word, i) => html`<span style=${{ background: `rgb(${heat((own.entropy[i] ?? 0) / high).join(",")} / 45%)` }}>${word} </span>`) : text;
    return html`<span class="words">${words}</span>`;
  }
  if (isLost) return html`<span class="words faint">${isLarge ? "The server no longer keeps this picture. Press Replay: it is made again, the same." : "gone"}</span>`;
  const size = isLarge ? 512 : 128;
  return html`<img src=${`${own.picture}?size=${size}`} alt=${`${target}, ${entry.result.results[sample].title}`} onError=${() => setLost(true)} data-test=${isLarge ? "result" : "tile"} />
    ${unsure && (own.grid.length === 2
      ? html`<${Heat} numbers=${own.entropy} high=${highest(entry.result.results.map((one) => one.targets[target]?.entropy ?? []))} />`
      : html`<span class="words unsure">${own.words.map((word, i) => html`<span style=${{ background: `rgb(${heat((own.entropy[i] ?? 0) / highest([own.entropy])).join(",")} / 60%)` }}>${word} </span>`)}</span>`)}`;
}
