"""The formulas on chapter 6's page, each computed a second way."""

import functools
import math

import pytest
import torch

from course_utils.denoiser import from_x0
from course_utils.guidance import anagram, factorized, inpaint, repaint, repaint_times, sdedit
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim, ddpm
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule
from course_utils.views import colour, flip, grey, high_pass, jigsaw, low_pass, negative, rotation

SMOOTH = CosineSchedule(None)
RHO, KNOWN = 0.8, 1.5
C = torch.tensor([[1, RHO], [RHO, 1]], dtype=torch.float64)
IDENTITY = torch.eye(2, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(t, schedule=SMOOTH):
    return float(schedule.alpha(t)), float(schedule.sigma(t))


def end(path):
    *_, x = path
    return x


# ---- editing the guess -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eps", "score", "v"])
@pytest.mark.parametrize("schedule", [SMOOTH, LinearSchedule(), VESchedule()], ids=repr)
def test_maps_that_sum_to_the_identity_do_the_same_to_every_kind(kind, schedule):
    """A full matrix and its rest, which do not commute with anything; with maps that sum to 1.4 I it fails."""
    A = normal(6, 6)
    rest = torch.eye(6, dtype=torch.float64) - A
    x, first, second = (normal(3, 6, seed=s) for s in (1, 2, 3))
    alpha, sigma = level(0.4, schedule)
    say = functools.partial(from_x0, kind, alpha=alpha, sigma=sigma)
    mixed = say(first @ A.T + second @ rest.T, x)
    torch.testing.assert_close(say(first, x) @ A.T + say(second, x) @ rest.T, mixed)
    wrong = say(0.7 * first + 0.7 * second, x) - 0.7 * (say(first, x) + say(second, x))
    assert wrong.abs().max() > 0.01


def test_inpainting_is_factorised_with_masks():
    known, x = normal(2, 3, 6, 6).tanh(), normal(2, 3, 6, 6, seed=1)
    mask = (normal(6, 6, seed=2) > 0).double()
    model = lambda x, t: torch.sin(3 * x + t)  # noqa: E731
    masks = [lambda a: mask.to(a) * a, lambda a: (1 - mask.to(a)) * a]
    by_filters = factorized([lambda x, t: known, model], masks)(x, 0.4)
    torch.testing.assert_close(inpaint(model, known, mask)(x, 0.4), by_filters)


# ---- one step against many -------------------------------------------------------------------------------------------


def test_a_sample_errs_by_twice_as_much_as_the_mean():
    """Of the squared error; x0, x_t and the sample by an exact mixture, and many small steps."""
    truth = GaussianMixture([[-1.5], [1.0]], 0.25, [0.4, 0.6])
    t, denoise = 0.6, truth.denoiser(SMOOTH)
    x0 = truth.sample(10_000, torch.Generator().manual_seed(0)).double()
    x = SMOOTH.add_noise(x0, t, normal(10_000, 1, seed=1))
    sample = end(ddpm(denoise, SMOOTH, x, SMOOTH.timesteps(200, t), generator=torch.Generator().manual_seed(2)))
    of_the_mean = (denoise(x, t) - x0).square().mean().item()
    of_the_sample = (sample - x0).square().mean().item()
    assert of_the_sample / of_the_mean == pytest.approx(2, rel=0.06)
    assert of_the_mean < (x / level(t)[0] - x0).square().mean()  # and the mean is a guess worth the name


# ---- SDEdit ----------------------------------------------------------------------------------------------------------


def gaussian(m, s):
    """The exact denoiser of N(m, s^2)."""

    def denoise(x, t):
        alpha, sigma = level(t)
        return m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x - alpha * m)

    return denoise


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("s", [0.2, 0.5, 1.0])
def test_sdedit_on_a_gaussian_by_the_joint_law(s, t):
    """(u, x_t, x0') is Gaussian: regress x0 on x_t by its covariances, and carry N(alpha u, sigma^2) through."""
    m, u = 0.3, 1.7
    alpha, sigma = level(t)
    rho = alpha**2 * s**2 / (alpha**2 * s**2 + sigma**2)
    covariance, variance = alpha * s**2, alpha**2 * s**2 + sigma**2  # of x0 with x_t, and of x_t
    gain = covariance / variance
    mean = m + gain * (alpha * u - alpha * m)
    spread = gain**2 * sigma**2 + s**2 - covariance**2 / variance
    assert m + rho * (u - m) == pytest.approx(mean)
    assert s**2 * (1 - rho**2) == pytest.approx(spread)


def test_the_sampler_gives_what_the_formula_says():
    m, s, u, t = 0.3, 0.5, 1.7, 0.4
    alpha, sigma = level(t)
    rho = alpha**2 * s**2 / (alpha**2 * s**2 + sigma**2)
    torch.manual_seed(0)
    x = end(sdedit(gaussian(m, s), SMOOTH, torch.full((20_000, 1), u, dtype=torch.float64), t, n=200))
    assert x.mean().item() == pytest.approx(m + rho * (u - m), abs=0.015)
    assert x.var().item() == pytest.approx(s**2 * (1 - rho**2), rel=0.05)


def test_ten_passes_leave_the_tenth_power():
    """The quiz: the deviation shrinks by rho each time, and the law of the data stays."""
    m, s, t = 0.3, 0.5, 0.3
    alpha, sigma = level(t)
    rho = alpha**2 * s**2 / (alpha**2 * s**2 + sigma**2)
    mean, variance = 2.0, 0.0
    for _ in range(10):
        mean, variance = m + rho * (mean - m), rho**2 * variance + s**2 * (1 - rho**2)
    assert mean - m == pytest.approx(rho**10 * (2.0 - m))
    assert variance == pytest.approx(s**2 * (1 - rho**20))
    assert rho**2 * s**2 + s**2 * (1 - rho**2) == pytest.approx(s**2)


MIXTURE = GaussianMixture([[-1.5], [1.0]], 0.25, [0.4, 0.6])
AXIS = torch.linspace(-4, 4, 801, dtype=torch.float64)[:, None]
DX = 0.01
PRIOR = MIXTURE.log_prob(AXIS).exp()


def law(t, u):
    """The page's density of what SDEdit makes of u, on the axis."""
    alpha, sigma = level(t)
    x_t = alpha * u + sigma * torch.linspace(-5, 5, 401, dtype=torch.float64)[:, None]
    weight = (-(((x_t - alpha * u) / sigma) ** 2) / 2).softmax(0)
    posterior = PRIOR * torch.exp(-((x_t - alpha * AXIS.T) ** 2) / (2 * sigma**2))
    return (weight * (posterior / (posterior.sum(1, keepdim=True) * DX))).sum(0)


def divergence(p, q, dx):
    return (torch.special.xlogy(p, p / q).sum() * dx).item()


def normal_density(x, mean, std):
    return torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def test_the_law_on_a_mixture():
    """It sums to one, its mean is the mean guess, and it ends at the data's law."""
    nodes = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    for t in (0.2, 0.5, 0.9):
        alpha, sigma = level(t)
        p = law(t, 0.3)
        assert p.sum().item() * DX == pytest.approx(1, abs=1e-6)
        guess = MIXTURE.denoiser(SMOOTH)(alpha * 0.3 + sigma * nodes, t)[:, 0]
        mean_guess = torch.trapezoid(guess * normal_density(nodes[:, 0], 0, 1), nodes[:, 0]).item()
        assert (p * AXIS[:, 0]).sum().item() * DX == pytest.approx(mean_guess, abs=1e-3)
    torch.testing.assert_close(law(1.0, 0.3), PRIOR, atol=2e-3, rtol=0)


def test_more_strength_is_more_real():
    """The divergence from p falls, and never exceeds that of the noisy laws, which falls too."""
    before = bound_before = math.inf
    for t in (0.1, 0.2, 0.4, 0.6, 0.8, 0.95):
        alpha, sigma = level(t)
        grid = torch.linspace(-8, 8, 3201, dtype=torch.float64)
        noisy = MIXTURE.noised(alpha, sigma).log_prob(grid[:, None]).exp()
        bound = divergence(normal_density(grid, alpha * 0.3, sigma), noisy, 0.005)
        now = divergence(law(t, 0.3), PRIOR, DX)
        assert -1e-6 <= now <= bound + 1e-6
        assert now < before and bound < bound_before
        before, bound_before = now, bound


def test_sdedit_keeps_the_law_of_the_data():
    """Integrated over inputs drawn from p, what comes out has the law p."""
    inputs = torch.arange(0, 801, 4)
    weights = PRIOR[inputs] / PRIOR[inputs].sum()
    for t in (0.3, 0.7):
        out = sum(w * law(t, AXIS[i].item()) for i, w in zip(inputs, weights, strict=True) if w > 1e-7)
        torch.testing.assert_close(out, PRIOR, atol=2e-3, rtol=0)


# ---- inpainting and going back up ------------------------------------------------------------------------------------


def guess_matrix(t):
    alpha, sigma = level(t)
    return alpha * C @ torch.linalg.inv(alpha**2 * C + sigma**2 * IDENTITY)


def moments(times, mean=None, covariance=None, known_noise="carried"):
    """The page's recursion; with known_noise "fresh" for pasting into x_t, and "clean" for pasting clean values."""
    mean = torch.zeros(2, dtype=torch.float64) if mean is None else mean
    covariance = IDENTITY if covariance is None else covariance
    times = times.tolist()
    for t, t_next in zip(times, times[1:], strict=False):
        (alpha, sigma), (alpha_next, sigma_next) = level(t), level(t_next)
        if t_next > t:
            ratio = alpha_next / alpha
            step, constant, fresh = ratio * IDENTITY, 0, sigma_next**2 - (ratio * sigma) ** 2
        else:
            G = guess_matrix(t)
            ratio = alpha / alpha_next
            fresh = sigma**2 - (ratio * sigma_next) ** 2
            towards = alpha_next * fresh / sigma**2
            known = torch.tensor([KNOWN, 0], dtype=torch.float64)
            if known_noise == "carried":
                G = G * torch.tensor([[0], [1]])
            step, constant = ratio * sigma_next**2 / sigma**2 * IDENTITY + towards * G, towards * known
            fresh = fresh * sigma_next**2 / sigma**2
        mean, covariance = step @ mean + constant, step @ covariance @ step.T + fresh * IDENTITY
        if known_noise != "carried":
            mean[0] = KNOWN * (alpha_next if known_noise == "fresh" else 1)
            covariance[0], covariance[:, 0] = 0, 0
            covariance[0, 0] = sigma_next**2 if known_noise == "fresh" else 0
    return mean, covariance


def test_the_conditional_that_inpainting_misses():
    """1.20 and 0.36 from 4 million pairs whose first number is near 1.5."""
    pairs = normal(4_000_000, 2) @ torch.linalg.cholesky(C).T
    second = pairs[(pairs[:, 0] - KNOWN).abs() < 0.02, 1]
    assert second.mean().item() == pytest.approx(1.20, abs=0.02)
    assert second.var().item() == pytest.approx(0.36, abs=0.02)


@pytest.mark.parametrize("n, jump, walks", [(50, 1, 1), (20, 5, 2), (24, 4, 3)])
def test_the_recursion_says_what_the_wrapper_does(n, jump, walks):
    times = repaint_times(SMOOTH.timesteps(n), jump, walks)
    mean, covariance = moments(times)
    denoise = inpaint(lambda x, t: x @ guess_matrix(t), torch.tensor([[KNOWN, 0.0]]), torch.tensor([1, 0]))
    g = torch.Generator().manual_seed(n)
    x = torch.randn(20_000, 2, dtype=torch.float64, generator=g)
    x = end(repaint(ddpm, g)(denoise, SMOOTH, x, times, generator=g))
    assert x[:, 1].mean().item() == pytest.approx(mean[1].item(), abs=0.02)
    assert x[:, 1].var().item() == pytest.approx(covariance[1, 1].item(), rel=0.05)


def test_the_numbers_in_the_text():
    """Any number of steps: three fifths of what is known; with walks the mean rises towards 1.20."""
    for n, expected in ((50, 0.73), (1000, 0.75)):
        assert moments(SMOOTH.timesteps(n))[0][1].item() == pytest.approx(expected, abs=0.005)
    means = [moments(repaint_times(SMOOTH.timesteps(50), 1, k))[0][1].item() for k in (1, 2, 5, 10)]
    assert means == sorted(means) and means[-1] < RHO * KNOWN
    mean, covariance = moments(repaint_times(SMOOTH.timesteps(200), 1, 40))
    assert mean[1].item() == pytest.approx(1.20, abs=0.02) and covariance[1, 1].item() == pytest.approx(0.36, abs=0.06)


def test_pasting_has_the_same_mean():
    carried, fresh = (moments(SMOOTH.timesteps(50), known_noise=k)[0] for k in ("carried", "fresh"))
    torch.testing.assert_close(carried, fresh)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 0.999])
def test_the_weights_of_the_known_number(t):
    """Wanted: regress x0_2 on (x_t2, x0_1); asked for: on (x_t2, x_t1). Both by inverting covariances."""
    alpha, sigma = level(t)
    own = alpha * (1 - RHO**2) / (alpha**2 * (1 - RHO**2) + sigma**2)
    variance = alpha**2 + sigma**2
    seen = torch.tensor([[variance, alpha * RHO], [alpha * RHO, 1]], dtype=torch.float64)  # of (x_t2, x0_1)
    weights = torch.linalg.solve(seen, torch.tensor([alpha, RHO], dtype=torch.float64))
    assert RHO * (1 - own * alpha) == pytest.approx(weights[1].item())
    seen = torch.tensor([[variance, alpha**2 * RHO], [alpha**2 * RHO, variance]], dtype=torch.float64)
    weights = torch.linalg.solve(seen, torch.tensor([alpha, alpha * RHO], dtype=torch.float64))
    assert alpha * guess_matrix(t)[1, 0].item() == pytest.approx(alpha * weights[1].item())
    if t > 0.99:
        assert alpha * guess_matrix(t)[1, 0] < 0.01 and weights[1] < RHO


@pytest.mark.parametrize("t", [0.3, 0.6])
def test_where_many_walks_at_a_level_settle(t):
    """0.8 alpha^3 1.5, for the smallest jumps; and no longer anything of where it began."""
    alpha = level(t)[0]
    times = torch.tensor([t + 0.004, t] * 3000, dtype=torch.float64)
    for begin in (-5.0, 5.0):
        mean = torch.tensor([alpha * KNOWN, begin], dtype=torch.float64)
        mean, _ = moments(times, mean=mean)
        assert mean[1].item() == pytest.approx(RHO * alpha**3 * KNOWN, abs=0.02)


@pytest.mark.parametrize("schedule", [SMOOTH, LinearSchedule(), VESchedule()], ids=repr)
def test_the_jump_as_the_page_writes_it(schedule):
    x, z = normal(3, 2), normal(3, 2, seed=1)
    (alpha, sigma), (alpha_up, sigma_up) = level(0.3, schedule), level(0.6, schedule)
    ratio = alpha_up / alpha
    spread = math.sqrt(sigma_up**2 - (ratio * sigma) ** 2)
    torch.testing.assert_close(schedule.renoise(x, 0.3, 0.6, z), ratio * x + spread * z)
    assert ratio * alpha == pytest.approx(alpha_up)
    assert math.hypot(ratio * sigma, spread) == pytest.approx(sigma_up)


def test_the_zigzag():
    """20 steps, stretches of 5 walked three times: 60 calls and 8 jumps, each to where its stretch began."""
    way = repaint_times(SMOOTH.timesteps(20), jump=5, n_resample=3)
    rises = way.diff() > 0
    assert (~rises).sum() == 60 and rises.sum() == 8
    assert sorted(set(way[1:][rises].tolist())) == pytest.approx([0.25, 0.5, 0.75, 1.0])


# ---- views and filters -----------------------------------------------------------------------------------------------


def matrix(f, *shape):
    """A linear map of pictures as a matrix."""
    n = math.prod(shape)
    return f(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).reshape(n, n).T


@pytest.mark.parametrize("view", [rotation(1), rotation(2), flip(), flip(-1), negative(), jigsaw(2), jigsaw(3)])
def test_allowed_views_are_orthogonal(view):
    V, back = (matrix(f, 1, 6, 6) for f in view)
    identity = torch.eye(36, dtype=torch.float64)
    torch.testing.assert_close(V @ V.T, identity)
    torch.testing.assert_close(back, V.T)


def test_shifts():
    """The quiz: around the edge is orthogonal, filled up with white is not."""
    around = matrix(lambda x: x.roll(3, -1), 1, 6, 6)
    filled = matrix(lambda x: torch.cat([0 * x[..., :3], x[..., :-3]], -1), 1, 6, 6)
    identity = torch.eye(36, dtype=torch.float64)
    torch.testing.assert_close(around @ around.T, identity)
    assert (filled @ filled.T - identity).abs().max() == 1


def test_seen_noise_has_the_covariance_of_the_view():
    V = normal(5, 5)
    seen = normal(200_000, 5, seed=1) @ V.T
    torch.testing.assert_close(seen.T.cov(), V @ V.T, atol=0.1, rtol=0.02)


@pytest.mark.parametrize("filters", [(low_pass(1.5), high_pass(1.5)), (grey, colour)], ids=["frequencies", "colours"])
def test_filters_sum_to_the_identity(filters):
    total = sum(matrix(f, 3, 6, 6) for f in filters)
    torch.testing.assert_close(total, torch.eye(108, dtype=torch.float64))


# ---- the mistakes: what the page's tests without pictures must see ---------------------------------------------------


def test_wrappers_change_nothing_where_there_is_nothing_to_combine():
    denoise, x, t = gaussian(0.3, 0.5), normal(4, 1, 8, 8), 0.5
    view, back = jigsaw(4)
    exact = denoise(x, t)
    torch.testing.assert_close(anagram(denoise, [rotation(0), (view, back)])(x, t), exact)
    torch.testing.assert_close(factorized([denoise, denoise], [low_pass(2), high_pass(2)])(x, t), exact)
    assert ((exact + denoise(view(x), t)) / 2 - exact).abs().max() > 0.1  # not turned back
    assert ((exact + view(denoise(view(x), t))) / 2 - exact).abs().max() > 0.1  # by itself
    half_turn = rotation(2)[0]  # which is its own inverse, and would not have told
    torch.testing.assert_close((exact + half_turn(denoise(half_turn(x), t))) / 2, exact)


def test_ddim_carries_its_first_noise_and_ancestral_steps_draw_new():
    """What `inpaint` says of known pixels: with ddim the noise they started with, scaled."""
    x = normal(5, 2)
    denoise = inpaint(lambda x, t: x @ guess_matrix(t), torch.tensor([[KNOWN, 0.0]]), torch.tensor([1, 0]))
    times = SMOOTH.timesteps(10)
    for t, state in zip(times[1:-1], ddim(denoise, SMOOTH, x, times), strict=False):
        alpha, sigma = level(t)
        noise = (state[:, 0] - alpha * KNOWN) / sigma
        torch.testing.assert_close(noise, x[:, 0], atol=2e-3, rtol=0)
