"""Whether a model follows boxes where the rest of an image is kept, as the studio and ``open4m edit`` ask it to.

Command: ``python -m benchmarks.moved_boxes MODEL --samples 64``; prints JSON with 95% intervals.

In each test scene one box, the largest that has room, is moved to the other side. Given are the boxes, the caption and
the image, but for the cells below the old and the new box, which are made anew. The model's reader of objects says
whether an object of the same shape and color is at the new place (``there``) and none like it is at the old one
(``gone``). ``put_back``: the same without moving the box, so that what is asked for is what the caption says; ``true``:
what the reader finds in the true images. ``any``: whether any object is at the new place. ``--to semseg rgb``: what is
where is made first, all of it; ``--guidance``: the weight of the boxes and that of the caption.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from open4m import modalities
from open4m.datasets.scenes import Scenes
from open4m.evaluate.intervals import measure
from open4m.evaluate.suites.scene_images import READER
from open4m.generate.masks import Cells, Masked
from open4m.generate.pipeline import FourM
from open4m.hub import locate
from open4m.labellers.reader import FoundObject, ObjectReader
from open4m.modalities.boxes import overlap
from open4m.progress import track

MARGIN = 0.02
"""Between a moved box and the side of the image."""

SAME = 0.4
"""The IoU from which an object is at a place."""

ASKED = ("shape", "color")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--to", nargs="+", help="targets in order (default: the image alone)")
    parser.add_argument("--guidance", type=float, help="weight of the boxes and of the caption")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = FourM.from_pretrained(options.model)
    reader = ObjectReader.load(locate.resolve(options.model) / READER)
    scenes = Scenes("test", resolution=128)
    hits: dict[str, list[bool]] = {"true": [], "put_back": [], "there": [], "any": [], "gone": []}
    for index in track(range(options.samples), "scenes"):
        scene = scenes[index]
        (seen,) = reader.read([scene["rgb"]])
        chosen = movable(scene["boxes"].corners, seen)
        if chosen is None:
            continue
        number, place, asked = chosen
        old = scene["boxes"].corners[number]
        corners = scene["boxes"].corners.copy()
        corners[number] = place
        moved, kept = replace(scene["boxes"], corners=corners), scene["boxes"]
        hits["true"].append(is_at(seen, old, asked))
        for name, boxes, places in (("there", moved, (old, place)), ("put_back", kept, (old,))):
            image = made(model, scene, boxes, places, index, options)
            (found,) = reader.read([image])
            hits[name].append(is_at(found, boxes.corners[number], asked))
            if name == "there":
                hits["any"].append(is_at(found, place, {}))
                hits["gone"].append(not is_at(found, old, asked))
    count = len(hits["true"])
    figures = measure(lambda rows: {name: float(np.mean(np.array(h)[list(rows)])) for name, h in hits.items()}, count)
    print(json.dumps({**vars(options), "moved": count, **figures.values, "intervals": figures.intervals}))


def movable(corners: np.ndarray, seen: Sequence[FoundObject]) -> tuple[int, np.ndarray, dict[str, str]] | None:
    """The largest box that the reader reads right where it is and that has room at the other side: its number, the new
    corners, and its attributes. None if there is none."""
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    for number in np.argsort(-areas):
        x0, y0, x1, y1 = old = corners[number]
        left = 1 - MARGIN - (x1 - x0) if x0 + x1 < 1 else MARGIN
        place = np.array([left, y0, left + x1 - x0, y1], dtype=np.float32)
        others = np.delete(corners, number, axis=0)
        here = [each for each in seen if overlap(np.array(each.corners), old) >= SAME]
        if here and not any(overlap(each, box) for each in (place, old) for box in others):
            return int(number), place, {name: here[0].attributes[name] for name in ASKED}
    return None


def is_at(found: Sequence[FoundObject], place: np.ndarray, asked: dict[str, str]) -> bool:
    """Whether an object with these attributes is there."""
    return any(
        overlap(np.array(each.corners), place) >= SAME
        and all(each.attributes[name] == word for name, word in asked.items())
        for each in found
    )


def made(
    model: FourM, scene: dict, boxes, places: Sequence[np.ndarray], seed: int, options: argparse.Namespace
) -> np.ndarray:
    """The image with the cells below these places made anew."""
    photo = modalities.of_role("photo").name
    rows, columns = model.grids[photo].config.grid
    hidden = np.zeros((rows, columns), dtype=bool)
    for x0, y0, x1, y1 in places:
        hidden[int(y0 * rows) : int(np.ceil(y1 * rows)), int(x0 * columns) : int(np.ceil(x1 * columns))] = True
    given = {photo: Masked(scene[photo], Cells(tuple(np.flatnonzero(hidden).tolist()))), "boxes": boxes}
    guidance = None if options.guidance is None else dict.fromkeys(("boxes", "caption"), options.guidance)
    given["caption"] = scene["caption"]
    return model.generate(given, options.to or [photo], seed=seed, guidance=guidance)[photo]


if __name__ == "__main__":
    main()
