"""How likely a point is under a diffusion model: the probability-flow ODE carries it to noise and counts the volume.

Sources: Chen et al. 2018 (instantaneous change of variables), Song et al. 2021, section 4.3; Grathwohl et al. 2019
(the trace by random directions).
"""

import math

import torch

from course_utils.denoiser import from_x0
from course_utils.losses import divergence
from course_utils.samplers import steps


@torch.no_grad()
def log_likelihood(denoise, schedule, x, times, directions=None):
    """log p(x) in nats, (B,), of the distribution that the ODE makes of noise N(0, I).

    `times` are a sampler's, from 1 down to 0, and are walked back. The ODE is the one of `heun`: in the angle
    phi = atan2(sigma, alpha) the point y = x / hypot(alpha, sigma) moves with velocity v, and log p changes by the
    integral of div v. The trace is exact, one backward pass a coordinate; for pictures give `directions` (K, B, ...) of
    signs +-1, whose mean is unbiased. Second order in the steps. Raises ValueError for times that do not fall from 1
    to 0 and for a denoiser without gradient, FloatingPointError where the ODE leads to no number.
    """
    walk = list(steps(schedule, times))
    if walk[0][0] != 1 or walk[-1][1] != 0:
        raise ValueError(f"times run from {walk[0][0]} to {walk[-1][1]}; a likelihood needs all the way, 1 to 0")
    y, v = x, torch.zeros_like(x)  # at sigma = 0 nothing moves: E[eps | x0] = 0
    change = rate = x.new_zeros(len(x))
    phi = 0.0
    for t, _, (alpha, sigma), _ in reversed(walk):
        velocity = velocity_at(denoise, t, alpha, sigma)
        turn = math.atan2(sigma, alpha) - phi
        y = y + turn * (v + velocity(y + turn * v)) / 2
        rate_before = rate
        v, rate = divergence(velocity, y, directions)
        change = change + turn * (rate_before + rate) / 2
        phi += turn
    log_p = change - y.square().flatten(1).sum(1) / 2 - y[0].numel() / 2 * math.log(2 * math.pi)
    if not log_p.isfinite().all():
        raise FloatingPointError("the ODE led to no number: check the points, or take more steps")
    return log_p


def velocity_at(denoise, t, alpha, sigma):
    """dy / dphi as a function of y = x / hypot(alpha, sigma), (B, ...) -> (B, ...)."""
    scale = math.hypot(alpha, sigma)

    def velocity(y):
        x = scale * y
        x0 = denoise(x, t)
        if torch.is_grad_enabled() and not x0.requires_grad:  # the trace would lack the denoiser's part, unseen
            raise ValueError("x0_hat has no gradient with respect to x: was it computed under no_grad, or detached?")
        return from_x0("v", x0, x, alpha, sigma) / scale

    return velocity
