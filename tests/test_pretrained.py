"""The models that ship: as large as promised, and as good on pictures that they have not seen or that they draw."""

from hashlib import sha256

import pytest
import torch

from course_utils.data import load_mnist, load_shapes
from course_utils.energy import score_of
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_accuracy
from course_utils.samplers import dpmpp_2m
from course_utils.training import PRETRAINED, PRETRAINED_SHA256, WEIGHTS, load_pretrained

SHIPPED = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def test_the_weights_belong_to_models():
    assert set(SHIPPED) == set(PRETRAINED)


def test_the_sums_are_those_of_the_weights():
    """After new weights: copy the sums from here into course_utils/training.py."""
    sums = {name: sha256((WEIGHTS / f"{name}.safetensors").read_bytes()).hexdigest() for name in SHIPPED}
    assert sums == PRETRAINED_SHA256


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_ready_to_use(name):
    model = load_pretrained(name)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in model.parameters())


def test_what_ships_is_small():
    sizes = {name: (WEIGHTS / f"{name}.safetensors").stat().st_size for name in SHIPPED}
    digits = sum(size for name, size in sizes.items() if name.startswith("mnist"))
    assert digits <= 4e6 and sum(sizes.values()) - digits <= 20e6


@pytest.mark.parametrize("name, load", [("mnist", load_mnist), ("shapes", load_shapes)])
def test_the_classifier_knows_new_pictures(name, load):
    images, labels = load("test", quiet=True)
    assert classifier_accuracy(load_pretrained(f"{name}_classifier"), images, labels) >= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("name, channels, size", [("mnist", 1, 28), ("shapes", 3, 32)])
def test_the_model_draws_what_is_asked_for(name, channels, size):
    """At guidance scale 2, in 20 steps: 98 % of the digits on average, so that 95 of 100 leaves room for chance."""
    model, y = load_pretrained(name), torch.arange(100) % 10
    guided = clip(cfg(condition(model, y), condition(model, None), 2.0))
    x = model.schedule.prior(100, channels, size, size, generator=torch.Generator().manual_seed(0))
    *_, x0 = dpmpp_2m(guided, model.schedule, x, model.schedule.timesteps(20))
    assert classifier_accuracy(load_pretrained(f"{name}_classifier"), x0.clamp(-1, 1), y) >= 0.95


@pytest.mark.slow
def test_the_model_of_photographs_has_learned_more_than_the_best_linear_filter():
    """In shapes' place, whose 32 x 32 pictures it has not seen: it denoises them better than any linear filter can."""
    model, images = load_pretrained("cifar10"), load_shapes("test", n=64, quiet=True)[0]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    centred = load_shapes("train", n=4000, quiet=True)[0].flatten(1).double()
    variances = torch.linalg.eigvalsh(centred.T.cov()).clamp(min=0)
    t = 0.3
    alpha, sigma = (float(c) for c in (model.schedule.alpha(t), model.schedule.sigma(t)))
    with torch.no_grad():
        error = (model(alpha * images + sigma * noise, t) - images).square().mean().item()
    linear = (variances * sigma**2 / (alpha**2 * variances + sigma**2)).mean().item()
    assert error < linear


def test_the_energy_has_learned_more_of_digits_than_the_best_linear_filter():
    """Its score denoises digits that it has not seen with a smaller error than any linear filter's."""
    energy, sigma = load_pretrained("mnist_energy"), 0.5
    new, seen = (load_mnist(split, quiet=True)[0] for split in ("test", "train"))
    x = new + sigma * torch.randn(new.shape, generator=torch.Generator().manual_seed(0))
    error = (x + sigma**2 * score_of(energy)(x) - new).square().mean().item()
    variances = torch.linalg.eigvalsh(seen.flatten(1).double().T.cov()).clamp(min=0)
    assert error < 0.8 * (variances * sigma**2 / (variances + sigma**2)).mean().item()


def test_the_energy_of_what_is_no_digit_is_higher():
    energy, new = load_pretrained("mnist_energy"), load_mnist("test", quiet=True)[0]
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(784, generator=generator)
    strange = [2 * torch.rand(new.shape, generator=generator) - 1, -new, new.flatten(1)[:, order].reshape(new.shape)]
    noise = 0.5 * torch.randn(new.shape, generator=generator)
    with torch.no_grad():
        known = energy(new + noise)
        for x in strange:
            assert (known[:, None] < energy(x + noise)[None]).float().mean() > 0.95


def test_weights_that_do_not_ship(tmp_path, monkeypatch):
    monkeypatch.setattr("course_utils.training.WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="do not ship with this version: `python -m course_utils.train mnist`"):
        load_pretrained("mnist")


def test_damaged_weights(tmp_path, monkeypatch):
    """Flipped in the middle of the numbers, which safetensors itself would read without a word."""
    whole = (WEIGHTS / "shapes.safetensors").read_bytes()
    monkeypatch.setattr("course_utils.training.WEIGHTS", tmp_path)
    half = len(whole) // 2
    flipped = whole[:half] + bytes(255 - byte for byte in whole[half : half + 2000]) + whole[half + 2000 :]
    advice = "install the course again, or in a clone .* `git checkout -- course_utils/weights/shapes.safetensors`"
    for spoilt in (flipped, whole[:-1], b"", (WEIGHTS / "cifar10.safetensors").read_bytes()):
        (tmp_path / "shapes.safetensors").write_bytes(spoilt)
        with pytest.raises(ValueError, match=advice):
            load_pretrained("shapes")
    (tmp_path / "shapes.safetensors").write_bytes(whole)
    load_pretrained("shapes")
