// The name, the model, what begins something new, undo, and the theme.
import { html, redo, undo, useRef, useState, useStore } from "../common.js";
import { openFile, rollScene } from "../actions.js";
import { Notice } from "./Notice.js";
import { Help } from "./Help.js";

function themeNow() {
  return document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function ThemeButton() {
  const [theme, setTheme] = useState(themeNow());
  const turn = () => {
    const next = theme === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("open4m-theme", next);
    } catch {
      // it is forgotten when the page is closed
    }
    setTheme(next);
    window.dispatchEvent(new Event("open4m-theme"));
  };
  return html`<button class="icon" onClick=${turn} aria-label="Switch to the ${theme === "dark" ? "light" : "dark"} theme" title="Light or dark">${theme === "dark" ? "☀" : "☾"}</button>`;
}

export function TopBar() {
  const model = useStore((state) => state.model);
  const busy = useStore((state) => state.busy);
  const canUndo = useStore((state) => state.past.length > 0);
  const canRedo = useStore((state) => state.future.length > 0);
  const file = useRef();
  const [asks, setAsks] = useState(false);
  return html`<header class="topbar">
    <h1><img src="./icon.svg" alt="" width="22" height="22" /> open4m studio</h1>
    <span class="model" title="The model that is served">${model?.name}</span>
    <div class="spring"></div>
    ${model?.knows_scenes && html`<button onClick=${() => rollScene()} disabled=${busy === "scene"}>New scene</button>`}
    ${model?.roles.photo && html`<button onClick=${() => file.current.click()} disabled=${busy === "file"}>Open picture …</button>
      <input ref=${file} type="file" hidden data-test="open-picture" aria-label="Open picture" accept="image/*,.npy" onChange=${(event) => {
        openFile(event.target.files[0]);
        event.target.value = "";
      }} />`}
    <span class="group">
      <button class="icon" onClick=${undo} disabled=${!canUndo} aria-label="Undo" title="Undo (Ctrl+Z)">↶</button>
      <button class="icon" onClick=${redo} disabled=${!canRedo} aria-label="Redo" title="Redo (Ctrl+Shift+Z)">↷</button>
    </span>
    <${ThemeButton} />
    <button class="icon" onClick=${() => setAsks(true)} aria-label="Keys and help" title="Keys and help">?</button>
    ${asks && html`<${Help} close=${() => setAsks(false)} />`}
    <div class="under"><${Notice} place="scene" /><${Notice} place="file" /></div>
  </header>`;
}
