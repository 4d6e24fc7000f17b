"""The one process that writes the gradebook, by nbgrader's own rules, and the folder autograded/."""

import contextlib
import copy
import functools
import json
import math
import os
import shutil
import time

import nbformat
from nbconvert.exporters import NotebookExporter
from nbgrader.api import Assignment, BaseCell, Gradebook, MissingEntry, Notebook
from nbgrader.preprocessors import AssignLatePenalties, Execute, SaveAutoGrades
from nbgrader.utils import is_grade, is_solution, parse_utc
from sqlalchemy.exc import OperationalError
from traitlets.utils.importstring import import_item

from .reading import pack
from .stock import SafeExecute

OURS = (Execute, SafeExecute, SaveAutoGrades, AssignLatePenalties)  # done by workers, or below
STEPS_OF_WAITING = (1, 2, 5, 10)  # seconds


class Scores(SaveAutoGrades):
    """nbgrader's rules for scores, manual grades and comments, on a Sheet: one commit a submission."""

    def save(self, notebook, sheet, names):
        self.notebook_id, self.assignment_id, self.student_id = names["notebook"], names["assignment"], names["student"]
        self.gradebook = sheet
        for cell in notebook.cells:
            self.preprocess_cell(_to_score(cell), {}, 0)


class Sheet:
    """The grades and comments of one submitted notebook by grade_id, in the place of a gradebook."""

    def __init__(self, notebook, names):
        self.grades = {names[grade.cell_id]: grade for grade in notebook.grades}
        self.comments = {names[comment.cell_id]: comment for comment in notebook.comments}
        self.db = self

    def find_grade(self, name, *_):
        return self.grades[name]

    def find_comment(self, name, *_):
        return self.comments[name]

    def commit(self):
        """Nothing yet: the whole submission at once."""


class Writer:
    """Writes what workers bring; a context manager. `tasks` by assignment; `say` tells why it has to wait."""

    def __init__(self, course, tasks, say=print):
        self.course, self.tasks, self.say = course, tasks, say
        self.scores = Scores(config=course.config)

    def __enter__(self):
        directory = self.course.api.coursedir
        self.gradebook = Gradebook(directory.db_url, self.course.api.course_id)
        return self

    def __exit__(self, *_):
        self.gradebook.close()

    def record(self, submission, outcome):
        """Write an Outcome: grades, autograded/. The stamp is the caller's to write, when feedback is there too."""
        notebooks = {name: nbformat.reads(text, as_version=4) for name, text in outcome.notebooks.items()}
        for name, notebook in notebooks.items():
            notebooks[name] = self._configured(notebook, self._names(submission, name))
        self.patiently(self._grades, submission, notebooks)
        self._files(submission, notebooks)

    def patiently(self, write, *arguments):
        """Call what uses the gradebook; where somebody holds its lock, wait and do it again."""
        attempt = 0
        while True:
            try:
                return write(*arguments)
            except OperationalError as error:
                self.gradebook.db.rollback()
                if "locked" not in str(error):
                    raise
                if attempt == 0:
                    self.say("The gradebook is locked by another program: waiting for it.")
                time.sleep(STEPS_OF_WAITING[min(attempt, len(STEPS_OF_WAITING) - 1)])
                attempt += 1

    def records(self, submission):
        """What the gradebook holds of a submission now: [(nbgrader's SubmittedNotebook, its names)]."""
        self.gradebook.db.expire_all()  # a person may have graded meanwhile
        with contextlib.suppress(MissingEntry):
            record = self.gradebook.find_submission(submission.assignment, submission.student)
            found = [(theirs, self._notebook_name(theirs.notebook_id)) for theirs in record.notebooks]
            return [(theirs, self._names(submission, name)) for theirs, name in found]
        return []

    def sheet(self, theirs, names):
        return Sheet(theirs, self._cell_names(names["assignment"]))

    def _names(self, submission, notebook):
        names = {"student": submission.student, "assignment": submission.assignment, "notebook": notebook}
        return names | {"db_url": self.course.api.coursedir.db_url}

    def _configured(self, notebook, names):
        """The notebook after the other preprocessors that are set, nbgrader's limits on outputs among them."""
        for step in self._steps:
            notebook, _ = step(notebook, {"nbgrader": names, "unique_key": names["notebook"]})
        return notebook

    @functools.cached_property
    def _steps(self):
        kinds = [import_item(kind) for kind in self.course.config.Autograde.autograde_preprocessors if kind]
        return [kind(parent=None, config=self.course.config) for kind in kinds if not issubclass(kind, OURS)]

    def _grades(self, submission, notebooks):
        """One transaction a submission: student, time, scores; then nbgrader's rule for what is late."""
        student, assignment = submission.student, submission.assignment
        self.gradebook.update_or_create_student(student)
        when = self._timestamp(submission)  # None where it is not known, also where that of an earlier attempt was
        record = self.gradebook.update_or_create_submission(assignment, student, timestamp=when)
        for theirs in record.notebooks:
            name = self._notebook_name(theirs.notebook_id)
            sheet = self.sheet(theirs, {"assignment": assignment})
            if name in notebooks:
                self.scores.save(notebooks[name], sheet, self._names(submission, name))
            else:  # as nbgrader: what is not handed in has no points
                for grade in sheet.grades.values():
                    grade.auto_score, grade.needs_manual_grade = 0, False
        self.gradebook.db.commit()
        if record.duedate or any(theirs.late_submission_penalty for theirs in record.notebooks):
            late = AssignLatePenalties(config=self.course.config)
            for name, notebook in notebooks.items():
                late.preprocess(notebook, {"nbgrader": self._names(submission, name)})
            self.gradebook.db.expire_all()

    def _timestamp(self, submission):
        """When it was handed in, from timestamp.txt; one that makes no sense is said and left out."""
        path = submission.folder / "timestamp.txt"
        if path.is_symlink() or not path.is_file():
            return None
        try:
            text = path.read_text("utf-8", "replace")[:200].strip()
            return parse_utc(text) if text else None
        except (ValueError, OverflowError, OSError):
            submission.notes.append("timestamp.txt holds no date, so it is not known when this was handed in.")
            return None

    @functools.cache  # noqa: B019  (as long-lived as the batch)
    def _cell_names(self, assignment):
        """The grade_id of each cell that the gradebook knows, by the gradebook's own id."""
        cells = self.gradebook.db.query(BaseCell.id, BaseCell.name).join(Notebook, Notebook.id == BaseCell.notebook_id)
        return dict(cells.join(Assignment).filter(Assignment.name == assignment).all())

    @functools.cache  # noqa: B019
    def _notebook_name(self, key):
        return self.gradebook.db.query(Notebook.name).filter(Notebook.id == key).scalar()

    def _files(self, submission, notebooks):
        """autograded/: whole or not at all, and not to be edited by mistake, as nbgrader has it."""
        target = self.course.path("autograded", submission.student, submission.assignment)
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        files = pack(submission.folder, notebooks=False).files
        for name, content in (files | self.tasks[submission.assignment].files).items():
            with contextlib.suppress(OSError):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).write_bytes(content)
        exporter = NotebookExporter()
        for name, notebook in notebooks.items():
            (part / f"{name}.ipynb").write_text(exporter.from_notebook_node(notebook)[0], "utf-8")
        for path in part.rglob("*"):
            if path.is_file():
                os.chmod(path, 0o664 if self.course.api.coursedir.groupshared else 0o444)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)


def _to_score(cell):
    """A cell as nbgrader's determine_grade should see it.

    That takes any text on stderr, a warning say, for a failure; a result of NaN or less than nothing for full marks;
    and fails at one above the points.
    """
    if not (is_grade(cell) and cell.cell_type == "code") or is_solution(cell):
        return cell
    cell = copy.deepcopy(cell)
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    failed = any(output.output_type == "error" for output in cell.outputs)
    if failed:
        cell.outputs = [output for output in cell.outputs if output.output_type == "error"]
    for output in cell.outputs:
        if output.output_type == "execute_result":
            output.data["text/plain"] = _points(output.data.get("text/plain", ""), cell.metadata.nbgrader["points"])
    return cell


def _points(text, most):
    """A result as points between 0 and `most`; what is no number stays, and counts as nbgrader has it."""
    text = "".join(text) if isinstance(text, list) else text
    try:
        value = float(text)
    except ValueError:
        return text or "None"
    return json.dumps(min(max(value, 0.0), float(most)) if math.isfinite(value) else 0.0)
