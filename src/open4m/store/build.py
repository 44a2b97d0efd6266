"""Resumable jobs that make data at rest: raw shards of a data set, a labeller's shards, token shards.

A shard is the unit of work: rerunning a job that was interrupted does the shards that are missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from open4m import modalities
from open4m.labellers.base import Labeller
from open4m.modalities.base import Modality, PixelGrid, TokenGrid, Vector, centered
from open4m.modalities.base import Sequence as SequenceModality
from open4m.store.jobs import JobCounts, run_shards
from open4m.store.manifest import Manifest, check_header, committed, folder_of
from open4m.store.shards import RawDataset, write_shard
from open4m.store.tokens import TokenHeader, write_token_shard
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.vqvae import Tokenizer
from open4m.types import Open4MError, Value

BATCH = 32  # samples rendered, labelled or tokenized at once


class Generated(Protocol):
    """A data set that makes samples of given indices."""

    def samples(self, indices: Sequence[int]) -> list[dict[str, Value]]:
        """Samples with values of the same modalities each."""


@dataclass(frozen=True)
class _Render:
    dataset: Generated
    root: Path
    names: tuple[str, ...]
    count: int
    shard_rows: int

    def __call__(self, shard: int) -> None:
        indices = range(shard * self.shard_rows, min(self.count, (shard + 1) * self.shard_rows))
        files: dict[str, list[tuple[str, bytes]]] = {name: [] for name in self.names}
        for batch in _batches(indices):
            for i, sample in zip(batch, self.dataset.samples(batch), strict=True):
                for name in self.names:
                    files[name].append((f"{i:08d}", modalities.get(name).write(sample[name])))
        for name, items in files.items():
            write_shard(self.root, name, shard, items)


def render(
    dataset: Generated, root: Path, names: Sequence[str], count: int, *, shard_rows: int = 500, processes: int = 1
) -> JobCounts:
    """Write the first ``count`` samples of a generated data set as raw shards."""
    work = _Render(dataset, root, tuple(names), count, shard_rows)
    return run_shards(
        range(-(-count // shard_rows)), work, done=lambda s: all(s in committed(root, n) for n in names),
        processes=processes, description=f"render {root.name}",
    )  # fmt: skip


def label(labeller: Labeller, root: Path) -> JobCounts:
    """Add a labeller's modality to raw shards. It is shown the central square, which is what tokenizers see."""
    raw = RawDataset(root, [labeller.source])
    source, modality = modalities.get(labeller.source), modalities.get(labeller.modality)

    def work(shard: int) -> None:
        items = []
        for batch in _batches(raw.shards[shard]):
            values = labeller.label([square(source, raw[i][labeller.source]) for i in batch])
            items += [(raw.key(i), modality.write(value)) for i, value in zip(batch, values, strict=True)]
        write_shard(root, labeller.modality, shard, items)

    done = committed(root, labeller.modality)
    return run_shards(list(raw.shards), work, done=done.__contains__, description=f"label {labeller.modality}")


def tokenize(
    raw_root: Path,
    token_root: Path,
    name: str,
    tokenizer: Tokenizer | TextTokenizer | None,
    *,
    image_size: int = 0,
    max_length: int = 256,
    image: str | None = None,
) -> JobCounts:
    """Tokenize one modality of raw shards.

    Pixel modalities are stored as JPEG of ``image_size`` pixels a side, sequences with up to ``max_length`` tokens.
    Values whose size is not the tokenizer's are center-cropped and resized. ``image`` names the modality whose central
    square sequences that tell positions, like boxes, must follow; without it, images are taken to be square.
    Raises :class:`Open4MError` if shards that are there were made by another tokenizer.
    """
    names = [name] if image is None else [name, image]
    raw = RawDataset(raw_root, names)
    known = {n: modalities.get(n) for n in names}
    modality = known[name]
    header = token_header(name, tokenizer, max_length)

    def work(shard: int) -> None:
        keys: list[str] = []
        tokens: list[Any] = []
        for batch in _batches(raw.shards[shard]):
            values = [centered(raw[i], known)[name] for i in batch]
            keys += [raw.key(i) for i in batch]
            if isinstance(modality, PixelGrid):
                tokens += [modality.write(modality.fit(value, image_size)) for value in values]
            elif isinstance(tokenizer, Tokenizer):
                tokens += [ids.ravel() for ids in tokenizer.encode(values)]
            else:
                tokens += [modality.encode(value, tokenizer, max_length) for value in values]
        write_token_shard(token_root, name, shard, keys, tokens, header=header)

    folder = folder_of(token_root, name)
    check_header(folder, Manifest.read(folder), dataclasses.asdict(header))
    done = committed(token_root, name)
    return run_shards(list(raw.shards), work, done=done.__contains__, description=f"tokenize {name}")


def square(modality: Modality, value: np.ndarray) -> np.ndarray:
    """The central square of an image or map, at its own resolution."""
    return value if value.shape[0] == value.shape[1] else modality.fit(value, min(value.shape[:2]))


def token_header(name: str, tokenizer: Tokenizer | TextTokenizer | None, max_length: int = 256) -> TokenHeader:
    """What the token store records of a modality and its tokenizer."""
    modality = modalities.get(name)
    if isinstance(modality, PixelGrid):
        return TokenHeader(kind="pixels", tokenizer="jpeg")
    if isinstance(modality, TokenGrid) and isinstance(tokenizer, Tokenizer):
        return TokenHeader(
            kind="grid", tokenizer=tokenizer.fingerprint, vocab_size=tokenizer.config.codebook_size,
            grid=tokenizer.config.grid, placeless=isinstance(modality, Vector),
        )  # fmt: skip
    if isinstance(modality, SequenceModality) and isinstance(tokenizer, TextTokenizer):
        return TokenHeader(
            kind="sequence", tokenizer=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size,
            max_length=max_length,
        )  # fmt: skip
    raise Open4MError(f"{name}: a {type(modality).__name__} cannot be tokenized by {type(tokenizer).__name__}")


def statistics(raw: RawDataset, name: str, limit: int = 512) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of a grid modality, over ``limit`` samples spread over the data."""
    chosen = np.linspace(0, len(raw) - 1, min(limit, len(raw))).astype(int)
    tensors = [modalities.get(name).tensor(raw[int(i)][name]) for i in chosen]
    flat = np.concatenate([t.reshape(t.shape[0], -1) for t in tensors], 1).astype(np.float64)  # (C, pixels)
    return tuple(flat.mean(1).tolist()), tuple(np.maximum(flat.std(1), 1e-6).tolist())


def _batches(indices: range) -> list[range]:
    return [indices[i : i + BATCH] for i in range(0, len(indices), BATCH)]
