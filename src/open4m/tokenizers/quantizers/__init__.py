"""Quantizers: vectors become ids of codes, and back (paper B.3). One file per kind."""

from __future__ import annotations

import torch

from open4m.tokenizers.quantizers.base import Quantizer, QuantizerConfig
from open4m.tokenizers.quantizers.fsq import FiniteScalarQuantizer
from open4m.tokenizers.quantizers.lfq import LookupFreeQuantizer
from open4m.tokenizers.quantizers.memcodes import MemoryQuantizer
from open4m.tokenizers.quantizers.product import ProductQuantizer
from open4m.tokenizers.quantizers.simvq import SimVectorQuantizer
from open4m.tokenizers.quantizers.vq import VectorQuantizer
from open4m.types import Open4MError

KINDS: dict[str, type[Quantizer]] = {
    "vq": VectorQuantizer,
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "simvq": SimVectorQuantizer,
    "memcodes": MemoryQuantizer,
}


def make_quantizer(config: QuantizerConfig, generator: torch.Generator | None = None) -> Quantizer:
    """The quantizer of the kind that ``config`` names; ``generator`` draws its initial weights."""
    if config.quantizer not in KINDS:
        raise Open4MError(f"quantizer is one of {', '.join(KINDS)}, got {config.quantizer!r}")
    if config.codebooks > 1:
        return ProductQuantizer(config, generator, make_quantizer)
    return KINDS[config.quantizer](config, generator)
