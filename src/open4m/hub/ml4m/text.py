"""Import of the text tokenizer that all public models of the authors share.

It is one JSON file, in the format of the library tokenizers: control tokens, sentinels, the numbers 0 to 999 on four
axes, class names, word pieces. It is not on the hub: it is fetched from the authors' code repository, or users name it.
"""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any

from open4m import files
from open4m.hub.locate import HUB_VARIABLE
from open4m.hub.ml4m.table import TEXT
from open4m.tokenizers import word_files
from open4m.tokenizers.text import AXES, CONTROL, Settings, TextTokenizer
from open4m.types import Open4MError

CACHE_VARIABLE = "OPEN4M_CACHE"
"""The environment variable that names the folder of downloaded files; by default ``~/.cache/open4m``."""

LARGEST_FILE = 16 << 20
SECONDS = 30
"""How long a server may take to answer."""

FIRST_SENTINEL = 1
"""Public models were trained with spans counted from [S_1]."""


def load(path: Path | str) -> TextTokenizer:
    """The text tokenizer in a JSON file of the authors.

    Raises :class:`Open4MError` if the file is missing, or is not such a tokenizer: its first entries must be the
    control tokens, then sentinels, numbers on four axes, and the class names that are looked for in texts.
    """
    path = Path(path)
    stored = files.read_json(path)
    try:
        vocabulary: dict[str, int] = stored["model"]["vocab"]
        names = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[name] for name in names] != [*range(len(names))]:
            raise Open4MError("its ids are not 0, 1, 2, ...")
        added = {token["content"]: token for token in stored["added_tokens"]}
        settings = _settings(names, added)
        classes = [added[name] for name in settings.class_names]
        pieces = word_files.build({**stored, "added_tokens": classes}, str(path))
        return TextTokenizer(pieces, settings)
    except Exception as error:  # the tokenizers library raises nothing more specific, and the file may hold anything
        reason = str(error) if isinstance(error, Open4MError) else repr(error)
        raise Open4MError(f"{path}: not a text tokenizer of the authors of 4M ({reason})") from error


def _settings(names: list[str], added: dict[str, Any]) -> Settings:
    """What the entries of a vocabulary are, in the order of their ids."""
    if tuple(names[: len(CONTROL)]) != CONTROL:
        raise Open4MError(f"it does not start with {', '.join(CONTROL)}")
    rest = names[len(CONTROL) :]
    sentinels = len([*takewhile(re.compile(r"\[S_\d+\]").fullmatch, rest)])
    rest = rest[sentinels:]
    numbers = [*takewhile(re.compile(r"\w+=\d+").fullmatch, rest)]
    axes = tuple(dict.fromkeys(number.partition("=")[0] for number in numbers))
    if len(axes) != len(AXES) or len(numbers) % len(AXES):
        raise Open4MError(f"its numbers are on {len(axes)} axes, expected {len(AXES)} with equally many each")
    classes = tuple(takewhile(added.__contains__, rest[len(numbers) :]))
    return Settings(
        class_names=classes,
        bins=len(numbers) // len(AXES),
        sentinels=sentinels,
        axes=axes,
        first_sentinel=FIRST_SENTINEL,
        open_classes=True,
        keeps_end=False,
    )


@dataclass(frozen=True)
class Unread:
    """A text tokenizer that is read when it is called, from a file that may be fetched then.

    ``fingerprint``: what it will have, "" if that is not known before.
    """

    file: Callable[[], Path]
    fingerprint: str = ""

    def __call__(self) -> TextTokenizer:
        return load(self.file())


def fetched(source: str = TEXT.url, digest: str = TEXT.sha256) -> Path:
    """The local copy of the public text tokenizer, which is downloaded once and checked against its sha256.

    Raises :class:`Open4MError`, which says what to download and how to name it, if there is no connection, or if what
    was downloaded is another file.
    """
    own = os.environ.get(CACHE_VARIABLE)
    path = (Path(own) if own else Path.home() / ".cache" / "open4m") / TEXT.name
    if path.is_file() and files.sha256(path) == digest:
        return path
    by_hand = (
        f"download {source} where there is a connection, and name the file: --text {TEXT.name}, or "
        f"put it into the folder that {HUB_VARIABLE} names"
    )
    try:
        with urllib.request.urlopen(source, timeout=SECONDS) as answer:
            data = answer.read(LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Open4MError(f"the text tokenizer of the public models: not downloaded ({reason}); {by_hand}") from error
    if (found := sha256(data).hexdigest()) != digest:
        raise Open4MError(f"{source}: expected the file with sha256 {digest}, got {found}; {by_hand}")
    try:
        files.make_folder(path.parent)
        files.write_bytes(path, data)
    except Open4MError as error:
        raise Open4MError(f"{error}; {CACHE_VARIABLE} names another folder") from error
    return path
