"""The families of modalities, which say what their tokens are, and what each modality says of its use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """The traits of a modality's tokens, which the rest of the program asks for.

    A new family is one row of :data:`FAMILIES`, one class in ``families.py`` if its values are of a new kind, and one
    row of each table by family: how its tokens are stored (:mod:`open4m.store.columns`) and made
    (:mod:`open4m.data.encoders`).
    """

    name: str  # in configurations, token stores and files
    content: Literal["ids", "pixels", "vectors"]  # a token is an entry of a vocabulary, a patch, or a vector
    layout: Literal["grid", "sequence"]  # positions are cells of a grid, or places in a sequence
    sizes: tuple[str, ...]  # the sizes that such a modality has in a model

    @property
    def has_vocabulary(self) -> bool:
        """Whether tokens are ids, which the model can predict. All else is input only (paper C.1)."""
        return self.content == "ids"

    @property
    def is_sequence(self) -> bool:
        """Whether lengths differ between samples, so that spans are masked instead of cells."""
        return self.layout == "sequence"

    @property
    def has_codebook(self) -> bool:
        """Whether a learned tokenizer of its own makes the ids. Sequences share one text tokenizer."""
        return self.has_vocabulary and not self.is_sequence

    @property
    def is_causal(self) -> bool:
        """Whether tokens are predicted one after another, each from those before it."""
        return self.is_sequence and self.has_vocabulary


FAMILIES = {
    family.name: family
    for family in (
        Family(name="pixels", content="pixels", layout="grid", sizes=("grid", "patch_size", "channels")),
        Family(name="grid", content="ids", layout="grid", sizes=("grid", "vocab_size")),
        Family(name="sequence", content="ids", layout="sequence", sizes=("max_length", "vocab_size")),
        Family(name="vectors", content="vectors", layout="sequence", sizes=("max_length", "channels")),
    )
}
"""All families by name."""


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """How a modality is generated unless a plan says otherwise (paper A.3).

    In a random order (ROAR): MaskGIT without noise on its confidences is surest of the background, and fills most of a
    picture with it.
    """

    scheme: str = "roar"
    steps: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit


@dataclass(frozen=True, kw_only=True)
class Flag:
    """An option of the command line that gives a value of one modality, such as ``--input IMAGE``: a file or, of a
    modality of texts, the words themselves. Modalities without one are given by ``--given NAME=FILE``."""

    name: str
    metavar: str = "FILE"
    help: str = ""
