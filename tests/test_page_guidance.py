"""The formulas on chapter 5's page, each computed a second way."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch import nn
from torch.nn import functional as F
from torch.quasirandom import SobolEngine
from torch.utils.flop_counter import FlopCounterMode

from course_utils.data import toy_mixture
from course_utils.denoiser import KINDS, from_x0, to_x0
from course_utils.guidance import cfg, dynamic_clip
from course_utils.metrics import frechet_distance, frechet_gaussians
from course_utils.mixtures import GaussianMixture
from course_utils.models import Attention, FourierFeatures
from course_utils.samplers import ddim, ddpm, heun
from course_utils.schedules import CosineSchedule

SMOOTH = CosineSchedule(None)
TIMES = [0.05, 0.5, 0.98]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(t):
    return float(SMOOTH.alpha(t)), float(SMOOTH.sigma(t))


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_the_perfect_denoiser_is_attention(t):
    """Where all data are equally long: the data are keys and values, and alpha / sigma^2 stands for 1 / sqrt(d)."""
    data = F.normalize(normal(30, 6), dim=1) * 2
    alpha, sigma = level(t)
    x = SMOOTH.add_noise(data[:5], t, normal(5, 6, seed=1))
    attention = (alpha / sigma**2 * x @ data.T).softmax(1) @ data
    torch.testing.assert_close(GaussianMixture(data, 0.0).denoiser(SMOOTH)(x, t), attention)
    unequal = data * torch.linspace(0.5, 2, 30, dtype=torch.float64)[:, None]
    attention = (alpha / sigma**2 * x @ unequal.T).softmax(1) @ unequal
    assert not torch.allclose(GaussianMixture(unequal, 0.0).denoiser(SMOOTH)(x, t), attention, atol=0.01)


@pytest.mark.parametrize("d", [1, 4, 64])
@pytest.mark.parametrize("draw", [torch.randn, lambda *s, **k: torch.rand(*s, **k).sub(0.5) * 12**0.5])
def test_the_size_of_a_dot_product(d, draw):
    """Mean 0 and variance d, whatever the distribution of the entries."""
    g = torch.Generator().manual_seed(0)
    products = (draw(60_000, d, generator=g) * draw(60_000, d, generator=g)).sum(1)
    assert products.mean().item() == pytest.approx(0, abs=0.03 * d**0.5)
    assert products.var().item() == pytest.approx(d, rel=0.05)


def test_the_softmaxs_derivative():
    scores = normal(7)
    w = scores.softmax(0)
    derivative = torch.autograd.functional.jacobian(lambda s: s.softmax(0), scores)
    torch.testing.assert_close(derivative, torch.diag(w) - w[:, None] * w)
    assert derivative.trace().item() == pytest.approx(1 - w.square().sum().item())


@pytest.mark.parametrize("s", [0.5, 1.0, 1.5])
def test_how_many_keys_take_part(s):
    n = 200_000
    in_play = torch.special.entr((s * normal(n)).softmax(0)).sum().exp().item()
    assert in_play / n == pytest.approx(math.exp(-(s**2) / 2), rel=0.03)


def by_loops(block, x):
    """The block of attention, head by head and query by query."""
    B, C, H, W = x.shape
    d = C // block.heads
    tokens = F.group_norm(x, block.norm.num_groups, block.norm.weight, block.norm.bias).flatten(2).transpose(1, 2)
    rows = [w.flatten(1) for w in block.qkv.weight.split(C)]
    q, k, v = (tokens @ w.T + b for w, b in zip(rows, block.qkv.bias.split(C), strict=True))  # (B, n, C) each
    out = torch.zeros_like(tokens)
    for h in range(block.heads):
        mine = slice(h * d, (h + 1) * d)
        for i in range(H * W):
            scores = (q[:, i : i + 1, mine] * k[:, :, mine]).sum(2) / math.sqrt(d)
            out[:, i, mine] = (scores.softmax(1)[:, :, None] * v[:, :, mine]).sum(1)
    out = out @ block.out.weight.flatten(1).T + block.out.bias
    return x + out.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_several_heads(heads):
    torch.manual_seed(0)
    block, x = Attention(8, heads).double(), normal(2, 8, 3, 4)
    assert torch.equal(block(x), x)  # the output projection starts at zero
    nn.init.normal_(block.out.weight)
    torch.testing.assert_close(block(x), by_loops(block, x))


def test_attention_does_not_know_where():
    torch.manual_seed(0)
    block, x, order = Attention(8, 2).double(), normal(2, 8, 4, 4), torch.randperm(16)
    nn.init.normal_(block.out.weight)
    move = lambda x: x.flatten(2)[:, :, order].reshape(x.shape)  # noqa: E731
    torch.testing.assert_close(block(move(x)), move(block(x)))
    conv = nn.Conv2d(8, 8, 3, padding=1).double()
    assert not torch.allclose(conv(move(x)), move(conv(x)), atol=0.1)


def test_what_attention_costs():
    """Multiplications, at two operations each: 2 n^2 C for the pairs, 4 n C^2 around them, 9 n C^2 a convolution."""
    C, side = 16, 8
    n = side**2
    x, tokens = torch.randn(1, C, side, side), torch.randn(1, 2, n, C // 2)

    def counted(function):
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops() / 2

    assert counted(lambda: (tokens @ tokens.transpose(2, 3)).softmax(3) @ tokens) == 2 * n**2 * C
    assert counted(lambda: (nn.Conv2d(C, 3 * C, 1)(x), nn.Conv2d(C, C, 1)(x))) == 4 * n * C**2
    assert counted(lambda: nn.Conv2d(C, C, 3, padding=1)(x)) == 9 * n * C**2


@pytest.mark.parametrize("s", [0.3, 1.0, 5.0])
def test_how_alike_two_times_look(s):
    torch.manual_seed(0)
    waves = 200_000
    features = FourierFeatures(2 * waves, std=s)
    for apart in (0.0, 0.05, 0.3):
        a, b = features(torch.tensor([0.2, 0.2 + apart])).double()
        assert (a @ b / waves).item() == pytest.approx(math.exp(-2 * (math.pi * s * apart) ** 2), abs=0.01)


# ---- the velocity ----------------------------------------------------------------------------------------------------


def test_the_velocity_is_one():
    """The derivative of x_t by the angle, by automatic differentiation; at the ends it is the noise and -x0."""
    x0, eps = normal(4), normal(4, seed=1)
    for t in TIMES:
        alpha, sigma = level(t)
        phi = torch.tensor(math.pi * t / 2, dtype=torch.float64)
        _, v = torch.autograd.functional.jvp(lambda p: p.cos() * x0 + p.sin() * eps, phi, torch.ones_like(phi))
        torch.testing.assert_close(v, alpha * eps - sigma * x0)
    for t, end in ((0.0, eps), (1.0, -x0)):
        alpha, sigma = level(t)
        torch.testing.assert_close(alpha * eps - sigma * x0, end, atol=1e-3, rtol=0)


@pytest.mark.parametrize("t", TIMES)
def test_rotated_back(t):
    x0, eps = normal(3, 4), normal(3, 4, seed=1)
    alpha, sigma = level(t)
    x, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    torch.testing.assert_close(alpha * x - sigma * v, x0)
    torch.testing.assert_close(sigma * x + alpha * v, eps)
    torch.testing.assert_close(from_x0("score", x0, x, alpha, sigma), -eps / sigma)
    for kind in KINDS:
        torch.testing.assert_close(to_x0(kind, from_x0(kind, x0, x, alpha, sigma), x, alpha, sigma), x0)


@pytest.mark.parametrize("t", TIMES)
def test_what_an_error_does_to_the_picture(t):
    x0, x, off = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    alpha, sigma = level(t)
    for kind, factor in (("eps", sigma / alpha), ("x0", 1), ("v", sigma)):
        wrong = to_x0(kind, from_x0(kind, x0, x, alpha, sigma) + off, x, alpha, sigma)
        torch.testing.assert_close((wrong - x0).abs(), factor * off.abs())


@pytest.mark.parametrize("t", TIMES)
def test_one_error_three_losses(t):
    x0, guess, x = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    alpha, sigma = level(t)
    lost = {
        kind: (from_x0(kind, x0, x, alpha, sigma) - from_x0(kind, guess, x, alpha, sigma)).square().sum()
        for kind in ("eps", "x0", "v")
    }
    torch.testing.assert_close(lost["v"], lost["eps"] + lost["x0"])
    torch.testing.assert_close(lost["v"], (1 + alpha**2 / sigma**2) * lost["x0"])


def test_where_training_looks():
    """The density of the log signal-to-noise ratio at uniform t: as a derivative, and as a histogram's edges."""
    density = lambda u: 1 / (2 * math.pi * math.cosh(u / 2))  # noqa: E731
    assert quad(density, -80, 80)[0] == pytest.approx(1)
    for ratio in (-6.0, -1.0, 0.0, 2.5):
        t = 2 / math.pi * math.atan(math.exp(-ratio / 2))
        assert SMOOTH.log_snr(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(ratio, abs=1e-9)
        assert quad(density, ratio, 80)[0] == pytest.approx(t, abs=1e-9)  # small t, much signal
        alpha, sigma = level(t)
        assert alpha**2 / sigma**2 == pytest.approx(1 / math.tan(math.pi * t / 2) ** 2)


# ---- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [16, 64])
def test_one_sobol_time_in_every_part(n):
    """Of any batch of 2^k, also of those that follow."""
    for seed in range(5):
        sobol = SobolEngine(1, scramble=True, seed=seed)
        for _ in range(4):
            parts = (sobol.draw(n)[:, 0] * n).floor().long()
            assert parts.sort().values.tolist() == list(range(n))


def test_the_law_of_total_variance():
    losses = normal(7, 500).exp() * torch.linspace(1, 3, 7, dtype=torch.float64)[:, None]
    inside, between = losses.var(1, correction=0).mean(), losses.mean(1).var(correction=0)
    torch.testing.assert_close(losses.var(correction=0), inside + between)


def test_the_rate_of_evenly_spread_times():
    """One uniform time in each of n parts: the variance of the mean, from the moments of every part."""
    f, slope = lambda t: math.exp(2 * t), lambda t: 2 * math.exp(2 * t)  # noqa: E731

    def variance(n):
        total = 0.0
        for i in range(n):
            mean, square = (n * quad(lambda t, p=p: f(t) ** p, i / n, (i + 1) / n)[0] for p in (1, 2))
            total += (square - mean**2) / n**2
        return total

    theory = quad(lambda t: slope(t) ** 2, 0, 1)[0] / 12
    assert variance(32) * 32**3 == pytest.approx(theory, rel=0.01)
    assert variance(64) * 64**3 == pytest.approx(theory, rel=0.003)
    means = [
        np.exp(2 * SobolEngine(1, scramble=True, seed=seed).draw(32, dtype=torch.float64).numpy()).mean()
        for seed in range(400)
    ]
    assert np.std(means) == pytest.approx(math.sqrt(theory / 32**3), rel=0.25)


# ---- guidance --------------------------------------------------------------------------------------------------------


def classes():
    """Three classes with their weights, and all of them together."""
    means, std = [[[-1.0, 0.0]], [[1.0, 0.5]], [[0.3, -1.0]]], [0.4, 0.7, 0.5]
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    each = [GaussianMixture(m, s) for m, s in zip(means, std, strict=True)]
    together = GaussianMixture(torch.tensor(means)[:, 0], torch.tensor(std), weights)
    return each, weights, together


@pytest.mark.parametrize("t", TIMES)
def test_the_tower_rule(t):
    each, weights, together = classes()
    x, (alpha, sigma) = normal(6, 2), level(t)
    likely = torch.stack([w.log() + c.noised(alpha, sigma).log_prob(x) for c, w in zip(each, weights, strict=True)])
    guesses = torch.stack([c.denoiser(SMOOTH)(x, t) for c in each])
    torch.testing.assert_close((likely.softmax(0)[:, :, None] * guesses).sum(0), together.denoiser(SMOOTH)(x, t))


@pytest.mark.parametrize("w", [0.0, 1.0, 3.0])
def test_the_guided_score_is_bayes_rule(w):
    """The gradient of log p + w log p(y | x), by automatic differentiation, is that of the guided denoiser."""
    each, weights, together = classes()
    t, y = 0.4, 1
    alpha, sigma = level(t)
    x = normal(6, 2).requires_grad_()
    p, p_y = together.noised(alpha, sigma).log_prob(x), each[y].noised(alpha, sigma).log_prob(x)
    (gradient,) = torch.autograd.grad((p + w * (p_y + weights[y].log() - p)).sum(), x)
    x = x.detach()
    guided = cfg(each[y].denoiser(SMOOTH), together.denoiser(SMOOTH), w)(x, t)
    torch.testing.assert_close(from_x0("score", guided, x, alpha, sigma), gradient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", TIMES)
def test_guidance_is_the_same_for_all_predictions(kind, t):
    a, b, x, w = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2), 3.5
    says = lambda x0: from_x0(kind, x0, x, *level(t))  # noqa: E731
    torch.testing.assert_close(says((1 - w) * a + w * b), (1 - w) * says(a) + w * says(b))
    assert not torch.allclose(says(a + w * b), says(a) + w * says(b)) or kind == "x0"  # weights that do not sum to one


@pytest.mark.parametrize("w", [1.0, 2.0])
def test_the_score_of_the_noisy_tilted_density(w):
    """By a grid over x0: the score after noise is that of p plus that of the mean of the power; guidance differs."""
    p = GaussianMixture([[-1.0], [1.0]], 0.6)
    c = GaussianMixture([[1.0]], 0.6)
    alpha, sigma = level(0.6)
    x0 = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
    of_class = 0.5 * (c.log_prob(x0) - p.log_prob(x0)).exp()  # p(y | x0)
    x = normal(5, 1).requires_grad_()
    kernel = -((x - alpha * x0.T) ** 2) / (2 * sigma**2)  # (5, grid)
    noisy = (kernel + (p.log_prob(x0) + w * of_class.log())).logsumexp(1)
    mean_power = noisy - (kernel + p.log_prob(x0)).logsumexp(1)  # log E[p(y | x0)^w | x_t]
    (left,) = torch.autograd.grad(noisy.sum(), x, retain_graph=True)
    (right,) = torch.autograd.grad((p.noised(alpha, sigma).log_prob(x) + mean_power).sum(), x)
    torch.testing.assert_close(left, right)
    x = x.detach()
    guided = cfg(c.denoiser(SMOOTH), p.denoiser(SMOOTH), w)(x, 0.6)
    same = torch.allclose(from_x0("score", guided, x, alpha, sigma), left, atol=1e-4)
    assert same == (w == 1)


def ends_at(m, s, w):
    """Mean and standard deviation of the guided flow, as the page's theorem says."""
    integral = quad(lambda a: (1 - (1 - s**2) * a**2) ** (-1 - w / 2), 0, 1)[0]
    return w * m * s**w * integral, s**w


@pytest.mark.parametrize(("m", "s"), [(1.0, 0.5), (-0.7, 0.8)])
@pytest.mark.parametrize("w", [0.0, 1.0, 2.0, 4.5])
def test_the_guided_gaussian(m, s, w):
    """The flow's equation, solved by scipy, and the package's sampler end where the theorem says."""
    mean, std = ends_at(m, s, w)

    def slope(phi, x):
        alpha, sigma = math.cos(phi), math.sin(phi)
        V = alpha**2 * s**2 + sigma**2
        return w * sigma / V * ((1 - s**2) * alpha * x - m)

    ends = solve_ivp(slope, (math.pi / 2, 0), [0.0, 1.0], rtol=1e-10, atol=1e-12).y[:, -1]
    assert ends[0] == pytest.approx(mean, abs=1e-7) and ends[1] - ends[0] == pytest.approx(std, abs=1e-7)
    guided = cfg(GaussianMixture([[m]], s).denoiser(SMOOTH), GaussianMixture([[0.0]], 1.0).denoiser(SMOOTH), w)
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    *_, x = heun(guided, SMOOTH, start, SMOOTH.timesteps(400))
    assert x[0].item() == pytest.approx(mean, abs=2e-3) and (x[1] - x[0]).item() == pytest.approx(std, abs=2e-3)


@pytest.mark.parametrize("w", [1.0, 3.0])
def test_the_tilted_gaussian(w):
    m, s = 1.0, 0.5
    p, c = GaussianMixture([[0.0]], 1.0), GaussianMixture([[m]], s)
    x = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    weight = ((1 - w) * p.log_prob(x) + w * c.log_prob(x)).softmax(0)
    mean = (weight @ x).item()
    precision = 1 + w * (s**-2 - 1)
    assert mean == pytest.approx(w * m * s**-2 / precision)
    assert (weight @ (x - mean) ** 2).item() == pytest.approx(1 / precision)


def test_what_the_page_says_of_the_guided_gaussian():
    assert ends_at(1.0, 0.5, 3.0)[0] == pytest.approx(1.5)
    s = 0.6
    assert (1 + 3 * (s**-2 - 1)) ** -0.5 == pytest.approx(s / math.sqrt(3 - 2 * s**2))
    assert -6 * -0.5 + 7 * 0.5 == 6.5 and round(math.exp(-1 / 8), 2) == 0.88 and round(math.exp(-0.5), 2) == 0.61


def test_tilting_leaves_the_moon_and_guidance_does_not():
    """On the upper moon p(y | x) is nearly 1; guided points leave its end beside the other moon bare."""
    moons = toy_mixture("moons")
    upper = GaussianMixture(moons.means[:200], moons.std[:200])
    on_it = upper.sample(2000, torch.Generator().manual_seed(0))
    certain = 0.5 * (upper.log_prob(on_it) - moons.log_prob(on_it)).exp()
    assert (certain > 0.99).float().mean() > 0.97
    guided = cfg(upper.denoiser(SMOOTH), moons.denoiser(SMOOTH), 8.0)
    x = SMOOTH.prior(300, 2, generator=torch.Generator().manual_seed(1))
    *_, x = ddim(guided, SMOOTH, x, SMOOTH.timesteps(30))
    right_end = upper.means[:, 0].quantile(0.75).item()
    assert (on_it[:, 0] > right_end).float().mean() > 0.2 and (x[:, 0] > right_end).float().mean() < 0.02


def test_dynamic_thresholding():
    x0 = 3 * normal(4, 3, 5, 5)
    x0[1] = x0[1].clamp(-0.9, 0.9)
    scaled = dynamic_clip(lambda x, t: x0, 0.9)(x0, 0.5)
    for before, after in zip(x0, scaled, strict=True):
        s = max(1.0, np.quantile(before.abs().numpy(), 0.9))
        torch.testing.assert_close(after, before.clamp(-s, s) / s, rtol=1e-5, atol=1e-6)
    assert torch.equal(scaled[1], x0[1])


# ---- steps -----------------------------------------------------------------------------------------------------------


def tau_of(t, s, eta):
    (alpha_t, sigma_t), (alpha_s, sigma_s) = level(t), level(s)
    return eta * sigma_s / sigma_t * math.sqrt(1 - alpha_t**2 / alpha_s**2)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_as_the_page_writes_it(eta):
    """The package's step, with the same draw; at eta = 1 it is DDPM's."""
    t, s = 0.8, 0.45
    (alpha_t, sigma_t), (alpha_s, sigma_s) = level(t), level(s)
    x, guess = normal(3, 4), normal(3, 4, seed=1)
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    eps, tau = (x - alpha_t * guess) / sigma_t, tau_of(t, s, eta)
    by_hand = alpha_s * guess + math.sqrt(sigma_s**2 - tau**2) * eps + tau * z
    for sampler, options in ((ddim, {"eta": eta}), (ddpm, {})):
        if sampler is ddim or eta == 1:
            generator = torch.Generator().manual_seed(5)
            (step,) = sampler(lambda x, t: guess, SMOOTH, x, [t, s], generator=generator, **options)
            torch.testing.assert_close(step, by_hand)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_width_after_some_steps(eta, n=10, s0=0.5):
    """The page's recursion of the variance, against the sampler's points."""
    variance, times = 1.0, SMOOTH.timesteps(n).tolist()
    for t, s in zip(times, times[1:], strict=False):
        (alpha_t, sigma_t), (alpha_s, sigma_s), tau = level(t), level(s), tau_of(t, s, eta)
        r, g = math.sqrt(sigma_s**2 - tau**2) / sigma_t, alpha_t * s0**2 / (alpha_t**2 * s0**2 + sigma_t**2)
        variance = (r + (alpha_s - r * alpha_t) * g) ** 2 * variance + tau**2
    denoise, generator = GaussianMixture([[0.3]], s0).denoiser(SMOOTH), torch.Generator().manual_seed(0)
    start = torch.randn(100_000, 1, generator=generator)
    *_, x = ddim(denoise, SMOOTH, start, SMOOTH.timesteps(n), eta=eta, generator=generator)
    assert x.std().item() == pytest.approx(math.sqrt(variance), rel=0.01)
    assert math.sqrt(variance) < s0  # too narrow, with so few steps


# ---- the Frechet distance --------------------------------------------------------------------------------------------


def two_gaussians(d=4):
    a, b = normal(d, d), normal(d, d, seed=1)
    return normal(d, seed=2), a @ a.T + 0.1 * torch.eye(d), normal(d, seed=3), b @ b.T + 0.1 * torch.eye(d)


def root(C):
    values, vectors = torch.linalg.eigh(C)
    return (vectors * values.sqrt()) @ vectors.T


def test_the_best_pairing():
    """R = V U^T gives the formula; every other cross-covariance that there can be gives more."""
    m1, C1, m2, C2 = two_gaussians()
    A, B = root(C1), root(C2)
    U, S, Vt = torch.linalg.svd(B @ A)

    def cost(R):
        return ((m1 - m2).square().sum() + C1.trace() + C2.trace() - 2 * (A @ R @ B).trace()).item()

    best, best_R = frechet_gaussians(m1, C1, m2, C2), Vt.T @ U.T
    assert cost(best_R) == pytest.approx(best)
    values = torch.linalg.eigvals(C1 @ C2)
    assert values.imag.abs().max() < 1e-9
    torch.testing.assert_close(values.real.sqrt().sort(descending=True).values, S)
    joint = torch.cat([torch.cat([C1, A @ best_R @ B], 1), torch.cat([(A @ best_R @ B).T, C2], 1)])
    assert torch.linalg.eigvalsh(joint).min() > -1e-9  # such a pair exists
    for seed in range(50):
        R = normal(4, 4, seed=seed)
        R = R / torch.linalg.matrix_norm(R, 2)  # no singular value above 1
        assert cost(R) > best
        assert cost(torch.linalg.qr(R)[0]) > best


def test_in_one_dimension():
    one = torch.ones(1, 1, dtype=torch.float64)
    distance = frechet_gaussians(one[0] * 0.3, one * 0.5**2, one[0] * -1.0, one * 1.2**2)
    assert distance == pytest.approx(1.3**2 + 0.7**2)


def test_equal_moments_are_at_no_distance():
    """The moons and a Gaussian with their moments."""
    moons = toy_mixture("moons")
    generator = torch.Generator().manual_seed(0)
    x = moons.sample(20_000, generator).double()
    white = torch.randn(20_000, 2, dtype=torch.float64, generator=generator)
    fake = moons.mean + white @ torch.linalg.cholesky(moons.covariance).T
    assert frechet_distance(x, fake) < 1e-3
    assert (moons.log_prob(fake) < moons.log_prob(x).quantile(0.01)).double().mean() > 0.3


def second_order(eigenvalues, delta):
    return 0.5 * (delta**2 / (eigenvalues[:, None] + eigenvalues)).sum()


def test_the_distance_to_second_order():
    eigenvalues = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    delta, zero = normal(3, 3), torch.zeros(3, dtype=torch.float64)
    delta = 1e-3 * (delta + delta.T)
    exact = frechet_gaussians(zero, eigenvalues.diag(), zero, eigenvalues.diag() + delta)
    assert exact == pytest.approx(second_order(eigenvalues, delta).item(), rel=0.01)


@pytest.mark.parametrize("eigenvalues", [[1.0, 1.0, 1.0, 1.0], [0.1, 0.5, 2.0]])
def test_the_bias_of_few_samples(eigenvalues):
    """Two sets of n from the same Gaussian: the mean distance; with variances of 1 it is D (D + 5) / 2n."""
    e, n = torch.tensor(eigenvalues, dtype=torch.float64), 400
    bias = (2.5 * e.sum() + (e[:, None] * e / (e[:, None] + e)).sum()).item() / n
    if min(eigenvalues) == 1:
        assert bias == pytest.approx(len(e) * (len(e) + 5) / (2 * n))
    found = [
        frechet_distance(*(normal(n, len(e), seed=2 * seed + i) * e.sqrt() for i in (0, 1))) for seed in range(400)
    ]
    assert np.mean(found) == pytest.approx(bias, rel=0.1)
    assert 2048 * 2053 / (2 * 5000) == pytest.approx(400, rel=0.06)


# ---- what was measured beforehand ------------------------------------------------------------------------------------

MEASURED = Path(__file__).parents[1] / "course_utils" / "measured" / "cifar10.json"


def test_the_measured_file_has_what_the_page_draws():
    measured = json.loads(MEASURED.read_text("utf-8"))
    assert measured["precision"] in ("float32", "bfloat16")
    assert {row["sampler"] for row in measured["long"]} == {"dpmpp_2m", "ddpm"}
    assert len({row["pictures"] for row in measured["long"]}) == 1  # a distance depends on their number
    assert measured["device"] and measured["n_samples"] > 0 and measured["floor"]["frechet"] >= 0
    assert len(measured["guidance"]) >= 4 and {row["sampler"] for row in measured["steps"]} == {
        "ddim", "heun", "dpmpp_2m"
    }  # fmt: skip
    for row in measured["guidance"]:
        assert row["frechet"] > 0 and 0 <= row["agreement"] <= 1 and row["spread"] > 0
    assert all(row["calls"] > 0 and row["frechet"] > 0 for row in measured["steps"])
    assert {0.0, 1.0} <= {row["eta"] for row in measured["eta"]}
