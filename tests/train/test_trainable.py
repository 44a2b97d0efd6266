"""Which weights are trained: blocks, embeddings of some modalities, norms, low-rank adapters."""

from dataclasses import replace

import pytest
import torch
from tiny_model import ALL_ROWS, CONFIG, EVERYTHING, make_batch, make_model

from open4m.nn.adapters import is_plain
from open4m.rng import seeded
from open4m.train import optim
from open4m.train.optim import OptimConfig
from open4m.train.trainable import LoRA, Trainable, plain, restrict
from open4m.types import Open4MError

FROZEN = {"embeddings": (), "encoder": 0, "decoder": 0}


def restricted(chosen, config=EVERYTHING):
    model = make_model(config=config)
    restrict(model, chosen, seeded(0))
    return model


def trained(model, steps=2, muon_lr=None):
    """The names of the weights that training changes, of an ordinary model."""
    before = {name: tensor.clone() for name, tensor in plain(model).state_dict().items()}
    optimizer = optim.build(model, OptimConfig(base_lr=1e-2, muon_lr=muon_lr))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    for _ in range(steps):
        torch.cat([*model(make_batch(ALL_ROWS)).values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, tensor in plain(model).state_dict().items() if not torch.equal(tensor, before[name])}


def test_by_default_everything_is_trained():
    model = restricted(Trainable())
    assert is_plain(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert plain(model) is model


def test_the_last_blocks_with_the_norm_behind_them():
    names = trained(restricted(Trainable(embeddings=(), encoder=1, decoder=0), replace(EVERYTHING, encoder_depth=3)))
    assert {name.split(".")[0] for name in names} == {"encoder", "encoder_norm"}
    assert {name.split(".")[1] for name in names if name.startswith("encoder.")} == {"2"}


def test_the_decoder_alone_has_the_projection_before_it():
    names = trained(restricted(Trainable(embeddings=(), encoder=0)))
    assert {name.split(".")[0] for name in names} == {"decoder", "decoder_norm", "context_proj"}


def test_norms_of_frozen_blocks():
    names = trained(restricted(Trainable(**FROZEN, norms=True)))
    assert names
    assert all("norm" in name for name in names)
    assert {"encoder.0.norm1.weight", "decoder.0.context_norm.weight", "encoder_norm.weight"} <= names


@pytest.mark.parametrize("key", EVERYTHING.keys)
def test_the_embeddings_of_one_modality_and_nothing_else(key):
    """Every other row of the tables, and all else, keeps its bits."""
    model = restricted(Trainable(embeddings=(key,), encoder=0, decoder=0))
    before = plain(model)
    others = {k: {n: t.clone() for n, t in before.embeddings.of(k).items()} for k in model.config.keys}
    names = trained(model)
    assert names
    assert all(name.startswith("embeddings.") for name in names)
    assert not names & {"embeddings.mask_token", "embeddings.registers"}
    after = plain(model)
    for other in model.config.keys:
        changed = [n for n, t in after.embeddings.of(other).items() if not torch.equal(t, others[other][n])]
        if other != key:
            assert not changed
        else:
            spec = model.config.spec(key)
            expected = {"modality"} | ({"inputs"} if spec.is_input and spec.has_vocabulary else set())
            assert expected | ({"outputs"} if spec.is_target else set()) <= {*changed}


@pytest.mark.parametrize("muon_lr", [None, 1e-2])
def test_adapters_train_the_matrices_of_blocks_and_merge_exactly(muon_lr):
    model = restricted(Trainable(**FROZEN, lora=LoRA(rank=2, layers=("qkv", "kv", "gate_up"))))
    originals = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all(".weight.0.up." in n or ".weight.0.down." in n for n in trainable)
    names = trained(model, muon_lr=muon_lr)
    assert {name.rsplit(".", 2)[1] for name in names} == {"qkv", "kv", "gate_up"}
    assert all(torch.equal(p, originals[n]) for n, p in model.named_parameters() if n in originals)
    batch, merged = make_batch(ALL_ROWS), plain(model)
    assert is_plain(merged)
    assert merged.state_dict().keys() == make_model(config=EVERYTHING).state_dict().keys()
    for key, cost in model(batch).items():
        assert torch.equal(cost, merged(batch)[key])


def test_muon_takes_the_parts_of_adapters_of_fused_layers():
    model = restricted(Trainable(**FROZEN, lora=LoRA(rank=2, layers=("qkv",))))
    muon = next(g for g in optim.build(model, OptimConfig(muon_lr=1e-2)).param_groups if g["muon"])
    names = {id(p): n for n, p in model.named_parameters()}
    assert {(names[id(p)].split(".")[-2], parts) for p, parts in zip(muon["params"], muon["parts"], strict=True)} == {
        ("down", 1),
        ("up", 3),
    }


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Trainable(**FROZEN), "nothing is left to train"),
        (Trainable(encoder=3), "trainable.encoder: expected at most 2 blocks, got 3"),
        (Trainable(embeddings=("dept",)), "did you mean depth"),
        (Trainable(lora=LoRA(rank=1)), "none is frozen"),
        (Trainable(encoder=0, lora=LoRA(rank=1, layers=("qkw",))), "no qkw in the blocks .layers: qkv, proj"),
    ],
)
def test_what_cannot_be_trained_is_an_error(chosen, message):
    with pytest.raises(Open4MError, match=message):
        restricted(chosen, CONFIG)
