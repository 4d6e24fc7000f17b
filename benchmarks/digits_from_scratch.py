"""A class-conditional model of digits from nothing, on a laptop: how long, and how often is the right digit drawn?

Trains on the embedded digits (no network), draws 200 digits with 20 steps of DPM-Solver++(2M) at several guidance
scales, and asks a classifier that was trained on all 60,000 which digit each is. Writes the digits as a picture.

    python benchmarks/digits_from_scratch.py [--seeds 3]
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib import image

from course_utils.data import load_mnist
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_accuracy
from course_utils.models import UNet
from course_utils.samplers import dpmpp_2m
from course_utils.schedules import CosineSchedule
from course_utils.training import batches, drop_labels, fit, load_pretrained

PICTURE = Path(__file__).parents[1] / "_build" / "digits_from_scratch.png"
SCALES = (1, 2, 3, 4)


def loss(model, x0, y):
    return diffusion_loss(model, x0, drop_labels(y, 0.1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1100)
    chosen = parser.parse_args()
    data, classifier = load_mnist(), load_pretrained("mnist_classifier")
    labels = torch.arange(200) % 10
    print("| seed | parameters | training, s | " + " | ".join(f"scale {s}, %" for s in SCALES) + " | drawing, s |")
    print("|---" * (4 + len(SCALES)) + "|")
    for seed in range(chosen.seeds):
        torch.manual_seed(seed)
        net = UNet(1, width=32, n_classes=10, patch=2).to(memory_format=torch.channels_last)
        started = time.perf_counter()
        model = Denoiser(net, CosineSchedule(None), "v")
        model, _ = fit(model, loss, batches(data, 32), chosen.steps, lr=3e-3, ema_decay=0.998)
        training, row = time.perf_counter() - started, []
        for scale in SCALES:
            started, x = time.perf_counter(), model.schedule.prior(200, 1, 28, 28)
            guided = clip(cfg(condition(model, labels), condition(model, None), scale))
            *_, x0 = dpmpp_2m(guided, model.schedule, x, model.schedule.timesteps(20))
            drawing = time.perf_counter() - started
            row.append(f"{100 * classifier_accuracy(classifier, x0.clamp(-1, 1), labels):.1f}")
            if scale == 3:
                PICTURE.parent.mkdir(exist_ok=True)
                grid = x0.clamp(-1, 1).reshape(10, 20, 28, 28).permute(0, 2, 1, 3).reshape(280, 560)
                image.imsave(PICTURE, grid, cmap="gray", vmin=-1, vmax=1)
        parameters = sum(p.numel() for p in net.parameters())
        print(f"| {seed} | {parameters:,} | {training:.0f} | {' | '.join(row)} | {drawing:.1f} |", flush=True)
    print(f"The digits at scale 3 are in {PICTURE}.")


if __name__ == "__main__":
    main()
