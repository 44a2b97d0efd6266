"""The training loss: cross-entropy for every modality (paper 2.2), and two ways to weigh them (E.6, Table 25)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from open4m.model.config import FourMConfig
from open4m.types import MaskedBatch

Aggregation = Literal["per_modality", "per_token"]


def cross_entropy(
    logits: dict[str, Tensor], batch: MaskedBatch, config: FourMConfig, aggregation: Aggregation = "per_modality"
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimize, and each target modality's mean cross-entropy, in nats.

    ``logits`` are the model's: (n, V) a modality, n its valid targets. "per_modality" is the mean over modalities of
    these means: one without targets in this batch counts as 0, so that a modality's weight does not depend on what a
    batch happens to hold. "per_token" is the mean over all targets, whatever their modality.
    """
    means, counts = {}, {}
    for key, values in logits.items():
        chosen = batch.target_valid & (batch.target_modality == config.index(key))
        counts[key] = values.shape[0]
        if counts[key]:
            means[key] = F.cross_entropy(values.float(), batch.target_id[chosen])
        else:
            means[key] = values.float().sum()  # zero, and part of the graph
    if aggregation == "per_modality":
        return torch.stack(list(means.values())).mean(), means
    total = sum(means[key] * counts[key] for key in means)
    return total / max(1, sum(counts.values())), means
