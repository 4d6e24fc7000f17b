"""Langevin dynamics: samples from a score alone, and what grows out of it, up to the reverse SDE.

A *score* is a function x (B, ...) -> (B, ...), the gradient of log p: `score_of(energy)`, `mixture.score`, or
`score_at(denoise, schedule, t)`. Each sampler is a generator that yields x after every step. The chains of a batch
don't see each other, nothing is recorded for gradients, and where a chain runs away the sampler says so at once.
"""

import math

import torch

from course_utils.checks import check_chain, check_energy, check_shapes, check_step, far_from
from course_utils.denoiser import from_x0
from course_utils.energy import energy_and_score
from course_utils.samplers import check_falling, ddpm, noise_like, steps
from course_utils.schedules import check_schedule


def ask(score, x, *level):
    """The score at x, checked: one of another shape would broadcast against x without a word."""
    s = score(x, *level)
    check_shapes(score=s, x=x)
    return s


@torch.no_grad()
def langevin(score, x, step, n_steps, temperature=1.0, generator=None):
    """Unadjusted Langevin: x + step score(x) + sqrt(2 step temperature) z, z ~ N(0, I), n_steps times.

    For small steps its states become samples of p^(1 / temperature), of p itself at 1; a finite step leaves a bias. On
    N(m, s^2) it stops at the variance s^2 / (1 - step / (2 s^2)) and runs away for step > 2 s^2 (Roberts & Tweedie
    1996). Raises ValueError for step not above 0, a negative temperature, or a score of another shape than x,
    FloatingPointError where a chain diverges.
    """
    check_step(step, n_steps)
    if not temperature >= 0:
        raise ValueError(f"temperature = {temperature}; it is 1 for samples of p and 0 for a walk downhill")
    bound = far_from(x)
    for k in range(n_steps):
        x = x + step * ask(score, x) + math.sqrt(2 * step * temperature) * noise_like(x, generator)
        yield check_chain(bound, x, f"at step {k + 1}, with step = {step:g}")


@torch.no_grad()
def mala(energy, x, step, n_steps, generator=None):
    """Metropolis-adjusted Langevin: a Langevin step is a proposal, and refusing some removes the bias.

    Yields (x, accepted), accepted (B,) True where the proposal was taken: with probability
    min(1, p(x') q(x | x') / (p(x) q(x' | x))), q the step's normal density (Roberts & Tweedie 1996; Besag 1994).
    Raises as `langevin`, and FloatingPointError where the energy is not a number.
    """
    check_step(step, n_steps)
    each = (len(x),) + (1,) * (x.ndim - 1)
    e, s = energy_and_score(energy, x)
    check_energy(e)
    for _ in range(n_steps):
        proposal = x + step * s + math.sqrt(2 * step) * noise_like(x, generator)
        e_new, s_new = energy_and_score(energy, proposal)
        check_energy(e_new)
        there = (proposal - x - step * s).square().flatten(1).sum(1)  # -4 step log q(x' | x), but for a constant
        back = (x - proposal - step * s_new).square().flatten(1).sum(1)
        log_ratio = (e - e_new) + (there - back) / (4 * step)
        device = generator.device if generator else x.device
        u = torch.rand(len(x), dtype=x.dtype, device=device, generator=generator).to(x.device)
        accepted = u.log() < log_ratio
        x, s = (torch.where(accepted.reshape(each), new, old) for new, old in ((proposal, x), (s_new, s)))
        e = torch.where(accepted, e_new, e)
        yield x, accepted


@torch.no_grad()
def annealed_langevin(score, sigmas, x, n_steps=100, eps=2e-5, generator=None):
    """Annealed Langevin dynamics, n_steps at each noise level (Song & Ermon 2019, algorithm 1).

    score(x, sigma) is that of the data with noise of std sigma added; `sigmas` fall. With the paper's letters level i
    takes x + a_i / 2 score + sqrt(a_i) z with a_i = eps sigma_i^2 / sigma_L^2: the step follows the level's own scale,
    and a large a_i crosses a wide density as fast as a small one a narrow one. A chain is stable for a_1 below
    4 sigma_1^2, so eps below 4 sigma_L^2. Raises ValueError where sigmas do not fall, else as `langevin`.
    """
    sigmas = [float(sigma) for sigma in sigmas]
    if not sigmas or not all(a > b for a, b in zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        raise ValueError(f"sigmas = {sigmas}; give noise levels that fall and stay above 0")
    check_step(eps, n_steps)
    bound = far_from(x, sigmas[0])
    for sigma in sigmas:
        step = eps * sigma**2 / sigmas[-1] ** 2 / 2
        for _ in range(n_steps):
            x = x + step * ask(score, x, sigma) + math.sqrt(2 * step) * noise_like(x, generator)
            yield check_chain(bound, x, f"at sigma = {sigma:g}, with eps = {eps:g} (below 4 sigmas[-1]^2 it is stable)")


# ---- with a denoiser and a schedule, as the samplers of samplers.py


def score_at(denoise, schedule, t):
    """The score x (B, ...) -> (B, ...) of p_t by Tweedie's formula, (alpha x0_hat - x) / sigma^2; t in (0, 1]."""
    check_schedule(schedule)

    def score(x):
        return from_x0("score", denoise(x, t), x, *schedule.at(t, x))

    return score


@torch.no_grad()
def reverse_sde(denoise, schedule, x, times, generator=None):
    """The reverse SDE by Euler and Maruyama, as the "reverse diffusion sampler" of Song et al. 2021 (appendix E).

    Between two levels the forward SDE multiplies x by `ratio` and adds noise of variance `added`; backwards the step is
    (2 - ratio) x + added score + sqrt(added) z, with noise in the last step too, which `ddpm` mends.
    """
    for t, _, (alpha, sigma), (alpha_next, sigma_next) in steps(schedule, times):
        score = from_x0("score", denoise(x, t), x, alpha, sigma)
        ratio = alpha / alpha_next
        added = sigma**2 - (ratio * sigma_next) ** 2
        x = (2 - ratio) * x + added * score + math.sqrt(added) * noise_like(x, generator)
        yield x


@torch.no_grad()
def predictor_corrector(
    denoise, schedule, x, times, n_corrections=1, snr=0.16, predictor=ddpm, generator=None, **options
):
    """A step of any sampler, then Langevin steps at the level reached (Song et al. 2021, algorithm 1).

    The corrector's step is 2 (snr sigma)^2: where noise rules, sigma is the |z| / |score| that the paper measures in
    its place, and below snr = 1 no such step is unstable. At sigma = 0 there is no corrector. `options` go to the
    predictor (`generator` too where it is `ddpm` or `reverse_sde`). Raises ValueError for a negative n_corrections or
    snr not above 0.
    """
    if n_corrections < 0 or not snr > 0:
        raise ValueError(f"n_corrections = {n_corrections} is at least 0 and snr = {snr} above 0")
    times = check_falling(times).tolist()
    if predictor in (ddpm, reverse_sde):
        options["generator"] = generator
    for t, t_next in zip(times, times[1:], strict=False):
        (x,) = predictor(denoise, schedule, x, [t, t_next], **options)
        sigma = schedule.sigma(t_next).item()
        if sigma > 0 and n_corrections:
            score = score_at(denoise, schedule, t_next)
            *_, x = langevin(score, x, 2 * (snr * sigma) ** 2, n_corrections, generator=generator)
        yield x
