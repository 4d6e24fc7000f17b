"""Draws book/_static/preview.png, the picture in README.md and in links to the site: `python book/preview.py`.

A network is trained on the moons for half a minute; its samples are shown on their way from noise to data, over the
exact density at each time.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from course_utils.data import toy_2d, toy_mixture
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.models import MLP
from course_utils.plotting import MODEL, scatter_2d
from course_utils.samplers import ddim
from course_utils.schedules import CosineSchedule
from course_utils.training import batches, fit

torch.manual_seed(0)
schedule, exact = CosineSchedule(), toy_mixture("moons")
denoiser = Denoiser(MLP(), schedule, "v")  # at t = 1 nearly no signal is left to divide by: "eps" would not do
data = toy_2d("moons", 10_000, seed=0)
denoise, losses = fit(denoiser, diffusion_loss, batches(data, 256), n_steps=4000)

times = schedule.timesteps(50)
x = schedule.prior(2000, 2)
path = [x, *ddim(denoise, schedule, x, times)]

shown = [0, 20, 30, 38, 50]
figure, axes = plt.subplots(1, len(shown), figsize=(12.8, 2.9), dpi=100, layout="constrained")
for ax, i in zip(axes, shown, strict=True):
    truth = exact.noised(schedule.alpha(times[i]), schedule.sigma(times[i]))
    scatter_2d(path[i], ax, truth, title=f"t = {times[i]:.2f}", color=MODEL, size=3)
figure.savefig(Path(__file__).parent / "_static" / "preview.png", pil_kwargs={"optimize": True})
