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
# # Lab 1: Build an energy-based model
#
# By the end, a network that you trained yourself is a landscape with two valleys, and walkers who know only the slope
# under their feet turn it into samples. On the way you build every part of it: a density from an energy, its score, a
# chain, the coin that makes the chain exact, a loss without a partition function, the buffer that feeds it. Then you
# combine two models without training, and find the bug in somebody else's chain.
#
# **How it works**
#
# - Write the missing lines (mostly two to five), run the cell, run the check below it. Repeat as often as you like.
#   (The very first check takes some seconds: torch loads parts of itself.)
# - Look at the picture. It is drawn with *your* function once the check is content.
# - Stuck? Open the hints one at a time, or go on: until yours is right, the course's finished function stands in.
#
# **Time** about two and a half hours to write; a minute to run. No GPU, no network.
#
# Read it beside the chapter, [Energy-based models](../../book/energy.md).

# %%
import copy
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from course_utils.data import toy_2d, toy_mixture
from course_utils.energy import EnergyNet, grid_kl
from course_utils.energy import grid as make_grid
from course_utils.exercises import check, grade, working
from course_utils.exercises.energy import gaussian_energy, gaussian_score
from course_utils.mixtures import GaussianMixture
from course_utils.plotting import BLUE, GREY, ORANGE, PINK, SHADE, animate, scatter_2d, scatter_row, score_field
from course_utils.training import batches, fit

# %% [markdown]
# ## 1. A landscape, and the density it stands for
#
# An *energy* says how bad a place is. Ours is a valley in the shape of a ring, a little deeper on the right.
#
# In code, an energy is a function that takes a batch of points `(B, 2)` and returns a number for each, `(B,)`.


# %%
def ring(x):
    """A valley around the circle of radius 1.5, deeper on the right: (B, 2) -> (B,)."""
    return (x.norm(dim=1) - 1.5).square() / (2 * 0.25**2) - 0.5 * x[:, 0]


plane, cell = make_grid(-4, 4, 100)  # (10000, 2): the middles of 100 x 100 cells, and the area of a cell
print(f"{len(plane)} points, each in a cell of area {cell:.4f}")

# %% [markdown]
# ### Exercise 1.1: A density from an energy
#
# Low places are to be likely. Boltzmann's rule makes a density of it:
#
# $$p(x) = \frac{e^{-E(x)}}{Z}, \qquad Z = \int e^{-E(x)}\, dx \;\approx\; \sum_i e^{-E(x_i)} \cdot \text{cell},$$
#
# where the $x_i$ are the points of a grid. In two dimensions we can afford that.
#
# Write its logarithm, $\log p(x) = -E(x) - \log Z$. One trap: energies of networks may well be 1,000 or $-1{,}000$,
# and $e^{1000}$ is no number that a computer has. See [A density but for one number](../../book/energy.md#boltzmann).


# %% solution="log_density"
def log_density(energy, x, grid, cell):
    """log p (B,) at the points x (B, D), for p = exp(-energy) / Z.

    energy takes points (B, D) to numbers (B,). Z is summed over the points grid
    (N, D), each in the middle of a cell of the size `cell` (a float). Energies
    may be so large or so low that exp(-energy) is 0 or infinite.
    """
    ### BEGIN SOLUTION
    log_of_the_sum = torch.logsumexp(-energy(grid), dim=0)
    return -energy(x) - (log_of_the_sum + math.log(cell))
    ### END SOLUTION


# %% tests="log_density_test" points=2
check("energy.log_density", log_density)
### BEGIN HIDDEN TESTS
grade("energy.log_density", log_density)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The logarithm of a product is a sum: what is $\log Z$, if $Z$ is a sum of exponentials times the area of a cell?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.logsumexp(a, dim=0)` is the log of the sum of `exp(a)`, and never overflows. Which `a` is it here, at which
# points?
#
# </details>
# <details><summary>Hint 3</summary>
#
# First line: `torch.logsumexp` of minus the energy on the *grid*. Second line: minus the energy at `x`, less that
# number, less `math.log(cell)`.
#
# </details>

# %%
log_p_of = working("energy.log_density", globals())


def shade(ax, log_p, title):
    """Draw a log density, given at the points of `plane`, on the axes."""
    height = log_p.reshape(100, 100).exp().T.sqrt()  # the root shows faint places, too
    ax.imshow(height, origin="lower", extent=(-4, 4, -4, 4), cmap=SHADE)
    ax.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)


versions = {
    "E / 4": lambda x: ring(x) / 4,
    "E": ring,
    "4 E": lambda x: 4 * ring(x),
    "E + 1000": lambda x: ring(x) + 1000,
}
_, axes = plt.subplots(1, 4, figsize=(9.6, 2.7), layout="constrained")
for ax, (title, energy) in zip(axes, versions.items(), strict=True):
    log_p = log_p_of(energy, plane, plane, cell)
    shade(ax, log_p, title)
    print(f"{title:9} total mass {log_p.exp().sum() * cell:.6f}    highest density {log_p.max().exp():.4f}")
plt.show()

# %% [markdown]
# **Look:** the mass is 1 each time. An energy four times as high leaves only the deepest places, a quarter of it makes
# all places more alike (physicists say: a low and a high *temperature*). And adding 1,000 changes nothing at all. *An
# energy means nothing by itself; only differences do.*
#
# How fine must the grid be?

# %%
somewhere = torch.tensor([[1.5, 0.0]], dtype=torch.float64)
for n in (10, 20, 40, 80, 160):
    print(f"{n:3} x {n:3} cells: log p at (1.5, 0) is {log_p_of(ring, somewhere, *make_grid(-4, 4, n)).item():.8f}")

# %% [markdown]
# **Look:** cells no wider than the valley, and the digits stop changing.
#
# **Think:** a picture of 28 by 28 pixels is a point with 784 coordinates. How many cells has a grid of 20 a side?
#
# <details><summary>An answer</summary>
#
# $20^{784}$, a number of more than a thousand digits. That of the atoms in the universe has about 80. So $Z$ is out
# of reach, and from here on we use the grid only to *judge*, never to sample or to train.
#
# </details>

# %% [markdown]
# ## 2. The slope does not know Z
#
# ### Exercise 1.2: The score of an energy
#
# The *score* is the gradient of $\log p$ with respect to *where you stand*:
#
# $$\nabla_x \log p(x) = -\nabla_x E(x) - \nabla_x \log Z .$$
#
# What is the last term? ([The slope does not know Z](../../book/energy.md#energy-score).)
#
# Autograd wants one number to differentiate, and a batch has $B$ energies. Only `x` is to get a gradient: the energy
# may be a network in training, whose own gradients are none of our business here.


# %% solution="score"
def score(energy, x):
    """The gradient of log p at each sample of x (B, ...), in x's shape.

    energy takes x to numbers (B,), each from its own sample only. The result
    carries no graph, and no gradient is left in the energy's parameters.
    """
    ### BEGIN SOLUTION
    place = x.detach().clone().requires_grad_()
    (uphill,) = torch.autograd.grad(energy(place).sum(), place)
    return -uphill
    ### END SOLUTION


# %% tests="score_test" points=2
check("energy.score", score)
### BEGIN HIDDEN TESTS
grade("energy.score", score)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Make one number of the $B$ energies such that the gradient with respect to sample $i$ is the gradient of energy $i$,
# not a part of it. The mean is not it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.autograd.grad(number, leaf)` returns a tuple of one gradient and leaves no trace anywhere else. A leaf is what
# `x.detach().requires_grad_()` returns.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Three lines: a leaf from `x`; the gradient of the *summed* energies with respect to it; its negative. No
# `.backward()`, no `create_graph`.
#
# </details>

# %%
moons = toy_mixture("moons")  # the two moons of the course; their density and score are known exactly


def moons_energy(x):
    """An energy of the moons. The constant is a secret that the score must not see."""
    return 17.3 - moons.log_prob(x)


score_by = working("energy.score", globals())
_, (left, right) = plt.subplots(1, 2, figsize=(7.5, 4), layout="constrained")
for ax, energy, title in ((left, ring, "ring"), (right, moons_energy, "moons")):
    shade(ax, log_p_of(energy, plane, plane, cell), "")
    score_field(lambda x, energy=energy: score_by(energy, x), ax, color="black", n=18, title=title)
plt.show()

x = moons.sample(1000)
print(f"largest error of the moons' score: {(score_by(moons_energy, x) - moons.score(x)).abs().max():.0e}")

# %% [markdown]
# **Look:** from everywhere the arrows point into the valley, and along it to where it is deeper. (Long arrows are
# shortened.) To compute one of them takes one pass through the energy. No grid, no $Z$.

# %% [markdown]
# ## 3. Walking without a map
#
# ### Exercise 1.3: A Langevin chain
#
# A walker sees the slope under its feet, takes a step of $h$ times that slope, and stumbles:
#
# $$x_{k+1} = x_k + h\; s(x_k) + \sqrt{2h}\; z_k, \qquad z_k \sim \mathcal N(0, I).$$
#
# If the steps are small, the walkers end up distributed as $p$, wherever they started. Why just $\sqrt{2h}$:
# [Langevin dynamics](../../book/energy.md#langevin).
#
# Inside the function, `score` is the argument: a function of `x` alone.


# %% solution="langevin"
def langevin(score, x, step, noise):
    """The last state of the chain that starts at x (B, ...): in x's shape.

    noise is (n, B, ...): n steps, and noise[i] is the z of step i. score takes
    x to the gradient of log p, in x's shape; step is a float, the h above.
    """
    ### BEGIN SOLUTION
    for kick in noise:
        x = x + step * score(x) + math.sqrt(2 * step) * kick
    return x
    ### END SOLUTION


# %% tests="langevin_test" points=2
check("energy.langevin", langevin)
### BEGIN HIDDEN TESTS
grade("energy.langevin", langevin)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A loop over the steps. At which place does the walker look at the slope: where it started, or where it is now?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `for z in noise:` goes through the first dimension, so each `z` has the shape of `x`. `math.sqrt` does for `step`,
# which is a float.
#
# </details>
# <details><summary>Hint 3</summary>
#
# One line in the loop, the formula letter by letter; after the loop, return `x`. Make a new `x` each time (no `+=`),
# or you change the caller's tensor.
#
# </details>

# %%
torch.manual_seed(0)
walk = working("energy.langevin", globals())
path = [torch.tensor([[-2.5, 0.0]]).repeat(300, 1)]  # all at the same place
for z in torch.randn(1000, 300, 2):
    path.append(walk(lambda x: score_by(ring, x), path[-1], 0.01, z[None]))


class Model:
    """The density of an energy, as something that can be shaded."""

    def __init__(self, energy):
        self.energy = energy

    @torch.no_grad()
    def log_prob(self, x):
        return log_p_of(self.energy, x.double(), plane, cell)


ticks = sorted({round(1000 * (i / 39) ** 2) for i in range(40)})  # slowly at first
animate(
    [path[k] for k in ticks],
    alt="Three hundred points start together left of a ring, slide into it, part ways, walk around it on both sides, "
    "and meet at the right, until they cover the ring's exact density.",
    truth=Model(ring),
    titles=[f"after {k} steps" for k in ticks],
)

# %% [markdown]
# **Look:** down into the valley at once; around it, slowly. The shading is the exact density, which no walker has seen.
#
# **Think:** what would you see without the noise? And with noise, but without the score?
#
# <details><summary>An answer</summary>
#
# Without noise all 300 stay together: a single point slides downhill and ends in a deepest place. That is an optimiser.
# Without the score they diffuse away for ever. Only the right balance of both has $p$ as its resting state.
#
# </details>
#
# ### What a finite step costs
#
# For $p = \mathcal N(m, s^2)$ everything can be computed: the chain settles at the right mean, but at the variance
# $s^2 / (1 - h / 2s^2)$. Is that so?

# %%
torch.manual_seed(0)
s = 0.5
steps = torch.tensor([0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
settled = [walk(gaussian_score(0.0, s), torch.zeros(20_000, 1), h, torch.randn(100, 20_000, 1)) for h in steps.tolist()]
line = torch.linspace(0, 0.4, 100)
_, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
ax.plot(line, s**2 / (1 - line / (2 * s**2)), color="black", label="formula")
ax.plot(steps, [x.var() for x in settled], "o", color=ORANGE, label="your chains")
ax.axhline(s**2, color=GREY, ls="--", label="the variance asked for")
ax.set(xlabel="step h", ylabel="variance where they settle", ylim=(0, 1.4))
ax.legend()
plt.show()

# %% [markdown]
# **Look:** your chains lie on the curve, and the curve lies above the truth. Small steps are right, but they get
# nowhere; large ones get around and are wrong; beyond $h = 2s^2 = 0.5$ there is no resting state at all. In a
# landscape it is the *narrowest* valley that sets the limit.

# %% [markdown]
# ## 4. Accept, or stay
#
# ### Exercise 1.4: Accept or stay
#
# The step is wrong by a little. So make it a *proposal*, and don't take it always. Accept $x'$ with probability
#
# $$A = \min\left(1,\; \frac{p(x')\; q(x \mid x')}{p(x)\; q(x' \mid x)}\right), \qquad
# q(x' \mid x) = \mathcal N\bigl(x';\; x + h\, s(x),\; 2h\, I\bigr),$$
#
# otherwise *stay*, and count the place once more: that decision is the *coin*. $q(x' \mid x)$ is the density of a
# Langevin step from $x$ to $x'$; $q(x \mid x')$ is that of the same step back. Both $p$ have the same $Z$, so it
# cancels. Why this is exact for *every* step: [Metropolis](../../book/energy.md#metropolis).
#
# Compute the logarithm of $A$, sample by sample. `u` is drawn for you, uniform in $[0, 1)$: accept where
# $\log u < \log A$.


# %% solution="metropolis"
def metropolis(energy, score, x, proposal, step, u):
    """(x_next, log_accept): the next state (B, ...) and log A (B,), at most 0.

    x and proposal are (B, ...), u is (B,). energy takes x to (B,), score to the
    gradient of log p = -energy - log Z, in x's shape. The proposals were drawn
    from q: x + step * score(x) + sqrt(2 step) times normal noise.
    """

    ### BEGIN SOLUTION
    def log_q(to, start):
        way = to - start - step * score(start)
        return -way.square().flatten(1).sum(1) / (4 * step)

    log_r = energy(x) - energy(proposal) + log_q(x, proposal) - log_q(proposal, x)
    log_accept = log_r.clamp(max=0)
    goes = (u.log() < log_accept).reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(goes, proposal, x), log_accept
    ### END SOLUTION


# %% tests="metropolis_test" points=3
check("energy.metropolis", metropolis)
### BEGIN HIDDEN TESTS
grade("energy.metropolis", metropolis)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Four logs: two of $p$, in which $\log Z$ cancels, and two of $q$, in which the normal density's constant cancels.
# Write a small function for $\log q(\text{to} \mid \text{start})$ and use it twice.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\log \mathcal N(y; m, 2h I) = -\lVert y - m \rVert^2 / (4h)$ and a constant. The way back *starts* at the proposal:
# its mean needs the score there. The squared norm of a sample is `.square().flatten(1).sum(1)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `log_q(to, start)` as above; the ratio is `energy(x) - energy(proposal)` plus the way back less the way there;
# `.clamp(max=0)` is the minimum with 1. For `torch.where`, the decision `(B,)` must become `(B, 1, ..., 1)`, with
# `x.ndim - 1` ones.
#
# </details>

# %%
torch.manual_seed(0)
accept_or_stay = working("energy.metropolis", globals())


def ring_score(x):
    return score_by(ring, x)


def exact_draws(energy, n):
    """Draws (n, 2) of an energy's density from the grid: a cell by its mass, then anywhere in it."""
    mass = log_p_of(energy, plane, plane, cell).exp() * cell
    place = plane[torch.multinomial(mass, n, replacement=True)]
    return (place + math.sqrt(cell) * (torch.rand(n, 2) - 0.5)).float()


def adjusted(x, h, n_steps):
    """Chains with the coin: the last states, and the share of proposals that were accepted."""
    accepted = []
    for z in torch.randn(n_steps, *x.shape):
        proposal = x + h * ring_score(x) + math.sqrt(2 * h) * z
        x, log_accept = accept_or_stay(ring, ring_score, x, proposal, h, torch.rand(len(x)))
        accepted.append(log_accept.exp().mean())
    return x, torch.stack(accepted).mean()


starts = exact_draws(ring, 2000)
hs = [0.01, 0.02, 0.04, 0.06, 0.08, 0.1]
plain = [walk(ring_score, starts, h, torch.randn(60, *starts.shape)) for h in hs]
coin = [adjusted(starts, h, 60) for h in hs]

_, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
bins = np.linspace(0, 3, 46)
mass = (log_p_of(ring, plane, plane, cell).exp() * cell).numpy()
distance = plane.norm(dim=1).numpy()
left.hist(distance, bins, weights=mass, density=True, color="#CCCCCC", label="exact")
for x, color, title in ((plain[3], ORANGE, "Langevin"), (coin[3][0], BLUE, "with the coin")):
    left.hist(x.norm(dim=1).numpy(), bins, density=True, histtype="step", lw=2, color=color, label=title)
left.set(xlabel="distance from the middle", yticks=[], title=f"step {hs[3]:g}")
left.legend(fontsize=8)
right.plot(hs, [x.norm(dim=1).std() for x in plain], "o-", color=ORANGE, label="Langevin")
right.plot(hs, [x.norm(dim=1).std() for x, _ in coin], "o-", color=BLUE, label="with the coin")
exact_width = np.sqrt(np.cov(distance, aweights=mass))
right.axhline(exact_width, color="black", ls="--", lw=1, label="exact")
right.set(xlabel="step h", ylabel="width of the ring", ylim=(0.2, None))
right.legend(fontsize=8)
plt.show()
for h, (_, rate) in zip(hs, coin, strict=True):
    print(f"step {h:4}: {rate:.0%} of the proposals accepted")

# %% [markdown]
# **Look:** all chains *start* from exact draws. Langevin's spoil them: the ring gets wider with the step. With the coin
# they stay exact, whatever the step; what falls is the number of proposals that are taken.
#
# **What looks odd:** if it is exact for every step, why not take a huge one?
#
# <details><summary>An answer</summary>
#
# Exact does not mean fast. With a huge step nearly every proposal is refused and the walkers stand still: they stay
# distributed as they *started*, which was right here only because they started from exact draws. In many dimensions
# "huge" begins early; that is why most people who train networks take the small bias instead.
#
# </details>

# %% [markdown]
# ## 5. Learning: down at the data, up at the samples
#
# ### Exercise 1.5: The loss of contrastive divergence
#
# Now the energy is a network, and data are given. The gradient of $-\log p$, averaged over the data, is
#
# $$\nabla_\theta L = \mathbb E_\text{data}\bigl[\nabla_\theta E_\theta\bigr]
# - \mathbb E_\text{model}\bigl[\nabla_\theta E_\theta\bigr] .$$
#
# No $Z$: it has become samples of the model. A loss with this gradient is a difference of two means,
# $\overline{E(x_\text{data})} - \overline{E(x_\text{model})}$. Since only differences of energies count, they could
# drift anywhere; a small weight $w$ on their squares keeps them near 0:
#
# $$L = \overline{E(x_\text{data})} - \overline{E(x_\text{model})}
# + w \left( \overline{E(x_\text{data})^2} + \overline{E(x_\text{model})^2} \right).$$
#
# The samples are *places* here, not functions of $\theta$: whatever they may hang on, no gradient flows back into them.
# See [Contrastive divergence](../../book/energy.md#contrastive-divergence).


# %% solution="contrastive_divergence"
def contrastive_divergence(energy, x_data, x_model, weight):
    """The loss: a single number (tensor), whose gradient reaches the energy.

    x_data (B, ...) and x_model (M, ...) may differ in size; energy takes each to
    a number a sample. No gradient reaches x_model. weight is a float, the w.
    """
    ### BEGIN SOLUTION
    at_data, at_samples = energy(x_data), energy(x_model.detach())
    squares = at_data.square().mean() + at_samples.square().mean()
    return at_data.mean() - at_samples.mean() + weight * squares
    ### END SOLUTION


# %% tests="contrastive_divergence_test" points=2
check("energy.contrastive_divergence", contrastive_divergence)
### BEGIN HIDDEN TESTS
grade("energy.contrastive_divergence", contrastive_divergence)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A training step makes the loss smaller. So what has to be in it with a plus: the energy that should fall, or the one
# that should rise?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `x_model.detach()` is the same tensor without its history. Detach the *samples*, not their energies: the network has
# to learn from these.
#
# </details>
# <details><summary>Hint 3</summary>
#
# First both energies, `(B,)` and `(M,)`. Then the difference of their means, plus `weight` times the sum of the means
# of their squares. The mean of squares is not the square of the mean.
#
# </details>

# %%
cd_loss = working("energy.contrastive_divergence", globals())
heaps = GaussianMixture([[-1.0], [1.0]], 0.4, [0.3, 0.7])  # 30 % of the data left, 70 % right
torch.manual_seed(0)
x_data, x_model = heaps.sample(500), 1.5 * torch.randn(500, 1)
axis, width = make_grid(-4, 4, 200, dim=1)

_, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
torch.manual_seed(0)
untrained = EnergyNet(dim=1, width=32)
ax.plot(axis, untrained(axis).detach(), color=GREY, ls="--", label="before")
for title, color, turned in (("after 150 training steps", BLUE, False), ("the same, sign turned", PINK, True)):
    net = copy.deepcopy(untrained)
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(150):
        pair = (x_model, x_data) if turned else (x_data, x_model)
        optimizer.zero_grad()
        cd_loss(net, *pair, 0.1).backward()
        optimizer.step()
    ax.plot(axis, net(axis).detach(), color=color, ls=":" if turned else "-", label=title)
for points, place, color in ((x_data, 0.03, BLUE), (x_model, 0.0, ORANGE)):
    ax.plot(points[:150], torch.full((150,), place), "|", color=color, transform=ax.get_xaxis_transform())
ax.set(xlabel="x      (blue: data, orange: samples)", ylabel="energy", xlim=(-4, 4))
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** valleys appear where there are more data than samples, hills where it is the other way round. With the sign
# turned, the network learns to avoid the data; and its loss falls just as nicely.
#
# **Think:** here the samples stay the same. If you went on for ten thousand steps, would the energy settle?
#
# <details><summary>An answer</summary>
#
# Without the squares, no: as long as data and samples differ, the difference of the energies can always grow, and the
# valleys get deeper and deeper. What stops it is that the samples *move*: the deeper a valley, the more samples walk
# into it, until there are as many as data, and the two terms cancel. So new samples are needed after every step.
#
# </details>

# %% [markdown]
# ## 6. Chains that go on
#
# ### Exercise 1.6: A replay buffer
#
# New samples after every training step: a chain that starts anew would walk hundreds of steps each time. But the energy
# has hardly changed, so let the chains *go on* from where they were. A buffer keeps them:
#
# 1. some chains are drawn from it, by their `index`;
# 2. a few of them start anew (where `u < rate`), so that places far from all data are visited, too;
# 3. all of them walk on;
# 4. where they get to is written back.
#
# See [The replay buffer](../../book/energy.md#replay-buffer).


# %% solution="replay_step"
def replay_step(buffer, index, fresh, u, rate, run):
    """(samples, new_buffer): where the chains get to (B, ...), and the buffer after it (N, ...).

    buffer (N, ...) holds N chains, index (B,) says which go on (none twice).
    fresh (B, ...) are new starts, taken where u < rate; u is (B,), rate a float.
    run(start) takes starts (B, ...) to samples; these may hang on a graph, but
    what you return must not. buffer itself stays as it is.
    """
    ### BEGIN SOLUTION
    anew = (u < rate).reshape(-1, *[1] * (fresh.ndim - 1))
    samples = run(torch.where(anew, fresh, buffer[index])).detach()
    new_buffer = buffer.clone()
    new_buffer[index] = samples
    return samples, new_buffer
    ### END SOLUTION


# %% tests="replay_step_test" points=2
check("energy.replay_step", replay_step)
### BEGIN HIDDEN TESTS
grade("energy.replay_step", replay_step)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `buffer[index]` reads a batch of chains, and an assignment to `some_tensor[index]` writes one. Which tensor must not
# be written to?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.where(choice, a, b)` takes `a` where the choice is true. The choice is `(B,)`, the chains may be pictures: it
# needs the shape `(B, 1, ..., 1)`, as in Exercise 1.4.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The starts by `torch.where`; the samples are `run` of them, detached; then `.clone()` the buffer and write the samples
# at `index`. What is written back is where the chains *got to*, restarted ones included.
#
# </details>

# %%
torch.manual_seed(0)
go_on = working("energy.replay_step", globals())


def from_the_left(n):
    return torch.tensor([-2.0, 0.0]) + 0.3 * torch.randn(n, 2)


def ten_steps(x):
    return walk(ring_score, x, 0.01, torch.randn(10, *x.shape))


chains, seen = from_the_left(400), {}
for k in range(1, 101):
    samples, chains = go_on(chains, torch.randperm(400), from_the_left(400), torch.rand(400), 0.01, ten_steps)
    if k in (1, 10, 100):
        seen[f"buffer,\nround {k}"] = samples
scatter_row(
    [ten_steps(from_the_left(400)), *seen.values()],
    ["always anew,\nround 100", *seen],
    truth=Model(ring),
    color=[GREY, ORANGE, ORANGE, ORANGE],
)
plt.show()

# %% [markdown]
# **Look:** all start on the left, and each panel paid ten steps a round. Who starts anew each time never gets further
# than in the first round. The buffer's chains have walked a thousand steps by round 100, and cover the ring; the few
# still on their way have just started anew.
#
# **Think:** what would go wrong without the restarts? And with a restart for every second chain?
#
# <details><summary>An answer</summary>
#
# Without them, chains that once left a region may never see it again: a valley that the network digs there later stays
# unnoticed. With too many, most chains have not walked far, and what they show is the start and not the model.
#
# </details>

# %% [markdown]
# ## 7. Train it
#
# All parts are there. The network is the course's `EnergyNet`: a few linear layers with one number at the end, and
# $\lVert x \rVert^2 / 8$ added so that far out it goes uphill, and $Z$ is finite. In each training step, the buffer's
# chains walk ten steps on the energy *as it is now*, with your score; then comes your loss.
#
# In two dimensions we have the grid as a judge. It gives a number, $\mathrm{KL}(\text{exact} \,\|\, \text{learned})$,
# that the training itself never sees.

# %%
exact_log_p = moons.log_prob(plane)


def judged(log_p):
    """KL(exact || model) in nats, of a log density at the points of `plane`."""
    return grid_kl(exact_log_p, log_p, cell)


def learned_log_p(energy):
    with torch.no_grad():
        return log_p_of(energy, plane, plane, cell)


def train(data, n_steps):
    """Train an energy on points (N, 2): its average, the losses, and (step, KL, network, chains) on the way."""
    chains, losses, history = 1.2 * torch.randn(256, 2), [], []

    def loss_of(net, x):
        nonlocal chains
        if len(losses) % 40 == 0:
            snapshot = copy.deepcopy(net).requires_grad_(False)
            history.append((len(losses), judged(learned_log_p(snapshot)), snapshot, chains))

        def run(start):
            return walk(lambda z: score_by(net, z), start, 0.005, torch.randn(10, *start.shape))

        index, fresh, u = torch.randperm(256), 1.2 * torch.randn(256, 2), torch.rand(256)
        samples, chains = go_on(chains, index, fresh, u, 0.002, run)
        value = cd_loss(net, x, samples, 0.002)
        losses.append(value.item())
        return value

    net, _ = fit(EnergyNet(width=64), loss_of, batches(data, 256), n_steps, lr=1.5e-3, ema_decay=0.99)
    return net, losses, history


torch.manual_seed(0)
data = toy_2d("moons", 20_000, seed=0)
learned, losses, history = train(data, n_steps=1200)

# %%
best_gaussian = torch.distributions.MultivariateNormal(moons.mean, moons.covariance).log_prob(plane)
shown = {"exact": exact_log_p, "learned": learned_log_p(learned), "best Gaussian": best_gaussian}
_, axes = plt.subplots(1, 3, figsize=(8, 3.1), layout="constrained")
for ax, (title, log_p) in zip(axes, shown.items(), strict=True):
    shade(ax, log_p, f"{title}\nKL {judged(log_p):.3f}")
plt.show()

# %% [markdown]
# **Look:** the middle is a density that nobody wrote down: $e^{-E}$ of your network over its $Z$ from the grid. The
# best Gaussian stands beside it as a baseline that takes no training at all.
#
# How it came about. The shading is the model's own density; the points are its chains.

# %%
animate(
    [chains for *_, chains in history],
    alt="A round hill of density stretches, bends and splits into two moons; the chains follow it and end on them.",
    truth=[Model(snapshot) for _, _, snapshot, _ in history],
    titles=[f"step {step}, KL {kl:.2f}" for step, kl, *_ in history],
)

# %%
smooth = np.convolve(losses, np.ones(20) / 20, mode="valid")
_, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot(smooth, color=ORANGE, lw=1)
left.axhline(0, color="black", lw=1, ls="--")
left.set(xlabel="step", ylabel="loss, mean of 20 steps")
right.semilogy([step for step, *_ in history], [kl for _, kl, *_ in history], color=BLUE)
right.set(xlabel="step", ylabel="KL(exact || model)")
plt.show()

# %% [markdown]
# **What looks odd:** on the whole the model gets much better, and the loss soon just wanders about 0. Should it not
# fall?
#
# <details><summary>An answer</summary>
#
# The loss is a *difference* of two energies. While the chains keep up with the network, their energies are like those
# of the data, at the beginning as at the end. It says how far the chains are from the data *as this network sees it*,
# not how good the network is. Without a grid, one has to look at samples of fresh chains.
#
# </details>

# %% [markdown]
# ## 8. And, or
#
# ### Exercise 1.7: And, or
#
# Two energies can be combined, and the result is an energy again. No training.
#
# - *Both*: the density is proportional to $e^{-E_1} \cdot e^{-E_2}$. A place is likely where both models say so.
# - *Either*: the density is proportional to $e^{-E_1} + e^{-E_2}$. A place is likely where one of them says so.
#
# Which are their energies? (The trap of Exercise 1.1 is here again.) See
# [Adding energies](../../book/energy.md#energy-composition).


# %% solution="compose"
def compose(energy_1, energy_2, x):
    """(both, either), two energies (B,) at the samples x (B, ...).

    exp(-both) is the product of exp(-energy_1) and exp(-energy_2), exp(-either)
    their sum. Energies may be so large or so low that exp is 0 or infinite.
    """
    ### BEGIN SOLUTION
    first, second = energy_1(x), energy_2(x)
    return first + second, -torch.logaddexp(-first, -second)
    ### END SOLUTION


# %% tests="compose_test" points=2
check("energy.compose", compose)
### BEGIN HIDDEN TESTS
grade("energy.compose", compose)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# An energy is minus the log of a density (but for a constant). What is minus the log of a product? Of a sum?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The log of a product is the sum of the logs. For the log of $e^a + e^b$ there is a function that never overflows:
# `torch.logaddexp(a, b)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `both` is the sum of the two energies. `either` is minus `torch.logaddexp` of *minus* each of them.
#
# </details>

# %%
torch.manual_seed(0)
and_or = working("energy.compose", globals())
sides = {"exact moons": moons_energy, "your moons": learned}
_, axes = plt.subplots(2, 2, figsize=(6, 6.4), layout="constrained")
for column, (title, energy) in zip(axes.T, sides.items(), strict=True):
    for ax, i, word in ((column[0], 0, "and"), (column[1], 1, "or")):
        shade(ax, learned_log_p(lambda x, i=i, energy=energy: and_or(energy, ring, x)[i]), f"{title} {word} ring")


def both(x):
    return and_or(learned, ring, x)[0]


drawn = walk(lambda x: score_by(both, x), torch.randn(300, 2), 0.005, torch.randn(400, 300, 2))
scatter_2d(drawn, axes[0, 1], color=ORANGE, size=4, title="your moons and ring")
plt.show()

# %% [markdown]
# **Look:** *and* leaves the places where ring and moons meet, and your chains (orange) find them. For *and*, your moons
# give much the same picture as the exact ones.
#
# **What looks odd:** for *or*, they do not. The exact moons have vanished beside the ring, yours have some share or
# other. What is different? Run the next cell before you open the answer.

# %%
for title, energy in sides.items():
    point = plane[:1]
    log_Z = -energy(point) - log_p_of(energy, point, plane, cell)
    print(f"{title}: log Z = {log_Z.item():6.2f}")
print(f"ring:        log Z = {(-ring(plane[:1]) - log_p_of(ring, plane[:1], plane, cell)).item():6.2f}")

# %% [markdown]
# <details><summary>An answer</summary>
#
# In a product, $Z_1$ and $Z_2$ are one more constant, which the new $Z$ takes care of. In a sum each part weighs as
# much as its own $Z$. The exact moons' energy had the secret constant 17.3, so next to the ring they weigh almost
# nothing; your network's $Z$ is whatever the training left it at. *And* is free; *or* needs the number that we don't
# have.
#
# </details>

# %% [markdown]
# ## 9. Find the bug
#
# ### Exercise 1.8: Fix the chain
#
# A classmate has put Exercise 1.4 into a loop. Each step needs the energy and the score of the state and of the
# proposal. Why compute those of the state again? They are known from the step before. So she remembers them, which
# saves half of the work. And that would be right, if she had made no mistake.


# %%
def broken_chain(energy, score, x, step, noise, u):
    e, s = energy(x), score(x)
    for z, v in zip(noise, u, strict=True):
        proposal = x + step * s + math.sqrt(2 * step) * z
        e_new, s_new = energy(proposal), score(proposal)
        there = (proposal - x - step * s).square().flatten(1).sum(1) / (4 * step)
        back = (x - proposal - step * s_new).square().flatten(1).sum(1) / (4 * step)
        accepted = v.log() < e - e_new + there - back
        x = torch.where(accepted.reshape(-1, *[1] * (x.ndim - 1)), proposal, x)
        e, s = e_new, s_new
    return x


torch.manual_seed(0)
noise, u = torch.randn(120, 1000, 2), torch.rand(120, 1000)
starts = exact_draws(moons_energy, 1000)
scatter_row(
    [starts, broken_chain(moons_energy, moons.score, starts, 0.03, noise, u)],
    ["exact draws", "120 steps later"],
    truth=moons,
    color=[BLUE, ORANGE],
)
plt.show()

# %% [markdown]
# Exact draws go in. A right chain would leave them exact, whatever the step; hers moves them away from the tips. But
# why? The moons don't say.
#
# So take a landscape in which everything is known, $\mathcal N(0.3,\; 0.5^2)$ on a line. With this *oracle* a right
# chain must end at mean 0.3 and standard deviation 0.5, for every step.


# %%
def ask_the_oracle(sampler, title):
    """Run chains on N(0.3, 0.5^2) with two steps; print the moments, draw the histograms."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.5 * torch.randn(20_000, 1, generator=generator)
    noise = torch.randn(60, 20_000, 1, generator=generator)
    u = torch.rand(60, 20_000, generator=generator)
    line = np.linspace(-2, 2.6, 300)
    _, axes = plt.subplots(1, 2, figsize=(8, 2.4), layout="constrained")
    for ax, step in zip(axes, (0.02, 0.4), strict=True):
        end = sampler(gaussian_energy(0.3, 0.5), gaussian_score(0.3, 0.5), x, step, noise, u)
        print(f"{title}, step {step}: mean {end.mean():.3f} (should be 0.300), std {end.std():.3f} (should be 0.500)")
        ax.hist(end.flatten().numpy(), np.linspace(-2, 2.6, 100), density=True, color=ORANGE, alpha=0.6)
        ax.plot(line, np.exp(-((line - 0.3) ** 2) / 0.5) / (0.5 * (2 * np.pi) ** 0.5), color="black")
        ax.set(title=f"{title}, step {step}", yticks=[])
    plt.show()


ask_the_oracle(broken_chain, "the broken chain")

# %% [markdown]
# Now you have numbers, and a test that takes a second. Copy the program into the cell below and mend it. One line is
# wrong.


# %% solution="fix_the_chain"
def fix_the_chain(energy, score, x, step, noise, u):
    """The last state (B, ...) of the Metropolis-adjusted Langevin chain from x.

    noise (n, B, ...) and u (n, B): step i proposes with noise[i] and accepts
    with u[i]. score is the gradient of -energy; the chains' law tends to
    exp(-energy) / Z.
    """
    ### BEGIN SOLUTION
    e, s = energy(x), score(x)
    for z, v in zip(noise, u, strict=True):
        proposal = x + step * s + math.sqrt(2 * step) * z
        e_new, s_new = energy(proposal), score(proposal)
        there = (proposal - x - step * s).square().flatten(1).sum(1) / (4 * step)
        back = (x - proposal - step * s_new).square().flatten(1).sum(1) / (4 * step)
        accepted = v.log() < e - e_new + there - back
        each = accepted.reshape(-1, *[1] * (x.ndim - 1))
        x, s = torch.where(each, proposal, x), torch.where(each, s_new, s)
        e = torch.where(accepted, e_new, e)
    return x
    ### END SOLUTION


# %% tests="fix_the_chain_test" points=3
check("energy.fix_the_chain", fix_the_chain)
### BEGIN HIDDEN TESTS
grade("energy.fix_the_chain", fix_the_chain)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# With small steps the broken chain is nearly right, with large ones it is not. What happens often with large steps and
# hardly ever with small ones?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Lay the program beside your `metropolis`: the formulas agree, all of them. So look at what is *remembered*. At the top
# of the loop, whose energy and score must `e` and `s` be?
#
# </details>
# <details><summary>Hint 3</summary>
#
# A refused walker is still at its old place, but the last line gives it the energy and the score of the place it was
# not let to. Keep the old ones where the proposal was refused; `e` is `(B,)`, `s` has the shape of `x`.
#
# </details>

# %%
ask_the_oracle(working("energy.fix_the_chain", globals()), "the mended chain")

# %% [markdown]
# **Look:** both histograms lie on the black curve, for the small step as for the large one. Keep the oracle, and the
# habit of asking it with a *large* step: where the coin hardly ever says no, its mistakes don't show. More of them:
# [Common mistakes](../../book/energy.md#energy-mistakes).

# %% [markdown]
# ## 10. In your own words
#
# ### Exercise 1.9: The number that nobody has (3 points)
#
# No grid in many dimensions; but why not draw points at random? The cell takes the simplest density there is, $E =
# \lVert x \rVert^2 / 2$, draws 20,000 points uniformly in the box $[-4, 4]^d$, and estimates $Z$ as the box's volume
# times the mean of $e^{-E}$. It does so 20 times for each $d$.

# %%
torch.manual_seed(0)
dims = [1, 2, 4, 8, 16, 32, 64]
_, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for i, d in enumerate(dims):
    log_Z = d * (math.log(2 * math.pi) / 2 + math.log(math.erf(4 / math.sqrt(2))))  # exactly, in the box
    errors = []
    for _ in range(20):
        minus_E = -(8 * torch.rand(20_000, d) - 4).square().sum(1) / 2
        errors.append(minus_E.logsumexp(0) - math.log(20_000) + d * math.log(8) - log_Z)
    ax.plot([i] * 20, errors, "o", color=ORANGE, alpha=0.5, markersize=4)
ax.axhline(0, color="black", lw=1, label="exact")
ax.set(xlabel="dimension d", ylabel=r"error of $\log Z$", xticks=range(len(dims)), xticklabels=dims)
ax.legend()
plt.show()

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** Why does it fail as $d$ grows, and why on this side? What would have to be known to draw the points better?
#
# **b)** The score has no $Z$ in it. Name three things that you did in this lab with the score, or with differences of
# energies, and say for each where $Z$ went.
#
# **c)** Name two things that cannot be done without $Z$.

# %% [markdown] essay="number_that_nobody_has" points=3
# **a) 1 point.** Nearly all of $Z$ comes from a region (here a ball of radius about $\sqrt d$) that is a vanishing
# part of the box, exponentially small in $d$; after a while none of the 20,000 points falls into it, and a grid has
# the same problem with $k^d$ cells. The mean of $e^{-E}$ is then made by very few lucky points: its relative variance
# grows as $c^d$. The estimate is unbiased, but typically much too low, since what it misses is the rare large terms
# (and its log is too low on average, too, by Jensen). To draw better one would have to know where the mass is, that
# is, to draw from (nearly) $p$ itself, which is the task that we began with. Half a point for "the volume grows
# exponentially" without saying that the mass is in a small part that is missed.
#
# **b) 1 point: a third for each of three, with the place of Z.** Langevin dynamics: only $\nabla \log p$, in which
# the constant $\log Z$ has gradient 0. Metropolis: the ratio $p(x') / p(x)$, in which it cancels. The product of two
# models: $Z_1 Z_2$ is one more constant factor. Training by contrastive divergence: the gradient of $\log Z$ is minus
# the mean of $\nabla_\theta E$ over the model's samples, so $Z$ has become *sampling*; it is not gone for free.
#
# **c) 1 point: half for each of two.** The value of $\log p(x)$, thus the likelihood of held-out data; comparing two
# models on the same data; the weights in a mixture ("or"); the KL to another density; classification by
# $p(x \mid \text{class})$ with an energy of its own for each class; watching the training by its likelihood.
# Not: comparing two points under *one* model (a difference of energies is enough).
#
# Typical wrong answers, no points: "Z is an integral and integrals have no closed form" (neither has the grid's, and it
# took a millisecond); "because the network is complicated" (here it is a parabola); "with a GPU it would work"; "the
# score needs less memory"; "sampling needs Z".

# %% [markdown]
# ### Exercise 1.10: A loss of nothing (3 points)
#
# Your friend finds the buffer a nuisance. She starts every chain *at a data point*, walks one step, and takes your
# loss: contrastive divergence as it was first proposed. "From the first step to the last," she says, "my loss is close
# to zero. Yours jumps about."
#
# The data are the two heaps of section 5. Run the cell.


# %%
def train_on_heaps(start_at_data, walk_steps, n_steps):
    """An energy of the heaps: the averaged network, and the losses."""
    torch.manual_seed(0)
    chains = 1.5 * torch.randn(128, 1)

    def loss_of(net, x):
        nonlocal chains

        def run(start):
            return walk(lambda z: score_by(net, z), start, 0.03, torch.randn(walk_steps, *start.shape))

        index, fresh, u = torch.randperm(128), 1.5 * torch.randn(128, 1), torch.rand(128)
        if start_at_data:
            samples = run(x)
        else:
            samples, chains = go_on(chains, index, fresh, u, 0.02, run)
        return cd_loss(net, x, samples, 0.01)

    net = EnergyNet(dim=1, width=32, base_std=3.0)
    return fit(net, loss_of, batches(heaps.sample(5000), 128), n_steps, lr=2e-3, ema_decay=0.99, progress=False)


hers, her_losses = train_on_heaps(True, 1, n_steps=400)
yours, your_losses = train_on_heaps(False, 10, n_steps=400)
line, line_cell = make_grid(-8, 8, 400, dim=1)
_, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for ax, net, title in ((axes[0], hers, "hers"), (axes[1], yours, "yours")):
    with torch.no_grad():
        p = log_p_of(net, line, line, line_cell).exp()
    near = line[:, 0].abs() < 3
    outside = p[~near].sum() * line_cell
    left_share = p[near & (line[:, 0] < 0)].sum() / p[near].sum()
    print(
        f"{title:5} {outside:.0%} of the mass beyond -3 and 3; of the rest, {left_share:.0%} on the left (data: 30 %)"
    )
    ax.fill_between(line[:, 0], heaps.log_prob(line).exp(), color="#CCCCCC", label="data")
    ax.plot(line, p, color=ORANGE, label=title)
    ax.set(xlabel="x", yticks=[])
    ax.legend(fontsize=8)
for values, color, title in ((your_losses, GREY, "yours"), (her_losses, ORANGE, "hers")):
    axes[2].plot(values, color=color, lw=0.8, label=title)
axes[2].axhline(0, color="black", lw=1, ls="--")
axes[2].set(xlabel="step", ylabel="loss")
axes[2].legend(fontsize=8)
plt.show()

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** Why is her loss so close to 0, from the first step to the last? What does that say about her network?
#
# **b)** Compare her density with the data. What has she learned, what has she not, and why could her chains not see it?
#
# **c)** She has no grid, as her next data will be pictures. How can she find out that something is wrong? And how can
# she mend it?

# %% [markdown] essay="loss_of_nothing" points=3
# **a) 1 point: it cannot be otherwise.** Her "samples" are data that moved by one small step, so their energies are
# nearly those of the data, whatever the network. A difference near 0 says that one step does not lead away from the
# data, at most that the score is right *at the data*. (Yours jumps because the samples are independent of the batch;
# near 0 in the mean.) Half a point for "the loss of an energy-based model is no measure of quality" without the
# reason here.
#
# **b) 1 point: half for what is right and wrong, half for why.** Learned: the shape of each heap, since a step shows
# in which direction walkers drift away from it. Not learned: what is far from the data (the mass beyond 3, if her
# figure shows it), and how much belongs on which side. Nobody starts there and in one step nobody gets there, so
# nothing ever raises the energy in a place without data; and nobody crosses from one heap to the other, so that their
# depths are never compared. The chain's law after one step is not the model's: the gradient is biased, towards "stay
# where you are".
#
# **c) 1 point: half for a test, half for a repair.** Test: draw samples by *fresh* long chains from noise and look at
# them, or compare statistics with the data; start chains from data and from noise and see whether they end alike;
# energies of pictures that are no data (noise) must be higher than those of data. Repair: chains that go on (replay
# buffer) with restarts from noise; more steps per chain; starts from a wide distribution; noise on the data at
# several levels (chapter 2). Not: more training, a larger network, a smaller step.
#
# Typical wrong answers, no points: "she is overfitting"; "her loss is lower, so her model is better, and the grid is
# wrong"; "the learning rate is too small"; "one step of a larger size would do" (a step is limited by the narrowest
# direction).

# %% [markdown]
# ## Done
#
# You built an energy-based model: a density, its score, a chain and its correction, a loss, a buffer, and what can be
# done with two of them. And you know how to test each against something exact.
#
# **Hand in.** Restart the kernel and run all cells, save, and hand in this notebook under its name, `01_energy.ipynb`.
# Each check above should be content. Grading runs the same exercises on other numbers.
#
# **Go on.** Train on other data (`toy_2d` knows `swiss_roll`, `circles`, `mixture` and more; `moons` is written into
# `exact_log_p`, too), and see where chains no longer find their way. The chapter's
# [quiz](../../book/energy.md#energy-quiz) asks what you should now be able to answer. Sampling was what made training
# hard. Chapter 2 learns the score itself, and needs no samples.
