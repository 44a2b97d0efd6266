"""Poses, instances, palettes and metadata: what is decoded strictly, how they follow the picture, and their forms."""

import numpy as np
import pytest

from open4m import modalities
from open4m.modalities.crops import Crop
from open4m.modalities.human_poses import LENGTH, People
from open4m.modalities.metadata import ENTRIES, Metadata
from open4m.modalities.sam_instance import Instances
from open4m.modalities.skeleton import BONES, projected
from open4m.tokenizers.text import TextTokenizer
from open4m.types import Open4MError

PALETTES, METADATA, POSES, OBJECTS = map(modalities.get, ("color_palette", "metadata", "human_poses", "sam_instance"))
RNG = np.random.default_rng(0)
PERSON = {
    "box": [0.25, 0.125, 0.75, 0.875],
    "rotations": 0.2 * RNG.standard_normal(69),
    "orientation": [3.0, 0.2, 0.1],
    "camera": [0.9, 0.05, 0.25],
}
CODED = {**PERSON, "rotations": None, "tokens": [0, 511, 512, 1023, 7, 8, 9, 600], "shape": [0.5] * 10}


@pytest.fixture(scope="module")
def text():
    words = dict.fromkeys([*POSES.words, *OBJECTS.words])
    return TextTokenizer.fit(["a cube"], list(words), vocab_size=4400, sentinels=4)


def said(text, line):
    """The ids of ``v0=3 human cube``: numbers on axes, words."""
    words = line.split()
    return [text.number_id(int(w[1]), int(w[3:])) if "=" in w else text.encode_text(w)[0] for w in words]


# ---- strict decoding

POLYGON = "polygon v0=10 v1=20 v2=30 v3=40 " + " ".join(f"v{k % 2}={k}" for k in range(16))


@pytest.mark.parametrize(
    ("line", "colors", "malformed"),
    [
        ("v1=1 v0=1 v0=2 v0=3", 1, 0),
        ("v1=2 v0=1 v0=2 v0=3 v0=4 v0=5", 1, 2),  # half a color
        ("v1=2 v0=1 v0=2 v0=3", 1, 1),  # one of two announced
        ("v1=1 v0=1 v0=2 v0=3 v0=4 v0=5 v0=6", 1, 3),  # three numbers too many
        ("v0=1 v0=2 v0=3", 0, 3),  # no number of colors
        ("v1=1 v0=1 v0=256 v0=3", 0, 4),  # no color has 256
        ("v1=8 " + "v0=1 v0=2 v0=3 " * 8, 0, 25),  # more than there may be
        ("v1=1 v0=1 cube v0=3", 0, 4),
        ("cube", 0, 1),
        ("v1=0", 0, 1),  # a palette without colors is an empty sequence
        ("", 0, 0),
    ],
)
def test_palettes(line, colors, malformed, text):
    value = PALETTES.decode(said(text, line), text)
    assert (len(value), value.malformed) == (colors, malformed)


@pytest.mark.parametrize(
    ("line", "codes", "malformed"),
    [
        ("v1=10 v0=23 v1=5 v0=2", {"brightness": 23, "n_humans": 2}, 0),
        ("v1=10 v0=50", {}, 1),  # bins are 0 to 49
        ("v1=21 v0=3", {}, 1),  # there is no such kind
        ("v0=3 v1=5 v0=2", {"n_humans": 2}, 1),
        ("v1=5 v0=2 cube v1=6 v0=1", {"n_sam_instances": 1}, 1),
        ("v1=5 v0=2 v1=5 v0=3", {"n_humans": 3}, 1),  # the last one counts
        ("v1=20 v0=3 v1=19 v0=1", {"watermark_score": 1}, 1),  # three classes of the first, two of the second
    ],
)
def test_metadata(line, codes, malformed, text):
    value = METADATA.decode(said(text, line), text)
    assert (value.codes, value.malformed) == (codes, malformed)


@pytest.mark.parametrize(
    ("line", "points", "objects", "malformed"),
    [
        (f"point v0=1 v1=2 none point v0=3 v1=4 {POLYGON} {POLYGON}", 2, 2, 0),
        (f"none point v0=1 v1=2 {POLYGON}", 1, 1, 1),  # words before the first point
        (f"point v1=1 v0=2 {POLYGON}", 0, 0, 2),  # x and y exchanged: the point and its object
        (f"point v0=1 v1=225 {POLYGON}", 0, 0, 2),  # beyond the picture
        ("point v0=1 v1=2", 0, 0, 1),  # cut after the point
        (f"point v0=1 v1=2 {POLYGON} polygon v0=1", 1, 1, 1),  # cut in an object
        (f"point v0=1 v1=2 none {POLYGON}", 1, 1, 1),  # nothing, and yet an object
        (f"point v0=1 v1=2 {POLYGON.replace('v2=30', 'v2=10')}", 0, 0, 2),  # a box without area
        (f"point v0=1 v1=2 {POLYGON.replace('v1=15', 'v1=512')}", 0, 0, 2),  # a code of 1024
        (f"point v0=1 v1=2 {POLYGON.replace('v1=15', 'v2=15')}", 0, 0, 2),
        (f"{POLYGON}", 0, 0, 1),
        ("", 0, 0, 0),
    ],
)
def test_instances(line, points, objects, malformed, text):
    value = OBJECTS.decode(said(text, line), text)
    assert (len(value.points), len(value), value.malformed) == (points, objects, malformed)


def test_people(text):
    ids = POSES.encode(POSES.convert([CODED, CODED]), text)[:-1]
    assert len(ids) == 2 * LENGTH == 78
    assert (len(POSES.decode(ids, text)), POSES.decode(ids, text).malformed) == (2, 0)
    none = said(text, "none")
    for changed, people, malformed in (
        (none, 0, 0),
        (none + ids, 2, 1),
        (ids + none, 1, 1),  # no person ends with it
        (ids[:-1], 1, 1),
        (ids[1:], 1, 1),
        (ids[: LENGTH - 4], 0, 1),
        (ids[: LENGTH + 1] + ids[LENGTH + 5 :], 1, 1),  # without a box
        (ids[:1] + ids[3:5] + ids[1:3] + ids[5:], 1, 1),  # corners in another order
        (ids[:5] + ids[14:24] + ids[14:24] + ids[24:], 1, 1),  # one part twice
    ):
        value = POSES.decode(changed, text)
        assert (len(value), value.malformed) == (people, malformed), changed


WELL_FORMED = {
    "color_palette": "v1=2 v0=1 v0=2 v0=3 v0=4 v0=5 v0=6",
    "metadata": "v1=10 v0=23 v1=5 v0=2",
    "human_poses": "none",
    "sam_instance": f"point v0=1 v1=2 none point v0=3 v1=4 {POLYGON}",
}


@pytest.mark.parametrize("name", WELL_FORMED)
@pytest.mark.parametrize("changes", range(3))
def test_what_is_not_counted_as_malformed_is_what_the_tokens_say(name, changes, text):
    """Sequences that differ from a well-formed one: each is counted, or comes back exactly."""
    modality, random = modalities.get(name), np.random.default_rng(changes)
    other = said(text, "v0=0 v0=5 v1=0 v1=1 v2=7 cube none human point polygon")
    for _ in range(200):
        ids = said(text, WELL_FORMED[name]) * int(random.integers(2))
        for _ in range(changes):
            place = int(random.integers(len(ids) + 1))
            ids[place : place + int(random.integers(2))] = random.choice(other, random.integers(2)).tolist()
        value = modality.decode(ids, text)
        assert value.malformed or not ids or modality.encode(value, text)[:-1] == ids, ids


def test_a_vocabulary_without_the_words_or_numbers_says_so():
    small = TextTokenizer.fit(["a cube"], [], vocab_size=4400, sentinels=4)
    with pytest.raises(Open4MError, match=r"'human' is not one token: fit a vocabulary with the words"):
        POSES.encode(POSES.convert([CODED]), small)
    few = TextTokenizer.fit(["a cube"], [], vocab_size=800, bins=100, sentinels=4)
    with pytest.raises(Open4MError, match="vocabularies of 1000 bins have all numbers"):
        PALETTES.encode(PALETTES.convert(["#fff"]), few)
    with pytest.raises(Open4MError, match="rotations without tokens: a tokenizer of human_pose"):
        POSES.encode(POSES.convert([PERSON]), small)


# ---- users' forms


def test_palettes_are_given_as_people_write_them():
    expected = PALETTES.convert([[255, 0, 128], [34, 34, 34]])
    for given in (["#ff0080", "#222"], "#FF0080, 222", "ff0080 #222222", np.uint8([[255, 0, 128], [34, 34, 34]])):
        assert PALETTES.convert(given) == expected
    assert PALETTES.convert([255, 0, 128]).hex == ("#ff0080",)
    assert expected.hex == ("#ff0080", "#222222")


def test_metadata_is_a_dictionary_that_keeps_its_tokens():
    value = METADATA.convert({"brightness": 118.2, "original_width": 640, "aesthetic_score": 5.5, "entropy": -3})
    assert value.codes == {"brightness": 22, "original_width": 20, "aesthetic_score": 2, "entropy": 0}
    assert dict(value) == {"brightness": 112.2, "original_width": 640, "aesthetic_score": 2, "entropy": 0}
    assert METADATA.convert({"codes": value.codes}) == value
    assert value != Metadata({"brightness": 22})
    for name, entry in ENTRIES.items():  # every code that a value can have is there and back
        codes = range(entry.codes)
        assert all(METADATA.read(METADATA.write(Metadata({name: code}))).codes == {name: code} for code in codes[:60])


def test_masks_of_a_picture_are_points_with_their_objects():
    masks = np.zeros((3, 40, 80), bool)
    masks[0, 10:20, 20:60] = True
    masks[1, :, :40] = True
    value = OBJECTS.convert(masks)  # the third is empty
    assert [point.instances[0].box for point in value.points] == [(0.25, 0.25, 0.75, 0.5), (0.0, 0.0, 0.5, 1.0)]
    for point, mask in zip(value.points, masks, strict=False):
        assert mask[int(point.place[1] * 40), int(point.place[0] * 80)]
        assert point.instances[0].pixels.all()
    ring = np.ones((1, 30, 30), bool)
    ring[0, 5:25, 5:25] = False  # its center is outside of it
    (point,) = OBJECTS.convert(ring).points
    assert ring[0, int(point.place[1] * 30), int(point.place[0] * 30)]


def test_rotations_are_matrices_or_axis_and_angle():
    from scipy.spatial.transform import Rotation

    matrices = Rotation.from_rotvec(np.reshape(PERSON["rotations"], (23, 3))).as_matrix()
    orientation = Rotation.from_rotvec(PERSON["orientation"]).as_matrix()
    value = POSES.convert([{**PERSON, "rotations": matrices, "orientation": orientation}])
    np.testing.assert_allclose(value.people[0].rotations, POSES.convert([PERSON]).people[0].rotations)


# ---- geometry


def joints(value, size=(100, 100)):
    return [POSES._points(person, size) for person in value.people]


def test_a_person_at_rest_stands_upright_in_the_box():
    rest = {**PERSON, "rotations": np.zeros(69), "orientation": [np.pi, 0, 0], "camera": [1, 0, 0.22]}
    (points,) = joints(POSES.convert([rest]))
    assert points[15, 1] < points[12, 1] < points[0, 1] < points[4, 1] < points[7, 1]  # from head to ankle
    assert points[20, 0] > points[21, 0]  # who faces the camera has the left hand on the right
    np.testing.assert_allclose(points[[20, 21], 0].mean(), 50, atol=1e-9)
    assert points.min() > 0
    assert points.max() < 100
    assert set(BONES) == set(range(1, 24))


def test_a_bent_joint_moves_what_hangs_on_it_and_nothing_else():
    rotations = np.zeros((23, 3))
    rotations[17] = [0, 0, np.pi / 2]  # the left elbow
    fields = (np.eye(3), (1, 0, 0), np.array([0, 0, 2, 2.0]))
    bent, rest = (
        projected(POSES.convert([{**PERSON, "rotations": r}]).people[0].rotations, *fields)
        for r in (rotations, np.zeros(69))
    )
    moved = np.flatnonzero(np.linalg.norm(bent - rest, axis=1) > 1e-9)
    assert moved.tolist() == [20, 22]  # wrist and hand
    np.testing.assert_allclose(bent[20] - bent[18], [0, 0.25], atol=1e-9)  # the forearm was along x


def test_the_mirror_shows_what_the_mirrored_picture_does():
    value = POSES.convert([PERSON])
    (points,), (mirrored,) = joints(value), joints(POSES.flip(value))
    pairs = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22]
    np.testing.assert_allclose(mirrored, (points * [-1, 1] + [100, 0])[pairs], atol=1e-9)
    assert POSES.can_flip(value)
    assert not POSES.can_flip(POSES.convert([CODED]))
    np.testing.assert_allclose(joints(POSES.flip(POSES.flip(value)))[0], points, atol=1e-9)


@pytest.mark.parametrize("crop", [Crop(0.1, 0.05, 0.8, 0.9, (90, 80)), Crop(0.4, 0.3, 0.5, 0.6, (60, 50))])
def test_cropped_people_stay_where_they_are(crop):
    """Also where their box is cut, on which the camera depends."""
    value = POSES.convert([PERSON])
    (points,), (cut,) = joints(value), joints(POSES.crop(value, crop), crop.size[::-1])
    np.testing.assert_allclose(cut, points - [100 * crop.left, 100 * crop.top], atol=1e-9)
    assert POSES.crop(value, Crop(0.8, 0, 0.2, 1, (10, 10))) == People()


def test_objects_follow_the_picture():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 10:30, 8:32] = RNG.random((20, 24)) > 0.3
    mask[0, [10, 29], :][:, [8, 31]] = True
    mask[0, 10, 8] = mask[0, 29, 31] = True
    value = OBJECTS.convert(mask)
    flipped = OBJECTS.flip(value)
    twice = OBJECTS.flip(flipped).points[0]
    np.testing.assert_allclose(twice.place, value.points[0].place)
    assert twice.instances[0].mask == value.points[0].instances[0].mask
    mirrored = OBJECTS.convert(mask[:, :, ::-1]).points[0].instances[0]
    np.testing.assert_allclose(flipped.points[0].instances[0].box, mirrored.box)
    assert np.array_equal(flipped.points[0].instances[0].pixels, mirrored.pixels)
    crop = Crop(0.5, 0, 0.5, 1, (40, 20))  # the right half cuts it in two
    cut = OBJECTS.crop(
        OBJECTS.convert(
            [
                {
                    "point": [0.6, 0.5],
                    "instances": [
                        {"box": list(value.points[0].instances[0].box), "mask": value.points[0].instances[0].pixels}
                    ],
                }
            ]
        ),
        crop,
    )
    whole = value.points[0].instances[0].pixels
    np.testing.assert_allclose(cut.points[0].instances[0].box, (0, 0.25, 0.6, 0.75))
    assert np.array_equal(cut.points[0].instances[0].pixels, np.repeat(whole[:, 32:], 2, axis=1))
    coded = OBJECTS.convert([{"point": [0.6, 0.5], "instances": [{"box": [0.2, 0.25, 0.8, 0.75], "tokens": [1] * 16}]}])
    assert len(OBJECTS.crop(coded, crop)) == 0  # tokens cannot be cut
    assert OBJECTS.flip(coded) == coded
    assert not OBJECTS.can_flip(coded)
    assert OBJECTS.crop(coded, Crop(0.8, 0, 0.2, 1, (10, 10))) == Instances()


def test_outlines_skeletons_and_swatches_are_drawn_where_they_are():
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 16:48, 16:48] = True
    drawn = np.asarray(OBJECTS.render(OBJECTS.convert(mask), 64)).astype(int)
    ground = drawn[0, 0]
    assert (drawn[16, 20] != ground).any()  # the outline
    assert (drawn[20, 20] == ground).all()  # but not the inside
    value = POSES.convert([PERSON])
    drawn, (points,) = np.asarray(POSES.render(value, 200)).astype(int), joints(value, (200, 200))
    for x, y in points.astype(int):
        if 0 <= x < 200 and 0 <= y < 200:
            assert (drawn[y, x] != drawn[0, 0]).any()
    swatches = np.asarray(PALETTES.render(PALETTES.convert(["#ff0000", "#0000ff"]), 64))
    assert swatches[20, 10].tolist() == [255, 0, 0]
    assert swatches[20, 50].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"original_width": 650, "original_height": 1e9}, {"original_width": 640, "original_height": 31968}),
        ({"n_humans": 3.9, "caption_n_chars": 5000}, {"n_humans": 3, "caption_n_chars": 999}),
        ({"brightness": 118.2, "entropy": -4}, {"brightness": 112.2, "entropy": 0.0}),
        ({"watermark_score": 0.7, "aesthetic_score": 5.0}, {"watermark_score": 1, "aesthetic_score": 1}),
    ],
)
def test_numbers_of_metadata_are_rounded_as_formats_and_frames_says(given, expected):
    assert dict(modalities.get("metadata").convert(given)) == expected


def test_measures_come_back_at_most_4_percent_of_their_range_lower():
    for entry in (each for each in ENTRIES.values() if each.high):
        values = np.linspace(entry.low, entry.high, 501)
        lost = [(value - entry.value(entry.code(value))) / (entry.high - entry.low) for value in values]
        assert -1e-9 < min(lost) <= max(lost) <= 0.04
