"""Editing: Gaussians whose conditional is known exactly, oracles with a symmetry, filters, times, and bad input."""

import functools
import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from course_utils.denoiser import from_x0, to_x0
from course_utils.exercises import EXERCISES
from course_utils.guidance import (
    anagram,
    cfg,
    dynamic_clip,
    factorized,
    inpaint,
    repaint,
    repaint_times,
    sdedit,
)
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim, ddpm, dpmpp_2m, heun
from course_utils.schedules import CosineSchedule, LinearSchedule, VESchedule
from course_utils.views import blur, colour, flip, grey, high_pass, jigsaw, low_pass, negative, rotation

SAMPLERS = [ddpm, ddim, functools.partial(ddim, eta=0.5), heun, dpmpp_2m]
SCHEDULES = [LinearSchedule(), CosineSchedule(None), VESchedule()]
VIEWS = {
    "as it is": rotation(0),
    "quarter": rotation(1),
    "half": rotation(2),
    "upside down": flip(),
    "mirror": flip(-1),
}
VIEWS |= {"negative": negative(), "jigsaw of 2": jigsaw(2, seed=1), "jigsaw of 3": jigsaw(3, seed=1)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=2, channels=3, height=6, width=6, seed=0):
    return torch.rand(n, channels, height, width, dtype=torch.float64, generator=seeded(seed)) * 2 - 1


def toy(a):
    """A smooth denoiser without any symmetry, so that a swap or a missing inverse shows."""

    def denoise(x, t):
        place = torch.arange(x[0].numel(), dtype=x.dtype).reshape(x.shape[1:])
        return torch.sin(a * x + place) * (1 - t) + 0.1 * a

    return denoise


def last(path):
    *_, x = path
    return x


# ---- the theorem: acting on x0_hat is acting on the noise, and on every other kind -----------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_editing_x0_hat_is_editing_eps(schedule):
    x, t, views = pictures(), 0.4, [rotation(1), jigsaw(3)]
    alpha, sigma = schedule.at(t, x)
    eps = functools.partial(from_x0, "eps", alpha=alpha, sigma=sigma)

    known, mask = pictures(seed=1), pictures(1, seed=2) > 0
    expected = torch.where(mask, eps(known, x), eps(toy(1)(x, t), x))
    torch.testing.assert_close(eps(inpaint(toy(1), known, mask)(x, t), x), expected)

    noises = [inverse(eps(toy(a)(view(x), t), view(x))) for a, (view, inverse) in zip((1, 2), views, strict=True)]
    torch.testing.assert_close(eps(anagram([toy(1), toy(2)], views)(x, t), x), sum(noises) / 2)

    filters = low_pass(1.0), high_pass(1.0)
    noises = [f(eps(toy(a)(x, t), x)) for a, f in zip((1, 2), filters, strict=True)]
    torch.testing.assert_close(eps(factorized([toy(1), toy(2)], filters)(x, t), x), sum(noises))


# ---- inpainting ------------------------------------------------------------------------------------------------------

RHO, KNOWN = 0.8, 1.5  # x0 ~ N(0, [[1, rho], [rho, 1]]) and its first coordinate is known
EXACT_MEAN, EXACT_VARIANCE = RHO * KNOWN, 1 - RHO**2  # 1.20 and 0.36


def correlated(schedule):
    """The exact denoiser of the correlated Gaussian: along (1, 1) and (1, -1) it is two Gaussians in one dimension."""

    def denoise(x, t):
        alpha, sigma = (c.item() for c in schedule.at(t, x))
        sums, differences = (
            variance * alpha / (variance * alpha**2 + sigma**2) * (x[:, 0] + sign * x[:, 1]) / 2
            for sign, variance in ((1, 1 + RHO), (-1, 1 - RHO))
        )
        return torch.stack([sums + differences, sums - differences], dim=1)

    return denoise


def test_the_correlated_denoiser_is_exact():
    """alpha C (alpha^2 C + sigma^2 I)^-1 x, the mean of x0 given x."""
    schedule, x = CosineSchedule(None), torch.randn(5, 2, dtype=torch.float64)
    C, identity = torch.tensor([[1, RHO], [RHO, 1]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    alpha, sigma = schedule.at(0.3, x)
    exact = x @ torch.linalg.solve(alpha**2 * C + sigma**2 * identity, alpha * C)
    torch.testing.assert_close(correlated(schedule)(x, 0.3), exact)
    assert torch.linalg.solve(C[:1, :1], C[:1, 1:]).item() * KNOWN == EXACT_MEAN


def known_first(x):
    return torch.tensor([[KNOWN, 0.0]]).to(x), torch.tensor([True, False])


def bias_of_the_mean(n, n_resample, schedule):
    """The mean of the unknown coordinate, by hand: the means follow the steps of `ddpm` without their noise."""
    denoise, times = correlated(schedule), schedule.timesteps(n)
    mean = torch.zeros(1, 2, dtype=torch.float64)
    levels = list(zip(schedule.alpha(times).tolist(), schedule.sigma(times).tolist(), strict=True))
    for t, (alpha, sigma), (alpha_next, sigma_next) in zip(times, levels, levels[1:], strict=False):
        for again in range(n_resample):
            variance_up = sigma**2 - (alpha / alpha_next * sigma_next) ** 2
            x0 = denoise(mean, t)
            x0[:, 0] = KNOWN
            stepped = (alpha / alpha_next * sigma_next**2 * mean + alpha_next * variance_up * x0) / sigma**2
            mean = stepped if again == n_resample - 1 else alpha / alpha_next * stepped
    return mean[0, 1].item()


@pytest.mark.parametrize("n_resample, mean", [(1, 0.73), (2, 0.93), (5, 1.09), (10, 1.15)])
def test_inpainting_a_gaussian_is_biased_and_resampling_mends_it(n_resample, mean):
    """The exact conditional mean is 1.20. Sampled means have a standard error of 0.005."""
    schedule, n = CosineSchedule(None), 50
    x = torch.randn(20_000, 2, dtype=torch.float64, generator=seeded())
    times = repaint_times(schedule.timesteps(n), jump=1, n_resample=n_resample)
    sampler = repaint(ddpm, generator=seeded(1))
    x0 = last(sampler(inpaint(correlated(schedule), *known_first(x)), schedule, x, times, generator=seeded(2)))
    assert (x0[:, 0] == KNOWN).all()
    by_hand = bias_of_the_mean(n, n_resample, schedule)
    assert x0[:, 1].mean().item() == pytest.approx(by_hand, abs=0.02)
    assert by_hand == pytest.approx(mean, abs=0.005) and by_hand < EXACT_MEAN


def test_many_small_steps_with_much_resampling_come_near_the_conditional():
    """Mean 1.20 and variance 0.36: walking up and down, the unknown coordinate forgets all but the known one."""
    schedule = CosineSchedule(None)
    assert bias_of_the_mean(200, 40, schedule) == pytest.approx(EXACT_MEAN, abs=0.015)
    assert bias_of_the_mean(200, 1, schedule) < 0.76  # smaller steps alone do not help
    x = torch.randn(5_000, 2, dtype=torch.float64, generator=seeded())
    denoise = inpaint(correlated(schedule), *known_first(x))
    variances = []
    for n_resample in (1, 20):
        times = repaint_times(schedule.timesteps(100), jump=1, n_resample=n_resample)
        x0 = last(repaint(ddpm, seeded(1))(denoise, schedule, x, times, generator=seeded(2)))[:, 1]
        variances.append(x0.var().item())
    assert x0.mean().item() == pytest.approx(EXACT_MEAN, abs=0.05)
    assert abs(variances[1] - EXACT_VARIANCE) < 0.09 < 0.12 < abs(variances[0] - EXACT_VARIANCE)


def test_pasting_fresh_noise_into_x_t_is_biased_as_much():
    """RePaint's own form: known coordinates with fresh noise pasted after every step. Mean as by hand: the same."""
    schedule, n = CosineSchedule(None), 50
    denoise, times = correlated(schedule), schedule.timesteps(n)
    g = seeded(3)
    x = torch.randn(20_000, 2, dtype=torch.float64, generator=g)
    for t, t_next in zip(times, times[1:], strict=False):
        x = next(ddpm(denoise, schedule, x, torch.stack([t, t_next]), generator=g))
        noise = torch.randn(len(x), dtype=x.dtype, generator=g)
        x[:, 0] = schedule.alpha(t_next) * KNOWN + schedule.sigma(t_next) * noise
    assert x[:, 1].mean().item() == pytest.approx(bias_of_the_mean(n, 1, schedule), abs=0.02)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim", "ddim eta", "heun", "dpmpp_2m"])
def test_every_sampler_ends_on_the_known_pixels(sampler, schedule):
    known, mask = pictures(1), torch.zeros(6, 6)
    mask[:3] = 1
    x = schedule.prior(4, 3, 6, 6, generator=seeded()).double()
    x0 = last(sampler(inpaint(toy(1), known, mask), schedule, x, schedule.timesteps(8)))
    torch.testing.assert_close(x0[:, :, :3], known[:, :, :3].expand(4, -1, -1, -1), rtol=0, atol=1e-9)
    assert (x0[:, :, 3:] - known[:, :, 3:]).abs().mean() > 0.1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_known_pixels_have_the_noise_of_their_time(schedule):
    """ddim keeps the very noise of the start; ddpm's has its variance at every time, though drawn on the way."""
    known, times = torch.full((1, 1), 0.7, dtype=torch.float64), schedule.timesteps(10)
    denoise = inpaint(toy(1), known, torch.ones(1))
    noise = torch.randn(50_000, 1, dtype=torch.float64, generator=seeded())
    x = schedule.add_noise(known.expand_as(noise), 1.0, noise)
    for t, state in zip(times[1:], ddim(denoise, schedule, x, times), strict=True):
        torch.testing.assert_close(state, schedule.add_noise(known.expand_as(noise), t, noise), rtol=1e-7, atol=1e-7)
    for t, state in zip(times[1:], ddpm(denoise, schedule, x, times, generator=seeded(1)), strict=True):
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        assert state.mean().item() == pytest.approx(alpha * 0.7, abs=4 * sigma / math.sqrt(50_000))
        assert state.std().item() == pytest.approx(sigma, rel=0.015, abs=1e-9)


def test_a_full_mask_returns_known_and_an_empty_one_the_denoiser():
    x, known = pictures(), pictures(1, seed=1)
    torch.testing.assert_close(inpaint(toy(1), known, torch.ones(6, 6))(x, 0.5), known.expand_as(x))
    torch.testing.assert_close(inpaint(toy(1), known, torch.zeros(1, 1, 6, 6))(x, 0.5), toy(1)(x, 0.5))


# ---- SDEdit ----------------------------------------------------------------------------------------------------------


def test_sdedit_of_a_gaussian_in_closed_form():
    """Data N(m, s^2), an image far off: the ODE carries it along, from the noised image's law to the answer's."""
    schedule, m, s, image, t_start = CosineSchedule(None), 0.3, 0.2, -0.8, 0.4
    denoise = GaussianMixture([[m]], s).denoiser(schedule)
    alpha, sigma = schedule.alpha(t_start).item(), schedule.sigma(t_start).item()
    noise = torch.randn(2000, 1, dtype=torch.float64, generator=seeded())
    x0 = last(sdedit(denoise, schedule, torch.full_like(noise, image), t_start, ddim, n=400, noise=noise))
    shrink = s / math.sqrt((alpha * s) ** 2 + sigma**2)  # of the flow: it keeps (x - alpha m) / std(t)
    torch.testing.assert_close(x0, m + shrink * (alpha * image + sigma * noise - alpha * m), rtol=0, atol=5e-3)


def test_sdedit_keeps_the_image_near_0_and_forgets_it_at_1():
    schedule = CosineSchedule(None)
    mixture = GaussianMixture([[0.5, 0.0], [-0.5, 0.0]], 0.1)
    image = torch.tensor([[0.2, 0.9]]).double().expand(500, 2)
    kept = [last(sdedit(mixture.denoiser(schedule), schedule, image, t, n=30)) for t in (0.02, 0.3, 1.0)]
    far = [(x0 - image).norm(dim=1).mean().item() for x0 in kept]
    assert far[0] < 0.15 < far[1] < far[2]
    assert kept[2].mean(0).abs().max() < 0.1  # both modes alike, wherever the image was


def test_sdedit_passes_its_options_on():
    schedule, image, noise = CosineSchedule(None), pictures(), torch.randn(2, 3, 6, 6, generator=seeded()).double()
    paths = [list(sdedit(toy(1), schedule, image, 0.5, ddim, 6, noise, eta=1, generator=seeded(5)))]
    x, times = schedule.add_noise(image, 0.5, noise), torch.linspace(0.5, 0, 7, dtype=torch.float64)
    paths.append(list(ddim(toy(1), schedule, x, times, eta=1, generator=seeded(5))))
    assert len(paths[0]) == 6
    torch.testing.assert_close(paths[0], paths[1])


def test_sdedit_of_a_discrete_schedule_steps_on_its_grid():
    times = []

    def spy(x, t):
        times.append(t)
        return x

    schedule = LinearSchedule(40, 1e-3, 0.2)
    list(sdedit(spy, schedule, pictures(), 0.53, n=8))
    assert times[0] == round(0.53 * 40) / 40 and len(times) == 8
    assert all(abs(t * 40 - round(t * 40)) < 1e-9 for t in times)


# ---- going back up ---------------------------------------------------------------------------------------------------


def test_repaint_times_by_hand():
    def said(*arguments):
        return [round(t, 9) for t in repaint_times(*arguments).tolist()]

    falling = [1.0, 0.75, 0.5, 0.25, 0.0]
    assert said(falling, 2, 1) == falling and said(falling, 1, 1) == falling
    assert said(falling, 2, 2) == [1, 0.75, 0.5, 1, 0.75, 0.5, 0.25, 0, 0.5, 0.25, 0]
    assert said(falling, 1, 3)[:7] == [1, 0.75, 1, 0.75, 1, 0.75, 0.5]
    assert said(falling, 3, 2) == [1, 0.75, 0.5, 0.25, 1, 0.75, 0.5, 0.25, 0, 0.25, 0]
    assert said(falling, 9, 2) == falling + falling


@pytest.mark.parametrize("n, jump, n_resample", [(50, 10, 10), (50, 1, 4), (7, 3, 2), (4, 4, 3)])
def test_repaint_walks_every_step_so_many_times(n, jump, n_resample):
    times = CosineSchedule(None).timesteps(n)
    walked = repaint_times(times, jump, n_resample)
    down = walked.diff() < 0
    assert down.sum() == n * n_resample and (~down).sum() == math.ceil(n / jump) * (n_resample - 1)
    for t, t_next in zip(times, times[1:], strict=False):
        assert ((walked[:-1] == t) & (walked[1:] == t_next)).sum() == n_resample


def test_repaint_without_jumps_is_the_sampler():
    schedule, x = CosineSchedule(None), pictures()
    times = schedule.timesteps(12)
    for sampler, options in ((heun, {}), (ddim, {"eta": 0.7, "generator": seeded()})):
        again = {**options, "generator": seeded()} if options else {}
        torch.testing.assert_close(
            list(repaint(sampler)(toy(1), schedule, x, repaint_times(times, 4, 1), **options)),
            list(sampler(toy(1), schedule, x, times, **again)),
        )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_resampling_with_the_exact_denoiser_keeps_every_marginal(schedule):
    """Up by q and down by the reverse step: the law at each time is p_t, jumps or not. Yields x at times[1:]."""
    std = 0.5
    denoise = GaussianMixture([[0.0]], std).denoiser(schedule)
    times = repaint_times(schedule.timesteps(100), jump=20, n_resample=3)
    x = schedule.add_noise(std * torch.randn(20_000, 1, dtype=torch.float64), 1.0, torch.randn(20_000, 1).double())
    states = list(repaint(ddpm, seeded(1))(denoise, schedule, x, times, generator=seeded(2)))
    assert len(states) == len(times) - 1
    for t, state in list(zip(times[1:], states, strict=True))[::7] + [(times[-1], states[-1])]:
        exact = math.hypot(schedule.alpha(t) * std, schedule.sigma(t))
        assert state.std().item() == pytest.approx(exact, rel=0.08)


# ---- anagrams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_undone_and_keeps_white_noise_white(name):
    """Undone by its inverse, and orthogonal: its matrix times its transpose is the identity."""
    view, inverse = VIEWS[name]
    x = pictures()
    torch.testing.assert_close(inverse(view(x)), x, rtol=0, atol=0)
    torch.testing.assert_close(view(inverse(x)), x, rtol=0, atol=0)
    unit = torch.eye(36, dtype=torch.float64).reshape(36, 1, 6, 6)
    matrix = view(unit).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(36, dtype=torch.float64))
    assert torch.equal(view(x), x) == (name == "as it is")


def test_a_jigsaw_moves_whole_pieces():
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    for n in (2, 3):
        size = 6 // n
        moved = jigsaw(n, seed=1)[0](x)
        before, after = (
            {tuple(p.flatten().tolist()) for rows in picture[0, 0].split(size) for p in rows.split(size, dim=1)}
            for picture in (x, moved)
        )
        assert before == after and not torch.equal(moved, x)


@pytest.mark.parametrize("name", VIEWS)
def test_an_anagram_of_one_view_is_the_denoiser_in_that_view(name):
    """Sampling in the view from the view of the noise, then turning back, is the same picture."""
    view, inverse = VIEWS[name]
    schedule, x = CosineSchedule(None), pictures()
    times = schedule.timesteps(6)
    turned = last(ddim(anagram(toy(1), [(view, inverse)]), schedule, x, times))
    torch.testing.assert_close(turned, inverse(last(ddim(toy(1), schedule, view(x), times))))


def test_an_anagram_of_a_symmetric_oracle_is_the_oracle():
    """Data that look alike in every view: the mean over views is no other denoiser."""
    mixture = GaussianMixture([[0.5], [-0.5]], 0.2)  # pixels are independent, and as likely as their negatives
    schedule, x = CosineSchedule(None), pictures()
    exact = mixture.denoiser(schedule)

    def oracle(x, t):
        return exact(x.reshape(-1, 1), t).reshape(x.shape)

    torch.testing.assert_close(anagram(oracle, list(VIEWS.values()))(x, 0.4), oracle(x, 0.4))
    torch.testing.assert_close(anagram(toy(1), [rotation(0)])(x, 0.4), toy(1)(x, 0.4))


def test_each_view_has_its_own_denoiser():
    """Two point masses, one upright and one turned: the mean of both pictures as the viewer sees them."""
    first, second, x = pictures(1, seed=1), pictures(1, seed=2), pictures()
    turn = rotation(1)
    made = anagram([lambda x, t: first.expand_as(x), lambda x, t: second.expand_as(x)], [rotation(0), turn])(x, 0.5)
    torch.testing.assert_close(made, ((first + torch.rot90(second, -1, (-2, -1))) / 2).expand_as(x))


# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 6.0])
def test_the_blur_is_scipys(sigma):
    x = pictures(2, 3, 9, 7)
    expected = gaussian_filter(x.numpy(), sigma, axes=(2, 3), mode="nearest")
    torch.testing.assert_close(blur(x, sigma), torch.from_numpy(expected))


FILTERS = {
    "near and far": (low_pass(1.5), high_pass(1.5)),
    "brightness and colour": (grey, colour),
    "three bands": (low_pass(3), lambda x: blur(x, 1) - blur(x, 3), high_pass(1)),
    "left and right": (lambda x: x * (torch.arange(6) < 3), lambda x: x * (torch.arange(6) >= 3)),
}


@pytest.mark.parametrize("name", FILTERS)
def test_equal_denoisers_through_filters_are_the_denoiser(name):
    """Filters that sum to the identity put one denoiser together again, in one call and along a whole path."""
    filters, schedule, x = FILTERS[name], CosineSchedule(None), pictures()
    whole = factorized([toy(1)] * len(filters), filters)
    torch.testing.assert_close(whole(x, 0.4), toy(1)(x, 0.4))
    times = schedule.timesteps(6)
    torch.testing.assert_close(last(ddim(whole, schedule, x, times)), last(ddim(toy(1), schedule, x, times)))


def test_each_part_comes_from_its_own_denoiser():
    x, first, second = pictures(), pictures(seed=1), pictures(seed=2)
    made = factorized([lambda x, t: first, lambda x, t: second], (grey, colour))(x, 0.5)
    torch.testing.assert_close(made.mean(1), first.mean(1))
    torch.testing.assert_close(made - made.mean(1, keepdim=True), second - second.mean(1, keepdim=True))


def test_identity_and_nothing_is_the_first_denoiser():
    x = pictures()
    torch.testing.assert_close(factorized([toy(1), toy(2)], (lambda x: x, torch.zeros_like))(x, 0.4), toy(1)(x, 0.4))


# ---- dynamic clipping ------------------------------------------------------------------------------------------------


def test_dynamic_clipping_scales_what_leaves_the_range():
    x0 = torch.stack([torch.linspace(-0.8, 0.5, 101), torch.linspace(-3, 2, 101)]).double()
    clipped = dynamic_clip(lambda x, t: x0, quantile=1.0)(x0, 0.5)
    torch.testing.assert_close(clipped[0], x0[0])  # within the range nothing changes
    torch.testing.assert_close(clipped[1], x0[1] / 3)
    clipped = dynamic_clip(lambda x, t: x0, quantile=0.5)(x0, 0.5)
    s = x0[1].abs().quantile(0.5)
    torch.testing.assert_close(clipped[1], (x0[1] / s).clamp(-1, 1))
    pictures_clipped = dynamic_clip(lambda x, t: 5 * x)(pictures(), 0.5)
    assert pictures_clipped.shape == (2, 3, 6, 6) and pictures_clipped.abs().max() <= 1


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scale",
    [math.nan, math.inf, torch.tensor(math.nan), torch.tensor([1, math.nan]), torch.ones(2, 1), None, "3", [1, 2]],
    ids=str,
)
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(ValueError, match="the guidance scale is"):
        cfg(toy(1), toy(2), scale)


@pytest.mark.parametrize(
    "picture, error, words",
    [
        (pictures() * 128, ValueError, r"pictures are in \[-1, 1\]: divide bytes by 127.5"),
        ((pictures() * 100).byte(), TypeError, "not torch.uint8; bytes / 127.5 - 1"),
        (pictures().numpy(), TypeError, "not ndarray"),
        (pictures() / 0, ValueError, "not finite"),
    ],
)
def test_a_bad_picture_is_refused(picture, error, words):
    with pytest.raises(error, match=words):
        inpaint(toy(1), picture, torch.ones(6, 6))
    with pytest.raises(error, match=words):
        sdedit(toy(1), LinearSchedule(), picture, 0.5)


def test_latents_have_no_range():
    """More channels than colours: they lie anywhere, and still have to be finite floats."""
    latents = 5 * torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    x0 = inpaint(lambda x, t: 0 * x, latents, torch.ones(6, 6))(torch.zeros_like(latents), 0.5)
    assert torch.equal(x0, latents) and latents.abs().max() > 2
    *_, x0 = sdedit(lambda x, t: latents, LinearSchedule(), latents, 0.5, n=2)
    torch.testing.assert_close(x0, latents)
    with pytest.raises(ValueError, match="not finite"):
        inpaint(toy(1), latents / 0, torch.ones(6, 6))


def test_a_bad_mask_is_refused():
    known = pictures(1)
    for mask in (torch.ones(5, 6), torch.ones(2, 3, 6, 6), torch.ones(1, 1, 3, 6, 6), [1, 0]):
        with pytest.raises(ValueError, match=r"mask has shape \(.*which does not fit known's \(1, 3, 6, 6\)"):
            inpaint(toy(1), known, mask)
    for mask in (None, "upper half"):
        with pytest.raises(TypeError, match=f"a mask holds 0 .to fill in. and 1 .known., not '?{mask}"):
            inpaint(toy(1), known, mask)
    with pytest.raises(ValueError, match="from one of 0 and 255 make it by mask > 127"):
        inpaint(toy(1), known, torch.tensor([0, 255] * 3))
    for mask in (torch.full((6, 6), 0.5), torch.full((6, 6), 255), torch.full((6, 6), math.nan)):
        with pytest.raises(ValueError, match="a mask holds 0"):
            inpaint(toy(1), known, mask)
    with pytest.raises(ValueError, match=r"known has shape \(1, 3, 6, 6\), which does not fit samples \(2, 3, 8, 8\)"):
        inpaint(toy(1), known, torch.ones(6, 6))(pictures(height=8, width=8), 0.5)


@pytest.mark.parametrize("t_start", [0, -0.1, 1.01, 40, math.nan])
def test_a_start_outside_the_times_is_refused(t_start):
    with pytest.raises(ValueError, match=r"t_start = .* it lies in \(0, 1\]"):
        sdedit(toy(1), LinearSchedule(), pictures(), t_start)


@pytest.mark.parametrize("t_start", [None, "0.5", [0.5]])
def test_a_start_that_is_no_number_is_refused(t_start):
    with pytest.raises(TypeError, match=r"t_start is .*; give a number in \(0, 1\]"):
        sdedit(toy(1), LinearSchedule(), pictures(), t_start)


def test_more_steps_than_levels_are_refused():
    with pytest.raises(ValueError, match="50 steps asked for; .* at most 20"):
        sdedit(toy(1), LinearSchedule(40), pictures(), 0.5, n=50)
    for n in (0, 2.5):
        with pytest.raises(ValueError, match="steps asked for; give a whole number, at least 1$"):
            sdedit(toy(1), CosineSchedule(None), pictures(), 0.5, n=n)
    with pytest.raises(ValueError, match="noise"):
        sdedit(toy(1), CosineSchedule(None), pictures(), 0.5, noise=torch.zeros(1))
    with pytest.raises(TypeError, match="a schedule is an object"):
        sdedit(toy(1), "cosine", pictures(), 0.5)


def test_bad_times_of_repaint_are_refused():
    times = CosineSchedule(None).timesteps(4)
    for wrong in (times.flip(0), times[:1], [0.5, 0.5], [[1.0, 0.0]]):
        with pytest.raises(ValueError, match="times that fall"):
            repaint_times(wrong, 1, 1)
    with pytest.raises(ValueError, match=r"times lie in \[0, 1\]"):
        repaint_times([40, 20, 0], 1, 1)
    for jump, n_resample in ((0, 1), (1, 0), (1.5, 1), (1, 2.0)):
        with pytest.raises(ValueError, match="give a whole number of at least 1"):
            repaint_times(times, jump, n_resample)
    for wrong in ([1.0, 0.5, 0.7], [0.5, 0.7, 0.9, 0.1], [0.5, 0.5]):
        with pytest.raises(ValueError, match="at least two times that fall"):
            list(repaint(ddim)(toy(1), CosineSchedule(None), pictures(), wrong))


def test_bad_views_are_refused():
    x = pictures()
    with pytest.raises(ValueError, match=r"views\[1\]: its inverse does not undo it"):
        anagram(toy(1), [rotation(0), (rotation(1)[0], rotation(1)[0])])(x, 0.5)
    with pytest.raises(ValueError, match=r"views\[0\] changes the length of x"):
        anagram(toy(1), [(lambda x: 2 * x, lambda x: x / 2)])(x, 0.5)
    for denoisers, views in (([toy(1)], [rotation(0), rotation(1)]), ([], []), (toy(1), [])):
        with pytest.raises(ValueError, match="denoisers for . views"):
            anagram(denoisers, views)
    for views in (rotation(1), [torch.neg], [(torch.neg,)], [(torch.neg, None)], "ab"):
        with pytest.raises(TypeError, match=r"views\[0\] is no pair \(view, inverse\) of functions"):
            anagram(toy(1), views)
    with pytest.raises(ValueError, match="6 x 6 cannot be cut into 4 x 4"):
        jigsaw(4)[0](x)


def test_bad_filters_are_refused():
    x = pictures()
    for filters in ((low_pass(2), high_pass(1)), (lambda x: x, lambda x: x), (grey, lambda x: x[:, :1])):
        with pytest.raises(ValueError, match="the filters must sum to the identity"):
            factorized([toy(1), toy(2)], filters)(x, 0.5)
    smooth = torch.full_like(x, 0.5)  # a flat picture would not tell them apart
    with pytest.raises(ValueError, match="the filters must sum to the identity"):
        factorized([toy(1), toy(2)], (low_pass(2), lambda x: x - blur(x, 1)))(smooth, 0.5)
    for n in (1, 3):
        with pytest.raises(ValueError, match=f"{n} denoisers for 2 filters"):
            factorized([toy(1)] * n, (grey, colour))
    with pytest.raises(ValueError, match="one denoiser, not in a list, for 2 filters; give a list with one for each"):
        factorized(toy(1), (grey, colour))
    for sigma in (0, -1, math.nan):
        with pytest.raises(ValueError, match="the width of a blur"):
            blur(x, sigma)
    with pytest.raises(ValueError, match="quantile"):
        dynamic_clip(toy(1), 99.5)


# ---- the answers of the exercises against the package ----------------------------------------------------------------


def exercise(name):
    """(reference, inputs of its cases), without the case that has no numbers."""
    found = EXERCISES[f"editing.{name}"]
    cases = [inputs.values() for case, inputs in found.cases(seeded()) if "meta" not in case]
    assert len(cases) >= 5
    return found.reference, cases


def test_one_step_and_renoise_are_the_packages():
    one_step, cases = exercise("one_step")
    for net, x, t, alpha, sigma in cases:
        v = net(x, torch.full((len(x),), t))
        torch.testing.assert_close(one_step(net, x, t, alpha, sigma), to_x0("v", v, x, alpha, sigma))
    schedule, x, noise = CosineSchedule(None), pictures(), pictures(seed=1)
    numbers = [level.item() for t in (0.3, 0.6) for level in (schedule.alpha(t), schedule.sigma(t))]
    ours = EXERCISES["editing.renoise"].reference(x, *numbers, noise)
    torch.testing.assert_close(ours, schedule.renoise(x, 0.3, 0.6, noise))


def test_the_wrappers_of_the_exercises_are_the_packages():
    inpainted, cases = exercise("inpainted")
    for denoise, known, mask, x, t in cases:
        torch.testing.assert_close(inpainted(denoise, known, mask, x, t), inpaint(denoise, known, mask)(x, t))
    turned, cases = exercise("anagram")
    for denoise, denoise_turned, view, inverse, x, t in cases:
        by_hand = 0.5 * denoise(x, t) + 0.5 * inverse(denoise_turned(view(x), t))
        torch.testing.assert_close(turned(denoise, denoise_turned, view, inverse, x, t), by_hand)
    hybrid, cases = exercise("hybrid")
    for far, near, soften, x, t in cases:
        assert not torch.allclose(soften(soften(x)), soften(x), atol=1e-2)  # else blurring twice would not show
        added = hybrid(far, near, soften, x, t) - near(x, t)
        torch.testing.assert_close(added, soften(far(x, t) - near(x, t)))


def test_the_start_of_the_exercise_is_sdedits():
    start, cases = exercise("sdedit_start")
    for image, t_start, n, noise, alpha, sigma in cases:
        seen = []

        def spy(x, t, seen=seen):
            seen.append((x, t))
            return x

        list(sdedit(spy, alpha.__self__, image, t_start, ddim, n, noise))
        x, times = start(image, t_start, n, noise, alpha, sigma)
        torch.testing.assert_close(x, seen[0][0])
        assert times.tolist() == pytest.approx([t for _, t in seen] + [0], abs=1 / 64)  # one has 64 levels


def test_the_mended_program_keeps_the_known_pixels_and_the_given_one_leaves_noise_in_them():
    """On the correlated Gaussian. The other coordinate is as biased as with the wrapper: 0.52, where 1.20 is right."""
    schedule, n, count = CosineSchedule(None), 50, 20_000
    times, g = schedule.timesteps(n), seeded(5)
    x, noise = (torch.randn(*shape, dtype=torch.float64, generator=g) for shape in ((count, 2), (n, count, 2)))
    known, mask = known_first(x)
    fix = EXERCISES["editing.fix_the_inpainting"]
    inputs = correlated(schedule), known.expand(count, 2), mask.double(), x, times, schedule.alpha(times)
    inputs = *inputs, schedule.sigma(times), noise
    mended, given = fix.reference(*inputs), fix.misconceptions["as_it_was_given"](*inputs)
    assert (mended[:, 0] == KNOWN).all()
    assert given[:, 0].std().item() == pytest.approx(schedule.sigma(times[-2]).item(), rel=0.03)
    wrapped = last(ddim(inpaint(correlated(schedule), known, mask), schedule, x, times))
    for made in (mended, wrapped):
        assert made[:, 1].mean().item() == pytest.approx(0.52, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_wrapper_keeps_the_dtype(dtype):
    """bfloat16 is coarse: the checks of views and filters must not mistake its rounding for a fault."""
    x, known = pictures().to(dtype), pictures(1)
    toys = [toy(1), toy(2)]
    wrapped = [inpaint(toy(1), known, torch.ones(6, 6)), anagram(toys, [rotation(1), jigsaw(3)]), dynamic_clip(toy(1))]
    for denoise in [*wrapped, factorized(toys, (low_pass(1), high_pass(1)))]:
        x0 = denoise(x, 0.5)
        assert x0.dtype == dtype and x0.shape == x.shape and x0.isfinite().all()
