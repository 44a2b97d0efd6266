"""The options ``--device`` and ``--precision`` of the commands that run a model."""

from __future__ import annotations

import contextlib
import io
from argparse import ArgumentParser, Namespace, _ArgumentGroup
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
"""Types of weights in torch, by what the commands call them."""


def add_argument(parser: ArgumentParser | _ArgumentGroup) -> None:
    """Add ``--device`` to a command, or to a group of its options."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")


def chosen(options: Namespace) -> str:
    """The device that the user named, or the GPU if there is one. Raises :class:`Open4MError` if it is not there."""
    from open4m.devices import available, find_device

    if options.device == "auto":
        return "cuda" if "cuda" in available() else "cpu"
    return str(find_device(options.device))


def add_timeout(parser: ArgumentParser) -> None:
    """Add ``--timeout`` to a command that ``torchrun`` may start."""
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="with torchrun: how long processes wait for one that is not heard of (default: 1800)",
    )


@contextlib.contextmanager
def together(options: Namespace) -> Iterator[None]:
    """A context in which the processes of ``torchrun`` do a command together, each on its own ``options.device``; what
    the first one prints is printed once. Raises :class:`Open4MError` for a wrong ``--timeout``."""
    from open4m import ranks
    from open4m.types import Open4MError

    if not options.timeout > 0:
        raise Open4MError(f"--timeout: expected a number of seconds above 0, got {options.timeout}")
    with ranks.joined(chosen(options), options.timeout) as options.device, contextlib.ExitStack() as quiet:
        if not ranks.is_first():
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield


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
