"""Networks of the libraries transformers and diffusers, from a folder or the Hugging Face hub: safe files only."""

from __future__ import annotations

import contextlib
import importlib
import logging as stdlib_logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from open4m import files, weights
from open4m.types import Open4MError, shown

EXTRA = "pip install 'open4m[labellers]'"

MAX_REASON = 400
"""Characters of another library's error message that are shown."""

MAX_LISTED = 3
"""Missing weights that an error lists."""

DOWNLOADS = "OPEN4M_HUB"
"""The environment variable that names a folder of downloads from the hub: ``<folder>/<owner>/<model>``."""

CONFIG = "config.json"
"""The file that describes a network of transformers."""

PIPELINE = "model_index.json"
"""The file that says which pipeline of diffusers a folder holds."""

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
"""What is downloaded of a model on the hub, folders included: nothing that could be run."""

OTHERS = ["*.fp16.*", "*.non_ema.*", "onnx/*", "original/*"]
"""Further copies of the same weights, which are not."""

MOST_LAYERS, LARGEST_SIZE = 1 << 10, 1 << 28
"""The most blocks and the largest whole number that the configuration of a network may ask for."""

ATTENTIONS = frozenset(["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"])
"""Attention that transformers brings along. Other names are those of kernels on the hub: programs, which it fetches."""

LABELS = ("label2id", "id2label")
"""The fields of a configuration that name classes: their keys are words of all kinds, such as "layers" and "depth"."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained model: a folder, or a name on the hub and there a ``revision`` (a branch, a tag or a commit).

    Weights are read from safetensors files alone, and no code of a model is ever run.
    """

    name: str
    revision: str = ""

    @cached_property
    def folder(self) -> Path:
        """The model's files: the folder itself, or the copy of a model on the hub, which is downloaded once.

        Raises :class:`Open4MError` that says what to download if there is neither.
        """
        for path in self._folders():
            if path.is_dir():
                return path
        if not _HUB_NAME.fullmatch(self.name):
            raise Open4MError(f"{self.name}: no such folder (expected a folder with a model, or a name on the hub)")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            with quiet():
                found = snapshot_download(
                    self.name, revision=self.revision or None, allow_patterns=PATTERNS, ignore_patterns=OTHERS
                )
        except (HfHubHTTPError, *HfHubHTTPError.__bases__, OSError, ValueError) as error:
            wanted = f" --revision {self.revision}" if self.revision else ""
            raise Open4MError(
                f"{self.name}: no such folder, and not downloaded from the hub ({_line(error)}); without a connection: "
                f"hf download {self.name}{wanted} --local-dir FOLDER elsewhere, and name FOLDER"
            ) from error
        return Path(found)

    @property
    def commit(self) -> str:
        """Of a model that was downloaded: the folder of the hub's cache is called so. Empty for other folders."""
        return self.folder.name if self.folder.parent.name == "snapshots" else ""

    def config(self) -> Any:
        """The network's configuration in transformers."""
        check_config(self.json(CONFIG), f"{self.name}/{CONFIG}")
        with self.errors("config.json of a network that transformers knows"):
            auto = _transformers().AutoConfig
            return auto.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True)

    def json(self, name: str) -> Any:
        """The content of a JSON file of the model; None if it has no such file."""
        path = self.folder / name
        return files.read_json(path, files.LARGEST_CONFIG) if path.is_file() else None

    def network(self, auto: type, config: Any) -> torch.nn.Module:
        """The network of an Auto class of transformers, in float32 and for inference.

        Raises :class:`Open4MError` if weights are missing, or are there as pickles only.
        """
        what = f"{auto.__name__.removeprefix('AutoModelFor')} with weights as model.safetensors"
        with self.errors(what), quiet():
            network, loaded = auto.from_pretrained(
                self.folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                local_files_only=True,
            )
        self.check_complete(loaded["missing_keys"])
        weights.check_finite(self.folder, dict(network.named_parameters()))
        return network.eval()

    def processor(self, auto: str, **options: Any) -> Any:
        """A processor of an Auto class of transformers: ``"AutoImageProcessor"``, ``"AutoProcessor"``."""
        with self.errors(f"files of the {auto.removeprefix('Auto')}"), quiet():
            cls = getattr(_transformers(), auto)
            return cls.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True, **options)

    def check_complete(self, missing: Any) -> None:
        """Raise :class:`Open4MError` for a network of which some weights would be random numbers."""
        if missing := sorted(missing):
            raise Open4MError(
                f"{self.name}: weights are missing, so that its labels would be random: {missing[:MAX_LISTED]} "
                f"({len(missing)} in all); is it a model for this task?"
            )

    @contextlib.contextmanager
    def errors(self, expected: str) -> Iterator[None]:
        """Errors of other libraries as one line that says what was expected."""
        from safetensors import SafetensorError

        try:
            yield
        except Open4MError:
            raise
        except ImportError as error:
            raise Open4MError(f"{self.name}: needs a library that is not installed ({_line(error)})") from error
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
            raise Open4MError(f"{self.name}: expected {expected}: {_line(error)}") from error

    def _folders(self) -> Iterator[Path]:
        yield Path(self.name)
        if downloads := os.environ.get(DOWNLOADS):
            yield Path(downloads, self.name)


def check_config(stored: Any, where: str) -> None:
    """Raise :class:`Open4MError` for the JSON of a configuration that transformers would follow to the end: so many
    blocks that making them takes for ever, or attention by a program that is fetched from the hub."""
    held = [("", stored)]
    while held:
        name, value = held.pop()
        if isinstance(value, dict):
            held += [] if name in LABELS else value.items()
        elif isinstance(value, list):
            held += [(name, inner) for inner in value]
        elif name.endswith("attn_implementation") and value is not None and value not in ATTENTIONS:
            raise Open4MError(
                f"{where}: asks for attention by {shown(value)}, which would be downloaded and run; expected one of "
                f"{', '.join(sorted(ATTENTIONS))}"
            )
        elif isinstance(value, int) and not isinstance(value, bool):
            most = MOST_LAYERS if "layers" in name or "depth" in name else LARGEST_SIZE
            if abs(value) > most:
                raise Open4MError(f"{where}: {name} is {shown(value)}, at most {most} is read")


def auto_class(config: Any, *names: str) -> type | None:
    """The first of the Auto classes of transformers that has a network for a configuration; None if none has.

    Those that this version of transformers does not have are passed over.
    """
    library = _transformers()
    found = (cls for name in names if (cls := getattr(library, name, None)) is not None)
    return next((cls for cls in found if type(config) in cls._model_mapping), None)


def library(name: str, extra: str = EXTRA) -> Any:
    """A library of an extra. Raises :class:`Open4MError` that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Open4MError(f"labels of networks need {name} ({_line(error)}); install it: {extra}") from error


def _transformers() -> Any:
    return library("transformers")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from drawing progress bars and from warnings that are none of the user's business."""
    loaded = [
        sys.modules[name] for name in ("transformers.utils.logging", "diffusers.utils.logging") if name in sys.modules
    ]
    states = [(logging, logging.is_progress_bar_enabled(), logging.get_verbosity()) for logging in loaded]
    hub = stdlib_logging.getLogger("huggingface_hub")  # which tells of each attempt to connect
    before = hub.level
    hub.setLevel(stdlib_logging.ERROR)
    for logging in loaded:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    try:
        yield
    finally:
        hub.setLevel(before)
        for logging, enabled, level in states:
            logging.set_verbosity(level)
            if enabled:
                logging.enable_progress_bar()
