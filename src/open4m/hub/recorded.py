"""Which tokenizers a model was trained with: their fingerprints, in its directory.

Sizes fit those of many tokenizers. With another one, or with a text tokenizer in which two words are exchanged, a model
works and makes nonsense: the same token means something else to it.
"""

from __future__ import annotations

from pathlib import Path

from open4m import checksums, weights
from open4m import config as configs
from open4m.tokenizers.text import TEXT, TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

FILE, FORMAT = "tokenizers.json", 1
"""The file of a model directory with the fingerprints, by the folder of each tokenizer."""


def write(folder: Path) -> None:
    """Write the fingerprints of the tokenizers in a model directory, so that no others are taken for them."""
    found = {}
    for place in sorted(path for path in (folder / weights.TOKENIZERS).glob("*") if path.is_dir()):
        is_text = place.name == TEXT
        found[place.name] = TextTokenizer.load(place).fingerprint if is_text else Tokenizer.load(place).identity
    if found:
        configs.save(found, folder / FILE, FORMAT)
        checksums.seal(folder, [FILE])


def tokenizers(folder: Path) -> dict[str, str]:
    """The fingerprints by folder that :func:`write` wrote; empty if nothing is known."""
    checksums.check(folder, FILE)
    return configs.load(dict[str, str], folder / FILE, FORMAT) if (folder / FILE).is_file() else {}


def check(found: Tokenizer | TextTokenizer, expected: str | None, where: Path | str, model: Path) -> None:
    """Raise :class:`Open4MError` for a tokenizer that is not the one whose tokens a model knows, as far as that is
    known."""
    if not expected or not checksums.are_checked():
        return
    identity = found.identity if isinstance(found, Tokenizer) else found.fingerprint
    if identity != expected:
        raise Open4MError(
            f"{where}: another tokenizer than {model} was trained with ({FILE} has fingerprint {expected}, this one "
            f"{identity}): its tokens mean something else to the model; put the right one there"
        )
