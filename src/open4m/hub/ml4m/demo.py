"""How the demo of the authors generates: in which order, in how many passes, how hot (``fourm/demo_4M_sampler.py``).

Options are fields of :class:`~open4m.generate.plan.Step`. All are the demo's, also where others are better: see
``docs/generation.md``.
"""

from __future__ import annotations

from typing import Any

from open4m.hub.ml4m.names import DOMAINS

ORDER = (
    "tok_clip",
    "tok_dinov2",
    "tok_imagebind",
    "tok_depth",
    "tok_normal",
    "tok_semseg",
    "tok_canny_edge",
    "tok_sam_edge",
    "tok_rgb",
    "caption",
    "det",
    "human_poses",
    "sam_instance",
    "color_palette",
    "metadata",
)
"""The domains that the demo makes, in this order."""

FINE = "448"
"""The side of the images whose tokens super-resolution makes."""

_LIMITS = {"top_p": 0.8, "top_k": 0, "limit_first": True}
_GRID = {"scheme": "roar", "schedule": "even", "cooling": "onex", "guidance": 2.0, **_LIMITS}
_FEATURES = ("tok_dinov2", "tok_imagebind")

FROM_PICTURES = {domain: {**_GRID, "steps": 1, "temperature": 0.01} for domain in ORDER if domain.startswith("tok_")}
"""Of grids, where a picture is given as pixels or tokens."""

FROM_OTHERS = {
    **{domain: {**_GRID, "steps": 8, "temperature": (3.0, 0.5)} for domain in FROM_PICTURES},
    **{domain: {**_GRID, "steps": 8, "temperature": 0.01} for domain in _FEATURES},
    "tok_clip": {**_GRID, "steps": 50, "temperature": (5.0, 0.5), "guidance": 3.0},
    "tok_rgb": {**_GRID, "steps": 25, "temperature": (3.0, 0.5)},
}
"""Of grids, where no picture is given."""

_ENDLESS = {"guided": False, "announced": True, "open_end": True}
_TEXT = {"scheme": "left_to_right", "steps": 0, "guidance": 1.0, **_LIMITS, **_ENDLESS}

SEQUENCES = {
    **{domain: {**_TEXT, "temperature": 0.3} for domain in ("caption", "det")},
    **{domain: {**_TEXT, "temperature": 0.1} for domain in ("human_poses", "color_palette", "metadata")},
    "sam_instance": {**_TEXT, "temperature": 0.01, "steps": 256},
}
"""Of sequences, whatever is given. Finished ones are seen by what follows with and without its conditions."""

SUPER_RESOLUTION = {"scheme": "maskgit", "schedule": "bell", "steps": 8, "temperature": 1.0, "guidance": 2.0, **_LIMITS}
"""Of grids of images of :data:`FINE` pixels."""


def place(key: str) -> int:
    """When the demo makes a modality of ours; those that it does not make come last."""
    ours = [DOMAINS[domain] for domain in ORDER]
    stem = key.partition("@")[0]
    return ours.index(stem) if stem in ours else len(ours)


def options(key: str, from_picture: bool) -> dict[str, Any]:
    """How the demo generates a modality of ours, by its key; nothing for what it does not make."""
    stem, _, side = key.partition("@")
    domain = next((domain for domain in ORDER if DOMAINS[domain] == stem), "")
    if side == FINE:
        return SUPER_RESOLUTION
    return {**SEQUENCES, **(FROM_PICTURES if from_picture else FROM_OTHERS)}.get(domain, {})
