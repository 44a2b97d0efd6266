"""Whether a fresh model of the same architecture can learn a few samples by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from open4m.evaluate.diagnose.measure import sentinels_of
from open4m.fourm import FourMBase
from open4m.masking.batch import TokenRows, mask_batch
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.fourm import FourMTransformer
from open4m.progress import Progress
from open4m.rng import seeded
from open4m.train.losses import aggregate

OVERFIT_SAMPLES = 16
"""Samples that are learned by heart."""

OVERFIT_TARGETS = 128
"""Target tokens per sample."""

OVERFIT_GOAL = 0.05
"""The loss, in nats per token, at which the samples count as learned."""

WARMUP_STEPS = 20
"""The steps over which the learning rate rises."""

RATE_TIMES_WIDTH = 0.4
"""The peak learning rate is this divided by the model's width: wide models diverge at the rates of narrow ones."""

MAX_RATE = 3e-3
"""The largest peak learning rate, which narrow models have."""


def overfit(model: FourMBase, rows: TokenRows, source: str, targets: Sequence[str], steps: int, seed: int) -> tuple:
    """(loss in nats, steps taken) of a fresh model of the same architecture, trained on the same few samples and the
    same masks until it knows them by heart, or ``steps`` are over."""
    config = model.config
    masking = MaskingConfig(
        input_budget=config.spec(source).length,
        target_budget=OVERFIT_TARGETS,
        strategies=(
            Strategy(
                name="overfit",
                input_alpha={source: 1.0},
                target_alpha=dict.fromkeys(targets, float("inf")),
                unmasked=(source,) if config.spec(source).is_sequence else (),
            ),
        ),
    )
    batch = mask_batch(rows, config.modalities, masking, sentinels_of(model), seed=seed, step=0).to(model.device)
    fresh = FourMTransformer(config).initialize(seeded(seed)).to(model.device)
    for name, buffer in model.model.named_buffers():  # what was measured on training data stays, such as a whitening
        fresh.get_buffer(name).copy_(buffer)
    rate = min(MAX_RATE, RATE_TIMES_WIDTH / config.dim)
    optimizer = torch.optim.AdamW(fresh.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    loss, done = float("nan"), 0
    with Progress("overfit", steps) as progress:
        for done in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, done / WARMUP_STEPS)
            value, _ = aggregate({key: cost for key, cost in fresh(batch).items() if len(cost)})
            loss = float(value.detach())
            if loss < OVERFIT_GOAL:
                break
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(fresh.parameters(), 1.0)
            optimizer.step()
            progress.update(done, note=f"loss {loss:.3f}")
    return loss, done


def first_samples(batches: Sequence[TokenRows], count: int) -> TokenRows:
    """The first ``count`` samples, or as many as the first batch has."""

    def cut(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: array[:count] for key, array in table.items()}

    rows = batches[0]
    present = None if rows.present is None else cut(rows.present)
    return TokenRows(cut(rows.ids), cut(rows.lengths), cut(rows.pixels), present, cut(rows.vectors))
