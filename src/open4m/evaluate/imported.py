"""Import what the authors of 4M publish: a checkpoint becomes a model directory with a card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError

from open4m import files, weights
from open4m.datasets import classes as class_files
from open4m.fourm import FourMBase
from open4m.hub import locate
from open4m.hub.ml4m import tokenizer, transformer
from open4m.model.fourm import FourMTransformer
from open4m.types import Open4MError

CARD = """\
# 4M {kind}, imported

Imported from `{source}`, a checkpoint in the format of the authors of 4M.
Its weights, and the terms of their use, are those of the source.

## Format

`config.json` and `model.safetensors`, in the format of open4m and in float32.

## Names

| in the source | here |
|---|---|
{names}

## Tensors of the source

- Without effect, and left out: {unused}
- Not stored, since another tensor is the same: {repeated}
"""

TOKENIZER = """
## The tokenizer

```
{description}
```
"""


def import_checkpoint(
    source: str, out: Path, modality: str | None = None, classes: Path | None = None
) -> Iterator[str]:
    """Write the checkpoint ``source`` (a directory, a file, or a name on the hub) to the new directory ``out``.

    ``modality`` is required for a tokenizer, since its checkpoint does not name it; ``classes`` is a file of class
    names. Yields the lines that describe what was written. Raises :class:`Open4MError` before anything is written if
    it cannot be imported; a failed write leaves nothing.
    """
    files.check_new(out)
    if out.is_mount() or out.resolve() == Path.cwd():
        raise Open4MError(f"{out}: a mount or the current directory, which nothing can replace; name one in it")
    folder = locate.resolve(source)
    if tokenizer.is_reference(folder):
        if not modality:
            raise Open4MError(f"{source} is a tokenizer, which does not say what for: give --modality, as in depth")
        yield from _import_tokenizer(source, folder, out, modality, classes)
    elif modality or classes:
        raise Open4MError(f"{source}: not a tokenizer, --modality and --classes are for those")
    else:
        yield from _import_transformer(source, folder, out)
    yield str(out)


def _import_transformer(source: str, folder: Path, out: Path) -> Iterator[str]:
    imported = transformer.load(folder)
    model = FourMTransformer(imported.config)
    model.load_state_dict(imported.weights)
    _write(out, FourMBase(model, {}, None).save, card(source, "transformer", imported.names, imported))
    for name, key in imported.names.items():
        spec = imported.config.spec(key)
        size = f"up to {spec.max_length} tokens" if spec.max_length else f"{spec.grid[0]}×{spec.grid[1]} tokens"
        entries = f"{spec.vocab_size} entries" if spec.vocab_size else f"{spec.channels} channels"
        role = " and ".join(r for r, held in (("input", spec.is_input), ("target", spec.is_target)) if held)
        yield f"{name} -> {key}: {spec.family}, {size}, {entries}, {role}"
    yield f"{len(imported.weights)} tensors; {_left_out(imported)}"


def _import_tokenizer(source: str, folder: Path, out: Path, modality: str, classes: Path | None) -> Iterator[str]:
    known = class_files.read(classes) if classes else class_files.Classes()
    imported = tokenizer.read(folder, modality, known.names, known.palette)
    config, kind = imported.tokenizer.config, "diffusion" if imported.tokenizer.config.diffusion else "ViT"
    renamed = {tokenizer.CODEBOOK: "quantizer.codebook"}
    text = card(source, f"tokenizer of {config.modality}", renamed, imported)
    _write(out, imported.tokenizer.save, text + TOKENIZER.format(description=imported.tokenizer.describe()))
    yield f"{config.modality}: {config.codebook_size} codes, {config.grid[0]}×{config.grid[1]} tokens, {kind} decoder"
    yield _left_out(imported)
    if config.standardize:
        yield f"standardizes each {config.modality} by its trimmed mean and deviation: what is decoded has no units"


def card(source: str, kind: str, names: Mapping[str, str], imported: transformer.Imported | tokenizer.Imported) -> str:
    """The card of what was imported from ``source``. ``names``: ours by theirs, of what may have another name here."""
    return CARD.format(
        source=source,
        kind=kind,
        names="\n".join(f"| {theirs} | {ours} |" for theirs, ours in names.items()),
        unused=_listed(imported.unused),
        repeated=_repetitions(imported.repeated),
    )


def _left_out(imported: transformer.Imported | tokenizer.Imported) -> str:
    return f"not needed: {_listed(imported.unused)}; repeated: {_repetitions(imported.repeated)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _repetitions(repeated: Mapping[str, str]) -> str:
    """The tensors that a file leaves out, and the ones that stand for them."""
    return _listed(f"{name} (by {source})" for name, source in repeated.items())


def _write(out: Path, save: Callable[[Path], None], text: str) -> None:
    """Write a directory and its card, whole or not at all."""

    def write(folder: Path) -> None:
        save(folder)
        (folder / weights.CARD).write_text(text)

    try:
        files.write_folder(out.resolve(), write)
    except (OSError, SafetensorError, Open4MError) as error:
        raise Open4MError(f"{out}: cannot be written, nothing was kept ({error})") from error
