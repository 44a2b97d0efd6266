"""What a transfer leaves: an encoder and a head that predict, in a directory of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from PIL import Image
from torch import nn

from open4m import checksums, files, modalities, weights
from open4m import config as configs
from open4m.datasets.labelled.base import Example
from open4m.devices import find_device
from open4m.modalities.given import taken
from open4m.nn.adapters import plain_state
from open4m.ranges import Size, check_ranges
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.transfer import heads
from open4m.transfer.augment import Pipeline
from open4m.transfer.backbone import EncoderConfig
from open4m.transfer.heads import contract
from open4m.transfer.network import Contents, TransferNetwork, predictions
from open4m.transfer.vision_transformers import VisionTransformerConfig
from open4m.types import Open4MError, shown

Network = TypeVar("Network", bound=nn.Module)

FORMAT = 1
"""The version of the directory's format."""

HEAD_FILE = "head.py"
"""A user's head, which the directory carries: a program."""


@dataclass(frozen=True, kw_only=True)
class TransferredConfig:
    """What a saved transfer is. ``kind``: its head, :data:`HEAD_FILE` for a user's own; no other file is ever one,
    since heads are programs. ``names``: what is given. ``place``: how a picture is put into the square, of
    ``image_size`` pixels."""

    transfer: str  # marks the file: the version of open4m that wrote it
    kind: str
    head: Any
    encoder: EncoderConfig | VisionTransformerConfig
    pooling: Literal["tokens", "registers", "class"]
    names: tuple[str, ...]
    image_size: Size
    classes: tuple[str, ...]
    place: Pipeline

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.kind not in (HEAD_FILE, *heads.names()):
            raise Open4MError(f"kind: expected {', '.join(heads.names())} or {HEAD_FILE}, got {shown(self.kind)}")
        if self.image_size != self.place.side:
            raise Open4MError(f"image_size: expected {self.place.side}, as place has it, got {shown(self.image_size)}")


def is_transfer(folder: Path) -> bool:
    """Whether a directory holds what a transfer left, or a run that did."""
    return _place_of(folder) is not None


def _place_of(folder: Path) -> Path | None:
    for place in (folder, folder / "model"):
        if (place / weights.CONFIG).is_file():
            held = files.read_json(place / weights.CONFIG, files.LARGEST_CONFIG)
            if isinstance(held, dict) and "transfer" in held:
                return place
    return None


class Transferred:
    """An encoder with a trained head.

    >>> model = Transferred.from_pretrained("runs/semseg/model")
    >>> model.predict(["photo.jpg"])
    """

    def __init__(self, config: TransferredConfig, network: TransferNetwork, tokenizers: Mapping[str, Tokenizer]):
        self.config, self.network = config, network
        self.names, self.image_size, self.classes = config.names, config.image_size, config.classes
        self.contents = Contents(network.backbone, config.names, tokenizers, config.image_size)
        self.place = config.place

    def __repr__(self) -> str:
        classes = f" of {len(self.classes)} classes" if self.classes else ""
        return f"Transferred({self.config.kind}{classes}, reads {', '.join(self.names)} of {self.image_size} pixels)"

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", *, trust: bool = False) -> Self:
        """What a directory holds, or the run that wrote it. ``trust``: run the head's file that it carries, which is a
        program: read it first. Raises :class:`Open4MError` if there is none, or it is damaged or not trusted."""
        place = _place_of(files.path_of(folder, "folder"))
        if place is None:
            raise Open4MError(
                f"{folder}: not what open4m transfer wrote, or its training has not ended: no {weights.CONFIG} that "
                "says so; on a model without a head, open4m transfer trains one first"
            )
        checksums.check(place, weights.CONFIG, weights.WEIGHTS, HEAD_FILE)
        config = configs.load(TransferredConfig, place / weights.CONFIG, FORMAT)
        kind = config.kind
        if kind == HEAD_FILE:
            kind = str(place / HEAD_FILE)
            if not trust:
                raise Open4MError(
                    f"{kind}: this transfer carries its head, a program; read it, then use --trust "
                    "(in Python: trust=True)"
                )
        settings = configs.from_dict(heads.get(kind).Config, config.head, "head")
        config = dataclasses.replace(config, head=settings)
        network = _with_weights(lambda: assembled(config, kind), place)
        network.backbone.check_size(config.image_size)
        tokenizers = _tokenizers(place, network.backbone, device)
        return cls(config, network.to(find_device(device)).eval(), tokenizers)

    def save(self, folder: Path, head_file: Path | None = None) -> None:
        """Write a directory that :meth:`from_pretrained` reads. ``head_file``: a user's head, which it carries."""
        files.make_folder(folder)
        configs.save(self.config, folder / weights.CONFIG, FORMAT)
        weights.write_tensors(folder / weights.WEIGHTS, state(self.network))
        for key, tokenizer in self.contents.tokenizers.items():
            tokenizer.save(folder / weights.TOKENIZERS / key)
        if head_file is not None:
            files.write_bytes(folder / HEAD_FILE, files.read_bytes(head_file))
        checksums.seal(folder, [weights.CONFIG, weights.WEIGHTS, *([HEAD_FILE] if head_file else [])])

    def predict(self, given: Iterable[Any]) -> list[Any]:
        """The head's prediction for each sample, on its own picture. A sample is an image, of any kind that
        :meth:`FourM.take` reads, or values by modality. Raises :class:`Open4MError` for one sample that is in no list.
        """
        is_one = isinstance(given, str | bytes | Path | Mapping | Image.Image) or getattr(given, "ndim", 4) < 4
        if is_one:
            raise Open4MError("predict: expected a list of samples, got one; write predict([sample])")
        examples = [self.example(sample) for sample in given]
        pairs = predictions(self.network, self.contents, self.place, examples, range(len(examples)))
        return [prediction for _, prediction in pairs]

    def draw(self, sample: Any, prediction: Any) -> Image.Image:
        """The picture and its prediction."""
        return contract.draw(self.network.head, self.example(sample), prediction)

    def example(self, sample: Any) -> Example:
        """A sample as an example without labels."""
        photo = modalities.of_role("photo").name
        values = dict(sample) if isinstance(sample, Mapping) else {photo: sample}
        example = {name: taken(modalities.get(name), value, ()) for name, value in values.items()}
        if photo not in example:
            raise Open4MError(f"predict: expected an image, or values with {photo}, got {', '.join(example)}")
        return example


def read_encoder(folder: Path) -> tuple[TransferredConfig, Any, dict[str, Tokenizer]]:
    """What a saved transfer is, its encoder alone with its weights, and the tokenizers of its inputs. The head is not
    made, so that a user's own needs no trust. Raises :class:`Open4MError` if it is damaged."""
    place = _place_of(folder)
    checksums.check(place, weights.CONFIG, weights.WEIGHTS)
    config = configs.load(TransferredConfig, place / weights.CONFIG, FORMAT)
    backbone = _with_weights(lambda: config.encoder.backbone(config.pooling), place, "backbone.")
    return config, backbone, _tokenizers(place, backbone, "cpu")


def _with_weights(make: Callable[[], Network], place: Path, prefix: str = "") -> Network:
    """A network with the weights of a directory whose names begin with ``prefix``. Its sizes are those of the file
    before it takes memory."""
    path = place / weights.WEIGHTS
    try:
        with torch.device("meta"):  # no initial weights are drawn
            sketch = make()
    except (RuntimeError, OverflowError) as error:  # of torch, for sizes that no number holds
        raise Open4MError(f"{place / weights.CONFIG}: sizes that no network can have ({error})") from error
    held = weights.read_tensors(path)
    found = {name.removeprefix(prefix): tensor for name, tensor in held.items() if name.startswith(prefix)}
    weights.checked(path, found, state(sketch))
    weights.check_finite(path, found)
    network = make()
    network.load_state_dict(found, strict=True)
    return network


def _tokenizers(place: Path, backbone: Any, device: str) -> dict[str, Tokenizer]:
    return {
        key: Tokenizer.load(place / weights.TOKENIZERS / key, find_device(device))
        for key, spec in backbone.specs.items()
        if spec.has_codebook
    }


def assembled(config: TransferredConfig, kind: str) -> TransferNetwork:
    """The network without its weights. ``kind``: the head, or the path of a user's own."""
    backbone = config.encoder.backbone(config.pooling)
    head = heads.get(kind)(config.head, backbone.width, config.classes, backbone.patch)
    return TransferNetwork(backbone, head)


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    """All weights, with adapters merged into them."""
    return {name: tensor.detach().contiguous() for name, tensor in plain_state(network).items()}


def described(config: Any, network: TransferNetwork, classes: Sequence[str], version: str) -> TransferredConfig:
    """What a trained network of a :class:`~open4m.transfer.config.TransferConfig` is."""
    return TransferredConfig(
        transfer=version,
        kind=HEAD_FILE if config.kind.endswith(".py") else config.kind,
        head=config.head,
        encoder=network.backbone.config,
        pooling=config.backbone.pooling,
        names=config.backbone.inputs,
        image_size=config.backbone.image_size,
        classes=tuple(classes),
        place=config.augment.evaluation,
    )
