"""Where the authors' reference cases are: inputs, and what their code made of them.

They are no part of the project. ``OPEN4M_REFERENCE`` names their folder; by default it is ``../shared/reference``
beside the clone. Small copies of some, ``tests/parity/cases``, stand in for them where they are absent; in these, files
may be compressed (``.xz``), and rows of embeddings that no case reads are zeros. Other tests of parity are skipped
there, saying so.
"""

import lzma
import os
import tempfile
from functools import cache
from pathlib import Path

import pytest

REFERENCE = Path(os.environ.get("OPEN4M_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")
COPIES = Path(__file__).parent / "parity" / "cases"


def folder_of(name, copied=False):
    """The folder of a case; ``copied``: of its copy, where the case is not here."""
    folder = REFERENCE / name
    if folder.is_dir():
        return folder
    if copied:
        return Path(_unpacked().name) / name
    pytest.skip(f"{folder}: the reference cases are not here; OPEN4M_REFERENCE names their folder")


@cache
def _unpacked():
    """A temporary folder with the copies that are compressed, as they were, and the other files beside them."""
    folder = tempfile.TemporaryDirectory()
    for packed in COPIES.rglob("*.xz"):
        for file in packed.parent.iterdir():
            if file.is_file():
                there = Path(folder.name) / file.relative_to(COPIES)
                there.parent.mkdir(parents=True, exist_ok=True)
                is_packed = file.suffix == ".xz"
                data = file.read_bytes()
                (there.with_suffix("") if is_packed else there).write_bytes(
                    lzma.decompress(data) if is_packed else data
                )
    return folder
