import pytest
import torch

from open4m.datasets.scenes import patterns
from open4m.datasets.scenes.scene import OBJECT_CLASSES, PATTERNS, Object, Surface

RED, WHITE = (0.6, 0.1, 0.1), (0.9, 0.9, 0.9)


def surface(pattern, **changes):
    return Surface(**{"color": "red", "pattern": pattern, "albedo": RED, "accent": WHITE, "cell": 0.5, **changes})


def solid(shape, pattern):
    look = {"size": "large", "color": "red", "material": "matte", "albedo": RED, "accent": WHITE}
    extent = (0.5, 0.5, 0.15) if shape == "torus" else (0.5, 0.5, 0.5)
    return Object(shape=shape, pattern=pattern, center=(0.0, 0.0, 0.0), extent=extent, **look)


def is_accent(albedo):
    """Which columns are the second color; all others must be the first."""
    columns = albedo.T
    first, second = (
        torch.isclose(columns, torch.tensor(color), atol=1e-6).all(1, keepdim=True) for color in (RED, WHITE)
    )
    assert (first ^ second).all()
    return second[:, 0].tolist()


def test_a_plain_surface_has_one_color():
    points = torch.rand(3, 20)
    for albedo in (
        patterns.floor_albedo(surface("plain"), points),
        patterns.wall_albedo(surface("plain"), points, points[0] > 0.5),
        patterns.object_albedo(solid("box", "plain"), points),
    ):
        assert is_accent(albedo) == [False]


def test_stripes_change_with_every_cell_along_the_turned_axis():
    across = torch.tensor([[0.25, 0.75, 1.25, -0.25], [0.0, 3.0, 7.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    assert is_accent(patterns.floor_albedo(surface("striped"), across)) == [False, True, False, True]
    turned = across[[1, 0, 2]] * torch.tensor([[1.0], [-1.0], [1.0]])
    floor = surface("striped", angle=torch.pi / 2)
    assert is_accent(patterns.floor_albedo(floor, turned)) == [False, True, False, True]


def test_checkers_change_with_every_cell_along_both_axes():
    points = torch.tensor([[0.25, 0.75, 0.25, 0.75], [0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.0, 0.0]])
    assert is_accent(patterns.floor_albedo(surface("checkered"), points)) == [False, True, True, False]


def test_joints_of_tiles_are_narrow():
    points = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) * 5
    joints = torch.tensor(is_accent(patterns.floor_albedo(surface("tiled"), points))).float().mean()
    assert joints == pytest.approx(1 - 0.93**2, abs=0.03)


def test_wood_is_of_darker_and_lighter_boards():
    points = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) * 5
    brightness = patterns.floor_albedo(surface("wooden"), points).sum(0)
    plain = sum(RED)
    assert brightness.max() <= plain + 1e-6
    assert brightness.min() > 0.3 * plain
    assert len(brightness.unique()) > 6


def test_patterns_of_walls_follow_each_wall():
    """The back wall extends along x, the side walls along y."""
    points = torch.tensor([[0.25, 0.75, 0.25], [0.25, 0.25, 0.75], [1.0, 1.0, 1.0]])
    wall = surface("striped")
    assert is_accent(patterns.wall_albedo(wall, points, torch.tensor([True, True, True]))) == [False, True, False]
    assert is_accent(patterns.wall_albedo(wall, points, torch.tensor([False, False, False]))) == [False, False, True]


@pytest.mark.parametrize("shape", OBJECT_CLASSES)
@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p != "plain"])
def test_every_object_shows_both_colors_of_its_pattern(shape, pattern):
    points = (torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.5
    accents = torch.tensor(is_accent(patterns.object_albedo(solid(shape, pattern), points))).float().mean()
    assert 0.1 < accents < 0.9
