"""``open4m add-modality``: teach a trained model one more modality."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path

from open4m.cli import device, overrides, trust


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("model", help="the model that learns it: a name like scenes, a directory, or a name on the hub")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="for example batch_size=8 lr=1e-4")
    parser.add_argument(
        "--modality", required=True, metavar="FILE.py", help="its file, which is run, or the name of a known modality"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="RAW", help="raw shards, train and validation, of all modalities"
    )
    parser.add_argument(
        "--labeller", metavar="MODEL", help="what makes it, as in open4m label --modality NAME=MODEL, if data lack it"
    )
    parser.add_argument("--trust-labellers", action="store_true", help="run the Python file that --labeller names")
    parser.add_argument("--out", type=Path, help="the run directory (default: runs/add-NAME)")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run only these stages; an unknown one lists all")
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    device.add_argument(parser)
    device.add_timeout(parser)
    trust.add_argument(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Run the stages, with all processes of ``torchrun``, and print the comparison and where the model is."""
    with device.together(options):
        _run(options)


def _run(options: Namespace) -> None:
    from open4m import FourM, ranks
    from open4m import config as configs
    from open4m.add_modality.settings import Addition
    from open4m.add_modality.stages import AddModality, adopt

    overrides.separate_stages(options)
    trust.admit(options, options.model)
    name = adopt(options.modality)
    if options.labeller:
        ranks.on_first(partial(_label, options, name), long=True)
    first, then = overrides.divided(Addition(), options.overrides)
    settings = configs.override(Addition(), first)
    config = configs.override(settings.on(FourM.from_pretrained(options.model), name, options.data), then)
    if options.print_config:
        print(json.dumps(configs.to_dict(config), indent=1))
        return
    directory = options.out or Path("runs") / config.name
    stages = AddModality(config, options.data, directory, device.chosen(options))
    stages.run(only=options.only)
    if "compare" in (options.only or stages.STAGES) and ranks.is_first():
        print(stages.compare().table())
    print(stages.model_directory if stages.model_directory.is_dir() else directory)


def _label(options: Namespace, name: str) -> None:
    """Add the new modality to the raw data, as ``open4m label`` does."""
    from open4m.cli import label
    from open4m.data.jobs import local

    defaults = {"set": [], "precision": None, "batch_size": None, "allow_rejects": 0.0}
    words = {**vars(options), **defaults, "modality": [f"{name}={options.labeller}"]}
    for job in label.jobs(Namespace(**words)):
        local.run(job)
