"""The model card: what a model directory says of itself to people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from open4m.evaluate.report import Result, table
from open4m.generate.pipeline import FourM

TEMPLATE = """\
# open4m {name}

A 4M of {parameters:.1f} M parameters without embeddings: {encoder} encoder and {decoder} decoder blocks of width {dim}.
{megabytes:.0f} MB with its tokenizers and CLIP, in 16 bits.

| modality | family | vocabulary | tokens |
|---|---|---|---|
{modalities}
{directions}
## Data

{data}

## Training

{training}

## Measured

On {samples} scenes of the test split (`open4m evaluate`). 100% is the tokenizer's own reconstruction, 0% the best
constant prediction.

{results}

## Limits

{limits}
"""

IMPORTED = """\
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


def import_card(
    source: str, kind: str, names: Mapping[str, str], unused: Iterable[str], repeated: Mapping[str, str]
) -> str:
    """The card of what was imported from ``source``. ``names``: ours by theirs, of what may have another name here."""
    return IMPORTED.format(
        source=source,
        kind=kind,
        names="\n".join(f"| {theirs} | {ours} |" for theirs, ours in names.items()),
        unused=", ".join(unused) or "none",
        repeated=repetitions(repeated),
    )


def repetitions(repeated: Mapping[str, str]) -> str:
    """The tensors that a file leaves out, and the ones that stand for them, as one line."""
    return ", ".join(f"{name} (by {source})" for name, source in repeated.items()) or "none"


def model_card(folder: Path, result: Result, texts: Mapping[str, Any]) -> str:
    """The card of a model directory. ``texts``: ``name``, and what it was trained on, how, and where it ends."""
    model = FourM.from_pretrained(folder)
    config = model.config
    rows = [f"| {m.key} | {m.family} | {m.vocab_size or '–'} | {m.length} |" for m in config.modalities]
    directions = [f"- {', '.join(d.targets)} from any of {', '.join(d.inputs)}" for d in config.directions]
    return TEMPLATE.format(
        parameters=model.model.parameter_count() / 1e6,
        encoder=config.encoder_depth,
        decoder=config.decoder_depth,
        dim=config.dim,
        megabytes=sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6,
        modalities="\n".join(rows),
        directions="\n".join(["", "It was trained to generate", "", *directions, ""]) if directions else "",
        samples=result.samples,
        results=table(result),
        **texts,
    )
