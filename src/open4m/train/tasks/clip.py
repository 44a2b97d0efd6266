"""Contrastive training of a CLIP on images and their captions (Radford et al., 2021).

Makes the labeller ``clip`` where no public CLIP fits the images, as for the embedded scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from open4m import modalities
from open4m.data.order import rows_for_step
from open4m.labellers.clip import CLIPLabeller
from open4m.types import Sample

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers.models.clip.modeling_clip import CLIPModel

MAX_SCALE = 100.0  # of the logits (Radford et al., 2.5)
JITTER = 0.1  # half the range of brightness (added, on the [0, 1] scale) and of contrast (multiplied)
RETRIEVED = 64  # candidates in validation retrieval
SHOWN = 6  # images in a picture


@dataclass
class CLIPBatch:
    """Images, their captions, and how each image's brightness and contrast are changed."""

    images: Tensor  # (B, 3, H, W) uint8
    ids: Tensor  # (B, L) int64, padded
    captions: Tensor  # (B,) int64: equal numbers for equal captions
    contrast: Tensor  # (B, 1, 1, 1) float32
    brightness: Tensor  # (B, 1, 1, 1) float32
    words: int  # tokens in ids, padding not counted


class CLIPTask:
    """A task of :func:`open4m.train.loop.train`. Samples hold ``rgb``, uint8 (H, W, 3), and ``caption``, a str.

    Images are neither cropped nor flipped: captions say where things are.
    """

    name = "clip"

    def __init__(
        self,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        model: CLIPModel,
        tokenizer: Tokenizer,
        batch_size: int,
        seed: int = 0,
    ):
        self.train, self.validation = train, validation
        self.model, self.labeller = model, CLIPLabeller(model, tokenizer)
        self.batch_size, self.seed = batch_size, seed

    def batch(self, step: int) -> CLIPBatch:
        """The batch of a step: a pure function of (seed, step)."""
        rows = rows_for_step(self.seed, step, self.batch_size, len(self.train))
        samples = [self.train[int(row)] for row in rows]
        captions = [sample["caption"] for sample in samples]
        ids = self.labeller.tokenize(captions)
        jitter = np.random.default_rng((self.seed, step)).uniform(-JITTER, JITTER, (2, len(samples), 1, 1, 1))
        contrast, brightness = torch.from_numpy(jitter.astype(np.float32))
        return CLIPBatch(
            images=self.labeller.images([sample["rgb"] for sample in samples]),
            ids=ids,
            captions=_numbered(captions),
            contrast=1 + contrast,
            brightness=brightness,
            words=int((ids != self.labeller.padding).sum()),
        )

    def loss(self, batch: CLIPBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The contrastive loss, the logits' scale and how often an image's own caption is the nearest one."""
        device = self.labeller.device
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(MAX_SCALE))
            scaled = batch.images.to(device).float() / 255
            scaled = (scaled - 0.5) * batch.contrast.to(device) + 0.5 + batch.brightness.to(device)
            pixels = self.labeller.normalize(scaled.clamp(0, 1))
        output = self.model(input_ids=batch.ids.to(device), pixel_values=pixels)
        with torch.autocast(device.type, enabled=False):
            images, texts = (normalize(e.float(), dim=-1) for e in (output.image_embeds, output.text_embeds))
            logits = similarity_logits(images, texts, self.model.logit_scale.exp(), batch.captions.to(device))
            loss = contrastive_loss(logits)
        own = torch.arange(len(logits), device=device)
        accuracy = (logits.detach().argmax(1) == own).float().mean()
        return loss, {"logit_scale": self.model.logit_scale.detach().exp(), "accuracy": accuracy}

    def tokens(self, batch: CLIPBatch) -> int:
        """Patches and word pieces."""
        return len(batch.images) * math.prod(self.labeller.grid) + batch.words

    def evaluate(self) -> dict[str, float]:
        """Loss, and recall at 1 of retrieval among 64 validation samples, both ways, in [0, 1].

        A caption that is equal to the image's own counts as found. Samples that do not fill a last group of 64 are left
        out, unless there are fewer than 64.
        """
        size = min(RETRIEVED, len(self.validation))
        values = []
        for start in range(0, len(self.validation) - size + 1, size):
            samples = [self.validation[row] for row in range(start, start + size)]
            captions = [sample["caption"] for sample in samples]
            images = torch.from_numpy(self.labeller.image_embedding([sample["rgb"] for sample in samples]))
            texts = torch.from_numpy(self.labeller.text_embedding(captions))
            numbers = _numbered(captions)
            logits = similarity_logits(images, texts, self.model.logit_scale.exp().cpu(), numbers)
            cosine = images @ texts.T
            found = [(numbers[cosine.argmax(axis)] == numbers).float().mean().item() for axis in (1, 0)]
            values.append([contrastive_loss(logits).item(), *found])
        loss, text_recall, image_recall = np.mean(values, axis=0).tolist()
        return {"loss": loss, "image_to_text_recall_1": text_recall, "text_to_image_recall_1": image_recall}

    def pictures(self) -> dict[str, Image.Image]:
        """Validation images above the first principal components of their feature maps (paper B.1)."""
        images = [self.validation[row]["rgb"] for row in range(min(SHOWN, len(self.validation)))]
        size = self.labeller.image_size
        sheet = Image.new("RGB", (size * len(images), 2 * size), "white")
        for column, (image, features) in enumerate(zip(images, self.labeller.label(images), strict=True)):
            sheet.paste(modalities.get(self.labeller.source).render(image, size), (column * size, 0))
            sheet.paste(modalities.get(self.labeller.modality).render(features, size), (column * size, size))
        return {"features": sheet}

    def save(self, folder: Path) -> None:
        """A folder that :meth:`CLIPLabeller.load` reads, with weights in half precision."""
        self.labeller.save(folder, torch.float16)


def similarity_logits(images: Tensor, texts: Tensor, scale: Tensor, captions: Tensor) -> Tensor:
    """Scaled cosine similarities (B, B) of images (rows) and texts, both (B, E) of length 1.

    A text that is equal to the image's own (``captions``, (B,): equal numbers) is true of the image as well: it is not
    a negative, so its logit is -inf.
    """
    logits = scale * images @ texts.T
    equal = captions[:, None] == captions[None]
    equal.fill_diagonal_(False)
    return logits.masked_fill(equal, -math.inf)


def contrastive_loss(logits: Tensor) -> Tensor:
    """Symmetric InfoNCE: the mean of telling an image's text among all texts and a text's image among all images."""
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def _numbered(captions: Sequence[str]) -> Tensor:
    """(B,) int64: equal numbers for equal captions."""
    return torch.from_numpy(np.unique(captions, return_inverse=True)[1].reshape(-1))
