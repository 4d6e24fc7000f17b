"""A class to attack: two small assignments with hidden tests, and a place that sees what an attack reaches.

`problems` needs numpy alone and has every kind of cell that nbgrader knows; `lab` is a lab of the course's.
Everything that an attack may reach is the test's own: canaries to read, folders to write in, sockets to call.
"""

import contextlib
import html.parser
import json
import os
import re
import signal
import socket
import string
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import nbformat
from lab_tools import ROOT, SMALL_LAB, grade_id, small_repository
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.api import Gradebook, MissingEntry

from course_utils.authoring import source_notebook
from course_utils.authoring.labs import release
from course_utils.authoring.notebook import to_text

PROBLEMS, LAB = "problems", "03_small"
STUB = "raise NotImplementedError()"

CELLS = [
    ("text", "intro", "# Problems\n\nSeven small functions, a number and a few words."),
    (
        "given",
        "given",
        '''
import math

import numpy as np


angles = np.linspace(0.1, 3, 20)


def close(got, expected, tolerance=1e-9):
    """Are two numbers the same?"""
    return abs(got - expected) <= tolerance
''',
    ),
    ("answer", "mean", 'def mean(values):\n    """The mean of a list of numbers."""\n    '),
    (
        "tests 2",
        "mean_test",
        """
import contextlib
import io

assert close(mean([1, 2, 3]), 2)
### BEGIN HIDDEN TESTS
from statistics import fmean

for values in ([4.5, -1, 7], [10], list(range(100))):
    expected = fmean(values)
    assert close(mean(values), expected), f"{expected} asked for"  # $SOURCE_CANARY
### END HIDDEN TESTS
""",
    ),
    ("answer", "norm", 'def norm(x):\n    """The Euclidean norm of a vector."""\n    '),
    (
        "tests 3",
        "norm_test",
        """
x = np.array([3.0, 4.0])
length = norm(x)
assert np.isclose(length, np.sqrt(np.sum(x**2)))
### BEGIN HIDDEN TESTS
for seed in range(3):
    x = np.random.default_rng(seed).normal(size=5)
    length = norm(x)
    assert np.isclose(length, np.sqrt(np.sum(x**2)))
### END HIDDEN TESTS
""",
    ),
    ("answer", "bisect", 'def bisect(f, a, b):\n    """A root of f between a and b."""\n    '),
    (
        "tests 2",
        "bisect_test",
        """
root = bisect(lambda x: x**2 - 2, 0, 2)
assert math.isclose(root, math.sqrt(2), abs_tol=1e-6)
### BEGIN HIDDEN TESTS
expected = 0.7390851332151607


def f(x):
    return math.cos(x) - x


assert math.isclose(bisect(f, 0, 1), expected, abs_tol=1e-6)
### END HIDDEN TESTS
""",
    ),
    ("answer", "primes", 'def primes(n):\n    """The prime numbers below n, in order."""\n    '),
    (
        "tests 4",
        "primes_test",
        """
points = 0
points += list(primes(10)) == [2, 3, 5, 7]
### BEGIN HIDDEN TESTS
points += list(primes(2)) == []
points += sum(primes(100)) == 1060
points += len(list(primes(1000))) == 168
### END HIDDEN TESTS
points
""",
    ),
    ("answer", "answer", "# How many edges has a cube? An int.\nanswer = ..."),
    (
        "tests 1",
        "answer_test",
        """
assert isinstance(answer, int)
### BEGIN HIDDEN TESTS
assert answer == 12
### END HIDDEN TESTS
""",
    ),
    ("answer", "Stack", 'class Stack:\n    """push(item), pop(), len()."""\n    '),
    (
        "tests 2",
        "Stack_test",
        """
stack = Stack()
stack.push(1)
stack.push("two")
assert len(stack) == 2
### BEGIN HIDDEN TESTS
assert [stack.pop(), stack.pop(), len(stack)] == ["two", 1, 0]
### END HIDDEN TESTS
""",
    ),
    ("answer", "greet", 'def greet(name):\n    """Print a greeting."""\n    '),
    (
        "tests 1",
        "greet_test",
        """
with contextlib.redirect_stdout(io.StringIO()) as printed:
    greet("Ada")
assert printed.getvalue() == "Hello, Ada!\\n"
### BEGIN HIDDEN TESTS
with contextlib.redirect_stdout(io.StringIO()) as printed:
    greet("Emmy")
assert "Emmy" in printed.getvalue()
### END HIDDEN TESTS
""",
    ),
    ("answer", "double", 'def double(x):\n    """Twice an array."""\n    '),
    (
        "tests 1",
        "double_test",
        """
assert all(map(lambda x: np.allclose(double(x), 2 * x), [angles, angles[::2]]))
### BEGIN HIDDEN TESTS
assert all(map(lambda x: np.allclose(double(x), 2 * x), [angles + angles]))
### END HIDDEN TESTS
""",
    ),
    ("text", "question", "Why does bisection always end?"),
    ("essay 3", "why", "The interval is halved in every step (2); floats are finitely many (1)."),
]

RIGHT = {
    "mean": "def mean(values):\n    return sum(values) / len(values)",
    "norm": "def norm(x):\n    return float(np.sqrt(np.sum(x * x)))",
    "bisect": """
def bisect(f, a, b):
    for _ in range(60):
        middle = (a + b) / 2
        if (f(a) > 0) == (f(middle) > 0):
            a = middle
        else:
            b = middle
    return (a + b) / 2
""",
    "primes": "def primes(n):\n    return [p for p in range(2, n) if all(p % d for d in range(2, int(p**0.5) + 1))]",
    "answer": "answer = 12",
    "Stack": """
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()

    def __len__(self):
        return len(self.items)
""",
    "double": "def double(x):\n    return x + x",
    "greet": 'def greet(name):\n    print(f"Hello, {name}!")',
}
LAB_RIGHT = {
    "alpha_bar": "def alpha_bar(beta):\n    return (1 - beta).cumprod(0)",
    "q_sample": """
def q_sample(x0, k, noise, alpha_bar):
    ab = alpha_bar[k].to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1))
    return ab.sqrt() * x0 + (1 - ab).sqrt() * noise
""",
}
WORTH = {name: int(kind.split()[1]) for kind, name, _ in CELLS if kind.startswith("tests")}
LAB_WORTH = {"alpha_bar_test": 1, "q_sample_test": 2}
ALL = sum(WORTH.values())


def deserved(*answers, worth=WORTH):
    """The points of these answers, all others being wrong: {"mean_test": 2, "norm_test": 0, ...}."""
    return {name: points if name.removesuffix("_test") in answers else 0 for name, points in worth.items()}


def source(place):
    """The instructor's notebook of `problems`."""
    cells = []
    for kind, name, text in CELLS:
        make = new_code_cell if kind.split()[0] in ("given", "answer", "tests") else new_markdown_cell
        if kind == "answer" and name != "answer":
            body = RIGHT[name].strip().partition("\n")[2].strip("\n")
            text += f"### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
        elif kind == "answer":
            text = f"# How many edges has a cube? An int.\n### BEGIN SOLUTION\n{RIGHT[name]}\n### END SOLUTION"
        data = {"grade_id": name, "schema_version": 3, "cell_type": make().cell_type, "task": False}
        data["grade"], data["solution"] = kind.startswith(("tests", "essay")), kind.startswith(("answer", "essay"))
        data["locked"] = not data["solution"]
        if data["grade"]:
            data["points"] = int(kind.split()[1])
        cells.append(make(place.fill(text.strip()), metadata={"nbgrader": data}, id=name.replace("_", "-")))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


class Draft:
    """A submission in the making: the released notebook, and the folder that is handed in with it."""

    def __init__(self, place, student, assignment=PROBLEMS):
        self.place, self.student, self.assignment = place, student, assignment
        self.folder = place.course / "submitted" / student / assignment
        self.folder.mkdir(parents=True)
        self.path = self.folder / f"{assignment}.ipynb"
        self.notebook = nbformat.from_dict(place.released[assignment])
        self.token = place.token(student)

    def cell(self, name):
        """The cell with this grade_id."""
        return next(cell for cell in self.notebook.cells if grade_id(cell) == name)

    def write(self, **answers):
        """Write answers, in which $TOKEN, $COURSE and so on stand for what they name (see Place)."""
        for name, text in answers.items():
            self.cell(name).source = self.fill(text)

    def add(self, text, before=None, cell_type="code"):
        """A further cell, at the end or before the one with this grade_id."""
        make = {"code": new_code_cell, "markdown": new_markdown_cell}[cell_type]
        names = [grade_id(cell) for cell in self.notebook.cells]
        self.notebook.cells.insert(names.index(before) if before else len(names), make(self.fill(text)))

    def file(self, name, content):
        """A further file, handed in beside the notebook."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.fill(content), "utf-8")

    def fill(self, text):
        return self.place.fill(text.strip("\n"), self.student)

    def save(self):
        if not self.path.exists() and not self.path.is_symlink():
            self.path.write_text(json.dumps(self.notebook, indent=1), "utf-8")


class Place:
    """A course folder with canaries around it, and sockets that write down who calls; a context manager.

    What a text may name: $COURSE, $OUTSIDE (a folder beside it), $HOME, $TCP, $TCP6, $UDP (ports), $UNIX (a path),
    $ABSTRACT (an abstract socket's name), $PID (of the test), $TOKEN (told apart for each student).
    """

    def __init__(self, folder, secret="9f27c1"):
        self.folder, self.secret = Path(folder), secret
        self.course, self.outside, self.home = (self.folder / name for name in ("course", "outside", "home"))
        self.canaries = {
            name: f"canary_{name}_{secret}" for name in ("source", "other", "environment", "home", "outside", "memory")
        }
        self.heard, self.signals, self.released = [], [], {}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        for path in (self.course, self.outside, self.home):
            path.mkdir(parents=True)
        self._canaries()
        self._listen()
        before = signal.signal(signal.SIGURG, lambda number, _: self.signals.append(number))
        self.stack.callback(signal.signal, signal.SIGURG, before)
        notebooks = {PROBLEMS: source(self)}
        notebooks[LAB] = source_notebook(small_repository(self.folder / "repository", SMALL_LAB))
        for name, notebook in notebooks.items():
            path = self.course / "source" / name / f"{name}.ipynb"
            path.parent.mkdir(parents=True)
            path.write_text(to_text(notebook), "utf-8")
            self.released[name] = release(notebook, name)
        return self

    def __exit__(self, *_):
        self.stack.close()

    def token(self, student):
        return f"{student}_{self.secret}"

    def fill(self, text, student=""):
        known = {"COURSE": self.course, "OUTSIDE": self.outside, "HOME": self.home, "PID": os.getpid()}
        known |= {"TOKEN": self.token(student), "SOURCE_CANARY": self.canaries["source"]}
        known |= getattr(self, "addresses", {})
        return string.Template(text).safe_substitute(known)

    def _canaries(self):
        (self.outside / "private.txt").write_text(self.canaries["outside"])
        (self.home / "private.txt").write_text(self.canaries["home"])
        known = {"HOME": str(self.home), "COURSE_CANARY": self.canaries["environment"]}
        self.stack.enter_context(mock.patch.dict(os.environ, known))
        self.memory = bytearray(self.canaries["memory"].encode() * 50)

    def _listen(self):
        """Sockets of every family; each writes down what it is sent."""
        unix = str(self.folder / "socket")
        addresses = {"UNIX": unix, "ABSTRACT": f"grading-{self.secret}-{os.getpid()}"}
        wanted = [
            ("TCP", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("TCP6", socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
            ("UDP", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("UNIX", socket.AF_UNIX, socket.SOCK_STREAM, unix),
            ("ABSTRACT", socket.AF_UNIX, socket.SOCK_STREAM, "\0" + addresses["ABSTRACT"]),
        ]
        for name, family, kind, address in wanted:
            listener = socket.socket(family, kind)
            try:
                listener.bind(address)
            except OSError:  # this machine has no IPv6
                addresses[name] = 9
                continue
            if name == "UNIX":
                os.chmod(unix, 0o777)
            if kind == socket.SOCK_STREAM:
                listener.listen(16)
            addresses.setdefault(name, listener.getsockname()[1] if family != socket.AF_UNIX else address)
            threading.Thread(target=self._hear, args=(listener, kind), daemon=True).start()
            self.stack.callback(listener.close)
        self.addresses = addresses

    def _hear(self, listener, kind):
        while True:
            try:
                if kind == socket.SOCK_DGRAM:
                    self.heard.append(listener.recv(1000))
                    continue
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    self.heard.append(connection.recv(1000) or b"?")
            except TimeoutError:
                continue
            except OSError:
                return

    # ---- what an attack reached -------------------------------------------------------------------------------------

    def damage(self, student, graded=None, feedback=None):
        """What `student` did that must not happen, in words: a list, empty where nothing did.

        `graded` is the executed notebook, `feedback` the text of the page that the student gets.
        """
        token, found = self.token(student), []
        if any(token.encode() in text for text in self.heard):
            found.append("called out")
        if any(token in path.name for folder in self.writable() for path in folder.rglob(f"*{token}*")):
            found.append("wrote outside")
        if list(processes(token)):
            found.append("left a process")
        outputs = "\n".join(text_outputs(graded)) if graded else ""
        seen = outputs + (feedback or "")
        found += [f"read {name}" for name, canary in self.canaries.items() if canary[::-1] in seen]
        if f"did:{token}" in outputs:
            found.append(re.search(rf"did:{token}:(.*)", outputs)[1])
        if feedback and token in live(feedback):
            found.append("a script in the feedback")
        return found

    def writable(self):
        """Folders in which an attack may try to leave a file with its token in the name."""
        return self.outside, self.home, self.course / "source", self.course / "submitted", self.course / "autograded"


@dataclass
class Verdict:
    """What a submission got: points more and fewer than it deserves, and the damage that it did, in words."""

    more: float
    fewer: float
    damage: list

    def __bool__(self):
        """Whether all is as it should be."""
        return not (self.more or self.fewer or self.damage)


def judge(place, submission):
    """The Verdict on a graded submission, from the gradebook and the course's folders."""
    got = points(place.course, submission.name, submission.assignment)
    graded, page = (
        place.course / step / submission.name / submission.assignment / f"{submission.assignment}.{ending}"
        for step, ending in (("autograded", "ipynb"), ("feedback", "html"))
    )
    size = graded.stat().st_size if graded.exists() else 0
    graded = nbformat.read(graded, as_version=4) if graded.exists() else None
    page = page.read_text("utf-8") if page.exists() else None
    gaps = {name: got.get(name, 0) - worth for name, worth in submission.points.items()}
    more = sum(got.values()) - sum(got.get(name, 0) for name in submission.points)  # in cells that nobody asked for
    more += sum(gap for gap in gaps.values() if gap > 0)
    fewer = -sum(gap for gap in gaps.values() if gap < 0)
    damage = place.damage(submission.name, graded, page)
    if submission.kind == "feedback" and place.canaries["source"] in (page or ""):
        damage.append("hidden tests in the feedback")
    if size > 40_000_000:
        damage.append(f"left a notebook of {size / 1e6:.0f} MB")
    return Verdict(more, fewer, damage)


def points(course, student, assignment):
    """The points in the gradebook: {"mean_test": 2, ...}; empty where the student has none."""
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        try:
            notebooks = gradebook.find_submission(assignment, student).notebooks
        except MissingEntry:
            return {}
        return {grade.name: grade.score or 0 for notebook in notebooks for grade in notebook.grades}


def text_outputs(notebook):
    """Everything that a notebook's cells put out, as texts."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield str(output.get("text", ""))
            yield "\n".join(map(str, output.get("data", {}).values()))
            yield "\n".join([str(output.get("evalue", "")), *output.get("traceback", [])])


def processes(token):
    """(pid, command line) of every process on this machine whose command line or environment holds `token`."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes()
            if int(path.name) != os.getpid() and token.encode() in command + (path / "environ").read_bytes():
                yield int(path.name), command


# ---- the command, and killing it -------------------------------------------------------------------------------------


def command(place, *options):
    """`python -m course_utils.grading`, started; its processes and folders are known by the place's home."""
    with open(place.folder / "out", "a") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "course_utils.grading", "--course", place.course, *options],
            cwd=ROOT,
            stdout=out,
            stderr=out,
            env=os.environ | {"TMPDIR": str(place.home), "HOME": str(place.home)},
        )


def finished(place):
    """When each submission was finished, of those that are: {student: time in ns}."""
    return {path.stem: path.stat().st_mtime_ns for path in (place.course / ".grading").rglob("*.graded")}


def killed_at(place, more, later=0.0):
    """Start the command, and kill it so many seconds after so many more are finished.

    False where something that was finished already was run again.
    """
    before, process, end = finished(place), command(place), time.monotonic() + 120
    while len(finished(place)) < len(before) + more and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(later)
    process.kill()
    process.wait()
    return before.items() <= finished(place).items()


def nothing_left(place, seconds=20):
    """Whether all processes of the command go within a while, and no folder of theirs stays."""
    end = time.monotonic() + seconds
    while (list(processes(str(place.home))) or list(place.home.glob("grading-*"))) and time.monotonic() < end:
        time.sleep(0.1)
    return not list(processes(str(place.home))) and not list(place.home.glob("grading-*"))


# ---- what a browser would do -----------------------------------------------------------------------------------------


class Live(html.parser.HTMLParser):
    """Collects what a browser would run or fetch on its own: scripts, handlers, frames, addresses."""

    def __init__(self):
        super().__init__()
        self.found, self.inside = [], None

    def handle_starttag(self, tag, attributes):
        self.inside = tag if tag in ("script", "style") else self.inside
        for name, value in attributes:
            fetched = name in ("src", "srcset", "data", "srcdoc", "action", "formaction", "background", "poster")
            runs = name.startswith("on") or (value or "").strip().lower().startswith(("javascript:", "vbscript:"))
            if runs or fetched or name == "style" or tag in ("meta", "base", "link", "object", "embed", "iframe"):
                self.found.append(value or "")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        self.inside = None if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.inside:
            self.found.append(data)


def live(page):
    """The parts of a page that a browser would run or fetch on its own."""
    parser = Live()
    parser.feed(page)
    parser.close()
    return "\n".join(parser.found)
