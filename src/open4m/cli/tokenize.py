"""``open4m tokenize``: raw data become the token stores that a model is trained on."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.types import Open4MError

SPLITS = ("train", "validation", "val", "test")
"""The folders that hold the parts of a data set, each of which becomes a store."""


def add_arguments(parser: ArgumentParser, command: str) -> None:
    from open4m.cli import device, executor

    parser.add_argument("raw", type=Path, metavar="RAW", help="a folder of raw shards, or of train and validation")
    parser.add_argument(
        "tokenizers", type=Path, metavar="TOKENIZERS", help="a folder with text and a tokenizer per modality"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="where the token stores are written")
    parser.add_argument(
        "--modalities",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what to tokenize; rgb@448 is rgb at 448 pixels (default: all that there are data and a tokenizer for)",
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N samples, for a first look")
    parser.add_argument("--image-size", type=int, default=0, help="of pixels (default: that of the image's tokenizer)")
    parser.add_argument(
        "--max-length", nargs="+", default=[], metavar="NAME=N", help="tokens of a sequence, at most (default: 256)"
    )
    group = parser.add_argument_group("crops", "Without these, the central square of each sample is stored.")
    group.add_argument(
        "--crops", type=int, default=1, metavar="K", help="views per sample: its central square, and K - 1 random crops"
    )
    group.add_argument("--crop-scale", type=float, nargs=2, metavar=("LEAST", "MOST"), help="area (default: 0.2 1)")
    group.add_argument(
        "--flip", action="store_true", help="mirror half of the crops, where all of the sample stays true"
    )
    group.add_argument(
        "--color", type=float, default=0.0, metavar="SHARE", help="change brightness, contrast, saturation by up to it"
    )
    group.add_argument("--crop-seed", type=int, default=0, help="of the crops (default: 0)")
    group.add_argument(
        "--network",
        nargs="+",
        default=[],
        metavar="NAME=MODEL",
        help="what computes features of crops (default: what computed those of the raw data)",
    )
    device.add_argument(parser)
    executor.add_arguments(parser)
    parser.set_defaults(run=tokenize)


def tokenize(options: Namespace) -> None:
    """Run one job per split, and print what the stores hold."""
    from dataclasses import replace

    from open4m.cli import device, executor
    from open4m.data.encoders import outputs_of
    from open4m.data.jobs import run
    from open4m.data.tokenize import Tokenize
    from open4m.data.views import Crops
    from open4m.store.tokens import TokenStore

    if options.limit < 0:
        raise Open4MError(f"--limit: expected a number of samples, got {options.limit}")
    lengths = {name: _number(word, "--max-length") for name, word in _pairs(options.max_length, "--max-length")}
    networks = dict(_pairs(options.network, "--network"))
    scale = tuple(options.crop_scale) if options.crop_scale else Crops.scale
    crops = Crops(count=options.crops, scale=scale, flip=options.flip, seed=options.crop_seed, color=options.color)
    if crops.count == 1 and (options.crop_scale or options.flip or options.color or networks):
        raise Open4MError(
            "--crop-scale, --flip, --color and --network are about random crops: say how many, as --crops 10"
        )
    where, on = executor.chosen(options), device.chosen(options)
    for raw, out in _splits(options.raw, options.out):
        found = outputs_of(
            raw, options.tokenizers, options.modalities, image_size=options.image_size, max_length=lengths
        )
        outputs = tuple(replace(output, network=networks.get(output.key, "")) for output in found)
        job = Tokenize(raw, out, outputs, device=on, allowed=options.allow_rejects, crops=crops, limit=options.limit)
        counts = run(job, where)
        store = TokenStore(out, [output.key for output in outputs])
        views = f" of {store.crops} views" if store.crops > 1 else ""
        print(f"{out}: {store.samples} samples{views}: {', '.join(store.modalities)} ({counts.done} shards done)")


def _splits(raw: Path, out: Path) -> list[tuple[Path, Path]]:
    """The data sets of a folder and their stores: those in it by their names, or the folder itself."""
    if not raw.is_dir():
        raise Open4MError(f"{raw}: no such folder; expected raw shards")
    found = [name for name in SPLITS if any((raw / name).glob("*/manifest.json"))]
    return [(raw / name, out / name) for name in found] or [(raw, out)]


def _pairs(words: list[str], flag: str) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, value) in zip(words, pairs, strict=True):
        if not (name and equals and value):
            raise Open4MError(f"{flag}: expected NAME=VALUE, got {word}")
    return [(name, value) for name, _, value in pairs]


def _number(word: str, flag: str) -> int:
    if not word.isdecimal() or not int(word):
        raise Open4MError(f"{flag}: expected a whole number from 1, got {word}")
    return int(word)
