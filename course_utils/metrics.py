"""How good samples are: distances between two sets of them, and what a classifier says of pictures.

The distances are 0 for equal distributions and need no density. x is (N, D) and y (M, D), any float dtype; results are
floats. Each raises ValueError for sets of other shapes, without points, or with coordinates that are not finite.
"""

import math
from contextlib import contextmanager

import torch


def sliced_wasserstein(x, y, n_projections=128, seed=0):
    """Sliced Wasserstein-2 distance (Bonneel et al. 2015): the root mean over directions of the squared W2 in 1D.

    It has the units of x. In two dimensions the directions are spread evenly over the half circle, so the result is
    not random; in more they are random with the given seed.
    """
    if n_projections < 1:
        raise ValueError(f"n_projections = {n_projections}; give at least 1")
    x, y = _points(x, y)
    if x.shape[1] == 2:
        angle = (torch.arange(n_projections, dtype=torch.float64) + 0.5) * math.pi / n_projections
        directions = torch.stack([angle.cos(), angle.sin()], 1)
    else:
        directions = torch.randn(n_projections, x.shape[1], generator=torch.Generator().manual_seed(seed))
        directions = directions / directions.norm(dim=1, keepdim=True)
    projections = [p @ directions.to(p).T for p in (x, y)]
    # W2 in 1D compares quantiles; the quantile functions are steps, with jumps at i/N and j/M
    jumps = torch.cat([torch.arange(1, len(p) + 1, dtype=torch.float64) / len(p) for p in (x, y)]).unique()
    width = jumps.diff(prepend=jumps.new_zeros(1))
    middle = jumps - width / 2
    quantiles = [p.sort(0).values[(middle * len(p)).long().clamp(max=len(p) - 1)] for p in projections]
    return (width @ (quantiles[0] - quantiles[1]).square().mean(1)).sqrt().item()


def energy_distance(x, y):
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013), at least 0, units of x."""
    x, y = _points(x, y)
    return (2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).item()


def mmd(x, y, bandwidth=1.0):
    """Squared maximum mean discrepancy with a Gaussian kernel, the unbiased estimate (Gretton et al. 2012, eq. 3).

    `bandwidth`, above 0, has the units of x. Unbiased means that it may fall a little below 0.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth = {bandwidth}; it must be above 0")
    x, y = _points(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError("mmd compares pairs: give at least two points in each set")

    def kernel(a, b):
        return torch.exp(-torch.cdist(a, b).square() / (2 * bandwidth**2))

    def pairs(a):
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return (pairs(x) + pairs(y) - 2 * kernel(x, y).mean()).item()


def frechet_distance(x, y):
    """Squared Wasserstein-2 distance between the Gaussians with the means and covariances of x and y; units of x^2.

    Of the features of pictures this is the FID, if they are those of the Inception network (Heusel et al. 2017); with
    another network the numbers can only be compared among themselves. It sees two moments and nothing else.

    Covariances are divided by N - 1. Still the distance is too large on average, the more the fewer the points: compare
    at the same N only. With fewer points than dimensions the covariances are singular; the distance is then that of
    two flat Gaussians, well defined and mostly error. Raises ValueError for fewer than 2 points.
    """
    x, y = _points(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs at least 2 points, not {min(len(x), len(y))}")

    def moments(points):
        return points.mean(0), points.T.cov().reshape(points.shape[1], points.shape[1])

    return frechet_gaussians(*moments(x), *moments(y))


def frechet_gaussians(mean1, cov1, mean2, cov2):
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)) (Dowson & Landau 1982); means (D,), cov (D, D).

    The trace of the root is taken of the symmetric cov1^(1/2) cov2 cov1^(1/2), which has the same eigenvalues as
    cov1 cov2: all real and none negative. Raises ValueError for other shapes, covariances that are not symmetric, with
    an eigenvalue below 0, or numbers that are not finite.
    """
    mean1, mean2 = (_numbers(m, 1) for m in (mean1, mean2))
    cov1, cov2 = (_numbers(c, 2) for c in (cov1, cov2))
    d = len(mean1)
    if len(mean2) != d or cov1.shape != (d, d) or cov2.shape != (d, d):
        shapes = ", ".join(str(tuple(a.shape)) for a in (mean1, cov1, mean2, cov2))
        raise ValueError(f"two means (D,) and covariances (D, D) are compared, not {shapes}")
    root1, root2 = _root(cov1), _root(cov2)
    # the singular values of root1 root2 are the roots of those eigenvalues
    shared = torch.linalg.svdvals(root1 @ root2).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * shared
    return distance.clamp(min=0).item()  # below 0 by rounding only


def _root(cov):
    """The symmetric square root of a covariance, by its eigenvalues; those below 0 by rounding count as 0."""
    size = cov.abs().max().item() or 1.0
    if (cov - cov.T).abs().max() > 1e-8 * size:
        raise ValueError("a covariance is not symmetric")
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    if values.min() < -1e-8 * size * len(cov):
        raise ValueError(f"a covariance has a negative eigenvalue, {values.min():g}: no distribution has it")
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def classifier_accuracy(classifier, images, labels, batch_size=500):
    """Fraction in [0, 1] of images (N, C, H, W) in [-1, 1] that the classifier takes for their labels (N,).

    Of generated images and the classes that were asked for it is called agreement. The classifier judges in eval mode,
    on the device it is on, and is left in the mode it was in. Raises ValueError for no images, for another number of
    labels, labels that are not whole numbers, or that are no classes of the classifier, and pixels that are not finite.
    """
    labels = torch.as_tensor(labels).cpu()
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (len(images),):
        raise ValueError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; give a whole number for each of the {len(images)} images"
        )
    logits = _in_batches(classifier, classifier, images, batch_size)
    if logits.ndim != 2 or not ((labels >= 0) & (labels < logits.shape[1])).all():
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, but the classifier says {tuple(logits.shape[1:])} "
            "logits an image: one for each class is needed"
        )
    return (logits.argmax(1) == labels).double().mean().item()


def classifier_features(classifier, images, batch_size=500):
    """Features (N, F) of images (N, C, H, W) in [-1, 1], on the CPU, for `frechet_distance`.

    In eval mode and on the classifier's device, as `classifier_accuracy`. Raises ValueError where a feature is not
    finite, or for no images.
    """
    return _in_batches(classifier, classifier.features, images, batch_size)


def _in_batches(classifier, function, images, batch_size):
    """function(images), batch by batch, in eval mode and without gradients: a tensor on the CPU."""
    if not torch.is_tensor(images) or images.ndim != 4 or len(images) == 0:
        given = tuple(images.shape) if torch.is_tensor(images) else type(images).__name__
        raise ValueError(f"images are {given}; give at least one, as a tensor (N, C, H, W)")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; a batch has at least one image")
    weight = next(classifier.parameters(), images)
    with _eval_mode(classifier), torch.no_grad():
        out = torch.cat([function(batch.to(weight.device)).cpu() for batch in images.split(batch_size)])
    if not torch.isfinite(out).all():
        raise ValueError("the classifier's output is not finite: did the sampler that drew the images diverge?")
    return out


@contextmanager
def _eval_mode(model):
    """The model in eval mode; after that every part of it is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _numbers(a, ndim):
    """A mean or a covariance as float64; raises ValueError where it is neither, or not finite."""
    a = torch.as_tensor(a).detach().to("cpu", torch.float64)
    name, shape = ("mean", "(D,)") if ndim == 1 else ("covariance", "(D, D)")
    if a.ndim != ndim:
        raise ValueError(f"a {name} has the shape {shape}, not {tuple(a.shape)}")
    if not torch.isfinite(a).all():
        raise ValueError(f"a {name} holds numbers that are not finite")
    return a


def _points(x, y):
    """Both as float64 (N, D), D equal, N > 0; raises ValueError otherwise, or where a coordinate is not finite."""
    x, y = (torch.as_tensor(p).detach().to("cpu", torch.float64) for p in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"two sets of points (N, D) are compared, not {tuple(x.shape)} and {tuple(y.shape)}")
    for name, points in (("first", x), ("second", y)):
        if len(points) == 0:
            raise ValueError(f"the {name} set is empty: give at least one point")
        if not torch.isfinite(points).all():
            raise ValueError(f"the {name} set has coordinates that are not finite numbers: did the sampler diverge?")
    return x, y
