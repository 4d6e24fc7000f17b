"""What came out: grades.csv and a table, read from nbgrader's gradebook."""

import csv

import nbformat
from nbgrader.api import MissingEntry

HEAD = ["student", "assignment", "score", "max_score", "written_pending", "problem"]


def write_grades(course, submissions):
    """Write `course`/grades.csv, a row a submission, and return the rows (dicts).

    `score` counts what is graded so far, `written_pending` the points of written answers that nobody has read yet; both
    and the exercises' points are empty where the submission could not be graded. A column an exercise, named
    lab/exercise.
    """
    with course.api.gradebook as gradebook:
        rows = [_row(course, gradebook, submission) for submission in submissions]
    exercises = [
        f"{lab}/{name}"
        for lab in course.labs
        if any(s.lab == lab for s in submissions)
        for name in _graded(course, lab)
    ]
    with open(course.folder / "grades.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*HEAD, *exercises], restval="")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return rows


def summary(rows):
    """The rows as a table for people."""
    width = max([len("student"), *(len(row["student"]) for row in rows)])
    labs = max([len("assignment"), *(len(row["assignment"]) for row in rows)])
    lines = [f"{'student':{width}}  {'assignment':{labs}}  {'score':>11}  to read"]
    for row in rows:
        line = f"{row['student']:{width}}  {row['assignment']:{labs}}  "
        score = f"{row['score']:g} of {row['max_score']:g}" if row["score"] != "" else "-"
        pending = f"{row['written_pending']:g}" if row["written_pending"] else ""
        lines.append(f"{line}{score:>11}  {pending:>7}  {row['problem']}".rstrip())
    return "\n".join(lines)


def _row(course, gradebook, submission):
    row = dict.fromkeys(HEAD, "") | {"student": submission.student, "assignment": submission.lab}
    row["problem"] = submission.problem
    if submission.problem:
        return row
    try:
        record = gradebook.find_submission(submission.lab, submission.student)
    except MissingEntry:
        return row | {"problem": "Not graded yet."}
    grades = {grade.name: grade for notebook in record.notebooks for grade in notebook.grades}
    pending = {name for name, grade in grades.items() if grade.needs_manual_grade}
    row |= {"score": record.score, "max_score": record.max_score}
    row["written_pending"] = sum(grades[name].max_score for name in pending)
    for name, grade in grades.items():
        row[f"{submission.lab}/{exercise_name(name)}"] = "" if name in pending else grade.score
    return row


def _plain(value):
    """A number without superfluous zeros: 3, not 3.0."""
    return f"{value:g}" if isinstance(value, float) else value


def exercise_name(grade_id):
    """The exercise that a graded cell belongs to: `q_sample_test` and `q_sample` are q_sample."""
    return grade_id.removesuffix("_test")


def _graded(course, lab):
    """A lab's exercises and written questions, in the order of the notebook."""
    notebook = nbformat.read(course.path("source", ".", lab), as_version=4)
    metadata = [cell.metadata.get("nbgrader", {}) for cell in notebook.cells]
    return [exercise_name(data["grade_id"]) for data in metadata if data.get("grade")]
