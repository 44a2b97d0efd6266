"""``open4m demo``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device, trust, world


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (default: demo)")
    parser.add_argument("--model", default="scenes", help="a shipped model or a model directory (default: scenes)")
    parser.add_argument("--seed", type=int, default=0)
    world.add_argument(parser, "")
    trust.add_argument(parser)
    device.add_argument(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Write the demo and print the paths of its files, and what to try next."""
    from open4m.studio.demo import NEXT, demo

    trust.admit(options, options.model)
    for path in demo(options.out, options.model, options.seed, device.chosen(options), options.world):
        print(path)
    print(f"{NEXT}: make studio (or open4m studio)")
