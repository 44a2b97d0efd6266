"""``open4m data verify``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("root", type=Path, metavar="ROOT", help="raw data or tokens: one data set, or all its splits")
    parser.add_argument("--raw", type=Path, help="of tokens: the raw data that they were made from, to compare")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="decode every Nth sample only; all else is checked (default: 1)",
    )
    parser.add_argument("--seal", action="store_true", help="record digests of rows that have none, if all is well")
    parser.set_defaults(run=verify)


def verify(options: Namespace) -> int:
    """Print a report per data set; 1 if anything was found."""
    from open4m.data import verify as checks

    found = False
    for root in checks.stores(options.root):
        raw = options.raw
        if raw is not None and root != options.root and (raw / root.name).is_dir():
            raw = raw / root.name
        report = checks.verify(root, raw, options.every)
        print("\n".join(report.lines()))
        found |= not report.is_sound
        if options.seal and report.is_sound:
            print(f"  sealed     {checks.seal(root)} shards")
    return int(found)
