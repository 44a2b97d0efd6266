"""Object bounding boxes as a sequence of coordinate and class tokens (paper B.2, after Pix2Seq)."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from open4m import files
from open4m.fonts import lettered
from open4m.modalities.crops import Crop, seen
from open4m.modalities.families import Flag, Palette, TokenSequence
from open4m.pictures import OBJECT_COLORS, drawn_corners
from open4m.types import Boxes, Open4MError

if TYPE_CHECKING:
    from open4m.tokenizers.text import TextTokenizer

LEAST_SCORE = 0.6
"""The least score of a detector's boxes that models are trained with."""


@dataclass(frozen=True, kw_only=True)
class BoundingBoxes(TokenSequence):
    """A value is :class:`open4m.types.Boxes`; in files, a list of ``{"box": [x0, y0, x1, y1], "label": name}``, each
    with a ``"score"`` where boxes have some."""

    better = {"ap": "higher", "ap50": "higher"}
    has_positions = True
    merges = True
    forms = ("own", "detections")

    def read(self, data: bytes) -> Boxes:
        return self.convert(files.parse_json(data, self.name))

    def write(self, value: Boxes) -> bytes:
        value = self.convert(value)
        rows = zip(value.corners.astype(float), value.labels, strict=True)
        items = [{"box": [round(c, 6) for c in row], "label": label} for row, label in rows]
        for item, score in zip(items, value.scores or (), strict=False):
            item["score"] = score
        return json.dumps(items).encode()

    def convert(self, value: Any) -> Boxes:
        if isinstance(value, Boxes):
            return value
        try:
            return _boxes(value)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise self.error(
                f'expected Boxes or a list [{{"box": [x0, y0, x1, y1], "label": name}}, ...] ({error})'
            ) from error

    def from_form(self, value: Any, form: str, palette: Palette = ()) -> Boxes:
        """``detections``: what a detector found, with scores; boxes below :data:`LEAST_SCORE` are left out (B.2)."""
        value = super().from_form(value, form, palette)
        if form != "detections" or value.scores is None:
            return value
        return _select(value, value.corners, np.array(value.scores) >= LEAST_SCORE)

    def crop(self, value: Boxes, crop: Crop) -> Boxes:
        """The boxes relative to the region, without those of which less than a tenth is seen. A side without length
        is seen if it lies in the region, so that a region of everything leaves all boxes as they are."""
        _, clipped, is_seen = seen(value.corners, crop)
        return _select(value, clipped, is_seen)

    def flip(self, value: Boxes) -> Boxes:
        return _select(
            value,
            np.float32([1, 0, 1, 0]) - value.corners[:, [2, 1, 0, 3]] * np.float32([1, -1, 1, -1]),
            np.ones(len(value), dtype=bool),
        )

    def transposed(self, value: Boxes) -> Boxes:
        return _select(value, value.corners[:, [1, 0, 3, 2]], np.ones(len(value), dtype=bool))

    def facts(self, value: Boxes) -> dict[str, float | Counter]:
        return {"boxes": len(value), "classes": Counter(value.labels)}

    def encode(self, value: Boxes, text, max_length: int = 256) -> list[int]:
        """Objects in order of the distance of their upper left corner to the origin (paper B.2), then [EOS]."""
        order = np.argsort(np.hypot(value.corners[:, 0], value.corners[:, 1]), kind="stable")
        boxes = ([*text.coordinate_ids(value.corners[i]), *text.label_ids(value.labels[i])] for i in order)
        return text.finished(boxes, max_length)

    def decode(self, ids, text) -> Boxes:
        """The well-formed boxes, in order; ``malformed`` counts the others (paper B.2).

        The tokens before [EOS] are cut before every x_min and after every class. A piece is a box if it is exactly
        x_min, y_min, x_max, y_max and a class, in this order, with x_min <= x_max and y_min <= y_max. Every other piece
        counts as one malformed box: missing corners or another order of them, a class alone, corners without a class,
        words or control tokens anywhere in it, and a box that the end of the sequence cuts off. A sequence may end
        after a class without [EOS], and its boxes may have another order than :meth:`encode` gives.

        Where classes are open (the public text tokenizer), a class is one or more words, up to the next coordinate.
        """
        pieces = list(_pieces(text.until_eos(ids), text))
        found = [box for box in (_box(piece, text) for piece in pieces) if box is not None]
        corners, labels = zip(*found, strict=True) if found else ((), ())
        return Boxes(np.array(corners, dtype=np.float32), labels, malformed=len(pieces) - len(found))

    def scored(self, value: Boxes, ids, text, log_probability: np.ndarray) -> Boxes:
        """The same boxes, each with the probability of its class as its score; 0 if that is not known."""
        scores, end = [], 0
        for piece in _pieces(text.until_eos(ids), text):
            end += len(piece)
            if _box(piece, text) is not None:
                label = log_probability[end - len(piece) + 4 : end]
                scores.append(float(np.nan_to_num(np.exp(label.sum()))))
        return dataclasses.replace(value, scores=tuple(min(score, 1.0) for score in scores)) if scores else value

    def render(self, value: Boxes, size: int = 256) -> Image.Image:
        return draw_boxes(Image.new("RGB", (size, size), (245, 245, 247)), value)

    def drawn_over(self, value: Boxes, image: Image.Image) -> Image.Image:
        return draw_boxes(image, value)

    def consensus(self, values: Sequence[Boxes], by: str = "weighted") -> Boxes:
        """Boxes of one class that overlap by half or more (IoU) become one: weighted boxes fusion (Solovyev et al.,
        2021). No two of one value do.

        ``"weighted"``: the mean of their corners by score, and as its score the sum of theirs over all values, so that
        what few found is unsure. ``"votes"``: the plain mean, and as its score the share of the values that have it;
        what is in less than half of them is left out. The surest come first. Boxes without scores count as sure.
        """
        found = [
            (1.0 if value.scores is None else value.scores[i], source, value.labels[i], value.corners[i].astype(float))
            for source, value in enumerate(values)
            for i in range(len(value))
        ]
        groups: list[_Group] = []
        for score, source, label, corners in sorted(found, key=lambda box: -box[0]):
            alike = [group for group in groups if group.label == label and source not in group.sources]
            best = max(alike, key=lambda group: overlap(group.corners, corners), default=None)
            if best is None or overlap(best.corners, corners) < SAME:
                best = _Group(label)
                groups.append(best)
            best.add(corners, score if by == "weighted" else 1.0, source)
        if by == "votes":
            groups = [group for group in groups if 2 * len(group.sources) >= len(values)]
        groups.sort(key=lambda group: -group.weight)
        scores = tuple(min(group.weight / len(values), 1.0) for group in groups)
        corners = np.array([group.corners for group in groups]).reshape(-1, 4).clip(0, 1)
        return Boxes(corners, tuple(group.label for group in groups), scores or None)

    def metrics(self, predictions, labels) -> dict[str, float]:
        return average_precision(predictions, labels)

    def trivial(self, labels) -> Boxes:
        """One box: the mean box of the most frequent class."""
        names = [name for value in labels for name in value.labels]
        if not names:
            return Boxes(np.zeros((0, 4)), ())
        common = max(sorted(set(names)), key=names.count)
        corners = [
            row for value in labels for row, name in zip(value.corners, value.labels, strict=True) if name == common
        ]
        return Boxes(np.mean(corners, axis=0)[None], (common,))


SAME = 0.5
"""The IoU of boxes that are taken for the same object."""


class _Group:
    """Boxes of one object in several values: their mean by weight."""

    def __init__(self, label: str) -> None:
        self.label, self.weight, self.sources = label, 0.0, set[int]()
        self.corners = np.zeros(4)

    def add(self, corners: np.ndarray, weight: float, source: int) -> None:
        self.sources.add(source)
        share = weight / (self.weight + weight) if self.weight + weight > 0 else 1 / len(self.sources)
        self.corners = self.corners + (corners - self.corners) * share
        self.weight += weight


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes (4,); of two without area, whether they are equal."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    inner = np.maximum(high - low, 0).prod()
    outer = (first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - inner
    return float(inner / outer) if outer > 0 else float(np.array_equal(first, second))


def _boxes(items: Any) -> Boxes:
    if not isinstance(items, Sequence) or not all(isinstance(item, Mapping) for item in items):
        raise TypeError(f"got {type(items).__name__}")
    scores = [item["score"] for item in items if "score" in item] or None
    with np.errstate(over="ignore"):  # Boxes refuses what is infinite in 32 bits
        corners = np.array([item["box"] for item in items], dtype=np.float32).reshape(len(items), 4)
    return Boxes(corners, tuple(item["label"] for item in items), scores and tuple(scores))


def _pieces(ids: list[int], text: TextTokenizer) -> Iterator[list[int]]:
    """The tokens, cut before every x_min and after every class: a well-formed box is always one whole piece."""
    piece: list[int] = []
    for i in ids:
        coordinate, is_open = text.coordinate(i), text.settings.open_classes
        if (
            piece
            and coordinate is not None
            and (coordinate[0] == 0 or (is_open and text.coordinate(piece[-1]) is None))
        ):
            yield piece
            piece = []
        piece.append(i)
        if text.class_name(i) is not None and not is_open:
            yield piece
            piece = []
    if piece:
        yield piece


def _box(piece: list[int], text: TextTokenizer) -> tuple[list[float], str] | None:
    """(corners, class) of a piece that is a well-formed box, None for others."""
    coordinates, label = [text.coordinate(i) for i in piece[:4]], text.label(piece[4:])
    if label is None or len(coordinates) != 4 or None in coordinates:
        return None
    axes, corners = zip(*coordinates, strict=True)
    if axes != (0, 1, 2, 3) or corners[0] > corners[2] or corners[1] > corners[3]:
        return None
    return list(corners), label


def _select(value: Boxes, corners: np.ndarray, keep: np.ndarray) -> Boxes:
    chosen = np.flatnonzero(keep)
    scores = None if value.scores is None else tuple(value.scores[i] for i in chosen)
    return Boxes(corners[chosen], tuple(value.labels[i] for i in chosen), scores, value.malformed)


def color_of(label: str, names: Sequence[str]) -> str:
    """The color of a class, whose place in ``names`` it follows."""
    return OBJECT_COLORS[names.index(label) % len(OBJECT_COLORS)]


def draw_boxes(image: Image.Image, value: Boxes, names: Sequence[str] = (), with_scores: bool = False) -> Image.Image:
    """A copy of the image with the boxes and their labels drawn on it.

    ``names``: all classes, whose colors are the same in each picture then. ``with_scores``: scores are beside labels.
    """
    image = image.copy()
    draw = ImageDraw.Draw(image)
    names = names or sorted(set(value.labels))
    scores = value.scores if with_scores and value.scores is not None else (None,) * len(value)
    for row, label, score in zip(value.corners, value.labels, scores, strict=True):
        said = label if score is None else f"{label} {score:.2f}"
        text, font = lettered(said, max(10, image.width // 20))
        color = color_of(label, names)
        x0, y0, x1, y1 = drawn_corners(row, image.size)
        draw.rectangle((x0, y0, x1, y1), outline=color, width=max(1, image.width // 100))
        x = max(2, min(x0 + 2, image.width - 4 - int(font.getlength(text))))  # so that the label is in the picture
        place = (x, max(0, y0 - image.width // 18))
        left, top, right, bottom = draw.textbbox(place, text, font=font)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=color)
        draw.text(place, text, fill="white", font=font)
    return image


def coco_evaluation() -> tuple[type, type]:
    """COCO's data and evaluation. Raises :class:`Open4MError` if the extra ``evaluate`` is not installed."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise Open4MError("box AP needs the extra: pip install 'open4m[evaluate]'") from error
    return COCO, COCOeval_faster


def average_precision(predictions: list[Boxes], labels: list[Boxes]) -> dict[str, float]:
    """COCO average precision (IoU 0.5 to 0.95) and AP50. Boxes without scores rank by their place in the sequence.

    Raises :class:`Open4MError` if the extra ``evaluate`` is not installed.
    """
    COCO, COCOeval_faster = coco_evaluation()
    names = sorted({name for value in [*predictions, *labels] for name in value.labels})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    scale = 1000.0  # pixels: COCO's coordinates are not fractions; its results by size are not used here
    truth, found = [], []
    for i, (prediction, label) in enumerate(zip(predictions, labels, strict=True)):
        for row, name in zip(label.corners.astype(float) * scale, label.labels, strict=True):
            w, h = row[2] - row[0], row[3] - row[1]
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": i + 1,
                    "category_id": names.index(name) + 1,
                    "bbox": [row[0], row[1], w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        for j, (row, name) in enumerate(zip(prediction.corners.astype(float) * scale, prediction.labels, strict=True)):
            score = prediction.scores[j] if prediction.scores is not None else 1.0 - j / 1000  # falls with the place
            found.append(
                {
                    "image_id": i + 1,
                    "category_id": names.index(name) + 1,
                    "score": score,
                    "bbox": [row[0], row[1], row[2] - row[0], row[3] - row[1]],
                }
            )
    if not truth or not found:
        return {"ap": 0.0, "ap50": 0.0}
    images = [{"id": i + 1, "width": int(scale), "height": int(scale)} for i in range(len(labels))]
    coco = COCO({"info": {}, "images": images, "annotations": truth, "categories": categories})
    evaluation = COCOeval_faster(coco, coco.loadRes(found), "bbox", print_function=lambda *_: None)
    evaluation.run()
    return {"ap": float(evaluation.stats[0]), "ap50": float(evaluation.stats[1])}


MODALITY = BoundingBoxes(
    name="boxes",
    description="bounding boxes with classes",
    extension="boxes.json",
    aliases=("bboxes", "bounding_boxes"),
    role="objects",
    flag=Flag(name="boxes", help='a JSON file: [{"box": [x0, y0, x1, y1], "label": name}, ...]'),
)
