"""From the words of a command to values: texts, and files in any form."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from open4m import modalities
from open4m.modalities.given import from_form, read_file
from open4m.types import Open4MError, Value

if TYPE_CHECKING:
    from open4m.generate.pipeline import FourM
    from open4m.generate.request import Request
    from open4m.modalities.families import Palette


def taken(value: str | Path, name: str, form: str, model: str) -> Value:
    """A modality's value from the words of its option, or from a file in a form."""
    modality = modalities.get(name)
    if isinstance(value, str):
        said = modality.read(os.fsencode(value))
        return from_form(modality, said, form) if form else said
    palette = _palette(name, model) if form else ()
    return read_file(value, modality, form, palette)


def _palette(name: str, model: str) -> Palette:
    """The colors of classes by the model's tokenizer of a modality; none if it has none."""
    from open4m import config as configs
    from open4m.hub import locate
    from open4m.tokenizers.config import TokenizerConfig
    from open4m.tokenizers.tokenizer import FORMAT
    from open4m.weights import CONFIG, TOKENIZERS

    path = locate.resolve(model) / TOKENIZERS / name / CONFIG
    return configs.load_versioned(TokenizerConfig, path, FORMAT)[0].palette if path.is_file() else ()


def value_of(word: str, name: str) -> Value:
    """A modality's value from a file or, where it is one, a text."""
    modality = modalities.get(name)
    if os.path.isfile(word):
        return read_file(Path(word), modality)
    try:
        return modality.convert(word)
    except Open4MError as error:
        raise Open4MError(f"{name}: {word!r} is neither a file nor a value of it") from error


def unfamiliar(model: FourM, asked: Request) -> list[str]:
    """The words of what is given, or to be avoided, that say little to the model. Without any, its tokenizer, which
    may have to be downloaded, is not asked for."""
    given = ((modalities.get(name), value) for name, value in asked.given.items())
    texts = list(chain.from_iterable(modality.texts(value) for modality, value in given if modality.is_text))
    texts += asked.avoid
    return model.text.unfamiliar(texts) if texts and model.text is not None else []
