"""Forward passes over whole samples: one modality is shown whole, others are asked for whole.

Queries see only queries of their own modality, so asking for several targets at once gives each target the loss that it
has alone, for one pass of the encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from open4m.masking.batch import TokenRows, mask_batch
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.nn.attention import masked
from open4m.types import MaskedBatch

MAX_QUERIES = 512
"""Queries per sample in one pass, unless one target alone has more: bounds the decoder's memory."""

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


def swapped(rows: TokenRows, key: str) -> TokenRows:
    """The rows with one modality of each sample replaced by that of the next sample."""

    def rolled(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.roll(array, -1, axis=0) if name == key else array for name, array in table.items()}

    present = None if rows.present is None else rolled(rows.present)
    return TokenRows(rolled(rows.ids), rolled(rows.lengths), rolled(rows.pixels), present, rolled(rows.vectors))


def blanked(batch: MaskedBatch, index: int) -> MaskedBatch:
    """The batch without the input tokens of a modality."""
    valid = batch.input_valid & (batch.input_modality != index)
    return dataclasses.replace(batch, input_valid=valid, input_counts=None, target_counts=None)


def shuffled_positions(batch: MaskedBatch, index: int, generator: torch.Generator) -> Tensor:
    """``input_position`` (B, N) with the positions of a modality's tokens permuted within each sample."""
    chosen = (batch.input_modality == index) & batch.input_valid
    noise = torch.rand(chosen.shape, generator=generator)
    order = noise.masked_fill(~chosen, 2.0).argsort(
        dim=1, stable=True
    )  # the chosen tokens in a random order, then others
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
    return model.context_proj(model.encode_tokens(x, masked(valid[:, None, None]))) + where


@torch.inference_mode()
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


def by_cell(values: Tensor, batch: MaskedBatch) -> Tensor:
    """Values (B, N, ...) of the tokens of one whole grid in the order of its cells."""
    return values[torch.arange(len(batch), device=values.device)[:, None], batch.input_position.argsort(1)]


def _judged(model: FourMTransformer, spec: ModalitySpec, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies and whether the likeliest token is the target, (n,) each."""
    size = max(1, MAX_LOGITS // spec.vocab_size)
    costs, hits = [], []
    for some, wanted in zip(hidden.split(size), target.split(size), strict=True):
        logits = model.logits(some, spec.key)
        costs.append(F.cross_entropy(logits, wanted, reduction="none"))
        hits.append(logits.argmax(-1) == wanted)
    return torch.cat(costs), torch.cat(hits)


def _queries(spec: ModalitySpec) -> int:
    """Target tokens of a whole modality: a sequence is followed by the sentinel that ends it."""
    return spec.length + spec.is_sequence
