"""``open4m evaluate``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device, trust, world
from open4m.types import Open4MError


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("model", help="a shipped model or a model directory")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file to write (default: standard output)")
    parser.add_argument("--readme", type=Path, help="a Markdown file whose results table is renewed")
    world.add_argument(parser)
    trust.add_argument(parser)
    device.add_argument(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Measure a model; print or write the result."""
    from open4m.evaluate import report
    from open4m.reproduce import evaluate_pretrained

    trust.admit(options, options.model)
    for path in (options.out, options.readme):
        if path is not None and not path.parent.is_dir():
            raise Open4MError(f"{path}: its folder does not exist")
    result = evaluate_pretrained(
        options.model, options.samples, options.seed, device.chosen(options), world=options.world
    )
    if options.out is not None:
        options.out.write_text(result.to_json())
    else:
        print(result.to_json(), end="")
    if options.readme is not None:
        report.update_readme(options.readme, report.table(result))
