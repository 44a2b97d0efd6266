"""``open4m transfer`` and ``open4m predict``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4m.cli import device
from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.transfer.config import TransferConfig


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
    parser.add_argument("--layout", default="", help="the name of the data set, where its folder does not show it")
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
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them")
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
    print(directory / "model")


def _config(name: str) -> TransferConfig:
    from open4m import configs as named
    from open4m.configs.transfers import small
    from open4m.transfer import heads
    from open4m.transfer.config import TransferConfig

    if name.endswith(".py") and heads.defines_head(Path(name)):
        return small(name)
    config = named.get(name)
    if not isinstance(config, TransferConfig):
        raise Open4MError(f"{name}: not the configuration of a transfer (there are {', '.join(_names())})")
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

    model = Transferred.from_pretrained(options.model, device.chosen(options), trust=options.trust)
    paths = _images(options.images)
    said: dict[str, Any] = {}
    files.make_folder(options.out)
    for path in track(paths, "predict"):
        prediction = model.predict([path])[0]
        stem = options.out / path.stem
        if isinstance(prediction, np.ndarray) and prediction.ndim > 1:
            files.write_file(stem.with_suffix(".npy"), lambda place, found=prediction: _save(place, found))
            said[str(path)] = {"map": stem.with_suffix(".npy").name, "shape": list(prediction.shape)}
        else:
            said[str(path)] = _plain(prediction)
        pictures.save(model.draw(path, prediction), stem.with_suffix(".png"))
    files.write_text(
        options.out / "predictions.json", json.dumps({"classes": model.classes, "predictions": said}, indent=1) + "\n"
    )
    print(options.out)


def _save(place: Path, values: Any) -> None:
    import numpy as np

    with place.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def _images(paths: list[Path]) -> list[Path]:
    """All image files that are named, or lie in folders that are; their names must differ, since results have them."""
    from open4m.datasets.layouts.base import IMAGE_SUFFIXES

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        else:
            found.append(path)
    if not found:
        raise Open4MError(f"{', '.join(map(str, paths))}: no images there")
    if twice := {p.stem for p in found if [q.stem for q in found].count(p.stem) > 1}:
        raise Open4MError(f"two images are called {sorted(twice)[0]}: results are named after them; use two commands")
    return found


def _plain(value: Any) -> Any:
    """Plain JSON values of a prediction."""
    import numpy as np

    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
