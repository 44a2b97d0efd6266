"""Features of networks of several classes: the last layer's patches row by row, and one vector of the image."""

import numpy as np
import pytest
import torch
from tiny_networks import clip, convnext, dinov2, dinov3, photo, siglip, siglip2

from open4m.labellers.clip import CLIPLabeller
from open4m.labellers.features import FeatureLabeller, FeatureSettings
from open4m.types import Open4MError

pytestmark = pytest.mark.xdist_group("networks")

IMAGES = [photo(30, 30), photo(64, 64, 1)]


@pytest.mark.parametrize("make", [clip, dinov2, dinov3, siglip, siglip2, convnext])
def test_maps_and_vectors(tmp_path, make):
    folder = str(make(tmp_path / "network"))
    dense = FeatureLabeller.load(folder, modality="clip")
    maps = dense.label(IMAGES)
    assert all(each.ndim == 3 and each.shape[0] == each.shape[1] for each in maps)
    np.testing.assert_allclose(dense.label(IMAGES[1:])[0], maps[1], atol=1e-5)
    (vector,) = FeatureLabeller.load(folder, modality="dinov2_global").label(IMAGES[:1])
    assert vector.shape == maps[0].shape[2:]
    assert dense.square


def test_a_patch_has_the_place_of_what_it_shows(tmp_path):
    """The map of an image whose upper right quarter changes, changes there alone."""
    for make in (dinov2, dinov3, siglip2):
        labeller = FeatureLabeller.load(str(make(tmp_path / make.__name__)))
        labeller.network.requires_grad_(False)
        for name, module in labeller.network.named_modules():  # without attention patches see only themselves
            if name.endswith(("attention.output", "out_proj", "o_proj")):
                module.register_forward_hook(lambda m, a, output: output * 0)
        image, middle = photo(labeller.side, labeller.side), labeller.side // 2
        other = image.copy()
        other[:middle, middle:] = 255 - other[:middle, middle:]
        changed = np.abs(np.subtract(*labeller.label([image, other]))).sum(-1) > 1e-4
        half = len(changed) // 2
        assert changed[:half, half:].all()
        assert not changed[half:].any()
        assert not changed[:, :half].any()


def test_clip_is_what_the_labeller_of_scenes_makes(tmp_path):
    from transformers.models.clip.modeling_clip import CLIPModel

    from open4m.labellers.clip import fit_text_tokenizer

    folder = clip(tmp_path / "network")
    labeller = FeatureLabeller.load(str(folder), modality="clip")
    network = CLIPModel.from_pretrained(folder)
    network.config.text_config.eos_token_id = 3
    other = CLIPLabeller(
        network.eval(), fit_text_tokenizer(["a b"]), labeller.preprocessing.mean, labeller.preprocessing.std
    )
    np.testing.assert_allclose(labeller.label(IMAGES)[1], other.label(IMAGES)[1], atol=1e-5)


def test_global_features_are_the_class_token(tmp_path):
    labeller = FeatureLabeller.load(str(dinov2(tmp_path / "network", registers=True)), modality="dinov2_global")
    with torch.inference_mode():
        pixels = labeller.preprocessing(IMAGES[:1], (28, 28))
        expected = labeller.network(pixel_values=pixels).last_hidden_state[0, 0]
    np.testing.assert_allclose(labeller.label(IMAGES[:1])[0], expected.numpy(), atol=1e-5)


def test_size_and_layer_are_settings(tmp_path):
    folder = str(dinov2(tmp_path / "network"))
    large = FeatureLabeller.load(folder, settings=FeatureSettings(image_size=56))
    assert large.label(IMAGES)[0].shape == (4, 4, 16)
    first = FeatureLabeller.load(folder, settings=FeatureSettings(layer=2))
    assert first.fingerprint != FeatureLabeller.load(folder).fingerprint
    assert not np.allclose(first.label(IMAGES)[0], FeatureLabeller.load(folder).label(IMAGES)[0])
    with pytest.raises(Open4MError, match=r"a multiple of 14 pixels: --set dinov2\.image_size"):
        FeatureLabeller.load(folder, settings=FeatureSettings(image_size=30))
    with pytest.raises(Open4MError, match="has 2 layers, got 9"):
        FeatureLabeller.load(folder, settings=FeatureSettings(layer=9)).label(IMAGES)
