"""Experiments on a trained model: what its loss says when the input is changed.

Training can afford :func:`quick`; :mod:`open4m.evaluate.diagnose` does all the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from open4m.model.config import ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.nn.attention import over
from open4m.nn.rotary import rotated
from open4m.rng import torch_stream
from open4m.types import MaskedBatch

MAX_LOGITS = 1 << 24
"""Logits that are in memory at a time: 64 MiB."""


@dataclass(frozen=True)
class Tally:
    """A quantity of tokens, summed per sample: ``total`` (N,) over ``count`` (N,) tokens."""

    total: np.ndarray
    count: np.ndarray

    @property
    def mean(self) -> float:
        """Per token; NaN without tokens."""
        return float(self.total.sum() / self.count.sum()) if self.count.sum() else float("nan")

    @property
    def error(self) -> float:
        """The standard error of :attr:`mean`, whose independent units are samples, not tokens; NaN for one sample."""
        samples = int((self.count > 0).sum())
        if samples < 2:
            return float("nan")
        residual = self.total - self.mean * self.count
        return float(np.sqrt(samples / (samples - 1) * (residual**2).sum()) / self.count.sum())

    def minus(self, other: Tally) -> Tally:
        """The difference, sample by sample, of the same tokens."""
        return Tally(self.total - other.total, self.count)

    @staticmethod
    def join(parts: Sequence[Tally]) -> Tally:
        """The tally of all samples of several."""
        return Tally(np.concatenate([p.total for p in parts]), np.concatenate([p.count for p in parts]))


@dataclass(frozen=True)
class Score:
    """How well the targets of one modality are predicted: cross-entropy in nats, and how many are the likeliest."""

    cost: Tally
    hits: Tally


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


def blanked(batch: MaskedBatch, index: int) -> MaskedBatch:
    """The batch without the input tokens of a modality."""
    valid = batch.input_valid & (batch.input_modality != index)
    return dataclasses.replace(batch, input_valid=valid, input_counts=None, target_counts=None)


def shuffled_positions(batch: MaskedBatch, index: int, generator: torch.Generator) -> Tensor:
    """``input_position`` (B, N) with the positions of a modality's tokens permuted within each sample."""
    chosen = (batch.input_modality == index) & batch.input_valid
    noise = torch.rand(chosen.shape, generator=generator)
    order = noise.masked_fill(~chosen, 2.0).argsort(dim=1, stable=True)  # the chosen in a random order, then others
    places = (~chosen).int().argsort(dim=1, stable=True)  # the chosen ones first, in their own order
    return batch.input_position.scatter(1, places, batch.input_position.gather(1, order))


def context(model: FourMTransformer, batch: MaskedBatch, encoder_position: Tensor | None = None) -> Tensor:
    """What the decoder reads. With ``encoder_position`` (B, N), only the encoder reads these positions: contents, and
    the positions that are added to its features for the decoder, stay those of ``batch``."""
    if encoder_position is None:
        return model.context(batch)
    embeddings = model.embeddings
    where = embeddings.where(batch.input_modality, batch.input_position)
    moved = embeddings.where(batch.input_modality, encoder_position) + embeddings.content(batch)
    x, where, valid = embeddings.with_registers(moved, where, batch.input_valid)
    turn = model.turn_inputs(dataclasses.replace(batch, input_position=encoder_position))
    return model.context_proj(model.encode_tokens(x, rotated(over(valid), turn, turn))) + where


@torch.no_grad()  # inference mode would not do for sharded models
def score(model: FourMTransformer, batch: MaskedBatch, encoder_position: Tensor | None = None) -> dict[str, Score]:
    """The scores of every target modality of a batch, sample by sample, teacher-forced."""
    device = model.embeddings.mask_token.device
    batch = batch.to(device)
    moved = None if encoder_position is None else encoder_position.to(device)
    hidden = model.decode(context(model, batch, moved), batch)
    scores = {}
    for index, spec in enumerate(model.config.modalities):
        chosen = batch.target_valid & (batch.target_modality == index)
        if not spec.is_target or not chosen.any():
            continue
        cost, hit = _judged(model, spec, hidden[chosen], batch.target_id[chosen])
        row, zeros = chosen.nonzero()[:, 0], torch.zeros(len(batch), dtype=torch.float64, device=device)
        count, total, hits = (
            zeros.index_add(0, row, value.double()).cpu().numpy() for value in (torch.ones_like(cost), cost, hit)
        )
        scores[spec.key] = Score(Tally(total, count), Tally(hits, count))
    return scores


def _judged(model: FourMTransformer, spec: ModalitySpec, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies and whether the likeliest token is the target, (n,) each."""
    size = max(1, MAX_LOGITS // spec.vocab_size)
    costs, hits = [], []
    for some, wanted in zip(hidden.split(size), target.split(size), strict=True):
        logits = model.logits(some, spec.key)
        costs.append(F.cross_entropy(logits, wanted, reduction="none"))
        hits.append(logits.argmax(-1) == wanted)
    return torch.cat(costs), torch.cat(hits)


def _total(scores: dict) -> Tally:
    """The cost of all targets of each sample, whatever their modality."""
    costs = [s.cost for s in scores.values()]
    return Tally(sum(c.total for c in costs), sum(c.count for c in costs))
