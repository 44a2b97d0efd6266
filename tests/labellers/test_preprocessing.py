"""Images as networks get them: the paper's sizes, and what the image processors of transformers do."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import photo

from open4m.labellers.checkpoints import Checkpoint
from open4m.labellers.preprocessing import Preprocessing, sides
from open4m.types import Open4MError

pytestmark = pytest.mark.xdist_group("networks")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((480, 640), (480, 640)),
        ((481, 655), (480, 640)),  # nearest multiples of 32
        ((465, 623), (480, 608)),
        ((10, 2000), (32, 736)),  # 768 is not below 768
        ((768, 768), (736, 736)),
        ((767, 100), (736, 96)),
        ((3000, 4000), (544, 736)),
        ((1, 1), (32, 32)),
    ],
)
def test_sides_are_the_nearest_multiples_of_32_below_768(image, expected):
    assert sides(*image) == expected


def test_other_multiples_and_limits():
    assert sides(500, 700, multiple=14, longest=519) == (364, 518)
    with pytest.raises(Open4MError, match="at least 64 pixels are not below 33"):
        sides(100, 100, multiple=64, longest=33)


KINDS = {
    "DPTImageProcessor": {"size": {"height": 28, "width": 42}, "keep_aspect_ratio": True, "ensure_multiple_of": 14},
    "GLPNImageProcessor": {"size_divisor": 16},
    "SegformerImageProcessor": {"size": {"height": 24, "width": 24}},
    "RTDetrImageProcessor": {"size": {"height": 32, "width": 32}},
    "DetrImageProcessor": {"size": {"shortest_edge": 20, "longest_edge": 28}, "do_pad": False},
    "SiglipImageProcessor": {"size": {"height": 24, "width": 24}},
    "ViTImageProcessor": {"size": {"height": 24, "width": 24}, "rescale_factor": 1 / 127.5, "do_normalize": True},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 24}, "do_center_crop": False, "do_flip_channel_order": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_image_processor_does(tmp_path, kind):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **KINDS[kind]}))
    checkpoint, image = Checkpoint(str(tmp_path)), photo(40, 56)
    preprocessing = Preprocessing.of(checkpoint)
    expected = checkpoint.processor("AutoImageProcessor")(images=Image.fromarray(image), return_tensors="pt")
    expected = expected["pixel_values"]
    assert preprocessing.own(40, 56) == tuple(expected.shape[-2:])
    found = preprocessing([image], tuple(expected.shape[-2:]))
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("config", "size", "middle"),
    [
        ({"image_processor_type": "DINOv3ViTImageProcessorFast"}, (224, 224), (0.5 - 0.485) / 0.229),
        ({"image_processor_type": "DepthProImageProcessorFast"}, (1536, 1536), 0.0),
        ({"image_processor_type": "RfDetrImageProcessor"}, (800, 1066), (0.5 - 0.485) / 0.229),
        ({"image_processor_type": "Sapiens2ImageProcessor", "image_mean": [0.4, 0.5, 0.6]}, (1024, 768), 0.1 / 0.229),
        ({"image_processor_type": "Tipsv2DptImageProcessor", "size": {"height": 28, "width": 56}}, (28, 56), 0.5),
    ],
)
def test_those_that_need_torchvision_are_read_from_their_configuration(tmp_path, config, size, middle):
    """A gray of one half, as a number of the first channel."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    preprocessing = Preprocessing.of(Checkpoint(str(tmp_path)))
    assert preprocessing.own(480, 640) == size
    gray = preprocessing([np.full((8, 8, 3), 127, np.uint8), np.full((8, 8, 3), 128, np.uint8)], (8, 8)).mean(0)
    torch.testing.assert_close(gray[0], torch.full((8, 8), middle), atol=1e-5, rtol=0)


def test_a_configuration_in_a_processor_s_is_found_and_a_bad_one_is_an_error(tmp_path):
    inner = {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert Preprocessing.of(Checkpoint(str(tmp_path))).own(5, 9) == (24, 24)
    for field, value in (("image_mean", [1, 2]), ("image_std", [1, 0, 1]), ("size", {"height": -1, "width": 3})):
        config = {"do_normalize": True, "image_mean": [0] * 3, "image_std": [1] * 3, "resample": 2, "size": None}
        with pytest.raises(Open4MError, match="somewhere"):
            Preprocessing.of_config({**config, field: value}, "somewhere")
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(Open4MError, match=r"has no preprocessor_config\.json"):
        Preprocessing.of(Checkpoint(str(tmp_path)))
