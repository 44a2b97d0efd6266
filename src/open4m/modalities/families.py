"""Families of modalities, and what one modality file provides.

A modality is one file in this folder (or in a folder named by the environment variable ``OPEN4M_MODALITIES``)
that defines ``MODALITY``, an instance of a class below. The rest of the program asks what a modality's tokens are
through the traits of its family (:mod:`open4m.modalities.traits`); it compares neither names of modalities nor of
families.

==============  ========  ==============================  ===========================  ============================
class           family    examples                        the model reads              the model predicts
==============  ========  ==============================  ===========================  ============================
PixelGrid       pixels    RGB pixels                      projected patches            nothing (input only)
TokenGrid       grid      RGB, depth, segmentation, CLIP  a codebook index per cell    the indices of queried cells
Vector          grid      global features, a human pose   a codebook index per part    the indices of queried parts
TokenSequence   sequence  captions, boxes                 a word-piece id per token    the next token
VectorSequence  vectors   a text encoder's vectors        projected vectors            nothing (input only)
==============  ========  ==============================  ===========================  ============================

A Vector (in ``features.py``) is a TokenGrid whose grid is one row of parts without a place in the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.modalities.codecs import as_array, is_finite_float32, read_array, write_vectors
from open4m.modalities.crops import Crop, resample
from open4m.modalities.frames import Frame
from open4m.modalities.traits import FAMILIES, Family, Flag, GenerationDefaults
from open4m.pictures import picture, principal_components
from open4m.types import Open4MError, Value

if TYPE_CHECKING:
    from open4m.tokenizers.text import TextTokenizer
    from open4m.tokenizers.tokenizer import Tokenizer


ROLES = {
    "photo": "what an image is, given or generated, and what other modalities are extracted from",
    "text": "what is said in words: of the command line, and to avoid something",
    "objects": "what can be moved, renamed and deleted one by one",
    "classes": "a map in which one class can be swapped for another",
    "shape": "what variations of a photo share",
}
"""What a modality can stand for where a request names none; each is the role of one modality."""

STANDARDIZED = "standardized"
"""The name of the form in which each value is standardized by its own mean and deviation. Its units are lost, so that
it cannot be converted to any other form."""


def mean_of(figures: Sequence[float]) -> float:
    """The mean of a metric over samples, NaN where none has it."""
    return float(np.mean(figures)) if len(figures) else float("nan")


Palette = Sequence[tuple[int, int, int]]
"""One color per class id, in order from 0; red, green and blue from 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class Modality:
    """What every modality file provides.

    ``extension`` names the member in a raw shard (``<key>.<extension>``). ``source`` and :meth:`derive` let a
    modality be computed from the values of another one instead of being stored. ``role`` is what a request that names
    no modality means by it, one of :data:`ROLES`; ``flag`` is its own option of the command line.

    ``aliases`` are what data sets of others call it: their folders, columns and endings of file names, in lower case.

    ``forms`` names the representations in which users may have its values, such as depth in meters or millimeters. The
    first is the modality's own; everything except :meth:`from_form` and :meth:`to_form` works on that one. Where
    ``forms_look_alike``, nothing in a file tells which one it is in, so that an import has to be told. ``is_text``:
    a value is a str, so that no str is the path of a file.
    """

    family: ClassVar[Family]  # each class below has one

    name: str
    description: str
    extension: str = ""
    aliases: tuple[str, ...] = ()
    source: str | None = None
    role: str = ""
    flag: Flag | None = None
    better: ClassVar[dict[str, str]] = {}  # metric -> "lower" or "higher"
    merges: ClassVar[bool] = False  # whether several values can be mixed: see :meth:`consensus`
    has_positions: ClassVar[bool] = False  # the value tells places in the picture, as fractions of its width and height
    largest_number: ClassVar[int] = 0  # that its sequences write, on any axis of the text tokenizer; places are rounded
    of_image: ClassVar[bool] = (
        False  # a network's features of the image it is shown: those of a crop are other features
    )
    image: bool = False  # the value is uint8 (H, W, 3), sRGB: the photo that the other maps of a sample show
    forms: ClassVar[tuple[str, ...]] = ("own",)
    forms_look_alike: ClassVar[bool] = False
    is_text: ClassVar[bool] = False

    # ---- at rest
    def read(self, data: bytes) -> Value:
        """The value in a raw file's bytes. Raises :class:`Open4MError` for bytes that hold no such value."""
        raise NotImplementedError

    def write(self, value: Value) -> bytes:
        """The bytes of a raw file that holds the value, which :meth:`read` gives back.

        Raises :class:`Open4MError` for what :meth:`convert` refuses: nothing is written that could not be read.
        """
        raise NotImplementedError

    def derive(self, source: Value) -> Value:
        """The value computed from a value of the ``source`` modality."""
        return source

    # ---- in memory
    def convert(self, value: Any) -> Value:
        """The value of what users have: PIL images, arrays of other types, lists.

        Raises :class:`Open4MError`, which says what was expected, for all else.
        """
        raise NotImplementedError

    def from_form(self, value: Any, form: str, palette: Palette = ()) -> Value:
        """The checked value in the modality's own form, converted from one of ``forms``.

        A standardized value stays standardized. ``palette``: the colors of classes, for forms that need them. Raises
        :class:`Open4MError` for an unknown form, and for a value that is not valid in this one.
        """
        self.check_form(form)
        return self.convert(value)

    def to_form(self, value: Value, form: str, palette: Palette = ()) -> Value:
        """The value converted from the modality's own form to one of ``forms``; :meth:`from_form` is the inverse.

        Raises :class:`Open4MError` for an unknown form, and for a value that the form cannot hold.
        """
        self.check_form(form)
        return value

    def check_form(self, form: str) -> None:
        """Raise :class:`Open4MError`, which lists the forms, for a name that is none of them."""
        if form not in self.forms:
            raise self.error(f"no form is called {form!r}; its forms are {', '.join(self.forms)}")

    def extent(self, value: Value) -> tuple[int, int] | None:
        """Height and width, in pixels or cells, of a checked value that covers the image; None for all other values."""
        return None

    def valid(self, value: Value) -> np.ndarray | None:
        """Which pixels of a checked map hold a measurement, bool (H, W); None: all of them do.

        The others hold a marker, which files keep. They cost nothing in a tokenizer's training and in metrics, and are
        hatched in pictures; encoders read the nearest pixel that holds a measurement in their place. The map of such a
        modality is resized by taking whole pixels, so that no marker is mixed into its neighbors.
        """
        return None

    def crop(self, value: Value, crop: Crop) -> Value:
        """The region ``crop`` of the value, resized."""
        return value

    def can_flip(self, value: Value) -> bool:
        """Whether the value stays true when the image is mirrored. If any value does not, the sample is not flipped."""
        return True

    def flip(self, value: Value) -> Value:
        """The value of the image mirrored left to right."""
        return value

    def transposed(self, value: Value) -> Value:
        """The value of the image whose rows and columns are exchanged; with :meth:`flip`, any turn of it.

        Raises :class:`Open4MError` for a value with positions that cannot be turned.
        """
        if self.has_positions:
            raise self.error("cannot be turned with its image: save both upright first")
        return value

    def fit(self, value: Any, size: int, fit: str = "crop") -> Value:
        """Like :meth:`convert`; of a map or an image, what a square of ``size`` × ``size`` shows of it, by default the
        central square: see :class:`~open4m.modalities.frames.Frame`."""
        value = self.convert(value)
        extent = self.extent(value)
        return value if extent is None else Frame(*extent, fit).squared(self, value, size)

    # ---- for people
    def render(self, value: Value, size: int = 256, style: Any = None) -> Image.Image:
        """A picture of the value, ``size`` pixels wide and high, in a :meth:`style`; by default in one of its own.

        A modality without styles may leave the last parameter out.
        """
        raise NotImplementedError

    def style(self, values: Sequence[Value], names: Sequence[str] = (), palette: Palette = ()) -> Any:
        """What pictures of values that are shown together share, so that a color means one thing in all of them: a
        range, a basis, classes. ``names`` and ``palette`` are those of classes. None: nothing."""
        return None

    def legend(self, style: Any, width: int = 256) -> Image.Image | None:
        """What the colors of a style mean, ``width`` pixels wide; None if that needs no words."""
        return None

    def drawn_over(self, value: Value, image: Image.Image) -> Image.Image | None:
        """A picture of the value on top of a picture of its image; None if it is not drawn that way."""
        return None

    def facts(self, value: Value) -> Mapping[str, float | Counter]:
        """What a summary of many values tells besides their sizes: numbers, whose range is shown, and counts of names
        or class ids, which are added up."""
        return {}

    def metrics(self, predictions: Sequence[Value], labels: Sequence[Value]) -> dict[str, float]:
        """How well predictions match labels; keys and directions are in ``better``."""
        return {}

    def trivial(self, labels: Sequence[Value]) -> Value | None:
        """The best constant prediction, made from training labels: a baseline that any model must beat."""
        return None

    def consensus(self, values: Sequence[Value], by: str = "weighted") -> Value | None:
        """One prediction from several of the same sample, by how sure the model was of each (``"weighted"``) or by how
        many agree (``"votes"``); None if values cannot be mixed."""
        return None

    def error(self, message: str) -> Open4MError:
        """An error about a value of this modality."""
        return Open4MError(f"{self.name}: {message}")

    def __reduce__(self) -> tuple:
        """Pickled as its name: another process finds the modality's file itself, a user's file included."""
        return modalities.get, (self.name,)


@dataclass(frozen=True, kw_only=True)
class PixelGrid(Modality):
    """Pixels that the model reads as projected patches. Input only: nothing predicts them (paper C.1)."""

    family = FAMILIES["pixels"]

    image: bool = True
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet, on the [0, 1] scale
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def extent(self, value: np.ndarray) -> tuple[int, int]:
        return value.shape[:2]

    def transposed(self, value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value.swapaxes(0, 1))

    def pixels(self, value: np.ndarray) -> np.ndarray:
        """Normalized float32 (C, H, W) from a uint8 (H, W, C) value."""
        table = _normalized(self.mean, self.std)  # looking them up costs a fraction of decoding
        pixels = np.empty((value.shape[2], *value.shape[:2]), dtype=np.float32)
        for channel, found in enumerate(pixels):
            np.take(table[channel], value[..., channel], out=found, mode="clip")
        return pixels


@cache
def _normalized(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What each of the 256 values of a channel becomes, float32 (C, 256)."""
    scaled = np.arange(256, dtype=np.float32) / 255
    return (scaled - np.float32(mean)[:, None]) / np.float32(std)[:, None]


@dataclass(frozen=True, kw_only=True)
class TokenGrid(Modality):
    """A dense, image-like modality with a learned tokenizer: one codebook index per cell of a grid (paper B.3).

    ``unitless`` names the metrics that also apply to standardized values, if there is such a form.
    """

    family = FAMILIES["grid"]

    merges = True
    unitless: ClassVar[tuple[str, ...]] = ()

    channels: int
    # the tokenizer's reconstruction loss (paper Table 3): "mse", "smooth_l1", "cosine", "cross_entropy" of classes, or
    # "binary_cross_entropy" of yes and no
    loss: str
    categorical: bool = False  # the value is a map of class ids; channels is then the width of the class embedding
    class_names: tuple[str, ...] = ()  # by id, of a categorical modality whose classes are always the same
    resample: str = "nearest"  # how a crop is resized: "nearest" (no mixing across edges) or "linear"
    repeated: bool = False  # a tokenizer may read its one channel several times
    feature_map: bool = False  # one vector per cell instead of pixels: the tokenizer has no patch projection
    normalization: str = "fixed"  # "fixed": mean and std below; "fit": measured per channel on the training set
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    error_unit: str = ""  # of :meth:`error_map`
    crop_scale: tuple[float, float] = (0.8, 1.0)  # of the tokenizer's training crops, as area (paper Table 3)
    generation: GenerationDefaults = GenerationDefaults()

    def tensor(self, value: np.ndarray) -> np.ndarray:
        """The tokenizer's input before normalization: float32 (C, H, W), or int64 (H, W) if categorical."""
        if self.categorical:
            return value.astype(np.int64)
        return np.ascontiguousarray(value.reshape(*value.shape[:2], -1).transpose(2, 0, 1), dtype=np.float32)

    def value(self, tensor: np.ndarray) -> np.ndarray:
        """The value of a tokenizer's output after normalization is undone: the inverse of :meth:`tensor`."""
        if self.categorical:
            return tensor.astype(np.uint8 if tensor.max(initial=0) < 256 else np.int32)
        return tensor.transpose(1, 2, 0).astype(np.float32)

    def error_map(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Where and by how much a prediction is wrong: float64 (H, W) in ``error_unit``, 0 where it is right.

        For classes it is bool (H, W): where the class is wrong. For features it is 1 - cosine similarity, for all else
        the mean absolute difference over channels.
        """
        if self.categorical:
            return prediction != label
        prediction, label = prediction.astype(np.float64), label.astype(np.float64)
        if self.feature_map:
            lengths = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(label, axis=-1)
            return 1 - (prediction * label).sum(-1) / np.maximum(lengths, 1e-9)
        difference = np.abs(prediction - label)
        return difference.reshape(*difference.shape[:2], -1).mean(-1)

    def blend(self, kept: np.ndarray, made: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Two values of one size as one: ``weight`` (H, W) is 0 where ``kept`` stays as it is, 1 where ``made`` does.

        Between, they are mixed; of classes and features, which cannot be, ``made`` is taken.
        """
        weight = weight.reshape(*weight.shape, *[1] * (kept.ndim - 2))
        if self.categorical or self.feature_map:
            return np.where(weight > 0, made, kept)
        mixed = (kept * (1 - weight) + made * weight).astype(np.float32)
        if (valid := self.valid(kept)) is not None and not valid.all():  # there is nothing to mix with
            mixed = np.where(valid.reshape(weight.shape) | (weight == 0), mixed, made)
        return mixed

    def consensus(self, values: Sequence[np.ndarray], by: str = "weighted") -> np.ndarray | None:
        """The median of each number, or each pixel's most frequent class, the lowest of equally frequent ones. Images,
        of which a median is a blur, have none."""
        if self.image:
            return None
        stacked = np.stack(values)
        if not self.categorical:
            return np.median(stacked, axis=0).astype(stacked.dtype)
        classes = np.unique(stacked)
        votes = np.stack([(stacked == each).sum(0) for each in classes])
        return classes[votes.argmax(0)].astype(stacked.dtype)

    def extent(self, value: np.ndarray) -> tuple[int, int] | None:
        return value.shape[:2]

    def crop(self, value: np.ndarray, crop: Crop) -> np.ndarray:
        return resample(value, crop, self.resample)

    def flip(self, value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value[:, ::-1])

    def transposed(self, value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value.swapaxes(0, 1))


@dataclass(frozen=True, kw_only=True)
class TokenSequence(Modality):
    """A sequence of word pieces of the text tokenizer that all sequences share (paper B.2).

    ``words``: what a vocabulary that is fitted for this modality holds as one token each, beside the names of classes.
    ``part``: the modality of a value's parts that have a tokenizer of their own, such as the pose of each person.
    """

    family = FAMILIES["sequence"]

    words: tuple[str, ...] = ()
    part: str = ""
    generation: GenerationDefaults = GenerationDefaults(scheme="left_to_right", steps=0, top_p=0.9)

    def texts(self, value: Value) -> Sequence[str]:
        """The texts in a value, which word pieces are fitted to; none by default."""
        return ()

    def encode(self, value: Value, text: TextTokenizer, max_length: int = 256) -> list[int]:
        """At most ``max_length`` token ids, the last of them [EOS]; what does not fit is left out."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int], text: TextTokenizer) -> Value:
        """The value of token ids up to the first [EOS]. It never raises for ids of the vocabulary."""
        raise NotImplementedError

    def tokenized(self, value: Value, tokenizer: Tokenizer) -> Value:
        """The value with the tokens of all its parts, which :meth:`encode` needs."""
        return value

    def detokenized(self, value: Value, tokenizer: Tokenizer) -> Value:
        """The value with its parts as the tokens say, which :meth:`decode` gives."""
        return value

    def scored(self, value: Value, ids: Sequence[int], text: TextTokenizer, log_probability: np.ndarray) -> Value:
        """The value of generated ``ids`` with how sure the model was of its parts, where a value can hold that.

        ``log_probability``: of each token, in nats, NaN where it is not known.
        """
        return value


@dataclass(frozen=True, kw_only=True)
class VectorSequence(Modality):
    """A sequence of vectors, such as a text encoder's: (L, C) float. Input only: nothing predicts them."""

    family = FAMILIES["vectors"]

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, ndim=2))

    def write(self, value: np.ndarray) -> bytes:
        return write_vectors(self.convert(value))

    def convert(self, value: Any) -> np.ndarray:
        array = as_array(value, self.name)
        if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind != "f" or not is_finite_float32(array):
            raise self.error(f"expected finite float vectors (L, C), got {array.dtype} {array.shape}")
        return array.astype(np.float32)

    def can_flip(self, value: np.ndarray) -> bool:
        return False  # vectors may encode left and right, and cannot be mirrored

    def vectors(self, value: Any, channels: int, max_length: int) -> np.ndarray:
        """The model's input: the first ``max_length`` vectors of ``channels`` numbers, float32 (L, C)."""
        array = self.convert(value)
        if array.shape[1] != channels:
            raise self.error(f"expected vectors of {channels} channels, got {array.shape[1]}")
        return array[:max_length]

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        """One row of color per vector: its first three principal components."""
        return picture(
            principal_components(value[:, None] if len(value) else np.zeros((1, 1, 1))), size, False, stretch=True
        )
