"""Pretrained directories: where they are, and how weights are written and read.

A directory holds ``config.json``, ``model.safetensors``, ``tokenizers/`` and a model card, ``README.md``. The authors'
public checkpoints, by their names on the Hugging Face hub or downloaded, hold the first two, in their own format.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4m.types import Open4MError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

SHIPPED = Path(__file__).parent / "pretrained"
CONFIG, WEIGHTS, CARD, TOKENIZERS = "config.json", "model.safetensors", "README.md", "tokenizers"


def shipped() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(p.name for p in SHIPPED.glob("*") if (p / CONFIG).exists())


def resolve(name: str | Path) -> Path:
    """Where a model is: the name of a shipped one, a directory, a safetensors file, or a name on the hub.

    What is named ``owner/model`` and not there yet is downloaded. Raises :class:`Open4MError` that says what is
    missing.
    """
    if str(name) in shipped():
        return SHIPPED / str(name)
    path = Path(name)
    if path.is_file() and path.suffix == ".safetensors":
        return path
    if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        path = _download(str(name))
    if not path.is_dir():
        known = ", ".join(shipped()) or "none are installed"
        raise Open4MError(
            f"{name}: neither a directory, nor a safetensors file, nor a shipped model (shipped: {known}), nor a name "
            "on the hub (owner/model)"
        )
    if (path / WEIGHTS).is_file() and not (path / CONFIG).exists():
        return path / WEIGHTS  # its header may hold the configuration
    missing = [file for file in (CONFIG, WEIGHTS) if not (path / file).is_file()]
    if missing:
        raise Open4MError(f"{path}: not a model directory, it has no {' and no '.join(missing)}")
    return path


def resolve_tokenizer(name: str | Path) -> Path:
    """Where the tokenizer of a dense modality is: its folder, that of the finished training that made it, or
    ``<model>/<modality>`` of a model, shipped or not.

    >>> resolve_tokenizer("scenes/rgb")

    Raises :class:`Open4MError` that names the tokenizers that the model has.
    """
    path = Path(name)
    model, _, key = str(name).rstrip("/").rpartition("/")
    if str(name) in shipped() or (path / TOKENIZERS).is_dir():
        model, key = str(name), ""
    elif path.is_dir() or not model:
        if not (path / WEIGHTS).is_file() and (path / "model" / WEIGHTS).is_file():
            path = path / "model"
        missing = [file for file in (CONFIG, WEIGHTS) if not (path / file).is_file()]
        if missing:
            raise Open4MError(
                f"{name}: not a tokenizer, there is no {' and no '.join(missing)}; expected the folder of one, or a "
                f"model and a modality, like {next(iter(shipped()), 'model')}/rgb"
            )
        return path
    folder = resolve(model) / TOKENIZERS
    if not key or not (folder / key / CONFIG).is_file():
        known = sorted(f.parent.name for f in folder.glob(f"*/{CONFIG}"))
        raise Open4MError(
            f"{model}: has {f'no tokenizer {key!r}' if key else 'several tokenizers: name one'} (of dense modalities "
            f"it has: {', '.join(f'{model}/{k}' for k in known) or 'none'})"
        )
    return folder / key


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        patterns = [CONFIG, WEIGHTS, CARD, f"{TOKENIZERS}/*"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Open4MError(f"{name}: not a directory here, and not to be had from the hub ({reason})") from error


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must have the names and shapes of the ``expected`` ones."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise Open4MError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{path}: not readable as safetensors ({error})") from error
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


def load_weights(path: Path, model: Module) -> None:
    """Load a safetensors file into a module, strictly; half-precision files are widened to the module's type."""
    model.load_state_dict(read_weights(path, model.state_dict()))


def save_weights(path: Path, model: Module, half: bool = False) -> None:
    """Write a module's tensors; ``half``: floats as bfloat16, to ship them."""
    import torch
    from safetensors.torch import save_file

    tensors = {
        name: (tensor.to(torch.bfloat16) if half and tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder under a temporary name, then rename it: it is there whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk gets its space back
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: it is there whole, or what was there before."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# ---- the format in which the authors publish


def read_settings(path: Path) -> dict[str, Any]:
    """The configuration of a directory or a safetensors file of the authors: ``config.json`` beside the weights, or
    else the strings in the header of the safetensors file, read as Python literals or JSON. Nothing is executed."""
    from safetensors import SafetensorError, safe_open

    if path.is_dir() and (path / CONFIG).is_file():
        try:
            settings = json.loads((path / CONFIG).read_text())
        except (ValueError, RecursionError) as error:
            raise Open4MError(f"{path / CONFIG}: not readable as JSON ({error})") from error
        if not isinstance(settings, dict):
            raise Open4MError(f"{path / CONFIG}: expected an object")
        return settings
    try:
        with safe_open(_weights_file(path), "pt") as file:
            return {name: _literal(text) for name, text in (file.metadata() or {}).items() if not _is_alias(name)}
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{_weights_file(path)}: not readable as safetensors ({error})") from error


@dataclass(frozen=True)
class Stored:
    """The ``tensors`` of a file of the authors, in float32.

    ``rounding``: how far a number of about 1 may be from what was computed, by the type in which each is stored.
    ``repeated``: what the file leaves out, and the tensor that its header names for it; it is in ``tensors`` too.
    """

    tensors: dict[str, Tensor]
    rounding: dict[str, float]
    repeated: dict[str, str]


def read_tensors(path: Path) -> Stored:
    """All tensors of a directory or a safetensors file, which must be finite."""
    import torch
    from safetensors import SafetensorError, safe_open

    weights = _weights_file(path)
    try:
        with safe_open(weights, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file is no mapping
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{weights}: not readable as safetensors ({error})") from error
    repeated = {n: source for n, source in header.items() if _is_alias(n) and n not in found and source in found}
    tensors = {name: tensor.float() for name, tensor in found.items()}
    if broken := sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all()):
        raise Open4MError(f"{weights}: expected finite numbers, got NaN or infinite ones in {', '.join(broken)}")
    rounding = {
        name: max(1e-4, torch.finfo(tensor.dtype).eps / 2) if tensor.is_floating_point() else 0.0  # sines: 1e-4
        for name, tensor in found.items()
    }
    for name, source in repeated.items():
        tensors[name], rounding[name] = tensors[source], rounding[source]
    return Stored(tensors, rounding, repeated)


def _is_alias(name: str) -> bool:
    """Whether a name in a header is that of a tensor, which another one repeats, and not that of a setting."""
    return "." in name


def _weights_file(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path


def _literal(text: str) -> Any:
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return text
