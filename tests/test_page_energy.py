"""The formulas on chapter 1's page, each computed a second way."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from course_utils.energy import grid, log_density, log_partition, mixture, product, score_of
from course_utils.langevin import mala
from course_utils.mixtures import GaussianMixture

HUMPS = GaussianMixture([[-1.0], [0.8]], [0.4, 0.6], [0.3, 0.7])
PLANE = GaussianMixture([[-1.0, 0.2], [0.8, -0.5], [0.1, 1.0]], [0.4, 0.6, 0.5], [0.3, 0.5, 0.2])


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def valleys(x):
    return (x**4 - 2 * x**2 + x / 2).sum(1)


def test_log_partition_of_the_two_valleys():
    from scipy.integrate import quad

    z, _ = quad(lambda x: math.exp(-(x**4) + 2 * x**2 - x / 2), -math.inf, math.inf, epsabs=1e-13)
    assert log_partition(valleys, *grid(-4, 4, 80, dim=1)) == pytest.approx(math.log(z), abs=1e-9)
    assert abs(log_partition(valleys, *grid(-4, 4, 10, dim=1)) - math.log(z)) > 0.01  # the page shows that ten are few


@pytest.mark.parametrize("T", [0.25, 4.0])
def test_a_constant_changes_nothing_but_z(T):
    points, cell = grid(-5, 5, 500, dim=1)
    lifted = lambda x: (valleys(x) + 7) / T  # noqa: E731
    plain = lambda x: valleys(x) / T  # noqa: E731
    assert log_partition(lifted, points, cell) == pytest.approx(log_partition(plain, points, cell) - 7 / T)
    assert torch.allclose(log_density(lifted, points, cell), log_density(plain, points, cell))


@pytest.mark.parametrize("d", [1, 2])
def test_cost_of_random_points(d):
    """One uniform point's estimate V e^-E of Z has the relative variance V integral(p^2) - 1, p standard normal."""
    points, cell = grid(-8, 8, 400, dim=d)
    p = (-points.square().sum(1) / 2).exp() / (2 * math.pi) ** (d / 2)
    assert 6**d * (p**2).sum().item() * cell == pytest.approx((3 / math.sqrt(math.pi)) ** d, rel=1e-9)
    g = torch.Generator().manual_seed(0)
    draws = torch.rand(400_000, d, generator=g, dtype=torch.float64) * 6 - 3
    estimates = 6**d * (-draws.square().sum(1) / 2).exp() / (2 * math.pi) ** (d / 2)
    relative = (estimates.var() / estimates.mean() ** 2).item()
    assert relative == pytest.approx((3 / math.sqrt(math.pi)) ** d - 1, rel=0.03)


def test_the_score_does_not_know_the_constant_and_the_mean_divides_it():
    x = PLANE.sample(8, torch.Generator().manual_seed(0)).double()
    energy = lambda x: -PLANE.log_prob(x) - 3.7  # noqa: E731
    assert torch.allclose(score_of(energy)(x), PLANE.score(x))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(energy(x).mean(), x)
    assert torch.allclose(-8 * slope, PLANE.score(x.detach()))


def test_one_langevin_step_on_a_smooth_function():
    """E phi(x + h s + sqrt(2h) z) = phi + h (s phi' + phi'') + O(h^2): Gauss-Hermite against the formula."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z, weights = torch.as_tensor(nodes), torch.as_tensor(weights / weights.sum())
    phi, dphi, ddphi = lambda x: (1.3 * x).sin(), lambda x: 1.3 * (1.3 * x).cos(), lambda x: -1.69 * (1.3 * x).sin()
    x = column(-0.7, 0.1, 1.2)
    s, rest = HUMPS.score(x), []
    for h in (0.02, 0.01):
        mean = phi(x + h * s + math.sqrt(2 * h) * z) @ weights
        rest.append((mean - (phi(x) + h * (s * dphi(x) + ddphi(x)))[:, 0]).abs())
    assert (rest[0] < 0.02).all()
    assert torch.allclose(rest[0] / rest[1], torch.full((3,), 4.0, dtype=torch.float64), rtol=0.1)  # second order


def derivative(f, x):
    return torch.autograd.grad(f.sum(), x, create_graph=True)[0]


def laplacian(f, x):
    g = derivative(f, x)
    return sum(derivative(g[:, i], x)[:, i] for i in range(x.shape[1]))


def divergence(v, x):
    return sum(derivative(v[:, i], x)[:, i] for i in range(x.shape[1]))


def test_the_density_stands_still_under_its_own_score():
    x = PLANE.sample(20, torch.Generator().manual_seed(0)).double().requires_grad_()
    p = PLANE.log_prob(x).exp()
    still = -divergence(p[:, None] * derivative(PLANE.log_prob(x), x), x) + laplacian(p, x)
    assert still.abs().max() < 1e-10
    other = Normal(0.0, 1.3).log_prob(x).sum(1).exp()  # another density does move, and both forms agree on how
    s = PLANE.score(x)
    moves = -divergence(other[:, None] * s, x) + laplacian(other, x)
    second = -divergence(other[:, None] * (s - derivative(other.log(), x)), x)
    assert torch.allclose(moves, second, atol=1e-10) and moves.abs().min() > 1e-4


def test_the_divergence_falls_by_the_difference_of_the_scores():
    """From N(m, v), Langevin dynamics on N(0, 1) is N(m e^-t, 1 + (v - 1) e^-2t): d KL / dt = -E |difference|^2."""
    p = Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    rho = lambda t: Normal(1.5 * torch.exp(-t), (1 + (0.3 - 1) * torch.exp(-2 * t)).sqrt())  # noqa: E731
    for t in torch.tensor([0.1, 0.5, 1.5], dtype=torch.float64):
        t.requires_grad_()
        (slope,) = torch.autograd.grad(kl_divergence(rho(t), p), t)
        now = rho(t.detach())
        points = now.mean + now.stddev * torch.linspace(-10, 10, 4001, dtype=torch.float64)
        scores = -(points - now.mean) / now.variance + points
        weights = now.log_prob(points).softmax(0)
        assert slope.item() == pytest.approx(-(weights @ scores**2).item(), rel=1e-6)


@pytest.mark.parametrize("h", [0.05, 0.6, 1.5])
def test_bias_on_a_gaussian(h):
    s2, m, v = 0.8, 3.0, 0.0
    a = h / s2
    for _ in range(2000):
        m, v = (1 - a) * m, (1 - a) ** 2 * v + 2 * h  # mean's distance and variance
    assert v == pytest.approx(s2 / (1 - h / (2 * s2))) and abs(m) < 1e-6


def test_the_quizzes_and_the_texts_figures():
    bias = lambda a: 1 / (1 - a / 2)  # noqa: E731
    assert bias(0.2) == pytest.approx(1.11, abs=0.005)
    assert bias(0.1) == pytest.approx(1.05, abs=0.005)
    assert bias(0.5) == pytest.approx(1.33, abs=0.005)


def metropolis_matrix(log_p, points, h, with_q=True):
    """Langevin proposals between the cells of a grid, each taken with probability min(1, r)."""
    score = torch.gradient(log_p, spacing=(points[1] - points[0]).item())[0]
    log_q = -((points - (points + h * score)[:, None]) ** 2 / (4 * h))  # from row to column
    log_q = log_q - log_q.logsumexp(1, keepdim=True)
    log_r = log_p - log_p[:, None] + (log_q.T - log_q if with_q else 0)
    moves = (log_q + log_r.clamp(max=0)).exp()
    return moves - moves.sum(1).diag() + torch.eye(len(points))


def test_metropolis_leaves_the_density_as_it_is():
    points, _ = grid(-4, 4, 300, dim=1)
    log_p = HUMPS.log_prob(points).log_softmax(0)
    for h in (0.02, 0.5):
        flow = log_p.exp()[:, None] * metropolis_matrix(log_p, points[:, 0], h)
        assert torch.allclose(flow, flow.T, atol=1e-15)  # as many walk one way as the other
    wrong = log_p.exp() @ metropolis_matrix(log_p, points[:, 0], 0.5, with_q=False)
    assert (wrong - log_p.exp()).abs().sum() > 0.01  # the row "q forgotten" among the mistakes


def test_acceptance_falls_with_the_dimension():
    g = torch.Generator().manual_seed(0)
    rates = []
    for d in (1, 100):
        x = torch.randn(2000, d, generator=g)
        rates.append(torch.stack([a for _, a in mala(lambda x: x.square().sum(1) / 2, x, 0.3, 3, g)]).float().mean())
    assert rates[0] > 0.9 > rates[1] + 0.2


def crossing(energy, points, cell, start, times):
    e = energy(points)
    up, down = ((s * (e[:-1] - e[1:]) / 2).exp() / cell**2 for s in (1, -1))
    leave = torch.nn.functional.pad(up, (0, 1)) + torch.nn.functional.pad(down, (1, 0))
    between = torch.full_like(up, 1 / cell**2)
    rates, modes = torch.linalg.eigh(leave.diag() - between.diag(1) - between.diag(-1))
    assert abs(rates[0]) < 1e-6  # the density itself stands still
    root, begin = (-e / 2).exp(), (points[:, 0] - start).abs().argmin()
    weights = (root * (points[:, 0] > 0)) @ modes * modes[begin] / root[begin]
    return rates[1].item(), (weights * (-times[:, None] * rates).exp()).sum(1)


def test_the_slowest_rate_of_a_gaussian_is_one():
    """Langevin dynamics on N(0, 1) forgets its start as e^-t: it is N(x_0 e^-t, 1 - e^-2t) at time t."""
    times = torch.tensor([0.0, 0.2, 0.5, 1.0, 3.0], dtype=torch.float64)
    rate, share = crossing(lambda x: x.square().sum(1) / 2, *grid(-6, 6, 600, dim=1), -1.01, times)
    assert rate == pytest.approx(1, rel=1e-3)
    exact = torch.special.ndtr(-1.01 * (-times).exp() / (1 - (-2 * times).exp()).sqrt())
    torch.testing.assert_close(share, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("b, error", [(6, 0.08), (12, 0.04)])
def test_kramers(b, error):
    energy = lambda x: b * (x.square() - 1).square().sum(1)  # noqa: E731
    rate, _ = crossing(energy, *grid(-2.5, 2.5, 250, dim=1), -1.0, torch.zeros(1).double())
    assert rate == pytest.approx(2 * math.sqrt(32) * b / (2 * math.pi) * math.exp(-b), rel=error)


def test_gradient_of_the_likelihood():
    """Through log Z by autograd, and as E_data - E_model, on the family E = theta . (x, x^2, x^4)."""
    points, cell = grid(-4, 4, 800, dim=1)
    features = lambda x: torch.cat([x, x**2, x**4], 1)  # noqa: E731
    theta = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    data = column(0.4, 1.1, -0.7)
    log_z = (-features(points) @ theta).logsumexp(0) + math.log(cell)
    (slope,) = torch.autograd.grad((features(data) @ theta).mean() + log_z, theta)
    p = log_density(lambda x: features(x) @ theta.detach(), points, cell).exp() * cell
    assert torch.allclose(slope, features(data).mean(0) - p @ features(points), atol=1e-12)


def tilt_gradient(theta, data, counts, axis, h=0.01):
    score = -(8 * axis * (axis**2 - 1) + theta)
    step = (-((axis - (axis + h * score)[:, None]) ** 2) / (4 * h)).softmax(1)
    rho, found = data, {}
    for k in range(1, max(counts) + 1):
        rho = rho @ step
        found[k] = ((data - rho) @ axis).item()
    return [found[k] for k in counts]


def test_contrastive_divergence_of_the_tilt():
    cells, _ = grid(-2.5, 2.5, 250, dim=1)
    data, axis = GaussianMixture([[-1.0], [1.0]], 0.1, [0.2, 0.8]).log_prob(cells).softmax(0), cells[:, 0]
    settled = lambda theta: (-2 * (axis**2 - 1) ** 2 - theta * axis).softmax(0)  # noqa: E731
    for theta in (-1.2, -0.3, 0.5):
        one, many = tilt_gradient(theta, data, (1, 4000), axis)
        drift = (data @ (8 * axis * (axis**2 - 1) + theta)).item()
        assert one == pytest.approx(0.01 * drift, abs=1e-6)  # CD-1 sees the drift at the data, and nothing else
        assert many == pytest.approx(((data - settled(theta)) @ axis).item(), abs=0.02)  # many steps: likelihood
    right = lambda theta: settled(theta)[axis > 0].sum()  # noqa: E731
    no_drift = -(data @ (8 * axis * (axis**2 - 1))).item()  # where CD-1 ends
    assert right(no_drift) < 0.65
    own = tilt_gradient(
        -0.8, settled(-0.8), (1, 100), axis
    )  # data from the model: nothing to learn but the step's bias
    assert max(map(abs, own)) < 0.01


def test_product_and_mixture_of_gaussians():
    points, cell = grid(-8, 8, 2000, dim=1)
    first, second = (lambda x, m=m, s=s: ((x - m) ** 2).sum(1) / (2 * s**2) for m, s in ((-1.0, 0.5), (2.0, 1.2)))
    precision = 1 / 0.5**2 + 1 / 1.2**2
    mean = (-1.0 / 0.5**2 + 2.0 / 1.2**2) / precision
    exact = Normal(mean, precision**-0.5).log_prob(points[:, 0])
    assert torch.allclose(log_density(product(first, second), points, cell), exact)
    both = GaussianMixture([[-1.0], [2.0]], [0.5, 1.2], [0.5, 1.2])  # weights are the Zs, s sqrt(2 pi)
    assert torch.allclose(log_density(mixture(first, second), points, cell), both.log_prob(points))


def test_the_gaussian_under_the_digits():
    """The whitened square is the energy of N(m, C): differences of energies are those of log densities."""
    g = torch.Generator().manual_seed(0)
    flat = torch.randn(40, 6, generator=g, dtype=torch.float64) @ torch.randn(6, 6, generator=g, dtype=torch.float64)
    covariance = flat.T.cov() + 0.09 * torch.eye(6)
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    energy = ((flat - flat.mean(0)) @ whiten).square().sum(1) / 2
    exact = -MultivariateNormal(flat.mean(0), covariance).log_prob(flat)
    assert torch.allclose(energy - energy[0], exact - exact[0])


def test_what_is_behind_the_noise():
    """x + sigma^2 score is E[x0 | x], here by Bayes' rule on a grid."""
    sigma = 0.3
    x0, _ = grid(-5, 5, 2000, dim=1)
    for x in column(-1.5, -0.2, 0.4, 1.3):
        posterior = (HUMPS.log_prob(x0) - (x - x0[:, 0]) ** 2 / (2 * sigma**2)).softmax(0)
        guess = x + sigma**2 * HUMPS.noised(1.0, sigma).score(x[:, None])[0]
        assert guess.item() == pytest.approx((posterior @ x0).item(), abs=1e-6)
