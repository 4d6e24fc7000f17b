"""The page that a student gets back: a report, then the notebook as it was run; no hidden test, nothing live.

As nbgrader's preprocessors, so that formgrader's button and `nbgrader generate_feedback` write the same page.
"""

import functools
import hashlib
import json
import re

import nbformat
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import strip_ansi
from nbgrader.preprocessors import ClearHiddenTests, ClearMarkScheme, GetGrades, NbGraderPreprocessor
from nbgrader.utils import is_grade, is_locked, is_solution, is_task
from pygments.formatters import HtmlFormatter
from traitlets import Unicode
from traitlets.config import Config

from .course import TEMPLATES

NO_POINTS = "No points yet."  # how course_utils.exercises.grade begins what it says
VERDICT = ("✓", "✗", "…")  # and how check does
READ_ON = re.compile(r"\s*Read on: (\S+)")
PAGE = re.compile(r"[\w/-]+\.html(#[\w.-]+)?")


class Grades(GetGrades):
    """nbgrader's grades and comments, and which of them a person has still to give."""

    def _get_score(self, cell, resources):
        super()._get_score(cell, resources)
        grade = self.gradebook.find_grade(
            cell.metadata.nbgrader["grade_id"], self.notebook_id, self.assignment_id, self.student_id
        )
        cell.metadata.nbgrader["waiting"] = bool(grade.needs_manual_grade)


class Report(NbGraderPreprocessor):
    """Makes the report of a graded notebook (resources["report"]), and takes out of it what was hidden."""

    website = Unicode("", help="where the course's pages are, for links to read on").tag(config=True)

    def preprocess(self, nb, resources):
        tests, marks = ClearHiddenTests(parent=self), ClearMarkScheme(parent=self)
        regions = [
            (tests.begin_test_delimeter, tests.end_test_delimeter),
            (marks.begin_mark_scheme_delimeter, marks.end_mark_scheme_delimeter),
        ]
        secret = secrets(nb, regions)
        questions = []
        for number, cell in enumerate(nb.cells):
            hides = _is_instructors(cell) and any(begin in cell.source for begin, _ in regions)
            if is_grade(cell) or is_task(cell):
                questions.append(self._question(cell, f"question-{number}", hides))
                cell.metadata["question"] = questions[-1]
            if hides:
                cell.source = "\n".join(split_regions(cell.source, regions)[1])
            if cell.cell_type == "code":
                cell.outputs = [_shown(output, hides, secret) for output in cell.outputs]
                cell.outputs = [output for output in cell.outputs if output is not None]
        names, notes = resources["nbgrader"], nb.metadata.get("grading", {}).get("notes", [])
        resources["report"] = {
            "title": names["notebook"]
            if names["notebook"] == names["assignment"]
            else f"{names['assignment']}: {names['notebook']}",
            "student": names["student"],
            "questions": questions,
            "notes": notes,
            "style": _style(),
        } | _total(names, questions)
        return nb, resources

    def _question(self, cell, anchor, hides):
        data = cell.metadata.nbgrader
        score, most = data.get("score") or 0, data.get("points") or 0
        written = is_solution(cell) or is_task(cell) or cell.cell_type == "markdown"
        said, link = "", ""
        if data.get("waiting"):
            state, verdict = "waiting", "A person still reads this."
        elif score >= most:
            state, verdict = "right", "Right."
        else:
            state, verdict = ("partly", "Partly right.") if score > 0 else ("wrong", "No points yet.")
            if not written:
                said, link = self._said(cell, hides)
        name = data["grade_id"].removesuffix("_test")
        points = f"{score:g} of {most:g}" if not (data.get("waiting") and not score) else f"- of {most:g}"
        label = ("Your answer to " if is_solution(cell) else "Task " if is_task(cell) else "Tests of ") + name
        question = {"name": name, "points": points, "state": state, "verdict": verdict, "said": said, "link": link}
        return question | {"anchor": anchor, "label": label, "comment": data.get("comment") or ""}

    def _said(self, cell, hides):
        """Why there are no points, in the check's own sentence where there is one, and a link to read on."""
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                text = _reason(output, cell.source, hides)
                found = READ_ON.search(text)
                link = self._link(found[1]) if found else ""
                reason, _, mistake = READ_ON.sub("", text).removeprefix(NO_POINTS).strip().partition("]. ")
                return (f"{mistake}\n{reason}]." if mistake else reason), link
        return "", ""

    def _link(self, target):
        """The address of a page of the course, or nothing: what the sentence names is not followed elsewhere."""
        if self.website and target.startswith(self.website):
            target = target.removeprefix(self.website).removeprefix("book/")
        return f"{self.website}book/{target}" if self.website and PAGE.fullmatch(target) else ""


def _total(names, questions):
    waiting = [question for question in questions if question["state"] == "waiting"]
    total = f"{names.get('score', 0):g} of {names.get('max_score', 0):g} points"
    if waiting:
        answers = "1 answer is" if len(waiting) == 1 else f"{len(waiting)} answers are"
        total += f" so far: {answers} still to be read by a person"
    late = names.get("late_penalty") or 0
    return {"total": total, "late": f"Handed in late: {late:g} points were taken off." if late else ""}


@functools.cache
def _template():
    return (TEMPLATES / "feedback" / "index.html.j2").read_text("utf-8")


@functools.cache
def _style():
    return HtmlFormatter(nowrap=False).get_style_defs(".highlight")


# ---- what was hidden -------------------------------------------------------------------------------------------------


def split_regions(source, regions):
    """The lines inside and outside of hidden regions; one that does not end goes on to the last line."""
    inside, outside, until = [], [], None
    for line in source.split("\n"):
        begun = next((end for begin, end in regions if begin in line), None)
        if until is None and begun:
            until = begun
        elif until and until in line:
            until = None
        else:
            (outside if until is None else inside).append(line)
    return inside, outside


def _is_instructors(cell):
    return is_locked(cell) or is_task(cell)


def secrets(notebook, regions):
    """The hidden lines of a notebook's tests, less those of a single word, which say nothing, and those also shown."""
    hidden, shown = set(), set()
    for cell in filter(_is_instructors, notebook.cells):
        inside, outside = split_regions(cell.source, regions)
        hidden |= {line.strip() for line in inside}
        shown |= {line.strip() for line in outside}
    return {line for line in hidden - shown if len(re.findall(r"\w+", line)) > 1}


def _shown(output, hides, secret):
    """An output as the student may see it, or None."""
    if output.output_type == "error":
        return _shown_error(output, hides, secret)
    if output.output_type == "stream":
        lines = [line for line in output.text.split("\n") if not _tells(line, secret)]
        output.text = "\n".join(_verdict(lines) if hides else lines)
        return output if output.text.strip() else None
    if hides:
        return None  # what a hidden test shows or gives
    for kind, text in output.data.items():
        if kind.startswith("text/"):
            output.data[kind] = "\n".join(line for line in text.split("\n") if not _tells(line, secret))
    return output


def _shown_error(output, hides, secret):
    if hides:
        output.evalue = output.evalue if output.evalue.startswith(NO_POINTS) else ""
        output.traceback = [f"{output.ename}: {output.evalue}" if output.evalue else f"{output.ename} in the tests"]
        return output
    lines = "\n".join(output.traceback).split("\n")
    output.traceback = ["\n".join(line for line in lines if not _tells(line, secret))]
    return output


def _tells(line, secret):
    line = strip_ansi(line)
    return any(text in line for text in secret)


def _verdict(lines):
    """Of what a cell with hidden tests printed, what `check` says: its verdict, and the lines set in below it."""
    kept, goes_on = [], False
    for line in lines:
        goes_on = line.startswith(VERDICT) or (goes_on and line.startswith("  "))
        kept += [line] if goes_on else []
    return kept


def _reason(error, source, hides):
    """Why a test failed, as far as the student may know."""
    if error.evalue.startswith(NO_POINTS) or not hides:
        failed = _failed_line(error)
        said = f"{error.ename}: {error.evalue}" if error.evalue else error.ename
        if error.evalue.startswith(NO_POINTS):
            return error.evalue
        return f"{failed}\n{said}" if failed else said
    return f"A test failed that is not shown ({error.ename})."


def _failed_line(error):
    """The line of the test that failed, from the traceback's arrow; empty where it can't be told."""
    arrows = re.findall(r"^-+>\s*\d+\s(.*)$", strip_ansi("\n".join(error.traceback)), re.M)
    return arrows[0].strip() if arrows else ""


# ---- in the batch ----------------------------------------------------------------------------------------------------


class Pages:
    """Writes feedback pages with one exporter and one gradebook: the templates are compiled once."""

    def __init__(self, course, writer):
        config = Config(course.config)
        config.Exporter.default_preprocessors = []
        config.HTMLExporter.template_name = "feedback"
        self.course, self.writer = course, writer
        self.exporter = HTMLExporter(config=config)
        self.grades, self.report = Grades(config=config), Report(config=config)

    def write(self, submission):
        """Write the pages of a graded submission, where its grades or comments are others than on the pages there."""
        graded = self.course.path("autograded", submission.student, submission.assignment)
        target = self.course.path("feedback", submission.student, submission.assignment)
        records = self.writer.records(submission)
        if submission.assignment not in [names["notebook"] for _, names in records]:
            (target / f"{submission.assignment}.html").unlink(missing_ok=True)  # a problem's page; there is none now
        for theirs, names in records:
            path = graded / f"{names['notebook']}.ipynb"
            if path.exists():
                page, stamp = target / f"{names['notebook']}.html", self._stamp(submission, names["notebook"])
                state = self._state(path, theirs, names)
                if page.exists() and stamp.exists() and stamp.read_text("utf-8") == state:
                    continue
                target.mkdir(parents=True, exist_ok=True)
                part = page.with_suffix(".part")
                part.write_text(self._page(path, theirs, names), "utf-8")
                part.replace(page)
                stamp.write_text(state, "utf-8")

    def write_problem(self, submission):
        """Write the page of a submission that could not be graded: why, and no more."""
        self._stamp(submission, submission.assignment).unlink(missing_ok=True)  # that page is overwritten
        target = self.course.path("feedback", submission.student, submission.assignment)
        target.mkdir(parents=True, exist_ok=True)
        report = {"title": submission.assignment, "student": submission.student, "total": submission.problem}
        report |= {"questions": [], "notes": submission.notes, "style": ""}
        html, _ = self.exporter.from_notebook_node(nbformat.v4.new_notebook(), {"report": report})
        (target / f"{submission.assignment}.html").write_text(html, "utf-8", errors="replace")

    def _page(self, path, theirs, names):
        notebook = nbformat.read(path, as_version=4)
        penalty = theirs.late_submission_penalty or 0
        scores = {"score": theirs.score - penalty, "max_score": theirs.max_score, "late_penalty": penalty}
        resources = {"nbgrader": names | scores}
        grades = self.grades
        grades.notebook_id, grades.assignment_id = names["notebook"], names["assignment"]
        grades.student_id, grades.gradebook = names["student"], self.writer.sheet(theirs, names)
        for cell in notebook.cells:
            grades.preprocess_cell(cell, resources, 0)
        notebook, resources = self.report.preprocess(notebook, resources)
        return self.exporter.from_notebook_node(notebook, resources)[0]

    def _state(self, path, theirs, names):
        """What a page is made of, as a hash: the notebook, its grades and comments."""
        sheet = self.writer.sheet(theirs, names)
        grades = [[name, g.score, g.needs_manual_grade] for name, g in sorted(sheet.grades.items())]
        comments = [[name, c.comment] for name, c in sorted(sheet.comments.items())]
        made_of = [grades, comments, theirs.late_submission_penalty, self.report.website, _template()]
        return hashlib.sha256(path.read_bytes() + json.dumps(made_of).encode()).hexdigest()

    def _stamp(self, submission, notebook):
        return self.course.state(submission.assignment, f"{submission.student}.{notebook}.page")
