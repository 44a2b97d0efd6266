"""What leaves this machine: model directories in the authors' format, and uploads to the hub with a card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from open4m import files, weights
from open4m.evaluate.imported import front_matter
from open4m.hub import locate, parts
from open4m.hub.ml4m import export, names, transformer
from open4m.hub.ml4m import files as public_files
from open4m.hub.ml4m import source as origins
from open4m.hub.ml4m import tokenizer as public_tokenizer
from open4m.model.fourm import FourMTransformer
from open4m.tokenizers.grids import Source
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

SECTIONS = ("Data", "Bias", "Misuse")
"""What a card must say before a model is published (paper G.2)."""

UNSTATED = ("", "unknown")
"""Licenses of front matter that state none."""


# ---- the authors' format


def export_model(name: str, out: Path) -> Iterator[str]:
    """Write a model directory, or the folder of a tokenizer, in the authors' format to the new directory ``out``.

    ``out`` holds the transformer, ``tokenizers/<modality>`` the tokenizers, ``super_resolution`` the second model.
    What was imported becomes the files that it was imported from again: their names, settings, types and numbers.
    Yields lines that describe it. Raises :class:`Open4MError` for what has no counterpart there; a failed write leaves
    nothing.
    """
    files.check_new(out)
    folder = Path(name)
    is_tokenizer = _is_tokenizer(folder)
    found = None if is_tokenizer else parts.opened(name)
    for path in (folder,) if found is None else (found.folder,):
        if transformer.is_reference(path) or public_tokenizer.is_reference(path):
            raise Open4MError(f"{path}: has the authors' format already")
    lines: list[str] = []

    def write(whole: Path) -> None:
        if found is None:
            lines.extend(_write_tokenizer(whole, Tokenizer.load(folder), folder))
        else:
            lines.extend(_write_model(whole, found))

    files.write_folder(out.resolve(), write)
    yield from lines
    yield str(out)


def _is_tokenizer(folder: Path) -> bool:
    path = folder / weights.CONFIG
    found = files.read_json(path) if path.is_file() else None
    return isinstance(found, dict) and "modality" in found and "modalities" not in found


def _write_model(whole: Path, found: parts.Parts) -> Iterator[str]:
    yield _write_transformer(whole, found.transformer(), found.folder)
    last: tuple[str, Tokenizer] | None = None
    for key, at in sorted(found.grids.data.items()):
        made, stem = at.read() if isinstance(at, Source) else at, key.partition("@")[0]
        if last is None or last[0] != stem or last[1].model is not made.model:
            place = parts.place_of(at.origin) if isinstance(at, Source) else found.folder
            yield from _write_tokenizer(whole / weights.TOKENIZERS / key, made, place)
        last = stem, made
    text = found.folder / weights.TOKENIZERS / parts.TEXT
    if (text / origins.TEXT).is_file():
        files.write_bytes(whole / TEXT_FILE, files.read_bytes(text / origins.TEXT))
        yield f"text tokenizer: {TEXT_FILE}"
    elif text.is_dir():
        yield "text tokenizer: left out, it is none of the authors'"
    if found.read_super_resolution is not None:
        second = found.read_super_resolution()
        yield "super-resolution: " + _write_transformer(
            whole / locate.SUPER_RESOLUTION, second.transformer(), second.folder
        )
    for license_text in sorted(found.folder.glob("LICENSE*")):
        files.write_bytes(whole / license_text.name, files.read_bytes(license_text))


TEXT_FILE = "text_tokenizer_4m_wordpiece.json"
"""The file of the text tokenizer in an exported directory."""


def _write_transformer(whole: Path, model: FourMTransformer, folder: Path) -> str:
    source = origins.read(folder)
    if source is not None:
        with public_files.untrusted(folder / origins.FILE):
            listed = dict.fromkeys([*source.settings["domains_in"], *source.settings["domains_out"]])
            domains = {key: theirs for theirs, key in names.keys_of([*listed]).items()}
        restored = None
        if domains.keys() == {*model.config.keys}:
            restored = origins.restored(folder, export.transformer_tensors(model, domains))
        if restored is not None:
            return _write(whole, restored[0].settings, restored[1], restored[0])
    return _write(whole, *export.transformer(model))


def _write_tokenizer(whole: Path, made: Tokenizer, folder: Path) -> Iterator[str]:
    restored = origins.restored(folder, export.tokenizer_tensors(made))
    line = _write(whole, restored[0].settings, restored[1], restored[0]) if restored else None
    yield f"{made.config.modality}: {line or _write(whole, *export.tokenizer(made))}"


def _write(
    whole: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], source: origins.Source | None = None
) -> str:
    """Write one repository; returns what to tell of it."""
    whole.mkdir(parents=True, exist_ok=True)
    header = {name: str(value) for name, value in settings.items()} if source is None else source.header
    weights.write_tensors(whole / weights.WEIGHTS, tensors, header=header)
    files.write_text(whole / weights.CONFIG, json.dumps(settings, indent=1) + "\n")
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return f"{len(tensors)} tensors, {numbers / 1e6:.1f} M numbers{f', as in {source.name}' if source else ''}"


# ---- the hub


def push(folder: Path, name: str, license: str | None = None, private: bool = False) -> str:
    """Upload a model directory to the hub under a name, ``owner/model``; returns its address.

    Everything in the directory is uploaded in one commit: weights, tokenizers, the card and the texts of licenses.
    ``license``: put into a card that states none. The user's own login is used (``hf auth login``, or the variable
    ``HF_TOKEN``). Raises :class:`Open4MError` before anything is uploaded if the card lacks a license or one of
    :data:`SECTIONS`, and for what the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise Open4MError(f"{name}: expected a name on the hub, OWNER/MODEL")
    if not folder.is_dir() and str(folder) not in locate.shipped():
        raise Open4MError(f"{folder}: no such directory; a model is pushed from one on disk")
    folder = locate.resolve(folder)  # also of a shipped model, and of the training that made one
    card = ready_card(folder, license)
    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        operations = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            content = card if path == folder / weights.CARD else path
            operations.append(CommitOperationAdd(path.relative_to(folder).as_posix(), content))
        made = api.create_commit(name, operations, commit_message="Upload with open4m")
    except locate.failures() as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Open4MError(f"{name}: not uploaded ({reason}); log in by: hf auth login") from error
    return str(made.commit_url or name)


def ready_card(folder: Path, license: str | None = None) -> bytes:
    """The card of a directory that may be published. Raises :class:`Open4MError` that says what it lacks."""
    path = folder / weights.CARD
    if not path.is_file():
        raise Open4MError(f"{path}: no card; write one with the sections {', '.join(SECTIONS)}")
    try:
        text, stated = files.read_bytes(path).decode("utf-8"), front_matter(path).get("license", "")
    except UnicodeDecodeError as error:
        raise Open4MError(f"{path}: no text in UTF-8 ({error})") from error
    if missing := [name for name in SECTIONS if not re.search(rf"^#+ .*{name}", text, re.MULTILINE | re.IGNORECASE)]:
        raise Open4MError(f"{path}: the card has no section on {' and '.join(missing)} (## {missing[0]}): write it")
    if license and stated not in (*UNSTATED, license):
        raise Open4MError(f"{path}: the card states the license {stated}, --license says {license}: change the card")
    if not license and stated in UNSTATED:
        raise Open4MError(
            f"{path}: states no license of the weights, which is not that of open4m's code: name it, --license, or put "
            "license: NAME between two lines --- at its top"
        )
    if license and stated != license:
        if stated:
            text = re.sub(r"^license:.*$", f"license: {license}", text, count=1, flags=re.MULTILINE)
        elif text.startswith("---\n"):
            text = text.replace("---\n", f"---\nlicense: {license}\n", 1)
        else:
            text = f"---\nlicense: {license}\nlibrary_name: open4m\npipeline_tag: any-to-any\n---\n{text}"
    return text.encode()
