"""Captions of images, by the networks of ``AutoModelForImageTextToText``: Florence-2, BLIP, BLIP-2, GIT, and models
that are chatted with, such as SmolVLM and Qwen3-VL."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from open4m.labellers.checkpoints import Checkpoint, library, quiet
from open4m.labellers.networks import NetworkLabeller, NetworkSettings
from open4m.ranges import Size
from open4m.types import Open4MError

PROMPTS = {"florence2": "<CAPTION>", "blip": "", "blip-2": "", "git": ""}
"""What networks, by type, are asked where the user says no prompt."""

VIDEOS = "video_processor"
"""The part of processors in transformers that reads videos."""

QUESTION = "Describe this image in one sentence."
"""What all others are asked."""


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(NetworkSettings):
    """``prompt``: the question or the task; by default what the network's kind is asked for a caption. ``longest``: the
    most tokens of an answer. ``beams``: of the search; 1 takes the likeliest token each time."""

    prompt: str = ""
    longest: Size = 64
    beams: Size = 1


class CaptionLabeller(NetworkLabeller):
    """One line of text per image. Nothing is sampled: the same image always gives the same caption."""

    modality = "caption"
    Settings = CaptionSettings
    tasks = ("AutoModelForImageTextToText",)

    def prepare(self) -> None:
        self.processor = processor_of_images(self.checkpoint, self.config)
        if not hasattr(self.processor, "image_processor") or not hasattr(self.processor, "tokenizer"):
            raise Open4MError(f"{self.checkpoint.name}: has no processor of images and texts")
        kind = self.config.model_type
        self.prompt = self.settings.prompt or PROMPTS.get(kind, QUESTION)
        if kind not in PROMPTS and getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
            message = [{"role": "user", "content": content}]
            self.prompt = self.processor.apply_chat_template(message, add_generation_prompt=True)

    @property
    def about(self) -> dict[str, Any]:
        return {"prompt": self.prompt}

    def label(self, values: Sequence[np.ndarray]) -> list[str]:
        texts = {"text": self.prompt} if self.prompt else {}
        inputs = []
        for value in values:
            image = Image.fromarray(self._rgb.convert(value))
            found = self.processor(images=image, return_tensors="pt", **texts)
            inputs.append({name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)})
        return self.batched(inputs, self._run)

    def _run(self, batch: dict[str, Tensor], group: list[int]) -> list[str]:
        found = self.network.generate(
            **batch, max_new_tokens=self.settings.longest, do_sample=False, num_beams=self.settings.beams
        )
        asked = batch.get("input_ids")
        if asked is not None and found.shape[1] >= asked.shape[1] and (found[:, : asked.shape[1]] == asked).all():
            found = found[:, asked.shape[1] :]  # of decoders that go on with what they were asked
        texts = self.processor.tokenizer.batch_decode(found, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def processor_of_images(checkpoint: Checkpoint, config: Any) -> Any:
    """A network's processor of images and texts. Where it is one of videos too, which needs torchvision, it is made
    without that part."""
    if importlib.util.find_spec("torchvision") is not None:
        return checkpoint.processor("AutoProcessor")
    mapping = library("transformers.models.auto.processing_auto").PROCESSOR_MAPPING
    if type(config) not in mapping or VIDEOS not in mapping[type(config)].get_attributes():
        return checkpoint.processor("AutoProcessor")
    cls = mapping[type(config)]
    image, tokenizer = (checkpoint.processor(part) for part in ("AutoImageProcessor", "AutoTokenizer"))
    with checkpoint.errors("the configuration of a processor"), quiet():
        found, _ = cls.get_processor_dict(checkpoint.folder, local_files_only=True)
        accepted = inspect.signature(cls.__init__).parameters.keys() - {"self", "image_processor", "tokenizer", VIDEOS}
        options = {name: found[name] for name in accepted & found.keys()}
        options.setdefault("chat_template", getattr(tokenizer, "chat_template", None))
        silent = type(cls.__name__, (cls,), {"check_argument_for_proper_class": lambda self, name, part: type(part)})
        return silent(**{"image_processor": image, "tokenizer": tokenizer, VIDEOS: None}, **options)


LABELLER = CaptionLabeller
