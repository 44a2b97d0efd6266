"""How many floating-point operations a batch needs: those of its real tokens and nothing else."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from open4m.model.config import FourMConfig, ModalitySpec
from open4m.types import MaskedBatch

Number = TypeVar("Number", Tensor, int)  # of one row, or of each (B,)


def forward_flops(config: FourMConfig, batch: MaskedBatch) -> float:
    """Multiplications and additions of a forward pass over the valid tokens of ``batch``, padding not counted.

    Only matrix products count, two operations per weight and token: projections, attention scores and values between
    tokens that see each other, feed-forward layers, embeddings of patches and vectors, and for each target the output
    layer of its modality. A training step needs three times as much: the backward pass has two products for each.
    """
    n = batch.input_valid.sum(1).double()  # (B,)
    m = batch.target_valid.sum(1).double()
    total = encoder_flops(config, n) + decoder_flops(config, m, n, _seen(config, batch))
    return float(total.sum()) + _ends(config, batch)


def encoder_flops(config: FourMConfig, n: Number) -> Number:
    """Operations for encoding n tokens, of one row or of each (B,), and for the keys and values that the decoder reads
    of them."""
    n = n + config.register_tokens
    return 2 * n * encoder_weights(config) + 4 * config.dim * config.encoder_depth * n * n


def decoder_flops(config: FourMConfig, m: Number, n: Number, seen: Number) -> Number:
    """Operations for decoding m queries that read n encoded tokens; ``seen``: pairs of a query and one that it sees.

    The scores and the values cost 2·D each per pair of tokens.
    """
    pairs = seen + m * (n + config.register_tokens)
    return 2 * m * decoder_weights(config) + 4 * config.dim * config.decoder_depth * pairs


def encoder_weights(config: FourMConfig) -> int:
    """The number of weights that multiply each encoded token: blocks, projection, and the keys and values of each
    decoder block."""
    square = config.dim**2
    return config.encoder_depth * (4 * square + _mlp(config)) + square * (1 + 2 * config.decoder_depth)


def decoder_weights(config: FourMConfig) -> int:
    """The number of weights that multiply each query, without the output layer."""
    return config.decoder_depth * (6 * config.dim**2 + _mlp(config))


def _mlp(config: FourMConfig) -> int:
    """The weights of a feed-forward layer."""
    hidden = int(config.dim * config.mlp_ratio)
    gated = config.activation in ("swiglu", "geglu")
    return 3 * config.dim * int(2 * hidden / 3) if gated else 2 * config.dim * hidden


def _seen(config: FourMConfig, batch: MaskedBatch) -> Tensor:
    """(B,): pairs of a query and a query that it sees: of its modality, and in sequences not later than it."""
    pairs = torch.zeros(len(batch), dtype=torch.float64)
    for i, spec in enumerate(config.modalities):
        count = (batch.target_valid & (batch.target_modality == i)).sum(1).double().cpu()
        pairs += count * (count + 1) / 2 if spec.is_causal else count * count
    return pairs.to(batch.input_valid.device)


def input_flops(config: FourMConfig, spec: ModalitySpec) -> int:
    """Operations for embedding one token: the projection of a patch or a vector; reading a table needs none."""
    size = {"pixels": spec.channels * spec.patch_size**2, "vectors": spec.channels}.get(spec.content, 0)
    return 2 * config.dim * size


def _ends(config: FourMConfig, batch: MaskedBatch) -> float:
    """The projections of dense inputs, and the output layers."""
    total = 0.0
    for i, spec in enumerate(config.modalities):
        shown = int((batch.input_valid & (batch.input_modality == i)).sum())
        asked = int((batch.target_valid & (batch.target_modality == i)).sum())
        total += shown * input_flops(config, spec) + 2 * config.dim * asked * spec.vocab_size
    return total
