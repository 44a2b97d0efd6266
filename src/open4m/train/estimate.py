"""What a pre-training will need, before anything is allocated: parameters, memory per rank, operations, time.

The model is made of tensors without memory, and one forward pass over masked random tokens says what automatic
differentiation keeps of it: so every option of the architecture counts as it is, and no formula has to follow the code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from open4m.masking.batch import TokenRows, mask_batch
from open4m.masking.config import MaskingConfig
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.flops import forward_flops
from open4m.model.fourm import FourMTransformer
from open4m.rng import stream
from open4m.train import losses
from open4m.train.config import TrainConfig
from open4m.train.distributed import blocks, costly_operations
from open4m.train.optim import matrices_of_blocks
from open4m.train.passes import REDUCED
from open4m.types import MaskedBatch, Open4MError

SAMPLES = 64
"""Random samples that the operations and the targets per modality are averaged over."""

ROWS = (2, 4)
"""Batches of so many rows are passed through the model; what is kept of others follows, since it is linear in rows."""

SHORTEST = 8
"""A random sequence has from a so-manieth of the longest to all of it, in tokens."""

SENTINELS = 300
"""More than any span masking needs."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each rank. Weights, gradients and optimizer are in single precision, divided among the ranks if they are
    sharded. ``gathered``: the parts of a sharded model that are whole at a time. ``activations``: what the backward
    pass of the samples that are computed at once needs: with the weights' copies of autocast, and the logits."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``parameters``: of the blocks and all else, by name; ``trainable``: of all. ``rows``: the samples of a step that
    a rank computes, ``rows_at_once`` together. ``flops_per_step``: what the tokens need, nothing counted twice.
    ``tokens_per_step``: inputs and targets, over all ranks. ``recomputed``: "none", "selective" or "full"."""

    parameters: dict[str, int]
    trainable: int
    ranks: int
    rows: int
    rows_at_once: int
    memory: Memory
    flops_per_step: float
    tokens_per_step: float
    steps: int
    recomputed: str
    sharding: str

    @property
    def tokens(self) -> float:
        return self.tokens_per_step * self.steps

    def seconds(self, peak: float, share: float) -> float:
        """Of the whole training, on devices that each compute ``peak`` operations per second, of which it reaches
        ``share``. Recomputing all blocks costs a third more."""
        work = self.flops_per_step * (4 / 3 if self.recomputed == "full" else 1)
        return self.steps * work / (self.ranks * peak * share)


@dataclass
class _Kept:
    """Bytes that automatic differentiation keeps, in the blocks and outside; what enters each block, and what the
    costly operations in it make."""

    outside: float = 0.0
    inside: list[float] = dataclasses.field(default_factory=list)
    entering: list[float] = dataclasses.field(default_factory=list)
    costly: list[float] = dataclasses.field(default_factory=list)

    def total(self, recomputed: str) -> float:
        """Of recomputed blocks, what enters them is kept, and all of one block while it is computed again."""
        if recomputed == "none":
            return self.outside + sum(self.inside)
        kept = sum(self.costly) if recomputed == "selective" else 0.0
        return self.outside + sum(self.entering) + kept + max(self.inside, default=0.0)


def estimate(
    config: FourMConfig,
    masking: MaskingConfig,
    train: TrainConfig,
    ranks: int = 1,
    restrict: Callable[[FourMTransformer], Any] | None = None,
) -> Estimate:
    """What training a model on ``ranks`` equal devices needs. ``restrict``: what freezes a part of the model.

    Raises :class:`Open4MError` if the batch has fewer rows than there are ranks.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    if not 1 <= ranks <= train.batch_size:
        raise Open4MError(f"ranks: expected 1 to {train.batch_size}, as many as a batch has samples, got {ranks}")
    recomputed = {False: "none", True: "full"}.get(train.activation_checkpointing, "selective")
    sharding = train.sharding if ranks > 1 else "none"
    shards = 1 if sharding == "none" else min(train.shards or ranks, ranks)
    rows = -(-train.batch_size // ranks)
    at_once = min(rows, train.micro_batch_size or rows)
    batch = random_batch(config, masking, SAMPLES)
    with torch.device("meta"):
        model = FourMTransformer(config)
    if restrict is not None:
        restrict(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model.to_empty(device="cpu")
    model.embeddings.reset_buffers()  # real ones: what is computed under the mode must not stay in any cache
    with mode:
        few, more = (_kept(model, random_batch(config, masking, n), train.precision, mode) for n in ROWS)
    slope = (more.total(recomputed) - few.total(recomputed)) / (ROWS[1] - ROWS[0])
    kept = more.total(recomputed) + (at_once - ROWS[1]) * slope
    kept += _logits(config, batch, train.precision) * at_once / SAMPLES
    parameters = {"blocks": _size(p for block in blocks(model) for p in block.parameters())}
    parameters["embeddings"] = _size(model.embeddings.parameters())
    parameters["other"] = _size(model.parameters()) - sum(parameters.values())
    trainable = [p for p in model.parameters() if p.requires_grad]
    return Estimate(
        parameters=parameters,
        trainable=_size(trainable),
        ranks=ranks,
        rows=rows,
        rows_at_once=at_once,
        memory=Memory(
            weights=4 * _size(model.parameters()) / shards,
            gradients=4 * _size(trainable) / shards,
            optimizer=4 * _moments(model, train) / shards,
            average=(4 * _size(trainable) if train.ema is not None or train.tail_average is not None else 0) / shards,
            gathered=_gathered(model, sharding, train.precision),
            activations=kept,
        ),
        flops_per_step=3 * forward_flops(config, batch) * train.batch_size / SAMPLES,
        tokens_per_step=batch.tokens_seen() * train.batch_size / SAMPLES,
        steps=train.steps,
        recomputed=recomputed,
        sharding=sharding,
    )


def random_batch(config: FourMConfig, masking: MaskingConfig, samples: int, seed: int = 0) -> MaskedBatch:
    """Random tokens of all modalities, masked as in training. Sequences have an eighth to all of their longest length;
    images are blank."""
    generator, rows = stream(seed, samples), TokenRows({}, {}, {})
    for spec in config.modalities:
        lengths = generator.integers(max(1, spec.length // SHORTEST), spec.length + 1, samples)
        if spec.is_sequence:
            rows.lengths[spec.key] = lengths
        if spec.content == "pixels":
            height, width = (n * spec.patch_size for n in spec.grid)
            rows.pixels[spec.key] = np.zeros((samples, spec.channels, height, width), np.float32)
        elif spec.content == "vectors":
            rows.vectors[spec.key] = np.zeros((samples, spec.length, spec.channels), np.float32)
        else:
            rows.ids[spec.key] = _ids(spec, generator, samples)
    sentinels = np.arange(SENTINELS, dtype=np.int64)
    return mask_batch(rows, config.modalities, masking, sentinels, seed=seed, step=0)


def _ids(spec: ModalitySpec, generator: np.random.Generator, samples: int) -> np.ndarray:
    return generator.integers(0, spec.vocab_size, (samples, spec.length))


def _kept(model: FourMTransformer, batch: MaskedBatch, precision: str, mode: Any) -> _Kept:
    """What a forward pass of a model without memory would keep."""
    weights = {id(p.untyped_storage()) for p in model.parameters()}
    held: list[Tensor] = []  # so that no address is used twice
    seen, kept, place = set(weights), _Kept(), [-1]

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in seen:
            seen.add(id(storage))
            held.append(tensor)
            if place[0] < 0:
                kept.outside += storage.nbytes()
            else:
                kept.inside[place[0]] += storage.nbytes()
        return tensor

    def enter(_: nn.Module, given: tuple) -> None:
        place[0] = len(kept.inside)
        kept.inside.append(0.0)
        kept.costly.append(0.0)
        kept.entering.append(float(sum(x.nbytes for x in given if isinstance(x, Tensor))))

    def leave(*_: Any) -> None:
        place[0] = -1

    class Costly(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, _types: Any, given: tuple = (), options: Any = None) -> Any:
            made = operation(*given, **(options or {}))
            if place[0] >= 0 and operation in operations:
                first = made[0] if isinstance(made, tuple) else made
                kept.costly[place[0]] += first.nbytes
            return made

    operations = set(costly_operations())
    hooks = [
        hook
        for block in blocks(model)
        for hook in (block.register_forward_pre_hook(enter), block.register_forward_hook(leave))
    ]
    autocast = torch.autocast("cpu", dtype=REDUCED.get(precision), enabled=precision in REDUCED)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast, Costly():
        losses.aggregate(model(_without_memory(batch, mode)))
    for hook in hooks:
        hook.remove()
    return kept


def _without_memory(batch: MaskedBatch, mode: Any) -> MaskedBatch:
    """The batch as tensors of a fake mode. Numbers that are known on the host stay."""

    def fake(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fake(inner) for key, inner in value.items()}
        return mode.from_tensor(value) if isinstance(value, Tensor) else value

    return dataclasses.replace(batch, **{f.name: fake(getattr(batch, f.name)) for f in dataclasses.fields(batch)})


def _logits(config: FourMConfig, batch: MaskedBatch, precision: str) -> float:
    """Bytes of the logits, which the output layer keeps by itself (:mod:`open4m.model.heads`), and of the copy of the
    largest part that becomes its gradient."""
    sizes = [n * s.vocab_size for n, s in zip(batch.target_counts or (), config.modalities, strict=True) if s.is_target]
    return sum(sizes) * (2.0 if precision in REDUCED else 4.0) + (4.0 * max(sizes) if precision in REDUCED else 0.0)


def _moments(model: nn.Module, train: TrainConfig) -> int:
    """The optimizer's numbers: two per weight, one for the matrices that Muon updates."""
    muon = matrices_of_blocks(model) if train.optim.muon_lr is not None else {}
    return sum((1 if id(p) in muon else 2) * p.numel() for p in model.parameters() if p.requires_grad)


def _gathered(model: FourMTransformer, sharding: str, precision: str) -> float:
    """Bytes of a sharded model's weights that are whole at a time: all outside the blocks; and of the blocks, in the
    precision of a step, all (ZeRO-2), or two, since the next one is fetched early (ZeRO-3)."""
    if sharding == "none":
        return 0.0
    sizes = sorted(_size(block.parameters()) for block in blocks(model))
    fetched = sizes if sharding == "zero2" else sizes[-2:]
    return 4.0 * (_size(model.parameters()) - sum(sizes)) + (2.0 if precision == "bf16" else 4.0) * sum(fetched)


def _size(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def lines(found: Estimate, peak: float, share: float, assumed: Sequence[str]) -> list[str]:
    """The estimate for people. ``assumed``: what it rests on, in sentences."""
    sizes = ", ".join(f"{name} {count / 1e6:,.1f}M" for name, count in found.parameters.items())
    parts = {name: size for name, size in dataclasses.asdict(found.memory).items() if size}
    memory = ", ".join(f"{name} {size / 2**30:,.2f}" for name, size in parts.items())
    seconds = found.seconds(peak, share)
    frozen = sum(found.parameters.values()) - found.trainable
    return [
        f"parameters      {sum(found.parameters.values()) / 1e6:,.1f}M: {sizes}"
        + (f"; trained: {found.trainable / 1e6:,.2f}M" if frozen else ""),
        f"memory per rank {found.memory.total / 2**30:,.2f} GiB: {memory}",
        f"ranks           {found.ranks:,}, sharding {found.sharding}; {found.rows:,} samples per step each, "
        f"{found.rows_at_once:,} at once; recomputed in the backward pass: {found.recomputed}",
        f"operations      {found.flops_per_step / 1e12:,.3f} TFLOP per step",
        f"tokens          {found.tokens_per_step:,.0f} per step, {found.tokens / 1e9:,.3f}B in all",
        f"steps           {found.steps:,}",
        f"time            {duration(seconds)}, {seconds / found.steps:.3g} s per step",
        *(f"assumed         {line}" for line in assumed),
    ]


def duration(seconds: float) -> str:
    """A length of time in the unit that fits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"
