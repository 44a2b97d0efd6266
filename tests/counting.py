"""A counter of floating-point operations that knows the products of packed linear layers too."""

import math
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode


def _linear(x, weight, *args, out_shape=None, **kwargs):
    return 2 * math.prod(x) * weight[0]


class FlopCounter(FlopCounterMode):
    """Counts what is needed: rows that only round up to a multiple of 8 are left out."""

    def __init__(self):
        super().__init__(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _linear})
        self._changed = [
            mock.patch("open4m.nn.packed.padded", lambda rows, width=0: rows),
            mock.patch("open4m.nn.packed.is_usual", return_value=False),  # kernels are compared by trial products
        ]

    def __enter__(self):
        for change in self._changed:
            change.start()
        return super().__enter__()

    def __exit__(self, *error):
        for change in self._changed:
            change.stop()
        return super().__exit__(*error)
