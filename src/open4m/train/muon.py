"""Muon: momentum whose update of each matrix is orthogonalized (https://kellerjordan.github.io/posts/muon, 2024).

It is for the matrices of Transformer blocks; all other weights have AdamW, in the same optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from open4m import ranks
from open4m.train.distributed import local, own_part, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton–Schulz iteration: singular values end between about 0.7 and 1.2, after few iterations."""

ITERATIONS = 5


def orthogonalized(matrices: Tensor, iterations: int = ITERATIONS, precision: str | None = None) -> Tensor:
    """The nearest orthogonal matrices to ``matrices`` (K, m, n), approximately: singular values become about 1.

    ``precision`` of the products, "bf16" or "fp32"; None: bfloat16 on GPUs, where that is exact enough and fast, and
    float32 elsewhere.
    """
    a, b, c = COEFFICIENTS
    reduced = matrices.is_cuda if precision is None else precision == "bf16"
    x = matrices.bfloat16() if reduced else matrices.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for groups with ``muon`` True, AdamW for the others.

    A group of Muon lists in ``parts``, one per parameter, how many matrices of equal height a weight consists of: the
    rows of a fused layer, such as queries, keys and values, are orthogonalized one by one. An update has the scale
    √max(1, rows / columns), so that one learning rate fits all shapes.

    Of a sharded model every matrix is gathered first, so that the update is that of the whole one. Ranks divide the
    matrices among them, whether the model is sharded or not.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], betas: tuple[float, float], momentum: float = 0.95) -> None:
        defaults = {"lr": 0.0, "weight_decay": 0.0, "betas": betas, "eps": 1e-8, "momentum": momentum, "muon": False}
        own = {"parts": (), "iterations": ITERATIONS, "precision": None}
        super().__init__([dict(group) for group in groups], {**defaults, **own})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else closure()
        for group in self.param_groups:
            (self._muon if group["muon"] else self._adamw)(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        pairs = zip(group["params"], group["parts"], strict=True)
        trained = [(parameter, parts) for parameter, parts in pairs if parameter.grad is not None]
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter, parts in trained:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            update = whole(parameter.grad.lerp(average, group["momentum"]))  # Nesterov's
            for part in update.chunk(parts):
                by_shape.setdefault(part.shape, []).append(part)
        results = {shape: iter(self._shared(torch.stack(found), group)) for shape, found in by_shape.items()}
        for parameter, parts in trained:
            rows, columns = parameter.shape[0] // parts, parameter.shape[1]
            update = torch.cat([next(results[rows, columns]) for _ in range(parts)])
            scale = group["lr"] * max(1.0, rows / columns) ** 0.5
            weight, own = local(parameter), own_part(update, parameter)
            weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(own, alpha=scale)

    def _shared(self, matrices: Tensor, group: dict[str, Any]) -> Tensor:
        """Orthogonalized ``matrices`` (K, m, n), of which each rank computes some."""
        edges = [rank * len(matrices) // ranks.count() for rank in (ranks.rank(), ranks.rank() + 1)]
        mine = matrices[edges[0] : edges[1]]
        return ranks.gathered(orthogonalized(mine, group["iterations"], group["precision"]))

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
