"""The oracle itself: density, score and denoiser against autograd, quadrature and other libraries."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from two_sample import energy_test

from course_utils.denoiser import to_x0
from course_utils.mixtures import GaussianMixture
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule

SCHEDULES = [LinearSchedule(), CosineSchedule(None), VESchedule(0.01, 30.0)]
MEANS, STD, WEIGHTS = [[-1.2, 0.4], [0.8, 0.9], [0.5, -1.1]], [0.15, 0.3, 0.2], [3.0, 2.0, 1.0]
MIXTURE = GaussianMixture(MEANS, STD, WEIGHTS)
LINE = GaussianMixture([[-1.0], [0.7]], [0.2, 0.4], [1, 3])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def grid(low, high, n):
    """Midpoints of n cells, and a cell's width: for smooth functions that vanish at both ends the rule is exact."""
    width = (high - low) / n
    return low + width * (torch.arange(n, dtype=torch.float64) + 0.5), width


def test_log_prob_is_the_density_of_torch_and_of_scipy():
    x = normal(50, 2)
    normals = torch.distributions.Independent(
        torch.distributions.Normal(MIXTURE.means, MIXTURE.std[:, None].expand(3, 2)), 1
    )
    other = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(MIXTURE.weights), normals)
    torch.testing.assert_close(MIXTURE.log_prob(x), other.log_prob(x), rtol=1e-12, atol=1e-12)
    density = sum(
        w / 6 * multivariate_normal(m, s**2 * np.eye(2)).pdf(x.numpy())
        for m, s, w in zip(MEANS, STD, WEIGHTS, strict=True)
    )
    torch.testing.assert_close(MIXTURE.log_prob(x).exp(), torch.as_tensor(density), rtol=1e-9, atol=0)


def test_integrals_over_the_plane():
    axis, width = grid(-4, 4, 400)
    x = torch.cartesian_prod(axis, axis)
    mass = MIXTURE.log_prob(x).exp() * width**2
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    mean = mass @ x
    torch.testing.assert_close(mean, MIXTURE.mean, rtol=0, atol=1e-9)
    covariance = (mass[:, None] * (x - mean)).T @ (x - mean)
    torch.testing.assert_close(covariance, MIXTURE.covariance, rtol=0, atol=1e-9)
    torch.testing.assert_close(mass @ MIXTURE.score(x), torch.zeros(2).double(), rtol=0, atol=1e-9)  # E[score] = 0


@pytest.mark.parametrize("far", [1.0, 30.0], ids=["near", "far"])
def test_score_is_the_gradient(far):
    x = (far * normal(40, 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(MIXTURE.log_prob(x).sum(), x)
    torch.testing.assert_close(MIXTURE.score(x.detach()), gradient, rtol=1e-9, atol=1e-9)


def test_moments_of_samples():
    n = 100_000
    x = MIXTURE.sample(n, seeded()).double()
    assert x.shape == (n, 2) and MIXTURE.sample(3).dtype == torch.float32
    spread = MIXTURE.covariance.diagonal().sqrt()
    assert ((x.mean(0) - MIXTURE.mean).abs() < 4 * spread / math.sqrt(n)).all()
    assert (x.T.cov() - MIXTURE.covariance).abs().max() < 5 * spread.max() ** 2 * math.sqrt(2 / n)
    assert energy_test(x[:1000], MIXTURE.sample(1000, seeded(1))) < 1
    assert MIXTURE.sample(5, seeded(2)).tolist() == MIXTURE.sample(5, seeded(2)).tolist()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_noised_is_the_marginal(schedule):
    """p_t(x) is the integral of p(x0) N(x; alpha x0, sigma^2) over x0; and samples with noise are samples of it."""
    t = 0.3
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    x0, width = grid(-4, 5, 3000)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    kernel = torch.distributions.Normal(alpha * x0, sigma).log_prob(x[:, None]).exp()
    by_hand = kernel @ LINE.log_prob(x0[:, None]).exp() * width
    torch.testing.assert_close(LINE.noised(alpha, sigma).log_prob(x[:, None]).exp(), by_hand, rtol=1e-8, atol=1e-12)
    noisy = schedule.add_noise(LINE.sample(1000, seeded(1)), t, normal(1000, 1, seed=2).float())
    assert energy_test(noisy, LINE.noised(alpha, sigma).sample(1000, seeded(3))) < 1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_denoiser_is_the_posterior_mean_by_quadrature(schedule):
    denoise = LINE.denoiser(schedule)
    x0, _ = grid(-4, 5, 3000)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for t in (0.1, 0.3, 0.7, 1.0):
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        log_joint = LINE.log_prob(x0[:, None]) - (x[:, None] - alpha * x0) ** 2 / (2 * sigma**2)
        posterior = log_joint.softmax(1)
        torch.testing.assert_close(denoise(x[:, None], t)[:, 0], posterior @ x0, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("mixture", [MIXTURE, LINE, GaussianMixture(normal(20, 5), 0.0)], ids=["2D", "1D", "points"])
def test_denoiser_is_tweedies_formula(schedule, mixture):
    """E[x0 | x] = (x + sigma^2 grad log p_t(x)) / alpha, with the score of the noised mixture."""
    x = normal(8, mixture.dim)
    for t in (0.05, 0.4, 0.9):
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        score = mixture.noised(alpha, sigma).score(x)
        expected = to_x0("score", score, x, alpha, sigma)
        torch.testing.assert_close(mixture.denoiser(schedule)(x, t), expected, rtol=1e-6, atol=1e-6)


def test_denoiser_has_the_least_error():
    """It is the mean of x0 given x: any way of changing it (shift, scale, a bend) makes the squared error larger."""
    schedule, t, n = CosineSchedule(None), 0.5, 50_000
    x0 = MIXTURE.sample(n, seeded()).double()
    x = schedule.add_noise(x0, t, normal(n, 2, seed=1))
    x0_hat = MIXTURE.denoiser(schedule)(x, t)
    for change in (torch.ones_like(x), x, x0_hat, x.sin(), x.flip(1)):
        product = ((x0 - x0_hat) * change).sum(1)  # the error is orthogonal to every function of x
        assert product.mean().abs().item() < 4.5 * product.std().item() / math.sqrt(n)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_one_time_for_each_sample(schedule):
    denoise, x = MIXTURE.denoiser(schedule), normal(4, 2)
    t = torch.tensor([0.0, 0.2, 0.6, 1.0], dtype=torch.float64)
    together = denoise(x, t)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], denoise(x[i : i + 1], t[i].item()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together[0], x[0], rtol=1e-9, atol=1e-9)  # at t = 0 there is nothing to remove


def test_point_masses():
    """std = 0 is the empirical distribution: at little noise the nearest point, at much noise the mean."""
    schedule = VESchedule(0.001, 1000.0)
    points = normal(6, 2)
    data = GaussianMixture(points, 0.0)
    denoise = data.denoiser(schedule)
    torch.testing.assert_close(denoise(points + 1e-3, 0.1), points, rtol=0, atol=1e-6)
    torch.testing.assert_close(denoise(points, 1.0), points.mean(0).expand(6, 2), rtol=0, atol=1e-4)
    torch.testing.assert_close(denoise(points, 0.0), points, rtol=0, atol=1e-6)
    assert denoise(points + 5, 1e-4).isfinite().all()
    drawn = data.sample(100, seeded()).double()
    assert torch.cdist(drawn, points).min(1).values.max() < 1e-6


def test_dtype_and_defaults():
    assert GaussianMixture([[0.0, 0.0], [1.0, 1.0]], 1).weights.tolist() == [0.5, 0.5]
    assert GaussianMixture([[0, 0], [1, 1]], 1, [1, 3]).weights.tolist() == [0.25, 0.75]
    for dtype in (torch.float32, torch.float64):
        x = normal(3, 2).to(dtype)
        for result in (MIXTURE.log_prob(x), MIXTURE.score(x), MIXTURE.denoiser(LinearSchedule())(x, 0.5)):
            assert result.dtype == dtype
    exact = MIXTURE.denoiser(LinearSchedule())(normal(50, 2), 0.5)
    rounded = MIXTURE.denoiser(LinearSchedule())(normal(50, 2).float(), 0.5)
    torch.testing.assert_close(rounded, exact.float(), rtol=1e-4, atol=1e-4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"means has shape \(2,\); it must be \(components, dimensions\)"):
        GaussianMixture([0.0, 1.0], 1.0)
    for means in (torch.zeros(0, 2), [[0.0, float("nan")]]):
        with pytest.raises(ValueError, match="at least one mean, all of finite numbers"):
            GaussianMixture(means, 1.0)
    for std, weights in ((-1.0, None), (1.0, [1, 0]), (1.0, [1, -1]), (float("nan"), None)):
        with pytest.raises(ValueError, match="std >= 0 and weights > 0"):
            GaussianMixture([[0.0], [1.0]], std, weights)
    for std, weights in (([1, 1, 1], None), (1.0, [1, 1, 1])):
        with pytest.raises(ValueError, match="one number for each of the 2 components"):
            GaussianMixture([[0.0], [1.0]], std, weights)
    for x in (torch.zeros(3), torch.zeros(3, 3), torch.zeros(1, 2, 1)):
        for call in (MIXTURE.log_prob, MIXTURE.score, lambda x: MIXTURE.denoiser(LinearSchedule())(x, 0.5)):
            with pytest.raises(ValueError, match=r"this mixture lives on points \(B, 2\)"):
                call(x)
    with pytest.raises(ValueError, match="n = 0"):
        MIXTURE.sample(0)
    with pytest.raises(ValueError, match=r"times lie in \[0, 1\]"):
        MIXTURE.denoiser(LinearSchedule())(torch.zeros(1, 2), 2.0)
