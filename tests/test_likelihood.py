"""Likelihood through the probability-flow ODE, against the exact density of a mixture."""

import math

import pytest
import torch
from torch import nn

from course_utils.denoiser import Denoiser
from course_utils.energy import grid
from course_utils.likelihood import log_likelihood
from course_utils.mixtures import GaussianMixture
from course_utils.models import MLP
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule

MIXTURE = GaussianMixture([[-1.2, 0.4], [0.8, 0.9], [0.5, -1.1]], [0.15, 0.3, 0.2], [3, 2, 1])
SCHEDULES = [LinearSchedule(), CosineSchedule(None), VESchedule(0.01, 300.0)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_equals_the_exact_density(schedule):
    """Points of the mixture and points far from it, where the density is small."""
    x = torch.cat([MIXTURE.sample(10, seeded()).double(), torch.tensor([[0.0, 0.0], [1.5, -1.5]]).double()])
    log_p = log_likelihood(MIXTURE.denoiser(schedule), schedule, x, schedule.timesteps(200))
    assert log_p.shape == (12,) and not log_p.requires_grad
    torch.testing.assert_close(log_p, MIXTURE.log_prob(x), atol=0.05, rtol=0)


def test_error_is_of_second_order():
    """On N(0, I), which stays N(0, I), nothing moves; on N(0, 0.3^2) twice the steps are a quarter of the error."""
    schedule = CosineSchedule(None)
    x = torch.tensor([[0.1, 0.0], [0.3, -0.2]]).double()
    standard = GaussianMixture([[0.0, 0.0]], 1.0)
    still = log_likelihood(standard.denoiser(schedule), schedule, x, schedule.timesteps(3))
    torch.testing.assert_close(still, standard.log_prob(x), atol=1e-9, rtol=0)
    narrow = GaussianMixture([[0.0, 0.0]], 0.3)
    errors = [
        (log_likelihood(narrow.denoiser(schedule), schedule, x, schedule.timesteps(n)) - narrow.log_prob(x)).abs().max()
        for n in (25, 50, 100)
    ]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.4)


def test_it_is_a_density():
    """Of a denoiser that is nobody's, too, exp(log p) integrates to one: the ODE only moves mass about."""
    schedule = CosineSchedule(None)
    points, cell = grid(-5, 5, 60)

    def made_up(x, t):
        alpha, sigma = schedule.at(t, x)
        return alpha * x + 0.7 * sigma**2 * torch.tanh(3 * x)  # x itself at sigma = 0

    log_p = log_likelihood(made_up, schedule, points, schedule.timesteps(60))
    assert (log_p.exp().sum() * cell).item() == pytest.approx(1, abs=0.01)
    normal = -points.square().sum(1) / 2 - math.log(2 * math.pi)
    assert (log_p - normal).abs().max() > 0.3  # it did move some


def test_random_directions_are_right_on_average():
    schedule, times, n = CosineSchedule(None), CosineSchedule(None).timesteps(15), 2000
    point, denoise = torch.tensor([[-1.0, 0.6]]).double(), MIXTURE.denoiser(schedule)
    exact = log_likelihood(denoise, schedule, point, times)
    signs = torch.randint(0, 2, (1, n, 2), generator=seeded(1)).double() * 2 - 1
    each = log_likelihood(denoise, schedule, point.expand(n, 2), times, signs)
    assert each.std() > 1e-4
    assert (each.mean() - exact).abs().item() < 4 * each.std().item() / math.sqrt(n)
    axes = math.sqrt(2) * torch.eye(2, dtype=torch.float64)[:, None]  # the mean of v v^T is I itself: no error
    torch.testing.assert_close(log_likelihood(denoise, schedule, point, times, axes), exact)


def test_pictures_and_networks():
    """A picture is as likely as the row of its pixels; a network in float32 serves, and keeps its mode."""
    schedule = CosineSchedule(None)
    means = torch.randn(2, 12, dtype=torch.float64, generator=seeded(5))
    flat = GaussianMixture(means, 0.5)
    rows = flat.sample(3, seeded(1)).double()

    def picture(x, t):
        return flat.denoiser(schedule)(x.flatten(1), t).reshape(x.shape)

    pictures = log_likelihood(picture, schedule, rows.reshape(3, 1, 3, 4), schedule.timesteps(20))
    torch.testing.assert_close(
        pictures, log_likelihood(flat.denoiser(schedule), schedule, rows, schedule.timesteps(20))
    )
    denoiser = Denoiser(MLP(2, 16, 2), schedule, "v")
    log_p = log_likelihood(denoiser, schedule, torch.zeros(3, 2), schedule.timesteps(5))
    assert log_p.dtype == torch.float32 and log_p.isfinite().all() and denoiser.training
    assert all(p.grad is None for p in denoiser.parameters())


def test_bad_input():
    schedule, x = CosineSchedule(None), torch.zeros(2, 2)
    for times in ([1.0, 0.5], [0.5, 0.0]):
        with pytest.raises(ValueError, match="a likelihood needs all the way, 1 to 0"):
            log_likelihood(nn.Identity(), schedule, x, times)
    with pytest.raises(ValueError, match="times that fall"):
        log_likelihood(nn.Identity(), schedule, x, [0.0, 1.0])
    with pytest.raises(FloatingPointError, match="the ODE led to no number"):
        log_likelihood(MIXTURE.denoiser(schedule), schedule, x + math.nan, schedule.timesteps(5))
    with pytest.raises(ValueError, match="no gradient with respect to x"):
        log_likelihood(torch.no_grad()(MIXTURE.denoiser(schedule)), schedule, x, schedule.timesteps(5))
