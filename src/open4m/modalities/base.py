"""Families of modalities, and what one modality file provides.

A modality is one file in this folder (or in a folder named by the environment variable ``OPEN4M_MODALITIES``)
that defines ``MODALITY``, an instance of a family below. The rest of the program asks a modality what it is
through its family; it never compares names.

==============  ==============================  ==========================  ============================
family          examples                        the model reads             the model predicts
==============  ==============================  ==========================  ============================
PixelGrid       RGB pixels                      projected patches           nothing (input only)
TokenGrid       RGB, depth, segmentation, CLIP  a codebook index a cell     the indices of queried cells
Vector          global features, a human pose   a codebook index a part     the indices of queried parts
Sequence        captions, boxes                 a word-piece index a token  the next token
VectorSequence  a text encoder's vectors        projected vectors           nothing (input only)
==============  ==============================  ==========================  ============================

A Vector is a TokenGrid whose grid is one row of parts without a place in the image; FeatureMap and GlobalFeature are
what most modalities of a network's features need.
"""

from __future__ import annotations

import io
import math
import tokenize
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from open4m.types import Open4MError, Value

if TYPE_CHECKING:
    from open4m.tokenizers.text import TextTokenizer

STANDARDIZED = "standardized"
"""The form, of the modalities that have it, whose values are each standardized by themselves: what units they had is
lost, so no other form can be made of it."""

Palette = SequenceOf[tuple[int, int, int]]
"""The colors of class ids from 0, red, green and blue from 0 to 255."""


@dataclass(frozen=True)
class Crop:
    """A region of the image, as fractions of its width and height, and the size in pixels it is resized to.

    One ``Crop`` is applied to all modalities of a sample, so that they stay aligned.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0
    size: tuple[int, int] = (128, 128)  # (height, width) in pixels

    @staticmethod
    def center(height: int, width: int, size: int) -> Crop:
        """The largest centered square of an image of ``height`` × ``width`` pixels (paper Table 5)."""
        side = min(height, width)
        return Crop((width - side) / 2 / width, (height - side) / 2 / height, side / width, side / height, (size, size))

    @staticmethod
    def random(
        height: int,
        width: int,
        size: int,
        generator: np.random.Generator,
        scale: tuple[float, float] = (0.8, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
    ) -> Crop:
        """A random resized crop: area fraction from ``scale``, aspect ratio from ``ratio`` (paper Table 3)."""
        for _ in range(10):
            area = height * width * generator.uniform(*scale)
            aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if w <= width and h <= height:
                left, top = generator.uniform(0, width - w), generator.uniform(0, height - h)
                return Crop(left / width, top / height, w / width, h / height, (size, size))
        return Crop.center(height, width, size)


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """How a modality is generated unless a plan says otherwise (paper A.3)."""

    scheme: str = "maskgit"
    steps: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit


@dataclass(frozen=True, kw_only=True)
class Modality:
    """What every modality file provides.

    ``extension`` names the member in a raw shard (``<key>.<extension>``). ``source`` and :meth:`derive` let a
    modality be computed from the values of another one instead of being stored.
    """

    name: str
    description: str
    extension: str = ""
    source: str | None = None
    better: ClassVar[dict[str, str]] = {}  # metric -> "lower" or "higher"

    # ---- at rest
    def read(self, data: bytes) -> Value:
        """The value in a raw file's bytes. Raises :class:`Open4MError` for bytes that hold no such value."""
        raise NotImplementedError

    def write(self, value: Value) -> bytes:
        """The bytes of a raw file that holds the value."""
        raise NotImplementedError

    def derive(self, source: Value) -> Value:
        """The value computed from a value of the ``source`` modality."""
        return source

    # ---- in memory
    def convert(self, value: Any) -> Value:
        """A checked value from what users have (PIL images, arrays of other types, lists ...)."""
        raise NotImplementedError

    def extent(self, value: Value) -> tuple[int, int] | None:
        """Height and width in pixels or cells of a checked value that covers the image; None of all other values."""
        return None

    def crop(self, value: Value, crop: Crop) -> Value:
        """The region ``crop`` of the value, resized."""
        return value

    def can_flip(self, value: Value) -> bool:
        """Whether the value stays true when the image is mirrored (False turns the sample's flip off)."""
        return True

    def flip(self, value: Value) -> Value:
        """The value of the image mirrored left to right."""
        return value

    def fit(self, value: Any, size: int) -> Value:
        """A checked value from what users have; if it is a map or an image, its center, ``size`` × ``size``."""
        value = self.convert(value)
        extent = self.extent(value)
        return value if extent is None else self.crop(value, Crop.center(*extent, size))

    # ---- for people
    def render(self, value: Value, size: int = 256) -> Image.Image:
        """A picture of the value, ``size`` pixels wide and high."""
        raise NotImplementedError

    def metrics(self, predictions: SequenceOf[Value], labels: SequenceOf[Value]) -> dict[str, float]:
        """How well predictions match labels; keys and directions are in ``better``."""
        return {}

    def trivial(self, labels: SequenceOf[Value]) -> Value | None:
        """The best constant prediction, made from training labels: what any model must beat."""
        return None

    def error(self, message: str) -> Open4MError:
        """An error about a value of this modality."""
        return Open4MError(f"{self.name}: {message}")


@dataclass(frozen=True, kw_only=True)
class PixelGrid(Modality):
    """Pixels that the model reads as projected patches. Input only: nothing predicts them (paper C.1)."""

    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet, on the [0, 1] scale
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def extent(self, value: np.ndarray) -> tuple[int, int]:
        return value.shape[:2]

    def pixels(self, value: np.ndarray) -> np.ndarray:
        """Normalized float32 (C, H, W) from a uint8 (H, W, C) value."""
        scaled = value.astype(np.float32) / 255
        return ((scaled - np.float32(self.mean)) / np.float32(self.std)).transpose(2, 0, 1)


@dataclass(frozen=True, kw_only=True)
class TokenGrid(Modality):
    """A dense, image-like modality with a learned tokenizer: one codebook index a cell of a grid (paper B.3).

    ``forms`` names what users may have its values as; the first is the modality's own, which all else works on.
    ``unitless`` are the metrics that also hold for values that are standardized, if there is such a form.
    """

    forms: ClassVar[tuple[str, ...]] = ("own",)
    unitless: ClassVar[tuple[str, ...]] = ()

    channels: int
    loss: str  # "mse", "smooth_l1", "cosine" or "cross_entropy": the tokenizer's reconstruction loss (paper Table 3)
    categorical: bool = False  # the value is a map of class ids; channels is then the width of the class embedding
    resample: str = "nearest"  # how a crop is resized: "nearest" (no mixing across edges) or "linear"
    feature_map: bool = False  # one vector a cell instead of pixels: the tokenizer has no patch projection
    normalization: str = "fixed"  # "fixed": mean and std below; "fit": measured on the training set a channel
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    image: bool = False  # the value is uint8 (H, W, 3), sRGB: networks that read images can judge it
    error_unit: str = ""  # of :meth:`error_map`
    crop_scale: tuple[float, float] = (0.8, 1.0)  # of the tokenizer's training crops, as area (paper Table 3)
    generation: GenerationDefaults = GenerationDefaults()

    def tensor(self, value: np.ndarray) -> np.ndarray:
        """What the tokenizer sees before normalization: float32 (C, H, W), or int64 (H, W) if categorical."""
        if self.categorical:
            return value.astype(np.int64)
        return np.ascontiguousarray(value.reshape(*value.shape[:2], -1).transpose(2, 0, 1), dtype=np.float32)

    def value(self, tensor: np.ndarray) -> np.ndarray:
        """The value from what the tokenizer gives back, un-normalized: the inverse of :meth:`tensor`."""
        if self.categorical:
            return tensor.astype(np.uint8 if tensor.max(initial=0) < 256 else np.int32)
        return tensor.transpose(1, 2, 0).astype(np.float32)

    def from_form(self, value: Any, form: str, palette: Palette = ()) -> np.ndarray:
        """The checked value, in the modality's own form, of what users have in one of ``forms``.

        A standardized value stays one. ``palette``: the colors of classes, where a form needs them. Raises
        :class:`Open4MError` for another form, and for what is no value in this one.
        """
        self.check_form(form)
        return self.convert(value)

    def to_form(self, value: np.ndarray, form: str, palette: Palette = ()) -> np.ndarray:
        """The value, given in the modality's own form, in another one: :meth:`from_form` gives it back.

        Raises :class:`Open4MError` for another form, and for a value that this one cannot hold.
        """
        self.check_form(form)
        return value

    def check_form(self, form: str) -> None:
        """Raise :class:`Open4MError`, with the forms that there are, for another one."""
        if form not in self.forms:
            raise self.error(f"no form is called {form!r}; its forms are {', '.join(self.forms)}")

    def error_map(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Where a prediction is wrong, and by how much: (H, W) float64, 0 where it is right, in ``error_unit``.

        Of classes, bool: where the class is another one. Of features, 1 - cosine similarity. Of all else, the mean
        absolute difference of the channels.
        """
        if self.categorical:
            return prediction != label
        prediction, label = prediction.astype(np.float64), label.astype(np.float64)
        if self.feature_map:
            lengths = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(label, axis=-1)
            return 1 - (prediction * label).sum(-1) / np.maximum(lengths, 1e-9)
        difference = np.abs(prediction - label)
        return difference.reshape(*difference.shape[:2], -1).mean(-1)

    def extent(self, value: np.ndarray) -> tuple[int, int] | None:
        return value.shape[:2]

    def crop(self, value: np.ndarray, crop: Crop) -> np.ndarray:
        return resample(value, crop, self.resample)

    def flip(self, value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value[:, ::-1])


@dataclass(frozen=True, kw_only=True)
class FeatureMap(TokenGrid):
    """A value is float32 (h, w, D): one feature vector a patch of an image, from a network's layer (paper B.1)."""

    better = {"cosine": "higher"}

    channels: int = 0  # as many as the data has
    loss: str = "smooth_l1"
    resample: str = "linear"
    feature_map: bool = True
    normalization: str = "fit"
    error_unit: str = "1 - cosine"
    crop_scale: tuple[float, float] = (0.2, 1.0)

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 3))

    def write(self, value: np.ndarray) -> bytes:
        return write_array(value.astype(np.float16))

    def convert(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim != 3 or array.size == 0 or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise self.error(f"expected a finite float feature map (h, w, D), got {array.dtype} {array.shape}")
        return array.astype(np.float32)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        return picture(principal_components(value), size, smooth=False)

    def metrics(self, predictions: SequenceOf[np.ndarray], labels: SequenceOf[np.ndarray]) -> dict[str, float]:
        """Cosine similarity of predicted and true features: the mean over cells."""
        errors = [self.error_map(p, t).mean() for p, t in zip(predictions, labels, strict=True)]
        return {"cosine": 1 - float(np.mean(errors))}

    def trivial(self, labels: SequenceOf[np.ndarray]) -> np.ndarray:
        return np.mean(labels, axis=0)


@dataclass(frozen=True, kw_only=True)
class Vector(TokenGrid):
    """One vector of a sample, float32 (C,), which stays as it is when the image is cropped.

    Its tokenizer is an MLP with one or several codebooks (:mod:`open4m.tokenizers.mlp`). A vector is drawn as a square
    of cells in raster order, a cell an entry.
    """

    better = {"mean_absolute_error": "lower"}

    channels: int = 0  # as many as the data has
    loss: str = "smooth_l1"
    normalization: str = "fit"
    error_unit: str = "absolute error"  # of an entry

    def extent(self, value: np.ndarray) -> None:
        return None

    def crop(self, value: np.ndarray, crop: Crop) -> np.ndarray:
        return value

    def can_flip(self, value: np.ndarray) -> bool:
        return False  # what a mirrored image's would be cannot be told

    def flip(self, value: np.ndarray) -> np.ndarray:
        return value

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 1))

    def write(self, value: np.ndarray) -> bytes:
        return write_array(value.astype(np.float16))

    def convert(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise self.error(f"expected a finite float vector (C,), got {array.dtype} {array.shape}")
        if self.channels and len(array) != self.channels:
            raise self.error(f"expected a vector of {self.channels} numbers, got {len(array)}")
        return array.astype(np.float32)

    def tensor(self, value: np.ndarray) -> np.ndarray:
        """What the tokenizer sees before normalization: float32 (C, 1, 1)."""
        return np.ascontiguousarray(value[:, None, None], dtype=np.float32)

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return tensor[:, 0, 0].astype(np.float32)

    def error_map(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The absolute error of each entry, as they are drawn: (side, side) float64, 0 beyond the last entry."""
        return _as_square(np.abs(prediction.astype(np.float64) - label))

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        """Entries below 0 are blue, above 0 red; the strongest color is that of the largest entry."""
        strength = _as_square(value.astype(np.float64) / max(float(np.abs(value).max()), 1e-9))[..., None]
        fades = np.where(strength > 0, [0.1, 0.8, 0.9], [0.9, 0.6, 0.1])  # of red, green and blue
        return picture((255 * (1 - np.abs(strength) * fades)).round().astype(np.uint8), size, smooth=False)

    def metrics(self, predictions: SequenceOf[np.ndarray], labels: SequenceOf[np.ndarray]) -> dict[str, float]:
        """The absolute error of an entry: the mean over entries and vectors."""
        errors = [np.abs(p.astype(np.float64) - t).mean() for p, t in zip(predictions, labels, strict=True)]
        return {"mean_absolute_error": float(np.mean(errors))}

    def trivial(self, labels: SequenceOf[np.ndarray]) -> np.ndarray:
        return np.mean(labels, axis=0)


@dataclass(frozen=True, kw_only=True)
class GlobalFeature(Vector):
    """A network's one feature of a whole image. What it says is its direction: its tokens do not keep its length."""

    better = {"cosine": "higher"}

    loss: str = "cosine"
    normalization: str = "fixed"  # not at all: the direction from 0 is what counts
    error_unit: str = "absolute error of unit vectors"

    def convert(self, value: Any) -> np.ndarray:
        array = super().convert(value)
        if not array.any():
            raise self.error("expected a feature that has a direction, got zeros")
        return array

    def error_map(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The absolute error of each entry of the vectors, scaled to unit length, as they are drawn."""
        return super().error_map(_unit(prediction), _unit(label))

    def metrics(self, predictions: SequenceOf[np.ndarray], labels: SequenceOf[np.ndarray]) -> dict[str, float]:
        """Cosine similarity of predicted and true features: the mean over vectors."""
        return {"cosine": float(np.mean([_unit(p) @ _unit(t) for p, t in zip(predictions, labels, strict=True)]))}

    def trivial(self, labels: SequenceOf[np.ndarray]) -> np.ndarray:
        """The mean direction, which has the highest mean cosine."""
        return np.mean([_unit(label) for label in labels], axis=0).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Sequence(Modality):
    """A sequence of word pieces of the text tokenizer that all sequences share (paper B.2)."""

    generation: GenerationDefaults = GenerationDefaults(scheme="left_to_right", steps=0, top_p=0.9)

    def encode(self, value: Value, text: TextTokenizer, max_length: int = 256) -> list[int]:
        """At most ``max_length`` token ids that end with [EOS]; what does not fit is left out."""
        raise NotImplementedError

    def decode(self, ids: SequenceOf[int], text: TextTokenizer) -> Value:
        """The value of token ids, read up to the first [EOS]; never raises for ids of the vocabulary."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class VectorSequence(Modality):
    """A sequence of vectors, such as a text encoder's: (L, C) float. Input only: nothing predicts them."""

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, ndim=2))

    def write(self, value: np.ndarray) -> bytes:
        return write_array(value.astype(np.float16))

    def convert(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise self.error(f"expected finite float vectors (L, C), got {array.dtype} {array.shape}")
        return array.astype(np.float32)

    def can_flip(self, value: np.ndarray) -> bool:
        return False  # what they say of left and right cannot be told

    def vectors(self, value: Any, channels: int, max_length: int) -> np.ndarray:
        """What the model reads: at most ``max_length`` vectors of ``channels``, float32 (L, C)."""
        array = self.convert(value)
        if array.shape[1] != channels:
            raise self.error(f"expected vectors of {channels} channels, got {array.shape[1]}")
        return array[:max_length]

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        """A row of color a vector: the first principal components."""
        return picture(principal_components(value[:, None] if len(value) else np.zeros((1, 1, 1))), size, smooth=False)


# ---- shared by modality files


IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def decode_image(data: bytes, name: str, max_pixels: int = 1 << 26) -> Image.Image:
    """A PIL image from a file's bytes; its size is checked before its pixels are decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > max_pixels:
            raise Open4MError(f"{name}: image of {image.width}x{image.height} pixels, at most {max_pixels} are read")
        image.load()
    except UnidentifiedImageError:
        raise Open4MError(f"{name}: not a readable image (formats: {', '.join(IMAGE_FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Open4MError(f"{name}: not a readable image ({error})") from error
    return image


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of a uint8 or uint16 array (H, W) or (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def load_array(data: bytes, name: str) -> np.ndarray:
    """An array from ``.npy`` bytes; pickled objects are refused."""
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (
        ValueError, TypeError, IndexError, OverflowError, RecursionError, SyntaxError, tokenize.TokenError, OSError,
        EOFError, MemoryError,
    ) as error:  # fmt: skip
        raise Open4MError(f"{name}: not a readable .npy array ({error})") from error


def read_array(data: bytes, name: str, ndim: int) -> np.ndarray:
    """A float array from ``.npy`` bytes."""
    array = load_array(data, name)
    if array.ndim != ndim or array.dtype.kind != "f":
        raise Open4MError(f"{name}: expected a float array of {ndim} dimensions, got {array.dtype} {array.shape}")
    return array


def write_array(array: np.ndarray) -> bytes:
    """``.npy`` bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def resample(array: np.ndarray, crop: Crop, how: str) -> np.ndarray:
    """A region of an array (H, W) or (H, W, C), resized to ``crop.size``; rows are sampled at pixel centers."""
    height, width = array.shape[:2]
    ys = (crop.top + crop.height * (np.arange(crop.size[0]) + 0.5) / crop.size[0]) * height
    xs = (crop.left + crop.width * (np.arange(crop.size[1]) + 0.5) / crop.size[1]) * width
    if how == "nearest":
        rows = np.clip(ys.astype(int), 0, height - 1)
        columns = np.clip(xs.astype(int), 0, width - 1)
        return np.ascontiguousarray(array[rows][:, columns])
    out = np.einsum("yi,ij...->yj...", _linear_weights(ys, height), array.astype(np.float32))
    return np.ascontiguousarray(np.einsum("xj,yj...->yx...", _linear_weights(xs, width), out))


def _linear_weights(centers: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation as a matrix (out, in); widened to a box-like tent when it shrinks (anti-aliasing)."""
    step = (centers[-1] - centers[0]) / max(len(centers) - 1, 1)
    support = max(1.0, abs(step))
    weights = np.maximum(0, 1 - np.abs(centers[:, None] - 0.5 - np.arange(size)[None]) / support)
    weights = np.where(
        weights.sum(1, keepdims=True) > 0, weights, np.eye(size)[np.clip(centers.astype(int), 0, size - 1)]
    )
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _as_square(entries: np.ndarray) -> np.ndarray:
    """A vector's entries (C,) in the rows of the smallest square that holds them, filled up with zeros."""
    side = math.isqrt(len(entries) - 1) + 1
    return np.pad(entries, (0, side**2 - len(entries))).reshape(side, side)


def _unit(vector: np.ndarray) -> np.ndarray:
    """The float64 vector of length 1 in its direction."""
    vector = vector.astype(np.float64)
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def picture(array: np.ndarray, size: int, smooth: bool = True) -> Image.Image:
    """A PIL image, ``size`` × ``size``, of a uint8 array (H, W) or (H, W, 3)."""
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(array).convert("RGB").resize((size, size), method)


def principal_components(features: np.ndarray) -> np.ndarray:
    """The first three principal components of a (h, w, D) map as uint8 RGB (h, w, 3) (paper B.1)."""
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    _, _, basis = np.linalg.svd(flat, full_matrices=False)
    basis = basis[:3] * np.sign(basis[:3].sum(1, keepdims=True) + 1e-12)  # a stable choice of sign
    projected = flat @ basis.T
    low, high = projected.min(0), projected.max(0)
    scaled = (projected - low) / np.maximum(high - low, 1e-9)
    rgb = np.zeros((len(flat), 3))
    rgb[:, : scaled.shape[1]] = scaled
    return (rgb * 255).round().astype(np.uint8).reshape(*features.shape[:2], 3)


def augment(sample: Mapping[str, Value], by_name: Mapping[str, Modality], crop: Crop, flip: bool) -> dict[str, Value]:
    """One crop, and one flip if every value stays true under it, applied to all values of a sample alike.

    ``by_name`` holds the modalities of the sample's values.
    """
    flip = flip and all(by_name[name].can_flip(value) for name, value in sample.items())
    cropped = {name: by_name[name].crop(value, crop) for name, value in sample.items()}
    return {name: by_name[name].flip(value) for name, value in cropped.items()} if flip else cropped


def centered(sample: Mapping[str, Value], by_name: Mapping[str, Modality]) -> dict[str, Value]:
    """The sample as its central square shows it: values that tell positions, like boxes, follow the image's crop.

    Images and maps are left as they are: :meth:`Modality.fit` crops and resizes them in one step.
    """
    extents = {name: by_name[name].extent(value) for name, value in sample.items()}
    known = [extent for extent in extents.values() if extent is not None]
    if not known:
        return dict(sample)
    crop = Crop.center(*max(known), 1)
    return {n: v if extents[n] else by_name[n].crop(v, crop) for n, v in sample.items()}
