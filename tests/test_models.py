"""Networks: what they must not mix up, and what they must hear."""

import math

import pytest
import torch

from course_utils.models import MLP, TimeEmbedding


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


def test_bad_input_is_named():
    for x in (torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 2, 1)):
        with pytest.raises(ValueError, match=r"this network takes points \(B, 2\)"):
            MLP()(x, torch.zeros(4))
    with pytest.raises(ValueError, match="the network has no classes"):
        MLP()(points(), times(), torch.zeros(6, dtype=torch.long))
    for t in (torch.zeros(3), torch.zeros(6, 1), 0.5):
        with pytest.raises(ValueError, match=r"takes a time for each of the 6 samples: \(6,\)"):
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
