"""What came out: grades.csv and a table, read from nbgrader's gradebook."""

import csv
import json
import statistics
import textwrap

from nbgrader.api import MissingEntry

HEAD = ["student", "assignment", "score", "max_score", "late_penalty", "written_pending", "problem", "notes"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_grades(course, submissions):
    """Write `course`/grades.csv, a row a submission, and return the rows (dicts).

    `score` counts what is graded so far, less what lateness costs; `written_pending` are the points that a person has
    still to give. Whatever is not graded is empty, never 0. A column a question, named assignment/question.
    """
    with course.api.gradebook as gradebook:
        rows = [_row(course, gradebook, submission) for submission in submissions]
        used = {submission.assignment for submission in submissions}
        columns = [column for a in gradebook.assignments if a.name in used for column in _columns(a)]
    questions = [column for column in columns if any(column in row for row in rows)]
    part = course.folder / ".grades.csv.part"
    with open(part, "w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, [*HEAD, *questions], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({key: plain(value) for key, value in row.items()} for row in rows)
    part.replace(course.folder / "grades.csv")
    return rows


def summary(rows):
    """The rows as a table for people, and below it what was done."""
    rows = [row | {"student": shown(row["student"])} for row in rows]
    width = max([len("student"), *(len(row["student"]) for row in rows)])
    names = max([len("assignment"), *(len(row["assignment"]) for row in rows)])
    lines = [f"{'student':{width}}  {'assignment':{names}}  {'score':>11}  to read"]
    for row in rows:
        line = f"{row['student']:{width}}  {row['assignment']:{names}}  "
        score = f"{row['score']:g} of {row['max_score']:g}" if row["score"] != "" else "-"
        pending = f"{row['written_pending']:g}" if row["written_pending"] else ""
        remark = textwrap.shorten(row["problem"] or row["notes"], 70, placeholder=" ...")
        lines.append(f"{line}{score:>11}  {pending:>7}  {remark}".rstrip())
    return "\n".join([*lines, "", totals(rows)])


def totals(rows):
    """In a sentence each: how many were graded now, what went wrong, what is left to read, and how long one took."""
    now = [row["seconds"] for row in rows if row["seconds"] is not None]
    problems, to_read = sum(bool(row["problem"]) for row in rows), sum(bool(row["written_pending"]) for row in rows)
    took = f", {statistics.mean(now):.1f} s each in its worker" if now else ""
    lines = [f"{len(now)} of {len(rows)} graded in this run{took}; the others were up to date."]
    if len(now) == len(rows):
        lines = [f"{len(now)} graded{took}."]
    lines += [f"{problems} could not be graded: the column `problem` says why."] if problems else []
    lines += [f"{to_read} with answers to be read by a person: `make lab` opens formgrader."] if to_read else []
    return "\n".join(lines)


def _row(course, gradebook, submission):
    row = dict.fromkeys(HEAD, "") | {"student": submission.student, "assignment": submission.assignment}
    row |= {"problem": submission.problem, "notes": " ".join(submission.notes), "seconds": submission.seconds}
    if submission.problem:
        return row
    try:
        record = gradebook.find_submission(submission.assignment, submission.student)
    except MissingEntry:
        return row | {"problem": "Not graded yet."}
    row["notes"] = row["notes"] or _notes(course, submission)
    grades = [grade for notebook in record.notebooks for grade in notebook.grades]
    penalty = record.late_submission_penalty or 0
    row |= {"score": record.score - penalty, "max_score": record.max_score, "late_penalty": penalty or ""}
    row["written_pending"] = sum(grade.max_score for grade in grades if grade.needs_manual_grade)
    for grade in grades:
        row[_column(record.assignment, grade)] = "" if grade.needs_manual_grade else grade.score
    return row


def _notes(course, submission):
    """What was put right when an up-to-date submission was graded, from its autograded notebook."""
    folder = course.path("autograded", submission.student, submission.assignment)
    for path in sorted(folder.glob("*.ipynb")):
        return " ".join(json.loads(path.read_text("utf-8"))["metadata"].get("grading", {}).get("notes", []))
    return ""


def _columns(assignment):
    """An assignment's columns, in the order of its notebooks."""
    cells = [cell for notebook in assignment.notebooks for cell in [*notebook.grade_cells, *notebook.task_cells]]
    order = {(c.notebook_id, c.name): n for nb in assignment.notebooks for n, c in enumerate(nb.source_cells)}
    cells.sort(key=lambda cell: (cell.notebook.name, order.get((cell.notebook_id, cell.name), 0)))
    return [_named(assignment, cell) for cell in cells]


def _column(assignment, grade):
    return _named(assignment, grade.cell)


def _named(assignment, cell):
    """assignment/question, with the notebook between them where an assignment has several."""
    middle = [cell.notebook.name] if len(assignment.notebooks) > 1 else []
    return "/".join([assignment.name, *middle, question_name(cell.name)])


def plain(value):
    """A number without superfluous zeros; a text that a spreadsheet would take for a formula, with a ' before it."""
    if isinstance(value, float):
        return f"{value:g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def shown(name):
    """The name of a folder on one line of text, whatever it holds."""
    return textwrap.shorten(name if name.isprintable() else ascii(name)[1:-1], 120, placeholder="...") or "..."


def question_name(grade_id):
    """The exercise that a graded cell belongs to: `q_sample_test` and `q_sample` are q_sample."""
    return grade_id.removesuffix("_test")
