"""The files of users' modalities in a model directory: programs, which are text until a user says that they may run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from open4m import files, modalities
from open4m.types import Open4MError, check_flags
from open4m.weights import MODALITIES

logger = logging.getLogger("open4m")

MAX_BYTES = 1 << 20
"""The most bytes of a file that is compared or run."""


def write(folder: Path, keys: Iterable[str]) -> None:
    """Put the files of those modalities that are not the package's into a model directory.

    Logs a warning for a modality that has no file, since a notebook registered it.
    """
    for name in sorted({key.partition("@")[0] for key in keys}):
        if not modalities.is_known(name) or modalities.is_own(name):
            continue
        if (text := modalities.text_of(name)) is None:
            logger.warning(
                "%s: this process registered the modality, which has no file: the model does not carry it", name
            )
            continue
        (folder / MODALITIES).mkdir(exist_ok=True)
        files.write_text(folder / MODALITIES / f"{name}.py", text)


def admit(folder: Path, trust: bool = False) -> None:
    """Make the modalities known whose files a model directory carries, if they are to be trusted.

    A modality that is known already stays as it is; a warning is logged if the file is another one. Without ``trust``
    nothing is run. Raises :class:`Open4MError`, which says how to go on, for files of modalities that are not known.
    """
    check_flags(trust=trust)
    unknown = []
    for path in sorted((folder / MODALITIES).glob("*.py")):
        if modalities.is_known(path.stem):
            known = modalities.text_of(path.stem)
            if known is not None and known.encode() != files.read_bytes(path, MAX_BYTES):
                logger.warning("%s: not the file of this modality that is used: the model may know other values", path)
            continue
        unknown.append(path)
    if unknown and not trust:
        names = " and ".join(path.stem for path in unknown)
        raise Open4MError(
            f"{folder}: the model was trained on {names}, which is not known here. It carries the file "
            f"{' and '.join(map(str, unknown))}, a program that is run only if you say so. Read it, then either load "
            "the model with trust=True, on the command line --trust-modalities, or copy the file into a folder of your "
            f"own and name that in {modalities.FOLDERS_VARIABLE}"
        )
    for path in unknown:
        files.read_bytes(path, MAX_BYTES)  # a regular file of a bounded size
        modalities.register_file(path)
