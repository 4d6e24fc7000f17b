"""Comparing an answer's result with the right one, part by part, and saying in words how it is wrong."""

from dataclasses import dataclass

import torch

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest entry, or of 1 where entries are small


@dataclass
class Difference:
    """How a result is wrong: `summary` names no expected number, `detail` does."""

    summary: str = ""
    detail: str = ""


def parts(value, returns):
    """A result as a dict name -> value.

    `returns` is the name of the one result, a tuple of names, or a list of one name: that of a list of any length.
    """
    several = isinstance(value, (tuple, list)) and len(value) > 0
    if isinstance(returns, tuple):
        return dict(zip(returns, value, strict=True)) if several and len(value) == len(returns) else {"": value}
    if isinstance(returns, list):
        name = returns[0]
        return {f"{name}[{i}]": v for i, v in enumerate(value)} if several else {name: value}
    return {returns: value}


def difference(expected, got, tolerance=TOLERANCE, same_nan=False, values_only=False):
    """The first Difference between two dicts name -> tensor, or None where they agree within the tolerance.

    With `same_nan`, NaN equals itself; with `values_only`, dtypes and gradients do not matter.
    """
    if not set(expected) & set(got):
        return Difference(f"{listed(expected)} asked for, but the answer returns {kind(*got.values())}")
    if len(got) > len(expected):
        return Difference(f"{listed(expected)} asked for, but the answer returns {len(got)}")
    for name, value in expected.items():
        if name not in got:
            return Difference(f"{name} is missing")
        form = form_difference(name, value, got[name], values_only)
        found = form or value_difference(name, value, got[name], tolerance, same_nan)
        if found:
            return found
    return None


def form_difference(name, expected, got, values_only=False):
    """A Difference in type, shape, device, dtype or gradient, or None."""
    if not torch.is_tensor(got):
        return Difference(f"{name} is {kind(got)}; it should be a torch tensor")
    if got.shape != expected.shape:
        return Difference(f"{name} has shape {tuple(got.shape)}; it should be {tuple(expected.shape)}")
    if got.device != expected.device:
        return Difference(f"{name} is on the device {got.device}; it should be on {expected.device}, as the inputs are")
    if got.dtype != expected.dtype and (not values_only or got.is_complex() != expected.is_complex()):
        return Difference(f"{name} is {short(got.dtype)}; it should be {short(expected.dtype)}")
    if not values_only and got.requires_grad and not expected.requires_grad:
        return Difference(f"{name} still carries the graph of its gradient: return it detached, .detach()")
    return None


def value_difference(name, expected, got, tolerance=TOLERANCE, same_nan=False):
    """A Difference in value, or None; NaN is one. Tensors without data (meta) agree."""
    if got.is_meta or got.numel() == 0:
        return None
    limit = tolerance.get(expected.dtype, 1e-4)
    fine = limit <= TOLERANCE[torch.float64]
    got, expected = (torch.view_as_real(p) if p.is_complex() else p for p in (got, expected))
    got, expected = got.detach().double(), expected.detach().double()
    missing = got.isnan()
    if missing.any() and not same_nan:
        return Difference(f"{name} is NaN (not a number) in {int(missing.sum())} of {got.numel()} entries")
    alike = (got == expected) | (missing & expected.isnan())  # infinity, too, equals itself
    error = torch.where(alike, 0.0, (got - expected).abs())
    limit *= max(1.0, expected.nan_to_num(0, 0, 0).abs().max().item())
    if bool((error <= limit).all()):
        return None
    if fine and bool((error <= 1e3 * limit).all()):
        wrong = "is right to six digits only: the inputs are float64, but a step on the way was in float32"
        return Difference(f"{name} {wrong}", f"the largest error is {error.max().item():.1g}")
    at = torch.unravel_index(error.argmax(), error.shape)
    place = f" at [{', '.join(str(int(i)) for i in at)}]" if at else ""
    return Difference(
        f"{name} {wrongness(expected, got, limit)}",
        f"the largest error is {error.max().item():.3g}{place}: "
        f"{got[at].item():.5g} instead of {expected[at].item():.5g}",
    )


def wrongness(expected, got, limit):
    if not got.any():
        return "is 0 everywhere"
    if constant(got) and not constant(expected):
        return "is the same number everywhere"
    if bool(((got + expected).abs() <= limit).all()):
        return "is right but for its sign"
    off = (got - expected).abs() > limit
    if off.numel() == 1:
        return "has a wrong value"
    return f"has wrong values: {int(off.sum())} of {off.numel()} entries are off"


def constant(tensor):
    return bool((tensor == tensor.flatten()[0]).all())


def kind(value):
    """What a value is, for a message."""
    if torch.is_tensor(value):
        return f"one tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    name = {"ndarray": "numpy array"}.get(type(value).__name__, type(value).__name__)
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def listed(expected):
    return f"{'one tensor' if len(expected) == 1 else f'{len(expected)} tensors'} ({', '.join(expected)})"


def summary(inputs):
    """The inputs of a case in a line: small tensors with their numbers, larger ones by shape."""

    def one(value):
        if torch.is_tensor(value) and (value.is_meta or value.numel() > 4):
            return f"{tuple(value.shape)} {short(value.dtype)}"
        if torch.is_tensor(value):
            return str([float(f"{v:.4g}") if value.is_floating_point() else v for v in value.flatten().tolist()])
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(one(v) for v in value)}]"
        if callable(value):
            return "a network" if isinstance(value, torch.nn.Module) else "a function"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name} = {one(value)}" for name, value in inputs.items())


def short(dtype):
    return str(dtype).removeprefix("torch.")
