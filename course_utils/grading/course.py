"""A class's folder, laid out as nbgrader has it: source/, submitted/, autograded/, feedback/, gradebook.db."""

import functools
import glob
import hashlib
import json
import os
import re
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path

import nbformat
from traitlets.config import Config, PyFileConfigLoader

from .execute import Limits
from .reading import fingerprint

REPOSITORY = Path(__file__).parents[2]
TEMPLATES = Path(__file__).parent / "templates"
QUESTIONS = (
    ". Questions can't be added or removed once somebody is graded: "
    "give the new version another name, or take the old source back."
)

warnings.filterwarnings("ignore", module="nbgrader.*")  # its database layer's, of no use to an instructor


class GradingError(Exception):
    """What the instructor must put right before anything can be graded."""


def nbgrader_config(folder):
    """nbgrader's settings for the class in `folder`: ours, then those of its own nbgrader_config.py.

    formgrader gets them too (nbgrader_config.py): its buttons then execute in the sandbox and leak no hidden test.
    """
    import nbgrader

    from course_utils.authoring.address import Address
    from course_utils.authoring.labs import release_config

    folder = Path(folder).resolve()
    config = release_config()
    config.Execute.timeout = Limits.cell_seconds
    config.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:", "--IPKernelApp.log_level=ERROR"]
    stock = [f"nbgrader.preprocessors.{name}" for name in ("IgnorePattern", "LimitOutput", "SaveAutoGrades")]
    stock += [f"nbgrader.preprocessors.{name}" for name in ("AssignLatePenalties", "CheckCellMetadata")]
    config.Autograde.autograde_preprocessors = ["course_utils.grading.stock.SafeExecute", *stock]
    config.GenerateFeedback.preprocessors = [f"course_utils.grading.feedback.{name}" for name in ("Grades", "Report")]
    config.Report.website = Address.read(REPOSITORY).website if (REPOSITORY / "_config.yml").exists() else ""
    safe = {"markdown2html": "safe_markdown", "clean_html": "safe_html"}
    config.HTMLExporter.filters = {name: f"course_utils.grading.sanitising.{ours}" for name, ours in safe.items()}
    config.HTMLExporter.sanitize_html = True
    formgrader = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader" / "templates"
    config.HTMLExporter.extra_template_basedirs = [str(TEMPLATES), str(formgrader)]
    own = folder / "nbgrader_config.py"
    if own.exists() and own.resolve() != (REPOSITORY / own.name).resolve():
        try:
            config.merge(PyFileConfigLoader(own.name, path=str(folder)).load_config())
        except Exception as error:
            raise GradingError(f"{own} can't be read: {type(error).__name__}: {error}") from error
    config.CourseDirectory.root = str(folder)
    directory = config.CourseDirectory
    if not directory.get("course_id") and not str(directory.get("db_url") or "sqlite").startswith("sqlite"):
        directory.course_id = "default_course"  # nbgrader's empty one breaks the rules of a strict database
    return config


def limits_of(config):
    """What a submission may use: nbgrader's c.Execute.timeout, and what is set as c.Limits.memory = 4 * 2**30."""
    own = {f.name: config.Limits[f.name] for f in fields(Limits) if f.name in config.Limits}
    return Limits(**{"cell_seconds": config.Execute.get("timeout") or Limits.cell_seconds} | own)


@dataclass
class Task:
    """An assignment as workers need it: by notebook the skeleton, the instructor's notebook, and the other files."""

    assignment: str
    skeletons: dict = field(default_factory=dict)  # name -> text of a notebook: what was released, with the whole tests
    sources: dict = field(default_factory=dict)  # name -> text of the instructor's notebook
    files: dict = field(default_factory=dict)  # path -> bytes, which take the place of what students hand in


class Course:
    """The class in `folder`; labs come from `repository` (default: the one that course_utils was installed from).

    Raises GradingError where there is no such folder. nbgrader is not imported before it is needed.
    """

    def __init__(self, folder, repository=None):
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise GradingError(f"There is no folder {folder}.")
        self.repository = Path(repository or REPOSITORY)

    @functools.cached_property
    def config(self):
        """nbgrader's settings for this class."""
        return Config(nbgrader_config(self.folder))

    @functools.cached_property
    def api(self):
        import nbgrader.api
        from nbgrader.apps import NbGraderAPI

        nbgrader.api.get_alembic_version = _gradebook_version
        return NbGraderAPI(config=self.config)

    @functools.cached_property
    def labs(self):
        """The course's own labs, {"03_ddpm_2d": path of its source}."""
        from course_utils.authoring import find_labs

        return {path.stem: path for path in find_labs(self.repository)}

    @property
    def assignments(self):
        """The names of what can be graded: the folders in source/, and the course's labs.

        Raises GradingError where there are none.
        """
        own = [path.name for path in self.path("source").glob("*/") if any(path.glob("*.ipynb"))]
        if not own and not self.labs:
            raise GradingError(
                f"There are no labs in {self.repository / 'solutions'} and no assignments in {self.path('source')}: "
                "run this from the course's repository, or put an assignment there."
            )
        return sorted({*own, *self.labs})

    # ---- where things are -------------------------------------------------------------------------------------------

    def path(self, step, student="", assignment=""):
        """A folder of nbgrader's: path("submitted", "ada", "lab"); for "source" and "release" the student is "."."""
        directory = self._directory()
        name = getattr(directory, f"{step}_directory")
        if not assignment:
            return self.folder / name
        return Path(directory.format_path(name, student, assignment))

    @functools.cache  # noqa: B019  (as long-lived as the course)
    def _directory(self):
        from nbgrader.coursedir import CourseDirectory

        return CourseDirectory(config=self.config)

    def handed_in(self):
        """Every (student, assignment, folder) below submitted/, in order."""
        directory = self._directory()
        step, sep = directory.submitted_directory, re.escape(os.sep)
        pattern = directory.format_path(step, "(?P<student>[^/]+)", "(?P<assignment>[^/]+)", escape=True)
        pattern = re.compile(pattern.replace("[^/]", f"[^{sep}]"), re.S)
        wild = glob.escape(str(self.folder)) + directory.format_path(step, "*", "*")[len(str(self.folder)) :]
        for path in sorted(glob.glob(wild, include_hidden=True)):
            match = pattern.fullmatch(path)
            names = match.groups() if match else (".ipynb_checkpoints",)
            if os.path.isdir(path) and not any(n.startswith((".ipynb_checkpoints", "._", ".git")) for n in names):
                yield match["student"], match["assignment"], Path(path)

    def state(self, assignment, name):
        """A small file of ours, below .grading/: what was graded and released, so that nothing is done twice."""
        path = self.folder / ".grading" / assignment / _short(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, name):
        """A file of logs/, for the instructor."""
        path = self.folder / "logs" / f"{_short(name)}.log"
        path.parent.mkdir(exist_ok=True)
        return path

    # ---- the assignment ---------------------------------------------------------------------------------------------

    def prepare(self, assignment):
        """Bring release/ and the gradebook up to date with source/ (a lab's own is written first)."""
        if assignment in self.labs:
            self._write_lab(assignment)
        state, stamp = self._source_hash(assignment), self.state(assignment, "released")
        if stamp.exists() and stamp.read_text("utf-8") == state and self._is_released(assignment):
            return
        if not (self._is_released(assignment) and self._agrees(assignment)):
            print(f"Releasing {assignment}: its tests go into the gradebook.", flush=True)
            result = self.api.generate_assignment(assignment)
            if "KeyboardInterrupt" in result.get("error", ""):  # nbgrader's API takes it for a failure
                raise KeyboardInterrupt
            if not result["success"]:
                said = last_words(result)
                advice = QUESTIONS if "add or remove cells" in said else ""
                raise GradingError(f"{assignment} could not be released: {said}{advice}")
        stamp.write_text(state, "utf-8")

    def _write_lab(self, lab):
        """Write source/ of a lab where there is none, or one that we wrote and that is out of date."""
        from course_utils.authoring import source_notebook
        from course_utils.authoring.notebook import to_text

        path, stamp = self.path("source", ".", lab) / f"{lab}.ipynb", self.state(lab, "made")
        text = to_text(source_notebook(self.labs[lab]))
        made = stamp.read_text("utf-8").split() if stamp.exists() else []
        present = _hash(path.read_bytes()) if path.exists() else None
        if present is not None and present not in made:
            return  # the instructor's own
        if present != _hash(text.encode()):
            path.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text("\n".join([*made, _hash(text.encode())]), "utf-8")
            path.write_text(text, "utf-8", newline="\n")

    def _source_hash(self, assignment):
        folder = self.path("source", ".", assignment)
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and ".ipynb_checkpoints" not in p.parts]
        return _hash(b"".join(f"{p.relative_to(folder)} {_hash(p.read_bytes())}\n".encode() for p in files))

    def _names(self, assignment):
        """The names of an assignment's notebooks."""
        return sorted(path.stem for path in self.path("source", ".", assignment).glob("*.ipynb"))

    def _is_released(self, assignment):
        """Are all its notebooks in release/ and in the gradebook?"""
        release, names = self.path("release", ".", assignment), self._names(assignment)
        if not names or not all((release / f"{name}.ipynb").exists() for name in names):
            return False
        with self.api.gradebook as gradebook:
            known = {a.name: {notebook.name for notebook in a.notebooks} for a in gradebook.assignments}
        return known.get(assignment) == set(names)

    def _agrees(self, assignment):
        """Does the gradebook, filled by an earlier `nbgrader generate_assignment`, hold the tests as they stand?"""
        with self.api.gradebook as gradebook:
            for name in self._names(assignment):
                known = {c.name: c.source for c in gradebook.find_notebook(name, assignment).source_cells}
                cells = _read(self.path("source", ".", assignment) / f"{name}.ipynb").cells
                marked = [(cell.metadata.get("nbgrader", {}), cell.source) for cell in cells]
                theirs = {data["grade_id"]: (data, text) for data, text in marked if data.get("grade_id")}
                made_anew = any("AUTOTEST" in text for _, text in theirs.values())  # the gradebook has what it became
                for grade_id, (data, text) in theirs.items():
                    fixed = data.get("grade") and not data.get("solution") and not made_anew
                    if known.get(grade_id) is None or (fixed and known[grade_id] != text):
                        return False
        return True

    def task(self, assignment):
        """The assignment as workers need it; prepare() it first."""
        task, folder = Task(assignment), self.path("source", ".", assignment)
        with self.api.gradebook as gradebook:
            for name in self._names(assignment):
                known = {cell.name: cell for cell in gradebook.find_notebook(name, assignment).source_cells}
                notebook = _read(self.path("release", ".", assignment) / f"{name}.ipynb")
                for cell in notebook.cells:
                    _complete(cell, known.get(cell.metadata.get("nbgrader", {}).get("grade_id")))
                task.skeletons[name] = json.dumps(notebook)
                task.sources[name] = (folder / f"{name}.ipynb").read_text("utf-8")
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".ipynb" and not {".ipynb_checkpoints", "__pycache__"} & {*path.parts}:
                task.files[path.relative_to(folder).as_posix()] = path.read_bytes()
        return task

    # ---- what is graded already -------------------------------------------------------------------------------------

    def fingerprint(self, submission):
        """What a grade follows from, as a hash: the files handed in and the assignment.

        By content, not date: a file that is copied or unpacked often keeps a date older than its grade.
        """
        return f"{self._source_hash(submission.assignment)} {fingerprint(submission.folder)}"

    def stamp(self, submission):
        """The file that says what was graded last; written when all else is done."""
        return self.state(submission.assignment, f"{submission.student}.graded")

    def is_stale(self, submission):
        """Is there no grade yet, or one of another submission or another state of the assignment?"""
        stamp = self.stamp(submission)
        graded = self.path("autograded", submission.student, submission.assignment)
        return not (graded.exists() and stamp.exists()) or stamp.read_text("utf-8") != submission.state


def _gradebook_version():
    """The version of nbgrader's tables, for a new gradebook; nbgrader has a program tell it, in five seconds."""
    import nbgrader
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(nbgrader.__file__).parent / "alembic")).get_current_head()


def _complete(cell, known):
    """Give a released cell what the gradebook has of it: the whole test; the checksum, which tells a blank answer."""
    if known is None or cell.metadata.nbgrader.get("task"):  # a task's mark scheme is for graders only
        return
    cell.metadata.nbgrader["checksum"] = known.checksum
    if known.locked:
        cell.metadata["released"] = cell.source
        cell.source = known.source


def _short(name):
    """A name that every file system takes."""
    plain = name.isprintable() and len(os.fsencode(name)) < 200  # a name that is no text is not printable, either
    return name if plain else f"{re.sub('[^ -~]', '_', name[:40])}-{_hash(os.fsencode(name))[:16]}"


def _read(path):
    return nbformat.read(path, as_version=4)


def _hash(content):
    return hashlib.sha256(content).hexdigest()


def last_words(result):
    """The sentence that says most in what nbgrader's API gave back."""
    lines = [line.strip() for line in (result.get("log") or result.get("error", "")).splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and not line.startswith(("[", "File"))]
    return (errors or lines or ["nbgrader gave no reason"])[-1]
