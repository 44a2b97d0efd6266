"""A whole transfer: an encoder, a head, labelled data; trained, measured, drawn, saved (paper 3, D)."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from open4m import __version__, files, pictures, ranks
from open4m import config as configs
from open4m.datasets import labelled
from open4m.datasets.labelled.base import PICTURE, Labelled, NoSplit, check_target
from open4m.evaluate.intervals import Figures, measure
from open4m.progress import track
from open4m.train.config import RUN, claim
from open4m.train.loop import train
from open4m.transfer import heads
from open4m.transfer.config import TransferConfig
from open4m.transfer.heads import contract
from open4m.transfer.network import TransferNetwork, predictions, spread
from open4m.transfer.origin import open_origin
from open4m.transfer.task import TransferTask
from open4m.transfer.transferred import Transferred, described
from open4m.types import Open4MError, shown

logger = logging.getLogger("open4m")

EVALUATION = "evaluation.json"
"""The file of a run directory with the figures of the trained network."""

FORMAT = 1
"""The version of its format."""

LARGEST_NAMES = files.LARGEST_CONFIG - (1 << 20)
"""Bytes of the names of all classes, at most: the configuration of what is saved holds them, and little else."""

DRAWN = 8
"""Test examples in pictures."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of a transfer on ``samples`` examples, with 95% intervals. ``main``: the name of the one to compare."""

    main: str
    figures: Figures
    samples: int
    split: str

    def text(self) -> str:
        """One line per figure."""
        rows = []
        for name, value in self.figures.values.items():
            low_high = self.figures.intervals.get(name)
            rows.append(
                f"{name}: {value:.4g}" + ("" if low_high is None else f" ± {(low_high[1] - low_high[0]) / 2:.2g}")
            )
        return "\n".join(rows)


def transfer(
    config: TransferConfig, model: str, data: Path, directory: Path, device: str = "cpu", layout: str = ""
) -> Measured:
    """Train, measure and save a transfer in ``directory``; resumes what is there.

    ``model``: where the encoder comes from (:func:`~open4m.transfer.origin.open_origin`). ``data``: the folder of a
    labelled data set, ``layout`` its name where that is not seen. Raises :class:`Open4MError` if anything of these does
    not fit.
    """
    origin = open_origin(model, config.backbone)
    config = config.on(origin.config)
    training, validation = (opened(data, split, config, layout) for split in ("train", "validation"))
    for split, examples in (("training", training), ("validation", validation)):
        if not len(examples):
            raise Open4MError(f"{data}: no {split} examples")
    target = heads.target_of(config.kind, config.head)
    check_classes(training, validation, target, data)
    _check_test(training, config, target, data, layout)
    logger.info("%s", description(training, validation, target, data))
    samples = min(len(training), config.examples or len(training))
    config = dataclasses.replace(config, train=config.train.on_data(samples))
    head_file = Path(config.kind) if config.kind.endswith(".py") else None

    def save(network: TransferNetwork, folder: Path) -> None:
        about = described(config, network, training.classes(target), __version__)
        Transferred(about, network, origin.tokenizers).save(folder, head_file)

    task = TransferTask(config, origin, training, validation, save)
    about = _task_config(config, model, origin.fingerprint, data, directory)
    ranks.on_first(lambda: _check_finished(directory, {"train": config.train, "task": about}))
    train(task, config.train, directory, device=device, task_config=about)
    found = partial(_evaluated, config, data, directory, device, layout)
    return ranks.on_first(lambda: _known(directory) or found(), long=True)


def description(training: Labelled, validation: Labelled, target: str, root: Path) -> str:
    """What a folder was read as, in a line: a wrong folder is seen before it is trained on."""
    classes = training.classes(target)
    named = f" of {len(classes)} classes ({', '.join(map(shown, classes[:5]))}{', …' if classes[5:] else ''})"
    few = ": too few for figures that say much" if len(validation) < 20 else ""
    return (
        f"{root}: read as {training.name}: {target}{named if classes else ''}; {len(training)} training examples, "
        f"{len(validation)} for validation{few}"
    )


def _check_finished(directory: Path, about: Any) -> None:
    """Raise :class:`Open4MError` if a run is finished and was another one, be it in its length alone: its network is
    measured, and would stay what it is."""
    if files.is_filled(directory / "model"):
        claim(directory, about, finished=True)


def _known(directory: Path) -> Measured | None:
    """The figures that a run directory has; None if it has none, or they are damaged: then they are measured again."""
    path = directory / EVALUATION
    if not path.is_file():
        return None
    try:
        values = files.read_json(path, files.LARGEST_CONFIG)
        if not isinstance(values, dict) or values.pop(configs.FORMAT, None) != FORMAT:
            raise Open4MError(f"{path}: expected format {FORMAT}")
        figures = values.get("figures")
        if isinstance(figures, dict) and isinstance(named := figures.get("values"), dict):
            figures["values"] = {name: math.nan if value is None else value for name, value in named.items()}
        return configs.from_dict(Measured, values, str(path))
    except Open4MError as error:
        logger.warning("%s; the network is measured again", error)
        return None


def _write(found: Measured, path: Path) -> None:
    """As JSON, which has no NaN: such figures are null."""
    values = configs.to_dict(found)
    named = found.figures.values.items()
    values["figures"]["values"] = {name: value if math.isfinite(value) else None for name, value in named}
    files.write_text(path, json.dumps({configs.FORMAT: FORMAT, **values}, indent=1, allow_nan=False) + "\n")


def opened(data: Path, split: str, config: TransferConfig, layout: str) -> Labelled:
    """A split of the data, of whose examples only what is read and learned is taken."""
    return labelled.open_split(data, split, layout, label=config.label).only(read_by(config))


def read_by(config: TransferConfig) -> list[str]:
    """What a transfer reads of examples, besides the picture."""
    wanted = {heads.target_of(config.kind, config.head), *(name.partition("@")[0] for name in config.backbone.inputs)}
    return sorted(wanted - {PICTURE})


def check_classes(training: Labelled, validation: Labelled, target: str, root: Path) -> None:
    """Raise :class:`Open4MError` if the splits name other classes, or they could not be read again when saved."""
    names = training.classes(target)
    _check_same(names, validation.classes(target), target, f"{root}: training and validation data")
    if (size := len(json.dumps(names, indent=2))) > LARGEST_NAMES:
        raise Open4MError(
            f"{root}: the names of {len(names)} classes take {size} bytes, and {LARGEST_NAMES} are saved: shorten them"
        )


def _check_test(training: Labelled, config: TransferConfig, target: str, data: Path, layout: str) -> None:
    """Raise :class:`Open4MError` before the training if the test data, where there are any, cannot be opened, or name
    other classes: their numbers would be taken for those of the training data."""
    try:
        test = labelled.open_split(data, "test", layout, label=config.label)
    except NoSplit:
        return
    if target in test.targets:
        _check_same(test.classes(target), training.classes(target), target, f"{data}: test and training data")


def _check_same(found: Sequence[str], expected: Sequence[str], target: str, what: str) -> None:
    """Raise :class:`Open4MError` that shows the first difference between two lists of classes."""
    for number, (one, other) in enumerate(zip_longest(found, expected, fillvalue="")):
        if one != other:
            raise Open4MError(
                f"{what} name other classes of {target}: number {number} is {shown(one)} and {shown(other)} "
                f"({len(found)} and {len(expected)} classes); name the same ones, in the same order"
            )


def _task_config(config: TransferConfig, model: str, encoder: str, data: Path, directory: Path) -> dict[str, Any]:
    """What determines a run besides its training. ``encoder``: a fingerprint, by which a run in ``directory`` that an
    earlier version began, without noting it, is not compared."""
    about = configs.to_dict(config)
    about.pop("train")
    found = {"transfer": about, "model": model, "encoder": encoder, "data": str(data)}
    run = directory / RUN
    held = files.read_json(run, files.LARGEST_CONFIG) if run.is_file() else {}
    task = held.get("task") if isinstance(held, dict) else None
    if isinstance(task, dict) and "encoder" not in task:
        del found["encoder"]
    return found


def _evaluated(config: TransferConfig, data: Path, directory: Path, device: str, layout: str) -> Measured:
    """The figures of the saved network on test data, or on validation data where there are none; writes them, and
    pictures."""
    held = Transferred.from_pretrained(directory / "model", device, trust=True)
    wanted = read_by(config)
    split, examples = labelled.open_held_out(data, layout, config.label, wanted)
    examples, head = examples.only(wanted), held.network.head
    _check_same(examples.classes(head.target), head.classes, head.target, f"{data}: {split} data and the saved model")
    places = spread(len(examples), config.test_samples)
    drawn = {places[i] for i in spread(len(places), DRAWN)}
    pairs = predictions(held.network, held.contents, held.place, examples, places, config.at_once)
    files.make_folder(directory / "test")
    true, said = [], []
    for place, (example, prediction) in zip(
        places, track(pairs, f"{head.name}: {split} examples", len(places)), strict=True
    ):
        check_target(example, head.target, head.classes, examples.key(place))
        if place in drawn:
            pictures.save(contract.draw(head, example, prediction), directory / "test" / f"{place}.png")
        true.append(head.kept(example))
        said.append(prediction)

    def metrics(indices) -> Mapping[str, float]:
        return contract.measure(head, [said[i] for i in indices], [true[i] for i in indices])

    figures = measure(metrics, len(said))
    found = Measured(main=next(iter(figures.values)), figures=figures, samples=len(said), split=split)
    for name, picture in head.summary(said, true).items():
        pictures.save(picture, directory / "test" / f"{name}.png")
    _write(found, directory / EVALUATION)
    return found
