"""``open4m replay``."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device, trust
from open4m.types import Open4MError

MAX_LISTED_DIFFERENCES = 5


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.epilog = "docs/generation.md shows each command with its picture."
    parser.add_argument("result", type=Path, help="a result.json, or the folder that holds it")
    parser.add_argument("--model", help="the model that made it (default: by its name, unless that is on the hub)")
    parser.add_argument(
        "--out", type=Path, help="a folder to write the result to, if it is the same (default: only compare)"
    )
    trust.add_argument(parser)
    device.add_argument(parser)
    device.add_precision(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Make a result again and compare. A model that only the record names is not looked for on the hub."""
    where = device.chosen(options)
    from open4m import files
    from open4m.generate import outputs, record
    from open4m.generate.pipeline import FourM
    from open4m.hub import locate

    if options.model is not None:
        trust.admit(options, options.model)  # the record may name modalities that it carries
    path = options.result / record.NAME if options.result.is_dir() else options.result
    found = record.read(path)
    if options.out is not None and options.out.resolve() in (path.parent.resolve(), path.resolve().parent):
        raise Open4MError(f"--out {options.out}: holds {path.name}, which is made again; name another folder")
    name = options.model or found.request.model
    if options.model is None and name not in locate.shipped() and not os.path.exists(name):
        raise Open4MError(
            f"{path}: the model that made it, {name!r}, is neither shipped nor a path that exists, and "
            "none is downloaded because a file says so; name it by --model"
        )
    if options.out is not None:
        files.make_folder(options.out)
    model = FourM.from_pretrained(name, where, device.precision(options), trust=options.trust_modalities)
    try:
        again = found.request.run(model)
    except Open4MError as error:
        raise Open4MError(f"{path}: {error}") from error
    if wrong := record.differences(found, again.results):
        made = ", ".join(f"{tool} {version}" for tool, version in found.made_with.items())
        listed = "; ".join(wrong[:MAX_LISTED_DIFFERENCES])
        raise Open4MError(f"{path}: not the same again: {listed}; it was made with {made!r}")
    if options.out is not None:
        for line in outputs.write(model, found.request, again, options.out):
            print(line)
    tokens = sum(len(ids) for result in again.results for ids in result.tokens.values())
    count = len(again.results)
    print(f"{path}: the same again, {tokens} tokens of {count} result{'s' * (count != 1)}")
