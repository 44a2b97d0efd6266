"""Devices by their names."""

from __future__ import annotations

import difflib

import torch

from open4m.types import Open4MError


def find_device(name: str | torch.device) -> torch.device:
    """The device of this name, such as ``"cpu"`` or ``"cuda:1"``.

    Raises :class:`Open4MError`, which lists the devices of this machine, if it is not there.
    """
    try:
        if (device := torch.empty(0, device=name).device).type == "meta":  # holds no numbers
            raise TypeError("meta")
        return device
    except (RuntimeError, AssertionError, TypeError) as error:
        here = available()
        near = difflib.get_close_matches(str(name), here, n=1, cutoff=0.7)
        if isinstance(getattr(torch, str(name), None), torch.dtype):
            hint = f"; for a type of numbers write torch.{name}"
        elif near:
            hint = f"; did you mean {near[0]}?"
        else:
            hint = "" if len(here) > 1 else "; PyTorch sees no GPU here"
        raise Open4MError(f"device {str(name)!r}: not available (here: {', '.join(here)}){hint}") from error


def available() -> list[str]:
    """The names of the devices that PyTorch can use here."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names
