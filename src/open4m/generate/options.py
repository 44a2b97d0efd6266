"""The options of :meth:`FourM.generate` as types, for the verbs, which hand them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from open4m.generate.results import Snapshot
    from open4m.modalities.frames import Frame


class StepOptions(TypedDict, total=False):
    """How targets are generated; see :class:`open4m.generate.plan.Step`. What is left out is the modality's own."""

    scheme: str
    steps: int
    tokens: Sequence[int]
    schedule: str
    order: Sequence[int]
    choice_temperature: float
    temperature: float | tuple[float, float]
    cooling: str
    top_k: int
    top_p: float
    limit_first: bool
    guidance: float | tuple[float, float] | Mapping[str, float]
    guided: bool
    announced: bool
    open_end: bool


class Options(StepOptions, total=False):
    """All options that verbs take, documented at :meth:`FourM.generate`. Under a target's name, such as ``caption=``, a
    mapping of those of :class:`StepOptions` is for that target alone."""

    seed: int | Sequence[int]
    batch_size: int
    conditions: Mapping[str, Mapping[str, Any]] | None
    entropies: bool
    fit: str
    frame: Frame | None
    paste: bool
    resize: bool
    upscale: bool
    merge: str
    defaults: Mapping[str, Mapping[str, Any]] | None
    preset: str | None
    watch: Callable[[Snapshot], None] | None


CALL_OPTIONS = tuple(name for name in Options.__annotations__ if name not in StepOptions.__annotations__)
"""Those that are not part of the plan."""
