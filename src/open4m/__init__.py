"""open4m: massively multimodal masked modeling (4M)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open4m.generate.masks import Masked as Masked
    from open4m.generate.pipeline import FourM as FourM
    from open4m.labellers.functions import labeller as labeller
    from open4m.modalities.given import InForm as InForm
    from open4m.types import Boxes as Boxes

__version__ = "0.2.0"
__all__ = ["Boxes", "FourM", "InForm", "Masked", "__version__", "labeller"]

_HOMES = {
    "Boxes": "open4m.types",
    "FourM": "open4m.generate.pipeline",
    "InForm": "open4m.modalities.given",
    "Masked": "open4m.generate.masks",
    "labeller": "open4m.labellers.functions",
}
"""Where a name is defined, which is loaded when it is first used: importing open4m loads no torch."""


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
