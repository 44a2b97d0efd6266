"""AdamW's groups and its step."""

from types import SimpleNamespace

import pytest
import torch
from tiny_model import EVERYTHING

from open4m.model.fourm import FourMTransformer
from open4m.train.optim import OptimConfig, build, rates
from open4m.types import Open4MError


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(5, 4)
        self.linear = torch.nn.Linear(4, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.convolution = torch.nn.Conv2d(4, 4, 2)
        self.larger = torch.nn.ConvTranspose2d(4, 4, 2)
        self.scale = torch.nn.Parameter(torch.ones(4))
        self.tokens = torch.nn.Parameter(torch.ones(3, 4))
        self.frozen = torch.nn.Linear(4, 4).requires_grad_(False)


def test_only_matrices_decay_and_frozen_weights_are_left_alone():
    model = Model()
    optimizer = build(model, OptimConfig(weight_decay=0.3, betas=(0.8, 0.9)))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    named = {name: decay.get(id(p)) for name, p in model.named_parameters()}
    assert named == {
        "table.weight": 0.0,
        "linear.weight": 0.3,
        "linear.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "convolution.weight": 0.3,
        "convolution.bias": 0.0,
        "larger.weight": 0.3,
        "larger.bias": 0.0,
        "scale": 0.0,
        "tokens": 0.0,
        "frozen.weight": None,
        "frozen.bias": None,
    }
    assert all(g["betas"] == (0.8, 0.9) for g in optimizer.param_groups)


def test_of_a_models_embeddings_only_projections_decay():
    """Not its tables, registers and learned positions; of its blocks all matrices do."""
    model = FourMTransformer(EVERYTHING)
    decayed = {id(p) for g in build(model, OptimConfig()).param_groups if g["weight_decay"] for p in g["params"]}
    found = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert {name for name in found if name.startswith("embeddings.")} == {
        "embeddings.patches.rgb_pixels.weight",
        "embeddings.vectors.t5.weight",
    }
    blocks = {name: p for name, p in model.named_parameters() if not name.startswith("embeddings.")}
    assert all((name in found) == (p.ndim == 2) for name, p in blocks.items())


def test_a_step_is_adamws_formula():
    """From the definition: decoupled decay, bias-corrected moments, ε outside the root."""
    model = torch.nn.Linear(3, 2).double()
    start, decay, lr, (b1, b2) = model.weight.detach().clone(), 0.1, 0.01, (0.9, 0.95)
    optimizer = build(model, OptimConfig(weight_decay=decay, betas=(b1, b2)))
    weight, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for t in range(1, 4):
        gradient = torch.sin(torch.arange(6.0).double() * t).view(2, 3)
        model.weight.grad, model.bias.grad = gradient.clone(), torch.zeros(2).double()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        weight = weight * (1 - lr * decay)
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        weight = weight - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + 1e-8)
    torch.testing.assert_close(model.weight.detach(), weight, rtol=1e-10, atol=1e-12)


class Layered(torch.nn.Module):
    """Says how deep its weights lie: embeddings, two blocks, a head."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.ones(3))
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
        self.head = torch.nn.Linear(2, 2)

    def depth_of(self, name):
        part, *rest = name.split(".")
        return {"table": 0, "head": 3}.get(part) if part != "blocks" else int(rest[0]) + 1


def test_rates_fall_with_depth_and_with_nothing_else():
    model = Layered()
    config = OptimConfig(base_lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    groups = build(model, config, 512).param_groups
    peaks = {id(p): (g["peak"], g["weight_decay"]) for g in groups for p in g["params"]}
    found = {name: peaks[id(p)] for name, p in model.named_parameters()}
    assert found == {
        "table": (2e-3 / 8, 0.0),
        "blocks.0.weight": (2e-3 / 4, 0.1),
        "blocks.0.bias": (2e-3 / 4, 0.0),
        "blocks.1.weight": (2e-3 / 2, 0.1),
        "blocks.1.bias": (2e-3 / 2, 0.0),
        "head.weight": (2e-3, 0.1),
        "head.bias": (2e-3, 0.0),
    }
    for group in groups:
        group["lr"] = group["peak"]
    assert rates(SimpleNamespace(param_groups=groups)) == {"lr": 2e-3}


def test_frozen_weights_are_in_no_group_of_any_depth():
    model = Layered()
    model.blocks[0].requires_grad_(False)
    groups = build(model, OptimConfig(layer_decay=0.5)).param_groups
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_rate_may_be_absolute():
    assert OptimConfig(lr=1e-4).peak(64) == OptimConfig(lr=1e-4).peak(4096) == 1e-4
    assert OptimConfig(base_lr=1e-4).peak(64) == 1e-4 / 4


@pytest.mark.parametrize("config", [OptimConfig(layer_decay=0.5, muon_lr=1e-2), OptimConfig(layer_decay=0.5)])
def test_depth_without_a_model_that_has_it_is_refused(config):
    model = Layered() if config.muon_lr else torch.nn.Linear(2, 2)
    with pytest.raises(Open4MError, match="layer_decay: is for transfers"):
        build(model, config)
