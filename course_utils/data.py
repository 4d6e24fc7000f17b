"""Data sets: points in two dimensions, each with its exact distribution; pictures and views, read in other files.

A set is standardised by constants of its own (the centre and the one scale of its exact distribution), the same for
every draw: `toy_2d` standardises and `unstandardise` takes it back. One scale for both axes keeps the shape.
"""

import math
from functools import cache

import numpy as np
import torch

from course_utils.images import CIFAR10_CLASSES, load_cifar10, load_mnist, to_float
from course_utils.mixtures import GaussianMixture
from course_utils.shapes import SHAPES, load_shapes
from course_utils.temple import load_temple

__all__ = ["NOISE", "TOY_SETS", "toy_2d", "toy_mixture", "unstandardise"]
__all__ += ["CIFAR10_CLASSES", "SHAPES", "load_cifar10", "load_mnist", "load_shapes", "load_temple", "to_float"]

NOISE = {"moons": 0.1, "circles": 0.05, "swiss_roll": 0.3, "s_curve": 0.05, "mixture": 0.1}  # std around the curve
TOY_SETS = (*NOISE, "checkerboard")
N_CURVE = 400  # components that stand for a curve: their spacing is far below the noise


def toy_2d(name, n, seed=None, return_labels=False):
    """n points of a toy data set, standardised: (n, 2) float32; with `return_labels` also the class of each, (n,).

    Names: moons, circles, swiss_roll, s_curve (scikit-learn's), mixture (eight Gaussians on a ring) and checkerboard.
    Classes are the two moons or circles, the Gaussian, the square's row, and the half of a roll or curve.
    The same seed gives the same points. Raises ValueError for another name or n < 1.
    """
    _check_name(name)
    if n < 1:
        raise ValueError(f"n = {n} points asked for; give at least 1")
    x, y = _DRAW[name](n, np.random.RandomState(seed))
    centre, scale = _standardisation(name)
    points = torch.as_tensor((x - centre) / scale, dtype=torch.float32)
    return (points, torch.as_tensor(y, dtype=torch.long)) if return_labels else points


def unstandardise(name, x):
    """Points (n, 2) of `toy_2d` in the data set's original coordinates."""
    _check_name(name)
    centre, scale = _standardisation(name)
    return x * scale + torch.as_tensor(centre).to(x)


@cache
def toy_mixture(name, standardised=True):
    """The exact distribution that `toy_2d` draws from, as a GaussianMixture in the same coordinates, or the original's.

    A curve with Gaussian noise is a mixture with a component at every point of the curve; with 400 of them the log
    density at its points is right to 1e-3 on average (worst at the tips). Raises ValueError for the checkerboard,
    whose sharp edges no such mixture has.

    scikit-learn spaces the points of moons and circles evenly along the curve, half on each, and makes only the noise
    random: each point has this distribution, but n of them cover it more evenly than n independent ones would.
    """
    _check_name(name)
    if name not in NOISE:
        raise ValueError(f"{name} has sharp edges and is no mixture of Gaussians; choose one of {', '.join(NOISE)}")
    centre, scale = _standardisation(name) if standardised else (0, 1)
    return GaussianMixture((_CENTRES[name]() - centre) / scale, NOISE[name] / scale)


@cache
def _standardisation(name):
    """The centre (2,) of a set and its scale: the root of its mean variance over both axes."""
    if name == "checkerboard":
        return np.zeros(2), math.sqrt(4**2 / 12)  # uniform on [-2, 2] along each axis
    exact = toy_mixture(name, standardised=False)
    return exact.mean.numpy(), math.sqrt(exact.covariance.diagonal().mean())


def _check_name(name):
    if name not in TOY_SETS:
        raise ValueError(f"unknown data set {name!r}; the two-dimensional ones are {', '.join(TOY_SETS)}")


def _midpoints(n):
    """The middles of n equal parts of [0, 1]: half a part is left at either end, as the midpoint rule wants."""
    return (np.arange(n) + 0.5) / n


def _curve(name, u):
    """scikit-learn's curves at u in [0, 1], seen along their second axis: (len(u), 2)."""
    if name == "swiss_roll":
        t = 1.5 * math.pi * (1 + 2 * u)
        return np.stack([t * np.cos(t), t * np.sin(t)], 1)
    t = 3 * math.pi * (u - 0.5)
    return np.stack([np.sin(t), np.sign(t) * (np.cos(t) - 1)], 1)


def _arc(turns):
    """N_CURVE / 2 points of the unit circle, from angle 0 on."""
    angle = 2 * math.pi * turns * _midpoints(N_CURVE // 2)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _moons():
    return np.concatenate([_arc(0.5), [1, 0.5] - _arc(0.5)])


def _circles():
    return np.concatenate([_arc(1), _arc(1) / 2])


def _ring():
    angle = np.arange(8) * math.pi / 4
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _sklearn(make, columns=(0, 1), middle=None, **options):
    def draw(n, rng):
        from sklearn import datasets  # on demand: it takes longer to import than all else here

        x, y = getattr(datasets, make)(n, random_state=rng, **options)
        return x[:, columns], (y if middle is None else np.atleast_1d(y) > middle)

    return draw


def _draw_mixture(n, rng):
    k = rng.randint(8, size=n)
    return _ring()[k] + NOISE["mixture"] * rng.randn(n, 2), k


def _draw_checkerboard(n, rng):
    x = rng.uniform(-2, 2, n)
    row = rng.randint(2, size=n) * 2 + np.floor(x) % 2  # every second square of a column
    return np.stack([x, row - 2 + rng.uniform(0, 1, n)], 1), row


_DRAW = {
    "moons": _sklearn("make_moons", noise=NOISE["moons"]),
    "circles": _sklearn("make_circles", noise=NOISE["circles"], factor=0.5),
    "swiss_roll": _sklearn("make_swiss_roll", columns=(0, 2), middle=3 * math.pi, noise=NOISE["swiss_roll"]),
    "s_curve": _sklearn("make_s_curve", columns=(0, 2), middle=0, noise=NOISE["s_curve"]),
    "mixture": _draw_mixture,
    "checkerboard": _draw_checkerboard,
}
_CENTRES = {
    "moons": _moons,
    "circles": _circles,
    "swiss_roll": lambda: _curve("swiss_roll", _midpoints(N_CURVE)),
    "s_curve": lambda: _curve("s_curve", _midpoints(N_CURVE)),
    "mixture": _ring,
}
