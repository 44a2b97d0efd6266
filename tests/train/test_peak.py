"""The peak of a device: looked up by its name, or measured."""

import pytest
import torch

from open4m.train import peak


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
    ],
)
def test_a_known_gpu_is_found_by_the_most_exact_name(name, entry):
    assert peak.named(name) == (entry, peak.KNOWN[entry])


def test_an_unknown_device_is_none():
    assert peak.named("GeForce 256") is None


def test_no_longer_name_stands_behind_one_that_it_contains():
    names = list(peak.KNOWN)
    hidden = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a.lower() in b.lower()]
    assert hidden == []


def test_the_peak_of_a_cpu_is_that_of_its_fastest_product(monkeypatch):
    clock = iter(range(1_000_000))
    monkeypatch.setattr(peak, "_now", lambda device: 1e-3 * next(clock))  # each product takes a millisecond
    monkeypatch.setattr(peak, "SIZES", (8, 16))
    assert peak.measured(torch.device("cpu"), torch.float32) == pytest.approx(2 * 16**3 / 1e-3)


def test_slow_products_are_small_and_few(monkeypatch):
    """Where a precision has no instructions, a large product would take minutes."""
    clock = iter(range(1_000_000))
    times = []

    def now(device):
        times.append(next(clock))
        return times[-1]

    monkeypatch.setattr(peak, "_now", now)
    assert peak.measured(torch.device("cpu"), torch.bfloat16) == 2 * peak.SIZES[0] ** 3
    assert len(times) == 2 * 3


def test_a_device_is_measured_once_per_precision(monkeypatch):
    asked = []
    monkeypatch.setattr(peak, "measured", lambda device, dtype: asked.append(dtype) or 1.0)
    peak._measured.cache_clear()
    for precision in ("bf16", "fp32", "bf16", "fp16", "fp32"):
        assert peak.of_device(torch.device("cpu"), precision) == 1.0
    assert asked == [torch.bfloat16, torch.float32, torch.float16]
    peak._measured.cache_clear()
