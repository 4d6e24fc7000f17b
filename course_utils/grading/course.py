"""A class's folder, laid out as nbgrader has it: submitted/, autograded/, feedback/, gradebook.db."""

import os
import shutil
import sys
import warnings
from pathlib import Path

from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

from course_utils.authoring import find_labs, source_notebook
from course_utils.authoring.labs import release_config
from course_utils.authoring.notebook import to_text

SECONDS_A_CELL = 120

warnings.filterwarnings("ignore", module="nbgrader.*")  # its database layer's, of no use to an instructor


class GradingError(Exception):
    """What the instructor must put right before anything can be graded."""


def nbgrader_config(folder):
    """nbgrader's settings for the class in `folder`; also what nbgrader_config.py gives to formgrader."""
    config = release_config()
    config.CourseDirectory.root = str(Path(folder).resolve())
    config.Execute.timeout = SECONDS_A_CELL
    config.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:", "--IPKernelApp.log_level=ERROR"]
    return config


class Course:
    """The class in `folder`; its labs come from `repository` (default: the one that course_utils was installed from).

    Raises GradingError where there is no such folder or no lab.
    """

    def __init__(self, folder, repository=None):
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise GradingError(f"There is no folder {folder}.")
        repository = Path(repository or Path(__file__).parents[2])
        self.labs = {path.stem: path for path in find_labs(repository)}
        if not self.labs:
            raise GradingError(
                f"There are no labs in {repository / 'solutions'}: run this from the course's repository."
            )
        if not shutil.which("alembic"):  # nbgrader calls it by name, and it stands beside this Python
            os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self.api = NbGraderAPI(config=Config(nbgrader_config(self.folder)))

    def path(self, step, student, lab):
        """Where a notebook stands; `step`: "submitted", "autograded", or with the student "." "source" or "release"."""
        return self.folder / step / student / lab / f"{lab}.ipynb"

    def feedback(self, student, lab):
        """The page that the student gets back."""
        return self.folder / "feedback" / student / lab / f"{lab}.html"

    def stamp(self, student, lab):
        """What was graded, as a hash. Beside the graded folder: nbgrader empties that, and copies it to feedback/."""
        return self.folder / "autograded" / student / f"{lab}.sha256"

    def prepare(self, lab):
        """Write source/ and release/ of a lab, and tell the gradebook, where the lab is new or has changed."""
        source, text = self.path("source", ".", lab), to_text(source_notebook(self.labs[lab]))
        is_new = not source.exists() or source.read_text("utf-8") != text
        if not is_new and self.path("release", ".", lab).exists() and self._is_in_gradebook(lab):
            return
        if is_new:
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(text, "utf-8", newline="\n")
        result = self.api.generate_assignment(lab)
        if not result["success"]:
            source.unlink()  # so that the next run tries again
            raise GradingError(f"{lab} could not be released: {last_words(result)}")

    def _is_in_gradebook(self, lab):
        with self.api.gradebook as gradebook:
            return lab in [assignment.name for assignment in gradebook.assignments]


def last_words(result):
    """The sentence that says most in what nbgrader's API gave back."""
    lines = [line.strip() for line in (result.get("log") or result.get("error", "")).splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and not line.startswith(("[", "File"))]
    return (errors or lines or ["nbgrader gave no reason"])[-1]
