"""What makes a result again, to the token: its request for these weights and plans, a command, a program."""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from open4m.generate.commands import command_of
from open4m.generate.request_base import Request
from open4m.serve import answers
from open4m.serve.limits import Limits, Refused
from open4m.types import shown

if TYPE_CHECKING:
    from open4m.serve.worker import Worker

SHORT = 2000
"""Characters of a request that a program holds itself; it reads a longer one from the record."""

KEY = 16
"""Hexadecimal digits of the key of a recipe."""


def pinned(worker: Worker, request: Request) -> Request:
    """The request for no other weights and plans than those of the worker."""
    return replace(request, fingerprint=worker.fingerprint(request.upscale)).pinned(worker.model)


class Recipes:
    """The requests of results by their keys, the newest ones, of bounded size: results themselves are kept for a
    shorter time. Any thread may ask."""

    def __init__(self, limits: Limits):
        self._most, self._most_bytes = limits.recipes, limits.recipe_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, request: Request, record: str) -> answers.Recipe:
        """The recipe of a pinned request. ``record``: the name of the file that the command reads."""
        written = request.to_json()
        text = json.dumps(written, allow_nan=False, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:KEY]
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = text.encode()
                self._bytes += len(text)
            while len(self._kept) > 1 and (len(self._kept) > self._most or self._bytes > self._most_bytes):
                self._bytes -= len(self._kept.popitem(last=False)[1])
        command = command_of(request)
        return answers.Recipe(
            key=key,
            request=written,
            command="" if command is None else command.line,
            replay=f"open4m replay {shlex.quote(record)} --out again",
            python=program(written, request.model, record),
        )

    def find(self, key: str) -> answers.Recipe:
        """Raises :class:`Refused` for a key of none, or of none any more."""
        with self._lock:
            if key not in self._kept:
                raise Refused(f"no recipe {shown(key)} (any more)", 404, f"the newest {self._most} are kept")
            return answers.Recipe(key=key, request=json.loads(self._kept[key]))


def program(request: dict[str, Any], model: str, record: str) -> str:
    """A program that makes a result again."""
    text = json.dumps(request, allow_nan=False)
    if len(text) <= SHORT:
        lines = [
            "import json",
            "",
            "from open4m import FourM",
            "from open4m.generate.request import Request",
            "",
            f"request = Request.from_json(json.loads({text!r}))",
        ]
    else:
        lines = [
            "from pathlib import Path",
            "",
            "from open4m import FourM",
            "from open4m.generate.record import read",
            "",
            f"request = read(Path({record!r})).request",
        ]
    return "\n".join([*lines, f"model = FourM.from_pretrained({model!r})", "results = request.run(model).results", ""])
