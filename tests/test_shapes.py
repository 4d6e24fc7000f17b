"""The shapes that the course draws: areas in closed form, smooth edges, colours that contrast."""

import colorsys
import math

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline

from course_utils import shapes
from course_utils.data import SHAPES, load_shapes, to_float
from course_utils.shapes import LUMINANCE, SIDE, SIZE, TURN, colour, coverage

N = 200


def placed(n, seed=0):
    """Centres, sizes and turns as the loader draws them."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(*SIZE, n)
    centre = size[:, None] + 1 + rng.uniform(size=(n, 2)) * (SIDE - 2 * (size[:, None] + 1))
    return centre, size, rng.uniform(-TURN, TURN, n)


def polygon_area(corners):
    x, y = corners.T
    return abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2


def lens_area(r, s, distance):
    """What two discs have in common."""
    a = (distance**2 + r**2 - s**2) / (2 * distance)
    b = distance - a
    return r**2 * math.acos(a / r) - a * math.sqrt(r**2 - a**2) + s**2 * math.acos(b / s) - b * math.sqrt(s**2 - b**2)


# in units of the size squared
AREAS = {
    "circle": math.pi * 0.9**2,
    "square": 1.4**2,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 5 * 0.42 * math.sin(math.pi / 5),
    "cross": 2 * (1.9 * 0.56) - 0.56**2,
    "ring": math.pi * (0.96**2 - 0.52**2),
    "heart": 0.92**2 + math.pi * 0.46**2,
    "crescent": math.pi * 0.95**2 - lens_area(0.95, 0.72, 0.45),
    "arrow": 0.6 * 1.1 + 0.75 * 0.85,
    "hourglass": 2 * (0.62 * 0.84 - 0.06 * 0.62 * 0.06 / 0.84),  # two triangles, less the tips beyond the middle
}


@pytest.mark.parametrize("name", SHAPES)
def test_area(name):
    centre, size, turn = placed(N)
    ratio = coverage(name, centre, size, turn).sum((1, 2)) / (AREAS[name] * size**2)
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert np.abs(ratio - 1).max() < 0.05


@pytest.mark.parametrize("radius", [6.5, 9, 12.5, 14])
def test_area_of_a_circle_is_pi_r_squared(radius):
    """And exactly pi (r^2 + 1/12) on average over its place: the edge is blurred over a pixel, r + u, u in +- 1/2."""
    centre = 16 + np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    area = coverage("circle", centre, np.full(2000, radius / 0.9)).sum((1, 2), dtype=float)
    error = area.std() / math.sqrt(2000)
    assert abs(area.mean() - math.pi * (radius**2 + 1 / 12)) < 4 * error + 1e-4 * radius
    assert np.abs(area / (math.pi * radius**2) - 1).max() < 0.01


@pytest.mark.parametrize("name", SHAPES)
def test_smooth_edges(name):
    """What a pixel shows is the part of it that is covered, as 8 x 8 points in it count it."""
    centre, size, turn = placed(20, seed=1)
    fine = 8
    many = np.zeros((20, SIDE, SIDE), np.float32)
    for dx in (np.arange(fine) + 0.5) / fine - 0.5:
        for dy in (np.arange(fine) + 0.5) / fine - 0.5:
            many += coverage(name, centre - [dx, dy], size, turn) > 0.5  # the sign of the distance alone
    many /= fine**2
    ours = coverage(name, centre, size, turn)
    assert np.abs(ours - many).mean() < 0.006
    assert np.sqrt(np.square(ours - many).mean()) < 0.04
    partly = ((ours > 0.05) & (ours < 0.95)).sum((1, 2))
    assert (partly > 2 * size).all()  # a pixel or so along the whole edge


@pytest.mark.parametrize("corners", ["_TRIANGLE", "_STAR", "_ARROW", "_HALF_HOURGLASS"])
def test_polygons_against_a_second_library(corners):
    corners = getattr(shapes, corners)
    x, y = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 5000))
    distance = shapes._polygon(x, y, corners)
    inside = Outline(corners).contains_points(np.stack([x, y], 1))
    np.testing.assert_array_equal(distance < 0, inside)
    along = np.linspace(0, 1, 2001)[:, None, None]
    edge = (corners + along * (np.roll(corners, -1, axis=0) - corners)).reshape(-1, 2)
    nearest = np.hypot(x[:300, None] - edge[:, 0], y[:300, None] - edge[:, 1]).min(1)
    np.testing.assert_allclose(np.abs(distance[:300]), nearest, atol=1e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_a_quarter_turn_turns_the_picture(name):
    centre, size, turn = placed(20)
    turned_centre = np.stack([centre[:, 1], SIDE - centre[:, 0]], 1)  # anticlockwise, y downwards
    ours = coverage(name, turned_centre, size, turn + math.pi / 2)
    np.testing.assert_allclose(ours, np.rot90(coverage(name, centre, size, turn), axes=(1, 2)), atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_whole_in_its_disc(name):
    centre, size, turn = placed(N)
    middle = np.arange(SIDE) + 0.5
    away = np.hypot(middle - centre[:, 0, None, None], middle[:, None] - centre[:, 1, None, None])
    mask = coverage(name, centre, size, turn)
    assert (mask[away > size[:, None, None] + 0.75] == 0).all()
    assert mask[:, [0, -1]].max() == mask[:, :, [0, -1]].max() == 0  # nothing is cut off by the border


def test_the_classes_differ():
    """Same place and size: no two shapes agree in more than a part of the pixels they cover."""
    masks = [coverage(name, [[16, 16]], [10])[0] for name in SHAPES]
    for i in range(len(SHAPES)):
        for j in range(i):
            common = np.minimum(masks[i], masks[j]).sum() / np.maximum(masks[i], masks[j]).sum()
            assert common < 0.85, (SHAPES[i], SHAPES[j])


def test_colours_have_the_luminance_and_the_hue():
    rng = np.random.default_rng(0)
    hue, luminance = rng.random((2, 500))
    for purity in (1, 0.5):
        rgb = colour(hue, luminance, purity)
        assert rgb.min() >= 0 and rgb.max() <= 1
        np.testing.assert_allclose(rgb @ LUMINANCE, luminance, atol=1e-6)
        others = np.array([colorsys.rgb_to_hsv(*one)[0] for one in rgb])
        assert np.abs((others - hue + 0.5) % 1 - 0.5).max() < 1e-6
    pure = colour(hue, luminance)
    assert (np.isclose(pure.min(1), 0) | np.isclose(pure.max(1), 1)).all()  # none is purer
    np.testing.assert_allclose(colour(hue, luminance, 0), np.repeat(luminance[:, None], 3, 1))


@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures(split):
    images, labels = load_shapes(split, 1000, quiet=True)
    assert images.shape == (1000, 3, SIDE, SIDE) and images.dtype == torch.float32
    assert labels.dtype == torch.int64 and labels.bincount().tolist() == [100] * 10
    assert labels[:10].tolist() == list(range(10))  # so that any first part is balanced
    assert -1 <= images.min() < -0.95 and 0.95 < images.max() <= 1


def test_how_many():
    assert len(load_shapes("test", quiet=True)[1]) == 2000
    assert shapes.N_SHAPES["train"] == 20_000
    assert len(load_shapes("train", 3, quiet=True)[0]) == 3


def test_the_shape_stands_out():
    """Light on dark, whatever the hues: so the mean picture of a class shows it too."""
    ground, shape = shapes._colours(2000, np.random.default_rng(0))
    assert ((shape @ LUMINANCE)[:, None] - ground @ LUMINANCE).min() > 0.29


def test_the_picture_shows_the_shape_of_its_class(monkeypatch):
    """White on black, it is the coverage that was asked for."""
    calls = []

    def spy(name, centre, size, turn):
        calls.append((name, coverage(name, centre, size, turn)))
        return calls[-1][1]

    monkeypatch.setattr(shapes, "coverage", spy)
    monkeypatch.setattr(shapes, "_colours", lambda n, rng: (np.zeros((n, 2, 3)), np.ones((n, 3))))
    images, labels = load_shapes("train", 30, as_uint8=True, quiet=True)
    assert [name for name, _ in calls] == list(SHAPES)
    for k, (_, mask) in enumerate(calls):
        expected = np.repeat(mask[:, None], 3, 1) * 255
        np.testing.assert_allclose(images[labels == k].numpy(), expected, atol=0.51)


def test_the_seed_decides():
    first, again = load_shapes("train", 40, seed=3, quiet=True)[0], load_shapes("train", 40, seed=3, quiet=True)[0]
    assert torch.equal(first, again)
    others = [load_shapes("train", 40, seed=4, quiet=True)[0], load_shapes("test", 40, seed=3, quiet=True)[0]]
    for other in others:
        assert (first != other).flatten(1).any(1).all()  # not one picture in common


def test_as_uint8():
    pixels, labels = load_shapes("test", 40, as_uint8=True, quiet=True)
    images, same = load_shapes("test", 40, quiet=True)
    assert pixels.dtype == torch.uint8
    assert torch.equal(to_float(pixels), images) and torch.equal(labels, same)


def test_says_what_it_is(capsys):
    load_shapes("train", 20)
    assert capsys.readouterr().out == "20 shapes drawn by the course, train\n"
    load_shapes("train", 20, quiet=True)
    assert capsys.readouterr().out == ""


def test_bad_input():
    with pytest.raises(ValueError, match="unknown split 'validation'"):
        load_shapes("validation")
    with pytest.raises(ValueError, match="n = 0"):
        load_shapes("train", 0)
