"""Langevin chains: the exact law of a step, the bias that is known and the correction that removes it; then the SDE."""

import math

import pytest
import torch
from two_sample import energy_test

from course_utils.energy import score_of
from course_utils.langevin import (
    annealed_langevin,
    langevin,
    mala,
    predictor_corrector,
    reverse_sde,
    score_at,
)
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim, ddpm
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule

MIXTURE = GaussianMixture([[-1.2, 0.4], [0.8, 0.9], [0.5, -1.1]], [0.15, 0.3, 0.2], [3, 2, 1])
S = 0.5  # std of the Gaussian that most tests run on
SCHEDULES = [LinearSchedule(), CosineSchedule(None), VESchedule(0.01, 30.0)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def last(states):
    *_, x = states
    return x


def score(x):
    return -x / S**2


def energy(x):
    return x.square().flatten(1).sum(1) / (2 * S**2)


def steps_to_forget(step):
    """After so many steps a chain on N(0, S^2) has forgotten its start to 1e-4."""
    return math.ceil(math.log(1e-4) / math.log(abs(1 - step / S**2)))


# ---- unadjusted


def test_one_step_is_the_formula():
    x, z = normal(5, 3), normal(5, 3, seed=7)
    for temperature in (1.0, 0.3, 0.0):
        (stepped,) = langevin(score, x, 0.02, 1, temperature, generator=seeded(7))
        torch.testing.assert_close(stepped, x - 0.02 * x / S**2 + math.sqrt(0.04 * temperature) * z)


@pytest.mark.parametrize("step", [0.02, 0.1, 0.3])
def test_the_bias_of_a_finite_step(step):
    """On N(0, S^2) the stationary variance is S^2 / (1 - step / (2 S^2)): the fixed point of its own recursion."""
    n = 40_000
    x = last(langevin(score, normal(n, 1), step, steps_to_forget(step), generator=seeded(1)))
    expected = S**2 / (1 - step / (2 * S**2))
    assert (1 - step / S**2) ** 2 * expected + 2 * step == pytest.approx(expected)
    assert x.var().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / n))
    assert x.mean().item() == pytest.approx(0, abs=4 * math.sqrt(expected / n))


def test_the_temperature_scales_the_variance():
    n, step = 40_000, 0.02
    x = last(langevin(score, normal(n, 1), step, steps_to_forget(step), temperature=0.25, generator=seeded(1)))
    assert x.var().item() == pytest.approx(0.25 * S**2 / (1 - step / (2 * S**2)), rel=4 * math.sqrt(2 / n))


def test_at_temperature_0_it_walks_downhill():
    path = [energy(x) for x in langevin(score, normal(20, 2), 0.05, 50, temperature=0.0)]
    assert all((b <= a).all() for a, b in zip(path, path[1:], strict=False)) and path[-1].max() < 1e-6


def test_small_steps_reach_a_mixture_whose_modes_touch():
    mixture = GaussianMixture([[-0.5, 0.0], [0.5, 0.3]], 0.4, [2, 1])
    start = 0.8 * normal(1000, 2)
    x = last(langevin(mixture.score, start, 0.01, 400, generator=seeded(1)))
    assert energy_test(x, mixture.sample(1000, seeded(2))) < 1
    early = last(langevin(mixture.score, start + 2, 0.01, 10, generator=seeded(1)))
    assert energy_test(early, mixture.sample(1000, seeded(2))) > 1  # the test sees a chain that is not there yet


# ---- adjusted


@pytest.mark.parametrize("step", [0.1, 0.3, 0.7])
def test_metropolis_removes_the_bias(step):
    """Also with a step (0.7 > 2 S^2) at which the unadjusted chain runs away."""
    n = 20_000
    x, accepted = last(mala(energy, S * normal(n, 1, seed=3), step, 60, generator=seeded(1)))
    assert x.var().item() == pytest.approx(S**2, rel=4 * math.sqrt(2 / n))
    assert 0.1 < accepted.double().mean() < 1


def test_metropolis_finds_a_gaussian_from_elsewhere():
    """A start that is wrong in mean and width: detailed balance alone would not move it."""
    n = 20_000
    x, _ = last(mala(energy, 2 + 0.1 * normal(n, 1, seed=3), 0.1, 100, generator=seeded(1)))
    assert x.mean().item() == pytest.approx(0, abs=4 * S / math.sqrt(n))
    assert x.var().item() == pytest.approx(S**2, rel=4 * math.sqrt(2 / n))


def test_the_acceptance_rate_is_its_integral():
    """Mean of min(1, p(x') q(x | x') / (p(x) q(x' | x))) over x ~ p and the proposal, from the densities themselves."""
    n, step = 50_000, 0.3
    x = S * normal(n, 1, seed=3)
    _, accepted = next(mala(energy, x, step, 1, generator=seeded(1)))
    p = torch.distributions.Normal(torch.tensor(0.0).double(), S)

    def q(a, b):
        return torch.distributions.Normal(a + step * score(a), math.sqrt(2 * step)).log_prob(b)

    proposal = x + step * score(x) + math.sqrt(2 * step) * normal(n, 1, seed=9)
    ratio = p.log_prob(proposal) + q(proposal, x) - p.log_prob(x) - q(x, proposal)
    expected = ratio.exp().clamp(max=1).mean().item()
    assert accepted.double().mean().item() == pytest.approx(expected, abs=4 * math.sqrt(0.5 / n))


def test_what_is_refused_stays_and_what_is_accepted_moves():
    x = normal(200, 2)
    moved, accepted = next(mala(energy, x, 0.5, 1, generator=seeded(1)))
    assert accepted.dtype == torch.bool and 0 < accepted.sum() < 200
    assert torch.equal(moved[~accepted], x[~accepted]) and (moved[accepted] != x[accepted]).all()
    proposal = x + 0.5 * score(x) + 1.0 * normal(200, 2, seed=1)
    torch.testing.assert_close(moved[accepted], proposal[accepted])


def test_no_chain_enters_where_the_energy_is_infinite():
    def half(x):
        return torch.where(x[:, 0] > 0, energy(x), math.inf)

    for x, _ in mala(half, normal(500, 2).abs(), 0.3, 30, generator=seeded(1)):
        assert (x[:, 0] > 0).all()


# ---- annealed


def test_a_level_takes_the_papers_step():
    """Song & Ermon 2019, algorithm 1: alpha_i = eps sigma_i^2 / sigma_L^2, x + alpha_i / 2 score + sqrt(alpha_i) z."""
    x, eps, sigmas = normal(4, 2), 1e-3, [1.0, 0.1]
    seen, generator = [], seeded(7)

    def spy(x, sigma):
        seen.append(sigma)
        return MIXTURE.noised(1.0, sigma).score(x)

    path = list(annealed_langevin(spy, sigmas, x, n_steps=3, eps=eps, generator=seeded(7)))
    assert seen == [1.0] * 3 + [0.1] * 3 and len(path) == 6
    for stepped, sigma in zip(path, seen, strict=True):
        a = eps * sigma**2 / 0.1**2
        z = torch.randn(4, 2, dtype=torch.float64, generator=generator)
        x = x + a / 2 * MIXTURE.noised(1.0, sigma).score(x) + math.sqrt(a) * z
        torch.testing.assert_close(stepped, x)


def test_annealing_weighs_separate_modes_where_plain_langevin_does_not():
    """Modes eight apart, weights 3 to 1 (the example of Song & Ermon 2019, figure 3)."""
    far, n = GaussianMixture([[-4.0, 0.0], [4.0, 0.0]], 0.5, [3, 1]), 1000
    start = 8 * (torch.rand(n, 2, generator=seeded(3)).double() * 2 - 1)
    sigmas = torch.logspace(1, -1, 10)
    x = last(annealed_langevin(lambda x, s: far.noised(1.0, s).score(x), sigmas, start, 50, 2e-3, seeded(1)))
    exact = far.sample(n, seeded(2))
    assert energy_test(x, exact + 0.1 * normal(n, 2, seed=5)) < 1  # what is left is the last sigma
    plain = last(langevin(far.score, start, 0.02, 500, generator=seeded(1)))
    assert energy_test(plain, exact) > 1
    assert (plain[:, 0] > 0).double().mean() > 0.4


@pytest.mark.parametrize("sigmas", [[], [0.1, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, math.nan]], ids=str)
def test_sigmas_that_do_not_fall(sigmas):
    with pytest.raises(ValueError, match="noise levels that fall and stay above 0"):
        next(annealed_langevin(lambda x, s: -x, sigmas, normal(2, 2)))


# ---- the reverse SDE


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_score_at_t_is_tweedies(schedule):
    x = normal(20, 2)
    for t in (0.1, 0.5, 0.9):
        exact = MIXTURE.noised(schedule.alpha(t), schedule.sigma(t)).score(x)
        torch.testing.assert_close(score_at(MIXTURE.denoiser(schedule), schedule, t)(x), exact, rtol=1e-6, atol=1e-6)


def sde_variance(schedule, times, s=S):
    """The variance that the reverse SDE's steps give N(0, s^2), started at its own p_1: a recursion without samples."""
    variance = (schedule.alpha(times[0]) * s) ** 2 + schedule.sigma(times[0]) ** 2
    for t, t_next in zip(times, times[1:], strict=False):
        ratio = schedule.alpha(t) / schedule.alpha(t_next)
        added = schedule.sigma(t) ** 2 - (ratio * schedule.sigma(t_next)) ** 2
        slope = 2 - ratio - added / ((schedule.alpha(t) * s) ** 2 + schedule.sigma(t) ** 2)
        variance = slope**2 * variance + added
    return variance.item()


@pytest.mark.parametrize("schedule", [LinearSchedule(), VESchedule(0.01, 30.0)], ids=repr)
def test_euler_maruyama_on_a_gaussian(schedule):
    """Mean and variance of the samples are those of the method's own recursion, bias included."""
    n, times = 20_000, schedule.timesteps(100)
    oracle = GaussianMixture([[0.0]], S)
    start = oracle.noised(schedule.alpha(1.0), schedule.sigma(1.0)).sample(n, seeded(1)).double()
    x = last(reverse_sde(oracle.denoiser(schedule), schedule, start, times, generator=seeded(2)))
    expected = sde_variance(schedule, times)
    assert x.var().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / n))
    assert x.mean().item() == pytest.approx(0, abs=4 * math.sqrt(expected / n))


def test_euler_maruyama_is_of_weak_order_1():
    """Twice the steps, half the bias of the variance."""
    schedule = LinearSchedule()
    bias = [sde_variance(schedule, schedule.timesteps(n)) - S**2 for n in (125, 250, 500, 1000)]
    for coarse, fine in zip(bias, bias[1:], strict=False):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.15)


def test_predictor_corrector_is_a_predictor_and_langevin_steps():
    schedule, x, times = LinearSchedule(), normal(6, 2), [0.6, 0.4, 0.0]
    denoise, sigma = MIXTURE.denoiser(schedule), schedule.sigma(0.4).item()
    one, two = predictor_corrector(denoise, schedule, x, times, 2, 0.1, generator=seeded(5))
    generator = seeded(5)
    (y,) = ddpm(denoise, schedule, x, [0.6, 0.4], generator=generator)
    for _ in range(2):
        step, z = 2 * (0.1 * sigma) ** 2, torch.randn(6, 2, dtype=torch.float64, generator=generator)
        y = y + step * MIXTURE.noised(schedule.alpha(0.4), sigma).score(y) + math.sqrt(2 * step) * z
    torch.testing.assert_close(one, y)
    torch.testing.assert_close(two, last(ddpm(denoise, schedule, y, [0.4, 0.0], generator=generator)))  # no corrector


def test_euler_maruyama_reaches_the_mixture():
    """Its bias is large: it takes 500 steps where `ddpm` takes 250, and corrections."""
    schedule, n = LinearSchedule(), 1000
    start = schedule.prior(n, 2, generator=seeded(1))
    options = {"predictor": reverse_sde, "generator": seeded(3)}
    x = last(predictor_corrector(MIXTURE.denoiser(schedule), schedule, start, schedule.timesteps(500), **options))
    assert energy_test(x, MIXTURE.sample(n, seeded(2))) < 1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("predictor", [ddpm, ddim], ids=lambda f: f.__name__)
def test_predictor_corrector_reaches_the_mixture(schedule, predictor):
    n = 1000
    start, options = schedule.prior(n, 2, generator=seeded(1)), {"predictor": predictor, "generator": seeded(3)}
    x = last(predictor_corrector(MIXTURE.denoiser(schedule), schedule, start, schedule.timesteps(100), **options))
    assert energy_test(x, MIXTURE.sample(n, seeded(2))) < 1


def test_the_corrector_mends_what_the_predictor_gets_wrong():
    """The levels are crossed as badly as can be, by x unchanged; the corrections alone bring the chain to p_t."""
    schedule, n, oracle = VESchedule(0.01, 3.0), 4000, GaussianMixture([[0.3]], 0.5)

    def stay(denoise, schedule, x, times):
        yield x

    denoise, times = oracle.denoiser(schedule), [1.0, 0.9, 0.8]
    start = schedule.prior(n, 1, generator=seeded(2)).double()
    sigma = schedule.sigma(0.8).item()
    std = math.hypot(0.5, sigma)
    alone = last(predictor_corrector(denoise, schedule, start, times, 0, predictor=stay))
    assert alone.std().item() > 1.5 * std
    mended = last(predictor_corrector(denoise, schedule, start, times, 60, 0.2, stay, generator=seeded(1)))
    step = 2 * (0.2 * sigma) ** 2
    expected = std / math.sqrt(1 - step / (2 * std**2))  # with Langevin's own bias
    assert mended.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * n) + 0.005)
    assert mended.mean().item() == pytest.approx(0.3, abs=0.02 + 4 * std / math.sqrt(n))


# ---- behaviour


CHAINS = [
    lambda x, seed: (y for y in langevin(score, x, 0.05, 5, generator=seeded(seed))),
    lambda x, seed: (y for y, _ in mala(energy, x, 0.05, 5, generator=seeded(seed))),
    lambda x, seed: annealed_langevin(lambda x, s: -x / (S**2 + s**2), [1.0, 0.3], x, 3, 1e-2, seeded(seed)),
    lambda x, seed: reverse_sde(lambda x, t: 0.5 * x, LinearSchedule(), x, [0.8, 0.5, 0.2], generator=seeded(seed)),
    lambda x, seed: predictor_corrector(
        lambda x, t: 0.5 * x, LinearSchedule(), x, [0.8, 0.5, 0.2], generator=seeded(seed)
    ),
]


@pytest.mark.parametrize("chain", CHAINS, ids=["langevin", "mala", "annealed", "sde", "pc"])
def test_every_chain_keeps_shape_and_dtype_and_follows_its_generator(chain):
    for shape, dtype in (((3, 2), torch.float32), ((1, 1, 4, 4), torch.float64)):
        x = normal(*shape).to(dtype)
        before = x.clone()
        states = list(chain(x, 1))
        assert all(y.shape == shape and y.dtype == dtype and not y.requires_grad for y in states)
        assert torch.equal(x, before)
        assert torch.equal(last(chain(x, 1)), states[-1]) and not torch.allclose(last(chain(x, 2)), states[-1])
    assert torch.is_grad_enabled()


def test_a_step_that_is_too_large_is_refused_in_words():
    with pytest.raises(FloatingPointError, match=r"a chain diverged at step \d+, with step = 0.6.*smaller step"):
        list(langevin(score, normal(10, 2), 0.6, 1000))
    assert last(langevin(score, normal(10, 2), 0.45, 1000)).abs().max() < 100  # below 2 S^2 = 0.5 it holds
    with pytest.raises(FloatingPointError, match="a chain diverged at sigma = 1, with eps = 0.5"):
        list(annealed_langevin(lambda x, s: -x / s**2, [1.0, 0.1], normal(10, 2), 1000, eps=0.5))


def test_an_energy_that_pushes_outwards_or_is_no_number_is_refused_in_words():
    with pytest.raises(FloatingPointError, match="far out it must point back to the data"):
        list(langevin(score_of(lambda x: -energy(x)), normal(10, 2), 0.1, 1000))
    with pytest.raises(FloatingPointError, match="x is not a number at step 1, .*: look at what the score"):
        next(langevin(lambda x: x * math.nan, normal(3, 2), 0.1, 1))
    with pytest.raises(FloatingPointError, match="the energy is nan: no chain can be run on it"):
        next(mala(lambda x: x.sum(1).log(), -normal(3, 2).abs(), 0.1, 1))


@pytest.mark.parametrize("step", [0.0, -0.1, math.nan, math.inf])
def test_steps_that_are_none(step):
    x = normal(2, 2)
    for chain in (langevin(score, x, step, 5), mala(energy, x, step, 5), annealed_langevin(score, [1.0], x, 5, step)):
        with pytest.raises(ValueError, match="of a size above 0"):
            next(chain)


def test_a_score_of_another_shape():
    """(B,) or (B, 1) would broadcast against x without a word."""
    for wrong in (lambda x, *_: x[:, 0], lambda x, *_: x[:, :1]):
        for chain in (langevin(wrong, normal(2, 2), 0.1, 5), annealed_langevin(wrong, [1.0], normal(2, 2), 5)):
            with pytest.raises(ValueError, match=r"score has shape .* but x \(2, 2\)"):
                next(chain)


def test_other_arguments_that_are_wrong():
    x, schedule = normal(2, 2), LinearSchedule()
    with pytest.raises(ValueError, match="n_steps of at least 1, not 0"):
        next(langevin(score, x, 0.1, 0))
    with pytest.raises(ValueError, match="temperature = -1"):
        next(langevin(score, x, 0.1, 1, temperature=-1))
    for wrong in ({"n_corrections": -1}, {"snr": 0}):
        with pytest.raises(ValueError, match="n_corrections = .* snr = "):
            next(predictor_corrector(lambda x, t: x, schedule, x, [1.0, 0.0], **wrong))
    for sampler in (reverse_sde, predictor_corrector):
        with pytest.raises(ValueError, match="at least two times that fall"):
            next(sampler(lambda x, t: x, schedule, x, [0.0, 1.0]))
