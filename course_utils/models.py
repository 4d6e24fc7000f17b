"""Networks. Every one is called net(x, t, y=None): x (B, ...), t (B,) in [0, 1], y (B,) class labels.

y = None, or a label of -1, is the null class: the network then speaks for all classes together.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from course_utils.checks import check_context


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


class FourierFeatures(nn.Module):
    """Cosines and sines of 2 pi w t at random frequencies w ~ N(0, std^2) (Tancik et al. 2020): (B,) -> (B, dim).

    Low frequencies, and so a smooth function of t in [0, 1], where `TimeEmbedding` tells level from level.
    """

    def __init__(self, dim, std=1.0):
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"features of cosines and sines have an even dimension, not {dim}")
        self.register_buffer("frequency", std * torch.randn(dim // 2))

    def forward(self, t):
        angle = 2 * math.pi * t[:, None] * self.frequency  # (B, dim / 2)
        return torch.cat([angle.cos(), angle.sin()], 1)


class MLP(nn.Module):
    """A network for points: hidden layers of SiLU units, each shifted and scaled by the time (and class) embedding.

    It sees the coordinates and their waves at three octaves (Tancik et al. 2020), which show it finer detail.

    `depth` layers of `width` units; with `n_classes` it takes labels.

    x (B, dim), t (B,), y (B,) in -1..n_classes - 1 or None -> (B, dim). Raises ValueError for sizes below 1, for points
    of another dimension, for times and labels that are not (B,), and (on a processor) for times outside [0, 1] and
    labels that are no classes of the network.
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
        y = check_context(self, x, t, y)
        context = self.time(t)
        if self.label is not None:
            context = context + self.label(y + 1)
        modulation = self.modulation(context).chunk(2 * (len(self.layers) + 1), dim=1)
        waves = (x[:, :, None] * self.octave).flatten(1)  # (B, 3 dim)
        h = self.first(torch.cat([x, waves.sin(), waves.cos()], 1))
        for i, layer in enumerate([nn.Identity(), *self.layers]):
            scale, shift = modulation[2 * i], modulation[2 * i + 1]
            h = F.silu(layer(h) * (1 + scale) + shift)
        return self.last(h)


class ResidualBlock(nn.Module):
    """x + f(x, context), f two 3x3 convolutions, each after group norm and SiLU (Ho et al. 2020, appendix B).

    The context (time and class), (B, context), scales and shifts the channels after the second norm, which would undo
    what came before it. x (B, c_in, H, W) -> (B, c_out, H, W); where the numbers differ, a 1x1 convolution carries x
    across. The last convolution starts at zero: at first the block hands its input on.
    """

    def __init__(self, c_in, c_out, context, dropout=0.0):
        super().__init__()
        self.norm1, self.conv1 = group_norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = group_norm(c_out), zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.modulation = nn.Linear(context, 2 * c_out)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, context):
        scale, shift = self.modulation(context)[:, :, None, None].chunk(2, dim=1)  # (B, c_out, 1, 1) each
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """x + attention(norm(x)): every position of a picture looks at all others (Vaswani et al. 2017, section 3.2).

    x (B, channels, H, W) -> the same shape. The output projection starts at zero. Raises ValueError where the channels
    cannot be shared out to the heads.
    """

    def __init__(self, channels, heads=1):
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared out to {heads} heads")
        self.heads, self.norm = heads, group_norm(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x):
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W).transpose(3, 4)
        q, k, v = qkv.unbind(1)  # (B, heads, H W, C / heads)
        h = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(C / heads)) v
        return x + self.out(h.transpose(2, 3).reshape(B, C, H, W))


class UNet(nn.Module):
    """A network for pictures: down to coarse maps and up again, with the fine ones handed across.

    Ronneberger et al. 2015 in the form of Ho et al. 2020 (appendix B): levels of width x multipliers channels, each at
    half the resolution of the one before; on either side `n_blocks` residual blocks a level, and attention from level
    `attention` (0 is the finest) down. Pictures are first folded, `patch` x `patch` pixels into the channels of one
    position, and unfolded at the end: with patch = 2 the finest maps have a quarter of the positions. `time` embeds t:
    TimeEmbedding or FourierFeatures.

    x (B, channels, H, W), t (B,), y (B,) in -1..n_classes - 1 or None -> (B, channels, H, W). Raises ValueError for
    sizes below 1, pictures of other channels or that cannot be halved often enough, and times or labels as in `MLP`.
    """

    def __init__(
        self, channels=1, width=32, multipliers=(1, 2), n_blocks=1, n_classes=None, patch=1, attention=1, dropout=0.0,
        time=TimeEmbedding,
    ):  # fmt: skip
        super().__init__()
        classes = 1 if n_classes is None else n_classes
        if min(channels, width, n_blocks, patch, len(multipliers), *multipliers, classes) < 1:
            raise ValueError("channels, width, multipliers, n_blocks, n_classes and patch are each at least 1")
        self.channels, self.n_classes, self.patch = channels, n_classes, patch
        sizes, context = [width * m for m in multipliers], 4 * width
        self.time = nn.Sequential(
            time(2 * width), nn.Linear(2 * width, context), nn.SiLU(), nn.Linear(context, context)
        )
        self.label = nn.Embedding(n_classes + 1, context) if n_classes else None  # row 0 is the null class

        def stage(level, c_in, c_out):
            return Stage(c_in, c_out, context, dropout, level >= attention)

        self.stem = nn.Conv2d(channels * patch**2, sizes[0], 3, padding=1)
        self.down, self.up, c = nn.ModuleList(), nn.ModuleList(), sizes[0]
        for level, size in enumerate(sizes):
            self.down.append(nn.ModuleList(stage(level, c if i == 0 else size, size) for i in range(n_blocks)))
            c = size
        self.middle = nn.ModuleList([stage(len(sizes), c, c), stage(-1, c, c)])
        for level, size in reversed(list(enumerate(sizes))):
            self.up.append(nn.ModuleList(stage(level, (c if i == 0 else size) + size, size) for i in range(n_blocks)))
            c = size
        self.last = nn.Sequential(group_norm(c), nn.SiLU(), zero(nn.Conv2d(c, channels * patch**2, 3, padding=1)))

    def forward(self, x, t, y=None):
        self._check_pictures(x)
        y = check_context(self, x, t, y)
        context = self.time(t)
        if self.label is not None:
            context = context + self.label(y + 1)
        context = F.silu(context)

        h, across = self.stem(F.pixel_unshuffle(x, self.patch)), []
        for level, stages in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if level else h
            for stage in stages:
                h = stage(h, context)
                across.append(h)
        for stage in self.middle:
            h = stage(h, context)
        for level, stages in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2.0, mode="nearest") if level else h
            for stage in stages:
                h = stage(torch.cat([h, across.pop()], 1), context)
        return F.pixel_shuffle(self.last(h), self.patch)

    def _check_pictures(self, x):
        halved = self.patch * 2 ** (len(self.down) - 1)
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % halved or x.shape[3] % halved:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; this network takes pictures (B, {self.channels}, H, W) "
                f"with H and W multiples of {halved}"
            )


class Stage(nn.Module):
    """A residual block, and attention where it is asked for, in heads of at least 64 channels."""

    def __init__(self, c_in, c_out, context, dropout, attention):
        super().__init__()
        self.block = ResidualBlock(c_in, c_out, context, dropout)
        heads = next(n for n in range(max(1, c_out // 64), 0, -1) if c_out % n == 0)
        self.attention = Attention(c_out, heads) if attention else nn.Identity()

    def forward(self, x, context):
        return self.attention(self.block(x, context))


def group_norm(channels):
    """Group norm (Wu & He 2018) in groups of four channels or, where they don't divide, in one."""
    return nn.GroupNorm(channels // 4 if channels % 4 == 0 else 1, channels)


def zero(layer):
    """The layer, its weights and biases set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
