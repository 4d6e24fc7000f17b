"""What students handed in: a folder a student and assignment."""

import glob
from dataclasses import dataclass, field
from pathlib import Path

from .course import GradingError
from .report import shown

LAYOUT = "submitted/<student>/<assignment>/<assignment>.ipynb"


@dataclass
class Submission:
    """One student's folder of one assignment.

    `problem` says why it can't be graded, `notes` what had to be done so that it could, in words for the student.
    """

    student: str
    assignment: str
    folder: Path
    problem: str = ""
    state: str = ""  # what the grade follows from, as a hash
    notes: list = field(default_factory=list)
    seconds: float | None = None  # that grading took, where it was graded in this run


def find_submissions(course, assignment=None, student=None):
    """The class's submissions in order, of one assignment or one student if given.

    Raises GradingError where there are none, or where the assignment or the student is unknown.
    """
    known = course.assignments  # first of all: who is in the wrong place hears that
    if assignment and assignment not in known:
        raise GradingError(f"There is no assignment {assignment!r}. The course has: {', '.join(known)}.")
    found = [Submission(*names) for names in course.handed_in()]
    if not found:
        empty = f"{course.path('submitted')} is empty or missing. Put notebooks at {LAYOUT}."
        raise GradingError(
            f"Nothing is handed in. {misplaced(course) or empty} `make demo-class` makes a class to try it on."
        )
    if student and student not in {submission.student for submission in found}:
        students = ", ".join(sorted({submission.student for submission in found}))
        raise GradingError(f"There is no submission of {student!r}. There are: {students}.")
    found = [s for s in found if assignment in (None, s.assignment) and student in (None, s.student)]
    if not found:
        raise GradingError(f"{student or 'Nobody'} has handed in {'no ' if student else ''}{assignment}.")
    for submission in found:
        submission.problem = problem(submission, known)
    return found


def misplaced(course):
    """What to do with notebooks that lie above where a submission belongs; the empty string if there are none."""
    top = course.path("submitted")
    found = [name for above in ("*.ipynb", "*/*.ipynb") for name in glob.glob(above, root_dir=top)]
    names = ", ".join(sorted(shown(name) for name in found if (top / name).is_file()))
    return f"Not where a submission belongs, so not graded: {names}. Put notebooks at {LAYOUT}." if names else ""


def problem(submission, assignments):
    """Why a folder can't be graded, seen from outside, or the empty string."""
    if submission.assignment not in assignments:
        return f"There is no assignment {submission.assignment!r} (the course has: {', '.join(assignments)})."
    if submission.folder.is_symlink() or submission.folder.parent.is_symlink():
        return "The submission's folder is a link, and links are not followed."
    if not submission.student.isprintable() or len(submission.student) > 120:
        return "The folder's name is no name of a student: it is too long or holds signs that can't be printed."
    return ""
