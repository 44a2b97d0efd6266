"""The networks of a tokenizer: encoder, quantizer, decoder, and their losses (paper B.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from open4m import ranks
from open4m.nn.mlp import BottleneckMLP
from open4m.nn.unet import PatchedUNet, UNetConfig
from open4m.nn.vit import ViTDecoder, ViTEncoder
from open4m.rng import Part, of_rows, seeded
from open4m.tokenizers import diffusion
from open4m.tokenizers.config import MAKES_TOKENS, TokenizerConfig
from open4m.tokenizers.diffusion import Solver
from open4m.tokenizers.quantizers import make_quantizer
from open4m.tokenizers.quantizers.base import code_usage
from open4m.types import Open4MError

DECODER = ("decoder.", "post_quant_proj.")
"""Prefixes of the names of weights that turn tokens into values; all others turn values into tokens."""


DISTANCES = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
}
"""The reconstruction losses that are means of a loss per number or per pixel."""


class VQOutput(NamedTuple):
    """``reconstruction`` (B, C, H, W): normalized values, or class logits; of a diffusion decoder, its prediction from
    an image noised at a random timestep. ``ids`` (B, h, w) int64. ``commitment`` scalar, weighted."""

    reconstruction: torch.Tensor
    ids: torch.Tensor
    commitment: torch.Tensor


class VQVAE(nn.Module):
    """The network. It reads what :func:`tensor_of` gives: x (B, C, H, W) float, or (B, H, W) int64 class ids.

    ``generator`` draws the initial weights. What training draws is drawn from the generator that :meth:`forward` gets.
    On the meta device, the network is made without memory: ``to_empty`` it, load its weights, :meth:`reset_buffers`.
    """

    def __init__(self, config: TokenizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        outputs = len(config.class_names) if config.categorical else config.channels
        with torch.random.fork_rng(devices=[]):  # layers draw first weights, which are replaced below
            if config.categorical:
                self.cls_emb = nn.Embedding.from_pretrained(torch.empty(outputs, config.channels), freeze=False)
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
        self.quantizer = make_quantizer(config, generator)
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        self._alphas: torch.Tensor | None = None  # of a diffusion decoder's noise, from the first training step on
        self._initialize(generator)
        if config.frozen_encoder:
            for module in self._encoding():
                module.requires_grad_(False)

    def _encoding(self) -> list[nn.Module]:
        """The modules that turn values into tokens."""
        return [self.encoder, self.quant_proj, self.quantizer, *([self.cls_emb] if self.config.categorical else [])]

    def train(self, mode: bool = True) -> VQVAE:
        """Set training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.config.frozen_encoder:
            for module in self._encoding():
                module.eval()
        return self

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator | None) -> None:
        if next(self.parameters()).is_meta:  # where there is nothing to draw, torch would load its compiler to do so
            return
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=1.0, generator=generator)  # the scale of normalized pixels
        if isinstance(self.decoder, PatchedUNet):
            self.decoder.initialize(generator)
        else:  # Codes have unit length: with unit weights, codes and positions start at the same scale.
            nn.init.trunc_normal_(self.post_quant_proj.weight, std=1.0, generator=generator)

    @torch.no_grad()
    def reset_buffers(self) -> None:
        """Compute what follows from the configuration again, after ``to_empty`` of a model on the meta device."""
        for name in ("mean", "std"):
            getattr(self, name).copy_(torch.tensor(getattr(self.config, name)).view(-1, 1, 1))
        self.quantizer.reset_buffers()

    @torch.no_grad()
    def init_from(self, other: VQVAE) -> None:
        """Copy the weights of a trained tokenizer: encoder and codebook, and the decoder if its configuration is equal.

        Raises :class:`Open4MError` if a field that decides about tokens differs (:data:`MAKES_TOKENS`).
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

    def forward(self, x: torch.Tensor, generator: torch.Generator | Part | None = None) -> VQOutput:
        """Encode, quantize and reconstruct x; in training mode the codebook learns from it.

        ``generator`` draws vectors that initialize or restart codes, and a diffusion decoder's noise and timesteps.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_encoder):
            codes, ids, commitment = self.quantizer(self._latents(x), generator)
        if self.config.diffusion is None:
            return VQOutput(self._reconstruct(codes), ids, commitment)
        if self._alphas is None or self._alphas.device != x.device:
            self._alphas = diffusion.alphas_cumprod(self.config.diffusion).to(x.device)
        clean = self._normalized(x)
        noise = of_rows(partial(_normal, clean), len(x), generator)
        timesteps = of_rows(partial(diffusion.draw_steps, self.config.diffusion, device=x.device), len(x), generator)
        noised = diffusion.add_noise(clean, noise, self._alphas[timesteps])
        return VQOutput(self.decoder(noised, timesteps, codes), ids, commitment)

    def loss(
        self, x: torch.Tensor, generator: torch.Generator | Part | None = None, valid: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Reconstruction plus commitment loss, in float32 even under autocast, and what to log.

        ``valid``: which pixels of x hold a measurement, bool (B, H, W); the others cost nothing, so that no gradient
        comes from them. Each sample's reconstruction loss is the mean over its valid pixels. None: all are valid.

        Logged: ``reconstruction`` (on normalized values), ``commitment``, the ``code_usage`` and ``perplexity`` of the
        batch, in training that of all ranks
        (:func:`~open4m.tokenizers.quantizers.base.code_usage`), and ``restarted_codes`` since the beginning.
        """
        output = self(x, generator)
        with torch.autocast(x.device.type, enabled=False):
            reconstruction = self._error(output.reconstruction.float(), x, valid)
            total = reconstruction + output.commitment
            ids = ranks.gathered(output.ids) if self.training else output.ids
            usage, perplexity = code_usage(ids, self.config.codebook_size, self.config.codebooks)
        logged = torch.stack([reconstruction.detach(), output.commitment.detach(), usage, perplexity]).tolist()
        values = dict(zip(("reconstruction", "commitment", "code_usage", "perplexity"), logged, strict=True))
        return total, {**values, "restarted_codes": float(self.quantizer.restarts().total)}

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, h, w) int64 of x.

        Raises :class:`Open4MError` where the encoder overflows: all of what is not finite would get one code.
        """
        with torch.autocast(x.device.type, enabled=False):
            return in_tiles(self._tokens, x, self.config.tile)

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        latents = self._latents(x)
        if not (finite := latents.flatten(1).isfinite().all(1)).all():
            raise Open4MError(
                f"{self.config.modality}: the tokenizer's encoder gives numbers that are not finite for "
                f"{int((~finite).sum())} of {len(x)} inputs: their values are far outside of what it was trained "
                "on, or its weights are damaged"
            )
        return self.quantizer.lookup(latents)

    @torch.no_grad()
    def decode(
        self, ids: torch.Tensor, seeds: Sequence[int] = (), solver: Solver | None = None, steps: int | None = None
    ) -> torch.Tensor:
        """Values of tokens (B, h, w): (B, C, H, W) float32 in the modality's units, or (B, H, W) int64 class ids.

        Only a diffusion decoder reads the others: it starts each image from the noise of its seed in ``seeds`` (B,), by
        default 0, and uses the configured solver and number of steps unless others are given.
        """
        with torch.autocast(ids.device.type, enabled=False):
            if self.config.diffusion is None:
                cells = self.config.tile // self.config.patch_size
                reconstruction = in_tiles(lambda part: self._reconstruct(self.quantizer.codes(part)), ids, cells)
            else:
                codes = self.quantizer.codes(ids)
                side = [n * self.config.patch_size for n in ids.shape[1:]]
                generators = [seeded(seed) for seed in seeds or [0] * len(ids)]
                noise = torch.stack([torch.randn(self.config.channels, *side, generator=g) for g in generators])
                reconstruction = diffusion.sample(
                    lambda noised, timesteps: self.decoder(noised, timesteps, codes),
                    noise.to(ids.device),
                    self.config.diffusion,
                    solver,
                    steps,
                    generators,
                )
        if self.config.categorical:
            return reconstruction.argmax(1)
        return reconstruction * self.std + self.mean

    def _latents(self, x: torch.Tensor) -> torch.Tensor:
        """The vectors that are quantized: (B, latent_dim, h, w)."""
        return self.quant_proj(self.encoder(self._normalized(x)))

    def _normalized(self, x: torch.Tensor) -> torch.Tensor:
        if self.config.categorical:
            return self.cls_emb(x).movedim(-1, 1)
        return (x - self.mean) / self.std

    def _reconstruct(self, codes: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_proj(codes))

    def _error(self, reconstruction: torch.Tensor, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        if valid is not None:
            cost = self._costs(reconstruction, x)  # (B, H, W)
            return (torch.where(valid, cost, 0).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).mean()
        if self.config.loss == "cosine":
            return 1 - F.cosine_similarity(reconstruction, self._normalized(x)).mean()
        target = x if self.config.categorical else self._normalized(x)
        return DISTANCES[self.config.loss](reconstruction, target)

    def _costs(self, reconstruction: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The loss of each pixel, (B, H, W)."""
        if self.config.categorical:
            return F.cross_entropy(reconstruction, x, reduction="none")
        target = self._normalized(x)
        if self.config.loss == "cosine":
            return 1 - F.cosine_similarity(reconstruction, target)
        return DISTANCES[self.config.loss](reconstruction, target, reduction="none").mean(1)


def _normal(like: torch.Tensor, size: int, generator: torch.Generator | None) -> torch.Tensor:
    """So many samples (size, ...) of normal noise, of the shape of those of ``like``."""
    return torch.randn(size, *like.shape[1:], generator=generator, device=like.device)


def weights_of(model: VQVAE) -> dict[str, torch.Tensor]:
    """The tensors that a saved tokenizer has: all but the statistics that only training needs."""
    statistics = {f"quantizer.{name}" for name in model.quantizer.STATISTICS}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in statistics}


PUBLISHED = (("attn.", "attention."), ("mlp.fc1.", "mlp.up."), ("mlp.fc2.", "mlp.down."))
"""Parts of the names of weights: in the authors' public tokenizers and in directories of format 1, and here."""


def own_name(name: str) -> str:
    """Our name of a weight whose public name is ``name``."""
    for theirs, ours in PUBLISHED:
        name = name.replace(theirs, ours)
    return name


def published_name(name: str) -> str:
    """The public name of a weight that we call ``name``."""
    for theirs, ours in PUBLISHED:
        name = name.replace(ours, theirs)
    return name


def in_tiles(apply: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, side: int) -> torch.Tensor:
    """What ``apply`` makes of the tiles of ``x`` (..., H, W) that are ``side`` cells high and wide, put together again;
    of all of it, if it is no larger than a tile or ``side`` is 0."""
    if not side or max(x.shape[-2:]) <= side:
        return apply(x)
    return torch.cat([torch.cat([apply(tile) for tile in row.split(side, -1)], -1) for row in x.split(side, -2)], -2)
