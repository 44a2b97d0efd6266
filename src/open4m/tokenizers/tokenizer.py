"""``Tokenizer``: a trained tokenizer of a dense modality, from values to tokens and back."""

from __future__ import annotations

import copy
import dataclasses
import logging
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open4m import checksums, files, weights
from open4m import config as configs
from open4m.modalities.crops import Crop
from open4m.modalities.families import STANDARDIZED
from open4m.tokenizers.config import MAKES_TOKENS, TokenizerConfig, check_networks, grid_modality, tensor_of, valid_of
from open4m.tokenizers.diffusion import Solver
from open4m.tokenizers.network import DECODER, VQVAE, own_name, weights_of
from open4m.types import Open4MError, Value

logger = logging.getLogger("open4m")

QUALITY_FORMAT = 1
"""The version of the format of ``quality.json``."""

FORMAT = 2
"""The version of a tokenizer directory's format. In format 1 the weights had the authors' names."""

MAX_LISTED_CLASSES = 8
"""Class names that a description lists."""

MAX_LISTED_CHANNELS = 4
"""Channels whose mean and deviation a description lists; of more it gives the number."""


class Tokenizer:
    """A trained VQ-VAE with its configuration: turns values of its modality into tokens, and tokens into values.

    Its folder (``config.json``, ``model.safetensors``) describes it completely; it needs no training data.
    ``quality``: metrics that were measured on validation data, kept in ``quality.json`` if there are any.
    """

    QUALITY = "quality.json"

    def __init__(self, model: VQVAE, quality: dict[str, float] | None = None) -> None:
        self.config, self.quality = model.config, quality or {}
        self.modality = grid_modality(self.config.modality)
        if self.modality.categorical != self.config.categorical:
            raise Open4MError(
                f"tokenizer of {self.config.modality}: loss {self.config.loss!r} does not fit a modality "
                f"with categorical={self.modality.categorical}"
            )
        if self.config.standardize and STANDARDIZED not in self.modality.forms:
            raise self.modality.error(f"values have no form {STANDARDIZED!r}, so no tokenizer can standardize them")
        check_networks(self.config, self.modality)
        self.model = model.eval()

    def describe(self) -> str:
        """A readable description: what the tokenizer reads, its tokens, its networks and its quality."""
        config, modality = self.config, self.modality
        unit = "cells" if modality.feature_map else "pixels"
        side, (h, w) = config.image_size, config.grid
        if config.standardize:
            normalization = "each value by its own trimmed mean and deviation; decoded values have no units"
        elif config.categorical:
            normalization = f"none: classes are embedded as {config.channels} channels"
        else:
            normalization = f"mean {_numbers(config.mean)}, deviation {_numbers(config.std)}"
        lines = {
            "tokenizer": f"{modality.name}, {modality.description}",
            "tokens": f"{w} of a vector of {config.channels}" if config.vector else f"{h}×{w} of {side}×{side} {unit}",
            "codebook": f"{config.codebook_size} codes{' per token' if config.codebooks > 1 else ''} of "
            f"{config.latent_dim // config.codebooks} dimensions ({config.quantizer})",
            "decoder": type(config.decoder).__name__.removesuffix("Config")
            if config.diffusion is None
            else f"diffusion, {config.diffusion.steps} steps of {config.diffusion.solver}",
            "normalization": normalization,
        }
        if len(modality.forms) > 1:
            lines["forms"] = ", ".join(modality.forms)
        if config.resolutions:
            lines["resolutions"] = f"trained at {', '.join(map(str, sorted({*config.resolutions})))} {unit}"
        if config.tile:
            lines["tiles"] = f"larger values in tiles of {config.tile} {unit}"
        if config.categorical:
            more = ", ..." if len(config.class_names) > MAX_LISTED_CLASSES else ""
            lines["classes"] = f"{len(config.class_names)}: {', '.join(config.class_names[:MAX_LISTED_CLASSES])}{more}"
            lines["palette"] = "one color per class" if config.palette else "none"
        lines["quality"] = ", ".join(f"{name} {value:.4g}" for name, value in self.quality.items()) or "not measured"
        width = max(map(len, lines)) + 2
        return "\n".join(f"{name:{width}}{line}" for name, line in lines.items())

    def __repr__(self) -> str:
        return self.describe()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.mean.device

    def to(self, device: torch.device | str) -> Tokenizer:
        """Move the weights; returns itself."""
        self.model.to(device)
        return self

    def at(self, image_size: int) -> Tokenizer:
        """This tokenizer for values of another size, with shared weights: ``rgb@256`` beside ``rgb``.

        Logs a warning if it was not trained at this size, nor makes it of tiles. Raises :class:`Open4MError` if the
        size is not a multiple of the patch size.
        """
        if not self.config.knows(image_size):
            trained = sorted({*self.config.resolutions}) or [self.config.image_size]
            logger.warning(
                "%s: the tokenizer was trained at %s, not at %d: reconstructions may be bad (paper B.3)",
                self.modality.name,
                ", ".join(map(str, trained)),
                image_size,
            )
        other = copy.copy(self)
        other.config, other.quality = dataclasses.replace(self.config, image_size=image_size), {}
        return other

    # ---- values to tokens and back
    def encode(self, value: Any, form: str | None = None) -> np.ndarray | list[np.ndarray]:
        """The tokens of a value, int64 (h, w); for a list or tuple of values, a list.

        ``form`` is one of ``modality.forms``, by default the first: ``encode(disparity, form="inverse")``. PIL images
        and arrays may have any size: the center is cropped to a square and resized to ``image_size``. A tokenizer with
        ``standardize`` then standardizes the value, unless its form is already ``"standardized"``; other tokenizers
        refuse that form. Raises :class:`Open4MError` for another form, and for a value that is not valid in its form.
        """
        form = form or self.modality.forms[0]
        self.modality.check_form(form)
        if form == STANDARDIZED and not self.config.standardize:
            others = ", ".join(other for other in self.modality.forms if other != form)
            raise self.modality.error(f"form {form!r} has no units, which this tokenizer needs: give one of {others}")
        values = list(value) if isinstance(value, list | tuple) else [value]
        tokens = list(self._encode([self._read(v, form) for v in values]))
        return tokens if isinstance(value, list | tuple) else tokens[0]

    def decode(
        self,
        ids: Any,
        seed: int | Sequence[int] = 0,
        solver: Solver | None = None,
        steps: int | None = None,
        form: str | None = None,
    ) -> Value | list[Value]:
        """The value of tokens (h, w), any grid size; for a list of those or an array (B, h, w), a list.

        Tokens of a vector are (1, codebooks). ``form`` is one of ``modality.forms``, by default the first; a tokenizer
        with ``standardize`` can only give ``"standardized"``. A diffusion decoder starts each value from the noise of
        ``seed``, one for all or a list; ``solver`` and ``steps`` are the configuration's unless given. Grids of equal
        size are decoded as one batch, which changes no value. Raises :class:`Open4MError` for ids that are not in the
        codebook, and for a form that the decoded values do not have.
        """
        decoded_form = STANDARDIZED if self.config.standardize else self.modality.forms[0]
        form = form or decoded_form
        self.modality.check_form(form)
        if self.config.standardize and form != STANDARDIZED:
            raise self.modality.error(
                f"form {form!r}: this tokenizer standardizes each value by itself, so what is "
                f"decoded has no units; its only form is {STANDARDIZED!r}"
            )
        many = isinstance(ids, list | tuple) or np.ndim(ids) == 3
        grids = [np.asarray(grid) for grid in (ids if many else [ids])]
        seeds = [seed] * len(grids) if not isinstance(seed, Sequence) else list(seed)
        if len(seeds) != len(grids):
            raise self.modality.error(f"expected one seed, or one for each of {len(grids)} grids, got {len(seeds)}")
        values: list[Value] = [None] * len(grids)
        for shape in dict.fromkeys(grid.shape for grid in grids):
            rows = [i for i, grid in enumerate(grids) if grid.shape == shape]
            decoded = self._decode(np.stack([grids[i] for i in rows]), [seeds[i] for i in rows], solver, steps)
            for i, value in zip(rows, decoded, strict=True):
                values[i] = value
        if form != decoded_form:
            values = [self.modality.to_form(value, form, self.config.palette) for value in values]
        return values if many else values[0]

    @property
    def better(self) -> dict[str, str]:
        """The direction of each metric of the modality; with ``standardize``, of the metrics that need no units."""
        directions = self.modality.better
        names = self.modality.unitless if self.config.standardize else tuple(directions)
        return {name: directions[name] for name in names}

    def metrics(self, decoded: Sequence[Value], values: Sequence[Value]) -> dict[str, float]:
        """How well decoded values match values in the modality's own form; keys are those of ``better``."""
        figures = self.modality.metrics(decoded, values)
        return {name: figures[name] for name in self.better} if self.config.standardize else figures

    def encode_batch(self, values: Sequence[Value]) -> np.ndarray:
        """Tokens, int64 (B, h·w), of values that ``modality.convert`` has checked and that have ``image_size``."""
        h, w = self.config.grid
        return self._encode([tensor_of(value, self.config, self.modality) for value in values]).reshape(-1, h * w)

    def _read(self, value: Any, form: str) -> np.ndarray:
        """What the network reads of a user's value in a form."""
        size = self.config.image_size
        if form != self.modality.forms[0]:
            value = self.modality.from_form(value, form, self.config.palette)
        if form == STANDARDIZED:  # modality.fit would check its units
            return self.modality.tensor(self.modality.crop(value, Crop.center(*value.shape[:2], size)))
        value = self.modality.fit(value, size)
        if (valid := valid_of(value, self.config, self.modality)) is not None and not valid.any():
            raise self.modality.error("no pixel of the central square holds a measurement: leave the map out")
        return tensor_of(value, self.config, self.modality)

    def _encode(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Tokens, int64 (B, h, w), of tensors that the network reads."""
        side = self.config.image_size
        for tensor in tensors:
            expected = (side, side) if self.config.categorical else (self.config.channels, side, side)
            if tensor.shape != expected:
                raise self.modality.error(f"the tokenizer reads tensors {expected}, got {tensor.shape}")
        if not tensors:
            return np.zeros((0, *self.config.grid), dtype=np.int64)
        return self.model.encode(torch.from_numpy(np.stack(tensors)).to(self.device)).cpu().numpy()

    def decode_batch(
        self, ids: np.ndarray, seed: int = 0, solver: Solver | None = None, steps: int | None = None
    ) -> list[Value]:
        """Values of tokens (B, h·w) of the configured grid, as :meth:`decode` gives them without a ``form``."""
        ids, grid = np.asarray(ids), self.config.grid
        if ids.ndim != 2 or ids.shape[1] != grid[0] * grid[1]:
            raise self.modality.error(f"expected tokens (B, {grid[0] * grid[1]}), got {ids.shape}")
        return self._decode(ids.reshape(-1, *grid), [seed] * len(ids), solver, steps) if len(ids) else []

    def _decode(self, ids: np.ndarray, seeds: Sequence[int], solver: Solver | None, steps: int | None) -> list[Value]:
        if wrong := [s for s in seeds if not isinstance(s, numbers.Integral)]:
            raise self.modality.error(f"a seed is a whole number, got {wrong[0]!r}")
        if steps is not None and not isinstance(steps, numbers.Integral):
            raise self.modality.error(f"steps are a whole number, got {steps!r}")
        if ids.ndim != 3 or ids.dtype.kind not in "iu" or ids.size == 0:
            raise self.modality.error(f"expected tokens, integers (h, w), got {ids.dtype} {ids.shape[1:]}")
        if self.config.vector and ids.shape[1:] != self.config.grid:
            raise self.modality.error(f"expected tokens {self.config.grid}, one per codebook, got {ids.shape[1:]}")
        if ids.min() < 0 or ids.max() >= self.config.codebook_size:
            raise self.modality.error(
                f"tokens are from 0 to {self.config.codebook_size - 1}, got {ids.min()} to {ids.max()}"
            )
        if (solver is not None or steps is not None) and self.config.diffusion is None:
            kind = type(self.config.decoder).__name__.removesuffix("Config")
            raise self.modality.error(
                f"solver and steps are for diffusion decoders, this tokenizer has a {kind} decoder"
            )
        tokens = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        decoded = self.model.decode(tokens, [int(seed) for seed in seeds], solver, steps)
        if decoded.is_floating_point() and not decoded.isfinite().all():
            raise self.modality.error(
                "the tokenizer's decoder gives numbers that are not finite: its weights are damaged"
            )
        if self.config.standardize:
            return [self.modality.from_form(t.transpose(1, 2, 0), STANDARDIZED) for t in decoded.cpu().numpy()]
        return [self.modality.value(tensor) for tensor in decoded.cpu().numpy()]

    # ---- at rest
    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits for the configuration and weights that make tokens; token stores record them.

        Tokens are comparable if the fingerprints of their tokenizers are equal. Another decoder for the same tokens
        (paper B.3) does not change the fingerprint.
        """
        about = {"image_size": self.config.image_size}
        about |= {"tile": self.config.tile} if 0 < self.config.tile < self.config.image_size else {}
        return self._digest(about)

    @property
    def identity(self) -> str:
        """:attr:`fingerprint` without the size of images: the same for a tokenizer at all sizes that it serves
        (:meth:`at`). Model directories record it, so that no other tokenizer is taken for theirs."""
        return self._digest({})

    def _digest(self, about: dict[str, Any]) -> str:
        about |= {name: getattr(self.config, name) for name in MAKES_TOKENS}
        encoding = {name: t for name, t in weights_of(self.model).items() if not name.startswith(DECODER)}
        return weights.fingerprint(encoding, about)

    def save(self, folder: Path | str, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors``, and ``quality.json`` if quality was measured.

        ``dtype``: the type of the weights in the file, by default their own. The codebook stays float32, so that codes
        keep unit length.
        """
        folder = Path(folder)
        files.make_folder(folder)
        configs.save(self.config, folder / weights.CONFIG, FORMAT)
        if self.quality:
            configs.save(self.quality, folder / self.QUALITY, QUALITY_FORMAT)
        tensors = weights_of(self.model)
        if dtype is not None:
            tensors = {n: t if n.startswith("quantizer.") else t.to(dtype) for n, t in tensors.items()}
        weights.write_tensors(folder / weights.WEIGHTS, tensors)
        checksums.seal(folder, [weights.CONFIG, weights.WEIGHTS, *([self.QUALITY] if self.quality else [])])

    @staticmethod
    def load(folder: Path | str, device: torch.device | str = "cpu") -> Tokenizer:
        """The tokenizer that :meth:`save` wrote, in float32, ready to use or to be trained further.

        Raises :class:`Open4MError` for a missing or damaged file, tensors that do not fit the configuration, or a newer
        format.
        """
        folder = Path(folder)
        checksums.check(folder, weights.CONFIG, weights.WEIGHTS, Tokenizer.QUALITY)
        config, version = configs.load_versioned(TokenizerConfig, folder / weights.CONFIG, FORMAT)
        with torch.device("meta"):  # no initial weights are drawn
            model = VQVAE(config)
        path = folder / weights.WEIGHTS
        found = weights.read_tensors(path)
        found = {own_name(name): tensor for name, tensor in found.items()} if version == 1 else found
        tensors = weights.checked(path, found, weights_of(model))  # before memory is taken for what may not exist
        weights.check_finite(path, tensors)
        model = model.to_empty(device="cpu")
        own = weights_of(model)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        model.reset_buffers()
        model.quantizer.reset_statistics()
        path = folder / Tokenizer.QUALITY
        return Tokenizer(model, configs.load(dict[str, float], path, QUALITY_FORMAT) if path.exists() else None).to(
            device
        )


def _numbers(values: Sequence[float]) -> str:
    """One number, a few in brackets, or how many there are."""
    if len(values) > MAX_LISTED_CHANNELS:
        return f"of {len(values)} channels"
    shown = ", ".join(f"{value:.4g}" for value in values)
    return shown if len(values) == 1 else f"({shown})"
