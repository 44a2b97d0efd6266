"""What encoders of transfers have in common, whoever pre-trained them: what of them is trained, and at which depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from open4m.nn.adapters import add_low_rank
from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.transfer.backbone import BackboneConfig


class Encoder(nn.Module):
    """``encoder``: its blocks, with ``encoder_norm`` after the last one. ``width``: of its features."""

    encoder: nn.ModuleList
    width: int

    def tune(self, config: BackboneConfig, generator: torch.Generator) -> None:
        """Freeze what ``config.tune`` does not train, and add its adapters.

        Raises :class:`Open4MError` for adapters of a rank above the width.
        """
        if config.tune == "all":
            return
        self.requires_grad_(False)
        if config.tune == "lora":
            if config.lora_rank > self.width:
                raise Open4MError(
                    f"backbone.lora_rank: expected {self.width} at most, the width, got {config.lora_rank}"
                )
            for layer in [m for block in self.encoder for m in block.modules() if isinstance(m, nn.Linear)]:
                add_low_rank(layer, config.lora_rank, 2.0 * config.lora_rank, generator)

    @property
    def depth(self) -> int:
        return len(self.encoder)

    def depth_of(self, name: str) -> int:
        """The depth of a weight, by which its learning rate decays: 0 for embeddings, i + 1 for block i, that of the
        last block plus one for the norm at the end (paper D, [26])."""
        part, _, rest = name.partition(".")
        if part == "encoder":
            return int(rest.partition(".")[0]) + 1
        return self.depth + 1 if part == "encoder_norm" else 0
