"""How a run is stopped by SIGTERM and Ctrl-C: at once where nothing would be lost, else after the step.

Ranks that share a run stop together, at the same step, whichever of them were signalled: before each step, and before
each forward pass of an evaluation, they tell each other.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

from torch import nn

from open4m import ranks
from open4m.types import Open4MError, OtherRank

logger = logging.getLogger("open4m")

T = TypeVar("T")

FAILED = 2
"""What a rank tells the others that cannot go on; 1 is to stop, 0 to go on."""


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
        before, self._between_steps = self._between_steps, True
        try:
            if self.asked:
                raise Interrupted
            yield
        finally:
            self._between_steps = before

    @contextlib.contextmanager
    def together(self, model: nn.Module) -> Iterator[None]:
        """Between steps, where all ranks do the same with a model: none may leave before the others know."""
        if ranks.count() == 1:
            with self.between_steps():
                yield
            return
        self.agree()
        called = [model, *(part for part in model.children() if not isinstance(part, nn.ModuleList))]
        hooks = [module.register_forward_pre_hook(lambda *_: self.agree()) for module in called]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def on_first(self, action: Callable[[], object]) -> None:
        """Between steps, have the first rank do something while the others wait."""

        def interruptible() -> None:
            with contextlib.suppress(Interrupted), self.between_steps():
                action()

        if ranks.count() == 1:
            with self.between_steps():
                action()
        else:
            ranks.on_first(interruptible)
            self.agree()

    def agree(self, failure: Exception | None = None) -> None:
        """Raise ``failure``, if there is one; else, on all ranks, :class:`Open4MError` if one of them has one, or
        :class:`Interrupted` if one was asked to stop."""
        worst = ranks.largest(FAILED if failure is not None else int(self.asked))
        if failure is not None:
            raise failure
        if worst == FAILED:
            raise OtherRank("another rank failed, and says why; what is saved is kept, run again to resume")
        if worst:
            self.asked = True
            raise Interrupted  # a signal that came after this rank has spoken counts the next time

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the wait for each of them is between steps, and ranks take each of them together."""
        iterator, end = iter(items), object()
        while True:
            item, failure = end, None
            try:
                with self.between_steps():
                    item = next(iterator, end)
            except (Interrupted, Open4MError) as error:
                if ranks.count() == 1:
                    raise
                failure = error if isinstance(error, Open4MError) else None
            if ranks.count() > 1:
                self.agree(failure)
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


@contextlib.contextmanager
def own_child_handler() -> Iterator[None]:
    """Keep the handler of ended children that there is, while torch starts workers.

    Torch's own raises an error in whatever this process does when a worker dies, in the middle of a step too. Without
    it the next wait for a batch finds, within seconds, that there is nobody to make it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    old = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if old is None else old)
