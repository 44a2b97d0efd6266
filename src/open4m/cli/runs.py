"""``open4m runs``, and ``open4m curves``, which is ``open4m runs plot``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.types import Open4MError

WIDE = 1000
"""Characters of a line that is not shown on a terminal."""

COMPARE, PLOT = "compare", "plot"

WHAT = (
    "a folder, whose trainings are listed (default: runs); or compare RUN RUN...: the settings that differ, and the "
    "latest metrics side by side; or plot RUN...: draw the curves"
)


def add_arguments(parser: ArgumentParser, command: str) -> None:
    if command == "curves":
        parser.add_argument("words", nargs="+", metavar="RUN", help="the folder of a training, as runs/scenes/4m")
    else:
        parser.usage = "open4m runs [FOLDER | compare RUN RUN... | plot RUN...] [options]"
        parser.add_argument("words", nargs="*", metavar="FOLDER", help=WHAT)
    parser.add_argument(
        "--metrics", default="loss", metavar="TEXT", help="draw validation metrics with this in their name (loss)"
    )
    parser.add_argument("--over", choices=("hours", "steps"), default="hours", help="of training (default: hours)")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture (default: curves.png)")
    parser.set_defaults(run=plot if command == "curves" else run)


def run(options: Namespace) -> None:
    """List the trainings below a folder, or compare or draw some."""
    first, *others = options.words or ["runs"]
    if first == PLOT:
        plot(Namespace(**{**vars(options), "words": others}))
        return
    from rich.console import Console

    from open4m.evaluate import runs

    console = Console()
    if not console.is_terminal:  # a pipe has no width: each run is a line
        console = Console(width=WIDE)
    if first == COMPARE:
        for drawn in runs.comparison([Path(word) for word in others]):
            console.print(drawn)
        return
    if others:
        raise Open4MError(f"{others[0]}: expected one folder, or {COMPARE} or {PLOT} before several trainings")
    found = runs.find(Path(first))
    if not found:
        raise Open4MError(f"{first}: holds no trainings; open4m train writes them to runs/")
    console.print(runs.table(found))


def plot(options: Namespace) -> None:
    """Draw the validation metrics of trainings into one picture."""
    from open4m import pictures
    from open4m.evaluate.curves import draw, read_curves

    if not options.words:
        raise Open4MError(f"name the trainings to draw: open4m runs {PLOT} runs/a runs/b")
    pictures.check_name(options.out)
    curves = [curve for folder in options.words for curve in read_curves(Path(folder), options.metrics)]
    pictures.save(draw(curves, options.over), options.out)
    print(options.out)
