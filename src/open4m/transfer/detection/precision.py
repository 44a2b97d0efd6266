"""Average precision of detections, of boxes and of masks, as COCO measures it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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

MOST = 100
"""Detections per picture that count."""


def average_precision(
    found: Sequence[Detections], true: Sequence[Instances], sizes: Sequence[tuple[int, int]], names: Sequence[str]
) -> dict[str, float]:
    """:data:`FIGURES` of boxes and, with ``mask_`` before their names, of masks, if there are any.

    ``sizes``: (H, W) of the pictures. ``names``: of the classes. What is found in crowds counts neither as right nor as
    wrong. A figure is NaN if no object is of its size.

    Raises :class:`Open4MError` if the extra ``evaluate`` is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise Open4MError("the AP of detections needs the extra: pip install 'open4m[evaluate]'") from error
    masked = [each for each in true if len(each)]
    with_masks = all("masks" in each for each in found) and all(each.masks is not None for each in masked)
    frame = {
        "info": {},
        "images": [{"id": i, "height": int(h), "width": int(w)} for i, (h, w) in enumerate(sizes, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
    }
    figures: dict[str, float] = {}
    for kind, prefix in (("bbox", ""), ("segm", "mask_"))[: 1 + with_masks]:
        annotations = (_rows(true, _true, kind), _rows(found, _found, kind))
        truth, detections = (COCO({**frame, "annotations": rows}) for rows in annotations)
        evaluation = COCOeval_faster(truth, detections, kind, print_function=_say_nothing)
        evaluation.params.maxDets = [1, 10, MOST]
        evaluation.run()
        named = zip(FIGURES, evaluation.stats, strict=False)
        figures |= {prefix + name: float(value) if value >= 0 else math.nan for name, value in named}
    return figures


def _rows(values: Sequence[Any], rows_of: Callable[[Any, str], Iterator[dict]], kind: str) -> list[dict]:
    """COCO's annotations of what is in each picture, numbered from 1."""
    rows = ({"image_id": i, **row} for i, value in enumerate(values, 1) for row in rows_of(value, kind))
    return [{"id": number, **row} for number, row in enumerate(rows, 1)]


def _true(instances: Instances, kind: str) -> Iterator[dict]:
    for i, (box, label) in enumerate(zip(instances.boxes, instances.classes, strict=True)):
        row = {"category_id": int(label) + 1, "iscrowd": int(instances.crowd[i]), "area": float(instances.area[i])}
        if kind == "segm":
            row["segmentation"] = encode(instances.masks[i])
        yield {**row, "bbox": _corner_and_size(box)}


def _found(detections: Detections, kind: str) -> Iterator[dict]:
    for i, (box, label) in enumerate(zip(detections["boxes"], detections["classes"], strict=True)):
        row = {"category_id": int(label) + 1, "iscrowd": 0, "score": float(detections["scores"][i])}
        x, y, width, height = _corner_and_size(box)
        if kind == "segm":
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
