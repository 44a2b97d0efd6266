"""Linear layers for generation on CPUs: their weights laid out once for products with few rows, or stored in 8 bits.

The product of a few tokens with a weight matrix takes as long as reading the matrix. PyTorch's usual product takes two
to five times that for 2 to 16 rows on some CPUs; oneDNN's on weights that are laid out for it does not. In 8 bits there
is a quarter to read. Both are PyTorch's own kernels (``docs/generation.md`` has what they give).

A row's product is the same to the bit whatever other rows are computed with it, which PyTorch's usual product does not
promise: so a sample is the same alone and in any batch. :func:`is_steady` says whether this machine's kernels keep it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection
from functools import cache, lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.nn.attention import FusedLinear
from open4m.types import Open4MError

Precision = Literal["exact", "int8"]
"""``exact``: weights as they are stored. ``int8``: 8 bits, with one scale per output; the inputs of a
product are rounded to 7 bits, with one scale per token."""

_ENGINES = torch.backends.quantized.supported_engines


FEW = 64
"""Rows up to which a product with packed weights is the faster one."""

BLOCKS = (512, 256, 128)
"""Rows of the products that more rows than :data:`FEW` are computed in."""

NARROW = 384
"""Inputs up to which the usual product adds up a row at once, so that it may have the same bits: it is faster there."""

STEP = 16
"""Rows of such a usual product are a multiple of it, so that few numbers of rows have to be compared."""

LONG = 1024
"""Inputs above which oneDNN adds up a row alone in another order than one of several."""


class PackedLinear(nn.Module):
    """A linear layer (..., in) → (..., out) whose weights are packed; without gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, parts: int = 1, precision: Precision = "exact"):
        super().__init__()
        self.parts = parts
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach()
        self._eight = self._laid_out = None
        if precision == "int8":
            self._eight = _eight_bits(self._weight)
        else:
            self._laid_out = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous())

    @property
    def weight(self) -> Tensor:
        """The matrix (out, in) as it was before it was packed."""
        return self._weight

    def product(self, x: Tensor) -> Tensor:
        """The product of all parts, (..., out)."""
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        if self._eight is not None:
            return self._rounded(x, rows)
        if rows > FEW:
            return self._in_blocks(x.reshape(rows, width)).view(*x.shape[:-1], -1)
        more = padded(rows, width) - rows
        if not more:
            return self._few(x)
        return self._few(F.pad(x.reshape(rows, width), (0, 0, 0, more)))[:rows].reshape(*x.shape[:-1], -1)

    def _in_blocks(self, x: Tensor) -> Tensor:
        """The product (rows, out) of many rows, in blocks that are written into their places."""
        (rows, width), outputs = x.shape, len(self._weight)
        y, first = x.new_empty(_up(rows), outputs), 0
        while first < rows:
            count = min(rows - first, BLOCKS[0])
            if count > FEW and is_usual(width, outputs, _up(count), torch.get_num_threads()):
                block = x[first : first + count]
                if more := _up(count) - count:
                    block = F.pad(block, (0, 0, 0, more))
                usual_product(block, self._weight, self._bias, y[first : first + len(block)])
            else:
                count = next((size for size in BLOCKS if size <= count), min(count, FEW))
                block = x[first : first + count]
                y[first : first + count] = self.product(block) if count <= FEW else self._few(block)
            first += count
        return y[:rows]

    def _rounded(self, x: Tensor, rows: int) -> Tensor:
        """The product in 8 bits, for which rows are rounded with one scale for all: each is divided by its own."""
        if rows == 1:
            y = torch.ops.quantized.linear_dynamic(x.float(), self._eight, True)
        else:
            size = torch.linalg.vector_norm(x.float(), torch.inf, -1, keepdim=True).clamp_(min=1e-12)
            y = torch.ops.quantized.linear_dynamic(x / size, self._eight, True).mul_(size)
        return y.to(x.dtype) if self._bias is None else y.to(x.dtype) + self._bias

    def _few(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._laid_out, self._bias, "none", [], "")

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        y = self.product(x)
        return y if self.parts == 1 else y.chunk(self.parts, -1)


def usual_product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """PyTorch's usual product of rows, (n, in) → (n, out)."""
    if bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)


def padded(rows: int, width: int = 0) -> int:
    """How many rows of so many inputs are computed for so few. A kernel is made for each number of rows that occurs,
    and kept, so that a multiple of 8 is computed instead where that costs little."""
    return (2 if rows == 1 and width > LONG else rows) if rows <= 8 else -(-rows // 8) * 8


def _up(rows: int) -> int:
    return -(-rows // STEP) * STEP


@cache
def is_usual(width: int, outputs: int, rows: int, threads: int) -> bool:
    """Whether the usual product of so many rows and a narrow matrix (outputs, width) has the bits of the packed one.

    It is the faster one there. ``threads``: of PyTorch now, since they decide which kernel is used.
    """
    if width > NARROW:
        return False
    x, weight, expected = _trial(width, outputs)
    y = torch.empty_like(expected[:rows])
    usual_product(x[:rows], weight, None, y)
    return torch.equal(y, expected[:rows])


@cache
def is_steady(width: int, outputs: int, threads: int) -> bool:
    """Whether the products of a packed matrix (outputs, width) with a row have the same bits in a block of any size."""
    x, weight, expected = _trial(width, outputs)
    layer = PackedLinear(weight)
    few = {padded(rows, width) for rows in range(1, FEW + 1)}
    return all(torch.equal(layer._few(x[:n]), expected[:n]) for n in (*few, *BLOCKS))


@lru_cache(8)
def _trial(width: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, a matrix, and their packed product."""
    generator = torch.Generator().manual_seed(width)
    x, weight = (torch.randn(n, width, generator=generator) for n in (max(BLOCKS), outputs))
    return x, weight, PackedLinear(weight)._few(x)


def _eight_bits(weight: Tensor):
    weight = weight.float()
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized tensors will be replaced one day; the kernels have no successor yet
        rounded = torch.quantize_per_channel(weight, scale, torch.zeros_like(scale, dtype=torch.int64), 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(rounded, None)


def can_pack(weight: Tensor, precision: Precision) -> bool:
    """Whether this PyTorch has the kernel for such weights. Those of 8 bits must be on the CPU: raises
    :class:`Open4MError` if they cannot be had."""
    if precision == "int8":
        if weight.device.type != "cpu" or "fbgemm" not in _ENGINES:
            raise Open4MError("precision int8 is for CPUs of x86 alone; elsewhere use dtype=torch.bfloat16")
        return True
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def packed(module: nn.Module, precision: Precision, but: Collection[nn.Module] = ()) -> nn.Module:
    """A copy of a module whose linear layers are packed; all other weights are shared with it, and the parts ``but``
    are, as they are."""
    kept = [part for own in but for part in own.modules()]
    clone = copy.deepcopy(module, {id(own): own for own in (*module.parameters(), *module.buffers(), *kept)})
    for parent in [part for part in clone.modules() if part not in kept]:
        for name, child in parent.named_children():
            if type(child) in (nn.Linear, FusedLinear):
                parts = getattr(child, "parts", 1)
                setattr(parent, name, PackedLinear(child.weight, child.bias, parts, precision))
    return clone
