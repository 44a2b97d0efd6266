"""What a device can compute at most: from vendors' data sheets for known GPUs, else measured by matrix products."""

from __future__ import annotations

import functools
import time
from typing import NamedTuple

import torch


class Peak(NamedTuple):
    """Floating-point operations per second, dense, by the precision of the products."""

    half: float  # bfloat16 and float16 with sums in float32
    single: float  # float32 without TF32, as PyTorch multiplies by default


KNOWN = {
    "GB200": Peak(2.5e15, 80e12),
    "B200": Peak(2.25e15, 80e12),
    "H200": Peak(989e12, 67e12),
    "H100 PCIe": Peak(756e12, 51e12),
    "H100 NVL": Peak(835e12, 60e12),
    "H100": Peak(989e12, 67e12),
    "A100": Peak(312e12, 19.5e12),
    "A10G": Peak(70e12, 35e12),
    "A10": Peak(125e12, 31.2e12),
    "L40S": Peak(362e12, 91.6e12),
    "L4": Peak(121e12, 30.3e12),
    "V100": Peak(125e12, 15.7e12),
    "RTX 4090": Peak(165e12, 82.6e12),
    "RTX 3090": Peak(71e12, 35.6e12),
    "T4": Peak(65e12, 8.1e12),
    "MI300X": Peak(1307e12, 163.4e12),
    "MI250X": Peak(383e12, 95.7e12),
}
"""By what the name of the GPU contains; the first that fits, so the longer of two names stands first. From the vendors'
data sheets, without sparsity."""

SIZES = (256, 512, 1024, 2048, 4096, 8192)
"""Sides of the matrices whose products are timed, from small to large while :data:`LONGEST_PRODUCT` allows."""

LONGEST_PRODUCT = 0.02
"""Seconds that a timed product may take: where bfloat16 has no instructions of its own, large ones take minutes."""


def named(device_name: str) -> tuple[str, Peak] | None:
    """The first entry of :data:`KNOWN` whose name is part of ``device_name``; None for an unknown device."""
    return next(((name, peak) for name, peak in KNOWN.items() if name.lower() in device_name.lower()), None)


def of_device(device: torch.device, precision: str) -> float:
    """The peak of a device in floating-point operations per second at a precision of ``TrainConfig``.

    That of a known GPU is looked up. All others are measured, once per process: about a tenth of a second on a CPU.
    """
    half = precision in ("bf16", "fp16")
    if device.type == "cuda" and (known := named(torch.cuda.get_device_name(device))):
        return known[1].half if half else known[1].single
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    return _measured(str(device), dtype, torch.get_num_threads())


@functools.cache
def _measured(device: str, dtype: torch.dtype, _threads: int) -> float:
    return measured(torch.device(device), dtype)


def measured(device: torch.device, dtype: torch.dtype, products: int = 10) -> float:
    """Floating-point operations per second of the fastest of some products of large square matrices."""
    for size in SIZES:
        generator = torch.Generator(device).manual_seed(0)
        a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
        seconds = min(_seconds(a, b) for _ in range(3))  # the first one loads what it needs
        if seconds * 8 > LONGEST_PRODUCT:  # a side twice as long takes 8 times as long
            break
    if seconds < LONGEST_PRODUCT:
        seconds = min(seconds, *(_seconds(a, b) for _ in range(products)))
    return 2 * size**3 / seconds


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of one product."""
    start = _now(a.device)
    a @ b
    return _now(a.device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
