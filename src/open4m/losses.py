"""The training loss: cross-entropy for every modality (paper 2.2), averaged per modality (paper E.6, Table 25)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from open4m.model.config import FourMConfig
from open4m.types import MaskedBatch


def per_modality(
    logits: dict[str, Tensor], batch: MaskedBatch, config: FourMConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean over target modalities of the mean cross-entropy of each, in nats, and each one's.

    ``logits`` are the model's: (n, V) a modality, n its valid targets. A modality without targets in this batch counts
    as 0, so that a modality's weight does not depend on what a batch happens to hold.
    """
    losses = {}
    for key, values in logits.items():
        chosen = batch.target_valid & (batch.target_modality == config.index(key))
        if values.shape[0]:
            losses[key] = F.cross_entropy(values.float(), batch.target_id[chosen])
        else:
            losses[key] = values.float().sum()  # zero, and part of the graph
    return torch.stack(list(losses.values())).mean(), losses
