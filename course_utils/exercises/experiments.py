"""The experiments of the gallery: each runs an exercise's answer, right or wrong, on something worth looking at.

All draws are fixed beforehand: two pictures of one experiment differ by the answer alone. Where an exact density is
known, it is the grey behind the points.
"""

import math
from functools import cache

import torch
from matplotlib.figure import Figure

from course_utils.data import toy_mixture
from course_utils.denoiser import from_x0
from course_utils.exercises.gallery import Experiment
from course_utils.films import DPI, Picture, frame_of
from course_utils.geometry import epipolar_line
from course_utils.mixtures import GaussianMixture
from course_utils.plotting import GREEN, MODEL, image_grid, scatter_2d, score_field
from course_utils.plotting_geometry import draw_line, draw_point, show_view
from course_utils.samplers import ddim
from course_utils.schedules import CosineSchedule, LinearSchedule
from course_utils.temple import load_temple
from course_utils.training import load_pretrained

EXPERIMENTS = []


def experiment(id, shows, right, **wrong):
    """Add the function below, draw(answer, alt) -> Picture, to the gallery under the exercise's id."""

    def add(draw):
        EXPERIMENTS.append(Experiment(id, draw, shows, right, wrong))
        return draw

    return add


def plot(draw, alt, size=(2.5, 2.5), photo=False):
    """What draw(axes) draws, as a Picture."""
    figure = Figure(size, dpi=DPI, layout="constrained")
    draw(figure.add_subplot())
    return Picture(frame_of(figure), alt, color=True, photo=photo)


def points(x, truth, alt, limit=3.0):
    return plot(lambda ax: scatter_2d(x, ax, truth, color=MODEL, size=3, limit=limit), alt)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- chapters 1 and 2: scores and chains -----------------------------------------------------------------------------


def clouds(weights=None):
    """Three round clouds of different width."""
    return GaussianMixture([[-1.3, -0.9], [1.4, -0.6], [0.1, 1.4]], [0.35, 0.5, 0.3], weights)


@experiment(
    "energy.langevin",
    "600 chains walk 400 steps over a density that is known exactly.",
    "The chains' ends fill the three grey clouds, each as widely as its density.",
    no_noise="The chains' ends gather in three points, the peaks of the clouds.",
    noise_not_scaled="The chains' ends are strewn over the whole picture, far beyond the clouds.",
    chain_clipped="The chains' ends fill a square in the middle of the picture and crowd at its edges.",
)
def _(answer, alt):
    truth = clouds()
    return points(answer(truth.score, 2 * normal(600, 2), 0.02, normal(400, 600, 2, seed=1)), truth, alt)


@experiment(
    "score_matching.mixture_score",
    "The score of three clouds, an arrow at each place.",
    "Arrows lead from everywhere to the nearest cloud, and part where two clouds pull alike.",
    pushed_away="Arrows lead away from each cloud, to the edges of the picture.",
    the_same_everywhere="All arrows lead to one place between the clouds, where the density is low.",
)
def _(answer, alt):
    truth = clouds()

    def score(x):
        return answer(x.double(), truth.means, truth.std, truth.weights)

    return plot(lambda ax: score_field(score, ax, truth, n=14), alt)


@experiment(
    "score_matching.annealed_langevin",
    "600 points walk from wide noise to two clouds, of which the lower holds four of five points.",
    "Points fill both clouds, about four times as many the lower one.",
    climbs_only="All points have gathered in one spot, the peak of the lower cloud.",
    one_size_for_all="Two wide swarms of equally many points around the clouds.",
    levels_that_rise="Points strewn over the whole picture, with nothing of the clouds in them.",
)
def _(answer, alt):
    truth = GaussianMixture([[1.2, 1.2], [-1.2, -1.2]], 0.25, [0.2, 0.8])
    sigmas = torch.logspace(math.log10(4), math.log10(0.05), 12).tolist()
    score = lambda x, sigma: truth.noised(1.0, sigma).score(x)  # noqa: E731
    return points(answer(score, 4 * normal(600, 2), sigmas, 1e-3, normal(12, 40, 600, 2, seed=1)), truth, alt)


# ---- chapter 3: forth and back in two dimensions ---------------------------------------------------------------------


def exact_noise(mixture, schedule):
    """net(x, t): the noise in x as well as it can be told, for data from the mixture."""
    denoise = mixture.denoiser(schedule)

    def net(x, t, y=None):
        t = t.double()
        return from_x0("eps", denoise(x, t), x, *schedule.at(t, x))

    return net


@experiment(
    "ddpm_2d.q_sample",
    "1,000 points of the moons jump to level 15 of 100; the grey is where they should be.",
    "The points lie on the grey: two moons with soft edges.",
    no_root_on_noise="The points lie on thin, sharp moons inside the grey ones.",
    swapped="A round cloud of points with hardly any of the moons in it.",
    draws_uniform="The points' moons are thinner than the grey ones and shifted up and to the right.",
)
def _(answer, alt):
    schedule, moons = LinearSchedule(100, 1e-3, 0.1), toy_mixture("moons")
    x0 = moons.sample(1000, torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = answer(x0, torch.full((1000,), 15), normal(1000, 2), schedule.alpha_bar)
    return points(x, moons.noised(schedule.alpha(0.15), schedule.sigma(0.15)), alt)


@experiment(
    "ddpm_2d.reverse_step",
    "800 points of noise take 100 steps back, with the best possible network for the moons.",
    "The points lie on the two moons.",
    no_noise_added="The points lie on two short arcs near the middle: most of both moons is bare.",
    state_clipped="The points fill only the middle part of the moons and crowd along straight edges.",
    beta_times_noise="A broad swarm of points around the moons.",
    uniform_noise_drawn="All points sit in one small blot, outside the moons.",
)
def _(answer, alt):
    schedule, moons = LinearSchedule(100, 1e-3, 0.1), toy_mixture("moons")
    net, x, z = exact_noise(moons, schedule), normal(800, 2), normal(101, 800, 2, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for k in range(100, 0, -1):
            x = answer(net, x, k, schedule.beta, schedule.alpha_bar, z[k] * (k > 1))
    return points(x, moons, alt)


@experiment(
    "ddpm_2d.ddim_step",
    "800 points of noise take 20 steps of DDIM to the moons.",
    "The points lie on the two moons.",
    no_noise_put_back="All points sit in one spot between the moons.",
    noise_of_the_old_level="A broad swarm of points around the moons.",
)
def _(answer, alt):
    schedule, moons = LinearSchedule(100, 1e-3, 0.1), toy_mixture("moons")
    net, x = exact_noise(moons, schedule), normal(800, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for k in range(100, 0, -5):
            x = answer(net, x, k, k - 5, schedule.alpha_bar)
    return points(x, moons, alt)


# ---- chapter 4: digits -----------------------------------------------------------------------------------------------

digits = cache(lambda: load_pretrained("mnist"))


def grid(images, alt, columns=4):
    return image_grid(images, alt, columns=columns, zoom=52)


def noise_of_digits(schedule):
    """net(x, t): the shipped model of digits, asked for 0, 1, 2, ..., as the noise in x."""
    model = digits()

    @torch.no_grad()
    def net(x, t, y=None):
        x0_hat = model(x, t, torch.arange(len(x)) % 10)
        return from_x0("eps", x0_hat, x, *schedule.at(t.double(), x))

    return net


@experiment(
    "ddpm_mnist.time_embedding",
    "A row is a time, from 0 on top to 1 below; a column is one of 64 waves.",
    "Waves of many lengths: fast stripes at the left of each half, slow shades at its right.",
    times_taken_for_levels="Two even areas, grey and white: nearly nothing changes with time.",
    integer_division="All columns of a half show the same fast stripes.",
)
def _(answer, alt):
    table = answer(torch.linspace(0, 1, 64), 64)

    def draw(ax):
        ax.imshow(table, cmap="gray", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        ax.set(xticks=[], yticks=[0, 63], yticklabels=["t = 0", "t = 1"])

    return plot(draw, alt)


@experiment(
    "ddpm_mnist.cosine_alpha_bar",
    "A digit at the levels 0, 125, 250, ..., 875 of 1,000.",
    "A digit that drowns in noise step by step, until nothing of it is left.",
    half_a_turn="The digit is lost after four levels; the other four pictures are empty: their numbers are NaN.",
    root_of_the_table="The digit can still be read at the last level.",
)
def _(answer, alt):
    schedule = CosineSchedule()
    net = digits()
    with torch.no_grad():
        *_, x0 = ddim(lambda x, t: net(x, t, torch.tensor([3])), schedule, normal(1, 1, 28, 28), schedule.timesteps(8))
    alpha_bar = answer(1000, 0.008, 0.999)[::125][:8].float().reshape(8, 1, 1, 1)
    return grid(alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * normal(8, 1, 28, 28, seed=1), alt)


@experiment(
    "ddpm_mnist.clipped_step",
    "Eight digits, 40 steps back from noise.",
    "The digits 0 to 7, black on white, easy to read.",
    state_clipped="Digits on grey paper; the one that was to be a 1 is none.",
    clipped_to_zero_one="Black smears on grey: no digit can be read.",
)
def _(answer, alt):
    schedule = CosineSchedule(40)
    net, x, z = noise_of_digits(schedule), normal(8, 1, 28, 28), normal(41, 8, 1, 28, 28, seed=1)
    for k in range(40, 0, -1):
        x = answer(net, x, k, schedule.alpha_bar, z[k])
    return grid(x, alt)


@experiment(
    "ddpm_mnist.strided_coefficients",
    "Eight digits in 20 long strides over the 1,000 levels.",
    "The digits 0 to 7, easy to read.",
    to_the_next_level="Grain all over the picture.",
    ratio_without_root="Faint grey digits.",
)
def _(answer, alt):
    schedule = CosineSchedule(1000)
    net, x, z = noise_of_digits(schedule), normal(8, 1, 28, 28), normal(20, 8, 1, 28, 28, seed=1)
    levels = torch.linspace(1000, 0, 21).round().long()
    of_x0, of_x, variance = (table.float() for table in answer(schedule.alpha_bar, levels))
    for i, k in enumerate(levels[:-1]):
        alpha_bar = schedule.alpha_bar[k].float()
        noise = net(x, torch.full((8,), k / 1000))
        x0_hat = ((x - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()).clamp(-1, 1)
        x = of_x0[i] * x0_hat + of_x[i] * x + variance[i].sqrt() * z[i]
    return grid(x, alt)


# ---- chapters 5 and 6: guidance and editing --------------------------------------------------------------------------


@experiment(
    "guidance.cfg",
    "600 points are asked for the right one of three classes (green), at guidance scale 3; grey are all three.",
    "The points crowd in the class asked for, at its far side from the others.",
    roles_swapped="Nearly all points have fled from the class asked for, most of them out of the picture.",
    scale_cancels="The points fill the class asked for evenly, as without guidance.",
    one_too_much="The points crowd still farther out, at the edge of the class.",
)
def _(answer, alt):
    schedule = CosineSchedule()
    means = torch.tensor([[-1.0, -0.6], [0.9, -0.5], [0.0, 1.1]])
    parts = [GaussianMixture(mean[None], 0.5).denoiser(schedule) for mean in means]
    whole = GaussianMixture(means, 0.5)
    every = whole.denoiser(schedule)

    def net(x, t, y=None):
        no_label = y is None or bool((y < 0).all())
        if no_label:
            return every(x, t)
        out = torch.stack([part(x, t) for part in parts])  # a doubled batch has labels of both kinds
        chosen = out[y.clamp(min=0), torch.arange(len(x))]
        return torch.where((y < 0)[:, None], every(x, t), chosen)

    y = torch.ones(600, dtype=torch.int64)
    denoise = lambda x, t: answer(net, x, torch.full((len(x),), t), y, 3.0)  # noqa: E731
    *_, x = ddim(denoise, schedule, normal(600, 2), schedule.timesteps(40))

    def draw(ax):
        scatter_2d(x, ax, whole, color=MODEL, size=3)
        ax.plot(*means[1], "+", color=GREEN, markersize=14, markeredgewidth=2.5)

    return plot(draw, alt)


@experiment(
    "editing.inpainted",
    "The upper half of eight digits is known, the model of digits fills in the lower one.",
    "Whole digits: the lower half goes on where the upper one ends.",
    mask_turned_round="New upper halves over the old lower ones.",
    hole_left_empty="Upper halves of digits over even grey.",
)
def _(answer, alt):
    known, mask = drawn_digits(), torch.zeros(1, 1, 28, 28)
    mask[..., :14, :] = 1
    y = torch.arange(8)
    model, schedule = digits(), CosineSchedule()
    denoise = lambda x, t: answer(lambda x, t: model(x, t, y), known, mask, x, t)  # noqa: E731
    with torch.no_grad():
        *_, x = ddim(denoise, schedule, normal(8, 1, 28, 28, seed=5), schedule.timesteps(20))
    return grid(x, alt)


@cache
def drawn_digits():
    """The digits 0 to 7, (8, 1, 28, 28), by the shipped model."""
    model, schedule = digits(), CosineSchedule()
    with torch.no_grad():
        denoise = lambda x, t: model(x, t, torch.arange(8))  # noqa: E731
        *_, x0 = ddim(denoise, schedule, normal(8, 1, 28, 28), schedule.timesteps(20))
    return x0


@experiment(
    "editing.anagram",
    "Four pictures (above), each to be a 4 as it stands and a 7 upside down (below).",
    "Four strange signs that read as a 4; below, upside down, they read as a 7.",
    not_turned_back="Four signs that look nearly the same upside down, and are neither.",
    one_denoiser_twice="Four signs that are a 4 both ways.",
)
def _(answer, alt):
    model, schedule = digits(), CosineSchedule()
    asked = [lambda x, t, y=y: model(x, t, torch.full((len(x),), y)) for y in (4, 7)]
    turn = lambda x: x.flip(-1, -2)  # noqa: E731
    denoise = lambda x, t: answer(*asked, turn, turn, x, t)  # noqa: E731
    with torch.no_grad():
        *_, x = ddim(denoise, schedule, normal(4, 1, 28, 28), schedule.timesteps(25))
    return grid(torch.cat([x, turn(x)]), alt)


# ---- chapter 7: two views --------------------------------------------------------------------------------------------

temple = cache(lambda: load_temple(quiet=True))


@experiment(
    "epipolar.fundamental",
    "Six points of view 1, seen in view 4 (rings), and their epipolar lines.",
    "Each line goes through its ring.",
    wrong_way_round="The lines lean the other way and pass most rings by.",
    first_k_missing="No line lies in the picture.",
    t_not_turned_in_f="All lines run through the right end of the temple, far from the rings.",
)
def _(answer, alt):
    views = temple()
    (K1, R1, t1), (K2, R2, t2) = ((c.K, c.R, c.t) for c in (views.cameras[0], views.cameras[3]))
    x1, x2 = views.matches(0, 3)
    chosen = torch.linspace(0, len(x1) - 1, 6).long()
    F = answer(K1, R1, t1, K2, R2, t2)

    def draw(ax):
        show_view(views.images[3], ax)
        for line, x in zip(epipolar_line(F, x1[chosen]), x2[chosen], strict=True):
            draw_line(line, ax)
            draw_point(x, ax, size=7)

    return plot(draw, alt, (3.2, 2.4), photo=True)


@experiment(
    "epipolar.look_up",
    "A view is turned by 30 degrees: for each pixel of the new picture, the old one is looked up.",
    "A part of the temple, turned; the corners, which lay outside the old picture, are black.",
    swapped_indices="The temple is mirrored and turned the other way.",
    no_lower_bounds="Two corners are not black: they repeat pieces from the picture's other side.",
)
def _(answer, alt):
    image = torch.as_tensor(temple().images[0][120:360, 160:480].copy()).float()
    height, width = image.shape[:2]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = torch.stack([column, row], -1).reshape(-1, 2).double()
    middle, angle = torch.tensor([width / 2, height / 2], dtype=torch.float64), math.radians(30)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    values = answer(image, (x - middle) @ turn.T + middle).reshape(height, width, 3)
    return plot(lambda ax: show_view(values.numpy().astype("uint8"), ax), alt, (3.2, 2.4), photo=True)
