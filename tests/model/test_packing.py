"""Packing exact tokens: the batch by hand, the loss whatever the order and the padding, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import ALL_ROWS, EVERYTHING, make_batch, make_model

from open4m.model.packing import pack
from open4m.train.losses import aggregate
from open4m.types import Open4MError

CONTENT = make_batch(ALL_ROWS)
PIXELS, VECTORS = CONTENT.pixels["rgb_pixels"].float(), CONTENT.vectors["t5"].float()
FAMILY = [spec.family for spec in EVERYTHING.modalities]


def given_id(modality, token):
    """The id of an input token in a list of exact tokens: −1 for a patch, −2 for a masked span of vectors."""
    return {"pixels": -1, "vectors": token - 1 if token else -2}.get(FAMILY[modality], token)


INPUTS = [(i, m, p, given_id(m, t)) for i, (row, _) in enumerate(ALL_ROWS) for m, p, t in row]
TARGETS = [
    (i, m, p, q if FAMILY[m] == "sequence" else -1, t) for i, (_, row) in enumerate(ALL_ROWS) for m, p, t, q in row
]


def packed(inputs=INPUTS, targets=TARGETS, **changes):
    content = {"pixels": {"rgb_pixels": PIXELS}, "vectors": {"t5": VECTORS}, **changes}
    return pack(EVERYTHING, inputs, targets, **content)


def test_a_batch_by_hand():
    batch = pack(
        EVERYTHING,
        np.array([[2, 1, 5, 10], [0, 7, 1, -1], [2, 0, 3, -1], [0, 7, 2, -2], [0, 7, 0, 3]]),
        np.array([[0, 2, 1, 4, 9], [2, 1, 11, -1, 8]]),
        pixels={"rgb_pixels": PIXELS[:3]},
        vectors={"t5": VECTORS[:3].numpy()},
    )
    assert batch.input_modality.tolist() == [[7, 7, 7], [0, 0, 0], [1, 0, 0]]
    assert batch.input_position.tolist() == [[1, 2, 0], [0, 0, 0], [5, 3, 0]]
    # vectors: 1 + the position, 0 for a masked span, 1 + the row that is named; a patch has no id
    assert batch.input_id.tolist() == [[2, 0, 4], [0, 0, 0], [10, 0, 0]]
    assert batch.input_valid.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert batch.target_modality.tolist() == [[2], [0], [1]]
    assert batch.target_position.tolist() == [[1], [0], [11]]
    assert batch.query_id.tolist() == [[4], [0], [0]]
    assert batch.target_id.tolist() == [[9], [0], [8]]
    assert batch.target_valid.tolist() == [[True], [False], [True]]
    assert torch.equal(batch.pixels["rgb_pixels"], PIXELS[:3])
    assert torch.equal(batch.vectors["t5"], VECTORS[:3])


def test_exact_tokens_are_those_of_a_masked_batch():
    batch, other = packed(), make_batch(ALL_ROWS)
    for name in ("input_id", "input_modality", "input_position", "input_valid", "query_id", "target_id"):
        assert torch.equal(getattr(batch, name), getattr(other, name)), name


def test_modalities_may_be_counted_in_another_order():
    keys = ["caption", "unused", "depth"]
    batch = pack(EVERYTHING, [(0, 2, 5, 10), (0, 0, 0, 3)], [(0, 0, 0, 4, 9)], modalities=keys)
    assert batch.input_modality.tolist() == [[1, 2]]
    assert batch.target_modality.tolist() == [[2]]


def test_lists_may_be_empty():
    batch = pack(EVERYTHING, [], [(1, 1, 0, -1, 3)])
    assert batch.input_valid.shape == (2, 0)
    assert all(torch.isfinite(v).all() for v in make_model(config=EVERYTHING)(batch).values())
    assert packed(targets=[]).target_valid.shape == (4, 0)


MODEL = make_model(config=EVERYTHING)


def losses(batch):
    with torch.no_grad():
        costs = MODEL(batch)
    return [aggregate(costs, aggregation)[0].item() for aggregation in ("per_modality", "per_token")]


def widened(batch, inputs, targets, modality):
    """The batch with more padding, which names a modality."""
    fields = {}
    for names, count in (
        (("input_id", "input_modality", "input_position", "input_valid"), inputs),
        (("target_id", "target_modality", "target_position", "query_id", "target_valid"), targets),
    ):
        for name in names:
            value = getattr(batch, name)
            padding = torch.full((len(value), count), modality if name.endswith("modality") else 0).to(value.dtype)
            fields[name] = torch.cat([value, padding], 1)
    return replace(batch, **fields)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(INPUTS), unique=True),
    st.lists(st.sampled_from(TARGETS), unique=True, min_size=1),
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, len(FAMILY) - 1)),
)
def test_the_loss_does_not_depend_on_the_order_of_tokens_or_on_padding(inputs, targets, padding):
    expected = losses(packed(sorted(inputs), sorted(targets)))
    # the losses are float32 means of at most 30 terms; measured below 5e-7
    assert losses(widened(packed(inputs, targets), *padding)) == pytest.approx(expected, abs=2e-6)


WRONG = {
    "sample": ({"inputs": [(-1, 1, 0, 0)]}, "inputs: expected samples from 0"),
    "modality": ({"inputs": [(0, 10, 0, 0)]}, "modalities from 0 to 9"),
    "columns": ({"inputs": [(0, 1, 0)]}, r"inputs: expected integers \(n, 4\), got int64 \(1, 3\)"),
    "type": ({"targets": [(0, 1, 0, 0.5, 1)]}, r"targets: expected integers \(n, 5\), got float64"),
    "position of a grid": ({"inputs": [(0, 1, 12, 0)]}, "depth: expected a position from 0 to 11, got 12"),
    "negative position": ({"targets": [(0, 1, -1, -1, 0)]}, "depth: expected a position from 0 to 11, got -1"),
    "token": ({"inputs": [(0, 1, 0, 11)]}, "depth: expected a token id from 0 to 10, got 11"),
    "negative token": ({"inputs": [(0, 2, 0, -1)]}, "caption: expected a token id from 0 to 16, got -1"),
    "wrapped token": ({"inputs": [(0, 2, 0, 65535)]}, "caption: expected a token id from 0 to 16, got 65535"),
    "target": ({"targets": [(0, 3, 0, -1, 7)]}, "rgb@64: expected a target id from 0 to 6, got 7"),
    "query of a grid": ({"targets": [(0, 3, 0, 2, 1)]}, "rgb@64: expected a query id from -1 to -1, got 2"),
    "query of a sequence": ({"targets": [(0, 2, 0, -1, 1)]}, "caption: expected a query id from 0 to 16, got -1"),
    "no input": ({"inputs": [(0, 3, 0, 0)]}, "rgb@64 is not an input"),
    "no target": ({"targets": [(0, 0, 0, -1, 0)]}, "rgb_pixels is not a target"),
    "id of a patch": ({"inputs": [(0, 0, 0, 0)]}, "rgb_pixels: expected a token id from -1 to -1, got 0"),
    "learned positions": ({"inputs": [(0, 9, 4, 0)]}, "words: expected a position from 0 to 3, got 4"),
    "vector": ({"inputs": [(0, 7, 0, 4)]}, "t5: expected a vector from -2 to 3, got 4"),
    "vector at a position": ({"inputs": [(0, 7, 4, -1)]}, "t5: expected a vector from -2 to 3, got 4"),
    "pixels not given": ({"inputs": [(0, 0, 0, -1)], "pixels": {}}, "rgb_pixels has tokens, but its pixels are not"),
    "shape": ({"pixels": {"rgb_pixels": PIXELS[:, :, :3]}}, r"pixels of shape \(4, 3, 4, 6\), got \(4, 3, 3, 6\)"),
    "samples": ({"vectors": {"t5": VECTORS[:2]}}, r"vectors of shape \(4, 4, 3\), got \(2, 4, 3\)"),
    "unknown": ({"vectors": {"clap": VECTORS}, "inputs": []}, "clap: not a modality of the model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tokens_that_the_model_has_no_entry_for_are_refused(case):
    changes, message = WRONG[case]
    with pytest.raises(Open4MError, match=message):
        packed(**changes)


def test_an_unknown_modality_is_refused_with_the_nearest():
    with pytest.raises(Open4MError, match="did you mean depth"):
        pack(EVERYTHING, [(0, 0, 0, 0)], [], modalities=["dept"])
