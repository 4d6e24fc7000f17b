"""Pictures. Points are (N, 2), and the exact truth, where it is known, is the shading behind them; images (N, C, H, W).

Colours are Okabe and Ito's, which colour-blind readers can tell apart. The functions for points draw on the given
matplotlib axes, or make a figure, and return what they drew on. Those for images, and the films, return an object that
a notebook shows as a cell's result; it carries a text for those who do not see it.

Here alone images leave [-1, 1]. Grey ones are drawn as ink on paper, -1 white and 1 black: MNIST's numbers are ink.
"""

import math
import re
from functools import cache, partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from course_utils.films import DENSITY, DPI, Animation, Picture, check_alt, chosen_frames, frame_of

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8A8A"
DATA, MODEL = BLUE, ORANGE  # samples of the data, samples of a model
SHADE = LinearSegmentedColormap.from_list("shade", ["#FFFFFF", "#C9D3DF", "#7F93AB"])
LIMIT = 3.0  # standardised data and the prior both lie within +-LIMIT


def scatter_2d(x, ax=None, truth=None, title=None, color=DATA, size=4, limit=LIMIT):
    """Points x (N, 2), over the density of the GaussianMixture `truth` where given; returns the axes."""
    ax = _square(ax, title, limit)
    if truth is not None:
        _shade(ax, truth, limit)
    x = _numpy(x)
    ax.scatter(x[:, 0], x[:, 1], s=size, c=color, alpha=0.6, linewidths=0)
    _note(ax, x)
    return ax


def scatter_row(sets, titles=None, truth=None, color=DATA, size=3, limit=LIMIT):
    """Scatter plots side by side, at most four in a row, one for each (N, 2) of `sets`; returns the axes.

    `truth` is a mixture or one for each. Raises ValueError where there is no set, or another number of truths, titles
    or colours than of sets.
    """
    sets = [_numpy(x) for x in sets]
    n = len(sets)
    if n < 1:
        raise ValueError("there is nothing to draw: give at least one set of points")
    truths, colors = _each("truths", truth, n, "sets"), _each("colours", color, n, "sets")
    titles = _each("titles", titles and list(titles), n, "sets")
    rows = math.ceil(n / 4)  # small pictures in one long row can't be read on a phone
    columns = math.ceil(n / rows)
    lines = max(str(title).count("\n") + 1 if title else 0 for title in titles)
    size_in_inches = (2.4 * columns, (2.4 + 0.22 * lines) * rows)
    axes = plt.subplots(rows, columns, figsize=size_in_inches, layout="constrained", squeeze=False)[1].flatten()
    for empty in axes[n:]:
        empty.remove()
    axes = axes[:n]
    for ax, *args in zip(axes, sets, truths, titles, colors, strict=True):
        x, exact, title, c = args
        scatter_2d(x, ax, exact, title, c, size, limit)
    return axes


def score_field(score, ax=None, truth=None, title=None, color=BLUE, n=20, limit=LIMIT):
    """Arrows along score(x), a function (B, 2) -> (B, 2), on an n x n grid, long ones shortened; returns the axes."""
    ax = _square(ax, title, limit)
    if truth is not None:
        _shade(ax, truth, limit)
    grid = _grid(limit * 0.95, n)
    arrows = _numpy(score(grid))
    length = np.linalg.norm(arrows, axis=1, keepdims=True)
    spacing = 2 * limit / n
    arrows = spacing * arrows / (length + np.median(length) / 2)  # at most one spacing long
    ax.quiver(*grid.T.numpy(), *arrows.T, color=color, angles="xy", scale_units="xy", scale=1, width=0.004)
    return ax


def trajectory(path, ax=None, truth=None, title=None, color=MODEL, n=40, limit=LIMIT):
    """The ways of the first n particles along `path`, two or more (N, 2) from noise to samples; returns the axes."""
    ways = np.stack([x[:n] for x in _states(path)])  # (steps, n, 2)
    ax = _square(ax, title, limit)
    if truth is not None:
        _shade(ax, truth, limit)
    ax.plot(ways[..., 0], ways[..., 1], color=color, linewidth=0.7, alpha=0.5)
    ax.plot(*ways[0].T, ".", color=GREY, markersize=3, label="start")
    ax.plot(*ways[-1].T, ".", color=color, markersize=5, label="end")
    ax.legend(loc="upper right", fontsize=8, borderpad=0.3, handletextpad=0.2)
    _note(ax, ways.transpose(1, 0, 2).reshape(ways.shape[1], -1))  # a way with a gap counts once
    return ax


def image_grid(images, alt, columns=None, titles=None, rows=None, zoom=None):
    """Images (N, C, H, W) in [-1, 1], C = 1 or 3, side by side; values outside are cut off. Returns a Picture.

    `alt` says in words what it shows. `columns` pictures stand in a row (as many as there are, at most ten).
    `titles` has one for each image, or one for each column; `rows` one for each row. `zoom` is the width of an image
    in screen pixels (by default about 60, and less where there are many in a row).
    Raises ValueError for an empty alt, another number of titles, no images, or another number of channels.
    """
    images = _pictures(images)
    check_alt(alt, "a picture")
    figure, show = _image_figure(images, columns, titles, rows, zoom)
    show(images)
    return Picture(frame_of(figure), alt, color=images.shape[1] == 3)


def animate(path, alt, truth=None, titles=None, color=MODEL, seconds=4.0, n_frames=40, still=-1, limit=LIMIT):
    """A film of points along `path`, two or more (N, 2); the first and the last state are always among its frames.

    `alt` says in words what it shows. `truth` is a mixture or one for each state, `titles` one for each state;
    `still` is the frame that print and pages without scripts show. Returns an Animation, shown as a cell's result.
    Raises ValueError for an empty alt, n_frames < 2, and another number of truths or titles than of states.
    """
    check_alt(alt, "an animation")
    states = _states(path)
    chosen = chosen_frames(len(states), n_frames)
    truths = _each("truths", truth, len(states), "states")
    titles = _each("titles", titles and list(titles), len(states), "states")
    density = cache(partial(_density, limit=limit))  # one picture is often behind many frames
    figure = plt.figure(figsize=(3.6, 3.8), dpi=DPI, layout="constrained")
    frames = []
    try:
        ax = _square(figure.add_subplot(), titles[0], limit)
        background = None if truths[0] is None else _show_density(ax, density(truths[0]), limit)
        (points,) = ax.plot([], [], ".", color=color, markersize=3.5, alpha=0.8, markeredgewidth=0)
        note = _note(ax, states[0])
        for i in chosen:
            points.set_data(*states[i].T)
            note.set_text(_gaps(states[i]))
            if background is not None:
                background.set_data(density(truths[i]))
                background.autoscale()
            if titles[i]:
                ax.set_title(titles[i], fontsize=10)
            frames.append(frame_of(figure))
    finally:
        plt.close(figure)  # or the notebook would show it below the film, or below the error
    return Animation(frames, alt, seconds, range(len(frames))[still])


def animate_images(path, alt, columns=None, titles=None, rows=None, zoom=None, seconds=4.0, n_frames=32, still=-1):
    """A film of images along `path`, two or more (N, C, H, W) in [-1, 1]; the first and the last are always in it.

    `titles` has one for each state; the other arguments are image_grid's and animate's, and so are the errors.
    """
    check_alt(alt, "an animation")
    states = _enough([_pictures(x) for x in path])
    for i, x in enumerate(states):
        if x.shape != states[0].shape:
            raise ValueError(f"state {i} has shape {x.shape}, the first {states[0].shape}: they must be equal")
    chosen = chosen_frames(len(states), n_frames)
    titles = _each("titles", titles and list(titles), len(states), "states")
    figure, show = _image_figure(states[0], columns, None, rows, zoom, headline=any(titles))
    frames = []
    for i in chosen:
        show(states[i], titles[i])
        frames.append(frame_of(figure))
    return Animation(frames, alt, seconds, range(len(frames))[still], color=states[0].shape[1] == 3)


def tile(images, columns=None, gap=2):
    """Images (N, C, H, W) in [-1, 1] on one sheet of paper, (height, width) or (height, width, 3), from 0 to 1.

    For `ax.imshow(tile(x), cmap="gray", vmin=0, vmax=1)`. `gap`, in pixels, is between them: a number, or one below
    and one beside. A pixel that is no number is left half grey. Raises ValueError for other shapes.
    """
    images = _pictures(images)
    n, channels, height, width = images.shape
    columns = _columns(columns, n)
    below, beside = gap if isinstance(gap, tuple) else (gap, gap)
    sheet = np.ones((-(-n // columns) * (height + below) - below, columns * (width + beside) - beside, channels))
    for i, image in enumerate(np.nan_to_num(images, nan=0.0)):
        top, left = i // columns * (height + below), i % columns * (width + beside)
        part = (image.clip(-1, 1).transpose(1, 2, 0) + 1) / 2
        sheet[top : top + height, left : left + width] = part if channels == 3 else 1 - part
    return sheet if channels == 3 else sheet[..., 0]


def _image_figure(images, columns, titles, rows, zoom, headline=False):
    """A figure for images like these, and show(images, headline), which draws some on it.

    All lengths are whole pixels of the images, and each of these is a whole number of dots: so they stay sharp.
    """
    from matplotlib.figure import Figure  # without pyplot: nothing is left open, whatever goes wrong

    n, _, height, width = images.shape
    columns = _columns(columns, n)
    n_rows = -(-n // columns)
    dots = max(1, round((zoom or min(56, 740 / columns)) * DENSITY / width))
    length = lambda screen: math.ceil(screen * DENSITY / dots)  # noqa: E731  in pixels of the images
    if titles is not None and len(titles) != columns:
        titles = _each("titles", list(titles), n, "images")
    titles = list(titles or [])
    rows = _each("row titles", None if rows is None else list(rows), n_rows, "rows")
    lines = max((str(title).count("\n") + 1 for title in titles), default=0)
    head, gap = length(3 + 14 * lines) if lines else 0, 2
    below = head + gap if len(titles) > columns else gap
    names = [re.sub(r"\\[a-z]+", "x", line).replace("$", "") for title in rows for line in str(title or "").split("\n")]
    left = length(7 * max(map(len, names)) + 8) if any(names) else 0
    top = head + (length(20) if headline else 0)
    sheet_width, sheet_height = columns * (width + gap) - gap, n_rows * (height + below) - below
    size = left + sheet_width + 2, top + sheet_height + 2
    figure = Figure(figsize=[side * dots / DPI for side in size], dpi=DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-left - 1, sheet_width + 1), ylim=(sheet_height + 1, -top - 1))
    ax.axis("off")
    words = {"fontsize": 8, "color": "black"}
    for i, title in enumerate(titles):
        middle, above = i % columns * (width + gap) + width / 2, i // columns * (height + below) - length(2)
        ax.text(middle, above, title, ha="center", va="bottom", linespacing=1.1, **words)
    for i, title in enumerate(rows):
        ax.text(-length(4), i * (height + below) + height / 2, title or "", ha="right", va="center", **words)
    line = figure.text(0.5, 1 - length(3) / size[1], "", ha="center", va="top", fontsize=9)
    box = {"extent": (0, sheet_width, sheet_height, 0), "interpolation": "nearest", "aspect": "auto"}
    sheet = ax.imshow(tile(images, columns, (below, gap)), cmap="gray", vmin=0, vmax=1, **box)
    ax.set(xlim=(-left - 1, sheet_width + 1), ylim=(sheet_height + 1, -top - 1))  # imshow has its own idea

    def show(images, headline=None):
        sheet.set_data(tile(images, columns, (below, gap)))
        line.set_text(headline or "")

    return figure, show


def _square(ax, title, limit):
    """Axes without ticks: every picture shows the same square, and standardised coordinates have no unit to read."""
    if ax is None:
        _, ax = plt.subplots(figsize=(4, 4), layout="constrained")
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_color("#BBBBBB")
    if title:
        ax.set_title(title, fontsize=10)
    return ax


def _each(name, given, n, what):
    """A list of n: `given` itself, of the right length, or `given` n times where it is no list."""
    each = given if isinstance(given, (list, tuple)) else [given] * n
    if len(each) != n:
        raise ValueError(f"{len(each)} {name} for {n} {what}: give one for each")
    return each


def _states(path):
    return _enough([_numpy(x) for x in path])


def _enough(states):
    if len(states) < 2:
        raise ValueError(f"a path from noise to samples needs at least two states, not {len(states)}")
    return states


def _gaps(x):
    missing = (~np.isfinite(x).all(1)).sum()
    return f"{missing} of {len(x)} points are not finite" if missing else ""


def _note(ax, x):
    """Says in the axes how many points matplotlib leaves out, which would look like a sampler that lost them."""
    return ax.text(0.5, 0.02, _gaps(x), transform=ax.transAxes, ha="center", color=ORANGE, fontsize=8)


def _grid(limit, n):
    axis = torch.linspace(-limit, limit, n)
    return torch.cartesian_prod(axis, axis)


def _density(mixture, limit, n=120):
    return mixture.log_prob(_grid(limit, n)).exp().reshape(n, n).T.numpy()


def _show_density(ax, density, limit):
    extent = (-limit, limit, -limit, limit)
    return ax.imshow(density, extent=extent, origin="lower", cmap=SHADE, norm=PowerNorm(0.5), interpolation="bilinear")


def _shade(ax, mixture, limit):
    _show_density(ax, _density(mixture, limit), limit)


def _columns(columns, n):
    columns = min(n, 10) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns = {columns}; a row has at least one image")
    return columns


def _pictures(x):
    x = x.detach().cpu().float().numpy() if torch.is_tensor(x) else np.asarray(x, dtype=float)
    if x.ndim != 4 or len(x) < 1 or x.shape[1] not in (1, 3):
        raise ValueError(f"images (N, C, H, W) with one or three channels are drawn, not {x.shape}")
    return x


def _numpy(x):
    x = x.detach().cpu().numpy() if torch.is_tensor(x) else np.asarray(x)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"points (N, 2) are drawn, not {x.shape}")
    return x
