"""The GPU paths, where there is a GPU: the same numbers as on the CPU, training in bf16, sharding, generation."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.distributed as dist
from line_task import CONFIG, LineTask, metrics
from tiny_model import ALL_ROWS, EVERYTHING, FAMILIES, make_batch, make_model

import open4m
from open4m.datasets.scenes import Scenes
from open4m.model.fourm import FourMTransformer
from open4m.train import distributed, losses
from open4m.train.loop import train
from open4m.train.muon import orthogonalized
from open4m.train.optim import OptimConfig, build

pytestmark = [
    pytest.mark.xdist_group("cuda"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

CONFIGS = {"families": FAMILIES, "everything": EVERYTHING}


def single(batch):
    """The same batch, whose pixels and vectors are float32."""
    parts = {name: {k: v.float() for k, v in getattr(batch, name).items()} for name in ("pixels", "vectors")}
    return dataclasses.replace(batch, **parts)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_gradients_are_those_of_the_cpu(name):
    models = {device: make_model(config=CONFIGS[name]).to(device) for device in ("cpu", "cuda")}
    batch = make_batch(ALL_ROWS)
    costs = {device: model(batch.to(device)) for device, model in models.items()}
    for key, cost in costs["cpu"].items():
        torch.testing.assert_close(costs["cuda"][key].cpu(), cost, rtol=0, atol=1e-9)
    for parts in costs.values():
        losses.aggregate(parts)[0].backward()
    there = dict(models["cuda"].named_parameters())
    for key, weight in models["cpu"].named_parameters():
        torch.testing.assert_close(there[key].grad.cpu(), weight.grad, rtol=0, atol=1e-9)


def test_bf16_loses_little():
    model, batch = make_model(config=FAMILIES).float().cuda(), single(make_batch(ALL_ROWS)).to("cuda")
    exact, _ = losses.aggregate(model(batch))
    with torch.autocast("cuda", torch.bfloat16):
        loss, _ = losses.aggregate(model(batch))
    loss.backward()
    assert abs(float((loss - exact).detach())) < 0.02 * float(exact.detach())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_orthogonalized_matrices_are_those_of_the_cpu():
    """On a GPU the products are in bf16, whose 8 bits are what the singular values need."""
    x = torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0))
    difference = orthogonalized(x.cuda()).cpu() - orthogonalized(x)
    assert difference.abs().max() < 0.05


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_is_stopped_and_resumed(tmp_path, precision):
    config = dataclasses.replace(CONFIG, precision=precision)
    train(LineTask(), config, tmp_path / "run", LineTask().build_model().cuda(), stop_at=10)
    model = train(LineTask(), config, tmp_path / "run", LineTask().build_model().cuda())
    assert next(model.parameters()).is_cuda
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == list(range(1, 24))


def test_a_sharded_model_trains_as_a_whole_one(tmp_path):
    """FSDP2 over NCCL, on one rank: blocks are gathered and freed all the same."""
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        mesh, whole = dist.device_mesh.init_device_mesh("cuda", (1,)), make_model(config=FAMILIES).float().cuda()
        with torch.device("meta"):
            model = FourMTransformer(whole.config)
        distributed.checkpoint_activations(model)
        distributed.shard(model, mesh)
        distributed.materialize(model, "cuda", whole.state_dict())
        batch = single(make_batch(ALL_ROWS)).to("cuda")
        found = {"whole": [], "sharded": []}
        for name, network in (("whole", whole), ("sharded", model)):
            optimizer = build(network, OptimConfig(muon_lr=None))
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            for _ in range(3):
                loss, _ = losses.aggregate(network(batch))
                loss.backward()
                found[name] += [float(loss.detach()), float(distributed.gradient_norm(network))]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        np.testing.assert_allclose(found["sharded"], found["whole"], rtol=1e-3)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def image():
    return Scenes("test").samples([0])[0]["rgb"]


def test_what_is_likeliest_is_that_of_the_cpu(image):
    """At temperature 0 every token is the most probable one; of two nearly equal ones either may be."""
    found = {}
    for device in ("cpu", "cuda"):
        model = open4m.FourM.from_pretrained("scenes", device=device)
        found[device] = model.generate({"rgb": image}, ["depth", "semseg", "caption"], temperature=0.0, seed=1)
    same = [np.mean(found["cpu"].tokens[key] == found["cuda"].tokens[key]) for key in ("depth", "semseg")]
    assert min(same) > 0.9
    assert found["cpu"]["caption"].split()[:3] == found["cuda"]["caption"].split()[:3]


def test_images_come_from_captions_in_bf16():
    model = open4m.FourM.from_pretrained("scenes").to("cuda", torch.bfloat16)
    result = model.generate({"caption": "a red ball on the left of a blue cone"}, ["rgb"], seed=1)
    assert result["rgb"].dtype == np.uint8
    assert result["rgb"].std() > 10
