"""AdamW (paper Tables 3 and 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

MATRICES = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
"""The layers whose weights are multiplied with their input: weight decay is for them."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW. ``base_lr`` is for a batch of 256; the learning rate scales linearly with the batch (paper [46])."""

    base_lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    clip: float | None = None  # largest norm of the whole gradient; None: no clipping
    final_lr: float = 0.0  # at the end of the cosine, as a fraction of the peak


def build(model: torch.nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable weights. Those of linear layers and convolutions decay.

    All others do not: norms, biases, and embeddings, be they tables or parameters like registers and learned positions.
    """
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, MATRICES)}
    decayed, plain = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if id(parameter) in matrices else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=config.betas, fused=True)
