"""The references of chapter 2's exercises against closed forms and the package, and its oracle."""

import math

import pytest
import torch

from course_utils.exercises import EXERCISES
from course_utils.exercises.score_matching import LevelNet, ScoreNet, exact_score
from course_utils.langevin import annealed_langevin, predictor_corrector, reverse_sde
from course_utils.mixtures import GaussianMixture
from course_utils.schedules import VESchedule

MEANS = [[-1.0, 0.0], [1.0, 0.5]]


def reference(name):
    return EXERCISES[f"score_matching.{name}"].reference


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class GaussianScore(torch.nn.Module):
    """The score of N(mean, variance) in each coordinate, both to be learned."""

    def __init__(self, mean, variance):
        super().__init__()
        self.mean, self.variance = torch.nn.Parameter(mean), torch.nn.Parameter(variance)

    def forward(self, x, sigma=None):
        return (self.mean - x) / self.variance


def test_the_oracle_is_the_score_of_the_noisy_mixture():
    x = 2 * normal(6, 2)
    for sigma in (0.1, 1.0, 5.0):
        close(exact_score(MEANS, 0.3)(x, sigma), GaussianMixture(MEANS, 0.3).noised(1.0, sigma).score(x))
    each = torch.linspace(0.1, 2, 6, dtype=torch.float64)
    rows = [exact_score(MEANS, 0.3)(x[i : i + 1], sigma.item()) for i, sigma in enumerate(each)]
    close(exact_score(MEANS, 0.3)(x, each), torch.cat(rows))


def test_the_mixtures_score_is_the_gradient_of_torchs_density():
    means, std, weights = normal(3, 2), torch.tensor([0.4, 0.9, 1.3]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    parts = torch.distributions.Independent(torch.distributions.Normal(means, std[:, None].expand(3, 2)), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)
    x = normal(7, 2, seed=1).requires_grad_()
    exact = torch.autograd.grad(mixture.log_prob(x).sum(), x)[0]
    close(reference("mixture_score")(x.detach(), means, std, weights), exact)


def test_far_out_the_mixtures_score_is_that_of_its_widest_part():
    x = number([[300.0, -200.0]])
    means, std = number(MEANS), number([0.5, 0.6])
    close(reference("mixture_score")(x, means, std, number([0.9, 0.1])), (means[1] - x) / 0.6**2)


def test_the_implicit_loss_is_lowest_at_the_datas_own_moments():
    """Of all Gaussians' scores that of the sample's mean and variance is best: exactly, for any sample."""
    x = normal(50, 3) * number([0.5, 1.0, 2.0]) + 1

    def loss_at(mean, variance):
        net = GaussianScore(mean, variance)
        loss = reference("implicit_loss")(net, x)
        return loss, torch.autograd.grad(loss, [net.mean, net.variance])

    mean, variance = x.mean(0), x.var(0, correction=0)
    best, gradients = loss_at(mean, variance)
    for gradient in gradients:
        close(gradient, torch.zeros(3, dtype=torch.float64))
    close(best, -(1 / (2 * variance)).sum())  # less than 0, by half the Fisher information
    for scale in (0.8, 1.25):
        assert loss_at(mean + 0.1, variance)[0] > best and loss_at(mean, scale * variance)[0] > best


def test_the_implicit_loss_is_the_explicit_one_but_for_a_constant():
    """Against quadrature, on a mixture with a wrong score: J - E|s*|^2 / 2."""
    mixture = GaussianMixture([[-1.0], [1.2]], 0.6)
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    p = mixture.log_prob(x).exp() * 16 / 4000
    net = ScoreNet(torch.Generator().manual_seed(0)).requires_grad_(False)
    explicit = (p * (net(x) - mixture.score(x)).square().sum(1)).sum() / 2
    constant = (p * mixture.score(x).square().sum(1)).sum() / 2
    each = torch.stack([reference("implicit_loss")(net, point[None]) for point in x[::10]])
    close((10 * p[::10] * each).sum(), explicit - constant, 1e-6)


def test_slices_along_the_axes_add_up_to_the_divergence():
    """With v = sqrt(D) e_d the mean over d of v^T J v is the trace, without any chance in it."""
    net, x = ScoreNet(torch.Generator().manual_seed(0)), normal(5, 3)
    slices = [reference("sliced_loss")(net, x, math.sqrt(3) * axis.expand(5, 3)) for axis in torch.eye(3).double()]
    close(sum(slices) / 3, reference("implicit_loss")(net, x))


def test_denoising_is_perfect_for_one_point_and_worth_the_noise_for_a_zero_score():
    x0, noise, sigma = number([[0.5, -1.0]]).expand(40, 2), normal(40, 2), 0.1 + normal(40).abs()

    def exact(x, sigma):
        return (x0 - x) / sigma[:, None] ** 2

    def zero(x, sigma):
        return 0 * x

    close(reference("dsm_loss")(exact, x0, noise, sigma), number(0.0))
    close(reference("dsm_loss")(zero, x0, noise, sigma), noise.square().sum(1).mean() / 2)


def test_denoising_finds_the_variance_of_data_and_noise():
    """One level, data and noise that are uncorrelated in the sample: the best Gaussian has var(x0) + sigma^2."""
    x0, noise = torch.cartesian_prod(number([-2.0, 2.0]), number([-1.0, 1.0])).split(1, dim=1)
    sigma = torch.full((4,), 1.5, dtype=torch.float64)
    net = GaussianScore(number([0.0]), number([4 + 1.5**2]))
    gradients = torch.autograd.grad(reference("dsm_loss")(net, x0, noise, sigma), [net.mean, net.variance])
    for gradient in gradients:
        close(gradient, torch.zeros(1, dtype=torch.float64))


def test_tweedie_on_a_gaussian():
    """Var(x0 | x) = s^2 sigma^2 / (alpha^2 s^2 + sigma^2), the same everywhere."""
    m, s, alpha, sigma, x = 0.3, 0.5, 0.8, 0.6, normal(4, 2)
    total = alpha**2 * s**2 + sigma**2
    mean, covariance = reference("tweedie")(lambda x: (alpha * m - x) / total, x, alpha, sigma)
    close(mean, m + alpha * s**2 / total * (x - alpha * m))
    close(covariance, (s**2 * sigma**2 / total * torch.eye(2, dtype=torch.float64)).expand(4, 2, 2))


def test_tweedie_on_a_mixture_by_quadrature():
    alpha, sigma, mixture = 0.7, 0.5, GaussianMixture([[-1.0], [1.2]], 0.4)
    x0 = torch.linspace(-6, 6, 6001, dtype=torch.float64)
    x = number([[-1.0], [0.05], [0.7]])
    joint = mixture.log_prob(x0[:, None]) - (x - alpha * x0) ** 2 / (2 * sigma**2)  # (3, N)
    posterior = joint.softmax(1)
    mean = posterior @ x0
    variance = posterior @ x0**2 - mean**2
    found = reference("tweedie")(mixture.noised(alpha, sigma).score, x, alpha, sigma)
    close(found[0][:, 0], mean, 1e-7)
    close(found[1][:, 0, 0], variance, 1e-7)


def test_annealed_langevin_is_the_packages():
    sigmas, x, score = [2.0, 1.0, 0.4], normal(5, 2), exact_score(MEANS, 0.3)
    g = torch.Generator().manual_seed(7)
    noise = torch.stack([torch.randn(5, 2, dtype=torch.float64, generator=g) for _ in range(12)]).reshape(3, 4, 5, 2)
    *_, end = annealed_langevin(score, sigmas, x, 4, 0.05, torch.Generator().manual_seed(7))
    close(reference("annealed_langevin")(score, x, sigmas, 0.05, noise), end)


def integrate(step, n, s=0.5, start=3.0):
    """The end of n steps from sigma = 3 to 0.1 on N(0, s^2), and its exact value: x goes with sqrt(s^2 + sigma^2)."""
    sigmas = torch.logspace(math.log10(3.0), -1, n + 1, dtype=torch.float64).tolist()
    x = number([[start]])
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = step(exact_score([[0.0]], s), x, sigma, sigma_next)
    return x.item(), start * math.sqrt((s**2 + 0.1**2) / (s**2 + 3.0**2))


@pytest.mark.parametrize("name, order", [(None, 2), ("euler_only", 1), ("slope_of_the_end", 1)])
def test_the_order_of_the_flows_step(name, order):
    """Twice the steps: a quarter of Heun's error, half of Euler's."""
    exercise = EXERCISES["score_matching.heun_step"]
    step = exercise.misconceptions[name] if name else exercise.reference
    errors = []
    for n in (40, 80, 160):
        end, exact = integrate(step, n)
        errors.append(abs(end - exact))
    measured = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(p - order) < 0.2 for p in measured), measured


def test_the_reverse_step_is_the_packages():
    schedule, x, score = VESchedule(0.01, 5.0), normal(5, 2), exact_score(MEANS, 0.3)
    sigma, sigma_next = (schedule.sigma(number(t)).item() for t in (0.9, 0.7))

    def denoise(x, t):
        return x + schedule.sigma(number(t)).item() ** 2 * score(x, schedule.sigma(number(t)).item())

    end = next(reverse_sde(denoise, schedule, x, [0.9, 0.7], torch.Generator().manual_seed(3)))
    z = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    close(reference("reverse_step")(score, x, sigma, sigma_next, z), end, 1e-8)


def test_the_mended_corrector_is_the_packages():
    """From one level to the next, with two kicks: predictor and corrector draw from one generator."""
    schedule, x, score, r = VESchedule(0.01, 5.0), normal(5, 2), exact_score(MEANS, 0.3), 0.2
    sigmas = [schedule.sigma(number(t)).item() for t in (0.9, 0.7)]

    def denoise(x, t):
        sigma = schedule.sigma(number(t)).item()
        return x + sigma**2 * score(x, sigma)

    (end,) = predictor_corrector(
        denoise, schedule, x, [0.9, 0.7], 2, r, predictor=reverse_sde, generator=torch.Generator().manual_seed(3)
    )
    g = torch.Generator().manual_seed(3)
    z = torch.stack([torch.randn(5, 2, dtype=torch.float64, generator=g) for _ in range(3)])
    close(reference("fix_the_corrector")(score, x, sigmas, r, z[None, 0], z[None, 1:]), end, 1e-8)


def test_the_mended_sampler_has_the_gaussians_width_and_the_given_one_has_not():
    """All is linear: the variance is the sum of the squared responses to each noise alone, without any chance."""
    L, n, s, r = 30, 4, 0.5, 0.3
    sigmas = [5.0 * 0.86**i for i in range(L + 1)]
    sources = 1 + L + L * n
    impulses = torch.eye(sources, dtype=torch.float64)
    x = 5.0 * impulses[0][:, None]  # the start has the std of the largest noise, and so has chain 0
    noise = impulses[1 : 1 + L][:, :, None]
    kicks = impulses[1 + L :].reshape(L, n, sources, 1)
    exercise = EXERCISES["score_matching.fix_the_corrector"]
    mended, given = (
        f(exact_score([[0.0]], s), x, sigmas, r, noise, kicks).square().sum().item()
        for f in (exercise.reference, exercise.misconceptions["as_given"])
    )
    exact = s**2 + sigmas[-1] ** 2
    assert abs(mended / exact - 1) < 0.1 and given / exact < 0.8


def test_the_toys_levels_are_checked():
    net, x = LevelNet(torch.Generator().manual_seed(0)), normal(4, 2)
    close(net(x, 0.5), net(x, torch.full((4,), 0.5, dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"sigma as a number or of shape \(B,\) = \(4,\)"):
        net(x, torch.ones(4, 1))
    with pytest.raises(ValueError, match="needs sigma above 0"):
        net(x, 0.0)
