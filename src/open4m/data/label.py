"""Labelling: a network adds a modality to raw shards (paper 3.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from open4m import modalities
from open4m.data.jobs.local import JobCounts, run_shards
from open4m.labellers.base import Labeller
from open4m.modalities.families import Modality
from open4m.store.manifest import committed
from open4m.store.shards import RawDataset, write_shard

BATCH = 32  # samples rendered, labelled or tokenized at once


def label(labeller: Labeller, root: Path) -> JobCounts:
    """Add a labeller's modality to raw shards. It is shown the central square, which is what tokenizers see."""
    raw = RawDataset(root, [labeller.source])
    source, modality = modalities.get(labeller.source), modalities.get(labeller.modality)

    def work(shard: int) -> None:
        items = []
        for batch in batches(raw.shards[shard]):
            values = labeller.label([square(source, raw[i][labeller.source]) for i in batch])
            items += [(raw.key(i), modality.write(value)) for i, value in zip(batch, values, strict=True)]
        write_shard(root, labeller.modality, shard, items)

    done = committed(root, labeller.modality)
    return run_shards(list(raw.shards), work, done=done.__contains__, description=f"label {labeller.modality}")


def square(modality: Modality, value: np.ndarray) -> np.ndarray:
    """The central square of an image or map, at its own resolution."""
    return value if value.shape[0] == value.shape[1] else modality.fit(value, min(value.shape[:2]))


def batches(indices: range) -> list[range]:
    return [indices[i : i + BATCH] for i in range(0, len(indices), BATCH)]
