"""Pictures. Points are (N, 2); the exact truth, where it is known, is the shading behind them.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. Every function draws on the given matplotlib
axes, or makes a figure, and returns what it drew on.
"""

import base64
import hashlib
import io
import math
from functools import cache, partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

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


class Animation:
    """A film with a play button and a slider, in a notebook and on the site; where scripts are off, a still."""

    def __init__(self, frames, alt, seconds, still):
        self.frames, self.alt, self.seconds, self.still = frames, alt, seconds, still

    def _repr_mimebundle_(self, include=None, exclude=None):
        png = io.BytesIO()
        self.frames[self.still].save(png, "PNG", optimize=True)
        return {"text/html": self.to_html(), "image/png": png.getvalue(), "text/plain": f"[animation: {self.alt}]"}

    def to_html(self):
        """All frames in one picture of which the page shows a part: it needs no file beside the page."""
        from html import escape

        from PIL import Image

        n, (width, height) = len(self.frames), self.frames[0].size
        columns = math.ceil(math.sqrt(n))
        rows = math.ceil(n / columns)
        sheet = Image.new("RGB", (columns * width, rows * height), "white")
        for i, frame in enumerate(self.frames):
            sheet.paste(frame, (i % columns * width, i // columns * height))
        webp = io.BytesIO()
        sheet.save(webp, "WEBP", quality=50, method=4)
        picture = base64.b64encode(webp.getvalue()).decode()
        values = {
            "ID": "film-" + hashlib.sha256(webp.getvalue()).hexdigest()[:10],
            "ALT": escape(self.alt, quote=True),
            "WIDTH": round(width / 1.6),
            "RATIO": f"{width} / {height}",
            "SIZE": f"{columns * 100}% {rows * 100}%",
            "POSITION": _position(self.still, columns, rows),
            "STILL": self.still,
            "LAST": n - 1,
            "POSITIONS": str([_position(i, columns, rows) for i in range(n)]),
            "DELAY": round(1000 * self.seconds / n),
            "PICTURE": picture,
        }
        html = _FILM
        for name, value in values.items():
            html = html.replace(f"@{name}@", str(value))
        return html


def animate(path, alt, truth=None, titles=None, color=MODEL, seconds=4.0, n_frames=40, still=-1, limit=LIMIT):
    """A film of points along `path`, two or more (N, 2); the first and the last state are always among its frames.

    `alt` says in words what it shows. `truth` is a mixture or one for each state, `titles` one for each state;
    `still` is the frame that print and pages without scripts show. Returns an Animation, shown as a cell's result.
    Raises ValueError for an empty alt, n_frames < 2, and another number of truths or titles than of states.
    """
    from PIL import Image

    if not alt:
        raise ValueError("an animation needs an alt text: a sentence that says what it shows")
    if n_frames < 2:
        raise ValueError(f"n_frames = {n_frames}; a film has at least two frames")
    states = _states(path)
    truths = _each("truths", truth, len(states), "states")
    titles = _each("titles", titles and list(titles), len(states), "states")
    chosen = np.unique(np.linspace(0, len(states) - 1, min(n_frames, len(states))).round().astype(int))
    density = cache(partial(_density, limit=limit))  # one picture is often behind many frames
    figure = plt.figure(figsize=(3.6, 3.8), dpi=160, layout="constrained")
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
            figure.canvas.draw()
            frames.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB"))
    finally:
        plt.close(figure)  # or the notebook would show it below the film, or below the error
    return Animation(frames, alt, seconds, range(len(frames))[still])


def _position(i, columns, rows):
    column, row = i % columns, i // columns
    return f"{100 * column / max(columns - 1, 1):.4g}% {100 * row / max(rows - 1, 1):.4g}%"


_FILM = """<figure class="film" id="@ID@" style="width: @WIDTH@px; max-width: 100%; margin: 0">
<div class="film-screen" role="img" aria-label="@ALT@" style="aspect-ratio: @RATIO@; background: #fff
 url(data:image/webp;base64,@PICTURE@) @POSITION@ / @SIZE@; print-color-adjust: exact"></div>
<div class="film-controls" hidden style="display: none; gap: .6em; align-items: center">
<button type="button" style="min-width: 5em">Play</button>
<input type="range" min="0" max="@LAST@" value="@STILL@" aria-label="Time" style="flex: 1">
</div>
<script>(() => {
  const film = document.getElementById("@ID@"), screen = film.querySelector(".film-screen");
  const controls = film.querySelector(".film-controls"), button = film.querySelector("button");
  const slider = film.querySelector("input"), positions = @POSITIONS@;
  let timer = null;
  const show = i => { slider.value = i; screen.style.backgroundPosition = positions[i]; };
  const label = playing => { button.textContent = playing ? "Pause" : "Play"; };
  const stop = () => { clearInterval(timer); timer = null; label(false); };
  const play = () => { if (+slider.value >= @LAST@) show(0); label(true);
    timer = setInterval(() => +slider.value >= @LAST@ ? stop() : show(+slider.value + 1), @DELAY@); };
  controls.hidden = false; controls.style.display = "flex";
  button.onclick = () => timer ? stop() : play();
  slider.oninput = () => { stop(); show(+slider.value); };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches && "IntersectionObserver" in window)
    new IntersectionObserver((seen, watch) => { if (seen[0].isIntersecting) { watch.disconnect(); show(0); play(); } },
      { threshold: 0.6 }).observe(screen);
})()</script>
</figure>"""


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
    states = [_numpy(x) for x in path]
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


def _numpy(x):
    x = x.detach().cpu().numpy() if torch.is_tensor(x) else np.asarray(x)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"points (N, 2) are drawn, not {x.shape}")
    return x
