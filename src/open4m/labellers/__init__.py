"""The registry of labellers: the file name is the name. See :mod:`open4m.labellers.base` for what a file provides."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.labellers.base import Labeller

SHARED_FILES = ("__init__", "base", "checkpoints", "networks", "preprocessing")
"""The files of this folder that are no labellers, but what labellers are made of."""


def names() -> list[str]:
    """The names of all labellers."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED_FILES)


def get(name: str) -> type[Labeller]:
    """The labeller class of this name, whose ``load`` makes a labeller. Imports only that labeller's file.

    Raises :class:`Open4MError`, which lists the names, if there is none.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Open4MError(f"unknown labeller {name!r}{hint} (allowed: {', '.join(names())})")
    return importlib.import_module(f"{__name__}.{name}").LABELLER


def named(modality: str, model: str) -> tuple[str, str]:
    """The name of the labeller that is meant by ``MODALITY=MODEL``, and the model without the labeller's name.

    ``MODEL`` may begin with the name of a labeller and a colon, ``reader:FOLDER``; a Python file,
    ``labels.py:function``, is a labeller of the user's own. Raises :class:`Open4MError` if nothing makes the modality.
    """
    from open4m import modalities

    prefix, colon, rest = model.partition(":")
    if colon and prefix in names():
        return prefix, rest
    if prefix.endswith(".py"):
        return "functions", model
    known = modalities.get(modality)
    makers = [name for name in names() if get(name).is_default and get(name).makes(known)]
    fitting = [name for name in makers if get(name).needs_model == bool(model)] or makers
    if not makers:
        raise Open4MError(
            f"{modality}: no labeller makes it; write a function with the decorator @open4m.labeller({modality!r}) and "
            f"name its file: {modality}=labels.py"
        )
    if not model and get(fitting[0]).needs_model:
        raise Open4MError(
            f"{modality}: name the network that makes it, a folder or a name on the hub: {modality}=OWNER/MODEL"
        )
    if len(fitting) > 1:
        fitting = [name for name in fitting if get(name).reads(model)] or fitting
    return fitting[0], model
