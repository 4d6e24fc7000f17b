"""A small temple that the course builds of convex solids and draws by ray casting.

A ray is cut with each solid and the nearest hit is kept, as a depth buffer does. The stone is a noise in space, so that
a point has the same colour in every view. Its sixteen cameras, and the depth of every pixel, are exact.
"""

from functools import cache

import numpy as np
import torch

from course_utils.cameras import Camera

WIDTH, HEIGHT, N_VIEWS = 640, 480, 16


# ---- solids ----------------------------------------------------------------------------------------------------------
# A solid cuts rays origin + s * direction, with directions (N, 3), in one stretch each. The unit is about a metre, as
# in the photographs' cameras, and y points upwards.


class Block:
    """A convex solid of flat faces: points X with normals X <= heights; normals (F, 3) of length 1, heights (F,)."""

    def __init__(self, normals, heights, corners, stone):
        self.normals, self.heights, self.corners, self.stone = normals, heights, corners, stone

    def enter(self, origin, directions):
        """The s at which the rays enter, infinite where they miss: (N,)."""
        slope, gap = directions @ self.normals.T, self.heights - self.normals @ origin
        with np.errstate(divide="ignore", invalid="ignore"):
            s = gap / slope
        first = np.where(slope < 0, s, -np.inf).max(1)
        last = np.where(slope > 0, s, np.inf).min(1)
        missed = (first >= last) | (first <= 0) | ((slope == 0) & (gap < 0)).any(1)
        return np.where(missed, np.inf, first)

    def normal(self, X):
        """The outward normals (N, 3) at points X of the surface."""
        return self.normals[(X @ self.normals.T - self.heights).argmax(1)]


class Drum:
    """An upright cylinder with n flutes, which are only shaded: its surface stays round."""

    def __init__(self, x, z, radius, bottom, top, stone, flutes=0):
        self.centre, self.radius, self.ends = np.array([x, z]), radius, np.array([bottom, top])
        self.stone, self.flutes = stone, flutes
        self.corners = _corners([x - radius, bottom, z - radius], [x + radius, top, z + radius])

    def enter(self, origin, directions):
        """The s at which the rays enter, infinite where they miss: (N,)."""
        p, d = origin[[0, 2]] - self.centre, directions[:, [0, 2]]
        a, b, c = (d**2).sum(1), d @ p, p @ p - self.radius**2
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(b**2 - a * c)  # NaN where the ray passes by
            caps = np.sort((self.ends - origin[1]) / directions[:, 1:2], axis=1)
            first, last = np.fmax((-b - root) / a, caps[:, 0]), np.fmin((root - b) / a, caps[:, 1])
        missed = ~np.isfinite(root) | (first >= last) | (first <= 0)
        return np.where(missed, np.inf, first)

    def normal(self, X):
        """The outward normals (N, 3) at points X of the surface, turned a little by the flutes."""
        side = X[:, [0, 2]] - self.centre
        angle = np.arctan2(side[:, 1], side[:, 0])
        angle = angle + 0.9 * np.sin(self.flutes * angle) * (self.flutes > 0)
        round_ = np.stack([np.cos(angle), np.zeros(len(X)), np.sin(angle)], 1)
        on_top = np.abs(X[:, 1:2] - self.ends).min(1) < self.radius - np.linalg.norm(side, axis=1)
        return np.where(on_top[:, None], [0, 1.0, 0], round_)


def _corners(low, high):
    return np.stack(np.meshgrid(*zip(low, high, strict=True)), -1).reshape(-1, 3)


def _box(x, y, z, stone, cuts=()):
    """A box from x[0] to x[1] and so on; each cut (normal, height) takes off what lies beyond that plane."""
    low, high = (np.array([side[i] for side in (x, y, z)], float) for i in (0, 1))
    normals, heights = [*np.eye(3), *-np.eye(3)], [*high, *-low]
    for normal, height in cuts:
        length = np.linalg.norm(normal)
        normals.append(np.array(normal) / length)
        heights.append(height / length)
    return Block(np.array(normals), np.array(heights), _corners(low, high), stone)


@cache
def build():
    """The solids of the temple: three steps, columns, beams, a frieze and half a gable; the back is in ruins."""
    mid_x, mid_z = -0.022, 0.025
    solids = []

    def box(x, y, z, stone="ashlar", cuts=()):
        shifted = [(normal, height + normal[0] * mid_x + normal[2] * mid_z) for normal, height in cuts]
        solids.append(_box(np.add(x, mid_x), y, np.add(z, mid_z), stone, shifted))

    def drum(x, z, radius, bottom, top, stone="smooth", flutes=0):
        solids.append(Drum(x + mid_x, z + mid_z, radius, bottom, top, stone, flutes))

    for i, (bottom, top) in enumerate([(0.022, 0.031), (0.031, 0.040), (0.040, 0.048)]):
        broken = [((1, 0, -1), 0.082 - 0.014 * i)]  # the right corner of the back is gone
        box(
            [-0.051 + 0.005 * i, 0.051 - 0.005 * i],
            [bottom, top],
            [-0.0375 + 0.004 * i, 0.0375 - 0.004 * i],
            cuts=broken,
        )
    front, back = 0.022, -0.022
    tops = {(-0.034, front): 1, (-0.0113, front): 1, (0.0113, front): 1, (0.034, front): 1}
    tops |= {(-0.034, back): 1, (-0.0113, back): 1, (0.0113, back): 0.55, (0.031, back): 0.25, (-0.034, 0.0): 1}
    for (x, z), part in tops.items():
        box([x - 0.009, x + 0.009], [0.048, 0.0505], [z - 0.009, z + 0.009], "smooth")
        drum(x, z, 0.0064, 0.0505, 0.0505 + 0.060 * part, flutes=14)
        if part == 1:
            drum(x, z, 0.0082, 0.1105, 0.1135)
            box([x - 0.0098, x + 0.0098], [0.1135, 0.117], [z - 0.0098, z + 0.0098], "smooth")
    beams = [
        ([-0.043, 0.043], [0.013, 0.031]),
        ([-0.043, -0.025], [-0.031, 0.013]),
        ([-0.025, -0.002], [-0.031, -0.013]),
    ]
    for x, z in beams:
        box(x, [0.117, 0.128], z)
    box([-0.042, 0.042], [0.128, 0.140], [0.014, 0.030], "smooth")
    box([-0.042, -0.026], [0.128, 0.140], [-0.030, 0.014], "smooth")
    box([-0.025, -0.010], [0.128, 0.136], [-0.030, -0.015], cuts=[((1, 1, 0), 0.120)])
    for x in np.linspace(-0.0395, 0.0395, 8):  # triglyphs, each of three bars
        for bar in (-0.0022, 0, 0.0022):
            box([x + bar - 0.0008, x + bar + 0.0008], [0.1285, 0.139], [0.030, 0.0312], "smooth")
    for z in np.linspace(-0.027, 0.027, 6):
        for bar in (-0.0022, 0, 0.0022):
            box([-0.0432, -0.042], [0.1285, 0.139], [z + bar - 0.0008, z + bar + 0.0008], "smooth")
    box([-0.047, 0.047], [0.140, 0.145], [0.010, 0.035])
    box([-0.047, -0.022], [0.140, 0.145], [-0.034, 0.010], cuts=[((0.3, 0, -1), 0.026)])
    roof = [((0.62, 1, 0), 0.1835), ((-0.62, 1, 0), 0.1835)]
    box([-0.047, 0.020], [0.145, 0.182], [0.014, 0.030], cuts=[*roof, ((1, 0.4, 0), 0.080)])
    box(
        [-0.047, 0.012],
        [0.145, 0.1855],
        [0.0285, 0.0345],
        "smooth",
        cuts=[((-0.62, 1, 0), 0.1865), ((0.62, -1, 0), -0.1565)],
    )
    box([0.024, 0.040], [0.145, 0.153], [0.015, 0.029], cuts=[((0.5, 1, 0.2), 0.171)])
    for i, top in enumerate([0.062, 0.074, 0.086, 0.070]):  # what is left of the wall inside
        box([-0.006 + 0.008 * i, 0.002 + 0.008 * i], [0.048, top], [-0.006, 0.002])
    return tuple(solids)


# ---- drawing ---------------------------------------------------------------------------------------------------------

LIGHT = np.array([-0.45, 0.65, 0.75]) / np.linalg.norm([-0.45, 0.65, 0.75])  # towards it
STONE = np.array([0.93, 0.80, 0.58])
SAMPLES = 2  # rays across a pixel and down it, for smooth edges


@cache
def ring():
    """The sixteen exact cameras: 22.5 degrees apart on a circle around the temple, a little above it.

    As in the photographs, the pictures' x axis points upwards along the temple, which therefore lies on its side.
    """
    target, distance, lift = np.array([-0.022, 0.102, 0.025]), 0.56, np.deg2rad(9)
    K = np.array([[1520.0, 0, 320], [0, 1520, 240], [0, 0, 1]])
    cameras = []
    for turn in np.arange(N_VIEWS) * 2 * np.pi / N_VIEWS:
        back = np.array([np.cos(lift) * np.sin(turn), np.sin(lift), np.cos(lift) * np.cos(turn)])
        y = np.cross(-back, [0, 1, 0])
        y = y / np.linalg.norm(y)
        R = np.stack([np.cross(y, -back), y, -back])
        cameras.append(Camera(K, R, -R @ (target + distance * back)))
    return tuple(cameras)


def cast(camera, columns, rows):
    """What the rays through pixels meet: depth (H, W), and which solid (H, W), -1 where there is none.

    columns (W,) and rows (H,) are the pixels' coordinates, in rising order. The depth is z in the camera's frame.
    """
    depth = np.full((len(rows), len(columns)), np.inf)
    which = np.full(depth.shape, -1)
    origin, rays = camera.centre.numpy(), _rays(camera, columns, rows)
    for number, solid in enumerate(build()):
        x = camera.project(solid.corners).numpy()  # the ray can only meet it within these
        (left, upper), (right, lower) = x.min(0), x.max(0)
        i = slice(*np.searchsorted(rows, [upper, lower]))
        j = slice(*np.searchsorted(columns, [left, right]))
        s = solid.enter(origin, rays[i, j].reshape(-1, 3)).reshape(depth[i, j].shape)
        nearer = s < depth[i, j]
        depth[i, j][nearer] = s[nearer]
        which[i, j][nearer] = number
    return depth, which


def _rays(camera, columns, rows):
    """Directions in the world with z = 1 in the camera's frame, so that s along them is the depth: (H, W, 3)."""
    x = np.stack(np.broadcast_arrays(columns[None, :], rows[:, None], 1.0), -1)
    return x @ (np.linalg.inv(camera.K.numpy()).T @ camera.R.numpy())


def render(camera):
    """The picture of the temple, (480, 640, 3) uint8, on black."""
    offsets = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    columns, rows = ((np.arange(n)[:, None] + offsets).ravel() for n in (WIDTH, HEIGHT))
    depth, which = cast(camera, columns, rows)
    hit = which >= 0
    X = camera.centre.numpy() + depth[hit, None] * _rays(camera, columns, rows)[hit]
    colours = np.zeros((*depth.shape, 3))
    colours[hit] = _shade(X, which[hit])
    colours = colours.reshape(HEIGHT, SAMPLES, WIDTH, SAMPLES, 3).mean((1, 3))
    return np.rint(255 * colours ** (1 / 2.2)).astype(np.uint8)  # as a screen expects it


def _shade(X, which):
    """The colour in [0, 1] of surface points X (N, 3) on the solids `which` (N,): (N, 3)."""
    normals, joints = np.empty_like(X), np.zeros(len(X), bool)
    for number in np.unique(which):
        on, solid = which == number, build()[number]
        normals[on] = solid.normal(X[on])
        joints[on] = solid.stone == "ashlar"
    stone = 0.25 + 0.6 * _noise(X, 90) + 0.55 * (_noise(X, 350) - 0.5) + 0.35 * (_noise(X, 800) - 0.5)
    stone = np.where(_noise(X + 0.3, 420) > 0.8, 0.4 * stone, stone)  # pits
    stone = np.where(joints & _in_joint(X, normals), 0.25 * stone, stone)
    light = 0.16 + 0.12 * normals[:, 1] + 0.95 * np.clip(normals @ LIGHT, 0, None)
    light = light + 0.3 * np.clip(normals @ [0.8, 0.1, -0.6], 0, None)  # a weaker lamp on the other side
    return np.clip(stone * light, 0.004, 1)[:, None] * STONE


def _in_joint(X, normals):
    """Whether a point lies between two stones: courses 9 mm high of stones 22 mm long, every second course shifted."""
    course, up = np.divmod((X[:, 1] - 0.022) / 0.0092, 1)
    along = np.where(np.abs(normals[:, 0]) > 0.7, X[:, 2], X[:, 0])
    across = (along / 0.022 + 0.5 * (course % 2) + 0.37) % 1
    flat = np.abs(normals[:, 1]) > 0.9
    return ~flat & ((up < 0.07) | (up > 0.96)) | (across < 0.035)


@cache
def _lattice():
    return np.random.default_rng(7).random((64, 64, 64), dtype=np.float32)


def _noise(X, frequency):
    """Random values on a lattice in space, smooth in between: (N, 3) -> (N,) in [0, 1], `frequency` cells a unit."""
    from scipy.ndimage import map_coordinates  # only here: it takes a while to import

    cell = np.floor(X * frequency)
    part = X * frequency - cell
    place = cell + part * part * (3 - 2 * part)  # smooth where cells meet
    return map_coordinates(_lattice(), place.T, order=1, mode="grid-wrap")


# ---- seeing ----------------------------------------------------------------------------------------------------------


def sees(camera, X):
    """Whether points X (M, 3) of the surfaces are in the picture, with nothing of the temple before them: (M,) bool."""
    x = camera.project(X)
    inside = ((x >= 0) & (x <= x.new_tensor([WIDTH - 1, HEIGHT - 1]))).all(1)
    return inside & (camera.depth(X) <= torch.from_numpy(first_hit(camera, x.numpy())) + 1e-9)


def first_hit(camera, x):
    """The depth at which rays through any pixels x (N, 2) end, infinite where they meet nothing: (N,)."""
    origin = camera.centre.numpy()
    rays = (camera.back_project(x, 1.0).numpy()) - origin
    return np.min([solid.enter(origin, rays) for solid in build()], axis=0)
