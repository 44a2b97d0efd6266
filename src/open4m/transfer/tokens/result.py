"""What a transfer gave: its validation losses and the best of them, as a JSON file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from open4m import config as configs
from open4m.transfer.tokens.config import TokenTransfer
from open4m.types import Open4MError

FILE, FORMAT = "result.json", 1
"""The file of a transfer's folder, which is there when it is done."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a transfer begins with: a model, or, if it is not ``pretrained``, its architecture with random weights.

    ``name``: of a row of the table, and of its folder. ``fingerprint``: of the model; of random weights, that of its
    architecture.
    """

    name: str
    model: str
    fingerprint: str
    pretrained: bool = True


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A validation loss in nats, after a step of the whole training; ``frozen``: with the Transformer frozen."""

    step: int
    epoch: float
    loss: float
    frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """``curve``: all evaluations in order. ``best``: the one with the lowest loss, the earliest of equal ones (E.1).

    ``fresh``: modalities whose embeddings began with random weights. ``uniform``: the loss of a guess, the logarithm of
    the target's vocabulary. ``samples``: of training and validation. ``seconds``: of training.
    """

    transfer: TokenTransfer
    start: Start
    best: Evaluation
    curve: tuple[Evaluation, ...]
    fresh: tuple[str, ...]
    uniform: float
    samples: tuple[int, int]
    steps: int
    seconds: float

    @classmethod
    def of(cls, curve: tuple[Evaluation, ...], **fields) -> TransferResult:
        """The result with these evaluations. Raises :class:`Open4MError` if there are none."""
        if not curve:
            raise Open4MError(f"transfer {fields['transfer'].name}: no evaluation has a finite loss")
        return cls(best=min(curve, key=lambda e: (e.loss, e.step)), curve=curve, **fields)

    def save(self, folder: Path) -> None:
        configs.save(self, folder / FILE, FORMAT)


def read(folder: Path) -> TransferResult | None:
    """The result in a transfer's folder; None while it is not done."""
    path = folder / FILE
    return configs.load(TransferResult, path, FORMAT) if path.is_file() else None


FREE = ("workers", "micro_batch_size", "smoke_test")
"""Fields of a transfer that change no result."""


def finished(folder: Path, transfer: TokenTransfer, start: Start) -> TransferResult | None:
    """The result in a folder, None while it is not done. Raises :class:`Open4MError` if it is of another transfer, or
    of another model."""
    if (found := read(folder)) is None:
        return None
    asked = dataclasses.replace(transfer, **{name: getattr(found.transfer, name) for name in FREE})
    different = configs.differences(found.transfer, asked)
    for name in ("fingerprint", "pretrained"):
        if (was := getattr(found.start, name)) != (now := getattr(start, name)):
            different.append(f"the model's {name}: {was} -> {now}")
    if different:
        raise Open4MError(
            f"{folder} holds the result of another transfer ({'; '.join(different)}): use another --out, or remove it"
        )
    return found
