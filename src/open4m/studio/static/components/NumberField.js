// A field of a number. What is being typed is left as it is, since "0." is on the way to 0.5 and "1" to 12.
import { html, useLayoutEffect, useRef } from "../common.js";

/** `put(number)` is told of every change; null is told for an empty field, but not where a number is `required`. Such a
 * number stays from `min` to `max`, where `whole` it has no fraction. The field shows what became of it when it is left. */
export function NumberField({ value, put, required = false, whole = false, ...more }) {
  const own = useRef();
  const said = useRef();
  useLayoutEffect(() => {
    if (value !== said.current) own.current.value = value ?? ""; // it was changed elsewhere
    said.current = value;
  }, [value]);
  const within = (number) => Math.min(more.max ?? Infinity, Math.max(more.min ?? -Infinity, whole ? Math.round(number) : number));
  const say = ({ target }) => {
    if (target.value === "" && (required || target.validity.badInput)) return;
    const number = target.value === "" ? null : Number(target.value);
    said.current = required ? within(number) : number;
    put(said.current);
  };
  return html`<input type="number" ref=${own} ...${more} onInput=${say} onBlur=${({ target }) => (target.value = value ?? "")} />`;
}
