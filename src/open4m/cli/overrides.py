"""``FIELD=VALUE`` words of a command line: whose they are."""

from __future__ import annotations

import dataclasses
import re
from argparse import Namespace
from typing import Any


def is_override(word: str) -> bool:
    """Whether a word is ``FIELD=VALUE``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*=.*", word) is not None


def separate_stages(options: Namespace) -> None:
    """Give the words behind ``--only`` that are overrides back to ``options.overrides``: argparse takes all of them
    for stages."""
    if options.only:
        options.overrides += [word for word in options.only if "=" in word]
        options.only = [word for word in options.only if "=" not in word]


def divided(config: Any, words: list[str]) -> tuple[list[str], list[str]]:
    """The overrides of fields that a configuration has, and all others."""
    known = {field.name for field in dataclasses.fields(config)}
    own = [word for word in words if word.partition("=")[0] in known]
    return own, [word for word in words if word not in own]
