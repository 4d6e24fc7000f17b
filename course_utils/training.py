"""Training: one loop for every model of the course, and models on disk."""

import hashlib
import math
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import trange

from course_utils.classifier import SmallClassifier
from course_utils.denoiser import Denoiser
from course_utils.energy import ConvEnergy
from course_utils.models import FourierFeatures, UNet
from course_utils.schedules import CosineSchedule


def batches(data, batch_size, generator=None):
    """Random batches for ever. `data` is a tensor (N, ...) or a tuple of them (points and labels), shuffled each epoch.

    Yields a tuple of tensors (batch_size, ...), or (N, ...) where N is smaller. Raises ValueError where there is no
    sample, the tensors differ in length, or batch_size < 1.
    """
    tensors = data if isinstance(data, (tuple, list)) else (data,)
    n = len(tensors[0])
    if n < 1 or any(len(t) != n for t in tensors):
        raise ValueError(f"data needs at least one sample, and as many of each kind: {[len(t) for t in tensors]}")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; a batch has at least one sample")
    size = min(batch_size, n)
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - size + 1, size):
            index = order[start : start + size]
            yield tuple(t[index] for t in tensors)


def warmed_up(decay, step):
    """The decay of an average that is `step` updates old: an average of few models should not cling to the first."""
    return min(decay, (1 + step) / (10 + step))


def ema_model(model, decay):
    """A copy of the model whose `update_parameters(model)` takes the exponential moving average, buffers included."""

    def average(averages, currents, n_averaged):  # lists of one dtype
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, 1 - warmed_up(decay, float(n_averaged)))
        else:  # a counter has no average
            torch._foreach_copy_(averages, currents)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def fit(model, loss_fn, data, n_steps, lr=4e-3, ema_decay=0.999, warmup=0.02, progress=True):
    """Train `model` for n_steps and return (ema_model, losses): the averaged model in eval mode, and a float a step.

    `loss_fn(model, *batch)` is a scalar; `data` yields batches (`batches(x0, 256)`). Adam; the learning rate rises
    over the first `warmup` of the steps and falls along a cosine to zero; gradients are clipped at norm 1.
    `model` itself is trained in place, and left in the mode it was in. Raises ValueError for n_steps < 1 or where
    `data` ends before, TypeError where `data` is a tensor or the loss no scalar with a gradient, and
    FloatingPointError at once where the loss is no longer a finite number.
    """
    if torch.is_tensor(data):
        raise TypeError("data is a tensor, but training takes batches of it: give batches(data, size)")
    if n_steps < 1:
        raise ValueError(f"n_steps = {n_steps}; train for at least one step")
    was_training = model.training
    model.train()
    average = ema_model(model, ema_decay)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)

    def rate(step):
        rise = (step + 1) / (warmup * n_steps + 1)
        return min(1.0, rise) * 0.5 * (1 + math.cos(math.pi * step / n_steps))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses = []
    bar = trange(n_steps, desc="training", unit="step", disable=not progress, mininterval=0.5)
    try:
        for step, batch in zip(bar, data, strict=False):
            loss = loss_fn(model, *(batch if isinstance(batch, (tuple, list)) else (batch,)))
            losses.append(_scalar(loss).item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"the loss became {losses[-1]} at step {step + 1}: check the data for NaN, or lower lr (now {lr:g})"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            average.update_parameters(model)
            if step % 100 == 0:
                bar.set_postfix(loss=f"{sum(losses[-100:]) / len(losses[-100:]):.4f}")
    finally:
        model.train(was_training)
    if len(losses) < n_steps:
        raise ValueError(
            f"the data ended after {len(losses)} batches, but n_steps = {n_steps}: give batches(data, size)"
        )
    return average.module.eval().requires_grad_(False), losses


def _scalar(loss):
    if torch.is_tensor(loss) and loss.numel() == 1 and loss.requires_grad:
        return loss
    given = f"a tensor of shape {tuple(loss.shape)}" if torch.is_tensor(loss) else repr(loss)
    if torch.is_tensor(loss) and not loss.requires_grad:
        given += " without a gradient"
    raise TypeError(f"loss_fn returned {given}; training needs one number as a tensor, such as errors.square().mean()")


def drop_labels(y, p, generator=None):
    """Labels (B,) with each, with probability p, replaced by -1, the null class (Ho & Salimans 2022, algorithm 1).

    A network trained so speaks for a class and for all together. Raises ValueError where p is not in [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p = {p}; a probability lies in [0, 1]")
    device = generator.device if generator else y.device
    dropped = torch.rand(y.shape, generator=generator, device=device) < p
    return torch.where(dropped.to(y.device), -1, y)


def save(model, path, dtype=None):
    """Write a model's weights to `path` (safetensors); an interrupted write leaves the old file as it was.

    With `dtype`, floats are stored in that precision: torch.float16 halves the file. A missing folder is made. Raises
    IsADirectoryError where `path` is a folder, OSError where it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = _no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    values = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    try:
        save_file({name: v.to(dtype) if dtype and v.is_floating_point() else v for name, v in values.items()}, part)
    except SafetensorError as error:  # a full disk is one
        part.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: is there room in {path.parent}? ({error})") from None
    part.replace(path)


def _no_folder(path):
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it, such as model.safetensors")
    return path


def load(model, path):
    """Read weights written by `save` into `model` (of the same shape) and return it.

    Raises FileNotFoundError where there is no such file, IsADirectoryError where it is a folder, ValueError where it is
    damaged or belongs to another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not _no_folder(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: train the model, then save(model, path)")
    try:
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or is no safetensors file ({error}); delete it and save again") from None
    except RuntimeError as error:
        first, *others = str(error).splitlines()[1].strip().split('", "')  # keys, often more than a hundred
        reason = f'{first}" and {len(others)} more' if others else first
        raise ValueError(f"the weights in {path} belong to another model: {reason}") from None
    return model


def _pictures(net):
    return Denoiser(net, CosineSchedule(None), "v")


WEIGHTS = Path(__file__).parent / "weights"
# The models of the course, as they are made; `python -m course_utils.train NAME` trains them.
PRETRAINED = {
    "mnist": lambda: _pictures(UNet(1, width=48, n_classes=10, patch=2)),
    "mnist_classifier": lambda: SmallClassifier(1, width=24),
    "mnist_energy": lambda: ConvEnergy(1, 28, width=24, base_std=0.5, directions=100),
    "shapes": lambda: _pictures(UNet(3, width=32, multipliers=(1, 2, 2), n_classes=10, patch=2)),
    "shapes_classifier": lambda: SmallClassifier(3, width=16),
    "cifar10": lambda: _pictures(
        UNet(3, width=64, multipliers=(1, 2, 2), n_blocks=3, n_classes=10, patch=2, time=FourierFeatures)
    ),
    "cifar10_classifier": lambda: SmallClassifier(3, width=32, n_blocks=2),
}
# The format has no checksum of its own. Whoever ships new weights writes theirs here: sha256sum course_utils/weights/*
PRETRAINED_SHA256 = {
    "mnist": "43e282aaf9ee0551bfd11e5afbfcd2482078c34d2eb97ec84e09e900ee7e73a5",
    "mnist_classifier": "0329686911ca47306e5cd1557ecf4e8aad61db0202b03db7979ca2e6b20490a7",
    "mnist_energy": "a284bb1ebba05aa97b5b6d0668ee8abbb8d8814c26fa63df776c921992d3ce37",
    "shapes": "e7ec229dd427af88b306fdd1a5fef323dba58968882cbabb2118c63674764977",
    "shapes_classifier": "f216a923a62296020dde6b95a51fc8ee4546d9d8e95616071445ffe8ab5dce80",
    "cifar10": "e87240bc8e7640523a3ed017bd21de553b2e61c1301919ad41c93c6e4515265f",
    "cifar10_classifier": "c755eae674d2b6f59cb33fc2f26dcd97a60d5a390903ee32505fd0ba80385c48",
}


def load_pretrained(name):
    """A model that ships with the course, in eval mode: a Denoiser ("mnist"), or the classifier that measures what it
    draws ("mnist_classifier").

    Classes are the data set's labels, -1 the null class. Raises ValueError for another name and where the file is
    not the one that ships, FileNotFoundError for a model whose weights do not ship yet.
    """
    if name not in PRETRAINED:
        raise ValueError(f"there is no pretrained model {name!r}; there are {', '.join(PRETRAINED)}")
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"the weights of {name!r} do not ship with this version: `python -m course_utils.train {name}` trains "
            f"them, and load(PRETRAINED[{name!r}](), path) reads them"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != PRETRAINED_SHA256[name]:
        raise ValueError(
            f"{path} is damaged, or not the file that ships: install the course again, or in a clone of it run "
            f"`git checkout -- course_utils/weights/{path.name}`. Weights of your own are read by "
            f"load(PRETRAINED[{name!r}](), path); to ship them, write their sha256 into PRETRAINED_SHA256 in {__file__}"
        )
    return load(PRETRAINED[name](), path).eval().requires_grad_(False)
