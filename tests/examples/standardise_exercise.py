"""An exercise as one object: the example of book/contributing.md."""

import torch

from course_utils.exercises.exercise import Exercise

standardise = Exercise(
    "standardise.standardise",
    title="Points around zero",
    points=1,
    contract="standardise(x) is x (N, D) less the mean of each column, divided by each column's standard deviation "
    "(the one that divides by N), in x's dtype.",
    section="standardising",
    returns="z",
)


@standardise.solution
def _(x):
    return (x - x.mean(0)) / x.std(0, correction=0)


@standardise.inputs
def _(g):
    yield "a few points", {"x": 3 + 2 * torch.randn(7, 2, generator=g)}
    yield "as many points as columns", {"x": torch.randn(3, 3, generator=g)}
    yield "float64", {"x": torch.randn(5, 4, dtype=torch.float64, generator=g)}


@standardise.misconception("The columns are divided by their variance: divide by its square root.")
def divided_by_the_variance(x):
    return (x - x.mean(0)) / x.var(0, correction=0)


@standardise.misconception("The mean is not taken away.")
def not_centred(x):
    return x / x.std(0, correction=0)


@standardise.misconception("The mean is that of all numbers: each column has its own.")
def one_mean_for_all(x):
    return (x - x.mean()) / x.std(0, correction=0)


@standardise.misconception("The rows are standardised: a column is one quantity, and has its own mean and spread.")
def row_by_row(x):
    return ((x.T - x.mean(1)) / x.std(1, correction=0)).T


@standardise.misconception("torch's std divides by N - 1 unless told otherwise: correction=0 divides by N.")
def divided_by_n_less_one(x):
    return (x - x.mean(0)) / x.std(0)


@standardise.misconception("The mean is taken away after the division: it has to be divided as well.")
def centred_too_late(x):
    return x / x.std(0, correction=0) - x.mean(0)


@standardise.equivalent
def with_numpy(x):
    import numpy as np  # here, as in a notebook's cell: an answer is judged by its own text

    x = x.numpy()
    return torch.from_numpy((x - np.mean(x, 0)) / np.std(x, 0))


@standardise.equivalent
def column_by_column(x):
    columns = []
    for column in x.T:
        centred = column - column.mean()
        columns.append(centred / centred.square().mean().sqrt())
    return torch.stack(columns, 1)


@standardise.equivalent
def from_moments(x):
    mean = x.mean(0)
    return (x - mean) * ((x - mean) ** 2).mean(0) ** -0.5
