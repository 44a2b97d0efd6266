// Maps of classes: segments that are recolored as a whole, and classes that are painted.
import { grayOf, grayPng } from "./png.js";

/** The pixels of the segment at one: all that touch it and have its class. */
export function segmentAt({ gray, width, height }, start) {
  const id = gray[start];
  const found = new Uint8Array(gray.length);
  const open = [start];
  found[start] = 1;
  while (open.length) {
    const at = open.pop();
    const x = at % width;
    const near = [x > 0 ? at - 1 : -1, x < width - 1 ? at + 1 : -1, at - width, at + width];
    for (const other of near) {
      if (other < 0 || other >= width * height || found[other] || gray[other] !== id) continue;
      found[other] = 1;
      open.push(other);
    }
  }
  return found;
}

/** The ids with another class where `inside(pixel)`. */
export function recolored(ids, inside, id) {
  const gray = ids.gray.slice();
  for (let i = 0; i < gray.length; i += 1) if (inside(i)) gray[i] = id;
  return { ...ids, gray };
}

/** The ids of a value, null of one that is no picture of gray levels. */
export async function idsOf(value) {
  return value?.base64?.startsWith("iVBOR") ? grayOf(value.base64) : null;
}

/** What /api/value would answer for ids: drawn here, so that painting shows at once. */
export async function drawnOf(ids, classes) {
  const colors = new Map(classes.map(({ id, color }) => [id, color]));
  const canvas = Object.assign(document.createElement("canvas"), { width: ids.width, height: ids.height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(ids.width, ids.height);
  ids.gray.forEach((id, i) => image.data.set([...(colors.get(id) ?? [128, 128, 128]), 255], 4 * i));
  context.putImageData(image, 0, 0);
  const base64 = await grayPng(ids.gray, ids.width, ids.height);
  return { value: { base64 }, picture: canvas.toDataURL(), summary: "", height: ids.height, width: ids.width };
}
