"""``open4m transfer`` and ``open4m predict``."""

from __future__ import annotations

import contextlib
import json
import logging
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4m import modalities
from open4m.cli import device
from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.transfer.config import TransferConfig
    from open4m.transfer.transferred import Transferred

logger = logging.getLogger("open4m")

PREDICTIONS = "predictions.json"


def add_arguments(parser: ArgumentParser, command: str) -> None:
    {"transfer": _add_transfer, "predict": _add_predict}[command](parser)
    device.add_argument(parser)


def _add_transfer(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config",
        help="a task, classification, detection, semseg, depth or maps, in small; the paper's settings, such as "
        "transfer-ade20k-b; or a .py file with a head of your own",
    )
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="for example train.batch_size=32")
    parser.add_argument("--model", help=MODEL)
    parser.add_argument("--data", type=Path, help="the folder of a labelled data set, with its splits")
    help_text = "the name of the data set, where its folder does not show it, or a .py file that defines LABELLED"
    parser.add_argument("--layout", default="", help=help_text)
    parser.add_argument("--out", type=Path, help="the run directory (default: runs/<config>)")
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    device.add_timeout(parser)
    parser.set_defaults(run=transfer)


MODEL = (
    "where the encoder comes from: a model of any kind, such as scenes; the run of another transfer; scratch:MODEL for "
    "new weights; vit:NAME for other Vision Transformers"
)


def _add_predict(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="what open4m transfer wrote")
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them, at any depth")
    help_text = "what else the transfer reads: a file, or a folder of files that are called as the images are"
    parser.add_argument("--given", nargs="+", action="extend", default=[], metavar="NAME=PLACE", help=help_text)
    parser.add_argument("--out", type=Path, default=Path("out/predict"), help="folder to write (default: out/predict)")
    parser.add_argument(
        "--trust", action="store_true", help="run the head's file that the model carries: read it first"
    )
    parser.set_defaults(run=predict)


def transfer(options: Namespace) -> None:
    """Train, measure and save a transfer, with all processes of ``torchrun``; print its figures and where it is."""
    with device.together(options):
        _transfer(options)


def _transfer(options: Namespace) -> None:
    from open4m import config as configs

    config = configs.override(_config(options.config), options.overrides)
    if options.print_config:
        print(json.dumps(configs.to_dict(config), indent=1))
        return
    if not (options.model and options.data):
        raise Open4MError("transfer: name --model, where the encoder comes from, and --data, the labelled data")
    from open4m.transfer.recipe import transfer

    directory = options.out or Path("runs") / Path(options.config).stem
    found = transfer(config, options.model, options.data, directory, options.device, options.layout)
    print(f"{found.samples} {found.split} examples, with 95% intervals:\n{found.text()}")
    others = "".join(f" --given {name}=FOLDER" for name in _others(config.backbone.inputs))
    others += " --trust" if config.kind.endswith(".py") else ""
    print(f"pictures: {directory / 'test'}\nuse it: open4m predict {directory} IMAGES{others}\n{directory / 'model'}")


def _config(name: str) -> TransferConfig:
    from open4m import configs as named
    from open4m.configs.transfers import small
    from open4m.transfer import heads
    from open4m.transfer.config import TransferConfig

    if name.endswith(".py") and heads.defines_head(Path(name)):
        return small(name)
    if not name.endswith(".py") and name not in named.names():
        raise Open4MError(f"unknown task {name!r} (tasks: {', '.join(_names())}; or a .py file)")
    config = named.get(name)
    if not isinstance(config, TransferConfig):
        raise Open4MError(f"{name}: not the configuration of a transfer (tasks: {', '.join(_names())})")
    return config


def _names() -> list[str]:
    from open4m.configs import transfers

    return sorted(transfers.CONFIGS)


def predict(options: Namespace) -> None:
    """Write what a transferred model says of images: pictures, ``predictions.json``, and maps as ``.npy``."""
    import numpy as np

    from open4m import files, pictures
    from open4m.progress import track
    from open4m.transfer.transferred import Transferred

    paths = _images(options.images, options.out)
    model = Transferred.from_pretrained(options.model, device.chosen(options), trust=options.trust)
    beside = _beside(options.given, model.names, paths, options.model)
    said: dict[str, Any] = {}
    failed: list[str] = []
    files.make_folder(options.out)
    try:
        for path, name, sample, prediction in track(_predicted(model, paths, beside), "predict", len(paths)):
            if isinstance(prediction, Open4MError):
                logger.warning("not predicted: %s", prediction)
                failed.append(str(prediction))
                continue
            place, drawn = options.out / name, model.draw(sample, prediction)
            files.make_folder(place.parent)
            if isinstance(prediction, np.ndarray) and prediction.ndim > 1:
                files.write_file(Path(f"{place}.npy"), lambda part, found=prediction: _save(part, found))
                said[str(path)] = {"map": f"{name}.npy", "shape": list(prediction.shape)}
            else:
                said[str(path)] = _plain(prediction)
            pictures.save(drawn, Path(f"{place}.png"))
    except BaseException:  # what was predicted until a signal or an error is kept, with what was there
        with contextlib.suppress(Open4MError, TypeError):  # the first error is told
            _write(options.out, model.classes, {**_written(options.out, model.classes), **said})
        raise
    _write(options.out, model.classes, said)
    print(options.out)
    if failed:
        others = f" (and {len(failed) - 1} more, named above)" if failed[1:] else ""
        raise Open4MError(f"{len(failed)} of {len(paths)} images were not predicted: {failed[0]}{others}")


def _write(out: Path, classes: Sequence[str], said: Mapping[str, Any]) -> None:
    from open4m import files

    files.write_text(out / PREDICTIONS, json.dumps({"classes": classes, "predictions": said}, indent=1) + "\n")


def _written(out: Path, classes: Sequence[str]) -> dict[str, Any]:
    """What an earlier command wrote, of the same classes; nothing if it is damaged."""
    from open4m import files

    try:
        held = files.read_json(out / PREDICTIONS)
    except Open4MError:
        return {}
    same = isinstance(held, dict) and held.get("classes") == list(classes)
    return held["predictions"] if same and isinstance(held.get("predictions"), dict) else {}


def _predicted(
    model: Transferred, paths: Mapping[Path, str], beside: Mapping[str, Path]
) -> Iterator[tuple[Path, str, Any, Any]]:
    """Each image, what its results are called, what is given, and its prediction or the error that there is instead.

    In batches. One with an error is done again image by image: the others are worth as much without it.
    """
    from open4m.transfer.network import BATCH

    images = iter(paths.items())
    while batch := list(islice(images, BATCH)):
        try:
            together = model.predict([_sample(path, name, beside) for path, name in batch])
        except Open4MError:
            together = None
        for number, (path, name) in enumerate(batch):
            try:
                sample = _sample(path, name, beside)
                found = model.predict([sample])[0] if together is None else together[number]
            except Open4MError as error:
                sample, found = None, error
            yield path, name, sample, found


def _others(names: Sequence[str]) -> list[str]:
    """What a transfer reads besides images."""
    from open4m.datasets.labelled.base import PICTURE

    return [name.partition("@")[0] for name in names if name.partition("@")[0] != PICTURE]


def _beside(words: Sequence[str], names: Sequence[str], paths: Collection[Path], model: str) -> dict[str, Path]:
    """By name, where that is which a transfer reads besides images. Raises :class:`Open4MError` unless it is all given
    and there."""
    needed = _others(names)
    found: dict[str, Path] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not (equals and place) or name not in needed or name in found:
            read = ", ".join(f"{name}=PLACE" for name in needed) or "nothing, since this transfer reads images alone"
            raise Open4MError(f"--given {word}: expected {read}, each once")
        found[name] = Path(place)
        if not found[name].exists():
            raise Open4MError(f"--given {word}: no such file or folder")
        if found[name].is_file() and len(paths) > 1:
            raise Open4MError(f"--given {word}: one file for {len(paths)} images; name a folder with one for each")
    if lacking := [name for name in needed if name not in found]:
        raise Open4MError(
            f"{model}: this transfer reads {', '.join(names)}: say --given {lacking[0]}=FOLDER, whose files are called "
            "as the images are, or a file for a single image"
        )
    return found


def _sample(image: Path, name: str, beside: Mapping[str, Path]) -> Path | dict[str, Path]:
    """An image, with what is given beside it. ``name``: what its results are called."""
    from open4m.datasets.labelled.base import PICTURE
    from open4m.datasets.layouts.base import IMAGE_SUFFIXES

    if not beside:
        return image
    plain = Path(name).with_suffix("") if Path(name).suffix.lower() in IMAGE_SUFFIXES else Path(name)
    return {PICTURE: image, **{key: _file_of(key, place, plain) for key, place in beside.items()}}


def _file_of(name: str, place: Path, plain: Path) -> Path:
    """The file of a modality for an image whose path, without its ending, is ``plain`` in its own folder."""
    if place.is_file():
        return place
    folder, extension = (place / plain).parent, modalities.get(name).extension
    inside = folder.iterdir() if folder.is_dir() else ()
    found = sorted(path for path in inside if path.stem == plain.name or path.name == f"{plain.name}.{extension}")
    if len(found) != 1:
        what = ", ".join(path.name for path in found) or "none"
        raise Open4MError(f"{name}: expected one file {plain.name}.* in {folder}, got {what}")
    return found[0]


def _save(place: Path, values: Any) -> None:
    import numpy as np

    with place.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def _images(paths: list[Path], out: Path) -> dict[Path, str]:
    """All image files that are named, or lie in folders that are, at any depth; and what their results are called in
    ``out``, which is not searched: the path in the folder, without the ending unless another image has that name."""
    from open4m.datasets.layouts.base import IMAGE_SUFFIXES

    found: dict[Path, Path] = {}
    results = out.resolve()
    for path in paths:
        if not path.exists():
            raise Open4MError(f"{path}: no such file or folder")
        if path.is_file():
            found.setdefault(path, Path(path.name))
            continue
        whole = path.resolve()
        for inner in sorted(path.rglob("*")):
            place = inner.relative_to(path)
            skipped = any(part.startswith(".") for part in place.parts) or results in (whole / place).parents
            if inner.suffix.lower() in IMAGE_SUFFIXES and not skipped and not inner.is_dir():
                found.setdefault(inner, place)
    if not found:
        raise Open4MError(f"{', '.join(map(str, paths))}: no images there")
    alike = Counter(str(place.with_suffix("")) for place in found.values())
    named: dict[str, Path] = {}
    for path, place in found.items():
        plain = str(place.with_suffix(""))
        name = plain if alike[plain] == 1 else str(place)
        if name in named:
            raise Open4MError(f"{named[name]} and {path} would both be called {name} in {out}: use two commands")
        named[name] = path
    return {path: name for name, path in named.items()}


def _plain(value: Any) -> Any:
    """Plain JSON values of a prediction."""
    import numpy as np

    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
