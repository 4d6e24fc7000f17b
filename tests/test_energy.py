"""Energies: scores and constants against closed forms, and what a network's energy promises."""

import math

import pytest
import torch
from torch import nn

from course_utils.energy import (
    ConvEnergy,
    EnergyNet,
    grid,
    grid_kl,
    log_density,
    log_partition,
    mixture,
    product,
    score_of,
)
from course_utils.mixtures import GaussianMixture

MIXTURE = GaussianMixture([[-1.2, 0.4], [0.8, 0.9], [0.5, -1.1]], [0.15, 0.3, 0.2], [3, 2, 1])
POINTS, CELL = grid(-4, 4, 200)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(mean, variance):
    """The energy of N(mean, variance I), without its constant."""
    mean = torch.tensor(mean, dtype=torch.float64)
    return lambda x: (x - mean.to(x)).square().sum(1) / (2 * variance)


# ---- the score


def test_the_score_of_an_energy_is_that_of_the_density_with_its_sign():
    x = normal(50, 2)
    for constant in (0.0, 7.0):  # Z does not matter
        score = score_of(lambda x, c=constant: c - MIXTURE.log_prob(x))
        torch.testing.assert_close(score(x), MIXTURE.score(x))
    torch.testing.assert_close(score_of(gaussian([1.0, -2.0], 0.5))(x), -(x - torch.tensor([1.0, -2.0]).double()) / 0.5)


def test_the_score_keeps_a_graph_only_where_gradients_are_on():
    net, x = EnergyNet(width=8), normal(5, 2).float()
    with torch.no_grad():
        assert not score_of(net)(x).requires_grad
    score = score_of(net)(x)
    score.square().sum().backward()
    assert all(p.grad is not None for p in net.f[0].parameters())
    assert not x.requires_grad  # what came in stays as it was


def test_a_score_can_be_differentiated_by_its_argument():
    x = normal(4, 2).requires_grad_()
    (second,) = torch.autograd.grad(score_of(gaussian([0.0, 0.0], 0.5))(x).sum(), x)
    torch.testing.assert_close(second, torch.full_like(x, -2.0))


@pytest.mark.parametrize("shape", [(5, 1), (), (1,)], ids=str)
def test_an_energy_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"the energy of 5 samples has shape .*; give one number each: \(5,\)"):
        score_of(lambda x: x.sum() * torch.ones(shape))(torch.zeros(5, 2))


def test_an_energy_without_a_gradient():
    with pytest.raises(ValueError, match="the energy has no gradient: was it computed under no_grad, or detached?"):
        score_of(lambda x: x.detach().square().sum(1))(torch.zeros(5, 2))


# ---- Z


@pytest.mark.parametrize("variance", [0.1, 0.5])
@pytest.mark.parametrize("dim", [1, 2])
def test_z_of_a_gaussian(dim, variance):
    """Z = (2 pi variance)^(dim / 2); for a smooth density the midpoint rule is exact to rounding."""
    points, cell = grid(-5, 6, 300, dim)
    energy = gaussian([0.3] * dim, variance)
    assert log_partition(energy, points, cell) == pytest.approx(dim / 2 * math.log(2 * math.pi * variance), abs=1e-9)
    shifted = log_partition(lambda x: energy(x) + 1000, points, cell)  # exp(-1000) is 0, its logarithm is not
    assert shifted == pytest.approx(log_partition(energy, points, cell) - 1000, abs=1e-9)


def test_the_density_on_the_grid_is_the_exact_one():
    log_p = log_density(lambda x: 3 - MIXTURE.log_prob(x), POINTS, CELL)
    torch.testing.assert_close(log_p, MIXTURE.log_prob(POINTS), atol=1e-6, rtol=0)
    assert (log_p.exp().sum() * CELL).item() == pytest.approx(1, abs=1e-12)
    assert log_density(EnergyNet(width=8), POINTS, CELL).dtype == torch.float64


def test_the_grid_is_midpoints_with_x_along_the_first_axis():
    points, cell = grid(-1.0, 1.0, 4)
    assert cell == 0.25 and points.shape == (16, 2)
    x, y = points.reshape(4, 4, 2).unbind(2)
    assert torch.equal(x[:, 0], y[0]) and torch.equal(x[:, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]).double())
    line, width = grid(0, 1, 10, dim=1)
    assert line.shape == (10, 1) and width == 0.1


def test_kl_of_two_gaussians():
    """KL(N(a, s^2 I) || N(b, t^2 I)) in closed form, both ways, and 0 of equals."""
    p, q = (log_density(gaussian(m, v), POINTS, CELL) for m, v in (([0.3, 0.0], 0.2), ([0.0, 0.5], 0.3)))
    distance2 = 0.3**2 + 0.5**2
    assert grid_kl(p, q, CELL) == pytest.approx(0.4 / 0.6 + distance2 / 0.6 - 1 + math.log(0.3 / 0.2), abs=1e-8)
    assert grid_kl(q, p, CELL) == pytest.approx(0.6 / 0.4 + distance2 / 0.4 - 1 + math.log(0.2 / 0.3), abs=1e-8)
    assert grid_kl(p, p, CELL) == 0
    half = torch.where(POINTS[:, 0] > 0, p, -math.inf)
    nowhere = half - half.logsumexp(0) - math.log(CELL)  # where p is 0 nothing is added, where q is 0 all is lost
    assert math.isfinite(grid_kl(nowhere, p, CELL)) and grid_kl(p, nowhere, CELL) == math.inf


def test_there_is_no_kl_of_a_density_without_its_z():
    p = log_density(gaussian([0.3, 0.0], 0.2), POINTS, CELL)
    for pair, name in (((p, p + 3.7), "log_q"), ((p - 1, p), "log_p"), ((p, p * math.nan), "log_q")):
        with pytest.raises(ValueError, match=f"{name} sums to .* over the grid, not 1: is log Z missing"):
            grid_kl(*pair, CELL)


def test_energies_without_z():
    with pytest.raises(FloatingPointError, match="the energy is nan at .*: there is no Z"):
        log_partition(lambda x: torch.where(x[:, 0] > 3, math.nan, x[:, 0]), POINTS, CELL)
    with pytest.raises(FloatingPointError, match="the energy is -inf"):
        log_partition(lambda x: -1 / x.square().sum(1).round(), POINTS, CELL)


@pytest.mark.parametrize(
    ("args", "match"),
    [((0, 1, 10, 3), "dim = 3"), ((1, 1, 10), "low < high"), ((0, 1, 1), "at least 2 cells")],
)
def test_grids_that_are_none(args, match):
    with pytest.raises(ValueError, match=match):
        grid(*args)


# ---- composition


def test_a_product_of_gaussians_is_a_gaussian():
    """Precisions add, and the mean is weighted by them."""
    both = product(gaussian([1.0, 0.0], 0.2), gaussian([0.0, -1.0], 0.6))
    variance = 1 / (1 / 0.2 + 1 / 0.6)
    expected = gaussian([variance / 0.2, -variance / 0.6], variance)
    torch.testing.assert_close(log_density(both, POINTS, CELL), log_density(expected, POINTS, CELL))


def test_a_mixture_of_energies_is_the_mixture():
    """Normalised energies weigh alike; one raised by log 3 counts a third."""
    ones = [GaussianMixture([mean], 0.3) for mean in ([-1.0, 0.0], [0.5, 1.0])]
    either = mixture(lambda x: -ones[0].log_prob(x), lambda x: math.log(3) - ones[1].log_prob(x))
    exact = GaussianMixture([[-1.0, 0.0], [0.5, 1.0]], 0.3, [3, 1])
    torch.testing.assert_close(log_density(either, POINTS, CELL), exact.log_prob(POINTS), atol=1e-6, rtol=0)


# ---- networks


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_z_of_a_network_is_finite_whatever_its_weights(scale):
    """f grows like a straight line at most and |x|^2 wins: twice the box holds no more mass."""
    torch.manual_seed(0)
    net = EnergyNet(width=16)
    with torch.no_grad():
        for p in net.f[-1].parameters():
            p *= scale
    small, large = (log_partition(net, *grid(-b, b, 20 * b)) for b in (15, 30))  # cells of the same size
    assert small == pytest.approx(large, abs=1e-6)


def test_a_network_without_f_is_its_base():
    for net, x in (
        (EnergyNet(base_std=1.5), normal(4, 2)),
        (ConvEnergy(2, 8, base_std=1.5), normal(4, 2, 8, 8).float()),
    ):
        nn.init.zeros_(net.f[-1].weight), nn.init.zeros_(net.f[-1].bias)
        torch.testing.assert_close(net(x), x.square().flatten(1).sum(1) / 4.5)


def test_the_base_is_the_gaussian_of_the_noisy_pictures():
    """With all directions it is exact: differences of energies are those of log densities."""
    pictures, x = normal(50, 1, 4, 4), normal(6, 1, 4, 4)
    net = ConvEnergy(1, 4, 2, base_std=0.7, directions=16).double()
    net.set_base(pictures)
    covariance = pictures.flatten(1).T.cov() + 0.7**2 * torch.eye(16, dtype=torch.float64)
    exact = -torch.distributions.MultivariateNormal(pictures.flatten(1).mean(0), covariance).log_prob(x.flatten(1))
    torch.testing.assert_close(net(x) - net(x[:1]), exact - exact[0])
    few = ConvEnergy(1, 4, 2, base_std=0.7, directions=3).double()
    few.set_base(pictures)
    assert (few(x) > net(x)).all()  # where it knows no variance, pictures are noise alone


@pytest.mark.parametrize(("net", "shape"), [(EnergyNet(3, 16), (6, 3)), (ConvEnergy(1, 28, 4), (6, 1, 28, 28))])
def test_a_network_judges_every_sample_by_itself(net, shape):
    x = normal(*shape).float()
    together = net(x)
    assert together.shape == (6,) and together.std() > 0
    torch.testing.assert_close(net(x[2:3]), together[2:3])
    assert score_of(net)(x).shape == shape and (score_of(net)(x) != 0).any()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: EnergyNet(0), "dim = 0"),
        (lambda: EnergyNet(base_std=0), "base_std = 0: it is above 0"),
        (lambda: ConvEnergy(width=0), "width = 0"),
        (lambda: EnergyNet(2, 8)(torch.zeros(4, 3)), r"takes points \(B, 2\)"),
        (lambda: ConvEnergy(1, 28, 4)(torch.zeros(4, 1, 8, 8)), r"takes pictures \(B, 1, 28, 28\)"),
        (lambda: ConvEnergy(1, 28, 4)(torch.zeros(1, 28, 28)), r"takes pictures \(B, 1, 28, 28\)"),
    ],
)
def test_networks_and_points_that_do_not_fit(make, match):
    with pytest.raises(ValueError, match=match):
        make()
