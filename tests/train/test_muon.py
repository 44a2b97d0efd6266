"""Muon against explicit computations: singular values, fused layers one by one, AdamW for the rest."""

import functools

import pytest
import torch
from rank_processes import run_ranks
from tiny_model import EVERYTHING
from torch.distributed.tensor import DTensor

from open4m.model.fourm import FourMTransformer
from open4m.train import distributed
from open4m.train.muon import MuonAdamW, orthogonalized
from open4m.train.optim import OptimConfig, build


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 24, 8), (2, 8, 24)])
def test_singular_values_become_about_one_and_singular_vectors_stay(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(x))
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    inner = u.mT @ orthogonalized(x) @ v.mT  # diagonal in the bases of x itself
    assert (inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-4


def test_a_step_is_nesterovs_momentum_orthogonalized_part_by_part():
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(6, 2, generator=generator))
    start = weight.detach().clone()
    optimizer = MuonAdamW(
        [{"params": [weight], "muon": True, "parts": [3], "weight_decay": 0.1, "lr": 0.5}], betas=(0.9, 0.95)
    )
    average, expected = torch.zeros_like(start), start
    for _ in range(3):
        weight.grad = torch.randn(6, 2, generator=generator)
        average = 0.95 * average + 0.05 * weight.grad
        update = 0.05 * weight.grad + 0.95 * average
        moved = torch.cat([orthogonalized(part[None])[0] for part in update.chunk(3)])
        expected = expected * (1 - 0.5 * 0.1) - 0.5 * moved  # 2 rows, 2 columns: a scale of 1
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


def test_a_tall_matrix_moves_further():
    weights = [torch.nn.Parameter(torch.zeros(rows, 4)) for rows in (4, 16)]
    optimizer = MuonAdamW([{"params": weights, "muon": True, "parts": [1, 1], "lr": 1.0}], betas=(0.9, 0.95))
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    small, tall = (torch.linalg.matrix_norm(weight.detach(), 2) for weight in weights)
    assert 1.5 < tall / small < 2.7  # √(16/4) times, up to how closely singular values come to 1


def test_matrices_of_blocks_have_muon_and_all_else_is_as_with_adamw():
    model = FourMTransformer(EVERYTHING).initialize(torch.Generator().manual_seed(0))
    optimizer = build(model, OptimConfig(muon_lr=0.02, base_lr=1e-3), batch_size=128)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, decayed, plain = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert all(name.startswith(("encoder.", "decoder.")) for name in muon)
    assert {n for n, p in model.named_parameters() if n.startswith(("encoder.", "decoder.")) and p.ndim == 2} == muon
    assert "context_proj.weight" in decayed
    assert "embeddings.inputs.weight" in plain
    assert [group["peak"] for group in optimizer.param_groups] == [0.02, 5e-4, 5e-4]
    parts = dict(
        zip(
            (names[id(p)] for p in optimizer.param_groups[0]["params"]), optimizer.param_groups[0]["parts"], strict=True
        )
    )
    assert parts["encoder.0.attention.qkv.weight"] == 3
    assert parts["decoder.0.cross_attention.kv.weight"] == 2
    assert parts["encoder.0.mlp.down.weight"] == 1

    twin = torch.nn.Parameter(model.embeddings.mask_token.detach().clone())
    plainly = torch.optim.AdamW([twin], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    for step in range(3):
        gradient = torch.randn(twin.shape, generator=torch.Generator().manual_seed(step))
        twin.grad, model.embeddings.mask_token.grad = gradient.clone(), gradient.clone()
        plainly.step()
        optimizer.step()
    torch.testing.assert_close(model.embeddings.mask_token, twin)


def test_iterations_are_those_of_the_configuration():
    moved = []
    for iterations in (1, 5):
        config = OptimConfig(muon_lr=0.02, muon_iterations=iterations)
        optimizer = build(FourMTransformer(EVERYTHING).initialize(torch.Generator().manual_seed(0)), config)
        group = optimizer.param_groups[0]
        group["lr"] = 1.0
        weight = next(p for p in group["params"] if p.shape[0] == p.shape[1])
        before = weight.detach().clone()
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        moved.append(torch.linalg.svdvals(before * (1 - group["weight_decay"]) - weight.detach()))
    assert moved[0].min() < 0.3  # hardly orthogonal yet
    assert moved[1].max() < 1.3


def test_products_have_the_precision_of_the_configuration():
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    exact, reduced = orthogonalized(x, precision="fp32"), orthogonalized(x, precision="bf16")
    assert torch.equal(orthogonalized(x), exact)  # on a CPU
    assert reduced.dtype == torch.float32
    assert 1e-4 < (exact - reduced).norm() / exact.norm() < 0.05


def update(rank, root, *, ways):
    """The weights of a model after three steps of Muon: sharded or whole, on this and other ranks."""
    found = {}
    for way in ways:
        model = FourMTransformer(EVERYTHING).initialize(torch.Generator().manual_seed(0))
        if way != "none":
            shards = 2 if way == "hybrid" else None
            distributed.shard(model, distributed.mesh_of(torch.device("cpu"), shards))
        optimizer = build(model, OptimConfig(muon_lr=0.02, muon_precision="fp32"))
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        for step in range(3):
            draw = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                gradient = torch.randn(parameter.shape, generator=draw)
                own = distributed.own_part(gradient, parameter).clone()
                is_whole = not hasattr(parameter, "to_local")
                parameter.grad = (
                    own
                    if is_whole
                    else DTensor.from_local(
                        own,
                        parameter.device_mesh,
                        parameter.placements,
                        shape=parameter.shape,
                        stride=parameter.stride(),
                    )
                )
            optimizer.step()
        found[way] = {name: tensor.clone() for name, tensor in distributed.whole_state(model).items()}
    return found


def test_the_update_of_a_sharded_model_is_that_of_the_whole_one(tmp_path):
    expected = update(0, tmp_path, ways=["none"])["none"]
    action = functools.partial(update, ways=["none", "zero3", "hybrid"])
    action.__name__ = "update"
    for found in run_ranks(action, 4, tmp_path):
        for state in found.values():
            for name, tensor in state.items():
                torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)
