"""What turns denoisers into a denoiser: conditioning, guidance, clipping.

Each returns a function (x, t) -> x0_hat, so that every sampler takes it. At a given x the noise, the score and the
velocity are affine functions of x0_hat; a combination with weights that sum to one is therefore the same combination
of all of them.
"""

import torch


def condition(model, y):
    """The denoiser of class y: model(x, t, y) with y fixed, a label for all samples or a tensor of labels (B,).

    With y = None, as with y = -1, it is the denoiser of the null class. Raises ValueError for another number of labels
    than of samples.
    """
    labels = torch.as_tensor(-1 if y is None else y)

    def denoise(x, t):
        if labels.shape not in ((), (1,), (len(x),)):
            raise ValueError(f"y has shape {tuple(labels.shape)}; give one label, or one for each of {len(x)} samples")
        return model(x, t, labels.to(x.device).expand(len(x)))

    return denoise


def cfg(conditional, unconditional, scale):
    """Classifier-free guidance (Ho & Salimans 2022): scale 0 is unconditional, 1 conditional, above 1 guided."""

    def denoise(x, t):
        x0_unconditional = unconditional(x, t)
        return x0_unconditional + scale * (conditional(x, t) - x0_unconditional)

    return denoise


def clip(denoise, low=-1.0, high=1.0):
    """x0_hat kept within the range of the data (not x_t, whose noise has no range)."""
    return lambda x, t: denoise(x, t).clamp(low, high)
