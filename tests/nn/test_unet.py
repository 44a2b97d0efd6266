"""The patched UNet; that it computes what the authors' does is tested on their fixtures (test_tokenizer_convert.py)."""

import math

import pytest
import torch

from open4m.nn.unet import AttentionBlock, Downsample, PatchedUNet, ResBlock, UNetConfig, timestep_embedding
from open4m.types import Open4MError

SMALL = UNetConfig(channels=32, blocks=1)


def unet(config=SMALL, channels=3, condition=5):
    model = PatchedUNet(config, channels, condition)
    model.initialize(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if not weight.any() and weight.ndim > 1:  # it would say nothing
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    return model.eval()


def inputs(n=2, height=32, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noised, codes = torch.randn(n, 3, height, width, generator=generator), torch.randn(n, 5, 2, 2, generator=generator)
    return noised, torch.randint(0, 1000, (n,), generator=generator), codes


def test_the_default_is_the_papers():
    with torch.device("meta"):
        model = PatchedUNet(UNetConfig(), 3, 32)
    count = lambda modules, kind: sum(isinstance(m, kind) for stage in modules for m in stage.modules())  # noqa: E731
    assert count(model.input_blocks, ResBlock) == 4 * 3
    assert count(model.input_blocks, Downsample) == 3
    assert count(model.input_blocks, AttentionBlock) == 2 * 3  # at the two smallest levels
    assert count(model.output_blocks, AttentionBlock) == 2 * 4
    assert model.input_blocks[0][0].weight.shape[1] == 16 * 3 + 32  # 4×4 patches of 3 channels beside 32-dim. codes


def test_timesteps_are_cosines_and_sines():
    found = timestep_embedding(torch.tensor([0, 741]), 6)
    for row, step in zip(found.tolist(), (0, 741), strict=True):
        phases = [step * 10_000 ** -(i / 3) for i in range(3)]
        assert row == pytest.approx([*map(math.cos, phases), *map(math.sin, phases)], abs=1e-4)


def test_attention_is_softmax_attention_over_places():
    torch.manual_seed(0)
    block = AttentionBlock(32).double()
    x = torch.randn(2, 32, 3, 4, dtype=torch.float64)
    q, k, v = block.qkv(block.norm(x).flatten(2)).chunk(3, 1)
    weights = torch.einsum("bct,bcs->bts", q, k).div(math.sqrt(32)).softmax(-1)
    expected = x + block.proj_out(torch.einsum("bts,bcs->bct", weights, v)).view_as(x)
    torch.testing.assert_close(block(x, None), expected)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (32, 32), (48, 80), (20, 36)])
def test_any_sides_that_are_multiples_of_the_patch(height, width):
    noised, steps, codes = inputs(1, height, width)
    assert unet()(noised, steps, codes).shape == noised.shape


def test_the_step_the_codes_and_the_image_all_matter_and_samples_do_not_mix():
    model = unet().double()
    noised, steps, codes = (x.double() for x in inputs())
    with torch.no_grad():
        together = model(noised, steps, codes)
        alone = torch.cat([model(noised[i : i + 1], steps[i : i + 1], codes[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)  # the step's embedding has single precision
        for changed in ((noised + 1, steps, codes), (noised, steps + 100, codes), (noised, steps, codes.flip(0))):
            assert (model(*changed) - together).abs().max() > 1e-3


def test_a_code_reaches_the_patches_it_covers():
    """Codes are enlarged to their own part of the image: with no way around, only it changes."""
    model = unet(UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=0))
    model.middle_block = torch.nn.ModuleList()  # its attention mixes all places
    model.middle_block.forward = lambda x, _: x
    torch.nn.init.constant_(model.input_blocks[0][0].weight, 0.01)
    noised, steps, codes = inputs(1, 128, 128)
    changed = codes.clone()
    changed[..., 0, 1] += 5
    with torch.no_grad():
        difference = (model(noised, steps, changed) - model(noised, steps, codes)).abs().sum((0, 1))
    assert difference[:64, 64:].max() > 0
    # GroupNorm sees all places, so that others change a little; the corner's own part changes most
    assert difference[:64, 64:].mean() > 2 * difference[64:, :64].mean()


def test_learned_upsampling_gives_each_patch_of_a_token_codes_of_its_own():
    """By hand, for the four patches of two tokens: rows of the projection in the order of a pixel shuffle."""
    config = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=0, code_upsampling="learned")
    model = PatchedUNet(config, 3, 5, scale=2)
    model.initialize(torch.Generator().manual_seed(0))
    seen = []
    model.input_blocks[0][0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    noised, steps, codes = torch.zeros(1, 3, 8, 16), torch.zeros(1, dtype=torch.int64), torch.randn(1, 5, 1, 2)
    with torch.no_grad():
        model(noised, steps, codes)
        for token in range(2):
            views = (model.code_proj.weight[..., 0, 0] @ codes[0, :, 0, token]).view(5, 2, 2)  # channel, row, column
            torch.testing.assert_close(seen[0][0, 48:, :, 2 * token : 2 * token + 2], views)
    loudness = model.code_proj(torch.nn.functional.normalize(torch.randn(500, 5, 1, 1), dim=1)).std()
    assert 0.8 < loudness < 1.2


def test_it_starts_by_predicting_zero():
    model = PatchedUNet(SMALL, 3, 5)
    model.initialize(torch.Generator().manual_seed(0))
    assert model(*inputs()).abs().max() == 0


def test_the_same_generator_draws_the_same_weights():
    first, second = unet(), unet()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 48}, "channels 48 is not a multiple of 32"),
        ({"blocks": 0}, "at least 1"),
        ({"multipliers": ()}, "1 to 16 levels, got 0"),
        ({"multipliers": (1, 0)}, "at least 1"),
        ({"attention": 5}, "from 0 to 4 levels, got 5"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(Open4MError, match=message):
        UNetConfig(**fields)
