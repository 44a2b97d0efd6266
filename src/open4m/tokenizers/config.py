"""The tokenizer of a dense modality: a VQ-VAE with a ViT encoder and a ViT or diffusion decoder (paper B.3, Table 3).
Encoder and decoder of a single vector are MLPs (4M-21).

    x ──encoder──▶ quant_proj ──▶ nearest code ──▶ post_quant_proj ──ViT──▶ reconstruction
                                       └──codes, noise──▶ UNet, in several steps ──▶ reconstruction

A vector of C numbers is an image of one pixel, x (B, C, 1, 1). Its tokens are one row, one per codebook:
(B, 1, codebooks).

Training works on :class:`~open4m.tokenizers.network.VQVAE`, the network, which reads batches of tensors. Everything
else works on :class:`~open4m.tokenizers.tokenizer.Tokenizer`, which reads values of its modality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from open4m import modalities
from open4m.config import LATER
from open4m.modalities.crops import filled
from open4m.modalities.families import STANDARDIZED, TokenGrid
from open4m.modalities.features import Vector
from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.ranges import Finite, Length, Size, check_ranges
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.quantizers.base import QuantizerConfig
from open4m.types import Open4MError, Value


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(QuantizerConfig):
    """Everything about a tokenizer except its weights. :meth:`of` takes what the modality knows from it.

    A value is normalized as (x - mean) / std, with one mean and std per channel or one for all. With ``standardize``
    each value is first standardized by itself, as its modality defines; decoded values then have no units either. For a
    categorical modality, ``class_names`` are required, ``palette`` may give each class a color, and ``channels`` is the
    width of the class embedding that the encoder reads.

    ``tile``: values that are larger are coded in tiles of this side, each by itself. So a tokenizer that was trained at
    one size, as Vision Transformers do badly at others (paper B.3), makes tokens for super-resolution (A.1) as well.
    """

    modality: str
    image_size: Size  # pixels; cells of a feature map; 1 for a vector
    patch_size: Size = 16  # pixels; 1 for a feature map and for a vector
    channels: Size
    encoder: ViTConfig | MLPConfig = ViTConfig()  # MLPs are for vectors
    decoder: ViTConfig | UNetConfig | MLPConfig = ViTConfig()
    diffusion: DiffusionConfig | None = None  # exactly if the decoder is a UNet
    frozen_encoder: bool = False  # train only the decoder, on the tokens of a trained encoder
    resolutions: tuple[Size, ...] = ()  # one is drawn per training batch; (): always image_size
    loss: Literal["mse", "smooth_l1", "cosine", "cross_entropy", "binary_cross_entropy"]
    mean: tuple[Finite, ...] = (0.0,)
    std: tuple[Finite, ...] = (1.0,)
    standardize: bool = False
    class_names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()  # red, green, blue of each class, 0 to 255; (): no colors
    tile: Length = field(default=0, metadata=LATER)  # pixels of a tile's side; 0: values are coded as a whole

    def __post_init__(self) -> None:
        where = f"tokenizer of {self.modality}"
        check_ranges(self, where)
        mlps = [isinstance(part, MLPConfig) for part in (self.encoder, self.decoder)]
        if mlps[0] != mlps[1]:
            raise Open4MError(
                f"{where}: encoder and decoder of a vector are both MLPs, of all else neither is, got "
                f"{type(self.encoder).__name__} and {type(self.decoder).__name__}"
            )
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
        if self.tile % self.patch_size or (self.tile and (self.vector or self.diffusion)):
            raise Open4MError(
                f"{where}: tile is 0 or a multiple of patch_size {self.patch_size}, for maps without a diffusion "
                f"decoder, got {self.tile}"
            )
        if isinstance(self.decoder, UNetConfig) != (self.diffusion is not None):
            raise Open4MError(
                f"{where}: a UNet decoder and diffusion go together, got decoder "
                f"{type(self.decoder).__name__} and diffusion {self.diffusion}"
            )
        if self.diffusion and (self.categorical or self.patch_size % self.decoder.patch_size):
            raise Open4MError(
                f"{where}: a diffusion decoder is for values that are no classes, and its patch_size "
                f"{self.decoder.patch_size} divides the tokens' {self.patch_size}"
            )
        if self.categorical != bool(self.class_names):
            raise Open4MError(
                f"{where}: class_names go with loss 'cross_entropy', got loss {self.loss!r} and "
                f"{len(self.class_names)} class_names"
            )
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
        """The shape of a value's tokens: (h, w), or (1, codebooks) for a vector."""
        side = self.image_size // self.patch_size
        return (1, self.codebooks) if self.vector else (side, side)

    def knows(self, side: int) -> bool:
        """Whether values of ``side`` × ``side`` pixels are of a size that it was trained at, or made of such tiles."""
        trained = self.resolutions or (self.image_size,)
        return side in trained or (self.tile > 0 and side % self.tile == 0)

    @staticmethod
    def of(modality: str, **fields: Any) -> TokenizerConfig:
        """A configuration with the modality's channels, loss, normalization and patch size, unless ``fields`` has them.

        For a vector, encoder and decoder are MLPs by default. Raises :class:`Open4MError` if fields are missing or do
        not fit the modality.
        """
        grid = grid_modality(modality)
        known: dict[str, Any] = {"loss": grid.loss, "mean": grid.mean, "std": grid.std}
        if grid.channels:  # 0: data sets of this modality differ in it
            known["channels"] = grid.channels
        if grid.feature_map:
            known["patch_size"] = 1
        if isinstance(grid, Vector):
            known |= {"image_size": 1, "patch_size": 1, "encoder": MLPConfig(), "decoder": MLPConfig()}
        missing = {"image_size", "codebook_size", "channels"} - {*known, *fields}
        if missing:
            raise Open4MError(f"tokenizer of {modality}: give {', '.join(sorted(missing))}")
        config = TokenizerConfig(modality=modality, **{**known, **fields})
        check_networks(config, grid)
        return config


def grid_modality(name: str) -> TokenGrid:
    """The modality of this name. Raises :class:`Open4MError` if it is not a token grid."""
    modality = modalities.get(name)
    if not isinstance(modality, TokenGrid):
        raise Open4MError(f"{name}: only grids have a VQ-VAE tokenizer, this modality is a {type(modality).__name__}")
    return modality


def tensor_of(value: Value, config: TokenizerConfig, modality: TokenGrid) -> np.ndarray:
    """What the network of a tokenizer reads of a value in its modality's own form: see :meth:`TokenGrid.tensor`.

    In pixels without a measurement (:func:`valid_of`) it reads what the nearest one with a measurement holds.
    Raises :class:`Open4MError` for a class that the tokenizer does not know.
    """
    shown = modality.to_form(value, STANDARDIZED) if config.standardize else value
    tensor = modality.tensor(filled(shown, valid_of(value, config, modality)))
    if modality.repeated:
        tensor = np.repeat(tensor, config.channels, axis=0)
    if config.categorical and tensor.max() >= len(config.class_names):
        raise modality.error(
            f"class id {tensor.max()}, but the tokenizer knows {len(config.class_names)} classes, from 0; name all of "
            "them, and map ids that mean no class to one of their own"
        )
    return tensor


def valid_of(value: Value, config: TokenizerConfig, modality: TokenGrid) -> np.ndarray | None:
    """Which pixels of a value hold a measurement, bool (H, W); None: all. A class that the tokenizer knows is one."""
    valid = modality.valid(value)
    if valid is not None and config.categorical:
        valid = valid | (value < len(config.class_names))
    return None if valid is None or valid.all() else valid


def check_networks(config: TokenizerConfig, modality: TokenGrid) -> None:
    """Raise :class:`Open4MError` unless the channels are the modality's, and MLPs tokenize vectors and nothing else."""
    fixed = modality.channels and not config.categorical and not modality.repeated
    if fixed and config.channels != modality.channels:
        raise Open4MError(
            f"tokenizer of {config.modality}: values have {modality.channels} channels, the tokenizer reads "
            f"{config.channels}: was it trained for another modality?"
        )
    if config.vector != isinstance(modality, Vector):
        expected = "an MLPConfig" if isinstance(modality, Vector) else "no MLPConfig, which is for single vectors"
        raise Open4MError(
            f"tokenizer of {config.modality}: expected as encoder {expected}, got {type(config.encoder).__name__}"
        )


MAKES_TOKENS = (
    "modality",
    "patch_size",
    "channels",
    "encoder",
    "quantizer",
    "codebook_size",
    "codebooks",
    "latent_dim",
    "class_names",
    "mean",
    "std",
    "standardize",
)
"""The fields of :class:`TokenizerConfig` that decide which tokens a value of a given size has."""
