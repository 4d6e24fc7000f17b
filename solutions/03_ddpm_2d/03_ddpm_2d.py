# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 3: Build a diffusion model in two dimensions
#
# By the end, a network that you trained yourself turns noise into two moons. On the way you build every part of it:
# a noise schedule, the jump into noise, the step back, the loss, the average of the weights, two samplers. Then you
# find the bug in somebody else's.
#
# **How it works**
#
# - Write the missing lines (mostly one to four), run the cell, run the check below it. Repeat as often as you like.
# - Look at the picture. It is drawn with *your* function once the check is content.
# - Stuck? Open the hints one at a time, or go on: until yours is right, the course's finished function stands in.
#
# **Time** about two and a half hours to write; a minute to run. No GPU, no network.
#
# Read it beside the chapter, [DDPM in two dimensions](../../book/ddpm_2d.md).

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm.auto import trange

from course_utils.data import toy_2d, toy_mixture, unstandardise
from course_utils.denoiser import from_x0
from course_utils.exercises import check, grade, working
from course_utils.metrics import sliced_wasserstein
from course_utils.mixtures import GaussianMixture
from course_utils.models import MLP
from course_utils.plotting import BLUE, GREEN, GREY, ORANGE, PINK, animate, scatter_2d, scatter_row
from course_utils.samplers import ddpm
from course_utils.schedules import CosineSchedule, LinearSchedule, QuadraticSchedule, SigmoidSchedule
from course_utils.training import batches

# %% [markdown]
# ## The data
#
# 10,000 points on two moons, each with a label: which moon it belongs to. They are scikit-learn's, centred and scaled
# to a variance of 1.
#
# The grey shading is their *exact* density. In two dimensions we know it, and it will stand behind every picture: you
# see at once what is right and what is not.

# %%
moons = toy_mixture("moons")  # the exact distribution
data, labels = toy_2d("moons", 10_000, seed=0, return_labels=True)  # (10000, 2) and (10000,)
by_label = np.array([BLUE, ORANGE])

scatter_2d(data[:2000], truth=moons, color=by_label[labels[:2000]], title="the data")
plt.show()

# %% [markdown]
# ## 1. A noise schedule
#
# A *schedule* is a list $\beta_1, \dots, \beta_T$: how much noise step $k$ adds. See
# [Schedules, and where they end](../../book/ddpm_2d.md#schedules).
#
# The papers count $k$ from 1. Our tables have $T + 1$ entries and keep index 0 for "no noise yet", so `beta[k]` *is*
# $\beta_k$. One `+ 1` here saves many off-by-ones later.
#
# ### Exercise 3.1: A schedule of betas
#
# In the *quadratic* schedule, the roots rise in a straight line: $\sqrt{\beta_k}$ goes from
# $\sqrt{\beta_\text{start}}$ at $k = 1$ to $\sqrt{\beta_\text{end}}$ at $k = T$. And $\beta_0 = 0$.


# %% solution="quadratic_betas"
def quadratic_betas(T, beta_start, beta_end):
    """The table of betas (T + 1,), float64: beta[0] = 0, and sqrt(beta) is a
    straight line from k = 1 to k = T.

    T is an int, at least 2; 0 < beta_start < beta_end < 1.
    """
    ### BEGIN SOLUTION
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64)
    return torch.cat([torch.zeros(1, dtype=torch.float64), roots**2])
    ### END SOLUTION


# %% tests="quadratic_betas_test" points=1
check("ddpm_2d.quadratic_betas", quadratic_betas)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.quadratic_betas", quadratic_betas)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What rises in a straight line here: the betas, or something else? Make the straight line first.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.linspace(start, end, n, dtype=torch.float64)` is a straight line of `n` numbers, both ends included.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A line of `T` numbers between the two roots, squared; then one zero in front of it. `torch.cat` joins tensors.
#
# </details>

# %%
T = 200
betas = working("ddpm_2d.quadratic_betas", globals())(T, 5e-4, 0.1)
linear = LinearSchedule(T, 5e-4, 0.1).beta

_, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
ax.plot(betas, color=BLUE, label="quadratic")
ax.plot(linear, color=GREY, ls="--", label="linear")
ax.set(xlabel="k", ylabel=r"$\beta_k$")
ax.legend()
plt.show()

# %% [markdown]
# **Look:** both go from 0.0005 to 0.1, but the quadratic one stays low for longer. It adds less noise in the first
# steps, where the shape of the data is still to be seen.
#
# ### Exercise 3.2: How much signal is left
#
# Each step keeps $1 - \beta_k$ of the signal's variance. After $k$ steps,
#
# $$\bar\alpha_k = (1 - \beta_1)(1 - \beta_2) \cdots (1 - \beta_k), \qquad \bar\alpha_0 = 1$$
#
# is left.


# %% solution="alpha_bar"
def alpha_bar(beta):
    """The table of alpha_bar (T + 1,), float64.

    beta is the table of betas (T + 1,) with beta[0] = 0.
    """
    ### BEGIN SOLUTION
    return (1 - beta).cumprod(0)
    ### END SOLUTION


# %% tests="alpha_bar_test" points=1
check("ddpm_2d.alpha_bar", alpha_bar)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.alpha_bar", alpha_bar)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Entry $k$ is entry $k - 1$ times one more factor. Which factor? And what is the first entry, given `beta[0] = 0`?
#
# </details>
# <details><summary>Hint 2</summary>
#
# You could write a loop. But torch has running sums and running products; look for one that starts with `cum`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The running product of `1 - beta`, along dimension 0. The leading 1 comes out by itself.
#
# </details>

# %%
candidates = {
    "linear": (LinearSchedule(T, 5e-4, 0.1), GREY, "--"),
    "quadratic": (QuadraticSchedule(T, 5e-4, 0.1), BLUE, "-"),
    "sigmoid": (SigmoidSchedule(T, 5e-4, 0.1), PINK, "-."),
    "cosine": (CosineSchedule(T), GREEN, ":"),
    "your friend's": (SigmoidSchedule(100, 1e-5, 5e-3), ORANGE, "-"),
}
product = working("ddpm_2d.alpha_bar", globals())
_, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for name, (candidate, color, line) in candidates.items():
    table = product(candidate.beta)
    ax.plot(np.linspace(0, 1, len(table)), table, line, color=color, label=f"{name}: ends at {table[-1]:.2g}")
ax.set(xlabel="t = k / T", ylabel=r"$\bar\alpha_k$", ylim=(0, 1.02))
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** four curves fall to almost 0: at $t = 1$ nothing is left of the data. One does not. Keep your friend's
# schedule in mind; it comes back at the end of the lab.
#
# From here on we take the quadratic schedule with $T = 200$. The course's object holds the same two tables as yours:

# %%
schedule = QuadraticSchedule(T, 5e-4, 0.1)
print(f"schedule.beta {tuple(schedule.beta.shape)}, schedule.alpha_bar {tuple(schedule.alpha_bar.shape)}")

# %% [markdown]
# ## 2. Into the noise, in one jump
#
# ### Exercise 3.3: Jump to level k
#
# No need to take $k$ small steps: they add up to
#
# $$x_k = \sqrt{\bar\alpha_k}\; x_0 + \sqrt{1 - \bar\alpha_k}\; \varepsilon, \qquad \varepsilon \sim \mathcal N(0, I).$$
#
# (Why? [The forward process](../../book/ddpm_2d.md#forward-process).)
#
# Every sample of the batch has a level of its own, `k[i]`. The samples may be points `(B, 2)`, pictures
# `(B, C, H, W)` or anything else: your function should not care.


# %% solution="q_sample"
def q_sample(x0, k, noise, alpha_bar):
    """x_k: the samples x0 (B, ...), each at its level k (B,), in x0's dtype.

    k holds ints in 0..T; noise is like x0; alpha_bar is the float64 table
    (T + 1,).
    """
    ### BEGIN SOLUTION
    ab = alpha_bar[k].to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1))
    return ab.sqrt() * x0 + (1 - ab).sqrt() * noise
    ### END SOLUTION


# %% tests="q_sample_test" points=2
check("ddpm_2d.q_sample", q_sample)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.q_sample", q_sample)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `alpha_bar[k]` works with a whole tensor of levels. What shape has the result, and what shape do you need so that it
# multiplies `x0`?
#
# </details>
# <details><summary>Hint 2</summary>
#
# You need `(B, 1, ..., 1)` with as many ones as `x0` has further dimensions. `[1] * n` is a list of `n` ones, and
# `tensor.reshape(-1, *ones)` takes it. Two things get forgotten: the square roots, and that the table is float64.
#
# </details>
# <details><summary>Hint 3</summary>
#
# First line: pick from the table, bring it `.to(x0.dtype)`, reshape to `(-1, 1, ..., 1)`; there are `x0.ndim - 1`
# ones. Second line: the formula above, letter by letter.
#
# </details>

# %%
torch.manual_seed(0)
levels = [0, 10, 30, 60, 100, T]
x0, x0_noise = data[:2000], torch.randn(2000, 2)
jump = working("ddpm_2d.q_sample", globals())


def at_level(k):
    return jump(x0, torch.full((len(x0),), k), x0_noise, schedule.alpha_bar)


def exact_at(k):
    return moons.noised(schedule.alpha_bar[k].sqrt(), (1 - schedule.alpha_bar[k]).sqrt())


scatter_row(
    [at_level(k) for k in levels],
    [f"k = {k}" for k in levels],
    truth=[exact_at(k) for k in levels],
    color=by_label[labels[:2000]],
)
plt.show()

# %% [markdown]
# **Look:** your points lie on the exact density at every level. At $k = 200$ the two colours are mixed completely, and
# the cloud is just $\mathcal N(0, I)$. Now as a film:

# %%
ticks = range(0, T + 1, 8)
animate(
    [at_level(k)[:1000] for k in ticks],
    alt="Points on two moons drift apart in straight lines and end as a round cloud of noise.",
    truth=[exact_at(k) for k in ticks],
    titles=[f"k = {k}" for k in ticks],
    color=BLUE,
)

# %% [markdown]
# **Think:** every point glides along a smooth curve. Is that what a real forward process, step by step, looks like?
#
# <details><summary>An answer</summary>
#
# No. A real path draws fresh noise in each step and jitters like dust in the air. The film uses one and the same
# $\varepsilon$ for a point at all levels. Each *single* frame is right, and that is all the loss will ask for. What
# happens between the levels is left open; DDIM will make use of that.
#
# </details>

# %% [markdown]
# ## 3. One step back, if we knew the data
#
# ### Exercise 3.4: The posterior
#
# Suppose we know $x_k$ *and* the $x_0$ it came from. Where was the point one step earlier? Bayes' rule gives a
# Gaussian, $q(x_{k-1} \mid x_k, x_0) = \mathcal N(\tilde\mu, \tilde\beta_k I)$, with
#
# $$\tilde\mu = \frac{\sqrt{\bar\alpha_{k-1}}\,\beta_k}{1 - \bar\alpha_k}\, x_0
# + \frac{\sqrt{1 - \beta_k}\,(1 - \bar\alpha_{k-1})}{1 - \bar\alpha_k}\, x_k, \qquad
# \tilde\beta_k = \frac{1 - \bar\alpha_{k-1}}{1 - \bar\alpha_k}\,\beta_k .$$
#
# The proof: [The posterior](../../book/ddpm_2d.md#posterior).


# %% solution="posterior"
def posterior(x0, x, k, beta, alpha_bar):
    """(mean, variance) of x_{k-1}, given x at level k, and x0.

    x0 and x are (B, ...), k (B,) holds ints in 1..T; beta and alpha_bar are
    float64 tables (T + 1,). The results have x's dtype; the variance may have
    the shape (B, 1, ..., 1).
    """

    ### BEGIN SOLUTION
    def at(table, k):
        return table[k].to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    b, ab, ab_before = at(beta, k), at(alpha_bar, k), at(alpha_bar, k - 1)
    to_data, to_here = ab_before.sqrt() * b / (1 - ab), (1 - b).sqrt() * (1 - ab_before) / (1 - ab)
    return to_data * x0 + to_here * x, (1 - ab_before) / (1 - ab) * b
    ### END SOLUTION


# %% tests="posterior_test" points=3
check("ddpm_2d.posterior", posterior)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.posterior", posterior)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Test it in your head at $k = 1$: with $\bar\alpha_0 = 1$, which of the three fractions vanish? The mean must be
# $x_0$, and the variance 0.
#
# </details>
# <details><summary>Hint 2</summary>
#
# You need three numbers a sample: $\beta_k$, $\bar\alpha_k$ and $\bar\alpha_{k-1}$, each of shape `(B, 1, ..., 1)` as
# in Exercise 3.3. A small helper `at(table, k)` saves you from writing that three times.
#
# </details>
# <details><summary>Hint 3</summary>
#
# After `b`, `ab` and `ab_before`, each fraction of the formula is one expression; `1 - ab` stands below all three.
# Return the pair `mean, variance`, the variance without a square root.
#
# </details>

# %%
torch.manual_seed(0)
x0_known, step_back = 1.2, working("ddpm_2d.posterior", globals())
_, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
for ax, k in zip(axes, (20, 60, 120), strict=True):
    ab_before, b = schedule.alpha_bar[k - 1].item(), schedule.beta[k].item()
    before = ab_before**0.5 * x0_known + (1 - ab_before) ** 0.5 * torch.randn(3_000_000)  # many x_{k-1} ...
    after = (1 - b) ** 0.5 * before + b**0.5 * torch.randn(3_000_000)  # ... and where each goes
    here = after.mean().item() - after.std().item()
    kept = before[(after - here).abs() < 0.01]  # those that came through the place where we are

    mean, variance = step_back(
        torch.tensor([[x0_known]]), torch.tensor([[here]]), torch.tensor([k]), schedule.beta, schedule.alpha_bar
    )
    grid = torch.linspace(kept.min(), kept.max(), 200)
    bell = torch.exp(-((grid - mean) ** 2) / (2 * variance)) / (2 * torch.pi * variance) ** 0.5
    ax.hist(kept.numpy(), bins=50, density=True, color="#BBBBBB", label="simulated")
    ax.plot(grid, bell.flatten(), color=BLUE, label="formula")
    ax.set(title=f"k = {k}, $x_k$ = {here:.2f}", xlabel="$x_{k-1}$", yticks=[])
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** grey is no formula. It is three million forward steps from $x_0 = 1.2$, of which only those are kept that
# came through the given $x_k$. Bayes' rule says just that: *keep what agrees with what you saw.*
#
# The blue bell must lie on the grey one, in place and in width.

# %% [markdown]
# ## 4. What the network learns
#
# ### Exercise 3.5: The loss
#
# Nobody tells us $x_0$ when we sample. So a network learns to guess: it sees $x_k$ and the time $t = k / T$ and says
# which noise $\varepsilon$ was added.
#
# $$L_\text{simple} = \text{mean of } \bigl(\varepsilon - \text{net}(x_k, t)\bigr)^2, \qquad
# x_k = \sqrt{\bar\alpha_k}\; x_0 + \sqrt{1 - \bar\alpha_k}\; \varepsilon$$
#
# How a likelihood becomes this simple mean: [The loss](../../book/ddpm_2d.md#loss).


# %% solution="loss"
def loss(net, x0, k, noise, alpha_bar):
    """The mean squared error of the predicted noise: a single number (tensor).

    x0 and noise are (B, ...), k (B,) holds ints in 1..T. net(x, t) takes
    t = k / T, a float tensor (B,). alpha_bar is a table (T + 1,), so T is
    len(alpha_bar) - 1. Use your q_sample, or write the jump again.
    """
    ### BEGIN SOLUTION
    T = len(alpha_bar) - 1
    ab = alpha_bar[k].to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1))
    x = ab.sqrt() * x0 + (1 - ab).sqrt() * noise
    return (net(x, k / T) - noise).square().mean()
    ### END SOLUTION


# %% tests="loss_test" points=2
check("ddpm_2d.loss", loss)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.loss", loss)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Three steps: make the noisy sample, ask the network, compare. What does the network see, and what must it *not* see?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The network wants a time between 0 and 1, not a level. And it must see the noisy sample: its $x_k$, not $x_0$.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `x = q_sample(...)` with all four arguments; then the network at `x` and `k` divided by $T$; subtract the noise,
# square, and take the mean of everything. No `.item()`, no `.detach()`: the gradient must get through.
#
# </details>

# %% [markdown]
# Before training anything: what are good and bad values of this loss? Two networks that need no training tell.
#
# - One that always answers 0.
# - The *best possible* one. For known data, the mean of $\varepsilon$ given $x_k$ can be computed, and no network can
#   do better.


# %%
def answers_zero(x, t, _=None):
    return torch.zeros_like(x)


def exact_net(mixture, schedule):
    """The best possible network for data of this mixture: net(x, t) is the mean of eps given x_t = x."""
    denoise = mixture.denoiser(schedule)
    return lambda x, t, _=None: from_x0("eps", denoise(x, t), x, *schedule.at(t, x))


def loss_of(net, k, schedule):
    """The loss of a network at levels k (B,), on fresh data and noise."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = moons.sample(len(k), generator), torch.randn(len(k), 2, generator=generator)
    return working_loss(net, x0, k, noise, schedule.alpha_bar).item()


working_loss = working("ddpm_2d.loss", globals())
best_net = exact_net(moons, schedule)
every_level = torch.arange(1, T + 1).repeat(100)  # each level 100 times
floor = loss_of(best_net, every_level, schedule)
print(f"always 0: {loss_of(answers_zero, every_level, schedule):.3f}    the best possible: {floor:.3f}")

ks = range(2, T + 1, 6)
_, ax = plt.subplots(figsize=(5, 2.8), layout="constrained")
for net, name, color, line in ((answers_zero, "always 0", GREY, "--"), (best_net, "the best possible", "black", "-")):
    ax.plot(ks, [loss_of(net, torch.full((5000,), k), schedule) for k in ks], line, color=color, label=name)
ax.set(xlabel="k", ylabel="loss at level k", ylim=(0, 1.1))
ax.legend()
plt.show()

# %% [markdown]
# **Look:** with much noise (right), nearly all of $x_k$ *is* noise, and guessing it is easy. With little noise (left)
# it cannot be told from the data's own spread.
#
# **Think:** can the loss reach 0?
#
# <details><summary>An answer</summary>
#
# No. Different pairs $(x_0, \varepsilon)$ lead to the same $x_k$, so the noise stays uncertain even for a perfect
# network. About a third is as low as it gets here. For other data and other schedules the floor is elsewhere, and
# usually unknown: a loss alone does not say how good the samples are.
#
# </details>

# %% [markdown]
# ## 5. Training
#
# ### Exercise 3.6: The average of the weights
#
# Each training step moves the weights a little at random, because it sees one batch only. So we sample with a moving
# average $\bar\theta$ of the weights $\theta$ and not with the last ones:
#
# $$\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta, \qquad
# d = \min\Bigl(\text{decay},\; \frac{1 + \text{step}}{10 + \text{step}}\Bigr).$$
#
# The minimum is a warm-up: early on, the average should not cling to the untrained weights.
# [More on averages](../../book/ddpm_2d.md#ema).


# %% solution="ema_update"
@torch.no_grad()
def ema_update(ema, params, decay, step):
    """The average after one more update: a new list of tensors.

    ema and params are lists of as many tensors, which stay as they are; decay
    is in (0, 1); step is 0 at the first update.
    """
    ### BEGIN SOLUTION
    d = min(decay, (1 + step) / (10 + step))
    return [d * e + (1 - d) * p for e, p in zip(ema, params, strict=True)]
    ### END SOLUTION


# %% tests="ema_update_test" points=2
check("ddpm_2d.ema_update", ema_update)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.ema_update", ema_update)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A decay of 0.999: does the average change fast or slowly? So which of the two, old average or new weights, gets the
# factor 0.999?
#
# </details>
# <details><summary>Hint 2</summary>
#
# First the number `d`, then one tensor after the other. `zip` walks through both lists at once.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A list comprehension over `zip(ema, params)`, with the formula above for each pair. Don't use `+=` or `.mul_()`,
# which would change the lists you were given.
#
# </details>

# %%
torch.manual_seed(0)
weight, average = torch.tensor(-8.0), [torch.tensor(-8.0)]
without_warm_up = weight
update, history = working("ddpm_2d.ema_update", globals()), []
for step in range(400):
    gradient = (weight - 2) + 4 * torch.randn(())  # downhill to the best value, 2, but noisy
    weight = weight - 0.1 * gradient
    average = update(average, [weight], 0.98, step)
    without_warm_up = torch.lerp(weight, without_warm_up, 0.98)
    history.append((weight.item(), average[0].item(), without_warm_up.item()))

_, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
for values, name, color, line in zip(
    zip(*history, strict=True),
    ("the weight", "its average", "average without warm-up"),
    (GREY, ORANGE, BLUE),
    ("-", "-", "--"),
    strict=True,
):
    ax.plot(values, line, color=color, label=name, lw=1 if color == GREY else 2)
ax.axhline(2, color="black", lw=0.8)
ax.set(xlabel="step", ylabel="weight")
ax.legend()
plt.show()

# %% [markdown]
# **Look:** one weight, pulled to 2 by noisy gradients. It never comes to rest; its average does. Without the warm-up
# the average remembers the start for a hundred steps longer.

# %% [markdown]
# ### Train it
#
# Now your parts come together. The network is the course's MLP (three hidden layers). It is also told the label $y$, so
# that we can ask for one moon or the other. Everything else in this loop you have written or know:


# %%
def told(net, y):
    """The network with its labels y (B,) filled in: told(net, y)(x, t); any float t will do."""
    return lambda x, t, _=None: net(x, t.to(x.dtype), y)


def train(data, labels, n_steps=1500):
    """Train on data (N, 2) with labels (N,); returns the network, its average over the steps, and the losses."""
    net = MLP(n_classes=int(labels.max()) + 1)
    weights = list(net.parameters())
    average = [w.detach().clone() for w in weights]
    optimizer = torch.optim.Adam(weights, lr=2e-3)
    loss_function, update = working("ddpm_2d.loss", globals()), working("ddpm_2d.ema_update", globals())
    losses = []
    for step, (x0, y) in zip(trange(n_steps, desc="training"), batches((data, labels), 256), strict=False):
        k = torch.randint(1, T + 1, (len(x0),))  # a level for each sample
        noise = torch.randn_like(x0)
        value = loss_function(told(net, y), x0, k, noise, schedule.alpha_bar)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        average = update(average, weights, 0.995, step)
        losses.append(value.item())

    averaged = copy.deepcopy(net)
    for parameter, mean in zip(averaged.parameters(), average, strict=True):
        parameter.data.copy_(mean)
    return net, averaged, losses


torch.manual_seed(0)
last_net, net, losses = train(data, labels)

# %%
smooth = np.convolve(losses, np.ones(50) / 50, mode="valid")
_, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.plot(losses, color="#CCCCCC", lw=0.6, label="one batch")
ax.plot(np.arange(len(smooth)) + 25, smooth, color=ORANGE, label="mean of 50")
ax.axhline(floor, color="black", ls="--", lw=1, label="the best possible")
ax.set(xlabel="step", ylabel="loss", ylim=(0, 1.1))
ax.legend()
plt.show()

# %% [markdown]
# **Look:** the loss falls fast, then stops. That is no failure; you know the floor. It goes on improving where you
# cannot see it.
#
# **What looks odd:** the curve ends *below* the best possible. How can that be?
#
# <details><summary>An answer</summary>
#
# The dashed line is the best that a network can do from $x_k$ and $t$. Ours is told one thing more: the label. Which
# moon a point came from says something about the noise in it, so its floor is lower.
#
# </details>

# %% [markdown]
# ## 6. Sampling
#
# ### Exercise 3.7: One step of ancestral sampling
#
# Put the network's guess of the noise into the posterior of Exercise 3.4, and draw. That is one step of DDPM's
# algorithm 2:
#
# $$x_{k-1} = \frac{1}{\sqrt{1 - \beta_k}}
# \left( x_k - \frac{\beta_k}{\sqrt{1 - \bar\alpha_k}}\; \text{net}(x_k, t) \right)
# + \sqrt{\tilde\beta_k}\; z, \qquad \tilde\beta_k = \frac{1 - \bar\alpha_{k-1}}{1 - \bar\alpha_k}\,\beta_k .$$
#
# See [Ancestral sampling](../../book/ddpm_2d.md#ancestral-sampling). All samples are at the same level here: `k` is
# one int.


# %% solution="reverse_step"
def reverse_step(net, x, k, beta, alpha_bar, z):
    """x_{k-1}, from x (B, ...) at level k, an int in 1..T.

    net(x, t) predicts the noise; its t = k / T is a float tensor (B,) on x's
    device. beta and alpha_bar are tables (T + 1,), so T is len(beta) - 1.
    z is like x, standard normal, drawn for you.
    """
    ### BEGIN SOLUTION
    t = torch.full((len(x),), k / (len(beta) - 1), device=x.device)
    mean = (x - beta[k] / (1 - alpha_bar[k]).sqrt() * net(x, t)) / (1 - beta[k]).sqrt()
    variance = (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k]) * beta[k]
    return mean + variance.sqrt() * z
    ### END SOLUTION


# %% tests="reverse_step_test" points=3
check("ddpm_2d.reverse_step", reverse_step)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.reverse_step", reverse_step)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Four lines: the time, the mean, the variance, the draw. Which of the roots belongs to which?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.full((len(x),), number, device=x.device)` gives every sample the same time. `beta[k]` is a single number, so
# nothing has to be reshaped.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The mean is the big bracket divided by `(1 - beta[k]).sqrt()`. Noise is *multiplied* by a standard deviation, the
# root of the variance. The last step needs no special case: its variance is 0 by itself.
#
# </details>


# %%
@torch.no_grad()
def sample(net, y):
    """A sample for each label of y (B,), by ancestral sampling: all states on the way, a list of T + 1 (B, 2)."""
    path = [torch.randn(len(y), 2)]
    for k in range(T, 0, -1):
        z = torch.randn_like(path[-1])
        path.append(one_step(told(net, y), path[-1], k, schedule.beta, schedule.alpha_bar, z))
    return path


def distance(x, y, name="moons"):
    """Sliced Wasserstein distance between two sets of points, in the data's original coordinates."""
    return sliced_wasserstein(unstandardise(name, x), unstandardise(name, y))


one_step = working("ddpm_2d.reverse_step", globals())
torch.manual_seed(0)
y = torch.arange(2000) % 2  # both moons in turn
path = sample(net, y)
from_last = sample(last_net, y)[-1]

test = toy_2d("moons", 2000, seed=1)
fresh, fresh_labels = toy_2d("moons", 2000, seed=2, return_labels=True)
shown = {"fresh data": fresh, "your samples": path[-1], "with the last weights": from_last}
scatter_row(
    list(shown.values()),
    [f"{title}\ndistance {distance(x, test):.3f}" for title, x in shown.items()],
    truth=moons,
    color=[by_label[fresh_labels], by_label[y], by_label[y]],
)
plt.show()

# %% [markdown]
# **Look:** 2,000 points, made from noise by what you wrote, each on the moon that it was asked for.
#
# The number is the [sliced Wasserstein distance](../../book/ddpm_2d.md#schedules): how far points have to move to
# turn one set into the other. Fresh data are about 0.01 away, because scikit-learn spaces its points evenly; 2,000
# independent draws from the exact density are about 0.02 away, and no sampler can be expected to do better. On the
# right, the same training without your average.

# %%
ticks = range(0, T + 1, 8)
animate(
    [path[i][:1000] for i in ticks],
    alt="A round cloud of noise contracts and splits into two moons, following the exact density shaded behind.",
    truth=[exact_at(T - i) for i in ticks],
    titles=[f"k = {T - i}" for i in ticks],
)

# %% [markdown]
# **Look:** for a long time almost nothing happens, and then the moons appear quickly. Compare with the curve of
# $\bar\alpha_k$ from Exercise 3.2.
#
# ### Play: other data
#
# Nothing you wrote knows about moons. Change the name (`swiss_roll`, `s_curve`, `circles`, `mixture`,
# `checkerboard`), run the cell again, and try fewer or more steps of training.

# %%
name = "swiss_roll"

torch.manual_seed(0)
points, classes = toy_2d(name, 10_000, seed=0, return_labels=True)
_, other_net, _ = train(points, classes, n_steps=1500)
y_other = classes[torch.randint(len(classes), (2000,))]
drawn = sample(other_net, y_other)[-1]
exact = None if name == "checkerboard" else toy_mixture(name)  # its edges are too sharp for a mixture of Gaussians

reference = toy_2d(name, 2000, seed=1)
shown = {"fresh data": toy_2d(name, 2000, seed=2), "your samples": drawn}
scatter_row(
    list(shown.values()),
    [f"{title}\ndistance {distance(x, reference, name):.3f}" for title, x in shown.items()],
    truth=exact,
    color=[BLUE, ORANGE],
)
plt.show()

# %% [markdown]
# (Distances are in each set's own units: a swiss roll is about ten times as large as the moons. Don't wonder where your
# samples are *closer* than fresh data: both are finite draws, and so is what they are compared with.)

# %% [markdown]
# ## 7. Fewer steps
#
# ### Exercise 3.8: One step of DDIM
#
# The loss only ever asked about single levels (remember the film with the smooth paths). So we may go from level $k$ to
# any lower level $k'$, without dice: guess the data, then put the *same* noise back, less of it.
#
# $$\hat x_0 = \frac{x_k - \sqrt{1 - \bar\alpha_k}\; \hat\varepsilon}{\sqrt{\bar\alpha_k}}, \qquad
# x_{k'} = \sqrt{\bar\alpha_{k'}}\; \hat x_0 + \sqrt{1 - \bar\alpha_{k'}}\; \hat\varepsilon, \qquad
# \hat\varepsilon = \text{net}(x_k, t)$$
#
# See [DDIM](../../book/ddpm_2d.md#ddim).


# %% solution="ddim_step"
def ddim_step(net, x, k, k_next, alpha_bar):
    """x at the lower level k_next, from x (B, ...) at level k.

    k and k_next are ints, 0 <= k_next < k <= T. net(x, t) predicts the noise;
    its t = k / T is a float tensor (B,) on x's device. alpha_bar is a table
    (T + 1,), so T is len(alpha_bar) - 1.
    """
    ### BEGIN SOLUTION
    eps = net(x, torch.full((len(x),), k / (len(alpha_bar) - 1), device=x.device))
    x0_hat = (x - (1 - alpha_bar[k]).sqrt() * eps) / alpha_bar[k].sqrt()
    return alpha_bar[k_next].sqrt() * x0_hat + (1 - alpha_bar[k_next]).sqrt() * eps
    ### END SOLUTION


# %% tests="ddim_step_test" points=3
check("ddpm_2d.ddim_step", ddim_step)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.ddim_step", ddim_step)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The network looks at `x`. Which level is `x` at, and so which time does the network get?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The first formula is Exercise 3.3 solved for $x_0$; the second *is* Exercise 3.3, at the new level, with the
# predicted noise in place of a drawn one.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Three lines: `eps` from the network at level `k`; `x0_hat` with `alpha_bar[k]`; the result with `alpha_bar[k_next]`
# in both roots. Nothing is drawn.
#
# </details>


# %%
@torch.no_grad()
def sample_ddim(net, y, n_steps):
    """A sample for each label of y (B,) in n_steps steps of DDIM, (B, 2)."""
    ks = torch.linspace(T, 0, n_steps + 1).round().int().tolist()
    x = torch.randn(len(y), 2)
    for k, k_next in zip(ks, ks[1:], strict=False):
        x = ddim_stride(told(net, y), x, k, k_next, schedule.alpha_bar)
    return x


def sample_ddpm(net, y, n_steps):
    """The same with the course's ancestral sampler, which also takes long steps."""

    def denoise(x, t):
        alpha, sigma = schedule.at(t, x)
        return (x - sigma * net(x, torch.full((len(x),), t), y)) / alpha

    *_, x = ddpm(denoise, schedule, torch.randn(len(y), 2), schedule.timesteps(n_steps))
    return x


ddim_stride = working("ddpm_2d.ddim_step", globals())
counts = [1, 2, 5, 10, 20, 50]
results = {}
for title, sampler in (("DDPM", sample_ddpm), ("DDIM", sample_ddim)):
    torch.manual_seed(0)
    results[title] = [sampler(net, y, n) for n in counts]
    names = [f"{title}, {n} step{'s' * (n > 1)}" for n in counts]
    scatter_row(results[title], names, truth=moons, color=by_label[y])
plt.show()

# %%
_, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
for (title, sets), color in zip(results.items(), (GREY, BLUE), strict=True):
    ax.loglog(counts, [distance(x, test) for x in sets], "o-", color=color, label=title)
exact_draws = [distance(moons.sample(2000), test) for _ in range(10)]
ax.axhline(np.mean(exact_draws), color="black", ls="--", lw=1, label="exact draws")
ticks = [0.02, 0.05, 0.1, 0.2, 0.5]
ax.set(xlabel="steps", ylabel="distance to the data", xticks=counts, yticks=ticks)
ax.set(xticklabels=counts, yticklabels=ticks)
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# **Look:** the same network, the same number of calls. With 5 or 10 steps both make the moons too thin, DDPM more so:
# its variance is that of a step whose $x_0$ is *known*, and a guess is not knowledge. In short steps that hardly
# matters. With 20 to 50 steps both are as good as they get, and we trained with 200 levels.
#
# **What looks odd:** after one single step the points are nowhere near the data. The network is good; so why?
#
# <details><summary>An answer</summary>
#
# At $k = T$ the guess $\hat x_0$ divides by $\sqrt{\bar\alpha_T} = 0.025$, so an error of 0.01 in the predicted noise
# becomes one of 0.4 in the guess. Shorter steps forgive that: each goes only a little of the way, and the next one
# guesses anew. (And an exact guess would be no better than a mean: from pure noise, the middle of a moon, where no data
# are.)
#
# </details>

# %% [markdown]
# ## 8. Find the bug
#
# ### Exercise 3.9: Fix the sampler
#
# A classmate's sampler. It follows DDPM's algorithm 2 with the paper's other choice of variance,
# $\sigma_k^2 = \beta_k$ (that is allowed), and adds no noise in the last step (that is right, too). All the noise
# comes from outside: `noise[k]` is the $z$ of step $k$.


# %%
def broken_sampler(net, x, beta, alpha_bar, noise):
    T = len(beta) - 1
    for k in range(T, 0, -1):
        eps = net(x, torch.full((len(x),), k / T, device=x.device))
        mean = (x - beta[k] * eps) / (1 - beta[k]).sqrt()
        x = mean + beta[k].sqrt() * noise[k] if k > 1 else mean
    return x


torch.manual_seed(0)
noise = torch.randn(T + 1, 2000, 2)
with torch.no_grad():
    broken = broken_sampler(told(net, y), noise[0], schedule.beta, schedule.alpha_bar, noise)
scatter_2d(broken, truth=moons, color=by_label[y], title=f"distance {distance(broken, test):.3f}")
plt.show()

# %% [markdown]
# Something is wrong. But what: the sampler, the network, the training? A picture doesn't say.
#
# So take the network out of the question. For one-dimensional data $x_0 \sim \mathcal N(0.3,\; 0.5^2)$ the best
# answer is known in closed form:
#
# $$\text{net}(x, t) = \frac{\sqrt{1 - \bar\alpha_k}\;\bigl(x - 0.3 \sqrt{\bar\alpha_k}\bigr)}
# {0.25\, \bar\alpha_k + 1 - \bar\alpha_k}.$$
#
# With this *oracle* a right sampler must return mean 0.3 and standard deviation 0.5. Nothing was trained, so whatever
# is off is the sampler's fault.


# %%
def ask_the_oracle(sampler, title):
    """Run a sampler on data N(0.3, 0.5^2) with the exact network; print the moments, draw the histogram."""
    oracle = exact_net(GaussianMixture([[0.3]], 0.5), schedule)
    noise = torch.randn(T + 1, 20_000, 1, generator=torch.Generator().manual_seed(0))
    x = sampler(oracle, noise[0], schedule.beta, schedule.alpha_bar, noise)
    print(f"{title}: mean {x.mean():.3f} (should be 0.300), standard deviation {x.std():.3f} (should be 0.500)")
    grid = np.linspace(-4, 4, 400)
    _, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
    ax.hist(x.flatten().numpy(), bins=np.linspace(-4, 4, 120), density=True, color=ORANGE, alpha=0.6, label=title)
    ax.plot(grid, np.exp(-((grid - 0.3) ** 2) / 0.5) / (0.5 * (2 * np.pi) ** 0.5), color="black", label="the data")
    ax.set(xlabel="$x_0$", yticks=[])
    ax.legend()
    plt.show()


ask_the_oracle(broken_sampler, "the broken sampler")

# %% [markdown]
# Now you have numbers, and a test that takes a second. Copy the program into the cell below and mend it. One line is
# wrong.


# %% solution="fix_the_sampler"
def fix_the_sampler(net, x, beta, alpha_bar, noise):
    """x_0 (B, ...), from x at level T, by algorithm 2 with sigma_k^2 = beta_k.

    noise (T + 1, B, ...): noise[k] is the z of step k; the last step adds none.
    beta and alpha_bar are tables (T + 1,).
    """
    ### BEGIN SOLUTION
    T = len(beta) - 1
    for k in range(T, 0, -1):
        eps = net(x, torch.full((len(x),), k / T, device=x.device))
        mean = (x - beta[k] / (1 - alpha_bar[k]).sqrt() * eps) / (1 - beta[k]).sqrt()
        x = mean + beta[k].sqrt() * noise[k] if k > 1 else mean
    return x
    ### END SOLUTION


# %% tests="fix_the_sampler_test" points=3
check("ddpm_2d.fix_the_sampler", fix_the_sampler)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.fix_the_sampler", fix_the_sampler)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The samples are too wide: the sampler takes away too little noise, or adds too much. Each happens on one line. How
# much noise it adds is given in the task.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Lay the program beside the formula of Exercise 3.7, and name each of its pieces. One piece has no partner.
#
# </details>
# <details><summary>Hint 3</summary>
#
# In $x_k$ the noise stands with the factor $\sqrt{1 - \bar\alpha_k}$, not whole. In the formula, what stands *below*
# $\beta_k$ in the factor of the network?
#
# </details>

# %%
ask_the_oracle(working("ddpm_2d.fix_the_sampler", globals()), "the mended sampler")

# %% [markdown]
# **Look:** the histogram lies on the black curve, and both numbers agree to about 0.01. Keep the oracle: it finds
# nearly every bug a sampler can have, and you can use it before you train anything. More of them, with their pictures:
# [Common mistakes](../../book/ddpm_2d.md#mistakes).

# %% [markdown]
# ## 9. In your own words
#
# ### Exercise 3.10: Your friend's schedule (3 points)
#
# Remember the schedule that ends at $\bar\alpha_T = 0.78$? Your friend trains with it. Run the cell: it gives her the
# *best possible* network, and samples from $\mathcal N(0, I)$ as usual.

# %%
torch.manual_seed(0)
hers = SigmoidSchedule(100, 1e-5, 5e-3)
drawn = {}
for owner, s in {"yours": schedule, "hers": hers}.items():
    *_, drawn[owner] = ddpm(moons.denoiser(s), s, torch.randn(2000, 2), s.timesteps(100))
    k = torch.arange(1, s.T + 1).repeat(20_000 // s.T)
    best = loss_of(exact_net(moons, s), k, s)
    print(f"{owner:5} alpha_bar(T) = {s.alpha_bar[-1]:.4f}    best possible loss {best:.2f}")

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
title = f"hers: distance {distance(drawn['hers'], test):.3f} (yours: {distance(drawn['yours'], test):.3f})"
scatter_2d(drawn["hers"], left, truth=moons, color=ORANGE, title=title)
bins = np.linspace(-2.5, 2.5, 41)
right.hist(data[:, 0].numpy(), bins, density=True, color="#CCCCCC", label="data")
for (owner, x), color in zip(drawn.items(), (BLUE, ORANGE), strict=True):
    right.hist(x[:, 0].numpy(), bins, density=True, histtype="step", lw=2, color=color, label=owner)
right.set(xlabel="horizontal position", yticks=[])
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# Her points lie on the moons, but not in the right places: too many in the middle, too few in the outer tips.
#
# Answer in a few sentences each.
#
# **a)** Her network could not be better. Where does the mistake come from, and why do the *outer* parts get too few?
#
# **b)** She says: "My loss is more than twice yours, so I'll train for longer." Will it help? What does her loss say
# about her network?
#
# **c)** Give two different repairs. How would you see that they worked?

# %% [markdown] essay="friends_schedule" points=3
# **a) 1 point: sampling starts from another distribution than training ends at.** With $\bar\alpha_T = 0.78$,
# $x_T = 0.88\, x_0 + 0.47\, \varepsilon$: most of its variance is still data, so $p_T$ is two blurred moons. The
# reverse process turns $p_T$ into data, and only $p_T$. The moons are wider than they are high: along the horizontal
# axis $p_T$ has variance 1.4, while $\mathcal N(0, I)$ has 1 and too seldom reaches the places from which the tips are
# made. (In the bound: $L_T = \mathrm{KL}(q(x_T \mid x_0) \,\|\, p(x_T))$, which no training changes.)
# Half a point for "there is signal left at T" without the start of sampling, or without the shape.
#
# **b) 1 point: no, and the loss does not say that.** The samples come from the exact denoiser, so no network and no
# training can do better: the fault is not in the network. Her loss is higher because her task is harder: weak noise
# cannot be told from the data's own spread. The floor is about 0.8 for her schedule and about a third for yours, and a
# loss must be compared with its own floor.
# Half a point for "no" with one of the two reasons.
#
# **c) 1 point: half for each of two repairs that work, with a sign of success** (alpha_bar(T) below about 0.01; the
# distance down to that of exact draws; the histogram on that of the data).
# Repairs: larger betas (100 levels need betas ten times those of 1,000, up to about 0.2); more levels with the same
# betas (about twenty times as many); another schedule, such as the cosine, which ends near 0 for every T; a start from
# the true $p_T$, by noising data or from a simple model fitted to it.
#
# Typical wrong answers, no points: "the network is too small"; "train for longer"; "take more steps when sampling" (all
# her 100 levels are in use); "start with noise of variance 0.78" (a Gaussian of any variance has no moons in it);
# "scale the data".

# %% [markdown]
# ## Done
#
# You built a diffusion model: a schedule, the jump, the posterior, the loss, the average, and two samplers; and you
# know how to test each of them against something exact.
#
# **Hand in.** Restart the kernel and run all cells, save, and hand in this notebook under its name,
# `03_ddpm_2d.ipynb`. Each check above should be content. Grading runs the same exercises on other numbers.
#
# **Go on.** Change the data, the schedule or the width of the network and see what breaks first. The chapter's
# [quiz](../../book/ddpm_2d.md#quiz) asks what you should now be able to answer. From here it is a small step to
# pictures: only the network changes.
