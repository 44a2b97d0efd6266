"""What the authors of 4M call modalities and tokenizers, and what they are called here."""

from __future__ import annotations

from open4m import modalities
from open4m.types import Open4MError

DOMAINS = {
    "rgb": "rgb_pixels",
    "tok_rgb": "rgb",
    "tok_depth": "depth",
    "tok_normal": "normals",
    "tok_semseg": "semseg",
    "tok_clip": "clip",
    "tok_canny_edge": "canny_edge",
    "tok_sam_edge": "sam_edge",
    "tok_dinov2": "dinov2",
    "tok_imagebind": "imagebind",
    "tok_dinov2_global": "dinov2_global",
    "tok_imagebind_global": "imagebind_global",
    "caption": "caption",
    "t5_caption": "t5_caption",
    "det": "boxes",
    "metadata": "metadata",
    "color_palette": "color_palette",
    "human_poses": "human_poses",
    "sam_instance": "sam_instance",
}
"""Our modality for each domain of 4M-21 (without its resolution). Others keep their names, without ``tok_``."""

TEXT_LENGTH = 256
"""The longest captions and sequences of boxes that public checkpoints were trained with."""

LENGTHS = {"metadata": 40, "human_poses": 275, "color_palette": 23, "sam_instance": 290, "t5_caption": 77}
"""The longest sequences that public checkpoints were trained with, where they are not :data:`TEXT_LENGTH`. The tables
of positions do not tell: all have 512 rows."""

TARGET_POSITIONS = {"human_poses": 263}
"""From where on tokens were trained, as targets, at the position of the first one."""


def _precedence(name: str) -> tuple[int, str, bool]:
    """A key that sorts names by the number after the ``@``, and tokenized modalities before others."""
    digits = name.partition("@")[2]
    return len(digits), digits, not name.startswith("tok_")


def keys_of(theirs: list[str]) -> dict[str, str]:
    """Our key of each of their modalities. Only if a modality has several resolutions do the higher ones name theirs.

    Where two would have the same key, the later one keeps its name. Raises :class:`Open4MError` if that is taken too.
    """
    taken: dict[str, str] = {}
    for name in sorted(theirs, key=_precedence):
        stem, _, resolution = name.partition("@")
        key = DOMAINS.get(stem, stem.removeprefix("tok_"))
        choices = [key, *([f"{key}@{resolution}"] if resolution else []), name]
        free = next((choice for choice in choices if choice not in taken), None)
        if free is None:
            raise Open4MError(f"modality {name}: expected a key of its own, but {key} is that of {taken[key]}")
        taken[free] = name
    found = {name: key for key, name in taken.items()}
    return {name: found[name] for name in theirs}


def tokenized(domain: str) -> str:
    """The modality whose values the tokenizer of a domain reads: the domain's own or, of a sequence such as that of
    ``human_poses``, that of its parts."""
    stem = domain.partition("@")[0]
    modality = modalities.get(DOMAINS.get(stem, stem))
    return getattr(modality, "part", "") or modality.name
