"""Labelled data sets of others become raw shards: what tokenizers and tokens are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from open4m import modalities
from open4m.data.jobs import Job, batches
from open4m.data.links import Link
from open4m.data.rejects import Rejects
from open4m.datasets import labelled
from open4m.datasets.labelled.base import IGNORED, Example, Instances, Labelled, check_example
from open4m.datasets.layouts.base import key_of
from open4m.modalities.crops import Crop, filled
from open4m.modalities.families import Modality
from open4m.modalities.rgb import encode_jpeg
from open4m.modalities.semseg import LARGEST_ID, VOID
from open4m.progress import within
from open4m.rng import stream
from open4m.store.manifest import entry_of, folder_of
from open4m.store.shards import HEADER, write_shard
from open4m.types import Boxes, Open4MError, Value

ORDER = 1
"""Of random numbers, those that say the order of examples."""

INSTANCES = "instances"
"""What examples call the objects of an image."""


@dataclass(frozen=True)
class FromLabelled(Job):
    """Write ``names`` of a split of a labelled data set as raw shards below ``root``.

    ``source``, ``split``, ``dataset``: as :func:`open4m.datasets.labelled.open_split` takes them. ``limit``: so many
    examples; 0: all. They come in an order that is random, but the same for any limit: data sets are often sorted, as
    Taskonomy is by building. ``side``: pictures whose shorter side is longer are made smaller, with all their maps; 0:
    none are. ``allowed``: the share of examples that may be unreadable; they are left out of all modalities.

    Images are stored as JPEG files, as in token stores. A map in which nothing was measured is missing.

    Raises :class:`Open4MError` for a modality that the data set does not have, nor what it is computed from.
    """

    source: Path
    split: str
    root: Path
    names: tuple[str, ...]
    dataset: str = ""
    limit: int = 0
    side: int = 0
    shard_rows: int = 500
    allowed: float = 0.0

    @property
    def description(self) -> str:
        return f"read {self.dataset or self.source.name} {self.split}"

    @property
    def rejects(self) -> Rejects:
        return Rejects(self.root, "labelled", self._count, self.allowed)

    def shards(self) -> range:
        for name in self.names:
            if not self.holds(name):
                held = ", ".join((modalities.of_role("photo").name, *self._data.targets))
                raise Open4MError(f"{self.source}: {self._data.name} has no {name} (it has {held})")
        return range(-(-self._count // self.shard_rows))

    def holds(self, name: str) -> bool:
        """Whether the data set has a modality."""
        return self._key(name) in (*self._data.targets, modalities.of_role("photo").name)

    def is_done(self, shard: int) -> bool:
        return not self._missing(shard)

    @property
    def folders(self) -> list[Path]:
        return [*(folder_of(self.root, name) for name in self.names), self.rejects.folder]

    @property
    def links(self) -> list[Link]:
        return [Link(self.root, name) for name in self.names]

    def run(self, shard: int) -> None:
        missing, rejects = self._missing(shard), self.rejects.of_shard(shard)
        rows: dict[str, list[tuple[str, bytes | None]]] = {name: [] for name in missing}
        for row in chain.from_iterable(within(batches(self._rows(shard)), "examples")):
            i = int(self._order[row])
            key = key_of(self._data.key(i))
            try:
                example = self._data[i]
                check_example(example, key)
            except Open4MError as error:
                rejects.add(key, "example", "not readable", str(error))
                continue
            for name in missing:
                rows[name].append((key, self._file(name, example, key)))
        rejects.commit()
        for name, items in rows.items():
            write_shard(self.root, name, shard, items, self._header(name))

    def _file(self, name: str, example: Example, key: str) -> bytes | None:
        """The file of a modality of an example; None if it has none."""
        modality, given = modalities.get(name), example.get(self._key(name))
        if given is None:
            return None
        try:
            size = example[modalities.of_role("photo").name].shape[:2]
            value = value_of(modality, given, size, self._data.classes(INSTANCES))
            if value is None:
                return None
            value = self._smaller(modality, value)
            return encode_jpeg(value) if modality.image else modality.write(value)
        except Open4MError as error:
            raise Open4MError(f"{self.source}: {key}: {error}") from error

    def _smaller(self, modality: Modality, value: Value) -> Value:
        extent = modality.extent(value)
        if extent is None or not self.side or min(extent) <= self.side:
            return value
        factor = self.side / min(extent)
        return modality.crop(value, Crop(size=tuple(round(length * factor) for length in extent)))

    def _rows(self, shard: int) -> range:
        return range(shard * self.shard_rows, min(self._count, (shard + 1) * self.shard_rows))

    def _missing(self, shard: int) -> list[str]:
        """The modalities that the shard lacks, or has of fewer examples, since a limit cut it."""
        entries = {name: entry_of(self.root, name, shard) for name in self.names}
        lost = sum(reject.samples for reject in self.rejects.read(shard)) if any(entries.values()) else 0
        expected = len(self._rows(shard)) - lost
        return [name for name, entry in entries.items() if entry is None or entry.rows < expected]

    def _header(self, name: str) -> dict[str, Any]:
        header = dict(HEADER)
        if modalities.get(name).image:
            header["extension"] = "jpg"
        names = self._data.classes(self._key(name))
        return header | ({"classes": list(names)} if names else {})

    def _key(self, name: str) -> str:
        """What examples call a modality."""
        return INSTANCES if modalities.get(name).role == "objects" else name

    @cached_property
    def _data(self) -> Labelled:
        return labelled.open_split(self.source, self.split, self.dataset)

    @cached_property
    def _order(self) -> np.ndarray:
        """The places of all examples in the order of rows."""
        return stream(ORDER, len(self._data)).permutation(len(self._data))

    @property
    def _count(self) -> int:
        return min(len(self._data), self.limit) if self.limit else len(self._data)


def value_of(modality: Modality, given: Any, size: tuple[int, int], classes: tuple[str, ...]) -> Value | None:
    """The value of a modality that an example of ``size`` (H, W) pixels holds; None if nothing of it was measured.

    Regions of many objects are no objects. Where a modality cannot mark pixels without a measurement, they have what
    the nearest measured one has. ``classes``: the names of those of objects.
    """
    if isinstance(given, Instances):
        kept = given.chosen(~given.crowd)
        corners = kept.boxes / np.float32([size[1], size[0]] * 2)
        return Boxes(corners.clip(0, 1), tuple(classes[i] for i in kept.classes))
    array = np.asarray(given)
    if getattr(modality, "categorical", False):
        mark = VOID if array.max(initial=0) <= VOID else LARGEST_ID
        return modality.convert(np.where(array == IGNORED, mark, array.astype(np.int64)))
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return modality.convert(given)
    measured = ~np.isnan(array).reshape(*array.shape[:2], -1).any(-1)
    if not measured.any():
        return None
    whole = modality.convert(filled(array, measured))
    return whole if modality.valid(whole) is None else modality.convert(array)
