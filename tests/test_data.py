"""Two-dimensional data: scikit-learn's, standardised, and truly drawn from the mixture that is shown as its truth."""

import math

import numpy as np
import pytest
import torch
from sklearn import datasets
from two_sample import energy_test

from course_utils.data import NOISE, TOY_SETS, toy_2d, toy_mixture, unstandardise


@pytest.mark.parametrize("name", TOY_SETS)
def test_standardised(name):
    x = toy_2d(name, 20_000, seed=0)
    assert x.shape == (20_000, 2) and x.dtype == torch.float32
    assert x.mean(0).abs().max() < 4 * 1.5 / math.sqrt(20_000)
    assert x.var(0).mean().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", NOISE)
def test_the_exact_distribution_is_standardised_exactly(name):
    exact = toy_mixture(name)
    assert exact.mean.abs().max() < 1e-9
    assert exact.covariance.diagonal().mean().item() == pytest.approx(1, rel=1e-9)
    assert exact.std.unique().numel() == 1  # one scale for both axes keeps the noise round


@pytest.mark.parametrize("name", NOISE)
def test_the_exact_distribution_in_original_coordinates(name):
    """The same density, seen through the map back: p(map(x)) scale^2 = p_standardised(x)."""
    x = toy_2d(name, 50, seed=0).double()
    original = toy_mixture(name, standardised=False)
    assert original.std[0].item() == pytest.approx(NOISE[name])
    scale = (unstandardise(name, torch.eye(2).double()).diff(dim=0).norm() / math.sqrt(2)).item()
    log_prob = original.log_prob(unstandardise(name, x)) + 2 * math.log(scale)
    torch.testing.assert_close(log_prob, toy_mixture(name).log_prob(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NOISE)
def test_the_mixture_is_the_distribution_of_the_data(name):
    n = 1000
    assert energy_test(toy_2d(name, n, seed=0), toy_mixture(name).sample(n, torch.Generator().manual_seed(1))) < 1


@pytest.mark.parametrize("name", NOISE)
def test_the_data_are_as_likely_as_the_mixtures_own_draws(name):
    """The mean log density of both is minus the entropy."""
    exact, n = toy_mixture(name), 4000
    data = exact.log_prob(toy_2d(name, n, seed=0).double())
    own = exact.log_prob(exact.sample(n, torch.Generator().manual_seed(1)).double())
    error = math.hypot(data.std(), own.std()) / math.sqrt(n)
    assert abs(data.mean() - own.mean()).item() < 4 * error


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("moons", datasets.make_moons, {}),
        ("circles", datasets.make_circles, {"factor": 0.5}),
        ("swiss_roll", datasets.make_swiss_roll, {}),
        ("s_curve", datasets.make_s_curve, {}),
    ],
)
def test_original_coordinates_are_scikit_learns(name, make, options):
    n = 500
    x, _ = make(n, noise=NOISE[name], random_state=np.random.RandomState(7), **options)
    ours = unstandardise(name, toy_2d(name, n, seed=7))
    np.testing.assert_allclose(ours.numpy(), x[:, [0, -1]], rtol=0, atol=2e-5)


def test_rings_of_gaussians_and_circles_have_their_radii():
    x, y = toy_2d("mixture", 4000, seed=0, return_labels=True)
    x = unstandardise("mixture", x).double()
    assert y.unique().tolist() == list(range(8))
    for k in range(8):
        centre = x[y == k].mean(0).tolist()
        expected = (math.cos(k * math.pi / 4), math.sin(k * math.pi / 4))
        assert centre == pytest.approx(expected, abs=5 * 0.1 / math.sqrt((y == k).sum()))
    x, y = toy_2d("circles", 4000, seed=0, return_labels=True)
    radius = unstandardise("circles", x).norm(dim=1)
    assert [radius[y == k].mean().item() for k in (0, 1)] == pytest.approx([1, 0.5], abs=0.01)


def test_checkerboard_is_uniform_on_its_black_squares():
    n = 16_000
    x, row = toy_2d("checkerboard", n, seed=0, return_labels=True)
    x = unstandardise("checkerboard", x).double()
    assert x.abs().max() <= 2
    square = x.floor().long() + 2  # (n, 2) in 0..3
    assert (square.sum(1) % 2 == 0).all()
    assert torch.equal(square[:, 1], row)
    counts = torch.bincount(square[:, 0] * 4 + square[:, 1])
    counts = counts[counts > 0]
    assert len(counts) == 8 and (counts - n / 8).abs().max() < 4 * math.sqrt(n / 8)
    within = x - x.floor()
    assert within.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=4 * math.sqrt(1 / 12 / n))
    assert within.std(0).tolist() == pytest.approx([math.sqrt(1 / 12)] * 2, rel=0.02)


@pytest.mark.parametrize("name", TOY_SETS)
def test_seeds_and_labels(name):
    x, y = toy_2d(name, 40, seed=3, return_labels=True)
    assert torch.equal(x, toy_2d(name, 40, seed=3))
    assert not torch.equal(x, toy_2d(name, 40, seed=4))
    assert not torch.equal(toy_2d(name, 40), toy_2d(name, 40))
    assert y.shape == (40,) and y.dtype == torch.long
    assert y.unique().tolist() == list(range(y.max() + 1)) and y.max() >= 1
    x, y = toy_2d(name, 1, return_labels=True)
    assert x.shape == (1, 2) and y.shape == (1,)


@pytest.mark.parametrize("name", TOY_SETS)
def test_standardising_is_the_same_for_every_draw(name):
    """A map of the set, not of the draw: distances keep one common ratio, and dtype and order stay."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    original = unstandardise(name, x)
    ratio = torch.cdist(original, original) / torch.cdist(x, x)
    scale = ratio[0, 1].item()
    assert ratio[0, 2].item() == pytest.approx(scale) and ratio[1, 2].item() == pytest.approx(scale)
    assert original.dtype == torch.float64 and unstandardise(name, x.float()).dtype == torch.float32
    torch.testing.assert_close((original - unstandardise(name, 0 * x)) / scale, x)


def test_bad_input_is_named():
    for call in (lambda n: toy_2d(n, 5), lambda n: unstandardise(n, torch.zeros(1, 2)), toy_mixture):
        with pytest.raises(ValueError, match="unknown data set 'moon'; the two-dimensional ones are moons, circles"):
            call("moon")
    for n in (0, -5):
        with pytest.raises(ValueError, match=f"n = {n} points asked for; give at least 1"):
            toy_2d("moons", n)
    with pytest.raises(ValueError, match="checkerboard has sharp edges"):
        toy_mixture("checkerboard")


def test_circles_are_covered_more_evenly_than_by_independent_points():
    """Pearson's statistic over four quarters of the outer circle is 3 on average for independent points."""

    def unevenness(x):
        counts = torch.bincount(2 * (x[:, 0] > 0) + (x[:, 1] > 0), minlength=4)
        return ((counts - len(x) / 4) ** 2 / (len(x) / 4)).sum().item()

    drawn = [toy_2d("circles", 4000, seed, return_labels=True) for seed in range(10)]
    assert all((y == 0).sum() == 2000 for _, y in drawn)
    assert sum(unevenness(x[y == 0]) for x, y in drawn) / 10 < 0.5
    independent = [toy_mixture("circles").sample(4000, torch.Generator().manual_seed(seed)) for seed in range(10)]
    assert sum(unevenness(x[x.norm(dim=1) > 1.3]) for x in independent) / 10 > 1
