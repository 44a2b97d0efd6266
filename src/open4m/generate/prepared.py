"""A model as the passes of generation use it: on a CPU with packed linear layers (:mod:`open4m.nn.packed`)."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from open4m.model.config import ModalitySpec
from open4m.model.embeddings import module_name
from open4m.model.fourm import FourMTransformer
from open4m.nn.packed import PackedLinear, Precision, can_pack, is_steady, packed
from open4m.types import Open4MError


class Prepared:
    """A model whose linear layers are packed where that is faster; those of the output when they are first used.

    It is made from the weights as they are, and :meth:`is_of` says whether they still are. It takes as much memory as
    those of the decoder, whose passes are the ones of few tokens, and of an encoder of at most :data:`MOST_WEIGHTS`,
    for the sake of results that do not depend on the batch (:attr:`steady`); in 8 bits a quarter of all. A model with
    forward hooks, which may be on any layer, is used as it is. Raises :class:`Open4MError` for 8 bits where they cannot
    be had, or are not what such hooks expect.
    """

    def __init__(self, model: FourMTransformer, precision: Precision):
        self._model, self._precision = model, precision
        self._packs = can_pack(model.embeddings.outputs.weight, precision) and not _has_hooks(model)
        if precision == "int8" and not self._packs:
            raise Open4MError("precision int8: layers in 8 bits call no forward hooks; remove those, or use float32")
        self._state = _state(model)
        count = sum(weight.numel() for weight in model.encoder.parameters())
        self._packs_encoder = precision == "int8" or count <= MOST_WEIGHTS
        kept = [model.embeddings] if self._packs_encoder else [model.embeddings, model.encoder]
        self.model: FourMTransformer = packed(model, precision, kept) if self._packs else model
        self._heads: dict[str, PackedLinear] = {}

    def is_of(self, precision: Precision) -> bool:
        """Whether this is the model as it is now, in this precision."""
        return precision == self._precision and self._state == _state(self._model)

    @cached_property
    def steady(self) -> bool:
        """Whether what is computed of a sample has the same bits alone and in any batch, with the kernels that this
        machine takes: of ids, and of images that are shown whole. Vectors, and images in part, are projected by the
        usual product."""
        model = self._model
        if not (self._packs and self._packs_encoder and self._precision == "exact"):
            return False
        shapes = {layer.weight.shape for layer in self.model.modules() if isinstance(layer, PackedLinear)}
        shapes |= {model.embeddings.output(key).shape for key in model.config.targets}
        threads = torch.get_num_threads()
        pixels = [spec for spec in model.config.modalities if spec.content == "pixels"]
        return all(is_steady(width, outputs, threads) for outputs, width in shapes) and all(
            _projects_steadily(model, spec) for spec in pixels
        )

    def logits(self, hidden: Tensor, key: str) -> Tensor:
        """Logits (T, V) of a modality from hidden states (T, D)."""
        if not self._packs:
            return self._model.logits(hidden, key)
        if key not in self._heads:
            self._heads[key] = PackedLinear(self._model.embeddings.output(key), precision=self._precision)
        return self._heads[key](hidden)


MOST_WEIGHTS = 1 << 27
"""Weights of an encoder that is packed too: 512 MiB."""

BATCHES = (2, 3, 8, 32)
"""Numbers of images whose projections are compared with those of one."""


@torch.inference_mode()
def _projects_steadily(model: FourMTransformer, spec: ModalitySpec) -> bool:
    """Whether whole images are projected alone and with others to the same bits."""
    layer = model.embeddings.patches[module_name(spec.key)]
    sides = [side * spec.patch_size for side in spec.grid]
    images = torch.randn(max(BATCHES), spec.channels, *sides, generator=torch.Generator().manual_seed(0))
    cells = torch.arange(spec.length)
    alone = layer(images[:1], torch.zeros_like(cells), cells)
    rows = [torch.arange(n).repeat_interleave(spec.length) for n in BATCHES]
    return all(
        torch.equal(layer(images[:n], row, cells.repeat(n))[: spec.length], alone)
        for n, row in zip(BATCHES, rows, strict=True)
    )


PROBES = 16
"""Numbers of each weight that are compared: writing to ``weight.data`` leaves no other trace."""


def _state(model: FourMTransformer) -> tuple[bool, list[tuple[int, int, bytes]]]:
    """Whether there are hooks; where each weight is, how often it was written to, and some of its numbers if it is on
    the CPU."""
    return _has_hooks(model), [
        (p.data_ptr(), 0 if p.is_inference() else p._version, _probe(p.detach())) for p in model.parameters()
    ]


def _has_hooks(model: FourMTransformer) -> bool:
    return any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def _probe(weight: Tensor) -> bytes:
    if weight.device.type != "cpu":  # such weights are not packed, and nobody should wait for them
        return b""
    flat = weight.reshape(-1)[:: max(1, weight.numel() // PROBES)]
    return flat.contiguous().view(torch.uint8).numpy().tobytes()
