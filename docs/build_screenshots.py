"""Take the pictures of docs/studio.md: ``python docs/build_screenshots.py``, with the shipped model, in Chromium.

Needs ``pip install playwright`` and a program ``chromium``; takes a minute or two. Writes docs/images/studio-*.png.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1280, "height": 830}
COLORS = 256  # of a picture, so that it stays small
MOST_BYTES = 250_000
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
PATIENCE = 90_000  # ms


@contextmanager
def studio() -> Iterator[str]:
    """The address of a studio with the shipped model."""
    words = [sys.executable, "-m", "open4m", "studio", "--no-browser", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        finally:
            process.terminate()


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From and to fractions of the canvas."""
    box = page.locator(".canvas").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=8)
    page.mouse.up()
    page.mouse.move(5, 400)


def done(page: Any) -> None:
    """Until a result is there, with its pictures."""
    page.wait_for_function(
        "() => !document.querySelector('.progress.on') && document.querySelector('[data-test=focus]')"
    )
    page.wait_for_function("() => [...document.images].every(one => one.complete)")
    page.wait_for_timeout(400)


def turn(page: Any, name: str, use: str) -> None:
    while page.locator(f"[data-modality={name}] .use").inner_text().split("\n")[-1].strip() != use:
        page.locator(f"[data-modality={name}] .use").click()


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def moved_box(page: Any) -> None:
    """The first minute: a box was dragged; what is where is made first, then the picture."""
    for name, use in (("rgb", "unused"), ("semseg", "made"), ("rgb", "made")):
        turn(page, name, use)
    for name in ("caption", "boxes"):
        page.get_by_label(f"Weigh {name}").check()
        page.get_by_label(f"Weight of {name}").fill("3")
    page.locator("[data-modality=boxes] .look").click()
    drag(page, (0.3, 0.47), (0.3, 0.47))
    drag(page, (0.24, 0.73), (0.72, 0.77))
    page.locator(".makebar .primary").click()
    done(page)


def passes(page: Any) -> None:
    """Paint, and tokens that appear."""
    page.locator("[data-modality=rgb] .look").click()
    for row in (0.3, 0.4, 0.5, 0.6):
        drag(page, (0.42, row), (0.74, row))
    page.locator(".makebar .primary").click()
    page.wait_for_function("() => /pass (6|7|8|9) /.test(document.querySelector('.result .status').textContent)")


def segments(page: Any) -> None:
    """A recolored segment, three samples, and how unsure the model was."""
    page.get_by_role("tab", name="How").click()
    page.get_by_label("Samples").fill("3")
    turn(page, "semseg", "given")
    turn(page, "depth", "given")
    page.locator("[data-modality=semseg] .look").click()
    press(page, "recolor")
    page.get_by_role("combobox", name="as", exact=True).select_option(label="sphere")
    page.wait_for_timeout(300)
    drag(page, (0.24, 0.8), (0.24, 0.8))
    page.locator(".makebar .primary").click()
    done(page)
    press(page, "Uncertainty")


def explore(page: Any) -> None:
    """A probe: one box at one place after another."""
    turn(page, "semseg", "given")
    page.get_by_role("tab", name="Explore").click()
    page.get_by_role("combobox", name="Of", exact=True).select_option("semseg")
    page.get_by_role("combobox", name="Of which", exact=True).select_option("torus")
    page.get_by_role("button", name="Probe", exact=True).click()
    done(page)


def everything(page: Any) -> None:
    """All modalities of one picture."""
    press(page, "rgb → all")
    page.locator("[data-modality=rgb] .look").click()
    page.locator(".makebar .primary").click()
    done(page)
    page.get_by_role("button", name="semseg, seed 0").click()
    page.get_by_role("tab", name="History").click()
    page.wait_for_function("() => [...document.images].every(one => one.complete)")
    page.wait_for_timeout(300)


PICTURES: dict[str, tuple[Callable[[Any], None], str]] = {
    "studio-box": (moved_box, "light"),
    "studio-passes": (passes, "dark"),
    "studio-segments": (segments, "light"),
    "studio-probe": (explore, "light"),
    "studio-all": (everything, "light"),
}


def reduced(picture: Image.Image) -> Image.Image:
    """With as many colors as a palette holds."""
    palette = picture.quantize(COLORS, Image.Quantize.MEDIANCUT, kmeans=1)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def save(data: bytes, path: Path) -> None:
    """All colors if that is small enough, else as many as a palette holds."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        reduced(picture).save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path}: {path.stat().st_size} bytes, more than {MOST_BYTES}")


def main(names: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with studio() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        for name in names or PICTURES:
            act, theme = PICTURES[name]
            page = browser.new_page(viewport=SIZE, color_scheme=theme)
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            page.wait_for_selector("[data-modality=boxes].given")
            page.wait_for_timeout(500)
            act(page)
            page.evaluate("scrollTo(0, 0)")
            height = page.evaluate("Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)")
            page.set_viewport_size({**SIZE, "height": max(SIZE["height"], height)} if name != "studio-passes" else SIZE)
            page.wait_for_timeout(100)
            save(page.screenshot(), IMAGES / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
