"""The network that chapter 5 grew from: 27,487,287 parameters, kept as it was to be measured against.

Its plan is that of a U-Net (Ronneberger et al. 2015) with attention (Vaswani et al. 2017) as many small diffusion
models of 2021 and 2022 had it. `models.UNet` does the same work with fewer parameters. What differs: time and class
are pictures beside the input, not a context in every block; no block is normalised; channels are dropped.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from course_utils.checks import check_context


class ConvBlock(nn.Module):
    """Twice a 3x3 convolution, channel dropout and ReLU, added to the input: (B, c_in, H, W) -> (B, c_out, H, W).

    Where the numbers of channels differ, the input is carried across by a 1x1 convolution without bias. `last` leaves
    out what follows the second convolution, so that the sum may take any value.
    """

    def __init__(self, c_in, c_middle, c_out, last=False):
        super().__init__()
        layers = [nn.Conv2d(c_in, c_middle, 3, padding=1), nn.Dropout2d(0.1), nn.ReLU()]
        layers += [nn.Conv2d(c_middle, c_out, 3, padding=1), nn.Dropout2d(0.1), nn.ReLU()]
        self.main = nn.Sequential(*layers[: 4 if last else 6])
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x):
        return self.main(x) + self.skip(x)


class HeadsAttention(nn.Module):
    """x + attention(norm(x)) over the positions of a picture, (B, C, H, W) -> the same, in heads of 64 channels.

    Every head has its own linear layers for q, k and v. One layer holds them all, first the q of every head, then the
    k, then the v: the same numbers, and one multiplication in place of many.
    """

    def __init__(self, channels):
        super().__init__()
        self.heads = channels // 64
        self.norm, self.qkv = nn.LayerNorm(channels), nn.Linear(channels, 3 * channels)
        self.out, self.dropout = nn.Linear(channels, channels), nn.Dropout(0.1)

    def forward(self, x):
        B, C, H, W = x.shape
        h = x.flatten(2).transpose(1, 2)  # (B, H W, C)
        qkv = self.qkv(self.norm(h)).reshape(B, H * W, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, H W, C / heads) each
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return x + self.dropout(self.out(h)).transpose(1, 2).reshape(B, C, H, W)


class Beside(nn.Sequential):
    """What the layers make of x, and x itself behind it: (B, c_in, H, W) -> (B, c_out + c_in, H, W)."""

    def forward(self, x):
        return torch.cat([super().forward(x), x], 1)


class BaselineUNet(nn.Module):
    """net(x, t, y=None): x (B, 3, H, W), t (B,) in [0, 1], y (B,) in -1..n_classes - 1 or None -> (B, 3, H, W).

    H and W are multiples of 8. Raises ValueError for a width that is not a multiple of 32 (attention works on twice
    the width and more, in heads of 64), other pictures, and times or labels as in `models.UNet`.
    """

    def __init__(self, width=64, n_classes=10):
        super().__init__()
        if width < 1 or width % 32 or n_classes < 1:
            raise ValueError(
                f"width = {width}, n_classes = {n_classes}: width is a multiple of 32, n_classes at least 1"
            )
        self.n_classes = n_classes
        self.frequency = nn.Parameter(torch.randn(8))  # of the waves of t; trained like any weight
        self.label = nn.Embedding(n_classes + 1, 4)  # row 0 is the null class
        R, A, c = ConvBlock, HeadsAttention, width

        def down():
            return nn.AvgPool2d(2)

        def up():
            return nn.Upsample(scale_factor=2, mode="bilinear")

        at_4 = [R(4 * c, 8 * c, 8 * c), A(8 * c), R(8 * c, 8 * c, 8 * c), A(8 * c)]
        at_4 += [R(8 * c, 8 * c, 8 * c), A(8 * c), R(8 * c, 8 * c, 4 * c), A(4 * c)]
        at_8 = [R(2 * c, 4 * c, 4 * c), A(4 * c), R(4 * c, 4 * c, 4 * c), A(4 * c), Beside(down(), *at_4, up())]
        at_8 += [R(8 * c, 4 * c, 4 * c), A(4 * c), R(4 * c, 4 * c, 2 * c), A(2 * c)]
        at_16 = [R(c, 2 * c, 2 * c), R(2 * c, 2 * c, 2 * c), Beside(down(), *at_8, up())]
        at_16 += [R(4 * c, 2 * c, 2 * c), R(2 * c, 2 * c, c)]
        at_32 = [R(3 + 16 + 4, c, c), R(c, c, c), Beside(down(), *at_16, up()), R(2 * c, c, c), R(c, c, 3, last=True)]
        self.main = nn.Sequential(*at_32)

    def forward(self, x, t, y=None):
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % 8 or x.shape[3] % 8:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; this network takes pictures (B, 3, H, W) with H and W multiples of 8"
            )
        y = check_context(self, x, t, y)
        angle = 2 * math.pi * t.expand(len(x))[:, None] * self.frequency  # (B, 8)
        context = torch.cat([angle.cos(), angle.sin(), self.label(y.expand(len(x)) + 1)], 1)  # (B, 20)
        context = context[:, :, None, None].expand(-1, -1, *x.shape[2:])  # the same at every position
        return self.main(torch.cat([x, context.to(x)], 1))
