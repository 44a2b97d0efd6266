"""Captions by networks of several classes: greedy, one line, without what was asked."""

import pytest
from tiny_networks import blip, idefics3, photo, qwen3_vl
from tiny_relatives import blip2, florence2

from open4m.labellers.captions import CaptionLabeller, CaptionSettings

pytestmark = pytest.mark.xdist_group("networks")

IMAGES = [photo(40, 60), photo(64, 64, 1), photo(40, 60, 2)]


@pytest.mark.parametrize("make", [blip, blip2, florence2, idefics3, qwen3_vl])
def test_a_caption_does_not_depend_on_others(tmp_path, make):
    """Qwen3-VL's processor reads videos too, for which transformers needs torchvision: images need none."""
    labeller = CaptionLabeller.load(str(make(tmp_path / "network")), settings=CaptionSettings(longest=4))
    found = labeller.label(IMAGES)
    assert [labeller.label([image])[0] for image in IMAGES] == found
    assert all("user :" not in text and "\n" not in text and len(text.split()) <= 4 for text in found)
    assert any(found)


def test_what_is_asked_is_in_the_manifest_and_changes_the_fingerprint(tmp_path):
    folder = str(idefics3(tmp_path / "network"))
    labeller = CaptionLabeller.load(folder)
    assert labeller.about == {"prompt": "user : <image> Describe this image in one sentence."}
    other = CaptionLabeller.load(folder, settings=CaptionSettings(prompt="photo of"))
    assert other.about == {"prompt": "user : <image> photo of"}
    assert other.fingerprint != labeller.fingerprint
