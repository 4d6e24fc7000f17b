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
# # Lab 5: Say what you want, and how much
#
# By the end, one number decides how much a network listens to you. You have written that number's two lines, the
# attention inside the network, what the network says and what it means, and the ruler that tells you what the number
# costs.
#
# **How it works**
#
# - Write the missing lines (mostly one to five), run the cell, run the check below it. Repeat as often as you like.
# - Look at the picture. It is drawn with *your* function once the check is content.
# - Stuck? Open the hints one at a time, or go on: until yours is right, the course's finished function stands in.
#
# **Time** about three hours to write; about a minute to run. No GPU, no network.
#
# Read it beside the chapter, [Classifier-free guidance](../../book/guidance.md).

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from course_utils.data import CIFAR10_CLASSES, SHAPES, load_shapes
from course_utils.exercises import check, grade, working
from course_utils.exercises.guidance import mixture_net
from course_utils.metrics import classifier_accuracy, classifier_features, sliced_wasserstein
from course_utils.mixtures import GaussianMixture
from course_utils.models import Attention, TimeEmbedding
from course_utils.plotting import BLUE, GREEN, GREY, ORANGE, PINK, image_grid, scatter_row, score_field
from course_utils.samplers import dpmpp_2m, heun
from course_utils.schedules import CosineSchedule
from course_utils.training import load_pretrained

# %% [markdown]
# ## The data
#
# The chapter draws photographs. Most of this lab draws *shapes*, which the course makes itself: ten classes, in colour,
# $32 \times 32$ pixels like the photographs. They cost a tenth, so you can turn every knob and watch; and whether a
# star is a star you see at once. At the end you turn the same knob on photographs.

# %%
real, real_labels = load_shapes("test")  # (2000, 3, 32, 32) in [-1, 1] and (2000,)
image_grid(
    real[:20],
    alt="Two rows of the ten shapes, in many colours, sizes and places.",
    columns=10,
    titles=SHAPES,
)

# %% [markdown]
# Which colour, which place, which size: all of that is left to chance, and *none* of it is in the label. Keep an eye
# on it when you turn up the guidance.

# %% [markdown]
# ## 1. Inside the network
#
# The U-Net of Lab 4 has one more piece, which we skipped. A convolution sees three pixels at a time. To make both ends
# of a cross the same colour, far places must know of each other.
#
# ### Exercise 5.1: Attention
#
# Each place asks a question, the *query* $q$. Each place shows a *key* $k$ and holds a *value* $v$. What a query gets
# is a mean of all values; those whose keys fit it best weigh most:
#
# $$\text{weights} = \text{softmax}\!\left(\frac{q\, k^\top}{\sqrt D}\right), \qquad \text{out} = \text{weights}\; v.$$
#
# There are $N$ queries and $M$ keys of $D$ numbers each, and anything may stand before these two dimensions: a batch,
# heads. See [Attention](../../book/guidance.md#attention).


# %% solution="attention"
def attention(q, k, v):
    """The pair (out, weights): out (..., N, E) and weights (..., N, M).

    q (..., N, D), k (..., M, D), v (..., M, E). The weights of one query sum to
    1. Numbers may be large: exp(1000) is infinite, so use torch's softmax.
    """
    ### BEGIN SOLUTION
    share = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return share @ v, share
    ### END SOLUTION


# %% tests="attention_test" points=2
check("guidance.attention", attention)
### BEGIN HIDDEN TESTS
grade("guidance.attention", attention)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The shapes nearly write it: from `(..., N, D)` and `(..., M, D)` to `(..., N, M)`, and with `(..., M, E)` to
# `(..., N, E)`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `tensor.mT` swaps the last two dimensions, whatever stands before them. $D$ is `q.shape[-1]`. `.softmax(dim=...)`
# makes the numbers along one dimension sum to 1: which one belongs to the keys?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Two lines. The scores are `q @ k.mT`, divided by `math.sqrt(q.shape[-1])`, and the softmax is over the last dimension.
# Then return the weights times `v`, and the weights.
#
# </details>

# %%
attend = working("guidance.attention", globals())
torch.manual_seed(0)
dims = [1, 4, 16, 64, 256, 1024]
largest = {"divided by the root of D": [], "not divided": []}
for D in dims:
    q, k = torch.randn(2, 20, 50, D)  # 20 times 50 queries and 50 keys
    for values, undo in zip(largest.values(), (1, math.sqrt(D)), strict=True):
        values.append(attend(undo * q, k, k)[1].amax(-1).mean())

_, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
for (name, values), color, line in zip(largest.items(), (BLUE, ORANGE), ("o-", "s--"), strict=True):
    ax.plot(dims, values, line, color=color, label=name)
ax.axhline(1 / 50, color="black", lw=0.8, ls=":", label="all keys alike")
ax.set(xscale="log", xlabel="dimension D of queries and keys", ylabel="largest weight of a query", ylim=(0, 1))
ax.legend()
plt.show()

# %% [markdown]
# **Look:** these queries and keys are noise: no key fits any query. Undivided, the largest of 50 weights still comes
# close to 1 as $D$ grows. A sum of $D$ products has standard deviation $\sqrt D$, and the softmax takes large numbers
# for a clear answer. Where it has made up its mind, its gradient is nearly 0, and nothing is learned.
#
# Divided, it stays the same in every dimension.

# %% [markdown]
# ### Exercise 5.2: A block of attention for pictures
#
# Now for pictures. Each of the $H \cdot W$ positions is a *token*, a row of $C$ numbers. Several *heads* look at the
# same time, each in channels of its own, for one may mind colours and another edges:
#
# 1. *Norm first*: `n` is the group norm of `x` in one group.
# 2. Each token of `n` gives queries, keys and values: `to_qkv` $(3C, C)$ times the token; the first $C$ rows are the
#    queries, then come the keys, then the values.
# 3. Head $i$ has the $i$-th block of $C / \text{heads}$ channels of each, and attends.
# 4. The heads' results side by side are $C$ channels again; `to_out` $(C, C)$ mixes them.
# 5. The result is *added to `x`* itself, not to its norm.
#
# Torch has your function of Exercise 5.1 ready, without the weights: `nn.functional.scaled_dot_product_attention`. Take
# either. See [More heads than one](../../book/guidance.md#multi-head-attention).


# %% solution="multi_head_attention"
def multi_head_attention(x, to_qkv, to_out, heads):
    """Pictures like x (B, C, H, W): x plus what attention adds to it.

    to_qkv (3 C, C) and to_out (C, C) are multiplied by the channels of each
    position; heads divides C. The norm is nn.functional.group_norm(x, 1).
    """
    ### BEGIN SOLUTION
    tokens = nn.functional.group_norm(x, 1).flatten(2).mT  # (B, H W, C)
    thirds = (tokens @ to_qkv.T).chunk(3, dim=2)
    q, k, v = (third.unflatten(2, (heads, -1)).transpose(1, 2) for third in thirds)  # (B, heads, H W, C / heads)
    found = nn.functional.scaled_dot_product_attention(q, k, v)
    added = found.transpose(1, 2).flatten(2) @ to_out.T  # (B, H W, C)
    return x + added.mT.reshape(x.shape)
    ### END SOLUTION


# %% tests="multi_head_attention_test" points=3
check("guidance.multi_head_attention", multi_head_attention)
### BEGIN HIDDEN TESTS
grade("guidance.multi_head_attention", multi_head_attention)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write the shape beside each line. `reshape` never moves a number: it only reads the same row of numbers in other
# portions. Where two dimensions must change places, you need `.mT` or `.transpose`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Tokens: `.flatten(2)` makes `(B, C, H W)` of a picture, and `.mT` brings the channels to the end. Thirds: `.chunk(3,
# dim=2)`. Heads: `.unflatten(2, (heads, -1))` makes `(B, N, heads, C / heads)`; attention wants `(B, heads, N, ...)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Six steps: the tokens of the norm; `tokens @ to_qkv.T` in three; each of them unflattened and `.transpose(1, 2)`;
# attention; `.transpose(1, 2).flatten(2)`, which joins the heads, `@ to_out.T`; back to a picture the way you came,
# `.mT` and `.reshape(x.shape)`, plus `x`.
#
# </details>

# %%
torch.manual_seed(0)
block = working("guidance.multi_head_attention", globals())
x, to_qkv, to_out = torch.randn(1, 8, 6, 6), torch.randn(24, 8), torch.randn(8, 8)
convolution, order = nn.Conv2d(8, 8, 3, padding=1), torch.randperm(36)


def jumbled(x, order):
    """The picture with its positions in another order."""
    return x.flatten(2)[:, :, order].reshape(x.shape)


with torch.no_grad():
    layers = {"attention": lambda x: block(x, to_qkv, to_out, 2), "a convolution": convolution}
    for name, layer in layers.items():
        change = jumbled(layer(jumbled(x, order)), order.argsort()) - layer(x)
        print(f"{name}: jumble, compute, put back in order: changes up to {change.abs().max():.1g}")

# %% [markdown]
# **Look:** attention does not notice that the picture was jumbled. It knows what is there, and not where. In the U-Net
# the convolutions around it say where, so no table of positions is needed.
#
# Now into a network that has learned. It ships with the course and was trained on 20,000 shapes. We noise a picture,
# and ask each of three places of an $8 \times 8$ map where *it* looks, with your `attention`.


# %%
@torch.no_grad()
def where_it_looks(part, given):
    """The weights (B, N, N) of an attention block of the network (with one head) for its input `given`."""
    q, k, v = part.qkv(part.norm(given)).flatten(2).mT.chunk(3, dim=2)
    return attend(q, k, v)[1]


model, schedule = load_pretrained("shapes"), CosineSchedule(None)  # model.net(x, t, y) says v
inputs, hooks = [], []
for part in model.net.modules():
    if isinstance(part, Attention):
        hooks.append(part.register_forward_pre_hook(lambda part, given: inputs.append((part, given[0]))))
torch.manual_seed(0)
pick = [4, 9, 12, 13]
noisy = schedule.add_noise(real[pick], 0.3, torch.randn_like(real[pick]))
with torch.no_grad():
    model.net(noisy, torch.full((len(pick),), 0.3), real_labels[pick])
for hook in hooks:
    hook.remove()

part, given = next((part, given) for part, given in inputs if given.shape[-1] == 8)
weights = where_it_looks(part, given)
places = [(1, 1), (4, 4), (6, 6)]  # rows and columns of the 8 x 8 map
maps = []
for i in range(len(pick)):
    maps.append(noisy[i])
    for row, column in places:
        seen = weights[i, 8 * row + column].reshape(1, 8, 8)
        seen = (2 * seen / seen.max() - 1).repeat(3, 1, 1)
        seen[:, row, column] = torch.tensor([0.7, -0.25, -1.0])  # the place itself, in orange
        maps.append(nn.functional.interpolate(seen[None], scale_factor=4.0)[0])
image_grid(
    torch.stack(maps),
    alt="Four noisy shapes, and for three places of each, marked in orange, a map of where it looks: bright where the "
    "weight is large.",
    columns=4,
    titles=["the picture", "upper left", "middle", "lower right"],
    zoom=80,
)

# %% [markdown]
# **Look:** each query gets an answer of its own. Where the map is bright, there its value comes from, and that may be
# the other end of the picture. Compare a place on the shape with one on the ground.
#
# Don't read too much into them. This is one block of several, and nobody told it what to look for.

# %% [markdown]
# ### Exercise 5.3: Fourier features of time
#
# In Lab 4 the time became a row of clocks, from very fast to very slow. They could tell level 500 from level 501. In
# continuous time nobody wants that: what is right at $t = 0.500$ is right at $0.501$. So now the clocks are slow, and
# their frequencies $w_1, \dots, w_F$ are drawn once, from $\mathcal N(0, 1)$:
#
# $$\bigl(\cos 2\pi w_1 t, \dots, \cos 2\pi w_F t,\;\; \sin 2\pi w_1 t, \dots, \sin 2\pi w_F t\bigr).$$
#
# See [Fourier features](../../book/guidance.md#fourier-features).


# %% solution="fourier_features"
def fourier_features(t, frequency):
    """The table (B, 2 F): all the cosines, then all the sines, a row for each time.

    t (B,) are the times, frequency (F,) the frequencies w, in turns per unit.
    """
    ### BEGIN SOLUTION
    turned = 2 * math.pi * t[:, None] * frequency  # (B, F)
    return torch.cat([turned.cos(), turned.sin()], dim=1)
    ### END SOLUTION


# %% tests="fourier_features_test" points=1
check("guidance.fourier_features", fourier_features)
### BEGIN HIDDEN TESTS
grade("guidance.fourier_features", fourier_features)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# It is Exercise 4.2 with other frequencies, and they are given.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `t[:, None]` is `(B, 1)`, `frequency` is `(F,)`: their product is `(B, F)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The angle is `2 * math.pi` times that product. `torch.cat` of its cosine and its sine, along `dim=1`.
#
# </details>

# %%
embed = working("guidance.fourier_features", globals())
torch.manual_seed(0)
frequency = torch.randn(256)
times = torch.linspace(0, 1, 500)
clocks, clock = TimeEmbedding(512)(times), TimeEmbedding(512)(torch.tensor([0.5]))[0]
likeness = {
    "Lab 4's clocks": (clocks @ clock / 256, GREY, "-"),
    "Fourier features": (embed(times, frequency) @ embed(torch.tensor([0.5]), frequency)[0] / 256, BLUE, "-"),
    "many of them: a Gaussian": ((-2 * math.pi**2 * (times - 0.5) ** 2).exp(), "black", ":"),
}
_, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
for name, (values, color, line) in likeness.items():
    ax.plot(times, values, line, color=color, label=name)
ax.set(xlabel="t", ylabel="likeness of t and 0.5")
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# **Look:** Lab 4's clocks have a needle at 0.5: each level is somebody else. Fourier features are a hill. A network on
# top of them is smooth in $t$ without being told.
#
# The dotted curve is exact: the mean of $\cos 2\pi w d$ over $w \sim \mathcal N(0, 1)$ is $e^{-2 \pi^2 d^2}$. With 256
# frequencies you come near it.

# %% [markdown]
# ## 2. What should the network say?
#
# ### Exercise 5.4: The velocity
#
# In Lab 4 the network inside said a *velocity*, and we asked you to believe us. Here it is. Time is continuous now, and
# the schedule is a quarter of a turn:
#
# $$\alpha = \cos\frac{\pi t}{2}, \qquad \sigma = \sin\frac{\pi t}{2}, \qquad
# x_t = \alpha\, x_0 + \sigma\, \varepsilon, \qquad v = \alpha\, \varepsilon - \sigma\, x_0.$$
#
# As $t$ runs, $x_t$ turns from the picture to the noise, and $v$ is its derivative with respect to the angle: where it
# is heading. This $v$ is what the network is trained to say. See [The velocity](../../book/guidance.md#v-prediction).


# %% solution="v_target"
def v_target(x0, t, noise):
    """The pair (x_t, v), each like x0 (B, ...), which may be points or pictures.

    t (B,) are the times, each for its own sample; noise is like x0.
    """
    ### BEGIN SOLUTION
    angle = (math.pi / 2 * t).reshape(-1, *[1] * (x0.ndim - 1))
    cos, sin = angle.cos(), angle.sin()
    return cos * x0 + sin * noise, cos * noise - sin * x0
    ### END SOLUTION


# %% tests="v_target_test" points=2
check("guidance.v_target", v_target)
### BEGIN HIDDEN TESTS
grade("guidance.v_target", v_target)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Four products and a plus and a minus. The work is in the shapes: `(B,)` times must multiply `(B, ...)` samples.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `[1] * (x0.ndim - 1)` is a list of as many ones as `x0` has dimensions after the first. `t.reshape(-1, *ones)` uses
# it.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Reshape the angle `math.pi / 2 * t` first, then take its `.cos()` and `.sin()`, and write down both formulas.
#
# </details>

# %%
torch.manual_seed(0)
target = working("guidance.v_target", globals())
times = torch.tensor([0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.98])
same = (len(times), 3, 32, 32)
states, velocities = target(real[3].expand(same), times, torch.randn(1, 3, 32, 32).expand(same))
image_grid(
    torch.cat([states, velocities]),
    alt="A star that turns into noise. Below it the velocity: noise that turns into the star's negative.",
    columns=len(times),
    titles=[f"t = {t:.2f}" for t in times.tolist()],
    rows=["x", "v"],
    zoom=80,
)

# %% [markdown]
# **Look:** at the left $x$ is the picture and $v$ the noise; at the right $x$ is the noise and $v$ the picture, with
# its sign turned. So the network is always asked for what it *cannot* simply read off.
#
# A network that says the noise is asked for nothing at the right end. One that says the picture is asked for nothing at
# the left end.

# %% [markdown]
# ### Exercise 5.5: Four ways to say the same
#
# Data, noise, velocity, score: with $x$ at hand, each of them gives the other three. Solve the two lines of Exercise
# 5.4 for $x_0$ and $\varepsilon$ (remember $\alpha^2 + \sigma^2 = 1$), and add
#
# $$\text{score} = -\frac{\varepsilon}{\sigma}.$$
#
# The network said `out`, and `kind` says which of the four that is. You return all four.
# [More on conversions](../../book/guidance.md#conversions).


# %% solution="convert"
def convert(kind, out, x, alpha, sigma):
    """The tuple (x0, eps, v, score), each like x (B, ...).

    kind is "eps", "x0", "v" or "score". alpha and sigma are tensors that
    multiply x as they are; alpha^2 + sigma^2 = 1, and neither is 0.
    """
    ### BEGIN SOLUTION
    if kind == "x0":
        data = out
    elif kind == "v":
        data = alpha * x - sigma * out
    else:
        data = (x - sigma * (out if kind == "eps" else -sigma * out)) / alpha
    eps = (x - alpha * data) / sigma
    return data, eps, alpha * eps - sigma * data, -eps / sigma
    ### END SOLUTION


# %% tests="convert_test" points=2
check("guidance.convert", convert)
### BEGIN HIDDEN TESTS
grade("guidance.convert", convert)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Not twelve formulas: bring everything to one of the four first, then go on from there.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Through the data, say. From eps, solve $x = \alpha x_0 + \sigma \varepsilon$. From the score, get eps first. From $v$:
# what is $\alpha x - \sigma v$?
#
# </details>
# <details><summary>Hint 3</summary>
#
# $\alpha x - \sigma v = (\alpha^2 + \sigma^2)\, x_0$. Once you have the data, `eps` is `(x - alpha * data) / sigma`,
# and the other two are formulas of this page.
#
# </details>

# %%
torch.manual_seed(0)
say = working("guidance.convert", globals())
x0, noise = real[:50], torch.randn_like(real[:50])
kinds = {"x0": (GREEN, "-."), "eps": (ORANGE, "--"), "v": (BLUE, "-"), "score": (PINK, ":")}
times = torch.linspace(0.02, 0.98, 49)
wrong = {kind: [] for kind in kinds}
for t in times:
    alpha, sigma = schedule.at(t, x0)
    x = alpha * x0 + sigma * noise
    for kind, out in zip(("x0", "eps", "v", "score"), say("x0", x0, x, alpha, sigma), strict=True):
        slip = 0.01 * out.square().mean().sqrt() * torch.randn_like(out)  # the network is wrong by one per cent
        said = say(kind, out + slip, x, alpha, sigma)
        wrong[kind].append([(a - b).square().mean().sqrt() for a, b in zip(said, (x0, noise), strict=False)])

_, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained", sharey=True)
for ax, name, i in zip(axes, ("the picture", "the noise"), (0, 1), strict=True):
    for kind, (color, line) in kinds.items():
        ax.semilogy(times, [errors[i] for errors in wrong[kind]], line, color=color, lw=2, label=f"says {kind}")
    ax.set(xlabel="t", title=f"error of {name}", ylim=(1e-4, 1))
axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Each network is wrong by one per cent of what it says, at all times. What does that do to the picture, and to the
# noise, that we work out from it?
#
# **Look:** whoever says the noise (or the score, which is the noise on another scale) is lost at the right end: there
# the error is divided by a small $\alpha$. Whoever says the picture is lost at the left end, in the noise. The velocity
# is the only one that is good at both. Guidance multiplies errors, so this will matter.

# %% [markdown]
# ## 3. Guidance
#
# ### Exercise 5.6: What we want, exactly
#
# Start with something that can be worked out. The classes are Gaussians $\mathcal N(m_c,\, s^2 I)$, all equally likely,
# and $y$ is the class we ask for. By Bayes' rule
#
# $$\log p(x \mid y) = \log p(x) + \log p(y \mid x) + \text{const}.$$
#
# *Guidance* takes the second part more seriously than Bayes does: it counts $\text{scale}$ times ($w$ in the
# chapter). The gradient of
#
# $$\log p(x) + \text{scale} \cdot \log p(y \mid x)$$
#
# with respect to $x$ is what you write. It needs two scores. Of one Gaussian: $(m_y - x) / s^2$. Of the mixture: the
# mean of all classes' scores, each with the weight $p(c \mid x)$, how likely $x$ came from it.
# [The derivation](../../book/guidance.md#guidance).


# %% solution="guided_score"
def guided_score(x, y, means, std, scale):
    """The gradient at each x: (B, D).

    x (B, D) are points, y (B,) the classes asked for, means (K, D) the m_c, std
    the number s.
    """
    ### BEGIN SOLUTION
    distance2 = (x[:, None] - means).square().sum(-1)  # (B, K)
    likely = (-distance2 / (2 * std**2)).softmax(dim=1)  # p(c | x)
    told, untold = (means[y] - x) / std**2, (likely @ means - x) / std**2
    return untold + scale * (told - untold)
    ### END SOLUTION


# %% tests="guided_score_test" points=3
check("guidance.guided_score", guided_score)
### BEGIN HIDDEN TESTS
grade("guidance.guided_score", guided_score)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# You need no gradient of $\log p(y \mid x)$. Bayes' rule says it is the difference of two scores that you know.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $p(c \mid x)$ is a softmax over the classes of $-|x - m_c|^2 / (2 s^2)$. `x[:, None] - means` is `(B, K, D)`: all the
# differences.
#
# </details>
# <details><summary>Hint 3</summary>
#
# As the weights sum to 1, the mixture's score is `(weights @ means - x) / std**2`. The class's is
# `(means[y] - x) / std**2`. Begin at the mixture's and go `scale` times the way to the class's.
#
# </details>

# %%
guided = working("guidance.guided_score", globals())
means = torch.tensor([[1.0, 0.0], [-1.0, 0.8], [-1.0, -0.8]], dtype=torch.float64)
std = 0.65
everything, right = GaussianMixture(means, std), GaussianMixture(means[:1], std)
side = torch.linspace(-3, 3, 121, dtype=torch.float64)
grid = torch.cartesian_prod(side, side)

_, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, scale in zip(axes, (0, 1, 5), strict=True):
    asked = torch.zeros(20 * 20, dtype=torch.long)
    score_field(lambda x: guided(x, asked, means.to(x), std, scale), ax, title=f"scale {scale}")  # noqa: B023
    log_p = everything.log_prob(grid)
    tilted = (log_p + scale * (right.log_prob(grid) - log_p)).reshape(121, 121).T  # up to a constant
    ax.contour(side, side, (tilted - tilted.max()).exp(), levels=[0.1, 0.5, 0.9], colors=ORANGE, linewidths=1.2)
    ax.plot(*means.T, "k+", ms=8)
plt.show()

# %% [markdown]
# We ask for the class on the right. Orange: the heights of $p(x)\, p(y \mid x)^\text{scale}$. Crosses: the three means.
#
# **Look:** at scale 0 the arrows lead to any class. At 1 they all lead straight to the right one, from everywhere. At 5
# the hill has moved: past the mean of the class, away from the others, and it is steeper where they are near. Guidance
# asks for what is *unmistakable*, and that is not the same as typical.

# %% [markdown]
# ### Exercise 5.7: Classifier-free guidance
#
# A network has no $p(y \mid x)$. But it was trained with dropped labels (Exercise 4.5), so it gives both: the
# prediction for the class $y$, and for the null class, the label $-1$. Their difference stands for the gradient of
# $\log p(y \mid x)$. At scale 0 you return the second, at scale 1 the first, and otherwise a point of the straight line
# through both. Beyond 1 it leads past the class.
#
# It does not matter whether the network says noise, data or velocity: at a given $x$ they are all
# the same up to a factor and a shift. See [Guidance](../../book/guidance.md#guidance).


# %% solution="cfg"
def cfg(net, x, t, y, scale):
    """The guided prediction, like x (B, ...).

    net(x, t, y) is a prediction for times t (B,) and labels y (B,), int64.
    """
    ### BEGIN SOLUTION
    untold = net(x, t, torch.full_like(y, -1))
    return untold + scale * (net(x, t, y) - untold)
    ### END SOLUTION


# %% tests="cfg_test" points=2
check("guidance.cfg", cfg)
### BEGIN HIDDEN TESTS
grade("guidance.cfg", cfg)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# It is the last line of Exercise 5.6, with a network in place of two formulas.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.full_like(y, -1)` are the labels of the null class. Two calls of `net` will do. (One call with a doubled batch
# is faster on a GPU; in Exercise 5.11 you meet one.)
#
# </details>
# <details><summary>Hint 3</summary>
#
# A straight line that begins at $a$ and is at $b$ for scale 1: $a + \text{scale}\,(b - a)$. Which of the two is $a$?
#
# </details>

# %% [markdown]
# First on the three Gaussians. `mixture_net` is the best network there can be for them: it says the exact $v$. The
# sampler is DPM-Solver++(2M) of Lab 4, from noise to data.


# %%
@torch.no_grad()
def draw(net, x, y, scale, n_steps=8, limit=lambda x0: x0):
    """Samples of the classes y (B,) from noise x (B, ...), guided by your function; the network says v."""

    def denoise(x, t):
        v = guide(net, x, torch.full((len(x),), t, dtype=x.dtype), y, scale)
        return limit(say("v", v, x, *schedule.at(t, x))[0])  # limit: what we know of x0, if anything

    *_, x = dpmpp_2m(denoise, schedule, x, schedule.timesteps(n_steps))
    return x


guide = working("guidance.cfg", globals())
torch.manual_seed(0)
start, asked = torch.randn(1500, 2, dtype=torch.float64), torch.zeros(1500, dtype=torch.long)
scales = [0, 1, 2, 4]
points = [draw(mixture_net(means, std), start, asked, scale, n_steps=40) for scale in scales]
colors = [GREY, BLUE, ORANGE, ORANGE]
scatter_row(points, titles=[f"scale {s}" for s in scales], truth=everything, color=colors, limit=4)
for scale, x in zip(scales[1:], points[1:], strict=True):
    print(f"scale {scale}: mean {x[:, 0].mean():.2f} (the class: 1), standard deviation {x[:, 0].std():.2f} ({std})")

# %% [markdown]
# **Look:** at 0 and 1 the points lie where they should. At 2 and 4 hardly any is left where another class could be
# meant. But they also leave the class itself: they go further out than any orange hill of the last picture, and crowd
# together. The network is exact, so this is not an error of it. It is what guidance does. (In Exercise 5.12 you say
# why.)
#
# Now the shapes, which takes about twenty seconds. The starting noise is the same in all rows.

# %%
torch.manual_seed(0)
y = torch.arange(100) % 10
start = torch.randn(100, 3, 32, 32)
classifier = load_pretrained("shapes_classifier")
scales, drawn, agreement = [0, 1, 2, 4, 8], {}, {}
for scale in scales:
    drawn[scale] = draw(model.net, start, y, scale, limit=lambda x0: x0.clamp(-1, 1))
    agreement[scale] = classifier_accuracy(classifier, drawn[scale], y)

image_grid(
    torch.cat([drawn[scale][:10] for scale in scales]),
    alt="Five rows of ten shapes. At scale 0 any shape comes; with larger scales the right one more and more often, "
    "in other colours.",
    columns=10,
    titles=SHAPES,
    rows=[f"scale {scale}: {agreement[scale]:.0%}" for scale in scales],
)

# %% [markdown]
# The percentage is the *agreement* of Lab 4: how many of 100 pictures a classifier takes for what was asked. It has
# seen real shapes only.
#
# **Look:** at 0 it is about one in ten, chance. At 1 the labels are heard; beyond, agreement climbs as far as this
# network can take it. Go down a column: from where on would *you* name the shape? And what becomes of the colours, of
# the ground that fades, of the edges? The label never spoke of those.
#
# **What looks odd:** the rows resemble each other, down to the place of the shape.
#
# <details><summary>An answer</summary>
#
# They share their noise, and nothing else is random: the sampler draws none. Large patches of the noise decide early on
# what will be light or dark, and where. All that the scale changes is how the way goes on from there.
#
# </details>

# %% [markdown]
# ### Exercise 5.8: Dynamic clipping
#
# At large scales the guess $\hat x_0$ leaves $[-1, 1]$. Clip it, as in Lab 4? Then whole regions end at exactly $\pm 1$
# and lose what was drawn in them. *Dynamic* clipping (Saharia et al., 2022) turns the volume down instead. For each
# sample, $s$ is a high quantile of $|\hat x_0|$, but at least 1. Then
#
# $$\hat x_0 \leftarrow \frac{\text{clip}(\hat x_0,\, -s,\, s)}{s}.$$
#
# See [Clipping](../../book/guidance.md#clipping).


# %% solution="dynamic_clip"
def dynamic_clip(x0, q):
    """x0 (B, ...), clipped and divided, each sample by its own s.

    s is the quantile at q, in (0, 1], of all entries of |x0| of that sample.
    """
    ### BEGIN SOLUTION
    size = x0.abs().flatten(1).quantile(q, dim=1).clamp(min=1)  # (B,)
    size = size.reshape(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-size, size) / size
    ### END SOLUTION


# %% tests="dynamic_clip_test" points=2
check("guidance.dynamic_clip", dynamic_clip)
### BEGIN HIDDEN TESTS
grade("guidance.dynamic_clip", dynamic_clip)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# If each sample were one long row, the quantile would be along it. What becomes of a picture that is within the range?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `.flatten(1)` makes the rows, `.quantile(q, dim=1)` takes one number of each. "At least 1" is `.clamp(min=1)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The numbers are `(B,)`; as in Exercise 5.4, reshape them to `(B, 1, ..., 1)`. `x0.clamp(-s, s)` takes tensors. Then
# divide.
#
# </details>

# %%
dynamic = working("guidance.dynamic_clip", globals())
limits = {
    "not clipped": lambda x0: x0,
    "clipped": lambda x0: x0.clamp(-1, 1),
    "dynamically": lambda x0: dynamic(x0, 0.9),
}
loud = {name: draw(model.net, start[:10], y[:10], 8, limit=limit) for name, limit in limits.items()}
for name, x in ({"real shapes": real} | loud).items():
    print(f"{name:12} {(x.abs() >= 0.999).double().mean():4.0%} of the values at or beyond the ends")

image_grid(
    torch.cat([*loud.values()]),
    alt="Three rows of shapes at scale 8. Unclipped and clipped ones are glaring; dynamically clipped ones are milder.",
    columns=10,
    titles=SHAPES,
    rows=[*loud],
)

# %% [markdown]
# **Look:** scale 8 is far too much, on purpose. What comes out unclipped lies beyond the range (the picture cuts it
# off). Clipping keeps the range by pressing to its ends whatever lies beyond. The third row divides instead: it has
# fewer values at the ends than real shapes have, and milder colours. (The numbers count how many values lie there,
# not which ones: that "clipped" comes close to the real shapes does not make its colours theirs.)
#
# It mends the colours. It does not make a wrong shape right, and it brings no variety back.

# %% [markdown]
# ## 4. How much chance?
#
# ### Exercise 5.9: DDIM with eta
#
# In Lab 3 you wrote DDIM, which draws no noise, and ancestral sampling, which draws new noise in each step. Both are
# the same sampler with another $\eta$, 0 or 1. From $\bar\alpha$ to the next, less noisy $\bar\alpha'$ (Song et al.
# 2021, equations 12 and 16):
#
# $$\text{std} = \eta\, \sqrt{\frac{1 - \bar\alpha'}{1 - \bar\alpha} \left(1 - \frac{\bar\alpha}{\bar\alpha'}\right)},
# \qquad
# x' = \sqrt{\bar\alpha'}\; \hat x_0 + \sqrt{1 - \bar\alpha' - \text{std}^2}\;\; \hat\varepsilon + \text{std}\; z.$$
#
# Here $\bar\alpha = \alpha^2$, and $\hat\varepsilon$ is the noise that goes with the guess $\hat x_0$. (What the paper
# calls $\sigma$ is `std` here and $\tau$ in the chapter; our $\sigma$ is taken.) See
# [DDIM with eta](../../book/guidance.md#ddim-eta).


# %% solution="ddim_step"
def ddim_step(x0_hat, x, alpha_bar, alpha_bar_next, eta, z):
    """x at the next time, like x (B, ...).

    x0_hat and z are like x. alpha_bar (here) and alpha_bar_next (there) are
    tensors without dimensions; the last step goes to alpha_bar_next = 1.
    """
    ### BEGIN SOLUTION
    fresh = eta * ((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)).sqrt()
    old_noise = (x - alpha_bar.sqrt() * x0_hat) / (1 - alpha_bar).sqrt()
    kept = (1 - alpha_bar_next - fresh**2).sqrt()
    return alpha_bar_next.sqrt() * x0_hat + kept * old_noise + fresh * z
    ### END SOLUTION


# %% tests="ddim_step_test" points=3
check("guidance.ddim_step", ddim_step)
### BEGIN HIDDEN TESTS
grade("guidance.ddim_step", ddim_step)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Two noises, old and new. Their variances must sum to $1 - \bar\alpha'$, whatever $\eta$ is.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\hat\varepsilon$ comes from $x = \sqrt{\bar\alpha}\, \hat x_0 + \sqrt{1 - \bar\alpha}\, \hat\varepsilon$, all at the
# *old* time. You have solved it in Exercise 5.5.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Four lines: `std` (with `eta` before the root), the old noise, the root of `1 - alpha_bar_next - std**2`, and the sum.
#
# </details>


# %%
@torch.no_grad()
def draw_ddim(denoise, x, n_steps, eta):
    """Samples from noise x (B, ...) by your step; denoise(x, t) is the guess of the data."""
    times = schedule.timesteps(n_steps)
    alpha_bar = schedule.alpha(times) ** 2
    for t, here, there in zip(times.tolist(), alpha_bar, alpha_bar[1:], strict=False):
        x = step(denoise(x, t), x, here, there, eta, torch.randn_like(x))
    return x


step = working("guidance.ddim_step", globals())
torch.manual_seed(0)
again = {"eta 0": 0.0, "eta 0, again": 0.0, "eta 1": 1.0, "eta 1, again": 1.0}
image_grid(
    torch.cat([draw_ddim(lambda x, t: model(x, t, y[:10]), start[:10], 12, eta) for eta in again.values()]),
    alt="Four rows of ten shapes from the same noise. The two with eta 0 are equal; the two with eta 1 differ.",
    columns=10,
    titles=SHAPES,
    rows=[*again],
)

# %% [markdown]
# **Look:** all four rows start from the same noise. With $\eta = 0$ that decides everything: draw again, and the same
# pictures come. With $\eta = 1$ each way down is another one.
#
# Which is better? On the three Gaussians we can measure it, with exact guesses and without guidance. Two more samplers
# join in, at the same number of calls of the network. (Heun's method calls twice a step, so it makes half as many.)

# %%
torch.manual_seed(0)
exact = everything.denoiser(schedule)
samplers = {
    "DDIM, eta = 1": lambda x, calls: draw_ddim(exact, x, calls, 1.0),
    "DDIM, eta = 0": lambda x, calls: draw_ddim(exact, x, calls, 0.0),
    "Heun": lambda x, calls: [*heun(exact, schedule, x, schedule.timesteps((calls + 1) // 2))][-1],
    "DPM-Solver++": lambda x, calls: [*dpmpp_2m(exact, schedule, x, schedule.timesteps(calls))][-1],
}
counts, truth, begin = [3, 5, 9, 17, 33, 65], everything.sample(20_000), torch.randn(6000, 2)
_, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
styles = zip((PINK, ORANGE, GREEN, BLUE), ("o--", "s-", "^-", "v-"), strict=True)
for (name, sampler), (color, line) in zip(samplers.items(), styles, strict=True):
    away = [sliced_wasserstein(sampler(begin, calls), truth, n_projections=16) for calls in counts]
    ax.plot(counts, away, line, color=color, label=name)
floor = sliced_wasserstein(everything.sample(6000), truth, n_projections=16)
ax.axhline(floor, color="black", lw=0.8, ls=":", label="exact draws")
ax.set(xscale="log", yscale="log", xlabel="calls of the network", ylabel="distance")
ax.minorticks_off()
ax.set_xticks(counts, counts)
ax.set_yticks([0.03, 0.1, 0.3], ["0.03", "0.1", "0.3"])
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *Distance* is the sliced Wasserstein distance of Lab 3, to 20,000 exact draws. 6,000 exact draws are not at 0 either:
# that is the dotted line.
#
# **Look:** new noise costs steps: at few calls $\eta = 1$ is the worst. The two second-order solvers reach the dotted
# line first. What a sampler gets wrong at few steps is *its* mistake, not the network's; here the network is exact.
#
# **Think:** when could $\eta = 1$ be the better choice?
#
# <details><summary>An answer</summary>
#
# When the network is *not* exact, and you have steps to spare. New noise covers old errors: each step forgets a part of
# what went wrong before. With $\eta = 0$ errors are carried to the end. Karras et al. (2022) found that noise
# helps some networks and not others: where one errs much, there is much to forget. With few steps it costs more than it
# mends.
#
# </details>

# %% [markdown]
# ## 5. A ruler
#
# ### Exercise 5.10: The distance between two Gaussians
#
# How good are 100 pictures? *Agreement* sees only the class. We also want to know whether they are as varied as real
# ones. The usual ruler takes the classifier's *features*, numbers that it uses to tell the classes apart, and pretends
# that they are Gaussian. For two Gaussians the distance is known (it is the squared Wasserstein-2 distance):
#
# $$|m_1 - m_2|^2 + \text{tr}\left(C_1 + C_2 - 2\, (C_1 C_2)^{1/2}\right).$$
#
# The root is a *matrix* root: $R$ with $R R = C_1 C_2$. You need only its trace, the sum of its eigenvalues. These are
# the roots of the eigenvalues of $C_1 C_2$, and $C_1^{1/2}\, C_2\, C_1^{1/2}$ has the same ones. That one is symmetric,
# so that nothing complex can come out.
#
# With the features of a certain Google network this is the *FID*. With ours it is not, so we just say Fréchet distance.
# See [The Fréchet distance](../../book/guidance.md#frechet-distance).


# %% solution="frechet_distance"
def frechet_distance(mean1, cov1, mean2, cov2):
    """The distance, a float64 tensor without dimensions.

    The means are (D,), the covariances (D, D), all float64. A covariance may be
    singular, and a 0 among its eigenvalues may come out as -1e-17.
    """
    ### BEGIN SOLUTION
    values, vectors = torch.linalg.eigh(cov1)
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T  # half @ half = cov1
    overlap = torch.linalg.eigvalsh(half @ cov2 @ half).clamp(min=0).sqrt().sum()
    return (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap
    ### END SOLUTION


# %% tests="frechet_distance_test" points=3
check("guidance.frechet_distance", frechet_distance)
### BEGIN HIDDEN TESTS
grade("guidance.frechet_distance", frechet_distance)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# In one dimension it is $(m_1 - m_2)^2 + (s_1 - s_2)^2$. Check that you see why, and that yours gives it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `values, vectors = torch.linalg.eigh(cov)` gives $C = V \,\text{diag}(\text{values})\, V^\top$. Its root has the roots
# of the values in the same place. `.clamp(min=0)` before each root.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `vectors * roots @ vectors.T` is the root of `cov1`. Put it on both sides of `cov2`; of that, the sum of the roots of
# `torch.linalg.eigvalsh(...)`. It is taken away twice.
#
# </details>


# %%
def moments(features):
    """Mean and covariance of features (N, D), float64."""
    return features.double().mean(0), features.double().T.cov()


def spread(features, y):
    """How varied features (N, D) are within their classes y (N,): the variance, in all directions together."""
    return torch.stack([features[y == c].var(0).sum() for c in y.unique()]).mean().item()


ruler = working("guidance.frechet_distance", globals())
real_features = classifier_features(classifier, real)
reference, others = real_features[:1000], real_features[1000:]  # both have all ten classes in turn
features = {scale: classifier_features(classifier, x) for scale, x in drawn.items()}
lines = {
    "agreement": ([agreement[s] for s in scales], classifier_accuracy(classifier, real[1000:1100], y)),
    "spread within a class": ([spread(features[s], y) for s in scales], spread(reference, real_labels[:1000])),
    "Fréchet distance": (
        [ruler(*moments(features[s]), *moments(reference)) for s in scales],
        ruler(*moments(others[:100]), *moments(reference)),
    ),
}
_, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
for ax, (name, (values, of_real)) in zip(axes, lines.items(), strict=True):
    ax.plot(scales, values, "o-", color=BLUE, label="yours")
    ax.axhline(of_real, color="black", lw=0.8, ls=":", label="real shapes")
    ax.set(xlabel="scale", title=name, ylim=(0, None), xticks=scales)
axes[2].set(yscale="log", ylim=(0.01, 10))  # real shapes are so near each other that their line would lie on the axis
axes[0].legend(fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# These are the 500 pictures of Exercise 5.7, 100 a scale.
#
# **Look:** read each curve against its dotted line. Agreement climbs with the scale. The spread says how much pictures
# of one class differ in what the classifier looks at. *Below* the line would mean that variety is missing. *Above* it,
# there is a kind of variety that real shapes don't have: broken outlines, half a star. Here all scales lie above:
# such faults outweigh what variety guidance takes away.
#
# The Fréchet distance sees all of it at once: wrong classes, missing variety, faults, and the odd colours of large
# scales, as far as the features hold them. So its best scale need not be that of agreement. Which would you take?
#
# **What looks odd:** *real* shapes, here a hundred others, are not at distance 0.

# %%
counts = [30, 50, 100, 200, 500, 1000]
floor = [ruler(*moments(others[:n]), *moments(reference)) for n in counts]
_, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
ax.loglog(counts, floor, "ko:", label="real shapes against real shapes")
ax.loglog(100, lines["Fréchet distance"][0][scales.index(2)], "s", color=BLUE, label="yours, scale 2, n = 100")
ax.set(xticks=counts, xticklabels=counts, xlabel="pictures n", ylabel="Fréchet distance")
ax.minorticks_off()
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** the fewer the pictures, the further real is from real. Few points have a covariance of their own, and the
# distance takes that for a difference. So a distance says nothing without its $n$, and two may be compared at the same
# $n$ only.

# %% [markdown]
# ## 6. The same on photographs
#
# Nothing that you wrote knows what a shape is. Here is the course's other network: ten times the size, trained on the
# 50,000 photographs of CIFAR-10. Your guidance, your conversion, your clipping; the same noise in both rows.

# %%
torch.manual_seed(0)
photographer, noise = load_pretrained("cifar10"), torch.randn(10, 3, 32, 32)
photographs = {
    f"scale {scale}": draw(photographer.net, noise, y[:10], scale, n_steps=10, limit=lambda x0: dynamic(x0, 0.95))
    for scale in (1, 3)
}
image_grid(
    torch.cat([*photographs.values()]),
    alt="Two rows of ten small pictures that the network drew, from airplane to truck. In the lower row, at scale 3, "
    "the colours are stronger; in both, few objects can be named for sure.",
    columns=10,
    titles=CIFAR10_CLASSES,
    rows=[*photographs],
    zoom=72,
)

# %% [markdown]
# **Look:** cover the titles. In which row can you name more of them? (Not all, in either.) And which row looks more
# like photographs? Those are two questions, and the scale trades one for the other.
#
# The network trained on processors, for hours in place of days, and you took ten steps. The chapter has more steps, and
# its numbers from far more pictures.

# %% [markdown]
# ## 7. Find the bug
#
# ### Exercise 5.11: The louder, the less
#
# A guided sampler as one finds it: deterministic DDIM, both predictions in one call with a doubled batch, all formulas
# those of this lab. On photographs it "works, but is hard to tune": scales above 1 give strange colours, and the
# wrong things. Ask the oracle, as in Lab 4: three Gaussians, and the network that knows their $v$ exactly.


# %%
def broken_guidance(net, x, y, scale, times):
    null = torch.full_like(y, -1)
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        both = net(torch.cat([x, x]), torch.full((2 * len(x),), t), torch.cat([null, y]))
        conditional, unconditional = both.chunk(2)
        v = unconditional + scale * (conditional - unconditional)
        alpha, sigma = math.cos(math.pi / 2 * t), math.sin(math.pi / 2 * t)
        x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
        x = math.cos(math.pi / 2 * t_next) * x0 + math.sin(math.pi / 2 * t_next) * eps
    return x


def ask_the_oracle(sampler, scales=(0, 1, 3)):
    """Points of the class on the right, at several scales, from a guided sampler with the exact network."""
    torch.manual_seed(0)
    x, y = torch.randn(1000, 2, dtype=torch.float64), torch.zeros(1000, dtype=torch.long)
    points = [sampler(mixture_net(means, std), x, y, scale, schedule.timesteps(50)) for scale in scales]
    for scale, drawn in zip(scales, points, strict=True):
        right_class = (torch.cdist(drawn, means).argmin(1) == 0).double().mean()
        print(f"scale {scale}: mean {drawn[:, 0].mean():5.2f}, {right_class:.0%} nearest to the class asked for")
    scatter_row(points, titles=[f"scale {s}" for s in scales], truth=everything, color=ORANGE, limit=6)


ask_the_oracle(broken_guidance)

# %% [markdown]
# We asked for the class on the right. What *should* scale 0 give, and what scale 1? Copy the program into the cell
# below and mend it.


# %% solution="fix_the_guidance"
def fix_the_guidance(net, x, y, scale, times):
    """x_0 (B, ...), from x at times[0] by deterministic DDIM along the falling
    times, the last of which is 0.

    net(x, t, y) says v on the continuous cosine schedule. Guided, it is that of
    the null class at scale 0 and that of y at scale 1.
    """
    ### BEGIN SOLUTION
    null = torch.full_like(y, -1)
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        both = net(torch.cat([x, x]), torch.full((2 * len(x),), t), torch.cat([y, null]))
        conditional, unconditional = both.chunk(2)
        v = unconditional + scale * (conditional - unconditional)
        alpha, sigma = math.cos(math.pi / 2 * t), math.sin(math.pi / 2 * t)
        x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
        x = math.cos(math.pi / 2 * t_next) * x0 + math.sin(math.pi / 2 * t_next) * eps
    return x
    ### END SOLUTION


# %% tests="fix_the_guidance_test" points=3
check("guidance.fix_the_guidance", fix_the_guidance)
### BEGIN HIDDEN TESTS
grade("guidance.fix_the_guidance", fix_the_guidance)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# At the two ends you know the answer. Which class, or classes, should scale 0 give? Which scale gives them here?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The formulas are right (you have checked each of them in this lab). So look at what is put into them: which half of
# the doubled batch is which?
#
# </details>
# <details><summary>Hint 3</summary>
#
# The labels go in as null class first, then `y`. The halves come out under two names. One of the two lines has to give
# way.
#
# </details>

# %%
ask_the_oracle(working("guidance.fix_the_guidance", globals()))

# %% [markdown]
# **Look:** now scale 0 gives all classes, scale 1 the right one, and 3 too much of it, as in Exercise 5.7.
#
# The broken one did $1 - \text{scale}$: at scale 0 it was right about the class, and from 1 on each turn of the knob
# led away from what was asked for. With a trained network that looks like poor taste. *Check the two ends*: it costs a
# minute, and no training.

# %% [markdown]
# ## 8. In your own words
#
# ### Exercise 5.12: Out there (3 points)
#
# Two classes, $\mathcal N(\pm 1,\, 0.5^2)$ along the horizontal axis. We ask for the right one at scale 3, so the
# density we *want* is $p(x)\, p(y \mid x)^3$, up to a constant. The cell shows three ways to sample, all with exact
# scores:
#
# - *Langevin* steps at $t = 0$ along the guided score of Exercise 5.6;
# - the *guided sampler*, as always: guided at all times;
# - the guided sampler with guidance *only below $t = 0.5$*, and the plain class before that.

# %%
torch.manual_seed(0)
pair = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
both_classes, class_1 = GaussianMixture(pair, 0.5), GaussianMixture(pair[1:], 0.5)
net, asked = mixture_net(pair, 0.5), torch.ones(3000, dtype=torch.long)
x = start = torch.randn(3000, 2, dtype=torch.float64)
for _ in range(400):
    x = x + 0.01 * guided(x, asked, pair, 0.5, 3) + math.sqrt(2 * 0.01) * torch.randn_like(x)
ways = {
    "Langevin": x,
    "guided sampler": draw(net, start, asked, 3, n_steps=60),
    "only below 0.5": draw(lambda x, t, y: net(x, t, torch.where(t < 0.5, y, 1)), start, asked, 3, n_steps=60),
}

side = torch.linspace(-2, 3.5, 1000, dtype=torch.float64)
line = torch.stack([side, torch.zeros_like(side)], dim=1)
wanted = (3 * class_1.log_prob(line) - 2 * both_classes.log_prob(line)).exp()  # p(y | x) is p(x | y) over p(x)
wanted = wanted / wanted.sum() / (side[1] - side[0])
mean_wanted = (wanted * side).sum() / wanted.sum()
std_wanted = ((wanted * (side - mean_wanted) ** 2).sum() / wanted.sum()).sqrt()
print(f"{'wanted':15} mean {mean_wanted:.2f}, standard deviation {std_wanted:.2f}")
_, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
ax.plot(side, wanted, "k", lw=1, label="wanted")
for (name, x), color in zip(ways.items(), (GREY, ORANGE, BLUE), strict=True):
    ax.hist(x[:, 0].numpy(), np.linspace(-2, 3.5, 111), density=True, histtype="step", lw=1.5, color=color, label=name)
    print(f"{name:15} mean {x[:, 0].mean():.2f}, standard deviation {x[:, 0].std():.2f}")
ax.set(xlabel="horizontal position", yticks=[])
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

v = guide(net, start, torch.full((3000,), 0.999), asked, 3)
first = say("v", v, start, *schedule.at(0.999, start))[0]
print(f"the guided sampler's first guess of x0, from noise alone: mean {first[:, 0].mean():.2f}")

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** Derive the first guess of the guided sampler for any scale, from the means alone. What is odd about it?
#
# **b)** At each time the guided score is the gradient of $\log p_t(x) + 3 \log p_t(y \mid x)$, exactly. The scores are
# right at all times, and yet the samples are not distributed as we want. Which step of the argument fails? Why does
# Langevin, with the same formula, get it right?
#
# **c)** Why is the third way closer? Which of the good effects of guidance on real pictures might it lose, and what
# does it save?

# %% [markdown] essay="out_there" points=3
# **a) 1 point.** In pure noise x says nothing about x0, so the best guess is a mean: of all the data without a label,
# $\bar m = 0$, and of the class with it, $m_y = 1$. Guided, $\bar m + \text{scale}\,(m_y - \bar m)$: here that is 3.
# Odd: there is next to no data of any class so far out (four standard deviations from the class's mean), so a guess
# outside the data directs all early steps. Half a point for the 3 without the formula, or the formula without what is
# odd.
#
# **b) 1 point: half for each question.** The argument would be: a sampler that follows the scores of the noised
# versions of a density ends at that density. But the densities $p_t(x)\, p_t(y \mid x)^3$ are *not* the noised versions
# of $p_0(x)\, p_0(y \mid x)^3$: noising (a convolution) and taking a power don't commute. So these scores belong to no
# single process of noising, and no theorem says where the sampler ends. Langevin needs one density only, at $t = 0$,
# where the guided score is the right one; it corrects x until it is distributed as that score says, from any start.
# (What the sampler carries outwards early is not brought back late: where the class is certain, $p_t(y \mid x)$ is flat
# and the guided score is that of the class alone, whose flow keeps an outer point outer.)
#
# **c) 1 point: half for the reason, a quarter for each of the others.** Reason: at large t the two means differ by far
# more than the state tells, and the push outwards of a) happens there; below 0.5 the guesses lie near data, and
# guidance acts only on points between the classes, where it should. May lose: with a real network the class, and the
# layout, are decided early; guidance at high noise is what makes up for a network that hardly listens to its label
# there, so agreement may fall. Saves: variety, and the second call of the network in all steps without guidance.
# (Compare Kynkäänniemi et al. 2024, who guide in a middle interval only.)
#
# Typical wrong answers, no points: "the network is not trained enough" (it is exact); "too few steps" (with 600 it is
# the same); "Langevin adds noise and noise is always better"; "the scale is too large" without saying why it does that.

# %% [markdown]
# ### Exercise 5.13: The best score (3 points)
#
# Six candidates, measured with your ruler against the same 1,000 real shapes. Agreement and spread are as above; in the
# last line the labels were mixed up before we asked for agreement.

# %%
torch.manual_seed(0)
copied = torch.arange(100) % 10  # one real shape of each class, ten times
candidates = {
    "the 1,000 real shapes themselves": (real[:1000], real_labels[:1000]),
    "1,000 other real shapes": (real[1000:], real_labels[1000:]),
    "100 other real shapes": (real[1000:1100], real_labels[1000:1100]),
    "10 real shapes, 10 times each": (real[1000:1010][copied], y),
    "100 of yours, scale 1": (drawn[1], y),
    "the same, labels mixed up": (drawn[1], y[torch.randperm(100)]),
}
print(f"{'':34} Fréchet   agreement   spread")
for name, (pictures, labels) in candidates.items():
    found = classifier_features(classifier, pictures)
    numbers = ruler(*moments(found), *moments(reference)), classifier_accuracy(classifier, pictures, labels)
    print(f"{name:34} {abs(numbers[0]):7.2f}   {numbers[1]:9.0%}   {spread(found, labels):6.2f}")

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** The first line wins. Would you give it a prize for drawing? Which measurement would expose it, and why can no
# function of the two moments do that?
#
# **b)** A friend measured 5,000 pictures of his network and is far below your line for 100. He says that his network is
# better. What do the second and the third line say about that? How should the two of you compare?
#
# **c)** Two lines have the same distance and quite different agreement. Why is the ruler blind to that, although it
# uses the features of a *classifier*? And name a fault that neither the distance, nor agreement, nor spread would see.

# %% [markdown] essay="the_best_score" points=3
# **a) 1 point: half for the measurement, half for why.** No prize: it draws nothing new, it copies. Exposed by looking
# for the nearest neighbour of each picture among the training pictures (a distance in pixels or features that is 0, or
# far below that between real pictures), or by a distance to real pictures that were held back. The ruler compares
# a mean and a covariance of each set; a copy has the same ones, exactly, so the best possible value, and every other
# set of honest draws does worse by chance alone. Whoever minimises it is rewarded for memorising.
#
# **b) 1 point.** Lines two and three are the *same* source, real shapes, and differ only in n: the distance is too
# large on average, the more the fewer the pictures (the covariance of few points is noisy, and what is noise in it
# counts as difference). So 5,000 against 100 says nothing. Compare at the same n, with the same reference and the same
# features, and give the value of real pictures at that n as the floor; several seeds. Half a point for "same n" without
# the direction or the reason.
#
# **c) 1 point: half for each.** The features of all pictures are put into one heap, and its mean and covariance don't
# know which picture was asked for as what. Swapping labels moves no picture. Measured class by class (a distance for
# each class) it would be seen. A fault that none sees, one is enough: copies of training pictures; anything that the
# classifier ignores because it does not help to tell the classes (tones, faint noise, a fixed dot in a corner,
# sharpness here and there); whatever real features have beyond a mean and a covariance.
#
# Typical wrong answers, no points: "the Fréchet distance needs more dimensions"; "the first is best because real shapes
# are the best"; "take a larger scale"; "agreement should be higher, so train the classifier longer".

# %% [markdown]
# ## Done
#
# You built what turns a network that can draw into one that does as it is told: attention, the velocity, guidance, the
# clipping that goes with it, a sampler that draws as much noise as you like, and a ruler. And you know what each of
# them hides.
#
# **Hand in.** Restart the kernel and run all cells, save, and hand in this notebook under its name,
# `05_guidance.ipynb`. Each check above should be content. Grading runs the same exercises on other numbers.
#
# **Go on.** Guide in a middle interval of $t$ only, and see what the shapes make of it. Take a negative scale. Subtract
# another class in place of the null class. The chapter has the derivations, and a
# [quiz](../../book/guidance.md#guidance-quiz). Next you edit: the same networks, no more training.
