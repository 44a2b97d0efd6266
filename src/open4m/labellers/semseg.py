"""Semantic segmentation of images (paper B.1): Mask2Former, OneFormer, EoMT, MaskFormer, DETR, Segformer, UPerNet and
all other networks of the Auto classes for universal and for semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open4m.labellers.networks import MapLabeller, MapSettings, resized
from open4m.modalities.semseg import LARGEST_ID
from open4m.types import Open4MError

WINDOWED = ("eomt", "eomt_dinov3")
"""Networks, by type, that see squares of one size, which their image processor cuts and puts together again."""


@dataclass(frozen=True, kw_only=True)
class SemsegSettings(MapSettings):
    """``task``: what a network of several tasks, OneFormer, is told that it is for."""

    task: Literal["semantic", "panoptic", "instance"] = "semantic"


class SemsegLabeller(MapLabeller):
    """Class ids, uint8 or int32 (H, W), at the image's size: the argmax over the network's classes, which panoptic and
    instance networks have per pixel as well. The manifest has the classes' names."""

    modality = "semseg"
    Settings = SemsegSettings
    as_the_paper = False
    tasks = (
        "AutoModelForUniversalSegmentation",
        "AutoModelForSemanticSegmentation",
        "AutoModelForInstanceSegmentation",
    )

    def prepare(self) -> None:
        super().prepare()
        names = self.config.id2label
        if max(names) > LARGEST_ID:
            raise Open4MError(f"{self.checkpoint.name}: class ids up to {max(names)}, at most {LARGEST_ID} are stored")
        self.class_names = [str(names.get(i, f"class {i}")) for i in range(max(names) + 1)]
        self.extra: dict[str, Tensor] = {}
        if self.config.model_type == "oneformer":
            tokenizer = self.checkpoint.processor("AutoTokenizer")
            length = self.config.task_seq_len
            found = tokenizer(
                f"the task is {self.settings.task}",
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
            )
            self.extra = {"task_inputs": found["input_ids"] * found["attention_mask"]}
        if self.config.model_type in WINDOWED:
            self.processor = self.checkpoint.processor("AutoImageProcessor")

    @property
    def about(self) -> dict[str, Any]:
        return {"classes": self.class_names}

    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        run = self._windows if self.config.model_type in WINDOWED else lambda images: self.maps(images, self._run)
        return [self._modality.convert(ids) for ids in run(values)]

    def _run(self, images: Tensor) -> list:
        extra = {name: self.to_device(tensor.expand(len(images), -1)) for name, tensor in self.extra.items()}
        output = self.network(pixel_values=images, **extra)
        queries = _queries(output)
        return list(output.logits) if queries is None else list(zip(*queries, strict=True))

    def finished(self, one: Any, size: tuple[int, int], seen: tuple[int, int]) -> np.ndarray:
        """int64 (H, W) from scores (C, h, w), or from the classes and the masks of queries."""
        scores = one if isinstance(one, Tensor) else class_scores(*one, seen)
        return argmax(scores.float(), size).cpu().numpy()

    def _windows(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One image at a time, in the squares that the image processor cuts."""
        results = []
        for image in images:
            image = self._rgb.convert(image)
            inputs = self.processor(images=Image.fromarray(image), return_tensors="pt")
            offsets = inputs.pop("patch_offsets", None)
            with torch.inference_mode():
                output = self.network(pixel_values=self.to_device(inputs["pixel_values"]))
                if offsets:
                    output.patch_offsets = offsets
                    output.class_queries_logits = output.class_queries_logits.float()
                    output.masks_queries_logits = output.masks_queries_logits.float()
                    found = self.processor.post_process_semantic_segmentation(output, target_sizes=[image.shape[:2]])[0]
                else:  # the whole image, above and left of zeros
                    side = inputs["pixel_values"].shape[-1]
                    height, width = (max(1, round(edge * side / max(image.shape[:2]))) for edge in image.shape[:2])
                    scores = class_scores(*(part[0] for part in _queries(output)), (side, side))
                    found = argmax(scores[:, :height, :width], image.shape[:2])
            results.append(found.cpu().numpy())
        return results


def _queries(output: Any) -> tuple[Tensor, Tensor] | None:
    """Logits of classes (B, Q, C + 1) and of masks (B, Q, h, w) of networks that have queries."""
    for classes, masks in (("class_queries_logits", "masks_queries_logits"), ("logits", "pred_masks")):
        if getattr(output, masks, None) is not None:
            return getattr(output, classes), getattr(output, masks)
    return None


def class_scores(classes: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (C, H, W) of classes per pixel from the logits of queries, of classes (Q, C + 1), the last of which is "no
    object", and of masks (Q, h, w): the sum over queries of the probabilities of the class and of the mask (Cheng et
    al., 2021, "Per-Pixel Classification is Not All You Need for Semantic Segmentation", 3.4)."""
    return torch.einsum("qc,qhw->chw", classes.float().softmax(-1)[:, :-1], resized(masks, size).float().sigmoid())


def argmax(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The best class per pixel, int64 (H, W), of scores (C, h, w) that are resized to ``size``: class by class, since
    all classes of a large photo would take gigabytes."""
    best = resized(scores[:1], size)[0]
    ids = torch.zeros(best.shape, dtype=torch.int64, device=scores.device)
    for i in range(1, len(scores)):
        score = resized(scores[i : i + 1], size)[0]
        better = score > best
        ids[better] = i
        best = torch.maximum(best, score)
    return ids


LABELLER = SemsegLabeller
