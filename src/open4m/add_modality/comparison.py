"""Validation losses of a model before and after it learned a modality, on the same samples and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from open4m.evaluate.report import rounded
from open4m.masking.config import MaskingConfig
from open4m.model.config import ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.store.tokens import TokenStore
from open4m.train.tasks.fourm import FourMTask

MOST_FORGOTTEN = 0.02
"""By what share the loss of an old modality may rise."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Validation losses in nats: ``before`` and ``after`` of each old modality, the mean over the strategies that
    rehearse it; of the ``new`` one from old modalities, beside what its vocabulary and the frequencies of its tokens
    give (``uniform``, ``unigram``). ``losses``: all of them, by model and ``strategy/modality``."""

    modality: str
    before: dict[str, float]
    after: dict[str, float]
    new: dict[str, float]
    losses: dict[str, dict[str, float]]

    @property
    def forgotten(self) -> float:
        """The largest relative rise of an old modality's loss; below 0 if none rose."""
        return max(self.after[key] / self.before[key] - 1 for key in self.before)

    def table(self) -> str:
        """A Markdown table: old modalities before and after, then the new one."""
        lines = ["| modality | before | after | change |", "|---|--:|--:|--:|"]
        for key, was in self.before.items():
            now = self.after[key]
            lines.append(f"| {key} | {rounded(was)} | {rounded(now)} | {100 * (now / was - 1):+.1f} % |")
        new = {name: rounded(value) for name, value in self.new.items()}
        lines.append(f"| **{self.modality}** | {new['unigram']} (unigram) | {new['after']} | new |")
        said = f"{self.modality}: {new['uniform']} nats if all tokens were alike, {new['unigram']} by their frequencies"
        lines += ["", f"{said}, {new['warm-up']} after the warm-up, {new['after']} at the end"]
        return "\n".join([*lines, *self.wrong()])

    def wrong(self) -> list[str]:
        """What is wrong with the result, in words; nothing if it is as it should be."""
        said = []
        if self.new["after"] >= self.new["unigram"]:
            said.append(
                f"WRONG {self.modality} was not learned: its loss is not below that of the frequencies of its tokens; "
                "train longer (warmup_length=..., length=...), or look at its data (open4m data inspect)"
            )
        for key, was in self.before.items():
            if (rise := self.after[key] / was - 1) > MOST_FORGOTTEN:
                said.append(
                    f"WRONG {key} was forgotten in part: its loss rose by {100 * rise:.1f}%; train longer "
                    "(length=...), or at a lower rate (lr=...)"
                )
        return said


def losses_of(task: FourMTask, model: FourMTransformer) -> dict[str, float]:
    """The validation loss of each strategy and modality, in nats."""
    with torch.no_grad():
        return task.strategy_losses(model.eval())


def means(losses: dict[str, float], masking: MaskingConfig) -> dict[str, float]:
    """The mean loss of each modality that strategies of ``masking`` ask for."""
    names = [s.name for s in masking.strategies]
    keys = dict.fromkeys(key for s in masking.strategies for key in s.target_alpha)
    found = {key: mean_of(losses, names, key) for key in keys}
    return {key: mean for key, mean in found.items() if not math.isnan(mean)}


def mean_of(losses: dict[str, float], strategies: list[str], key: str) -> float:
    """The mean over those strategies that ask for a modality; NaN if none does."""
    found = [losses[f"{name}/{key}"] for name in strategies if f"{name}/{key}" in losses]
    return float(np.mean(found)) if found else float("nan")


def unigram(train: TokenStore, validation: TokenStore, spec: ModalitySpec, rows: np.ndarray) -> float:
    """The cross-entropy of validation tokens by their frequencies in training, in nats; every id counts once more."""
    counts = 1 + np.bincount(_tokens(train, spec, np.arange(len(train))), minlength=spec.vocab_size)
    return float(-np.log(counts / counts.sum())[_tokens(validation, spec, rows)].mean())


def _tokens(store: TokenStore, spec: ModalitySpec, rows: np.ndarray) -> np.ndarray:
    """All tokens of these rows that have the modality."""
    present = store.present(spec.key, rows)
    rows = rows if present is None else rows[present]
    values, lengths = store.read(spec.key, spec.family, rows)
    if lengths is None:
        return values.ravel()
    return values[np.arange(values.shape[1]) < lengths[:, None]]
