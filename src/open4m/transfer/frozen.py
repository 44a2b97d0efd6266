"""What a frozen encoder's features say of labelled images, layer by layer: probes of them, on data of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from open4m import config as configs
from open4m.datasets import labelled
from open4m.datasets.labelled.base import PICTURE, Labelled
from open4m.progress import track
from open4m.ranges import Layers, Seed, Size, Steps, check_ranges
from open4m.rng import seeded, stream
from open4m.transfer.augment import CenterCrop, Pipeline
from open4m.transfer.network import Contents
from open4m.transfer.origin import Origin
from open4m.transfer.probes import Normalization, Probed, probe
from open4m.transfer.task import LABEL
from open4m.types import Open4MError, shown

FORMAT = 1
"""The version of the format of what is measured."""

BEST_BY = "linear"
"""The figure by which layers are compared."""


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """``layers``: numbers of blocks, from 1; (): the last one. ``train``, ``test``: examples at most, drawn at random.
    ``normalize``: see :func:`.probes.normalized`."""

    layers: tuple[Layers, ...] = ()
    normalize: Normalization = "standardize"
    train: Steps = 10_000
    test: Steps = 2_000
    batch_size: Size = 32
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class OfLayer:
    """What the features of one layer say."""

    layer: Layers
    probed: Probed


@dataclass(frozen=True, kw_only=True)
class FrozenFigures:
    """``train``, ``test``: numbers of images; ``split``: of the test images. ``chance``: the share of these that are of
    the class that most training images are of. ``layers``: in the order that was asked for."""

    model: str
    data: str
    split: str
    options: ProbeOptions
    train: Steps
    test: Steps
    classes: Steps
    chance: float
    layers: tuple[OfLayer, ...]

    @property
    def best(self) -> OfLayer:
        """The layer with the highest :data:`BEST_BY`; of equal ones, the first."""
        return max(self.layers, key=lambda of: of.probed.figures.values[BEST_BY])

    def text(self) -> str:
        """A line per layer: percentages, with half of their 95% intervals."""
        names = list(self.layers[0].probed.figures.values)
        rows = [["layer", *names]]
        for of in self.layers:
            figures = of.probed.figures
            cells = [f"{100 * value:.1f}" for value in figures.values.values()]
            halves = [figures.intervals.get(name) for name in names]
            cells = [c if h is None else f"{c} ± {50 * (h[1] - h[0]):.1f}" for c, h in zip(cells, halves, strict=True)]
            rows.append([str(of.layer), *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        head = f"{self.model}: {self.train} training and {self.test} {self.split} images of {self.classes} classes"
        lines = [f"{head}, in %, ± half of a 95% interval; chance {100 * self.chance:.1f}", *lines]
        return "\n".join([*lines, *([f"best by {BEST_BY}: layer {self.best.layer}"] if len(self.layers) > 1 else [])])

    def save(self, path: Path) -> None:
        """Write all figures as JSON."""
        configs.save(self, path, FORMAT)


def open_data(root: Path, layout: str = "", label: str = "") -> tuple[Labelled, Labelled, str]:
    """Training images with their classes, those of the test split or else of the validation split, and its name.

    Raises :class:`Open4MError` if there are none, or the images have no classes.
    """
    training = _classes_of(labelled.open_split(root, "train", layout, label=label), root)
    split, others = labelled.open_held_out(root, layout, label, (LABEL,))
    others = _classes_of(others, root)
    if training.classes(LABEL) != others.classes(LABEL):
        raise Open4MError(f"{root}: training and {split} data name other classes")
    return training, others, split


def _classes_of(data: Labelled, root: Path) -> Labelled:
    if LABEL not in data.targets or not data.classes(LABEL):
        held = ", ".join(data.targets) or "nothing"
        raise Open4MError(f"{root}: {data.name} says no class of whole images (it has {held}); probes need classes")
    if not len(data):
        raise Open4MError(f"{root}: no images in a split")
    return data


class Frozen:
    """An encoder that is not trained, and what turns pictures into what it reads: the square in their middle."""

    def __init__(self, origin: Origin, device: str | torch.device = "cpu"):
        """Raises :class:`Open4MError` for an encoder that reads more than the picture."""
        self.name, config = origin.name, origin.config
        if any(name.partition("@")[0] != PICTURE for name in config.inputs):
            raise Open4MError(f"backbone.inputs: probes are of features of {PICTURE}, got {', '.join(config.inputs)}")
        self.backbone = origin.make()
        origin.load(self.backbone, seeded(0))
        self.backbone.to(device).eval().requires_grad_(False)
        self.contents = Contents(self.backbone, config.inputs, origin.tokenizers, config.image_size)
        self.place, self.device = Pipeline(steps=(CenterCrop(side=config.image_size),)), device

    def features(
        self, data: Labelled, places: Sequence[int], layers: Sequence[int], batch_size: int, title: str = ""
    ) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Pooled features (n, D) float32 of some images by layer, and the classes (n,) of these."""
        data, labels = data.only([LABEL]), []

        def batches() -> Iterable[Mapping[str, Tensor]]:
            for first in track(range(0, len(places), batch_size), title or "features"):
                examples = [data[int(place)] for place in places[first : first + batch_size]]
                labels.extend(_label(example[LABEL], data) for example in examples)
                squares = [self.place(example, None)[0] for example in examples]
                contents = self.contents.of(squares)
                yield {key: content.to(self.device) for key, content in contents.items()}

        return pooled(self.backbone, batches(), layers), np.array(labels)

    def probe(self, training: Labelled, test: Labelled, split: str, root: Path, options: ProbeOptions) -> FrozenFigures:
        """Probe the features of all layers that are asked for."""
        layers = options.layers or (self.backbone.depth,)
        chosen = [
            _drawn(len(training), options.train, options.seed, 0),
            _drawn(len(test), options.test, options.seed, 1),
        ]
        (known, classes), (others, truth) = (
            self.features(data, places, layers, options.batch_size, f"{name} images")
            for data, places, name in zip((training, test), chosen, ("training", split), strict=True)
        )
        found = []
        for layer in track(layers, "probes"):
            pair = ((known[layer], classes), (others[layer], truth))
            found.append(OfLayer(layer=layer, probed=probe(*pair, options.normalize, options.seed)))
        ids, counts = np.unique(classes, return_counts=True)
        return FrozenFigures(
            model=self.name,
            data=str(root),
            split=split,
            options=options,
            train=len(classes),
            test=len(truth),
            classes=len(training.classes(LABEL)),
            chance=float((truth == ids[counts.argmax()]).mean()),
            layers=tuple(found),
        )


def layers_of(text: str, depth: int) -> tuple[int, ...]:
    """The layers that are meant by "last", "all", or numbers with commas between them, of an encoder of ``depth``.

    Raises :class:`Open4MError` for others.
    """
    if text in ("last", "all"):
        return tuple(range(1, depth + 1)) if text == "all" else (depth,)
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if not all(1 <= number <= depth for number in numbers):
        raise Open4MError(
            f"layers: expected last, all, or numbers from 1 to {depth} such as 1,{depth}, got {shown(text)}"
        )
    return tuple(dict.fromkeys(numbers))


@torch.inference_mode()
def pooled(
    backbone: nn.Module, batches: Iterable[Mapping[str, Tensor]], layers: Sequence[int]
) -> dict[int, np.ndarray]:
    """Features (n, D) float32 after each of some blocks, of contents as a backbone reads them.

    They are pooled as the backbone pools. Those of the last block are its own pooled features, after its last norm;
    those of the others are what the block puts out.
    """
    outputs: dict[int, Tensor] = {}
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}

    def keep(layer: int):
        def hook(_block: nn.Module, _inputs: tuple, output: Tensor) -> None:
            outputs[layer] = output

        return hook

    inner = [layer for layer in found if layer < backbone.depth]
    hooks = [backbone.encoder[layer - 1].register_forward_hook(keep(layer)) for layer in inner]
    try:
        for contents in batches:
            last = backbone(contents)
            for layer, parts in found.items():
                own = last.pooled
                if layer < backbone.depth:
                    own = _pool(outputs[layer], outputs[layer].shape[1] - last.tokens.shape[1], backbone.pooling)
                parts.append(own.float().cpu().numpy())
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def _pool(x: Tensor, extra: int, pooling: str) -> Tensor:
    """Tokens (B, extra + N, D), of which the first ones have no place in the image, as one vector (B, D) each."""
    return {"tokens": x[:, extra:], "registers": x[:, :extra], "class": x[:, :1]}[pooling].mean(1)


def _drawn(count: int, most: int, seed: int, part: int) -> np.ndarray:
    """Places of at most ``most`` of ``count`` examples, drawn at random, in their order."""
    return np.sort(stream(seed, part, count).permutation(count)[:most])


def _label(value: object, data: Labelled) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise Open4MError(f"{data.name}: expected the class of an image as a whole number, got {shown(value)}")
    return int(value)
