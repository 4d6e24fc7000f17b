"""The debugging exercises of chapter 4: short programs with one real bug each, found with a Gaussian's exact network.

Where each pixel of the data is N(mean, std^2), the noise in x_k can be said exactly. A loss then has a known floor, and
samples have a known mean and width: what departs from them is the program's own fault, not the network's.
"""

import math

import torch
from torch import nn

from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.exercises.ddpm_2d import (
    ToyNet,
    check_net_input,
    coefficients,
    frozen,
    posterior,
    schedule_of,
    setting,
)
from course_utils.exercises.ddpm_mnist import WatchedNet, what_the_net_saw
from course_utils.exercises.exercise import Exercise
from course_utils.guidance import clip


def gaussian_pictures(alpha_bar, mean=0.3, std=0.5):
    """The oracle: net(x, t) is the exact noise in pictures x (B, C, H, W) whose pixels are N(mean, std^2).

    E[eps | x] = sigma (x - alpha mean) / (alpha^2 std^2 + sigma^2), by conditioning a Gaussian.
    """
    schedule = schedule_of(alpha_bar)

    def net(x, t, y=None):
        check_net_input(x, t)
        alpha, sigma = schedule.at(t.double(), x)  # a schedule answers in the precision of the times
        return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return net


class WatchedOracle(WatchedNet):
    """The oracle as a network with one weight, which remembers what it was asked; the weight 1 is the best."""

    def __init__(self, alpha_bar):
        nn.Module.__init__(self)
        self.weight, self.calls = nn.Parameter(torch.ones(1, dtype=torch.float64)), []
        self.exact = gaussian_pictures(alpha_bar)

    def forward(self, x, t, y=None):
        out = self.weight.to(x.dtype) * self.exact(x, t)
        self.calls.append((x, t, torch.full_like(t, -1, dtype=torch.long), out))
        return out


def time_of(k, x, alpha_bar):
    """Level k, an int, as the times (B,) that a network takes."""
    return torch.full((len(x),), k / (len(alpha_bar) - 1), device=x.device)


# ---- 9 ---------------------------------------------------------------------------------------------------------------

fix_the_loss = Exercise(
    "ddpm_mnist.fix_the_loss",
    title="Find the bug: a loss that cannot fall",
    points=2,
    contract="fix_the_loss(net, x0, k, alpha_bar) is L_simple with normal noise that it draws: the mean over all "
    "entries of the squared difference between net(x_k, k / T) and the noise in x_k, for pictures x0 (B, C, H, W) at "
    "the given levels k (B,).",
    section="gaussian-oracle",
    returns="the loss (1 = as asked)",
    finished=("course_utils.denoiser.diffusion_loss",),
    tolerance={torch.float64: 0.1, torch.float32: 0.1},  # of moments, over four standard deviations
)


@fix_the_loss.observe
def _(value, inputs):
    seen = what_the_net_saw(value, inputs)
    names = ("the labels that the network got", "the share of the most frequent level", "the share of each level")
    told = torch.cat([t for _, t, _, _ in inputs["net"].calls])
    off = (told - inputs["k"] / (len(inputs["alpha_bar"]) - 1)).abs() > 1e-5
    seen = {name: part for name, part in seen.items() if name not in names}
    return seen | {"the share of the times that are no k / T": off.float().mean()}


@fix_the_loss.solution
def _(net, x0, k, alpha_bar):
    t = k.double() / (len(alpha_bar) - 1)
    return diffusion_loss(Denoiser(net, schedule_of(alpha_bar)), x0, t=t.to(x0.dtype))


@fix_the_loss.inputs
def _(g):
    def case(T, shape, dtype=torch.float32):
        s = setting(g, T, shape, dtype)
        return {"net": WatchedNet(g), "x0": s.x0.clamp(-1, 1), "k": s.k, "alpha_bar": s.alpha_bar}

    s = setting(g, 16, (2000, 1, 2, 2), torch.float64)
    oracle = {"net": WatchedOracle(s.alpha_bar), "x0": 0.3 + 0.5 * s.x0, "k": s.k, "alpha_bar": s.alpha_bar}
    yield "the Gaussian, whose noise is known exactly", oracle
    yield "a batch of one", case(12, (1, 1, 4, 4))
    yield "pictures that are not square", case(15, (3, 2, 5, 4))
    yield "as many pictures as pixels in a row", case(9, (4, 1, 4, 4))


def noisy(x0, k, noise, alpha_bar):
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    return ab.sqrt() * x0 + (1 - ab).sqrt() * noise


def said(net, x0, k, noise, alpha_bar):
    return net(noisy(x0, k, noise, alpha_bar), k / (len(alpha_bar) - 1))


@fix_the_loss.misconception("The program is still as it was given: look at which noise the network is compared with.")
def loss_as_given(net, x0, k, alpha_bar):
    T = len(alpha_bar) - 1
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    x = ab.sqrt() * x0 + (1 - ab).sqrt() * torch.randn_like(x0)
    error = net(x, k / T) - torch.randn_like(x0)
    return error.square().mean()


@fix_the_loss.misconception("Now the network is compared with the clean picture: it says the noise.")
def compared_with_x0(net, x0, k, alpha_bar):
    return (said(net, x0, k, torch.randn_like(x0), alpha_bar) - x0).square().mean()


@fix_the_loss.misconception(
    "The network is compared with x_k less the clean picture: the noise has standard deviation 1, so take away "
    "sqrt(alpha_bar) x0 and divide by sqrt(1 - alpha_bar).",
    read="training-loss",
)
def compared_with_the_difference(net, x0, k, alpha_bar):
    x = noisy(x0, k, torch.randn_like(x0), alpha_bar)
    return (net(x, k / (len(alpha_bar) - 1)) - (x - x0)).square().mean()


@fix_the_loss.misconception(
    "The network is compared with sqrt(1 - alpha_bar) times the noise: compare it with the noise itself.",
    read="training-loss",
)
def compared_with_the_scaled_noise(net, x0, k, alpha_bar):
    noise = torch.randn_like(x0)
    scaled = (1 - alpha_bar.to(x0)[k]).sqrt().reshape(-1, 1, 1, 1) * noise
    return (said(net, x0, k, noise, alpha_bar) - scaled).square().mean()


@fix_the_loss.misconception("The picture now gets no noise at all: the network has nothing to predict.")
def no_noise_at_all(net, x0, k, alpha_bar):
    return said(net, x0, k, torch.zeros_like(x0), alpha_bar).square().mean()


@fix_the_loss.misconception("The one noise is uniform now (rand): it must be normal.", read="training-loss")
def uniform_now(net, x0, k, alpha_bar):
    noise = torch.rand_like(x0)
    return (said(net, x0, k, noise, alpha_bar) - noise).square().mean()


@fix_the_loss.misconception("All pictures share one noise now: draw one as large as the batch.", read="training-loss")
def one_noise_now(net, x0, k, alpha_bar):
    noise = torch.randn_like(x0[:1]).expand_as(x0)
    return (said(net, x0, k, noise, alpha_bar) - noise).square().mean()


@fix_the_loss.misconception("The square roots were right: alpha_bar and 1 - alpha_bar are variances.")
def roots_removed(net, x0, k, alpha_bar):
    ab, noise = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1), torch.randn_like(x0)
    return (net(ab * x0 + (1 - ab) * noise, k / (len(alpha_bar) - 1)) - noise).square().mean()


@fix_the_loss.misconception("The time was right: the network gets k / T, not the level.")
def level_now(net, x0, k, alpha_bar):
    noise = torch.randn_like(x0)
    return (net(noisy(x0, k, noise, alpha_bar), k.to(x0.dtype)) - noise).square().mean()


@fix_the_loss.misconception("The time was right: with T + 1 entries in the table, T is its length less one.")
def time_over_the_length(net, x0, k, alpha_bar):
    noise = torch.randn_like(x0)
    return (net(noisy(x0, k, noise, alpha_bar), k / len(alpha_bar)) - noise).square().mean()


@fix_the_loss.misconception("The sign is turned: the network says the noise, not its opposite.")
def sign_turned(net, x0, k, alpha_bar):
    noise = torch.randn_like(x0)
    return (said(net, x0, k, noise, alpha_bar) + noise).square().mean()


@fix_the_loss.misconception("The mean was right: a sum makes the learning rate depend on the batch.")
def sum_now(net, x0, k, alpha_bar):
    noise = torch.randn_like(x0)
    return (said(net, x0, k, noise, alpha_bar) - noise).square().sum()


@fix_the_loss.equivalent
def one_draw(net, x0, k, alpha_bar):
    T = len(alpha_bar) - 1
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    noise = torch.randn_like(x0)
    error = net(ab.sqrt() * x0 + (1 - ab).sqrt() * noise, k / T) - noise
    return error.square().mean()


@fix_the_loss.equivalent
def worked_out_from_x(net, x0, k, alpha_bar):
    ab = alpha_bar[k].to(x0.dtype)[:, None, None, None]
    x = ab.sqrt() * x0 + (1 - ab).sqrt() * torch.randn(x0.shape, dtype=x0.dtype)
    target = (x - ab.sqrt() * x0) / (1 - ab).sqrt()
    return torch.nn.functional.mse_loss(net(x, k.double().div(len(alpha_bar) - 1).to(x0.dtype)), target)


@fix_the_loss.equivalent
def picture_by_picture(net, x0, k, alpha_bar):
    total = 0
    for i in range(0, len(x0), 500):
        part, level = x0[i : i + 500], k[i : i + 500]
        a = alpha_bar[level].sqrt().to(x0.dtype).view(-1, 1, 1, 1)
        noise = torch.empty_like(part).normal_()
        x = a * part + (1 - a**2).sqrt() * noise
        total = total + ((noise - net(x, level / (len(alpha_bar) - 1))) ** 2).sum()
    return total / x0.numel()


# ---- 10 --------------------------------------------------------------------------------------------------------------

fix_the_clipping = Exercise(
    "ddpm_mnist.fix_the_clipping",
    title="Find the bug: pale digits",
    points=3,
    contract="fix_the_clipping(net, x, alpha_bar, noise) is x_0, reached from x (B, C, H, W) at k = T level by level, "
    "each a draw of q(x_{k-1} | x_k, x0_hat) with noise[k] as its z, where x0_hat, and nothing else, is clipped to "
    "[-1, 1].",
    section="gaussian-oracle",
    returns="x_0",
    finished=("course_utils.samplers.ddpm", "course_utils.guidance.clip"),
)


@fix_the_clipping.solution
def _(net, x, alpha_bar, noise):
    schedule = schedule_of(alpha_bar)
    denoise = clip(Denoiser(net, schedule))
    for k in range(schedule.T, 0, -1):
        levels = torch.full((len(x),), k)
        mean, variance = posterior.reference(denoise(x, k / schedule.T), x, levels, schedule.beta, alpha_bar)
        x = mean + variance.sqrt() * noise[k]
    return x


@fix_the_clipping.inputs
def _(g):
    def case(T, shape, dtype=torch.float32, oracle=False):
        s = setting(g, T, shape, dtype)
        noise = torch.randn(T + 1, *shape, dtype=dtype, generator=g)
        net = gaussian_pictures(s.alpha_bar, 0.5, 0.2) if oracle else frozen(ToyNet(g))
        return {"net": net, "x": s.x, "alpha_bar": s.alpha_bar, "noise": noise}

    yield "the Gaussian, whose noise is known exactly", case(16, (40, 1, 2, 2), torch.float64, oracle=True)
    yield "a batch of one", case(9, (1, 1, 4, 4))
    yield "pictures that are not square", case(12, (3, 2, 5, 4))
    yield "two levels", case(2, (4, 1, 3, 3), torch.float64)


def picture_in(net, x, k, alpha_bar):
    """x0_hat at level k, an int, not clipped."""
    eps = net(x, time_of(k, x, alpha_bar))
    return (x - (1 - alpha_bar[k]).sqrt() * eps) / alpha_bar[k].sqrt()


def draw_back(x0, x, k, alpha_bar, z):
    """A draw of q(x_{k-1} | x_k = x, x0) (Ho et al. 2020, equations 6 and 7)."""
    ab, before = alpha_bar[k], alpha_bar[k - 1]
    beta = 1 - ab / before
    mean = before.sqrt() * beta / (1 - ab) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - ab) * x
    return mean + (beta * (1 - before) / (1 - ab)).sqrt() * z


def levels_down(alpha_bar):
    return range(len(alpha_bar) - 1, 0, -1)


@fix_the_clipping.misconception("The program is still as it was given: it clips something that has no range.")
def clipping_as_given(net, x, alpha_bar, noise):
    T = len(alpha_bar) - 1
    for k in range(T, 0, -1):
        ab, before = alpha_bar[k], alpha_bar[k - 1]
        beta = 1 - ab / before
        x0_hat = (x - (1 - ab).sqrt() * net(x, torch.full((len(x),), k / T, device=x.device))) / ab.sqrt()
        mean = (before.sqrt() * beta * x0_hat + (1 - beta).sqrt() * (1 - before) * x) / (1 - ab)
        x = mean + (beta * (1 - before) / (1 - ab)).sqrt() * noise[k]
        x = x.clamp(-1, 1)
    return x


@fix_the_clipping.misconception(
    "Nothing is clipped any more: the state is free, as it should be, but x0_hat is a picture and has a range.",
    read="x0-clipping",
)
def clipping_removed(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        x = draw_back(picture_in(net, x, k, alpha_bar), x, k, alpha_bar, noise[k])
    return x


@fix_the_clipping.misconception("x0_hat is clipped, and the state still is: take that line away.", read="x0-clipping")
def both_clipped(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        x = draw_back(picture_in(net, x, k, alpha_bar).clamp(-1, 1), x, k, alpha_bar, noise[k]).clamp(-1, 1)
    return x


@fix_the_clipping.misconception(
    "Only the end is clipped: that hides what strayed on the way. Clip x0_hat at every level.", read="x0-clipping"
)
def only_the_end_clipped(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        x = draw_back(picture_in(net, x, k, alpha_bar), x, k, alpha_bar, noise[k])
    return x.clamp(-1, 1)


@fix_the_clipping.misconception(
    "The state is clipped before the network sees it, in place of after: it still has no range.", read="x0-clipping"
)
def clipped_before(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        x = x.clamp(-1, 1)
        x = draw_back(picture_in(net, x, k, alpha_bar), x, k, alpha_bar, noise[k])
    return x


@fix_the_clipping.misconception(
    "The mean is clipped, in place of the state: it is the mean of x_{k-1}, which has no range either.",
    read="x0-clipping",
)
def mean_clipped(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        mean = draw_back(picture_in(net, x, k, alpha_bar), x, k, alpha_bar, 0 * x).clamp(-1, 1)
        x = draw_back(0 * x, 0 * x, k, alpha_bar, noise[k]) + mean
    return x


@fix_the_clipping.misconception(
    "The predicted noise is clipped: noise has no range; the picture has.", read="x0-clipping"
)
def noise_clipped(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        eps = net(x, time_of(k, x, alpha_bar)).clamp(-1, 1)
        x0_hat = (x - (1 - alpha_bar[k]).sqrt() * eps) / alpha_bar[k].sqrt()
        x = draw_back(x0_hat, x, k, alpha_bar, noise[k])
    return x


@fix_the_clipping.misconception("x0_hat is clipped to [0, 1]: pictures of this course run from -1 to 1.")
def clipped_to_zero_one(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        x = draw_back(picture_in(net, x, k, alpha_bar).clamp(0, 1), x, k, alpha_bar, noise[k])
    return x


@fix_the_clipping.misconception(
    "The state is clipped to a wider range, [-3, 3]: fewer values are hurt, but the state has no range at all."
)
def wider_range(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        x = draw_back(picture_in(net, x, k, alpha_bar), x, k, alpha_bar, noise[k]).clamp(-3, 3)
    return x


@fix_the_clipping.misconception("The bug was not in the noise of each step: without it the samples are too narrow.")
def noise_taken_out(net, x, alpha_bar, noise):
    for k in levels_down(alpha_bar):
        x = draw_back(picture_in(net, x, k, alpha_bar).clamp(-1, 1), x, k, alpha_bar, 0 * x)
    return x


@fix_the_clipping.misconception("The last step, k = 1, is missing: a range leaves out its end.")
def last_level_left_out(net, x, alpha_bar, noise):
    for k in range(len(alpha_bar) - 1, 1, -1):
        x = draw_back(picture_in(net, x, k, alpha_bar).clamp(-1, 1), x, k, alpha_bar, noise[k])
    return x


@fix_the_clipping.equivalent
def clipped_where_it_has_a_range(net, x, alpha_bar, noise):
    T = len(alpha_bar) - 1
    for k in range(T, 0, -1):
        ab, before = alpha_bar[k], alpha_bar[k - 1]
        beta = 1 - ab / before
        x0_hat = (x - (1 - ab).sqrt() * net(x, torch.full((len(x),), k / T, device=x.device))) / ab.sqrt()
        x0_hat = x0_hat.clamp(-1, 1)
        mean = (before.sqrt() * beta * x0_hat + (1 - beta).sqrt() * (1 - before) * x) / (1 - ab)
        x = mean + (beta * (1 - before) / (1 - ab)).sqrt() * noise[k]
    return x


@fix_the_clipping.equivalent
def with_the_noise_of_the_clipped(net, x, alpha_bar, noise):
    for k in reversed(range(1, len(alpha_bar))):
        ab, before = float(alpha_bar[k]), float(alpha_bar[k - 1])
        eps = net(x, torch.full((len(x),), k / (len(alpha_bar) - 1), dtype=x.dtype))
        x0_hat = torch.clip((x - math.sqrt(1 - ab) * eps) / math.sqrt(ab), min=-1, max=1)
        eps = (x - math.sqrt(ab) * x0_hat) / math.sqrt(1 - ab)
        x = (x - (1 - ab / before) / math.sqrt(1 - ab) * eps) / math.sqrt(ab / before)
        if k > 1:
            x = x + math.sqrt((1 - ab / before) * (1 - before) / (1 - ab)) * noise[k]
    return x


@fix_the_clipping.equivalent
def with_a_while(net, x, alpha_bar, noise):
    k = T = len(alpha_bar) - 1
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    while k:
        x0_hat = ((x - sigma[k] * net(x, torch.ones(len(x)) * k / T)) / alpha[k]).clamp(max=1.0).clamp(min=-1.0)
        gain = alpha[k] / alpha[k - 1] * (sigma[k - 1] / sigma[k]) ** 2
        spread = sigma[k - 1] * (1 - gain * alpha[k] / alpha[k - 1]).clamp(min=0).sqrt()
        x = alpha[k - 1] * x0_hat + gain * (x - alpha[k] * x0_hat) + spread * noise[k]
        k = k - 1
    return x


# ---- 11 --------------------------------------------------------------------------------------------------------------

fix_the_strides = Exercise(
    "ddpm_mnist.fix_the_strides",
    title="Find the bug: grain in the picture",
    points=3,
    contract="fix_the_strides(net, x, levels, alpha_bar, noise) is x at levels[-1] = 0, reached from x (B, C, H, W) at "
    "levels[0] along the list of falling levels, each step from k to k' a draw of q(x_k' | x_k, x0_hat) with noise[i] "
    "as the z of step i, and net(x_k, k / T) as the noise in x_k.",
    section="gaussian-oracle",
    returns="x_0",
    finished=("course_utils.samplers.ddpm",),
)


@fix_the_strides.solution
def _(net, x, levels, alpha_bar, noise):
    denoise = Denoiser(net, schedule_of(alpha_bar))
    table = alpha_bar[levels].flip(0)
    beta = torch.cat([table.new_zeros(1), 1 - table[1:] / table[:-1]])
    for i, k in enumerate(levels[:-1]):
        step = torch.full((len(x),), len(levels) - 1 - i)
        of_x0, of_x, variance = coefficients(step, beta, table, x)
        x = of_x0 * denoise(x, k / (len(alpha_bar) - 1)) + of_x * x + variance.sqrt() * noise[i]
    return x


@fix_the_strides.inputs
def _(g):
    def case(T, levels, shape, dtype=torch.float32, oracle=False):
        s = setting(g, T, shape, dtype)
        noise = torch.randn(len(levels) - 1, *shape, dtype=dtype, generator=g)
        net = gaussian_pictures(s.alpha_bar) if oracle else frozen(ToyNet(g))
        return {"net": net, "x": s.x, "levels": levels, "alpha_bar": s.alpha_bar, "noise": noise}

    even = list(range(64, -1, -8))
    yield "the Gaussian, whose noise is known exactly", case(64, even, (40, 1, 2, 2), torch.float64, oracle=True)
    yield "a batch of one", case(10, [10, 8, 6, 4, 2, 0], (1, 1, 4, 4))
    yield "pictures that are not square", case(12, [12, 9, 6, 3, 0], (3, 2, 5, 4))
    yield "uneven strides", case(32, [32, 20, 19, 5, 0], (2, 1, 3, 3), torch.float64)
    yield "two steps", case(16, [16, 8, 0], (4, 1, 3, 3), torch.float64)


def stride(net, x, k, after, alpha_bar, z, told=None, ratio=None):
    """A draw of q(x_after | x_k, x0_hat); `told` is the level that the network is told, ratio = ab_k / ab_after."""
    ab, ab_after = alpha_bar[k], alpha_bar[after]
    ratio = ab / ab_after if ratio is None else ratio
    eps = net(x, time_of(k if told is None else told, x, alpha_bar))
    mean = (x - (1 - ratio) / (1 - ab).sqrt() * eps) / ratio.sqrt()
    return mean + ((1 - ratio) * (1 - ab_after) / (1 - ab)).sqrt() * z


def strides(levels):
    return enumerate(zip(levels[:-1], levels[1:], strict=True))


@fix_the_strides.misconception(
    "The program is still as it was given: look at how much of the signal a stride over many levels keeps."
)
def strides_as_given(net, x, levels, alpha_bar, noise):
    T = len(alpha_bar) - 1
    for i, (k, k_next) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        ab, ab_next = alpha_bar[k], alpha_bar[k_next]
        beta = 1 - ab / alpha_bar[k - 1]
        eps = net(x, torch.full((len(x),), k / T, device=x.device))
        mean = (x - beta / (1 - ab).sqrt() * eps) / (1 - beta).sqrt()
        x = mean + (beta * (1 - ab_next) / (1 - ab)).sqrt() * noise[i]
    return x


@fix_the_strides.misconception(
    "The next level is k - 1 now: that is a single step, and the strides to k' are no longer made.",
    read="strided-steps",
)
def single_steps(net, x, levels, alpha_bar, noise):
    for i, k in enumerate(levels[:-1]):
        x = stride(net, x, k, k - 1, alpha_bar, noise[i])
    return x


@fix_the_strides.misconception(
    "The mean is mended, but the noise is still that of a single step: both take the beta of the stride.",
    read="strided-steps",
)
def mean_only_mended(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels):
        beta = 1 - alpha_bar[k] / alpha_bar[k - 1]
        variance = beta * (1 - alpha_bar[after]) / (1 - alpha_bar[k])
        x = stride(net, x, k, after, alpha_bar, 0 * x) + variance.sqrt() * noise[i]
    return x


@fix_the_strides.misconception(
    "The noise is mended, but the mean still takes the beta of a single step: both take that of the stride.",
    read="strided-steps",
)
def noise_only_mended(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels):
        ab, ab_after = alpha_bar[k], alpha_bar[after]
        x = stride(net, x, k, after, alpha_bar, 0 * x, ratio=ab / alpha_bar[k - 1])
        x = x + ((1 - ab / ab_after) * (1 - ab_after) / (1 - ab)).sqrt() * noise[i]
    return x


@fix_the_strides.misconception(
    "beta is the sum of the betas that the stride passes: the factors 1 - beta multiply to alpha_bar_k / alpha_bar_k'.",
    read="strided-steps",
)
def sum_of_betas(net, x, levels, alpha_bar, noise):
    beta = torch.cat([alpha_bar.new_zeros(1), 1 - alpha_bar[1:] / alpha_bar[:-1]]).cumsum(0)
    for i, (k, after) in strides(levels):
        x = stride(net, x, k, after, alpha_bar, noise[i], ratio=(1 - beta[k] + beta[after]).clamp(min=0.01))
    return x


@fix_the_strides.misconception("The time was right: x has the noise of k when the network is asked, not of k'.")
def told_the_next(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels):
        x = stride(net, x, k, after, alpha_bar, noise[i], told=after)
    return x


@fix_the_strides.misconception("The network is told k - 1 now: the table starts at k = 0, so level k is k / T.")
def told_one_less(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels):
        x = stride(net, x, k, after, alpha_bar, noise[i], told=k - 1)
    return x


@fix_the_strides.misconception("The network is told the level k: its time is k / T, between 0 and 1.")
def told_the_level(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels):
        x = stride(net, x, k, after, alpha_bar, noise[i], told=k * (len(alpha_bar) - 1))
    return x


@fix_the_strides.misconception(
    "The network is told how many steps are left, of how many: with uneven strides that is not k / T."
)
def told_the_step(net, x, levels, alpha_bar, noise):
    n, T = len(levels) - 1, len(alpha_bar) - 1
    for i, (k, after) in strides(levels):
        x = stride(net, x, k, after, alpha_bar, noise[i], told=T * (n - i) / n)
    return x


@fix_the_strides.misconception("The time is k / (T + 1): the table has T + 1 entries, so T is its length less one.")
def told_over_the_length(net, x, levels, alpha_bar, noise):
    T = len(alpha_bar) - 1
    for i, (k, after) in strides(levels):
        x = stride(net, x, k, after, alpha_bar, noise[i], told=T * k / (T + 1))
    return x


@fix_the_strides.misconception("No noise is added: then the samples are too narrow.", read="strided-steps")
def strides_without_noise(net, x, levels, alpha_bar, noise):
    for _, (k, after) in strides(levels):
        x = stride(net, x, k, after, alpha_bar, 0 * x)
    return x


@fix_the_strides.misconception(
    "The variance is that of the way up, beta: given was the posterior's, which is 0 in the last step.",
    read="strided-steps",
)
def variance_of_the_way_up(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels):
        beta = 1 - alpha_bar[k] / alpha_bar[after]
        x = stride(net, x, k, after, alpha_bar, 0 * x) + beta.sqrt() * noise[i]
    return x


@fix_the_strides.misconception("This is DDIM: right samples, but asked is the ancestral step.", read="strided-steps")
def ddim_instead(net, x, levels, alpha_bar, noise):
    for _, (k, after) in strides(levels):
        ab, ab_after = alpha_bar[k], alpha_bar[after]
        eps = net(x, time_of(k, x, alpha_bar))
        x = ab_after.sqrt() * (x - (1 - ab).sqrt() * eps) / ab.sqrt() + (1 - ab_after).sqrt() * eps
    return x


@fix_the_strides.misconception("The levels are paired with those before them, and the first is lost: k goes to k'.")
def first_stride_lost(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels[1:]):
        x = stride(net, x, k, after, alpha_bar, noise[i])
    return x


@fix_the_strides.misconception("The last stride is missing: n + 1 levels make n steps, down to 0.")
def last_stride_lost(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels[:-1]):
        x = stride(net, x, k, after, alpha_bar, noise[i])
    return x


@fix_the_strides.misconception(
    "The predicted noise is divided by sqrt(1 - alpha_bar) of k', which is 0 in the last step: x has that of k.",
    read="strided-steps",
)
def root_of_the_next(net, x, levels, alpha_bar, noise):
    for i, (k, after) in strides(levels):
        ab, ab_after = alpha_bar[k], alpha_bar[after]
        eps = net(x, time_of(k, x, alpha_bar))
        mean = (x - (1 - ab / ab_after) / (1 - ab_after).sqrt() * eps) / (ab / ab_after).sqrt()
        x = mean + ((1 - ab / ab_after) * (1 - ab_after) / (1 - ab)).sqrt() * noise[i]
    return x


@fix_the_strides.equivalent
def beta_of_the_stride(net, x, levels, alpha_bar, noise):
    T = len(alpha_bar) - 1
    for i, (k, k_next) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        ab, ab_next = alpha_bar[k], alpha_bar[k_next]
        beta = 1 - ab / ab_next
        eps = net(x, torch.full((len(x),), k / T, device=x.device))
        mean = (x - beta / (1 - ab).sqrt() * eps) / (1 - beta).sqrt()
        x = mean + (beta * (1 - ab_next) / (1 - ab)).sqrt() * noise[i]
    return x


@fix_the_strides.equivalent
def strides_through_x0(net, x, levels, alpha_bar, noise):
    for i in range(len(levels) - 1):
        ab, ab_next = alpha_bar[levels[i]].item(), alpha_bar[levels[i + 1]].item()
        t = torch.full((len(x),), levels[i] / (len(alpha_bar) - 1), dtype=x.dtype)
        x0_hat = (x - math.sqrt(1 - ab) * net(x, t)) / math.sqrt(ab)
        beta = 1 - ab / ab_next
        x = (math.sqrt(ab_next) * beta * x0_hat + math.sqrt(1 - beta) * (1 - ab_next) * x) / (1 - ab)
        if levels[i + 1] > 0:
            x = x + math.sqrt(beta * (1 - ab_next) / (1 - ab)) * noise[i]
    return x


@fix_the_strides.equivalent
def strides_as_ddim_with_all_the_noise(net, x, levels, alpha_bar, noise):
    k, steps = levels[0], iter(noise)
    for k_next in levels[1:]:
        ab, ab_next = alpha_bar[[k, k_next]]
        eps = net(x, torch.ones(len(x)) * (k / (len(alpha_bar) - 1)))
        tau2 = (1 - ab_next) / (1 - ab) * (1 - ab / ab_next)
        x0_hat = (x - (1 - ab) ** 0.5 * eps) / ab**0.5
        x = ab_next**0.5 * x0_hat + (1 - ab_next - tau2).clamp(min=0) ** 0.5 * eps + tau2**0.5 * next(steps)
        k = k_next
    return x
