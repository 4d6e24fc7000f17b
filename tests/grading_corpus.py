"""Submissions that attack the grader, and honest ones between them: what each does, and what it deserves.

Harmless outside their purpose: they call only sockets of the test's own, write only files that bear their token, and
what they fork, fill or allocate is bounded, so that an attack which succeeds does no harm.
"""

import copy
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import nbformat
from grading_class import LAB, LAB_RIGHT, LAB_WORTH, PROBLEMS, RIGHT, WORTH, deserved


@dataclass
class Submission:
    """One submission: `edit(draft)` makes it, `points` is what each test cell of it deserves."""

    name: str
    kind: str
    what: str
    edit: Callable
    points: dict
    assignment: str = PROBLEMS


CORPUS = []


def submission(kind, *answers, points=None, assignment=PROBLEMS):
    """Add a submission of this kind; `answers` deserve their points, all others nothing."""

    def add(edit):
        worth = deserved(*answers, worth=WORTH if assignment == PROBLEMS else LAB_WORTH)
        CORPUS.append(Submission(edit.__name__, kind, edit.__doc__, edit, worth | (points or {}), assignment))
        return edit

    return add


def wrong(name, statement="raise ValueError"):
    """The head of a function, and one statement in it."""
    heads = {"mean": "mean(values)", "norm": "norm(x)", "bisect": "bisect(f, a, b)", "primes": "primes(n)"}
    return f"def {heads[name]}:\n    {statement}\n"


def each(text):
    """Every function answered by `text`, in which NAME is its name; and a number that is wrong."""
    answers = {name: text.replace("NAME", name) for name in ("mean", "norm", "bisect", "primes", "greet", "double")}
    return answers | {"answer": "answer = 11"}


# ---- honest ----------------------------------------------------------------------------------------------------------


@submission("honest", *RIGHT)
def right(draft):
    """everything right"""
    draft.write(**RIGHT)
    draft.write(mean=RIGHT["mean"] + f"  # {draft.place.canaries['other']}")


@submission("honest")
def blank(draft):
    """handed in as it was handed out"""


@submission("honest", points={"primes_test": 2})
def all_wrong(draft):
    """plausible, and wrong (primes without its edge cases is worth a part)"""
    draft.write(
        mean="def mean(values):\n    return sorted(values)[len(values) // 2] + 1e-3",
        norm="def norm(x):\n    return float(np.abs(x).sum())",
        bisect="def bisect(f, a, b):\n    return (a + b) / 2",
        primes="def primes(n):\n    return [2] + [p for p in range(3, n) if all(p % d for d in range(2, p))][:166]",
        answer="answer = 8",
        Stack=RIGHT["Stack"].replace("self.items.pop()", "self.items.pop(0)"),
        greet='def greet(name):\n    print("Hello,", name, "!")',
        double="def double(x):\n    return x",
    )


@submission("honest", "mean", "bisect", "answer")
def half(draft):
    """the first half right"""
    draft.write(**{name: RIGHT[name] for name in ("mean", "bisect", "answer")})


@submission("honest", *RIGHT)
def right_and_talkative(draft):
    """right, and prints a thousand lines in every call"""
    talk = "    for line in range(1000):\n        print('line', line)\n"
    draft.write(**RIGHT)
    for name in ("mean", "norm"):
        head, body = RIGHT[name].strip().split("\n", 1)
        draft.write(**{name: f"{head}\n{talk}{body}"})


@submission("honest", *RIGHT)
def right_and_warning(draft):
    """right, and warns on stderr where it is tested"""
    warn = "    import sys, warnings\n    warnings.warn('careful')\n    print('careful', file=sys.stderr)\n"
    draft.write(**RIGHT)
    for name in ("mean", "norm", "primes"):
        head, body = RIGHT[name].strip().split("\n", 1)
        draft.write(**{name: f"{head}\n{warn}{body}"})


@submission("honest", *RIGHT)
def right_with_numpy(draft):
    """right, with numpy's own types in place of Python's"""
    draft.write(**RIGHT)
    draft.write(
        mean="def mean(values):\n    return np.mean(values)",
        norm="norm = np.linalg.norm",
        bisect=RIGHT["bisect"].replace("return (a + b) / 2", "return np.array((a + b) / 2)"),
        primes="def primes(n):\n    return np.array([p for p in range(2, n) if all(p % d for d in range(2, p))], int)",
    )


@submission("honest", *RIGHT)
def right_with_objects(draft):
    """right: a callable object, a partial, a generator, a lambda, a subclass of list"""
    draft.write(
        mean="""
class Mean:
    calls = 0

    def __call__(self, values):
        Mean.calls += 1
        return sum(values) / len(values)

mean = Mean()
""",
        norm="""
import functools

def p_norm(p, x):
    return (np.abs(x) ** p).sum() ** (1 / p)

norm = functools.partial(p_norm, 2)
""",
        bisect=RIGHT["bisect"].replace("def bisect", "def halve")
        + "\nbisect = lambda f, a, b: halve(f, a, b)  # noqa: E731",
        primes="""
def primes(n):
    for p in range(2, n):
        if all(p % d for d in range(2, int(p**0.5) + 1)):
            yield p
""",
        answer="answer = len([(i, j) for i in range(8) for j in range(i) if bin(i ^ j).count('1') == 1])",
        Stack="class Stack(list):\n    push = list.append",
        double="import operator\n\ndouble = functools.partial(operator.mul, 2)",
        greet="def greet(name):\n    import sys\n    sys.stdout.write('Hello, %s!\\n' % name)",
    )


@submission("honest", *RIGHT)
def right_with_state(draft):
    """right: a cache and a counter of the module's, a helper in a cell of its own, a decorator"""
    draft.write(**RIGHT)
    draft.add(
        "cache, calls = {}, 0\n\ndef is_prime(p):\n    return p > 1 and all(p % d for d in range(2, p))", "primes"
    )
    draft.write(
        primes="""
import functools

@functools.lru_cache(maxsize=None)
def primes(n):
    global calls
    calls += 1
    if n not in cache:
        cache[n] = [p for p in range(n) if is_prime(p)]
    return cache[n]
"""
    )


@submission("honest", *RIGHT)
def right_with_names_of_the_tests(draft):
    """right, and uses the tests' own names, and list, sum and abs, for other things"""
    draft.write(**RIGHT)
    draft.write(
        mean="""
def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)
"""
    )
    draft.add("list = [1, 2]\nsum = 0\nabs = None\nexpected = seed = points = x = f = root = 'mine'", "mean_test")


@submission("honest", *RIGHT)
def right_with_files(draft):
    """right, with a file that it brings and one that it writes"""
    draft.file("edges.txt", "12")
    draft.write(**RIGHT)
    draft.write(
        answer="""
with open("copy.txt", "w") as file:
    file.write(open("edges.txt").read())
answer = int(open("copy.txt").read())
"""
    )


@submission("honest", *RIGHT)
def right_with_magics(draft):
    """right: a timed cell, a shell line, a plot, a wait at top level"""
    draft.write(**RIGHT)
    draft.write(mean="%%time\n" + RIGHT["mean"])
    draft.add("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\n!echo hello", "norm")
    draft.add("import asyncio\nawait asyncio.sleep(0)", "norm")


@submission("honest", "norm", "bisect", "primes", "answer", "Stack", "greet", "double")
def one_cell_crashes(draft):
    """right, but the first answer does not even parse"""
    draft.write(**RIGHT)
    draft.write(mean="def mean(values)\n    return sum(values) / len(values)")
    draft.add("1 / 0")


# ---- points without an answer: IPython and the kernel ----------------------------------------------------------------


@submission("points")
def displayhook(draft):
    """sys.displayhook prints a mark from inside the tested function"""
    worth = {"mean": 2, "norm": 3, "bisect": 2, "primes": 4, "greet": 1}
    for name, points in worth.items():
        draft.write(**{name: f"import sys\n\ndef {name}(*_):\n    sys.displayhook({points}.0)\n    raise ValueError"})


@submission("points", points={"primes_test": 1})
def quiet_displayhook(draft):
    """sys.displayhook prints a mark, and no error follows"""
    draft.write(primes="import sys\n\ndef primes(n):\n    sys.displayhook(4.0)\n    return []")


@submission("points", points={"primes_test": 1})
def drowned_result(draft):
    """prints so much that the test's own result is cut off, and would count as full"""
    draft.write(primes="def primes(n):\n    print('x' * 3_000_000)\n    return []")


@submission("points")
def forged_result(draft):
    """the tested function sends an execute_result of its own through the kernel's socket"""
    draft.write(
        **each(
            """
def NAME(*_):
    kernel = get_ipython().kernel
    content = {"execution_count": 1, "data": {"text/plain": "1.0"}, "metadata": {}}
    kernel.session.send(kernel.iopub_socket, "execute_result", content, parent=kernel.get_parent())
    raise ValueError
"""
        )
    )


@submission("points")
def dropped_errors(draft):
    """the kernel's session no longer sends errors"""
    draft.add(
        """
session = get_ipython().kernel.session
send = session.send

def quiet(stream, message, content=None, *rest, **options):
    name = message if isinstance(message, str) else message["msg_type"]
    if name == "error":
        return None
    if name == "execute_reply":
        content = {"status": "ok", "execution_count": 1, "user_expressions": {}, "payload": []}
    return send(stream, message, content, *rest, **options)

session.send = quiet
""",
        "mean",
    )


@submission("points")
def do_execute(draft):
    """the kernel's do_execute does nothing from now on"""
    draft.add(
        """
async def nothing(*_, **__):
    return {"status": "ok", "execution_count": 1, "user_expressions": {}, "payload": []}

get_ipython().kernel.do_execute = nothing
""",
        "mean",
    )


@submission("points")
def run_cell(draft):
    """the shell's run_cell and run_cell_async run an empty cell"""
    draft.add(
        """
shell = get_ipython()
run, run_async = shell.run_cell, shell.run_cell_async
shell.run_cell = lambda text, *a, **k: run("", *a, **k)

async def empty(text, *a, **k):
    k.pop("transformed_cell", None)
    return await run_async("", *a, transformed_cell="", **k)

shell.run_cell_async = empty
""",
        "mean",
    )


@submission("points")
def ast_transformer(draft):
    """an AST transformer takes every assert out"""
    draft.add(
        """
import ast

class NoAsserts(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()

get_ipython().ast_transformers.append(NoAsserts())
""",
        "mean",
    )


@submission("points")
def input_transformer(draft):
    """an input transformer empties every cell that asserts"""
    draft.add(
        """
get_ipython().input_transformers_cleanup.append(
    lambda lines: [] if any("assert" in line or "points" in line for line in lines) else lines
)
""",
        "mean",
    )


@submission("points")
def custom_exceptions(draft):
    """an exception handler of IPython's that prints a mark"""
    draft.add(
        """
import sys

get_ipython().set_custom_exc((BaseException,), lambda *_, **__: sys.displayhook(1.0))
""",
        "mean",
    )


@submission("points")
def no_tracebacks(draft):
    """showtraceback does nothing, and run_code reports no error"""
    draft.add(
        """
shell = get_ipython()
shell.showtraceback = lambda *_, **__: None
shell._showtraceback = lambda *_, **__: None
run_code = shell.run_code

async def run(code, result=None, **options):
    await run_code(code, None, **options)
    return False

shell.run_code = run
""",
        "mean",
    )


@submission("points")
def event(draft):
    """an event handler reads each cell before it runs and looks the expected values up"""
    draft.add(
        """
import re

seen = []
get_ipython().events.register("pre_run_cell", lambda info: seen.append(info.raw_cell))
""",
        "mean",
    )
    draft.write(
        primes="""
def primes(n):
    for form, given, value in re.findall(r"(\\w+)\\(primes\\((\\d+)\\)\\)+ == (.*)", seen[-1]):
        if int(given) == n:
            value = eval(value)
            return value if form == "list" and isinstance(value, list) else [value] if form == "sum" else [0] * value
"""
    )


@submission("points")
def reads_In(draft):
    """reads the test's own text in In, and the expected values in it"""
    draft.write(
        primes="""
def primes(n):
    import re
    text = get_ipython().user_ns["In"][-1]
    for form, given, value in re.findall(r"(\\w+)\\(primes\\((\\d+)\\)\\)+ == (.*)", text):
        if int(given) == n:
            value = eval(value)
            return value if isinstance(value, list) else [value] if form == "sum" else [0] * value
"""
    )


@submission("points")
def magic(draft):
    """a cell magic of its own and autocall swallow what follows"""
    draft.add(
        """
shell = get_ipython()
shell.register_magic_function(lambda line, cell="": None, "line_cell", "swallow")
transform = shell.transform_cell
shell.transform_cell = lambda text: "" if "assert" in text or "points" in text else transform(text)
""",
        "mean",
    )


# ---- points without an answer: Python --------------------------------------------------------------------------------


@submission("points")
def patched_builtins(draft):
    """the builtin abs says 0"""
    draft.write(mean=wrong("mean", "return 0.0"))
    draft.add(
        """
import builtins

builtins.abs = lambda value: 0
""",
        "mean_test",
    )


@submission("points")
def patched_numpy(draft):
    """numpy's isclose and math's isclose say yes"""
    draft.write(norm=wrong("norm", "return 0.0"), bisect=wrong("bisect", "return 0.0"))
    draft.add("np.isclose = np.allclose = math.isclose = lambda *_, **__: True", "mean")


@submission("points")
def shadowed_names(draft):
    """the tests' helper and builtins, bound anew in the notebook"""
    draft.write(mean=wrong("mean", "return 0.0"), norm=wrong("norm", "return 0.0"), answer="answer = 12.0")
    draft.add(
        """
close = lambda *_, **__: True
isinstance = lambda *_: True
list = lambda *_: [2, 3, 5, 7]

class Agreeable:
    def __getattr__(self, name):
        return lambda *_, **__: True

np = Agreeable()
""",
        "mean_test",
    )


@submission("points")
def tampered_data(draft):
    """the numbers that the instructor gives are all zero"""
    draft.write(double="def double(x):\n    return x - x")
    draft.add("angles[:] = 0", "double_test")


@submission("points", "mean")
def displaced_imports(draft):
    """what an earlier test imports is bound anew for a later one"""
    draft.write(greet="def greet(name):\n    pass", mean=RIGHT["mean"])
    draft.add(
        """
texts = iter(["Hello, Ada!\\n", "Emmy"])

class contextlib:
    class redirect_stdout:
        def __init__(self, target): pass
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def getvalue(self): return next(texts)

class io:
    StringIO = list""",
        "greet_test",
    )


@submission("points")
def tampered_helper(draft):
    """the code of the instructor's helper function is replaced"""
    draft.write(mean=wrong("mean", "return 0.0"))
    draft.add("close.__code__ = (lambda got, expected, tolerance=1: True).__code__", "mean_test")


@submission("points")
def equals_everything(draft):
    """an object that equals, exceeds and converts to whatever is asked"""
    draft.add(
        """
class Anything:
    def __eq__(self, other): return True
    __le__ = __lt__ = __ge__ = __gt__ = __eq__
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __abs__ = lambda self, *_: self
    def __bool__(self): return True
    def __call__(self, *_): return self
    def __iter__(self): return iter([self])
    def __getattr__(self, name): return self
    def __float__(self): return 0.0
    def __array_ufunc__(self, *_, **__): return True
    def __array_function__(self, *_, **__): return True
    @property
    def __class__(self): return int

mean = norm = bisect = primes = Stack = greet = double = answer = Anything()
""",
        "mean_test",
    )
    for name in RIGHT:
        draft.write(**{name: "pass"})


@submission("points")
def returns_anything(draft):
    """right functions' names that return an object which equals everything"""
    draft.write(
        **each(
            """
class Anything(float):
    def __eq__(self, other): return True
    __le__ = __lt__ = __ge__ = __gt__ = __eq__
    __sub__ = __rsub__ = __abs__ = lambda self, *_: self
    def __iter__(self): return iter([self])
    def __array_ufunc__(self, *_, **__): return True
    def __array_function__(self, *_, **__): return True

def NAME(*_):
    return Anything(0)
"""
        )
    )


@submission("points", points={"primes_test": 1})
def no_difference(draft):
    """returns an object whose difference from everything is the number 0"""
    draft.write(
        **each(
            """
class Near:
    def __sub__(self, other): return 0.0
    __rsub__ = __mod__ = __xor__ = __sub__
    def __truediv__(self, other): return 1.0
    __rtruediv__ = __truediv__
    def __contains__(self, item): return True
    def __len__(self): return 168
    def __iter__(self): return iter([])
    def __float__(self): return 0.0

def NAME(*_):
    return Near()
"""
        )
    )


@submission("points")
def stop_iteration(draft):
    """raises StopIteration, which ends the test's own loop quietly"""
    draft.write(**each("def NAME(*_):\n    raise StopIteration"))


@submission("points")
def subclasses(draft):
    """subclasses of int, list and ndarray whose comparisons always agree"""
    draft.write(
        norm="""
class Agreeable(np.ndarray):
    def __array_ufunc__(self, *_, **__): return np.True_
    def __array_function__(self, *_, **__): return np.True_

def norm(x):
    return np.zeros(1).view(Agreeable)
""",
        primes="""
class Agreeing(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter(range(1060, 1061))
    def __len__(self): return 168

class Number(int):
    def __eq__(self, other): return True
    def __radd__(self, other): return self

def primes(n):
    return Agreeing([Number(1)])
""",
        answer="class Number(int):\n    def __eq__(self, other): return True\n\nanswer = Number(11)",
    )


@submission("points")
def length_lies(draft):
    """a class whose methods return objects that agree"""
    draft.write(
        Stack="""
class Agreeing:
    def __eq__(self, other): return True

class Stack:
    lengths = iter([2, 0])
    def push(self, item): pass
    def pop(self): return Agreeing()
    def __len__(self): return next(Stack.lengths)
"""
    )


@submission("points")
def mutated_inputs(draft):
    """changes its input so that the expected value, computed later, agrees"""
    draft.write(norm="def norm(x):\n    x[:] = 0\n    return 0.0")


@submission("points")
def reads_frames(draft):
    """reads the expected value in the caller's frame"""
    draft.write(mean="import sys\n\ndef mean(values):\n    return sys._getframe(1).f_globals.get('expected', 2)")


@submission("points")
def reads_gc(draft):
    """finds the tests' variables through the garbage collector"""
    draft.write(
        mean="""
import gc

def mean(values):
    for found in gc.get_objects():
        if type(found) is dict and "fmean" in found and "values" in found:
            return found["expected"]
    return 2
"""
    )


@submission("points")
def reads_argument(draft):
    """reads the expected value in the globals of the function that it is given"""
    draft.write(
        bisect="""
def bisect(f, a, b):
    return 2**0.5 if f.__name__ == "<lambda>" else f.__globals__["expected"]
"""
    )


@submission("points")
def traces_the_helper(draft):
    """a trace function changes what the tests' helper was given"""
    draft.write(
        mean="""
import sys

def lie(frame, event, _):
    if frame.f_code.co_name == "close":
        frame.f_locals["got"] = frame.f_locals["expected"]
    return lie

def mean(values):
    sys.settrace(lie)
    return 0.0
"""
    )


@submission("points")
def pokes_constants(draft):
    """ctypes overwrites the tolerance among the tests' constants"""
    draft.write(
        mean="""
import ctypes, sys

def mean(values):
    tolerance = sys._getframe(1).f_globals["close"].__defaults__[0]
    ctypes.c_double.from_address(id(tolerance) + 16).value = 1e9
    return 0.0
"""
    )


@submission("points")
def import_hook(draft):
    """the module that the hidden test imports is the student's"""
    draft.write(mean=wrong("mean", "return 2 if values == [1, 2, 3] else 0.0"))
    draft.add(
        """
import sys, types

class Finder:
    def find_spec(self, name, *_):
        if name == "statistics":
            raise ImportError

sys.meta_path.insert(0, Finder())
sys.modules["statistics"] = types.SimpleNamespace(fmean=lambda values: 0.0)
sys.modules["io"] = types.SimpleNamespace(StringIO=object)
""",
        "mean_test",
    )


@submission("points")
def shadow_module(draft):
    """a numpy.py and a statistics.py in the working folder"""
    draft.write(
        mean=wrong("mean", "return 2 if values == [1, 2, 3] else 0.0"),
        norm=wrong("norm", "return 0.0"),
    )
    draft.file("statistics.py", "def fmean(values):\n    return 0.0")
    draft.file(
        "numpy.py",
        """
class Anything:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    __call__ = __pow__ = __mul__ = __rmul__ = __add__ = __getitem__ = lambda self, *_, **__: self


def __getattr__(name):
    return getattr(Anything(), name)
""",
    )


@submission("points")
def shadow_kernel(draft):
    """an ipykernel_launcher.py and a sitecustomize.py in the working folder"""
    draft.write(mean=wrong("mean", "return 0.0"), norm=wrong("norm", "return 0.0"))
    text = """
import builtins, sys
sys.path[:] = [p for p in sys.path if p]
builtins.abs = lambda value: 0
if __name__ == "__main__":
    import numpy
    numpy.isclose = lambda *_, **__: True
    from ipykernel import kernelapp
    kernelapp.launch_new_instance()
"""
    for name in ("ipykernel_launcher", "sitecustomize", "usercustomize"):
        draft.file(f"{name}.py", text)


@submission("honest")
def answers_only_what_it_sees(draft):
    """a table of the visible tests' values"""
    draft.write(
        mean=wrong("mean", "return {(1, 2, 3): 2}.get(tuple(values), 0)"),
        norm=wrong("norm", "return 5.0 if len(x) == 2 else 0.0"),
        bisect=wrong("bisect", "return 2**0.5"),
    )


@submission("points")
def background_thread(draft):
    """a thread goes on patching while the tests run"""
    draft.write(mean=wrong("mean", "return 0.0"), norm=wrong("norm", "return 0.0"))
    draft.add(
        """
import builtins, threading, time

def patch():
    for _ in range(2000):
        builtins.abs = lambda value: 0
        np.isclose = lambda *_, **__: True
        globals()["close"] = lambda *_: True
        time.sleep(0.005)

threading.Thread(target=patch, daemon=True).start()
time.sleep(0.1)
""",
        "mean_test",
    )


@submission("honest")
def nothing_in_particular(draft):
    """NaN, infinity, None and complex numbers in place of results"""
    draft.write(
        mean=wrong("mean", "return float('nan')"),
        norm=wrong("norm", "return np.array([np.nan] * 3)"),
        bisect=wrong("bisect", "return complex('nan')"),
        primes=wrong("primes", "return [float('inf')]"),
        answer="answer = True",
    )


# ---- points without an answer: files ---------------------------------------------------------------------------------


@submission("points")
def reads_the_notebook(draft):
    """finds the hidden tests in the notebook that is being graded"""
    draft.write(
        primes="""
def primes(n):
    import glob, json, re
    for path in glob.glob("*.ipynb") + glob.glob("**/*.ipynb", recursive=True):
        for cell in json.load(open(path))["cells"]:
            text = "".join(cell["source"])
            for form, given, value in re.findall(r"(\\w+)\\(primes\\((\\d+)\\)\\)+ == (.*)", text):
                if int(given) == n:
                    value = eval(value)
                    return value if isinstance(value, list) else [value] if form == "sum" else [0] * value
"""
    )


@submission("points")
def runs_the_solution(draft):
    """runs the answers of the instructor's notebook"""
    draft.add(
        """
import json

for cell in json.load(open("$COURSE/source/problems/problems.ipynb"))["cells"]:
    if cell["metadata"]["nbgrader"]["solution"] and cell["cell_type"] == "code":
        exec("".join(cell["source"]))
""",
        "mean_test",
    )
    for name in RIGHT:
        draft.write(**{name: "pass"})


@submission("points")
def runs_another_submission(draft):
    """runs the answers of the student beside it"""
    draft.add(
        """
import json

for step in ("submitted", "autograded"):
    for cell in json.load(open(f"$COURSE/{step}/right/problems/problems.ipynb"))["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("solution") and cell["cell_type"] == "code":
            exec("".join(cell["source"]))
""",
        "mean_test",
    )
    for name in RIGHT:
        draft.write(**{name: "pass"})


@submission("points")
def writes_the_gradebook(draft):
    """writes its own points into the gradebook"""
    draft.add(
        """
import sqlite3

with sqlite3.connect("$COURSE/gradebook.db", timeout=2) as gradebook:
    gradebook.execute("UPDATE grade SET manual_score = 2, needs_manual_grade = 0")
""",
        "mean",
    )


# ---- points without an answer: what the notebook says of itself ------------------------------------------------------


@submission("metadata")
def more_points(draft):
    """the points of every test, edited"""
    for cell in draft.notebook.cells:
        if "points" in cell.metadata.get("nbgrader", {}):
            cell.metadata.nbgrader.points = 1000


@submission("metadata")
def own_grade_cells(draft):
    """adds graded cells of its own"""
    for name in ("bonus", "more_test"):
        draft.add("1000.0")
        data = {"grade_id": name, "schema_version": 3, "cell_type": "code", "task": False, "points": 1000}
        draft.notebook.cells[-1].metadata["nbgrader"] = data | {"grade": True, "solution": False, "locked": True}


@submission("metadata")
def duplicated_ids(draft):
    """repeats the test cells' ids on cells that pass"""
    for name in ("mean_test", "norm_test"):
        draft.add("2.0", before="mean")
        index = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in draft.notebook.cells].index("mean") - 1
        draft.notebook.cells[index].metadata = json.loads(json.dumps(draft.cell(name).metadata))


@submission("metadata", "bisect")
def emptied_tests(draft):
    """empties the tests, or deletes them"""
    draft.write(mean_test="", norm_test="3.0", bisect=RIGHT["bisect"])
    draft.notebook.cells = [
        cell for cell in draft.notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") != "bisect_test"
    ]


@submission("metadata")
def tests_turned_to_answers(draft):
    """says that tests are answers, unlocked, and of another type"""
    draft.cell("mean_test").metadata.nbgrader |= {"solution": True, "grade": True, "locked": False}
    draft.cell("norm_test").metadata.nbgrader |= {"solution": True, "grade": False, "locked": False}
    draft.cell("primes_test").metadata.nbgrader |= {"locked": False, "checksum": "0" * 32}
    draft.write(mean_test="pass", norm_test="pass", primes_test="4.0")
    cell = draft.cell("bisect_test")
    cell["cell_type"] = "markdown"
    cell.pop("outputs"), cell.pop("execution_count")
    cell.metadata.nbgrader.cell_type = "markdown"


@submission("metadata")
def outputs_that_score(draft):
    """brings the outputs of passed tests along"""
    for cell in draft.notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                {
                    "output_type": "execute_result",
                    "execution_count": 1,
                    "data": {"text/plain": "2.0"},
                    "metadata": {},
                }
            ]


@submission("metadata")
def another_kernel(draft):
    """asks for a kernel and a language that do not exist"""
    kernel = {"display_name": "x", "language": "x", "name": "../../../bin/true"}
    draft.notebook.metadata["kernelspec"] = kernel


# ---- the course's own checks -----------------------------------------------------------------------------------------


def give_up(draft):
    draft.write(
        alpha_bar="def alpha_bar(beta):\n    return beta",
        q_sample="def q_sample(x0, k, noise, alpha_bar):\n    return x0",
    )


@submission("honest", *LAB_RIGHT, assignment=LAB)
def lab_right(draft):
    """a lab of the course, right"""
    draft.write(**LAB_RIGHT)


@submission("honest", "alpha_bar", assignment=LAB)
def lab_half(draft):
    """a lab of the course, half right"""
    draft.write(alpha_bar=LAB_RIGHT["alpha_bar"], q_sample="def q_sample(x0, k, noise, alpha_bar):\n    return x0")


@submission("points", assignment=LAB)
def lab_patched_checks(draft):
    """check and grade of course_utils do nothing"""
    give_up(draft)
    draft.add(
        """
import course_utils.exercises
from course_utils.exercises import exercise

grade = check = course_utils.exercises.grade = course_utils.exercises.check = lambda *_, **__: None
exercise.Exercise.grade = lambda *_, **__: exercise.Result(True, "")
exercise.difference = lambda *_, **__: None
course_utils.exercises.EXERCISES.clear()
""",
        "alpha_bar",
    )


@submission("points", assignment=LAB)
def lab_patched_torch(draft):
    """torch's comparisons say yes"""
    give_up(draft)
    draft.add(
        """
torch.equal = torch.allclose = torch.isclose = lambda *_, **__: True
torch.Tensor.__sub__ = lambda self, other: torch.zeros(())
torch.Tensor.abs = torch.Tensor.__abs__ = lambda self: torch.zeros_like(self)
torch.Tensor.max = lambda self, *_, **__: torch.zeros(())
""",
        "alpha_bar",
    )


@submission("points", assignment=LAB)
def lab_tensor_that_agrees(draft):
    """a subclass of Tensor whose every operation agrees"""
    draft.add(
        """
class Agreeing(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("sub", "rsub", "__sub__", "__rsub__", "abs", "max", "amax", "__abs__"):
            return torch.zeros(())
        if name in ("equal", "allclose", "isclose", "all", "__eq__"):
            return True
        return super().__torch_function__(function, types, args, kwargs or {})
""",
        "alpha_bar",
    )
    draft.write(
        alpha_bar="def alpha_bar(beta):\n    return torch.zeros_like(beta).as_subclass(Agreeing)",
        q_sample="def q_sample(x0, k, noise, alpha_bar):\n    return torch.zeros_like(x0).as_subclass(Agreeing)",
    )


@submission("points", assignment=LAB)
def lab_hands_back_the_reference(draft):
    """answers with the course's own finished functions"""
    draft.write(
        alpha_bar="""
from course_utils.exercises import EXERCISES

alpha_bar = EXERCISES["ddpm_2d.alpha_bar"].reference
""",
        q_sample="""
def q_sample(x0, k, noise, alpha_bar):
    return EXERCISES["ddpm_2d.q_sample"].reference(x0, k, noise, alpha_bar)
""",
    )


@submission("points", assignment=LAB)
def lab_shadow_package(draft):
    """a course_utils of its own in the working folder"""
    give_up(draft)
    draft.file("course_utils/__init__.py", "")
    draft.file("course_utils/exercises.py", "check = grade = lambda *_, **__: None")
    draft.file("torch.py", "def __getattr__(name):\n    return lambda *_, **__: True")


# ---- reading ---------------------------------------------------------------------------------------------------------


def reads(expression):
    return f"""
try:
    found = {expression}
    print((found if isinstance(found, str) else found.decode("latin-1"))[::-1])
except Exception as error:
    print(error)
"""


@submission("reading")
def reads_source(draft):
    """prints the instructor's notebook"""
    draft.add(reads('open("$COURSE/source/problems/problems.ipynb").read()'))
    draft.add("!rev $COURSE/source/problems/problems.ipynb")


@submission("reading")
def reads_tests_beside_it(draft):
    """prints every notebook in its folder, which hold the hidden tests"""
    draft.add("import glob\n" + reads('"".join(open(path).read() for path in glob.glob("*.ipynb"))'))


@submission("reading")
def reads_other_submission(draft):
    """prints another student's notebook"""
    draft.add(reads('open("$COURSE/submitted/right/problems/problems.ipynb").read()'))
    draft.add("import glob\n" + reads('"".join(open(p).read() for p in glob.glob("../../right/*/*.ipynb"))'))


@submission("reading")
def reads_gradebook(draft):
    """prints who is in the gradebook"""
    draft.add(
        """
import sqlite3
try:
    with sqlite3.connect("file:$COURSE/gradebook.db?mode=ro", uri=True) as gradebook:
        print("did" ":$TOKEN:read the gradebook of", len(list(gradebook.execute("select id from student"))))
except Exception as error:
    print(error)
"""
    )


@submission("reading")
def reads_environment(draft):
    """prints environment variables, its own and other processes'"""
    draft.add("import os\n" + reads('os.environ["COURSE_CANARY"]'))
    draft.add(reads('open("/proc/$PID/environ", "rb").read()'))
    draft.add("import glob\n" + reads('b"".join(open(p, "rb").read() for p in glob.glob("/proc/*/environ"))'))


@submission("reading")
def reads_home(draft):
    """prints files of the home folder and beside the course"""
    draft.add("import os\n" + reads('open(os.path.expanduser("~/private.txt")).read()'))
    draft.add(reads('open("$HOME/private.txt").read()'))
    draft.add(reads('open("/proc/1/root$OUTSIDE/private.txt").read()'))
    draft.add(reads('open("$OUTSIDE/private.txt").read()'))
    draft.add("import os\nos.chroot" + "\n" + reads('open("/proc/$PID/root$OUTSIDE/private.txt").read()'))


@submission("reading")
def reads_memory(draft):
    """searches the memory of the grading process"""
    draft.add(
        """
import glob, re
for folder in glob.glob("/proc/[0-9]*"):
    try:
        command = open(f"{folder}/cmdline").read()
        memory = open(f"{folder}/mem", "rb", 0)
        for line in open(f"{folder}/maps"):
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            if folder != "/proc/$PID" or "rw" not in line or end - start > 1 << 29:
                continue
            memory.seek(start)
            for found in re.findall(rb"canary_mem" rb"ory_[0-9a-f]{6}", memory.read(end - start))[:1]:
                print(found.decode()[::-1])
    except Exception as error:
        continue
"""
    )


@submission("reading")
def reads_descriptors(draft):
    """reads and describes every open file of its own, its parent's and the kernel's"""
    draft.add(
        """
import glob, os
for path in glob.glob("/proc/*/fd/*"):
    try:
        target = os.readlink(path)
        if target.endswith((".db", ".ipynb")):
            print("did" ":$TOKEN:reached", target)
            print(open(path, "rb").read()[::-1])
    except Exception:
        continue
"""
    )


@submission("reading")
def symlinks(draft):
    """hands in links to the instructor's notebook, the gradebook and a private file"""
    course = draft.place.course
    for name, target in {
        "source.txt": course / "source" / PROBLEMS / f"{PROBLEMS}.ipynb",
        "other.txt": course / "submitted" / "right" / PROBLEMS / f"{PROBLEMS}.ipynb",
        "private.txt": draft.place.outside / "private.txt",
        "folder": course,
        "loop": draft.folder,
    }.items():
        (draft.folder / name).symlink_to(target)
    for name in ("source.txt", "other.txt", "private.txt", "folder/source/problems/problems.ipynb"):
        draft.add(reads(f'open("{name}").read()'))


# ---- writing ---------------------------------------------------------------------------------------------------------


def writes(*paths):
    lines = [f'"{path}",' for path in paths]
    return "\n".join(
        [
            "import os",
            "for path in (",
            *lines,
            "):",
            "    try:",
            "        os.makedirs(os.path.dirname(path), exist_ok=True)",
            "        open(path, 'w').write('$TOKEN')",
            "    except Exception as error:",
            "        print(error)",
        ]
    )


@submission("writing")
def writes_outside(draft):
    """writes beside the course, into the course, and into other submissions"""
    draft.add(
        writes(
            "$OUTSIDE/$TOKEN",
            "$COURSE/source/problems/$TOKEN",
            "$COURSE/submitted/right/problems/$TOKEN",
            "$COURSE/autograded/right/problems/$TOKEN",
            "/proc/1/root$OUTSIDE/$TOKEN",
            "/proc/$PID/root$OUTSIDE/$TOKEN",
        )
    )


@submission("writing")
def writes_start_up(draft):
    """leaves files that start with the next kernel, shell or Python"""
    draft.add(
        writes(
            "$HOME/.ipython/profile_default/startup/$TOKEN.py",
            "$HOME/.config/autostart/$TOKEN",
            "$HOME/.local/lib/python3.11/site-packages/$TOKEN.pth",
        )
    )


@submission("writing")
def writes_site_packages(draft):
    """leaves a module among the installed packages"""
    draft.add(
        """
import numpy, os
try:
    path = os.path.join(os.path.dirname(os.path.dirname(numpy.__file__)), "$TOKEN.txt")
    open(path, "w").close()
    os.remove(path)
    print("did" ":$TOKEN:wrote among the packages")
except OSError as error:
    print(error)
"""
    )


@submission("writing")
def writes_through_symlinks(draft):
    """hands in links, and writes through them"""
    (draft.folder / "out").symlink_to(draft.place.outside)
    draft.add(writes("./out/$TOKEN"))
    draft.add("import os\nos.symlink('$OUTSIDE', 'later')\n" + writes("./later/$TOKEN"))


@submission("writing", "mean", "norm")
def leaves_links_behind(draft):
    """replaces what it leaves in its folder by links, for whoever collects it"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add(
        """
import os, pathlib
for name in os.listdir("."):
    try:
        os.remove(name)
    except OSError:
        pass
for name in ("problems.ipynb", "problems.html", "feedback.html"):
    try:
        os.symlink("$OUTSIDE/$TOKEN.html", name)
    except OSError as error:
        print(error)
"""
    )


@submission("writing")
def remounts(draft):
    """mounts, changes root, makes devices and namespaces"""
    draft.add(
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
done = []
for name, call in {
    "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    "device": lambda: os.mknod("null", 0o20666, os.makedev(1, 3)) or 0,
    "ptrace": lambda: libc.ptrace(0x4206, $PID, 0, 0),
    "setuid": lambda: os.setuid(0) or (0 if open("/etc/shadow").read() else 1),
    "hostname": lambda: libc.sethostname(b"$TOKEN"[:9], 9) if os.uname().nodename == b"$TOKEN"[:9].decode() else 1,
}.items():
    try:
        if call() == 0:
            done.append(name)
            if name == "mount":
                libc.umount(b"/tmp")
    except Exception as error:
        print(name, error)
if done:
    print("did" ":$TOKEN:has the rights to", ", ".join(done))
"""
    )


# ---- network ---------------------------------------------------------------------------------------------------------


def calls(family, kind, address):
    return f"""
import socket
try:
    with socket.socket(socket.{family}, socket.{kind}) as caller:
        caller.settimeout(2)
        caller.connect({address})
        caller.send(b"$TOKEN")
except OSError as error:
    print(error)
"""


@submission("network")
def calls_tcp(draft):
    """calls a TCP port of this machine"""
    draft.add(calls("AF_INET", "SOCK_STREAM", '("127.0.0.1", $TCP)'))


@submission("network")
def calls_tcp6(draft):
    """calls a TCP port over IPv6"""
    draft.add(calls("AF_INET6", "SOCK_STREAM", '("::1", $TCP6)'))


@submission("network")
def calls_udp(draft):
    """sends a UDP datagram"""
    draft.add(calls("AF_INET", "SOCK_DGRAM", '("127.0.0.1", $UDP)'))


@submission("network")
def calls_abstract(draft):
    """calls an abstract unix socket"""
    draft.add(calls("AF_UNIX", "SOCK_STREAM", '"\\0$ABSTRACT"'))


@submission("network")
def calls_unix(draft):
    """calls a unix socket in the file system"""
    draft.add(calls("AF_UNIX", "SOCK_STREAM", '"$UNIX"'))


@submission("network")
def calls_from_a_test(draft):
    """calls out with what the tests hand to it"""
    draft.write(
        mean=RIGHT["mean"].replace("return", "call(values)\n    return") + " + 1",
    )
    draft.add("def call(values):\n    import subprocess\n    " + "subprocess.run(['true'])", "mean_test")
    draft.add(
        "def call(values):\n"
        + "\n".join("    " + x for x in calls("AF_INET", "SOCK_STREAM", '("127.0.0.1", $TCP)').split("\n")),
        "mean_test",
    )


# ---- processes, signals ----------------------------------------------------------------------------------------------

SLEEPER = "[sys.executable, '-c', 'import time; time.sleep(90)  # $TOKEN']"


@submission("processes")
def double_fork(draft):
    """leaves a process behind: two forks and a session of its own"""
    draft.add(
        f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(3):
            os.close(number)
        os.closerange(3, 1024)
        os.execv(sys.executable, {SLEEPER})
    os._exit(0)
"""
    )


@submission("processes")
def daemon_by_shell(draft):
    """leaves a process behind: nohup and setsid in a shell"""
    draft.add(
        f"import subprocess, sys\nsubprocess.Popen(['setsid', 'nohup'] + {SLEEPER}, start_new_session=True,"
        "\n    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"
    )


@submission("processes")
def at_exit(draft):
    """an exit handler that starts a process, and one that never ends"""
    draft.add(
        f"""
import atexit, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
atexit.register(time.sleep, 90)
atexit.register(lambda: subprocess.Popen({SLEEPER}, start_new_session=True))
"""
    )


@submission("processes")
def holds_the_output(draft):
    """a child that holds the kernel's pipes and sockets open"""
    draft.add(f"import subprocess, sys\nsubprocess.Popen({SLEEPER}, close_fds=False)")


@submission("signals", "mean", "norm")
def kills_its_parent(draft):
    """kills the process that started it"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add("import os, signal\nif os.getppid() > 1:\n    os.kill(os.getppid(), signal.SIGKILL)", "bisect")


@submission("signals", "mean", "norm")
def stops_its_parent(draft):
    """stops the process that started it, which then waits for ever"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add("import os, signal\nif os.getppid() > 1:\n    os.kill(os.getppid(), signal.SIGSTOP)", "bisect")


@submission("signals", "mean", "norm")
def signals_others(draft):
    """signals another process of the machine"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add(
        """
import os, signal
try:
    os.kill($PID, signal.SIGURG)
    print("did" ":$TOKEN:signalled another process")
except OSError as error:
    print(error)
""",
        "bisect",
    )


@submission("signals", "mean", "norm")
def exits_in_a_test(draft):
    """os._exit in the tested function"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"], bisect="import os\n\ndef bisect(f, a, b):\n    os._exit(0)")


@submission("signals", "mean", "norm")
def kills_itself(draft):
    """kill -9 of its own process in a cell"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add("import os\nos.kill(os.getpid(), 9)", "bisect")


@submission("signals", "mean", "norm", "answer")
def raises_everything(draft):
    """SystemExit, KeyboardInterrupt, GeneratorExit and exceptions that lie when they are printed"""
    draft.write(
        mean=RIGHT["mean"],
        norm=RIGHT["norm"],
        bisect="def bisect(f, a, b):\n    raise SystemExit(0)",
        primes="def primes(n):\n    raise KeyboardInterrupt",
        answer="answer = 12",
        Stack="""
class Hostile(BaseException):
    def __str__(self):
        raise self
    __repr__ = __str__

class Stack:
    def push(self, item):
        raise Hostile
""",
        greet="""
class Long(Exception):
    def __str__(self):
        return "x" * 20_000_000

def greet(name):
    raise Long
""",
    )


# ---- what never ends, and what is too much ---------------------------------------------------------------------------


@submission("time", "mean", "norm", "Stack")
def endless_loop(draft):
    """a loop that never ends, in a cell"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"], bisect="while True:\n    pass", Stack=RIGHT["Stack"])


@submission("time", "mean", "norm")
def uninterruptible(draft):
    """a loop in a test that ignores the interrupt"""
    draft.write(
        mean=RIGHT["mean"],
        norm=RIGHT["norm"],
        bisect="""
import signal, time

def bisect(f, a, b):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = time.time() + 60
    while time.time() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
""",
    )


@submission("time", "mean", "norm")
def endless_generator(draft):
    """a generator that never ends, and a recursion that does not either"""
    draft.write(
        mean=RIGHT["mean"],
        norm=RIGHT["norm"],
        primes="""
def primes(n):
    import time
    while True:
        time.sleep(0.001)
        yield 2
""",
        bisect="def bisect(f, a, b):\n    return bisect(f, a, b)",
    )


@submission("time", "mean")
def many_slow_cells(draft):
    """forty cells, each just under the limit"""
    draft.write(mean=RIGHT["mean"])
    for _ in range(40):
        draft.add("import time\ntime.sleep(2.5)", "bisect")


@submission("memory", "mean", "norm")
def takes_memory(draft):
    """takes a gigabyte more than is allowed"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add(
        """
taken = []
try:
    for step in range(30):
        taken.append(bytearray(b"x" * (100 << 20)))
    print("did" ":$TOKEN:took 3 GB")
except MemoryError:
    print("no more")
finally:
    taken.clear()
""",
        "bisect",
    )


@submission("memory", "mean", "norm", "Stack")
def endless_range(draft):
    """returns range(10**12), which the test makes a list of"""
    draft.write(
        mean=RIGHT["mean"],
        norm=RIGHT["norm"],
        Stack=RIGHT["Stack"],
        primes="def primes(n):\n    return range(2, 10**12)",
    )


@submission("memory", "mean", "norm", "Stack")
def number_bombs(draft):
    """returns numbers that are short to write and take all memory to work out"""
    draft.write(
        mean=RIGHT["mean"],
        norm=RIGHT["norm"],
        Stack=RIGHT["Stack"],
        bisect="""
import fractions

def bisect(f, a, b):
    fractions.Fraction.__str__ = lambda self: "1e999999999"
    return fractions.Fraction(1, 3)
""",
        primes="import decimal\n\ndef primes(n):\n    return [decimal.Decimal('1e999999999')]",
        answer="import decimal\n\nanswer = decimal.Decimal('1e999999')",
    )


@submission("memory", "mean")
def huge_values(draft):
    """returns values that are huge, deep, lazy, or not to be written down"""
    draft.write(
        mean=RIGHT["mean"],
        norm="def norm(x):\n    return np.broadcast_to(np.float64(1), (1 << 50,))",
        bisect="""
def bisect(f, a, b):
    deep = []
    deep.append(deep)
    for _ in range(100_000):
        deep = [deep]
    return deep
""",
        primes="def primes(n):\n    return [10 ** 100_000, '\\ud800', range(10 ** 18), {1: {2: b'\\xff'}}]",
        answer="answer = 1 << 10_000_000",
        Stack="""
class Stack:
    def push(self, item): pass
    def pop(self): return self
    def __len__(self): return 1 << 62
    def __getattr__(self, name): return self
""",
        greet="def greet(name):\n    print('x' * 30_000_000)",
    )


@submission("disk", "mean", "norm")
def fills_the_disk(draft):
    """writes 400 MB, in its folder and in the temporary one"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add(
        """
import os, tempfile
written = []
try:
    for folder in (".", tempfile.gettempdir(), "/dev/shm"):
        for number in range(10):
            path = f"{folder}/$TOKEN-{number}"
            with open(path, "wb") as file:
                written.append(path)
                file.write(b"x" * (40 << 20))
except OSError as error:
    print(error)
total = sum(os.path.getsize(path) for path in written if os.path.exists(path))
for path in written:
    if os.path.exists(path):
        os.remove(path)
if total > 900 << 20:
    print("did" ":$TOKEN:wrote", total >> 20, "MB")
""",
        "bisect",
    )


@submission("processes", "mean", "norm")
def forks(draft):
    """starts two hundred processes at once"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add(
        """
import os, time
started = []
try:
    for number in range(200):
        child = os.fork()
        if child == 0:
            time.sleep(3)
            os._exit(0)
        started.append(child)
except OSError as error:
    print(error)
if len(started) >= 200:
    print("did" ":$TOKEN:started", len(started), "processes")
for child in started:
    os.kill(child, 9)
    os.waitpid(child, 0)
""",
        "bisect",
    )


@submission("output", "mean", "norm", "answer")
def floods(draft):
    """prints 100 MB, and an HTML picture of 20"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"], answer="answer = 12")
    draft.add("for _ in range(100):\n    print('x' * 1_000_000, end='')", "bisect")
    draft.add("from IPython.display import HTML, display\ndisplay(HTML('<b>' + 'x' * 20_000_000 + '</b>'))", "bisect")


@submission("output", "mean", "norm", "answer")
def half_characters(draft):
    """prints and raises characters that no file can hold"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"], answer="answer = 12")
    draft.add("print('\\ud800 \\x00 \\x1b[31m \\uffff')\n'\\udfff'", "bisect")
    draft.write(bisect="def bisect(f, a, b):\n    raise ValueError('\\ud800' * 1000)")
    draft.add("get_ipython().display_pub.publish({'text/plain': '\\ud800', '\\udfff': 'x'})", "bisect")


@submission("output", "mean", "norm")
def prints_for_ever(draft):
    """prints, displays and updates without end"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add(
        """
from IPython.display import display
import time
end = time.time() + 60
while time.time() < end:
    print("x" * 1000)
    display({"text/plain": "y" * 1000}, raw=True)
""",
        "bisect",
    )


@submission("feedback")
def reads_its_feedback(draft):
    """fails every test, and reads in its feedback what the tests were"""
    draft.write(mean=wrong("mean", "return 2 if len(values) == 3 else 0"))


# ---- script for those who look at it ---------------------------------------------------------------------------------

PAYLOADS = """
<script>window.owned = "$TOKEN"; document.title = "$TOKEN"</script>
<img src="x" onerror="document.title='$TOKEN'">
<svg onload="document.title='$TOKEN'"><animate onbegin="document.title='$TOKEN'"></animate></svg>
<a href="javascript:document.title='$TOKEN'">here</a>
<iframe srcdoc="<script>parent.document.title='$TOKEN'</script>"></iframe>
<object data="data:text/html,$TOKEN"></object><embed src="data:text/html,$TOKEN">
<form action="http://127.0.0.1:$TCP/$TOKEN"><input autofocus onfocus="document.title='$TOKEN'"></form>
<details open ontoggle="document.title='$TOKEN'"><summary>more</summary></details>
<style>body { background: url("http://127.0.0.1:$TCP/$TOKEN") }</style>
<link rel="stylesheet" href="http://127.0.0.1:$TCP/$TOKEN"><meta http-equiv="refresh" content="0;url=//$TOKEN">
<math><mtext><table><mglyph><style><img src=x onerror="document.title='$TOKEN'"></style></mglyph></table></mtext></math>
"""


@submission("script", "mean", "norm")
def script_in_text(draft):
    """script in its own words: markdown, raw cells, the written answer, attachments"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"], why="Because.\n" + PAYLOADS)
    draft.add(
        PAYLOADS + "\n[link](javascript:alert('$TOKEN'))\n\n$$\\href{javascript:'$TOKEN'}{x}$$", cell_type="markdown"
    )
    draft.add('# </code></pre><script>document.title = "$TOKEN"</script>')
    draft.add(f'"""{PAYLOADS}"""')


@submission("script", "mean", "norm")
def script_in_outputs(draft):
    """script in what cells put out: HTML, JavaScript, SVG, LaTeX, Markdown, widgets, errors"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add(
        f'''
from IPython.display import display
payload = """{PAYLOADS}"""
for kind in ("text/html", "image/svg+xml", "text/markdown", "text/latex", "text/plain", "image/png", "image/jpeg",
             "application/javascript", "application/vnd.jupyter.widget-view+json", "text/vnd.mermaid"):
    data = payload
    if kind == "application/javascript":
        data = "document.title = '$TOKEN'"
    if kind == "image/svg+xml":
        data = "<svg xmlns='http://www.w3.org/2000/svg'>" + payload + "</svg>"
    if kind.startswith("image/p") or kind.endswith("jpeg"):
        data = '"><script>document.title="$TOKEN"</script><img src="'
    if kind.endswith("json"):
        data = {{"model_id": payload, "version_major": 2, "version_minor": 0}}
    display({{kind: data}}, raw=True, metadata={{kind: {{"width": '1" onload="document.title=$TOKEN'}}}})
print(payload)
'''
    )
    draft.add(f'raise Exception("""\\x1b[31m{PAYLOADS}\\x1b[0m""")')
    draft.add(f'class E(Exception):\n    pass\n\nE.__name__ = E.__qualname__ = """{PAYLOADS}"""\nraise E', "bisect")
    draft.write(bisect=f'def bisect(f, a, b):\n    raise Exception("""{PAYLOADS}""")')


@submission("script", "mean", "norm")
def script_in_metadata(draft):
    """script in ids, tags, names and the language of the notebook"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    payload = draft.fill("\"><script>document.title='$TOKEN'</script>")
    draft.add("1")
    draft.notebook.cells[-1].metadata |= {"tags": [payload], "name": payload, "id": payload, "collapsed": payload}
    draft.notebook.metadata |= {"title": payload, "authors": [{"name": payload}], "widgets": {"x": {"state": payload}}}
    draft.notebook.metadata["language_info"] = {
        "name": payload,
        "pygments_lexer": payload,
        "codemirror_mode": payload,
        "file_extension": ".html",
    }


# ---- odd, and honest -------------------------------------------------------------------------------------------------


@submission("odd", *RIGHT)
def doubled_cell(draft):
    """an answer and its test, copied with everything that marks them"""
    draft.write(**RIGHT)
    for name in ("norm_test", "norm"):
        draft.notebook.cells.insert(7, copy.deepcopy(draft.cell(name)))


@submission("odd", *RIGHT)
def stripped_metadata(draft):
    """an editor took all metadata away"""
    draft.write(**RIGHT)
    for cell in draft.notebook.cells:
        cell.metadata.clear()


@submission("odd", *RIGHT)
def deleted_tests(draft):
    """tests and given cells deleted, by an honest student"""
    draft.write(**RIGHT)
    kept = [cell for cell in draft.notebook.cells if not cell.metadata.nbgrader.locked]
    draft.notebook.cells = kept


@submission("odd", *RIGHT)
def from_colab(draft):
    """Colab's form: ids of its own, form lines, no mark of nbgrader's"""
    draft.write(**RIGHT)
    for number, cell in enumerate(draft.notebook.cells):
        name = cell.metadata.nbgrader.grade_id
        cell.metadata = {"id": f"zX{number}kQ", "colab": {"base_uri": "https://localhost:8080/"}, "cellView": "form"}
        if cell.cell_type == "code" and name in RIGHT:
            cell.source = f"#@title {name} {{ display-mode: 'form' }}\n{cell.source}"
        cell.pop("id")
    draft.notebook.nbformat_minor = 0
    draft.notebook.metadata["colab"] = {"provenance": []}


@submission("odd", *RIGHT)
def windows_line_ends(draft):
    """CRLF, in the file and in its cells"""
    draft.write(**RIGHT)
    for cell in draft.notebook.cells:
        cell.source = cell.source.replace("\n", "\r\n")
    draft.path.write_bytes(nbformat.writes(draft.notebook).replace("\n", "\r\n").encode())


@submission("odd", *RIGHT)
def old_format(draft):
    """saved in format 3"""
    draft.write(**RIGHT)
    with warnings.catch_warnings(action="ignore"):
        nbformat.write(nbformat.convert(draft.notebook, 3), draft.path, version=3)


@submission("odd", "mean", "norm", "bisect")
def cut_off(draft):
    """a file that ends in the middle"""
    draft.write(**RIGHT)
    text = nbformat.writes(draft.notebook)
    draft.path.write_text(text[: text.index("def primes")])


@submission("odd", *RIGHT)
def another_encoding(draft):
    """saved in latin-1"""
    draft.write(**RIGHT)
    draft.write(mean="# à vérifier\n" + RIGHT["mean"])
    draft.path.write_bytes(nbformat.writes(draft.notebook).encode("latin-1"))


@submission("odd")
def empty_file(draft):
    """an empty file"""
    draft.path.write_bytes(b"")


@submission("odd")
def empty_folder(draft):
    """a folder with nothing in it"""
    draft.save = lambda: None


@submission("odd", *RIGHT)
def two_notebooks(draft):
    """two notebooks, of which one is the assignment's, and not by its name"""
    draft.write(**RIGHT)
    draft.file("Untitled.ipynb", nbformat.writes(nbformat.v4.new_notebook()))
    draft.file("Copy of problems (1).ipynb", nbformat.writes(draft.notebook))
    draft.save = lambda: None


@submission("odd", *RIGHT)
def sixty_megabytes(draft):
    """a file of 60 MB, nearly all of it outputs"""
    draft.write(**RIGHT)
    output = nbformat.v4.new_output("display_data", data={"text/plain": "x" * 60_000_000})
    draft.cell("given").outputs = [output]


@submission("odd", *RIGHT)
def pipes_and_large_files(draft):
    """a named pipe, a socket's name and 300 MB of nothing beside the notebook"""
    draft.write(**RIGHT)
    os.mkfifo(draft.folder / "data.csv")
    with open(draft.folder / "large.bin", "wb") as file:
        file.truncate(300 << 20)


@submission("odd", "mean", "norm")
def slow_to_show(draft):
    """texts and HTML that take programs ages to lay out"""
    draft.write(mean=RIGHT["mean"], norm=RIGHT["norm"])
    draft.add("|a|b|\n|-|-|\n" + "|a|b|\n" * 20_000, cell_type="markdown")
    draft.add("\\begin{a}" * 20_000 + "[" * 20_000, cell_type="markdown")
    draft.add("<b>" * 20_000 + "".join(f"<i class={i}>" for i in range(5_000)), cell_type="markdown")
    draft.add("from IPython.display import HTML\nHTML('<div>' * 50_000 + '<b>' * 50_000 + '&amp;' * 50_000)")
    draft.add("'" + "x" * 3_000_000 + "'\n" + "(" * 90)


# ---- aimed at the way that this grader works -------------------------------------------------------------------------


@submission("protocol")
def forges_frames(draft):
    """writes answers of its own into every open file"""
    draft.write(
        mean="""
import json, os, struct

def mean(values):
    for message in ({"ok": 2}, {"value": 2}, ["value", 2], {"status": "ok", "passed": True}):
        text = json.dumps(message).encode()
        for frame in (text + b"\\n", struct.pack("!I", len(text)) + text, struct.pack("<Q", len(text)) + text):
            for number in range(3, 64):
                try:
                    os.set_blocking(number, False)
                    os.write(number, frame)
                except OSError:
                    pass
    raise ValueError
"""
    )


@submission("protocol", "mean")
def calls_back_without_end(draft):
    """calls the function that it is given ten million times, and with arguments of every kind"""
    draft.write(
        mean=RIGHT["mean"],
        bisect="""
def bisect(f, a, b):
    for value in (float("nan"), "x" * 10_000_000, [[]] * 1000, None, {}, lambda x: f(x), f, bisect):
        try:
            f(value)
        except Exception as error:
            last = error
    for _ in range(10_000_000):
        f(1.0)
    return 1.0
""",
    )


@submission("protocol", "mean")
def calls_back_later(draft):
    """keeps the function that it is given, and calls it from another test, a thread and a cell"""
    draft.write(
        mean=RIGHT["mean"],
        bisect="""
import threading
kept = []

def bisect(f, a, b):
    kept.append(f)
    threading.Thread(target=lambda: [f(1.0) for _ in range(10_000)], daemon=True).start()
    return f(a)
""",
        primes="def primes(n):\n    return [kept[-1](0.5), kept[-1](n)]",
    )
    draft.add("kept and kept[0](1.0)")
