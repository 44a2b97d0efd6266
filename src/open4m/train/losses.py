"""The training loss: cross-entropy for every modality (paper 2.2), and two ways to weigh them (E.6, Table 25)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["per_modality", "per_token"]


def aggregate(costs: dict[str, Tensor], aggregation: Aggregation = "per_modality") -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimize, and each target modality's mean cross-entropy, in nats.

    ``costs``: the cross-entropy (n,) of every target of a modality, as the model gives them. "per_modality" is the mean
    over modalities of their means: one without targets in this batch counts as 0, so that a modality's weight does not
    depend on what a batch happens to hold. "per_token" is the mean over all targets, whatever their modality.
    """
    means = {key: cost.sum() / max(1, len(cost)) for key, cost in costs.items()}
    if aggregation == "per_modality":
        return torch.stack(list(means.values())).mean(), means
    everything = torch.cat(list(costs.values()))
    return everything.sum() / max(1, len(everything)), means
