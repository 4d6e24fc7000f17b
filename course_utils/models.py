"""Networks. Every one is called net(x, t, y=None): x (B, ...), t (B,) in [0, 1], y (B,) class labels.

y = None, or a label of -1, is the null class: the network then speaks for all classes together.
"""

import torch
from torch import nn


class TimeEmbedding(nn.Module):
    """Sines and cosines of t at geometric frequencies (Vaswani et al. 2017, section 3.5): (B,) -> (B, dim).

    t in [0, 1] stands for levels 0 to 1000, so that frequencies run from 1000 down to 1000 / max_period.
    """

    def __init__(self, dim, max_period=10_000):
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"an embedding of sines and cosines has an even dimension, not {dim}")
        self.register_buffer("frequency", 1000 * max_period ** -torch.linspace(0, 1, dim // 2), persistent=False)

    def forward(self, t):
        angle = t[:, None] * self.frequency  # (B, dim / 2)
        return torch.cat([angle.sin(), angle.cos()], 1)


class MLP(nn.Module):
    """A network for points: hidden layers of SiLU units, each shifted and scaled by the time (and class) embedding.

    It sees the coordinates and their waves at three octaves (Tancik et al. 2020), which show it finer detail.

    `depth` layers of `width` units; with `n_classes` it takes labels.

    x (B, dim), t (B,), y (B,) in -1..n_classes - 1 or None -> (B, dim). Raises ValueError for sizes below 1, for points
    of another dimension, for times and labels that are not (B,), and for labels that are no classes of the network.
    """

    def __init__(self, dim=2, width=128, depth=3, n_classes=None):
        super().__init__()
        if min(dim, width, depth, 1 if n_classes is None else n_classes) < 1:
            raise ValueError(
                f"dim = {dim}, width = {width}, depth = {depth}, n_classes = {n_classes}: each is at least 1 "
                "(n_classes = None for a network without classes)"
            )
        self.dim, self.n_classes = dim, n_classes
        context = 32  # enough for a time and a class; more would make it the largest part of the network
        self.time = nn.Sequential(TimeEmbedding(context), nn.Linear(context, context), nn.SiLU())
        self.label = nn.Embedding(n_classes + 1, context) if n_classes else None  # row 0 is the null class
        self.register_buffer("octave", 1.5 * 2.0 ** torch.arange(3), persistent=False)
        self.first = nn.Linear(dim * (1 + 2 * len(self.octave)), width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.modulation = nn.Linear(context, 2 * width * depth)
        self.last = nn.Linear(width, dim)

    def forward(self, x, t, y=None):
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}; this network takes points (B, {self.dim})")
        if not torch.is_tensor(t) or t.shape not in ((1,), (len(x),)):
            given = f"has shape {tuple(t.shape)}" if torch.is_tensor(t) else f"is {t!r}"
            raise ValueError(f"t {given}; this network takes a time for each of the {len(x)} points: ({len(x)},)")
        if y is not None and self.label is None:
            raise ValueError("labels were given, but the network has no classes: MLP(..., n_classes=...)")
        context = self.time(t)
        if self.label is not None:
            y = torch.full_like(t, -1, dtype=torch.long) if y is None else _labels(y, len(x))
            if not ((y >= -1) & (y < self.n_classes)).all():
                raise ValueError(
                    f"labels run from -1 (the null class) to {self.n_classes - 1}, not {y.min()} to {y.max()}"
                )
            context = context + self.label(y + 1)
        modulation = self.modulation(context).chunk(2 * (len(self.layers) + 1), dim=1)
        waves = (x[:, :, None] * self.octave).flatten(1)  # (B, 3 dim)
        h = self.first(torch.cat([x, waves.sin(), waves.cos()], 1))
        for i, layer in enumerate([nn.Identity(), *self.layers]):
            scale, shift = modulation[2 * i], modulation[2 * i + 1]
            h = nn.functional.silu(layer(h) * (1 + scale) + shift)
        return self.last(h)


def _labels(y, n):
    """y as int64 (n,) or (1,); raises ValueError where it is something else than labels for n points."""
    if not torch.is_tensor(y) or y.is_floating_point() or y.dtype == torch.bool or y.shape not in ((1,), (n,)):
        given = f"are {y.dtype} {tuple(y.shape)}" if torch.is_tensor(y) else f"are {y!r}"
        raise ValueError(f"labels {given}; this network takes whole numbers, one for each of the {n} points: ({n},)")
    return y.long()
