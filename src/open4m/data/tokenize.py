"""Tokenizing: raw shards become token shards, all modalities of a sample in one pass over the raw data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from open4m import config as configs
from open4m import labellers, modalities, progress
from open4m.data.encoders import Encoder, Output, encoder_of
from open4m.data.jobs import BATCH_SAMPLES, Job, batches
from open4m.data.links import Link, stored_name
from open4m.data.rejects import Rejects
from open4m.data.views import Crops, View
from open4m.labellers.base import Labeller
from open4m.modalities.families import Modality
from open4m.modalities.features import Vector
from open4m.modalities.frames import Frame, frame_of, positioned
from open4m.store.manifest import FILE, Manifest, check_header, entry_of, folder_of
from open4m.store.shards import RawDataset, UnreadableSample, shows_square
from open4m.store.tokens import TokenStore, write_token_shard
from open4m.types import Open4MError, Value


class _Refused(Exception):
    """What a tokenizer refuses of a sample."""

    def __init__(self, row: int, modality: str, error: UnreadableSample):
        super().__init__(row)
        self.row, self.modality, self.error = row, modality, error


@dataclass(frozen=True)
class Tokenize(Job):
    """Tokenize modalities of the raw shards below ``raw`` into token shards below ``tokens``.

    A shard that has some of its modalities gets the missing ones; each is committed on its own. Values whose size is
    not the tokenizer's are center-cropped and resized, and those that tell positions, like boxes, follow the crop of
    the sample's picture. Where none of the outputs shows it, ``image`` is read for that alone, by default the image of
    the raw data or, without one, another map. Raw data without any are taken to show squares. A modality that the
    sample lacks is missing in the tokens too, and so is a map without any measurement in its central square.

    ``crops``: how many views of each sample are stored, which all its modalities share. Where there are several,
    features are computed from each crop by the network that computed those of the raw data. ``limit``: only the first
    samples, for a first look; 0: all. A later run without a limit makes the shard that it cuts anew. ``allowed``: the
    share of all samples that may be damaged; they are rejects, left out of all modalities.

    Raises :class:`Open4MError` if a modality and its tokenizer do not fit, if shards that are there were made by
    another tokenizer, for a sample whose maps do not show one picture, and if more samples cannot be read than that;
    errors name shard, key and modality.
    """

    raw: Path
    tokens: Path
    outputs: tuple[Output, ...]
    image: str | None = None
    device: str = "cpu"
    allowed: float = 0.0
    crops: Crops = Crops()
    limit: int = 0

    @property
    def description(self) -> str:
        return f"tokenize {self.raw.name}"

    @property
    def rejects(self) -> Rejects:
        return Rejects(self.tokens, "tokenize", len(self._data), self.allowed)

    def shards(self) -> Sequence[int]:
        for key, encoder in self._encoders.items():
            folder = folder_of(self.tokens, key)
            check_header(folder, Manifest.read(folder), encoder.header.to_dict())
        return [shard for shard, rows in self._data.shards.items() if not self.limit or rows.start < self.limit]

    def is_done(self, shard: int) -> bool:
        return not self._missing(shard)

    @property
    def folders(self) -> list[Path]:
        return [*(folder_of(self.tokens, output.key) for output in self.outputs), self.rejects.folder]

    @property
    def links(self) -> list[Link]:
        sources = {key: network.sources[0] for key, network in self._networks.items()}
        origins = {key: stored_name(self.raw, sources.get(key, name)) for key, name in self._names.items()}
        return [Link(self.tokens, key, self.raw, origin) for key, origin in origins.items()]

    def run(self, shard: int) -> None:
        missing, rejects = self._missing(shard), self.rejects.of_shard(shard)
        kept = self._keys_of_others(shard, missing)
        rows: Sequence[int] = self._rows(shard)
        if kept is not None:
            rows = [i for i in self._data.shards[shard] if self._data.key(i) in kept]
        keys: list[str] = []
        tokens: dict[str, list[Any]] = {key: [] for key in missing}
        for batch in progress.within(batches(rows), "samples"):
            samples: dict[int, list[dict[str, Any]]] = {}
            for i in batch:
                try:
                    samples[i] = self._views(i)
                except UnreadableSample as error:
                    if kept is not None:  # tokens that are there already have this sample
                        raise
                    rejects.add(self._data.key(i), "raw data", "not readable", str(error))
            encoded = None
            while encoded is None:
                try:
                    encoded = self._encoded(samples, missing)
                except _Refused as refused:
                    if kept is not None:
                        raise refused.error from refused.error.__cause__
                    rejects.add(self._data.key(refused.row), refused.modality, "not tokenized", str(refused.error))
                    del samples[refused.row]
            keys += [self.crops.key(self._data.key(i), n) for i in samples for n in range(self.crops.count)]
            for key in missing:
                tokens[key] += encoded[key]
        if kept is None:
            rejects.commit()
        for link in self.links:
            if link.modality in missing:  # of a shard that a limit cut
                link.path(shard).unlink(missing_ok=True)
        for key in missing:
            write_token_shard(self.tokens, key, shard, keys, tokens[key], header=self._encoders[key].header)
        self._data.close(shard)

    # ---- a sample
    def _views(self, i: int) -> list[dict[str, Any]]:
        """What each view shows of a sample, by the key of the output; of features, what their network reads.

        Raises :class:`UnreadableSample` if its values cannot be read, or do not fit together.
        """
        values = self._data[i]  # which checks that its maps show one picture
        try:
            frame = frame_of(values, self._modalities, squares=self._data.squares)
            placed = [name for name in values if self._modalities[name].has_positions]
            if frame is None and placed and any(map(_is_map, self._modalities.values())):
                raise Open4MError(f"{placed[0]} tells places in a picture that the sample lacks")
            if self.crops.count == 1:
                return [self._by_key(positioned(values, self._modalities, frame))]
            return [self._cropped(self._data.key(i), values, number, frame) for number in range(self.crops.count)]
        except Open4MError as error:
            raise self._data.unreadable(i, next(iter(values)), error) from error

    def _by_key(self, values: Mapping[str, Value]) -> dict[str, Value]:
        return {key: values[name] for key, name in self._names.items() if name in values}

    def _cropped(self, key: str, values: Mapping[str, Value], number: int, frame: Frame | None) -> dict[str, Any]:
        """One view of a sample."""
        frame = frame or Frame(1000, 1000)
        squares = {name for name in values if name in self._data.squares}
        view = View(frame.region)
        if number:
            side = min(frame.height, frame.width)
            view = self.crops.view(key, number, Frame(side, side) if squares else frame)
            view = replace(view, region=view.region.inside(frame.region)) if squares else view
            view = view.flipped_if(values, self._modalities)
        shown: dict[str, Any] = {}
        for output, name in self._names.items():
            if network := self._networks.get(output):
                if all(source in values for source in network.sources):
                    side = max(1, round(max(view.region.height * frame.height, view.region.width * frame.width)))
                    shown[output] = {s: view.of(self._modalities[s], values[s], side) for s in network.sources}
            elif name in values:
                within = frame.region if name in squares else None
                shown[output] = view.of(self._modalities[name], values[name], self._encoders[output].size, within)
        return shown

    def _encoded(self, samples: Mapping[int, Sequence[Mapping[str, Any]]], names: Sequence[str]) -> dict[str, list]:
        """The tokens of all views. Raises :class:`_Refused` for the first sample of which a tokenizer refuses one."""
        encoded: dict[str, list[Any]] = {}
        for key in names:
            there = [(i, view[key]) for i, views in samples.items() for view in views if key in view]
            parts = [there[start : start + BATCH_SAMPLES] for start in range(0, len(there), BATCH_SAMPLES)]
            tokens = iter([row for part in parts for row in self._tokens(key, part)])
            encoded[key] = [next(tokens) if key in view else None for views in samples.values() for view in views]
        return encoded

    def _tokens(self, key: str, values: Sequence[tuple[int, Any]]) -> list[Any]:
        try:
            return self._encode(key, [value for _, value in values])
        except Open4MError:
            for i, value in values:
                try:
                    self._encode(key, [value])
                except Open4MError as error:
                    refused = self._data.unreadable(i, self._names[key], error)
                    refused.__cause__ = error
                    raise _Refused(i, self._names[key], refused) from error
            raise

    def _encode(self, key: str, values: Sequence[Any]) -> list[Any]:
        network = self._networks.get(key)
        return self._encoders[key].encode(network.label_samples(values) if network else values)

    # ---- a shard
    def _rows(self, shard: int) -> range:
        rows = self._data.shards[shard]
        return range(rows.start, min(rows.stop, self.limit) if self.limit else rows.stop)

    def _keys_of_others(self, shard: int, missing: Sequence[str]) -> set[str] | None:
        """The samples of which the shard has tokens of other modalities: what is added keeps in step with them."""
        there = [output.key for output in self.outputs if output.key not in missing]
        if not there:
            return None
        store = TokenStore(self.tokens, there[:1])
        rows = store.shards[shard]
        return set(store.keys(np.arange(rows.start, rows.stop, store.crops)))

    def _missing(self, shard: int) -> list[str]:
        """The outputs that the shard lacks, or has of fewer samples, since a limit cut it."""
        entries = {output.key: entry_of(self.tokens, output.key, shard) for output in self.outputs}
        lost = sum(reject.samples for reject in self.rejects.read(shard)) if any(entries.values()) else 0
        expected = (len(self._rows(shard)) - lost) * self.crops.count
        return [key for key, entry in entries.items() if entry is None or entry.rows < expected]

    # ---- what is read, and by what
    @cached_property
    def _names(self) -> dict[str, str]:
        """The modality of the raw data that each output is made from: ``rgb`` of ``rgb@448``, where there is no larger
        one of that name."""
        keys = [output.key for output in self.outputs]
        return {k: k if (folder_of(self.raw, k) / FILE).exists() else modalities.get(k).name for k in keys}

    @cached_property
    def _modalities(self) -> dict[str, Modality]:
        """What is read of every sample: all of it even where only some is missing, since images say how the rest is
        cropped."""
        names = [name for key, name in self._names.items() if key not in self._networks]
        names += [source for network in self._networks.values() for source in network.sources]
        names += [self.image] * (self.image is not None)
        known = {name: modalities.get(name) for name in names}
        if any(modality.has_positions for modality in known.values()) and not any(map(self._shows, known.values())):
            known |= {modality.name: modality for modality in self._picture()}
            if not any(map(self._shows, known.values())) and any(map(_is_map, known.values())):
                raise Open4MError(
                    f"{self.raw}: positions are fractions of an image, of which there is only the central square, in "
                    f"{', '.join(filter(lambda name: _is_map(known[name]), known))}: add the image"
                )
        return known

    def _picture(self) -> list[Modality]:
        """The modality of the raw data, if there is one, that shows the picture which positions are in: an image."""
        there = [modalities.get(name) for name in modalities.names() if Manifest.read(folder_of(self.raw, name))]
        return sorted(filter(self._shows, there), key=lambda modality: not modality.image)[:1]

    def _shows(self, modality: Modality) -> bool:
        """Whether the modality shows the whole picture of a sample."""
        return _is_map(modality) and not shows_square(self.raw, modality.name)

    @cached_property
    def _data(self) -> RawDataset:
        return RawDataset(self.raw, tuple(self._modalities))

    @cached_property
    def _encoders(self) -> dict[str, Encoder]:
        outputs, crops = self.outputs, self.crops.count
        return {o.key: encoder_of(o, modalities.get(o.key), self.device, crops) for o in outputs}

    @cached_property
    def _networks(self) -> dict[str, Labeller]:
        """What computes the features of crops, by output; none where the central square is all that is stored."""
        of_images = [output for output in self.outputs if modalities.get(output.key).of_image]
        return {output.key: self._network(output) for output in of_images if self.crops.count > 1}

    def _network(self, output: Output) -> Labeller:
        """The network of a modality's labels, loaded as their manifest says, or as the user does."""
        name = modalities.get(output.key).name
        manifest = Manifest.read(folder_of(self.raw, self._names[output.key]))
        header = manifest.header if manifest else {}
        made = dict(header.get("made_by", {}))
        kind, model = labellers.named(name, output.network) if output.network else (made.get("labeller"), None)
        model = model if output.network else made.get("model", "")
        if not kind or (labellers.get(kind).needs_model and not model):
            raise Open4MError(
                f"{output.key}: features of crops are computed anew, and the raw data do not say by which network: "
                f"name it, a folder or a name on the hub (--network {name}=MODEL)"
            )
        known = labellers.get(kind).Settings
        settings = configs.from_dict(known, made["settings"], "made_by.settings") if "settings" in made else None
        network = labellers.get(kind).load(model, self.device, settings, name)
        if header.get("labeller", network.fingerprint) != network.fingerprint:
            raise Open4MError(
                f"{output.key}: the network {model} has other weights or settings than the one that made the labels in "
                f"{self.raw}: name that one, or label again"
            )
        return network


def _is_map(modality: Modality) -> bool:
    """Whether values of the modality show a picture, cell by cell or pixel by pixel."""
    return not modality.family.is_sequence and not isinstance(modality, Vector)
