"""The optimizer: AdamW (paper Tables 3 and 5), or Muon for the matrices of blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch

from open4m import config as configs
from open4m.nn.attention import FusedLinear
from open4m.ranges import Amount, Decay, Layers, Positive, Range, Share, check_ranges
from open4m.train.distributed import blocks
from open4m.train.muon import ITERATIONS, MuonAdamW
from open4m.types import Open4MError

MATRICES = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
"""The layers whose weights are multiplied with their input: weight decay is for them."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW. ``base_lr`` is for a batch of 256; the learning rate scales linearly with the batch (paper [46]).

    ``lr``: the learning rate itself, whatever the batch, instead (paper Tables 7 to 9). ``layer_decay``: the factor by
    which the rate falls from one block to the one below it, with that of the embeddings the lowest (paper D, [26]); for
    models that say at which depth their weights lie. ``muon_lr``: the peak learning rate of Muon for the linear layers
    of blocks, whatever the batch; None: AdamW for all. ``muon_iterations``: of its orthogonalization, which takes a
    large part of the time where batches are small. ``muon_precision``: of its matrix products; None: bf16 on GPUs, fp32
    elsewhere."""

    base_lr: Amount = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: Amount = 0.05
    clip: Positive | None = None  # largest norm of the whole gradient; None: no clipping
    final_lr: Share = 0.0  # at the end of the schedule, as a fraction of the peak
    muon_lr: Positive | None = None
    muon_iterations: Layers = ITERATIONS
    muon_precision: Literal["fp32", "bf16"] | None = None
    lr: Positive | None = field(default=None, metadata=configs.LATER)
    layer_decay: Annotated[float, Range(0, 1, above=True)] = field(default=1.0, metadata=configs.LATER)

    def __post_init__(self) -> None:
        check_ranges(self)

    def peak(self, batch_size: int) -> float:
        """The highest learning rate of AdamW, for batches of this size."""
        return self.base_lr * batch_size / 256 if self.lr is None else self.lr


def build(model: torch.nn.Module, config: OptimConfig, batch_size: int = 256) -> torch.optim.Optimizer:
    """The optimizer of the trainable weights; the ``peak`` of each group is its highest learning rate.

    The weights of linear layers and convolutions decay. All others do not: norms, biases, and embeddings, be they
    tables or parameters like registers and learned positions.
    """
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, MATRICES)}
    parts = matrices_of_blocks(model) if config.muon_lr is not None else {}
    chosen: dict[str, list[torch.nn.Parameter]] = {"muon": [], "decayed": [], "plain": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "muon" if id(parameter) in parts else "decayed" if id(parameter) in matrices else "plain"
            chosen[kind].append(parameter)
    peak = config.peak(batch_size)
    groups = [
        {"params": chosen["decayed"], "weight_decay": config.weight_decay, "peak": peak},
        {"params": chosen["plain"], "weight_decay": 0.0, "peak": peak},
    ]
    if config.layer_decay < 1:
        groups = by_depth(model, groups, config)
    if config.muon_lr is None:
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=config.betas, fused=True)
    own = {"muon": True, "parts": [parts[id(parameter)] for parameter in chosen["muon"]], "peak": config.muon_lr}
    own |= {"iterations": config.muon_iterations, "precision": config.muon_precision}
    groups.insert(0, {"params": chosen["muon"], "weight_decay": config.weight_decay, **own})
    return MuonAdamW([g for g in groups if g["params"]], betas=config.betas)


def by_depth(model: torch.nn.Module, groups: list[dict[str, Any]], config: OptimConfig) -> list[dict[str, Any]]:
    """The same groups, divided by the depth of weights, with lower peaks further down.

    Raises :class:`Open4MError` for a model that does not say how deep its weights lie, and for Muon, which has a rate
    of its own."""
    if not hasattr(model, "depth_of") or config.muon_lr is not None:
        raise Open4MError("optim.layer_decay: is for transfers, trained by AdamW; set 1 here")
    depths = {id(parameter): model.depth_of(name) for name, parameter in model.named_parameters()}
    top, divided = max(depths.values()), []
    for group in groups:
        for depth in sorted({depths[id(parameter)] for parameter in group["params"]}, reverse=True):
            members = [parameter for parameter in group["params"] if depths[id(parameter)] == depth]
            divided.append({**group, "params": members, "peak": group["peak"] * config.layer_decay ** (top - depth)})
    return divided


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rates now, as metrics: ``lr`` of AdamW, the highest of all depths, and ``lr/muon``."""
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        name = "lr/muon" if group.get("muon") else "lr"
        found[name] = max(found.get(name, 0.0), group["lr"])
    return found


def matrices_of_blocks(model: torch.nn.Module) -> dict[int, int]:
    """How many matrices each weight of a linear layer of a block consists of, by the weight's id."""
    layers = [layer for block in blocks(model) for layer in block.modules() if isinstance(layer, torch.nn.Linear)]
    return {id(layer.weight): layer.parts if isinstance(layer, FusedLinear) else 1 for layer in layers}
