"""The registry of modalities: the file's name is the modality's name. ``families.py`` says what a file provides.

Names are resolved where a request, a job or a data set enters; inside, :class:`Modality` objects travel.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from open4m import programs
from open4m.types import Open4MError, shown

if TYPE_CHECKING:
    from open4m.modalities.families import Modality

_KEY = re.compile(r"\w+(@\w+)?")
_LONGEST_KEY = 200
"""Bytes of a key, at most: it is a folder's name."""

SHARED_FILES = (
    "__init__",
    "carried",
    "codecs",
    "crops",
    "edge_maps",
    "families",
    "features",
    "frames",
    "given",
    "skeleton",
    "symbols",
    "traits",
)
"""The files of this folder that are no modalities, but what modalities are made of. Users' folders have none."""

FOLDERS_VARIABLE = "OPEN4M_MODALITIES"
"""The environment variable that names the user's folders of modalities, separated as in ``PATH``."""


def files() -> Mapping[str, Path]:
    """The modality files by name: this folder's, then those of the folders in ``OPEN4M_MODALITIES``.

    The folders are listed once for each value of the variable, so that looking a name up touches no disk. Raises
    :class:`Open4MError` for a folder that does not exist and for a name that is defined twice.
    """
    return _files(os.environ.get(FOLDERS_VARIABLE, ""))


@cache
def _files(user_folders: str) -> Mapping[str, Path]:
    own = Path(__file__).parent
    folders = [own, *(Path(f) for f in user_folders.split(os.pathsep) if f)]
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise Open4MError(f"{FOLDERS_VARIABLE} names {folder}, which is not a folder")
        for path in sorted(folder.glob("*.py")):
            if folder == own and path.stem in SHARED_FILES:
                continue
            if path.stem in found:
                raise Open4MError(f"modality {path.stem} is defined twice: {found[path.stem]} and {path}")
            found[path.stem] = path
    return MappingProxyType(found)


_registered: dict[str, Modality] = {}
"""Modalities that this process was given, besides those that have a file in a folder."""

_carried: dict[str, str] = {}
"""The text of the file that each of these was made by, if there was one."""


def register(modality: Modality) -> Modality:
    """Make a modality known in this process, as a file of its name does everywhere; returns it. For notebooks.

    >>> edges = modalities.register(Edges(name="edges", ...))

    Registering its name again replaces it. Other processes do not know it, nor does a model directory carry it: write a
    file (``docs/new_modality.md``) once it is to be trained or shared. Raises :class:`Open4MError` for what is no
    modality, and for the name of a file.
    """
    name = getattr(modality, "name", None)
    if not (hasattr(modality, "family") and isinstance(name, str) and re.fullmatch(r"[^\W\d]\w*", name)):
        raise Open4MError(f"expected an instance of a family with a name like 'edges', got {shown(modality)}")
    if name in files():
        raise Open4MError(f"modality {name} is defined by {files()[name]}: choose another name")
    _registered[name] = modality
    _carried.pop(name, None)
    return modality


def register_file(path: Path) -> Modality:
    """:func:`register` the modality of a file, which is run. Raises :class:`Open4MError` if it defines none."""
    modality = register(_load(path.stem, path))
    _carried[modality.name] = path.read_text("utf-8")
    return modality


def text_of(name: str) -> str | None:
    """The program that defines a known modality; None for one that has no file."""
    path = files().get(name)
    return _carried.get(name) if path is None else path.read_text("utf-8")


def is_own(name: str) -> bool:
    """Whether a modality is one of the package's, and not a user's."""
    return name in files() and files()[name].parent == Path(__file__).parent


def check_key(key: str) -> None:
    """Raise :class:`Open4MError` unless it is a name like ``rgb`` or, with a resolution, ``rgb@256``: what folders of
    data and of tokenizers are called."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or len(key.encode()) > _LONGEST_KEY:
        raise Open4MError(f"modality {shown(key)}: expected a name like 'rgb' or 'rgb@256'")


def names() -> list[str]:
    """All known modalities."""
    return sorted({*files(), *_registered})


def is_known(name: str) -> bool:
    """Whether there is a modality of this name, or of this key with a resolution, like ``rgb@256``."""
    stem = name.partition("@")[0]
    return stem in _registered or stem in files()


def get(name: str) -> Modality:
    """The modality of a name; of a key with a resolution, like ``rgb@256``, that of the part before the ``@``.

    Raises :class:`Open4MError`, with the nearest match, for an unknown name.
    """
    if not isinstance(name, str):
        raise unknown(name, names())
    stem = name.partition("@")[0]
    if stem in _registered:
        return _registered[stem]
    path = files().get(stem)
    if path is None:
        raise unknown(name, names())
    return _load(stem, path)


def of_role(role: str) -> Modality:
    """The modality that a request means where it names none: see :data:`open4m.modalities.families.ROLES`."""
    found = [modality for modality in map(get, names()) if modality.role == role]
    if len(found) != 1:
        raise Open4MError(f"expected one modality of role {role!r}, got {', '.join(m.name for m in found) or 'none'}")
    return found[0]


def unknown(name: str, allowed: list[str]) -> Open4MError:
    """The error for a modality that is not among ``allowed``, with the nearest match if there is none of that name."""
    if isinstance(name, str) and is_known(name):
        return Open4MError(f"modality {name!r} is none of those here (allowed: {', '.join(allowed)})")
    near = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Open4MError(f"unknown modality {name!r}{hint} (allowed: {', '.join(allowed)})")


@cache
def _load(name: str, path: Path) -> Modality:
    if is_own(name):
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        module = programs.run(path, f"open4m_user_modality_{name}")
    modality = getattr(module, "MODALITY", None)
    if not hasattr(modality, "family"):
        raise Open4MError(f"{path}: a modality file defines MODALITY = <an instance of a family>")
    if modality.name != name:
        raise Open4MError(f"{path}: MODALITY.name is {modality.name!r}, expected the file's name {name!r}")
    return modality
