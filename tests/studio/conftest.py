"""One Chromium and one service of a tiny model for the tests of a file; a page of its own for each.

Playwright keeps an event loop running in this process until it is stopped, so that no test after it could begin one.
"""

import pytest
from browsing import SIZE, Studio, chromium
from serving import serving
from small_model import made

from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES

LONG = 1000
"""Samples that take so long that a job of them ends only if it is stopped."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def tiny():
    """A model of random weights that knows scenes: grids of 4×4 cells, pictures of 32×32."""
    return made(CLASSES, OBJECT_CLASSES, words=128, corners=64)


@pytest.fixture(scope="module")
def service(tiny):
    with serving(tiny, samples=LONG) as found:
        yield found


@pytest.fixture(scope="module")
def symbols():
    """A service of a model of palettes, metadata and poses too."""
    more = ("color_palette", "metadata", "human_poses")
    with serving(made(CLASSES, OBJECT_CLASSES, words=128, corners=64, more=more)) as found:
        yield found


@pytest.fixture(scope="module")
def context(browser):
    """What pages of one test after another share, so that a browser need not begin anew for each."""
    found = browser.new_context(viewport=SIZE)
    yield found
    found.close()


@pytest.fixture
def user(browser, service, context):
    """A user who has opened the page; nothing may go wrong in it that the test does not take out of ``errors``."""
    studio = Studio(browser, service.url, context).open()
    yield studio
    studio.close()
    assert studio.errors == []
