"""Average precision is that of COCO's own code, whose figures are stored in pycocotools.json.

That file was made with pycocotools 2.0.11 in an environment of its own, by

    import json
    import numpy as np
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    SIZES = [(200, 260), (150, 150), (90, 120), (64, 64), (120, 80)]  # no object in the third, nothing in the fourth

    def runs(box, size):  # of the ellipse in a box
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        x, y = (2 * x - box[0] - box[2]) / (box[2] - box[0]), (2 * y - box[1] - box[3]) / (box[3] - box[1])
        return mask.encode(np.asfortranarray((x**2 + y**2 <= 1).astype(np.uint8)))

    def box_of(size):
        middle, half = rng.uniform(0.2, 0.8, 2) * size[::-1], rng.uniform(4, 110, 2)
        corners = np.concatenate([middle - half, middle + half]).clip(0, [*size[::-1]] * 2)
        return [round(float(c), 1) for c in corners]

    def near(box, size, width):
        moved = (np.array(box) + rng.normal(0, width, 4)).round(1).clip(0, [*size[::-1]] * 2)
        moved[2:] = np.maximum(moved[2:], moved[:2] + 2)
        return moved.tolist()

    true, found = [], []
    for place, size in enumerate(SIZES):
        objects = [] if place in (2, 3) else [box_of(size) for _ in range(9)]
        kinds = rng.integers(0, 3, len(objects)).tolist()  # of four classes; nothing is of the last one
        crowd = [i in (2, 6) for i in range(len(objects))]
        masks = [runs(box, size) for box in objects]
        true.append({"boxes": objects, "classes": kinds, "crowd": crowd, "area": [int(mask.area(m)) for m in masks],
                     "masks": [m["counts"].decode() for m in masks], "size": size})
        boxes, classes, scores = [], [], []
        for box, kind in zip(objects, kinds):
            for width in (1, 6, 20)[: rng.integers(1, 4)]:
                boxes.append(near(box, size, width))
                classes.append(kind if rng.random() < 0.9 else int(rng.integers(0, 4)))
                scores.append(round(rng.uniform(), 1))  # many are equal
        for _ in range(0 if place == 3 else 130 if place == 1 else 4):
            boxes.append(near(box_of(size), size, 1))
            classes.append(0 if place == 1 else int(rng.integers(0, 4)))
            scores.append(round(rng.uniform(0, 0.7), 2))
        if place == 4:  # objects, but nothing is found
            boxes, classes, scores = [], [], []
        masks = [runs(box, size)["counts"].decode() for box in boxes]
        found.append({"boxes": boxes, "classes": classes, "scores": scores, "masks": masks})

    def row(i, values, j, **more):
        x0, y0, x1, y1 = values["boxes"][j]
        runs = {"size": SIZES[i], "counts": values["masks"][j]}
        return {"image_id": i + 1, "category_id": values["classes"][j] + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": runs, **more}

    rows = [row(i, each, j, area=each["area"][j], iscrowd=int(each["crowd"][j]))
            for i, each in enumerate(true) for j in range(len(each["boxes"]))]
    coco = COCO()
    coco.dataset = {"images": [{"id": i + 1, "height": h, "width": w} for i, (h, w) in enumerate(SIZES)],
                    "categories": [{"id": k + 1, "name": str(k)} for k in range(4)],
                    "annotations": [{"id": n, **r} for n, r in enumerate(rows, 1)]}
    coco.createIndex()
    figures = {}
    for kind, left_out in (("bbox", "segmentation"), ("segm", "bbox")):
        results = [row(i, each, j, score=each["scores"][j]) for i, each in enumerate(found)
                   for j in range(len(each["boxes"]))]
        results = [{name: value for name, value in r.items() if name != left_out} for r in results]
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        figures[kind] = evaluation.stats[:6].tolist()
    json.dump({"true": true, "found": found, "figures": figures}, open("pycocotools.json", "w"))
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from open4m.datasets.labelled.base import Instances
from open4m.datasets.labelled.run_lengths import decode, encode
from open4m.transfer.detection.precision import FIGURES, average_precision, precision_recall
from open4m.types import Open4MError

STORED = json.loads(Path(__file__).with_name("pycocotools.json").read_text())
NAMES = ("zero", "one", "two", "three")


def stored():
    """Detections, objects and sizes as the library has them."""
    found, true, sizes = [], [], [tuple(each["size"]) for each in STORED["true"]]
    for size, objects, detections in zip(sizes, STORED["true"], STORED["found"], strict=True):
        masks = [decode(counts, size) for counts in objects["masks"]]
        true.append(
            Instances(
                boxes=np.array(objects["boxes"], np.float32).reshape(-1, 4),
                classes=np.array(objects["classes"], np.int64),
                masks=np.array(masks, dtype=bool).reshape(-1, *size),
                crowd=np.array(objects["crowd"], dtype=bool),
                area=np.array(objects["area"], np.float32),
            )
        )
        found.append(
            {
                "boxes": np.array(detections["boxes"], np.float64).reshape(-1, 4),
                "classes": np.array(detections["classes"], np.int64),
                "scores": np.array(detections["scores"]),
                "masks": [{"size": list(size), "counts": counts} for counts in detections["masks"]],
            }
        )
    return found, true, sizes


def test_figures_are_those_of_pycocotools():
    """With crowds, equal scores, images without objects or detections or either, and more than 100 detections."""
    found, true, sizes = stored()
    figures = average_precision(found, zip(true, sizes, strict=True), NAMES)
    expected = dict(zip(FIGURES, STORED["figures"]["bbox"], strict=True))
    expected |= {f"mask_{name}": value for name, value in zip(FIGURES, STORED["figures"]["segm"], strict=True)}
    assert list(figures) == list(expected)
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-6), name
    assert len({round(value, 3) for value in expected.values()}) > 8  # they differ, and none is 0 or 1
    assert 0.05 < min(expected.values()) <= max(expected.values()) < 0.95
    assert any(len(each["boxes"]) > 100 for each in found)
    without = [{name: value for name, value in each.items() if name != "masks"} for each in found]
    assert average_precision(without, zip(true, sizes, strict=True), NAMES) == {name: figures[name] for name in FIGURES}


def test_the_mean_of_a_curve_is_the_average_precision_of_its_overlap():
    found, true, sizes = stored()
    figures = average_precision(found, zip(true, sizes, strict=True), NAMES)
    curves = precision_recall(found, zip(true, sizes, strict=True), NAMES)
    named = {"boxes, IoU 0.5": "ap50", "boxes, IoU 0.75": "ap75", "masks, IoU 0.5": "mask_ap50"}
    assert list(curves) == [*list(named)[:2], "masks, IoU 0.5", "masks, IoU 0.75"]
    for curve, figure in named.items():
        recall, precision = curves[curve]
        np.testing.assert_allclose(recall, np.linspace(0, 1, 101))
        assert (np.diff(precision) <= 1e-9).all()
        assert precision.mean() == pytest.approx(figures[figure], abs=1e-9)


def one(box, label=0, crowd=False):
    box = np.float32([box])
    area = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).astype(np.float32)
    return Instances(boxes=box, classes=np.int64([label]), masks=None, crowd=np.array([crowd]), area=area)


def detection(*boxes, label=0):
    return {
        "boxes": np.float32(boxes).reshape(-1, 4),
        "classes": np.full(len(boxes), label),
        "scores": np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
    }


def test_a_perfect_detection_scores_one_and_sizes_that_no_object_has_are_not_known():
    figures = average_precision(
        [detection([10, 10, 50, 50])], zip([one([10, 10, 50, 50])], [(64, 64)], strict=True), NAMES
    )
    assert [figures[name] for name in ("ap", "ap50", "ap75", "ap_medium")] == [1, 1, 1, 1]
    assert math.isnan(figures["ap_small"])
    assert math.isnan(figures["ap_large"])
    assert "mask_ap" not in figures


def test_without_any_detection_the_figures_are_zero_and_without_any_object_they_are_not_known():
    empty = one([0, 0, 1, 1]).chosen(np.array([], dtype=int))
    assert average_precision([detection()], zip([one([10, 10, 50, 50])], [(64, 64)], strict=True), NAMES)["ap"] == 0
    for found in (detection(), detection([10, 10, 50, 50])):
        assert all(map(math.isnan, average_precision([found], zip([empty], [(64, 64)], strict=True), NAMES).values()))


def test_what_is_found_in_a_crowd_is_not_wrong():
    """Both detections in the crowd are surer than the right one."""
    true = [one([100, 0, 140, 40]), one([0, 0, 90, 90], crowd=True)]
    both = Instances(
        **{
            name: np.concatenate([getattr(each, name) for each in true])
            for name in ("boxes", "classes", "crowd", "area")
        },
        masks=None,
    )
    found = detection([5, 5, 40, 40], [30, 30, 80, 80], [100, 0, 140, 40])
    assert average_precision([found], zip([both], [(100, 150)], strict=True), NAMES)["ap"] == 1
    assert average_precision([found], zip([true[0]], [(100, 150)], strict=True), NAMES)["ap"] < 0.4


def test_areas_are_those_of_the_annotations_and_of_masks():
    """A thin diagonal object has a box of a medium object and the area of a small one."""
    mask = np.eye(60, dtype=bool)[None]
    true = Instances(
        boxes=np.float32([[0, 0, 60, 60]]),
        classes=np.int64([1]),
        masks=mask,
        crowd=np.array([False]),
        area=np.float32([60]),
    )
    found = detection([0, 0, 60, 60], label=1) | {"masks": [encode(mask[0])]}
    figures = average_precision([found], zip([true], [(60, 60)], strict=True), NAMES)
    assert figures["ap_small"] == figures["mask_ap_small"] == 1
    assert math.isnan(figures["mask_ap_medium"])


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(Open4MError, match=r"open4m\[evaluate\]"):
        average_precision([], [], NAMES)
