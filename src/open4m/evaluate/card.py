"""The model card: what a model directory says of itself to people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open4m.evaluate.report import Result, estimate, table
from open4m.generate.pipeline import FourM

TEMPLATE = """\
# open4m {name}

A 4M of {parameters:.1f} M parameters without embeddings: {encoder} encoder and {decoder} decoder blocks of width {dim}.
{megabytes:.0f} MB with its tokenizers and the networks that judge its images, in 16 bits.

| modality | family | vocabulary | tokens |
|---|---|---|---|
{modalities}
{directions}
## Data

{data}

## Training

{training}

## Measured

On {samples} scenes of the test split (`open4m evaluate`), with 95% intervals. 100% is the tokenizer's own
reconstruction, 0% the best constant prediction.

{results}
{reader}
## Limits

{limits}

## Bias

{bias}

## Misuse

{misuse}
"""

MISUSE = """\
A general generative model can be used in ways its authors did not intend. Do not use it to deceive, to depict real
people without their consent, or for decisions about people. Say of what it makes that a model made it."""
"""What every card says (paper G.2)."""


def model_card(folder: Path, result: Result, texts: Mapping[str, Any]) -> str:
    """The card of a model directory, as Markdown.

    ``texts``: the fields of :data:`TEMPLATE` that only its maker knows: ``name``, ``data``, ``training``, ``limits``
    and ``bias``.
    """
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
        reader=_reader(result),
        misuse=MISUSE,
        **texts,
    )


def _reader(result: Result) -> str:
    """What the reader of objects is worth; nothing if there was none."""
    if not result.reader.values:
        return ""
    figures = [
        f"{name.replace('_', ' ')} {estimate(value, result.reader.intervals.get(name))}"
        for name, value in result.reader.values.items()
    ]
    return (
        "\nObjects in images are read by the network in `reader/`. On the true images of these scenes, with all of\n"
        f"their objects asked for, it reaches: {', '.join(figures)}.\n"
    )
