"""A small made-up class to try grading on: `python -m course_utils.grading.demo --course FOLDER`.

Its submissions are made from the labs' own sources and the exercises' known misconceptions.
"""

import argparse
import re
import sys
from pathlib import Path

from nbformat.v4 import new_code_cell

from course_utils.authoring import AuthoringError, source_notebook, student_notebook
from course_utils.authoring.notebook import to_text
from course_utils.exercises import EXERCISES

from .course import Course, GradingError

LAB = "07_epipolar"
CRASH = "print(1 / 0)  # a crash, on purpose"
CLASS = {
    "demo_ada": "everything right",
    "demo_blaise": "handed in as it was handed out",
    "demo_carl": "one misconception, the rest right",
    "demo_dorothy": "the first half solved",
    "demo_emmy": "all right, but one cell crashes",
    "demo_felix": "a file that was cut off",
    "demo_grace": "everything right, saved by an editor that drops nbgrader's marks",
    "demo_mallory": "no answer, but code that looks for the tests and for your files",
}
PRYING = """\
from pathlib import Path

print(sorted(str(path) for path in Path.home().glob("*"))[:5])
print([str(path) for path in Path("/").rglob("gradebook.db")][:5], [path.name for path in Path(".").glob("*")])
"""


def right_answers(lab):
    """The text of each answer cell of the lab at path `lab`, code and written, as a good student has it."""
    answers = {}
    for cell in source_notebook(lab).cells:
        data = cell.metadata.get("nbgrader", {})
        if data.get("solution"):
            answers[data["grade_id"]] = re.sub(r"^\s*### (BEGIN|END) SOLUTION\n?", "", cell.source, flags=re.M)
    return answers


def exercise_ids(lab):
    """Which exercise each answer cell of code is graded by: {"q_sample": "ddpm_2d.q_sample"}."""
    found = {}
    for cell in source_notebook(lab).cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if grade_id.endswith("_test"):
            found[grade_id.removesuffix("_test")] = re.search(r"\bgrade\(\s*[\"']([^\"']+)", cell.source)[1]
    return found


def misconception(exercise_id, name):
    """The text of an answer cell that holds a known misconception."""
    exercise = EXERCISES[exercise_id]
    return exercise.written(exercise.misconceptions[name])


def submission(lab, answers):
    """The student's notebook of the lab at path `lab`, with `answers` (grade_id -> text) written into its cells."""
    notebook = student_notebook(lab)
    for cell in notebook.cells:
        text = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        if text is not None:
            marker = cell.source.split("\n")[0]  # "# Exercise 3.2 (q_sample)" stays, whatever is written below
            cell.source = text if text.startswith(marker) else f"{marker}\n{text}"
    return notebook


def demo_submissions(lab):
    """The text of each made-up student's notebook file of the lab at path `lab`."""
    right, graded_by = right_answers(lab), exercise_ids(lab)
    code = list(graded_by)
    middle = code[len(code) // 2]
    wrong = misconception(graded_by[middle], next(iter(EXERCISES[graded_by[middle]].misconceptions)))
    answers = {
        "demo_ada": right,
        "demo_blaise": {},
        "demo_carl": right | {middle: wrong},
        "demo_dorothy": {name: right[name] for name in code[: len(code) // 2]},
        "demo_emmy": right | {middle: f"{CRASH}\n\n{right[middle]}"},
    }
    texts = {student: to_text(submission(lab, given)) for student, given in answers.items()}
    texts["demo_felix"] = texts["demo_ada"][: len(texts["demo_ada"]) // 2]
    texts["demo_grace"] = to_text(_without_marks(submission(lab, right)))
    texts["demo_mallory"] = to_text(_with_cell(submission(lab, {}), PRYING))
    return texts


def _without_marks(notebook):
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)
    return notebook


def _with_cell(notebook, text):
    notebook.cells.insert(len(notebook.cells) // 2, new_code_cell(text))
    return notebook


def make_class(folder, repository=None, labs=None):
    """Write the made-up class's submissions of these labs (default: of every one) into `folder`/submitted.

    Raises GradingError where that holds other submissions (a made-up class doesn't mix with a real one), or where there
    is no such lab.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    course = Course(folder, repository)
    others = sorted({path.name for path in (course.folder / "submitted").glob("*/")} - set(CLASS))
    if others:
        raise GradingError(
            f"{course.folder / 'submitted'} holds submissions of {', '.join(others[:5])}: "
            "choose another folder for the made-up class, as in `make demo-class COURSE=demo`."
        )
    for name in labs or course.labs:
        if name not in course.labs:
            raise GradingError(f"There is no lab {name!r}. The course has: {', '.join(course.labs)}.")
        for student, text in demo_submissions(course.labs[name]).items():
            path = course.path("submitted", student, name) / f"{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")


def main():
    parser = argparse.ArgumentParser(prog="python -m course_utils.grading.demo", description=__doc__)
    parser.add_argument("--course", required=True, metavar="FOLDER", help="where to make the class")
    parser.add_argument("--lab", metavar="NAME", help=f"of which lab, or `all` (default: {LAB})", default=LAB)
    arguments = parser.parse_args()
    try:
        make_class(arguments.course, labs=None if arguments.lab == "all" else [arguments.lab])
    except (GradingError, AuthoringError) as error:
        sys.exit(str(error))
    for student, what in CLASS.items():
        print(f"{student:14}{what}")
    print(f"Grade them with `make grade COURSE={arguments.course}`.")


if __name__ == "__main__":
    main()
