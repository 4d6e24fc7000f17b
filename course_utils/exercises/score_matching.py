"""Exercises of chapter 2, score matching.

A score is the gradient of log p, score(x) for x (B, ...), or score(x, sigma) for the data with noise of std sigma
added: sigma is a number above 0, or (B,) with one for each sample. Noise, directions and levels are passed in.

Sources: Hyvarinen 2005; Vincent 2011; Song et al. 2019 ("Sliced score matching"); Song & Ermon 2019 (equation 6,
algorithm 1); Song et al. 2021 (algorithm 2, appendix E); Karras et al. 2022 (algorithm 1); Efron 2011 (Tweedie).
"""

import math

import torch
from torch import nn

from course_utils import losses
from course_utils.denoiser import to_x0
from course_utils.exercises.ddpm_2d import ELSEWHERE
from course_utils.exercises.energy import moved, randn, uniform
from course_utils.exercises.exercise import Exercise
from course_utils.mixtures import GaussianMixture

# ---- what the exercises are tried on ---------------------------------------------------------------------------------

SHAPES = {
    "points in the plane": ((6, 2), torch.float32),
    "a batch of one": ((1, 2), torch.float32),
    "as many points as dimensions": ((3, 3), torch.float32),
    "pictures that are not square": ((2, 2, 3, 4), torch.float32),
    "float64": ((5, 3), torch.float64),
}
POINTS = {name: kind for name, kind in SHAPES.items() if len(kind[0]) == 2}


class ScoreNet(nn.Module):
    """A stand-in for a network that says a score: score(x) for x of any shape (B, ...), each sample by itself.

    Its Jacobian is not symmetric and differs from place to place.
    """

    def __init__(self, g):
        super().__init__()
        self.weight = nn.Parameter(0.5 + torch.rand(4, generator=g))

    def forward(self, x):
        a, b, c, d = self.weight
        return a * torch.sin(b * x + c) - d * x + 0.5 * torch.sin(x).roll(1, -1) * x


class LevelNet(ScoreNet):
    """The same with noise levels: score(x, sigma)."""

    def forward(self, x, sigma):
        return super().forward(x) / (0.5 + level(sigma, x))


class PlainNet(ScoreNet):
    """One for the device "meta", where every operation is slow."""

    def forward(self, x, sigma=None):
        return -self.weight[0] * x


def level(sigma, x):
    """sigma as it multiplies x; raises ValueError, in a student's words, for another form of call."""
    if torch.is_tensor(sigma) and sigma.shape not in ((), x.shape[:1]):
        raise ValueError(f"score(x, sigma) takes sigma as a number or of shape (B,) = ({len(x)},)")
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=None if torch.is_tensor(sigma) else x.device)
    if sigma.device != x.device:
        raise ValueError(f"score(x, sigma) got x on the device {x.device} but sigma on {sigma.device}")
    if not sigma.is_meta and not (sigma > 0).all():
        raise ValueError("score(x, sigma) needs sigma above 0: without noise there is no score to ask for")
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - 1) if sigma.ndim else ())


def frozen(net):
    return net.requires_grad_(False)


def exact_score(means, std):
    """The oracle: score(x, sigma) of the equal mixture of N(means[k], std^2 I) with noise added; x (B, D)."""
    means = torch.as_tensor(means)

    def score(x, sigma):
        m, variance = means.to(x), std**2 + level(sigma, x) ** 2
        r = (-(x[:, None] - m).square().sum(2) / (2 * variance)).softmax(1)
        return (r @ m - x) / variance

    return score


def loss_and_gradient(value, inputs):
    """What is compared of a loss: its value, and its gradient at the network's weights."""
    weight = inputs["score"].weight
    if not value.requires_grad:
        return {"the loss": value, "its gradient at the network": torch.zeros_like(weight)}
    gradient = torch.autograd.grad(value, weight, allow_unused=True, materialize_grads=True)
    return {"the loss": value, "its gradient at the network": gradient[0]}


# ---- 1 ---------------------------------------------------------------------------------------------------------------

mixture_score = Exercise(
    "score_matching.mixture_score",
    title="The exact score of a mixture",
    points=3,
    contract="mixture_score(x, means, std, weights) is the gradient of log p at points x (B, D), p the mixture "
    "sum_k weights[k] N(means[k], std[k]^2 I) with means (K, D), std (K,) and weights (K,); it is finite, too, where "
    "the density itself is rounded to 0.",
    section="mixture-score",
    returns="score",
    finished=("course_utils.mixtures.GaussianMixture",),
)


@mixture_score.solution
def _(x, means, std, weights):
    return GaussianMixture(means, std, weights).score(x)


@mixture_score.inputs
def _(g):
    def inputs(B, K, D, dtype=torch.float32, spread=1.0):
        means, std = randn(g, K, D, dtype=dtype), 0.4 + uniform(g, K, dtype=dtype)
        weights = 0.2 + uniform(g, K, dtype=dtype)
        x = spread * randn(g, B, D, dtype=dtype)
        return {"x": x, "means": means, "std": std, "weights": weights / weights.sum()}

    yield "in the plane", inputs(7, 3, 2)
    yield "a batch of one, two parts on a line", inputs(1, 2, 1)
    yield "as many points as parts and dimensions", inputs(3, 3, 3)
    yield "one Gaussian alone", inputs(4, 1, 2)
    yield "float64, in five dimensions", inputs(5, 3, 5, torch.float64)
    yield "far from all parts", inputs(5, 3, 2, torch.float64, 40.0)
    yield ELSEWHERE, moved(inputs(4, 3, 2))


def responsibilities(x, means, std, weights):
    """How likely each part is, given x: (B, K)."""
    return log_joint(x, means, std, weights).softmax(1)


def log_joint(x, means, std, weights):
    """log(weight_k N(x; mean_k, std_k^2 I)), but for a constant: (B, K)."""
    return weights.log() - x.shape[1] * std.log() - squared(x, means) / (2 * std**2)


def squared(x, means):
    return (x[:, None] - means).square().sum(2)


def pulled(r, x, means, std):
    """sum_k r_k (mean_k - x) / std_k^2."""
    return torch.einsum("bk,bkd->bd", r, (means - x[:, None]) / (std**2)[:, None])


@mixture_score.misconception(
    "The parts' scores are averaged by their weights: at x each counts by how likely it is there, p(k | x)."
)
def the_same_everywhere(x, means, std, weights):
    return pulled(weights.expand(len(x), -1), x, means, std)


@mixture_score.misconception("The weights are left out of p(k | x): a rare part pulls less.")
def weights_left_out(x, means, std, weights):
    return pulled(responsibilities(x, means, std, torch.ones_like(weights)), x, means, std)


@mixture_score.misconception(
    "The Gaussians' heights are left out of p(k | x): a narrow one is higher, by 1 / std to the power D."
)
def heights_left_out(x, means, std, weights):
    r = (weights.log() - squared(x, means) / (2 * std**2)).softmax(1)
    return pulled(r, x, means, std)


@mixture_score.misconception("The height 1 / std is that of one dimension: in D dimensions it is 1 / std^D.")
def height_on_a_line(x, means, std, weights):
    r = (weights.log() - std.log() - squared(x, means) / (2 * std**2)).softmax(1)
    return pulled(r, x, means, std)


@mixture_score.misconception("The pull is divided by std: the score of a Gaussian is (mean - x) / std^2.")
def divided_by_std(x, means, std, weights):
    return pulled(responsibilities(x, means, std, weights), x, means, std.sqrt())


@mixture_score.misconception("The score points away from the means: the gradient of log p climbs, it is (mean - x).")
def pushed_away(x, means, std, weights):
    return -pulled(responsibilities(x, means, std, weights), x, means, std)


@mixture_score.misconception("Only the likeliest part counts: all of them pull, each by p(k | x).")
def likeliest_part_only(x, means, std, weights):
    r = responsibilities(x, means, std, weights)
    return pulled(nn_one_hot(r.argmax(1), r), x, means, std)


def nn_one_hot(k, r):
    return torch.zeros_like(r).scatter(1, k[:, None], 1.0)


@mixture_score.misconception("The softmax runs over the points: at each x the parts must sum to 1.")
def softmax_over_the_points(x, means, std, weights):
    return pulled(log_joint(x, means, std, weights).softmax(0), x, means, std)


@mixture_score.misconception("This is the gradient of p, not of log p: it has to be divided by the density.")
def density_not_divided(x, means, std, weights):
    density = (log_joint(x, means, std, weights) - x.shape[1] / 2 * math.log(2 * math.pi)).exp()
    return pulled(density, x, means, std)


@mixture_score.misconception("The factor 1/2 is missing in the exponent, -distance^2 / (2 std^2).")
def exponent_without_half(x, means, std, weights):
    r = (weights.log() - x.shape[1] * std.log() - squared(x, means) / std**2).softmax(1)
    return pulled(r, x, means, std)


@mixture_score.misconception("The weights are added to the log density without a log of their own.")
def weights_without_log(x, means, std, weights):
    r = (weights - x.shape[1] * std.log() - squared(x, means) / (2 * std**2)).softmax(1)
    return pulled(r, x, means, std)


@mixture_score.misconception(
    "The parts' means and variances are averaged first, as if p were one Gaussian: average the parts' scores."
)
def one_average_gaussian(x, means, std, weights):
    r = responsibilities(x, means, std, weights)
    return (r @ means - x) / (r @ std**2)[:, None]


@mixture_score.misconception("This is the mean that the parts pull to, not the pull: (mean - x) / std^2, part by part.")
def mean_of_the_means(x, means, std, weights):
    return responsibilities(x, means, std, weights) @ means


@mixture_score.misconception(
    "The densities are computed before they are divided: far out all are rounded to 0, and 0 / 0 is NaN. A softmax of "
    "their logs stays finite."
)
def zero_by_zero(x, means, std, weights):
    density = log_joint(x, means, std, weights).exp()
    return pulled(density / density.sum(1, keepdim=True), x, means, std)


@mixture_score.misconception("Only the nearest part counts: all of them pull, each by p(k | x).")
def nearest_part_only(x, means, std, weights):
    return pulled(nn_one_hot(squared(x, means).argmin(1), weights.expand(len(x), -1)), x, means, std)


@mixture_score.misconception(
    "A small number was added to the sum of the densities against 0 / 0: far out it outweighs them all, and the score "
    "becomes 0 where it should be longest. A softmax of the logs needs no such help."
)
def padded_denominator(x, means, std, weights):
    density = log_joint(x, means, std, weights).exp()
    return pulled(density / (density.sum(1, keepdim=True) + 1e-8), x, means, std)


@mixture_score.misconception(
    "Points and means were subtracted row by row: every point meets every mean, (B, 1, D) less (K, D)."
)
def row_by_row(x, means, std, weights):
    offset = means - x
    r = (weights.log() - x.shape[1] * std.log() - offset.square().sum(1) / (2 * std**2)).softmax(0)
    return ((r / std**2)[:, None] * offset).sum(0).expand(x.shape)


@mixture_score.equivalent
def by_autograd(x, means, std, weights):
    x = x.clone().requires_grad_()
    distance2 = ((x[:, None, :] - means[None]) ** 2).sum(-1)
    log_p = torch.logsumexp(torch.log(weights) - means.shape[1] * std.log() - distance2 / (2 * std**2), dim=1)
    return torch.autograd.grad(log_p.sum(), x)[0]


@mixture_score.equivalent
def point_by_point(x, means, std, weights):
    rows = []
    for point in x:
        logs = weights.log() - len(point) * std.log() - (point - means).pow(2).sum(1) / (2 * std.pow(2))
        share = torch.exp(logs - logs.max())
        share = share / share.sum()
        rows.append(((share / std**2)[:, None] * (means - point)).sum(0))
    return torch.stack(rows)


@mixture_score.equivalent
def as_two_products(x, means, std, weights):
    precision = std**-2
    distance2 = (x**2).sum(1, keepdim=True) - 2 * x @ means.T + (means**2).sum(1)
    r = torch.softmax(weights.log() + x.shape[1] / 2 * precision.log() - distance2 * precision / 2, 1) * precision
    return r @ means - r.sum(1, keepdim=True) * x


# ---- 2 ---------------------------------------------------------------------------------------------------------------

implicit_loss = Exercise(
    "score_matching.implicit_loss",
    title="The implicit loss",
    points=3,
    contract="implicit_loss(score, x) is the mean over points x (B, D) of |s|^2 / 2 + div s, where s = score(x) (B, D) "
    "and div s, a number for each point, is the trace of the Jacobian there; its gradient reaches the network.",
    section="implicit-matching",
    returns="the loss",
    finished=("course_utils.losses.implicit_score_matching", "course_utils.losses.divergence"),
)

implicit_loss.observe(loss_and_gradient)


@implicit_loss.solution
def _(score, x):
    return losses.implicit_score_matching(score, x)


@implicit_loss.inputs
def _(g):
    for name, (shape, dtype) in POINTS.items():
        yield name, {"score": ScoreNet(g), "x": randn(g, *shape, dtype=dtype)}
    yield "on a line", {"score": ScoreNet(g), "x": randn(g, 4, 1, dtype=torch.float64)}
    yield "in five dimensions", {"score": ScoreNet(g), "x": randn(g, 3, 5, dtype=torch.float64)}
    yield ELSEWHERE, moved({"score": PlainNet(g), "x": randn(g, 3, 2)})


def score_and_diagonal(score, x):
    """s (B, D) and the diagonal of its Jacobian (B, D), with their graphs."""
    x = x.detach().requires_grad_()
    s = score(x)
    columns = [torch.autograd.grad(s[:, d].sum(), x, create_graph=True)[0][:, d] for d in range(x.shape[1])]
    return s, torch.stack(columns, 1)


@implicit_loss.misconception(
    "One backward pass of s.sum() adds up the whole Jacobian: the trace is its diagonal, one pass a coordinate."
)
def whole_jacobian(score, x):
    x = x.detach().requires_grad_()
    s = score(x)
    total = torch.autograd.grad(s.sum(), x, create_graph=True)[0]
    return (s.square() / 2 + total).sum(1).mean()


@implicit_loss.misconception("The divergence has the wrong sign: partial integration leaves +div s.")
def divergence_taken_away(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() / 2 - diagonal).sum(1).mean()


@implicit_loss.misconception("The factor 1/2 of |s|^2 is missing: the best s would be half the score.")
def square_without_half(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() + diagonal).sum(1).mean()


@implicit_loss.misconception("The divergence is halved too: it comes from twice the product in |s - s*|^2 / 2.")
def half_of_everything(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() + diagonal).sum(1).mean() / 2


@implicit_loss.misconception("The divergence is missing: |s|^2 / 2 alone is lowest for s = 0.")
def divergence_left_out(score, x):
    return score(x).square().sum(1).mean() / 2


@implicit_loss.misconception("|s|^2 / 2 is missing: the divergence alone falls for ever.")
def divergence_alone(score, x):
    _, diagonal = score_and_diagonal(score, x)
    return diagonal.sum(1).mean()


@implicit_loss.misconception(
    "The divergence has no graph (create_graph is missing): its value is right, but only |s|^2 / 2 is trained."
)
def divergence_without_graph(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() / 2 + diagonal.detach()).sum(1).mean()


@implicit_loss.misconception("The value is right but cut off from the network (no_grad, detach or item).")
def implicit_cut_off(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() / 2 + diagonal).sum(1).mean().detach()


@implicit_loss.misconception("The mean over the coordinates is taken: |s|^2 and the trace are sums over them.")
def mean_over_coordinates(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() / 2 + diagonal).mean()


@implicit_loss.misconception(
    "Only the trace is a sum over the coordinates here: |s|^2 is one as well, and the two must balance."
)
def square_averaged(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return s.square().mean() / 2 + diagonal.sum(1).mean()


@implicit_loss.misconception("The sum over the points is taken: it is their mean.")
def sum_over_the_points(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() / 2 + diagonal).sum()


@implicit_loss.misconception("The sign of the loss is turned.")
def implicit_negated(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return -(s.square() / 2 + diagonal).sum(1).mean()


@implicit_loss.misconception("The loss is made positive, but a mean of |s|^2 / 2 + div s may well be below 0.")
def divergence_made_positive(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() / 2 + diagonal.abs()).sum(1).mean()


@implicit_loss.misconception("Only the first coordinate's derivative is in the trace: all D are.")
def first_coordinate_only(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square().sum(1) / 2 + diagonal[:, 0]).mean()


@implicit_loss.misconception("This is twice the loss, |s|^2 + 2 div s: the same minimum, but the half was asked for.")
def twice_the_loss(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() + 2 * diagonal).sum(1).mean()


@implicit_loss.misconception(
    "The mean of s_d over the batch is differentiated, so each derivative is divided by B: take the sum."
)
def derivative_of_the_mean(score, x):
    s, diagonal = score_and_diagonal(score, x)
    return (s.square() / 2 + diagonal / len(x)).sum(1).mean()


@implicit_loss.equivalent
def by_vmapped_jacobians(score, x):
    jacobian = torch.func.vmap(torch.func.jacrev(lambda point: score(point[None])[0]))(x)  # (B, D, D)
    s = score(x)
    return (jacobian.diagonal(dim1=1, dim2=2).sum(1) + 0.5 * (s * s).sum(1)).mean()


@implicit_loss.equivalent
def one_axis_after_another(score, x):
    x = x.clone().requires_grad_(True)
    s = score(x)
    loss = 0.5 * s.pow(2).sum() / len(x)
    for d in range(x.shape[1]):
        axis = torch.zeros_like(s)
        axis[:, d] = 1
        (row,) = torch.autograd.grad(s, x, grad_outputs=axis, create_graph=True)
        loss = loss + row[:, d].mean()
    return loss


@implicit_loss.equivalent
def point_after_point(score, x):
    total = 0
    for point in x:
        J = torch.autograd.functional.jacobian(lambda p: score(p[None])[0], point, create_graph=True)
        total = total + J.trace() + score(point[None]).square().sum() / 2
    return total / len(x)


# ---- 3 ---------------------------------------------------------------------------------------------------------------

sliced_loss = Exercise(
    "score_matching.sliced_loss",
    title="The sliced loss",
    points=2,
    contract="sliced_loss(score, x, v) is the mean over samples x (B, ...) of |s|^2 / 2 + v^T J v, where s = score(x), "
    "J is its Jacobian at the sample and v (B, ...) holds a direction for each; its gradient reaches the network.",
    section="sliced-matching",
    returns="the loss",
    finished=("course_utils.losses.sliced_score_matching", "course_utils.losses.divergence"),
)

sliced_loss.observe(loss_and_gradient)


@sliced_loss.solution
def _(score, x, v):
    return losses.sliced_score_matching(score, x, v[None])


@sliced_loss.inputs
def _(g):
    for name, (shape, dtype) in SHAPES.items():
        yield name, {"score": ScoreNet(g), "x": randn(g, *shape, dtype=dtype), "v": randn(g, *shape, dtype=dtype)}
    signs = 2 * torch.randint(0, 2, (4, 3), generator=g).double() - 1
    yield "directions of signs", {"score": ScoreNet(g), "x": randn(g, 4, 3, dtype=torch.float64), "v": signs}
    yield ELSEWHERE, moved({"score": PlainNet(g), "x": randn(g, 4, 3), "v": randn(g, 4, 3)})


def score_and_pull(score, x, v):
    """s (B, ...) and J^T v (B, ...), with their graphs."""
    x = x.detach().requires_grad_()
    s = score(x)
    return s, torch.autograd.grad((s * v).sum(), x, create_graph=True)[0]


def each(values):
    """Sums over a sample's entries: (B,)."""
    return values.flatten(1).sum(1)


@sliced_loss.misconception(
    "This is the paper's first form, (v^T s)^2 / 2 in place of |s|^2 / 2: right on average, too, but why slice what is "
    "known whole? The other is steadier."
)
def square_sliced_too(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s * v) ** 2 / 2 + each(pull * v)).mean()


@sliced_loss.misconception("J^T v is summed up: it still has to be multiplied by v.")
def second_v_missing(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 + each(pull)).mean()


@sliced_loss.misconception("The first v is missing, so that this is the sum of J times v: differentiate v^T s.")
def first_v_missing(score, x, v):
    s, pull = score_and_pull(score, x, torch.ones_like(v))
    return (each(s**2) / 2 + each(pull * v)).mean()


@sliced_loss.misconception("v is brought to length 1: v^T J v is then the trace divided by D, on average.")
def directions_of_length_one(score, x, v):
    v = v / each(v**2).sqrt().reshape(-1, *[1] * (x.ndim - 1))
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 + each(pull * v)).mean()


@sliced_loss.misconception("Other directions were drawn: v is given.")
def directions_of_its_own(score, x, v):
    v = torch.randn_like(v)
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 + each(pull * v)).mean()


@sliced_loss.misconception("All samples get the direction of the first: each has its own.")
def one_direction_for_all(score, x, v):
    v = v[:1].expand(v.shape)
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 + each(pull * v)).mean()


@sliced_loss.misconception("v^T J v has the wrong sign: it stands for the divergence, which is added.")
def slice_taken_away(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 - each(pull * v)).mean()


@sliced_loss.misconception("The factor 1/2 of |s|^2 is missing.")
def sliced_without_half(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) + each(pull * v)).mean()


@sliced_loss.misconception("v^T J v is halved, too: only |s|^2 is.")
def slice_halved(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) + each(pull * v)).mean() / 2


@sliced_loss.misconception(
    "J^T v has no graph (create_graph is missing): the value is right, but only |s|^2 / 2 is trained."
)
def slice_without_graph(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 + each(pull * v).detach()).mean()


@sliced_loss.misconception("The value is right but without any graph: nothing reaches the network.")
def sliced_cut_off(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 + each(pull * v)).mean().detach()


@sliced_loss.misconception("The mean over the entries is taken: |s|^2 and v^T J v are sums over a sample's entries.")
def sliced_mean_over_entries(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (s**2 / 2 + pull * v).mean()


@sliced_loss.misconception("The sum over the batch is taken: it is the samples' mean.")
def sliced_sum_over_the_batch(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (s**2 / 2 + pull * v).sum()


@sliced_loss.misconception("The sign of the whole loss is turned.")
def sliced_negated(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return -(each(s**2) / 2 + each(pull * v)).mean()


@sliced_loss.misconception("v^T J v is squared: it is a signed number, and its mean is the divergence.")
def slice_squared(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 + each(pull * v) ** 2).mean()


@sliced_loss.misconception(
    "The sum runs over one dimension of a sample, the mean over the others: a picture has three, and all are summed."
)
def sliced_for_points_only(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (s**2 / 2 + pull * v).sum(1).mean()


@sliced_loss.misconception("The mean of v^T s is differentiated, which divides J^T v by the number of entries: sum it.")
def pulled_by_the_mean(score, x, v):
    s, pull = score_and_pull(score, x, v)
    return (each(s**2) / 2 + each(pull * v) / v.numel()).mean()


@sliced_loss.misconception("v comes in after the gradient, twice: differentiate v^T s, and multiply once more by v.")
def both_v_outside(score, x, v):
    s, pull = score_and_pull(score, x, torch.ones_like(v))
    return (each(s**2) / 2 + each(pull * v**2)).mean()


@sliced_loss.equivalent
def by_a_forward_derivative(score, x, v):
    s, moved = torch.func.jvp(score, (x,), (v,))
    return ((s * s / 2).flatten(1).sum(1) + (v * moved).flatten(1).sum(1)).mean()


@sliced_loss.equivalent
def by_grad_outputs(score, x, v):
    x = x.clone().requires_grad_(True)
    s = score(x)
    (pull,) = torch.autograd.grad(s, x, grad_outputs=v, create_graph=True)
    return (0.5 * s.square() + pull * v).sum() / x.shape[0]


@sliced_loss.equivalent
def slice_sample_by_sample(score, x, v):
    total = 0
    for point, direction in zip(x, v, strict=True):
        point = point[None].detach().requires_grad_()
        s = score(point)[0]
        pull = torch.autograd.grad((s * direction).sum(), point, create_graph=True)[0][0]
        total = total + s.pow(2).sum() / 2 + (pull * direction).sum()
    return total / len(x)


# ---- 4 ---------------------------------------------------------------------------------------------------------------

dsm_loss = Exercise(
    "score_matching.dsm_loss",
    title="Denoising score matching",
    points=3,
    contract="dsm_loss(score, x0, noise, sigma) is the mean over samples x0 (B, ...) of sigma^2 |score(x, sigma) - "
    "target|^2 / 2 at x = x0 + sigma noise, where target is the gradient at x of the log density of N(x0, sigma^2 I); "
    "each sample has its own sigma (B,), and the gradient reaches the network.",
    section="denoising-matching",
    returns="the loss",
    finished=("course_utils.losses.denoising_score_matching",),
)

dsm_loss.observe(loss_and_gradient)


@dsm_loss.solution
def _(score, x0, noise, sigma):
    return losses.denoising_score_matching(lambda x: score(x, sigma), x0, sigma, noise, weighted=True)


@dsm_loss.inputs
def _(g):
    def inputs(shape, dtype=torch.float32):
        x0, noise = randn(g, *shape, dtype=dtype), randn(g, *shape, dtype=dtype)
        return {"score": LevelNet(g), "x0": x0, "noise": noise, "sigma": 0.3 + uniform(g, shape[0], dtype=dtype)}

    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, dtype)
    s = inputs((3, 2), torch.float64)
    yield "little noise and much", s | {"sigma": torch.tensor([0.01, 1.0, 10.0], dtype=torch.float64)}
    yield ELSEWHERE, moved(inputs((4, 3)) | {"score": PlainNet(g)})


def wide(sigma, x):
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def said(score, x0, noise, sigma):
    """What the network says at x0 + sigma noise, and sigma as it multiplies x0."""
    s = wide(sigma, x0)
    return score(x0 + s * noise, sigma), s


@dsm_loss.misconception(
    "The target has the wrong sign: the density of N(x0, sigma^2 I) rises towards x0, against the noise."
)
def along_the_noise(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return each((s * out - noise).square()).mean() / 2


@dsm_loss.misconception("The target is (x0 - x) / sigma: the score of a Gaussian is divided by its variance, sigma^2.")
def target_over_sigma(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return each((s * (out + noise)).square()).mean() / 2


@dsm_loss.misconception("The target is -noise / sigma^2: x - x0 is sigma noise, so one sigma cancels.")
def noise_over_the_variance(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return each((s * out + noise / s).square()).mean() / 2


@dsm_loss.misconception("The weight sigma^2 is missing: the smallest noise would drown all other levels.")
def not_weighted(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return each((out + noise / s).square()).mean() / 2


@dsm_loss.misconception("The weight is sigma, without the square: small noise still counts most.")
def weighted_by_sigma(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return (sigma * each((out + noise / s).square())).mean() / 2


@dsm_loss.misconception("The weight is taken twice: sigma^4.")
def weighted_twice(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return (sigma**2 * each((s * out + noise).square())).mean() / 2


@dsm_loss.misconception("The network is asked at the clean x0: it must see x = x0 + sigma noise.")
def asked_at_the_clean_data(score, x0, noise, sigma):
    out, s = score(x0, sigma), wide(sigma, x0)
    return each((s * out + noise).square()).mean() / 2


@dsm_loss.misconception("The noise is added without its factor sigma.")
def noise_of_full_size(score, x0, noise, sigma):
    out, s = score(x0 + noise, sigma), wide(sigma, x0)
    return each((s * out + noise).square()).mean() / 2


@dsm_loss.misconception("The noise is multiplied by sigma^2, the variance: its factor is the std, sigma.")
def noise_times_the_variance(score, x0, noise, sigma):
    s = wide(sigma, x0)
    return each((s * score(x0 + s**2 * noise, sigma) + noise).square()).mean() / 2


@dsm_loss.misconception("A second noise is drawn for the target: it must be the one in x.")
def target_of_another_draw(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return each((s * out + torch.randn_like(noise)).square()).mean() / 2


@dsm_loss.misconception("The whole batch has the sigma of its first sample: each has its own.")
def sigma_of_the_first(score, x0, noise, sigma):
    sigma = sigma[:1].expand(sigma.shape)
    out, s = said(score, x0, noise, sigma)
    return each((s * out + noise).square()).mean() / 2


@dsm_loss.misconception("sigma has shape (B,) and meets the last dimension of x0: make it (B, 1, ...).")
def sigma_not_broadcast(score, x0, noise, sigma):
    return each((sigma * score(x0 + sigma * noise, sigma) + noise).square()).mean() / 2


@dsm_loss.misconception("The factor 1/2 is missing.")
def dsm_without_half(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return each((s * out + noise).square()).mean()


@dsm_loss.misconception("The mean over the entries is taken: |...|^2 is a sum over a sample's entries.")
def dsm_mean_over_entries(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return (s * out + noise).square().mean() / 2


@dsm_loss.misconception("The sum over the batch is taken: it is the mean over the samples.")
def dsm_sum_over_the_batch(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return (s * out + noise).square().sum() / 2


@dsm_loss.misconception("The sign of the loss is turned: it would be best for the worst of all scores.")
def dsm_negated(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return -each((s * out + noise).square()).mean() / 2


@dsm_loss.misconception("The value is right but cut off from the network (no_grad, detach or item): it learns nothing.")
def dsm_cut_off(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return (each((s * out + noise).square()).mean() / 2).detach()


@dsm_loss.misconception("This is 0, the loss of a score compared with itself: the target comes from the noise.")
def compared_with_itself(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return each((s * (out - out)).square()).mean() / 2


@dsm_loss.misconception("sigma as (B, 1) serves points only: it needs a 1 for each dimension of a sample.")
def sigma_for_points(score, x0, noise, sigma):
    s = sigma[:, None]
    return each((s * score(x0 + s * noise, sigma) + noise).square()).mean() / 2


@dsm_loss.misconception("The batch's mean weight multiplies its mean error: each sample's error has its own sigma^2.")
def weighted_by_the_mean(score, x0, noise, sigma):
    out, s = said(score, x0, noise, sigma)
    return (sigma**2).mean() * each((out + noise / s).square()).mean() / 2


@dsm_loss.equivalent
def target_from_the_points(score, x0, noise, sigma):
    s = sigma.view(-1, *[1] * (x0.dim() - 1))
    x = x0 + s * noise
    target = (x0 - x) / s**2
    error = (score(x, sigma) - target).flatten(1)
    return (0.5 * sigma**2 * (error**2).sum(1)).mean()


@dsm_loss.equivalent
def target_by_autograd(score, x0, noise, sigma):
    s = sigma.reshape([-1] + [1] * (x0.ndim - 1))
    x = (x0 + s * noise).detach().requires_grad_()
    log_q = -((x - x0) ** 2 / (2 * s**2)).sum()
    target = torch.autograd.grad(log_q, x)[0]
    return (s * (score(x.detach(), sigma) - target)).pow(2).sum() / (2 * len(x0))


@dsm_loss.equivalent
def as_a_predicted_noise(score, x0, noise, sigma):
    x = x0 + torch.einsum("b,b...->b...", sigma, noise)
    eps = -torch.einsum("b,b...->b...", sigma, score(x, sigma))
    return torch.nn.functional.mse_loss(eps, noise, reduction="sum") / 2 / x0.shape[0]


# ---- 5 ---------------------------------------------------------------------------------------------------------------

tweedie = Exercise(
    "score_matching.tweedie",
    title="What the score says of the data",
    points=3,
    contract="tweedie(score, x, alpha, sigma) is the pair (mean, covariance), (B, D) and (B, D, D), of the data x0 "
    "given x = alpha x0 + sigma eps, from the exact score(x) of the noisy points x (B, D) and its Jacobian; alpha and "
    "sigma are numbers, and nothing carries a graph.",
    section="tweedie",
    returns=("mean", "covariance"),
    finished=("course_utils.denoiser.to_x0",),
)


@tweedie.solution
def _(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return to_x0("score", s, x, alpha, sigma), (sigma / alpha) ** 2 * (identity + sigma**2 * J)


@tweedie.inputs
def _(g):
    def inputs(B, K, D, alpha, sigma, dtype=torch.float64):
        """The data are a mixture, and so is alpha x0: all that is left is to add the noise."""
        exact, x = exact_score(alpha * randn(g, K, D), 0.5 * alpha), 1.5 * randn(g, B, D, dtype=dtype)
        return {"score": lambda x: exact(x, sigma), "x": x, "alpha": alpha, "sigma": sigma}

    yield "in the plane", inputs(6, 3, 2, 0.8, 0.6)
    yield "a batch of one, on a line", inputs(1, 2, 1, 0.9, 0.4)
    yield "as many points as dimensions", inputs(3, 3, 3, 0.7, 0.9)
    yield "alpha of one, much noise", inputs(4, 2, 2, 1.0, 2.0)
    yield "float32", inputs(5, 3, 2, 0.8, 0.7, torch.float32)
    yield ELSEWHERE, moved(inputs(3, 1, 2, 0.8, 0.6, torch.float32) | {"score": lambda x: -x})


def score_and_jacobian(score, x):
    """s (B, D) and its Jacobian (B, D, D), without graphs."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score(x)
        rows = [torch.autograd.grad(s[:, d].sum(), x, retain_graph=True)[0] for d in range(x.shape[1])]
    return s.detach(), torch.stack(rows, 1)


def both_moments(s, J, x, alpha, sigma):
    """The right mean and covariance."""
    return (x + sigma**2 * s) / alpha, (sigma / alpha) ** 2 * (identity_like(J) + sigma**2 * J)


def identity_like(J):
    return torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)


@tweedie.misconception("The score is multiplied by sigma: Tweedie's formula has the variance, sigma^2.")
def sigma_not_squared(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    return (x + sigma * s) / alpha, both_moments(s, J, x, alpha, sigma)[1]


@tweedie.misconception("The score is taken away: it points to where the data are, so x moves along it.")
def moved_away(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    return (x - sigma**2 * s) / alpha, both_moments(s, J, x, alpha, sigma)[1]


@tweedie.misconception("x + sigma^2 score is the mean of alpha x0: it has to be divided by alpha.")
def mean_of_the_scaled_data(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    return x + sigma**2 * s, both_moments(s, J, x, alpha, sigma)[1]


@tweedie.misconception("Only x is divided by alpha: the score's part belongs to alpha x0, too.")
def only_x_divided(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    return x / alpha + sigma**2 * s, both_moments(s, J, x, alpha, sigma)[1]


@tweedie.misconception("The mean is multiplied by alpha: x = alpha x0 + ..., so that it is divided.")
def multiplied_by_alpha(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    return alpha * (x + sigma**2 * s), both_moments(s, J, x, alpha, sigma)[1]


@tweedie.misconception("The covariance is that of alpha x0: it has to be divided by alpha^2.")
def covariance_of_the_scaled_data(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    mean, covariance = both_moments(s, J, x, alpha, sigma)
    return mean, alpha**2 * covariance


@tweedie.misconception("The covariance is divided by alpha: a variance goes with alpha^2.")
def covariance_over_alpha(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    mean, covariance = both_moments(s, J, x, alpha, sigma)
    return mean, alpha * covariance


@tweedie.misconception("This covariance is sigma^2 / alpha^2 everywhere: what the data are like is in the Jacobian.")
def jacobian_left_out(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    mean, _ = both_moments(s, J, x, alpha, sigma)
    return mean, (sigma / alpha) ** 2 * identity_like(J).expand(J.shape)


@tweedie.misconception("The identity is missing beside the Jacobian: sigma^4 J alone is negative for a Gaussian.")
def identity_left_out(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    mean, _ = both_moments(s, J, x, alpha, sigma)
    return mean, sigma**4 / alpha**2 * J


@tweedie.misconception("The Jacobian is taken away: it is negative where data are dense, and makes x0 more certain.")
def jacobian_taken_away(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    mean, _ = both_moments(s, J, x, alpha, sigma)
    return mean, (sigma / alpha) ** 2 * (identity_like(J) - sigma**2 * J)


@tweedie.misconception(
    "I + sigma^2 J is the Jacobian of alpha times the mean: the covariance is sigma^2 / alpha^2 times it."
)
def jacobian_of_the_mean(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    mean, _ = both_moments(s, J, x, alpha, sigma)
    return mean, identity_like(J) + sigma**2 * J


@tweedie.misconception("Only the diagonal is left: the coordinates of x0 given x are correlated.")
def variances_only(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    mean, covariance = both_moments(s, J, x, alpha, sigma)
    return mean, covariance * identity_like(J)


@tweedie.misconception("This is the mean of x0 x0^T: the covariance is what is left when the means are taken away.")
def second_moment(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    mean, covariance = both_moments(s, J, x, alpha, sigma)
    return mean, covariance + mean[:, :, None] * mean[:, None]


@tweedie.misconception("Mean and covariance still carry the graph of x: a sampler would keep it step after step.")
def graph_left_on(score, x, alpha, sigma):
    x = x.detach().requires_grad_()
    s = score(x)
    rows = [torch.autograd.grad(s[:, d].sum(), x, create_graph=True)[0] for d in range(x.shape[1])]
    return both_moments(s, torch.stack(rows, 1), x, alpha, sigma)


@tweedie.misconception("alpha is missing in both: these are mean and covariance of alpha x0.")
def alpha_left_out(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    return x + sigma**2 * s, sigma**2 * (identity_like(J) + sigma**2 * J)


@tweedie.misconception("The covariance lacks the factor sigma^2 before the bracket: little noise leaves little doubt.")
def covariance_without_the_variance(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    return both_moments(s, J, x, alpha, sigma)[0], (identity_like(J) + sigma**2 * J) / alpha**2


@tweedie.misconception("1 is added to every entry: the identity has it on the diagonal alone, torch.eye.")
def ones_for_the_identity(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    return both_moments(s, J, x, alpha, sigma)[0], (sigma / alpha) ** 2 * (1 + sigma**2 * J)


@tweedie.misconception(
    "The rows of the Jacobian are stacked before the points, (D, B, D): stack them along dimension 1."
)
def rows_before_points(score, x, alpha, sigma):
    s, J = score_and_jacobian(score, x)
    J = J.transpose(0, 1)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return (x + sigma**2 * s) / alpha, (sigma / alpha) ** 2 * (identity + sigma**2 * J)


@tweedie.equivalent
def by_torchs_jacobians(score, x, alpha, sigma):
    J = torch.func.vmap(torch.func.jacrev(lambda point: score(point[None])[0]))(x)
    mean = (x + sigma**2 * score(x)) / alpha
    return mean, sigma**2 / alpha**2 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device) + sigma**4 / alpha**2 * J


@tweedie.equivalent
def jacobian_of_the_denoiser(score, x, alpha, sigma):
    """The covariance is sigma^2 / alpha times the Jacobian of the mean itself."""
    x = x.clone().requires_grad_(True)
    mean = (x + score(x) * sigma * sigma) / alpha
    columns = []
    for d in range(x.shape[1]):
        pick = torch.zeros_like(mean)
        pick[:, d] = 1
        columns.append(torch.autograd.grad(mean, x, pick, retain_graph=True)[0] * sigma**2 / alpha)
    return mean.detach(), torch.stack(columns, dim=2)


@tweedie.equivalent
def moments_point_by_point(score, x, alpha, sigma):
    means, covariances = [], []
    for point in x:
        J = torch.autograd.functional.jacobian(lambda p: score(p[None])[0], point)
        with torch.no_grad():
            means.append((point + sigma**2 * score(point[None])[0]) / alpha)
            covariances.append(sigma**2 * (sigma**2 * J + torch.eye(len(point), dtype=x.dtype, device=x.device)))
    return torch.stack(means), torch.stack(covariances) / alpha**2


# ---- 6 ---------------------------------------------------------------------------------------------------------------

annealed_langevin = Exercise(
    "score_matching.annealed_langevin",
    title="Annealed Langevin dynamics",
    points=3,
    contract="annealed_langevin(score, x, sigmas, eps, noise) is x (B, ...) after n Langevin steps at each of the "
    "falling levels sigmas (a list of L numbers), with noise (L, n, B, ...): with a = eps sigma^2 / sigmas[-1]^2, a "
    "step at the level sigma adds a / 2 times the score there and sqrt(a) times its noise.",
    section="annealed-langevin",
    returns="x",
    finished=("course_utils.langevin.annealed_langevin",),
)


@annealed_langevin.solution
def _(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2)


def annealed(score, x, sigmas, noise, size, drift=0.5, spread=math.sqrt):
    """Steps of size(sigma) at each level: drift times the size before the score, spread(size) before the noise."""
    for sigma, kicks in zip(sigmas, noise, strict=True):
        a = size(sigma)
        for z in kicks:
            x = x + drift * a * score(x, sigma) + spread(a) * z
    return x


@annealed_langevin.inputs
def _(g):
    def inputs(shape, L, n, dtype=torch.float32, score=None):
        top, ratio = 1.5 + uniform(g).item(), 0.5 + 0.2 * uniform(g).item()
        sigmas = [top * ratio**i for i in range(L)]
        eps = (0.2 + 0.3 * uniform(g).item()) * sigmas[-1] ** 2
        x, noise = randn(g, *shape, dtype=dtype), randn(g, L, n, *shape, dtype=dtype)
        return {"score": score or frozen(LevelNet(g)), "x": x, "sigmas": sigmas, "eps": eps, "noise": noise}

    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, 3, 2, dtype)
    yield "one step a level", inputs((4, 2), 4, 1, torch.float64)
    yield "one level only", inputs((4, 2), 1, 4, torch.float64)
    mixture = exact_score([[-1.0, 0.0], [1.0, 0.5]], 0.3)
    yield "a mixture whose score is known", inputs((20, 2), 4, 3, torch.float64, mixture)
    yield ELSEWHERE, moved(inputs((4, 3), 1, 1, score=frozen(PlainNet(g))))


@annealed_langevin.misconception(
    "All levels take the step of the last, eps: the wide densities are then never crossed. It grows with sigma^2."
)
def one_size_for_all(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps)


@annealed_langevin.misconception("The step grows with sigma: to keep signal and noise in proportion it is sigma^2.")
def size_without_square(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma / sigmas[-1])


@annealed_langevin.misconception("The step is measured by the first level: sigmas[-1], the smallest, takes eps.")
def measured_by_the_first(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma**2 / sigmas[0] ** 2)


@annealed_langevin.misconception("The ratio of the levels is upside down: large noise takes large steps.")
def small_steps_at_large_noise(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigmas[-1] ** 2 / sigma**2)


@annealed_langevin.misconception("The step is eps sigma^2, without sigmas[-1]^2 below it.")
def not_relative(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma**2)


@annealed_langevin.misconception("The half before the score is missing: with sqrt(a) for the noise it is a / 2.")
def drift_not_halved(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2, drift=1)


@annealed_langevin.misconception(
    "This is the other convention, a score + sqrt(2 a) noise: the same dynamics with twice the step. Here it is a / 2."
)
def the_other_convention(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: 2 * eps * sigma**2 / sigmas[-1] ** 2)


@annealed_langevin.misconception("The noise is multiplied by a, not by its root.")
def noise_without_the_root(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2, spread=float)


@annealed_langevin.misconception("The noise has the factor sqrt(2 a): with a / 2 before the score it is sqrt(a).")
def noise_of_the_other_convention(score, x, sigmas, eps, noise):
    def spread(a):
        return math.sqrt(2 * a)

    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2, spread=spread)


@annealed_langevin.misconception("No noise is added: x climbs to a peak of the density.")
def climbs_only(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2, spread=lambda a: 0)


@annealed_langevin.misconception("The score is taken away: x would flee the data.")
def flees(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2, drift=-0.5)


@annealed_langevin.misconception("The score is that of the last level throughout: ask it at the level of the step.")
def score_of_the_last_level(score, x, sigmas, eps, noise):
    return annealed(
        lambda x, sigma: score(x, sigmas[-1]), x, sigmas, noise, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2
    )


@annealed_langevin.misconception("The levels rise: start with the most noise, where chains cross everywhere.")
def levels_that_rise(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas[::-1], noise, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2)


@annealed_langevin.misconception("Each level starts from x again: it goes on where the level before has ended.")
def starts_over(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas[-1:], noise[-1:], lambda sigma: eps * sigma**2 / sigmas[-1] ** 2)


@annealed_langevin.misconception("There is one step a level: noise has n for each.")
def one_step_a_level(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas, noise[:, :1], lambda sigma: eps * sigma**2 / sigmas[-1] ** 2)


@annealed_langevin.misconception("The last level is missing: its noise would stay in the samples.")
def last_level_missing(score, x, sigmas, eps, noise):
    return annealed(score, x, sigmas[:-1], noise[:-1], lambda sigma: eps * sigma**2 / sigmas[-1] ** 2)


@annealed_langevin.misconception("All steps of a level take the same noise: each has its own.")
def one_noise_a_level(score, x, sigmas, eps, noise):
    same = noise[:, :1].expand(noise.shape)
    return annealed(score, x, sigmas, same, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2)


@annealed_langevin.misconception(
    "The very last step has no noise: that belongs to other samplers. A last step by Tweedie's formula would be wise, "
    "but it is not asked for."
)
def last_step_is_quiet(score, x, sigmas, eps, noise):
    quiet = noise.clone()
    quiet[-1, -1] = 0
    return annealed(score, x, sigmas, quiet, lambda sigma: eps * sigma**2 / sigmas[-1] ** 2)


@annealed_langevin.misconception(
    "The loops are swapped: all steps of a level come first, then the next level. Here each sweep falls through all, "
    "and goes back to the top."
)
def loops_swapped(score, x, sigmas, eps, noise):
    for sweep in noise.transpose(0, 1):
        x = annealed(score, x, sigmas, sweep[:, None], lambda sigma: eps * sigma**2 / sigmas[-1] ** 2)
    return x


@annealed_langevin.equivalent
def levels_by_index(score, x, sigmas, eps, noise):
    for i in range(len(sigmas)):
        a = eps * (sigmas[i] / sigmas[-1]) ** 2
        for j in range(noise.shape[1]):
            x = x + a / 2 * score(x, sigmas[i]) + a**0.5 * noise[i, j]
    return x


@annealed_langevin.equivalent
def sizes_in_a_table(score, x, sigmas, eps, noise):
    levels = torch.tensor(sigmas, dtype=torch.float64)
    sizes = (eps * levels.square() / levels[-1].square()).tolist()
    with torch.no_grad():
        for a, sigma, kicks in zip(sizes, sigmas, noise, strict=True):
            for kick in kicks.unbind(0):
                x = torch.add(x, score(x, sigma), alpha=a / 2).add(kick, alpha=math.sqrt(a))
    return x


@annealed_langevin.equivalent
def one_long_chain(score, x, sigmas, eps, noise):
    n = noise.shape[1]
    levels = [sigma for sigma in sigmas for _ in range(n)]
    for sigma, z in zip(levels, noise.flatten(0, 1), strict=True):
        root = math.sqrt(eps) * sigma / sigmas[-1]
        x = x + root * (root / 2 * score(x, sigma) + z)
    return x


# ---- 7 ---------------------------------------------------------------------------------------------------------------

heun_step = Exercise(
    "score_matching.heun_step",
    title="A step of the probability-flow ODE",
    points=3,
    contract="heun_step(score, x, sigma, sigma_next) takes x (B, ...) from the noise sigma to the smaller sigma_next "
    "along dx/dsigma = -sigma score(x, sigma) by Heun's method: an Euler step predicts, and the mean of both ends' "
    "slopes corrects; at sigma_next = 0 there is no score to ask, and the step is Euler's.",
    section="probability-flow",
    returns="x at sigma_next",
    finished=("course_utils.samplers.heun",),
)


@heun_step.solution
def _(score, x, sigma, sigma_next):
    return heun_by(score, x, sigma, sigma_next, lambda first, second: (first + second) / 2)


def slope(score, x, sigma):
    return -sigma * score(x, sigma)


def heun_by(score, x, sigma, sigma_next, mean, other=None):
    """A Heun step with another way to join the slopes of both ends, or with other slopes."""
    at, h = other or slope, sigma_next - sigma
    first = at(score, x, sigma)
    predicted = x + h * first
    if sigma_next == 0:
        return predicted
    return x + h * mean(first, at(score, predicted, sigma_next))


@heun_step.inputs
def _(g):
    def inputs(shape, sigma, ratio, dtype=torch.float32, score=None):
        x = randn(g, *shape, dtype=dtype)
        return {"score": score or frozen(LevelNet(g)), "x": x, "sigma": sigma, "sigma_next": ratio * sigma}

    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, 0.6 + uniform(g).item(), 0.4 + 0.4 * uniform(g).item(), dtype)
    yield "to no noise at all", inputs((4, 2), 0.75, 0.0, torch.float64)
    mixture = exact_score([[-1.0, 0.0], [1.0, 0.5]], 0.3)
    yield "a mixture whose score is known", inputs((6, 2), 1.5, 0.5, torch.float64, mixture)
    yield "a large step", inputs((5, 3), 3.0, 0.125, torch.float64)
    yield ELSEWHERE, moved(inputs((4, 3), 1.0, 0.5, score=frozen(PlainNet(g))))


@heun_step.misconception("This is Euler's step: its error falls with the step, that of Heun's with its square.")
def euler_only(score, x, sigma, sigma_next):
    return x + (sigma_next - sigma) * slope(score, x, sigma)


@heun_step.misconception("The slope lacks its factor sigma: dx/dsigma = -sigma score.")
def slope_without_sigma(score, x, sigma, sigma_next):
    def bare(score, x, sigma):
        return -score(x, sigma)

    return heun_by(score, x, sigma, sigma_next, lambda first, second: (first + second) / 2, bare)


@heun_step.misconception("The slope has the factor sigma^2: that belongs to dx / dlog(sigma).")
def slope_times_the_variance(score, x, sigma, sigma_next):
    def squared_slope(score, x, sigma):
        return -(sigma**2) * score(x, sigma)

    return heun_by(score, x, sigma, sigma_next, lambda first, second: (first + second) / 2, squared_slope)


@heun_step.misconception("The sign is wrong: sigma falls, the step is negative, and x moves along the score.")
def against_the_flow(score, x, sigma, sigma_next):
    def turned(score, x, sigma):
        return sigma * score(x, sigma)

    return heun_by(score, x, sigma, sigma_next, lambda first, second: (first + second) / 2, turned)


@heun_step.misconception(
    "The slope is twice too steep, the drift of the reverse SDE: without its noise the flow takes half.",
    read="reverse-sde",
)
def drift_of_the_sde(score, x, sigma, sigma_next):
    def double(score, x, sigma):
        return -2 * sigma * score(x, sigma)

    return heun_by(score, x, sigma, sigma_next, lambda first, second: (first + second) / 2, double)


@heun_step.misconception("The two slopes are added: the step takes their mean.")
def slopes_added(score, x, sigma, sigma_next):
    return heun_by(score, x, sigma, sigma_next, lambda first, second: first + second)


@heun_step.misconception("Only the slope at the end is used: Heun's method takes the mean of both ends'.")
def slope_of_the_end(score, x, sigma, sigma_next):
    return heun_by(score, x, sigma, sigma_next, lambda first, second: second)


@heun_step.misconception("The correction starts from the predicted point: both slopes lead from x.")
def corrected_from_the_prediction(score, x, sigma, sigma_next):
    h = sigma_next - sigma
    first = slope(score, x, sigma)
    predicted = x + h * first
    if sigma_next == 0:
        return predicted
    return predicted + h * (first + slope(score, predicted, sigma_next)) / 2


@heun_step.misconception("The second slope is that of x: at sigma_next the predicted point is where one is.")
def second_slope_at_x(score, x, sigma, sigma_next):
    h = sigma_next - sigma
    first = slope(score, x, sigma)
    if sigma_next == 0:
        return x + h * first
    return x + h * (first + slope(score, x, sigma_next)) / 2


@heun_step.misconception("The second slope is asked at the old sigma: the predicted point has the noise sigma_next.")
def second_slope_at_the_old_sigma(score, x, sigma, sigma_next):
    h = sigma_next - sigma
    first = slope(score, x, sigma)
    predicted = x + h * first
    if sigma_next == 0:
        return predicted
    return x + h * (first + slope(score, predicted, sigma)) / 2


@heun_step.misconception("The second score has the factor sigma, but its own slope has sigma_next.")
def factor_of_the_old_sigma(score, x, sigma, sigma_next):
    h = sigma_next - sigma
    first = slope(score, x, sigma)
    predicted = x + h * first
    if sigma_next == 0:
        return predicted
    return x + h * (first - sigma * score(predicted, sigma_next)) / 2


@heun_step.misconception(
    "This is the midpoint method: of second order, too, but Heun's asks at both ends and averages."
)
def midpoint_method(score, x, sigma, sigma_next):
    h, first = sigma_next - sigma, slope(score, x, sigma)
    if sigma_next == 0:
        return x + h * first
    return x + h * slope(score, x + h / 2 * first, sigma + h / 2)


@heun_step.misconception("At sigma_next = 0 the score is asked, where there is none: the last step is Euler's.")
def asked_without_noise(score, x, sigma, sigma_next):
    h = sigma_next - sigma
    first = slope(score, x, sigma)
    return x + h * (first + slope(score, x + h * first, sigma_next)) / 2


@heun_step.misconception(
    "At sigma_next = 0 the second slope is taken for 0, which halves the step: there is none to average with."
)
def half_a_step_to_zero(score, x, sigma, sigma_next):
    if sigma_next == 0:
        return x + (sigma_next - sigma) * slope(score, x, sigma) / 2
    return heun_by(score, x, sigma, sigma_next, lambda first, second: (first + second) / 2)


@heun_step.equivalent
def prediction_then_correction(score, x, sigma, sigma_next):
    h = sigma - sigma_next
    first = sigma * score(x, sigma)
    moved = x + h * first
    if sigma_next > 0:
        second = sigma_next * score(moved, sigma_next)
        moved = x + 0.5 * h * (first + second)
    return moved


@heun_step.equivalent
def through_the_denoiser(score, x, sigma, sigma_next):
    """The slope is (x - x0_hat) / sigma, as Karras et al. write it."""

    def slope_at(x, sigma):
        x0_hat = x + sigma**2 * score(x, sigma)
        return (x - x0_hat) / sigma

    d = slope_at(x, sigma)
    end = x + (sigma_next - sigma) * d
    if sigma_next != 0:
        end = x + (sigma_next - sigma) * torch.stack([d, slope_at(end, sigma_next)]).mean(0)
    return end


@heun_step.equivalent
def correction_of_euler(score, x, sigma, sigma_next):
    with torch.no_grad():
        gap = float(sigma) - float(sigma_next)
        first = score(x, sigma).mul(sigma)
        end = x.add(first, alpha=gap)
        if sigma_next:
            change = score(end, sigma_next).mul(sigma_next) - first
            end = end + gap / 2 * change
    return end


# ---- 8 ---------------------------------------------------------------------------------------------------------------

reverse_step = Exercise(
    "score_matching.reverse_step",
    title="A step of the reverse SDE",
    points=2,
    contract="reverse_step(score, x, sigma, sigma_next, z) is Euler and Maruyama's step for x (B, ...) from the noise "
    "sigma back to sigma_next, where the SDE forwards only adds noise, of variance sigma^2 - sigma_next^2 between the "
    "two: backwards the drift is that variance times score(x, sigma), and the noise, z, has that variance again.",
    section="reverse-sde",
    returns="x at sigma_next",
    finished=("course_utils.langevin.reverse_sde",),
)


@reverse_step.solution
def _(score, x, sigma, sigma_next, z):
    return back(score(x, sigma), x, sigma**2 - sigma_next**2, z)


def back(s, x, variance, z):
    return x + variance * s + math.sqrt(variance) * z


@reverse_step.inputs
def _(g):
    def inputs(shape, sigma, ratio, dtype=torch.float32, score=None):
        x, z = randn(g, *shape, dtype=dtype), randn(g, *shape, dtype=dtype)
        return {"score": score or frozen(LevelNet(g)), "x": x, "sigma": sigma, "sigma_next": ratio * sigma, "z": z}

    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, 0.6 + uniform(g).item(), 0.4 + 0.4 * uniform(g).item(), dtype)
    yield "to no noise at all", inputs((4, 2), 0.75, 0.0, torch.float64)
    yield "a large step", inputs((5, 3), 3.0, 0.125, torch.float64)
    yield ELSEWHERE, moved(inputs((4, 3), 1.0, 0.5, score=frozen(PlainNet(g))))


@reverse_step.misconception(
    "The drift is half of it, that of the probability-flow ODE: with noise it has to be the whole.",
    read="probability-flow",
)
def drift_of_the_flow(score, x, sigma, sigma_next, z):
    variance = sigma**2 - sigma_next**2
    return x + variance / 2 * score(x, sigma) + math.sqrt(variance) * z


@reverse_step.misconception("The drift is twice too large.")
def drift_doubled(score, x, sigma, sigma_next, z):
    variance = sigma**2 - sigma_next**2
    return x + 2 * variance * score(x, sigma) + math.sqrt(variance) * z


@reverse_step.misconception("The noise has the factor sqrt(2 variance), that of Langevin dynamics with its step.")
def noise_as_in_langevin(score, x, sigma, sigma_next, z):
    variance = sigma**2 - sigma_next**2
    return x + variance * score(x, sigma) + math.sqrt(2 * variance) * z


@reverse_step.misconception("z is multiplied by the variance, not by its root.")
def variance_without_root(score, x, sigma, sigma_next, z):
    variance = sigma**2 - sigma_next**2
    return x + variance * score(x, sigma) + variance * z


@reverse_step.misconception("Variances are taken away from each other, not the stds: sigma^2 - sigma_next^2.")
def square_of_the_difference(score, x, sigma, sigma_next, z):
    return back(score(x, sigma), x, (sigma - sigma_next) ** 2, z)


@reverse_step.misconception("The difference of the stds is used, without squares.")
def difference_of_the_stds(score, x, sigma, sigma_next, z):
    return back(score(x, sigma), x, sigma - sigma_next, z)


@reverse_step.misconception("The whole variance sigma^2 is used, as if the step went to no noise at all.")
def all_of_the_variance(score, x, sigma, sigma_next, z):
    return back(score(x, sigma), x, sigma**2, z)


@reverse_step.misconception("The score is taken away: backwards x goes to where the data are.")
def drift_of_the_wrong_sign(score, x, sigma, sigma_next, z):
    return back(-score(x, sigma), x, sigma**2 - sigma_next**2, z)


@reverse_step.misconception("The score is asked at sigma_next: x has the noise sigma.")
def asked_at_the_end(score, x, sigma, sigma_next, z):
    return back(score(x, sigma_next), x, sigma**2 - sigma_next**2, z)


@reverse_step.misconception("No noise is added: the drift alone gathers the samples at the peaks.")
def drift_alone(score, x, sigma, sigma_next, z):
    return back(score(x, sigma), x, sigma**2 - sigma_next**2, 0 * z)


@reverse_step.misconception("Other noise was drawn: z is given.")
def z_of_its_own(score, x, sigma, sigma_next, z):
    return back(score(x, sigma), x, sigma**2 - sigma_next**2, torch.randn_like(z))


@reverse_step.misconception("The drift is left out: this only adds noise, as forwards.")
def noise_alone(score, x, sigma, sigma_next, z):
    return back(0 * score(x, sigma), x, sigma**2 - sigma_next**2, z)


@reverse_step.misconception(
    "The noise is that of ancestral sampling, smaller by sigma_next / sigma: right as well for small steps, and 0 at "
    "the last, but not Euler and Maruyama."
)
def noise_of_the_posterior(score, x, sigma, sigma_next, z):
    return back(score(x, sigma), x, sigma**2 - sigma_next**2, z * sigma_next / sigma)


@reverse_step.misconception(
    "The noise is that of the next level, sigma_next: what is added is what the score took away."
)
def noise_of_the_next_level(score, x, sigma, sigma_next, z):
    return x + (sigma**2 - sigma_next**2) * score(x, sigma) + sigma_next * z


@reverse_step.misconception("Drift and noise are both twice too large: the variance stands there as it is.")
def twice_the_variance(score, x, sigma, sigma_next, z):
    return back(score(x, sigma), x, 2 * (sigma**2 - sigma_next**2), z)


@reverse_step.equivalent
def in_two_halves(score, x, sigma, sigma_next, z):
    """Half the drift is the flow's; the other half and the noise are a Langevin step."""
    half = (sigma - sigma_next) * (sigma + sigma_next) / 2
    s = score(x, sigma)
    flow = x + half * s
    return flow + half * s + (2 * half) ** 0.5 * z


@reverse_step.equivalent
def by_the_root(score, x, sigma, sigma_next, z):
    root = math.sqrt(sigma**2 - sigma_next**2)
    with torch.no_grad():
        return x + root * (root * score(x, sigma) + z)


@reverse_step.equivalent
def drawn_around_the_mean(score, x, sigma, sigma_next, z):
    x0_hat = x + sigma**2 * score(x, sigma)
    kept = (sigma_next / sigma) ** 2
    mean = kept * x + (1 - kept) * x0_hat
    return torch.add(mean, z, alpha=sigma * (1 - kept) ** 0.5)


# ---- 9 ---------------------------------------------------------------------------------------------------------------

fix_the_corrector = Exercise(
    "score_matching.fix_the_corrector",
    title="Find the bug",
    points=3,
    contract="fix_the_corrector(score, x, sigmas, r, noise, kicks) is x (B, ...) at the last of the falling levels "
    "sigmas, L + 1 numbers: step i of the reverse SDE leads from level i to the next with noise[i] of noise (L, B, "
    "...), then n Langevin steps of size 2 (r sigma)^2, with kicks[i] of kicks (L, n, B, ...), at the level reached.",
    section="score-mistakes",
    returns="x",
    finished=("course_utils.langevin.predictor_corrector",),
)


@fix_the_corrector.solution
def _(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks)


def root_of_two_steps(step):
    return math.sqrt(2 * step)


def reached(sigma, sigma_next):
    return sigma_next


def corrected(score, x, sigmas, r, noise, kicks, drift=1, spread=None, flow=1, asked=None, of=None):
    """Predictor and corrector with changes: factors of the corrector's and the predictor's (flow) drift.

    spread(step) is the factor of a kick, asked(sigma, sigma_next) where the corrector asks the score, and `of` the
    level that its step is measured by.
    """
    spread, asked, of = spread or root_of_two_steps, asked or reached, of or reached
    for i, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        variance = sigma**2 - sigma_next**2
        x = x + flow * variance * score(x, sigma) + math.sqrt(variance) * noise[i]
        step = 2 * (r * of(sigma, sigma_next)) ** 2
        for z in kicks[i]:
            x = x + drift * step * score(x, asked(sigma, sigma_next)) + spread(step) * z
    return x


@fix_the_corrector.inputs
def _(g):
    def inputs(shape, L, n, dtype=torch.float64, score=None):
        sigmas = [2.0 * 0.65**i for i in range(L + 1)]
        x, noise = 2 * randn(g, *shape, dtype=dtype), randn(g, L, *shape, dtype=dtype)
        kicks, r = randn(g, L, n, *shape, dtype=dtype), 0.2 + 0.2 * uniform(g).item()
        score = score or frozen(LevelNet(g))
        return {"score": score, "x": x, "sigmas": sigmas, "r": r, "noise": noise, "kicks": kicks}

    yield "a Gaussian whose score is known", inputs((30, 1), 4, 2, score=exact_score([[0.3]], 0.5))
    for name in ("points in the plane", "a batch of one", "pictures that are not square"):
        yield name, inputs(SHAPES[name][0], 3, 2, torch.float32)
    yield "one step, one kick", inputs((4, 3), 1, 1)
    yield "many kicks", inputs((4, 2), 2, 5)
    yield ELSEWHERE, moved(inputs((4, 3), 1, 1, torch.float32, frozen(PlainNet(g))))


@fix_the_corrector.misconception(
    "This is still the program as it was given: which law does its corrector keep, for a score known exactly?"
)
def as_given(score, x, sigmas, r, noise, kicks):
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        variance = sigma**2 - sigma_next**2
        x = x + variance * score(x, sigma) + math.sqrt(variance) * noise[i]  # predictor
        step = 2 * (r * sigma_next) ** 2
        for z in kicks[i]:  # corrector
            x = x + step * score(x, sigma_next) + math.sqrt(step) * z
    return x


@fix_the_corrector.misconception(
    "The drift was halved, or the step, in place of mending the noise: the law is right, but of size 2 (r sigma)^2 is "
    "the step."
)
def drift_halved_instead(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks, drift=0.5, spread=math.sqrt)


@fix_the_corrector.misconception("The noise of the corrector is now too large: sqrt(2 step), not 2 sqrt(step).")
def noise_doubled(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks, spread=lambda step: 2 * math.sqrt(step))


@fix_the_corrector.misconception(
    "The kicks have lost their root: a step of Langevin dynamics has sqrt(2 step) before its noise."
)
def kicks_without_root(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks, spread=lambda step: 2 * step)


@fix_the_corrector.misconception("The noise of the corrector is gone: it then climbs, and the samples gather.")
def kicks_removed(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks, spread=lambda step: 0)


@fix_the_corrector.misconception(
    "The corrector is gone: what is left, the predictor, is a sampler of its own.", read="reverse-sde"
)
def corrector_removed(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks[:, :0])


@fix_the_corrector.misconception(
    "The corrector asks the score at the old level: after the predictor x has the noise sigma_next.",
    read="predictor-corrector",
)
def corrector_at_the_old_level(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks, asked=lambda sigma, sigma_next: sigma)


@fix_the_corrector.misconception(
    "The corrector's step is measured by the old level: it goes with sigma_next, where x is.",
    read="predictor-corrector",
)
def step_of_the_old_level(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks, of=lambda sigma, sigma_next: sigma)


@fix_the_corrector.misconception(
    "The bug is not in the predictor: its drift is the whole variance, the half belongs to the flow without noise.",
    read="reverse-sde",
)
def predictors_drift_halved(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks, flow=0.5)


@fix_the_corrector.misconception(
    "The predictor's noise was changed, too: it has sqrt(variance), as the SDE is not Langevin's.", read="reverse-sde"
)
def predictors_noise_doubled(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, math.sqrt(2) * noise, kicks)


@fix_the_corrector.misconception("Only the first kick of each level is taken: there are n.", read="predictor-corrector")
def one_kick_a_level(score, x, sigmas, r, noise, kicks):
    return corrected(score, x, sigmas, r, noise, kicks[:, :1])


@fix_the_corrector.misconception(
    "The corrector comes before the predictor: it corrects at the level that the predictor reaches.",
    read="predictor-corrector",
)
def corrector_first(score, x, sigmas, r, noise, kicks):
    for i, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        step = 2 * (r * sigma) ** 2
        for z in kicks[i]:
            x = x + step * score(x, sigma) + math.sqrt(2 * step) * z
        variance = sigma**2 - sigma_next**2
        x = x + variance * score(x, sigma) + math.sqrt(variance) * noise[i]
    return x


@fix_the_corrector.equivalent
def mended(score, x, sigmas, r, noise, kicks):
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        variance = sigma**2 - sigma_next**2
        x = x + variance * score(x, sigma) + math.sqrt(variance) * noise[i]  # predictor
        step = 2 * (r * sigma_next) ** 2
        for z in kicks[i]:  # corrector
            x = x + step * score(x, sigma_next) + math.sqrt(2 * step) * z
    return x


@fix_the_corrector.equivalent
def mended_without_a_root(score, x, sigmas, r, noise, kicks):
    """sqrt(2 step) is 2 r sigma."""
    with torch.no_grad():
        for sigma, sigma_next, z, several in zip(sigmas, sigmas[1:], noise, kicks, strict=False):
            variance = (sigma - sigma_next) * (sigma + sigma_next)
            x = x + variance * score(x, sigma) + variance**0.5 * z
            for kick in several:
                x = x + 2 * r * sigma_next * (r * sigma_next * score(x, sigma_next) + kick)
    return x


@fix_the_corrector.equivalent
def mended_with_half_steps(score, x, sigmas, r, noise, kicks):
    """In the other convention: a / 2 score + sqrt(a) z, with a = 2 step."""
    level = 1
    while level < len(sigmas):
        variance = sigmas[level - 1] ** 2 - sigmas[level] ** 2
        x = x.add(score(x, sigmas[level - 1]), alpha=variance).add(noise[level - 1], alpha=math.sqrt(variance))
        a = 4 * (r * sigmas[level]) ** 2
        for j in range(kicks.shape[1]):
            x = x + a / 2 * score(x, sigmas[level]) + math.sqrt(a) * kicks[level - 1, j]
        level += 1
    return x
