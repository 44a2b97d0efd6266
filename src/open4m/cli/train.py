"""``open4m train`` and ``open4m reproduce``."""

from __future__ import annotations

import difflib
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device, dry_run, overrides
from open4m.types import Open4MError


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument(
        "config",
        help=CONFIG,
    )
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="for example train.batch_size=32")
    parser.add_argument("--out", type=Path, help="the run directory (default: runs/<config>)")
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help=STAGES)
    if command == "train":
        parser.add_argument("--tokens", action="append", metavar="STORE", help=TOKENS)
    for flag, help_text in OF_USERS.items() if command == "train" else ():
        parser.add_argument(f"--{flag}", type=Path, help=help_text)
    if command == "train":
        dry_run.add_arguments(parser)
    device.add_argument(parser)
    device.add_timeout(parser)
    parser.set_defaults(
        run=run,
        until="assemble" if command == "train" else "evaluate",
        tokens=None,
        dry_run=False,
        **dict.fromkeys(OF_USERS),
    )


CONFIG = "a named configuration: mine (with --data), debug, scenes, 4m-7-b, tokenizer-rgb, ...; or a .py file"

STAGES = "run only these stages, such as tokenizers, tokenize, train, assemble; an unknown one lists all"

TOKENS = (
    "the token stores of a configuration like 4m-7-b, a folder or a URL such as s3://bucket/tokens; several are mixed "
    "by their weights: --tokens cc12m=0.7 --tokens mine=0.3"
)

OF_USERS = {
    "tokenizers": "the tokenizers that made them",
    "data": "raw shards, for mine and for a configuration like tokenizer-rgb",
    "large": "raw shards of larger images, for several resolutions",
    "classes": "for tokenizer-semseg: a text file, one class name per line, and perhaps its color: wall  120,120,120",
}
"""What ``open4m train`` takes of a user, by flag."""


def run(options: Namespace) -> None:
    """Train what the configuration describes, with all processes of ``torchrun``, and print where the model is."""
    with device.together(options):
        _run(options)


def _run(options: Namespace) -> None:
    from open4m import config as configs
    from open4m import configs as named
    from open4m.configs.mine import OwnData
    from open4m.evaluate.report import Result, table
    from open4m.reproduce import EVALUATION, Line
    from open4m.super_resolution import SuperResolution, SuperResolutionConfig
    from open4m.train.recipes.pretrain import PretrainConfig
    from open4m.train.recipes.tokenizer import TokenizerRun
    from open4m.transfer.config import TransferConfig
    from open4m.transfer.tokens.config import TokenTransfer

    overrides.separate_stages(options)
    config = named.get(options.config)
    own = isinstance(config, OwnData)
    config = _on_own_data(options, config) if own else configs.override(config, options.overrides)
    if options.print_config:
        print(json.dumps(configs.to_dict(config), indent=1))
        return
    if options.dry_run:
        dry_run.run(options, config)
        return
    if isinstance(config, TransferConfig):
        raise Open4MError(
            f"{options.config} is a transfer: open4m transfer {options.config} --model MODEL --data FOLDER"
        )
    if isinstance(config, TokenTransfer):
        raise Open4MError(
            f"{options.config} is a transfer: open4m benchmark transfers --tasks {config.name} --model MODEL"
        )
    whole_line = options.until == "evaluate" or options.only
    directory = options.out or Path("runs") / Path(options.config).stem
    if own:
        _train_on_own_data(options, config, directory)
    elif isinstance(config, TokenizerRun):
        _fit_tokenizer(options, config, directory, bool(whole_line))
    elif options.data or options.classes or options.large:
        raise Open4MError(f"{options.config} is no tokenizer's training: leave out --data, --classes and --large")
    elif isinstance(config, PretrainConfig):
        _pretrain(options, config, directory, bool(whole_line))
    elif options.tokens or options.tokenizers:
        raise Open4MError(f"{options.config} makes its own tokens: leave out --tokens and --tokenizers")
    else:
        directory = options.out or Path("runs") / config.name
        line = SuperResolution if isinstance(config, SuperResolutionConfig) else Line
        line(config, directory, device.chosen(options)).run(options.until, options.only)
        if (directory / EVALUATION).is_file() and "evaluate" in (options.only or [options.until]):
            print(table(Result.from_json((directory / EVALUATION).read_text(encoding="utf-8"))))
    print(directory / "model" if (directory / "model").is_dir() else directory)


def _on_own_data(options: Namespace, config):
    """The whole configuration of a training on raw data, with what the user changes in it."""
    import dataclasses

    from open4m import config as configs
    from open4m.stages import StagesConfig

    if options.until != "assemble" or not options.data or options.tokens or options.tokenizers or options.large:
        raise Open4MError(
            f"{options.config} is a training on raw data of your own, which makes its tokenizers and tokens: open4m "
            f"train {options.config} --data FOLDER, without --tokens, --tokenizers and --large"
        )
    if options.classes:
        raise Open4MError(f"{options.config}: --classes is for tokenizers; raw data name their classes themselves")
    first, then = overrides.divided(config, options.overrides)
    known = {field.name for field in dataclasses.fields(config)}
    whole = {field.name for field in dataclasses.fields(StagesConfig)}
    for name in (word.partition("=")[0] for word in then):
        if name not in whole and (near := difflib.get_close_matches(name, known, n=1)):
            raise Open4MError(f"{name}: unknown field; did you mean {near[0]}? (fields: {', '.join(sorted(known))})")
    return configs.override(configs.override(config, first).on(options.data), then)


def _train_on_own_data(options: Namespace, config, directory: Path) -> None:
    import logging

    from open4m.configs.mine import summary
    from open4m.stages import Stages

    for line in summary(config):
        logging.getLogger("open4m").info("%s", line)
    Stages(config, options.data, directory, device.chosen(options)).run(only=options.only)


def _fit_tokenizer(options: Namespace, config, directory: Path, whole_line: bool) -> None:
    from open4m.datasets import classes as class_files
    from open4m.train.recipes.tokenizer import fit_tokenizer

    if whole_line or not options.data or options.tokens or options.tokenizers:
        raise Open4MError(
            f"{options.config} is a tokenizer's training on your own data: open4m train {options.config} "
            "--data FOLDER, without --tokens, --tokenizers and --only"
        )
    known = class_files.read(options.classes) if options.classes else class_files.Classes()
    fit_tokenizer(config, options.data, directory, known, device.chosen(options), options.large)


def _pretrain(options: Namespace, config, directory: Path, whole_line: bool) -> None:
    import dataclasses

    from open4m.train.recipes.pretrain import pretrain

    if whole_line or not (options.tokens or config.mixture) or not options.tokenizers:
        raise Open4MError(
            f"{options.config} is a pre-training on your own tokens: open4m train {options.config} --tokens FOLDER "
            "--tokenizers FOLDER, without --only"
        )
    stores = [_weighted(word) for word in options.tokens or ()]
    if len(stores) == 1 and stores[0][1] is None:
        pretrain(config, stores[0][0], options.tokenizers, directory, device.chosen(options))
        return
    if stores:
        if config.mixture:
            raise Open4MError("--tokens: the configuration has a mixture of its own: leave --tokens out")
        config = dataclasses.replace(config, mixture=_mixture(stores))
    pretrain(config, None, options.tokenizers, directory, device.chosen(options))


def _weighted(word: str) -> tuple[str, float | None]:
    """A store, and its weight if the word ends in one: ``cc12m=0.7``."""
    store, equals, weight = word.rpartition("=")
    if not equals:
        return word, None
    try:
        return store, float(weight)
    except ValueError:
        return word, None  # a path may hold the sign as well


def _mixture(stores: list[tuple[str, float | None]]) -> tuple:
    from open4m.data.mixture import DataSet

    if bare := [store for store, weight in stores if weight is None]:
        raise Open4MError(f"--tokens: several stores are mixed by weights, such as {bare[0]}=0.5; got none for it")
    return tuple(DataSet(tokens=store, weight=weight) for store, weight in stores)
