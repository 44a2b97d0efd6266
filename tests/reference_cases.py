"""Where the authors' reference cases are: inputs, and what their code made of them.

They are no part of the project. ``OPEN4M_REFERENCE`` names their folder; by default it is ``../shared/reference``
beside the clone. Where they are absent, tests of parity are skipped, saying so.
"""

import os
from pathlib import Path

import pytest

REFERENCE = Path(os.environ.get("OPEN4M_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")


def folder_of(name):
    """The folder of a case."""
    folder = REFERENCE / name
    if not folder.is_dir():
        pytest.skip(f"{folder}: the reference cases are not here; OPEN4M_REFERENCE names their folder")
    return folder
