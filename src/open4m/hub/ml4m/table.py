"""Which public repositories of the authors of 4M belong together: a transformer, the tokenizers of what it reads and
makes, and a model of super-resolution. The text tokenizer of all of them is on no hub: see :mod:`.text`."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from open4m.hub import locate
from open4m.hub.ml4m import names
from open4m.types import Open4MError

OWNER = "EPFL-VILAB"

TEXT_FILES = "text_tokenizer_4m_wordpiece*.json"
"""What the file of a text tokenizer is called on disk."""

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
"""The repository of the tokenizer of each domain, whose names are without the side of the image: ``tok_rgb`` for
``tok_rgb@224`` and ``tok_rgb@448``, which share one. Of ``human_poses`` and ``sam_instance``, that of the poses and of
the masks in these sequences."""

SEVEN = ("tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip")
TWENTY_ONE = tuple(TOKENIZERS)

TRANSFORMERS = {
    **{f"4M-7_{size}_{data}": SEVEN for size in ("B", "L", "XL") for data in ("CC12M", "COYO700M")},
    **{f"4M-7-T2I_{size}_CC12M": SEVEN for size in ("B", "L", "XL")},
    **{f"4M-21_{size}": TWENTY_ONE for size in ("B", "L", "XL")},
    "4M-7-SR_L_CC12M": SEVEN,
}
"""The repository of each transformer, and those of its domains that have a tokenizer."""

SUPER_RESOLUTION = "4M-7-SR_L_CC12M"
"""The only one; it serves every other transformer."""


@dataclass(frozen=True)
class Text:
    """The file of the text tokenizer, which is in no repository of the hub but in that of the authors' code.

    ``fingerprint``: of the tokenizer that it is, so that a model's fingerprint needs no download.
    """

    url: str
    sha256: str
    fingerprint: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


TEXT = Text(
    "https://raw.githubusercontent.com/apple/ml-4m/cda590f/fourm/utils/tokenizer/trained/"
    "text_tokenizer_4m_wordpiece_30k.json",
    "8e684e9a0673e39f70702a698869f909ba697f871a0c6b2a07b5f61e91b3526e",
    "3c96e69465f04d52",
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
    "Sample Code License 1.1 of EPFL and Apple: non-commercial use only, and its text goes with every copy",
)
"""Of all these weights. It is not that of open4m's code."""


def repository_of(place: Path) -> str:
    """The name of a repository, by its folder or by where the hub's cache holds it; of a file, the file's."""
    cached = re.search(r"models--[^/]*--([^/]+)/snapshots/[^/]+/?[^/]*$", place.as_posix())
    return cached[1] if cached else place.stem if place.is_file() else place.name


def is_listed(repository: str | Path) -> bool:
    """Whether a name on the hub, or the folder of a download, is one of their transformers."""
    return repository_of(Path(repository)) in TRANSFORMERS


def tokenizer_of(modality: str) -> str | None:
    """The repository of the tokenizer of one of our modalities, or of a part of one; None if the authors have none."""
    return next((repository for domain, repository in TOKENIZERS.items() if names.tokenized(domain) == modality), None)


def modality_of(repository: str) -> str | None:
    """Our modality of a repository's tokenizer, None if it is none or has several."""
    found = {names.tokenized(domain) for domain, own in TOKENIZERS.items() if own == repository}
    return found.pop() if len(found) == 1 else None


def here(repository: str, beside: Path) -> Path | None:
    """Where a repository is on disk: beside the folder of another one, or where :func:`locate.on_disk` finds it."""
    path = beside.parent / repository
    return path if path.is_dir() else locate.on_disk(f"{OWNER}/{repository}")


def text_here(beside: Path) -> Path | None:
    """Where the file of the text tokenizer is on disk: in the folder of a repository, in the two above it, or in that
    of downloads. Of several in one folder it is the one with the name of :data:`TEXT`."""
    own = os.environ.get(locate.HUB_VARIABLE)
    for place in (beside, *beside.resolve().parents[:2], *([Path(own)] if own else [])):
        found = sorted(place.glob(TEXT_FILES))
        chosen = [path for path in found if path.name == TEXT.name] or found
        if len(chosen) > 1:
            raise Open4MError(
                f"{place}: several text tokenizers ({', '.join(p.name for p in found)}); name one, by --text or "
                "Chosen(text=...)"
            )
        if chosen:
            return chosen[0]
    return None


def is_here(repository: str, beside: Path | None = None) -> bool:
    """Whether a repository is on disk: beside the folder of another one, among the downloads, or in the hub's cache."""
    name = f"{OWNER}/{repository}"
    found = locate.on_disk(name) if beside is None else here(repository, beside)
    return (found or locate.cached(name)) is not None


def downloads(name: str, beside: Path | None = None) -> str:
    """What to type where there is a connection to get a model by its name on the hub, whole, and where it goes: all
    that is not here, or not ``beside`` the folder of a part of it."""
    owner, _, repository = name.rpartition("/")
    listed, text_too, own = [repository], "", os.environ.get(locate.HUB_VARIABLE)
    hub = own or "HUB"
    if owner == OWNER and repository in TRANSFORMERS:
        listed += dict.fromkeys(TOKENIZERS[domain] for domain in TRANSFORMERS[repository])
        listed += [SUPER_RESOLUTION] * (repository != SUPER_RESOLUTION)
        listed = [part for part in listed if not is_here(part, beside)] or listed
        text_too = "" if text_here(beside or Path(hub, name)) else f"{TEXT.url} to {hub}/{TEXT.name}"
    which = listed[0] if len(listed) == 1 else "NAME"
    each = f" for each NAME of {', '.join(listed)}" * (len(listed) > 1)
    fetched = f"hf download {owner}/{which} --local-dir {hub}/{owner}/{which}{each}" * bool(listed)
    then = "" if own else f"; then set {locate.HUB_VARIABLE}=HUB, or name HUB/{owner}/{repository} here"
    return f"where there is a connection: {', and '.join(filter(None, (fetched, text_too)))}{then}"


def nearest(name: str) -> str:
    """Which of the authors' models may have been meant by a name on the hub that is none of them; "" if it is one."""
    owner, _, repository = name.rpartition("/")
    known = [*TRANSFORMERS, *TOKENIZERS.values()]
    if owner != OWNER or repository in known:
        return ""
    near = difflib.get_close_matches(repository, known, n=1)
    return f"did you mean {OWNER}/{near[0]}? " if near else f"the authors' models are {', '.join(TRANSFORMERS)}; "
