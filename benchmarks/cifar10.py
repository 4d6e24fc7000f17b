"""What guidance, the sampler, its steps and eta do to the pictures of the CIFAR-10 model: the figures of chapter 5.

Judge is the classifier that ships beside the model. A row is so many pictures, all classes alike, from the same noise:
its Frechet distance in the classifier's features (which is not FID) to the 10,000 test pictures; its agreement, the
share that the classifier takes for the class asked for; and its spread, the trace of the features' covariance within a
class over that of the test pictures of the class, the mean over the classes. The floor is as many real pictures: of the
training set, which the judge has learnt by heart in part; and of the test set, against the rest of it. A distance from
few pictures is too large: compare rows of one file only.

--long asks whether 20 steps do what 500 ancestral ones do: two rows with a number of pictures of their own, as large
as is usual for such a distance.

Each batch of pictures is kept in --pictures as soon as it is drawn, each row in the file as soon as it is measured, and
the same command goes on where it was. Other weights, another number of pictures or another precision start it anew.

    python benchmarks/cifar10.py --data cifar10.npz --log runs/cifar10/log.csv
    python benchmarks/cifar10.py --data cifar10.npz --log runs/cifar10/log.csv --spent 1.53    # of a run with --init
    python benchmarks/cifar10.py --data cifar10.npz --bfloat16 --n 1000 --long 5000

A picture costs the shipped network 0.8 GFLOP a call and a row at 20 guided steps 40 calls: for 500 pictures some three
minutes on one core, all rows together half an hour, and --long, with 5,000, seven hours. With --bfloat16 a processor
that has instructions for it takes half of that.
"""

import argparse
import csv
import hashlib
import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from course_utils.data import load_cifar10
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_accuracy, classifier_features, frechet_distance
from course_utils.samplers import ddim, ddpm, dpmpp_2m, heun
from course_utils.train import best_device
from course_utils.training import PRETRAINED, WEIGHTS, load

NAMES = ("cifar10", "cifar10_classifier")
OUT = Path(__file__).parents[1] / "course_utils" / "measured" / "cifar10.json"  # ships with the course
SECTIONS = ("guidance", "steps", "eta", "long")
SAMPLERS = {sampler.__name__: sampler for sampler in (ddim, ddpm, dpmpp_2m, heun)}
RANDOM = (ddim, ddpm)  # take a generator

# In the order of their importance: the section of the file, and what is drawn. Heun calls the network twice a step but
# for the last, so that 2 n - 1 calls are n steps.
FEW = [("ddim", 10), ("ddim", 20), ("ddim", 40), ("dpmpp_2m", 10), ("dpmpp_2m", 20), ("dpmpp_2m", 40)]
FEW += [("heun", 5), ("heun", 10), ("heun", 20)]
ROWS = [("guidance", dict(scale=s, sampler="dpmpp_2m", steps=20)) for s in (1.0, 2.0, 3.0, 0.0, 1.5, 5.0)]
ROWS += [("steps", dict(scale=1.0, sampler=sampler, steps=steps)) for sampler, steps in FEW]
ROWS += [("eta", dict(scale=1.0, sampler="ddim", steps=20, eta=eta)) for eta in (0.0, 0.5, 1.0)]
LONG = [("long", dict(scale=1.0, sampler=sampler, steps=steps)) for sampler, steps in (("dpmpp_2m", 20), ("ddpm", 500))]


def key(row):
    """What tells a row from another one; without an eta DDIM's is 0."""
    return row["sampler"], row["steps"], row["scale"], row.get("eta", 0.0)


def calls(row):
    """How often the network is called for one picture: twice a guess where it is guided."""
    guesses = 2 * row["steps"] - 1 if row["sampler"] == "heun" else row["steps"]
    return guesses * (1 if row["scale"] in (0, 1) else 2)


def guided(model, y, scale):
    """The denoiser of the classes y (B,) at a guidance scale, with no call that is not needed."""
    if scale in (0, 1):
        return condition(model, y if scale else None)
    return cfg(condition(model, y), condition(model, None), scale)


def draw(model, noise, labels, scale, sampler, steps, eta=None, seed=1, done=lambda share: None):
    """Pictures of the classes asked for, (B, 3, 32, 32) in [-1, 1] on the CPU, from `noise` of the same shape.

    done(share) hears after each step how much of the way it was.
    """
    device, schedule, solve = next(model.parameters()).device, model.schedule, SAMPLERS[sampler]
    options = {"generator": torch.Generator().manual_seed(seed)} if solve in RANDOM else {}
    options |= {} if eta is None else {"eta": eta}
    x, denoise = noise.to(device, memory_format=torch.channels_last), clip(guided(model, labels.to(device), scale))
    for x in solve(denoise, schedule, x, schedule.timesteps(steps), **options):  # noqa: B007, B020 - the last is wanted
        done(1 / steps)
    return x.clamp(-1, 1).cpu()


def batches(model, n, batch):
    """Noise and labels, all classes alike and the same ones for every row: [((B, 3, 32, 32), (B,)), ...]."""
    noise = model.schedule.prior(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return list(zip(noise.split(batch), (torch.arange(n) % 10).split(batch), strict=True))


class Pictures:
    """Draws the pictures of a row, and keeps each batch of them in a folder: 8 bits a value, as real ones are stored.

    The network runs in bfloat16 and compiled where `fast`.
    """

    def __init__(self, model, folder, batch, fast=False):
        self.model, self.folder, self.batch, self.fast = model, folder, batch, fast
        if fast:
            model.net = torch.compile(model.net)

    def __call__(self, n, row, bar):
        """(n, 3, 32, 32) in [-1, 1]; the bar counts how often the network was called for a picture."""
        name, parts = "-".join(str(value) for value in key(row)), []
        for i, (noise, labels) in enumerate(batches(self.model, n, self.batch)):
            file, cost = self.folder / f"{name}-{self.batch}x{i}.npy", len(labels) * calls(row)
            if file.exists():
                bar.update(cost)
            else:
                self._keep(file, noise, labels, row, i + 1, lambda share, cost=cost: bar.update(share * cost))
            parts.append(torch.from_numpy(np.load(file)))
        return torch.cat(parts) / 127.5 - 1

    def _keep(self, file, noise, labels, row, seed, done):
        file.parent.mkdir(parents=True, exist_ok=True)
        with torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16, enabled=self.fast):
            pictures = draw(self.model, noise, labels, **row, seed=seed, done=done)
        part = file.with_suffix(".part")
        with open(part, "wb") as out:
            np.save(out, ((pictures + 1) * 127.5).round().to(torch.uint8).numpy())
        part.replace(file)  # a kill in the middle leaves nothing that looks whole


def within_classes(features, labels):
    """The trace of the covariance of the features (N, F) within each of the ten classes: (10,)."""
    return torch.stack([features[labels == k].double().var(0).sum() for k in range(10)])


class Judge:
    """What the classifier says of pictures, beside the real ones `images`, `labels`."""

    def __init__(self, classifier, images, labels):
        self.classifier, self.labels = classifier, labels
        self.features = classifier_features(classifier, images)  # (N, F)

    def measure(self, images, labels):
        """Frechet distance, agreement in [0, 1] and spread of pictures of the classes that were asked for."""
        return self.compare(classifier_features(self.classifier, images), labels) | {
            "agreement": classifier_accuracy(self.classifier, images, labels)
        }

    def compare(self, features, labels, rest=slice(None)):
        """Frechet distance and spread of features, beside those of the real pictures, or of `rest` of them."""
        real = within_classes(self.features[rest], self.labels[rest])
        return {
            "frechet": frechet_distance(features, self.features[rest]),
            "spread": (within_classes(features, labels) / real).mean().item(),
        }

    def held_back(self, n):
        """So many of the real pictures beside the rest of them."""
        chosen = alike(self.labels, n)
        rest = torch.ones(len(self.labels), dtype=torch.bool).index_fill(0, chosen, False)
        return self.compare(self.features[chosen], self.labels[chosen], rest)


def alike(labels, n):
    """The indices of n pictures, chosen at random and as many of each class: (n,)."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.cat([order[labels[order] == k][: n // 10] for k in range(10)])


class Record:
    """The file that the figures are kept in: read where it is of the same weights and number of pictures."""

    def __init__(self, path, **head):
        self.path, self.content = Path(path), head
        if self.path.exists():
            content = json.loads(self.path.read_text("utf-8"))
            if all(content.get(name) == head[name] for name in ("weights", "n_samples", "precision")):
                self.content = content | {"device": head["device"]}
            else:
                print(f"{path} is of other weights, another number of pictures or another precision: it starts anew")
                if content.get("weights") == head["weights"] and "training" in content:
                    self.content = head | {"training": content["training"]}  # is as true as before

    def put(self, section, value):
        self.content[section] = value
        part = self.path.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")
        part.replace(self.path)  # a kill in the middle leaves the file before

    def rows(self):
        """What was measured, by key and number of pictures; the same row may stand in two sections."""
        return {(key(row), row["pictures"]): row for section in SECTIONS for row in self.content.get(section, [])}

    def add(self, section, row):
        """A row into its place, which is by sampler, steps, scale and eta, not by the time it was measured."""
        self.put(section, sorted([*self.content.get(section, []), row], key=key))


def timing(model, device):
    """Seconds and memory for 16 guided pictures at 20 steps, before this process has loaded any data.

    Where other programs share the processor, its own seconds (of all threads) say more than the clock's.
    """
    ((noise, labels),) = batches(model, 16, 16)
    draw(model, noise[:2], labels[:2], 2.0, "dpmpp_2m", 1)  # what only the first call costs
    started, processor = time.perf_counter(), time.process_time()
    draw(model, noise, labels, 2.0, "dpmpp_2m", 20)
    return {"pictures": 16, "steps": 20, "scale": 2.0, "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - processor,
            "peak_gb": peak_memory(device) / 1e9, "threads": torch.get_num_threads()}  # fmt: skip


def peak_memory(device):
    """Bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # where there is none, as on Windows, only this row is lost

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [s.partition(":")[2].strip() for s in info.read_text().splitlines() if s.startswith("model name")] if (
        info.exists()
    ) else []  # fmt: skip
    threads = torch.get_num_threads()
    return f"{device.type.upper()}{f' ({names[0]})' if names else ''}, {threads} thread{'s' * (threads > 1)}"


def training_table(path, spent=0.0, before=()):
    """A run's log.csv as [{"epoch", "loss", "pflop"}]: the loss is the validation loss.

    A run that began with weights (--init) goes on from the `spent` PFLOP of the runs `before`, rows of the same kind.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = spent * int(rows[0]["epoch"]) / float(rows[0]["pflop"])
    return [row for row in before if row["pflop"] <= spent] + [
        {
            "epoch": round(epochs + int(r["epoch"]), 1),
            "loss": float(r["validation"]),
            "pflop": spent + float(r["pflop"]),
        }
        for r in rows
    ]


def plan(n, many=None):
    """What is to be drawn: the section of the file, the row and how many pictures, n or in the last rows `many`."""
    return [(section, row, n) for section, row in ROWS] + [(section, row, many) for section, row in LONG if many]


def measure(record, pictures, classifier, load_data, rows):
    """Fill the record with what it lacks: the floors and the rows of a plan.

    pictures(n, row, bar) draws them, load_data(split) gives real ones and their labels.
    """
    n = record.content["n_samples"]
    done = {(section, key(row), row["pictures"]) for section in SECTIONS for row in record.content.get(section, [])}
    todo = [(section, row, count) for section, row, count in rows if (section, key(row), count) not in done]
    if not todo and {"floor", "floor_test"} <= record.content.keys():
        return
    judge = Judge(classifier, *load_data("test"))
    if "floor" not in record.content:
        images, real = load_data("train")
        chosen = alike(real, n)
        record.put("floor", judge.measure(images[chosen], real[chosen]))
    if "floor_test" not in record.content:
        record.put("floor_test", judge.held_back(n))
    if counts := {count for section, _, count in rows if section == "long"}:  # without, the rows that are there stay
        record.put("long", [row for row in record.content.get("long", []) if row["pictures"] in counts])
    costs = {(key(row), count): count * calls(row) for _, row, count in todo}
    total = sum(cost for drawn, cost in costs.items() if drawn not in record.rows())
    with tqdm(total=total, unit="call", unit_scale=True, mininterval=1) as bar:
        for section, row, count in todo:
            bar.set_description(f"{section} " + " ".join(str(value) for value in row.values()))
            known = record.rows().get((key(row), count))
            if not known:
                measured = judge.measure(pictures(count, row, bar), torch.arange(count) % 10)
                known = {"calls": calls(row), "pictures": count} | measured
            record.add(section, row | {name: v for name, v in known.items() if name != "eta"})


def report(content):
    """The file as tables."""
    print(f"\nOn {content['device']}, in {content['precision']}\n")
    print("| | sampler | steps | scale | eta | calls | pictures | Frechet distance | agreement, % | spread |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = [(name, [content[name]]) for name in ("floor", "floor_test") if name in content]
    rows += [(name, content[name]) for name in SECTIONS if name in content]
    for section, row in ((section, row) for section, part in rows for row in part):
        agreement = f"{100 * row['agreement']:.1f}" if "agreement" in row else ""
        said = [row.get(name, "") for name in ("sampler", "steps", "scale", "eta", "calls", "pictures")]
        cells = [section, *said, f"{row['frechet']:.2f}", agreement, f"{row['spread']:.2f}"]
        print("|", " | ".join(str(cell) for cell in cells), "|")
    if "timing" in content:
        said = "16 guided pictures at 20 steps: {seconds:.1f} s, {cpu_seconds:.1f} s of processors, {peak_gb:.2f} GB"
        print("\n" + said.format(**content["timing"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="download", help="CIFAR-10: download, or a file or folder (load_cifar10)")
    parser.add_argument("--n", type=int, help="pictures a row (5,000 on a GPU, 500 on a CPU)")
    parser.add_argument("--batch", type=int, help="pictures drawn at once (500 on a GPU, 50 on a CPU)")
    parser.add_argument("--device", help="cuda, mps or cpu (the best there is)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder with the weights (those that ship)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--log", type=Path, help="log.csv of the model's training run, for the table of its epochs")
    parser.add_argument("--spent", type=float, default=0.0, metavar="PFLOP", help="by the runs before that of --log")
    parser.add_argument("--baseline-log", type=Path, help="the same of the network that chapter 5 grew from")
    parser.add_argument("--long", type=int, metavar="PICTURES", help="also 20 steps against 500 ancestral ones")
    parser.add_argument("--bfloat16", action="store_true", help="the network in bfloat16, and compiled")
    parser.add_argument("--pictures", type=Path, default=Path("runs/cifar10/pictures"), help="where they are kept")
    chosen = parser.parse_args()
    try:
        device = best_device(chosen.device)
        small = device.type == "cpu"
        n, batch = chosen.n or (500 if small else 5000), chosen.batch or (50 if small else 500)
        for option, count in (("--n", n), ("--long", chosen.long)):
            if count is not None and (count % batch or count % 10 or not 20 <= count <= 5000):
                wanted = "tens, at least 20 and at most 5,000, so that every class has its share"
                parser.error(f"{option} {count}: give {wanted}, and whole batches of {batch}")
        files = {name: chosen.weights / f"{name}.safetensors" for name in NAMES}
        model, classifier = (
            load(PRETRAINED[name](), files[name]).eval().requires_grad_(False).to(device) for name in NAMES
        )
        model.to(memory_format=torch.channels_last)
        sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
        precision = "bfloat16" if chosen.bfloat16 else "float32"
        head = {"device": device_name(device), "n_samples": n, "precision": precision, "weights": sums}
        before = json.loads(chosen.out.read_text("utf-8")).get("training", {}) if chosen.out.exists() else {}
        record = Record(chosen.out, **head)
        training = record.content.get("training", {})
        if chosen.log:
            training["ours"] = training_table(chosen.log, chosen.spent, before.get("ours", ()))
        if chosen.baseline_log:
            training["baseline"] = training_table(chosen.baseline_log)
        if training:
            record.put("training", training)
        if "timing" not in record.content:
            record.put("timing", timing(model, device))
        folder = chosen.pictures / f"{sums['cifar10'][:8]}-{precision}"  # another network's are not taken for these
        load_data = partial(load_cifar10, source=chosen.data, quiet=True)
        pictures = Pictures(model, folder, batch, chosen.bfloat16)
        measure(record, pictures, classifier, load_data, plan(n, chosen.long))
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped: the same command goes on with the batch that it was at.")
    report(record.content)


if __name__ == "__main__":
    main()
