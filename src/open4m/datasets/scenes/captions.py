"""Captions of scenes, written by a small grammar, and the parser that reads objects from any caption.

A caption mentions every object at most once, as a full noun phrase ("a large red striped matte box"). It may relate two
objects that it mentions one after the other; the relation is true in the camera's view, with a margin.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from open4m.datasets.scenes.scene import COLORS, MATERIALS, OBJECT_CLASSES, PATTERNS, SIZES, Object, Scene, Surface

MAX_WORDS = 48
SYNONYMS = {  # attribute value -> other words for it
    "small": ("little", "tiny"),
    "large": ("big",),
    "glossy": ("shiny",),
    "metal": ("metallic",),
    "matte": ("dull",),
    "checkered": ("checked",),
    "dotted": ("spotted",),
    "sphere": ("ball",),
    "box": ("block",),
    "torus": ("ring", "donut"),
    "capsule": ("pill",),
}
RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "front": ("in front of",),
    "behind": ("behind",),
}
_SIDE_MARGIN = 0.12  # of the image width, between the centers of objects beside each other
_DEPTH_MARGIN = 0.45  # meters along the view's direction on the floor, between objects in front of each other
_NUMBERS = ("one", "two", "three", "four", "five", "six")
_KINDS = {
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(COLORS, "color"),
    **dict.fromkeys((p for p in PATTERNS if p != "plain"), "pattern"),
    **dict.fromkeys(MATERIALS, "material"),
    **dict.fromkeys(OBJECT_CLASSES, "shape"),
}
_MEANING = {word: (kind, word) for word, kind in _KINDS.items()} | {
    synonym: (_KINDS[word], word) for word, synonyms in SYNONYMS.items() for synonym in synonyms
}


def parse_caption(text: str) -> list[dict[str, str]]:
    """The mentioned objects in order: their shape and, as far as mentioned, color, size, material and pattern.

    Attributes count if they stand directly before a shape, in any order. All other words are skipped, so that any text
    can be read. Synonyms are replaced by their canonical words.
    """
    objects: list[dict[str, str]] = []
    current: dict[str, str] = {}
    for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower()):
        kind, value = _MEANING.get(word, (None, word))
        if kind is None:
            current = {}
        else:
            current[kind] = value
        if kind == "shape":
            objects.append(current)
            current = {}
    return objects


def relations(scene: Scene, subject: Object, other: Object) -> list[str]:
    """The names of :data:`RELATIONS` that clearly hold from subject to other in the camera's view."""
    subject_x, other_x = (scene.camera.project(solid.center)[0] for solid in (subject, other))
    ahead = np.subtract(scene.camera.target, scene.camera.position)[:2]
    nearer = float(np.subtract(other.center, subject.center)[:2] @ ahead / np.linalg.norm(ahead))
    holds = {
        "left": subject_x < other_x - _SIDE_MARGIN,
        "right": subject_x > other_x + _SIDE_MARGIN,
        "front": nearer > _DEPTH_MARGIN,
        "behind": nearer < -_DEPTH_MARGIN,
    }
    return [name for name, true in holds.items() if true]


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A random true caption of at most :data:`MAX_WORDS` words."""
    objects = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    style = _pick(rng, (_listing, _counting, _relating, _selecting), (0.3, 0.25, 0.27, 0.18))
    setting = _setting(scene, rng) if rng.random() < 0.5 else ""
    keep = 0.95 if len(objects) <= 3 else 0.75
    for keep_attribute, place in ((keep, setting), (keep / 2, setting), (0.2, ""), (0.0, "")):
        phrases = {id(solid): _phrase(solid, rng, keep_attribute) for solid in objects}
        caption = style(scene, objects, lambda solid, phrases=phrases: phrases[id(solid)], place, rng)
        if len(re.findall(r"[a-z]+", caption)) <= MAX_WORDS:
            break
    return caption


Namer = Callable[[Object], str]


def _listing(scene: Scene, objects: list[Object], name: Namer, setting: str, rng: np.random.Generator) -> str:
    """All objects in a row: "a picture of a red box, a blue cone and a ring"."""
    opening = _pick(rng, ("", "", "a picture of ", "a scene with ", "there is ", "a view of ", "we see "))
    return f"{opening}{_enumerate(map(name, objects))}{setting}."


def _counting(scene: Scene, objects: list[Object], name: Namer, setting: str, rng: np.random.Generator) -> str:
    """The number of objects, then all of them."""
    count = f"{_NUMBERS[len(objects) - 1]} object{'s' if len(objects) > 1 else ''}"
    verb = "are" if len(objects) > 1 else "is"
    opening = _pick(rng, (count, f"there {verb} {count}", f"a scene with {count}", f"a picture of {count}"))
    return f"{opening}{setting}: {_enumerate(map(name, objects))}."


def _relating(scene: Scene, objects: list[Object], name: Namer, setting: str, rng: np.random.Generator) -> str:
    """All objects in clauses of two or three, related where a relation clearly holds."""
    clauses = []
    rest = list(objects)
    while rest:
        subject = rest.pop(0)
        clause = name(subject)
        linked = False
        for link in (" is ", ", which is "):
            other = next((solid for solid in rest if relations(scene, subject, solid)), None)
            if other is None or (linked and rng.random() < 0.5):
                break
            clause += f"{link}{_relation(scene, subject, other, rng)} {name(other)}"
            rest.remove(other)
            subject, linked = other, True
        clauses.append(clause if linked else _pick(rng, ("there is ", "we see ")) + clause)
    text = _pick(rng, (". ", "; ")).join(clauses)
    return f"{text}.{_setting_sentence(scene, rng) if setting else ''}"


def _selecting(scene: Scene, objects: list[Object], name: Namer, setting: str, rng: np.random.Generator) -> str:
    """Only some of the objects."""
    first = objects[0]
    other = next((solid for solid in objects[1:] if relations(scene, first, solid)), None)
    if other is not None and rng.random() < 0.7:
        return f"{name(first)} {_relation(scene, first, other, rng)} {name(other)}{setting}."
    if len(objects) > 2 and rng.random() < 0.6:
        return f"{_NUMBERS[len(objects) - 1]} objects{setting}, one of them is {name(first)}."
    return f"{_enumerate(map(name, objects[:2]))}{setting}."


def _relation(scene: Scene, subject: Object, other: Object, rng: np.random.Generator) -> str:
    return _pick(rng, RELATIONS[_pick(rng, relations(scene, subject, other))])


def _phrase(solid: Object, rng: np.random.Generator, keep: float) -> str:
    """A noun phrase; size and material are each kept with probability ``keep``, a pattern always."""
    words = [_synonym(solid.size, rng)] if rng.random() < keep else []
    words.append(solid.color)
    if solid.pattern != "plain":
        words.append(_synonym(solid.pattern, rng))
    if rng.random() < keep:
        words.append(_synonym(solid.material, rng))
    return _with_article([*words, _synonym(solid.shape, rng)])


def _setting(scene: Scene, rng: np.random.Generator) -> str:
    """Where the objects are, to follow a noun phrase."""
    floor = f" on {_with_article([*_look(scene.floor), 'floor'])}"
    wall = f" against {_with_article([*_look(scene.wall), 'wall'])}"
    return _pick(rng, (floor, wall, floor + wall))


def _setting_sentence(scene: Scene, rng: np.random.Generator) -> str:
    floor, wall = (" and ".join(_look(surface)) for surface in (scene.floor, scene.wall))
    return _pick(rng, (f" the floor is {floor}.", f" the wall is {wall}."))


def _look(surface: Surface) -> list[str]:
    return [surface.color, *([] if surface.pattern == "plain" else [surface.pattern])]


def _synonym(word: str, rng: np.random.Generator) -> str:
    synonyms = SYNONYMS.get(word, ())
    return _pick(rng, synonyms) if synonyms and rng.random() < 0.25 else word


def _with_article(words: list[str]) -> str:
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _enumerate(phrases: map[str]) -> str:
    *head, last = phrases
    return f"{', '.join(head)} and {last}" if head else last


def _pick(rng: np.random.Generator, options, weights=None):
    return options[int(rng.choice(len(options), p=weights))]
