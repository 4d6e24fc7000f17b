"""The network that chapter 5 grew from: its size, and that its parts do what is said of them."""

import pytest
import torch
from torch import nn

from course_utils.baseline import BaselineUNet, Beside, ConvBlock, HeadsAttention


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return BaselineUNet(width=32).eval()


def size(module):
    return sum(p.numel() for p in module.parameters())


def test_the_number_of_parameters_is_the_original_s():
    assert size(BaselineUNet()) == 27_487_287


def test_the_number_of_parameters_by_formula():
    """R: two convolutions with biases and a skip without; A: q, k, v and out with biases, and the norm's two rows."""
    assert size(ConvBlock(5, 7, 7)) == (9 * 5 + 1) * 7 + (9 * 7 + 1) * 7 + 5 * 7
    assert size(ConvBlock(7, 5, 7)) == (9 * 7 + 1) * 5 + (9 * 5 + 1) * 7
    assert size(HeadsAttention(128)) == 4 * 128 * 128 + 4 * 128 + 2 * 128
    assert BaselineUNet().label.weight.shape == (11, 4)


def test_the_levels_of_the_network():
    """What each convolution block sees, in order: 32x32 down to 4x4 and up again, and the channels of the plan."""
    net, seen = BaselineUNet(), []
    for module in net.modules():
        if isinstance(module, (ConvBlock, HeadsAttention)):
            name = type(module).__name__[0]
            module.register_forward_hook(lambda _, x, out, n=name: seen.append((n, *x[0].shape[1:3], out.shape[1])))
    with torch.no_grad():
        net(normal(1, 3, 32, 32), torch.rand(1))
    c = 64
    assert [entry for entry in seen if entry[0] == "C"] == [
        ("C", a, side, b)
        for side, a, b in [
            (32, 23, c), (32, c, c), (16, c, 2 * c), (16, 2 * c, 2 * c), (8, 2 * c, 4 * c), (8, 4 * c, 4 * c),
            (4, 4 * c, 8 * c), (4, 8 * c, 8 * c), (4, 8 * c, 8 * c), (4, 8 * c, 4 * c),
            (8, 8 * c, 4 * c), (8, 4 * c, 2 * c), (16, 4 * c, 2 * c), (16, 2 * c, c), (32, 2 * c, c), (32, c, 3),
        ]
    ]  # fmt: skip
    attended = [entry[1:3] for entry in seen if entry[0] == "H"]
    assert attended == [(256, 8)] * 2 + [(512, 4)] * 3 + [(256, 4), (256, 8), (128, 8)]


def test_attention_is_that_of_every_head_alone():
    """softmax(q k^T / 8) v of each head, the weights of its own q, k and v cut out of the one layer that holds them."""
    torch.manual_seed(0)
    block, x = HeadsAttention(128).eval(), normal(2, 128, 3, 5)
    h = block.norm(x.reshape(2, 128, 15).mT)  # (B, H W, C)
    heads = []
    for head in range(2):
        q, k, v = (
            h @ block.qkv.weight[start : start + 64].T + block.qkv.bias[start : start + 64]
            for start in (64 * head, 128 + 64 * head, 256 + 64 * head)
        )
        heads.append(torch.softmax(q @ k.mT / 64**0.5, dim=-1) @ v)
    expected = x + block.out(torch.cat(heads, -1)).mT.reshape(x.shape)
    torch.testing.assert_close(block(x), expected)


def test_attention_equals_torch_s_multihead_attention():
    torch.manual_seed(0)
    block, x = HeadsAttention(192).eval(), normal(2, 192, 4, 4)
    theirs = nn.MultiheadAttention(192, 3, batch_first=True).eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": block.qkv.weight,
            "in_proj_bias": block.qkv.bias,
            "out_proj.weight": block.out.weight,
            "out_proj.bias": block.out.bias,
        }
    )
    h = block.norm(x.flatten(2).mT)
    expected = x + theirs(h, h, h, need_weights=False)[0].mT.reshape(x.shape)
    torch.testing.assert_close(block(x), expected)


def test_attention_does_not_care_where_things_are():
    """Without a code of the position, moving the positions moves the output along; a convolution does care."""
    torch.manual_seed(0)
    x, order = normal(2, 64, 4, 4), torch.randperm(16, generator=torch.Generator().manual_seed(1))

    def moved(x):
        return x.flatten(2)[..., order].reshape(x.shape)

    for block, same in ((HeadsAttention(64).eval(), True), (ConvBlock(64, 64, 64).eval(), False)):
        assert torch.allclose(block(moved(x)), moved(block(x)), atol=1e-5) == same


def test_attention_hands_the_input_itself_on():
    block, x = HeadsAttention(64), normal(2, 64, 4, 4)
    nn.init.zeros_(block.out.weight)
    nn.init.zeros_(block.out.bias)
    assert torch.equal(block(x), x)  # in train mode: dropout is not on the way of x


def test_channels_are_dropped_whole_and_only_in_training():
    torch.manual_seed(0)
    block, x = ConvBlock(64, 64, 64), normal(64, 64, 4, 4)
    nn.init.zeros_(block.main[3].weight)
    nn.init.ones_(block.main[3].bias)  # the second convolution says 1 everywhere, dropped or scaled by 1 / 0.9
    added = block(x) - x
    whole = added.flatten(2)
    assert torch.allclose(whole, whole[..., :1].expand_as(whole), atol=1e-5)  # a channel is dropped as a whole
    share = (whole[..., 0] < 0.5).float().mean().item()
    assert share == pytest.approx(0.1, abs=4 * (0.09 / 64**2) ** 0.5)
    torch.testing.assert_close(whole[..., 0][whole[..., 0] > 0.5].mean().item(), 1 / 0.9, rtol=1e-4, atol=0)
    torch.testing.assert_close(block.eval()(x), x + 1)


def test_the_last_block_may_say_anything():
    """A ReLU at the end could only add to the input; the last block takes away as well, and drops nothing after it."""
    torch.manual_seed(0)
    x = normal(8, 16, 4, 4)
    added = ConvBlock(16, 16, 16)(x) - x
    assert added.min() > -1e-6 and added.max() > 0.1
    last = ConvBlock(16, 16, 16, last=True)
    assert (last(x) - x).min() < -0.1
    assert isinstance(last.main[-1], nn.Conv2d)


def test_beside_keeps_its_input():
    x = normal(2, 4, 3, 3)
    out = Beside(nn.Conv2d(4, 6, 1), nn.ReLU())(x)
    assert out.shape == (2, 10, 3, 3) and torch.equal(out[:, 6:], x) and out[:, :6].min() >= 0


@torch.no_grad()
def test_every_picture_is_for_itself(net):
    x, t, y = normal(5, 3, 16, 8), torch.linspace(0, 1, 5), torch.tensor([-1, 0, 4, 9, 9])
    together, order = net(x, t, y), torch.tensor([4, 2, 0, 1, 3])
    assert together.shape == x.shape
    torch.testing.assert_close(net(x[order], t[order], y[order]), together[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x[1:2], t[1:2], y[1:2]), together[1:2], rtol=1e-4, atol=1e-5)
    # one time or one label for the batch
    torch.testing.assert_close(net(x, t[2:3], y), net(x, t[2].repeat(5), y))
    torch.testing.assert_close(net(x, t, y[1:2]), net(x, t, y[1].repeat(5)))


@torch.no_grad()
def test_every_input_is_heard_and_none_is_the_null_class(net):
    x, t = normal(3, 3, 8, 8), torch.tensor([0.1, 0.4, 0.8])
    null = net(x, t)
    assert torch.equal(null, net(x, t, torch.full((3,), -1)))
    for changed in (net(x + 0.1, t), net(x, t + 0.1), *(net(x, t, torch.full((3,), label)) for label in range(10))):
        assert ((changed - null).abs().amax((1, 2, 3)) > 1e-5).all()


@torch.no_grad()
def test_time_is_cosines_and_sines_in_front_of_the_label(net):
    """The first block sees the picture, then cos and sin of 2 pi t w, then the label, the same at every position."""
    seen = {}
    hook = net.main[0].register_forward_hook(lambda _, x, out: seen.update(x=x[0]))
    x, t, y = normal(2, 3, 8, 8), torch.tensor([0.25, 0.7]), torch.tensor([-1, 6])
    net(x, t, y)
    hook.remove()
    assert torch.equal(seen["x"][:, :3], x)
    angle = 2 * torch.pi * t[:, None] * net.frequency
    rows = torch.cat([angle.cos(), angle.sin(), net.label.weight[[0, 7]]], 1)
    torch.testing.assert_close(seen["x"][:, 3:], rows[:, :, None, None].expand(-1, -1, 8, 8))


@torch.no_grad()
def test_channels_last_and_half_precision(net):
    x, t, y = normal(4, 3, 16, 16), torch.linspace(0, 1, 4), torch.arange(4)
    exact = net(x, t, y)
    other = BaselineUNet(width=32).eval()
    other.load_state_dict(net.state_dict())
    other = other.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        other(x.contiguous(memory_format=torch.channels_last), t, y), exact, rtol=1e-4, atol=1e-5
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = other(x, t, y)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()


def test_gradients_reach_every_weight_under_autocast():
    torch.manual_seed(0)
    net = BaselineUNet(width=32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(normal(4, 3, 8, 8), torch.linspace(0.1, 1, 4), torch.tensor([-1, 0, 5, 9])).float().square().mean()
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    heard = net.label.weight.grad.abs().sum(1) > 0
    assert heard.nonzero().flatten().tolist() == [0, 1, 6, 10]


def test_bad_input_is_named(net):
    t = torch.zeros(2)
    for x in (normal(2, 1, 32, 32), normal(2, 3, 28, 28), normal(3, 32, 32)):
        with pytest.raises(ValueError, match=r"takes pictures \(B, 3, H, W\) with H and W multiples of 8"):
            net(x, t)
    with pytest.raises(ValueError, match=r"a time for each of the 2 samples: \(2,\)"):
        net(normal(2, 3, 8, 8), torch.zeros(3))
    with pytest.raises(ValueError, match="labels run from -1 .* to 9"):
        net(normal(2, 3, 8, 8), t, torch.tensor([0, 10]))
    for width in (0, -32, 48):
        with pytest.raises(ValueError, match=f"width = {width}.*a multiple of 32"):
            BaselineUNet(width=width)
    with pytest.raises(ValueError, match="n_classes = 0"):
        BaselineUNet(width=32, n_classes=0)
