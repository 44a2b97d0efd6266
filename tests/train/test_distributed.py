"""What is applied to a model from outside: activation checkpointing; two ranks compute what one process does."""

import copy
import dataclasses

import pytest
import torch
import torch.distributed as dist
from rank_processes import run_ranks
from safetensors.torch import load_file
from tiny_model import ALL_ROWS, EVERYTHING, FAMILIES, make_batch, make_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from open4m import ranks
from open4m.fourm import FourMBase
from open4m.model.fourm import FourMTransformer
from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import ResBlock, UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.rng import seeded
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE
from open4m.train import distributed, losses
from open4m.train.optim import OptimConfig, build

# ---- ranks
CONFIGS = {"kept": FAMILIES, "recomputed": EVERYTHING}
"""Models whose activations are kept, trained by the mean over modalities, and recomputed, by the mean over tokens."""
PARTS = (slice(0, 1), slice(1, 4))  # of the four rows of a batch: unequal, and the first lacks targets of no modality
CLIP = 0.5  # of gradients whose norm is larger


def part(batch, rows):
    """Some rows of a batch."""
    fields = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if torch.is_tensor(value):
            fields[field.name] = value[rows]
        elif isinstance(value, dict):
            fields[field.name] = {key: tensor[rows] for key, tensor in value.items()}
    return type(batch)(**fields).counted(len(FAMILIES.keys))


def steps(model, batch, name):
    """Three training steps (3, 3): parts of the loss, norms of the gradient, and those of the clipped gradient."""
    model.train().zero_grad(set_to_none=True)
    aggregation = {"kept": "per_modality", "recomputed": "per_token"}[name]
    optimizer = build(model, OptimConfig())
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.01
    found = []
    for _ in range(3):
        counts = dict(zip(model.config.keys, ranks.summed(batch.target_counts), strict=True))
        loss, _ = losses.aggregate(model(batch), aggregation, counts)
        loss.backward()
        norm = distributed.gradient_norm(model)
        distributed.clip_gradient(model, CLIP, norm)
        clipped = distributed.gradient_norm(model)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append(torch.stack([loss.detach(), norm, clipped]))
    return torch.stack(found)


def called(model, batch):
    """What a model and a block of it give when they are called besides ``forward``, and a gradient through that."""
    model.eval()
    context = model.context(batch)
    results = {
        "encode": model.encode(batch),
        "context": context,
        "decode": model.decode(context, batch),
        "keys": torch.cat(model.decoder[0].keys_values(context), -1),
        **{f"logits of {key}": values for key, values in model.target_logits(batch).items()},
    }
    results = {name: value.detach() for name, value in results.items()}
    sum(values.square().sum() for values in model.target_logits(batch).values()).backward()
    return {**results, "norm": distributed.gradient_norm(model)}


def run_rank(rank, root):
    """All that the two ranks do, and what they find."""
    mesh, found = dist.device_mesh.init_device_mesh("cpu", (2,)), {"rows": list(ranks.rows_of_rank(7))}
    batch = part(make_batch(ALL_ROWS), PARTS[rank])
    for name, config in CONFIGS.items():
        with torch.device("meta"):
            model = FourMTransformer(config).double()
        if name == "recomputed":
            distributed.checkpoint_activations(model)
        distributed.shard(model, mesh)
        state = None if rank else make_model(config=config).state_dict()
        distributed.materialize(model, "cpu", state)
        local = sum(p.to_local().numel() for p in model.parameters())
        found[name] = {
            "share": local / sum(p.numel() for p in model.parameters()),
            "called": called(model, batch),
            "steps": steps(model, batch, name),
        }
        whole = distributed.whole_model(model, lambda config=config: FourMTransformer(config).double())
        if whole is not None:
            FourMBase(whole, {}, None).save(root / name)
    return found


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two ranks found, and the folder in which the first saved its models."""
    root = tmp_path_factory.mktemp("ranks")
    return run_ranks(run_rank, 2, root), root


@pytest.mark.parametrize("name", CONFIGS)
def test_two_ranks_train_as_one_process_does(two_ranks, name):
    """In float64. Measured at worst: 4e-14 for losses and norms; 3e-11 for weights, since Adam divides by gradients."""
    found, root = two_ranks
    model = make_model(config=CONFIGS[name])
    expected = steps(model, part(make_batch(ALL_ROWS), slice(0, 4)), name)
    first, second = (one[name]["steps"] for one in found)
    torch.testing.assert_close(first[:, 0] + second[:, 0], expected[:, 0], rtol=0, atol=1e-12)
    for one in (first, second):
        torch.testing.assert_close(one[:, 1:], expected[:, 1:], rtol=0, atol=1e-12)
    assert (expected[:, 1] > CLIP).all()
    torch.testing.assert_close(expected[:, 2], torch.full((3,), CLIP, dtype=torch.float64), rtol=0, atol=1e-5)
    saved = load_file(root / name / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(saved[key], tensor, rtol=0, atol=1e-9)
    loaded = FourMBase.from_pretrained(root / name).model.state_dict()
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in saved.items())


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_called_besides_forward_is_gathered_too(two_ranks, name):
    """A row's results are its own; the gradient is that of all rows (measured: they differ by 3e-16 of it at most)."""
    found, _ = two_ranks
    whole = called(make_model(config=CONFIGS[name]), part(make_batch(ALL_ROWS), slice(0, 4)))
    for rank, rows in enumerate(PARTS):
        expected = called(make_model(config=CONFIGS[name]), part(make_batch(ALL_ROWS), rows))
        result = found[rank][name]["called"]
        assert result.keys() == expected.keys()
        for key, value in {**expected, "norm": whole["norm"]}.items():
            torch.testing.assert_close(result[key], value, rtol=1e-13, atol=1e-13)


def test_each_rank_holds_half_of_the_weights_and_makes_half_of_the_rows(two_ranks):
    found, _ = two_ranks
    assert [one["rows"] for one in found] == [[0, 1, 2], [3, 4, 5, 6]]
    for name in CONFIGS:
        shares = [one[name]["share"] for one in found]
        assert sum(shares) == pytest.approx(1)
        assert max(shares) < 0.6


def test_a_model_without_ranks_is_materialized_and_copied_as_it_is():
    built = FourMTransformer(EVERYTHING).initialize(seeded(0))
    with torch.device("meta"):
        model = FourMTransformer(EVERYTHING)
    distributed.materialize(model, "cpu", built.state_dict())
    copied = distributed.whole_model(built, lambda: FourMTransformer(EVERYTHING))
    for other in (model, copied):
        mine, theirs = (dict([*m.named_parameters(), *m.named_buffers()]) for m in (other, built))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


# ---- the device
@pytest.mark.parametrize("name", CONFIGS)
def test_no_pass_waits_for_the_device(name):
    """Fake tensors have no values: reading one, or a size that depends on them, is an error. All sizes come with the
    batch, so forward and backward pass only queue work."""
    batch, draw = part(make_batch(ALL_ROWS), slice(0, 4)), seeded(0)
    model = make_model(config=dataclasses.replace(CONFIGS[name], drop_path=0.5)).train()
    expected = {key: len(logits) for key, logits in model.target_logits(batch).items()}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch, model = fake(batch, mode), FourMTransformer(model.config)
        sum(cost.sum() for cost in model(batch, draw).values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert {key: len(logits) for key, logits in model.target_logits(batch).items()} == expected
        for wait in (torch.Tensor.tolist, torch.nonzero, lambda values: values[values > 1], lambda x: x[0].item()):
            with pytest.raises((RuntimeError, NotImplementedError)):
                wait(batch.target_id[0])


def fake(batch, mode):
    """The batch with fake tensors in place of its own."""
    fields = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if torch.is_tensor(value):
            fields[field.name] = mode.from_tensor(value)
        elif isinstance(value, dict):
            fields[field.name] = {key: mode.from_tensor(tensor) for key, tensor in value.items()}
        else:
            fields[field.name] = value
    return type(batch)(**fields)


# ---- activation checkpointing
class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def kept(model, x):
    """The gradients, and how many numbers were kept for the backward pass."""
    numbers = []

    def pack(tensor):
        numbers.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(x).square().sum()
    loss.backward()
    return [p.grad for p in model.parameters()], sum(numbers)


def test_gradients_stay_and_less_is_kept():
    torch.manual_seed(0)
    model, x = Blocks(), torch.randn(4, 8)
    other = copy.deepcopy(model)
    distributed.checkpoint_activations(other)
    again = copy.deepcopy(other)  # a copy computes with its own weights
    expected, whole = kept(model, x)
    for candidate in (other, again):
        found, part = kept(candidate, x)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert part < whole / 2
    assert list(other.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("kind", ["unet", "product"])
def test_tokenizers_are_recomputed_once_and_their_codebooks_not_at_all(kind, monkeypatch):
    """Nested lists of blocks, and quantizers in a list, whose forward pass changes them."""
    if kind == "unet":
        vit = ViTConfig(width=16, depth=1, heads=1)
        unet = UNetConfig(channels=32, multipliers=(1, 1), blocks=1, attention=1)
        config = TokenizerConfig.of(
            "rgb", image_size=32, codebook_size=8, encoder=vit, decoder=unet, diffusion=DiffusionConfig()
        )
        x = torch.randn(2, 3, 32, 32)
    else:
        mlp = MLPConfig(width=16, depth=2)
        config = TokenizerConfig.of(
            "dinov2_global", channels=12, codebook_size=4, codebooks=2, encoder=mlp, decoder=mlp
        )
        x = torch.randn(6, 12, 1, 1)
    calls, plain = [], ResBlock.forward
    monkeypatch.setattr(ResBlock, "forward", lambda self, *a: calls.append(self) or plain(self, *a))
    found = []
    for recomputed in (False, True):
        model = VQVAE(config, torch.Generator().manual_seed(0)).train()
        if recomputed:
            distributed.checkpoint_activations(model)
        calls.clear()
        model.loss(x, torch.Generator().manual_seed(1))[0].backward()
        found.append(([p.grad for p in model.parameters()], model.quantizer.state_dict(), len(calls)))
    (expected, codebook, once), (gradients, again, twice) = found
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(expected, gradients, strict=True))
    assert all(torch.equal(codebook[name], again[name]) for name in codebook)
    assert once <= twice <= 2 * once  # blocks within blocks are not computed a third time
