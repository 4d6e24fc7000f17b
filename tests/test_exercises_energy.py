"""The references of chapter 1's exercises against closed forms, and its oracles."""

import math

import pytest
import torch

from course_utils.exercises import EXERCISES
from course_utils.exercises.energy import ToyEnergy, gaussian_energy, gaussian_score


def reference(name):
    return EXERCISES[f"energy.{name}"].reference


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def toy(seed=0):
    return ToyEnergy(torch.Generator().manual_seed(seed)).requires_grad_(False)


def test_the_toys_score_is_its_energys_gradient():
    for x in (normal(4, 3), normal(2, 3, 2, 4)):
        close(toy().score(x), reference("score")(toy(), x))


def test_the_oracles_are_one_gaussian():
    x = normal(5, 2)
    close(gaussian_score(0.3, 0.5)(x), reference("score")(gaussian_energy(0.3, 0.5), x))


@pytest.mark.parametrize("constant", [0.0, 2000.0, -2000.0])
def test_the_log_density_of_a_gaussian(constant):
    """By the midpoint rule, which is exact to rounding for a Gaussian that the grid holds whole."""
    line = torch.linspace(-5, 5, 201, dtype=torch.float64)
    grid, x = torch.cartesian_prod(line, line), normal(6, 2)
    energy = gaussian_energy(0.3, 0.5)
    log_p = reference("log_density")(lambda x: energy(x) + constant, x, grid, (line[1] - line[0]).item() ** 2)
    exact = -2 * math.log(0.5 * math.sqrt(2 * math.pi)) - ((x - 0.3) ** 2).sum(1) / (2 * 0.5**2)
    close(log_p, exact)


@pytest.mark.parametrize("step", [0.05, 0.2, 0.4])
def test_a_chain_on_a_gaussian_stops_at_the_variance_that_theory_says(step):
    """s^2 / (1 - step / (2 s^2)): the chain is linear, so a noise's share of the variance is its response squared."""
    s, n = 0.5, 400
    impulses = torch.eye(n, dtype=torch.float64)[:, :, None]  # chain j of n is kicked in step j only
    end = reference("langevin")(gaussian_score(0.0, s), torch.zeros(n, 1, dtype=torch.float64), step, impulses)
    close(end.square().sum(), torch.tensor(s**2 / (1 - step / (2 * s**2)), dtype=torch.float64), 1e-7)
    mixed = EXERCISES["energy.langevin"].misconceptions["conventions_mixed"]
    colder = mixed(gaussian_score(0.0, s), torch.zeros(n, 1, dtype=torch.float64), step, impulses)
    close(2 * colder.square().sum(), end.square().sum())  # as its sentence says: half the variance


def test_accepting_is_in_detailed_balance():
    """p(x) q(x' | x) a(x -> x') is the same both ways round, whatever the two states are."""
    energy, x, proposal, step, u = toy(), 2 * normal(50, 3), 2 * normal(50, 3, seed=1), 0.7, uniform(50)

    def flow(x, proposal):
        _, log_accept = reference("metropolis")(energy, energy.score, x, proposal, step, u)
        q = torch.distributions.Normal(x + step * energy.score(x), math.sqrt(2 * step))
        return -energy(x) + q.log_prob(proposal).sum(1) + log_accept

    close(flow(x, proposal), flow(proposal, x))


def test_a_state_moves_as_often_as_it_is_accepted():
    x, proposal = (torch.tensor([p]).double().expand(20000, 2) for p in ([1.5, 0.8], [0.5, 0.2]))
    moved, log_accept = reference("metropolis")(toy(), toy().score, x, proposal, 0.5, uniform(20000))
    share = (moved == proposal).all(1).double().mean().item()
    p = log_accept[0].exp().item()
    assert 0.05 < p < 0.95 and abs(share - p) < 4 * math.sqrt(p * (1 - p) / 20000)


def test_contrastive_divergence_moves_an_exponential_family_by_its_moments():
    """E = theta . f(x): its gradient is the data's mean of f less the samples' (Hinton 2002)."""

    class Family(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([0.4, 0.7], dtype=torch.float64))

        def forward(self, x):
            return torch.stack([x.sum(1), x.square().sum(1)], 1) @ self.weight

    energy, data, samples = Family(), normal(9, 2), 2 * normal(5, 2, seed=1)
    loss = reference("contrastive_divergence")(energy, data, samples, 0.0)
    gradient = torch.autograd.grad(loss, energy.weight)[0]
    moments = [torch.stack([x.sum(1).mean(), x.square().sum(1).mean()]) for x in (data, samples)]
    close(gradient, moments[0] - moments[1])


def test_the_buffer_keeps_what_was_not_drawn():
    buffer, index, fresh = normal(9, 2), torch.tensor([7, 0, 4]), normal(3, 2, seed=1)
    u = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    samples, new = reference("replay_step")(buffer, index, fresh, u, 0.5, lambda x: x + 10)
    close(samples, torch.stack([fresh[0], buffer[0], buffer[4]]) + 10)
    close(new[index], samples)
    rest = torch.tensor([1, 2, 3, 5, 6, 8])
    close(new[rest], buffer[rest])


def test_two_gaussians_multiply_to_a_third_and_add_up_to_a_mixture():
    x = normal(6, 1)
    both, either = reference("compose")(gaussian_energy(-1.0, 0.5), gaussian_energy(2.0, 0.8), x)
    precision = 0.5**-2 + 0.8**-2
    third = gaussian_energy((-1.0 / 0.5**2 + 2.0 / 0.8**2) / precision, precision**-0.5)(x)
    close(both - both[0], third - third[0])  # but for a constant
    kernel = [torch.exp(-((x[:, 0] - m) ** 2) / (2 * s**2)) for m, s in ((-1.0, 0.5), (2.0, 0.8))]
    close(torch.exp(-either), kernel[0] + kernel[1])


def test_the_mended_chain_has_the_gaussians_width_and_the_given_one_has_not():
    """Standard error of a width from 4,000 chains: 0.5 / sqrt(8000) = 0.0056."""
    exercise, n = EXERCISES["energy.fix_the_chain"], 60
    inputs = gaussian_energy(0.3, 0.5), gaussian_score(0.3, 0.5), normal(4000, 1), 0.3
    noise, u = normal(n, 4000, 1, seed=1), uniform(n, 4000, seed=2)
    mended, given = (f(*inputs, noise, u) for f in (exercise.reference, exercise.misconceptions["as_given"]))
    assert abs(mended.mean() - 0.3) < 0.03 and abs(mended.std() - 0.5) < 0.025
    assert abs(given.std() - 0.5) > 0.1
