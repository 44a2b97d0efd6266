"""Metadata: numbers of pictures whose values are known."""

import numpy as np
import pytest

from open4m.labellers.metadata import MetadataLabeller, MetadataSettings, of_boxes, of_caption, of_image
from open4m.types import Boxes


def test_numbers_of_simple_images():
    gray = of_image(np.full((32, 96, 3), 100, np.uint8))
    assert {name: pytest.approx(value) for name, value in gray.items()} == {
        "original_width": 96,
        "original_height": 32,
        "colorfulness": 0,
        "brightness": 100,
        "contrast": 0,
        "saturation": 0,
        "entropy": 0,
    }
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255
    found = of_image(half)
    assert (found["brightness"], found["contrast"], found["entropy"]) == (127.5, 127.5, 1.0)
    half[:4] = (255, 0, 0)
    found = of_image(half)
    assert found["saturation"] == 127.5
    opponents = np.array([[255, 0], [127.5, 0]])  # red - green, (red + green) / 2 - blue; half of the picture each
    deviation, mean = np.hypot(*opponents.std(1)), np.hypot(*opponents.mean(1))
    assert found["colorfulness"] == pytest.approx(deviation + 0.3 * mean)


def test_counts_of_captions_and_boxes():
    assert of_caption("A cat. It sleeps!  Why? no end") == {
        "caption_n_chars": 30,
        "caption_n_words": 7,
        "caption_n_sentences": 4,
    }
    assert of_caption("")["caption_n_sentences"] == 0
    boxes = Boxes(np.array([[0, 0, 1, 1]] * 3), ("person", "cat", "person"))
    assert of_boxes(boxes) == {"n_humans": 2, "n_coco_instances": 3, "coco_instance_diversity": 2}


def test_what_a_sample_lacks_is_left_out():
    labeller = MetadataLabeller(MetadataSettings(of=("caption", "boxes")))
    assert labeller.sources == ("rgb", "caption", "boxes")
    image = np.zeros((64, 64, 3), np.uint8)
    both, one = labeller.label_samples([{"rgb": image, "caption": "a cat"}, {"rgb": image}])
    assert both["caption_n_words"] == 2
    assert "caption_n_words" not in one
    assert one["original_width"] == 64
    assert labeller.label([image]) == [one]
    assert labeller.fingerprint != MetadataLabeller().fingerprint
