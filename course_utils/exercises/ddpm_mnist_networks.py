"""Exercises of chapter 4, DDPM on MNIST: the parts of the network.

Times t are floats (B,) in [0, 1] and pictures (B, C, H, W).

Sources: Vaswani et al. 2017 (section 3.5), Wu & He 2018 (section 3.1), Ho et al. 2020 (appendix B).
"""

import math
from types import SimpleNamespace

import torch
from torch import nn

from course_utils.exercises.ddpm_2d import ELSEWHERE
from course_utils.exercises.exercise import Exercise
from course_utils.models import ResidualBlock, TimeEmbedding

# ---- 1 ---------------------------------------------------------------------------------------------------------------

time_embedding = Exercise(
    "ddpm_mnist.time_embedding",
    title="Many clocks for one time",
    points=2,
    contract="time_embedding(t, dim) is (B, dim) for times t (B,) in [0, 1], in t's dtype: the sines of t w_i in its "
    "first half and their cosines in the second, with dim / 2 frequencies w_i from 1000 down to 0.1 in equal ratios.",
    section="time-embedding",
    returns="the embedding",
    finished=("course_utils.models.TimeEmbedding",),
    tolerance={torch.float64: 2e-3, torch.float32: 2e-3},  # angles reach 1000, of which float32 keeps 6e-5
)


@time_embedding.solution
def _(t, dim):
    return TimeEmbedding(dim).to(t.device)(t)


@time_embedding.inputs
def _(g):
    yield "a batch of one", {"t": torch.rand(1, generator=g), "dim": 8}
    yield "a batch", {"t": torch.rand(5, generator=g), "dim": 32}
    yield "as many times as frequencies", {"t": torch.rand(4, generator=g), "dim": 8}
    yield "the shortest", {"t": torch.rand(3, generator=g), "dim": 4}
    yield "both ends and the levels between", {"t": torch.linspace(0, 1, 11), "dim": 12}
    yield "float64", {"t": torch.rand(6, dtype=torch.float64, generator=g), "dim": 10}
    yield ELSEWHERE, {"t": torch.rand(3, generator=g).to("meta"), "dim": 8}


def frequencies(dim, t, exponents=None):
    """1000 falling by a factor of 10,000 along the exponents (dim / 2,), which run from 0 to 1 unless given."""
    exponents = torch.linspace(0, 1, dim // 2) if exponents is None else exponents
    return 1000 * 10_000 ** -exponents.to(t)


def waves(angle):
    return torch.cat([angle.sin(), angle.cos()], 1)


@time_embedding.misconception(
    "The frequencies run from 1 down to 0.0001, made for levels 0 to 1000: for t in [0, 1] all waves but the first are "
    "nearly flat."
)
def times_taken_for_levels(t, dim):
    return waves(t[:, None] * frequencies(dim, t) / 1000)


@time_embedding.misconception("Sines and cosines alternate here: the first half is asked to be all sines.")
def interleaved(t, dim):
    angle = t[:, None] * frequencies(dim, t)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


@time_embedding.misconception("The cosines come first here: the two halves are swapped.")
def cosines_first(t, dim):
    angle = t[:, None] * frequencies(dim, t)
    return torch.cat([angle.cos(), angle.sin()], 1)


@time_embedding.misconception(
    "The exponents run i / (dim / 2) and never reach 1: dim / 2 frequencies have one gap less between them."
)
def one_gap_too_many(t, dim):
    return waves(t[:, None] * frequencies(dim, t, torch.arange(dim // 2) / (dim // 2)))


@time_embedding.misconception("The exponents run i / dim, only half the way: there are dim / 2 frequencies.")
def half_the_way(t, dim):
    return waves(t[:, None] * frequencies(dim, t, torch.arange(dim // 2) / dim))


@time_embedding.misconception(
    "exp(-i / ...) falls by a factor of e in all: log(10,000) in the exponent takes the frequencies down to 0.1."
)
def logarithm_forgotten(t, dim):
    return waves(t[:, None] * 1000 * torch.exp(-torch.linspace(0, 1, dim // 2)).to(t))


@time_embedding.misconception("The frequencies fall in equal steps: asked are equal ratios, a line in the log.")
def equal_steps(t, dim):
    return waves(t[:, None] * torch.linspace(1000, 0.1, dim // 2).to(t))


@time_embedding.misconception(
    "The exponents are divided as whole numbers (//): they are 0 but for the last, so nearly all clocks run alike."
)
def integer_division(t, dim):
    return waves(t[:, None] * frequencies(dim, t, torch.arange(dim // 2) // (dim // 2 - 1)))


@time_embedding.misconception("The angles are multiplied by 2 pi: that belongs to random Fourier features, not here.")
def full_turns(t, dim):
    return waves(2 * math.pi * t[:, None] * frequencies(dim, t))


@time_embedding.misconception(
    "These are sines only: a sine alone cannot tell whether it rises or falls, so each frequency needs its cosine too."
)
def sines_only(t, dim):
    return (t[:, None] * frequencies(2 * dim, t)).sin()


@time_embedding.misconception(
    "t (B,) and the frequencies (dim / 2,) meet element by element: give t a second dimension, t[:, None]."
)
def not_an_outer_product(t, dim):
    angle = t * frequencies(dim, t)
    return torch.cat([angle.sin(), angle.cos()])


@time_embedding.misconception("The two halves are joined along the batch: join them along the features, dim=1.")
def joined_along_the_batch(t, dim):
    angle = t[:, None] * frequencies(dim, t)
    return torch.cat([angle.sin(), angle.cos()])


@time_embedding.misconception("The frequencies are float64 and made the result float64: bring them to t.dtype.")
def embedding_in_float64(t, dim):
    return waves(t.double()[:, None] * frequencies(dim, t.double()))


@time_embedding.misconception(
    "The frequencies are made on the processor wherever t is: make them with device=t.device."
)
def frequencies_on_the_cpu(t, dim):
    return waves(t[:, None] * (1000 * 10_000 ** -torch.linspace(0, 1, dim // 2)))


@time_embedding.equivalent
def by_exponential(t, dim):
    half = dim // 2
    i = torch.arange(half, dtype=t.dtype, device=t.device)
    frequency = 1000 * torch.exp(-math.log(10_000) * i / (half - 1))
    return torch.cat((torch.sin(t.unsqueeze(1) * frequency), torch.cos(t.unsqueeze(1) * frequency)), dim=-1)


@time_embedding.equivalent
def column_by_column(t, dim):
    half = dim // 2
    scale = [1000 * 10_000 ** (-i / (half - 1)) for i in range(half)]
    return torch.stack([(t * s).sin() for s in scale] + [(t * s).cos() for s in scale], dim=1)


@time_embedding.equivalent
def as_a_complex_wave(t, dim):
    frequency = torch.logspace(3, -1, dim // 2, dtype=t.dtype, device=t.device)
    wave = torch.polar(torch.ones_like(torch.outer(t, frequency)), torch.outer(t, frequency))
    return torch.cat([wave.imag, wave.real], 1)


@time_embedding.equivalent
def cosines_as_shifted_sines(t, dim):
    frequency = torch.linspace(math.log(1000), math.log(0.1), dim // 2, device=t.device).exp().to(t.dtype)
    angle = torch.einsum("b,i->bi", t, frequency)
    return torch.cat([angle, angle + math.pi / 2], 1).sin()


# ---- 2 ---------------------------------------------------------------------------------------------------------------

group_norm = Exercise(
    "ddpm_mnist.group_norm",
    title="A norm that minds its own picture",
    points=2,
    contract="group_norm(x, groups, eps) is (x - mean) / sqrt(variance + eps) for x (B, C, ...) of any further shape, "
    "the mean and the (biased) variance taken for each sample over each of `groups` groups of neighbouring channels.",
    section="group-norm",
    returns="the normalised x",
    finished=("course_utils.models.group_norm",),
)


@group_norm.solution
def _(x, groups, eps):
    return nn.functional.group_norm(x, groups, eps=eps)


@group_norm.inputs
def _(g):
    def case(shape, groups, eps=1e-5, dtype=torch.float32):
        offset, scale = torch.randn(2, shape[1], *[1] * (len(shape) - 2), dtype=dtype, generator=g)
        x = offset + (0.5 + scale.abs()) * torch.randn(shape, dtype=dtype, generator=g)
        return {"x": x, "groups": groups, "eps": eps}

    yield "pictures that are not square", case((3, 8, 5, 4), 2)
    yield "a batch of one", case((1, 6, 4, 4), 3)
    yield "as many groups as channels", case((2, 4, 3, 3), 4)
    yield "one group", case((4, 3, 3, 2), 1)
    yield "a large eps", case((2, 12, 3, 3), 3, eps=0.3)
    yield "features without a picture", case((5, 8), 2)
    yield "clips, in five dimensions", case((2, 6, 2, 3, 4), 2)
    yield "float64", case((2, 8, 4, 3), 4, dtype=torch.float64)
    yield "a picture of one colour, whose variance is 0", {"x": torch.full((2, 4, 3, 3), 0.5), "groups": 2, "eps": 1e-5}
    yield ELSEWHERE, {"x": torch.randn(2, 6, 4, 4, generator=g).to("meta"), "groups": 3, "eps": 1e-5}


def normalised(h, dims, eps):
    """h less its mean over `dims`, over its standard deviation."""
    return (h - h.mean(dims, keepdim=True)) / (h.var(dims, keepdim=True, correction=0) + eps).sqrt()


def in_groups(x, groups):
    """x (B, C, ...) as (B, groups, the rest)."""
    return x.reshape(len(x), groups, -1)


@group_norm.misconception(
    "The batch is averaged too: a picture then comes out otherwise in other company. Each sample has its own mean."
)
def groups_over_the_batch(x, groups, eps):
    return normalised(in_groups(x, groups), (0, 2), eps).reshape(x.shape)


@group_norm.misconception(
    "This is batch norm: a mean for each channel over the whole batch. Group norm never looks at another sample."
)
def batch_norm(x, groups, eps):
    return normalised(x, [d for d in range(x.ndim) if d != 1], eps)


@group_norm.misconception("All channels are averaged together, as with one group: divide them into `groups`.")
def layer_norm(x, groups, eps):
    return normalised(in_groups(x, 1), 2, eps).reshape(x.shape)


@group_norm.misconception("Each channel is normalised alone, as with as many groups as channels.")
def instance_norm(x, groups, eps):
    return normalised(in_groups(x, x.shape[1]), 2, eps).reshape(x.shape)


@group_norm.misconception(
    "`groups` is read as the number of channels in a group: it is the number of groups, of C / groups channels each."
)
def channels_a_group(x, groups, eps):
    return normalised(in_groups(x, x.shape[1] // groups), 2, eps).reshape(x.shape)


@group_norm.misconception(
    "A group takes every so many-th channel: in memory a group's channels are neighbours, so split C as "
    "(groups, C / groups)."
)
def every_other_channel(x, groups, eps):
    h = x.reshape(len(x), -1, groups, *x.shape[2:])
    return normalised(h, [d for d in range(h.ndim) if d not in (0, 2)], eps).reshape(x.shape)


@group_norm.misconception("The mean is taken over a group's channels only, pixel by pixel: average the picture too.")
def pixel_by_pixel(x, groups, eps):
    h = x.reshape(len(x), groups, -1, *x.shape[2:])
    return normalised(h, 2, eps).reshape(x.shape)


@group_norm.misconception("eps is added to the standard deviation: it belongs to the variance, under the root.")
def eps_outside_the_root(x, groups, eps):
    h = in_groups(x, groups)
    return ((h - h.mean(2, keepdim=True)) / (h.var(2, keepdim=True, correction=0).sqrt() + eps)).reshape(x.shape)


@group_norm.misconception("The difference is divided by the variance: divide by its square root.")
def divided_by_the_variance(x, groups, eps):
    h = in_groups(x, groups)
    return ((h - h.mean(2, keepdim=True)) / (h.var(2, keepdim=True, correction=0) + eps)).reshape(x.shape)


@group_norm.misconception("torch's var and std divide by n - 1 unless told otherwise: the biased one is correction=0.")
def divided_by_n_less_one(x, groups, eps):
    h = in_groups(x, groups)
    return ((h - h.mean(2, keepdim=True)) / (h.var(2, keepdim=True) + eps).sqrt()).reshape(x.shape)


@group_norm.misconception("The mean is not taken away: only the scale is normalised.")
def not_centred(x, groups, eps):
    h = in_groups(x, groups)
    return (h / (h.var(2, keepdim=True, correction=0) + eps).sqrt()).reshape(x.shape)


@group_norm.misconception("There is no eps: a group of one colour has the variance 0, and 0 / 0 is NaN.")
def without_eps(x, groups, eps):
    return normalised(in_groups(x, groups), 2, 0).reshape(x.shape)


@group_norm.misconception("eps is always 1e-5 here: take the one that is given.")
def eps_of_its_own(x, groups, eps):
    return normalised(in_groups(x, groups), 2, 1e-5).reshape(x.shape)


@group_norm.misconception("This serves pictures only: whatever dimensions follow the channels, all are averaged.")
def only_pictures(x, groups, eps):
    B, C, H, W = x.shape
    return normalised(x.reshape(B, groups, C // groups, H, W), (2, 3, 4), eps).reshape(B, C, H, W)


@group_norm.equivalent
def group_by_group(x, groups, eps):
    result = []
    for part in x.chunk(groups, dim=1):
        dims = tuple(range(1, x.ndim))
        mean = part.mean(dims, keepdim=True)
        result.append((part - mean) * torch.rsqrt(((part - mean) ** 2).mean(dims, keepdim=True) + eps))
    return torch.cat(result, 1)


@group_norm.equivalent
def sample_by_sample(x, groups, eps):
    rows = []
    for sample in x:
        h = sample.reshape(groups, -1)
        variance, mean = torch.var_mean(h, dim=1, unbiased=False, keepdim=True)
        rows.append(((h - mean) / (variance + eps) ** 0.5).reshape(sample.shape))
    return torch.stack(rows)


@group_norm.equivalent
def through_mean_of_squares(x, groups, eps):
    h = x.double().reshape(x.shape[0], groups, -1)
    mean = h.sum(-1, keepdim=True) / h.shape[-1]
    variance = (h.square().sum(-1, keepdim=True) / h.shape[-1] - mean.square()).clamp(min=0)
    return ((h - mean) / (variance + eps).sqrt()).to(x.dtype).reshape(x.shape)


# ---- 3 ---------------------------------------------------------------------------------------------------------------

residual_block = Exercise(
    "ddpm_mnist.residual_block",
    title="A residual block that knows the time",
    points=3,
    contract="residual_block(x, context, layers) is skip(x) + conv2(silu(h)), where h is norm2 of "
    "conv1(silu(norm1(x))), times 1 + scale, plus shift, channel by channel; modulation(context) (B, 2 C) holds the "
    "scales, then the shifts.",
    section="residual-block",
    returns="the block's output",
    finished=("course_utils.models.ResidualBlock",),
)


class Layers(nn.Module):
    """The parts of a residual block, x (B, c_in, H, W), context (B, d), without what puts them together.

    layers.norm1, layers.conv1 and so on; none starts at zero, or its place in the block could not be seen.
    """

    def __init__(self, g, c_in, c_out, context):
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # a check leaves the notebook's own draws alone
            block = ResidualBlock(c_in, c_out, context)
        for name, part in block.named_children():
            setattr(self, name, part)
        for weights in self.parameters():
            weights.data = (
                weights.data.new_tensor(0.3) * torch.randn(weights.shape, generator=g) + (weights.ndim < 2) * 0.4
            )
        self.requires_grad_(False)


@residual_block.solution
def _(x, context, layers):
    return ResidualBlock.forward(SimpleNamespace(**dict(layers.named_children())), x, context)


@residual_block.inputs
def _(g):
    def case(B, c_in, c_out, height, width, dtype=torch.float32):
        layers = Layers(g, c_in, c_out, 5).to(dtype)
        x, context = torch.randn(B, c_in, height, width, generator=g), torch.randn(B, 5, generator=g)
        return {"x": x.to(dtype), "context": context.to(dtype), "layers": layers}

    yield "as many channels out as in", case(3, 8, 8, 4, 4)
    yield "more channels out than in", case(2, 4, 8, 6, 4)
    yield "fewer channels out than in", case(2, 8, 4, 3, 5)
    yield "a batch of one", case(1, 8, 8, 4, 6)
    yield "as many samples as channels", case(4, 4, 4, 4, 4)
    yield "float64", case(2, 4, 8, 4, 4, torch.float64)
    yield ELSEWHERE, {n: v.to("meta") for n, v in case(2, 4, 8, 4, 4).items()}


def scale_and_shift(context, layers):
    """(scale, shift), each (B, C, 1, 1)."""
    return layers.modulation(context)[:, :, None, None].chunk(2, 1)


def first_half(x, layers):
    return layers.conv1(torch.nn.functional.silu(layers.norm1(x)))


def second_half(h, context, layers):
    scale, shift = scale_and_shift(context, layers)
    return layers.conv2(torch.nn.functional.silu(layers.norm2(h) * (1 + scale) + shift))


@residual_block.misconception(
    "The time comes before the second norm, which undoes it: what is the same for a whole group, it takes away again."
)
def time_before_the_norm(x, context, layers):
    scale, shift = scale_and_shift(context, layers)
    h = layers.norm2(first_half(x, layers) * (1 + scale) + shift)
    return layers.skip(x) + layers.conv2(torch.nn.functional.silu(h))


@residual_block.misconception(
    "The skip carries norm1(x): the residual is x itself, so that a block that says 0 changes nothing."
)
def skip_of_the_norm(x, context, layers):
    h = layers.norm1(x)
    return layers.skip(h) + second_half(layers.conv1(torch.nn.functional.silu(h)), context, layers)


@residual_block.misconception("There is no skip: the block should add to x, not replace it.")
def no_skip(x, context, layers):
    return second_half(first_half(x, layers), context, layers)


@residual_block.misconception(
    "x is added as it is, which fits only where the channels stay as many: layers.skip brings x to the right number."
)
def x_added_as_it_is(x, context, layers):
    return x + second_half(first_half(x, layers), context, layers)


@residual_block.misconception("The channels are multiplied by scale, not by 1 + scale: 0 would silence them.")
def scale_without_one(x, context, layers):
    scale, shift = scale_and_shift(context, layers)
    h = layers.norm2(first_half(x, layers)) * scale + shift
    return layers.skip(x) + layers.conv2(torch.nn.functional.silu(h))


@residual_block.misconception("Scale and shift are swapped: the first half of modulation(context) holds the scales.")
def scale_and_shift_swapped(x, context, layers):
    shift, scale = scale_and_shift(context, layers)
    h = layers.norm2(first_half(x, layers)) * (1 + scale) + shift
    return layers.skip(x) + layers.conv2(torch.nn.functional.silu(h))


@residual_block.misconception("The time is left out: without it the network cannot know how much noise to expect.")
def time_left_out(x, context, layers):
    h = layers.norm2(first_half(x, layers))
    return layers.skip(x) + layers.conv2(torch.nn.functional.silu(h))


@residual_block.misconception("Only the shift is used: the channels are scaled by 1 + scale, too.")
def shift_only(x, context, layers):
    h = layers.norm2(first_half(x, layers)) + scale_and_shift(context, layers)[1]
    return layers.skip(x) + layers.conv2(torch.nn.functional.silu(h))


@residual_block.misconception("The activations are missing: two convolutions in a row are one.")
def no_activations(x, context, layers):
    scale, shift = scale_and_shift(context, layers)
    h = layers.norm2(layers.conv1(layers.norm1(x))) * (1 + scale) + shift
    return layers.skip(x) + layers.conv2(h)


@residual_block.misconception("The second activation is missing, between the modulation and conv2.")
def no_second_activation(x, context, layers):
    scale, shift = scale_and_shift(context, layers)
    return layers.skip(x) + layers.conv2(layers.norm2(first_half(x, layers)) * (1 + scale) + shift)


@residual_block.misconception("The order is norm, activation, convolution: here the activation comes before the norm.")
def activation_before_the_norm(x, context, layers):
    scale, shift = scale_and_shift(context, layers)
    h = layers.conv1(layers.norm1(torch.nn.functional.silu(x)))
    h = layers.norm2(torch.nn.functional.silu(h)) * (1 + scale) + shift
    return layers.skip(x) + layers.conv2(h)


@residual_block.misconception(
    "The sum goes through an activation: the way from block to block must stay free, or the skip cannot hand x on."
)
def activation_of_the_sum(x, context, layers):
    return torch.nn.functional.silu(layers.skip(x) + second_half(first_half(x, layers), context, layers))


@residual_block.misconception("The activation is ReLU: asked is SiLU, x sigmoid(x).")
def relu_for_silu(x, context, layers):
    scale, shift = scale_and_shift(context, layers)
    h = layers.norm2(layers.conv1(layers.norm1(x).relu())) * (1 + scale) + shift
    return layers.skip(x) + layers.conv2(h.relu())


@residual_block.misconception(
    "Scale and shift (B, C) meet the picture's width and height: give them the shape (B, C, 1, 1)."
)
def not_spread_over_the_picture(x, context, layers):
    scale, shift = layers.modulation(context).chunk(2, 1)
    h = layers.norm2(first_half(x, layers)) * (1 + scale) + shift
    return layers.skip(x) + layers.conv2(torch.nn.functional.silu(h))


@residual_block.equivalent
def step_by_step(x, context, layers):
    both = layers.modulation(context).unsqueeze(-1).unsqueeze(-1)
    channels = both.shape[1] // 2
    h = layers.norm1(x)
    h = layers.conv1(h * torch.sigmoid(h))
    h = layers.norm2(h)
    h = h + h * both[:, :channels] + both[:, channels:]
    h = layers.conv2(h * torch.sigmoid(h))
    return h + layers.skip(x)


@residual_block.equivalent
def channels_last(x, context, layers):
    scale, shift = torch.tensor_split(layers.modulation(context), 2, dim=-1)
    h = layers.norm2(layers.conv1(torch.nn.functional.silu(layers.norm1(x)))).permute(2, 3, 0, 1)
    h = torch.addcmul(shift, h, 1 + scale).permute(2, 3, 0, 1)
    return torch.add(layers.skip(x), layers.conv2(torch.nn.SiLU()(h)))


@residual_block.equivalent
def with_einsum(x, context, layers):
    B, C = len(x), layers.modulation.out_features // 2
    scale, shift = layers.modulation(context).reshape(B, 2, C).unbind(1)
    h = layers.norm2(layers.conv1(torch.nn.functional.silu(layers.norm1(x))))
    h = torch.einsum("bc,bchw->bchw", scale + 1, h) + shift.reshape(B, C, 1, 1)
    return layers.conv2(torch.nn.functional.silu(h)) + layers.skip(x)
