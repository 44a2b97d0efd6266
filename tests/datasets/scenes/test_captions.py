import random
import re
from collections import Counter

import numpy as np
import pytest

from open4m.datasets.scenes import Scenes, parse_caption
from open4m.datasets.scenes.captions import MAX_WORDS, RELATIONS, describe
from open4m.datasets.scenes.sampling import sample_scene
from open4m.datasets.scenes.scene import COLORS
from open4m.datasets.scenes.world import WORLDS

COUNT = 400


@pytest.fixture(scope="module", params=WORLDS.values(), ids=WORLDS)
def captioned(request):
    """Scenes, drawn without the check of visibility, and their captions."""
    pairs = []
    for index in range(COUNT):
        rng = np.random.default_rng(index)
        scene = sample_scene(request.param, rng)
        pairs.append((scene, describe(scene, rng)))
    return pairs


def matches(found, item):
    return all(getattr(item, kind) == value for kind, value in found.items())


def assignment(found, items):
    """Whether every description can be given an item of its own (there are at most six)."""
    if not found:
        return True
    return any(
        matches(found[0], item) and assignment(found[1:], items[:i] + items[i + 1 :]) for i, item in enumerate(items)
    )


def test_mentioned_objects_are_in_the_scene(captioned):
    for scene, caption in captioned:
        found = parse_caption(caption)
        assert found, caption
        assert all({"shape", "color"} <= set(item) for item in found), caption
        assert assignment(found, list(scene.objects)), caption


def test_at_least_half_of_the_captions_mention_every_object(captioned):
    complete = sum(len(parse_caption(caption)) == len(scene.objects) for scene, caption in captioned)
    assert COUNT / 2 < complete < COUNT


def test_relations_are_true(captioned):
    phrase = r"an? (?:[a-z]+ )+?"
    shapes = "sphere|ball|box|block|cylinder|cone|torus|ring|donut|capsule|pill|pyramid"
    wordings = {wording: name for name, wordings in RELATIONS.items() for wording in wordings}
    linked = re.compile(
        rf"(?=\b({phrase}(?:{shapes}))(?: is|, which is)? ({'|'.join(sorted(wordings, key=len, reverse=True))})"
        rf" ({phrase}(?:{shapes})))"
    )
    checked = Counter()
    for scene, caption in captioned:
        for subject, wording, other in linked.findall(caption):
            subject, other = parse_caption(subject)[-1], parse_caption(other)[0]
            pairs = [
                (a, b)
                for a in scene.objects
                for b in scene.objects
                if a is not b and matches(subject, a) and matches(other, b)
            ]
            holds = {
                "left": lambda a, b: a[0] < b[0] - 0.1,
                "right": lambda a, b: a[0] > b[0] + 0.1,
                "front": lambda a, b: a[2] < b[2] - 0.1,
                "behind": lambda a, b: a[2] > b[2] + 0.1,
            }[wordings[wording]]
            project = scene.camera.project
            assert any(holds(project(a.center), project(b.center)) for a, b in pairs), caption
            checked[wordings[wording]] += 1
    assert min(checked[name] for name in RELATIONS) > 15, checked


def test_captions_are_short_and_of_few_words(captioned):
    words = [re.findall(r"[a-z]+", caption) for _, caption in captioned]
    assert max(map(len, words)) <= MAX_WORDS
    assert len(set().union(*words)) < 150
    assert all(re.fullmatch(r"[a-z,.;: ]+", caption) for _, caption in captioned)
    assert len({caption for _, caption in captioned}) > 0.97 * COUNT


def test_numbers_are_the_number_of_objects(captioned):
    numbers = ("one", "two", "three", "four", "five", "six")
    counts = [
        (numbers.index(found[1]) + 1, len(scene.objects))
        for scene, caption in captioned
        if (found := re.search(rf"\b({'|'.join(numbers)}) objects?\b", caption))
    ]
    assert len(counts) > COUNT / 10
    assert all(said == true for said, true in counts)


def test_parsing_gives_canonical_words_in_order():
    assert parse_caption("a BIG shiny red checked block, left of the little metallic donut on a green floor.") == [
        {"size": "large", "material": "glossy", "color": "red", "pattern": "checkered", "shape": "box"},
        {"size": "small", "material": "metal", "shape": "torus"},
    ]
    assert parse_caption("a red floor and a cone") == [{"shape": "cone"}]


def test_parsing_reads_anything():
    assert parse_caption("") == []
    assert parse_caption("red red blue sphere sphere, \x00 ünï cone cone") == [
        {"color": "blue", "shape": "sphere"},
        {"shape": "sphere"},
        {"shape": "cone"},
        {"shape": "cone"},
    ]
    draw = random.Random(0)
    for _ in range(200):
        for item in parse_caption("".join(draw.choices("abc ,.é\n红sphere", k=80))):
            assert "shape" in item


def test_the_color_named_is_the_color_seen():
    """The nearest named color of a plain matte object's albedo is its name."""
    for index in range(40):
        for item in Scenes().scene(index).objects:
            srgb = np.power(np.array(item.albedo), 1 / 2.2)
            nearest = min(COLORS, key=lambda name: np.abs(np.array(COLORS[name]) - srgb).sum())
            assert nearest == item.color
