import math

import pytest
import torch
import torch.nn.functional as F

from open4m.nn.mlp import BottleneckMLP, MLPConfig
from open4m.tokenizers.quantizers import make_quantizer
from open4m.tokenizers.quantizers.base import QuantizerConfig
from open4m.types import Open4MError

SMALL = MLPConfig(width=12, depth=2, expansion=3)


def mlp(config: MLPConfig = SMALL, inputs: int = 5, outputs: int = 7) -> BottleneckMLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BottleneckMLP(config, inputs, outputs)


def test_equals_an_explicit_float64_computation():
    model = mlp().double()
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = dict(model.named_parameters())

    def linear(v, name):
        return v @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    z = linear(x, "linear_in")
    for i in range(2):
        centered = z - z.mean(-1, keepdim=True)
        normed = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        hidden = linear(
            normed * weights[f"layernorms.{i}.weight"] + weights[f"layernorms.{i}.bias"], f"blocks.{i}.block.0"
        )
        z = z + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f"blocks.{i}.block.2")
    torch.testing.assert_close(model(x), linear(z, "linear_out"), atol=1e-12, rtol=1e-12)


def test_names_and_shapes_are_the_public_formats():
    expected = {"linear_in": (12, 5), "linear_out": (7, 12)}
    for i in range(2):
        expected |= {f"blocks.{i}.block.0": (36, 12), f"blocks.{i}.block.2": (12, 36), f"layernorms.{i}": (12,)}
    shapes = {name: tuple(tensor.shape) for name, tensor in mlp().state_dict().items()}
    weights = {f"{name}.weight": shape for name, shape in expected.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in expected.items()}
    assert shapes == weights | biases


def test_the_default_is_the_public_tokenizers_size():
    with torch.device("meta"):
        model = BottleneckMLP(MLPConfig(), 768, 1024)
    assert len(model.blocks) == 6
    assert model.blocks[5].block[0].weight.shape == (4096, 1024)


def test_a_grid_is_mapped_cell_by_cell():
    model = mlp()
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    y = model(x)
    assert y.shape == (2, 7, 3, 4)
    for row in range(3):
        for column in range(4):
            # float32 products of other batch sizes: the worst difference seen is below 1e-6
            torch.testing.assert_close(y[:, :, row, column], model(x[:, :, row, column]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("field", ["width", "depth", "expansion"])
def test_impossible_sizes_are_refused(field):
    with pytest.raises(Open4MError, match=f"{field}: expected at least 1, got 0"):
        MLPConfig(**{field: 0})


def test_vectors_become_tokens_of_several_codebooks_and_back():
    """Encoder, product quantizer and decoder together learn 64 directions that 4 tokens of 8 codes can tell apart."""
    draw = torch.Generator().manual_seed(0)
    config = MLPConfig(width=32, depth=1)
    encoder, decoder = mlp(config, 16, 8), mlp(config, 8, 16)
    quantizer = make_quantizer(QuantizerConfig(codebook_size=8, latent_dim=8, codebooks=4), draw)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    centers = torch.randn(64, 16, generator=draw)
    errors = []
    for _ in range(150):
        x = centers[torch.randint(64, (128,), generator=draw)]
        output = quantizer(encoder(x)[..., None, None], draw)
        error = F.mse_loss(decoder(output.codes)[..., 0, 0], x)
        optimizer.zero_grad()
        (error + output.commitment).backward()
        optimizer.step()
        errors.append(error.item())
    assert output.ids.shape == (128, 1, 4)
    assert errors[-1] < 0.5 * errors[0]
    with torch.no_grad():
        ids = quantizer.eval().lookup(encoder(centers)[..., None, None])
        decoded = decoder(quantizer.codes(ids))[..., 0, 0]
    assert F.mse_loss(decoded, centers) < 0.5
    assert len(ids.unique(dim=0)) > 32
