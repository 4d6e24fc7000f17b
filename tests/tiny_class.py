"""A tiny assignment of ordinary nbgrader cells, and an engine that executes it in a moment: for grading's mechanics.

The real engine has tests of its own (test_grading_engine.py, test_grading_attacks.py).
"""

import contextlib
import copy
import io
import os
import signal
import time
import traceback
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils.authoring.labs import release
from course_utils.authoring.notebook import to_text

SQUARES = "def squares(n):\n    return [i**2 for i in range(n)]"
WRONG = "def squares(n):\n    return [0, 1]"
CUBES = "def cubes(n):\n    return [i**3 for i in range(n)]"


def _cell(make, grade_id, source, **claims):
    data = {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": False,
        "solution": False,
        "locked": False,
        "task": False,
    }
    return make(source, metadata={"nbgrader": data | claims}, id=grade_id.replace("_", "-"))


def _solution(text, body):
    return f"{text}\n    ### BEGIN SOLUTION\n    {body}\n    ### END SOLUTION"


def source():
    """The instructor's notebook: two functions, their tests with hidden parts (2 points and 1), and a question (3)."""
    cells = [
        new_markdown_cell("# Powers", id="title"),
        new_code_cell("import math", id="imports"),
        _cell(new_code_cell, "squares", _solution("def squares(n):", "return [i**2 for i in range(n)]"), solution=True),
        _cell(
            new_code_cell,
            "squares_test",
            "assert squares(2) == [0, 1]\n### BEGIN HIDDEN TESTS\n"
            "assert squares(5) == [0, 1, 4, 9, 16], f'the hidden list, not {squares(5)}'\n### END HIDDEN TESTS",
            grade=True,
            locked=True,
            points=2,
        ),
        new_markdown_cell("The same with cubes.", id="text"),
        _cell(new_code_cell, "cubes", _solution("def cubes(n):", "return [i**3 for i in range(n)]"), solution=True),
        _cell(new_code_cell, "cubes_test", "assert cubes(3) == [0, 1, 8]", grade=True, locked=True, points=1),
        new_markdown_cell("Which grows faster, and why?", id="question"),
        _cell(
            new_markdown_cell,
            "why",
            "### BEGIN SOLUTION\nCubes, by a factor n.\n### END SOLUTION",
            grade=True,
            solution=True,
            points=3,
        ),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


RELEASED = release(source(), "powers")


def answers(squares=SQUARES, cubes=CUBES, why="Cubes."):
    """A submission; None leaves an answer as it was handed out."""
    notebook = copy.deepcopy(RELEASED)
    for cell in notebook.cells:
        text = {"squares": squares, "cubes": cubes, "why": why}.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        cell.source = text or cell.source
    return notebook


def cell(notebook, grade_id):
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def make_course(folder, notebooks=("powers",), assignment="powers"):
    """A course folder with this assignment."""
    for name in notebooks:
        path = Path(folder, "source", assignment, f"{name}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_text(source()), "utf-8")
    return Path(folder)


def hand_in(folder, student, content, name="powers.ipynb", assignment="powers"):
    """Write a notebook, or a file's text or bytes, to submitted/."""
    path = Path(folder, "submitted", student, assignment, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = to_text(content) if isinstance(content, nbformat.NotebookNode) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class QuickEngine:
    """Executes cells in the worker itself; a cell may kill it (die) or put out what it likes (show)."""

    diary = None  # a path: who was executed is written down there
    seconds = 0.0

    def __init__(self, unsafe=False):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    close = __exit__

    def start(self):
        pass

    def execute(self, notebook, files=None, limits=None, source=None):
        notebook, shown = copy.deepcopy(notebook), []
        names = {"die": lambda: os.kill(os.getpid(), signal.SIGKILL), "show": shown.append}
        time.sleep(self.seconds)
        for number, code in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
            code.execution_count, code.outputs, printed = number, [], io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    exec(code.source, names)
            except Exception as error:
                line = traceback.extract_tb(error.__traceback__)[1].lineno  # [0] is exec
                lines = [f"----> {line} {code.source.splitlines()[line - 1]}", f"{type(error).__name__}: {error}"]
                failed = new_output("error", ename=type(error).__name__, evalue=str(error), traceback=lines)
                code.outputs.append(failed)
            code.outputs += [nbformat.from_dict(output) for output in shown]
            shown.clear()
            if printed.getvalue():
                code.outputs.insert(0, new_output("stream", name="stdout", text=printed.getvalue()))
        if self.diary:
            with open(self.diary, "a") as file:
                file.write(f"{names.get('me', '')}\n")
        return notebook
