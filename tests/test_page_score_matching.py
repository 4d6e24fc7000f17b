"""The formulas on chapter 2's page, each computed a second way: quadrature, enumeration, closed forms."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch.func import hessian, jacrev, vmap

from course_utils.denoiser import from_x0
from course_utils.energy import grid
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import heun
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule

MIXTURE = GaussianMixture([[-1.2, 0.4], [0.9, 1.0], [0.5, -1.2]], 0.35, [3, 2, 1])
OTHER = GaussianMixture([[-0.8, 0.1], [1.1, 0.3]], [0.6, 0.9])  # whose score is a wrong one
POINTS, CELL = grid(-8, 8, 240)
COSINE = CosineSchedule(None)
SCHEDULES = {"cosine": COSINE, "linear": LinearSchedule(), "exploding": VESchedule(0.01, 5.0)}


def mean(f, mixture=MIXTURE):
    """E f(x) under the mixture, by quadrature: a smooth density that has died away at the ends."""
    return ((mixture.log_prob(POINTS).exp() * f(POINTS)).sum() * CELL).item()


def half_square(v):
    return v.square().sum(1) / 2


def divergence(score, x):
    return vmap(lambda u: jacrev(lambda w: score(w[None])[0])(u).trace())(x)


def test_score_of_a_mixture_is_the_gradient():
    """With responsibilities as the page writes them, against autograd and the package."""
    x = POINTS[::997].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(MIXTURE.log_prob(x).sum(), x)
    x = x.detach()
    gaps = MIXTURE.means[None] - x[:, None]
    r = (MIXTURE.weights.log() - gaps.square().sum(2) / (2 * MIXTURE.std**2) - 2 * MIXTURE.std.log()).softmax(1)
    formula = (r[:, :, None] * gaps / MIXTURE.std[:, None] ** 2).sum(1)
    torch.testing.assert_close(formula, gradient)
    torch.testing.assert_close(formula, MIXTURE.score(x))


def test_integration_by_parts():
    """The mixed term is minus the mean divergence, and so the implicit loss the Fisher divergence less a constant."""
    s = OTHER.score
    mixed = mean(lambda x: (s(x) * MIXTURE.score(x)).sum(1))
    assert mixed == pytest.approx(-mean(lambda x: divergence(s, x)), abs=1e-5)
    explicit = mean(lambda x: half_square(s(x) - MIXTURE.score(x)))
    implicit = mean(lambda x: divergence(s, x) + half_square(s(x)))
    information = mean(lambda x: half_square(MIXTURE.score(x)))
    assert explicit == pytest.approx(implicit + information, abs=1e-5)
    assert explicit > 0.5  # it is a wrong score


def test_an_edge_breaks_the_implicit_loss():
    """Uniform on [-1, 1]: the loss of s = a x is a + a^2 / 6, least at a = -3 and not at the true score's 0."""
    x = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 10_000 - 1
    loss = {a: (a + (a * x) ** 2 / 2).mean().item() for a in (0.0, -2.9, -3.0, -3.1)}
    assert loss[-3.0] == pytest.approx(-1.5, abs=1e-6)
    assert loss[-3.0] < min(loss[-2.9], loss[-3.1]) < loss[0.0] == 0


def test_directions_give_the_trace_and_the_variance():
    """Random signs, all of them enumerated; normal directions by their moments (Isserlis)."""
    a = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = a + a.T
    v = torch.tensor(list(product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    values = torch.einsum("ni,ij,nj->n", v, a, v)
    assert values.mean().item() == pytest.approx(a.trace().item())
    off_axes = a.square().sum() - a.diagonal().square().sum()
    assert values.var(correction=0).item() == pytest.approx(2 * off_axes.item())
    node, weight = (torch.as_tensor(q) for q in np.polynomial.hermite_e.hermegauss(5))
    weight = weight / weight.sum()  # Gauss quadrature: exact for polynomials of degree nine
    v, w = (torch.cartesian_prod(*[q] * 4) for q in (node, weight))
    values, w = torch.einsum("ni,ij,nj->n", v, a, v), w.prod(1)
    assert (w @ values).item() == pytest.approx(a.trace().item())
    assert (w @ (values - a.trace()) ** 2).item() == pytest.approx(2 * a.square().sum().item())


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_denoising_loss_and_its_constant(sigma):
    """A mixture's x0 given x is a mixture: E|s + z / sigma|^2 in closed form at each x, then quadrature."""
    noisy, s = MIXTURE.noised(1.0, sigma), OTHER.score
    explicit = mean(lambda x: half_square(s(x) - noisy.score(x)), noisy)

    def denoising(x):
        """E[|s(x) - (x0 - x) / sigma^2|^2 | x] / 2, from the moments of x0 given x and its component."""
        gaps = MIXTURE.means[None] - x[:, None]
        total = MIXTURE.std**2 + sigma**2
        r = (MIXTURE.weights.log() - gaps.square().sum(2) / (2 * total) - total.log()).softmax(1)
        target = gaps / total[:, None]  # E[(x0 - x) / sigma^2 | x, k], as x0 - x has the mean sigma^2 gaps / total
        spread = MIXTURE.std**2 * sigma**2 / total / sigma**4
        each = (s(x)[:, None] - target).square().sum(2) + 2 * spread  # d = 2
        return (r * each).sum(1) / 2

    constant = mean(lambda x: half_square(noisy.score(x)), noisy) - 1 / sigma**2  # d / (2 sigma^2)
    assert constant <= 0
    assert explicit == pytest.approx(mean(denoising, noisy) + constant, abs=1e-5)


def test_denoising_loss_of_the_exact_score():
    """Quiz: with the weight it is d / 2 - sigma^2 / 2 E|score|^2, by simulation."""
    sigma, n = 0.4, 200_000
    generator = torch.Generator().manual_seed(0)
    x0, z = MIXTURE.sample(n, generator), torch.randn(n, 2, generator=generator)
    noisy = MIXTURE.noised(1.0, sigma)
    each = half_square(sigma * noisy.score(x0 + sigma * z) + z)
    expected = 1 - sigma**2 * mean(lambda x: half_square(noisy.score(x)), noisy)
    assert each.mean().item() == pytest.approx(expected, abs=4 * each.std().item() / math.sqrt(n))
    assert 0.1 < expected < 0.9


def test_a_cloud_alone_does_not_know_its_weight():
    """On one of two far clouds the score is that of the cloud; in between it is not."""
    scores = [GaussianMixture([[-1.5], [1.5]], 0.3, [w, 1 - w]).score for w in (0.5, 0.8)]
    on_cloud, between = (torch.tensor([[x]], dtype=torch.float64) for x in (-1.3, 0.02))
    assert (scores[0](on_cloud) - scores[1](on_cloud)).abs().item() < 1e-10
    assert (scores[0](between) - scores[1](between)).abs().item() > 1


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_score_of_a_thin_line(sigma):
    """-r / sigma^2 off a segment, and 1 / sigma on average, by quadrature across it."""
    u = torch.linspace(-3, 3, 2401, dtype=torch.float64)
    line = GaussianMixture(torch.stack([u, torch.zeros_like(u)], 1), 0.0).noised(1.0, sigma)
    r = torch.linspace(-5, 5, 401, dtype=torch.float64) * sigma
    score = line.score(torch.stack([torch.full_like(r, 0.1), r], 1))
    torch.testing.assert_close(score[:, 1], -r / sigma**2, rtol=1e-6, atol=1e-9)
    assert score[:, 0].abs().max() < 1e-3
    p = torch.exp(-(r**2) / (2 * sigma**2))
    assert (p @ score.square().sum(1) / p.sum()).sqrt().item() == pytest.approx(1 / sigma, rel=1e-4)


def test_tweedie():
    """Mean and covariance of x0 given x by quadrature over x0, against score and Hessian of log p_t."""
    alpha, sigma = 0.8, 0.6
    noisy = MIXTURE.noised(alpha, sigma)
    for x in torch.tensor([[0.1, 0.2], [-1.5, 1.0]], dtype=torch.float64):
        w = (MIXTURE.log_prob(POINTS) - (x - alpha * POINTS).square().sum(1) / (2 * sigma**2)).softmax(0)
        posterior_mean = w @ POINTS
        centred = POINTS - posterior_mean
        covariance = (w[:, None] * centred).T @ centred
        curvature = hessian(lambda u: noisy.log_prob(u[None])[0])(x)
        identity = torch.eye(2, dtype=torch.float64)
        torch.testing.assert_close((x + sigma**2 * noisy.score(x[None])[0]) / alpha, posterior_mean)
        torch.testing.assert_close(sigma**2 / alpha**2 * (identity + sigma**2 * curvature), covariance)


@pytest.mark.parametrize("alpha, sigma", [(0.8, 0.6), (1.0, 2.0), (0.3, 0.5)])
def test_the_table_of_scores(alpha, sigma):
    """Each row against the package's conversion, also where alpha^2 + sigma^2 is not 1."""
    alpha, sigma = torch.tensor(alpha).double(), torch.tensor(sigma).double()
    x, x0 = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score = from_x0("score", x0, x, alpha, sigma)
    eps, v = (from_x0(kind, x0, x, alpha, sigma) for kind in ("eps", "v"))
    torch.testing.assert_close(-eps / sigma, score)
    torch.testing.assert_close((alpha * x0 - x) / sigma**2, score)
    torch.testing.assert_close(-(sigma * x + alpha * v) / (sigma * (alpha**2 + sigma**2)), score)


def drift_and_noise(schedule, t, h=1e-5):
    """f and g^2 by differences of log alpha and sigma^2."""
    log_alpha = [schedule.alpha(u).log().item() for u in (t - h, t + h)]
    variance = [schedule.sigma(u).item() ** 2 for u in (t - h, t + h)]
    f = (log_alpha[1] - log_alpha[0]) / (2 * h)
    return f, (variance[1] - variance[0]) / (2 * h) - 2 * schedule.sigma(t).item() ** 2 * f


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_sde_has_the_schedules_moments(schedule):
    """Integrating dm = f m and dV = 2 f V + g^2 by Heun's rule leads to alpha and sigma^2."""
    start, end, n = 0.1005, 0.8005, 1400  # the linear schedule has a kink at every k / T: steps between them
    t, m, v = start, schedule.alpha(start).item(), schedule.sigma(start).item() ** 2
    h = (end - start) / n
    for _ in range(n):
        f, g2 = drift_and_noise(schedule, t + h / 2)
        m, v = m * (1 + h * f / 2) / (1 - h * f / 2), (v * (1 + h * f) + h * g2) / (1 - h * f)  # midpoint, implicit
        t += h
    assert m == pytest.approx(schedule.alpha(end).item(), rel=1e-3)
    assert v == pytest.approx(schedule.sigma(end).item() ** 2, rel=1e-3)


def test_the_rate_of_the_cosine_schedule():
    for t in (0.1, 0.5, 0.9):
        f, g2 = drift_and_noise(COSINE, t)
        assert g2 == pytest.approx(math.pi * math.tan(math.pi * t / 2), rel=1e-5)
        assert f == pytest.approx(-g2 / 2, rel=1e-5)


def test_ddpms_rate():
    """f and g^2 of the discrete table are its betas, T times as large, up to the next order in beta."""
    schedule = LinearSchedule()
    for k in (10, 300, 900):
        beta = schedule.beta[k].item()
        f, g2 = drift_and_noise(schedule, (k - 0.5) / schedule.T)
        assert g2 == pytest.approx(-2 * f, rel=1e-4)
        assert g2 == pytest.approx(schedule.T * beta, rel=2 * beta)


@pytest.mark.parametrize("amount", [0.0, 0.5, 1.0, 2.0])
def test_every_reverse_process_has_the_same_densities(amount):
    """dp/dtau = -(drift p)' + lambda^2 g^2 p'' / 2 for a mixture on a line: differences in t, exact slopes in x."""
    pair = GaussianMixture([[-1.2], [1.0]], 0.25, [0.3, 0.7])
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    for t in (0.2, 0.5, 0.8):
        f, g2 = drift_and_noise(COSINE, t)
        p_t = pair.noised(COSINE.alpha(t), COSINE.sigma(t))

        def flux(u, p_t=p_t, f=f, g2=g2):
            drift = -f * u + (1 + amount**2) / 2 * g2 * p_t.score(u[None])[0]
            p = p_t.log_prob(u[None])[0].exp()
            return drift * p - amount**2 / 2 * g2 * p * p_t.score(u[None])[0]  # p' = p times the score

        right = -vmap(lambda u: jacrev(flux)(u).squeeze())(x)
        h = 1e-4
        before, after = (pair.noised(COSINE.alpha(u), COSINE.sigma(u)).log_prob(x).exp() for u in (t - h, t + h))
        torch.testing.assert_close(right, (before - after) / (2 * h), rtol=1e-4, atol=1e-5)
        assert right.abs().max() > 0.05


def test_the_exact_flow_of_a_gaussian():
    """It solves the ODE (differences in t), and Heun's method with many steps follows it."""
    m, s = 0.3, 0.5
    bell = GaussianMixture([[m]], s)

    def width(t):
        return math.hypot(COSINE.alpha(t).item() * s, COSINE.sigma(t).item())

    x_1 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def flow(t):
        return COSINE.alpha(t).item() * m + width(t) / width(1.0) * (x_1 - COSINE.alpha(1.0).item() * m)

    for t in (0.2, 0.6, 0.9):
        f, g2 = drift_and_noise(COSINE, t)
        score = bell.noised(COSINE.alpha(t), COSINE.sigma(t)).score(flow(t))
        torch.testing.assert_close(
            (flow(t + 1e-5) - flow(t - 1e-5)) / 2e-5, f * flow(t) - g2 / 2 * score, rtol=1e-5, atol=1e-5
        )
    *_, end = heun(bell.denoiser(COSINE), COSINE, x_1, COSINE.timesteps(400))
    torch.testing.assert_close(end, flow(0.0), rtol=0, atol=1e-3)


def test_heun_in_sigma_is_of_second_order():
    """The page's step for alpha = 1 on a Gaussian, whose exact flow scales x - m by the widths; Euler's is of first."""
    m, s, high, low = 0.3, 0.5, 4.0, 0.1
    x0 = torch.linspace(-2, 2, 9, dtype=torch.float64)
    exact = m + math.hypot(s, low) / math.hypot(s, high) * (x0 - m)

    def slope(x, sigma):
        return sigma * (x - m) / (s**2 + sigma**2)

    def error(n, correct):
        x, levels = x0, torch.linspace(high, low, n + 1).tolist()
        for a, b in zip(levels, levels[1:], strict=False):
            d = slope(x, a)
            guess = x + (b - a) * d
            x = x + (b - a) * (d + slope(guess, b)) / 2 if correct else guess
        return (x - exact).abs().max().item()

    for correct, order in ((False, 1), (True, 2)):
        assert math.log2(error(100, correct) / error(200, correct)) == pytest.approx(order, abs=0.15)


def test_density_along_the_flow():
    """d log p_t(x_t) / dt = -u', along the exact flow of a Gaussian, whose velocity is linear."""
    m, s, t, h = 0.3, 0.5, 0.4, 1e-5
    bell = GaussianMixture([[m]], s)
    f, g2 = drift_and_noise(COSINE, t)
    log_p = []
    for u in (t - h, t + h):
        alpha, sigma = COSINE.alpha(u).item(), COSINE.sigma(u).item()
        x = alpha * m + math.hypot(alpha * s, sigma) * torch.tensor([[0.7]], dtype=torch.float64)
        log_p.append(bell.noised(alpha, sigma).log_prob(x).item())
    variance = COSINE.alpha(t).item() ** 2 * s**2 + COSINE.sigma(t).item() ** 2
    assert (log_p[1] - log_p[0]) / (2 * h) == pytest.approx(-(f + g2 / (2 * variance)), rel=1e-5)


def test_twice_the_score_is_the_squared_density():
    """Quiz: a single Gaussian becomes narrower by the root of a half."""
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    wide, narrow = GaussianMixture([[0.3]], 0.5), GaussianMixture([[0.3]], 0.5 * math.sqrt(0.5))
    torch.testing.assert_close(2 * wide.score(x), narrow.score(x))


def test_points_keep_their_place_on_a_line():
    """The ODE of a mixture on a line: F_t(x_t), the share of points below, is the same at both ends of a path."""
    pair = GaussianMixture([[-1.2], [1.0]], 0.25, [0.3, 0.7])

    def below(mixture, x):
        return torch.special.ndtr((x - mixture.means[:, 0]) / mixture.std) @ mixture.weights

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    *_, end = heun(pair.denoiser(COSINE), COSINE, x, COSINE.timesteps(500, t_start=0.95))
    start = below(pair.noised(COSINE.alpha(0.95), COSINE.sigma(0.95)), x)
    torch.testing.assert_close(below(pair, end), start, rtol=0, atol=1e-4)
    assert (end - x).abs().max() > 0.3
