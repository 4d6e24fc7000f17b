"""Exercises of chapter 4, DDPM on MNIST: the schedule, the training step, the samplers of pictures.

Index k = 1..T is the papers'; tables have length T + 1 with alpha_bar[0] = 1, in float64. Pictures are (B, C, H, W).
A network is called net(x, t, y) with t = k / T, a float tensor (B,), and labels y (B,), of which -1 is the null class.

Sources: Ho et al. 2020 (equations 6, 7, 14), Nichol & Dhariwal 2021 (equation 17, section 4), Ho & Salimans 2022
(algorithm 1).
"""

import math

import torch

from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.exercises.ddpm_2d import ELSEWHERE, ToyNet, coefficients, frozen, posterior, schedule_of, setting
from course_utils.exercises.exercise import Exercise
from course_utils.guidance import clip
from course_utils.schedules import CosineSchedule
from course_utils.training import drop_labels as drop

# ---- 4 ---------------------------------------------------------------------------------------------------------------

cosine_alpha_bar = Exercise(
    "ddpm_mnist.cosine_alpha_bar",
    title="The cosine schedule",
    points=2,
    contract="cosine_alpha_bar(T, s, beta_max) is the float64 table (T + 1,) with alpha_bar[0] = 1 and "
    "alpha_bar[k] = alpha_bar[k - 1] (1 - beta_k), where beta_k = min(1 - f(k) / f(k - 1), beta_max) and "
    "f(k) = cos(pi / 2 (k / T + s) / (1 + s))^2.",
    section="cosine-schedule",
    returns="alpha_bar",
    finished=("course_utils.schedules.CosineSchedule",),
    tolerance={torch.float64: 1e-6},
)


@cosine_alpha_bar.solution
def _(T, s, beta_max):
    return CosineSchedule(T, s, beta_max).alpha_bar


@cosine_alpha_bar.inputs
def _(g):
    yield "the table of the paper", {"T": 1000, "s": 0.008, "beta_max": 0.999}
    yield "few levels", {"T": 10, "s": 0.008, "beta_max": 0.999}
    yield "a low limit, which cuts many betas", {"T": 20, "s": 0.01, "beta_max": 0.3}
    yield "a large s", {"T": 12, "s": 0.2, "beta_max": 0.99}
    for name in ("a short table", "another short table"):
        s = 0.02 + 0.1 * torch.rand((), generator=g).item()
        yield name, {"T": int(torch.randint(4, 30, (), generator=g)), "s": s, "beta_max": 0.98}


def squared_cosine(T, s):
    level = torch.arange(T + 1, dtype=torch.float64) / T
    return torch.cos((level + s) / (1 + s) * math.pi / 2) ** 2


def table_of(f, beta_max):
    """The products of 1 - beta, beta from the ratios of f and at most beta_max."""
    beta = (1 - f[1:] / f[:-1]).clamp(max=beta_max)
    return torch.cat([torch.ones(1, dtype=f.dtype), (1 - beta).cumprod(0)])


@cosine_alpha_bar.misconception(
    "The betas are not cut off: alpha_bar[T] is 0, and x0 = (x - sigma eps) / alpha divides by zero there."
)
def not_clipped(T, s, beta_max):
    f = squared_cosine(T, s)
    return f / f[0]


@cosine_alpha_bar.misconception(
    "alpha_bar itself is cut off at 1 - beta_max: the limit is for the betas of single steps."
)
def alpha_bar_clipped(T, s, beta_max):
    f = squared_cosine(T, s)
    return (f / f[0]).clamp(min=1 - beta_max)


@cosine_alpha_bar.misconception(
    "The last beta is cut off and the rest of the table left as it was: after a cut, all later products change."
)
def only_the_end_clipped(T, s, beta_max):
    f = squared_cosine(T, s)
    return torch.cat([f[:-1] / f[0], (1 - beta_max) * f[-2:-1] / f[0]])


@cosine_alpha_bar.misconception("f is not divided by f(0), so the table does not start at 1: data are noisy at k = 0.")
def not_divided_by_the_first(T, s, beta_max):
    f = squared_cosine(T, s)
    return f[0] * table_of(f, beta_max)


@cosine_alpha_bar.misconception("The cosine is not squared: alpha_bar is a variance, and sqrt(alpha_bar) the cosine.")
def not_squared(T, s, beta_max):
    return table_of(squared_cosine(T, s).sqrt(), beta_max)


@cosine_alpha_bar.misconception("The offset s is missing: it keeps the first betas from being vanishingly small.")
def offset_missing(T, s, beta_max):
    return table_of(squared_cosine(T, 0), beta_max)


@cosine_alpha_bar.misconception("s is added to the level k: it belongs to k / T.")
def offset_of_the_level(T, s, beta_max):
    level = (torch.arange(T + 1, dtype=torch.float64) + s) / (T + s)
    return table_of(torch.cos(level * math.pi / 2) ** 2, beta_max)


@cosine_alpha_bar.misconception("k / T + s is not divided by 1 + s: the cosine passes zero before k = T.")
def past_the_quarter_turn(T, s, beta_max):
    level = torch.arange(T + 1, dtype=torch.float64) / T
    return table_of(torch.cos((level + s) * math.pi / 2) ** 2, beta_max)


@cosine_alpha_bar.misconception("The angle goes to pi, not to pi / 2: after half the levels alpha_bar rises again.")
def half_a_turn(T, s, beta_max):
    level = torch.arange(T + 1, dtype=torch.float64) / T
    return table_of(torch.cos((level + s) / (1 + s) * math.pi) ** 2, beta_max)


@cosine_alpha_bar.misconception("These are the betas: multiply up 1 - beta.")
def betas_instead(T, s, beta_max):
    f = squared_cosine(T, s)
    return torch.cat([f.new_zeros(1), (1 - f[1:] / f[:-1]).clamp(max=beta_max)])


@cosine_alpha_bar.misconception("These are the factors 1 - beta of single steps: multiply them up.")
def factors_instead(T, s, beta_max):
    f = squared_cosine(T, s)
    return torch.cat([f.new_ones(1), 1 - (1 - f[1:] / f[:-1]).clamp(max=beta_max)])


@cosine_alpha_bar.misconception(
    "The leading entry alpha_bar[0] = 1 is missing, so that every index is one off the papers'."
)
def without_the_leading_one(T, s, beta_max):
    return table_of(squared_cosine(T, s), beta_max)[1:]


@cosine_alpha_bar.misconception("This is the square root of alpha_bar: the root is taken where x0 is multiplied.")
def root_of_the_table(T, s, beta_max):
    return table_of(squared_cosine(T, s), beta_max).sqrt()


@cosine_alpha_bar.misconception("The table is float32, torch's default: products of a thousand factors want float64.")
def cosine_in_float32(T, s, beta_max):
    return table_of(squared_cosine(T, s), beta_max).float()


@cosine_alpha_bar.equivalent
def product_in_a_loop(T, s, beta_max):
    table = [1.0]
    for k in range(1, T + 1):
        now, before = (math.cos(math.pi / 2 * (j / T + s) / (1 + s)) ** 2 for j in (k, k - 1))
        table.append(table[-1] * (1 - min(1 - now / before, beta_max)))
    return torch.tensor(table, dtype=torch.float64)


@cosine_alpha_bar.equivalent
def factors_kept_from_below(T, s, beta_max):
    f = torch.cos(torch.linspace(s, 1 + s, T + 1, dtype=torch.float64) / (1 + s) * torch.pi / 2).square()
    f[1:] = torch.maximum(f[1:] / f[:-1], torch.tensor(1 - beta_max))
    f[0] = 1
    return f.cumprod(0)


@cosine_alpha_bar.equivalent
def with_numpy(T, s, beta_max):
    import numpy as np

    f = (1 + np.cos(np.pi * (np.arange(T + 1) / T + s) / (1 + s))) / 2
    beta = np.minimum(1 - f[1:] / f[:-1], beta_max)
    return torch.from_numpy(np.concatenate([[1.0], np.exp(np.cumsum(np.log1p(-beta)))]))


# ---- 5 ---------------------------------------------------------------------------------------------------------------

drop_labels = Exercise(
    "ddpm_mnist.drop_labels",
    title="Labels that are sometimes missing",
    points=2,
    contract="drop_labels(y, p) is a new int64 tensor (B,): each label of y (B,), in 0..9, is replaced by -1 with "
    "probability p, one by one and by chance, and kept otherwise.",
    section="label-dropout",
    returns="the labels",
    finished=("course_utils.training.drop_labels",),
    tolerance={torch.float64: 0.03},  # of shares, whose standard deviation is at most 0.005
)


@drop_labels.observe
def _(value, inputs):
    """What was kept must be exact; what was dropped is judged by its shares.

    A share is comparable only where many labels were asked for, or none or all were to be dropped.
    """
    y, p = inputs["y"], inputs["p"]
    if value.dtype != y.dtype or value.shape != y.shape:
        return {"the labels": value}
    gone = value == -1
    seen = {"the labels": torch.where(gone, y, value)}  # the dropped ones put back
    if len(y) < 1000 and 0 < p < 1:
        return seen
    gone = gone.double()
    seen["the share of -1"] = gone.mean()
    if len(y) >= 1000:
        seen["the share of -1 among the labels 0"] = gone[: len(y) // 10].mean()
        seen["the share of -1 in the second half"] = gone[len(y) // 2 :].mean()
        seen["the share of neighbours both -1"] = (gone[1:] * gone[:-1]).mean()
    return seen


@drop_labels.solution
def _(y, p):
    return drop(y, p)


@drop_labels.inputs
def _(g):
    y = torch.arange(10).repeat_interleave(2000)  # the labels 0 come first
    yield "20,000 labels, a fifth dropped", {"y": y, "p": 0.2}
    yield "20,000 labels, half dropped", {"y": y, "p": 0.5}
    yield "nothing dropped", {"y": torch.randint(0, 10, (50,), generator=g), "p": 0.0}
    yield "everything dropped", {"y": torch.randint(0, 10, (50,), generator=g), "p": 1.0}
    yield "a batch of one", {"y": torch.randint(1, 10, (1,), generator=g), "p": 0.1}
    yield ELSEWHERE, {"y": torch.randint(0, 10, (6,), generator=g).to("meta"), "p": 0.2}


def chances(y):
    return torch.rand(len(y), device=y.device)


@drop_labels.misconception("One draw decides for the whole batch: each label has its own.")
def one_draw_for_all(y, p):
    return torch.where(torch.rand((), device=y.device) < p, -1, y)


@drop_labels.misconception(
    "Dropped labels become 0, which is a class: the digit 0 is then taught as the null class. The null class is -1."
)
def dropped_to_zero(y, p):
    return torch.where(chances(y) < p, 0, y)


@drop_labels.misconception(
    "Dropped labels become 10, one above the last class: here the null class is -1, for any number of classes."
)
def dropped_to_ten(y, p):
    return torch.where(chances(y) < p, 10, y)


@drop_labels.misconception("The labels are multiplied by a mask of 0 and 1: what is dropped becomes 0, a class.")
def masked_to_zero(y, p):
    return y * (chances(y) >= p).float()


@drop_labels.misconception("The comparison is the wrong way round: p is the share that is kept here, not dropped.")
def share_kept(y, p):
    return torch.where(chances(y) > p, -1, y)


@drop_labels.misconception("The draw is normal (randn), not uniform: the share below p is then not p.")
def normal_draw(y, p):
    return torch.where(torch.randn(len(y), device=y.device) < p, -1, y)


@drop_labels.misconception("The first p B labels are dropped, always the same: a batch in order loses whole classes.")
def first_ones_dropped(y, p):
    y = y.clone()
    y[: round(p * len(y))] = -1
    return y


@drop_labels.misconception("Labels of 0 are never dropped: 0 is a class like any other.")
def zero_spared(y, p):
    return torch.where((chances(y) < p) & (y > 0), -1, y)


@drop_labels.misconception("Nothing is dropped: the null class would never be trained, and guidance needs it.")
def nothing_dropped(y, p):
    return y.clone()


@drop_labels.misconception("Everything is dropped: the classes would never be trained.")
def everything_dropped(y, p):
    return torch.full_like(y, -1)


@drop_labels.misconception("Dropped labels become random classes: that teaches wrong labels, not missing ones.")
def random_classes(y, p):
    return torch.where(chances(y) < p, torch.randint_like(y, 10), y)


@drop_labels.misconception("The labels are changed in place: the data set's own labels would be lost, more each epoch.")
def dropped_in_place(y, p):
    y[chances(y) < p] = -1
    return y


@drop_labels.misconception("The chances are drawn on the processor wherever y is: draw them with device=y.device.")
def chances_on_the_cpu(y, p):
    return torch.where(torch.rand(len(y)) < p, -1, y)


@drop_labels.equivalent
def on_a_copy(y, p):
    y = y.clone()
    y[torch.rand(y.shape, device=y.device) < p] = -1
    return y


@drop_labels.equivalent
def with_bernoulli(y, p):
    gone = torch.bernoulli(torch.full(y.shape, p, device=y.device)).long()
    return y * (1 - gone) - gone


@drop_labels.equivalent
def one_after_the_other(y, p):
    return torch.stack([label if torch.rand(()) >= p else torch.full_like(label, -1) for label in y])


@drop_labels.equivalent
def filled_where_kept(y, p):
    kept = torch.empty(len(y), device=y.device).uniform_() >= p
    return y.masked_fill(~kept, -1)


# ---- 6 ---------------------------------------------------------------------------------------------------------------

training_loss = Exercise(
    "ddpm_mnist.training_loss",
    title="One training step",
    points=3,
    contract="training_loss(net, x0, y, alpha_bar) draws for each picture of x0 (B, C, H, W) a level k, any of 1..T "
    "with equal chance, and a normal noise; it is the mean squared difference between that noise and "
    "net(x_k, k / T, y), and its gradient reaches the network.",
    section="training-loss",
    returns="the loss (1 = as asked)",
    finished=("course_utils.denoiser.diffusion_loss",),
    tolerance={torch.float64: 0.07, torch.float32: 0.07},  # of shares and moments: over four standard deviations
)


class WatchedNet(ToyNet):
    """A stand-in for a network with labels, which remembers what it was asked and what it said."""

    remembers = True  # grading keeps it out of the student's process: what it saw is evidence

    def __init__(self, g):
        super().__init__(g)
        self.calls = []

    def forward(self, x, t, y=None):
        y = torch.full_like(t, -1, dtype=torch.long) if y is None else y
        if y.shape != t.shape:
            raise ValueError(f"net(x, t, y) takes y of shape (B,) = ({len(x)},), one label a picture: {tuple(y.shape)}")
        out = super().forward(x, t) + 0.1 * y.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        self.calls.append((x, t, y, out))
        return out


def differs(a, b):
    """1.0 where two results differ by more than their fourth digit, else 0.0."""
    return ((a - b).norm() > 1e-4 * b.norm()).to(torch.float32)


@training_loss.observe
def what_the_net_saw(value, inputs):
    """The noise is worked out from x_k: the loss must be about that one, and its moments those of a normal."""
    x0, ab, net = inputs["x0"], inputs["alpha_bar"], inputs["net"]
    x, t, y, out = (torch.cat(parts) for parts in zip(*net.calls, strict=True))
    level = t * (len(ab) - 1)
    k = level.round().long().clamp(0, len(ab) - 1)
    signal = ab.to(x)[k].reshape(-1, *[1] * (x.ndim - 1))
    noise = (x - signal.sqrt() * x0) / (1 - signal).sqrt().clamp(min=1e-3)
    exact = (out - noise).square().mean().to(value.dtype)
    weights = list(net.parameters())
    wanted, gradient = torch.ones_like(weights[0]), torch.zeros_like(weights[0])
    if out.requires_grad:  # or it was asked under no_grad
        wanted = torch.autograd.grad(exact, weights, retain_graph=True)[0]
    if value.requires_grad:
        gradient = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)[0]
    seen = {
        "the share of the times that are no k / T": ((level - level.round()).abs() > 1e-3).float().mean(),
        "the labels that the network got": y,
        "an error in the loss's fourth digit (1 = yes)": differs(value.detach(), exact.detach()),
        "an error in its gradient at the network (1 = yes)": differs(gradient, wanted),
    }
    if len(x0) >= 1000:  # in a small batch these depend on the draws alone
        noise, share = noise.detach().flatten(1), k.bincount(minlength=len(ab)) / len(k)
        seen = {"the loss (1 = as asked)": (value / exact).detach()} | seen
        seen |= {
            "the mean of the noise": noise.mean(),
            "the variance of the noise": noise.var(),
            "the variance of the noise from picture to picture": noise.var(0).mean(),
            "the share of the most frequent level": share.max(),
            "the share of each level": share if share.max() < 1 else 0 * share,  # one level: whichever
        }
    return seen


@training_loss.solution
def _(net, x0, y, alpha_bar):
    schedule = schedule_of(alpha_bar)
    t = schedule.sample_t(len(x0), device=x0.device).to(x0.dtype)
    return diffusion_loss(Denoiser(net, schedule), x0, y, t)


@training_loss.inputs
def _(g):
    def case(T, shape, dtype=torch.float32):
        s = setting(g, T, shape, dtype)
        y = torch.randint(-1, 10, shape[:1], generator=g)
        return {"net": WatchedNet(g), "x0": s.x0.clamp(-1, 1), "y": y, "alpha_bar": s.alpha_bar}

    yield "3,000 small pictures", case(8, (3000, 1, 3, 2))
    yield "in colour", case(5, (6, 3, 4, 2))
    yield "a batch of one", case(12, (1, 1, 4, 4))
    yield "as many pictures as pixels in a row", case(9, (4, 2, 4, 4))
    yield "pictures that are not square", case(15, (3, 2, 5, 4))
    yield "float64", case(16, (5, 1, 3, 4), torch.float64)
    inputs = case(16, (3, 1, 4, 4))
    yield ELSEWHERE, {n: v if n == "alpha_bar" else v.to("meta") for n, v in inputs.items()}


def levels_for(x0, alpha_bar):
    return torch.randint(1, len(alpha_bar), x0.shape[:1], device=x0.device)


def noisy(x0, k, noise, alpha_bar):
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    return ab.sqrt() * x0 + (1 - ab).sqrt() * noise


def asked_and_said(net, x0, y, alpha_bar, k=None, noise=None):
    """The noise, and what the network says about it; level and noise are drawn unless given."""
    k = levels_for(x0, alpha_bar) if k is None else k
    noise = torch.randn_like(x0) if noise is None else noise
    return noise, net(noisy(x0, k, noise, alpha_bar), k / (len(alpha_bar) - 1), y)


@training_loss.misconception("One level is drawn for the whole batch: the levels of one step are then all alike.")
def one_level_for_all(net, x0, y, alpha_bar):
    k = torch.randint(1, len(alpha_bar), (1,), device=x0.device).expand(len(x0))
    noise, eps = asked_and_said(net, x0, y, alpha_bar, k)
    return (eps - noise).square().mean()


@training_loss.misconception(
    "The levels run from 1 to T - 1, as randint leaves out its end: T, where sampling starts, is never trained."
)
def top_level_missing(net, x0, y, alpha_bar):
    k = torch.randint(1, len(alpha_bar) - 1, x0.shape[:1], device=x0.device)
    noise, eps = asked_and_said(net, x0, y, alpha_bar, k)
    return (eps - noise).square().mean()


@training_loss.misconception(
    "The levels run from 0 to T - 1: at 0 there is no noise to predict, and T, where sampling starts, is never trained."
)
def levels_from_zero(net, x0, y, alpha_bar):
    k = torch.randint(0, len(alpha_bar) - 1, x0.shape[:1], device=x0.device)
    noise, eps = asked_and_said(net, x0, y, alpha_bar, k)
    return (eps - noise).square().mean()


@training_loss.misconception("The network gets the level k: its time is t = k / T, between 0 and 1.")
def level_for_time(net, x0, y, alpha_bar):
    k, noise = levels_for(x0, alpha_bar), torch.randn_like(x0)
    return (net(noisy(x0, k, noise, alpha_bar), k.float(), y) - noise).square().mean()


@training_loss.misconception("The time is k / (T + 1): the table has T + 1 entries, so T is its length less one.")
def length_for_levels(net, x0, y, alpha_bar):
    k, noise = levels_for(x0, alpha_bar), torch.randn_like(x0)
    return (net(noisy(x0, k, noise, alpha_bar), k / len(alpha_bar), y) - noise).square().mean()


@training_loss.misconception(
    "The network is compared with a second draw, which was never added: its best answer is then 0, whatever it sees."
)
def second_draw(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, y, alpha_bar)
    return (eps - torch.randn_like(noise)).square().mean()


@training_loss.misconception("The noise is uniform (rand): it must be normal, with mean 0 and variance 1.")
def uniform_noise(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, y, alpha_bar, noise=torch.rand_like(x0))
    return (eps - noise).square().mean()


@training_loss.misconception(
    "The noise is uniform, and compared with a second draw: the loss settles at 1/12 and looks trained."
)
def second_uniform_draw(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, y, alpha_bar, noise=torch.rand_like(x0))
    return (eps - torch.rand_like(noise)).square().mean()


@training_loss.misconception("All pictures get the same noise: draw one as large as the batch, randn_like(x0).")
def one_noise_for_all(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, y, alpha_bar, noise=torch.randn_like(x0[:1]).expand_as(x0))
    return (eps - noise).square().mean()


@training_loss.misconception("x_k is made without the square roots of alpha_bar and 1 - alpha_bar.")
def without_roots(net, x0, y, alpha_bar):
    k, noise = levels_for(x0, alpha_bar), torch.randn_like(x0)
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    return (net(ab * x0 + (1 - ab) * noise, k / (len(alpha_bar) - 1), y) - noise).square().mean()


@training_loss.misconception("The two coefficients are swapped: the least noisy pictures are called the noisiest.")
def coefficients_swapped(net, x0, y, alpha_bar):
    k, noise = levels_for(x0, alpha_bar), torch.randn_like(x0)
    x = noisy(noise, k, x0, alpha_bar)
    return (net(x, k / (len(alpha_bar) - 1), y) - noise).square().mean()


@training_loss.misconception("The network is compared with the clean picture: it says the noise.")
def compared_with_the_picture(net, x0, y, alpha_bar):
    _, eps = asked_and_said(net, x0, y, alpha_bar)
    return (eps - x0).square().mean()


@training_loss.misconception("The network sees the clean picture: it must see x_k.")
def shown_the_clean_picture(net, x0, y, alpha_bar):
    k, noise = levels_for(x0, alpha_bar), torch.randn_like(x0)
    return (net(x0, k / (len(alpha_bar) - 1), y) - noise).square().mean()


@training_loss.misconception("The labels never reach the network: it would draw any digit, whichever is asked for.")
def labels_left_out(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, None, alpha_bar)
    return (eps - noise).square().mean()


@training_loss.misconception("The squares are summed: take their mean, or the learning rate depends on the batch.")
def sum_of_squares(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, y, alpha_bar)
    return (eps - noise).square().sum()


@training_loss.misconception("The squares are summed over a picture and averaged over the batch: take the mean of all.")
def mean_of_the_batch_only(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, y, alpha_bar)
    return (eps - noise).square().sum() / len(x0)


@training_loss.misconception("This is the mean of absolute differences: its best answer is the median, not the mean.")
def absolute_differences(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, y, alpha_bar)
    return (eps - noise).abs().mean()


@training_loss.misconception("The value is right but cut off from the network (no_grad, detach): it learns nothing.")
def cut_off(net, x0, y, alpha_bar):
    noise, eps = asked_and_said(net, x0, y, alpha_bar)
    return (eps - noise).square().mean().detach()


@training_loss.misconception("The levels are drawn on the processor wherever x0 is: draw them with device=x0.device.")
def levels_on_the_cpu(net, x0, y, alpha_bar):
    k = torch.randint(1, len(alpha_bar), (len(x0),))
    noise, eps = asked_and_said(net, x0, y, alpha_bar, k)
    return (eps - noise).square().mean()


@training_loss.equivalent
def with_mse_loss(net, x0, y, alpha_bar):
    T = len(alpha_bar) - 1
    noise = torch.randn_like(x0)
    k = torch.randint(1, T + 1, (len(x0),), device=x0.device)
    ab = alpha_bar.to(x0.device)[k].to(x0.dtype).view(-1, 1, 1, 1)
    return torch.nn.functional.mse_loss(net(ab.sqrt() * x0 + (1 - ab).sqrt() * noise, k.to(x0.dtype) / T, y), noise)


@training_loss.equivalent
def in_opposite_pairs(net, x0, y, alpha_bar):
    T = len(alpha_bar) - 1
    k = torch.randint(1, T + 1, ((len(x0) + 1) // 2,), device=x0.device)
    k = torch.cat([k, T + 1 - k])[: len(x0)]
    noise = torch.normal(torch.zeros_like(x0), torch.ones_like(x0))
    ab = alpha_bar.to(x0)[k]
    x = torch.einsum("b,b...->b...", ab**0.5, x0) + torch.einsum("b,b...->b...", (1 - ab) ** 0.5, noise)
    error = noise - net(x, k / T, y)
    return (error * error).sum() / error.numel()


@training_loss.equivalent
def in_two_halves(net, x0, y, alpha_bar):
    T, total = len(alpha_bar) - 1, 0
    for pictures, labels in zip(x0.split((len(x0) + 1) // 2), y.split((len(x0) + 1) // 2), strict=True):
        t = (torch.rand(len(pictures), device=x0.device) * T).floor().add(1).div(T)
        ab = alpha_bar.to(x0)[(t * T).round().long()][:, None, None, None]
        noise = torch.randn(pictures.shape, dtype=x0.dtype, device=x0.device)
        total = (
            total
            + (net(torch.lerp(noise * 0, pictures, ab.sqrt()) + (1 - ab).sqrt() * noise, t, labels) - noise)
            .pow(2)
            .sum()
        )
    return total / x0.numel()


# ---- 7 ---------------------------------------------------------------------------------------------------------------

clipped_step = Exercise(
    "ddpm_mnist.clipped_step",
    title="A step back that knows the range of pictures",
    points=3,
    contract="clipped_step(net, x, k, alpha_bar, z) is x_{k-1}, a draw with the given normal z from "
    "q(x_{k-1} | x_k = x, x0_hat) for x (B, C, H, W) at level k (an int in 1..T), where x0_hat is what the noise "
    "net(x, k / T) says of the picture, clipped to [-1, 1].",
    section="x0-clipping",
    returns="x_{k-1}",
    finished=("course_utils.samplers.ddpm", "course_utils.guidance.clip"),
)


@clipped_step.solution
def _(net, x, k, alpha_bar, z):
    schedule = schedule_of(alpha_bar)
    x0_hat = clip(Denoiser(net, schedule))(x, k / schedule.T)
    mean, variance = posterior.reference(x0_hat, x, torch.full((len(x),), k), schedule.beta, alpha_bar)
    return mean + variance.sqrt() * z


@clipped_step.inputs
def _(g):
    def case(T, k, shape, dtype=torch.float32):
        s = setting(g, T, shape, dtype)
        return {"net": frozen(ToyNet(g)), "x": s.x, "k": k, "alpha_bar": s.alpha_bar, "z": s.noise}

    k = int(torch.randint(3, 14, (), generator=g))
    yield "a level in the middle", case(16, k, (3, 1, 4, 4))
    yield "the first step, k = T", case(32, 32, (2, 3, 5, 4))
    yield "the last step, k = 1", case(8, 1, (4, 1, 4, 4))
    yield "a batch of one", case(12, 9, (1, 1, 6, 3))
    yield "float64", case(32, 20, (3, 2, 3, 4), torch.float64)
    inputs = case(16, 7, (2, 1, 4, 4))
    yield ELSEWHERE, {n: v.to("meta") if hasattr(v, "to") and n != "alpha_bar" else v for n, v in inputs.items()}


def said_noise(net, x, k, alpha_bar):
    """The network's prediction at level k, an int."""
    return net(x, torch.full((len(x),), k / (len(alpha_bar) - 1), device=x.device))


def picture_of(x, eps, k, alpha_bar):
    return (x - (1 - alpha_bar[k]).sqrt() * eps) / alpha_bar[k].sqrt()


def draw_back(x0, x, k, alpha_bar, z):
    """A draw of q(x_{k-1} | x_k = x, x0) (Ho et al. 2020, equations 6 and 7)."""
    ab, before = alpha_bar[k], alpha_bar[k - 1]
    beta = 1 - ab / before
    mean = before.sqrt() * beta / (1 - ab) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - ab) * x
    return mean + (beta * (1 - before) / (1 - ab)).sqrt() * z


@clipped_step.misconception(
    "The new state is clipped: x_{k-1} still has noise, and a third of normal noise lies outside [-1, 1]. Clip x0_hat."
)
def state_clipped(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar)
    return draw_back(x0_hat, x, k, alpha_bar, z).clamp(-1, 1)


@clipped_step.misconception("Both are clipped, x0_hat and the new state: only x0_hat has a range.")
def both_clipped(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar).clamp(-1, 1)
    return draw_back(x0_hat, x, k, alpha_bar, z).clamp(-1, 1)


@clipped_step.misconception("The state x is clipped before the network sees it: the noise in it has no range.")
def clipped_before_the_network(net, x, k, alpha_bar, z):
    x = x.clamp(-1, 1)
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar)
    return draw_back(x0_hat, x, k, alpha_bar, z)


@clipped_step.misconception(
    "Nothing is clipped, or nothing comes of it: x0_hat may say more than ink or paper, and the steps carry that on."
)
def nothing_clipped(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar)
    return draw_back(x0_hat, x, k, alpha_bar, z)


@clipped_step.misconception("The predicted noise is clipped: it is the picture that has a range.")
def noise_clipped(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar).clamp(-1, 1), k, alpha_bar)
    return draw_back(x0_hat, x, k, alpha_bar, z)


@clipped_step.misconception("x0_hat is clipped to [0, 1]: pixels of this course run from -1 to 1.")
def clipped_to_zero_one(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar).clamp(0, 1)
    return draw_back(x0_hat, x, k, alpha_bar, z)


@clipped_step.misconception(
    "x0_hat is squeezed by tanh, which changes every pixel: clipping leaves those in range alone."
)
def squeezed(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar).tanh()
    return draw_back(x0_hat, x, k, alpha_bar, z)


@clipped_step.misconception("The clipped x0_hat itself is returned: that is one step all the way, not one level back.")
def all_the_way(net, x, k, alpha_bar, z):
    return picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar).clamp(-1, 1)


@clipped_step.misconception("The coefficients of x0_hat and x are swapped.")
def weights_swapped(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar).clamp(-1, 1)
    return draw_back(x, x0_hat, k, alpha_bar, z)


@clipped_step.misconception("The noise is multiplied by the variance: its standard deviation is the square root.")
def noise_times_variance(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar).clamp(-1, 1)
    ab, before = alpha_bar[k], alpha_bar[k - 1]
    return draw_back(x0_hat, x, k, alpha_bar, 0 * z) + (1 - ab / before) * (1 - before) / (1 - ab) * z


@clipped_step.misconception("sigma^2 is beta_k here: asked is the posterior's variance, which is 0 at k = 1.")
def variance_of_the_step_forward(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar).clamp(-1, 1)
    return draw_back(x0_hat, x, k, alpha_bar, 0 * z) + (1 - alpha_bar[k] / alpha_bar[k - 1]).sqrt() * z


@clipped_step.misconception("No noise is added: that is the mean of the step.")
def no_noise(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k, alpha_bar), k, alpha_bar).clamp(-1, 1)
    return draw_back(x0_hat, x, k, alpha_bar, 0 * z)


@clipped_step.misconception("The network gets the time of level k - 1: x has the noise of level k.")
def time_one_level_low(net, x, k, alpha_bar, z):
    x0_hat = picture_of(x, said_noise(net, x, k - 1, alpha_bar), k, alpha_bar).clamp(-1, 1)
    return draw_back(x0_hat, x, k, alpha_bar, z)


@clipped_step.misconception(
    "The times are made on the processor wherever x is: make them with device=x.device.", read="time-embedding"
)
def times_on_the_cpu(net, x, k, alpha_bar, z):
    eps = net(x, torch.full((len(x),), k / (len(alpha_bar) - 1)))
    return draw_back(picture_of(x, eps, k, alpha_bar).clamp(-1, 1), x, k, alpha_bar, z)


@clipped_step.equivalent
def through_the_noise_again(net, x, k, alpha_bar, z):
    ab, before = alpha_bar[k], alpha_bar[k - 1]
    alpha = ab / before
    eps = net(x, torch.full((len(x),), k / (len(alpha_bar) - 1), device=x.device))
    x0_hat = ((x - (1 - ab).sqrt() * eps) / ab.sqrt()).clip(-1, 1)
    eps = (x - ab.sqrt() * x0_hat) / (1 - ab).sqrt()  # the noise that goes with the clipped picture
    mean = (x - (1 - alpha) / (1 - ab).sqrt() * eps) / alpha.sqrt()
    return mean + ((1 - alpha) * (1 - before) / (1 - ab)).sqrt() * z


@clipped_step.equivalent
def by_conditioning(net, x, k, alpha_bar, z):
    ab, before = float(alpha_bar[k]), float(alpha_bar[k - 1])
    t = torch.ones(x.shape[0], device=x.device) * k / (len(alpha_bar) - 1)
    with torch.no_grad():
        x0_hat = (x - math.sqrt(1 - ab) * net(x, t)) / math.sqrt(ab)
    x0_hat = torch.minimum(torch.maximum(x0_hat, -torch.ones_like(x)), torch.ones_like(x))
    gain = math.sqrt(ab / before) * (1 - before) / (1 - ab)
    deviation = math.sqrt(max(0.0, (1 - before) * (1 - gain * math.sqrt(ab / before))))
    return math.sqrt(before) * x0_hat + gain * (x - math.sqrt(ab) * x0_hat) + deviation * z


@clipped_step.equivalent
def as_ddim_with_all_the_noise(net, x, k, alpha_bar, z):
    ab, before = alpha_bar[k], alpha_bar[k - 1]
    t = torch.full((len(x),), k / (len(alpha_bar) - 1), dtype=x.dtype, device=x.device)
    x0_hat = torch.nn.functional.hardtanh((x - (1 - ab).sqrt() * net(x, t)) / ab.sqrt())
    direction = (x - ab.sqrt() * x0_hat) / (1 - ab).sqrt()
    tau2 = (1 - before) / (1 - ab) * (1 - ab / before)
    return before.sqrt() * x0_hat + (1 - before - tau2).clamp(min=0).sqrt() * direction + tau2.sqrt() * z


# ---- 8 ---------------------------------------------------------------------------------------------------------------

strided_coefficients = Exercise(
    "ddpm_mnist.strided_coefficients",
    title="Longer strides",
    points=3,
    contract="strided_coefficients(alpha_bar, levels) are three float64 tensors (n,), for each step from k = levels[i] "
    "to k' = levels[i + 1] (int64, (n + 1,), falling): the coefficients of x0_hat and of x in the mean of "
    "q(x_k' | x_k = x, x0_hat), and its variance.",
    section="strided-steps",
    returns=("the coefficient of x0_hat", "the coefficient of x", "the variance"),
    finished=("course_utils.samplers.ddpm",),
)


@strided_coefficients.solution
def _(alpha_bar, levels):
    table = alpha_bar[levels.flip(0)]  # a schedule of n levels, and their neighbours' steps in it
    k = torch.arange(len(levels) - 1, 0, -1)
    beta = torch.cat([table.new_zeros(1), 1 - table[1:] / table[:-1]])
    return coefficients(k, beta, table, table[k])


@strided_coefficients.inputs
def _(g):
    table = CosineSchedule(1000).alpha_bar
    even = torch.linspace(1000, 0, 11).round().long()
    yield "ten steps for a thousand", {"alpha_bar": table, "levels": even}
    yield "all levels, one by one", {"alpha_bar": setting(g, 8, (1,)).alpha_bar, "levels": torch.arange(8, -1, -1)}
    yield "one step for all", {"alpha_bar": setting(g, 12, (1,)).alpha_bar, "levels": torch.tensor([12, 0])}
    yield "uneven strides", {"alpha_bar": setting(g, 20, (1,)).alpha_bar, "levels": torch.tensor([20, 17, 16, 9, 2, 0])}
    T = int(torch.randint(20, 60, (), generator=g))
    levels = torch.randperm(T - 1, generator=g)[:6].sort(descending=True).values + 1
    yield "strides at random", {"alpha_bar": setting(g, T, (1,)).alpha_bar, "levels": levels}


def ends(alpha_bar, levels):
    """alpha_bar where each step starts, and where it ends."""
    return alpha_bar[levels[:-1]], alpha_bar[levels[1:]]


def back(ab, after, ratio=None):
    """The three of a step from ab to `after`; ratio = ab / after unless given."""
    ratio = ab / after if ratio is None else ratio
    below = 1 - ab
    return after.sqrt() * (1 - ratio) / below, ratio.sqrt() * (1 - after) / below, (1 - ratio) * (1 - after) / below


@strided_coefficients.misconception(
    "alpha_k = 1 - beta_k of a single step is kept: from k to k' the signal shrinks by alpha_bar_k / alpha_bar_k'."
)
def factor_of_a_single_step(alpha_bar, levels):
    return back(*ends(alpha_bar, levels), alpha_bar[levels[:-1]] / alpha_bar[levels[:-1] - 1])


@strided_coefficients.misconception(
    "These are steps to the next lower level, k - 1: the strides are as if they were not there."
)
def to_the_next_level(alpha_bar, levels):
    return back(alpha_bar[levels[:-1]], alpha_bar[levels[:-1] - 1])


@strided_coefficients.misconception(
    "Only the coefficient of x has the factor of a single step left in it: then the signal no longer adds up to "
    "sqrt(alpha_bar_k')."
)
def single_factor_of_x(alpha_bar, levels):
    ab, after = ends(alpha_bar, levels)
    of_x0, _, variance = back(ab, after)
    return of_x0, back(ab, after, ab / alpha_bar[levels[:-1] - 1])[1], variance


@strided_coefficients.misconception(
    "The coefficient of x0_hat is sqrt(alpha_bar_k' / beta): it is sqrt(alpha_bar_k') beta / (1 - alpha_bar_k)."
)
def root_over_beta(alpha_bar, levels):
    ab, after = ends(alpha_bar, levels)
    _, of_x, variance = back(ab, after)
    return (after / (1 - ab / after)).sqrt(), of_x, variance


@strided_coefficients.misconception("The coefficient of x0_hat has alpha_bar of the level k that the step leaves.")
def signal_where_it_starts(alpha_bar, levels):
    ab, after = ends(alpha_bar, levels)
    of_x0, of_x, variance = back(ab, after)
    return (ab / after).sqrt() * of_x0, of_x, variance


@strided_coefficients.misconception("The coefficient of x has the ratio itself where its square root belongs.")
def ratio_without_root(alpha_bar, levels):
    ab, after = ends(alpha_bar, levels)
    of_x0, of_x, variance = back(ab, after)
    return of_x0, (ab / after).sqrt() * of_x, variance


@strided_coefficients.misconception(
    "The ratio is upside down: alpha_bar_k' / alpha_bar_k is above 1, and beta below 0."
)
def ratio_upside_down(alpha_bar, levels):
    ab, after = ends(alpha_bar, levels)
    return back(ab, after, after / ab)


@strided_coefficients.misconception("The two coefficients are swapped: in the step to k' = 0, all is x0_hat.")
def of_x_and_of_x0(alpha_bar, levels):
    of_x0, of_x, variance = back(*ends(alpha_bar, levels))
    return of_x, of_x0, variance


@strided_coefficients.misconception("The third is the standard deviation: the variance is asked for, without the root.")
def deviation_for_variance(alpha_bar, levels):
    of_x0, of_x, variance = back(*ends(alpha_bar, levels))
    return of_x0, of_x, variance.sqrt()


@strided_coefficients.misconception(
    "The variance is that of the way up, 1 - alpha_bar_k / alpha_bar_k': knowing x0_hat makes it smaller, 0 at the end."
)
def variance_of_the_way_up(alpha_bar, levels):
    ab, after = ends(alpha_bar, levels)
    of_x0, of_x, _ = back(ab, after)
    return of_x0, of_x, 1 - ab / after


@strided_coefficients.misconception("This is DDIM, which draws nothing: asked is the ancestral step, with a variance.")
def of_ddim(alpha_bar, levels):
    ab, after = ends(alpha_bar, levels)
    of_x = ((1 - after) / (1 - ab)).sqrt()
    return after.sqrt() - of_x * ab.sqrt(), of_x, 0 * of_x


@strided_coefficients.misconception("The steps are in rising order: sampling starts at the first of `levels`.")
def rising_order(alpha_bar, levels):
    return [c.flip(0) for c in back(*ends(alpha_bar, levels))]


@strided_coefficients.misconception("The last step is missing: n + 1 levels make n steps, the last one to levels[-1].")
def last_step_missing(alpha_bar, levels):
    return back(*ends(alpha_bar, levels[:-1]))


@strided_coefficients.equivalent
def step_by_step_in_floats(alpha_bar, levels):
    rows, table = [], alpha_bar.tolist()
    for k, k_next in zip(levels.tolist(), levels.tolist()[1:], strict=False):
        ab, after = table[k], table[k_next]
        beta = 1 - ab / after
        rows.append((math.sqrt(after) * beta / (1 - ab), math.sqrt(1 - beta) * (1 - after) / (1 - ab)))
        rows[-1] += (beta * (1 - after) / (1 - ab),)
    return torch.tensor(rows, dtype=torch.float64).unbind(1)


@strided_coefficients.equivalent
def by_regression(alpha_bar, levels):
    ab, after = alpha_bar[levels].unfold(0, 2, 1).unbind(1)
    covariance, variance = (ab / after).sqrt() * (1 - after), 1 - ab  # of x_k' and x_k, given x0
    of_x = covariance / variance
    return after.sqrt() - of_x * ab.sqrt(), of_x, (1 - after) - of_x * covariance


@strided_coefficients.equivalent
def with_signal_and_noise(alpha_bar, levels):
    alpha, sigma = alpha_bar.sqrt()[levels], (1 - alpha_bar).sqrt()[levels]
    a, a_next, s, s_next = alpha[:-1], alpha[1:], sigma[:-1], sigma[1:]
    up = s**2 - (a / a_next * s_next) ** 2
    return [a_next * up / s**2, a / a_next * s_next**2 / s**2, up * s_next**2 / s**2]
