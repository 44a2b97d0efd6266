"""``open4m tune``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from open4m.cli import device, world


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("model", help="a shipped model or a model directory")
    parser.add_argument("--samples", type=int, default=64, help="validation scenes (default: 64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="measure only; the model directory stays as it is")
    world.add_argument(parser)
    device.add_argument(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Choose a model's plans; print what was measured."""
    from open4m.evaluate.tuning import report
    from open4m.reproduce import tune_pretrained

    plans, trials = tune_pretrained(
        options.model,
        options.samples,
        options.seed,
        device.chosen(options),
        world=options.world,
        write=not options.dry_run,
    )
    print(json.dumps({"plans": plans.tasks, "merged": plans.merged, "trials": report(trials)}, indent=1))
