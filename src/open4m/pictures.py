"""Pictures for people: grids of images with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from open4m import files
from open4m.fonts import lettered, wrapped
from open4m.types import Open4MError

_INK = (30, 30, 40)
_LIGHT_BACKGROUND = 330  # sum of R, G and B above which dark text is easier to read than white
# From light gray to dark red, steadily darker, so that a gray print keeps the order.
_HEAT = np.array([[240, 240, 236], [254, 217, 118], [253, 141, 60], [189, 0, 38], [77, 0, 24]])

OBJECT_COLORS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#6a994e", "#7b2cbf", "#bc6c25", "#444444")
"""Of boxes, bodies and outlines; from the first one on again if there are more."""


def check_name(path: Path) -> None:
    """Raise :class:`Open4MError` for a file whose name says no format in which pictures are written."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise Open4MError(f"{path}: expected the name of a picture that ends with .png, .jpg or .webp")


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all, in the format that its name ends with.

    Raises :class:`Open4MError` if the file cannot be written, and see :func:`check_name`.
    """
    check_name(path)
    form = Image.registered_extensions()[path.suffix.lower()]
    files.write_file(path, lambda temporary: picture.save(temporary, format=form))


def grid(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    gap: int = 6,
) -> Image.Image:
    """One image of rows of images, with optional titles above columns and labels, of one or several lines, beside rows.

    All images have the width of the first; those of a row have one height.
    """
    width, first = rows[0][0].size
    heights = [row[0].height for row in rows]
    points = label_points(first)
    top = points + 2 * gap if columns else gap
    left = (
        max((_width(*lettered(line, points)) for text in labels for line in text.split("\n")), default=-gap) + 2 * gap
    )
    count = max(map(len, rows))
    sheet = Image.new("RGB", (left + count * (width + gap), top + sum(heights) + len(rows) * gap), "white")
    draw = ImageDraw.Draw(sheet)
    for c, title in enumerate(columns):
        text, font = lettered(title, points)
        draw.text((left + c * (width + gap) + width // 2, top // 2), text, fill=_INK, font=font, anchor="mm")
    for r, row in enumerate(rows):
        y = top + sum(heights[:r]) + r * gap
        if r < len(labels):
            text, font = lettered(labels[r], points)
            draw.text((gap, y + heights[r] // 2), text, fill=_INK, font=font, anchor="lm")
        for c, image in enumerate(row):
            sheet.paste(image, (left + c * (width + gap), y))
    return sheet


def label_points(width: int) -> int:
    """The size of a :func:`grid`'s titles and labels, of images of this width."""
    return max(11, width // 11)


def ramp(positions: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Colors (..., 3) in float64 of ``positions`` (...), linearly interpolated along ``colors`` (n, 3).

    0 is the first color and 1 the last one; positions outside [0, 1] are clipped.
    """
    places = positions.clip(0, 1) * (len(colors) - 1)
    return np.stack([np.interp(places, np.arange(len(colors)), channel) for channel in colors.T], -1)


def heat(values: np.ndarray, high: float) -> Image.Image:
    """A picture of values (H, W), one pixel per value: 0 is light gray, ``high`` and all above it dark red."""
    colors = ramp(np.asarray(values, dtype=np.float64) / max(high, 1e-12), _HEAT)
    return Image.fromarray(colors.round().astype(np.uint8))


def heat_words(words: Sequence[str], values: Sequence[float], high: float, size: int) -> Image.Image:
    """A square picture of words in lines, each on the color that :func:`heat` gives its value.

    The text is set as large as fits, and is cut below the smallest legible size.
    """
    colors = np.asarray(heat(np.asarray(values, dtype=np.float64)[None], high))[0]
    for points in range(max(6, size // 11), 5, -1):
        margin, line = size // 32, points * 3 // 2
        image = Image.new("RGB", (size, size), "white")
        draw, x, y = ImageDraw.Draw(image), margin, margin
        for word, color in zip(words, colors.tolist(), strict=True):
            word, font = lettered(word, points)
            width = _width(word, font) + points // 2
            if x + width > size - margin and x > margin:
                x, y = margin, y + line + 2
            draw.rectangle((x, y, x + width, y + line), fill=tuple(color))
            ink = _INK if sum(color) > _LIGHT_BACKGROUND else (255, 255, 255)
            draw.text((x + width // 2, y + line // 2), word, fill=ink, font=font, anchor="mm")
            x += width + 2
        if y + line <= size:
            break
    return image


def legend(low: str, high: str, width: int = 320, colors: int = 256) -> Image.Image:
    """A legend of :func:`heat`: a bar of ``colors`` colors between the texts of its two ends."""
    height = 28
    (low, low_font), (high, high_font) = lettered(low, 14), lettered(high, 14)
    left, right = _width(low, low_font) + 14, _width(high, high_font) + 14
    sheet = Image.new("RGB", (left + width + right, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left - 7, height // 2), low, fill=_INK, font=low_font, anchor="rm")
    draw.text((left + width + 7, height // 2), high, fill=_INK, font=high_font, anchor="lm")
    bar = heat(np.linspace(0, 1, colors)[None], 1).resize((width, height - 12), Image.Resampling.NEAREST)
    sheet.paste(bar, (left, 6))
    return sheet


def color_bar(colors: np.ndarray, low: str, high: str, width: int) -> Image.Image:
    """A legend of a continuous range: a bar of ``colors`` (n, 3) in [0, 255] above the texts of its two ends."""
    points = max(10, width // 14)
    bar = Image.fromarray(ramp(np.linspace(0, 1, width), colors).round().astype(np.uint8)[None])
    sheet = Image.new("RGB", (width, points // 2 + points + 6), "white")
    sheet.paste(bar.resize((width, points // 2), Image.Resampling.NEAREST), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for x, words, anchor in ((0, low, "la"), (width, high, "ra")):
        text, font = lettered(words, points)
        draw.text((x, points // 2 + 2), text, fill=_INK, font=font, anchor=anchor)
    return sheet


def swatches(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> Image.Image:
    """A legend of names with a color each, in as many columns as fit."""
    points = min(22, max(9, width // 16))
    line, box = points + 4, points
    widest = max((_width(*lettered(name, points)) for name, _ in entries), default=0) + box + 8
    columns = max(1, width // widest)
    sheet = Image.new("RGB", (width, max(1, -(-len(entries) // columns)) * line + 2), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, color) in enumerate(entries):
        x, y = i % columns * (width // columns), i // columns * line + 1
        draw.rectangle((x, y + 1, x + box - 2, y + box - 1), fill=tuple(color), outline=_INK)
        text, font = lettered(name, points)
        draw.text((x + box + 3, y + line // 2), text, fill=_INK, font=font, anchor="lm")
    return sheet


def stack(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another, centered."""
    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, ((sheet.width - image.width) // 2, top))
        top += image.height
    return sheet


def picture(array: np.ndarray, size: int, smooth: bool = True, stretch: bool = False) -> Image.Image:
    """A PIL image, ``size`` × ``size``, of a uint8 array (H, W) or (H, W, 3); between white bands if that is no square,
    unless it is to be stretched."""
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    image, longest = Image.fromarray(array).convert("RGB"), max(array.shape[:2])
    if stretch or array.shape[0] == array.shape[1]:
        return image.resize((size, size), method)
    inner = image.resize([max(1, round(size * side / longest)) for side in image.size], method)
    sheet = Image.new("RGB", (size, size), "white")
    sheet.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return sheet


STRIPES = ((206, 206, 206), (150, 150, 150))
"""The grays of what :func:`hatched` hatches."""


def hatched(image: Image.Image, valid: np.ndarray | None) -> Image.Image:
    """A square :func:`picture` of a map, with gray stripes where the map is not ``valid``, bool (H, W)."""
    if valid is None or valid.all():
        return image
    array, width = np.array(image), max(2, image.width // 32)
    hidden = np.asarray(picture((valid * 255).astype(np.uint8), image.width, smooth=False))[..., 0] == 0
    places = np.indices(hidden.shape).sum(0)[hidden]
    array[hidden] = np.array(STRIPES, dtype=np.uint8)[places // width % 2]
    return Image.fromarray(array)


def outline(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask (H, W) that are at most ``width`` away from what is none of it, bool."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask, np.ones((3, 3), dtype=bool), iterations=width)


def noted(image: Image.Image, words: str) -> None:
    """Write into the middle of an image what it lacks, such as "no people"; with a light rim, to be read on any."""
    middle, points = (image.width / 2, image.height / 2), max(8, image.width // 16)
    text, font = lettered(words, points)
    rim = max(1, points // 8)
    ImageDraw.Draw(image).text(middle, text, fill=_INK, anchor="mm", font=font, stroke_width=rim, stroke_fill="white")


def titled(image: Image.Image, words: str) -> Image.Image:
    """An image below words about it, in lines of its width."""
    gap, points = 6, max(11, image.width // 16)
    text, font = wrapped(words, points, image.width - 2 * gap)
    bottom = ImageDraw.Draw(image).multiline_textbbox((0, 0), text, font=font)[3]
    top = round(bottom) + 2 * gap
    sheet = Image.new("RGB", (image.width, top + image.height), "white")
    ImageDraw.Draw(sheet).multiline_text((gap, gap), text, fill=_INK, font=font)
    sheet.paste(image, (0, top))
    return sheet


def _width(text: str, font: FreeTypeFont) -> int:
    """Pixels of one line."""
    return int(font.getlength(text))


def drawn_corners(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The first and the last pixels of a box, fractions x_min, y_min, x_max, y_max, in a picture of (width, height)."""
    x0, y0, x1, y1 = (float(corner) * side for corner, side in zip(box, size * 2, strict=True))
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


@dataclass(frozen=True)
class Axes:
    """The first three principal components of features: their ``mean`` (D,), the ``basis`` (3, D), and the range that
    colors span, ``low`` and ``high`` (3,)."""

    mean: np.ndarray
    basis: np.ndarray
    low: np.ndarray
    high: np.ndarray


def principal_axes(features: Sequence[np.ndarray]) -> Axes:
    """The axes of all cells of some maps (h, w, D) together, so that one color means one feature in all of them."""
    flat = np.concatenate([f.reshape(-1, f.shape[-1]) for f in features]).astype(np.float64)
    mean = flat.mean(0)
    _, _, basis = np.linalg.svd(flat - mean, full_matrices=False)
    basis = basis[:3] * np.sign(basis[:3].sum(1, keepdims=True) + 1e-12)  # the SVD leaves signs open
    projected = (flat - mean) @ basis.T
    return Axes(mean, basis, projected.min(0), projected.max(0))


def principal_components(features: np.ndarray, axes: Axes | None = None) -> np.ndarray:
    """The first three principal components of a (h, w, D) map as uint8 RGB (h, w, 3) (paper B.1).

    ``axes``: those of several maps that are shown together; by default those of this one.
    """
    axes = axes or principal_axes([features])
    projected = (features.reshape(-1, features.shape[-1]).astype(np.float64) - axes.mean) @ axes.basis.T
    scaled = ((projected - axes.low) / np.maximum(axes.high - axes.low, 1e-9)).clip(0, 1)
    rgb = np.zeros((len(projected), 3))
    rgb[:, : scaled.shape[1]] = scaled
    return (rgb * 255).round().astype(np.uint8).reshape(*features.shape[:2], 3)
