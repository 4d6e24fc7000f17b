"""Exercises of chapter 5 about its network: attention, a block of it for pictures, Fourier features of time.

Pictures are (B, C, H, W), tokens (B, N, C).

Sources: Vaswani et al. 2017 (section 3.2); Tancik et al. 2020.
"""

import math

import torch
from torch import nn

from course_utils.exercises.ddpm_2d import ELSEWHERE, elsewhere
from course_utils.exercises.exercise import Exercise
from course_utils.models import Attention, FourierFeatures

# ---- 1 ---------------------------------------------------------------------------------------------------------------

attention = Exercise(
    "guidance.attention",
    title="Scaled dot-product attention",
    points=2,
    contract="attention(q, k, v) is the pair (out, weights) for queries q (..., N, D), keys k (..., M, D) and values v "
    "(..., M, E): weights (..., N, M) = softmax over the keys of q k^T / sqrt(D), and out (..., N, E) = weights v.",
    section="attention",
    returns=("out", "weights"),
    finished=("course_utils.models.Attention",),
)


@attention.solution
def _(q, k, v):
    out = nn.functional.scaled_dot_product_attention(q, k, v)
    one_hot = torch.eye(k.shape[-2]).to(k).expand(*k.shape[:-1], k.shape[-2])  # its weighted means are the weights
    return out, nn.functional.scaled_dot_product_attention(q, k, one_hot)


@attention.inputs
def _(g):
    def inputs(lead, n, m, d, e, dtype=torch.float32, scale=1.0):
        q, k = (scale * torch.randn(*lead, length, d, dtype=dtype, generator=g) for length in (n, m))
        return {"q": q, "k": k, "v": torch.randn(*lead, m, e, dtype=dtype, generator=g)}

    yield "one sequence", inputs((), 5, 4, 3, 2)
    yield "a batch, as many queries as keys", inputs((3,), 6, 6, 5, 5)
    yield "a batch of several heads", inputs((2, 3), 4, 7, 8, 6)
    yield "one key only", inputs((2,), 3, 1, 4, 4)
    yield "equal numbers everywhere", inputs((4, 4), 4, 4, 4, 4)
    yield "large queries and keys", inputs((2,), 4, 4, 16, 3, scale=12.0)
    yield "float64", inputs((2, 2), 5, 3, 6, 4, torch.float64)
    yield ELSEWHERE, elsewhere(inputs((2, 2), 5, 5, 6, 6))


def scores_of(q, k):
    return q @ k.transpose(-2, -1)


def weighted(scores, v):
    """What follows from the scores when all else is right: (out, weights)."""
    weights = scores.softmax(-1)
    return weights @ v, weights


@attention.misconception(
    "The scores are not divided by sqrt(D): their variance grows with D, and the softmax picks one key alone."
)
def not_scaled(q, k, v):
    return weighted(scores_of(q, k), v)


@attention.misconception("The scores are divided by D: their standard deviation is sqrt(D).")
def scaled_by_dimension(q, k, v):
    return weighted(scores_of(q, k) / q.shape[-1], v)


@attention.misconception(
    "The scores are divided by the root of the number of keys: what makes them large is the dimension D."
)
def scaled_by_length(q, k, v):
    return weighted(scores_of(q, k) / k.shape[-2] ** 0.5, v)


@attention.misconception("The scores are multiplied by sqrt(D): divide by it.")
def scaled_up(q, k, v):
    return weighted(scores_of(q, k) * q.shape[-1] ** 0.5, v)


@attention.misconception("The division by sqrt(D) comes after the softmax: the weights then don't sum to 1.")
def scaled_too_late(q, k, v):
    weights = scores_of(q, k).softmax(-1) / q.shape[-1] ** 0.5
    return weights @ v, weights


@attention.misconception(
    "The softmax runs over the queries: each query shares out a weight of 1 among the keys, the last dimension."
)
def softmax_over_queries(q, k, v):
    weights = (scores_of(q, k) / q.shape[-1] ** 0.5).softmax(-2)
    return weights @ v, weights


@attention.misconception("The softmax runs over dimension 1, which is the keys' only without a batch: write dim=-1.")
def softmax_over_dimension_one(q, k, v):
    weights = (scores_of(q, k) / q.shape[-1] ** 0.5).softmax(1)
    return weights @ v, weights


@attention.misconception("The softmax runs over the batch: a picture's weights then depend on the other pictures.")
def softmax_over_the_batch(q, k, v):
    weights = (scores_of(q, k) / q.shape[-1] ** 0.5).softmax(0)
    return weights @ v, weights


@attention.misconception("There is no softmax: the scores themselves weigh the values.")
def no_softmax(q, k, v):
    scores = scores_of(q, k) / q.shape[-1] ** 0.5
    return scores @ v, scores


@attention.misconception("The second result is the scores: the weights are their softmax.")
def scores_returned(q, k, v):
    scores = scores_of(q, k) / q.shape[-1] ** 0.5
    return scores.softmax(-1) @ v, scores


@attention.misconception("The output is weights^T v: a row of the weights belongs to a query, so it is weights v.")
def weights_transposed(q, k, v):
    _, weights = weighted(scores_of(q, k) / q.shape[-1] ** 0.5, v)
    return weights.transpose(-2, -1) @ v, weights


@attention.misconception("The scores are k q^T, so queries and keys have changed places: they are q k^T.")
def keys_ask(q, k, v):
    return weighted(scores_of(k, q) / q.shape[-1] ** 0.5, v)


@attention.misconception(
    "exp of a large score overflows to infinity: take the largest score away first, as torch.softmax does."
)
def exponentials_overflow(q, k, v):
    weights = (scores_of(q, k) / q.shape[-1] ** 0.5).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return weights @ v, weights


@attention.misconception("k.T turns round all dimensions, the batch's too: k.transpose(-2, -1) swaps the last two.")
def all_dimensions_turned(q, k, v):
    return weighted(q @ k.permute(*reversed(range(k.ndim))) / q.shape[-1] ** 0.5, v)


@attention.equivalent
def with_einsum(q, k, v):
    weights = torch.einsum("...nd,...md->...nm", q, k).div(math.sqrt(q.size(-1))).softmax(dim=-1)
    return torch.einsum("...nm,...me->...ne", weights, v), weights


@attention.equivalent
def scaled_before_the_product(q, k, v):
    root = q.shape[-1] ** 0.25
    weights = torch.softmax((q / root) @ (k / root).mT, -1)
    return [torch.matmul(weights, v), weights]


@attention.equivalent
def exponentials_by_hand(q, k, v):
    scores = (q[..., :, None, :] * k[..., None, :, :]).sum(-1) * q.shape[-1] ** -0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights[..., None] * v[..., None, :, :]).sum(-2), weights


@attention.equivalent
def query_by_query(q, k, v):
    rows = []
    for i in range(q.shape[-2]):
        scores = (q[..., i : i + 1, :] * k).sum(-1) / math.sqrt(q.shape[-1])  # (..., M)
        rows.append(torch.softmax(scores, -1))
    weights = torch.stack(rows, -2)
    return weights @ v, weights


# ---- 2 ---------------------------------------------------------------------------------------------------------------

multi_head_attention = Exercise(
    "guidance.multi_head_attention",
    title="A block of attention for pictures",
    points=3,
    contract="multi_head_attention(x, to_qkv, to_out, heads) is x + to_out h for pictures x (B, C, H, W): each "
    "position of n = group_norm(x, 1) is a token with queries, keys and values to_qkv n, the first, second and third "
    "C rows of to_qkv (3 C, C); head i has the i-th C / heads channels of each, and h joins the heads' outputs.",
    section="multi-head-attention",
    returns="y",
    finished=("course_utils.models.Attention",),
)


@multi_head_attention.solution
@torch.no_grad()
def _(x, to_qkv, to_out, heads):
    C = x.shape[1]
    block = Attention(C, heads)
    block.norm = nn.GroupNorm(1, C, affine=False)
    weights = {"qkv.weight": to_qkv[:, :, None, None], "out.weight": to_out[:, :, None, None]}
    biases = {"qkv.bias": x.new_zeros(3 * C), "out.bias": x.new_zeros(C)}
    return torch.func.functional_call(block, weights | biases, x)


@multi_head_attention.inputs
def _(g):
    def inputs(shape, heads, dtype=torch.float32):
        C = shape[1]
        x = torch.randn(shape, dtype=dtype, generator=g) * 2 + 1
        to_qkv, to_out = (torch.randn(n, C, dtype=dtype, generator=g) * (2 / C) ** 0.5 for n in (3 * C, C))
        return {"x": x, "to_qkv": to_qkv, "to_out": to_out, "heads": heads}

    yield "a picture, one head", inputs((1, 4, 3, 3), 1)
    yield "a batch, several heads", inputs((3, 8, 4, 4), 2)
    yield "pictures that are not square", inputs((2, 6, 5, 2), 3)
    yield "a head for each channel", inputs((2, 4, 2, 3), 4)
    yield "as many positions as channels", inputs((2, 4, 2, 2), 2)
    yield "float64", inputs((2, 8, 3, 2), 4, torch.float64)
    yield ELSEWHERE, elsewhere(inputs((2, 8, 3, 2), 2))


def normed(x):
    return torch.nn.functional.group_norm(x, 1)


def tokens_of(x):
    """(B, C, H, W) -> (B, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def picture_of(tokens, x):
    """(B, H W, C) -> (B, C, H, W), the shape of x."""
    return tokens.transpose(1, 2).reshape(x.shape)


def split(tokens, heads):
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def joined(h):
    """(B, heads, N, C / heads) -> (B, N, C)."""
    return h.transpose(1, 2).flatten(2)


def attend(q, k, v, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (scale * q @ k.transpose(-2, -1)).softmax(-1) @ v


def heads_of(x, to_qkv, heads):
    """Queries, keys and values (B, heads, N, C / heads) of a picture."""
    return [split(p, heads) for p in (tokens_of(x) @ to_qkv.T).chunk(3, 2)]


def branch(x, to_qkv, to_out, heads):
    """What attention adds to the picture x when it is computed from x as it is (no norm)."""
    return picture_of(joined(attend(*heads_of(x, to_qkv, heads))) @ to_out.T, x)


@multi_head_attention.misconception(
    "The scores are divided by sqrt(C): each head's dot product has C / heads terms, so sqrt(C / heads) belongs there."
)
def scaled_by_all_channels(x, to_qkv, to_out, heads):
    h = attend(*heads_of(normed(x), to_qkv, heads), scale=x.shape[1] ** -0.5)
    return x + picture_of(joined(h) @ to_out.T, x)


@multi_head_attention.misconception(
    "The residual is norm(x): add the result to x itself, or the block is not the identity where to_out = 0."
)
def residual_of_the_norm(x, to_qkv, to_out, heads):
    n = normed(x)
    return n + branch(n, to_qkv, to_out, heads)


@multi_head_attention.misconception("There is no residual: the block returns only what it should add to x.")
def no_residual(x, to_qkv, to_out, heads):
    return branch(normed(x), to_qkv, to_out, heads)


@multi_head_attention.misconception(
    "The norm stands at the end, over the sum: here it comes first, and only on the way into the attention."
)
def norm_at_the_end(x, to_qkv, to_out, heads):
    return normed(x + branch(x, to_qkv, to_out, heads))


@multi_head_attention.misconception("The norm is missing: attention sees x as it is.")
def no_norm(x, to_qkv, to_out, heads):
    return x + branch(x, to_qkv, to_out, heads)


@multi_head_attention.misconception(
    "Each token is normed by itself, as in language models: group_norm(x, 1) takes all positions of a picture together."
)
def normed_token_by_token(x, to_qkv, to_out, heads):
    n = torch.nn.functional.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)
    return x + branch(n, to_qkv, to_out, heads)


@multi_head_attention.misconception(
    "The norm has a group for each head: heads are split off later, and group_norm(x, 1) norms all channels together."
)
def a_group_for_each_head(x, to_qkv, to_out, heads):
    n = torch.nn.functional.group_norm(x, heads)
    return x + branch(n, to_qkv, to_out, heads)


@multi_head_attention.misconception(
    "This norm runs over the batch (batch norm): the result for a picture then depends on the others."
)
def normed_over_the_batch(x, to_qkv, to_out, heads):
    n = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x + branch(n, to_qkv, to_out, heads)


@multi_head_attention.misconception(
    "The picture is turned into tokens by reshape alone, which mixes channels with positions: move the channels last."
)
def picture_only_reshaped(x, to_qkv, to_out, heads):
    B, C, H, W = x.shape
    parts = (normed(x).reshape(B, H * W, C) @ to_qkv.T).chunk(3, 2)
    h = joined(attend(*(split(p, heads) for p in parts)))
    return x + (h @ to_out.T).reshape(B, C, H, W)


@multi_head_attention.misconception(
    "The result is turned back into a picture by reshape alone: swap tokens and channels first."
)
def tokens_only_reshaped(x, to_qkv, to_out, heads):
    h = joined(attend(*heads_of(normed(x), to_qkv, heads)))
    return x + (h @ to_out.T).reshape(x.shape)


@multi_head_attention.misconception(
    "The heads are split off by reshape alone, which gives a head whole tokens: split the channels, then transpose."
)
def heads_only_reshaped(x, to_qkv, to_out, heads):
    B, C, H, W = x.shape
    parts = (tokens_of(normed(x)) @ to_qkv.T).chunk(3, 2)
    h = attend(*(p.reshape(B, heads, H * W, C // heads) for p in parts))
    return x + picture_of(joined(h) @ to_out.T, x)


@multi_head_attention.misconception(
    "The heads are joined by reshape alone: bring (heads, tokens) back to (tokens, heads) before flattening."
)
def heads_joined_by_reshape(x, to_qkv, to_out, heads):
    B, C, H, W = x.shape
    h = attend(*heads_of(normed(x), to_qkv, heads)).reshape(B, H * W, C)
    return x + picture_of(h @ to_out.T, x)


@multi_head_attention.misconception(
    "A head gets every heads-th channel: its channels are a block, so unflatten to (heads, C / heads)."
)
def channels_dealt_out(x, to_qkv, to_out, heads):
    parts = (tokens_of(normed(x)) @ to_qkv.T).chunk(3, 2)
    h = attend(*(p.unflatten(2, (-1, heads)).permute(0, 3, 1, 2) for p in parts))
    return x + picture_of(joined(h) @ to_out.T, x)


@multi_head_attention.misconception(
    "The rows of to_qkv are read head by head, q, k and v of the first, then of the next: all queries come first, then "
    "all keys, then all values."
)
def matrix_read_head_by_head(x, to_qkv, to_out, heads):
    B, C, H, W = x.shape
    qkv = (tokens_of(normed(x)) @ to_qkv.T).mT.reshape(B, heads, 3, C // heads, H * W)
    q, k, v = qkv.transpose(3, 4).unbind(2)
    return x + picture_of(joined(attend(q, k, v)) @ to_out.T, x)


@multi_head_attention.misconception("All channels attend together, as one head: `heads` is not used.")
def one_head_only(x, to_qkv, to_out, heads):
    return x + branch(normed(x), to_qkv, to_out, 1)


@multi_head_attention.misconception("The output projection is missing: to_out mixes the heads before the sum.")
def no_output_projection(x, to_qkv, to_out, heads):
    return x + picture_of(joined(attend(*heads_of(normed(x), to_qkv, heads))), x)


@multi_head_attention.misconception(
    "to_out is applied transposed: it maps columns, so a row of tokens is multiplied by to_out.T."
)
def output_transposed(x, to_qkv, to_out, heads):
    return x + branch(normed(x), to_qkv, to_out.T, heads)


@multi_head_attention.misconception("Queries and keys are swapped: the first C rows of to_qkv give the queries.")
def keys_first(x, to_qkv, to_out, heads):
    k, q, v = heads_of(normed(x), to_qkv, heads)
    return x + picture_of(joined(attend(q, k, v)) @ to_out.T, x)


@multi_head_attention.misconception("The softmax runs over the queries: each must share out its weight among the keys.")
def block_softmax_over_queries(x, to_qkv, to_out, heads):
    q, k, v = heads_of(normed(x), to_qkv, heads)
    h = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-2) @ v
    return x + picture_of(joined(h) @ to_out.T, x)


@multi_head_attention.equivalent
def with_torchs_attention(x, to_qkv, to_out, heads):
    B, C, H, W = x.shape
    n = torch.nn.functional.group_norm(x, 1)
    qkv = torch.nn.functional.conv2d(n, to_qkv[:, :, None, None]).reshape(B, 3, heads, C // heads, H * W)
    q, k, v = qkv.transpose(3, 4).unbind(1)
    h = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return x + torch.nn.functional.conv2d(h.transpose(2, 3).reshape(B, C, H, W), to_out[:, :, None, None])


@multi_head_attention.equivalent
def block_with_einsum(x, to_qkv, to_out, heads):
    B, C, H, W = x.shape
    n = torch.nn.functional.group_norm(x, 1).reshape(B, C, H * W)
    q, k, v = torch.einsum("oc,bcn->bon", to_qkv, n).reshape(B, 3, heads, C // heads, H * W).unbind(1)
    weights = torch.softmax(torch.einsum("bhdn,bhdm->bhnm", q, k) * math.sqrt(heads / C), -1)
    h = torch.einsum("bhnm,bhdm->bhdn", weights, v).reshape(B, C, H * W)
    return x + torch.einsum("oc,bcn->bon", to_out, h).reshape(B, C, H, W)


@multi_head_attention.equivalent
def block_in_a_loop_over_heads(x, to_qkv, to_out, heads):
    B, C, H, W = x.shape
    d = C // heads
    mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, unbiased=False)
    n = ((x - mean) / torch.sqrt(var + 1e-5)).flatten(2).transpose(1, 2)  # (B, N, C)
    result = x.flatten(2).transpose(1, 2)
    for i in range(heads):
        q, k, v = (n @ to_qkv[j * C + i * d : j * C + (i + 1) * d].T for j in range(3))
        h = torch.softmax(q @ k.mT / d**0.5, dim=-1) @ v
        result = result + h @ to_out[:, i * d : (i + 1) * d].T
    return result.transpose(1, 2).reshape(B, C, H, W)


# ---- 3 ---------------------------------------------------------------------------------------------------------------

fourier_features = Exercise(
    "guidance.fourier_features",
    title="Fourier features of time",
    points=1,
    contract="fourier_features(t, frequency) is the table (B, 2 F) of cos(2 pi w t) for all F frequencies w, followed "
    "by sin(2 pi w t), for times t (B,).",
    section="fourier-features",
    returns="features",
    finished=("course_utils.models.FourierFeatures",),
)


@fourier_features.solution
def _(t, frequency):
    features = FourierFeatures(2 * len(frequency))
    features.frequency = frequency
    return features(t)


@fourier_features.inputs
def _(g):
    def inputs(B, F, dtype=torch.float32):
        t, frequency = torch.rand(B, dtype=dtype, generator=g), torch.randn(F, dtype=dtype, generator=g)
        return {"t": t, "frequency": frequency}

    yield "several times and frequencies", inputs(5, 3)
    yield "as many times as frequencies", inputs(4, 4)
    yield "a batch of one", inputs(1, 6)
    yield "one frequency", inputs(4, 1)
    ends = {"t": torch.tensor([0.0, 0.5, 1.0]), "frequency": torch.randn(4, generator=g)}
    yield "both ends of time", ends
    yield "float64", inputs(6, 5, torch.float64)
    yield ELSEWHERE, elsewhere(inputs(4, 3))


def waves(angle):
    return torch.cat([angle.cos(), angle.sin()], 1)


@fourier_features.misconception("The factor 2 pi is missing: a frequency counts whole turns, and a turn is 2 pi.")
def no_two_pi(t, frequency):
    return waves(t[:, None] * frequency)


@fourier_features.misconception("The angle is pi w t, half a turn for each period: it is 2 pi w t.")
def half_a_turn(t, frequency):
    return waves(math.pi * t[:, None] * frequency)


@fourier_features.misconception("Here the sines come first: the cosines should.")
def sines_first(t, frequency):
    angle = 2 * math.pi * t[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


@fourier_features.misconception("Cosines and sines take turns: all the cosines come first, then all the sines.")
def interleaved(t, frequency):
    angle = 2 * math.pi * t[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], 2).flatten(1)


@fourier_features.misconception(
    "Cosines and sines are joined along the batch: each time has a row, so join them along dimension 1."
)
def joined_along_the_batch(t, frequency):
    angle = 2 * math.pi * t[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 0)


@fourier_features.misconception("Only the cosines are there: they cannot tell w t from -w t, so the sines are needed.")
def cosines_only(t, frequency):
    return (2 * math.pi * t[:, None] * frequency).cos()


@fourier_features.misconception("The cosines stand there twice, and no sine: copy and paste.")
def cosines_twice(t, frequency):
    angle = 2 * math.pi * t[:, None] * frequency
    return torch.cat([angle.cos(), angle.cos()], 1)


@fourier_features.misconception(
    "Each time meets only the frequency of its own index: t[:, None] * frequency gives all pairs."
)
def without_all_pairs(t, frequency):
    angle = 2 * math.pi * t * frequency
    return torch.stack([angle.cos(), angle.sin()], 1)


@fourier_features.misconception("Rows and columns are swapped: a row belongs to a time, a column to a frequency.")
def features_transposed(t, frequency):
    angle = 2 * math.pi * frequency[:, None] * t
    return torch.cat([angle.cos(), angle.sin()], 0)


@fourier_features.misconception(
    "New frequencies are drawn at each call: then the same time looks different each time. Use the given ones."
)
def frequencies_drawn_anew(t, frequency):
    return waves(2 * math.pi * t[:, None] * torch.randn_like(frequency))


@fourier_features.equivalent
def features_with_outer(t, frequency):
    angle = torch.outer(t, frequency) * (2 * math.pi)
    return torch.hstack((torch.cos(angle), torch.sin(angle)))


@fourier_features.equivalent
def features_from_complex(t, frequency):
    angle = 2 * torch.pi * t.unsqueeze(1) * frequency.unsqueeze(0)
    turn = torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turn.real, turn.imag], dim=-1)


@fourier_features.equivalent
def features_one_by_one(t, frequency):
    columns = [torch.cos(2 * math.pi * w * t) for w in frequency] + [torch.sin(2 * math.pi * w * t) for w in frequency]
    return torch.stack(columns, 1)


@fourier_features.equivalent
def cosine_as_a_shifted_sine(t, frequency):
    turns = t.view(-1, 1) * torch.cat([frequency, frequency])
    shift = torch.cat([torch.full_like(frequency, 0.25), torch.zeros_like(frequency)])
    return ((turns + shift) * 2 * math.pi).sin()
