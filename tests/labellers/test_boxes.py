"""Boxes by detectors of several classes: those that transformers finds, as fractions of the image."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import detr, grounding_dino, owlv2, photo, rt_detr
from tiny_relatives import d_fine, rf_detr, rt_detr_v2, yolos

from open4m.labellers.boxes import BoxLabeller, BoxSettings
from open4m.types import Boxes, Open4MError

pytestmark = pytest.mark.xdist_group("networks")

IMAGES = [photo(40, 60), photo(64, 64, 1), photo(40, 60, 2)]
CLOSED = (detr, rt_detr, rt_detr_v2, d_fine, rf_detr, yolos)
WORDS = {"classes": ("cat", "dog")}


def close(found: Boxes, expected: Boxes) -> None:
    assert found.labels == expected.labels
    np.testing.assert_allclose(found.corners, expected.corners, atol=2e-3)
    np.testing.assert_allclose(found.scores or (), expected.scores or (), atol=2e-3)


@pytest.mark.parametrize(
    ("make", "options"),
    [*((make, {}) for make in CLOSED), (owlv2, WORDS), (grounding_dino, WORDS)],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_boxes_are_sure_enough_in_the_image_and_of_known_classes(tmp_path, make, options):
    folder = str(make(tmp_path / "network"))
    labeller = BoxLabeller.load(folder, settings=BoxSettings(score=0.3, **options))
    found = labeller.label(IMAGES)
    assert sum(map(len, found)) > 0
    for value in found:
        assert set(value.labels) <= set(labeller.about["classes"])
        assert list(value.scores or ()) == sorted(value.scores or (), reverse=True)
        assert all(score >= 0.3 for score in value.scores or ())
    best = max(found, key=lambda value: value.scores[0] if len(value) else 0)
    threshold = best.scores[0]
    sure = BoxLabeller.load(folder, settings=BoxSettings(score=threshold, **options)).label(IMAGES)
    assert sum(map(len, sure)) in (1, 2)  # a box of exactly that score stays
    assert BoxSettings().score == 0.6


@pytest.mark.parametrize("make", [detr, rt_detr, d_fine, yolos])
def test_they_are_those_of_the_processor_of_transformers(tmp_path, make):
    labeller = BoxLabeller.load(str(make(tmp_path / "network")), settings=BoxSettings(score=0.3))
    image = IMAGES[0]
    pixels, _ = labeller._pixels(image)
    with torch.inference_mode():
        output = labeller.network(pixel_values=pixels)
    processor = labeller.checkpoint.processor("AutoImageProcessor")
    (expected,) = processor.post_process_object_detection(output, threshold=0.3, target_sizes=[image.shape[:2]])
    names, order = labeller.config.id2label, expected["scores"].argsort(descending=True, stable=True)
    corners = (expected["boxes"][order] / torch.tensor([60, 40, 60, 40])).clamp(0, 1).numpy()
    labels = [names[i] for i in expected["labels"][order].tolist()]
    places = corners.round(5).tolist()  # some processors give a query's next best class too, in place of another query
    kept = [i for i, label in enumerate(labels) if label != "N/A" and places[i] not in places[:i]]
    scores = tuple(expected["scores"][order][kept].tolist())
    found, count = labeller.label([image])[0], len(kept)
    assert count
    first = Boxes(found.corners[:count], found.labels[:count], (found.scores or ())[:count] or None)
    close(first, Boxes(corners[kept], [labels[i] for i in kept], scores or None))


def test_owl_s_square_is_undone_as_transformers_does(tmp_path):
    labeller = BoxLabeller.load(str(owlv2(tmp_path / "network")), settings=BoxSettings(score=0.3, **WORDS))
    image = IMAGES[0]
    pixels, extent = labeller._pixels(image)
    assert extent == (1.0, 40 / 60)
    processor = labeller.checkpoint.processor("AutoImageProcessor")
    theirs = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
    assert (theirs - pixels).abs().mean() < 0.05  # it resizes with another filter
    with torch.inference_mode():
        output = labeller.network(pixel_values=pixels, **labeller.texts)
    (expected,) = processor.post_process_object_detection(output, threshold=0.3, target_sizes=[(40, 60)])
    corners = (expected["boxes"] / torch.tensor([60, 40, 60, 40])).clamp(0, 1)
    inside = (corners[:, 2:] > corners[:, :2]).all(-1)
    order = expected["scores"][inside].argsort(descending=True, stable=True)
    found = labeller.label([image])[0]
    np.testing.assert_allclose(found.corners, corners[inside][order].numpy(), atol=2e-3)
    assert list(found.labels) == [WORDS["classes"][i] for i in expected["labels"][inside][order].tolist()]


def test_grounding_dino_s_classes_are_the_user_s_and_have_the_score_of_their_surest_word(tmp_path):
    folder = str(grounding_dino(tmp_path / "network"))
    labeller = BoxLabeller.load(folder, settings=BoxSettings(classes=("a photo of a cat", "dog")))
    text = labeller.tokenizer.convert_ids_to_tokens(labeller.texts["input_ids"][0])
    assert text == ["[CLS]", "a", "photo", "of", "a", "cat", ".", "dog", ".", "[SEP]"]
    logits = torch.full((2, 32), -9.0)
    logits[0, 5], logits[0, 7], logits[1, 7], logits[1, 6] = 1.0, 0.5, 2.0, 8.0  # the last one is the full stop
    torch.testing.assert_close(labeller.scored(logits), torch.tensor([[1.0, 0.5], [-9.0, 2.0]]).sigmoid())
    with pytest.raises(Open4MError, match=r"told in words: say --set boxes\.classes=cat,dog"):
        BoxLabeller.load(folder)
    with pytest.raises(Open4MError, match="too many words"):
        BoxLabeller.load(folder, settings=BoxSettings(classes=tuple("cat" for _ in range(200))))


def test_classes_are_kept_as_asked(tmp_path):
    folder = str(rt_detr(tmp_path / "network"))
    every = BoxLabeller.load(folder, settings=BoxSettings(score=0.1)).label(IMAGES)
    found = [name for value in every for name in value.labels]
    name = max(set(found), key=found.count)  # what a network with random weights finds depends on the machine
    kept = BoxLabeller.load(folder, settings=BoxSettings(score=0.1, classes=(name,))).label(IMAGES)
    assert [label for value in kept for label in value.labels] == [name] * found.count(name)
    with pytest.raises(Open4MError, match="finds no unicorn, its classes are wall, cat, sky"):
        BoxLabeller.load(folder, settings=BoxSettings(classes=("unicorn",)))
