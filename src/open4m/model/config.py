"""The configuration of a 4M model: which modalities, how large."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from open4m import config as configs
from open4m import modalities
from open4m.modalities.traits import FAMILIES, Family
from open4m.nn.config import BlockConfig
from open4m.ranges import Decay, Layers, Length, Positive, Range, check_ranges
from open4m.types import Open4MError

TOKENS = "@tokens"
"""What a name ends with under which an image is given as its tokens, where the model reads its pixels too."""


@dataclass(frozen=True, kw_only=True)
class ModalitySpec:
    """One modality as the model sees it. ``key`` is its name, with a resolution if there are several: ``rgb@256``."""

    key: str
    family: str  # one of open4m.modalities.traits.FAMILIES
    vocab_size: Length = 0  # ids: entries of the codebook or of the text vocabulary
    grid: tuple[Length, Length] = (0, 0)  # grids: (h, w) in patches or tokens
    max_length: Length = 0  # sequences: tokens at most
    patch_size: Length = 0  # pixels: of a projected patch
    channels: Length = 0  # pixels, vectors: of a pixel, of a vector
    learned_positions: bool = False  # instead of fixed ones: for tokens without a place, such as global features
    # sequences: as a target, later tokens have the position of the first, an oddity of public models; 0: none have
    target_positions: Length = field(default=0, metadata=configs.LATER)
    is_input: bool = True
    is_target: bool = True

    def __post_init__(self) -> None:
        modalities.check_key(self.key)
        check_ranges(self, f"modality {self.key}")
        if self.family not in FAMILIES:
            raise Open4MError(f"modality {self.key}: family {self.family!r}, expected one of {', '.join(FAMILIES)}")
        if not self.has_vocabulary:
            object.__setattr__(self, "is_target", False)  # nothing predicts them
        if missing := [name for name in self.traits.sizes if _smallest(getattr(self, name)) < 1]:
            raise Open4MError(f"modality {self.key}: {', '.join(missing)} must be positive for family {self.family}")
        if not self.has_vocabulary and self.vocab_size:
            raise Open4MError(f"modality {self.key}: {self.family} have no vocabulary, got {self.vocab_size} entries")

    # ---- the traits of the family
    @property
    def traits(self) -> Family:
        return FAMILIES[self.family]

    @property
    def content(self) -> str:
        return self.traits.content

    @property
    def has_vocabulary(self) -> bool:
        return self.traits.has_vocabulary

    @property
    def is_sequence(self) -> bool:
        return self.traits.is_sequence

    @property
    def is_causal(self) -> bool:
        return self.traits.is_causal

    @property
    def has_codebook(self) -> bool:
        return self.traits.has_codebook

    # ---- sizes
    @property
    def length(self) -> int:
        """The number of tokens of a grid, or the most of a sequence."""
        return self.max_length if self.is_sequence else self.grid[0] * self.grid[1]

    @property
    def positions(self) -> int:
        """The number of positions: span masking has up to one query more than a sequence has tokens.

        Fixed positions of sequences cost nothing; there are at least 512, as in public checkpoints.
        """
        if not self.is_sequence:
            return self.length
        return self.length + 1 if self.learned_positions else max(512, self.length + 1)

    @property
    def has_places(self) -> bool:
        """Whether its tokens are places in the image. Positions are learned for those that are not."""
        return not self.is_sequence and not self.learned_positions


def _smallest(size: int | tuple[int, int]) -> int:
    return min(size) if isinstance(size, tuple) else size


@dataclass(frozen=True, kw_only=True)
class Architecture(BlockConfig):
    """The size of a model (paper Table 4) and its options; the defaults are the paper's final ones.

    Tables 24 and 26 vary the depths, ``activation``, the biases and ``qk_norm``. ``drop_path``: the rate of stochastic
    depth in the last block of encoder and of decoder; it grows linearly from 0 in their first (paper D).
    ``register_tokens``: learned tokens that the encoder sees besides its input. ``tied``: a sequence's decoder input
    and output embeddings are the same (paper C.1).

    The rest is ours, for small grids, and off by default (``docs/log.md`` has what each gains).
    ``position_temperature``: the longest wavelength of the fixed positions of grids, over 2π. On a grid of 8 × 8 they
    hardly vary at the paper's 10,000.
    ``position_deviation``: those positions are centered over the grid and scaled to this standard deviation.
    ``patch_embedding``: how patches are read; "whitened": a linear projection of patches whose second moments are
    equal in all directions (``WhitenedPatches``), "conv": convolutions of stride 2 over the image before it.
    ``patch_norm``: a LayerNorm after it. ``aligned_attention``: half of the heads of cross-attention start with equal
    query and key weights, so that a query first reads what lies at its own place.
    ``rotary``: queries and keys of grids are turned by their place too, in every attention (:mod:`open4m.nn.rotary`).
    ``finest``: cells per side of the grid whose cells are a quarter turn apart; 0: of the model's finest grid. What
    starts from a model and lacks its finest grid names that one, so that a place keeps its angles.
    """

    encoder_depth: Layers
    decoder_depth: Layers
    register_tokens: Length = 0
    drop_path: Decay = 0.0
    tied: bool = True
    position_temperature: Annotated[float, Range(1, 1e9, above=True)] = 10_000.0
    position_deviation: Positive | None = None
    patch_embedding: Literal["linear", "whitened", "conv"] = "linear"
    patch_norm: bool = False
    aligned_attention: bool = False
    rotary: bool = False
    finest: Length = field(default=0, metadata=configs.LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % 4:
            raise Open4MError(f"dim {self.dim} must be a multiple of heads ({self.heads}) and of 4 (2D sine-cosine)")
        if self.rotary and self.dim // self.heads % 4:
            raise Open4MError(f"rotary needs heads whose width is a multiple of 4, got {self.dim // self.heads}")


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What a model was trained for together: to generate any of some modalities from any of others, by their keys."""

    inputs: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FourMConfig(Architecture):
    """A model of an architecture; the order of ``modalities`` is the index that tokens carry.

    ``directions``: what it was trained for, if that is not any of its targets from any of its inputs (empty).
    ``hidden_texts``: what it was shown of a text in training where it was to see nothing of it, which is what guidance
    by a text is relative to: nothing at all, or the "sentinel" of one span that stands for the whole text, as the
    authors' public models.
    """

    modalities: tuple[ModalitySpec, ...]
    directions: tuple[Direction, ...] = ()
    hidden_texts: Literal["nothing", "sentinel"] = field(default="nothing", metadata=configs.LATER)

    @classmethod
    def of(
        cls, architecture: Architecture, modalities: tuple[ModalitySpec, ...], directions: tuple[Direction, ...] = ()
    ) -> FourMConfig:
        """The model of an architecture for these modalities."""
        own = {f.name: getattr(architecture, f.name) for f in fields(Architecture)}
        return cls(modalities=modalities, directions=directions, **own)

    def __post_init__(self) -> None:
        super().__post_init__()
        keys = self.keys
        if len(set(keys)) != len(keys):
            raise Open4MError(f"a modality occurs twice: {', '.join(keys)}")
        if not any(m.is_input for m in self.modalities) or not any(m.is_target for m in self.modalities):
            raise Open4MError("a model needs at least one input and one target modality")
        for key in (key for d in self.directions for key in (*d.inputs, *d.targets)):
            self.index(key)

    @property
    def keys(self) -> list[str]:
        return [m.key for m in self.modalities]

    @property
    def finest_grid(self) -> int:
        """Cells per side of the grid that sets the angles of ``rotary``."""
        return self.finest or max((max(m.grid) for m in self.modalities if m.has_places), default=1)

    @property
    def inputs(self) -> list[str]:
        """The modalities that can be given."""
        return [m.key for m in self.modalities if m.is_input]

    @property
    def targets(self) -> list[str]:
        """The modalities that can be generated."""
        return [m.key for m in self.modalities if m.is_target]

    @property
    def readers(self) -> dict[str, str]:
        """The input-only pixels that stand for the modality that they come from, where the model reads them:
        rgb -> rgb_pixels."""
        dense = [m.key for m in self.modalities if m.content == "pixels" and modalities.is_known(m.key)]
        return {modalities.get(key).source: key for key in dense if modalities.get(key).source}

    def read_as(self, name: str) -> str:
        """The key under which the model reads what is given under a name: an image as pixels where it reads those,
        ``rgb@tokens`` as the tokens of ``rgb``; all else as itself."""
        return name.removesuffix(TOKENS) if name.endswith(TOKENS) else self.readers.get(name, name)

    def sources(self, target: str) -> list[str]:
        """The modalities that the model was trained to generate ``target`` from."""
        together = {key for d in self.directions if target in d.targets for key in d.inputs}
        return [key for key in self.inputs if not self.directions or key in together]

    def index(self, key: str) -> int:
        """The index of a modality in a batch's ``*_modality``."""
        if not isinstance(key, str) or key not in self.keys:
            raise modalities.unknown(key, self.keys)
        return self.keys.index(key)

    def spec(self, key: str) -> ModalitySpec:
        """The specification of a modality."""
        return self.modalities[self.index(key)]


SIZES = {
    "debug": Architecture(encoder_depth=1, decoder_depth=1, dim=32, heads=1),
    "scenes": Architecture(
        encoder_depth=7,
        decoder_depth=1,
        dim=192,
        heads=3,
        position_temperature=20,
        position_deviation=0.7,
        patch_embedding="whitened",
        aligned_attention=True,
        rotary=True,
    ),
    "Ti": Architecture(encoder_depth=6, decoder_depth=6, dim=384, heads=6),
    "S": Architecture(encoder_depth=8, decoder_depth=8, dim=512, heads=8),
    "B": Architecture(encoder_depth=12, decoder_depth=12, dim=768, heads=12),
    "L": Architecture(encoder_depth=24, decoder_depth=24, dim=1024, heads=16),
    "XL": Architecture(encoder_depth=24, decoder_depth=24, dim=2048, heads=32),
}
"""One for a first try, that of scenes for a laptop, and the paper's (Table 4)."""
