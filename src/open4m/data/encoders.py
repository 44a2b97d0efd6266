"""From values to the tokens that a store holds: one encoder per family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from open4m import config as configs
from open4m import modalities, weights
from open4m.modalities.families import Modality
from open4m.modalities.features import Vector
from open4m.store.manifest import FILE, folder_of
from open4m.store.tokens import TokenHeader
from open4m.tokenizers.config import TokenizerConfig, valid_of
from open4m.tokenizers.text import TEXT, TextTokenizer
from open4m.tokenizers.tokenizer import FORMAT, Tokenizer
from open4m.types import Open4MError, Value

PAPER_SIZE = 224
"""Pixels of images where no tokenizer says so (paper Table 5)."""

NO_DATA = "no data"
"""Why a modality that raw data lack is not tokenized."""


@dataclass(frozen=True)
class Output:
    """One modality that is tokenized.

    ``key`` is its name, with a resolution if there are several: of ``rgb@448`` it is the number, in pixels.
    ``tokenizer`` is the folder of its tokenizer, which each process loads; pixels have none. ``parts`` is that of the
    tokenizer of a sequence's parts, such as poses, whose values do not have their tokens yet. Pixels are stored as JPEG
    files, ``image_size`` pixels wide and high, sequences with up to ``max_length`` tokens. ``network``: of features of
    crops, what computes them, as ``open4m label`` takes it; by default what computed those of the raw data.
    """

    key: str
    tokenizer: Path | None = None
    image_size: int = 0
    max_length: int = 256
    parts: Path | None = None
    network: str = ""


def outputs_of(
    raw: Path, tokenizers: Path, keys: Sequence[str] = (), *, image_size: int = 0, max_length: Mapping[str, int] = {}
) -> tuple[Output, ...]:
    """The outputs of raw data by the tokenizers of a folder, which holds ``text`` and one folder per grid modality: a
    tokenizer, or the training run that made it.

    ``keys``: which; by default all that the data have and there is a tokenizer for, images as pixels as well.
    ``image_size``: of pixels, by default as the image's tokenizer reads them. ``max_length``: of sequences, by default
    256. Raises :class:`Open4MError` for modalities that cannot be tokenized, and if none can.
    """
    size = image_size or _image_size(tokenizers)
    made = {key: _output(key, raw, tokenizers, size, max_length) for key in keys or modalities.names()}
    missing = [f"{key} ({why})" for key, why in made.items() if isinstance(why, str) and (keys or why != NO_DATA)]
    if keys and missing:
        raise Open4MError(f"{raw}: cannot be tokenized: {', '.join(missing)}")
    if unknown := [key for key in max_length if key not in made]:
        raise Open4MError(f"max_length of {', '.join(unknown)}: not among the modalities that are tokenized")
    if not (found := tuple(output for output in made.values() if not isinstance(output, str))):
        lacking = ", ".join(missing) or "it holds no raw data, which open4m data import SOURCE OUT makes of images"
        raise Open4MError(f"{raw}: nothing to tokenize with what is in {tokenizers}: {lacking}")
    return found


def _output(key: str, raw: Path, tokenizers: Path, image_size: int, max_length: Mapping[str, int]) -> Output | str:
    """How a modality is tokenized, or why not."""
    modality = modalities.get(key)
    names = (key, modality.name, modality.source or modality.name)
    if not any((folder_of(raw, name) / FILE).is_file() for name in names):
        return NO_DATA
    if modality.family.content == "pixels":
        return Output(key, None, image_size)
    if modality.family.is_causal:
        if not (tokenizers / TEXT).is_dir():
            return f"no {tokenizers / TEXT}"
        parts = tokenizer_folder(tokenizers, modality.part) if modality.part else None
        return Output(key, tokenizers / TEXT, max_length=max_length.get(key, Output.max_length), parts=parts)
    if not modality.family.has_codebook:
        return "is not tokenized"
    folder = tokenizer_folder(tokenizers, key)
    return Output(key, folder) if folder else f"no {tokenizers / key}"


def tokenizer_folder(tokenizers: Path, key: str) -> Path | None:
    """The folder of a modality's tokenizer, or ``model`` in the training run that made it; of ``rgb@448`` that of
    ``rgb``, where there is no other."""
    for name in dict.fromkeys((key, key.partition("@")[0])):
        for folder in (tokenizers / name / "model", tokenizers / name):
            if (folder / weights.CONFIG).is_file() and (folder / weights.WEIGHTS).is_file():
                return folder
    return None


def resolution(key: str) -> int | None:
    """The pixels in ``rgb@448``; None where the key does not say."""
    suffix = key.partition("@")[2]
    return int(suffix) if suffix.isdecimal() and int(suffix) else None


def tokenizer_at(folder: Path, key: str, device: str = "cpu") -> Tokenizer:
    """The tokenizer in a folder, :func:`sized` for the key of its modality."""
    return sized(Tokenizer.load(folder, device), key)


def sized(tokenizer: Tokenizer, key: str) -> Tokenizer:
    """The tokenizer for values of the resolution that the key of its modality says, with shared weights. Feature maps,
    whose cells are not pixels, have tokenizers of their own for each."""
    size = resolution(key)
    if size is None or tokenizer.modality.feature_map or size == tokenizer.config.image_size:
        return tokenizer
    return tokenizer.at(size)


def _image_size(tokenizers: Path) -> int:
    """Pixels that the image's tokenizer reads, or those of the paper."""
    folder = tokenizer_folder(tokenizers, modalities.of_role("photo").name)
    if folder is None:
        return PAPER_SIZE
    return configs.load_versioned(TokenizerConfig, folder / weights.CONFIG, FORMAT)[0].image_size


class Encoder(Protocol):
    """Makes the tokens of values of one modality, as the token store takes them. Made of an output, its modality and
    a device."""

    header: TokenHeader
    size: int | None  # pixels that it sees of a map; None: it sees values as they are

    def encode(self, values: Sequence[Value]) -> list[Any]:
        """One row of tokens per value, None for a map that measures nothing of what the encoder sees."""


class PixelEncoder:
    def __init__(self, output: Output, modality: Modality, device: str) -> None:
        self.modality, self.size = modality, resolution(output.key) or output.image_size
        if self.size < 1:
            raise Open4MError(f"{output.key}: give the image_size that its pixels are stored in")
        self.header = TokenHeader(kind=modality.family.name, tokenizer="jpeg")

    def encode(self, values: Sequence[Value]) -> list[bytes]:
        return [self.modality.write(self.modality.fit(value, self.size)) for value in values]


class GridEncoder:
    def __init__(self, output: Output, modality: Modality, device: str) -> None:
        self.tokenizer = tokenizer_at(output.tokenizer, output.key, device)
        self.size = None if isinstance(modality, Vector) else self.tokenizer.config.image_size
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
        tokens: list[Any] = [None] * len(values)
        kept = [i for i, value in enumerate(values) if self._measures(value)]
        for i, ids in zip(kept, self.tokenizer.encode([values[i] for i in kept]), strict=True):
            tokens[i] = ids.ravel()
        return tokens

    def _measures(self, value: Value) -> bool:
        """Whether any pixel that the tokenizer sees holds a measurement."""
        valid = self.tokenizer.modality.valid(value)
        if valid is None or valid.all():
            return True
        seen = valid_of(self.tokenizer.modality.fit(value, self.size), self.tokenizer.config, self.tokenizer.modality)
        return seen is None or bool(seen.any())


class SequenceEncoder:
    def __init__(self, output: Output, modality: Modality, device: str) -> None:
        self.modality, self.max_length, self.size = modality, output.max_length, None
        self.text = TextTokenizer.load(output.tokenizer)
        self.parts = None if output.parts is None else Tokenizer.load(output.parts, device)
        if self.parts is not None and self.parts.modality.name != modality.part:
            raise Open4MError(f"{output.key}: its parts are of {modality.part or 'no modality'}, not {output.parts}")
        self.header = TokenHeader(
            kind=modality.family.name,
            tokenizer=self.text.fingerprint,
            parts="" if self.parts is None else self.parts.fingerprint,
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


def encoder_of(output: Output, modality: Modality, device: str, crops: int = 1) -> Encoder:
    """The encoder of an output's family, for stores with so many crops per sample.

    Raises :class:`Open4MError` if there is none, or no tokenizer for it.
    """
    family = modality.family
    if family.name not in ENCODERS:
        raise Open4MError(f"{output.key}: a {type(modality).__name__} is not tokenized")
    if family.has_vocabulary and output.tokenizer is None:
        raise Open4MError(f"{output.key}: name the folder of its tokenizer")
    encoder = ENCODERS[family.name](output, modality, device)
    encoder.header = replace(encoder.header, crops=crops)
    return encoder
