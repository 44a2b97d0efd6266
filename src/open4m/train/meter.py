"""How fast a training goes, and what it waits for: tokens per second, MFU, the wait for data, memory.

All of it is read on the host. Nothing here waits for a device: the loop reads the loss once per step, and a step is
done when that number is there.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch

from open4m.train import peak

T = TypeVar("T")

LATEST_STEPS = 50
"""The steps that speeds are averaged over."""

GIB = 2**30

CLOCKS = (
    "samples_per_second",
    "tokens_per_second",
    "mfu",
    "data_wait",
    "memory_gib",
    "peak_memory_gib",
    "device_memory_gib",
)
"""The metrics of a meter: what a clock or the system says, which no seed repeats."""


class _Step(NamedTuple):
    """A step that is done: when, and what it took."""

    at: float  # seconds
    samples: int
    tokens: int
    flops: float
    waited: float  # seconds, for its batch


class Meter:
    """Measures the latest steps of a training on one device.

    MFU, model FLOPs utilization, is the share of the device's peak (:func:`open4m.train.peak.of_device`) that goes into
    operations which the real tokens need: padding, recomputed activations and the optimizer do not count, and waiting
    for data lowers it. ``data_wait`` is the share of the time in which the loop waited for a batch.
    """

    def __init__(self, device: torch.device, precision: str):
        self._device, self._precision = device, precision
        self._steps: deque[_Step] = deque(maxlen=LATEST_STEPS + 1)
        self._waited = 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the wait for each of them counts."""
        iterator, end = iter(batches), object()
        while True:
            start = time.monotonic()
            batch = next(iterator, end)
            self._waited += time.monotonic() - start
            if batch is end:
                return
            yield batch

    def step(self, samples: int, tokens: int, flops: float) -> None:
        """A step is done. ``samples``, ``tokens``: of the whole step, whatever ranks share it; ``flops``: this rank's
        part, 0 where it is not counted."""
        self._steps.append(_Step(time.monotonic(), samples, tokens, flops, self._waited))
        self._waited = 0.0

    def pause(self) -> None:
        """Something else comes between two steps, such as an evaluation: its time is that of no step."""
        self._steps.clear()
        self._waited = 0.0

    @property
    def steps(self) -> int:
        """The steps since the last pause whose time is known: all but the first."""
        return max(0, len(self._steps) - 1)

    @property
    def seconds_per_step(self) -> float:
        """0 as long as no step's time is known."""
        return (self._steps[-1].at - self._steps[0].at) / self.steps if self.steps else 0.0

    @property
    def samples_per_second(self) -> float:
        """0 as long as no step's time is known."""
        return self._per_second("samples")

    @property
    def speed_text(self) -> str:
        """The speed as the end of a sentence, "" as long as it is not known."""
        return f", {self.samples_per_second:.3g} samples/s" if self.steps else ""

    def metrics(self) -> dict[str, float]:
        """The figures by their names in ``metrics.jsonl``, those of :data:`CLOCKS` that are known."""
        values = {name: size / GIB for name, size in memory(self._device).items()}
        if not self.steps:
            return values
        values |= {f"{name}_per_second": self._per_second(name) for name in ("samples", "tokens")}
        values["data_wait"] = self._per_second("waited")
        if flops := self._per_second("flops"):
            values["mfu"] = flops / peak.of_device(self._device, self._precision)
        return values

    def _per_second(self, name: str) -> float:
        """Of the steps whose time is known: those after the first, whose beginning nobody saw."""
        if not self.steps:
            return 0.0
        total = sum(getattr(step, name) for step in list(self._steps)[1:])
        return total / max(1e-9, self._steps[-1].at - self._steps[0].at)


def memory(device: torch.device) -> dict[str, float]:
    """Bytes that this process holds and has held at most, and the most that torch has held on a GPU; where known."""
    found: dict[str, float] = {}
    if sys.platform.startswith("linux"):
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status if ":" in line)
        for name, field in (("memory_gib", "VmRSS"), ("peak_memory_gib", "VmHWM")):
            if field in lines:
                found[name] = 1024.0 * int(lines[field].split()[0])
    if device.type == "cuda":
        found["device_memory_gib"] = float(torch.cuda.max_memory_allocated(device))
    return found
