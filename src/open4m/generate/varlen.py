"""Rows without padding: generation computes real tokens only, and encodes what does not change once.

The tokens of all rows stand one after another, (T, D). Consecutive rows of equal length are a run, and attention takes
a run at a time. These are attention patterns (:mod:`open4m.nn.attention`) and the two halves of a forward pass through
:class:`~open4m.model.fourm.FourMTransformer` that use them; its blocks are the same as in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from open4m.model.fourm import FourMTransformer
from open4m.nn.attention import Attend
from open4m.nn.rotary import rotate, rotated
from open4m.types import MaskedBatch

Runs = Sequence[tuple[int, int]]
"""(rows, tokens of each) of consecutive rows of equal length."""


class Rows:
    """The real tokens of padded rows, one after another.

    ``valid`` (B, N) bool says which tokens are real; ``lengths`` is how many each row has.
    """

    def __init__(self, valid: Tensor):
        self.lengths: list[int] = valid.sum(1).tolist()
        self.places = None if sum(self.lengths) == valid.numel() else valid.flatten().nonzero()[:, 0]
        self.runs: Runs = [(len([*rows]), n) for n, rows in itertools.groupby(self.lengths)]

    def flat(self, x: Tensor) -> Tensor:
        """(B, N, ...) → (T, ...)."""
        x = x.flatten(0, 1)
        return x if self.places is None else x.index_select(0, self.places)


def split_runs(x: Tensor, heads: int, runs: Runs) -> list[Tensor]:
    """(T, D) → (rows, heads, n, D/heads) of each run."""
    parts = [x] if len(runs) == 1 else x.split([rows * n for rows, n in runs])
    width = x.shape[-1] // heads
    return [part.view(*run, heads, width).transpose(1, 2) for part, run in zip(parts, runs, strict=True)]


def attend_runs(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
    """Attention of the queries of each run over its keys and values; 0 where there are none → (T, D)."""
    parts = [
        F.scaled_dot_product_attention(queries, keys, values) if keys.shape[2] else torch.zeros_like(queries)
        for queries, keys, values in zip(q, k, v, strict=True)
    ]
    flat = [part.transpose(1, 2).reshape(-1, part.shape[1] * part.shape[3]) for part in parts]
    return torch.cat(flat) if len(flat) > 1 else flat[0]


def within(runs: Runs) -> Attend:
    """The pattern in which each token sees all tokens of its row."""

    def pattern(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return attend_runs(*(split_runs(part, heads, runs) for part in (q, k, v)))

    return pattern


def over_context(runs: Runs) -> Attend:
    """The pattern in which queries (T, D) in ``runs`` see the keys and values of each run, split into heads already."""

    def pattern(q: Tensor, k: Sequence[Tensor], v: Sequence[Tensor], heads: int) -> Tensor:
        return attend_runs(split_runs(q, heads, runs), k, v)

    return pattern


def compact(x: Tensor, rows: Sequence[int], length: int | None = None) -> Tensor:
    """The ``rows`` of x (rows, heads, n, D/heads), in ascending order, moved to its beginning in place; of each the
    first ``length`` keys or values, or all."""
    for new, old in enumerate(rows):
        if new != old:
            x[new, :, :length] = x[old, :, :length]
    return x[: len(rows)]


KeysValues = tuple[list[Tensor], list[Tensor]]
"""Keys and values (rows, heads, n, D/heads) of each run."""


@dataclass
class Context:
    """What each decoder block reads of the encoded rows."""

    keys_values: list[KeysValues]  # of every block

    def contiguous(self) -> Context:
        """The same, laid out to be read many times."""
        return Context([tuple([x.contiguous() for x in part] for part in block) for block in self.keys_values])

    def keep(self, rows: Sequence[int]) -> Context:
        """These rows, in ascending order; the memory of this context is overwritten."""
        own, first = [], 0
        for k in self.keys_values[0][0]:
            own.append([row - first for row in rows if first <= row < first + len(k)])
            first += len(k)
        return Context(
            [
                tuple([compact(x, stay) for x, stay in zip(part, own, strict=True) if stay] for part in block)
                for block in self.keys_values
            ]
        )

    def read_by(self, lengths: Sequence[int]) -> tuple[Runs, list[KeysValues]]:
        """The runs of rows that agree in their length here and in their number of queries, ``lengths``; every block's
        keys and values of them."""
        parts, row = [], 0  # (run of the context, its rows, queries of each)
        for run, k in enumerate(self.keys_values[0][0]):
            first = row
            for asked, same in itertools.groupby(lengths[first : first + len(k)]):
                start, row = row, row + len([*same])
                parts.append((run, slice(start - first, row - first), asked))
        runs = [(rows.stop - rows.start, asked) for _, rows, asked in parts]
        blocks = [tuple([part[i][rows] for i, rows, _ in parts] for part in block) for block in self.keys_values]
        return runs, blocks


def encode(model: FourMTransformer, batch: MaskedBatch) -> Context:
    """Encode the visible tokens of a batch; nothing is computed for padding."""
    x, where, valid = model.embed_inputs(batch)
    rows, heads = Rows(valid), model.config.heads
    turn = _flat(rows, model.turn_inputs(batch))
    attend = rotated(within(rows.runs), turn, turn)
    context = model.context_proj(model.encode_tokens(rows.flat(x), attend)) + rows.flat(where)  # (T, D)
    keys_values = []
    for block in model.decoder:
        k, v = block.keys_values(context)
        k = k if turn is None else rotate(k, turn, heads)
        keys_values.append((split_runs(k, heads, rows.runs), split_runs(v, heads, rows.runs)))
    return Context(keys_values)


def decode(model: FourMTransformer, context: Context, batch: MaskedBatch) -> Tensor:
    """Hidden states (T, D) of the valid queries of a batch, row by row: of one grid."""
    rows = Rows(batch.target_valid)
    runs, keys_values = context.read_by(rows.lengths)
    turn = _flat(rows, model.turn_queries(batch))
    attend = rotated(within(runs), turn, turn)
    attend_context = rotated(over_context(runs), turn, None)  # its keys are turned already
    return model.decode_tokens(rows.flat(model.embed_queries(batch)), keys_values, attend, attend_context)


def _flat(rows: Rows, turn: Tensor | None) -> Tensor | None:
    return None if turn is None else rows.flat(turn)
