"""The option ``--world``, of commands that render scenes."""

from __future__ import annotations

from argparse import ArgumentParser


def add_argument(parser: ArgumentParser, default: str = "scenes") -> None:
    """``default``: empty for commands that take other data as well, and models which know none of the worlds."""
    of = "scenes" if default else "scenes, for a model that knows scenes"
    help_text = f"that scenes are drawn from: scenes or scenes-hard (default: {of})"
    parser.add_argument("--world", default=default, help=help_text)
