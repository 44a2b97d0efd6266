// What makes a result again: here, elsewhere, in a shell, in Python; and its files. `own`: the value that is shown large, `name` that of
// its picture.
import { html } from "../common.js";
import { isKept, replay, restore } from "../actions.js";
import { CopyButton } from "./CopyButton.js";

export function Recipe({ entry, own, name }) {
  const { id, result } = entry;
  const { recipe } = result;
  const link = `${location.origin}${location.pathname}#r=${recipe.key}`;
  return html`<div class="recipe" role="group" aria-label="Recipe">
    <span class="label">Again</span>
    <span class="buttons">
    <button class="small" onClick=${() => replay(recipe.request, entry.title)} title="Make it again: the same, to the token">Replay</button>
    <button class="small" onClick=${() => restore(recipe.request)} title="Bring back what it was made from">Restore</button>
    <${CopyButton} label="Copy link" text=${link} /></span>
    <span class="label">Copy</span>
    <span class="buttons">
    <${CopyButton} label="Python" text=${recipe.python} title=${recipe.python.includes("record.json") ? inFolder("Record") : "A program"} />
    <${CopyButton} label="Command line" text=${recipe.command || recipe.replay} title=${recipe.command ? inFolder("All as ZIP") : inFolder("Record")} />
    <${CopyButton} label="Request" text=${JSON.stringify(recipe.request, null, 1)} /></span>
    <span class="label">Save</span>
    <span class="buttons">
    ${name && html`<${Save} id=${id} href=${`${own.picture}?size=512`} name=${name} title="The picture above">PNG<//>`}
    <${Save} id=${id} href=${own.file} title="The value above, as a file">Value<//>
    <${Save} id=${id} href=${`/api/jobs/${id}/archive.zip`} title="All values, pictures and the record">All as ZIP<//>
    <${Save} id=${id} href=${`/api/jobs/${id}/record.json`} title="All tokens, for open4m replay">Record<//>
    <${Save} id=${id} href=${`/api/jobs/${id}/overview.png`} name=${`${id}.png`} title="All of it as one picture">Overview<//></span>
  </div>`;
}

const inFolder = (what) => `Reads files of its folder: save ${what} there`;

/** A link to a file of a result. Browsers save what the server has forgotten as a file that failed, and do not say why. */
function Save({ id, href, name = "", title, children }) {
  const save = async (event) => {
    if (!event.isTrusted) return; // the click below
    const link = event.currentTarget;
    event.preventDefault();
    if (await isKept(id)) link.click();
  };
  return html`<a class="button small" href=${href} download=${name} title=${title} onClick=${save}>${children}</a>`;
}
