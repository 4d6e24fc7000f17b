"""The benchmark of chapter 5 counts what it calls, goes on where it was, and its spread is what it says."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from course_utils.classifier import SmallClassifier
from course_utils.denoiser import Denoiser
from course_utils.schedules import CosineSchedule

FILE = Path(__file__).parents[1] / "benchmarks" / "cifar10.py"
N = 20
HEAD = {
    "device": "here",
    "n_samples": N,
    "precision": "float32",
    "weights": {"cifar10": "1", "cifar10_classifier": "2"},
}


@pytest.fixture(scope="module")
def cifar10():
    spec = importlib.util.spec_from_file_location("benchmark_cifar10", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Small(nn.Module):
    """A velocity that depends on the picture, the time and the class."""

    def __init__(self):
        super().__init__()
        self.mix, self.tint, self.n_calls = nn.Conv2d(3, 3, 1), nn.Embedding(11, 3), 0

    def forward(self, x, t, y=None):
        self.n_calls += len(x)
        return self.mix(x) * t[:, None, None, None] + self.tint(y % 11)[:, :, None, None]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Denoiser(Small(), CosineSchedule(None), "v").requires_grad_(False)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return SmallClassifier(3, width=2).eval()


def data(split):
    """Pictures whose classes differ in brightness."""
    generator, labels = torch.Generator().manual_seed(len(split)), torch.arange(200) % 10
    noise = torch.randn(200, 3, 32, 32, generator=generator)
    return (0.3 * noise + labels[:, None, None, None] / 5 - 0.9).clamp(-1, 1), labels


class Bar:
    calls = 0

    def update(self, n):
        self.calls += n


def test_every_row_calls_the_network_as_often_as_it_says(cifar10, model, tmp_path):
    for i, (_, row, n) in enumerate(cifar10.plan(4, many=6)):
        model.net.n_calls, bar = 0, Bar()
        x = cifar10.Pictures(model, tmp_path / str(i), batch=3)(n, row, bar)
        assert model.net.n_calls == n * cifar10.calls(row) == pytest.approx(bar.calls)
        assert x.shape == (n, 3, 32, 32) and x.abs().max() <= 1


def test_equal_calls_in_the_sweep_of_steps(cifar10):
    """For every number of calls of DDIM's there is each sampler with as many, Heun's with one less."""
    counts = {}
    for section, row in cifar10.ROWS:
        if section == "steps":
            counts.setdefault(row["sampler"], []).append(cifar10.calls(row))
    assert counts["ddim"] == counts["dpmpp_2m"] == [calls + 1 for calls in counts["heun"]] == [10, 20, 40]


def test_the_pictures_do_not_depend_on_the_batch_nor_on_their_number(cifar10, model, tmp_path):
    for row in (dict(scale=2.0, sampler="dpmpp_2m", steps=3), dict(scale=0.0, sampler="heun", steps=2)):
        whole, parts = (cifar10.Pictures(model, tmp_path, batch)(12, row, Bar()) for batch in (12, 5))
        torch.testing.assert_close(whole, parts, atol=0.01, rtol=0)  # a rounding of 1 / 127.5 may differ
        assert torch.equal(cifar10.Pictures(model, tmp_path / "few", 5)(10, row, Bar()), parts[:10])


def test_each_batch_has_noise_of_its_own_on_the_way(cifar10, model, tmp_path):
    row = dict(scale=1.0, sampler="ddpm", steps=2)
    first, second = cifar10.Pictures(model, tmp_path / "a", 10)(20, row, Bar()).split(10)
    noise = cifar10.batches(model, 20, 10)
    again = cifar10.draw(model, noise[1][0], noise[1][1], **row, seed=1)  # on the first one's way
    assert (second - again).abs().mean() > 0.1
    mine = cifar10.draw(model, *noise[0], **row, seed=1)
    torch.testing.assert_close(mine, first, atol=0.51 / 127.5, rtol=0)  # kept in 8 bits


def test_bfloat16_draws_nearly_the_same(cifar10, model, tmp_path):
    row, kept = dict(scale=1.0, sampler="dpmpp_2m", steps=5), []
    for fast in (False, True):
        kept.append(cifar10.Pictures(model, tmp_path / str(fast), 10, fast)(10, row, Bar()))
    assert 0 < (kept[0] - kept[1]).abs().mean() < 0.03


def test_the_spread_is_a_ratio_of_variances(cifar10, classifier):
    images, labels = data("test")
    judge = cifar10.Judge(classifier, images, labels)
    itself = judge.compare(judge.features, labels)
    assert itself["spread"] == pytest.approx(1) and itself["frechet"] == pytest.approx(0, abs=1e-6)
    assert judge.compare(3 * judge.features, labels)["spread"] == pytest.approx(9, rel=1e-4)
    by_hand = judge.features[labels == 4].double().T.cov().trace()
    assert cifar10.within_classes(judge.features, labels)[4].item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_a_floor_has_all_classes_alike_and_none_twice(cifar10):
    labels = data("train")[1]
    chosen = cifar10.alike(labels, N)
    assert len(set(chosen.tolist())) == N and labels[chosen].bincount().tolist() == [N // 10] * 10


def test_a_killed_run_goes_on_where_it_was(cifar10, model, classifier, tmp_path, monkeypatch, capsys):
    rows = [row for row in cifar10.plan(N) if row[1]["steps"] <= 10] + [("eta", dict(cifar10.ROWS[-2][1], steps=4), N)]
    rows += [("guidance", dict(scale=1.0, sampler="ddim", steps=10), N)]  # also in the steps: drawn once
    rows += [("long", dict(scale=1.0, sampler="ddpm", steps=6), 2 * N)]
    distinct = {cifar10.key(row): count * cifar10.calls(row) for _, row, count in rows}

    def run(name):
        record = cifar10.Record(tmp_path / f"{name}.json", **HEAD)
        cifar10.measure(record, cifar10.Pictures(model, tmp_path / name, N // 2), classifier, data, rows)
        return record.content

    def nearly(content):  # sums may be taken in another order
        if isinstance(content, list):
            return [nearly(part) for part in content]
        if isinstance(content, dict):
            return {name: nearly(part) for name, part in content.items()}
        return pytest.approx(content, rel=1e-3, abs=1e-4) if isinstance(content, float) else content

    whole = run("whole")
    assert len(distinct) < len(rows) and model.net.n_calls == sum(distinct.values())

    drawn, draw = [], cifar10.draw

    def killed(*args, **options):
        if len(drawn) == 7:  # in the middle of a row
            raise KeyboardInterrupt
        drawn.append(N // 2 * cifar10.calls(options))
        return draw(*args, **options)

    monkeypatch.setattr(cifar10, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.setattr(cifar10, "draw", draw)
    model.net.n_calls = 0
    assert run("parts") == nearly(whole)
    assert model.net.n_calls == sum(distinct.values()) - sum(drawn)

    model.net.n_calls = 0
    assert run("parts") == nearly(whole) and model.net.n_calls == 0

    record = cifar10.Record(tmp_path / "parts.json", **HEAD)
    more = [("steps", dict(scale=1.0, sampler="ddim", steps=3), N)]  # a plan without long rows leaves those there are
    cifar10.measure(record, cifar10.Pictures(model, tmp_path / "parts", N // 2), classifier, data, more)
    assert record.content["long"] == whole["long"] and len(record.content["steps"]) == len(whole["steps"]) + 1

    capsys.readouterr()
    cifar10.report(whole | {"timing": cifar10.timing(model, torch.device("cpu"))})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 2 + len(rows) and len({line.count("|") for line in lines}) == 1


def test_other_weights_start_anew(cifar10, tmp_path, capsys):
    path = tmp_path / "figures.json"
    cifar10.Record(path, **HEAD).put("floor", {"frechet": 1.0})
    assert "floor" in cifar10.Record(path, **HEAD).content and not capsys.readouterr().out
    weights = {"cifar10": "3", "cifar10_classifier": "2"}
    for other in (HEAD | {"weights": weights}, HEAD | {"n_samples": 30}, HEAD | {"precision": "bfloat16"}):
        assert "floor" not in cifar10.Record(path, **other).content
        assert "starts anew" in capsys.readouterr().out


def test_a_new_number_of_pictures_keeps_how_the_weights_were_trained(cifar10, tmp_path):
    path, training = tmp_path / "figures.json", {"ours": [{"epoch": 1, "loss": 0.2, "pflop": 0.4}]}
    cifar10.Record(path, **HEAD).put("training", training)
    assert cifar10.Record(path, **HEAD | {"n_samples": 30}).content["training"] == training
    assert "training" not in cifar10.Record(path, **HEAD | {"weights": {}}).content


def test_the_training_table_is_the_log(cifar10, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("epoch,step,loss,validation,pflop,seconds\n1,781,0.2,0.1566,0.39,100\n2,1562,0.15,0.14,0.78,200\n")
    first, second = cifar10.training_table(log)
    assert first == {"epoch": 1, "loss": 0.1566, "pflop": 0.39} and second["epoch"] == 2


def test_the_table_of_a_run_that_began_with_weights(cifar10, tmp_path):
    """What was spent before counts, in epochs too; rows of the run before that came later than the weights do not."""
    log = tmp_path / "log.csv"
    log.write_text("epoch,step,loss,validation,pflop,seconds\n1,781,0.2,0.13,0.4,100\n2,1562,0.15,0.12,0.8,200\n")
    before = [{"epoch": 1, "loss": 0.16, "pflop": 0.4}, {"epoch": 2, "loss": 0.15, "pflop": 0.8}]
    rows = cifar10.training_table(log, spent=0.6, before=before)
    assert rows[0] == before[0] and [row["loss"] for row in rows] == [0.16, 0.13, 0.12]
    assert [row["epoch"] for row in rows] == [1, 2.5, 3.5]
    assert [row["pflop"] for row in rows] == pytest.approx([0.4, 1.0, 1.4])
    assert cifar10.training_table(log, spent=0.6, before=rows) == rows
