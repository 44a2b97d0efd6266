"""``open4m evaluate``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device, trust, world
from open4m.types import Open4MError


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("model", help="a shipped model or a model directory")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="raw shards, or a folder with test (or validation) and train in it (default: rendered scenes)",
    )
    parser.add_argument("--samples", type=int, default=128, help="at most (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file to write, with intervals (default: none)")
    parser.add_argument("--readme", type=Path, help="a Markdown file whose results table is renewed")
    world.add_argument(parser, "")
    trust.add_argument(parser)
    device.add_argument(parser)
    device.add_precision(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Measure a model; print the table, and write the result."""
    from open4m import files
    from open4m.evaluate import report
    from open4m.evaluate.pretrained import Measurement, evaluate_pretrained

    trust.admit(options, options.model)
    for path in (options.out, options.readme):
        if path is not None and not path.parent.is_dir():
            raise Open4MError(f"{path}: its folder does not exist")
    on = {"samples": options.samples, "seed": options.seed, "world": options.world, "data": options.data}
    where = {"device": device.chosen(options), "dtype": device.precision(options)}
    result = evaluate_pretrained(options.model, Measurement(**on, **where))
    print(report.table(result))
    if options.out is not None:
        files.write_text(options.out, result.to_json())
        print(options.out)
    if options.readme is not None:
        report.update_readme(options.readme, report.table(result))
