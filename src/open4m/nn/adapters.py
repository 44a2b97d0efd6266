"""Training a part of a weight: low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) and some rows of a table.

Both are parametrizations of :mod:`torch.nn.utils.parametrize`: a layer's ``weight`` is computed from what is trained,
so the layers, fused ones too, and all that reads their weights need not know. :func:`plain_state` gives the weights of
an ordinary model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from open4m.nn.attention import FusedLinear


class LowRank(nn.Module):
    """W + (alpha / rank) · B A for the weight W (out, in) of a linear layer, with A (rank, in) and B (out, rank).

    A is drawn and B starts at 0, so that nothing changes at first. Layers that are fused share A.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        parts = layer.parts if isinstance(layer, FusedLinear) else 1
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made; the caller sees none of it
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = FusedLinear(rank, layer.out_features // parts, parts, bias=False)
        self.scale = alpha / rank
        with torch.no_grad():
            nn.init.kaiming_uniform_(self.down.weight, a=5**0.5, generator=generator)
            nn.init.zeros_(self.up.weight)
        self.to(layer.weight.device, layer.weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        kind = "cpu" if weight.is_meta else weight.device.type
        with torch.autocast(kind, enabled=False):  # as exact as the weight that is saved
            return torch.addmm(weight, self.up.weight, self.down.weight, alpha=self.scale)


class SomeRows(nn.Module):
    """A table (n, D) of which only the rows where ``chosen`` (n,) is True have a gradient."""

    def __init__(self, chosen: Tensor):
        super().__init__()
        self.register_buffer("chosen", chosen[:, None], persistent=False)

    def forward(self, table: Tensor) -> Tensor:
        return torch.where(self.chosen, table, table.detach())


def add_low_rank(layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
    """Freeze a linear layer and add a trainable :class:`LowRank` to its weight."""
    layer.requires_grad_(False)
    parametrize.register_parametrization(layer, "weight", LowRank(layer, rank, alpha, generator))


def train_rows(module: nn.Module, name: str, chosen: Tensor) -> None:
    """Train only the ``chosen`` rows, bool (n,), of a module's parameter."""
    rows = SomeRows(chosen.to(getattr(module, name).device))
    parametrize.register_parametrization(module, name, rows)


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` of the model without adapters: what they make of the weights is merged into these."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".parametrizations." not in name}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            state |= {f"{path}.{name}": getattr(module, name).detach() for name in module.parametrizations}
    return state


def is_plain(model: nn.Module) -> bool:
    """Whether a model has no adapters."""
    return not any(parametrize.is_parametrized(module) for module in model.modules())
