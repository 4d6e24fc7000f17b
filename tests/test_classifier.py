"""The classifier: its size, that it learns, that it judges every picture by itself, and how pictures are moved."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from course_utils.classifier import PreactivationBlock, SmallClassifier, augment, classifier_loss
from course_utils.metrics import classifier_accuracy
from course_utils.training import batches, fit, load, save


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return SmallClassifier(3, n_classes=7, width=8, n_blocks=2)


@pytest.mark.parametrize(
    ("channels", "n_classes", "width", "n_blocks"), [(1, 10, 32, 1), (3, 10, 32, 2), (1, 10, 24, 1), (3, 5, 4, 3)]
)
def test_the_number_of_parameters_by_formula(channels, n_classes, width, n_blocks):
    total, c = 9 * channels * width, width
    for level in range(3):
        size = width * 2**level
        total += 9 * c * size + 9 * size**2 + 2 * c + 2 * size  # the first block of a level, its two norms
        total += c * size + size if level else 0  # and the 1x1 convolution across
        total += (n_blocks - 1) * (18 * size**2 + 4 * size)
        c = size
    total += 2 * c + c * n_classes + n_classes
    classifier = SmallClassifier(channels, n_classes, width, n_blocks)
    assert sum(p.numel() for p in classifier.parameters()) == total


@pytest.mark.parametrize(("n_blocks", "millions"), [(1, 0.31), (2, 0.70)])
def test_the_sizes_that_ship_are_small(n_blocks, millions):
    classifier = SmallClassifier(3, width=32, n_blocks=n_blocks)
    assert sum(p.numel() for p in classifier.parameters()) < millions * 1e6


@torch.no_grad()
def test_every_picture_is_judged_by_itself_in_eval_mode_only(classifier):
    x, order = normal(6, 3, 12, 8), torch.tensor([4, 2, 5, 0, 1, 3])
    classifier(x)  # in train mode, so that the running statistics are not those of the start
    together = classifier.eval()(x)
    assert together.shape == (6, 7)
    torch.testing.assert_close(classifier(x[order]), together[order])
    torch.testing.assert_close(classifier(x[2:3]), together[2:3])
    classifier.train()
    assert not torch.allclose(classifier(x[:2]), classifier(x)[:2], atol=1e-2)  # what batch norm does


@torch.no_grad()
def test_logits_are_a_linear_map_of_the_features(classifier):
    x = normal(4, 3, 28, 32)
    features = classifier.eval().features(x)
    assert features.shape == (4, 32) and features.min() >= 0
    torch.testing.assert_close(classifier(x), features @ classifier.last.weight.T + classifier.last.bias)


@torch.no_grad()
def test_a_block_adds_to_what_it_carries_across():
    torch.manual_seed(0)
    x = normal(2, 4, 6, 6)
    same, changed = PreactivationBlock(4, 4).eval(), PreactivationBlock(4, 8, stride=2).eval()
    for block in (same, changed):
        block.conv2.weight.zero_()
    assert torch.equal(same(x), x)
    pooled = x.reshape(2, 4, 3, 2, 3, 2).mean((3, 5))
    across = changed.skip[1]
    expected = torch.einsum("oi,bihw->bohw", across.weight[:, :, 0, 0], pooled) + across.bias[:, None, None]
    torch.testing.assert_close(changed(x), expected)


def test_gradients_reach_every_weight(classifier):
    classifier_loss(classifier, normal(4, 3, 8, 8), torch.tensor([0, 1, 5, 6])).backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_loss_by_its_definition(classifier):
    x, y = normal(4, 3, 8, 8), torch.tensor([0, 3, 3, 6])
    logp = classifier.eval()(x).log_softmax(1)
    for smoothing in (0.0, 0.1, 0.5):
        by_hand = -((1 - smoothing) * logp[range(4), y] + smoothing * logp.mean(1)).mean()
        torch.testing.assert_close(classifier_loss(classifier, x, y, smoothing), by_hand)
    # the default's least possible value: the entropy of the target, 0.9 + 0.1 / 7 on the label
    p, q = 0.9 + 0.1 / 7, 0.1 / 7
    with torch.no_grad():
        classifier.last.weight.zero_()
        classifier.last.bias.zero_()[3] = math.log(p / q)
    least = -(p * math.log(p) + 6 * q * math.log(q))
    assert classifier_loss(classifier, x, torch.full((4,), 3)).item() == pytest.approx(least, rel=1e-6)


def test_it_learns_scikit_learn_s_digits():
    """1,797 real digits of 8 x 8: within seconds right for 95 of 100 that it has not seen (98 is usual)."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.as_tensor(digits.target)
    order = torch.randperm(len(x), generator=seeded())
    train, test = order[:1300], order[1300:]
    classifier = SmallClassifier(width=8)
    assert classifier_accuracy(classifier, x[test], y[test]) < 0.3
    data = batches((x[train], y[train]), 100, seeded())
    average, losses = fit(classifier, classifier_loss, data, 150, ema_decay=0.95, progress=False)
    assert classifier_accuracy(average, x[test], y[test]) > 0.95
    assert losses[0] > 2 and losses[-1] < 0.8


def test_weights_in_half_precision_give_the_same_answers(tmp_path, classifier):
    """As they ship: rounding the weights (and the running statistics) moves the logits by less than a percent."""
    x = normal(8, 3, 16, 16)
    for _ in range(20):
        classifier(x)
    expected = classifier.eval()(x)
    save(classifier.half(), tmp_path / "classifier.safetensors")
    again = load(SmallClassifier(3, n_classes=7, width=8, n_blocks=2), tmp_path / "classifier.safetensors").eval()
    assert again.last.weight.dtype == torch.float32
    assert 0 < (again(x) - expected).abs().max() < 0.01 * expected.std()


def test_moved_pictures_are_those_of_a_padded_one():
    """Each result is a window of its picture, padded by reflection and mirrored or not; all offsets come up."""
    shift, x = 2, normal(4000, 2, 5, 6)
    moved = augment(x, flip=True, shift=shift, generator=seeded())
    assert moved.shape == x.shape and moved.is_contiguous()
    padded = torch.nn.functional.pad(x, (shift,) * 4, mode="reflect")
    counts = torch.zeros(2, 5, 5)
    for top in range(5):
        for left in range(5):
            window = padded[:, :, top : top + 5, left : left + 6]
            counts[0, top, left] = (window == moved).flatten(1).all(1).sum()
            counts[1, top, left] = (window.flip(3) == moved).flatten(1).all(1).sum()
    assert counts.sum() == 4000  # every picture is one of these windows
    assert (counts - 80).abs().max() < 5 * math.sqrt(80)  # and each of the 50 as often as the others


def test_pictures_stay_as_they_are_where_that_is_asked():
    x = normal(50, 1, 8, 8)
    assert torch.equal(augment(x, shift=0), x)
    mirrored = augment(x, flip=True, shift=0, generator=seeded())
    is_same, is_mirrored = ((mirrored == other).flatten(1).all(1) for other in (x, x.flip(3)))
    assert (is_same ^ is_mirrored).all() and 10 < is_same.sum() < 40
    before = x.clone()
    augment(x, flip=True, shift=3)
    assert torch.equal(x, before)


def test_digits_keep_to_their_side():
    """Without `flip` nothing is mirrored: a picture darker on the left stays darker on the left."""
    x = torch.linspace(-1, 1, 28).expand(200, 1, 28, 28)
    moved = augment(x, shift=2, generator=seeded())
    assert (moved[..., :14].mean((1, 2, 3)) < moved[..., 14:].mean((1, 2, 3))).all()


def test_the_same_generator_moves_the_same_way():
    x = normal(20, 1, 8, 8)
    once, again, other = (augment(x, True, 2, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_bad_input_is_named(classifier):
    for x in (
        normal(2, 1, 32, 32),
        normal(2, 3, 30, 32),
        normal(3, 32, 32),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match=r"takes pictures \(B, 3, H, W\) as floats in \[-1, 1\].*multiples of 4"):
            classifier(x)
    for name in ("channels", "n_classes", "width", "n_blocks"):
        with pytest.raises(ValueError, match=f"{name} = 0.*each is at least 1"):
            SmallClassifier(**{name: 0})
    for x, shift in ((normal(2, 8, 8), 1), (normal(2, 1, 8, 8), 8), (normal(2, 1, 8, 8), -1)):
        with pytest.raises(ValueError, match=f"shift = {shift}; pictures"):
            augment(x, shift=shift)
