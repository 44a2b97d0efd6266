"""Import what the authors of 4M publish: what belongs together becomes one model directory with a card.

A directory of ours may be the source too: it gets other tokenizers, or a model of super-resolution.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from open4m import files, weights
from open4m.datasets import classes as class_files
from open4m.evaluate.card import MISUSE
from open4m.hub import locate, parts, recorded
from open4m.hub.ml4m import export, table, tokenizer, transformer
from open4m.hub.ml4m import source as origins
from open4m.tokenizers.grids import Source
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

CARD = """\
---
license: {license}
library_name: open4m
pipeline_tag: any-to-any
---
# 4M {kind}, imported

Imported from `{source}`, a checkpoint in the format of the authors of 4M, whose weights these are.

## License

{terms}

## Format

`config.json` and `model.safetensors`, in the format of open4m and in float32. `source.json` and `source.safetensors`
are for `open4m export`, which writes the source again, to the byte.

## Names

| in the source | here |
|---|---|
{names}

## Tensors of the source

- Without effect, and kept for exports alone: {unused}
- Not stored, since another tensor is the same: {repeated}
{more}
## Data

The authors trained the released models on images and texts from the internet (CC12M, some also on COYO700M) and on
labels that other networks made for them. What those networks get wrong, these models have learned too.

## Bias

Such data hold societal biases, and are curated only in part: names of people are redacted in CC12M, not without errors
(paper G.2). What is generated of people, places and professions shows these biases.

## Misuse

{misuse}
"""

TOKENIZER = """
## The tokenizer

```
{description}
```
"""

NO_TERMS = "Its source states no terms of use: ask its makers before you share it."

LICENSE, LARGEST_LICENSE = "LICENSE", 1 << 20
"""The file of a public repository, and the most bytes that it may have. Of what is not in such a repository it is
``LICENSE-`` and the name of that one."""


@dataclass
class _Provenance:
    """Where the parts of an import are from: lines for its card, and the texts of licenses that go with them."""

    lines: list[str] = field(default_factory=list)
    licenses: dict[bytes, str] = field(default_factory=dict)

    def keep(self, folder: Path, public: Path, made: Mapping[str, Tensor]) -> None:
        """Note that what ``folder`` holds is from a public file."""
        origins.write(folder, public, table.repository_of(public), license_of(public), made)
        for text in licenses_in(public):
            is_named = text.name.startswith(f"{LICENSE}-")
            name = text.name if is_named else f"{text.stem}-{table.repository_of(public)}{text.suffix}"
            self.licenses.setdefault(files.read_bytes(text, LARGEST_LICENSE), name)

    def write(self, whole: Path) -> None:
        for text, name in self.licenses.items():
            (whole / name).write_bytes(text)


def import_checkpoint(
    source: str,
    out: Path,
    modality: str | None = None,
    classes: Path | None = None,
    chosen: parts.Chosen | None = None,
    alone: bool = False,
) -> Iterator[str]:
    """Write the checkpoint ``source`` (a directory, a file, or a name on the hub) to the new directory ``out``.

    A transformer is written with the tokenizers and the model of super-resolution that belong to it, or that are
    ``chosen``, unless it is to be ``alone``; a directory of ours is copied, with what is ``chosen`` in place.
    ``modality`` is required for a tokenizer of another name than the public ones, since its checkpoint does not name
    it; ``classes`` is a file of class names. Yields the lines that describe what was written. Raises
    :class:`Open4MError` before anything is written if it cannot be imported, which lists all that is not here and
    cannot be downloaded; a failed write leaves nothing.
    """
    files.check_new(out)
    if out.is_mount() or out.resolve() == Path.cwd():
        raise Open4MError(f"{out}: a mount or the current directory, which nothing can replace; name one in it")
    folder = locate.resolve(source)
    if tokenizer.is_reference(folder):
        modality = modality or table.modality_of(table.repository_of(folder))
        if not modality:
            raise Open4MError(f"{source} is a tokenizer, which does not say what for: give --modality, as in depth")
        yield from _import_tokenizer(source, folder, out, modality, classes)
    elif modality or classes:
        raise Open4MError(f"{source}: not a tokenizer, --modality and --classes are for those")
    elif transformer.is_reference(folder):
        yield from _import_transformer(source, folder, out, None if alone else parts.opened(source, chosen, folder))
    elif alone and parts.is_own(folder):
        raise Open4MError(f"{source}: a directory of open4m is copied as a whole; leave out --alone")
    elif parts.is_own(folder) or (chosen is not None and folder.is_dir()):
        yield from _reassembled(out, parts.opened(source, chosen, folder), chosen or parts.Chosen())
    else:
        transformer.load(folder)  # raises, and says what it is not
    yield str(out)


def _import_transformer(source: str, folder: Path, out: Path, found: parts.Parts | None) -> Iterator[str]:
    imported = transformer.load(folder) if found is None or found.imported is None else found.imported
    if found is not None:
        _fetch(source, found)
    about, provenance = [], _Provenance()

    def write(whole: Path) -> None:
        model = parts.model_of(imported.config, imported.weights)
        parts.save_transformer(whole, model)
        domains = {key: theirs for theirs, key in imported.names.items()}
        provenance.keep(whole, folder, export.transformer_tensors(model, domains))
        about.extend([] if found is None else _write_parts(whole, found, provenance))
        provenance.write(whole)
        recorded.write(whole)

    more = "" if found is None else "\n## Parts\n\n" + "".join(f"- {line}\n" for line in _origins(found))
    _write(out, write, card(source, "transformer", imported.names, imported, license_of(folder), more))
    for name, key in imported.names.items():
        spec = imported.config.spec(key)
        size = f"up to {spec.max_length} tokens" if spec.max_length else f"{spec.grid[0]}×{spec.grid[1]} tokens"
        entries = f"{spec.vocab_size} entries" if spec.vocab_size else f"{spec.channels} channels"
        role = " and ".join(r for r, held in (("input", spec.is_input), ("target", spec.is_target)) if held)
        yield f"{name} -> {key}: {spec.family}, {size}, {entries}, {role}"
    yield from about
    yield f"{len(imported.weights)} tensors; {_left_out(imported)}"


def _reassembled(out: Path, found: parts.Parts, chosen: parts.Chosen) -> Iterator[str]:
    """A copy of a directory of ours with other parts."""
    keys = [key for key in sorted(parts.needed(found.config)) if key.partition("@")[0] in chosen.tokenizers]
    about: list[str] = []

    def write(whole: Path) -> None:
        shutil.copytree(found.folder, whole)
        tokenizers, provenance = whole / weights.TOKENIZERS, _Provenance()
        replaced = [tokenizers / key for key in keys] + [tokenizers / parts.TEXT] * (chosen.text is not None)
        replaced += [whole / locate.SUPER_RESOLUTION] * (chosen.super_resolution is not None)
        for folder in replaced:
            shutil.rmtree(folder, ignore_errors=True)
        about.extend(_write_tokenizers(tokenizers, found, keys, provenance))
        if chosen.text is not None:
            about.extend(_write_text(tokenizers / parts.TEXT, found))
        if chosen.super_resolution is not None:
            about.extend(_write_second(whole, found, provenance))
        provenance.write(whole)
        recorded.write(whole)

    _write(out, write, None)
    yield from about


def _fetch(source: str, found: parts.Parts) -> None:
    """Download what is not here. Raises :class:`Open4MError` that lists all of what cannot be."""
    sources = [at.origin for at in found.grids.data.values() if isinstance(at, Source)]
    steps = {str(origin): partial(parts.place_of, origin) for origin in sources}
    if found.text_file is not None:
        steps["the text tokenizer"] = found.text_file
    if found.second is not None:
        steps[str(found.second)] = partial(locate.resolve, found.second)
    missing = []
    for name, fetch in steps.items():
        try:
            fetch()
        except Open4MError:
            missing.append(name)
    if missing:
        how = table.downloads(f"{table.OWNER}/{table.repository_of(found.folder)}", found.folder)
        raise Open4MError(
            f"{source}: needs {', '.join(missing)}, which are not here and cannot be downloaded; {how}; or take the "
            "transformer alone: --alone"
        )


def _write_parts(whole: Path, found: parts.Parts, provenance: _Provenance) -> Iterator[str]:
    """Write the tokenizers and the second model, one after another; yields a line about each."""
    folder = whole / weights.TOKENIZERS
    yield from _write_tokenizers(folder, found, sorted(parts.needed(found.config)), provenance)
    if any(spec.is_causal for spec in found.config.modalities):
        yield from _write_text(folder / parts.TEXT, found)
    if found.read_super_resolution is not None:
        yield from _write_second(whole, found, provenance)


def _write_tokenizers(folder: Path, found: parts.Parts, keys: Iterable[str], provenance: _Provenance) -> Iterator[str]:
    """Write tokenizers; sizes of a modality that share one follow one another, and the first stands for all."""
    last: tuple[str, Tokenizer] | None = None
    for key in keys:
        stem, at = key.partition("@")[0], found.grids.data.get(key)
        if at is None:
            yield f"{key}: no tokenizer; name one: --tokenizer {stem}=FOLDER"
            continue
        made = at.read() if isinstance(at, Source) else at
        if last is None or last[0] != stem or last[1].model is not made.model:
            _save_tokenizer(folder / key, made, at, provenance)
        last = stem, made
        yield f"{key}: tokenizer of {made.config.codebook_size} codes{_from(at)}"


def _write_text(folder: Path, found: parts.Parts) -> Iterator[str]:
    if found.text is None:
        yield "text: no tokenizer; name its file: --text FILE"
        return
    text = found.text if isinstance(found.text, TextTokenizer) else found.text()
    text.save(folder)
    if found.text_file is not None and (file := found.text_file()).is_file():
        files.write_bytes(folder / origins.TEXT, files.read_bytes(file))
    yield f"text: {text.describe()}"


def _write_second(whole: Path, found: parts.Parts, provenance: _Provenance) -> Iterator[str]:
    """Write the model of super-resolution, and tokenizers that only it has."""
    second, folder = found.read_super_resolution(), whole / locate.SUPER_RESOLUTION
    shared = parts.shared_grids(second, found.grids, found.config)
    model = second.transformer()
    parts.save_transformer(folder, model)
    if transformer.is_reference(second.folder):
        names = transformer.names_of(second.folder)
        made = export.transformer_tensors(model, {key: theirs for theirs, key in names.items()})
        provenance.keep(folder, second.folder, made)
    for key, own in sorted(second.grids.data.items()):
        if shared.data[key] is own:  # which the first model has no tokenizer for
            _save_tokenizer(whole / weights.TOKENIZERS / key, shared[key], own, provenance)
    yield f"super-resolution: {', '.join(spec.key for spec in second.config.modalities if spec.is_target)}"


def _save_tokenizer(folder: Path, made: Tokenizer, at: Tokenizer | Source, provenance: _Provenance) -> None:
    made.save(folder)
    origin = parts.place_of(at.origin) if isinstance(at, Source) else None
    if origin is not None and tokenizer.is_reference(origin):
        provenance.keep(folder, origin, export.tokenizer_tensors(made))


def _import_tokenizer(source: str, folder: Path, out: Path, modality: str, classes: Path | None) -> Iterator[str]:
    known = class_files.read(classes) if classes else class_files.Classes()
    imported = tokenizer.read(folder, modality, known.names, known.palette)
    config, kind = imported.tokenizer.config, "diffusion" if imported.tokenizer.config.diffusion else "ViT"
    renamed = {tokenizer.CODEBOOK: "quantizer.codebook"}
    more = TOKENIZER.format(description=imported.tokenizer.describe())
    text = card(source, f"tokenizer of {config.modality}", renamed, imported, license_of(folder), more)
    provenance = _Provenance()

    def write(whole: Path) -> None:
        imported.tokenizer.save(whole)
        provenance.keep(whole, folder, export.tokenizer_tensors(imported.tokenizer))
        provenance.write(whole)

    _write(out, write, text)
    yield f"{config.modality}: {config.codebook_size} codes, {config.grid[0]}×{config.grid[1]} tokens, {kind} decoder"
    yield _left_out(imported)
    if config.standardize:
        yield f"standardizes each {config.modality} by its trimmed mean and deviation: what is decoded has no units"


# ---- what is said of it


def licenses_in(public: Path) -> list[Path]:
    """The texts of licenses in the folder of a public repository, or of what was exported in its format."""
    folder = public if public.is_dir() else public.parent
    return [text for text in sorted(folder.glob(f"{LICENSE}*")) if text.is_file()]


def license_of(public: Path) -> str:
    """The license of a public repository's weights: that of the authors, also of a transformer that was exported with
    its text, or what its card says; "" if it says none."""
    exported = {text.name.removeprefix(f"{LICENSE}-") for text in licenses_in(public)} - {table.SUPER_RESOLUTION}
    own = table.repository_of(public)
    if own in {*table.TRANSFORMERS, *table.TOKENIZERS.values()} or not exported.isdisjoint(table.TRANSFORMERS):
        return table.LICENSE.name
    own = (public if public.is_dir() else public.parent) / weights.CARD
    return front_matter(own).get("license", "") if own.is_file() else ""


def front_matter(card: Path) -> dict[str, str]:
    """The plain ``name: value`` lines between the two ``---`` at the top of a card."""
    text = files.read_bytes(card, LARGEST_LICENSE).decode("utf-8", "replace")
    found = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", text, re.DOTALL)
    lines = re.findall(r"^(\w+):[ \t]*(\S.*?)[ \t]*$", found[1] if found else "", re.MULTILINE)
    return {name: value.strip("'\"") for name, value in lines}


def card(
    source: str,
    kind: str,
    names: Mapping[str, str],
    imported: transformer.Imported | tokenizer.Imported,
    license: str,
    more: str = "",
) -> str:
    """The card of what was imported from ``source``. ``names``: ours by theirs, of what may have another name here."""
    authors, terms = license == table.LICENSE.name, table.LICENSE
    other = f"other\nlicense_name: {terms.name}\nlicense_link: {terms.link}"
    stated = f"The weights: {license}, as their source states." if license else NO_TERMS
    return CARD.format(
        source=source,
        kind=kind,
        license=other if authors else license or "unknown",
        terms=f"The weights: {terms.summary} ({terms.link})." if authors else stated,
        names="\n".join(f"| {theirs} | {ours} |" for theirs, ours in names.items()),
        unused=_listed(imported.unused),
        repeated=_repetitions(imported.repeated),
        more=more,
        misuse=MISUSE,
    )


def _origins(found: parts.Parts) -> Iterator[str]:
    for key, at in found.grids.data.items():
        yield f"{key}: a tokenizer{_from(at)}"
    if found.second is not None:
        yield f"super-resolution: {found.second}"


def _from(at: Any) -> str:
    return f" of {at.identity or at.origin}" if isinstance(at, Source) and (at.identity or at.origin) else ""


def _left_out(imported: transformer.Imported | tokenizer.Imported) -> str:
    return f"not needed: {_listed(imported.unused)}; repeated: {_repetitions(imported.repeated)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _repetitions(repeated: Mapping[str, str]) -> str:
    """The tensors that a file leaves out, and the ones that stand for them."""
    return _listed(f"{name} (by {source})" for name, source in repeated.items())


def _write(out: Path, save: Callable[[Path], None], text: str | None) -> None:
    """Write a directory and, if there is one, the text of its card, whole or not at all."""

    def write(folder: Path) -> None:
        save(folder)
        if text is not None:
            (folder / weights.CARD).write_text(text, encoding="utf-8")

    try:
        files.write_folder(out.resolve(), write)
    except Open4MError as error:
        raise Open4MError(f"{error}; nothing was kept") from error
