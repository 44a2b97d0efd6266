"""What labellers that run a network of transformers share: loading, batches of equal shapes, precision, fingerprint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from open4m import config as configs
from open4m import modalities, weights
from open4m.labellers import base
from open4m.labellers.checkpoints import PIPELINE, Checkpoint, auto_class
from open4m.labellers.preprocessing import LONGEST, MULTIPLE, Preprocessing, sides
from open4m.ranges import Size, check_ranges
from open4m.types import Open4MError

SPEED = {"without_effect": True}
"""The metadata of a setting that changes no label: it is not in the fingerprint."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(base.Settings):
    """``revision``: of a model on the hub. ``precision``: of the network's numbers; bfloat16 halves memory and is
    faster on most devices, and rounds. ``batch_size``: images per forward pass."""

    revision: str = field(default="", metadata=SPEED)
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: Size = field(default=8, metadata=SPEED)

    def __post_init__(self) -> None:
        check_ranges(self, "labels")


def chosen(settings: NetworkSettings) -> dict[str, Any]:
    """The settings on which labels depend, as JSON."""
    return configs.to_dict(settings, lambda each: [f for f in dataclasses.fields(each) if f.metadata != SPEED])


class NetworkLabeller(base.Labeller):
    """A network, its settings, and where both came from."""

    source = "rgb"
    Settings: ClassVar[type[NetworkSettings]] = NetworkSettings
    tasks: ClassVar[tuple[str, ...]] = ()  # Auto classes of transformers, the first that has the network is taken

    def __init__(self, network: nn.Module, checkpoint: Checkpoint, settings: NetworkSettings, modality: str) -> None:
        self.network, self.checkpoint, self.settings, self.modality = network, checkpoint, settings, modality
        if settings.precision == "bfloat16":
            network.bfloat16()
        self._rgb, self._modality = modalities.get(self.source), modalities.get(modality)
        self.prepare()

    @classmethod
    def reads(cls, model: str) -> bool:
        return Checkpoint(model).json(PIPELINE) is None

    @classmethod
    def load(
        cls, model: str = "", device: str = "cpu", settings: base.Settings | None = None, modality: str = ""
    ) -> Self:
        settings = settings or cls.Settings()
        checkpoint = Checkpoint(str(model), settings.revision)
        config = checkpoint.config()
        auto = auto_class(config, *cls.tasks)
        if auto is None:
            tasks = " or ".join(task.removeprefix("AutoModel").removeprefix("For") for task in cls.tasks)
            raise Open4MError(f"{model}: a {config.model_type} network, expected one of {tasks} in transformers")
        network = checkpoint.network(auto, config).to(device)
        return cls(network, checkpoint, settings, modality or cls.modality)

    def prepare(self) -> None:
        """What a family reads beside the network: processors, classes. Raises :class:`Open4MError`."""

    @property
    def config(self) -> Any:
        return self.network.config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @cached_property
    def _fingerprint(self) -> str:
        about = [type(self).__name__, self.modality, chosen(self.settings), self.about]
        return weights.fingerprint(self.network.state_dict(), about)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def origin(self) -> dict[str, Any]:
        """For the manifest: where the network is from. It does not change the fingerprint."""
        commit = self.checkpoint.commit
        return {
            "model": self.checkpoint.name,
            "network": type(self.network).__name__,
            **({"revision": commit} if commit else {}),
            "settings": configs.to_dict(self.settings),
        }

    def grouped(self, shapes: Sequence[Any]) -> Iterator[list[int]]:
        """The indices of samples in batches of equal shapes, so that no sample is padded for the sake of another."""
        groups: dict[Any, list[int]] = {}
        for i, shape in enumerate(shapes):
            groups.setdefault(shape, []).append(i)
        for group in groups.values():
            for start in range(0, len(group), self.settings.batch_size):
                yield group[start : start + self.settings.batch_size]

    def batched(
        self, inputs: Sequence[Mapping[str, Tensor]], run: Callable[[dict[str, Tensor], list[int]], list]
    ) -> list:
        """The results of ``run`` for samples that were prepared one by one, each with tensors (1, ...)."""
        results: list[Any] = [None] * len(inputs)
        shapes = [tuple((name, tuple(tensor.shape)) for name, tensor in row.items()) for row in inputs]
        for group in self.grouped(shapes):
            batch = {name: self.to_device(torch.cat([inputs[i][name] for i in group])) for name in inputs[group[0]]}
            with torch.inference_mode():
                found = run(batch, group)
            for i, result in zip(group, found, strict=True):
                results[i] = result
        return results

    def to_device(self, tensor: Tensor) -> Tensor:
        """On the network's device; floats in its type."""
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)


@dataclass(frozen=True, kw_only=True)
class MapSettings(NetworkSettings):
    """``size``: ``"paper"`` gives sides to the nearest multiple of 32 pixels (of the network's patches, where 32 is
    none) and below ``longest`` (B.1); ``"own"`` is that of the image processor; ``"auto"`` is the paper's for depth and
    normals, unless the network has one size of inputs, and the image processor's for all else."""

    size: Literal["auto", "paper", "own"] = "auto"
    longest: Size = LONGEST


FIXED_SIZE = ("depth_pro",)
"""Networks, by type, that have one size of inputs."""


def has_fixed_size(config: Any) -> bool:
    """Whether a network has one size of inputs; of DPT, those with a Vision Transformer of their own have."""
    is_own_dpt = config.model_type == "dpt" and getattr(config, "backbone_config", None) is None
    return config.model_type in FIXED_SIZE or is_own_dpt or bool(getattr(config, "is_hybrid", False))


class MapLabeller(NetworkLabeller):
    """A network from images to maps: images are resized, in their frame, and maps are resized back to the image's."""

    Settings = MapSettings
    as_the_paper: ClassVar[bool] = True  # what the size is by default

    def prepare(self) -> None:
        self.preprocessing = Preprocessing.of(self.checkpoint)

    def size_of(self, image: np.ndarray) -> tuple[int, int]:
        """The size in pixels at which the network sees an image."""
        height, width = image.shape[:2]
        settings = self.settings
        is_own = not self.as_the_paper or has_fixed_size(self.config)
        if settings.size == "own" or (settings.size == "auto" and is_own):
            return self.preprocessing.own(height, width)
        patch = patch_of(self.config)
        return sides(height, width, MULTIPLE if MULTIPLE % patch == 0 else patch, settings.longest)

    def maps(self, images: Sequence[np.ndarray], run: Callable[[Tensor], Sequence]) -> list[np.ndarray]:
        """The map of each image at the image's size: what :meth:`finished` makes of what ``run`` gives for a batch."""
        images = [self._rgb.convert(image) for image in images]
        results: list[Any] = [None] * len(images)
        sizes = [self.size_of(image) for image in images]
        for group in self.grouped(sizes):
            with torch.inference_mode():
                batch = self.to_device(self.preprocessing([images[i] for i in group], sizes[group[0]]))
                for i, one in zip(group, run(batch), strict=True):
                    results[i] = self.finished(one, images[i].shape[:2], sizes[i])
        return results

    def finished(self, one: Any, size: tuple[int, int], seen: tuple[int, int]) -> np.ndarray:
        """float32 (C, H, W) of ``size``, that of the image, from one sample's output (C, h, w) for an image of ``seen``
        pixels."""
        return resized(one, size).cpu().numpy()


def resized(one: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (C, h, w) at another size, linearly between the middles of pixels."""
    if one.shape[-2:] == tuple(size):
        return one
    return interpolate(one[None].float(), size=tuple(size), mode="bilinear", align_corners=False, antialias=False)[0]


def patch_of(config: Any) -> int:
    """The side in pixels of a network's patches; 1 if it has none."""
    for part in (config, getattr(config, "backbone_config", None), getattr(config, "vision_config", None)):
        patch = getattr(part, "patch_size", None)
        patch = max(patch) if isinstance(patch, list | tuple) and patch and isinstance(patch[0], int) else patch
        if isinstance(patch, int) and patch > 0:
            return patch
    return 1
