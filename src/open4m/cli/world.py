"""The option ``--world``, of commands that render scenes."""

from __future__ import annotations

from argparse import ArgumentParser


def add_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--world", default="scenes", help="that scenes are drawn from: scenes or scenes-hard (default: scenes)"
    )
