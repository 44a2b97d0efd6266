"""Patch embeddings against explicit computations."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_model import CONFIG, ROWS, by_query, make_batch, make_model, same

from open4m import modalities
from open4m.model.config import ModalitySpec
from open4m.model.patches import PATCHES, ConvPatches, LinearPatches, WhitenedPatches, normalized, patchify
from open4m.types import Open4MError

SPEC = ModalitySpec(key="rgb_pixels", family="pixels", grid=(3, 4), patch_size=8, channels=3)
ROW, POSITION = torch.tensor([1, 0, 1]), torch.tensor([11, 0, 5])


@pytest.fixture
def pixels():
    """Two images whose pixels agree with their neighbors."""
    coarse = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear") + 0.1 * noise


def slow_patch(image, position):
    top, left = (8 * i for i in divmod(position, 4))
    return image[:, top : top + 8, left : left + 8].flatten()


def test_a_linear_embedding_is_a_product_per_patch(pixels):
    layer = LinearPatches(SPEC, 5).double()
    expected = [layer.weight @ slow_patch(pixels[r], p) for r, p in zip(ROW.tolist(), POSITION.tolist(), strict=True)]
    torch.testing.assert_close(layer(pixels, ROW, POSITION), torch.stack(expected))


def test_whitened_patches_vary_alike_in_all_directions_that_vary_at_all():
    images = torch.randn(64, 3, 24, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = images + 3 * images.mean((2, 3), keepdim=True) + images.roll(1, 3)
    layer = WhitenedPatches(SPEC, 5).double()
    before = patchify(images, 8).flatten(0, 1)
    layer.fit(images)
    after = layer.read(before)
    moments = after.T @ after / len(after)
    torch.testing.assert_close(moments, torch.eye(192, dtype=torch.float64), atol=1e-6, rtol=0)
    spread = [torch.linalg.eigvalsh(x.T @ x / len(x)) for x in (before, after)]
    assert spread[0][-1] / spread[0][0] > 30  # so that there was something to whiten


def test_directions_that_hardly_vary_are_not_amplified_without_bound(pixels):
    layer = WhitenedPatches(SPEC, 5).double()
    layer.fit(pixels)  # 24 patches span at most 24 of 192 directions
    patches = patchify(pixels, 8).flatten(0, 1)
    mean = float((patches**2).sum(1).mean() / 192)
    assert torch.linalg.eigvalsh(layer.whitening).max() <= (1e-3 * mean) ** -0.5 * (1 + 1e-9)


def test_a_whitened_embedding_is_a_linear_one_with_the_folded_weight(pixels):
    layer, plain = WhitenedPatches(SPEC, 5).double(), LinearPatches(SPEC, 5).double()
    layer.fit(pixels)
    plain.weight.data = layer.folded().detach()
    torch.testing.assert_close(layer(pixels, ROW, POSITION), plain(pixels, ROW, POSITION))
    assert "whitening" in layer.state_dict()  # it is saved with the model


def test_convolutions_give_the_patch_at_its_place(pixels):
    layer = ConvPatches(SPEC, 5).double()
    found = layer(pixels, ROW, POSITION)
    changed = pixels.clone()
    changed[1, :, 8:16, 8:16] += 1  # patch 5 of image 1
    again = layer(changed, ROW, POSITION)
    assert (again - found)[2].abs().max() > 1e-3
    assert torch.equal(again[1], found[1])  # another image
    whole = layer(pixels, torch.zeros(12, dtype=torch.int64), torch.arange(12))
    torch.testing.assert_close(whole[0], found[1])


@pytest.mark.parametrize("kind", PATCHES.values())
def test_uint8_pixels_are_normalized_where_they_are_read(kind):
    """To the bit as the modality normalizes them, in either order of memory, also where nothing is shown."""
    modality = modalities.get("rgb_pixels")
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    images[0, :16, :16] = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)  # each value of each channel
    floats = torch.from_numpy(np.stack([modality.pixels(image) for image in images]))
    scale = torch.tensor([modality.mean, modality.std])
    stored = torch.from_numpy(images).permute(0, 3, 1, 2)
    layer = kind(SPEC, 5)
    for pixels in (stored, stored.contiguous()):
        assert torch.equal(normalized(pixels.flatten(2), scale), floats.flatten(2))
        for n in (3, 0):
            found, expected = (layer(x, ROW[:n], POSITION[:n], scale) for x in (pixels, floats))
            assert found.shape == (n, 5)
            assert torch.equal(found, expected)


def test_a_patch_that_convolutions_do_not_halve_evenly_is_refused():
    with pytest.raises(Open4MError, match="multiple of 8 as patch_size, got 12"):
        ConvPatches(dataclasses.replace(SPEC, patch_size=12), 5)


@pytest.mark.parametrize("fields", [{"patch_embedding": "whitened"}, {"patch_norm": True}])
def test_each_way_is_a_field_of_the_architecture_and_is_started_from(fields):
    config = dataclasses.replace(CONFIG, **fields)
    trained, other = make_model(config=config), make_model(seed=1, config=config)
    for patches in trained.embeddings.patches.values():
        if hasattr(patches, "fit"):
            patches.fit(make_batch(ROWS).pixels["rgb_pixels"])
    assert other.init_from(trained) == []
    found, expected = (by_query(model, make_batch(ROWS)) for model in (other, trained))
    assert all(torch.equal(found[place], expected[place]) for place in expected)
    with pytest.raises(Open4MError, match=f"another architecture: {next(iter(fields))}"):
        make_model(config=CONFIG).init_from(trained)


def test_a_model_without_its_whitening_computes_the_same():
    config = dataclasses.replace(CONFIG, patch_embedding="whitened")
    model = make_model(config=config)
    model.embeddings.patches["rgb_pixels"].fit(make_batch(ROWS).pixels["rgb_pixels"])
    plain = model.folded()
    assert plain.config == CONFIG
    same(by_query(model, make_batch(ROWS)), by_query(plain, make_batch(ROWS)), tolerance=1e-9)
    assert plain.folded() is plain
