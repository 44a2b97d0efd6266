"""open4m.transfer.backbone: the encoder as a Vision Transformer."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny_model import CONFIG, EVERYTHING, make_model

from open4m.model.packing import DENSE, pack
from open4m.nn.positions import sincos_2d
from open4m.rng import seeded
from open4m.transfer.backbone import Backbone, BackboneConfig
from open4m.types import Open4MError

SIZE = 4  # pixels of the images that the tiny model's grids belong to, by their rows
PIXELS = ("rgb_pixels",)


def backbone(config=CONFIG, inputs=PIXELS, **options):
    model = make_model(config=config)
    return model, Backbone.of(model, BackboneConfig(inputs=inputs, **options), SIZE).double().eval()


def check_size_off(monkeypatch):
    monkeypatch.setattr(Backbone, "check_size", lambda self, size: None)


def whole_batch(config, contents, size):
    """All tokens of these contents, as the model itself reads them."""
    rows, dense = [], {"pixels": {}, "vectors": {}}
    for key, value in contents.items():
        spec, place = config.spec(key), config.index(key)
        for sample in range(size):
            if spec.has_vocabulary:
                ids = [i for i in value[sample].flatten().tolist() if i >= 0]
            else:
                ids = [DENSE] * (spec.length if spec.content == "pixels" else len(value[sample]))
                dense[spec.content][key] = value
            rows += [(sample, place, position, token) for position, token in enumerate(ids)]
    return pack(config, rows, [], **dense)


def test_features_are_those_of_the_model_for_every_family_at_once(monkeypatch):
    check_size_off(monkeypatch)
    keys = ("rgb_pixels", "depth", "caption", "clip", "rgb@128", "t5", "features", "words")
    model, encoder = backbone(EVERYTHING, keys)
    draw = torch.Generator().manual_seed(1)
    contents = {
        "rgb_pixels": torch.randn(2, 3, 4, 6, generator=draw).float(),
        "depth": torch.randint(0, 11, (2, 3, 4), generator=draw),
        "caption": torch.tensor([[3, 9, 16], [4, -1, -1]]),  # of unequal length
        "clip": torch.randint(0, 5, (2, 2, 2), generator=draw),
        "rgb@128": torch.randint(0, 6, (2, 3, 3), generator=draw),
        "t5": torch.randn(2, 4, 3, generator=draw).float(),
        "features": torch.randint(0, 4, (2, 2, 2), generator=draw),
        "words": torch.tensor([[1, 2, -1], [5, 6, 7]]),
    }
    batch = whole_batch(EVERYTHING, contents, 2)
    with torch.no_grad():
        expected = model.encode(batch)[:, EVERYTHING.register_tokens :]
        given = {k: v.double() if v.is_floating_point() else v for k, v in contents.items()}
        found = encoder(given)
    shown = torch.cat(
        [
            torch.ones(2, 6, dtype=torch.bool),
            *(contents[k].flatten(1) >= 0 for k in ("depth", "caption", "clip", "rgb@128")),
            torch.ones(2, 4, dtype=torch.bool),
            *(contents[k].flatten(1) >= 0 for k in ("features", "words")),
        ],
        1,
    )
    for sample in range(2):
        count = int(batch.input_valid[sample].sum())
        # the same sums of float64 numbers in another order, and patches that pack holds in float32: measured 2e-7
        torch.testing.assert_close(found.tokens[sample][shown[sample]], expected[sample, :count], rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(found.pooled[sample], expected[sample, :count].mean(0), rtol=2e-6, atol=2e-6)


def test_the_map_is_the_mean_of_the_grids_on_that_of_the_first(monkeypatch):
    check_size_off(monkeypatch)
    _, encoder = backbone(CONFIG, ("depth", "clip", "caption"))
    ids = {
        "depth": torch.zeros(1, 3, 4, dtype=int),
        "clip": torch.ones(1, 2, 2, dtype=int),
        "caption": torch.ones(1, 2, dtype=int),
    }
    with torch.no_grad():
        found = encoder(ids)
    depth = found.tokens[0, :12].T.reshape(1, 16, 3, 4)
    clip = F.interpolate(found.tokens[0, 12:16].T.reshape(1, 16, 2, 2), size=(3, 4), mode="bilinear")
    torch.testing.assert_close(found.map, (depth + clip) / 2)


def test_uint8_pixels_are_normalized_as_the_modality_says():
    _, encoder = backbone()
    pixels = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(c)[:, None, None] for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        a, b = encoder({"rgb_pixels": pixels}), encoder({"rgb_pixels": ((pixels.double() / 255 - mean) / std)})
    torch.testing.assert_close(a.tokens, b.tokens, rtol=1e-5, atol=1e-5)


def test_positions_of_other_sizes_are_the_trained_ones_interpolated():
    _, encoder = backbone()
    spec = CONFIG.spec("rgb_pixels")
    table = sincos_2d(2, 3, CONFIG.dim)
    assert torch.equal(encoder._positions(spec, 2, 3), table)
    found = encoder._positions(spec, 4, 6)
    expected = F.interpolate(table.T.reshape(1, 16, 2, 3), size=(4, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(found, expected[0].flatten(1).T)
    assert not torch.equal(found, sincos_2d(4, 6, CONFIG.dim))  # as if the image had grown instead
    with torch.no_grad():
        assert encoder({"rgb_pixels": torch.zeros(1, 3, 8, 12, dtype=torch.double)}).map.shape == (1, 16, 4, 6)


def test_samples_do_not_see_each_other():
    _, encoder = backbone()
    pixels = torch.randn(3, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    with torch.no_grad():
        whole, alone = encoder({"rgb_pixels": pixels}), encoder({"rgb_pixels": pixels[1:2]})
    torch.testing.assert_close(whole.map[1:2], alone.map)


def test_stochastic_depth_needs_a_generator_on_which_alone_it_depends():
    _, encoder = backbone(drop_path=0.9)
    pixels = {"rgb_pixels": torch.randn(64, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.double)}
    with torch.no_grad():
        plain, dropped = encoder(pixels).tokens, encoder(pixels, seeded(0)).tokens
        again = encoder(pixels, seeded(0)).tokens
    assert torch.equal(dropped, again)
    assert not torch.allclose(plain, dropped)
    encoder.requires_grad_(False)  # frozen: nothing is learned of what is dropped
    assert torch.equal(plain, encoder(pixels, seeded(0)).tokens)


def test_from_scratch_depends_on_the_generator_alone():
    _, encoder = backbone(EVERYTHING, PIXELS)
    first = {n: t.clone() for n, t in encoder.state_dict().items()}
    encoder.initialize(seeded(3))
    drawn = {n: t.clone() for n, t in encoder.state_dict().items()}
    changed = {n for n in first if not torch.equal(first[n], drawn[n])}
    assert changed >= {n for n in first if "weight" in n or n in ("modality", "registers")}
    encoder.initialize(seeded(3))
    assert all(torch.equal(t, drawn[n]) for n, t in encoder.state_dict().items())
    encoder.initialize(seeded(4))
    assert not torch.equal(encoder.modality, drawn["modality"])


def test_a_frozen_encoder_trains_nothing_and_adapters_train_little():
    _, encoder = backbone()
    encoder.tune(BackboneConfig(tune="nothing"), seeded(0))
    assert not any(p.requires_grad for p in encoder.parameters())
    _, encoder = backbone()
    pixels = {"rgb_pixels": torch.zeros(1, 3, 4, 6, dtype=torch.double)}
    with torch.no_grad():
        before = encoder(pixels).tokens
        encoder.tune(BackboneConfig(tune="lora", lora_rank=2), seeded(0))
        torch.testing.assert_close(encoder(pixels).tokens, before)  # adapters begin at nothing
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    assert all(".parametrizations." in name for name in trained)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("patches.rgb_pixels.weight", 0),
        ("modality", 0),
        ("encoder.0.mlp.down.weight", 1),
        ("encoder.1.norm1.weight", 2),
        ("encoder_norm.weight", 3),
    ],
)
def test_weights_lie_as_deep_as_their_block(name, depth):
    _, encoder = backbone()
    assert name in dict(encoder.named_parameters())
    assert encoder.depth_of(name) == depth


def test_what_the_model_does_not_read_is_named():
    model = make_model()
    with pytest.raises(Open4MError, match=r"does not read normals \(it reads rgb_pixels, depth"):
        Backbone.of(model, BackboneConfig(inputs=("normals",)), SIZE)
    with pytest.raises(Open4MError, match="name at least one modality"):
        BackboneConfig(inputs=())


def test_sizes_without_whole_patches_are_refused():
    config = dataclasses.replace(
        CONFIG, modalities=(dataclasses.replace(CONFIG.modalities[0], grid=(2, 2)), *CONFIG.modalities[1:])
    )
    model = make_model(config=config)
    Backbone.of(model, BackboneConfig(inputs=PIXELS, image_size=6), SIZE)
    with pytest.raises(Open4MError, match=r"expected a multiple of rgb_pixels's 2 pixels, got 7"):
        Backbone.of(model, BackboneConfig(inputs=PIXELS, image_size=7), SIZE)


def test_pooling_of_registers_needs_registers():
    with pytest.raises(Open4MError, match="no register tokens"):
        backbone(pooling="registers")
    model, encoder = backbone(EVERYTHING, PIXELS, pooling="registers")
    pixels = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        expected = model.encode(whole_batch(EVERYTHING, {"rgb_pixels": pixels}, 1))[:, : EVERYTHING.register_tokens]
        found = encoder({"rgb_pixels": pixels.double()}).pooled
    torch.testing.assert_close(found, expected.mean(1), rtol=2e-6, atol=2e-6)
