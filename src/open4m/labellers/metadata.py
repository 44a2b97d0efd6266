"""Metadata of images, computed from what a sample has (4M-21). There are no weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from PIL import Image

from open4m import config as configs
from open4m import modalities
from open4m.labellers import base
from open4m.modalities.metadata import Metadata
from open4m.types import Boxes, Value

VERSION = 1
"""Of the computation: part of the fingerprint."""

PERSON = "person"
"""COCO's name of the class of humans."""


@dataclass(frozen=True, kw_only=True)
class MetadataSettings(base.Settings):
    """``of``: what it is computed from, ``--set metadata.of=caption,boxes``, beside the image."""

    of: tuple[Literal["caption", "boxes"], ...] = ()


@dataclass(frozen=True)
class MetadataLabeller(base.Labeller):
    """Of the image: its size in pixels, brightness and contrast (mean and deviation of gray levels), saturation (mean
    of HSV's), entropy of the gray levels in bits, colorfulness (Hasler and Süsstrunk, 2003). Of the caption:
    characters, words, sentences. Of the boxes: objects, different classes, humans."""

    settings: MetadataSettings = MetadataSettings()

    modality = "metadata"
    source = "rgb"
    needs_model = False
    Settings = MetadataSettings

    @classmethod
    def load(
        cls, model: str = "", device: str = "cpu", settings: base.Settings | None = None, modality: str = ""
    ) -> Self:
        return cls(settings or MetadataSettings())

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source, *self.settings.of)

    @property
    def fingerprint(self) -> str:
        return configs.fingerprint(["metadata", VERSION, configs.to_dict(self.settings)])

    def label(self, values: Sequence[np.ndarray]) -> list[Metadata]:
        return self.label_samples([{self.source: value} for value in values])

    def label_samples(self, samples: Sequence[Mapping[str, Value]]) -> list[Metadata]:
        """A kind of metadata whose source a sample lacks is left out of it."""
        modality = modalities.get(self.modality)
        return [modality.convert(self._entries(sample)) for sample in samples]

    def _entries(self, sample: Mapping[str, Value]) -> dict[str, float]:
        found = of_image(sample[self.source])
        if (caption := sample.get("caption")) is not None:
            found |= of_caption(caption)
        if (boxes := sample.get("boxes")) is not None:
            found |= of_boxes(boxes)
        return found


def of_image(image: np.ndarray) -> dict[str, float]:
    """Size and appearance of uint8 (H, W, 3)."""
    picture = Image.fromarray(image)
    gray = np.asarray(picture.convert("L"), dtype=np.float64)
    share = np.bincount(gray.astype(np.int64).ravel(), minlength=256) / gray.size
    red, green, blue = image.astype(np.float64).transpose(2, 0, 1)
    opponents = np.stack([red - green, (red + green) / 2 - blue]).reshape(2, -1)
    return {
        "original_width": image.shape[1],
        "original_height": image.shape[0],
        "colorfulness": np.hypot(*opponents.std(1)) + 0.3 * np.hypot(*opponents.mean(1)),
        "brightness": gray.mean(),
        "contrast": gray.std(),
        "saturation": np.asarray(picture.convert("HSV"))[..., 1].mean(),
        "entropy": -(share[share > 0] * np.log2(share[share > 0])).sum() + 0.0,
    }


def of_caption(caption: str) -> dict[str, int]:
    """How long a caption is; a sentence ends with a full stop, a question or an exclamation mark, or with the text."""
    sentences = [part for part in re.split(r"[.!?]+(?:\s+|$)", caption) if part.strip()]
    return {
        "caption_n_chars": len(caption),
        "caption_n_words": len(caption.split()),
        "caption_n_sentences": len(sentences),
    }


def of_boxes(boxes: Boxes) -> dict[str, int]:
    """Counts of objects."""
    return {
        "n_humans": boxes.labels.count(PERSON),
        "n_coco_instances": len(boxes),
        "coco_instance_diversity": len(set(boxes.labels)),
    }


LABELLER = MetadataLabeller
