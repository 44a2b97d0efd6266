"""A tiny model of all modalities of 4M-21: each is given in a user's form, generated, written and asked for again."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from open4m import modalities
from open4m.generate import outputs, record
from open4m.generate.pipeline import FourM
from open4m.generate.request import Generate, Request
from open4m.hub.ml4m import names
from open4m.hub.parts import served
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.nn.mlp import MLPConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

VIT, MLP = ViTConfig(width=16, depth=1, heads=1, position_grid=8), MLPConfig(width=16, depth=1)
FIELDS = {
    "dinov2_global": {"channels": 12, "codebooks": 16, "quantizer": "memcodes"},
    "imagebind_global": {"channels": 14, "codebooks": 16, "quantizer": "memcodes"},
    "human_pose": {"codebooks": 8, "codebook_size": 600, "quantizer": "memcodes"},
    "sam_mask": {
        "image_size": 64,
        "patch_size": 16,
        "codebook_size": 600,
        "encoder": ViTConfig(width=16, depth=1, heads=1),
        "decoder": ViTConfig(width=16, depth=1, heads=1, out_conv=2),
    },
    "sam_edge": {"channels": 3},
    "semseg": {"class_names": ("floor", "cube", "ball")},
    "depth": {"standardize": True},
    **{name: {"image_size": 8, "channels": 6, "resolutions": (4, 8)} for name in ("clip", "dinov2", "imagebind")},
}
"""Of the tokenizers that are not those of images of 32 and 64 pixels, which the model has at 32."""

RNG = np.random.default_rng(0)
UPRIGHT = [np.pi, 0, 0]
GIVEN = {
    "color_palette": ["#ff0080", "#202020"],
    "metadata": {"original_width": 640, "brightness": 118.2, "aesthetic_score": 5.8},
    "human_poses": [
        {
            "box": [0.25, 0.0, 0.75, 1.0],
            "rotations": 0.1 * RNG.standard_normal(69),
            "orientation": UPRIGHT,
            "camera": [0.9, 0, 0.2],
        }
    ],
    "sam_instance": np.kron([[[0, 1], [0, 0]]], np.ones((16, 16))).astype(bool),
    "canny_edge": RNG.random((32, 32)),
    "sam_edge": RNG.random((32, 32)) > 0.9,
    "dinov2": RNG.standard_normal((4, 4, 6)),
    "imagebind": RNG.standard_normal((4, 4, 6)).astype(np.float32),
    "dinov2_global": RNG.standard_normal(12),
    "imagebind_global": RNG.standard_normal(14),
    "t5_caption": RNG.standard_normal((3, 5)),
    "caption": "a red cube",
}


def tokenizer_of(name, generator):
    fields = {"codebook_size": 9, "encoder": VIT, "decoder": VIT, **FIELDS.get(name, {})}
    if "codebooks" in fields:
        fields |= {"encoder": MLP, "decoder": MLP}
    else:
        fields = {"image_size": 64, "patch_size": 8, "resolutions": (32, 64)} | fields
    if modalities.get(name).feature_map:
        fields.pop("patch_size")
    return Tokenizer(VQVAE(TokenizerConfig.of(name, **fields), generator).eval())


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(0)
    domains = [modalities.get(name) for name in names.DOMAINS.values()]
    words = dict.fromkeys(word for domain in domains for word in getattr(domain, "words", ()))
    text = TextTokenizer.fit(["a red cube"], ["cube", *words], vocab_size=4400, sentinels=130)
    grids = {d.name: tokenizer_of(d.name, generator) for d in domains if d.family.has_codebook}
    grids |= {name: tokenizer_of(name, generator) for name in ("human_pose", "sam_mask")}
    lengths = {"human_poses": 41, "sam_instance": 30, "metadata": 9, "color_palette": 23}
    specs = []
    for domain in domains:
        fields = {"key": domain.name, "family": domain.family.name}
        if domain.family.has_codebook:
            learned = {"learned_positions": True} if domain.name.endswith("_global") else {}
            fields |= {"vocab_size": 9, "grid": (4, 4), **learned}
        elif domain.family.is_causal:
            fields |= {"vocab_size": text.vocab_size, "max_length": lengths.get(domain.name, 12)}
        elif domain.family.is_sequence:
            fields |= {"channels": 5, "max_length": 6}
        else:
            fields |= {"grid": (4, 4), "patch_size": 8, "channels": 3}
        specs.append(ModalitySpec(**fields))
    config = FourMConfig(modalities=tuple(specs), dim=32, encoder_depth=1, decoder_depth=1, heads=2)
    return FourM(FourMTransformer(config).initialize(generator), grids, text)


@pytest.fixture(scope="module")
def request_():
    image = Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    return Generate(given={**GIVEN, "rgb": image}, targets=("depth", "normals"), seed=3)


def test_all_modalities_are_here(model):
    assert set(model.config.keys) == set(names.DOMAINS.values())


@pytest.mark.parametrize("key", GIVEN)
def test_a_user_s_value_has_tokens_and_is_what_they_say(key, model):
    if model.config.spec(key).content == "vectors":
        assert model.encode_input(key, model.take(key, GIVEN[key])).shape == (3, 5)
        return
    tokens = model.encode(key, GIVEN[key])
    value = model.decode(key, tokens)
    assert getattr(value, "malformed", 0) == 0
    modality = model.modalities[key]
    if not model.config.spec(key).has_codebook:
        assert np.array_equal(model.encode(key, value), tokens)
    assert modality.render(value, 64).size == (64, 64)
    assert modality.convert(modality.read(modality.write(value))) is not None


def test_poses_and_masks_go_through_their_own_tokenizers(model):
    person = model.decode("human_poses", model.encode("human_poses", GIVEN["human_poses"])).people[0]
    given = model.take("human_poses", GIVEN["human_poses"]).people[0]
    expected = model.grids["human_pose"].encode(np.float32(given.rotations))
    assert person.tokens == tuple(expected.ravel())
    again = model.grids["human_pose"].decode(expected)
    np.testing.assert_allclose(person.rotations, again, atol=1e-6)
    np.testing.assert_allclose(person.orientation, given.orientation, atol=2e-3)
    mask = model.decode("sam_instance", model.encode("sam_instance", GIVEN["sam_instance"])).points[0].instances[0]
    assert mask.box == (0.5, 0.0, 1.0, 0.5)
    tokens = model.grids["sam_mask"].encode(np.ones((64, 64), bool))
    assert mask.tokens == tuple(tokens.ravel())
    assert np.array_equal(mask.pixels, model.grids["sam_mask"].decode(tokens))


def test_tokens_that_a_part_s_tokenizer_does_not_have_are_counted(model):
    modality = modalities.get("human_poses")
    person = {**GIVEN["human_poses"][0], "rotations": None, "tokens": [0, 1, 2, 3, 4, 5, 6, 600]}
    ids = modality.encode(modality.convert([person, {**person, "tokens": [599] * 8}]), model.text)
    value = model.decode("human_poses", ids)
    assert (len(value), value.malformed) == (1, 1)
    modality = modalities.get("sam_instance")
    point = {"point": [0.5, 0.5], "instances": [{"box": [0, 0, 1, 1], "tokens": [599] * 15 + [k]} for k in (600, 5)]}
    value = model.decode("sam_instance", modality.encode(modality.convert([point]), model.text))
    assert (len(value), value.malformed) == (1, 1)


@pytest.mark.parametrize("key", [key for key in names.DOMAINS.values() if key not in ("rgb_pixels", "t5_caption")])
def test_each_is_generated_and_written(key, model, request_, tmp_path):
    """By random weights: what sequences say is malformed mostly, and never an error."""
    given = {name: value for name, value in request_.given.items() if name != key}
    asked = Generate(given=given, targets=(key,), seed=3, options={"temperature": 5.0, "top_p": 1.0})
    outcome = asked.run(model)
    lines = list(outputs.write(model, asked, outcome, tmp_path))
    assert lines[0].startswith(f"{key}: ")
    assert outcome.results[0].render(key).size[0] > 0
    assert (tmp_path / record.NAME).is_file()


def test_requests_hold_them_all(model, request_):
    written = json.loads(json.dumps(request_.to_json()))
    again = Request.from_json(written)
    assert again.to_json() == written
    assert written["given"]["color_palette"] == {"data": ["#ff0080", "#202020"]}
    first, second = (each.run(model).results[0].tokens for each in (request_, again))
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_a_directory_keeps_the_tokenizers_of_parts(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = FourM.from_pretrained(tmp_path / "model")
    assert set(loaded.grids) == set(model.grids)
    assert loaded.fingerprint == model.fingerprint
    assert loaded.grids["rgb"].config.image_size == 32
    others = {**model.grids, "human_pose": tokenizer_of("human_pose", torch.Generator().manual_seed(9))}
    assert FourM(model.model, others, model.text).fingerprint != model.fingerprint  # which poses' tokens depend on
    for key in ("human_poses", "sam_instance", "dinov2_global", "rgb"):
        value = GIVEN.get(key, Image.new("RGB", (32, 32), "red"))
        assert np.array_equal(loaded.encode(key, value), model.encode(key, value))


def test_a_tokenizer_serves_the_sizes_that_it_was_trained_at(model, caplog):
    generator = torch.Generator().manual_seed(1)
    large = tokenizer_of("rgb", generator)
    spec = ModalitySpec(key="rgb", family="grid", vocab_size=9, grid=(4, 4))
    small = served(large, spec)
    assert (small.config.grid, small.model) == ((4, 4), large.model)
    assert not caplog.records  # no warning that reconstructions may be bad
    vector = tokenizer_of("dinov2_global", generator)
    assert served(vector, spec) is vector  # 16 tokens in a row are a grid of 4 × 4 for the model
    for wrong, fields in (
        (large, {"grid": (3, 3)}),
        (large, {"grid": (4, 8)}),
        (large, {"vocab_size": 8}),
        (vector, {"grid": (4, 5)}),
    ):
        other = ModalitySpec(**{"key": "rgb", "family": "grid", "vocab_size": 9, "grid": (4, 4), **fields})
        with pytest.raises(Open4MError, match=r"tokenizer rgb has 9 codes on a grid \(\d+, \d+\), the model expects"):
            served(wrong, other)
