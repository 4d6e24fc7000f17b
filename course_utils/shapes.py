"""Ten shapes, light on a dark ground: pictures of 32 x 32 that the course draws itself, so they need no network.

A class is a shape; place, size, a slight turn and the colours are random. A shape is a signed distance, negative
inside: within half a pixel of the edge it says how much of the pixel is covered, which makes smooth edges.
"""

import numpy as np

from course_utils.images import check_split, hand_over

SIDE = 32  # pixels
N_SHAPES = {"train": 20_000, "test": 2_000}
SIZE = (10.0, 13.0)  # pixels: the radius of the disc that a shape lies in
TURN = np.deg2rad(10)  # to either side: heart and arrow stay upright
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)
DARK, LIGHT = (0.05, 0.3), (0.6, 0.95)  # luminance of the ground and of the shape
CHUNK = 1000  # pictures drawn at once


def load_shapes(split="train", n=None, seed=0, as_uint8=False, quiet=False):
    """Pictures of shapes (n, 3, 32, 32) float32 in [-1, 1] and their classes (n,) int64, which index `SHAPES`.

    20,000 for the split "train", 2,000 for "test", or n. The classes take turns. The same seed gives the same pictures;
    the two splits of a seed share none. `as_uint8` leaves pixels 0..255, `quiet` prints nothing.
    Raises ValueError for an unknown split or n < 1.
    """
    check_split(split)
    n = N_SHAPES[split] if n is None else n
    if n < 1:
        raise ValueError(f"n = {n} pictures asked for; give at least 1")
    rng = np.random.default_rng([seed, split == "test"])
    labels = np.arange(n) % len(SHAPES)
    images = np.concatenate([_draw(labels[i : i + CHUNK], rng) for i in range(0, n, CHUNK)])
    return hand_over(images, labels, f"shapes drawn by the course, {split}", as_uint8, quiet)


def coverage(name, centre, size, turn=0.0):
    """How much of each pixel a shape covers: (n, 32, 32) in [0, 1].

    centre (n, 2): x and y in pixels, from the upper left corner; size (n,): the radius in pixels of the disc around the
    centre that the shape lies in; turn: (n,) or one for all, anticlockwise, in radians.
    """
    centre, size, turn = (np.asarray(value, np.float32) for value in (centre, size, turn))
    middle = np.arange(SIDE, dtype=np.float32) + 0.5
    x = middle[None, None, :] - centre[:, 0, None, None]
    y = centre[:, 1, None, None] - middle[None, :, None]  # upwards
    size, cos, sin = (np.broadcast_to(v, len(centre))[:, None, None] for v in (size, np.cos(turn), np.sin(turn)))
    distance = _SHAPES[name]((cos * x + sin * y) / size, (cos * y - sin * x) / size) * size
    return np.clip(0.5 - distance, 0, 1)


def colour(hue, luminance, purity=1.0):
    """The colour of a hue in [0, 1] with a luminance in [0, 1]: (n,), (n,) -> (n, 3) in [0, 1].

    With purity 1 it is the purest there is, with 0 the grey of this luminance.
    """
    rgb = np.clip(np.abs(((hue[:, None] + [0, 2 / 3, 1 / 3]) % 1) * 6 - 3) - 1, 0, 1)
    own = rgb @ LUMINANCE.astype(rgb.dtype)
    lighter = np.clip((luminance - own) / (1 - own), 0, None)[:, None]  # towards white
    darker = np.minimum(luminance / own, 1)[:, None]  # towards black
    purest = np.where(lighter > 0, rgb + (1 - rgb) * lighter, rgb * darker)
    return luminance[:, None] + purity * (purest - luminance[:, None])


def _draw(labels, rng):
    """One picture for each class: (n, 3, 32, 32) uint8."""
    n = len(labels)
    size = rng.uniform(*SIZE, n)
    margin = size[:, None] + 1
    centre = margin + rng.uniform(size=(n, 2)) * (SIDE - 2 * margin)  # the whole shape is in the picture
    turn = rng.uniform(-TURN, TURN, n)
    mask = np.empty((n, SIDE, SIDE), np.float32)
    for k, name in enumerate(SHAPES):
        mask[labels == k] = coverage(name, centre[labels == k], size[labels == k], turn[labels == k])
    ground, shape = _colours(n, rng)
    # the ground fades from one colour to the other along a random direction
    angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    place = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    fade = 0.5 + (np.cos(angle) * place + np.sin(angle) * place[:, None]) / np.sqrt(2)  # in [0, 1]
    fade, mask = fade.astype(np.float32)[:, None], mask[:, None]
    ground, shape = ground.astype(np.float32)[..., None, None], shape.astype(np.float32)[..., None, None]
    image = ground[:, 0] + (ground[:, 1] - ground[:, 0]) * fade
    image += (shape - image) * mask
    return np.rint(255 * image).astype(np.uint8)


def _colours(n, rng):
    """The ground's two colours (n, 2, 3), dark and soft, and the shape's (n, 3), light and pure.

    Always light on dark: with either at even odds the mean picture of a class would show nothing, and a small network
    takes several times as long to learn the shapes.
    """
    ground, shape = rng.uniform(*DARK, (n, 2)), rng.uniform(*LIGHT, n)
    hue = rng.random((n, 1)) + [0, 0.1]  # neighbours on the wheel
    return np.stack([colour(hue[:, i], ground[:, i], purity=0.5) for i in (0, 1)], 1), colour(rng.random(n), shape)


# Signed distances in units of the size: x to the right, y upwards, (n, 32, 32) each. No shape leaves the unit disc.


def _disc(x, y, radius):
    return np.hypot(x, y) - radius


def _box(x, y, width, height):
    """Half its width and height given."""
    right, above = np.abs(x) - width, np.abs(y) - height
    return np.hypot(np.maximum(right, 0), np.maximum(above, 0)) + np.minimum(np.maximum(right, above), 0)


def _polygon(x, y, corners):
    """Distance to the nearest edge, negative where a ray to the right crosses an odd number of edges."""
    nearest, inside = np.full_like(x, np.inf), np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = x2 - x1, y2 - y1
        along = np.clip(((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, (x - x1 - along * dx) ** 2 + (y - y1 - along * dy) ** 2)
        if dy:  # a level edge is never crossed
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * dx / dy)
    return np.where(inside, -1, 1) * np.sqrt(nearest)


def _ring_of_corners(n, radii=(1,)):
    """n corners around the centre, the first at the top, on circles of these radii in turn."""
    angle = np.pi / 2 + 2 * np.pi * np.arange(n) / n
    return np.resize(radii, n)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


_TRIANGLE = _ring_of_corners(3)
_STAR = _ring_of_corners(10, (1, 0.42))
_ARROW = np.array([(0, 1), (0.75, 0.15), (0.3, 0.15), (0.3, -0.95), (-0.3, -0.95), (-0.3, 0.15), (-0.75, 0.15)])
_HALF_HOURGLASS = np.array([(0, -0.06), (0.62, 0.78), (-0.62, 0.78)])


def _heart(x, y):
    """A square on its tip and a disc on each of its two upper sides."""
    half = 0.46  # of the square's side
    u, v = (x + y + 0.2) * np.sqrt(0.5), (y + 0.2 - x) * np.sqrt(0.5)
    discs = np.minimum(_disc(u - half, v, half), _disc(u, v - half, half))
    return np.minimum(_box(u, v, half, half), discs)


_SHAPES = {
    "circle": lambda x, y: _disc(x, y, 0.9),
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "triangle": lambda x, y: _polygon(x, y, _TRIANGLE),
    "star": lambda x, y: _polygon(x, y, _STAR),
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.28), _box(x, y, 0.28, 0.95)),
    "ring": lambda x, y: np.abs(_disc(x, y, 0.74)) - 0.22,
    "heart": _heart,
    "crescent": lambda x, y: np.maximum(_disc(x, y, 0.95), -_disc(x - 0.45, y, 0.72)),
    "arrow": lambda x, y: _polygon(x, y, _ARROW),
    "hourglass": lambda x, y: _polygon(x, np.abs(y), _HALF_HOURGLASS),
}
SHAPES = tuple(_SHAPES)
