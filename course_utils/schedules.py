"""Noise schedules: how much signal and how much noise at time t.

One equation holds in the whole course::

    x_t = alpha(t) x0 + sigma(t) eps,    eps ~ N(0, I),    t in [0, 1]

t = 0 is data (alpha = 1 and sigma = 0, exactly) and t = 1 is noise. The papers' discrete schedules are the same
object seen at t = k / T: their tables start with alpha_bar[0] = 1, so that index k = 1..T is the papers' own.

Sources: Ho et al. 2020 (linear), Nichol & Dhariwal 2021 (cosine), Song et al. 2021 (variance exploding).
"""

import math
from numbers import Integral

import torch

from course_utils.checks import check_levels, check_shapes, check_times

T_MIN = 1e-3  # the smallest time a continuous schedule trains at: below, float32 cannot tell noise from data


class NoiseSchedule:
    """A pair of functions of time, alpha(t) (signal) and sigma(t) (noise), and what follows from them.

    Times are floats or tensors of any shape with values in [0, 1]; results have the shape and dtype of the times
    (float64 for a float).
    """

    T = None  # number of discrete levels; None where time is continuous

    def alpha(self, t):
        """Signal coefficient, 1 at t = 0."""
        raise NotImplementedError

    def sigma(self, t):
        """Standard deviation of the noise, 0 at t = 0."""
        raise NotImplementedError

    def log_snr(self, t):
        """log(alpha(t)^2 / sigma(t)^2): infinite at t = 0, falling with t."""
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def at(self, t, x):
        """(alpha, sigma) at times t (a float, or (B,) for x of shape (B, ...)), ready to multiply x.

        Raises TypeError where x is no tensor of floats, ValueError where t has another shape or leaves [0, 1].
        """
        return tuple(c.to(x) for c in self._exactly_at(t, x))

    def _exactly_at(self, t, x):
        """What `at` says, in float64 and on the CPU: there are devices without float64."""
        if not (torch.is_tensor(x) and x.is_floating_point()):  # in whole numbers alpha and sigma would become 0
            raise TypeError(
                f"samples are a tensor of floats, not {x.dtype if torch.is_tensor(x) else type(x).__name__}; "
                "`data.to_float` makes floats in [-1, 1] of bytes"
            )
        t = t.cpu().double() if torch.is_tensor(t) else torch.as_tensor(t, dtype=torch.float64)
        if t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(x))):
            raise ValueError(f"t has shape {tuple(t.shape)}; give one time, or one for each of the {len(x)} samples")
        shape = t.shape + (1,) * (x.ndim - t.ndim) if t.ndim else ()
        return self.alpha(t).reshape(shape), self.sigma(t).reshape(shape)

    def add_noise(self, x0, t, noise):
        """x_t = alpha(t) x0 + sigma(t) noise, in one jump; x0 and noise (B, ...), t a float or (B,)."""
        check_shapes(x0=x0, noise=noise)
        alpha, sigma = self.at(t, x0)
        return alpha * x0 + sigma * noise

    def renoise(self, x, t_from, t_to, noise):
        """Carry x from time t_from up to the noisier time t_to: a draw of q(x_to | x_from) with the given noise.

        Raises ValueError where t_to is the less noisy one.
        """
        check_shapes(x=x, noise=noise)
        alpha_from, sigma_from = self._exactly_at(t_from, x)
        alpha_to, sigma_to = self._exactly_at(t_to, x)
        ratio = alpha_to / alpha_from
        variance = sigma_to**2 - (ratio * sigma_from) ** 2
        if (variance < -1e-6 * sigma_to**2).any():  # not 0: the same time in float32 and in float64 is no step down
            raise ValueError(f"renoise goes from less to more noise, but t_from = {t_from} and t_to = {t_to}")
        return ratio.to(x) * x + variance.clamp(min=0).sqrt().to(x) * noise

    def sample_t(self, n, antithetic=False, generator=None, device=None):
        """n random training times (n,), float32, each above 0; `antithetic` pairs early times with late ones."""
        if n < 1:
            raise ValueError(f"n = {n} times asked for; give at least 1")
        draws = (n + 1) // 2 if antithetic else n
        if self.T:
            k = torch.randint(1, self.T + 1, (draws,), generator=generator)
            k = torch.cat([k, self.T + 1 - k])[:n] if antithetic else k
            return (k / self.T).to(device)
        u = torch.rand(draws, generator=generator)
        u = torch.cat([u, 1 - u])[:n] if antithetic else u
        return (T_MIN + (1 - T_MIN) * u).to(device)

    def timesteps(self, n, t_start=1.0):
        """The n + 1 times of an n-step sampler, evenly spaced (on the grid k / T): (n + 1,), float64.

        They go from t_start in (0, 1] down to 0. Raises ValueError for another t_start, or more steps than levels.
        """
        if not 0 < t_start <= 1:
            raise ValueError(
                f"t_start = {t_start}; it lies in (0, 1]: near 0 little changes, 1 starts from noise alone"
            )
        levels = round(t_start * self.T) if self.T else None
        if not isinstance(n, Integral) or n < 1 or (self.T and n > levels):
            most = f"T = {self.T}" if t_start == 1 else f"{levels}, as many as there are levels below t_start"
            raise ValueError(
                f"{n} steps asked for; give a whole number, at least 1{f' and at most {most}' if self.T else ''}"
            )
        times = torch.linspace(t_start, 0, n + 1, dtype=torch.float64)
        return (times * self.T).round() / self.T if self.T else times

    def prior(self, *shape, generator=None, device=None):
        """Where sampling starts: normal noise of the variance that standardised data has at t = 1, (*shape)."""
        scale = math.hypot(self.alpha(1.0), self.sigma(1.0))
        return scale * torch.randn(*shape, generator=generator).to(device)

    def __repr__(self):
        levels = f"T={self.T}, " if self.T else ""
        return f"{type(self).__name__}({levels}alpha(1)={self.alpha(1.0):.2g}, sigma(1)={self.sigma(1.0):.3g})"


class DiscreteSchedule(NoiseSchedule):
    """The schedule of a table of betas: alpha_bar[k] = (1 - beta[1]) ... (1 - beta[k]) (Ho et al. 2020, eq. 4).

    `beta` and `alpha_bar` are float64 tables of length T + 1 with beta[0] = 0 and alpha_bar[0] = 1. Between two
    levels log alpha_bar is a straight line. Raises ValueError where a beta is not in (0, 1).
    """

    def __init__(self, beta):
        beta = torch.as_tensor(beta, dtype=torch.float64)
        if beta.ndim != 1 or len(beta) < 1 or not ((beta > 0) & (beta < 1)).all():
            raise ValueError(
                "a schedule needs a list of betas beta_1..beta_T, each above 0 and below 1 (without beta_0 = 0)"
            )
        self.T = len(beta)
        self.beta = torch.cat([beta.new_zeros(1), beta])
        self.log_alpha_bar = torch.log1p(-self.beta).cumsum(0)
        self.alpha_bar = self.log_alpha_bar.exp()

    def _log_alpha_bar_at(self, t):
        t = check_times(t)
        table = self.log_alpha_bar
        k = t.cpu().double() * self.T  # the CPU has float64; not every device does
        k = torch.where((k - k.round()).abs() < 1e-3, k.round(), k)  # float32 k / T is level k, not a little beside it
        low = k.floor().long().clamp(max=self.T - 1)
        return torch.lerp(table[low], table[low + 1], k - low), t

    def alpha(self, t):
        log_alpha_bar, t = self._log_alpha_bar_at(t)
        return (0.5 * log_alpha_bar).exp().to(t)

    def sigma(self, t):
        log_alpha_bar, t = self._log_alpha_bar_at(t)
        return (-torch.expm1(log_alpha_bar)).sqrt().to(t)  # expm1: exact also where alpha_bar is close to 1


class LinearSchedule(DiscreteSchedule):
    """beta_k rises in a straight line (Ho et al. 2020, section 4). Fewer levels need larger betas."""

    def __init__(self, T=1000, beta_start=1e-4, beta_end=0.02):
        check_levels(T, beta_start, beta_end)
        super().__init__(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))


class QuadraticSchedule(DiscreteSchedule):
    """sqrt(beta_k) rises in a straight line."""

    def __init__(self, T=1000, beta_start=1e-4, beta_end=0.02):
        check_levels(T, beta_start, beta_end)
        super().__init__(torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2)


class SigmoidSchedule(DiscreteSchedule):
    """beta_k rises along a sigmoid seen from -6 to 6."""

    def __init__(self, T=1000, beta_start=1e-4, beta_end=0.02):
        check_levels(T, beta_start, beta_end)
        ramp = torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64))
        super().__init__(beta_start + (beta_end - beta_start) * ramp)


class CosineSchedule(DiscreteSchedule):
    """alpha_bar falls along a squared cosine (Nichol & Dhariwal 2021, eq. 17); beta is cut off at beta_max.

    With T = None time is continuous: alpha = cos(pi t / 2) and sigma = sin(pi t / 2), alpha kept above ALPHA_MIN so
    that eps can still be turned into x0 at t = 1.
    """

    ALPHA_MIN = 1e-4

    def __init__(self, T=1000, s=0.008, beta_max=0.999):
        if T is None:
            if (s, beta_max) != (0.008, 0.999):
                raise ValueError("s and beta_max belong to a schedule of T levels; with T = None there are none")
            return
        check_levels(T)
        if not 0 < beta_max < 1:
            raise ValueError(f"beta_max = {beta_max}; it is above 0 and below 1")
        level = torch.arange(T + 1, dtype=torch.float64) / T
        f = torch.cos((level + s) / (1 + s) * math.pi / 2) ** 2
        super().__init__((1 - f[1:] / f[:-1]).clamp(max=beta_max))

    def alpha(self, t):
        if self.T:
            return super().alpha(t)
        return torch.cos(check_times(t) * math.pi / 2).clamp(min=self.ALPHA_MIN)

    def sigma(self, t):
        if self.T:
            return super().sigma(t)
        return torch.sin(check_times(t) * math.pi / 2).clamp(max=math.sqrt(1 - self.ALPHA_MIN**2))


class VESchedule(NoiseSchedule):
    """The variance-exploding SDE: alpha = 1, sigma^2 = sigma_min^2 ((sigma_max / sigma_min)^{2t} - 1).

    Song et al. 2021, appendix B: this is the variance added since t = 0, so sigma(0) = 0.
    """

    def __init__(self, sigma_min=0.01, sigma_max=50.0):
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"0 < sigma_min < sigma_max is needed, not sigma_min={sigma_min}, sigma_max={sigma_max}")
        self.sigma_min, self.log_ratio = sigma_min, math.log(sigma_max / sigma_min)

    def alpha(self, t):
        return torch.ones_like(check_times(t))

    def sigma(self, t):
        return self.sigma_min * torch.expm1(2 * self.log_ratio * check_times(t)).sqrt()


def check_schedule(schedule):
    """The schedule itself; raises TypeError where it is none, such as a name or a class."""
    if not isinstance(schedule, NoiseSchedule):
        raise TypeError(f"a schedule is an object such as LinearSchedule() or CosineSchedule(), not {schedule!r}")
    return schedule
