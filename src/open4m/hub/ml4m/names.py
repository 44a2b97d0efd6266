"""What the authors of 4M call modalities and tokenizers, and what they are called here."""

from __future__ import annotations

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

TOKENIZERS = {
    "rgb_16k_224-448": ("rgb",),
    "depth_8k_224-448": ("depth",),
    "normal_8k_224-448": ("normals",),
    "semseg_4k_224-448": ("semseg",),
    "CLIP-B16_8k_224-448": ("clip",),
    "edge_8k_224-512": ("canny_edge", "sam_edge"),
    "DINOv2-B14_8k_224-448": ("dinov2",),
    "DINOv2-B14-global_8k_16_224": ("dinov2_global",),
    "ImageBind-H14_8k_224-448": ("imagebind",),
    "ImageBind-H14-global_8k_16_224": ("imagebind_global",),
    "human-poses_1k_8": ("human_pose",),
    "sam-instance_1k_64": ("sam_mask",),
}
"""Our modalities for each public tokenizer, whose repository is ``EPFL-VILAB/4M_tokenizers_<name>``.

Those of a pose and of a mask make the tokens of parts of sequences: a modality says so (``TokenSequence.part``)."""

TEXT_LENGTH = 256
"""The longest captions and sequences of boxes that public checkpoints were trained with."""

LENGTHS = {"metadata": 40, "human_poses": 263, "color_palette": 23, "sam_instance": 290, "t5_caption": 77}
"""The longest sequences that public checkpoints were trained with, where they are not :data:`TEXT_LENGTH`. The tables
of positions do not tell: all have 512 rows."""


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
