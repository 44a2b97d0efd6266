"""``open4m tune``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device, trust, world


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("model", help="a model directory of yours; with --dry-run also a shipped model")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="raw shards that it was not trained on (default: rendered validation scenes)",
    )
    parser.add_argument("--samples", type=int, default=64, help="at most (default: 64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="measure only; the model directory stays as it is")
    world.add_argument(parser, "")
    trust.add_argument(parser)
    device.add_argument(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Choose a model's plans; print what was measured."""
    from open4m.config import to_dict
    from open4m.evaluate.pretrained import Measurement, tune_pretrained
    from open4m.evaluate.tuning import report

    trust.admit(options, options.model)
    on = {"samples": options.samples, "seed": options.seed, "world": options.world, "data": options.data}
    on = Measurement(**on, device=device.chosen(options))
    plans, trials = tune_pretrained(options.model, on, write=not options.dry_run)
    chosen = to_dict(plans)
    print(json.dumps({"plans": chosen["tasks"], "merged": chosen["merged"], "trials": report(trials)}, indent=1))
