"""A backbone with a head on top: what a transfer trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from open4m import modalities
from open4m.datasets.labelled.base import Example
from open4m.rng import Part
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.transfer.augment import Pipeline
from open4m.transfer.backbone import Backbone
from open4m.transfer.heads import contract
from open4m.transfer.heads.base import Head
from open4m.types import Open4MError

BATCH = 16
"""Samples that are predicted at once, at most: batches of training are divided among processes, predictions are not,
and a detector's 1,000 proposals of each of 512 pictures would take more memory than a GPU has."""


class TransferNetwork(nn.Module):
    """``backbone``: a :class:`Backbone`, or another encoder that has what this uses of it."""

    def __init__(self, backbone: Backbone, head: Head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, inputs: Mapping[str, Tensor], generator: torch.Generator | Part | None = None) -> Any:
        """The head's outputs for contents by key, as :class:`Backbone` reads them."""
        return self.head(self.backbone(inputs, generator))

    def depth_of(self, name: str) -> int:
        """The depth of a weight; heads are as deep as the norm after the last block."""
        part, _, rest = name.partition(".")
        return self.backbone.depth_of(rest) if part == "backbone" else self.backbone.depth + 1


class Contents:
    """Turns the values of examples into what a backbone reads.

    ``keys``: for each name of an example's value the modality of the backbone that it is given as. ``tokenizers``: of
    those that are read as tokens, for values of the size of the square.
    """

    def __init__(self, backbone: Backbone, names: Sequence[str], tokenizers: Mapping[str, Tokenizer], image_size: int):
        if len(names) != len(backbone.specs):  # one modality given twice is one of the backbone's
            read = ", ".join(backbone.specs)
            raise Open4MError(f"backbone.inputs: expected a name for each of {read}, got {', '.join(names) or 'none'}")
        self.keys = dict(zip(names, backbone.specs, strict=True))
        self.content = {key: spec.content for key, spec in backbone.specs.items()}
        self.tokenizers = {key: tokenizer.at(image_size) for key, tokenizer in tokenizers.items()}
        for name, key in self.keys.items():
            if backbone.specs[key].is_sequence:
                raise Open4MError(f"backbone.inputs: {name} is a sequence; examples have images and maps")
            if backbone.specs[key].has_codebook and key not in tokenizers:
                raise Open4MError(f"backbone.inputs: {name} is read as tokens, and the model has no tokenizer for it")

    def of(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The contents (B, ...) of examples that lie in their squares."""
        return {key: self._of_one(name, key, examples) for name, key in self.keys.items()}

    def _of_one(self, name: str, key: str, examples: Sequence[Example]) -> Tensor:
        modality = name.partition("@")[0]
        for example in examples:
            if modality not in example:
                raise Open4MError(f"backbone.inputs: the examples have no {modality} (they have {', '.join(example)})")
        values = [example[modality] for example in examples]
        if self.content[key] == "pixels":
            return torch.from_numpy(np.stack(values)).movedim(-1, 1).contiguous()
        own, tokenizer = modalities.get(modality), self.tokenizers[key]
        ids = torch.from_numpy(tokenizer.encode_batch([own.convert(value) for value in values]))
        return ids.unflatten(1, tokenizer.config.grid)


def spread(count: int, most: int | None) -> range | list[int]:
    """Places of at most ``most`` of ``count`` examples, equally far apart: data sets are often sorted by class."""
    return range(count) if most is None or most >= count else [i * count // most for i in range(most)]


@torch.inference_mode()
def predictions(
    model: TransferNetwork,
    contents: Contents,
    place: Pipeline,
    data: Sequence[Example],
    indices: Sequence[int],
    most: int | None = None,
) -> Iterator[tuple[Example, Any]]:
    """Examples with their predictions, in order, batch by batch. ``most``: how many at once, where that is fewer than
    :data:`BATCH`."""
    model.eval()
    device = next(model.parameters()).device
    size = min(BATCH, most or BATCH)
    for first in range(0, len(indices), size):
        examples = [data[i] for i in indices[first : first + size]]
        placed = [place(example) for example in examples]
        inputs = contents.of([example for example, _ in placed])
        outputs = model({key: content.to(device) for key, content in inputs.items()})
        yield from zip(examples, contract.predict(model.head, outputs, [where for _, where in placed]), strict=True)
