// What makes a result again: here, elsewhere, in a shell, in Python; and its files. `own`: the value that is shown large, `name` that of
// its picture.
import { html } from "../common.js";
import { make } from "../jobs.js";
import { restore } from "../actions.js";
import { CopyButton } from "./CopyButton.js";

export function Recipe({ entry, own, name }) {
  const { id, result } = entry;
  const { recipe } = result;
  const link = `${location.origin}${location.pathname}#r=${recipe.key}`;
  return html`<div class="recipe" role="group" aria-label="Recipe">
    <span class="label">Again</span>
    <span class="buttons">
    <button class="small" onClick=${() => make(recipe.request, entry.title)} title="Make it again: the same, to the token">Replay</button>
    <button class="small" onClick=${() => restore(recipe.request)} title="Bring back what it was made from">Restore</button>
    <${CopyButton} label="Copy link" text=${link} /></span>
    <span class="label">Copy</span>
    <span class="buttons">
    <${CopyButton} label="Python" text=${recipe.python} />
    <${CopyButton} label="Command line" text=${recipe.command || recipe.replay} />
    <${CopyButton} label="Request" text=${JSON.stringify(recipe.request, null, 1)} /></span>
    <span class="label">Save</span>
    <span class="buttons">
    ${name && html`<a class="button small" href=${`${own.picture}?size=512`} download=${name} title="The picture above">PNG</a>`}
    <a class="button small" href=${own.file} download title="The value above, as a file">Value</a>
    <a class="button small" href=${`/api/jobs/${id}/archive.zip`} download title="All values, pictures and the record">All as ZIP</a>
    <a class="button small" href=${`/api/jobs/${id}/record.json`} download title="For open4m replay">Record</a>
    <a class="button small" href=${`/api/jobs/${id}/overview.png`} download=${`${id}.png`} title="All of it as one picture">Overview</a></span>
  </div>`;
}
