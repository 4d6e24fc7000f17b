"""What a run learns: batches of pictures, the loss on them, and how well it does on others.

Everything random is a function of the seed and the step: what is noted in runs.py rests on it.
"""

import math

import torch
from torch import distributed
from torch.quasirandom import SobolEngine

from course_utils import data
from course_utils.classifier import augment, classifier_loss
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.energy import score_of
from course_utils.langevin import langevin
from course_utils.losses import contrastive_divergence, denoising_score_matching
from course_utils.metrics import classifier_accuracy
from course_utils.schedules import T_MIN
from course_utils.training import drop_labels

LABEL_DROPOUT = 0.2


class Task:
    """A model and the pictures it learns from: uint8 (N, C, H, W) on the training device, labels (N,).

    `memory` holds tensors that a step hands to the next, besides the weights; the checkpoint keeps them. A step costs
    about as much as `forwards` passes through the network.
    """

    forwards = 3  # backward costs two

    def __init__(self, model, train, test, flip, seed):
        self.memory = {}
        self.model, self.train, self.test, self.flip, self.seed = model, train, test, flip, seed


class Diffusion(Task):
    """A denoiser, trained to say the velocity, the noise or whatever it predicts."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.sobol, self.drawn = SobolEngine(1, scramble=True, seed=self.seed), 0

    def batch(self, step, index):
        """x0, y, t and noise of a step, all of them functions of the seed and the step."""
        images, labels = self.train
        generator = seeded(images.device, self.seed, step)
        x0 = data.to_float(images[index])
        if self.flip:
            x0 = augment(x0, flip=True, shift=0, generator=generator)
        noise, y = self.draws(x0, labels[index], generator)
        return x0, y, self.times(step, len(index)), noise

    @staticmethod
    def draws(x0, y, generator):
        """Noise for the pictures, and their labels less some dropped ones."""
        return torch.randn(x0.shape, generator=generator, device=x0.device), drop_labels(y, LABEL_DROPOUT, generator)

    def times(self, step, n):
        """Training times (n,), spread evenly by a Sobol sequence; on the CPU, where the schedule is computed."""
        start = step * n
        if self.drawn > start:
            self.sobol.reset()
            self.drawn = 0
        self.sobol.fast_forward(start - self.drawn)
        self.drawn = start + n
        return T_MIN + (1 - T_MIN) * self.sobol.draw(n)[:, 0]

    def loss(self, net, x0, y, t, noise):
        return diffusion_loss(Denoiser(net, self.model.schedule, self.model.prediction), x0, y, t, noise)

    @property
    def net(self):
        return self.model.net

    def example(self):
        """What the network is called with, for one picture."""
        x = data.to_float(self.train[0][:1])
        return x, torch.full((1,), 0.5, device=x.device)

    @torch.no_grad()
    def validate(self, model):
        """The loss on the test pictures with the same times, noise and dropped labels each time."""
        images, labels = self.test
        times = T_MIN + (1 - T_MIN) * SobolEngine(1, scramble=True, seed=0).draw(len(images))[:, 0]
        total = 0.0
        for i, index in enumerate(torch.arange(len(images)).split(500)):
            x0 = data.to_float(images[index])
            noise, y = self.draws(x0, labels[index], seeded(images.device, 1, i))
            total += diffusion_loss(model, x0, y, times[index], noise) * len(index)
        return {"validation": float(total) / len(images)}


class Classification(Task):
    """A classifier; it measures what the denoisers make."""

    def batch(self, step, index):
        images, labels = self.train
        generator = seeded(images.device, self.seed, step)
        x = augment(data.to_float(images[index]), self.flip, shift=4 if self.flip else 2, generator=generator)
        return x, labels[index]

    def loss(self, net, x, y):
        return classifier_loss(net, x, y)

    @property
    def net(self):
        return self.model

    def example(self):
        return (data.to_float(self.train[0][:1]),)

    def validate(self, model):
        images, labels = self.test
        return {"accuracy": classifier_accuracy(model, data.to_float(images), labels)}


class Energy(Task):
    """An energy of pictures with noise of size model.base_std, the sum of two losses with the same minimum.

    Denoising score matching (Vincent 2011) shapes the energy around the data. It cannot see what lies between them,
    nor how much belongs where; so chains that go on (Tieleman 2008) walk on the energy, a few of them anew from a
    Gaussian with the data's moments, and contrastive divergence raises it where they gather. Their step widens them by
    a known amount (chapter 1, `langevin-bias`): they are compared with data of that much more noise.
    Raises ValueError in one of several processes: the chains live in one.
    """

    forwards = 6 + (2 * 5 + 3) // 2 + 3  # the score and its gradient; the walk of half as many chains; both energies
    step, n_steps, n_chains, restart, denoising = 0.08, 5, 64, 0.01, 3.0

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        if in_group():
            raise ValueError("an energy is trained by one process, in which its chains live: start it without torchrun")
        self.sigma = self.model.base_std
        self.widened = self.sigma / math.sqrt(1 - self.step / (2 * self.sigma**2))
        self.model.set_base(data.to_float(self.train[0]))
        flat = data.to_float(self.train[0]).flatten(1)
        self.mean, covariance = flat.mean(0), flat.T.cov() + self.sigma**2 * torch.eye(flat.shape[1]).to(flat)
        self.root = torch.linalg.cholesky(covariance)
        self.memory["chains"] = self.fresh(self.n_chains, seeded(flat.device, self.seed, -1))

    def fresh(self, n, generator):
        """n draws of the Gaussian with the moments of the noisy pictures."""
        z = torch.randn(n, len(self.mean), generator=generator, device=self.mean.device)
        return (self.mean + z @ self.root.T).reshape(n, *self.train[0].shape[1:])

    def batch(self, step, index):
        """x0 and its noise, the places of the chains that walk in this step, and where they start."""
        self.generator = seeded(self.mean.device, self.seed, step)
        x0 = augment(data.to_float(self.train[0][index]), shift=1, generator=self.generator)
        noise = torch.randn(x0.shape, generator=self.generator, device=x0.device)
        chains = self.memory["chains"]
        where = torch.randperm(len(chains), generator=self.generator, device=x0.device)[: max(1, len(x0) // 2)]
        anew = torch.rand(len(where), generator=self.generator, device=x0.device) < self.restart
        fresh = self.fresh(len(where), self.generator)
        return x0, noise, where, torch.where(anew.reshape(-1, 1, 1, 1), fresh, chains[where])

    def loss(self, net, x0, noise, where, start):
        score = score_of(net)
        *_, x_model = langevin(score, start, self.step, self.n_steps, generator=self.generator)
        self.memory["chains"][where] = x_model
        denoising = denoising_score_matching(score, x0, self.sigma, noise, weighted=True)
        return self.denoising * denoising + contrastive_divergence(net, x0 + self.widened * noise, x_model)

    @property
    def net(self):
        return self.model

    def example(self):
        return (data.to_float(self.train[0][:1]),)

    @torch.no_grad()
    def validate(self, model):
        """The denoising loss on the test pictures, with the same noise each time."""
        images, total = self.test[0], 0.0
        for i, index in enumerate(torch.arange(len(images)).split(500)):
            x0 = data.to_float(images[index])
            noise = torch.randn(x0.shape, generator=seeded(x0.device, 1, i), device=x0.device)
            total += denoising_score_matching(score_of(model), x0, self.sigma, noise, weighted=True) * len(index)
        return {"validation": float(total) / len(images)}


def seed_of(seed, step):
    return (seed * 1_000_003 + step) % 2**63


def seeded(device, seed, step):
    """A generator whose draws are a function of seed and step."""
    return torch.Generator(device).manual_seed(seed_of(seed, step))


def in_group():
    return distributed.is_available() and distributed.is_initialized()
