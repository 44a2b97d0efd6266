"""Average precision of detections, of boxes and of masks, as COCO measures it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from open4m.datasets.labelled.base import Instances
from open4m.datasets.labelled.run_lengths import encode, unpacked
from open4m.types import Open4MError

Detections = Mapping[str, Any]
"""What is found in a picture: ``boxes`` (n, 4) float32 in pixels, ``classes`` (n,) int64, ``scores`` (n,) float32, and
perhaps ``masks``, n run lengths of COCO."""

FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""Average precision of IoUs from 0.5 to 0.95, of two of these, and of objects of up to 32², of up to 96² and of more
pixels."""

CURVES = (0.5, 0.75)
"""The IoUs of curves of precision."""

MOST = 100
"""Detections per picture that count."""


def average_precision(
    found: Sequence[Detections], true: Iterable[tuple[Instances, tuple[int, int]]], names: Sequence[str]
) -> dict[str, float]:
    """:data:`FIGURES` of boxes and, with ``mask_`` before their names, of masks, if there are any.

    ``true``: of each picture the objects and its size (H, W); they are read one after another. ``names``: of the
    classes. What is found in crowds counts neither as right nor as wrong. A figure is NaN if no object is of its size.

    Raises :class:`Open4MError` if the extra ``evaluate`` is not installed.
    """
    figures = {}
    for prefix, evaluation in _evaluated(found, true, names):
        named = zip(FIGURES, evaluation.stats, strict=False)
        figures |= {prefix + name: float(value) if value >= 0 else math.nan for name, value in named}
    return figures


def precision_recall(
    found: Sequence[Detections], true: Iterable[tuple[Instances, tuple[int, int]]], names: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Recall (101,) and the precision (101,) that is reached at it or beyond, the mean over classes with objects, of
    boxes and, if there are any, of masks at :data:`CURVES`. Arguments are those of :func:`average_precision`."""
    curves = {}
    for prefix, evaluation in _evaluated(found, true, names):
        precision = evaluation.eval["precision"].reshape(evaluation.eval["counts"])[..., 0, -1]  # (IoU, recall, class)
        known = precision[0, 0] > -1
        for overlap in CURVES:
            row = int(np.abs(evaluation.params.iouThrs - overlap).argmin())
            if known.any():
                kind = "masks" if prefix else "boxes"
                curves[f"{kind}, IoU {overlap}"] = evaluation.params.recThrs, precision[row][:, known].mean(1)
    return curves


def _evaluated(
    found: Sequence[Detections], true: Iterable[tuple[Instances, tuple[int, int]]], names: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """COCO's evaluation of boxes and, with the prefix ``mask_``, of masks, if there are any."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise Open4MError("the AP of detections needs the extra: pip install 'open4m[evaluate]'") from error
    images, objects = [], []
    with_masks = all("masks" in each for each in found)
    for number, (instances, (height, width)) in enumerate(true, 1):
        images.append({"id": number, "height": int(height), "width": int(width)})
        with_masks = with_masks and (instances.masks is not None or not len(instances))
        objects += [{"image_id": number, **row} for row in _true(instances, with_masks)]
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]

    def coco(rows: Iterable[dict]) -> COCO:
        annotations = [{"id": number, **row} for number, row in enumerate(rows, 1)]
        return COCO({"info": {}, "images": images, "categories": categories, "annotations": annotations})

    truth = coco(objects)
    for kind, prefix in (("bbox", ""), ("segm", "mask_"))[: 1 + with_masks]:
        rows = ({"image_id": i, **row} for i, each in enumerate(found, 1) for row in _found(each, kind == "segm"))
        evaluation = COCOeval_faster(truth, coco(rows), kind, print_function=_say_nothing)
        evaluation.params.maxDets = [1, 10, MOST]
        evaluation.run()
        yield prefix, evaluation


def _true(instances: Instances, with_masks: bool) -> Iterator[dict]:
    """COCO's annotations of objects."""
    for i, (box, label) in enumerate(zip(instances.boxes, instances.classes, strict=True)):
        row = {"category_id": int(label) + 1, "iscrowd": int(instances.crowd[i]), "area": float(instances.area[i])}
        if with_masks:
            mask = instances.masks[i]
            row["segmentation"] = dict(mask) if isinstance(mask, Mapping) else encode(mask)
        yield {**row, "bbox": _corner_and_size(box)}


def _found(detections: Detections, with_masks: bool) -> Iterator[dict]:
    """COCO's results: their area is that of the mask, if masks are measured."""
    for i, (box, label) in enumerate(zip(detections["boxes"], detections["classes"], strict=True)):
        row = {"category_id": int(label) + 1, "iscrowd": 0, "score": float(detections["scores"][i])}
        x, y, width, height = _corner_and_size(box)
        if with_masks:
            runs = detections["masks"][i]
            row |= {"segmentation": dict(runs), "area": float(sum(unpacked(runs["counts"].encode())[1::2]))}
        else:
            row["area"] = width * height
        yield {**row, "bbox": [x, y, width, height]}


def _corner_and_size(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1 - x0, y1 - y0]


def _say_nothing(*words: Any) -> None:
    pass
