"""Chapter 3's number: how close do 2,000 samples come to the moons after 30 seconds of training on two cores?

Each figure is the sliced Wasserstein-2 distance, in the data set's original coordinates, of 2,000 samples to 2,000
fresh points of the data. A seed's figure is the median of 5 draws, for chance moves a single one by a quarter; the
table has the median over 5 seeds (networks), the smallest and the largest. Even perfect samples are not at zero, and
the first two rows say how far away they are: scikit-learn spaces its points evenly along the moons, samples fall where
they fall. The last rows are the run of a published tutorial with our network and training: its schedule stops at
alpha_bar = 0.78 while its sampling starts from N(0, I), and its data are not standardised.

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
OURS, TUTORIAL = LinearSchedule(), SigmoidSchedule(100, 1e-5, 5e-3)


def moons(n, seed, standardised=True):
    x = toy_2d("moons", n, seed=seed)
    return x if standardised else unstandardise("moons", x)


def distance(samples, seed):
    """The median over the draws in samples (DRAWS * N, 2), each against data that nobody has seen."""
    return statistics.median(
        sliced_wasserstein(x, moons(N, 1000 * seed + 500 + i, standardised=False))
        for i, x in enumerate(samples.split(N))
    )


def draws_of_data(seed, standardised=False):
    return torch.cat([moons(N, 1000 * seed + i, standardised) for i in range(DRAWS)])


def train(schedule, prediction="eps", standardised=True, seed=0):
    """The chapter's network, trained from scratch as in the chapter."""
    torch.manual_seed(seed)
    stream = batches(moons(10_000, seed, standardised), 256)
    return fit(Denoiser(MLP(), schedule, prediction), diffusion_loss, stream, N_STEPS, progress=False)[0]


def noise(seed, standardised=True):
    return torch.randn(DRAWS * N, 2, generator=torch.Generator().manual_seed(1000 + seed))


def true_end(seed, standardised):
    """What the data look like at the tutorial's last level: there its sampling should have started."""
    return TUTORIAL.add_noise(draws_of_data(seed, standardised), 1.0, noise(seed))


def draw(denoise, schedule, start, seed, standardised):
    """Ancestral samples in original coordinates, in 250 steps or through every level where there are fewer."""
    generator = torch.Generator().manual_seed(seed)
    *_, x0 = ddpm(denoise, schedule, start, schedule.timesteps(min(schedule.T or 250, 250)), generator=generator)
    return unstandardise("moons", x0) if standardised else x0


def trained(schedule, prediction="eps", standardised=True):
    def samples(seed):
        return draw(train(schedule, prediction, standardised, seed), schedule, noise(seed), seed, standardised)

    return samples


def exact(schedule, standardised=True, start=noise):
    denoise = toy_mixture("moons", standardised).denoiser(schedule)
    return lambda seed: draw(denoise, schedule, start(seed, standardised), seed, standardised)


def independent(seed):
    return toy_mixture("moons", standardised=False).sample(DRAWS * N, torch.Generator().manual_seed(seed))


ROWS = {
    "data against data": draws_of_data,
    "independent draws of the exact mixture": independent,
    "exact denoiser, linear schedule": exact(OURS),
    "ours: eps, linear schedule": trained(OURS),
    "ours: v, cosine schedule": trained(CosineSchedule(None), "v"),
    "the tutorial's run": trained(TUTORIAL, standardised=False),
    "  with the exact denoiser": exact(TUTORIAL, standardised=False),
    "  and started from its true end": exact(TUTORIAL, standardised=False, start=true_end),
    "  trained on standardised data": trained(TUTORIAL),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds a row (5)")
    n_seeds = parser.parse_args().seeds

    started = time.perf_counter()
    train(OURS)
    seconds = time.perf_counter() - started

    print(f"{N_STEPS} steps of training took {seconds:.0f} s with {torch.get_num_threads()} threads\n")
    print(f"{'sliced Wasserstein-2 to fresh data':<44}{'median':>8}{'min':>8}{'max':>8}")
    for label, samples in ROWS.items():
        found = [distance(samples(s), s) for s in tqdm(range(n_seeds), desc=label, leave=False, disable=None)]
        print(f"{label:<44}{statistics.median(found):>8.3f}{min(found):>8.3f}{max(found):>8.3f}", flush=True)


if __name__ == "__main__":
    main()
