"""What a training will need: compared with the model itself, and with what automatic differentiation really keeps."""

import dataclasses
from functools import partial

import pytest
import torch
from tiny_model import FAMILIES, make_model

from open4m.config import Duration
from open4m.configs import fourm
from open4m.configs.fourm import any_to_any
from open4m.masking.config import MaskingConfig
from open4m.model.fourm import FourMTransformer
from open4m.train import losses
from open4m.train.config import TrainConfig
from open4m.train.estimate import duration, estimate, random_batch
from open4m.train.optim import OptimConfig
from open4m.train.trainable import LoRA, Trainable, restrict
from open4m.types import Open4MError

KEYS = FAMILIES.keys
TARGETS = FAMILIES.targets
MASKING = MaskingConfig(input_budget=12, target_budget=10, strategies=(any_to_any("all", FAMILIES.inputs, TARGETS),))
TRAIN = TrainConfig(length=Duration(30, "steps"), batch_size=16, precision="fp32")


def varied(**fields):
    return dataclasses.replace(TRAIN, **fields)


def really_kept(batch):
    """Bytes of the tensors that a real forward pass keeps, weights and batch aside."""
    model = FourMTransformer(FAMILIES).initialize(torch.Generator().manual_seed(0))
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    held = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        costs = model(batch)
        loss, _ = losses.aggregate(costs)
    assert torch.isfinite(loss)
    return sum(size for size, _ in held.values())


def test_parameters_are_those_of_the_model():
    found = estimate(FAMILIES, MASKING, TRAIN)
    model = make_model(config=FAMILIES)
    assert sum(found.parameters.values()) == found.trainable == sum(p.numel() for p in model.parameters())
    assert found.parameters["embeddings"] == sum(p.numel() for p in model.embeddings.parameters())
    assert (found.memory.weights, found.memory.gradients) == (4 * found.trainable, 4 * found.trainable)
    assert found.memory.optimizer == 8 * found.trainable


def test_activations_are_what_a_real_pass_keeps():
    """Within 10%: of other tokens, so that the lengths of sequences differ."""
    batch = random_batch(FAMILIES, MASKING, 16, seed=3)
    kept = really_kept(batch)
    logits = sum(4 * n * s.vocab_size for n, s in zip(batch.target_counts, FAMILIES.modalities, strict=True))
    assert estimate(FAMILIES, MASKING, TRAIN).memory.activations == pytest.approx(kept + logits, rel=0.1)


def test_an_estimate_leaves_no_trace():
    """The fixed positions are cached; those of a model without memory must not be."""
    before = FourMTransformer(FAMILIES).embeddings.positions.clone()
    estimate(dataclasses.replace(FAMILIES, position_temperature=321.0), MASKING, TRAIN)
    own = FourMTransformer(dataclasses.replace(FAMILIES, position_temperature=321.0)).embeddings.positions
    assert type(own) is torch.Tensor
    assert torch.isfinite(own).all()
    assert torch.equal(FourMTransformer(FAMILIES).embeddings.positions, before)


def test_recomputing_and_smaller_parts_keep_less():
    def kept(**fields):
        return estimate(deep, MASKING, varied(**fields)).memory.activations

    deep = dataclasses.replace(FAMILIES, encoder_depth=6, decoder_depth=6)
    assert kept(activation_checkpointing=True) < kept(activation_checkpointing="selective") < kept()
    assert kept(micro_batch_size=8) == pytest.approx(kept() / 2, rel=0.1)
    assert kept(precision="bf16") < kept()
    parts = estimate(FAMILIES, MASKING, varied(micro_batch_size=4), ranks=2)
    assert (parts.rows, parts.rows_at_once) == (8, 4)


def test_sharding_divides_what_it_shards():
    alone = estimate(FAMILIES, MASKING, TRAIN, ranks=4).memory
    assert alone.gathered == 0
    assert alone.weights == estimate(FAMILIES, MASKING, TRAIN).memory.weights
    two, three = (estimate(FAMILIES, MASKING, varied(sharding=kind), ranks=4).memory for kind in ("zero2", "zero3"))
    assert two.weights == three.weights == alone.weights / 4
    assert two.optimizer == three.optimizer == alone.optimizer / 4
    assert 0 < three.gathered <= two.gathered <= alone.weights
    pairs = estimate(FAMILIES, MASKING, varied(sharding="zero3", shards=2), ranks=4).memory
    assert pairs.weights == alone.weights / 2


def test_muon_has_one_moment_of_the_matrices_of_blocks():
    adamw = estimate(FAMILIES, MASKING, TRAIN).memory.optimizer
    muon = estimate(FAMILIES, MASKING, varied(optim=OptimConfig(muon_lr=0.02))).memory.optimizer
    model = make_model(config=FAMILIES)
    blocks = [*model.encoder.parameters(), *model.decoder.parameters()]
    assert adamw - muon == 4 * sum(p.numel() for p in blocks if p.ndim == 2)


def test_what_is_frozen_has_neither_gradient_nor_moments():
    found = estimate(FAMILIES, MASKING, TRAIN, restrict=lambda model: model.encoder.requires_grad_(False))
    encoder = sum(p.numel() for p in make_model(config=FAMILIES).encoder.parameters())
    assert sum(found.parameters.values()) - found.trainable == encoder
    assert found.memory.gradients == 4 * found.trainable


PARTS = {
    "lora": Trainable(encoder=0, decoder=0, lora=LoRA(rank=4)),
    "one modality": Trainable(embeddings=("depth",), encoder=0, decoder=1),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_trained_is_that_of_a_real_model(name):
    chosen = partial(restrict, chosen=PARTS[name], generator=torch.Generator().manual_seed(0))
    found = estimate(FAMILIES, MASKING, varied(ema=0.99), restrict=chosen)
    chosen(model := make_model(config=FAMILIES))
    assert found.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.memory.average == 4 * found.trainable


def test_averages_of_either_kind_take_memory():
    ema, tail = (
        estimate(FAMILIES, MASKING, varied(**kind)).memory.average
        for kind in ({"ema": 0.99}, {"tail_average": Duration(5, "steps")})
    )
    assert ema == tail == estimate(FAMILIES, MASKING, TRAIN).memory.weights


def test_time_is_work_over_speed():
    found = estimate(FAMILIES, MASKING, TRAIN, ranks=2)
    assert found.seconds(1e9, 0.5) == pytest.approx(30 * found.flops_per_step / 1e9)
    again = estimate(FAMILIES, MASKING, varied(activation_checkpointing=True), ranks=2)
    assert again.seconds(1e9, 0.5) == pytest.approx(found.seconds(1e9, 0.5) * 4 / 3)
    assert found.tokens == found.tokens_per_step * 30
    assert 16 * 12 < found.tokens_per_step <= 16 * 22
    assert [duration(s) for s in (3, 200, 2e4, 1e6)] == ["3.0 seconds", "3.3 minutes", "5.6 hours", "11.6 days"]


def test_more_ranks_than_samples_are_refused():
    with pytest.raises(Open4MError, match="ranks: expected 1 to 16"):
        estimate(FAMILIES, MASKING, TRAIN, ranks=17)


def test_sizes_that_are_assumed_are_those_of_the_paper():
    config = fourm.pretraining("Ti")
    assert fourm.assumed_specs(config) == tuple(
        dataclasses.replace(spec, is_input=True, is_target=spec.has_vocabulary) for spec in fourm.specs_4m7()
    )
    fine = {spec.key: spec for spec in fourm.assumed_specs(fourm.super_resolution("L"))}
    assert (fine["rgb@448"].grid, fine["rgb@448"].vocab_size) == ((28, 28), 16384)
    every = {spec.key: spec for spec in fourm.assumed_specs(fourm.pretraining_21("B"))}
    assert (every["t5_caption"].family, every["dinov2_global"].length) == ("vectors", 16)
