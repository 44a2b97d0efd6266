"""Pictures for people: grids of images with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK = (30, 30, 40)
# From nothing (a light gray) to much (dark red), ever darker, so that it is read without colors too.
_HEAT = np.array([[240, 240, 236], [254, 217, 118], [253, 141, 60], [189, 0, 38], [77, 0, 24]])


def grid(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    gap: int = 6,
) -> Image.Image:
    """Rows of equally large images as one, with optional titles above the columns and beside the rows."""
    width, height = rows[0][0].size
    points = max(11, height // 11)
    font = ImageFont.load_default(points)
    top = points + 2 * gap if columns else gap
    left = max((int(font.getlength(text)) for text in labels), default=-gap) + 2 * gap
    count = max(map(len, rows))
    sheet = Image.new("RGB", (left + count * (width + gap), top + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for c, title in enumerate(columns):
        draw.text((left + c * (width + gap) + width // 2, top // 2), title, fill=_INK, font=font, anchor="mm")
    for r, row in enumerate(rows):
        y = top + r * (height + gap)
        if r < len(labels):
            draw.text((gap, y + height // 2), labels[r], fill=_INK, font=font, anchor="lm")
        for c, image in enumerate(row):
            sheet.paste(image, (left + c * (width + gap), y))
    return sheet


def heat(values: np.ndarray, high: float) -> Image.Image:
    """A picture of values (H, W), a pixel each: 0 is light, ``high`` and all above it dark red."""
    position = (np.asarray(values, dtype=np.float64) / max(high, 1e-12)).clip(0, 1) * (len(_HEAT) - 1)
    channels = [np.interp(position, np.arange(len(_HEAT)), _HEAT[:, c]) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def heat_words(words: Sequence[str], values: Sequence[float], high: float, size: int) -> Image.Image:
    """Words in lines of a square picture, each on the color that :func:`heat` gives its value."""
    colors = np.asarray(heat(np.asarray(values, dtype=np.float64)[None], high))[0]
    for points in range(max(6, size // 11), 5, -1):
        font, margin, line = ImageFont.load_default(points), size // 32, points * 3 // 2
        image = Image.new("RGB", (size, size), "white")
        draw, x, y = ImageDraw.Draw(image), margin, margin
        for word, color in zip(words, colors.tolist(), strict=True):
            width = int(font.getlength(word)) + points // 2
            if x + width > size - margin and x > margin:
                x, y = margin, y + line + 2
            draw.rectangle((x, y, x + width, y + line), fill=tuple(color))
            ink = _INK if sum(color) > 330 else (255, 255, 255)
            draw.text((x + width // 2, y + line // 2), word, fill=ink, font=font, anchor="mm")
            x += width + 2
        if y + line <= size:
            break
    return image


def legend(low: str, high: str, width: int = 320, colors: int = 256) -> Image.Image:
    """What the colors of :func:`heat` mean: a bar of ``colors`` of them between two texts."""
    height = 28
    font = ImageFont.load_default(14)
    left, right = (int(font.getlength(text)) + 14 for text in (low, high))
    sheet = Image.new("RGB", (left + width + right, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left - 7, height // 2), low, fill=_INK, font=font, anchor="rm")
    draw.text((left + width + 7, height // 2), high, fill=_INK, font=font, anchor="lm")
    bar = heat(np.linspace(0, 1, colors)[None], 1).resize((width, height - 12), Image.Resampling.NEAREST)
    sheet.paste(bar, (left, 6))
    return sheet


def stack(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another, each in the middle."""
    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, ((sheet.width - image.width) // 2, top))
        top += image.height
    return sheet


def picture(array: np.ndarray, size: int, smooth: bool = True) -> Image.Image:
    """A PIL image, ``size`` × ``size``, of a uint8 array (H, W) or (H, W, 3)."""
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(array).convert("RGB").resize((size, size), method)


def principal_components(features: np.ndarray) -> np.ndarray:
    """The first three principal components of a (h, w, D) map as uint8 RGB (h, w, 3) (paper B.1)."""
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    _, _, basis = np.linalg.svd(flat, full_matrices=False)
    basis = basis[:3] * np.sign(basis[:3].sum(1, keepdims=True) + 1e-12)  # a stable choice of sign
    projected = flat @ basis.T
    low, high = projected.min(0), projected.max(0)
    scaled = (projected - low) / np.maximum(high - low, 1e-9)
    rgb = np.zeros((len(flat), 3))
    rgb[:, : scaled.shape[1]] = scaled
    return (rgb * 255).round().astype(np.uint8).reshape(*features.shape[:2], 3)
