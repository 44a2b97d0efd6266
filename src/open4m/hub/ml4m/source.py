"""What an import keeps of a public file besides what is used, so that an export is that file again, to the byte.

``source.json`` in the folder of an imported model or tokenizer says where it is from, under which license, with which
settings, and the type of each tensor. ``source.safetensors`` holds the tensors that do not follow from the imported
weights: those without effect, and tables that are computed here. Both are for exports only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open4m import checksums, weights
from open4m import config as configs
from open4m.hub.ml4m import files
from open4m.types import Open4MError

FILE, KEPT, TEXT = "source.json", "source.safetensors", "source.text.json"
"""Where this is kept; the last one is the authors' file of a text tokenizer."""

FORMAT = 1
"""The version of ``source.json``."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """``name``: of the repository or folder. ``settings``: of the public file. ``types``: by its tensors. ``header``:
    the strings in the file's header. ``equal``: tensors that are the same as another one, which is stored.
    ``weights``: the fingerprint of the imported tensors, for which alone the rest holds."""

    name: str
    license: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)
    equal: dict[str, str] = field(default_factory=dict)
    weights: str = ""


def write(folder: Path, public: Path, name: str, license: str, made: Mapping[str, Tensor]) -> None:
    """Write both files into the folder of what was imported from ``public``, a directory or file of the authors.

    ``made``: all tensors that the import would be exported as, in float32.
    """
    types, kept, equal, seen = {}, {}, {}, {}
    with files.opened(public) as file:
        header = dict(file.metadata() or {})
        for tensor_name in file.keys():  # noqa: SIM118 - a file is no mapping
            stored = file.get_tensor(tensor_name)
            types[tensor_name] = str(stored.dtype).removeprefix("torch.")
            own = made.get(tensor_name)
            if own is not None and own.shape == stored.shape and _bytes(own.to(stored.dtype)) == _bytes(stored):
                continue
            digest = (types[tensor_name], tuple(stored.shape), hashlib.sha256(_bytes(stored)).digest())
            if digest in seen:
                equal[tensor_name] = seen[digest]
            else:
                kept[tensor_name], seen[digest] = stored, tensor_name
    source = Source(
        name=name,
        license=license,
        settings=files.read_settings(public),
        types=types,
        header={key: value for key, value in header.items() if key != "format"},
        equal=equal,
        weights=weights.fingerprint(made),
    )
    configs.save(source, folder / FILE, FORMAT)
    if kept:
        weights.write_tensors(folder / KEPT, kept)
    checksums.seal(folder, [FILE, *([KEPT] if kept else [])])


def read(folder: Path) -> Source | None:
    """What is known of the origin of a folder; None if it was not imported."""
    checksums.check(folder, FILE, KEPT)
    return configs.load(Source, folder / FILE, FORMAT) if (folder / FILE).is_file() else None


def restored(folder: Path, made: Mapping[str, Tensor]) -> tuple[Source, dict[str, Tensor]] | None:
    """The public file that a folder was imported from: its origin, and its tensors in their types.

    None if it was not imported, or if its weights have changed since, which the rest is not of. ``made``: as for
    :func:`write`. Raises :class:`Open4MError` for damaged files.
    """
    source = read(folder)
    if source is None or weights.fingerprint(made) != source.weights:
        return None
    kept = weights.read_tensors(folder / KEPT) if (folder / KEPT).is_file() else {}
    tensors = {}
    for name, kind in source.types.items():
        dtype = getattr(torch, kind, None)
        stored = kept.get(source.equal.get(name, name), made.get(name))
        if stored is None or not isinstance(dtype, torch.dtype):
            raise Open4MError(
                f"{folder / FILE}: tensor {name} of type {kind} is neither kept nor made; import it again"
            )
        tensors[name] = stored.to(dtype).clone()
    return source, tensors


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
