"""A trained model with its tokenizers: loading, saving, tokens of values, features.

:class:`open4m.FourM` (``generate/pipeline.py``) is this and generation. What only reads or writes models, such as
training and transfers, needs no more than this.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open4m import config as configs
from open4m import files, modalities, weights
from open4m.devices import find_device
from open4m.hub import locate, parts, recorded
from open4m.hub.parts import TEXT
from open4m.modalities import carried
from open4m.modalities.codecs import as_ids
from open4m.modalities.frames import check_fit, frame_of, naming, positioned
from open4m.modalities.given import InForm, by_name, taken
from open4m.model.config import TOKENS, FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.model.packing import DENSE, pack, stacked
from open4m.model.plans import Plans
from open4m.nn.packed import Precision, can_pack
from open4m.tokenizers.grids import Grids, Source
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError, Value, shown

if hasattr(os, "register_at_fork"):
    # A forked process has none of its parent's threads: the first large product would wait for them without end.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

VALUES = "values by modality, such as {'caption': 'a cube'}"

Inputs = Mapping[str, Any] | Any | Iterable[Mapping[str, Any] | Any]
"""One sample or several: see :meth:`FourMBase.samples_of`."""


def is_sample(given: Any) -> bool:
    """Whether it is values by modality, or what may be one image: a picture, an array, or the path of a file; and not
    several of these."""
    if hasattr(given, "shape"):
        return len(given.shape) != 4
    return isinstance(given, Mapping | Image.Image | str | os.PathLike | InForm)


@dataclass(frozen=True)
class TokenFeatures:
    """Features of the visible tokens of B samples, padded to N tokens."""

    tokens: Tensor  # (B, N, dim)
    valid: Tensor  # (B, N) bool: False is padding
    modality: Tensor  # (B, N) int64: the index of each token's modality in the model's configuration
    position: Tensor  # (B, N) int64: raster index, or place in a sequence

    @property
    def pooled(self) -> Tensor:
        """The mean over the tokens of each sample, (B, dim)."""
        shown = self.valid[..., None].to(self.tokens.dtype)
        return (self.tokens * shown).sum(1) / shown.sum(1).clamp(min=1)


class FourMBase:
    """A model directory in memory. A modality without a tokenizer can be neither given nor generated.

    ``grids``: the tokenizers of modalities by their keys, and of what is a part of sequences (``TokenSequence.part``)
    by its name.
    """

    def __init__(
        self,
        model: FourMTransformer,
        grids: Mapping[str, Tokenizer],
        text: TextTokenizer | Callable[[], TextTokenizer] | None,
        plans: Plans | None = None,
    ):
        """``text``: or a function that fetches it, which is called when it is needed."""
        self.model, self.plans = model, plans or Plans()
        self.config: FourMConfig = model.config
        specs = {spec.key: spec for spec in self.config.modalities}
        self.grids = Grids(grids)
        for key, found in self.grids.data.items():
            if isinstance(found, Tokenizer) and key in specs:
                self.grids.data[key] = parts.served(found, specs[key])
        self.text = text
        self._upscaler: Callable[[], parts.Parts] | Self | None = None
        self.name = ""  # under which it was loaded
        self.precision: Precision = "exact"
        names = [*self.config.keys, *self.config.readers]
        self.modalities = {name: modalities.get(name) for name in names if name and modalities.is_known(name)}

    # ---- parts that are read when they are needed
    @property
    def text(self) -> TextTokenizer | None:
        """The text tokenizer of all sequences, None if there is none; read when it is first asked for."""
        if callable(self._text):
            self.text = self._text()
        return self._text

    @text.setter
    def text(self, text: TextTokenizer | Callable[[], TextTokenizer] | None) -> None:
        for spec in self.config.modalities if isinstance(text, TextTokenizer) else ():
            if spec.is_causal and text.vocab_size != spec.vocab_size:
                raise Open4MError(
                    f"{spec.key}: the model has {spec.vocab_size} entries, the text tokenizer {text.vocab_size}"
                )
        self._text = text
        vars(self).pop("_engine", None)  # which was made with the tokens of another one

    @property
    def upscaler(self) -> Self:
        """The model of super-resolution, which reads this model's tokens (paper A.1); read when it is first asked for.

        Raises :class:`Open4MError` if there is none, or if it reads tokens of other tokenizers, or shorter sequences.
        """
        if self._upscaler is None:
            raise Open4MError(
                f"{self.name or 'this model'}: has no model of super-resolution; one lies in "
                f"{locate.SUPER_RESOLUTION}/ of a model directory (open4m import MODEL OUT --super-resolution OTHER), "
                "or is given to from_pretrained: chosen=Chosen(super_resolution=OTHER)"
            )
        if not isinstance(self._upscaler, FourMBase):
            self._upscaler = self._with_super_resolution(self._upscaler())
        return self._upscaler

    def _with_super_resolution(self, found: parts.Parts) -> Self:
        """The second model, with the tokenizers of this one for all sizes of their modalities."""
        grids = parts.shared_grids(found, self.grids, self.config)
        text = self._text if self._text is not None else found.text
        second = type(self)(found.transformer(), grids, text).to(self.device, self.dtype)
        second.precision, second.name = self.precision, f"{self.name}/{locate.SUPER_RESOLUTION}"
        for key in grids.keys() - self.grids.keys():  # so that what it makes is drawn and saved like all else
            self.grids.data[key] = Source(partial(grids.__getitem__, key))
        return second

    # ---- at rest
    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        *,
        trust: bool = False,
        chosen: parts.Chosen | None = None,
    ) -> Self:
        """A shipped model by name, a model directory, or one of the authors' public models: its name on the hub, a
        directory or a safetensors file.

        >>> FourM.from_pretrained("EPFL-VILAB/4M-21_XL")

        Of a public model, the tokenizers and the model of super-resolution are fetched when something needs them
        (:mod:`open4m.hub.ml4m.table`); downloads that lie beside it are used. ``chosen``: parts that are named instead.

        ``device``, ``dtype``: see :meth:`to`; by default the CPU and float32. ``trust``: run the files of modalities
        that the directory carries and that are not known here. They are programs: read them first. Raises
        :class:`Open4MError` if there is no such model, or if it carries such files and is not trusted.
        """
        folder = locate.resolve(name)
        carried.admit(folder, trust)
        found = parts.opened(name, chosen, folder)
        loaded = cls(found.transformer(), found.grids, found.text, found.plans).to(device, dtype)
        loaded._upscaler = found.read_super_resolution
        loaded.name = str(name)
        return loaded

    def to(self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move all networks to a device, and the weights of the Transformers to a type; returns itself.

        >>> model.to("cuda", torch.bfloat16)
        >>> model.to(torch.int8)

        ``torch.int8``, on CPUs: generation computes with copies of the weights in 8 bits, while these stay as they are
        (:mod:`open4m.nn.packed`); a floating-point type ends it. Tokenizers keep float32: they are small, and people
        look at what they decode. Weights that were rounded to 16 bits stay rounded. Either way the model is another
        one, with another fingerprint. Raises :class:`Open4MError` for a device that is not there, and for a type that
        is neither of floating point nor to be had in 8 bits.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        eight = dtype is torch.int8
        if dtype is not None and not eight and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise Open4MError(f"dtype: expected torch.int8 or a floating-point type like torch.bfloat16, got {dtype!r}")
        self.model.to(None if device is None else find_device(device), torch.float32 if eight else dtype)
        self.grids.to(self.device)
        self.model.embeddings.restore_angles()
        if eight:
            can_pack(self.model.embeddings.outputs.weight, "int8")
        if dtype is not None:
            self.precision = "int8" if eight else "exact"
        if isinstance(self._upscaler, FourMBase):
            self._upscaler.to(device, dtype)
        return self

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Write a directory that :meth:`from_pretrained` reads, whole or not at all; ``half``: weights in 16 bits.

        Raises :class:`Open4MError` if there is something of that name that is not empty, or it cannot be written.
        """
        folder = files.path_of(folder, "folder")
        files.check_new(folder)

        def write(whole: Path) -> None:
            parts.save_transformer(whole, self.model, half)
            second = None if self._upscaler is None else self.upscaler
            for key, tokenizer in parts.stored(self.grids).items():
                tokenizer.save(whole / weights.TOKENIZERS / key, torch.float16 if half else torch.float32)
            if self.text is not None:
                self.text.save(whole / weights.TOKENIZERS / TEXT)
            recorded.write(whole)
            self.plans.save(whole)
            if second is not None:
                parts.save_transformer(whole / locate.SUPER_RESOLUTION, second.model, half)
            carried.write(whole, self.config.keys)

        files.write_folder(folder, write)

    # ---- what users give
    def take(self, name: str, value: Any) -> Value:
        """The checked value of what a user gives for a modality: a PIL image, an array or a tensor, a text, boxes, the
        path of a file, or one of these :class:`~open4m.modalities.given.InForm`.

        Raises :class:`Open4MError` for what is no value of the modality.
        """
        tokenizer = self.grids.get(name) if isinstance(value, InForm) else None  # whose palette a form may need
        return taken(modalities.get(name), value, tokenizer.config.palette if tokenizer else ())

    @staticmethod
    def samples_of(inputs: Inputs) -> list[Mapping[str, Any]]:
        """Values by modality of each sample of what a user gives: one sample or several.

        A sample is a mapping of values by modality, or a bare image, which is the photo. An array or a tensor of four
        dimensions, images (B, H, W, C) or (B, C, H, W), is several. Raises :class:`Open4MError` for all else.
        """
        several = not is_sample(inputs) and isinstance(inputs, Iterable)
        samples = list(inputs) if several else [inputs]
        for sample in samples:
            if not is_sample(sample):
                raise Open4MError(f"inputs: expected {VALUES}, an image, or a list of these, got {shown(sample)}")
        photo, text = modalities.of_role("photo").name, modalities.of_role("text").name
        for sample in samples:
            if isinstance(sample, str) and not os.path.exists(sample):
                raise Open4MError(f"inputs: no image file {shown(sample)}; a text is given as {{{text!r}: ...}}")
        return [sample if isinstance(sample, Mapping) else {photo: sample} for sample in samples]

    # ---- tokens
    def reconstruct(self, value: Any, key: str) -> Value:
        """The value after tokenizing it and back: as good as a prediction of it can be (paper Table 31, last row).

        Of a sequence that is too long, the part that fits: a prediction is no longer than that either.
        """
        return self.decode(key, self.encode(key, value, cut=True))

    def encode(self, key: str, value: Any, cut: bool = False) -> np.ndarray:
        """Tokens of a value: (h·w,) of a grid, (length,) of a sequence.

        A sequence of more tokens than the model was trained on is an error, as in CLIP's tokenizer, unless it may be
        ``cut``: a condition whose end is left out in silence is another condition than the user gave.
        """
        self.check_tokenizer(key)
        return self._encoded(key, self.take(key, value), cut)

    def _encoded(self, key: str, value: Value, cut: bool = False) -> np.ndarray:
        """:meth:`encode` of a checked value."""
        self.check_tokenizer(key)
        if not self.config.spec(key).is_causal:
            return self._grid(key).encode(value).ravel()
        most, modality = self.config.spec(key).max_length, self.modalities[key]
        if (part := self.grids.get(modality.part)) is not None:
            value = modality.tokenized(value, part)
        ids = modality.encode(value, self.text, most if cut else sys.maxsize)
        if len(ids) > most:
            raise Open4MError(f"{key}: {len(ids)} tokens with the end, the model reads at most {most}: give less of it")
        return np.array(ids, dtype=np.int64)

    def decode(self, key: str, tokens: np.ndarray) -> Value:
        """The value of tokens."""
        self.check_tokenizer(key)
        modality = self.modalities[key]
        if self.config.spec(key).is_causal:
            value, part = modality.decode(as_ids(tokens, key).tolist(), self.text), self.grids.get(modality.part)
            return value if part is None else modality.detokenized(value, part)
        return self._grid(key).decode_batch(as_ids(tokens, key)[None])[0]

    def _grid(self, key: str) -> Tokenizer:
        if key not in self.grids:
            raise Open4MError(f"{key}: the model reads it as it is, so there are no tokens of it")
        return self.grids[key]

    # ---- features
    def features(self, values: Inputs) -> Tensor:
        """The encoder's features of one image or map, or of several: (B, h, w, dim), on the model's device.

        >>> model.features(image)
        >>> model.features(images)  # (B, C, H, W), floats in [0, 1]
        >>> model.features([{"depth": depth} for depth in depths])

        Values are those of one modality whose tokens lie on a grid; for any others, and several together, see
        :meth:`token_features`. Raises :class:`Open4MError` for values that the model cannot read.
        """
        samples = self.samples_of(values)
        keys = {key for sample in samples for key in self.input_keys(sample).values()}
        if len(keys) != 1 or self.config.spec(*keys).is_sequence:
            raise Open4MError(
                "features: expected values of one modality that lies on a grid, got "
                f"{', '.join(sorted(keys)) or 'none'}; token_features takes any"
            )
        for row, sample in enumerate(samples):
            if len(sample) != 1:
                raise Open4MError(f"features: expected one value per sample, sample {row} has {len(sample)} values")
        return self.token_features(samples).tokens.unflatten(1, self.config.spec(*keys).grid)

    @torch.inference_mode()
    def token_features(self, values: Inputs) -> TokenFeatures:
        """The encoder's features of every token of any values, all of them visible; ``.pooled`` is a vector per sample.

        >>> model.token_features({"rgb": image, "caption": "a red cone"}).pooled
        """
        samples = self.samples_of(values)
        if not samples:
            raise Open4MError("features: expected at least one sample, got none")
        if empty := [row for row, sample in enumerate(samples) if not sample]:
            raise Open4MError(f"features: expected at least one value per sample, sample {empty[0]} has none")
        framed = [self._framed(sample, row if len(samples) > 1 else None) for row, sample in enumerate(samples)]
        inputs: list[np.ndarray] = []
        dense: dict[str, dict[str, list[Tensor | None]]] = {"pixels": {}, "vectors": {}}
        for row, sample in enumerate(framed):
            for name, key in self.input_keys(sample).items():
                spec, content = self.config.spec(key), self.encode_input(key, sample[name])
                ids = np.full(spec.length, DENSE) if spec.content == "pixels" else np.asarray(content)
                if not spec.has_vocabulary:
                    dense[spec.content].setdefault(key, [None] * len(samples))[row] = content
                    ids = np.full(len(content) if spec.is_sequence else spec.length, DENSE)
                columns = np.stack([np.full(len(ids), c) for c in (row, self.config.index(key))], 1)
                inputs.append(np.column_stack([columns, np.arange(len(ids)), ids]))
        joined = {kind: {key: stacked(parts) for key, parts in found.items()} for kind, found in dense.items()}
        batch = pack(self.config, np.concatenate(inputs) if inputs else [], [], **joined).to(self.device)
        features = self.model.eval().encode(batch)[:, self.config.register_tokens :]
        return TokenFeatures(features, batch.input_valid, batch.input_modality, batch.input_position)

    def _framed(self, sample: Mapping[str, Any], row: int | None) -> dict[str, Value]:
        """The checked values of a sample, with positions relative to the square that the model sees."""
        by_name = {name: modalities.get(name) for name in self.input_keys(sample)}
        with naming(row):
            values = {name: self.take(name, value) for name, value in sample.items()}
            return positioned(values, by_name, frame_of(values, by_name))

    def input_keys(self, sample: Mapping[str, Any]) -> dict[str, str]:
        """The model's modality for each given name: an image is read as pixels where the model reads those, and as
        tokens where it is named so (``rgb@tokens``)."""
        keys = {name: self.config.read_as(name) if isinstance(name, str) else name for name in by_name(sample)}
        both = [f"{name}{TOKENS}" for name in self.config.readers if name in self.config.inputs]
        allowed = [*dict.fromkeys([*self.config.inputs, *filter(None, self.config.readers), *both])]
        for name, key in keys.items():
            if key in self.config.keys and key not in self.config.inputs:
                raise Open4MError(f"{name}: this model was not trained to read it (inputs: {', '.join(allowed)})")
            if key not in self.config.inputs:
                raise modalities.unknown(name, allowed)
        return keys

    def encode_input(self, key: str, value: Value, fit: str = "crop") -> Tensor | list[int]:
        """What the model reads of a checked value: pixels (C, H, W), vectors (L, C), ids (L,) of a grid, or a list of
        ids of a sequence. ``fit``: how a map that is not square is shown (:class:`Frame`)."""
        check_fit(fit)
        spec, modality = self.config.spec(key), self.modalities[key]
        if spec.content == "pixels":
            return torch.from_numpy(modality.pixels(modality.fit(value, spec.grid[0] * spec.patch_size, fit)))
        if spec.content == "vectors":
            if len(value := self.take(key, value)) > spec.max_length:
                raise Open4MError(f"{key}: {len(value)} vectors, the model reads at most {spec.max_length}")
            return torch.from_numpy(modality.vectors(value, spec.channels, spec.max_length))
        if fit != "crop" and key in self.grids:  # tokenizers crop
            value = modality.fit(value, self.grids[key].config.image_size, fit)
        ids = self._encoded(key, self.take(key, value) if spec.is_causal or isinstance(value, list | tuple) else value)
        return ids.tolist() if spec.is_causal else torch.from_numpy(ids)

    # ---- what it is
    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embeddings.mask_token.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the Transformer's weights."""
        return self.model.embeddings.mask_token.dtype

    def __repr__(self) -> str:
        config, rows = self.config, [("modality", "family", "tokens", "vocabulary", "read", "predicted", "tokenizer")]
        for spec in config.modalities:
            tokens = f"up to {spec.length}" if spec.is_sequence else "×".join(map(str, spec.grid))
            vocabulary = str(spec.vocab_size) if spec.has_vocabulary else "–"
            needs = "missing" if not self.can_decode(spec.key) else "yes" if spec.has_vocabulary else "–"
            used = ("yes" if use else "–" for use in (spec.is_input, spec.is_target))
            rows.append((spec.key, spec.family, tokens, vocabulary, *used, needs))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        millions, dtype = self.model.parameter_count() / 1e6, str(self.dtype).removeprefix("torch.")
        blocks = f"{config.encoder_depth} + {config.decoder_depth} blocks of width {config.dim}"
        dtype = "int8" if self.precision == "int8" else dtype
        about = f"{millions:.1f} M parameters without embeddings, {blocks}, {dtype} on {self.device}"
        return "\n".join([f"{type(self).__name__} {self.name or 'made in memory'}: {about}", *table])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits for all that decides about tokens: configuration, weights, and what the tokenizers
        encode. Weights at rest in 16 bits are the same model if nothing was rounded."""
        about = configs.to_dict(self.config, configs.counting)
        del about["directions"]
        tokenizers = self.grids.fingerprints(parts.needed(self.config))
        if self._text is not None:  # which may be known without being fetched
            tokenizers[TEXT] = getattr(self._text, "fingerprint", "") or self.text.fingerprint
        rounded = {} if self.precision == "exact" else {"precision": self.precision}
        return weights.fingerprint(self.model.state_dict(), {"model": about, "tokenizers": tokenizers, **rounded})

    def can_decode(self, key: str) -> bool:
        """Whether a modality needs no tokenizer, or the model came with it."""
        spec = self.config.spec(key)
        return not ((spec.has_codebook and key not in self.grids) or (spec.is_causal and self._text is None))

    def check_tokenizer(self, key: str) -> None:
        """Read or fetch the tokenizer of a modality, if it has one.

        Raises :class:`Open4MError` if the model did not come with it, or if it cannot be read or fetched.
        """
        spec = self.config.spec(key)
        if not self.can_decode(key):
            folder = TEXT if spec.is_causal else key
            raise Open4MError(f"{key}: the model has no tokenizer for it; put one into {weights.TOKENIZERS}/{folder}")
        if spec.is_causal:
            _ = self.text
        elif spec.has_codebook:
            _ = self.grids[key]
