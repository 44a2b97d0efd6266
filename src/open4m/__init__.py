"""open4m: massively multimodal masked modeling (4M)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open4m.generate.pipeline import FourM as FourM

__version__ = "0.2.0"
__all__ = ["FourM", "__version__"]


def __getattr__(name: str):
    if name == "FourM":  # loaded when it is first used: importing open4m loads no torch
        from open4m.generate.pipeline import FourM

        return FourM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
