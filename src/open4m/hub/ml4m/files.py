"""The file format in which the authors of 4M publish: settings and tensors. Nothing in their files is executed."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4m import files
from open4m.types import Open4MError
from open4m.weights import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor


def read_settings(path: Path) -> dict[str, Any]:
    """The configuration of a directory or a safetensors file of the authors.

    It is ``config.json`` beside the weights, or else the strings in the header of the safetensors file, parsed as
    Python literals or JSON, never executed. Raises :class:`Open4MError` for a file that cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir() and (path / CONFIG).is_file():
        settings = files.read_json(path / CONFIG)
        if not isinstance(settings, dict):
            raise Open4MError(f"{path / CONFIG}: expected an object")
        return settings
    try:
        with safe_open(_weights_file(path), "pt") as file:
            return {name: _literal(text) for name, text in (file.metadata() or {}).items() if not is_alias(name)}
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{_weights_file(path)}: not readable as safetensors ({error})") from error


SINE_ERROR = 1e-4
"""Fixed sine-cosine tables are recognized up to this difference from ours, even if they are stored in float32."""


@dataclass(frozen=True)
class Stored:
    """The ``tensors`` of a file of the authors, in float32.

    ``rounding``: for each tensor, by how much storing it in its type may have changed numbers of about 1.
    ``repeated``: names that the header declares to be aliases, and the tensors of the file that they stand for.
    ``tensors`` contains the aliases too.
    """

    tensors: dict[str, Tensor]
    rounding: dict[str, float]
    repeated: dict[str, str]


def read_tensors(path: Path) -> Stored:
    """All tensors of a directory or a safetensors file. Raises :class:`Open4MError` if any is not finite."""
    import torch
    from safetensors import SafetensorError, safe_open

    weights = _weights_file(path)
    try:
        with safe_open(weights, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file is no mapping
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{weights}: not readable as safetensors ({error})") from error
    repeated = {n: source for n, source in header.items() if is_alias(n) and n not in found and source in found}
    tensors = {name: tensor.float() for name, tensor in found.items()}
    if broken := sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all()):
        raise Open4MError(f"{weights}: expected finite numbers, got NaN or infinite ones in {', '.join(broken)}")
    rounding = {
        name: max(SINE_ERROR, torch.finfo(tensor.dtype).eps / 2) if tensor.is_floating_point() else 0.0
        for name, tensor in found.items()
    }
    for name, source in repeated.items():
        tensors[name], rounding[name] = tensors[source], rounding[source]
    return Stored(tensors, rounding, repeated)


def is_alias(name: str) -> bool:
    """Whether an entry of a header is the alias of a tensor, rather than a setting: only tensors' names have dots."""
    return "." in name


def _weights_file(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path


def _literal(text: str) -> Any:
    for read in (ast.literal_eval, lambda text: files.parse_json(text, CONFIG)):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, Open4MError):
            continue
    return text
