"""A model as the passes of generation use it: on a CPU with packed linear layers (:mod:`open4m.nn.packed`)."""

from __future__ import annotations

import torch
from torch import Tensor

from open4m.model.fourm import FourMTransformer
from open4m.nn.packed import PackedLinear, Precision, can_pack, packed
from open4m.types import Open4MError


class Prepared:
    """A model whose linear layers are packed where that is faster; those of the output when they are first used.

    It is made from the weights as they are, and :meth:`is_of` says whether they still are. It takes as much memory as
    those of the decoder, whose passes are the ones of few tokens, or in 8 bits a quarter of all. A model with forward
    hooks, which may be on any layer, is used as it is. Raises :class:`Open4MError` for 8 bits where they cannot be
    had, or are not what such hooks expect.
    """

    def __init__(self, model: FourMTransformer, precision: Precision):
        self._model, self._precision = model, precision
        self._packs = can_pack(model.embeddings.outputs.weight, precision) and not _has_hooks(model)
        if precision == "int8" and not self._packs:
            raise Open4MError("precision int8: layers in 8 bits call no forward hooks; remove those, or use float32")
        self._state = _state(model)
        kept = [model.embeddings] if precision == "int8" else [model.embeddings, model.encoder]
        self.model: FourMTransformer = packed(model, precision, kept) if self._packs else model
        self._heads: dict[str, PackedLinear] = {}

    def is_of(self, precision: Precision) -> bool:
        """Whether this is the model as it is now, in this precision."""
        return precision == self._precision and self._state == _state(self._model)

    def logits(self, hidden: Tensor, key: str) -> Tensor:
        """Logits (T, V) of a modality from hidden states (T, D)."""
        if not self._packs:
            return self._model.logits(hidden, key)
        if key not in self._heads:
            self._heads[key] = PackedLinear(self._model.embeddings.output(key), precision=self._precision)
        return self._heads[key](hidden)


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
