"""Pictures of cameras, of views and of their epipolar lines, and the two views that a reader can play with.

Drawing is on given matplotlib axes, as in plotting.py, whose colours and films these are. Pixels are (x, y), whole at a
pixel's centre; points of the world are (N, 3).
"""

import base64
import hashlib
import json
from html import escape
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patheffects import withStroke

from course_utils.films import DPI, Animation, check_alt, chosen_frames, filled, frame_of, png, webp
from course_utils.geometry import clip_line, epipolar_line, fundamental, relative_pose
from course_utils.plotting import BLUE, GREY, ORANGE

HALO = [withStroke(linewidth=4, foreground="white")]  # keeps a thin line visible on any photograph


def show_view(image, ax=None, title=None):
    """A view (H, W, 3), 0 to 255, on axes without ticks that its drawings cannot widen; returns the axes."""
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    height, width = np.shape(image)[:2]
    ax.imshow(image)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    if title:
        ax.set_title(title, fontsize=10)
    return ax


def draw_point(x, ax, color=ORANGE, size=10, label=None):
    """A ring around the pixel x (2,)."""
    style = {"marker": "o", "markersize": size, "markerfacecolor": "none", "linestyle": "none", "label": label}
    ax.plot(*_pair(x), color=color, markeredgecolor="white", markeredgewidth=3.5, **(style | {"label": None}))
    ax.plot(*_pair(x), color=color, markeredgecolor=color, markeredgewidth=1.8, **style)


def draw_line(line, ax, width=None, height=None, color=BLUE, halo=True, **style):
    """The part of a line (3,) within a picture; where it misses the picture, nothing.

    Without `width` and `height` it is the picture that the axes show; raises ValueError where they show none.
    """
    if width is None or height is None:
        if not ax.images:
            raise ValueError("these axes show no picture: call show_view first, or give width and height")
        height, width = ax.images[0].get_size()
    ends = clip_line(line, width, height)
    effects = {"path_effects": HALO} if halo else {}
    if len(ends):
        ax.plot(*ends.T, color=color, **({"linewidth": 1.5} | effects | style))


def upright(cameras):
    """The rotation (3, 3) that turns the temple's world so that z is up.

    The temple lies on its side in its pictures, the photographs too: up is where their x axes point on average.
    """
    up = torch.stack([camera.R[0] for camera in cameras]).mean(0)  # a row of R is an axis of the camera in the world
    up = up / torch.linalg.norm(up)
    side = torch.linalg.cross(up, cameras[0].R[2])
    side = side / torch.linalg.norm(side)
    return torch.stack([side, torch.linalg.cross(up, side), up])


def draw_cameras(cameras, ax, numbers=None, size=0.05, turn=None, colors=GREY, picture=(640, 480)):
    """Each camera as a pyramid on 3D axes: its tip the camera's centre, its base the picture at depth `size`.

    `numbers` are written at the tips; `turn` (3, 3) turns the world; `colors` is one or one for each.
    """
    turn = torch.eye(3, dtype=torch.float64) if turn is None else turn
    colors = [colors] * len(cameras) if isinstance(colors, str) else colors
    width, height = picture
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1], [0, 0]])
    for i, (camera, color) in enumerate(zip(cameras, colors, strict=True)):
        tip, base = turn @ camera.centre, camera.back_project(corners, torch.full((5,), size)) @ turn.T
        ax.plot(*base.T, color=color, linewidth=1.2)
        for corner in base[:4]:
            ax.plot(*torch.stack([tip, corner]).T, color=color, linewidth=0.8)
        if numbers is not None:
            outwards = tip - (base[0] + base[2] - 2 * tip) * 0.35
            ax.text(*outwards.tolist(), str(numbers[i]), color=color, fontsize=8, ha="center", va="center")


def equal_box(ax, X, zoom=1.0, margin=0.08):
    """3D axes without walls and of one scale, around points X (N, 3) and a margin (a share of their extent)."""
    X = torch.as_tensor(X)
    low, high = X.min(0).values, X.max(0).values
    low, high = low - margin * (high - low).max(), high + margin * (high - low).max()
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    ax.set_box_aspect(tuple((high - low).clamp(min=1e-9).tolist()), zoom=zoom)
    ax.set_axis_off()


def turntable(X, colors, alt, turn=None, n_frames=30, seconds=6.0, size=6, title=None):
    """A film of the points X (N, 3) turning once about the vertical, which after `turn` (3, 3) is z.

    `colors` is (N, 3), from 0 to 1. Nearer points are drawn over further ones, in parallel projection.
    """
    check_alt(alt, "an animation")
    X = torch.as_tensor(X, dtype=torch.float64)
    X = (X - X.median(0).values) @ (torch.eye(3, dtype=X.dtype) if turn is None else turn).T
    X, colors = X.numpy(), np.asarray(colors)
    side, tall = np.hypot(X[:, 0], X[:, 1]).max() * 1.05, np.abs(X[:, 2]).max() * 1.08
    figure = plt.figure(figsize=(3.2, 3.2 * tall / side + (0.3 if title else 0)), dpi=DPI, layout="constrained")
    frames = []
    try:
        ax = figure.add_subplot(aspect="equal", xlim=(-side, side), ylim=(-tall, tall), xticks=[], yticks=[])
        ax.spines[:].set_color("#BBBBBB")
        if title:
            ax.set_title(title, fontsize=10)
        cloud = ax.scatter([], [], s=size, linewidths=0)
        for i in chosen_frames(n_frames, n_frames):
            angle = 2 * np.pi * i / n_frames
            across = X[:, 0] * np.cos(angle) - X[:, 1] * np.sin(angle)
            away = X[:, 0] * np.sin(angle) + X[:, 1] * np.cos(angle)
            order = np.argsort(-away)
            cloud.set_offsets(np.column_stack([across, X[:, 2]])[order])
            cloud.set_facecolor(colors[order])
            frames.append(frame_of(figure))
    finally:
        plt.close(figure)
    return Animation(frames, alt, seconds, 0, color=True)


class TwoViews:
    """Two views side by side: a point dragged in the first moves its epipolar line in the second.

    The line is F x1. The dots on it come another way, from depths along the point's ray, and a slider chooses one more.
    It works in a notebook and on the site, without a kernel and without a file beside the page; where scripts are off,
    it is a picture of the point that it starts from. `depths` are those of the dots, from nearest to furthest; `alt`
    says in words what the two views show.
    """

    def __init__(self, images, cameras, x, depths, alt, names=("view 1", "view 2"), step=0.005):
        check_alt(alt, "a pair of views")
        self.images, self.cameras, self.depths, self.alt = list(images), list(cameras), list(depths), alt
        self.x, self.names, self.step = [round(v) for v in _pair(x)], names, step
        if len(self.images) != 2 or len(self.cameras) != 2 or len(self.depths) < 2:
            raise ValueError("give two images, their two cameras, and at least two depths")
        if np.shape(self.images[0]) != np.shape(self.images[1]):
            raise ValueError(f"views of one size are compared, not {np.shape(images[0])} and {np.shape(images[1])}")
        self.height, self.width = np.shape(self.images[0])[:2]
        self.F = fundamental(*self.cameras)
        self.partners = self.cameras[1].project(self.cameras[0].back_project(self.x, torch.tensor(self.depths)))

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.to_html(), "image/png": self._still(), "text/plain": f"[two views: {self.alt}]"}

    def to_html(self):
        """The element: everything that it needs is in it."""
        from PIL import Image

        pictures = [webp(Image.fromarray(np.asarray(image)), quality=80) for image in self.images]
        R, t = relative_pose(*self.cameras)
        K1, K2 = (camera.K for camera in self.cameras)
        numbers = {"F": self.F, "A": K2 @ R @ torch.linalg.inv(K1), "b": K2 @ t}
        middle = round((self.depths[0] + self.depths[-1]) / 2, 6)
        x2 = self.cameras[1].project(self.cameras[0].back_project(self.x, middle))
        ends = clip_line(epipolar_line(self.F, self.x), self.width, self.height).flatten().tolist() or [0] * 4
        marks = [
            f'<g transform="translate({u:.2f} {v:.2f})"><circle r="4.5"/><text x="8" y="-8">{z:g}</text></g>'
            for z, (u, v) in zip(self.depths, self.partners.tolist(), strict=True)
        ]
        values = {
            "ID": "views-" + hashlib.sha256(b"".join(pictures)).hexdigest()[:10],
            "WIDTH": self.width,
            "HEIGHT": self.height,
            "ALT1": _quoted(f"{self.names[0]}, the point ({self.x[0]}, {self.x[1]}) marked. {self.alt}"),
            "ALT2": _quoted(f"{self.names[1]}, the point's epipolar line, and dots on it for its depths"),
            "IMAGE1": _data(pictures[0]),
            "IMAGE2": _data(pictures[1]),
            "NAME1": escape(_capital(self.names[0])),
            "NAME2": escape(_capital(self.names[1])),
            "X2": f"{x2[0]:.2f}",
            "Y2": f"{x2[1]:.2f}",
            "X": self.x[0],
            "Y": self.x[1],
            "LINE": " ".join(f'{name}="{v:.2f}"' for name, v in zip(("x1", "y1", "x2", "y2"), ends, strict=True)),
            "MARKS": "".join(marks),
            "NEAR": self.depths[0],
            "FAR": self.depths[-1],
            "STEP": self.step,
            "DEPTHS": json.dumps(self.depths),
            "DEPTH": middle,
            "NUMBERS": json.dumps({name: value.tolist() for name, value in numbers.items()}),
            "NAMES": json.dumps([_capital(name) for name in self.names]),
            "STATE": escape(
                f"Point ({self.x[0]}, {self.x[1]}). At depth {middle:.3f} its partner is ({x2[0]:.1f}, {x2[1]:.1f})."
            ),
        }
        return filled(files("course_utils").joinpath("two_views.html").read_text("utf-8"), values)

    def _still(self):
        """For print, and for notebooks that show no HTML: the state that the element starts in."""
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), dpi=100, layout="constrained")
        try:
            for ax, image, name in zip(axes, self.images, self.names, strict=True):
                show_view(image, ax, name)
            draw_point(self.x, axes[0])
            draw_line(epipolar_line(self.F, self.x), axes[1])
            axes[1].plot(*self.partners.T, "o", color="white", markeredgecolor=BLUE, markersize=4)
            return png(frame_of(figure))
        finally:
            plt.close(figure)


def _pair(x):
    x = torch.as_tensor(x, dtype=torch.float64)
    if x.shape != (2,):
        raise ValueError(f"a pixel is (2,), not {tuple(x.shape)}")
    return x.tolist()


def _data(webp):
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def _quoted(text):
    return escape(_capital(text), quote=True)


def _capital(text):
    return text[:1].upper() + text[1:]
