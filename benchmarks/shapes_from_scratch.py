"""A class-conditional model of coloured shapes from nothing, on a laptop: how long, and how often is it the right one?

Draws its own training pictures (no network), trains the course's network for shapes on them, draws 200 shapes with 20
steps of DPM-Solver++(2M) at several guidance scales, and asks a classifier which shape each is. Writes them as a
picture.

    python benchmarks/shapes_from_scratch.py [--steps 1800] [--threads 2]
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib import image

from course_utils.data import load_shapes
from course_utils.denoiser import diffusion_loss
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_accuracy
from course_utils.plotting import tile
from course_utils.samplers import dpmpp_2m
from course_utils.training import PRETRAINED, batches, drop_labels, fit, load_pretrained, save

PICTURE = Path(__file__).parents[1] / "_build" / "shapes_from_scratch.png"
SCALES = (1, 2, 3)


def loss(model, x0, y):
    return diffusion_loss(model, x0, drop_labels(y, 0.1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", type=Path, help="write the weights of the last seed to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    data, classifier = load_shapes(), load_pretrained("shapes_classifier")
    labels = torch.arange(200) % 10
    scales = " | ".join(f"scale {s}, %" for s in SCALES)
    print(f"| seed | parameters | steps | training, s | processor, s | ms a step | {scales} | drawing, s |")
    print("|---" * (7 + len(SCALES)) + "|")
    for seed in range(chosen.seeds):
        torch.manual_seed(seed)
        model = PRETRAINED["shapes"]().to(memory_format=torch.channels_last)
        started, busy = time.perf_counter(), time.process_time()
        model, _ = fit(model, loss, batches(data, chosen.batch_size), chosen.steps, lr=3e-3, ema_decay=0.998)
        training, busy, row = time.perf_counter() - started, time.process_time() - busy, []
        for scale in SCALES:
            started, x = time.perf_counter(), model.schedule.prior(200, 3, 32, 32)
            guided = clip(cfg(condition(model, labels), condition(model, None), scale))
            *_, x0 = dpmpp_2m(guided, model.schedule, x, model.schedule.timesteps(20))
            drawing = time.perf_counter() - started
            row.append(f"{100 * classifier_accuracy(classifier, x0.clamp(-1, 1), labels):.1f}")
            if scale == 2:
                PICTURE.parent.mkdir(exist_ok=True)
                image.imsave(PICTURE, tile(x0.clamp(-1, 1), columns=20))
        parameters = sum(p.numel() for p in model.parameters())
        numbers = f"{seed} | {parameters:,} | {chosen.steps} | {training:.0f} | {busy:.0f}"
        each = 1000 * training / chosen.steps
        print(f"| {numbers} | {each:.0f} | {' | '.join(row)} | {drawing:.1f} |", flush=True)
    print(f"The shapes at scale 2 are in {PICTURE}.")
    if chosen.save:
        save(model, chosen.save, dtype=torch.float16)


if __name__ == "__main__":
    main()
