"""What a diagnosis changes in whole samples, and how it reads what comes out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from open4m.masking.batch import TokenRows
from open4m.types import MaskedBatch


def swapped(rows: TokenRows, key: str) -> TokenRows:
    """The rows with one modality of each sample replaced by that of the next sample."""

    def rolled(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.roll(array, -1, axis=0) if name == key else array for name, array in table.items()}

    present = None if rows.present is None else rolled(rows.present)
    return TokenRows(rolled(rows.ids), rolled(rows.lengths), rolled(rows.pixels), present, rolled(rows.vectors))


def by_cell(values: Tensor, batch: MaskedBatch) -> Tensor:
    """Values (B, N, ...) of the tokens of one whole grid in the order of its cells."""
    return values[torch.arange(len(batch), device=values.device)[:, None], batch.input_position.argsort(1)]
