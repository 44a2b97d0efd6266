"""Rows without padding and cached tokens: the hidden states are those of padded batches."""

import dataclasses

import pytest
import torch
from tiny_model import ALL_ROWS, CONFIG, EVERYTHING, ROWS, make_batch, make_model

from open4m.generate import varlen
from open4m.generate.continuation import Continuation


@pytest.mark.parametrize(("config", "rows"), [(CONFIG, ROWS), (EVERYTHING, ALL_ROWS)], ids=["default", "everything"])
@torch.no_grad()
def test_decoding_with_a_cache_equals_decoding_at_once(config, rows):
    model = make_model(config=config)
    queries = [(2, p, 0, 4 + p) for p in range(6)]
    batch = make_batch([(rows[0][0], queries), (rows[1][0], queries), ([], queries)])
    whole = model.decode(model.context(batch), batch)
    following = Continuation(model, varlen.encode(model, batch), config.modalities[2].key, 6)
    stay = [0, 1, 2]
    for p in range(6):
        if p in (2, 4):  # rows end: first one between others, then all of a run
            following.keep([0, 2] if p == 2 else [1])
            stay = [0, 2] if p == 2 else [2]
        found = following(torch.full((len(stay),), 4 + p))
        torch.testing.assert_close(found, whole[stay, p], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("config", "rows"), [(CONFIG, ROWS), (EVERYTHING, ALL_ROWS)], ids=["default", "everything"])
@torch.no_grad()
def test_rows_without_padding_are_those_with_it(config, rows):
    """Rows of unlike lengths, alike ones beside each other and not; one that sees nothing, one that asks nothing."""
    model = make_model(config=config)
    inputs, grid = [rows[i][0] for i in (0, 0, 1, 2, 0, 1)], [(1, p, 0, 0) for p in range(4)]
    batch = make_batch([*zip(inputs, [grid, grid[1:], grid, grid, [], grid], strict=True)])
    padded = model.decode(model.context(batch), batch)
    context = varlen.encode(model, batch)
    torch.testing.assert_close(varlen.decode(model, context, batch), padded[batch.target_valid], rtol=0, atol=1e-10)
    stay = [1, 3, 5]
    names = ("target_id", "target_modality", "target_position", "query_id", "target_valid")
    fewer = dataclasses.replace(batch, **{name: getattr(batch, name)[stay] for name in names})
    found = varlen.decode(model, context.contiguous().keep(stay), fewer)
    torch.testing.assert_close(found, padded[stay][fewer.target_valid], rtol=0, atol=1e-10)
