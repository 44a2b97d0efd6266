"""Packed embeddings: one gather from one fused table, whatever the modality of a token (paper 2.2, C.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from open4m.model.config import FourMConfig


def sincos_1d(positions: Tensor, dim: int) -> Tensor:
    """Sine-cosine embedding (n, dim) of positions (n,): dim/2 sines, then dim/2 cosines, wavelengths 2π to 10000·2π."""
    frequency = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = positions.double()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1).float()


def sincos_2d(h: int, w: int, dim: int) -> Tensor:
    """Embedding (h·w, dim) of raster positions: the first half of the channels tells the row, the second the column.

    The order of channels is that of the public checkpoints of 4M; tokenizers have another one, see their ``vit.py``.
    """
    rows, columns = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    return torch.cat([sincos_1d(rows, dim // 2), sincos_1d(columns, dim // 2)], 1)


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Patches (B, h·w, C·patch·patch) of images (B, C, H, W), raster order."""
    b, c, height, width = pixels.shape
    grid = pixels.view(b, c, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * patch * patch)


class Embeddings(nn.Module):
    """What a token is (content), what it belongs to (modality) and where it is (position).

    ``inputs``: the encoder's table, the rows of all tokenized input modalities one after another.
    ``outputs``: the output layer of all targets, one after another. For sequences the same rows embed the
    decoder's input: input and output embeddings of the decoder are shared (paper C.1).
    ``modality``: shared by encoder and decoder. Positions are fixed.
    """

    def __init__(self, config: FourMConfig):
        super().__init__()
        dim = config.dim
        specs = config.modalities
        readable = [m.vocab_size if m.is_input else 0 for m in specs]
        writable = [m.vocab_size if m.is_target else 0 for m in specs]
        self.inputs = nn.Embedding(max(1, sum(readable)), dim)
        self.outputs = nn.Embedding(sum(writable), dim)
        self.modality = nn.Embedding(len(specs), dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.patches = nn.ModuleDict(
            {_module_name(m.key): nn.Linear(m.channels * m.patch_size**2, dim, bias=False)
             for m in specs if m.family == "pixels"}
        )  # fmt: skip
        self.pixels = [(i, m.key, m.patch_size) for i, m in enumerate(specs) if m.family == "pixels"]
        positions = [
            sincos_1d(torch.arange(m.positions), dim) if m.family == "sequence" else sincos_2d(*m.grid, dim)
            for m in specs
        ]
        self.output_slices = {
            m.key: slice(o, o + n) for m, o, n in zip(specs, _offsets(writable), writable, strict=True)
        }
        self.register_buffer("positions", torch.cat(positions), persistent=False)
        self.register_buffer("input_offset", torch.tensor(_offsets(readable)), persistent=False)
        self.register_buffer("output_offset", torch.tensor(_offsets(writable)), persistent=False)
        self.register_buffer("position_offset", torch.tensor(_offsets([m.positions for m in specs])), persistent=False)
        self.register_buffer("is_sequence", torch.tensor([m.family == "sequence" for m in specs]), persistent=False)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Contents and modalities start about as loud as the positions they are added to, whose deviation is 0.7.

        The output layer starts with logits of deviation 1: what decides for its shared rows.
        """
        dim = self.mask_token.shape[0]
        for weight, std in (
            (self.inputs.weight, 0.5),
            (self.modality.weight, 0.5),
            (self.outputs.weight, dim**-0.5),
            (self.mask_token, 0.02),
        ):
            nn.init.normal_(weight, std=std, generator=generator)
        for patches in self.patches.values():
            nn.init.xavier_uniform_(patches.weight, generator=generator)

    def where(self, modality: Tensor, position: Tensor) -> Tensor:
        """Position plus modality embedding (B, N, D)."""
        return self.positions[position + self.position_offset[modality]] + self.modality(modality)

    def content(self, token: Tensor, modality: Tensor, position: Tensor, pixels: dict[str, Tensor]) -> Tensor:
        """The encoder's content embedding (B, N, D): a row of the table, or a projected patch."""
        x = self.inputs(token + self.input_offset[modality])
        for index, key, patch in self.pixels:
            if key in pixels:
                chosen = modality == index  # (B, N)
                rows = chosen.nonzero()[:, 0]
                patches = patchify(pixels[key], patch)[rows, position[chosen]]
                x = x.masked_scatter(chosen[..., None], self.patches[_module_name(key)](patches).to(x.dtype))
        return x

    def query(self, token: Tensor, modality: Tensor) -> Tensor:
        """The decoder's content embedding (B, M, D): the mask token for grids, the previous token for sequences."""
        tokens = self.outputs(token + self.output_offset[modality])
        return torch.where(self.is_sequence[modality][..., None], tokens, self.mask_token.to(tokens.dtype))

    def output(self, key: str) -> Tensor:
        """The output layer (V, D) of a target modality."""
        return self.outputs.weight[self.output_slices[key]]


def _offsets(sizes: list[int]) -> list[int]:
    """Where each part starts; 0 for an empty one, so that padding, which may name it, reads a row that exists."""
    return [sum(sizes[:i]) if n else 0 for i, n in enumerate(sizes)]


def _module_name(key: str) -> str:
    return key.replace("@", "_at_")  # a module's name has no dots; a key may hold an @
