"""The file format in which the authors of 4M publish: settings and tensors. Nothing in their files is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
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
    if path.is_dir() and (path / CONFIG).is_file():
        settings = files.read_json(path / CONFIG, files.LARGEST_CONFIG)
        if not isinstance(settings, dict):
            raise Open4MError(f"{path / CONFIG}: expected an object")
        return settings
    with opened(path) as file:
        return {name: _literal(text) for name, text in (file.metadata() or {}).items() if not is_alias(name)}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The weights of a directory, or a safetensors file, open. Raises :class:`Open4MError` if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    weights = path / WEIGHTS if path.is_dir() else path
    try:
        with safe_open(weights, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{weights}: not readable as safetensors ({error})") from error


@contextmanager
def untrusted(path: Path) -> Iterator[None]:
    """Turn what shapes and sizes that contradict one another break into an :class:`Open4MError` that names the file."""
    try:
        yield
    except Open4MError as error:
        raise error if str(path) in str(error) else Open4MError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError) as error:
        raise Open4MError(f"{path}: settings and tensors do not fit together ({error!r})") from error
    except RuntimeError as error:  # of torch, for impossible sizes and too little memory
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Open4MError(f"{path}: settings and tensors do not fit together ({reason})") from error


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

    weights = path / WEIGHTS if path.is_dir() else path
    with opened(path) as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file is no mapping
        header = file.metadata() or {}
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


LONGEST_SETTING = 1 << 14
"""Characters of a setting in a header. Python's parser takes gigabytes for a longer one that is made to be deep."""


def _literal(text: str) -> Any:
    if len(text) > LONGEST_SETTING:
        return text
    for read in (ast.literal_eval, lambda text: files.parse_json(text, CONFIG)):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, Open4MError):
            continue
    return text
