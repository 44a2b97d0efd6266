"""The option ``--device`` of the commands that run a model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _ArgumentGroup

from open4m.types import Open4MError


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
