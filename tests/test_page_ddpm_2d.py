"""The formulas on chapter 3's page, each computed a second way."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from course_utils.data import toy_mixture
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.schedules import CosineSchedule, LinearSchedule, SigmoidSchedule

SCHEDULES = [LinearSchedule(T=50, beta_end=0.4), SigmoidSchedule(T=100), CosineSchedule(T=80)]
pytestmark = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


def posterior(schedule, k, x0, x):
    """Mean and variance as the page writes them."""
    beta, ab, ab_before = schedule.beta[k], schedule.alpha_bar[k], schedule.alpha_bar[k - 1]
    mean = ab_before.sqrt() * beta / (1 - ab) * x0 + (1 - beta).sqrt() * (1 - ab_before) / (1 - ab) * x
    return mean, (1 - ab_before) / (1 - ab) * beta


def test_many_steps_are_one_jump(schedule):
    """A step maps N(m, v) to N(sqrt(1 - beta) m, (1 - beta) v + beta); from a point, all of them together."""
    mean, variance = torch.tensor(1.7, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for k in range(1, schedule.T + 1):
        beta = schedule.beta[k]
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        assert mean.item() == pytest.approx(schedule.alpha_bar[k].sqrt().item() * 1.7, abs=1e-12)
        assert variance.item() == pytest.approx(1 - schedule.alpha_bar[k].item(), abs=1e-12)


def test_posterior_is_bayes_rule(schedule):
    """The product of both Gaussians on a grid has the formula's mean and variance."""
    x0, x = 0.8, -0.4
    for k in (2, schedule.T // 3, schedule.T - 2):
        beta, ab_before = schedule.beta[k], schedule.alpha_bar[k - 1]
        mean, variance = posterior(schedule, k, x0, x)
        grid = mean + variance.sqrt() * torch.linspace(-9, 9, 20_001, dtype=torch.float64)
        step = Normal((1 - beta).sqrt() * grid, beta.sqrt()).log_prob(torch.tensor(x, dtype=torch.float64))
        came = Normal(ab_before.sqrt() * x0, (1 - ab_before).sqrt()).log_prob(grid)
        weight = (step + came).softmax(0)
        assert (weight @ grid).item() == pytest.approx(mean.item(), abs=1e-9)
        assert (weight @ (grid - mean) ** 2).item() == pytest.approx(variance.item(), rel=1e-6)


def test_last_posterior_is_the_data(schedule):
    mean, variance = posterior(schedule, 1, 0.8, -0.4)
    assert mean == pytest.approx(0.8) and variance == 0


def test_terms_of_the_bound(schedule):
    """The KL of two posteriors is half a difference of signal-to-noise, and DDPM's weight on the noise."""
    ab = schedule.alpha_bar
    snr = ab / (1 - ab)
    x0, guess, x = (torch.tensor(v, dtype=torch.float64) for v in (0.8, 0.5, -0.4))
    for k in range(2, schedule.T + 1):
        (mean, variance), (guessed, _) = posterior(schedule, k, x0, x), posterior(schedule, k, guess, x)
        kl = kl_divergence(Normal(mean, variance.sqrt()), Normal(guessed, variance.sqrt())).item()
        assert kl == pytest.approx((0.5 * (snr[k - 1] - snr[k]) * (x0 - guess) ** 2).item(), rel=1e-6)
        eps, eps_guess = ((x - ab[k].sqrt() * v) / (1 - ab[k]).sqrt() for v in (x0, guess))
        weight = schedule.beta[k] ** 2 / (2 * variance * (1 - schedule.beta[k]) * (1 - ab[k]))
        assert kl == pytest.approx((weight * (eps - eps_guess) ** 2).item(), rel=1e-6)


def test_bound_telescopes(schedule):
    """Along any path, log q(x_1..T | x0) - log p(x_0..T) is the sum of the bound's terms, whatever the model."""
    guess = lambda x: 0.3 + 0.5 * x  # noqa: E731
    path = [torch.tensor(0.8, dtype=torch.float64)]
    generator = torch.Generator().manual_seed(0)
    left = right = 0.0
    for k in range(1, schedule.T + 1):
        beta, x = schedule.beta[k], path[-1]
        step = Normal((1 - beta).sqrt() * x, beta.sqrt())
        path.append(step.mean + step.stddev * torch.randn((), dtype=torch.float64, generator=generator))
        mean, variance = posterior(schedule, k, guess(path[k]), path[k])
        model = Normal(mean, variance.sqrt() if k > 1 else 0.1).log_prob(x)
        left += step.log_prob(path[k]) - model
        if k > 1:
            mean, variance = posterior(schedule, k, path[0], path[k])
            right += Normal(mean, variance.sqrt()).log_prob(x) - model
        else:
            right -= model
    end = Normal(schedule.alpha_bar[-1].sqrt() * path[0], (1 - schedule.alpha_bar[-1]).sqrt()).log_prob(path[-1])
    assert left.item() == pytest.approx((right + end).item(), rel=1e-9)  # log p(x_T) stands on both sides


def test_algorithm_2_is_the_posterior_at_the_guess(schedule):
    x, eps = torch.tensor(-0.4, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    for k in range(1, schedule.T + 1):
        beta, ab = schedule.beta[k], schedule.alpha_bar[k]
        guess = (x - (1 - ab).sqrt() * eps) / ab.sqrt()
        line_4 = (x - beta / (1 - ab).sqrt() * eps) / (1 - beta).sqrt()
        assert posterior(schedule, k, guess, x)[0].item() == pytest.approx(line_4.item(), abs=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_keeps_every_level(schedule, eta):
    """x_s has variance sigma_s^2 around alpha_s x0 for every eta; at eta = 1 its factor of x_t is the posterior's."""
    t, s = 0.8, 0.3
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((schedule.alpha(u), schedule.sigma(u)) for u in (t, s))
    tau = eta * sigma_s / sigma_t * (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2).sqrt()
    kept = (sigma_s**2 - tau**2).sqrt() / sigma_t
    assert (kept * sigma_t) ** 2 + tau**2 == pytest.approx(sigma_s**2)
    if eta == 1:
        assert kept == pytest.approx(alpha_t / alpha_s * sigma_s**2 / sigma_t**2)


def test_floor_of_the_loss(schedule):
    """The exact denoiser's loss is E|eps - E[eps | x]|^2 = 1 - E|E[eps | x]|^2 a coordinate, the least of all."""
    moons = toy_mixture("moons")
    generator = torch.Generator().manual_seed(0)
    x0, noise = moons.sample(20_000, generator), torch.randn(20_000, 2, generator=generator)
    t = torch.full((20_000,), 0.4)
    exact = moons.denoiser(schedule)
    alpha, sigma = schedule.at(t, x0)
    best = lambda x, t, y=None: (x - alpha * exact(x, t)) / sigma  # noqa: E731
    losses = {}
    for name, net in {"best": best, "a little more": lambda x, t, y=None: 1.1 * best(x, t), "zero": torch_zero}.items():
        denoiser = Denoiser(torch.nn.Identity(), schedule)
        denoiser.net = Call(net)
        losses[name] = diffusion_loss(denoiser, x0, t=t, noise=noise).item()
    mean_eps = best(alpha * x0 + sigma * noise, t)
    assert losses["best"] == pytest.approx(1 - mean_eps.square().mean().item(), abs=0.02)
    assert losses["best"] < losses["a little more"] < losses["zero"] == pytest.approx(1, abs=0.02)


def torch_zero(x, t, y=None):
    return torch.zeros_like(x)


class Call(torch.nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)
