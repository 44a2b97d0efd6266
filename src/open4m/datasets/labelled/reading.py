"""How files of labelled data sets are read; errors name the file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags

from open4m import files
from open4m.datasets.layouts.base import IMAGE_SUFFIXES, share_of, suffix_of
from open4m.datasets.layouts.base import photo as photo_modality
from open4m.modalities.codecs import decode_image, is_turned, load_array, upright
from open4m.types import Open4MError, shown

EXTRA = "pip install 'open4m[transfer]'"


VALIDATION = 0.1
"""The share of images that are for validation where the data do not say which."""


def lent(split: str) -> Callable[[str], bool]:
    """Whether an image, by its name, is of the split ``train`` or ``validation`` of data without one for validation: a
    hash of the name decides, so that it stays what it is when others come or go."""
    return lambda name: (share_of(f"split:{name}") < VALIDATION) == (split == "validation")


class Names(Sequence[str]):
    """Names of files, one after another in memory: millions of them take little more than their letters."""

    def __init__(self, names: Iterable[str]) -> None:
        letters = bytearray()

        def ends() -> Iterator[int]:
            for name in names:
                letters.extend(os.fsencode(name))
                yield len(letters)

        self._ends = np.fromiter(ends(), np.int64)
        self._letters = letters

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(bytes(self._letters[start : self._ends[index]]))


def images_in(folder: Path) -> list[str]:
    """The names of the images directly in a folder, sorted. Raises :class:`Open4MError` for one that is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if suffix_of(e.name) in IMAGE_SUFFIXES and e.name[0] != ".")
    except OSError as error:
        raise Open4MError(f"{folder}: expected a folder of images ({error.strerror})") from error


def folders_in(folder: Path) -> list[str]:
    """The names of the folders directly in a folder, sorted, without hidden ones; [] if it is not there."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())


def photo(path: Path, labelled: tuple[int, int] | None = None) -> np.ndarray:
    """The picture in a file, (H, W, 3) uint8, as its EXIF data ask to show it.

    ``labelled``: the height and width of its labels. If those are of the picture as it is stored and not as it is
    shown, then it is left as it is stored.
    """
    image = decode_image(files.read_bytes(path), str(path))
    if labelled is not None and is_turned(image) and image.size[::-1] == labelled != upright(image).size[::-1]:
        image.getexif()[ExifTags.Base.Orientation] = 1
    try:
        return photo_modality().convert(image)
    except Open4MError as error:
        raise Open4MError(f"{path}: {error}") from error


def numbers(path: Path) -> np.ndarray:
    """The numbers in the pixels of an image, (H, W) or (H, W, C), as they are stored; of a palette, the indices."""
    return np.asarray(decode_image(files.read_bytes(path), str(path)))


def plane(path: Path) -> np.ndarray:
    """The numbers in the pixels of an image with one of them per pixel, (H, W)."""
    found = numbers(path)
    if found.ndim != 2:
        raise Open4MError(f"{path}: expected one number per pixel, got {found.shape[2]}: a picture in colors")
    return found


def array(path: Path, channels: int = 1) -> np.ndarray:
    """The numbers (H, W), or (H, W, C) with more than one of ``channels``, in a ``.npy`` file."""
    found = load_array(files.read_bytes(path), str(path))
    if channels == 1 and found.ndim == 3 and found.shape[2] == 1:
        found = found[..., 0]
    if found.dtype.kind not in "biuf" or found.shape[2:] != (channels,)[: channels > 1] or found.ndim < 2:
        expected = "(H, W)" if channels == 1 else f"(H, W, {channels})"
        raise Open4MError(f"{path}: expected numbers {expected}, got {found.dtype} {found.shape}")
    return found


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading. Raises :class:`Open4MError`, which names the file, for what cannot be read in
    it, and without the library."""
    try:
        import h5py
    except ImportError as error:
        raise Open4MError(f"{path}: HDF5 files need h5py ({error}); install it: {EXTRA}") from error
    if not path.is_file():
        raise Open4MError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise Open4MError(f"{path}: not readable as the HDF5 file that was expected ({error})") from error


def stored(file: Any, name: str, ndim: int, kinds: str, row: int | None = None) -> np.ndarray:
    """The numbers of ``ndim`` dimensions under a name of an open HDF5 file, or what an array of such numbers holds in a
    row. ``kinds``: of NumPy's types, those that they may be.

    Raises ValueError, which :func:`hdf5` turns into an error of the file, for all else. Sizes are checked before memory
    is taken: a small file may claim to hold any number.
    """
    found, where = file[name], name if row is None else f"{name}[{row}]"
    rows = () if row is None else found.shape[:1]
    if not found.shape or len(found.shape) != ndim + len(rows) or 0 in found.shape or found.dtype.kind not in kinds:
        raise ValueError(f"{where}: expected {ndim} dimensions of numbers, got {found.dtype} {found.shape}")
    if rows and not 0 <= row < rows[0]:
        raise ValueError(f"{where}: there are {rows[0]}")
    for shape in (found.shape[len(rows) :], found.chunks or ()):  # a chunk is read whole
        if math.prod(shape) * found.dtype.itemsize > files.LARGEST_INPUT:
            raise ValueError(f"{where}: {found.dtype} {shape}, but at most {files.LARGEST_INPUT} bytes are read")
    return found[()] if row is None else found[row]


def table(path: Path, name: str) -> np.ndarray:
    """The array of a name in a MATLAB file of version 5. Raises :class:`Open4MError` if there is none."""
    from scipy.io import loadmat

    files.check_regular(path)
    try:
        return np.asarray(loadmat(path, variable_names=[name])[name])  # of a sparse one, an array of one object
    except Exception as error:  # damaged files raise almost anything
        raise Open4MError(f"{path}: expected a MATLAB file with {name} in it ({error})") from error


def numbered(path: Path, name: str, most: int) -> np.ndarray:
    """The whole numbers (n,) int64 from 1 to ``most`` of a name in a MATLAB file, which stores them as it likes."""
    found = table(path, name).ravel()
    if not (
        found.size and found.dtype.kind in "iuf" and ((found >= 1) & (found <= most) & (found == np.floor(found))).all()
    ):
        raise Open4MError(f"{path}: {name}: expected whole numbers from 1 to {most}, got {shown(found.tolist())}")
    return found.astype(np.int64)


def meters(depth: np.ndarray, valid: np.ndarray | bool = True) -> np.ndarray:
    """Depths, float32, NaN where they are not ``valid``, finite and above 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        depth = depth.astype(np.float32)
        return np.where(valid & np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def directions(vectors: np.ndarray) -> np.ndarray:
    """Normals (H, W, 3), float32, scaled to length 1; NaN where their length is less than a half: nothing is known."""
    vectors = vectors.astype(np.float32)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    known = length > 0.5  # False for NaN
    return np.where(known, vectors / np.where(known, length, 1), np.float32(np.nan))
