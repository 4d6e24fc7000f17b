"""Networks: what they must not mix up, and what they must hear."""

import math

import pytest
import torch

from course_utils.models import MLP, Attention, FourierFeatures, ResidualBlock, Stage, TimeEmbedding, UNet


def points(n=6, dim=2):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0))


def times(n=6):
    return torch.linspace(0, 1, n)


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


@pytest.mark.parametrize("dim", [2, 6, 64])
def test_embeddings_depend_on_the_distance_only(dim):
    """<e(t), e(s)> is the sum of cos(frequency (t - s)): the same for the same t - s, and dim / 2 for t = s."""
    embed = TimeEmbedding(dim)
    t = torch.linspace(0, 0.5, 11)
    assert embed(t).shape == (11, dim)
    for distance in (0.0, 0.013, 0.4):
        products = (embed(t) * embed(t + distance)).sum(1)
        expected = torch.cos(1000 * 10_000 ** -torch.linspace(0, 1, dim // 2) * distance).sum()
        torch.testing.assert_close(products, expected.expand(11), rtol=0, atol=1e-4 * dim)
    assert embed(t).norm(dim=1).tolist() == pytest.approx([math.sqrt(dim / 2)] * 11, rel=1e-5)


def test_embedding_tells_neighbouring_levels_apart():
    embedded = TimeEmbedding(64)(torch.arange(1001) / 1000)
    distance = torch.cdist(embedded, embedded) + 10 * torch.eye(1001)
    assert distance.min() > 0.1


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 3])
def test_shapes(dim, depth):
    net = MLP(dim, width=16, depth=depth)
    assert net(points(5, dim), times(5)).shape == (5, dim)
    assert net(points(1, dim), times(1)).shape == (1, dim)
    assert net.double()(points(5, dim).double(), times(5).double()).dtype == torch.float64


@pytest.mark.parametrize("training", [True, False])
def test_samples_do_not_see_each_other(training):
    net = MLP(n_classes=3).train(training)
    x, t, y = points(), times(), torch.tensor([-1, 0, 1, 2, 0, 1])
    together = net(x, t, y)
    for i in range(len(x)):
        torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], y[i : i + 1]), together[i : i + 1])
    order = torch.tensor([5, 3, 0, 1, 4, 2])
    torch.testing.assert_close(net(x[order], t[order], y[order]), together[order])


def test_every_input_is_heard():
    net = MLP(n_classes=3)
    x, t, y = points(), times(), torch.zeros(6, dtype=torch.long)
    out = net(x, t, y)
    for changed in (net(x + 0.1, t, y), net(x, (t + 0.2).clamp(max=0.97), y), net(x, t, y + 1)):
        assert ((out - changed).abs().amax(1) > 1e-4).all()


def test_the_null_class():
    net = MLP(n_classes=3)
    x, t = points(), times()
    null = torch.full((6,), -1)
    assert torch.equal(net(x, t), net(x, t, null))
    for label in range(3):  # no class is the null class
        assert not torch.allclose(net(x, t), net(x, t, torch.full((6,), label)))


def test_labels_of_any_whole_type_are_the_same_labels():
    net, y = MLP(n_classes=3), torch.tensor([0, 1, 2, 0, 1, 2])
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(net(points(), times(), y.to(dtype)), net(points(), times(), y))
    assert torch.equal(net(points(), times(), y[1:2]), net(points(), times(), torch.ones(6).long()))


def test_gradients_reach_every_weight():
    net = MLP(n_classes=3)
    net(points(), times(), torch.tensor([-1, 0, 1, 2, 0, 1])).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    without_label = MLP(n_classes=3)
    without_label(points(), times()).sum().backward()
    assert without_label.label.weight.grad[1:].eq(0).all()  # the null class trains its own row only
    assert without_label.label.weight.grad[0].abs().sum() > 0


def test_width_and_depth_are_those_asked_for():
    net = MLP(width=16, depth=4)
    assert [layer.weight.shape for layer in net.layers] == [(16, 16)] * 3
    assert net.first.out_features == net.last.in_features == 16


def test_a_time_may_be_rounded():
    """A time that is computed back from sigma, log(sigma / low) / log(high / low), lies in [0, 1] but for rounding."""
    low, high = 0.05, 5.0
    sigma = torch.logspace(math.log10(low), math.log10(high), 6)
    t = (sigma / low).log() / math.log(high / low)
    for beside in (t, t - 1e-6, t + 1e-6):
        assert MLP()(points(), beside).isfinite().all()


def test_bad_input_is_named():
    for x in (torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 2, 1)):
        with pytest.raises(ValueError, match=r"this network takes points \(B, 2\)"):
            MLP()(x, torch.zeros(4))
    with pytest.raises(ValueError, match="the network has no classes"):
        MLP()(points(), times(), torch.zeros(6, dtype=torch.long))
    for t in (torch.zeros(3), torch.zeros(6, 1), 0.5):
        with pytest.raises(ValueError, match=r"takes a time for each of the 6 samples: \(6,\)"):
            MLP()(points(), t)
    for t in (torch.tensor([500.0]), torch.arange(6), torch.full((6,), -0.1), torch.full((6,), float("nan"))):
        with pytest.raises(ValueError, match=r"times lie in \[0, 1\] .* level k of a discrete schedule is t = k / T"):
            MLP()(points(), t)
    for labels in ([0, 1, 2, 3, 0, 0], [-2, 0, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="labels run from -1 .* to 2"):
            MLP(n_classes=3)(points(), times(), torch.tensor(labels))
    for labels in (1, [0] * 6, torch.zeros(6), torch.zeros(6) > 0, torch.zeros(5).long(), torch.zeros(6, 1).long()):
        with pytest.raises(ValueError, match=r"takes whole numbers, one for each of the 6 samples: \(6,\)"):
            MLP(n_classes=3)(points(), times(), labels)
    for sizes in ({"depth": 0}, {"width": 0}, {"dim": 0}, {"n_classes": 0}, {"n_classes": -1}):
        ((name, size),) = sizes.items()
        with pytest.raises(ValueError, match=f"{name} = {size}.*each is at least 1"):
            MLP(**sizes)
    for dim in (0, 1, 7):
        with pytest.raises(ValueError, match=f"an even dimension, not {dim}"):
            TimeEmbedding(dim)


# Pictures ---------------------------------------------------------------------------------------------------------


def awake(net, seed=0):
    """The network with random weights where it starts at zero, so that every part has a say."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return net


def unet(channels=1, **options):
    torch.manual_seed(0)
    return awake(UNet(channels, **({"width": 8, "n_classes": 10, "patch": 2} | options)))


def pictures(n=4, channels=1, size=28):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_fourier_features_tell_how_far_two_times_are_apart():
    """cos a cos b + sin a sin b = cos(a - b): dot products depend on the difference alone."""
    torch.manual_seed(0)
    features = FourierFeatures(64, std=2.0)
    t, shift = torch.tensor([0.1, 0.35, 0.8]), 0.17
    gram = features(t) @ features(t).T
    torch.testing.assert_close(gram, features(t + shift) @ features(t + shift).T, rtol=1e-4, atol=1e-4)
    assert gram.diagonal().tolist() == pytest.approx([32] * 3, rel=1e-5)


def test_fourier_features_of_many_frequencies_are_a_gaussian_kernel():
    """The mean over w ~ N(0, std^2) of cos(2 pi w d) is exp(-(2 pi std d)^2 / 2) (Rahimi & Recht 2007)."""
    torch.manual_seed(0)
    features, d = FourierFeatures(40_000, std=0.7), torch.tensor([0.0, 0.1, 0.2, 0.4])
    kernel = features(d) @ features(torch.zeros(1)).T / 20_000
    torch.testing.assert_close(kernel[:, 0], torch.exp(-((2 * math.pi * 0.7 * d) ** 2) / 2), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("channels", "size", "options"),
    [
        (1, 28, {}),
        (1, 28, {"patch": 1, "multipliers": (1, 2, 2)}),
        (3, 32, {"multipliers": (1, 2, 3), "n_blocks": 2}),
        (3, 32, {"patch": 1, "multipliers": (1,), "attention": 0}),
        (3, 32, {"n_classes": None, "time": FourierFeatures}),
    ],
)
def test_a_unet_serves_pictures_of_many_shapes(channels, size, options):
    net = unet(channels, **options)
    for n in (1, 3):
        x = pictures(n, channels, size)
        out = net(x, torch.rand(n))
        assert out.shape == x.shape and out.dtype == x.dtype and torch.isfinite(out).all()
    wide = pictures(2, channels, size)[:, :, : size - 8]
    assert net(wide, torch.rand(2)).shape == wide.shape  # not square


def test_a_new_unet_says_zero():
    """So that training starts from the mean of the target, not from noise."""
    assert (UNet(1, width=8)(pictures(), torch.rand(4)) == 0).all()


def test_pictures_of_a_batch_do_not_see_each_other():
    """In train mode too: group norm, unlike batch norm, looks at one picture."""
    net, x, t = unet().train(), pictures(), torch.rand(4)
    y = torch.tensor([0, 3, -1, 9])
    whole = net(x, t, y)
    for i in range(4):
        torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], y[i : i + 1]), whole[i : i + 1], rtol=0, atol=1e-5)
    turned = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(x[turned], t[turned], y[turned]), whole[turned], rtol=0, atol=1e-5)


def test_a_unet_listens_to_time_class_and_every_pixel():
    net, x, t = unet(), pictures(1), torch.tensor([0.3])
    here = net(x, t, torch.tensor([4]))
    for other in (net(x, t + 0.2, torch.tensor([4])), net(x, t, torch.tensor([5])), net(x, t, None)):
        assert (other - here).abs().max() > 1e-3
    assert torch.equal(net(x, t, None), net(x, t, torch.tensor([-1])))
    x.requires_grad_()
    gradient = torch.autograd.grad(net(x, t, None)[0, 0, 14, 14], x)[0]
    assert (gradient != 0).all()  # attention looks everywhere


def test_what_is_fine_goes_across():
    """A stage on the way up sees, behind what comes from below, what its counterpart on the way down has made."""
    net, made, seen = unet(n_blocks=2, multipliers=(1, 2, 3)), [], []
    for stage in (stage for level in net.down for stage in level):
        stage.register_forward_hook(lambda module, given, out: made.append(out))
    for stage in (stage for level in net.up for stage in level):
        stage.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    net(pictures(2, size=32), torch.rand(2))
    assert len(made) == len(seen) == 6
    for down, up in zip(made, reversed(seen), strict=True):
        assert torch.equal(up[:, -down.shape[1] :], down)


def test_every_class_of_a_unet_is_one_and_the_null_class_is_none_of_them():
    net, x, t = unet(), pictures(1), torch.tensor([0.3])
    said = torch.cat([net(x, t, torch.tensor([label])) for label in range(-1, 10)]).flatten(1)
    assert (torch.cdist(said, said) + torch.eye(11)).min() > 1e-2
    net(x, t).sum().backward()
    heard = net.label.weight.grad.abs().sum(1) > 0
    assert heard.nonzero().flatten().tolist() == [0]  # the null class trains its own row only


def test_gradients_reach_every_weight_of_a_unet():
    net = unet(n_blocks=2, multipliers=(1, 2), time=FourierFeatures)
    net(pictures(11), torch.linspace(0.1, 1, 11), torch.arange(-1, 10)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_time_is_heard_where_all_pictures_share_it():
    """Batch norm after the embedding would take it out again; here the context comes after the norm."""
    net, x = unet().train(), pictures()
    early, late = net(x, torch.full((4,), 0.1)), net(x, torch.full((4,), 0.9))
    assert (early - late).abs().max() > 1e-2


def test_a_new_residual_block_hands_its_input_on():
    torch.manual_seed(0)
    x, context = pictures(2, 8), torch.randn(2, 16)
    assert torch.equal(ResidualBlock(8, 8, 16)(x, context), x)
    wider = ResidualBlock(8, 12, 16)
    assert torch.equal(wider(x, context), wider.skip(x))


def test_a_residual_block_is_its_formula():
    torch.manual_seed(0)
    block, x, context = ResidualBlock(8, 8, 16), pictures(2, 8), torch.randn(2, 16)
    block.conv2.reset_parameters()

    def normed(x):  # group norm, from its definition
        groups = x.reshape(len(x), 2, -1)
        std = (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return ((groups - groups.mean(2, keepdim=True)) / std).reshape(x.shape)

    scale, shift = (context @ block.modulation.weight.T + block.modulation.bias).reshape(2, 2, 8, 1, 1).unbind(1)
    h = block.conv1(torch.nn.functional.silu(normed(x)))
    h = block.conv2(torch.nn.functional.silu(normed(h) * (1 + scale) + shift))
    torch.testing.assert_close(block(x, context), x + h, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_torchs_multihead_attention(heads):
    torch.manual_seed(0)
    ours, x = awake(Attention(8, heads)), pictures(3, 8, 6)[:, :, :5]
    theirs = torch.nn.MultiheadAttention(8, heads, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data[:, :, 0, 0], ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data[:, :, 0, 0], ours.out.bias.data
    sequence = ours.norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
    expected = theirs(sequence, sequence, sequence)[0].transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(ours(x), x + expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "heads"), [(8, 1), (64, 1), (128, 2), (200, 2), (202, 2), (211, 1)])
def test_heads_have_at_least_64_channels_and_share_them_out(channels, heads):
    assert Stage(channels, channels, 16, 0.0, attention=True).attention.heads == heads


def test_attention_does_not_know_where_a_position_is():
    """Positions in another order give the same answers in that order."""
    torch.manual_seed(0)
    attention, x = awake(Attention(8, 2)), pictures(2, 8, 4)
    order = torch.randperm(16)
    mixed = x.flatten(2)[:, :, order].reshape(x.shape)
    expected = attention(x).flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(attention(mixed), expected, rtol=0, atol=1e-5)


def test_half_the_precision_and_another_memory_order_change_little():
    net, x, t = unet(width=16), pictures(), torch.rand(4)
    expected = net(x, t)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(x, t), expected, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (net(x, t).float() - expected).norm() < 0.05 * expected.norm()


def test_dropout_is_for_training():
    net, x, t = unet(dropout=0.5), pictures(), torch.rand(4)
    assert torch.equal(net.eval()(x, t), net(x, t))
    assert not torch.equal(net.train()(x, t), net(x, t))


def test_bad_pictures_are_named():
    net, t = unet(), torch.rand(4)
    for x in (pictures(4, 3), pictures()[:, 0], pictures(4, 1, 30)):
        with pytest.raises(ValueError, match=r"takes pictures \(B, 1, H, W\) with H and W multiples of 4"):
            net(x, t)
    with pytest.raises(ValueError, match="a time for each of the 4 samples"):
        net(pictures(), 0.5)
    with pytest.raises(ValueError, match=r"labels run from -1 \(the null class\) to 9, not 0 to 10"):
        net(pictures(), t, torch.tensor([0, 1, 2, 10]))
    with pytest.raises(ValueError, match=r"has no classes: UNet\(n_classes=...\)"):
        unet(n_classes=None)(pictures(), t, torch.zeros(4, dtype=torch.long))
    for sizes in ({"width": 0}, {"n_classes": 0}):
        with pytest.raises(ValueError, match="are each at least 1"):
            UNet(1, **sizes)
    with pytest.raises(ValueError, match="8 channels cannot be shared out to 3 heads"):
        Attention(8, 3)
    for odd in (FourierFeatures, TimeEmbedding):
        with pytest.raises(ValueError, match="even dimension, not 5"):
            odd(5)
