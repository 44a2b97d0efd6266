"""The 4M Transformer (paper 2.2 and C.1), read from top to bottom like the paper's section."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.model.config import FourMConfig
from open4m.model.embeddings import Embeddings
from open4m.model.layers import DecoderBlock, EncoderBlock, norm
from open4m.types import MaskedBatch


@dataclass
class Context:
    """What the decoder reads of the encoder: each block's keys and values, and which tokens are real."""

    keys_values: list[Tensor]  # a block: (B, N, 2D)
    mask: Tensor  # (B, 1, 1, N) bool


class FourMTransformer(nn.Module):
    """A Transformer encoder-decoder over packed tokens of all modalities."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.config = config
        size = (config.dim, config.heads, config.mlp_ratio)
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made; the caller sees none of it
            self.embeddings = Embeddings(config)
            self.encoder = nn.ModuleList([EncoderBlock(*size) for _ in range(config.encoder_depth)])
            self.encoder_norm = norm(config.dim)
            self.context_proj = nn.Linear(config.dim, config.dim)  # the one layer with a bias, as in public checkpoints
            self.decoder = nn.ModuleList([DecoderBlock(*size) for _ in range(config.decoder_depth)])
            self.decoder_norm = norm(config.dim)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> FourMTransformer:
        """Draw the initial weights, which depend on the generator alone; returns itself."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.embeddings.initialize(generator)
        return self

    def forward(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """Logits (n, V) a target modality, for its n valid targets in the order of ``batch`` (row by row)."""
        hidden = self.decode(self.encode(batch), batch)
        return {
            key: self.logits(hidden[batch.target_valid & (batch.target_modality == self.config.index(key))], key)
            for key in self.config.targets
        }

    def encode(self, batch: MaskedBatch) -> Context:
        """Read the visible tokens. Positions and modalities are re-injected into the encoder's output (paper C.1)."""
        embed = self.embeddings
        where = embed.where(batch.input_modality, batch.input_position)  # (B, N, D)
        x = where + embed.content(batch.input_id, batch.input_modality, batch.input_position, batch.pixels)
        mask = batch.input_valid[:, None, None]  # (B, 1, 1, N)
        for block in self.encoder:
            x = block(x, mask)
        context = self.context_proj(self.encoder_norm(x)) + where
        return Context([block.keys_values(context) for block in self.decoder], mask)

    def decode(self, context: Context, batch: MaskedBatch, caches: list[dict[str, Tensor]] | None = None) -> Tensor:
        """Hidden states (B, M, D) of the queries.

        Every query reads all visible tokens; queries see only queries of their own modality: all of them in a
        grid, the earlier ones in a sequence (paper 2.2). With ``caches``, one dict a block, the queries are the
        next ones of a single sequence modality and see all that the caches hold.
        """
        embed = self.embeddings
        x = embed.query(batch.query_id, batch.target_modality) + embed.where(
            batch.target_modality, batch.target_position
        )
        mask = self.decoder_mask(batch) if caches is None else None
        for i, block in enumerate(self.decoder):
            x = block(x, context.keys_values[i], mask, context.mask, caches[i] if caches is not None else None)
        return self.decoder_norm(x)

    def decoder_mask(self, batch: MaskedBatch) -> Tensor:
        """Which query sees which (B, 1, M, M): bool. Padding sees itself, so that no row is empty."""
        modality, position = batch.target_modality, batch.target_position
        same = modality[:, :, None] == modality[:, None, :]
        earlier = position[:, None, :] <= position[:, :, None]
        causal = self.embeddings.is_sequence[modality][:, :, None]
        allowed = same & (earlier | ~causal) & batch.target_valid[:, None, :]
        return (allowed | torch.eye(modality.shape[1], dtype=torch.bool, device=modality.device))[:, None]

    def logits(self, hidden: Tensor, key: str) -> Tensor:
        """Logits (..., V) of a modality from hidden states (..., D)."""
        return F.linear(hidden, self.embeddings.output(key))

    def parameter_count(self) -> int:
        """Parameters of the blocks and their norms, as the paper counts them (Table 4): without embeddings, and without
        the projection of the context."""
        blocks = [*self.encoder, *self.decoder, self.encoder_norm, self.decoder_norm]
        return sum(p.numel() for module in blocks for p in module.parameters())
