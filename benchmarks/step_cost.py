"""What does a sampler's own arithmetic cost, beside a bare loop with the coefficients as Python floats?

A step of 2,000 points in two dimensions, with the same denoiser in both: the chapter's network, and one that costs
nothing (x0_hat = x), which leaves nothing but the sampler. Each figure is the fastest of several runs, taken in turn.

    python benchmarks/step_cost.py
"""

import math
import time
from collections import deque

import torch
from tqdm import trange

from course_utils.denoiser import Denoiser
from course_utils.models import MLP
from course_utils.samplers import ddim, ddpm, dpmpp_2m, heun
from course_utils.schedules import LinearSchedule

N, N_STEPS, RUNS = 2000, 100, 15
SCHEDULE = LinearSchedule()
TIMES = SCHEDULE.timesteps(N_STEPS)


def coefficients():
    """(t, alpha, sigma, alpha_next, sigma_next) of every step."""
    alpha, sigma = SCHEDULE.alpha(TIMES).tolist(), SCHEDULE.sigma(TIMES).tolist()
    return list(zip(TIMES.tolist(), alpha, sigma, alpha[1:], sigma[1:], strict=False))


@torch.no_grad()
def bare_ddim(denoise, x):
    plan = [(t, b / s, a_next - a * b / s) for t, a, s, a_next, b in coefficients()]
    for t, c_x, c_0 in plan:
        x = c_x * x + c_0 * denoise(x, t)
    return x


@torch.no_grad()
def bare_ddpm(denoise, x):
    plan = []
    for t, a, s, a_next, b in coefficients():
        up = s * s - (a / a_next * b) ** 2
        plan.append((t, a / a_next * b * b / s / s, a_next * up / s / s, math.sqrt(up) * b / s))
    for t, c_x, c_0, std in plan:
        x = c_x * x + c_0 * denoise(x, t)
        if std > 0:
            x = x + std * torch.randn_like(x)
    return x


@torch.no_grad()
def bare_heun(denoise, x):
    plan = []
    for (t, a, s, a_next, b), t_next in zip(coefficients(), TIMES.tolist()[1:], strict=True):
        turn = math.atan2(b, a_next) - math.atan2(s, a)
        plan.append((t, t_next, b / s, a_next - a * b / s, a / s, 1 / s, a_next / b if b else 0, b and 1 / b, turn / 2))
    for t, t_next, c_x, c_0, ct, cs, ct_next, cs_next, half in plan:  # alpha^2 + sigma^2 = 1
        x0 = denoise(x, t)
        predicted = c_x * x + c_0 * x0
        if cs_next:
            x = x + half * (ct * x - cs * x0 + ct_next * predicted - cs_next * denoise(predicted, t_next))
        else:
            x = predicted
    return x


@torch.no_grad()
def bare_dpmpp_2m(denoise, x):
    plan, h_before = [], None
    for t, a, s, a_next, b in coefficients():
        h = math.log(a_next / b) - math.log(a / s) if b else math.inf
        r = h / h_before / 2 if h_before and b else 0
        c = a_next - a * b / s
        plan.append((t, b / s, c * (1 + r), -c * r))
        h_before = h
    before = 0
    for t, c_x, c_0, c_before in plan:
        x0 = denoise(x, t)
        x = c_x * x + c_0 * x0 + c_before * before
        before = x0
    return x


PAIRS = {ddim: bare_ddim, ddpm: bare_ddpm, heun: bare_heun, dpmpp_2m: bare_dpmpp_2m}


def last(states):
    return deque(states, maxlen=1).pop()  # as the bare loop, it keeps no state but the newest


def seconds(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main():
    net = Denoiser(MLP(), SCHEDULE).eval()
    start = torch.randn(N, 2)
    print(f"microseconds a step, {N} points, {N_STEPS} steps, {torch.get_num_threads()} threads\n")
    print(f"{'sampler':<12}{'denoiser':<14}{'ours':>8}{'bare loop':>11}{'ratio':>8}")
    for label, denoise in (("network", net), ("costs nothing", lambda x, t: x)):
        for sampler, bare in PAIRS.items():
            torch.manual_seed(0)
            expected = bare(denoise, start)
            torch.manual_seed(0)
            torch.testing.assert_close(
                last(sampler(denoise, SCHEDULE, start, TIMES)), expected, rtol=1e-3, atol=1e-3
            )  # both do the same
            ours, theirs = [], []
            for _ in trange(RUNS, desc=f"{sampler.__name__}, {label}", leave=False, disable=None):
                ours.append(seconds(lambda: last(sampler(denoise, SCHEDULE, start, TIMES))))  # noqa: B023
                theirs.append(seconds(lambda: bare(denoise, start)))  # noqa: B023
            one, other = (1e6 * min(times) / N_STEPS for times in (ours, theirs))
            print(f"{sampler.__name__:<12}{label:<14}{one:>8.0f}{other:>11.0f}{one / other:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
