// Which keys do what.
import { html, useEffect, useRef } from "../common.js";

const KEYS = [
  ["Ctrl + Enter", "make"],
  ["Escape", "cancel what is being made"],
  ["Ctrl + Z, Ctrl + Shift + Z", "undo, redo"],
  ["Tab", "to the next control; the canvas is one"],
  ["Arrow keys on a map", "move the cursor cell"],
  ["Space on a map", "paint the cell, or take it back"],
  ["Arrow keys on boxes", "move the box; with Shift, resize it"],
  ["Page Up, Page Down on boxes", "the box before, the next box"],
  ["Delete on boxes", "delete the box"],
];

export function Help({ close }) {
  const dialog = useRef();
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} onClose=${close} aria-label="Keys and help">
    <h2>Keys</h2>
    <dl class="keys">${KEYS.map(([key, does]) => html`<dt><kbd>${key}</kbd></dt><dd>${does}</dd>`)}</dl>
    <p class="faint">Drop a picture anywhere, or a file on the card of its modality.</p>
    <button class="primary" onClick=${() => dialog.current.close()}>Close</button>
  </dialog>`;
}
