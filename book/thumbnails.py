"""Draws book/_static/cards/, the pictures on the start page's map: `python book/thumbnails.py`.

Each is a result of its chapter, made in seconds with exact densities or with the models that ship with the course.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from course_utils.data import toy_mixture
from course_utils.exercises.experiments import EXPERIMENTS
from course_utils.films import DPI, frame_of, smallest_webp
from course_utils.geometry import epipolar_line, fundamental
from course_utils.guidance import cfg, clip, condition, inpaint
from course_utils.langevin import langevin
from course_utils.mixtures import GaussianMixture
from course_utils.plotting import MODEL, scatter_2d, score_field, tile, trajectory
from course_utils.plotting_geometry import draw_line, draw_point, show_view
from course_utils.samplers import ddim, dpmpp_2m
from course_utils.schedules import CosineSchedule
from course_utils.temple import load_temple
from course_utils.training import load_pretrained

FOLDER = Path(__file__).parent / "_static" / "cards"
CLOUDS = GaussianMixture([[-1.3, -0.9], [1.4, -0.6], [0.1, 1.4]], [0.35, 0.5, 0.3])
SCHEDULE = CosineSchedule()


def panels(n, draw, height=1.0):
    """A card of n pictures side by side, of that height for the width 1; draw(i, axes) draws each."""
    figure, axes = plt.subplots(1, n, figsize=(4.2, 4.2 * height / n), dpi=DPI, squeeze=False)
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.99, wspace=0.02)
    for i, ax in enumerate(axes[0]):
        draw(i, ax)
        ax.set_title("")
        if ax.get_legend():
            ax.get_legend().remove()
    return figure


def sheet(images, columns):
    """A card of images (N, C, H, W)."""
    picture = tile(images, columns)
    figure = plt.figure(figsize=(4.2, 4.2 * picture.shape[0] / picture.shape[1]), dpi=DPI)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.axis("off")
    return figure


def energy():
    starts = torch.tensor([[-2.2, 2.2]]) + 0.3 * torch.randn(300, 2)
    path = [starts, *langevin(CLOUDS.score, starts, 0.05, 400)]

    def draw(i, ax):
        if i:
            scatter_2d(path[-1], ax, CLOUDS, color=MODEL, size=3)
        else:
            trajectory(path[:40], ax, CLOUDS, n=12)

    return panels(2, draw)


def score_matching():
    noisy = CLOUDS.noised(1.0, 0.8)
    return panels(2, lambda i, ax: score_field((noisy, CLOUDS)[i].score, ax, (noisy, CLOUDS)[i], n=13))


def ddpm_2d():
    moons = toy_mixture("moons")
    times = SCHEDULE.timesteps(50)
    x = SCHEDULE.prior(900, 2)
    path = [x, *ddim(moons.denoiser(SCHEDULE), SCHEDULE, x, times)]

    def draw(i, ax):
        k = (12, 36, 50)[i]
        truth = moons.noised(SCHEDULE.alpha(times[k]), SCHEDULE.sigma(times[k]))
        scatter_2d(path[k], ax, truth, color=MODEL, size=2)

    return panels(3, draw)


@torch.no_grad()
def ddpm_mnist():
    digits, y = load_pretrained("mnist"), torch.tensor([3, 5, 8])
    x = SCHEDULE.prior(3, 1, 28, 28)
    path = [x, *ddim(condition(digits, y), SCHEDULE, x, SCHEDULE.timesteps(24))]
    return sheet(torch.stack([path[k] for k in (0, 5, 8, 11, 15, 24)], 1).flatten(0, 1), 6)


@torch.no_grad()
def guidance():
    model, y = load_pretrained("cifar10"), torch.arange(12) % 10
    denoise = clip(cfg(condition(model, y), condition(model, None), 3.0))
    *_, x = dpmpp_2m(denoise, model.schedule, model.schedule.prior(12, 3, 32, 32), model.schedule.timesteps(16))
    return sheet(x, 6)


@torch.no_grad()
def editing():
    digits, y = load_pretrained("mnist"), torch.arange(2, 8)
    *_, known = ddim(condition(digits, y), SCHEDULE, SCHEDULE.prior(6, 1, 28, 28), SCHEDULE.timesteps(20))
    mask = torch.zeros(1, 1, 28, 28)
    mask[..., :15, :] = 1
    denoise = inpaint(condition(digits, y), known.clamp(-1, 1), mask)
    *_, filled = ddim(denoise, SCHEDULE, SCHEDULE.prior(6, 1, 28, 28), SCHEDULE.timesteps(20))
    holed = torch.where(mask.bool(), known, torch.zeros(1))
    return sheet(torch.cat([holed, filled]), 6)


def epipolar():
    temple = load_temple(quiet=True)
    first, second = temple.cameras[0], temple.cameras[3]
    x1, x2 = (x[:: len(x) // 6][:6] for x in temple.matches(0, 3))

    def draw(i, ax):
        show_view(temple.images[(0, 3)[i]], ax)
        if i:
            for line in epipolar_line(fundamental(first, second), x1):
                draw_line(line, ax)
        for x in (x1, x2)[i]:
            draw_point(x, ax, size=6)

    return panels(2, draw, 0.75)


def gallery():
    """The right moons, and two wrong ones."""
    shown = next(experiment for experiment in EXPERIMENTS if experiment.id == "ddpm_2d.reverse_step")
    pictures = [picture.image for _, picture, _, _ in shown.pictures()]
    return panels(3, lambda i, ax: (ax.imshow(pictures[(0, 1, 3)[i]]), ax.axis("off")))


if __name__ == "__main__":
    for draw in (energy, score_matching, ddpm_2d, ddpm_mnist, guidance, editing, epipolar, gallery):
        if sys.argv[1:] and draw.__name__ not in sys.argv[1:]:
            continue
        torch.manual_seed(1)
        picture = smallest_webp(frame_of(draw()))
        (FOLDER / f"{draw.__name__}.webp").write_bytes(picture)
        print(f"{draw.__name__}.webp: {len(picture) / 1000:.0f} kB")
