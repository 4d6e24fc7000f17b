"""A training run that can be stopped, killed and shared, and that ends the same.

Everything random is a function of the seed and the step: the order of the pictures, the times (a Sobol sequence), the
noise, what dropout drops. A run that was killed and goes on therefore draws what it would have drawn, and so do several
processes, each of which takes its share of the same batch. ``python -m course_utils.train`` is the command.
"""

import contextlib
import csv
import math
import signal
import time
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.quasirandom import SobolEngine
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from course_utils import data
from course_utils.classifier import augment, classifier_loss
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.energy import score_of
from course_utils.langevin import langevin
from course_utils.losses import contrastive_divergence, denoising_score_matching
from course_utils.metrics import classifier_accuracy
from course_utils.schedules import T_MIN
from course_utils.training import drop_labels, ema_model

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


class Run:
    """A training run: what it learns, how far it has come, and its folder.

    Raises ValueError where the processes cannot share a batch equally: the mean of their gradients is the batch's only
    if they can.
    """

    def __init__(self, task, out, epochs, batch_size, lr, ema_decay, autocast=False, compiled=False):
        self.task, self.out, self.lr = task, Path(out), lr
        self.batch_size = min(batch_size, len(task.train[0]))
        self.epoch_steps = len(task.train[0]) // self.batch_size
        self.steps = epochs * self.epoch_steps
        self.autocast, self.compiled = autocast, compiled
        self.average = ema_model(task.model, ema_decay)
        self.optimizer = torch.optim.AdamW(task.model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.99))
        self.step, self.seconds, self.history = 0, 0.0, []
        self.epoch_loss = torch.zeros((), device=next(task.model.parameters()).device)  # the sum since it began
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if in_group() else (0, 1)
        if self.batch_size % self.world:
            raise ValueError(f"{self.world} processes cannot share a batch of {self.batch_size} pictures equally")
        self.settings = dict(
            parameters=sum(p.numel() for p in task.model.parameters()), pictures=len(task.train[0]),
            epochs=epochs, batch_size=batch_size, lr=lr, ema_decay=ema_decay, seed=task.seed,
        )  # fmt: skip

    @property
    def checkpoint(self):
        return self.out / "checkpoint.pt"

    def save_checkpoint(self):
        """Write the state of the run; a kill in the middle leaves the checkpoint before as it was.

        Raises OSError where it cannot be written.
        """
        if self.rank:
            return
        state = dict(
            model=self.task.model.state_dict(), average=self.average.state_dict(), seconds=self.seconds,
            optimizer=self.optimizer.state_dict(), step=self.step, history=self.history, settings=self.settings,
            epoch_loss=self.epoch_loss, memory=self.task.memory,
        )  # fmt: skip
        part = self.checkpoint.with_suffix(".part")
        try:
            torch.save(state, part)
        except RuntimeError as error:  # torch's name for a full disk or a folder that is gone
            part.unlink(missing_ok=True)
            reason = str(error).splitlines()[0]
            raise OSError(f"{self.checkpoint} cannot be written: is there room in {self.out}? ({reason})") from None
        part.replace(self.checkpoint)

    def resume(self):
        """Go on from the folder's checkpoint, if there is one; raises ValueError where it is another run's."""
        if not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, map_location=self.epoch_loss.device, weights_only=True)
            settings = {name: state["settings"][name] for name in self.settings}
        except Exception as error:
            raise self._unreadable(error) from None
        for name, value in self.settings.items():
            if settings[name] != value:
                raise ValueError(
                    f"the run in {self.out} was started with {name} = {settings[name]}, not {value}: "
                    f"go on with that, or start another with --out"
                )
        try:
            self.task.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]
            self.epoch_loss = state["epoch_loss"]
            self.task.memory |= state.get("memory", {})
        except (RuntimeError, ValueError, KeyError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error):
        return ValueError(f"{self.checkpoint} cannot be read ({type(error).__name__}): delete it to start again")

    def rate(self, step):
        """The learning rate: up over the first 200 steps (a tenth of a short run), then in a line down to zero."""
        warmup = min(200, max(1, self.steps // 10))
        return self.lr * min((step + 1) / warmup, (self.steps - step) / max(1, self.steps - warmup))

    def index(self, step):
        """This step's pictures: a new order each epoch, a function of the seed; incomplete batches are left out."""
        epoch, i = divmod(step, self.epoch_steps)
        if getattr(self, "_epoch", None) != epoch:
            n = len(self.task.train[0])
            self._order, self._epoch = torch.randperm(n, generator=seeded("cpu", self.task.seed, -1 - epoch)), epoch
        return self._order[i * self.batch_size : (i + 1) * self.batch_size]

    def train(self, save_every=60.0):
        """Train to the end, from where the run stands; on SIGTERM or Ctrl-C the step is finished and saved first."""
        task, model = self.task, self.task.model
        net = torch.compile(task.net) if self.compiled else task.net
        net = DistributedDataParallel(net) if in_group() else net
        flop = task.forwards * forward_flop(task.net, *task.example())
        writer = log_writer(self.out, self.step) if self.rank == 0 else None
        bar = tqdm(total=self.steps, initial=self.step, unit="step", disable=self.rank > 0, mininterval=1.0)
        saved = started = time.monotonic()
        before = self.seconds
        model.train()
        with bar, noted_signals(impatient=self.world == 1) as noted:
            while self.step < self.steps:
                loss, stop = self.agreed(self.advance(net), noted)
                self.epoch_loss += loss
                self.step += 1
                bar.update()
                self.seconds = before + time.monotonic() - started
                if self.step % self.epoch_steps == 0 or self.step == self.steps:
                    self.report(flop, writer, bar)
                if stop or time.monotonic() - saved > save_every:
                    self.save_checkpoint()
                    saved = time.monotonic()
                if stop:
                    bar.write(f"Stopped at step {self.step}, and saved: the same command goes on from there.")
                    raise KeyboardInterrupt
        self.save_checkpoint()
        return self.average.module.eval()

    def advance(self, net):
        """One step of training, on this process's share of the batch; returns the loss."""
        task, model = self.task, self.task.model
        batch = task.batch(self.step, self.index(self.step))
        share = [part[self.rank :: self.world] for part in batch]
        # for dropout, which draws from torch's own generator; far from the seeds of `seeded`
        torch.manual_seed(seed_of(task.seed, 2**31 + self.step * self.world + self.rank))
        with torch.autocast(self.epoch_loss.device.type, torch.bfloat16, enabled=self.autocast):
            loss = task.loss(net, *share)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimizer.step()
        self.average.update_parameters(model)
        return loss.detach()

    def agreed(self, loss, noted):
        """The loss of the whole batch, and whether any process was asked to stop: then all stop after this step."""
        if not in_group():
            return loss, bool(noted)
        both = torch.stack([loss, loss.new_tensor(float(bool(noted)))])
        distributed.all_reduce(both)
        return both[0] / self.world, both[1].item() > 0

    def report(self, flop, writer, bar):
        """Validate the averaged model and log; raises FloatingPointError where the loss is no number."""
        loss = self.epoch_loss.item() / ((self.step - 1) % self.epoch_steps + 1)
        self.epoch_loss.zero_()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} before step {self.step}: delete {self.checkpoint} and start with a lower --lr"
            )
        if self.rank:
            return
        averaged = self.average.module.eval()
        with torch.autocast(self.epoch_loss.device.type, torch.bfloat16, enabled=self.autocast):
            numbers = dict(loss=loss, **self.task.validate(averaged))
        row = dict(epoch=self.step // self.epoch_steps, step=self.step, **numbers)
        row |= dict(pflop=self.step * self.batch_size * flop / 1e15, seconds=round(self.seconds, 1))
        self.history.append(row)
        bar.write("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        write_table(self.out / "log.csv", self.history)
        if writer:
            for name, value in numbers.items():
                writer.add_scalar(name, value, self.step)
            writer.add_scalar("lr", self.rate(self.step - 1), self.step)
            writer.flush()


def seed_of(seed, step):
    return (seed * 1_000_003 + step) % 2**63


def seeded(device, seed, step):
    """A generator whose draws are a function of seed and step."""
    return torch.Generator(device).manual_seed(seed_of(seed, step))


def in_group():
    return distributed.is_available() and distributed.is_initialized()


def forward_flop(net, *inputs):
    """Operations of the network on these inputs, a multiplication and an addition counted as two."""
    mode = net.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(*inputs)
    net.train(mode)
    return counter.get_total_flops()


def log_writer(folder, step):
    """A TensorBoard log that forgets what a killed run had written after `step`; None where TensorBoard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("TensorBoard is not installed (pip install tensorboard): the numbers are in log.csv alone.")
        return None
    return SummaryWriter(folder, purge_step=step + 1)


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


@contextlib.contextmanager
def noted_signals(impatient=True):
    """Within, Ctrl-C and SIGTERM only fill the list that is handed out: a step cut in half could not be gone on with.

    With `impatient`, a second Ctrl-C interrupts at once. Not so below torchrun, which passes on what a process has had
    from the terminal already.
    """
    noted = []

    def note(number, _):
        if impatient and noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        noted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
