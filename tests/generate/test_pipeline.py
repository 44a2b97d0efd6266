"""``FourM``: values in, values out."""

import numpy as np
import pytest
import torch
from PIL import Image

from open4m.generate.pipeline import FourM
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.vit import ViTConfig
from open4m.tokenizers.vqvae import VQVAE, Tokenizer, TokenizerConfig
from open4m.types import Boxes, Open4MError


@pytest.fixture(scope="module")
def model():
    vit = ViTConfig(width=16, depth=1, heads=1)
    generator = torch.Generator().manual_seed(0)
    grids = {}
    for name in ("rgb", "depth"):
        config = TokenizerConfig.of(name, image_size=16, patch_size=8, codebook_size=9, encoder=vit, decoder=vit)
        grids[name] = Tokenizer(VQVAE(config, generator))
    text = TextTokenizer.fit(["a red cube on a blue ball"], ["cube", "ball"], vocab_size=4500, sentinels=12)
    specs = (
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=8, channels=3),
        *(ModalitySpec(key=key, family="grid", vocab_size=9, grid=(2, 2)) for key in grids),
        ModalitySpec(key="caption", family="sequence", vocab_size=text.vocab_size, max_length=8),
        ModalitySpec(key="boxes", family="sequence", vocab_size=text.vocab_size, max_length=16),
    )
    config = FourMConfig(modalities=specs, dim=32, encoder_depth=1, decoder_depth=1, heads=2)
    return FourM(FourMTransformer(config).initialize(generator), grids, text)


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))


def test_an_image_is_given_as_pixels_and_all_else_is_made_from_it(model):
    result = model.generate({"rgb": IMAGE}, ["depth", "caption", "boxes", "rgb"], seed=3)
    assert result["depth"].shape == (16, 16)
    assert isinstance(result["caption"], str)
    assert isinstance(result["boxes"], Boxes)
    assert result["rgb"].dtype == np.uint8
    assert result.render("depth", 99).size == (99, 99)
    assert (result.seed, [step.target for step in result.plan]) == (3, ["depth", "caption", "boxes", "rgb"])


def test_a_list_gives_a_list_and_each_result_is_that_of_its_own_seed(model):
    inputs = [{"rgb": IMAGE}, {"caption": "a red cube"}, {"caption": "a ball", "depth": np.full((9, 9), 2.0)}]
    results = model.generate(inputs, ["rgb", "boxes"], seed=5)
    for i, single in enumerate(inputs):
        alone = model.generate(single, ["rgb", "boxes"], seed=5 + i)
        assert all(np.array_equal(alone.tokens[key], results[i].tokens[key]) for key in ("rgb", "boxes"))
    assert model.generate([], ["rgb"]) == []


def test_a_generated_sequence_ends_with_eos_and_nothing_else_that_ends_it(model):
    for seed in range(5):
        tokens = model.generate({"rgb": IMAGE}, ["caption"], seed=seed).tokens["caption"].tolist()
        assert tokens[-1] == model.text.eos
        assert not set(tokens[:-1]) & {model.text.eos, *model.text.sentinels}
        assert len(tokens) <= 8


def test_boxes_beside_a_wide_image_are_seen_as_its_central_square_shows_them(model):
    boxes = Boxes([[0.25, 0.0, 0.5, 1.0], [0.8, 0.0, 1.0, 1.0]], ["cube", "ball"])
    canvas = model._canvas([{"rgb": IMAGE, "boxes": boxes}, {"boxes": boxes}])
    beside, alone = (model.decode("boxes", row) for row in canvas.sequences["boxes"])
    assert np.allclose(beside.corners, [[0, 0, 0.5, 1]], atol=1e-3)  # of the square from a quarter to three quarters
    assert np.allclose(alone.corners, boxes.corners, atol=1e-3)


def test_a_saved_model_generates_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    again = FourM.from_pretrained(tmp_path / "model")
    for targets in (["depth"], ["caption"]):
        expected = model.generate({"rgb": IMAGE}, targets).tokens[targets[0]]
        assert np.array_equal(again.generate({"rgb": IMAGE}, targets).tokens[targets[0]], expected)


def test_loading_leaves_the_global_generator_alone(model, tmp_path):
    model.save(tmp_path / "model")
    state = torch.random.get_rng_state()
    FourM.from_pretrained(tmp_path / "model")
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        ({"rgb": IMAGE}, [], {}, "no target"),
        ({"rgb": IMAGE}, ["dept"], {}, "did you mean depth"),
        ({"rgb": IMAGE}, ["rgb_pixels"], {}, "unknown modality 'rgb_pixels'"),
        ({"sound": 1}, ["depth"], {}, "unknown modality 'sound'"),
        ({"depth": np.ones((4, 4))}, ["depth"], {}, "both given and a target"),
        ({"depth": np.full((4, 4), np.nan)}, ["rgb"], {}, "depth: expected finite depth"),
        ({"caption": 3}, ["rgb"], {}, "caption: expected a str"),
        ({"boxes": [{"box": [0, 0, 1, 1], "label": "whale"}]}, ["rgb"], {}, "whale"),
        ({"rgb": IMAGE}, ["depth"], {"seed": -1}, "seed must be"),
        ({"rgb": IMAGE}, ["depth"], {"steps": 10**9}, "steps must be"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_is_allowed(model, inputs, targets, options, message):
    with pytest.raises(Open4MError, match=message):
        model.generate(inputs, targets, **options)
