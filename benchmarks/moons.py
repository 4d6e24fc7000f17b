"""Chapter 3's number: how close do 2,000 samples come to the moons after 30 seconds of training on two cores?

Each figure is the sliced Wasserstein-2 distance, in the data set's original coordinates, of 2,000 samples to 2,000
fresh points of the data. A seed's figure is the median of 5 draws, for chance moves a single one by a quarter; the
table has the median over 5 seeds (networks), the smallest and the largest. Even perfect samples are not at zero, and
the first two rows say how far away they are: scikit-learn spaces its points evenly along the moons, samples fall where
they fall. The last rows run the schedule of a published tutorial, which stops at alpha_bar = 0.78 while sampling
starts from N(0, I).

    python benchmarks/moons.py [--seeds N]
"""

import argparse
import statistics
import time

import torch
from tqdm import tqdm

from course_utils.data import toy_2d, toy_mixture, unstandardise
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.metrics import sliced_wasserstein
from course_utils.models import MLP
from course_utils.samplers import ddpm
from course_utils.schedules import CosineSchedule, LinearSchedule, SigmoidSchedule
from course_utils.training import batches, fit

N, DRAWS = 2000, 5
N_STEPS = 4000  # at most 30 seconds on two cores: the table prints what it took
EXACT = toy_mixture("moons")
OURS, TUTORIAL = LinearSchedule(), SigmoidSchedule(100, 1e-5, 5e-3)


def distance(samples, seed):
    """The median over the draws in samples (DRAWS * N, 2), each against data that nobody has seen."""
    return statistics.median(
        sliced_wasserstein(unstandardise("moons", x), unstandardise("moons", data(1000 * seed + 500 + i)))
        for i, x in enumerate(samples.split(N))
    )


def data(seed):
    return toy_2d("moons", N, seed=seed)


def train(schedule, prediction, seed):
    """The chapter's network, trained from scratch as in the chapter."""
    torch.manual_seed(seed)
    stream = batches(toy_2d("moons", 10_000, seed=seed), 256)
    return fit(Denoiser(MLP(), schedule, prediction), diffusion_loss, stream, N_STEPS, progress=False)[0]


def draw(denoise, schedule, start, seed):
    """Ancestral sampling, in 250 steps or through every level where there are fewer."""
    generator = torch.Generator().manual_seed(seed)
    *_, x0 = ddpm(denoise, schedule, start, schedule.timesteps(min(schedule.T or 250, 250)), generator=generator)
    return x0


def noise(seed):
    return torch.randn(DRAWS * N, 2, generator=torch.Generator().manual_seed(1000 + seed))


def exact(schedule, start=noise):
    return lambda seed: draw(EXACT.denoiser(schedule), schedule, start(seed), seed)


def trained(schedule, prediction):
    return lambda seed: draw(train(schedule, prediction, seed), schedule, noise(seed), seed)


def true_end(seed):
    """What the data really look like at the tutorial's last level."""
    return TUTORIAL.add_noise(draws_of_data(seed), 1.0, noise(seed))


def draws_of_data(seed):
    return torch.cat([data(1000 * seed + i) for i in range(DRAWS)])


ROWS = {
    "data against data": draws_of_data,
    "independent draws of the exact mixture": lambda seed: EXACT.sample(DRAWS * N, torch.Generator().manual_seed(seed)),
    "exact denoiser, linear schedule": exact(OURS),
    "ours: eps, linear schedule": trained(OURS, "eps"),
    "ours: v, cosine schedule": trained(CosineSchedule(None), "v"),
    "the tutorial's schedule, trained the same": trained(TUTORIAL, "eps"),
    "the tutorial's schedule, exact denoiser": exact(TUTORIAL),
    "  the same, started from its true end": exact(TUTORIAL, true_end),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds a row (5)")
    n_seeds = parser.parse_args().seeds

    started = time.perf_counter()
    train(OURS, "eps", 0)
    seconds = time.perf_counter() - started

    print(f"{N_STEPS} steps of training took {seconds:.0f} s with {torch.get_num_threads()} threads\n")
    print(f"{'sliced Wasserstein-2 to fresh data':<44}{'median':>8}{'min':>8}{'max':>8}")
    for label, samples in ROWS.items():
        found = [distance(samples(s), s) for s in tqdm(range(n_seeds), desc=label, leave=False, disable=None)]
        print(f"{label:<44}{statistics.median(found):>8.3f}{min(found):>8.3f}{max(found):>8.3f}", flush=True)


if __name__ == "__main__":
    main()
