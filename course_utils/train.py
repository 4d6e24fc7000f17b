"""Real training: ``python -m course_utils.train mnist``, resumable, on one device or, with torchrun, on several.

In the folder of a run are its checkpoint, a log for TensorBoard, the same numbers as a table (log.csv), and at the end
the averaged weights in half precision (<name>.safetensors). The same command goes on with a run that was stopped.

    python -m course_utils.train shapes                            # minutes on a laptop, no network
    python -m course_utils.train mnist --data FOLDER               # with the IDX files in FOLDER
    python -m course_utils.train mnist_energy --data embedded      # chapter 1's energy, on the 4,500 embedded digits
    torchrun --nproc-per-node 2 -m course_utils.train cifar10      # on two devices
    python -m course_utils.train cifar10 --init shipped            # a new run that starts from the weights that ship
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from torch import distributed

from course_utils import data
from course_utils.denoiser import Denoiser
from course_utils.energy import ConvEnergy
from course_utils.runs import Run
from course_utils.schedules import CosineSchedule
from course_utils.tasks import Classification, Diffusion, Energy, in_group
from course_utils.training import PRETRAINED, WEIGHTS, load, save

# What a plain `python -m course_utils.train NAME` does; every number can be given on the command line.
DEFAULTS = {
    "mnist": dict(epochs=8, batch_size=128, lr=2e-3, ema_decay=0.999),
    "shapes": dict(epochs=8, batch_size=32, lr=2e-3, ema_decay=0.999),
    "cifar10": dict(epochs=13, batch_size=64, lr=1e-3, ema_decay=0.9995),  # a fifth of what the baseline took
    "mnist_energy": dict(epochs=20, batch_size=32, lr=3e-3, ema_decay=0.995),
    "mnist_classifier": dict(epochs=6, batch_size=128, lr=2e-3, ema_decay=0.99),
    "shapes_classifier": dict(epochs=4, batch_size=128, lr=2e-3, ema_decay=0.99),
    "cifar10_classifier": dict(epochs=5, batch_size=256, lr=2e-3, ema_decay=0.995),
}
BASELINE = dict(epochs=21, batch_size=100, lr=2e-4, ema_decay=0.999)  # as it was trained, but with this optimiser
FLIP = {"mnist": False, "shapes": False, "cifar10": True}  # a mirrored 3 is no 3


def load_data(name, source, device):
    """((images, labels), (images, labels)) of training and test, uint8 and int64, on the device."""
    load = {"mnist": data.load_mnist, "cifar10": data.load_cifar10, "shapes": data.load_shapes}[name]
    options = {"as_uint8": True} | ({"source": source} if source else {})
    return [tuple(part.to(device) for part in load(split, **options)) for split in ("train", "test")]


def start(
    name, out, source, device, model=None, init=None,
    epochs=1, batch_size=128, lr=1e-3, ema_decay=0.999, seed=0, **options,
):  # fmt: skip
    """The run `name` in the folder `out`, as far as it has come there; a new one begins with the weights `init`."""
    torch.manual_seed(seed)
    dataset = name.split("_")[0]
    model = PRETRAINED[name]() if model is None else model
    if init is not None:
        load(model, init)
    train, test = load_data(dataset, source, device)
    model = model.to(device, memory_format=torch.channels_last)
    kind = {Denoiser: Diffusion, ConvEnergy: Energy}.get(type(model), Classification)
    task = kind(model, train, test, FLIP[dataset], seed)
    run = Run(task, out, epochs, batch_size, lr, ema_decay, **options)
    run.out.mkdir(parents=True, exist_ok=True)
    run.resume()
    return run


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=DEFAULTS)
    parser.add_argument("--data", help="folder or file with the data, or 'embedded' (mnist): default, download it")
    parser.add_argument("--out", type=Path, help="the run's folder (runs/NAME)")
    parser.add_argument("--baseline", action="store_true", help="cifar10: the network that chapter 5 grew from")
    parser.add_argument("--init", metavar="FILE", help="weights that a new run begins with, or 'shipped'")
    parser.add_argument("--device", help="cuda, mps or cpu (the best there is)")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--ema-decay", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--float32", action="store_true", help="on a GPU: no bfloat16")
    parser.add_argument("--bfloat16", action="store_true", help="on a CPU: bfloat16, faster for large networks")
    parser.add_argument("--compile", action="store_true", help="compile the network first: pays for long runs")
    chosen = parser.parse_args(arguments)
    for name, value in (BASELINE if chosen.baseline else DEFAULTS[chosen.name]).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
        elif getattr(chosen, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if chosen.ema_decay >= 1:
        parser.error("--ema-decay must be below 1: an average that keeps all of itself learns nothing")
    if chosen.data and chosen.name.startswith("shapes"):
        parser.error("--data goes with mnist and cifar10: the course draws the shapes itself")
    if chosen.compile and chosen.name.endswith("_energy"):
        parser.error("--compile: an energy's loss differentiates it twice, which compiled code cannot")
    if chosen.baseline and chosen.name != "cifar10":
        parser.error("--baseline goes with cifar10")
    if chosen.data is None and not chosen.name.startswith("shapes"):
        chosen.data = "download"
    if chosen.init == "shipped":
        if chosen.baseline:
            parser.error("--init shipped: of the baseline no weights ship")
        chosen.init = WEIGHTS / f"{chosen.name}.safetensors"
    chosen.out = chosen.out or Path("runs") / (chosen.name + "_baseline" * chosen.baseline)
    return chosen


def best_device(name=None):
    """The device to train on; with torchrun each process takes its own GPU. Raises ValueError where there is none."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"there is no device {name!r} here ({reason}): without --device the best is taken") from None


def baseline(seed):
    """The network that chapter 5 grew from, as a new denoiser."""
    from course_utils.baseline import BaselineUNet

    torch.manual_seed(seed)
    return Denoiser(BaselineUNet(), CosineSchedule(None), "v")


def main(arguments=None):
    chosen = parse(arguments)
    try:
        device = best_device(chosen.device)
        if "LOCAL_RANK" in os.environ:  # started by torchrun
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        model = baseline(chosen.seed) if chosen.baseline else None
        run = start(
            chosen.name, chosen.out, chosen.data, device, model, chosen.init, chosen.epochs, chosen.batch_size,
            chosen.lr, chosen.ema_decay, chosen.seed, compiled=chosen.compile,
            autocast=chosen.bfloat16 or (device.type == "cuda" and not chosen.float32),
        )  # fmt: skip
        if run.rank == 0:
            parameters = sum(p.numel() for p in run.task.model.parameters())
            print(f"{chosen.name}: {parameters:,} parameters, {len(run.task.train[0]):,} pictures, on {device}")
            print(f"in {run.out}" + (f", from step {run.step} on" if run.step else ""), flush=True)
        model = run.train(chosen.save_every)
        if run.rank == 0:
            weights = run.out / f"{chosen.name}.safetensors"
            save(model, weights, dtype=torch.float16)
            print(f"The averaged weights are in {weights}.")
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if in_group():
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()
