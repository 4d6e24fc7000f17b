"""The models that ship: as large as promised, and as good on pictures that they have not seen or that they draw."""

import pytest
import torch

from course_utils.data import load_mnist
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_accuracy
from course_utils.samplers import dpmpp_2m
from course_utils.training import PRETRAINED, WEIGHTS, load_pretrained

SHIPPED = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def test_the_weights_belong_to_models():
    assert {"mnist", "mnist_classifier"} <= set(SHIPPED) <= set(PRETRAINED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_ready_to_use(name):
    model = load_pretrained(name)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in model.parameters())


def test_the_digits_fit_in_four_megabytes():
    assert sum(path.stat().st_size for path in WEIGHTS.glob("mnist*.safetensors")) <= 4e6


def test_the_classifier_reads_digits():
    images, labels = load_mnist("test", quiet=True)
    assert classifier_accuracy(load_pretrained("mnist_classifier"), images, labels) >= 0.985


@pytest.mark.slow
def test_the_model_draws_the_digit_that_is_asked_for():
    """At guidance scale 2, in 20 steps: 98 % on average, so that 95 of 100 leaves room for chance."""
    model, y = load_pretrained("mnist"), torch.arange(100) % 10
    guided = clip(cfg(condition(model, y), condition(model, None), 2.0))
    x = model.schedule.prior(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    *_, x0 = dpmpp_2m(guided, model.schedule, x, model.schedule.timesteps(20))
    assert classifier_accuracy(load_pretrained("mnist_classifier"), x0.clamp(-1, 1), y) >= 0.95


def test_weights_that_do_not_ship(tmp_path, monkeypatch):
    monkeypatch.setattr("course_utils.training.WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="do not ship with this version: `python -m course_utils.train mnist`"):
        load_pretrained("mnist")
    (tmp_path / "mnist.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged or is no safetensors file"):
        load_pretrained("mnist")
