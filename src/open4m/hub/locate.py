"""Where pretrained models are: shipped, on disk, or on the Hugging Face hub.

A directory holds ``config.json``, ``model.safetensors``, ``tokenizers/`` and a model card, ``README.md``; if it was
trained on users' modalities also their files, ``modalities/``, as text that is not run unless a user asks for it.

The authors' public checkpoints, by their names on the Hugging Face hub or downloaded, hold the first two, in their own
format.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from open4m import files
from open4m.types import Open4MError
from open4m.weights import CARD, CONFIG, MODALITIES, TOKENIZERS, WEIGHTS

SHIPPED = Path(__file__).parent.parent / "pretrained"

SUPER_RESOLUTION = "super_resolution"
"""The folder of a model directory with a second model, which makes larger images of the tokens of the first. It reads
them by the tokenizers of the first."""

HUB_VARIABLE = "OPEN4M_HUB"
"""The environment variable that names a folder of downloads from the hub: ``<folder>/<owner>/<model>``."""

PATTERNS = [
    CONFIG,
    WEIGHTS,
    CARD,
    f"{TOKENIZERS}/*",
    f"{MODALITIES}/*.py",
    f"{SUPER_RESOLUTION}/*",
    "*.json",
    "source.safetensors",
    "LICENSE*",
]
"""What is downloaded of a model on the hub: all that an import or a training writes. ``*`` stands for folders too."""


def shipped() -> list[str]:
    """The names of the models that the package contains."""
    return sorted(p.name for p in SHIPPED.glob("*") if (p / CONFIG).exists())


def resolve(name: str | Path) -> Path:
    """The directory or safetensors file of a model, given by the name of a shipped model, a path (also of the training
    run that made it), or a hub name.

    A hub name, ``owner/model``, is downloaded unless there is such a directory, here or in the folder of downloads that
    the environment variable :data:`HUB_VARIABLE` names. Raises :class:`Open4MError` that says what is missing.
    """
    if str(name) in shipped():
        return SHIPPED / str(name)
    path = files.path_of(name, "model")
    if path.is_file() and path.suffix == ".safetensors":
        return path
    if _is_hub_name(str(name)):
        path = downloaded(str(name))
    if not path.is_dir():
        known = ", ".join(shipped()) or "none are installed"
        raise Open4MError(
            f"{name}: neither a directory, nor a safetensors file, nor a shipped model (shipped: {known}), nor a name "
            "on the hub (owner/model)"
        )
    if not (path / WEIGHTS).is_file() and all((path / "model" / file).is_file() for file in (CONFIG, WEIGHTS)):
        path = path / "model"  # a training run, which holds its result there
    if (path / WEIGHTS).is_file() and not (path / CONFIG).exists():
        return path / WEIGHTS  # its header may hold the configuration
    missing = [file for file in (CONFIG, WEIGHTS) if not (path / file).is_file()]
    if missing:
        raise Open4MError(f"{path}: not a model directory, it has no {' and no '.join(missing)}")
    return path


def resolve_tokenizer(name: str | Path) -> Path:
    """The folder of a dense modality's tokenizer.

    ``name``: that folder, the folder of the finished training that made it, or ``<model>/<modality>``.

    >>> resolve_tokenizer("scenes/rgb")

    Raises :class:`Open4MError`, which lists the tokenizers of the model, if there is no such tokenizer.
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
    if model not in shipped() and not _is_hub_name(model) and not (Path(model) / CONFIG).exists():
        raise Open4MError(
            f"{name}: neither the folder of a tokenizer nor MODEL/MODALITY, like {next(iter(shipped()), 'model')}/rgb"
            f"{_beside(path)}"
        )
    folder = resolve(model) / TOKENIZERS
    if not key or not (folder / key / CONFIG).is_file():
        known = sorted(f.parent.name for f in folder.glob(f"*/{CONFIG}"))
        raise Open4MError(
            f"{model}: has {f'no tokenizer {key!r}' if key else 'several tokenizers: name one'} (of dense modalities "
            f"it has: {', '.join(f'{model}/{k}' for k in known) or 'none'})"
        )
    return folder / key


def _is_hub_name(model: str) -> bool:
    return not Path(model).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", model) is not None


def _beside(path: Path) -> str:
    """What tokenizers lie where one was looked for."""
    found = sorted(
        {str(p.parent).removesuffix("/model") for end in ("", "model/") for p in path.parent.glob(f"*/{end}{WEIGHTS}")}
    )
    return f"; there are {', '.join(found)}" if found else ""


def on_disk(name: str) -> Path | None:
    """The directory of a hub name in the current folder or in that of downloads, if there is one."""
    own = os.environ.get(HUB_VARIABLE)
    found = (Path(place, name) for place in ("", own) if place is not None)
    return next((path for path in found if path.is_dir()), None)


def cached(name: str) -> Path | None:
    """The directory of a hub name in the hub's own cache, if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, WEIGHTS)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def failures() -> tuple[type[Exception], ...]:
    """What the hub's client raises where there is no network, no such name or no permission: its own errors, and those
    of the library by which it connects, of which its own are a kind."""
    from huggingface_hub.errors import HfHubHTTPError

    return (HfHubHTTPError, *HfHubHTTPError.__bases__, OSError, ValueError)


def downloaded(name: str) -> Path:
    """The local copy of a model on the hub. Raises :class:`Open4MError` with the reason if it cannot be downloaded,
    which says what to download where there is a connection, and where to put it."""
    if (path := on_disk(name)) is not None:
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS))
    except failures() as error:
        from open4m.hub.ml4m import table

        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Open4MError(
            f"{name}: not a directory here, and not downloaded from the hub ({reason}); "
            f"{table.nearest(name)}{table.downloads(name)}"
        ) from error
