"""What students handed in: submitted/<student>/<lab>/<lab>.ipynb, and what is wrong with it before it is run."""

import json
from dataclasses import dataclass

import nbformat

from .course import GradingError

LAYOUT = "submitted/<student>/<assignment>/<assignment>.ipynb"


@dataclass
class Submission:
    """One student's notebook of one lab; `problem` says why it can't be graded, in words for the student."""

    student: str
    lab: str
    problem: str = ""


def find_submissions(course, lab=None, student=None):
    """The class's submissions in order, of one lab or one student if given.

    Raises GradingError where there are none, or where the lab or the student is unknown.
    """
    if lab and lab not in course.labs:
        raise GradingError(f"There is no assignment {lab!r}. The course has: {', '.join(course.labs)}.")
    submitted = course.folder / "submitted"
    found = [
        Submission(path.parent.name, path.name)
        for path in sorted(submitted.glob("*/*"))
        if path.is_dir() and not path.name.startswith(".")
    ]
    if not found:
        raise GradingError(
            f"Nothing is handed in: {submitted} is empty or missing. Put notebooks at {LAYOUT}, "
            "or make a class to try it on with `make demo-class`."
        )
    if student and student not in {submission.student for submission in found}:
        students = ", ".join(sorted({submission.student for submission in found}))
        raise GradingError(f"There is no submission of {student!r}. There are: {students}.")
    found = [s for s in found if lab in (None, s.lab) and student in (None, s.student)]
    if not found:
        raise GradingError(f"{student or 'Nobody'} has handed in {'no ' if student else ''}{lab}.")
    for submission in found:
        submission.problem = problem(course, submission)
    return found


def problem(course, submission):
    """Why a submission can't be graded, or the empty string."""
    if submission.lab not in course.labs:
        return f"There is no assignment {submission.lab!r} (the course has: {', '.join(course.labs)})."
    path = course.path("submitted", submission.student, submission.lab)
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob("*.ipynb"))
        if others:
            return f"The notebook must be called {path.name}; handed in was {', '.join(others)}."
        return f"No notebook was handed in: {path.name} is missing."
    content = path.read_bytes()
    if not content.strip():
        return "The file is empty: save the notebook and hand it in again."
    try:
        notebook = nbformat.from_dict(json.loads(content.decode("utf-8")))
        nbformat.validate(notebook)
    except UnicodeDecodeError:
        return "The file is not text in UTF-8, so it is not a notebook: download it anew as .ipynb."
    except json.JSONDecodeError as error:
        return f"The file is damaged or cut off (at line {error.lineno}): download the notebook anew as .ipynb."
    except Exception:  # nbformat's own errors, of many kinds
        return "The file is not a Jupyter notebook: download it anew as .ipynb."
    if not any("nbgrader" in cell.get("metadata", {}) for cell in notebook.get("cells", [])):
        return "The notebook holds none of the assignment's cells: hand in the notebook that was handed out."
    return ""
