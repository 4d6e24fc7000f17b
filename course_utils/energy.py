"""Energy-based models: a density known but for its constant, p(x) = exp(-E(x)) / Z.

An *energy* is a function x (B, ...) -> (B,), low where data are dense. Its score, -grad E, needs no Z; in one and two
dimensions Z is integrated on a grid, so that a learned density can be drawn beside the exact one.
Sources: LeCun et al. 2006, "A tutorial on energy-based learning"; Du & Mordatch 2019 (networks, composition).
"""

import math

import torch
from torch import nn


def energies(energy, x):
    """energy(x), checked: raises ValueError where it is not one number for each of the B samples."""
    e = energy(x)
    if e.shape != (len(x),):  # (B, 1) would broadcast against (B,) to (B, B) without a word
        given = f"the energy of {len(x)} samples has shape {tuple(e.shape)}"
        raise ValueError(f"{given}; give one number each: ({len(x)},)")
    return e


def energy_and_score(energy, x):
    """E(x) (B,) and the score -grad E(x) (B, ...), the gradient of log p whatever Z is, from one pass.

    Where gradients are on, as in a training loss, both keep their graph; under no_grad they are plain tensors. Raises
    ValueError for an energy without a gradient.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if keep and x.requires_grad else x.detach().requires_grad_()
        e = energies(energy, x)
        if not e.requires_grad:
            raise ValueError("the energy has no gradient: was it computed under no_grad, or detached?")
        (grad,) = torch.autograd.grad(e.sum(), x, create_graph=keep)
    return (e, -grad) if keep else (e.detach(), -grad)


def score_of(energy):
    """The score of an energy as a function x (B, ...) -> -grad E(x), the same shape."""
    return lambda x: energy_and_score(energy, x)[1]


def product(*several):
    """The energy of a product of experts, p1 p2 ... up to its constant: low where every expert's is (Hinton 2002)."""
    return lambda x: sum(energies(energy, x) for energy in several)


def mixture(*several):
    """The energy of exp(-E1) + exp(-E2) + ...: low where any one is. Each weighs as much as its own Z."""
    return lambda x: -torch.stack([-energies(energy, x) for energy in several]).logsumexp(0)


def grid(low, high, n=200, dim=2):
    """Midpoints (n^dim, dim), float64, of the n^dim cells of the box [low, high]^dim, and the volume of a cell.

    In two dimensions reshape(n, n) of what was computed at the points has x along axis 0 and y along axis 1. Raises
    ValueError for other dimensions than 1 and 2 (the cost grows as n^dim), an empty box, or n < 2.
    """
    if dim not in (1, 2):
        raise ValueError(f"dim = {dim}; a grid of n^dim cells is for one or two dimensions")
    if not (low < high and n >= 2):
        raise ValueError(f"low = {low}, high = {high}, n = {n}; a grid needs low < high and at least 2 cells a side")
    side = low + (torch.arange(n, dtype=torch.float64) + 0.5) * (high - low) / n
    return torch.cartesian_prod(*[side] * dim).reshape(-1, dim), ((high - low) / n) ** dim


@torch.no_grad()
def log_partition(energy, points, cell):
    """log Z by the midpoint rule over a `grid` that holds all the mass: a float.

    Raises FloatingPointError where the energy is not a number, or is -infinity, at some point.
    """
    e = energies(energy, points).double()
    if not (e > -math.inf).all():
        raise FloatingPointError(f"the energy is {e.min()} at {points[e.argmin()].tolist()}: there is no Z")
    return (-e).logsumexp(0).item() + math.log(cell)


@torch.no_grad()
def log_density(energy, points, cell):
    """log p = -E - log Z at the points of a `grid`: (n^dim,) float64; exp(log p) * cell sums to one."""
    return -energies(energy, points).double() - log_partition(energy, points, cell)


def grid_kl(log_p, log_q, cell):
    """KL(p || q) in nats, a float at least 0, of two log densities (N,) at the points of one grid.

    Raises ValueError where one does not sum to 1 over the grid, within a twentieth: there is no KL without log Z.
    """
    for name, log in (("log_p", log_p), ("log_q", log_q)):
        total = (log.exp().sum() * cell).item()
        if not abs(total - 1) < 0.05:
            raise ValueError(
                f"{name} sums to {total:.3g} over the grid, not 1: is log Z missing or the grid too small?"
            )
    p = log_p.exp()
    return (torch.where(p > 0, p * (log_p - log_q), 0).sum() * cell).item()


class EnergyNet(nn.Module):
    """|x|^2 / (2 base_std^2) + f(x), f a network of SiLU units: x (B, dim) -> (B,).

    f grows no faster than a straight line, so the first term keeps Z finite: far out the model is a Gaussian, and no
    chain walks off. f also sees waves of the coordinates at so many `octaves` (Tancik et al. 2020), which show it fine
    detail in the plane; with many coordinates take 0. Raises ValueError for sizes below 1 (octaves: 0), base_std not
    above 0, and points of another dimension.
    """

    def __init__(self, dim=2, width=128, depth=3, base_std=2.0, octaves=3):
        super().__init__()
        if min(dim, width, depth, octaves + 1) < 1 or not base_std > 0:
            raise ValueError(
                f"dim = {dim}, width = {width}, depth = {depth}: at least 1; base_std = {base_std}: it is above 0"
            )
        self.dim, self.base_std = dim, base_std
        self.register_buffer("octave", 1.5 * 2.0 ** torch.arange(octaves), persistent=False)
        sizes = [dim * (1 + 2 * octaves)] + [width] * depth
        hidden = [part for pair in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(*pair), nn.SiLU())]
        self.f = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, x):
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}; this energy takes points (B, {self.dim})")
        h = x.to(self.octave)  # a float64 grid is welcome; the result is float64 again
        waves = (h[:, :, None] * self.octave).flatten(1)
        f = self.f(torch.cat([h, waves.sin(), waves.cos()], 1)).squeeze(1)
        return x.square().sum(1) / (2 * self.base_std**2) + f.to(x)


class ConvEnergy(nn.Module):
    """A Gaussian's energy + f(x), f a small convolutional network: pictures (B, channels, size, size) -> (B,).

    The Gaussian is N(0, base_std^2 I), or after `set_base` that of given pictures with noise of base_std on them, the
    `directions` in which they vary most and noise alone in all others; f adds what no Gaussian knows: 2 x 2 pixels are
    folded into channels, then convolutions halve the resolution twice. No norm: it would hide how strong a picture is.
    Raises ValueError for sizes below 1 (directions: 0), an odd size, and other pictures.
    """

    def __init__(self, channels=1, size=28, width=24, base_std=0.5, directions=0):
        super().__init__()
        if min(channels, size, width, directions + 1) < 1 or size % 2 or not base_std > 0:
            given = f"channels = {channels}, size = {size}, width = {width}, directions = {directions}"
            raise ValueError(f"{given}: the first three are at least 1, size is even, base_std = {base_std} above 0")
        self.shape, self.base_std = (channels, size, size), base_std
        self.register_buffer("centre", torch.zeros(channels * size**2))
        self.register_buffer("explained", torch.zeros(channels * size**2, directions))
        layers, c, side = [nn.PixelUnshuffle(2)], 4 * channels, size // 2
        for stride, wider in ((1, width), (2, 3 * width // 2), (2, 2 * width)):
            layers += [nn.Conv2d(c, wider, 3, stride, padding=1), nn.SiLU()]
            c, side = wider, (side + stride - 1) // stride
        self.f = nn.Sequential(*layers, nn.Flatten(), nn.Linear(c * side**2, 2 * c), nn.SiLU(), nn.Linear(2 * c, 1))

    @torch.no_grad()
    def set_base(self, pictures):
        """Give the Gaussian the moments of pictures (N, channels, size, size); f begins at 0, so that it is the model.

        With u a direction of variance v, the precision is (1 - v / (v + base_std^2)) / base_std^2 along u.
        """
        x = pictures.flatten(1).double()
        variance, u = torch.linalg.eigh(x.T.cov())
        k = self.explained.shape[1]
        variance, u = variance[len(variance) - k :].clamp(min=0), u[:, len(variance) - k :]
        self.centre.copy_(x.mean(0))
        self.explained.copy_(u * (variance / (variance + self.base_std**2)).sqrt())
        for parameter in self.f[-1].parameters():
            nn.init.zeros_(parameter)

    def base(self, x):
        """The Gaussian's energy alone: (B,)."""
        y = x.flatten(1) - self.centre
        return (y.square().sum(1) - (y @ self.explained).square().sum(1)) / (2 * self.base_std**2)

    def forward(self, x):
        if x.shape[1:] != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; this energy takes pictures (B, {str(self.shape)[1:]}")
        return self.base(x) + self.f(x).squeeze(1)
