"""Schedules: tables against products by hand, closed forms, and exact composition of Gaussian steps."""

import math

import pytest
import torch

from course_utils.denoiser import Denoiser
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim
from course_utils.schedules import (
    CosineSchedule,
    DiscreteSchedule,
    LinearSchedule,
    NoiseSchedule,
    QuadraticSchedule,
    SigmoidSchedule,
    VESchedule,
)

DISCRETE = [LinearSchedule(), QuadraticSchedule(200), SigmoidSchedule(300), CosineSchedule(1000), LinearSchedule(1)]
CONTINUOUS = [CosineSchedule(None), VESchedule(), VESchedule(0.1, 3.0)]
SCHEDULES = DISCRETE + CONTINUOUS
PRESERVING = [s for s in SCHEDULES if not isinstance(s, VESchedule)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("zero", [0, 0.0, torch.tensor(0.0), torch.zeros(3, dtype=torch.float64)], ids=str)
def test_time_0_is_data_exactly(schedule, zero):
    assert (schedule.alpha(zero) == 1).all() and (schedule.sigma(zero) == 0).all()


@pytest.mark.parametrize("schedule", PRESERVING, ids=repr)
def test_variance_preserving(schedule):
    t = torch.linspace(0, 1, 1501, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_signal_to_noise_falls_from_infinity(schedule):
    log_snr = schedule.log_snr(torch.linspace(0, 0.999, 777, dtype=torch.float64))
    assert log_snr[0] == math.inf
    assert (log_snr.diff() < 0).all() and log_snr[1:].isfinite().all()
    assert math.isfinite(schedule.log_snr(1.0))
    t = 0.37
    by_hand = math.log(schedule.alpha(t) ** 2 / schedule.sigma(t) ** 2)
    assert schedule.log_snr(t).item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("schedule", DISCRETE, ids=repr)
def test_tables_are_the_papers(schedule):
    """alpha_bar_k is the product of 1 - beta_s over s = 1..k, and alpha_bar_0 = 1."""
    T, beta, alpha_bar = schedule.T, schedule.beta.tolist(), schedule.alpha_bar.tolist()
    assert len(beta) == len(alpha_bar) == T + 1
    assert beta[0] == 0 and alpha_bar[0] == 1
    product = 1.0
    for k in range(1, T + 1):
        product *= 1 - beta[k]
        assert alpha_bar[k] == pytest.approx(product, rel=1e-11)
        assert schedule.alpha(k / T).item() == pytest.approx(math.sqrt(product), rel=1e-11)
        assert schedule.sigma(k / T).item() == pytest.approx(math.sqrt(1 - product), rel=1e-11)


def test_betas():
    """The shapes of beta_1..beta_T: end points, and a straight line seen through the shape's own inverse."""
    T, start, end = 50, 1e-3, 0.3
    shapes = {
        LinearSchedule: lambda b: b,
        QuadraticSchedule: torch.sqrt,
        SigmoidSchedule: lambda b: torch.logit((b - start) / (end - start)),
    }
    for schedule, inverse in shapes.items():
        beta = schedule(T, start, end).beta[1:]
        line = inverse(beta)
        torch.testing.assert_close(line.diff(), line.diff().mean().expand(T - 1), rtol=1e-9, atol=1e-12)
    for schedule in (LinearSchedule, QuadraticSchedule):
        beta = schedule(T, start, end).beta
        assert (beta[1].item(), beta[T].item()) == pytest.approx((start, end), rel=1e-12)
    logits = torch.logit((SigmoidSchedule(T, start, end).beta[[1, T]] - start) / (end - start))
    assert logits.tolist() == pytest.approx([-6, 6], abs=1e-9)


def test_cosine_is_nichol_and_dhariwal_17():
    T, s = 1000, 0.008
    schedule = CosineSchedule(T, s)
    f = [math.cos((k / T + s) / (1 + s) * math.pi / 2) ** 2 for k in range(T + 1)]
    for k in range(T):  # beta_T alone is cut off
        assert schedule.alpha_bar[k].item() == pytest.approx(f[k] / f[0], rel=1e-9)
    assert schedule.beta[T] == 0.999 and f[T] < 1e-30
    assert schedule.alpha(1.0) > 0


def test_continuous_cosine():
    schedule = CosineSchedule(None)
    for t in (0.1, 0.5, 0.99):
        assert schedule.alpha(t).item() == pytest.approx(math.cos(math.pi * t / 2), rel=1e-12)
        assert schedule.sigma(t).item() == pytest.approx(math.sin(math.pi * t / 2), rel=1e-12)
    assert schedule.alpha(1.0) == schedule.ALPHA_MIN


def test_variance_exploding_closed_form():
    schedule = VESchedule(0.01, 50.0)
    for t in (1e-3, 0.3, 1.0):
        assert schedule.alpha(t) == 1
        variance = 0.01**2 * ((50 / 0.01) ** (2 * t) - 1)
        assert schedule.sigma(t).item() == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_the_known_ends():
    """alpha_bar(T) says whether sampling may start from N(0, I); the last two are published slips."""
    assert LinearSchedule().alpha_bar[-1].item() == pytest.approx(4.0e-5, rel=0.02)
    assert LinearSchedule(300).alpha_bar[-1].item() == pytest.approx(0.048, abs=1e-3)
    assert SigmoidSchedule(100, 1e-5, 5e-3).alpha_bar[-1].item() == pytest.approx(0.78, abs=5e-3)
    for schedule in (LinearSchedule(), QuadraticSchedule(), SigmoidSchedule(), CosineSchedule()):
        assert schedule.alpha_bar[-1] < 1e-3


@pytest.mark.parametrize("T", [1, 3, 50, 300, 1000, 2500, 4000])
def test_float32_times_land_on_the_levels(T):
    schedule = LinearSchedule(T, 1e-5, 5e-3)
    k = torch.arange(T + 1)
    t = k / T
    assert t.dtype == torch.float32
    torch.testing.assert_close(schedule.alpha(t), schedule.alpha_bar.sqrt().float(), rtol=0, atol=0)
    torch.testing.assert_close(schedule.sigma(t), schedule.sigma(k.double() / T).float(), rtol=0, atol=0)


def test_between_levels():
    schedule = LinearSchedule(100)
    a, b = schedule.alpha_bar[41:43].tolist()
    assert (schedule.alpha(0.414) ** 2).item() == pytest.approx(a**0.6 * b**0.4, rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_dtype_and_shape_follow_the_times(schedule):
    assert schedule.alpha(0.5).dtype == schedule.sigma(0.5).dtype == torch.float64
    for dtype in (torch.float32, torch.float64):
        t = torch.full((2, 3), 0.5, dtype=dtype)
        for c in (schedule.alpha(t), schedule.sigma(t)):
            assert c.shape == t.shape and c.dtype == dtype
    assert schedule.sigma(torch.tensor(1)).item() == schedule.sigma(1.0).item()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 5, 7), (4,)], ids=str)
def test_add_noise_is_the_one_equation(schedule, shape):
    x0, noise = normal(*shape), normal(*shape, seed=1)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    x = schedule.add_noise(x0, t, noise)
    assert x.shape == shape and x.dtype == torch.float64
    for i, time in enumerate(t.tolist()):
        a, s = schedule.alpha(time).item(), schedule.sigma(time).item()
        torch.testing.assert_close(x[i], a * x0[i] + s * noise[i], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(schedule.add_noise(x0, time, noise)[i], x[i], rtol=1e-12, atol=1e-12)
    assert schedule.add_noise(x0.float(), t, noise.float()).dtype == torch.float32
    torch.testing.assert_close(x[0], x0[0], rtol=0, atol=0)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if s.T != 1], ids=repr)
def test_two_jumps_are_one(schedule):
    """q(x_t | x_s) after q(x_s | x_0) is q(x_t | x_0): the mean and variance of the composition, exactly."""
    s, t = 0.3, 0.8
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    # both maps are linear in (x0, noise_1, noise_2): send the three unit vectors through
    x0, first, second = (
        schedule.renoise(schedule.add_noise(a, s, b), s, t, c).item()
        for a, b, c in ((one, zero, zero), (zero, one, zero), (zero, zero, one))
    )
    assert x0 == pytest.approx(schedule.alpha(t).item(), rel=1e-12)
    assert first**2 + second**2 == pytest.approx(schedule.sigma(t).item() ** 2, rel=1e-12)
    assert second > 0


def test_renoise_one_level_is_ddpm_equation_2():
    schedule = LinearSchedule()
    x, z = normal(5, 2), normal(5, 2, seed=1)
    for k in (1, 2, 500, 1000):
        beta = schedule.beta[k]
        expected = (1 - beta).sqrt() * x + beta.sqrt() * z
        torch.testing.assert_close(schedule.renoise(x, (k - 1) / 1000, k / 1000, z), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_renoise_to_the_same_time_changes_nothing(schedule):
    x = torch.randn(3, 2, generator=seeded())
    t = torch.tensor([0.0, 0.4, 1.0])
    torch.testing.assert_close(schedule.renoise(x, t, t, torch.ones_like(x)), x, rtol=0, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_small_step_down_is_seen_and_the_same_time_in_float32_is_none(schedule, dtype):
    x = torch.ones(1, 2, dtype=dtype)
    for t in (0.0105, 0.1, 0.9):  # not within a thousandth of the same level
        with pytest.raises(ValueError, match="from less to more noise"):
            schedule.renoise(x, t, 0.999 * t, x)
    for t in (0.0, 0.3, 0.7, 1.0):
        pair = t, torch.tensor(t, dtype=torch.float32)
        for t_from, t_to in (pair, pair[::-1]):
            torch.testing.assert_close(schedule.renoise(x, t_from, t_to, 0 * x), x, rtol=1e-6, atol=1e-6)


def test_small_steps_up_keep_their_digits():
    """sigma_to^2 - sigma_from^2 loses nearly all of float32's digits here; the closed form does not subtract."""
    schedule, zero, one = VESchedule(), torch.zeros(1, 1), torch.ones(1, 1)
    t_from, t_to = 0.9, 0.9000001
    added = 0.01**2 * 5000 ** (2 * t_from) * math.expm1(2 * math.log(5000) * (t_to - t_from))
    assert schedule.renoise(zero, t_from, t_to, one).item() == pytest.approx(math.sqrt(added), rel=1e-6)


def test_moments_of_add_noise():
    n = 200_000
    x0, noise = 0.3 + 0.5 * normal(n, 1), normal(n, 1, seed=1)
    for schedule in (LinearSchedule(), VESchedule()):
        for t in (0.1, 0.5, 1.0):
            alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
            x = schedule.add_noise(x0, t, noise)
            std = math.hypot(0.5 * alpha, sigma)
            assert x.mean().item() == pytest.approx(0.3 * alpha, abs=4 * std / math.sqrt(n))
            assert x.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * n))


@pytest.mark.parametrize("antithetic", [False, True])
def test_sample_t_draws_every_level_and_never_0(antithetic):
    schedule = LinearSchedule(20)
    n = 20_000
    t = schedule.sample_t(n, antithetic, generator=seeded())
    assert t.shape == (n,) and t.dtype == torch.float32
    counts = torch.bincount((t * 20).round().long(), minlength=21)
    assert counts[0] == 0
    spread = math.sqrt(n / 20 * (2 if antithetic else 1))  # a pair comes or stays away together
    assert ((counts[1:] - n / 20).abs() < 4.5 * spread).all()
    torch.testing.assert_close(t, (t * 20).round() / 20, rtol=0, atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
@pytest.mark.parametrize("schedule", [LinearSchedule(30), CosineSchedule(None)], ids=repr)
def test_antithetic_times_come_in_pairs(schedule, n):
    t = schedule.sample_t(n, antithetic=True, generator=seeded())
    assert t.shape == (n,)
    half = (n + 1) // 2
    earliest = 1 / schedule.T if schedule.T else 1e-3
    torch.testing.assert_close(t[: n - half] + t[half:], torch.full((n - half,), 1 + earliest))


def test_continuous_times_are_uniform():
    t = VESchedule().sample_t(50_000, generator=seeded())
    assert 0 < t.min() and t.max() <= 1
    assert t.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 50_000) + 5e-4)
    assert t.std().item() == pytest.approx(math.sqrt(1 / 12), rel=0.02)


def test_draws_repeat_with_their_generator():
    schedule = LinearSchedule()
    assert schedule.sample_t(9, generator=seeded(3)).tolist() == schedule.sample_t(9, generator=seeded(3)).tolist()
    assert schedule.prior(9, generator=seeded(3)).tolist() == schedule.prior(9, generator=seeded(3)).tolist()


@pytest.mark.parametrize("n", [1, 3, 7, 50, 333, 999, 1000])
def test_timesteps(n):
    discrete, continuous = LinearSchedule().timesteps(n), CosineSchedule(None).timesteps(n)
    for times in (discrete, continuous):
        assert times.shape == (n + 1,) and times[0] == 1 and times[-1] == 0
        assert (times.diff() < 0).all()
    assert (discrete - continuous).abs().max() <= 0.5 / 1000 + 1e-12
    levels = (discrete * 1000).round()
    assert (discrete * 1000 - levels).abs().max() < 1e-9
    torch.testing.assert_close(LinearSchedule().alpha(discrete) ** 2, LinearSchedule().alpha_bar[levels.long()])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_prior_has_the_variance_of_standardised_data_at_1(schedule):
    x = schedule.prior(100_000, 2, generator=seeded())
    assert x.shape == (100_000, 2)
    std = math.sqrt(schedule.alpha(1.0) ** 2 + schedule.sigma(1.0) ** 2)
    assert x.mean().item() == pytest.approx(0, abs=4 * std / math.sqrt(2e5))
    assert x.std().item() == pytest.approx(std, rel=4 / math.sqrt(4e5))


def test_repr_says_how_it_ends():
    assert repr(LinearSchedule()) == "LinearSchedule(T=1000, alpha(1)=0.0064, sigma(1)=1)"
    assert repr(VESchedule()) == "VESchedule(alpha(1)=1, sigma(1)=50)"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("t", [-0.01, 1.5, 500, float("nan"), torch.tensor([0.5, 1.01])], ids=str)
def test_times_outside_the_unit_interval(schedule, t):
    x = torch.zeros(2, 2)
    for call in (schedule.alpha, schedule.sigma, lambda t: schedule.add_noise(x, t, x)):
        with pytest.raises(ValueError, match=r"times lie in \[0, 1\]"):
            call(t)


def test_bad_input_is_named():
    schedule, x = LinearSchedule(), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"x0 has shape \(4, 2\) but noise \(4,\)"):
        schedule.add_noise(x, 0.5, torch.zeros(4))
    for t in (torch.full((3,), 0.5), torch.full((4, 1), 0.5)):
        with pytest.raises(ValueError, match="give one time, or one for each of the 4 samples"):
            schedule.add_noise(x, t, x)
    with pytest.raises(ValueError, match="from less to more noise"):
        schedule.renoise(x, 0.8, 0.3, x)
    for n in (0, -3, 1001):
        with pytest.raises(ValueError, match="at least 1 and at most T = 1000"):
            schedule.timesteps(n)
    for n in (2.5, "10"):
        with pytest.raises(ValueError, match="give a whole number"):
            schedule.timesteps(n)
    with pytest.raises(ValueError, match="at least 1"):
        VESchedule().timesteps(0)
    for beta in ([], [0.1, 0.0], [0.5, 1.0], [float("nan")], [[0.1]], 0.1):
        with pytest.raises(ValueError, match="each above 0 and below 1"):
            DiscreteSchedule(beta)
    for make in (LinearSchedule, QuadraticSchedule, SigmoidSchedule, CosineSchedule):
        for T in (0, -1, 2.5, "10"):
            with pytest.raises(ValueError, match=f"T = {T}; the number of levels is a whole number of at least 1"):
                make(T)
    for make in (LinearSchedule, QuadraticSchedule, SigmoidSchedule):
        for betas in ((1e-4, 1.5), (-0.1, 0.02), (0.0, 0.02), (1e-4, float("nan"))):
            with pytest.raises(ValueError, match=r"beta_start and beta_end are .*; each is above 0 and below 1"):
                make(10, *betas)
        with pytest.raises(ValueError, match="betas rise with the level"):
            make(10, 0.02, 1e-4)
    with pytest.raises(ValueError, match=r"without beta_0 = 0"):
        DiscreteSchedule(LinearSchedule(10).beta)
    for beta_max in (1.0, 1.5, 0.0):
        with pytest.raises(ValueError, match=f"beta_max = {beta_max}; it is above 0 and below 1"):
            CosineSchedule(10, beta_max=beta_max)
    for options in ({"s": 0.2}, {"beta_max": 0.5}):
        with pytest.raises(ValueError, match="with T = None there are none"):
            CosineSchedule(None, **options)
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        VESchedule(5, 1)
    with pytest.raises(NotImplementedError):
        NoiseSchedule().alpha(0.5)


@pytest.mark.parametrize("given", ["linear", LinearSchedule, None], ids=["a name", "a class", "nothing"])
def test_what_is_no_schedule_is_named(given):
    x = torch.zeros(2, 2)
    mixture = GaussianMixture([[0.0, 0.0]], 1.0)
    for use in (
        lambda: Denoiser(None, given),
        lambda: mixture.denoiser(given),
        lambda: next(ddim(None, given, x, [1, 0])),
    ):
        with pytest.raises(TypeError, match="a schedule is an object such as LinearSchedule"):
            use()


def test_samples_are_floats():
    for x in (torch.zeros(4, 2, dtype=torch.long), [[0.0, 0.0]]):
        with pytest.raises(TypeError, match="samples are a tensor of floats, not"):
            LinearSchedule().at(0.5, x)


def test_noise_of_another_shape_is_not_spread_over_the_batch():
    schedule, x = LinearSchedule(), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"x has shape \(4, 2\) but noise \(1, 2\)"):
        schedule.renoise(x, 0.1, 0.5, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="n = 0 times asked for"):
        schedule.sample_t(0)
