"""Calling an answer: on copies of the inputs, quietly, with seeded draws, and watching whom it calls.

A student's function may print, warn, draw, change its inputs, raise, never end, or hand the work to the course's own
finished function. Each of these becomes a field of an `Outcome`; none reaches the notebook as a traceback of ours.
"""

import contextlib
import copy
import io
import os
import site
import sys
import sysconfig
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from course_utils.time_limit import time_limit

PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
LIBRARIES = (PACKAGE, sysconfig.get_path("stdlib"), *site.getsitepackages(), str(Path(torch.__file__).parents[1]))
PATIENCE = 30.0  # seconds of processor time for one call: answers take milliseconds
OWN = (__file__, sys.modules[time_limit.__module__].__file__)  # what runs around an answer, not called by it


class Endless(BaseException):
    """An answer used up its time; no Exception, so that a loop which catches those ends as well."""

    def __str__(self):
        return f"it ran for {PATIENCE:g} seconds of processor time without an end: does a loop in it never stop?"


@dataclass
class Outcome:
    """What happened when an answer was called: a value or an error, and what it did besides."""

    value: object = None
    error: BaseException | None = None
    line: str = ""  # the student's own line that raised
    finished: str = ""  # the course's function that the answer handed the work to
    changed: list[str] = field(default_factory=list)  # the inputs that were changed in place
    printed: str = ""
    given: dict = field(default_factory=dict)  # the copies of the inputs that the answer worked on
    seen: dict | None = None  # what of the value is compared, name -> tensor

    @property
    def unwritten(self):
        if self.error is None:
            return self.value is None or self.value is Ellipsis
        torchs_own = "aten::" in str(self.error) or self.wants_numbers
        return isinstance(self.error, NotImplementedError) and not torchs_own

    @property
    def wants_numbers(self):
        """Whether it failed because it read numbers (to print them, say) off the device "meta", which has none."""
        text = str(self.error)
        mixed = "device meta" in text or "same device" in text
        return "Tensor.__format__" in text or ("meta" in text and not mixed)


def call(answer, inputs, watch=True, allows=()):
    """answer(*inputs.values()) as an Outcome; `inputs` is a dict name -> value, its callables may be called freely.

    With `watch`, the first call of a function of course_utils is noted, unless its dotted name starts with one of
    `allows`. Draws from torch's global generator are the same in every call. In grading, an answer runs in another
    process, where nothing of course_utils is to be had: its errors say so themselves (course_utils.grading.split).
    """
    watch = watch and not hasattr(type(answer), "_runs_elsewhere")
    outcome = Outcome(given=copy.deepcopy(inputs))
    printed = io.StringIO()
    watcher = Watcher(outcome.given.values(), allows, sys._getframe())
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # nbgrader takes a warning on stderr for a failed test
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        stack.enter_context(torch.enable_grad())  # also undoes what the answer sets
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(0)
        try:
            with (
                time_limit(PATIENCE, Endless, processor=True),
                watching(watcher) if watch else contextlib.nullcontext(),
            ):
                outcome.value = answer(*outcome.given.values())
        except (Exception, SystemExit, Endless) as error:
            outcome.error, outcome.line = error, getattr(error, "students_line", None) or students_line(error)
    outcome.finished = watcher.finished or getattr(outcome.error, "finished", "")
    outcome.changed = [name for name in inputs if not unchanged(inputs[name], outcome.given[name])]
    outcome.printed = printed.getvalue()
    return outcome


@contextlib.contextmanager
def torchs_defaults():
    """The default dtype, device and gradient mode that torch starts with, whatever a notebook has set."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None if device.type == "cpu" else device)


@contextlib.contextmanager
def watching(watcher):
    before = sys.getprofile()
    sys.setprofile(watcher)
    try:
        yield
    finally:
        sys.setprofile(before)


class Watcher:
    """A profile function (sys.setprofile) that notes the first call into course_utils not made by the inputs."""

    def __init__(self, inputs, allows, top):
        self.finished, self.allows, self.top = "", tuple(allows), top
        self.given = {code for value in inputs if callable(value) for code in codes(value)}

    def __call__(self, frame, event, _):
        code = frame.f_code
        ours = code.co_filename.startswith(PACKAGE) and code.co_filename not in OWN
        if event != "call" or self.finished or not ours:
            return
        module = frame.f_globals["__name__"]
        name = f"{module}.{code.co_qualname}".removesuffix(".__init__")
        if module.startswith(__package__):
            name = "the exercise's own answer"
        if not name.startswith(self.allows or "-") and not self.called_by_an_input(frame):
            self.finished = name

    def called_by_an_input(self, frame):
        while frame is not None and frame is not self.top:
            code = frame.f_code
            if code in self.given or (code.co_name == "<module>" and code.co_filename.startswith(PACKAGE)):  # an import
                return True
            frame = frame.f_back
        return False


def codes(function):
    """The code objects that run when an input (a function, a method, a module, an object) is called."""
    candidates = (function, type(function).__call__, getattr(function, "forward", None))
    return {c.__code__ for c in candidates if hasattr(c, "__code__")}


def students_line(error):
    """ "line 3: return a * x0": the last line of the traceback that is neither ours nor a library's."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(LIBRARIES)]
    if not lines:
        return ""
    return f"line {lines[-1].lineno}" + (f": {lines[-1].line}" if lines[-1].line else "")


def unchanged(before, after):
    """Whether an input is still what it was (tensors, lists of them, modules; anything else counts as unchanged)."""
    if torch.is_tensor(before):
        same = before.shape == after.shape and before.dtype == after.dtype
        same = same and before.requires_grad == after.requires_grad  # a mark that spreads to all that is made of it
        return same and (before.is_meta or torch.equal(before.nan_to_num(), after.nan_to_num()))
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(unchanged, before, after))
    if isinstance(before, nn.Module):
        return unchanged(list(before.state_dict().values()), list(after.state_dict().values()))
    return True
