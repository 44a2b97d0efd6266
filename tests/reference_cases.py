"""Where the authors' reference cases are: inputs, and what their code made of them.

They are no part of the project. ``OPEN4M_REFERENCE`` names their folder; by default it is ``../shared/reference``
beside the clone. Small copies, ``tests/parity/cases``, stand in for them where they are absent, so that no test of
parity is skipped; ``tests/parity/README.md`` says what was left out of them, and why that changes no expectation.

In the copies files may be compressed (``.xz``). Weights that were drawn from PyTorch's generator are not stored:
``drawn.json`` has the seed and, of each tensor, where in the stream it begins.
"""

import json
import lzma
import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

REFERENCE = Path(os.environ.get("OPEN4M_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")
COPIES = Path(__file__).parent / "parity" / "cases"


def folder_of(name):
    """The folder of a case; of its copy, where the case is not here."""
    folder = REFERENCE / name
    return folder if folder.is_dir() else copy_of(name)


def copy_of(name):
    """A temporary folder with the copy of a case, unpacked."""
    return Path(_unpacked().name) / name


@cache
def _unpacked():
    """A temporary folder with all copies as the cases were. It lives as long as the process."""
    folder = tempfile.TemporaryDirectory()
    for file in filter(Path.is_file, COPIES.rglob("*")):
        there = Path(folder.name) / file.relative_to(COPIES)
        there.parent.mkdir(parents=True, exist_ok=True)
        is_packed = file.suffix == ".xz"
        data = file.read_bytes()
        (there.with_suffix("") if is_packed else there).write_bytes(lzma.decompress(data) if is_packed else data)
    for recipe in Path(folder.name).rglob("drawn.json"):
        weights = recipe.with_name("model.safetensors")
        with safe_open(weights, "pt") as file:
            metadata = file.metadata()
        save_file(load_file(weights) | drawn(**json.loads(recipe.read_text())), weights, metadata)
        recipe.unlink()
    return folder


def drawn(seed, tensors):
    """Tensors by name, drawn as PyTorch draws them from the uniform numbers of a generator.

    ``uniform`` has one number u per weight, ``scale * (2 * u - 1)``. ``normal`` has blocks of 16: eight numbers for the
    radius, eight for the angle, which give eight cosines and eight sines (Box and Muller).
    """
    end = max(about["start"] + np.prod(about["shape"]) for about in tensors.values())
    stream = torch.rand(int(end), generator=torch.Generator().manual_seed(seed)).double().numpy()
    found = {}
    for name, about in tensors.items():
        u = stream[about["start"] :][: np.prod(about["shape"])]
        if about["kind"] == "uniform":
            values = 2 * u - 1
        else:
            first, second = u.reshape(-1, 2, 8).transpose(1, 0, 2)
            radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second
            values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
        found[name] = torch.from_numpy(about["scale"] * values.reshape(about["shape"])).float()
    return found
