// What makes a result again: here, elsewhere, in a shell, in Python.
import { html } from "../common.js";
import { make } from "../jobs.js";
import { openRequest } from "../actions.js";
import { CopyButton } from "./CopyButton.js";

export function Recipe({ entry }) {
  const { id, result } = entry;
  const { recipe } = result;
  const link = `${location.origin}${location.pathname}#r=${recipe.key}`;
  return html`<div class="recipe" role="group" aria-label="Recipe">
    <button class="small" onClick=${() => make(recipe.request, entry.title)} title="Make it again: the same, to the token">Replay</button>
    <button class="small" onClick=${() => openRequest(recipe.request)} title="Bring back what it was made from">Restore</button>
    <${CopyButton} label="Copy link" text=${link} />
    <${CopyButton} label="Copy Python" text=${recipe.python} />
    <${CopyButton} label="Copy command" text=${recipe.command || recipe.replay} />
    <a class="button small" href=${`/api/jobs/${id}/archive.zip`} download>ZIP</a>
    <a class="button small" href=${`/api/jobs/${id}/record.json`} download title="For open4m replay">Record</a>
    <a class="button small" href=${`/api/jobs/${id}/overview.png`} download=${`${id}.png`} title="All of it as one picture">Overview</a>
  </div>`;
}
