"""Which public repositories of the authors of 4M belong together: a transformer, the tokenizers of what it reads and
makes, a text tokenizer and a model of super-resolution."""

from __future__ import annotations

from dataclasses import dataclass

OWNER = "EPFL-VILAB"

_SEVEN = ("tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip")
_TWENTY_ONE = (
    *_SEVEN,
    "tok_canny_edge",
    "tok_sam_edge",
    "tok_dinov2",
    "tok_dinov2_global",
    "tok_imagebind",
    "tok_imagebind_global",
    "human_poses",
    "sam_instance",
)

TRANSFORMERS = {
    **{f"4M-7_{size}_{data}": _SEVEN for size in ("B", "L", "XL") for data in ("CC12M", "COYO700M")},
    **{f"4M-7-T2I_{size}_CC12M": _SEVEN for size in ("B", "L", "XL")},
    **{f"4M-21_{size}": _TWENTY_ONE for size in ("B", "L", "XL")},
    "4M-7-SR_L_CC12M": _SEVEN,
}
"""The repository of each transformer, and those of its domains that have a tokenizer of their own. Domains are without
the side of their images: ``tok_rgb`` for ``tok_rgb@224`` and ``tok_rgb@448``, which share one."""

SUPER_RESOLUTION = "4M-7-SR_L_CC12M"
"""The only one, for every other transformer."""

TOKENIZERS = {
    "tok_rgb": "4M_tokenizers_rgb_16k_224-448",
    "tok_depth": "4M_tokenizers_depth_8k_224-448",
    "tok_normal": "4M_tokenizers_normal_8k_224-448",
    "tok_semseg": "4M_tokenizers_semseg_4k_224-448",
    "tok_clip": "4M_tokenizers_CLIP-B16_8k_224-448",
    "tok_canny_edge": "4M_tokenizers_edge_8k_224-512",
    "tok_sam_edge": "4M_tokenizers_edge_8k_224-512",
    "tok_dinov2": "4M_tokenizers_DINOv2-B14_8k_224-448",
    "tok_dinov2_global": "4M_tokenizers_DINOv2-B14-global_8k_16_224",
    "tok_imagebind": "4M_tokenizers_ImageBind-H14_8k_224-448",
    "tok_imagebind_global": "4M_tokenizers_ImageBind-H14-global_8k_16_224",
    "human_poses": "4M_tokenizers_human-poses_1k_8",
    "sam_instance": "4M_tokenizers_sam-instance_1k_64",
}
"""The repository of the tokenizer of each domain; of ``human_poses`` and ``sam_instance``, that of the poses and of the
masks in these sequences."""


@dataclass(frozen=True)
class Text:
    """The file of the text tokenizer, which is in no repository of the hub but in that of the authors' code."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


TEXT = Text(
    "https://raw.githubusercontent.com/apple/ml-4m/cda590f/fourm/utils/tokenizer/trained/"
    "text_tokenizer_4m_wordpiece_30k.json",
    "8e684e9a0673e39f70702a698869f909ba697f871a0c6b2a07b5f61e91b3526e",
)


@dataclass(frozen=True)
class License:
    """The terms of weights. ``name``, ``link``: as the front matter of a card on the hub has them."""

    name: str
    link: str
    summary: str


LICENSE = License(
    "sample-code-license",
    "https://github.com/apple/ml-4m/blob/main/LICENSE_WEIGHTS",
    "Sample Code License 1.1 of EPFL and Apple: for non-commercial use, and its text goes with every copy",
)
"""Of all these weights. It is not that of open4m's code."""


def sources(transformer: str) -> dict[str, str]:
    """The repository of the tokenizer of each domain of a transformer: of none if its repository is not listed."""
    return {domain: TOKENIZERS[domain] for domain in TRANSFORMERS.get(transformer, ())}
