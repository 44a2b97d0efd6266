"""Labellers of the user's own: a function with one decorator.

>>> @open4m.labeller("depth")
... def wall(image):  # uint8 (H, W, 3)
...     return np.full(image.shape[:2], 2.0, np.float32)  # meters

In Python it is known at once; on the command line its file is named, ``--modality depth=labels.py``, and is run only
with ``--trust-labellers``.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from open4m import files, modalities, programs
from open4m.labellers import base
from open4m.modalities.families import Modality
from open4m.types import Open4MError, Value, check_flags

F = TypeVar("F", bound=Callable[..., Any])

MAX_BYTES = 1 << 20
"""The most bytes of a file that is run."""

PHOTO = "photo"
"""The role of the modality that functions read if they name none."""


@dataclass(frozen=True)
class Function(base.Labeller):
    """A user's function as a labeller. ``batched``: it is given a list of values and returns as many."""

    modality: str
    source: str
    function: Callable[..., Any]
    batched: bool = False
    text: str = ""  # of its program, which the fingerprint covers

    is_default = False

    @classmethod
    def makes(cls, modality: Modality) -> bool:
        """Whether this process has a function for it."""
        return bool(known(modality.name))

    @classmethod
    def load(
        cls, model: str = "", device: str = "cpu", settings: base.Settings | None = None, modality: str = ""
    ) -> Self:
        """``model``: ``FILE.py`` with one function for the modality, ``FILE.py:NAME``, or the name of a function that
        this process knows. A file is run: the caller has asked the user."""
        path, _, name = model.partition(":")
        found = _of_file(Path(path)) if path.endswith(".py") else list(_known.values())
        fitting = [each for each in found if modality in ("", each.modality) and name in ("", each.function.__name__)]
        if not path.endswith(".py"):
            fitting = [each for each in fitting if each.function.__name__ == model]
        if len(fitting) != 1:
            names = ", ".join(f"{each.function.__name__} ({each.modality})" for each in found) or "none"
            raise Open4MError(
                f"{model}: expected one function with @open4m.labeller({modality!r}), got {len(fitting)} of those that "
                f"it has: {names}; name one, FILE.py:NAME"
            )
        return fitting[0]

    @property
    def fingerprint(self) -> str:
        about = f"{self.modality} {self.source} {self.function.__name__} {self.batched} {self.text}"
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    @property
    def origin(self) -> dict[str, Any]:
        return {"function": self.function.__name__}

    def label(self, values: Sequence[Value]) -> list[Value]:
        """Raises :class:`Open4MError`, with the function's name, for whatever the function raises."""
        try:
            found = list(self.function(list(values))) if self.batched else [self.function(value) for value in values]
        except Open4MError:
            raise
        except (Exception, SystemExit) as error:  # a user's function may raise anything
            raise Open4MError(f"{self.function.__name__}: {type(error).__name__}: {error}") from error
        if len(found) != len(values):
            raise Open4MError(f"{self.function.__name__}: expected {len(values)} values, got {len(found)}")
        return found


_known: dict[tuple[str, str], Function] = {}
"""The functions of this process, by modality and name."""


def labeller(modality: str, source: str = "", *, batched: bool = False) -> Callable[[F], F]:
    """A decorator: the function makes values of a modality from values of ``source``, by default the photo.

    ``batched``: it takes a list of values and returns a list. The function itself stays as it is. What it returns is
    checked as what users give is; its program is part of the labels' fingerprint, so that labels are made again when it
    changes. Raises :class:`Open4MError` for unknown modalities.

    >>> @open4m.labeller("caption")
    ... def size(image):
    ...     return f"a picture of {image.shape[1]} by {image.shape[0]} pixels"
    """
    check_flags(batched=batched)
    made = modalities.get(modality)
    is_photo = isinstance(source, str) and not source
    read: Modality = modalities.of_role(PHOTO) if is_photo else modalities.get(source)

    def decorate(function: F) -> F:
        found = Function(made.name, read.name, function, batched, _program(function))
        _known[made.name, function.__name__] = found
        return function

    return decorate


def known(modality: str) -> list[str]:
    """The names of this process's functions for a modality."""
    return [name for made, name in _known if made == modality]


def _of_file(path: Path) -> list[Function]:
    """The functions of a file, which is run once per process and content."""
    text = files.read_bytes(path, MAX_BYTES).decode("utf-8", "replace")
    name = f"open4m_user_labels_{hashlib.sha256(f'{path.resolve()} {text}'.encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        programs.run(path, name)
    return [each for each in _known.values() if each.function.__module__ == name]


def _program(function: Callable[..., Any]) -> str:
    """The text of a function's file, or of the function itself in a notebook."""
    try:
        module = sys.modules.get(function.__module__)
        if getattr(module, "__file__", None):
            return Path(module.__file__).read_text("utf-8")
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = function.__code__
        return f"{code.co_code.hex()} {code.co_consts}"


LABELLER = Function
