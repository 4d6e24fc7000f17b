"""The references of chapter 4's exercises against the package and against mathematics."""

import pytest
import torch
from torch import nn

from course_utils.denoiser import Denoiser, to_x0
from course_utils.exercises import EXERCISES
from course_utils.exercises.ddpm_2d import ToyNet
from course_utils.exercises.ddpm_mnist_bugs import gaussian_pictures
from course_utils.exercises.ddpm_mnist_networks import Layers
from course_utils.guidance import clip
from course_utils.mixtures import GaussianMixture
from course_utils.models import ResidualBlock
from course_utils.samplers import ddpm
from course_utils.schedules import LinearSchedule


def reference(name):
    return EXERCISES[f"ddpm_mnist.{name}"].reference


def wrong(name, mistake):
    return EXERCISES[f"ddpm_mnist.{name}"].misconceptions[mistake]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def schedule():
    return LinearSchedule(200, 5e-4, 0.1)


# ---- the parts of the network ----------------------------------------------------------------------------------------


def test_products_of_embeddings_depend_on_the_distance_of_times_only():
    t = torch.rand(20, dtype=torch.float64, generator=generator())
    embedded = reference("time_embedding")(t, 32)
    moved = reference("time_embedding")(t + 0.25, 32)
    torch.testing.assert_close(embedded @ embedded.T, moved @ moved.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(embedded.square().sum(1), torch.full_like(t, 16))  # sin^2 + cos^2, 16 times
    sines = wrong("time_embedding", "sines_only")(t, 32)
    assert (sines @ sines.T - wrong("time_embedding", "sines_only")(t + 0.25, 32) @ sines.T).abs().max() > 0.1


def test_the_frequencies_run_from_1000_to_a_tenth_in_equal_ratios():
    """Read off the slopes at t = 0, where sin(w t) = w t."""
    slopes = reference("time_embedding")(torch.tensor([1e-9], dtype=torch.float64), 10)[0, :5] / 1e-9
    torch.testing.assert_close(slopes, torch.tensor([1000, 100, 10, 1, 0.1], dtype=torch.float64), rtol=1e-6, atol=0)


def test_group_norm_minds_its_own_picture_and_batch_norm_does_not():
    x = 3 * torch.randn(4, 8, 5, 6, generator=generator()) + 1
    out = reference("group_norm")(x, 2, 0.0)
    torch.testing.assert_close(out, nn.GroupNorm(2, 8, eps=0.0, affine=False)(x))
    groups = out.reshape(4, 2, -1)
    assert groups.mean(2).abs().max() < 1e-5 and (groups.var(2, correction=0) - 1).abs().max() < 1e-4
    torch.testing.assert_close(reference("group_norm")(x[:1], 2, 0.0), out[:1])
    coupled = wrong("group_norm", "batch_norm")
    assert (coupled(x[:1], 2, 0.0) - coupled(x, 2, 0.0)[:1]).abs().max() > 0.1


def test_the_residual_block_is_the_packages_and_hands_x_on_where_its_last_layer_is_zero():
    layers, x, context = Layers(generator(), 4, 8, 5), torch.randn(2, 4, 6, 6), torch.randn(2, 5)
    block = ResidualBlock(4, 8, 5)
    block.load_state_dict(layers.state_dict())
    torch.testing.assert_close(reference("residual_block")(x, context, layers), block(x, context))
    nn.init.zeros_(layers.conv2.weight)
    nn.init.zeros_(layers.conv2.bias)
    torch.testing.assert_close(reference("residual_block")(x, context, layers), layers.skip(x))


def test_a_time_before_the_norm_is_undone_by_it():
    """With a group for each channel nothing is left of a shift: the norm takes a channel's mean away."""
    layers, x = Layers(generator(), 4, 4, 5), torch.randn(2, 4, 6, 6)
    layers.norm2 = nn.GroupNorm(4, 4)
    nn.init.zeros_(layers.modulation.weight[:4])  # shifts only
    nn.init.zeros_(layers.modulation.bias[:4])
    contexts = torch.randn(2, 2, 5)
    early, late = (
        [block(x, c, layers) for c in contexts]
        for block in (wrong("residual_block", "time_before_the_norm"), reference("residual_block"))
    )
    assert (early[0] - early[1]).abs().max() < 1e-4 < 0.1 < (late[0] - late[1]).abs().max()


def test_the_cosine_table_is_the_papers_until_the_betas_are_cut_off():
    """Nichol & Dhariwal 2021, equation 17: alpha_bar = f(t) / f(0); sqrt(alpha_bar) is then a cosine's."""
    T, s = 1000, 0.008
    table = reference("cosine_alpha_bar")(T, s, 0.999)
    angle = (torch.arange(T + 1, dtype=torch.float64) / T + s) / (1 + s) * torch.pi / 2
    exact = (torch.cos(angle) / torch.cos(angle[0])) ** 2
    torch.testing.assert_close(table[:-1], exact[:-1], rtol=1e-9, atol=0)
    assert exact[-1] < 1e-30 and table[-1] > 1e-9  # cut off only at the end
    assert (1 - table[1:] / table[:-1]).max() <= 0.999 + 1e-12


# ---- the training step -----------------------------------------------------------------------------------------------


def test_labels_are_dropped_one_by_one():
    torch.manual_seed(0)
    y = torch.randint(0, 10, (100_000,))
    gone = reference("drop_labels")(y, 0.2) == -1
    for label in range(10):
        n = (y == label).sum()
        assert abs(gone[y == label].float().mean() - 0.2) < 5 * (0.2 * 0.8 / n) ** 0.5
    assert abs((gone[1:] & gone[:-1]).float().mean() - 0.04) < 0.005


def noise_first(net, x0, y, alpha_bar, noise_of=torch.randn_like, k_shape=None, target=None):
    """The training step in another order of draws, with a mistake if asked for."""
    T = len(alpha_bar) - 1
    noise = noise_of(x0)
    k = torch.randint(1, T + 1, k_shape or (len(x0),), device=x0.device).expand(len(x0))
    ab = alpha_bar.to(x0)[k].reshape(-1, 1, 1, 1)
    said = net(ab.sqrt() * x0 + (1 - ab).sqrt() * noise, k / T, y)
    return (said - (target(x0) if target else noise)).square().mean()


@pytest.mark.parametrize(
    "mistake, options",
    {
        "second_draw": {"target": torch.randn_like},
        "uniform_noise": {"noise_of": torch.rand_like},
        "second_uniform_draw": {"noise_of": torch.rand_like, "target": torch.rand_like},
        "one_level_for_all": {"k_shape": (1,)},
    }.items(),
)
@pytest.mark.parametrize("seed", [0, 7])
def test_a_training_step_is_known_by_what_it_does_and_not_by_the_order_of_its_draws(mistake, options, seed):
    exercise = EXERCISES["ddpm_mnist.training_loss"]
    assert exercise.grade(noise_first, seed)
    result = exercise.grade(lambda net, x0, y, alpha_bar: noise_first(net, x0, y, alpha_bar, **options), seed)
    assert not result and result.misconception == mistake


def test_a_network_asked_without_gradients_learns_nothing():
    result = EXERCISES["ddpm_mnist.training_loss"].grade(torch.no_grad()(noise_first))
    assert not result and result.misconception == "cut_off"


# ---- the steps back --------------------------------------------------------------------------------------------------


def test_the_oracle_of_pictures_is_the_exact_noise(schedule):
    x, k = torch.randn(4, 1, 3, 2, dtype=torch.float64), torch.tensor([1, 20, 120, 200])
    t = k.double() / 200
    denoise = GaussianMixture([[0.3]], 0.5).denoiser(schedule)
    said = gaussian_pictures(schedule.alpha_bar)(x, t)
    for i in range(4):
        x0 = to_x0("eps", said[i], x[i], *schedule.at(t[i], x[i]))
        exact = denoise(x[i].reshape(-1, 1), t[i].expand(6)).reshape(x[i].shape)
        torch.testing.assert_close(x0, exact, rtol=1e-6, atol=1e-6)


def test_a_clipped_step_is_the_packages(schedule):
    net, x = ToyNet(generator()), 2 * torch.randn(5, 1, 4, 4, dtype=torch.float64)
    denoise = clip(Denoiser(net, schedule))
    for k in (1, 2, 100, 200):
        times = torch.tensor([k, k - 1]).double() / 200
        step = ddpm(denoise, schedule, x, times, generator=generator(1))
        z = torch.randn(x.shape, dtype=torch.float64, generator=generator(1))
        ours = reference("clipped_step")(net, x, k, schedule.alpha_bar, z)
        torch.testing.assert_close(ours, next(step), rtol=1e-9, atol=1e-9)


def test_strided_coefficients_are_the_packages_sampler(schedule):
    levels = torch.tensor([200, 150, 149, 40, 3, 0])
    x, x0, z = torch.randn(3, 4, 1, 2, 2, dtype=torch.float64, generator=generator(2)).unbind(0)
    rows = torch.stack(reference("strided_coefficients")(schedule.alpha_bar, levels), 1)
    for (k, after), (of_x0, of_x, variance) in zip(levels.unfold(0, 2, 1).tolist(), rows, strict=True):
        times = torch.tensor([k, after]).double() / 200
        mean = of_x0 * x0 + of_x * x
        step = next(ddpm(lambda x, t: x0, schedule, x, times, generator=generator(3)))
        z = torch.randn(x.shape, dtype=torch.float64, generator=generator(3))
        torch.testing.assert_close(mean + variance.sqrt() * z, step, rtol=1e-9, atol=1e-9)


def test_a_stride_keeps_the_levels_of_the_forward_process(schedule):
    """If x_k has mean sqrt(ab) x0 and variance 1 - ab, then x_k' has those of k'; with a single step's factor not."""
    levels = torch.tensor([200, 120, 119, 30, 0])
    ab, after = schedule.alpha_bar[levels[:-1]], schedule.alpha_bar[levels[1:]]

    def left_over(coefficients):
        of_x0, of_x, variance = coefficients(schedule.alpha_bar, levels)
        mean = (of_x0 + of_x * ab.sqrt() - after.sqrt()).abs().max()
        return max(mean, (of_x**2 * (1 - ab) + variance - (1 - after)).abs().max())

    assert left_over(reference("strided_coefficients")) < 1e-12
    assert left_over(wrong("strided_coefficients", "factor_of_a_single_step").function) > 0.1
    assert left_over(wrong("strided_coefficients", "single_factor_of_x").function) > 0.1
    assert left_over(wrong("strided_coefficients", "root_over_beta").function) > 0.1


# ---- the debugging exercises: what the oracle says -------------------------------------------------------------------


def test_the_mended_loss_stands_on_its_floor_and_the_given_one_above_that_of_saying_nothing(schedule):
    """Floor: Var(eps | x) = ab s^2 / (ab s^2 + 1 - ab). With a second draw: 1 + E[eps_hat^2] > 1."""
    g = generator()
    x0 = 0.3 + 0.5 * torch.randn(20_000, 1, 2, 2, dtype=torch.float64, generator=g)
    k = torch.randint(1, 201, (len(x0),), generator=g)
    ab = schedule.alpha_bar[k]
    floor = (ab * 0.25 / (ab * 0.25 + 1 - ab)).mean()
    torch.manual_seed(1)  # other draws than the data's
    inputs = gaussian_pictures(schedule.alpha_bar), x0, k, schedule.alpha_bar
    mended = EXERCISES["ddpm_mnist.fix_the_loss"].equivalents["one_draw"](*inputs)
    given = wrong("fix_the_loss", "loss_as_given")(*inputs)
    assert abs(mended - floor) < 0.01 and abs(given - (2 - floor)) < 0.03


def test_the_mended_clipping_reaches_the_gaussian_and_the_given_one_misses_it(schedule):
    g = generator()
    net = gaussian_pictures(schedule.alpha_bar, 0.5, 0.2)
    x = torch.randn(400, 1, 4, 4, dtype=torch.float64, generator=g)
    noise = torch.randn(201, *x.shape, dtype=torch.float64, generator=g)
    mended = reference("fix_the_clipping")(net, x, schedule.alpha_bar, noise)
    given = wrong("fix_the_clipping", "clipping_as_given")(net, x, schedule.alpha_bar, noise)
    error = 0.2 / mended.numel() ** 0.5
    assert abs(mended.mean() - 0.5) < 4 * error < 6 * error < abs(given.mean() - 0.5)


def exact_moments(alpha_bar, levels, single=False):
    """Mean and deviation of a strided sampler's result for data N(0.3, 0.5^2): each step is affine in x."""
    mean, variance = torch.tensor(0.0), torch.tensor(1.0)
    of_x0s, of_xs, variances = reference("strided_coefficients")(alpha_bar, torch.tensor(levels))
    for k, of_x0, of_x, added in zip(levels[:-1], of_x0s, of_xs, variances, strict=True):
        ab = alpha_bar[k]
        gain = ab.sqrt() * 0.25 / (ab * 0.25 + 1 - ab)  # x0_hat = 0.3 + gain (x - sqrt(ab) 0.3)
        factor = of_x + of_x0 * gain
        mean = factor * mean + of_x0 * 0.3 * (1 - gain * ab.sqrt())
        variance = factor**2 * variance + added
    return mean, variance.sqrt()


@pytest.mark.parametrize("n", [10, 50])
def test_the_mended_strides_have_the_moments_that_can_be_computed_and_the_given_ones_have_not(schedule, n):
    g = generator()
    levels = torch.linspace(200, 0, n + 1).round().long().tolist()
    net = gaussian_pictures(schedule.alpha_bar)
    x = torch.randn(400, 1, 4, 4, dtype=torch.float64, generator=g)
    noise = torch.randn(n, *x.shape, dtype=torch.float64, generator=g)
    inputs = net, x, levels, schedule.alpha_bar, noise
    mean, std = exact_moments(schedule.alpha_bar, levels)
    mended, given = reference("fix_the_strides")(*inputs), wrong("fix_the_strides", "strides_as_given")(*inputs)
    assert abs(mended.mean() - mean) < 0.03 and abs(mended.std() - std) < 0.02  # over four standard errors
    assert abs(mean - 0.3) < 0.01 and given.std() > 0.7 and given.mean() < 0.2
