"""How good are the shipped digits, and what do few steps cost?

Agreement of a classifier with the class asked for, and Frechet distance in that classifier's features (which is not
FID) to the 10,000 test digits, for several samplers and numbers of network calls, at guidance scale 1; then agreement
along the scale. The floor is what as many real training digits reach. Every row draws the same classes from the same
noise. With --data embedded it compares with the 500 embedded test digits, which the model has seen: needs no network.

    python benchmarks/digits.py --data download          # hours with the 1,000 ancestral steps; --quick leaves them out
"""

import argparse
import time
from collections import deque

import torch
from tqdm import tqdm

from course_utils.data import load_mnist
from course_utils.guidance import cfg, clip, condition
from course_utils.metrics import classifier_accuracy, classifier_features, frechet_distance
from course_utils.samplers import ddim, ddpm, dpmpp_2m, heun
from course_utils.training import load_pretrained

SAMPLERS = [  # name, sampler, steps, from where the last step leaps; heun calls twice a step, but for the last
    ("DPM-Solver++(2M)", dpmpp_2m, 10), ("DPM-Solver++(2M)", dpmpp_2m, 20), ("DPM-Solver++(2M)", dpmpp_2m, 50),
    ("the same, its last step from t = 0.35", dpmpp_2m, 20, 0.35),
    ("DDIM", ddim, 20), ("DDIM", ddim, 50), ("Heun", heun, 10), ("ancestral", ddpm, 20), ("ancestral", ddpm, 100),
    ("ancestral", ddpm, 1000),
]  # fmt: skip


def draw(model, sampler, n_steps, labels, scale=1.0, last=None, batch=250):
    """Digits of the classes asked for, (N, 1, 28, 28), the same noise at every call."""
    generator, out = torch.Generator().manual_seed(0), []
    times = model.schedule.timesteps(n_steps)
    if last:
        times = torch.cat([torch.linspace(1, last, n_steps), torch.zeros(1)])
    for y in tqdm(labels.split(batch), leave=False, desc=f"{sampler.__name__} {n_steps}"):
        guided = cfg(condition(model, y), condition(model, None), scale) if scale != 1 else condition(model, y)
        x = model.schedule.prior(len(y), 1, 28, 28, generator=generator)
        options = {"generator": generator} if sampler is ddpm else {}
        steps = sampler(clip(guided), model.schedule, x, times, **options)
        x0 = deque(steps, maxlen=1).pop()  # a thousand states would not fit
        out.append(x0.clamp(-1, 1))
    return torch.cat(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="embedded", help="download, embedded, or a folder with the IDX files")
    parser.add_argument("--n", type=int, default=1000, help="digits a row (1000)")
    parser.add_argument("--quick", action="store_true", help="without the 1,000 ancestral steps")
    chosen = parser.parse_args()
    model, classifier = load_pretrained("mnist"), load_pretrained("mnist_classifier")
    (real, real_labels), (test, test_labels) = (load_mnist(split, chosen.data) for split in ("train", "test"))
    reference = classifier_features(classifier, test)
    labels = torch.arange(chosen.n) % 10
    print(f"the classifier agrees with {100 * classifier_accuracy(classifier, test, test_labels):.2f} % of test labels")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    floor = real[torch.cat([order[real_labels[order] == k][: chosen.n // 10] for k in range(10)])]
    print(f"\n| {chosen.n} digits | network calls | agreement, % | Frechet distance | seconds |\n|---|---|---|---|---|")
    print(f"| real training digits | | | {frechet_distance(classifier_features(classifier, floor), reference):.2f} | |")
    for name, sampler, n_steps, *last in SAMPLERS[: -1 if chosen.quick else None]:
        started = time.perf_counter()
        x = draw(model, sampler, n_steps, labels, 1.0, *last)
        seconds = time.perf_counter() - started
        calls = 2 * n_steps - 1 if sampler is heun else n_steps
        distance = frechet_distance(classifier_features(classifier, x), reference)
        agreement = 100 * classifier_accuracy(classifier, x, labels)
        print(f"| {name} | {calls} | {agreement:.1f} | {distance:.2f} | {seconds:.0f} |", flush=True)
    print(f"\n| guidance scale, {chosen.n} digits, DPM-Solver++(2M), 20 steps | agreement, % | Frechet distance |")
    print("|---|---|---|")
    for scale in (0.0, 1.0, 1.5, 2.0, 3.0, 4.0):
        x = draw(model, dpmpp_2m, 20, labels, scale)
        distance = frechet_distance(classifier_features(classifier, x), reference)
        print(f"| {scale:g} | {100 * classifier_accuracy(classifier, x, labels):.1f} | {distance:.2f} |", flush=True)


if __name__ == "__main__":
    main()
