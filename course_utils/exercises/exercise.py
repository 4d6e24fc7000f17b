"""A graded exercise as one object: its task, its right answer, and the wrong ones that people really write.

An exercise file reads as a short story::

    q_sample = Exercise("ddpm_2d.q_sample", title="Jump to level k", points=2, ...)

    @q_sample.solution
    def _(x0, k, noise, alpha_bar): ...

    @q_sample.inputs
    def _(g):
        yield "a batch of one", {"x0": torch.randn(1, 2, generator=g), ...}

    @q_sample.misconception("alpha_bar multiplies x0 without its square root.")
    def no_square_root(x0, k, noise, alpha_bar): ...

    @q_sample.equivalent
    def in_float64(x0, k, noise, alpha_bar): ...
"""

import ast
import copy
import inspect
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import permutations

import torch
from torch import nn

from course_utils.exercises.comparing import TOLERANCE, Difference, difference, kind, parts, summary
from course_utils.exercises.running import Endless, call, torchs_defaults


@dataclass
class Misconception:
    """A wrong answer that people really write: a function, what went wrong in a sentence, and where to read on."""

    function: Callable
    sentence: str
    read: str  # a section of the site, "ddpm_2d.html#posterior"

    def __call__(self, *inputs):
        return self.function(*inputs)

    @property
    def link(self):
        """Where to read on, in full where COURSE_SITE says where the site is: a lab's set-up cell sets it."""
        site = os.environ.get("COURSE_SITE")
        return f"{site}book/{self.read}" if site else self.read


@dataclass
class Result:
    """The verdict on an answer; true where it is right.

    `message` may show an expected number (the visible check); `reason` never does (the graded test).
    """

    right: bool
    message: str
    reason: str = ""
    case: str = ""
    misconception: str | None = None
    printed: str = ""

    def __bool__(self):
        return self.right

    def __repr__(self):
        return self.message


@dataclass(eq=False, repr=False)
class Exercise:
    """One exercise; `reference`, `cases`, `misconceptions` and `equivalents` are filled in by the decorators.

    `returns` names the result; it is a tuple of names for several, [name] for a list of any length. `section` is a
    heading of the chapter's page; `finished` names what course_utils has in its place; `allows` lists dotted prefixes
    in course_utils that an answer may call.
    """

    id: str
    title: str
    points: int
    contract: str
    section: str
    returns: str | tuple | list
    finished: tuple = ()
    allows: tuple = ()
    tolerance: dict = field(default_factory=lambda: TOLERANCE)
    reference: Callable = None
    cases: Callable = None
    observed: Callable = None  # (value, inputs) -> dict name -> tensor
    misconceptions: dict = field(default_factory=dict)
    equivalents: dict = field(default_factory=dict)

    def __post_init__(self):
        self.chapter, self.name = self.id.split(".")
        self.section = self.page(self.section)

    def __repr__(self):
        return f"<Exercise {self.id}>"

    def page(self, anchor):
        return f"{self.chapter}.html#{anchor}"

    # ---- decorators -------------------------------------------------------------------------------------------------

    def solution(self, function):
        """The reference answer."""
        self.reference = function
        return function

    def inputs(self, function):
        """A generator function of a torch.Generator that yields (name of the case, dict of inputs in order)."""
        self.cases = function
        return function

    def observe(self, function):
        """(value, inputs) -> dict name -> tensor: what of a result is compared, where it is not the result itself."""
        self.observed = function
        return function

    def misconception(self, sentence, read=None):
        """A wrong answer; `read` is the page's section that puts it right (the exercise's own if not given)."""

        def add(function):
            self.misconceptions[function.__name__] = Misconception(
                function, sentence, self.page(read) if read else self.section
            )
            return function

        return add

    def equivalent(self, function):
        """A right answer, written differently."""
        self.equivalents[function.__name__] = function
        return function

    # ---- verdicts ---------------------------------------------------------------------------------------------------

    @torchs_defaults()
    def grade(self, answer, seed=0):
        """The Result for an answer on every case drawn from `seed`."""
        if answer is None or answer is Ellipsis:
            return self.unwritten()
        if not callable(answer):
            return self.wrong(f"it should be a function, but it is {kind(answer)}")
        cases = list(self.cases(torch.Generator().manual_seed(seed)))
        problem = self.signature_problem(answer, cases[0][1])
        if problem:
            return self.wrong(problem)
        outcomes = []
        for case, inputs in cases:
            outcome = call(answer, inputs, allows=self.allows)
            if outcome.unwritten and not outcomes:
                return self.unwritten()
            if outcome.finished:
                return self.wrong(
                    f"it hands the work to {outcome.finished}. Write the computation yourself: "
                    "calling the course's finished function gets no points"
                )
            if isinstance(outcome.error, Endless):  # to wait once is enough
                return self.wrong(*self.problem(inputs, outcome), case, seed, inputs)
            outcomes.append(outcome)
        printed = outcomes[0].printed
        for (case, inputs), outcome in zip(cases, outcomes, strict=True):
            reason, detail = self.problem(inputs, outcome)
            if reason:
                return self.wrong(reason, detail, case, seed, inputs, self.recognise(cases, outcomes), printed)
        return Result(True, f"✓ {self.name} is right, in all {len(cases)} cases.", printed=printed)

    def signature_problem(self, answer, inputs):
        try:
            signature = inspect.signature(answer)
        except (TypeError, ValueError):  # a builtin has none
            return ""
        try:
            signature.bind(*inputs.values())
        except TypeError:
            return f"it is called as {self.name}({', '.join(inputs)}), but yours takes {brief(signature)}"
        return ""

    def problem(self, inputs, outcome):
        """(reason, detail) of what is wrong with the outcome of one case; ("", "") where nothing is."""
        if outcome.error is not None:
            if outcome.wants_numbers and without_numbers(inputs):
                return "", ""
            at = f" ({brief(outcome.line)})" if outcome.line else ""
            if isinstance(outcome.error, Endless):
                return f"{outcome.error}{at}", ""
            return f"your code raised {type(outcome.error).__name__}: {brief(outcome.error)}{at}", ""
        expected = self.expected(inputs)
        found = difference(expected, self.seen(outcome), self.tolerance) or Difference()
        if found.summary and self.reordered(expected, outcome):
            found = Difference(f"its results are right, but in another order: return {', '.join(self.returns)}")
        if outcome.changed:
            marked = [n for n in outcome.changed if self.marked(inputs[n], outcome.given[n])]
            changed = f"it changes its input {' and '.join(outcome.changed)} in place: work on a copy"
            if marked:
                changed = f"it marks its input {marked[0]} for autograd: work on {marked[0]}.detach().requires_grad_()"
            found.summary = f"{found.summary}, and {changed}" if found.summary else changed
        return found.summary, found.detail

    def reordered(self, expected, outcome):
        """Whether several results are right but for their order."""
        several = isinstance(self.returns, tuple) and isinstance(outcome.value, (tuple, list))
        if not several or len(outcome.value) != len(self.returns):
            return False
        orders = (replace(outcome, value=order, seen=None) for order in permutations(outcome.value))
        return any(difference(expected, self.seen(order), self.tolerance) is None for order in orders)

    @staticmethod
    def marked(before, after):
        return torch.is_tensor(before) and before.requires_grad != after.requires_grad

    def seen(self, outcome):
        """What is compared of an outcome's value, a dict name -> tensor."""
        if outcome.seen is None:
            try:
                outcome.seen = self.observed(outcome.value, outcome.given)
            except Exception:  # of another type or shape than asked for (or nothing special to observe)
                outcome.seen = parts(outcome.value, self.returns)
        return outcome.seen

    def recognise(self, cases, outcomes):
        """The name of the misconception that does in every case just what the answer does, or None.

        First in everything; then in its values alone, among those whose values are wrong (another slip may be added).
        """
        for alike in (False, True):
            for name, mistake in self.misconceptions.items():
                theirs = (call(mistake.function, inputs, watch=False) for _, inputs in cases)
                if all(self.same(t, o, alike) for t, o in zip(theirs, outcomes, strict=True)):
                    if not alike or any(self.off(mistake, inputs) for _, inputs in cases):
                        return name
        return None

    def same(self, theirs, outcome, alike):
        """Whether a misconception's outcome is the answer's: a like error, or the same result (`alike`: in value)."""
        if theirs.error or outcome.error:
            return like(theirs.error, outcome.error)
        if not alike and theirs.changed != outcome.changed:
            return False
        return not difference(self.seen(theirs), self.seen(outcome), self.tolerance, same_nan=True, values_only=alike)

    def off(self, mistake, inputs):
        """Whether a misconception's value is wrong in a case, and not only its dtype, its graph or its inputs."""
        outcome = call(mistake.function, inputs, watch=False)
        return outcome.error or difference(self.expected(inputs), self.seen(outcome), self.tolerance, values_only=True)

    def expected(self, inputs):
        """What is compared of the reference's result, a dict name -> tensor.

        Inputs on the device "meta" stand for any other device: there only shape, dtype and device are compared.
        """
        meta = without_numbers(inputs)
        here = {n: in_memory(v) for n, v in inputs.items()} if meta else inputs
        outcome = call(self.reference, here, watch=False)
        if outcome.error:
            raise outcome.error  # a fault of the exercise, not of the answer
        seen = self.seen(outcome)
        return {n: v.to("meta") for n, v in seen.items()} if meta else seen

    def unwritten(self):
        text = f"{self.name} is not written yet (it returns nothing, or its stub is still there)"
        return Result(False, f"… {text}.", text)

    def wrong(self, reason, detail="", case="", seed=None, inputs=None, mistake=None, printed=""):
        lines = [f"✗ {self.name}: {reason}" + (f"; {detail}." if detail else ".")]
        reason = f"{self.name}: {reason}" + (f" [in the case: {case}; seed {seed}]" if case else "")
        if case:
            lines.append(f"  The case: {case}, {summary(inputs)}")
        if mistake:
            known = self.misconceptions[mistake]
            lines += [f"  {known.sentence}", f"  Read on: {known.link}"]
            reason += f". {known.sentence} Read on: {known.link}"
        return Result(False, "\n".join(lines), reason, case, mistake, printed)

    # ---- as text ----------------------------------------------------------------------------------------------------

    def written(self, function):
        """The source of a solution, misconception or equivalent as a student would have typed it: a cell's text."""
        function = inspect.unwrap(getattr(function, "function", function))
        texts = [source(h) for h in helpers(function)] + [source(function, self.name)]
        return "\n\n\n".join(["import math\n\nimport torch", *texts]) + "\n"


def brief(text, limit=200):
    """A text of any length in one line of at most `limit` characters."""
    text = " ".join(str(text).split())
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def like(error, other):
    """Whether two errors say the same but for their numbers (shapes, lines); None is like None."""
    return type(error) is type(other) and re.sub(r"\d+", "#", str(error)) == re.sub(r"\d+", "#", str(other))


def without_numbers(inputs):
    """Whether a case is one on the device "meta"."""
    return any(torch.is_tensor(v) and v.is_meta for v in inputs.values())


def in_memory(value):
    """A tensor or module of the device "meta" with numbers in it: levels of 1, floats that fall (as alpha_bar does)."""
    if isinstance(value, nn.Module):
        module = copy.deepcopy(value).to_empty(device="cpu")
        for tensor in module.state_dict().values():
            tensor.fill_(1)  # in place of what happens to lie in memory, which may be NaN
        return module
    if not (torch.is_tensor(value) and value.is_meta):
        return value
    if not value.is_floating_point():
        return torch.ones_like(value, device="cpu")
    return torch.linspace(1, 0.5, value.numel(), dtype=value.dtype).reshape(value.shape)


def source(function, name=None):
    """A function's own text, without the exercise's decorator, under another name if given."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    tree.body[0].decorator_list = [d for d in tree.body[0].decorator_list if ast.unparse(d).startswith("torch.")]
    tree.body[0].name = name or function.__name__
    return ast.unparse(tree)


def helpers(function):
    """The functions of its own file that a function calls, those that they call first."""

    def names(code):
        inner = (c for c in code.co_consts if inspect.iscode(c))
        return [*code.co_names, *(name for c in inner for name in names(c))]

    found = {}
    for name in names(inspect.unwrap(function).__code__):
        helper = function.__globals__.get(name)
        if inspect.isfunction(helper) and inspect.unwrap(helper).__module__ == function.__module__:
            found |= dict.fromkeys(helpers(inspect.unwrap(helper))) | {inspect.unwrap(helper): None}
    return list(found)
