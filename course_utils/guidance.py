"""What turns denoisers into a denoiser: conditioning, guidance, clipping, and editing without training.

Each returns a function (x, t) -> x0_hat, so that every sampler takes it. At a given x the noise, the score and the
velocity are affine functions of x0_hat; a combination with weights that sum to one is therefore the same combination
of all of them. The weights may be numbers (`cfg`, `anagram`), one a pixel (`inpaint`) or linear filters (`factorized`).

`sdedit` and `repaint` choose the times instead: where a sampler starts, and how often it goes back.
"""

from numbers import Integral, Real

import torch

from course_utils.samplers import check_falling, ddpm, noise_like
from course_utils.schedules import check_schedule


def condition(model, y):
    """The denoiser of class y: model(x, t, y) with y fixed, a label for all samples or a tensor of labels (B,).

    With y = None, as with y = -1, it is the denoiser of the null class. Raises TypeError or ValueError for what is no
    class of the model, and ValueError for another number of labels than of samples.
    """
    labels = as_labels(model, y)

    def denoise(x, t):
        if labels.shape not in ((), (1,), (len(x),)):
            raise ValueError(f"y has shape {tuple(labels.shape)}; give one label, or one for each of {len(x)} samples")
        return model(x, t, labels.to(x.device).expand(len(x)))

    return denoise


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


def as_tensor(value, wanted):
    """The value as a tensor; where that is impossible, a TypeError that says what is wanted."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{wanted}, not {value!r}") from None


def cfg(conditional, unconditional, scale):
    """Classifier-free guidance (Ho & Salimans 2022): scale 0 is unconditional, 1 conditional, above 1 guided.

    The scale is a number, or a tensor (B,) with one for each sample. Raises ValueError where it is another thing or not
    finite, and for another number of scales than of samples.
    """
    each = torch.is_tensor(scale) and scale.ndim == 1
    if not (each or is_number(scale)) or not torch.as_tensor(scale).isfinite().all():
        raise ValueError(f"the guidance scale is {scale!r}; give a number, such as 0, 1 or 3, or one for each sample")

    def denoise(x, t):
        if each and len(scale) != len(x):
            raise ValueError(f"{len(scale)} guidance scales for {len(x)} samples; give one number, or one for each")
        w = scale.to(x).reshape(-1, *[1] * (x.ndim - 1)) if each else scale
        x0_unconditional = unconditional(x, t)
        return x0_unconditional + w * (conditional(x, t) - x0_unconditional)

    return denoise


def is_number(value):
    return isinstance(value, Real) or (torch.is_tensor(value) and value.ndim == 0)


def clip(denoise, low=-1.0, high=1.0):
    """x0_hat kept within the range of the data (not x_t, whose noise has no range)."""
    return lambda x, t: denoise(x, t).clamp(low, high)


def dynamic_clip(denoise, quantile=0.995):
    """x0_hat scaled down where it leaves [-1, 1]: dynamic thresholding (Saharia et al. 2022, section 2.3).

    In each sample s is that quantile of |x0_hat|, or 1 where it is smaller; x0_hat is clipped to [-s, s] and divided
    by s: strong guidance then saturates fewer pixels than with `clip`. Raises ValueError where the quantile is not in
    (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile = {quantile}; it lies in (0, 1], such as 0.995")

    def clipped(x, t):
        x0 = denoise(x, t)
        s = x0.abs().flatten(1).float().quantile(quantile, dim=1).clamp(min=1).to(x0)  # (B,)
        s = s.reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-s, s) / s

    return clipped


# ---- where a sampler starts, and how often it goes back --------------------------------------------------------------


def sdedit(denoise, schedule, image, t_start, sampler=ddpm, n=50, noise=None, **options):
    """The image noised to t_start and brought back by a sampler in n steps (SDEdit: Meng et al. 2022, algorithm 1).

    image (B, ...), pictures in [-1, 1]; t_start in (0, 1]: near 0 keeps the image, 1 forgets it; noise is like image,
    and drawn if not given; further options go to the sampler. Yields x after every step, as a sampler does. Raises
    TypeError or ValueError for another image or t_start, and for more steps than a discrete schedule has levels.
    """
    check_picture("image", image)
    if not is_number(t_start):
        raise TypeError(f"t_start is {t_start!r}; give a number in (0, 1]")
    times = check_schedule(schedule).timesteps(n, t_start)
    x = schedule.add_noise(image, times[0], torch.randn_like(image) if noise is None else noise)
    return sampler(denoise, schedule, x, times, **options)


def repaint_times(times, jump=10, n_resample=10):
    """Times that fall and jump back up: every stretch of `jump` steps is walked n_resample times.

    times (n + 1,) fall. The result is float64, for `repaint`, and ends where the times end; the last stretch may be a
    short one (Lugmayr et al. 2022, section 4.2). Raises ValueError where the times do not fall, or a number is not a
    whole one of at least 1.
    """
    times = check_falling(times)
    for name, number in (("jump", jump), ("n_resample", n_resample)):
        if not isinstance(number, Integral) or number < 1:
            raise ValueError(f"{name} = {number}; give a whole number of at least 1")
    walked = [times[:1]]
    for start in range(0, len(times) - 1, jump):
        stretch = times[start : start + jump + 1]
        walked += [stretch[1:], *[stretch] * (n_resample - 1)]  # each further walk starts with the jump to stretch[0]
    return torch.cat(walked)


def repaint(sampler, generator=None):
    """A sampler whose times may also rise, as `repaint_times` makes them: there x is noised again (RePaint).

    Called with the same head as the sampler it is made of, it yields x at each of times[1:], jumps included::

        *path, x0 = repaint(ddpm)(inpaint(model, known, mask), schedule, x, repaint_times(schedule.timesteps(50)))

    Resampling lets the unknown pixels answer to the known ones again and again (Lugmayr et al. 2022, algorithm 1). The
    generator draws the noise of the jumps. Raises ValueError where a stretch of falling times has less than two.
    """

    @torch.no_grad()
    def resampled(denoise, schedule, x, times, **options):
        times = torch.as_tensor(times, dtype=torch.float64)
        rises = (times.diff() > 0).nonzero().flatten() + 1
        t_before = None
        for stretch in times.tensor_split(rises.cpu()):
            if t_before is not None:
                x = schedule.renoise(x, t_before, stretch[0], noise_like(x, generator))
                yield x
            for state in sampler(denoise, schedule, x, stretch, **options):
                yield state
            x, t_before = state, stretch[-1]

    return resampled


# ---- known pixels ----------------------------------------------------------------------------------------------------


def inpaint(denoise, known, mask):
    """x0_hat with the known pixels put in where mask is 1; where it is 0, a sampler fills in the rest.

    known (B, ...) or (1, ...), pictures in [-1, 1]; mask holds 0 and 1 (or False and True), in known's shape or one
    that broadcasts to it, such as (H, W). Every sampler then carries the known pixels along with the noise of its time
    and ends on them exactly: `ddpm` draws them from q(x_s | x_t, known), `ddim` keeps the noise they started with.

    RePaint pastes known pixels with fresh noise into x_t instead, after every step. Both are biased, on a Gaussian by
    equally much: the unknown pixels are estimated from noisy copies of the known ones, not from these. `repaint`
    makes the bias smaller.

    Raises TypeError or ValueError for a picture or a mask of another kind, size or range.
    """
    check_picture("known", known)
    wanted = "a mask holds 0 (to fill in) and 1 (known)"
    mask = as_tensor(mask, wanted)
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{wanted}, nothing else; from one of 0 and 255 make it by mask > 127")
    mask = mask.bool()
    if not fits(mask.shape, known.shape):
        raise ValueError(f"mask has shape {tuple(mask.shape)}, which does not fit known's {tuple(known.shape)}")

    def inpainted(x, t):
        if not fits(known.shape, x.shape):
            raise ValueError(f"known has shape {tuple(known.shape)}, which does not fit samples {tuple(x.shape)}")
        return torch.where(mask.to(x.device), known.to(x), denoise(x, t))

    return inpainted


def fits(shape, other):
    """Whether a tensor of this shape broadcasts to the other one."""
    return len(shape) <= len(other) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(other), strict=False))


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


# ---- one picture, several views --------------------------------------------------------------------------------------


def anagram(denoisers, views):
    """One picture for several views of it, each with its own denoiser (Geng, Park & Owens 2024, section 3).

    views is a list of pairs (view, inverse) of functions on x (B, C, H, W), as in `views`; denoisers is a list as
    long, or one for all. x0_hat is the mean of what each denoiser sees in its view, turned back. Raises TypeError
    where a view is no such pair, and ValueError for another number of denoisers, and where an inverse does not undo its
    view or a view does not keep the length of x: it must turn white noise into white noise.
    """
    denoisers = [denoisers] * len(views) if callable(denoisers) else list(denoisers)
    check_one_each(denoisers, "views", views)
    for i, pair in enumerate(views):
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(callable(function) for function in pair)):
            raise TypeError(f"views[{i}] is no pair (view, inverse) of functions, such as rotation(1)")

    def denoise(x, t):
        x0 = []
        for i, (denoise_view, (view, inverse)) in enumerate(zip(denoisers, views, strict=True)):
            seen = view(x)
            check_view(i, x, seen, inverse(seen))
            x0.append(inverse(denoise_view(seen, t)))
        return sum(x0) / len(x0)

    return denoise


def check_one_each(denoisers, name, parts):
    if callable(denoisers) or not parts or len(denoisers) != len(parts):
        given = "one denoiser, not in a list," if callable(denoisers) else f"{len(denoisers)} denoisers"
        raise ValueError(f"{given} for {len(parts)} {name}; give a list with one for each, at least one")


def check_view(i, x, seen, back):
    if back.shape != x.shape or not torch.allclose(back, x, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ValueError(f"views[{i}]: its inverse does not undo it")
    if not torch.allclose(seen.float().norm(), x.float().norm(), rtol=1e-3, equal_nan=True):
        raise ValueError(f"views[{i}] changes the length of x, so that white noise does not stay white")


# ---- one picture, several parts --------------------------------------------------------------------------------------


def factorized(denoisers, filters):
    """One picture of several parts, each from its own denoiser: x0_hat = sum_i filters[i](denoisers[i](x, t)).

    The filters are linear functions on x (B, C, H, W) that sum to the identity, such as (low_pass(2), high_pass(2)) or
    (grey, colour): Factorized Diffusion (Geng, Park & Owens 2024, section 3). Only then is this the same for x0_hat and
    eps. Raises ValueError for another number of denoisers, or where the filters do not sum to the identity on x.
    """
    check_one_each(denoisers, "filters", filters)

    def denoise(x, t):
        noise = noise_like(x[:1].float(), torch.Generator().manual_seed(0))  # x itself may be too smooth to tell
        total = sum(f(noise) for f in filters)
        if total.shape != x[:1].shape or not torch.allclose(total.to(noise), noise, rtol=1e-3, atol=1e-3):
            raise ValueError("the filters must sum to the identity, but on a random picture their sum is another one")
        return sum(f(d(x, t)) for d, f in zip(denoisers, filters, strict=True))

    return denoise
