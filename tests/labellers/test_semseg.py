"""Semantic segmentation by networks of several classes: the classes that transformers finds, in the image's frame."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import eomt, mask2former, oneformer, photo, segformer
from tiny_relatives import beit, maskformer, upernet

from open4m.labellers.semseg import SemsegLabeller, SemsegSettings, argmax, class_scores

pytestmark = pytest.mark.xdist_group("networks")

IMAGES = [photo(40, 60), photo(64, 64, 1), photo(40, 60, 2)]


@pytest.mark.parametrize("make", [segformer, mask2former, eomt, oneformer, upernet, beit, maskformer])
def test_class_maps_have_the_image_s_size_and_do_not_depend_on_others(tmp_path, make):
    labeller = SemsegLabeller.load(str(make(tmp_path / "network")))
    found = labeller.label(IMAGES)
    assert [each.shape for each in found] == [(40, 60), (64, 64), (40, 60)]
    assert all(each.dtype == np.uint8 and each.max() < 3 for each in found)
    assert labeller.about == {"classes": ["wall", "cat", "sky"]}
    assert (labeller.label(IMAGES[2:])[0] == found[2]).mean() > 0.999  # other batch sizes sum in another order


@pytest.mark.parametrize(("make", "side", "resizes"), [(mask2former, 384, True), (maskformer, 64, False)])
def test_they_are_those_of_the_processor_of_transformers(tmp_path, make, side, resizes):
    """At the size at which it resizes masks first, if it does, so that nothing is resized twice."""
    labeller = SemsegLabeller.load(str(make(tmp_path / "network")))
    image = photo(side, side)
    size = labeller.size_of(image)
    with torch.inference_mode():
        output = labeller.network(pixel_values=labeller.preprocessing([image], size))
    processor = labeller.checkpoint.processor("AutoImageProcessor")
    expected = processor.post_process_semantic_segmentation(output, target_sizes=[(side, side)])[0].numpy()
    queries = output.class_queries_logits[0], output.masks_queries_logits[0]
    size = (side, side) if resizes else queries[1].shape[-2:]
    found = argmax(class_scores(*queries, size), (side, side)).numpy()
    assert len(np.unique(expected)) > 1
    assert np.array_equal(found, expected)


def test_windows_are_those_of_the_processor_of_transformers(tmp_path):
    labeller = SemsegLabeller.load(str(eomt(tmp_path / "windows")))
    inputs = labeller.processor(images=Image.fromarray(IMAGES[0]), return_tensors="pt")
    offsets = inputs.pop("patch_offsets")
    with torch.inference_mode():
        output = labeller.network(**inputs)
    output.patch_offsets = offsets
    expected = labeller.processor.post_process_semantic_segmentation(output, target_sizes=[(40, 60)])[0]
    assert np.array_equal(labeller.label(IMAGES[:1])[0], expected.numpy())
    padded = SemsegLabeller.load(str(eomt(tmp_path / "padded", splits=False)))
    assert padded.label(IMAGES[:1])[0].shape == (40, 60)


def test_panoptic_queries_become_classes_per_pixel():
    """Two queries of one class together outweigh a surer one of another; no object counts nowhere."""
    classes = torch.tensor([[5.0, 0, 0], [5.0, 0, 0], [0, 6.0, 0], [0, 0, 9.0]])
    masks = torch.tensor([[[0.5, -9]], [[0.5, -9]], [[1.0, 3.0]], [[9.0, 9.0]]])
    assert argmax(class_scores(classes, masks, (1, 2)), (1, 2)).tolist() == [[0, 1]]


def test_classes_are_compared_one_after_another_as_argmax_does():
    scores = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    scores[3] = scores[2]  # of equal classes the first
    whole = torch.nn.functional.interpolate(scores[None], (11, 13), mode="bilinear")[0].argmax(0)
    assert torch.equal(argmax(scores, (11, 13)), whole)


def test_the_task_is_what_the_user_says(tmp_path):
    folder = str(oneformer(tmp_path / "network"))
    tasks = [SemsegLabeller.load(folder, settings=SemsegSettings(task=task)) for task in ("semantic", "panoptic")]
    assert not torch.equal(tasks[0].extra["task_inputs"], tasks[1].extra["task_inputs"])
    assert tasks[0].fingerprint != tasks[1].fingerprint
