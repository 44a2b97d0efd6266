"""The loss against cross-entropy computed by hand, query by query."""

import math

import pytest
import torch

from open4m.losses import cross_entropy
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.types import MaskedBatch

CONFIG = FourMConfig(
    modalities=(
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
        ModalitySpec(key="depth", family="grid", vocab_size=5, grid=(2, 2)),
        ModalitySpec(key="caption", family="sequence", vocab_size=9, max_length=4),
        ModalitySpec(key="clip", family="grid", vocab_size=3, grid=(2, 2)),
    ),
    dim=16, encoder_depth=1, decoder_depth=1, heads=2,
)  # fmt: skip


def batch_of(modality, valid, ids):
    modality, valid, ids = (torch.tensor(x) for x in (modality, valid, ids))
    nothing = torch.zeros_like(ids)
    return MaskedBatch(
        input_id=nothing, input_modality=nothing, input_position=nothing, input_valid=nothing.bool(), target_id=ids,
        target_modality=modality, target_position=nothing, query_id=nothing, target_valid=valid.bool(),
    )  # fmt: skip


MODALITY = [[1, 1, 2, 0], [2, 1, 0, 0], [2, 2, 2, 2]]
VALID = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
IDS = [[0, 4, 8, 0], [1, 2, 0, 0], [3, 3, 0, 7]]


def logits_of(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = [(batch.target_valid & (batch.target_modality == m)).sum() for m in range(4)]
    return {
        s.key: torch.randn(int(counts[i]), s.vocab_size, generator=generator).requires_grad_()
        for i, s in enumerate(CONFIG.modalities) if s.is_target
    }  # fmt: skip


def each(logits):
    """{modality: the cross-entropy of each of its targets}, by hand."""
    found = {}
    for key, rows in logits.items():
        index = CONFIG.index(key)
        answers = [IDS[r][c] for r in range(3) for c in range(4) if VALID[r][c] and MODALITY[r][c] == index]
        found[key] = [
            math.log(sum(math.exp(v) for v in row)) - row[a] for row, a in zip(rows.tolist(), answers, strict=True)
        ]
    return found


def test_each_modality_counts_the_same_whatever_its_tokens_and_vocabulary():
    batch = batch_of(MODALITY, VALID, IDS)
    logits = logits_of(batch)
    loss, parts = cross_entropy(logits, batch, CONFIG)
    expected = {key: sum(costs) / len(costs) for key, costs in each(logits).items() if costs}
    assert list(parts) == ["depth", "caption", "clip"]
    assert parts["depth"].item() == pytest.approx(expected["depth"], rel=1e-6)
    assert parts["caption"].item() == pytest.approx(expected["caption"], rel=1e-6)
    assert parts["clip"].item() == 0  # it has no target here, and still takes its third
    assert loss.item() == pytest.approx((expected["depth"] + expected["caption"]) / 3, rel=1e-6)
    loss.backward()
    assert logits["clip"].grad.shape == (0, 3)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    batch = batch_of([[1, 2, 3]], [[1, 1, 1]], [[4, 8, 0]])
    logits = {k: torch.zeros_like(v) for k, v in logits_of(batch).items()}
    _, parts = cross_entropy(logits, batch, CONFIG)
    assert {k: round(v.item(), 6) for k, v in parts.items()} == {
        "depth": round(math.log(5), 6), "caption": round(math.log(9), 6), "clip": round(math.log(3), 6),
    }  # fmt: skip


def test_padding_does_not_count_and_low_precision_is_widened():
    batch = batch_of(MODALITY, VALID, IDS)
    logits = logits_of(batch)
    loss, _ = cross_entropy(logits, batch, CONFIG)
    batch.target_id[~batch.target_valid] = 1
    batch.target_modality[~batch.target_valid] = 2
    assert cross_entropy(logits, batch, CONFIG)[0].item() == loss.item()
    assert cross_entropy({k: v.bfloat16() for k, v in logits.items()}, batch, CONFIG)[0].dtype == torch.float32


@pytest.mark.parametrize("aggregation", ["per_modality", "per_token"])
def test_a_batch_without_any_target_costs_nothing_and_has_gradients(aggregation):
    batch = batch_of(MODALITY, [[0] * 4] * 3, IDS)
    logits = logits_of(batch)
    loss, _ = cross_entropy(logits, batch, CONFIG, aggregation)
    assert loss.item() == 0
    loss.backward()


def test_per_token_every_target_counts_the_same_whatever_its_modality():
    batch = batch_of(MODALITY, VALID, IDS)
    logits = logits_of(batch)
    loss, parts = cross_entropy(logits, batch, CONFIG, "per_token")
    costs = [cost for of_modality in each(logits).values() for cost in of_modality]
    assert len(costs) == 9
    assert loss.item() == pytest.approx(sum(costs) / 9, rel=1e-6)
    assert {k: v.item() for k, v in parts.items()} == {
        k: v.item() for k, v in cross_entropy(logits, batch, CONFIG)[1].items()
    }
    loss.backward()
    for key, values in logits.items():  # the slope of the answer's logit is (its probability - 1) / 9
        answers = batch.target_id[batch.target_valid & (batch.target_modality == CONFIG.index(key))]
        probability = values.detach().softmax(-1)
        slopes = (probability - torch.nn.functional.one_hot(answers, values.shape[1])) / 9
        torch.testing.assert_close(values.grad, slopes)


@pytest.mark.parametrize("aggregation", ["per_modality", "per_token"])
def test_entries_that_cannot_be_change_nothing(aggregation):
    """The size of a vocabulary weighs nothing: entries that have no chance are as if they were not there."""
    batch = batch_of(MODALITY, VALID, IDS)
    logits = logits_of(batch)
    wider = {key: torch.nn.functional.pad(v, (0, 50), value=-1e4) for key, v in logits.items()}
    expected = cross_entropy(logits, batch, CONFIG, aggregation)[0].item()
    assert cross_entropy(wider, batch, CONFIG, aggregation)[0].item() == pytest.approx(expected, rel=1e-6)


def test_the_two_ways_to_weigh_differ_where_modalities_have_unequal_numbers_of_targets():
    batch = batch_of([[1, 1, 1, 2]], [[1] * 4], [[0, 0, 0, 0]])
    logits = {"depth": torch.zeros(3, 5), "caption": torch.zeros(1, 9), "clip": torch.zeros(0, 3)}
    costs = math.log(5), math.log(9)
    assert cross_entropy(logits, batch, CONFIG)[0].item() == pytest.approx(sum(costs) / 3)
    assert cross_entropy(logits, batch, CONFIG, "per_token")[0].item() == pytest.approx((3 * costs[0] + costs[1]) / 4)


def test_the_callers_logits_are_left_as_they_are():
    batch = batch_of(MODALITY, VALID, IDS)
    logits = {key: value.detach() for key, value in logits_of(batch).items()}
    before = {key: value.clone() for key, value in logits.items()}
    cross_entropy(logits, batch, CONFIG, "per_token")
    assert all(torch.equal(logits[key], before[key]) for key in before)
