"""Notebooks for tests of the engine: cells as nbgrader marks them, and one engine for a file of tests."""

import json

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_utils.grading.execute import Engine, Limits, SandboxError

QUICK = Limits(cell_seconds=60, notebook_seconds=600)


def plain(text):
    return new_code_cell(text)


def answer(text, name="answer"):
    data = {"schema_version": 3, "grade_id": name, "grade": False, "solution": True, "locked": False, "task": False}
    return new_code_cell(text, metadata={"nbgrader": data})


def graded(text, name="tests"):
    data = {"schema_version": 3, "grade_id": name, "grade": True, "solution": False, "locked": True, "task": False}
    return new_code_cell(text, metadata={"nbgrader": data | {"points": 1}})


def given(text, name="given"):
    data = {"schema_version": 3, "grade_id": name, "grade": False, "solution": False, "locked": True, "task": False}
    return new_code_cell(text, metadata={"nbgrader": data})


def notebook(*cells):
    """The cells as a notebook, each with an id of its own."""
    for place, cell in enumerate(cells):
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader["grade_id"] += f"_{place}"
    return new_notebook(cells=list(cells))


def with_answers(source, *answers):
    """The instructor's notebook `source` with other answers in its answer cells, in order."""
    copy = json.loads(json.dumps(source))
    cells = [c for c in copy["cells"] if c["metadata"].get("nbgrader", {}).get("solution")]
    for cell, text in zip(cells, answers, strict=True):
        cell["source"] = text
    return copy


def passed(executed):
    """Which test cells passed, in order."""
    graded = [c for c in executed.cells if c.metadata.get("nbgrader", {}).get("grade")]
    return [not any(o.output_type == "error" for o in c.outputs) for c in graded]


def text_of(cell):
    """All that a cell shows, as text."""
    return "".join(o.get("text") or o.get("evalue") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


def shared_engine(**settings):
    """A fixture's engine; skips where there can be no sandbox."""
    try:
        engine = Engine(**settings)
    except SandboxError as error:
        pytest.skip(str(error))
    with engine:
        yield engine
