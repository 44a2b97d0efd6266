"""The tokenizer of a dense modality: a VQ-VAE with a ViT encoder and a ViT or diffusion decoder (paper B.3, Table 3).
Encoder and decoder of a single vector are MLPs (4M-21).

    x ──encoder──▶ quant_proj ──▶ nearest code ──▶ post_quant_proj ──ViT──▶ reconstruction
                                       └──codes, noise──▶ UNet, some times over ──▶ reconstruction

A vector of C numbers is an image of one pixel, x (B, C, 1, 1). Its tokens are a row, one a codebook: (B, 1, codebooks).

:class:`VQVAE` is what is trained, on batches of tensors. :class:`Tokenizer` is what is used and shared: it takes and
gives values of its modality, and a folder holds all of it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from open4m import config as configs
from open4m import hub, modalities
from open4m.modalities.base import STANDARDIZED, Crop, TokenGrid, Vector
from open4m.tokenizers import diffusion
from open4m.tokenizers.diffusion import DiffusionConfig, Solver
from open4m.tokenizers.mlp import BottleneckMLP, MLPConfig
from open4m.tokenizers.quantizer import Quantizer, QuantizerConfig, code_usage
from open4m.tokenizers.unet import PatchedUNet, UNetConfig
from open4m.tokenizers.vit import ViTConfig, ViTDecoder, ViTEncoder
from open4m.types import Open4MError, Value

logger = logging.getLogger("open4m")

SHOWN_CLASSES = 8  # names in a description


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(QuantizerConfig):
    """Everything about a tokenizer but its weights. :meth:`of` fills in what the modality knows.

    A value is normalized as (x - mean) / std, one mean and std a channel or one for all. With ``standardize`` each is
    standardized by itself before, as its modality says, and loses its units: so is what is decoded. A categorical
    modality names its classes, and ``palette`` may give each a color; ``channels`` is then the width of the class
    embedding that the encoder reads.
    """

    modality: str
    image_size: int  # pixels; of a feature map: cells; of a vector: 1
    patch_size: int = 16  # of a feature map and of a vector: 1
    channels: int
    encoder: ViTConfig | MLPConfig = ViTConfig()  # MLPs are for vectors
    decoder: ViTConfig | UNetConfig | MLPConfig = ViTConfig()
    diffusion: DiffusionConfig | None = None  # of a UNet decoder
    frozen_encoder: bool = False  # train the decoder alone, on the tokens of a trained encoder
    resolutions: tuple[int, ...] = ()  # of training batches: one is drawn each; (): image_size
    loss: Literal["mse", "smooth_l1", "cosine", "cross_entropy"]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    standardize: bool = False
    class_names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()  # red, green, blue, 0 to 255, a class; (): no colors

    def __post_init__(self) -> None:
        where = f"tokenizer of {self.modality}"
        for name in ("image_size", "patch_size", "channels", "codebook_size", "latent_dim"):
            if getattr(self, name) < 1:
                raise Open4MError(f"{where}: {name} is at least 1, got {getattr(self, name)}")
        mlps = [isinstance(part, MLPConfig) for part in (self.encoder, self.decoder)]
        if mlps[0] != mlps[1]:
            raise Open4MError(f"{where}: encoder and decoder of a vector are both MLPs, of all else neither is, got "
                              f"{type(self.encoder).__name__} and {type(self.decoder).__name__}")  # fmt: skip
        if self.vector and (self.categorical or self.resolutions or (self.image_size, self.patch_size) != (1, 1)):
            raise Open4MError(
                f"{where}: MLPs are for single vectors that are no classes: image_size and patch_size are 1, without "
                f"resolutions, got {self.image_size}, {self.patch_size}, {self.resolutions} and loss {self.loss!r}"
            )
        if self.codebooks != 1 and not self.vector:
            raise Open4MError(f"{where}: codebooks is 1, several are for a single vector, got {self.codebooks}")
        if self.image_size % self.patch_size:
            raise Open4MError(
                f"{where}: image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if wrong := [side for side in self.resolutions if side < 1 or side % self.patch_size]:
            raise Open4MError(f"{where}: resolutions are multiples of patch_size {self.patch_size}, got {wrong}")
        if isinstance(self.decoder, UNetConfig) != (self.diffusion is not None):
            raise Open4MError(f"{where}: a UNet decoder and diffusion go together, got decoder "
                              f"{type(self.decoder).__name__} and diffusion {self.diffusion}")  # fmt: skip
        if self.diffusion and (self.categorical or self.patch_size % self.decoder.patch_size):
            raise Open4MError(f"{where}: a diffusion decoder is for values that are no classes, and its patch_size "
                              f"{self.decoder.patch_size} divides the tokens' {self.patch_size}")  # fmt: skip
        if self.categorical != bool(self.class_names):
            raise Open4MError(f"{where}: class_names go with loss 'cross_entropy', got loss {self.loss!r} and "
                              f"{len(self.class_names)} class_names")  # fmt: skip
        if self.palette and len(self.palette) != len(self.class_names):
            raise Open4MError(
                f"{where}: the palette has {len(self.palette)} colors for {len(self.class_names)} classes"
            )
        for i, color in enumerate(self.palette):
            named = f"{where}: class {self.class_names[i]!r} has the color {color}"
            if len(color) != 3 or not all(0 <= part <= 255 for part in color):
                raise Open4MError(f"{named}; red, green and blue are from 0 to 255")
            if (first := self.palette.index(color)) < i:
                raise Open4MError(f"{named} of {self.class_names[first]!r}; each class needs its own")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise Open4MError(
                    f"{where}: {name} has 1 or {self.channels} (channels) values, got {len(getattr(self, name))}"
                )
        if min(self.std) <= 0:
            raise Open4MError(f"{where}: std is above 0, got {min(self.std)}")

    @property
    def categorical(self) -> bool:
        """Whether the values are class ids."""
        return self.loss == "cross_entropy"

    @property
    def vector(self) -> bool:
        """Whether a value is a single vector."""
        return isinstance(self.encoder, MLPConfig)

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of an image: (h, w); of a vector: (1, codebooks)."""
        side = self.image_size // self.patch_size
        return (1, self.codebooks) if self.vector else (side, side)

    @staticmethod
    def of(modality: str, **fields: Any) -> TokenizerConfig:
        """A configuration whose channels, loss, normalization and patch size are the modality's, unless given.

        Of a vector, encoder and decoder are MLPs. Raises :class:`Open4MError` for what does not fit the modality.
        """
        grid = grid_modality(modality)
        known: dict[str, Any] = {"loss": grid.loss, "mean": grid.mean, "std": grid.std}
        if grid.channels:  # 0: the modality leaves it to its data
            known["channels"] = grid.channels
        if grid.feature_map:
            known["patch_size"] = 1
        if isinstance(grid, Vector):
            known |= {"image_size": 1, "patch_size": 1, "encoder": MLPConfig(), "decoder": MLPConfig()}
        missing = {"image_size", "codebook_size", "channels"} - {*known, *fields}
        if missing:
            raise Open4MError(f"tokenizer of {modality}: give {', '.join(sorted(missing))}")
        config = TokenizerConfig(modality=modality, **{**known, **fields})
        _check_networks(config, grid)
        return config


def grid_modality(name: str) -> TokenGrid:
    """The modality of a name, which must be a token grid."""
    modality = modalities.get(name)
    if not isinstance(modality, TokenGrid):
        raise Open4MError(f"{name}: only grids have a VQ-VAE tokenizer, this modality is a {type(modality).__name__}")
    return modality


def tensor_of(value: Value, config: TokenizerConfig) -> np.ndarray:
    """What the network of a tokenizer reads of a value in its modality's own form: :meth:`TokenGrid.tensor`.

    Raises :class:`Open4MError` for a class that the tokenizer does not know.
    """
    modality = grid_modality(config.modality)
    tensor = modality.tensor(modality.to_form(value, STANDARDIZED) if config.standardize else value)
    if config.categorical and tensor.max() >= len(config.class_names):
        raise modality.error(
            f"class id {tensor.max()}, but the tokenizer knows {len(config.class_names)} classes, from 0; name all of "
            "them, and map ids that mean no class to one of their own"
        )
    return tensor


def _check_networks(config: TokenizerConfig, modality: TokenGrid) -> None:
    """Raise unless vectors are tokenized by MLPs, all else by other networks, and channels are the modality's."""
    if modality.channels and not config.categorical and config.channels != modality.channels:
        raise Open4MError(
            f"tokenizer of {config.modality}: values have {modality.channels} channels, the tokenizer reads "
            f"{config.channels}: is it of another modality?"
        )
    if config.vector != isinstance(modality, Vector):
        fitting = "single vectors, encoded by an" if isinstance(modality, Vector) else "no single vectors, but by no"
        raise Open4MError(f"tokenizer of {config.modality}: values of this modality are {fitting} MLPConfig, got "
                          f"encoder {type(config.encoder).__name__}")  # fmt: skip


MAKES_TOKENS = ("modality", "patch_size", "channels", "encoder", "quantizer", "codebook_size", "codebooks",
                "latent_dim", "class_names", "mean", "std", "standardize")  # fmt: skip
"""The fields of :class:`TokenizerConfig` that decide which tokens a value has, but for its size."""
DECODER = ("decoder.", "post_quant_proj.")  # what the weights' names begin with that make values of tokens


class VQOutput(NamedTuple):
    """``reconstruction`` (B, C, H, W): normalized values, or class logits; of a diffusion decoder, what it makes of one
    noised image; ``ids`` (B, h, w); ``commitment`` scalar."""

    reconstruction: torch.Tensor
    ids: torch.Tensor
    commitment: torch.Tensor


class VQVAE(nn.Module):
    """The network. It reads what :func:`tensor_of` gives: x (B, C, H, W) float, or (B, H, W) int64 class ids.

    ``generator`` draws the initial weights; after that nothing is random but the restarts of stale codes and, for a
    diffusion decoder, noise and its strength.
    """

    def __init__(self, config: TokenizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        outputs = len(config.class_names) if config.categorical else config.channels
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made; the caller sees none of it
            if config.categorical:
                self.cls_emb = nn.Embedding(outputs, config.channels)
            if config.vector:
                self.encoder = BottleneckMLP(config.encoder, config.channels, config.encoder.width)
            else:
                self.encoder = ViTEncoder(config.encoder, config.channels, config.patch_size)
            self.quant_proj = nn.Conv2d(config.encoder.width, config.latent_dim, 1)
            if isinstance(config.decoder, UNetConfig):
                scale = config.patch_size // config.decoder.patch_size
                self.decoder = PatchedUNet(config.decoder, outputs, config.latent_dim, scale)
            else:
                self.post_quant_proj = nn.Conv2d(config.latent_dim, config.decoder.width, 1)
                if config.vector:
                    self.decoder = BottleneckMLP(config.decoder, config.decoder.width, outputs)
                else:
                    self.decoder = ViTDecoder(config.decoder, outputs, config.patch_size)
        self.quantizer = Quantizer(config, generator)
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        self._alphas = torch.empty(0)  # of the noise's strengths, once they are needed
        self._initialize(generator)
        if config.frozen_encoder:
            for module in self._encoding():
                module.requires_grad_(False)

    def _encoding(self) -> list[nn.Module]:
        """What makes tokens."""
        return [self.encoder, self.quant_proj, self.quantizer, *([self.cls_emb] if self.config.categorical else [])]

    def train(self, mode: bool = True) -> VQVAE:
        """Training mode or not; what is frozen stays out of it."""
        super().train(mode)
        if self.config.frozen_encoder:
            for module in self._encoding():
                module.eval()
        return self

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=1.0, generator=generator)  # the scale of normalized pixels
        if isinstance(self.decoder, PatchedUNet):
            self.decoder.initialize(generator)
        else:  # Codes have unit length: with unit weights the decoder sees them as loud as the positions beside them.
            nn.init.trunc_normal_(self.post_quant_proj.weight, std=1.0, generator=generator)

    @torch.no_grad()
    def adopt(self, other: VQVAE) -> None:
        """Take the weights of a trained tokenizer: all that makes tokens, and the decoder if it is of the same kind.

        Raises :class:`Open4MError` if what makes tokens is not the same, or reads other values.
        """
        for name in MAKES_TOKENS:
            if (was := getattr(other.config, name)) != (now := getattr(self.config, name)):
                raise Open4MError(f"the tokenizer to start from differs: {name} is {was}, not {now}")
        keeps_decoder = other.config.decoder == self.config.decoder
        mine, theirs = self.state_dict(), other.state_dict()
        for name, weight in mine.items():
            if keeps_decoder or not name.startswith(DECODER):
                weight.copy_(theirs[name])
        self.quantizer.reset_statistics()

    def forward(self, x: torch.Tensor, generator: torch.Generator | None = None) -> VQOutput:
        """Encodes, quantizes and reconstructs x; in training mode the codebook moves.

        ``generator`` draws restarts of codes, noise and timesteps.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_encoder):
            codes, ids, commitment = self.quantizer(self._latents(x), generator)
        if self.config.diffusion is None:
            return VQOutput(self._reconstruct(codes), ids, commitment)
        if not len(self._alphas):
            self._alphas = diffusion.alphas_cumprod(self.config.diffusion)
        self._alphas = self._alphas.to(x.device)
        clean = self._normalized(x)
        noise = torch.randn(clean.shape, generator=generator, device=x.device)
        timesteps = diffusion.draw_steps(self.config.diffusion, len(x), generator, x.device)
        noised = diffusion.add_noise(clean, noise, self._alphas[timesteps])
        return VQOutput(self.decoder(noised, timesteps, codes), ids, commitment)

    def loss(self, x: torch.Tensor, generator: torch.Generator | None = None) -> tuple[torch.Tensor, dict[str, float]]:
        """Reconstruction plus commitment loss, float32 whatever the autocast state, and what to log.

        Logged: ``reconstruction`` (on normalized values), ``commitment``, the batch's ``code_usage`` and ``perplexity``
        (:func:`~open4m.tokenizers.quantizer.code_usage`), and ``restarted_codes`` since the beginning.
        """
        output = self(x, generator)
        with torch.autocast(x.device.type, enabled=False):
            reconstruction = self._error(output.reconstruction.float(), x)
            total = reconstruction + output.commitment
            usage, perplexity = code_usage(output.ids, self.config.codebook_size, self.config.codebooks)
        logged = torch.stack([reconstruction.detach(), output.commitment.detach(), usage, perplexity]).tolist()
        values = dict(zip(("reconstruction", "commitment", "code_usage", "perplexity"), logged, strict=True))
        return total, {**values, "restarted_codes": float(self.quantizer.restarts().total)}

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, h, w) int64 of x."""
        with torch.autocast(x.device.type, enabled=False):
            return self.quantizer.lookup(self._latents(x))

    @torch.no_grad()
    def decode(
        self, ids: torch.Tensor, seeds: Sequence[int] = (), solver: Solver | None = None, steps: int | None = None
    ) -> torch.Tensor:
        """What tokens (B, h, w) stand for: (B, C, H, W) float32, not normalized, or (B, H, W) int64 class ids.

        A diffusion decoder starts each image from the noise of its own one of ``seeds`` (B,), by default 0, and uses
        the configured solver and steps unless told others; a ViT decoder needs none of them.
        """
        with torch.autocast(ids.device.type, enabled=False):
            codes = self.quantizer.codes(ids)
            if self.config.diffusion is None:
                reconstruction = self._reconstruct(codes)
            else:
                side = [n * self.config.patch_size for n in ids.shape[1:]]
                generators = [torch.Generator().manual_seed(seed) for seed in seeds or [0] * len(ids)]
                noise = torch.stack([torch.randn(self.config.channels, *side, generator=g) for g in generators])
                reconstruction = diffusion.sample(
                    lambda noised, timesteps: self.decoder(noised, timesteps, codes),
                    noise.to(ids.device), self.config.diffusion, solver, steps, generators,
                )  # fmt: skip
        if self.config.categorical:
            return reconstruction.argmax(1)
        return reconstruction * self.std + self.mean

    def _latents(self, x: torch.Tensor) -> torch.Tensor:
        """What is quantized: (B, latent_dim, h, w)."""
        return self.quant_proj(self.encoder(self._normalized(x)))

    def _normalized(self, x: torch.Tensor) -> torch.Tensor:
        if self.config.categorical:
            return self.cls_emb(x).movedim(-1, 1)
        return (x - self.mean) / self.std

    def _reconstruct(self, codes: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_proj(codes))

    def _error(self, reconstruction: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if self.config.loss == "cross_entropy":
            return F.cross_entropy(reconstruction, x)
        target = self._normalized(x)
        if self.config.loss == "cosine":
            return 1 - F.cosine_similarity(reconstruction, target).mean()
        distance = {"mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[self.config.loss]
        return distance(reconstruction, target)


class Tokenizer:
    """A trained VQ-VAE with its configuration: values of the modality in, tokens out, and back.

    Self-describing and complete in a folder (``config.json``, ``model.safetensors``), whose use needs neither the
    training data nor the library that trained the codebook. ``quality``: what was measured of it on validation data,
    in ``quality.json`` if anything was.
    """

    CONFIG, WEIGHTS, QUALITY = "config.json", "model.safetensors", "quality.json"

    def __init__(self, model: VQVAE, quality: dict[str, float] | None = None) -> None:
        self.config, self.quality = model.config, quality or {}
        self.modality = grid_modality(self.config.modality)
        if self.modality.categorical != self.config.categorical:
            raise Open4MError(f"tokenizer of {self.config.modality}: loss {self.config.loss!r} does not fit a modality "
                              f"with categorical={self.modality.categorical}")  # fmt: skip
        if self.config.standardize and STANDARDIZED not in self.modality.forms:
            raise self.modality.error(f"values have no form {STANDARDIZED!r}, so no tokenizer can standardize them")
        _check_networks(self.config, self.modality)
        self.model = model.eval()

    def describe(self) -> str:
        """What it reads, what it makes of it and how well, in a few lines."""
        config, modality = self.config, self.modality
        unit = "cells" if modality.feature_map else "pixels"
        side, (h, w) = config.image_size, config.grid
        if config.standardize:
            normalization = "each value by its own trimmed mean and deviation; what is decoded has no units"
        elif config.categorical:
            normalization = f"none: classes are embedded as {config.channels} channels"
        else:
            normalization = f"mean {_numbers(config.mean)}, deviation {_numbers(config.std)}"
        lines = {
            "tokenizer": f"{modality.name}, {modality.description}",
            "tokens": f"{w} of a vector of {config.channels}" if config.vector else f"{h}×{w} of {side}×{side} {unit}",
            "codebook": f"{config.codebook_size} codes{' a token' if config.codebooks > 1 else ''} of "
            f"{config.latent_dim // config.codebooks} dimensions ({config.quantizer})",
            "decoder": type(config.decoder).__name__.removesuffix("Config") if config.diffusion is None
            else f"diffusion, {config.diffusion.steps} steps of {config.diffusion.solver}",
            "normalization": normalization,
        }  # fmt: skip
        if len(modality.forms) > 1:
            lines["forms"] = ", ".join(modality.forms)
        if config.resolutions:
            lines["resolutions"] = f"trained at {', '.join(map(str, sorted({*config.resolutions})))} {unit}"
        if config.categorical:
            more = ", ..." if len(config.class_names) > SHOWN_CLASSES else ""
            lines["classes"] = f"{len(config.class_names)}: {', '.join(config.class_names[:SHOWN_CLASSES])}{more}"
            lines["palette"] = "a color a class" if config.palette else "none"
        lines["quality"] = ", ".join(f"{name} {value:.4g}" for name, value in self.quality.items()) or "not measured"
        width = max(map(len, lines)) + 2
        return "\n".join(f"{name:{width}}{line}" for name, line in lines.items())

    def __repr__(self) -> str:
        return self.describe()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.mean.device

    def to(self, device: torch.device | str) -> Tokenizer:
        """Moves the weights; returns itself."""
        self.model.to(device)
        return self

    def at(self, image_size: int) -> Tokenizer:
        """The same tokenizer, weights shared, for values of another size: a tokenizer of several resolutions for
        ``rgb@256`` beside ``rgb``. Raises :class:`Open4MError` if the size is not one of tokens."""
        trained = sorted({*self.config.resolutions}) or [self.config.image_size]
        if image_size not in trained:
            logger.warning("%s: the tokenizer was trained at %s, not at %d: it may do badly there (paper B.3)",
                           self.modality.name, ", ".join(map(str, trained)), image_size)  # fmt: skip
        other = copy.copy(self)
        other.config, other.quality = dataclasses.replace(self.config, image_size=image_size), {}
        return other

    # ---- values to tokens and back
    def encode(self, value: Any, form: str | None = None) -> np.ndarray | list[np.ndarray]:
        """Tokens, int64 (h, w), of a value in one of ``modality.forms``; of a list or tuple of those, a list.

        ``form`` is the modality's own unless given: ``encode(disparity, form="inverse")``. PIL images and arrays of any
        size are taken: the center is cropped to a square and resized to ``image_size``. A tokenizer that standardizes
        does so after that, and takes what is ``"standardized"`` as it is; no other takes that form. Raises
        :class:`Open4MError` for a form that the modality does not have, and for what is no value in it.
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
        """The value of tokens (h, w), of any grid size; of a list of those or an array (B, h, w), a list.
        Of a vector, tokens are (1, codebooks).

        ``form`` is the modality's own unless given, or ``"standardized"`` of a tokenizer that standardizes: it can give
        no other. A diffusion decoder starts each from the noise of ``seed``, one for all or a list; ``solver`` and
        ``steps`` are the configuration's unless given. What a value becomes does not depend on the others: those with
        equal grids are decoded together. Raises :class:`Open4MError` for tokens that are none, and for a form that
        these values do not have.
        """
        decoded_form = STANDARDIZED if self.config.standardize else self.modality.forms[0]
        form = form or decoded_form
        self.modality.check_form(form)
        if self.config.standardize and form != STANDARDIZED:
            raise self.modality.error(f"form {form!r}: this tokenizer standardizes each value by itself, so what is "
                                      f"decoded has no units; its only form is {STANDARDIZED!r}")  # fmt: skip
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
        """The direction of each metric: the modality's; of a tokenizer that standardizes, those that need no units."""
        directions = self.modality.better
        names = self.modality.unitless if self.config.standardize else tuple(directions)
        return {name: directions[name] for name in names}

    def metrics(self, decoded: Sequence[Value], values: Sequence[Value]) -> dict[str, float]:
        """How well what was decoded matches values in the modality's own form; keys are those of ``better``."""
        figures = self.modality.metrics(decoded, values)
        return {name: figures[name] for name in self.better} if self.config.standardize else figures

    def encode_batch(self, values: Sequence[Value]) -> np.ndarray:
        """Tokens, int64 (B, h·w), of values of ``image_size``, as ``modality.convert`` and ``crop`` give them."""
        h, w = self.config.grid
        return self._encode([tensor_of(value, self.config) for value in values]).reshape(-1, h * w)

    def _read(self, value: Any, form: str) -> np.ndarray:
        """The tensor of a user's value."""
        size = self.config.image_size
        if form != self.modality.forms[0]:
            value = self.modality.from_form(value, form, self.config.palette)
        if form == STANDARDIZED:  # no value for fit: that takes those with units
            return self.modality.tensor(self.modality.crop(value, Crop.center(*value.shape[:2], size)))
        return tensor_of(self.modality.fit(value, size), self.config)

    def _encode(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Tokens, int64 (B, h, w), of what the network reads."""
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
            raise self.modality.error(f"expected tokens {self.config.grid}, one a codebook, got {ids.shape[1:]}")
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
        if self.config.standardize:
            return [self.modality.from_form(t.transpose(1, 2, 0), STANDARDIZED) for t in decoded.cpu().numpy()]
        return [self.modality.value(tensor) for tensor in decoded.cpu().numpy()]

    # ---- at rest
    @property
    def fingerprint(self) -> str:
        """A short hash of what makes tokens, weights and configuration: what tokens are only comparable within.

        Another decoder for the same tokens (B.3) does not change it.
        """
        fields = {name: getattr(self.config, name) for name in ("image_size", *MAKES_TOKENS)}
        if not self.config.standardize:
            del fields["standardize"]  # which tokenizers that are older than this choice have not hashed
        digest = hashlib.sha256(configs.fingerprint(fields).encode())
        for name, tensor in sorted(weights_of(self.model).items()):
            if not name.startswith(DECODER):
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Writes ``config.json`` and ``model.safetensors``. The codebook stays float32, so that codes stay unit."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        configs.save(self.config, folder / self.CONFIG)
        if self.quality:
            configs.save(self.quality, folder / self.QUALITY)
        tensors = {
            name: tensor.cpu().contiguous() if name.startswith("quantizer.") else tensor.cpu().to(dtype).contiguous()
            for name, tensor in weights_of(self.model).items()
        }
        save_file(tensors, folder / self.WEIGHTS, metadata={"format": "pt"})

    @staticmethod
    def load(folder: Path | str, device: torch.device | str = "cpu") -> Tokenizer:
        """The tokenizer that :meth:`save` wrote, in float32, ready to use or to train further."""
        folder = Path(folder)
        config = configs.load(TokenizerConfig, folder / Tokenizer.CONFIG)
        model = VQVAE(config, torch.Generator())
        own = weights_of(model)
        tensors = hub.read_weights(folder / Tokenizer.WEIGHTS, own)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        model.quantizer.reset_statistics()
        path = folder / Tokenizer.QUALITY
        return Tokenizer(model, configs.load(dict[str, float], path) if path.exists() else None).to(device)


def _numbers(values: Sequence[float]) -> str:
    """A number, or several in brackets; of very many, how many."""
    if len(values) > 4:
        return f"of {len(values)} channels"
    shown = ", ".join(f"{value:.4g}" for value in values)
    return shown if len(values) == 1 else f"({shown})"


def weights_of(model: VQVAE) -> dict[str, torch.Tensor]:
    """The model's tensors but for the statistics that only training needs."""
    statistics = {f"quantizer.{name}" for name in model.quantizer.STATISTICS}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in statistics}
