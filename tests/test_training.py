"""Training: averages against a recursion by hand, epochs that miss nobody, a loss with a known minimum, files."""

import math

import pytest
import torch
from torch import nn

from course_utils import training
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.mixtures import GaussianMixture
from course_utils.models import MLP
from course_utils.schedules import LinearSchedule
from course_utils.training import batches, drop_labels, fit, load, load_pretrained, save


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def take(n, iterator):
    return [next(iterator) for _ in range(n)]


# ---- batches


@pytest.mark.parametrize(("n", "size"), [(12, 4), (12, 12), (12, 1), (7, 7)])
def test_an_epoch_has_everybody_once(n, size):
    stream = batches(torch.arange(n), size, seeded())
    epochs = [torch.cat([b for (b,) in take(n // size, stream)]) for _ in range(5)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(n))
    assert size == 1 or n == 1 or any(not torch.equal(epochs[0], e) for e in epochs[1:])


def test_a_rest_that_fills_no_batch_waits_for_another_epoch():
    stream = batches(torch.arange(10), 4, seeded())
    seen = set()
    for _ in range(20):
        epoch = torch.cat([b for (b,) in take(2, stream)])
        assert epoch.unique().numel() == 8
        seen |= set(epoch.tolist())
    assert seen == set(range(10))  # never the same two left out for good


def test_small_data_and_labels():
    x, y = torch.randn(3, 2), torch.arange(3)
    bx, by = next(batches((x, y), 256))
    assert bx.shape == (3, 2)
    assert torch.equal(bx, x[by])  # points keep their labels
    assert [b.tolist() for (b,) in take(4, batches(y, 2, seeded(1)))] == [
        b.tolist() for (b,) in take(4, batches(y, 2, seeded(1)))
    ]


def test_batches_of_nothing():
    for data in (torch.zeros(0, 2), (torch.zeros(3, 2), torch.zeros(4))):
        with pytest.raises(ValueError, match="at least one sample, and as many of each kind"):
            next(batches(data, 4))
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size = {size}"):
            next(batches(torch.zeros(3, 2), size))


# ---- the average


class Spied(nn.Module):
    """One weight, a buffer that follows it, and a counter: the loss sees the state before every step."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
        self.register_buffer("trace", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))
        self.states = []

    def record(self):
        self.states.append((self.w.detach().clone(), self.trace.clone()))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_the_recursion_by_hand(decay):
    """m starts at the first trained w; then m <- d m + (1 - d) w with d = min(decay, (1 + n) / (10 + n))."""
    model, n_steps = Spied(), 40

    def loss_fn(model, x):
        model.record()
        model.trace.add_(model.w.detach())
        model.count.add_(1)
        return ((model.w - x) ** 2).sum()

    average, losses = fit(
        model, loss_fn, iter(torch.randn(n_steps, 1, 2)), n_steps, lr=0.1, ema_decay=decay, progress=False
    )
    model.record()
    after_each_step = model.states[1:]  # what the loss saw next
    assert len(losses) == len(after_each_step) == n_steps
    for i, name in enumerate(("w", "trace")):
        mean = after_each_step[0][i]
        for n, state in enumerate(after_each_step[1:], 1):
            d = min(decay, (1 + n) / (10 + n))
            mean = d * mean + (1 - d) * state[i]
        torch.testing.assert_close(getattr(average, name), mean, rtol=1e-12, atol=1e-12)
    assert average.count == n_steps  # a counter is copied, not averaged


def test_batch_norms_statistics_are_averaged():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average, _ = fit(model, lambda m, x: m(x).square().mean(), batches(torch.randn(64, 2) + 5, 16), 30, progress=False)
    assert average[1].num_batches_tracked == 30
    assert average[1].running_mean.abs().max() > 0
    assert not torch.equal(average[1].running_mean, model[1].running_mean)


# ---- fit

S, SCHEDULE = 0.5, LinearSchedule()
GAUSSIAN = GaussianMixture([[0.3, -0.2]], S)


def least_loss():
    """The mean over k = 1..T of Var(eps | x_k) = ab s^2 / (ab s^2 + 1 - ab): no network can do better on N(m, s^2)."""
    ab = SCHEDULE.alpha_bar[1:]
    return (ab * S**2 / (ab * S**2 + 1 - ab)).mean().item()


def test_training_reaches_the_known_minimum():
    torch.manual_seed(0)
    denoiser = Denoiser(MLP(width=64), SCHEDULE)
    x0 = GAUSSIAN.sample(20_000, seeded())
    before = diffusion_loss(denoiser, x0).item()
    average, losses = fit(denoiser, diffusion_loss, batches(x0, 512), 400, progress=False)
    assert len(losses) == 400 and before > 0.9
    t, noise = SCHEDULE.sample_t(50_000, antithetic=True), torch.randn(50_000, 2)
    fresh = GAUSSIAN.sample(50_000, seeded(1))
    loss = diffusion_loss(average, fresh, t=t, noise=noise).item()
    assert loss == pytest.approx(least_loss(), rel=0.03)
    x = SCHEDULE.add_noise(fresh, t, noise)
    error = (average(x, t) - GAUSSIAN.denoiser(SCHEDULE)(x, t))[t < 0.5]  # where x_t still tells of x0
    assert error.square().mean().sqrt() < 0.1 * S


def test_what_fit_hands_back():
    for was_training in (True, False):
        model = MLP(width=8).train(was_training)
        weights = [p.clone() for p in model.parameters()]
        average, losses = fit(
            model, lambda m, x: m(x, x[:, 0]).square().mean(), batches(torch.rand(8, 2), 4), 3, progress=False
        )
        assert not average.training and not any(p.requires_grad for p in average.parameters())
        assert model.training == was_training and all(p.requires_grad for p in model.parameters())
        assert any(not torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
        assert all(isinstance(loss, float) for loss in losses)
        average.load_state_dict(model.state_dict())  # the same names as the model's


def test_the_model_trains_in_train_mode():
    modes = []
    model = nn.Linear(1, 1).eval()
    fit(model, lambda m, x: modes.append(m.training) or m(x).sum(), batches(torch.ones(2, 1), 2), 2, progress=False)
    assert modes == [True, True] and not model.training


def test_learning_rate_rises_then_falls_to_zero():
    """Adam moves a weight whose gradient is constant by the learning rate: the moves show the plan."""
    model = nn.Linear(1, 1, bias=False).double()
    seen = []

    def loss_fn(m, x):
        seen.append(m.weight.item())
        return (m.weight * x).sum()

    n, lr = 200, 0.01
    fit(model, loss_fn, batches(torch.ones(1, 1).double(), 1), n, lr=lr, warmup=0.1, progress=False)
    moves = -torch.tensor([*seen, model.weight.item()]).diff() / lr
    expected = [min(1, (k + 1) / (0.1 * n + 1)) * (1 + math.cos(math.pi * k / n)) / 2 for k in range(n)]
    torch.testing.assert_close(moves, torch.tensor(expected), rtol=0, atol=1e-3)


def test_a_gradient_longer_than_1_is_shortened():
    model = nn.Linear(2, 1, bias=False)
    fit(model, lambda m, x: 1e3 * m(x).sum(), batches(torch.tensor([[3.0, 4.0]]), 1), 1, progress=False)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, 0.8]]), rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_no_number_stops_at_once():
    calls = []

    def loss_fn(model, x):
        calls.append(1)
        return model(x).sum() * (float("nan") if len(calls) == 3 else 1)

    model = nn.Linear(1, 1).eval()
    with pytest.raises(FloatingPointError, match="nan at step 3: check the data for NaN, or lower lr"):
        fit(model, loss_fn, batches(torch.ones(4, 1), 2), 10, progress=False)
    assert len(calls) == 3 and not model.training


def test_bad_input_is_named():
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"n_steps = {n}"):
            fit(nn.Linear(1, 1), lambda m, x: m(x).sum(), batches(torch.ones(2, 1), 2), n)
    few = [torch.ones(2, 1)] * 3
    with pytest.raises(ValueError, match="ended after 3 batches, but n_steps = 5"):
        fit(nn.Linear(1, 1), lambda m, x: m(x).sum(), few, 5, progress=False)
    with pytest.raises(TypeError, match=r"data is a tensor.*give batches\(data, size\)"):
        fit(nn.Linear(1, 1), lambda m, x: m(x).sum(), torch.ones(2, 1), 2, progress=False)


@pytest.mark.parametrize(
    ("loss_fn", "named"),
    [
        (lambda m, x: m(x), r"a tensor of shape \(2, 1\);"),
        (lambda m, x: None, "None;"),
        (lambda m, x: m(x).sum().item(), r"-?[\d.]+;"),
        (lambda m, x: m(x).sum().detach(), r"a tensor of shape \(\) without a gradient;"),
    ],
    ids=["a vector", "nothing", "a float", "no gradient"],
)
def test_what_is_no_loss_is_named(loss_fn, named):
    model = nn.Linear(1, 1).eval()
    with pytest.raises(TypeError, match=f"loss_fn returned {named} training needs one number as a tensor"):
        fit(model, loss_fn, batches(torch.ones(2, 1), 2), 2, progress=False)
    assert not model.training


# ---- files


def test_round_trip(tmp_path):
    one, other = MLP(width=8, n_classes=2), MLP(width=8, n_classes=2)
    save(one, tmp_path / "mlp.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["mlp.safetensors"]
    assert load(other, str(tmp_path / "mlp.safetensors")) is other
    x, t = torch.randn(3, 2), torch.rand(3)
    assert torch.equal(one(x, t), other(x, t))


def test_damaged_foreign_and_missing_files(tmp_path):
    path = tmp_path / "mlp.safetensors"
    save(MLP(width=8), path)
    with pytest.raises(ValueError, match="belong to another model: size mismatch for .*"):
        load(MLP(width=16), path)
    with pytest.raises(ValueError, match='another model: Missing key.s. in state_dict: "weight" and 1 more$'):
        load(nn.Linear(2, 2), path)
    whole = path.read_bytes()
    for damaged in (whole[:-10], b"", b"hello"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged or is no safetensors file .*; delete it and save again"):
            load(MLP(width=8), path)
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere.safetensors: train the model"):
        load(MLP(width=8), tmp_path / "nowhere.safetensors")
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder: give the name of a file in it"):
        load(MLP(width=8), tmp_path)


def test_folders(tmp_path):
    path = tmp_path / "models" / "toys" / "mlp.safetensors"
    save(MLP(width=8), path)
    assert path.is_file()
    with pytest.raises(IsADirectoryError, match="toys is a folder: give the name of a file in it"):
        save(MLP(width=8), path.parent)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "mlp.safetensors"
    old = MLP(width=8)
    save(old, path)

    def pulled_plug(tensors, part):
        part.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", pulled_plug)
    with pytest.raises(KeyboardInterrupt):
        save(MLP(width=8), path)
    x, t = torch.randn(3, 2), torch.rand(3)
    assert torch.equal(load(MLP(width=8), path)(x, t), old(x, t))


def test_warm_up_of_the_average():
    assert training.warmed_up(0.999, 1) == 2 / 11
    assert training.warmed_up(0.999, 1e6) == 0.999


def test_labels_are_dropped_one_by_one():
    """Each with probability p on its own: the counts' mean and variance are the binomial's, in every class alike."""
    y, p = torch.arange(10).repeat(100), 0.2
    generator = torch.Generator().manual_seed(0)
    dropped = torch.stack([drop_labels(y, p, generator) for _ in range(300)])
    assert ((dropped == y) | (dropped == -1)).all()
    counts = (dropped == -1).sum(1).double()
    assert counts.mean().item() == pytest.approx(1000 * p, abs=4 * math.sqrt(1000 * p * (1 - p) / 300))
    assert counts.var().item() == pytest.approx(1000 * p * (1 - p), rel=4 * math.sqrt(2 / 300))
    for k in range(10):
        assert (dropped[:, y == k] == -1).double().mean().item() == pytest.approx(p, abs=4 * 0.4 / math.sqrt(30_000))


def test_no_label_or_all_labels_dropped():
    y = torch.tensor([0, 3, 9])
    assert torch.equal(drop_labels(y, 0.0), y) and (drop_labels(y, 1.0) == -1).all()
    assert torch.equal(y, torch.tensor([0, 3, 9]))
    for p in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="a probability lies in"):
            drop_labels(y, p)


def test_half_precision_halves_the_file_and_little_else(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3))
    save(net, tmp_path / "full.safetensors")
    save(net, tmp_path / "half.safetensors", dtype=torch.float16)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.52 * sizes[0]
    again = load(
        nn.Sequential(nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3)), tmp_path / "half.safetensors"
    )
    for mine, other in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(other, mine, rtol=2**-10, atol=1e-6)


def test_pretrained_names():
    with pytest.raises(ValueError, match="there is no pretrained model 'minst'; there are mnist, mnist_classifier"):
        load_pretrained("minst")
