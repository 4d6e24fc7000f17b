"""What the files that teach refuse, and the words for it: levels, times, labels, chains, scales, pictures, masks."""

import math
from numbers import Integral, Real

import torch


def check_levels(T, *betas):
    """Raises ValueError where T is no whole number of at least 1, a beta is not in (0, 1), or the first the larger."""
    if not isinstance(T, Integral) or T < 1:
        raise ValueError(f"T = {T}; the number of levels is a whole number of at least 1")
    if not all(0 < beta < 1 for beta in betas):
        raise ValueError(f"beta_start and beta_end are {betas[0]} and {betas[1]}; each is above 0 and below 1")
    if betas and betas[0] > betas[1]:
        raise ValueError(f"beta_start = {betas[0]} is above beta_end = {betas[1]}: betas rise with the level")


def check_times(t, slack=0.0):
    """t as a float tensor; raises ValueError where a time is not in [0, 1], by more than the slack."""
    t = torch.as_tensor(t, dtype=None if torch.is_tensor(t) else torch.float64)
    if not t.is_floating_point():
        t = t.to(torch.float64)
    if not ((t >= -slack) & (t <= 1 + slack)).all():
        raise ValueError(
            f"times lie in [0, 1] (0 = data, 1 = noise), but t runs from {t.min():.4g} to {t.max():.4g}; "
            "level k of a discrete schedule is t = k / T"
        )
    return t


def check_shapes(**tensors):
    """Raises ValueError where two named tensors differ in shape: broadcasting would give all samples the same noise."""
    (a, x), (b, y) = tensors.items()
    if x.shape != y.shape:
        raise ValueError(f"{a} has shape {tuple(x.shape)} but {b} {tuple(y.shape)}: they must be equal")


def check_context(net, x, t, y):
    """y as int64 (B,), or None for a network without classes; raises ValueError for wrong times or labels."""
    n = x.shape[0]  # not len(x), which a traced graph would take for a constant
    if not torch.is_tensor(t) or t.shape not in ((1,), (n,)):
        given = f"has shape {tuple(t.shape)}" if torch.is_tensor(t) else f"is {t!r}"
        raise ValueError(f"t {given}; this network takes a time for each of the {n} samples: ({n},)")
    # On a GPU a question would make the program wait for the answer at every call; a traced graph cannot ask.
    asked = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if asked:
        check_times(t, slack=1e-3)  # one that was computed from a level of noise is right but for its rounding
    if net.label is None:
        if y is not None:
            raise ValueError(f"labels were given, but the network has no classes: {type(net).__name__}(n_classes=...)")
        return None
    if y is None:
        return torch.full_like(t, -1, dtype=torch.long)
    if not torch.is_tensor(y) or y.is_floating_point() or y.dtype == torch.bool or y.shape not in ((1,), (n,)):
        given = f"are {y.dtype} {tuple(y.shape)}" if torch.is_tensor(y) else f"are {y!r}"
        raise ValueError(f"labels {given}; this network takes whole numbers, one for each of the {n} samples: ({n},)")
    y = y.long()
    if asked and not ((y >= -1) & (y < net.n_classes)).all():
        raise ValueError(f"labels run from -1 (the null class) to {net.n_classes - 1}, not {y.min()} to {y.max()}")
    return y


def check_step(step, n_steps):
    """Raises ValueError where a chain cannot take so many steps of this size."""
    if not (math.isfinite(step) and step > 0) or n_steps < 1:
        raise ValueError(f"a chain takes n_steps of at least 1, not {n_steps}, of a size above 0, not {step}")


def far_from(x, scale=1.0):
    """The |x| that a chain from x only reaches when it diverges, as data are of order one: a float."""
    return 1e6 * max(1.0, scale, x.abs().max().item())


def check_chain(bound, x, where):
    """x itself; raises FloatingPointError where a chain has left every bound or is no longer a number."""
    largest = x.abs().max().item()
    if math.isnan(largest):
        raise FloatingPointError(f"x is not a number {where}: look at what the score (or the energy) returns there")
    if not largest <= bound:
        raise FloatingPointError(
            f"a chain diverged {where}: |x| = {largest:g}. Take a smaller step; if that does not help, look at the "
            "score (or the energy): far out it must point back to the data"
        )
    return x


def check_energy(e):
    """Raises FloatingPointError for NaN or -infinity: +infinity is only a place where no chain goes."""
    if not (e > -math.inf).all():
        raise FloatingPointError(f"the energy is {e[~(e > -math.inf)][0]}: no chain can be run on it")


def as_tensor(value, wanted):
    """The value as a tensor; where that is impossible, a TypeError that says what is wanted."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{wanted}, not {value!r}") from None


def is_number(value):
    return isinstance(value, Real) or (torch.is_tensor(value) and value.ndim == 0)


def as_labels(model, y):
    """y as a tensor of labels, on any device; the model's number of classes is asked for where it has one."""
    n = getattr(getattr(model, "net", model), "n_classes", None)
    wanted = f"a class is a whole number{f' from 0 to {n - 1}' if n else ''}, or -1 (or None) for the null class"
    labels = as_tensor(-1 if y is None else y, wanted)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"{wanted}, not {labels.dtype}")
    labels = labels.long()  # before -1 is compared with bytes, where it is 255
    # Once, here: the network does not ask at every step on a GPU, which a label out of range makes unusable.
    if n and not labels.is_meta and len(outside := labels[(labels < -1) | (labels >= n)]):
        raise ValueError(f"{wanted}, not {outside[0]}")
    return labels


def check_scale(scale):
    """Raises ValueError where this is neither a finite number nor a tensor (B,) of them."""
    each = torch.is_tensor(scale) and scale.ndim == 1
    if not (each or is_number(scale)) or not torch.as_tensor(scale).isfinite().all():
        raise ValueError(f"the guidance scale is {scale!r}; give a number, such as 0, 1 or 3, or one for each sample")


def check_start(t_start):
    """Raises TypeError for what is no number; which number, the schedule says."""
    if not is_number(t_start):
        raise TypeError(f"t_start is {t_start!r}; give a number in (0, 1]")


def check_picture(name, picture):
    """Raises TypeError or ValueError where this is no tensor of finite floats, or a picture that leaves [-1, 1].

    Points (B, D) may lie anywhere, and so may latents, which have more than a picture's three channels.
    """
    if not (torch.is_tensor(picture) and picture.is_floating_point()):
        kind = picture.dtype if torch.is_tensor(picture) else type(picture).__name__
        raise TypeError(f"{name} is a tensor of floats, not {kind}; bytes / 127.5 - 1 are floats in [-1, 1]")
    if not picture.isfinite().all():
        raise ValueError(f"{name} has entries that are not finite (NaN or infinity)")
    latent = picture.ndim == 4 and picture.shape[1] > 3
    if picture.ndim > 2 and not latent and picture.abs().max() > 1 + 1e-3:
        raise ValueError(
            f"{name} runs from {picture.min():.4g} to {picture.max():.4g}; pictures are in [-1, 1]: "
            "divide bytes by 127.5 and subtract 1, or clamp what strays a little"
        )


def as_mask(mask, known):
    """The mask as a tensor of bool that fits the known picture."""
    wanted = "a mask holds 0 (to fill in) and 1 (known)"
    mask = as_tensor(mask, wanted)
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{wanted}, nothing else; from one of 0 and 255 make it by mask > 127")
    if not fits(mask.shape, known.shape):
        raise ValueError(f"mask has shape {tuple(mask.shape)}, which does not fit known's {tuple(known.shape)}")
    return mask.bool()


def fits(shape, other):
    """Whether a tensor of this shape broadcasts to the other one."""
    return len(shape) <= len(other) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(other), strict=False))


def check_one_each(denoisers, name, parts):
    """Raises ValueError where these are not as many denoisers, in a list, as there are views or filters."""
    if callable(denoisers) or not parts or len(denoisers) != len(parts):
        given = "one denoiser, not in a list," if callable(denoisers) else f"{len(denoisers)} denoisers"
        raise ValueError(f"{given} for {len(parts)} {name}; give a list with one for each, at least one")


def check_pairs(views):
    """Raises TypeError where a view is no pair of functions."""
    for i, pair in enumerate(views):
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(callable(function) for function in pair)):
            raise TypeError(f"views[{i}] is no pair (view, inverse) of functions, such as rotation(1)")


def check_view(i, x, seen, back):
    """Raises ValueError where view i of x, and what its inverse makes of it, are no orthogonal view's."""
    if back.shape != x.shape or not torch.allclose(back, x, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ValueError(f"views[{i}]: its inverse does not undo it")
    if not torch.allclose(seen.float().norm(), x.float().norm(), rtol=1e-3, equal_nan=True):
        raise ValueError(f"views[{i}] changes the length of x, so that white noise does not stay white")
