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


def test_each_modality_counts_the_same_whatever_its_tokens_and_vocabulary():
    batch = batch_of(MODALITY, VALID, IDS)
    logits = logits_of(batch)
    loss, parts = cross_entropy(logits, batch, CONFIG)
    expected = {}
    for index, key in ((1, "depth"), (2, "caption")):
        answers = [IDS[r][c] for r in range(3) for c in range(4) if VALID[r][c] and MODALITY[r][c] == index]
        each = [math.log(sum(math.exp(v) for v in row)) - row[a] for row, a in
                zip(logits[key].tolist(), answers, strict=True)]  # fmt: skip
        expected[key] = sum(each) / len(each)
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


def test_a_batch_without_any_target_costs_nothing_and_has_gradients():
    batch = batch_of(MODALITY, [[0] * 4] * 3, IDS)
    logits = logits_of(batch)
    loss, _ = cross_entropy(logits, batch, CONFIG)
    assert loss.item() == 0
    loss.backward()
