"""The 4M Transformer (paper 2.2 and C.1), read from top to bottom like the paper's section."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.model.config import Architecture, FourMConfig, ModalitySpec
from open4m.model.embeddings import Embeddings, consecutive
from open4m.model.heads import LinearCrossEntropy
from open4m.nn.attention import Attend, FusedLinear, masked, over
from open4m.nn.blocks import DecoderBlock, EncoderBlock, drop_path, norm
from open4m.nn.rotary import rotated
from open4m.nn.tied import TiedTable
from open4m.rng import Part
from open4m.types import MaskedBatch, Open4MError

CODES = ("inputs", "outputs", "queries")
"""The weights of a modality with one row per code."""


class FourMTransformer(nn.Module):
    """A Transformer encoder-decoder over packed tokens of all modalities."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made; the caller sees none of it
            self.embeddings = Embeddings(config)
            self.encoder = nn.ModuleList([EncoderBlock(config) for _ in range(config.encoder_depth)])
            self.encoder_norm = norm(config)
            self.context_proj = nn.Linear(config.dim, config.dim)  # always with a bias, as in public checkpoints
            self.decoder = nn.ModuleList([DecoderBlock(config) for _ in range(config.decoder_depth)])
            self.decoder_norm = norm(config)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> FourMTransformer:
        """Draw the initial weights, which depend on the generator alone; returns itself.

        Xavier for every linear layer; for fused ones, such as q, k and v, for each of the layers that they are.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                for weight in module.weight.chunk(module.parts if isinstance(module, FusedLinear) else 1):
                    nn.init.xavier_uniform_(weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.embeddings.initialize(generator)
        if self.config.aligned_attention:
            half = self.config.heads // 2 * (self.config.dim // self.config.heads)
            for block in self.decoder:
                block.cross_attention.q.weight[:half] = block.cross_attention.kv.weight[:half]
        return self

    @torch.no_grad()
    def init_from(self, other: FourMTransformer, fresh: Collection[str] = ()) -> list[str]:
        """Start from a trained model of the same architecture (paper A.1, A.2): its blocks, and the embeddings of the
        modalities that both have. Returns the modalities that it lacks, which keep their weights.

        Raises :class:`Open4MError` if the architectures differ, or a modality that both have. Its size may differ,
        the grid or the longest sequence, if its positions are fixed: no weight depends on it, and a place keeps its
        position, since positions count from the first row and column whatever the size. If a modality is
        an input (or a target) of this model only, its input (or output) weights stay as they are; if of the other model
        only, those weights are left out, as in super-resolution (A.1). A larger grid of the same codebook that the
        other model lacks, ``rgb@448`` of its ``rgb``, begins with the rows of the smaller one: codes mean the same.

        ``fresh``: modalities that count as lacking even if the other model has some of their names, since their tokens
        mean something else, as those of another tokenizer do (E.1).
        """
        for name in (f.name for f in fields(Architecture) if f.name not in ("drop_path", "finest")):
            if (was := getattr(other.config, name)) != (now := getattr(self.config, name)):
                raise Open4MError(f"the model to start from has another architecture: {name} is {was}, not {now}")
        shared = [key for key in self.config.keys if key in other.config.keys and key not in fresh]
        for key in shared:
            then, spec = other.config.spec(key), self.config.spec(key)
            depends = spec.learned_positions or self.config.position_deviation is not None  # on the number of places
            free = ("is_input", "is_target", *(() if depends else ("grid", "max_length")))
            for name in (f.name for f in fields(ModalitySpec) if f.name not in free):
                if (was := getattr(then, name)) != (now := getattr(spec, name)):
                    raise Open4MError(f"the model to start from has another {key}: {name} is {was}, not {now}")
        theirs = dict(other.named_parameters())
        for name, weight in self.named_parameters():
            if name in ("embeddings.mask_token", "embeddings.registers") or not name.startswith("embeddings."):
                weight.copy_(theirs[name])
        new = [key for key in self.config.keys if key not in shared]
        unknown = [self.config.spec(key) for key in new if key not in fresh]
        larger = {spec.key: stem for spec in unknown if (stem := _smaller(spec, other.config)) is not None}
        for key, stem in {**{key: key for key in shared}, **larger}.items():
            source = other.embeddings.of(stem)
            for name, weight in self.embeddings.of(key).items():
                # a table has no rows for what is no input, or no target
                if (key == stem or name in CODES) and len(weight) and len(source[name]):
                    weight.copy_(source[name])
        return new

    @torch.no_grad()
    def folded(self) -> FourMTransformer:
        """A model with plain linear patches that computes the same: a whitening is multiplied into the projection after
        it. Smaller and faster to use, and the paper's architecture; to train on, whitened patches are better."""
        if self.config.patch_embedding != "whitened":
            return self
        weight = next(self.parameters())
        plain = FourMTransformer(replace(self.config, patch_embedding="linear")).to(weight.device, weight.dtype)
        state = self.state_dict()
        for key, patches in self.embeddings.patches.items():
            state[f"embeddings.patches.{key}.weight"] = patches.folded()
            del state[f"embeddings.patches.{key}.whitening"]
        plain.load_state_dict(state)
        return plain.train(self.training)

    def forward(self, batch: MaskedBatch, generator: torch.Generator | Part | None = None) -> dict[str, Tensor]:
        """The cross-entropy (n,) of every target modality's n valid targets, in nats, in the order of ``batch`` (row by
        row): what training minimizes (:mod:`open4m.train.losses`).

        ``generator`` draws what stochastic depth drops; without one nothing is dropped.
        """
        tied = self.embeddings.tied()
        hidden, places, parts = self._targets(batch, generator, tied)
        table = self.embeddings.outputs.weight if tied is None else tied.weight
        cost = LinearCrossEntropy.apply(hidden, table, batch.target_id.flatten()[places], list(parts.values()))
        return {key: cost[rows] for key, (rows, _) in parts.items()}

    def target_logits(self, batch: MaskedBatch, generator: torch.Generator | Part | None = None) -> dict[str, Tensor]:
        """Logits (n, V) of every target modality's n valid targets, in the order of ``batch`` (row by row)."""
        hidden, _, parts = self._targets(batch, generator)
        return {key: self.logits(hidden[rows], key) for key, (rows, _) in parts.items()}

    def _targets(
        self, batch: MaskedBatch, generator: torch.Generator | Part | None, tied: TiedTable | None = None
    ) -> tuple[Tensor, Tensor, dict[str, tuple[slice, slice]]]:
        """Hidden states (n, D) of all valid targets, modality by modality; their places among all queries; for every
        target modality its rows of them and its entries of the output layer."""
        batch = batch.counted(len(self.config.modalities))
        hidden = self.decode(self.context(batch, generator), batch, generator, tied)
        modality = torch.where(batch.target_valid, batch.target_modality, len(self.config.modalities)).flatten()
        places = modality.argsort(stable=True)[: sum(batch.target_counts)]
        entries, rows = self.embeddings.slices["outputs"], consecutive(batch.target_counts)
        parts = {spec.key: (rows[i], entries[i]) for i, spec in enumerate(self.config.modalities) if spec.is_target}
        return hidden.flatten(0, 1)[places], places, parts

    # ---- the encoder
    def encode(self, batch: MaskedBatch, generator: torch.Generator | Part | None = None) -> Tensor:
        """Features (B, R + N, D) of the visible tokens, after those of the R register tokens."""
        x, _, valid = self.embed_inputs(batch)
        return self.encode_tokens(x, self._seeing(valid, batch), self._drop_path(self.encoder, 2, x, generator))

    def context(self, batch: MaskedBatch, generator: torch.Generator | Part | None = None) -> Tensor:
        """What the decoder reads of the visible tokens, (B, R + N, D): projected features, to which positions and
        modalities are added once more (paper C.1)."""
        x, where, valid = self.embed_inputs(batch)
        kept = self._drop_path(self.encoder, 2, x, generator)
        return self.context_proj(self.encode_tokens(x, self._seeing(valid, batch), kept)) + where

    def embed_inputs(self, batch: MaskedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder reads, (B, R + N, D): contents, positions and modalities added up, after the register
        tokens; positions and modalities alone; and which tokens are real, bool (B, R + N)."""
        where = self.embeddings.where(batch.input_modality, batch.input_position)
        return self.embeddings.with_registers(where + self.embeddings.content(batch), where, batch.input_valid)

    def _seeing(self, valid: Tensor, batch: MaskedBatch) -> Attend:
        """The pattern in which all tokens see those that are real, bool (B, R + N)."""
        turn = self.turn_inputs(batch)
        return rotated(over(valid), turn, turn)

    def turn_inputs(self, batch: MaskedBatch) -> Tensor | None:
        """The angles (B, R + N, D/heads/2) that rotary attention turns the visible tokens by, if it does."""
        turn = self.embeddings.turn(batch.input_modality, batch.input_position)
        return turn if turn is None else F.pad(turn, (0, 0, self.config.register_tokens, 0))

    def encode_tokens(self, x: Tensor, attend: Attend, kept: Sequence[Tensor | None] | None = None) -> Tensor:
        """The encoder's blocks on embedded tokens (..., D)."""
        for block, keep in zip(self.encoder, kept or [None] * len(self.encoder), strict=True):
            x = block(x, attend, keep)
        return self.encoder_norm(x)

    # ---- the decoder
    def decode(
        self,
        context: Tensor,
        batch: MaskedBatch,
        generator: torch.Generator | Part | None = None,
        tied: TiedTable | None = None,
    ) -> Tensor:
        """Hidden states (B, M, D) of the queries.

        Every query reads all visible tokens; queries see only queries of their own modality: all of them in a grid,
        the earlier ones in a sequence (paper 2.2). ``tied``: the output layers, if they are used in the same pass.
        """
        x = self.embed_queries(batch, tied)
        seen = F.pad(batch.input_valid, (context.shape[1] - batch.input_valid.shape[1], 0), value=True)
        turn = self.turn_queries(batch)
        attend_self = rotated(masked(self.decoder_mask(batch)), turn, turn)
        attend_context = rotated(over(seen), turn, self.turn_inputs(batch))
        contexts, kept = [context] * len(self.decoder), self._drop_path(self.decoder, 3, x, generator)
        return self.decode_tokens(x, contexts, attend_self, attend_context, kept)

    def embed_queries(self, batch: MaskedBatch, tied: TiedTable | None = None) -> Tensor:
        """What the decoder starts from, (B, M, D): mask tokens or previous tokens, positions and modalities."""
        where = self.embeddings.where(batch.target_modality, batch.target_position, decoder=True)
        return self.embeddings.query(batch.query_id, batch.target_modality, tied) + where

    def turn_queries(self, batch: MaskedBatch) -> Tensor | None:
        """The angles (B, M, D/heads/2) that rotary attention turns the queries by, if it does."""
        return self.embeddings.turn(batch.target_modality, batch.target_position)

    def decode_tokens(
        self,
        x: Tensor,
        contexts: Sequence[Any],
        attend_self: Attend | Sequence[Attend],
        attend_context: Attend,
        kept: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """The decoder's blocks on embedded queries (..., D).

        ``contexts``: for each block the context, or the keys and values that it has of it. ``attend_self``: one pattern
        for all blocks, or one for each.
        """
        patterns = [attend_self] * len(self.decoder) if callable(attend_self) else attend_self
        kept = kept or [None] * len(self.decoder)
        for block, context, pattern, keep in zip(self.decoder, contexts, patterns, kept, strict=True):
            x = block(x, context, pattern, attend_context, keep)
        return self.decoder_norm(x)

    def _drop_path(
        self, blocks: nn.ModuleList, branches: int, x: Tensor, generator: torch.Generator | Part | None
    ) -> list[Tensor | None]:
        """The factors of stochastic depth for each block; None where nothing is dropped."""
        if generator is None or not self.config.drop_path:
            return [None] * len(blocks)
        return drop_path(self.config.drop_path, len(blocks), branches, len(x), generator, x.device)

    def decoder_mask(self, batch: MaskedBatch) -> Tensor:
        """Which query sees which (B, 1, M, M): bool. Padding sees itself, so that no row is empty."""
        modality, position = batch.target_modality, batch.target_position
        same = modality[:, :, None] == modality[:, None, :]
        earlier = position[:, None, :] <= position[:, :, None]
        causal = self.embeddings.is_causal[modality][:, :, None]
        allowed = same & (earlier | ~causal) & batch.target_valid[:, None, :]
        return (allowed | torch.eye(modality.shape[1], dtype=torch.bool, device=modality.device))[:, None]

    def logits(self, hidden: Tensor, key: str) -> Tensor:
        """Logits (..., V) of a modality from hidden states (..., D)."""
        return F.linear(hidden, self.embeddings.output(key))

    def reset_buffers(self) -> None:
        """Compute what follows from the configuration again, after ``to_empty`` of a model on the meta device."""
        self.embeddings.reset_buffers()

    def parameter_count(self) -> int:
        """Parameters of the blocks and their norms, as the paper counts them (Table 4): without embeddings, and without
        the projection of the context."""
        blocks = [*self.encoder, *self.decoder, self.encoder_norm, self.decoder_norm]
        return sum(p.numel() for module in blocks for p in module.parameters())


def _smaller(spec: ModalitySpec, other: FourMConfig) -> str | None:
    """The grid of another model of which ``spec`` is a larger size, with the same codebook; None if it has none."""
    stem = spec.key.partition("@")[0]
    if stem not in other.keys or not spec.has_codebook:
        return None
    found = other.spec(stem)
    return stem if (found.family, found.vocab_size) == (spec.family, spec.vocab_size) else None
