"""The 4M Transformer (paper 2.2 and C.1), read from top to bottom like the paper's section."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.model.config import Architecture, FourMConfig, ModalitySpec
from open4m.model.embeddings import Embeddings, consecutive
from open4m.model.heads import LinearCrossEntropy
from open4m.model.layers import (
    Cache,
    DecoderBlock,
    EncoderBlock,
    FusedLinear,
    KeysValues,
    Packed,
    Runs,
    compact,
    drop_path,
    norm,
)
from open4m.types import MaskedBatch, Open4MError


@dataclass
class Context:
    """What the decoder reads of the encoder: for every block, keys and values of runs of rows; or of all rows, padded,
    with a ``mask`` of the real tokens."""

    keys_values: list[KeysValues]
    mask: Tensor | None  # (B, 1, 1, N) bool; None: without padding

    def contiguous(self) -> Context:
        """The same, laid out to be read many times."""
        return Context([[(k.contiguous(), v.contiguous()) for k, v in runs] for runs in self.keys_values], self.mask)

    def keep(self, rows: Sequence[int]) -> Context:
        """These rows of it, in ascending order, without padding; what it was is overwritten."""
        own, first = [], 0
        for k, _ in self.keys_values[0]:
            own.append([row - first for row in rows if first <= row < first + len(k)])
            first += len(k)
        return Context(
            [
                [(compact(k, stay), compact(v, stay)) for (k, v), stay in zip(runs, own, strict=True) if stay]
                for runs in self.keys_values
            ],
            None,
        )

    def read_by(self, lengths: Sequence[int]) -> tuple[Runs, list[KeysValues]]:
        """The runs of rows that are equally long and have equally many queries, ``lengths``; every block's keys and
        values of them."""
        parts, row = [], 0  # (run of the context, its rows, queries of each)
        for run, (k, _) in enumerate(self.keys_values[0]):
            first = row
            for asked, same in itertools.groupby(lengths[first : first + len(k)]):
                start, row = row, row + len([*same])
                parts.append((run, slice(start - first, row - first), asked))
        runs = [(rows.stop - rows.start, asked) for _, rows, asked in parts]
        return runs, [[(of[i][0][rows], of[i][1][rows]) for i, rows, _ in parts] for of in self.keys_values]


class FourMTransformer(nn.Module):
    """A Transformer encoder-decoder over packed tokens of all modalities."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made; the caller sees none of it
            self.embeddings = Embeddings(config)
            self.encoder = nn.ModuleList([EncoderBlock(config) for _ in range(config.encoder_depth)])
            self.encoder_norm = norm(config.dim, config)
            self.context_proj = nn.Linear(config.dim, config.dim)  # always with a bias, as in public checkpoints
            self.decoder = nn.ModuleList([DecoderBlock(config) for _ in range(config.decoder_depth)])
            self.decoder_norm = norm(config.dim, config)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> FourMTransformer:
        """Draw the initial weights, which depend on the generator alone; returns itself.

        Xavier for every linear layer: of fused ones for each of the layers that they are, like q, k and v.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                for weight in module.weight.chunk(module.parts if isinstance(module, FusedLinear) else 1):
                    nn.init.xavier_uniform_(weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.embeddings.initialize(generator)
        return self

    @torch.no_grad()
    def adopt(self, other: FourMTransformer) -> list[str]:
        """Start from a trained model of the same architecture (paper A.1, A.2): its blocks, and the embeddings of the
        modalities that both have. Returns the modalities that it lacks, which keep their weights.

        Raises :class:`Open4MError` if the architectures differ, or a modality that both have. Its size may differ,
        the grid or the longest sequence, if its positions are fixed: no weight depends on it, and a place keeps its
        position, since positions count from the first row and column whatever the size. What it is only here, an input
        or a target, keeps its weights; what it is only there is left out, as in super-resolution (A.1).
        """
        for name in (f.name for f in fields(Architecture) if f.name != "drop_path"):
            if (was := getattr(other.config, name)) != (now := getattr(self.config, name)):
                raise Open4MError(f"the model to start from has another architecture: {name} is {was}, not {now}")
        shared = [key for key in self.config.keys if key in other.config.keys]
        for key in shared:
            then, spec = other.config.spec(key), self.config.spec(key)
            free = ("is_input", "is_target", *(() if spec.learned_positions else ("grid", "max_length")))
            for name in (f.name for f in fields(ModalitySpec) if f.name not in free):
                if (was := getattr(then, name)) != (now := getattr(spec, name)):
                    raise Open4MError(f"the model to start from has another {key}: {name} is {was}, not {now}")
        theirs = dict(other.named_parameters())
        for name, weight in self.named_parameters():
            if name in ("embeddings.mask_token", "embeddings.registers") or not name.startswith("embeddings."):
                weight.copy_(theirs[name])
        for key in shared:
            source = other.embeddings.of(key)
            for name, weight in self.embeddings.of(key).items():
                if len(weight) and len(source[name]):  # a table has no rows for what is no input, or no target
                    weight.copy_(source[name])
        return [key for key in self.config.keys if key not in shared]

    def forward(self, batch: MaskedBatch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The cross-entropy (n,) of every target modality's n valid targets, in nats, in the order of ``batch`` (row by
        row): what training minimizes (:mod:`open4m.losses`).

        ``generator`` draws what stochastic depth drops; without one nothing is dropped.
        """
        hidden, places, parts = self._targets(batch, generator)
        cost = LinearCrossEntropy.apply(
            hidden, self.embeddings.outputs.weight, batch.target_id.flatten()[places], list(parts.values())
        )
        return {key: cost[rows] for key, (rows, _) in parts.items()}

    def target_logits(self, batch: MaskedBatch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Logits (n, V) of every target modality's n valid targets, in the order of ``batch`` (row by row)."""
        hidden, _, parts = self._targets(batch, generator)
        return {key: self.logits(hidden[rows], key) for key, (rows, _) in parts.items()}

    def _targets(
        self, batch: MaskedBatch, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, dict[str, tuple[slice, slice]]]:
        """Hidden states (n, D) of all valid targets, modality by modality; their places among all queries; for every
        target modality its rows of them and its entries of the output layer."""
        hidden = self.decode(self.encode(batch, generator), batch, generator=generator)
        names = len(self.config.modalities)
        modality = torch.where(batch.target_valid, batch.target_modality, names).flatten()
        counts = modality.bincount(minlength=names + 1)[:names].tolist()
        places = modality.argsort(stable=True)[: sum(counts)]
        entries = self.embeddings.slices["outputs"]
        parts = {
            spec.key: (rows, entries[i])
            for i, (spec, rows) in enumerate(zip(self.config.modalities, consecutive(counts), strict=True))
            if spec.is_target
        }
        return hidden.flatten(0, 1)[places], places, parts

    def encode(self, batch: MaskedBatch, generator: torch.Generator | None = None, packed: bool = False) -> Context:
        """Read the visible tokens. Positions and modalities are re-injected into the encoder's output (paper C.1).

        ``packed``: nothing is computed for padding, and what :meth:`decode` makes of it is packed too.
        """
        embed = self.embeddings
        where = embed.where(batch.input_modality, batch.input_position)  # (B, N, D)
        x = where + embed.content(batch)
        x, where, valid = embed.with_registers(x, where, batch.input_valid)
        mask, runs = valid[:, None, None], None  # (B, 1, 1, N)
        kept = self._drop_path(self.encoder, 2, x, generator)
        if packed:
            real = Packed(valid)
            x, where, mask, runs = real.flat(x), real.flat(where), None, real.runs  # (T, D)
        for block, keep in zip(self.encoder, kept, strict=True):
            x = block(x, mask, keep, runs)
        context = self.context_proj(self.encoder_norm(x)) + where
        return Context([block.keys_values(context, runs) for block in self.decoder], mask)

    def decode(
        self,
        context: Context,
        batch: MaskedBatch,
        caches: list[Cache] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Hidden states (B, M, D) of the queries; if the context is packed, (T, D) of the valid ones, row by row.

        Every query reads all visible tokens; queries see only queries of their own modality: all of them in a
        grid, the earlier ones in a sequence (paper 2.2). A packed context is read by queries of one grid or, with
        ``caches``, one a block, by the next query of a sequence a row, which sees all that the caches hold.
        """
        embed = self.embeddings
        x = embed.query(batch.query_id, batch.target_modality) + embed.where(
            batch.target_modality, batch.target_position, decoder=True
        )
        kept = self._drop_path(self.decoder, 3, x, generator)
        mask, runs, keys_values = None, None, context.keys_values
        if context.mask is None:
            real = Packed(batch.target_valid)
            x, (runs, keys_values) = real.flat(x), context.read_by(real.lengths)
        else:
            mask = self.decoder_mask(batch)
        for i, block in enumerate(self.decoder):
            x = block(x, keys_values[i], mask, context.mask, None if caches is None else caches[i], kept[i], runs)
        return self.decoder_norm(x)

    def _drop_path(
        self, blocks: nn.ModuleList, branches: int, x: Tensor, generator: torch.Generator | None
    ) -> list[Tensor | None]:
        if generator is None or not self.config.drop_path:
            return [None] * len(blocks)
        return drop_path(self.config.drop_path, len(blocks), branches, len(x), generator, x.device)

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
