"""A packed batch from explicit tokens, for those who choose tokens themselves instead of having them masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from open4m.model.config import FourMConfig, ModalitySpec
from open4m.types import MaskedBatch, Open4MError

DENSE = -1
"""The token id of what has no row in a table, a pixel patch or a vector; also the query id of the mask token."""
SPAN = -2
"""The token id of a masked span of vectors."""


def pack(
    config: FourMConfig,
    inputs: Any,
    targets: Any,
    *,
    pixels: Mapping[str, Any] | None = None,
    vectors: Mapping[str, Any] | None = None,
    modalities: Sequence[str] | None = None,
) -> MaskedBatch:
    """The packed batch of two flat lists of tokens, in any order, of samples of any number of tokens.

    ``inputs`` (n, 4): sample, modality, position, token id; the id −1 stands for the patch at that position of
    ``pixels`` (key → float (B, C, H, W), normalized) or of ``vectors`` (key → float (B, L, C)), −2 for a masked span
    of vectors. ``targets`` (m, 5): sample, modality, position, query id, target id; the query id is −1, the mask token,
    in grids, and the token before the target in sequences. Positions are raster indices in grids and count the shown
    tokens in sequences. ``modalities``: the keys that the second column counts; by default those of ``config``.

    Raises :class:`Open4MError` for a token that the model has no entry for.
    """
    keys = config.keys if modalities is None else list(modalities)
    dense = {
        kind: {key: torch.as_tensor(value, dtype=torch.float32) for key, value in (given or {}).items()}
        for kind, given in (("pixels", pixels), ("vectors", vectors))
    }
    inputs, targets = _table("inputs", inputs, 4, config, keys), _table("targets", targets, 5, config, keys)
    shown = [len(value) for values in dense.values() for value in values.values()]
    size = max([0, *(int(t[:, 0].max(initial=-1)) + 1 for t in (inputs, targets)), *shown])
    for i, spec in enumerate(config.modalities):
        _check_inputs(spec, inputs[inputs[:, 1] == i], {**dense["pixels"], **dense["vectors"]}, size)
        _check_targets(spec, targets[targets[:, 1] == i])
    if unknown := [key for values in dense.values() for key in values if key not in config.keys]:
        raise Open4MError(f"pixels or vectors of {', '.join(unknown)}: not a modality of the model")
    is_vector = np.array([spec.content == "vectors" for spec in config.modalities])[inputs[:, 1]]
    ids = inputs[:, 3]
    vector = np.where(ids == DENSE, inputs[:, 2] + 1, np.where(ids == SPAN, 0, ids + 1))
    inputs[:, 3] = np.where(is_vector, vector, np.maximum(ids, 0))
    targets[:, 3] = np.maximum(targets[:, 3], 0)
    return MaskedBatch(
        **_padded(inputs, size, ("input_modality", "input_position", "input_id"), "input_valid"),
        **_padded(targets, size, ("target_modality", "target_position", "query_id", "target_id"), "target_valid"),
        **dense,
    )


def _table(name: str, rows: Any, width: int, config: FourMConfig, keys: Sequence[str]) -> np.ndarray:
    """A list of tokens as an array (n, width), sorted by sample, its modalities those of the model."""
    table = np.asarray(rows)
    if table.size == 0:
        return np.zeros((0, width), dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != width or table.dtype.kind not in "iu":
        raise Open4MError(f"{name}: expected integers (n, {width}), got {table.dtype} {table.shape}")
    table = table.astype(np.int64)
    if table[:, 0].min() < 0 or table[:, 1].min() < 0 or table[:, 1].max() >= len(keys):
        raise Open4MError(f"{name}: expected samples from 0 and modalities from 0 to {len(keys) - 1} in columns 0, 1")
    used = np.unique(table[:, 1])
    index = np.zeros(len(keys), dtype=np.int64)
    index[used] = [config.index(keys[i]) for i in used]
    table[:, 1] = index[table[:, 1]]
    return table[np.argsort(table[:, 0], kind="stable")]


def _check_inputs(spec: ModalitySpec, rows: np.ndarray, dense: Mapping[str, torch.Tensor], size: int) -> None:
    if not len(rows):
        return
    if not spec.is_input:
        raise Open4MError(f"inputs: {spec.key} is not an input of the model")
    _check(spec, "position", rows[:, 2], 0, spec.positions)
    if spec.has_vocabulary:
        _check(spec, "token id", rows[:, 3], 0, spec.vocab_size)
        return
    if spec.key not in dense:
        raise Open4MError(f"inputs: {spec.key} has tokens, but its {spec.family} are not given")
    if spec.content == "pixels":
        _check(spec, "token id", rows[:, 3], DENSE, DENSE + 1)
        side = (spec.grid[0] * spec.patch_size, spec.grid[1] * spec.patch_size)
        expected = (size, spec.channels, *side)
    else:
        length = dense[spec.key].shape[1] if dense[spec.key].ndim == 3 else 0
        _check(spec, "vector", np.where(rows[:, 3] == DENSE, rows[:, 2], rows[:, 3]), SPAN, length)
        expected = (size, length, spec.channels)
    if (got := tuple(dense[spec.key].shape)) != expected:
        raise Open4MError(f"{spec.key}: expected {spec.family} of shape {expected}, got {got}")


def _check_targets(spec: ModalitySpec, rows: np.ndarray) -> None:
    if not len(rows):
        return
    if not spec.is_target:
        raise Open4MError(f"targets: {spec.key} is not a target of the model")
    _check(spec, "position", rows[:, 2], 0, spec.positions)
    _check(spec, "target id", rows[:, 4], 0, spec.vocab_size)
    if spec.has_codebook:
        _check(spec, "query id", rows[:, 3], DENSE, DENSE + 1)
    else:
        _check(spec, "query id", rows[:, 3], 0, spec.vocab_size)


def _check(spec: ModalitySpec, what: str, values: np.ndarray, low: int, end: int) -> None:
    if values.min() < low or values.max() >= end:
        wrong = values[(values < low) | (values >= end)][0]
        raise Open4MError(f"{spec.key}: expected a {what} from {low} to {end - 1}, got {wrong}")


def _padded(table: np.ndarray, size: int, names: Sequence[str], valid: str) -> dict[str, torch.Tensor]:
    """The columns of a table after the first, as rectangles (size, longest sample) with zeros after each sample."""
    counts = np.bincount(table[:, 0], minlength=size)
    width = int(counts.max(initial=0))
    place = np.arange(len(table)) - np.repeat(np.cumsum(counts) - counts, counts)
    fields = {}
    for column, name in enumerate(names, 1):
        array = np.zeros((size, width), dtype=np.int64)
        array[table[:, 0], place] = table[:, column]
        fields[name] = torch.from_numpy(array)
    return {**fields, valid: torch.from_numpy(np.arange(width) < counts[:, None])}


def stacked(parts: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Pixels or vectors of all samples as one tensor; zeros where a sample has none, or fewer vectors."""
    shape = np.max([part.shape for part in parts if part is not None], axis=0).tolist()
    stacked = torch.zeros(len(parts), *shape)
    for row, part in enumerate(parts):
        if part is not None:
            stacked[row, : len(part)] = part
    return stacked
