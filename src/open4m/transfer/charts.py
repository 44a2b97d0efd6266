"""Pictures of all predictions together: which classes are taken for which, and what is found at which precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from open4m.fonts import lettered
from open4m.pictures import OBJECT_COLORS, heat

MOST_CLASSES = 40
"""Classes of a matrix: of more, those that are confused most."""

CELL, POINTS, GAP = 22, 12, 6  # pixels
_INK = (30, 30, 40)
_FAINT = (120, 120, 130)

OTHERS = "others"

CORNER = ("predicted across", "true down")
"""What the columns and the rows of a matrix are, in its corner."""


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) int64: how often class i is taken for class j; of true and predicted classes (n,)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (true.astype(np.int64), predicted.astype(np.int64)), 1)  # of none, the type is another
    return counts


def draw_confusion(counts: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Rows are true classes, columns predicted ones; the darker, the larger the share of all that are truly of it.

    Of more than :data:`MOST_CLASSES`, those with the most mistakes are shown, and a column of all the others.
    """
    totals = counts.sum(1)
    chosen = _most(totals + counts.sum(0) - 2 * counts.diagonal())
    return _matrix(counts[np.ix_(chosen, chosen)], totals[chosen], [names[i] for i in chosen], len(names))


def draw_confused(true: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Image.Image:
    """As :func:`draw_confusion`, of true and predicted classes (n,): of thousands of classes, the counts of all pairs
    would take gigabytes."""
    true, predicted = true.astype(np.int64), predicted.astype(np.int64)
    totals, said, right = (
        np.bincount(found, minlength=len(names)) for found in (true, predicted, true[true == predicted])
    )
    chosen = _most(totals + said - 2 * right)
    place = np.full(len(names), len(chosen))
    place[chosen] = np.arange(len(chosen))
    counts = confusion(place[true], place[predicted], len(chosen) + 1)
    return _matrix(counts[:-1, :-1], totals[chosen], [names[i] for i in chosen], len(names))


def _most(mistakes: np.ndarray) -> np.ndarray:
    """The classes with the most mistakes, in order."""
    return np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])


def _matrix(shown: np.ndarray, totals: np.ndarray, rows: list[str], classes: int) -> Image.Image:
    """The counts (n, n) that are shown, of ``totals`` (n,) in each row, of so many classes."""
    columns, totals = rows, totals[:, None]
    if len(rows) < classes:
        shown = np.hstack([shown, totals - shown.sum(1, keepdims=True)])
        columns = [*rows, OTHERS]
    shares = shown / np.maximum(totals, 1)
    height, width = CELL * len(rows), CELL * len(columns)
    written = [lettered(name, POINTS) for name in columns]
    font = lettered("true", POINTS)[1]
    left = int(max(*(font.getlength(text) for text, font in written), *map(font.getlength, CORNER))) + 2 * GAP
    sheet = Image.new("RGB", (left + width + GAP, left + height + GAP), "white")
    sheet.paste(heat(shares, 1.0).resize((width, height), Image.Resampling.NEAREST), (left, left))
    draw = ImageDraw.Draw(sheet)
    for line, word in enumerate(CORNER):
        draw.text((left - GAP, left - GAP - POINTS * 1.4 * (1 - line)), word, fill=_FAINT, font=font, anchor="rb")
    for i, (text, font) in enumerate(written):
        middle = left + CELL * i + CELL // 2
        label = Image.new("RGB", (left - 2 * GAP, CELL), "white")
        ImageDraw.Draw(label).text((0, CELL // 2), text, fill=_INK, font=font, anchor="lm")
        sheet.paste(label.rotate(90, expand=True), (middle - CELL // 2, GAP))
        if i == len(rows):
            continue
        draw.text((left - GAP, middle), text, fill=_INK, font=font, anchor="rm")
        for j, count in enumerate(shown[i]):
            if count:
                ink = "white" if shares[i, j] > 0.6 else _INK
                draw.text(
                    (left + CELL * j + CELL // 2, middle), str(count), fill=ink, font=lettered("0", 9)[1], anchor="mm"
                )
    return sheet


def draw_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], across: str, up: str, side: int = 320
) -> Image.Image:
    """Lines through points (n,), (n,), both from 0 to 1, by their names."""
    left, top = 4 * POINTS, 2 * POINTS
    sheet = Image.new("RGB", (left + side + 14 * POINTS, top + side + 3 * POINTS), "white")
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + side, top + side), outline=(150, 150, 150))
    font = lettered("0", POINTS)[1]
    for part in (0.0, 0.5, 1.0):
        draw.text((left + part * side, top + side + GAP), f"{part:g}", fill=_INK, font=font, anchor="mt")
        draw.text((left - GAP, top + (1 - part) * side), f"{part:g}", fill=_INK, font=font, anchor="rm")
    draw.text((left + side / 2, top + side + 2 * POINTS), across, fill=_INK, font=font, anchor="mt")
    draw.text((left, top - GAP), up, fill=_INK, font=font, anchor="lb")
    for number, (name, (x, y)) in enumerate(curves.items()):
        color = OBJECT_COLORS[number % len(OBJECT_COLORS)]
        points = [(left + a * side, top + (1 - b) * side) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        draw.line(points, fill=color, width=2)
        text, letters = lettered(name, POINTS)
        draw.text((left + side + 2 * GAP, top + number * 1.4 * POINTS), text, fill=color, font=letters, anchor="lt")
    return sheet
