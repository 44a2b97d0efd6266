"""``open4m curves``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a training, as runs/scenes/4m")
    parser.add_argument(
        "--metrics", default="loss", metavar="TEXT", help="draw validation metrics with this in their name (loss)"
    )
    parser.add_argument("--over", choices=("hours", "steps"), default="hours", help="of training (default: hours)")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture (default: curves.png)")
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Draw the validation metrics of trainings into one picture."""
    from open4m import files
    from open4m.evaluate.curves import draw, read_curves

    curves = [curve for folder in options.runs for curve in read_curves(folder, options.metrics)]
    picture = draw(curves, options.over)
    files.write_file(options.out, lambda path: picture.save(path, format="PNG"))
    print(options.out)
