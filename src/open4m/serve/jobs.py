"""What becomes of a request: its state, what it tells those who watch, and its result while that is kept."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from open4m.generate.drawing import Outcome
from open4m.generate.masks import Masked
from open4m.generate.request_base import Request
from open4m.generate.results import Generation
from open4m.serve import answers
from open4m.serve.limits import Refused
from open4m.types import Boxes

State = Literal["queued", "running", "done", "failed", "cancelled"]

ENDS = ("done", "failed", "cancelled")
"""The states that a job stays in, each the name of the last event."""

KEPT_EVENTS, KEPT_BYTES = 256, 1 << 22
"""How many events of forward passes are kept for those who come late, and how many bytes of these."""

LEFT_EVENTS, LEFT_BYTES = 16, 1 << 19
"""The same of a job that is over: who reads it sees its last passes too."""


@dataclass(frozen=True)
class Event:
    """``data``: one line of JSON."""

    number: int
    name: str
    data: str

    def written(self) -> bytes:
        """As a server-sent event."""
        return f"id: {self.number}\nevent: {self.name}\ndata: {self.data}\n\n".encode()


class Events:
    """What a job has told so far, of bounded size: of events that are ``many`` only the last ones are kept.

    Any thread may add; ``listeners`` are called from there, without arguments.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Event, bool]] = {}
        self.last = self._bytes = self._many = 0
        self.end: int | None = None
        """The number of the last event of all."""
        self._lock = threading.Lock()
        self.listeners: set[Callable[[], None]] = set()

    def add(self, name: str, data: Mapping[str, Any], many: bool = False) -> None:
        """Tell all who listen."""
        with self._lock:
            self.last += 1
            event = Event(self.last, name, json.dumps(data, allow_nan=False))
            self.end = event.number if name in ENDS else None
            self._kept[event.number] = event, many
            self._many += many
            self._bytes += len(event.data) * many
            most = (KEPT_EVENTS, KEPT_BYTES) if self.end is None else (LEFT_EVENTS, LEFT_BYTES)
            while self._many > most[0] or (self._bytes > most[1] and self._many > 1):
                oldest = next(number for number, (_, is_one) in self._kept.items() if is_one)
                self._many -= 1
                self._bytes -= len(self._kept.pop(oldest)[0].data)
            listeners = [*self.listeners]
        for listener in listeners:
            listener()

    @property
    def bytes(self) -> int:
        """Of the events of forward passes, which are nearly all."""
        return self._bytes

    def after(self, number: int) -> list[Event]:
        """The events after the one of this number, as far as they are kept."""
        with self._lock:
            return [event for event, _ in self._kept.values() if event.number > number]


class Job:
    """A request and what becomes of it. The worker alone changes it, but for :attr:`stop`, which says why it should
    not go on: ``"cancelled"``, or ``"late"``."""

    def __init__(self, request: Request, kind: str | None, frames: str = "none"):
        self.id = secrets.token_hex(8)
        self.request: Request | None = request
        self.verb, self.targets, self.rows = request.verb, request.targets, rows_of(request)
        self.kind, self.frames, self.bytes = kind, frames, _bytes_of_all(_given(request))
        self.events = Events()
        self.state: State = "queued"
        self.place = 0
        self.stop: Literal["", "cancelled", "late"] = ""
        self.submitted, self.began, self.ended = time.monotonic(), 0.0, 0.0
        self.error: Refused | None = None
        self.outcome: Outcome | None = None
        self.collected = False
        """Whether someone was given the result."""

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return 0.0 if not self.began else (self.ended or time.monotonic()) - self.began

    @property
    def is_over(self) -> bool:
        return self.state in ENDS

    def answer(self) -> answers.Job:
        """What clients are told of it."""
        error, hint = ("", "") if self.error is None else (str(self.error), self.error.hint)
        return answers.Job(
            id=self.id,
            state=self.state,
            place=self.place,
            verb=self.verb,
            targets=[*self.targets],
            seconds=round(self.seconds, 3),
            error=error,
            hint=hint,
        )

    def result(self) -> Outcome:
        """Raises :class:`Refused` while there is none, and if there will be none."""
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            hint = "watch its events, or ask again" if not self.is_over else "send the request again"
            raise Refused(f"job {self.id} is {self.state}: there is no result", 409, hint)
        return self.outcome


def rows_of(request: Request) -> int:
    """How many results a request has."""
    sweep = getattr(request, "sweep", None)
    return request.samples if sweep is None else len(sweep)


def bytes_of(outcome: Outcome, request: Request) -> int:
    """The memory of the arrays and texts of an outcome and its request, nearly."""
    merged = [] if outcome.merged is None else [outcome.merged]
    parts = [part for result in (*outcome.results, *merged) for part in _parts(result)]
    return _bytes_of_all([*_given(request), *parts, *(value for _, _, value in outcome.shown)])


def _bytes_of_all(parts: Sequence[Any]) -> int:
    """The memory of values of which some may be the same."""
    return sum(map(_bytes, {id(part): part for part in parts}.values()))


def _given(request: Request) -> list[Any]:
    shown = [value for values in (request.given, *request.conditions.values()) for value in values.values()]
    return [*shown, getattr(request, "mask", None), *getattr(getattr(request, "sweep", None), "values", ())]


def _parts(result: Generation) -> list[Any]:
    named = (result.values, result.tokens, result.log_probability, result.entropy, result.given)
    return [value for values in (*named, *result.conditions.values()) for value in values.values()]


def _bytes(value: Any) -> int:
    if isinstance(value, Boxes):
        return int(value.corners.nbytes) + 100 * len(value)
    if isinstance(value, Masked):
        return _bytes(value.value) + _bytes(value.mask)
    return (len(value) if isinstance(value, str) else int(getattr(value, "nbytes", 0))) + 200
