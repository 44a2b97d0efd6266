"""Semantic segmentation maps."""

from __future__ import annotations

import colorsys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import as_array, channels_last, decode_image, encode_png, loaded, upright
from open4m.modalities.families import Palette, TokenGrid
from open4m.pictures import hatched, picture, swatches

LARGEST_ID = 65535
"""The largest class id, which 16 bits of a PNG hold."""

VOID = 255
"""The id of pixels without a class, in maps whose ids are below 256; of larger ones it is :data:`LARGEST_ID`."""


@dataclass(frozen=True)
class Colors:
    """``colors``: uint8 (classes, 3). ``occurring``: the names and ids of the classes in the maps that are shown."""

    colors: np.ndarray
    occurring: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class Semseg(TokenGrid):
    """A value is an integer array (H, W) of class ids, up to 65535; the tokenizer's configuration names the classes.

    The id 255 marks pixels without a class (:meth:`valid`), unless the map has larger ids or the tokenizer a class of
    that number: then 65535 does.

    ======  =================================================================================================
    form
    ======  =================================================================================================
    ids     the modality's own form: integers (H, W) from 0, or PIL images of mode L, P, I or I;16. The ids of a P
            image are its indices; its own palette is ignored.
    colors  a picture in the colors of the tokenizer's palette: uint8 (H, W, 3) or (H, W, 4), or PIL images of
            mode RGB, RGBA, L or P, whose visible colors count; an alpha channel is ignored. Given back as
            uint8 (H, W, 3).
    ======  =================================================================================================

    A color that is not in the palette is refused: pictures stored as JPEG or resized smoothly have such colors.
    Pictures are turned as their EXIF data ask.
    """

    forms = ("ids", "colors")
    better = {"miou": "higher", "pixel_accuracy": "higher"}

    def read(self, data: bytes) -> np.ndarray:
        image = decode_image(data, self.name)
        if image.mode not in ("L", "P", "I", "I;16"):
            raise self.error(f"expected a one-channel image of class ids, got mode {image.mode}")
        return self.convert(image)

    def write(self, value: np.ndarray) -> bytes:
        value = self.convert(value)
        return encode_png(value.astype(np.uint8 if value.max(initial=0) < 256 else np.uint16))

    def convert(self, value: Any) -> np.ndarray:
        image = isinstance(value, Image.Image)
        array = channels_last(as_array(upright(loaded(value, self.name)) if image else value, self.name), 1)
        if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iu" or array.min() < 0:
            hint = "; for a picture in the classes' colors say form='colors'" if array.ndim == 3 else ""
            raise self.error(
                f"expected class ids, an integer array (H, W) from 0, got {array.dtype} {array.shape}{hint}"
            )
        if array.max() > LARGEST_ID:
            raise self.error(f"expected class ids from 0 to {LARGEST_ID}, got {array.max()}")
        return array.astype(np.uint8 if array.max() < 256 else np.int32)

    def from_form(self, value: Any, form: str, palette: Palette = ()) -> np.ndarray:
        if form != "colors":
            return super().from_form(value, form, palette)
        colors, ids = np.unique(_packed(self._colors(palette)), return_index=True)
        seen, index, count = np.unique(_packed(self._picture(value)), return_inverse=True, return_counts=True)
        place = np.searchsorted(colors, seen).clip(max=len(colors) - 1)
        unknown = np.flatnonzero(colors[place] != seen)
        if len(unknown):
            most = unknown[count[unknown].argmax()]
            color = tuple(int(seen[most]) >> shift & 255 for shift in (16, 8, 0))
            others = f"; {len(unknown) - 1} more such colors on {count[unknown].sum() - count[most]} pixels"
            raise self.error(
                f"{count[most]} pixels have the color {color}, which is not in the palette of "
                f"{len(colors)} classes{others if len(unknown) > 1 else ''}"
            )
        return self.convert(ids[place][index])

    def to_form(self, value: np.ndarray, form: str, palette: Palette = ()) -> np.ndarray:
        if form != "colors":
            return super().to_form(value, form, palette)
        colors = self._colors(palette)
        if value.max() >= len(colors):
            raise self.error(f"class id {value.max()}, but the palette has colors of {len(colors)} classes, from 0")
        return colors[value]

    def _colors(self, palette: Palette) -> np.ndarray:
        if not len(palette):
            raise self.error(
                "form 'colors' needs a palette, and the tokenizer has none: train or import it with a "
                "file of classes that gives each a color"
            )
        return np.array(palette, dtype=np.uint8)

    def _picture(self, value: Any) -> np.ndarray:
        """uint8 (H, W, 3)."""
        if isinstance(value, Image.Image) and value.mode in ("RGB", "RGBA", "L", "P"):
            return np.asarray(upright(loaded(value, self.name)).convert("RGB"))
        array = channels_last(as_array(value, self.name), 3, 4)
        if array.ndim == 3 and array.shape[2] in (3, 4) and array.size and array.dtype == np.uint8:
            return array[..., :3]
        raise self.error(f"expected a picture of the classes' colors, uint8 (H, W, 3), got {array.dtype} {array.shape}")

    def valid(self, value: np.ndarray) -> np.ndarray:
        return value != (VOID if value.dtype == np.uint8 else LARGEST_ID)

    def style(self, values, names=(), palette: Palette = ()) -> Colors:
        """The colors of all classes, and which of them occur."""
        found = np.unique(np.concatenate([np.unique(value[self.valid(value)]) for value in values])).astype(int)
        count = max(len(names), int(found.max(initial=0)) + 1)
        known = dict(enumerate(names))
        occurring = tuple((known.get(i, f"class {i}"), i) for i in found.tolist())
        return Colors(np.array(palette, np.uint8) if len(palette) == count else _palette(count), occurring)

    def legend(self, style: Colors, width: int = 256) -> Image.Image:
        return swatches([(name, tuple(style.colors[i].tolist())) for name, i in style.occurring], width)

    def render(self, value: np.ndarray, size: int = 256, style: Colors | None = None) -> Image.Image:
        valid = self.valid(value)
        colors = (style or self.style([value])).colors[np.where(valid, value, 0)]
        return hatched(picture(colors, size, smooth=False), valid)

    def facts(self, value: np.ndarray) -> dict[str, Counter]:
        ids, pixels = np.unique(value[self.valid(value)], return_counts=True)
        return {"classes": Counter(dict(zip(ids.tolist(), pixels.tolist(), strict=True)))}

    def metrics(self, predictions, labels) -> dict[str, float]:
        """Mean intersection over union of the classes that occur, and pixel accuracy, over all pixels with a class
        together."""
        pairs = zip(predictions, labels, strict=True)
        labelled = [(p[valid], t[valid]) for p, t in pairs if (valid := self.valid(t)).any()]
        if not labelled:
            return dict.fromkeys(self.better, float("nan"))
        classes = 1 + max(int(max(p.max(), t.max())) for p, t in labelled)
        confusion = np.zeros(classes * classes, dtype=np.int64)
        for prediction, label in labelled:
            pairs = label.astype(np.int64) * classes + prediction
            confusion += np.bincount(pairs.ravel(), minlength=classes * classes)
        confusion = confusion.reshape(classes, classes)
        hit = np.diag(confusion)
        union = confusion.sum(0) + confusion.sum(1) - hit
        occurs = confusion.sum(1) > 0
        return {
            "miou": float((hit[occurs] / union[occurs]).mean()),
            "pixel_accuracy": float(hit.sum() / confusion.sum()),
        }

    def trivial(self, labels) -> np.ndarray:
        """The most frequent class of each pixel."""
        stack, valid = np.stack(labels), np.stack([self.valid(label) for label in labels])
        counts = np.stack([((stack == c) & valid).sum(0) for c in range(int(stack.max(where=valid, initial=0)) + 1)])
        return counts.argmax(0).astype(stack.dtype)


def _packed(colors: np.ndarray) -> np.ndarray:
    """One integer per color, from uint8 (..., 3)."""
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _palette(classes: int) -> np.ndarray:
    """Distinct colors by class id: hues a golden angle apart, of alternating lightness."""
    colors = [
        colorsys.hls_to_rgb((0.58 + 0.381966 * c) % 1, (0.72, 0.5, 0.6)[c % 3], (0.35, 0.7)[c > 1])
        for c in range(classes)
    ]
    return (np.array(colors) * 255).astype(np.uint8)


MODALITY = Semseg(
    name="semseg",
    description="semantic segmentation",
    role="classes",
    extension="semseg.png",
    aliases=("segmentation", "segmentations", "segmentationclass", "semantic", "seg", "annotations"),
    channels=16,
    loss="cross_entropy",
    categorical=True,
    error_unit="wrong class",
)
