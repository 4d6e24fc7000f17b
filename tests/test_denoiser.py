"""Kinds of prediction: round trips, the relations between them, and the loss at its known minimum."""

import math

import pytest
import torch
from torch import nn

from course_utils.denoiser import KINDS, Denoiser, diffusion_loss, from_x0, to_x0
from course_utils.mixtures import GaussianMixture
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule

SCHEDULES = [LinearSchedule(), CosineSchedule(None), VESchedule()]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Exact(nn.Module):
    """A network that says what the exact denoiser of `mixture` knows, as a prediction of one kind."""

    def __init__(self, mixture, schedule, kind):
        super().__init__()
        self.denoise, self.schedule, self.kind, self.seen = mixture.denoiser(schedule), schedule, kind, []

    def forward(self, x, t, y=None):
        self.seen.append((t, y))
        return from_x0(self.kind, self.denoise(x, t), x, *self.schedule.at(t, x))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6, 2), (6, 3, 4, 5)], ids=str)
def test_round_trips(schedule, kind, shape):
    x, x0 = normal(*shape), normal(*shape, seed=1)
    t = torch.tensor([1e-3, 0.1, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    alpha, sigma = schedule.at(t, x)
    out = from_x0(kind, x0, x, alpha, sigma)
    torch.testing.assert_close(to_x0(kind, out, x, alpha, sigma), x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        from_x0(kind, to_x0(kind, x0, x, alpha, sigma), x, alpha, sigma), x0, rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_kinds_by_their_definitions(schedule):
    x0, eps = normal(6, 2), normal(6, 2, seed=1)
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    alpha, sigma = schedule.at(t, x0)
    x = alpha * x0 + sigma * eps
    said = {kind: from_x0(kind, x0, x, alpha, sigma) for kind in KINDS}
    expected = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -eps / sigma}
    for kind in KINDS:
        torch.testing.assert_close(said[kind], expected[kind], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(to_x0(kind, expected[kind], x, alpha, sigma), x0, rtol=1e-9, atol=1e-9)


def test_v_is_x_turned_by_a_right_angle():
    """For a variance-preserving schedule (x, v) is (x0, eps) turned by the angle phi = atan2(sigma, alpha)."""
    schedule = CosineSchedule(None)
    x0, eps = normal(5, 2), normal(5, 2, seed=1)
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = schedule.at(t, x0)
        x = alpha * x0 + sigma * eps
        v = from_x0("v", x0, x, alpha, sigma)
        torch.testing.assert_close(x**2 + v**2, x0**2 + eps**2)
        torch.testing.assert_close(sigma * x + alpha * v, eps)
        h = 1e-6  # v is dx / dphi along the circle, and phi = pi t / 2
        ahead, behind = (schedule.add_noise(x0, t + d, eps) for d in (h, -h))
        torch.testing.assert_close((ahead - behind) / (2 * h) / (math.pi / 2), v, rtol=1e-7, atol=1e-7)


def test_the_score_is_the_gradient_of_the_conditional():
    """Given x0, x_t is N(alpha x0, sigma^2 I): the score of that density by autograd is the "score" target."""
    schedule, x0 = LinearSchedule(), normal(5, 2)
    alpha, sigma = schedule.at(0.4, x0)
    x = schedule.add_noise(x0, 0.4, normal(5, 2, seed=1)).requires_grad_()
    torch.distributions.Normal(alpha * x0, sigma.expand_as(x0)).log_prob(x).sum().backward()
    torch.testing.assert_close(from_x0("score", x0, x.detach(), alpha, sigma), x.grad)


def test_unknown_kinds_are_named():
    x = torch.zeros(1, 2)
    for call in (
        lambda: to_x0("epsilon", x, x, 1.0, 1.0),
        lambda: from_x0("noise", x, x, 1.0, 1.0),
        lambda: Denoiser(nn.Identity(), LinearSchedule(), "velocity"),
    ):
        with pytest.raises(ValueError, match="a network predicts one of eps, x0, v, score"):
            call()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_any_kind_is_the_same_denoiser(schedule, kind):
    mixture = GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], 0.3, [1, 2])
    net = Exact(mixture, schedule, kind)
    denoiser, denoise = Denoiser(net, schedule, kind), mixture.denoiser(schedule)
    x = normal(5, 2)
    one_time = torch.tensor(0.37, dtype=torch.float64)
    for t in (0.37, one_time, one_time[None], torch.linspace(0.1, 0.9, 5, dtype=torch.float64)):
        torch.testing.assert_close(denoiser(x, t), denoise(x, t), rtol=1e-7, atol=1e-7)
        assert net.seen[-1][0].shape == (5,)  # a network always gets one time for each sample
    labels = torch.arange(5)
    denoiser(x, 0.5, labels)
    assert net.seen[-1][1] is labels


def test_dtype_is_that_of_x():
    denoiser = Denoiser(nn.Linear(2, 2), LinearSchedule())
    denoiser.net.forward = lambda x, t, y: torch.zeros_like(x) + t[:, None]
    assert denoiser(normal(3, 2).float(), 0.5).dtype == torch.float32
    assert denoiser(normal(3, 2), 0.5).dtype == torch.float64


# what is left to say about the target when x_t is known: the loss of the best possible network, for N(m, s^2)
S = 0.5
LEAST = {
    "eps": lambda a, s: a**2 * S**2 / (a**2 * S**2 + s**2),
    "x0": lambda a, s: s**2 * S**2 / (a**2 * S**2 + s**2),
    "v": lambda a, s: (a**2 + s**2) ** 2 * S**2 / (a**2 * S**2 + s**2),
    "score": lambda a, s: a**2 * S**2 / (a**2 * S**2 + s**2) / s**2,
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_the_exact_denoiser_is_the_conditional_variance(schedule, kind):
    mixture = GaussianMixture([[0.3]], S)
    net = Exact(mixture, schedule, kind)
    n = 40_000
    x0, noise = 0.3 + S * normal(n, 1), normal(n, 1, seed=1)
    for t in (0.1, 0.5, 0.9):
        times = torch.full((n,), t, dtype=torch.float64)
        loss = diffusion_loss(Denoiser(net, schedule, kind), x0, t=times, noise=noise).item()
        least = LEAST[kind](schedule.alpha(t).item(), schedule.sigma(t).item())
        assert loss == pytest.approx(least, rel=5 * math.sqrt(2 / n))


def test_the_loss_is_the_papers_equation_14():
    schedule = LinearSchedule()
    net = nn.Linear(2, 2).double()
    net.forward = lambda x, t, y: torch.sin(3 * x) * t[:, None]
    x0, noise = normal(7, 2), normal(7, 2, seed=1)
    k = torch.tensor([1, 2, 10, 100, 500, 999, 1000])
    alpha_bar = schedule.alpha_bar[k][:, None]
    x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    expected = ((noise - net(x, k / 1000, None)) ** 2).mean()
    loss = diffusion_loss(Denoiser(net, schedule), x0, t=k.double() / 1000, noise=noise)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        diffusion_loss(Denoiser(lambda_net(lambda x, t, y: 0 * x), schedule), x0, t=k / 1000, noise=noise),
        noise.square().mean(),
    )


def lambda_net(function):
    net = nn.Identity()
    net.forward = function
    return net


def test_one_time_for_each_sample_and_every_level_is_drawn():
    """A spy on the network: levels 1..T all come, 0 never, labels pass unchanged, and the noise is standard normal."""
    T, seen = 10, []
    schedule = LinearSchedule(T, 1e-3, 0.5)
    net = lambda_net(lambda x, t, y: seen.append((x, t, y)) or x)
    labels, x0 = torch.arange(4000), torch.zeros(4000, 1)
    torch.manual_seed(0)
    diffusion_loss(Denoiser(net, schedule), x0, labels)
    ((x, t, y),) = seen
    assert y is labels
    levels = (t * T).round().long()
    assert levels.unique().tolist() == list(range(1, T + 1))
    eps = x[:, 0] / schedule.sigma(t)
    assert eps.mean().item() == pytest.approx(0, abs=4 / math.sqrt(4000))
    assert eps.std().item() == pytest.approx(1, rel=4 / math.sqrt(8000))
    assert (eps**4).mean().item() == pytest.approx(3, abs=4 * math.sqrt(96 / 4000))  # normal, not uniform


def test_gradients_reach_the_network():
    net = nn.Linear(2, 2)
    linear = lambda_net(lambda x, t, y: net(x))
    diffusion_loss(Denoiser(linear, LinearSchedule()), torch.ones(8, 2)).backward()
    assert net.weight.grad.abs().sum() > 0


def test_one_time_for_all_is_a_time_for_each():
    schedule, seen = LinearSchedule(), []
    net = lambda_net(lambda x, t, y: seen.append(t) or x)
    x0, noise = normal(4, 2), normal(4, 2, seed=1)
    one = diffusion_loss(Denoiser(net, schedule), x0, t=0.25, noise=noise)
    each = diffusion_loss(Denoiser(net, schedule), x0, t=torch.full((4,), 0.25, dtype=torch.float64), noise=noise)
    torch.testing.assert_close(one, each)
    assert [t.shape for t in seen] == [(4,), (4,)]


def test_there_is_nothing_to_learn_at_time_0():
    x0 = normal(4, 2)
    denoiser = Denoiser(lambda_net(lambda x, t, y: x), LinearSchedule())
    for t in (0.0, torch.tensor([0.5, 0.0, 0.5, 0.5])):
        with pytest.raises(ValueError, match="at t = 0 there is no noise to predict"):
            diffusion_loss(denoiser, x0, t=t)
    assert diffusion_loss(denoiser, x0, t=1e-3).isfinite()


def test_a_plain_function_has_no_loss():
    exact = GaussianMixture([[0.0, 0.0]], 1.0).denoiser(LinearSchedule())
    for model in (exact, nn.Linear(2, 2)):
        with pytest.raises(TypeError, match=r"give a Denoiser\(net, schedule\)"):
            diffusion_loss(model, normal(4, 2))


def test_bytes_are_no_samples():
    denoiser = Denoiser(lambda_net(lambda x, t, y: x), LinearSchedule())
    with pytest.raises(TypeError, match=r"a tensor of floats, not torch.uint8; `data.to_float` makes floats"):
        diffusion_loss(denoiser, torch.zeros(4, 1, 28, 28, dtype=torch.uint8))
