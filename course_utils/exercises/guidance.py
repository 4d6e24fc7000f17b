"""Exercises of chapter 5, classifier-free guidance on CIFAR-10.

x_t = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1, and in the continuous cosine schedule alpha = cos(pi t / 2) and
sigma = sin(pi t / 2). x is (B, ...) of any shape, t (B,), y (B,) labels; a network is called net(x, t, y), and the
label -1 is the null class.

Sources: Salimans & Ho 2022 (section 4, appendix D); Ho & Salimans 2022 (equation 6); Saharia et al. 2022 (section
2.3); Song, Meng & Ermon 2021 (equations 12 and 16); Dowson & Landau 1982.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn

from course_utils.denoiser import Denoiser, from_x0, to_x0
from course_utils.exercises.ddpm_2d import ELSEWHERE, elsewhere
from course_utils.exercises.exercise import Exercise
from course_utils.guidance import cfg as cfg_of
from course_utils.guidance import condition
from course_utils.guidance import dynamic_clip as dynamic_clip_of
from course_utils.metrics import frechet_gaussians
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim
from course_utils.schedules import CosineSchedule

# ---- what the exercises are tried on ---------------------------------------------------------------------------------

CLASSES = 4


class LabelledNet(nn.Module):
    """A stand-in for a network with classes: net(x, t, y) for x of any shape (B, ...), a smooth function of all."""

    def __init__(self, g):
        super().__init__()
        self.weight = nn.Parameter(0.5 + torch.rand(3, generator=g))
        self.label = nn.Parameter(torch.randn(CLASSES + 1, generator=g))
        self.requires_grad_(False)

    def forward(self, x, t, y=None):
        y = checked_labels(x, t, y)
        t, c = (p.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) for p in (t, self.label[y + 1]))
        a, b, d = self.weight
        return a * torch.sin(2 * x + b + c) * torch.cos(3 * t) + d * c * t


def mixture_net(means, std):
    """The oracle: net(x, t, y) is the exact velocity v for classes N(means[c], std^2 I), all equally likely.

    x (B, D), means (K, D); the schedule is the continuous cosine.
    """
    schedule = CosineSchedule(None)
    mixtures = [GaussianMixture(means, std), *(GaussianMixture(m[None], std) for m in means)]  # first the null class
    denoisers = [mixture.denoiser(schedule) for mixture in mixtures]

    def net(x, t, y=None):
        y = checked_labels(x, t, y)
        t = t.double()  # a schedule answers in the precision of the times
        x0 = torch.empty_like(x)
        for c in y.unique().tolist():
            x0[y == c] = denoisers[c + 1](x[y == c], t[y == c])
        return from_x0("v", x0, x, *schedule.at(t, x))

    return net


def checked_labels(x, t, y):
    """The labels, -1 for None; raises TypeError or ValueError, in a student's words, for a call of another form."""
    if not torch.is_tensor(t) or not t.is_floating_point() or t.shape != x.shape[:1]:
        raise ValueError(f"net(x, t, y) takes t as a float tensor of shape (B,) = ({len(x)},), one time a sample")
    y = torch.full_like(t, -1, dtype=torch.long) if y is None else y
    if not torch.is_tensor(y) or y.is_floating_point() or y.shape != x.shape[:1]:
        raise ValueError(f"net(x, t, y) takes y as whole numbers of shape (B,) = ({len(x)},), one label a sample")
    if not x.device == t.device == y.device:
        raise ValueError(f"net(x, t, y) got x on the device {x.device}, t on {t.device} and y on {y.device}")
    if not y.is_meta and not ((y >= -1) & (y < CLASSES)).all():
        raise ValueError(f"labels run from -1 (the null class) to {CLASSES - 1}, not {y.min()} to {y.max()}")
    return y


def settings(g):
    """Random data, noise, times, labels and coefficients of every shape that the answers must serve, with a name."""
    kinds = {
        "a batch of one": ((1, 2), torch.float32),
        "points in the plane": ((7, 2), torch.float32),
        "as many points as dimensions": ((2, 2), torch.float32),
        "pictures that are not square": ((3, 2, 5, 4), torch.float32),
        "clips, in five dimensions": ((2, 3, 2, 4, 3), torch.float32),
        "float64": ((6, 2), torch.float64),
    }
    for name, (shape, dtype) in kinds.items():
        yield name, setting(g, shape, dtype)


def setting(g, shape, dtype=torch.float32):
    """x0, x, noise (B, ...), t (B,) in [0.1, 0.9], y (B,), alpha and sigma (B, 1, ..., 1) for samples of one shape."""
    x0, x, noise = (torch.randn(shape, dtype=dtype, generator=g) for _ in range(3))
    t = 0.1 + 0.8 * torch.rand(shape[0], dtype=dtype, generator=g)
    y = torch.randint(0, CLASSES, shape[:1], generator=g)
    alpha, sigma = cosine(t, x)
    return SimpleNamespace(x0=x0, x=x, noise=noise, t=t, y=y, alpha=alpha, sigma=sigma)


def cosine(t, x):
    """alpha and sigma of the continuous cosine schedule, (B, 1, ..., 1), so that they multiply x of shape (B, ...)."""
    angle = (math.pi / 2 * t).reshape(-1, *[1] * (x.ndim - 1))
    return angle.cos(), angle.sin()


# ---- 4 ---------------------------------------------------------------------------------------------------------------

v_target = Exercise(
    "guidance.v_target",
    title="The velocity",
    points=2,
    contract="v_target(x0, t, noise) is the pair (x_t, v): x_t = alpha x0 + sigma noise and v = alpha noise - sigma x0 "
    "with alpha = cos(pi t / 2) and sigma = sin(pi t / 2), for x0 (B, ...) of any shape with times t (B,).",
    section="v-prediction",
    returns=("x_t", "v"),
    finished=("course_utils.denoiser.from_x0", "course_utils.schedules.CosineSchedule"),
)


@v_target.solution
def _(x0, t, noise):
    schedule = CosineSchedule(None)
    t = t.double()
    x = schedule.add_noise(x0.double(), t, noise.double())
    return x.to(x0), from_x0("v", x0.double(), x, *schedule.at(t, x)).to(x0)


@v_target.inputs
def _(g):
    for name, s in settings(g):
        yield name, {"x0": s.x0, "t": s.t, "noise": s.noise}
    s = setting(g, (3, 2))
    yield "early, in the middle and late", {"x0": s.x0, "t": torch.tensor([0.02, 0.5, 0.98]), "noise": s.noise}
    s = setting(g, (3, 2, 4, 4))
    yield ELSEWHERE, elsewhere({"x0": s.x0, "t": s.t, "noise": s.noise})


def turned(x0, noise, alpha, sigma):
    return alpha * x0 + sigma * noise, alpha * noise - sigma * x0


@v_target.misconception("v has its sign turned: it is alpha noise - sigma x0, the derivative of x_t in the angle.")
def v_sign_turned(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return alpha * x0 + sigma * noise, sigma * x0 - alpha * noise


@v_target.misconception("This v is alpha x0 - sigma noise: x0 and noise have changed places.")
def v_of_the_wrong_two(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return alpha * x0 + sigma * noise, alpha * x0 - sigma * noise


@v_target.misconception("The two coefficients in v are swapped: alpha goes with the noise, sigma with x0.")
def v_coefficients_swapped(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return alpha * x0 + sigma * noise, sigma * noise - alpha * x0


@v_target.misconception("v is a difference: alpha noise minus sigma x0. The sum alone does not determine x0.")
def v_with_a_plus(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return alpha * x0 + sigma * noise, alpha * noise + sigma * x0


@v_target.misconception("The target is the noise itself: that is the eps-prediction of the earlier chapters.")
def noise_as_target(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return alpha * x0 + sigma * noise, noise


@v_target.misconception(
    "v is noise - x0, the velocity of a straight path: on the cosine schedule alpha and sigma weigh them."
)
def straight_velocity(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return alpha * x0 + sigma * noise, noise - x0


@v_target.misconception(
    "v is made from x_t in place of x0: x_t is what the network sees, x0 and the noise are its parts."
)
def v_from_the_noisy(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    x = alpha * x0 + sigma * noise
    return x, alpha * noise - sigma * x


@v_target.misconception("alpha and sigma are swapped throughout: t = 0 is the data, so alpha(0) = 1.")
def schedule_upside_down(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return turned(x0, noise, sigma, alpha)


@v_target.misconception("The angle is pi t, twice too far: from data to noise is a quarter of a turn, pi t / 2.")
def half_turn(x0, t, noise):
    return turned(x0, noise, *cosine(2 * t, x0))


@v_target.misconception(
    "These are alpha^2 and sigma^2, the shares of the variance: what multiplies is cos and sin themselves."
)
def coefficients_squared(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return turned(x0, noise, alpha**2, sigma**2)


@v_target.misconception(
    "A second noise is drawn for v: target and x_t must share the noise, or there is nothing to learn."
)
def v_of_a_second_noise(x0, t, noise):
    alpha, sigma = cosine(t, x0)
    return alpha * x0 + sigma * noise, alpha * torch.randn_like(x0) - sigma * x0


@v_target.misconception("The coefficients have shape (B,) and meet the last dimension of x0: make it (B, 1, ...).")
def times_not_broadcast(x0, t, noise):
    return turned(x0, noise, (math.pi / 2 * t).cos(), (math.pi / 2 * t).sin())


@v_target.misconception("[:, None] serves points (B, 2) only: make as many ones as x0 has further dimensions.")
def for_points_only(x0, t, noise):
    angle = (math.pi / 2 * t)[:, None]
    return turned(x0, noise, angle.cos(), angle.sin())


@v_target.misconception("[:, None, None, None] serves pictures only: make as many ones as x0 has further dimensions.")
def for_pictures_only(x0, t, noise):
    angle = (math.pi / 2 * t)[:, None, None, None]
    return turned(x0, noise, angle.cos(), angle.sin())


@v_target.misconception("This v is the derivative of x_t in t: that in the angle, pi t / 2, has no factor pi / 2.")
def derivative_in_time(x0, t, noise):
    x, v = turned(x0, noise, *cosine(t, x0))
    return x, math.pi / 2 * v


@v_target.equivalent
def through_the_noisy(x0, t, noise):
    alpha = torch.cos(t * math.pi / 2).reshape(-1, *[1] * (x0.ndim - 1))
    sigma = (1 - alpha**2).sqrt()
    x = alpha * x0 + sigma * noise
    return x, (noise - sigma * x) / alpha


@v_target.equivalent
def as_a_rotation(x0, t, noise):
    angle = (t * math.pi / 2).view(-1, *[1] * (x0.dim() - 1))
    pair = torch.complex(x0, noise) * torch.polar(torch.ones_like(angle), -angle)
    return pair.real, pair.imag


@v_target.equivalent
def by_the_derivative(x0, t, noise):
    def path(angle):
        angle = angle.reshape(-1, *[1] * (x0.ndim - 1))
        return angle.cos() * x0 + angle.sin() * noise

    return torch.func.jvp(path, (math.pi / 2 * t,), (torch.ones_like(t),))


@v_target.equivalent
def target_sample_by_sample(x0, t, noise):
    pairs = [(torch.cos(s * math.pi / 2), torch.sin(s * math.pi / 2)) for s in t]
    x = [a * d + b * e for (a, b), d, e in zip(pairs, x0, noise, strict=True)]
    v = [a * e - b * d for (a, b), d, e in zip(pairs, x0, noise, strict=True)]
    return torch.stack(x), torch.stack(v)


# ---- 5 ---------------------------------------------------------------------------------------------------------------

convert = Exercise(
    "guidance.convert",
    title="Four ways to say the same",
    points=2,
    contract="convert(kind, out, x, alpha, sigma) is the tuple (x0, eps, v, score) for x = alpha x0 + sigma eps, where "
    'the network said `out`, which is "eps", "x0", "v" or "score" as `kind` says; alpha^2 + sigma^2 = 1, and both '
    "broadcast against x (B, ...).",
    section="conversions",
    returns=("x0", "eps", "v", "score"),
    finished=("course_utils.denoiser.to_x0", "course_utils.denoiser.from_x0"),
)


@convert.solution
def _(kind, out, x, alpha, sigma):
    x0 = to_x0(kind, out, x, alpha, sigma)
    return tuple(from_x0(k, x0, x, alpha, sigma) for k in ("x0", "eps", "v", "score"))


@convert.inputs
def _(g):
    for kind in ("eps", "x0", "v", "score"):
        for form, shape, dtype in (
            ("points", (4, 2), torch.float64),
            ("a batch of one", (1, 3), torch.float32),
            ("pictures that are not square", (2, 3, 4, 2), torch.float32),
        ):
            s = setting(g, shape, dtype)
            inputs = {"kind": kind, "out": s.x0, "x": s.x, "alpha": s.alpha, "sigma": s.sigma}
            yield f"{form}, the network says {kind}", inputs


def data_of(kind, out, x, alpha, sigma):
    if kind == "x0":
        return out
    if kind == "v":
        return alpha * x - sigma * out
    eps = -sigma * out if kind == "score" else out
    return (x - sigma * eps) / alpha


def noise_of(x0, x, alpha, sigma):
    return (x - alpha * x0) / sigma


def all_four(x0, eps, alpha, sigma):
    return x0, eps, alpha * eps - sigma * x0, -eps / sigma


@convert.misconception("Whatever the network says is taken for the noise: look at `kind`.")
def kind_not_looked_at(kind, out, x, alpha, sigma):
    return all_four((x - sigma * out) / alpha, out, alpha, sigma)


@convert.misconception(
    "From v, the data is alpha x - sigma v; with a plus sign this would be right for a v of the opposite sign."
)
def data_from_v_with_a_plus(kind, out, x, alpha, sigma):
    x0 = alpha * x + sigma * out if kind == "v" else data_of(kind, out, x, alpha, sigma)
    return all_four(x0, noise_of(x0, x, alpha, sigma), alpha, sigma)


@convert.misconception("From v, the data is alpha x - sigma v: here alpha and sigma have changed places.")
def data_from_v_swapped(kind, out, x, alpha, sigma):
    x0 = sigma * x - alpha * out if kind == "v" else data_of(kind, out, x, alpha, sigma)
    return all_four(x0, noise_of(x0, x, alpha, sigma), alpha, sigma)


@convert.misconception("The third result is alpha x0 - sigma eps: v is alpha eps - sigma x0.")
def v_said_of_the_wrong_two(kind, out, x, alpha, sigma):
    x0 = data_of(kind, out, x, alpha, sigma)
    eps = noise_of(x0, x, alpha, sigma)
    return x0, eps, alpha * x0 - sigma * eps, -eps / sigma


@convert.misconception("The score has the wrong sign: it points against the noise, score = -eps / sigma.")
def score_along_the_noise(kind, out, x, alpha, sigma):
    x0 = data_of(kind, -out if kind == "score" else out, x, alpha, sigma)
    eps = noise_of(x0, x, alpha, sigma)
    return x0, eps, alpha * eps - sigma * x0, eps / sigma


@convert.misconception("The score is not divided by sigma: score = -eps / sigma.")
def score_without_sigma(kind, out, x, alpha, sigma):
    x0 = data_of("eps", -out, x, alpha, sigma) if kind == "score" else data_of(kind, out, x, alpha, sigma)
    eps = noise_of(x0, x, alpha, sigma)
    return x0, eps, alpha * eps - sigma * x0, -eps


@convert.misconception("The score is eps over the variance: x - alpha x0 is divided by sigma^2, but eps only by sigma.")
def score_over_the_variance(kind, out, x, alpha, sigma):
    x0 = data_of("score", sigma * out, x, alpha, sigma) if kind == "score" else data_of(kind, out, x, alpha, sigma)
    eps = noise_of(x0, x, alpha, sigma)
    return x0, eps, alpha * eps - sigma * x0, -eps / sigma**2


@convert.misconception("Tweedie's formula moves x by sigma^2 times the score: here it is sigma times.")
def tweedie_without_the_square(kind, out, x, alpha, sigma):
    x0 = (x + sigma * out) / alpha if kind == "score" else data_of(kind, out, x, alpha, sigma)
    return all_four(x0, noise_of(x0, x, alpha, sigma), alpha, sigma)


@convert.misconception("x less its noise is alpha x0: it still has to be divided by alpha.")
def not_divided_by_alpha(kind, out, x, alpha, sigma):
    x0 = data_of(kind, out, x, alpha, sigma)
    x0 = alpha * x0 if kind in ("eps", "score") else x0
    return all_four(x0, noise_of(x0, x, alpha, sigma), alpha, sigma)


@convert.misconception("x - alpha x0 is sigma eps: it still has to be divided by sigma.")
def not_divided_by_sigma(kind, out, x, alpha, sigma):
    x0 = data_of(kind, out, x, alpha, sigma)
    return all_four(x0, out if kind == "eps" else x - alpha * x0, alpha, sigma)


@convert.misconception("eps is (x - x0) / sigma here: the data in x is scaled, so take away alpha x0.")
def data_taken_away_whole(kind, out, x, alpha, sigma):
    x0 = data_of(kind, out, x, alpha, sigma)
    return all_four(x0, out if kind == "eps" else (x - x0) / sigma, alpha, sigma)


@convert.misconception("alpha is taken for alpha_bar and gets another square root: x = alpha x0 + sigma eps has none.")
def another_square_root(kind, out, x, alpha, sigma):
    a, s = alpha.sqrt(), (1 - alpha).sqrt()
    x0 = data_of(kind, out, x, a, s)
    return all_four(x0, noise_of(x0, x, a, s), a, s)


@convert.misconception("The first two results are swapped: x0 comes first, then eps.")
def data_and_noise_swapped(kind, out, x, alpha, sigma):
    x0 = data_of(kind, out, x, alpha, sigma)
    _, eps, v, score = all_four(x0, noise_of(x0, x, alpha, sigma), alpha, sigma)
    return eps, x0, v, score


@convert.equivalent
def through_the_noise(kind, out, x, alpha, sigma):
    if kind == "x0":
        eps = (x - alpha * out) / sigma
    elif kind == "v":
        eps = sigma * x + alpha * out
    elif kind == "score":
        eps = -out * sigma
    else:
        eps = out
    x0 = (x - sigma * eps) / alpha
    return x0, eps, (eps - sigma * x) / alpha, eps / -sigma


@convert.equivalent
def through_the_velocity(kind, out, x, alpha, sigma):
    velocity = {
        "v": lambda: out,
        "x0": lambda: (alpha * x - out) / sigma,
        "eps": lambda: (out - sigma * x) / alpha,
        "score": lambda: -(out + x) * sigma / alpha,
    }
    v = velocity[kind]()
    x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
    return [x0, eps, v, -eps / sigma]


@convert.equivalent
def by_solving_two_equations(kind, out, x, alpha, sigma):
    """x and out are two rows of a matrix times (x0, eps)."""
    a, s = alpha.double().expand(x.shape), sigma.double().expand(x.shape)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    row = {"x0": (one, zero), "eps": (zero, one), "v": (-s, a), "score": (zero, -1 / s)}
    matrix = torch.stack([torch.stack([a, s], -1), torch.stack(row[kind], -1)], -2)  # (B, ..., 2, 2)
    both = torch.linalg.solve(matrix, torch.stack([x.double(), out.double()], -1).unsqueeze(-1)).squeeze(-1)
    x0, eps = both.to(x.dtype).unbind(-1)
    return x0, eps, alpha * eps - sigma * x0, -eps / sigma


# ---- 6 ---------------------------------------------------------------------------------------------------------------

guided_score = Exercise(
    "guidance.guided_score",
    title="Guidance, exactly",
    points=3,
    contract="guided_score(x, y, means, std, scale) is the gradient at x (B, D) of log p(x) + scale log p(y | x), "
    "where p is the equal mixture of the classes N(means[c], std^2 I), means (K, D), and y (B,) the classes asked for.",
    section="guidance",
    returns="score",
    finished=("course_utils.mixtures.GaussianMixture", "course_utils.guidance.cfg"),
)


@guided_score.solution
def _(x, y, means, std, scale):
    unconditional = GaussianMixture(means, std).score(x)
    conditional = torch.empty_like(x)
    for c in y.unique():  # not point by point: a lab runs this thousands of times
        conditional[y == c] = GaussianMixture(means[c][None], std).score(x[y == c])
    return cfg_of(lambda *_: conditional, lambda *_: unconditional, scale)(x, 0)


@guided_score.inputs
def _(g):
    def inputs(B, K, D, std, scale, dtype=torch.float32):
        means = torch.randn(K, D, dtype=dtype, generator=g)
        y = torch.randint(0, K, (B,), generator=g)
        x = means[y] + torch.randn(B, D, dtype=dtype, generator=g)
        return {"x": x, "y": y, "means": means, "std": std, "scale": scale}

    yield "scale 0, unconditional", inputs(4, 3, 2, 0.8, 0.0)
    yield "scale 1, conditional", inputs(4, 3, 2, 0.7, 1.0)
    yield "guided, in the plane", inputs(7, 4, 2, 0.6, 3.0)
    yield "a batch of one, two classes on a line", inputs(1, 2, 1, 0.75, 2.0)
    yield "as many points as classes and dimensions", inputs(3, 3, 3, 1.25, 1.5)
    yield "float64", inputs(5, 3, 4, 0.9, 4.0, torch.float64)


def class_weights(x, means, std):
    """p(c | x): (B, K)."""
    return (-torch.cdist(x, means).square() / (2 * std**2)).softmax(1)


def both_scores(x, y, means, std):
    """The scores of p(x | y) and of p(x)."""
    return (means[y] - x) / std**2, (class_weights(x, means, std) @ means - x) / std**2


@guided_score.misconception(
    "The classifier's gradient is added to the conditional score: p(x | y) has it once already, so scale 1 is too much."
)
def added_to_the_conditional(x, y, means, std, scale):
    conditional, unconditional = both_scores(x, y, means, std)
    return conditional + scale * (conditional - unconditional)


@guided_score.misconception(
    "The mixture's score is not the mean of the classes' scores: each counts by how likely it is at x, p(c | x).",
    read="overshoot",
)
def all_classes_alike(x, y, means, std, scale):
    conditional = (means[y] - x) / std**2
    unconditional = (means.mean(0) - x) / std**2
    return unconditional + scale * (conditional - unconditional)


@guided_score.misconception(
    "Only the class nearest to x counts in the mixture's score: weigh all by p(c | x).", read="overshoot"
)
def nearest_class_only(x, y, means, std, scale):
    conditional = (means[y] - x) / std**2
    unconditional = (means[class_weights(x, means, std).argmax(1)] - x) / std**2
    return unconditional + scale * (conditional - unconditional)


@guided_score.misconception("The scores are divided by std: the score of a Gaussian is (mean - x) / std^2.")
def divided_by_the_deviation(x, y, means, std, scale):
    conditional, unconditional = (score * std for score in both_scores(x, y, means, std))
    return unconditional + scale * (conditional - unconditional)


@guided_score.misconception(
    "The scores point away from the means: the gradient of log p climbs, so it is (mean - x) / std^2."
)
def away_from_the_means(x, y, means, std, scale):
    conditional, unconditional = both_scores(x, y, means, std)
    return -unconditional - scale * (conditional - unconditional)


@guided_score.misconception(
    "The factor 1/2 is missing in p(c | x): a Gaussian's exponent is -distance^2 / (2 std^2).", read="overshoot"
)
def exponent_without_the_half(x, y, means, std, scale):
    conditional = (means[y] - x) / std**2
    weights = (-torch.cdist(x, means).square() / std**2).softmax(1)
    unconditional = (weights @ means - x) / std**2
    return unconditional + scale * (conditional - unconditional)


@guided_score.misconception(
    "p(c | x) falls with the distance here, not with its square: these are not Gaussians.", read="overshoot"
)
def distance_not_squared(x, y, means, std, scale):
    conditional = (means[y] - x) / std**2
    weights = (-torch.cdist(x, means) / (2 * std**2)).softmax(1)
    unconditional = (weights @ means - x) / std**2
    return unconditional + scale * (conditional - unconditional)


@guided_score.misconception(
    "The softmax of p(c | x) runs over the points: for one x the classes must sum to 1.", read="overshoot"
)
def classes_softmax_over_points(x, y, means, std, scale):
    conditional = (means[y] - x) / std**2
    weights = (-torch.cdist(x, means).square() / (2 * std**2)).softmax(0)
    unconditional = (weights @ means - x) / std**2
    return unconditional + scale * (conditional - unconditional)


@guided_score.misconception("log p(x) is missing: this is scale times the gradient of log p(y | x) alone.")
def classifier_only(x, y, means, std, scale):
    conditional, unconditional = both_scores(x, y, means, std)
    return scale * (conditional - unconditional)


@guided_score.misconception("This is p(x) times p(x | y)^scale: Bayes' rule divides by p(x) inside p(y | x).")
def likelihood_for_posterior(x, y, means, std, scale):
    conditional, unconditional = both_scores(x, y, means, std)
    return unconditional + scale * conditional


@guided_score.misconception("The whole score is multiplied by the scale: it belongs to log p(y | x) only.")
def all_of_it_scaled(x, y, means, std, scale):
    return scale * both_scores(x, y, means, std)[0]


@guided_score.misconception("All points are drawn to the class of the first: each has its own y.")
def class_of_the_first(x, y, means, std, scale):
    conditional, unconditional = both_scores(x, y[:1], means, std)
    return unconditional + scale * (conditional - unconditional)


@guided_score.misconception(
    "The class and the mixture are swapped: start from the score of p(x) and go towards that of p(x | y)."
)
def class_and_mixture_swapped(x, y, means, std, scale):
    conditional, unconditional = both_scores(x, y, means, std)
    return conditional + scale * (unconditional - conditional)


@guided_score.misconception(
    "In p(c | x) the squared distance is divided by 2 std: a Gaussian's exponent has 2 std^2 there.", read="overshoot"
)
def exponent_over_the_deviation(x, y, means, std, scale):
    conditional = (means[y] - x) / std**2
    unconditional = (class_weights(x, means, std**0.5) @ means - x) / std**2
    return unconditional + scale * (conditional - unconditional)


@guided_score.misconception("std stands in place of std^2, in p(c | x) and in the scores: both have the variance.")
def deviation_everywhere(x, y, means, std, scale):
    conditional, unconditional = both_scores(x, y, means, std**0.5)
    return unconditional + scale * (conditional - unconditional)


@guided_score.equivalent
def by_autograd(x, y, means, std, scale):
    x = x.detach().requires_grad_()
    log_joint = -(x[:, None] - means).square().sum(-1) / (2 * std**2)
    log_p = log_joint.logsumexp(1)
    log_class = log_joint[torch.arange(len(x)), y] - log_p
    return torch.autograd.grad((log_p + scale * log_class).sum(), x)[0]


@guided_score.equivalent
def from_the_two_scores(x, y, means, std, scale):
    distance2 = (x[:, None, :] - means[None]).pow(2).sum(2)
    weights = torch.softmax(-0.5 * distance2 / std**2, dim=1)
    conditional, unconditional = (means[y] - x) / std**2, (weights @ means - x) / std**2
    return (1 - scale) * unconditional + scale * conditional


@guided_score.equivalent
def as_a_moved_mean(x, y, means, std, scale):
    rows = []
    for point, label in zip(x, y.tolist(), strict=True):
        density = torch.exp(-((point - means) ** 2).sum(1) / (2 * std * std))
        mean = (density[:, None] * means).sum(0) / density.sum()
        rows.append((mean + scale * (means[label] - mean) - point) / (std * std))
    return torch.stack(rows)


# ---- 7 ---------------------------------------------------------------------------------------------------------------

cfg = Exercise(
    "guidance.cfg",
    title="Classifier-free guidance",
    points=2,
    contract="cfg(net, x, t, y, scale) is the guided prediction of net(x, t, y) for labels y (B,): at scale 0 that of "
    "the null class, label -1; at scale 1 that of y; and in between and beyond on the straight line through the two.",
    section="guidance",
    returns="guided",
    finished=("course_utils.guidance.cfg", "course_utils.guidance.condition"),
)


@cfg.solution
def _(net, x, t, y, scale):
    return cfg_of(condition(net, y), condition(net, None), scale)(x, t)


@cfg.inputs
def _(g):
    def inputs(s, scale):
        return {"net": LabelledNet(g), "x": s.x, "t": s.t, "y": s.y, "scale": scale}

    for name, s in settings(g):
        yield name, inputs(s, 1.25 + 4 * torch.rand((), generator=g).item())
    s = setting(g, (5, 3))
    yield "scale 0: unconditional", inputs(s, 0.0)
    yield "scale 1: conditional", inputs(s, 1.0)
    yield "scale 7, the labels of four classes", inputs(SimpleNamespace(x=s.x, t=s.t, y=torch.arange(5) % 4), 7.0)
    yield ELSEWHERE, elsewhere(inputs(s, 2.0))


def with_and_without(net, x, t, y):
    """The predictions with the labels and with the null class."""
    return net(x, t, y), net(x, t, torch.full_like(y, -1))


@cfg.misconception(
    "The difference is added to the conditional prediction: scale 1 must give that itself, so start from the "
    "unconditional one."
)
def one_too_much(net, x, t, y, scale):
    conditional, unconditional = with_and_without(net, x, t, y)
    return conditional + scale * (conditional - unconditional)


@cfg.misconception(
    "Conditional and unconditional are swapped (the halves of a doubled batch?): more scale, less of the class.",
    read="guidance-mistakes",
)
def roles_swapped(net, x, t, y, scale):
    conditional, unconditional = with_and_without(net, x, t, y)
    return conditional + scale * (unconditional - conditional)


@cfg.misconception("scale c - (scale - 1) c is c: the scale cancels. The second term is the unconditional prediction.")
def scale_cancels(net, x, t, y, scale):
    conditional, _ = with_and_without(net, x, t, y)
    return scale * conditional - (scale - 1) * conditional


@cfg.misconception("The weights don't sum to 1: what is multiplied by the scale is conditional - unconditional.")
def weights_do_not_sum_to_one(net, x, t, y, scale):
    conditional, unconditional = with_and_without(net, x, t, y)
    return unconditional + scale * conditional


@cfg.misconception("Only the difference is returned: the unconditional prediction, its start, is missing.")
def difference_only(net, x, t, y, scale):
    conditional, unconditional = with_and_without(net, x, t, y)
    return scale * (conditional - unconditional)


@cfg.misconception("The guidance is added to x: it belongs to the network's prediction.")
def added_to_x(net, x, t, y, scale):
    conditional, unconditional = with_and_without(net, x, t, y)
    return x + scale * (conditional - unconditional)


@cfg.misconception("Label 0 stands for the null class: 0 is a real class, the null class is -1.")
def null_is_class_zero(net, x, t, y, scale):
    conditional, unconditional = net(x, t, y), net(x, t, torch.zeros_like(y))
    return unconditional + scale * (conditional - unconditional)


@cfg.misconception("The labels never reach the network: both predictions are unconditional, whatever the scale.")
def labels_never_used(net, x, t, y, scale):
    _, unconditional = with_and_without(net, x, t, y)
    return unconditional + scale * (unconditional - unconditional)


@cfg.misconception("All samples get the label of the first: each has its own y.")
def label_of_the_first(net, x, t, y, scale):
    conditional, unconditional = with_and_without(net, x, t, y[:1].expand(len(x)))
    return unconditional + scale * (conditional - unconditional)


@cfg.misconception(
    "The doubled batch was made by repeat_interleave, x1, x1, x2, x2, ..., but its halves are x1, x2, ... twice: use "
    "torch.cat."
)
def doubled_in_pairs(net, x, t, y, scale):
    labels = torch.cat([y, torch.full_like(y, -1)])
    both = net(x.repeat_interleave(2, 0), t.repeat_interleave(2), labels)
    conditional, unconditional = both.chunk(2)
    return unconditional + scale * (conditional - unconditional)


@cfg.misconception("repeat(2, 1) doubles points (B, 2) only: torch.cat([x, x]) serves every shape.")
def doubles_points_only(net, x, t, y, scale):
    labels = torch.cat([y, torch.full_like(y, -1)])
    conditional, unconditional = net(x.repeat(2, 1), t.repeat(2), labels).chunk(2)
    return unconditional + scale * (conditional - unconditional)


@cfg.misconception("The scale stops at 1: guidance goes beyond the conditional prediction.")
def scale_kept_below_one(net, x, t, y, scale):
    conditional, unconditional = with_and_without(net, x, t, y)
    return unconditional + min(scale, 1.0) * (conditional - unconditional)


@cfg.misconception("The null labels are made on the processor wherever y is: torch.full_like(y, -1) follows it.")
def null_labels_on_the_cpu(net, x, t, y, scale):
    conditional, unconditional = net(x, t, y), net(x, t, torch.full((len(x),), -1))
    return unconditional + scale * (conditional - unconditional)


@cfg.equivalent
def guided_in_one_doubled_batch(net, x, t, y, scale):
    labels = torch.cat([y, -torch.ones_like(y)])
    conditional, unconditional = net(torch.cat([x, x]), torch.cat([t, t]), labels).chunk(2)
    return unconditional + scale * (conditional - unconditional)


@cfg.equivalent
def guided_with_weights(net, x, t, y, scale):
    with torch.no_grad():
        return scale * net(x, t, y) - (scale - 1) * net(x, t)


@cfg.equivalent
def guided_by_lerp(net, x, t, y, scale):
    return torch.lerp(net(x, t, torch.full_like(y, -1)), net(x, t, y), scale)


@cfg.equivalent
def guided_beyond_the_conditional(net, x, t, y, scale):
    conditional = net(x, t, y)
    return conditional + (scale - 1) * (conditional - net(x, t, None))


# ---- 8 ---------------------------------------------------------------------------------------------------------------

dynamic_clip = Exercise(
    "guidance.dynamic_clip",
    title="Dynamic clipping",
    points=2,
    contract="dynamic_clip(x0, q) is x0 (B, ...) clipped to [-s, s] and divided by s, where each sample has its own s: "
    "torch.quantile at q, linear as by default, of the absolute values of all its entries, but at least 1.",
    section="clipping",
    returns="x0",
    finished=("course_utils.guidance.dynamic_clip",),
    tolerance={torch.float64: 1e-6, torch.float32: 1e-4},  # the course's quantile is taken in float32
)


@dynamic_clip.solution
def _(x0, q):
    return dynamic_clip_of(lambda x, t: x0, q)(x0, 0)


@dynamic_clip.inputs
def _(g):
    def inputs(shape, q, size, dtype=torch.float32):
        sizes = torch.as_tensor(size, dtype=dtype).reshape(-1, *[1] * (len(shape) - 1))
        return {"x0": 0.25 + sizes * torch.randn(shape, dtype=dtype, generator=g), "q": q}

    yield "pictures, some of them far too bright", inputs((4, 3, 5, 4), 0.9, [0.5, 1.0, 2.0, 4.0])
    yield "one picture", inputs((1, 3, 4, 4), 0.95, 3.0)
    yield "pictures within the range", {"x0": 2 * torch.rand(2, 3, 4, 4, generator=g) - 1, "q": 0.9}
    yield "points", inputs((5, 6), 0.75, 2.0)
    yield "the median", inputs((3, 1, 6, 5), 0.5, [2.0, 3.0, 5.0])
    yield "float64", inputs((2, 3, 4, 2), 0.8, 2.5, torch.float64)
    yield ELSEWHERE, elsewhere(inputs((2, 3, 4, 4), 0.9, 2.0))


def clipped_to(s, x0):
    return x0.clamp(-s, s) / s


def size_of(x0, q):
    """The quantile of the absolute values of each sample, (B, 1, ..., 1), not yet at least 1."""
    return x0.abs().flatten(1).quantile(q, 1).reshape(-1, *[1] * (x0.ndim - 1))


@dynamic_clip.misconception("One quantile serves the whole batch: a picture's result then depends on the others.")
def one_quantile_for_all(x0, q):
    return clipped_to(x0.abs().quantile(q).clamp(min=1), x0)


@dynamic_clip.misconception("Each channel has its own quantile: that shifts the colours. Take all entries of a sample.")
def quantile_of_each_channel(x0, q):
    s = x0.abs().flatten(2).quantile(q, 2, keepdim=True) if x0.ndim > 2 else x0.abs()
    return clipped_to(s.clamp(min=1).reshape(*x0.shape[:2], *[1] * (x0.ndim - 2)), x0)


@dynamic_clip.misconception("The quantile is that of the entries themselves: very dark ones count too, so take |x0|.")
def without_absolute_values(x0, q):
    s = x0.flatten(1).quantile(q, 1).clamp(min=1).reshape(-1, *[1] * (x0.ndim - 1))
    return clipped_to(s, x0)


@dynamic_clip.misconception("s may fall below 1 here: a picture within the range must stay as it is.")
def stretched_to_the_range(x0, q):
    return clipped_to(size_of(x0, q), x0)


@dynamic_clip.misconception("The sizes s have shape (B,) and meet the last dimension of x0: make it (B, 1, ..., 1).")
def sizes_not_broadcast(x0, q):
    return clipped_to(size_of(x0, q).clamp(min=1).flatten(), x0)


@dynamic_clip.misconception(
    "[:, None, None, None] serves pictures only: make as many ones as x0 has further dimensions."
)
def clips_pictures_only(x0, q):
    return clipped_to(size_of(x0, q).clamp(min=1).flatten()[:, None, None, None], x0)


@dynamic_clip.misconception("The clipped x0 is not divided by s: it still leaves [-1, 1].")
def clipped_not_divided(x0, q):
    s = size_of(x0, q).clamp(min=1)
    return x0.clamp(-s, s)


@dynamic_clip.misconception("x0 is divided by s, but not clipped to [-s, s] before: what exceeds s leaves [-1, 1].")
def divided_not_clipped(x0, q):
    return x0 / size_of(x0, q).clamp(min=1)


@dynamic_clip.misconception(
    "This is plain clipping to [-1, 1], which saturates guided pictures: take the quantile before anything is clipped."
)
def clipped_to_one(x0, q):
    return x0.clamp(-1, 1)


@dynamic_clip.misconception("s is the largest absolute value: one stray pixel then makes the whole picture grey.")
def largest_for_the_quantile(x0, q):
    return clipped_to(size_of(x0, 1.0).clamp(min=1), x0)


@dynamic_clip.misconception("s is at most 1 here, and that is where it must start: at least 1.")
def at_most_one(x0, q):
    return clipped_to(size_of(x0, q).clamp(max=1), x0)


@dynamic_clip.misconception("The quantile is taken at 1 - q: at q = 0.9, nine tenths of the entries lie below s.")
def from_the_other_end(x0, q):
    return clipped_to(size_of(x0, 1 - q).clamp(min=1), x0)


@dynamic_clip.misconception("x0 is divided by s twice: clip to [-s, s], and divide once.")
def divided_twice(x0, q):
    s = size_of(x0, q).clamp(min=1)
    return clipped_to(s, x0) / s


@dynamic_clip.equivalent
def picture_by_picture(x0, q):
    results = []
    for x in x0:
        s = max(1.0, torch.quantile(x.abs(), q).item()) if not x.is_meta else 1.0
        results.append((x / s).clamp(-1, 1))
    return torch.stack(results)


@dynamic_clip.equivalent
def quantile_from_sorting(x0, q):
    sizes = x0.abs().reshape(len(x0), -1).sort(1).values
    place = q * (sizes.shape[1] - 1)
    low = int(place)
    high = min(low + 1, sizes.shape[1] - 1)
    s = sizes[:, low] + (place - low) * (sizes[:, high] - sizes[:, low])
    s = torch.maximum(s, torch.ones_like(s)).view(-1, *([1] * (x0.dim() - 1)))
    return torch.minimum(torch.maximum(x0, -s), s) / s


@dynamic_clip.equivalent
def by_the_sign(x0, q):
    s = torch.quantile(x0.flatten(1).abs(), q, dim=1, keepdim=True).clamp_min(1)
    flat = x0.flatten(1)
    return (flat.sign() * torch.minimum(flat.abs() / s, torch.ones_like(flat))).view_as(x0)


# ---- 9 ---------------------------------------------------------------------------------------------------------------

ddim_step = Exercise(
    "guidance.ddim_step",
    title="DDIM with eta",
    points=3,
    contract="ddim_step(x0_hat, x, alpha_bar, alpha_bar_next, eta, z) is DDIM's equation 12 with the std of "
    "equation 16 (its sigma) and the given normal z: from x (B, ...) at alpha_bar to the less noisy alpha_bar_next "
    "(alpha^2 of either time, float64 tensors without dimensions), given x0_hat, the predicted data.",
    section="ddim-eta",
    returns="x at the next time",
    finished=("course_utils.samplers.ddim",),
)


@ddim_step.solution
def _(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    eps = from_x0("eps", x0_hat, x, math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = math.sqrt(max(0.0, 1 - alpha_bar_next - std**2))
    return math.sqrt(alpha_bar_next) * x0_hat + direction * eps + std * z


@ddim_step.inputs
def _(g):
    def inputs(shape, eta, levels=None, dtype=torch.float32):
        x0, x, z = (torch.randn(shape, dtype=dtype, generator=g) for _ in range(3))
        low, high = (0.05 + 0.9 * torch.rand(2, generator=g)).sort().values.tolist()
        before, after = (torch.tensor(level, dtype=torch.float64) for level in levels or (0.8 * low, high))
        return {"x0_hat": x0, "x": x, "alpha_bar": before, "alpha_bar_next": after, "eta": eta, "z": z}

    yield "eta = 0, no noise", inputs((5, 2), 0.0)
    yield "eta = 1, ancestral sampling", inputs((5, 2), 1.0)
    yield "a little noise", inputs((4, 3), 0.25)
    yield "half the noise, pictures", inputs((2, 3, 4, 3), 0.5)
    yield "a batch of one", inputs((1, 2), 0.75)
    yield "a long step", inputs((6, 2), 0.6, (0.01, 0.9))
    yield "the last step, to the data", inputs((3, 2), 0.5, (0.9, 1.0))
    yield "float64", inputs((4, 2), 0.8, dtype=torch.float64)
    here = inputs((3, 2, 4), 0.5)
    yield ELSEWHERE, elsewhere(here) | {name: here[name] for name in ("alpha_bar", "alpha_bar_next")}


def std_of_ancestral(ab, ab_next):
    """The noise of eta = 1 (Song, Meng & Ermon 2021, equation 16)."""
    return ((1 - ab_next) / (1 - ab) * (1 - ab / ab_next)).sqrt()


def eps_of(x0_hat, x, ab):
    return (x - ab.sqrt() * x0_hat) / (1 - ab).sqrt()


@ddim_step.misconception("eta is not squared in the direction's coefficient: it is sqrt(1 - alpha_bar_next - std^2).")
def eta_not_squared(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    s = std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - eta * s**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + eta * s * z


@ddim_step.misconception("std itself is taken away under the root: there are variances, so take away std^2.")
def deviation_under_the_root(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception(
    "The new noise comes on top of the old: the predicted part must shrink, so that the variances sum to "
    "1 - alpha_bar_next."
)
def noise_on_top(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception("The direction shrinks as it should, but the noise that replaces it is never added.")
def noise_forgotten(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar)


@ddim_step.misconception("eta is not used: this is the deterministic step.", read="ddim-eta")
def always_deterministic(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    direction = (1 - alpha_bar_next).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar)


@ddim_step.misconception("z is multiplied by the variance: its standard deviation, std, belongs there.")
def variance_times_noise(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std**2 * z


@ddim_step.misconception("std has the root of eta: it is eta times that of ancestral sampling.")
def root_of_eta(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta**0.5 * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception(
    "std^2 is 1 - alpha_bar / alpha_bar_next, the large variance of a step forward: equation 16 has a factor more."
)
def variance_of_the_step_up(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * (1 - alpha_bar / alpha_bar_next).sqrt()
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception(
    "The ratio (1 - alpha_bar_next) / (1 - alpha_bar) in std is upside down: the less noisy time stands on top."
)
def ratio_of_noises_upside_down(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * ((1 - alpha_bar) / (1 - alpha_bar_next) * (1 - alpha_bar / alpha_bar_next)).sqrt()
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception("The roots are missing in std: this is eta times its square.")
def sigma_without_roots(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next) ** 2
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception("The direction has the noise of the old time, 1 - alpha_bar: the step goes to alpha_bar_next.")
def direction_of_the_old_time(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception("x0_hat is scaled for the old time, with alpha_bar: the step goes to alpha_bar_next.")
def data_of_the_old_time(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception("x stands where the predicted noise belongs: that is (x - sqrt(alpha_bar) x0_hat) / its root.")
def state_for_noise(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * x + std * z


@ddim_step.misconception(
    "The predicted noise is divided by 1 - alpha_bar: in x it has the coefficient sqrt(1 - alpha_bar).",
    read="conversions",
)
def noise_over_its_variance(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    eps = (x - alpha_bar.sqrt() * x0_hat) / (1 - alpha_bar)
    return alpha_bar_next.sqrt() * x0_hat + direction * eps + std * z


@ddim_step.misconception("The step draws a noise of its own: use the given z.")
def draws_its_own_noise(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    mean = alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar)
    return mean + std * torch.randn_like(x)


@ddim_step.misconception("eta is not in std: this is ancestral sampling, whatever eta is.")
def always_ancestral(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.misconception(
    "The noise is estimated with alpha_bar_next: x is still at the old time, so take alpha_bar.", read="conversions"
)
def noise_of_the_next_time(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + direction * eps_of(x0_hat, x, alpha_bar_next) + std * z


@ddim_step.misconception("x0_hat is multiplied by alpha_bar_next: its root belongs there.")
def data_without_the_root(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    std = eta * std_of_ancestral(alpha_bar, alpha_bar_next)
    direction = (1 - alpha_bar_next - std**2).sqrt()
    return alpha_bar_next * x0_hat + direction * eps_of(x0_hat, x, alpha_bar) + std * z


@ddim_step.equivalent
def step_in_floats(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    alpha_bar, alpha_bar_next = alpha_bar.item(), float(alpha_bar_next)
    variance = eta**2 * (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    kept = ((1 - alpha_bar_next - variance) / (1 - alpha_bar)) ** 0.5
    return kept * x + (alpha_bar_next**0.5 - kept * alpha_bar**0.5) * x0_hat + variance**0.5 * z


@ddim_step.equivalent
def step_in_the_precision_of_x(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    a, b = alpha_bar.to(x), alpha_bar_next.to(x)
    sigma = eta * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
    eps = (x - a.sqrt() * x0_hat) / (1 - a).sqrt()
    return b.sqrt() * x0_hat + (1 - b - sigma**2).clamp(min=0).sqrt() * eps + sigma * z


@ddim_step.equivalent
def step_by_the_posterior(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    """The noise left at the next time is split: eta^2 of DDPM's posterior variance is drawn anew."""
    beta = 1 - alpha_bar / alpha_bar_next
    posterior = beta * (1 - alpha_bar_next) / (1 - alpha_bar)
    eps = torch.sub(x, x0_hat, alpha=math.sqrt(alpha_bar)).div(math.sqrt(1 - alpha_bar))
    old = (1 - alpha_bar_next) * (1 - eta**2 * beta / (1 - alpha_bar))
    return math.sqrt(alpha_bar_next) * x0_hat + math.sqrt(old) * eps + eta * math.sqrt(posterior) * z


# ---- 10 --------------------------------------------------------------------------------------------------------------

frechet_distance = Exercise(
    "guidance.frechet_distance",
    title="The distance between two Gaussians",
    points=3,
    contract="frechet_distance(mean1, cov1, mean2, cov2) is |mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), "
    "a float64 tensor without dimensions; means (D,) and covariances (D, D) are float64, the latter perhaps singular.",
    section="frechet-distance",
    returns="distance",
    finished=("course_utils.metrics.frechet_gaussians",),
    tolerance={torch.float64: 1e-5},  # the root of a singular matrix loses half of the digits
)


@frechet_distance.solution
def _(mean1, cov1, mean2, cov2):
    return torch.tensor(frechet_gaussians(mean1, cov1, mean2, cov2), dtype=torch.float64)


@frechet_distance.inputs
def _(g):
    def gaussian(D, n, size=1.0):
        """Mean and covariance of n points in D dimensions: singular where n <= D."""
        points = size * torch.randn(n, D, dtype=torch.float64, generator=g) + torch.rand(
            D, dtype=torch.float64, generator=g
        )
        return points.mean(0), points.T.cov().reshape(D, D)

    def inputs(first, second):
        return dict(zip(("mean1", "cov1", "mean2", "cov2"), (*first, *second), strict=True))

    yield "two Gaussians in the plane", inputs(gaussian(2, 12), gaussian(2, 12, 1.5))
    yield "on a line", inputs(gaussian(1, 9), gaussian(1, 9, 2.0))
    yield "five dimensions", inputs(gaussian(5, 15), gaussian(5, 15, 0.7))
    same = gaussian(3, 10)
    yield "the same twice", inputs(same, same)
    mean, cov = gaussian(4, 10)
    yield "equal covariances", inputs((mean, cov), (gaussian(4, 10)[0], cov))
    straight = [(mean, cov.diag().diag()) for mean, cov in (gaussian(3, 8), gaussian(3, 8, 2.0))]
    yield "axes along the coordinates", inputs(*straight)
    yield "fewer points than dimensions", inputs(gaussian(6, 4), gaussian(6, 4))


def root_of(cov):
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def root_trace(cov1, cov2):
    """tr (cov1 cov2)^(1/2)."""
    root = root_of(cov1)
    return torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()


def distance_with(trace, mean1, cov1, mean2, cov2):
    return (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace


@frechet_distance.misconception(
    "Only the variances are compared: of the root of each entry of cov1 * cov2, the trace sees the diagonal alone. The "
    "square root of a matrix M is an R with R R = M."
)
def root_of_the_entries(mean1, cov1, mean2, cov2):
    return distance_with((cov1.diag() * cov2.diag()).sqrt().sum(), mean1, cov1, mean2, cov2)


@frechet_distance.misconception(
    "The root is taken of each entry of cov1 @ cov2: that is no matrix root, and it is NaN where an entry is negative."
)
def root_of_the_products_entries(mean1, cov1, mean2, cov2):
    return distance_with((cov1 @ cov2).sqrt().trace(), mean1, cov1, mean2, cov2)


@frechet_distance.misconception(
    "This is the trace of cov1^(1/2) cov2^(1/2): the root of a product is that only where the two matrices commute."
)
def product_of_the_roots(mean1, cov1, mean2, cov2):
    return distance_with((root_of(cov1) @ root_of(cov2)).trace(), mean1, cov1, mean2, cov2)


@frechet_distance.misconception("This is the root of the trace of cov1 cov2: the trace of the root is asked for.")
def root_of_the_trace(mean1, cov1, mean2, cov2):
    return distance_with((cov1 @ cov2).trace().sqrt(), mean1, cov1, mean2, cov2)


@frechet_distance.misconception("The root is missing: cov1 cov2 has the fourth power of a length, not the square.")
def no_root(mean1, cov1, mean2, cov2):
    return distance_with((cov1 @ cov2).trace(), mean1, cov1, mean2, cov2)


@frechet_distance.misconception("The factor 2 before the root is missing: the distance of equal Gaussians must be 0.")
def without_the_two(mean1, cov1, mean2, cov2):
    return distance_with(root_trace(cov1, cov2) / 2, mean1, cov1, mean2, cov2)


@frechet_distance.misconception("The root is added: it is taken away, so that equal Gaussians have distance 0.")
def root_added(mean1, cov1, mean2, cov2):
    return distance_with(-root_trace(cov1, cov2), mean1, cov1, mean2, cov2)


@frechet_distance.misconception("The distance between the means is not squared.")
def means_not_squared(mean1, cov1, mean2, cov2):
    between = mean1 - mean2
    return distance_with(root_trace(cov1, cov2), mean1, cov1, mean2, cov2) - between @ between + between.norm()


@frechet_distance.misconception("The squares of mean1 - mean2 are averaged: their sum is the squared distance.")
def means_averaged(mean1, cov1, mean2, cov2):
    between = (mean1 - mean2).square()
    return distance_with(root_trace(cov1, cov2), mean1, cov1, mean2, cov2) - between.sum() + between.mean()


@frechet_distance.misconception("The means are left out: Gaussians of one shape in two places are far apart.")
def means_left_out(mean1, cov1, mean2, cov2):
    return distance_with(root_trace(cov1, cov2), mean1, cov1, mean1, cov2)


@frechet_distance.misconception("Only the means are compared: a set without any variety could then look perfect.")
def means_only(mean1, cov1, mean2, cov2):
    return (mean1 - mean2).square().sum()


@frechet_distance.misconception("The square root of the whole is taken: the distance is left squared, here as in FID.")
def whole_under_a_root(mean1, cov1, mean2, cov2):
    return distance_with(root_trace(cov1, cov2), mean1, cov1, mean2, cov2).clamp(min=0).sqrt()


@frechet_distance.misconception(
    "The result is complex, if only by rounding: keep the real part, or work with symmetric matrices."
)
def complex_part_kept(mean1, cov1, mean2, cov2):
    trace = torch.linalg.eigvals(cov1 @ cov2).sqrt().sum()
    return distance_with(trace, mean1, cov1, mean2, cov2)


@frechet_distance.misconception(
    "The eigenvalues of cov1 cov2 are rounded a little below 0, where the root is NaN: clamp them at 0 first."
)
def rounding_below_zero(mean1, cov1, mean2, cov2):
    values = torch.linalg.eigvals(cov1 @ cov2).real
    values = torch.where(values.abs() < 1e-9, -1e-17, values)  # the sign of the rounding is an accident: take it so
    return distance_with(values.sqrt().sum(), mean1, cov1, mean2, cov2)


@frechet_distance.misconception("The root of a tiny negative eigenvalue is NaN: clamp at 0 before each root.")
def no_clamp(mean1, cov1, mean2, cov2):
    values, vectors = torch.linalg.eigh(cov1)
    values = torch.where(values.abs() < 1e-9, -1e-17, values)  # the sign of the rounding is an accident: take it so
    root = vectors * values.sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov2 @ root).sqrt().sum()
    return distance_with(trace, mean1, cov1, mean2, cov2)


@frechet_distance.misconception(
    "The root of cov1 is taken entry by entry: take that of its eigenvalues, between the eigenvectors."
)
def root_of_one_covariances_entries(mean1, cov1, mean2, cov2):
    root = cov1.sqrt()
    trace = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return distance_with(trace, mean1, cov1, mean2, cov2)


@frechet_distance.equivalent
def by_eigenvalues_of_the_product(mean1, cov1, mean2, cov2):
    values = torch.linalg.eigvals(cov1 @ cov2).real.clamp(min=0)
    return ((mean1 - mean2) ** 2).sum() + torch.trace(cov1 + cov2) - 2 * values.sqrt().sum()


@frechet_distance.equivalent
def by_the_nuclear_norm(mean1, cov1, mean2, cov2):
    """tr (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2)."""
    roots = []
    for cov in (cov1, cov2):
        values, vectors = torch.linalg.eigh(cov)
        roots.append(vectors @ torch.diag(values.clamp(min=0) ** 0.5) @ vectors.T)
    trace = torch.linalg.matrix_norm(roots[0] @ roots[1], "nuc")
    return torch.dot(mean1 - mean2, mean1 - mean2) + cov1.diag().sum() + cov2.diag().sum() - 2 * trace


@frechet_distance.equivalent
def by_scipys_matrix_root(mean1, cov1, mean2, cov2):
    import scipy.linalg

    values, vectors = scipy.linalg.eigh(cov1.numpy())
    half = (vectors * values.clip(0) ** 0.5) @ vectors.T
    middle = half @ cov2.numpy() @ half + 1e-14 * scipy.linalg.block_diag(*[1.0] * len(values))
    trace = scipy.linalg.sqrtm(middle).real.trace()
    return torch.as_tensor(((mean1 - mean2) ** 2).sum() + (cov1 + cov2).trace() - 2 * trace, dtype=torch.float64)


@frechet_distance.equivalent
def by_two_factors(mean1, cov1, mean2, cov2):
    """With cov = F F^T, any such F: the singular values of F1^T F2 are those of the two roots' product."""
    factors = []
    for cov in (cov1, cov2):
        u, s, _ = torch.linalg.svd(cov)
        factors.append(u * s.sqrt())
    singular = torch.linalg.svdvals(factors[0].mT @ factors[1])
    return (mean1 - mean2).pow(2).sum() + cov1.trace() + cov2.trace() - 2 * singular.sum()


# ---- 11 --------------------------------------------------------------------------------------------------------------

fix_the_guidance = Exercise(
    "guidance.fix_the_guidance",
    title="Find the bug",
    points=3,
    contract="fix_the_guidance(net, x, y, scale, times) is x_0, reached from x (B, ...) at times[0] by deterministic "
    "DDIM along the falling times, to 0, where net(x, t, y) says v on the continuous cosine schedule and the guided v "
    "is that of scale 0 for the null class, -1, and of scale 1 for y.",
    section="guidance-mistakes",
    returns="x_0",
    finished=("course_utils.samplers.ddim", "course_utils.guidance.cfg"),
)


@fix_the_guidance.solution
def _(net, x, y, scale, times):
    schedule = CosineSchedule(None)
    denoise = Denoiser(net, schedule, "v")
    *_, x = ddim(cfg_of(condition(denoise, y), condition(denoise, None), scale), schedule, x, times)
    return x


@fix_the_guidance.inputs
def _(g):
    def inputs(net, s, scale, steps):
        """The times are whole 64ths: in float32, where most people compute them, they are exact too."""
        times = torch.arange(steps, -1, -1, dtype=torch.float64) * (63 // steps / 64)
        return {"net": net, "x": s.x, "y": s.y, "scale": scale, "times": times}

    s = setting(g, (20, 2), torch.float64)
    oracle = mixture_net(torch.randn(CLASSES, 2, dtype=torch.float64, generator=g), 0.4)
    yield "a mixture whose velocity is known exactly, at scale 1", inputs(oracle, s, 1.0, 3)
    for name, s in list(settings(g))[::2]:
        yield name, inputs(LabelledNet(g), s, 1.25 + 2 * torch.rand((), generator=g).item(), 3)
    yield "float64", inputs(LabelledNet(g), setting(g, (5, 2), torch.float64), 2.5, 4)
    yield "scale 0", inputs(LabelledNet(g), setting(g, (4, 2), torch.float64), 0.0, 3)
    yield "one step only", inputs(LabelledNet(g), setting(g, (4, 2), torch.float64), 3.0, 1)


def walk(net, x, y, times, step):
    """Along the times: x becomes step(x, v with the labels, v without, t, t_next)."""
    null = torch.full_like(y, -1)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        level = torch.full((len(x),), float(t), device=x.device)
        x = step(x, net(x, level, y), net(x, level, null), float(t), float(t_next))
    return x


def split_up(x, v, t):
    """(x0, eps) of x at time t and its velocity."""
    alpha, sigma = math.cos(math.pi / 2 * t), math.sin(math.pi / 2 * t)
    return alpha * x - sigma * v, sigma * x + alpha * v


def put_together(x0, eps, t):
    return math.cos(math.pi / 2 * t) * x0 + math.sin(math.pi / 2 * t) * eps


def onward(x, v, t, t_next):
    return put_together(*split_up(x, v, t), t_next)


@fix_the_guidance.misconception(
    "This is still the program as it was given, or it is mended twice over: which half of the batch has which labels?"
)
def as_given(net, x, y, scale, times):
    null = torch.full_like(y, -1)
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        both = net(torch.cat([x, x]), torch.full((2 * len(x),), t), torch.cat([null, y]))
        conditional, unconditional = both.chunk(2)
        v = unconditional + scale * (conditional - unconditional)
        alpha, sigma = math.cos(math.pi / 2 * t), math.sin(math.pi / 2 * t)
        x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
        x = math.cos(math.pi / 2 * t_next) * x0 + math.sin(math.pi / 2 * t_next) * eps
    return x


@fix_the_guidance.misconception(
    "The guided v now starts from the conditional one, so that scale 1 goes beyond the class: start from the null.",
    read="guidance",
)
def started_from_the_class(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        return onward(x, conditional + scale * (conditional - unconditional), t, t_next)

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "The guided v now starts from the null class and goes away from y: the formula is turned, and the halves are still "
    "swapped.",
    read="guidance",
)
def away_from_the_class(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        return onward(x, unconditional + scale * (unconditional - conditional), t, t_next)

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "The null class is gone: this samples the class without guidance, whatever the scale.", read="guidance"
)
def guidance_removed(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        return onward(x, conditional, t, t_next)

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "The labels are gone: both halves are of the null class, and the scale does nothing.", read="guidance"
)
def labels_removed(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        return onward(x, unconditional, t, t_next)

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "x0 comes from the guided v, but the noise from the conditional one: take both from the same v.", read="guidance"
)
def noise_not_guided(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        x0, _ = split_up(x, unconditional + scale * (conditional - unconditional), t)
        return put_together(x0, split_up(x, conditional, t)[1], t_next)

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "The bug is not in x0 = alpha x - sigma v: with a plus sign it belongs to a v of the opposite sign.",
    read="conversions",
)
def data_with_a_plus(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        v = unconditional + scale * (conditional - unconditional)
        return put_together(split_up(x, -v, t)[0], split_up(x, v, t)[1], t_next)

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "The bug is not in eps = sigma x + alpha v: with a minus sign it belongs to a v of the opposite sign.",
    read="conversions",
)
def noise_with_a_minus(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        v = unconditional + scale * (conditional - unconditional)
        return put_together(split_up(x, v, t)[0], split_up(x, -v, t)[1], t_next)

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "x0 and eps are put together at the old time t: then nothing moves. The step goes to t_next.", read="ddim-eta"
)
def never_moves_on(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        return onward(x, unconditional + scale * (conditional - unconditional), t, t)

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "The network gets the time it goes to: x still has the noise of t, so ask it there.", read="ddim-eta"
)
def asked_at_the_next_time(net, x, y, scale, times):
    null = torch.full_like(y, -1)
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        level = torch.full((len(x),), t_next)
        conditional, unconditional = net(x, level, y), net(x, level, null)
        x = onward(x, unconditional + scale * (conditional - unconditional), t, t_next)
    return x


@fix_the_guidance.misconception(
    "The step to t = 0 is missing: a little noise is left. All the times are gone through, to the last.",
    read="ddim-eta",
)
def stops_before_the_data(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        return onward(x, unconditional + scale * (conditional - unconditional), t, t_next) if t_next > 0 else x

    return walk(net, x, y, times, step)


@fix_the_guidance.misconception(
    "Each state is clipped to [-1, 1], which hides how far guidance overshoots: only x0_hat has a range.",
    read="clipping",
)
def states_clipped(net, x, y, scale, times):
    def step(x, conditional, unconditional, t, t_next):
        return onward(x, unconditional + scale * (conditional - unconditional), t, t_next).clamp(-1, 1)

    return walk(net, x, y, times, step)


@fix_the_guidance.equivalent
def halves_named_in_order(net, x, y, scale, times):
    null = torch.full_like(y, -1)
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        both = net(torch.cat([x, x]), torch.full((2 * len(x),), t), torch.cat([null, y]))
        unconditional, conditional = both.chunk(2)
        v = unconditional + scale * (conditional - unconditional)
        alpha, sigma = math.cos(math.pi / 2 * t), math.sin(math.pi / 2 * t)
        x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
        x = math.cos(math.pi / 2 * t_next) * x0 + math.sin(math.pi / 2 * t_next) * eps
    return x


@fix_the_guidance.equivalent
def one_minus_the_scale(net, x, y, scale, times):
    """With the halves left as they are, 1 - scale does the same: not pretty, but right."""
    for i in range(len(times) - 1):
        t = times[i].to(x).expand(len(x))
        labels = torch.cat([torch.full_like(y, -1), y])
        conditional, unconditional = net(torch.cat([x, x]), torch.cat([t, t]), labels).chunk(2)
        v = torch.lerp(unconditional, conditional, 1 - scale)
        turn = (times[i] - times[i + 1]) * math.pi / 2
        x = torch.cos(turn) * x - torch.sin(turn) * v  # x turns by the angle between the two times
    return x


@fix_the_guidance.equivalent
def guided_data_and_noise(net, x, y, scale, times):
    levels = [float(t) for t in times]
    with torch.no_grad():
        while len(levels) > 1:
            t, t_next = levels[0], levels[1]
            alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
            time = torch.full_like(x.flatten(1)[:, 0], t) if x.ndim > 1 else torch.full_like(x, t)
            guided = 0
            for weight, label in ((scale, y), (1 - scale, -torch.ones_like(y))):
                guided = guided + weight * (alpha * x - sigma * net(x, time, label))
            eps = (x - alpha * guided) / sigma
            x = math.cos(math.pi * t_next / 2) * guided + math.sin(math.pi * t_next / 2) * eps
            levels = levels[1:]
    return x
