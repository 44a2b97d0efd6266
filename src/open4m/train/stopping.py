"""How a run is stopped by SIGTERM and Ctrl-C: at once where nothing would be lost, else after the step."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

logger = logging.getLogger("open4m")

T = TypeVar("T")


class Interrupted(BaseException):
    """The run was asked to stop while it waited, or evaluated: what it has learned is not touched."""


class Stop:
    """Whether the run was asked to stop.

    Between steps, as in a wait for data or an evaluation, :class:`Interrupted` is raised at once. In a step ``asked``
    becomes true, and the step is finished; a second Ctrl-C raises :class:`KeyboardInterrupt` there.
    """

    def __init__(self) -> None:
        self.asked = False
        self._between_steps = False

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """Where nothing changes that a checkpoint holds."""
        self._between_steps = True
        try:
            if self.asked:
                raise Interrupted
            yield
        finally:
            self._between_steps = False

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the wait for each of them is between steps."""
        iterator, end = iter(items), object()
        while True:
            with self.between_steps():
                item = next(iterator, end)
            if item is end:
                return
            yield item

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signals' handler."""
        again, self.asked = self.asked, True
        if self._between_steps:
            raise Interrupted
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped in the middle of a step; run again to resume from the last checkpoint")
        if not again:
            logger.warning("stopping after this step, which is then saved; press Ctrl-C again to stop now")


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """What SIGTERM and SIGINT ask for, instead of ending the process in the middle of a step."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {number: signal.signal(number, stop.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def ignore_stop_signals(_worker: int) -> None:
    """Leave it to the training process to stop: Ctrl-C and many schedulers signal all processes of a run."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
