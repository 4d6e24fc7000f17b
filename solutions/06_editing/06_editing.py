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
# # Lab 6: Editing
#
# One trained network, and not a single step of training. By the end it cleans pictures, turns a pocket calculator's
# digits into handwriting, completes what is hidden, and draws a 6 that is a 9 upside down. You write each of these, and
# each is a few lines: what changes is only what the sampler is told.
#
# **How it works**
#
# - Write the missing lines (mostly one to five), run the cell, run the check below it. Repeat as often as you like.
# - Look at the picture. It is drawn with *your* function once the check is content.
# - Stuck? Open the hints one at a time, or go on: until yours is right, the course's finished function stands in.
#
# **Time** about two and a half hours to write; about a minute to run. No GPU, no network.
#
# Read it beside the chapter, [Editing with a diffusion model](../../book/editing.md).

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch

from course_utils.data import load_mnist
from course_utils.exercises import check, grade, working
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_accuracy
from course_utils.plotting import BLUE, GREY, ORANGE, animate_images, image_grid
from course_utils.samplers import ddim, ddpm
from course_utils.training import load_pretrained
from course_utils.views import blur

# %% [markdown]
# ## What we have
#
# A network that was trained on MNIST and ships with the course, and real digits that it has never seen. It says the
# velocity $v = \alpha\, \varepsilon - \sigma\, x_0$ of
#
# $$x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon, \qquad \alpha(t) = \cos\tfrac{\pi t}{2}, \quad
# \sigma(t) = \sin\tfrac{\pi t}{2}.$$
#
# $t = 0$ is a clean picture, $t = 1$ is noise alone. `model` is the same network as a *denoiser*: `model(x, t)` says
# $\hat x_0$, its best guess of the clean picture. Every sampler of the course takes any such function, and that is the
# whole trick of this lab: **an edit is another denoiser**, or another place to start.

# %%
model = load_pretrained("mnist")
judge = load_pretrained("mnist_classifier")  # says which digit it sees; it learned from real ones only
net, schedule = model.net, model.schedule
images, labels = load_mnist("test")  # (500, 1, 28, 28) in [-1, 1] and (500,), not among the model's training pictures
ten = images[[(labels == digit).nonzero()[0].item() for digit in range(10)]]


def draws(y=None, scale=1.0):
    """The model as a denoiser for the labels y (B,), or for any digit; its guess is kept in the range of pictures."""
    says = model if y is None else condition(model, y)
    return clip(says if scale == 1 else cfg(says, model, scale))


def run(sampler, denoise, x, times):
    """The sampler's last state."""
    *_, x0 = sampler(denoise, schedule, x, times)
    return x0


image_grid(ten, alt="Ten handwritten digits, from 0 to 9.", titles=range(10))

# %% [markdown]
# ## 1. One step, or many
#
# ### Exercise 6.1: A clean picture in one step
#
# The network says $v$; you want the picture. Two equations, two unknowns:
#
# $$x = \alpha\, x_0 + \sigma\, \varepsilon, \qquad v = \alpha\, \varepsilon - \sigma\, x_0, \qquad
# \alpha^2 + \sigma^2 = 1.$$
#
# Solve them for $x_0$. See [One step, or many](../../book/editing.md#editing-one-step).


# %% solution="one_step"
def one_step(net, x, t, alpha, sigma):
    """x0_hat for samples x (B, ...) at time t, like x.

    net(x, t) says v; its t is a float tensor (B,) on x's device. t, alpha and
    sigma are numbers.
    """
    ### BEGIN SOLUTION
    same_time = torch.full((len(x),), t, device=x.device)
    return alpha * x - sigma * net(x, same_time)
    ### END SOLUTION


# %% tests="one_step_test" points=1
check("editing.one_step", one_step)
### BEGIN HIDDEN TESTS
grade("editing.one_step", one_step)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# You want to get rid of $\varepsilon$. By what must you multiply each equation, so that it falls out when you subtract
# them?
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\alpha$ times the first, minus $\sigma$ times the second. What is left in front of $x_0$?
#
# </details>
# <details><summary>Hint 3</summary>
#
# $\alpha^2 + \sigma^2 = 1$ is left. So $x_0 = \alpha\, x - \sigma\, v$, where $v$ is `net(x, ...)`, with the time as
# `torch.full((len(x),), t, device=x.device)`.
#
# </details>

# %%
guess = working("editing.one_step", globals())
widths = (0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6)


@torch.no_grad()
def three_ways(clean, t, n_steps):
    """Pictures noised to t, and cleaned by the best blur (which knows the answer), in one step, and in n_steps."""
    x = schedule.add_noise(clean, t, torch.randn_like(clean))
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    blurred = min((blur(x / alpha, width) for width in widths), key=lambda b: (b - clean).square().mean())
    return x, blurred, guess(net, x, t, alpha, sigma), run(ddpm, draws(), x, schedule.timesteps(n_steps, t))


torch.manual_seed(0)
levels = [0.2, 0.4, 0.6, 0.7, 0.8, 0.9]
columns = [three_ways(ten[3:4], t, 20) for t in levels]
image_grid(
    torch.cat([x for row in zip(*columns, strict=True) for x in row]),
    alt="A noisy 3 at six levels, cleaned in three ways. The blur smears it, one step gives a soft 3 that fades into a "
    "blot, many steps always give a sharp digit, at the end another one.",
    columns=len(levels),
    titles=[f"t = {t}" for t in levels],
    rows=["noisy", "best blur", "one step", "20 steps"],
)

# %%
torch.manual_seed(0)
times = [0.2, 0.4, 0.6, 0.8, 0.9]
clean = images[:16]
errors = [[(x - clean).square().mean().sqrt() for x in three_ways(clean, t, 10)[1:]] for t in times]
_, ax = plt.subplots(figsize=(5, 2.8), layout="constrained")
for values, name, color, line in zip(
    zip(*errors, strict=True),
    ("best blur", "one step", "10 steps"),
    (GREY, BLUE, ORANGE),
    ("^:", "o-", "s--"),
    strict=True,
):
    ax.plot(times, values, line, color=color, label=name)
ax.set(xlabel="t", ylabel="root mean squared error", ylim=(0, None))
ax.legend()
plt.show()

# %% [markdown]
# **Look:** a blur knows nothing about digits, and noise and strokes go together. The network's one step is the
# *closest* at every level. And yet it is the many steps that always look like a digit.
#
# **What looks odd:** the sharpest pictures have larger errors than the soft ones.
#
# <details><summary>An answer</summary>
#
# One step gives the *mean* of all digits that may be behind this noise; no other guess has a smaller expected squared
# error. Many steps pick *one* of them. Truth and pick are then two draws from the same set, equally far from its mean,
# so the squared error of a perfect sampler is exactly twice that of the mean, and its root $\sqrt 2$ times. At
# $t = 0.9$ the set holds several digits, and the pick may be another one.
#
# </details>

# %% [markdown]
# ## 2. From a drawing to a picture
#
# ### Exercise 6.2: Where SDEdit starts
#
# A sampler does not mind where its noisy picture comes from. So take any picture, add noise until its small features
# drown and its large ones are still there, and let the sampler go on from that point. That is all of SDEdit:
#
# $$x = \alpha(t_\text{start})\; \text{image} + \sigma(t_\text{start})\; \varepsilon,
# \qquad t_\text{start} = t_0 > t_1 > \dots > t_n = 0 \text{ in equal steps}.$$
#
# See [SDEdit](../../book/editing.md#sdedit).


# %% solution="sdedit_start"
def sdedit_start(image, t_start, n, noise, alpha, sigma):
    """(x, times): what the sampler starts from, like image, and its n + 1 times.

    image (B, ...); noise is like it; t_start in (0, 1] is a number. alpha and
    sigma are functions of time.
    """
    ### BEGIN SOLUTION
    drowned = alpha(t_start) * image + sigma(t_start) * noise
    return drowned, torch.linspace(t_start, 0, n + 1)
    ### END SOLUTION


# %% tests="sdedit_start_test" points=2
check("editing.sdedit_start", sdedit_start)
### BEGIN HIDDEN TESTS
grade("editing.sdedit_start", sdedit_start)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The sampler believes two things: that $x$ has the noise of its first time, and that the last time is clean. Which two
# numbers are these times?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `alpha(t_start)` and `sigma(t_start)` are the two factors. `torch.linspace(start, end, how_many)` makes equal steps.
#
# </details>
# <details><summary>Hint 3</summary>
#
# $n$ steps have $n + 1$ ends, so `how_many` is `n + 1`; it goes from `t_start` to `0`. Return the two with a comma
# between them.
#
# </details>

# %% [markdown]
# Here are ten digits that nobody wrote by hand: the seven bars of a pocket calculator. Let us ask for handwriting.

# %%
BARS = {"a": (4, 7, 8, 20), "b": (4, 15, 17, 20), "c": (12, 24, 17, 20), "d": (21, 24, 8, 20)}
BARS |= {"e": (12, 24, 8, 11), "f": (4, 15, 8, 11), "g": (12, 15, 8, 20)}
LIT = ["abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg"]


def calculator(digit):
    """A digit of seven bars, (1, 28, 28)."""
    picture = -torch.ones(1, 28, 28)
    for top, bottom, left, right in (BARS[bar] for bar in LIT[digit]):
        picture[:, top:bottom, left:right] = 1
    return picture.roll(-5, -1) if digit == 1 else picture  # the 1 in the middle


start = working("editing.sdedit_start", globals())
bars = torch.stack([calculator(digit) for digit in range(10)])


def edit(image, t_start, denoise, n_steps=15):
    """SDEdit with your start: (B, 1, 28, 28)."""
    x, times = start(image, t_start, n_steps, torch.randn_like(image), schedule.alpha, schedule.sigma)
    return run(ddpm, denoise, x, times)


torch.manual_seed(0)
strengths = [0.2, 0.4, 0.6, 0.8, 0.9]
image_grid(
    torch.cat([bars, *(edit(bars, t, draws(torch.arange(10))) for t in strengths)]),
    alt="Ten digits made of bars, and below them the same after more and more noise: first the bars grow soft corners, "
    "then they become strokes of a pen, at last digits in quite another hand.",
    columns=10,
    titles=range(10),
    rows=["drawing", *(f"t = {t}" for t in strengths)],
)

# %% [markdown]
# **Look:** row by row the bars turn into strokes. A little noise repairs only what is small: corners, edges. Much noise
# leaves only what is large: where the ink is, roughly. Half-way, a repair can add a stroke or close a loop. At
# $t = 0.9$ little more than the label is left of the drawing.
#
# What does the label do? Here is the price of each strength, with the label and without it.

# %%
torch.manual_seed(0)
asked = torch.arange(20) % 10
steps = [0.2, 0.4, 0.6, 0.8, 0.95]
_, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for name, denoise, color, line in (("with its label", draws(asked), BLUE, "o-"), ("no label", draws(), ORANGE, "s--")):
    edited = [edit(bars[asked], t, denoise, n_steps=8) for t in steps]
    left.plot(steps, [(x - bars[asked]).square().mean().sqrt() for x in edited], line, color=color, label=name)
    right.plot(steps, [classifier_accuracy(judge, x, asked) for x in edited], line, color=color, label=name)
left.set(xlabel="$t_{start}$", ylabel="distance to the drawing", ylim=(0, None))
right.set(xlabel="$t_{start}$", ylabel="still read as the digit", ylim=(0, 1.05))
right.legend()
plt.show()

# %% [markdown]
# **Look:** on the left, the distance grows with every bit of noise, label or not. On the right, the judge, which has
# never seen bars, may misread some of them while they are still bars. Later, without a label, the digit itself is
# forgotten: what the noise took away, the network makes up.
#
# ### Your own drawing
#
# Draw something: a `#` is ink. It need not be a digit. What does a network make of a house that has seen nothing but
# digits?

# %%
drawing = """
. . . . . . . . . . . . . .
. . . . . . # # . . . . . .
. . . . . # # # # . . . . .
. . . . # # . . # # . . . .
. . . # # . . . . # # . . .
. . # # . . . . . . # # . .
. . # # # # # # # # # # . .
. . # . . . . . . . . # . .
. . # . . . . # # . . # . .
. . # . . . . # # . . # . .
. . # . . . . # # . . # . .
. . # # # # # # # # # # . .
. . . . . . . . . . . . . .
. . . . . . . . . . . . . .
"""
ink = [[1.0 if sign == "#" else -1.0 for sign in line.split()] for line in drawing.strip().splitlines()]
house = torch.tensor(ink)[None, None].repeat_interleave(2, -1).repeat_interleave(2, -2)  # each sign is 2 x 2 pixels

torch.manual_seed(0)
strengths = [0.3, 0.5, 0.7, 0.8, 0.9]
rows = [edit(house.repeat(3, 1, 1, 1), t, draws()) for t in strengths]
image_grid(
    torch.cat([torch.cat([house, *(row[i : i + 1] for row in rows)]) for i in range(3)]),
    alt="A drawn house, three times, and what becomes of it at rising strengths: a house in soft strokes, then "
    "something between a house and a digit, then digits.",
    columns=6,
    titles=["drawing", *(f"t = {t}" for t in strengths)],
)

# %% [markdown]
# **Look:** faithful on the left, plausible on the right, and in between a house as a digit might draw it. No strength
# gives both, when the drawing lies far from all that the network knows.

# %% [markdown]
# ## 3. Fill in what is hidden
#
# ### Exercise 6.3: A denoiser that knows some pixels
#
# Cover a part of a picture and ask for the rest. The sampler asks the denoiser for a guess of the clean picture; but
# some of its pixels need no guess. Put those in:
#
# $$\hat x_0' = \text{mask} \cdot \text{known} + (1 - \text{mask}) \cdot \hat x_0.$$
#
# That is again a denoiser, so every sampler takes it. See [Inpainting](../../book/editing.md#inpainting).


# %% solution="inpainted"
def inpainted(denoise, known, mask, x, t):
    """x0_hat with the known pixels put in, like x (B, ...).

    denoise(x, t) says x0_hat. mask holds 1.0 where a pixel is known and 0.0
    where it is not; mask and known broadcast to x's shape.
    """
    ### BEGIN SOLUTION
    return mask * known + (1 - mask) * denoise(x, t)
    ### END SOLUTION


# %% tests="inpainted_test" points=1
check("editing.inpainted", inpainted)
### BEGIN HIDDEN TESTS
grade("editing.inpainted", inpainted)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What should the denoiser look at: $x$ as it is, or $x$ with clean pixels in it? What was it trained on?
#
# </details>
# <details><summary>Hint 2</summary>
#
# First ask `denoise(x, t)`, then put the known pixels into its answer.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The formula as it stands, in one line. (Or `torch.where`; the mask must then be of type bool.)
#
# </details>

# %%
put_in = working("editing.inpainted", globals())
mask = torch.zeros(1, 1, 28, 28)
mask[..., :14, :] = 1  # the upper half is known


def knowing(denoise, known, mask):
    """The denoiser that your function makes."""
    return lambda x, t: put_in(denoise, known, mask, x, t)


def covered(picture, mask):
    """The picture with its unknown pixels in grey."""
    return torch.where(mask > 0, picture, 0.0)


torch.manual_seed(0)
grid = schedule.timesteps(20)
noise = torch.randn(10, 1, 28, 28)
filled = {
    name: run(sampler, knowing(draws(), ten, mask), noise, grid) for name, sampler in (("ddim", ddim), ("ddpm", ddpm))
}
image_grid(
    torch.cat([ten, covered(ten, mask), *filled.values()]),
    alt="Ten digits, the same with their lower half covered, and two rows of completed digits, in which many strokes "
    "do not meet at the edge of what was covered.",
    columns=10,
    rows=["real", "known", *filled],
)

# %% [markdown]
# **Look:** the upper halves are as they were, to the last pixel. The lower halves are strokes of a pen. But do they
# belong together? At many joints a stroke breaks off, or two halves of different digits meet. DDIM is worse: it never
# adds noise, so what went wrong early stays.
#
# Is that the network's fault? We ask someone who makes no mistakes.
#
# ### The same for two pixels
#
# Let a "picture" have two pixels, each $\mathcal N(0, 1)$, with correlation $\rho = 0.8$. Its best denoiser is known
# exactly. The first pixel is known, 1.5. Then the second one has mean $0.8 \cdot 1.5 = 1.20$ and variance
# $1 - 0.8^2 = 0.36$. Does your denoiser get there?

# %%
RHO, KNOWN = 0.8, 1.5
covariance = torch.tensor([[1, RHO], [RHO, 1]], dtype=torch.float64)


def exact(x, t):
    """The best possible denoiser for the two pixels; x (B, 2), float64."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return x @ torch.linalg.solve(alpha**2 * covariance + sigma**2 * torch.eye(2), alpha * covariance)


two_pixels = knowing(exact, torch.tensor([[KNOWN, 0.0]]).double(), torch.tensor([[1.0, 0.0]]).double())


def draw_pairs(sampler, n_steps, n=10_000):
    """The second pixels (n,) that a sampler draws beside the first, known one."""
    torch.manual_seed(0)
    return run(sampler, two_pixels, torch.randn(n, 2).double(), schedule.timesteps(n_steps))[:, 1]


def compare_with_truth(draws, title):
    """Histograms of second pixels, {name: (n,)}, against the exact density."""
    line = np.linspace(-1.5, 3.5, 400)
    _, axes = plt.subplots(1, len(draws), figsize=(4 * len(draws), 2.4), layout="constrained", sharey=True)
    for ax, (name, x) in zip(axes, draws.items(), strict=True):
        ax.hist(x.numpy(), bins=np.linspace(-1.5, 3.5, 80), density=True, color=ORANGE, alpha=0.6)
        ax.plot(line, np.exp(-((line - 1.2) ** 2) / 0.72) / (0.72 * np.pi) ** 0.5, "k", label="exact")
        ax.axvline(x.mean(), color=ORANGE, ls="--")
        ax.set(title=f"{name}: mean {x.mean():.2f}, variance {x.var():.2f}", xlabel="second pixel", yticks=[])
    axes[0].legend()
    plt.suptitle(title, fontsize=10)
    plt.show()


compare_with_truth({"ddim": draw_pairs(ddim, 50), "ddpm": draw_pairs(ddpm, 50)}, "should be: mean 1.20, variance 0.36")

# %% [markdown]
# **Look:** with the best denoiser there is, the second pixel still does not know enough about the first. So it is the
# method: it is [biased](../../book/editing.md#inpainting-bias). Early on, all that the denoiser sees of the known pixel
# is noise, so it guesses the second as if there were no first. Later the second has already made up its mind.
#
# ## 4. Second thoughts
#
# If the mind is made up too early, go back. *RePaint* adds noise again and walks down once more, many times: what goes
# back up has already met the known pixels with less noise in them.
#
# ### Exercise 6.4: Back up into the noise
#
# $x$ is at a time with $\alpha, \sigma$. Carry it up to a noisier time with $\alpha', \sigma'$, as if the clean picture
# had been noised to there. $x$ has noise already, so only the rest is missing:
#
# $$x' = r\, x + \sqrt{\sigma'^2 - (r\, \sigma)^2}\;\, \varepsilon, \qquad r = \frac{\alpha'}{\alpha}.$$
#
# See [RePaint](../../book/editing.md#repaint).


# %% solution="renoise"
def renoise(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    """x (B, ...) carried up from one time to a noisier one, with the given noise.

    The alphas and sigmas are numbers.
    """
    ### BEGIN SOLUTION
    shrunk = alpha_to / alpha_from
    missing = sigma_to**2 - (shrunk * sigma_from) ** 2
    return shrunk * x + missing**0.5 * noise
    ### END SOLUTION


# %% tests="renoise_test" points=2
check("editing.renoise", renoise)
### BEGIN HIDDEN TESTS
grade("editing.renoise", renoise)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The picture inside $x$ has the factor $\alpha$, and must get the factor $\alpha'$. What happens to the noise inside
# $x$ on the way?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Variances of independent noises add up. Which variance is there after the shrinking, and which is wanted?
#
# </details>
# <details><summary>Hint 3</summary>
#
# `r = alpha_to / alpha_from`; the noise in `r * x` has the variance `(r * sigma_from) ** 2`; the new noise gets the
# root of what is missing to `sigma_to ** 2`. All are plain numbers, so `** 0.5` is the root.
#
# </details>

# %% [markdown]
# Up a good part of the way and down again, over and over: what becomes of a digit?

# %%
go_up = working("editing.renoise", globals())


def up(x, t_from, t_to):
    """x carried from t_from up to t_to by your function, with fresh noise."""
    levels = [f(t).item() for t in (t_from, t_to) for f in (schedule.alpha, schedule.sigma)]
    return go_up(x, *levels, torch.randn_like(x))


torch.manual_seed(0)
film = [ten]
for _ in range(12):
    film.append(run(ddpm, draws(), up(film[-1], 0.0, 0.65), schedule.timesteps(8, 0.65)))
animate_images(
    film,
    alt="Ten digits that change from frame to frame: strokes bend and move, and now and then one digit becomes "
    "another.",
    columns=10,
    titles=[f"{i} times up and down" for i in range(len(film))],
)

# %% [markdown]
# **Look:** a digit stays a digit, and slowly becomes another one. Nothing pulls it back to where it started: up and
# down is a random walk among all digits. RePaint needs just that, in small: the walk forgets what was made up, while
# known pixels are put in again and again.

# %% [markdown]
# ### Exercise 6.5: Times that go back up
#
# Walk every stretch of `jump` steps `n_resample` times before the next one. With the times $1, \frac34, \frac12,
# \frac14, 0$, a jump of 2 and two walks:
#
# $$\underbrace{1, \tfrac34, \tfrac12}_{\text{walk 1}}, \underbrace{1, \tfrac34, \tfrac12}_{\text{walk 2}},
# \underbrace{\tfrac14, 0}_{\text{walk 1}}, \underbrace{\tfrac12, \tfrac14, 0}_{\text{walk 2}}.$$
#
# Where a walk begins again, the times rise: there you will noise again. Mind that a stretch begins where the one before
# it ended, and that this time stands only once. See [RePaint](../../book/editing.md#repaint).


# %% solution="repaint_times"
def repaint_times(times, jump, n_resample):
    """The times with their jumps back up, a tensor (m,).

    times (n + 1,) fall; the last stretch may have fewer than `jump` steps.
    """
    ### BEGIN SOLUTION
    there_and_back = [times[:1]]
    for first in range(0, len(times) - 1, jump):
        walk = times[first : first + jump + 1]
        there_and_back += [walk[1:]] + [walk] * (n_resample - 1)
    return torch.cat(there_and_back)
    ### END SOLUTION


# %% tests="repaint_times_test" points=2
check("editing.repaint_times", repaint_times)
### BEGIN HIDDEN TESTS
grade("editing.repaint_times", repaint_times)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# In the example, how does the first walk of a stretch differ from all its further ones?
#
# </details>
# <details><summary>Hint 2</summary>
#
# A stretch of `jump` steps has `jump + 1` ends: `times[i : i + jump + 1]`, for `i` in
# `range(0, len(times) - 1, jump)`. A slice may reach over the end, so the short last stretch needs no case of its own.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Collect pieces in a list and `torch.cat` them. First `times[:1]`. Then for each stretch: the stretch without its first
# time, once; and the whole stretch, `n_resample - 1` times.
#
# </details>

# %%
back_up = working("editing.repaint_times", globals())
_, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
for n_resample, name, color, line in ((1, "1 walk", GREY, "o--"), (3, "3 walks", BLUE, "o-")):
    ax.plot(back_up(schedule.timesteps(20), 5, n_resample), line, ms=3, color=color, label=name)
ax.set(xlabel="entry of the list of times", ylabel="t")
ax.legend()
plt.show()


# %%
def resampled(denoise, schedule, x, times):
    """A sampler whose times may rise: down by ancestral steps, up by your function."""
    for t, t_next in pairwise(times.tolist()):
        if t_next > t:
            x = up(x, t, t_next)
        else:
            x = run(ddpm, denoise, x, [t, t_next])
        yield x


def repaint(n_resample, jump=1):
    """The sampler that walks each stretch so many times."""
    return lambda denoise, schedule, x, times: resampled(denoise, schedule, x, back_up(times, jump, n_resample))


walks = [1, 2, 5, 10, 20]
pairs = {n: draw_pairs(repaint(n), 50) for n in walks}
compare_with_truth({f"{n} walk{'s' * (n > 1)}": pairs[n] for n in (1, 2, 10)}, "the two pixels again, by RePaint")
_, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
ax.plot(walks, [x.mean() for x in pairs.values()], "o-", color=BLUE, label="mean")
ax.plot(walks, [x.var() for x in pairs.values()], "s--", color=ORANGE, label="variance")
for value, color in ((1.2, BLUE), (0.36, ORANGE)):
    ax.axhline(value, color=color, lw=0.8, ls=":")
ax.set(xlabel="walks", ylabel="of the second pixel", xticks=walks, ylim=(0, 1.3))
ax.legend(loc="center right")
plt.show()

# %% [markdown]
# **Look:** the mean climbs towards the dotted line at 1.20: each walk brings the two pixels closer to an agreement.
# The price is one network call a step and walk. The variance falls *below* 0.36: long steps make it a little too
# narrow, and with many walks that adds up. Smaller steps mend it.
#
# And the digits?

# %%
torch.manual_seed(0)
filled["RePaint"] = run(repaint(5, jump=4), knowing(draws(), ten, mask), noise, grid)
image_grid(
    torch.cat([covered(ten, mask), *filled.values()]),
    alt="Ten digits with their lower half covered, and three rows of completed ones. In the last row, by RePaint, "
    "nearly all strokes meet at the edge and the digits are whole.",
    columns=10,
    rows=["known", *filled],
)


# %% [markdown]
# **Look:** the strokes go on where they broke off. Not every digit is the one it was, and it need not be: from its
# upper half alone, who could tell an 8 from a 9? (By how much the pixels jump at the edge, over many digits, the
# [chapter](../../book/editing.md#repaint) has measured: ten are too few for a number.)
#
# That makes a question: *what else* could it have been? Here are three halves, and nine answers to each.

# %%
torch.manual_seed(0)
known = ten[[4, 7, 8]].repeat_interleave(9, 0)
answers = run(repaint(4, jump=4), knowing(draws(), known, mask), torch.randn_like(known), schedule.timesteps(12))
image_grid(
    torch.cat(
        [torch.cat([covered(ten[d : d + 1], mask), answers[9 * i : 9 * i + 9]]) for i, d in enumerate((4, 7, 8))]
    ),
    alt="Three rows: the upper half of a digit, and nine ways to complete it. Some are the digit that it was, others "
    "are other digits with the same upper half, and a few are no digit.",
    columns=10,
    titles=["known", *range(1, 10)],
)

# %% [markdown]
# **Look:** where the upper half leaves a choice, the answers differ: an 8 may end as a 9. And now and then one is no
# digit at all. Twelve steps with four walks each are few.

# %% [markdown]
# ## 5. Two pictures in one
#
# ### Exercise 6.6: One picture, seen in two ways
#
# A 6, turned upside down, is a 9. Can one picture be two digits in general? Ask two denoisers. One looks at $x$ as it
# is; the other at $x$ *in its view*, turned upside down, and its answer is turned back. The mean of both is again a
# denoiser:
#
# $$\hat x_0 = \tfrac12 \Bigl(\text{denoise}(x, t) + \text{inverse}\bigl(\text{denoise}_\text{turned}(\text{view}(x),
# t)\bigr)\Bigr).$$
#
# See [Visual anagrams](../../book/editing.md#anagrams).


# %% solution="anagram"
def anagram(denoise, denoise_turned, view, inverse, x, t):
    """x0_hat, the mean of what both denoisers say, like x (B, C, H, W).

    denoise(x, t) and denoise_turned(x, t) say x0_hat; view and inverse are
    functions on pictures.
    """
    ### BEGIN SOLUTION
    as_it_is = denoise(x, t)
    in_the_view = denoise_turned(view(x), t)
    return (as_it_is + inverse(in_the_view)) / 2
    ### END SOLUTION


# %% tests="anagram_test" points=2
check("editing.anagram", anagram)
### BEGIN HIDDEN TESTS
grade("editing.anagram", anagram)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A mean of two pictures makes sense only when both are seen from the same side. Which of the two answers is turned?
#
# </details>
# <details><summary>Hint 2</summary>
#
# From inside out: `view`, then `denoise_turned`, then `inverse`. For a quarter turn view and inverse are not the same.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `inverse(denoise_turned(view(x), t))`, added to `denoise(x, t)`; then divided by 2.
#
# </details>

# %%
both = working("editing.anagram", globals())


def upside_down(x):
    """Turned by half a circle: its own inverse."""
    return torch.rot90(x, 2, (-2, -1))


pairs = [(6, 9), (9, 6), (0, 0), (1, 1), (2, 2), (5, 5), (8, 8), (3, 8), (5, 2), (4, 7)]
upright, turned = torch.tensor(pairs).T


def two_in_one(view, inverse, n_steps=20):
    """All states on the way to anagrams of the pairs."""
    see, see_turned = draws(upright, scale=3), draws(turned, scale=3)
    x = torch.randn(len(pairs), 1, 28, 28)
    return [x, *ddpm(lambda x, t: both(see, see_turned, view, inverse, x, t), schedule, x, schedule.timesteps(n_steps))]


torch.manual_seed(0)
path = two_in_one(upside_down, upside_down)
animate_images(
    [torch.cat([x, upside_down(x)]) for x in path],
    alt="Out of noise come ten pictures; below, the same pictures upside down. A 6 above is a 9 below; a 3 above an 8 "
    "below.",
    columns=10,
    rows=["as it is", "turned"],
    titles=[f"t = {t:.2f}" for t in schedule.timesteps(len(path) - 1)],
)

# %%
x0 = path[-1]
print(f"the judge reads as asked: as it is {classifier_accuracy(judge, x0, upright):.0%}, ", end="")
print(f"turned {classifier_accuracy(judge, upside_down(x0), turned):.0%}")

# %% [markdown]
# **Look:** in each column the same picture, twice. We asked for 6 and 9, for 9 and 6, for 0, 1, 2, 5 and 8 both ways,
# and then for 3 and 8, 5 and 2, 4 and 7. Where two digits have much in common, the picture is good; 4 and 7 have
# little, and one can see the compromise.
#
# **Think:** both denoisers see the *same* noisy picture. What would happen if you drew a 6 and a turned 9 separately,
# and took the mean at the end?
#
# <details><summary>An answer</summary>
#
# Two digits, one on top of the other, each half as dark. Here they must agree in every step: what one of them puts into
# $x$, the other finds there, and builds on it.
#
# </details>

# %% [markdown]
# ### Exercise 6.7: One picture from afar, another from close by
#
# Not every part of a picture needs the same author. Split the guess into what a blur leaves and the rest; take the one
# from one denoiser, the other from another:
#
# $$\hat x_0 = \text{blur}\bigl(\text{far}\bigr) + \bigl(\text{near} - \text{blur}(\text{near})\bigr).$$
#
# If both denoisers say the same, it must come out unchanged: the two filters sum to the identity. See
# [Hybrids](../../book/editing.md#hybrids).


# %% solution="hybrid"
def hybrid(denoise_far, denoise_near, blur, x, t):
    """x0_hat whose blurred part is of one denoiser, and the rest of the other.

    denoise_far(x, t) and denoise_near(x, t) say x0_hat, like x (B, C, H, W).
    blur is a linear function on pictures.
    """
    ### BEGIN SOLUTION
    from_close_by = denoise_near(x, t)
    return blur(denoise_far(x, t)) + from_close_by - blur(from_close_by)
    ### END SOLUTION


# %% tests="hybrid_test" points=2
check("editing.hybrid", hybrid)
### BEGIN HIDDEN TESTS
grade("editing.hybrid", hybrid)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What do you get when `denoise_far` and `denoise_near` are the same function? And what should you get?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Both denoisers look at the same `x`, as it is. Only their answers go through the filters.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `near` minus `blur(near)` are the details. To them comes `blur` of what `denoise_far` says.
#
# </details>

# %%
split = working("editing.hybrid", globals())
pairs = [(0, 1), (8, 3), (0, 7), (6, 1), (2, 4), (0, 4), (7, 2), (9, 5), (0, 6), (1, 0)]  # far, near
far, near = torch.tensor(pairs).T


def two_authors(part, scale, n_steps=16):
    """One picture a pair: what the linear function `part` leaves is of the first digit, the rest of the second."""
    torch.manual_seed(0)
    see_far, see_near = draws(far, scale), draws(near, scale)
    x = torch.randn(len(pairs), 1, 28, 28)
    return run(ddpm, lambda x, t: split(see_far, see_near, part, x, t), x, schedule.timesteps(n_steps))


widths = [1.0, 1.7, 3.0]
image_grid(
    torch.cat([two_authors(lambda x, width=width: blur(x, width), scale=3) for width in widths]),
    alt="Three rows of ten hybrids. With a narrow blur the pictures are the first digit, with a wide one the second; "
    "in between they have something of both.",
    columns=10,
    titles=[f"{a}\n{b}" for a, b in pairs],
    rows=[f"{width} pixels" for width in widths],
)

# %% [markdown]
# **Look:** above each column stand the far digit and, below it, the near one. With a narrow blur nearly all of a digit
# is "far", with a wide one nearly all of it is "near". In between the two must share: a 0 with a stroke through it, for
# one.
#
# Digits make poor hybrids: they are strokes of one width, with little to see from afar. But nothing in your function
# asks for a blur. *Any* linear function on pictures will do, such as "the upper half" (now the first digit is above
# and the second below):

# %%
image_grid(
    two_authors(lambda x: mask * x, scale=1.5),
    alt="Ten signs that are no digits: each has the upper half of one digit and the lower half of another, mostly "
    "joined without a break.",
    columns=10,
    titles=[f"{a}\n{b}" for a, b in pairs],
)

# %% [markdown]
# **Look:** signs that nobody has ever written, with the upper half of one digit and the lower half of another. There is
# hardly a seam: both authors have seen all of the picture in every step.

# %% [markdown]
# ### An author who knows
#
# What if the first author always says the same, a *known* picture? Then `part` is what you know of it, and the network
# makes up the rest. With `mask * x` for `part` that is Exercise 6.3 again. With a blur it is a new tool: of the real
# digits only the upper row is used.

# %%
torch.manual_seed(0)


def smear(x):
    return blur(x, 2.0)


def sharpened(x, t):
    """A denoiser that knows what its picture looks like through the blur."""
    return split(lambda x, t: ten, draws(), smear, x, t)


same = put_in(draws(), ten, mask, noise, 0.5) - split(lambda x, t: ten, draws(), lambda x: mask * x, noise, 0.5)
print(f"inpainting and a hybrid of halves with a known author differ by {same.abs().max():.1g}")
samplers = {"ddpm": ddpm, "RePaint": repaint(4, jump=4)}
image_grid(
    torch.cat(
        [smear(ten), *(run(sampler, sharpened, noise, schedule.timesteps(12)) for sampler in samplers.values()), ten]
    ),
    alt="Ten smeared digits, two rows of sharp ones made of them, and the real ones. In the first of the two rows some "
    "have smudges beside them; in the second, by RePaint, they are clean and look much like the real ones.",
    columns=10,
    rows=["known", *samplers, "real"],
)

# %% [markdown]
# **Look:** from smears to pen strokes. `denoise_far` never looks at `x`, and of what it says only the blur is used. The
# bias is that of inpainting, and so is the cure: your times that go back up.

# %% [markdown]
# ## 6. Find the bug
#
# ### Exercise 6.8: Grain on what was known
#
# There is another way to inpaint, RePaint's own: leave the denoiser as it is, and after every step *paste* the known
# pixels into the state, with the noise that belongs there. Here is somebody's program. It has one bug, which has been
# seen in published code.


# %%
def broken_inpainting(denoise, known, mask, x, times, alpha, sigma, noise):
    for i in range(len(times) - 1):
        x0_hat = denoise(x, times[i])
        eps = (x - alpha[i] * x0_hat) / sigma[i]
        x = alpha[i + 1] * x0_hat + sigma[i + 1] * eps  # a DDIM step
        pasted = alpha[i] * known + sigma[i] * noise[i]  # the known pixels, noised ...
        x = mask * pasted + (1 - mask) * x  # ... and pasted
    return x


def paste_digits(program, n_steps=10):
    """Ten digits completed by such a program, always from the same noise."""
    torch.manual_seed(0)
    times = schedule.timesteps(n_steps)
    noise = torch.randn(n_steps + 1, 10, 1, 28, 28)
    tables = schedule.alpha(times).float(), schedule.sigma(times).float()
    return program(draws(), ten, mask, noise[0], times, *tables, noise[1:])


grainy = paste_digits(broken_inpainting)
image_grid(
    torch.cat([covered(ten, mask), grainy]),
    alt="Ten digits with their lower half covered, and the completed ones: their upper half, which was known, is now "
    "covered with grain.",
    columns=10,
    rows=["known", "broken"],
)

# %% [markdown]
# The known half has grain on it, of all things. What does the oracle say? For the two pixels we know what must hold
# after each step: the known one is $\mathcal N(\alpha \cdot 1.5,\; \sigma^2)$, with the $\alpha$ and $\sigma$ of the
# time at which the step *ends*.


# %%
def ask_the_oracle(program, title, n_steps=10, n=5000):
    """Run a program on the two pixels; draw the spread of the known one against what the denoiser expects."""
    torch.manual_seed(0)
    times = schedule.timesteps(n_steps)
    noise = torch.randn(n_steps + 1, n, 2).double()
    spread = []

    def watching(x, t):
        spread.append(x[:, 0].std().item())
        return exact(x, t)

    known, known_mask = torch.tensor([[KNOWN, 0.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    x0 = program(watching, known, known_mask, noise[0], times, schedule.alpha(times), schedule.sigma(times), noise[1:])
    spread.append(x0[:, 0].std().item())
    _, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
    ax.plot(times, schedule.sigma(times), ":k", label="as it should be")
    ax.plot(times, spread, "o", color=ORANGE, label=title)
    ax.set(xlabel="t (time runs to the left)", ylabel="spread of the known pixel", ylim=(-0.05, 1.15))
    ax.legend()
    plt.show()
    print(f"{title}: in the end the known pixel is {x0[:, 0].mean():.2f} +- {spread[-1]:.2f} (should be 1.50 +- 0.00)")


ask_the_oracle(broken_inpainting, "broken")

# %% [markdown]
# Copy the program into the cell below and mend it. One line is enough.


# %% solution="fix_the_inpainting"
def fix_the_inpainting(denoise, known, mask, x, times, alpha, sigma, noise):
    """x_0, like x (B, ...), by DDIM steps with the known pixels pasted after each.

    times, alpha and sigma are tables (n + 1,); noise (n, B, ...): noise[i] is
    for the pixels that are pasted after step i.
    """
    ### BEGIN SOLUTION
    for i in range(len(times) - 1):
        x0_hat = denoise(x, times[i])
        eps = (x - alpha[i] * x0_hat) / sigma[i]
        x = alpha[i + 1] * x0_hat + sigma[i + 1] * eps
        pasted = alpha[i + 1] * known + sigma[i + 1] * noise[i]
        x = mask * pasted + (1 - mask) * x
    return x
    ### END SOLUTION


# %% tests="fix_the_inpainting_test" points=3
check("editing.fix_the_inpainting", fix_the_inpainting)
### BEGIN HIDDEN TESTS
grade("editing.fix_the_inpainting", fix_the_inpainting)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The oracle's points lie beside the dotted line, and always to the same side. By how much: by one step, or by some
# other amount?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Write beside each line the time at which its left side lives. Where do two times meet that are not the same?
#
# </details>
# <details><summary>Hint 3</summary>
#
# After the step, $x$ is at `times[i + 1]`. What is pasted into it is still at `times[i]`.
#
# </details>

# %%
mended = working("editing.fix_the_inpainting", globals())
ask_the_oracle(mended, "mended")
image_grid(
    torch.cat([grainy, paste_digits(mended)]),
    alt="Two rows of ten completed digits. Above, the known upper half has grain on it; below it is clean.",
    columns=10,
    rows=["broken", "mended"],
)

# %% [markdown]
# **Look:** the points lie on the line, and the known half is clean: the last step pastes with $\alpha = 1$ and
# $\sigma = 0$, with no special case for it.
#
# With more steps the bug would have been harder to see: the grain is that of the last time but one. A mistake that
# shrinks with the number of steps is easily taken for a price of few steps.
#
# ([More mistakes of this kind](../../book/editing.md#editing-mistakes).) Strokes still break at the edge: no bug, but
# the bias that you know.

# %% [markdown]
# ## 7. In your own words
#
# ### Exercise 6.9: Why do the halves not agree? (3 points)
#
# The two pixels once more, without the network's errors. The first table: mean and variance of the second pixel for
# more steps, and for more walks. The second one: what the denoiser of Exercise 6.3 says of the second pixel on the way,
# on average; and beside it a denoiser that *really* knows the first, $\mathbb E[x_0^{(2)} \mid x_t^{(2)},
# x_0^{(1)} = 1.5]$.


# %%
def really_knowing(x, t):
    """The best denoiser of the second pixel for someone who knows the first: that of N(1.20, 0.36)."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    gain = alpha * 0.36 / (alpha**2 * 0.36 + sigma**2)
    second = RHO * KNOWN + gain * (x[:, 1] - alpha * RHO * KNOWN)
    return torch.stack([torch.full_like(second, KNOWN), second], 1)


def averages(denoise, sampler, n_steps):
    """(mean, variance) of the second pixel, and {t: the denoiser's mean guess of it} on the way down."""
    said = {}

    def watching(x, t):
        guess = denoise(x, t)
        said[round(t, 2)] = guess[:, 1].mean().item()
        return guess

    torch.manual_seed(0)
    x = run(sampler, watching, torch.randn(5000, 2).double(), schedule.timesteps(n_steps))[:, 1]
    return x.mean().item(), x.var().item(), said


for n_steps in (20, 100, 500):
    mean, variance, _ = averages(two_pixels, ddpm, n_steps)
    print(f"{n_steps:3} steps,  1 walk : mean {mean:.2f}, variance {variance:.2f}")
for n_steps in (20, 100):
    mean, variance, _ = averages(two_pixels, repaint(10), n_steps)
    print(f"{n_steps:3} steps, 10 walks: mean {mean:.2f}, variance {variance:.2f}")
mean, variance, said_knowing = averages(really_knowing, ddpm, 100)
print(f"100 steps, really knowing: mean {mean:.2f}, variance {variance:.2f}\n")
said = averages(two_pixels, ddpm, 100)[2]
for t in (1.0, 0.8, 0.6, 0.4, 0.2, 0.01):
    print(f"t = {t:4}: Exercise 6.3 says {said[t]:5.2f}, really knowing {said_knowing[t]:.2f}")

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** Your denoiser puts the known pixel into its answer, exactly. Why is the second pixel too small all the same?
# Use the second table: what does the denoiser know about the first pixel at $t = 1$, and what later?
#
# **b)** Why do more steps not help, and why do more walks help? What is odd about the variance at 20 steps and 10
# walks, and what becomes of it at 100 steps?
#
# **c)** Why can't we use the denoiser that really knows for digits, with the network that we have? Describe a network
# that could be trained so that no walks are needed.

# %% [markdown] essay="why_the_halves_disagree" points=3
# **a) 1 point: the guess of the unknown pixel looks at a noisy copy of the known one.** The known value is put in
# *after* the denoiser has spoken; what it looked at is $x_t$, in which the first pixel has the noise of time t like all
# others. At t = 1 it sees noise alone and says about 0, the mean without any knowledge, where 1.20 would be right. As t
# falls its copy gets cleaner and the guess rises, but by then the second pixel has been drawn to fit the earlier
# guesses, and at small t the denoiser trusts what it finds in $x_t^{(2)}$. So it ends between. Half a point for "early
# guesses ignore the known pixel" without saying why (that it is seen through noise); half for why it cannot catch up.
#
# **b) 1 point: half for steps, half for walks and variance.** More steps follow the same (wrong) denoiser more
# precisely: the error is not one of step size, the mean hardly changes. A jump back up and a further walk let the
# second pixel forget part of what it was, and be drawn again beside a first pixel that is at this level of noise, not
# at a higher one; repeated, it settles where both fit together at this level, which at small t is nearly the exact
# conditional. The variance is too small with 20 steps because each long ancestral step has the variance for a known
# $x_0$, a little too narrow, and every walk repeats it; with 100 steps it is nearer to 0.36.
#
# **c) 1 point: half for each.** The network has learned $\mathbb E[x_0 \mid x_t]$, all pixels at one noise level; what
# is needed is a mean given noisy unknown *and clean known* pixels, and for digits (unlike a Gaussian) it does not
# follow from the former by a formula. Train a network for it: as further input channels it gets the known pixels,
# clean, and the mask, with random masks in training (or: a noise level for each pixel, 0 where known). Full credit also
# for adding the gradient of a likelihood of the known pixels, if it is said to be an approximation.
#
# Typical wrong answers, no points: "the network is not good enough" (here it is exact); "DDPM's noise destroys the
# known pixel" (it is exact in the end); "too few steps"; "the mask should be soft".

# %% [markdown]
# ### Exercise 6.10: Which views may be used? (3 points)
#
# Exercise 6.6 took any pair of a view and its inverse. Here are four of them, each really undone by its inverse. For
# each: what the view makes of white noise, and the pictures that come out (a 0 both ways, a 1 both ways, and so on; the
# lower row is what the second denoiser sees).


# %%
def shuffled(x, order):
    """Pixels in another order."""
    return x.flatten(-2)[..., order].reshape(x.shape)


order = torch.randperm(28 * 28, generator=torch.Generator().manual_seed(0))
views = {
    "upside down": (upside_down, upside_down),
    "twice as strong": (lambda x: 2 * x, lambda x: x / 2),
    "the negative": (torch.neg, torch.neg),
    "shuffled": (lambda x: shuffled(x, order), lambda x: shuffled(x, order.argsort())),
}
digits = torch.tensor([0, 1, 5, 8])
see = draws(digits, scale=3)
white = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
drawn = []
for name, (view, inverse) in views.items():
    torch.manual_seed(0)

    def through(x, t, view=view, inverse=inverse):
        """The same denoiser, asked in the view."""
        return inverse(see(view(x), t))

    mean = cfg(through, see, 0.5)  # as in Exercise 6.6; but the course's own function would refuse some of these views
    drawn.append(run(ddpm, mean, torch.randn(len(digits), 1, 28, 28), grid))
    seen = view(white)
    beside = (seen[..., 1:] * seen[..., :-1]).mean() / seen.var()
    read = classifier_accuracy(judge, drawn[-1], digits), classifier_accuracy(judge, view(drawn[-1]), digits)
    print(f"{name:16} noise: standard deviation {seen.std():.2f}, neighbours correlate {beside:5.2f}; ", end="")
    print(f"read as asked: {read[0]:.0%} and, in the view, {read[1]:.0%}")
image_grid(
    torch.cat([torch.cat([x, view(x)]) for x, (view, _) in zip(drawn, views.values(), strict=True)]),
    alt="Eight rows of four pictures: for each of four views the picture and what is seen in the view. Upside down "
    "both are clean digits; twice as strong, there is a digit on grey paper; the others are patches and dots.",
    columns=4,
    rows=[row for name in views for row in (name, "in the view")],
)

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** The denoiser must be asked about $x_t$ as it was in training. Which property of a view keeps this so, for the
# picture's noise? Which of the four views breaks it, and what does the second denoiser take its $x$ for?
#
# **b)** Two of the others keep the noise as it must be, and still nothing comes out that could pass for a digit in both
# views. Why not? For which pictures, or which model, would they be good views? (Trust your eyes: the judge has to name
# one of ten digits whatever it sees, dots too.)
#
# **c)** A hybrid's filters (Exercise 6.7) change white noise, too: a blur makes it anything but white. Why is this
# allowed there? And why must the filters sum to the identity: what would a sampler do with filters that sum to 1.1?

# %% [markdown] essay="which_views" points=3
# **a) 1 point.** The view must be orthogonal (linear, and keep lengths): then the noise part of view(x) is again
# $\mathcal N(0, I)$ with the same factor, so view(x) = alpha view(x0) + sigma eps' is what the denoiser knows from time
# t. "Twice as strong" breaks it: in the view the noise has the standard deviation 2 sigma. At time t the denoiser
# expects sigma and takes the surplus for picture, so that it does not remove it: hence grain, and guesses that are too
# sure too early. (No picture is a digit both as it is and twice as strong, either: hence the grey.) Half a point for
# "keeps white noise white" or "orthogonal" alone, half for what goes wrong. Having an inverse is not enough.
#
# **b) 1 point.** Negative and shuffle are orthogonal, so the noise is right. But the *picture* must look like data in
# both views: paper that is ink, or scattered pixels, is nothing that the network has ever seen, and no digit is a digit
# in its negative or shuffled. The two denoisers have no picture on which they could agree; the mean of their guesses is
# a compromise that fits neither. The negative is good for pictures that exist in both brightnesses (dark shapes on
# light and light shapes on dark ground, or a model of photographs and paintings); shuffling single pixels for hardly
# any model (textures without structure), large pieces of a jigsaw for a strong model of many kinds of pictures.
#
# **c) 1 point: half for each.** In a hybrid both denoisers are asked about x *itself*, whose noise is white; only their
# answers, guesses of clean pictures, are filtered. If the filters sum to the identity, the combination is an affine one
# with "weights" that sum to one, so that combining x0_hat is the same as combining eps (or v), and where both authors
# agree nothing changes. With a sum of 1.1 every guess is a tenth too strong: the sampler aims at pictures of too great
# contrast, the noise that it computes from the guess, (x - alpha x0_hat) / sigma, is not of the size of the time, and
# the error is made again in each step.
#
# Typical wrong answers, no points: "the view must be its own inverse"; "a view must be a rotation"; "filters must be
# orthogonal"; "blurring removes the noise, so it is harmless".

# %% [markdown]
# ## Done
#
# Cleaning, SDEdit, inpainting, RePaint, anagrams, hybrids: six edits, one network, and the sampler was never touched.
# Each was a denoiser made of denoisers, or a choice of times.
#
# **Hand in.** Restart the kernel and run all cells, save, and hand in this notebook under its name, `06_editing.ipynb`.
# Each check above should be content. Grading runs the same exercises on other numbers.
#
# **Go on.** Combine them: inpaint an anagram, or start a hybrid from your drawing. All your functions are in
# `course_utils.guidance` as wrappers, ready for any model of the course. Next comes another kind of inverse problem,
# with cameras.
