"""Exercises of chapter 6, editing with a diffusion model.

x_t = alpha x0 + sigma eps. A denoiser is a function (x, t) -> x0_hat, a network is called net(x, t) with t (B,) and
says the velocity v = alpha eps - sigma x0; alpha and sigma are numbers, or functions of time, or tables.

Sources: Salimans & Ho 2022 (section 4); Meng et al. 2022 (SDEdit); Lugmayr et al. 2022 (RePaint, algorithm 1); Geng,
Park & Owens 2024 (Visual Anagrams, Factorized Diffusion).
"""

import math

import torch

from course_utils import guidance
from course_utils.denoiser import to_x0
from course_utils.exercises.ddpm_2d import ELSEWHERE
from course_utils.exercises.exercise import Exercise
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule

# ---- what the exercises are tried on ---------------------------------------------------------------------------------

SHAPES = {
    "a batch of one": ((1, 1, 4, 4), torch.float32),
    "colour pictures that are not square": ((3, 3, 5, 4), torch.float32),
    "as many pictures as channels": ((2, 2, 3, 3), torch.float32),
    "float64": ((2, 1, 4, 6), torch.float64),
}


def randn(g, shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=g)


def some_time(g, low=8, high=56):
    """A time between low / 64 and high / 64, the same number in float32 and float64."""
    return int(torch.randint(low, high, (), generator=g)) / 64


def toy_denoiser(g):
    """A stand-in for a denoiser: (x, t) -> x0_hat, which looks at neighbours too, and is another one at each place.

    No view and no blur commutes with it.
    """
    a, b, c = (0.5 + torch.rand(3, generator=g)).tolist()

    def denoise(x, t):
        place = torch.arange(x[0].numel(), dtype=x.dtype, device=x.device).reshape(x.shape[1:])
        return torch.sin(a * x + 0.5 * x.roll(1, -1) + b * place + c * t)

    return denoise


def toy_net(g):
    """A stand-in for a network that says v: net(x, t), t (B,), for x of any shape (B, ...)."""
    a, b, c = (0.5 + torch.rand(3, generator=g)).tolist()

    def net(x, t):
        if not torch.is_tensor(t) or not t.is_floating_point() or t.shape != x.shape[:1]:
            raise ValueError(
                f"net(x, t) takes t as a float tensor of shape (B,) = ({len(x)},), one time for each sample"
            )
        if t.device != x.device:
            raise ValueError(f"net(x, t) got x on the device {x.device} but t on {t.device}: make t on x.device")
        return torch.sin(a * x + b) + c * t.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    return net


def correlated_denoiser(alpha, sigma, rho=0.8):
    """The exact denoiser of N(0, [[1, rho], [rho, 1]]), for functions alpha and sigma of time; x (B, 2)."""

    def denoise(x, t):
        a, s = float(alpha(t)), float(sigma(t))
        C, identity = torch.tensor([[1, rho], [rho, 1]], dtype=x.dtype), torch.eye(2, dtype=x.dtype)
        return x @ torch.linalg.solve(a**2 * C + s**2 * identity, a * C)

    return denoise


def moved(inputs, *names):
    """The same inputs with the named tensors on another device."""
    return {n: v.to("meta") if n in names else v for n, v in inputs.items()}


def in_float32(times):
    """Times as they are compared: float64 or float32 will do."""
    return times.float() if times.dtype == torch.float64 else times


# ---- 1 ---------------------------------------------------------------------------------------------------------------

one_step = Exercise(
    "editing.one_step",
    title="A clean picture in one step",
    points=1,
    contract="one_step(net, x, t, alpha, sigma) is x0_hat for samples x (B, ...) at time t, a number: the network says "
    "net(x, t) = v, the velocity, for a tensor t (B,); alpha and sigma are numbers.",
    section="editing-one-step",
    returns="x0_hat",
    finished=("course_utils.denoiser.to_x0", "course_utils.denoiser.Denoiser"),
)


@one_step.solution
def _(net, x, t, alpha, sigma):
    v = net(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))
    return to_x0("v", v, x, alpha, sigma)


@one_step.inputs
def _(g):
    def inputs(shape, dtype, t):
        angle = t * math.pi / 2
        return {
            "net": toy_net(g),
            "x": randn(g, shape, dtype),
            "t": t,
            "alpha": math.cos(angle),
            "sigma": math.sin(angle),
        }

    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, dtype, some_time(g))
    yield "points in the plane", inputs((5, 2), torch.float32, some_time(g))
    yield "nearly no noise", inputs((2, 1, 3, 3), torch.float64, 1 / 64)
    yield ELSEWHERE, moved(inputs((2, 1, 3, 3), torch.float32, 0.5), "x")


def velocity(net, x, t):
    return net(x, torch.full((len(x),), t, device=x.device))


@one_step.misconception("The velocity is added: v = alpha eps - sigma x0 makes x0_hat = alpha x - sigma v.")
def velocity_added(net, x, t, alpha, sigma):
    return alpha * x + sigma * velocity(net, x, t)


@one_step.misconception("The output is taken for the noise: this network says the velocity v.")
def velocity_for_noise(net, x, t, alpha, sigma):
    return (x - sigma * velocity(net, x, t)) / alpha


@one_step.misconception("This is what the network says, the velocity v: turn it into x0_hat.")
def velocity_itself(net, x, t, alpha, sigma):
    return velocity(net, x, t)


@one_step.misconception("This is the predicted noise, sigma x + alpha v: the clean picture is the other combination.")
def noise_instead_of_data(net, x, t, alpha, sigma):
    return sigma * x + alpha * velocity(net, x, t)


@one_step.misconception("alpha and sigma are swapped: near t = 0 there is little to change, so x has the factor alpha.")
def factors_swapped(net, x, t, alpha, sigma):
    return sigma * x - alpha * velocity(net, x, t)


@one_step.misconception("x lacks its factor alpha.")
def state_without_alpha(net, x, t, alpha, sigma):
    return x - sigma * velocity(net, x, t)


@one_step.misconception("Divided by alpha once too often: alpha x - sigma v already has the size of the data.")
def divided_by_alpha(net, x, t, alpha, sigma):
    return (alpha * x - sigma * velocity(net, x, t)) / alpha


@one_step.misconception("The factors are squared: alpha and sigma themselves stand in x0_hat = alpha x - sigma v.")
def factors_squared(net, x, t, alpha, sigma):
    return alpha**2 * x - sigma**2 * velocity(net, x, t)


@one_step.misconception("The network is asked at t = 1, pure noise: x has the noise of time t.")
def asked_at_one(net, x, t, alpha, sigma):
    return alpha * x - sigma * velocity(net, x, 1.0)


@one_step.misconception("The network gets a level, 1000 t: its time runs from 0 to 1.")
def asked_at_a_level(net, x, t, alpha, sigma):
    return alpha * x - sigma * velocity(net, x, 1000 * t)


@one_step.equivalent
def through_the_noise(net, x, t, alpha, sigma):
    v = net(x, x.new_full((x.shape[0],), t))
    eps = sigma * x + alpha * v
    return (x - sigma * eps) / alpha


@one_step.equivalent
def as_a_rotation(net, x, t, alpha, sigma):
    v = net(x, torch.ones(len(x), device=x.device) * t)
    turn = torch.tensor([alpha, -sigma], dtype=x.dtype, device=x.device)
    return torch.einsum("k,k...->...", turn, torch.stack([x, v]))


@one_step.equivalent
def for_any_schedule(net, x, t, alpha, sigma):
    with torch.no_grad():
        v = net(x, torch.tensor([t] * len(x), dtype=x.dtype).to(x.device))
    return (x * alpha - v * sigma) / (alpha * alpha + sigma * sigma)


# ---- 2 ---------------------------------------------------------------------------------------------------------------

sdedit_start = Exercise(
    "editing.sdedit_start",
    title="Where SDEdit starts",
    points=2,
    contract="sdedit_start(image, t_start, n, noise, alpha, sigma) is (x, times): the image (B, ...) with the given "
    "noise at time t_start, and the n + 1 evenly spaced times of n steps from t_start down to 0; alpha and sigma are "
    "functions of time.",
    section="sdedit",
    returns=("x", "times"),
    finished=("course_utils.schedules.NoiseSchedule.timesteps", "course_utils.schedules.NoiseSchedule.add_noise"),
)


@sdedit_start.observe
def _(value, inputs):
    x, times = value
    return {"x": x, "times": in_float32(times).to(x.device)}


@sdedit_start.solution
def _(image, t_start, n, noise, alpha, sigma):
    return noised(image, noise, alpha(t_start), sigma(t_start)), CosineSchedule(None).timesteps(n, t_start)


@sdedit_start.inputs
def _(g):
    def inputs(shape, dtype, t_start, n, schedule):
        image = torch.rand(shape, dtype=dtype, generator=g) * 2 - 1
        noise = randn(g, shape, dtype)
        functions = {"alpha": schedule.alpha, "sigma": schedule.sigma}
        return {"image": image, "t_start": t_start, "n": n, "noise": noise, **functions}

    cosine = CosineSchedule(None)
    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, dtype, some_time(g), int(torch.randint(4, 30, (), generator=g)), cosine)
    yield "points in the plane, another schedule", inputs((5, 2), torch.float32, 0.375, 12, LinearSchedule(64))
    yield "one step", inputs((2, 1, 3, 3), torch.float32, 0.25, 1, cosine)
    yield "from t = 1", inputs((2, 1, 3, 3), torch.float64, 1.0, 10, cosine)
    yield "a schedule that keeps the signal", inputs((2, 1, 3, 3), torch.float64, 0.5, 8, VESchedule(0.01, 2.0))
    yield ELSEWHERE, moved(inputs((2, 1, 3, 3), torch.float32, 0.5, 8, cosine), "image", "noise")


def noised(image, noise, a, s):
    return a * image + s * noise


def falling(t_start, n):
    return torch.linspace(t_start, 0, n + 1, dtype=torch.float64)


@sdedit_start.misconception("Nothing of the image is in x: this is where sampling from scratch starts.")
def image_forgotten(image, t_start, n, noise, alpha, sigma):
    return sigma(t_start) * noise, falling(t_start, n)


@sdedit_start.misconception("x is the clean image: the denoiser at t_start expects the noise of t_start in it.")
def no_noise_at_all(image, t_start, n, noise, alpha, sigma):
    return image.clone(), falling(t_start, n)


@sdedit_start.misconception("The image is noised to t = 1, where hardly anything of it is left: go to t_start.")
def noised_to_the_end(image, t_start, n, noise, alpha, sigma):
    return noised(image, noise, alpha(1.0), sigma(1.0)), falling(t_start, n)


@sdedit_start.misconception(
    "The image and the noise are blended with 1 - t and t: the factors are alpha and sigma at t."
)
def blended_by_time(image, t_start, n, noise, alpha, sigma):
    return noised(image, noise, 1 - t_start, t_start), falling(t_start, n)


@sdedit_start.misconception("The image lacks its factor alpha: with the noise alone added, the variance is too large.")
def signal_not_scaled(image, t_start, n, noise, alpha, sigma):
    return image + sigma(t_start) * noise, falling(t_start, n)


@sdedit_start.misconception(
    "The factors are squared: alpha and sigma multiply as they are, without a square or a root."
)
def start_with_squares(image, t_start, n, noise, alpha, sigma):
    return noised(image, noise, alpha(t_start) ** 2, sigma(t_start) ** 2), falling(t_start, n)


@sdedit_start.misconception("Other noise was drawn: use the one that is given.")
def other_noise(image, t_start, n, noise, alpha, sigma):
    return noised(image, torch.randn_like(image), alpha(t_start), sigma(t_start)), falling(t_start, n)


@sdedit_start.misconception("The times start at 1: x has the noise of t_start, so that the sampler must start there.")
def times_from_one(image, t_start, n, noise, alpha, sigma):
    return noised(image, noise, alpha(t_start), sigma(t_start)), falling(1.0, n)


@sdedit_start.misconception("These are n times, so n - 1 steps: n steps have n + 1 ends.")
def one_time_short(image, t_start, n, noise, alpha, sigma):
    return noised(image, noise, alpha(t_start), sigma(t_start)), falling(t_start, n - 1)


@sdedit_start.misconception("The times rise: a sampler goes from t_start down to 0.")
def times_that_rise(image, t_start, n, noise, alpha, sigma):
    return noised(image, noise, alpha(t_start), sigma(t_start)), falling(t_start, n).flip(0)


@sdedit_start.misconception("The last time, 0, is missing: the picture would keep some noise.")
def zero_left_out(image, t_start, n, noise, alpha, sigma):
    return noised(image, noise, alpha(t_start), sigma(t_start)), falling(t_start, n)[:-1]


@sdedit_start.misconception(
    "These are the times of a whole path of n steps, cut at t_start: fewer than n steps are left."
)
def cut_from_a_whole_path(image, t_start, n, noise, alpha, sigma):
    whole = falling(1.0, n)
    return noised(image, noise, alpha(t_start), sigma(t_start)), whole[whole <= t_start]


@sdedit_start.equivalent
def times_in_a_loop(image, t_start, n, noise, alpha, sigma):
    times = [t_start * (n - i) / n for i in range(n + 1)]
    return image * alpha(t_start) + noise * sigma(t_start), torch.tensor(times)


@sdedit_start.equivalent
def times_counted_down(image, t_start, n, noise, alpha, sigma):
    times = torch.arange(n, -1, -1, device=image.device) * (t_start / n)
    return torch.add(float(alpha(t_start)) * image, noise, alpha=float(sigma(t_start))), times


@sdedit_start.equivalent
def times_of_numpy(image, t_start, n, noise, alpha, sigma):
    import numpy as np

    t = torch.full((len(image),), t_start, dtype=torch.float64)
    a, s = (c.to(image).reshape(-1, *[1] * (image.ndim - 1)) for c in (alpha(t), sigma(t)))
    return a * image + s * noise, torch.from_numpy(np.linspace(t_start, 0, n + 1))


# ---- 3 ---------------------------------------------------------------------------------------------------------------

inpainted = Exercise(
    "editing.inpainted",
    title="A denoiser that knows some pixels",
    points=1,
    contract="inpainted(denoise, known, mask, x, t) is the denoiser's x0_hat for x (B, ...) with the known pixels put "
    "in where mask is 1; where it is 0 it stays; known and mask have a shape that broadcasts to x's.",
    section="inpainting",
    returns="x0_hat",
    finished=("course_utils.guidance.inpaint",),
)


@inpainted.solution
def _(denoise, known, mask, x, t):
    return pasted(mask, known, denoise(x, t))


@inpainted.inputs
def _(g):
    def inputs(shape, dtype, known_shape=None, mask_shape=None):
        known = torch.rand(known_shape or shape, dtype=dtype, generator=g) * 2 - 1
        mask = (torch.rand(mask_shape or shape, generator=g) < 0.5).to(dtype)
        mask[..., 0], mask[..., -1] = 1, 0
        x = 1.5 * randn(g, shape, dtype)
        return {"denoise": toy_denoiser(g), "known": known, "mask": mask, "x": x, "t": some_time(g)}

    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, dtype)
    yield "one known picture for all", inputs((3, 2, 4, 5), torch.float32, (1, 2, 4, 5), (1, 1, 4, 5))
    yield "one mask for all channels", inputs((2, 3, 4, 4), torch.float64, (2, 3, 4, 4), (2, 1, 4, 4))
    yield "points in the plane", inputs((5, 2), torch.float32, (1, 2), (1, 2))
    yield ELSEWHERE, moved(inputs((2, 1, 3, 3), torch.float32), "known", "mask", "x")


def pasted(mask, known, x):
    return mask * known + (1 - mask) * x


@inpainted.misconception("The mask is turned round: it is 1 where a pixel is known.")
def mask_turned_round(denoise, known, mask, x, t):
    return pasted(1 - mask, known, denoise(x, t))


@inpainted.misconception(
    "The known pixels are put into x: clean pixels in a noisy x are what no denoiser was trained on."
)
def put_into_x(denoise, known, mask, x, t):
    return denoise(pasted(mask, known, x), t)


@inpainted.misconception(
    "The known pixels are put into x as well: the denoiser needs x with its noise, put them in after."
)
def put_in_twice(denoise, known, mask, x, t):
    return pasted(mask, known, denoise(pasted(mask, known, x), t))


@inpainted.misconception("The denoiser is not asked: the pixels that are not known keep the noise of x.")
def never_denoised(denoise, known, mask, x, t):
    return pasted(mask, known, x)


@inpainted.misconception("The known pixels are added to what the denoiser says there: put them in its place.")
def added_on_top(denoise, known, mask, x, t):
    return denoise(x, t) + mask * known


@inpainted.misconception("The pixels to fill in are 0: there the denoiser's own x0_hat belongs.")
def hole_left_empty(denoise, known, mask, x, t):
    return mask * known + 0 * denoise(x, t)


@inpainted.misconception(
    "The mean of known and predicted is taken: known pixels are known, nothing is left to average."
)
def averaged_with_known(denoise, known, mask, x, t):
    x0 = denoise(x, t)
    return pasted(mask, (known + x0) / 2, x0)


@inpainted.misconception("The known pixels are not used: this is the denoiser as it was.")
def mask_not_used(denoise, known, mask, x, t):
    return denoise(x, t)


@inpainted.misconception("The known picture stands everywhere: where the mask is 0 the denoiser fills in.")
def known_everywhere(denoise, known, mask, x, t):
    return known + 0 * denoise(x, t)


@inpainted.misconception("The known picture is added everywhere: multiply it by the mask.")
def known_not_masked(denoise, known, mask, x, t):
    return known + (1 - mask) * denoise(x, t)


@inpainted.equivalent
def with_where(denoise, known, mask, x, t):
    return torch.where(mask.bool(), known, denoise(x, t))


@inpainted.equivalent
def with_lerp(denoise, known, mask, x, t):
    x0 = denoise(x, t)
    return torch.lerp(x0, known.expand_as(x0), mask.expand_as(x0))


@inpainted.equivalent
def correction_of_the_known(denoise, known, mask, x, t):
    x0 = denoise(x, t)
    return x0 - mask * (x0 - known)


@inpainted.equivalent
def filled_where_unknown(denoise, known, mask, x, t):
    unknown = mask.expand(x.shape) < 0.5
    return known.expand(x.shape).masked_fill(unknown, 0) + denoise(x, t).masked_fill(~unknown, 0)


# ---- 4 ---------------------------------------------------------------------------------------------------------------

renoise = Exercise(
    "editing.renoise",
    title="Back up into the noise",
    points=2,
    contract="renoise(x, alpha_from, sigma_from, alpha_to, sigma_to, noise) carries x (B, ...) from one time up to a "
    "noisier one: a draw of q(x_to | x_from) made with the given noise; the other four are numbers.",
    section="repaint",
    returns="x_to",
    finished=("course_utils.schedules.NoiseSchedule.renoise",),
)


@renoise.solution
def _(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    ratio = alpha_to / alpha_from
    return with_std(x, ratio, math.sqrt(max(0.0, sigma_to**2 - (ratio * sigma_from) ** 2)), noise)


@renoise.inputs
def _(g):
    def inputs(shape, dtype, schedule, t_from, t_to):
        levels = schedule.alpha(t_from), schedule.sigma(t_from), schedule.alpha(t_to), schedule.sigma(t_to)
        names = ("alpha_from", "sigma_from", "alpha_to", "sigma_to")
        numbers = {n: level.item() for n, level in zip(names, levels, strict=True)}
        return {"x": randn(g, shape, dtype), **numbers, "noise": randn(g, shape, dtype)}

    cosine = CosineSchedule(None)
    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, dtype, cosine, some_time(g, 8, 24), some_time(g, 28, 60))
    yield "points in the plane, another schedule", inputs((5, 2), torch.float32, LinearSchedule(64), 0.25, 0.5)
    yield "from clean data", inputs((2, 1, 3, 3), torch.float64, cosine, 0.0, 0.5)
    yield "a schedule that keeps the signal", inputs((4, 2), torch.float64, VESchedule(0.1, 3.0), 0.25, 0.75)
    yield ELSEWHERE, moved(inputs((2, 1, 3, 3), torch.float32, cosine, 0.25, 0.5), "x", "noise")


def with_std(x, ratio, std, noise):
    return ratio * x + std * noise


@renoise.misconception("x is taken for clean data: it already has noise, so that alpha_to and sigma_to are too much.")
def as_from_clean_data(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    return with_std(x, alpha_to, sigma_to, noise)


@renoise.misconception(
    "The noise of the new time is added whole: x keeps a part of its own, and only the rest is missing."
)
def all_of_the_noise(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    return with_std(x, alpha_to / alpha_from, sigma_to, noise)


@renoise.misconception("The noise that x has shrinks with it: its variance is (ratio sigma_from)^2, not sigma_from^2.")
def old_noise_not_shrunk(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    return with_std(x, alpha_to / alpha_from, math.sqrt(sigma_to**2 - sigma_from**2), noise)


@renoise.misconception("The ratio is not squared where the variance of the old noise is taken away.")
def ratio_not_squared(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    ratio = alpha_to / alpha_from
    return with_std(x, ratio, math.sqrt(sigma_to**2 - ratio * sigma_from**2), noise)


@renoise.misconception("This multiplies the noise by its variance: take the square root.")
def variance_for_deviation(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    ratio = alpha_to / alpha_from
    return with_std(x, ratio, sigma_to**2 - (ratio * sigma_from) ** 2, noise)


@renoise.misconception("Standard deviations are subtracted: of independent noises the variances add up.")
def deviations_subtracted(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    ratio = alpha_to / alpha_from
    return with_std(x, ratio, sigma_to - ratio * sigma_from, noise)


@renoise.misconception("x does not shrink: going up, the signal falls from alpha_from to alpha_to.")
def signal_does_not_shrink(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    ratio = alpha_to / alpha_from
    return with_std(x, 1, math.sqrt(sigma_to**2 - (ratio * sigma_from) ** 2), noise)


@renoise.misconception("The ratio is upside down: going up, the signal shrinks by alpha_to / alpha_from.")
def ratio_upside_down(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    ratio = alpha_from / alpha_to
    return with_std(x, ratio, math.sqrt(sigma_to**2 - (ratio * sigma_from) ** 2), noise)  # raises where it is negative


@renoise.misconception("Other noise was drawn: use the one that is given.")
def renoised_by_another_draw(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    ratio = alpha_to / alpha_from
    return with_std(x, ratio, math.sqrt(sigma_to**2 - (ratio * sigma_from) ** 2), torch.randn_like(x))


@renoise.misconception("The noise is not added: x only shrinks, and has too little noise for its new time.")
def no_noise_added(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    return with_std(x, alpha_to / alpha_from, 0, noise)


@renoise.misconception("sigma_to - sigma_from multiplies the noise: subtract variances, and the old noise has shrunk.")
def difference_of_sigmas(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    return with_std(x, alpha_to / alpha_from, sigma_to - sigma_from, noise)


@renoise.misconception("The ratio is alpha_to: x has the factor alpha_from already, so divide by it.")
def not_divided_by_alpha_from(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    return with_std(x, alpha_to, math.sqrt(sigma_to**2 - (alpha_to * sigma_from) ** 2), noise)


@renoise.misconception("The variance of the old noise is added under the root: take it away, x has it already.")
def old_variance_added(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    ratio = alpha_to / alpha_from
    return with_std(x, ratio, math.sqrt(sigma_to**2 + (ratio * sigma_from) ** 2), noise)


@renoise.equivalent
def in_noise_to_signal(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    more = (sigma_to / alpha_to) ** 2 - (sigma_from / alpha_from) ** 2
    return alpha_to * (x / alpha_from + math.sqrt(more) * noise)


@renoise.equivalent
def with_tensors(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    a, s, b, r = torch.tensor([alpha_from, sigma_from, alpha_to, sigma_to], dtype=torch.float64)
    variance = r.square() - (b * s / a).square()
    return (b / a) * x + variance.clamp(min=0).sqrt() * noise


@renoise.equivalent
def kept_and_new(x, alpha_from, sigma_from, alpha_to, sigma_to, noise):
    kept = x.mul(alpha_to).div(alpha_from)
    old = alpha_to * sigma_from / alpha_from
    return torch.add(kept, noise, alpha=((sigma_to - old) * (sigma_to + old)) ** 0.5)


# ---- 5 ---------------------------------------------------------------------------------------------------------------

repaint_times = Exercise(
    "editing.repaint_times",
    title="Times that go back up",
    points=2,
    contract="repaint_times(times, jump, n_resample) is the tensor of times in which every stretch of `jump` steps of "
    "the falling times (n + 1,) is walked n_resample times, with one jump back up to its start between two walks; the "
    "last stretch may be a short one.",
    section="repaint",
    returns="times",
    finished=("course_utils.guidance.repaint_times",),
)


@repaint_times.observe
def _(value, inputs):
    return {"times": in_float32(value)}


@repaint_times.solution
def _(times, jump, n_resample):
    return guidance.repaint_times(times, jump, n_resample)


@repaint_times.inputs
def _(g):
    def inputs(n, jump, n_resample):
        return {"times": falling(1.0, n), "jump": jump, "n_resample": n_resample}

    yield "two stretches of two steps, each walked twice", inputs(4, 2, 2)
    yield "walked three times", inputs(6, 3, 3)
    yield "a short last stretch", inputs(7, 3, 2)
    yield "jumps of one step", inputs(5, 1, 4)
    yield "walked once", inputs(6, 2, 1)
    yield "one stretch", inputs(4, 9, 3)
    n, jump, n_resample = (int(torch.randint(low, high, (), generator=g)) for low, high in ((8, 20), (2, 6), (2, 5)))
    yield "any numbers", inputs(n, jump, n_resample)
    uneven = torch.cat(
        [torch.rand(9, dtype=torch.float64, generator=g).sort(descending=True)[0], torch.zeros(1).double()]
    )
    yield "uneven times", {"times": uneven, "jump": 4, "n_resample": 2}


def stretches(times, jump):
    """Every stretch of `jump` steps, both ends included."""
    return [times[i : i + jump + 1] for i in range(0, len(times) - 1, jump)]


def walked(times, stretches, n_resample):
    """From the first time on, each stretch so many times, with the jump back to its start."""
    return torch.cat([times[:1]] + [piece for s in stretches for piece in [s[1:], *[s] * (n_resample - 1)]])


@repaint_times.misconception("Each stretch is walked once too often: n_resample counts the first walk, too.")
def one_walk_too_many(times, jump, n_resample):
    return walked(times, stretches(times, jump), n_resample + 1)


@repaint_times.misconception(
    "The whole path is repeated: the jumps go back by `jump` steps only, from each stretch's end."
)
def whole_path_again(times, jump, n_resample):
    return torch.cat([times] * n_resample)


@repaint_times.misconception("Each time is repeated where it stands: nothing goes back up.")
def each_time_repeated(times, jump, n_resample):
    return times.repeat_interleave(n_resample)


@repaint_times.misconception("The end of a stretch stands twice: the next stretch starts where the last one ended.")
def ends_doubled(times, jump, n_resample):
    return torch.cat([s for s in stretches(times, jump) for _ in range(n_resample)])


@repaint_times.misconception("The jump ends one step short of the stretch's start.")
def jump_too_short(times, jump, n_resample):
    pieces = [s[1:] for s in stretches(times, jump) for _ in range(n_resample)]
    return torch.cat([times[:1], *pieces])


@repaint_times.misconception("The stretches have jump - 1 steps: `jump` steps have jump + 1 ends.")
def stretch_too_short(times, jump, n_resample):
    return walked(times, stretches(times, max(jump - 1, 1)), n_resample)


@repaint_times.misconception("The stretches have jump + 1 steps: each starts where the last one ended.")
def stretch_too_long(times, jump, n_resample):
    return walked(times, stretches(times, jump + 1), n_resample)


@repaint_times.misconception("The short last stretch is left out: the times must end where they ended, at 0.")
def short_stretch_lost(times, jump, n_resample):
    whole = [s for s in stretches(times, jump) if len(s) == jump + 1]
    return walked(times, whole, n_resample)


@repaint_times.misconception("The last stretch is walked only once: every stretch is walked n_resample times.")
def last_stretch_once(times, jump, n_resample):
    *before, end = stretches(times, jump)
    return torch.cat([walked(times, before, n_resample), end[1:]])


@repaint_times.misconception("Only the first stretch is walked again: every stretch is.")
def first_stretch_only(times, jump, n_resample):
    first = stretches(times, jump)[0]
    return torch.cat([*[first] * n_resample, times[jump + 1 :]])


@repaint_times.misconception(
    "The way back up goes step by step, as in the paper: that is the same in law, but here one jump does it."
)
def up_step_by_step(times, jump, n_resample):
    pieces = [times[:1]]
    for s in stretches(times, jump):
        pieces += [s[1:], *[s.flip(0)[1:], s[1:]] * (n_resample - 1)]
    return torch.cat(pieces)


@repaint_times.misconception("There are no jumps: these are the times that were given.")
def no_jumps(times, jump, n_resample):
    return times.clone()


@repaint_times.misconception("The first time of a stretch stands twice: its first walk starts where you already are.")
def starts_doubled(times, jump, n_resample):
    return torch.cat([times[:1], *(s for s in stretches(times, jump) for _ in range(n_resample))])


@repaint_times.misconception("The stretches lack their end: a slice leaves out its last index, so go to jump + 1.")
def slice_too_short(times, jump, n_resample):
    return walked(times, [times[i : i + jump] for i in range(0, len(times) - 1, jump)], n_resample)


@repaint_times.equivalent
def times_listed(times, jump, n_resample):
    n, listed = len(times) - 1, [times[0].item()]
    for start in range(0, n, jump):
        end = min(start + jump, n)
        for walk in range(n_resample):
            if walk > 0:
                listed.append(times[start].item())
            listed.extend(times[start + 1 : end + 1].tolist())
    return torch.tensor(listed)


@repaint_times.equivalent
def by_index(times, jump, n_resample):
    n = len(times) - 1
    index = [0]
    for start in range(0, n, jump):
        stretch = list(range(start, min(start + jump, n) + 1))
        index += (stretch * n_resample)[1:]
    return times[index]


@repaint_times.equivalent
def walked_by_hand(times, jump, n_resample):
    i, left, path = 0, n_resample - 1, [times[0]]
    while i < len(times) - 1:
        i += 1
        path.append(times[i])
        if i % jump == 0 or i == len(times) - 1:
            if left:
                left -= 1
                i = (i - 1) // jump * jump
                path.append(times[i])
            else:
                left = n_resample - 1
    return torch.stack(path)


# ---- 6 ---------------------------------------------------------------------------------------------------------------

anagram = Exercise(
    "editing.anagram",
    title="One picture, seen in two ways",
    points=2,
    contract="anagram(denoise, denoise_turned, view, inverse, x, t) is x0_hat, the mean of what denoise says of x and "
    "of what denoise_turned says of x in its view, turned back; view and inverse are functions on pictures.",
    section="anagrams",
    returns="x0_hat",
    finished=("course_utils.guidance.anagram",),
)


@anagram.solution
def _(denoise, denoise_turned, view, inverse, x, t):
    return guidance.anagram([denoise, denoise_turned], [(torch.Tensor.clone, torch.Tensor.clone), (view, inverse)])(
        x, t
    )


def quarter_left(x):
    return torch.rot90(x, 1, (-2, -1))


def quarter_right(x):
    return torch.rot90(x, -1, (-2, -1))


def upside_down(x):
    return x.flip(-2)


def negated(x):
    return -x


def shifted(x):
    return x.roll((1, 2), (-2, -1))


def shifted_back(x):
    return x.roll((-1, -2), (-2, -1))


@anagram.inputs
def _(g):
    def inputs(shape, dtype, view, inverse):
        toys = {"denoise": toy_denoiser(g), "denoise_turned": toy_denoiser(g)}
        return {**toys, "view": view, "inverse": inverse, "x": randn(g, shape, dtype), "t": some_time(g)}

    yield "a quarter turn", inputs((2, 1, 4, 4), torch.float32, quarter_left, quarter_right)
    yield "a batch of one, upside down", inputs((1, 3, 4, 4), torch.float32, upside_down, upside_down)
    yield "pictures that are not square", inputs((3, 2, 5, 4), torch.float32, shifted, shifted_back)
    yield (
        "a quarter turn of pictures that are not square",
        inputs((2, 1, 3, 5), torch.float32, quarter_left, quarter_right),
    )
    yield "the negative", inputs((2, 3, 3, 3), torch.float32, negated, negated)
    yield "float64", inputs((2, 2, 4, 4), torch.float64, quarter_right, quarter_left)
    yield ELSEWHERE, moved(inputs((2, 1, 3, 3), torch.float32, quarter_left, quarter_right), "x")


@anagram.misconception("What is seen in the view is not turned back: two pictures in two positions are averaged.")
def not_turned_back(denoise, denoise_turned, view, inverse, x, t):
    return (denoise(x, t) + denoise_turned(view(x), t)) / 2


@anagram.misconception(
    "The view is applied again in place of its inverse: that is right only for a view that undoes itself."
)
def turned_on(denoise, denoise_turned, view, inverse, x, t):
    return (denoise(x, t) + view(denoise_turned(view(x), t))) / 2


@anagram.misconception("View and inverse are swapped: first the view, then the denoiser, then the inverse.")
def inverse_first(denoise, denoise_turned, view, inverse, x, t):
    return (denoise(x, t) + view(denoise_turned(inverse(x), t))) / 2


@anagram.misconception("The second denoiser never sees the view: it gets x as it is, and its answer is turned.")
def only_turned_after(denoise, denoise_turned, view, inverse, x, t):
    return (denoise(x, t) + inverse(denoise_turned(x, t))) / 2


@anagram.misconception("The two are added: take the mean, or the weights sum to two and x0_hat is twice too large.")
def added_not_averaged(denoise, denoise_turned, view, inverse, x, t):
    return denoise(x, t) + inverse(denoise_turned(view(x), t))


@anagram.misconception("The two denoisers are swapped: denoise_turned is the one that sees the view.")
def denoisers_swapped(denoise, denoise_turned, view, inverse, x, t):
    return (denoise_turned(x, t) + inverse(denoise(view(x), t))) / 2


@anagram.misconception("Both views come from the first denoiser: the second has its own picture to say.")
def one_denoiser_twice(denoise, denoise_turned, view, inverse, x, t):
    return (denoise(x, t) + inverse(denoise(view(x), t))) / 2


@anagram.misconception("Only the view's picture is left: the mean of both is what looks right in both.")
def only_the_view(denoise, denoise_turned, view, inverse, x, t):
    return inverse(denoise_turned(view(x), t))


@anagram.misconception("The upright picture is turned back, too: the inverse belongs to the second alone.")
def both_turned_back(denoise, denoise_turned, view, inverse, x, t):
    upright, seen = denoise(x, t), denoise_turned(view(x), t)
    return (inverse(upright) + inverse(seen)) / 2


@anagram.misconception(
    "The denoisers follow one another: both look at the same noisy x, and their answers are averaged."
)
def one_after_the_other(denoise, denoise_turned, view, inverse, x, t):
    return inverse(denoise_turned(view(denoise(x, t)), t))


@anagram.misconception("Only the second is divided by 2: put the sum in brackets.")
def second_halved_alone(denoise, denoise_turned, view, inverse, x, t):
    return denoise(x, t) + inverse(denoise_turned(view(x), t)) / 2


@anagram.equivalent
def mean_of_a_stack(denoise, denoise_turned, view, inverse, x, t):
    return torch.stack([denoise(x, t), inverse(denoise_turned(view(x), t))]).mean(0)


@anagram.equivalent
def by_lerp(denoise, denoise_turned, view, inverse, x, t):
    upright = denoise(x, t)
    return torch.lerp(upright, inverse(denoise_turned(view(x.clone()), t)), 0.5)


@anagram.equivalent
def in_a_loop_of_views(denoise, denoise_turned, view, inverse, x, t):
    total = torch.zeros_like(x)
    for there, denoiser, back in ((lambda x: x, denoise, lambda x: x), (view, denoise_turned, inverse)):
        total = total + back(denoiser(there(x), t)) / 2
    return total


# ---- 7 ---------------------------------------------------------------------------------------------------------------

hybrid = Exercise(
    "editing.hybrid",
    title="One picture from afar, another from close by",
    points=2,
    contract="hybrid(denoise_far, denoise_near, blur, x, t) is x0_hat whose blurred part comes from denoise_far and "
    "the rest from denoise_near; blur is a linear function on pictures, and the two filters must sum to the identity.",
    section="hybrids",
    returns="x0_hat",
    finished=("course_utils.guidance.factorized",),
)


@hybrid.solution
def _(denoise_far, denoise_near, blur, x, t):
    def rest(x):
        return x - blur(x)

    return guidance.factorized([denoise_far, denoise_near], [blur, rest])(x, t)


def soft_blur(x):
    """Each pixel with its four neighbours, the edges joined."""
    sides = x.roll(1, -1) + x.roll(-1, -1) + x.roll(1, -2) + x.roll(-1, -2)
    return x / 2 + sides / 8


def row_blur(x):
    """Each pixel with the two to its left: motion blur."""
    return 0.5 * x + 0.3 * x.roll(1, -1) + 0.2 * x.roll(2, -1)


def wide_blur(x):
    return soft_blur(soft_blur(soft_blur(x)))


@hybrid.inputs
def _(g):
    def inputs(shape, dtype, blur):
        toys = {"denoise_far": toy_denoiser(g), "denoise_near": toy_denoiser(g)}
        return {**toys, "blur": blur, "x": randn(g, shape, dtype), "t": some_time(g)}

    for (name, (shape, dtype)), blur in zip(SHAPES.items(), (soft_blur, wide_blur, row_blur, soft_blur), strict=True):
        yield name, inputs(shape, dtype, blur)
    yield "a blur along the rows", inputs((2, 3, 6, 5), torch.float32, row_blur)
    yield ELSEWHERE, moved(inputs((2, 1, 4, 4), torch.float32, soft_blur), "x")


@hybrid.misconception("The blurred part of the near picture is not taken away: the two filters sum to more than one.")
def blur_counted_twice(denoise_far, denoise_near, blur, x, t):
    return blur(denoise_far(x, t)) + denoise_near(x, t)


@hybrid.misconception("The blur of the far picture is taken away again: what is left is the near picture alone.")
def wrong_blur_taken_away(denoise_far, denoise_near, blur, x, t):
    far, near = denoise_far(x, t), denoise_near(x, t)
    low = blur(far)
    return low + near - low


@hybrid.misconception("The roles are swapped: from afar one sees the blurred part, and that comes from denoise_far.")
def far_and_near_swapped(denoise_far, denoise_near, blur, x, t):
    far, near = denoise_far(x, t), denoise_near(x, t)
    return blur(near) + far - blur(far)


@hybrid.misconception(
    "The filters are applied to x before the denoisers: a blurred x has no white noise, filter x0_hat."
)
def state_filtered(denoise_far, denoise_near, blur, x, t):
    return denoise_far(blur(x), t) + denoise_near(x - blur(x), t)


@hybrid.misconception("The mean of the two is taken: each has its own part, and the parts add up whole.")
def parts_averaged(denoise_far, denoise_near, blur, x, t):
    near = denoise_near(x, t)
    return (blur(denoise_far(x, t)) + near - blur(near)) / 2


@hybrid.misconception("The near part is taken from x: it is near - blur(near), of what denoise_near says.")
def details_of_the_noise(denoise_far, denoise_near, blur, x, t):
    return blur(denoise_far(x, t)) + x - blur(x)


@hybrid.misconception(
    "The blur is applied twice: the rest, near - blur(near), then leaves a gap between the two filters."
)
def blurred_twice(denoise_far, denoise_near, blur, x, t):
    near = denoise_near(x, t)
    return blur(blur(denoise_far(x, t))) + near - blur(near)


@hybrid.misconception("The near part is missing: this is a blurred picture.")
def blurred_part_only(denoise_far, denoise_near, blur, x, t):
    return blur(denoise_far(x, t))


@hybrid.misconception("The far part is missing: these are details around nothing.")
def details_only(denoise_far, denoise_near, blur, x, t):
    near = denoise_near(x, t)
    return near - blur(near)


@hybrid.misconception(
    "Both parts come from denoise_far: this is its whole picture, as the filters sum to the identity."
)
def one_denoiser_for_both(denoise_far, denoise_near, blur, x, t):
    far = denoise_far(x, t)
    return blur(far) + far - blur(far)


@hybrid.misconception("The sign of the details is turned: the rest is near - blur(near).")
def details_turned(denoise_far, denoise_near, blur, x, t):
    near = denoise_near(x, t)
    return blur(denoise_far(x, t)) + blur(near) - near


@hybrid.misconception("The blur of the near picture is added: take it away, the details are near - blur(near).")
def near_blur_added(denoise_far, denoise_near, blur, x, t):
    near = denoise_near(x, t)
    return blur(denoise_far(x, t)) + near + blur(near)


@hybrid.equivalent
def far_put_under_near(denoise_far, denoise_near, blur, x, t):
    near = denoise_near(x, t)
    return near + blur(denoise_far(x, t) - near)


@hybrid.equivalent
def a_list_of_filters(denoise_far, denoise_near, blur, x, t):
    filters = [blur, lambda picture: picture - blur(picture)]
    return sum(f(denoise(x, t)) for f, denoise in zip(filters, (denoise_far, denoise_near), strict=True))


@hybrid.equivalent
def pixel_by_pixel_sum(denoise_far, denoise_near, blur, x, t):
    with torch.no_grad():
        far, near = denoise_far(x, t), denoise_near(x, t)
        both = blur(torch.cat([far, near]))
    n = len(x)
    return torch.stack([both[:n], near, -both[n:]]).sum(0)


# ---- 8 ---------------------------------------------------------------------------------------------------------------

fix_the_inpainting = Exercise(
    "editing.fix_the_inpainting",
    title="Find the bug",
    points=3,
    contract="fix_the_inpainting(denoise, known, mask, x, times, alpha, sigma, noise) is x_0, reached from x by DDIM "
    "steps, with the known pixels pasted after each: noised by noise[i] to the time at which step i ends; alpha and "
    "sigma are tables (n + 1,) for the times (n + 1,).",
    section="editing-mistakes",
    returns="x_0",
    finished=("course_utils.samplers.ddim", "course_utils.guidance.inpaint"),
)


@fix_the_inpainting.solution
def _(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(denoise, mask, x, times, alpha, sigma, lambda i: alpha[i + 1] * known + sigma[i + 1] * noise[i])


def painted(denoise, mask, x, times, alpha, sigma, known_after):
    """DDIM steps, after each of which known_after(i) is pasted where mask is 1."""
    for i in range(len(times) - 1):
        x = pasted(mask, known_after(i), ddim_move(denoise, x, i, times, alpha, sigma))
    return x


def ddim_move(denoise, x, i, times, alpha, sigma):
    x0_hat = denoise(x, times[i])
    eps = (x - alpha[i] * x0_hat) / sigma[i]
    return alpha[i + 1] * x0_hat + sigma[i + 1] * eps


@fix_the_inpainting.inputs
def _(g):
    def inputs(shape, dtype, n, schedule, denoise=None):
        times = schedule.timesteps(n)
        known = torch.rand(shape, dtype=dtype, generator=g) * 2 - 1
        mask = (torch.rand(shape, generator=g) < 0.5).to(dtype)
        mask[..., 0], mask[..., -1] = 1, 0
        return {
            "denoise": denoise or toy_denoiser(g),
            "known": known,
            "mask": mask,
            "x": randn(g, shape, dtype),
            "times": times,
            "alpha": schedule.alpha(times),
            "sigma": schedule.sigma(times),
            "noise": randn(g, (n, *shape), dtype),
        }

    cosine = LinearSchedule(16, 0.05, 0.5)
    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, dtype, 4, cosine)
    exact = correlated_denoiser(cosine.alpha, cosine.sigma)
    yield "the Gaussian, whose denoiser is exact", inputs((50, 2), torch.float64, 8, cosine, exact)
    yield "one step", inputs((2, 1, 3, 3), torch.float64, 1, cosine)
    names = ("known", "mask", "x", "noise")
    yield ELSEWHERE, moved(inputs((2, 1, 3, 3), torch.float32, 3, cosine), *names)


@fix_the_inpainting.misconception(
    "This is still the program as it was given: at which time is x after the step, and at which is what is pasted?"
)
def as_it_was_given(denoise, known, mask, x, times, alpha, sigma, noise):
    for i in range(len(times) - 1):
        x0_hat = denoise(x, times[i])
        eps = (x - alpha[i] * x0_hat) / sigma[i]
        x = alpha[i + 1] * x0_hat + sigma[i + 1] * eps
        pasted = alpha[i] * known + sigma[i] * noise[i]
        x = mask * pasted + (1 - mask) * x
    return x


@fix_the_inpainting.misconception(
    "Clean pixels are pasted: x has the noise of its time everywhere, and so must they.", read="inpainting"
)
def clean_pixels_pasted(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(denoise, mask, x, times, alpha, sigma, lambda i: known)


@fix_the_inpainting.misconception(
    "Half of the bug is left: the noise is of the new time, but the signal of the old one."
)
def signal_still_old(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(denoise, mask, x, times, alpha, sigma, lambda i: alpha[i] * known + sigma[i + 1] * noise[i])


@fix_the_inpainting.misconception(
    "Half of the bug is left: the signal is of the new time, but the noise of the old one."
)
def noise_still_old(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(denoise, mask, x, times, alpha, sigma, lambda i: alpha[i + 1] * known + sigma[i] * noise[i])


@fix_the_inpainting.misconception(
    "The known pixels lost their factor alpha: noised to a time they are alpha known + sigma noise.", read="inpainting"
)
def known_not_scaled(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(denoise, mask, x, times, alpha, sigma, lambda i: known + sigma[i + 1] * noise[i])


@fix_the_inpainting.misconception("The mask is not the bug: it is 1 where pixels are known.", read="inpainting")
def mask_inverted(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(denoise, 1 - mask, x, times, alpha, sigma, lambda i: alpha[i + 1] * known + sigma[i + 1] * noise[i])


@fix_the_inpainting.misconception("Other noise was drawn: noise[i] is there for step i.")
def own_noise_pasted(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(
        denoise, mask, x, times, alpha, sigma, lambda i: alpha[i + 1] * known + sigma[i + 1] * torch.randn_like(x)
    )


@fix_the_inpainting.misconception("The same noise is pasted after every step: each has its own, noise[i].")
def same_noise_again(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(denoise, mask, x, times, alpha, sigma, lambda i: alpha[i + 1] * known + sigma[i + 1] * noise[0])


@fix_the_inpainting.misconception(
    "The known pixels are pasted before the step: the times agree, but the last step changes them again."
)
def pasted_before_the_step(denoise, known, mask, x, times, alpha, sigma, noise):
    for i in range(len(times) - 1):
        x = pasted(mask, alpha[i] * known + sigma[i] * noise[i], x)
        x = ddim_move(denoise, x, i, times, alpha, sigma)
    return x


@fix_the_inpainting.misconception(
    "Known pixels are put into x0_hat: that is the wrapper's way, and a good one, but mend the program as it is.",
    read="inpainting",
)
def put_into_x0_hat(denoise, known, mask, x, times, alpha, sigma, noise):
    for i in range(len(times) - 1):
        x0_hat = pasted(mask, known, denoise(x, times[i]))
        x = alpha[i + 1] * x0_hat + sigma[i + 1] / sigma[i] * (x - alpha[i] * x0_hat)
    return x


@fix_the_inpainting.misconception(
    "The denoiser is asked at the time where the step ends: the bug is elsewhere, x has the noise of times[i]."
)
def asked_at_the_next_time(denoise, known, mask, x, times, alpha, sigma, noise):
    for i in range(len(times) - 1):
        x0_hat = denoise(x, times[i + 1])
        x = alpha[i + 1] * x0_hat + sigma[i + 1] / sigma[i] * (x - alpha[i] * x0_hat)
        x = pasted(mask, alpha[i + 1] * known + sigma[i + 1] * noise[i], x)
    return x


@fix_the_inpainting.misconception("The pasting was removed: this is DDIM, and the known pixels are not kept.")
def nothing_pasted(denoise, known, mask, x, times, alpha, sigma, noise):
    return painted(denoise, 0 * mask, x, times, alpha, sigma, lambda i: known)


@fix_the_inpainting.misconception(
    "The known pixels are put back only at the end: then the rest was never painted to fit them, so paste every step."
)
def pasted_at_the_end(denoise, known, mask, x, times, alpha, sigma, noise):
    for i in range(len(times) - 1):
        x = ddim_move(denoise, x, i, times, alpha, sigma)
    return pasted(mask, alpha[-1] * known + sigma[-1] * noise[-1], x)


@fix_the_inpainting.equivalent
def mended(denoise, known, mask, x, times, alpha, sigma, noise):
    for i in range(len(times) - 1):
        x0_hat = denoise(x, times[i])
        eps = (x - alpha[i] * x0_hat) / sigma[i]
        x = alpha[i + 1] * x0_hat + sigma[i + 1] * eps
        pasted = alpha[i + 1] * known + sigma[i + 1] * noise[i]
        x = mask * pasted + (1 - mask) * x
    return x


@fix_the_inpainting.equivalent
def mended_with_where(denoise, known, mask, x, times, alpha, sigma, noise):
    levels = list(zip(alpha.tolist(), sigma.tolist(), strict=True))
    for t, (a, s), (a_next, s_next), z in zip(times, levels, levels[1:], noise, strict=False):
        x0_hat = denoise(x, t)
        x = s_next / s * x + (a_next - a * s_next / s) * x0_hat
        x = torch.where(mask > 0, a_next * known + s_next * z, x)
    return x


@fix_the_inpainting.equivalent
def mended_from_the_other_end(denoise, known, mask, x, times, alpha, sigma, noise):
    i = 1
    while i < len(times):
        clean = denoise(x, times[i - 1].item())
        direction = (x - clean * alpha[i - 1]).div(sigma[i - 1])
        x = torch.lerp(clean * alpha[i] + direction * sigma[i], known * alpha[i] + noise[i - 1] * sigma[i], mask)
        i = i + 1
    return x
