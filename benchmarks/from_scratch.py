"""A class-conditional model from nothing, on a laptop and without a network: how long, and is it the right class?

Trains on the embedded digits, or on shapes that the course draws; then draws 200 pictures with 20 steps of
DPM-Solver++(2M) at several guidance scales, and asks the classifier that ships what each is. Writes them as a picture.

    python benchmarks/from_scratch.py [digits | shapes] [--seeds 3] [--threads 1]
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib import image

from course_utils.data import load_mnist, load_shapes
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_accuracy
from course_utils.models import UNet
from course_utils.plotting import tile
from course_utils.samplers import dpmpp_2m
from course_utils.schedules import CosineSchedule
from course_utils.training import batches, drop_labels, fit, load_pretrained

FOLDER = Path(__file__).parents[1] / "_build"
SCALES = (1, 2, 3, 4)


def loss(model, x0, y, t=None):
    return diffusion_loss(model, x0, drop_labels(y, 0.1), t)


def noisier_loss(model, x0, y):
    """Times from a logit-normal law (Esser et al. 2024, section 3.1) around 0.62, where the class is decided."""
    return loss(model, x0, y, torch.sigmoid(0.5 + torch.randn(len(x0))))


KINDS = {  # data, its judge, network, loss, steps, the scale of the picture
    "digits": (load_mnist, "mnist_classifier", lambda: UNet(1, width=32, n_classes=10, patch=2), loss, 1100, 3),
    "shapes": (
        load_shapes,
        "shapes_classifier",
        lambda: UNet(3, width=24, multipliers=(1, 2, 2), n_classes=10, patch=2),
        noisier_loss,
        1150,
        2,
    ),
}


def train(data, net, loss_fn, steps):
    model = Denoiser(net, CosineSchedule(None), "v").to(memory_format=torch.channels_last)
    return fit(model, loss_fn, batches(data, 32), steps, lr=3e-3, ema_decay=0.998)[0]


def draw(model, labels, scale, shape):
    x = model.schedule.prior(len(labels), *shape)
    guided = clip(cfg(condition(model, labels), condition(model, None), scale))
    *_, x0 = dpmpp_2m(guided, model.schedule, x, model.schedule.timesteps(20))
    return x0.clamp(-1, 1)


def measure(kind, seeds, steps=None):
    load_data, judge, network, loss_fn, usual_steps, shown = KINDS[kind]
    data, classifier, steps = load_data(), load_pretrained(judge), steps or usual_steps
    labels, picture = torch.arange(200) % 10, FOLDER / f"{kind}_from_scratch.png"
    print(f"\n| {kind}, seed | parameters | steps | training, s | processor, s | ", end="")
    print(" | ".join(f"scale {s}, %" for s in SCALES) + " | drawing, s |")
    print("|---" * (6 + len(SCALES)) + "|")
    for seed in range(seeds):
        torch.manual_seed(seed)
        net, started, busy = network(), time.perf_counter(), time.process_time()
        model = train(data, net, loss_fn, steps)
        training, busy = time.perf_counter() - started, time.process_time() - busy
        row, started = [], time.perf_counter()
        for scale in SCALES:
            x = draw(model, labels, scale, data[0].shape[1:])
            row.append(f"{100 * classifier_accuracy(classifier, x, labels):.1f}")
            if scale == shown:
                FOLDER.mkdir(exist_ok=True)
                image.imsave(picture, tile(x, columns=20), cmap="gray", vmin=0, vmax=1)
        drawing = (time.perf_counter() - started) / len(SCALES)
        parameters = sum(p.numel() for p in net.parameters())
        print(f"| {seed} | {parameters:,} | {steps} | {training:.0f} | {busy:.0f} | ", end="")
        print(f"{' | '.join(row)} | {drawing:.1f} |", flush=True)
    print(f"Those at scale {shown} are in {picture}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=KINDS, help="which pictures (default: both)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of training, in batches of 32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for kind in [chosen.kind] if chosen.kind else KINDS:
        measure(kind, chosen.seeds, chosen.steps)


if __name__ == "__main__":
    main()
