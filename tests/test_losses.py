"""Losses without a partition function: each against the exact Fisher divergence or the exact gradient of log p."""

import math

import pytest
import torch
from torch import nn

from course_utils.energy import EnergyNet, grid, grid_kl, log_density, score_of
from course_utils.langevin import langevin, mala
from course_utils.losses import (
    ReplayBuffer,
    contrastive_divergence,
    denoising_score_matching,
    divergence,
    explicit_score_matching,
    implicit_score_matching,
    persistent_loss,
    sliced_score_matching,
)
from course_utils.mixtures import GaussianMixture
from course_utils.training import batches, fit

GAUSSIAN = GaussianMixture([[0.5, -0.3]], 0.6)
MIXTURE = GaussianMixture([[-1.2, 0.4], [0.8, 0.9], [0.5, -1.1]], [0.3, 0.4, 0.35], [3, 2, 1])
POINTS, CELL = grid(-6, 6, 200)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def wrong(exact, shift=0.4, scale=0.8):
    """A score that is wrong in a way that parameters measure."""
    return lambda x: scale * exact.score(x) + shift * torch.stack([torch.sin(x[:, 1]), x[:, 0].cos()], 1)


def zero(x):
    return 0 * x


def expectation(exact, f):
    """E f(x) over the exact density, by quadrature."""
    return (exact.log_prob(POINTS).exp() @ f(POINTS) * CELL).item()


def fisher(exact, score):
    return expectation(exact, lambda x: (score(x) - exact.score(x)).square().sum(1) / 2)


def second_moment(exact):
    return expectation(exact, lambda x: exact.score(x).square().sum(1) / 2)


def mean_and_error(loss, x, parts=50):
    """The loss of `parts` equal parts of x: their mean and its standard error."""
    values = torch.stack([loss(part, k).detach() for k, part in enumerate(x.chunk(parts))])
    assert values.shape == (parts,)  # scalars
    return values.mean().item(), values.std().item() / math.sqrt(parts)


ESTIMATORS = {
    "implicit": lambda s: lambda x, k: implicit_score_matching(s, x),
    "sliced": lambda s: lambda x, k: sliced_score_matching(s, x, torch.randn(1, *x.shape, generator=seeded(k)).to(x)),
    "sliced_plain": lambda s: (
        lambda x, k: sliced_score_matching(
            s, x, torch.randn(1, *x.shape, generator=seeded(k)).to(x), variance_reduced=False
        )
    ),
    "sliced_signs": lambda s: lambda x, k: sliced_score_matching(s, x, signs(3, *x.shape, seed=k)),
}


def signs(*shape, seed):
    return torch.randint(0, 2, shape, generator=seeded(seed)).double() * 2 - 1


# ---- score matching


@pytest.mark.parametrize("exact", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("make", [wrong, lambda exact: exact.score, lambda exact: zero], ids=["wrong", "exact", "zero"])
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_estimators_agree_with_the_fisher_divergence(estimator, make, exact):
    """J = loss + E |grad log p|^2 / 2, within four standard errors; and these are small enough to tell scores apart."""
    score, x = make(exact), exact.sample(20_000, seeded(1)).double()
    loss, error = mean_and_error(estimator(score), x)
    J = fisher(exact, score)
    assert loss + second_moment(exact) == pytest.approx(J, abs=4 * error + 1e-6)
    assert error < 0.05 * second_moment(exact)  # a zero or negated loss, or one without its 1 / 2, is seen
    if make is wrong:
        assert abs(J) > 0.05


@pytest.mark.parametrize("exact", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_the_explicit_loss_is_the_fisher_divergence(exact):
    x, score = exact.sample(20_000, seeded(1)).double(), wrong(exact)
    loss, error = mean_and_error(lambda part, k: explicit_score_matching(score, part, exact.score), x)
    assert loss == pytest.approx(fisher(exact, score), abs=4 * error)
    assert error < 0.05 * fisher(exact, score)
    assert explicit_score_matching(exact.score, x, exact.score) == 0


@pytest.mark.parametrize("sigma", [0.2, 1.0])
@pytest.mark.parametrize("exact", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_denoising_matches_the_score_of_the_noised_data(exact, sigma):
    """Vincent 2011: DSM = J(p_sigma) + (E |z / sigma|^2 - E |grad log p_sigma|^2) / 2, and E |z|^2 = 2 here."""
    noised, x0 = exact.noised(1.0, sigma), exact.sample(20_000, seeded(1)).double()
    constant = 1 / sigma**2 - second_moment(noised)
    for score in (wrong(noised), noised.score, zero):
        expected = fisher(noised, score) + constant
        noise = normal(*x0.shape, seed=4)
        both = torch.stack([x0, noise], 1)
        for weight, weighted in ((1, False), (sigma**2, True)):
            loss, error = mean_and_error(
                lambda part, k, s=score, w=weighted: denoising_score_matching(
                    s, part[:, 0], sigma, part[:, 1], weighted=w
                ),
                both,
            )
            assert loss == pytest.approx(weight * expected, abs=4 * error)
            assert error < 0.05 * loss


def test_sigma_for_each_sample():
    x0, noise = normal(3, 1, 2, 2), normal(3, 1, 2, 2, seed=1)
    sigma = torch.tensor([0.1, 0.5, 2.0]).double()
    seen = []

    def score(x):
        seen.append(x)
        return -x

    for weighted in (False, True):
        each = [
            denoising_score_matching(lambda x: -x, x0[k : k + 1], s, noise[k : k + 1], weighted)
            for k, s in enumerate(sigma.tolist())
        ]
        together = denoising_score_matching(score, x0, sigma, noise, weighted)
        torch.testing.assert_close(together, torch.stack(each).mean())
        torch.testing.assert_close(seen[-1], x0 + sigma.reshape(3, 1, 1, 1) * noise)


def test_noise_and_directions_are_drawn_where_none_are_given():
    torch.manual_seed(0)
    x, noised = MIXTURE.sample(20_000, seeded(1)).double(), MIXTURE.noised(1.0, 0.5)
    loss, error = mean_and_error(lambda part, k: denoising_score_matching(noised.score, part, 0.5), x)
    assert loss == pytest.approx(1 / 0.5**2 - second_moment(noised), abs=4 * error)
    loss, error = mean_and_error(lambda part, k: sliced_score_matching(wrong(MIXTURE), part), x)
    assert loss == pytest.approx(fisher(MIXTURE, wrong(MIXTURE)) - second_moment(MIXTURE), abs=4 * error)


def test_the_minimiser_of_every_loss_is_the_score():
    """score = -a (x - m) with parameters: on N(m, s^2) the gradient is zero at a = 1 / s^2 and points there."""
    exact, x = GaussianMixture([[0.5]], 0.6), GaussianMixture([[0.5]], 0.6).sample(50_000, seeded(1)).double()
    noise = normal(len(x), 1, seed=2)
    directions = signs(1, *x.shape, seed=3)
    losses = {
        "explicit": (lambda s: explicit_score_matching(s, x, exact.score), 0.36),
        "implicit": (lambda s: implicit_score_matching(s, x), 0.36),
        "sliced": (lambda s: sliced_score_matching(s, x, directions), 0.36),
        "denoising": (lambda s: denoising_score_matching(s, x, 0.8, noise), 0.36 + 0.64),
    }
    for name, (loss, variance) in losses.items():
        gradients = []
        for a in (0.9 / variance, 1 / variance, 1.1 / variance):
            a = torch.tensor(a, dtype=torch.float64, requires_grad=True)
            gradients.append(torch.autograd.grad(loss(lambda x, a=a: -a * (x - 0.5)), a)[0].item())
        below, at, above = gradients
        assert below < -0.02 and above > 0.02 and abs(at) < 0.02, (name, gradients)


def test_second_derivatives_reach_the_parameters_of_an_energy():
    """E = a |x|^2 / 2: the implicit loss of -grad E is -2 a + a^2 mean |x|^2 / 2, and so is its gradient by a."""
    x, a = normal(50, 2), torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    loss = implicit_score_matching(score_of(lambda x: a * x.square().sum(1) / 2), x)
    mean2 = x.square().sum(1).mean()
    torch.testing.assert_close(loss, -2 * a + a**2 * mean2 / 2)
    torch.testing.assert_close(torch.autograd.grad(loss, a)[0], -2 + a.detach() * mean2)


# ---- the divergence


def test_divergence_of_known_fields():
    x = normal(6, 3)
    A = normal(3, 3, seed=1)
    f, div = divergence(lambda x: x @ A.T, x)
    torch.testing.assert_close(f, x @ A.T)
    torch.testing.assert_close(div, A.trace().expand(6))
    _, div = divergence(lambda x: x**3, x)
    torch.testing.assert_close(div, (3 * x**2).sum(1))
    pictures = normal(2, 1, 3, 3)
    torch.testing.assert_close(divergence(lambda x: x**2, pictures)[1], (2 * pictures).sum((1, 2, 3)))
    constant = torch.zeros(3, dtype=torch.float64, requires_grad=True)  # as the bias of a network whose rest is zero
    torch.testing.assert_close(divergence(lambda x: constant.expand_as(x), x)[1], torch.zeros(6).double())


def test_divergence_by_directions():
    """v^T J v exactly, and for a symmetric field of signs the average over all of them is the trace."""
    x, A = normal(4, 2), normal(2, 2, seed=1)
    v = normal(1, 4, 2, seed=2)
    torch.testing.assert_close(divergence(lambda x: x @ A.T, x, v)[1], torch.einsum("bi,ij,bj->b", v[0], A, v[0]))
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 2)[:, None].expand(4, 4, 2)
    torch.testing.assert_close(divergence(lambda x: x @ A.T, x, every)[1], A.trace().expand(4))


def test_divergence_leaves_no_graph_under_no_grad():
    net = nn.Linear(2, 2)
    with torch.no_grad():
        assert not any(part.requires_grad for part in divergence(net, normal(3, 2).float()))
    assert all(part.requires_grad for part in divergence(lambda x: net(x).sin(), normal(3, 2).float()))


def test_scores_that_cannot_be_differentiated():
    x = normal(3, 2)
    for loss in (implicit_score_matching, sliced_score_matching):
        with pytest.raises(ValueError, match="the field has no gradient: was it computed under no_grad, or detached?"):
            loss(lambda x: x.detach(), x)
        with pytest.raises(ValueError, match="x has shape .* but field"):
            loss(lambda x: x.sum(1, keepdim=True), x)


@pytest.mark.parametrize("wrong", [lambda x: x[:, 0], lambda x: x[:, :1]], ids=["(B,)", "(B, 1)"])
def test_scores_of_another_shape(wrong):
    x = normal(3, 2)
    for loss, args in (
        (explicit_score_matching, (wrong, x, zero)),
        (explicit_score_matching, (zero, x, wrong)),
        (denoising_score_matching, (wrong, x, 0.5)),
    ):
        with pytest.raises(ValueError, match="score has shape"):
            loss(*args)


def test_directions_of_another_shape():
    x = normal(3, 2)
    with pytest.raises(ValueError, match=r"directions have shape \(3, 2\); give \(K, 3, 2\), v\[None\] for one each"):
        sliced_score_matching(zero, x, directions=normal(3, 2))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, torch.ones(2), torch.ones(3, 1)], ids=str)
def test_noise_levels_that_are_none(sigma):
    with pytest.raises(ValueError, match="sigma is above 0, one number or one for each of the 3 samples"):
        denoising_score_matching(zero, normal(3, 2), sigma)


# ---- contrastive divergence


def test_its_gradient_is_that_of_the_negative_log_likelihood():
    """E = a |x|^2 / 2, Z known: d/da of mean E(data) + log Z is E_data |x|^2 / 2 - 1 / a, for exact model samples."""
    data, a, n = GAUSSIAN.sample(50_000, seeded(1)).double(), 1.7, 50_000
    parameter = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    samples = normal(n, 2) / math.sqrt(a)
    loss = contrastive_divergence(lambda x: parameter * x.square().sum(1) / 2, data, samples)
    (gradient,) = torch.autograd.grad(loss, parameter)
    expected = data.square().sum(1).mean().item() / 2 - 1 / a
    assert abs(expected) > 0.05
    assert gradient.item() == pytest.approx(expected, abs=4 / a / math.sqrt(n))


def test_it_pushes_the_energy_of_data_down_and_of_samples_up():
    levels = torch.zeros(2, requires_grad=True)  # the energy of x < 0 and of x > 0
    loss = contrastive_divergence(lambda x: levels[(x[:, 0] > 0).long()], -torch.ones(3, 1), torch.ones(5, 1))
    assert torch.equal(torch.autograd.grad(loss, levels)[0], torch.tensor([1.0, -1.0]))


def test_no_gradient_reaches_the_samples_but_the_data_may_have_one():
    x, y = (normal(3, 2, seed=s).requires_grad_() for s in (1, 2))
    contrastive_divergence(lambda x: x.square().sum(1), x, y).backward()
    assert y.grad is None and x.grad is not None


def test_the_regulariser_is_the_mean_square():
    x, y = normal(4, 2), normal(6, 2, seed=1)

    def energy(x):
        return x.sum(1)

    plain = x.sum(1).mean() - y.sum(1).mean()
    expected = plain + 0.3 * (x.sum(1).square().mean() + y.sum(1).square().mean())
    torch.testing.assert_close(contrastive_divergence(energy, x, y), plain)
    torch.testing.assert_close(contrastive_divergence(energy, x, y, l2=0.3), expected)


@pytest.mark.parametrize("slope", [1e6, -1e6, math.nan])
def test_energies_that_ran_apart(slope):
    with pytest.raises(FloatingPointError, match="the energies of data .* and samples .* ran apart: lower lr"):
        contrastive_divergence(lambda x: slope * x[:, 0], torch.zeros(3, 2), torch.ones(3, 2))


# ---- the buffer


def test_chains_go_on_where_they_were():
    buffer = ReplayBuffer(lambda n: torch.zeros(n, 2), size=10, restart=0.0)
    index, x = buffer.draw(4)
    assert index.unique().numel() == 4 and torch.equal(x, torch.zeros(4, 2))
    state = normal(4, 2).float().requires_grad_()
    buffer.put(index, state)
    assert torch.equal(buffer.x[index], state) and not buffer.x.requires_grad
    others = torch.ones(10, dtype=torch.bool)
    others[index] = False
    assert torch.equal(buffer.x[others], torch.zeros(6, 2))
    x += 1  # what was drawn is a copy
    assert torch.equal(buffer.x[index], state)
    again, y = buffer.draw(10)
    assert torch.equal(again.sort().values, torch.arange(10)) and torch.equal(y, buffer.x[again])


@pytest.mark.parametrize("restart", [0.0, 0.2, 1.0])
def test_the_fraction_that_starts_anew(restart):
    fresh = [torch.zeros(5000, 1)]
    buffer = ReplayBuffer(lambda n: fresh[0][:n] if fresh else torch.ones(n, 1), 5000, restart, seeded(1))
    fresh.clear()  # from now on fresh states are ones
    _, x = buffer.draw(5000)
    error = 4 * math.sqrt(restart * (1 - restart) / 5000)
    assert x.mean().item() == pytest.approx(restart, abs=error)
    assert buffer.x.sum() == 0  # drawing alone stores nothing


def test_buffers_that_are_none():
    for size, restart in ((0, 0.1), (5, -0.1), (5, 1.1)):
        with pytest.raises(ValueError, match="size = .* restart = .* a probability"):
            ReplayBuffer(lambda n: torch.zeros(n, 2), size, restart)
    buffer = ReplayBuffer(lambda n: torch.zeros(n, 2), 5)
    for n in (0, 6):
        with pytest.raises(ValueError, match=f"{n} chains asked for, but the buffer holds 5"):
            buffer.draw(n)
    with pytest.raises(ValueError, match="walk at temperature 1"):
        persistent_loss(buffer, 0.1, 1, temperature=0.5, metropolis=True)


# ---- training


class Quadratic(nn.Module):
    """a |x - m|^2 / 2: a family that holds the data's density."""

    def __init__(self):
        super().__init__()
        self.log_a, self.m = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.log_a.exp().to(x) * (x - self.m.to(x)).square().sum(1) / 2


@pytest.mark.parametrize("metropolis", [False, True])
def test_persistent_chains_find_the_maximum_of_likelihood(metropolis):
    """On N(m, s^2 I) the mean is found, and the precision but for the bias of plain Langevin's step, which is known."""
    torch.manual_seed(0)
    x, step = GAUSSIAN.sample(4000, seeded(1)), 0.1
    buffer = ReplayBuffer(lambda n: torch.randn(n, 2), 1000, 0.0)
    loss = persistent_loss(buffer, step, 5, metropolis=metropolis)
    model, _ = fit(Quadratic(), loss, batches(x, 1000), 250, lr=0.05, ema_decay=0.97, progress=False)
    torch.testing.assert_close(model.m, GAUSSIAN.mean.float(), atol=0.05, rtol=0)
    # plain chains at precision a have the variance 1 / (a (1 - a step / 2)); training makes that the data's
    exact = 1 / 0.36
    biased = (1 - math.sqrt(1 - 2 * step * exact)) / step
    assert biased > 1.2 * exact
    assert model.log_a.exp().item() == pytest.approx(exact if metropolis else biased, rel=0.1)


@pytest.mark.parametrize("metropolis", [False, True])
def test_the_chains_of_training_are_those_of_the_samplers(metropolis):
    net, x = EnergyNet(width=8), normal(4, 2).float()
    start = normal(4, 2, seed=3).float()
    buffer = ReplayBuffer(lambda n: start[:n].clone(), 4, 0.0, seeded(5))
    torch.manual_seed(2)
    loss = persistent_loss(buffer, 0.01, 3, l2=0.1, metropolis=metropolis)(net, x)
    index = torch.randperm(4, generator=seeded(5))
    torch.manual_seed(2)
    torch.rand(4, generator=seeded(5))
    chain = mala(net, start[index], 0.01, 3) if metropolis else langevin(score_of(net), start[index], 0.01, 3)
    *_, state = chain
    state = state[0] if metropolis else state
    torch.testing.assert_close(buffer.x[index], state)
    torch.testing.assert_close(loss, contrastive_divergence(net, x, state, 0.1))


def test_a_network_comes_closer_to_a_mixture():
    """Two modes that touch: KL(exact || model) by quadrature, far below that of the Gaussian with the same moments."""
    torch.manual_seed(0)
    exact = GaussianMixture([[-0.8, 0.0], [0.8, 0.3]], 0.45, [2, 1])
    net, points = EnergyNet(width=32, depth=2), grid(-5, 5, 100)
    log_p = exact.log_prob(points[0])
    buffer = ReplayBuffer(lambda n: torch.randn(n, 2), 256, 0.01)
    before = grid_kl(log_p, log_density(net, *points), points[1])
    loss = persistent_loss(buffer, 0.03, 5)
    model, _ = fit(net, loss, batches(exact.sample(4000, seeded(1)), 256), 300, 2e-3, 0.98, progress=False)
    assert grid_kl(log_p, log_density(model, *points), points[1]) < min(0.15, before / 4)
