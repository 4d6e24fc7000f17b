"""What is seen of a picture: views for `guidance.anagram`, filters for `guidance.factorized`.

A view is a pair (view, inverse) of functions on pictures (B, C, H, W) that move pixels or turn signs, so that white
noise stays white noise. Filters are linear functions on pictures, in sets that sum to the identity.
"""

import torch
from torch.nn import functional as F


def rotation(quarter_turns=1):
    """A quarter turn to the left, or several, as a pair (view, inverse); 0 is the picture as it is."""
    return (
        lambda x: torch.rot90(x, quarter_turns, (-2, -1)),
        lambda x: torch.rot90(x, -quarter_turns, (-2, -1)),
    )


def flip(dim=-2):
    """Upside down, or for dim = -1 mirrored: its own inverse."""
    return (lambda x: x.flip(dim), lambda x: x.flip(dim))


def negative():
    """The negative of a picture: its own inverse."""
    return (torch.neg, torch.neg)


def jigsaw(n=2, seed=0):
    """The picture cut into n x n pieces that change places, as a pair (view, inverse); H and W are multiples of n."""
    order = torch.randperm(n * n, generator=torch.Generator().manual_seed(seed))

    def moved(x, order):
        *rest, H, W = x.shape
        if H % n or W % n:
            raise ValueError(f"a picture of {H} x {W} cannot be cut into {n} x {n} equal pieces")
        pieces = x.reshape(*rest, n, H // n, n, W // n).transpose(-3, -2).flatten(-4, -3)  # (..., n n, H / n, W / n)
        pieces = pieces[..., order.to(x.device), :, :].unflatten(-3, (n, n))
        return pieces.transpose(-3, -2).reshape(x.shape)

    return (lambda x: moved(x, order), lambda x: moved(x, order.argsort()))


def blur(x, sigma):
    """Gaussian blur of pictures (B, C, H, W), sigma in pixels; the edge pixels are repeated outwards.

    Raises ValueError where sigma is not above 0.
    """
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma = {sigma}; the width of a blur is a number of pixels, above 0")
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = (-0.5 * (offsets / sigma) ** 2).softmax(0).to(x)  # exp, scaled to sum to 1
    channels = x.shape[1]
    x = F.pad(x, [radius] * 4, mode="replicate")
    x = F.conv2d(x, kernel.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(x, kernel.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def low_pass(sigma):
    """The filter of what is seen from afar: a Gaussian blur."""
    return lambda x: blur(x, sigma)


def high_pass(sigma):
    """The filter of what is seen close by: what `low_pass` leaves."""
    return lambda x: x - blur(x, sigma)


def grey(x):
    """The filter of brightness: the mean of the channels, in each of them."""
    return x.mean(1, keepdim=True).expand_as(x)


def colour(x):
    """The filter of colour: what `grey` leaves."""
    return x - grey(x)
