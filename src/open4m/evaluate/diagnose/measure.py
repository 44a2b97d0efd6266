"""What is measured of a model: numbers without judgment. :mod:`verdicts` judges them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from open4m.evaluate.diagnose.data import content_keys, size_of
from open4m.evaluate.diagnose.passes import by_cell, swapped
from open4m.fourm import FourMBase
from open4m.masking.batch import TokenRows
from open4m.masking.whole import grouped, whole
from open4m.model.inspection import MAX_LOGITS, Score, Tally, blanked, score, shuffled_positions
from open4m.progress import Progress
from open4m.rng import stream, torch_stream
from open4m.train import directions as train
from open4m.types import MaskedBatch


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One target predicted from one input alone, teacher-forced; losses in nats per token, the last three as rises over
    ``loss``: the input's positions shuffled in the encoder, the input left out, another sample's input."""

    loss: Tally
    hits: Tally
    shuffled: Tally
    blanked: Tally
    swapped: Tally


@dataclass(frozen=True, kw_only=True)
class Norms:
    """Deviations of what is added up for the tokens of one input modality: content, position, and modality embedding.
    ``varying``: of the positions, their mean over the tokens removed: what tells places apart."""

    content: float
    position: float
    varying: float
    modality: float


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """What changes when one token is replaced by another sample's. Features: distance moved, relative to their spread
    over tokens. Predictions: total variation distance of the distributions, NaN without a target on places."""

    features_here: float
    features_elsewhere: float
    predictions_here: float
    predictions_elsewhere: float


def directions(model: FourMBase, present: set[str]) -> dict[str, list[str]]:
    """The targets of each input that the model was trained for and the data has."""
    trained = train.directions(model.config, model.text is not None)
    found = {key: [t for t in targets if t in present] for key, targets in trained.items() if key in present}
    return {source: targets for source, targets in found.items() if targets}


def pairs(
    model: FourMBase, batches: Sequence[TokenRows], wanted: Mapping[str, Sequence[str]], seed: int = 0
) -> dict[tuple[str, str], Pair]:
    """Every direction (input, target) of ``wanted``, measured on whole samples."""
    found: dict[tuple[str, str], dict[str, list[Tally]]] = {}
    with Progress("inputs and targets", len(batches) * len(wanted)) as progress:
        for step, rows in enumerate(batches):
            without: dict[str, Score] = {}  # of no input: equal for all sources, so it is computed once per target
            for source, targets in wanted.items():
                for batch, other in _pairs_of_batches(model, rows, source, targets):
                    index = model.config.index(source)
                    moved = shuffled_positions(batch, index, torch_stream(seed, step, index))
                    base = score(model.model, batch)
                    if not without.keys() >= base.keys():
                        without |= score(model.model, blanked(batch, index))
                    changed = {
                        "shuffled": score(model.model, batch, moved),
                        "blanked": without,
                        "swapped": score(model.model, other),
                    }
                    for target, own in base.items():
                        parts = found.setdefault((source, target), {})
                        parts.setdefault("loss", []).append(own.cost)
                        parts.setdefault("hits", []).append(own.hits)
                        for name, scores in changed.items():
                            parts.setdefault(name, []).append(scores[target].cost.minus(own.cost))
                progress.advance(note=source)
    return {key: Pair(**{name: Tally.join(t) for name, t in parts.items()}) for key, parts in found.items()}


def losses(
    model: FourMBase, batches: Sequence[TokenRows], wanted: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], Tally]:
    """The loss of every direction alone."""
    found: dict[tuple[str, str], list[Tally]] = {}
    with Progress("training samples", len(batches) * len(wanted)) as progress:
        for rows in batches:
            for source, targets in wanted.items():
                part = train.losses(model.model, rows, {source: targets}, sentinels_of(model))
                for direction, tally in part.items():
                    found.setdefault(direction, []).append(tally)
                progress.advance(note=source)
    return {key: Tally.join(parts) for key, parts in found.items()}


@torch.inference_mode()
def norms(model: FourMBase, rows: TokenRows, source: str) -> Norms:
    """The deviations of one batch's embeddings, over tokens and channels."""
    batch = whole(model.config, rows, source, [], sentinels_of(model)).to(model.device)
    embeddings, valid = model.model.embeddings, batch.input_valid
    content = embeddings.content(batch)[valid]
    modality = embeddings.modality(batch.input_modality)
    position = (embeddings.where(batch.input_modality, batch.input_position) - modality)[valid]
    varying = position - position.mean(0)
    parts = {"content": content, "position": position, "varying": varying, "modality": modality[valid]}
    return Norms(**{name: float(part.double().std()) for name, part in parts.items()})


@torch.inference_mode()
def replaced(
    model: FourMBase, batches: Sequence[TokenRows], source: str, targets: Sequence[str], seed: int
) -> Replaced:
    """One random cell of each sample shows what the next sample shows there.

    ``source`` lies on places. Predictions are those of the targets on places; a cell of theirs is "here" if its center
    lies in the replaced cell.
    """
    config, spec = model.config, model.config.spec(source)
    placed = [key for key in targets if config.spec(key).has_places and config.spec(key).has_codebook]
    sums: dict[str, list[float]] = {}

    def note(name: str, values: Tensor) -> None:
        sums.setdefault(name, []).append(float(values.double().mean()))

    for step, rows in enumerate(batches):
        cell = stream(seed, step).integers(spec.length, size=size_of(rows))
        changed_rows = one_cell_swapped(rows, source, cell, spec.grid)
        before, after = (
            whole(config, given, source, [], sentinels_of(model)).to(model.device) for given in (rows, changed_rows)
        )
        first, second = (
            by_cell(model.model.encode(batch)[:, config.register_tokens :], batch) for batch in (before, after)
        )
        spread = (first - first.mean((0, 1))).norm(dim=-1).square().mean().sqrt().clamp(min=1e-12)
        here = torch.arange(spec.length, device=first.device) == torch.as_tensor(cell, device=first.device)[:, None]
        moved = (second - first).norm(dim=-1) / spread
        note("features_here", moved[here])
        note("features_elsewhere", moved[~here])
        for key, distance in _total_variations(model, rows, changed_rows, source, placed).items():
            near = torch.as_tensor(cell_of(config.spec(key).grid, spec.grid), device=here.device)  # (L,)
            inside = here.gather(1, near.expand(len(here), -1))
            if inside.any():
                note("predictions_here", distance[inside])
            note("predictions_elsewhere", distance[~inside])
    names = [field.name for field in dataclasses.fields(Replaced)]
    return Replaced(**{name: float(np.mean(sums.get(name, [np.nan]))) for name in names})


def one_cell_swapped(rows: TokenRows, key: str, cell: np.ndarray, grid: tuple[int, int]) -> TokenRows:
    """The rows with one ``cell`` (B,) of each sample's grid replaced by that of the next sample."""
    other = swapped(rows, key)
    row = np.arange(len(cell))
    if key in rows.ids:
        ids = rows.ids[key].copy()
        ids[row, cell] = other.ids[key][row, cell]
        return dataclasses.replace(rows, ids={**rows.ids, key: ids})
    pixels = rows.pixels[key].copy()
    height, width = (side // cells for side, cells in zip(pixels.shape[2:], grid, strict=True))
    for i, (y, x) in enumerate(zip(*divmod(cell, grid[1]), strict=True)):
        patch = np.s_[i, :, y * height : (y + 1) * height, x * width : (x + 1) * width]
        pixels[patch] = other.pixels[key][patch]
    return dataclasses.replace(rows, pixels={**rows.pixels, key: pixels})


def cell_of(grid: tuple[int, int], other: tuple[int, int]) -> np.ndarray:
    """For each cell of ``grid``, (h·w,), the cell of another grid over the same image in which its center lies."""
    y, x = ((np.arange(n) + 0.5) / n * m for n, m in zip(grid, other, strict=True))
    return (y.astype(np.int64)[:, None] * other[1] + x.astype(np.int64)).ravel()


def sentinels_of(model: FourMBase) -> np.ndarray:
    """The token ids of the sentinels, none without a text tokenizer."""
    return np.array([] if model.text is None else model.text.sentinels, dtype=np.int64)


def present(batches: Sequence[TokenRows]) -> set[str]:
    """The modalities that the samples have."""
    return content_keys(batches[0])


def _pairs_of_batches(
    model: FourMBase, rows: TokenRows, source: str, targets: Sequence[str]
) -> Iterator[tuple[MaskedBatch, MaskedBatch]]:
    """For each group of targets the batch, and the same with another sample's input."""
    for group in grouped(model.config, targets):
        yield tuple(
            whole(model.config, given, source, group, sentinels_of(model)) for given in (rows, swapped(rows, source))
        )


def _total_variations(
    model: FourMBase, rows: TokenRows, other: TokenRows, source: str, targets: Sequence[str]
) -> dict[str, Tensor]:
    """Half the L1 distance between the predictions from two inputs, (B, L) in the order of each target's cells."""
    network, distances = model.model, {}
    for group in grouped(model.config, targets):
        first, second = (
            whole(model.config, given, source, group, sentinels_of(model)).to(model.device) for given in (rows, other)
        )
        hidden = [network.decode(network.context(batch), batch) for batch in (first, second)]
        for key in group:
            chosen = first.target_valid & (first.target_modality == model.config.index(key))
            size = max(1, MAX_LOGITS // model.config.spec(key).vocab_size)
            parts = []
            for pair in zip(*(states[chosen].split(size) for states in hidden), strict=True):
                before, after = (network.logits(states, key).softmax(-1) for states in pair)
                parts.append((before - after).abs().sum(-1) / 2)
            order = first.target_position[chosen].view(len(first), -1).argsort(1)
            distances[key] = torch.cat(parts).view(len(first), -1).gather(1, order)
    return distances
