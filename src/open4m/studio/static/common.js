// What most components import.
export { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
export { begin, commit, notice, redo, store, undo, useKept, useStore } from "./state.js";
