"""open4m.fourm: features of images, maps and any other values, for other people's code."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_model import image, model, segments

from open4m.generate.pipeline import FourM
from open4m.model.fourm import FourMTransformer
from open4m.model.packing import DENSE, pack
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

__all__ = ["image", "model", "segments"]

TOLERANCE = 1e-5
"""Of features of order 1 in float32, in batches of other shapes; the largest measured difference is 4.8e-7."""


def equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


def with_registers(model, registers):
    config = replace(model.config, register_tokens=registers)
    transformer = FourMTransformer(config).initialize(torch.Generator().manual_seed(1))
    return FourM(transformer, model.grids, model.text)


def encoded_by_hand(model, image, caption=None):
    """`model.encode` on a batch written as a list of tokens: all patches of an image, then a caption."""
    pixels, words = model.config.index("rgb_pixels"), model.config.index("caption")
    tokens = [(0, pixels, position, DENSE) for position in range(16)]
    if caption is not None:
        tokens += [(0, words, place, int(token)) for place, token in enumerate(model.encode("caption", caption))]
    modality = model.modalities["rgb"]
    values = model.modalities["rgb_pixels"].pixels(modality.fit(modality.convert(image), 32))
    batch = pack(model.config, tokens, [], pixels={"rgb_pixels": values[None]})
    with torch.no_grad():
        return model.model.eval().encode(batch)


def test_features_of_an_image_are_the_encoder_s_on_its_grid(model, image):
    features = model.features({"rgb": image})
    assert features.shape == (1, 4, 4, 32)
    equal(features.flatten(1, 2), encoded_by_hand(model, image))


def test_features_of_a_tokenized_map_are_those_of_its_tokens(model, segments):
    features = model.features({"semseg": segments})
    tokens = model.encode("semseg", segments)
    index = model.config.index("semseg")
    batch = pack(model.config, [(0, index, position, int(token)) for position, token in enumerate(tokens)], [])
    with torch.no_grad():
        equal(features, model.model.eval().encode(batch).unflatten(1, (4, 4)))


def test_several_values_are_one_batch(model, image):
    other = image.transpose(0)
    together = model.features([{"rgb": image}, {"rgb": other}])
    assert together.shape == (2, 4, 4, 32)
    equal(together, torch.cat([model.features({"rgb": image}), model.features({"rgb": other})]))
    assert (together[0] - together[1]).abs().max() > 100 * TOLERANCE


def test_features_of_every_token_say_where_they_are(model, image):
    found = model.token_features({"rgb": image, "caption": "a red cube"})
    words = len(model.encode("caption", "a red cube"))
    keys = [model.config.keys[index] for index in found.modality[0].tolist()]
    assert found.tokens.shape == (1, 16 + words, 32)
    assert found.valid.all()
    assert keys == ["rgb_pixels"] * 16 + ["caption"] * words
    assert found.position[0].tolist() == [*range(16), *range(words)]
    equal(found.tokens, encoded_by_hand(model, image, "a red cube"))


def test_samples_of_unequal_length_are_as_if_alone(model, image, segments):
    samples = [
        {"caption": "a red cube"},
        {"rgb": image, "caption": "a blue ball on a cube"},
        {"semseg": segments},
    ]
    together = model.token_features(samples)
    lengths = together.valid.sum(1).tolist()
    assert len(set(lengths)) == 3
    for row, sample in enumerate(samples):
        alone = model.token_features(sample)
        assert alone.valid.all()
        equal(together.tokens[row, : lengths[row]], alone.tokens[0])
        assert not together.valid[row, lengths[row] :].any()
        equal(together.pooled[row], alone.pooled[0])


def test_the_pooled_vector_is_the_mean_without_padding(model, image):
    found = model.token_features([{"rgb": image}, {"caption": "a cube"}])
    assert found.pooled.shape == (2, 32)
    equal(found.pooled[0], found.tokens[0].mean(0))
    equal(found.pooled[1], found.tokens[1, found.valid[1]].mean(0))
    garbage = replace(found, tokens=torch.where(found.valid[..., None], found.tokens, 1e3))
    equal(garbage.pooled, found.pooled)


@pytest.mark.parametrize("registers", [1, 3])
def test_register_tokens_are_left_out(model, image, registers):
    own = with_registers(model, registers)
    assert own.features({"rgb": image}).shape == (1, 4, 4, 32)
    equal(own.features({"rgb": image}).flatten(1, 2), encoded_by_hand(own, image)[:, registers:])
    found = own.token_features([{"rgb": image}, {"caption": "a cube"}])
    assert found.tokens.shape[:2] == found.valid.shape == found.position.shape == found.modality.shape


def test_features_need_no_gradient_and_leave_the_model_as_it_is(model, image):
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    assert not model.features({"rgb": image}).requires_grad
    assert all(torch.equal(before[name], weight) for name, weight in model.model.state_dict().items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"caption": "a red cube"}, "lies on a grid, got caption; token_features takes any"),
        ({"rgb": None, "caption": "a red cube"}, "lies on a grid, got caption, rgb_pixels"),
        ([], "lies on a grid, got none"),
        ([{"rgb": None}, {}], "sample 1 has 0 values"),
        ({"rgb": None, "rgb_pixels": None}, "sample 0 has 2 values"),
        ({"depht": 0}, "did you mean depth?"),
        ({"normals": 0}, "normals: this model was not trained to read it"),
    ],
)
def test_what_has_no_features_on_a_grid_is_one_clear_error(model, values, message):
    with pytest.raises(Open4MError) as error:
        model.features(values)
    assert message in str(error.value)


def test_no_samples_and_values_of_other_types_are_clear_errors(model):
    with pytest.raises(Open4MError, match="at least one sample"):
        model.token_features([])
    with pytest.raises(Open4MError, match="caption"):
        model.token_features({"caption": 3})
    with pytest.raises(Open4MError, match="depth"):
        model.token_features({"depth": np.zeros(3)})
    for samples, row in (({}, 0), ([{"caption": "a"}, {}], 1)):
        with pytest.raises(Open4MError, match=f"at least one value per sample, sample {row} has none"):
            model.token_features(samples)
    for method in (model.features, model.token_features):
        for wrong in (None, 3, [None], [{"caption": "a"}, 3]):
            with pytest.raises(Open4MError, match=r"expected values by modality, .* an image, or a list of these"):
                method(wrong)
        with pytest.raises(Open4MError, match="no image file 'rgb'"):
            method("rgb")


# ---- at rest


def test_a_model_is_saved_whole_under_any_form_of_its_name_and_everyone_may_read_it(model, tmp_path, monkeypatch):
    before = os.umask(0o022)
    try:
        model.save(str(tmp_path / "deep" / "saved"))
    finally:
        os.umask(before)
    saved = tmp_path / "deep" / "saved"
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in saved.rglob("*") if path.is_file())
    assert FourM.from_pretrained(saved).fingerprint == model.fingerprint
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    with pytest.raises(Open4MError, match=r"saved: exists and is not empty; name another directory"):
        model.save(saved)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("open4m.tokenizers.text.TextTokenizer.save", full)
    with pytest.raises(Open4MError, match=r"other: cannot be written \(No space left on device\)"):
        model.save(tmp_path / "other")
    assert not list(tmp_path.glob("*other*"))


def test_a_run_is_taken_where_its_model_is_meant(model, tmp_path):
    model.save(tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text('{"format": 1}')
    assert FourM.from_pretrained(tmp_path / "run").fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("field", "number", "message"),
    [
        ("dim", 1 << 20, r"model\.safetensors: .* has shape"),
        ("encoder_depth", 300, "missing: encoder"),
        ("dim", 10**30, "dim: expected at most"),
        ("mlp_ratio", -1, "mlp_ratio: expected above 0"),
        ("mlp_ratio", float("nan"), "mlp_ratio: expected a number above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_no_memory_is_taken_for_a_configuration_that_its_weights_do_not_have(model, tmp_path, field, number, message):
    """A million by a million numbers would not be refused by the system, but end the process when they are written."""
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: number}))
    with pytest.raises(Open4MError, match=message):
        FourM.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("key", ["", "../up", "a/b", "a b", "/etc"])
def test_keys_that_are_no_names_of_folders_are_refused(model, tmp_path, key):
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    path.write_text(path.read_text().replace('"semseg"', json.dumps(key)))
    with pytest.raises(Open4MError, match="expected a name like 'rgb'"):
        FourM.from_pretrained(tmp_path / "saved")


@pytest.mark.usefixtures("unchecked")
def test_a_tokenizer_takes_no_memory_for_what_its_weights_do_not_have(model, tmp_path):
    model.grids["semseg"].save(tmp_path / "semseg")
    path = tmp_path / "semseg" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_dim": 1 << 20}))
    with pytest.raises(Open4MError, match=r"model\.safetensors: .*quant.* has shape"):
        Tokenizer.load(tmp_path / "semseg")


@pytest.mark.usefixtures("unchecked")
def test_quality_says_the_version_of_its_format(model, tmp_path):
    grid = model.grids["semseg"]
    quality, grid.quality = grid.quality, {"miou": 0.5}
    try:
        grid.save(tmp_path / "semseg")
    finally:
        grid.quality = quality
    path = tmp_path / "semseg" / "quality.json"
    assert json.loads(path.read_text())["format"] == 1
    assert Tokenizer.load(tmp_path / "semseg").quality == {"miou": 0.5}
    path.write_text('{"miou": 0.25}')  # as older versions wrote it
    assert Tokenizer.load(tmp_path / "semseg").quality == {"miou": 0.25}
    path.write_text('{"format": 9, "miou": 0.25}')
    with pytest.raises(Open4MError, match=r"quality\.json: has format 9"):
        Tokenizer.load(tmp_path / "semseg")
