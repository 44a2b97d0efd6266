"""Chromium for the tests of the studio, and what users do there."""

import base64
import io
import json
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

REQUIRED = "OPEN4M_BROWSER"
"""The environment variable that makes a missing Chromium an error: ``required``."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--in-process-gpu",  # with the next one, a third of the work of processes of their own
    "--renderer-process-limit=1",
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1280, "height": 800}
PATIENCE = 8_000  # ms
LONGER = 20_000  # ms, for results


def program():
    """The path of Chromium. Skips, or fails if it is required, where there is none."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        message = "no Chromium is installed, so the studio is not tested: apt-get install chromium"
        if os.environ.get(REQUIRED) == "required":
            raise RuntimeError(f"{message} ({REQUIRED}=required)")
        pytest.skip(message)
    return found


@contextmanager
def chromium():
    """A browser."""
    path = program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


class Studio:
    """One user's page: the requests that it posts (``jobs``), what goes wrong in it (``errors``), what users do."""

    def __init__(self, browser, url, context=None, **options):
        self.owns = context is None  # else it shares one with others, and only its page is closed
        self.url, self.context = url, browser.new_context(viewport=SIZE, **options) if self.owns else context
        self.page, self.jobs, self.errors, self.asked = self.context.new_page(), [], [], []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", self._request)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.errors.append(line.text))

    def _request(self, request):
        self.asked.append(request.url)
        if request.method == "POST" and "/api/jobs" in request.url:
            self.jobs.append(json.loads(request.post_data))

    def open(self, fragment=""):
        self.page.goto(f"{self.url}/{fragment}")
        self.page.wait_for_selector(".card")
        if not fragment:
            self.page.wait_for_function("() => !document.querySelector('.card[data-modality=boxes].off')")
        return self

    # ---- what is seen
    def find(self, selector):
        return self.page.locator(selector)

    def use(self, name):
        """The state of a modality, in words."""
        return self.find(f"[data-modality={name}] .use").inner_text().split("\n")[-1].strip()

    def uses(self):
        return {name: self.use(name) for name in self.names()}

    def names(self):
        return self.page.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.modality)")

    def status(self):
        return self.find(".result .status").first.inner_text()

    def shot(self, selector="[data-test=focus]"):
        """What an element looks like, as an array."""
        return np.asarray(Image.open(io.BytesIO(self.find(selector).screenshot())).convert("RGB"))

    # ---- what is done
    def press(self, name, exact=True):
        self.page.get_by_role("button", name=name, exact=exact).click()

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def turn(self, name, use):
        """Click the state of a modality until it says so."""
        for _ in range(4):
            if self.use(name) == use:
                return
            self.find(f"[data-modality={name}] .use").click()
        raise AssertionError(f"{name} never said {use}")

    def edit(self, name):
        self.find(f"[data-modality={name}] .look").click()
        self.page.wait_for_function(
            "name => document.querySelector('.card.selected').dataset.modality === name", arg=name
        )

    def make(self):
        """Press the button, wait for the result; its JSON."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/result"), timeout=LONGER) as answer:
            self.find(".makebar .primary").click()
        return self._shown(answer.value.json())

    def result_of(self, action):
        """Do something that makes, wait for the result; its JSON."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/result"), timeout=LONGER) as answer:
            action()
        return self._shown(answer.value.json())

    def _shown(self, result):
        self.page.wait_for_function("() => !document.querySelector('.progress.on')")
        self.page.wait_for_selector("[data-test=focus]")
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.focus img')].every(one => one.complete && one.naturalWidth)"
        )
        return result

    def drag(self, start, end, steps=4):
        """Press, move and let go on the canvas, from and to fractions of its sides."""
        box = self.find(".canvas").bounding_box()
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        self.page.mouse.move(*points[1], steps=steps)
        self.page.mouse.up()

    def click(self, x, y):
        self.drag((x, y), (x, y), 1)

    def drop(self, selector, name, data, kind):
        """Drop a file on an element."""
        handle = self.page.evaluate_handle(
            """([name, text, kind]) => {
                const found = new DataTransfer();
                found.items.add(new File([Uint8Array.from(atob(text), one => one.charCodeAt(0))], name, {type: kind}));
                return found;
            }""",
            [name, base64.b64encode(data).decode(), kind],
        )
        self.find(selector).dispatch_event("drop", {"dataTransfer": handle})

    def close(self):
        (self.context if self.owns else self.page).close()


def picture_of(stored):
    """The array of a value's JSON that is a PNG."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(stored["base64"]))))


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()
