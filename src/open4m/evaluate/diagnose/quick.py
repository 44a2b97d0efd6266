"""Two diagnoses that are cheap enough for training: whether positions and modalities of the input matter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from open4m.evaluate.diagnose.passes import Tally, blanked, score, shuffled_positions
from open4m.model.fourm import FourMTransformer
from open4m.rng import torch_stream
from open4m.types import MaskedBatch


def quick(model: FourMTransformer, batches: Iterable[MaskedBatch], seed: int = 0) -> dict[str, float]:
    """What the loss of a few masked batches says about the encoder's use of its input.

    ``shuffle/<modality>``: nats per target token that the loss rises by when the positions of that modality's tokens
    are permuted in the encoder. About 0: a bag of tokens. ``blank/<modality>``: by which it rises without the
    modality's tokens. About 0: a dead modality, or one that the rest of the input makes superfluous. Only samples that
    show the modality count, for shuffling at least two tokens of it. It takes 1 + 2 · modalities passes per batch,
    without gradients; the model's mode is left as it was.
    """
    differences: dict[str, list[Tally]] = {}
    training = model.training
    model.eval()
    try:
        for step, batch in enumerate(batches):
            base = _total(score(model, batch))
            for index, spec in enumerate(model.config.modalities):
                shown = ((batch.input_modality == index) & batch.input_valid).sum(1).cpu().numpy()
                if not shown.any():
                    continue
                moved = shuffled_positions(batch.to("cpu"), index, torch_stream(seed, step, index))
                variants = {
                    "shuffle": (_total(score(model, batch, moved)), shown > 1),
                    "blank": (_total(score(model, blanked(batch, index))), shown > 0),
                }
                for name, (changed, counts) in variants.items():
                    rise = changed.minus(base)
                    kept = Tally(np.where(counts, rise.total, 0), np.where(counts, rise.count, 0))
                    differences.setdefault(f"{name}/{spec.key}", []).append(kept)
    finally:
        model.train(training)
    rises = {name: Tally.join(parts).mean for name, parts in differences.items()}
    return {name: rise for name, rise in rises.items() if np.isfinite(rise)}


def _total(scores: dict) -> Tally:
    """The cost of all targets of each sample, whatever their modality."""
    costs = [s.cost for s in scores.values()]
    return Tally(sum(c.total for c in costs), sum(c.count for c in costs))
