"""``FourM``: values in, values out, for unequal samples; directories that hold all of it; requests that cannot work."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from open4m import FourM
from open4m.generate.plan import Step
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.vit import ViTConfig
from open4m.tokenizers.vqvae import VQVAE, Tokenizer, TokenizerConfig
from open4m.types import Boxes, Open4MError

SIDE = 32


def make_tokenizer(name, seed, codes=16):
    vit = ViTConfig(width=16, depth=1, heads=2)
    config = TokenizerConfig.of(name, image_size=SIDE, patch_size=8, codebook_size=codes, encoder=vit, decoder=vit)
    return Tokenizer(VQVAE(config, torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def fourm():
    text = TextTokenizer.fit(["a red cube", "two balls"], ["cube"], vocab_size=300, bins=8, sentinels=10)
    vocab = text.vocab_size
    config = FourMConfig(
        modalities=(
            ModalitySpec(key="rgb_pixels", family="pixels", grid=(4, 4), patch_size=8, channels=3),
            ModalitySpec(key="depth", family="grid", vocab_size=16, grid=(4, 4)),
            ModalitySpec(key="caption", family="sequence", vocab_size=vocab, max_length=10),
            ModalitySpec(key="rgb", family="grid", vocab_size=16, grid=(4, 4)),
            ModalitySpec(key="boxes", family="sequence", vocab_size=vocab, max_length=12),
        ),
        dim=16, encoder_depth=1, decoder_depth=1, heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = FourMTransformer(config)
    for name, parameter in model.named_parameters():
        if name.startswith("embeddings"):
            parameter.data *= 30
    return FourM(model, {"depth": make_tokenizer("depth", 1), "rgb": make_tokenizer("rgb", 2)}, text)


def image(seed, height=40, width=50):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


INPUTS = [  # no two alike
    {"rgb": image(0), "caption": "a red cube, two balls"},
    {"rgb": Image.fromarray(image(1, 32, 32))},
    {"caption": "two"},
    {"caption": "", "boxes": Boxes([[0, 0, 0.5, 1]], ["cube"])},
]
TARGETS = ["depth", "rgb"]


def same(one, other):
    assert one.tokens.keys() == other.tokens.keys()
    for key in one.tokens:
        np.testing.assert_array_equal(one.tokens[key], other.tokens[key])
        np.testing.assert_array_equal(one.values[key], other.values[key])


def test_values_have_the_form_of_their_modality(fourm):
    result = fourm.generate(INPUTS[0], ["depth", "rgb", "boxes"], seed=3)
    assert (result["depth"].shape, result["depth"].dtype) == ((SIDE, SIDE), np.float32)
    assert (result["rgb"].shape, result["rgb"].dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert isinstance(result["boxes"], Boxes)
    assert result.tokens["depth"].shape == (16,)
    assert [s.target for s in result.plan] == ["depth", "rgb", "boxes"]
    assert result.seed == 3
    assert result.render("depth", 40).size == (40, 40)
    with pytest.raises(Open4MError, match="did you mean depth"):
        result["dept"]


def test_a_list_gives_what_each_of_it_would_give_alone(fourm):
    for options in ({}, {"guidance": 2.0, "steps": 3}):
        together = fourm.generate(INPUTS, TARGETS, seed=10, **options)
        assert len(together) == 4
        for i, inputs in enumerate(INPUTS):
            same(fourm.generate(inputs, TARGETS, seed=10 + i, **options), together[i])
    assert fourm.generate([], TARGETS) == []


def test_every_input_is_used(fourm):
    base = fourm.generate(INPUTS[0], ["depth"], temperature=0, steps=1).tokens["depth"]
    for other in ({"rgb": image(5)}, {"caption": "two"}):
        changed = fourm.generate({**INPUTS[0], **other}, ["depth"], temperature=0, steps=1).tokens["depth"]
        assert not np.array_equal(base, changed), other


def test_an_rgb_image_is_read_as_pixels_and_may_also_be_a_target(fourm):
    canvas = fourm._canvas(INPUTS[:2])
    assert set(canvas.keys()) == {"rgb_pixels", "caption"}
    assert canvas.pixels["rgb_pixels"].shape == (2, 3, SIDE, SIDE)
    # the center 40 × 40 of 40 × 50, resized; here the second, which has the right size already
    expected = (image(1, 32, 32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(canvas.pixels["rgb_pixels"][1].numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    fourm.generate(INPUTS[1], ["rgb"])


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        ({"rgb": image(0)}, [], "no target"),
        ({"rgb": image(0)}, ["dpeth"], "did you mean depth"),
        ({"rbg": image(0)}, ["depth"], "unknown modality 'rbg'; did you mean rgb"),
        ({"normals": image(0)}, ["depth"], "unknown modality 'normals'"),
        ({"caption": "x"}, ["caption"], "caption is both given and a target"),
        ([{"rgb": image(0)}, {"depth": np.ones((8, 8))}], ["depth"], "depth is both given and a target"),
        ({"rgb": None}, ["depth"], "rgb: expected a PIL image"),
        ({"depth": np.full((8, 8), np.nan)}, ["rgb"], "depth: expected finite depth"),
        ({"caption": 3}, ["rgb"], "caption: expected a str"),
        ({"boxes": Boxes([[0, 0, 1, 1]], ["dragon"])}, ["rgb"], "dragon"),
    ],
)
def test_requests_that_cannot_work_are_refused(fourm, inputs, targets, message):
    with pytest.raises(Open4MError, match=message):
        fourm.generate(inputs, targets)


def test_a_directory_holds_all_of_it(fourm, tmp_path):
    fourm.save(tmp_path / "m")
    again = FourM.from_pretrained(tmp_path / "m")
    for inputs in INPUTS[:3]:
        same(fourm.generate(inputs, TARGETS, steps=2), again.generate(inputs, TARGETS, steps=2))
    fourm.save(tmp_path / "half", half=True)
    assert sum(p.stat().st_size for p in (tmp_path / "half").rglob("*.safetensors")) < 0.7 * sum(
        p.stat().st_size for p in (tmp_path / "m").rglob("*.safetensors")
    )
    FourM.from_pretrained(tmp_path / "half").generate(INPUTS[0], ["depth"])


def test_a_directory_whose_parts_do_not_fit_is_refused(fourm, tmp_path):
    fourm.save(tmp_path / "m")
    make_tokenizer("depth", 0, codes=8).save(tmp_path / "m" / "tokenizers" / "depth")
    with pytest.raises(Open4MError, match=r"tokenizer depth has 8 codes on a grid \(4, 4\), the model expects 16"):
        FourM.from_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["dim"] = 20
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(Open4MError, match=r"model\.safetensors: .* has shape"):
        FourM.from_pretrained(tmp_path / "m")
    with pytest.raises(Open4MError, match="modality depth has no tokenizer"):
        FourM(fourm.model, {"rgb": fourm.grids["rgb"]}, fourm.text)
    with pytest.raises(Open4MError, match="modality caption has no text tokenizer"):
        FourM(fourm.model, fourm.grids, None)


def test_reconstruction_is_encoding_and_decoding(fourm):
    depth = np.random.default_rng(0).uniform(1, 9, (SIDE, SIDE)).astype(np.float32)
    tokens = fourm.encode("depth", depth)
    np.testing.assert_array_equal(fourm.reconstruct(depth, "depth"), fourm.decode("depth", tokens))
    assert fourm.reconstruct("A red cube", "caption") == "a red cube"
    assert len(fourm.encode("caption", "a red cube " * 20)) == 10


def test_a_plan_may_mix_names_and_whole_steps(fourm):
    result = fourm.generate(INPUTS[1], [Step(target="depth", scheme="roar", steps=2), "caption"], caption={"steps": 3})
    assert len(result.tokens["caption"]) <= 3
    assert result.plan[0].scheme == "roar"
