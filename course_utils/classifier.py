"""A small classifier of pictures: the judge of what a diffusion model draws, and what trains it.

Its classes say whether a picture is of the class that was asked for (`metrics.classifier_accuracy`); its features are
where Frechet distances are taken (`metrics.frechet_distance`).
"""

import torch
from torch import nn
from torch.nn import functional as F


class PreactivationBlock(nn.Module):
    """x + f(x), f two 3x3 convolutions, each after batch norm and ReLU (He et al. 2016, "Identity mappings").

    x (B, c_in, H, W) -> (B, c_out, H / stride, W / stride). Where size or channels change, x is averaged over the
    stride and carried across by a 1x1 convolution.
    """

    def __init__(self, c_in, c_out, stride=1):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(c_out), nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        same = c_in == c_out and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(c_in, c_out, 1))

    def forward(self, x):
        h = self.conv1(F.relu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.relu(self.norm2(h)))


class SmallClassifier(nn.Module):
    """A residual network with batch norm (Zagoruyko & Komodakis 2016): three levels of width, 2 and 4 times width.

    Each level has `n_blocks` blocks and half the resolution of the one before. The features are the last maps, averaged
    over positions: 4 x width numbers a picture. In train mode batch norm looks at the whole batch, which a denoiser
    must never do and a classifier may: in eval mode every picture is judged by itself.

    x (B, channels, H, W), floats in [-1, 1], H and W multiples of 4 -> logits (B, n_classes). With width 32 it has
    0.3 million parameters with one block a level, 0.7 with two. Raises ValueError for other pictures or sizes below 1.
    """

    def __init__(self, channels=1, n_classes=10, width=32, n_blocks=1):
        super().__init__()
        if min(channels, n_classes, width, n_blocks) < 1:
            raise ValueError(
                f"channels = {channels}, n_classes = {n_classes}, width = {width}, n_blocks = {n_blocks}: "
                "each is at least 1"
            )
        self.channels, self.n_classes = channels, n_classes
        layers, c = [nn.Conv2d(channels, width, 3, padding=1, bias=False)], width
        for level in range(3):
            for i in range(n_blocks):
                layers.append(PreactivationBlock(c, width * 2**level, stride=2 if level and i == 0 else 1))
                c = width * 2**level
        self.main = nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU())
        self.last = nn.Linear(c, n_classes)

    def features(self, x):
        """Pictures (B, channels, H, W) -> features (B, 4 width), each at least 0."""
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % 4 or x.shape[3] % 4 or not x.is_floating_point():
            raise ValueError(
                f"x is {x.dtype} {tuple(x.shape)}; this classifier takes pictures (B, {self.channels}, H, W) as floats "
                "in [-1, 1] with H and W multiples of 4"
            )
        return self.main(x).mean((2, 3))

    def forward(self, x):
        return self.last(self.features(x))


def classifier_loss(classifier, x, y, smoothing=0.1):
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7): 1 - smoothing of the weight is on the label
    and the rest is spread over all classes, so that the logits, and the features under them, stay small.

    x (B, C, H, W), y (B,) int64 -> a scalar; `fit(classifier, classifier_loss, batches((x, y), 128), ...)` trains.
    """
    return F.cross_entropy(classifier(x), y, label_smoothing=smoothing)


def augment(x, flip=False, shift=2, generator=None):
    """Pictures (B, C, H, W), each moved at random by up to `shift` pixels either way; with `flip` half are mirrored.

    What a move uncovers is filled by reflection. Digits must not be mirrored. Any device; the result is a new tensor.
    Raises ValueError for other shapes, or a shift that is not in 0..min(H, W) - 1.
    """
    if x.ndim != 4 or not 0 <= shift < min(x.shape[2:]):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and shift = {shift}; pictures (B, C, H, W) are moved by 0 to min(H, W) - 1 "
            "pixels"
        )
    (B, C, H, W), device = x.shape, x.device
    source = generator.device if generator is not None else device

    def draw(low, high):  # a whole number of low..high for each picture
        return torch.randint(low, high + 1, (B, 1), generator=generator, device=source).to(device)

    rows = _reflect(torch.arange(H, device=device) + draw(-shift, shift), H)  # (B, H): which row comes here
    columns = _reflect(torch.arange(W, device=device) + draw(-shift, shift), W)
    if flip:
        columns = torch.where(draw(0, 1).bool(), W - 1 - columns, columns)
    picture = torch.arange(B, device=device)[:, None, None, None]
    channel = torch.arange(C, device=device)[None, :, None, None]
    return x[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflect(i, n):
    """Indices -n < i < 2n - 1 brought into 0..n - 1 by reflection at the first and the last pixel."""
    return (n - 1) - ((n - 1) - i.abs()).abs()
