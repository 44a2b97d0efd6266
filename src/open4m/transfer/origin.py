"""Where the encoder of a transfer comes from: a pre-trained 4M, another transfer, or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from open4m import weights
from open4m.fourm import FourMBase
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.transfer import transferred
from open4m.transfer.backbone import Backbone, BackboneConfig
from open4m.transfer.vision_transformers import is_vision_transformer, open_vision_transformer
from open4m.types import Open4MError

SCRATCH = "scratch"
"""``scratch:MODEL`` names the architecture of a model, with new weights: what a pre-training is compared with."""


class Origin:
    """An encoder and its weights.

    ``config``: with the size of image filled in. ``tokenizers``: by key, of inputs that are read as tokens.
    """

    def __init__(
        self, name: str, backbone: Backbone | None, config: BackboneConfig, tokenizers: Mapping[str, Tokenizer]
    ):
        """``backbone``: holds the weights; its structure is copied."""
        self.name, self.config, self.tokenizers = name, config, tokenizers
        self._held, self._is_scratch = backbone, False

    @property
    def fingerprint(self) -> str:
        """Tells encoders of one name apart: by weights, but of ``scratch:``, configuration and tokenizers."""
        about = [self._held.config, {key: tokenizer.fingerprint for key, tokenizer in self.tokenizers.items()}]
        return weights.fingerprint({} if self._is_scratch else self._held.state_dict(), about)

    def make(self) -> Backbone:
        """The encoder without its weights."""
        return self._held.config.backbone(self.config.pooling)

    def load(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Give an encoder its weights: those of the origin, or new ones, which ``generator`` draws."""
        if next(backbone.parameters()).is_meta:  # has shapes only
            return
        backbone.load_state_dict(self._held.state_dict())
        if self._is_scratch:
            backbone.initialize(generator)


def open_origin(name: str | Path, config: BackboneConfig) -> Origin:
    """The encoder of what is named: a model of any kind that loads, a directory that a transfer wrote (D.2: its head is
    replaced), a Vision Transformer of others (``vit:NAME``), or ``scratch:`` and any of these.

    Raises :class:`Open4MError` if there is none, or it does not fit the configuration.
    """
    scratch, _, rest = str(name).rpartition(f"{SCRATCH}:")
    if not scratch and str(name).startswith(f"{SCRATCH}:"):
        found = open_origin(rest, config)
        found._is_scratch = True
        return found
    if transferred.is_transfer(Path(str(name))):
        return _of_transfer(Path(str(name)), config)
    if is_vision_transformer(name):
        return Origin(str(name), *open_vision_transformer(name, config), {})
    return _of_model(FourMBase.from_pretrained(name), str(name), config)


def _of_model(model: FourMBase, name: str, config: BackboneConfig) -> Origin:
    keys = [model.config.read_as(given) for given in config.inputs]
    sizes = {}
    for key in keys:
        spec = model.config.spec(key) if key in model.config.keys else None
        if spec is not None and spec.content == "pixels":
            sizes[key] = spec.grid[0] * spec.patch_size
        elif spec is not None and spec.has_codebook:
            model.check_tokenizer(key)
            sizes[key] = model.grids[key].config.image_size
    if len(set(sizes.values())) > 1:
        raise Open4MError(f"backbone.inputs: the model reads them at several sizes: {sizes}")
    if unknown := [given for given, key in zip(config.inputs, keys, strict=True) if key not in model.config.inputs]:
        read = ", ".join(dict.fromkeys([*model.config.inputs, *model.config.readers]))
        raise Open4MError(f"backbone.inputs: the model does not read {unknown[0]} (it reads {read})")
    if not sizes:
        raise Open4MError(f"backbone.inputs: {', '.join(config.inputs)} have no places: name an image or a map as well")
    size = next(iter(sizes.values()))
    config = config if config.image_size is not None else dataclasses.replace(config, image_size=size)
    backbone = Backbone.of(model.model, config, size)
    return Origin(name, backbone, config, {key: model.grids[key] for key in keys if key in model.grids})


def _of_transfer(folder: Path, config: BackboneConfig) -> Origin:
    held, backbone, tokenizers = transferred.read_encoder(folder)
    if held.names != config.inputs:
        raise Open4MError(f"backbone.inputs: {folder} reads {', '.join(held.names)}, got {', '.join(config.inputs)}")
    config = config if config.image_size is not None else dataclasses.replace(config, image_size=held.image_size)
    backbone.check_size(config.image_size)
    if config.drop_path is not None:
        backbone.config = backbone.config.dropping(config.drop_path)
    return Origin(f"{folder / weights.CONFIG}", backbone, config, tokenizers)
