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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from course_utils.tasks import in_group, seed_of, seeded
from course_utils.training import ema_model


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


def forward_flop(net, *inputs):
    """Operations of the network on these inputs, a multiplication and an addition counted as two."""
    mode = net.training
    # Attention is counted where it is spelled out: the fused kernels, which some memory formats take, are not known.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
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
