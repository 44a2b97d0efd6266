"""Labelling: a network adds a modality to raw shards (pseudo labels, paper 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from open4m import labellers, modalities
from open4m.data.jobs import Job, batches
from open4m.labellers.base import Labeller
from open4m.modalities.families import Modality
from open4m.store.manifest import Manifest, check_header, folder_of, is_committed
from open4m.store.shards import RawDataset, label_header, write_shard
from open4m.types import Open4MError


@dataclass(frozen=True)
class Label(Job):
    """Add a labeller's modality to the raw shards below ``root``.

    ``labeller`` is the name of its file in :mod:`open4m.labellers`, ``weights`` the folder or the name on the Hugging
    Face hub from which each process loads it. It is shown the central square, which is what tokenizers see. The
    labels' manifest says so, and which weights made them.

    Raises :class:`Open4MError` if there are labels of other weights.
    """

    labeller: str
    weights: str
    root: Path
    device: str = "cpu"

    @property
    def description(self) -> str:
        return f"label {self._kind.modality}"

    def shards(self) -> Sequence[int]:
        folder = folder_of(self.root, self._kind.modality)
        manifest = Manifest.read(folder)
        if manifest and "labeller" in manifest.header:  # which labels of version 0.2 do not say
            check_header(folder, manifest, self._header)
        return list(self._raw.shards)

    def is_done(self, shard: int) -> bool:
        return is_committed(self.root, self._kind.modality, shard)

    def run(self, shard: int) -> None:
        source, modality = modalities.get(self._kind.source), modalities.get(self._kind.modality)
        items = []
        for batch in batches(self._raw.shards[shard]):
            images = [square(source, self._raw[i][self._kind.source]) for i in batch]
            try:
                values = self._network.label(images)
            except Open4MError as error:
                raise self._named(batch, images, error) from error
            items += [(self._raw.key(i), modality.write(value)) for i, value in zip(batch, values, strict=True)]
        write_shard(self.root, self._kind.modality, shard, items, self._header)

    def _named(self, batch: Sequence[int], images: Sequence[np.ndarray], error: Open4MError) -> Open4MError:
        """The same error, for the first sample that has it by itself."""
        for i, image in zip(batch, images, strict=True):
            try:
                self._network.label([image])
            except Open4MError as own:
                return self._raw.unreadable(i, self._kind.source, own)
        return error

    @cached_property
    def _kind(self) -> type[Labeller]:
        return labellers.get(self.labeller)

    @property
    def _header(self) -> dict[str, str]:
        return label_header(getattr(self._network, "fingerprint", ""))  # of users' labellers not all have one

    @cached_property
    def _network(self) -> Labeller:
        return self._kind.load(self.weights, self.device)

    @cached_property
    def _raw(self) -> RawDataset:
        return RawDataset(self.root, [self._kind.source])


def square(modality: Modality, value: np.ndarray) -> np.ndarray:
    """The central square of an image or map, at its own resolution."""
    return value if value.shape[0] == value.shape[1] else modality.fit(value, min(value.shape[:2]))
