"""Guidance: both ends of the scale, and the theorem that acting on x0_hat is acting on every kind of prediction."""

import pytest
import torch

from course_utils.denoiser import KINDS, Denoiser, from_x0
from course_utils.guidance import cfg, clip, condition
from course_utils.mixtures import GaussianMixture
from course_utils.models import MLP
from course_utils.samplers import ddim
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule

SCHEDULES = [LinearSchedule(), CosineSchedule(None), VESchedule()]
ONE, OTHER = GaussianMixture([[-1.0, 0.5]], 0.4), GaussianMixture([[1.0, 0.0], [0.5, -1.0]], 0.3)


def points(n=6):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_scale_0_is_unconditional_and_1_conditional():
    schedule, x = LinearSchedule(), points()
    conditional, unconditional = ONE.denoiser(schedule), OTHER.denoiser(schedule)
    assert not torch.allclose(conditional(x, 0.5), unconditional(x, 0.5))
    torch.testing.assert_close(cfg(conditional, unconditional, 0)(x, 0.5), unconditional(x, 0.5))
    torch.testing.assert_close(cfg(conditional, unconditional, 1)(x, 0.5), conditional(x, 0.5))
    beyond = cfg(conditional, unconditional, 3)(x, 0.5) - conditional(x, 0.5)
    torch.testing.assert_close(beyond, 2 * (conditional(x, 0.5) - unconditional(x, 0.5)))


@pytest.mark.parametrize("shape", [(4, 2), (4, 1, 4, 4), (4, 3, 5, 4)])
def test_a_scale_for_each_sample(shape):
    """Sample by sample it is what that number does, also where pictures are as wide as the batch is long."""
    c, u, scales = torch.randn(shape), torch.randn(shape), [0.0, 1.0, 2.5, -1.0]
    guided = cfg(lambda x, t: c, lambda x, t: u, torch.tensor(scales))(c, 0.5)
    for i, scale in enumerate(scales):
        alone = cfg(lambda x, t: c, lambda x, t: u, scale)(c, 0.5)
        torch.testing.assert_close(guided[i], alone[i])
    for n in (1, 3):
        with pytest.raises(ValueError, match=f"{n} guidance scales for 4 samples; give one number, or one for each"):
            cfg(lambda x, t: c, lambda x, t: u, torch.ones(n))(c, 0.5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_guiding_x0_hat_is_guiding_every_kind(schedule, kind):
    """Ho & Salimans guide eps; with weights 1 - w and w, which sum to one, it is the same for x0, v and the score."""
    x, w = points(), 2.5
    t = torch.linspace(0.1, 0.9, len(x), dtype=torch.float64)
    alpha, sigma = schedule.at(t, x)
    conditional, unconditional = ONE.denoiser(schedule), OTHER.denoiser(schedule)
    said = [from_x0(kind, denoise(x, t), x, alpha, sigma) for denoise in (conditional, unconditional)]
    guided = from_x0(kind, cfg(conditional, unconditional, w)(x, t), x, alpha, sigma)
    torch.testing.assert_close(guided, w * said[0] + (1 - w) * said[1], rtol=1e-9, atol=1e-9)


def test_guided_gaussian_in_closed_form():
    """The product p(x|y)^w p(x)^(1-w) of two Gaussians' scores is a Gaussian's score: the guided one, at every x."""
    schedule, t, w = CosineSchedule(None), 0.4, 2.0
    narrow, wide, x = GaussianMixture([[1.0, 0.0]], 0.5), GaussianMixture([[0.0, 0.0]], 1.0), points()
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    precisions = [1 / (alpha**2 * s**2 + sigma**2) for s in (0.5, 1.0)]
    precision = w * precisions[0] + (1 - w) * precisions[1]
    mean = w * precisions[0] * alpha * narrow.mean / precision
    guided = cfg(narrow.denoiser(schedule), wide.denoiser(schedule), w)(x, t)
    torch.testing.assert_close(from_x0("score", guided, x, alpha, sigma), (mean - x) * precision)


def test_condition_fixes_the_labels():
    def model(x, t, y):
        return x * 0 + y[:, None]

    x = points(3)
    assert condition(model, 2)(x, 0.5).tolist() == [[2, 2]] * 3
    assert condition(model, torch.tensor([0, 1, -1]))(x, 0.5).tolist() == [[0, 0], [1, 1], [-1, -1]]
    assert condition(model, [2])(x, 0.5).tolist() == [[2, 2]] * 3
    for labels in (torch.tensor([0, 1]), torch.zeros(3, 1).long(), torch.zeros(0).long()):
        with pytest.raises(ValueError, match="give one label, or one for each of 3 samples"):
            condition(model, labels)(x, 0.5)


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: Denoiser(net, LinearSchedule())], ids=["net", "model"])
@pytest.mark.parametrize("y, wrong", [(3, 3), (-2, -2), ([0, 3, 1], 3), (torch.tensor([0, -2]), -2)], ids=str)
def test_a_class_out_of_range_is_refused_before_the_network_is_asked(wrap, y, wrong):
    """Whatever the device: the network itself asks on the CPU only."""
    for labels in (0, 2, -1, None, [0, 2, -1], torch.tensor([2], dtype=torch.uint8)):
        condition(wrap(MLP(n_classes=3)), labels)
    with pytest.raises(ValueError, match=f"a class is a whole number from 0 to 2, .*, not {wrong}$"):
        condition(wrap(MLP(n_classes=3)), y)
    condition(lambda x, t, y: x, y)  # a function doesn't say how many classes it knows


@pytest.mark.parametrize("y", ["cat", ["cat", "dog"], 1.0, True, torch.zeros(3)], ids=str)
def test_what_is_no_class_is_named(y):
    with pytest.raises(
        TypeError, match="a class is a whole number from 0 to 9, or -1 .or None. for the null class, not"
    ):
        condition(MLP(n_classes=10), y)
    with pytest.raises(TypeError, match="a class is a whole number, or -1"):
        condition(lambda x, t, y: x, y)


def test_conditioning_does_not_ask_again_at_a_step(monkeypatch):
    denoise = condition(MLP(n_classes=3), torch.tensor([0, 1, 2]))
    monkeypatch.setattr("course_utils.checks.as_labels", None)
    denoise(points(3).float(), torch.full((3,), 0.5))


def test_no_label_is_the_null_class():
    torch.manual_seed(0)
    denoiser, x = Denoiser(MLP(n_classes=3), LinearSchedule()), points().float()
    torch.testing.assert_close(condition(denoiser, None)(x, 0.5), denoiser(x, 0.5), rtol=0, atol=0)
    assert not torch.allclose(condition(denoiser, 0)(x, 0.5), denoiser(x, 0.5))


def test_clip_keeps_x0_hat_in_range_and_leaves_x_alone():
    schedule = LinearSchedule()
    denoise = GaussianMixture([[2.0, -0.5]], 0.01).denoiser(schedule)
    x = 3 * points()
    before = x.clone()
    clipped = clip(denoise)(x, 0.5)
    assert clipped[:, 0].eq(1).all() and torch.equal(clipped[:, 1], denoise(x, 0.5)[:, 1])
    assert torch.equal(x, before)
    assert clip(denoise, -0.2, 0.2)(x, 0.5).abs().max() == pytest.approx(0.2)
    path = list(ddim(clip(denoise), schedule, x, schedule.timesteps(10)))
    assert path[0].abs().max() > 1  # noisy states are not clipped
    assert path[-1].abs().max() <= 1
