"""Activation checkpointing, applied from outside the model (paper C.2: 4M-XL needs it)."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: nn.Module) -> None:
    """Keep only what enters each block of the model, and compute the rest again in the backward pass.

    Blocks are the members of the model's outermost ``ModuleList`` instances, but for those that hold buffers: their
    forward pass may change them, and must not run twice. Gradients stay the same, for about a third more work.
    """
    for module in model.children():
        if not isinstance(module, nn.ModuleList):
            recompute_blocks(module)
            continue
        for block in module:
            if not any(True for _ in block.buffers()):
                # nothing in a block draws from the global generators, whose state need not be kept then
                block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
