"""Distances between samples: closed forms, a second library, and what every distance must do.

And what a classifier says of pictures.
"""

import math

import numpy as np
import ot
import pytest
import scipy.linalg
import torch
from torch import nn

from course_utils.metrics import (
    classifier_accuracy,
    classifier_features,
    energy_distance,
    frechet_distance,
    frechet_gaussians,
    mmd,
    sliced_wasserstein,
)

METRICS = [sliced_wasserstein, energy_distance, mmd, frechet_distance]


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


def covariance(dim, seed=0, rank=None):
    factor = normal(dim, rank or dim, seed=seed)
    return factor @ factor.T / dim


def points_of(mean, cov, n, seed=0):
    """n points whose mean and (unbiased) covariance are exactly those given."""
    x = normal(n, len(mean), seed=seed)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False).T
    return x @ torch.linalg.cholesky(cov).T + mean


def rotation(dim, seed=0):
    return torch.linalg.qr(normal(dim, dim, seed=seed))[0]


def test_frechet_of_gaussians_along_the_same_axes():
    """Commuting covariances: |mean1 - mean2|^2 plus the squared difference of the standard deviations on each axis."""
    std1, std2 = torch.tensor([[1.0, 2.0, 0.5, 3.0], [2.0, 2.0, 0.1, 0.0]], dtype=torch.float64)
    axes = rotation(4)
    cov1, cov2 = ((axes * std**2) @ axes.T for std in (std1, std2))
    mean1, mean2 = normal(4, seed=1), normal(4, seed=2)
    exact = (mean1 - mean2).square().sum() + (std1 - std2).square().sum()
    assert frechet_gaussians(mean1, cov1, mean2, cov2) == pytest.approx(
        exact.item(), rel=1e-7
    )  # the axis of width 0 costs half the digits


@pytest.mark.parametrize("seed", range(5))
def test_frechet_of_gaussians_in_the_plane(seed):
    """The 2x2 matrix cov1 cov2 has eigenvalues a, b > 0, and (sqrt a + sqrt b)^2 = trace + 2 sqrt(det)."""
    cov1, cov2 = covariance(2, seed=2 * seed), covariance(2, seed=2 * seed + 1)
    assert not torch.allclose(cov1 @ cov2, cov2 @ cov1, atol=1e-3)
    root = math.sqrt((cov1 @ cov2).trace() + 2 * math.sqrt(cov1.det() * cov2.det()))
    exact = cov1.trace() + cov2.trace() - 2 * root
    assert frechet_gaussians(torch.zeros(2), cov1, torch.zeros(2), cov2) == pytest.approx(exact.item(), rel=1e-9)


@pytest.mark.parametrize("dim", [1, 3, 20, 128])
def test_frechet_equals_scipy_s_root(dim):
    mean1, mean2, cov1, cov2 = normal(dim), normal(dim, seed=1), covariance(dim, seed=2), covariance(dim, seed=3)
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
    exact = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * np.trace(root)
    assert frechet_gaussians(mean1, cov1, mean2, cov2) == pytest.approx(exact.item(), rel=1e-7)
    x, y = points_of(mean1, cov1, 200), points_of(mean2, cov2, 150, seed=1)
    assert frechet_distance(x, y) == pytest.approx(exact.item(), rel=1e-7)


def test_frechet_takes_the_unbiased_covariance_of_both_sets():
    """Two points 0 and 2 have variance 2, not 1; three at 0 have none: sqrt(2)^2 + 1 apart, either way round."""
    x, y = torch.tensor([[0.0], [2.0]]), torch.zeros(3, 1)
    assert frechet_distance(x, y) == frechet_distance(y, x) == pytest.approx(3)


def test_frechet_is_the_squared_wasserstein_distance_of_gaussians():
    """The best linear map from N(0, cov1) to N(0, cov2) carries points to their partners: POT finds its cost."""
    cov1, cov2 = covariance(2, seed=4), covariance(2, seed=5)
    root = torch.as_tensor(scipy.linalg.sqrtm(cov1.numpy()))
    middle = torch.as_tensor(scipy.linalg.sqrtm((root @ cov2 @ root).numpy()))
    x = points_of(torch.zeros(2).double(), cov1, 300)
    y = x @ (root.inverse() @ middle @ root.inverse())
    cost = ot.emd2(np.full(300, 1 / 300), np.full(300, 1 / 300), ot.dist(x.numpy(), y.numpy()))
    assert frechet_distance(x, y) == pytest.approx(cost * 300 / 299, rel=1e-6)


def test_frechet_of_moved_turned_and_scaled_sets():
    x, y, turn = normal(60, 5) * torch.arange(1, 6), normal(70, 5, seed=1) + 1, rotation(5)
    shift = torch.arange(5.0)
    assert frechet_distance(x, x + shift) == pytest.approx(30, rel=1e-9)
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(x, x @ turn) > 1  # the same mean and spread, along other axes


@pytest.mark.parametrize(("n", "dim"), [(100, 3), (10, 64), (2, 8)])
def test_frechet_of_a_set_and_itself_is_zero(n, dim):
    """Also with fewer points than dimensions, where the covariance has eigenvalues that are 0 up to rounding."""
    x = 10 * normal(n, dim) + 5
    assert 0 <= frechet_distance(x, x) < 1e-9 * x.square().sum(1).mean()


def test_frechet_of_flat_sets():
    """Sets on two planes at right angles: nothing is shared, and the distance is the sum of their variances."""
    x, y = torch.zeros(5, 8).double(), torch.zeros(6, 8).double()
    x[:, :2], y[:, 2:4] = normal(5, 2), normal(6, 2, seed=1)
    exact = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum()
    assert frechet_distance(x, y) == pytest.approx(exact.item(), rel=1e-7)


def test_frechet_of_few_points_is_too_large():
    """Two draws of one distribution: about 1/N apart, which is why N must be the same in a comparison."""
    means = []
    for n in (50, 100, 200):
        means.append(np.mean([frechet_distance(normal(n, 4, seed=s), normal(n, 4, seed=s + 99)) for s in range(40)]))
    assert means[0] > 1.5 * means[1] > 2.25 * means[2] > 0


def test_bad_gaussians_are_named():
    with pytest.raises(ValueError, match="at least 2 points, not 1"):
        frechet_distance(normal(1, 2), normal(5, 2))
    zero, one = torch.zeros(2), torch.eye(2)
    with pytest.raises(
        ValueError, match=r"means \(D,\) and covariances \(D, D\) are compared, not \(2,\), \(2, 2\), \(3,"
    ):
        frechet_gaussians(zero, one, torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match=r"a covariance has the shape \(D, D\), not \(2,\)"):
        frechet_gaussians(zero, torch.ones(2), zero, one)
    with pytest.raises(ValueError, match="not symmetric"):
        frechet_gaussians(zero, torch.tensor([[1.0, 0.5], [0.0, 1.0]]), zero, one)
    with pytest.raises(ValueError, match="a negative eigenvalue, -1"):
        frechet_gaussians(zero, one, zero, torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ValueError, match="a mean holds numbers that are not finite"):
        frechet_gaussians(zero, one, zero * float("nan"), one)


class Quadrants(nn.Module):
    """A classifier whose answers are known: the class is the quadrant of a picture with the largest mean."""

    def __init__(self, n_classes=4):
        super().__init__()
        self.unused, self.batches, self.n_classes = nn.Dropout(0.9), [], n_classes

    def features(self, x):
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(len(x))
        return self.unused(nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1))

    def forward(self, x):
        return self.features(x)[:, : self.n_classes]


def quadrant_pictures(n):
    labels = torch.arange(n) % 4
    images = torch.full((n, 3, 2, 2), -1.0)
    images[torch.arange(n), :, labels // 2, labels % 2] = 1
    return images.repeat_interleave(4, 2).repeat_interleave(4, 3), labels


def test_accuracy_is_the_share_of_right_answers():
    images, labels = quadrant_pictures(30)
    classifier = Quadrants()
    assert classifier_accuracy(classifier, images, labels) == 1
    wrong = labels.clone()
    wrong[:6] = (wrong[:6] + 1) % 4
    assert classifier_accuracy(classifier, images, wrong, batch_size=7) == pytest.approx(24 / 30)
    assert classifier_accuracy(classifier, images, wrong.tolist()) == pytest.approx(24 / 30)
    assert classifier.batches == [30, 7, 7, 7, 7, 2, 30]
    assert classifier_accuracy(classifier, images.flip(2, 3), labels) == 0


def test_features_do_not_depend_on_the_batches():
    images, _ = quadrant_pictures(30)
    features = classifier_features(Quadrants(), images, batch_size=7)
    assert features.shape == (30, 4) and not features.requires_grad
    assert torch.equal(features, classifier_features(Quadrants(), images))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_the_classifier_is_left_in_the_mode_it_was_in():
    images, labels = quadrant_pictures(8)
    classifier = Quadrants()
    for whole, part in ((True, True), (True, False), (False, True)):  # a part may be frozen by itself
        classifier.training, classifier.unused.training = whole, part
        classifier_accuracy(classifier, images, labels)
        classifier_features(classifier, images)
        with pytest.raises(ValueError):
            classifier_accuracy(classifier, images * float("nan"), labels)
        assert (classifier.training, classifier.unused.training) == (whole, part)


def test_bad_pictures_and_labels_are_named():
    images, labels = quadrant_pictures(8)
    classifier = Quadrants()
    for bad in (labels[:5], labels.double(), labels[:, None], labels > 0):
        with pytest.raises(ValueError, match="give a whole number for each of the 8 images"):
            classifier_accuracy(classifier, images, bad)
    for bad in (labels - 1, labels + 1):
        with pytest.raises(ValueError, match="labels run from .* one for each class is needed"):
            classifier_accuracy(classifier, images, bad)
    with pytest.raises(ValueError, match="one for each class is needed"):
        classifier_accuracy(Quadrants(n_classes=2), images, labels)
    with pytest.raises(ValueError, match="not finite: did the sampler"):
        classifier_features(classifier, images / 0)
    for bad in (images[0], images[:0]):
        with pytest.raises(ValueError, match=r"give at least one, as a tensor \(N, C, H, W\)"):
            classifier_features(classifier, bad)
    with pytest.raises(ValueError, match="batch_size = 0"):
        classifier_features(classifier, images, batch_size=0)
