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
# # Lab 4: Digits out of noise
#
# By the end, you ask for a 7 and a 7 comes out of pure noise: from a U-Net whose parts you wrote, which you trained
# yourself, here, in about half a minute. Then you find three bugs that real programs have had, with a test that needs
# no training at all.
#
# **How it works**
#
# - Write the missing lines (mostly one to five), run the cell, run the check below it. Repeat as often as you like.
# - Look at the picture. It is drawn with *your* function once the check is content.
# - Stuck? Open the hints one at a time, or go on: until yours is right, the course's finished function stands in.
#
# **Time** about three hours to write; about a minute to run. No GPU, no network.
#
# Read it beside the chapter, [DDPM on MNIST](../../book/ddpm_mnist.md).

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.data import load_mnist
from course_utils.exercises import check, grade, working
from course_utils.metrics import classifier_accuracy
from course_utils.models import ResidualBlock, TimeEmbedding, UNet
from course_utils.plotting import BLUE, GREY, ORANGE, animate_images, image_grid
from course_utils.samplers import dpmpp_2m
from course_utils.schedules import CosineSchedule, LinearSchedule
from course_utils.training import batches, fit, load_pretrained

# %% [markdown]
# ## The data
#
# 4,500 handwritten digits to train on and 500 to test with, all real. Each is $28 \times 28$ pixels: a point in 784
# dimensions. Pixels run from $-1$ (paper) to $1$ (ink).
#
# In two dimensions the exact density stood behind every picture. Here nobody knows it. What we still know exactly
# comes at the end, when we look for bugs.

# %%
images, labels = load_mnist("train")  # (4500, 1, 28, 28) in [-1, 1] and (4500,)
test_images, test_labels = load_mnist("test")

image_grid(images[:20], alt="Two rows of handwritten digits from 0 to 9.", titles=labels[:20].tolist())

# %% [markdown]
# ## 1. Noise for pictures
#
# ### Exercise 4.1: The cosine schedule
#
# The linear schedule suits larger pictures. On small ones it destroys everything early, and then spends many
# levels on noise alone. The *cosine schedule* lets the signal fall more evenly:
#
# $$f(k) = \cos^2\!\left(\frac\pi2 \cdot \frac{k / T + s}{1 + s}\right), \qquad
# \beta_k = \min\left(1 - \frac{f(k)}{f(k - 1)},\; \beta_\text{max}\right), \qquad
# \bar\alpha_k = (1 - \beta_1) \cdots (1 - \beta_k).$$
#
# Without the minimum, the last $\beta$ would be 1 and $\bar\alpha_T = 0$: nothing to divide by.
# [More on the cosine schedule](../../book/ddpm_mnist.md#cosine-schedule).


# %% solution="cosine_alpha_bar"
def cosine_alpha_bar(T, s, beta_max):
    """The table of alpha_bar (T + 1,), float64, with alpha_bar[0] = 1.

    T is an int, at least 2; s > 0 is small; beta_max, just below 1, is the
    largest beta allowed.
    """
    ### BEGIN SOLUTION
    level = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((level + s) / (1 + s) * torch.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=beta_max)
    return torch.cat([f.new_ones(1), (1 - beta).cumprod(0)])
    ### END SOLUTION


# %% tests="cosine_alpha_bar_test" points=2
check("ddpm_mnist.cosine_alpha_bar", cosine_alpha_bar)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.cosine_alpha_bar", cosine_alpha_bar)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Four steps: the levels, $f$, the betas, their products. How many entries has each of the four tables?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.arange(T + 1, dtype=torch.float64)` are the levels. With `f[1:]` and `f[:-1]` you have every $f(k)$ beside
# its $f(k - 1)$. A minimum with a number is `.clamp(max=number)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# There are `T` betas, for $k = 1, \dots, T$. The running product (`.cumprod(0)`) of `1 - beta` has `T` entries; put a
# one in front of it with `torch.cat`.
#
# </details>

# %%
T = 200
tables = {
    "linear": LinearSchedule(T, 5e-4, 0.1).alpha_bar,  # the paper's betas, for 200 levels in place of 1,000
    "cosine": working("ddpm_mnist.cosine_alpha_bar", globals())(T, 0.008, 0.999),
}
_, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
for (name, table), color, line in zip(tables.items(), (GREY, BLUE), ("--", "-"), strict=True):
    ax.plot(np.linspace(0, 1, T + 1), table, line, color=color, label=name)
    print(f"{name}: from level {(table < 0.01).nonzero()[0].item()} of {T} on, less than 1 % of the variance is signal")
ax.set(xlabel="t = k / T", ylabel=r"$\bar\alpha_k$")
ax.legend()
plt.show()

# %%
torch.manual_seed(0)
alpha_bar = tables["cosine"]  # the one that we use from here on
levels = [0, 20, 50, 80, 110, 140, 170, T]
digit = images[labels == 3][:1]
noise = torch.randn_like(digit)
noisy = [table[k].sqrt() * digit + (1 - table[k]).sqrt() * noise for table in tables.values() for k in levels]
image_grid(
    torch.cat(noisy).float(),
    alt="A handwritten 3 under more and more noise, in two rows. With the linear schedule it is lost early, with the "
    "cosine schedule later.",
    columns=len(levels),
    titles=[f"k = {k}" for k in levels],
    rows=list(tables),
)

# %% [markdown]
# **Look:** in the upper row the 3 is gone after little more than half of the levels. All further levels look alike: a
# network can learn little there, and a sampler wastes its steps. In the lower row each level still takes something.

# %% [markdown]
# ## 2. The network, piece by piece
#
# The network sees a noisy picture and says which noise is in it. It is a *U-Net*: down to coarse maps, where it sees
# the whole digit at once, and up again to single pixels. You write three of its pieces.
#
# ### Exercise 4.2: Many clocks for one time
#
# How much noise is in the picture changes everything, so the network is told: $t = k / T$. But one number between 0
# and 1 is hard to work with; 0.50 and 0.51 look nearly equal to a network.
#
# So $t$ becomes a row of clocks, from fast hands to slow ones:
#
# $$\bigl(\sin w_1 t, \dots, \sin w_{n} t,\;\; \cos w_1 t, \dots, \cos w_{n} t\bigr), \qquad n = \text{dim} / 2,$$
#
# where $w_1 = 1000$, $w_n = 0.1$ and each $w_{i+1} / w_i$ is the same.
# [Why clocks?](../../book/ddpm_mnist.md#time-embedding)


# %% solution="time_embedding"
def time_embedding(t, dim):
    """Sines and cosines of the times: (B, dim), in t's dtype and on its device.

    t (B,) holds floats in [0, 1]; dim is an even int, at least 4.
    """
    ### BEGIN SOLUTION
    exponent = torch.linspace(0, 1, dim // 2, dtype=t.dtype, device=t.device)
    angle = t[:, None] * 1000 * 10_000**-exponent  # (B, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
    ### END SOLUTION


# %% tests="time_embedding_test" points=2
check("ddpm_mnist.time_embedding", time_embedding)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.time_embedding", time_embedding)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Equal ratios mean: a straight line in the *exponent*. 1000 is $1000 \cdot 10000^{-0}$. And 0.1?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.linspace(0, 1, dim // 2, dtype=t.dtype, device=t.device)` are the exponents. Each of the `B` times needs each
# of the frequencies: `t[:, None]` is `(B, 1)`, and broadcasting does the rest.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `angle` has the shape `(B, dim / 2)`: times, times 1000, times 10,000 to the minus exponent. Then `torch.cat` of its
# sines and its cosines, side by side: `dim=1`.
#
# </details>

# %%
embed = working("ddpm_mnist.time_embedding", globals())
times = torch.linspace(0, 1, 400)
rows = embed(times, 64)

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.imshow(rows.T, aspect="auto", cmap="RdBu", extent=(0, 1, 64, 0), interpolation="nearest")
left.set(xlabel="t", ylabel="entry of the embedding", title="sines above, cosines below")
for t0, color, line in ((0.3, BLUE, "-"), (0.7, ORANGE, "--")):
    right.plot(times - t0, rows @ embed(torch.tensor([t0]), 64)[0] / 32, line, color=color, label=f"$t_0$ = {t0}")
right.set(xlabel="$t - t_0$", ylabel="likeness of $t$ and $t_0$", title="dot products")
right.legend()
plt.show()

# %% [markdown]
# **Look:** on the left, each row is a clock. The upper ones of each half turn too fast for this picture; the lowest
# ones hardly move.
#
# On the right the two curves lie on each other: how alike two times are depends on their *distance* only. (Because
# $\sin a \sin b + \cos a \cos b = \cos(a - b)$.) Neighbours are much alike, and even they can be told apart.

# %% [markdown]
# ### Exercise 4.3: A norm that minds its own picture
#
# Between its layers a network brings the numbers back to mean 0 and variance 1. Batch norm takes the mean over the
# whole *batch*. For a denoiser that is bad, as you are about to see.
#
# *Group norm* looks at one picture at a time. It divides the channels into groups of neighbours. In each group it
# takes one mean and one variance, over its channels and over all positions:
#
# $$\frac{x - \text{mean}}{\sqrt{\text{variance} + \epsilon}}$$
#
# See [Group norm](../../book/ddpm_mnist.md#group-norm). Write it with `mean` and `var`; torch has it ready, but you
# would learn nothing.


# %% solution="group_norm"
def group_norm(x, groups, eps):
    """x (B, C, ...), normalised in groups: a tensor like x.

    groups divides C: the first C / groups channels are a group, and so on.
    The variance is the biased one (divided by n). Any dimensions may follow C.
    """
    ### BEGIN SOLUTION
    h = x.reshape(len(x), groups, -1)
    mean, variance = h.mean(2, keepdim=True), h.var(2, correction=0, keepdim=True)
    return ((h - mean) / (variance + eps).sqrt()).reshape(x.shape)
    ### END SOLUTION


# %% tests="group_norm_test" points=2
check("ddpm_mnist.group_norm", group_norm)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.group_norm", group_norm)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# If each group were one long row of numbers, a mean along the last dimension would do. Can you reshape `x` so that it
# is?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Neighbouring channels lie beside each other in memory, so `x.reshape(len(x), groups, -1)` makes a row of each group.
# At the end, `.reshape(x.shape)` undoes it.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `h.mean(2, keepdim=True)` keeps the dimension, so that `h - mean` works. For the variance add `correction=0`, or
# torch divides by $n - 1$. `eps` stands under the root.
#
# </details>

# %%
torch.manual_seed(0)
convolution, normalise = nn.Conv2d(1, 8, 3, padding=1), working("ddpm_mnist.group_norm", globals())
norms = {"batch norm": nn.BatchNorm2d(8), "group norm": lambda h: normalise(h, 2, 1e-5)}
company = {
    "alone": digit,
    "with digits": torch.cat([digit, images[:15]]),
    "with paper": torch.cat([digit, -torch.ones(15, 1, 28, 28)]),
    "with noise": torch.cat([digit, 2 * torch.randn(15, 1, 28, 28)]),
}
maps = []
with torch.no_grad():
    for name, norm in norms.items():
        maps += [norm(convolution(batch))[:1, :1] for batch in company.values()]  # one channel of our digit
        change = max((other - maps[-4]).abs().max().item() for other in maps[-3:])
        print(f"{name}: other company changes our digit by up to {change:.1g}")

image_grid(
    torch.cat(maps) / 3,
    alt="A feature map of a 3, four times in two rows. After batch norm its brightness depends on the other pictures "
    "of the batch; after group norm all four are alike.",
    columns=4,
    titles=list(company),
    rows=list(norms),
    zoom=90,
)

# %% [markdown]
# **Look:** always the same digit, the same convolution, the same channel. With batch norm it comes out differently in
# other company. With group norm it doesn't (the last digits of float32 apart).
#
# While we train, a batch mixes all levels of noise. While we sample, all pictures are at the same level. Batch norm
# would carry that difference into every layer. There is worse, and you will measure it in Exercise 4.12.

# %% [markdown]
# ### Exercise 4.4: A residual block that knows the time
#
# A *residual block* does not replace its input; it adds something to it. Two rounds of norm, activation, convolution:
#
# $$h = \text{norm}_2\bigl(\text{conv}_1(\text{silu}(\text{norm}_1(x)))\bigr) \cdot (1 + \text{scale}) + \text{shift},
# \qquad \text{output} = \text{skip}(x) + \text{conv}_2(\text{silu}(h)).$$
#
# The *context* (time and class, a row of numbers a picture) comes in between: `modulation(context)` is `(B, 2 C)`,
# first the `C` scales, then the `C` shifts. It acts *after* the second norm, which would undo it.
# `skip` is a $1 \times 1$ convolution where the number of channels changes, and otherwise does nothing.
#
# See [The residual block](../../book/ddpm_mnist.md#residual-block).


# %% solution="residual_block"
def residual_block(x, context, layers):
    """The block's output (B, C, H, W), from x (B, C_in, H, W) and context (B, d).

    layers has norm1, conv1, modulation, norm2, conv2 and skip: each is called
    like a function, such as layers.norm1(x). F.silu is the activation.
    """
    ### BEGIN SOLUTION
    scale, shift = layers.modulation(context)[:, :, None, None].chunk(2, dim=1)
    h = layers.conv1(F.silu(layers.norm1(x)))
    h = layers.norm2(h) * (1 + scale) + shift
    return layers.skip(x) + layers.conv2(F.silu(h))
    ### END SOLUTION


# %% tests="residual_block_test" points=3
check("ddpm_mnist.residual_block", residual_block)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.residual_block", residual_block)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Read the formula from the inside out: four lines of code. What shape has `modulation(context)`, and what shape do you
# need so that it multiplies `(B, C, H, W)`?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `tensor[:, :, None, None]` makes `(B, 2 C, 1, 1)` of `(B, 2 C)`, and `.chunk(2, dim=1)` divides that into two halves.
#
# </details>
# <details><summary>Hint 3</summary>
#
# One line each: `scale, shift`; `h` after `conv1`; `h` after `norm2`, the scales and the shifts; the sum. What goes
# through `skip` is `x` itself, not its norm.
#
# </details>

# %% [markdown]
# Your pieces now go into the course's U-Net: it keeps its layers, but runs *your* block and *your* embedding. (Group
# norm stays torch's, which does the same faster.)


# %%
class YourBlock(ResidualBlock):
    def forward(self, x, context):
        return run_block(x, context, self)


class YourEmbedding(TimeEmbedding):
    def forward(self, t):
        return run_embedding(t, 2 * len(self.frequency))


def your_unet():
    """The course's U-Net for 28 x 28 digits and ten classes, with your pieces."""
    net = UNet(channels=1, width=32, n_classes=10, patch=2)
    for part in net.modules():
        if isinstance(part, ResidualBlock):
            part.__class__ = YourBlock
        elif isinstance(part, TimeEmbedding):
            part.__class__ = YourEmbedding
    return net


run_block = working("ddpm_mnist.residual_block", globals())
run_embedding = working("ddpm_mnist.time_embedding", globals())
torch.manual_seed(0)
net = your_unet()


def say_shape(name):
    return lambda part, given, out: print(f"{name:20} {tuple(given[0].shape)!s:16} -> {tuple(out.shape)}")


stages = {f"{side}[{i}]": s[0] for side in ("down", "up") for i, s in enumerate(getattr(net, side))}
stages |= {"stem": net.stem, "middle[0]": net.middle[0], "middle[1]": net.middle[1], "last": net.last}
hooks = [part.register_forward_hook(say_shape(name)) for name, part in stages.items()]
with torch.no_grad():
    said = net(images[:1], torch.tensor([0.5]), labels[:1])
for hook in hooks:
    hook.remove()
print(f"{sum(p.numel() for p in net.parameters()):,} parameters; the untrained network says {said.abs().max():.1f}")

# %% [markdown]
# **Look:** $28 \times 28$ pixels are folded into $14 \times 14$ positions of 4 pixels each, then halved to
# $7 \times 7$. On the way up the maps from the way down come back in, so `up` takes more channels than `down` gave.
#
# The last convolution of each block starts at zero. So at first every block hands on its input, and the whole network
# says 0.

# %% [markdown]
# ## 3. Training
#
# ### Exercise 4.5: Labels that are sometimes missing
#
# We want to ask for a class. So the network is told the label $y$, and learns $p(x \mid y)$. But we also want it to
# know what digits look like in general; guidance will need that.
#
# Both fit into one network: now and then the label is replaced by $-1$, the *null class*. See
# [Dropped labels](../../book/ddpm_mnist.md#label-dropout).


# %% solution="drop_labels"
def drop_labels(y, p):
    """New labels (B,), int64: each of y is -1 with probability p, by chance.

    y (B,) holds the labels 0..9 and stays as it is; draw on y.device.
    """
    ### BEGIN SOLUTION
    dropped = torch.rand(len(y), device=y.device) < p
    return torch.where(dropped, -1, y)
    ### END SOLUTION


# %% tests="drop_labels_test" points=2
check("ddpm_mnist.drop_labels", drop_labels)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.drop_labels", drop_labels)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# How do you make something happen with probability $p$, when all you have is a random number between 0 and 1? And how
# many such numbers do you need?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.rand(len(y), device=y.device) < p` says for each label whether it is dropped.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `torch.where(condition, a, b)` takes `a` where the condition holds and `b` elsewhere. It makes a new tensor, so `y`
# stays as it was.
#
# </details>

# %%
torch.manual_seed(0)
drop = working("ddpm_mnist.drop_labels", globals())
_, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
for y, name, color, offset in ((labels, "as they are", GREY, -0.2), (drop(labels, 0.1), "p = 0.1", BLUE, 0.2)):
    ax.bar(np.arange(-1, 10) + offset, (y + 1).bincount(minlength=11), 0.4, color=color, label=name)
ax.set(xlabel="label", ylabel="how many of 4,500", xticks=range(-1, 10))
ax.legend(loc="lower left")
plt.show()

# %% [markdown]
# **Look:** each class gives about a tenth of its pictures to the null class, which becomes as large as the others. In
# the next epoch it is other ones.
#
# **Think:** why not use 0 for "no label"?
#
# <details><summary>An answer</summary>
#
# Because 0 is a digit. The network would learn that 0 means "any digit at all", and nobody could ask for a zero again.
#
# </details>

# %% [markdown]
# ### Exercise 4.6: One training step
#
# In Lab 3 level and noise were given. Now your function draws them: for each picture a level of its own, any of
# $1, \dots, T$ with equal chance, and a noise of its own. Then as before
#
# $$L_\text{simple} = \text{mean of } \bigl(\varepsilon - \text{net}(x_k, t, y)\bigr)^2, \qquad
# x_k = \sqrt{\bar\alpha_k}\; x_0 + \sqrt{1 - \bar\alpha_k}\; \varepsilon, \qquad t = k / T.$$
#
# See [The training step](../../book/ddpm_mnist.md#training-loss).


# %% solution="training_loss"
def training_loss(net, x0, y, alpha_bar):
    """The mean squared error of the predicted noise: a single number (tensor).

    x0 (B, C, H, W) are pictures, y (B,) their labels, passed on as they are.
    net(x, t, y) takes t = k / T, a float tensor (B,). alpha_bar is the float64
    table (T + 1,), on the CPU; alpha_bar.to(x0) has x0's dtype and device.
    """
    ### BEGIN SOLUTION
    T = alpha_bar.numel() - 1
    k = torch.randint(1, T + 1, (len(x0),), device=x0.device)
    eps = torch.randn_like(x0)
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    x = ab.sqrt() * x0 + (1 - ab).sqrt() * eps
    return (net(x, k / T, y) - eps).square().mean()
    ### END SOLUTION


# %% tests="training_loss_test" points=3
check("ddpm_mnist.training_loss", training_loss)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.training_loss", training_loss)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What is drawn once a picture, and what once a pixel? How often may the noise be drawn?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.randint(low, high, (len(x0),), device=x0.device)` leaves out `high`. `torch.randn_like(x0)` draws the noise.
# A level's `alpha_bar` needs the shape `(B, 1, 1, 1)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Six short lines: `T` from the table's length; `k` from 1 to `T`; `noise`; `ab = alpha_bar.to(x0)[k]`, reshaped; `x`;
# and the mean of the squares of `net(x, k / T, y) - noise`, with the same `noise`.
#
# </details>

# %% [markdown]
# ### Train it
#
# Everything in this training is yours or known to you: the schedule, the dropped labels, the loss, the blocks. `fit` is
# the course's loop: Adam, a rising and falling learning rate, and the moving average of Lab 3.
#
# Half a minute is short, so we help a little. At $t = 1$ the noise is no question: it *is* the picture. A network that
# says so has next to no loss, and has said nothing about digits. So inside, ours says the *velocity*
# $v = \sqrt{\bar\alpha}\, \varepsilon - \sqrt{1 - \bar\alpha}\, x_0$, which asks for the digit where noise is plenty.
# Out of it comes the noise, $\varepsilon = \sqrt{1 - \bar\alpha}\, x_k + \sqrt{\bar\alpha}\, v$, and your loss does
# not notice. ([Why the velocity?](../../book/ddpm_mnist.md#training-loss))
#
# Without this help, and with all else alike, we got scribbles on grey, and only one in ten was the digit that we had
# asked for: chance.


# %%
class SaysNoise(nn.Module):
    """A network that says v, as one that says the noise: net(x, t, y) for t = k / T."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, y=None):
        ab = alpha_bar.to(x)[(t * T).round().long()].reshape(-1, 1, 1, 1)
        v = self.net(x, t, y)
        if v.requires_grad:  # an error of v weighs alpha_bar times as much in the noise: let all levels count alike
            v.register_hook(lambda gradient: gradient / ab)
        return (1 - ab).sqrt() * x + ab.sqrt() * v


def train(n_steps):
    """Train your U-Net on the digits; returns the averaged network and the losses."""
    net, drop = SaysNoise(your_unet()), working("ddpm_mnist.drop_labels", globals())

    def loss(net, x0, y):
        return step_loss(net, x0, drop(y, 0.1), alpha_bar)

    return fit(net, loss, batches((images, labels), 32), n_steps=n_steps, lr=3e-3, ema_decay=0.99)


step_loss = working("ddpm_mnist.training_loss", globals())
torch.manual_seed(0)
net, losses = train(n_steps=600)


# %%
@torch.no_grad()
def loss_at(k, net, x0, y):
    """The mean squared error of the predicted noise at one level k."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x0.shape, generator=generator)
    x = (alpha_bar[k].sqrt() * x0 + (1 - alpha_bar[k]).sqrt() * noise).float()
    return (net(x, torch.full((len(x0),), k / T), y) - noise).square().mean().item()


ks = range(5, T, 15)
train_curve = [loss_at(k, net, images[:100], labels[:100]) for k in ks]
test_curve = [loss_at(k, net, test_images[:100], test_labels[:100]) for k in ks]

smooth = np.convolve(losses, np.ones(25) / 25, mode="valid")
_, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
left.semilogy(losses, color="#CCCCCC", lw=0.6, label="one batch")
left.semilogy(np.arange(len(smooth)) + 12, smooth, color=ORANGE, label="mean of 25")
left.set(xlabel="step", ylabel="loss")
left.legend()
right.semilogy(ks, train_curve, color=ORANGE, label="digits it was trained on")
right.semilogy(ks, test_curve, "--", color=BLUE, label="digits it never saw")
right.axhline(1, color="black", lw=0.8, ls=":", label="always 0")
right.set(xlabel="level k", ylabel="loss at this level")
right.legend()
plt.show()

# %% [markdown]
# **Look:** on the left, most is learned in the first hundred steps: that paper stays paper. On the right, the
# loss is large where there is little noise to see, and tiny where nearly everything is noise.
#
# The two curves on the right lie on each other: in 600 steps nothing has been learned by heart.
#
# **Think:** the loss is smallest at the right end. Is that where the network is best?
#
# <details><summary>An answer</summary>
#
# No: there it is *easiest*. At $k = T$ the answer "all of it is noise" is nearly right and says nothing about digits.
# What counts is the guess $\hat x_0 = (x - \sqrt{1 - \bar\alpha_k}\, \hat\varepsilon) / \sqrt{\bar\alpha_k}$, and there
# the small error is divided by a small number.
#
# </details>

# %% [markdown]
# ## 4. Sampling
#
# ### Exercise 4.7: A step back that knows the range of pictures
#
# The step itself is Lab 3's, written through the guess of the picture. But now we know something about $x_0$ that
# the network forgets at times: pixels lie in $[-1, 1]$. So *clip the guess*:
#
# $$\hat x_0 = \text{clip}\!\left(\frac{x_k - \sqrt{1 - \bar\alpha_k}\;\text{net}(x_k, t)}{\sqrt{\bar\alpha_k}}\right),
# \qquad
# x_{k-1} = \frac{\sqrt{\bar\alpha_{k-1}}\,\beta_k}{1 - \bar\alpha_k}\, \hat x_0
# + \frac{\sqrt{1 - \beta_k}\,(1 - \bar\alpha_{k-1})}{1 - \bar\alpha_k}\, x_k
# + \sqrt{\frac{1 - \bar\alpha_{k-1}}{1 - \bar\alpha_k}\,\beta_k}\; z$$
#
# The table gives you $\beta_k = 1 - \bar\alpha_k / \bar\alpha_{k-1}$.
# [Clip what?](../../book/ddpm_mnist.md#x0-clipping)


# %% solution="clipped_step"
def clipped_step(net, x, k, alpha_bar, z):
    """x_{k-1}, from pictures x (B, C, H, W) at level k, an int in 1..T.

    net(x, t) predicts the noise; its t = k / T is a float tensor (B,) on x's
    device. alpha_bar is the table (T + 1,). z is like x, drawn for you.
    """
    ### BEGIN SOLUTION
    ab, before = alpha_bar[k], alpha_bar[k - 1]
    beta = 1 - ab / before
    eps = net(x, torch.full((len(x),), k / (len(alpha_bar) - 1), device=x.device))
    x0_hat = ((x - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1)
    mean = (before.sqrt() * beta * x0_hat + (1 - beta).sqrt() * (1 - before) * x) / (1 - ab)
    return mean + (beta * (1 - before) / (1 - ab)).sqrt() * z
    ### END SOLUTION


# %% tests="clipped_step_test" points=3
check("ddpm_mnist.clipped_step", clipped_step)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.clipped_step", clipped_step)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Three quantities could be clipped: the noise, the picture, the state $x_{k-1}$. Which of them has a range?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Give the table's entries names first: `ab`, `before`, and `beta` from both. The time is
# `torch.full((len(x),), k / T, device=x.device)`, and `T` is the table's length less one.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `.clamp(-1, 1)` stands at the end of the line of `x0_hat`, and nowhere else. Then the mean and the root of the
# variance, letter by letter.
#
# </details>


# %%
def told(net, y, scale=1.0):
    """The network with the labels y (B,) filled in. A scale above 1 is guidance: away from "any digit", towards y."""

    def says(x, t, _=None):
        noise = net(x, t, y)
        if scale == 1:
            return noise
        in_general = net(x, t, None)
        return in_general + scale * (noise - in_general)

    return says


@torch.no_grad()
def sample(net, y, scale=1.0):
    """A digit for each label of y (B,), level by level: all states on the way, a list of T + 1 (B, 1, 28, 28)."""
    path = [torch.randn(len(y), 1, 28, 28)]
    for k in range(T, 0, -1):
        path.append(one_step(told(net, y, scale), path[-1], k, alpha_bar, torch.randn_like(path[-1])))
    return path


one_step = working("ddpm_mnist.clipped_step", globals())
torch.manual_seed(0)
y = torch.arange(10)
path = sample(net, y, scale=2)  # twice the label's say; more about that in part 5
image_grid(path[-1], alt="Ten digits that the network drew, from 0 to 9; most can be read.", titles=y.tolist())

# %% [markdown]
# **Look:** out of noise, by what you wrote, and each was asked for by its number. Not all are beautiful, and some
# strokes have gaps: half a minute of training is not much. Most can be read.
#
# Here is how they came about. Above: the state $x_k$. Below: the guess $\hat x_0$ that goes with it.


# %%
@torch.no_grad()
def guess(net, x, k):
    """What the network (with its labels filled in) takes x (B, 1, 28, 28) at level k for: x0_hat, clipped."""
    eps = net(x, torch.full((len(x),), k / T))
    return ((x - (1 - alpha_bar[k]).sqrt() * eps) / alpha_bar[k].sqrt()).clamp(-1, 1)


ks = [k for k in range(T, 0, -1) if k % 8 == 0 or k == 1]
animate_images(
    [torch.cat([path[T - k], guess(told(net, y, 2), path[T - k], k)]) for k in ks],
    alt="Above, noise turns into ten digits. Below, the network's guess: first blurred shapes, which sharpen step by "
    "step.",
    columns=10,
    rows=["state", "guess"],
    titles=[f"k = {k}" for k in ks],
)

# %% [markdown]
# **Look at the guess.** From pure noise the best answer is a mean of all the digits that might be meant: soft, and
# nobody's handwriting. That is why one step is not enough. Each step removes a little noise, the picture commits
# itself a little, and the next guess is sharper.
#
# **What looks odd:** the state still looks like noise when the guess has long been a clear digit.
#
# <details><summary>An answer</summary>
#
# Our eyes are poor at averaging over many pixels of noise, and the network is good at it: neighbouring pixels of a
# stroke tell about each other. And what the guess shows need not be final; watch the strokes that still move.
#
# </details>

# %% [markdown]
# ### A network with more practice
#
# Yours has seen some 19,000 pictures. The course ships one that was trained on all 60,000 digits, for much longer. It
# has a schedule of its own; but what counts is only how much noise is in the picture. So a few lines turn it into a
# network like yours:


# %%
def noise_network(model):
    """One of the course's models as a network of this lab: net(x, t, y) says the noise in x, t = k / T."""

    def net(x, t, y=None):
        ab = alpha_bar.to(x)[(t * T).round().long()].reshape(-1, 1, 1, 1)
        own_time = torch.atan2((1 - ab).sqrt(), ab.sqrt()).flatten() * 2 / torch.pi  # where it has as much noise
        return (1 - ab).sqrt() * x + ab.sqrt() * model.net(x, own_time, y)  # it says v, like yours

    return net


practised = noise_network(load_pretrained("mnist"))
torch.manual_seed(0)
image_grid(
    torch.cat([path[-1], sample(practised, y)[-1]]),
    alt="Two rows of ten drawn digits. The lower ones, by the network with more practice, are cleaner.",
    columns=10,
    titles=y.tolist(),
    rows=["yours", "more practice"],
)

# %% [markdown]
# **Look:** the same sampler, your sampler, and without the label's double say. The strokes are now whole.

# %% [markdown]
# ## 5. Fewer steps
#
# ### Exercise 4.8: Longer strides
#
# 200 steps are many. A step may go from level $k$ to any lower level $k'$: all that changes is how much happens in
# between. From $k'$ up to $k$ the signal's variance shrinks by $\bar\alpha_k / \bar\alpha_{k'}$. So over a stride
#
# $$\beta = 1 - \frac{\bar\alpha_k}{\bar\alpha_{k'}}, \qquad
# q(x_{k'} \mid x_k, \hat x_0) = \mathcal N\!\left(
# \underbrace{\frac{\sqrt{\bar\alpha_{k'}}\,\beta}{1 - \bar\alpha_k}}_{\text{of } \hat x_0} \hat x_0
# + \underbrace{\frac{\sqrt{1 - \beta}\,(1 - \bar\alpha_{k'})}{1 - \bar\alpha_k}}_{\text{of } x} x_k,\;\;
# \underbrace{\frac{1 - \bar\alpha_{k'}}{1 - \bar\alpha_k}\,\beta}_{\text{variance}}\, I \right).$$
#
# Make tables of the three, for all strides at once. See [Strides](../../book/ddpm_mnist.md#strided-steps).


# %% solution="strided_coefficients"
def strided_coefficients(alpha_bar, levels):
    """(of_x0, of_x, variance), each (n,) float64: entry i is for the stride
    from k = levels[i] to k' = levels[i + 1].

    alpha_bar is the table (T + 1,); levels (n + 1,) holds falling ints.
    """
    ### BEGIN SOLUTION
    ab, after = alpha_bar[levels[:-1]], alpha_bar[levels[1:]]
    beta = 1 - ab / after
    of_x0 = after.sqrt() * beta / (1 - ab)
    of_x = (1 - beta).sqrt() * (1 - after) / (1 - ab)
    return of_x0, of_x, beta * (1 - after) / (1 - ab)
    ### END SOLUTION


# %% tests="strided_coefficients_test" points=3
check("ddpm_mnist.strided_coefficients", strided_coefficients)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.strided_coefficients", strided_coefficients)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# For strides of length 1 your tables must hold the numbers of Exercise 4.7. Where does "one level" hide in those?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `alpha_bar[levels[:-1]]` are the table's entries where the strides start, `alpha_bar[levels[1:]]` where they end.
# No loop is needed.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Call the two `ab` and `after`, then `beta = 1 - ab / after`. Each of the three results is one line, the variance
# without a root. In the last stride, to $k' = 0$, they must be 1, 0 and 0.
#
# </details>


# %%
@torch.no_grad()
def sample_strided(net, y, n_steps, scale=1.0):
    """A digit for each label of y (B,), in n_steps strides: (B, 1, 28, 28)."""
    levels = torch.linspace(T, 0, n_steps + 1).round().long()
    x = torch.randn(len(y), 1, 28, 28)
    for k, of_x0, of_x, variance in zip(levels.tolist(), *coefficients(alpha_bar, levels), strict=False):
        x0_hat = guess(told(net, y, scale), x, k)
        x = of_x0 * x0_hat + of_x * x + variance.sqrt() * torch.randn_like(x)
    return x


def sample_solver(net, y, n_steps):
    """The same with the course's DPM-Solver++(2M), which draws nothing and remembers the guess before."""
    schedule = CosineSchedule(T)
    *_, x = dpmpp_2m(
        lambda x, t: guess(told(net, y), x, round(T * float(t))),
        schedule,
        torch.randn(len(y), 1, 28, 28),
        schedule.timesteps(n_steps),
    )
    return x


coefficients = working("ddpm_mnist.strided_coefficients", globals())
classifier = load_pretrained("mnist_classifier")
asked = torch.arange(100) % 10
counts = [1, 2, 4, 8, 16]
drawn, agreement = {}, {}
for name, sampler in (("your strides", sample_strided), ("DPM-Solver++", sample_solver)):
    torch.manual_seed(0)
    drawn[name] = [sampler(practised, asked, n) for n in counts]
    agreement[name] = [classifier_accuracy(classifier, x, asked) for x in drawn[name]]

image_grid(
    torch.cat([x[:10] for x in drawn["your strides"]]),
    alt="Five rows of ten digits, drawn in 1, 2, 4, 8 and 16 strides: from blurred means to clean strokes.",
    columns=10,
    titles=y.tolist(),
    rows=[f"{n} stride{'s' * (n > 1)}" for n in counts],
)

# %%
_, ax = plt.subplots(figsize=(5, 2.8), layout="constrained")
for (name, values), color, line in zip(agreement.items(), (ORANGE, BLUE), ("o-", "s--"), strict=True):
    ax.plot(counts, values, line, color=color, label=name)
ax.axhline(
    classifier_accuracy(classifier, test_images, test_labels), color="black", lw=0.8, ls=":", label="real digits"
)
ax.set(xlabel="strides", ylabel="agreement", xscale="log", xticks=counts, xticklabels=counts, ylim=(None, 1.02))
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# *Agreement*: of 100 digits, how many does a classifier take for what was asked? It was trained on real digits only.
#
# **Look:** in one stride you get the mean again, and the classifier, which has never seen a blurred digit, is lost.
# From two strides on nearly all digits are what was asked for. Sixteen look like handwriting. We had 200.
#
# **What looks odd:** after two strides agreement is about as high as it gets, and the pictures are still smudged. With
# more strides it may even fall.
#
# <details><summary>An answer</summary>
#
# Agreement asks one thing only: can the class be told? A typical digit always passes, and few strides draw typical
# digits: they stop near the mean. More strides bring out handwriting, odd hands included. Agreement sees neither
# variety nor beauty. The chapter adds a second number, and shows
# [how both can be fooled](../../book/ddpm_mnist.md#picture-metrics).
#
# </details>

# %% [markdown]
# ### A first look at guidance
#
# Your network knows each class, and digits in general. With a *scale* above 1 we go further: away from what any digit
# would have, towards what this one has. (See `told` above; Chapter 5 is all about it.)

# %%
torch.manual_seed(0)
start = torch.random.get_rng_state()
scales, grids = [0, 1, 2, 4], []
for scale in scales:
    torch.random.set_rng_state(start)  # the same noise for all
    grids.append(sample_strided(net, asked, 10, scale))

image_grid(
    torch.cat([x[:10] for x in grids]),
    alt="Four rows of ten digits by the briefly trained network. At scale 0 any digit comes; with larger scales the "
    "digits become clearer, bolder and more alike.",
    columns=10,
    titles=y.tolist(),
    rows=[f"scale {s}: {classifier_accuracy(classifier, x, asked):.0%}" for s, x in zip(scales, grids, strict=True)],
)

# %% [markdown]
# **Look:** at scale 0 any digit comes, whatever was asked for. At 1 the labels are heard, but the drawing is poor. At 2
# nearly all are what they should be; that is the scale you used in part 4. Beyond that they only get bolder and more
# alike: guidance pays with variety.

# %% [markdown]
# ## 6. Find the bug
#
# Three programs with one bug each, all of them seen in published code. And one tool, which you know from Lab 3: data
# for which the best possible network is known. Here each *pixel* is drawn from $\mathcal N(m,\, s^2)$, and then
#
# $$\text{net}(x, t) = \frac{\sqrt{1 - \bar\alpha_k}\;\bigl(x - m \sqrt{\bar\alpha_k}\bigr)}
# {s^2\, \bar\alpha_k + 1 - \bar\alpha_k}.$$
#
# Nothing was trained, so whatever is off is the program's fault. See
# [The Gaussian oracle](../../book/ddpm_mnist.md#gaussian-oracle).


# %%
def gaussian_pictures(mean, std, table, n=5000):
    """n tiny pictures (n, 1, 2, 2) with pixels N(mean, std^2), and the network that knows their noise best."""

    def net(x, t, _=None):
        ab = table.to(x)[(t * (len(table) - 1)).round().long()].reshape(-1, 1, 1, 1)
        return (1 - ab).sqrt() * (x - mean * ab.sqrt()) / (std**2 * ab + 1 - ab)

    return mean + std * torch.randn(n, 1, 2, 2), net


fine = CosineSchedule(1000).alpha_bar  # the oracle costs nothing, so it gets as many levels as in the papers

# %% [markdown]
# ### Exercise 4.9: A loss that cannot fall
#
# A classmate's training doesn't work: the loss stays at 1. Here is her function; the levels come from outside.


# %%
def broken_loss(net, x0, k, alpha_bar):
    T = alpha_bar.numel() - 1
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    x = ab.sqrt() * x0 + (1 - ab).sqrt() * torch.randn_like(x0)
    error = net(x, k / T) - torch.randn_like(x0)
    return error.square().mean()


def compare_networks(loss, title):
    """The loss of the best possible network and of one that always says 0, level by level."""
    torch.manual_seed(0)
    x0, best = gaussian_pictures(0.3, 0.5, fine)
    ks = torch.arange(25, 1001, 75)
    _, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    nets = {"the best possible": (best, BLUE, "-"), "always 0": (lambda x, t, _=None: torch.zeros_like(x), GREY, "--")}
    for name, (net, color, line) in nets.items():
        values = [loss(net, x0, torch.full((len(x0),), k), fine).item() for k in ks]
        ax.plot(ks, values, line, color=color, label=f"{name}: mean {np.mean(values):.2f}")
    ab = fine[ks]
    floor = 0.25 * ab / (0.25 * ab + 1 - ab)  # the variance of the noise, given x_k
    ax.plot(ks, floor, ":", color="black", label=f"as it should be: mean {floor.mean():.2f}")
    ax.set(xlabel="level k", ylabel="loss", title=title)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


compare_networks(broken_loss, "the broken loss")

# %% [markdown]
# The best network there is does *worse* than one that says 0. By this loss, knowledge is a disadvantage. So training
# would do the right thing: go to 0, and stay there.
#
# Copy the program into the cell below and mend it.


# %% solution="fix_the_loss"
def fix_the_loss(net, x0, k, alpha_bar):
    """The mean squared error of the predicted noise: a single number (tensor).

    x0 (B, C, H, W) are pictures, k (B,) their levels in 1..T; alpha_bar is the
    table (T + 1,).
    """
    ### BEGIN SOLUTION
    T = alpha_bar.numel() - 1
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    eps = torch.randn_like(x0)
    x = ab.sqrt() * x0 + (1 - ab).sqrt() * eps
    error = net(x, k / T) - eps
    return error.square().mean()
    ### END SOLUTION


# %% tests="fix_the_loss_test" points=2
check("ddpm_mnist.fix_the_loss", fix_the_loss)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.fix_the_loss", fix_the_loss)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What is the best answer to a question that has nothing to do with what you see? Where does such a question come from?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Count the draws. How many different noises does a training step need?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Draw the noise once, give it a name, and use the name twice.
#
# </details>

# %%
compare_networks(working("ddpm_mnist.fix_the_loss", globals()), "the mended loss")

# %% [markdown]
# **Look:** now the best network lies on the dotted line, far below 1 at most levels.
#
# **Think:** with *uniform* noise (`rand_like`), drawn twice as well, the loss would settle at 0.083. It would look
# trained. How would you notice?
#
# <details><summary>An answer</summary>
#
# 0.083 is $1 / 12$, the variance of a uniform number: the network says 0.5 everywhere, whatever it sees. Compare every
# loss with that of the best *constant*. And look at the samples.
#
# </details>

# %% [markdown]
# ### Exercise 4.10: Grey paper
#
# A sampler from a tutorial. "To keep the pixels in range", it says beside its last line.


# %%
def broken_clipping(net, x, alpha_bar, noise):
    T = alpha_bar.numel() - 1
    for k in range(T, 0, -1):
        ab, before = alpha_bar[k], alpha_bar[k - 1]
        beta = 1 - ab / before
        x0_hat = (x - (1 - ab).sqrt() * net(x, torch.full((len(x),), k / T, device=x.device))) / ab.sqrt()
        mean = (before.sqrt() * beta * x0_hat + (1 - beta).sqrt() * (1 - before) * x) / (1 - ab)
        x = mean + (beta * (1 - before) / (1 - ab)).sqrt() * noise[k]
        x = x.clamp(-1, 1)
    return x


def ask_the_oracle(sampler, mean, std, title):
    """Run a sampler with the exact network for pixels N(mean, std^2); print the moments, draw the histogram."""
    noise = torch.randn(len(fine), 2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    x = sampler(gaussian_pictures(mean, std, fine)[1], noise[0], fine, noise).flatten()
    print(f"{title}: mean {x.mean():.3f} (should be {mean}), standard deviation {x.std():.3f} (should be {std})")
    grid, bins = np.linspace(-2, 3, 400), np.linspace(-2, 3, 100)
    _, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
    ax.hist(x.numpy(), bins=bins, density=True, color=ORANGE, alpha=0.6, label=title)
    ax.plot(grid, np.exp(-((grid - mean) ** 2) / (2 * std**2)) / (std * (2 * np.pi) ** 0.5), "k", label="the data")
    ax.set(xlabel="a pixel of $x_0$", yticks=[])
    ax.legend(fontsize=8)
    plt.show()


@torch.no_grad()
def draw_digits(sampler, table):
    """Ten digits by the practised network, always from the same noise; the table holds all levels, or every n-th."""
    noise = torch.randn(len(table), 10, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    return sampler(told(practised, y), noise[0], table, noise)


ask_the_oracle(broken_clipping, 0.5, 0.25, "the broken sampler")
pale = draw_digits(broken_clipping, alpha_bar[::4])
image_grid(pale, alt="Ten digits on grey paper.", titles=y.tolist())

# %% [markdown]
# The paper is not white. Would more training help? The oracle says no: with the best network there is, the samples are
# too narrow, and their mean is pulled towards 0.
#
# Mend it. The idea, to use the range of pictures, is a good one.


# %% solution="fix_the_clipping"
def fix_the_clipping(net, x, alpha_bar, noise):
    """x_0 (B, C, H, W), from x at level T, level by level; the range [-1, 1]
    is used where there is one.

    noise (T + 1, B, C, H, W): noise[k] is the z of the step from level k.
    """
    ### BEGIN SOLUTION
    T = alpha_bar.numel() - 1
    for k in range(T, 0, -1):
        ab, before = alpha_bar[k], alpha_bar[k - 1]
        beta = 1 - ab / before
        x0_hat = (x - (1 - ab).sqrt() * net(x, torch.full((len(x),), k / T, device=x.device))) / ab.sqrt()
        x0_hat = x0_hat.clamp(-1, 1)
        mean = (before.sqrt() * beta * x0_hat + (1 - beta).sqrt() * (1 - before) * x) / (1 - ab)
        x = mean + (beta * (1 - before) / (1 - ab)).sqrt() * noise[k]
    return x
    ### END SOLUTION


# %% tests="fix_the_clipping_test" points=3
check("ddpm_mnist.fix_the_clipping", fix_the_clipping)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.fix_the_clipping", fix_the_clipping)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# At level $T$ the state is $\mathcal N(0, I)$. Which share of it lies outside $[-1, 1]$? What happens to that share?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The state at level $k$ is part picture, part noise, and noise has no range. Which variable of the program *is* a
# picture?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Move one line up, and change the variable that it works on. (You wrote the same in Exercise 4.7.)
#
# </details>

# %%
mended = working("ddpm_mnist.fix_the_clipping", globals())
ask_the_oracle(mended, 0.5, 0.25, "the mended sampler")
image_grid(
    torch.cat([pale, draw_digits(mended, alpha_bar[::4])]),
    alt="Two rows of ten digits. Above, on grey paper; below, black on white.",
    columns=10,
    titles=y.tolist(),
    rows=["broken", "mended"],
)

# %% [markdown]
# **Look:** the paper is white again, and the oracle's numbers are right to 0.01.
#
# Why grey? Paper lies at $-1$, at the edge of the range. At each level half of its noise was cut off, always the lower
# half, and what was left pulled it up. Had the data been in the middle, you would hardly have noticed.

# %% [markdown]
# ### Exercise 4.11: Grain in the picture
#
# A sampler with strides, made from one without by changing as little as possible. A little too little.


# %%
def broken_strides(net, x, levels, alpha_bar, noise):
    T = alpha_bar.numel() - 1
    for i, (k, k_next) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        ab, ab_next = alpha_bar[k], alpha_bar[k_next]
        beta = 1 - ab / alpha_bar[k - 1]
        eps = net(x, torch.full((len(x),), k / T, device=x.device))
        mean = (x - beta / (1 - ab).sqrt() * eps) / (1 - beta).sqrt()
        x = mean + (beta * (1 - ab_next) / (1 - ab)).sqrt() * noise[i]
    return x


def in_strides(sampler, n=100):
    """The sampler, with n strides for all levels, called like the one of Exercise 4.10."""

    def run(net, x, alpha_bar, noise):
        levels = torch.linspace(len(alpha_bar) - 1, 0, n + 1).round().long().tolist()
        return sampler(net, x, levels, alpha_bar, noise[1:])

    return run


ask_the_oracle(in_strides(broken_strides), 0.3, 0.5, "the broken strides")
grainy = draw_digits(in_strides(broken_strides, 50), alpha_bar)
image_grid(grainy, alt="Ten digits that can only be guessed behind strong noise.", titles=y.tolist())

# %% [markdown]
# Far too wide, and the digits drown in grain. Copy the program into the cell below and mend it: one line is wrong. It
# stays ancestral sampling, each stride a draw of Exercise 4.8's $q(x_{k'} \mid x_k, \hat x_0)$.


# %% solution="fix_the_strides"
def fix_the_strides(net, x, levels, alpha_bar, noise):
    """x_0 (B, C, H, W), from x at levels[0] = T, in strides along the list of
    falling levels, which ends with 0.

    noise (n, B, C, H, W): noise[i] is the z of stride i, from levels[i].
    """
    ### BEGIN SOLUTION
    T = alpha_bar.numel() - 1
    for i, (k, k_next) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        ab, ab_next = alpha_bar[k], alpha_bar[k_next]
        beta = 1 - ab / ab_next
        eps = net(x, torch.full((len(x),), k / T, device=x.device))
        mean = (x - beta / (1 - ab).sqrt() * eps) / (1 - beta).sqrt()
        x = mean + (beta * (1 - ab_next) / (1 - ab)).sqrt() * noise[i]
    return x
    ### END SOLUTION


# %% tests="fix_the_strides_test" points=3
check("ddpm_mnist.fix_the_strides", fix_the_strides)
### BEGIN HIDDEN TESTS
grade("ddpm_mnist.fix_the_strides", fix_the_strides)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The samples are far too noisy: each step takes away too little. What decides how much a step takes away?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Name what each line knows: which lines speak of the stride from $k$ to $k'$, and which of something else?
#
# </details>
# <details><summary>Hint 3</summary>
#
# $\beta$ is what happens between $k'$ and $k$, over the whole stride. You wrote it in Exercise 4.8.
#
# </details>

# %%
mended = working("ddpm_mnist.fix_the_strides", globals())
ask_the_oracle(in_strides(mended), 0.3, 0.5, "the mended strides")
image_grid(
    torch.cat([grainy, draw_digits(in_strides(mended, 50), alpha_bar)]),
    alt="Two rows of ten digits. Above, lost in strong noise; below, clean.",
    columns=10,
    titles=y.tolist(),
    rows=["broken", "mended"],
)

# %% [markdown]
# **Look:** now the mean is right. The width, 0.48, is a little below 0.5. That is no bug, but the price of strides that
# Lab 3 showed as well: the variance is that of a step whose $x_0$ is *known*, and a guess is not knowledge. With more
# strides it goes away.

# %% [markdown]
# ## 7. In your own words
#
# ### Exercise 4.12: Group norm or batch norm? (3 points)
#
# Two measurements. First: the time's scale and shift come *before* a norm, or after it. All pictures of the batch have
# the same time, as always while sampling. How much does the output change when the time goes from 0.1 to 0.9?
#
# Second: the mean and standard deviation that batch norm would find in one channel of features (Exercise 4.3), in
# batches of a single level and in one that mixes all levels.

# %%
torch.manual_seed(0)
h = torch.randn(16, 32, 14, 14) + torch.randn(32, 1, 1)  # 16 pictures, 32 channels
modulation = nn.Linear(64, 64)
with torch.no_grad():
    early, late = ((modulation(embed(torch.tensor([t]), 64)) / 2)[:, :, None, None].chunk(2, dim=1) for t in (0.1, 0.9))
for name, norm in {"batch norm": nn.BatchNorm2d(32), "group norm": lambda h: normalise(h, 8, 1e-5)}.items():
    with torch.no_grad():
        before = [norm(h * (1 + scale) + shift) for scale, shift in (early, late)]
        after = [norm(h) * (1 + scale) + shift for scale, shift in (early, late)]
    for when, (a, b) in {"before": before, "after": after}.items():
        print(f"{name}, time {when:6} the norm: the output changes by {(a - b).square().mean().sqrt():.4f}")

x0 = images[:500]
batch_levels = {f"level {k}": k for k in (10, 100, 190)} | {"all levels": torch.randint(1, T + 1, (500,))}
for name, k in batch_levels.items():
    ab = alpha_bar[k].reshape(-1, 1, 1, 1)
    with torch.no_grad():
        channel = convolution((ab.sqrt() * x0 + (1 - ab).sqrt() * torch.randn_like(x0)).float())[:, 0]
    print(f"a batch of {name:10}: mean {channel.mean():6.3f}, standard deviation {channel.std():.3f}")

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** Explain the smallest of the first four numbers. Why does group norm not do the same?
#
# **b)** A friend has batch norm in her denoiser, *after* which the time comes. Her training mixes all levels in each
# batch, and the loss falls as it should. She samples with the network still in train mode. Give two reasons why her
# digits are poor; your measurement here shows one, your picture of Exercise 4.3 the other.
#
# **c)** She calls `net.eval()` before sampling, so that batch norm uses running averages from training. Which of the
# two faults does that mend, and what can still go wrong? And name a network of this lab in which batch norm does no
# harm, and say why.

# %% [markdown] essay="group_norm_or_batch_norm" points=3
# **a) 1 point: batch norm takes the time away.** Scale and shift are the same for all pictures (one time) and for all
# positions: each channel becomes `a h + b` with one `a` and one `b` in the whole batch. Batch norm subtracts the mean
# of exactly that set and divides by its standard deviation, so `a` and `b` cancel (but for eps, and the sign of `a`).
# Group norm shares one mean and one variance among *several* channels, whose scales and shifts differ: it takes away
# what they have in common and keeps the differences. (With as many groups as channels it would erase the time, too.)
# Half a point for "the mean is subtracted again" without saying why the group keeps something.
#
# **b) 1 point: half for each.** *Other statistics than in training*: in a training batch the mean and the variance are
# those of a mixture of all levels. While sampling all pictures have one level, whose numbers are others (they move
# steadily with k, as printed), and what tells the level is normalised away. So all later layers see inputs that they
# were not trained on. *Coupling*: what comes out for one picture depends on the others in the batch, as in the picture:
# a digit drawn alone, or among other classes, comes out differently, and the same noise no longer gives the same digit.
#
# **c) 1 point: half for the first, half for the second question.** The running averages are fixed numbers of the
# mixture, about those of training: the result no longer depends on the batch, and the levels keep their differences. So
# eval mode mends both, mostly. What remains (one is enough): in training each batch had statistics of its own, noisy
# ones in small batches, so training and sampling still differ; the running averages lag behind the weights, and belong
# to the last weights, not to their moving average, unless buffers are averaged too; and whoever forgets `eval()` once
# is back at b). The classifier: its pictures all come from one distribution (clean digits), so a batch in training has
# the statistics that it meets later, and no time is to be kept; in eval mode it judges each picture by itself.
#
# Typical wrong answers, no points: "batch norm needs large batches" alone; "batch norm is slower"; "the time must come
# before the norm"; "group norm normalises over the batch in groups".

# %% [markdown]
# ### Exercise 4.13: Is this Langevin? (3 points)
#
# Line 4 of algorithm 2 in Ho et al. (2020), left, looks much like a step of Langevin dynamics with step size $c$,
# right:
#
# $$x_{k-1} = \frac{1}{\sqrt{1 - \beta_k}}\left(x_k - \frac{\beta_k}{\sqrt{1 - \bar\alpha_k}}\,\hat\varepsilon\right)
# + \sigma_k z
# \qquad\qquad
# x \leftarrow x + c\, \nabla \log p_k(x) + \sqrt{2 c}\, z$$
#
# The cell below starts with exact draws of $x_k$ at $k = 120$, for pixels $\mathcal N(0.3,\, 0.5^2)$, and takes 100
# steps: of Langevin at that level with $c = \beta_k$; of line 4, with $k$ held fixed; and of line 4 as it is meant, $k$
# falling. ($\sigma_k^2 = \tilde\beta_k$; the score of a Gaussian is known.)

# %%
torch.manual_seed(0)


def line_4(x, k):
    ab, before = alpha_bar[k], alpha_bar[k - 1]
    beta = 1 - ab / before
    eps = oracle(x, torch.full((len(x),), k / T))
    mean = (x - beta / (1 - ab).sqrt() * eps) / (1 - beta).sqrt()
    return mean + (beta * (1 - before) / (1 - ab)).sqrt() * torch.randn_like(x)


def langevin_step(x, k):
    c = 1 - alpha_bar[k] / alpha_bar[k - 1]
    score = -oracle(x, torch.full((len(x),), k / T)) / (1 - alpha_bar[k]).sqrt()
    return x + c * score + (2 * c).sqrt() * torch.randn_like(x)


x0, oracle = gaussian_pictures(0.3, 0.5, alpha_bar)
k = 120
start = (alpha_bar[k].sqrt() * x0 + (1 - alpha_bar[k]).sqrt() * torch.randn_like(x0)).float()
ends = {"at the start": start, "Langevin, k fixed": start, "line 4, k fixed": start, "line 4, k falling": start}
for step in range(100):
    ends["Langevin, k fixed"] = langevin_step(ends["Langevin, k fixed"], k)
    ends["line 4, k fixed"] = line_4(ends["line 4, k fixed"], k)
    ends["line 4, k falling"] = line_4(ends["line 4, k falling"], k - step)


def moments_at(k):
    ab = alpha_bar[k]
    return f"mean {0.3 * ab.sqrt():.3f}, standard deviation {(0.25 * ab + 1 - ab).sqrt():.3f}"


for name, x in ends.items():
    print(f"{name:18} mean {x.mean():6.3f}, standard deviation {x.std():.3f}")
print(f"exact at k = 120:  {moments_at(120)}\nexact at k = 20:   {moments_at(20)}")

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** Write line 4 with the score in place of $\hat\varepsilon$. Name the two places where it then differs from a
# Langevin step with $c = \beta_k$.
#
# **b)** What does each of the three runs leave unchanged or lead to? Explain the standard deviations printed above.
#
# **c)** Both can be used in one sampler. What could a few Langevin steps at level $k$ repair that line 4 cannot? And
# why would Langevin alone, at level 0, never have drawn your digits from $\mathcal N(0, I)$ in 200 steps?

# %% [markdown] essay="line_4_or_langevin" points=3
# **a) 1 point.** The score is $-\hat\varepsilon / \sqrt{1 - \bar\alpha_k}$, so line 4 is
# $x_{k-1} = (x_k + \beta_k\, \text{score}) / \sqrt{1 - \beta_k} + \sigma_k z$. It differs (half a point each) by the
# *factor* $1 / \sqrt{1 - \beta_k}$, which undoes the shrinking of the step forward, and by the *noise*: variance
# $\sigma_k^2 \le \beta_k$ where Langevin has $2 \beta_k$. (That the level moves on from step to step is true as well,
# and belongs to b.)
#
# **b) 1 point: Langevin keeps, line 4 moves on.** Langevin at a fixed level leaves $p_k$ as it is, up to an error of
# the order of the step size: 0.86 before and after. Line 4 is a step from $p_k$ *to* $p_{k-1}$, and does not keep
# $p_k$. With $k$ falling it leads along $p_{119}, p_{118}, \dots$ to $p_{20}$, with that one's moments (0.51 for 0.52:
# a little narrower, as $\tilde\beta_k$ is the variance for a *known* $x_0$). Held at one level, each step shrinks and
# stretches again, with half of the noise that would keep the balance: the draws become too narrow, 0.77, and their
# mean drifts too far out, 0.27 for 0.17. Half a point for two runs explained.
#
# **c) 1 point: half for each.** Langevin pulls draws *towards* $p_k$ from wherever they are: it repairs errors that
# earlier steps have made (long strides, a poor network), which line 4 carries on; this is the corrector of Song et al.
# (2021). Alone at level 0 it fails because the score there is known only near the data (the network never saw pure
# noise at that level), because steps must be as small as the finest structure (nearly 0 at level 0), so 200 of them go
# nowhere, and because between the digits there is empty space that it hardly ever crosses. One reason is enough.
#
# Typical wrong answers, no points: "they are the same but for notation"; "Langevin has no noise"; "line 4 uses the
# gradient of the loss"; "Langevin needs no score".

# %% [markdown]
# ## Done
#
# You built what draws pictures: a schedule for small images, the pieces of a U-Net, the training step, a sampler that
# knows the range of pictures and one that takes long strides. And you found three bugs with a network that nobody had
# to train.
#
# **Hand in.** Restart the kernel and run all cells, save, and hand in this notebook under its name,
# `04_ddpm_mnist.ipynb`. Each check above should be content. Grading runs the same exercises on other numbers.
#
# **Go on.** Train for 2,000 steps and draw again. Leave out the dropped labels, or the clipping, and see what breaks
# first. The chapter's [quiz](../../book/ddpm_mnist.md#mnist-quiz) asks what you should now be able to answer. Next come
# colours, and guidance in earnest.
