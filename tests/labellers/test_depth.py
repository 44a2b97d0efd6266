"""Depth by networks of several classes: meters or what else they give, in the image's frame, one by one."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import depth_anything, depth_pro, dpt, glpn, photo
from tiny_relatives import zoedepth

from open4m import labellers, modalities
from open4m.labellers.depth import DepthLabeller, DepthSettings
from open4m.types import Open4MError

pytestmark = pytest.mark.xdist_group("networks")

IMAGES = [photo(40, 60), photo(64, 64, 1), photo(40, 60, 2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("depth")
    makers = {"depth_anything": depth_anything, "glpn": glpn, "depth_pro": depth_pro, "dpt": dpt}
    return {name: make(root / name) for name, make in makers.items()}


@pytest.mark.parametrize(("name", "most"), [("depth_anything", 20), ("glpn", 10)])
def test_metric_networks_give_meters_at_the_image_s_size(folders, name, most):
    labeller = DepthLabeller.load(str(folders[name]))
    found = labeller.label(IMAGES)
    assert [each.shape for each in found] == [(40, 60), (64, 64), (40, 60)]
    assert all(each.min() > 0 and each.max() < most and each.std() > 0.1 for each in found)
    assert labeller.about == {"unit": "meters"}
    for image, depth in zip(IMAGES, found, strict=True):  # other batch sizes sum in another order: 6e-6 of 17 measured
        np.testing.assert_allclose(labeller.label([image])[0], depth, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_zoedepth_s_heads_give_meters(tmp_path, heads):
    """With two of them the network chooses one per image: its output is of another shape than with one."""
    labeller = DepthLabeller.load(str(zoedepth(tmp_path / "network", heads)))
    found = labeller.label(IMAGES)
    assert [each.shape for each in found] == [(40, 60), (64, 64), (40, 60)]
    assert all(0 < each.min() < each.max() < 80 for each in found)
    assert labeller.about == {"unit": "meters", "border": "mirrored"}
    np.testing.assert_allclose(labeller.label(IMAGES[2:])[0], found[2], rtol=1e-5)


def test_zoedepth_sees_a_mirrored_border_as_its_processor_makes_it(tmp_path, monkeypatch):
    labeller = DepthLabeller.load(str(zoedepth(tmp_path / "network")), settings=DepthSettings(size="own"))
    seen = []
    run = lambda images: (seen.append(images), images.mean(1, keepdim=True) + 2)[1]  # noqa: E731
    monkeypatch.setattr(labeller, "_run", run)
    (found,) = labeller.label(IMAGES[:1])
    processor = labeller.checkpoint.processor("AutoImageProcessor")
    theirs = processor(images=Image.fromarray(IMAGES[0]), return_tensors="pt")["pixel_values"]
    assert theirs.shape == seen[0].shape
    assert (theirs - seen[0]).abs().mean() < 0.05  # it resizes with other corners
    np.testing.assert_allclose(found, 2 + (IMAGES[0] / 127.5 - 1).mean(-1), atol=0.1)


def test_the_network_sees_the_sides_of_the_paper(folders):
    seen = []
    for name, expected in (
        ("glpn", (480, 736)),
        ("depth_anything", (476, 742)),
    ):  # multiples of 32, and of patches of 14
        labeller = DepthLabeller.load(str(folders[name]))
        assert labeller.size_of(np.zeros((480, 740, 3), np.uint8)) == expected
        labeller.network.register_forward_pre_hook(
            lambda m, a, k: seen.append(k["pixel_values"].shape), with_kwargs=True
        )
        labeller.label(IMAGES[:1])
    assert [tuple(shape) for shape in seen] == [(1, 3, 32, 64), (1, 3, 42, 56)]
    own = DepthLabeller.load(str(folders["depth_anything"]), settings=DepthSettings(size="own"))
    assert own.size_of(np.zeros((480, 740, 3), np.uint8)) == (518, 798)


def test_relative_networks_are_refused_unless_the_user_accepts_that_the_unit_is_lost(folders, tmp_path):
    relative = depth_anything(tmp_path / "relative", "relative")
    for folder in (folders["dpt"], relative):
        with pytest.raises(Open4MError, match=r"relative disparity.*not meters.*depth\.relative=standardize"):
            DepthLabeller.load(str(folder))
    labeller = DepthLabeller.load(str(folders["dpt"]), settings=DepthSettings(relative="standardize", span=4))
    found = labeller.label(IMAGES[:1])[0]
    assert (labeller.form, labeller.about) == ("standardized", {"unit": "disparity"})
    with torch.inference_mode():
        size = labeller.size_of(IMAGES[0])
        disparity = labeller.network(pixel_values=labeller.preprocessing(IMAGES[:1], size)).predicted_depth[None]
    near = torch.nn.functional.interpolate(disparity, (40, 60), mode="bilinear")[0, 0].numpy()
    near = (near - near.min()) / np.ptp(near)
    meters = 1 / (0.25 + 0.75 * near)  # the farthest is four times as far as the nearest
    assert found[np.unravel_index(near.argmax(), near.shape)] == found.min()  # larger disparity is nearer
    np.testing.assert_allclose(found, modalities.get("depth").to_form(meters, "standardized"), atol=1e-3)


def test_depth_pro_s_inverse_depth_is_that_of_its_field_of_view(folders):
    """Its canonical inverse depth is for a focal length of one image width."""
    labeller = DepthLabeller.load(str(folders["depth_pro"]))
    values = {"predicted_depth": torch.full((1, 8, 8), 0.25), "field_of_view": torch.tensor([90.0])}
    labeller.network.forward = lambda pixel_values: type("Output", (), values)
    np.testing.assert_allclose(labeller.label(IMAGES[:1])[0], 2.0, rtol=1e-6)  # 1 / (0.25 · 2 tan 45°)
    assert labeller.size_of(IMAGES[0]) == (32, 32)  # its one size


def test_what_is_no_depth_is_an_error_and_zeros_are_a_millimeter(folders):
    labeller = DepthLabeller.load(str(folders["glpn"]))
    labeller.network.forward = lambda pixel_values: type("Output", (), {"predicted_depth": torch.zeros(1, 8, 8)})
    assert (labeller.label(IMAGES[:1])[0] == np.float32(1e-3)).all()
    labeller.network.forward = lambda pixel_values: type(
        "Output", (), {"predicted_depth": torch.full((1, 2, 2), np.nan)}
    )
    with pytest.raises(Open4MError, match="not finite"):
        labeller.label(IMAGES[:1])


def test_the_fingerprint_covers_weights_and_settings_that_change_labels(folders, tmp_path):
    def fingerprint(folder, **settings):
        return DepthLabeller.load(str(folder), settings=DepthSettings(**settings)).fingerprint

    base = fingerprint(folders["glpn"])
    assert fingerprint(folders["glpn"], batch_size=2) == base
    assert fingerprint(folders["glpn"], size="own") != base
    assert fingerprint(folders["glpn"], precision="bfloat16") != base
    (tmp_path / "moved").symlink_to(folders["glpn"])
    assert fingerprint(tmp_path / "moved") == base
    assert labellers.named("depth", str(folders["glpn"])) == ("depth", str(folders["glpn"]))


def test_half_precision_gives_about_the_same(folders):
    full = DepthLabeller.load(str(folders["glpn"])).label(IMAGES[:1])[0]
    half = DepthLabeller.load(str(folders["glpn"]), settings=DepthSettings(precision="bfloat16")).label(IMAGES[:1])[0]
    assert 0 < np.abs(full - half).max() < 0.2
