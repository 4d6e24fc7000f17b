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
# # Lab 2: Learn a score, and follow it
#
# By the end, a network that you trained yourself knows, at every place and for every amount of noise, which way the
# data are; and scattered points that follow it draw a face. On the way you build every part of it: an exact score to
# compare with, three losses that never see it, a denoiser, and three ways to walk. Then you find the bug in somebody
# else's.
#
# **How it works**
#
# - Write the missing lines (mostly two to six), run the cell, run the check below it. Repeat as often as you like.
#   (The very first check takes some seconds: torch loads parts of itself.)
# - Look at the picture. It is drawn with *your* function once the check is content.
# - Stuck? Open the hints one at a time, or go on: until yours is right, the course's finished function stands in.
#
# **Time** about two and a half hours to write; a minute to run. No GPU, no network.
#
# Read it beside the chapter, [Score matching](../../book/score_matching.md).

# %%
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from course_utils.exercises import check, grade, working
from course_utils.exercises.score_matching import exact_score
from course_utils.metrics import sliced_wasserstein
from course_utils.mixtures import GaussianMixture
from course_utils.models import MLP
from course_utils.plotting import BLUE, GREY, ORANGE, animate, scatter_2d, scatter_row, score_field, trajectory
from course_utils.training import batches, fit

# %% [markdown]
# ## 1. A score that is known
#
# The *score* of a density is the gradient of its logarithm, $\nabla \log p(x)$: at each place an arrow, pointing to
# where $p$ rises fastest, relative to how high it is.
#
# For most data nobody knows it. For a mixture of Gaussians we do, so that is where we start: later it will tell us
# whether what we learned is right.
#
# ### Exercise 2.1: The exact score of a mixture
#
# A point is drawn from part $k$ with probability $w_k$, and then from $\mathcal N(m_k, s_k^2 I)$. The score is
#
# $$\nabla \log p(x) = \sum_k p(k \mid x)\; \frac{m_k - x}{s_k^2}, \qquad
# p(k \mid x) = \frac{w_k\, \mathcal N(x; m_k, s_k^2 I)}{\sum_j w_j\, \mathcal N(x; m_j, s_j^2 I)}.$$
#
# Every part pulls to its mean, and pulls as hard as it is likely to have made $x$.
#
# One trap: far from all parts, each of the densities is rounded to 0, and $0 / 0$ is no number. Work with their
# logarithms. See [A score that is known](../../book/score_matching.md#mixture-score).


# %% solution="mixture_score"
def mixture_score(x, means, std, weights):
    """The gradient of log p at the points x (B, D): (B, D), finite everywhere.

    p is the mixture sum_k weights[k] N(means[k], std[k]^2 I); means are (K, D),
    std (K,), weights (K,) and sum to 1. In D dimensions a Gaussian's height is
    proportional to 1 / std^D.
    """
    ### BEGIN SOLUTION
    offset = means - x[:, None]  # (B, K, D)
    log_shares = weights.log() - x.shape[1] * std.log() - offset.square().sum(2) / (2 * std**2)
    shares = log_shares.softmax(1)  # p(k | x)
    return ((shares / std**2)[:, :, None] * offset).sum(1)
    ### END SOLUTION


# %% tests="mixture_score_test" points=3
check("score_matching.mixture_score", mixture_score)
### BEGIN HIDDEN TESTS
grade("score_matching.mixture_score", mixture_score)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Two things to compute: how likely each part is, given $x$, a table `(B, K)` whose rows sum to 1; and how each part
# pulls, `(B, K, D)`. What is left is a sum over `K`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `means - x[:, None]` is `(B, K, D)`. The log of $w_k\, \mathcal N(\dots)$ has three pieces: from the weight, from the
# height, from the exponent. Constants that all parts share may be left out. And
# `logs.softmax(1)` is $e^{\text{logs}}$, divided by its sum over the parts, without any overflow.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The logs: `weights.log() - D * std.log() - distance^2 / (2 std^2)`. After the softmax, divide by `std**2`, give it a
# last dimension of one with `[:, :, None]`, multiply by the differences, and sum over dimension 1.
#
# </details>

# %%
known_score = working("score_matching.mixture_score", globals())
three = GaussianMixture([[-1.2, 0.4], [0.9, 1.0], [0.5, -1.2]], [0.35, 0.35, 0.6], [0.5, 0.2, 0.3])
parts = three.means.float(), three.std.float(), three.weights.float()


def three_score(x):
    """The score of the three clouds, by your function."""
    return known_score(x, *parts)


_, (left, right) = plt.subplots(1, 2, figsize=(8.4, 4.2), layout="constrained")
score_field(three_score, left, truth=three, title="the score")
walker = 6 * torch.rand(150, 2, generator=torch.Generator().manual_seed(0)) - 3
way = [walker]
for _ in range(300):
    way.append(way[-1] + 0.01 * three_score(way[-1]))
trajectory(way, right, truth=three, title="following the arrows, without noise", n=150)
plt.show()

# %% [markdown]
# **Look:** the arrows lead uphill, and whoever follows them ends on one of three peaks. (Long arrows are drawn
# shorter.) Between the clouds there are watersheds, where the arrows part.
#
# **Think:** the cloud on the left has half of all the data. Can you see that in the arrows around it?
#
# <details><summary>An answer</summary>
#
# No. Well inside a cloud only its own part counts, $p(k \mid x) \approx 1$, and its weight has dropped out. The weights
# only decide where the watersheds lie, in places with hardly any data. Keep that in mind.
#
# </details>

# %% [markdown]
# ## 2. Losses that never see the truth
#
# A network $s(x)$ is to become the score. The obvious loss is the *Fisher divergence*,
# $\tfrac12 \mathbb E \lVert s(x) - \nabla \log p(x) \rVert^2$, but it needs the very thing that we want to learn.
#
# ### Exercise 2.2: The implicit loss
#
# Integration by parts removes the unknown score. What remains is
#
# $$\mathbb E_{p}\Bigl[\; \tfrac12 \lVert s(x) \rVert^2 + \operatorname{div} s(x) \;\Bigr], \qquad
# \operatorname{div} s = \sum_d \frac{\partial s_d}{\partial x_d},$$
#
# and it differs from the Fisher divergence by a number that no network can change. The proof:
# [The implicit loss](../../book/score_matching.md#implicit-matching).
#
# The divergence is the *trace* of the Jacobian: the diagonal only. Autograd gives you a row of the Jacobian at a time.


# %% solution="implicit_loss"
def implicit_loss(score, x):
    """The mean over the points x (B, D) of |s|^2 / 2 + div s: a single number.

    score(x) is (B, D), and each of its rows depends on that row of x only. The
    gradient of the loss must reach the network, so the derivatives in it need
    a graph of their own.
    """
    ### BEGIN SOLUTION
    place = x.detach().clone().requires_grad_()
    s, trace = score(place), 0
    for d in range(x.shape[1]):
        (row,) = torch.autograd.grad(s[:, d].sum(), place, create_graph=True)
        trace = trace + row[:, d]
    return (s.square().sum(1) / 2 + trace).mean()
    ### END SOLUTION


# %% tests="implicit_loss_test" points=3
check("score_matching.implicit_loss", implicit_loss)
### BEGIN HIDDEN TESTS
grade("score_matching.implicit_loss", implicit_loss)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Points do not see each other. So the gradient of the *sum* over the batch of $s_d$, with respect to `x`, holds in row
# $i$ the derivatives of $s_d(x_i)$. Which of its columns do you need?
#
# </details>
# <details><summary>Hint 2</summary>
#
# First make `x` a tensor that autograd follows: `.detach().clone().requires_grad_()`. Then, in a loop over `d`,
# `torch.autograd.grad(s[:, d].sum(), x, create_graph=True)` returns a tuple with one tensor.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Start with `trace = 0` and add column `d` of the `d`-th gradient each time. In the end, the mean over the points of
# `s.square().sum(1) / 2 + trace`. No factor of its own before the trace.
#
# </details>

# %% [markdown]
# A test for a loss: take a family of answers with the right one among them, and see which has the lowest loss. Our
# family is the exact score, made $c$ times as long.

# %%
torch.manual_seed(0)
by_parts = working("score_matching.implicit_loss", globals())
points = three.sample(4000)
factors = np.linspace(0, 2, 11)
fisher = [(three_score(points) * (c - 1)).square().sum(1).mean().item() / 2 for c in factors]
implicit = [by_parts(lambda x, c=c: c * three_score(x), points).item() for c in factors]

_, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
ax.plot(factors, fisher, color="black", label="Fisher divergence (needs the truth)")
ax.plot(factors, implicit, "o", color=BLUE, label="your loss (does not)")
ax.plot(factors, np.array(fisher) + min(implicit), color=BLUE, ls="--", lw=1, label="Fisher divergence, moved down")
ax.axhline(0, color=GREY, lw=0.8)
ax.set(xlabel="c, the score is made c times as long", ylabel="loss")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** the same parabola, lower down, with the same minimum at $c = 1$. Your loss found the right length of arrows
# that it was never shown.
#
# **What looks odd:** the loss is negative. Is that a mistake?
#
# <details><summary>An answer</summary>
#
# No. It is the Fisher divergence, less $\tfrac12 \mathbb E \lVert \nabla \log p \rVert^2$. For real data this number is
# unknown, and so the value of the loss says nothing about how good a network is. It can only compare two of them.
#
# </details>
#
# ### Exercise 2.3: The sliced loss
#
# A trace takes one backward pass for each dimension: two here, 3,072 for a small picture. A random direction makes do
# with one. If the entries of $v$ are independent with mean 0 and variance 1, then $v^\top J v$ is the trace of $J$ on
# average, and
#
# $$\mathbb E_{p, v}\Bigl[\; \tfrac12 \lVert s(x) \rVert^2 + v^\top J(x)\, v \;\Bigr], \qquad
# J = \frac{\partial s}{\partial x},$$
#
# is the implicit loss on average. See [The sliced loss](../../book/score_matching.md#sliced-matching).
#
# Never build $J$. One backward pass of $v^\top s$ is enough.


# %% solution="sliced_loss"
def sliced_loss(score, x, v):
    """The mean over the samples x (B, ...) of |s|^2 / 2 + v^T J v: a number.

    s = score(x), J is its Jacobian at the sample, v (B, ...) holds a direction
    for each sample. The samples may be points or pictures. The gradient must
    reach the network.
    """
    ### BEGIN SOLUTION
    place = x.detach().clone().requires_grad_()
    s = score(place)
    (pulled,) = torch.autograd.grad((s * v).sum(), place, create_graph=True)
    return (s.square() / 2 + pulled * v).flatten(1).sum(1).mean()
    ### END SOLUTION


# %% tests="sliced_loss_test" points=2
check("score_matching.sliced_loss", sliced_loss)
### BEGIN HIDDEN TESTS
grade("score_matching.sliced_loss", sliced_loss)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What is the gradient of the number $v^\top s(x)$ with respect to $x$, if $v$ is held fixed? Write it with $J$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# It is $J^\top v$. Multiply it by $v$ once more, and sum over the sample's entries.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Four lines: `x` for autograd, as before; `s`; the gradient of `(s * v).sum()`, with `create_graph=True`; then
# `s.square() / 2 + gradient * v`, summed over all but the first dimension (`.flatten(1).sum(1)`), and the mean.
#
# </details>

# %%
torch.manual_seed(0)
by_slices = working("score_matching.sliced_loss", globals())


def milliseconds(loss, *args):
    """The faster of two runs: an evaluation of the loss."""
    runs = []
    for _ in range(2):
        begin = time.perf_counter()
        loss(*args)
        runs.append(1000 * (time.perf_counter() - begin))
    return min(runs)


dims, costs = [2, 8, 32, 128], {"implicit": [], "sliced": []}
for dim in dims:
    wide_net = torch.nn.Sequential(torch.nn.Linear(dim, 64), torch.nn.Tanh(), torch.nn.Linear(64, dim))
    batch, v = torch.randn(64, dim), torch.randn(64, dim)
    costs["implicit"].append(milliseconds(by_parts, wide_net, batch))
    costs["sliced"].append(milliseconds(by_slices, wide_net, batch, v))

batch = three.sample(256)
exact_trace = by_parts(three_score, batch).item()
normal = [by_slices(three_score, batch, torch.randn_like(batch)).item() for _ in range(300)]
signs = [by_slices(three_score, batch, torch.randn_like(batch).sign()).item() for _ in range(300)]

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.1), layout="constrained")
for (name, cost), color in zip(costs.items(), (GREY, BLUE), strict=True):
    left.loglog(dims, cost, "o-", color=color, label=name)
left.set(xlabel="dimensions", ylabel="milliseconds", xticks=dims, xticklabels=dims)
left.minorticks_off()
left.legend(fontsize=8)
for values, name, color in ((normal, "normal directions", BLUE), (signs, "random signs", ORANGE)):
    right.hist(values, 30, density=True, color=color, alpha=0.6, label=name)
right.axvline(exact_trace, color="black", ls="--", lw=1, label="implicit loss")
right.set(xlabel="the sliced loss of one and the same batch", yticks=[])
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** on the left, what each costs; on the right, the price for it. The sliced loss is right on average only, and
# each draw of directions gives another number. Signs do better than normal draws: they make no error on the diagonal
# of the Jacobian.

# %% [markdown]
# ## 3. Noise that we add ourselves
#
# The third way asks for something else, and gets it for almost nothing. It is how diffusion models are trained.
#
# From here on our data are 20,000 points on a face: a circle, a mouth, two eyes. It is a mixture, too, of 150 small
# parts, so everything about it is known.

# %%
turn = torch.arange(120) * 2 * math.pi / 120
smile = torch.linspace(1.15 * math.pi, 1.85 * math.pi, 28)
outline = 2.1 * torch.stack([turn.cos(), turn.sin()], 1)
mouth = 1.2 * torch.stack([smile.cos(), smile.sin()], 1)
eyes = torch.tensor([[-0.75, 0.7], [0.75, 0.7]])

which = torch.tensor([0] * 120 + [1] * 28 + [2, 3])  # the region that a part belongs to
regions, region_share = ["outline", "mouth", "left eye", "right eye"], torch.tensor([0.45, 0.25, 0.2, 0.1])
face = GaussianMixture(
    torch.cat([outline, mouth, eyes]),
    torch.tensor([0.08] * 148 + [0.16] * 2),
    (region_share / which.bincount())[which],
)
data = face.sample(20_000, torch.Generator().manual_seed(0))
scatter_2d(data[:3000], truth=face, size=3, title="the data")
plt.show()

# %% [markdown]
# ### Exercise 2.4: Denoising score matching
#
# Add noise to a data point, $x = x_0 + \sigma z$. Seen from its own $x_0$, the noisy point has the density
# $\mathcal N(x_0, \sigma^2 I)$, and the score of *that* is trivial:
#
# $$\nabla_x \log \mathcal N(x;\, x_0, \sigma^2 I) = \frac{x_0 - x}{\sigma^2} = -\frac{z}{\sigma}.$$
#
# Take it as the target. Many $x_0$ lead to the same $x$, the network cannot tell them apart, and the best that it can
# say is the targets' mean. That mean is the score of all noisy points together. See
# [The denoising loss](../../book/score_matching.md#denoising-matching).
#
# We want all amounts of noise at once, so each sample gets a $\sigma$ of its own, and the network is told which. The
# weight $\sigma^2$ lets all of them count alike ([why](../../book/score_matching.md#score-levels)):
#
# $$L = \text{mean of }\; \tfrac12\, \sigma^2\, \bigl\lVert\, \text{score}(x_0 + \sigma z,\, \sigma)
# - \text{target} \,\bigr\rVert^2 .$$


# %% solution="dsm_loss"
def dsm_loss(score, x0, noise, sigma):
    """The weighted loss, the mean over the samples x0 (B, ...): a single number.

    noise is like x0, sigma (B,) has a number above 0 for each sample, and
    score(x, sigma) takes both. |...|^2 is a sum over a sample's entries. The
    gradient must reach the network.
    """
    ### BEGIN SOLUTION
    spread = sigma.reshape(-1, *[1] * (x0.ndim - 1))
    miss = spread * score(x0 + spread * noise, sigma) + noise
    return miss.square().flatten(1).sum(1).mean() / 2
    ### END SOLUTION


# %% tests="dsm_loss_test" points=3
check("score_matching.dsm_loss", dsm_loss)
### BEGIN HIDDEN TESTS
grade("score_matching.dsm_loss", dsm_loss)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What shape has `sigma`, and what shape must it have to multiply `x0`? In which shape does the network want it?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `sigma.reshape(-1, 1, ..., 1)` with `x0.ndim - 1` ones is for the arithmetic; the network gets `sigma` as it is.
# Then take the factor $\sigma$ into the square: what becomes of the target $-z / \sigma$?
#
# </details>
# <details><summary>Hint 3</summary>
#
# The second line is `sigma * score(noisy, sigma) + noise`, with the reshaped `sigma` in front and the given one inside
# the call. Square it, sum over each sample's entries, take the mean over the batch, and half of that.
#
# </details>

# %% [markdown]
# Before training anything: what are good and bad values of this loss? Two scores that need no training tell: one that
# always says 0, and the exact one, which no network can beat.

# %%
torch.manual_seed(0)
denoising = working("score_matching.dsm_loss", globals())


def face_score(x, sigma):
    """The exact score of the face with noise of standard deviation sigma, a number."""
    return face.noised(1.0, sigma).score(x)


def loss_at(score, sigma, x0):
    """The loss at one level sigma, of a score(x, sigma) that takes sigma as a number."""
    level = torch.full((len(x0),), sigma)
    return denoising(lambda x, _: score(x, sigma), x0, torch.randn_like(x0), level).item()


levels = torch.logspace(math.log10(0.05), math.log10(5), 15).tolist()
silence = [loss_at(lambda x, _: 0 * x, sigma, data[:4000]) for sigma in levels]
floor = [loss_at(face_score, sigma, data[:4000]) for sigma in levels]
_, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
ax.semilogx(levels, silence, color=GREY, ls="--", label="always 0")
ax.semilogx(levels, floor, color="black", label="the exact score")
ax.set(xlabel=r"noise $\sigma$", ylabel="loss at this level", ylim=(0, 1.2))
ax.legend()
plt.show()

# %% [markdown]
# **Look:** with much noise (right) the exact score is far better than silence. With little noise (left) the two come
# close, and even the exact score has a loss of nearly 1: the target is the noise that was drawn, and next to a point
# of the data nobody can tell which it was.
#
# A small difference, then, is all that there is to learn at small noise. It is learned all the same.
#
# ### Train it
#
# The network is the course's MLP. It says the noise, $\hat\varepsilon$, so that its answers have the size 1 at every
# level, and the score is $-\hat\varepsilon / \sigma$. Everything else is yours.

# %%
low, high = 0.05, 5.0  # from finer than the lines of the face to wider than all of it


def score_by(net):
    """score(x, sigma) of a network that says the noise; x (B, 2), and sigma is a number or (B,)."""

    def score(x, sigma):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))
        t = (sigma / low).log() / math.log(high / low)  # the level, from 0 to 1
        wide = sigma[:, None]
        return -net(x / (1 + wide**2).sqrt(), t) / wide  # what the network sees has the same size at all levels

    return score


def train(data, n_steps):
    """Train on points (N, 2): score(x, sigma) of the averaged network, and the losses."""

    def loss(net, x0):
        sigma = low * (high / low) ** torch.rand(len(x0))
        return denoising(score_by(net), x0, torch.randn_like(x0), sigma)

    net, losses = fit(MLP(2, 128, 3), loss, batches(data, 256), n_steps)
    return score_by(net.requires_grad_(False)), losses


torch.manual_seed(0)
learned, losses = train(data, n_steps=1500)

# %%
yours = [loss_at(learned, sigma, data[4000:8000]) for sigma in levels]
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(losses, color="#CCCCCC", lw=0.6, label="one batch")
smooth = np.convolve(losses, np.ones(50) / 50, mode="valid")
left.plot(np.arange(len(smooth)) + 25, smooth, color=ORANGE, label="mean of 50")
left.axhline(np.mean(floor), color="black", ls="--", lw=1, label="the exact score")
left.set(xlabel="step", ylabel="loss", ylim=(0, 1.2))
right.semilogx(levels, silence, color=GREY, ls="--", label="always 0")
right.semilogx(levels, floor, color="black", label="the exact score")
right.semilogx(levels, yours, "o", color=ORANGE, label="your network")
right.set(xlabel=r"noise $\sigma$", ylabel="loss at this level", ylim=(0, 1.2))
for ax in (left, right):
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** the loss falls fast and then seems to stop, close to the exact score's. On the right you see where it is.
#
# But a loss is one number for all the data. Where in the plane is the score right?

# %%
axis = torch.linspace(-3, 3, 80)
plane = torch.cartesian_prod(axis, axis)  # (6400, 2)
shown_levels = (0.1, 0.4, 1.5)
fig, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
for (top, bottom), sigma in zip(axes.T, shown_levels, strict=True):
    noisy = face.noised(1.0, sigma)
    score_field(lambda x, sigma=sigma: face_score(x, sigma), top, truth=noisy, color="black", n=16)
    score_field(lambda x, sigma=sigma: learned(x, sigma), top, color=ORANGE, n=16, title=f"noise {sigma:g}")
    exact = face_score(plane, sigma)
    error = (learned(plane, sigma) - exact).norm(dim=1) / exact.square().sum(1).mean().sqrt()
    picture = bottom.imshow(
        error.reshape(80, 80).T, origin="lower", extent=(-3, 3, -3, 3), vmin=0, vmax=1, cmap="viridis"
    )
    density = noisy.log_prob(plane).reshape(80, 80).T
    bottom.contour(axis, axis, density - density.max(), levels=[-4], colors="white", linewidths=1, linestyles="-")
    bottom.set(xticks=[], yticks=[])
    bottom.set_title(f"error at noise {sigma:g}", fontsize=10)
    here = noisy.sample(4000)
    truth = face_score(here, sigma)
    relative = (learned(here, sigma) - truth).square().sum() / truth.square().sum()
    print(f"noise {sigma:3g}: squared error where the noisy data are, relative to the score's own: {relative:.1%}")
fig.colorbar(picture, ax=axes[1], label="relative error", shrink=0.8)
plt.show()

# %% [markdown]
# **Look:** black arrows are exact, orange ones yours; where you see no black, they agree. Below, dark is right and
# bright is wrong, and nearly all noisy data lie inside the white lines. (At noise 1.5 the line is outside the picture.)
#
# The network is right where *its* data were. At little noise that is a narrow strip, and outside it guesses: nobody
# ever asked it there. At much noise it knows its way everywhere, but the face is only a blur. Neither alone is enough.

# %% [markdown]
# ## 4. A score is a denoiser
#
# ### Exercise 2.5: What the score says of the data
#
# You see a noisy point $x = \alpha x_0 + \sigma \varepsilon$. Where was $x_0$? *Tweedie's formula* gives the mean of
# all answers, and the score's own slope says how far they spread:
#
# $$\mathbb E[x_0 \mid x] = \frac{x + \sigma^2\, s(x)}{\alpha}, \qquad
# \operatorname{Cov}[x_0 \mid x] = \frac{\sigma^2}{\alpha^2} \bigl( I + \sigma^2 J(x) \bigr), \qquad
# J = \frac{\partial s}{\partial x}.$$
#
# The proof: [Tweedie's formula](../../book/score_matching.md#tweedie). The factor $\alpha$ is for later chapters,
# where the signal shrinks; in this lab it is 1.


# %% solution="tweedie"
def tweedie(score, x, alpha, sigma):
    """(mean, covariance) of x0 given x = alpha x0 + sigma eps: (B, D), (B, D, D).

    score(x) is the exact score of the noisy points x (B, D), row by row; alpha
    and sigma are numbers. Neither result carries a graph.
    """
    ### BEGIN SOLUTION
    place = x.detach().clone().requires_grad_()
    s = score(place)
    slopes = [torch.autograd.grad(s[:, d].sum(), place, retain_graph=True)[0] for d in range(x.shape[1])]
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    mean = (x + sigma**2 * s.detach()) / alpha
    return mean, (sigma / alpha) ** 2 * (identity + sigma**2 * torch.stack(slopes, 1))
    ### END SOLUTION


# %% tests="tweedie_test" points=3
check("score_matching.tweedie", tweedie)
### BEGIN HIDDEN TESTS
grade("score_matching.tweedie", tweedie)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The mean is one line. For the covariance you need the whole Jacobian this time. How did you get a row of it in
# Exercise 2.2?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Keep each `torch.autograd.grad(s[:, d].sum(), x, retain_graph=True)[0]`, which is `(B, D)`, in a list, and join the
# list with `torch.stack(rows, 1)`: `(B, D, D)`. No `create_graph` here: nothing is trained.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `torch.eye(D, dtype=x.dtype, device=x.device)` is the identity, and it broadcasts. The mean needs `s.detach()`, or it
# drags a graph along. Mind the squares: $\sigma^2$ twice, $\alpha$ once in the mean and squared in the covariance.
#
# </details>

# %%
torch.manual_seed(2)
guess_of = working("score_matching.tweedie", globals())
ring = torch.stack([turn.cos(), turn.sin()])
_, axes = plt.subplots(1, 2, figsize=(8.4, 4.2), layout="constrained")
for ax, sigma in zip(axes, (0.25, 0.8), strict=True):
    clean = face.sample(14)
    x = clean + sigma * torch.randn_like(clean)
    mean, covariance = guess_of(lambda x, sigma=sigma: learned(x, sigma), x, 1.0, sigma)
    scatter_2d(x, ax, truth=face, size=20, color=GREY, title=f"noise {sigma:g}")
    for begin, end in zip(x, mean, strict=True):
        ax.annotate("", end, begin, arrowprops={"color": ORANGE, "arrowstyle": "->"})
    for centre, matrix in list(zip(mean, covariance, strict=True))[:4]:
        values, axes_of = torch.linalg.eigh((matrix + matrix.T) / 2)
        ax.plot(*(centre[:, None] + 2 * axes_of @ (values.clamp(min=0).sqrt()[:, None] * ring)), color=BLUE, lw=1.2)
plt.show()

# %% [markdown]
# **Look:** grey points are noisy, and each arrow leads to what *your network* takes for the mean of the data. The blue
# ellipses (two standard deviations, for four of the points) say how sure it is.
#
# With little noise the arrows end on the lines of the face, and the ellipses are long and thin: it knows *which* line,
# but not where along it. With much noise a guess may lie where no data are: it is a mean of several answers, and the
# ellipse spans them.

# %% [markdown]
# ## 5. Down through the levels
#
# ### Exercise 2.6: Annealed Langevin dynamics
#
# Langevin dynamics follows a score and adds noise: small steps uphill, and a kick. With an exact score and enough time
# it draws samples from the density.
#
# But at little noise your score is a guess nearly everywhere, and clouds that are far apart are never crossed. At much
# noise both troubles are gone, and so is the face. So start with much noise, and lower it level by level. At a level
# $\sigma$, with $\sigma_L$ the last and smallest, take $n$ steps of
#
# $$x \;\leftarrow\; x + \frac a2\, \text{score}(x, \sigma) + \sqrt{a}\; z, \qquad
# a = \epsilon\, \frac{\sigma^2}{\sigma_L^2}.$$
#
# The steps shrink with the noise: wide densities are crossed in large steps, fine lines in small ones. See
# [Annealed Langevin dynamics](../../book/score_matching.md#annealed-langevin).


# %% solution="annealed_langevin"
def annealed_langevin(score, x, sigmas, eps, noise):
    """x (B, ...) after n steps at each of the levels sigmas, a list of L falling numbers.

    score(x, sigma) takes sigma as a number; noise (L, n, B, ...) has the z of
    every step, level by level; eps is the step size a at the last level.
    """
    ### BEGIN SOLUTION
    for sigma, draws in zip(sigmas, noise, strict=True):
        a = eps * (sigma / sigmas[-1]) ** 2
        for z in draws:
            x = x + a / 2 * score(x, sigma) + math.sqrt(a) * z
    return x
    ### END SOLUTION


# %% tests="annealed_langevin_test" points=3
check("score_matching.annealed_langevin", annealed_langevin)
### BEGIN HIDDEN TESTS
grade("score_matching.annealed_langevin", annealed_langevin)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Two loops, one inside the other. Which of the quantities change in the outer one, which in the inner one?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `zip(sigmas, noise)` gives you a level and its `(n, B, ...)` draws. `sigmas[-1]` is $\sigma_L$.
#
# </details>
# <details><summary>Hint 3</summary>
#
# In the outer loop: `a`, with the *square* of the ratio of the levels. In the inner loop, for each `z`: half of `a`
# before the score, the root of `a` before `z`. Never start again from the first `x`.
#
# </details>


# %%
def shares(x):
    """Which share of the points x (N, 2) lies in each region of the face: (4,)."""
    nearest = torch.cdist(x, face.means.float()).argmin(1)
    return which[nearest].bincount(minlength=4) / len(x)


def distance(x):
    """Sliced Wasserstein distance from the data: how far points have to move to turn one set into the other."""
    return sliced_wasserstein(x, data, n_projections=32)


def described(x):
    """A title for a picture: the share of each eye, and how far the points are from the data."""
    left_eye, right_eye = (100 * shares(x)[2:]).tolist()
    return f"eyes {left_eye:.0f}% and {right_eye:.0f}%\ndistance {distance(x):.2f}"


torch.manual_seed(0)
fresh = face.sample(2000)
walk = working("score_matching.annealed_langevin", globals())
sigmas = torch.logspace(math.log10(high), math.log10(low), 20).tolist()
path = [high * torch.randn(2000, 2)]
for sigma in sigmas:  # level by level, to have all the states; scaled by the last, all steps have the size 0.2 sigma^2
    kicks = torch.randn(1, 20, 2000, 2)
    path.append(walk(learned, path[-1], [sigma], 0.2 * sigma**2, kicks))
plain = 6 * torch.rand(2000, 2) - 3
plain = walk(learned, plain, [sigmas[-1]], 0.2 * sigmas[-1] ** 2, torch.randn(1, 400, 2000, 2))

shown = {"fresh data": fresh, "plain Langevin": plain, "annealed": path[-1]}
scatter_row(
    list(shown.values()),
    [f"{name}\n{described(x)}" for name, x in shown.items()],
    truth=face,
    color=[BLUE, ORANGE, ORANGE],
)
plt.show()

# %% [markdown]
# **Look:** both walks took 400 steps on the same network. The plain one stayed at the smallest noise: its points went
# to what was nearest, or got lost where the score is a guess. The left eye should have twice as many points as the
# right one, and only the annealed walk knows: it settled the shares when the noise was wide, and kept them.

# %%
animate(
    path,
    alt="Points scattered far and wide draw together, into a disc, then into a round face with a smile. The exact "
    "density of each noise level is shaded behind them.",
    truth=[face.noised(1.0, sigma) for sigma in [sigmas[0], *sigmas]],
    titles=[f"noise {sigma:.2f}" for sigma in [sigmas[0], *sigmas]],
    n_frames=21,
)

# %% [markdown]
# ## 6. Without any dice
#
# ### Exercise 2.7: A step of the probability-flow ODE
#
# 400 steps are many. Let the levels become infinitely many, and there is a way to go through them without noise: each
# point moves along a smooth curve,
#
# $$\frac{dx}{d\sigma} = -\sigma\; \text{score}(x, \sigma),$$
#
# and all points together have the right density at every $\sigma$. See
# [The probability-flow ODE](../../book/score_matching.md#probability-flow).
#
# Euler's step follows the slope at its start. *Heun's* looks at where that leads, and corrects:
#
# $$d = -\sigma\, \text{score}(x, \sigma), \quad x' = x + (\sigma' - \sigma)\, d, \quad
# d' = -\sigma'\, \text{score}(x', \sigma'), \quad x \leftarrow x + (\sigma' - \sigma)\, \frac{d + d'}{2}.$$
#
# At $\sigma' = 0$ there is no score to ask, and Euler's step is the answer.


# %% solution="heun_step"
def heun_step(score, x, sigma, sigma_next):
    """x (B, ...) at the smaller noise sigma_next, from x at the noise sigma.

    score(x, sigma) takes sigma as a number, above 0; sigma_next may be 0.
    """
    ### BEGIN SOLUTION
    stride, slope = sigma_next - sigma, -sigma * score(x, sigma)
    landing = x + stride * slope
    if sigma_next == 0:
        return landing
    slope_there = -sigma_next * score(landing, sigma_next)
    return x + stride * (slope + slope_there) / 2
    ### END SOLUTION


# %% tests="heun_step_test" points=3
check("score_matching.heun_step", heun_step)
### BEGIN HIDDEN TESTS
grade("score_matching.heun_step", heun_step)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The noise *falls*, so the step $\sigma' - \sigma$ is negative. With the minus in the slope, does `x` move along the
# score or against it?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The second slope is taken at the *new* place and at the *new* noise. The corrected step starts from the *old* place.
#
# </details>
# <details><summary>Hint 3</summary>
#
# First slope; predicted point; `if sigma_next == 0: return` it; second slope; `x` plus the step times the mean of both
# slopes.
#
# </details>

# %% [markdown]
# A solver should be tested where the answer is known. For data $\mathcal N(0.3, 0.5^2)$ a point keeps its place within
# the crowd: from $\sigma$ to $\sigma'$ its distance to 0.3 shrinks by
# $\sqrt{0.25 + \sigma'^2} \,/\, \sqrt{0.25 + \sigma^2}$.


# %%
def euler_step(score, x, sigma, sigma_next):
    return x - (sigma_next - sigma) * sigma * score(x, sigma)


def along(step, score, x, levels):
    """All states on the way through the levels, a list of falling numbers, in steps of step(score, x, from, to)."""
    states = [x]
    for sigma, sigma_next in zip(levels, levels[1:], strict=False):
        states.append(step(score, states[-1], sigma, sigma_next))
    return states


def geometric(n, end=low):
    """n + 1 levels from high to end, each the same factor below the one before."""
    return torch.logspace(math.log10(high), math.log10(end), n + 1, dtype=torch.float64).tolist()


heun = working("score_matching.heun_step", globals())
bell_score = exact_score([[0.3]], 0.5)  # score(x, sigma) of N(0.3, 0.5^2) with noise
begin = torch.tensor([[7.0]], dtype=torch.float64)
end = 0.3 + (begin - 0.3) * math.sqrt((0.25 + low**2) / (0.25 + high**2))
counts = [8, 16, 32, 64, 128]
_, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
for name, step, color in (("Euler", euler_step, GREY), ("Heun", heun, BLUE)):
    errors = [(along(step, bell_score, begin, geometric(n))[-1] - end).abs().item() for n in counts]
    order = math.log2(errors[-2] / errors[-1])
    ax.loglog(counts, errors, "o-", color=color, label=f"{name}: order {order:.2f}")
ax.set(xlabel="steps", ylabel="error at the end", xticks=counts, xticklabels=counts)
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# **Look:** twice as many steps halve Euler's error, and quarter Heun's. A small mistake in the formula, such as the
# wrong $\sigma$ in one place, would still give nice pictures. It would not give the order 2. Measure it whenever you
# write a solver.
#
# Now with your network. The film shows 2,000 points on their way; each has one way only.

# %%
torch.manual_seed(0)
widest = math.sqrt(high**2 + data.var().item())  # of the data with the most noise, in each direction
start = widest * torch.randn(2000, 2)
by_ode = along(heun, learned, start, [*geometric(40), 0.0])
animate(
    by_ode,
    alt="Points scattered far and wide glide inwards on smooth ways and come to rest as a round face with a smile.",
    truth=[face.noised(1.0, sigma) for sigma in [*geometric(40), 0.0]],
    titles=[f"noise {sigma:.2f}" for sigma in [*geometric(40), 0.0]],
    n_frames=22,
)

# %% [markdown]
# ## 7. With the right amount of dice
#
# ### Exercise 2.8: A step of the reverse SDE
#
# Forwards, noise was added: from $\sigma'$ to the larger $\sigma$ its variance grows by $\sigma^2 - \sigma'^2$. That
# can be run backwards. Follow the score, twice as far as the ODE does, and add noise *again*:
#
# $$x \;\leftarrow\; x + (\sigma^2 - \sigma'^2)\; \text{score}(x, \sigma) + \sqrt{\sigma^2 - \sigma'^2}\; z .$$
#
# Half of the way along the score is the ODE's. The other half, together with the noise, is a step of Langevin
# dynamics. See [A stochastic differential equation](../../book/score_matching.md#reverse-sde).


# %% solution="reverse_step"
def reverse_step(score, x, sigma, sigma_next, z):
    """x (B, ...) at the smaller noise sigma_next, from x at the noise sigma.

    score(x, sigma) takes sigma as a number; z is like x, standard normal, drawn
    for you.
    """
    ### BEGIN SOLUTION
    given_back = sigma**2 - sigma_next**2
    return x + given_back * score(x, sigma) + math.sqrt(given_back) * z
    ### END SOLUTION


# %% tests="reverse_step_test" points=2
check("score_matching.reverse_step", reverse_step)
### BEGIN HIDDEN TESTS
grade("score_matching.reverse_step", reverse_step)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Is it variances that are taken away from each other here, or standard deviations?
#
# </details>
# <details><summary>Hint 2</summary>
#
# One number appears twice: once as it is, before the score, and once under a root, before the noise.
#
# </details>
# <details><summary>Hint 3</summary>
#
# First line: `sigma**2 - sigma_next**2`. Second line: the formula. `math.sqrt` takes a number.
#
# </details>

# %%
torch.manual_seed(0)
back = working("score_matching.reverse_step", globals())


def sde_step(score, x, sigma, sigma_next):
    return back(score, x, sigma, sigma_next, torch.randn_like(x))


near = start[:14] / 3  # inside the picture
mid = [sigma for sigma in geometric(200) if sigma < 2]
_, axes = plt.subplots(1, 2, figsize=(8.4, 4.2), layout="constrained")
for ax, step, name in zip(axes, (heun, sde_step), ("ODE", "reverse SDE"), strict=True):
    trajectory(along(step, learned, near, mid), ax, truth=face, n=14, title=f"{name}, the same starts")
plt.show()

# %% [markdown]
# **Look:** smooth ways, and jittery ones that end somewhere else. Each *single* ending is different. The distribution
# of all the endings is the same. Is it?

# %%
torch.manual_seed(0)
many = widest * torch.randn(5000, 2)
calls = [8, 16, 32, 64]
results = {"Euler": [], "Heun": [], "reverse SDE": []}
for n in calls:
    results["Euler"].append(along(euler_step, learned, many, geometric(n))[-1])
    results["Heun"].append(along(heun, learned, many, geometric(n // 2))[-1])  # asks twice a step
    results["reverse SDE"].append(along(sde_step, learned, many, geometric(n))[-1])
best = np.mean([distance(face.sample(5000)) for _ in range(5)])
_, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
for (name, sets), color in zip(results.items(), (GREY, BLUE, ORANGE), strict=True):
    ax.loglog(calls, [distance(x) for x in sets], "o-", color=color, label=name)
ax.axhline(best, color="black", ls="--", lw=1, label="fresh data")
ticks = [0.02, 0.05, 0.1, 0.2]
ax.set(xlabel="calls of the network", ylabel="distance to the data", xticks=calls, yticks=ticks)
ax.set(xticklabels=calls, yticklabels=ticks)
ax.minorticks_off()
ax.legend(fontsize=8)
plt.show()

shown = {f"{name}, {calls[i]} calls": results[name][i][:2000] for i in (1, 3) for name in ("Heun", "reverse SDE")}
scatter_row(list(shown.values()), list(shown), truth=face, color=ORANGE)
plt.show()

# %% [markdown]
# **Look:** the annealed walk asked the network 400 times. With few calls the ODE is ahead, and Heun's second call in
# each step pays. With many the SDE catches up, and may even pass: its noise forgets the errors of earlier steps, those
# of the network too, while the ODE carries all of them to the end.

# %% [markdown]
# ## 8. Find the bug
#
# ### Exercise 2.9: Fix the corrector
#
# A classmate's sampler. A *predictor*, the step of Exercise 2.8, goes from level to level. After each, a *corrector*
# takes a few Langevin steps of size $h$ at the level just reached,
#
# $$x \;\leftarrow\; x + h\; \text{score}(x, \sigma) + \sqrt{2h}\; z, \qquad h = 2\, (r \sigma)^2,$$
#
# to mend what the predictor did. (This is the other convention, with $h$ for $a / 2$. See
# [Predictor and corrector](../../book/score_matching.md#predictor-corrector).) All the noise comes from outside.


# %%
def broken_corrector(score, x, sigmas, r, noise, kicks):
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        variance = sigma**2 - sigma_next**2
        x = x + variance * score(x, sigma) + math.sqrt(variance) * noise[i]  # predictor
        step = 2 * (r * sigma_next) ** 2
        for z in kicks[i]:  # corrector
            x = x + step * score(x, sigma_next) + math.sqrt(step) * z
    return x


torch.manual_seed(0)
few_levels = geometric(32)
draws = torch.randn(32, 2000, 2), torch.randn(32, 3, 2000, 2)
hers = broken_corrector(learned, start, few_levels, 0.3, *draws)
predicted = along(sde_step, learned, start, few_levels)[-1]
shown = {"predictor alone": predicted, "with her corrector": hers}
scatter_row(
    list(shown.values()),
    [f"{name}\n{described(x)}" for name, x in shown.items()],
    truth=face,
    color=ORANGE,
)
plt.show()

# %% [markdown]
# "Look how crisp my face is!" she says. Crisper than the data. Is that good?
#
# A picture does not say. So take the network out of the question, and the face, too. For data
# $x_0 \sim \mathcal N(0.3,\; 0.5^2)$ the exact score is known, and with the noise $\sigma_L$ of the last level the
# samples must have mean 0.3 and variance $0.25 + \sigma_L^2$. Nothing was trained, so whatever is off is the
# sampler's fault.


# %%
def ask_the_oracle(sampler, title):
    """Run a sampler on data N(0.3, 0.5^2) with the exact score; print the moments, draw the histogram."""
    generator = torch.Generator().manual_seed(0)
    levels = [5 * 0.86**i for i in range(31)]
    x = math.sqrt(25 + 0.25) * torch.randn(20_000, 1, generator=generator) + 0.3
    noise = torch.randn(30, 20_000, 1, generator=generator)
    kicks = torch.randn(30, 4, 20_000, 1, generator=generator)
    x = sampler(bell_score, x, levels, 0.3, noise, kicks)
    std = math.sqrt(0.25 + levels[-1] ** 2)
    print(f"{title}: mean {x.mean():.3f} (should be 0.300), standard deviation {x.std():.3f} (should be {std:.3f})")
    grid = np.linspace(-2, 2.6, 300)
    _, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
    ax.hist(x.flatten().numpy(), bins=np.linspace(-2, 2.6, 100), density=True, color=ORANGE, alpha=0.6, label=title)
    exact = np.exp(-((grid - 0.3) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
    ax.plot(grid, exact, color="black", label="exact")
    ax.set(xlabel="$x$", yticks=[])
    ax.legend(fontsize=8)
    plt.show()


ask_the_oracle(broken_corrector, "her sampler")

# %% [markdown]
# Now you have numbers, and a test that takes a second. Copy the program into the cell below and mend it. One line is
# wrong.


# %% solution="fix_the_corrector"
def fix_the_corrector(score, x, sigmas, r, noise, kicks):
    """x (B, ...) at the last of the levels sigmas, L + 1 falling numbers, from x at the first.

    noise (L, B, ...): noise[i] is for the predictor from level i to the next.
    kicks (L, n, B, ...): kicks[i] are for the n corrector steps at the level
    reached, each of the size h = 2 (r sigma)^2.
    """
    ### BEGIN SOLUTION
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        variance = sigma**2 - sigma_next**2
        x = x + variance * score(x, sigma) + math.sqrt(variance) * noise[i]  # predictor
        step = 2 * (r * sigma_next) ** 2
        for z in kicks[i]:  # corrector
            x = x + step * score(x, sigma_next) + math.sqrt(2 * step) * z
    return x
    ### END SOLUTION


# %% tests="fix_the_corrector_test" points=3
check("score_matching.fix_the_corrector", fix_the_corrector)
### BEGIN HIDDEN TESTS
grade("score_matching.fix_the_corrector", fix_the_corrector)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The samples are too narrow: something pulls too hard, or kicks too softly. Is it the predictor or the corrector? Try
# the oracle with `kicks[:, :0]`, which leaves no kicks.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Lay each of the two steps beside its formula above, and name each of its pieces.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The size $h$ is right, and so is the score. Two conventions were mixed: what belongs before the kick, if $h$, and not
# $h / 2$, stands before the score?
#
# </details>

# %%
mended = working("score_matching.fix_the_corrector", globals())
ask_the_oracle(mended, "the mended sampler")
x = mended(learned, start, few_levels, 0.3, *draws)
scatter_2d(x, truth=face, color=ORANGE, title=f"mended\n{described(x)}")
plt.show()

# %% [markdown]
# **Look:** the histogram lies on the black curve, and the face is as soft as its data. With too little noise,
# Langevin dynamics draws from a *sharpened* density: half the noise variance is half the temperature, and $p$ becomes
# $p^2$: narrower lines, and more points where most were anyway. Crisp is not the same as right.
#
# Other mistakes with their pictures: [Common mistakes](../../book/score_matching.md#score-mistakes).

# %% [markdown]
# ## 9. In your own words
#
# ### Exercise 2.10: Two papers, one loss (3 points)
#
# Song and Ermon (2019) train a score at $L$ noise levels, which they call NCSN. With the weights that they chose it is
# the loss of Exercise 2.4:
#
# $$L_\text{NCSN} = \frac1L \sum_{i=1}^{L} \sigma_i^2 \cdot \tfrac12\, \mathbb E_{x_0, z}
# \Bigl\lVert s(x_0 + \sigma_i z,\, \sigma_i) + \frac{z}{\sigma_i} \Bigr\rVert^2 .$$
#
# Ho, Jain and Abbeel (2020), the DDPM paper, train a network that predicts noise, with their equation 14:
#
# $$L_\text{simple} = \mathbb E_{k, x_0, \varepsilon} \Bigl\lVert \varepsilon
# - \varepsilon_\theta\bigl(\sqrt{\bar\alpha_k}\, x_0 + \sqrt{1 - \bar\alpha_k}\, \varepsilon,\; k\bigr) \Bigr\rVert^2,
# \qquad k \text{ uniform in } 1, \dots, T.$$
#
# Their $\bar\alpha_k$ falls from nearly 1 to nearly 0. Answer in a few sentences or lines each.
#
# **a)** Show that a term of one is a term of the other. Which $\sigma$ belongs to a level $k$? How do you turn a
# network $s$ of the first kind into an $\varepsilon_\theta$ of the second? (Divide the noisy sample by
# $\sqrt{\bar\alpha_k}$.)
#
# **b)** Name two things in which the two methods, losses or samplers, do differ.
#
# **c)** Ho and her colleagues derive a bound on the likelihood, and then *leave its weights out* to get equation 14. A
# friend leaves out the weight, too, the $\sigma_i^2$ of the first loss. Does she do the same? Which levels will her
# network learn well, which badly, and what will you see in her samples?

# %% [markdown] essay="two_papers_one_loss" points=3
# **a) 1 point.** Divided by $\sqrt{\bar\alpha_k}$, the noisy sample is $x_0 + \sigma_k \varepsilon$ with
# $\sigma_k = \sqrt{(1 - \bar\alpha_k) / \bar\alpha_k}$. Let
# $\varepsilon_\theta(x, k) = -\sigma_k\, s(x / \sqrt{\bar\alpha_k},\, \sigma_k)$. Then
# $\lVert \varepsilon - \varepsilon_\theta \rVert^2 = \lVert \sigma_k s + z \rVert^2
# = \sigma_k^2 \lVert s + z / \sigma_k \rVert^2$ with $z = \varepsilon$: twice the NCSN's term, at the level $\sigma_k$.
# A constant factor changes no minimiser.
# Half a point for $\varepsilon_\theta = -\sigma s$ without the scaling of the sample or without the right sigma.
#
# **b) 1 point, half for each of two.** The sample's scale: NCSN only adds noise, so that its variance grows; DDPM
# shrinks the signal and keeps the variance (which is easier on a network). The levels: a geometric sequence, ten in
# the first paper, against a thousand from a linear schedule of betas; so over all levels the two losses
# weigh the amounts of noise differently. The sampler: Langevin steps with a step size that is chosen by hand, against
# ancestral sampling, whose steps and variances follow from the same chain that was trained. The reason: score matching
# against a bound on the likelihood. The end: the last noise level remains in NCSN's samples. Not accepted: "one
# predicts a score, the other noise", which a) has just shown to be the same.
#
# **c) 1 point: no, and small noise wins.** Equation 14 weighs the errors of the *predicted noise* alike at all levels,
# which is the weight $\sigma^2$ on the score's errors. Hers weighs the score's errors alike, which is $1 / \sigma^2$ on
# the noise's. (That is nearer to the bound, whose weights are large where there is little noise; equation 14 plays
# these levels down.) A network that says nothing has the loss $d / (2 \sigma^2)$: from $\sigma = 5$ to 0.05 that grows
# by a factor of 10,000. So the fine levels are learned, the wide ones hardly, and their gradients are noisy. Samplers
# begin at the wide ones: points that get lost, wrong shares, clean lines in wrong places.
# Half a point for "small noise dominates" without the comparison or without the samples.
#
# Typical wrong answers, no points: "the weight does not matter because the minimiser is the same" (true for a network
# that can be right at all levels at once, which none is); "without it the network learns the density".

# %% [markdown]
# ### Exercise 2.11: Too good a score (3 points)
#
# A friend has 60 of the points only. She takes a huge network, and trains until her loss cannot get any lower. Run the
# cell: it gives her the best score that there is for her loss on her points, and samples with your ODE.

# %%
torch.manual_seed(0)
few = data[:60]
her_points = GaussianMixture(few, 0.0)


def her_score(x, sigma):
    """The exact score of her 60 points with noise added."""
    return her_points.noised(1.0, sigma).score(x)


fresh = face.sample(4000)
drawn = along(heun, her_score, start, [*geometric(60, end=0.002), 0.0])[-1]
her_gap, your_gap = (torch.cdist(x, seen).min(1).values for x, seen in ((drawn, few), (by_ode[-1], data)))
for name, gap in (("hers", her_gap), ("yours", your_gap)):
    print(f"samples, {name:5}: {(gap < 1e-3).float().mean():4.0%} are copies of a training point (closer than 0.001)")
for place, x0 in (("her 60 points", few.repeat(60, 1)), ("new points", fresh)):
    mine, others = (np.mean([loss_at(score, sigma, x0) for sigma in levels]) for score in (learned, her_score))
    print(f"loss on {place:13}: hers {others:.2f}, yours {mine:.2f}")
_, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
scatter_2d(few, axes[0], truth=face, size=14, title="her 60 points")
scatter_2d(drawn, axes[1], truth=face, size=14, color=ORANGE, title="2,000 samples by her score")
plt.show()

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** Nothing went wrong in her training. Why do her samples end where they do? Say it with the score, or with what
# the score says of the data (Exercise 2.5).
#
# **b)** On her own points, her loss is lower than yours. What does it say about her score, and which number should she
# have watched?
#
# **c)** Your network had the same loss, and a finite number of points, too. Give two reasons why its samples are not
# copies, and two things that she could do.

# %% [markdown] essay="too_good_a_score" points=3
# **a) 1 point.** The minimiser of the denoising loss is the score of *what the $x_0$ are drawn from*, with noise. Here
# that is 60 points, and with noise 60 Gaussians of the width $\sigma$. The samples have that density at every level,
# and as $\sigma$ falls to 0 it is needles: each sample ends on one of the points. Or: the mean of $x_0$ given $x$ is a
# weighted mean of the 60 points, with weights that are a softmax of $-\lVert x - x_0 \rVert^2 / 2\sigma^2$; for small
# $\sigma$ it is the nearest of them. Half a point for "it memorised" without why that is the minimum.
#
# **b) 1 point.** It says that she has the score of *her points*, not that of the face: the average in the loss is over
# the training set. On it she is even better than the face's own score, because the nearest point tells her which noise
# was added. The loss on points that were not trained on shows it (hers is far above yours). Or the distance of samples
# to the nearest training point. Half a point for "overfitting" without a number to watch.
#
# **c) 1 point, half for two reasons, half for two cures.** Reasons: with 20,000 points on the same lines there are many
# within the smallest noise of each other, so that their blurred density is nearly that of the face; the network is
# small and smooth, and cannot hold 20,000 needles; it was trained briefly, each point seen some twenty times with
# always new noise. Cures: more data; variations of them that keep the face a face; a smaller network or an earlier
# stop, chosen by the loss on held-out points; a larger last noise, which blurs the points together (at the price of
# detail).
#
# Typical wrong answers, no points: "her sampler has a bug" (it is yours); "she needs more levels or steps"; "train for
# longer"; "60 points are too few for the gradients to be exact".

# %% [markdown]
# ## Done
#
# You built an exact score, three losses that do without it, a denoiser, and samplers with and without dice; and you
# know how to test each of them against something exact.
#
# **Hand in.** Restart the kernel and run all cells, save, and hand in this notebook under its name,
# `02_score_matching.ipynb`. Each check above should be content. Grading runs the same exercises on other numbers.
#
# **Go on.** Draw a face of your own: change the parts in section 3. Or lower the last noise, or the number of training
# points, and see what breaks first. The chapter's [quiz](../../book/score_matching.md#score-quiz) asks what you should
# now be able to answer. In [chapter 3](../../book/ddpm_2d.md) the same loss comes back, from quite another side.
