"""A denoiser is a function ``(x, t) -> x0_hat``, the mean of x0 given x_t; the word means nothing else here.

A network may be trained to say the noise, the data, the velocity or the score. They carry the same information, and
the two functions below are the only place where one is turned into another.
"""

import torch
from torch import nn

from course_utils.checks import check_shapes
from course_utils.schedules import check_schedule

KINDS = ("eps", "x0", "v", "score")


def to_x0(kind, out, x, alpha, sigma):
    """x0_hat from a network's output `out` of the given kind at x = alpha x0 + sigma eps; all (B, ...).

    Kinds: "eps" the noise; "x0" the data; "v" alpha eps - sigma x0 (Salimans & Ho 2022, section 4); "score" the
    gradient of log p_t at x (Tweedie's formula). Raises ValueError for any other kind.
    """
    if kind == "eps":
        return (x - sigma * out) / alpha
    if kind == "x0":
        return out
    if kind == "v":
        return (alpha * x - sigma * out) / (alpha**2 + sigma**2)
    if kind == "score":
        return (x + sigma**2 * out) / alpha
    raise unknown_kind(kind)


def from_x0(kind, x0, x, alpha, sigma):
    """The inverse of `to_x0`; with the true x0 this is what the network is trained to say. sigma must be above 0."""
    eps = (x - alpha * x0) / sigma
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * eps - sigma * x0
    if kind == "score":
        return -eps / sigma
    raise unknown_kind(kind)


def unknown_kind(kind):
    return ValueError(f"unknown kind of prediction {kind!r}; a network predicts one of {', '.join(KINDS)}")


class Denoiser(nn.Module):
    """A network and its schedule as a denoiser: ``denoiser(x, t, y=None) -> x0_hat``.

    x is (B, ...), t a float or (B,) in [0, 1], y (B,) class labels or None. The network is called net(x, t, y) with
    t (B,) and says `prediction`, one of "eps", "x0", "v", "score".
    """

    def __init__(self, net, schedule, prediction="eps"):
        super().__init__()
        if prediction not in KINDS:
            raise unknown_kind(prediction)
        self.net, self.schedule, self.prediction = net, check_schedule(schedule), prediction

    def forward(self, x, t, y=None):
        alpha, sigma = self.schedule.at(t, x)
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
        return to_x0(self.prediction, self.net(x, t, y), x, alpha, sigma)


def diffusion_loss(denoiser, x0, y=None, t=None, noise=None):
    """Mean squared error of the network's prediction at random times: L_simple (Ho et al. 2020, eq. 14) for "eps".

    x0 (B, ...), y (B,) or None. Times (antithetic) and noise are drawn unless given: t a float or (B,), above 0, and
    noise (B, ...). Raises ValueError for other shapes, for times outside [0, 1], and at t = 0, where no noise is left
    to predict; TypeError where `denoiser` has no network and schedule, as a plain function, or x0 no floats.
    """
    if not all(hasattr(denoiser, part) for part in ("net", "schedule", "prediction")):
        raise TypeError("the loss needs a network and its schedule: give a Denoiser(net, schedule), not a function")
    schedule = denoiser.schedule
    t = schedule.sample_t(len(x0), antithetic=True).to(x0.dtype) if t is None else t
    alpha, sigma = schedule.at(t, x0)
    noise = torch.randn_like(x0) if noise is None else noise
    check_shapes(x0=x0, noise=noise)
    if not (torch.as_tensor(t) > 0).all():
        raise ValueError("at t = 0 there is no noise to predict: give times above 0, such as schedule.sample_t(n)")
    x = alpha * x0 + sigma * noise
    target = from_x0(denoiser.prediction, x0, x, alpha, sigma)
    t = torch.as_tensor(t, dtype=x0.dtype, device=x0.device).expand(len(x0))
    return (denoiser.net(x, t, y) - target).square().mean()
