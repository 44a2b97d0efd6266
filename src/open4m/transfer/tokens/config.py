"""What determines a transfer from tokens to tokens, and the tokens of a data set (paper E.1, Tables 10 to 13)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from open4m.config import Duration
from open4m.data.views import Crops
from open4m.ranges import Amount, Count, Decay, Positive, Seed, Share, Size, Steps, check_ranges
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.train.recipes.tokenizer import TokenizerRun
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class TokenTransfer:
    """One transfer: all tokens of the ``inputs`` are shown, all of the ``target`` are predicted.

    ``group``: whose mean loss is a column of the table. ``data``: the data set. ``crops``: the views of each
    training sample. ``frozen_epochs``: the first of the ``epochs``, in which the new embeddings alone are trained, at
    ``frozen_lr``; then ``warmup_epochs`` in which the rate rises to ``base_lr``, and it stays there. Rates are for
    batches of 256 and scale with the batch. ``evaluations``: equally spaced, of the averaged weights (``ema``).
    ``validation_samples``: 0: all.
    """

    name: str
    group: str
    data: str
    inputs: tuple[str, ...]
    target: str
    epochs: Positive
    warmup_epochs: Amount
    frozen_epochs: Amount = 0.0
    base_lr: Amount = 1e-4
    frozen_lr: Amount = 1e-4
    weight_decay: Amount = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    clip: Positive | None = None  # largest norm of the whole gradient
    batch_size: Size = 256
    ema: Decay | None = 0.998
    evaluations: Steps = 50
    validation_samples: Count = 0
    crops: Crops = Crops()
    seed: Seed = 0
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    micro_batch_size: Size | None = None
    workers: Count = 4
    smoke_test: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, f"transfer {self.name}")
        if not self.inputs:
            raise Open4MError(f"transfer {self.name}: inputs: name at least one")
        if self.target in self.inputs:
            raise Open4MError(f"transfer {self.name}: {self.target} is shown, so there is nothing to predict of it")
        if self.frozen_epochs + self.warmup_epochs > self.epochs:
            raise Open4MError(
                f"transfer {self.name}: frozen_epochs {self.frozen_epochs:g} and warmup_epochs {self.warmup_epochs:g} "
                f"are parts of the epochs, {self.epochs:g}"
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """The modalities of its model."""
        return (*self.inputs, self.target)

    def steps(self, samples: int) -> int:
        """Of the whole training, on so many samples; at least one."""
        return max(1, Duration(self.epochs, "epochs").steps(self.batch_size, 1, samples))

    def frozen_steps(self, samples: int) -> int:
        """Of them those with the Transformer frozen; at least one is left for all weights."""
        wanted = Duration(self.frozen_epochs, "epochs").steps(self.batch_size, 1, samples)
        return min(wanted, self.steps(samples) - 1)

    def evaluated(self, samples: int) -> list[int]:
        """The steps of the evaluations, the last of which is the last step."""
        steps = self.steps(samples)
        return sorted({max(1, round(steps * k / self.evaluations)) for k in range(1, self.evaluations + 1)})

    def training(self, first: int, last: int, samples: int, frozen: bool) -> TrainConfig:
        """The steps after ``first`` up to ``last``, as one training."""
        steps, evaluated = last - first, self.evaluated(samples)
        warmup = 0 if frozen else Duration(self.warmup_epochs, "epochs").steps(self.batch_size, 1, samples)
        return TrainConfig(
            length=Duration(steps, "steps"),
            warmup=Duration(min(warmup, steps), "steps"),
            decay=Duration(0, "steps"),  # a constant rate
            batch_size=self.batch_size,
            optim=OptimConfig(
                base_lr=self.frozen_lr if frozen else self.base_lr,
                betas=self.betas,
                weight_decay=self.weight_decay,
                clip=self.clip,
            ),
            ema=self.ema,
            precision=self.precision,
            micro_batch_size=self.micro_batch_size,
            seed=self.seed,
            workers=self.workers,
            evaluate_at=tuple(step - first for step in evaluated if first < step <= last),
            checkpoint_every=max(1, -(-self.steps(samples) // self.evaluations)),
            checkpoints_kept=1,
            smoke_test=self.smoke_test,
        )


@dataclass(frozen=True, kw_only=True)
class TransferData:
    """A data set of transfers, and how it becomes tokens.

    ``tokenizers``: of grids, trained on its training split (E.1). ``max_length``: of sequences. ``text``: a folder with
    their text tokenizer, or a model that has one; empty: one is fitted, with up to ``text_vocab`` entries. Images have
    ``image_size`` pixels.
    ``train``, ``validation``: samples at most; 0: all. ``side``: pixels of the shorter side that are kept of pictures,
    at most; 0: all. ``allow_rejects``: the share of examples that may be unreadable.
    ``world``: where scenes are rendered from, instead of data of others, with ``seed``.
    """

    name: str
    tokenizers: dict[str, TokenizerRun]
    max_length: dict[str, Size] = field(default_factory=dict)
    text: str = ""
    text_vocab: Size = 30_000
    text_bins: Size = 1000
    image_size: Size = 224
    train: Count = 0
    validation: Count = 0
    side: Count = 0
    allow_rejects: Share = 0.0
    world: str = ""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self, f"data {self.name}")
        if self.world and not (self.train and self.validation):
            raise Open4MError(f"data {self.name}: say how many scenes are rendered: train and validation")
        for name, run in self.tokenizers.items():
            if run.modality != name:
                raise Open4MError(f"data {self.name}: the tokenizer of {name} is configured for {run.modality}")
            if run.image_size != self.image_size:
                raise Open4MError(
                    f"data {self.name}: the tokenizer of {name} reads {run.image_size} pixels, images have "
                    f"{self.image_size}"
                )

    def samples(self, split: str) -> int:
        """The most samples of a split; 0: all."""
        return self.train if split == "train" else self.validation
