"""Labelling: a labeller adds a modality to raw shards (pseudo labels, paper 3.1 and B.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from open4m import config as configs
from open4m import labellers, modalities, progress
from open4m.data.jobs import Job, batches
from open4m.data.links import Link, stored_name
from open4m.data.rejects import Rejects, ShardRejects
from open4m.labellers.base import Labeller, Settings
from open4m.modalities.codecs import write_array
from open4m.modalities.families import Modality
from open4m.modalities.frames import Frame
from open4m.store.manifest import Manifest, discard, folder_of, is_committed
from open4m.store.shards import HEADER, SQUARE, RawDataset, UnreadableSample, shows_square, write_shard
from open4m.types import Open4MError, Value

logger = logging.getLogger("open4m")

T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class Label(Job):
    """Add a labeller's modality to the raw shards below ``root``.

    ``labeller`` is the name of its file in :mod:`open4m.labellers`; ``model`` the folder or the name on the Hugging
    Face hub from which each process loads it; ``modality`` which one to make, of labellers that make several. Labels
    show all of an image, or, where the labeller says ``square``, the central square of it. Their manifest says so, and
    what made them: the fingerprint, model, revision and settings, the names of classes.

    A sample that lacks the source has no label either; one that cannot be labelled is a reject, whose share of all may
    be up to ``allowed``, and has none. Labels that another labeller made, or this one with other weights or settings,
    are made anew, those of this modality alone. What no labeller made is the user's, and is never replaced.
    """

    labeller: str
    model: str
    root: Path
    device: str = "cpu"
    modality: str = ""
    settings: Settings | None = None
    allowed: float = 0.0

    @property
    def description(self) -> str:
        return f"label {self.root.name}: {self._name}"

    @property
    def folders(self) -> Sequence[Path]:
        return (folder_of(self.root, self._name), self.rejects.folder)

    @property
    def rejects(self) -> Rejects:
        return Rejects(self.root, f"label-{self._name}", len(self._raw), self.allowed)

    def shards(self) -> Sequence[int]:
        folder, shards = folder_of(self.root, self._name), list(self._raw.shards)
        if (manifest := Manifest.read(folder)) is None:
            return shards
        before = manifest.header.get("labeller")
        if before is None:  # imported, rendered, or labels of version 0.2
            if set(shards) - manifest.shards.keys():
                raise Open4MError(
                    f"{folder}: holds data that no labeller made, of {len(manifest.shards)} of {len(shards)} shards: "
                    "complete them where they are from, or move the folder away to have all of it labelled"
                )
            logger.info("%s: is there, and no labeller made it: nothing to do", folder)
        elif before != self._network.fingerprint:
            logger.info("%s: other weights or settings than those of the labels here: they are made anew", folder)
            discard(folder)
        return shards

    def is_done(self, shard: int) -> bool:
        return is_committed(self.root, self._name, shard)

    @property
    def links(self) -> list[Link]:
        return [Link(self.root, self._name, self.root, stored_name(self.root, self._network.source))]

    def run(self, shard: int) -> None:
        rejects, items = self.rejects.of_shard(shard), []
        parts = batches(self._raw.shards[shard])
        for rows, samples in zip(progress.within(parts, "samples"), ahead(self._samples, parts), strict=True):
            items += self._labelled(rows, samples, rejects)
        rejects.commit()
        write_shard(self.root, self._name, shard, items, self._header, form=self._network.form)
        self._raw.close(shard)

    def _samples(self, rows: Sequence[int]) -> list[dict[str, Value] | UnreadableSample]:
        return [self._sample(i) for i in rows]

    def _sample(self, i: int) -> dict[str, Value] | UnreadableSample:
        """The values that the labeller reads, none if the sample lacks its source, or why they cannot be read."""
        try:
            sample = self._raw[i]
        except UnreadableSample as error:
            return error
        source = self._network.source
        if source not in sample:
            return {}
        if self._network.square:
            sample[source] = square(modalities.get(source), sample[source])
        return sample

    def _labelled(
        self, rows: Sequence[int], samples: Sequence[Any], rejects: ShardRejects
    ) -> Iterator[tuple[str, bytes | None]]:
        """The key and the file of each sample, no file for those without a label."""
        readable = [k for k, sample in enumerate(samples) if isinstance(sample, Mapping) and sample]
        found = dict(zip(readable, self._labels([samples[k] for k in readable]), strict=True))
        for k, (i, sample) in enumerate(zip(rows, samples, strict=True)):
            outcome = sample if isinstance(sample, UnreadableSample) else found.get(k)
            if isinstance(outcome, Open4MError):
                reason = "not readable" if outcome is sample else "not labelled"
                if outcome is not sample:
                    outcome = self._raw.unreadable(i, self._network.source, outcome)
                rejects.add(self._raw.key(i), self._name, reason, str(outcome))
                outcome = None
            yield self._raw.key(i), outcome

    def _labels(self, samples: Sequence[Mapping[str, Value]]) -> list[bytes | Open4MError]:
        """The file of each sample's label, or why there is none: one sample costs no other its label."""
        if not samples:
            return []
        try:
            values = self._network.label_samples(samples)
            return [self._file(sample, value) for sample, value in zip(samples, values, strict=True)]
        except Open4MError as error:
            if len(samples) == 1:
                return [error]
        return [self._labels([sample])[0] for sample in samples]

    def _file(self, sample: Mapping[str, Value], value: Value) -> bytes:
        """Raises :class:`Open4MError` for what is no such value, or does not show the sample's picture."""
        modality, source = modalities.get(self._name), self._network.source
        if self._network.form:
            data = write_array(np.asarray(value, dtype=np.float32))
        else:
            value = modality.convert(value)
            data = modality.write(value)
        extent, picture = modality.extent(value), modalities.get(source).extent(sample[source])
        if extent is not None and picture is not None and not Frame(*picture).shows(extent):
            raise Open4MError(
                f"{self.labeller}: made a map of {extent[0]}×{extent[1]} (height × width), which does not have the "
                f"aspect of its {source}, {picture[0]}×{picture[1]}"
            )
        return data

    @cached_property
    def _kind(self) -> type[Labeller]:
        return labellers.get(self.labeller)

    @property
    def _name(self) -> str:
        return self.modality or self._kind.modality

    @cached_property
    def _header(self) -> dict[str, Any]:
        """That of labels that are there, where they are of the same fingerprint: the model's folder may have moved."""
        network = self._network
        manifest = Manifest.read(folder_of(self.root, self._name))
        if manifest and manifest.header.get("labeller") == network.fingerprint:
            return dict(manifest.header)
        chosen = configs.to_dict(self.settings) if self.settings else {}
        made = {"labeller": self.labeller, "source": network.source, **({"model": self.model} if self.model else {})}
        made |= {**({"settings": chosen} if chosen else {}), **network.origin}
        is_square = network.square or shows_square(self.root, network.source)
        return label_header(network.fingerprint, is_square, {"made_by": made, **network.about})

    @cached_property
    def _network(self) -> Labeller:
        return self._kind.load(self.model, self.device, self.settings, self.modality)

    @cached_property
    def _raw(self) -> RawDataset:
        return RawDataset(self.root, self._network.sources)


def label_header(labeller: str, square: bool, more: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's header of labels by the labeller of this fingerprint, which show the central ``square`` of an
    image or all of it; ``more``: what else it says."""
    return {**HEADER, **({"frame": SQUARE} if square else {}), "labeller": labeller, **more}


def square(modality: Modality, value: np.ndarray) -> np.ndarray:
    """The central square of an image or map, at its own resolution."""
    return value if value.shape[0] == value.shape[1] else modality.fit(value, min(value.shape[:2]))


def ahead(make: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """What is made of each item, in order: of the next one while the caller works on one."""
    with ThreadPoolExecutor(1) as worker:
        waiting = [worker.submit(make, item) for item in items[:1]]
        for k in range(len(items)):
            result = waiting.pop().result()
            if k + 1 < len(items):
                waiting.append(worker.submit(make, items[k + 1]))
            yield result
