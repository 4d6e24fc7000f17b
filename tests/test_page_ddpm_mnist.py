"""The formulas on chapter 4's page, each computed a second way."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.data import load_mnist
from course_utils.denoiser import from_x0, to_x0
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_features, frechet_distance
from course_utils.mixtures import GaussianMixture
from course_utils.models import ResidualBlock, TimeEmbedding
from course_utils.samplers import ddpm, dpmpp_2m
from course_utils.schedules import CosineSchedule, LinearSchedule
from course_utils.training import load_pretrained

SMOOTH = CosineSchedule(None)
SCHEDULES = [LinearSchedule(), CosineSchedule(), CosineSchedule(T=80)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def digits_like(n=40, dim=12):
    """Data with a full covariance, centred nowhere in particular: (n, dim)."""
    return normal(n, dim) @ normal(dim, dim, seed=1) * 0.3 - 0.5


def level(t, schedule=SMOOTH):
    return float(schedule.alpha(t)), float(schedule.sigma(t))


@pytest.mark.parametrize("t", [0.1, 0.295, 0.7])
def test_a_level_is_a_ratio(t):
    """x_t / alpha is x0 + s eps with s = tan(pi t / 2), and the arc tangent finds t again."""
    x0, eps = normal(3, 4), normal(3, 4, seed=1)
    alpha, sigma = level(t)
    s = sigma / alpha
    torch.testing.assert_close(SMOOTH.add_noise(x0, t, eps) / alpha, x0 + s * eps)
    assert 2 / math.pi * math.atan(s) == pytest.approx(t)
    assert 2 / math.pi * math.atan(0.5) == pytest.approx(0.295, abs=5e-4)


@pytest.mark.parametrize("s", [0.2, 0.5, 3.0])
def test_the_best_linear_filter(s):
    """Of all affine maps least squares finds this one, and its error is the sum over the principal axes."""
    x0 = digits_like(20_000, 5)
    x = x0 + s * normal(20_000, 5, seed=2)
    mean, C = x0.mean(0), x0.T.cov()
    gain = C @ torch.linalg.inv(C + s**2 * torch.eye(5, dtype=torch.float64))
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    fitted = torch.linalg.lstsq(ones, x0).solution
    torch.testing.assert_close(fitted[:5].T, gain, atol=0.02, rtol=0)
    error = (mean + (x - mean) @ gain.T - x0).square().sum(1).mean()
    axes = torch.linalg.eigvalsh(C)
    assert error.item() == pytest.approx((axes * s**2 / (axes + s**2)).sum().item(), rel=0.02)
    assert error < (x - x0).square().sum(1).mean()


def test_the_linear_filters_loss_in_the_velocity():
    """The dashed line of the loss plot: sum over axes of lambda / (alpha^2 lambda + sigma^2)."""
    axes = torch.tensor([2.0, 0.3, 0.0], dtype=torch.float64)
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = level(t)
        s = sigma / alpha
        in_x0 = axes * s**2 / (axes + s**2)
        torch.testing.assert_close(in_x0 / sigma**2, axes / (alpha**2 * axes + sigma**2))


def ideal(x, data, alpha, sigma):
    """The page's posterior weights (B, N) and guess."""
    distance2 = (x**2).sum(1, keepdim=True) - 2 * alpha * x @ data.T + alpha**2 * (data**2).sum(1)
    weights = (-distance2 / (2 * sigma**2)).softmax(1)
    return weights, weights @ data


@pytest.mark.parametrize("t", [0.05, 0.4, 0.8, 1.0])
def test_the_training_sets_denoiser_is_a_mixture_of_points(t):
    data = digits_like()
    x = SMOOTH.add_noise(data[:6], t, normal(6, 12, seed=3))
    weights, guess = ideal(x, data, *level(t))
    torch.testing.assert_close(guess, GaussianMixture(data, 0.0).denoiser(SMOOTH)(x, t))
    in_play = torch.special.entr(weights).sum(1).exp()
    assert (in_play >= 1 - 1e-9).all() and (in_play <= len(data) + 1e-9).all()


def test_nothing_is_known_from_pure_noise():
    """At t = 1 all are equally likely, and the best guess is the mean."""
    data = digits_like()
    weights, guess = ideal(normal(6, 12), data, *level(1.0))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(data)), atol=1e-3, rtol=0)
    torch.testing.assert_close(guess, data.mean(0).expand(6, 12), atol=1e-2, rtol=0)
    weights, _ = ideal(data[:6], data, *level(1e-3))
    torch.testing.assert_close(weights[:, :6], torch.eye(6, dtype=torch.float64))  # and with no noise all is


def test_pixels_are_blurred_greys():
    values, counts = torch.tensor([-1.0, -0.2, 1.0]), torch.tensor([8, 1, 3])
    pixels = GaussianMixture(values[:, None], 0.0, counts)
    data = values.repeat_interleave(counts)
    alpha, sigma = level(0.35)
    exact = pixels.noised(alpha, sigma)
    assert exact.mean.item() == pytest.approx(alpha * data.mean().item())
    expected = alpha**2 * data.var(correction=0).item() + sigma**2
    assert exact.covariance.item() == pytest.approx(expected)
    x = SMOOTH.add_noise(data.repeat(20_000), 0.35, normal(240_000).float())
    below = (x < 0).float().mean().item()
    grid = torch.linspace(-6, 0, 4001)[:, None]
    assert torch.trapezoid(exact.log_prob(grid).exp(), grid[:, 0]).item() == pytest.approx(below, abs=0.005)


def test_the_cosine_schedule_as_the_page_writes_it():
    for T in (50, 1000):
        f = [math.cos((k / T + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(T + 1)]
        alpha_bar = [1.0]
        for k in range(1, T + 1):
            alpha_bar.append(alpha_bar[-1] * (1 - min(1 - f[k] / f[k - 1], 0.999)))
        exact = torch.tensor(alpha_bar, dtype=torch.float64)
        torch.testing.assert_close(CosineSchedule(T).alpha_bar, exact, rtol=1e-9, atol=0)
        assert exact[-1] > 0 and exact[-1] < 1e-3


def test_the_embedding_as_the_page_writes_it():
    n = 16
    omega = [1000 * 10 ** (-4 * (i - 1) / (n - 1)) for i in range(1, n + 1)]
    t = torch.tensor([0.2, 0.3, 0.7, 0.8])
    gamma = TimeEmbedding(2 * n)(t)
    expected = torch.tensor([[math.sin(w * u) for w in omega] + [math.cos(w * u) for w in omega] for u in t.tolist()])
    torch.testing.assert_close(gamma, expected, atol=2e-3, rtol=0)
    expected = sum(math.cos(w * 0.1) for w in omega)
    for i, j in ((0, 1), (2, 3)):  # the same distance, the same product
        assert (gamma[i] @ gamma[j]).item() == pytest.approx(expected, abs=0.01)
    assert (gamma[0] @ gamma[0]).item() == pytest.approx(n, rel=1e-5)


def test_the_block_as_the_page_writes_it():
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, context=6)
    x, context = torch.randn(2, 8, 5, 5), torch.randn(2, 6)
    assert torch.equal(block(x, context), x)  # a new block hands its input on
    nn.init.normal_(block.conv2.weight)
    a, b = block.modulation(context)[:, :, None, None].chunk(2, 1)
    h = block.conv1(F.silu(F.group_norm(x, 2, block.norm1.weight, block.norm1.bias)))
    h = F.group_norm(h, 2, block.norm2.weight, block.norm2.bias) * (1 + a) + b
    torch.testing.assert_close(block(x, context), x + block.conv2(F.silu(h)))


@pytest.mark.parametrize(
    ("norm", "deaf", "alone"),
    [(nn.BatchNorm2d(8), True, False), (nn.GroupNorm(8, 8), True, True), (nn.GroupNorm(2, 8), False, True)],
    ids=["batch", "a channel a group", "groups of 4"],
)
def test_what_a_norm_lets_through(norm, deaf, alone):
    """A time added before it is lost in a norm that subtracts every channel's mean; a batch norm mixes pictures."""
    torch.manual_seed(0)
    h, e = torch.randn(6, 8, 5, 5), torch.randn(1, 8, 1, 1) * 3
    lost = torch.allclose(norm(h + e), norm(h), atol=1e-5)
    assert lost == deaf
    assert torch.allclose(norm(h)[:1], norm(h[:1]), atol=1e-5) == alone
    assert not torch.allclose(norm(h) + e, norm(h), atol=0.1)  # added after it, it is heard


@pytest.mark.parametrize("t", [0.05, 0.5, 0.98])
def test_the_velocity_and_its_loss(t):
    x0, eps, guess = normal(2, 7), normal(2, 7, seed=1), normal(2, 7, seed=2)
    alpha, sigma = level(t)
    x = alpha * x0 + sigma * eps
    v, v_guess = alpha * eps - sigma * x0, from_x0("v", guess, x, alpha, sigma)
    torch.testing.assert_close(to_x0("v", v, x, alpha, sigma), x0)
    torch.testing.assert_close(alpha * x - sigma * v, x0)
    torch.testing.assert_close((v - v_guess).square(), (x0 - guess).square() / sigma**2)


def test_the_velocity_asks_the_hard_question_at_either_end():
    x0, eps = normal(2, 7), normal(2, 7, seed=1)
    for t, expected in ((1.0, -x0), (1e-6, eps)):
        alpha, sigma = level(t)
        x = alpha * x0 + sigma * eps
        torch.testing.assert_close(from_x0("v", x0, x, alpha, sigma), expected, atol=1e-3, rtol=0)


def test_guidance_at_its_two_ends():
    x, c, u = normal(2, 3), normal(2, 3, seed=1), normal(2, 3, seed=2)
    for w, expected in ((0.0, u), (1.0, c), (3.0, u + 3 * (c - u))):
        torch.testing.assert_close(cfg(lambda x, t: c, lambda x, t: u, w)(x, 0.5), expected)


def stride(schedule, k, k_next, r=None):
    """The page's coefficients of x0_hat and x_k, and the variance, for a step from k to k_next."""
    ab, ab_next = schedule.alpha_bar[k], schedule.alpha_bar[k_next]
    r = ab / ab_next if r is None else r
    of_x0 = ab_next.sqrt() * (1 - r) / (1 - ab)
    return of_x0, r.sqrt() * (1 - ab_next) / (1 - ab), (1 - r) * (1 - ab_next) / (1 - ab)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_stride_is_a_posterior(schedule):
    """Clean data stay on the schedule, the right amount of noise is left, and neighbours give the single step."""
    T, ab = schedule.T, schedule.alpha_bar
    for k, k_next in ((T, T // 2), (T // 2, T // 4), (T // 4, 1), (T // 2, T // 2 - 1)):
        of_x0, of_x, variance = stride(schedule, k, k_next)
        assert (of_x0 + of_x * ab[k].sqrt()).item() == pytest.approx(ab[k_next].sqrt().item())
        assert (of_x**2 * (1 - ab[k]) + variance).item() == pytest.approx((1 - ab[k_next]).item())
    k = T // 2
    beta = schedule.beta[k]
    single = (ab[k - 1].sqrt() * beta / (1 - ab[k]), (1 - beta).sqrt() * (1 - ab[k - 1]) / (1 - ab[k]))
    for mine, theirs in zip(stride(schedule, k, k - 1), single, strict=False):
        assert mine.item() == pytest.approx(theirs.item())
    wrong = stride(schedule, T // 2, T // 4, r=1 - schedule.beta[T // 2])
    assert abs(wrong[0] + wrong[1] * ab[T // 2].sqrt() - ab[T // 4].sqrt()) > 0.05


def in_the_papers_letters(schedule, x, x0, k, k_next, z):
    """One step of the page's program `sample`, without a mistake."""
    ab, ab_next = schedule.alpha_bar[k].item(), schedule.alpha_bar[k_next].item()
    r = ab / ab_next
    eps = (x - math.sqrt(ab) * x0) / math.sqrt(1 - ab)
    return (x - (1 - r) / math.sqrt(1 - ab) * eps) / math.sqrt(r) + math.sqrt((1 - ab_next) / (1 - ab) * (1 - r)) * z


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_program_without_a_mistake_is_the_stride(schedule):
    x, x0, z = normal(5), normal(5, seed=1), normal(5, seed=2)
    k, k_next = schedule.T // 2, schedule.T // 3
    of_x0, of_x, variance = stride(schedule, k, k_next)
    mine = in_the_papers_letters(schedule, x, x0, k, k_next, z)
    torch.testing.assert_close(mine, of_x0 * x0 + of_x * x + variance.sqrt() * z)
    t = torch.tensor([k, k_next]) / schedule.T
    (package,) = ddpm(lambda x, t: x0, schedule, x, t.double(), generator=torch.Generator().manual_seed(7))
    z = torch.randn(5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    torch.testing.assert_close(in_the_papers_letters(schedule, x, x0, k, k_next, z), package)


def oracle(x, t, m=0.3, s=0.5):
    alpha, sigma = level(t)
    return m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x - alpha * m)


def test_the_gaussian_oracle_is_the_mixtures():
    x = normal(20, 1)
    for t in (0.1, 0.5, 0.9):
        torch.testing.assert_close(oracle(x, t), GaussianMixture([[0.3]], 0.5).denoiser(SMOOTH)(x, t))


def test_the_oracle_tells_a_clipped_sampler():
    """Mean and width come out right, and wrong where x_t is clipped, though every value then looks like a pixel."""
    times = SMOOTH.timesteps(500)
    torch.manual_seed(0)
    *_, right = ddpm(oracle, SMOOTH, torch.randn(20_000), times)  # with 50 steps its width is 0.47
    assert right.mean().item() == pytest.approx(0.3, abs=0.02) and right.std().item() == pytest.approx(0.5, abs=0.02)
    x = torch.randn(20_000)
    for pair in torch.stack([times[:-1], times[1:]], 1):
        (x,) = ddpm(oracle, SMOOTH, x, pair)
        x = x.clamp(-1, 1)
    assert x.std() < 0.47 and abs(x.mean() - 0.3) > 0.02
    assert (torch.randn(100_000).abs() > 1).float().mean().item() == pytest.approx(0.32, abs=0.01)


def test_copies_are_at_no_distance():
    """What the page says of theft: a copied set, in any order, is at distance 0; its mean repeated is not."""
    x = digits_like(200, 6)
    assert frechet_distance(x, x[torch.randperm(200)]) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x.mean(0).expand(200, 6)) == pytest.approx(x.T.cov().trace().item(), rel=1e-6)


@pytest.mark.parametrize(("n", "width"), [(40, 0.46), (250, 0.49), (1000, 0.50)])
def test_a_posterior_taken_in_strides_is_too_narrow(n, width):
    """Mean and variance of the page's sampler with the oracle, carried from step to step: no draw, no luck."""
    schedule, m, s2 = CosineSchedule(), 0.3, 0.25
    ks = (schedule.timesteps(n) * schedule.T).round().long().tolist()
    mean, variance = 0.0, 1.0
    for k, k_next in zip(ks, ks[1:], strict=False):
        of_x0, of_x, left = (c.item() for c in stride(schedule, k, k_next))
        ab = schedule.alpha_bar[k].item()
        gain = math.sqrt(ab) * s2 / (ab * s2 + 1 - ab)
        mean = of_x0 * (m + gain * (mean - math.sqrt(ab) * m)) + of_x * mean
        variance = (of_x0 * gain + of_x) ** 2 * variance + left
    assert mean == pytest.approx(0.3, abs=1e-6) and round(math.sqrt(variance), 2) == width


def test_a_leap_at_the_end_beats_even_steps():
    """With the same noise and as many calls, leaving the path at t = 0.35 brings the digits closer to real ones."""
    model, judge = load_pretrained("mnist"), load_pretrained("mnist_classifier")
    real = classifier_features(judge, load_mnist("test", "embedded")[0])
    start = model.schedule.prior(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    denoise = clip(condition(model, torch.arange(100) % 10))

    def distance(times):
        *_, x = dpmpp_2m(denoise, model.schedule, start, times)
        return frechet_distance(classifier_features(judge, x), real)

    leap = torch.cat([torch.linspace(1, 0.35, 20), torch.zeros(1)])
    assert distance(leap) < 0.9 * distance(model.schedule.timesteps(20))
