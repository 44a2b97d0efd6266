"""The images that a model makes from captions of scenes (paper F.2, Table 32), judged by two networks.

A CLIP compares their features with those of real images and of the captions; a reader of objects says whether what was
asked for is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open4m.datasets.scenes import parse_caption
from open4m.evaluate.intervals import Figures, measure
from open4m.evaluate.metrics import frechet
from open4m.evaluate.metrics.attributes import Attributes
from open4m.evaluate.metrics.objects import count_exact, object_recall
from open4m.labellers.clip import CLIPLabeller
from open4m.labellers.reader import ObjectReader

CLIP_METRICS = {"clip_score": "higher", "frechet_distance": "lower"}
RECALL, COUNT = "shape_and_color_recall", "count_exact"
CLIP, READER = "clip", "reader"
"""Folders of the judges in a model directory."""

READ_METRICS = {RECALL: "higher", COUNT: "higher"}
"""What is read: the share of the mentioned objects that are there with their shape and color, and how many images have
exactly as many objects as a caption that mentions all of the scene's."""


@dataclass(frozen=True, kw_only=True)
class Judges:
    """What judges images: a CLIP, a reader of objects, or both."""

    clip: CLIPLabeller | None = None
    reader: ObjectReader | None = None

    @staticmethod
    def load(folder: Path, device: str = "cpu") -> Judges:
        """Those that a model directory holds."""
        return Judges(
            clip=CLIPLabeller.load(folder / CLIP, device) if (folder / CLIP).is_dir() else None,
            reader=ObjectReader.load(folder / READER, device) if (folder / READER).is_dir() else None,
        )

    def __bool__(self) -> bool:
        return self.clip is not None or self.reader is not None


class ImageMeasure:
    """Measures images that belong to captions.

    ``reference``: real images, which the Fréchet distance is to; ``truth``: all objects of each caption's scene.
    Without it, nothing is known of how many objects an image should have.
    """

    def __init__(
        self,
        judges: Judges,
        captions: Sequence[str],
        reference: Sequence[np.ndarray],
        truth: Sequence[Sequence[Attributes]] | None = None,
    ):
        self.judges, self.captions = judges, captions
        self._reference = judges.clip.features(reference) if judges.clip else None
        self._asked = [parse_caption(caption) for caption in captions]
        self._counts = _counts(self._asked, truth) if truth is not None else None

    @property
    def better(self) -> dict[str, str]:
        """The direction of each metric that can be measured."""
        read = dict(READ_METRICS) if self.judges.reader else {}
        if self._counts is None or not any(count is not None for count in self._counts):
            read.pop(COUNT, None)
        return {**(CLIP_METRICS if self.judges.clip else {}), **read}

    def __call__(self, images: Sequence[np.ndarray]) -> Figures:
        """The figures of one image per caption."""
        parts: list[Callable[[Sequence[int]], Mapping[str, float]]] = []
        if (clip := self.judges.clip) is not None:
            scores, features = clip.clip_scores(images, self.captions), clip.features(images)
            parts.append(
                lambda rows: {
                    "clip_score": float(scores[rows].mean()),
                    "frechet_distance": frechet.distance(features[rows], self._reference),
                }
            )
        if (reader := self.judges.reader) is not None:
            found = reader.read(images)
            parts.append(lambda rows: {RECALL: object_recall(_of(found, rows), _of(self._asked, rows))})
            if COUNT in self.better:
                parts.append(lambda rows: {COUNT: count_exact(_of(found, rows), _of(self._counts, rows))})
        return measure(lambda rows: {n: v for part in parts for n, v in part(list(rows)).items()}, len(images))


def reader_accuracy(
    reader: ObjectReader, images: Sequence[np.ndarray], truth: Sequence[Sequence[Attributes]]
) -> Figures:
    """How well a reader does on true images: the same metrics, with all objects of each scene as those asked for."""
    found, counts = reader.read(images), [len(objects) for objects in truth]
    return measure(
        lambda rows: {
            RECALL: object_recall(_of(found, rows), _of(truth, rows)),
            COUNT: count_exact(_of(found, rows), _of(counts, rows)),
        },
        len(images),
    )


def _counts(asked: Sequence[Sequence[Attributes]], truth: Sequence[Sequence[Attributes]]) -> list[int | None]:
    """The number of objects where a caption mentions all, None where it does not."""
    return [len(t) if len(a) == len(t) else None for a, t in zip(asked, truth, strict=True)]


def _of(items: Sequence, rows: Sequence[int]) -> list:
    return [items[row] for row in rows]
