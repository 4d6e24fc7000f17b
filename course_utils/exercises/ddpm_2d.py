"""Exercises of chapter 3, DDPM in two dimensions.

Index k = 1..T is the papers'; tables have length T + 1 with beta[0] = 0 and alpha_bar[0] = 1, in float64. x is
(B, ...) of any shape, and a network is called net(x, t) with t = k / T, a float tensor (B,).

Sources: Ho et al. 2020 (equations 4, 6, 7, 11, 14, algorithm 2); Song, Meng & Ermon 2021 (equation 12).
"""

import copy
import math
from types import SimpleNamespace

import torch
from torch import nn

from course_utils.denoiser import Denoiser, diffusion_loss, from_x0, to_x0
from course_utils.exercises.exercise import Exercise
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim
from course_utils.schedules import DiscreteSchedule, LinearSchedule, QuadraticSchedule
from course_utils.training import warmed_up

# ---- what the exercises are tried on ---------------------------------------------------------------------------------


def at(table, k, x):
    """table[k] as (B, 1, ..., 1) in x's dtype and place, so that it multiplies x of shape (B, ...)."""
    return table[k].to(x).reshape(-1, *[1] * (x.ndim - 1))


def noise_at(net, x, k, T):
    """The network's prediction at level k of T, an int."""
    return net(x, torch.full((len(x),), k / T, device=x.device))


class ToyNet(nn.Module):
    """A stand-in for a network: net(x, t) for x of any shape (B, ...), a smooth function of both."""

    def __init__(self, g):
        super().__init__()
        self.weight = nn.Parameter(0.5 + torch.rand(3, generator=g))

    def forward(self, x, t, y=None):
        check_net_input(x, t)
        a, b, c = self.weight
        t = t.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return a * torch.sin(2 * x + b) * torch.cos(3 * t) + c * t


def gaussian_net(alpha_bar, mean=0.3, std=0.5):
    """The oracle of the samplers: net(x, t) is the exact noise for data N(mean, std^2); x is (B, 1)."""
    schedule = schedule_of(alpha_bar)
    denoise = GaussianMixture([[mean]], std).denoiser(schedule)

    def net(x, t):
        check_net_input(x, t)
        t = t.double()  # a schedule answers in the precision of the times
        return from_x0("eps", denoise(x, t), x, *schedule.at(t, x))

    return net


def check_net_input(x, t):
    """Raises TypeError or ValueError, in a student's words, where net(x, t) is called in another way than it should."""
    if not torch.is_tensor(t) or not t.is_floating_point():
        raise TypeError("net(x, t) takes t = k / T as a float tensor of shape (B,), one time for each sample")
    if t.shape != x.shape[:1]:
        raise ValueError(f"net(x, t) takes t of shape (B,) = ({len(x)},), one time a sample, but got {tuple(t.shape)}")
    if t.device != x.device:
        raise ValueError(f"net(x, t) got x on the device {x.device} but t on {t.device}: make t on x.device")


def settings(g):
    """Random schedules, data and levels of every shape that the answers must serve, each with a name.

    T = 32 in float64: k / T is then exact in float32 too, where most people compute it.
    """
    kinds = {
        "a batch of one": ((1, 2), torch.float32),
        "points in the plane": ((7, 2), torch.float32),
        "as many points as dimensions": ((2, 2), torch.float32),
        "single numbers": ((5,), torch.float32),
        "pictures that are not square": ((3, 2, 5, 4), torch.float32),
        "clips, in five dimensions": ((2, 3, 2, 4, 3), torch.float32),
        "float64": ((6, 2), torch.float64),
    }
    for name, (shape, dtype) in kinds.items():
        T = 32 if dtype == torch.float64 else int(torch.randint(6, 24, (), generator=g))
        yield name, setting(g, T, shape, dtype)


def setting(g, T, shape, dtype=torch.float32):
    """One random schedule of T levels, with data, noise and levels k (B,) in 1..T for samples of one shape."""
    low, high = 0.01 + 0.02 * torch.rand(2, dtype=torch.float64, generator=g) + torch.tensor([0.0, 0.2])
    beta = torch.cat([torch.zeros(1, dtype=torch.float64), torch.linspace(low, high, T, dtype=torch.float64)])
    x0, x, noise = (torch.randn(shape, dtype=dtype, generator=g) for _ in range(3))
    k = torch.randint(1, T + 1, shape[:1], generator=g)
    return SimpleNamespace(T=T, beta=beta, alpha_bar=(1 - beta).cumprod(0), x0=x0, x=x, noise=noise, k=k)


def schedule_of(alpha_bar):
    return DiscreteSchedule(1 - alpha_bar[1:] / alpha_bar[:-1])


ELSEWHERE = "on another device (meta: tensors without numbers)"


def elsewhere(inputs):
    """The same inputs on another device; the tables stay, as a level that is an int may pick from them anywhere."""
    tables = {"beta", "alpha_bar"}
    return {n: v.to("meta") if hasattr(v, "to") and n not in tables else v for n, v in inputs.items()}


def frozen(net):
    """A network as a sampler sees it: nothing is recorded for gradients."""
    return net.requires_grad_(False)


# ---- 1 ---------------------------------------------------------------------------------------------------------------

quadratic_betas = Exercise(
    "ddpm_2d.quadratic_betas",
    title="A schedule of betas",
    points=1,
    contract="quadratic_betas(T, beta_start, beta_end) is the float64 table (T + 1,) with beta[0] = 0 in which "
    "sqrt(beta[k]) rises in a straight line from sqrt(beta_start) at k = 1 to sqrt(beta_end) at k = T.",
    section="schedules",
    returns="beta",
    finished=("course_utils.schedules.QuadraticSchedule",),
    tolerance={torch.float64: 1e-6},
)


@quadratic_betas.solution
def _(T, beta_start, beta_end):
    return QuadraticSchedule(T, beta_start, beta_end).beta


def after_zero(beta):
    return torch.cat([torch.zeros(1, dtype=beta.dtype), beta])


def line(start, end, T):
    return torch.linspace(start, end, T, dtype=torch.float64)


@quadratic_betas.inputs
def _(g):
    yield "the table of DDPM's length", {"T": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    yield "two levels", {"T": 2, "beta_start": 0.1, "beta_end": 0.4}
    for name in ("a short table", "another short table"):
        low, high = (0.01 + 0.2 * torch.rand(2, generator=g)).tolist()
        T = int(torch.randint(5, 30, (), generator=g))
        yield name, {"T": T, "beta_start": low, "beta_end": high + 0.3}


@quadratic_betas.misconception("beta itself rises in a straight line here: that is the linear schedule.")
def linear_in_beta(T, beta_start, beta_end):
    return after_zero(line(beta_start, beta_end, T))


@quadratic_betas.misconception("The ramp between the square roots is never squared: these are roots of betas.")
def never_squared(T, beta_start, beta_end):
    return after_zero(line(beta_start**0.5, beta_end**0.5, T))


@quadratic_betas.misconception("The ramp runs between the betas and is then squared: start it from their square roots.")
def squared_without_roots(T, beta_start, beta_end):
    return after_zero(line(beta_start, beta_end, T) ** 2)


@quadratic_betas.misconception("The leading entry beta[0] = 0 is missing, so that every index is one off the papers'.")
def without_leading_zero(T, beta_start, beta_end):
    return line(beta_start**0.5, beta_end**0.5, T) ** 2


@quadratic_betas.misconception("The ramp starts at index 0: beta_start belongs to k = 1, and beta[0] is 0.")
def ramp_from_zero(T, beta_start, beta_end):
    return line(beta_start**0.5, beta_end**0.5, T + 1) ** 2


@quadratic_betas.misconception("The ramp has T + 1 points and its first was set to 0: beta[1] is not beta_start.")
def ramp_one_too_long(T, beta_start, beta_end):
    return after_zero(line(beta_start**0.5, beta_end**0.5, T + 1)[1:] ** 2)


@quadratic_betas.misconception("The table stops before beta_end: a range leaves out its end.")
def end_left_out(T, beta_start, beta_end):
    return after_zero(line(beta_start**0.5, beta_end**0.5, T + 1)[:-1] ** 2)


@quadratic_betas.misconception(
    "A squared ramp is laid between the betas: the straight line runs between their square roots."
)
def squared_ramp(T, beta_start, beta_end):
    return after_zero(beta_start + (beta_end - beta_start) * line(0, 1, T) ** 2)


@quadratic_betas.misconception("The table is float32, torch's default: products of a thousand factors want float64.")
def table_in_float32(T, beta_start, beta_end):
    return after_zero(torch.linspace(beta_start**0.5, beta_end**0.5, T) ** 2)


@quadratic_betas.equivalent
def betas_in_a_loop(T, beta_start, beta_end):
    low, high = math.sqrt(beta_start), math.sqrt(beta_end)
    roots = [low + (high - low) * (k - 1) / (T - 1) for k in range(1, T + 1)]
    return torch.tensor([0.0] + [root**2 for root in roots], dtype=torch.float64)


@quadratic_betas.equivalent
def betas_filled_in(T, beta_start, beta_end):
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = torch.linspace(beta_start**0.5, beta_end**0.5, T).square()
    return beta


@quadratic_betas.equivalent
def betas_from_numpy(T, beta_start, beta_end):
    import numpy as np

    return torch.from_numpy(np.concatenate([[0.0], np.linspace(beta_start**0.5, beta_end**0.5, T) ** 2]))


# ---- 2 ---------------------------------------------------------------------------------------------------------------

alpha_bar = Exercise(
    "ddpm_2d.alpha_bar",
    title="How much signal is left",
    points=1,
    contract="alpha_bar(beta) is the table (T + 1,) of the products (1 - beta[1]) ... (1 - beta[k]), with 1 at k = 0.",
    section="schedules",
    returns="alpha_bar",
    finished=("course_utils.schedules.DiscreteSchedule",),
)


@alpha_bar.solution
def _(beta):
    return DiscreteSchedule(beta[1:]).alpha_bar


@alpha_bar.inputs
def _(g):
    yield "DDPM's thousand levels", {"beta": LinearSchedule(1000).beta}
    yield "one level", {"beta": torch.tensor([0.0, 0.3], dtype=torch.float64)}
    for T in (5, 12, 40):
        beta = 0.01 + 0.3 * torch.rand(T, dtype=torch.float64, generator=g)
        yield f"{T} random levels", {"beta": torch.cat([beta.new_zeros(1), beta])}


@alpha_bar.misconception("This is the product of the betas: the signal that a step keeps is 1 - beta.")
def product_of_betas(beta):
    return torch.cat([beta.new_ones(1), beta[1:].cumprod(0)])


@alpha_bar.misconception("This is the product of the betas, 0 everywhere as beta[0] is 0: multiply up 1 - beta.")
def product_of_betas_from_zero(beta):
    return beta.cumprod(0)


@alpha_bar.misconception("These are the alphas, 1 - beta of a single step: multiply them up.")
def alphas_of_a_step(beta):
    return 1 - beta


@alpha_bar.misconception("The betas are summed, not multiplied up: 1 - (beta_1 + ... + beta_k) goes below zero.")
def sum_of_betas(beta):
    return 1 - beta.cumsum(0)


@alpha_bar.misconception("The product starts one late: it leaves out 1 - beta_1.")
def one_late(beta):
    return torch.cat([beta.new_ones(2), (1 - beta[2:]).cumprod(0)])


@alpha_bar.misconception("The product runs one ahead: entry k holds k + 1 factors, and alpha_bar[0] is not 1.")
def one_early(beta):
    return (1 - torch.cat([beta[1:], beta[-1:]])).cumprod(0)


@alpha_bar.misconception("The leading entry alpha_bar[0] = 1 is missing, so that every index is one off the papers'.")
def without_leading_one(beta):
    return (1 - beta[1:]).cumprod(0)


@alpha_bar.misconception("This is the square root of alpha_bar: the root is taken later, where x0 is multiplied.")
def root_taken(beta):
    return (1 - beta).cumprod(0).sqrt()


@alpha_bar.misconception("This is 1 - alpha_bar, the variance of the noise: alpha_bar is what is left of the signal.")
def noise_instead(beta):
    return 1 - (1 - beta).cumprod(0)


@alpha_bar.misconception("The product runs from the wrong end: at k = 0 nothing has been multiplied yet.")
def product_to_the_end(beta):
    return (1 - beta).flip(0).cumprod(0).flip(0)


@alpha_bar.equivalent
def sum_of_logs(beta):
    return torch.log1p(-beta).cumsum(0).exp()


@alpha_bar.equivalent
def product_in_a_loop(beta):
    result = torch.ones_like(beta)
    for k in range(1, len(beta)):
        result[k] = result[k - 1] * (1 - beta[k])
    return result


@alpha_bar.equivalent
def product_of_slices(beta):
    return torch.stack([(1 - beta[: k + 1]).prod() for k in range(len(beta))])


# ---- 3 ---------------------------------------------------------------------------------------------------------------

q_sample = Exercise(
    "ddpm_2d.q_sample",
    title="Jump to level k",
    points=2,
    contract="q_sample(x0, k, noise, alpha_bar) is x_k = sqrt(alpha_bar[k]) x0 + sqrt(1 - alpha_bar[k]) noise for "
    "samples x0 (B, ...) of any shape, each with its own level k (B,), in x0's dtype.",
    section="forward-process",
    returns="x_k",
    finished=("course_utils.schedules.NoiseSchedule.add_noise",),
)


@q_sample.solution
def _(x0, k, noise, alpha_bar):
    return schedule_of(alpha_bar).add_noise(x0, k.double() / (len(alpha_bar) - 1), noise)


@q_sample.inputs
def _(g):
    for name, s in settings(g):
        yield name, {"x0": s.x0, "k": s.k, "noise": s.noise, "alpha_bar": s.alpha_bar}
    s = setting(g, 20, (3, 2), torch.float64)
    k = torch.tensor([0, 1, 20])
    yield "both ends: k = 0, 1 and T", {"x0": s.x0, "k": k, "noise": s.noise, "alpha_bar": s.alpha_bar}


def mixed(x0, noise, ab):
    return ab.sqrt() * x0 + (1 - ab).sqrt() * noise


@q_sample.misconception("alpha_bar multiplies x0 without its square root: the variance of x_k is then not kept.")
def no_root_on_signal(x0, k, noise, alpha_bar):
    ab = at(alpha_bar, k, x0)
    return ab * x0 + (1 - ab).sqrt() * noise


@q_sample.misconception("1 - alpha_bar is the variance of the noise: multiply the noise by its square root.")
def no_root_on_noise(x0, k, noise, alpha_bar):
    ab = at(alpha_bar, k, x0)
    return ab.sqrt() * x0 + (1 - ab) * noise


@q_sample.misconception("Both square roots are missing: alpha_bar and 1 - alpha_bar are variances, not factors.")
def no_roots(x0, k, noise, alpha_bar):
    ab = at(alpha_bar, k, x0)
    return ab * x0 + (1 - ab) * noise


@q_sample.misconception("The two coefficients are swapped: at k = 0 this returns the noise, not the data.")
def swapped(x0, k, noise, alpha_bar):
    ab = at(alpha_bar, k, x0)
    return (1 - ab).sqrt() * x0 + ab.sqrt() * noise


@q_sample.misconception("The level is one too low: the table already has a leading 1, so alpha_bar[k] is the papers'.")
def one_level_low(x0, k, noise, alpha_bar):
    return mixed(x0, noise, at(alpha_bar, k - 1, x0))


@q_sample.misconception("A second noise is drawn and added; use the one that is given, for the loss compares with it.")
def draws_again(x0, k, noise, alpha_bar):
    return mixed(x0, torch.randn_like(x0), at(alpha_bar, k, x0))


@q_sample.misconception("The noise drawn here is uniform (rand_like) and not even the given one: its mean is 0.5.")
def draws_uniform(x0, k, noise, alpha_bar):
    return mixed(x0, torch.rand_like(x0), at(alpha_bar, k, x0))


@q_sample.misconception("The whole batch gets the level of its first sample: each has its own k.")
def one_level_for_all(x0, k, noise, alpha_bar):
    return mixed(x0, noise, alpha_bar[k[0]])


@q_sample.misconception("The coefficients have shape (B,) and meet the last dimension of x0: make it (B, 1, ...).")
def not_broadcast(x0, k, noise, alpha_bar):
    return mixed(x0, noise, alpha_bar[k].to(x0))


@q_sample.misconception("[:, None] serves points (B, 2) only: make as many ones as x0 has further dimensions.")
def points_only(x0, k, noise, alpha_bar):
    return mixed(x0, noise, alpha_bar[k].to(x0)[:, None])


@q_sample.misconception("[:, None, None, None] serves pictures only: make as many ones as x0 has further dimensions.")
def pictures_only(x0, k, noise, alpha_bar):
    return mixed(x0, noise, alpha_bar[k].to(x0)[:, None, None, None])


@q_sample.misconception("The table is float64 and made the result float64: bring the coefficients to x0.dtype.")
def float64_result(x0, k, noise, alpha_bar):
    return mixed(x0, noise, at(alpha_bar, k, x0.double()))


@q_sample.equivalent
def with_einsum(x0, k, noise, alpha_bar):
    ab = alpha_bar[k].to(x0.dtype)
    return torch.einsum("b,b...->b...", ab.sqrt(), x0) + torch.einsum("b,b...->b...", (1 - ab).sqrt(), noise)


@q_sample.equivalent
def sample_by_sample(x0, k, noise, alpha_bar):
    ab = alpha_bar[k].tolist()
    return torch.stack([a**0.5 * x + (1 - a) ** 0.5 * n for a, x, n in zip(ab, x0, noise, strict=True)])


@q_sample.equivalent
def through_float64(x0, k, noise, alpha_bar):
    ab = alpha_bar[k].view(-1, *([1] * (x0.dim() - 1)))
    return (ab.sqrt() * x0.double() + (1 - ab).sqrt() * noise.double()).to(x0.dtype)


@q_sample.equivalent
def last_dimension_first(x0, k, noise, alpha_bar):
    ab = alpha_bar.to(x0.dtype)[k]
    return (x0.movedim(0, -1) * ab**0.5 + noise.movedim(0, -1) * (1 - ab) ** 0.5).movedim(-1, 0)


# ---- 4 ---------------------------------------------------------------------------------------------------------------

posterior = Exercise(
    "ddpm_2d.posterior",
    title="One step back, knowing the data",
    points=3,
    contract="posterior(x0, x, k, beta, alpha_bar) is the pair (mean, variance) of q(x_{k-1} | x_k = x, x0), DDPM's "
    "equations 6 and 7, for samples (B, ...) with levels k (B,); the variance broadcasts against x.",
    section="posterior",
    returns=("mean", "variance"),
    finished=("course_utils.samplers.ddpm",),
)


@posterior.observe
def _(value, inputs):
    mean, variance = value
    return {"mean": mean, "variance": variance.expand(inputs["x"].shape)}


def coefficients(k, beta, alpha_bar, x):
    """Of x0 and of x in the posterior mean (Ho et al. 2020, equation 7), and its variance; each (B, 1, ..., 1)."""
    b, ab, ab_before = at(beta, k, x), at(alpha_bar, k, x), at(alpha_bar, k - 1, x)
    return ab_before.sqrt() * b / (1 - ab), (1 - b).sqrt() * (1 - ab_before) / (1 - ab), b * (1 - ab_before) / (1 - ab)


@posterior.solution
def _(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k, beta, alpha_bar, x)
    return of_x0 * x0 + of_x * x, variance


@posterior.inputs
def _(g):
    for name, s in settings(g):
        yield name, {"x0": s.x0, "x": s.x, "k": s.k, "beta": s.beta, "alpha_bar": s.alpha_bar}
    s = setting(g, 20, (3, 2), torch.float64)
    k = torch.tensor([1, 2, 20])
    yield "both ends: k = 1, 2 and T", {"x0": s.x0, "x": s.x, "k": k, "beta": s.beta, "alpha_bar": s.alpha_bar}


@posterior.misconception("The coefficients of x0 and x are swapped: at k = 1 the mean must be x0 itself.")
def weights_swapped(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k, beta, alpha_bar, x)
    return of_x0 * x + of_x * x0, variance


@posterior.misconception("The variance is beta_k, that of a step forward: knowing x0 makes it smaller, and 0 at k = 1.")
def variance_of_the_forward_step(x0, x, k, beta, alpha_bar):
    of_x0, of_x, _ = coefficients(k, beta, alpha_bar, x)
    return of_x0 * x0 + of_x * x, at(beta, k, x)


@posterior.misconception("The second result is the standard deviation: the variance is asked for, without the root.")
def standard_deviation(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k, beta, alpha_bar, x)
    return of_x0 * x0 + of_x * x, variance.sqrt()


@posterior.misconception("The coefficient of x has alpha_k where its square root belongs.")
def no_root_of_alpha(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k, beta, alpha_bar, x)
    return of_x0 * x0 + (1 - at(beta, k, x)).sqrt() * of_x * x, variance


@posterior.misconception("The coefficient of x0 has alpha_bar of level k: the step arrives at k - 1, so take that one.")
def root_of_this_level(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k, beta, alpha_bar, x)
    return (1 - at(beta, k, x)).sqrt() * of_x0 * x0 + of_x * x, variance


@posterior.misconception(
    "The coefficient of x0 divides by beta: the smaller the step, the less it should move towards x0."
)
def divided_by_beta(x0, x, k, beta, alpha_bar):
    _, of_x, variance = coefficients(k, beta, alpha_bar, x)
    return (at(alpha_bar, k - 1, x) / at(beta, k, x)).sqrt() * x0 + of_x * x, variance


@posterior.misconception("The denominators are sqrt(1 - alpha_bar): the variance itself, 1 - alpha_bar, belongs there.")
def root_below_the_line(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k, beta, alpha_bar, x)
    root = (1 - at(alpha_bar, k, x)).sqrt()
    return (of_x0 * x0 + of_x * x) * root, variance * root


@posterior.misconception(
    "The ratio in the variance is upside down: it grows without bound at k = 1, where it must be 0."
)
def ratio_upside_down(x0, x, k, beta, alpha_bar):
    of_x0, of_x, _ = coefficients(k, beta, alpha_bar, x)
    variance = at(beta, k, x) * (1 - at(alpha_bar, k, x)) / (1 - at(alpha_bar, k - 1, x))
    return of_x0 * x0 + of_x * x, variance


@posterior.misconception("All levels are one too low: the tables start at index 0 for the data, so beta[k] is beta_k.")
def tables_one_low(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k - 1, beta, alpha_bar, x)
    return of_x0 * x0 + of_x * x, variance


@posterior.misconception("This is the step forward, q(x_k | x_{k-1}): asked is the step back, which also knows x0.")
def forward_step(x0, x, k, beta, alpha_bar):
    b = at(beta, k, x)
    return (1 - b).sqrt() * x, b


@posterior.misconception("The variance has shape (B,) and would meet x's last dimension: give it shape (B, 1, ...).")
def variance_not_broadcast(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k, beta, alpha_bar, x)
    return of_x0 * x0 + of_x * x, variance.flatten()


@posterior.misconception("The tables are float64 and made the results float64: bring their entries to x.dtype.")
def posterior_left_in_float64(x0, x, k, beta, alpha_bar):
    of_x0, of_x, variance = coefficients(k, beta, alpha_bar, x.double())
    return of_x0 * x0 + of_x * x, variance


@posterior.equivalent
def by_conditioning_a_gaussian(x0, x, k, beta, alpha_bar):
    ab, ab_before = at(alpha_bar, k, x), at(alpha_bar, k - 1, x)
    gain = (ab / ab_before).sqrt() * (1 - ab_before) / (1 - ab)  # Cov(x_{k-1}, x_k) / Var(x_k), given x0
    mean = ab_before.sqrt() * x0 + gain * (x - ab.sqrt() * x0)
    return mean, (1 - ab_before) * (1 - gain * (ab / ab_before).sqrt())


@posterior.equivalent
def posterior_sample_by_sample(x0, x, k, beta, alpha_bar):
    means, variances = [], []
    for i, level in enumerate(k.tolist()):
        b, ab, ab_before = float(beta[level]), float(alpha_bar[level]), float(alpha_bar[level - 1])
        means.append(math.sqrt(ab_before) * b / (1 - ab) * x0[i] + math.sqrt(1 - b) * (1 - ab_before) / (1 - ab) * x[i])
        variances.append(torch.full_like(x[i], b * (1 - ab_before) / (1 - ab)))
    return torch.stack(means), torch.stack(variances)


@posterior.equivalent
def posterior_in_float64(x0, x, k, beta, alpha_bar):
    ones = [1] * (x.ndim - 1)
    variance = (beta[k] * (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k])).view(-1, *ones)
    first = (alpha_bar[k - 1].sqrt() * beta[k] / (1 - alpha_bar[k])).view(-1, *ones)
    second = ((1 - beta[k]).sqrt() * (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k])).view(-1, *ones)
    return [(first * x0 + second * x).to(x.dtype), variance.to(x.dtype).expand_as(x)]


@posterior.equivalent
def through_the_noise(x0, x, k, beta, alpha_bar):
    b, ab, ab_before = at(beta, k, x), at(alpha_bar, k, x), at(alpha_bar, k - 1, x)
    eps = (x - ab.sqrt() * x0) / (1 - ab).sqrt()
    return (x - b / (1 - ab).sqrt() * eps) / (1 - b).sqrt(), b * (1 - ab_before) / (1 - ab)


# ---- 5 ---------------------------------------------------------------------------------------------------------------

loss = Exercise(
    "ddpm_2d.loss",
    title="The loss",
    points=2,
    contract="loss(net, x0, k, noise, alpha_bar) is L_simple, the mean over all entries of the squared difference "
    "between the noise and net(x_k, t) with t = k / T (B,); its gradient reaches the network.",
    section="loss",
    returns="the loss",
    finished=("course_utils.denoiser.diffusion_loss",),
)


@loss.observe
def _(value, inputs):
    weights = list(inputs["net"].parameters())
    if not value.requires_grad:
        return {"the loss": value, "its gradient at the network": torch.zeros_like(weights[0])}
    gradient = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
    return {"the loss": value, "its gradient at the network": gradient[0]}


@loss.solution
def _(net, x0, k, noise, alpha_bar):
    t = k.double() / (len(alpha_bar) - 1)
    return diffusion_loss(Denoiser(net, schedule_of(alpha_bar)), x0, t=t, noise=noise)


@loss.inputs
def _(g):
    for name, s in settings(g):
        yield name, {"net": ToyNet(g), "x0": s.x0, "k": s.k, "noise": s.noise, "alpha_bar": s.alpha_bar}
    s = setting(g, 64, (3, 2), torch.float64)
    k = torch.tensor([1, 2, 64])
    inputs = {"net": ToyNet(g), "x0": s.x0, "k": k, "noise": s.noise, "alpha_bar": s.alpha_bar}
    yield "both ends: k = 1, 2 and T", inputs
    yield ELSEWHERE, {name: copy.deepcopy(value).to("meta") for name, value in inputs.items()}


def prediction_and_noise(net, x0, k, noise, alpha_bar):
    """What L_simple compares: the network's prediction at x_k and t = k / T, and the noise."""
    return net(mixed(x0, noise, at(alpha_bar, k, x0)), k / (len(alpha_bar) - 1)), noise


@loss.misconception("The squares are summed: take their mean, or the learning rate depends on the batch's size.")
def sum_of_squares(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    return (eps - noise).square().sum()


@loss.misconception("The squares are summed over a sample and averaged over the batch only: take the mean of all.")
def mean_over_the_batch_only(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    return (eps - noise).square().sum() / len(x0)


@loss.misconception("The network gets the level k: its time is t = k / T, between 0 and 1.", read="network")
def level_for_time(net, x0, k, noise, alpha_bar):
    x = mixed(x0, noise, at(alpha_bar, k, x0))
    return (net(x, k.float()) - noise).square().mean()


@loss.misconception("The time is k / (T + 1): the tables have T + 1 entries, so T is their length less one.")
def length_for_levels(net, x0, k, noise, alpha_bar):
    x = mixed(x0, noise, at(alpha_bar, k, x0))
    return (net(x, k / len(alpha_bar)) - noise).square().mean()


@loss.misconception("The time is k / 1000, right for one table only: T is len(alpha_bar) - 1.", read="network")
def loss_with_thousand_levels(net, x0, k, noise, alpha_bar):
    x = mixed(x0, noise, at(alpha_bar, k, x0))
    return (net(x, k / 1000) - noise).square().mean()


@loss.misconception(
    "The time is k / 200, with the T of the notebook: take T from the table that is given.", read="network"
)
def loss_with_the_notebooks_levels(net, x0, k, noise, alpha_bar):
    x = mixed(x0, noise, at(alpha_bar, k, x0))
    return (net(x, k / 200) - noise).square().mean()


@loss.misconception("The network is compared with the clean data: it predicts the noise that was added.")
def compared_with_data(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    return (eps - x0).square().mean()


@loss.misconception("The network sees the clean data: it must see x_k, the noisy sample.", read="forward-process")
def net_sees_the_data(net, x0, k, noise, alpha_bar):
    return (net(x0, k / (len(alpha_bar) - 1)) - noise).square().mean()


@loss.misconception("x_k is made without the square roots of alpha_bar and 1 - alpha_bar.", read="forward-process")
def jump_without_roots(net, x0, k, noise, alpha_bar):
    ab = at(alpha_bar, k, x0)
    x = ab * x0 + (1 - ab) * noise
    return (net(x, k / (len(alpha_bar) - 1)) - noise).square().mean()


@loss.misconception("The network is compared with a second noise that was never added: nothing could be learned.")
def compared_with_another_draw(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    return (eps - torch.randn_like(noise)).square().mean()


@loss.misconception("The sign is turned: a loss falls as the prediction gets better.")
def loss_negated(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    return -(eps - noise).square().mean()


@loss.misconception("This is the mean of absolute differences: L_simple takes squares, whose best answer is the mean.")
def absolute_error(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    return (eps - noise).abs().mean()


@loss.misconception("The value is right but cut off from the network (no_grad, detach or item): it learns nothing.")
def cut_off_from_the_net(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    return (eps - noise).square().mean().detach()


@loss.misconception("The differences are averaged before they are squared: errors of opposite sign then cancel.")
def square_of_the_mean(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    return (eps - noise).mean().square()


@loss.equivalent
def with_mse_loss(net, x0, k, noise, alpha_bar):
    return torch.nn.functional.mse_loss(*prediction_and_noise(net, x0, k, noise, alpha_bar))


@loss.equivalent
def mean_of_means(net, x0, k, noise, alpha_bar):
    T = len(alpha_bar) - 1
    ab = at(alpha_bar, k, x0)
    error = noise - net(ab**0.5 * x0 + (1 - ab) ** 0.5 * noise, k.float() / T)
    return torch.stack([(e**2).mean() for e in error]).mean()


@loss.equivalent
def squared_norm(net, x0, k, noise, alpha_bar):
    eps, noise = prediction_and_noise(net, x0, k, noise, alpha_bar)
    error = (noise - eps).flatten()
    return torch.dot(error, error) / error.numel()


# ---- 6 ---------------------------------------------------------------------------------------------------------------

reverse_step = Exercise(
    "ddpm_2d.reverse_step",
    title="One step of ancestral sampling",
    points=3,
    contract="reverse_step(net, x, k, beta, alpha_bar, z) is x_{k-1}, one step of DDPM's algorithm 2 from x (B, ...) "
    "at level k (an int in 1..T) with the given normal z, net(x, t) as the noise and the posterior variance.",
    section="ancestral-sampling",
    returns="x_{k-1}",
    finished=("course_utils.samplers.ddpm",),
)


def predicted_x0(net, x, k, alpha_bar):
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return to_x0("eps", eps, x, math.sqrt(alpha_bar[k]), math.sqrt(1 - alpha_bar[k]))


@reverse_step.solution
def _(net, x, k, beta, alpha_bar, z):
    levels = torch.full((len(x),), k)
    mean, variance = posterior.reference(predicted_x0(net, x, k, alpha_bar), x, levels, beta, alpha_bar)
    return mean + variance.sqrt() * z


@reverse_step.inputs
def _(g):
    for name, s in settings(g):
        yield name, step_inputs(g, s, s.k[0].item())
    s = setting(g, 64, (4, 2), torch.float64)
    for name, k in {"the first step, k = T": 64, "the last step, k = 1": 1}.items():
        yield name, step_inputs(g, s, k)
    yield ELSEWHERE, elsewhere(step_inputs(g, s, 7))


def step_inputs(g, s, k):
    return {"net": frozen(ToyNet(g)), "x": s.x, "k": k, "beta": s.beta, "alpha_bar": s.alpha_bar, "z": s.noise}


def mean_of_step(x, eps, k, beta, alpha_bar):
    """Ho et al. 2020, equation 11."""
    return (x - beta[k] / (1 - alpha_bar[k]).sqrt() * eps) / (1 - beta[k]).sqrt()


def posterior_variance(k, beta, alpha_bar):
    return beta[k] * (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k])


def predicted_mean(net, x, k, beta, alpha_bar):
    return mean_of_step(x, noise_at(net, x, k, len(beta) - 1), k, beta, alpha_bar)


def with_posterior_noise(mean, z, k, beta, alpha_bar):
    return mean + posterior_variance(k, beta, alpha_bar).sqrt() * z


@reverse_step.misconception("The noise is added to its standard deviation: it must be multiplied by it.")
def deviation_plus_noise(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return mean + posterior_variance(k, beta, alpha_bar).sqrt() + z


@reverse_step.misconception("The noise is multiplied by the variance: its standard deviation is the square root.")
def noise_times_variance(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return mean + posterior_variance(k, beta, alpha_bar) * z


@reverse_step.misconception(
    "sigma^2 is beta_k here, the paper's other choice: asked is the posterior variance, 0 at k = 1.", read="posterior"
)
def noise_of_the_forward_step(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return mean + beta[k].sqrt() * z


@reverse_step.misconception("No noise is added: that is the mean of the step, and every path ends too near the middle.")
def no_noise_added(net, x, k, beta, alpha_bar, z):
    return predicted_mean(net, x, k, beta, alpha_bar)


@reverse_step.misconception("The step draws a noise of its own: use the given z.")
def own_noise_drawn(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return with_posterior_noise(mean, torch.randn_like(x), k, beta, alpha_bar)


@reverse_step.misconception("The step draws uniform noise (rand_like), whose mean is 0.5: use the given normal z.")
def uniform_noise_drawn(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return with_posterior_noise(mean, torch.rand_like(x), k, beta, alpha_bar)


@reverse_step.misconception("The predicted noise is multiplied by beta alone: divide it by sqrt(1 - alpha_bar) too.")
def beta_times_noise(net, x, k, beta, alpha_bar, z):
    eps = noise_at(net, x, k, len(beta) - 1)
    mean = (x - beta[k] * eps) / (1 - beta[k]).sqrt()
    return with_posterior_noise(mean, z, k, beta, alpha_bar)


@reverse_step.misconception("The predicted noise is divided by 1 - alpha_bar: divide by its square root.")
def noise_over_variance(net, x, k, beta, alpha_bar, z):
    eps = noise_at(net, x, k, len(beta) - 1)
    mean = (x - beta[k] / (1 - alpha_bar[k]) * eps) / (1 - beta[k]).sqrt()
    return with_posterior_noise(mean, z, k, beta, alpha_bar)


@reverse_step.misconception(
    "The factor 1 / sqrt(alpha_k) before the bracket is missing: the signal shrinks on the way."
)
def not_scaled_up(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return with_posterior_noise((1 - beta[k]).sqrt() * mean, z, k, beta, alpha_bar)


@reverse_step.misconception("The bracket is divided by alpha_k: divide it by sqrt(alpha_k).")
def scaled_by_alpha(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return with_posterior_noise(mean / (1 - beta[k]).sqrt(), z, k, beta, alpha_bar)


@reverse_step.misconception(
    "The bracket is divided by sqrt(alpha_bar_k), the whole way back to the data: one step is sqrt(alpha_k)."
)
def scaled_by_alpha_bar(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return with_posterior_noise(mean / alpha_bar[k - 1].sqrt(), z, k, beta, alpha_bar)


@reverse_step.misconception("The predicted noise is added: a step back takes it away.")
def noise_not_taken_away(net, x, k, beta, alpha_bar, z):
    eps = -noise_at(net, x, k, len(beta) - 1)
    mean = mean_of_step(x, eps, k, beta, alpha_bar)
    return with_posterior_noise(mean, z, k, beta, alpha_bar)


@reverse_step.misconception("The network gets the level k: its time is t = k / T, between 0 and 1.", read="network")
def step_at_level_k(net, x, k, beta, alpha_bar, z):
    eps = noise_at(net, x, k, 1)
    mean = mean_of_step(x, eps, k, beta, alpha_bar)
    return with_posterior_noise(mean, z, k, beta, alpha_bar)


@reverse_step.misconception("The network gets the time of level k - 1: x still has the noise of level k.")
def step_at_next_time(net, x, k, beta, alpha_bar, z):
    eps = noise_at(net, x, k - 1, len(beta) - 1)
    mean = mean_of_step(x, eps, k, beta, alpha_bar)
    return with_posterior_noise(mean, z, k, beta, alpha_bar)


@reverse_step.misconception("The time is k / 1000, right for one table only: T is len(beta) - 1.", read="network")
def step_with_thousand_levels(net, x, k, beta, alpha_bar, z):
    eps = noise_at(net, x, k, 1000)
    mean = mean_of_step(x, eps, k, beta, alpha_bar)
    return with_posterior_noise(mean, z, k, beta, alpha_bar)


@reverse_step.misconception(
    "The time is k / 200, with the T of the notebook: take T from the tables that are given.", read="network"
)
def step_with_the_notebooks_levels(net, x, k, beta, alpha_bar, z):
    eps = noise_at(net, x, k, 200)
    mean = mean_of_step(x, eps, k, beta, alpha_bar)
    return with_posterior_noise(mean, z, k, beta, alpha_bar)


@reverse_step.misconception(
    "x is clipped to [-1, 1]: a third of normal noise lies outside. What has a range is x0_hat, not x."
)
def state_clipped(net, x, k, beta, alpha_bar, z):
    mean = predicted_mean(net, x, k, beta, alpha_bar)
    return with_posterior_noise(mean, z, k, beta, alpha_bar).clamp(-1, 1)


@reverse_step.misconception(
    "The times are made on the processor wherever x is: make them with device=x.device.", read="network"
)
def time_on_the_cpu(net, x, k, beta, alpha_bar, z):
    eps = net(x, torch.full((len(x),), k / (len(beta) - 1)))
    mean = mean_of_step(x, eps, k, beta, alpha_bar)
    return with_posterior_noise(mean, z, k, beta, alpha_bar)


@reverse_step.equivalent
def step_through_x0(net, x, k, beta, alpha_bar, z):
    t = torch.ones(len(x), device=x.device) * k / (len(beta) - 1)
    x0 = (x - (1 - alpha_bar[k]).sqrt() * net(x, t)) / alpha_bar[k].sqrt()
    below = 1 - alpha_bar[k]
    mean = alpha_bar[k - 1].sqrt() * beta[k] / below * x0 + (1 - beta[k]).sqrt() * (1 - alpha_bar[k - 1]) / below * x
    return mean + (beta[k] * (1 - alpha_bar[k - 1]) / below).sqrt() * z


@reverse_step.equivalent
def step_through_the_score(net, x, k, beta, alpha_bar, z):
    t = torch.full(x.shape[:1], k / (len(beta) - 1), dtype=x.dtype, device=x.device)
    score = -net(x, t) / math.sqrt(1 - alpha_bar[k])
    std = math.sqrt(beta[k] * (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k]))
    return (x + float(beta[k]) * score) / math.sqrt(1 - beta[k]) + std * z


@reverse_step.equivalent
def step_without_noise_at_the_end(net, x, k, beta, alpha_bar, z):
    with torch.inference_mode():
        eps = net(x, torch.tensor([k / (len(beta) - 1)], device=x.device).expand(len(x)))
    mean = torch.add(x, eps, alpha=-float(beta[k] / (1 - alpha_bar[k]) ** 0.5)).mul(float((1 - beta[k]) ** -0.5))
    if k == 1:
        return mean
    return torch.addcmul(mean, torch.as_tensor((1 - alpha_bar[k - 1]) / (1 - alpha_bar[k]) * beta[k]).to(z).sqrt(), z)


# ---- 7 ---------------------------------------------------------------------------------------------------------------

ema_update = Exercise(
    "ddpm_2d.ema_update",
    title="The average of the weights",
    points=2,
    contract="ema_update(ema, params, decay, step) is a new list of tensors, d ema + (1 - d) params one by one with "
    "d = min(decay, (1 + step) / (10 + step)); both lists stay as they are, and no gradient is recorded.",
    section="ema",
    returns=["average"],
    finished=("course_utils.training.ema_model", "course_utils.training.warmed_up"),
)


@ema_update.solution
@torch.no_grad()
def _(ema, params, decay, step):
    return [torch.lerp(p, e, warmed_up(decay, step)) for e, p in zip(ema, params, strict=True)]


@ema_update.inputs
def _(g):
    def inputs(decay, step, shapes=((3, 2), (3,)), dtype=torch.float32):
        ema = [torch.randn(s, dtype=dtype, generator=g) for s in shapes]
        params = [nn.Parameter(torch.randn(s, dtype=dtype, generator=g)) for s in shapes]
        return {"ema": ema, "params": params, "decay": decay, "step": step}

    yield "the first update, step 0", inputs(0.999, 0)
    yield "early, while the average warms up", inputs(0.999, int(torch.randint(2, 40, (), generator=g)))
    yield "late, at the full decay", inputs(0.9, int(torch.randint(1000, 5000, (), generator=g)))
    yield "one tensor", inputs(0.99, 7, shapes=[(4,)])
    yield "tensors of every shape", inputs(0.8, 500, shapes=[(2, 1, 3, 3), (), (5,)])
    yield "float64", inputs(0.95, 30, dtype=torch.float64)


@torch.no_grad()
def blended(ema, params, weight, new_weight):
    return [weight * e + new_weight * p for e, p in zip(ema, params, strict=True)]


def warm(decay, step):
    return min(decay, (1 + step) / (10 + step))


@ema_update.misconception(
    "The two weights are swapped: a decay near 1 keeps the average and lets in little that is new."
)
def decay_on_the_new(ema, params, decay, step):
    d = warm(decay, step)
    return blended(ema, params, 1 - d, d)


@ema_update.misconception(
    "There is no warm-up: with a decay of 0.999 the random first weights linger for thousands of steps."
)
def no_warm_up(ema, params, decay, step):
    return blended(ema, params, decay, 1 - decay)


@ema_update.misconception(
    "The warm-up takes the larger of the two decays: take the smaller, so that early steps average less."
)
def larger_decay(ema, params, decay, step):
    d = max(decay, (1 + step) / (10 + step))
    return blended(ema, params, d, 1 - d)


@ema_update.misconception(
    "The warm-up never ends: its fraction goes to 1, and min(decay, ...) must stop it at the decay."
)
def warm_up_without_end(ema, params, decay, step):
    d = (1 + step) / (10 + step)
    return blended(ema, params, d, 1 - d)


@ema_update.misconception("The warm-up is multiplied with the decay: take the smaller of the two.")
def decays_multiplied(ema, params, decay, step):
    d = decay * (1 + step) / (10 + step)
    return blended(ema, params, d, 1 - d)


@ema_update.misconception(
    "The warm-up is step / (10 + step): the first update, step 0, then forgets the average altogether."
)
def warm_up_from_zero(ema, params, decay, step):
    d = min(decay, step / (10 + step))
    return blended(ema, params, d, 1 - d)


@ema_update.misconception("The new weights are added whole: the two weights must sum to one.")
def weights_sum_above_one(ema, params, decay, step):
    return blended(ema, params, warm(decay, step), 1)


@ema_update.misconception("These are the current weights: nothing is averaged.")
def current_weights(ema, params, decay, step):
    return blended(ema, params, 0, 1)


@ema_update.misconception(
    "The average does not change: e = ... in a loop renames e and leaves the list as it is. Build a new list."
)
def only_renamed(ema, params, decay, step):
    d = warm(decay, step)
    for e, p in zip(ema, params, strict=True):
        e = d * e + (1 - d) * p
    return ema


@ema_update.misconception("The average records its gradient: its graph grows with every step. Use torch.no_grad().")
def graph_kept(ema, params, decay, step):
    d = warm(decay, step)
    return [d * e + (1 - d) * p for e, p in zip(ema, params, strict=True)]


@ema_update.misconception("The average is written into the network's own parameters: the training goes on from it.")
def written_into_the_network(ema, params, decay, step):
    d = warm(decay, step)
    for p, average in zip(params, blended(ema, params, d, 1 - d), strict=True):
        p.data.copy_(average)
    return [p.detach() for p in params]


@ema_update.misconception("Only the first tensor is averaged: a return inside the loop ends it.")
def first_tensor_only(ema, params, decay, step):
    d = warm(decay, step)
    return blended(ema[:1], params[:1], d, 1 - d)


@ema_update.equivalent
@torch.no_grad()
def step_towards_the_new(ema, params, decay, step):
    rate = 1 - min(decay, (1 + step) / (10 + step))
    return [e + rate * (p - e) for e, p in zip(ema, params, strict=True)]


@ema_update.equivalent
def detached_first(ema, params, decay, step):
    d = min((step + 1) / (step + 10), decay)
    new = []
    for i in range(len(ema)):
        new.append(ema[i] * d + params[i].detach() * (1 - d))
    return new


@ema_update.equivalent
def with_foreach(ema, params, decay, step):
    rate = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        return torch._foreach_lerp(ema, [p.data for p in params], rate)


@ema_update.equivalent
def on_copies(ema, params, decay, step):
    d = decay if (1 + step) / (10 + step) > decay else (1 + step) / (10 + step)
    copies = [e.clone().mul_(d).add_(p.detach(), alpha=1 - d) for e, p in zip(ema, params, strict=True)]
    return tuple(copies)


# ---- 8 ---------------------------------------------------------------------------------------------------------------

ddim_step = Exercise(
    "ddpm_2d.ddim_step",
    title="One step of DDIM",
    points=3,
    contract="ddim_step(net, x, k, k_next, alpha_bar) is the deterministic DDIM step from level k to any lower level "
    "k_next (ints, k_next may be 0) for x (B, ...), with net(x, t) as the noise.",
    section="ddim",
    returns="x at k_next",
    finished=("course_utils.samplers.ddim",),
)


@ddim_step.solution
def _(net, x, k, k_next, alpha_bar):
    schedule = schedule_of(alpha_bar)
    times = torch.tensor([k, k_next], dtype=torch.float64) / schedule.T
    return next(ddim(Denoiser(net, schedule), schedule, x, times))


@ddim_step.inputs
def _(g):
    def inputs(s, k, k_next):
        return {"net": frozen(ToyNet(g)), "x": s.x, "k": k, "k_next": k_next, "alpha_bar": s.alpha_bar}

    for name, s in settings(g):
        k = max(s.k[0].item(), 2)
        yield name, inputs(s, k, int(torch.randint(1, k, (), generator=g)))
    s = setting(g, 64, (4, 2), torch.float64)
    yield "the first step, from k = T", inputs(s, 64, 48)
    yield "the last step, to k_next = 0", inputs(s, 12, 0)
    yield "all the way at once, from T to 0", inputs(s, 64, 0)
    yield ELSEWHERE, elsewhere(inputs(s, 30, 20))


def without_noise(x, eps, ab):
    return (x - (1 - ab).sqrt() * eps) / ab.sqrt()


@ddim_step.misconception("Both coefficients are of level k: this noises x0_hat back to where it came from.")
def back_to_the_same_level(net, x, k, k_next, alpha_bar):
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    ab = alpha_bar[k]
    return mixed(without_noise(x, eps, ab), eps, ab)


@ddim_step.misconception("The noise is put back as strong as it was at level k: the step goes to k_next.")
def noise_of_the_old_level(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return ab_next.sqrt() * without_noise(x, eps, ab) + (1 - ab).sqrt() * eps


@ddim_step.misconception("x0_hat is scaled for the old level k: the step goes to k_next.")
def signal_of_the_old_level(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return ab.sqrt() * without_noise(x, eps, ab) + (1 - ab_next).sqrt() * eps


@ddim_step.misconception("The new coefficients lack their square roots.")
def step_without_roots(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return ab_next * without_noise(x, eps, ab) + (1 - ab_next) * eps


@ddim_step.misconception("x0_hat is divided by alpha_bar: divide by its square root.")
def x0_without_root(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return mixed(without_noise(x, eps, ab) / ab.sqrt(), eps, ab_next)


@ddim_step.misconception(
    "x0_hat takes away (1 - alpha_bar) eps: the noise in x has the coefficient sqrt(1 - alpha_bar)."
)
def x0_noise_without_root(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return mixed((x - (1 - ab) * eps) / ab.sqrt(), eps, ab_next)


@ddim_step.misconception(
    "Fresh noise is added in place of the predicted one: DDIM keeps the direction, and draws nothing."
)
def noise_drawn_afresh(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return mixed(without_noise(x, eps, ab), torch.randn_like(x), ab_next)


@ddim_step.misconception("x0_hat has the predicted noise added: it must be taken away.")
def noise_sign_turned(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return mixed(without_noise(x, -eps, ab), eps, ab_next)


@ddim_step.misconception("The state x stands where x0_hat belongs: first take the noise away.")
def x_for_x0(net, x, k, k_next, alpha_bar):
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return mixed(x, eps, alpha_bar[k_next])


@ddim_step.misconception("x0_hat is scaled, but its noise is not put back: that is right only at k_next = 0.")
def no_noise_put_back(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return ab_next.sqrt() * without_noise(x, eps, ab)


@ddim_step.misconception("The network gets the level k: its time is t = k / T, between 0 and 1.", read="network")
def ddim_at_level_k(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, 1)
    return mixed(without_noise(x, eps, ab), eps, ab_next)


@ddim_step.misconception("The time is k / 1000, right for one table only: T is len(alpha_bar) - 1.", read="network")
def ddim_with_thousand_levels(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, 1000)
    return mixed(without_noise(x, eps, ab), eps, ab_next)


@ddim_step.misconception(
    "The time is k / 200, with the T of the notebook: take T from the table that is given.", read="network"
)
def ddim_with_the_notebooks_levels(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k, 200)
    return mixed(without_noise(x, eps, ab), eps, ab_next)


@ddim_step.misconception("The network gets the time of k_next: x still has the noise of level k.")
def ddim_at_next_time(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = noise_at(net, x, k_next, len(alpha_bar) - 1)
    return mixed(without_noise(x, eps, ab), eps, ab_next)


@ddim_step.misconception(
    "The times are made on the processor wherever x is: make them with device=x.device.", read="network"
)
def ddim_time_on_the_cpu(net, x, k, k_next, alpha_bar):
    ab, ab_next = alpha_bar[k], alpha_bar[k_next]
    eps = net(x, torch.full((len(x),), k / (len(alpha_bar) - 1)))
    return mixed(without_noise(x, eps, ab), eps, ab_next)


@ddim_step.misconception("The step goes to k - 1 whatever k_next is: DDIM may skip levels.")
def always_one_level(net, x, k, k_next, alpha_bar):
    eps = noise_at(net, x, k, len(alpha_bar) - 1)
    return mixed(without_noise(x, eps, alpha_bar[k]), eps, alpha_bar[k - 1])


@ddim_step.equivalent
def one_scaled_sum(net, x, k, k_next, alpha_bar):
    t = torch.full((len(x),), k / (len(alpha_bar) - 1), dtype=x.dtype, device=x.device)
    ratio = math.sqrt(alpha_bar[k_next] / alpha_bar[k])
    return ratio * x + (math.sqrt(1 - alpha_bar[k_next]) - ratio * math.sqrt(1 - alpha_bar[k])) * net(x, t)


@ddim_step.equivalent
def euler_in_noise_to_signal(net, x, k, k_next, alpha_bar):
    t = torch.full((len(x),), k / (len(alpha_bar) - 1), device=x.device)
    before, after = (((1 - alpha_bar[j]) / alpha_bar[j]).sqrt() for j in (k, k_next))
    scaled = x / alpha_bar[k].sqrt()
    return (scaled + (after - before) * net(x, t)) * alpha_bar[k_next].sqrt()


@ddim_step.equivalent
def ddim_in_floats(net, x, k, k_next, alpha_bar):
    a, a_next = alpha_bar[k].item() ** 0.5, alpha_bar[k_next].item() ** 0.5
    with torch.no_grad():
        eps = net(x, (torch.zeros(len(x), device=x.device) + k) / (len(alpha_bar) - 1))
    x0_hat = (x - math.sqrt(1 - a * a) * eps).div(a)
    return a_next * x0_hat + math.sqrt(max(0.0, 1 - a_next * a_next)) * eps


@ddim_step.equivalent
def same_angle_of_noise(net, x, k, k_next, alpha_bar):
    eps = net(x, torch.full((x.size(0),), k / (len(alpha_bar) - 1)).to(x.device))
    angle, angle_next = (torch.acos(alpha_bar[j].sqrt()) for j in (k, k_next))
    return (x - eps * angle.sin()) * (angle_next.cos() / angle.cos()) + eps * angle_next.sin()


# ---- 9 ---------------------------------------------------------------------------------------------------------------

fix_the_sampler = Exercise(
    "ddpm_2d.fix_the_sampler",
    title="Find the bug",
    points=3,
    contract="fix_the_sampler(net, x, beta, alpha_bar, noise) is x_0, reached from x at k = T by DDPM's algorithm 2 "
    "with sigma_k^2 = beta_k, noise[k] as the z of step k, and none added in the last step.",
    section="mistakes",
    returns="x_0",
    finished=("course_utils.samplers.ddpm",),
)


@fix_the_sampler.solution
def _(net, x, beta, alpha_bar, noise):
    for k in range(len(beta) - 1, 0, -1):
        levels = torch.full((len(x),), k)
        mean, _ = posterior.reference(predicted_x0(net, x, k, alpha_bar), x, levels, beta, alpha_bar)
        x = mean + math.sqrt(beta[k]) * noise[k] if k > 1 else mean
    return x


@fix_the_sampler.inputs
def _(g):
    def inputs(s, net):
        noise = torch.randn(s.T + 1, *s.x.shape, dtype=s.x.dtype, generator=g)
        return {"net": net, "x": s.x, "beta": s.beta, "alpha_bar": s.alpha_bar, "noise": noise}

    s = setting(g, 16, (200, 1), torch.float64)
    yield "the Gaussian, whose noise is known exactly", inputs(s, gaussian_net(s.alpha_bar))
    for name, s in settings(g):
        yield name, inputs(s, frozen(ToyNet(g)))
    yield "two levels", inputs(setting(g, 2, (4, 2), torch.float64), frozen(ToyNet(g)))


def walk_down(net, x, beta, step):
    """From k = T down to 1: x becomes step(x, the predicted noise, k)."""
    T = len(beta) - 1
    for k in range(T, 0, -1):
        x = step(x, noise_at(net, x, k, T), k)
    return x


def with_noise_but_last(mean, k, beta, noise):
    return mean + beta[k].sqrt() * noise[k] if k > 1 else mean


@fix_the_sampler.misconception(
    "This is still the program as it was given: look at what multiplies the predicted noise."
)
def as_given(net, x, beta, alpha_bar, noise):
    T = len(beta) - 1
    for k in range(T, 0, -1):
        eps = net(x, torch.full((len(x),), k / T, device=x.device))
        mean = (x - beta[k] * eps) / (1 - beta[k]).sqrt()
        x = mean + beta[k].sqrt() * noise[k] if k > 1 else mean
    return x


@fix_the_sampler.misconception(
    "The predicted noise is now divided by 1 - alpha_bar: divide by its square root, sqrt(1 - alpha_bar).",
    read="ancestral-sampling",
)
def divided_by_the_variance(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        return with_noise_but_last(mean_of_step(x, eps / (1 - alpha_bar[k]).sqrt(), k, beta, alpha_bar), k, beta, noise)

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception(
    "The predicted noise is multiplied by sqrt(beta): that root belongs to the noise added, not to this one.",
    read="ancestral-sampling",
)
def root_of_beta(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        mean = (x - beta[k].sqrt() * eps) / (1 - beta[k]).sqrt()
        return with_noise_but_last(mean, k, beta, noise)

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception("The predicted noise is added: a step back takes it away.", read="ancestral-sampling")
def sign_changed_too(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        return with_noise_but_last(mean_of_step(x, -eps, k, beta, alpha_bar), k, beta, noise)

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception(
    "The bug is not in the noise added at each step: without it the samples gather in the middle.",
    read="ancestral-sampling",
)
def noise_removed(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        return mean_of_step(x, eps, k, beta, alpha_bar)

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception(
    "Noise is added in the last step too: x_0 is the mean of that step.", read="ancestral-sampling"
)
def noise_in_the_last_step(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        return mean_of_step(x, eps, k, beta, alpha_bar) + beta[k].sqrt() * noise[k]

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception(
    "The standard deviation is added to the noise: it must multiply it.", read="ancestral-sampling"
)
def noise_plus_deviation(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        mean = mean_of_step(x, eps, k, beta, alpha_bar)
        return mean + beta[k].sqrt() + noise[k] if k > 1 else mean

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception(
    "The noise is multiplied by beta: its standard deviation is sqrt(beta).", read="ancestral-sampling"
)
def noise_by_variance(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        mean = mean_of_step(x, eps, k, beta, alpha_bar)
        return mean + beta[k] * noise[k] if k > 1 else mean

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception(
    "The bug is not in the variance: keep sigma_k^2 = beta_k, which is as good as the posterior's.", read="posterior"
)
def posterior_variance_instead(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        mean = mean_of_step(x, eps, k, beta, alpha_bar)
        return with_posterior_noise(mean, noise[k], k, beta, alpha_bar)

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception("The factor 1 / sqrt(1 - beta) before the bracket was lost.", read="ancestral-sampling")
def factor_lost(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        mean = x - beta[k] / (1 - alpha_bar[k]).sqrt() * eps
        return with_noise_but_last(mean, k, beta, noise)

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception(
    "The states are clipped to [-1, 1], which hides the bug and spoils the samples: x_k has no range."
)
def states_clipped(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        mean = mean_of_step(x, eps, k, beta, alpha_bar)
        return with_noise_but_last(mean, k, beta, noise).clamp(-1, 1)

    return walk_down(net, x, beta, step)


@fix_the_sampler.misconception(
    "The last step, k = 1, is missing: a range leaves out its end.", read="ancestral-sampling"
)
def last_step_left_out(net, x, beta, alpha_bar, noise):
    def step(x, eps, k):
        return with_noise_but_last(mean_of_step(x, eps, k, beta, alpha_bar), k, beta, noise) if k > 1 else x

    return walk_down(net, x, beta, step)


@fix_the_sampler.equivalent
def fixed_as_in_the_paper(net, x, beta, alpha_bar, noise):
    T = len(beta) - 1
    for k in range(T, 0, -1):
        eps = net(x, torch.full((len(x),), k / T, device=x.device))
        mean = (x - beta[k] / (1 - alpha_bar[k]).sqrt() * eps) / (1 - beta[k]).sqrt()
        x = mean + beta[k].sqrt() * noise[k] if k > 1 else mean
    return x


@fix_the_sampler.equivalent
def fixed_through_x0(net, x, beta, alpha_bar, noise):
    alpha = 1 - beta
    for k in reversed(range(1, len(beta))):
        t = torch.full((len(x),), k / (len(beta) - 1), dtype=x.dtype)
        x0 = (x - math.sqrt(1 - alpha_bar[k]) * net(x, t)) / math.sqrt(alpha_bar[k])
        weights = alpha_bar[k - 1].sqrt() * beta[k], alpha[k].sqrt() * (1 - alpha_bar[k - 1])
        x = (weights[0] * x0 + weights[1] * x) / (1 - alpha_bar[k])
        if k != 1:
            x = x + math.sqrt(beta[k]) * noise[k]
    return x


@fix_the_sampler.equivalent
def fixed_with_a_while(net, x, beta, alpha_bar, noise):
    T = k = beta.shape[0] - 1
    noise = torch.cat([torch.zeros_like(noise[:2]), noise[2:]])
    while k >= 1:
        score = -net(x, torch.ones(len(x)) * (k / T)) / (1 - alpha_bar[k]) ** 0.5
        x = (x + beta[k] * score) * (1 - beta[k]) ** -0.5 + noise[k] * beta[k] ** 0.5
        k -= 1
    return x
