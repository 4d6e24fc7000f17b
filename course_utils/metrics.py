"""Distances between two sets of samples. All are 0 for equal distributions and need no density.

x is (N, D) and y (M, D), any float dtype; results are floats. Each raises ValueError for sets of other shapes, without
points, or with coordinates that are not finite.
"""

import math

import torch


def sliced_wasserstein(x, y, n_projections=128, seed=0):
    """Sliced Wasserstein-2 distance (Bonneel et al. 2015): the root mean over directions of the squared W2 in 1D.

    It has the units of x. In two dimensions the directions are spread evenly over the half circle, so the result is
    not random; in more they are random with the given seed.
    """
    if n_projections < 1:
        raise ValueError(f"n_projections = {n_projections}; give at least 1")
    x, y = _points(x, y)
    if x.shape[1] == 2:
        angle = (torch.arange(n_projections, dtype=torch.float64) + 0.5) * math.pi / n_projections
        directions = torch.stack([angle.cos(), angle.sin()], 1)
    else:
        directions = torch.randn(n_projections, x.shape[1], generator=torch.Generator().manual_seed(seed))
        directions = directions / directions.norm(dim=1, keepdim=True)
    projections = [p @ directions.to(p).T for p in (x, y)]
    # W2 in 1D compares quantiles; the quantile functions are steps, with jumps at i/N and j/M
    jumps = torch.cat([torch.arange(1, len(p) + 1, dtype=torch.float64) / len(p) for p in (x, y)]).unique()
    width = jumps.diff(prepend=jumps.new_zeros(1))
    middle = jumps - width / 2
    quantiles = [p.sort(0).values[(middle * len(p)).long().clamp(max=len(p) - 1)] for p in projections]
    return (width @ (quantiles[0] - quantiles[1]).square().mean(1)).sqrt().item()


def energy_distance(x, y):
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013), at least 0, units of x."""
    x, y = _points(x, y)
    return (2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).item()


def mmd(x, y, bandwidth=1.0):
    """Squared maximum mean discrepancy with a Gaussian kernel, the unbiased estimate (Gretton et al. 2012, eq. 3).

    `bandwidth`, above 0, has the units of x. Unbiased means that it may fall a little below 0.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth = {bandwidth}; it must be above 0")
    x, y = _points(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError("mmd compares pairs: give at least two points in each set")

    def kernel(a, b):
        return torch.exp(-torch.cdist(a, b).square() / (2 * bandwidth**2))

    def pairs(a):
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return (pairs(x) + pairs(y) - 2 * kernel(x, y).mean()).item()


def _points(x, y):
    """Both as float64 (N, D), D equal, N > 0; raises ValueError otherwise, or where a coordinate is not finite."""
    x, y = (torch.as_tensor(p).detach().to("cpu", torch.float64) for p in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"two sets of points (N, D) are compared, not {tuple(x.shape)} and {tuple(y.shape)}")
    for name, points in (("first", x), ("second", y)):
        if len(points) == 0:
            raise ValueError(f"the {name} set is empty: give at least one point")
        if not torch.isfinite(points).all():
            raise ValueError(f"the {name} set has coordinates that are not finite numbers: did the sampler diverge?")
    return x, y
