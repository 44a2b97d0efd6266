"""Object boxes from images (paper B.1): detectors of the Auto classes for object detection, DETR and its relatives,
RT-DETR, D-FINE, RF-DETR, YOLOS; and for classes of one's own words Grounding DINO and OWLv2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open4m.labellers.checkpoints import auto_class
from open4m.labellers.networks import NetworkLabeller, NetworkSettings
from open4m.labellers.preprocessing import Preprocessing
from open4m.modalities.boxes import LEAST_SCORE
from open4m.ranges import Share
from open4m.types import Boxes, Open4MError

OPEN = "AutoModelForZeroShotObjectDetection"

NO_CLASS = ("N/A", "no-object")
"""Names of ids that stand for no class, in COCO's list of 91."""

SOFTMAX = ("detr", "yolos", "table-transformer")
"""Networks, by type, whose last class is "no object". All other detectors score each class by itself."""

PADDED = ("owlv2",)
"""Networks, by type, that see an image above and left of a black border, which makes it square."""


@dataclass(frozen=True, kw_only=True)
class BoxSettings(NetworkSettings):
    """``score``: boxes with a lower one are left out. ``classes``: the words that an open-vocabulary network looks for,
    ``--set boxes.classes=cat,dog``; of another network, those of its classes that are kept, all if none are named.
    ``prompt``: what OWLv2 reads for each class."""

    score: Share = LEAST_SCORE
    classes: tuple[str, ...] = ()
    prompt: str = "a photo of a {}"


class BoxLabeller(NetworkLabeller):
    """Boxes as fractions of the whole image, with class names and scores, the surest first."""

    modality = "boxes"
    Settings = BoxSettings
    tasks = ("AutoModelForObjectDetection", OPEN)

    def prepare(self) -> None:
        self.preprocessing = Preprocessing.of(self.checkpoint)
        self.is_open = auto_class(self.config, OPEN) is not None
        if not self.is_open:
            self.class_names = {i: str(name) for i, name in self.config.id2label.items() if name not in NO_CLASS}
            if unknown := sorted(set(self.settings.classes) - set(self.class_names.values())):
                raise Open4MError(
                    f"{self.checkpoint.name}: finds no {' and no '.join(unknown)}, its classes are "
                    f"{', '.join(list(self.class_names.values())[:200])}"
                )
            return
        if not self.settings.classes:
            raise Open4MError(
                f"{self.checkpoint.name}: finds what it is told in words: say --set {self.modality}.classes=cat,dog"
            )
        self.tokenizer = self.checkpoint.processor("AutoTokenizer")
        kind = self.config.model_type
        if kind not in WORDS:
            raise Open4MError(f"{self.checkpoint.name}: a {kind} network, of words these are read: {', '.join(WORDS)}")
        longest = getattr(self.config, "max_text_len", self.config.text_config.max_position_embeddings)
        self.texts, self.scored = WORDS[kind](self.tokenizer, self.settings, longest)

    @property
    def about(self) -> dict[str, Any]:
        return {"classes": list(self.settings.classes or self.class_names.values())}

    def label(self, values: Sequence[np.ndarray]) -> list[Boxes]:
        images = [self._rgb.convert(value) for value in values]
        prepared = [self._pixels(image) for image in images]
        found = self.batched([{"pixel_values": pixels} for pixels, _ in prepared], self._run)
        return [self._boxes(*one, extent) for one, (_, extent) in zip(found, prepared, strict=True)]

    def _pixels(self, image: np.ndarray) -> tuple[Tensor, tuple[float, float]]:
        """The input (1, 3, h, w) and which parts of its width and height the image fills."""
        height, width = image.shape[:2]
        if self.config.model_type not in PADDED:
            return self.preprocessing([image], self.preprocessing.own(height, width)), (1.0, 1.0)
        side = max(height, width)
        square = np.zeros((side, side, 3), np.uint8)
        square[:height, :width] = image
        return self.preprocessing([square], self.preprocessing.own(side, side)), (width / side, height / side)

    def _run(self, batch: dict[str, Tensor], group: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Scores (Q, C) of classes and centers and sizes (Q, 4) of each image."""
        if self.is_open:
            rows = len(group)
            words = {name: tensor.to(self.device) for name, tensor in self.texts.items()}
            words = {name: tensor.repeat(rows, *[1] * (tensor.ndim - 1)) for name, tensor in words.items()}
            output = self.network(**batch, **words)
            scores = [self.scored(logits.float().cpu()) for logits in output.logits]
        else:
            output = self.network(**batch)
            logits = output.logits.float()
            if self.config.model_type in SOFTMAX:
                scores = list(logits.softmax(-1)[..., :-1].cpu())
            else:
                scores = list(logits.sigmoid().cpu())
        return list(zip(scores, output.pred_boxes.float().cpu(), strict=True))

    def _boxes(self, scores: Tensor, places: Tensor, extent: tuple[float, float]) -> Boxes:
        """A query's best class is its box; a class that is not asked for is none."""
        best, ids = scores.max(-1)
        names = dict(enumerate(self.settings.classes)) if self.is_open else self.class_names
        wanted = set(self.settings.classes or names.values())
        order = best.argsort(descending=True, stable=True)
        kept = [i for i in order.tolist() if best[i] >= self.settings.score and names.get(int(ids[i])) in wanted]
        middle, size = places[kept, :2].double(), places[kept, 2:].double().clamp(min=0)
        corners = torch.cat([middle - size / 2, middle + size / 2], 1) / torch.tensor([*extent, *extent])
        corners = corners.clamp(0, 1)
        inside = (corners[:, 2:] > corners[:, :2]).all(-1).tolist()  # not in the border that makes an image square
        kept = [i for i, is_inside in zip(kept, inside, strict=True) if is_inside]
        labels = tuple(names[int(ids[i])] for i in kept)
        return Boxes(corners[inside].numpy(), labels, tuple(best[kept].tolist()) if kept else None)


Words = tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]
"""The inputs that hold the classes, (1, ...) or (classes, ...), and how logits of them become scores (Q, classes)."""


def _one_text(tokenizer: Any, settings: BoxSettings, longest: int) -> Words:
    """Grounding DINO's text, ``"a cat. a dog."``; a class has the score of the surest of its tokens."""
    text, spans = "", []
    for name in settings.classes:
        spans.append((len(text), len(text) + len(name)))
        text += f"{name.lower()}. "
    found = tokenizer(text.strip(), return_tensors="pt", return_offsets_mapping=True, verbose=False)
    if found["input_ids"].shape[1] > longest:
        raise Open4MError(f"boxes: the {len(settings.classes)} classes are too many words: at most {longest} tokens")
    offsets = found.pop("offset_mapping")[0].tolist()
    tokens = [[t for t, (a, b) in enumerate(offsets) if b > a and a < end and b > start] for start, end in spans]

    def scored(logits: Tensor) -> Tensor:
        probability = logits.sigmoid()
        return torch.stack([probability[:, places].amax(-1) for places in tokens], -1)

    return dict(found), scored


def _one_text_each(tokenizer: Any, settings: BoxSettings, longest: int) -> Words:
    """OWL-ViT's texts, one per class."""
    texts = [settings.prompt.format(name) for name in settings.classes]
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}, Tensor.sigmoid


WORDS = {
    "grounding-dino": _one_text,
    "mm-grounding-dino": _one_text,
    "owlvit": _one_text_each,
    "owlv2": _one_text_each,
}
"""How classes are said to open-vocabulary networks, by type."""


LABELLER = BoxLabeller
