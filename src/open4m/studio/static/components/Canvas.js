// The canvas as a control: a CanvasView that fills its place, with a keyboard.
import { html, useEffect, useLayoutEffect, useRef, useState } from "../common.js";
import { CanvasView } from "../canvas/view.js";
import { imageOf } from "../png.js";

/** `url`: the picture; `view`: what CanvasView draws; `on`: what it tells; `keys(event)`: whether a key was used. */
export function Canvas({ url, view, on, keys, label, empty }) {
  const box = useRef();
  const held = useRef({});
  const [image, setImage] = useState(null);
  const [side, setSide] = useState(0);
  const [hasFocus, setFocus] = useState(false);
  const [theme, setTheme] = useState(0);
  held.current.on = on;

  useLayoutEffect(() => {
    const proxy = new Proxy({}, { get: (_, name) => (...values) => held.current.on[name]?.(...values) });
    held.current.view = new CanvasView(box.current, proxy);
    const fit = () => setSide(Math.max(120, Math.floor(box.current.parentElement.clientWidth)));
    const watcher = new ResizeObserver(fit);
    watcher.observe(box.current.parentElement);
    fit();
    const recolor = () => setTheme((count) => count + 1);
    window.addEventListener("open4m-theme", recolor);
    return () => {
      watcher.disconnect();
      window.removeEventListener("open4m-theme", recolor);
      held.current.view.destroy();
    };
  }, []);
  useEffect(() => {
    let isCurrent = true;
    if (url) imageOf(url).then((found) => isCurrent && setImage(found), () => isCurrent && setImage(null));
    else setImage(null);
    return () => (isCurrent = false);
  }, [url]);
  useEffect(() => {
    if (side) held.current.view.update({ ...view, image, side, cursor: hasFocus ? view.cursor : null });
  }, [view, image, side, hasFocus, theme]);

  return html`<div class="stage"><div class="fit">
    <div class="canvas" ref=${box} tabindex="0" role="application" aria-label=${label} style=${{ width: `${side}px`, height: `${side}px` }}
      onFocus=${(event) => setFocus(event.target.matches(":focus-visible"))} onBlur=${() => setFocus(false)}
      onKeyDown=${(event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        setFocus(true);
        if (keys(event)) event.preventDefault();
      }}></div></div>
    ${empty && html`<p class="empty over">${empty}</p>`}
  </div>`;
}
