"""Sequences that grow by one token per pass and row.

Such a pass reads all weights of the decoder for little work, so that each further operation on small tensors counts:
what all passes share is laid out once, and the heads of a single token are a view of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from open4m.generate.varlen import Context, compact
from open4m.model.fourm import FourMTransformer


class Cache:
    """The pattern in which x (rows, D), the next token of each row, sees itself and all tokens before it.

    Holds their keys and values, (rows, heads, n, D/heads), with room for ``length``: zeros at first, since a kernel
    that reads whole tiles multiplies what lies beyond the ``n`` by 0, which must be finite.
    """

    def __init__(self, rows: int, length: int, heads: int, like: Tensor):
        shape = (rows, heads, length, like.shape[-1])
        self.k, self.v = like.new_zeros(shape), like.new_empty(shape)
        self.length = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        start, self.length = self.length, self.length + 1
        for cached, new in ((self.k, k), (self.v, v)):
            cached.select(2, start).copy_(new.view(len(new), heads, -1))
        return attend_one(q, [self.k.narrow(2, 0, self.length)], [self.v.narrow(2, 0, self.length)], heads)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, which are in ascending order."""
        self.k, self.v = (compact(x, rows, self.length) for x in (self.k, self.v))


def attend_one(q: Tensor, k: Sequence[Tensor], v: Sequence[Tensor], heads: int) -> Tensor:
    """The pattern in which each row of q (rows, D) sees all keys and values of its row, (rows, heads, n, D/heads) of
    each run of rows; 0 where there are none."""
    q = q.view(len(q), heads, 1, -1)
    parts = [q] if len(k) == 1 else q.split([len(keys) for keys in k])
    parts = [
        F.scaled_dot_product_attention(queries, keys, values) if keys.shape[2] else torch.zeros_like(queries)
        for queries, keys, values in zip(parts, k, v, strict=True)
    ]
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(len(q), -1)


class Continuation:
    """Sequences of one modality, one for each row of a context, with room for ``length`` tokens.

    Called with the last token of each row (rows,), it returns the hidden states (rows, D) that predict the next one.
    """

    def __init__(self, model: FourMTransformer, context: Context, key: str, length: int):
        self._model, self._key = model, key
        self._context = context.contiguous()
        like = self._context.keys_values[0][0][0]  # keys of the first run
        rows = sum(map(len, self._context.keys_values[0][0]))
        self._caches = [Cache(rows, length, model.config.heads, like) for _ in model.decoder]
        places = torch.arange(length, device=like.device)
        modality = torch.full_like(places, model.config.index(key))
        self._where = model.embeddings.where(modality, places, decoder=True)  # (length, D); no place in the image

    def __call__(self, token: Tensor) -> Tensor:
        x = self._model.embeddings.previous(token, self._key) + self._where[self._caches[0].length]
        return self._model.decode_tokens(x, self._context.keys_values, self._caches, attend_one)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, which are in ascending order."""
        self._context = self._context.keep(rows)
        for cache in self._caches:
            cache.keep(rows)
