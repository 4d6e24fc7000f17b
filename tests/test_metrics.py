"""Distances between samples: closed forms, a second library, and what every distance must do."""

import math

import numpy as np
import ot
import pytest
import torch

from course_utils.metrics import energy_distance, mmd, sliced_wasserstein

METRICS = [sliced_wasserstein, energy_distance, mmd]


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_sliced_wasserstein_of_a_shift(dim):
    """All points moved by a: W2 along direction d is |a . d|, whose mean square over directions is |a|^2 / dim."""
    x, shift = normal(300, dim), torch.arange(1.0, dim + 1, dtype=torch.float64)
    exact = shift.norm().item() / math.sqrt(dim)
    assert sliced_wasserstein(x, x + shift, n_projections=4000) == pytest.approx(exact, rel=1e-9 if dim < 3 else 0.02)


def test_sliced_wasserstein_of_a_scaling():
    """x against c x: |1 - c| times the root mean square of the projections, which is |x|^2 / 2 in the plane."""
    x = normal(300, 2)
    exact = 0.7 * x.square().sum(1).mean().div(2).sqrt().item()
    assert sliced_wasserstein(x, 1.7 * x) == pytest.approx(exact, rel=1e-9)


def test_sliced_wasserstein_of_two_gaussians():
    """N(0, 1) and N(m, s^2) in 1D are sqrt(m^2 + (1 - s)^2) apart: quantiles of the two, evenly spaced, show it."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    z = torch.distributions.Normal(0.0, 1.0).icdf(u)[:, None]
    assert sliced_wasserstein(z, 0.5 + 1.3 * z) == pytest.approx(math.hypot(0.5, 0.3), rel=1e-3)


@pytest.mark.parametrize(("n", "m"), [(200, 200), (200, 300), (7, 1000), (1, 1), (1, 5)])
def test_sliced_wasserstein_equals_pot(n, m):
    x, y = normal(n, 2), 0.5 * normal(m, 2, seed=1) + 0.3
    angle = (np.arange(32) + 0.5) * math.pi / 32
    projections = np.stack([np.cos(angle), np.sin(angle)])
    theirs = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=projections)
    assert sliced_wasserstein(x, y, n_projections=32) == pytest.approx(float(theirs), rel=1e-9)


def test_sliced_wasserstein_in_one_dimension_is_wasserstein():
    x, y = normal(50, 1), normal(70, 1, seed=1) + 1
    theirs = math.sqrt(ot.emd2_1d(x[:, 0].numpy(), y[:, 0].numpy(), metric="sqeuclidean"))
    assert sliced_wasserstein(x, y) == pytest.approx(theirs, rel=1e-9)


def test_energy_distance_by_its_definition():
    x, y = normal(20, 2), normal(30, 2, seed=1) + 0.5

    def mean_distance(a, b):
        return np.mean([math.dist(p, q) for p in a.tolist() for q in b.tolist()])

    expected = 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert energy_distance([[0.0]], [[3.0]]) == pytest.approx(6)


def test_energy_distance_of_two_gaussians():
    """E|X - Y| for a difference N(m, v) is sqrt(2 v / pi) exp(-m^2 / 2v) + m erf(m / sqrt(2 v))."""
    m, n = 1.0, 3000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    z = torch.distributions.Normal(0.0, 1.0).icdf(u)[:, None]
    across = math.sqrt(4 / math.pi) * math.exp(-(m**2) / 4) + m * math.erf(m / 2)
    assert energy_distance(z, z + m) == pytest.approx(2 * across - 4 / math.sqrt(math.pi), rel=1e-2)


def test_mmd_by_its_definition():
    x, y, bandwidth = normal(10, 2), normal(15, 2, seed=1) + 0.5, 0.7

    def kernel(p, q):
        return math.exp(-(math.dist(p, q) ** 2) / (2 * bandwidth**2))

    x_list, y_list = x.tolist(), y.tolist()
    within = [
        np.mean([kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(a) if i != j]) for a in (x_list, y_list)
    ]
    across = np.mean([kernel(p, q) for p in x_list for q in y_list])
    assert mmd(x, y, bandwidth) == pytest.approx(sum(within) - 2 * across, rel=1e-6)


def test_mmd_of_two_gaussians_without_bias():
    """E k(X, Y) is (b^2 / (b^2 + v))^(D/2) exp(-|m|^2 / (2 (b^2 + v))) for a difference N(m, v I)."""
    m, b, n = 0.5, 1.0, 200

    def kernel_mean(m2):
        return b**2 / (b**2 + 2) * math.exp(-m2 / (2 * (b**2 + 2)))

    shift = torch.tensor([m, 0.0])
    draws = [mmd(normal(n, 2, seed=2 * s), normal(n, 2, seed=2 * s + 1) + shift, b) for s in range(60)]
    none = [mmd(normal(n, 2, seed=2 * s), normal(n, 2, seed=2 * s + 1), b) for s in range(60)]
    for values, exact in ((draws, 2 * kernel_mean(0) - 2 * kernel_mean(m**2)), (none, 0)):
        assert np.mean(values) == pytest.approx(exact, abs=4 * np.std(values) / math.sqrt(60))
    assert min(none) < 0  # unbiased: below zero at times


@pytest.mark.parametrize("metric", METRICS)
def test_what_every_distance_does(metric):
    x, y = normal(100, 2), normal(150, 2, seed=1) + torch.tensor([1.0, 0.0])
    assert isinstance(metric(x, y), float)
    assert metric(x, y) == pytest.approx(metric(y, x), rel=1e-9)
    assert metric(x, y) == pytest.approx(metric(x[torch.randperm(100)], y), rel=1e-9)
    assert metric(x, y) == pytest.approx(metric(x.float(), y.numpy()), rel=1e-4)
    assert metric(x, y) == pytest.approx(metric(x + 5, y + 5), rel=1e-6)
    assert metric(x, x + 2) > metric(x, x + 1) > metric(x, x + 0.5) > 0
    grad = x.clone().requires_grad_()
    assert metric(grad, y) == metric(x, y)


def test_identical_sets_are_no_distance_apart():
    x = normal(100, 2)
    assert sliced_wasserstein(x, x) == 0
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(x, x.repeat(3, 1)) == pytest.approx(0, abs=1e-9)  # the same distribution, other size
    assert energy_distance(x, x.repeat(3, 1)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_bad_input_is_named(metric):
    x = normal(10, 2)
    for other in (normal(10, 3), normal(10), normal(10, 2, 1)):
        with pytest.raises(ValueError, match=r"two sets of points \(N, D\) are compared"):
            metric(x, other)
    for bad in (float("nan"), float("inf")):
        broken = x.clone()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match="the second set has coordinates that are not finite"):
            metric(x, broken)
        with pytest.raises(ValueError, match="the first set"):
            metric(broken, x)
    with pytest.raises(ValueError, match="at least"):
        metric(x, x[:0])


def test_a_distance_needs_directions_and_a_width():
    x = normal(5, 2)
    with pytest.raises(ValueError, match="n_projections = 0; give at least 1"):
        sliced_wasserstein(x, x, n_projections=0)
    for bandwidth in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="bandwidth = .*; it must be above 0"):
            mmd(x, x, bandwidth)


def test_mmd_needs_pairs():
    with pytest.raises(ValueError, match="at least two points in each set"):
        mmd(normal(1, 2), normal(5, 2))
