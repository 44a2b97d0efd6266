"""The options ``--device`` and ``--precision`` of the commands that run a model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _ArgumentGroup
from typing import TYPE_CHECKING

from open4m.types import Open4MError

if TYPE_CHECKING:
    import torch

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
"""Types of weights in torch, by what the commands call them."""


def add_argument(parser: ArgumentParser | _ArgumentGroup) -> None:
    """Add ``--device`` to a command, or to a group of its options."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")


def chosen(options: Namespace) -> str:
    """The device that the user named, or the GPU if there is one. Raises :class:`Open4MError` if it is not there."""
    import torch

    if options.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise Open4MError(f"--device {options.device}: not available ({str(error).splitlines()[0]})") from error
    return options.device


def add_precision(parser: ArgumentParser | _ArgumentGroup) -> None:
    """Add ``--precision`` to a command that generates."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the weights: bf16 takes half of the memory; int8 is fastest on CPUs, and rounds (default: fp32)",
    )


def precision(options: Namespace) -> torch.dtype:
    """The type of the weights that the user named."""
    import torch

    return getattr(torch, PRECISIONS[options.precision])
