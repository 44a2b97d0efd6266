// A generated value as a picture or words, with how unsure the model was on top.
import { html, useState } from "../common.js";
import { Heat, HeatOfWords, highest } from "./Heat.js";

export function ResultPicture({ entry, sample, target, unsure = false, isLarge = false }) {
  const own = entry.result.results[sample].targets[target];
  const [isLost, setLost] = useState(false);
  const high = highest(entry.result.results.map((one) => one.targets[target]?.entropy ?? []));
  const words = unsure && own.grid.length !== 2 && html`<${HeatOfWords} words=${own.words} numbers=${own.entropy} high=${high} />`;
  const text = own.value?.text;
  if (text !== undefined) return html`<span class="words">${words || text}</span>`;
  if (isLost) return html`<span class="words faint">${isLarge ? "The server no longer keeps this picture. Press Replay: it is made again, the same." : "gone"}</span>`;
  const size = isLarge ? 512 : 128;
  return html`<img src=${`${own.picture}?size=${size}`} alt=${`${target}, ${entry.result.results[sample].title}`} onError=${() => setLost(true)} data-test=${isLarge ? "result" : "tile"} />
    ${unsure && (words ? html`<span class="words unsure">${words}</span>` : html`<${Heat} numbers=${own.entropy} high=${high} />`)}`;
}
