"""What turns denoisers into a denoiser: conditioning, guidance, clipping, and editing without training.

Each returns a function (x, t) -> x0_hat, so that every sampler takes it. At a given x the noise, the score and the
velocity are affine functions of x0_hat; a combination with weights that sum to one is therefore the same combination
of all of them. The weights may be numbers (`cfg`, `anagram`), one a pixel (`inpaint`) or linear filters (`factorized`).

`sdedit` and `repaint` choose the times instead: where a sampler starts, and how often it goes back.
"""

from numbers import Integral

import torch

from course_utils import checks
from course_utils.samplers import check_falling, ddpm, noise_like
from course_utils.schedules import check_schedule


def condition(model, y):
    """The denoiser of class y: model(x, t, y) with y fixed, a label for all samples or a tensor of labels (B,).

    With y = None, as with y = -1, it is the denoiser of the null class. Raises TypeError or ValueError for what is no
    class of the model, and ValueError for another number of labels than of samples.
    """
    labels = checks.as_labels(model, y)

    def denoise(x, t):
        if labels.shape not in ((), (1,), (len(x),)):
            raise ValueError(f"y has shape {tuple(labels.shape)}; give one label, or one for each of {len(x)} samples")
        return model(x, t, labels.to(x.device).expand(len(x)))

    return denoise


def cfg(conditional, unconditional, scale):
    """Classifier-free guidance (Ho & Salimans 2022): scale 0 is unconditional, 1 conditional, above 1 guided.

    The scale is a number, or a tensor (B,) with one for each sample. Raises ValueError where it is another thing or not
    finite, and for another number of scales than of samples.
    """
    checks.check_scale(scale)
    each = torch.is_tensor(scale) and scale.ndim == 1

    def denoise(x, t):
        if each and len(scale) != len(x):
            raise ValueError(f"{len(scale)} guidance scales for {len(x)} samples; give one number, or one for each")
        w = scale.to(x).reshape(-1, *[1] * (x.ndim - 1)) if each else scale
        x0_unconditional = unconditional(x, t)
        return x0_unconditional + w * (conditional(x, t) - x0_unconditional)

    return denoise


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
    checks.check_picture("image", image)
    checks.check_start(t_start)
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
    checks.check_picture("known", known)
    mask = checks.as_mask(mask, known)

    def inpainted(x, t):
        if not checks.fits(known.shape, x.shape):
            raise ValueError(f"known has shape {tuple(known.shape)}, which does not fit samples {tuple(x.shape)}")
        return torch.where(mask.to(x.device), known.to(x), denoise(x, t))

    return inpainted


# ---- one picture, several views --------------------------------------------------------------------------------------


def anagram(denoisers, views):
    """One picture for several views of it, each with its own denoiser (Geng, Park & Owens 2024, section 3).

    views is a list of pairs (view, inverse) of functions on x (B, C, H, W), as in `views`; denoisers is a list as
    long, or one for all. x0_hat is the mean of what each denoiser sees in its view, turned back. Raises TypeError
    where a view is no such pair, and ValueError for another number of denoisers, and where an inverse does not undo its
    view or a view does not keep the length of x: it must turn white noise into white noise.
    """
    denoisers = [denoisers] * len(views) if callable(denoisers) else list(denoisers)
    checks.check_one_each(denoisers, "views", views)
    checks.check_pairs(views)

    def denoise(x, t):
        x0 = []
        for i, (denoise_view, (view, inverse)) in enumerate(zip(denoisers, views, strict=True)):
            seen = view(x)
            checks.check_view(i, x, seen, inverse(seen))
            x0.append(inverse(denoise_view(seen, t)))
        return sum(x0) / len(x0)

    return denoise


# ---- one picture, several parts --------------------------------------------------------------------------------------


def factorized(denoisers, filters):
    """One picture of several parts, each from its own denoiser: x0_hat = sum_i filters[i](denoisers[i](x, t)).

    The filters are linear functions on x (B, C, H, W) that sum to the identity, such as (low_pass(2), high_pass(2)) or
    (grey, colour): Factorized Diffusion (Geng, Park & Owens 2024, section 3). Only then is this the same for x0_hat and
    eps. Raises ValueError for another number of denoisers, or where the filters do not sum to the identity on x.
    """
    checks.check_one_each(denoisers, "filters", filters)

    def denoise(x, t):
        noise = noise_like(x[:1].float(), torch.Generator().manual_seed(0))  # x itself may be too smooth to tell
        total = sum(f(noise) for f in filters)
        if total.shape != x[:1].shape or not torch.allclose(total.to(noise), noise, rtol=1e-3, atol=1e-3):
            raise ValueError("the filters must sum to the identity, but on a random picture their sum is another one")
        return sum(f(d(x, t)) for d, f in zip(denoisers, filters, strict=True))

    return denoise
