"""The training loss: cross-entropies of all modalities (paper 2.2), and two ways to weight them (E.6, Table 25)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["per_modality", "per_token"]


def aggregate(
    costs: Mapping[str, Tensor], aggregation: Aggregation = "per_modality", counts: Mapping[str, int] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimize, and the mean cross-entropy of each target modality, in nats.

    ``costs``: the cross-entropy (n,) of every target of a modality, as the model gives them. "per_modality" is the mean
    over modalities of their means. A modality without targets in this batch counts as 0, so that the weight of the
    others does not depend on what a batch happens to hold. "per_token" is the mean over all targets, whatever their
    modality. ``counts``: the targets of each modality in the whole batch, if ``costs`` are those of some of its rows:
    the results are then the part of these rows, and parts add up.
    """
    counts = {key: len(cost) for key, cost in costs.items()} if counts is None else counts
    means = {key: cost.sum() / max(1, counts[key]) for key, cost in costs.items()}
    if aggregation == "per_modality":
        return torch.stack(list(means.values())).mean(), means
    return torch.cat(list(costs.values())).sum() / max(1, sum(counts[key] for key in costs)), means
