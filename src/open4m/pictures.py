"""Pictures for people: grids of images with labels."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont


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
        draw.text((left + c * (width + gap) + width // 2, top // 2), title, fill=(30, 30, 40), font=font, anchor="mm")
    for r, row in enumerate(rows):
        y = top + r * (height + gap)
        if r < len(labels):
            draw.text((gap, y + height // 2), labels[r], fill=(30, 30, 40), font=font, anchor="lm")
        for c, image in enumerate(row):
            sheet.paste(image, (left + c * (width + gap), y))
    return sheet
