"""``open4m train`` and ``open4m reproduce``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device
from open4m.types import Open4MError


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("config", help="a named configuration: debug, scenes, ...; or a .py file")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="for example train.batch_size=32")
    parser.add_argument("--out", type=Path, help="the run directory (default: runs/<config>)")
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run only these stages")
    for flag, help_text in OF_USERS.items() if command == "train" else ():
        parser.add_argument(f"--{flag}", type=Path, help=help_text)
    device.add_argument(parser)
    parser.set_defaults(run=run, until="assemble" if command == "train" else "evaluate", **dict.fromkeys(OF_USERS))


OF_USERS = {
    "tokens": "the token stores of a configuration like 4m-7-b",
    "tokenizers": "the tokenizers that made them",
    "data": "raw shards, for a configuration like tokenizer-rgb",
    "large": "raw shards of larger images, for several resolutions",
    "classes": "for tokenizer-semseg: a text file, one class name per line, and perhaps its color: wall  120,120,120",
}
"""What ``open4m train`` takes of a user, by flag."""


def run(options: Namespace) -> None:
    """Train what the configuration describes, and print where the model is."""
    from open4m import config as configs
    from open4m import configs as named
    from open4m.evaluate.report import Result, table
    from open4m.reproduce import EVALUATION, ON_DEMAND, STAGES, Line
    from open4m.train.recipes.pretrain import PretrainConfig
    from open4m.train.recipes.tokenizer import TokenizerRun

    config = configs.override(named.get(options.config), options.overrides)
    if options.print_config:
        print(json.dumps(configs.to_dict(config), indent=1))
        return
    for stage in options.only or ():
        if stage not in (*STAGES, *ON_DEMAND):
            raise Open4MError(f"unknown stage {stage!r} (stages: {', '.join((*STAGES, *ON_DEMAND))})")
    whole_line = options.until == STAGES[-1] or options.only
    directory = options.out or Path("runs") / Path(options.config).stem
    if isinstance(config, TokenizerRun):
        _fit_tokenizer(options, config, directory, bool(whole_line))
    elif options.data or options.classes or options.large:
        raise Open4MError(f"{options.config} is no tokenizer's training: leave out --data, --classes and --large")
    elif isinstance(config, PretrainConfig):
        _pretrain(options, config, directory, bool(whole_line))
    elif options.tokens or options.tokenizers:
        raise Open4MError(f"{options.config} makes its own tokens: leave out --tokens and --tokenizers")
    else:
        directory = options.out or Path("runs") / config.name
        Line(config, directory, device.chosen(options)).run(options.until, options.only)
        if (directory / EVALUATION).is_file() and "evaluate" in (options.only or [options.until]):
            print(table(Result.from_json((directory / EVALUATION).read_text())))
    print(directory / "model")


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
    from open4m.train.recipes.pretrain import pretrain

    if whole_line or not options.tokens or not options.tokenizers:
        raise Open4MError(
            f"{options.config} is a pre-training on your own tokens: open4m train {options.config} --tokens FOLDER "
            "--tokenizers FOLDER, without --only"
        )
    pretrain(config, options.tokens, options.tokenizers, directory, device.chosen(options))
