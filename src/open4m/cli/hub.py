"""``open4m import``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument("source", help="a safetensors file, a directory, or a name on the hub: EPFL-VILAB/4M-7_B_CC12M")
    parser.add_argument("out", type=Path, help="the directory to write")
    parser.add_argument("--modality", help="of a tokenizer: what it is for, for example depth")
    parser.add_argument(
        "--classes",
        type=Path,
        help="of a segmentation tokenizer: a text file with one class name per line, "
        "and perhaps its color: wall  120,120,120",
    )
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Write the directory and print what is in it."""
    from open4m.evaluate.imported import import_checkpoint

    for line in import_checkpoint(options.source, options.out, options.modality, options.classes):
        print(line)
