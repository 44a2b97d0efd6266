"""What lies under a few points of a picture: the masks of objects there, as Segment Anything finds them (4M-21).

The tokenizer of ``sam_mask`` makes the tokens of a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from open4m.modalities.codecs import as_array
from open4m.modalities.crops import Crop, resample, seen
from open4m.modalities.symbols import (
    Symbol,
    SymbolSequence,
    binned,
    code_symbols,
    codes_of,
    corners_of,
    finite,
    numbers_of,
    split,
)
from open4m.pictures import OBJECT_COLORS, drawn_corners, noted, outline

if TYPE_CHECKING:
    from open4m.tokenizers.tokenizer import Tokenizer

SIDE = 224
"""Places are pixels of a picture of this side."""

CODES = 16
"""Tokens of a mask."""

GRID = 64
"""The side in pixels of a mask in its box."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object. ``box``: fractions x_min, y_min, x_max, y_max of the picture. The mask in the box is ``mask``, 64 ×
    64 bits, row by row, or the ``tokens`` of it, or both."""

    box: tuple[float, float, float, float]
    mask: bytes | None = None
    tokens: tuple[int, ...] | None = None

    @property
    def pixels(self) -> np.ndarray | None:
        """The mask, bool (64, 64), stretched from the box; None if it is not known."""
        if self.mask is None:
            return None
        return np.unpackbits(np.frombuffer(self.mask, np.uint8)).reshape(GRID, GRID).astype(bool)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place, fractions (x, y) of the picture, and the objects under it; none, or several where one is a part of
    another."""

    place: tuple[float, float]
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class Instances:
    """The objects under some points of one picture. ``malformed``: how many more points and objects the tokens named,
    but not in their form. It says how the value was made and is not compared."""

    points: tuple[Point, ...] = ()
    malformed: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return sum(len(point.instances) for point in self.points)

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {"point": list(point.place), "instances": [_as_row(instance) for instance in point.instances]}
            for point in self.points
        ]

    def mapped(self, change: Any) -> Instances:
        """With each object changed, or left out where that gives None."""
        points = []
        for point in self.points:
            changed = [change(instance) for instance in point.instances]
            points.append(replace(point, instances=tuple(instance for instance in changed if instance is not None)))
        return replace(self, points=tuple(points))


@dataclass(frozen=True, kw_only=True)
class SAMInstances(SymbolSequence):
    """A value is :class:`Instances`. Users give a list ``[{"point": [x, y], "instances": [{"box", "mask" or "tokens"},
    ...]}, ...]``, a mask being bool (64, 64) in its box or the hexadecimal digits of its bits; or the masks of whole
    pictures, a bool array (n, H, W), of which each becomes a point and the object under it.

    Its symbols are, for each point, ``point``, y and x, then ``none``, or for each object ``polygon``, the box and 16
    codes. Places are pixels of 224.
    """

    kind = Instances
    expected = 'a list [{"point": [x, y], "instances": [...]}, ...] or masks, a bool array (n, H, W)'
    better = {"mask_iou": "higher"}
    has_positions = True

    def made(self, value: Any) -> Instances:
        if getattr(value, "dtype", None) is not None and getattr(value, "ndim", 0) == 3:
            return Instances(
                tuple(point for mask in as_array(value, self.name) if (point := _of_picture(mask)) is not None)
            )
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
            raise TypeError(f"got {type(value).__name__}")
        return Instances(tuple(_point(row) for row in value))

    def pieces(self, value: Instances) -> Iterator[list[Symbol]]:
        for point in value.points:
            x, y = binned(point.place, 0, 1, SIDE)
            said: list[Symbol] = ["point", (0, y), (1, x)]
            if not point.instances:
                yield [*said, "none"]
            for instance in point.instances:
                if instance.tokens is None:
                    raise self.error(f"a mask without tokens: a tokenizer of {self.part} makes these")
                yield [*said, "polygon", *enumerate(_pixels(instance.box)), *code_symbols(instance.tokens)]
                said = []

    def parsed(self, symbols: list[Symbol]) -> Instances:
        before, groups = split(symbols, "point")
        points, malformed = [], int(bool(before))
        for group in groups:
            place, (between, polygons) = numbers_of(group[:2], 0, 1), split(group[2:], "polygon")
            found = [instance for instance in map(_parsed, polygons) if instance is not None]
            malformed += len(polygons) - len(found)
            says_none = between == ["none"] and not polygons
            if place is None or max(place) > SIDE or not (says_none or found):
                malformed += 1 + (len(found) if place is None or max(place) > SIDE else 0)
                continue
            malformed += bool(between) and not says_none
            y, x = place
            points.append(Point(place=(x / SIDE, y / SIDE), instances=tuple(found)))
        return Instances(tuple(points), malformed=malformed)

    def tokenized(self, value: Instances, tokenizer: Tokenizer) -> Instances:
        """With the tokens of masks of which only the pixels are known."""
        missing = [i for point in value.points for i in point.instances if i.tokens is None and i.mask is not None]
        made = iter(tokenizer.encode([instance.pixels for instance in missing]))

        def filled(instance: Instance) -> Instance:
            if instance.tokens is None and instance.mask is not None:
                return replace(instance, tokens=tuple(next(made).ravel().tolist()))
            return instance

        return value.mapped(filled)

    def detokenized(self, value: Instances, tokenizer: Tokenizer) -> Instances:
        """With the masks that the tokens stand for. Objects whose tokens are none of the tokenizer's are left out and
        counted."""
        most, grid = tokenizer.config.codebook_size, tokenizer.config.grid
        known = value.mapped(
            lambda i: i if i.mask is not None or (len(i.tokens) == grid[0] * grid[1] and max(i.tokens) < most) else None
        )
        missing = [i for point in known.points for i in point.instances if i.mask is None]
        made = iter(tokenizer.decode([np.array(i.tokens).reshape(grid) for i in missing]))
        filled = known.mapped(lambda i: replace(i, mask=_packed(next(made))) if i.mask is None else i)
        return replace(filled, malformed=value.malformed + len(value) - len(known))

    def crop(self, value: Instances, crop: Crop) -> Instances:
        """The points in the region, with the objects of whose box a tenth is seen. A mask that is cut with its box has
        no tokens any more; one that is known by its tokens alone cannot be cut, and is left out."""
        points = []
        for point in value.points:
            x, y = (point.place[0] - crop.left) / crop.width, (point.place[1] - crop.top) / crop.height
            if min(x, y) >= -1e-6 and max(x, y) <= 1 + 1e-6:
                place = min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)
                points.append(replace(point, place=place))
        return replace(value, points=tuple(points)).mapped(lambda instance: _cut(instance, crop))

    def can_flip(self, value: Instances) -> bool:
        return all(instance.mask is not None for point in value.points for instance in point.instances)

    def flip(self, value: Instances) -> Instances:
        """Tokens do not tell how a mask looks in a mirror: with any that is known by these alone, nothing changes."""
        if not self.can_flip(value):
            return value
        turned = value.mapped(_mirrored)
        points = tuple(replace(point, place=(1 - point.place[0], point.place[1])) for point in turned.points)
        return replace(turned, points=points)

    def render(self, value: Instances, size: int = 256) -> Image.Image:
        return self.drawn_over(value, Image.new("RGB", (size, size), (245, 245, 247)))

    def drawn_over(self, value: Instances, image: Image.Image) -> Image.Image:
        """The outlines of masks and the points; of masks that are known by their tokens alone, the boxes."""
        image = image.copy()
        draw, width = ImageDraw.Draw(image), max(1, image.width // 100)
        each = [instance for point in value.points for instance in point.instances]
        for i, instance in enumerate(each):
            color, corners = OBJECT_COLORS[i % len(OBJECT_COLORS)], drawn_corners(instance.box, image.size)
            if instance.mask is None:
                draw.rectangle(corners, outline=color, width=width)
            else:
                image.paste(color, (0, 0), Image.fromarray(outline(_placed(instance, image.size), width)))
        for point in value.points:
            x, y = point.place[0] * image.width, point.place[1] * image.height
            radius = 2 * width
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white", outline="black")
        if not value.points:
            noted(image, "no points")
        return image

    def metrics(self, predictions: Sequence[Instances], labels: Sequence[Instances]) -> dict[str, float]:
        """Intersection over union of each object with the most similar predicted one: the mean over all. Masks that are
        known by their tokens alone are taken to fill their boxes."""
        best = []
        for prediction, label in zip(predictions, labels, strict=True):
            found = [_placed(i, (SIDE, SIDE)) for point in prediction.points for i in point.instances]
            for instance in (i for point in label.points for i in point.instances):
                true = _placed(instance, (SIDE, SIDE))
                ratios = [(mask & true).sum() / max(1, (mask | true).sum()) for mask in found]
                best.append(max([0.0, *ratios]))
        return {"mask_iou": float(np.mean(best)) if best else 1.0}


def _as_row(instance: Instance) -> dict[str, Any]:
    row: dict[str, Any] = {"box": list(instance.box)}
    if instance.mask is not None:
        row["mask"] = instance.mask.hex()
    if instance.tokens is not None:
        row["tokens"] = list(instance.tokens)
    return row


def _point(row: Mapping[str, Any]) -> Point:
    if not isinstance(row, Mapping) or set(row) - {"point", "instances"}:
        raise TypeError(f"a point has point and instances; got {row!r:.80}")
    x, y = finite(row["point"], 2)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"a point is x and y in fractions of the picture, got {(x, y)}")
    return Point(place=(x, y), instances=tuple(_instance(each) for each in row.get("instances", ())))


def _instance(row: Mapping[str, Any]) -> Instance:
    if not isinstance(row, Mapping) or set(row) - {"box", "mask", "tokens"}:
        raise TypeError(f"an object has a box and a mask or tokens; got {row!r:.80}")
    mask, tokens = row.get("mask"), row.get("tokens")
    if mask is None and tokens is None:
        raise ValueError("an object without a mask and tokens")
    if isinstance(mask, str):
        mask = np.unpackbits(np.frombuffer(bytes.fromhex(mask), np.uint8)).astype(bool)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.size != GRID**2 or mask.dtype != bool:
            raise ValueError(f"mask: expected bool ({GRID}, {GRID}), got {mask.dtype} {mask.shape}")
    if tokens is not None:
        tokens = np.asarray(tokens)
        if tokens.size != CODES or tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() > 1023:
            raise ValueError(
                f"tokens: expected {CODES} whole numbers from 0 to 1023, got {tokens.dtype} {tokens.shape}"
                + (f" from {tokens.min()} to {tokens.max()}" if tokens.dtype.kind in "iu" and tokens.size else "")
            )
        tokens = tuple(tokens.ravel().tolist())
    return Instance(box=corners_of(row["box"]), mask=None if mask is None else _packed(mask), tokens=tokens)


def _of_picture(mask: np.ndarray) -> Point | None:
    """The object of a mask (H, W) of a whole picture, under its pixel that is nearest to its center; None if it is
    empty."""
    if mask.dtype != bool:
        raise TypeError(f"masks are bool, got {mask.dtype}")
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    (top, bottom), (left, right) = ((each.min(), each.max() + 1) for each in (rows, columns))
    height, width = mask.shape
    nearest = int(((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin())
    place = (float(columns[nearest] + 0.5) / width, float(rows[nearest] + 0.5) / height)
    cut = resample(mask[top:bottom, left:right], Crop(size=(GRID, GRID)), "nearest")
    box = tuple(map(float, (left / width, top / height, right / width, bottom / height)))
    return Point(place=place, instances=(Instance(box=box, mask=_packed(cut)),))


def _packed(mask: np.ndarray) -> bytes:
    return np.packbits(np.asarray(mask, dtype=bool).ravel()).tobytes()


def _pixels(box: Sequence[float]) -> list[int]:
    """The corners of a box in pixels; each side is at least one pixel long, as theirs are."""
    x0, y0, x1, y1 = binned(box, 0, 1, SIDE)
    x0, y0 = min(x0, SIDE - 1), min(y0, SIDE - 1)
    return [x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)]


def _parsed(symbols: list[Symbol]) -> Instance | None:
    """The object of the symbols after ``polygon``; None if they are none."""
    corners, codes = numbers_of(symbols[:4], 0, 1, 2, 3), codes_of(symbols[4:])
    if corners is None or codes is None or len(codes) != CODES or max(corners) > SIDE:
        return None
    x0, y0, x1, y1 = corners
    if x0 >= x1 or y0 >= y1:
        return None
    return Instance(box=tuple(corner / SIDE for corner in corners), tokens=codes)


def _cut(instance: Instance, crop: Crop) -> Instance | None:
    """The object in a region; None if too little of it is seen, or it cannot be cut."""
    moved, clipped, is_seen = (part[0] for part in seen(np.array([instance.box]), crop))
    box = tuple(clipped.tolist())
    if not is_seen:
        return None
    if np.allclose(moved, clipped, atol=1e-6):
        return replace(instance, box=box)
    if instance.mask is None:
        return None
    lengths = np.maximum(moved[2:] - moved[:2], 1e-9)
    (left, top), (width, height) = (clipped[:2] - moved[:2]) / lengths, (clipped[2:] - clipped[:2]) / lengths
    mask = resample(instance.pixels, Crop(left, top, width, height, (GRID, GRID)), "nearest")
    return Instance(box=box, mask=_packed(mask)) if mask.any() else None


def _mirrored(instance: Instance) -> Instance:
    x0, y0, x1, y1 = instance.box
    return Instance(box=(1 - x1, y0, 1 - x0, y1), mask=_packed(instance.pixels[:, ::-1]))


def _placed(instance: Instance, size: tuple[int, int]) -> np.ndarray:
    """The mask in a picture of (width, height), bool (height, width)."""
    placed = np.zeros(size[::-1], dtype=bool)
    x0, y0, x1, y1 = (round(corner * side) for corner, side in zip(instance.box, size * 2, strict=True))
    x0, y0 = min(x0, size[0] - 1), min(y0, size[1] - 1)
    shape = max(y1 - y0, 1), max(x1 - x0, 1)
    mask = np.ones((1, 1), dtype=bool) if instance.mask is None else instance.pixels
    placed[y0 : y0 + shape[0], x0 : x0 + shape[1]] = resample(mask, Crop(size=shape), "nearest")
    return placed


MODALITY = SAMInstances(
    name="sam_instance",
    description="masks of the objects under some points",
    extension="sam_instance.json",
    words=("none", "point", "polygon"),
    part="sam_mask",
)
