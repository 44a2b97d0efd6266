"""Weights at rest: safetensors files that are read strictly, and fingerprints of what is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4m import config as configs
from open4m import files
from open4m.types import Open4MError

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module

CONFIG, WEIGHTS, CARD, TOKENIZERS = "config.json", "model.safetensors", "README.md", "tokenizers"
"""The files of a model directory, and the folder of its tokenizers."""

MODALITIES = "modalities"
"""The folder of a model directory with the files of users' modalities."""


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must have the names and shapes of ``expected``.

    Raises :class:`Open4MError` that lists the tensors that are missing, unexpected or of another shape.
    """
    return checked(path, read_tensors(path), expected)


def checked(path: Path, tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors of a file, if they have the names and shapes of ``expected``; an error if not."""
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise Open4MError(
            f"{path}: other tensors than the configuration says; missing: {', '.join(missing) or 'none'}; "
            f"unexpected: {', '.join(unexpected) or 'none'}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise Open4MError(f"{path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
    return tensors


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise :class:`Open4MError` for numbers that are not finite: such a network gives the same for everything."""
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise Open4MError(
            f"{path}: {len(wrong)} of {len(tensors)} tensors hold numbers that are not finite, {wrong[0]} first: the "
            "training of this network went wrong, or its file is damaged; take other weights"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises :class:`Open4MError` if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files.check_regular(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise Open4MError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{path}: not readable as safetensors ({error})") from error


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors of a safetensors file, from its header. Raises as :func:`read_tensors`."""
    from safetensors import SafetensorError, safe_open

    files.check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except FileNotFoundError:
        raise Open4MError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{path}: not readable as safetensors ({error})") from error


def load_weights(path: Path, model: Module) -> None:
    """Load a safetensors file into a module, strictly; half-precision tensors are widened to the module's type."""
    model.load_state_dict(read_weights(path, model.state_dict()))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], floats: dtype | None = None, header: Mapping[str, str] | None = None
) -> None:
    """Write tensors atomically as a safetensors file that everybody may read. ``floats``: the type of floating-point
    tensors at rest; None keeps each one's own. ``header``: strings in its header.

    Raises :class:`Open4MError` if the file cannot be written, such as on a full disk; what was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    stored = {
        name: (tensor.to(floats) if floats is not None and tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in tensors.items()
    }

    def write(temporary: Path) -> None:
        save_file(stored, temporary, metadata={"format": "pt", **(header or {})})
        temporary.chmod(0o644)  # safetensors writes files that only their owner may read

    try:
        files.write_file(path, write)
    except SafetensorError as error:
        raise Open4MError(f"{path}: cannot be written ({error})") from error


def save_weights(path: Path, model: Module, half: bool = False) -> None:
    """Write a module's tensors; ``half``: floats as bfloat16, to ship them."""
    import torch

    write_tensors(path, model.state_dict(), torch.bfloat16 if half else None)


def fingerprint(tensors: Mapping[str, Tensor], about: Any = None) -> str:
    """16 hexadecimal digits that change whenever a tensor's name, shape or value does, or ``about``: JSON values or
    configurations.

    Floating-point values are hashed as float32, so that the same values at rest in another type are the same.
    """
    digest = hashlib.sha256(configs.fingerprint(about).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous()
        digest.update((values.float() if values.is_floating_point() else values).numpy().tobytes())
    return digest.hexdigest()[:16]
