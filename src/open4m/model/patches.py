"""How the pixels of chosen patches become tokens: a linear projection as in the paper (C.1), and two other ways."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.model.config import Architecture, ModalitySpec
from open4m.types import Open4MError


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Patches (B, h·w, C·patch·patch) of images (B, C, H, W), raster order."""
    b, c, height, width = pixels.shape
    grid = pixels.view(b, c, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * patch * patch)


def normalized(pixels: Tensor, scale: Tensor | None) -> Tensor:
    """What the model reads of pixels (..., C, S): of uint8, float32 by ``scale`` (2, C), mean and deviation; of others,
    which are normalized already, themselves. Equal to :meth:`open4m.modalities.families.PixelGrid.pixels`."""
    if pixels.dtype != torch.uint8:
        return pixels
    mean, std = scale[..., None]  # (C, 1) each
    return (pixels.float() / 255 - mean) / std


class LinearPatches(nn.Linear):
    """A linear projection of each patch, without bias (paper 2.2)."""

    def __init__(self, spec: ModalitySpec, dim: int):
        super().__init__(spec.channels * spec.patch_size**2, dim, bias=False)
        self.patch_size = spec.patch_size

    def forward(self, pixels: Tensor, row: Tensor, position: Tensor, scale: Tensor | None = None) -> Tensor:
        """Embeddings (n, D) of patches at ``position`` (n,) of the images ``row`` (n,) of ``pixels`` (B, C, H, W).

        ``scale`` (2, C) normalizes pixels that are uint8."""
        chosen = patchify(pixels, self.patch_size)[row, position]  # (n, P)
        chosen = normalized(chosen.unflatten(1, (pixels.shape[1], -1)), scale).flatten(1)
        return super().forward(self.read(chosen.to(self.weight.dtype)))

    def read(self, patches: Tensor) -> Tensor:
        """What the projection reads of patches (n, P)."""
        return patches


class WhitenedPatches(LinearPatches):
    """A linear projection of whitened patches.

    Neighboring pixels agree, so the mean color of patches varies hundreds of times as much as their edges, and a plain
    projection learns edges last. ``whitening`` (P, P) makes all directions vary alike; :meth:`fit` computes it once,
    before training. The two matrices are one linear map: :meth:`folded` gives the weight that a plain projection needs
    to compute the same.
    """

    SMALLEST = 1e-3  # of the mean eigenvalue: directions that vary less, mostly noise, are not amplified further

    def __init__(self, spec: ModalitySpec, dim: int):
        super().__init__(spec, dim)
        self.register_buffer("whitening", torch.eye(self.in_features))

    @torch.no_grad()
    def fit(self, pixels: Tensor) -> None:
        """Compute the whitening from images (B, C, H, W), normalized as the model reads them."""
        patches = patchify(pixels.double(), self.patch_size).flatten(0, 1)  # (n, P)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        scales = values.clamp(min=self.SMALLEST * float(values.mean())).rsqrt()
        self.whitening.copy_((vectors * scales) @ vectors.T)  # the symmetric root: patches stay pictures

    def read(self, patches: Tensor) -> Tensor:
        with torch.autocast(patches.device.type, enabled=False):  # which would round, and the whitening amplifies that
            return patches @ self.whitening.to(patches.dtype)

    def folded(self) -> Tensor:
        """The weight (D, P) of the plain projection that computes the same."""
        return self.weight @ self.whitening.T


class ConvPatches(nn.Module):
    """Three convolutions of stride 2 over the whole image, then a linear projection of what is left of each patch."""

    CHANNELS = (32, 64, 128)

    def __init__(self, spec: ModalitySpec, dim: int):
        super().__init__()
        if spec.patch_size % 2 ** len(self.CHANNELS):
            raise Open4MError(
                f"{spec.key}: patch_embedding 'conv' needs a multiple of {2 ** len(self.CHANNELS)} as patch_size, "
                f"got {spec.patch_size}"
            )
        widths = (spec.channels, *self.CHANNELS)
        self.stages = nn.ModuleList(
            nn.Conv2d(into, out, 3, stride=2, padding=1) for into, out in itertools.pairwise(widths)
        )
        self.left = spec.patch_size // 2 ** len(self.CHANNELS)
        self.proj = nn.Linear(self.CHANNELS[-1] * self.left**2, dim, bias=False)

    def forward(self, pixels: Tensor, row: Tensor, position: Tensor, scale: Tensor | None = None) -> Tensor:
        """Embeddings (n, D) of patches at ``position`` (n,) of the images ``row`` (n,) of ``pixels`` (B, C, H, W).

        ``scale`` (2, C) normalizes pixels that are uint8."""
        x = normalized(pixels.contiguous().flatten(2), scale).unflatten(2, pixels.shape[2:])
        x = x.to(self.proj.weight.dtype)
        for stage in self.stages:
            x = F.gelu(stage(x))
        return self.proj(patchify(x, self.left)[row, position].to(self.proj.weight.dtype))


PATCHES = {"linear": LinearPatches, "whitened": WhitenedPatches, "conv": ConvPatches}
"""By the names of ``Architecture.patch_embedding``."""


def make_patches(spec: ModalitySpec, config: Architecture) -> nn.Module:
    """The patch embedding of a modality."""
    return PATCHES[config.patch_embedding](spec, config.dim)
