"""Real training: a killed run ends where an uninterrupted one does, and so do two processes; the log can be read."""

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from course_utils import runs, tasks, train
from course_utils.baseline import BaselineUNet
from course_utils.classifier import SmallClassifier
from course_utils.data import load_mnist
from course_utils.denoiser import Denoiser
from course_utils.energy import ConvEnergy
from course_utils.metrics import classifier_accuracy
from course_utils.models import Attention, UNet
from course_utils.schedules import T_MIN, CosineSchedule
from course_utils.training import save

N, BATCH, EPOCHS = 64, 16, 4  # pictures, a batch, epochs: 16 steps


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with the files of MNIST, but only a few of its digits."""
    folder = tmp_path_factory.mktemp("digits")
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = (part[:N].numpy() for part in load_mnist(split, as_uint8=True, quiet=True))
        header = np.array([0x803, N, 28, 28], dtype=">i4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([0x801, N], dtype=">i4").tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.astype("u1").tobytes())
    return folder


def small(width=8):
    torch.manual_seed(0)
    return Denoiser(UNet(1, width=width, n_classes=10, patch=2), CosineSchedule(None), "v")


def start(digits, out, **options):
    options = dict(model=small(), epochs=EPOCHS, batch_size=BATCH, lr=1e-3) | options
    return train.start("mnist", out, str(digits), torch.device("cpu"), **options)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.average.module.parameters()])


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A run that nobody stopped."""
    run = start(digits, tmp_path_factory.mktemp("whole"))
    run.train()
    return run


def interrupted(number, function):
    """The function, in whose first call a signal comes before its work is done."""
    pending = [number]

    def wrapper(*args, **kwargs):
        if pending:
            signal.raise_signal(pending.pop())
        return function(*args, **kwargs)

    return wrapper


def same_end(one, other):
    """Weights, averages and table are the same to the last bit."""
    assert torch.equal(weights(one), weights(other))
    for mine, theirs in zip(one.task.model.parameters(), other.task.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    tables = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history] for run in (one, other)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    ("place", "stop_at"),
    [
        (("task", "batch"), 1),
        (("optimizer", "step"), 1),
        (("average", "update_parameters"), 1),
        (("task", "validate"), 5),
        (("bar", "update"), 2),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_a_stopped_run_ends_where_an_uninterrupted_one_does(
    digits, whole, tmp_path, place, stop_at, number, monkeypatch
):
    """Wherever a signal finds it, in a step or after it: that step, or the next, is finished."""
    run = start(digits, tmp_path)
    part = runs.tqdm if place[0] == "bar" else getattr(run, place[0])
    monkeypatch.setattr(part, place[1], interrupted(number, getattr(part, place[1])))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    again = start(digits, tmp_path)
    assert again.step == stop_at
    again.train()
    same_end(again, whole)


@pytest.mark.parametrize("stop_at", [3, 11])
def test_a_run_stopped_twice(digits, whole, tmp_path, stop_at, monkeypatch):
    """In the middle of an epoch: the mean loss of that epoch is over all its steps."""
    for step in (stop_at, stop_at + 2):
        run = start(digits, tmp_path)
        batch = run.task.batch
        monkeypatch.setattr(
            run.task,
            "batch",
            lambda now, i, batch=batch, step=step: (now == step and signal.raise_signal(15)) or batch(now, i),
        )
        with pytest.raises(KeyboardInterrupt):
            run.train()
    again = start(digits, tmp_path)
    assert again.step == stop_at + 3
    again.train()
    same_end(again, whole)


def test_a_second_ctrl_c_stops_at_once(digits, whole, tmp_path, monkeypatch):
    """And spoils nothing: the run goes on from the checkpoint before."""
    run = start(digits, tmp_path)
    update = run.average.update_parameters

    def impatient(model):
        if run.step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        update(model)

    monkeypatch.setattr(run.average, "update_parameters", impatient)
    with pytest.raises(KeyboardInterrupt):
        run.train(save_every=0)
    again = start(digits, tmp_path)
    assert again.step == 2
    again.train()
    same_end(again, whole)


def test_dropout_goes_on_where_it_was(digits, tmp_path):
    """It draws from torch's own generator, which others use too."""

    def new(out):
        torch.manual_seed(0)
        net = UNet(1, width=8, n_classes=10, patch=2, dropout=0.5)
        return start(digits, out, model=Denoiser(net, CosineSchedule(None), "v"), epochs=2)

    straight, broken = new(tmp_path / "straight"), new(tmp_path / "broken")
    straight.train()
    broken.task.batch = interrupted(signal.SIGTERM, broken.task.batch)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    again = new(tmp_path / "broken")
    torch.manual_seed(123)
    again.train()
    same_end(again, straight)
    net, seen = straight.task.net.train(), []
    net.middle[0].block.dropout.register_forward_hook(lambda module, x, out: seen.append((out == 0) & (x[0] != 0)))
    for step in (3, 4, 3):
        straight.step = step
        straight.advance(net)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])  # new in each step


def command(digits, out, *more, processes=1):
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    options = ["--data", digits, "--out", out, "--epochs", EPOCHS, "--batch-size", BATCH, "--device", "cpu", *more]
    return [sys.executable, *launch, "-m", "course_utils.train", "mnist", *map(str, options)]


def final(out):
    return load_file(out / "mnist.safetensors")


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """The command, run to its end in one process."""
    out = tmp_path_factory.mktemp("finished")
    done = subprocess.run(command(digits, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{N} pictures, on cpu" in done.stdout and "The averaged weights are in" in done.stdout
    return out


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_the_same(digits, finished, tmp_path):
    """kill -9 at whatever step it falls: the checkpoint is whole, and the end the same, byte for byte."""
    process = subprocess.Popen(command(digits, tmp_path, "--save-every", 0), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "mnist.safetensors").exists()
    done = subprocess.run(command(digits, tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ", from step" in done.stdout
    assert (tmp_path / "mnist.safetensors").read_bytes() == (finished / "mnist.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_train_the_same_model(digits, finished, tmp_path):
    """Each takes half of the same batch: the mean of their gradients is the batch's, but for rounding."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(digits, tmp_path, processes=2), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The averaged weights are in") == 1  # one of them speaks and writes
    one, two = final(finished), final(tmp_path)
    moved = max((one[name].float() - start.half().float()).abs().max() for name, start in initial().items())
    for name in one:
        assert (one[name].float() - two[name].float()).abs().max() < 0.02 * moved
    rows = [list(csv.DictReader(open(out / "log.csv"))) for out in (finished, tmp_path)]
    for mine, other in zip(*rows, strict=True):
        for name in ("validation", "loss"):  # the loss is that of the whole batch
            assert float(mine[name]) == pytest.approx(float(other[name]), rel=1e-3)


@pytest.mark.slow
def test_two_processes_that_were_stopped_go_on(digits, finished, tmp_path):
    """SIGTERM to torchrun, which passes it on: none waits for the other for ever, and the end is the same."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(digits, tmp_path, "--save-every", 0, processes=2),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and not (tmp_path / "mnist.safetensors").exists()
    assert "Stopped at step" in said and "Connection closed" not in said
    done = subprocess.run(command(digits, tmp_path, processes=2), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert ", from step" in done.stdout
    one, two = final(finished), final(tmp_path)
    moved = max((one[name].float() - start.half().float()).abs().max() for name, start in initial().items())
    for name in one:
        assert (one[name].float() - two[name].float()).abs().max() < 0.02 * moved


def test_a_batch_that_cannot_be_shared_equally(digits, tmp_path, monkeypatch):
    """16 for 3 processes: the mean of their three gradients would not be the batch's."""
    monkeypatch.setattr(runs, "in_group", lambda: True)
    monkeypatch.setattr(runs.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(runs.distributed, "get_rank", lambda: 0)
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 16 pictures equally"):
        start(digits, tmp_path)


def initial():
    torch.manual_seed(0)
    return train.PRETRAINED["mnist"]().state_dict()


def test_tensorboard_reads_the_log(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(whole.out)).Reload()
    assert {"loss", "validation", "lr"} <= set(log.Tags()["scalars"])
    points = log.Scalars("validation")
    assert [p.step for p in points] == [4, 8, 12, 16]
    assert [p.value for p in points] == pytest.approx([row["validation"] for row in whole.history])


def test_the_table_counts_what_was_computed(whole):
    rows = list(csv.DictReader(open(whole.out / "log.csv")))
    assert [int(row["step"]) for row in rows] == [4, 8, 12, 16]
    flop = 3 * runs.forward_flop(small().net, torch.zeros(1, 1, 28, 28), torch.ones(1))
    assert flop == 3 * runs.forward_flop(whole.task.net, torch.zeros(1, 1, 28, 28), torch.ones(1))  # channels last
    assert float(rows[-1]["pflop"]) == pytest.approx(EPOCHS * N * flop / 1e15)


def test_a_batch_larger_than_the_data_is_all_of_them(digits, tmp_path):
    run = start(digits, tmp_path, epochs=2, batch_size=10 * N)
    run.train()
    flop = 3 * runs.forward_flop(run.task.net, torch.zeros(1, 1, 28, 28), torch.ones(1))
    assert run.step == 2 and run.history[-1]["pflop"] == pytest.approx(2 * N * flop / 1e15)


def test_operations_of_a_convolution():
    """3x3, 2 to 3 channels, on 28x28: a multiplication and an addition each."""
    net = torch.nn.Conv2d(1, 3, 3, padding=1)
    assert runs.forward_flop(net, torch.zeros(1, 1, 28, 28)) == 2 * 9 * 1 * 3 * 28 * 28


def test_operations_of_attention_are_counted():
    """Three projections and one behind, C^2 each; n x n products of queries and keys, and as many with the values."""
    n, c = 64, 16
    expected = 2 * (4 * n * c**2 + 2 * n**2 * c)
    assert runs.forward_flop(Attention(c), torch.zeros(1, c, 8, 8)) == expected


def test_every_picture_once_an_epoch_in_a_new_order(whole):
    run = whole
    epochs = [torch.cat([run.index(step) for step in range(4 * e, 4 * e + 4)]) for e in range(3)]
    for order in epochs:
        assert torch.equal(order.sort().values, torch.arange(N))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(run.index(5), epochs[1][BATCH : 2 * BATCH])  # whatever was asked for before


def test_times_are_spread_evenly_and_depend_on_the_step_alone(whole):
    task = whole.task
    t = task.times(7, 256)
    assert torch.equal(task.times(2, 256), task.times(2, 256)) and torch.equal(t, task.times(7, 256))
    assert t.min() >= T_MIN and t.max() <= 1
    bins = torch.histc((t - T_MIN) / (1 - T_MIN), 256, 0, 1)
    assert (bins == 1).all()  # a block of a Sobol sequence: one in each of 256 parts


def test_the_learning_rate_rises_and_falls_to_zero(whole):
    rates = [whole.rate(step) for step in range(whole.steps + 1)]
    assert max(rates) == whole.lr and rates[-1] == 0 and rates[0] > 0
    peak = rates.index(max(rates))
    assert all(b >= a for a, b in zip(rates[:peak], rates[1 : peak + 1], strict=True))
    assert all(b < a for a, b in zip(rates[peak + 1 :], rates[peak + 2 :], strict=False))


def test_labels_are_dropped_and_pictures_stay_with_them(whole):
    """In train batches a fifth of the labels is missing; the others still belong to their pictures."""
    images, labels = whole.task.train
    dropped = 0
    for step in range(40):
        index = whole.index(step)
        x0, y, t, noise = whole.task.batch(step, index)
        torch.testing.assert_close(x0, images[index] / 127.5 - 1)
        assert ((y == labels[index]) | (y == -1)).all()
        assert x0.shape == noise.shape and t.shape == y.shape
        dropped += (y == -1).sum().item()
    n = 40 * BATCH
    assert abs(dropped - 0.2 * n) < 4 * (n * 0.2 * 0.8) ** 0.5


def test_the_validation_loss_by_its_definition(whole):
    """For a network that says 0 it is the mean of v^2: (alpha eps - sigma x0)^2, each time the same."""
    task, asked = whole.task, []

    class Zero(torch.nn.Module):
        def forward(self, x, t, y):
            asked.append((x, t, y))
            return 0 * x

    model, images = Denoiser(Zero(), CosineSchedule(None), "v"), whole.task.test[0]
    first = task.validate(model)["validation"]
    torch.manual_seed(99)
    assert task.validate(model)["validation"] == first
    (x, t, y), x0 = asked[0], images / 127.5 - 1
    alpha, sigma = model.schedule.at(t, x0)
    eps = (x - alpha * x0) / sigma
    assert first == pytest.approx((alpha * eps - sigma * x0).square().mean().item(), rel=1e-3)
    assert (torch.histc((t - T_MIN) / (1 - T_MIN), N, 0, 1) == 1).all()  # Sobol times: one in each of 64 parts
    assert abs(eps[t > 0.1].std().item() - 1) < 0.02
    assert ((y == task.test[1]) | (y == -1)).all() and 3 <= (y == -1).sum() <= 24  # 0.2 of 64, within 3 deviations


def test_what_is_validated_and_kept_is_the_average(digits, tmp_path, monkeypatch):
    run, judged = start(digits, tmp_path, epochs=1), []
    monkeypatch.setattr(run.task, "validate", lambda model: judged.append(model) or {"validation": 0.0})
    assert run.train() is judged[0] is run.average.module


def test_flips_only_where_a_mirrored_picture_is_one(whole):
    assert train.FLIP == {"mnist": False, "shapes": False, "cifar10": True}
    task, images = tasks.Diffusion(small(), whole.task.train, whole.task.test, True, seed=0), whole.task.train[0]
    x, mirrored = images / 127.5 - 1, 0
    for step in range(10):
        x0 = task.batch(step, torch.arange(N))[0]
        same, turned = ((x0 == other).flatten(1).all(1) for other in (x, x.flip(-1)))
        assert (same ^ turned).all()  # each picture by itself, whole
        mirrored += turned.sum().item()
    assert abs(mirrored - 5 * N) < 4 * (10 * N / 4) ** 0.5


def test_a_classifier_learns_to_read(digits, tmp_path):
    """On the few digits that it sees it does far better than by chance."""
    model = SmallClassifier(1, width=8)
    options = dict(epochs=30, batch_size=16, lr=4e-3, ema_decay=0.9)
    run = train.start("mnist_classifier", tmp_path, str(digits), torch.device("cpu"), model, **options)
    run.train()
    images, labels = run.task.train
    x = images / 127.5 - 1
    assert classifier_accuracy(run.average.module, x, labels) > 0.8
    assert 0 <= run.history[-1]["accuracy"] <= 1


def energy_run(digits, out, epochs=2, width=4, lr=4e-3):
    torch.manual_seed(0)
    model = ConvEnergy(1, 28, width)
    options = dict(epochs=epochs, batch_size=16, lr=lr, ema_decay=0.9)
    return train.start("mnist_energy", out, str(digits), torch.device("cpu"), model, **options)


def test_an_energy_goes_on_with_its_chains(digits, tmp_path):
    straight, broken = energy_run(digits, tmp_path / "straight"), energy_run(digits, tmp_path / "broken")
    first = straight.task.memory["chains"].clone()
    straight.train()
    broken.task.batch = interrupted(signal.SIGTERM, broken.task.batch)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    again = energy_run(digits, tmp_path / "broken")
    again.train()
    same_end(again, straight)
    assert torch.equal(again.task.memory["chains"], straight.task.memory["chains"])
    assert not torch.equal(straight.task.memory["chains"], first)


def test_an_energy_learns_to_denoise(digits, tmp_path):
    """Better than the Gaussian that it begins as."""
    run = energy_run(digits, tmp_path, epochs=20, width=8, lr=1e-2)
    gaussian = run.task.validate(run.task.model)["validation"]
    run.train()
    assert run.history[-1]["validation"] < 0.5 * gaussian


def test_an_energys_chains_live_in_one_process(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "in_group", lambda: True)
    with pytest.raises(ValueError, match="start it without torchrun"):
        energy_run(digits, tmp_path)


def test_other_settings_are_another_run(digits, whole):
    with pytest.raises(ValueError, match=r"was started with lr = 0.001, not 0.002: go on with that, or .* --out"):
        start(digits, whole.out, lr=2e-3)


def test_another_network_or_other_data_is_another_run(digits, whole):
    with pytest.raises(ValueError, match=r"was started with parameters = \d+, not \d+: .* --out"):
        start(digits, whole.out, model=small(width=12))
    with pytest.raises(ValueError, match=r"was started with pictures = 64, not 4500: .* --out"):
        start("embedded", whole.out)
    with pytest.raises(ValueError, match=r"was started with epochs = 4, not 5: .* --out"):
        start(digits, whole.out, epochs=5)


def test_a_checkpoint_that_does_not_fit_the_network_is_named(digits, whole, tmp_path):
    state = torch.load(whole.checkpoint, weights_only=True)
    state["model"] = {f"other.{name}": value for name, value in state["model"].items()}
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="checkpoint.pt cannot be read .*: delete it to start again"):
        start(digits, tmp_path)


def test_a_full_disk_is_named_and_spoils_nothing(digits, tmp_path):
    """No file may grow beyond 30 kB, as if there were no room: the checkpoint before stays as it was."""
    resource = pytest.importorskip("resource")
    run = start(digits, tmp_path, epochs=1)
    run.save_checkpoint()
    before, limits = run.checkpoint.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(OSError, match="checkpoint.pt cannot be written: is there room in"):
            run.save_checkpoint()
        with pytest.raises(OSError, match="mnist.safetensors cannot be written: is there room in"):
            save(run.task.model, tmp_path / "mnist.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.checkpoint.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_baseline_trains_as_it_did():
    """21 epochs in batches of 100 at 2e-4, averaged with 0.999; what is given on the command line counts."""
    chosen = train.parse(["cifar10", "--baseline"])
    assert (chosen.epochs, chosen.batch_size, chosen.lr, chosen.ema_decay) == (21, 100, 2e-4, 0.999)
    assert train.parse(["cifar10", "--baseline", "--epochs", "2"]).epochs == 2
    assert train.parse(["cifar10"]).lr == 1e-3


def test_the_baseline_trains_with_the_same_command(tmp_path, monkeypatch):
    """With the same seed from the same weights; here narrower, on a few pictures."""
    monkeypatch.setattr("course_utils.baseline.BaselineUNet", partial(BaselineUNet, width=32))
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "few.npz", x_train=images, y_train=np.arange(8), x_test=images, y_test=np.arange(8))
    first = train.baseline(3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), train.baseline(3).parameters(), strict=True))
    options = ["--epochs", "1", "--batch-size", "4", "--device", "cpu", "--out", str(tmp_path), "--seed", "3"]
    train.main(["cifar10", "--baseline", "--data", str(tmp_path / "few.npz"), *options])
    trained = load_file(tmp_path / "cifar10.safetensors")
    names = {name.removeprefix("net."): value.float() for name, value in trained.items()}
    start_of = dict(first.net.named_parameters())
    assert set(names) == set(start_of)
    assert 0 < max((names[name] - start_of[name]).abs().max() for name in names) < 0.05


def test_a_run_may_begin_with_weights(digits, tmp_path, whole):
    """A new run begins with them, averaged weights included; one that has come further goes on from there."""
    given = tmp_path / "given.safetensors"
    save(whole.average.module, given)
    run = start(digits, tmp_path / "run", model=small(), init=given)
    assert torch.equal(weights(run), weights(whole))
    pairs = zip(run.task.model.parameters(), whole.average.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    run.train()
    again = start(digits, tmp_path / "run", init=given)
    assert again.step == run.step and torch.equal(weights(again), weights(run))
    with pytest.raises(ValueError, match="belong to another model"):
        start(digits, tmp_path / "other", model=small(width=16), init=given)


def test_a_damaged_checkpoint_is_named(digits, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="checkpoint.pt cannot be read .*: delete it to start again"):
        start(digits, tmp_path)


def test_a_diverging_run_says_so(digits, tmp_path):
    with pytest.raises(FloatingPointError, match="start with a lower --lr"):
        start(digits, tmp_path, lr=1e30).train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist", "--lr", "-1"], "--lr must be above 0"),
        (["mnist", "--baseline"], "--baseline goes with cifar10"),
        (["cifar10", "--baseline", "--init", "shipped"], "of the baseline no weights ship"),
        (["mnist", "--ema-decay", "1"], "--ema-decay must be below 1"),
        (["shapes", "--data", "somewhere"], "--data goes with mnist and cifar10"),
        (["shapes_classifier", "--data", "somewhere"], "--data goes with mnist and cifar10"),
        (["faces"], "invalid choice: 'faces'"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        train.parse(arguments)
    assert message in capsys.readouterr().err


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(SystemExit, match="(?s)Error: .*nowhere"):
        train.main(["mnist", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path)])


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(name, tmp_path):
    with pytest.raises(SystemExit, match=f"ValueError: there is no device '{name}' here .*without --device"):
        train.main(["mnist", "--data", "embedded", "--device", name, "--out", str(tmp_path)])
