"""What the service answers, as dataclasses: one source for what it writes, for its OpenAPI and for the client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Value = dict[str, Any]
"""A value as :mod:`open4m.generate.values` writes it, or a part of one."""


@dataclass(frozen=True, kw_only=True)
class Error:
    error: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Health:
    ok: bool


@dataclass(frozen=True, kw_only=True)
class Ready:
    ready: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Status:
    waiting: int
    running: int
    kept: int
    kept_bytes: int
    done: int
    failed: int
    cancelled: int
    refused: int
    memory_bytes: int
    draining: bool
    steady: bool


@dataclass(frozen=True, kw_only=True)
class Class:
    id: int
    name: str
    color: list[int]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A number that a value may name. ``high``: 0 where none is known."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Modality:
    """``has_boxes``: a value is a list of objects; others tell positions in forms of their own. ``length``: tokens, at
    most. ``pixels``: the side of what its tokenizer decodes. ``made_from``: what the model was trained to generate it
    from. ``options``: how it is generated if neither a request nor a plan says. ``kinds``: of a value that is a
    dictionary of numbers. ``most_colors``: of a palette; 0 of what is none."""

    name: str
    description: str
    family: str
    role: str
    can_be_given: bool
    can_be_made: bool
    can_be_masked: bool
    is_text: bool
    is_map: bool
    has_positions: bool
    has_boxes: bool
    grid: list[int]
    pixels: int
    length: int
    vocabulary: int
    classes: list[Class]
    forms: list[str]
    made_from: list[str]
    extension: str
    options: dict[str, Any]
    kinds: list[Kind] = field(default_factory=list)
    most_colors: int = 0


@dataclass(frozen=True, kw_only=True)
class Most:
    """The limits that clients should know of."""

    bytes: int
    pixels: int
    samples: int
    conditions: int
    seconds: float
    queue: int


@dataclass(frozen=True, kw_only=True)
class Model:
    name: str
    fingerprint: str
    version: str
    modalities: list[Modality]
    roles: dict[str, str]
    plans: list[str]
    verbs: list[str]
    schemes: list[str]
    schedules: list[str]
    coolings: list[str]
    fits: list[str]
    presets: list[str]
    merges: list[str]
    upscales: list[str]
    knows_scenes: bool
    limits: Most


@dataclass(frozen=True, kw_only=True)
class Job:
    id: str
    state: str
    place: int
    verb: str
    targets: list[str]
    seconds: float
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was generated of one modality. ``value``: None where it was not asked for; a merged one has no tokens."""

    picture: str
    file: str
    summary: str
    value: Value | None = None
    grid: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    log_probability: list[Any] = field(default_factory=list)
    entropy: list[Any] = field(default_factory=list)
    step: dict[str, Any] = field(default_factory=dict)
    planned: str = ""


@dataclass(frozen=True, kw_only=True)
class Sample:
    seed: int
    title: str
    merged: bool
    targets: dict[str, Target]


@dataclass(frozen=True, kw_only=True)
class Shown:
    title: str
    modality: str
    picture: str
    value: Value | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes a result again, to the token. ``command`` is for a folder with the archive of the result, ``replay``
    for one with its record; ``command`` is empty where the command line has no such options."""

    key: str
    request: dict[str, Any]
    command: str = ""
    replay: str = ""
    python: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    id: str
    verb: str
    seconds: float
    frame: dict[str, Any] | None
    results: list[Sample]
    shown: list[Shown]
    swept: str
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A value with its picture as a data URL. ``unfamiliar``: words of a text that say little to the model.
    ``readings``: the numbers of a dictionary of them, as the model's tokens say them."""

    modality: str
    value: Value
    picture: str
    summary: str = ""
    height: int = 0
    width: int = 0
    unfamiliar: list[str] = field(default_factory=list)
    readings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scene:
    seed: int
    values: dict[str, Drawn]


@dataclass(frozen=True, kw_only=True)
class File:
    """The body of ``POST /api/value``: a user's file as ``base64``, or any ``value``.

    ``frame``: of a picture, as results have it. With ``"to": "square"`` the value is one of that picture, and comes
    back as the model's square shows it; with ``"picture"`` it is what the square shows, and comes back as the picture
    has it.
    """

    modality: str
    base64: str = ""
    form: str = ""
    size: int = 0
    value: Value | None = None
    frame: dict[str, Any] | None = None
    to: str = ""
