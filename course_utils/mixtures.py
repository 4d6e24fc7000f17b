"""Mixtures of Gaussians: the oracle of the course.

Noise keeps a mixture a mixture, so its density, score and denoiser are known in closed form at every time of every
schedule. The exact truth is drawn beside every learned 2D picture, and nearly every test compares with it.
"""

import math

import torch

from course_utils.schedules import check_schedule

VARIANCE_MIN = 1e-12  # a point mass at t = 0 still gets a density, so that nothing is divided by zero


class GaussianMixture:
    """sum_k weights[k] N(means[k], std[k]^2 I).

    means (K, D); std a number or (K,), at least 0 (0 makes each mean a point mass: the empirical distribution of a
    data set); weights (K,), positive, scaled to sum to one; equal by default. Points x are (B, D), any float dtype.
    Raises ValueError for other shapes or values, and for points of another dimension.
    """

    def __init__(self, means, std, weights=None):
        self.means = torch.as_tensor(means, dtype=torch.float64)
        if self.means.ndim != 2:
            raise ValueError(f"means has shape {tuple(self.means.shape)}; it must be (components, dimensions)")
        if self.means.numel() == 0 or not self.means.isfinite().all():
            raise ValueError("a mixture needs at least one mean, all of finite numbers")
        K = len(self.means)
        std, weights = (torch.as_tensor(p, dtype=torch.float64) for p in (std, 1.0 if weights is None else weights))
        for name, p in (("std", std), ("weights", weights)):
            if p.shape not in ((), (1,), (K,)):
                raise ValueError(f"{name} has shape {tuple(p.shape)}; give one number for each of the {K} components")
        self.std, self.weights = std.expand(K), weights.expand(K)
        if not (self.std >= 0).all() or not (self.weights > 0).all():
            raise ValueError("a mixture needs std >= 0 and weights > 0")
        self.weights = self.weights / self.weights.sum()

    @property
    def dim(self):
        return self.means.shape[1]

    @property
    def mean(self):
        """(D,)"""
        return self.weights @ self.means

    @property
    def covariance(self):
        """(D, D)"""
        centred = self.means - self.mean
        spread = (self.weights * self.std**2).sum() * torch.eye(self.dim, dtype=torch.float64)
        return spread + (self.weights[:, None] * centred).T @ centred

    def sample(self, n, generator=None):
        """n independent points (n, D), float32; n at least 1."""
        if n < 1:
            raise ValueError(f"n = {n} points asked for; give at least 1")
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator)
        return (self.means[k] + self.std[k, None] * noise).float()

    def noised(self, alpha, sigma):
        """The mixture of alpha x0 + sigma eps, for numbers alpha and sigma: the marginal p_t."""
        std = torch.sqrt((alpha * self.std) ** 2 + sigma**2)
        return GaussianMixture(alpha * self.means, std, self.weights)

    def _joint(self, x, alpha, sigma):
        """log(weight_k N(x; alpha mean_k, variance_k)) (B, K) and its variances; alpha, sigma (B or 1, 1)."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}; this mixture lives on points (B, {self.dim})")
        means, std, weights = (p.to(x) for p in (self.means, self.std, self.weights))
        variance = ((alpha * std) ** 2 + sigma**2).clamp(min=VARIANCE_MIN)
        distance2 = sum((x[:, d, None] - alpha * means[:, d]) ** 2 for d in range(self.dim))  # (B, K), no (B, K, D)
        return weights.log() - distance2 / (2 * variance) - self.dim / 2 * (2 * math.pi * variance).log(), variance

    def log_prob(self, x):
        """log density at x: (B,)."""
        return self._joint(x, *_one_zero(x))[0].logsumexp(1)

    def score(self, x):
        """Gradient of log_prob at x: (B, D)."""
        joint, variance = self._joint(x, *_one_zero(x))
        pull = joint.softmax(1) / variance  # (B, K)
        return pull @ self.means.to(x) - pull.sum(1, keepdim=True) * x

    def denoiser(self, schedule):
        """The exact E[x0 | x_t] under the schedule, a function (x, t) -> x0_hat; t a float or (B,)."""
        check_schedule(schedule)

        def denoise(x, t):
            alpha, sigma = (c.reshape(-1, 1) for c in schedule.at(t, x))
            joint, variance = self._joint(x, alpha, sigma)
            posterior = joint.softmax(1)  # which component x came from
            means, std = self.means.to(x), self.std.to(x)
            shrink = alpha * std**2 / variance  # component k moves its mean towards x: m + shrink (x - alpha m)
            return (posterior * (1 - alpha * shrink)) @ means + (posterior * shrink).sum(1, keepdim=True) * x

        return denoise


def _one_zero(x):
    return x.new_ones(1, 1), x.new_zeros(1, 1)
