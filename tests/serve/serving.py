"""A worker of the small model, and requests for it."""

import time
from contextlib import contextmanager

from open4m.serve.limits import Limits
from open4m.serve.worker import Worker


@contextmanager
def working(model, **limits):
    """A worker that has warmed up; ended afterwards."""
    worker = Worker(model, Limits(**limits))
    worker.start()
    wait(lambda: worker.is_ready)
    try:
        yield worker
    finally:
        assert worker.close(20)


def wait(condition, seconds=20.0):
    """Until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)
