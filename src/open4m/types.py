"""The values that travel through open4m, and the legend of their shapes.

Shapes are written as trailing comments, ``# (B, N, D)``, with these letters:

====  ==========================================================
B     samples in a batch
N     input (visible) tokens of a sample
M     target tokens of a sample
D     model dimension
C     channels of an image-like array
H, W  height and width in pixels
h, w  height and width in tokens (a grid)
L     length of a sequence, or h·w of a grid
V     entries of a vocabulary (codebook)
====  ==========================================================
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Value = Any
"""What a modality holds in memory before it is tokenized: an array, a string or :class:`Boxes`."""

Sample = Mapping[str, Value]
"""Aligned values of one sample, by modality name."""


LARGEST_VOCABULARY = 1 << 16
"""The most entries of a vocabulary: token stores hold ids of 16 bits."""


class Open4MError(Exception):
    """A mistake in what the user gave: the message says what, where, expected, got, and what to do.

    The command line prints it as one line and exits with code 2. The middle of a long message is left out: what is
    wrong may be a value of any size.
    """

    LONGEST = 2000
    """Characters of a message, nearly."""

    def __init__(self, message: str) -> None:
        if (left_out := len(message) - self.LONGEST) > 0:
            half = self.LONGEST // 2
            message = f"{message[:half]} ... ({left_out} characters) ... {message[-half:]}"
        super().__init__(message)


class Preempted(Exception):
    """The process was asked to stop; the run was saved and can be resumed. The command line exits with code 3."""


class OtherRank(Open4MError):
    """Another process of the same run failed, and says why."""


def shown(value: object) -> str:
    """A value for a message: of a large one, the beginning and the end."""
    try:
        return _SHORT.repr(value)
    except Exception:  # numbers of thousands of digits, and objects of others, have no text
        return f"a {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlong = 40
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8
_SHORT.maxlevel = 3


class Marked(str):
    """A text in which special tokens that are spelled out, such as ``[S_1]`` and ``[EOS]``, are those tokens.

    Nothing is added to it, so that it may say that something is left out, or that it goes on.
    """

    __slots__ = ()


GAP = "[_]"
"""What stands for a gap in a text that is a target and given in part."""


class Gapped(str):
    """A text with gaps, each written ``[_]``, that a model fills in: spans of any number of words, also of none."""

    __slots__ = ()


def check_kind(value: object, kind: type, name: str) -> None:
    """Raise :class:`Open4MError`, with the argument's ``name``, for what is not of a kind."""
    if not isinstance(value, kind):
        raise Open4MError(f"{name}: expected {kind.__name__}, got {shown(value)}")


def check_flags(**flags: object) -> None:
    """Raise :class:`Open4MError` for an argument that is neither True nor False."""
    for name, value in flags.items():
        check_kind(value, bool, name)


def printable(text: str, kept: str = "") -> str:
    """A text whose control characters, but those in ``kept``, are escapes: files that it names may hold some, which
    a terminal would follow."""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def is_text(value: object) -> bool:
    """Whether it is a string that files can hold. Python has others: with halves of characters ("\\ud800"), such as
    come from file names and JSON that are no Unicode."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Boxes:
    """Axis-aligned object boxes of one image.

    ``corners``: float32 (n, 4), columns x_min, y_min, x_max, y_max as fractions of width and height, in [0, 1].
    ``labels``: n class names.
    ``scores``: None, or n confidences in [0, 1].
    ``malformed``: how many more objects the tokens named that these boxes were decoded from, but not in a form that is
    a box. It says how the value was made and is not compared.
    """

    corners: np.ndarray
    labels: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    malformed: int = 0

    def __post_init__(self) -> None:
        try:
            corners = np.asarray(self.corners)
            if corners.dtype.kind not in "fiuO":
                raise TypeError(f"got {corners.dtype}")
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused below
                corners = corners.astype(np.float32).reshape(-1, 4)
            labels = tuple(self.labels)
            scores = None if self.scores is None else tuple(float(score) for score in self.scores)
        except Exception as error:  # other people's array types raise almost anything
            raise Open4MError(f"boxes: expected corners (n, 4), n labels and n scores or none ({error})") from error
        object.__setattr__(self, "corners", corners)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "scores", scores)
        if isinstance(self.labels, str) or not all(map(is_text, labels)):
            raise Open4MError(f"boxes: labels are class names, got {labels!r}")
        if len(self.labels) != len(corners):
            raise Open4MError(
                f"boxes: expected one label per box, got {len(corners)} boxes and {len(self.labels)} labels"
            )
        if scores is not None and len(scores) != len(corners):
            raise Open4MError(f"boxes: expected one score per box, got {len(corners)} boxes and {len(scores)} scores")
        if scores is not None and not all(0 <= score <= 1 for score in scores):
            raise Open4MError(f"boxes: scores are in [0, 1], got {min(scores)} to {max(scores)}")
        if not np.isfinite(corners).all() or (corners < -1e-4).any() or (corners > 1 + 1e-4).any():
            raise Open4MError(
                "boxes: corners must be fractions of the image in [0, 1]; divide pixels by width and height"
            )
        if (corners[:, 2:] < corners[:, :2]).any():
            raise Open4MError("boxes: expected x_min <= x_max and y_min <= y_max")

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Boxes)
            and self.labels == other.labels
            and self.scores == other.scores
            and np.array_equal(self.corners, other.corners)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass
class MaskedBatch:
    """The packed tokens that the model will see, and nothing else (``docs/architecture.md``).

    Every token is (modality, position, id). Rows are padded to N and M; padding has ``*_valid`` False and
    zeros elsewhere. ``input_id`` of a pixel token is 0: its content is the patch at ``input_position`` of
    ``pixels[name]``. ``input_id`` of a vector is 1 + its row in ``vectors[name]``, or 0 for a masked span, which is
    shown as a vector of zeros. For grids ``position`` is the raster index; for sequences, of vectors too, it counts the
    tokens shown. Pixels that are uint8 are normalized by ``scales[name]`` where the model reads them: a batch is a
    quarter as large, and only patches that are shown are normalized.
    """

    input_id: torch.Tensor  # (B, N) int64
    input_modality: torch.Tensor  # (B, N) int64, index into the model's modalities
    input_position: torch.Tensor  # (B, N) int64
    input_valid: torch.Tensor  # (B, N) bool
    target_id: torch.Tensor  # (B, M) int64; for sequences the next token
    target_modality: torch.Tensor  # (B, M) int64
    target_position: torch.Tensor  # (B, M) int64
    query_id: torch.Tensor  # (B, M) int64; sequences: the previous token; grids: 0, the mask token is read instead
    target_valid: torch.Tensor  # (B, M) bool
    pixels: dict[str, torch.Tensor] = field(
        default_factory=dict
    )  # modality key -> (B, C, H, W) uint8, or float32 if normalized
    scales: dict[str, torch.Tensor] = field(default_factory=dict)  # modality key -> (2, C): mean, std on [0, 1]
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)  # modality key -> (B, L, C) float32
    input_counts: tuple[int, ...] | None = None  # valid input tokens of each of the model's modalities
    target_counts: tuple[int, ...] | None = None  # likewise of targets

    def to(self, device: torch.device | str) -> MaskedBatch:
        """The same batch on another device."""
        moved = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, dict):
                moved[f.name] = {key: tensor.to(device, non_blocking=True) for key, tensor in value.items()}
            elif value is None or isinstance(value, tuple):
                moved[f.name] = value
            else:
                moved[f.name] = value.to(device, non_blocking=True)
        return MaskedBatch(**moved)

    def __len__(self) -> int:
        return self.input_id.shape[0]

    def counted(self, modalities: int) -> MaskedBatch:
        """The same batch with its counts known on the host, of a model of that many modalities.

        Reading a number from a device waits for it, so whoever makes a batch on the CPU counts there:
        :func:`open4m.masking.batch.mask_batch` does.
        """

        def counts(kind: torch.Tensor, valid: torch.Tensor) -> tuple[int, ...]:
            return tuple(kind[valid].bincount(minlength=modalities).tolist())

        if self.input_counts is not None and self.target_counts is not None:
            return self
        return replace(
            self,
            input_counts=counts(self.input_modality, self.input_valid),
            target_counts=counts(self.target_modality, self.target_valid),
        )

    def tokens_seen(self) -> int:
        """Input plus target tokens of the batch, the paper's unit of training length (appendix E.5)."""
        return int(self.input_valid.sum() + self.target_valid.sum())
