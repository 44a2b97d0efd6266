"""``open4m diagnose``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device, trust, world

OVERFIT_STEPS = 400


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("model", help="a shipped model, a model directory, or the folder of a training")
    parser.add_argument(
        "--data",
        type=Path,
        help="a token store or raw shards, or a folder with train and validation in it (default: the tokens of a "
        "training; for a model, rendered scenes)",
    )
    parser.add_argument("--samples", type=int, default=128, help="of each split (default: 128)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--overfit",
        type=int,
        nargs="?",
        const=OVERFIT_STEPS,
        default=0,
        metavar="STEPS",
        help=f"also train a fresh model on 16 samples, for so many steps at most ({OVERFIT_STEPS} if not said)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("diagnose"), help="folder to write (default: diagnose)")
    world.add_argument(parser, "")
    trust.add_argument(parser)
    device.add_argument(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Diagnose a model; print the tables, write the numbers and a picture."""
    from rich.console import Console

    from open4m.evaluate.diagnose import Options, diagnose, open_data
    from open4m.evaluate.pretrained import world_of
    from open4m.evaluate.suites.scene_labels import scene_data
    from open4m.generate.pipeline import FourM
    from open4m.train.recipes.trained import open_run, run_of, tokens_of

    if (training := run_of(options.model)) is not None:
        model = open_run(training, device.chosen(options))
        options.data = options.data or tokens_of(training)
    else:
        trust.admit(options, options.model)
        model = FourM.from_pretrained(options.model, device.chosen(options))
    if options.data is not None:
        data = open_data(model, options.data, options.samples, options.batch_size)
    else:
        chosen = world_of(model, options.world)
        data = scene_data(
            model, model.name if training else options.model, options.samples, options.batch_size, world=chosen
        )
    settings = Options(seed=options.seed, overfit_steps=options.overfit)
    result = diagnose(model, data, str(options.model), settings)
    Console().print(result.tables())
    print(*result.save(options.out), sep="\n")
