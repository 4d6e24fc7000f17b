"""Exercises of chapter 1, energy-based models.

p(x) = exp(-E(x)) / Z. An energy is a function x (B, ...) -> (B,), a score x -> (B, ...), the gradient of log p. Noise,
grids and uniform numbers are passed in.

Sources: LeCun et al. 2006; Hinton 2002 (contrastive divergence); Tieleman 2008 (persistent chains); Du & Mordatch 2019
(replay buffer, composition); Roberts & Tweedie 1996 (Langevin, Metropolis-adjusted).
"""

import math

import torch
from torch import nn

from course_utils import losses
from course_utils.energy import log_partition, mixture, product, score_of
from course_utils.exercises.ddpm_2d import ELSEWHERE
from course_utils.exercises.exercise import Exercise

# ---- what the exercises are tried on ---------------------------------------------------------------------------------

SHAPES = {
    "points in the plane": ((6, 2), torch.float32),
    "a batch of one": ((1, 2), torch.float32),
    "as many points as dimensions": ((3, 3), torch.float32),
    "pictures that are not square": ((3, 2, 5, 4), torch.float32),
    "float64": ((5, 3), torch.float64),
}


class ToyEnergy(nn.Module):
    """A stand-in for an energy network: energy(x) is (B,) for x of any shape (B, ...), each sample by itself."""

    def __init__(self, g):
        super().__init__()
        self.weight = nn.Parameter(0.5 + torch.rand(4, generator=g))

    def forward(self, x):
        if not torch.is_tensor(x) or x.ndim < 2:
            raise ValueError("energy(x) takes a batch: a tensor of shape (B, ...), of at least two dimensions")
        a, b, c, d = self.weight
        x = x.flatten(1)
        return (a / 2 * x**2 + torch.cos(b * x + c) + d / 8 * x * x.roll(1, 1)).sum(1)

    @torch.no_grad()
    def score(self, x):
        """The exact gradient of -energy, written out."""
        a, b, c, d = self.weight
        flat = x.flatten(1)
        gradient = a * flat - b * torch.sin(b * flat + c) + d / 8 * (flat.roll(1, 1) + flat.roll(-1, 1))
        return -gradient.reshape(x.shape)


class PlainEnergy(ToyEnergy):
    """One for the device "meta", where every operation is slow."""

    def forward(self, x):
        return self.weight[0] * x.flatten(1).sum(1)


def gaussian_energy(mean, std):
    """The oracle: the energy of N(mean, std^2 I), without its constant."""

    def energy(x):
        return (x - mean).square().flatten(1).sum(1) / (2 * std**2)

    return energy


def gaussian_score(mean, std):
    return lambda x: (mean - x) / std**2


def lifted(energy, by):
    """The same density with another constant in its energy."""
    return lambda x: energy(x) + by


def toy_score(g):
    """A stand-in for a score: of any shape, and each entry looks at its neighbour too."""
    a, b, c = (0.5 + torch.rand(3, generator=g)).tolist()
    return lambda x: torch.sin(a * x + b) - c * x + 0.25 * x.roll(1, -1)


def frozen_energy(g):
    return ToyEnergy(g).requires_grad_(False)


def randn(g, *shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=g)


def uniform(g, *shape, dtype=torch.float32):
    return torch.rand(shape, dtype=dtype, generator=g)


def moved(inputs):
    """The same inputs on another device, as far as they have one."""
    return {n: v.to("meta") if hasattr(v, "to") else v for n, v in inputs.items()}


# ---- 1 ---------------------------------------------------------------------------------------------------------------

log_density = Exercise(
    "energy.log_density",
    title="A density from an energy",
    points=2,
    contract="log_density(energy, x, grid, cell) is log p (B,) at points x (B, D) for p = exp(-E) / Z, where Z is the "
    "sum of exp(-E) over the points grid (N, D) times the size `cell` of the cell around each; energies may be so "
    "large or so low that exp(-E) is 0 or infinite.",
    section="boltzmann",
    returns="log_p",
    finished=("course_utils.energy.log_density", "course_utils.energy.log_partition"),
)


@log_density.solution
def _(energy, x, grid, cell):
    return -energy(x) - log_partition(energy, grid, cell)


@log_density.inputs
def _(g):
    def inputs(energy, B, D, n, low, high, dtype=torch.float64):
        """A grid of n points a side, each in the middle of its cell."""
        width = (high - low) / n
        line = low + width * (torch.arange(n, dtype=dtype) + 0.5)
        x = low + (high - low) * uniform(g, B, D, dtype=dtype)
        return {"energy": energy, "x": x, "grid": torch.cartesian_prod(*[line] * D).reshape(-1, D), "cell": width**D}

    yield "in the plane", inputs(frozen_energy(g), 6, 2, 8, -3, 3)
    yield "a Gaussian on a line", inputs(gaussian_energy(0.3, 0.5), 5, 1, 40, -3, 4)
    yield "a batch of one", inputs(frozen_energy(g), 1, 2, 5, -2, 3)
    yield "float32", inputs(frozen_energy(g), 4, 2, 6, -2, 2, torch.float32)
    yield "in space", inputs(frozen_energy(g), 4, 3, 3, -2, 2)
    yield "energies of thousands", inputs(lifted(frozen_energy(g), 5000.0), 4, 2, 5, -2, 2)
    yield "energies below minus a thousand", inputs(lifted(frozen_energy(g), -2000.0), 4, 2, 5, -2, 2)
    yield ELSEWHERE, moved(inputs(gaussian_energy(0.0, 1.0), 4, 2, 3, -2, 2, torch.float32))


@log_density.misconception(
    "The sign of the energy is turned, in Z too: low energy means high density, p = exp(-E) / Z."
)
def high_energy_likely(energy, x, grid, cell):
    return energy(x) - energy(grid).logsumexp(0) - math.log(cell)


@log_density.misconception("Z has exp(-E) in it, but the density at x has exp(+E): log p = -E - log Z.")
def energy_added(energy, x, grid, cell):
    return energy(x) - (-energy(grid)).logsumexp(0) - math.log(cell)


@log_density.misconception("Z is made of exp(+E): the same exp(-E) as at x is to be summed over the grid.")
def z_of_the_other_sign(energy, x, grid, cell):
    return -energy(x) - energy(grid).logsumexp(0) - math.log(cell)


@log_density.misconception("This is -E, the density without its Z: it does not integrate to 1.")
def not_normalised(energy, x, grid, cell):
    return -energy(x)


@log_density.misconception("The cell's size is missing: an integral is a sum of heights times the size of a cell.")
def cell_left_out(energy, x, grid, cell):
    return -energy(x) - (-energy(grid)).logsumexp(0)


@log_density.misconception("log Z is added: the density is divided by Z, so its log is taken away.")
def log_z_added(energy, x, grid, cell):
    return -energy(x) + (-energy(grid)).logsumexp(0) + math.log(cell)


@log_density.misconception("Z itself is taken away, not its log.")
def z_without_log(energy, x, grid, cell):
    return -energy(x) - (-energy(grid)).exp().sum() * cell


@log_density.misconception("This is the density: its log is asked for, which stays finite where the density is 0.")
def density_for_its_log(energy, x, grid, cell):
    return (-energy(x) - (-energy(grid)).logsumexp(0) - math.log(cell)).exp()


@log_density.misconception("It is normalised over the points x of the batch: Z is the integral over the whole grid.")
def normalised_over_the_batch(energy, x, grid, cell):
    return (-energy(x)).log_softmax(0)


@log_density.misconception("The mean over the grid is not the integral: that is the sum times the size of a cell.")
def mean_over_the_grid(energy, x, grid, cell):
    return -energy(x) - (-energy(grid)).logsumexp(0) + math.log(len(grid))


@log_density.misconception("Only the lowest energy on the grid counts here: all its points add to Z.")
def lowest_energy_only(energy, x, grid, cell):
    return -energy(x) + energy(grid).amin() - math.log(cell)


@log_density.misconception("The cell's size is raised to the dimension: `cell` is already an area, or a volume.")
def cell_to_the_dimension(energy, x, grid, cell):
    return -energy(x) - (-energy(grid)).logsumexp(0) - grid.shape[1] * math.log(cell)


@log_density.misconception(
    "exp(-E) is taken before the log: for energies of some hundreds it is 0 or infinite. torch.logsumexp does both."
)
def underflow(energy, x, grid, cell):
    return -energy(x) - ((-energy(grid)).exp().sum() * cell).log()


@log_density.misconception(
    "exp(-E) is taken at x and over the grid, and the log last: for energies of some hundreds that is 0 / 0. Stay in "
    "the logarithm throughout, -E - log Z."
)
def log_taken_last(energy, x, grid, cell):
    return ((-energy(x)).exp() / ((-energy(grid)).exp().sum() * cell)).log()


@log_density.misconception("-E is divided by log Z: the log of a quotient is a difference, -E - log Z.")
def divided_by_log_z(energy, x, grid, cell):
    return -energy(x) / ((-energy(grid)).logsumexp(0) + math.log(cell))


@log_density.misconception(
    "The mean of exp(-E) is multiplied by a cell: the integral is the sum, a cell for each point."
)
def mean_times_one_cell(energy, x, grid, cell):
    return -energy(x) - (-energy(grid)).logsumexp(0) + math.log(len(grid)) - math.log(cell)


@log_density.misconception("The softmax of the batch was taken, and a cell: Z is made of the grid's energies, not x's.")
def softmax_of_x_by_the_cell(energy, x, grid, cell):
    return (-energy(x)).log_softmax(0) - math.log(cell)


@log_density.equivalent
def shifted_by_the_lowest(energy, x, grid, cell):
    e = energy(grid)
    lowest = e.min()
    return lowest - energy(x) - torch.log(torch.exp(lowest - e).sum() * cell)


@log_density.equivalent
def softmax_of_grid_and_point(energy, x, grid, cell):
    """A point's share of itself and the grid together, and from it the odds: p / (1 - p)."""
    with torch.no_grad():
        e, on_grid = energy(x), energy(grid)
        pairs = torch.stack([-e, torch.logsumexp(-on_grid, 0).expand(len(x))], 1)
        share = pairs.log_softmax(1)
    return share[:, 0] - share[:, 1] - math.log(cell)


@log_density.equivalent
def point_after_point(energy, x, grid, cell):
    log_z = None
    for e in energy(grid):
        log_z = -e if log_z is None else torch.logaddexp(log_z, -e)
    log_z = log_z + math.log(cell)
    return torch.stack([-e - log_z for e in energy(x)])


# ---- 2 ---------------------------------------------------------------------------------------------------------------

score = Exercise(
    "energy.score",
    title="The score of an energy",
    points=2,
    contract="score(energy, x) is the gradient of log p = -E - log Z at every sample of x (B, ...), by autograd, "
    "without a graph; nothing is added to the gradients of the energy's own parameters.",
    section="energy-score",
    returns="score",
    finished=("course_utils.energy.score_of",),
)


@score.observe
def _(value, inputs):
    left = [p.grad.abs().sum() if p.grad is not None else 0 * p.detach().sum() for p in weights_of(inputs["energy"])]
    return {"score": value} | ({"the gradient left in the energy's parameters": sum(left)} if left else {})


def weights_of(energy):
    return list(energy.parameters()) if isinstance(energy, nn.Module) else []


@score.solution
@torch.no_grad()
def _(energy, x):
    return score_of(energy)(x)


@score.inputs
def _(g):
    for name, (shape, dtype) in SHAPES.items():
        yield name, {"energy": ToyEnergy(g), "x": randn(g, *shape, dtype=dtype)}
    gaussian = gaussian_energy(0.3, 0.5)
    yield "a Gaussian, whose score is known", {"energy": gaussian, "x": randn(g, 5, 1, dtype=torch.float64)}
    yield "energies of thousands", {"energy": lifted(ToyEnergy(g), 5000.0), "x": randn(g, 4, 2, dtype=torch.float64)}
    yield ELSEWHERE, moved({"energy": PlainEnergy(g), "x": randn(g, 4, 2)})


def gradient_of(energy, x, total):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(total(energy(x)), x)[0]


@score.misconception("The sign is turned: this climbs the energy. log p = -E - log Z, so the score is -grad E.")
def climbs_the_energy(energy, x):
    return gradient_of(energy, x, torch.sum)


@score.misconception(
    "The mean energy of the batch is differentiated, so each gradient is divided by B: take the sum, in which a "
    "sample's gradient is its own."
)
def divided_by_the_batch(energy, x):
    return -gradient_of(energy, x, torch.mean)


@score.misconception("Only the first sample's energy is differentiated: the others' gradients are 0.")
def first_sample_only(energy, x):
    return -gradient_of(energy, x, lambda e: e[0])


@score.misconception("This is the gradient of exp(-E), without Z: the score is that of its log.")
def gradient_of_the_density(energy, x):
    return gradient_of(energy, x, lambda e: torch.exp(-e).sum())


@score.misconception("The log of the energy is differentiated: it is log p = -E - log Z, and E may be negative.")
def log_of_the_energy(energy, x):
    return -gradient_of(energy, x, lambda e: e.abs().log().sum())


@score.misconception("-E was normalised over the batch first: samples then push each other. Z does not depend on x.")
def softmax_of_the_batch(energy, x):
    return gradient_of(energy, x, lambda e: (-e).log_softmax(0).sum())


@score.misconception(
    "backward() also adds to the gradients of the network's parameters, and the next step of the optimiser takes them "
    "along: torch.autograd.grad asks for x alone."
)
def gradients_left_behind(energy, x):
    x = x.detach().requires_grad_()
    energy(x).sum().backward()
    return -x.grad


@score.misconception("create_graph keeps the graph of the gradient: a long chain of such scores fills the memory.")
def graph_kept(energy, x):
    x = x.detach().requires_grad_()
    return -torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]


@score.misconception("The gradient is brought to length 1: it then says where to, but no longer how steep it is.")
def of_length_one(energy, x):
    gradient = gradient_of(energy, x, torch.sum)
    return -gradient / gradient.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))


@score.misconception("The gradient is clipped: this is a remedy for chains that diverge, and not the score.")
def gradient_clipped(energy, x):
    return -gradient_of(energy, x, torch.sum).clamp(-0.03, 0.03)


@score.misconception("These are differences over a small step, exact in no digit but the first: use autograd.")
def finite_differences(energy, x):
    with torch.no_grad():
        columns = []
        for i in range(x[0].numel()):
            step = torch.zeros_like(x).flatten(1)
            step[:, i] = 0.01
            columns.append((energy(x) - energy(x + step.reshape(x.shape))) / 0.01)
        return torch.stack(columns, 1).reshape(x.shape)


@score.misconception(
    "autograd differentiates one number, and a batch has B energies: sum them, for each depends on its own sample only."
)
def not_summed(energy, x):
    x = x.detach().requires_grad_()
    return -torch.autograd.grad(energy(x), x)[0]


@score.misconception(
    "The input itself is marked for autograd, and all that is made of it from then on, the next states of a chain, "
    "carries a graph that grows with every step."
)
def input_marked(energy, x):
    return -torch.autograd.grad(energy(x.requires_grad_()).sum(), x)[0]


@score.misconception(
    "Differences of the energy over a small step, with their graph: they cost two passes for each coordinate and lose "
    "half of the digits. autograd takes one."
)
def central_differences(energy, x):
    columns = []
    for i in range(x[0].numel()):
        step = torch.zeros_like(x).flatten(1)
        step[:, i] = 0.01
        up, down = (energy(x + sign * step.reshape(x.shape)) for sign in (1, -1))
        columns.append((down - up) / 0.02)
    return torch.stack(columns, 1).reshape(x.shape)


@score.equivalent
def by_functional_grad(energy, x):
    return torch.func.grad(lambda x: -energy(x).sum())(x).detach()


@score.equivalent
def gradient_sample_by_sample(energy, x):
    rows = []
    for sample in x:
        sample = sample[None].clone().requires_grad_(True)
        rows.append(torch.autograd.grad(-energy(sample)[0], sample)[0])
    return torch.cat(rows)


@score.equivalent
def by_vector_and_jacobian(energy, x):
    leaf = x.clone().requires_grad_(True)
    e = energy(leaf)
    (gradient,) = torch.autograd.grad(e, leaf, grad_outputs=-torch.ones_like(e))
    return gradient


# ---- 3 ---------------------------------------------------------------------------------------------------------------

langevin = Exercise(
    "energy.langevin",
    title="A Langevin chain",
    points=2,
    contract="langevin(score, x, step, noise) is the last state of the chain that starts at x (B, ...) and for each "
    "noise[i] of noise (n, B, ...) goes by step times the score and by sqrt(2 step) times the noise.",
    section="langevin",
    returns="x",
    finished=("course_utils.langevin.langevin",),
)


@langevin.solution
def _(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step * s + math.sqrt(2 * step) * z)


def chain(score, x, noise, move):
    """x becomes move(x, score(x), z) for each z of the noise."""
    for z in noise:
        x = move(x, score(x), z)
    return x


@langevin.inputs
def _(g):
    for name, (shape, dtype) in SHAPES.items():
        step = 0.05 + 0.3 * uniform(g).item()
        x, noise = randn(g, *shape, dtype=dtype), randn(g, 3, *shape, dtype=dtype)
        yield name, {"score": toy_score(g), "x": x, "step": step, "noise": noise}
    x, noise = randn(g, 5, 2, dtype=torch.float64), randn(g, 1, 5, 2, dtype=torch.float64)
    yield "one step", {"score": toy_score(g), "x": x, "step": 0.25, "noise": noise}
    x, noise = randn(g, 100, 1, dtype=torch.float64), randn(g, 30, 100, 1, dtype=torch.float64)
    gaussian = gaussian_score(0.3, 0.5)
    yield "a Gaussian, long enough to forget its start", {"score": gaussian, "x": x, "step": 0.05, "noise": noise}
    inputs = {"score": gaussian_score(0.0, 1.0), "x": randn(g, 4, 3), "step": 0.125, "noise": randn(g, 1, 4, 3)}
    yield ELSEWHERE, moved(inputs)


@langevin.misconception("The noise is multiplied by 2 step, its variance: the factor is the square root.")
def step_without_the_root(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step * s + 2 * step * z)


@langevin.misconception("The noise is multiplied by the step: its factor is sqrt(2 step), much larger for small steps.")
def noise_times_step(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step * s + step * z)


@langevin.misconception(
    "The noise has the factor sqrt(step), that of the convention with step / 2 before the score: the chain would be "
    "too cold, half the variance."
)
def conventions_mixed(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step * s + math.sqrt(step) * z)


@langevin.misconception(
    "This is the other convention, step / 2 and sqrt(step): right for half the step, but here the step multiplies the "
    "score as it is."
)
def half_the_step(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step / 2 * s + math.sqrt(step) * z)


@langevin.misconception("The noise is taken as it is, without the factor sqrt(2 step).")
def noise_not_scaled(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step * s + z)


@langevin.misconception("There is no noise: this climbs to the nearest peak of the density and stays there.")
def no_noise(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step * s)


@langevin.misconception("The chain walks away from the density: the score is added, for it points to higher log p.")
def away_from_the_density(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x - step * s + math.sqrt(2 * step) * z)


@langevin.misconception("The score is not multiplied by the step.")
def score_without_step(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + s + math.sqrt(2 * step) * z)


@langevin.misconception(
    "The score is brought to length 1: the step is h times the score, a long one where it is steep."
)
def steps_of_one_length(score, x, step, noise):
    def move(x, s, z):
        size = s.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
        return x + step * s / size + math.sqrt(2 * step) * z

    return chain(score, x, noise, move)


@langevin.misconception("The factor of the score is sqrt(2 step): that belongs to the noise alone.")
def root_on_both(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + math.sqrt(2 * step) * (s + z))


@langevin.misconception("Every step takes the same noise, noise[0]: each has its own.")
def same_noise_again(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step * s + math.sqrt(2 * step) * noise[0])


@langevin.misconception("Other noise was drawn: noise[i] is there for step i.")
def noise_of_its_own(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: x + step * s + math.sqrt(2 * step) * torch.randn_like(x))


@langevin.misconception("The last step has no noise: that belongs to diffusion samplers; a chain never stops moving.")
def last_step_without_noise(score, x, step, noise):
    x = chain(score, x, noise[:-1], lambda x, s, z: x + step * s + math.sqrt(2 * step) * z)
    return x + step * score(x)


@langevin.misconception("One step is missing: noise has n entries, and there is a step for each.")
def one_step_short(score, x, step, noise):
    return chain(score, x, noise[1:], lambda x, s, z: x + step * s + math.sqrt(2 * step) * z)


@langevin.misconception("The score is that of the start in every step: ask again where the chain is now.")
def score_of_the_start(score, x, step, noise):
    start = score(x)
    return chain(score, x, noise, lambda x, s, z: x + step * start + math.sqrt(2 * step) * z)


@langevin.misconception("The states are clipped to [-1, 1] after each step, which piles them up at the borders.")
def chain_clipped(score, x, step, noise):
    return chain(score, x, noise, lambda x, s, z: (x + step * s + math.sqrt(2 * step) * z).clamp(-1, 1))


@langevin.misconception("This is the state after the first step: `return` stands inside the loop, or there is none.")
def first_step_only(score, x, step, noise):
    return x + step * score(x) + math.sqrt(2 * step) * noise[0]


@langevin.misconception(
    "All noise was added in one step, so n states came out side by side: the steps follow one another, in a loop."
)
def all_steps_at_once(score, x, step, noise):
    return x + step * score(x) + math.sqrt(2 * step) * noise


@langevin.misconception("These are all states of the chain, start included: the last one alone is asked for.")
def all_states(score, x, step, noise):
    states = [x]
    for z in noise:
        states.append(states[-1] + step * score(states[-1]) + math.sqrt(2 * step) * z)
    return torch.stack(states)


@langevin.misconception("The noise comes first and the score is asked at the place after it: both belong to one place.")
def score_after_the_noise(score, x, step, noise):
    for z in noise:
        x = x + math.sqrt(2 * step) * z
        x = x + step * score(x)
    return x


@langevin.misconception("The last of the noise is not used: there is a step for each of its n entries.")
def last_noise_unused(score, x, step, noise):
    return chain(score, x, noise[:-1], lambda x, s, z: x + step * s + math.sqrt(2 * step) * z)


@langevin.equivalent
def step_by_index(score, x, step, noise):
    for i in range(noise.shape[0]):
        x = x + score(x) * step + noise[i] * (2 * step) ** 0.5
    return x


@langevin.equivalent
def noise_first(score, x, step, noise):
    kicks = (2 * step) ** 0.5 * noise
    with torch.no_grad():
        for kick in kicks:
            x = torch.add(x + kick, score(x), alpha=step)
    return x


@langevin.equivalent
def one_step_then_the_rest(score, x, step, noise):
    def walk(x, noise):
        if len(noise) == 0:
            return x
        return walk(x.add(score(x).mul(step)).add(noise[0], alpha=math.sqrt(2) * math.sqrt(step)), noise[1:])

    return walk(x, list(noise))


# ---- 4 ---------------------------------------------------------------------------------------------------------------

metropolis = Exercise(
    "energy.metropolis",
    title="Accept or stay",
    points=3,
    contract="metropolis(energy, score, x, proposal, step, u) is the pair (x_next, log_accept) for proposals that were "
    "drawn from q(x' | x) = N(x + step score(x), 2 step I): log_accept (B,) is the log of p(x') q(x | x') / "
    "(p(x) q(x' | x)), but at most 0, and x_next (B, ...) is the proposal where log u < log_accept for u (B,), else x.",
    section="metropolis",
    returns=("x_next", "log_accept"),
    finished=("course_utils.langevin.mala",),
)


@metropolis.solution
def _(energy, score, x, proposal, step, u):
    log_accept = log_ratio(energy, score, x, proposal, step).clamp(max=0)
    return chosen(u.log() < log_accept, proposal, x), log_accept


@metropolis.inputs
def _(g):
    def inputs(energy, score, shape, step, dtype=torch.float32):
        x = 1.5 * randn(g, *shape, dtype=dtype)
        proposal = x + step * score(x) + math.sqrt(2 * step) * randn(g, *shape, dtype=dtype)
        u = uniform(g, shape[0], dtype=dtype)
        return {"energy": energy, "score": score, "x": x, "proposal": proposal, "step": step, "u": u}

    def toy(shape, step, dtype=torch.float32, by=None):
        energy = frozen_energy(g)
        return inputs(lifted(energy, by) if by else energy, energy.score, shape, step, dtype)

    yield "many points in the plane", toy((40, 2), 1.0)
    yield "a batch of one", toy((1, 2), 1.5)
    yield "as many points as dimensions", toy((3, 3), 1.5)
    yield "pictures that are not square", toy((6, 2, 5, 4), 0.75)
    gaussian = gaussian_energy(0.3, 0.5), gaussian_score(0.3, 0.5)
    yield "a Gaussian, float64", inputs(*gaussian, (30, 1), 0.4, torch.float64)
    yield "energies of thousands", toy((12, 2), 1.0, torch.float64, 5000.0)
    yield ELSEWHERE, moved(inputs(*gaussian, (4, 3), 0.5))


def log_q(score, x, start, step):
    """log of the proposal's density at x, from start, without its constant: (B,)."""
    return -(x - start - step * score(start)).square().flatten(1).sum(1) / (4 * step)


def log_ratio(energy, score, x, proposal, step):
    back, there = log_q(score, x, proposal, step), log_q(score, proposal, x, step)
    return energy(x) - energy(proposal) + back - there


def chosen(accepted, proposal, x):
    return torch.where(accepted.reshape(-1, *[1] * (x.ndim - 1)), proposal, x)


def decided(log_accept, u, proposal, x):
    """The decision for a log ratio (B,)."""
    log_accept = log_accept.clamp(max=0)
    return chosen(u.log() < log_accept, proposal, x), log_accept


@metropolis.misconception(
    "The proposal's density is left out, as if the way back were as likely as the way there: the score drives them "
    "apart."
)
def taken_for_symmetric(energy, score, x, proposal, step, u):
    return decided(energy(x) - energy(proposal), u, proposal, x)


@metropolis.misconception("The two q are swapped, or their minus signs lost: the way back, q(x | x'), stands above.")
def ways_swapped(energy, score, x, proposal, step, u):
    back, there = log_q(score, x, proposal, step), log_q(score, proposal, x, step)
    return decided(energy(x) - energy(proposal) + there - back, u, proposal, x)


@metropolis.misconception("The energies are the wrong way round: p(x') / p(x) is exp(E(x) - E(x')).")
def prefers_high_energy(energy, score, x, proposal, step, u):
    back, there = log_q(score, x, proposal, step), log_q(score, proposal, x, step)
    return decided(energy(proposal) - energy(x) + back - there, u, proposal, x)


@metropolis.misconception("The energies are left out: p(x') / p(x) is what the chain is to follow.")
def without_the_energies(energy, score, x, proposal, step, u):
    return decided(log_q(score, x, proposal, step) - log_q(score, proposal, x, step), u, proposal, x)


@metropolis.misconception(
    "The exponent of q is divided by 2 step: the variance is 2 step, so that it is divided by twice that, 4 step."
)
def variance_of_one_step(energy, score, x, proposal, step, u):
    back, there = log_q(score, x, proposal, step), log_q(score, proposal, x, step)
    return decided(energy(x) - energy(proposal) + 2 * (back - there), u, proposal, x)


@metropolis.misconception("The way back starts at the proposal: its mean has the score of the proposal, not that of x.")
def score_of_x_both_ways(energy, score, x, proposal, step, u):
    s = score(x)
    back = (x - proposal - step * s).square().flatten(1).sum(1) / (4 * step)
    there = (proposal - x - step * s).square().flatten(1).sum(1) / (4 * step)
    return decided(energy(x) - energy(proposal) - back + there, u, proposal, x)


@metropolis.misconception("u is compared with a log, but has none: log u < log_accept.")
def u_without_log(energy, score, x, proposal, step, u):
    log_accept = log_ratio(energy, score, x, proposal, step).clamp(max=0)
    return chosen(u < log_accept, proposal, x), log_accept


@metropolis.misconception("The two states are swapped: the proposal is taken where log u < log_accept, else x stays.")
def rejected_are_taken(energy, score, x, proposal, step, u):
    log_accept = log_ratio(energy, score, x, proposal, step).clamp(max=0)
    return chosen(u.log() < log_accept, x, proposal), log_accept


@metropolis.misconception("Every proposal is accepted: this is the chain without its correction.")
def always_accepted(energy, score, x, proposal, step, u):
    return proposal.clone(), log_ratio(energy, score, x, proposal, step).clamp(max=0)


@metropolis.misconception("Only proposals of higher density are accepted: this climbs, u gives the others a chance.")
def only_upwards(energy, score, x, proposal, step, u):
    ratio = log_ratio(energy, score, x, proposal, step)
    return chosen(ratio >= 0, proposal, x), ratio.clamp(max=0)


@metropolis.misconception("One decision is made for the whole batch: each sample is a chain of its own.")
def one_decision_for_all(energy, score, x, proposal, step, u):
    log_accept = log_ratio(energy, score, x, proposal, step).clamp(max=0)
    return chosen((u.log() < log_accept)[:1].expand(len(x)), proposal, x), log_accept


@metropolis.misconception("A probability is at most 1, and its log at most 0: cut log_accept off there.")
def above_one(energy, score, x, proposal, step, u):
    ratio = log_ratio(energy, score, x, proposal, step)
    return chosen(u.log() < ratio, proposal, x), ratio


@metropolis.misconception("clamp(0) is a bound from below: a log probability is at most 0, clamp(max=0).")
def clamped_from_below(energy, score, x, proposal, step, u):
    log_accept = log_ratio(energy, score, x, proposal, step).clamp(0)
    return chosen(u.log() < log_accept, proposal, x), log_accept


@metropolis.misconception("This is the probability of acceptance: its log is asked for.")
def probability_for_its_log(energy, score, x, proposal, step, u):
    log_accept = log_ratio(energy, score, x, proposal, step).clamp(max=0)
    return chosen(u.log() < log_accept, proposal, x), log_accept.exp()


@metropolis.misconception(
    "The decision has shape (B,) and meets the last dimension of the states: make it (B, 1, ...)."
)
def decision_not_broadcast(energy, score, x, proposal, step, u):
    log_accept = log_ratio(energy, score, x, proposal, step).clamp(max=0)
    return torch.where(u.log() < log_accept, proposal, x), log_accept


@metropolis.misconception(
    "Only the accepted states are handed back: a refused chain stays where it is, and counts again."
)
def refused_are_dropped(energy, score, x, proposal, step, u):
    log_accept = log_ratio(energy, score, x, proposal, step).clamp(max=0)
    accepted = u.log() < log_accept
    return proposal if x.is_meta else proposal[accepted], log_accept


@metropolis.misconception("The squares are summed over one dimension: a sample may have several, as a picture has.")
def squares_of_points_only(energy, score, x, proposal, step, u):
    back = -(x - proposal - step * score(proposal)).square().sum(1) / (4 * step)
    there = -(proposal - x - step * score(x)).square().sum(1) / (4 * step)
    log_accept = (energy(x) - energy(proposal) + back - there).clamp(max=0)
    return chosen(u.log() < log_accept, proposal, x), log_accept


@metropolis.equivalent
def with_torchs_normal(energy, score, x, proposal, step, u):
    scale = math.sqrt(2 * step)
    there = torch.distributions.Normal(x + step * score(x), scale, validate_args=False).log_prob(proposal)
    back = torch.distributions.Normal(proposal + step * score(proposal), scale, validate_args=False).log_prob(x)
    log_accept = -energy(proposal) + energy(x) + (back - there).reshape(len(x), -1).sum(1)
    log_accept = torch.minimum(log_accept, torch.zeros_like(log_accept))
    accepted = (torch.log(u) < log_accept).view(-1, *[1] * (x.ndim - 1))
    return torch.where(accepted, proposal, x), log_accept


@metropolis.equivalent
def chains_one_by_one(energy, score, x, proposal, step, u):
    states, logs = [], []
    for i in range(len(x)):
        a, b = x[i : i + 1], proposal[i : i + 1]
        there = ((b - a - step * score(a)) ** 2).sum() / (4 * step)
        back = ((a - b - step * score(b)) ** 2).sum() / (4 * step)
        log_accept = (energy(a) - energy(b) - back + there).clamp(max=0.0)
        states.append(torch.where(u[i].log() < log_accept, b, a))
        logs.append(log_accept)
    return torch.cat(states), torch.cat(logs)


@metropolis.equivalent
def squares_multiplied_out(energy, score, x, proposal, step, u):
    """The difference of the squares: only the scores' products with the move and with themselves are left."""
    here, there, move = score(x), score(proposal), proposal - x
    products = -(move * (here + there)) / 2 + step / 4 * (here**2 - there**2)
    log_accept = (energy(x) - energy(proposal) + products.flatten(1).sum(1)).clamp_max(0)
    accepted = (u < log_accept.exp()).to(x.dtype).reshape([-1] + [1] * (x.dim() - 1))
    return accepted * proposal + (1 - accepted) * x, log_accept


# ---- 5 ---------------------------------------------------------------------------------------------------------------

contrastive_divergence = Exercise(
    "energy.contrastive_divergence",
    title="The loss of contrastive divergence",
    points=2,
    contract="contrastive_divergence(energy, x_data, x_model, weight) is the mean energy of the data less that of the "
    "model's samples, plus weight times the sum of the two means of the squared energy; the batches may differ in "
    "size, and the gradient reaches the energy's parameters, but never the samples.",
    section="contrastive-divergence",
    returns="the loss",
    finished=("course_utils.losses.contrastive_divergence",),
)


@contrastive_divergence.observe
def _(value, inputs):
    weights, samples = list(inputs["energy"].parameters()), inputs["x_model"]
    if not value.requires_grad:
        gradients = [torch.zeros_like(weights[0]), torch.zeros_like(samples)]
    else:
        leaves = [weights[0], samples] if samples.requires_grad else weights[:1]
        gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    names = ("its gradient at the energy's parameters", "its gradient at the samples")
    names = names if samples.requires_grad else names[:1]
    return {"the loss": value} | dict(zip(names, gradients, strict=False))


@contrastive_divergence.solution
def _(energy, x_data, x_model, weight):
    return losses.contrastive_divergence(energy, x_data, x_model, weight)


@contrastive_divergence.inputs
def _(g):
    def inputs(shape, n_data, weight, dtype=torch.float32):
        x_data, x_model = randn(g, n_data, *shape[1:], dtype=dtype), 1.3 * randn(g, *shape, dtype=dtype)
        return {"energy": ToyEnergy(g), "x_data": x_data, "x_model": x_model, "weight": weight}

    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, shape[0], 0.1 + 0.2 * uniform(g).item(), dtype)
    yield "without the second term", inputs((5, 2), 5, 0.0, torch.float64)
    many = inputs((3, 2), 8, 0.25, torch.float64)
    yield "more data than samples, and of higher energy", many | {"x_data": 3 + many["x_data"]}
    attached = inputs((4, 2), 4, 0.125, torch.float64)
    attached["x_model"].requires_grad_()
    yield "samples that still hang on a graph", attached
    yield ELSEWHERE, moved(inputs((4, 3), 4, 0.25) | {"energy": PlainEnergy(g)})


def both_energies(energy, x_data, x_model):
    return energy(x_data), energy(x_model.detach())


@contrastive_divergence.misconception(
    "The sign is turned: this raises the energy of the data. It has to fall there and rise at the model's samples."
)
def data_pushed_up(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return model.mean() - data.mean() + weight * (data.square().mean() + model.square().mean())


@contrastive_divergence.misconception(
    "The model's energy is missing: nothing then holds the energy up, and it falls everywhere."
)
def data_only(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() + weight * (data.square().mean() + model.square().mean())


@contrastive_divergence.misconception("The energies are added: the model's samples are to become less likely.")
def energies_added(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() + model.mean() + weight * (data.square().mean() + model.square().mean())


@contrastive_divergence.misconception(
    "The gradient runs through the samples, and so back into the chain that drew them: detach them."
)
def through_the_samples(energy, x_data, x_model, weight):
    data, model = energy(x_data), energy(x_model)
    return data.mean() - model.mean() + weight * (data.square().mean() + model.square().mean())


@contrastive_divergence.misconception("The value is right but cut off from the network (no_grad, detach or item).")
def cut_off(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return (data.mean() - model.mean() + weight * (data.square().mean() + model.square().mean())).detach()


@contrastive_divergence.misconception(
    "The samples' energy, not the samples, is detached: the network never learns to raise it."
)
def samples_energy_detached(energy, x_data, x_model, weight):
    data, model = energy(x_data), energy(x_model).detach()
    return data.mean() - model.mean() + weight * (data.square().mean() + model.square().mean())


@contrastive_divergence.misconception("Sums over the batch are taken: they are means, or the batches' sizes count.")
def summed_over_the_batch(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.sum() - model.sum() + weight * (data.square().sum() + model.square().sum())


@contrastive_divergence.misconception("The squared energies are missing: without them both energies may drift away.")
def energies_drift(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() - model.mean()


@contrastive_divergence.misconception(
    "The squared difference of the means is weighed: the squares of both energies are, which keep them near 0."
)
def difference_squared(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() - model.mean() + weight * (data.mean() - model.mean()) ** 2


@contrastive_divergence.misconception("The means are squared: it is the mean of the squared energies.")
def square_of_the_means(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() - model.mean() + weight * (data.mean() ** 2 + model.mean() ** 2)


@contrastive_divergence.misconception("Only the data's energy is squared: the samples' drifts as well.")
def squares_of_the_data_only(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() - model.mean() + weight * data.square().mean()


@contrastive_divergence.misconception("The squares of both are averaged: their sum is weighed.")
def squares_averaged(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() - model.mean() + weight * (data.square().mean() + model.square().mean()) / 2


@contrastive_divergence.misconception("The squares are taken away: they would drive the energies apart.")
def squares_taken_away(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() - model.mean() - weight * (data.square().mean() + model.square().mean())


@contrastive_divergence.misconception(
    "This is the distance of the two energies: it is 0 at best, but the model's may well be the higher one."
)
def distance_of_the_energies(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return (data.mean() - model.mean()).abs() + weight * (data.square().mean() + model.square().mean())


@contrastive_divergence.misconception(
    "Data and samples are subtracted one by one: the batches may differ in size, so take the mean of each first."
)
def subtracted_in_pairs(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return (data - model + weight * (data.square() + model.square())).mean()


@contrastive_divergence.misconception(
    "The weight multiplies the data's squares only: brackets are missing around the sum of the two means."
)
def brackets_missing(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    return data.mean() - model.mean() + weight * data.square().mean() + model.square().mean()


@contrastive_divergence.misconception(
    "A softplus (or hinge) around the difference makes a classifier's loss of it: its gradient fades where the data's "
    "energy is low already, and is no longer that of -log p."
)
def softplus_of_the_difference(energy, x_data, x_model, weight):
    data, model = both_energies(energy, x_data, x_model)
    gap = torch.nn.functional.softplus(data.mean() - model.mean())
    return gap + weight * (data.square().mean() + model.square().mean())


@contrastive_divergence.equivalent
def all_in_one_batch(energy, x_data, x_model, weight):
    e = energy(torch.cat([x_data, x_model.detach()]))
    data, model = e[: len(x_data)], e[len(x_data) :]
    return data.mean() - model.mean() + weight * ((data**2).mean() + (model**2).mean())


@contrastive_divergence.equivalent
def sums_over_sizes(energy, x_data, x_model, weight):
    def part(x, sign):
        e = energy(x)
        return (sign * e + weight * e * e).sum() / e.shape[0]

    return part(x_data, 1) + part(x_model.clone().detach(), -1)


@contrastive_divergence.equivalent
def squares_completed(energy, x_data, x_model, weight):
    data, model = energy(x_data), energy(torch.empty_like(x_model).copy_(x_model.detach()).detach())
    if weight == 0:
        return torch.mean(data) - torch.mean(model)
    middle = 1 / (2 * weight)
    return weight * ((data + middle).square().mean() + (model - middle).square().mean() - 2 * middle**2)


# ---- 6 ---------------------------------------------------------------------------------------------------------------

replay_step = Exercise(
    "energy.replay_step",
    title="A replay buffer",
    points=2,
    contract="replay_step(buffer, index, fresh, u, rate, run) is the pair (samples, new_buffer): the chains start at "
    "buffer[index], but at fresh (B, ...) where u < rate for u (B,); samples = run(start), without a graph, and "
    "new_buffer is a copy of buffer (N, ...) with the samples at index (B,).",
    section="replay-buffer",
    returns=("samples", "new_buffer"),
    finished=("course_utils.losses.ReplayBuffer",),
)


@replay_step.solution
def _(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u < rate)).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.inputs
def _(g):
    def inputs(shape, N, rate, dtype=torch.float32):
        buffer, fresh = randn(g, N, *shape[1:], dtype=dtype), uniform(g, *shape, dtype=dtype)
        index, u = torch.randperm(N, generator=g)[: shape[0]], uniform(g, shape[0], dtype=dtype)
        return {"buffer": buffer, "index": index, "fresh": fresh, "u": u, "rate": rate, "run": toy_run(g)}

    yield "many chains", inputs((20, 2), 30, 0.4)
    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, shape[0] + 5, 0.5, dtype)
    yield "no restarts", inputs((5, 2), 9, 0.0)
    yield "all restart", inputs((5, 2), 9, 1.0)
    yield "all chains of the buffer", inputs((8, 2), 8, 0.5, torch.float64)
    yield ELSEWHERE, moved(inputs((4, 3), 7, 0.5))


def toy_run(g):
    """A stand-in for a chain of a model: its samples hang on the model's graph."""
    weight = (0.5 + uniform(g)).requires_grad_()
    return lambda x: x + 0.3 * torch.sin(weight.to(x) * x + 1)


def starts(buffer, index, fresh, restart):
    return torch.where(restart.reshape(-1, *[1] * (fresh.ndim - 1)), fresh, buffer[index])


def written_to(buffer, index, samples):
    new = buffer.clone()
    new[index] = samples
    return new


@replay_step.misconception("Nothing restarts: chains that are stuck somewhere would stay there for good.")
def never_restarts(buffer, index, fresh, u, rate, run):
    samples = run(buffer[index]).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("All chains restart: the buffer is filled, but never read.")
def buffer_never_read(buffer, index, fresh, u, rate, run):
    samples = run(fresh).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("Restarts are the wrong way round: `rate` is the share of new chains, u < rate.")
def restarts_inverted(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u >= rate)).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("One decision restarts the whole batch: each chain has its own u.")
def restarts_together(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, (u < rate)[:1].expand(len(u)))).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("The first chains of the batch restart, rate of them: u says which ones do.")
def first_ones_restart(buffer, index, fresh, u, rate, run):
    restart = torch.arange(len(u), device=u.device) < round(rate * len(u))
    samples = run(starts(buffer, index, fresh, restart)).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("The choice has shape (B,) and meets the last dimension of x: make it (B, 1, ...).")
def choice_not_broadcast(buffer, index, fresh, u, rate, run):
    samples = run(torch.where(u < rate, fresh, buffer[index])).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("The choice as (B, 1) serves points only: it needs a 1 for each dimension of a sample.")
def choice_for_points(buffer, index, fresh, u, rate, run):
    samples = run(torch.where((u < rate)[:, None], fresh, buffer[index])).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception(
    "The buffer is read at its first B places: `index` says which chains go on, and where they are put back."
)
def read_from_the_top(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, torch.arange(len(index), device=index.device), fresh, u < rate)).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("The samples are written to the first B places: each goes back to where it came from.")
def written_to_the_top(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u < rate)).detach()
    return samples, written_to(buffer, torch.arange(len(index), device=index.device), samples)


@replay_step.misconception("The buffer is not written to: the chains would start from the same place for ever.")
def never_written(buffer, index, fresh, u, rate, run):
    return run(starts(buffer, index, fresh, u < rate)).detach(), buffer.clone()


@replay_step.misconception("The starts are written back, not the samples: the chains never get on.")
def starts_written(buffer, index, fresh, u, rate, run):
    start = starts(buffer, index, fresh, u < rate)
    return run(start).detach(), written_to(buffer, index, start)


@replay_step.misconception("Restarted chains are not written back: they belong to the buffer, too.")
def restarts_not_written(buffer, index, fresh, u, rate, run):
    restart = u < rate
    samples = run(starts(buffer, index, fresh, restart)).detach()
    return samples, written_to(buffer, index, starts(buffer, index, samples, ~restart))


@replay_step.misconception("The samples are put at the end: a buffer that grows is a heap of old samples.")
def put_at_the_end(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u < rate)).detach()
    return samples, torch.cat([buffer, samples])[-len(buffer) :]


@replay_step.misconception(
    "The samples still hang on the network's graph, and so does the buffer: every round it grows. Detach them."
)
def graph_in_the_buffer(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u < rate))
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("The chains run twice: what is returned is not what is written.")
def run_twice(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u < rate)).detach()
    return samples, written_to(buffer, index, run(samples).detach())


@replay_step.misconception(
    "The buffer that is given is changed: hand back a copy, so that nobody's chains change behind their back."
)
def buffer_changed(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u < rate)).detach()
    buffer[index] = samples
    return samples, buffer


@replay_step.misconception("Where one chain restarts, all do: each has its own u.")
def any_restarts_all(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, (u < rate).any().expand(len(u)))).detach()
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("The first B places of the buffer are read and written: `index` says which chains go on.")
def first_places(buffer, index, fresh, u, rate, run):
    top = torch.arange(len(index), device=index.device)
    samples = run(starts(buffer, top, fresh, u < rate)).detach()
    return samples, written_to(buffer, top, samples)


@replay_step.misconception(
    "The restarts come after the walk: fresh chains are to walk on as well, from their new start."
)
def restarted_after_the_walk(buffer, index, fresh, u, rate, run):
    walked = run(buffer[index]).detach()
    samples = torch.where((u < rate).reshape(-1, *[1] * (fresh.ndim - 1)), fresh, walked)
    return samples, written_to(buffer, index, samples)


@replay_step.misconception("The buffer grows: the samples take the places of the chains that they go on from.")
def buffer_grows(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u < rate)).detach()
    return samples, torch.cat([buffer, samples])


@replay_step.misconception("The two results are in the wrong order: the samples come first, then the buffer.")
def results_swapped(buffer, index, fresh, u, rate, run):
    samples = run(starts(buffer, index, fresh, u < rate)).detach()
    return written_to(buffer, index, samples), samples


@replay_step.equivalent
def chain_by_chain(buffer, index, fresh, u, rate, run):
    samples, new_buffer = torch.empty_like(fresh), buffer.clone()
    for b in range(len(fresh)):
        place = index[b : b + 1]
        start = torch.where(u[b] < rate, fresh[b : b + 1], buffer[place])
        samples[b : b + 1] = run(start).detach()
        new_buffer[place] = samples[b : b + 1]
    return samples, new_buffer


@replay_step.equivalent
def with_a_mask(buffer, index, fresh, u, rate, run):
    new = (u < rate).to(fresh.dtype).view([-1] + [1] * (fresh.dim() - 1))
    with torch.no_grad():
        samples = run(new * fresh + (1 - new) * buffer.index_select(0, index))
    return samples, buffer.index_copy(0, index, samples)


@replay_step.equivalent
def restarts_by_their_places(buffer, index, fresh, u, rate, run):
    wide = (u < rate).expand(*fresh.shape[1:], len(u)).movedim(-1, 0)
    start = buffer[index].masked_fill(wide, 0) + fresh.masked_fill(~wide, 0)
    samples = run(start).data
    kept = buffer.detach().clone()
    return samples, kept.index_put_((index,), samples)


# ---- 7 ---------------------------------------------------------------------------------------------------------------

compose = Exercise(
    "energy.compose",
    title="And, or",
    points=2,
    contract="compose(energy_1, energy_2, x) is the pair (both, either), each (B,), of energies at x (B, ...): "
    "the density exp(-both) is the product of exp(-energy_1) and exp(-energy_2), and exp(-either) is their sum; the "
    "energies may be so large or so low that their exponentials are 0 or infinite.",
    section="energy-composition",
    returns=("both", "either"),
    finished=("course_utils.energy.product", "course_utils.energy.mixture"),
)


@compose.solution
def _(energy_1, energy_2, x):
    return product(energy_1, energy_2)(x), mixture(energy_1, energy_2)(x)


def stacked(energy_1, energy_2, x):
    """Both energies of x: (2, B)."""
    return torch.stack([energy_1(x), energy_2(x)])


@compose.inputs
def _(g):
    def inputs(shape, dtype=torch.float32):
        return {"energy_1": frozen_energy(g), "energy_2": frozen_energy(g), "x": randn(g, *shape, dtype=dtype)}

    for name, (shape, dtype) in SHAPES.items():
        yield name, inputs(shape, dtype)
    pair = {"energy_1": gaussian_energy(-1.0, 0.5), "energy_2": gaussian_energy(1.5, 0.7)}
    yield "two Gaussians", pair | {"x": randn(g, 5, 2, dtype=torch.float64)}
    yield "two points", inputs((2, 3), torch.float64)
    for name, by in (("energies of thousands", 3000.0), ("energies below minus a thousand", -2000.0)):
        far = inputs((4, 2), torch.float64)
        yield name, far | {n: lifted(far[n], by) for n in ("energy_1", "energy_2")}
    yield ELSEWHERE, moved(pair | {"x": randn(g, 4, 3)})


@compose.misconception("The two are swapped: the product of densities is `both`, their sum `either`.")
def and_or_swapped(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return -(-e).logsumexp(0), e.sum(0)


@compose.misconception("The energies are averaged for `both`: a product of exponentials has the sum in its exponent.")
def mean_for_the_product(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.mean(0), -(-e).logsumexp(0)


@compose.misconception("The energies are multiplied for `both`: the densities are, so the energies add up.")
def energies_multiplied(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.prod(0), -(-e).logsumexp(0)


@compose.misconception("The largest energy is taken for `both`: in a product both factors count.")
def largest_for_the_product(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.amax(0), -(-e).logsumexp(0)


@compose.misconception("The lowest energy is taken for `either`: near, but where two densities meet both count.")
def lowest_for_the_sum(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(0), e.amin(0)


@compose.misconception(
    "The sign inside the sum is lost: it is -log of the sum of exp(-E_i), not log of that of exp(E_i)."
)
def sum_of_exp_plus(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(0), e.logsumexp(0)


@compose.misconception("The sign before the log is lost: this is the log density, the energy is its negative.")
def log_density_of_the_sum(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(0), (-e).logsumexp(0)


@compose.misconception("This is the sum of the densities: its energy is minus the log.")
def sum_without_log(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(0), (-e).exp().sum(0)


@compose.misconception("The densities are averaged for `either`: their sum was asked for, log 2 away.")
def mean_of_the_densities(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(0), math.log(2) - (-e).logsumexp(0)


@compose.misconception("The energies are averaged for `either`: that is a product of roots, high only where all are.")
def mean_for_the_sum(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(0), e.mean(0)


@compose.misconception("The sum runs over the points of the batch: it is over the energies, at each point.")
def sum_over_the_batch(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(1), -(-e).logsumexp(1)


@compose.misconception(
    "exp(-E) is taken before the log: for energies of some hundreds it is 0 or infinite. torch.logsumexp does both."
)
def sum_underflows(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(0), -(-e).exp().sum(0).log()


@compose.misconception(
    "What is true of densities was done to energies, a product and a sum: the energy is minus the log of either."
)
def densities_rules_for_energies(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.prod(0), e.sum(0)


@compose.misconception(
    "The minus inside logaddexp is lost: the densities are exp(-E), so take it of minus each energy."
)
def logaddexp_of_plus(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.sum(0), -e.logsumexp(0)


@compose.misconception(
    "The largest for `both` and the lowest for `either` is the logic of sets: of densities, both count in each."
)
def largest_and_lowest(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.amax(0), e.amin(0)


@compose.misconception("Both results are averaged: product and sum are asked for, log 2 and a factor of 2 away.")
def both_averaged(energy_1, energy_2, x):
    e = stacked(energy_1, energy_2, x)
    return e.mean(0), math.log(2) - (-e).logsumexp(0)


@compose.equivalent
def with_logaddexp(energy_1, energy_2, x):
    a, b = energy_1(x), energy_2(x)
    return a + b, -torch.logaddexp(-a, -b)


@compose.equivalent
def from_the_lowest(energy_1, energy_2, x):
    columns = torch.stack([energy_1(x), energy_2(x)], dim=1)
    lowest = columns.min(1).values
    return torch.einsum("bi->b", columns), lowest - torch.exp(lowest[:, None] - columns).sum(1).log()


@compose.equivalent
def by_the_share_of_one(energy_1, energy_2, x):
    """Bayes: the energy of the sum is that of one part and the log of its share."""
    with torch.no_grad():
        e = torch.vstack([energy_1(x), energy_2(x)])
    return sum(e), e[1] + torch.log_softmax(-e, 0)[1]


@compose.equivalent
def with_softplus(energy_1, energy_2, x):
    a, b = energy_1(x), energy_2(x)
    return torch.stack([a, b]).sum(0), a - torch.nn.functional.softplus(a - b)


# ---- 8 ---------------------------------------------------------------------------------------------------------------

fix_the_chain = Exercise(
    "energy.fix_the_chain",
    title="Find the bug",
    points=3,
    contract="fix_the_chain(energy, score, x, step, noise, u) is the last state of the Metropolis-adjusted Langevin "
    "chain that starts at x (B, ...): it proposes with noise[i] of noise (n, B, ...), accepts with u[i] of u (n, B), "
    "and its law tends to exp(-energy), of which score is the gradient of the log.",
    section="energy-mistakes",
    returns="x",
    finished=("course_utils.langevin.mala",),
)


@fix_the_chain.solution
def _(energy, score, x, step, noise, u):
    for z, v in zip(noise, u, strict=True):
        proposal = x + step * score(x) + math.sqrt(2 * step) * z
        x = chosen(v.log() < log_ratio(energy, score, x, proposal, step), proposal, x)
    return x


@fix_the_chain.inputs
def _(g):
    def inputs(energy, score, shape, n, step, dtype=torch.float64):
        x, noise = 1.5 * randn(g, *shape, dtype=dtype), randn(g, n, *shape, dtype=dtype)
        u = uniform(g, n, shape[0], dtype=dtype)
        return {"energy": energy, "score": score, "x": x, "step": step, "noise": noise, "u": u}

    def toy(*settings):
        energy = frozen_energy(g)
        return inputs(energy, energy.score, *settings)

    gaussian = gaussian_energy(0.3, 0.5), gaussian_score(0.3, 0.5)
    yield "a Gaussian", inputs(*gaussian, (50, 1), 8, 0.4)
    yield "many points in the plane", toy((30, 2), 5, 1.0, torch.float32)
    yield "pictures that are not square", toy((12, 2, 3, 2), 4, 0.5, torch.float32)
    yield "a batch of one", toy((1, 3), 10, 1.0)
    yield "one step", toy((20, 3), 1, 1.0)
    yield ELSEWHERE, moved(inputs(*gaussian, (4, 3), 1, 0.5, torch.float32))


def adjusted(energy, score, x, step, noise, u, ratio=None, remember=None):
    """The adjusted chain, with its energies and scores remembered.

    `ratio` of the two energies, scores and the move makes the log ratio; remember(accepted, new, old) says what is
    remembered after a step.
    """
    ratio, remember = ratio or both_ways, remember or where_accepted
    known = [energy(x), score(x)]
    for z, v in zip(noise, u, strict=True):
        proposal = x + step * known[1] + math.sqrt(2 * step) * z
        new = [energy(proposal), score(proposal)]
        accepted = v.log() < ratio(known, new, proposal - x, step)
        known = remember(accepted, new, known)
        x = chosen(accepted, proposal, x)
    return x


def where_accepted(accepted, new, old):
    return [chosen(accepted, *pair) for pair in zip(new, old, strict=True)]


def both_ways(known, new, move, step):
    """log of p(x') q(x | x') / (p(x) q(x' | x)), from the energies and scores at both ends and the move between."""
    back = -(-move - step * new[1]).square().flatten(1).sum(1) / (4 * step)
    there = -(move - step * known[1]).square().flatten(1).sum(1) / (4 * step)
    return known[0] - new[0] + back - there


@fix_the_chain.misconception(
    "This is still the program as it was given: after a rejection, whose energy and score does it remember?"
)
def as_given(energy, score, x, step, noise, u):
    e, s = energy(x), score(x)
    for z, v in zip(noise, u, strict=True):
        proposal = x + step * s + math.sqrt(2 * step) * z
        e_new, s_new = energy(proposal), score(proposal)
        there = (proposal - x - step * s).square().flatten(1).sum(1) / (4 * step)
        back = (x - proposal - step * s_new).square().flatten(1).sum(1) / (4 * step)
        accepted = v.log() < e - e_new + there - back
        x = torch.where(accepted.reshape(-1, *[1] * (x.ndim - 1)), proposal, x)
        e, s = e_new, s_new
    return x


@fix_the_chain.misconception("Half of the bug is left: the energy is put right after a rejection, the score is not.")
def score_still_stale(energy, score, x, step, noise, u):
    return adjusted(energy, score, x, step, noise, u, None, lambda a, new, old: [chosen(a, new[0], old[0]), new[1]])


@fix_the_chain.misconception("Half of the bug is left: the score is put right after a rejection, the energy is not.")
def energy_still_stale(energy, score, x, step, noise, u):
    return adjusted(energy, score, x, step, noise, u, None, lambda a, new, old: [new[0], chosen(a, new[1], old[1])])


@fix_the_chain.misconception("Energy and score are never updated: after an acceptance they belong to the old state.")
def never_updated(energy, score, x, step, noise, u):
    return adjusted(energy, score, x, step, noise, u, None, lambda a, new, old: old)


@fix_the_chain.misconception(
    "Energy and score are updated only where the proposal was rejected: it is the other way round."
)
def updated_the_wrong_way(energy, score, x, step, noise, u):
    return adjusted(energy, score, x, step, noise, u, None, lambda a, new, old: where_accepted(~a, new, old))


@fix_the_chain.misconception(
    "The correction is gone, every proposal is accepted: the law is then off by the size of the step.", read="langevin"
)
def correction_removed(energy, score, x, step, noise, u):
    for z in noise:
        x = x + step * score(x) + math.sqrt(2 * step) * z
    return x


@fix_the_chain.misconception(
    "The two exponents of q are swapped now: there - back was right, as both carry a minus sign.", read="metropolis"
)
def exponents_swapped(energy, score, x, step, noise, u):
    def ratio(known, new, move, step):
        right = both_ways(known, new, move, step)
        return 2 * (known[0] - new[0]) - right

    return adjusted(energy, score, x, step, noise, u, ratio)


@fix_the_chain.misconception(
    "The proposal's density is left out of the ratio: it is not symmetric, as the score drives it.", read="metropolis"
)
def taken_for_a_random_walk(energy, score, x, step, noise, u):
    return adjusted(energy, score, x, step, noise, u, lambda known, new, move, step: known[0] - new[0])


@fix_the_chain.misconception(
    "The bug is not in 4 step: a Gaussian's exponent is divided by twice its variance, 2 step.", read="metropolis"
)
def divided_by_two_steps(energy, score, x, step, noise, u):
    def ratio(known, new, move, step):
        return 2 * both_ways(known, new, move, step) - (known[0] - new[0])

    return adjusted(energy, score, x, step, noise, u, ratio)


@fix_the_chain.misconception(
    "The energies are the wrong way round now: e - e_new was right, lower energy is to be accepted.", read="metropolis"
)
def climbs_in_energy(energy, score, x, step, noise, u):
    def ratio(known, new, move, step):
        return both_ways(known, new, move, step) - 2 * (known[0] - new[0])

    return adjusted(energy, score, x, step, noise, u, ratio)


@fix_the_chain.misconception(
    "The noise is not the bug: the proposal's variance is 2 step, so its factor is sqrt(2 step).", read="langevin"
)
def proposals_too_short(energy, score, x, step, noise, u):
    return adjusted(energy, score, x, step, noise / math.sqrt(2), u)


@fix_the_chain.misconception(
    "The whole batch is accepted or not by its first chain: each has its own decision.", read="metropolis"
)
def decided_for_all(energy, score, x, step, noise, u):
    def ratio(known, new, move, step):
        return both_ways(known, new, move, step)[:1].expand(len(move))

    return adjusted(energy, score, x, step, noise, u[:, :1].expand(u.shape), ratio)


@fix_the_chain.equivalent
def remembered_where_accepted(energy, score, x, step, noise, u):
    e, s = energy(x), score(x)
    for z, v in zip(noise, u, strict=True):
        proposal = x + step * s + math.sqrt(2 * step) * z
        e_new, s_new = energy(proposal), score(proposal)
        there = (proposal - x - step * s).square().flatten(1).sum(1) / (4 * step)
        back = (x - proposal - step * s_new).square().flatten(1).sum(1) / (4 * step)
        accepted = v.log() < e - e_new + there - back
        wide = accepted.reshape(-1, *[1] * (x.ndim - 1))
        x, s, e = torch.where(wide, proposal, x), torch.where(wide, s_new, s), torch.where(accepted, e_new, e)
    return x


@fix_the_chain.equivalent
def computed_anew(energy, score, x, step, noise, u):
    for z, v in zip(noise, u, strict=True):
        e, s = energy(x), score(x)
        proposal = x + step * s + math.sqrt(2 * step) * z
        e_new, s_new = energy(proposal), score(proposal)
        there = (proposal - x - step * s).square().flatten(1).sum(1) / (4 * step)
        back = (x - proposal - step * s_new).square().flatten(1).sum(1) / (4 * step)
        accepted = v.log() < e - e_new + there - back
        x = torch.where(accepted.reshape(-1, *[1] * (x.ndim - 1)), proposal, x)
    return x


@fix_the_chain.equivalent
def computed_where_the_chain_is(energy, score, x, step, noise, u):
    """The program with its last line mended: energy and score of where the chain is now."""
    e, s = energy(x), score(x)
    for i in range(len(noise)):
        proposal = x + step * s + (2 * step) ** 0.5 * noise[i]
        e_new, s_new = energy(proposal), score(proposal)
        move = proposal - x
        q = ((move - step * s) ** 2 - (move + step * s_new) ** 2).reshape(len(x), -1).sum(1) / (4 * step)
        accepted = u[i] < torch.exp(e - e_new + q)
        x = x + move * accepted.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        e, s = energy(x), score(x)
    return x
