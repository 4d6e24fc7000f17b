"""Samplers: each reaches the exact mixture, at its order of convergence, and equals the papers' equations."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn
from two_sample import energy_test

from course_utils.denoiser import Denoiser
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim, ddpm, dpmpp_2m, heun
from course_utils.schedules import (
    CosineSchedule,
    DiscreteSchedule,
    LinearSchedule,
    QuadraticSchedule,
    SigmoidSchedule,
    VESchedule,
)

MIXTURE = GaussianMixture([[-1.2, 0.4], [0.8, 0.9], [0.5, -1.1]], [0.15, 0.3, 0.2], [3, 2, 1])
SCHEDULES = [LinearSchedule(), SigmoidSchedule(), CosineSchedule(), CosineSchedule(None), VESchedule(0.01, 30.0)]
DETERMINISTIC = [ddim, heun, dpmpp_2m]


def half_ddim(*args, **options):
    return ddim(*args, eta=0.5, **options)


def full_ddim(*args, **options):
    return ddim(*args, eta=1.0, **options)


SAMPLERS = [ddpm, ddim, half_ddim, full_ddim, heun, dpmpp_2m]
RANDOM = [ddpm, half_ddim, full_ddim]
N_STEPS = {ddpm: 250, half_ddim: 200, full_ddim: 250, ddim: 100, heun: 50, dpmpp_2m: 50}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def last(states):
    *_, x = states
    return x


def run(sampler, schedule, denoise, x, times, seed=0):
    options = {"generator": seeded(seed)} if sampler in RANDOM else {}
    return last(sampler(denoise, schedule, x, times, **options))


def name(thing):
    return getattr(thing, "__name__", None) or repr(thing)


# ---- the destination


@pytest.mark.parametrize("schedule", [*SCHEDULES, QuadraticSchedule()], ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_reaches_the_exact_mixture(sampler, schedule):
    n = 1000
    x = schedule.prior(n, 2, generator=seeded(1))
    x0 = run(sampler, schedule, MIXTURE.denoiser(schedule), x, schedule.timesteps(N_STEPS[sampler]))
    assert energy_test(x0, MIXTURE.sample(n, seeded(2))) < 1


def test_that_test_sees_a_sampler_that_is_a_little_wrong():
    """A quarter too wide, the weights forgotten, or a start that the schedule does not deserve: each is found."""
    n, exact = 1000, MIXTURE.sample(1000, seeded(2))
    assert energy_test(MIXTURE.sample(n, seeded(1)), exact) < 1
    assert energy_test(1.25 * MIXTURE.sample(n, seeded(1)), exact) > 1
    assert energy_test(GaussianMixture(MIXTURE.means, MIXTURE.std).sample(n, seeded(1)), exact) > 1
    short = SigmoidSchedule(100, 1e-5, 5e-3)  # alpha_bar(T) = 0.78: N(0, I) is not where it ends
    start = normal(n, 2).float()
    assert energy_test(run(ddim, short, MIXTURE.denoiser(short), start, short.timesteps(100)), exact) > 1


def test_a_schedule_that_stops_early_is_right_from_its_own_marginal():
    short, n = SigmoidSchedule(100, 1e-5, 5e-3), 1000
    start = MIXTURE.noised(short.alpha(1.0), short.sigma(1.0)).sample(n, seeded(1))
    x0 = run(ddim, short, MIXTURE.denoiser(short), start, short.timesteps(100))
    assert energy_test(x0, MIXTURE.sample(n, seeded(2))) < 1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_moments_of_a_gaussian(sampler, schedule):
    """N(0.3, 0.5^2) end to end: a Gaussian shows what a point mass hides."""
    n, oracle = 20_000, GaussianMixture([[0.3]], 0.5)
    x = schedule.prior(n, 1, generator=seeded(1)).double()
    x0 = run(sampler, schedule, oracle.denoiser(schedule), x, schedule.timesteps(N_STEPS[sampler]))
    bias = 0.01  # of the finite steps; every known mistake is ten times that or more
    assert x0.mean().item() == pytest.approx(0.3, abs=bias + 4 * 0.5 / math.sqrt(n))
    assert x0.std().item() == pytest.approx(0.5, abs=bias + 4 * 0.5 / math.sqrt(2 * n))


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_a_point_mass_is_reached_in_one_step(sampler):
    point = GaussianMixture([[0.3, -2.0]], 0.0)
    for schedule in SCHEDULES:
        for n in (1, 3):
            x = schedule.prior(4, 2, generator=seeded()).double()
            x0 = run(sampler, schedule, point.denoiser(schedule), x, schedule.timesteps(n))
            torch.testing.assert_close(x0, point.means.expand(4, 2), rtol=0, atol=1e-9)


# ---- the way there


def exact_flow(mixture, schedule, x, start, end):
    """The probability-flow ODE from time start to end, to 1e-11, by scipy.

    With z = x / alpha and s = sigma / alpha the ODE is dz/ds = -s score(z; s), whatever the schedule.
    """

    def ratio(t):
        return (schedule.sigma(t) / schedule.alpha(t)).item()

    def slope(s, z):
        return (-s * mixture.noised(1.0, s).score(torch.as_tensor(z).reshape(x.shape))).flatten().numpy()

    z = (x / schedule.alpha(start)).flatten().numpy()
    flow = solve_ivp(slope, (ratio(start), ratio(end)), z, method="DOP853", rtol=1e-12, atol=1e-12)
    return schedule.alpha(end) * torch.as_tensor(flow.y[:, -1]).reshape(x.shape)


WIDE = GaussianMixture([[-1.0, 0.4], [0.8, 0.9]], [0.6, 0.8], [3, 2])


@cache
def inner_stretch(schedule):
    """Points of the marginal at time 0.8, and where the exact flow has them at 0.2."""
    x = WIDE.noised(schedule.alpha(0.8), schedule.sigma(0.8)).sample(8, seeded(1)).double()
    return x, exact_flow(WIDE, schedule, x, 0.8, 0.2)


@cache
def whole_way(schedule):
    x = normal(16, 2)
    return x, exact_flow(MIXTURE, schedule, x, 1.0, 0.0)


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(None), VESchedule(0.01, 30.0)], ids=repr)
@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (heun, 2), (dpmpp_2m, 2)], ids=name)
def test_order_of_convergence(sampler, order, schedule):
    """Halving the steps divides the error by 2^order, on a stretch of time away from both ends."""
    x, exact = inner_stretch(schedule)
    numbers = np.array([75, 150, 300])  # each divides the 600 levels between the two times
    errors = []
    for n in numbers:
        times = torch.linspace(0.8, 0.2, n + 1, dtype=torch.float64)
        errors.append((run(sampler, schedule, WIDE.denoiser(schedule), x, times) - exact).square().mean().sqrt().item())
    slope = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.2), errors
    assert errors[-1] < 0.02


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_more_steps_come_closer_to_the_end(sampler):
    """Over the whole way, both ends included, the exact flow to time 0 is approached."""
    schedule = CosineSchedule(None)
    x, exact = whole_way(schedule)
    errors = [
        (run(sampler, schedule, MIXTURE.denoiser(schedule), x, schedule.timesteps(n)) - exact).abs().mean().item()
        for n in (10, 40, 160)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[-1] < 0.02


# ---- the papers' equations


def eps_oracle(schedule, x, k, eps):
    """A denoiser whose noise prediction at level k is eps, whatever it is asked."""
    alpha_bar = schedule.alpha_bar[k]
    return lambda x_t, t: (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


@pytest.mark.parametrize(
    "schedule",
    [LinearSchedule(50, 1e-3, 0.3), LinearSchedule(100), LinearSchedule(), CosineSchedule(1000)],
    ids=repr,
)
@pytest.mark.parametrize("large_variance", [False, True])
def test_ddpm_is_equations_7_and_11(schedule, large_variance):
    """Every step k = T..1 of Ho et al. 2020: the posterior mean (7), its other form (11), and both variances."""
    T, beta, alpha_bar = schedule.T, schedule.beta, schedule.alpha_bar
    x, eps = normal(3, 2), normal(3, 2, seed=1)
    for k in range(1, T + 1):
        x0 = (x - (1 - alpha_bar[k]).sqrt() * eps) / alpha_bar[k].sqrt()
        equation_7 = (
            alpha_bar[k - 1].sqrt() * beta[k] / (1 - alpha_bar[k]) * x0
            + (1 - beta[k]).sqrt() * (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k]) * x
        )
        equation_11 = (x - beta[k] / (1 - alpha_bar[k]).sqrt() * eps) / (1 - beta[k]).sqrt()
        variance = beta[k] if large_variance else (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k]) * beta[k]
        z = normal(3, 2, seed=k) if k > 1 else 0  # "z = 0 if t = 1": algorithm 2
        (stepped,) = ddpm(
            eps_oracle(schedule, x, k, eps), schedule, x, [k / T, (k - 1) / T], large_variance, generator=seeded(k)
        )
        torch.testing.assert_close(stepped, equation_7 + variance.sqrt() * z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(stepped, equation_11 + variance.sqrt() * z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("k", "earlier"), [(1000, 980), (500, 250), (60, 59), (20, 0)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_equations_12_and_16(k, earlier, eta):
    """Strided steps too: with every alpha_bar at the two levels of the step (Song, Meng & Ermon 2021)."""
    schedule = LinearSchedule()
    a, b = schedule.alpha_bar[k], schedule.alpha_bar[earlier]
    x, eps = normal(3, 2), normal(3, 2, seed=1)
    sigma = eta * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
    x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
    z = normal(3, 2, seed=7)
    expected = b.sqrt() * x0 + (1 - b - sigma**2).clamp(min=0).sqrt() * eps + sigma * z
    (stepped,) = ddim(
        eps_oracle(schedule, x, k, eps), schedule, x, [k / 1000, earlier / 1000], eta, generator=seeded(7)
    )
    torch.testing.assert_close(stepped, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("n", [1, 7, 50])
def test_eta_1_is_ddpm(schedule, n):
    """With the same noise, state by state, for any stride and any schedule."""
    x, denoise = schedule.prior(6, 2, generator=seeded()).double(), MIXTURE.denoiser(schedule)
    times = schedule.timesteps(n)
    ancestral = ddpm(denoise, schedule, x, times, generator=seeded(3))
    for one, other in zip(ancestral, full_ddim(denoise, schedule, x, times, generator=seeded(3)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_strided_coefficients_keep_the_marginal(schedule):
    """x = c_t x_t + c_0 x0 + std z: with the true x0 the result is alpha x0 + noise of variance sigma^2 again."""
    t, s = (0.7, 0.3)
    alpha, sigma, alpha_next, sigma_next = (
        c.item() for c in (schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s))
    )
    unit = torch.ones(1, 1, dtype=torch.float64)
    for step, gaussian in ((ddim, False), (ddpm, True)):
        (of_x,) = step(lambda x, t: 0 * x, schedule, unit, [t, s], **({"generator": seeded()} if gaussian else {}))
        (of_x0,) = step(lambda x, t: unit, schedule, 0 * unit, [t, s], **({"generator": seeded()} if gaussian else {}))
        (of_z,) = step(lambda x, t: 0 * x, schedule, 0 * unit, [t, s], **({"generator": seeded()} if gaussian else {}))
        c_t, c_0 = (of_x - of_z).item(), (of_x0 - of_z).item()
        std = (of_z / normal(1, 1)).item() if gaussian else 0.0
        assert c_0 + c_t * alpha == pytest.approx(alpha_next, rel=1e-9)
        assert (c_t * sigma) ** 2 + std**2 == pytest.approx(sigma_next**2, rel=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_the_last_step_adds_no_noise(sampler):
    """Two calls from one x agree whatever the generator, and give x0_hat itself: sigma(0) = 0."""
    for schedule in SCHEDULES:
        denoise, x, t = MIXTURE.denoiser(schedule), normal(5, 2), schedule.timesteps(50)[-2].item()
        one, other = (run(sampler, schedule, denoise, x, [t, 0.0], seed=s) for s in (1, 2))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        torch.testing.assert_close(one, denoise(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", RANDOM, ids=name)
def test_the_noise_is_normal(sampler):
    schedule = LinearSchedule()
    x = torch.zeros(50_000, 1, dtype=torch.float64)
    z = run(sampler, schedule, lambda x, t: x, x, [0.5, 0.4])
    assert z.mean().item() == pytest.approx(0, abs=4 * z.std().item() / math.sqrt(len(z)))
    assert ((z / z.std()) ** 4).mean().item() == pytest.approx(3, abs=4 * math.sqrt(96 / len(z)))


# ---- a second library


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def say_eps(schedule, denoise, x, t):
    return (x - schedule.alpha(t) * denoise(x, t)) / schedule.sigma(t)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_ddpm_equals_diffusers(diffusers, variance_type):
    schedule = LinearSchedule(200, 1e-3, 0.1)
    denoise = MIXTURE.denoiser(schedule)
    other = diffusers.DDPMScheduler(
        trained_betas=schedule.beta[1:].numpy(), variance_type=variance_type, clip_sample=False
    )
    ours = theirs = normal(5, 2).float()
    ours = last(
        ddpm(denoise, schedule, ours, schedule.timesteps(200), variance_type == "fixed_large", generator=seeded(4))
    )
    generator = seeded(4)
    for k in range(200, 0, -1):
        theirs = other.step(
            say_eps(schedule, denoise, theirs, k / 200).float(), k - 1, theirs, generator=generator
        ).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_equals_diffusers(diffusers, eta, n):
    schedule = LinearSchedule()
    denoise = MIXTURE.denoiser(schedule)
    other = diffusers.DDIMScheduler(
        trained_betas=schedule.beta[1:].numpy(), clip_sample=False, timestep_spacing="trailing"
    )
    other.set_timesteps(n)
    x = normal(5, 2).float()
    ours = last(ddim(denoise, schedule, x, schedule.timesteps(n), eta, generator=seeded(4)))
    theirs, generator = x, seeded(4)
    for step in other.timesteps.tolist():
        eps = say_eps(schedule, denoise, theirs, (step + 1) / 1000).float()
        theirs = other.step(eps, step, theirs, eta=eta, generator=generator).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("n", [20, 50])
def test_dpmpp_2m_equals_diffusers(diffusers, n):
    schedule = LinearSchedule()
    denoise = MIXTURE.denoiser(schedule)
    other = diffusers.DPMSolverMultistepScheduler(
        trained_betas=schedule.beta[1:].numpy(), timestep_spacing="trailing", final_sigmas_type="zero"
    )
    other.set_timesteps(n)
    x = normal(5, 2).float()
    ours = last(dpmpp_2m(denoise, schedule, x, schedule.timesteps(n)))
    theirs = x
    for step in other.timesteps.tolist():
        eps = say_eps(schedule, denoise, theirs, (step + 1) / 1000).float()
        theirs = other.step(eps, step, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


# ---- behaviour


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_yields_a_state_for_each_step_and_asks_at_every_time(sampler):
    schedule, asked = LinearSchedule(10, 0.01, 0.4), []

    def spy(x, t):
        asked.append(t)
        return 0 * x

    x = normal(4, 2)
    states = list(sampler(spy, schedule, x, schedule.timesteps(10)))
    assert len(states) == 10 and all(s.shape == x.shape for s in states)
    assert sorted(set(asked)) == pytest.approx([k / 10 for k in range(1, 11)])
    assert torch.equal(x, normal(4, 2))  # the start is not written over


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_network_in_and_out(sampler):
    """Nothing is recorded for gradients, the model stays in its mode, the dtype stays that of x."""
    schedule = LinearSchedule(10, 0.01, 0.4)
    net = nn.Linear(2, 2)
    net.forward = lambda x, t, y: nn.functional.linear(x, net.weight.to(x), net.bias.to(x))
    denoiser = Denoiser(net, schedule, "x0")
    for training in (True, False):
        denoiser.train(training)
        for dtype in (torch.float32, torch.float64):
            x0 = run(sampler, schedule, denoiser, normal(3, 2).to(dtype), schedule.timesteps(5))
            assert x0.dtype == dtype and not x0.requires_grad
            assert denoiser.training == net.training == training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_images(sampler):
    """A picture is sampled as the row of its pixels would be: nothing depends on the number of axes."""
    schedule = CosineSchedule(None)
    flat = GaussianMixture(normal(2, 12, seed=5), 0.3).denoiser(schedule)

    def picture(x, t):
        return flat(x.flatten(1), t).reshape(x.shape)

    x = normal(3, 1, 3, 4)
    row = run(sampler, schedule, flat, x.flatten(1), schedule.timesteps(8))
    torch.testing.assert_close(run(sampler, schedule, picture, x, schedule.timesteps(8)).flatten(1), row)


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_samples_do_not_see_each_other(sampler):
    schedule = CosineSchedule()
    x, order = normal(6, 2), torch.tensor([3, 1, 0, 5, 4, 2])
    denoise, times = MIXTURE.denoiser(schedule), schedule.timesteps(10)
    together = run(sampler, schedule, denoise, x, times)
    torch.testing.assert_close(run(sampler, schedule, denoise, x[order], times), together[order])
    torch.testing.assert_close(run(sampler, schedule, denoise, x[2:3], times), together[2:3])


@pytest.mark.parametrize("sampler", RANDOM, ids=name)
def test_the_generator_decides(sampler):
    schedule = LinearSchedule()
    args = sampler, schedule, MIXTURE.denoiser(schedule), normal(3, 2), schedule.timesteps(10)
    assert torch.equal(run(*args, seed=1), run(*args, seed=1))
    assert not torch.allclose(run(*args, seed=1), run(*args, seed=2))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_steps_of_no_length(sampler):
    """Times so close that the level is the same leave x as it was, and the steps after them whole."""
    schedule = CosineSchedule(None)  # near t = 1 alpha rests at its minimum: steps without a change of level
    denoise, x = MIXTURE.denoiser(schedule), normal(4, 2)
    repeated = [1.0, 1 - 1e-6, 1 - 2e-6, 1 - 3e-6, 0.6, 0.3, 0.0]
    if sampler in DETERMINISTIC:
        plain = run(sampler, schedule, denoise, x, [1.0, 0.6, 0.3, 0.0])
        torch.testing.assert_close(run(sampler, schedule, denoise, x, repeated), plain, rtol=1e-6, atol=1e-6)
    else:
        assert run(sampler, schedule, denoise, x, repeated).isfinite().all()
    every = DiscreteSchedule([1e-9] * 20 + [0.5] * 10)  # as many steps as levels, many of hardly any length
    x0 = run(sampler, every, MIXTURE.denoiser(every), x, every.timesteps(30))
    assert x0.isfinite().all() and x0.abs().max() < 5


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize(
    "times",
    [[0.0, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0], [1.0], [], [[1.0, 0.0]], 1.0],
    ids=["rising", "repeated", "one", "none", "nested", "number"],
)
def test_times_that_do_not_fall(sampler, times):
    with pytest.raises(ValueError, match="at least two times that fall, such as schedule.timesteps"):
        list(sampler(lambda x, t: x, LinearSchedule(), torch.zeros(1, 2), times))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("times", [[1.5, 0.5], [1.0, -0.1], [1000.0, 999.0], [float("nan"), 0.0]], ids=str)
def test_times_outside_the_unit_interval(sampler, times):
    with pytest.raises(ValueError, match=r"times lie in \[0, 1\]"):
        list(sampler(lambda x, t: x, LinearSchedule(), torch.zeros(1, 2), times))


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_outside_the_unit_interval(eta):
    with pytest.raises(ValueError, match="eta = .*; it runs from 0 .* to 1"):
        list(ddim(lambda x, t: x, LinearSchedule(), torch.zeros(1, 2), [1.0, 0.0], eta))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_times_in_float32_or_as_numbers_are_the_same_times(sampler):
    schedule, x = LinearSchedule(), normal(3, 2)
    args = sampler, schedule, MIXTURE.denoiser(schedule), x
    times = schedule.timesteps(10)
    for others in (times.float(), times.tolist(), times.numpy()):
        torch.testing.assert_close(run(*args, others), run(*args, times), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_a_denoiser_of_another_schedule_is_named(sampler):
    net = nn.Identity()
    net.forward = lambda x, t, y: 0 * x
    denoise, x = Denoiser(net, LinearSchedule()), normal(3, 2)
    with pytest.raises(ValueError, match=r"made for LinearSchedule\(T=1000, .* walks along CosineSchedule"):
        list(sampler(denoise, CosineSchedule(), x, CosineSchedule().timesteps(5)))
    same = LinearSchedule(500, 2e-4, 0.04)  # half as many levels of the same noise
    assert run(sampler, same, denoise, x, same.timesteps(5)).isfinite().all()
    for curve, table in ((CosineSchedule(None), CosineSchedule()), (CosineSchedule(), CosineSchedule(None))):
        assert run(sampler, curve, Denoiser(net, table, "x0"), x, curve.timesteps(5)).isfinite().all()
