"""Batches of whole samples: one modality is shown whole, others are asked for whole.

Queries see only queries of their own modality, so asking for several targets at once gives each target the loss that it
has alone, for one pass of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from open4m.masking.batch import TokenRows, mask_batch
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.types import MaskedBatch

MAX_QUERIES = 512
"""Queries per sample in one pass, unless one target alone has more: bounds the decoder's memory."""


def targets_of(config: FourMConfig, source: str, has_text: bool) -> list[str]:
    """The modalities that the model was trained to predict from ``source``, itself left out.

    Without a text tokenizer the sentinel that starts a sequence is unknown, so sequences are left out.
    """
    return [
        spec.key
        for spec in config.modalities
        if spec.is_target
        and spec.key != source
        and source in config.sources(spec.key)
        and (has_text or not spec.is_causal)
    ]


def grouped(config: FourMConfig, targets: Sequence[str]) -> list[list[str]]:
    """The targets in groups of at most :data:`MAX_QUERIES` tokens, or of one target."""
    groups: list[list[str]] = []
    used = MAX_QUERIES
    for key in targets:
        length = _queries(config.spec(key))
        if used + length > MAX_QUERIES:
            groups.append([])
            used = 0
        groups[-1].append(key)
        used += length
    return groups


def whole(
    config: FourMConfig, rows: TokenRows, source: str, targets: Sequence[str], sentinels: np.ndarray
) -> MaskedBatch:
    """All tokens of ``source`` shown, all tokens of ``targets`` asked for; nothing else.

    Without targets a single token of any is asked for: a batch for the encoder alone.
    """
    spec = config.spec(source)
    strategy = Strategy(
        name="whole",
        input_alpha={source: 1.0},
        target_alpha=dict.fromkeys(targets or config.targets[:1], float("inf")),
        unmasked=(source,) if spec.is_sequence else (),
    )
    budget = max(1, sum(_queries(config.spec(key)) for key in targets))
    masking = MaskingConfig(input_budget=spec.length, target_budget=budget, strategies=(strategy,))
    return mask_batch(rows, config.modalities, masking, sentinels, seed=0, step=0)


def _queries(spec: ModalitySpec) -> int:
    """Target tokens of a whole modality: a sequence is followed by the sentinel that ends it."""
    return spec.length + spec.is_sequence
