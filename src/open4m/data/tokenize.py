"""Tokenizing: raw shards become token shards, all modalities of a sample in one pass over the raw data."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from open4m import modalities
from open4m.data.jobs import Job, batches
from open4m.modalities.families import Modality
from open4m.modalities.features import Vector
from open4m.modalities.frames import frame_of, positioned
from open4m.store.manifest import Manifest, check_header, folder_of, is_committed
from open4m.store.shards import RawDataset, UnreadableSample, shows_square
from open4m.store.tokens import TokenHeader, TokenStore, write_token_shard
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError, Value

logger = logging.getLogger("open4m")

MAX_LISTED_FAILURES = 5
"""Samples of a shard that are named where some are skipped."""


@dataclass(frozen=True)
class Output:
    """One modality that is tokenized.

    ``key`` is its name, with a resolution if there are several. ``tokenizer`` is the folder of its tokenizer, which
    each process loads; pixels have none. ``parts`` is that of the tokenizer of a sequence's parts, such as poses, whose
    values do not have their tokens yet. Pixels are stored as JPEG files, ``image_size`` pixels wide and high,
    sequences with up to ``max_length`` tokens.
    """

    key: str
    tokenizer: Path | None = None
    image_size: int = 0
    max_length: int = 256
    parts: Path | None = None


@dataclass(frozen=True)
class Tokenize(Job):
    """Tokenize modalities of the raw shards below ``raw`` into token shards below ``tokens``.

    A shard that has some of its modalities gets the missing ones; each is committed on its own. Values whose size is
    not the tokenizer's are center-cropped and resized, and those that tell positions, like boxes, follow the crop of
    the sample's picture. Where none of the outputs shows it, ``image`` is read for that alone, by default the image of
    the raw data or, without one, another map. Raw data without any are taken to show squares. ``unreadable``: the share
    of a shard's samples that may be damaged; they are left out of all modalities, counted and logged.

    Raises :class:`Open4MError` if a modality and its tokenizer do not fit, if shards that are there were made by
    another tokenizer, for a sample whose maps do not show one picture, and if more samples cannot be read than that;
    errors name shard, key and modality.
    """

    raw: Path
    tokens: Path
    outputs: tuple[Output, ...]
    image: str | None = None
    device: str = "cpu"
    unreadable: float = 0.0

    @property
    def description(self) -> str:
        return f"tokenize {self.raw.name}"

    def shards(self) -> Sequence[int]:
        for key, encoder in self._encoders.items():
            folder = folder_of(self.tokens, key)
            check_header(folder, Manifest.read(folder), dataclasses.asdict(encoder.header))
        return list(self._data.shards)

    def is_done(self, shard: int) -> bool:
        return not self._missing(shard)

    def run(self, shard: int) -> None:
        missing = self._missing(shard)
        keys: list[str] = []
        tokens: dict[str, list[Any]] = {key: [] for key in missing}
        rows, skipped = self._data.shards[shard], []
        kept = self._keys_of_others(shard, missing)
        for batch in batches([i for i in rows if kept is None or self._data.key(i) in kept]):
            samples = {}
            for i in batch:
                try:
                    samples[i] = self._sample(i)
                except UnreadableSample as error:
                    if kept is not None:  # tokens that are there already have this sample
                        raise
                    skipped.append(error)
            if len(skipped) > self.unreadable * len(rows):
                raise skipped[-1]
            encoded = self._encoded(samples, missing)
            keys += [self._data.key(i) for i in samples]
            for key in missing:
                tokens[key] += encoded[key]
        for error in skipped[:MAX_LISTED_FAILURES]:
            logger.warning("skipped: %s", error)
        if skipped:
            logger.warning("%s: shard %d: %d of %d samples skipped", self.description, shard, len(skipped), len(rows))
        for key in missing:
            write_token_shard(self.tokens, key, shard, keys, tokens[key], header=self._encoders[key].header)

    def _sample(self, i: int) -> dict[str, Value]:
        """The values of a sample, with positions relative to its central square.

        Raises :class:`UnreadableSample` if they cannot be read, or do not fit together.
        """
        values = self._data[i]  # which checks that its maps show one picture
        try:
            frame = frame_of(values, self._modalities, squares=self._data.squares)
            return positioned(values, self._modalities, frame)
        except Open4MError as error:
            raise self._data.unreadable(i, ", ".join(values), error) from error

    def _encoded(self, samples: Mapping[int, Mapping[str, Value]], names: Sequence[str]) -> dict[str, list[Any]]:
        """The tokens of samples. What a tokenizer refuses, of one of them, names that sample."""
        encoded = {}
        for key in names:
            values = {i: sample[key] for i, sample in samples.items()}
            try:
                encoded[key] = self._encoders[key].encode([*values.values()])
            except Open4MError:
                for i, value in values.items():
                    try:
                        self._encoders[key].encode([value])
                    except Open4MError as error:
                        raise self._data.unreadable(i, key, error) from error
                raise
        return encoded

    def _keys_of_others(self, shard: int, missing: Sequence[str]) -> set[str] | None:
        """The samples of which the shard has tokens of other modalities: what is added keeps in step with them."""
        there = [output.key for output in self.outputs if output.key not in missing]
        store = TokenStore(self.tokens, there[:1]) if there else None
        return None if store is None else set(store.keys(np.array(store.shards[shard])))

    def _missing(self, shard: int) -> list[str]:
        return [output.key for output in self.outputs if not is_committed(self.tokens, output.key, shard)]

    @cached_property
    def _modalities(self) -> dict[str, Modality]:
        """What is read of every sample: all of it even where only some is missing, since images say how the rest is
        cropped."""
        names = [output.key for output in self.outputs] + [self.image] * (self.image is not None)
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
        return {output.key: encoder_of(output, self._modalities[output.key], self.device) for output in self.outputs}


def _is_map(modality: Modality) -> bool:
    """Whether values of the modality show a picture, cell by cell or pixel by pixel."""
    return not modality.family.is_sequence and not isinstance(modality, Vector)


# ---- one encoder per family


class Encoder(Protocol):
    """Makes the tokens of values of one modality, as the token store takes them. Made of an output, its modality and
    a device."""

    header: TokenHeader

    def encode(self, values: Sequence[Value]) -> list[Any]:
        """One row of tokens per value."""


class PixelEncoder:
    def __init__(self, output: Output, modality: Modality, device: str) -> None:
        if output.image_size < 1:
            raise Open4MError(f"{output.key}: give the image_size that its pixels are stored in")
        self.modality, self.size = modality, output.image_size
        self.header = TokenHeader(kind=modality.family.name, tokenizer="jpeg")

    def encode(self, values: Sequence[Value]) -> list[bytes]:
        return [self.modality.write(self.modality.fit(value, self.size)) for value in values]


class GridEncoder:
    def __init__(self, output: Output, modality: Modality, device: str) -> None:
        self.tokenizer = Tokenizer.load(output.tokenizer, device)
        if self.tokenizer.config.modality != modality.name:
            raise Open4MError(f"{output.key}: {output.tokenizer} tokenizes {self.tokenizer.config.modality}")
        self.header = TokenHeader(
            kind=modality.family.name,
            tokenizer=self.tokenizer.fingerprint,
            vocab_size=self.tokenizer.config.codebook_size,
            grid=self.tokenizer.config.grid,
            placeless=isinstance(modality, Vector),
        )

    def encode(self, values: Sequence[Value]) -> list[Any]:
        return [ids.ravel() for ids in self.tokenizer.encode(values)]


class SequenceEncoder:
    def __init__(self, output: Output, modality: Modality, device: str) -> None:
        self.modality, self.max_length = modality, output.max_length
        self.text = TextTokenizer.load(output.tokenizer)
        self.parts = None if output.parts is None else Tokenizer.load(output.parts, device)
        if self.parts is not None and self.parts.modality.name != modality.part:
            raise Open4MError(f"{output.key}: its parts are of {modality.part or 'no modality'}, not {output.parts}")
        self.header = TokenHeader(
            kind=modality.family.name,
            tokenizer=self.text.fingerprint,
            vocab_size=self.text.vocab_size,
            max_length=output.max_length,
        )

    def encode(self, values: Sequence[Value]) -> list[list[int]]:
        if self.parts is not None:
            values = [self.modality.tokenized(value, self.parts) for value in values]
        return [self.modality.encode(value, self.text, self.max_length) for value in values]


ENCODERS: dict[str, Callable[[Output, Modality, str], Encoder]] = {
    "pixels": PixelEncoder,
    "grid": GridEncoder,
    "sequence": SequenceEncoder,
}
"""By family. Vectors, which are not tokenized, have none."""


def encoder_of(output: Output, modality: Modality, device: str) -> Encoder:
    """The encoder of an output's family. Raises :class:`Open4MError` if there is none, or no tokenizer for it."""
    family = modality.family
    if family.name not in ENCODERS:
        raise Open4MError(f"{output.key}: a {type(modality).__name__} is not tokenized")
    if family.has_vocabulary and output.tokenizer is None:
        raise Open4MError(f"{output.key}: name the folder of its tokenizer")
    return ENCODERS[family.name](output, modality, device)
