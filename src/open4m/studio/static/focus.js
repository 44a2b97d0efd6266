// Where the keyboard goes on when the button that it was at is gone: at the one that makes.
import { store } from "./state.js";
import { isBusy } from "./jobs.js";

/** Watch from now on. Whoever points with a mouse needs no focus. */
export function keepFocus() {
  let last = null;
  document.addEventListener("focusin", (event) => (last = event.target));
  document.addEventListener("pointerdown", () => (last = null), true);
  const look = () => {
    const isGone = last && (!last.isConnected || last.disabled);
    if (!isGone || document.activeElement !== document.body || isBusy(store.get().job)) return;
    document.querySelector(".makebar .primary")?.focus({ preventScroll: true });
  };
  store.subscribe(() => requestAnimationFrame(look));
}
