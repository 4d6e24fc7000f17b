"""The references of chapter 5's exercises against mathematics and second libraries, and its oracle."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from course_utils.exercises import EXERCISES
from course_utils.exercises.guidance import mixture_net
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim
from course_utils.schedules import CosineSchedule


def reference(name):
    return EXERCISES[f"guidance.{name}"].reference


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_attention_of_one_hot_keys_looks_one_up():
    """Queries far along a key's own direction fetch that key's value; equal keys give the mean of the values."""
    v = normal(4, 3)
    out, weights = reference("attention")(100 * torch.eye(4).double()[[2, 0]], torch.eye(4).double(), v)
    close(out, v[[2, 0]])
    close(weights, torch.eye(4).double()[[2, 0]])
    out, weights = reference("attention")(normal(5, 3), normal(1, 3, seed=1).expand(4, 3), v)
    close(weights, torch.full((5, 4), 0.25, dtype=torch.float64))
    close(out, v.mean(0).expand(5, 3))


def test_attention_keeps_the_scores_variance_at_one():
    """q k^T / sqrt(D) of independent normal entries has variance 1, whatever D: the reason for the root."""
    for d in (4, 64, 256):
        q, k = normal(1000, d), normal(1000, d, seed=1)
        _, weights = reference("attention")(q, k, k)
        scores = weights.log()
        spread = (scores - scores.mean(1, keepdim=True)).square().mean().item()  # the softmax takes a constant away
        assert abs(spread - 1) < 0.12  # four standard errors at D = 4


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_multi_head_attention_is_torchs_module(heads):
    """nn.MultiheadAttention on the normed picture's positions, with the same matrices, and x added."""
    x, to_qkv, to_out = normal(2, 8, 3, 5), normal(24, 8, seed=1), normal(8, 8, seed=2)
    module = nn.MultiheadAttention(8, heads, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.in_proj_weight.copy_(to_qkv)
        module.out_proj.weight.copy_(to_out)
        tokens = nn.functional.group_norm(x, 1).flatten(2).mT
        h, _ = module(tokens, tokens, tokens)
    close(reference("multi_head_attention")(x, to_qkv, to_out, heads), x + h.mT.reshape(x.shape))


def test_multi_head_attention_does_not_know_where_a_position_is():
    """Moving the positions moves the result; with to_out = 0 the block is the identity."""
    x, to_qkv, to_out = normal(2, 4, 2, 3), normal(12, 4, seed=1), normal(4, 4, seed=2)
    block = reference("multi_head_attention")
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def moved(picture):
        return picture.flatten(2)[..., order].reshape(picture.shape)

    close(block(moved(x), to_qkv, to_out, 2), moved(block(x, to_qkv, to_out, 2)))
    close(block(x, to_qkv, 0 * to_out, 2), x)


def test_fourier_features_compare_by_the_difference_of_times():
    """Two times' features have the dot product sum cos(2 pi w (s - t)), and length sqrt(F)."""
    w, s, t = normal(6), torch.rand(5).double(), torch.rand(5).double()
    a, b = (reference("fourier_features")(times, w) for times in (s, t))
    close((a * b).sum(1), (2 * math.pi * (s - t)[:, None] * w).cos().sum(1))
    close(a.norm(dim=1), torch.full((5,), 6**0.5, dtype=torch.float64))


def test_v_is_the_derivative_along_the_angle():
    x0, noise, t = normal(4, 3), normal(4, 3, seed=1), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    h = 1e-5
    x, v = reference("v_target")(x0, t, noise)
    ahead, behind = (reference("v_target")(x0, t + s * h, noise)[0] for s in (1, -1))
    close(v, (ahead - behind) / (2 * h * math.pi / 2), 1e-8)
    close(x.square() + v.square(), x0.square() + noise.square())  # a rotation


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_conversions_recover_data_and_noise(kind):
    """From the true x0, eps, v or score each, the same four come back."""
    x0, noise = normal(5, 2), normal(5, 2, seed=1)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x, v = reference("v_target")(x0, t, noise)
    alpha, sigma = ((math.pi / 2 * t)[:, None].cos(), (math.pi / 2 * t)[:, None].sin())
    score = -(x - alpha * x0) / sigma**2  # of N(alpha x0, sigma^2), which x was drawn from
    truth = (x0, noise, v, score)
    found = reference("convert")(("x0", "eps", "v", "score")[kind], truth[kind], x, alpha, sigma)
    for a, b in zip(found, truth, strict=True):
        close(a, b)


def test_the_guided_score_is_the_gradient_of_the_tilted_density():
    means, std, scale = normal(3, 2), 0.7, 2.5
    mixture = GaussianMixture(means, std)
    x = normal(6, 2, seed=1).requires_grad_()
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    log_class = torch.stack([GaussianMixture(means[c][None], std).log_prob(x) for c in range(3)], 1)
    log_posterior = log_class[torch.arange(6), y] - math.log(3) - mixture.log_prob(x)  # Bayes
    log_tilted = mixture.log_prob(x) + scale * log_posterior
    gradient = torch.autograd.grad(log_tilted.sum(), x)[0]
    close(reference("guided_score")(x.detach(), y, means, std, scale), gradient)


def test_dynamic_clipping_keeps_a_picture_within_the_range_and_its_quantile_at_the_edge():
    x0 = 2 * normal(3, 3, 8, 8)
    clipped = reference("dynamic_clip")(x0, 0.9)
    assert clipped.abs().max() <= 1
    for before, after in zip(x0.numpy(), clipped.numpy(), strict=True):
        s = np.quantile(np.abs(before), 0.9)
        np.testing.assert_allclose(after, np.clip(before / s, -1, 1), atol=1e-6)
        assert abs((np.abs(after) >= 1).mean() - 0.1) < 0.01


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_ddim_step_is_the_packages(eta):
    schedule, x, x0 = CosineSchedule(None), normal(5, 2), normal(5, 2, seed=1)
    z = normal(5, 2, seed=2)
    ab, ab_next = (schedule.alpha(t) ** 2 for t in (0.8, 0.5))
    generator = torch.Generator().manual_seed(2)
    step = next(ddim(lambda x, t: x0, schedule, x, [0.8, 0.5], eta, generator=generator))
    close(reference("ddim_step")(x0, x, ab, ab_next, eta, z), step)


def test_eta_moves_the_variance_from_the_old_noise_to_the_new():
    """x_t of N(sqrt(ab) x0, 1 - ab) goes to N(sqrt(ab') x0, 1 - ab'), exactly and for every eta."""
    ab, ab_next, x0 = (torch.tensor(number, dtype=torch.float64) for number in (0.2, 0.6, [[0.5]]))
    step = reference("ddim_step")
    zero, one = torch.zeros_like(x0), torch.ones_like(x0)
    for eta in (0.0, 0.5, 1.0):
        mean = step(x0, ab**0.5 * x0, ab, ab_next, eta, zero)
        old, new = (step(x0, ab**0.5 * x0 + a, ab, ab_next, eta, b) - mean for a, b in ((one, zero), (zero, one)))
        close(mean, ab_next**0.5 * x0)
        close(old**2 * (1 - ab) + new**2, (1 - ab_next).expand(1, 1))
    beta = 1 - ab / ab_next  # eta = 1: DDPM's posterior variance (Ho et al. 2020, equation 7)
    close(new**2, (beta * (1 - ab_next) / (1 - ab)).expand(1, 1))


def test_the_frechet_distance_by_a_matrix_root():
    a, b = normal(4, 9), normal(4, 9, seed=1)
    moments = a.mean(1), a.cov(), b.mean(1), b.cov()
    root = scipy.linalg.sqrtm((moments[1] @ moments[3]).numpy()).real.trace()
    exact = ((moments[0] - moments[2]) ** 2).sum() + (moments[1] + moments[3]).trace() - 2 * root
    close(reference("frechet_distance")(*moments), exact, 1e-8)
    line = [torch.tensor(p, dtype=torch.float64) for p in ([1.0], [[4.0]], [3.0], [[9.0]])]
    close(reference("frechet_distance")(*line), torch.tensor((1 - 3) ** 2 + (2 - 3) ** 2, dtype=torch.float64), 1e-8)


MEANS = torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)


def test_the_oracle_says_the_velocity_of_a_class_and_of_all():
    """Of one Gaussian v is linear: E[x0 | x] = m + alpha s^2 (x - alpha m) / (alpha^2 s^2 + sigma^2)."""
    x, t, s = normal(6, 2), torch.linspace(0.1, 0.9, 6, dtype=torch.float64), 0.5
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    alpha, sigma = ((math.pi / 2 * t)[:, None].cos(), (math.pi / 2 * t)[:, None].sin())
    means = MEANS[y]
    x0 = means + alpha * s**2 * (x - alpha * means) / (alpha**2 * s**2 + sigma**2)
    net = mixture_net(MEANS, s)
    close(net(x, t, y), (alpha * x - x0) / sigma, 1e-8)
    noised = [GaussianMixture(MEANS, s).noised(a.item(), b.item()) for a, b in zip(alpha, sigma, strict=True)]
    score = torch.cat([mixture.score(p[None]) for mixture, p in zip(noised, x, strict=True)])
    close(net(x, t), -sigma * (x + score) / alpha, 1e-6)  # v from the score of all classes together


def test_the_mended_sampler_reaches_the_class_and_the_given_one_does_not():
    x, y = normal(2000, 2), torch.arange(2000) % 2
    times = torch.arange(21, -1, -1, dtype=torch.float64) * 3 / 64
    exercise = EXERCISES["guidance.fix_the_guidance"]
    mended, given = (
        f(mixture_net(MEANS, 0.5), x, y, 1.0, times) for f in (exercise.reference, exercise.misconceptions["as_given"])
    )
    for c in (0, 1):
        assert (mended[y == c].mean(0) - MEANS[c]).abs().max() < 0.06
        assert (mended[y == c].std(0) - 0.5).abs().max() < 0.06
    assert given[y == 0].std(0)[0] > 1.5  # both classes, although one was asked for
