"""Contrastive training of a CLIP on images and their captions (Radford et al., 2021).

It makes the labeller ``clip`` where no public CLIP fits the images, as for the rendered scenes.
"""

from __future__ import annotations

import hashlib
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
from open4m.labellers.clip import CLIPLabeller, SmallCLIP, small_clip
from open4m.rng import RowDraws
from open4m.types import Sample

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers.models.clip.modeling_clip import CLIPModel

MAX_SCALE = 100.0
"""The largest scale of the logits (Radford et al., 2.5)."""

JITTER = 0.1
"""The largest change of brightness (added, on the [0, 1] scale) and of contrast (a factor of 1 ± this)."""

CANDIDATES = 64
"""Samples among which validation retrieves."""

SHOWN_IMAGES = 6
"""Images in a picture."""


@dataclass
class CLIPBatch:
    """Images, their captions, and how each image's brightness and contrast are changed."""

    images: Tensor  # (B, 3, H, W) uint8
    ids: Tensor  # (B, L) int64, padded to the longest caption of these rows
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
        config: SmallCLIP,
        tokenizer: Tokenizer,
        batch_size: int,
        seed: int = 0,
    ):
        self.train, self.validation, self.samples = train, validation, len(train)
        self.config, self.tokenizer = config, tokenizer
        self.batch_size, self.seed = batch_size, seed
        with torch.device("meta"):  # it only prepares inputs, for which it needs no weights
            self._inputs = self._labeller(self.build_model())

    def build_model(self) -> CLIPModel:
        return small_clip(self.tokenizer, self.config, self.seed)

    def _labeller(self, model: CLIPModel) -> CLIPLabeller:
        return CLIPLabeller(model, self.tokenizer)

    def batch(self, step: int, rows: range) -> CLIPBatch:
        order = rows_for_step(self.seed, step, self.batch_size, len(self.train))
        samples = [self.train[int(order[row])] for row in rows]
        captions = [sample["caption"] for sample in samples]
        ids = self._inputs.tokenize(captions)
        uniform = RowDraws(self.seed, step, rows.start, len(rows)).uniform(2)  # (B, 2)
        jitter = torch.from_numpy((JITTER * (2 * uniform - 1)).astype(np.float32))
        contrast, brightness = jitter[:, :, None, None, None].unbind(1)
        return CLIPBatch(
            images=self._inputs.images([sample["rgb"] for sample in samples]),
            ids=ids,
            captions=_numbered(captions),
            contrast=1 + contrast,
            brightness=brightness,
            words=int((ids != self._inputs.padding).sum()),
        )

    def loss(self, model: CLIPModel, batch: CLIPBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The contrastive loss; logged are the scale of the logits and how often an image's own caption is nearest."""
        device = model.logit_scale.device
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_SCALE))
            scaled = batch.images.to(device).float() / 255
            scaled = (scaled - 0.5) * batch.contrast.to(device) + 0.5 + batch.brightness.to(device)
            pixels = self._inputs.normalize(scaled.clamp(0, 1))
        output = model(input_ids=batch.ids.to(device), pixel_values=pixels)
        with torch.autocast(device.type, enabled=False):
            images, texts = (normalize(e.float(), dim=-1) for e in (output.image_embeds, output.text_embeds))
            logits = similarity_logits(images, texts, model.logit_scale.exp(), batch.captions.to(device))
            loss = contrastive_loss(logits)
        own = torch.arange(len(logits), device=device)
        accuracy = (logits.detach().argmax(1) == own).float().mean()
        return loss, {"logit_scale": model.logit_scale.detach().exp(), "accuracy": accuracy}

    def tokens(self, batch: CLIPBatch) -> int:
        """Patches and word pieces."""
        return len(batch.images) * math.prod(self._inputs.grid) + batch.words

    def flops(self, batch: CLIPBatch) -> float:
        return 0.0

    def evaluate(self, model: CLIPModel) -> dict[str, float]:
        """Loss, and recall at 1 of retrieval among 64 validation samples, both ways, in [0, 1].

        A caption that is equal to the image's own counts as found. A last group of fewer than 64 samples is left out,
        unless it is the only one.
        """
        labeller, size = self._labeller(model), min(CANDIDATES, len(self.validation))
        values = []
        for start in range(0, len(self.validation) - size + 1, size):
            samples = [self.validation[row] for row in range(start, start + size)]
            captions = [sample["caption"] for sample in samples]
            images = torch.from_numpy(labeller.image_embedding([sample["rgb"] for sample in samples]))
            texts = torch.from_numpy(labeller.text_embedding(captions))
            numbers = _numbered(captions)
            logits = similarity_logits(images, texts, model.logit_scale.exp().cpu(), numbers)
            cosine = images @ texts.T
            found = [(numbers[cosine.argmax(axis)] == numbers).float().mean().item() for axis in (1, 0)]
            values.append([contrastive_loss(logits).item(), *found])
        loss, text_recall, image_recall = np.mean(values, axis=0).tolist()
        return {"loss": loss, "image_to_text_recall_1": text_recall, "text_to_image_recall_1": image_recall}

    def pictures(self, model: CLIPModel) -> dict[str, Image.Image]:
        """Validation images above the first principal components of their feature maps (paper B.1)."""
        images = [self.validation[row]["rgb"] for row in range(min(SHOWN_IMAGES, len(self.validation)))]
        labeller = self._labeller(model)
        size = labeller.image_size
        sheet = Image.new("RGB", (size * len(images), 2 * size), "white")
        for column, (image, features) in enumerate(zip(images, labeller.label(images), strict=True)):
            sheet.paste(modalities.get(labeller.source).render(image, size), (column * size, 0))
            sheet.paste(modalities.get(labeller.modality).render(features, size), (column * size, size))
        return {"features": sheet}

    def save(self, model: CLIPModel, folder: Path) -> None:
        """A folder that :meth:`CLIPLabeller.load` reads, with weights in half precision."""
        self._labeller(model).save(folder, torch.float16)


def similarity_logits(images: Tensor, texts: Tensor, scale: Tensor, captions: Tensor) -> Tensor:
    """Scaled cosine similarities (B, B) of images (rows) and texts, both (B, E) of length 1.

    ``captions`` (B,) has equal numbers for equal texts. A text that equals the image's own is true of the image too, so
    it is no negative: its logit is -inf.
    """
    logits = scale * images @ texts.T
    equal = captions[:, None] == captions[None]
    equal.fill_diagonal_(False)
    return logits.masked_fill(equal, -math.inf)


def contrastive_loss(logits: Tensor) -> Tensor:
    """Symmetric InfoNCE: the mean cross-entropy of each image's text among all texts, and the other way round."""
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def _numbered(captions: Sequence[str]) -> Tensor:
    """(B,) int64: equal numbers for equal captions, whatever the others are. They are hashes."""
    digests = b"".join(hashlib.sha256(caption.encode()).digest()[:8] for caption in captions)
    return torch.from_numpy(np.frombuffer(digests, dtype="<i8").astype(np.int64))
