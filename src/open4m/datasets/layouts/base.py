"""What one layout provides, and what layouts share: keys, splits, and which file is which modality.

A layout is one file in this folder that defines ``LAYOUT``, a subclass of :class:`Layout`. It lists the parts of all
samples, in any order and one by one, so that memory does not grow with the data; parts of one sample find each other by
its name (:mod:`open4m.data.index`). Then it reads samples, one at a time, in any process.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Self

from open4m import files, modalities
from open4m.datasets.captions import FIELD
from open4m.datasets.classes import Classes
from open4m.datasets.source import Source
from open4m.modalities.families import Modality
from open4m.types import Open4MError, Value, shown

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TEXT_SUFFIXES = (".txt", ".json")
SPLITS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "tst"),
}
"""What the splits of others are called. Ours are the keys: folders that trainings and evaluations look for."""

LONGEST_KEY = 100
CAPTION_FIELDS = (FIELD, "captions", "text", "texts", "txt", "sentence", "sentences", "description", "prompt", "title")
"""What the fields and columns of captions are called, the likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user says of a source.

    ``where``: the place of a modality, by its name. A subfolder, ``"depth_maps"``; a pattern in which ``*`` stands for
    the sample, ``"*_depth.png"``, ``"maps/*.png"`` or in tars ``"*.depth.png"``; or a column, ``"captions.csv:text"``,
    ``"text"``. ``captions``: of a sample with several, the ``"first"``, or all of them, ``"join"``ed by blanks.
    """

    where: Mapping[str, str] = field(default_factory=dict)
    captions: str = "first"

    def __post_init__(self) -> None:
        for name in self.where:
            modalities.get(name)
        if self.captions not in ("first", "join"):
            raise Open4MError(f"captions: expected first or join, got {self.captions!r}")

    def text(self, texts: Iterable[Any], where: str) -> str | None:
        """One caption of several. Raises :class:`Open4MError` for what is no text."""
        found = [text for text in texts if text is not None]
        if wrong := [text for text in found if not isinstance(text, str)]:
            raise Open4MError(f"{where}: expected a caption, got {shown(wrong[0])}")
        found = [" ".join(text.split()) for text in found if text.strip()]
        if not found:
            return None
        return found[0] if self.captions == "first" else " ".join(found)


class Part(NamedTuple):
    """One modality of one sample.

    ``sample`` is the sample's name in the source, like a path without its ending. ``place`` is what :meth:`Layout.read`
    needs to find it: anything that JSON holds. ``order``: of several places of one modality, such as an image's boxes;
    two of the same number are an error of the data. ``size``: bytes, where the listing says so. ``split``: the layout's
    own, "" if it has none.
    """

    sample: str
    modality: str
    place: Any
    order: int = 0
    size: int | None = None
    split: str = ""


class Link(NamedTuple):
    """Where a sample lies in a tar of the source: the tar, its key there, and the endings of its members by
    modality."""

    file: str
    key: str
    endings: Mapping[str, str]


@dataclass(frozen=True)
class Layout(ABC):
    """A source that is laid out in one way. Subclasses are frozen dataclasses, so that other processes get them; what a
    process opens is a ``functools.cached_property``.

    ``general``: it fits much, and is taken where no other layout fits. ``packed``: many samples lie in one file, so
    that they are read in the order in which they are listed.
    """

    name: ClassVar[str]
    general: ClassVar[bool] = False
    packed: ClassVar[bool] = False

    source: Source
    wanted: Wanted

    @classmethod
    @abstractmethod
    def fits(cls, source: Source, wanted: Wanted) -> bool:
        """Whether a source looks as if it were laid out in this way. Reads little of it."""

    @classmethod
    def of(cls, source: Source, wanted: Wanted) -> Self:
        """The layout of a source. Raises :class:`Open4MError` for one that is laid out in another way."""
        return cls(source, wanted)

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """All parts of all samples."""

    @abstractmethod
    def read(self, places: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, bytes | Value | None]:
        """The modalities ``names`` of a sample whose parts have these places, in order.

        Bytes are a file's content, in the form that the user names; other values are in the modality's own form; None:
        the sample lacks the modality. Raises :class:`Open4MError` if it cannot be read.
        """

    def classes(self) -> Mapping[str, Classes]:
        """The classes that the source names, by modality."""
        return {}

    def extent(self, places: Mapping[str, Sequence[Any]]) -> tuple[int, int] | None:
        """Height and width of the image that the source's positions, such as boxes, are relative to; None: as shown."""
        return None

    def link(self, places: Mapping[str, Sequence[Any]], sample: str) -> Link | None:
        """Where the sample lies in a tar that could be a raw shard as it is; None: in no tar."""
        return None

    def ignored(self) -> Mapping[str, int]:
        """How many files were passed over, by their ending, once all parts were listed."""
        return {}

    def hints(self) -> Sequence[str]:
        """What may be other than the layout takes it for, and what to do about it, once all parts were listed."""
        return ()

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # without the cached properties


# ---- keys and splits


def key_of(sample: str) -> str:
    """A key for a sample's name: legal in shards, unique, and a function of the name alone.

    Of a name that is no legal key, such as one with folders, it ends in a part of its hash: ``cats/01`` becomes
    ``cats_01-b8a4c6f2``.
    """
    legal = re.sub(r"[/.\s]", "_", "".join(c if c.isprintable() else "_" for c in sample))
    if legal == sample and len(sample.encode("utf-8", "surrogatepass")) <= LONGEST_KEY:
        return sample
    digest = hashlib.sha256(sample.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = legal.encode("utf-8", "replace")[-LONGEST_KEY + 9 :].decode("utf-8", "ignore")
    return f"{kept.lstrip('_') or 'sample'}-{digest}"


def share_of(text: str) -> float:
    """A number in [0, 1) that a text determines, as if it were drawn at random."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6]) / (1 << 48)


def split_of(word: str) -> str:
    """The split that a folder's or file's name says, "" for none: ``train``, ``val2017``, ``validation-00000``."""
    first = re.match(r"[A-Za-z]+", word)
    return next((split for split, words in SPLITS.items() if first and first[0].lower() in words), "")


def split_in(name: str) -> str:
    """The split that one of the words of a name says: ``imagenet21k_train``, ``my-valid-set``."""
    return next((split for word in re.findall("[A-Za-z]+", name) if (split := split_of(word))), "")


def split_among(path: str) -> str:
    """The split that one of a path's folders says."""
    return next((split for word in path.split("/")[:-1] if (split := split_of(word))), "")


# ---- which file is which modality


def suffix_of(path: str) -> str:
    """The ending of a path behind its last dot, in lower case: ``.jpg``; "" without one."""
    name = path.rpartition("/")[2]
    return name[name.rfind(".") :].lower() if "." in name[1:] else ""


def photo() -> Modality:
    """The modality of the images that all else belongs to."""
    return modalities.of_role("photo")


def text() -> Modality:
    """The modality of captions."""
    return modalities.of_role("text")


def takes(modality: Modality, suffix: str) -> bool:
    """Whether files of this ending may hold a modality."""
    if modality.is_text:
        return suffix in TEXT_SUFFIXES
    if modality.family.is_sequence:
        return suffix == f".{modality.extension.rpartition('.')[2]}"
    return suffix == ".npy" or suffix in IMAGE_SUFFIXES


def called(word: str) -> Modality | None:
    """The modality that a folder, a column or an ending of this name holds; None if the name says none."""
    word = word.lower()
    for name in modalities.names():
        modality = modalities.get(name)
        if modality.source is None and word in (name, *modality.aliases):
            return modality
    return None


def caption_of(data: bytes, suffix: str, where: str, strict: bool = True) -> Any:
    """What a caption's file holds: the text, or in JSON the field that is called so; a list of texts if there are
    several. Raises :class:`Open4MError` for a file that holds none; None instead if that is not to be ``strict``."""
    if suffix != ".json":
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Open4MError(f"{where}: not UTF-8 text ({error.reason}): save it as UTF-8") from error
    found = files.parse_json(data, where)
    if isinstance(found, Mapping):
        name = next((name for name in CAPTION_FIELDS if name in found), None)
        if name is None and not strict:
            return None
        if name is None:
            raise Open4MError(f"{where}: expected a caption in one of {', '.join(CAPTION_FIELDS)}, got {shown(found)}")
        found = found[name]
    return found


def texts_of(found: Any) -> list[Any]:
    """The texts in a text, a list of texts, or nothing."""
    return list(found) if isinstance(found, list | tuple) else [found]
