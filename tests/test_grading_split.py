"""Split execution: tests out here, answers in there, and each gets from the other what it should and no more."""

import json
import os
import re
from pathlib import Path

import pytest
from grading_notebooks import (
    QUICK,
    answer,
    given,
    graded,
    notebook,
    passed,
    plain,
    shared_engine,
    text_of,
    with_answers,
)

from course_utils.exercises import EXERCISES, grade
from course_utils.grading.execute import Limits
from course_utils.grading.proxies import make_error

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine():
    yield from shared_engine()


def run(engine, source, *answers, limits=QUICK, files=None):
    submission = with_answers(source, *answers) if answers else source
    return engine.execute(submission, files=files, limits=limits, source=source)


# ---- ordinary tests --------------------------------------------------------------------------------------------------

VALUES = """
def add(a, b): return a + b
def norm(x): return np.sqrt((x ** 2).sum())
def refuse(x): raise ValueError("not that")
def count(n):
    for i in range(n): yield i
def sort_it(values): values.sort()
def apply(f, *args, **kwargs): return f(*args, **kwargs)
class Vector:
    def __init__(self, *x): self.x = list(x)
    def __add__(self, other): return Vector(*[a + b for a, b in zip(self.x, other.x)])
    def __mul__(self, k): return Vector(*[k * a for a in self.x])
    def __eq__(self, other): return self.x == other.x
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i]
    def __iter__(self): return iter(self.x)
    def __repr__(self): return f"Vector{tuple(self.x)}"
    def length(self): return sum(a * a for a in self.x) ** 0.5
    def is_null(self, eps): return self.length() < eps
class Stack(list):
    def push(self, x): self.append(x)
"""
ORDINARY = {
    "numbers and arrays": "assert add(2, 3) == 5 and add('a', 'b') == 'ab'\n"
    "assert np.allclose(norm(np.array([3.0, 4])), 5)",
    "an error": "try: refuse(1)\nexcept ValueError as e: assert str(e) == 'not that'\nelse: assert False",
    "a generator": "assert list(count(4)) == [0, 1, 2, 3] and next(iter(count(2))) == 0",
    "a change in place": "x = [3, 1, 2]\nsort_it(x)\nassert x == [1, 2, 3]",
    "a function of the test's": "seen = []\n"
    "assert apply(lambda a, k: seen.append(a) or a * k, 3, k=2) == 6 and seen == [3]",
    "a library's function": "assert apply(np.sum, [1, 2]) == 3 and apply(len, 'abc') == 3",
    "a class": "v = Vector(3, 4)\nassert isinstance(v, Vector) and v.length() == 5 and v.x == [3, 4] and len(v) == 2\n"
    "assert v + Vector(1, 1) == Vector(4, 5) and v != Vector(0, 0) and (v * 2)[0] == 6 and list(v) == [3, 4]\n"
    "assert v.is_null(9) and not v.is_null(1) and str(v) == 'Vector(3, 4)'",
    "an attribute set": "v = Vector(1)\nv.x = [5]\nassert v[0] == 5\nassert not hasattr(v, 'y')",
    "a list's subclass": "s = Stack([1])\ns.push(2)\n"
    "assert list(s) == [1, 2] and s == [1, 2] and s != [1] and s + [3] == [1, 2, 3] and 2 in s and isinstance(s, list)",
    "identity": "v = Vector(1)\nassert apply(lambda a: a, v) is v and callable(add) and not callable(v)",
    "a signature": "import inspect\n"
    "assert list(inspect.signature(add).parameters) == ['a', 'b'] and add.__name__ == 'add'",
}
WRONG = """
def add(x, y): return x - y
def norm(x): return x.sum()
def refuse(x): raise TypeError("no")
def count(n):
    for i in range(n + 1): yield i
def sort_it(values): return sorted(values)
def apply(f, *args, **kwargs): return 0
class Vector:
    def __init__(self, *x): self.x = list(x)
class Stack(list): pass
"""


def test_ordinary_tests_tell_right_from_wrong(engine):
    source = notebook(plain("import numpy as np"), answer(VALUES), *map(graded, ORDINARY.values()))
    executed = run(engine, source)
    failed = [(n, text_of(c)) for n, p, c in zip(ORDINARY, passed(executed), executed.cells[2:], strict=True) if not p]
    assert not failed
    assert passed(run(engine, source, WRONG)) == [False] * len(ORDINARY)


def test_values_constants_and_what_the_instructor_computes(engine):
    source = notebook(
        given(
            "import math\nfrom math import sqrt as root\nLIMIT = 10\nangles = [0.1 * i for i in range(5)]\nnotes = []"
        ),
        given("def close(a, b): return abs(a - b) < 1e-9"),
        answer("total = sum(angles)\nnotes.append(3)"),
        graded("assert close(total, 1.0) and LIMIT == 10 and math.pi > 3 and root(4) == 2 and len(angles) == 5"),
        graded("assert notes == [3]"),
    )
    assert passed(run(engine, source)) == [True, True]
    cheat = "close = lambda a, b: True\nroot = lambda x: 2\nmath = None\nLIMIT = 10\nangles = [0] * 5\ntotal = 0"
    assert passed(run(engine, source, cheat)) == [False, False]


def test_partial_credit_and_outputs(engine):
    source = notebook(
        answer("def f(x):\n    print('seen', x)\n    return x"),
        graded("points = 0\nif f(1) == 1: points += 0.5\npoints"),
        graded("import warnings\nwarnings.warn('careful')\nassert f(2) == 2"),
    )
    executed = run(engine, source)
    results = [o.data["text/plain"] for o in executed.cells[1].outputs if o.output_type == "execute_result"]
    assert results == ["0.5"] and "seen 1" in text_of(executed.cells[1])
    assert passed(executed) == [True, True], [text_of(c) for c in executed.cells]
    assert not any(o.get("name") == "stderr" for o in executed.cells[2].outputs)  # nbgrader takes it for a failure
    assert [c.execution_count for c in executed.cells] == [1, 2, 3]


def test_a_seed_set_by_a_test_holds_for_the_answer(engine):
    text = "import numpy as np, random, torch\n"
    text += "def draw(): return [random.random(), np.random.rand(), torch.rand(1).item()]"
    seed = "import numpy as np, random, torch\nrandom.seed(1); np.random.seed(2); torch.manual_seed(3)\n"
    same = "here = [random.random(), np.random.rand(), torch.rand(1).item()]\n"
    executed = run(
        engine,
        notebook(
            answer(text),
            graded(seed + "a, b = draw(), draw()\nassert a != b\n" + seed + "assert draw() == a and draw() == b"),
            graded(seed + same + seed + "assert draw() == here"),
        ),
    )
    assert passed(executed) == [True, True], executed.cells


def test_cells_show_what_a_notebook_shows(engine):
    source = notebook(
        plain("import matplotlib.pyplot as plt\nplt.plot([1, 2]);"),
        plain("from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))\n1 + 1"),
        plain(
            "!echo from a command\nimport os\nos.write(1, b'past python')\nimport sys; print('err', file=sys.stderr)"
        ),
        plain("%%timeit -n1 -r1\npass"),
        plain("1 / 0"),
        plain("await __import__('asyncio').sleep(0, 'awaited')"),
    )
    cells = engine.execute(source, limits=QUICK).cells
    assert any("image/png" in o.get("data", {}) for o in cells[0].outputs)
    assert cells[1].outputs[0].data["text/html"] == "<b>x</b>" and cells[1].outputs[1].data["text/plain"] == "2"
    assert "from a command" in text_of(cells[2]) and "past python" in text_of(cells[2]) and "err" in text_of(cells[2])
    assert "per loop" in text_of(cells[3])
    assert cells[4].outputs[0].ename == "ZeroDivisionError" and any("1 / 0" in t for t in cells[4].outputs[0].traceback)
    assert text_of(cells[5]) == "'awaited'"


def test_the_working_folder_holds_what_was_handed_in_but_notebooks(engine, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "helper.py").write_text("x = 7")
    (tmp_path / "secret.ipynb").write_text("{}")
    os.symlink("/etc/hostname", tmp_path / "link")
    source = notebook(
        plain("import glob\nfound = sorted(glob.glob('**', recursive=True))"),
        answer("from sub.helper import x"),
        graded("assert found == ['sub', 'sub/helper.py'] and x == 7"),
        graded("assert open('sub/helper.py').read() == 'x = 7'"),
    )
    executed = run(engine, source, files=tmp_path)
    assert passed(executed) == [True, True], [text_of(c) for c in executed.cells]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "secret.ipynb", "sub"]


# ---- networks --------------------------------------------------------------------------------------------------------

NETWORK = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
    def forward(self, x): return self.layer(x)
net = Net()
def loss(net, x): return net(x).square().mean()
def through(f, x): return 3 * f(x)
"""


def test_gradients_cross_both_ways(engine):
    source = notebook(
        plain("import torch\nfrom torch import nn"),
        answer(NETWORK),
        graded(
            "x = torch.randn(4, 3, requires_grad=True)\ny = net(x)\n"
            "assert isinstance(net, nn.Module) and y.shape == (4, 2)\n"
            "y.sum().backward()\nW = net.layer.weight\nassert torch.allclose(x.grad, W.detach().sum(0).expand(4, 3))\n"
            "assert torch.allclose(W.grad, x.detach().sum(0).expand(2, 3), atol=1e-5)"
        ),
        graded(
            "state = {k: torch.ones_like(v) for k, v in net.state_dict().items()}\nnet.load_state_dict(state)\n"
            "assert torch.equal(net(torch.ones(1, 3)), torch.full((1, 2), 4.0))\n"
            "assert sum(p.numel() for p in net.parameters()) == 8\n"
            "opt = torch.optim.SGD(net.parameters(), lr=0.1)\nx = torch.ones(1, 3)\n"
            "before = net(x).square().sum().item()\n"
            "for _ in range(3):\n    opt.zero_grad()\n    net(x).square().sum().backward()\n    opt.step()\n"
            "assert net(x).square().sum().item() < before"
        ),
        graded(
            "theirs = nn.Linear(3, 2)\nx = torch.randn(5, 3)\n"
            "got = torch.autograd.grad(loss(theirs, x), theirs.weight)[0]\n"
            "assert torch.allclose(got, torch.autograd.grad(theirs(x).square().mean(), theirs.weight)[0], atol=1e-6)"
        ),
        graded(
            "x = torch.tensor([2.0], requires_grad=True)\nw = torch.tensor([5.0], requires_grad=True)\n"
            "y = through(lambda v: w * v * v, x)\nassert y.item() == 60\ny.backward()\nassert w.grad.item() == 12"
        ),
    )
    executed = run(engine, source)
    assert passed(executed) == [True] * 4, [text_of(c) for c in executed.cells]


# ---- what the student's side may not ---------------------------------------------------------------------------------


def test_no_test_and_no_expected_value_reaches_the_student(engine):
    """Everything that the answer's process can find of itself, after a test that names a secret."""
    look = """
import gc
def f(x, g=None):
    words, seen = ['qzMARK', 'qzSEC'], []
    for thing in gc.get_objects():
        parts = [*thing, *thing.values()] if type(thing) is dict else thing if type(thing) in (list, tuple, set) else []
        seen += [part for part in list(parts) if type(part) is str]
    print(any(words[0] + 'ER' in part for part in seen), any(words[1] + 'RET' in part for part in seen), len(seen) > 9)
    return 2 * x
"""
    source = notebook(
        answer(look),
        graded("qzMARKER = 'qzSECRET'\nassert f(21, lambda v: qzMARKER) == 42"),
        graded("qzMARKER = 1\nassert f(2) == 4"),
    )
    executed = run(engine, source)
    assert passed(executed) == [True, True], [text_of(c) for c in executed.cells]
    assert text_of(executed.cells[1]).split() == text_of(executed.cells[2]).split() == ["False", "False", "True"]


def test_of_what_a_test_hands_over_only_the_call_is_served(engine):
    probe = """
def use(f, thing):
    found = []
    for name in ("__globals__", "__code__", "__closure__", "_hidden"):
        try: found.append(repr(getattr(f, name)))
        except Exception as e: found.append(type(e).__name__)
    kernel = f._kernel
    for what, details in (("get", [f._number, "__globals__"]), ("get", [f._number, "clear"]), ("op", ["eq"]),
                          ("run", ["1"]), ("names", ["f"]), ("call", [999])):
        try: found.append(repr(kernel.ask(what, *details)))
        except Exception as e: found.append(type(e).__name__)
    return f(2), thing.public, found
"""
    test = """
class Thing:
    public, _hidden = 5, 6
value, public, found = use(lambda x: x + 1, Thing())
assert value == 3 and public == 5
print(found)
assert all(name.endswith("Error") or name == "Exception" for name in found), found
"""
    executed = run(engine, notebook(answer(probe), graded(test)))
    assert passed(executed) == [True], text_of(executed.cells[1])


def test_errors_that_end_loops_and_tests_are_errors():
    def class_of(name):
        return type(make_error({"mro": [f"builtins.{name}"], "message": "m", "args": ["m"]}))

    assert class_of("ValueError") is ValueError and issubclass(class_of("KeyError"), KeyError)
    assert class_of("StopIteration") is RuntimeError
    assert issubclass(class_of("KeyboardInterrupt"), Exception) and issubclass(class_of("GeneratorExit"), Exception)
    skip = make_error({"mro": ["unittest.case.SkipTest", "builtins.Exception"], "message": "m"})
    assert type(skip).__name__ == "SkipTest" and type(skip).__module__ != "unittest.case"


def test_leaving_a_test_by_exit_earns_nothing(engine):
    source = notebook(answer("def f(): return 1"), graded("assert f() == 1"))
    for body in ("raise SystemExit", "import sys; sys.exit(0)", "import os; os._exit(0)", "raise KeyboardInterrupt"):
        assert passed(run(engine, source, f"def f(): {body}")) == [False], body


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_process_that_ends_costs_what_it_ended_in_alone(engine):
    ends = [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
        ("import sys; sys.stdout.emit.__self__.channel.socket.send(b'x' * 5000)", "disturbed"),
        ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", "longer than the 8 seconds"),
        ("x = []\nwhile True: x.append(bytearray(2**28))", "emory"),
    ]
    cells = [answer("def f(): return 1")]
    for text, _ in ends:
        cells += [answer(text), graded("assert f() == 1")]
    limits = Limits(cell_seconds=8, notebook_seconds=600, memory=400 * 2**20)
    executed = engine.execute(notebook(*cells), limits=limits)
    said = [(c.outputs[-1].ename + text_of(c)) if c.outputs else "" for c in executed.cells[1::2]]
    for (_, words), text in zip(ends, said, strict=True):
        assert words in text, said
    assert passed(executed) == [True] * len(ends)


def test_a_test_that_waits_for_ever_is_stopped(engine):
    source = notebook(
        answer("def f(x):\n    while True: pass\ndef g(): return 1"), graded("f(1)"), graded("assert g() == 1")
    )
    executed = run(engine, source, limits=Limits(cell_seconds=3))
    assert passed(executed) == [False, True] and "longer than the 3 seconds" in text_of(executed.cells[1])


def test_all_cells_together_have_their_time(engine):
    source = notebook(*[plain("import time; time.sleep(1)") for _ in range(6)], answer("x = 1"), graded("assert x"))
    executed = run(engine, source, limits=Limits(cell_seconds=5, notebook_seconds=3))
    assert passed(executed) == [False] and "time is up" in text_of(executed.cells[-1])


def test_output_is_cut_off(engine):
    source = notebook(plain("for _ in range(300): print('x' * 10_000)"), answer("x = 1"), graded("assert x == 1"))
    executed = run(engine, source, limits=Limits(output=50_000))
    assert len(json.dumps(executed.cells[0].outputs)) < 60_000 and "left out" in text_of(executed.cells[0])
    assert passed(executed) == [True]


# ---- the course's exercises ------------------------------------------------------------------------------------------


def verdicts(engine, id, texts, seed=5):
    """What grade says of each text of an answer, through the split: "" where it is right."""
    name = EXERCISES[id].name
    cells = [plain("from course_utils.exercises import check, grade")]
    for text in texts:
        cells += [answer(text), graded(f"grade({id!r}, {name}, seed={seed})")]
    source = notebook(*cells)
    executed = engine.execute(source, limits=Limits(cell_seconds=300, notebook_seconds=3000), source=source)
    errors = [[o.evalue for o in c.outputs if o.output_type == "error"] for c in executed.cells[2::2]]
    return [e[0] if e else "" for e in errors]


def here(id, text, seed=5):
    """What grade says in this process."""
    space = {}
    exec(text, space)
    try:
        grade(id, space[EXERCISES[id].name], seed)
    except AssertionError as error:
        return str(error)
    return ""


def without_line(text):
    return re.sub(r" \(line \d+(: .*?)?\)(?= \[|,|;|$)", "", text)


# One of each kind: plain numbers; a change in place; gradients through a network; a loss that draws, whose network is
# watched; a network's own gradients; closures; two results; another device.
KINDS = (
    "ddpm_2d.ema_update",
    "ddpm_2d.loss",
    "ddpm_mnist.training_loss",
    "energy.score",
    "score_matching.implicit_loss",
    "editing.inpainted",
    "epipolar.fundamental",
)


@pytest.mark.parametrize("id", KINDS)
def test_exercises_are_judged_as_in_process(engine, id):
    exercise = EXERCISES[id]
    functions = [*exercise.equivalents.values(), *list(exercise.misconceptions.values())[:6]]
    texts = [exercise.written(f) for f in functions]
    for text, verdict in zip(texts, verdicts(engine, id, texts), strict=True):
        assert without_line(verdict) == without_line(here(id, text)), text


HANDED_BACK = {
    "called": "from course_utils.schedules import DiscreteSchedule\n"
    "def q_sample(x0, k, noise, alpha_bar):\n    return DiscreteSchedule(1 - alpha_bar[1:] / alpha_bar[:-1])",
    "the reference": "from course_utils.exercises import EXERCISES\n"
    "def q_sample(*a):\n    return EXERCISES['ddpm_2d.q_sample'].reference(*a)",
    "the watcher taken off": "import sys\nfrom course_utils.exercises.ddpm_2d import q_sample as it\n"
    "def q_sample(*a):\n    sys.setprofile(None)\n    return it.reference(*a)",
    "out of the memory": "import gc, types\n"
    "def q_sample(*a):\n"
    "    for f in gc.get_objects():\n"
    "        if isinstance(f, types.FunctionType) and 'course_utils/exercises' in f.__code__.co_filename:\n"
    "            return f(*a)",
    "out of its file": "def q_sample(*a):\n    import glob\n"
    f"    return open(glob.glob({str(Path(__file__).parents[1])!r} + '/*/exercises/ddpm_2d.py')[0])",
}


def test_handing_back_the_courses_function_earns_nothing(engine):
    said = verdicts(engine, "ddpm_2d.q_sample", HANDED_BACK.values())
    assert all(said), said
    assert "hands the work to course_utils.schedules.DiscreteSchedule" in said[0]
    assert "hands the work to course_utils.exercises" in said[1]


def test_of_the_course_nothing_is_left_in_the_exam(engine):
    """No file of course_utils, no module, no function in the memory; but the runner of cells itself."""
    text = f"""
import gc, os, sys, types
def skew(v):
    files = os.listdir({str(Path(__file__).parents[1])!r})
    modules = [m for m in list(sys.modules.values()) if "course_utils/" in str(getattr(m, "__file__", None))]
    codes = [f.__code__.co_filename for f in gc.get_objects() if isinstance(f, types.FunctionType)]
    theirs = [name for name in codes if "course_utils/" in name and "/grading/" not in name]
    raise ValueError(f"{{'course_utils' in files}} {{len(modules)}} {{len(theirs)}} {{len(codes) > 100}}")
"""
    assert "raised ValueError: False 0 0 True" in verdicts(engine, "epipolar.skew", [text])[0]
