"""Samplers: from noise back to data, with any denoiser.

Each is a generator with the same head, ``sampler(denoise, schedule, x, times, ...)``: `denoise` is a function
(x, t) -> x0_hat, x (B, ...) is noise at times[0], `times` fall (schedule.timesteps(n)), and x is yielded after every
step::

    *path, x0 = ddim(denoise, schedule, x, schedule.timesteps(50))

Because sigma(0) = 0, the formulas themselves do the right thing in the last step. Nothing is recorded for gradients.
Each raises ValueError where the times do not fall or leave [0, 1], or a `Denoiser` was made for other levels of noise.
"""

import math

import torch

from course_utils.checks import check_times
from course_utils.denoiser import from_x0
from course_utils.schedules import check_schedule


@torch.no_grad()
def ddpm(denoise, schedule, x, times, large_variance=False, generator=None):
    """Ancestral sampling: draw from q(x_s | x_t, x0_hat) (Ho et al. 2020, eqs. 6 and 7, algorithm 2).

    The variance is the posterior's, or with `large_variance` that of q(x_t | x_s): beta_t, the paper's other choice.
    The paper steps between neighbouring levels; any falling times will do.
    """
    for t, _, (alpha, sigma), (alpha_next, sigma_next) in steps(schedule, times, denoise):
        x0 = denoise(x, t)
        ratio = alpha / alpha_next
        variance_up = sigma**2 - (ratio * sigma_next) ** 2  # of q(x_t | x_s): beta_t for neighbours
        mean = ratio * sigma_next**2 / sigma**2 * x + alpha_next * variance_up / sigma**2 * x0
        variance = variance_up if large_variance else variance_up * sigma_next**2 / sigma**2
        x = mean + math.sqrt(variance) * noise_like(x, generator) if sigma_next > 0 else mean
        yield x


@torch.no_grad()
def ddim(denoise, schedule, x, times, eta=0.0, generator=None):
    """DDIM (Song, Meng & Ermon 2021, eqs. 12 and 16): deterministic for eta = 0, ancestral sampling for eta = 1.

    Raises ValueError where eta is not in [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}; it runs from 0 (no noise) to 1 (as much as ancestral sampling)")
    for t, _, (alpha, sigma), (alpha_next, sigma_next) in steps(schedule, times, denoise):
        x0 = denoise(x, t)
        std = eta * sigma_next / sigma * math.sqrt(max(0.0, sigma**2 - (alpha / alpha_next * sigma_next) ** 2))
        kept = math.sqrt(max(0.0, sigma_next**2 - std**2)) / sigma
        x = kept * x + (alpha_next - kept * alpha) * x0  # alpha_next x0 + kept sigma eps, eps = (x - alpha x0) / sigma
        if std > 0:
            x = x + std * noise_like(x, generator)
        yield x


@torch.no_grad()
def heun(denoise, schedule, x, times):
    """Heun's method on the probability-flow ODE, second order, two denoiser calls a step (Karras et al. 2022, alg. 1).

    The ODE is written in the angle phi = atan2(sigma, alpha), along which x / hypot(alpha, sigma) moves with the
    velocity v of Salimans & Ho (2022): the angle stays finite at both ends, where sigma / alpha does not. A DDIM step
    predicts, the mean of both ends' velocities corrects; the last step, to sigma = 0, has no velocity at its end and
    stays a DDIM step.
    """
    for t, t_next, (alpha, sigma), (alpha_next, sigma_next) in steps(schedule, times, denoise):
        x0 = denoise(x, t)
        predicted = alpha_next * x0 + sigma_next / sigma * (x - alpha * x0)
        if sigma_next > 0:
            scale, scale_next = math.hypot(alpha, sigma), math.hypot(alpha_next, sigma_next)
            v = from_x0("v", x0, x, alpha, sigma) / scale
            v_next = from_x0("v", denoise(predicted, t_next), predicted, alpha_next, sigma_next) / scale_next
            turn = math.atan2(sigma_next, alpha_next) - math.atan2(sigma, alpha)
            x = scale_next * (x / scale + turn * (v + v_next) / 2)
        else:
            x = predicted
        yield x


@torch.no_grad()
def dpmpp_2m(denoise, schedule, x, times):
    """DPM-Solver++(2M), second order with one denoiser call a step (Lu et al. 2022, algorithm 2).

    The step before supplies the slope of x0_hat along lambda = log(alpha / sigma). Where a step is infinitely long
    (to sigma = 0, from alpha = 0) or the one before had no length, the step is first order: DDIM.
    """
    x0_before = h_before = None
    for t, _, (alpha, sigma), (alpha_next, sigma_next) in steps(schedule, times, denoise):
        x0 = denoise(x, t)
        h = _log(alpha_next / sigma_next if sigma_next else math.inf) - _log(alpha / sigma)
        extrapolate = h_before and math.isfinite(h)
        slope = (x0 - x0_before) * (h / h_before / 2) if extrapolate else 0
        x = sigma_next / sigma * x + (alpha_next - alpha * sigma_next / sigma) * (x0 + slope)
        x0_before, h_before = x0, h
        yield x


def _log(ratio):
    return math.log(ratio) if ratio > 0 else -math.inf


def noise_like(x, generator=None):
    device = generator.device if generator else x.device  # the CPU's generator, as the schedules take, serves any x
    return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)


def steps(schedule, times, denoise=None):
    """(t, t_next, (alpha, sigma), (alpha_next, sigma_next)) of every step, as floats: a step costs no table look-up.

    Raises ValueError where `denoise` carries a schedule of its own with other levels of noise at these times.
    """
    check_schedule(schedule)
    times = check_falling(times)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    own = getattr(denoise, "schedule", schedule)
    if own is not schedule:
        here, there = torch.stack([alpha, sigma]), torch.stack([own.alpha(times), own.sigma(times)])
        if not torch.allclose(here, there, rtol=0.01, atol=0.01):  # a table of levels may stand for its curve
            raise ValueError(f"the denoiser was made for {own}, but the sampler walks along {schedule}")
    levels = list(zip(alpha.tolist(), sigma.tolist(), strict=True))
    times = times.tolist()
    return zip(times, times[1:], levels, levels[1:], strict=False)


def check_falling(times):
    """The times of a sampler as float64; raises ValueError where they do not fall, or leave [0, 1]."""
    times = torch.as_tensor(times, dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2 or (times.diff() >= 0).any():
        raise ValueError("times must be a list of at least two times that fall, such as schedule.timesteps(50)")
    return check_times(times)
